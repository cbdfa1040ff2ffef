//! Sorted slices as prefix sums.

use tailwater_openslo::Budgeting;
use tailwater_openslo::annotation::{MaintenanceMode, NoData};

use crate::evaluate::Observed;
use crate::plan::{Plan, Quiet};
use crate::tally::{Slice, Sums};
use crate::time::{Span, Time};

/// Slices of one plan, added up from the left.
pub(super) struct Series {
    /// Start of each slice, ascending.
    starts: Vec<Time>,
    /// `sums[i]` is everything before slice `i`; one longer than `starts`.
    sums: Vec<Sums>,
    /// The same without regard to maintenance, where it changes something.
    raw: Option<Vec<Sums>>,
    /// When events are left out, disjoint and in order.
    excluded: Vec<Span>,
    /// Rows that lie over others.
    overlapping: u64,
}

impl Series {
    pub(super) fn new(plan: &Plan, mut slices: Vec<Slice>, observed: &Observed) -> Self {
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
                kept.lost = kept.lost.saturating_add(next.lost);
            }
            same
        });
        if let (Some(width), Observed::Spans(spans), NoData::Good | NoData::Bad) =
            (method_slice, observed, plan.extensions.no_data)
        {
            fill(&mut slices, spans, width, plan);
        }
        Self::add_up(plan, &slices, method_slice)
    }

    fn add_up(plan: &Plan, slices: &[Slice], method_slice: Option<u32>) -> Self {
        let counts: Vec<Quiet> = plan
            .quiet
            .iter()
            .copied()
            .filter(|quiet| quiet.mode != MaintenanceMode::Mute)
            .collect();
        let mut series = Self {
            starts: Vec::with_capacity(slices.len()),
            sums: Vec::with_capacity(slices.len() + 1),
            raw: (!counts.is_empty()).then(|| Vec::with_capacity(slices.len() + 1)),
            excluded: union(
                counts
                    .iter()
                    .filter(|quiet| quiet.mode == MaintenanceMode::Exclude)
                    // A slice that planned work touches is all of it planned work.
                    .map(|quiet| {
                        method_slice.map_or(quiet.span, |width| {
                            Span::new(quiet.span.from.floor(width), quiet.span.to.ceil(width))
                        })
                    })
                    .collect(),
            ),
            overlapping: 0,
        };
        let (mut sum, mut raw_sum) = (Sums::default(), Sums::default());
        series.sums.push(sum);
        if let Some(raw) = &mut series.raw {
            raw.push(raw_sum);
        }
        let mut end = Time(i64::MIN);
        for slice in slices {
            let mut of = match plan.extensions.no_data {
                NoData::Good | NoData::Bad if method_slice.is_some() && slice.total == 0 => {
                    Sums::empty_slice(slice.width, plan.extensions.no_data == NoData::Good)
                }
                _ => Sums::of(slice, &plan.budgeting),
            };
            if slice.start < end {
                of.impossible += 1;
                series.overlapping += 1;
            }
            end = end.max(slice.span().to);
            raw_sum += of;
            let touching = counts.iter().filter(|quiet| quiet.span.overlaps(slice.span()));
            match touching
                .map(|quiet| quiet.mode)
                .reduce(|a, b| if a == MaintenanceMode::Exclude { a } else { b })
            {
                Some(MaintenanceMode::Exclude) => {}
                Some(MaintenanceMode::CountGood) => sum += of.forgiven(),
                Some(MaintenanceMode::Mute) | None => sum += of,
            }
            series.starts.push(slice.start);
            series.sums.push(sum);
            if let Some(raw) = &mut series.raw {
                raw.push(raw_sum);
            }
        }
        series
    }

    /// What happened in a span: the slices that begin in it.
    pub(super) fn sums(&self, span: Span) -> Sums {
        self.between(&self.sums, span)
    }

    /// As [`Series::sums`] without regard to maintenance; `None` where there was none.
    pub(super) fn raw_sums(&self, span: Span) -> Option<Sums> {
        self.raw.as_ref().map(|raw| self.between(raw, span))
    }

    fn between(&self, prefix: &[Sums], span: Span) -> Sums {
        let before = |time: Time| self.starts.partition_point(|start| *start < time);
        let (from, to) = (before(span.from), before(span.to));
        if to <= from {
            Sums::default()
        } else {
            prefix[to] - prefix[from]
        }
    }

    /// Seconds of a span that planned work takes out.
    pub(super) fn excluded_seconds(&self, span: Span) -> u64 {
        measure(&self.excluded, span)
    }

    /// Seconds of some spans within a span that planned work takes out.
    pub(super) fn excluded_seconds_within(&self, spans: &[Span], span: Span) -> u64 {
        spans.iter().map(|each| measure(&self.excluded, each.and(span))).sum()
    }

    pub(super) fn notes(&self, plan: &Plan) -> Vec<String> {
        let mut notes = Vec::new();
        if self.overlapping > 0 {
            notes.push(format!(
                "{} rows lie over others: something is counted twice",
                self.overlapping
            ));
        }
        let unsure = self.sums.last().is_some_and(|all| all.good != all.good_most);
        if let (true, Some(ns)) = (unsure, plan.threshold_ns()) {
            let threshold = tailwater_openslo::period::format_latency(ns);
            notes.push(format!(
                "{threshold} lies inside a bucket: good is a range, figures show its worse end"
            ));
        }
        notes
    }
}

/// Puts in the slices that were watched and had no row.
fn fill(slices: &mut Vec<Slice>, observed: &[Span], width: u32, plan: &Plan) {
    let Some(all) = plan
        .needs
        .iter()
        .flat_map(|need| &need.spans)
        .copied()
        .reduce(|a, b| Span::new(a.from.min(b.from), a.to.max(b.to)))
    else {
        return;
    };
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
