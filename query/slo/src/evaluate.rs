//! From a plan and its data to figures and a verdict, in one pass over sorted slices.
//!
//! Slices become prefix sums once; every window, burn rate, forecast step and plotted point is then the difference of two of them. Sums
//! are whole numbers, so it does not matter how many windows share them.

mod forecast;
mod heat;
mod series;
mod track;

use tailwater_openslo::{Budgeting, Decimal};

use crate::latency::{Histogram, LatencyBin};
use crate::plan::{Plan, bin_seconds};
use crate::report::{BudgetReport, BurnReport, Counts, LatencyReport, Point, Raw, Slices, SloReport, WindowReport};
use crate::tally::{Ratio, Slice, Sums, Tally};
use crate::time::{Span, Time};
use crate::verdict::{Facts, judge, singular};

pub use forecast::Exhaustion;
pub use heat::{Column, Heat};
use series::{Series, measure};
pub use track::{Point as TrackPoint, Rates, Track, Wanted, track};

/// What the plan's needs gave.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// Counts, in any order; several rows of one slice are added.
    pub slices: Vec<Slice>,
    /// Durations, in any order.
    pub latency: Vec<LatencyBin>,
    /// When the source was watched.
    pub observed: Observed,
    /// First time the source has data of at all: before it there is nothing to cover.
    pub begins: Option<Time>,
    /// Events of the main window, where a source knows of sampling before it.
    pub upstream: Upstream,
}

/// What was received, and what it stands for by what samplers before us say. Figures are of what was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Events that were received.
    pub received: u64,
    /// Events that they stand for, rounded.
    pub stand_for: u64,
}

/// When a source was watched, so that silence can be told from blindness.
#[derive(Clone, Debug, Default)]
pub enum Observed {
    /// Only while it gave rows: a slice without one is a gap. For slices of one width: those of Occurrences are as wide as a plan reads them.
    #[default]
    Rows,
    /// Through these spans, disjoint and in order: a slice without a row was watched and had no events.
    Spans(Vec<Span>),
}

/// Points of the plotted history at most.
const POINTS_MAX: u64 = 122;

/// Evaluates a plan. The same plan and data give the same report.
#[must_use]
pub fn evaluate(plan: &Plan, data: Data) -> SloReport {
    let Data {
        slices,
        latency,
        observed,
        begins,
        upstream,
    } = data;
    let series = Series::new(plan, slices, &observed, begins);
    let windows: Vec<WindowReport> = (0..plan.windows.len())
        .map(|i| window(plan, &series, &observed, begins, i))
        .collect();
    let main = &plan.windows[0];
    let burn = plan
        .burn
        .iter()
        .map(|(period, span)| burn(plan, &series, &period.to_string(), *span))
        .collect();
    let mut notes = series.notes();
    if upstream.received != upstream.stand_for {
        let Upstream { received, stand_for } = upstream;
        notes.push(format!(
            "sampled upstream: figures are of the {received} events received in the main window, which stand for {stand_for} (ot=th)"
        ));
    }
    notes.extend(windows.iter().flat_map(|window| window.notes.iter().cloned()));
    notes.dedup();
    SloReport {
        slo: plan.slo.clone(),
        display_name: plan.display_name.clone(),
        service: plan.service.clone(),
        description: plan.description.clone(),
        objective: plan.objective.clone(),
        definition: plan.definition.clone(),
        measures: plan.measures(),
        target: plan.target.to_string(),
        target_share: plan.target.fraction().to_f64(),
        method: method_words(&plan.budgeting),
        counted: plan.counted(),
        runbook: plan.extensions.runbook.clone(),
        watermark: plan.as_of.watermark,
        verdict: windows[0].verdict,
        windows,
        burn,
        history: history(plan, &series, main.span),
        latency: latency_report(plan, latency, main.span),
        groups: None,
        notes,
    }
}

fn method_words(budgeting: &Budgeting) -> String {
    let minutes = |slice: &std::time::Duration| format!("{}m", slice.as_secs() / 60);
    match budgeting {
        Budgeting::Occurrences => "Occurrences".into(),
        Budgeting::Timeslices { slice, target } => {
            format!(
                "Timeslices of {}, good at {}%",
                minutes(slice),
                target.shift(2).unwrap_or(*target)
            )
        }
        Budgeting::RatioTimeslices { slice } => format!("RatioTimeslices of {}", minutes(slice)),
    }
}

fn window(plan: &Plan, series: &Series<'_>, observed: &Observed, begins: Option<Time>, index: usize) -> WindowReport {
    let planned = &plan.windows[index];
    let span = planned.span;
    let sums = series.sums(span);
    let tally = plan.tally(&sums);
    let budget = plan.target.budget();
    let covered = Span::new(begins.map_or(span.from, |begins| begins.max(span.from)), span.to);
    let coverage = coverage(series, observed, covered);
    let measured = tally.total > 0;
    let interval = (measured && plan.has_counts())
        .then(|| tally.interval(plan.settings.interval, plan.settings.confidence))
        // A ready ratio says nothing about chance; what is known of it is all there is.
        .or_else(|| tally.known());
    let judgement = judge(&Facts {
        target: plan.target.fraction(),
        interval,
        counts_reach: tally.reaches(plan.target.fraction()),
        evidence: plan.settings.evidence,
        events: sums.total / u128::from(plan.parts()),
        counted: plan.counted(),
        min_events: plan.extensions.min_events,
        coverage,
        coverage_floor: plan.extensions.coverage_floor,
        watermark: plan.as_of.watermark,
        at: plan.as_of.at,
        stale_after: stale_after(plan.slice()),
        impossible: sums.impossible,
        is_overfull: sums.is_overfull(),
    });
    let mut notes = Vec::new();
    let missing = Span::new(span.from, covered.from.min(span.to)).seconds();
    let partial = (missing > 0).then(|| covered.seconds());
    if let Some(known) = partial {
        let words = |seconds: u64| crate::verdict::seconds(i64::try_from(seconds).unwrap_or(i64::MAX));
        notes.push(format!(
            "partial: data begins {} into the window, {} of {} are judged",
            words(missing),
            words(known),
            words(span.seconds())
        ));
    }
    let allowed = tally.total as f64 / tally.unit() * budget.to_f64();
    if measured && allowed < 1.0 && matches!(plan.budgeting, Budgeting::Occurrences) {
        notes.push(format!(
            "the budget is less than one {} ({allowed:.2}): a single bad one overdraws it",
            singular(plan.counted())
        ));
    }
    let raw = series.raw_sums(span).map(|raw| {
        let tally = plan.tally(&raw);
        Raw {
            counts: counts(plan, &raw),
            sli: tally.sli(),
            consumed: tally.consumed(budget).map(|ratio| ratio.as_f64()),
        }
    });
    WindowReport {
        name: planned.name.clone(),
        rolling: planned.window.is_rolling(),
        whole: planned.whole,
        span,
        partial_seconds: partial,
        counts: counts(plan, &sums),
        slices: (!matches!(plan.budgeting, Budgeting::Occurrences)).then(|| Slices {
            measured: u64::try_from(sums.measured).unwrap_or(u64::MAX),
            bad: tally.bad as f64 / tally.unit(),
        }),
        sli: tally.sli(),
        sli_text: (measured)
            .then(|| crate::tally::percent_down(tally.good(), tally.total, digits(plan.target.fraction()))),
        known: tally.known(),
        interval,
        interval_method: plan.has_counts().then_some(plan.settings.interval),
        confidence: plan.settings.confidence,
        evidence: plan.settings.evidence,
        counts_reach: tally.reaches(plan.target.fraction()),
        verdict: judgement.verdict,
        because: judgement.because,
        budget: budget_report(plan, &tally, planned.whole, covered),
        exhaustion: forecast::exhaustion(plan, series, index, covered),
        coverage,
        excluded_seconds: series.excluded_seconds(span),
        raw,
        notes,
    }
}

/// Digits of the percentage: two more than the target has, so that being close to it can be seen.
fn digits(target: Decimal) -> usize {
    (usize::from(target.scale()).saturating_sub(2) + 2).clamp(3, 9)
}

/// Three slices, ten minutes at least.
fn stale_after(slice: u32) -> i64 {
    (3 * i64::from(slice)).max(600)
}

fn counts(plan: &Plan, sums: &Sums) -> Counts {
    let parts = plan.parts();
    let number = |n: u128| n as f64 / parts as f64;
    Counts {
        good: number(sums.good()),
        good_most: number(sums.good_most()),
        bad: number(sums.total - sums.good()),
        total: u64::try_from(sums.total / u128::from(parts)).unwrap_or(u64::MAX),
    }
}

/// Shares are of what was judged, so that they are exact; time is of the whole window, of which what was judged may be a part.
fn budget_report(plan: &Plan, tally: &Tally, whole: Span, judged: Span) -> Option<BudgetReport> {
    let budget = plan.target.budget();
    let consumed = tally.consumed(budget)?;
    let unit = tally.unit();
    let share = budget.to_f64();
    let (whole, judged) = (whole.seconds() as f64, judged.seconds() as f64);
    Some(BudgetReport {
        unit: if matches!(plan.budgeting, Budgeting::Occurrences) {
            plan.counted()
        } else {
            "slices"
        },
        allowed: tally.total as f64 / unit * share,
        spent: tally.bad as f64 / unit,
        consumed: consumed.as_f64(),
        remaining: consumed.complement().as_f64(),
        time_seconds: whole * share,
        time_left_seconds: (whole - judged * consumed.as_f64()) * share,
    })
}

fn coverage(series: &Series<'_>, observed: &Observed, span: Span) -> f64 {
    let expected = span.seconds() - series.excluded_seconds(span).min(span.seconds());
    if expected == 0 {
        return 0.0;
    }
    let seen = match observed {
        Observed::Rows => series.sums(span).seconds,
        Observed::Spans(spans) => measure(spans, span) - series.excluded_seconds_within(spans, span),
    };
    (seen as f64 / expected as f64).min(1.0)
}

fn burn(plan: &Plan, series: &Series<'_>, name: &str, span: Span) -> BurnReport {
    let sums = series.sums(span);
    let tally = sums.tally(&plan.budgeting);
    let burn = burn_rate(plan, &tally, span);
    let lower = (burn.is_some() && plan.has_counts()).then(|| {
        let interval = tally.interval(plan.settings.interval, plan.settings.confidence);
        ((1.0 - interval.hi) / plan.target.budget().to_f64()).max(0.0)
    });
    BurnReport {
        window: name.to_owned(),
        span,
        counts: counts(plan, &sums),
        burn: burn.map(Ratio::as_f64),
        burn_at_least: lower,
    }
}

/// How fast the budget went in a span; `None` where nothing can be said of it.
fn burn_rate(plan: &Plan, tally: &Tally, span: Span) -> Option<Ratio> {
    // A window shorter than a slice would show the slice before it or nothing.
    let measurable = span.seconds() >= plan.slice().into();
    tally.consumed(plan.target.budget()).filter(|_| measurable)
}

/// Budget over the window: what is left of the budget of the whole window after each bin.
fn history(plan: &Plan, series: &Series<'_>, span: Span) -> Vec<Point> {
    let budget = plan.target.budget();
    let all = series.sums(span).tally(&plan.budgeting);
    let (Some(_), width) = (all.consumed(budget), bin_seconds(span, POINTS_MAX).max(plan.slice())) else {
        return Vec::new();
    };
    // Against the budget of all that was counted, so the line ends at what remains.
    let share = |bad: u128| Tally { bad, ..all }.consumed(budget);
    let mut points = Vec::new();
    let (mut from, mut bad_before) = (span.from, 0);
    while from < span.to {
        let bin = Span::new(from, from.plus(1).ceil(width).min(span.to));
        // What is bad beyond all of a bin is of bins before it: not each by itself.
        let bad = series.sums(Span::new(span.from, bin.to)).tally(&plan.budgeting).bad;
        points.push(Point {
            span: bin,
            counts: counts(plan, &series.sums(bin)),
            spent: share(bad.saturating_sub(bad_before)).map_or(0.0, Ratio::as_f64),
            remaining: share(bad).map_or(1.0, |ratio| ratio.complement().as_f64()),
        });
        (from, bad_before) = (bin.to, bad);
    }
    points
}

fn latency_report(plan: &Plan, mut bins: Vec<LatencyBin>, span: Span) -> Option<LatencyReport> {
    bins.retain(|bin| span.holds(bin.span.from) && bin.histogram.count() > 0);
    bins.sort_by_key(|bin| bin.span);
    if bins.is_empty() {
        return None;
    }
    let mut all = Histogram::default();
    for bin in &bins {
        all.merge(&bin.histogram);
    }
    let percentiles = plan.extensions.percentiles.iter();
    Some(LatencyReport {
        threshold_ns: plan.threshold_ns(),
        percentiles: percentiles
            .map(|p| all.estimate(p.to_f64() / 100.0, plan.settings.confidence))
            .collect(),
        heat: heat::heat(&bins, &all, plan.threshold_ns()),
    })
}

#[cfg(test)]
mod tests;
