//! What becomes, or became, of one trace, for whoever asks: also of one that has no rows.

use std::sync::Arc;

use tailwater_journal::Journal;
use tailwater_model::ids::{Shard, TraceId};
use tailwater_sampling::{Decision, Late, Own};

use super::{LATE, Tail, decision_of};

/// What is known of a tenant's trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Its spans wait for the decision.
    Waits,
    /// It was decided.
    Decided {
        /// Stratum, T, epoch.
        decision: Decision,
        /// Whether its spans are stored.
        is_kept: bool,
        /// When the batch with the decision was cut, or with its last late span: unix ns of the arrival clock. `None`: not yet, or it is forgotten.
        settled_ns: Option<u64>,
    },
    /// It was not kept; by which stratum and T is forgotten.
    Dropped,
}

impl Tail {
    /// What is known of a tenant's trace; `None`: nothing, or no more.
    pub fn fate(&mut self, tenant: &Arc<str>, trace: TraceId, journal: &Journal) -> Option<Fate> {
        let number = self.tenant(tenant);
        if self.sampler.waits(number, trace) {
            return Some(Fate::Waits);
        }
        let own = Own::of(&self.log_id.0, tenant.as_bytes()).trace(trace);
        let shard = Shard::of_trace(self.log_id, own).0;
        let of = |decision: Decision, settled_ns| match decision.is_dropped && *decision.reason == *LATE {
            true => Fate::Dropped,
            false => Fate::Decided {
                is_kept: decision.keeps(trace),
                decision,
                settled_ns,
            },
        };
        if let Some(settled) = journal.decision(shard, &own) {
            return Some(of(decision_of(settled, journal), journal.settled_ns(shard, &own)));
        }
        Some(match self.sampler.recall(number, trace)? {
            Late::Kept(decision) => of(decision, None),
            Late::Dropped => Fate::Dropped,
        })
    }
}
