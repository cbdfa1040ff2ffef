//! Evaluation: one pass over the tree, all steps at once.
//!
//! A [`Track`] is a series over the steps of the evaluation: a float per step, where the stale marker says "nothing here",
//! and histograms only if it has any. Operators loop over tracks on the outside and steps on the inside.

mod aggregate;
mod binary;
mod call;
mod change;
mod classic;
mod over_time;
mod rank;
mod rate;
mod select;
mod sums;
#[cfg(test)]
mod tests;
mod window;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use ahash::AHashMap;

use crate::error::Error;
use crate::expr::{Expr, Kind, Node};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::notes::Notes;
use crate::number::{is_stale, stale};
use crate::plan::{Params, Plan};
use crate::sample::{Floats, Histograms, Series};
use crate::value::{Answer, Point, Sample, Value};

/// The moments of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steps {
    pub start_ms: i64,
    pub step_ms: i64,
    pub count: usize,
}

impl Steps {
    fn new(start_ms: i64, end_ms: i64, step_ms: i64) -> Self {
        let count = if end_ms < start_ms {
            0
        } else {
            (end_ms - start_ms) / step_ms + 1
        };
        Self {
            start_ms,
            step_ms,
            count: usize::try_from(count).unwrap_or(0),
        }
    }

    fn time(&self, step: usize) -> i64 {
        self.start_ms + self.step_ms * i64::try_from(step).unwrap_or(i64::MAX)
    }

    fn last(&self) -> i64 {
        self.time(self.count.saturating_sub(1))
    }

    fn times(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.count).map(|step| self.time(step))
    }
}

/// A series over the steps of an evaluation.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub labels: Labels,
    /// The name is to be dropped when the answer is complete.
    pub drop_name: bool,
    /// A float per step; the stale marker where there is none.
    pub values: Vec<f64>,
    /// A histogram per step, if any step has one.
    pub histograms: Option<Vec<Option<Arc<Histogram>>>>,
}

/// What a track has at a step, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Held<'a> {
    Float(f64),
    Histogram(&'a Arc<Histogram>),
}

impl Track {
    fn new(labels: Labels, drop_name: bool, steps: usize) -> Self {
        Self {
            labels,
            drop_name,
            values: vec![stale(); steps],
            histograms: None,
        }
    }

    fn get(&self, step: usize) -> Option<Held<'_>> {
        let value = self.values[step];
        if !is_stale(value) {
            return Some(Held::Float(value));
        }
        self.histogram(step).map(Held::Histogram)
    }

    fn histogram(&self, step: usize) -> Option<&Arc<Histogram>> {
        self.histograms.as_ref()?[step].as_ref()
    }

    fn has(&self, step: usize) -> bool {
        !is_stale(self.values[step]) || self.histogram(step).is_some()
    }

    fn set(&mut self, step: usize, point: Point) {
        match point {
            Point::Float(value) => self.values[step] = value,
            Point::Histogram(histogram) => {
                let steps = self.values.len();
                self.histograms.get_or_insert_with(|| vec![None; steps])[step] = Some(histogram);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.values.iter().all(|value| is_stale(*value))
            && self
                .histograms
                .as_ref()
                .is_none_or(|histograms| histograms.iter().all(Option::is_none))
    }

    /// What it weighs against the limit: a cell per step, and its histograms.
    fn cells(&self) -> usize {
        let histograms = self.histograms.as_ref().map_or(0, |histograms| {
            histograms
                .iter()
                .map(|histogram| histogram.as_ref().map_or(1, |histogram| histogram.weight()))
                .sum()
        });
        self.values.len() + histograms
    }

    /// Without floats: functions of histograms want only those; and the other way round.
    fn map_floats(mut self, change: impl Fn(f64) -> f64) -> Option<Self> {
        self.histograms = None;
        let mut any = false;
        for value in &mut self.values {
            if !is_stale(*value) {
                *value = change(*value);
                any = true;
            }
        }
        self.drop_name = true;
        any.then_some(self)
    }
}

/// What an expression is over the steps.
#[derive(Debug, Clone)]
pub(crate) enum Steady {
    Scalar(Vec<f64>),
    Vector(Vec<Track>),
    Text(String),
}

impl Steady {
    fn cells(&self) -> usize {
        match self {
            Self::Scalar(values) => values.len(),
            Self::Vector(tracks) => tracks.iter().map(Track::cells).sum(),
            Self::Text(_) => 0,
        }
    }
}

/// One evaluation.
pub(crate) struct Evaluator<'a> {
    plan: &'a Plan<'a>,
    data: &'a [Vec<Series>],
    cancelled: &'a dyn Fn() -> bool,
    notes: RefCell<Notes>,
    held: Cell<usize>,
}

impl Plan<'_> {
    /// The answer. `data` holds the series of each of [`Plan::needs`], in the same order; more samples than asked for do
    /// no harm, and neither does any order of series. `cancelled` is asked once per series.
    ///
    /// # Errors
    /// [`Error::Execution`], [`Error::TooMuch`], [`Error::Unsupported`], [`Error::Cancelled`].
    pub fn evaluate(&self, data: &[Vec<Series>], cancelled: &dyn Fn() -> bool) -> Result<Answer, Error> {
        let evaluator = Evaluator {
            plan: self,
            data,
            cancelled,
            notes: RefCell::default(),
            held: Cell::new(0),
        };
        let value = evaluator.answer()?;
        let (warnings, infos) = evaluator.notes.into_inner().into_texts(&self.query.text);
        Ok(Answer { value, warnings, infos })
    }
}

impl<'a> Evaluator<'a> {
    fn params(&self) -> &Params {
        &self.plan.params
    }

    /// Counts cells against the limit, and asks whether to go on. Called once per series or more seldom.
    fn hold(&self, cells: usize) -> Result<(), Error> {
        if (self.cancelled)() {
            return Err(Error::Cancelled);
        }
        let held = self.held.get().saturating_add(cells);
        self.held.set(held);
        let max = self.params().limits.samples_max;
        if held > max {
            return Err(Error::TooMuch { what: "samples", max });
        }
        Ok(())
    }

    fn answer(&self) -> Result<Value, Error> {
        let params = *self.params();
        let root = &self.plan.query.root;
        let instant = params.is_instant();
        let steps = Steps::new(params.start_ms, params.end_ms, params.step_ms.max(1));
        let time_ms = params.start_ms;
        if root.kind() == Kind::Matrix {
            if !instant {
                return Err(Error::BadParameter(
                    "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector".into(),
                ));
            }
            return Ok(Value::Matrix(sorted(self.matrix(root.bare(), steps)?)?));
        }
        match self.eval(root, steps)? {
            Steady::Text(text) if instant => Ok(Value::Text { time_ms, text }),
            Steady::Text(_) => Err(Error::BadParameter(
                "invalid expression type \"string\" for range query, must be Scalar or instant Vector".into(),
            )),
            Steady::Scalar(values) if instant => Ok(Value::Scalar {
                time_ms,
                value: values[0],
            }),
            Steady::Scalar(values) => {
                let times = steps.times().collect();
                let series = Series {
                    floats: Floats { times, values },
                    ..Series::default()
                };
                Ok(Value::Matrix(vec![series]))
            }
            Steady::Vector(tracks) => {
                let tracks = merged(cleaned(tracks))?;
                if !instant {
                    return Ok(Value::Matrix(sorted(
                        tracks.into_iter().map(|track| series(track, steps)).collect(),
                    )?));
                }
                let samples = tracks.into_iter().filter_map(|track| {
                    let point = match track.get(0)? {
                        Held::Float(value) => Point::Float(value),
                        Held::Histogram(histogram) => Point::Histogram(Arc::clone(histogram)),
                    };
                    Some(Sample {
                        labels: track.labels,
                        point,
                    })
                });
                Ok(Value::Vector {
                    time_ms,
                    samples: samples.collect(),
                })
            }
        }
    }

    /// An expression over some steps. What it needed on the way no longer counts afterwards, only its result does.
    fn eval(&self, node: &Node, steps: Steps) -> Result<Steady, Error> {
        let before = self.held.get();
        self.hold(0)?;
        // Even one column of this many steps is too much: a subquery of years by milliseconds ends here.
        let max = self.params().limits.samples_max;
        if steps.count > max {
            return Err(Error::TooMuch { what: "samples", max });
        }
        if steps.count == 0 && node.kind() == Kind::Vector {
            // A subquery whose range holds no step.
            return Ok(Steady::Vector(Vec::new()));
        }
        let result = self.eval_kind(node, steps)?;
        if let Steady::Vector(tracks) = &result {
            let max = self.params().limits.series_max;
            if tracks.len() > max {
                return Err(Error::TooMuch { what: "series", max });
            }
        }
        self.held.set(before);
        self.hold(result.cells())?;
        Ok(result)
    }

    fn eval_kind(&self, node: &Node, steps: Steps) -> Result<Steady, Error> {
        match &node.expr {
            Expr::Number(value) => Ok(Steady::Scalar(vec![*value; steps.count])),
            Expr::Text(text) => Ok(Steady::Text(text.clone())),
            Expr::BadText(_) => Err(not_utf8()),
            Expr::Select(selector) => self.select(selector, steps).map(Steady::Vector),
            Expr::Range { .. } | Expr::Subquery { .. } => Err(Error::execution(
                "a range of samples cannot be evaluated over a range of steps",
            )),
            Expr::Paren(inner) => self.eval(inner, steps),
            Expr::Constant(inner) => self.eval_constant(inner, steps),
            Expr::Negate(inner) => self.negate(inner, steps),
            Expr::Call { function, args } => self.call(node, function, args, steps),
            Expr::Aggregate { .. } => self.aggregate(node, steps).map(Steady::Vector),
            Expr::Binary {
                op,
                left,
                right,
                matching,
                returns_bool,
            } => self.binary(node, *op, left, right, matching, *returns_bool, steps),
        }
    }

    /// Evaluates at the first step and repeats the result.
    fn eval_constant(&self, node: &Node, steps: Steps) -> Result<Steady, Error> {
        if steps.count <= 1 {
            return self.eval(node, steps);
        }
        let mut result = self.eval(node, Steps { count: 1, ..steps })?;
        match &mut result {
            Steady::Text(_) => {}
            Steady::Scalar(values) => values.resize(steps.count, values[0]),
            Steady::Vector(tracks) => {
                for track in tracks {
                    self.hold(steps.count)?;
                    track.values.resize(steps.count, track.values[0]);
                    if let Some(histograms) = &mut track.histograms {
                        let first = histograms[0].clone();
                        histograms.resize(steps.count, first);
                    }
                }
            }
        }
        Ok(result)
    }

    fn negate(&self, node: &Node, steps: Steps) -> Result<Steady, Error> {
        let mut result = self.eval(node, steps)?;
        match &mut result {
            Steady::Text(_) => return Err(Error::execution("a text cannot be negated")),
            Steady::Scalar(values) => values.iter_mut().for_each(|value| *value = -*value),
            Steady::Vector(tracks) => {
                for track in tracks {
                    track.drop_name = true;
                    track
                        .values
                        .iter_mut()
                        .filter(|value| !is_stale(**value))
                        .for_each(|value| *value = -*value);
                    for histogram in track.histograms.iter_mut().flatten().flatten() {
                        *histogram = Arc::new(Histogram::clone(histogram).times(-1.0));
                    }
                }
            }
        }
        Ok(result)
    }

    fn vector(&self, node: &Node, steps: Steps) -> Result<Vec<Track>, Error> {
        match self.eval(node, steps)? {
            Steady::Vector(tracks) => Ok(tracks),
            Steady::Scalar(_) => Err(Error::execution("expected type instant vector, got scalar")),
            Steady::Text(_) => Err(Error::execution("expected type instant vector, got string")),
        }
    }

    fn scalar(&self, node: &Node, steps: Steps) -> Result<Vec<f64>, Error> {
        match self.eval(node, steps)? {
            Steady::Scalar(values) => Ok(values),
            Steady::Vector(_) => Err(Error::execution("expected type scalar, got instant vector")),
            Steady::Text(_) => Err(Error::execution("expected type scalar, got string")),
        }
    }
}

/// The answer to a text that Prometheus can hold and we cannot.
fn not_utf8() -> Error {
    Error::unsupported("a text that is not UTF-8", "")
}

/// Drops the names that functions on the way wanted dropped.
fn cleaned(mut tracks: Vec<Track>) -> Vec<Track> {
    for track in tracks.iter_mut().filter(|track| track.drop_name) {
        track.labels = track.labels.without_metadata();
    }
    tracks
}

/// Joins tracks of equal labels; two samples at one step are an error (mergeSeriesWithSameLabelset).
fn merged(tracks: Vec<Track>) -> Result<Vec<Track>, Error> {
    let mut at: AHashMap<Labels, usize> = AHashMap::with_capacity(tracks.len());
    let mut kept: Vec<Track> = Vec::with_capacity(tracks.len());
    for track in tracks {
        match at.get(&track.labels) {
            None => {
                at.insert(track.labels.clone(), kept.len());
                kept.push(track);
            }
            Some(number) => absorb(&mut kept[*number], track)?,
        }
    }
    Ok(kept)
}

fn absorb(into: &mut Track, from: Track) -> Result<(), Error> {
    for step in 0..into.values.len() {
        let Some(cell) = from.get(step) else { continue };
        if into.has(step) {
            return Err(Error::same_labelset());
        }
        let point = match cell {
            Held::Float(value) => Point::Float(value),
            Held::Histogram(histogram) => Point::Histogram(Arc::clone(histogram)),
        };
        into.set(step, point);
    }
    Ok(())
}

fn series(track: Track, steps: Steps) -> Series {
    let mut floats = Floats::default();
    let mut histograms = Histograms::default();
    for (step, value) in track.values.iter().enumerate() {
        if !is_stale(*value) {
            floats.push(steps.time(step), *value);
        }
    }
    for (step, histogram) in track.histograms.into_iter().flatten().enumerate() {
        if let Some(histogram) = histogram {
            histograms.push(steps.time(step), histogram);
        }
    }
    Series {
        labels: track.labels,
        floats,
        histograms,
    }
}

fn sorted(mut series: Vec<Series>) -> Result<Vec<Series>, Error> {
    series.retain(|series| !series.is_empty());
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    if series.windows(2).any(|pair| pair[0].labels == pair[1].labels) {
        return Err(Error::same_labelset());
    }
    Ok(series)
}
