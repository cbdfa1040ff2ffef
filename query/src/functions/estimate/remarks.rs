//! What a reader must know of the estimates of a query as a whole, beside what each of them says.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The remarks of one query. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remarks(Arc<Mutex<BTreeMap<&'static str, Counts>>>);

/// Of one function.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// Estimates made.
    pub answers: u64,
    /// Of them those that rest on too little.
    pub few: u64,
    /// Rows left out because they have no weight.
    pub unweighted: u64,
}

impl Remarks {
    pub(super) fn add(&self, function: &'static str, counts: Counts) {
        let mut all = self.0.lock();
        let sum = all.entry(function).or_default();
        sum.answers += counts.answers;
        sum.few += counts.few;
        sum.unweighted += counts.unweighted;
    }

    /// In words, ASCII alone: they travel in a header.
    pub(crate) fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        for (function, counts) in self.0.lock().iter() {
            match (counts.few, counts.answers) {
                (0, _) => {}
                (_, 1) => texts.push(format!("{function}: the estimate rests on an effective n under 30")),
                (few, answers) => {
                    texts.push(format!(
                        "{function}: {few} of {answers} estimates rest on an effective n under 30"
                    ));
                }
            }
            match counts.unweighted {
                0 => {}
                1 => texts.push(format!("{function}: 1 row without a weight is left out")),
                rows => texts.push(format!("{function}: {rows} rows without a weight are left out")),
            }
        }
        texts
    }
}
