//! PromQL over sorted series: what a query needs, and its answer.
//!
//! ```text
//! text --Query::parse--> Query --plan(params)--> Plan --needs()--> the caller fetches series
//!                                                  |                         |
//!                                                  +------ evaluate(series) <+ --> Answer --api--> JSON
//! ```
//!
//! Semantics are those of Prometheus 3 with delayed removal of names; `docs/conformance/promql.md` lists what of its own
//! test scripts passes and what is refused by name. A range query is evaluated expression by expression over all steps at
//! once: a series is a column of floats, and a window over it is two indices that only move forward.
//!
//! What is absent and must stay so: I/O, clocks, threads, async, DataFusion. Nothing here panics on a query or on data;
//! what is not evaluated is [`Error::Unsupported`], never a wrong answer.

pub mod api;
mod calendar;
mod error;
mod eval;
mod expr;
mod histogram;
mod labels;
mod notes;
pub mod number;
mod plan;
mod sample;
pub mod script;
mod value;

pub use error::Error;
pub use expr::{Compare, Matcher};
pub use histogram::{Bucket, Buckets, CUSTOM_BUCKETS, Histogram, IncompatibleBuckets, ResetHint};
pub use labels::{BUCKET, Label, Labels, METRIC_NAME};
pub use notes::NOTES_MAX;
pub use plan::{Hints, LOOKBACK_MS, Limits, Need, Params, Plan, Query};
pub use sample::{Floats, Histograms, Series};
pub use value::{Answer, Point, Sample, Value};
