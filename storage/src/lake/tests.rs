#![allow(clippy::unwrap_used)]
use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::testing::{TODAY, lake_rows, row_texts};

pub(crate) const APP: &str = "collector/test/x";

/// All rows of a table in the lake schema, read file by file with its partition put back.
pub(crate) async fn rows(lake: &Lake, table: Table) -> Vec<RecordBatch> {
    use arrow::array::{ArrayRef, Date32Array};
    let snapshot = lake.snapshot(table).await.unwrap();
    let mut out = Vec::new();
    for file in snapshot.files() {
        let path = object_store::path::Path::from(&*file.path);
        let bytes = object_store::ObjectStoreExt::get(&*lake.table_store(table), &path).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.size);
        let mut count = 0;
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            count += batch.num_rows() as u64;
            let date: ArrayRef = Arc::new(Date32Array::from_value(file.date, batch.num_rows()));
            let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
            fields.push(Arc::new(arrow::datatypes::Field::new("date", arrow::datatypes::DataType::Date32, false)));
            let mut columns = batch.columns().to_vec();
            columns.push(date);
            out.push(RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap());
        }
        assert_eq!(count, file.rows);
    }
    out
}

pub(crate) async fn lake() -> (tempfile::TempDir, Lake) {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(&dir.path().join("lake")).unwrap();
    lake.ensure_tables().await.unwrap();
    (dir, lake)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_once_with_protocol_1_2_and_our_properties() {
    let (_dir, lake) = lake().await;
    lake.ensure_tables().await.unwrap();
    for table in Table::ALL {
        let snapshot = lake.snapshot(table).await.unwrap();
        assert_eq!((snapshot.version, snapshot.files().len()), (0, 0), "{}", table.name());
        assert_eq!(snapshot.schema, tailwater_model::table::schema(table), "{}", table.name());
        let entry = lake.log(table).read_commit_entry(0).await.unwrap().unwrap();
        let text = std::str::from_utf8(&entry).unwrap();
        assert!(text.contains(r#""minReaderVersion":1,"minWriterVersion":2"#), "{text}");
        assert!(text.contains("interval 6 hours") && text.contains("interval 2 days"), "{text}");
        assert!(!text.contains("setTransactionRetentionDuration"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_committed_are_rows_read_for_every_table() {
    let (_dir, lake) = lake().await;
    for table in Table::ALL {
        let committer = lake.committer(table, APP);
        assert_eq!(committer.version().await.unwrap(), 0);
        let first = vec![lake_rows(table, 300, 1, TODAY, 1), lake_rows(table, 200, 2, TODAY, 2), lake_rows(table, 7, 3, TODAY - 1, 2)];
        let done = committer.commit(0, 2, first.clone()).await.unwrap();
        assert_eq!((done.version, done.attempts), (1, 1));
        assert_eq!(committer.version().await.unwrap(), 2);
        let second = vec![lake_rows(table, 50, 4, TODAY, 3)];
        committer.commit(2, 3, second.clone()).await.unwrap();
        let expected: Vec<RecordBatch> = first.into_iter().chain(second).collect();
        let read = rows(&lake, table).await;
        if table == Table::Ledger {
            continue; // Summed: has a test of its own.
        }
        assert_eq!(row_texts(table, &read), row_texts(table, &expected), "{}", table.name());
        let snapshot = lake.snapshot(table).await.unwrap();
        assert_eq!(snapshot.files().iter().map(|file| file.date).collect::<Vec<_>>(), [TODAY - 1, TODAY, TODAY]);
        assert!(snapshot.files().iter().all(|file| file.sorted && file.tier == Tier::Flushed));
        // A reader that has never seen the table comes to the same state.
        let fresh = Lake::open_url(lake.url()).unwrap().snapshot(table).await.unwrap();
        let mut known: Vec<_> = snapshot.files().to_vec();
        let mut loaded: Vec<_> = fresh.files().to_vec();
        known.sort_by(|a, b| a.path.cmp(&b.path));
        loaded.sort_by(|a, b| a.path.cmp(&b.path));
        assert_eq!(known, loaded);
        assert_eq!(fresh.txn(APP), Some(3));
    }
}
