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
    pub remembered: HashMap<TraceId, Remembered, ahash::RandomState>,
    /// Every remembered trace once, oldest first, with the `touched_ns` it had when queued.
    pub order: VecDeque<(TraceId, u64)>,
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
            remembered: HashMap::default(),
            order: VecDeque::new(),
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

    /// Remembers a decision; a later one of the same trace takes its place.
    pub fn remember(&mut self, trace: TraceId, entry: Remembered) {
        if self.remembered.insert(trace, entry).is_none() {
            self.order.push_back((trace, entry.touched_ns));
        }
    }

    /// Forgets the oldest decisions beyond the bounds. A trace touched since it was queued goes to the back once more.
    ///
    /// A decision whose `through` is not below `low` stays whatever the bounds say: a replay would meet spans that it has already settled, and
    /// could not know. That is at most one trace timeout's worth.
    pub fn forget(&mut self, now_ns: u64, bounds: Bounds) {
        while let Some((trace, queued_ns)) = self.order.front().copied() {
            let entry = self.remembered[&trace];
            let crowded = self.order.len() > bounds.count_max;
            let outside = now_ns.saturating_sub(entry.touched_ns) > bounds.age_max_ns;
            let queued_outside = now_ns.saturating_sub(queued_ns) > bounds.age_max_ns;
            if !(crowded || queued_outside) {
                return;
            }
            if entry.touched_ns > queued_ns && !outside {
                self.order.pop_front();
                self.order.push_back((trace, entry.touched_ns));
                continue;
            }
            if entry.through >= self.low {
                return;
            }
            self.order.pop_front();
            self.remembered.remove(&trace);
            self.forgotten_ns = self.forgotten_ns.max(entry.touched_ns);
            self.forgotten += 1;
        }
    }
}
