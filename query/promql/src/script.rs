//! Prometheus' PromQL test scripts: `load` series, `eval` a query, compare.
//!
//! The format is that of prometheus/prometheus:promql/promqltest/README.md. A runner reads a script with [`parse`], keeps
//! what `load` gives in a [`Store`] (or sends it through an ingest path of its own), asks its engine what each [`Eval`]
//! asks, has the answer judged by [`Eval::check`], and counts it in a [`Tally`]. Nothing here evaluates anything.

mod check;
mod lines;
mod points;
mod store;
mod tally;

use std::sync::Arc;

use regex::Regex;

use crate::histogram::Histogram;
use crate::labels::Labels;

pub use check::Outcome;
pub use lines::parse;
pub use store::Store;
pub use tally::{End, Tally, tables, with_part};

/// A script that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ScriptError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

/// A step of a script.
#[derive(Debug, Clone)]
pub enum Command {
    /// Forget all series.
    Clear,
    /// Add samples.
    Load(Load),
    /// Ask and compare.
    Eval(Box<Eval>),
}

/// A value of a series in a script.
#[derive(Debug, Clone, PartialEq)]
pub enum ScriptPoint {
    /// `_`: no sample.
    Nothing,
    /// A float, perhaps the stale marker.
    Float(f64),
    /// A histogram, and whether its hint about resets was written down and hence is to be compared.
    Histogram(Arc<Histogram>, bool),
}

/// Series to add; the first point of each is at time zero.
#[derive(Debug, Clone)]
pub struct Load {
    /// Line of the script, from 1.
    pub line: usize,
    /// Between two points, ms.
    pub step_ms: i64,
    /// Add histograms with custom buckets that say the same as the classic ones.
    pub with_custom_buckets: bool,
    /// Start timestamps (`@st`) were given; they are not read.
    pub start_timestamps: bool,
    /// Labels and points.
    pub series: Vec<(Labels, Vec<ScriptPoint>)>,
}

/// When a query is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At one moment, ms.
    Instant(i64),
    /// From, to and step, ms.
    Range(i64, i64, i64),
}

/// A text that must be there.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Any text will do.
    Any,
    /// This one.
    Exactly(String),
    /// One that this matches.
    Matching(Regex),
}

/// A query and what is expected of it.
#[derive(Debug, Clone)]
pub struct Eval {
    /// Line of the script, from 1.
    pub line: usize,
    /// The query.
    pub query: String,
    /// When.
    pub when: When,
    /// It must fail, with this text.
    pub fail: Option<Wanted>,
    /// Series come in the order of the script.
    pub ordered: bool,
    /// Warnings that must be there, and no others; empty: not looked at.
    pub warnings: Vec<Wanted>,
    /// As `warnings`.
    pub infos: Vec<Wanted>,
    /// No warning may be there.
    pub no_warning: bool,
    /// No info may be there.
    pub no_info: bool,
    /// A number is expected.
    pub scalar: Option<f64>,
    /// A text is expected.
    pub text: Option<String>,
    /// The answer is a range of samples: from, to and step of the expected points, ms.
    pub range_vector: Option<(i64, i64, i64)>,
    /// Expected series.
    pub series: Vec<(Labels, Vec<ScriptPoint>)>,
}
