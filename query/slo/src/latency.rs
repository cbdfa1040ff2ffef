//! Latencies as counts by range: what share is at or below a threshold, and quantiles with an interval.
//!
//! A histogram of any kind fits: base-2 exponential buckets, explicit OTLP buckets, exact registers. Values are nanoseconds. What falls
//! inside a bucket is never guessed at where a count is asked for: the answer is the fewest and the most it can be.

use serde::Serialize;

use crate::interval::{Confidence, order_minimum, order_ranks};
use crate::time::Span;

/// Values in `(above, upto]`; `above == upto` is a value known exactly. An infinite `upto` has no end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// No value is at or below this.
    pub above: f64,
    /// No value is beyond this.
    pub upto: f64,
    /// How many.
    pub count: u64,
}

/// A bucket that is no range of numbers, such as one from NaN or from 2 to 1.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("not a bucket: ({above}, {upto}]")]
pub struct NoBucket {
    above: f64,
    upto: f64,
}

/// Counts by range. Merging is exact and in any order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// By upper end, then lower end; none empty, no two alike.
    buckets: Vec<Bucket>,
    /// Largest value, where known: it ends the last bucket.
    max: Option<f64>,
}

impl Histogram {
    /// Of buckets in any order, and the largest value if it is known. The ranges that a stored sketch tells (`exphist::View::ranges`) are
    /// such buckets.
    ///
    /// # Errors
    /// [`NoBucket`] for a bucket whose ends are not a range.
    pub fn new(buckets: Vec<Bucket>, max: Option<f64>) -> Result<Self, NoBucket> {
        for &Bucket { above, upto, .. } in &buckets {
            // Not `above > upto`: NaN has to fail as well.
            if !matches!(
                above.partial_cmp(&upto),
                Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)
            ) {
                return Err(NoBucket { above, upto });
            }
        }
        let mut histogram = Self {
            buckets,
            max: max.filter(|max| !max.is_nan()),
        };
        histogram.settle();
        Ok(histogram)
    }

    fn settle(&mut self) {
        self.buckets.retain(|bucket| bucket.count > 0);
        self.buckets
            .sort_by(|a, b| a.upto.total_cmp(&b.upto).then(a.above.total_cmp(&b.above)));
        self.buckets.dedup_by(|next, kept| {
            let same = next.upto == kept.upto && next.above == kept.above;
            if same {
                kept.count = kept.count.saturating_add(next.count);
            }
            same
        });
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.buckets.extend_from_slice(&other.buckets);
        self.max = match (self.max, other.max) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (one, other) => one.or(other),
        };
        self.settle();
    }

    /// The buckets, by upper end.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .fold(0, |sum, bucket| sum.saturating_add(bucket.count))
    }

    /// Largest value: the one that was seen, else the end of the last bucket.
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        self.max
            .or_else(|| self.buckets.last().map(|bucket| bucket.upto))
            .filter(|_| !self.buckets.is_empty())
    }

    /// Fewest and most values that can be at or below `threshold`: equal when it is an end of a bucket or lies between buckets.
    #[must_use]
    pub fn at_most(&self, threshold: f64) -> (u64, u64) {
        let sum = |holds: &dyn Fn(&Bucket) -> bool| {
            self.buckets
                .iter()
                .filter(|bucket| holds(bucket))
                .fold(0_u64, |sum, bucket| sum.saturating_add(bucket.count))
        };
        let all_below = self.max.is_some_and(|max| max <= threshold);
        let surely = sum(&|bucket| bucket.upto <= threshold || all_below);
        let possibly = sum(&|bucket| bucket.above < threshold || bucket.upto <= threshold);
        (surely, possibly)
    }

    /// Ends of the range that holds the value of a rank, 1 being the smallest.
    fn at_rank(&self, rank: u64) -> Option<(f64, f64)> {
        // The order statistics of the lower ends bound those of the values, and so do the upper ends; where buckets of different
        // resolution overlap the two orders differ.
        let mut lower: Vec<&Bucket> = self.buckets.iter().collect();
        lower.sort_by(|a, b| a.above.total_cmp(&b.above));
        let above = end_at(lower.iter().map(|bucket| (bucket.above, bucket.count)), rank)?;
        let upto = end_at(self.buckets.iter().map(|bucket| (bucket.upto, bucket.count)), rank)?;
        Some((above, self.max.map_or(upto, |max| upto.min(max.max(above)))))
    }

    /// Value at `q` in 0..=1 as SQL's `percentile_cont` has it: at rank `q (n-1)`, between two ranks by proportion, each taken as the
    /// middle of its bucket. `None` for no values.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let last = self.count().checked_sub(1)?;
        let rank = q.clamp(0.0, 1.0) * last as f64;
        let low = middle(self.at_rank(rank.floor() as u64 + 1)?);
        let high = middle(self.at_rank(rank.ceil() as u64 + 1)?);
        Some(low + (high - low) * rank.fract())
    }

    /// Value at `q` in 0..1 with the interval that holds the true quantile whatever the distribution: from the lower end of the bucket of
    /// one order statistic to the upper end of that of another, so both chance and resolution are in it.
    #[must_use]
    pub fn estimate(&self, q: f64, confidence: Confidence) -> Quantile {
        let n = self.count();
        let ends = order_ranks(n, q, confidence).and_then(|(l, u)| Some((self.at_rank(l)?.0, self.at_rank(u)?.1)));
        Quantile {
            q,
            // Fewer values than the minimum say nothing about the tail: a number would be taken for one that does.
            value_ns: ends.and_then(|_| self.quantile(q)),
            lo_ns: ends.map(|(lo, _)| lo),
            hi_ns: ends.map(|(_, hi)| hi),
            n,
            minimum_n: order_minimum(q, confidence),
            max_ns: self.max(),
        }
    }
}

/// The end at which the counts so far reach a rank.
fn end_at(mut ends: impl Iterator<Item = (f64, u64)>, rank: u64) -> Option<f64> {
    let mut seen = 0_u64;
    ends.find_map(|(end, count)| {
        seen = seen.saturating_add(count);
        (seen >= rank).then_some(end)
    })
}

/// The value that stands for a range: its relative error is the same at both ends where both are above zero.
fn middle((above, upto): (f64, f64)) -> f64 {
    if !upto.is_finite() {
        above
    } else if above > 0.0 {
        2.0 * above * upto / (above + upto)
    } else if above.is_finite() {
        f64::midpoint(above, upto)
    } else {
        upto
    }
}

/// One quantile of a latency, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantile {
    /// Which: 0.99.
    pub q: f64,
    /// The value; nothing below the minimum.
    pub value_ns: Option<f64>,
    /// Lower end of its interval.
    pub lo_ns: Option<f64>,
    /// Upper end of its interval.
    pub hi_ns: Option<f64>,
    /// How many values there were.
    pub n: u64,
    /// How many there must be for an interval.
    pub minimum_n: u64,
    /// The largest one.
    pub max_ns: Option<f64>,
}

/// Latencies of some time.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyBin {
    /// Which time.
    pub span: Span,
    /// What was counted in it.
    pub histogram: Histogram,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn buckets(of: &[(f64, f64, u64)]) -> Histogram {
        Histogram::new(
            of.iter()
                .map(|&(above, upto, count)| Bucket { above, upto, count })
                .collect(),
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_threshold_on_an_edge_is_exact_and_off_it_is_a_range() {
        // Default edges of http.server.request.duration have no 0.3 s.
        let http = buckets(&[(0.0, 0.1, 70), (0.1, 0.25, 20), (0.25, 0.5, 7), (0.5, f64::INFINITY, 3)]);
        assert_eq!(http.at_most(0.25), (90, 90));
        assert_eq!(http.at_most(0.3), (90, 97));
        assert_eq!(http.at_most(0.5), (97, 97));
        assert_eq!(http.at_most(7.0), (97, 100));
        assert_eq!(http.at_most(0.0), (0, 0));
        let known = Histogram::new(http.buckets().to_vec(), Some(0.9)).unwrap();
        assert_eq!(known.at_most(7.0), (100, 100));
        let exact = buckets(&[(0.3, 0.3, 5), (0.4, 0.4, 5)]);
        assert_eq!(
            (exact.at_most(0.3), exact.at_most(0.35), exact.at_most(0.29)),
            ((5, 5), (5, 5), (0, 0))
        );
    }

    #[test]
    fn quantiles_need_enough_values() {
        let few = buckets(&[(1.0, 2.0, 367)]);
        let p99 = few.estimate(0.99, Confidence::P95);
        assert_eq!(
            (p99.value_ns, p99.lo_ns, p99.n, p99.minimum_n, p99.max_ns),
            (None, None, 367, 368, Some(2.0))
        );
        let none = Histogram::default().estimate(0.5, Confidence::P95);
        assert_eq!((none.value_ns, none.n, none.max_ns), (None, 0, None));
        let exact: Vec<_> = (1..=1000)
            .map(|i| Bucket {
                above: i.into(),
                upto: i.into(),
                count: 1,
            })
            .collect();
        let p99 = Histogram::new(exact, None).unwrap().estimate(0.99, Confidence::P95);
        assert_eq!((p99.lo_ns, p99.hi_ns), (Some(983.0), Some(997.0)));
        assert!((p99.value_ns.unwrap() - 990.01).abs() < 1e-9);
    }

    #[test]
    fn no_ranges_are_refused() {
        for (above, upto) in [(f64::NAN, 1.0), (1.0, f64::NAN), (2.0, 1.0)] {
            assert!(Histogram::new(vec![Bucket { above, upto, count: 1 }], None).is_err());
        }
    }

    fn values() -> impl Strategy<Value = Vec<u16>> {
        prop::collection::vec(1_u16..2000, 1..300)
    }

    /// Buckets of this width, as a histogram that saw the values would have them.
    fn seen(values: &[u16], width: u16) -> Histogram {
        let bucket = |v: u16| {
            let below = (v - 1) / width * width;
            Bucket {
                above: below.into(),
                upto: (below + width).into(),
                count: 1,
            }
        };
        Histogram::new(
            values.iter().map(|&v| bucket(v)).collect(),
            values.iter().max().map(|&v| v.into()),
        )
        .unwrap()
    }

    proptest! {
        #[test]
        fn ranges_hold_the_truth(values in values(), others in values(), threshold in 0_u16..2100, q in 0.0_f64..=1.0) {
            // Two resolutions in one histogram, merged in either order.
            let (mut a, b) = (seen(&values, 16), seen(&others, 64));
            let mut swapped = b.clone();
            swapped.merge(&a);
            a.merge(&b);
            prop_assert_eq!(&a, &swapped);
            let mut all: Vec<u16> = values.iter().chain(&others).copied().collect();
            all.sort_unstable();
            let truth = all.iter().filter(|v| **v <= threshold).count() as u64;
            let (least, most) = a.at_most(threshold.into());
            prop_assert!(least <= truth && truth <= most, "{least} {truth} {most}");
            let rank = ((q * all.len() as f64).ceil() as usize).clamp(1, all.len());
            let (above, upto) = a.at_rank(rank as u64).unwrap();
            let value = f64::from(all[rank - 1]);
            prop_assert!(above <= value && value <= upto, "{above} {value} {upto}");
        }

        #[test]
        fn fine_buckets_give_the_exact_quantile(values in values(), q in 0.0_f64..=1.0) {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let exact: Vec<_> = values.iter().map(|&v| Bucket { above: v.into(), upto: v.into(), count: 1 }).collect();
            let rank = q * (sorted.len() - 1) as f64;
            let (low, high) = (f64::from(sorted[rank.floor() as usize]), f64::from(sorted[rank.ceil() as usize]));
            let ours = Histogram::new(exact, None).unwrap().quantile(q).unwrap();
            prop_assert!((ours - (low + (high - low) * rank.fract())).abs() < 1e-9);
        }
    }
}
