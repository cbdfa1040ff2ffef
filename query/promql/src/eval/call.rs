//! Functions of instant vectors, scalars and labels.

use std::cmp::Ordering;
use std::sync::Arc;

use regex::Regex;

use super::rank::nan_first;
use super::{Evaluator, Held, Steady, Steps, Track, merged};
use crate::calendar::{Moment, days_in_month, moment};
use crate::error::Error;
use crate::expr::{Expr, Node};
use crate::histogram::Histogram;
use crate::labels::{Labels, METRIC_NAME};
use crate::number::{is_stale, kahan};
use crate::value::Point;

#[allow(clippy::cast_precision_loss)] // Times in ms and seconds, far below 2^53.
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// Functions of one float.
fn of_float(function: &str) -> Option<fn(f64) -> f64> {
    Some(match function {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "exp" => f64::exp,
        "sqrt" => f64::sqrt,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        "rad" => |value| value * std::f64::consts::PI / 180.0,
        "deg" => |value| value * 180.0 / std::f64::consts::PI,
        "sgn" => |value| {
            if value < 0.0 {
                -1.0
            } else if value > 0.0 {
                1.0
            } else {
                value
            }
        },
        _ => return None,
    })
}

/// Functions of a moment.
#[allow(clippy::cast_precision_loss)]
fn of_moment(function: &str) -> Option<fn(Moment) -> f64> {
    Some(match function {
        "days_in_month" => |moment| f64::from(days_in_month(moment.year, moment.month)),
        "day_of_month" => |moment| f64::from(moment.day),
        "day_of_week" => |moment| f64::from(moment.weekday),
        "day_of_year" => |moment| f64::from(moment.day_of_year),
        "hour" => |moment| f64::from(moment.hour),
        "minute" => |moment| f64::from(moment.minute),
        "month" => |moment| f64::from(moment.month),
        "year" => |moment| moment.year as f64,
        _ => return None,
    })
}

/// Functions of one histogram.
fn of_histogram(function: &str) -> Option<fn(&Histogram) -> f64> {
    Some(match function {
        "histogram_count" => |histogram| histogram.count,
        "histogram_sum" => |histogram| histogram.sum,
        "histogram_avg" => |histogram| histogram.sum / histogram.count,
        "histogram_stdvar" => variance,
        "histogram_stddev" => |histogram| variance(histogram).sqrt(),
        _ => return None,
    })
}

/// Every bucket counts as if all its observations were at its middle: arithmetic in custom buckets, geometric in
/// exponential ones, zero in the zero bucket.
fn variance(histogram: &Histogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let (mut sum, mut c) = (0.0, 0.0);
    for bucket in histogram.buckets() {
        let middle = if histogram.is_custom() {
            (bucket.upper + bucket.lower) / 2.0
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            (bucket.upper * bucket.lower).sqrt().copysign(bucket.upper)
        };
        let delta = middle - mean;
        (sum, c) = kahan(bucket.count * delta * delta, sum, c);
    }
    (sum + c) / histogram.count
}

/// `min` and `max` of Go: NaN wins, but against the infinity that nothing is beyond.
fn at_most(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY || b == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.min(b)
    }
}

fn at_least(a: f64, b: f64) -> f64 {
    -at_most(-a, -b)
}

impl Evaluator<'_> {
    pub(super) fn call(
        &self,
        node: &Node,
        function: &'static str,
        args: &[Node],
        steps: Steps,
    ) -> Result<Steady, Error> {
        if let Some(range_arg) = Self::range_arg(args) {
            return self.range_call(function, args, range_arg, steps);
        }
        if let Some(change) = of_float(function) {
            let tracks = self.vector(&args[0], steps)?;
            return Ok(Steady::Vector(
                tracks
                    .into_iter()
                    .filter_map(|track| track.map_floats(change))
                    .collect(),
            ));
        }
        if let Some(of) = of_histogram(function) {
            return self.over_histograms(&args[0], steps, of).map(Steady::Vector);
        }
        if let Some(part) = of_moment(function) {
            return self.date(args.first(), steps, part).map(Steady::Vector);
        }
        let repeat = |value: f64| Ok(Steady::Scalar(vec![value; steps.count]));
        let params = self.params();
        match function {
            "time" => Ok(Steady::Scalar(steps.times().map(seconds).collect())),
            "pi" => repeat(std::f64::consts::PI),
            "start" => repeat(seconds(params.start_ms)),
            "end" => repeat(seconds(params.end_ms)),
            "step" => repeat(seconds(params.step_ms)),
            "range" => repeat(seconds(params.end_ms - params.start_ms)),
            "max_of" | "min_of" => {
                let (a, b) = (self.scalar(&args[0], steps)?, self.scalar(&args[1], steps)?);
                let pick = if function == "max_of" { at_least } else { at_most };
                Ok(Steady::Scalar(a.into_iter().zip(b).map(|(a, b)| pick(a, b)).collect()))
            }
            "scalar" => self.to_scalar(&args[0], steps),
            "vector" => {
                let values = self.scalar(&args[0], steps)?;
                let track = Track {
                    values,
                    ..Track::new(Labels::default(), false, 0)
                };
                Ok(Steady::Vector(vec![track]))
            }
            "timestamp" => self.timestamp(&args[0], steps).map(Steady::Vector),
            "absent" => self.absent(&args[0], steps).map(Steady::Vector),
            "clamp" | "clamp_min" | "clamp_max" => self.clamp(function, args, steps).map(Steady::Vector),
            "round" => self.round(args, steps).map(Steady::Vector),
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
                self.sort(node, function, args, steps).map(Steady::Vector)
            }
            "label_replace" => self.label_replace(args, steps).map(Steady::Vector),
            "label_join" => self.label_join(args, steps).map(Steady::Vector),
            "histogram_quantile" | "histogram_quantiles" | "histogram_fraction" => {
                self.of_buckets(function, args, steps).map(Steady::Vector)
            }
            _ => Err(Error::unsupported(format!("{function}()"), "")),
        }
    }

    fn over_histograms(&self, node: &Node, steps: Steps, of: fn(&Histogram) -> f64) -> Result<Vec<Track>, Error> {
        let mut tracks = self.vector(node, steps)?;
        tracks.retain(|track| track.histograms.is_some());
        for track in &mut tracks {
            let mut result = Track::new(track.labels.clone(), true, steps.count);
            for (step, histogram) in track.histograms.iter().flatten().enumerate() {
                if let Some(histogram) = histogram {
                    result.values[step] = of(histogram);
                }
            }
            *track = result;
        }
        Ok(tracks)
    }

    fn date(&self, node: Option<&Node>, steps: Steps, part: fn(Moment) -> f64) -> Result<Vec<Track>, Error> {
        #[allow(clippy::cast_possible_truncation)] // A float beyond the range of times has no date either way.
        let of = |value: f64| part(moment(value as i64));
        let Some(node) = node else {
            let mut track = Track::new(Labels::default(), false, steps.count);
            for (step, time) in steps.times().enumerate() {
                track.values[step] = part(moment(time.div_euclid(1000)));
            }
            return Ok(vec![track]);
        };
        Ok(self
            .vector(node, steps)?
            .into_iter()
            .filter_map(|track| track.map_floats(of))
            .collect())
    }

    fn to_scalar(&self, node: &Node, steps: Steps) -> Result<Steady, Error> {
        let tracks = self.vector(node, steps)?;
        let mut values = vec![f64::NAN; steps.count];
        let mut seen = vec![0_u8; steps.count];
        for track in &tracks {
            for (step, value) in track.values.iter().enumerate().filter(|(_, value)| !is_stale(**value)) {
                seen[step] = seen[step].saturating_add(1);
                values[step] = if seen[step] == 1 { *value } else { f64::NAN };
            }
        }
        Ok(Steady::Scalar(values))
    }

    /// Of a selector, the time of the sample itself; of anything else, the time of the step.
    fn timestamp(&self, node: &Node, steps: Steps) -> Result<Vec<Track>, Error> {
        if let Expr::Select(selector) = &node.expr {
            let mut tracks = Vec::new();
            for series in self.plan.data(self.data, selector) {
                self.hold(steps.count)?;
                let mut track = Track::new(series.labels.clone(), true, steps.count);
                self.newest(series, selector.shift, steps, |step, time, _| {
                    track.values[step] = seconds(time)
                });
                if !track.is_empty() {
                    tracks.push(track);
                }
            }
            return Ok(tracks);
        }
        let mut tracks = self.vector(node, steps)?;
        for track in &mut tracks {
            for step in 0..steps.count {
                if track.has(step) {
                    track.values[step] = seconds(steps.time(step));
                }
            }
            track.histograms = None;
            track.drop_name = true;
        }
        Ok(tracks)
    }

    fn absent(&self, node: &Node, steps: Steps) -> Result<Vec<Track>, Error> {
        let tracks = self.vector(node, steps)?;
        let labels = match &node.bare().expr {
            Expr::Select(selector) => selector.absent_labels(),
            _ => Labels::default(),
        };
        let mut track = Track::new(labels, false, steps.count);
        for step in 0..steps.count {
            if !tracks.iter().any(|track| track.has(step)) {
                track.values[step] = 1.0;
            }
        }
        Ok(if track.is_empty() { Vec::new() } else { vec![track] })
    }

    fn clamp(&self, function: &str, args: &[Node], steps: Steps) -> Result<Vec<Track>, Error> {
        let bound = |number: usize| self.scalar(&args[number], steps);
        let (lower, upper) = match function {
            "clamp_min" => (bound(1)?, vec![f64::INFINITY; steps.count]),
            "clamp_max" => (vec![f64::NEG_INFINITY; steps.count], bound(1)?),
            _ => (bound(1)?, bound(2)?),
        };
        self.each_float(&args[0], steps, |step, value| {
            if upper[step] < lower[step] {
                return None;
            }
            Some(at_least(lower[step], at_most(upper[step], value)))
        })
    }

    /// Halves are rounded up; the inverse of the unit loses less than the unit itself.
    fn round(&self, args: &[Node], steps: Steps) -> Result<Vec<Track>, Error> {
        let unit = match args.get(1) {
            Some(unit) => self.scalar(unit, steps)?,
            None => vec![1.0; steps.count],
        };
        self.each_float(&args[0], steps, |step, value| {
            let inverse = 1.0 / unit[step];
            Some((value * inverse + 0.5).floor() / inverse)
        })
    }

    fn each_float(
        &self,
        node: &Node,
        steps: Steps,
        change: impl Fn(usize, f64) -> Option<f64>,
    ) -> Result<Vec<Track>, Error> {
        let mut tracks = self.vector(node, steps)?;
        for track in &mut tracks {
            track.histograms = None;
            track.drop_name = true;
            for (step, value) in track
                .values
                .iter_mut()
                .enumerate()
                .filter(|(_, value)| !is_stale(**value))
            {
                *value = change(step, *value).unwrap_or_else(crate::number::stale);
            }
        }
        tracks.retain(|track| !track.is_empty());
        Ok(tracks)
    }

    fn sort(&self, node: &Node, function: &str, args: &[Node], steps: Steps) -> Result<Vec<Track>, Error> {
        if steps.count > 1 {
            self.notes.borrow_mut().sort_in_range(node.at);
        }
        let mut tracks = self.vector(&args[0], steps)?;
        if !function.contains("label") {
            for track in &mut tracks {
                track.histograms = None;
            }
            tracks.retain(|track| !track.is_empty());
        }
        if steps.count != 1 {
            return Ok(tracks);
        }
        if function.contains("label") {
            let names = texts(&args[1..])?;
            tracks.sort_by(|a, b| {
                let by_names = names
                    .iter()
                    .map(|name| natural(a.labels.get(name), b.labels.get(name)))
                    .find(|order| order.is_ne())
                    .unwrap_or_else(|| a.labels.cmp(&b.labels));
                if function.ends_with("desc") {
                    by_names.reverse()
                } else {
                    by_names
                }
            });
            return Ok(tracks);
        }
        let descending = function == "sort_desc";
        tracks.sort_by(|a, b| {
            let (a, b) = (a.values[0], b.values[0]);
            // NaN comes last either way.
            match (a.is_nan(), b.is_nan()) {
                (false, false) if descending => nan_first(b, a),
                (false, false) => nan_first(a, b),
                (a, b) => a.cmp(&b),
            }
        });
        Ok(tracks)
    }

    fn label_replace(&self, args: &[Node], steps: Steps) -> Result<Vec<Track>, Error> {
        if let Some(Expr::BadText(name)) = args.get(1).map(|arg| &arg.bare().expr) {
            return Err(Error::execution(format!(
                "invalid destination label name in label_replace(): {name}"
            )));
        }
        let parts = texts(&args[1..])?;
        let [target, replacement, source, pattern] = &parts[..] else {
            return Err(Error::execution("label_replace() takes five arguments"));
        };
        let regex = Regex::new(&format!("^(?s:{pattern})$"))
            .map_err(|_| Error::execution(format!("invalid regular expression in label_replace(): {pattern}")))?;
        if target.is_empty() {
            return Err(Error::execution(format!(
                "invalid destination label name in label_replace(): {target}"
            )));
        }
        let mut tracks = self.vector(&args[0], steps)?;
        for track in &mut tracks {
            let value = Arc::clone(track.labels.value(source).unwrap_or(&Arc::from("")));
            if let Some(captures) = regex.captures(&value) {
                // As if each sign of it stood for the whole value.
                fits(replacement.len().saturating_mul(value.len().max(1))).or_else(|error| {
                    if replacement.contains('$') {
                        Err(error)
                    } else {
                        fits(replacement.len())
                    }
                })?;
                let mut expanded = String::new();
                captures.expand(replacement, &mut expanded);
                relabel(track, target, &expanded);
            }
        }
        merged(tracks)
    }

    fn label_join(&self, args: &[Node], steps: Steps) -> Result<Vec<Track>, Error> {
        let parts = texts(&args[1..])?;
        let [target, separator, sources @ ..] = &parts[..] else {
            return Err(Error::execution("label_join() takes at least three arguments"));
        };
        if sources.iter().any(String::is_empty) {
            return Err(Error::execution("invalid source label name in label_join(): "));
        }
        if target.is_empty() {
            return Err(Error::execution(format!(
                "invalid destination label name in label_join(): {target}"
            )));
        }
        let mut tracks = self.vector(&args[0], steps)?;
        for track in &mut tracks {
            let values: Vec<&str> = sources.iter().map(|source| track.labels.get(source)).collect();
            fits(values.iter().map(|value| value.len() + separator.len()).sum())?;
            let joined = values.join(separator);
            relabel(track, target, &joined);
        }
        merged(tracks)
    }
}

/// The longest value that a label may be given. Functions in functions could otherwise double one again and again.
const VALUE_BYTES_MAX: usize = 1 << 20;

fn fits(bytes: usize) -> Result<(), Error> {
    match bytes <= VALUE_BYTES_MAX {
        true => Ok(()),
        false => Err(Error::execution(format!(
            "a label would have a value of more than {VALUE_BYTES_MAX} bytes"
        ))),
    }
}

fn relabel(track: &mut Track, target: &str, value: &str) {
    track.labels = track.labels.with(target, value);
    if target == METRIC_NAME {
        // The user gave it a name: it stays.
        track.drop_name = false;
    }
}

pub(super) fn texts(args: &[Node]) -> Result<Vec<String>, Error> {
    args.iter()
        .map(|arg| match &arg.bare().expr {
            Expr::Text(text) => Ok(text.clone()),
            Expr::BadText(_) => Err(super::not_utf8()),
            _ => Err(Error::execution("expected type string")),
        })
        .collect()
}

/// Numbers inside texts compare as numbers: `cpu9` before `cpu10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (part_a, rest_a) = chunk(a);
        let (part_b, rest_b) = chunk(b);
        let order = match (part_a.parse::<u128>(), part_b.parse::<u128>()) {
            (Ok(number_a), Ok(number_b)) => number_a.cmp(&number_b).then_with(|| part_a.len().cmp(&part_b.len())),
            _ => part_a.cmp(part_b),
        };
        if order.is_ne() || (rest_a.is_empty() && rest_b.is_empty()) {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// A run of digits or of other characters, and what follows.
fn chunk(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at(end)
}

/// What a step holds, as a point of its own.
pub(super) fn owned(held: Held<'_>) -> Point {
    match held {
        Held::Float(value) => Point::Float(value),
        Held::Histogram(histogram) => Point::Histogram(Arc::clone(histogram)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_those_of_go() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        assert_eq!((at_least(nan, inf), at_most(nan, -inf)), (inf, -inf));
        assert!(at_least(nan, -inf).is_nan() && at_most(1.0, nan).is_nan());
        assert_eq!((at_least(1.0, 2.0), at_most(1.0, 2.0)), (2.0, 1.0));
    }

    #[test]
    fn natural_order() {
        let check = |a: &str, b: &str, expected| assert_eq!(natural(a, b), expected, "{a} {b}");
        check("cpu9", "cpu10", Ordering::Less);
        check("cpu10", "cpu9a", Ordering::Greater);
        check("a", "a", Ordering::Equal);
        check("a", "a1", Ordering::Less);
        check("1", "a", Ordering::Less);
    }
}
