//! True against estimated: what `red` counted of every request, beside what the rows that were kept say of all of them.
//!
//! ```text
//!            opened                                            now
//!   red      |----|====|====|====|....|....  slices of 10 s, by the end of the request
//!   spans    |----|==== the same ends ====|  waits, is decided, is stored  |
//!                 '------ window ---------'--------- settling -------------'
//! ```
//!
//! Both sides are of requests that ended in one window of whole slices, in which the shop was open all the time and whose traces are
//! decided. What the true side has of error is that of its histogram: a P99 is within [`SKETCH`].

use std::fmt::Write;
use std::time::Duration;

use anyhow::ensure;
use serde::Deserialize;

use super::policy::Rules;
use super::{ask, painted};
use crate::load::tally::align;

/// Width of a slice of RED, ms.
const SLICE_MS: u64 = 10_000;

/// How far a quantile of a histogram of scale 5 may be off.
const SKETCH: f64 = 0.0109;

/// Most services in a table: those with the most requests.
const SERVICES_MAX: usize = 20;

/// Columns of a terminal that a table fits into.
const WIDTH: usize = 100;

/// A request that lasted longer than this may be missing from the estimates: rows are found by their start.
const LONGEST_MS: u64 = 3_600_000;

/// When the compared requests ended, unix ms: from the first of these on, before the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from_ms: u64,
    to_ms: u64,
}

impl Window {
    /// The last `length` that can be compared at `now_ms`, of what was sent since `opened_ms`; `None` if there is no slice yet.
    pub fn of(opened_ms: u64, now_ms: u64, settling: Duration, length: Duration) -> Option<Window> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let to_ms = now_ms.saturating_sub(ms(settling)) / SLICE_MS * SLICE_MS;
        let length_ms = ms(length).max(SLICE_MS) / SLICE_MS * SLICE_MS;
        let from_ms = opened_ms
            .next_multiple_of(SLICE_MS)
            .max(to_ms.saturating_sub(length_ms));
        (from_ms < to_ms).then_some(Window { from_ms, to_ms })
    }

    fn seconds(self) -> f64 {
        (self.to_ms - self.from_ms) as f64 / 1e3
    }

    /// Slices of `red` that lie in it.
    fn slices(self) -> String {
        format!(
            "ts >= to_timestamp_millis({}) and ts < to_timestamp_millis({})",
            self.from_ms, self.to_ms
        )
    }

    /// Rows of `spans` that ended in it.
    fn ends(self) -> String {
        let Window { from_ms, to_ms } = self;
        let first = from_ms.saturating_sub(LONGEST_MS);
        let end = "cast(ts as bigint) * 1000 + ts_ns + duration_ns";
        format!(
            "ts >= to_timestamp_millis({first}) and ts < to_timestamp_millis({to_ms}) \
             and {end} >= {from_ms}000000 and {end} < {to_ms}000000"
        )
    }
}

/// Whether a row of `spans` counts as an error: what RED counts so with its standard settings (`docs/red.md`).
const IS_ERROR: &str = "case when status_code = 1 then 0 \
    when kind in (3, 4) then case when status_code = 2 or http_status >= 400 or rpc_status <> 0 then 1 else 0 end \
    when rpc_status in (1, 8) or rpc_status is null and http_status in (429, 499) then 0 \
    when status_code = 2 or rpc_status in (2, 4, 12, 13, 14, 15) or rpc_status not between 0 and 16 then 1 \
    when rpc_status is null and http_status >= 500 then 1 else 0 end";

/// By service what was counted, and what the kept rows say.
fn by_service(window: Window) -> String {
    let (slices, ends) = (window.slices(), window.ends());
    format!(
        "with counted as (select service_name, cast(sum(n) as double) as n, cast(sum(errors) as double) as errors, \
           exphist_quantile(exphist_merge(exphist), 0.99) / 1e6 as p99_ms \
           from red where is_entry and {slices} group by service_name), \
         kept as (select service_name, ht_sum_interval(1, sample_weight, trace_id) as n, \
           ht_ratio_interval({IS_ERROR}, 1, sample_weight, trace_id) as errors, \
           wquantile_interval(duration_ns / 1e6, sample_weight, 0.99, trace_id) as p99_ms \
           from spans where is_entry and {ends} group by service_name) \
         select counted.service_name, counted.n, counted.errors, counted.p99_ms, kept.n, kept.errors, kept.p99_ms \
         from counted left join kept on counted.service_name is not distinct from kept.service_name \
         order by 2 desc limit {SERVICES_MAX}"
    )
}

/// All spans: sent, kept, and how many those kept stand for.
fn of_all(window: Window) -> String {
    format!(
        "select (select cast(coalesce(sum(n), 0) as double) from red where {}), cast(count(*) as double), \
         ht_sum_interval(1, sample_weight, trace_id) from spans where {}",
        window.slices(),
        window.ends()
    )
}

/// An estimate with its interval, as SQL answers it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Interval {
    estimate: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    note: Option<String>,
}

/// A row of [`by_service`]: counts and milliseconds.
type Row = (
    Option<String>,
    f64,
    f64,
    f64,
    Option<Interval>,
    Option<Interval>,
    Option<Interval>,
);

/// A row of [`of_all`].
type All = (f64, f64, Interval);

/// One figure on both sides, in the unit that is shown.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    truth: f64,
    /// How far the true one may be off, as a share of it.
    off: f64,
    /// `None`: of this service nothing was kept.
    kept: Option<Interval>,
}

impl Figure {
    fn of(truth: f64, off: f64, kept: &Option<Interval>, unit: f64) -> Figure {
        let kept = kept
            .as_ref()
            .filter(|kept| kept.estimate.is_some())
            .map(|kept| Interval {
                estimate: kept.estimate.map(|value| value * unit),
                low: kept.low.map(|value| value * unit),
                high: kept.high.map(|value| value * unit),
                note: kept.note.clone(),
            });
        Figure {
            truth: truth * unit,
            off,
            kept,
        }
    }

    /// Whether the interval holds the truth; `None` if there is none.
    fn holds(&self) -> Option<bool> {
        let kept = self.kept.as_ref()?;
        // What one division rounds one way another may round the other way.
        let off = self.off + 1e-9;
        let (least, most) = (self.truth * (1.0 - off), self.truth * (1.0 + off));
        Some(kept.low.is_none_or(|low| low <= most) && kept.high.is_none_or(|high| least <= high))
    }

    fn cells(&self) -> [String; 2] {
        let estimated = match &self.kept {
            None => "nothing kept".to_owned(),
            Some(Interval {
                estimate,
                low,
                high,
                note,
            }) => {
                let shown = |value: &Option<f64>| value.map_or("-".to_owned(), short);
                let missed = if self.holds() == Some(false) { "!" } else { "" };
                let few = if note.is_some() { "~" } else { "" };
                format!("{missed}{few}{} [{},{}]", shown(estimate), shown(low), shown(high))
            }
        };
        [short(self.truth), estimated]
    }
}

/// A service: requests a second, errors in percent, P99 in ms.
#[derive(Debug, Clone, PartialEq)]
struct Service {
    name: String,
    figures: [Figure; 3],
}

impl Service {
    fn of(row: &Row, seconds: f64) -> Service {
        let (name, n, errors, p99_ms, kept_n, kept_errors, kept_p99) = row;
        Service {
            name: name.clone().unwrap_or_else(|| "(no name)".to_owned()),
            figures: [
                Figure::of(*n, 0.0, kept_n, 1.0 / seconds),
                Figure::of(errors / n.max(1.0), 0.0, kept_errors, 100.0),
                Figure::of(*p99_ms, SKETCH, kept_p99, 1.0),
            ],
        }
    }

    fn is_alarming(&self) -> bool {
        self.figures[1].truth > 5.0
    }
}

/// Asks for both sides of a window and says how they agree.
///
/// # Errors
/// When the query role cannot be asked.
pub async fn table(query: &str, window: Window, rules: &Rules, colours: bool) -> anyhow::Result<String> {
    let rows: Vec<Row> = ask(query, &by_service(window)).await?;
    let all: Vec<All> = ask(query, &of_all(window)).await?;
    ensure!(all.len() == 1, "{} answers to one question", all.len());
    let mut services: Vec<Service> = rows.iter().map(|row| Service::of(row, window.seconds())).collect();
    services.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(render(window, &services, &all[0], rules, colours))
}

fn render(window: Window, services: &[Service], all: &All, rules: &Rules, colours: bool) -> String {
    let clock = |ms: u64| {
        let time = chrono::DateTime::from_timestamp_millis(i64::try_from(ms).unwrap_or_default()).unwrap_or_default();
        time.format("%H:%M:%S").to_string()
    };
    let mut text = format!(
        "Requests of {} to {} UTC: counted, and estimated from the kept traces [95 % interval]\n",
        clock(window.from_ms),
        clock(window.to_ms)
    );
    let heads = ["req/s", "estimated", "err %", "estimated", "p99ms", "estimated"].map(str::to_owned);
    let mut lines: Vec<[String; 6]> = vec![heads];
    lines.extend(services.iter().map(|service| {
        let [rate, errors, p99] = service.figures.each_ref().map(Figure::cells);
        let ([rate, its], [errors, theirs], [p99, of_p99]) = (rate, errors, p99);
        [rate, its, errors, theirs, p99, of_p99]
    }));
    let others: usize = (0..6)
        .map(|column| 2 + lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .sum();
    let room = WIDTH.saturating_sub(others).max(8);
    let names = std::iter::once("service").chain(services.iter().map(|service| service.name.as_str()));
    let cells: Vec<[String; 7]> = names
        .zip(lines)
        .map(|(name, [a, b, c, d, e, f])| [cut(name, room), a, b, c, d, e, f])
        .collect();
    text.push_str(&painted(
        &align(&cells),
        services.iter().map(Service::is_alarming),
        colours,
    ));
    let held: Vec<bool> = services
        .iter()
        .flat_map(|service| service.figures.iter().filter_map(Figure::holds))
        .collect();
    let few = services
        .iter()
        .flat_map(|service| &service.figures)
        .any(|figure| figure.kept.as_ref().is_some_and(|kept| kept.note.is_some()));
    let _ = writeln!(
        text,
        "The interval holds what was counted in {} of {}{}{}.",
        held.iter().filter(|held| **held).count(),
        held.len(),
        if held.contains(&false) { " (! where not)" } else { "" },
        if few { "; ~ rests on few traces" } else { "" },
    );
    let (sent, kept, stand_for) = all;
    let [_, stand_for] = Figure::of(*sent, 0.0, &Some(stand_for.clone()), 1.0).cells();
    let _ = writeln!(
        text,
        "Spans: {sent:.0} sent, {kept:.0} kept = {:.2} % ({}), which stand for {stand_for}.\n",
        100.0 * kept / sent.max(1.0),
        match rules.share {
            Some(share) => format!("budget {share}"),
            None => "by your policy".to_owned(),
        }
    );
    text
}

/// At most `room` characters of a name.
fn cut(name: &str, room: usize) -> String {
    if name.chars().count() <= room {
        return name.to_owned();
    }
    name.chars().take(room - 1).chain(std::iter::once('…')).collect()
}

/// Three digits that count, in at most five characters.
fn short(value: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut value, mut unit) = (value, 0);
    // Four digits are still read at a glance.
    let largest = |unit: usize| if unit == 0 { 9_999.5 } else { 999.5 };
    while value.abs() >= largest(unit) && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1e3, unit + 1);
    }
    let decimals = match value.abs() {
        size if size >= 99.95 || size == 0.0 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let decimals = if unit > 0 { decimals.min(1) } else { decimals };
    format!("{value:.decimals$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests;
