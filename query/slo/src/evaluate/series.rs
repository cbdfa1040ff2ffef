//! Sorted slices with prefix sums.

use tailwater_openslo::Budgeting;
use tailwater_openslo::annotation::{MaintenanceMode, NoData};

use crate::evaluate::Observed;
use crate::plan::{Plan, Quiet};
use crate::tally::{Slice, Sums};
use crate::time::{Span, Time};

/// Slices of one plan, added up from the left.
pub(super) struct Series<'a> {
    plan: &'a Plan,
    /// Ascending, no two alike.
    slices: Vec<Slice>,
    /// Width of the method's slices; `None` for Occurrences.
    method_slice: Option<u32>,
    /// Planned work that changes counts.
    quiet: Vec<Quiet>,
    /// When events are left out, disjoint and in order.
    excluded: Vec<Span>,
    /// Slices that begin before another one ends, ascending.
    overlapping: Vec<usize>,
    /// `prefix[i]` is everything before slice `i * BLOCK`, as it counts and as it was.
    prefix: Vec<Both>,
}

/// A prefix sum is kept for every so many slices: one for each would be 50 MB for 90 days of minutes.
const BLOCK: usize = 8;

/// Sums with regard to planned work and without.
#[derive(Clone, Copy, Default)]
struct Both {
    counted: Sums,
    raw: Sums,
}

impl<'a> Series<'a> {
    pub(super) fn new(plan: &'a Plan, mut slices: Vec<Slice>, observed: &Observed, begins: Option<Time>) -> Self {
        let method_slice = (!matches!(plan.budgeting, Budgeting::Occurrences)).then(|| plan.slice());
        if let Some(width) = method_slice {
            for slice in &mut slices {
                slice.start = slice.start.floor(width);
                slice.width = width;
            }
        }
        // The main key alone is nearly always sorted already, and then this is one pass.
        slices.sort_by_key(|slice| (slice.start, slice.width));
        slices.dedup_by(|next, kept| {
            let same = next.start == kept.start && next.width == kept.width;
            if same {
                kept.good = kept.good.saturating_add(next.good);
                kept.good_most = kept.good_most.saturating_add(next.good_most);
                kept.total = kept.total.saturating_add(next.total);
                kept.excess = kept.excess.saturating_add(next.excess);
            }
            same
        });
        if let (Some(width), Observed::Spans(spans), NoData::Good | NoData::Bad) =
            (method_slice, observed, plan.extensions.no_data)
        {
            fill(&mut slices, spans, width, plan, begins);
        }
        let quiet = plan.quiet.iter().copied();
        let quiet: Vec<Quiet> = quiet.filter(|quiet| quiet.mode != MaintenanceMode::Mute).collect();
        let excluded = quiet.iter().filter(|quiet| quiet.mode == MaintenanceMode::Exclude);
        // A slice that planned work touches is all of it planned work.
        let outward =
            |span: Span| method_slice.map_or(span, |width| Span::new(span.from.floor(width), span.to.ceil(width)));
        let mut series = Self {
            plan,
            method_slice,
            excluded: union(excluded.map(|quiet| outward(quiet.span)).collect()),
            quiet,
            overlapping: overlapping(&slices),
            prefix: Vec::with_capacity(slices.len() / BLOCK + 1),
            slices,
        };
        let mut sum = Both::default();
        for at in 0..series.slices.len() {
            if at.is_multiple_of(BLOCK) {
                series.prefix.push(sum);
            }
            series.add(at, &mut sum);
        }
        if series.slices.len().is_multiple_of(BLOCK) {
            series.prefix.push(sum);
        }
        series
    }

    /// Adds one slice.
    fn add(&self, at: usize, sum: &mut Both) {
        let slice = &self.slices[at];
        let no_data = self.plan.extensions.no_data;
        let mut of = match no_data {
            NoData::Good | NoData::Bad if self.method_slice.is_some() && slice.total == 0 && slice.excess == 0 => {
                Sums::empty_slice(slice.width, no_data == NoData::Good)
            }
            _ => Sums::of(slice, &self.plan.budgeting),
        };
        if self.overlapping.binary_search(&at).is_ok() {
            of.impossible += 1;
        }
        if self.quiet.is_empty() {
            sum.counted += of;
            return;
        }
        sum.raw += of;
        let touching = self.quiet.iter().filter(|quiet| quiet.span.overlaps(slice.span()));
        let worst = |a, b| if a == MaintenanceMode::Exclude { a } else { b };
        match touching.map(|quiet| quiet.mode).reduce(worst) {
            Some(MaintenanceMode::Exclude) => {}
            Some(MaintenanceMode::CountGood) => sum.counted += of.forgiven(),
            Some(MaintenanceMode::Mute) | None => sum.counted += of,
        }
    }

    /// What happened in a span: the slices that begin in it.
    pub(super) fn sums(&self, span: Span) -> Sums {
        self.between(span).counted
    }

    /// As [`Series::sums`] without regard to planned work; `None` where there was none.
    pub(super) fn raw_sums(&self, span: Span) -> Option<Sums> {
        (!self.quiet.is_empty()).then(|| self.between(span).raw)
    }

    fn between(&self, span: Span) -> Both {
        let before = |time: Time| self.slices.partition_point(|slice| slice.start < time);
        let (from, to) = (before(span.from), before(span.to));
        if to <= from {
            return Both::default();
        }
        let (earlier, later) = (self.before(from), self.before(to));
        Both {
            counted: later.counted - earlier.counted,
            raw: later.raw - earlier.raw,
        }
    }

    /// Everything before a slice.
    fn before(&self, at: usize) -> Both {
        let mut sum = self.prefix[at / BLOCK];
        for each in at / BLOCK * BLOCK..at {
            self.add(each, &mut sum);
        }
        sum
    }

    /// Seconds of a span that planned work takes out.
    pub(super) fn excluded_seconds(&self, span: Span) -> u64 {
        measure(&self.excluded, span)
    }

    /// Seconds of some spans within a span that planned work takes out.
    pub(super) fn excluded_seconds_within(&self, spans: &[Span], span: Span) -> u64 {
        spans.iter().map(|each| measure(&self.excluded, each.and(span))).sum()
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.overlapping.is_empty() {
            let rows = self.overlapping.len();
            notes.push(format!("{rows} rows lie over others: something is counted twice"));
        }
        let unsure = self.slices.iter().any(|slice| slice.good < slice.good_most);
        if let (true, Some(ns)) = (unsure, self.plan.threshold_ns()) {
            let threshold = tailwater_openslo::period::format_latency(ns);
            notes.push(format!(
                "{threshold} lies inside a bucket: good is a range, figures show its worse end"
            ));
        }
        notes
    }
}

/// Which slices begin before another one ends.
fn overlapping(slices: &[Slice]) -> Vec<usize> {
    let mut end = Time(i64::MIN);
    let mut found = Vec::new();
    for (at, slice) in slices.iter().enumerate() {
        if slice.start < end {
            found.push(at);
        }
        end = end.max(slice.span().to);
    }
    found
}

/// Puts in the slices that were watched and had no row, from the first on that can have one.
fn fill(slices: &mut Vec<Slice>, observed: &[Span], width: u32, plan: &Plan, begins: Option<Time>) {
    let Some(all) = plan
        .needs
        .iter()
        .flat_map(|need| &need.spans)
        .copied()
        .reduce(|a, b| Span::new(a.from.min(b.from), a.to.max(b.to)))
    else {
        return;
    };
    let all = Span::new(begins.map_or(all.from, |begins| begins.max(all.from)), all.to);
    let mut filled = Vec::with_capacity(slices.len());
    let mut have = slices.iter().copied().peekable();
    for span in observed {
        let span = span.and(all);
        let mut start = span.from.ceil(width);
        while start.plus(width.into()) <= span.to {
            while let Some(slice) = have.next_if(|slice| slice.start < start) {
                filled.push(slice);
            }
            match have.next_if(|slice| slice.start == start) {
                Some(slice) => filled.push(slice),
                None => filled.push(Slice::new(start, width, 0, 0)),
            }
            start = start.plus(width.into());
        }
    }
    filled.extend(have);
    *slices = filled;
}

/// The same time as disjoint spans in order.
fn union(mut spans: Vec<Span>) -> Vec<Span> {
    spans.retain(|span| !span.is_empty());
    spans.sort();
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
            _ => joined.push(span),
        }
    }
    joined
}

/// Seconds that disjoint spans have in common with one.
pub(super) fn measure(spans: &[Span], within: Span) -> u64 {
    spans.iter().map(|span| span.and(within).seconds()).sum()
}
