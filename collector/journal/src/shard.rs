//! One shard: its watermarks, its undecided traces, the open batch's decisions and the remembered ones.

use std::collections::{HashMap, VecDeque};

use tailwater_model::ids::{Lsn, TraceId};

use crate::pending::Pending;

/// A decision as the road uses it: `policy` is an id of [`crate::Journal::policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// T, 56 bits: a span is stored iff R >= T.
    pub threshold: u64,
    /// Why, and under which version of the policies.
    pub policy: PolicyId,
}

/// Names a [`crate::settlement::Policy`] inside one journal; not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyId(pub(crate) u32);

/// A settled decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub trace: TraceId,
    pub decision: Decision,
    /// Every span of the trace at or below has its row in a batch, or was sampled out by it.
    pub through: Lsn,
    /// Arrival clock of the batch that touched it last.
    pub touched_ns: u64,
}

/// How many decisions a shard remembers, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub count_max: usize,
    pub age_max_ns: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct ShardState {
    /// A of the last settled batch.
    pub complete: Lsn,
    /// low of the last settled batch.
    pub low: Lsn,
    /// How far the rows have been walked since start; below `complete` while a replay catches up.
    pub position: Lsn,
    pub pending: Pending,
    /// Decisions of the open batch. Apart from `remembered`, so that a checkpoint never holds a decision that no batch has.
    pub touched: HashMap<TraceId, Decision, ahash::RandomState>,
    /// Their traces in the order of the first touch, so that equal histories give equal bytes.
    pub touched_order: Vec<TraceId>,
    /// Where each remembered trace stands in `order`.
    index: HashMap<TraceId, u64, ahash::RandomState>,
    /// Settled decisions, oldest first, with the `touched_ns` each had when queued; `base` is the index of the front. In a row, for a
    /// checkpoint walks them all.
    order: VecDeque<(Remembered, u64)>,
    base: u64,
    /// Arrival clock of the youngest decision ever forgotten; 0 before the first.
    pub forgotten_ns: u64,
    pub forgotten: u64,
}

impl ShardState {
    pub fn new() -> ShardState {
        ShardState {
            complete: Lsn(0),
            low: Lsn(1),
            position: Lsn(0),
            pending: Pending::default(),
            touched: HashMap::default(),
            touched_order: Vec::new(),
            index: HashMap::default(),
            order: VecDeque::new(),
            base: 0,
            forgotten_ns: 0,
            forgotten: 0,
        }
    }

    /// The first LSN that a batch cut now would still need.
    pub fn low_now(&self) -> Lsn {
        self.pending.first().unwrap_or(Lsn(self.position.0 + 1))
    }

    /// Enters a decision into the open batch.
    pub fn touch(&mut self, trace: TraceId, decision: Decision) {
        if self.touched.insert(trace, decision).is_none() {
            self.touched_order.push(trace);
        }
    }

    /// The settled decision of a trace.
    pub fn remembered(&self, trace: &TraceId) -> Option<&Remembered> {
        let index = self.index.get(trace)?;
        Some(&self.order[(index - self.base) as usize].0)
    }

    /// Settled decisions, oldest first.
    pub fn all_remembered(&self) -> impl ExactSizeIterator<Item = &Remembered> {
        self.order.iter().map(|(entry, _)| entry)
    }

    /// Makes room for `count` decisions at once.
    pub fn reserve(&mut self, count: usize) {
        self.index.reserve(count);
        self.order.reserve(count);
    }

    /// Remembers a decision; a later one of the same trace takes its place.
    pub fn remember(&mut self, entry: Remembered) {
        match self.index.get(&entry.trace) {
            Some(index) => self.order[(index - self.base) as usize].0 = entry,
            None => self.queue(entry),
        }
    }

    /// Forgets the oldest decisions beyond the bounds. A trace touched since it was queued goes to the back once more.
    ///
    /// A decision whose `through` is not below `low` stays whatever the bounds say: a replay would meet spans that it has already
    /// settled, and could not know. That is at most one trace timeout's worth.
    pub fn forget(&mut self, now_ns: u64, bounds: Bounds) {
        while let Some((entry, queued_ns)) = self.order.front().copied() {
            let age_ns = |since_ns: u64| now_ns.saturating_sub(since_ns);
            let crowded = self.order.len() > bounds.count_max;
            if !crowded && age_ns(queued_ns) <= bounds.age_max_ns {
                return;
            }
            let again = entry.touched_ns > queued_ns && age_ns(entry.touched_ns) <= bounds.age_max_ns;
            if !again && entry.through >= self.low {
                return;
            }
            self.order.pop_front();
            self.base += 1;
            if again {
                self.queue(entry);
            } else {
                self.index.remove(&entry.trace);
                self.forgotten_ns = self.forgotten_ns.max(entry.touched_ns);
                self.forgotten += 1;
            }
        }
    }

    fn queue(&mut self, entry: Remembered) {
        self.index.insert(entry.trace, self.base + self.order.len() as u64);
        self.order.push_back((entry, entry.touched_ns));
    }
}
