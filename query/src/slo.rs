//! SLO reports from the lake: reads what plans need, and hands it to the arithmetic of [`tailwater_slo`].
//!
//! ```text
//!  documents --resolve--> SLOs --plan--> needs --[this: SQL over `red`, or the SQL of the document]--> Data --evaluate--> Report
//! ```
//!
//! What the lake itself tells:
//! - **Watermark**: the end of the newest slice of `red` or `ledger` that does not begin after the moment asked about. Rows of both reach the lake in the
//!   batch that settles what they count, so an earlier slice only changes by spans that come late, and those restate it.
//! - **Watched**: the lake was watched while rows of anything reached `red` or `ledger`, with holes of up to [`HOLE_SECONDS`]. Silence of one
//!   service in that time is "no requests"; silence of all of them is a gap.
//! - **A young lake**: while it holds nothing from before the minute of its watermark, windows end at slices of ten seconds instead of minutes.
//! - **Begins**: the first slice of the source, unless it has rows from before what was read.
//!
//! Hours and quarters are read from the tables derived from `red` wherever slices and the ends of spans allow it (`pieces`): 90 days are some 2,000
//! rows a key. Latency thresholds are exact where rows have a register for them, else the fewest and the most their histograms allow. Every query runs within the
//! engine's limits but the number of rows, for which there is [`ROWS_MAX`]; the same question of several objectives is asked once.
//! Leaves out: reading documents, drawing.

mod follow;
mod groups;
mod pieces;
mod rows;
mod select;
mod together;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use datafusion::common::ScalarValue;
use tailwater_openslo::{Good, Indicator, RedSelector, ResolvedSlo, Source};
use tailwater_slo::latency::LatencyBin;
use tailwater_slo::plan::What;
use tailwater_slo::{
    AsOf, Data, Need, Observed, Plan, PlanError, Report, Settings, Slice, Span, Time, Verdict, evaluate, plan,
};

use crate::engine::{Engine, Query};
use crate::error::{Error, ErrorKind, Result};
pub(crate) use follow::{Asked, follow};
use pieces::{Piece, earlier, pieces};
use rows::{cell, count, histogram, integers, numbers, sketches, times};
use select::Text;

/// Most rows of one answer: minutes of a year twice over.
pub const ROWS_MAX: usize = 1_100_000;

/// Larger answers are not kept for a second objective: a hundred of them would take more memory than asking again takes time.
const KEPT_ROWS_MAX: usize = 10_000;

/// Width of the slices that are counted into.
const SLICE_SECONDS: u32 = (tailwater_model::red::SLICE_NS / 1_000_000_000) as u32;

/// A longer time without any row in the lake was not watched.
pub const HOLE_SECONDS: u32 = 900;

/// Step in which the lake is asked when it was watched.
const WATCH_SECONDS: u32 = 300;

/// How far back the newest slice is looked for before all of the table is read.
const NEWEST_WITHIN_SECONDS: i64 = 86_400;

/// How far before its window a counter that only grows is looked at for its last value.
const COUNTER_BEFORE_SECONDS: i64 = 3600;

/// A report, and the objectives that could not be part of it.
#[derive(Clone, Debug)]
pub struct Reported {
    /// What was evaluated.
    pub report: Report,
    /// Why an objective was not: its numbers come from elsewhere. A sentence each; to be taken as no data.
    pub skipped: Vec<String>,
}

impl Reported {
    /// The worst verdict, where what was skipped is no data.
    #[must_use]
    pub fn worst(&self) -> Verdict {
        let skipped = (!self.skipped.is_empty()).then_some(Verdict::NoData);
        // Verdicts are ordered worst first.
        let verdicts = self.report.worst().into_iter().chain(skipped);
        verdicts.min().unwrap_or(Verdict::NoData)
    }
}

/// Reads a moment: RFC 3339, or a day, which begins at midnight UTC.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn parse_time(text: &str) -> Result<Time, String> {
    let day = || text.parse::<chrono::NaiveDate>().ok()?.and_hms_opt(0, 0, 0);
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|time| Time(time.timestamp()))
        .or_else(|_| day().map(|time| Time(time.and_utc().timestamp())).ok_or(()))
        .map_err(|()| format!("`{text}` is no time: write 2026-11-22T20:00:00Z or 2026-11-22"))
}

/// Reports SLOs as of a moment.
///
/// # Errors
/// What queries can end in; [`ErrorKind::BadQuery`] names SLO and objective when the SQL of a document is to blame.
pub async fn report(engine: &Engine, slos: &[ResolvedSlo], settings: &Settings, at: Time) -> Result<Reported> {
    let mut lake = Reader::new(engine);
    let as_of = AsOf {
        at,
        watermark: lake.watermark(at).await?,
    };
    let settings = &lake.settings(settings, as_of).await?;
    let (mut plans, mut skipped) = (Vec::new(), Vec::new());
    for slo in slos {
        match plan(slo, settings, as_of) {
            Ok(of_slo) => plans.extend(of_slo),
            Err(error @ PlanError::Foreign { .. }) => skipped.push(error.to_string()),
            Err(error) => return Err(Error::new(ErrorKind::BadQuery, error.to_string())),
        }
    }
    let watched = lake.watched(&plans).await?;
    let mut objectives = Vec::with_capacity(plans.len());
    for plans in plans.chunks(together::PLANS) {
        lake.ask_together(plans).await;
        for plan in plans {
            let named = |error: Error| {
                let message = format!("SLO `{}`, objective `{}`: {error}", plan.slo, plan.objective);
                Error::new(error.kind(), message).at(error.position())
            };
            let mut objective = evaluate(plan, lake.data(plan, &watched).await.map_err(named)?);
            objective.groups = lake.groups(plan, &watched).await.map_err(named)?;
            objectives.push(objective);
        }
        lake.answers.clear();
    }
    Ok(Reported {
        report: Report::new(at, objectives).with_composites(slos),
        skipped,
    })
}

/// Asks the engine, each question once.
struct Reader<'a> {
    engine: &'a Engine,
    answers: HashMap<String, Arc<Vec<RecordBatch>>>,
}

impl<'a> Reader<'a> {
    fn new(engine: &'a Engine) -> Reader<'a> {
        Reader {
            engine,
            answers: HashMap::new(),
        }
    }

    async fn ask(&mut self, text: Text) -> Result<Arc<Vec<RecordBatch>>> {
        let key = key(&text);
        if let Some(answer) = self.answers.get(&key) {
            return Ok(answer.clone());
        }
        let rows = Arc::new(self.run(text).await?);
        if rows.iter().map(RecordBatch::num_rows).sum::<usize>() <= KEPT_ROWS_MAX {
            self.answers.insert(key, rows.clone());
        }
        Ok(rows)
    }

    async fn run(&self, text: Text) -> Result<Vec<RecordBatch>> {
        let query = Query {
            text: text.sql,
            params: text.params,
        };
        let answer = self.engine.query(query).await?.with_rows_max(ROWS_MAX);
        answer.collect().await
    }

    /// The first time that a query answers.
    async fn time(&mut self, text: Text) -> Result<Option<Time>> {
        for rows in self.ask(text).await?.iter() {
            if let Some(found) = times(rows, "at")?.into_iter().flatten().next() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn watermark(&mut self, at: Time) -> Result<Option<Time>> {
        let mut newest = None;
        for (table, end) in [("red", "slice_s"), ("ledger", "10")] {
            for from in [Some(at.plus(-NEWEST_WITHIN_SECONDS)), None] {
                let mut text = Text::default();
                text.push("select max(ts + arrow_cast(");
                text.push(end);
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
                newest = newest.max(found);
                if found.is_some() {
                    break;
                }
            }
        }
        Ok(newest)
    }

    /// The same settings, but slices as fine as they are counted while the lake is too young to hold a whole minute.
    async fn settings(&mut self, settings: &Settings, as_of: AsOf) -> Result<Settings> {
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
    async fn watched(&mut self, plans: &[Plan]) -> Result<Vec<Span>> {
        let read = plans.iter().flat_map(|plan| &plan.needs).flat_map(|need| &need.spans);
        let all = read
            .copied()
            .reduce(|a, b| Span::new(a.from.min(b.from), a.to.max(b.to)));
        match all {
            Some(all) => self.watched_within(all).await,
            None => Ok(Vec::new()),
        }
    }

    async fn watched_within(&mut self, Span { from, to }: Span) -> Result<Vec<Span>> {
        // What came shortly before shows that the beginning was watched.
        let all = Span::new(from.plus(-i64::from(HOLE_SECONDS)), to);
        let mut seen = std::collections::BTreeSet::new();
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

    async fn data(&mut self, plan: &Plan, watched: &[Span]) -> Result<Data> {
        let mut data = Data {
            observed: match plan.indicator {
                Indicator::Requests { .. } | Indicator::Ratio { .. } => Observed::Spans(watched.to_vec()),
                // A value that is missing is not a value of nothing.
                Indicator::Raw { .. } | Indicator::Threshold { .. } => Observed::Rows,
            },
            ..Data::default()
        };
        for need in &plan.needs {
            match (need.what, &plan.indicator) {
                (What::Counts, Indicator::Requests { of, good }) => {
                    self.requests(of, *good, need, &mut data.slices).await?;
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
                    let part = self.counts(part, *counter, need).await?;
                    let mut total = self.counts(total, *counter, need).await?;
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
    async fn has_before(&mut self, plan: &Plan, time: Time) -> Result<bool> {
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

    async fn requests(&mut self, of: &RedSelector, good: Good, need: &Need, into: &mut Vec<Slice>) -> Result<()> {
        for piece in pieces(&need.spans, need.width) {
            self.requests_of(of, good, need, &piece, into).await?;
        }
        Ok(())
    }

    async fn requests_of(
        &mut self,
        of: &RedSelector,
        good: Good,
        need: &Need,
        piece: &Piece,
        into: &mut Vec<Slice>,
    ) -> Result<()> {
        let threshold = limit_of(good);
        let text = requests(of, good, piece);
        for rows in self.ask(text).await?.iter() {
            let (starts, total, good) = (times(rows, "at")?, integers(rows, "total")?, integers(rows, "good")?);
            let rest = match threshold {
                Some(ns) => Some((ns, sketches(rows, "rest")?)),
                None => None,
            };
            for (row, start) in starts.into_iter().enumerate() {
                let Some((start, width)) = start.and_then(|start| cell(&need.spans, need.width, start)) else {
                    continue;
                };
                let known = count(&good, row)?;
                let mut range = (known, known);
                if let Some((ns, rest)) = rest.as_ref().filter(|(_, rest)| rest.is_valid(row)) {
                    let (least, most) = histogram(rest.value(row))?.at_most(*ns as f64);
                    range = (known.saturating_add(least), known.saturating_add(most));
                }
                into.push(Slice::between(start, width, range, count(&total, row)?));
            }
        }
        Ok(())
    }

    async fn durations(&mut self, of: &RedSelector, need: &Need, into: &mut Vec<LatencyBin>) -> Result<()> {
        let mut bins: BTreeMap<(Time, u32), tailwater_slo::latency::Histogram> = BTreeMap::new();
        for piece in pieces(&need.spans, need.width) {
            for rows in self.ask(durations(of, &piece)).await?.iter() {
                let (starts, durations) = (times(rows, "at")?, sketches(rows, "durations")?);
                for (row, start) in starts.into_iter().enumerate() {
                    if let Some(cell) = start.and_then(|start| cell(&need.spans, need.width, start))
                        && durations.is_valid(row)
                    {
                        bins.entry(cell).or_default().merge(&histogram(durations.value(row))?);
                    }
                }
            }
        }
        into.extend(bins.into_iter().map(|((start, width), histogram)| LatencyBin {
            span: Span::new(start, start.plus(width.into())),
            histogram,
        }));
        Ok(())
    }

    /// How many events per slice.
    async fn counts(&mut self, source: &Source, counter: bool, need: &Need) -> Result<BTreeMap<(Time, u32), u64>> {
        let mut counts: BTreeMap<(Time, u32), u64> = BTreeMap::new();
        let mut add = |time: Time, events: u64| {
            if let Some(cell) = cell(&need.spans, need.width, time) {
                let sum = counts.entry(cell).or_default();
                *sum = sum.saturating_add(events);
            }
        };
        match source {
            Source::Red(of) => {
                for piece in pieces(&need.spans, need.width) {
                    let mut text = Text::default();
                    text.push("select ");
                    bin(&mut text, piece.seconds, "ts");
                    text.push(" as at, sum(n) as total");
                    from_red(&mut text, of, &piece);
                    for rows in self.ask(text).await?.iter() {
                        let total = integers(rows, "total")?;
                        for (row, start) in times(rows, "at")?.into_iter().enumerate() {
                            if let Some(start) = start {
                                add(start, count(&total, row)?);
                            }
                        }
                    }
                }
            }
            Source::Sql(_) if counter => {
                let mut values = self.values(source, &before(&need.spans)).await?;
                values.sort_by_key(|(time, _)| *time);
                for pair in values.windows(2) {
                    let [(_, last), (time, value)] = pair else { continue };
                    // A counter that fell was reset and has counted from zero since.
                    let grown = if value >= last { value - last } else { *value };
                    add(*time, events(*time, grown)?);
                }
            }
            Source::Sql(_) => {
                for (time, value) in self.values(source, &need.spans).await? {
                    add(time, events(time, value)?);
                }
            }
            // Planning refuses these.
            Source::Foreign { .. } => {}
        }
        Ok(counts)
    }

    /// What the SQL of a document answers, rows without a time or a value left out.
    async fn values(&mut self, source: &Source, spans: &[Span]) -> Result<Vec<(Time, f64)>> {
        let Source::Sql(sql) = source else {
            return Ok(Vec::new());
        };
        let mut text = Text::default();
        wrap(&mut text, "slice, value", sql);
        text.push(" where ");
        text.within("slice", spans);
        let mut found = Vec::new();
        for rows in self.ask(text).await.map_err(unwrapped)?.iter() {
            let values = numbers(rows, "value")?;
            let both = times(rows, "slice")?.into_iter().zip(values.iter());
            found.extend(both.filter_map(|(time, value)| Some((time?, value?))));
        }
        Ok(found)
    }
}

fn bin(text: &mut Text, seconds: u32, column: &str) {
    text.push(&format!("date_bin(interval '{seconds} seconds', {column})"));
}

/// Where the answer of a question is kept.
fn key(text: &Text) -> String {
    format!("{}\0{:?}", text.sql, text.params)
}

/// The longest that a good request takes, ns.
fn limit_of(good: Good) -> Option<i64> {
    good.max_duration_ns.map(|ns| i64::try_from(ns).unwrap_or(i64::MAX))
}

/// Counts of a piece: `at`, `total`, `good`, and `rest` where there is a limit.
fn requests(of: &RedSelector, good: Good, piece: &Piece) -> Text {
    let mut text = Text::default();
    text.push("select ");
    bin(&mut text, piece.seconds, "ts");
    text.push(" as at, ");
    let limit = limit_of(good).map(|ns| move |text: &mut Text| text.value(ScalarValue::Int64(Some(ns))));
    good_of(&mut text, good.exclude_errors, limit);
    from_red(&mut text, of, piece);
    text
}

/// `total` and `good`; with a limit of the duration, good are those that a register counts, and `rest` are the histograms of rows without one.
fn good_of(text: &mut Text, exclude_errors: bool, limit: Option<impl Fn(&mut Text)>) {
    text.push("sum(n) as total, ");
    let Some(limit) = limit else {
        text.push("sum(n - errors) as good");
        return;
    };
    let ok = if exclude_errors { "not is_error" } else { "true" };
    let register = |text: &mut Text| {
        text.push("register_le(registers, ");
        limit(text);
        text.push(")");
    };
    text.push(&format!("sum(case when {ok} then "));
    register(text);
    text.push(&format!(" end) as good, exphist_merge(case when {ok} and "));
    register(text);
    text.push(" is null then exphist end) as rest");
}

/// Durations in a piece: `at`, `durations`.
fn durations(of: &RedSelector, piece: &Piece) -> Text {
    let mut text = Text::default();
    text.push("select ");
    bin(&mut text, piece.seconds, "ts");
    text.push(" as at, exphist_merge(exphist) as durations");
    from_red(&mut text, of, piece);
    text
}

/// ` from ... where ... group by` the first column.
fn from_red(text: &mut Text, of: &RedSelector, piece: &Piece) {
    from_red_by(text, of, piece, "1");
}

/// The same, by these columns of the answer.
fn from_red_by(text: &mut Text, of: &RedSelector, piece: &Piece, by: &str) {
    text.push(" from ");
    text.push(piece.table.name());
    text.push(" where ");
    text.within("ts", &piece.spans);
    text.push(" and ");
    text.selected(of);
    text.push(" group by ");
    text.push(by);
}

/// `select what from (sql) as source`, the document's text on lines of its own, so that a comment at its end ends there.
fn wrap(text: &mut Text, what: &str, sql: &str) {
    text.push("select ");
    text.push(what);
    text.push(" from (\n");
    text.push(sql.trim_end().trim_end_matches(';'));
    text.push("\n) as source");
}

/// An error about a wrapped text, with the line in the text of the document.
fn unwrapped(error: Error) -> Error {
    let position = error
        .position()
        .filter(|position| position.line > 1)
        .map(|mut position| {
            position.line -= 1;
            position
        });
    let place = position
        .map(|at| format!("line {} of its SQL: ", at.line))
        .unwrap_or_default();
    let message = format!("{place}{error} (a source has the columns `slice`, a time, and `value`, a number)");
    let message = if error.kind() == ErrorKind::BadQuery {
        message
    } else {
        error.to_string()
    };
    Error::new(error.kind(), message)
}

/// The same spans, each beginning earlier, so that a counter has a value to grow from.
fn before(spans: &[Span]) -> Vec<Span> {
    let mut longer: Vec<Span> = Vec::new();
    for span in spans {
        let from = span.from.plus(-COUNTER_BEFORE_SECONDS);
        match longer.last_mut() {
            Some(last) if last.to >= from => last.to = span.to,
            _ => longer.push(Span::new(from, span.to)),
        }
    }
    longer
}

/// A value that counts events.
fn events(time: Time, value: f64) -> Result<u64> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value.round() as u64);
    }
    let message = format!("`value` is {value} at {time}, which is no number of events");
    Err(Error::new(ErrorKind::BadQuery, message))
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
fn joined(seen: impl IntoIterator<Item = Time>, within: Span) -> Vec<Span> {
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

    #[test]
    fn counters_are_read_from_before_each_span() {
        let spans = [(7200, 7300), (7400, 7500), (90_000, 90_060)].map(|(a, b)| Span::new(Time(a), Time(b)));
        let longer = before(&spans);
        let longer: Vec<_> = longer.iter().map(|span| (span.from.0, span.to.0)).collect();
        assert_eq!(longer, [(3600, 7500), (86_400, 90_060)]);
    }

    #[test]
    fn a_negative_number_of_events_is_refused() {
        let kind = |value| events(Time(0), value).map_err(|error| error.kind());
        assert_eq!(kind(2.0), Ok(2));
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(kind(value), Err(ErrorKind::BadQuery));
        }
    }
}
