//! Series of the SLOs of `slo.files`: rates and budgets as the reports reckon them, under the names that Sloth gives its recording rules
//! (slok/sloth:internal/prometheus/recording_rules.go), so that what was drawn over those can be drawn over these.
//!
//! | series | value |
//! |---|---|
//! | `slo:sli_error:ratio_rate5m`, `30m`, `1h`, `2h`, `6h`, `1d`, `3d` and the SLO's own window | share of bad events; label `window` |
//! | `slo:objective:ratio`, `slo:error_budget:ratio`, `slo:time_period:days` | target, `1 - target`, length of the window |
//! | `slo:current_burn_rate:ratio`, `slo:period_burn_rate:ratio` | that share over the budget: of 5 minutes, of the SLO's window |
//! | `slo:period_error_budget_remaining:ratio` | `1 - slo:period_burn_rate:ratio` |
//! | `tailwater_slo_info` | 1; labels `target`, `window`, `method`, `definition` |
//!
//! Labels of all: `slo`, `service`, `objective`. A tenant has the series of the objectives that are for it ([`Engine::objectives`]). There is a sample at every moment of a graph, and every minute where a function looks at more than one. Where
//! a report would have no number the series has ended, while Sloth's would be NaN.

use std::collections::BTreeMap;

use tailwater_openslo::{Budgeting, Period, ResolvedObjective, ResolvedSlo, TimeWindow};
use tailwater_promql::{Labels, METRIC_NAME, Matcher, Need, Series, number};
use tailwater_slo::{Settings, Time, TrackPoint, Wanted, plan::window_of};

use super::grid::Grid;
use super::{Found, FoundLabels, Metadata, Room, may_be};
use crate::engine::Engine;
use crate::error::Result;
use crate::slo::{Asked, follow};

/// How often a rule would have been evaluated, ms.
const EVERY_MS: i64 = 60_000;

const ERRORS: &str = "slo:sli_error:ratio_rate";
const INFO: &str = "tailwater_slo_info";

/// What a series shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    /// Share of bad ones over a window.
    Errors(Period),
    /// The same over the window of the SLO.
    OwnErrors,
    Objective,
    Budget,
    Days,
    CurrentBurn,
    OwnBurn,
    Remaining,
    Info,
}

/// Those with one series per objective; name and help.
const PLAIN: [(Figure, &str, &str); 6] = [
    (
        Figure::Objective,
        "slo:objective:ratio",
        "The target: what share must be good.",
    ),
    (
        Figure::Budget,
        "slo:error_budget:ratio",
        "What share may be bad: 1 - target.",
    ),
    (Figure::Days, "slo:time_period:days", "Length of the window of the SLO."),
    (
        Figure::CurrentBurn,
        "slo:current_burn_rate:ratio",
        "Errors of the last 5 minutes over the budget: 1 spends it in exactly the window.",
    ),
    (
        Figure::OwnBurn,
        "slo:period_burn_rate:ratio",
        "Errors of the window over the budget: 1 has spent it.",
    ),
    (
        Figure::Remaining,
        "slo:period_error_budget_remaining:ratio",
        "What is left of the budget of the window; negative when it is overdrawn.",
    ),
];

/// The window of the burn rate that is called current.
fn current() -> Period {
    Settings::default().burn_windows[0]
}

fn period(slo: &ResolvedSlo) -> Period {
    match &slo.window {
        TimeWindow::Rolling(period) | TimeWindow::Calendar { period, .. } => *period,
    }
}

/// The series of an objective.
fn series(slo: &ResolvedSlo, objective: &ResolvedObjective) -> Vec<(Figure, Labels)> {
    let own = period(slo);
    let common = [
        ("slo", slo.name.as_str()),
        ("service", slo.service.as_str()),
        ("objective", objective.name.as_str()),
    ];
    let labels = |name: &str, more: &[(&str, &str)]| -> Labels {
        common
            .iter()
            .chain(more)
            .copied()
            .chain([(METRIC_NAME, name)])
            .collect()
    };
    // An SLO over one of the windows has one series of that name, over its own.
    let windows = Settings::default().burn_windows.into_iter();
    let errors = windows
        .filter(|window| window.to_string() != own.to_string())
        .map(|window| (Figure::Errors(window), window))
        .chain([(Figure::OwnErrors, own)]);
    let mut all: Vec<(Figure, Labels)> = errors
        .map(|(figure, window)| {
            let window = window.to_string();
            (figure, labels(&format!("{ERRORS}{window}"), &[("window", &window)]))
        })
        .collect();
    all.extend(PLAIN.iter().map(|(figure, name, _)| (*figure, labels(name, &[]))));
    let info = [
        ("target", objective.target.to_string()),
        ("window", own.to_string()),
        ("method", method(&objective.budgeting).to_owned()),
        ("definition", slo.hash.to_string()),
    ];
    let info: Vec<(&str, &str)> = info.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.push((Figure::Info, labels(INFO, &info)));
    all
}

const fn method(budgeting: &Budgeting) -> &'static str {
    match budgeting {
        Budgeting::Occurrences => "Occurrences",
        Budgeting::Timeslices { .. } => "Timeslices",
        Budgeting::RatioTimeslices { .. } => "RatioTimeslices",
    }
}

/// Whether a name could be one of these, without looking at SLOs.
fn may_be_ours(matchers: &[Matcher]) -> bool {
    let named = matchers.iter().find_map(|one| match one.compare {
        tailwater_promql::Compare::Equal if one.name == METRIC_NAME => Some(one.value.as_str()),
        _ => None,
    });
    named.is_none_or(|name| name.starts_with("slo:") || name == INFO)
}

/// Series of an objective that a need selects.
type Selected<'a> = (&'a ResolvedSlo, &'a ResolvedObjective, Vec<(Figure, Labels)>);

/// All samples of the series that a need selects.
pub(super) async fn select(engine: &Engine, need: &Need, lookback_ms: i64, found: &mut Found) -> Result<()> {
    if !may_be_ours(&need.matchers) {
        return Ok(());
    }
    // What is selected, by objective.
    let mut selected: Vec<Selected<'_>> = Vec::new();
    for (slo, objective) in engine.objectives() {
        let mut of_objective = series(slo, objective);
        of_objective.retain(|(_, labels)| Matcher::all(&need.matchers, labels));
        if !of_objective.is_empty() {
            selected.push((slo, objective, of_objective));
        }
    }
    if selected.is_empty() {
        return Ok(());
    }
    let moments = moments(need, lookback_ms, &found.room).ok_or_else(|| found.room.too_small())?;
    let number: usize = selected.iter().map(|(_, _, series)| series.len()).sum();
    found.room.take(number.saturating_mul(moments.len()))?;
    let mut asked = Vec::new();
    for (slo, objective, series) in &selected {
        let wanted = wanted(series);
        if wanted != Wanted::default() {
            asked.push(Asked { slo, objective, wanted });
        }
    }
    let times: Vec<Time> = moments.iter().map(|ms| Time(ms.div_euclid(1000))).collect();
    let mut followed = if asked.is_empty() {
        Vec::new()
    } else {
        follow(engine, &asked, &times).await?
    }
    .into_iter();
    for (slo, objective, series) in selected {
        let wanted = wanted(&series);
        let points = if wanted == Wanted::default() {
            Vec::new()
        } else {
            followed.next().unwrap_or(Ok(Vec::new())).unwrap_or_else(|why| {
                found.notes.insert(why);
                Vec::new()
            })
        };
        for (figure, labels) in series {
            let value = |at: usize| match figure {
                Figure::Objective => Some(objective.target.fraction().to_f64()),
                Figure::Budget => Some(objective.target.budget().to_f64()),
                #[allow(clippy::cast_precision_loss)] // Seconds of a window.
                Figure::Days => Some(window_of(&slo.window).at(times[at]).seconds() as f64 / 86_400.0),
                Figure::Info => Some(1.0),
                measured => measure(measured, points.get(at)?, &wanted),
            };
            found.series.extend(sampled(labels, &moments, value));
        }
    }
    Ok(())
}

/// What has to be counted for these series.
fn wanted(series: &[(Figure, Labels)]) -> Wanted {
    let mut wanted = Wanted::default();
    for (figure, _) in series {
        match figure {
            Figure::Errors(window) => wanted.burn.push(*window),
            Figure::CurrentBurn => wanted.burn.push(current()),
            Figure::OwnErrors | Figure::OwnBurn | Figure::Remaining => wanted.period = true,
            Figure::Objective | Figure::Budget | Figure::Days | Figure::Info => {}
        }
    }
    wanted.burn.sort_by_key(|window| window.nominal());
    wanted.burn.dedup();
    wanted
}

fn measure(figure: Figure, point: &TrackPoint, wanted: &Wanted) -> Option<f64> {
    let over = |window: Period| {
        let at = wanted.burn.iter().position(|one| *one == window)?;
        *point.burn.get(at)?
    };
    match figure {
        Figure::Errors(window) => over(window).map(|rates| rates.errors),
        Figure::CurrentBurn => over(current()).map(|rates| rates.burn),
        Figure::OwnErrors => point.period.map(|rates| rates.errors),
        Figure::OwnBurn => point.period.map(|rates| rates.burn),
        Figure::Remaining => point.period.map(|rates| rates.remaining),
        Figure::Objective | Figure::Budget | Figure::Days | Figure::Info => None,
    }
}

/// When a need looks; `None` if there is no room for so much.
fn moments(need: &Need, lookback_ms: i64, room: &Room) -> Option<Vec<i64>> {
    if need.hints.range_ms == 0 && !need.hints.nested {
        return Grid::new(need, lookback_ms, room.left).map(|grid| grid.times);
    }
    let first = need.from_ms.div_euclid(EVERY_MS) + i64::from(need.from_ms.rem_euclid(EVERY_MS) > 0);
    let minutes = first..=need.to_ms.div_euclid(EVERY_MS);
    let many = minutes.end().saturating_sub(first);
    if usize::try_from(many).is_ok_and(|many| many > room.left) {
        return None;
    }
    Some(minutes.map(|minute| minute * EVERY_MS).collect())
}

/// A series with a value at some of the moments; where one is missing after another it has ended, so that nobody looks back at the other.
fn sampled(labels: Labels, moments: &[i64], value: impl Fn(usize) -> Option<f64>) -> Option<Series> {
    let mut samples = Vec::with_capacity(moments.len());
    let mut lives = false;
    for (at, time) in moments.iter().enumerate() {
        let shown = value(at);
        match shown {
            Some(value) => samples.push((*time, value)),
            None if lives => samples.push((*time, number::stale())),
            None => {}
        }
        lives = shown.is_some();
    }
    (!samples.is_empty()).then(|| Series::of_floats(labels, samples))
}

/// The label sets that these matchers select. An SLO has its series whether there are data for it or not.
pub(super) fn labels(engine: &Engine, matchers: &[Matcher], found: &mut FoundLabels<'_>) -> Result<()> {
    let all = engine.objectives().flat_map(|(slo, objective)| series(slo, objective));
    let mut selected = all.map(|(_, labels)| labels).filter(|labels| {
        // The name first: it leaves most out.
        may_be(matchers, labels.metric()) && Matcher::all(matchers, labels)
    });
    selected.try_for_each(|labels| found.insert(labels))
}

/// What the metrics of the declared SLOs are.
pub(super) fn metadata(engine: &Engine) -> Vec<(String, Metadata)> {
    let mut all: BTreeMap<String, &str> = BTreeMap::new();
    let every = engine.objectives().flat_map(|(slo, objective)| series(slo, objective));
    for (figure, labels) in every {
        let plain = PLAIN.iter().find(|(plain, ..)| *plain == figure);
        let help = match (plain, figure) {
            (Some((_, _, help)), _) => help,
            (None, Figure::Info) => "SLOs and what they say.",
            (None, _) => "Share of bad events of the window.",
        };
        all.insert(labels.metric().to_owned(), help);
    }
    let described = all.into_iter().map(|(name, help)| {
        let metadata = Metadata {
            kind: "gauge",
            help: help.to_owned(),
            unit: String::new(),
        };
        (name, metadata)
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tailwater_promql::{LOOKBACK_MS, Params, Query};

    use super::*;

    #[test]
    fn minutes_beyond_the_room_are_not_made() {
        let check = |text: &str, left: usize, expected: Option<usize>| {
            let query = Query::parse(text).unwrap();
            let plan = query.plan(Params::instant(4_000_000_000_000)).unwrap();
            let moments = moments(&plan.needs()[0], LOOKBACK_MS, &Room::with(left));
            assert_eq!(moments.map(|moments| moments.len()), expected, "{text}");
        };
        check("max_over_time(slo:objective:ratio[1h])", 1000, Some(60));
        check("max_over_time(slo:objective:ratio[100y])", 1 << 20, None);
        check("slo:objective:ratio", 1, Some(1));
    }
}
