//! Quantiles and fractions of a native histogram (prometheus/prometheus:promql/quantile.go).

use super::{Bucket, Histogram};

/// What NaN observations do to an answer. They are in the count and in no bucket, and make the sum NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observed {
    /// No NaN, or none that matters.
    Plain,
    /// There are some: a quantile is skewed higher, a fraction leaves them out.
    Skewed,
    /// The quantile lies among them.
    Nan,
}

/// Without observations on one side, the zero bucket ends at zero on that side.
fn narrow_zero(histogram: &Histogram, bucket: &mut Bucket) {
    match (histogram.negative.is_empty(), histogram.positive.is_empty()) {
        (true, false) => bucket.lower = 0.0,
        (false, true) => bucket.upper = 0.0,
        _ => {}
    }
}

impl Bucket {
    /// The part of the bucket at or below `value`, which lies inside its finite limits.
    pub(super) fn fraction_below(&self, value: f64, linear: bool) -> f64 {
        if linear {
            return (value - self.lower) / (self.upper - self.lower);
        }
        let (lower, upper, at) = (self.lower.abs().log2(), self.upper.abs().log2(), value.abs().log2());
        if value > 0.0 {
            (at - lower) / (upper - lower)
        } else {
            1.0 - (at - upper) / (lower - upper)
        }
    }
}

/// The q-quantile: linear inside custom buckets and the zero bucket, exponential elsewhere.
pub(crate) fn quantile(q: f64, histogram: &Histogram) -> (f64, Observed) {
    if q < 0.0 {
        return (f64::NEG_INFINITY, Observed::Plain);
    }
    if q > 1.0 {
        return (f64::INFINITY, Observed::Plain);
    }
    if histogram.count == 0.0 || q.is_nan() {
        return (f64::NAN, Observed::Plain);
    }
    // From the nearer end, for less rounding; with NaN observations only counting from below is right.
    let with_nan = histogram.sum.is_nan();
    let forward = with_nan || q < 0.5;
    let mut rank = if forward { q } else { 1.0 - q } * histogram.count;
    let mut count = 0.0;
    let mut last = None;
    let mut places: Box<dyn Iterator<Item = _>> = if forward {
        Box::new(histogram.places())
    } else {
        Box::new(histogram.places().rev())
    };
    for place in places.by_ref() {
        last = Some(place);
        count += place.1;
        if place.1 != 0.0 && count >= rank {
            break;
        }
    }
    let empty = Bucket {
        lower: 0.0,
        upper: 0.0,
        lower_inclusive: false,
        upper_inclusive: false,
        count: 0.0,
    };
    let mut bucket = last.map_or(empty, |place| histogram.bucket(place));
    if !histogram.is_custom() {
        if bucket.lower < 0.0 && bucket.upper > 0.0 {
            narrow_zero(histogram, &mut bucket);
        }
    } else if bucket.lower == f64::NEG_INFINITY {
        if bucket.upper <= 0.0 {
            return (bucket.upper, Observed::Plain);
        }
        bucket.lower = 0.0;
    } else if bucket.upper == f64::INFINITY {
        return (bucket.lower, Observed::Plain);
    }
    let mut count = count.min(histogram.count);
    if count < rank {
        return if with_nan {
            (f64::NAN, Observed::Nan)
        } else {
            (bucket.upper, Observed::Plain)
        };
    }
    rank = if forward {
        rank - (count - bucket.count)
    } else {
        count - rank
    };
    let mut observed = Observed::Plain;
    if with_nan {
        count += places.map(|place| place.1).sum::<f64>();
        if count < histogram.count {
            observed = Observed::Skewed;
        }
    }
    let part = rank / bucket.count;
    if histogram.is_custom() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return (bucket.lower + (bucket.upper - bucket.lower) * part, observed);
    }
    let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    if bucket.lower > 0.0 {
        return ((lower + (upper - lower) * part).exp2(), observed);
    }
    (-(upper + (lower - upper) * (1.0 - part)).exp2(), observed)
}

/// The part of the observations between two values.
pub(crate) fn fraction(lower: f64, upper: f64, histogram: &Histogram) -> (f64, Observed) {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return (f64::NAN, Observed::Plain);
    }
    if lower >= upper {
        return (0.0, Observed::Plain);
    }
    let mut rank = 0.0;
    let mut count = 0.0;
    let (mut below_lower, mut below_upper) = (None, None);
    let mut places = histogram.places();
    for place in places.by_ref() {
        let mut bucket = histogram.bucket(place);
        count += bucket.count;
        let mut linear = histogram.is_custom();
        if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            linear = true;
            narrow_zero(histogram, &mut bucket);
        }
        let below = |value: f64| {
            if bucket.lower >= value {
                Some(rank)
            } else if bucket.upper > value {
                Some(if linear && bucket.lower == f64::NEG_INFINITY {
                    // No interpolation in a bucket without end.
                    bucket.count
                } else {
                    rank + bucket.count * bucket.fraction_below(value, linear)
                })
            } else {
                None
            }
        };
        below_lower = below_lower.or_else(|| below(lower));
        below_upper = below_upper.or_else(|| below(upper));
        if below_lower.is_some() && below_upper.is_some() {
            break;
        }
        rank += bucket.count;
    }
    let mut observed = Observed::Plain;
    if histogram.sum.is_nan() {
        count += places.map(|place| place.1).sum::<f64>();
        if count < histogram.count {
            observed = Observed::Skewed;
        }
    } else {
        count = histogram.count;
    }
    let at_most = |below: Option<f64>| below.map_or(count, |below| if below > count { count } else { below });
    (
        (at_most(below_upper) - at_most(below_lower)) / histogram.count,
        observed,
    )
}
