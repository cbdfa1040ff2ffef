//! The numbers of a plan, whatever its indicator counts. They begin with the first slice of the source, unless it has rows from before what was read.

use tailwater_openslo::{Indicator, Source};
use tailwater_slo::plan::What;
use tailwater_slo::{Data, Observed, Plan, Span, Time};

use super::pieces::earlier;
use super::reader::Reader;
use super::rows::{Received, cell};
use super::select::Text;
use super::source::{unwrapped, wrap};
use crate::error::Result;

impl Reader<'_> {
    pub(super) async fn data(&self, plan: &Plan, watched: &[Span]) -> Result<Data> {
        let mut data = Data {
            observed: match plan.indicator {
                Indicator::Requests { .. } | Indicator::Ratio { .. } => Observed::Spans(watched.to_vec()),
                // A value that is missing is not a value of nothing.
                Indicator::Raw { .. } | Indicator::Threshold { .. } => Observed::Rows,
            },
            ..Data::default()
        };
        let main = plan.windows[0].span;
        let mut received = Received::within(main);
        for need in &plan.needs {
            match (need.what, &plan.indicator) {
                (What::Counts, Indicator::Requests { of, good }) => {
                    self.requests(of, *good, need, &mut received, &mut data.slices).await?;
                }
                (What::Durations, Indicator::Requests { of, .. }) => {
                    self.durations(of, need, &mut data.latency).await?;
                }
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
                    for (time, value) in self.values(source, &need.spans).await? {
                        if let Some((start, width)) = cell(&need.spans, need.width, time) {
                            data.slices.extend(plan.slice_of_value(start, width, value));
                        }
                    }
                }
                // Only requests have durations.
                (What::Durations, _) => {}
            }
        }
        data.upstream = received.upstream();
        let first = data.slices.iter().map(|slice| slice.start).min();
        let read = plan
            .needs
            .iter()
            .flat_map(|need| &need.spans)
            .map(|span| span.from)
            .min();
        data.begins = match (first, read) {
            (Some(first), Some(read)) if first > read && self.has_before(plan, read).await? => Some(read),
            (first, _) => first,
        };
        Ok(data)
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
