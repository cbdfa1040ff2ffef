//! Exemplars that were sent with points.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
use tailwater_promql::Matcher;

use super::super::exemplars::{EXEMPLARS_MAX, Exemplar, Exemplars, ids};
use super::super::{Sql, Window, may_be, naming, table};
use super::{Stored, is_selected, points, sent, stored};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};

/// An exemplar is sent with a point that ends at most this much later, ms: a long time between two exports.
const POINT_LATER_MS: i64 = 300_000;

/// Adds the exemplars of the series that the matchers select, each under every name of the histogram that is asked for, without `le`.
pub(in crate::series) async fn exemplars(
    engine: &Engine,
    matchers: &[Matcher],
    window: Window,
    found: &mut Exemplars,
) -> Result<()> {
    let matchers: Vec<Matcher> = matchers.iter().filter(|one| one.name != "le").cloned().collect();
    let metrics = sent(engine, &matchers, window, &mut found.notes).await?;
    if metrics.is_empty() {
        return Ok(());
    }
    let names: BTreeSet<String> = metrics.into_iter().map(|(sent, _)| sent.name).collect();
    let all = stored(engine, Some(&names), window, &mut found.notes).await?;
    let selected: Vec<&Stored> = all.iter().filter(|stored| is_selected(stored, &matchers)).collect();
    if selected.is_empty() {
        return Ok(());
    }
    let by_id: HashMap<i64, &Stored> = selected.iter().map(|stored| (stored.id, *stored)).collect();
    let around = Window {
        upto_ms: window.upto_ms.saturating_add(POINT_LATER_MS),
        ..window
    };
    let mut gathered: Vec<(i64, Exemplar)> = Vec::new();
    for table in ["metric_points", "metric_dists"] {
        let mut sql = Sql::default();
        sql.push("select series_id, exemplars from ").push(table);
        points::in_window(&mut sql, around);
        points::of_series(&mut sql, &selected);
        sql.push(" and array_length(exemplars) > 0");
        for rows in table::read(engine, sql, &mut found.notes).await? {
            let series = table::integers(&rows, 0)?;
            for (row, exemplar) in parse(&rows)? {
                if exemplar.time_ms > window.after_ms && exemplar.time_ms <= window.upto_ms {
                    gathered.push((series.value(row), exemplar));
                }
            }
        }
    }
    if gathered.len() > EXEMPLARS_MAX {
        gathered.sort_by(|(_, a), (_, b)| b.value.total_cmp(&a.value));
        gathered.truncate(EXEMPLARS_MAX);
        found.notes.insert(format!(
            "only the {EXEMPLARS_MAX} exemplars with the largest values are shown"
        ));
    }
    for (id, exemplar) in gathered {
        let Some(stored) = by_id.get(&id) else { continue };
        for name in stored.sent.names() {
            let labels = stored.labels(&name[stored.sent.base.len()..], None);
            if may_be(&matchers, &name) && Matcher::all(&matchers, &labels) {
                found.series.entry(labels).or_default().push(exemplar.clone());
            }
        }
    }
    Ok(())
}

/// Row and exemplar; those without a value are left out.
fn parse(rows: &RecordBatch) -> Result<Vec<(usize, Exemplar)>> {
    let wrong = |what: &str| Error::new(ErrorKind::Internal, format!("exemplars: {what}"));
    let lists = rows.column(1).as_list_opt::<i32>().ok_or_else(|| wrong("no list"))?;
    let mut all = Vec::new();
    for row in 0..rows.num_rows() {
        let items = lists.value(row);
        let items = items.as_struct_opt().ok_or_else(|| wrong("no structs"))?;
        let column = |name: &str, to: &DataType| {
            let column = items.column_by_name(name).ok_or_else(|| wrong(name))?;
            arrow::compute::cast(column, to).map_err(|error| wrong(&error.to_string()))
        };
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let (times, values) = (column("ts", &micros)?, column("value", &DataType::Float64)?);
        let (traces, spans) = (
            column("trace_id", &DataType::Binary)?,
            column("span_id", &DataType::Binary)?,
        );
        let attrs = items.column_by_name("attrs").and_then(|attrs| attrs.as_map_opt());
        let (times, values) = (
            times.as_primitive::<TimestampMicrosecondType>(),
            values.as_primitive::<Float64Type>(),
        );
        let (traces, spans) = (traces.as_binary::<i32>(), spans.as_binary::<i32>());
        let id = |column: &arrow::array::BinaryArray, at: usize| match column.is_valid(at) {
            true => hex::encode(column.value(at)),
            false => String::new(),
        };
        for at in (0..items.len()).filter(|at| values.is_valid(*at)) {
            let mut labels = ids(&id(traces, at), &id(spans, at));
            if let Some(attrs) = attrs {
                let pairs = attrs.value(at);
                let texts = |column: usize| arrow::compute::cast(pairs.column(column), &DataType::Utf8);
                if let (Ok(keys), Ok(of_keys)) = (texts(0), texts(1)) {
                    let (keys, of_keys) = (keys.as_string::<i32>(), of_keys.as_string::<i32>());
                    for pair in 0..pairs.len() {
                        labels
                            .entry(naming::label(keys.value(pair)))
                            .or_insert_with(|| of_keys.value(pair).to_owned());
                    }
                }
            }
            all.push((
                row,
                Exemplar {
                    labels,
                    value: values.value(at),
                    time_ms: times.value(at).div_euclid(1000),
                },
            ));
        }
    }
    Ok(all)
}
