//! Values of a table as plain data, so that expected and actual rows are compared and printed one column at a time.

use std::collections::BTreeMap;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, DictionaryArray, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int32Type, TimeUnit};
use arrow::record_batch::RecordBatch;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tailwater_model::signal::Signal;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Bool(bool),
    /// Integers of any width, dates in days, timestamps in us.
    Int(i64),
    /// Bits of a double: NaN equals itself, -0 does not equal 0.
    Double(u64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Cell>),
    Map(Vec<(String, Cell)>),
    Struct(Vec<(String, Cell)>),
    /// Only expected: anything but null.
    Some,
    /// Only expected: the OTLP-JSON text of this value, however it is spelled. See [`canonical`].
    Json(String),
}

/// Columns by name.
pub type Row = BTreeMap<String, Cell>;

impl Cell {
    pub fn text(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }

    pub fn text_or_null(text: &str) -> Cell {
        if text.is_empty() { Cell::Null } else { Cell::text(text) }
    }

    pub fn double(value: f64) -> Cell {
        Cell::Double(value.to_bits())
    }

    /// Whether an actual value is what was expected.
    pub fn is(&self, actual: &Cell) -> bool {
        match (self, actual) {
            (Cell::Some, actual) => *actual != Cell::Null,
            (Cell::Json(expected), Cell::Text(actual)) => canonical_of_text(actual).as_ref() == Some(expected),
            (Cell::List(expected), Cell::List(actual)) => {
                expected.len() == actual.len()
                    && expected
                        .iter()
                        .zip(actual)
                        .all(|(expected, actual)| expected.is(actual))
            }
            (Cell::Map(expected), Cell::Map(actual)) | (Cell::Struct(expected), Cell::Struct(actual)) => {
                expected.len() == actual.len()
                    && expected
                        .iter()
                        .zip(actual)
                        .all(|(expected, actual)| expected.0 == actual.0 && expected.1.is(&actual.1))
            }
            (expected, actual) => expected == actual,
        }
    }
}

/// An AnyValue in one spelling: a missing value is an empty one, every NaN is the same, string indices mean nothing.
pub fn canonical(any: &AnyValue) -> String {
    match &any.value {
        None | Some(Value::StringValueStrindex(_)) => "empty".to_owned(),
        Some(Value::StringValue(text)) => format!("{text:?}"),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) if value.is_nan() => "double nan".to_owned(),
        Some(Value::DoubleValue(value)) => format!("double {:x}", value.to_bits()),
        Some(Value::BytesValue(bytes)) => format!("bytes {bytes:x?}"),
        Some(Value::ArrayValue(list)) => format!("{:?}", list.values.iter().map(canonical).collect::<Vec<_>>()),
        Some(Value::KvlistValue(list)) => {
            let pair = |pair: &opentelemetry_proto::tonic::common::v1::KeyValue| {
                (pair.key.clone(), canonical(&pair.value.clone().unwrap_or_default()))
            };
            format!("map {:?}", list.values.iter().map(pair).collect::<Vec<_>>())
        }
    }
}

/// [`canonical`] of an OTLP-JSON text, read back through the transcoder.
pub fn canonical_of_text(text: &str) -> Option<String> {
    let request = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{text}}}]}}]}}]}}"#);
    let bytes = tailwater_model::otlp::json::transcode(Signal::Logs, request.as_bytes(), 1 << 20).ok()?;
    let request = ExportLogsServiceRequest::decode(&bytes[..]).ok()?;
    Some(canonical(
        request.resource_logs[0].scope_logs[0].log_records[0].body.as_ref()?,
    ))
}

/// All rows of a batch.
pub fn rows(batch: &RecordBatch) -> Vec<Row> {
    let mut rows = vec![Row::new(); batch.num_rows()];
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        assert_eq!(field.data_type(), column.data_type(), "{}", field.name());
        assert!(
            field.is_nullable() || column.null_count() == 0,
            "{} is never null",
            field.name()
        );
        for (index, row) in rows.iter_mut().enumerate() {
            row.insert(field.name().clone(), cell(column, index));
        }
    }
    rows
}

fn cell(array: &ArrayRef, index: usize) -> Cell {
    if array.is_null(index) {
        return Cell::Null;
    }
    let any = array.as_any();
    macro_rules! value {
        ($array:ty) => {
            any.downcast_ref::<$array>().unwrap().value(index)
        };
    }
    match array.data_type() {
        DataType::Boolean => Cell::Bool(value!(BooleanArray)),
        DataType::Int8 => Cell::Int(value!(Int8Array).into()),
        DataType::Int16 => Cell::Int(value!(Int16Array).into()),
        DataType::Int32 => Cell::Int(value!(Int32Array).into()),
        DataType::Int64 => Cell::Int(value!(Int64Array)),
        DataType::Date32 => Cell::Int(value!(Date32Array).into()),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => {
            Cell::Int(value!(TimestampMicrosecondArray))
        }
        DataType::Float64 => Cell::double(value!(Float64Array)),
        DataType::Utf8 => Cell::text(value!(StringArray)),
        DataType::Binary => Cell::Bytes(value!(BinaryArray).to_vec()),
        DataType::Dictionary(_, _) => {
            let dictionary = any.downcast_ref::<DictionaryArray<Int32Type>>().unwrap();
            cell(dictionary.values(), dictionary.key(index).unwrap())
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>().value(index);
            Cell::List((0..list.len()).map(|index| cell(&list, index)).collect())
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            Cell::Struct(
                fields
                    .iter()
                    .zip(columns)
                    .map(|(field, column)| (field.name().clone(), cell(column, index)))
                    .collect(),
            )
        }
        DataType::Map(_, _) => {
            let entries = array.as_map().value(index);
            let (keys, values) = (entries.column(0), entries.column(1));
            let key = |index: usize| match cell(keys, index) {
                Cell::Text(key) => key,
                other => panic!("a map key is {other:?}"),
            };
            Cell::Map(
                (0..entries.len())
                    .map(|index| (key(index), cell(values, index)))
                    .collect(),
            )
        }
        other => panic!("no column has type {other}"),
    }
}

/// Panics unless the actual rows are the expected ones, in whatever order.
pub fn compare(table: &str, expected: &[Row], actual: &[Row]) {
    assert_eq!(expected.len(), actual.len(), "rows of {table}");
    let mut left: Vec<&Row> = actual.iter().collect();
    for (index, expected) in expected.iter().enumerate() {
        let differences = |actual: &Row| {
            let differing = |name: &&String| {
                !expected
                    .get(*name)
                    .zip(actual.get(*name))
                    .is_some_and(|(expected, actual)| expected.is(actual))
            };
            let names: std::collections::BTreeSet<String> = expected
                .keys()
                .chain(actual.keys())
                .filter(differing)
                .cloned()
                .collect();
            names
        };
        // The nearest row is the one that was meant; if even that one differs, it says how.
        let Some(nearest) = (0..left.len()).min_by_key(|place| differences(left[*place]).len()) else {
            unreachable!("as many rows")
        };
        let actual = left.swap_remove(nearest);
        let mut text = String::new();
        for name in differences(actual) {
            text.push_str(&format!(
                "\n  {name}\n    expected {:?}\n    actual   {:?}",
                expected.get(&name),
                actual.get(&name)
            ));
        }
        assert!(text.is_empty(), "row {index} of {table} differs in:{text}");
    }
}

/// Panics unless the rows ascend in these columns, nulls first.
pub fn assert_sorted(table: &str, columns: &[&str], rows: &[Row]) {
    let key = |row: &Row| -> Vec<(i64, Vec<u8>)> {
        let part = |name: &&str| match &row[*name] {
            Cell::Null => (i64::MIN, vec![]),
            Cell::Int(value) => (*value, vec![]),
            Cell::Text(text) => (0, text.clone().into_bytes()),
            Cell::Bytes(bytes) => (0, bytes.clone()),
            other => panic!("{table} is sorted by {name}, which is {other:?}"),
        };
        columns.iter().map(part).collect()
    };
    for pair in rows.windows(2) {
        assert!(key(&pair[0]) <= key(&pair[1]), "{table} is not sorted by {columns:?}");
    }
}
