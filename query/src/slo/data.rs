//! The numbers of a plan, whatever its indicator counts. They begin with the first slice of the source, unless it has rows from before what was read.
//! What retention took from the table that a plan reads is no silence of the source: they do not begin before the oldest slice of that table, although
//! wider slices and the ledger go back further. Where silence counts (`no-data`), it does from there on.
//!
//! A value that is missing is not a value of nothing. By slices a slice without one is a gap, unless the document says (`no-data`) that silence
//! is good or bad. By Occurrences nothing says how long a value
//! speaks for, and the cells of a plan must not: they are hours or minutes as its windows fall. So the lake's rule holds, that a hole of up
//! to [`HOLE_SECONDS`] was watched, whatever is asked about and when.

use std::collections::BTreeSet;

use tailwater_model::table::Table;
use tailwater_openslo::annotation::NoData;
use tailwater_openslo::{Budgeting, Indicator, Source};
use tailwater_slo::plan::What;
use tailwater_slo::{Data, Need, Observed, Plan, Slice, Span, Time};

use super::HOLE_SECONDS;
use super::pieces::{earlier, widest};
use super::reader::Reader;
use super::rows::{Received, cell};
use super::select::Text;
use super::source::{unwrapped, wrap};
use super::watch::{WATCH_SECONDS, joined};
use crate::error::Result;

impl Reader<'_> {
    pub(super) async fn data(&self, plan: &Plan, watched: &[Span]) -> Result<Data> {
        let mut data = Data {
            observed: match plan.indicator {
                Indicator::Raw { .. } | Indicator::Threshold { .. } if !judges_silence(plan) => Observed::Rows,
                _ => Observed::Spans(watched.to_vec()),
            },
            ..Data::default()
        };
        let main = plan.windows[0].span;
        let read = counted(&plan.needs);
        let mut valued = Valued::default();
        let mut received = Received::within(main);
        for need in &plan.needs {
            match (need.what, &plan.indicator) {
                (What::Counts, Indicator::Requests { of, good }) => {
                    self.requests(of, *good, need, &mut received, &mut data.slices).await?;
                }
                (
                    What::Durations,
                    Indicator::Requests { of, .. }
                    | Indicator::Ratio {
                        total: Source::Red(of), ..
                    },
                ) => self.durations(of, need, &mut data.latency).await?,
                (
                    What::Counts,
                    Indicator::Ratio {
                        part, total, counter, ..
                    },
                ) => {
                    let part = self.counts(part, *counter, need, &mut Received::within(main)).await?;
                    let mut total = self.counts(total, *counter, need, &mut received).await?;
                    for (start, width) in part.keys() {
                        total.entry((*start, *width)).or_default();
                    }
                    data.slices.extend(total.into_iter().map(|((start, width), total)| {
                        let part = part.get(&(start, width)).copied().unwrap_or_default();
                        plan.slice_of_counts(start, width, part, total)
                    }));
                }
                (What::Counts, Indicator::Raw { source, .. } | Indicator::Threshold { source, .. }) => {
                    let from = read.map(|read| read.from);
                    for (time, value) in self.values(source, &from_before(&need.spans, from)).await? {
                        let Some(slice) = plan.slice_of_value(time, 1, value) else {
                            continue;
                        };
                        valued.0.insert(time.floor(WATCH_SECONDS));
                        if let Some((start, width)) = cell(&need.spans, need.width, time) {
                            data.slices.push(Slice { start, width, ..slice });
                        }
                    }
                }
                // Only requests have durations, and they are asked for of nothing else.
                (What::Durations, _) => {}
            }
        }
        data.upstream = received.upstream();
        let mut first = data.slices.iter().map(|slice| slice.start).min();
        if let (Observed::Rows, Budgeting::Occurrences, Some(read)) = (&data.observed, &plan.budgeting, read) {
            let spans = valued.within(read);
            first = spans.first().map(|span| span.from);
            data.observed = Observed::Spans(spans);
        }
        let Some(read) = read else { return Ok(data) };
        let of_red = plan.indicator.all_requests().is_some();
        let silence_counts = of_red && judges_silence(plan);
        let kept = match first {
            Some(first) if first <= read.from => read.from,
            None if !silence_counts => read.from,
            _ if of_red => self.kept_from(plan, read).await?,
            _ => read.from,
        };
        // The oldest slice may begin inside of what is counted into one.
        let from = first.map_or(kept, |first| first.min(kept));
        data.begins = match first {
            _ if silence_counts => Some(from),
            Some(first) if first > kept && self.has_before(plan, kept).await? => Some(kept),
            first => first,
        };
        if let Observed::Spans(spans) = &mut data.observed {
            cut(spans, from);
        }
        Ok(data)
    }

    /// From when on what a plan reads of `red` is kept: the oldest slice of the table that most is read from, if that is not older.
    async fn kept_from(&self, plan: &Plan, read: Span) -> Result<Time> {
        let counts = plan.needs.iter().filter(|need| need.what == What::Counts);
        let tables = counts.map(|need| widest(need.width));
        let table = tables.max_by_key(|table| table.derived_slice_s()).unwrap_or(Table::Red);
        let mut text = Text::default();
        text.push("select ts as at from ");
        text.push(table.name());
        text.push(" where ts < ");
        text.time(read.from);
        text.push(" limit 1");
        if self.time(text).await?.is_some() {
            return Ok(read.from);
        }
        let mut text = Text::default();
        text.push("select ts as at from ");
        text.push(table.name());
        text.push(" order by ts limit 1");
        Ok(self.time(text).await?.unwrap_or(read.to).min(read.to))
    }

    /// Whether the source has anything from before a time.
    async fn has_before(&self, plan: &Plan, time: Time) -> Result<bool> {
        let source = match &plan.indicator {
            Indicator::Requests { of, .. }
            | Indicator::Ratio {
                total: Source::Red(of), ..
            } => {
                for (table, from, to) in earlier(time) {
                    let mut text = Text::default();
                    text.push("select ts as at from ");
                    text.push(table.name());
                    text.push(" where ts < ");
                    text.time(to);
                    if let Some(from) = from {
                        text.push(" and ts >= ");
                        text.time(from);
                    }
                    text.push(" and ");
                    text.selected(of);
                    text.push(" limit 1");
                    if self.time(text).await?.is_some() {
                        return Ok(true);
                    }
                }
                return Ok(false);
            }
            Indicator::Ratio { total: source, .. }
            | Indicator::Raw { source, .. }
            | Indicator::Threshold { source, .. } => source,
        };
        let Source::Sql(sql) = source else { return Ok(false) };
        let mut text = Text::default();
        wrap(&mut text, "slice as at", sql);
        text.push(" where slice < ");
        text.time(time);
        text.push(" limit 1");
        Ok(self.time(text).await.map_err(unwrapped)?.is_some())
    }
}

/// Whether a slice without a value is good or bad.
fn judges_silence(plan: &Plan) -> bool {
    plan.budgeting != Budgeting::Occurrences && plan.extensions.no_data != NoData::Gap
}

/// All that counts are read of.
fn counted(needs: &[Need]) -> Option<Span> {
    let spans = needs.iter().filter(|need| need.what == What::Counts);
    let spans = spans.flat_map(|need| &need.spans).copied();
    spans.reduce(|a, b| Span::new(a.from.min(b.from), a.to.max(b.to)))
}

/// The same spans; the one that begins at `from` begins a hole earlier, for what came shortly before speaks for the beginning.
fn from_before(spans: &[Span], from: Option<Time>) -> Vec<Span> {
    let earlier = |span: &Span| match Some(span.from) == from {
        true => Span::new(span.from.plus(-i64::from(HOLE_SECONDS)), span.to),
        false => *span,
    };
    spans.iter().map(earlier).collect()
}

/// What of these spans is not before `from`.
fn cut(spans: &mut Vec<Span>, from: Time) {
    for span in spans.iter_mut() {
        span.from = span.from.max(from).min(span.to);
    }
    spans.retain(|span| !span.is_empty());
}

/// Steps in which there was a value.
#[derive(Default)]
struct Valued(BTreeSet<Time>);

impl Valued {
    /// When values were watched. The last one may be as old as a hole: the next is not due yet.
    fn within(mut self, read: Span) -> Vec<Span> {
        if !self.0.is_empty() {
            self.0.insert(read.to);
        }
        joined(self.0, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_speak_until_the_next_is_overdue() {
        let check = |values: &[i64], read: (i64, i64), expected: &[(i64, i64)]| {
            let valued = Valued(values.iter().map(|at| Time(*at)).collect());
            let spans = valued.within(Span::new(Time(read.0), Time(read.1)));
            let spans: Vec<_> = spans.iter().map(|span| (span.from.0, span.to.0)).collect();
            assert_eq!(spans, expected, "{values:?}");
        };
        check(&[], (0, 3600), &[]);
        check(&[-900, 300, 1500, 2700], (60, 3660), &[(60, 3660)]);
        check(&[300, 600], (60, 3660), &[(300, 900)]);
        check(&[2700], (0, 3660), &[(2700, 3660)]);
        check(&[2100], (0, 3660), &[(2100, 2400)]);
    }

    #[test]
    fn what_is_not_kept_was_not_watched() {
        let check = |from: i64, expected: &[(i64, i64)]| {
            let mut spans = vec![Span::new(Time(0), Time(600)), Span::new(Time(1200), Time(1800))];
            cut(&mut spans, Time(from));
            let spans: Vec<_> = spans.iter().map(|span| (span.from.0, span.to.0)).collect();
            assert_eq!(spans, expected, "{from}");
        };
        check(0, &[(0, 600), (1200, 1800)]);
        check(300, &[(300, 600), (1200, 1800)]);
        check(600, &[(1200, 1800)]);
        check(1900, &[]);
    }

    #[test]
    fn only_the_beginning_looks_back() {
        let spans = [(0, 60), (3600, 7200)].map(|(from, to)| Span::new(Time(from), Time(to)));
        let looked = |from: Option<i64>| from_before(&spans, from.map(Time))[1].from.0;
        assert_eq!([None, Some(0), Some(3600)].map(looked), [3600, 3600, 2700]);
    }
}
