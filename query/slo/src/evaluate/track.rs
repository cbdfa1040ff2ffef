//! An objective at many moments, from one reading: what a report made at each of them says of burn rates and budget.
//!
//! Windows move by the step of a graph, so hours are read wherever none of them begins or ends, and elsewhere the widest slices that no end
//! cuts: a month of a 30 d window in steps of an hour is read in hours alone.

use std::collections::BTreeSet;

use tailwater_openslo::{Period, ResolvedObjective, ResolvedSlo};

use super::series::Series;
use super::{Data, burn_rate, stale_after};
use crate::plan::{AsOf, Plan, PlanError, Settings, counts, end_at, plan_objective, quiet_times, spans_at};
use crate::tally::Ratio;
use crate::time::{Span, Time, Window};

/// What is asked of each moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Rates over these last windows.
    pub burn: Vec<Period>,
    /// Rates over the window of the SLO.
    pub period: bool,
}

/// What is to be read for an objective, and what for.
#[derive(Clone, Debug)]
pub struct Track {
    /// The objective as of the last moment; its needs are those of all moments.
    pub plan: Plan,
    wanted: Wanted,
    moments: Vec<AsOf>,
}

/// An objective at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The moment.
    pub at: Time,
    /// Per window of [`Wanted::burn`]; `None` where nothing was counted, or what there is ended too long ago to say anything.
    pub burn: Vec<Option<Rates>>,
    /// Over the window of the SLO, likewise.
    pub period: Option<Rates>,
}

/// What a window says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Share of bad events or slices, at worst.
    pub errors: f64,
    /// That share over the budget: 1 spends the budget in exactly the window of the SLO. Infinite without a budget.
    pub burn: f64,
    /// `1 - burn`: of the window of the SLO what is left of its budget.
    pub remaining: f64,
}

/// Plans an objective at some moments, each with the watermark it had.
///
/// # Errors
/// As [`crate::plan::plan`].
pub fn track(
    slo: &ResolvedSlo,
    objective: &ResolvedObjective,
    settings: &Settings,
    wanted: Wanted,
    moments: Vec<AsOf>,
) -> Result<Track, PlanError> {
    let last = moments.iter().copied().max_by_key(|as_of| as_of.at);
    let none = AsOf {
        at: Time(0),
        watermark: None,
    };
    let mut plan = plan_objective(slo, objective, settings, last.unwrap_or(none))?;
    let spans = moments
        .iter()
        .filter(|as_of| is_known(&plan, **as_of))
        .flat_map(|as_of| spans(&plan, &wanted, *as_of));
    let mut read: Vec<Span> = spans.filter(|span| !span.is_empty()).collect();
    read.sort_unstable();
    read.dedup();
    plan.quiet = quiet_times(&slo.extensions, settings.fine, &read);
    let quiet = plan.quiet.iter().map(|quiet| quiet.span);
    let ends: BTreeSet<Time> = read
        .iter()
        .copied()
        .chain(quiet)
        .flat_map(|span| [span.from, span.to])
        .collect();
    let settings = Settings {
        fine: ends.iter().fold(settings.coarse, |width, end| common(width, *end)),
        ..settings.clone()
    };
    plan.needs = counts(&plan.budgeting, plan.slice(), &read, &ends, &settings);
    Ok(Track { plan, wanted, moments })
}

impl Track {
    /// What the moments show, in the order they were given in. `data` is what the plan's needs gave.
    #[must_use]
    pub fn evaluate(&self, data: Data) -> Vec<Point> {
        let series = Series::new(&self.plan, data.slices, &data.observed, data.begins);
        let rates = |span: &Span| {
            let tally = series.sums(*span).tally(&self.plan.budgeting);
            let burn = burn_rate(&self.plan, &tally, *span)?;
            Some(Rates {
                errors: Ratio::new(tally.bad as i128, tally.total as i128).as_f64(),
                burn: burn.as_f64(),
                remaining: burn.complement().as_f64(),
            })
        };
        let mut before: Option<(Vec<Span>, Point)> = None;
        let mut points = Vec::with_capacity(self.moments.len());
        for as_of in &self.moments {
            let known = is_known(&self.plan, *as_of);
            let spans: Vec<Span> = if known {
                spans(&self.plan, &self.wanted, *as_of).collect()
            } else {
                Vec::new()
            };
            let point = match &before {
                // Moments within one slice see the same.
                Some((same, point)) if *same == spans => Point {
                    at: as_of.at,
                    ..point.clone()
                },
                _ => Point {
                    at: as_of.at,
                    burn: (0..self.wanted.burn.len())
                        .map(|at| spans.get(at).and_then(&rates))
                        .collect(),
                    period: self.wanted.period.then(|| spans.last().and_then(&rates)).flatten(),
                },
            };
            points.push(point.clone());
            before = Some((spans, point));
        }
        points
    }
}

/// Whether anything can be said of a moment.
fn is_known(plan: &Plan, as_of: AsOf) -> bool {
    as_of
        .watermark
        .is_some_and(|watermark| as_of.at.0.saturating_sub(watermark.0) <= stale_after(plan.slice()))
}

/// The windows asked for, as of a moment; that of the SLO is the last.
fn spans<'a>(plan: &Plan, wanted: &'a Wanted, as_of: AsOf) -> impl Iterator<Item = Span> + use<'a> {
    let end = end_at(as_of, plan.slice());
    let own = wanted
        .period
        .then(|| spans_at(plan.windows[0].window, as_of.at, end, plan.settings.fine).1);
    let rolling = |period: &Period| Window::Rolling(period.nominal().as_secs());
    let burn = wanted.burn.iter().map(move |period| rolling(period).at(end));
    burn.chain(own)
}

/// The widest slice of at most `width` seconds that divides it and does not contain `end`.
fn common(width: u32, end: Time) -> u32 {
    let (mut a, mut b) = (width, end.0.rem_euclid(width.into()) as u32);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}
