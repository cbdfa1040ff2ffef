//! Quantiles and fractions over buckets: classic ones, a series per `le`, and native ones (promql/quantile.go).

use std::cmp::Ordering;
use std::sync::Arc;

use ahash::AHashMap;

use super::call::texts;
use super::{Evaluator, Steps, Track};
use crate::error::Error;
use crate::expr::Node;
use crate::histogram::{self, Histogram, Observed};
use crate::labels::{BUCKET, Labels};
use crate::notes::{Position, Straightened};
use crate::number::{almost_equal, general, is_stale, parse};
use crate::value::Point;

/// Neighbouring buckets that differ by less than this part of their sum differ by rounding only.
const TOLERANCE: f64 = 1e-12;

/// What belongs together: the buckets of one classic histogram by rising bound, or one native histogram, or both.
#[derive(Default)]
struct Together {
    labels: Labels,
    buckets: Vec<(f64, usize)>,
    native: Option<usize>,
}

/// A bound and the count of observations at or below it.
type Cumulative = (f64, f64);

impl Evaluator<'_> {
    #[allow(clippy::needless_range_loop)] // A step indexes several columns at once.
    pub(super) fn of_buckets(&self, function: &str, args: &[Node], steps: Steps) -> Result<Vec<Track>, Error> {
        let (vector, numbers, label) = match function {
            "histogram_quantile" => (&args[1], &args[..1], None),
            "histogram_fraction" => (&args[2], &args[..2], None),
            _ => (&args[0], &args[2..], Some(texts(&args[1..2])?.remove(0))),
        };
        let scalars = numbers
            .iter()
            .map(|arg| self.scalar(arg, steps))
            .collect::<Result<Vec<_>, _>>()?;
        if label.is_some()
            && scalars
                .iter()
                .any(|q| q.iter().any(|now| now.to_bits() != q[0].to_bits()))
        {
            // The quantile is a label of the result, which would then be another series at every step.
            return Err(Error::unsupported(
                "histogram_quantiles() with a quantile that changes with time",
                "write histogram_quantile() for each",
            ));
        }
        let tracks = self.vector(vector, steps)?;
        if function != "histogram_fraction" {
            for (values, arg) in scalars.iter().zip(numbers) {
                for q in values.iter().filter(|q| q.is_nan() || !(0.0..=1.0).contains(*q)) {
                    self.notes.borrow_mut().invalid_quantile(*q, arg.at);
                }
            }
        }
        let groups = self.together(&tracks, vector.at);
        let mut results = Vec::with_capacity(groups.len());
        let mut cumulative = Vec::new();
        for group in &groups {
            // One result per group, or one per quantile asked for.
            let wanted = if function == "histogram_fraction" {
                1
            } else {
                scalars.len()
            };
            let mut own: Vec<Track> = Vec::with_capacity(wanted);
            for number in 0..wanted {
                self.hold(steps.count)?;
                let labels = match &label {
                    Some(label) => group.labels.with(label, &open_metrics(scalars[number][0])),
                    None => group.labels.clone(),
                };
                own.push(Track::new(labels, true, steps.count));
            }
            for step in 0..steps.count {
                let native = group.native.and_then(|number| tracks[number].histogram(step));
                cumulative.clear();
                cumulative.extend(group.buckets.iter().filter_map(|(bound, number)| {
                    let value = tracks[*number].values[step];
                    (!is_stale(value)).then_some((*bound, value))
                }));
                match native {
                    Some(_) if !cumulative.is_empty() => {
                        self.notes
                            .borrow_mut()
                            .mixed_classic_native(group.labels.metric(), vector.at);
                    }
                    Some(histogram) => {
                        for (number, track) in own.iter_mut().enumerate() {
                            let value = if function == "histogram_fraction" {
                                let (lower, upper) = (scalars[0][step], scalars[1][step]);
                                self.native_fraction(lower, upper, histogram, &group.labels, vector.at)
                            } else {
                                self.native_quantile(scalars[number][step], histogram, &group.labels, vector.at)
                            };
                            track.set(step, Point::Float(value));
                        }
                    }
                    None if cumulative.is_empty() => {}
                    None if function == "histogram_fraction" => {
                        own[0].values[step] = classic_fraction(scalars[0][step], scalars[1][step], &mut cumulative);
                    }
                    None => {
                        let kept = cumulative.clone();
                        for (number, track) in own.iter_mut().enumerate() {
                            cumulative.clone_from(&kept);
                            let (value, straightened) = classic_quantile(scalars[number][step], &mut cumulative);
                            if let Some(how) = straightened {
                                let metric = group.labels.metric();
                                self.notes
                                    .borrow_mut()
                                    .forced_monotonicity(metric, vector.at, steps.time(step), how);
                            }
                            track.values[step] = value;
                        }
                    }
                }
            }
            results.extend(own.into_iter().filter(|track| !track.is_empty()));
        }
        Ok(results)
    }

    fn together(&self, tracks: &[Track], at: Position) -> Vec<Together> {
        let mut groups: Vec<Together> = Vec::new();
        let mut known: AHashMap<Labels, usize> = AHashMap::new();
        let mut group = |labels: Labels| -> usize {
            let next = groups.len();
            let at = *known.entry(labels.clone()).or_insert(next);
            if at == next {
                groups.push(Together {
                    labels,
                    ..Together::default()
                });
            }
            at
        };
        // First which group, then what goes into it: both cannot hold the list at once.
        let mut buckets = Vec::new();
        let mut natives = Vec::new();
        for (number, track) in tracks.iter().enumerate() {
            if track.histograms.is_some() {
                natives.push((group(track.labels.clone()), number));
            }
            if track.values.iter().all(|value| is_stale(*value)) {
                continue;
            }
            let bound = track.labels.get(BUCKET);
            match parse(bound) {
                Some(bound) => buckets.push((group(track.labels.with(BUCKET, "")), bound, number)),
                None => self
                    .notes
                    .borrow_mut()
                    .bad_bucket_label(track.labels.metric(), bound, at),
            }
        }
        for (at, number) in natives {
            groups[at].native = Some(number);
        }
        for (at, bound, number) in buckets {
            groups[at].buckets.push((bound, number));
        }
        for group in &mut groups {
            group.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        groups
    }

    fn native_quantile(&self, q: f64, histogram: &Arc<Histogram>, labels: &Labels, at: Position) -> f64 {
        let (value, observed) = histogram::quantile(q, histogram);
        match observed {
            Observed::Plain => {}
            Observed::Skewed => self.notes.borrow_mut().quantile_is_skewed(labels.metric(), at),
            Observed::Nan => self.notes.borrow_mut().quantile_is_nan(labels.metric(), at),
        }
        value
    }

    fn native_fraction(
        &self,
        lower: f64,
        upper: f64,
        histogram: &Arc<Histogram>,
        labels: &Labels,
        at: Position,
    ) -> f64 {
        let (value, observed) = histogram::fraction(lower, upper, histogram);
        if observed != Observed::Plain {
            self.notes.borrow_mut().fraction_without_nan(labels.metric(), at);
        }
        value
    }
}

/// A quantile as a label's value: always with a point or an exponent.
fn open_metrics(q: f64) -> String {
    let text = general(q);
    if q.is_finite() && !text.contains(['e', '.']) {
        format!("{text}.0")
    } else {
        text
    }
}

/// Counts of equal bounds are one bucket (`le="1"` and `le="1.0"`).
fn coalesce(buckets: &mut Vec<Cumulative>) {
    buckets.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
}

/// Counts that fall with rising bounds are wrong: scrapes of different age, or rounding. Takes the earlier count instead.
fn straighten(buckets: &mut [Cumulative]) -> Option<Straightened> {
    let mut how = Straightened {
        min_bound: f64::INFINITY,
        max_bound: f64::NEG_INFINITY,
        max_difference: 0.0,
    };
    let mut forced = false;
    let mut before = buckets[0].1;
    for (bound, count) in &mut buckets[1..] {
        if *count == before {
            continue;
        }
        if almost_equal(before, *count, TOLERANCE) {
            *count = before;
        } else if *count < before {
            forced = true;
            how.min_bound = how.min_bound.min(*bound);
            how.max_bound = how.max_bound.max(*bound);
            how.max_difference = how.max_difference.max(before - *count);
            *count = before;
        } else {
            before = *count;
        }
    }
    forced.then_some(how)
}

/// Linear interpolation inside the bucket that holds the rank; the first bucket begins at zero if its bound is above.
fn classic_quantile(q: f64, buckets: &mut Vec<Cumulative>) -> (f64, Option<Straightened>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if buckets.last().is_none_or(|last| last.0 != f64::INFINITY) {
        return (f64::NAN, None);
    }
    coalesce(buckets);
    let straightened = straighten(buckets);
    let last = buckets.len() - 1;
    let observations = buckets[last].1;
    if last == 0 || observations == 0.0 {
        return (f64::NAN, straightened);
    }
    let mut rank = q * observations;
    // The first bucket whose count reaches the rank, by halving as Go's sort.Search does: with NaN counts it matters.
    let at = buckets[..last].partition_point(|bucket| bucket.1.partial_cmp(&rank).is_none_or(Ordering::is_lt));
    if at == last {
        return (buckets[last - 1].0, straightened);
    }
    if at == 0 && buckets[0].0 <= 0.0 {
        return (buckets[0].0, straightened);
    }
    let (mut start, end, mut count) = (0.0, buckets[at].0, buckets[at].1);
    if at > 0 {
        start = buckets[at - 1].0;
        count -= buckets[at - 1].1;
        rank -= buckets[at - 1].1;
    }
    (start + (end - start) * (rank / count), straightened)
}

fn classic_fraction(lower: f64, upper: f64, buckets: &mut Vec<Cumulative>) -> f64 {
    if buckets.last().is_none_or(|last| last.0 != f64::INFINITY) {
        return f64::NAN;
    }
    coalesce(buckets);
    let count = buckets[buckets.len() - 1].1;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut rank = 0.0;
    let mut begin = if buckets[0].0 <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    let (mut below_lower, mut below_upper) = (None, None);
    for (end, up_to) in buckets.iter().copied() {
        let below = |value: f64| {
            if begin >= value {
                Some(rank)
            } else if end > value {
                // No interpolation in a bucket without beginning.
                let inside = if begin == f64::NEG_INFINITY {
                    up_to
                } else {
                    rank + (up_to - rank) * (value - begin) / (end - begin)
                };
                Some(inside)
            } else {
                None
            }
        };
        below_lower = below_lower.or_else(|| below(lower));
        below_upper = below_upper.or_else(|| below(upper));
        if below_lower.is_some() && below_upper.is_some() {
            break;
        }
        rank = up_to;
        begin = end;
    }
    let capped = |below: Option<f64>| below.map_or(count, |below| if below > count { count } else { below });
    (capped(below_upper) - capped(below_lower)) / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_classic_buckets() {
        let check = |q: f64, buckets: &[Cumulative], expected: f64, fixed: bool| {
            let (value, straightened) = classic_quantile(q, &mut buckets.to_vec());
            assert!(
                value == expected || (value.is_nan() && expected.is_nan()),
                "{q}: {value} {expected}"
            );
            assert_eq!(straightened.is_some(), fixed);
        };
        let end = f64::INFINITY;
        check(0.5, &[(1.0, 2.0), (2.0, 4.0), (end, 4.0)], 1.0, false);
        check(0.75, &[(1.0, 2.0), (2.0, 4.0), (end, 4.0)], 1.5, false);
        check(1.0, &[(1.0, 2.0), (end, 4.0)], 1.0, false);
        check(0.5, &[(1.0, 2.0), (2.0, 1.0), (end, 4.0)], 1.0, true);
        check(0.5, &[(1.0, 1.0), (1.0, 1.0), (end, 4.0)], 1.0, false);
        check(0.5, &[(1.0, 2.0)], f64::NAN, false);
        check(0.5, &[(end, 2.0)], f64::NAN, false);
        check(0.1, &[(-1.0, 2.0), (end, 2.0)], -1.0, false);
    }

    #[test]
    fn fractions_of_classic_buckets() {
        let buckets = [(1.0, 2.0), (2.0, 4.0), (f64::INFINITY, 8.0)];
        let check = |lower: f64, upper: f64, expected: f64| {
            assert_eq!(
                classic_fraction(lower, upper, &mut buckets.to_vec()),
                expected,
                "{lower} {upper}"
            );
        };
        check(0.0, 1.0, 0.25);
        check(0.5, 1.5, 0.25);
        check(1.0, f64::INFINITY, 0.75);
        check(2.0, 1.0, 0.0);
        check(f64::NEG_INFINITY, f64::INFINITY, 1.0);
    }
}
