//! Rows for tests: any schema, any seed.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Fields, Int32Type, TimeUnit};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::table::{Table, frame_schema, schema, sort_columns};

/// 2026-11-22 in days since 1970.
pub(crate) const TODAY: i32 = 20_779;
pub(crate) const DAY_US: i64 = 86_400_000_000;

/// Random rows in the frame schema, sorted in the table's order, dated `TODAY`.
pub(crate) fn frame_rows(table: Table, rows: usize, seed: u64) -> RecordBatch {
    sort(
        table,
        random(
            &frame_schema(table).fields().clone(),
            rows,
            &mut SmallRng::seed_from_u64(seed),
        ),
    )
}

/// Random rows in the lake schema, sorted, of this date and batch.
pub(crate) fn lake_rows(table: Table, rows: usize, seed: u64, date: i32, batch: i64) -> RecordBatch {
    let schema = schema(table);
    let random = random(schema.fields(), rows, &mut SmallRng::seed_from_u64(seed));
    let mut columns = random.columns().to_vec();
    columns[schema.index_of("date").unwrap()] = Arc::new(Date32Array::from_value(date, rows));
    columns[schema.index_of("batch_id").unwrap()] = Arc::new(Int64Array::from_value(batch, rows));
    sort(table, RecordBatch::try_new(schema, columns).unwrap())
}

/// As [`lake_rows`], with these tenants in turn.
pub(crate) fn tenant_rows(table: Table, rows: usize, date: i32, batch: i64, tenants: &[&str]) -> RecordBatch {
    let batch = lake_rows(table, rows, batch as u64, date, batch);
    let mut columns = batch.columns().to_vec();
    let tenants = StringArray::from_iter_values((0..rows).map(|row| tenants[row % tenants.len()]));
    columns[batch.schema().index_of("tenant").unwrap()] = Arc::new(tenants);
    sort(table, RecordBatch::try_new(batch.schema(), columns).unwrap())
}

/// The columns that the table is sorted by, alone: rows with equal keys may come in any order.
pub(crate) fn sort_keys(table: Table, batch: &RecordBatch) -> RecordBatch {
    let keys: Vec<usize> = sort_columns(table)
        .iter()
        .map(|name| batch.schema().index_of(name).unwrap())
        .collect();
    batch.project(&keys).unwrap()
}

pub(crate) fn sort(table: Table, batch: RecordBatch) -> RecordBatch {
    let columns: Vec<_> = sort_columns(table)
        .iter()
        .map(|name| arrow::compute::SortColumn {
            values: batch.column_by_name(name).unwrap().clone(),
            options: None,
        })
        .collect();
    let order = arrow::compute::lexsort_to_indices(&columns, None).unwrap();
    arrow::compute::take_record_batch(&batch, &order).unwrap()
}

/// The rows as sorted text, to compare sets of rows whatever their order, dictionaries and batches.
pub(crate) fn row_texts(table: Table, batches: &[RecordBatch]) -> Vec<String> {
    let schema = schema(table);
    let mut texts = Vec::new();
    for batch in batches {
        let batch = crate::outbox::as_schema(batch, &schema).unwrap();
        let mut lines = arrow::json::LineDelimitedWriter::new(Vec::new());
        lines.write(&batch).unwrap();
        lines.finish().unwrap();
        texts.extend(
            String::from_utf8(lines.into_inner())
                .unwrap()
                .lines()
                .map(str::to_owned),
        );
    }
    texts.sort();
    texts
}

fn random(fields: &Fields, rows: usize, rng: &mut SmallRng) -> RecordBatch {
    let columns = fields.iter().map(|field| {
        let column = array(field.data_type(), rows, field.is_nullable(), rng);
        match field.name().as_str() {
            "date" => Arc::new(Date32Array::from_value(TODAY, rows)) as ArrayRef,
            _ => column,
        }
    });
    let columns: Vec<ArrayRef> = columns.collect();
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields.clone())), columns).unwrap()
}

fn array(kind: &DataType, rows: usize, nullable: bool, rng: &mut SmallRng) -> ArrayRef {
    let nulls = nullable.then(|| NullBuffer::from_iter((0..rows).map(|_| rng.random_bool(0.8))));
    macro_rules! primitive {
        ($array:ty, $range:expr) => {
            Arc::new(<$array>::new(
                (0..rows).map(|_| rng.random_range($range)).collect(),
                nulls,
            ))
        };
    }
    let now = i64::from(TODAY) * DAY_US;
    match kind {
        DataType::Boolean => Arc::new(BooleanArray::new(
            (0..rows).map(|_| rng.random_bool(0.5)).collect(),
            nulls,
        )),
        DataType::Int8 => primitive!(Int8Array, 0..6),
        DataType::Int16 => primitive!(Int16Array, 0..1000),
        DataType::Int32 => primitive!(Int32Array, 0..100_000),
        DataType::Int64 => primitive!(Int64Array, 0..1 << 40),
        DataType::Float64 => primitive!(Float64Array, 0.0..1e9),
        DataType::Date32 => primitive!(Date32Array, TODAY..TODAY + 1),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let values = (0..rows).map(|_| now + rng.random_range(0..DAY_US)).collect();
            Arc::new(TimestampMicrosecondArray::new(values, nulls).with_timezone_opt(zone.clone()))
        }
        DataType::Utf8 => {
            let values: Vec<String> = (0..rows).map(|_| format!("t{}", rng.random_range(0..50))).collect();
            let (offsets, data, _) = StringArray::from(values).into_parts();
            Arc::new(StringArray::new(offsets, data, nulls))
        }
        DataType::Binary => {
            let values: Vec<[u8; 16]> = (0..rows).map(|_| rng.random()).collect();
            let (offsets, data, _) = BinaryArray::from_iter_values(values).into_parts();
            Arc::new(BinaryArray::new(offsets, data, nulls))
        }
        DataType::Dictionary(_, _) => {
            let words: usize = rng.random_range(1..20);
            let values = Arc::new(StringArray::from_iter_values(
                (0..words).map(|word| format!("w{word}-{}", rng.random_range(0..3))),
            ));
            let keys = Int32Array::new((0..rows).map(|_| rng.random_range(0..words as i32)).collect(), nulls);
            Arc::new(DictionaryArray::<Int32Type>::new(keys, values))
        }
        DataType::List(field) => {
            let offsets = offsets(rows, rng);
            let child = array(
                field.data_type(),
                *offsets.last().unwrap() as usize,
                field.is_nullable(),
                rng,
            );
            Arc::new(ListArray::new(field.clone(), offsets, child, nulls))
        }
        DataType::Map(field, sorted) => {
            let DataType::Struct(entry) = field.data_type() else {
                panic!("maps have struct entries")
            };
            let offsets = offsets(rows, rng);
            let entries = structs(entry, *offsets.last().unwrap() as usize, None, rng);
            // Keys of one map must differ for readers; numbering them within each row is enough.
            let mut keys = StringBuilder::new();
            for window in offsets.windows(2) {
                (window[0]..window[1]).for_each(|at| keys.append_value(format!("k{}", at - window[0])));
            }
            let keys = arrow::compute::cast(&keys.finish(), entry[0].data_type()).unwrap();
            let entries = StructArray::new(entry.clone(), vec![keys, entries.column(1).clone()], None);
            Arc::new(MapArray::new(field.clone(), offsets, entries, nulls, *sorted))
        }
        DataType::Struct(fields) => Arc::new(structs(fields, rows, nulls, rng)),
        other => panic!("no random {other}"),
    }
}

fn structs(fields: &Fields, rows: usize, nulls: Option<NullBuffer>, rng: &mut SmallRng) -> StructArray {
    let columns = fields
        .iter()
        .map(|field| array(field.data_type(), rows, field.is_nullable(), rng))
        .collect();
    StructArray::new(fields.clone(), columns, nulls)
}

fn offsets(rows: usize, rng: &mut SmallRng) -> OffsetBuffer<i32> {
    OffsetBuffer::from_lengths((0..rows).map(|_| rng.random_range(0..4)))
}
