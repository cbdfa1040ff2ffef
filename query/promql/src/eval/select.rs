//! Selectors: the newest sample of each series at each step.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Evaluator, Steps, Track};
use crate::error::Error;
use crate::expr::{Expr, Node, Selector, Shift};
use crate::histogram::{Histogram, ResetHint};
use crate::labels::Labels;
use crate::number::is_stale;
use crate::sample::{Floats, Histograms, Series};
use crate::value::Point;

/// Samples of one series that a range function looks through: no stale markers, in order of time.
#[derive(Debug, Clone)]
pub(super) struct Sampled<'a> {
    pub labels: Labels,
    pub drop_name: bool,
    pub times: Cow<'a, [i64]>,
    pub values: Cow<'a, [f64]>,
    pub histogram_times: Cow<'a, [i64]>,
    pub histograms: Cow<'a, [Arc<Histogram>]>,
}

impl Sampled<'_> {
    fn owned(self) -> Sampled<'static> {
        Sampled {
            labels: self.labels,
            drop_name: self.drop_name,
            times: Cow::Owned(self.times.into_owned()),
            values: Cow::Owned(self.values.into_owned()),
            histogram_times: Cow::Owned(self.histogram_times.into_owned()),
            histograms: Cow::Owned(self.histograms.into_owned()),
        }
    }
}

/// What a range selector or subquery yields, and how its windows lie.
pub(super) struct Ranged<'a> {
    pub series: Vec<Sampled<'a>>,
    pub range_ms: i64,
    pub shift: Shift,
}

impl Evaluator<'_> {
    /// The moment that a step looks at.
    pub(super) fn looked_at(&self, shift: Shift, step_ms: i64) -> i64 {
        shift.at.map_or(step_ms, |at| self.params().moment(at)) - shift.offset_ms
    }

    pub(super) fn select(&self, selector: &Selector, steps: Steps) -> Result<Vec<Track>, Error> {
        let mut tracks = Vec::new();
        for series in self.plan.data(self.data, selector) {
            self.hold(steps.count)?;
            let mut track = Track::new(series.labels.clone(), false, steps.count);
            let totals = self.totals(selector, series);
            let series = totals.as_ref().unwrap_or(series);
            self.newest(series, selector.shift, steps, |step, _, point| track.set(step, point));
            if !track.is_empty() {
                tracks.push(track);
            }
        }
        Ok(tracks)
    }

    /// The series with histograms reduced to count and sum, if the query looks at nothing else. Resets are found on the
    /// way, sample by sample, and noted as hints; all that follows is spared the buckets.
    fn totals(&self, selector: &Selector, series: &Series) -> Option<Series> {
        let wanted = self.plan.query.totals_only.get(selector.id).copied().unwrap_or(false);
        if !wanted || series.histograms.times.is_empty() {
            return None;
        }
        let mut before: Option<&Arc<Histogram>> = None;
        let mut totals = Histograms {
            times: series.histograms.times.clone(),
            values: Vec::new(),
        };
        for histogram in &series.histograms.values {
            let mut reset = histogram.reset;
            if !is_stale(histogram.sum) {
                if let (ResetHint::Unknown, Some(before)) = (reset, before) {
                    let fell = histogram.is_reset_after(before);
                    reset = if fell { ResetHint::Reset } else { ResetHint::NotReset };
                }
                before = Some(histogram);
            }
            let (schema, count, sum) = (histogram.schema, histogram.count, histogram.sum);
            totals.values.push(Arc::new(Histogram {
                reset,
                schema,
                count,
                sum,
                ..Histogram::default()
            }));
        }
        Some(Series {
            labels: series.labels.clone(),
            floats: series.floats.clone(),
            histograms: totals,
        })
    }

    /// Calls `found` with the time and value of the newest sample at each step that has one within the look-back.
    pub(super) fn newest(&self, series: &Series, shift: Shift, steps: Steps, mut found: impl FnMut(usize, i64, Point)) {
        let lookback_ms = self.params().lookback_ms;
        let (floats, histograms) = (&series.floats, &series.histograms);
        let (mut float, mut histogram) = (0, 0);
        for step in 0..steps.count {
            let at = self.looked_at(shift, steps.time(step));
            float = forward(&floats.times, float, at);
            histogram = forward(&histograms.times, histogram, at);
            let newest_float = float.checked_sub(1).map(|number| (floats.times[number], number));
            let newest_histogram = histogram
                .checked_sub(1)
                .map(|number| (histograms.times[number], number));
            let oldest = at - lookback_ms;
            match (newest_float, newest_histogram) {
                (Some((time, number)), other) if other.is_none_or(|(later, _)| later < time) => {
                    let value = floats.values[number];
                    if time > oldest && !is_stale(value) {
                        found(step, time, Point::Float(value));
                    }
                }
                (_, Some((time, number))) => {
                    let value = &histograms.values[number];
                    if time > oldest && !is_stale(value.sum) {
                        found(step, time, Point::Histogram(Arc::clone(value)));
                    }
                }
                _ => {}
            }
        }
    }

    /// The samples that a range function's windows are cut from.
    pub(super) fn ranged(&self, node: &Node, steps: Steps) -> Result<Ranged<'_>, Error> {
        match &node.expr {
            Expr::Range { selector, range_ms } => {
                let data = self.plan.data(self.data, selector).iter();
                let series = data.map(|series| match self.totals(selector, series) {
                    Some(totals) => sampled(&totals).owned(),
                    None => sampled(series),
                });
                let series = series.collect();
                Ok(Ranged {
                    series,
                    range_ms: *range_ms,
                    shift: selector.shift,
                })
            }
            Expr::Subquery {
                inner, range_ms, shift, ..
            } => {
                let inner_steps = self.subquery_steps(node, steps);
                let tracks = self.vector(inner, inner_steps)?;
                let series = tracks.into_iter().map(|track| from_track(track, inner_steps)).collect();
                Ok(Ranged {
                    series,
                    range_ms: *range_ms,
                    shift: *shift,
                })
            }
            Expr::Paren(inner) | Expr::Constant(inner) => self.ranged(inner, steps),
            _ => Err(Error::execution("expected type range vector, got instant vector")),
        }
    }

    /// The steps of a subquery: multiples of its own step, after the beginning of the first window (subqueryTimeRange).
    fn subquery_steps(&self, node: &Node, steps: Steps) -> Steps {
        let Expr::Subquery {
            range_ms,
            step_ms,
            shift,
            ..
        } = &node.expr
        else {
            return Steps { count: 0, ..steps };
        };
        if steps.count == 0 {
            return steps;
        }
        let step_ms = step_ms.unwrap_or(self.params().subquery_step_ms).max(1);
        let from = self.looked_at(*shift, steps.start_ms) - range_ms;
        let to = self.looked_at(*shift, steps.last());
        let mut start = step_ms * (from / step_ms);
        if start <= from {
            start += step_ms;
        }
        Steps::new(start, to, step_ms)
    }

    /// The samples of a range selector or subquery as an answer of an instant query.
    pub(super) fn matrix(&self, node: &Node, steps: Steps) -> Result<Vec<Series>, Error> {
        let ranged = self.ranged(node, steps)?;
        let to = self.looked_at(ranged.shift, steps.start_ms);
        let from = to - ranged.range_ms;
        let mut all = Vec::with_capacity(ranged.series.len());
        for series in ranged.series {
            self.hold(series.times.len())?;
            let labels = if series.drop_name {
                series.labels.without_metadata()
            } else {
                series.labels
            };
            let (a, b) = (forward(&series.times, 0, from), forward(&series.times, 0, to));
            let floats = Floats {
                times: series.times[a..b].to_vec(),
                values: series.values[a..b].to_vec(),
            };
            let (a, b) = (
                forward(&series.histogram_times, 0, from),
                forward(&series.histogram_times, 0, to),
            );
            let histograms = Histograms {
                times: series.histogram_times[a..b].to_vec(),
                values: series.histograms[a..b].to_vec(),
            };
            all.push(Series {
                labels,
                floats,
                histograms,
            });
        }
        Ok(all)
    }
}

/// How many of the rising `times` are at or before `at`, knowing that `from` of them are.
pub(super) fn forward(times: &[i64], from: usize, at: i64) -> usize {
    // Steps are near each other: strides that double find the place in a few looks, all of them close by.
    let (mut low, mut stride) = (from, 1);
    while times.get(low + stride - 1).is_some_and(|time| *time <= at) {
        low += stride;
        stride *= 2;
    }
    let high = times.len().min(low + stride - 1);
    low + times[low..high].partition_point(|time| *time <= at)
}

fn sampled(series: &Series) -> Sampled<'_> {
    let (floats, histograms) = (&series.floats, &series.histograms);
    let (times, values) = if floats.has_stale() {
        let kept = floats
            .times
            .iter()
            .zip(&floats.values)
            .filter(|(_, value)| !is_stale(**value));
        let (times, values): (Vec<i64>, Vec<f64>) = kept.map(|(time, value)| (*time, *value)).unzip();
        (Cow::Owned(times), Cow::Owned(values))
    } else {
        (Cow::Borrowed(&floats.times[..]), Cow::Borrowed(&floats.values[..]))
    };
    let (histogram_times, values_of_histograms) = if histograms.has_stale() {
        let kept = histograms
            .times
            .iter()
            .zip(&histograms.values)
            .filter(|(_, value)| !is_stale(value.sum));
        let (times, values): (Vec<i64>, Vec<Arc<Histogram>>) =
            kept.map(|(time, value)| (*time, Arc::clone(value))).unzip();
        (Cow::Owned(times), Cow::Owned(values))
    } else {
        (
            Cow::Borrowed(&histograms.times[..]),
            Cow::Borrowed(&histograms.values[..]),
        )
    };
    Sampled {
        labels: series.labels.clone(),
        drop_name: false,
        times,
        values,
        histogram_times,
        histograms: values_of_histograms,
    }
}

fn from_track(track: Track, steps: Steps) -> Sampled<'static> {
    let drop_name = track.drop_name;
    let mut series = super::series(track, steps);
    for histogram in &mut series.histograms.values {
        // A subquery may skip or repeat samples: what was known about resets between them holds no longer.
        if matches!(histogram.reset, ResetHint::Reset | ResetHint::NotReset) {
            *histogram = Arc::new(Histogram {
                reset: ResetHint::Unknown,
                ..Histogram::clone(histogram)
            });
        }
    }
    Sampled {
        labels: series.labels,
        drop_name,
        times: Cow::Owned(series.floats.times),
        values: Cow::Owned(series.floats.values),
        histogram_times: Cow::Owned(series.histograms.times),
        histograms: Cow::Owned(series.histograms.values),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::forward;

    proptest! {
        #[test]
        fn forward_finds_what_a_search_from_the_beginning_finds(
            mut times in proptest::collection::vec(-1000..1000i64, 0..200),
            at in -1100..1100i64,
            part in 0.0..=1.0f64,
        ) {
            times.sort_unstable();
            let expected = times.partition_point(|time| *time <= at);
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let from = (expected as f64 * part) as usize;
            prop_assert_eq!(forward(&times, from, at), expected);
        }
    }
}
