//! Functions of how samples follow each other: changes, resets, trends.

use std::sync::Arc;

use super::window::{Place, Window};
use crate::error::Error;
use crate::histogram::Histogram;
use crate::notes::Notes;
use crate::number::kahan;
use crate::value::Point;

/// The value of a window; `None` where the function gives none.
#[allow(clippy::cast_precision_loss)]
pub(super) fn point(
    function: &str,
    window: &Window<'_>,
    scalars: &[Vec<f64>],
    place: Place<'_>,
    notes: &mut Notes,
) -> Result<Option<Point>, Error> {
    match function {
        "changes" => {
            let count = pairs(window, |before, now| match (before, now) {
                (Either::Float(before), Either::Float(now)) => now != before && !(now.is_nan() && before.is_nan()),
                (Either::Histogram(before), Either::Histogram(now)) => !now.same_data(before),
                _ => true,
            });
            return Ok(Some(Point::Float(count as f64)));
        }
        "resets" => {
            let count = pairs(window, |before, now| match (before, now) {
                (Either::Float(before), Either::Float(now)) => now < before,
                (Either::Histogram(before), Either::Histogram(now)) => now.is_reset_after(before),
                _ => true,
            });
            return Ok(Some(Point::Float(count as f64)));
        }
        _ => {}
    }
    let smoothing = function == "double_exponential_smoothing";
    if smoothing {
        for (value, name) in scalars.iter().zip(["smoothing", "trend"]) {
            let value = value[window.step];
            if value <= 0.0 || value >= 1.0 {
                let which = if name == "smoothing" { "sf" } else { "tf" };
                return Err(Error::execution(format!(
                    "invalid {name} factor. Expected: 0 < {which} < 1, got: {value:.6}"
                )));
            }
        }
    }
    let values = window.values;
    if !window.histograms.is_empty() && !values.is_empty() {
        notes.ignored_in_mixed_range(place.metric, place.at);
    }
    if values.len() < 2 {
        return Ok(None);
    }
    let result = match function {
        // A time near the samples keeps precision.
        "deriv" => regression(window.times, values, window.times[0]).0,
        "predict_linear" => {
            let (slope, intercept) = regression(window.times, values, window.step_ms);
            slope * scalars[0][window.step] + intercept
        }
        _ if smoothing => smoothed(values, scalars[0][window.step], scalars[1][window.step]),
        _ => return Err(Error::unsupported(format!("{function}()"), "")),
    };
    Ok(Some(Point::Float(result)))
}

enum Either<'a> {
    Float(f64),
    Histogram(&'a Arc<Histogram>),
}

/// How many neighbours in time, of either kind, satisfy a condition.
fn pairs(window: &Window<'_>, mut condition: impl FnMut(&Either<'_>, &Either<'_>) -> bool) -> usize {
    if window.histograms.is_empty() {
        return window
            .values
            .windows(2)
            .filter(|pair| condition(&Either::Float(pair[0]), &Either::Float(pair[1])))
            .count();
    }
    let (mut float, mut histogram) = (0, 0);
    let mut before: Option<Either<'_>> = None;
    let mut count = 0;
    loop {
        let now = match (window.times.get(float), window.histogram_times.get(histogram)) {
            (Some(a), Some(b)) if a < b => Either::Float(window.values[float]),
            (Some(_), None) => Either::Float(window.values[float]),
            (_, Some(_)) => Either::Histogram(&window.histograms[histogram]),
            (None, None) => return count,
        };
        match now {
            Either::Float(_) => float += 1,
            Either::Histogram(_) => histogram += 1,
        }
        if let Some(before) = &before {
            count += usize::from(condition(before, &now));
        }
        before = Some(now);
    }
}

/// Slope per second, and the value at `at_ms`, of the least-squares line through the samples.
#[allow(clippy::cast_precision_loss)]
fn regression(times: &[i64], values: &[f64], at_ms: i64) -> (f64, f64) {
    let first = values[0];
    if values.iter().skip(1).all(|value| *value == first) {
        return if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        };
    }
    let count = values.len() as f64;
    let [mut x, mut y, mut xy, mut xx] = [(0.0, 0.0); 4];
    for (time, value) in times.iter().zip(values) {
        let at = (time - at_ms) as f64 / 1e3;
        x = kahan(at, x.0, x.1);
        y = kahan(*value, y.0, y.1);
        xy = kahan(at * value, xy.0, xy.1);
        xx = kahan(at * at, xx.0, xx.1);
    }
    let (x, y, xy, xx) = (x.0 + x.1, y.0 + y.1, xy.0 + xy.1, xx.0 + xx.1);
    let slope = (xy - x * y / count) / (xx - x * x / count);
    (slope, y / count - slope * x / count)
}

/// Holt's double exponential smoothing.
fn smoothed(values: &[f64], smoothing: f64, trend: f64) -> f64 {
    let (mut before, mut now) = (0.0, values[0]);
    let mut slope = values[1] - values[0];
    for (number, value) in values.iter().enumerate().skip(1) {
        if number > 1 {
            slope = trend * (now - before) + (1.0 - trend) * slope;
        }
        (before, now) = (now, smoothing * value + (1.0 - smoothing) * (now + slope));
    }
    now
}
