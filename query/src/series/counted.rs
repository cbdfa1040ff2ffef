//! Series out of the tables that hold counts: `red` as Tempo's span metrics, `edges` as its service graph, `ledger` as what became of all that
//! was received.
//!
//! The tables hold what was counted per slice; here it becomes counters. A counter begins at 0 where the window of the need begins (for a series that
//! is younger, with its first slice), so its own value means nothing beyond the window, while rates and increases are those of the table.
//! [`super::grid`] says at which moments it is sampled. For a range it lives to the end of the window, so that what has stopped has a rate of 0; without one it
//! ends a look-back after its last slice, as an instant query says at each moment, or up to a step later where the look-back is no multiple of the step.
//! While its newest slices may still be on their way it ends with the newest slice of the table ([`newest`]), so that a rate at the right edge
//! extrapolates instead of falling, and over the same time whatever is selected.
//!
//! Calls are weighted: one that a client or a collector before us has sampled (`ot=th`) counts for all that it stands for. Durations count as they were
//! received. Where that makes a difference, an info says so with both figures; another one says that a counter was asked for by itself, a third that a
//! range is shorter than the slices it looks at.
//!
//! Durations are seconds. Classic buckets have the bounds 2^17 to 2^36 ns (0.13 ms to 69 s), which are bounds of the sketch too: their counts are exact.
//! Native histograms have schema 5 like the sketch; the bounds in seconds lie elsewhere than those in ns, so a bucket counts where its middle
//! lies, at most half a bucket (1.1 %) off.

mod family;
mod key;
mod newest;
mod samples;

use std::borrow::Cow;
use std::collections::BTreeMap;

use hashbrown::HashMap;
use tailwater_model::red::WEIGHT_ONE;
use tailwater_promql::{BUCKET, Hints, Labels, METRIC_NAME, Matcher, Need};

use super::grid::{Grid, Piece};
use super::{About, Found, FoundLabels, Metadata, Sql, Window, may_be, table};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};

pub(super) use family::{FAMILIES, Family, Metric};
use family::{Part, bucket_bounds};
pub(crate) use newest::Newest;
use samples::{Deltas, Span};

/// Widest slice of `red` and `edges`, ms.
const SLICE_MAX_MS: i64 = 60_000;

/// When a slice ends, us: SQL.
const END: &str = "(arrow_cast(ts, 'Int64') + slice_s::bigint * 1000000)";

/// All samples of the series that a need selects.
pub(super) async fn select(
    engine: &Engine,
    need: &Need,
    lookback_ms: i64,
    newest: &mut Newest,
    found: &mut Found,
) -> Result<()> {
    for family in &FAMILIES {
        let metrics: Vec<&Metric> = family.selected(&need.matchers).collect();
        if !metrics.is_empty() {
            one(engine, family, &metrics, need, lookback_ms, newest, found).await?;
        }
    }
    Ok(())
}

async fn one(
    engine: &Engine,
    family: &Family,
    metrics: &[&Metric],
    need: &Need,
    lookback_ms: i64,
    newest: &mut Newest,
    found: &mut Found,
) -> Result<()> {
    let grid = Grid::new(need, lookback_ms, found.room.left).ok_or_else(|| found.room.too_small())?;
    let newest_ms = newest.end_ms(engine, family, need.to_ms, &mut found.notes).await?;
    let end_ms = newest_ms.map_or(need.to_ms, |newest_ms| newest_ms.min(need.to_ms));
    if end_ms < need.from_ms {
        return Ok(());
    }
    let mut numbers: Vec<&str> = metrics.iter().filter_map(|metric| metric.part.number()).collect();
    let mut sketches: Vec<&str> = metrics.iter().filter_map(|metric| metric.part.sketch()).collect();
    numbers.extend(family.weights.iter().flat_map(|of| [of.received, of.weighted]));
    for columns in [&mut numbers, &mut sketches] {
        columns.sort_unstable();
        columns.dedup();
    }
    let key = match &need.hints.summed {
        Some(kept) if !need.hints.nested => {
            let compared = need.matchers.iter().map(|matcher| &*matcher.name);
            family.key_of(&kept.iter().map(|label| &**label).chain(compared).collect::<Vec<_>>())
        }
        _ => family.key(),
    };
    let mut columns = vec![grid.bin_sql(END)];
    // Slices of 10 s become minutes when they are old; only a range shorter than those tells.
    let may_jump = (1..SLICE_MAX_MS).contains(&need.hints.range_ms);
    columns.extend(may_jump.then(|| "max(slice_s)".to_owned()));
    columns.extend(numbers.iter().map(|column| format!("sum({column})")));
    columns.extend(sketches.iter().map(|column| format!("exphist_merge({column})")));
    let window = Window {
        after_ms: need.from_ms.saturating_sub(1),
        upto_ms: end_ms,
    };
    let width = key.width();
    let grouped: Vec<String> = (1..=width + 1).map(|number| number.to_string()).collect();
    let pieces = grid.pieces(family.coarser, (family.table, SLICE_MAX_MS), window);

    let mut groups: HashMap<String, Deltas> = HashMap::new();
    let mut widest_s = 0;
    let mut text = String::new();
    for piece in &pieces {
        let mut sql = key.select(columns.iter().cloned());
        let part = grid.read_sql(END);
        rows_from(&mut sql, piece, part.as_deref(), family, &need.matchers);
        sql.push(" group by ").push(&grouped.join(", "));
        for rows in table::read(engine, sql, &mut found.notes).await? {
            let keys = key.of(&rows)?;
            let bins = table::integers(&rows, width)?;
            let mut at = width + 1;
            if may_jump {
                let widths = table::integers(&rows, at)?;
                widest_s = widths.values().iter().copied().fold(widest_s, i64::max);
                at += 1;
            }
            let numbers = (at..at + numbers.len())
                .map(|column| table::integers(&rows, column))
                .collect::<Result<Vec<_>>>()?;
            let at = at + numbers.len();
            let sketches = (at..at + sketches.len())
                .map(|column| table::bytes(&rows, column))
                .collect::<Result<Vec<_>>>()?;
            for row in 0..rows.num_rows() {
                keys.write(row, &mut text);
                let deltas = groups.entry_ref(text.as_str()).or_default();
                deltas.push(
                    bins.value(row),
                    numbers.iter().map(|column| column.value(row)),
                    sketches.iter().map(|column| column.value(row)),
                );
            }
        }
    }
    let span = Span {
        from_ms: need.from_ms,
        end_ms,
        stays_ms: (need.hints.range_ms == 0 && !need.hints.nested).then_some(lookback_ms),
        grid: &grid,
    };
    // By labels: two names of dimensions may become the same label.
    let mut by_labels: BTreeMap<Labels, Deltas> = BTreeMap::new();
    for (text, deltas) in groups {
        by_labels.entry(key.labels(&text)).or_default().absorb(deltas);
    }
    let number = |column: &str| numbers.iter().position(|one| *one == column).unwrap_or_default();
    let sketch = |column: &str| sketches.iter().position(|one| *one == column).unwrap_or_default();
    let mut shown: BTreeMap<&str, Shown> = BTreeMap::new();
    for (pairs, mut deltas) in by_labels {
        deltas.sort();
        for metric in metrics {
            let before = found.series.len();
            let labels = |le: Option<&str>| {
                let labels = metric.labels(&pairs, le);
                Matcher::all(&need.matchers, &labels).then_some(labels)
            };
            let unreadable =
                |error| Error::new(ErrorKind::Damaged, format!("a histogram of {}: {error}", family.table));
            match metric.part {
                Part::Count(column) | Part::Weighted(column) | Part::Seconds(column) => {
                    let by = match metric.part {
                        Part::Weighted(_) => WEIGHT_ONE as f64,
                        Part::Seconds(_) => 1e9,
                        _ => 1.0,
                    };
                    if let Some(labels) = labels(None) {
                        found.push(deltas.counter(labels, &span, number(column), by))?;
                    }
                }
                Part::Counted(column) => {
                    if let Some(labels) = labels(None) {
                        let counts = deltas.counts(sketch(column)).map_err(unreadable)?;
                        found.push(deltas.floats(labels, &span, &counts))?;
                    }
                }
                Part::Buckets(column) => {
                    let sets: Vec<Option<Labels>> = bucket_bounds().map(|(_, le)| labels(Some(&le))).collect();
                    if sets.iter().any(Option::is_some) {
                        let buckets = deltas.buckets(sketch(column)).map_err(unreadable)?;
                        let mut kept = sets
                            .into_iter()
                            .zip(&buckets)
                            .filter_map(|(set, counts)| Some((set?, counts)));
                        kept.try_for_each(|(labels, counts)| found.push(deltas.floats(labels, &span, counts)))?;
                    }
                }
                Part::Native(sums, column) => {
                    if let Some(labels) = labels(None) {
                        let columns = (number(sums), sketch(column));
                        let series = deltas.native(labels, &span, columns, &mut found.room, unreadable)?;
                        found.series.push(series);
                    }
                }
            }
            if found.series.len() > before {
                let shown = shown.entry(metric.name).or_default();
                shown.is_weighted = matches!(metric.part, Part::Weighted(_));
                if let Some(weights) = &family.weights {
                    shown.received += deltas.total(number(weights.received));
                    shown.weighted += deltas.total(number(weights.weighted));
                }
            }
        }
    }
    found.infos.extend(infos(&shown, &need.hints));
    if let (Some((name, _)), true) = (shown.first_key_value(), need.hints.range_ms < widest_s * 1000) {
        found.infos.insert(jumps(name, widest_s));
    }
    Ok(())
}

/// What was shown of a metric: how many were received, and for how many they stand in units of 1/[`WEIGHT_ONE`].
#[derive(Default)]
struct Shown {
    is_weighted: bool,
    received: i128,
    weighted: i128,
}

/// What a reader of these metrics should know.
fn infos(shown: &BTreeMap<&str, Shown>, hints: &Hints) -> Vec<String> {
    let mut infos = Vec::new();
    for (name, of) in shown {
        let one = i128::from(WEIGHT_ONE);
        if of.weighted == of.received * one {
            continue;
        }
        let (received, stand_for) = (of.received, (of.weighted + one / 2) / one);
        infos.push(if of.is_weighted {
            format!("{name}: {received} were received and count as the {stand_for} that upstream sampling (ot=th) says they stand for")
        } else {
            format!("{name}: the {received} received are shown, upstream sampling (ot=th) says that they stand for {stand_for}")
        });
    }
    infos.extend(shown.first_key_value().and_then(|(name, _)| by_itself(name, hints)));
    infos
}

/// What a reader of a counter made of deltas should know, if its value is looked at.
pub(super) fn by_itself(name: &str, hints: &Hints) -> Option<String> {
    looks_at_values(hints).then(|| {
        format!("{name} counts from the beginning of the window of this query, so its value says nothing by itself: use increase() or rate()")
    })
}

/// What a reader of a range shorter than slices of this width should know.
fn jumps(name: &str, slice_s: i64) -> String {
    format!(
        "{name} is kept in slices of {slice_s} s in this window, and a slice counts at its end: a range below {slice_s}s shows none of it or all, ask for [{slice_s}s] or longer"
    )
}

/// Whether more is asked of a counter than what it gained, or that it is there.
fn looks_at_values(hints: &Hints) -> bool {
    const OF_GAINS: [&str; 9] = [
        "rate",
        "increase",
        "irate",
        "idelta",
        "delta",
        "deriv",
        "resets",
        "changes",
        "predict_linear",
    ];
    const OF_BEING: [&str; 7] = [
        "count",
        "group",
        "absent",
        "count_over_time",
        "present_over_time",
        "absent_over_time",
        "timestamp",
    ];
    match hints.function {
        Some(function) => !(OF_BEING.contains(&function) || hints.range_ms > 0 && OF_GAINS.contains(&function)),
        // What is made of a subquery is not known here.
        None => !hints.nested,
    }
}

/// Adds the label sets that these matchers select.
pub(super) async fn labels(
    engine: &Engine,
    matchers: &[Matcher],
    window: Window,
    found: &mut FoundLabels<'_>,
) -> Result<()> {
    let mut text = String::new();
    let of_bounds = matchers.iter().filter(|matcher| matcher.name == BUCKET);
    let bounds: Vec<Cow<'_, str>> = bucket_bounds()
        .map(|(_, le)| le)
        .filter(|le| of_bounds.clone().all(|matcher| matcher.matches(le)))
        .collect();
    let mut bounds_are_known = false;
    for family in &FAMILIES {
        let metrics: Vec<&Metric> = family.selected(matchers).collect();
        if metrics.is_empty() {
            continue;
        }
        let key = family.key();
        let mut sql = key.select([]);
        sql.text.insert_str("select ".len(), "distinct ");
        rows_of(&mut sql, family, matchers, window);
        let mut answer = table::stream(engine, sql, &mut found.notes).await?;
        while let Some(rows) = answer.next().await.transpose()? {
            let keys = key.of(&rows)?;
            for row in 0..rows.num_rows() {
                keys.write(row, &mut text);
                let pairs = key.labels(&text);
                for metric in &metrics {
                    let bounds = match metric.part {
                        Part::Buckets(_) if bounds_are_known => &bounds[..bounds.len().min(1)],
                        Part::Buckets(_) => &bounds[..],
                        _ => &[Cow::Borrowed("")],
                    };
                    let sets = bounds.iter().map(|le| metric.labels(&pairs, Some(le)));
                    let mut any = false;
                    for labels in sets.filter(|labels| Matcher::all(matchers, labels)) {
                        found.insert(labels)?;
                        any = true;
                    }
                    // All buckets have the same bounds: for names and values those of one key are enough.
                    let is_whole = any && matches!(metric.part, Part::Buckets(_));
                    bounds_are_known |= is_whole && found.about != About::Sets;
                }
            }
        }
    }
    Ok(())
}

/// What the metrics made here are.
pub(super) fn metadata() -> Vec<(String, Metadata)> {
    let all = FAMILIES.iter().flat_map(|family| family.metrics);
    let described = all.filter(|metric| !metric.kind.is_empty());
    described
        .map(|metric| {
            let metadata = Metadata {
                kind: metric.kind,
                help: metric.help.to_owned(),
                unit: String::new(),
            };
            (metric.name.to_owned(), metadata)
        })
        .collect()
}

/// `from` and `where`: slices that end in the window.
pub(super) fn rows_of(sql: &mut Sql, family: &Family, matchers: &[Matcher], window: Window) {
    let all = Piece {
        table: family.table,
        slice_ms: SLICE_MAX_MS,
        windows: vec![window],
    };
    rows_from(sql, &all, None, family, matchers);
}

/// The same for a piece; of its slices those of which `part` is true.
fn rows_from(sql: &mut Sql, piece: &Piece<'_>, part: Option<&str>, family: &Family, matchers: &[Matcher]) {
    sql.push(" from ").push(piece.table).push(" where ");
    // First what leaves the fewest rows: the rest is then looked at of those alone.
    if let Some(part) = part {
        sql.push(part).push(" and ");
    }
    for (number, Window { after_ms, upto_ms }) in piece.windows.iter().enumerate() {
        sql.push(if number == 0 { "(" } else { " or " });
        sql.push("ts >= ").time(after_ms.saturating_sub(piece.slice_ms));
        sql.push(" and ts < ").time(*upto_ms);
        let us = |ms: &i64| ms.saturating_mul(1000);
        sql.push(&format!(
            " and {END} > ({}) and {END} <= ({})",
            us(after_ms),
            us(upto_ms)
        ));
    }
    sql.push(")");
    sql.push(family.only);
    for matcher in matchers {
        if let Some((_, column)) = family.keys.iter().find(|(label, _)| *label == matcher.name)
            && let Some(values) = super::table::only(matcher)
        {
            sql.among(column, values.iter().map(|value| &**value));
        }
    }
}

impl Family {
    /// The metrics whose names the matchers let through.
    pub(super) fn selected<'f>(&'f self, matchers: &[Matcher]) -> impl Iterator<Item = &'f Metric> {
        self.metrics.iter().filter(move |metric| may_be(matchers, metric.name))
    }
}

impl Metric {
    pub(super) fn labels(&self, pairs: &Labels, le: Option<&str>) -> Labels {
        let own = [(METRIC_NAME, self.name), ("le", le.unwrap_or_default())];
        let pairs = pairs.iter().map(|label| (&*label.name, &*label.value));
        pairs.chain(own).collect()
    }
}
