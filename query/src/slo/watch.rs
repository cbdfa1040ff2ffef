//! What the lake itself tells of its time.
//!
//! - **Watermark**: the end of the newest slice of `red` or `ledger` that does not begin after the moment asked about. Rows of both reach the lake in the
//!   batch that settles what they count, so an earlier slice only changes by spans that come late, and those restate it.
//! - **Watched**: the lake was watched while rows of anything reached `red` or `ledger`, with holes of up to [`HOLE_SECONDS`]. Silence of one
//!   service in that time is "no requests"; silence of all of them is a gap.
//! - **A young lake**: while it holds nothing from before the minute of its watermark, windows end at slices of ten seconds instead of minutes.

use std::collections::BTreeSet;

use futures::try_join;
use tailwater_slo::{AsOf, Plan, Settings, Span, Time};

use super::HOLE_SECONDS;
use super::reader::Reader;
use super::rows::times;
use super::select::{Text, bin};
use crate::error::Result;

/// Width of the slices that are counted into.
const SLICE_SECONDS: u32 = (tailwater_model::red::SLICE_NS / 1_000_000_000) as u32;

/// Step in which the lake is asked when it was watched.
pub(super) const WATCH_SECONDS: u32 = 300;

/// How far back the newest slice is looked for before all of the table is read.
const NEWEST_WITHIN_SECONDS: i64 = 86_400;

impl Reader<'_> {
    pub(super) async fn watermark(&self, at: Time) -> Result<Option<Time>> {
        let (red, ledger) = try_join!(self.newest("red", "slice_s", at), self.newest("ledger", "10", at))?;
        Ok(red.max(ledger))
    }

    /// The end of the newest slice of a table that does not begin after a moment.
    async fn newest(&self, table: &str, seconds: &str, at: Time) -> Result<Option<Time>> {
        for from in [Some(at.plus(-NEWEST_WITHIN_SECONDS)), None] {
            let mut text = Text::default();
            text.push("select max(ts + arrow_cast(");
            text.push(seconds);
            text.push(" * 1000000, 'Duration(Microsecond)')) as at from ");
            text.push(table);
            // The slice that begins now holds what arrived a moment ago.
            text.push(" where ts <= ");
            text.time(at);
            if let Some(from) = from {
                text.push(" and ts >= ");
                text.time(from);
            }
            let found = self.time(text).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The same settings, but slices as fine as they are counted while the lake is too young to hold a whole minute.
    pub(super) async fn settings(&self, settings: &Settings, as_of: AsOf) -> Result<Settings> {
        let end = as_of.watermark.map_or(as_of.at, |watermark| watermark.min(as_of.at));
        let minute = end.floor(settings.fine);
        for table in ["red", "ledger"] {
            let mut text = Text::default();
            text.push("select ts as at from ");
            text.push(table);
            text.push(" where ts < ");
            text.time(minute);
            text.push(" limit 1");
            if self.time(text).await?.is_some() {
                return Ok(settings.clone());
            }
        }
        Ok(Settings {
            fine: SLICE_SECONDS.min(settings.fine),
            ..settings.clone()
        })
    }

    /// When the lake was watched, over all that plans read.
    pub(super) async fn watched(&self, plans: &[Plan]) -> Result<Vec<Span>> {
        let read = plans.iter().flat_map(|plan| &plan.needs).flat_map(|need| &need.spans);
        let all = read
            .copied()
            .reduce(|a, b| Span::new(a.from.min(b.from), a.to.max(b.to)));
        match all {
            Some(all) => self.watched_within(all).await,
            None => Ok(Vec::new()),
        }
    }

    pub(super) async fn watched_within(&self, Span { from, to }: Span) -> Result<Vec<Span>> {
        // What came shortly before shows that the beginning was watched.
        let all = Span::new(from.plus(-i64::from(HOLE_SECONDS)), to);
        let mut seen = BTreeSet::new();
        // The ledger is small and has a row for whatever arrives: `red` is asked only where it is silent.
        for table in ["ledger", "red"] {
            let asked = unseen(joined(seen.iter().copied(), all), all);
            if asked.is_empty() {
                break;
            }
            let mut text = Text::default();
            text.push("select distinct ");
            bin(&mut text, WATCH_SECONDS, "ts");
            text.push(" as at from ");
            text.push(table);
            text.push(" where ");
            text.within("ts", &asked);
            for rows in self.ask(text).await?.iter() {
                seen.extend(times(rows, "at")?.into_iter().flatten());
            }
        }
        Ok(joined(seen, Span::new(from, to)))
    }
}

/// What of a span is not in these spans, which are disjoint, in order and within it.
fn unseen(seen: Vec<Span>, all: Span) -> Vec<Span> {
    let mut from = all.from;
    let mut holes = Vec::new();
    for span in seen {
        holes.push(Span::new(from, span.from));
        from = span.to;
    }
    holes.push(Span::new(from, all.to));
    holes.retain(|hole| !hole.is_empty());
    holes
}

/// Steps in which something was seen, joined over small holes and cut to a span.
pub(super) fn joined(seen: impl IntoIterator<Item = Time>, within: Span) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for start in seen {
        let end = start.plus(WATCH_SECONDS.into());
        match spans.last_mut() {
            Some(last) if last.to.plus(HOLE_SECONDS.into()) >= start => last.to = end,
            _ => spans.push(Span::new(start, end)),
        }
    }
    let cut = spans.into_iter().map(|span| span.and(within));
    cut.filter(|span| !span.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_holes_were_watched() {
        let check = |seen: &[i64], within: (i64, i64), expected: &[(i64, i64)]| {
            let within = Span::new(Time(within.0), Time(within.1));
            let spans = joined(seen.iter().map(|at| Time(*at)), within);
            let spans: Vec<_> = spans.iter().map(|span| (span.from.0, span.to.0)).collect();
            assert_eq!(spans, expected);
        };
        check(&[], (0, 3600), &[]);
        check(&[0, 300, 600], (0, 3600), &[(0, 900)]);
        check(&[0, 1200], (0, 3600), &[(0, 1500)]);
        check(&[0, 1500], (0, 3600), &[(0, 300), (1500, 1800)]);
        check(&[-300, 0, 3300], (60, 3400), &[(60, 300), (3300, 3400)]);
    }

    #[test]
    fn red_is_asked_where_the_ledger_is_silent() {
        let check = |seen: &[(i64, i64)], expected: &[(i64, i64)]| {
            let seen = seen
                .iter()
                .map(|(from, to)| Span::new(Time(*from), Time(*to)))
                .collect();
            let holes = unseen(seen, Span::new(Time(100), Time(900)));
            let holes: Vec<_> = holes.iter().map(|hole| (hole.from.0, hole.to.0)).collect();
            assert_eq!(holes, expected);
        };
        check(&[], &[(100, 900)]);
        check(&[(100, 900)], &[]);
        check(&[(100, 300), (400, 600)], &[(300, 400), (600, 900)]);
    }
}
