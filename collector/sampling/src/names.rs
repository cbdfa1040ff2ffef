//! Small numbers for names. Bounded: what comes when it is full shares number 0.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

#[derive(Debug)]
pub(crate) struct Names {
    numbers: HashMap<Arc<[u8]>, u32, RandomState>,
    names: Vec<Arc<[u8]>>,
    max: usize,
    /// Most spans come from the service of the one before.
    last: u32,
}

impl Names {
    /// Number 0 is the empty name.
    pub fn new(max: usize) -> Names {
        let none: Arc<[u8]> = Arc::from(&b""[..]);
        Names {
            numbers: HashMap::from_iter([(none.clone(), 0)]),
            names: vec![none],
            max,
            last: 0,
        }
    }

    /// The number of a name, and whether it is new.
    #[inline]
    pub fn number(&mut self, name: &[u8]) -> (u32, bool) {
        if *self.names[self.last as usize] == *name {
            return (self.last, false);
        }
        if let Some(number) = self.numbers.get(name) {
            self.last = *number;
            return (*number, false);
        }
        if self.names.len() >= self.max {
            return (0, false);
        }
        let (number, name) = (self.names.len() as u32, Arc::from(name));
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        (number, true)
    }

    pub fn name(&self, number: u32) -> &[u8] {
        &self.names[number as usize]
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }
}
