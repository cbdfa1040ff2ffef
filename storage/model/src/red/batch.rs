//! Columns out of rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int8Array, Int32Array, Int64Array, ListArray, MapArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Fields};

use super::Exemplar;
use crate::rows::{integers, stored, times, words};
use crate::table::{Table, frame_schema};

pub(super) fn widths(seconds: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(seconds.map(|seconds| seconds as i32)))
}

pub(super) fn kinds(kinds: impl Iterator<Item = u8>) -> ArrayRef {
    Arc::new(Int8Array::from_iter_values(kinds.map(|kind| kind as i8)))
}

pub(super) fn sketches<'a>(sketches: impl Iterator<Item = &'a [u8]>) -> ArrayRef {
    Arc::new(BinaryArray::from_iter(
        sketches.map(|sketch| Some(sketch).filter(|sketch| !sketch.is_empty())),
    ))
}

fn element(table: Table, column: &str) -> (DataType, Fields) {
    let schema = frame_schema(table);
    let kind = schema
        .field_with_name(column)
        .expect("a column of the table")
        .data_type();
    let (DataType::List(field) | DataType::Map(field, _)) = kind else {
        panic!("{column} is a list or a map")
    };
    let DataType::Struct(fields) = field.data_type() else {
        panic!("{column} has structs")
    };
    (kind.clone(), fields.clone())
}

pub(super) fn word_map<'a, W: AsRef<str> + 'a>(
    table: Table,
    column: &str,
    rows: impl Iterator<Item = &'a [(W, W)]> + Clone,
) -> ArrayRef {
    let (kind, fields) = element(table, column);
    let DataType::Map(field, sorted) = kind else {
        panic!("{column} is a map")
    };
    let offsets = OffsetBuffer::from_lengths(rows.clone().map(<[_]>::len));
    let keys = words(rows.clone().flatten().map(|(key, _)| key.as_ref()));
    let values = words(rows.flatten().map(|(_, value)| value.as_ref()));
    let entries = StructArray::new(fields, vec![keys, values], None);
    Arc::new(MapArray::new(field, offsets, entries, None, sorted))
}

pub(super) fn registers<'a>(table: Table, rows: impl Iterator<Item = &'a [(u64, u64)]> + Clone) -> ArrayRef {
    let (kind, fields) = element(table, "registers");
    let DataType::List(field) = kind else {
        panic!("registers are a list")
    };
    let offsets = OffsetBuffer::from_lengths(rows.clone().map(<[_]>::len));
    let thresholds = integers(rows.clone().flatten().map(|(threshold, _)| *threshold));
    let counts = integers(rows.flatten().map(|(_, count)| *count));
    let entries = StructArray::new(fields, vec![thresholds, counts], None);
    Arc::new(ListArray::new(field, offsets, Arc::new(entries), None))
}

pub(super) fn exemplars(rows: impl Iterator<Item = Option<Exemplar>> + Clone) -> [ArrayRef; 5] {
    let number = |of: fn(Exemplar) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter(
            rows.clone().map(|one| one.map(|one| stored(of(one)))),
        ))
    };
    let kept: Vec<Option<Exemplar>> = rows.clone().collect();
    [
        number(|one| one.r),
        Arc::new(BinaryArray::from_iter(
            kept.iter().map(|one| one.as_ref().map(|one| one.trace.0.as_slice())),
        )),
        Arc::new(BinaryArray::from_iter(
            kept.iter().map(|one| one.as_ref().map(|one| one.span.0.as_slice())),
        )),
        times(rows.clone().map(|one| one.map(|one| one.end_ns))),
        number(|one| one.ns),
    ]
}
