//! Was it what the script expects?

use std::sync::Arc;

use super::{Eval, ScriptPoint, Wanted, When};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::number::almost_equal;
use crate::sample::Series;
use crate::value::{Answer, Point, Sample, Value};

/// Floats may differ by this part of their sum.
const EPSILON: f64 = 1e-6;

/// What an engine said to a query.
pub type Outcome<'a> = Result<&'a Answer, &'a str>;

impl Wanted {
    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(wanted) => wanted == text,
            Self::Matching(regex) => regex.is_match(text),
        }
    }

    fn shown(&self) -> &str {
        match self {
            Self::Any => "anything",
            Self::Exactly(text) => text,
            Self::Matching(regex) => regex.as_str(),
        }
    }
}

fn shown(point: &Point) -> String {
    match point {
        Point::Float(value) => value.to_string(),
        Point::Histogram(histogram) => format!("{histogram} schema {} {:?}", histogram.schema, histogram.reset),
    }
}

impl Eval {
    /// Judges an answer to [`Eval::query`] at [`Eval::when`].
    ///
    /// # Errors
    /// What differs, in words.
    pub fn check(&self, outcome: Outcome<'_>) -> Result<(), String> {
        let answer = match (outcome, &self.fail) {
            (Ok(_), Some(wanted)) => return Err(format!("expected an error, {}", wanted.shown())),
            (Err(error), None) => return Err(format!("failed: {error}")),
            (Err(error), Some(wanted)) if wanted.fits(error) => return Ok(()),
            (Err(error), Some(wanted)) => {
                return Err(format!("expected the error {:?}, got {error:?}", wanted.shown()));
            }
            (Ok(answer), None) => answer,
        };
        notes("warning", &answer.warnings, &self.warnings, self.no_warning)?;
        notes("info", &answer.infos, &self.infos, self.no_info)?;
        self.check_value(&answer.value)
    }

    /// Judges a value alone. An instant query's expectation fits the matrix of a range query around it if that is cut
    /// down to the moment with [`Eval::at_moment`].
    ///
    /// # Errors
    /// What differs, in words.
    pub fn check_value(&self, value: &Value) -> Result<(), String> {
        match value {
            Value::Text { text, .. } => {
                let wanted = self.text.as_deref().unwrap_or("");
                if text == wanted {
                    Ok(())
                } else {
                    Err(format!("expected the text {wanted:?}, got {text:?}"))
                }
            }
            Value::Scalar { value, .. } => match self.scalar {
                Some(wanted) if almost_equal(wanted, *value, EPSILON) => Ok(()),
                Some(wanted) => Err(format!("expected {wanted}, got {value}")),
                None => Err(format!("expected a vector, got the scalar {value}")),
            },
            Value::Vector { samples, .. } => self.check_vector(samples),
            Value::Matrix(series) => self.check_matrix(series),
        }
    }

    /// The samples of a matrix at one moment, as the vector or scalar that an instant query would have given.
    #[must_use]
    pub fn at_moment(&self, matrix: &[Series], time_ms: i64) -> Value {
        let mut samples = Vec::new();
        for series in matrix {
            let (floats, histograms) = (&series.floats, &series.histograms);
            if let Some(at) = floats.times.iter().position(|time| *time == time_ms) {
                samples.push(Sample {
                    labels: series.labels.clone(),
                    point: Point::Float(floats.values[at]),
                });
            }
            if let Some(at) = histograms.times.iter().position(|time| *time == time_ms) {
                let point = Point::Histogram(Arc::clone(&histograms.values[at]));
                samples.push(Sample {
                    labels: series.labels.clone(),
                    point,
                });
            }
        }
        match (&samples[..], self.scalar) {
            (
                [
                    Sample {
                        point: Point::Float(value),
                        ..
                    },
                ],
                Some(_),
            ) => Value::Scalar { time_ms, value: *value },
            _ => Value::Vector { time_ms, samples },
        }
    }

    fn expected(&self, labels: &Labels) -> Result<(usize, &[ScriptPoint]), String> {
        let at = self.series.iter().position(|(wanted, _)| wanted == labels);
        let at = at.ok_or_else(|| format!("unexpected series {labels}"))?;
        Ok((at, &self.series[at].1))
    }

    fn check_vector(&self, samples: &[Sample]) -> Result<(), String> {
        if let Some(wanted) = self.scalar {
            return Err(format!(
                "expected the scalar {wanted}, got a vector of {} samples",
                samples.len()
            ));
        }
        for (at, sample) in samples.iter().enumerate() {
            let (wanted_at, points) = self
                .expected(&sample.labels)
                .map_err(|error| format!("{error} with {}", shown(&sample.point)))?;
            if self.ordered && wanted_at != at {
                return Err(format!(
                    "expected {} at place {wanted_at}, got it at {at}",
                    sample.labels
                ));
            }
            let wanted = points
                .first()
                .ok_or_else(|| format!("no expectation for {}", sample.labels))?;
            same_point(wanted, &sample.point).map_err(|error| format!("{}: {error}", sample.labels))?;
        }
        let all = samples.iter().map(|sample| &sample.labels);
        self.check_missing(all.collect())
    }

    fn check_missing(&self, seen: Vec<&Labels>) -> Result<(), String> {
        match self.series.iter().find(|(labels, _)| !seen.contains(&labels)) {
            Some((labels, _)) => Err(format!("expected series {labels} is missing")),
            None => Ok(()),
        }
    }

    fn check_matrix(&self, matrix: &[Series]) -> Result<(), String> {
        if matrix.windows(2).any(|pair| pair[0].labels > pair[1].labels) {
            return Err("the matrix is not in order of labels".into());
        }
        let (from, to, step) = match (self.when, self.range_vector) {
            (_, Some(range)) => range,
            (When::Range(from, to, step), None) => (from, to, step),
            (When::Instant(_), None) => return Err("expected no range of samples".into()),
        };
        for series in matrix {
            let (_, points) = self.expected(&series.labels)?;
            let mut floats = series.floats.times.iter().zip(&series.floats.values);
            let mut histograms = series.histograms.times.iter().zip(&series.histograms.values);
            for (time, wanted) in (0..).map(|number: i64| from + number * step).zip(points) {
                if time > to {
                    return Err(format!(
                        "{}: more points expected than the range has steps",
                        series.labels
                    ));
                }
                let got = match wanted {
                    ScriptPoint::Nothing => continue,
                    ScriptPoint::Float(_) => floats.next().map(|(time, value)| (time, Point::Float(*value))),
                    ScriptPoint::Histogram(..) => histograms
                        .next()
                        .map(|(time, value)| (time, Point::Histogram(Arc::clone(value)))),
                };
                let Some((at, point)) = got else {
                    return Err(format!("{}: nothing at {time}, expected {wanted:?}", series.labels));
                };
                if *at != time {
                    return Err(format!(
                        "{}: expected a point at {time}, got {} at {at}",
                        series.labels,
                        shown(&point)
                    ));
                }
                same_point(wanted, &point).map_err(|error| format!("{} at {time}: {error}", series.labels))?;
            }
            if let Some((time, _)) = floats.next() {
                return Err(format!("{}: unexpected float at {time}", series.labels));
            }
            if let Some((time, _)) = histograms.next() {
                return Err(format!("{}: unexpected histogram at {time}", series.labels));
            }
        }
        self.check_missing(matrix.iter().map(|series| &series.labels).collect())
    }
}

fn notes(kind: &str, got: &[String], wanted: &[Wanted], none: bool) -> Result<(), String> {
    if none && !got.is_empty() {
        return Err(format!("unexpected {kind}: {got:?}"));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    if let Some(wanted) = wanted.iter().find(|wanted| !got.iter().any(|text| wanted.fits(text))) {
        return Err(format!("expected the {kind} {:?}, got {got:?}", wanted.shown()));
    }
    match got.iter().find(|text| !wanted.iter().any(|wanted| wanted.fits(text))) {
        Some(text) => Err(format!("unexpected {kind} {text:?}")),
        None => Ok(()),
    }
}

fn same_point(wanted: &ScriptPoint, got: &Point) -> Result<(), String> {
    match (wanted, got) {
        (ScriptPoint::Float(wanted), Point::Float(got)) if almost_equal(*wanted, *got, EPSILON) => Ok(()),
        (ScriptPoint::Histogram(wanted, hinted), Point::Histogram(got)) if same_histogram(wanted, got, *hinted) => {
            Ok(())
        }
        (ScriptPoint::Float(wanted), got) => Err(format!("expected {wanted}, got {}", shown(got))),
        (ScriptPoint::Histogram(wanted, _), got) => {
            let wanted = Point::Histogram(Arc::clone(wanted));
            Err(format!("expected {}, got {}", shown(&wanted), shown(got)))
        }
        (ScriptPoint::Nothing, got) => Err(format!("expected nothing, got {}", shown(got))),
    }
}

fn same_histogram(wanted: &Histogram, got: &Histogram, hinted: bool) -> bool {
    let (wanted, got) = (wanted.clone().compact(), got.clone().compact());
    let close = |a: f64, b: f64| almost_equal(a, b, EPSILON);
    let same_side = |a: &[(i32, f64)], b: &[(i32, f64)]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && close(a.1, b.1))
    };
    wanted.schema == got.schema
        && close(wanted.count, got.count)
        && close(wanted.sum, got.sum)
        && wanted.bounds == got.bounds
        && wanted.zero_threshold == got.zero_threshold
        && close(wanted.zero_count, got.zero_count)
        && same_side(&wanted.positive, &got.positive)
        && same_side(&wanted.negative, &got.negative)
        && (!hinted || wanted.reset == got.reset)
}
