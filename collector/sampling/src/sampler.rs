//! The sampler: spans go in, verdicts come out.
//!
//! ```text
//!   offer(now, span, at) --Decided(verdict)--> follow it at once: the sampler keeps nothing
//!                        --Held------------->  it keeps `at`; the verdict comes out of a later tick, with every span held
//!   tick(now, due)       --------------------> verdicts that time has made due
//! ```
//!
//! Guarantees: a verdict is a threshold, never a bare keep or drop: a span is stored iff R >= T, and T never depends on the trace's own R.
//! Time is an argument, ns of the arrival clock, never moving back. A span is named by where it lies in the intake log, so holding one
//! never pins a request body. Assumes: spans of one trace come to one sampler, in LSN order.
//!
//! The one policy there is keeps everything at once: T = 0, weight 1, reason `all`. It holds nothing, so offering costs no look-up.

use tailwater_model::ids::{Lsn, SpanId, TraceId};

use crate::threshold::Threshold;

/// What a policy may look at: a peek into the request's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanFacts<'a> {
    /// The trace it belongs to.
    pub trace: TraceId,
    /// Its own id.
    pub span: SpanId,
    /// Whether it has no parent.
    pub root: bool,
    /// Start, unix ns.
    pub start_ns: u64,
    /// End, unix ns.
    pub end_ns: u64,
    /// Whether its status is error.
    pub error: bool,
    /// `service.name` of its resource.
    pub service: &'a [u8],
    /// Its name.
    pub name: &'a [u8],
}

/// Where a span lies: record of the intake log, and bytes in its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanAt {
    /// The record.
    pub lsn: Lsn,
    /// First byte of the span's message in the payload.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// What made a trace due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Its first span arrived, and the policy waits for nothing.
    Arrival,
}

impl Trigger {
    /// Name in column `trigger`.
    pub fn name(self) -> &'static str {
        match self {
            Trigger::Arrival => "arrival",
        }
    }
}

/// The answer for a trace: stored are its spans with R >= T, each standing for [`Verdict::weight`] spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Which trace.
    pub trace: TraceId,
    /// T.
    pub threshold: Threshold,
    /// Name of the stratum or cause, for column `sample_reason`.
    pub reason: &'static str,
    /// What made it due.
    pub trigger: Trigger,
    /// Version of the policies that decided.
    pub epoch: u64,
}

impl Verdict {
    /// How many spans a kept one stands for.
    pub fn weight(&self) -> f64 {
        self.threshold.weight()
    }
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

impl Unconditional {
    /// How many spans a kept one stands for.
    pub fn weight(&self) -> f64 {
        self.threshold.weight()
    }

    /// The verdict on one trace.
    pub fn of(self, trace: TraceId) -> Verdict {
        let Unconditional {
            threshold,
            reason,
            trigger,
            epoch,
        } = self;
        Verdict {
            trace,
            threshold,
            reason,
            trigger,
            epoch,
        }
    }
}

/// What became of an offered span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The trace is decided, this span included.
    Decided(Verdict),
    /// The span waits with its trace; [`Sampler::tick`] brings it back.
    Held,
}

/// A held trace whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The answer.
    pub verdict: Verdict,
    /// Every span held, in LSN order.
    pub spans: Vec<SpanAt>,
}

/// How traces are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Keep everything at once.
    All {
        /// Version of the policies, for column `policy_epoch`.
        epoch: u64,
    },
}

/// The sampler of one shard or of several.
#[derive(Debug)]
pub struct Sampler {
    policy: Policy,
}

impl Sampler {
    /// A sampler that decides by `policy`.
    pub fn new(policy: Policy) -> Sampler {
        Sampler { policy }
    }

    /// What the policy says without looking at any span; the road then peeks at none.
    pub fn unconditional(&self) -> Unconditional {
        match self.policy {
            Policy::All { epoch } => Unconditional {
                threshold: Threshold::ALWAYS,
                reason: "all",
                trigger: Trigger::Arrival,
                epoch,
            },
        }
    }

    /// Offers a span of a trace that is not decided yet.
    #[inline]
    pub fn offer(&mut self, _now_ns: u64, span: &SpanFacts<'_>, _at: SpanAt) -> Offer {
        Offer::Decided(self.unconditional().of(span.trace))
    }

    /// Appends the held traces that are due at `now_ns` to `due`. Call it at least once a second, and with `u64::MAX` to have all.
    pub fn tick(&mut self, _now_ns: u64, _due: &mut Vec<Due>) {
        match self.policy {
            Policy::All { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threshold::Randomness;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn everything_is_kept_at_once_with_weight_one(id: [u8; 16], now: u64, root: bool, error: bool, start_ns: u64, end_ns: u64) {
            let mut sampler = Sampler::new(Policy::All { epoch: 4 });
            let trace = TraceId(id);
            let span = SpanFacts { trace, span: SpanId([1; 8]), root, start_ns, end_ns, error, service: b"cart", name: b"GET" };
            let Offer::Decided(verdict) = sampler.offer(now, &span, SpanAt { lsn: Lsn(1), offset: 0, len: 9 }) else {
                panic!("held");
            };
            prop_assert_eq!(verdict.trace, trace);
            prop_assert_eq!((verdict.weight(), verdict.reason, verdict.epoch), (1.0, "all", 4));
            prop_assert!(verdict.threshold.keeps(Randomness::of_trace(trace)));
            let mut due = Vec::new();
            sampler.tick(u64::MAX, &mut due);
            prop_assert!(due.is_empty());
        }
    }
}
