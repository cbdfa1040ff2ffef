//! `</` and `>/`: the observations below, or above, a value.
//!
//! A bucket that holds the value is cut by interpolation, as in a quantile: linear in custom buckets and the zero bucket,
//! exponential elsewhere. If anything is cut off, the sum is estimated from the middles of what is left
//! (prometheus/prometheus:model/histogram/float_histogram.go, TrimBuckets).

use super::{Bucket, Histogram};

/// Which side is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// `</`
    Below,
    /// `>/`
    Above,
}

impl Histogram {
    pub(crate) fn trimmed(mut self, at: f64, keep: Keep) -> Self {
        let custom = self.is_custom();
        let (mut count, mut sum, mut changed) = (0.0, 0.0, false);
        let mut populated = [false; 2];
        for positive in [true, false] {
            let side = std::mem::take(if positive {
                &mut self.positive
            } else {
                &mut self.negative
            });
            let mut kept = side.clone();
            for (bucket, kept) in side.into_iter().zip(&mut kept).filter(|(bucket, _)| bucket.1 != 0.0) {
                populated[usize::from(positive)] = true;
                let limits = if positive {
                    self.positive_bucket(bucket)
                } else {
                    self.negative_bucket(bucket)
                };
                let (left, middle) = cut(&limits, at, keep, positive, custom);
                count += left;
                sum += middle * left;
                changed |= left != kept.1;
                kept.1 = left;
            }
            *(if positive {
                &mut self.positive
            } else {
                &mut self.negative
            }) = kept;
        }
        if self.zero_count > 0.0 {
            let [negative, positive] = populated;
            let (left, middle) = cut_zero(&self.zero_bucket(), at, keep, negative, positive);
            changed |= left != self.zero_count;
            self.zero_count = left;
            count += left;
            sum += middle * left;
        }
        if !changed {
            return self;
        }
        self.count = count;
        self.sum = sum;
        self.compact()
    }
}

/// What is left of a bucket, and the middle of what is left.
fn cut(bucket: &Bucket, at: f64, keep: Keep, positive: bool, custom: bool) -> (f64, f64) {
    let (all, inside) = match keep {
        Keep::Below => (bucket.upper <= at, bucket.lower < at),
        Keep::Above => (bucket.lower >= at, bucket.upper > at),
    };
    if all {
        return (bucket.count, middle(bucket.lower, bucket.upper, positive, custom));
    }
    if !inside {
        return (0.0, 0.0);
    }
    if bucket.lower == f64::NEG_INFINITY || bucket.upper == f64::INFINITY {
        return cut_endless(bucket, at, keep);
    }
    let below = if at <= bucket.lower {
        0.0
    } else if at >= bucket.upper {
        bucket.count
    } else {
        bucket.count * bucket.fraction_below(at, custom)
    };
    match keep {
        Keep::Below => (below, middle(bucket.lower, at, positive, custom)),
        Keep::Above => (bucket.count - below, middle(at, bucket.upper, positive, custom)),
    }
}

/// A bucket without end on one side. How observations lie in it is unknown: where the value is inside, all or none stay,
/// but for a first bucket up to a positive bound, which is taken to begin at zero.
fn cut_endless(bucket: &Bucket, at: f64, keep: Keep) -> (f64, f64) {
    let finite_or_zero = |value: f64| if value.is_infinite() { 0.0 } else { value };
    let Bucket {
        lower, upper, count, ..
    } = *bucket;
    if lower == f64::NEG_INFINITY {
        return match keep {
            Keep::Below if at >= upper => (count, 0.0),
            Keep::Below if at > 0.0 && upper > 0.0 && upper.is_finite() => (count * at / upper, at / 2.0),
            Keep::Below if upper <= 0.0 => (count, at),
            Keep::Above if at <= lower => (count, 0.0),
            Keep::Above if at >= 0.0 && upper > at && upper.is_finite() => {
                (count * (1.0 - at / upper), (at + upper) / 2.0)
            }
            _ => (0.0, finite_or_zero(upper)),
        };
    }
    match keep {
        Keep::Above if at >= lower => (count, at),
        _ => (0.0, finite_or_zero(lower)),
    }
}

/// Without observations on one side, the zero bucket ends at zero on that side.
fn cut_zero(bucket: &Bucket, at: f64, keep: Keep, negative: bool, positive: bool) -> (f64, f64) {
    let lower = if positive && !negative { 0.0 } else { bucket.lower };
    let upper = if negative && !positive { 0.0 } else { bucket.upper };
    let whole = (bucket.count, (lower + upper) / 2.0);
    match keep {
        Keep::Below if at <= lower => (0.0, 0.0),
        Keep::Below if at >= upper => whole,
        Keep::Below => (bucket.count * (at - lower) / (upper - lower), (lower + at) / 2.0),
        Keep::Above if at <= lower => whole,
        Keep::Above if at >= upper => (0.0, 0.0),
        Keep::Above => (bucket.count * (upper - at) / (upper - lower), (at + upper) / 2.0),
    }
}

/// Arithmetic in custom buckets, geometric in exponential ones.
fn middle(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        (false, false) if linear => (lower + upper) / 2.0,
        (false, false) => {
            let mean = (lower * upper).abs().sqrt();
            if positive { mean } else { -mean }
        }
    }
}
