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
        let bytes = object_store::ObjectStoreExt::get(&*lake.table_store(table), &path)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(bytes.len() as u64, file.size);
        let mut count = 0;
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap()
        {
            let batch = batch.unwrap();
            count += batch.num_rows() as u64;
            let date: ArrayRef = Arc::new(Date32Array::from_value(file.date, batch.num_rows()));
            let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
            fields.push(Arc::new(arrow::datatypes::Field::new(
                "date",
                arrow::datatypes::DataType::Date32,
                false,
            )));
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

#[test]
fn table_codes_are_dense_in_the_order_of_all() {
    for (place, table) in Table::ALL.into_iter().enumerate() {
        assert_eq!(table as usize, place + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_once_with_protocol_1_2_and_our_properties() {
    let (_dir, lake) = lake().await;
    lake.ensure_tables().await.unwrap();
    for table in Table::ALL {
        let snapshot = lake.snapshot(table).await.unwrap();
        assert_eq!((snapshot.version, snapshot.files().len()), (0, 0), "{}", table.name());
        assert_eq!(
            snapshot.schema,
            tailwater_model::table::schema(table),
            "{}",
            table.name()
        );
        let entry = lake.log(table).read_commit_entry(0).await.unwrap().unwrap();
        let text = std::str::from_utf8(&entry).unwrap();
        assert!(text.contains(r#""minReaderVersion":1,"minWriterVersion":2"#), "{text}");
        assert!(
            text.contains("interval 6 hours") && text.contains("interval 2 days"),
            "{text}"
        );
        assert!(!text.contains("setTransactionRetentionDuration"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_committed_are_rows_read_for_every_table() {
    let (_dir, lake) = lake().await;
    for table in Table::ALL {
        let committer = lake.committer(table, APP);
        assert_eq!(committer.version().await.unwrap(), 0);
        let first = vec![
            lake_rows(table, 300, 1, TODAY, 1),
            lake_rows(table, 200, 2, TODAY, 2),
            lake_rows(table, 7, 3, TODAY - 1, 2),
        ];
        let done = committer.commit(0, 2, first.clone()).await.unwrap();
        assert_eq!((done.version, done.attempts), (1, 1));
        assert_eq!(committer.version().await.unwrap(), 2);
        let second = vec![lake_rows(table, 50, 4, TODAY, 3)];
        committer.commit(2, 3, second.clone()).await.unwrap();
        let expected: Vec<RecordBatch> = first.into_iter().chain(second).collect();
        let read = rows(&lake, table).await;
        if super::additive::rule(table).is_some() {
            continue; // Summed: has tests of its own.
        }
        assert_eq!(row_texts(table, &read), row_texts(table, &expected), "{}", table.name());
        let snapshot = lake.snapshot(table).await.unwrap();
        assert_eq!(
            snapshot.files().iter().map(|file| file.date).collect::<Vec<_>>(),
            [TODAY - 1, TODAY, TODAY]
        );
        assert!(
            snapshot
                .files()
                .iter()
                .all(|file| file.sorted && file.tier == Tier::Flushed)
        );
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

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_syncs_data_then_entry_and_every_directory_of_both() {
    use crate::store::{SyncEvent, Syncs};
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap().join("lake/logs");
    let events = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = events.clone();
    let lake = Lake::open_recorded(
        &dir.path().join("lake"),
        Syncs::recorded(Arc::new(move |event| seen.lock().push(event))),
    )
    .unwrap();
    lake.ensure_tables().await.unwrap();
    events.lock().clear();
    lake.committer(Table::Logs, APP)
        .commit(0, 1, vec![lake_rows(Table::Logs, 9, 1, TODAY, 1)])
        .await
        .unwrap();
    let file = lake.snapshot(Table::Logs).await.unwrap().files()[0].path.clone();
    let data = root.join(&*file);
    let expected = vec![
        SyncEvent::Directory(root.clone()),
        SyncEvent::File(data.clone()),
        SyncEvent::Directory(data.parent().unwrap().to_path_buf()),
        SyncEvent::Forget(data),
        SyncEvent::File(root.join("_delta_log/00000000000000000001.json")),
        SyncEvent::Directory(root.join("_delta_log")),
    ];
    assert_eq!(*events.lock(), expected);
}

mod commits {
    use std::sync::atomic::Ordering;

    use futures::TryStreamExt;
    use object_store::ObjectStore;

    use super::*;
    use crate::faults::{Fault, FaultStore};

    /// A lake in memory whose store fails on demand.
    async fn faulty() -> (Arc<FaultStore>, Lake) {
        let store = FaultStore::new(Arc::new(object_store::memory::InMemory::new()));
        let lake = Lake::with_store(&"memory:///lake/".parse().unwrap(), store.clone()).unwrap();
        lake.ensure_tables().await.unwrap();
        (store, lake)
    }

    async fn data_files(lake: &Lake, table: Table) -> usize {
        let objects: Vec<_> = lake.table_store(table).list(None).try_collect().await.unwrap();
        objects
            .iter()
            .filter(|object| object.location.as_ref().ends_with(".parquet"))
            .count()
    }

    const TABLE: Table = Table::MetricSeries;

    async fn once(lake: &Lake, given: &[RecordBatch], hi: i64) {
        let snapshot = Lake::with_store(lake.url(), lake.store())
            .unwrap()
            .snapshot(TABLE)
            .await
            .unwrap();
        assert_eq!(snapshot.txn(APP), Some(hi));
        assert_eq!(row_texts(TABLE, &rows(lake, TABLE).await), row_texts(TABLE, given));
        assert_eq!(
            data_files(lake, TABLE).await,
            snapshot.files().len(),
            "no file without an entry"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_put_that_failed_or_seemed_to_stores_rows_once() {
        for faults in [
            vec![Fault::Before],
            vec![Fault::After],
            vec![Fault::AfterThenExists],
            vec![Fault::Before, Fault::Before, Fault::After],
        ] {
            let (store, lake) = faulty().await;
            let committer = lake.committer(TABLE, APP);
            let given = vec![lake_rows(TABLE, 40, 1, TODAY, 1)];
            *store.entries.lock() = faults.clone();
            let done = committer.commit(0, 1, given.clone()).await.unwrap();
            assert_eq!((done.version, done.rows, done.files), (1, 40, 1), "{faults:?}");
            once(&lake, &given, 1).await;
        }
    }

    /// The entry can be read, and the power may still take its name: neither this process nor the next one counts it.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_entry_counts_once_its_name_is_synced() {
        let is_broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (dir, broken) = (tempfile::tempdir().unwrap(), is_broken.clone());
        let syncs = Syncs::broken(move |directory| directory.ends_with("_delta_log") && broken.load(Ordering::SeqCst));
        let lake = Lake::open_recorded(dir.path(), syncs).unwrap();
        lake.ensure_tables().await.unwrap();
        let committer = lake.committer(TABLE, APP);
        let given = vec![lake_rows(TABLE, 40, 1, TODAY, 1)];
        is_broken.store(true, Ordering::SeqCst);
        let error = committer.commit(0, 1, given.clone()).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert_eq!(lake.snapshot(TABLE).await.unwrap().txn(APP), Some(1), "it is there");
        let error = lake.committer(TABLE, APP).version().await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        is_broken.store(false, Ordering::SeqCst);
        assert_eq!(committer.commit(0, 1, given.clone()).await.unwrap().version, 1);
        assert_eq!(committer.version().await.unwrap(), 1);
        once(&lake, &given, 1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn after_ten_failures_the_same_call_takes_up_what_is_encoded() {
        for landed in [false, true] {
            let (store, lake) = faulty().await;
            let committer = lake.committer(TABLE, APP);
            let given = vec![lake_rows(TABLE, 40, 1, TODAY, 1)];
            *store.entries.lock() = vec![Fault::Before; 10];
            if landed {
                // The last attempt reaches the log, and its reply and all reads after it are lost.
                *store.entries.lock() = [vec![Fault::Before; 9], vec![Fault::After]].concat();
            }
            let error = committer.commit(0, 1, given.clone()).await.unwrap_err();
            assert!(error.is_retryable(), "{error}");
            assert_eq!(
                data_files(&lake, TABLE).await,
                1,
                "the file stays: an entry may name it"
            );
            committer.commit(0, 1, given.clone()).await.unwrap();
            once(&lake, &given, 1).await;
            assert_eq!(lake.snapshot(TABLE).await.unwrap().version, 1);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_cannot_be_read_is_retried_and_a_failed_upload_leaves_no_commit() {
        let (store, lake) = faulty().await;
        let committer = lake.committer(TABLE, APP);
        let given = vec![lake_rows(TABLE, 40, 1, TODAY, 1)];
        store.reads.store(3, Ordering::SeqCst);
        committer.commit(0, 1, given.clone()).await.unwrap();
        *store.data.lock() = vec![Fault::Before];
        let error = committer
            .commit(1, 2, vec![lake_rows(TABLE, 9, 2, TODAY, 2)])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        assert_eq!(committer.version().await.unwrap(), 1);
        once(&lake, &given, 1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_that_cannot_be_encoded_leaves_no_file() {
        let (dir, lake) = super::lake().await;
        // The second date has no calendar day, so the first file is finished by then.
        let batches = vec![lake_rows(TABLE, 10, 1, TODAY, 1), lake_rows(TABLE, 10, 2, i32::MAX, 1)];
        let error = lake.committer(TABLE, APP).commit(0, 1, batches).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unwritable);
        assert_eq!(data_files(&lake, TABLE).await, 0);
        let path = dir.path().join("half.parquet");
        let half = crate::store::PacedFile::create(&path, &Syncs::default()).unwrap();
        assert!(path.exists());
        drop(half);
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_writer_of_the_same_name_is_fenced_and_cleans_up() {
        let (_store, lake) = faulty().await;
        let other = Lake::with_store(lake.url(), lake.store()).unwrap();
        let (ours, theirs) = (lake.committer(TABLE, APP), other.committer(TABLE, APP));
        let given = vec![lake_rows(TABLE, 40, 1, TODAY, 1)];
        theirs.commit(0, 1, given.clone()).await.unwrap();
        for (v, hi) in [(0, 1), (0, 2), (2, 3)] {
            let error = ours
                .commit(v, hi, vec![lake_rows(TABLE, 5, 9, TODAY, 1)])
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            assert!(error.to_string().contains("batch 1"), "{error}");
        }
        assert_eq!(
            ours.commit(3, 3, Vec::new()).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
        once(&lake, &given, 1).await;
    }

    /// Writers of different names race for versions; both of one name race for the same batch, and one of them wins.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn racing_committers_store_every_batch_once() {
        const BATCHES: u64 = 12;
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(dir.path()).unwrap();
        lake.ensure_tables().await.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4u64 {
            let lake = Lake::open(dir.path()).unwrap();
            writers.spawn(async move {
                // Two processes for each of two names.
                let name = format!("collector/{}/x", writer % 2);
                let committer = lake.committer(TABLE, name);
                let mut stored = Vec::new();
                loop {
                    let v = committer.version().await.unwrap();
                    if v == BATCHES {
                        return stored;
                    }
                    let rows = lake_rows(TABLE, 10, writer % 2 * 1000 + v, TODAY, v as i64 + 1);
                    match committer.commit(v, v + 1, vec![rows.clone()]).await {
                        Ok(_) => stored.push(rows),
                        Err(error) => assert!(
                            matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Conflict),
                            "{error}"
                        ),
                    }
                }
            });
        }
        let stored: Vec<RecordBatch> = writers.join_all().await.into_iter().flatten().collect();
        assert_eq!(stored.len() as u64, 2 * BATCHES);
        assert_eq!(row_texts(TABLE, &rows(&lake, TABLE).await), row_texts(TABLE, &stored));
        assert_eq!(lake.snapshot(TABLE).await.unwrap().version, 2 * BATCHES);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn equal_ledger_keys_become_one_row_per_commit() {
        let (_store, lake) = faulty().await;
        let rows_of = |batch| {
            let rows = lake_rows(Table::Ledger, 50, 1, TODAY, batch);
            assert!(rows.num_rows() == 50);
            rows
        };
        let committer = lake.committer(Table::Ledger, APP);
        // The same rows three times over, under three batch numbers.
        let done = committer
            .commit(0, 3, vec![rows_of(1), rows_of(2), rows_of(3)])
            .await
            .unwrap();
        assert_eq!(done.rows, 50);
        let read = rows(&lake, Table::Ledger).await;
        let sum = |batches: &[RecordBatch], name: &str| -> i64 {
            use arrow::array::AsArray;
            let column = |batch: &RecordBatch| {
                batch
                    .column_by_name(name)
                    .unwrap()
                    .as_primitive::<arrow::datatypes::Int64Type>()
                    .clone()
            };
            batches
                .iter()
                .map(|batch| arrow::compute::sum(&column(batch)).unwrap())
                .sum()
        };
        for name in ["items", "bytes"] {
            assert_eq!(sum(&read, name), 3 * sum(&[rows_of(1)], name), "{name}");
        }
        assert_eq!(
            lake.snapshot(Table::Ledger).await.unwrap().files()[0].int_range("batch_id"),
            Some((3, 3))
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn frames_with_dictionaries_and_frames_without_go_into_one_file() {
        let (_store, lake) = faulty().await;
        let plain = lake_rows(Table::Spans, 60, 1, TODAY, 1);
        let frame = crate::testing::frame_rows(Table::Spans, 80, 2);
        let mut fields: Vec<_> = frame.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(arrow::datatypes::Field::new(
            "batch_id",
            arrow::datatypes::DataType::Int64,
            false,
        )));
        let mut columns = frame.columns().to_vec();
        columns.push(Arc::new(arrow::array::Int64Array::from_value(2, 80)));
        let words = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap();
        let committer = lake.committer(Table::Spans, APP);
        committer
            .commit(0, 2, vec![plain.clone(), words.clone()])
            .await
            .unwrap();
        committer
            .commit(2, 3, vec![words.clone(), words.clone()])
            .await
            .unwrap();
        let read = rows(&lake, Table::Spans).await;
        assert_eq!(
            row_texts(Table::Spans, &read),
            row_texts(Table::Spans, &[plain, words.clone(), words.clone(), words])
        );
    }
}

mod columns {
    use deltalake_core::DeltaTable;
    use deltalake_core::kernel::{DataType as DeltaType, PrimitiveType, StructField};
    use deltalake_core::protocol::SaveMode;

    use super::*;

    /// A table as an older program left it: without the named columns, or with other types.
    async fn older(lake: &Lake, table: Table, change: impl Fn(StructField) -> Option<StructField>) {
        use deltalake_core::kernel::StructType;
        use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
        let columns: StructType = tailwater_model::table::schema(table)
            .as_ref()
            .try_into_kernel()
            .unwrap();
        DeltaTable::new(lake.log(table).clone())
            .create()
            .with_columns(columns.fields().cloned().filter_map(change))
            .with_partition_columns(["date"])
            .with_save_mode(SaveMode::ErrorIfExists)
            .await
            .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_nullable_column_is_added_to_an_existing_table_under_a_running_writer() {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(dir.path()).unwrap();
        let table = Table::Logs;
        older(&lake, table, |field| (field.name() != "event_name").then_some(field)).await;
        // A collector of the new program may meet the old table: its rows go in without the column.
        let committer = lake.committer(table, APP);
        let first = lake_rows(table, 20, 1, TODAY, 1);
        committer.commit(0, 1, vec![first.clone()]).await.unwrap();
        assert!(
            lake.snapshot(table)
                .await
                .unwrap()
                .schema
                .field_with_name("event_name")
                .is_err()
        );

        Lake::open(dir.path()).unwrap().ensure_tables().await.unwrap();
        let second = lake_rows(table, 30, 2, TODAY, 2);
        committer.commit(1, 2, vec![second.clone()]).await.unwrap();
        let snapshot = lake.snapshot(table).await.unwrap();
        let wanted = tailwater_model::table::schema(table);
        assert!(
            wanted
                .fields()
                .iter()
                .all(|field| snapshot.schema.field_with_name(field.name()).is_ok())
        );
        assert_eq!(snapshot.txn(APP), Some(2), "the transaction survives");
        let without: Vec<usize> = (0..wanted.fields().len())
            .filter(|index| wanted.field(*index).name() != "event_name")
            .collect();
        let read = row_texts(table, &rows(&lake, table).await);
        let expected = row_texts(table, &[first.project(&without).unwrap(), second]);
        assert_eq!(read, expected);
        // Merging fills the old rows with nulls.
        let mut policy = crate::maintain::Policy::of(table);
        policy.merge_files_min = 2;
        let turn = Arc::new(tokio::sync::Semaphore::new(1));
        let now = i64::from(TODAY) * crate::maintain::DAY_MS;
        let report = crate::maintain::Keeper::new(lake.clone(), table, policy, turn)
            .run_once(now)
            .await
            .unwrap();
        assert_eq!(report.merges, 1);
        assert_eq!(row_texts(table, &rows(&lake, table).await), expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_table_that_contradicts_ours_is_refused_by_name() {
        type Edit = fn(StructField) -> Option<StructField>;
        let cases: [(&str, Edit, &str); 3] = [
            (
                "type",
                |field| {
                    Some(if field.name() == "severity_number" {
                        StructField::nullable("severity_number", DeltaType::Primitive(PrimitiveType::String))
                    } else {
                        field
                    })
                },
                "severity_number",
            ),
            ("missing", |field| (field.name() != "tenant").then_some(field), "tenant"),
            (
                "required",
                |field| {
                    Some(if field.name() == "event_name" {
                        StructField::not_null("event_name", DeltaType::Primitive(PrimitiveType::String))
                    } else {
                        field
                    })
                },
                "event_name",
            ),
        ];
        for (case, change, column) in cases {
            let dir = tempfile::tempdir().unwrap();
            let lake = Lake::open(dir.path()).unwrap();
            older(&lake, Table::Logs, change).await;
            let error = lake.ensure_tables().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incompatible, "{case}");
            assert!(
                error.to_string().contains(column) && error.to_string().contains("table logs"),
                "{case}: {error}"
            );
            let error = lake
                .committer(Table::Logs, APP)
                .commit(0, 1, vec![lake_rows(Table::Logs, 3, 1, TODAY, 1)])
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incompatible, "{case}: {error}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_damaged_log_entry_is_named() {
        let (dir, lake) = lake().await;
        lake.committer(Table::Logs, APP)
            .commit(0, 1, vec![lake_rows(Table::Logs, 3, 1, TODAY, 1)])
            .await
            .unwrap();
        let entry = dir.path().join("lake/logs/_delta_log/00000000000000000001.json");
        for broken in ["", "{\"add\":", "no json\n"] {
            std::fs::write(&entry, broken).unwrap();
            let error = Lake::open_url(lake.url())
                .unwrap()
                .snapshot(Table::Logs)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{broken:?}");
            assert!(error.to_string().contains("00000000000000000001.json"), "{error}");
        }
        let missing = Lake::open(&dir.path().join("nowhere"))
            .unwrap()
            .snapshot(Table::Logs)
            .await
            .unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::MissingTable);
    }
}
