//! Adding and subtracting histograms of different resolution, zero bucket and bounds.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Buckets, Histogram, ResetHint, exponential_bound, reduce};

/// Exponential and custom buckets do not mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply this operation on histograms with a mix of exponential and custom bucket schemas")]
pub struct IncompatibleBuckets;

/// What an addition had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Added {
    /// One side said "reset", the other "not reset".
    pub reset_collision: bool,
    /// Custom bounds differed and were cut down to those in common.
    pub bounds_reconciled: bool,
}

impl ResetHint {
    /// The hint of a sum, and whether the two contradict each other.
    pub(super) fn combined(self, other: Self) -> (Self, bool) {
        use ResetHint::{Gauge, Unknown};
        match (self, other) {
            (a, b) if a == b => (a, false),
            (Gauge, _) | (_, Gauge) => (Gauge, false),
            (Unknown, _) | (_, Unknown) => (Unknown, false),
            _ => (Unknown, true),
        }
    }
}

impl Histogram {
    /// Adds `other`.
    pub(crate) fn add(&mut self, other: &Self) -> Result<Added, IncompatibleBuckets> {
        self.combine(other, 1.0)
    }

    /// Takes `other` away. The hint is combined as in an addition; who subtracts for a user makes it a gauge.
    pub(crate) fn subtract(&mut self, other: &Self) -> Result<Added, IncompatibleBuckets> {
        self.combine(other, -1.0)
    }

    fn combine(&mut self, other: &Self, sign: f64) -> Result<Added, IncompatibleBuckets> {
        if self.is_custom() != other.is_custom() {
            return Err(IncompatibleBuckets);
        }
        let (reset, reset_collision) = self.reset.combined(other.reset);
        self.reset = reset;
        let mut bounds_reconciled = false;
        if self.is_custom() {
            if self.bounds == other.bounds {
                merge(&mut self.positive, &other.positive, sign);
            } else {
                bounds_reconciled = true;
                let common = common_bounds(&self.bounds, &other.bounds);
                self.positive = rebound(&self.positive, &self.bounds, &common);
                let others = rebound(&other.positive, &other.bounds, &common);
                merge(&mut self.positive, &others, sign);
                self.positive.retain(|(_, count)| *count != 0.0);
                self.bounds = common;
            }
        } else {
            let (zero_count, threshold) = reconcile_zero(self, other);
            self.zero_count += sign * zero_count;
            if other.schema < self.schema {
                self.positive = reduce(&self.positive, self.schema, other.schema);
                self.negative = reduce(&self.negative, self.schema, other.schema);
                self.schema = other.schema;
            }
            let schema = self.schema;
            for (own, other_side) in [
                (&mut self.positive, &other.positive),
                (&mut self.negative, &other.negative),
            ] {
                let others = at_schema(outside(other_side, other.schema, threshold), other.schema, schema);
                merge(own, &others, sign);
            }
        }
        self.count += sign * other.count;
        self.sum += sign * other.sum;
        Ok(Added {
            reset_collision,
            bounds_reconciled,
        })
    }

    /// The zero count this histogram would have with a larger threshold, and that threshold: moved up to the end of a
    /// populated bucket that it cuts.
    pub(crate) fn zero_count_at(&self, mut threshold: f64) -> (f64, f64) {
        if threshold <= self.zero_threshold {
            return (self.zero_count, threshold);
        }
        'again: loop {
            let mut count = self.zero_count;
            for (index, in_bucket) in &self.positive {
                if exponential_bound(index - 1, self.schema) >= threshold {
                    break;
                }
                count += in_bucket;
                let upper = exponential_bound(*index, self.schema);
                if upper > threshold {
                    if *in_bucket != 0.0 {
                        threshold = upper;
                    }
                    break;
                }
            }
            for (index, in_bucket) in &self.negative {
                if exponential_bound(index - 1, self.schema) >= threshold {
                    break;
                }
                count += in_bucket;
                let upper = exponential_bound(*index, self.schema);
                if upper > threshold {
                    if *in_bucket != 0.0 {
                        // The positive side was judged by the smaller threshold.
                        threshold = upper;
                        continue 'again;
                    }
                    break;
                }
            }
            return (count, threshold);
        }
    }

    /// Makes the zero bucket larger; `threshold` comes from [`Self::zero_count_at`].
    fn widen_zero(&mut self, zero_count: f64, threshold: f64) {
        self.zero_count = zero_count;
        self.zero_threshold = threshold;
        let schema = self.schema;
        let outside = |bucket: &(i32, f64)| exponential_bound(bucket.0 - 1, schema) >= threshold && bucket.1 != 0.0;
        self.positive.retain(outside);
        self.negative.retain(outside);
    }

    #[cfg(test)]
    pub(crate) fn widen_zero_for_test(&mut self, zero_count: f64, threshold: f64) {
        self.widen_zero(zero_count, threshold);
    }
}

/// Widens `own`'s zero bucket as far as needed to hold `other`'s; returns what `other` would count in it, and its width.
pub(super) fn reconcile_zero(own: &mut Histogram, other: &Histogram) -> (f64, f64) {
    let (mut count, mut threshold) = (other.zero_count, other.zero_threshold);
    while threshold != own.zero_threshold {
        if own.zero_threshold > threshold {
            (count, threshold) = other.zero_count_at(own.zero_threshold);
        }
        if threshold > own.zero_threshold {
            let (wider, at) = own.zero_count_at(threshold);
            own.widen_zero(wider, at);
        }
    }
    (count, threshold)
}

pub(super) fn at_schema(side: &[(i32, f64)], from: i32, to: i32) -> Cow<'_, [(i32, f64)]> {
    if from > to {
        reduce(side, from, to).into()
    } else {
        side.into()
    }
}

/// The buckets outside a zero bucket, judged by their own schema: merged into coarser ones, some would reach beyond it.
pub(super) fn outside(side: &[(i32, f64)], schema: i32, threshold: f64) -> &[(i32, f64)] {
    let is_outside = |(index, _): &(i32, f64)| exponential_bound(*index, schema) > threshold;
    // Mostly all are.
    if side.first().is_none_or(is_outside) {
        return side;
    }
    &side[side.partition_point(|bucket| !is_outside(bucket))..]
}

/// Adds `other`, `sign` times. Buckets that are there already stay where they are.
fn merge(own: &mut Buckets, other: &[(i32, f64)], sign: f64) {
    let mut at = 0;
    for (number, (index, count)) in other.iter().enumerate() {
        while own.get(at).is_some_and(|bucket| bucket.0 < *index) {
            at += 1;
        }
        match own.get_mut(at) {
            Some(bucket) if bucket.0 == *index => bucket.1 += sign * count,
            _ => return interleave(own, at, &other[number..], sign),
        }
    }
}

/// The same for what lies behind the first `at` buckets.
fn interleave(own: &mut Buckets, at: usize, other: &[(i32, f64)], sign: f64) {
    let rest = own.split_off(at);
    own.reserve_exact(rest.len().max(other.len()));
    let mut rest = rest.into_iter().peekable();
    for (index, count) in other {
        while let Some(bucket) = rest.next_if(|bucket| bucket.0 < *index) {
            own.push(bucket);
        }
        let before = rest.next_if(|bucket| bucket.0 == *index).map_or(0.0, |bucket| bucket.1);
        own.push((*index, before + sign * count));
    }
    own.extend(rest);
}

/// The bounds that two sets share.
pub(super) fn common_bounds(a: &[f64], b: &[f64]) -> Arc<[f64]> {
    a.iter()
        .copied()
        .filter(|bound| b.binary_search_by(|other| other.total_cmp(bound)).is_ok())
        .collect()
}

/// Where bucket `index` of `bounds` lands in `common`, a subset of it.
pub(super) fn target(index: i32, bounds: &[f64], common: &[f64]) -> i32 {
    let bound = usize::try_from(index).ok().and_then(|index| bounds.get(index));
    let at = bound.map_or(common.len(), |bound| common.partition_point(|other| other < bound));
    i32::try_from(at).unwrap_or(i32::MAX)
}

fn rebound(side: &Buckets, bounds: &[f64], common: &[f64]) -> Buckets {
    let mut mapped: Buckets = Vec::with_capacity(side.len());
    for (index, count) in side {
        let index = target(*index, bounds, common);
        match mapped.last_mut() {
            Some(last) if last.0 == index => last.1 += count,
            _ => mapped.push((index, *count)),
        }
    }
    mapped
}
