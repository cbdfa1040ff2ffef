//! From a resolved SLO to what has to be read for it, and up to when.
//!
//! Windows end at the watermark, never at the present: what has not arrived yet is neither good nor bad. Their ends are whole
//! minutes (whole slices with the slice methods). For Occurrences most of a window is read in hours; only the hours that some window
//! begins or ends in are read in minutes, so the sums are exact and 90 days are some 2,000 rows instead of 130,000.
//!
//! ```text
//!            90d from                  3d from         1d   6h  1h 5m   end
//!  hours        |--H--H--H--H--H--H--H----|--H--H--H----|--H--|---|--|--|
//!  minutes   mmm                       mmm            mmm   mmm mmm mmmmmm
//! ```

use std::collections::BTreeSet;

use tailwater_openslo::annotation::MaintenanceMode;
use tailwater_openslo::{
    Budgeting, Indicator, Op, Part, Period, ResolvedObjective, ResolvedSlo, Source, Target, TimeWindow, Unit,
    annotation::Extensions,
};

use crate::interval::{Confidence, IntervalMethod};
use crate::tally::{RATIO_PARTS, Slice, Sums, Tally};
use crate::time::{CalendarUnit, Span, Time, Window};
use crate::verdict::Evidence;

/// What a caller may choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Rolling windows to report instead of the SLO's own; empty for its own.
    pub windows: Vec<Period>,
    /// Windows of burn rates. Those of the SLO's own alerts are added.
    pub burn_windows: Vec<Period>,
    /// How sure intervals are.
    pub confidence: Confidence,
    /// Which interval of a share.
    pub interval: IntervalMethod,
    /// What decides between met and missed.
    pub evidence: Evidence,
    /// Finest slices to read, in seconds: the ends of windows are multiples of it.
    pub fine: u32,
    /// Coarse slices to read, in seconds; a multiple of `fine`.
    pub coarse: u32,
}

impl Default for Settings {
    fn default() -> Self {
        use Unit::{Day, Hour, Minute};
        let burn = [
            (5, Minute),
            (30, Minute),
            (1, Hour),
            (2, Hour),
            (6, Hour),
            (1, Day),
            (3, Day),
        ];
        Self {
            windows: Vec::new(),
            // The windows of the SRE workbook, chapter 5, table 5-8 and its code.
            burn_windows: burn.map(|(count, unit)| Period::new(count, unit)).to_vec(),
            confidence: Confidence::default(),
            interval: IntervalMethod::default(),
            evidence: Evidence::default(),
            fine: 60,
            coarse: 3600,
        }
    }
}

/// Most windows that somebody may ask for at once.
pub const WINDOWS_MAX: usize = 8;

/// The windows that somebody asks for, each once: the first of those that are as long.
///
/// # Errors
/// A sentence, for more than [`WINDOWS_MAX`] and for one without a length.
pub fn windows_asked(asked: impl IntoIterator<Item = Period>) -> Result<Vec<Period>, String> {
    let mut windows: Vec<Period> = Vec::new();
    for period in asked {
        if period.count == 0 {
            return Err("a window has a length".into());
        }
        if windows.iter().any(|known| known.nominal() == period.nominal()) {
            continue;
        }
        if windows.len() == WINDOWS_MAX {
            return Err(format!(
                "more than {WINDOWS_MAX} windows, the most a report has: ask for the others in a second one"
            ));
        }
        windows.push(period);
    }
    Ok(windows)
}

/// How many spans of time [`plan`] keeps for each objective of an SLO: windows, burn windows and planned work.
#[must_use]
pub fn spans_planned(slo: &ResolvedSlo, settings: &Settings) -> usize {
    named_windows(&slo.window, settings).len() + burn_windows(slo, settings).len() + slo.extensions.maintenance.len()
}

/// The moment asked about, and how far data reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// The moment.
    pub at: Time,
    /// Up to here everything has arrived; `None` when there is nothing at all.
    pub watermark: Option<Time>,
}

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// Good and total per slice: [`crate::tally::Slice`].
    Counts,
    /// Durations of all events per slice: [`crate::latency::LatencyBin`].
    Durations,
}

/// One thing to read from the plan's indicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Counts or durations.
    pub what: What,
    /// Slices begin at multiples of this many seconds since 1970; slices that a span cuts are to be cut there too.
    pub width: u32,
    /// Disjoint, in order. Spans of one width and those of the others are disjoint as well.
    pub spans: Vec<Span>,
}

/// A window to report.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedWindow {
    /// `30d`, or `1M from 2026-01-01 00:00 Europe/Berlin`.
    pub name: String,
    /// What it is.
    pub window: Window,
    /// All of it. Of a calendar window a part may lie ahead.
    pub whole: Span,
    /// What of it is past and complete.
    pub span: Span,
}

/// Planned work, in whole fine slices outward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// When.
    pub span: Span,
    /// What becomes of events in it.
    pub mode: MaintenanceMode,
}

/// One objective of an SLO, with all that is needed to evaluate it but data.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
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
    /// Hash of the definition, in hexadecimal.
    pub definition: String,
    /// What share must be good.
    pub target: Target,
    /// How it is counted.
    pub budgeting: Budgeting,
    /// What to count.
    pub indicator: Indicator,
    /// Our annotations.
    pub extensions: Extensions,
    /// As asked for.
    pub settings: Settings,
    /// As asked for.
    pub as_of: AsOf,
    /// At least one; the first is the main one.
    pub windows: Vec<PlannedWindow>,
    /// Burn windows, short to long.
    pub burn: Vec<(Period, Span)>,
    /// Planned work that touches what is read.
    pub quiet: Vec<Quiet>,
    /// What to read.
    pub needs: Vec<Need>,
}

/// Why an objective cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Its numbers are not ours.
    #[error(
        "objective `{objective}` of SLO `{slo}` takes its numbers from `{source_type}`, which is kept but not evaluated; use `type: tailwater`"
    )]
    Foreign {
        /// SLO.
        slo: String,
        /// Objective.
        objective: String,
        /// Type of the source as written, `unknown` if it says none.
        source_type: String,
    },
    /// The caller's slices do not fit together.
    #[error("coarse slices of {coarse} s are no multiple of fine slices of {fine} s")]
    Slices {
        /// Fine width.
        fine: u32,
        /// Coarse width.
        coarse: u32,
    },
}

/// One plan per objective.
///
/// # Errors
/// [`PlanError`] for sources that are not ours and for settings that contradict themselves.
pub fn plan(slo: &ResolvedSlo, settings: &Settings, as_of: AsOf) -> Result<Vec<Plan>, PlanError> {
    let (fine, coarse) = (settings.fine, settings.coarse);
    if fine == 0 || coarse == 0 || !coarse.is_multiple_of(fine) {
        return Err(PlanError::Slices { fine, coarse });
    }
    slo.objectives
        .iter()
        .map(|objective| plan_objective(slo, objective, settings, as_of))
        .collect()
}

pub(crate) fn plan_objective(
    slo: &ResolvedSlo,
    objective: &ResolvedObjective,
    settings: &Settings,
    as_of: AsOf,
) -> Result<Plan, PlanError> {
    if let Some(source_type) = foreign(&objective.indicator) {
        let source_type = if source_type.is_empty() { "unknown" } else { source_type };
        return Err(PlanError::Foreign {
            slo: slo.name.clone(),
            objective: objective.name.clone(),
            source_type: source_type.into(),
        });
    }
    let slice = slice_seconds(&objective.budgeting).unwrap_or(settings.fine);
    let at = as_of.at;
    let end = end_at(as_of, slice);
    let windows: Vec<PlannedWindow> = named_windows(&slo.window, settings)
        .into_iter()
        .map(|(name, window)| {
            let (whole, span) = spans_at(window, at, end, settings.fine);
            PlannedWindow {
                name,
                window,
                whole,
                span,
            }
        })
        .collect();
    let burn: Vec<(Period, Span)> = burn_windows(slo, settings)
        .into_iter()
        .map(|period| (period, Window::Rolling(period.nominal().as_secs()).at(end)))
        .collect();
    let read = windows
        .iter()
        .map(|window| window.span)
        .chain(burn.iter().map(|(_, span)| *span))
        .filter(|span| !span.is_empty());
    let read: Vec<Span> = read.collect();
    let quiet = quiet_times(&slo.extensions, settings.fine, &read);
    let ends: BTreeSet<Time> = read
        .iter()
        .copied()
        .chain(quiet.iter().map(|quiet| quiet.span))
        .flat_map(|span| [span.from, span.to])
        .collect();
    let mut needs = counts(&objective.budgeting, slice, &read, &ends, settings);
    if objective.indicator.all_requests().is_some()
        && let Some(main) = windows.first().filter(|main| !main.span.is_empty())
    {
        needs.push(Need {
            what: What::Durations,
            width: bin_seconds(main.span, 40),
            spans: vec![main.span],
        });
    }
    Ok(Plan {
        slo: slo.name.clone(),
        display_name: slo.display_name.clone(),
        service: slo.service.clone(),
        description: slo.description.clone(),
        objective: objective.name.clone(),
        definition: slo.hash.to_string(),
        target: objective.target,
        budgeting: objective.budgeting,
        indicator: objective.indicator.clone(),
        extensions: slo.extensions.clone(),
        settings: settings.clone(),
        as_of,
        windows,
        burn,
        quiet,
        needs,
    })
}

/// All of a window as of a moment, and what of it is past and complete.
pub(crate) fn spans_at(window: Window, at: Time, end: Time, fine: u32) -> (Span, Span) {
    let whole = match window {
        Window::Rolling(_) => window.at(end),
        // The calendar says which one it is, the watermark how much of it is known. Slices belong where they begin.
        Window::Calendar { .. } => {
            let whole = window.at(at);
            Span::new(whole.from.ceil(fine), whole.to.ceil(fine))
        }
    };
    (whole, Span::new(whole.from, whole.to.min(end).max(whole.from)))
}

/// Where windows end as of a moment: at the watermark, at a whole slice.
pub(crate) fn end_at(as_of: AsOf, slice: u32) -> Time {
    let end = as_of.watermark.map_or(as_of.at, |watermark| watermark.min(as_of.at));
    end.floor(slice)
}

impl Plan {
    /// Length in seconds of what is counted as one slice: that of the method, or the finest that is read.
    #[must_use]
    pub fn slice(&self) -> u32 {
        slice_seconds(&self.budgeting).unwrap_or(self.settings.fine)
    }

    /// What is measured, as a sentence for people.
    #[must_use]
    pub fn measures(&self) -> String {
        match &self.indicator {
            Indicator::Requests { of, good } => {
                let mut demands = Vec::new();
                if good.exclude_errors {
                    demands.push("without error".to_owned());
                }
                if let Some(ns) = good.max_duration_ns {
                    demands.push(format!("within {}", tailwater_openslo::period::format_latency(ns)));
                }
                format!("share of requests {} ({of})", demands.join(" and "))
            }
            Indicator::Ratio { part_is, .. } => format!("{} events over all events", part_word(*part_is)),
            Indicator::Raw { part_is, .. } => format!("ready ratio of {} events", part_word(*part_is)),
            Indicator::Threshold { op, limit, .. } => format!("slices whose value is {} {limit}", op_words(*op)),
        }
    }

    /// The longest duration of a good request, in nanoseconds, if there is one.
    #[must_use]
    pub fn threshold_ns(&self) -> Option<u64> {
        match &self.indicator {
            Indicator::Requests { good, .. } => good.max_duration_ns,
            _ => None,
        }
    }

    /// Whether there are trials to reckon chance with. A ready ratio has none, unless slices of it are judged and counted.
    #[must_use]
    pub const fn has_counts(&self) -> bool {
        !matches!(self.indicator, Indicator::Raw { .. }) || matches!(self.budgeting, Budgeting::Timeslices { .. })
    }

    /// What counts are of: `events`, or the `values` of a ready ratio or a threshold.
    #[must_use]
    pub const fn counted(&self) -> &'static str {
        match self.indicator {
            Indicator::Requests { .. } | Indicator::Ratio { .. } => "events",
            Indicator::Raw { .. } | Indicator::Threshold { .. } => "values",
        }
    }

    /// How many of a slice's total make one of [`Plan::counted`]: the values of a ready ratio are added up in parts.
    #[must_use]
    pub const fn parts(&self) -> u64 {
        match self.indicator {
            Indicator::Raw { .. } => RATIO_PARTS,
            _ => 1,
        }
    }

    /// What the method counts, in units that people know.
    #[must_use]
    pub fn tally(&self, sums: &Sums) -> Tally {
        let tally = sums.tally(&self.budgeting);
        match self.budgeting {
            Budgeting::Occurrences => Tally {
                parts: self.parts(),
                ..tally
            },
            Budgeting::Timeslices { .. } | Budgeting::RatioTimeslices { .. } => tally,
        }
    }

    /// What a value of a `threshold` or `raw` indicator says of its slice. `None` for a value that says nothing (NaN, a ratio outside
    /// 0..=1), which leaves a gap, and for indicators that count.
    #[must_use]
    pub fn slice_of_value(&self, start: Time, width: u32, value: f64) -> Option<Slice> {
        match &self.indicator {
            Indicator::Raw {
                part_is: Part::Good, ..
            } => Slice::ratio(start, width, value),
            Indicator::Raw { part_is: Part::Bad, .. } => Slice::ratio(start, width, 1.0 - value),
            Indicator::Threshold { op, limit, .. } => {
                let limit = limit.to_f64();
                let good = match op {
                    Op::Lte => value <= limit,
                    Op::Gte => value >= limit,
                    Op::Lt => value < limit,
                    Op::Gt => value > limit,
                };
                (!value.is_nan()).then(|| Slice::judged(start, width, good))
            }
            Indicator::Requests { .. } | Indicator::Ratio { .. } => None,
        }
    }

    /// What the two counts of a `ratio` indicator say of their slice. More good than all is carried on as the contradiction it is; more bad than all
    /// is too, where slices are judged one by one, and else counts against the events of other slices.
    #[must_use]
    pub fn slice_of_counts(&self, start: Time, width: u32, part: u64, total: u64) -> Slice {
        match &self.indicator {
            Indicator::Ratio { part_is: Part::Bad, .. } => Slice::of_bad(start, width, part, total),
            _ => Slice::new(start, width, part, total),
        }
    }
}

const fn part_word(part: Part) -> &'static str {
    match part {
        Part::Good => "good",
        Part::Bad => "bad",
    }
}

const fn op_words(op: Op) -> &'static str {
    match op {
        Op::Lte => "at most",
        Op::Gte => "at least",
        Op::Lt => "below",
        Op::Gt => "above",
    }
}

/// The type of a source that is not ours, if one is in it.
fn foreign(indicator: &Indicator) -> Option<&str> {
    let of = |source: &'_ Source| matches!(source, Source::Foreign { .. });
    let sources: [Option<&Source>; 2] = match indicator {
        Indicator::Requests { .. } => [None, None],
        Indicator::Ratio { part, total, .. } => [Some(part), Some(total)],
        Indicator::Raw { source, .. } | Indicator::Threshold { source, .. } => [Some(source), None],
    };
    sources
        .into_iter()
        .flatten()
        .find(|source| of(source))
        .and_then(|source| match source {
            Source::Foreign { source_type, .. } => Some(source_type.as_str()),
            _ => None,
        })
}

fn slice_seconds(budgeting: &Budgeting) -> Option<u32> {
    match budgeting {
        Budgeting::Occurrences => None,
        Budgeting::Timeslices { slice, .. } | Budgeting::RatioTimeslices { slice } => {
            Some(u32::try_from(slice.as_secs()).unwrap_or(u32::MAX).max(1))
        }
    }
}

fn named_windows(own: &TimeWindow, settings: &Settings) -> Vec<(String, Window)> {
    let rolling = |period: Period| (period.to_string(), Window::Rolling(period.nominal().as_secs()));
    if !settings.windows.is_empty() {
        return settings.windows.iter().map(|period| rolling(*period)).collect();
    }
    let name = match own {
        TimeWindow::Rolling(period) => period.to_string(),
        TimeWindow::Calendar { period, start, zone } => {
            format!("{period} from {} {zone}", start.format("%Y-%m-%d %H:%M"))
        }
    };
    vec![(name, window_of(own))]
}

/// The window that a document means.
#[must_use]
pub fn window_of(own: &TimeWindow) -> Window {
    match own {
        TimeWindow::Rolling(period) => Window::Rolling(period.nominal().as_secs()),
        TimeWindow::Calendar { period, start, zone } => {
            let count = period.count.max(1);
            let many = |each: u32| count.saturating_mul(each);
            let unit = match period.unit {
                Unit::Minute => CalendarUnit::Seconds(many(60)),
                Unit::Hour => CalendarUnit::Seconds(many(3600)),
                Unit::Day => CalendarUnit::Days(count),
                Unit::Week => CalendarUnit::Days(many(7)),
                Unit::Month => CalendarUnit::Months(count),
                Unit::Quarter => CalendarUnit::Months(many(3)),
                Unit::Year => CalendarUnit::Months(many(12)),
            };
            Window::Calendar {
                start: *start,
                zone: *zone,
                unit,
            }
        }
    }
}

/// Those that were asked for and those that the SLO's own alerts look at, short to long.
fn burn_windows(slo: &ResolvedSlo, settings: &Settings) -> Vec<Period> {
    let tiers = slo.alerts.iter().flat_map(|alert| &alert.tiers);
    let own = tiers.flat_map(|tier| [Some(tier.long), tier.short]).flatten();
    let mut all = settings.burn_windows.clone();
    all.extend(own.filter_map(Period::from_duration).filter(|period| period.count > 0));
    // `1h` as it was asked for stays in front of `60m` and is the one that is kept.
    all.sort_by_key(|period| period.nominal());
    all.dedup_by_key(|period| period.nominal());
    all
}

pub(crate) fn quiet_times(extensions: &Extensions, fine: u32, read: &[Span]) -> Vec<Quiet> {
    let seconds = |ns: i64| Time(ns.div_euclid(1_000_000_000));
    let times = extensions.maintenance.iter().map(|maintenance| Quiet {
        // Rounded outward: the last part of a second counts as one.
        span: Span::new(
            seconds(maintenance.from_ns).floor(fine),
            seconds(maintenance.to_ns.saturating_add(999_999_999)).ceil(fine),
        ),
        mode: maintenance.mode,
    });
    times
        .filter(|quiet| read.iter().any(|span| span.overlaps(quiet.span)))
        .collect()
}

/// Counts from the first to the last of what is read, so fine that every end lies between two slices.
pub(crate) fn counts(
    budgeting: &Budgeting,
    slice: u32,
    read: &[Span],
    ends: &BTreeSet<Time>,
    settings: &Settings,
) -> Vec<Need> {
    let all = read
        .iter()
        .copied()
        .reduce(|a, b| Span::new(a.from.min(b.from), a.to.max(b.to)));
    match (all, budgeting) {
        (None, _) => Vec::new(),
        (Some(all), Budgeting::Occurrences) => count_needs(all, ends, settings),
        (Some(all), _) => vec![Need {
            what: What::Counts,
            width: slice,
            spans: vec![Span::new(all.from.floor(slice), all.to)],
        }],
    }
}

/// Coarse slices wherever no window begins or ends inside one, fine ones elsewhere.
fn count_needs(all: Span, ends: &BTreeSet<Time>, settings: &Settings) -> Vec<Need> {
    let Settings { fine, coarse, .. } = *settings;
    let mut cut: BTreeSet<Time> = ends
        .iter()
        .filter(|end| **end != end.floor(coarse))
        .map(|end| end.floor(coarse))
        .collect();
    cut.retain(|cell| Span::new(*cell, cell.plus(coarse.into())).overlaps(all));
    let mut coarse_spans = Vec::new();
    let mut fine_spans: Vec<Span> = Vec::new();
    let mut from = all.from;
    for cell in cut {
        let cell = Span::new(cell, cell.plus(coarse.into())).and(all);
        if from < cell.from {
            coarse_spans.push(Span::new(from, cell.from));
        }
        match fine_spans.last_mut() {
            Some(last) if last.to == cell.from => last.to = cell.to,
            _ => fine_spans.push(cell),
        }
        from = cell.to;
    }
    if from < all.to {
        coarse_spans.push(Span::new(from, all.to));
    }
    let need = |width, spans| Need {
        what: What::Counts,
        width,
        spans,
    };
    [need(coarse, coarse_spans), need(fine, fine_spans)]
        .into_iter()
        .filter(|need| !need.spans.is_empty())
        .collect()
}

/// A round length that cuts a span into at most `most` bins.
pub(crate) fn bin_seconds(span: Span, most: u64) -> u32 {
    const ROUND: [u32; 15] = [
        60, 300, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 345_600, 604_800, 1_209_600, 2_419_200,
    ];
    let fits = |width: &&u32| span.seconds().div_ceil(u64::from(**width)) < most;
    ROUND.iter().find(fits).copied().unwrap_or(31_536_000)
}
