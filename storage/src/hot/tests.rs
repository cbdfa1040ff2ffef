#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tailwater_model::ids::LogId;
use tailwater_wal::{Options, Wal};

use super::*;
use crate::outbox::{BatchBuilder, CONTROL, OUTBOX_KIND, preamble};
use crate::testing::frame_rows;

const LOG: LogId = LogId([7; 16]);

fn wal(dir: &std::path::Path, segment_bytes: u64) -> Wal {
    let mut options = Options::new(dir, LOG.0, OUTBOX_KIND);
    options.segment_bytes = segment_bytes;
    options.budget_bytes = segment_bytes * 64;
    options.reserve_bytes = 0;
    options.recycle = 0;
    options.preamble = preamble();
    options.control = Some(dir.join(CONTROL));
    options.allow_volatile = true;
    Wal::open(options).unwrap().0
}

fn append(wal: &Wal, table: Table, rows: usize, seed: u64) -> u64 {
    let encoded = BatchBuilder::new(Bytes::new())
        .frame(table, &frame_rows(table, rows, seed))
        .unwrap()
        .finish();
    wal.append(encoded.head, encoded.body).unwrap().wait().unwrap()
}

/// Rows per batch in the table's files and frames.
async fn counts(lake: &Lake, table: &HotTable) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    let mut add = |batch: &arrow::array::RecordBatch| {
        let ids = batch
            .column_by_name("batch_id")
            .unwrap()
            .as_primitive::<Int64Type>()
            .clone();
        ids.iter().flatten().for_each(|id| *counts.entry(id).or_default() += 1);
    };
    for file in table.snapshot.iter().flat_map(|snapshot| snapshot.files()) {
        let path = object_store::path::Path::from(&*file.path);
        let bytes = object_store::ObjectStoreExt::get(&*lake.table_store(table.table), &path)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap()
            .for_each(|batch| add(&batch.unwrap()));
    }
    table.frames.iter().for_each(|frame| add(&frame.read().unwrap()));
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn before_there_is_a_collector_the_tables_stand_alone() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(&dir.path().join("lake")).unwrap();
    let outbox = Outbox::open_readonly(&dir.path().join("outbox"));
    let view = hot_view(&lake, Some(&outbox), &Table::ALL).await.unwrap();
    assert_eq!((view.cut, view.missing.len()), (0, 0));
    assert!(
        view.tables
            .iter()
            .all(|table| table.snapshot.is_none() && table.frames.is_empty())
    );
    // It appears under the same handle.
    let wal = wal(&dir.path().join("outbox"), 1 << 20);
    append(&wal, Table::Logs, 5, 1);
    let view = hot_view(&lake, Some(&outbox), &[Table::Logs]).await.unwrap();
    assert_eq!((view.cut, view.tables[0].frames.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_frames_in_trimmed_segments_is_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(&dir.path().join("lake")).unwrap();
    lake.ensure_tables().await.unwrap();
    let wal = wal(&dir.path().join("outbox"), 64 << 10);
    let outbox = Outbox::open_readonly(&dir.path().join("outbox"));
    for seed in 0..40 {
        append(&wal, Table::Ledger, 200, seed);
    }
    let committer = lake.committer(Table::Ledger, app_id(LOG, Table::Ledger));
    let rows: Vec<_> = outbox
        .view()
        .unwrap()
        .frames(Table::Ledger)
        .iter()
        .map(|frame| frame.read().unwrap())
        .collect();
    committer.commit(0, 40, rows).await.unwrap();
    assert!(wal.trim_below(41).unwrap() > 0);
    let view = hot_view(&lake, Some(&outbox), &[Table::Ledger, Table::Spans])
        .await
        .unwrap();
    assert!(outbox.view().unwrap().first > 1, "something was trimmed");
    assert_eq!(
        view.tables.iter().map(|table| table.committed).collect::<Vec<_>>(),
        [40, 0]
    );
    assert!(view.tables.iter().all(|table| table.frames.is_empty()));
}

#[test]
fn a_gap_between_two_views_is_seen() {
    let view = |first, durable| {
        let mut view = View::default();
        (view.first, view.durable) = (first, durable);
        view
    };
    let cases = [
        (view(1, 5), view(1, 5), false),
        (view(1, 5), view(3, 9), false),
        (view(1, 5), view(6, 9), false),
        (view(1, 5), view(7, 9), true),
        // Everything trimmed and nothing new.
        (view(1, 5), view(6, 5), false),
        // Everything new is trimmed already.
        (view(1, 5), view(10, 9), true),
        (view(1, 0), view(1, 3), false),
        (view(1, 0), view(2, 3), true),
    ];
    for (before, after, gap) in cases {
        assert_eq!(
            has_gap(&before, &after),
            gap,
            "{} {} -> {} {}",
            before.first,
            before.durable,
            after.first,
            after.durable
        );
    }
}

#[test]
fn an_outbox_that_is_let_go_of_keeps_no_trimmed_segment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox");
    let wal = wal(&path, 64 << 10);
    (0..40).for_each(|seed| {
        append(&wal, Table::Ledger, 200, seed);
    });
    let outbox = Outbox::open_readonly(&path);
    let kept = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ours = maps.lines().filter(|line| line.contains(path.to_str().unwrap()));
        ours.filter(|line| line.ends_with("(deleted)")).count()
    };
    let frame = outbox.view().unwrap().frames(Table::Ledger)[0].clone();
    assert!(wal.trim_below(40).unwrap() > 1);
    assert!(kept() > 1, "a reader that has a view keeps what it sees");
    outbox.let_go();
    assert_eq!(kept(), 1, "the segment of a frame that someone holds");
    assert_eq!(frame.read().unwrap().num_rows(), 200);
    drop(frame);
    assert_eq!(kept(), 0);
    assert_eq!(outbox.view().unwrap().durable, 40, "the next view maps again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_ahead_of_the_outbox_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(&dir.path().join("lake")).unwrap();
    lake.ensure_tables().await.unwrap();
    lake.committer(Table::Logs, app_id(LOG, Table::Logs))
        .commit(0, 9, Vec::new())
        .await
        .unwrap();
    let wal = wal(&dir.path().join("outbox"), 1 << 20);
    append(&wal, Table::Logs, 5, 1);
    let outbox = Outbox::open_readonly(&dir.path().join("outbox"));
    let error = hot_view(&lake, Some(&outbox), &[Table::Logs]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
}

/// A writer appends, commits and trims as fast as it can; every view has every batch up to its cut, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_view_beside_a_racing_writer_has_every_row_once() {
    const ROWS: usize = 40;
    const ROUNDS: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(&dir.path().join("lake")).unwrap();
    lake.ensure_tables().await.unwrap();
    let wal = Arc::new(wal(&dir.path().join("outbox"), 64 << 10));
    let outbox = Arc::new(Outbox::open_readonly(&dir.path().join("outbox")));
    let (done, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));

    let appender = {
        let (wal, done) = (wal.clone(), done.clone());
        std::thread::spawn(move || {
            (0..ROUNDS).for_each(|seed| {
                append(&wal, Table::MetricSeries, ROWS, seed);
            });
            done.store(true, Ordering::Release);
        })
    };
    let deliverer = {
        // A lake of its own, as another process has.
        let (lake, wal, done, committed) = (
            Lake::open_url(lake.url()).unwrap(),
            wal.clone(),
            done.clone(),
            committed.clone(),
        );
        let outbox = Outbox::open_readonly(&dir.path().join("outbox"));
        tokio::spawn(async move {
            let committer = lake.committer(Table::MetricSeries, app_id(LOG, Table::MetricSeries));
            let mut v = 0;
            loop {
                let last = done.load(Ordering::Acquire);
                let view = outbox.view().unwrap();
                if view.durable > v {
                    let rows = view
                        .frames_after(Table::MetricSeries, v)
                        .iter()
                        .map(|frame| frame.read().unwrap())
                        .collect();
                    committer.commit(v, view.durable, rows).await.unwrap();
                    v = view.durable;
                    committed.store(v, Ordering::Release);
                    wal.trim_below(v + 1).unwrap();
                } else if last {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let mut views = 0;
    loop {
        let last = done.load(Ordering::Acquire) && committed.load(Ordering::Acquire) == ROUNDS;
        let view = hot_view(&lake, Some(&outbox), &[Table::MetricSeries]).await.unwrap();
        assert!(view.missing.is_empty());
        let counts = counts(&lake, &view.tables[0]).await;
        let expected: BTreeMap<i64, usize> = (1..=view.cut as i64).map(|batch| (batch, ROWS)).collect();
        assert_eq!(
            counts, expected,
            "cut {} committed {}",
            view.cut, view.tables[0].committed
        );
        views += 1;
        if last {
            break;
        }
    }
    appender.join().unwrap();
    deliverer.await.unwrap();
    assert!(views > 1);
    assert!(outbox.view().unwrap().first > 1, "the writer trimmed under the reader");
}
