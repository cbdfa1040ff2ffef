//! Requests made with prost, decoded into columns, read back as text.
#![allow(clippy::unwrap_used)]

mod agree;
mod kept;
mod logs;
mod metrics;
mod spans;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::RequestInfo;
use crate::table::{self, Table};

/// 2026-01-01T00:00:00Z.
pub(super) const NOW: u64 = 1_767_225_600_000_000_000;

pub(super) fn info(tenant: &str) -> RequestInfo<'_> {
    RequestInfo {
        tenant,
        arrival_ns: NOW,
        rejected: &[],
    }
}

pub(super) fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

pub(super) fn text(value: &str) -> Value {
    Value::StringValue(value.into())
}

pub(super) fn array(values: Vec<Value>) -> Value {
    Value::ArrayValue(ArrayValue {
        values: values.into_iter().map(any).collect(),
    })
}

pub(super) fn kvlist(pairs: Vec<(&str, Value)>) -> Value {
    Value::KvlistValue(KeyValueList { values: attrs(pairs) })
}

/// `levels` arrays around a number: `levels + 1` AnyValues.
pub(super) fn nest(levels: usize) -> Value {
    (0..levels).fold(Value::IntValue(1), |inner, _| array(vec![inner]))
}

pub(super) fn attrs(pairs: Vec<(&str, Value)>) -> Vec<KeyValue> {
    pairs
        .into_iter()
        .map(|(key, value)| KeyValue {
            key: key.into(),
            value: Some(any(value)),
            ..KeyValue::default()
        })
        .collect()
}

pub(super) fn resource(pairs: Vec<(&str, Value)>) -> Option<Resource> {
    Some(Resource {
        attributes: attrs(pairs),
        ..Resource::default()
    })
}

pub(super) fn scope(name: &str, version: &str) -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: name.into(),
        version: version.into(),
        ..InstrumentationScope::default()
    })
}

/// A cell as text: null, numbers in decimal, ids in hex, lists `[a, b]`, maps `{k: v}` in stored order.
pub(super) fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".into();
    }
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Dictionary(..) => cell(&cast(column, &DataType::Utf8).unwrap(), row),
        DataType::Binary => hex::encode(column.as_binary::<i32>().value(row)),
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        DataType::Date32 => column.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Timestamp(..) => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        DataType::List(_) => {
            let list = column.as_list::<i32>().value(row);
            let cells: Vec<String> = (0..list.len()).map(|index| cell(&list, index)).collect();
            format!("[{}]", cells.join(", "))
        }
        DataType::Struct(fields) => {
            let columns = column.as_struct().columns();
            let cells: Vec<String> = fields
                .iter()
                .zip(columns)
                .map(|(field, column)| format!("{}: {}", field.name(), cell(column, row)))
                .collect();
            format!("({})", cells.join(", "))
        }
        DataType::Map(..) => {
            let entries: ArrayRef = std::sync::Arc::new(column.as_map().value(row));
            let (keys, values) = (entries.as_struct().column(0), entries.as_struct().column(1));
            let cells: Vec<String> = (0..entries.len())
                .map(|index| format!("{}: {}", cell(keys, index), cell(values, index)))
                .collect();
            format!("{{{}}}", cells.join(", "))
        }
        other => panic!("no column has type {other}"),
    }
}

/// The cells of a column, top to bottom.
pub(super) fn column(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    (0..batch.num_rows()).map(|row| cell(column, row)).collect()
}

/// Checks columns of a batch of one row.
pub(super) fn check_row(batch: &RecordBatch, expect: &[(&str, &str)]) {
    assert_eq!(batch.num_rows(), 1);
    for (name, expect) in expect {
        assert_eq!(column(batch, name), [*expect], "{name}");
    }
}

/// What every batch owes its readers: the schema, the order, and that it survives IPC and a cast to the lake's types.
pub(super) fn check_sound(batch: &RecordBatch, table: Table) {
    assert_eq!(batch.schema(), table::frame_schema(table));
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        column
            .to_data()
            .validate_full()
            .unwrap_or_else(|error| panic!("{}: {error}", field.name()));
        let lake = table::schema(table)
            .field_with_name(field.name())
            .unwrap()
            .data_type()
            .clone();
        let cast = cast(column, &lake).unwrap_or_else(|error| panic!("{}: {error}", field.name()));
        assert_eq!(cast.data_type(), &lake);
        for row in 0..batch.num_rows() {
            assert_eq!(cell(&cast, row), cell(column, row), "{}", field.name());
        }
    }
    let keys: Vec<_> = table::sort_columns(table)
        .iter()
        .map(|name| {
            let values = batch.column_by_name(name).unwrap();
            let values = match values.data_type() {
                DataType::Dictionary(..) => cast(values, &DataType::Utf8).unwrap(),
                _ => values.clone(),
            };
            arrow::compute::SortColumn {
                values,
                options: Some(arrow::compute::SortOptions {
                    descending: false,
                    nulls_first: true,
                }),
            }
        })
        .collect();
    if batch.num_rows() > 0 {
        let comparator = arrow::compute::LexicographicalComparator::try_new(&keys).unwrap();
        for row in 1..batch.num_rows() {
            assert_ne!(
                comparator.compare(row - 1, row),
                std::cmp::Ordering::Greater,
                "rows {} and {row}",
                row - 1
            );
        }
    }
    let mut bytes = Vec::new();
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    let back = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    for name in batch.schema().fields().iter().map(|field| field.name()) {
        assert_eq!(column(&back, name), column(batch, name), "{name}");
    }
}
