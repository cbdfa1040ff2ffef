//! Native histograms: float counts in exponential or custom buckets, and arithmetic on them.
//!
//! The semantics are those of prometheus/prometheus:model/histogram/float_histogram.go. The shape is our own: a side is a
//! sorted list of `(index, count)` instead of spans, so that merging, reducing and comparing are one pass over two lists.
//!
//! ```text
//! index i of an exponential side:  (base^(i-1), base^i]   base = 2^(2^-schema)
//! index i of custom bounds:        (bounds[i-1], bounds[i]], the last one up to +Inf
//! ```

mod add;
mod kahan;
mod quantile;
mod reset;
mod trim;

use std::fmt;
use std::sync::Arc;

pub(crate) use add::Added;
pub use add::IncompatibleBuckets;
pub(crate) use kahan::Accumulator;
pub(crate) use quantile::{Observed, fraction, quantile};
pub(crate) use trim::Keep;

use crate::number::general;

/// The schema of histograms with custom bounds.
pub const CUSTOM_BUCKETS: i32 = -53;

/// What is known about a counter reset between a histogram and the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResetHint {
    /// Not known: compare the buckets.
    #[default]
    Unknown,
    /// The counter was reset before this histogram.
    Reset,
    /// It was not.
    NotReset,
    /// Not a counter at all.
    Gauge,
}

/// One side of a histogram: `(index, count)` in order of index. Zero counts may occur until it is compacted.
pub type Buckets = Vec<(i32, f64)>;

/// A histogram of floats.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// Counter reset before this one?
    pub reset: ResetHint,
    /// -4 to 8: each power of two is cut into 2^schema buckets; -53: custom bounds.
    pub schema: i32,
    /// Half width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations.
    pub count: f64,
    /// Their sum; the stale marker here ends the series.
    pub sum: f64,
    /// Buckets above zero, or all buckets of custom bounds.
    pub positive: Buckets,
    /// Buckets below zero, by absolute value. Unused with custom bounds.
    pub negative: Buckets,
    /// Upper bounds of custom buckets, rising, without +Inf. Unused otherwise.
    pub bounds: Arc<[f64]>,
}

/// A bucket with its limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Lower limit.
    pub lower: f64,
    /// Upper limit.
    pub upper: f64,
    /// True when the lower limit is part of it.
    pub lower_inclusive: bool,
    /// True when the upper limit is part of it.
    pub upper_inclusive: bool,
    /// Observations.
    pub count: f64,
}

/// Where a bucket stands in its histogram; limits are computed only for the one that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Negative(i32),
    Zero,
    Positive(i32),
}

/// The upper limit of an exponential bucket. The last bucket of finite values ends at the largest float.
pub(crate) fn exponential_bound(index: i32, schema: i32) -> f64 {
    if schema < 0 {
        let exponent = i64::from(index) << schema.unsigned_abs();
        if exponent == 1024 {
            return f64::MAX;
        }
        #[allow(clippy::cast_precision_loss)] // An exponent beyond 2^53 is an infinite bound either way.
        return (exponent as f64).exp2();
    }
    let fraction = index & ((1 << schema) - 1);
    let exponent = index >> schema;
    if fraction == 0 && exponent == 1024 {
        return f64::MAX;
    }
    // Two factors: the whole power stays exact, and the fraction is the same float in every schema that has it.
    let whole = f64::from(exponent);
    let part = (f64::from(fraction) / f64::from(1 << schema)).exp2();
    if whole < -1021.0 {
        return part * (whole + 100.0).exp2() * (-100.0_f64).exp2();
    }
    part * whole.exp2()
}

impl Histogram {
    /// True with custom bounds.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.schema == CUSTOM_BUCKETS
    }

    fn bound(&self, index: i32) -> f64 {
        if !self.is_custom() {
            return exponential_bound(index, self.schema);
        }
        match usize::try_from(index) {
            Ok(index) => self.bounds.get(index).copied().unwrap_or(f64::INFINITY),
            Err(_) => f64::NEG_INFINITY,
        }
    }

    pub(crate) fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    pub(crate) fn positive_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        let (lower, upper) = (self.bound(index - 1), self.bound(index));
        if self.is_custom() {
            return Bucket {
                lower,
                upper,
                lower_inclusive: index == 0,
                upper_inclusive: true,
                count,
            };
        }
        Bucket {
            lower,
            upper,
            lower_inclusive: lower < 0.0,
            upper_inclusive: upper > 0.0,
            count,
        }
    }

    pub(crate) fn negative_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        let (lower, upper) = (-self.bound(index), -self.bound(index - 1));
        Bucket {
            lower,
            upper,
            lower_inclusive: lower < 0.0,
            upper_inclusive: upper > 0.0,
            count,
        }
    }

    /// Places and counts from the lowest bucket to the highest; the zero bucket only when it counts something.
    pub(crate) fn places(&self) -> impl DoubleEndedIterator<Item = (Place, f64)> + '_ {
        let negative = self
            .negative
            .iter()
            .rev()
            .map(|(index, count)| (Place::Negative(*index), *count));
        let zero = (self.zero_count > 0.0).then_some((Place::Zero, self.zero_count));
        let positive = self
            .positive
            .iter()
            .map(|(index, count)| (Place::Positive(*index), *count));
        negative.chain(zero).chain(positive)
    }

    /// The limits of a place; where a bucket overlaps the zero bucket it ends at the zero threshold.
    pub(crate) fn bucket(&self, (place, count): (Place, f64)) -> Bucket {
        let mut bucket = match place {
            Place::Negative(index) => self.negative_bucket((index, count)),
            Place::Zero => {
                return Bucket {
                    count,
                    ..self.zero_bucket()
                };
            }
            Place::Positive(index) => self.positive_bucket((index, count)),
        };
        if bucket.upper < 0.0 && bucket.upper > -self.zero_threshold {
            bucket.upper = -self.zero_threshold;
        } else if bucket.lower > 0.0 && bucket.lower < self.zero_threshold {
            bucket.lower = self.zero_threshold;
        }
        bucket
    }

    /// All buckets that count something, from the lowest to the highest.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.places()
            .filter(|(_, count)| *count != 0.0)
            .map(|place| self.bucket(place))
    }

    /// Scales every count and the sum. A negative factor makes it a gauge.
    #[must_use]
    pub fn times(mut self, factor: f64) -> Self {
        self.each(|value| value * factor);
        if factor < 0.0 {
            self.reset = ResetHint::Gauge;
        }
        self
    }

    /// Divides every count and the sum. Division by zero leaves no buckets.
    #[must_use]
    pub fn divided(mut self, by: f64) -> Self {
        if by == 0.0 {
            self.positive.clear();
            self.negative.clear();
        }
        self.each(|value| value / by);
        if by < 0.0 {
            self.reset = ResetHint::Gauge;
        }
        self
    }

    fn each(&mut self, change: impl Fn(f64) -> f64) {
        self.zero_count = change(self.zero_count);
        self.count = change(self.count);
        self.sum = change(self.sum);
        for (_, count) in self.positive.iter_mut().chain(&mut self.negative) {
            *count = change(*count);
        }
    }

    /// Without buckets that count nothing.
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.positive.retain(|(_, count)| *count != 0.0);
        self.negative.retain(|(_, count)| *count != 0.0);
        self
    }

    /// The same for one that is shared, which mostly has none.
    pub(crate) fn compacted(shared: Arc<Self>) -> Arc<Self> {
        let mut buckets = shared.positive.iter().chain(&shared.negative);
        if buckets.all(|(_, count)| *count != 0.0) {
            return shared;
        }
        Arc::new(Arc::unwrap_or_clone(shared).compact())
    }

    /// The same observations in a coarser exponential schema; unchanged if `schema` is not coarser.
    #[must_use]
    pub fn reduced(&self, schema: i32) -> Self {
        if self.is_custom() || schema >= self.schema {
            return self.clone();
        }
        Self {
            schema,
            positive: reduce(&self.positive, self.schema, schema),
            negative: reduce(&self.negative, self.schema, schema),
            // As CopyToSchema: what was known of resets does not carry over.
            reset: ResetHint::Unknown,
            ..self.clone()
        }
    }

    /// The same data, bit by bit, whatever is known of resets. This is PromQL's `==`.
    #[must_use]
    pub fn same_data(&self, other: &Self) -> bool {
        let same = |a: f64, b: f64| a.to_bits() == b.to_bits();
        let same_side =
            |a: &Buckets, b: &Buckets| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && same(a.1, b.1));
        self.schema == other.schema
            && same(self.count, other.count)
            && same(self.sum, other.sum)
            && (!self.is_custom() || self.bounds == other.bounds)
            && self.zero_threshold == other.zero_threshold
            && same(self.zero_count, other.zero_count)
            && same_side(&self.negative, &other.negative)
            && same_side(&self.positive, &other.positive)
    }

    /// How many floats it is worth when a query's samples are counted.
    pub(crate) fn weight(&self) -> usize {
        // Prometheus counts 16 bytes of a point plus the histogram's size, over 16 bytes of a float point.
        (16 + 168 + 16 * (self.positive.len() + self.negative.len()) + 8 * self.bounds.len()) / 16
    }
}

impl fmt::Display for Histogram {
    /// As Prometheus prints it, which is what `count_values` makes a label of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", general(self.count), general(self.sum))?;
        let negative = self.negative.iter().rev().map(|bucket| self.negative_bucket(*bucket));
        let zero = (self.zero_count != 0.0).then(|| self.zero_bucket());
        let positive = self.positive.iter().map(|bucket| self.positive_bucket(*bucket));
        for bucket in negative
            .chain(zero)
            .chain(positive)
            .filter(|bucket| bucket.count != 0.0)
        {
            let open = if bucket.lower_inclusive { '[' } else { '(' };
            let close = if bucket.upper_inclusive { ']' } else { ')' };
            let (lower, upper, count) = (general(bucket.lower), general(bucket.upper), general(bucket.count));
            write!(f, ", {open}{lower},{upper}{close}:{count}")?;
        }
        f.write_str("}")
    }
}

/// The index of a bucket in a coarser schema.
pub(crate) fn coarser(index: i32, from: i32, to: i32) -> i32 {
    ((index - 1) >> (from - to)) + 1
}

pub(crate) fn reduce(side: &[(i32, f64)], from: i32, to: i32) -> Buckets {
    let mut reduced: Buckets = Vec::with_capacity(side.len());
    for (index, count) in side {
        let index = coarser(*index, from, to);
        match reduced.last_mut() {
            Some(last) if last.0 == index => last.1 += count,
            _ => reduced.push((index, *count)),
        }
    }
    reduced
}

#[cfg(test)]
mod tests;
