//! What a report says, before it is drawn. Serialised as it stands: a promise to whoever reads the JSON.
//!
//! Shares are fractions of one, times RFC 3339 in UTC, lengths of time seconds, latencies nanoseconds. What does not exist is `null`.

use serde::Serialize;
use tailwater_openslo::ResolvedSlo;

use crate::composite::composite;
pub use crate::evaluate::Exhaustion;
use crate::interval::{Confidence, Interval, IntervalMethod};
use crate::latency::Quantile;
use crate::time::{Span, Time};
use crate::verdict::{Evidence, Verdict};

pub use crate::evaluate::{Column, Heat};

/// Version of the JSON form; grows when a field changes its meaning or goes.
pub const FORMAT: &str = "tailwater.slo.report/3";

/// Objectives, worst first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: &'static str,
    /// The moment asked about.
    pub at: Time,
    /// How many objectives have which verdict.
    pub summary: Summary,
    /// The objectives: worst verdict first, then least budget left, then by name.
    pub objectives: Vec<SloReport>,
    /// Composite SLOs as one figure each: worst verdict first, then by name.
    pub composites: Vec<CompositeReport>,
}

impl Report {
    /// Puts objectives in order and counts them.
    #[must_use]
    pub fn new(at: Time, mut objectives: Vec<SloReport>) -> Self {
        objectives.sort_by(|a, b| {
            let left = |report: &SloReport| {
                report.windows[0]
                    .budget
                    .as_ref()
                    .map_or(f64::INFINITY, |budget| budget.remaining)
            };
            a.verdict
                .cmp(&b.verdict)
                .then(left(a).total_cmp(&left(b)))
                .then_with(|| (&a.slo, &a.objective).cmp(&(&b.slo, &b.objective)))
        });
        let count = |verdict| objectives.iter().filter(|report| report.verdict == verdict).count();
        let summary = Summary {
            met: count(Verdict::Met),
            missed: count(Verdict::Missed),
            undetermined: count(Verdict::Undetermined),
            no_data: count(Verdict::NoData),
        };
        Self {
            format: FORMAT,
            at,
            summary,
            objectives,
            composites: Vec::new(),
        }
    }

    /// With the figures of those of the SLOs that are composites.
    #[must_use]
    pub fn with_composites(mut self, slos: &[ResolvedSlo]) -> Self {
        let all = slos.iter().filter_map(|slo| composite(slo, &self.objectives));
        self.composites = all.collect();
        self.composites
            .sort_by(|a, b| a.verdict.cmp(&b.verdict).then_with(|| a.slo.cmp(&b.slo)));
        self
    }

    /// The worst verdict of all main windows, of objectives and composites. `None` without objectives.
    #[must_use]
    pub fn worst(&self) -> Option<Verdict> {
        // Both are sorted, and verdicts are ordered worst first.
        let objective = self.objectives.first().map(|slo| slo.verdict);
        let composite = self.composites.first().map(|slo| slo.verdict);
        objective.into_iter().chain(composite).min()
    }
}

/// How many objectives have which verdict in their main window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Held.
    pub met: usize,
    /// Broken.
    pub missed: usize,
    /// Open.
    pub undetermined: usize,
    /// Not measured.
    pub no_data: usize,
}

/// One objective of one SLO.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SloReport {
    /// Name of the SLO.
    pub slo: String,
    /// What to call it.
    pub display_name: String,
    /// The service it is about.
    pub service: String,
    /// May be empty.
    pub description: String,
    /// Name of the objective.
    pub objective: String,
    /// Hash of the definition: the same definition and data give the same report.
    pub definition: String,
    /// What is measured, as a sentence.
    pub measures: String,
    /// The target as it was written: `99.9%`.
    pub target: String,
    /// The same as a number, for drawing.
    pub target_share: f64,
    /// The budgeting method.
    pub method: String,
    /// What counts are of: `events`, or `values` where the indicator is a ready ratio or a threshold.
    pub counted: &'static str,
    /// What to do.
    pub runbook: Option<String>,
    /// Up to when data was complete.
    pub watermark: Option<Time>,
    /// The verdict of the main window.
    pub verdict: Verdict,
    /// At least one; the first is the main one.
    pub windows: Vec<WindowReport>,
    /// Burn rates, by length of their window.
    pub burn: Vec<BurnReport>,
    /// The main window in bins.
    pub history: Vec<Point>,
    /// Durations in the main window; `None` where none were read.
    pub latency: Option<LatencyReport>,
    /// The objective by key columns; `None` unless its SLO asks for that.
    pub groups: Option<Groups>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// An objective by key columns (annotation `group-by`). Its groups add up to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Groups {
    /// The columns, as the document writes them.
    pub by: Vec<String>,
    /// Worst verdict first, then least budget left, then by values.
    pub groups: Vec<GroupReport>,
    /// Further groups, each with fewer requests than any of these.
    pub left_out: usize,
}

impl Groups {
    /// Puts groups in order.
    #[must_use]
    pub fn new(by: Vec<String>, mut groups: Vec<GroupReport>, left_out: usize) -> Self {
        groups.sort_by(|a, b| {
            let left = |group: &GroupReport| group.remaining.unwrap_or(f64::INFINITY);
            a.verdict
                .cmp(&b.verdict)
                .then(left(a).total_cmp(&left(b)))
                .then_with(|| a.keys.cmp(&b.keys))
        });
        Self { by, groups, left_out }
    }
}

/// A value of a key column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct GroupKey {
    /// The column.
    pub key: String,
    /// Its value; empty for none.
    pub value: String,
}

/// The requests of an objective that have the same values in the key columns, held to the same target. Informs; decides nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupReport {
    /// Which.
    pub keys: Vec<GroupKey>,
    /// The verdict of the main window.
    pub verdict: Verdict,
    /// Its reason.
    pub because: String,
    /// Events in the main window.
    pub counts: Counts,
    /// Share of good in it, at worst.
    pub sli: Option<f64>,
    /// The same cut off, for people.
    pub sli_text: Option<String>,
    /// What is left of the group's own budget: the share of its requests that may be bad.
    pub remaining: Option<f64>,
    /// Burn rates, as those of the objective.
    pub burn: Vec<BurnRate>,
}

impl GroupReport {
    /// The main window of a group that was evaluated like an objective.
    #[must_use]
    pub fn new(keys: Vec<GroupKey>, report: &SloReport) -> Self {
        let window = &report.windows[0];
        let rates = report.burn.iter().map(|of| BurnRate {
            window: of.window.clone(),
            burn: of.burn,
        });
        Self {
            keys,
            verdict: window.verdict,
            because: window.because.clone(),
            counts: window.counts,
            sli: window.sli,
            sli_text: window.sli_text.clone(),
            remaining: window.budget.map(|budget| budget.remaining),
            burn: rates.collect(),
        }
    }
}

/// One window of an objective.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowReport {
    /// `30d`, or a calendar window with its start and zone.
    pub name: String,
    /// Whether it follows the clock.
    pub rolling: bool,
    /// All of the window.
    pub whole: Span,
    /// What of it is past and complete: what is judged.
    pub span: Span,
    /// Seconds of it that data reaches back to, if not all.
    pub partial_seconds: Option<u64>,
    /// What was counted.
    pub counts: Counts,
    /// Slices, where the method counts those.
    pub slices: Option<Slices>,
    /// Share of good, at worst.
    pub sli: Option<f64>,
    /// The same cut off, never rounded up, for people.
    pub sli_text: Option<String>,
    /// Both ends of what is known, chance aside.
    pub known: Option<Interval>,
    /// Both ends with chance.
    pub interval: Option<Interval>,
    /// How the interval was reckoned; `None` for indicators without counts.
    pub interval_method: Option<IntervalMethod>,
    /// How sure it is.
    pub confidence: Confidence,
    /// What decided.
    pub evidence: Evidence,
    /// Whether the counts as they are reach the target; `None` when they leave it open.
    pub counts_reach: Option<bool>,
    /// The verdict.
    pub verdict: Verdict,
    /// Its reason.
    pub because: String,
    /// The budget; `None` when nothing was counted.
    pub budget: Option<BudgetReport>,
    /// When it will be gone.
    pub exhaustion: Exhaustion,
    /// Share of the expected time that was watched.
    pub coverage: f64,
    /// Seconds left out as planned work.
    pub excluded_seconds: u64,
    /// The figures without regard to planned work, where it changed any.
    pub raw: Option<Raw>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

impl WindowReport {
    /// What is judged, as far as data reaches back.
    #[must_use]
    pub fn judged(&self) -> Span {
        let Span { from, to } = self.span;
        let seconds = self
            .partial_seconds
            .map(|known| i64::try_from(known).unwrap_or(i64::MAX));
        Span::new(seconds.map_or(from, |known| to.plus(-known)), to)
    }
}

/// What was counted in some time, in [`SloReport::counted`]. Whole numbers, but for the good and the bad of ready ratios, which are sums of shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Fewest good ones.
    #[serde(serialize_with = "whole_if_it_is")]
    pub good: f64,
    /// Most good ones.
    #[serde(serialize_with = "whole_if_it_is")]
    pub good_most: f64,
    /// Bad ones, at worst.
    #[serde(serialize_with = "whole_if_it_is")]
    pub bad: f64,
    /// All that were counted.
    pub total: u64,
}

/// `7` and not `7.0`, for readers that want a whole number of events.
fn whole_if_it_is<S: serde::Serializer>(n: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let whole = *n as u64;
    if whole as f64 == *n {
        serializer.serialize_u64(whole)
    } else {
        serializer.serialize_f64(*n)
    }
}

/// Slices of some time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slices {
    /// Those that count.
    pub measured: u64,
    /// Bad ones; a sum of shares with RatioTimeslices.
    pub bad: f64,
}

/// An error budget, in what is counted (Occurrences) or slices. Counts and shares are of what was judged: of a calendar window that goes on, or of one
/// that is older than its data, a part. Times are of the whole window, as if it went on with the traffic of that part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BudgetReport {
    /// What is counted: `events`, `values` or `slices`.
    pub unit: &'static str,
    /// How many of those judged may be bad.
    pub allowed: f64,
    /// How many were.
    pub spent: f64,
    /// `spent / allowed`; the burn rate of the window.
    pub consumed: f64,
    /// `1 - consumed`; below zero when overdrawn.
    pub remaining: f64,
    /// The budget as time of full outage in the whole window.
    pub time_seconds: f64,
    /// What is left of that after what was judged.
    pub time_left_seconds: f64,
}

/// Figures without regard to planned work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Raw {
    /// What was counted.
    pub counts: Counts,
    /// Share of good.
    pub sli: Option<f64>,
    /// Share of the budget.
    pub consumed: Option<f64>,
}

/// A burn rate: 1 spends the budget in exactly the SLO's window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BurnReport {
    /// Length: `5m`.
    pub window: String,
    /// Which time.
    pub span: Span,
    /// What was counted in it.
    pub counts: Counts,
    /// The rate; `None` when nothing was counted or the window is shorter than a slice.
    pub burn: Option<f64>,
    /// Lower end of its interval: what can be said for sure.
    pub burn_at_least: Option<f64>,
}

/// One bin of the main window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Which time.
    pub span: Span,
    /// What was counted in it.
    pub counts: Counts,
    /// Share of the budget of what was judged that it spent.
    pub spent: f64,
    /// Share of the same that was left after it.
    pub remaining: f64,
}

/// Durations in the main window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyReport {
    /// Longest duration of a good request.
    pub threshold_ns: Option<u64>,
    /// As asked for.
    pub percentiles: Vec<Quantile>,
    /// Counts by time and duration.
    pub heat: Heat,
}

/// A composite SLO as one figure: see [`mod@crate::composite`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompositeReport {
    /// Name of the SLO.
    pub slo: String,
    /// What to call it.
    pub display_name: String,
    /// The service it is about.
    pub service: String,
    /// May be empty.
    pub description: String,
    /// Hash of the definition.
    pub definition: String,
    /// The verdict of the main window.
    pub verdict: Verdict,
    /// In the order of the document.
    pub members: Vec<Member>,
    /// As those of the objectives.
    pub windows: Vec<CompositeWindow>,
    /// Sums of the members' burn rates times their weights.
    pub burn: Vec<BurnRate>,
}

/// A member of a composite.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Member {
    /// Name of the objective, which is reported by itself too.
    pub objective: String,
    /// Its target as it was written.
    pub target: String,
    /// Its weight as it was written.
    pub weight: String,
    /// Its own verdict.
    pub verdict: Verdict,
    /// Share of the whole's budget that it spent: what it consumed of its own times its weight.
    pub spent: Option<f64>,
}

/// One window of a composite.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompositeWindow {
    /// As that of the objectives.
    pub name: String,
    /// Share of the budget that is spent; `None` where a member was not counted.
    pub consumed: Option<f64>,
    /// `1 - consumed`; below zero when overdrawn.
    pub remaining: Option<f64>,
    /// Sums of the ends of the members' intervals, or of what their counts leave open where those decide. May exceed one.
    pub consumed_between: Option<Interval>,
    /// The verdict.
    pub verdict: Verdict,
    /// Its reason.
    pub because: String,
}

/// A burn rate by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BurnRate {
    /// Length: `5m`.
    pub window: String,
    /// The rate; `None` where that of a member is.
    pub burn: Option<f64>,
}
