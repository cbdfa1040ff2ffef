//! From deltas to the samples of a counter.

use std::collections::BTreeMap;
use std::sync::Arc;

use tailwater_model::exphist::{Malformed, SCALE, View};
use tailwater_promql::{Floats, Histogram, Histograms, Labels, Series};

use super::super::grid::Grid;
use super::family::bucket_bounds;

/// Half width of the zero bucket, as Prometheus' own histograms have it: 2^-128.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// From where to where a series lives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'g> {
    pub from_ms: i64,
    pub end_ms: i64,
    pub grid: &'g Grid,
}

/// What one series counted, by bin.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    /// Bins, by the grid's numbers.
    bins: Vec<i64>,
    numbers: Vec<i64>,
    sketches: Vec<Box<[u8]>>,
    /// Where in `bins` those in order of time are.
    order: Vec<usize>,
}

impl Deltas {
    pub fn push<'a>(&mut self, bin: i64, numbers: impl Iterator<Item = i64>, sketches: impl Iterator<Item = &'a [u8]>) {
        self.bins.push(bin);
        self.numbers.extend(numbers);
        self.sketches.extend(sketches.map(Into::into));
    }

    /// Adds what another series of the same columns counted.
    pub fn absorb(&mut self, other: Deltas) {
        self.bins.extend(other.bins);
        self.numbers.extend(other.numbers);
        self.sketches.extend(other.sketches);
    }

    /// To be called once, before anything is read.
    pub fn sort(&mut self) {
        self.order = (0..self.bins.len()).collect();
        self.order.sort_unstable_by_key(|at| self.bins[*at]);
    }

    fn number(&self, bin: usize, column: usize) -> i64 {
        self.numbers[bin * (self.numbers.len() / self.bins.len()) + column]
    }

    fn sketch(&self, bin: usize, column: usize) -> &[u8] {
        &self.sketches[bin * (self.sketches.len() / self.bins.len()) + column]
    }

    /// The counts of a bin; none for an absent sketch.
    fn ranges(&self, bin: usize, column: usize) -> Result<Vec<(f64, f64, f64)>, Malformed> {
        match self.sketch(bin, column) {
            [] => Ok(Vec::new()),
            bytes => View::parse(bytes)?.ranges(),
        }
    }

    /// Bins and moments in the order in which a counter meets them: a bin counts from its end on.
    fn walk(&self, span: &Span<'_>, mut meet: impl FnMut(Met)) {
        let Some(first) = self.order.first() else { return };
        let mut left = self.order.iter().copied().peekable();
        // Not at the beginning itself: windows are open there, and the counter must be 0 inside.
        let born = (span.grid.end_ms(self.bins[*first] - 1) + 1).max(span.from_ms);
        meet(Met::Sample(born));
        let mut newest = born;
        let after = span.grid.times.partition_point(|time| *time <= born);
        for time in &span.grid.times[after..] {
            if *time > span.end_ms {
                break;
            }
            while let Some(bin) = left.next_if(|at| span.grid.end_ms(self.bins[*at]) <= *time) {
                meet(Met::Bin(bin));
            }
            meet(Met::Sample(*time));
            newest = *time;
        }
        let is_cut = span.grid.times.last().is_some_and(|last| *last > span.end_ms);
        if is_cut && newest < span.end_ms {
            left.for_each(|bin| meet(Met::Bin(bin)));
            meet(Met::Sample(span.end_ms));
        }
    }

    /// A counter of a number, divided by `by`.
    pub fn counter(&self, labels: Labels, span: &Span<'_>, column: usize, by: f64) -> Series {
        let (mut floats, mut total) = (Floats::default(), 0i64);
        self.walk(span, |met| match met {
            Met::Bin(bin) => total = total.saturating_add(self.number(bin, column)),
            #[allow(clippy::cast_precision_loss)] // Exact up to 2^53.
            Met::Sample(time) => floats.push(time, total as f64 / by),
        });
        Series {
            labels,
            floats,
            ..Series::default()
        }
    }

    /// A counter of what was counted per bin.
    pub fn floats(&self, labels: Labels, span: &Span<'_>, counts: &[f64]) -> Series {
        let (mut floats, mut total) = (Floats::default(), 0.0);
        self.walk(span, |met| match met {
            Met::Bin(bin) => total += counts[bin],
            Met::Sample(time) => floats.push(time, total),
        });
        Series {
            labels,
            floats,
            ..Series::default()
        }
    }

    /// How many values each bin's sketch holds.
    pub fn counts(&self, column: usize) -> Result<Vec<f64>, Malformed> {
        let bins = 0..self.bins.len();
        bins.map(|bin| Ok(self.ranges(bin, column)?.iter().map(|(_, _, count)| count).sum()))
            .collect()
    }

    /// Per bucket: how many values of each bin are at or below its bound.
    pub fn buckets(&self, column: usize) -> Result<Vec<Vec<f64>>, Malformed> {
        let bounds: Vec<f64> = bucket_bounds().map(|(bound, _)| bound).collect();
        let mut buckets = vec![vec![0.0; self.bins.len()]; bounds.len()];
        for bin in 0..self.bins.len() {
            for (_, upto, count) in self.ranges(bin, column)? {
                let first = bounds.partition_point(|bound| *bound < upto);
                for bucket in &mut buckets[first..] {
                    bucket[bin] += count;
                }
            }
        }
        Ok(buckets)
    }

    /// A native histogram of seconds out of sketches of ns.
    pub fn native(&self, labels: Labels, span: &Span<'_>, sums: usize, column: usize) -> Result<Series, Malformed> {
        let bins = 0..self.bins.len();
        let ranges: Vec<_> = bins.map(|bin| self.ranges(bin, column)).collect::<Result<_, _>>()?;
        let mut histograms = Histograms::default();
        let (mut buckets, mut zeros, mut sum_ns) = (BTreeMap::<i32, f64>::new(), 0.0, 0i64);
        let mut current: Option<Arc<Histogram>> = None;
        self.walk(span, |met| match met {
            Met::Bin(bin) => {
                current = None;
                sum_ns = sum_ns.saturating_add(self.number(bin, sums));
                for (_, upto, count) in &ranges[bin] {
                    match native_index(*upto) {
                        Some(index) => *buckets.entry(index).or_default() += count,
                        None => zeros += count,
                    }
                }
            }
            Met::Sample(time) => {
                let value = current.get_or_insert_with(|| {
                    let positive: Vec<(i32, f64)> = buckets.iter().map(|(index, count)| (*index, *count)).collect();
                    Arc::new(Histogram {
                        schema: i32::from(SCALE),
                        zero_threshold: ZERO_THRESHOLD,
                        zero_count: zeros,
                        count: zeros + positive.iter().map(|(_, count)| count).sum::<f64>(),
                        #[allow(clippy::cast_precision_loss)] // Exact up to 2^53 ns.
                        sum: sum_ns as f64 / 1e9,
                        positive,
                        ..Histogram::default()
                    })
                });
                histograms.push(time, value.clone());
            }
        });
        Ok(Series {
            labels,
            histograms,
            ..Series::default()
        })
    }
}

enum Met {
    Bin(usize),
    Sample(i64),
}

/// The bucket in seconds, with Prometheus' numbers (`(base^(i-1), base^i]`), that holds the middle of the bucket which ends at `upto_ns`.
/// `None` for zero.
fn native_index(upto_ns: f64) -> Option<i32> {
    let per_octave = f64::from(SCALE).exp2();
    #[allow(clippy::cast_possible_truncation)] // The exponent of a float, times 32.
    (upto_ns > 0.0).then(|| (upto_ns.log2() * per_octave - 0.5 - 1e9_f64.log2() * per_octave).ceil() as i32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn deltas(bins: &[(i64, i64)]) -> Deltas {
        let mut deltas = Deltas::default();
        for (end, n) in bins {
            deltas.push(end / 10 - 1, [*n].into_iter(), std::iter::empty());
        }
        deltas.sort();
        deltas
    }

    fn grid(times: &[i64]) -> Grid {
        Grid {
            begin_ms: 0,
            period_ms: 10,
            cut_ms: 0,
            apart: false,
            times: times.to_vec(),
        }
    }

    #[test]
    fn a_counter_begins_at_zero_and_stays() {
        let check = |bins: &[(i64, i64)], times: &[i64], end_ms: i64, expected: &[(i64, f64)]| {
            let grid = grid(times);
            let span = Span {
                from_ms: 1,
                end_ms,
                grid: &grid,
            };
            let series = deltas(bins).counter(Labels::default(), &span, 0, 1.0);
            let found: Vec<(i64, f64)> = series.floats.times.into_iter().zip(series.floats.values).collect();
            assert_eq!(found, expected);
        };
        check(&[(20, 3), (10, 2)], &[1, 50], 50, &[(1, 0.0), (50, 5.0)]);
        // Younger than the window: zero with its first slice.
        check(&[(40, 3)], &[1, 21, 50], 50, &[(31, 0.0), (50, 3.0)]);
        check(
            &[(20, 3)],
            &[1, 20, 21, 40],
            40,
            &[(11, 0.0), (20, 3.0), (21, 3.0), (40, 3.0)],
        );
        // Cut while slices are on their way.
        check(&[(10, 1), (20, 3)], &[1, 50], 20, &[(1, 0.0), (20, 4.0)]);
        check(&[], &[1, 50], 50, &[]);
    }

    proptest! {
        #[test]
        fn seconds_are_at_most_a_bucket_off(ns in 1u64..1 << 45) {
            let mut sketch = tailwater_model::exphist::ExpHist::new();
            sketch.record(ns as f64);
            let bytes = sketch.encode();
            let (_, upto, _) = View::parse(&bytes).unwrap().ranges().unwrap()[0];
            let index = native_index(upto).unwrap();
            let bound = |index: i32| (f64::from(index) / 32.0).exp2();
            let seconds = ns as f64 / 1e9;
            let half = (1.0_f64 / 64.0).exp2() * (1.0 + 1e-9);
            prop_assert!(bound(index - 1) / half <= seconds && seconds <= bound(index) * half);
        }
    }
}
