//! The oldest undecided trace of a shard, in constant time and 16 bytes a trace.
//!
//! Traces open in LSN order and close in any order, so a queue of slots does: the front is popped while closed. A slow trace
//! holds the slots behind it, at most one trace timeout's worth.

use std::collections::VecDeque;

use tailwater_model::ids::Lsn;

/// Names an undecided trace of a shard, from its first span to its decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a slot that is never closed holds the intake log for ever"]
pub struct Slot(u64);

#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    slots: VecDeque<Option<Lsn>>,
    base: u64,
    open: usize,
}

impl Pending {
    /// A trace whose first undecided span lies at `first`.
    pub fn open(&mut self, first: Lsn) -> Slot {
        self.slots.push_back(Some(first));
        self.open += 1;
        Slot(self.base + self.slots.len() as u64 - 1)
    }

    /// The trace of `slot` is decided.
    pub fn close(&mut self, slot: Slot) {
        let index = slot
            .0
            .checked_sub(self.base)
            .and_then(|index| self.slots.get_mut(index as usize));
        let lsn = index.and_then(Option::take);
        assert!(lsn.is_some(), "a trace is decided once: {slot:?}");
        self.open -= 1;
        while self.slots.front().is_some_and(Option::is_none) {
            self.slots.pop_front();
            self.base += 1;
        }
    }

    /// First LSN of the oldest undecided trace.
    pub fn first(&self) -> Option<Lsn> {
        self.slots.front().copied().flatten()
    }

    /// How many traces are undecided.
    pub fn len(&self) -> usize {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_follows_the_oldest_open_trace() {
        let mut pending = Pending::default();
        let slots: Vec<_> = [3, 5, 5, 9].map(|lsn| pending.open(Lsn(lsn))).into();
        pending.close(slots[1]);
        assert_eq!((pending.first(), pending.len()), (Some(Lsn(3)), 3));
        pending.close(slots[0]);
        assert_eq!(pending.first(), Some(Lsn(5)));
        pending.close(slots[2]);
        assert_eq!(pending.first(), Some(Lsn(9)));
        let again = pending.open(Lsn(12));
        pending.close(slots[3]);
        assert_eq!(pending.first(), Some(Lsn(12)));
        pending.close(again);
        assert_eq!((pending.first(), pending.len()), (None, 0));
    }

    #[test]
    #[should_panic(expected = "decided once")]
    fn a_slot_closes_once() {
        let mut pending = Pending::default();
        let _older = pending.open(Lsn(1));
        let slot = pending.open(Lsn(2));
        pending.close(slot);
        pending.close(slot);
    }
}
