//! Small numbers for names. Bounded: what comes when it is full, and names that are too long, share number 0.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

/// Longest name with a number of its own, bytes. They stay as long as the process and go into checkpoints.
const NAME_BYTES_MAX: usize = 256;

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
        if name.len() > NAME_BYTES_MAX {
            return (0, false);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_place_shares_number_0() {
        let mut names = Names::new(3);
        let (longest, long) = ("n".repeat(NAME_BYTES_MAX), "n".repeat(NAME_BYTES_MAX + 1));
        for (name, expected) in [
            ("", (0, false)),
            (&long, (0, false)),
            (&longest, (1, true)),
            ("b", (2, true)),
            (&longest, (1, false)),
            ("c", (0, false)),
            ("b", (2, false)),
        ] {
            assert_eq!(names.number(name.as_bytes()), expected, "{name}");
        }
        assert_eq!(names.len(), 3);
    }
}
