//! Was a counter of histograms reset between two samples?

use super::add::{at_schema, common_bounds, outside, target};
use super::{Histogram, ResetHint};

impl Histogram {
    /// True when a bucket, the zero bucket or the count has fallen since `previous`, or the layout changed in a way that
    /// only a restart explains. A hint that says so, or says not, decides at once.
    pub(crate) fn is_reset_after(&self, previous: &Self) -> bool {
        match self.reset {
            ResetHint::Reset => return true,
            ResetHint::NotReset => return false,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        if self.is_custom() {
            if !previous.is_custom() {
                return true;
            }
            if self.bounds != previous.bounds {
                return fell_in_common_bounds(self, previous);
            }
            return fell(&self.positive, &previous.positive);
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero_count, threshold) = previous.zero_count_at(self.zero_threshold);
        // A populated bucket of the previous one that is cut by the new zero bucket: only a restart explains it.
        if threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        let fell_outside = |current, before| {
            let current = outside(current, self.schema, self.zero_threshold);
            let before = outside(before, previous.schema, self.zero_threshold);
            fell(current, &at_schema(before, previous.schema, self.schema))
        };
        fell_outside(&self.positive, &previous.positive) || fell_outside(&self.negative, &previous.negative)
    }
}

/// True when a bucket of `previous` is larger than, or populated and missing in, `current`.
fn fell(current: &[(i32, f64)], previous: &[(i32, f64)]) -> bool {
    let mut current = current.iter().peekable();
    for (index, before) in previous {
        while current.next_if(|(at, _)| at < index).is_some() {}
        match current.peek() {
            Some((at, now)) if at == index && now < before => return true,
            Some((at, _)) if at == index => {}
            _ if *before != 0.0 => return true,
            _ => {}
        }
    }
    false
}

/// The same question for custom bounds that differ: each pair of common bounds holds what lies between them.
fn fell_in_common_bounds(current: &Histogram, previous: &Histogram) -> bool {
    let common = common_bounds(&current.bounds, &previous.bounds);
    let counts = |histogram: &Histogram| {
        let mut counts = vec![0.0; common.len() + 1];
        for (index, count) in &histogram.positive {
            let at = target(*index, &histogram.bounds, &common);
            counts[usize::try_from(at).unwrap_or(0).min(common.len())] += count;
        }
        counts
    };
    counts(current)
        .iter()
        .zip(counts(previous))
        .any(|(now, before)| *now < before)
}
