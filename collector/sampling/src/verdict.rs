//! What goes into the sampler and what comes out: references to spans, verdicts, rows of table `sampling_ticks`.

use std::sync::Arc;

use tailwater_model::ids::{Lsn, TraceId};

use crate::threshold::{Randomness, Threshold};
use crate::tracestate::Upstream;

/// Where a span lies: record of the intake log, and bytes in its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanAt {
    /// The record.
    pub lsn: Lsn,
    /// Its place among the spans of the request, from 0.
    pub ordinal: u32,
    /// Bytes that it stands for in the account.
    pub len: u32,
}

/// What made a trace due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Its first span arrived, and the policy waits for nothing.
    Arrival,
    /// Its root arrived, and the time to settle is over.
    Root,
    /// No span came for a while, and it was entered from elsewhere.
    Idle,
    /// Its first span is too long ago.
    Timeout,
    /// It has too many spans, or too many bytes.
    SpanLimit,
    /// Memory was short, or the log that it waits in.
    Admission,
    /// Everything had to be decided.
    Shutdown,
}

impl Trigger {
    /// All of them.
    pub const ALL: [Trigger; 7] = [
        Trigger::Arrival,
        Trigger::Root,
        Trigger::Idle,
        Trigger::Timeout,
        Trigger::SpanLimit,
        Trigger::Admission,
        Trigger::Shutdown,
    ];

    /// Name in column `trigger`.
    pub fn name(self) -> &'static str {
        match self {
            Trigger::Arrival => "arrival",
            Trigger::Root => "root",
            Trigger::Idle => "idle",
            Trigger::Timeout => "timeout",
            Trigger::SpanLimit => "span_limit",
            Trigger::Admission => "admission",
            Trigger::Shutdown => "shutdown",
        }
    }

    /// Whether the trace may well have had more spans: column `partial`.
    pub fn is_partial(self) -> bool {
        matches!(
            self,
            Trigger::Timeout | Trigger::SpanLimit | Trigger::Admission | Trigger::Shutdown
        )
    }
}

/// What is remembered of a decision: enough to treat a late span as its trace was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// T.
    pub threshold: Threshold,
    /// Name of the stratum or cause, for column `sample_reason`.
    pub reason: Arc<str>,
    /// Version of the policy.
    pub epoch: u64,
    /// R is [`Randomness::hashed`], not what the id says: it has to be written as `rv`.
    pub is_hashed: bool,
    /// Its stratum keeps nothing, whatever R.
    pub is_dropped: bool,
    /// Whether it is kept, where R was said by a span of it: another one may not say it.
    pub by_said: Option<bool>,
}

impl Decision {
    /// Whether a span of this trace, late or not, is stored; whatever R it says itself.
    pub fn keeps(&self, trace: TraceId) -> bool {
        let by_id = || self.threshold.keeps(self.randomness(trace, Upstream::default()));
        !self.is_dropped && self.by_said.unwrap_or_else(by_id)
    }

    /// R of the trace.
    pub fn randomness(&self, trace: TraceId, upstream: Upstream) -> Randomness {
        match self.is_hashed {
            true => Randomness::hashed(trace),
            false => upstream.randomness(trace),
        }
    }

    /// The reason as the journal stores it beside T and epoch: a suffix says what the name alone would not.
    pub fn journal_reason(&self) -> String {
        let suffix = match (self.is_hashed, self.is_dropped, self.by_said) {
            (false, false, None) => "",
            (true, false, None) => HASHED,
            (false, true, _) => DROPPED,
            (true, true, _) => HASHED_DROPPED,
            // What is said is never hashed.
            (_, false, Some(true)) => IN,
            (_, false, Some(false)) => OUT,
        };
        format!("{}{suffix}", self.reason)
    }

    /// The decision of what the journal stored.
    pub fn from_journal(threshold: Threshold, reason: &str, epoch: u64) -> Decision {
        let suffixes = [
            (HASHED_DROPPED, (true, true, None)),
            (HASHED, (true, false, None)),
            (DROPPED, (false, true, None)),
            (IN, (false, false, Some(true))),
            (OUT, (false, false, Some(false))),
        ];
        let found = suffixes
            .into_iter()
            .find_map(|(suffix, flags)| Some((reason.strip_suffix(suffix)?, flags)));
        let (name, (is_hashed, is_dropped, by_said)) = found.unwrap_or((reason, (false, false, None)));
        Decision {
            threshold,
            reason: name.into(),
            epoch,
            is_hashed,
            is_dropped,
            by_said,
        }
    }
}

// No name of a stratum has a `+`.
const HASHED: &str = "+rv";
const DROPPED: &str = "+drop";
const HASHED_DROPPED: &str = "+rv+drop";
const IN: &str = "+in";
const OUT: &str = "+out";

/// A trace is decided.
#[derive(Debug, Clone)]
pub struct Verdict<M> {
    /// Which trace.
    pub trace: TraceId,
    /// What the caller attached to it.
    pub mark: M,
    /// Whose it is, by [`crate::Sampler::tenant`].
    pub tenant: u32,
    /// Whether its spans are stored: R >= T. Under a dry run always.
    pub keep: bool,
    /// What to remember of it.
    pub decision: Decision,
    /// T for what was not sampled upstream, such as its log records: the probability of the trace's being kept, given that it got here.
    pub given: Threshold,
    /// What made it due.
    pub trigger: Trigger,
    /// T that a dry run would have applied.
    pub shadow: Option<Threshold>,
    /// Spans that waited.
    pub span_count: u32,
    /// Their protobuf bytes.
    pub bytes: u64,
    /// Spans that came again while it waited, kept or not: they are in none of the other numbers.
    pub again: u32,
    /// Their protobuf bytes.
    pub again_bytes: u64,
    /// What those that waited are expected to take when stored, bytes.
    pub cost: f64,
    /// Number of the tick.
    pub tick: u64,
    /// The spans that waited, if it is kept: a range of [`crate::Output::spans`].
    pub spans: std::ops::Range<usize>,
}

/// What was seen and kept in a tick, for table `sampling_ticks`. In every tick the `adjusted_traces`, added up, estimate
/// `seen_traces`, added up; what was refused for memory is a row of its own with reason `admission`.
#[derive(Debug, Clone, PartialEq)]
pub struct TickRow {
    /// Number of the tick since start.
    pub tick: u64,
    /// Arrival clock of the tick, unix ns.
    pub at_ns: u64,
    /// Whose.
    pub tenant: Arc<str>,
    /// Stratum or cause.
    pub stratum: Arc<str>,
    /// Version of the policy.
    pub epoch: u64,
    /// Traces that fell due.
    pub seen_traces: u64,
    /// Their spans.
    pub seen_spans: u64,
    /// Their protobuf bytes.
    pub seen_bytes: u64,
    /// Traces kept.
    pub kept_traces: u64,
    /// Their spans.
    pub kept_spans: u64,
    /// Their protobuf bytes.
    pub kept_bytes: u64,
    /// What the kept ones are expected to take when stored, bytes.
    pub kept_cost: f64,
    /// Weights of the kept traces, added up.
    pub adjusted_traces: f64,
    /// Late spans that met a remembered decision.
    pub late_spans: u64,
    /// Those of them that are stored.
    pub late_kept_spans: u64,
    /// Smallest T applied.
    pub threshold_min: Threshold,
    /// Largest T applied.
    pub threshold_max: Threshold,
    /// Bytes of budget at hand when the tick began; negative is debt.
    pub tokens: f64,
    /// Governed rate, stored bytes a second.
    pub rate: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_comes_back_from_the_journal() {
        for (is_hashed, is_dropped, by_said) in [
            (false, false, None),
            (true, false, None),
            (false, true, None),
            (true, true, None),
            (false, false, Some(true)),
            (false, false, Some(false)),
        ] {
            let decision = Decision {
                threshold: Threshold::of_probability(0.25),
                reason: "rest".into(),
                epoch: 7,
                is_hashed,
                is_dropped,
                by_said,
            };
            let stored = decision.journal_reason();
            assert_eq!(
                Decision::from_journal(decision.threshold, &stored, 7),
                decision,
                "{stored}"
            );
            let keeps = decision.keeps(TraceId([0xff; 16]));
            assert!(!is_dropped || !keeps);
            assert!(by_said.is_none_or(|said| keeps == said));
        }
    }
}
