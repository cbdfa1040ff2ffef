//! Which durations the collector must count exactly.

use crate::resolved::ResolvedSlo;
use crate::source::{Indicator, RedSelector};

/// A duration for which an exact register is kept, for the requests that a selector means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threshold {
    /// Of which requests.
    pub of: RedSelector,
    /// How many took at most this long, in nanoseconds.
    pub ns: u64,
    /// Errors are not among them.
    pub exclude_errors: bool,
}

/// The thresholds that these SLOs declare: every `maxDuration`, and `latency-thresholds` for the requests of the same SLO. Sorted, each once.
#[must_use]
pub fn declared_thresholds(slos: &[ResolvedSlo]) -> Vec<Threshold> {
    let mut found = Vec::new();
    for slo in slos {
        for objective in &slo.objectives {
            let Indicator::Requests { of, good } = &objective.indicator else {
                continue;
            };
            let extra = slo.extensions.latency_thresholds_ns.iter().copied();
            let all = good.max_duration_ns.into_iter().chain(extra);
            found.extend(all.map(|ns| Threshold {
                of: of.clone(),
                ns,
                exclude_errors: good.exclude_errors,
            }));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}
