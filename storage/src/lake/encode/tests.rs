#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, DictionaryArray, Int32Array, ListArray, RecordBatch, StringArray, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute;
use arrow::datatypes::{Field, Int32Type};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::file::metadata::PageIndexPolicy;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::table::Table;

use super::*;
use crate::lake::{Tier, layout};
use crate::outbox::as_schema;
use crate::testing::frame_rows;

/// Stretches of random length from random batches, and the rows they stand for.
fn shuffled(batches: &[RecordBatch], rng: &mut SmallRng) -> Vec<Stretch> {
    let mut at: Vec<usize> = vec![0; batches.len()];
    let mut stretches = Vec::new();
    while let Some(open) = (0..batches.len()).find(|batch| at[*batch] < batches[*batch].num_rows()) {
        let batch = rng.random_range(open..batches.len());
        let left = batches[batch].num_rows() - at[batch];
        if left > 0 {
            let count = rng.random_range(1..=left.min(9));
            stretches.push(Stretch {
                batch,
                start: at[batch],
                count,
            });
            at[batch] += count;
        }
    }
    stretches
}

/// One file with a row group for each of the two halves of `stretches`.
fn written(table: Table, batches: &[RecordBatch], plans: &[Plan], stretches: &[Stretch], page_rows: usize) -> Bytes {
    let schema = batches[0].schema();
    let columns: Vec<usize> = (0..schema.fields().len()).collect();
    let parquet = parquet::arrow::ArrowSchemaConverter::new().convert(&schema).unwrap();
    let properties =
        layout::writer_properties(table, Tier::Flushed, &parquet, &HashSet::new(), layout::ROW_GROUP_BYTES);
    let options = || {
        ArrowWriterOptions::new()
            .with_properties(properties.clone())
            .with_skip_arrow_metadata(true)
    };
    let (mut file, _) = ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options())
        .unwrap()
        .into_serialized_writer()
        .unwrap();
    let own = Arc::new(schema.project(&library_columns(&columns, plans)).unwrap());
    let library = ArrowWriter::try_new_with_options(std::io::sink(), own, options()).unwrap();
    let (_, library) = library.into_serialized_writer().unwrap();
    let rows = Rows {
        schema: &schema,
        plans,
        columns: &columns,
        page_rows,
    };
    let mut maker = Pages::new(1).unwrap();
    for half in stretches.chunks(stretches.len().div_ceil(2)) {
        let runs = Runs {
            batches: batches.to_vec(),
            stretches: half.to_vec(),
            rows: half.iter().map(|stretch| stretch.count).sum(),
        };
        write_group(&mut file, &library, &runs, &rows, &mut maker).unwrap();
    }
    file.into_inner().unwrap().into()
}

fn read(file: Bytes) -> RecordBatch {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder
        .with_batch_size(1000)
        .build()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    compute::concat_batches(&schema, &batches).unwrap()
}

/// What is written is what was there, in the order of the stretches: for every table, for rows that differ in everything and
/// for rows that hardly differ, whatever the page size.
#[test]
fn what_is_written_is_read() {
    for table in Table::ALL {
        for seed in 0..12 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut batches: Vec<RecordBatch> = (0..4)
                .map(|batch| frame_rows(table, rng.random_range(1..80), seed * 10 + batch))
                .collect();
            if seed % 3 == 0 {
                // Every row as the first.
                let first = UInt32Array::from(vec![0; 50]);
                batches = vec![compute::take_record_batch(&batches[0], &first).unwrap(); 3];
            }
            if seed % 4 == 1 {
                batches = batches
                    .iter()
                    .map(|batch| batch.slice(batch.num_rows() / 3, batch.num_rows() / 2))
                    .collect();
                batches.retain(|batch| batch.num_rows() > 0);
            }
            if batches.is_empty() {
                continue;
            }
            let (batches, plans) = plan(batches).unwrap();
            let stretches = shuffled(&batches, &mut rng);
            let page_rows = [3, 64, 16_384][seed as usize % 3];
            let out = read(written(table, &batches, &plans, &stretches, page_rows));
            let parts: Vec<RecordBatch> = stretches
                .iter()
                .map(|stretch| {
                    as_schema(
                        &batches[stretch.batch].slice(stretch.start, stretch.count),
                        &out.schema(),
                    )
                    .unwrap()
                })
                .collect();
            let wanted = compute::concat_batches(&out.schema(), &parts).unwrap();
            for (field, (out, wanted)) in out
                .schema()
                .fields()
                .iter()
                .zip(out.columns().iter().zip(wanted.columns()))
            {
                assert_eq!(out, wanted, "{}.{} seed {seed}", table.name(), field.name());
            }
        }
    }
}

/// Words, maps of words and ids have writers here, and so has what every row says.
#[test]
fn few_columns_are_left_to_the_library() {
    let (_, plans) = plan(vec![frame_rows(Table::Spans, 200, 1)]).unwrap();
    assert!(plans.contains(&Plan::Words) && plans.contains(&Plan::WordMap) && plans.contains(&Plan::Ids));
    let rows = frame_rows(Table::Spans, 200, 1);
    let same = compute::take_record_batch(&rows, &UInt32Array::from(vec![7; 100])).unwrap();
    let (_, plans) = plan(vec![same]).unwrap();
    let same = plans.iter().filter(|plan| matches!(plan, Plan::Same(_))).count();
    assert!(same * 2 > plans.len(), "{plans:?}");
}

/// Nowhere on its way to the file is a word written out for each row that has it: this would be 2.6 GB, more than offsets reach.
#[test]
fn a_long_word_in_very_many_lists_is_written_once() {
    const ROWS: usize = 40_000;
    let words = DictionaryArray::<Int32Type>::new(
        Int32Array::from(vec![0; ROWS]),
        Arc::new(StringArray::from(vec!["A".repeat(1 << 16), "B".into()])),
    );
    let field = Arc::new(Field::new("item", words.data_type().clone(), false));
    let services = ListArray::new(field, OffsetBuffer::from_lengths(vec![1; ROWS]), Arc::new(words), None);
    let batch = RecordBatch::try_from_iter([("services", Arc::new(services) as ArrayRef)]).unwrap();
    let (batches, plans) = plan(vec![batch]).unwrap();
    let halves = [(0, ROWS / 2), (ROWS / 2, ROWS / 2)].map(|(start, count)| Stretch { batch: 0, start, count });
    let file = written(Table::Traces, &batches, &plans, &halves, 16_384);
    assert!(file.len() < 1 << 20, "{}", file.len());
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), ROWS as i64);
    let first = reader.with_batch_size(1).build().unwrap().next().unwrap().unwrap();
    let first = first.column(0).as_list::<i32>().value(0);
    assert_eq!(first.as_string::<i32>().value(0).len(), 1 << 16);
}
