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

use datafusion::common::ScalarValue;
use tailwater_promql::{Labels, METRIC_NAME, Matcher, Need, Series};

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};

pub(crate) use exemplars::exemplars;

/// A sample held takes about this much, bytes: time, value, and what the evaluator makes of it.
const SAMPLE_BYTES: usize = 64;

/// The window of a question, ms since 1970: `after < t <= upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub after_ms: i64,
    pub upto_ms: i64,
}

/// Series, and what the reader must know of them.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub series: Vec<Series>,
    /// Samples of all of them.
    pub samples: usize,
    /// What is missing or wrong.
    pub notes: BTreeSet<String>,
    /// What is easily misread.
    pub infos: BTreeSet<String>,
}

/// Label sets, likewise.
#[derive(Debug, Default)]
pub(crate) struct FoundLabels {
    pub labels: BTreeSet<Labels>,
    pub notes: BTreeSet<String>,
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

/// The series of one need. `now_ms` tells what is still arriving, `lookback_ms` is that of the evaluation.
///
/// # Errors
/// As [`Engine::query`]; [`ErrorKind::Exhausted`] for more samples than may be held.
pub(crate) async fn select(engine: &Engine, need: &Need, lookback_ms: i64, now_ms: i64) -> Result<Found> {
    let mut found = Found::default();
    counted::select(engine, need, lookback_ms, now_ms, &mut found).await?;
    stored::select(engine, need, &mut found).await?;
    objectives::select(engine, need, lookback_ms, &mut found).await?;
    found.series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
    Ok(found)
}

/// The label sets that any of these selectors selects; all of them without a selector.
///
/// # Errors
/// As [`select`].
pub(crate) async fn labels(engine: &Engine, selectors: &[Vec<Matcher>], window: Window) -> Result<FoundLabels> {
    let mut found = FoundLabels::default();
    let all = [Vec::new()];
    let selectors = if selectors.is_empty() { &all } else { selectors };
    for matchers in selectors {
        counted::labels(engine, matchers, window, &mut found).await?;
        stored::labels(engine, matchers, window, &mut found).await?;
        objectives::labels(engine, matchers, &mut found);
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

fn too_much(engine: &Engine) -> Error {
    let max = samples_max(engine);
    Error::new(
        ErrorKind::Exhausted,
        format!("the query selects more than {max} samples: ask for fewer series, a shorter range or a larger step"),
    )
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
