//! `rate`, `increase`, `delta`, `irate`, `idelta`: what a counter or gauge gained (promql/functions.go, extrapolatedRate).

use std::sync::Arc;

use super::select::{Ranged, Sampled};
use super::window::{Place, Window};
use super::{Evaluator, Steps, Track};
use crate::error::Error;
use crate::histogram::{Histogram, ResetHint};
use crate::notes::{Notes, Operation};
use crate::value::Point;

/// What the extrapolation needs to know of the samples.
struct Span {
    first_ms: i64,
    last_ms: i64,
    samples: usize,
    /// The first value of a counter that rises and is not negative, over what it rose by: how far back it was zero.
    first_over_increase: Option<f64>,
}

#[allow(clippy::cast_precision_loss)] // Durations in ms and counts of samples, far below 2^53.
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// By what the increase between first and last sample is multiplied to cover the window.
///
/// A gap to the window's edge up to 1.1 times the mean distance of samples is taken as covered; else half a distance is.
/// A counter is not extrapolated below zero.
#[allow(clippy::cast_precision_loss)]
fn extrapolation(span: &Span, window: &Window<'_>) -> f64 {
    let mut to_start = seconds(span.first_ms - window.from_ms);
    let mut to_end = seconds(window.to_ms - span.last_ms);
    let sampled = seconds(span.last_ms - span.first_ms);
    let mean = sampled / (span.samples - 1) as f64;
    let threshold = mean * 1.1;
    if to_start >= threshold {
        to_start = mean / 2.0;
    }
    if let Some(ratio) = span.first_over_increase {
        let to_zero = sampled * ratio;
        if to_zero < to_start {
            to_start = to_zero;
        }
    }
    if to_end >= threshold {
        to_end = mean / 2.0;
    }
    if sampled == 0.0 {
        1.0
    } else {
        (sampled + to_start + to_end) / sampled
    }
}

impl Evaluator<'_> {
    pub(super) fn extrapolated(
        &self,
        function: &str,
        series: &Sampled<'_>,
        ranged: &Ranged<'_>,
        steps: Steps,
        place: Place<'_>,
        track: &mut Track,
    ) -> Result<(), Error> {
        let counter = function != "delta";
        let per = if function == "rate" {
            seconds(ranged.range_ms)
        } else {
            1.0
        };
        // Resets are few: where windows overlap their places are found once, not in every window that holds them.
        let overlapping = steps.step_ms < ranged.range_ms && steps.count > 1;
        let resets: Vec<usize> = if counter && overlapping {
            (1..series.values.len())
                .filter(|at| series.values[*at] < series.values[at - 1])
                .collect()
        } else {
            Vec::new()
        };
        let mut next_reset = 0;
        self.windows(series, ranged, steps, |window| {
            if window.is_mixed() {
                self.notes.borrow_mut().mixed_floats_histograms(place.metric, place.at);
                return;
            }
            if !window.histograms.is_empty() {
                let mut notes = self.notes.borrow_mut();
                if let Some(histogram) = rate_of_histograms(&window, counter, per, place, &mut notes) {
                    track.set(window.step, Point::Histogram(Arc::new(histogram)));
                }
                return;
            }
            let (values, times) = (window.values, window.times);
            let &[first, .., last] = values else { return };
            let mut increase = last - first;
            if counter && !overlapping {
                for pair in values.windows(2).filter(|pair| pair[1] < pair[0]) {
                    increase += pair[0];
                }
            } else if !resets.is_empty() {
                // Where the window begins in the series: its times are a part of the series' times.
                let begin = series.times.partition_point(|time| *time <= window.from_ms);
                while resets.get(next_reset).is_some_and(|at| *at <= begin) {
                    next_reset += 1;
                }
                for at in &resets[next_reset..] {
                    if *at >= begin + values.len() {
                        break;
                    }
                    increase += series.values[at - 1];
                }
            }
            let first_over_increase = (counter && increase > 0.0 && first >= 0.0).then(|| first / increase);
            let (first_ms, last_ms) = (times[0], times[times.len() - 1]);
            let span = Span {
                first_ms,
                last_ms,
                samples: times.len(),
                first_over_increase,
            };
            let mut factor = extrapolation(&span, &window);
            if function == "rate" {
                factor /= per;
            }
            track.values[window.step] = increase * factor;
        })
    }
}

fn rate_of_histograms(
    window: &Window<'_>,
    counter: bool,
    per: f64,
    place: Place<'_>,
    notes: &mut Notes,
) -> Option<Histogram> {
    let (histograms, times) = (window.histograms, window.histogram_times);
    if histograms.len() < 2 {
        return None;
    }
    let increase = increase_of_histograms(histograms, counter, place, notes)?;
    let first_over_increase =
        (counter && increase.count > 0.0 && histograms[0].count >= 0.0).then(|| histograms[0].count / increase.count);
    let (first_ms, last_ms) = (times[0], times[times.len() - 1]);
    let span = Span {
        first_ms,
        last_ms,
        samples: times.len(),
        first_over_increase,
    };
    Some(increase.times(extrapolation(&span, window) / per))
}

/// The difference of last and first, plus what resets in between took away. The result is a gauge.
fn increase_of_histograms(
    histograms: &[Arc<Histogram>],
    counter: bool,
    place: Place<'_>,
    notes: &mut Notes,
) -> Option<Histogram> {
    let (first, last) = (&histograms[0], &histograms[histograms.len() - 1]);
    let gauge = |histogram: &Histogram| histogram.reset == ResetHint::Gauge;
    if counter && (gauge(first) || gauge(last)) {
        notes.not_a_counter(place.metric, place.at);
    }
    let mut previous = Arc::clone(first);
    if counter && histograms[1].is_reset_after(first) {
        // The first one does not count then, and its layout does not matter.
        let (schema, bounds) = (histograms[1].schema, Arc::clone(&histograms[1].bounds));
        previous = Arc::new(Histogram {
            schema,
            bounds,
            ..Histogram::default()
        });
    }
    let custom = previous.is_custom();
    if last.is_custom() != custom {
        notes.mixed_schemas(place.metric, place.at);
        return None;
    }
    let mut schema = last.schema.min(previous.schema);
    if counter {
        for current in &histograms[1..histograms.len() - 1] {
            if gauge(current) {
                notes.not_a_counter(place.metric, place.at);
            }
            schema = schema.min(current.schema);
            if current.is_custom() != custom {
                notes.mixed_schemas(place.metric, place.at);
                return None;
            }
        }
    }
    let mut increase = last.reduced(schema);
    // Contradicting hints are no news here: resets are dealt with below.
    match increase.subtract(&previous) {
        Ok(added) if added.bounds_reconciled => notes.bounds_reconciled(Operation::Subtraction, place.at),
        Ok(_) => {}
        Err(_) => {
            notes.mixed_schemas(place.metric, place.at);
            return None;
        }
    }
    if counter {
        for current in &histograms[1..] {
            if current.is_reset_after(&previous) {
                match increase.add(&previous) {
                    Ok(added) if added.bounds_reconciled => notes.bounds_reconciled(Operation::Addition, place.at),
                    Ok(_) => {}
                    Err(_) => {
                        notes.mixed_schemas(place.metric, place.at);
                        return None;
                    }
                }
            }
            previous = Arc::clone(current);
        }
    } else if !gauge(first) || !gauge(last) {
        notes.not_a_gauge(place.metric, place.at);
    }
    increase.reset = ResetHint::Gauge;
    Some(increase.compact())
}

/// `irate` and `idelta`: the last two samples of either kind.
#[allow(clippy::cast_precision_loss)]
pub(super) fn instant(window: &Window<'_>, rate: bool, place: Place<'_>, notes: &mut Notes) -> Option<Point> {
    let mut newest: Vec<(i64, Point)> = Vec::with_capacity(4);
    let floats = window.times.iter().zip(window.values).rev().take(2);
    newest.extend(floats.map(|(time, value)| (*time, Point::Float(*value))));
    let histograms = window.histogram_times.iter().zip(window.histograms).rev().take(2);
    newest.extend(histograms.map(|(time, value)| (*time, Point::Histogram(Arc::clone(value)))));
    newest.sort_by_key(|(time, _)| *time);
    let [.., (before_ms, before), (now_ms, now)] = &newest[..] else {
        return None;
    };
    let interval = seconds(now_ms - before_ms);
    if interval == 0.0 {
        return None;
    }
    match (before, now) {
        (Point::Float(before), Point::Float(now)) => {
            let gained = if rate && now < before { *now } else { now - before };
            Some(Point::Float(if rate { gained / interval } else { gained }))
        }
        (Point::Histogram(before), Point::Histogram(now)) => {
            let gauges = [before, now]
                .iter()
                .filter(|histogram| histogram.reset == ResetHint::Gauge)
                .count();
            if rate && gauges > 0 {
                notes.not_a_counter(place.metric, place.at);
            }
            if !rate && gauges < 2 {
                notes.not_a_gauge(place.metric, place.at);
            }
            let mut gained = Histogram::clone(now);
            if !rate || !now.is_reset_after(before) {
                match gained.subtract(before) {
                    Ok(added) if added.bounds_reconciled => {
                        notes.bounds_reconciled(Operation::Subtraction, place.at);
                    }
                    Ok(_) => {}
                    Err(_) => {
                        notes.mixed_schemas(place.metric, place.at);
                        return None;
                    }
                }
            }
            gained.reset = ResetHint::Gauge;
            let gained = gained.compact();
            Some(Point::Histogram(Arc::new(if rate {
                gained.divided(interval)
            } else {
                gained
            })))
        }
        _ => {
            notes.mixed_floats_histograms(place.metric, place.at);
            None
        }
    }
}
