//! SLOs: from counts per slice of event time to budgets, burn rates, intervals, verdicts, and reports of them. Beside them [`estimate`]: what
//! sampled rows say of all, with intervals.
//!
//! ```text
//!  ResolvedSlo --plan--> Plan { needs } --caller reads--> Data --evaluate--> SloReport --Report::new--> Report --render--> String
//!              --track-> Track { plan }                      '--Track::evaluate--> burn rates and budget at many moments
//! ```
//!
//! Guarantees: counts stay whole numbers and are divided last; targets are decimals; "no data" never reads as met; the same plan and
//! data give the same bytes. Assumes that the caller read what [`plan::Need`]s ask for. Absent, and to stay so: I/O, clocks, randomness,
//! DataFusion. Formulas are those of the SRE workbook, chapter 5, and of the OpenSLO specification; intervals name their authors.

// The fixtures are also a module of the example and name this crate from outside.
#[cfg(test)]
extern crate self as tailwater_slo;

pub mod beta;
pub mod composite;
pub mod estimate;
pub mod evaluate;
#[cfg(test)]
mod fixture;
pub mod interval;
pub mod latency;
pub mod pace;
pub mod plan;
pub mod render;
pub mod report;
pub mod tally;
pub mod time;
pub mod verdict;

pub use evaluate::{Data, Observed, Rates, Track, TrackPoint, Upstream, Wanted, evaluate, track};
pub use plan::{AsOf, Need, Plan, PlanError, Settings, What, plan};
pub use render::{Format, render};
pub use report::{Report, SloReport};
pub use tally::Slice;
pub use time::{Span, Time};
pub use verdict::Verdict;
