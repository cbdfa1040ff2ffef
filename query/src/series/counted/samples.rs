//! From deltas to the samples of a counter.

use std::sync::Arc;

use tailwater_model::exphist::{Malformed, SCALE, View};
use tailwater_promql::{Floats, Histogram, Histograms, Labels, ResetHint, Series, number};

use super::super::Room;
use super::super::grid::Grid;
use super::family::bucket_bounds;
use crate::error::{Error, Result};

/// Half width of the zero bucket, as Prometheus' own histograms have it: 2^-128.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// From where to where a series lives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'g> {
    pub from_ms: i64,
    pub end_ms: i64,
    /// For how long it is there after it counted last, ms; `None` to the end.
    pub stays_ms: Option<i64>,
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

    /// A number over all bins.
    pub fn total(&self, column: usize) -> i128 {
        (0..self.bins.len())
            .map(|bin| i128::from(self.number(bin, column)))
            .sum()
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
        let times = &span.grid.times;
        let after = times.partition_point(|time| *time <= born);
        let upto = times.partition_point(|time| *time <= span.end_ms).max(after);
        let last = times[after..upto].last().copied().unwrap_or(born);
        // Where it ends before the last moment, it ends with all it counted.
        let cut = (upto < times.len() && last < span.end_ms).then_some(span.end_ms);
        let (mut counted_ms, mut is_gone) = (born, false);
        for time in times[after..upto].iter().copied().chain(cut) {
            let upto_bin = |at: &usize| cut == Some(time) || span.grid.end_ms(self.bins[*at]) <= time;
            while let Some(bin) = left.next_if(upto_bin) {
                counted_ms = span.grid.end_ms(self.bins[bin]).min(time);
                meet(Met::Bin(bin));
            }
            let was_gone = is_gone;
            is_gone = span.stays_ms.is_some_and(|stays| time - counted_ms >= stays);
            match (was_gone, is_gone) {
                (_, false) => meet(Met::Sample(time)),
                (false, true) => meet(Met::End(time)),
                (true, true) => {}
            }
        }
    }

    /// A counter of a number, divided by `by`.
    pub fn counter(&self, labels: Labels, span: &Span<'_>, column: usize, by: f64) -> Series {
        let (mut floats, mut total) = (Floats::default(), 0i64);
        self.walk(span, |met| match met {
            Met::Bin(bin) => total = total.saturating_add(self.number(bin, column)),
            #[allow(clippy::cast_precision_loss)] // Exact up to 2^53.
            Met::Sample(time) => floats.push(time, total as f64 / by),
            Met::End(time) => floats.push(time, number::stale()),
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
            Met::End(time) => floats.push(time, number::stale()),
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

    /// A native histogram of seconds out of sketches of ns: columns of sums and of sketches.
    pub fn native(
        &self,
        labels: Labels,
        span: &Span<'_>,
        (sums, column): (usize, usize),
        room: &mut Room,
        unreadable: impl Fn(Malformed) -> Error,
    ) -> Result<Series> {
        let mut histograms = Histograms::default();
        let mut total = Total::default();
        let mut current: Option<Arc<Histogram>> = None;
        let mut meet = |met| -> Result<()> {
            match met {
                Met::Bin(bin) => {
                    current = None;
                    let added = total.add(self.number(bin, sums), self.sketch(bin, column));
                    added.map_err(&unreadable)?;
                }
                Met::Sample(time) => {
                    room.take(1)?;
                    let value = match current.take() {
                        Some(value) => value,
                        None => {
                            let value = total.histogram(histograms.times.is_empty());
                            room.take_histogram(&value)?;
                            Arc::new(value)
                        }
                    };
                    histograms.push(time, value.clone());
                    current = Some(value);
                }
                Met::End(time) => {
                    let ended = Histogram {
                        sum: number::stale(),
                        ..Histogram::default()
                    };
                    room.take_histogram(&ended)?;
                    histograms.push(time, Arc::new(ended));
                }
            }
            Ok(())
        };
        let mut read: Result<()> = Ok(());
        self.walk(span, |met| {
            if read.is_ok() {
                read = meet(met);
            }
        });
        read?;
        Ok(Series {
            labels,
            histograms,
            ..Series::default()
        })
    }
}

/// What a native histogram counted so far.
#[derive(Default)]
struct Total {
    buckets: Vec<(i32, f64)>,
    zeros: f64,
    sum_ns: i64,
}

impl Total {
    fn add(&mut self, sum_ns: i64, sketch: &[u8]) -> Result<(), Malformed> {
        self.sum_ns = self.sum_ns.saturating_add(sum_ns);
        if sketch.is_empty() {
            return Ok(());
        }
        let (mut at, buckets) = (0, &mut self.buckets);
        self.zeros += View::parse(sketch)?.each_positive(|bucket, count| {
            let index = native_index(bucket);
            while buckets.get(at).is_some_and(|(other, _)| *other < index) {
                at += 1;
            }
            match buckets.get_mut(at) {
                Some((other, before)) if *other == index => *before += count,
                _ => buckets.insert(at, (index, count)),
            }
        })?;
        Ok(())
    }

    fn histogram(&self, is_first: bool) -> Histogram {
        Histogram {
            // It only ever grows: nobody need compare the buckets of two samples to see that.
            reset: if is_first { ResetHint::Unknown } else { ResetHint::NotReset },
            schema: i32::from(SCALE),
            zero_threshold: ZERO_THRESHOLD,
            zero_count: self.zeros,
            count: self.zeros + self.buckets.iter().map(|(_, count)| count).sum::<f64>(),
            #[allow(clippy::cast_precision_loss)] // Exact up to 2^53 ns.
            sum: self.sum_ns as f64 / 1e9,
            positive: self.buckets.clone(),
            ..Histogram::default()
        }
    }
}

enum Met {
    Bin(usize),
    Sample(i64),
    /// From here on it is not there.
    End(i64),
}

/// The bucket in seconds, with Prometheus' numbers (`(base^(i-1), base^i]`), that holds the middle of a bucket of ns.
fn native_index(bucket_of_ns: i32) -> i32 {
    // log2(10^9) is 956.72 buckets: the middle of bucket `i` lies 0.22 of a bucket before the end of bucket `i - 956` of seconds.
    const OF_A_SECOND: i32 = 956;
    bucket_of_ns - OF_A_SECOND
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use tailwater_model::exphist::ExpHist;

    use super::*;
    use crate::error::ErrorKind;

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
                stays_ms: None,
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

    #[test]
    fn a_counter_that_stopped_ends() {
        let cut = |bins: &[(i64, i64)], stays_ms: Option<i64>, end_ms: i64, expected: &[(i64, Option<f64>)]| {
            let times: Vec<i64> = (1..=8).map(|bin| bin * 10).collect();
            let grid = grid(&times);
            let span = Span {
                from_ms: 1,
                end_ms,
                stays_ms,
                grid: &grid,
            };
            let series = deltas(bins).counter(Labels::default(), &span, 0, 1.0);
            let shown = |value| Some(value).filter(|value| !number::is_stale(*value));
            let values = series.floats.values.into_iter().map(shown);
            let found: Vec<(i64, Option<f64>)> = series.floats.times.into_iter().zip(values).collect();
            assert_eq!(found, expected, "{bins:?} {stays_ms:?} {end_ms}");
        };
        let check = |bins: &[(i64, i64)], stays_ms, expected: &[(i64, Option<f64>)]| cut(bins, stays_ms, 80, expected);
        let still: Vec<(i64, Option<f64>)> = (1..=8).map(|bin| (bin * 10, Some(2.0))).collect();
        let born = [(1, Some(0.0))];
        check(&[(10, 2)], None, &[&born, &still[..]].concat());
        check(&[(10, 2)], Some(30), &[&born, &still[..3], &[(40, None)]].concat());
        let again = [(70, Some(5.0)), (80, Some(5.0))];
        check(
            &[(10, 2), (70, 3)],
            Some(30),
            &[&born, &still[..3], &[(40, None)], &again].concat(),
        );
        // Slices are on their way, and none of what has stopped.
        cut(&[(10, 2)], None, 75, &[&born, &still[..7], &[(75, Some(2.0))]].concat());
        cut(&[(10, 2)], Some(30), 75, &[&born, &still[..3], &[(40, None)]].concat());
        cut(&[(10, 2)], Some(60), 75, &[&born, &still[..6], &[(70, None)]].concat());
        cut(&[(10, 2)], Some(65), 75, &[&born, &still[..7], &[(75, None)]].concat());
    }

    #[test]
    fn native_histograms_take_room() {
        let mut deltas = Deltas::default();
        let mut sketch = ExpHist::new();
        (0..200).for_each(|at| sketch.record(f64::from(at * at + 1)));
        let bytes = sketch.encode();
        (0..100).for_each(|bin| deltas.push(bin, [1].into_iter(), [&bytes[..]].into_iter()));
        deltas.sort();
        let times: Vec<i64> = (1..=100).map(|bin| bin * 10).collect();
        let grid = grid(&times);
        let span = Span {
            from_ms: 1,
            end_ms: 1000,
            stays_ms: None,
            grid: &grid,
        };
        let fits = |left: usize| {
            let unreadable = |_: Malformed| Error::new(ErrorKind::Damaged, "");
            let mut room = Room::with(left);
            let series = deltas.native(Labels::default(), &span, (0, 0), &mut room, unreadable);
            series.map_err(|error| error.kind())
        };
        assert_eq!(fits(1_000_000).unwrap().len(), 101);
        // As many as the samples are.
        assert_eq!(fits(200), Err(ErrorKind::Exhausted));
    }

    proptest! {
        #[test]
        fn seconds_are_at_most_a_bucket_off(ns in 1u64..1 << 45) {
            let mut sketch = ExpHist::new();
            sketch.record(ns as f64);
            let bytes = sketch.encode();
            let mut index = None;
            View::parse(&bytes).unwrap().each_positive(|bucket, _| index = Some(native_index(bucket))).unwrap();
            let index = index.unwrap();
            let bound = |index: i32| (f64::from(index) / 32.0).exp2();
            let seconds = ns as f64 / 1e9;
            let half = (1.0_f64 / 64.0).exp2() * (1.0 + 1e-9);
            prop_assert!(bound(index - 1) / half <= seconds && seconds <= bound(index) * half);
        }
    }
}
