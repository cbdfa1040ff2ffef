//! What the log says of a file's values, and what we write there.
//!
//! The statistics JSON of Delta cuts timestamps to milliseconds. A largest time cut down would prune files that hold the row,
//! so it is rounded up when written, and the exact microseconds ride in the Add's tags. Strings are cut to [`TEXT_BYTES`],
//! a largest one with a character above all others put after the cut.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute;
use arrow::datatypes::{
    DataType, Int8Type, Int16Type, Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType,
};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value as Json, json};

use crate::{Error, ErrorKind, Result};

/// Strings in statistics are cut to this many bytes.
const TEXT_BYTES: usize = 64;

/// Before the name of a column in tags: the smallest and largest exact value, in microseconds.
const TAG_EXACT: &str = "tailwater.us.";

/// A bound of a column.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub enum Value {
    /// Integers; timestamps in microseconds since 1970.
    Int(i64),
    /// Strings. A bound may be shorter than the value it bounds.
    Text(Arc<str>),
}

/// What is known of a column in a file. Bounds may be wider than the values, never narrower.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnRange {
    /// Column name.
    pub column: Arc<str>,
    /// No value is smaller; `None` if unknown or if all are null.
    pub min: Option<Value>,
    /// No value is larger; `None` if unknown or if all are null.
    pub max: Option<Value>,
    /// How many are null; `None` if unknown.
    pub nulls: Option<u64>,
}

/// Gathers the statistics of a file while it is written.
#[derive(Debug)]
pub(crate) struct Collector {
    columns: Vec<(usize, ColumnRange)>,
    rows: u64,
}

impl Collector {
    /// For the columns of `names` that `schema` has.
    pub fn new(schema: &Schema, names: &[&str]) -> Collector {
        let columns = names.iter().filter_map(|name| {
            let range = ColumnRange {
                column: Arc::from(*name),
                min: None,
                max: None,
                nulls: Some(0),
            };
            Some((schema.index_of(name).ok()?, range))
        });
        Collector {
            columns: columns.collect(),
            rows: 0,
        }
    }

    /// Takes the next rows into account.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a column of a type that has no bounds; the layout names none.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        for (index, range) in &mut self.columns {
            let column = rows.column(*index);
            range.nulls = range.nulls.map(|nulls| nulls + column.null_count() as u64);
            let Some((min, max)) = bounds(column.as_ref())? else {
                continue;
            };
            if range.min.as_ref().is_none_or(|known| min < *known) {
                range.min = Some(min);
            }
            if range.max.as_ref().is_none_or(|known| max > *known) {
                range.max = Some(max);
            }
        }
        Ok(())
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The statistics JSON and the tags of an Add.
    pub fn finish(&self, schema: &Schema) -> (String, HashMap<String, Option<String>>) {
        let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
        let mut tags = HashMap::new();
        for (index, range) in &self.columns {
            let name = range.column.to_string();
            if let Some(count) = range.nulls {
                nulls.insert(name.clone(), json!(count));
            }
            let (Some(low), Some(high)) = (&range.min, &range.max) else {
                continue;
            };
            let is_time = matches!(schema.field(*index).data_type(), DataType::Timestamp(..));
            let texts = match (low, high) {
                (Value::Int(low), Value::Int(high)) if is_time => {
                    tags.insert(format!("{TAG_EXACT}{name}"), Some(format!("{low},{high}")));
                    millis(low.div_euclid(1000)).zip(millis(-(-high).div_euclid(1000)))
                }
                (Value::Int(low), Value::Int(high)) => Some((json!(low), json!(high))),
                (Value::Text(low), Value::Text(high)) => Some((json!(cut(low)), json!(cut_up(high)))),
                _ => None,
            };
            if let Some((low, high)) = texts {
                min.insert(name.clone(), low);
                max.insert(name, high);
            }
        }
        let stats = json!({ "numRecords": self.rows, "minValues": min, "maxValues": max, "nullCount": nulls });
        (stats.to_string(), tags)
    }
}

fn bounds(column: &dyn Array) -> Result<Option<(Value, Value)>> {
    macro_rules! ints {
        ($kind:ty) => {{
            let column = column.as_primitive::<$kind>();
            compute::min(column)
                .zip(compute::max(column))
                .map(|(min, max)| (Value::Int(min.into()), Value::Int(max.into())))
        }};
    }
    Ok(match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => ints!(TimestampMicrosecondType),
        DataType::Int64 => ints!(Int64Type),
        DataType::Int32 => ints!(Int32Type),
        DataType::Int16 => ints!(Int16Type),
        DataType::Int8 => ints!(Int8Type),
        DataType::Utf8 => {
            let column = column.as_string::<i32>();
            let text = |text: &str| Value::Text(Arc::from(text));
            compute::min_string(column)
                .zip(compute::max_string(column))
                .map(|(min, max)| (text(min), text(max)))
        }
        DataType::Dictionary(key, value) if **key == DataType::Int32 && **value == DataType::Utf8 => {
            // A dictionary may hold words that no row uses, and null may be said by a word.
            let column = column.as_dictionary::<Int32Type>();
            let words = column.values().as_string::<i32>();
            let mut used = vec![false; words.len()];
            column.keys().iter().flatten().for_each(|key| used[key as usize] = true);
            let mut words = words.iter().zip(used).filter_map(|(word, used)| word.filter(|_| used));
            let text = |text: &str| Value::Text(Arc::from(text));
            words.next().map(|first| {
                let (min, max) = words.fold((first, first), |(min, max), word| (min.min(word), max.max(word)));
                (text(min), text(max))
            })
        }
        other => {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("no statistics for columns of type {other}"),
            ));
        }
    })
}

fn millis(millis: i64) -> Option<Json> {
    Some(json!(
        DateTime::from_timestamp_millis(millis)?.to_rfc3339_opts(SecondsFormat::Millis, true)
    ))
}

pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES)]
}

pub(super) fn cut_up(text: &str) -> String {
    let short = cut(text);
    if short.len() == text.len() {
        short.to_owned()
    } else {
        format!("{short}{}", char::MAX)
    }
}

/// What an Add says of its columns. Unreadable statistics are no statistics.
pub(super) fn parse(
    schema: &Schema,
    stats: Option<&str>,
    tags: Option<&HashMap<String, Option<String>>>,
) -> (Option<u64>, Vec<ColumnRange>) {
    let stats: Json = stats
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Json::Null);
    let rows = stats["numRecords"].as_u64();
    let (Some(min), Some(max)) = (stats["minValues"].as_object(), stats["maxValues"].as_object()) else {
        return (rows, Vec::new());
    };
    let nulls = &stats["nullCount"];
    let mut ranges = Vec::new();
    for field in schema.fields() {
        let name = field.name().as_str();
        let exact = tags
            .and_then(|tags| tags.get(&format!("{TAG_EXACT}{name}"))?.as_deref())
            .and_then(exact);
        let (low, high) = match exact {
            Some((low, high)) => (Some(Value::Int(low)), Some(Value::Int(high))),
            None => (
                min.get(name).and_then(|json| value(field.data_type(), json, 0)),
                // Another writer may have cut the milliseconds off instead of rounding up.
                max.get(name).and_then(|json| value(field.data_type(), json, 999)),
            ),
        };
        let nulls = nulls[name].as_u64();
        if low.is_some() || high.is_some() || nulls.is_some() {
            ranges.push(ColumnRange {
                column: Arc::from(name),
                min: low,
                max: high,
                nulls,
            });
        }
    }
    (rows, ranges)
}

fn exact(text: &str) -> Option<(i64, i64)> {
    let (low, high) = text.split_once(',')?;
    Some((low.parse().ok()?, high.parse().ok()?))
}

fn value(kind: &DataType, json: &Json, widen_us: i64) -> Option<Value> {
    match kind {
        DataType::Timestamp(..) => {
            let time = DateTime::parse_from_rfc3339(json.as_str()?).ok()?;
            Some(Value::Int(time.timestamp_micros().saturating_add(widen_us)))
        }
        DataType::Int64 | DataType::Int32 | DataType::Int16 | DataType::Int8 => json.as_i64().map(Value::Int),
        DataType::Utf8 => json.as_str().map(|text| Value::Text(Arc::from(text))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;

    fn batch(times: Vec<Option<i64>>, texts: Vec<Option<String>>) -> RecordBatch {
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"));
        let texts: ArrayRef = Arc::new(StringArray::from(texts));
        RecordBatch::try_from_iter_with_nullable([("ts", times, true), ("text", texts, true)]).unwrap()
    }

    proptest! {
        /// Bounds never exclude a value, whether read with our tags or, as other engines do, without them.
        #[test]
        fn bounds_hold_every_value(rows in proptest::collection::vec(
            (proptest::option::of(-4_000_000_000_000_000i64..8_000_000_000_000_000), proptest::option::of(".{0,80}")), 1..20)
        ) {
            let (times, texts): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            let batch = batch(times.clone(), texts.clone());
            let schema = batch.schema();
            let mut collector = Collector::new(&schema, &["ts", "text"]);
            collector.add(&batch).unwrap();
            let (stats, tags) = collector.finish(&schema);
            for tags in [Some(&tags), None] {
                let (rows, ranges) = parse(&schema, Some(&stats), tags);
                prop_assert_eq!(rows, Some(times.len() as u64));
                let ts = ranges.iter().find(|range| &*range.column == "ts").unwrap();
                prop_assert_eq!(ts.nulls, Some(times.iter().filter(|time| time.is_none()).count() as u64));
                for time in times.iter().flatten() {
                    prop_assert!(ts.min.clone().unwrap() <= Value::Int(*time) && Value::Int(*time) <= ts.max.clone().unwrap());
                }
                if tags.is_some() {
                    prop_assert_eq!(ts.max.clone(), times.iter().flatten().max().map(|time| Value::Int(*time)));
                }
                let text = ranges.iter().find(|range| &*range.column == "text").unwrap();
                for value in texts.iter().flatten() {
                    let value = Value::Text(Arc::from(value.as_str()));
                    prop_assert!(text.min.clone().unwrap() <= value && value <= text.max.clone().unwrap());
                }
            }
        }
    }

    #[test]
    fn a_largest_time_is_rounded_up_in_json() {
        let batch = batch(
            vec![Some(1_700_000_000_000_001), Some(1_700_000_000_000_003)],
            vec![None, None],
        );
        let mut collector = Collector::new(&batch.schema(), &["ts"]);
        collector.add(&batch).unwrap();
        let (stats, _) = collector.finish(&batch.schema());
        let stats: Json = serde_json::from_str(&stats).unwrap();
        assert_eq!(stats["minValues"]["ts"], "2023-11-14T22:13:20.000Z");
        assert_eq!(stats["maxValues"]["ts"], "2023-11-14T22:13:20.001Z");
    }
}
