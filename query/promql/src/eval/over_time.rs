//! `<aggregation>_over_time`: one number or histogram of a window.

use std::sync::Arc;

use super::rank::quantile;
use super::window::{Place, Window};
use crate::error::Error;
use crate::histogram::{Accumulator, Histogram, IncompatibleBuckets, ResetHint};
use crate::notes::{Notes, Operation};
use crate::number::kahan;
use crate::value::Point;

/// The value of a window; `None` where the function gives none.
#[allow(clippy::cast_precision_loss)] // Counts of samples and times in ms, far below 2^53.
pub(super) fn point(
    function: &str,
    window: &Window<'_>,
    scalars: &[Vec<f64>],
    place: Place<'_>,
    notes: &mut Notes,
) -> Result<Option<Point>, Error> {
    let values = window.values;
    let float = |value: f64| Ok(Some(Point::Float(value)));
    match function {
        "count_over_time" => return float((values.len() + window.histograms.len()) as f64),
        "present_over_time" => return float(1.0),
        "first_over_time" => return Ok(first(window)),
        "last_over_time" => return Ok(last(window)),
        "ts_of_first_over_time" => {
            let first = window
                .times
                .first()
                .into_iter()
                .chain(window.histogram_times.first())
                .min();
            return Ok(first.map(|time| Point::Float(*time as f64 / 1000.0)));
        }
        "ts_of_last_over_time" => {
            let last = window
                .times
                .last()
                .into_iter()
                .chain(window.histogram_times.last())
                .max();
            return Ok(last.map(|time| Point::Float(*time as f64 / 1000.0)));
        }
        "sum_over_time" | "avg_over_time" => {
            if window.is_mixed() {
                notes.mixed_floats_histograms(place.metric, place.at);
                return Ok(None);
            }
            if values.is_empty() {
                let mean = function == "avg_over_time";
                return Ok(of_histograms(window.histograms, mean, place, notes));
            }
            return float(if function == "sum_over_time" {
                sum(values)
            } else {
                mean(values)
            });
        }
        _ => {}
    }
    // All others know floats only, and say so where histograms are among them.
    if values.is_empty() {
        return Ok(None);
    }
    if function == "quantile_over_time" {
        let q = scalars[0][window.step];
        if q.is_nan() || !(0.0..=1.0).contains(&q) {
            notes.invalid_quantile(q, place.at);
        }
    }
    if !window.histograms.is_empty() {
        notes.ignored_in_mixed_range(place.metric, place.at);
    }
    match function {
        "min_over_time" => float(extreme(values, |now, best| now < best).1),
        "max_over_time" => float(extreme(values, |now, best| now > best).1),
        "ts_of_min_over_time" => float(window.times[extreme(values, |now, best| now <= best).0] as f64 / 1000.0),
        "ts_of_max_over_time" => float(window.times[extreme(values, |now, best| now >= best).0] as f64 / 1000.0),
        "quantile_over_time" => float(quantile(scalars[0][window.step], &mut values.to_vec())),
        "stdvar_over_time" => float(variance(values)),
        "stddev_over_time" => float(variance(values).sqrt()),
        "mad_over_time" => float(median_deviation(values)),
        _ => Err(Error::unsupported(format!("{function}()"), "")),
    }
}

fn first(window: &Window<'_>) -> Option<Point> {
    match (window.times.first(), window.histogram_times.first()) {
        (Some(float), other) if other.is_none_or(|histogram| float < histogram) => Some(Point::Float(window.values[0])),
        (_, Some(_)) => window
            .histograms
            .first()
            .map(|histogram| Point::Histogram(Arc::clone(histogram))),
        _ => None,
    }
}

fn last(window: &Window<'_>) -> Option<Point> {
    match (window.times.last(), window.histogram_times.last()) {
        (Some(float), other) if other.is_none_or(|histogram| histogram < float) => {
            window.values.last().map(|value| Point::Float(*value))
        }
        (_, Some(_)) => window
            .histograms
            .last()
            .map(|histogram| Point::Histogram(Arc::clone(histogram))),
        _ => None,
    }
}

fn sum(values: &[f64]) -> f64 {
    let (sum, c) = values.iter().fold((0.0, 0.0), |(sum, c), value| kahan(*value, sum, c));
    if sum.is_infinite() { sum } else { sum + c }
}

/// Sum over count; from where the sum would overflow on, a running mean.
#[allow(clippy::cast_precision_loss)]
fn mean(values: &[f64]) -> f64 {
    let (mut sum, mut c) = (values[0], 0.0);
    for (number, value) in values.iter().enumerate().skip(1) {
        let (next, next_c) = kahan(*value, sum, c);
        if next.is_infinite() {
            return running_mean(values, number, sum, c);
        }
        (sum, c) = (next, next_c);
    }
    let count = values.len() as f64;
    sum / count + c / count
}

/// `sum` and `c` are over the first `from` values.
#[allow(clippy::cast_precision_loss)]
fn running_mean(values: &[f64], from: usize, sum: f64, c: f64) -> f64 {
    let (mut mean, mut c) = (sum / from as f64, c / from as f64);
    for (number, value) in values.iter().enumerate().skip(from) {
        let count = (number + 1) as f64;
        let q = (count - 1.0) / count;
        (mean, c) = kahan(value / count, q * mean, q * c);
    }
    mean + c
}

/// Where, and which value; NaN loses against anything.
fn extreme(values: &[f64], better: impl Fn(f64, f64) -> bool) -> (usize, f64) {
    values
        .iter()
        .copied()
        .enumerate()
        .fold((0, values[0]), |best, (at, now)| {
            if better(now, best.1) || best.1.is_nan() {
                (at, now)
            } else {
                best
            }
        })
}

fn variance(values: &[f64]) -> f64 {
    let (mut count, mut mean, mut mean_c, mut sum, mut sum_c) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let delta = value - (mean + mean_c);
        (mean, mean_c) = kahan(delta / count, mean, mean_c);
        (sum, sum_c) = kahan(delta * (value - (mean + mean_c)), sum, sum_c);
    }
    (sum + sum_c) / count
}

fn median_deviation(values: &[f64]) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    let mut values = values.to_vec();
    let median = quantile(0.5, &mut values);
    values.iter_mut().for_each(|value| *value = (*value - median).abs());
    quantile(0.5, &mut values)
}

fn of_histograms(histograms: &[Arc<Histogram>], mean: bool, place: Place<'_>, notes: &mut Notes) -> Option<Point> {
    let hint = |hint| histograms.iter().any(|histogram| histogram.reset == hint);
    let collision = hint(ResetHint::Reset) && hint(ResetHint::NotReset);
    let result = if mean { mean_of(histograms) } else { sum_of(histograms) };
    match result {
        Ok((histogram, reconciled)) => {
            if collision {
                notes.reset_collision(Operation::Aggregation, place.at);
            }
            if reconciled {
                notes.bounds_reconciled(Operation::Aggregation, place.at);
            }
            Some(Point::Histogram(Arc::new(histogram)))
        }
        Err(IncompatibleBuckets) => {
            notes.mixed_schemas(place.metric, place.at);
            None
        }
    }
}

/// The sum, and whether bounds had to be reconciled.
fn sum_of(histograms: &[Arc<Histogram>]) -> Result<(Histogram, bool), IncompatibleBuckets> {
    let mut sum = Accumulator::new(&histograms[0]);
    let mut reconciled = false;
    for histogram in &histograms[1..] {
        reconciled |= sum.add(histogram)?.bounds_reconciled;
    }
    Ok((sum.plain(1.0), reconciled))
}

#[allow(clippy::cast_precision_loss)]
fn mean_of(histograms: &[Arc<Histogram>]) -> Result<(Histogram, bool), IncompatibleBuckets> {
    let mut mean = MeanHistogram::new(&histograms[0]);
    let mut reconciled = false;
    for histogram in &histograms[1..] {
        reconciled |= mean.add(histogram)?.bounds_reconciled;
    }
    Ok((mean.finish(), reconciled))
}

/// A mean of histograms: a sum until that overflows, a running mean from there on.
#[derive(Debug, Clone)]
pub(super) struct MeanHistogram {
    accumulator: Accumulator,
    count: f64,
    running: bool,
}

impl MeanHistogram {
    pub fn new(first: &Histogram) -> Self {
        Self {
            accumulator: Accumulator::new(first),
            count: 1.0,
            running: false,
        }
    }

    pub fn add(&mut self, histogram: &Histogram) -> Result<crate::histogram::Added, IncompatibleBuckets> {
        self.count += 1.0;
        if !self.running {
            let mut next = self.accumulator.clone();
            let added = next.add(histogram)?;
            if !next.has_overflow() {
                self.accumulator = next;
                return Ok(added);
            }
            self.running = true;
            self.accumulator.divide(self.count - 1.0);
        }
        self.accumulator.scale((self.count - 1.0) / self.count);
        self.accumulator.add(&histogram.clone().divided(self.count))
    }

    pub fn finish(&self) -> Histogram {
        self.accumulator.plain(if self.running { 1.0 } else { self.count })
    }
}
