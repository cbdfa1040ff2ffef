//! Sums of many histograms, compensated count by count, for `sum` and `avg`.

use std::sync::Arc;

use super::add::{Added, IncompatibleBuckets, at_schema, common_bounds, outside, target};
use super::{Buckets, Histogram, ResetHint, coarser, exponential_bound};
use crate::number::kahan;

/// A float and what its sum lost so far.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    value: f64,
    c: f64,
}

impl Sum {
    fn of(value: f64) -> Self {
        Self { value, c: 0.0 }
    }

    fn add(&mut self, value: f64) {
        (self.value, self.c) = kahan(value, self.value, self.c);
    }

    fn absorb(&mut self, other: Self) {
        self.add(other.value);
        self.add(other.c);
    }
}

type Side = Vec<(i32, Sum)>;

/// A running sum, or a running mean, of histograms.
#[derive(Debug, Clone)]
pub(crate) struct Accumulator {
    reset: ResetHint,
    schema: i32,
    zero_threshold: f64,
    zero_count: Sum,
    count: Sum,
    sum: Sum,
    positive: Side,
    negative: Side,
    bounds: Arc<[f64]>,
}

fn side(buckets: &Buckets) -> Side {
    buckets.iter().map(|(index, count)| (*index, Sum::of(*count))).collect()
}

impl Accumulator {
    pub fn new(first: &Histogram) -> Self {
        Self {
            reset: first.reset,
            schema: first.schema,
            zero_threshold: first.zero_threshold,
            zero_count: Sum::of(first.zero_count),
            count: Sum::of(first.count),
            sum: Sum::of(first.sum),
            positive: side(&first.positive),
            negative: side(&first.negative),
            bounds: Arc::clone(&first.bounds),
        }
    }

    pub fn add(&mut self, other: &Histogram) -> Result<Added, IncompatibleBuckets> {
        if (self.schema == super::CUSTOM_BUCKETS) != other.is_custom() {
            return Err(IncompatibleBuckets);
        }
        let (reset, reset_collision) = self.reset.combined(other.reset);
        self.reset = reset;
        let mut bounds_reconciled = false;
        if other.is_custom() {
            if self.bounds == other.bounds {
                merge(&mut self.positive, &other.positive);
            } else {
                bounds_reconciled = true;
                let common = common_bounds(&self.bounds, &other.bounds);
                remap(&mut self.positive, |index| target(index, &self.bounds, &common));
                let mut mapped = side(&other.positive);
                remap(&mut mapped, |index| target(index, &other.bounds, &common));
                let mapped: Buckets = mapped
                    .into_iter()
                    .map(|(index, sum)| (index, sum.value + sum.c))
                    .collect();
                merge(&mut self.positive, &mapped);
                self.positive.retain(|(_, sum)| sum.value != 0.0 || sum.c != 0.0);
                self.bounds = common;
            }
        } else {
            let zero_count = self.reconcile_zero(other);
            self.zero_count.add(zero_count);
            if other.schema < self.schema {
                let (from, to) = (self.schema, other.schema);
                remap(&mut self.positive, |index| coarser(index, from, to));
                remap(&mut self.negative, |index| coarser(index, from, to));
                self.schema = to;
            }
            let (schema, threshold) = (self.schema, self.zero_threshold);
            let others = |side| at_schema(outside(side, other.schema, threshold), other.schema, schema);
            merge(&mut self.positive, &others(&other.positive));
            merge(&mut self.negative, &others(&other.negative));
        }
        self.count.add(other.count);
        self.sum.add(other.sum);
        Ok(Added {
            reset_collision,
            bounds_reconciled,
        })
    }

    fn reconcile_zero(&mut self, other: &Histogram) -> f64 {
        let (mut count, mut threshold) = (other.zero_count, other.zero_threshold);
        while threshold != self.zero_threshold {
            if self.zero_threshold > threshold {
                (count, threshold) = other.zero_count_at(self.zero_threshold);
            }
            if threshold > self.zero_threshold {
                // Widths and populated buckets decide; compensation terms move along with their buckets.
                let (_, at) = self.plain(1.0).zero_count_at(threshold);
                let schema = self.schema;
                for side in [&mut self.positive, &mut self.negative] {
                    side.retain(|(index, sum)| {
                        if exponential_bound(index - 1, schema) >= at {
                            return sum.value != 0.0 || sum.c != 0.0;
                        }
                        self.zero_count.absorb(*sum);
                        false
                    });
                }
                self.zero_threshold = at;
            }
        }
        count
    }

    fn each(&mut self, change: impl Fn(f64) -> f64) {
        let sums = self.positive.iter_mut().chain(&mut self.negative).map(|(_, sum)| sum);
        for sum in sums.chain([&mut self.zero_count, &mut self.count, &mut self.sum]) {
            sum.value = change(sum.value);
            sum.c = change(sum.c);
        }
    }

    pub fn scale(&mut self, factor: f64) {
        self.each(|value| value * factor);
    }

    pub fn divide(&mut self, by: f64) {
        self.each(|value| value / by);
    }

    /// True when a count or the sum has left the range of floats.
    pub fn has_overflow(&self) -> bool {
        let sums = self.positive.iter().chain(&self.negative).map(|(_, sum)| sum);
        sums.chain([&self.zero_count, &self.count, &self.sum])
            .any(|sum| sum.value.is_infinite())
            || self.bounds.iter().any(|bound| bound.is_infinite())
    }

    /// The sum so far over `by`; `1.0` for the sum itself.
    pub fn plain(&self, by: f64) -> Histogram {
        let value = |sum: &Sum| sum.value / by + sum.c / by;
        let side = |side: &Side| side.iter().map(|(index, sum)| (*index, value(sum))).collect();
        Histogram {
            reset: self.reset,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: value(&self.zero_count),
            count: value(&self.count),
            sum: value(&self.sum),
            positive: side(&self.positive),
            negative: side(&self.negative),
            bounds: Arc::clone(&self.bounds),
        }
    }
}

fn merge(own: &mut Side, other: &[(i32, f64)]) {
    // Most histograms of one metric have the same layout: then nothing moves.
    let mut at = 0;
    for (index, count) in other {
        while own.get(at).is_some_and(|bucket| bucket.0 < *index) {
            at += 1;
        }
        match own.get_mut(at) {
            Some(bucket) if bucket.0 == *index => bucket.1.add(*count),
            _ => own.insert(at, (*index, Sum::of(*count))),
        }
    }
}

fn remap(side: &mut Side, to: impl Fn(i32) -> i32) {
    let mut mapped: Side = Vec::with_capacity(side.len());
    for (index, sum) in side.drain(..) {
        let index = to(index);
        match mapped.last_mut() {
            Some(last) if last.0 == index => last.1.absorb(sum),
            _ => mapped.push((index, sum)),
        }
    }
    *side = mapped;
}
