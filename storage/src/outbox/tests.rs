#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use proptest::prelude::*;
use tailwater_model::ids::BatchSeq;
use tailwater_model::table::{Table, frame_schema, schema};

use super::*;
use crate::ErrorKind;
use crate::testing::{frame_rows, row_texts};

/// One piece of memory aligned as a mapped segment is.
fn aligned(body: &[Bytes]) -> Bytes {
    let mut buffer = arrow::buffer::MutableBuffer::new(0);
    body.iter().for_each(|slice| buffer.extend_from_slice(slice));
    struct Owner(arrow::buffer::Buffer);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Owner(buffer.into()))
}

fn frames(encoded: &Encoded, seq: u64) -> (Head, Vec<FrameRef>) {
    let schemas = Arc::new(Schemas::parse(preamble()).unwrap());
    let head = Head::decode(encoded.head.clone()).unwrap();
    let body = aligned(&encoded.body);
    assert_eq!(body.len() as u64, encoded.body_len);
    assert_eq!(crc32c::crc32c(&body), encoded.body_crc);
    let frames = head
        .frames
        .iter()
        .map(|frame| FrameRef::new(BatchSeq(seq), frame.clone(), &body, schemas.clone()).unwrap());
    let frames = frames.collect();
    (head, frames)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the rows of whatever tables, they come back as they were, with their batch's number.
    #[test]
    fn round_trip(parts in proptest::collection::vec((0usize..Table::COLLECTED.len(), 0usize..200, any::<u64>()), 0..6), seq in 1u64..1 << 40) {
        let settlement = Bytes::from(vec![9; parts.len()]);
        let mut builder = BatchBuilder::new(settlement.clone());
        let mut given = Vec::new();
        for (table, rows, seed) in parts {
            let table = Table::COLLECTED[table];
            let rows = frame_rows(table, rows, seed);
            builder = builder.frame(table, &rows).unwrap();
            if rows.num_rows() > 0 {
                given.push((table, rows));
            }
        }
        let encoded = builder.finish();
        let (head, frames) = frames(&encoded, seq);
        prop_assert_eq!(head.settlement, settlement);
        prop_assert_eq!(frames.len(), given.len());
        for (frame, (table, rows)) in frames.iter().zip(&given) {
            prop_assert_eq!(frame.table(), *table);
            prop_assert_eq!(frame.head.offset % 64, 0);
            prop_assert_eq!(frame.head.len % 64, 0);
            let read = frame.read().unwrap();
            let last = read.num_columns() - 1;
            let kept: Vec<usize> = (0..last).collect();
            prop_assert_eq!(&read.project(&kept).unwrap(), rows);
            prop_assert!(read.column(last).as_primitive::<Int64Type>().values().iter().all(|id| *id == seq as i64));
            prop_assert_eq!(frame.read_as(&schema(*table)).unwrap().schema(), schema(*table));
        }
    }
}

#[test]
fn every_table_has_a_round_trip_and_nothing_is_copied() {
    for table in Table::COLLECTED {
        let rows = frame_rows(table, 500, 7);
        let encoded = BatchBuilder::new(Bytes::new()).frame(table, &rows).unwrap().finish();
        let (_, frames) = frames(&encoded, 3);
        let read = frames[0].read().unwrap();
        let lake = frames[0].read_as(&schema(table)).unwrap();
        assert_eq!(
            row_texts(table, &[lake]),
            row_texts(table, std::slice::from_ref(&read)),
            "{}",
            table.name()
        );

        // Every top-level buffer of the batch lies inside the frame's bytes.
        let frame = &frames[0].clone();
        let inside = frame.mapped().as_ptr_range();
        for (field, column) in frame_schema(table).fields().iter().zip(read.columns()) {
            for buffer in column.to_data().buffers().iter().filter(|buffer| !buffer.is_empty()) {
                assert!(
                    inside.contains(&buffer.as_ptr()),
                    "{}.{} was copied",
                    table.name(),
                    field.name()
                );
            }
        }
    }
}

#[test]
fn the_index_bounds_what_is_inside() {
    let rows = frame_rows(Table::Spans, 300, 11);
    let encoded = BatchBuilder::new(Bytes::new())
        .frame(Table::Spans, &rows)
        .unwrap()
        .finish();
    let (head, frames) = frames(&encoded, 1);
    let frame = &head.frames[0];
    let times = rows
        .column_by_name("ts")
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>()
        .clone();
    assert_eq!(
        frame.times,
        arrow::compute::min(&times).zip(arrow::compute::max(&times))
    );
    let (min, max) = frame.times.unwrap();
    assert!(
        frame.may_have_time(max, max + 5)
            && !frame.may_have_time(max + 1, max + 5)
            && !frame.may_have_time(min - 9, min - 1)
    );
    let lake = frames[0].read_as(&schema(Table::Spans)).unwrap();
    let services = lake.column_by_name("service_name").unwrap().as_string::<i32>().clone();
    for service in services.iter().flatten() {
        assert!(frame.may_have_service(service));
    }
    assert!(!frame.may_have_service("nobody"));
    let ids = lake.column_by_name("trace_id").unwrap().as_binary::<i32>().clone();
    assert!(ids.iter().flatten().all(|id| frame.may_have_trace(id)));
    let strangers = (0..1000u64)
        .filter(|n| frame.may_have_trace(&xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes()).to_le_bytes()))
        .count();
    assert!(strangers < 50, "{strangers} of 1000 foreign traces pass");
}

#[test]
fn every_flipped_bit_of_a_frame_is_damage() {
    let rows = frame_rows(Table::Ledger, 20, 5);
    let encoded = BatchBuilder::new(Bytes::new())
        .frame(Table::Ledger, &rows)
        .unwrap()
        .finish();
    let schemas = Arc::new(Schemas::parse(preamble()).unwrap());
    let head = Head::decode(encoded.head.clone()).unwrap();
    let body = encoded.body.concat();
    for at in (0..body.len()).step_by(97) {
        let mut broken = body.clone();
        broken[at] ^= 1 << (at % 8);
        let frame = FrameRef::new(
            BatchSeq(1),
            head.frames[0].clone(),
            &Bytes::from(broken),
            schemas.clone(),
        )
        .unwrap();
        assert_eq!(
            frame.read().unwrap_err().kind(),
            ErrorKind::Damaged,
            "bit {} of byte {at}",
            at % 8
        );
    }
    let short = FrameRef::new(
        BatchSeq(1),
        head.frames[0].clone(),
        &Bytes::from(body[..64].to_vec()),
        schemas,
    );
    assert_eq!(short.unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn a_head_cut_anywhere_is_damage_and_never_a_panic() {
    let rows = frame_rows(Table::Spans, 30, 5);
    let encoded = BatchBuilder::new(Bytes::from_static(b"settled"))
        .frame(Table::Spans, &rows)
        .unwrap()
        .finish();
    for len in 0..encoded.head.len() {
        assert_eq!(
            Head::decode(encoded.head.slice(..len)).unwrap_err().kind(),
            ErrorKind::Damaged,
            "{len} bytes"
        );
    }
    let mut long = encoded.head.to_vec();
    long.push(0);
    assert!(Head::decode(Bytes::from(long)).is_err());
}

#[test]
fn a_column_newer_than_the_segment_reads_as_null() {
    let rows = frame_rows(Table::Spans, 10, 5);
    let encoded = BatchBuilder::new(Bytes::new())
        .frame(Table::Spans, &rows)
        .unwrap()
        .finish();
    let (_, frames) = frames(&encoded, 1);
    let mut fields: Vec<_> = schema(Table::Spans).fields().iter().cloned().collect();
    fields.push(Arc::new(arrow::datatypes::Field::new("newer", DataType::Utf8, true)));
    let newer = Arc::new(arrow::datatypes::Schema::new(fields.clone()));
    let read = frames[0].read_as(&newer).unwrap();
    assert_eq!(read.column_by_name("newer").unwrap().null_count(), 10);
    let required = Arc::new(arrow::datatypes::Field::new("required", DataType::Utf8, false));
    fields.push(required);
    let impossible = Arc::new(arrow::datatypes::Schema::new(fields));
    assert_eq!(
        frames[0].read_as(&impossible).unwrap_err().kind(),
        ErrorKind::Incompatible
    );
}

#[test]
fn rows_of_another_schema_are_refused() {
    let rows = frame_rows(Table::Logs, 3, 5);
    let error = BatchBuilder::new(Bytes::new()).frame(Table::Spans, &rows).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
