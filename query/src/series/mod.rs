//! Where PromQL finds its series: which metrics there are, and their samples in the order in which the evaluator wants them.
//!
//! ```text
//!   need (matchers, times) ──> counted: tables red and edges, deltas per slice ─> counters that begin at 0 where the window begins
//!                         ├──> stored:  metric_series, metric_points, metric_dists ─> under their Prometheus names
//!                         └──> objectives: the SLOs of `slo.files` ─> rates and budgets, as the reports reckon them
//! ```
//!
//! Guarantees: all samples of all series that the matchers select within the window, sorted by labels, times rising; what the reader must know
//! (rows lost to damage) comes along as notes. Assumes: what is read fits into a share of the query memory, else it is refused. Leaves out:
//! evaluation ([`tailwater_promql`]), HTTP.

mod counted;
mod exemplars;
mod grid;
mod naming;
mod objectives;
mod stored;
mod table;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use tailwater_promql::{Histogram, Labels, METRIC_NAME, Matcher, Need, Series};

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};

pub(crate) use counted::Newest;
pub(crate) use exemplars::exemplars;

/// A sample held takes about this much, bytes: time, value, and what the evaluator makes of it.
const SAMPLE_BYTES: usize = 64;

/// A short text takes this much besides its letters, bytes.
const TEXT_BYTES: usize = 32;

/// The window of a question, ms since 1970: `after < t <= upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub after_ms: i64,
    pub upto_ms: i64,
}

/// What a query may still hold, in samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    left: usize,
    max: usize,
}

impl Room {
    pub fn of(engine: &Engine) -> Room {
        Room::with(samples_max(engine))
    }

    fn with(max: usize) -> Room {
        Room { left: max, max }
    }

    fn take(&mut self, samples: usize) -> Result<()> {
        self.left = self.left.checked_sub(samples).ok_or_else(|| self.too_small())?;
        Ok(())
    }

    fn take_bytes(&mut self, bytes: usize) -> Result<()> {
        self.take(bytes.div_ceil(SAMPLE_BYTES))
    }

    /// Of a histogram that is held once, however many samples it is.
    fn take_histogram(&mut self, histogram: &Histogram) -> Result<()> {
        let buckets = histogram.positive.len() + histogram.negative.len();
        self.take_bytes(size_of::<Histogram>() + buckets * size_of::<(i32, f64)>())
    }

    fn take_labels(&mut self, labels: &Labels) -> Result<()> {
        let bytes = |text: &str| text.len() + TEXT_BYTES;
        self.take_bytes(
            labels
                .iter()
                .map(|label| bytes(&label.name) + bytes(&label.value))
                .sum(),
        )
    }

    fn too_small(&self) -> Error {
        let max = self.max;
        Error::new(
            ErrorKind::Exhausted,
            format!(
                "the query selects more than {max} samples, or as much in histograms or labels: ask for fewer series, a shorter range or a larger step"
            ),
        )
    }
}

/// Series, and what the reader must know of them.
#[derive(Debug)]
pub(crate) struct Found {
    pub series: Vec<Series>,
    /// What is left beside them.
    pub room: Room,
    /// What is missing or wrong.
    pub notes: BTreeSet<String>,
    /// What is easily misread.
    pub infos: BTreeSet<String>,
}

impl Found {
    /// Adds floats.
    fn push(&mut self, series: Series) -> Result<()> {
        self.room.take(series.len())?;
        self.series.push(series);
        Ok(())
    }
}

/// What is asked about label sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About<'a> {
    Sets,
    /// Names of labels.
    Names,
    /// Values of one label.
    Values(&'a str),
}

/// The answer to [`About`].
#[derive(Debug)]
pub(crate) struct FoundLabels<'a> {
    about: About<'a>,
    room: Room,
    /// Label sets.
    pub sets: BTreeSet<Labels>,
    /// Names or values.
    pub texts: BTreeSet<Arc<str>>,
    pub notes: BTreeSet<String>,
}

impl FoundLabels<'_> {
    fn insert(&mut self, labels: Labels) -> Result<()> {
        match self.about {
            About::Sets => {
                if !self.sets.contains(&labels) {
                    self.room.take_labels(&labels)?;
                    self.sets.insert(labels);
                }
                Ok(())
            }
            About::Names => labels.iter().try_for_each(|label| self.text(&label.name)),
            About::Values(name) => {
                let named = labels.iter().find(|label| &*label.name == name);
                named.map_or(Ok(()), |label| self.text(&label.value))
            }
        }
    }

    fn text(&mut self, text: &Arc<str>) -> Result<()> {
        if !self.texts.contains(text) {
            self.room.take_bytes(text.len() + TEXT_BYTES)?;
            self.texts.insert(text.clone());
        }
        Ok(())
    }
}

/// What is known of a metric besides its samples.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Metadata {
    /// `counter`, `gauge`, `histogram`, `summary`.
    pub kind: &'static str,
    /// A sentence; empty if nobody wrote one.
    pub help: String,
    /// Empty if there is none or the name already says it.
    pub unit: String,
}

/// The most samples that may be held at once.
pub(crate) fn samples_max(engine: &Engine) -> usize {
    engine.limits().memory_bytes_max / SAMPLE_BYTES
}

/// The series of one need. `newest` is that of the request, `lookback_ms` that of the evaluation, `room` is what the needs before it left.
///
/// # Errors
/// As [`Engine::query`]; [`ErrorKind::Exhausted`] for more samples than may be held.
pub(crate) async fn select(
    engine: &Engine,
    need: &Need,
    lookback_ms: i64,
    newest: &mut Newest,
    room: Room,
) -> Result<Found> {
    let mut found = Found {
        series: Vec::new(),
        room,
        notes: BTreeSet::new(),
        infos: BTreeSet::new(),
    };
    counted::select(engine, need, lookback_ms, newest, &mut found).await?;
    stored::select(engine, need, lookback_ms, &mut found).await?;
    objectives::select(engine, need, lookback_ms, &mut found).await?;
    found.series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
    Ok(found)
}

/// What is asked about the label sets that any of these selectors selects; about all of them without a selector.
///
/// # Errors
/// As [`select`].
pub(crate) async fn labels<'a>(
    engine: &Engine,
    selectors: &[Vec<Matcher>],
    window: Window,
    about: About<'a>,
) -> Result<FoundLabels<'a>> {
    let mut found = FoundLabels {
        about,
        room: Room::of(engine),
        sets: BTreeSet::new(),
        texts: BTreeSet::new(),
        notes: BTreeSet::new(),
    };
    let all = [Vec::new()];
    let selectors = if selectors.is_empty() { &all } else { selectors };
    for matchers in selectors {
        counted::labels(engine, matchers, window, &mut found).await?;
        stored::labels(engine, matchers, window, &mut found).await?;
        objectives::labels(engine, matchers, &mut found)?;
    }
    Ok(found)
}

/// Names with type, help and unit, of what was seen in the window; the built-in ones always.
///
/// # Errors
/// As [`Engine::query`].
pub(crate) async fn metadata(engine: &Engine, window: Window) -> Result<Vec<(String, Metadata)>> {
    let mut all = counted::metadata();
    all.extend(objectives::metadata(engine));
    all.extend(stored::metadata(engine, window).await?);
    all.sort();
    all.dedup();
    Ok(all)
}

/// Whether the conditions on the name, if any, let this one through.
fn may_be(matchers: &[Matcher], name: &str) -> bool {
    matchers
        .iter()
        .all(|matcher| matcher.name != METRIC_NAME || matcher.matches(name))
}

/// Text of a query with its values.
#[derive(Debug, Default)]
struct Sql {
    text: String,
    params: Vec<ScalarValue>,
}

impl Sql {
    fn push(&mut self, text: &str) -> &mut Sql {
        self.text.push_str(text);
        self
    }

    /// A placeholder for this value.
    fn value(&mut self, value: ScalarValue) -> &mut Sql {
        self.params.push(value);
        let number = self.params.len();
        self.text.push_str(&format!("${number}"));
        self
    }

    fn text(&mut self, value: &str) -> &mut Sql {
        self.value(ScalarValue::Utf8(Some(value.to_owned())))
    }

    fn time(&mut self, ms: i64) -> &mut Sql {
        let us = ms.saturating_mul(1000);
        self.value(ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())))
    }

    fn day(&mut self, ms: i64) -> &mut Sql {
        let day = ms
            .div_euclid(86_400_000)
            .clamp(i64::from(i32::MIN), i64::from(i32::MAX));
        #[allow(clippy::cast_possible_truncation)] // Clamped.
        self.value(ScalarValue::Date32(Some(day as i32)))
    }

    /// ` and column in (values)`.
    fn among<'v>(&mut self, column: &str, values: impl Iterator<Item = &'v str>) -> &mut Sql {
        self.push(" and ").push(column).push(" in (");
        for (number, value) in values.enumerate() {
            self.push(if number == 0 { "" } else { ", " }).text(value);
        }
        self.push(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_by_what_is_held() {
        let room = Room::with(100);
        let check = |work: &dyn Fn(&mut Room) -> Result<()>, left: Option<usize>| {
            let mut room = room;
            let kind = work(&mut room).map(|()| room.left).map_err(|error| error.kind());
            assert_eq!(kind, left.ok_or(ErrorKind::Exhausted));
        };
        check(&|room| room.take(100), Some(0));
        check(&|room| room.take(101), None);
        check(&|room| room.take_bytes(65), Some(98));
        let buckets = |count: i32| Histogram {
            positive: (0..count).map(|index| (index, 1.0)).collect(),
            ..Histogram::default()
        };
        check(&|room| room.take_histogram(&buckets(500)), None);
        let bare = size_of::<Histogram>().div_ceil(SAMPLE_BYTES);
        check(&|room| room.take_histogram(&buckets(0)), Some(100 - bare));
    }

    #[test]
    fn label_sets_have_a_bound_and_names_are_held_once() {
        let check = |about: About<'_>, texts: usize, fits: bool| {
            let mut found = FoundLabels {
                about,
                room: Room::with(100),
                sets: BTreeSet::new(),
                texts: BTreeSet::new(),
                notes: BTreeSet::new(),
            };
            let sets = (0..200).map(|at| [("a", format!("{}", at % 40)), ("b", at.to_string())]);
            let mut sets = sets.map(|pairs| pairs.into_iter().collect::<Labels>());
            let found_all = sets.try_for_each(|labels| found.insert(labels));
            assert_eq!((found_all.is_ok(), found.texts.len()), (fits, texts), "{about:?}");
        };
        check(About::Names, 2, true);
        check(About::Values("a"), 40, true);
        check(About::Values("b"), 100, false);
        check(About::Sets, 0, false);
    }
}
