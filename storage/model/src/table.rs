//! The tables of the lake: names, Arrow schemas, sort orders. `storage/FORMAT.md` says the same for outsiders.
//!
//! A table has two schemas with the same columns in the same order. [`schema`] is what Delta, Parquet and SQL show.
//! [`frame_schema`] is what an outbox frame holds: without `batch_id` (the frame's own sequence number), and with
//! dictionaries for words and for map keys and values. Casting a frame column to the type of its lake column
//! (`arrow::compute::cast`) is all a reader has to do.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

mod columns;
pub mod promote;

pub use columns::{Column, Kind};

/// A table of the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// One row a kept span.
    Spans = 1,
    /// Additive parts of traces; part 0 carries the count of one.
    Traces = 2,
    /// One row a log record.
    Logs = 3,
    /// One row a gauge or sum data point.
    MetricPoints = 4,
    /// One row a histogram, exponential histogram or summary data point.
    MetricDists = 5,
    /// First sight of a series, per day and collector.
    MetricSeries = 6,
    /// Where every received item ended.
    Ledger = 7,
    /// Rate, errors and durations of every operation, counted before sampling; additive.
    Red = 8,
    /// The same of calls from one service to another; additive.
    Edges = 9,
    /// What the sampler saw and kept in each of its ticks, by stratum.
    SamplingTicks = 10,
    /// What `red` adds up to in slices of 15 minutes. Made by `maintain`, from hours that are over.
    Red15m = 11,
    /// The same in slices of an hour.
    Red1h = 12,
}

impl Table {
    /// All tables: those that collectors write, then those that are derived from them.
    pub const ALL: [Table; 12] = [
        Table::Spans,
        Table::Traces,
        Table::Logs,
        Table::MetricPoints,
        Table::MetricDists,
        Table::MetricSeries,
        Table::Ledger,
        Table::Red,
        Table::Edges,
        Table::SamplingTicks,
        Table::Red15m,
        Table::Red1h,
    ];

    /// The tables that collectors write. Only their codes are stored.
    pub const COLLECTED: [Table; 10] = *Table::ALL.first_chunk().expect("collected tables come first");

    /// Name in SQL and on disk.
    pub fn name(self) -> &'static str {
        match self {
            Table::Spans => "spans",
            Table::Traces => "traces",
            Table::Logs => "logs",
            Table::MetricPoints => "metric_points",
            Table::MetricDists => "metric_dists",
            Table::MetricSeries => "metric_series",
            Table::Ledger => "ledger",
            Table::Red => "red",
            Table::Edges => "edges",
            Table::SamplingTicks => "sampling_ticks",
            Table::Red15m => "red_15m",
            Table::Red1h => "red_1h",
        }
    }

    /// Of a table that is derived from `red`: how wide its slices are, in seconds. They divide an hour.
    pub fn derived_slice_s(self) -> Option<u32> {
        match self {
            Table::Red15m => Some(900),
            Table::Red1h => Some(3600),
            _ => None,
        }
    }

    /// The table with this stored code.
    pub fn from_code(code: u8) -> Option<Table> {
        Table::COLLECTED.into_iter().find(|table| *table as u8 == code)
    }

    /// The table of this name.
    pub fn from_name(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// The table's columns in order, `batch_id` last.
pub fn columns(table: Table) -> impl Iterator<Item = &'static Column> {
    columns::groups(table).iter().flat_map(|group| group.iter())
}

/// Arrow schema of the table as Delta, Parquet and SQL show it.
pub fn schema(table: Table) -> SchemaRef {
    static SCHEMAS: LazyLock<Vec<SchemaRef>> =
        LazyLock::new(|| Table::ALL.map(|table| build(table, Form::Lake)).into());
    SCHEMAS[table as usize - 1].clone()
}

/// Arrow schema of the table's outbox frames: [`schema`] without `batch_id`, words as dictionaries.
pub fn frame_schema(table: Table) -> SchemaRef {
    static SCHEMAS: LazyLock<Vec<SchemaRef>> =
        LazyLock::new(|| Table::ALL.map(|table| build(table, Form::Frame)).into());
    SCHEMAS[table as usize - 1].clone()
}

/// By which columns rows are sorted, ascending, nulls first. Tenant leads.
pub fn sort_columns(table: Table) -> &'static [&'static str] {
    match table {
        Table::Spans => &["tenant", "service_name", "name", "ts"],
        Table::Traces => &["tenant", "trace_id", "ts_min"],
        Table::Logs => &["tenant", "service_name", "ts"],
        Table::MetricPoints | Table::MetricDists => &["tenant", "metric_name", "series_id", "ts"],
        Table::MetricSeries => &["tenant", "metric_name", "series_id"],
        Table::Ledger => &["tenant", "signal", "account", "ts"],
        Table::Red | Table::Red15m | Table::Red1h => &["tenant", "service_name", "operation", "ts"],
        Table::Edges => &["tenant", "client_service", "server_service", "ts"],
        Table::SamplingTicks => &["tenant", "stratum", "ts"],
    }
}

/// The column that says when a row happened.
pub fn time_column(table: Table) -> &'static str {
    match table {
        Table::Spans
        | Table::Logs
        | Table::MetricPoints
        | Table::MetricDists
        | Table::Ledger
        | Table::Red
        | Table::Edges
        | Table::SamplingTicks
        | Table::Red15m
        | Table::Red1h => "ts",
        Table::Traces => "ts_min",
        Table::MetricSeries => "first_ts",
    }
}

/// Which of the two schemas.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Lake,
    Frame,
}

fn build(table: Table, form: Form) -> SchemaRef {
    let fields: Vec<Field> = columns(table)
        .filter(|column| form == Form::Lake || column.name != "batch_id")
        .map(|column| Field::new(column.name, data_type(column.kind, form), !column.required))
        .collect();
    Arc::new(Schema::new(fields))
}

fn data_type(kind: Kind, form: Form) -> DataType {
    match kind {
        Kind::Date => DataType::Date32,
        Kind::Ts => ts(),
        Kind::Text => DataType::Utf8,
        Kind::Word => word(form),
        Kind::Bytes => DataType::Binary,
        Kind::Bool => DataType::Boolean,
        Kind::I8 => DataType::Int8,
        Kind::I16 => DataType::Int16,
        Kind::I32 => DataType::Int32,
        Kind::I64 => DataType::Int64,
        Kind::F64 => DataType::Float64,
        Kind::MapWord => map(word(form), form),
        Kind::MapI64 => map(DataType::Int64, form),
        Kind::MapF64 => map(DataType::Float64, form),
        Kind::MapBool => map(DataType::Boolean, form),
        Kind::ListWord => list(word(form)),
        Kind::ListI64 => list(DataType::Int64),
        Kind::ListF64 => list(DataType::Float64),
        Kind::Events => list(DataType::Struct(Fields::from(vec![
            Field::new("ts", ts(), false),
            Field::new("ts_ns", DataType::Int16, false),
            Field::new("name", word(form), false),
            Field::new("attrs", map(word(form), form), false),
            Field::new("dropped", DataType::Int32, false),
        ]))),
        Kind::Links => list(DataType::Struct(Fields::from(vec![
            Field::new("trace_id", DataType::Binary, false),
            Field::new("span_id", DataType::Binary, false),
            Field::new("trace_state", word(form), true),
            Field::new("flags", DataType::Int32, false),
            Field::new("attrs", map(word(form), form), false),
            Field::new("dropped", DataType::Int32, false),
        ]))),
        Kind::Exemplars => list(DataType::Struct(Fields::from(vec![
            Field::new("ts", ts(), false),
            Field::new("ts_ns", DataType::Int16, false),
            Field::new("value", DataType::Float64, true),
            Field::new("trace_id", DataType::Binary, true),
            Field::new("span_id", DataType::Binary, true),
            Field::new("attrs", map(word(form), form), false),
        ]))),
        Kind::Quantiles => list(DataType::Struct(Fields::from(vec![
            Field::new("q", DataType::Float64, false),
            Field::new("v", DataType::Float64, false),
        ]))),
        Kind::Registers => list(DataType::Struct(Fields::from(vec![
            Field::new("threshold_ns", DataType::Int64, false),
            Field::new("le_count", DataType::Int64, false),
        ]))),
    }
}

fn ts() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn word(form: Form) -> DataType {
    match form {
        Form::Lake => DataType::Utf8,
        Form::Frame => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
    }
}

// Names inside maps and lists are those of Parquet's specification and of delta-kernel, so that no reader has to rename.
fn map(value: DataType, form: Form) -> DataType {
    let entry = Fields::from(vec![
        Field::new("key", word(form), false),
        Field::new("value", value, true),
    ]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false)
}

fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, false)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_have_the_lakes_columns_but_batch_id() {
        for table in Table::ALL {
            let (lake, frame) = (schema(table), frame_schema(table));
            assert_eq!(lake.fields().last().unwrap().name(), "batch_id", "{}", table.name());
            let names = |schema: &SchemaRef| {
                schema
                    .fields()
                    .iter()
                    .map(|field| field.name().clone())
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                names(&lake)[..lake.fields().len() - 1],
                names(&frame)[..],
                "{}",
                table.name()
            );
            for (lake, frame) in lake.fields().iter().zip(frame.fields()) {
                assert!(
                    arrow::compute::can_cast_types(frame.data_type(), lake.data_type()),
                    "{}.{}",
                    table.name(),
                    lake.name()
                );
                assert_eq!(lake.is_nullable(), frame.is_nullable());
            }
        }
    }

    #[test]
    fn names_are_unique_and_every_column_is_described() {
        for table in Table::ALL {
            let mut seen = std::collections::HashSet::new();
            for column in columns(table) {
                assert!(seen.insert(column.name), "{}.{} twice", table.name(), column.name);
                assert!(column.doc.ends_with('.'), "{}.{}", table.name(), column.name);
            }
        }
    }

    #[test]
    fn sort_and_time_and_promoted_columns_exist() {
        for table in Table::ALL {
            let schema = schema(table);
            assert_eq!(sort_columns(table)[0], "tenant");
            for name in sort_columns(table).iter().chain([&time_column(table)]) {
                assert!(schema.field_with_name(name).is_ok(), "{}.{name}", table.name());
            }
            for promotion in promote::item(table) {
                let field = schema.field_with_name(promotion.column).unwrap();
                let want = match promotion.want {
                    promote::Want::Str => DataType::Utf8,
                    promote::Want::Int => DataType::Int32,
                };
                assert_eq!(field.data_type(), &want, "{}.{}", table.name(), promotion.column);
            }
        }
        for table in [Table::Spans, Table::Logs, Table::MetricPoints, Table::MetricDists] {
            for promotion in promote::RESOURCE {
                assert!(
                    schema(table).field_with_name(promotion.column).is_ok(),
                    "{}.{}",
                    table.name(),
                    promotion.column
                );
            }
        }
    }
}
