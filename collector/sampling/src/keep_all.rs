//! No sampling: everything is kept at once, with weight 1. Nothing waits, and no span is looked at.

use crate::threshold::Threshold;
use crate::verdict::Trigger;

/// Keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAll {
    /// Version of the policies, for column `policy_epoch`.
    pub epoch: u64,
}

/// A verdict that holds for every trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unconditional {
    /// T.
    pub threshold: Threshold,
    /// Name of the stratum, for column `sample_reason`.
    pub reason: &'static str,
    /// What made the trace due.
    pub trigger: Trigger,
    /// Version of the policies.
    pub epoch: u64,
}

impl KeepAll {
    /// What it says of every trace: T = 0, reason `all`.
    pub fn unconditional(self) -> Unconditional {
        Unconditional {
            threshold: Threshold::ALWAYS,
            reason: "all",
            trigger: Trigger::Arrival,
            epoch: self.epoch,
        }
    }
}

impl Unconditional {
    /// How many spans a kept one stands for.
    pub fn weight(&self) -> f64 {
        self.threshold.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_kept_at_once_with_weight_one() {
        let verdict = KeepAll { epoch: 4 }.unconditional();
        assert_eq!((verdict.weight(), verdict.reason, verdict.epoch), (1.0, "all", 4));
        assert_eq!(verdict.threshold, Threshold::ALWAYS);
    }
}
