//! SLO reports from the lake: reads what plans need, and hands it to the arithmetic of [`tailwater_slo`].
//!
//! ```text
//!  documents --resolve--> SLOs --plan--> needs --[this: SQL over `red`, or the SQL of the document]--> Data --evaluate--> Report
//! ```
//!
//! `watch` tells how far the lake reaches and when it was watched, `data` what a plan needs: `requests` and durations out of `red`, events and values of a
//! `source`, `groups` of an objective; `follow` is the same over time. Queries are put together in `select` and asked by the `reader`.
//!
//! Hours and quarters are read from the tables derived from `red` wherever slices and the ends of spans allow it (`pieces`): 90 days are some 2,000
//! rows a key. Latency thresholds are exact where rows have a register for them, else the fewest and the most their histograms allow. Every query runs within the
//! engine's limits but the number of rows, for which there is [`ROWS_MAX`]; the same question of several objectives is asked once, and that of several operations `together`.
//! Leaves out: reading documents, drawing.

mod data;
mod follow;
mod groups;
mod pieces;
mod reader;
mod requests;
mod rows;
mod select;
mod source;
mod together;
mod watch;

use futures::try_join;
use tailwater_openslo::ResolvedSlo;
use tailwater_slo::plan::spans_planned;
use tailwater_slo::{AsOf, Plan, PlanError, Report, Settings, Time, Verdict, plan};

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
pub(crate) use follow::{Asked, follow};
use reader::Reader;

/// Most rows of one answer: minutes of a year twice over.
pub const ROWS_MAX: usize = 1_100_000;

/// Most objectives of one report.
pub const OBJECTIVES_MAX: usize = 2_000;

/// Most windows, burn windows and maintenance windows of all objectives of one report together, each SLO's counted for each of its objectives.
pub const SPANS_MAX: usize = 200_000;

/// A longer time without any row in the lake was not watched.
pub const HOLE_SECONDS: u32 = 900;

/// A report, and the objectives that could not be part of it.
#[derive(Clone, Debug)]
pub struct Reported {
    /// What was evaluated.
    pub report: Report,
    /// Why an objective was not: its numbers come from elsewhere. A sentence each; to be taken as no data.
    pub skipped: Vec<String>,
}

impl Reported {
    /// The worst verdict, where what was skipped is no data.
    #[must_use]
    pub fn worst(&self) -> Verdict {
        let skipped = (!self.skipped.is_empty()).then_some(Verdict::NoData);
        // Verdicts are ordered worst first.
        let verdicts = self.report.worst().into_iter().chain(skipped);
        verdicts.min().unwrap_or(Verdict::NoData)
    }
}

/// Reads a moment: RFC 3339, or a day, which begins at midnight UTC.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn parse_time(text: &str) -> Result<Time, String> {
    let day = || text.parse::<chrono::NaiveDate>().ok()?.and_hms_opt(0, 0, 0);
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|time| Time(time.timestamp()))
        .or_else(|_| day().map(|time| Time(time.and_utc().timestamp())).ok_or(()))
        .map_err(|()| format!("`{text}` is no time: write 2026-11-22T20:00:00Z or 2026-11-22"))
}

/// Whether so many objectives fit into one report.
///
/// # Errors
/// [`ErrorKind::BadQuery`] names the limit.
pub fn fit(objectives: usize) -> Result<()> {
    if objectives <= OBJECTIVES_MAX {
        return Ok(());
    }
    let message = format!(
        "{objectives} objectives, more than the {OBJECTIVES_MAX} that one report may have: report the documents in parts"
    );
    Err(Error::new(ErrorKind::BadQuery, message))
}

/// The same of all that is planned for them.
fn fit_all(slos: &[ResolvedSlo], settings: &Settings) -> Result<()> {
    fit(slos.iter().map(|slo| slo.objectives.len()).sum())?;
    let spans = slos
        .iter()
        .map(|slo| slo.objectives.len() * spans_planned(slo, settings));
    let spans: usize = spans.sum();
    if spans <= SPANS_MAX {
        return Ok(());
    }
    let message = format!(
        "{spans} windows of objectives, their alerts and their maintenance, more than the {SPANS_MAX} that one report may have: report the documents in parts"
    );
    Err(Error::new(ErrorKind::BadQuery, message))
}

/// Plans of all objectives, and why there is none of some.
fn plan_all(slos: &[ResolvedSlo], settings: &Settings, as_of: AsOf) -> Result<(Vec<Plan>, Vec<String>)> {
    let (mut plans, mut skipped) = (Vec::new(), Vec::new());
    for slo in slos {
        match plan(slo, settings, as_of) {
            Ok(of_slo) => plans.extend(of_slo),
            Err(error @ PlanError::Foreign { .. }) => skipped.push(error.to_string()),
            Err(error) => return Err(Error::new(ErrorKind::BadQuery, error.to_string())),
        }
    }
    Ok((plans, skipped))
}

/// Reports SLOs as of a moment. Planning and evaluating are done where queries run.
///
/// # Errors
/// What queries can end in; [`ErrorKind::BadQuery`] for more than fits ([`OBJECTIVES_MAX`], [`SPANS_MAX`]). It names SLO and objective when the SQL of a document is to blame.
pub async fn report(engine: &Engine, slos: &[ResolvedSlo], settings: &Settings, at: Time) -> Result<Reported> {
    fit_all(slos, settings)?;
    let lake = Reader::new(engine);
    let as_of = AsOf {
        at,
        watermark: lake.watermark(at).await?,
    };
    let settings = lake.settings(settings, as_of).await?;
    let of_slos = slos.to_vec();
    let (plans, skipped) = engine.compute(move |_| plan_all(&of_slos, &settings, as_of)).await??;
    let mut objectives = Vec::with_capacity(plans.len());
    // One is planned while the other is read.
    let ahead = &plans[..plans.len().min(together::PLANS)];
    let (watched, ()) = try_join!(lake.watched(&plans), lake.ask_together(ahead))?;
    for (number, plans) in plans.chunks(together::PLANS).enumerate() {
        if number > 0 {
            lake.ask_together(plans).await?;
        }
        for plan in plans {
            let named = |error: Error| {
                let message = format!("SLO `{}`, objective `{}`: {error}", plan.slo, plan.objective);
                Error::new(error.kind(), message).at(error.position())
            };
            let data = lake.data(plan, &watched).await.map_err(named)?;
            let mut objective = lake.evaluate(plan.clone(), data).await?;
            objective.groups = lake.groups(plan, &watched).await.map_err(named)?;
            objectives.push(objective);
        }
        lake.forget();
    }
    Ok(Reported {
        report: Report::new(at, objectives).with_composites(slos),
        skipped,
    })
}
