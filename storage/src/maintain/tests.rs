#![allow(clippy::unwrap_used)]
use arrow::array::RecordBatch;

use super::*;
use crate::faults::{Fault, FaultStore};
use crate::lake::tests::{APP, lake, rows};
use crate::lake::{FileEntry, Tier};
use crate::testing::{TODAY, lake_rows, row_texts, tenant_rows};

/// Noon of `TODAY`.
const NOON: i64 = TODAY as i64 * DAY_MS + DAY_MS / 2;

fn keeper(lake: &Lake, table: Table, change: impl FnOnce(&mut Policy)) -> Keeper {
    let mut policy = Policy::of(table);
    policy.conflict_wait = Duration::from_millis(1);
    change(&mut policy);
    Keeper::new(lake.clone(), table, policy, Arc::new(Semaphore::new(1)))
}

async fn fill(lake: &Lake, table: Table, commits: u64, date: i32) -> Vec<RecordBatch> {
    let committer = lake.committer(table, APP);
    let first = committer.version().await.unwrap();
    let mut all = Vec::new();
    for batch in first + 1..=first + commits {
        let rows = lake_rows(table, 100, batch, date, batch as i64);
        committer.commit(batch - 1, batch, vec![rows.clone()]).await.unwrap();
        all.push(rows);
    }
    all
}

fn is_sorted(table: Table, batch: &RecordBatch) -> bool {
    crate::testing::sort(table, batch.clone()) == *batch
}

/// A run by a clock that has stood by this time for long.
async fn run_at(keeper: &mut Keeper, now_ms: i64) -> Report {
    keeper.clock = clock::Clock::held(now_ms);
    keeper.run_once(now_ms).await.unwrap()
}

/// Where a data file lies, in a lake on this machine.
fn place(lake: &Lake, table: Table, file: &FileEntry) -> std::path::PathBuf {
    lake.local_table_dir(table).unwrap().join(&*file.path)
}

fn paths(files: &[(Arc<str>, String)]) -> Vec<Arc<str>> {
    files.iter().map(|(path, _)| path.clone()).collect()
}

/// A time at which the files just written are `age_ms` old: they carry the clock's time, not the test's.
fn later(age_ms: i64) -> i64 {
    Utc::now().timestamp_millis() + age_ms
}

#[tokio::test(flavor = "multi_thread")]
async fn merging_keeps_every_row_in_order_for_every_table() {
    let (_dir, lake) = lake().await;
    // Days of a derived table are written whole.
    for table in Table::COLLECTED {
        let given = fill(&lake, table, 9, TODAY).await;
        let before = row_texts(table, &rows(&lake, table).await);
        let report = keeper(&lake, table, |_| {}).run_once(NOON).await.unwrap();
        assert_eq!(
            (report.merges, report.merged_files, report.written_files, report.files),
            (1, 9, 1, 1),
            "{}",
            table.name()
        );
        let merged = rows(&lake, table).await;
        assert_eq!(row_texts(table, &merged), before, "{}", table.name());
        if table != Table::Ledger {
            assert_eq!(before, row_texts(table, &given), "{}", table.name());
        }
        let snapshot = lake.snapshot(table).await.unwrap();
        assert_eq!(snapshot.files()[0].tier, Tier::Merged);
        let one = arrow::compute::concat_batches(&merged[0].schema(), &merged).unwrap();
        let ordered = crate::testing::sort_keys(table, &one);
        assert!(is_sorted(table, &ordered), "{}", table.name());
        assert_eq!(snapshot.txn(APP), Some(9), "compaction leaves the transactions alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merging_appending_and_reading_race_without_losing_a_row() {
    const COMMITS: u64 = 40;
    let (_dir, lake) = lake().await;
    let table = Table::MetricSeries;
    let appender = {
        let lake = Lake::open_url(lake.url()).unwrap();
        tokio::spawn(async move { fill(&lake, table, COMMITS, TODAY).await })
    };
    let maintainer = {
        let lake = Lake::open_url(lake.url()).unwrap();
        tokio::spawn(async move {
            let mut keeper = keeper(&lake, table, |policy| {
                policy.merge_files_min = 3;
                policy.checkpoint_commits = 5;
            });
            let mut merges = 0;
            while lake.snapshot(table).await.unwrap().txn(APP) != Some(COMMITS as i64) {
                match keeper.run_once(NOON).await {
                    Ok(report) => merges += report.merges,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                }
            }
            merges + keeper.run_once(NOON).await.unwrap().merges
        })
    };
    let mut last = 0;
    while last < COMMITS {
        let snapshot = lake.snapshot(table).await.unwrap();
        let done = snapshot.txn(APP).unwrap_or(0) as u64;
        assert!(done >= last, "versions go forward");
        assert_eq!(
            snapshot.files().iter().map(|file| file.rows).sum::<u64>(),
            done * 100,
            "version {}",
            snapshot.version
        );
        last = done;
    }
    let given = appender.await.unwrap();
    assert!(maintainer.await.unwrap() > 0);
    assert_eq!(row_texts(table, &rows(&lake, table).await), row_texts(table, &given));
    let fresh = Lake::open_url(lake.url()).unwrap();
    assert_eq!(
        row_texts(table, &rows(&fresh, table).await),
        row_texts(table, &given),
        "the log replays to the same rows"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_counts_what_it_removes_by_tenant() {
    let (_dir, lake) = lake().await;
    let table = Table::Logs;
    let committer = lake.committer(table, APP);
    committer
        .commit(0, 1, vec![tenant_rows(table, 30, TODAY - 40, 1, &["a", "b", "b"])])
        .await
        .unwrap();
    committer
        .commit(1, 2, vec![tenant_rows(table, 10, TODAY - 31, 2, &["a"])])
        .await
        .unwrap();
    committer
        .commit(2, 3, vec![tenant_rows(table, 12, TODAY - 29, 3, &["a"])])
        .await
        .unwrap();
    committer
        .commit(3, 4, vec![tenant_rows(table, 14, TODAY, 4, &["b"])])
        .await
        .unwrap();
    let mut keeper = keeper(&lake, table, |_| {});
    let report = keeper.run_once(NOON).await.unwrap();
    assert_eq!((report.expired_files, report.expired_rows), (2, 40));
    let snapshot = lake.snapshot(table).await.unwrap();
    assert_eq!(expired(&snapshot), [("a".to_owned(), 20), ("b".to_owned(), 20)].into());
    assert_eq!(expired_through(&snapshot), 2);
    assert_eq!(
        snapshot.files().iter().map(|file| file.date).collect::<Vec<_>>(),
        [TODAY - 29, TODAY]
    );
    // Two days on the next goes, and the counts add up; a checkpoint and the log's clean-up do not forget them.
    let report = keeper.run_once(NOON + 2 * DAY_MS).await.unwrap();
    assert_eq!(report.expired_rows, 0, "a clock that leaps is not believed");
    let report = keeper.run_once(NOON + 2 * DAY_MS + HOUR_MS).await.unwrap();
    assert_eq!(report.expired_rows, 12, "nor doubted for ever");
    keeper.policy.checkpoint_commits = 1;
    keeper.swept_ms = None;
    let report = run_at(&mut keeper, later(7 * HOUR_MS)).await;
    assert!(
        report.checkpoint.is_some() && report.log_files_removed > 0,
        "{report:?}"
    );
    let fresh = Lake::open_url(lake.url()).unwrap().snapshot(table).await.unwrap();
    assert_eq!(expired(&fresh), [("a".to_owned(), 32), ("b".to_owned(), 20)].into());
    assert_eq!(fresh.txn(APP), Some(4));
    // The ledger is the left side of the identity and stays.
    assert_eq!(Policy::of(Table::Ledger).retention_days, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_replaces_the_log_it_covers() {
    let (_dir, lake) = lake().await;
    let table = Table::MetricSeries;
    let given = fill(&lake, table, 12, TODAY).await;
    let mut keeper = keeper(&lake, table, |policy| policy.checkpoint_commits = 10);
    let report = keeper.run_once(NOON).await.unwrap();
    assert_eq!(report.checkpoint, Some(13), "twelve appends and one merge");
    assert_eq!(
        keeper.run_once(NOON).await.unwrap().checkpoint,
        None,
        "not again before ten more commits"
    );
    keeper.swept_ms = None;
    let cleaned = run_at(&mut keeper, later(7 * HOUR_MS)).await;
    assert_eq!(cleaned.log_files_removed, 13);
    assert!(lake.log(table).read_commit_entry(5).await.unwrap().is_none());
    let fresh = Lake::open_url(lake.url()).unwrap();
    assert_eq!(fresh.snapshot(table).await.unwrap().version, 13);
    assert_eq!(
        fresh.snapshot(table).await.unwrap().files(),
        lake.snapshot(table).await.unwrap().files()
    );
    assert_eq!(row_texts(table, &rows(&fresh, table).await), row_texts(table, &given));
    fill(&fresh, table, 1, TODAY).await;
    assert_eq!(
        lake.snapshot(table).await.unwrap().version,
        14,
        "the old reader goes on tailing"
    );
    // delta-rs itself reads the same table.
    let mut delta = deltalake_core::DeltaTable::new(fresh.log(table).clone());
    delta.load().await.unwrap();
    assert_eq!(delta.snapshot().unwrap().log_data().num_files(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_falls_back_to_the_log() {
    let (dir, lake) = lake().await;
    let table = Table::MetricSeries;
    let given = fill(&lake, table, 3, TODAY).await;
    keeper(&lake, table, |policy| policy.checkpoint_commits = 1)
        .run_once(NOON)
        .await
        .unwrap();
    let log = dir.path().join("lake/metric_series/_delta_log");
    let checkpoint = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path());
    let checkpoint = checkpoint
        .into_iter()
        .find(|path| path.to_str().unwrap().contains("checkpoint.parquet"))
        .unwrap();
    let mut bytes = std::fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    std::fs::write(&checkpoint, bytes).unwrap();
    let fresh = Lake::open_url(lake.url()).unwrap();
    assert_eq!(row_texts(table, &rows(&fresh, table).await), row_texts(table, &given));
    // With the entries gone too, the checkpoint is named.
    std::fs::remove_file(log.join("00000000000000000001.json")).unwrap();
    let error = Lake::open_url(lake.url()).unwrap().snapshot(table).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("checkpoint.parquet"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_unlinked_a_day_after_nothing_names_them() {
    let (dir, lake) = lake().await;
    let table = Table::MetricSeries;
    let given = fill(&lake, table, 8, TODAY).await;
    let table_dir = dir.path().join("lake/metric_series");
    let day = std::fs::read_dir(&table_dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let day = day
        .into_iter()
        .find(|path| path.to_str().unwrap().contains("date="))
        .unwrap();
    std::fs::write(day.join("orphan.parquet"), b"never committed").unwrap();
    std::fs::write(table_dir.join("_delta_log/00000000000000000009.json#12345"), b"staged").unwrap();
    let mut keeper = keeper(&lake, table, |_| {});
    let now = later(0);
    let report = keeper.run_once(now).await.unwrap();
    assert_eq!((report.merges, report.vacuumed, report.orphans), (1, 0, 0));
    let files = || std::fs::read_dir(&day).unwrap().count();
    assert_eq!(files(), 10, "eight inputs, one output, one orphan");
    keeper.run_once(now + DAY_MS - 2 * HOUR_MS).await.unwrap();
    assert_eq!(files(), 10, "queries may still read them");
    let report = keeper.run_once(now + DAY_MS + HOUR_MS).await.unwrap();
    assert_eq!((report.vacuumed, report.orphans), (8, 2));
    assert_eq!(files(), 1);
    assert_eq!(row_texts(table, &rows(&lake, table).await), row_texts(table, &given));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_cut_at_the_target_size() {
    let (_dir, lake) = lake().await;
    let table = Table::Logs;
    let committer = lake.committer(table, APP);
    let mut given = Vec::new();
    for batch in 1..=4 {
        let rows = lake_rows(table, 3000, batch, TODAY, batch as i64);
        committer.commit(batch - 1, batch, vec![rows.clone()]).await.unwrap();
        given.push(rows);
    }
    let report = keeper(&lake, table, |policy| {
        policy.merge_files_min = 4;
        policy.large_bytes = 0;
    })
    .run_once(NOON)
    .await
    .unwrap();
    assert_eq!(report.merges, 0, "files of large_bytes are left alone");
    let group = Group {
        date: TODAY,
        files: lake.snapshot(table).await.unwrap().files().to_vec(),
    };
    let size: u64 = group.files.iter().map(|file| file.size).sum();
    let keeper = keeper(&lake, table, |policy| {
        (policy.target_bytes, policy.large_bytes) = (size / 3, 0)
    });
    let mut report = Report::default();
    assert!(keeper.compact(&group, NOON, &mut report).await.unwrap());
    assert!(report.written_files >= 2, "{report:?}");
    assert_eq!(row_texts(table, &rows(&lake, table).await), row_texts(table, &given));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_ends_neither_merges_nor_upkeep() {
    const MINUTE_MS: i64 = 60_000;
    let (_dir, lake) = lake().await;
    let table = Table::MetricSeries;
    fill(&lake, table, 9, TODAY).await;
    fill(&lake, table, 8, TODAY - 1).await;
    let broken = lake.snapshot(table).await.unwrap().files()[0].clone();
    assert_eq!(broken.date, TODAY);
    let bytes = std::fs::read(place(&lake, table, &broken)).unwrap();
    std::fs::write(place(&lake, table, &broken), &bytes[..bytes.len() / 2]).unwrap();
    let mut keeper = keeper(&lake, table, |policy| policy.checkpoint_commits = 1);
    let report = keeper.run_once(NOON).await.unwrap();
    assert_eq!(
        (report.merges, report.files),
        (2, 3),
        "the other eight, and the other day"
    );
    assert!(report.checkpoint.is_some() && keeper.swept_ms.is_some(), "{report:?}");
    assert_eq!(paths(&report.unreadable), std::slice::from_ref(&broken.path));
    assert!(report.unreadable[0].1.contains(&*broken.path), "{report:?}");
    // It is told while it is left alone, and looked at after an hour.
    for after_ms in [MINUTE_MS, HOUR_MS, HOUR_MS + MINUTE_MS] {
        let report = keeper.run_once(NOON + after_ms).await.unwrap();
        assert_eq!(
            paths(&report.unreadable),
            std::slice::from_ref(&broken.path),
            "after {after_ms} ms"
        );
    }
    std::fs::write(place(&lake, table, &broken), &bytes).unwrap();
    let report = keeper.run_once(NOON + 2 * HOUR_MS).await.unwrap();
    assert_eq!(report.unreadable, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_leaves_only_the_file_that_it_cannot_count() {
    let (_dir, lake) = lake().await;
    let table = Table::Logs;
    let committer = lake.committer(table, APP);
    for (batch, tenants) in [(1, &["a", "b"][..]), (2, &["a", "b"][..]), (3, &["a"][..])] {
        let rows = tenant_rows(table, 10, TODAY - 40, batch as i64, tenants);
        committer
            .commit(batch as u64 - 1, batch as u64, vec![rows])
            .await
            .unwrap();
    }
    let files = lake.snapshot(table).await.unwrap().files().to_vec();
    std::fs::remove_file(place(&lake, table, &files[0])).unwrap();
    let mut keeper = keeper(&lake, table, |_| {});
    let report = run_at(&mut keeper, NOON).await;
    assert_eq!((report.expired_files, report.expired_rows), (2, 20));
    assert_eq!(paths(&report.unreadable), [files[0].path.clone()]);
    let snapshot = lake.snapshot(table).await.unwrap();
    assert_eq!(expired(&snapshot), [("a".to_owned(), 15), ("b".to_owned(), 5)].into());
    assert_eq!(snapshot.files(), &files[..1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_made_before_a_checkpoint_needs_it() {
    let store = FaultStore::new(Arc::new(object_store::memory::InMemory::new()));
    let lake = Lake::with_store(&"memory:///lake/".parse().unwrap(), store.clone()).unwrap();
    lake.ensure_tables().await.unwrap();
    let table = Table::MetricSeries;
    fill(&lake, table, 8, TODAY).await;
    let mut keeper = keeper(&lake, table, |policy| {
        (policy.vacuum_after_ms, policy.checkpoint_commits) = (0, 1000);
    });
    assert_eq!(run_at(&mut keeper, later(0)).await.merges, 1);
    keeper.policy.checkpoint_commits = 1;
    store.entries.lock().extend([Fault::Before; 100]);
    let now = later(2 * HOUR_MS);
    keeper.clock = clock::Clock::held(now);
    keeper.run_once(now).await.unwrap_err();
    store.entries.lock().clear();
    let left = object_store::ObjectStore::list(&*lake.table_store(table), None);
    let left: Vec<_> = futures::TryStreamExt::try_collect(left).await.unwrap();
    let left = left.iter().filter(|object| {
        let path = object.location.as_ref();
        path.ends_with(".parquet") && !path.contains("_delta_log")
    });
    assert_eq!(left.count(), 1, "what was merged away is unlinked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_is_yet_to_come_is_due() {
    let (_dir, lake) = lake().await;
    let mut keeper = keeper(&lake, Table::Logs, |_| {});
    let check = async |keeper: &mut Keeper, swept_ms: i64, is_due: bool| {
        keeper.swept_ms = Some(swept_ms);
        run_at(keeper, NOON).await;
        assert_eq!(
            keeper.swept_ms == Some(NOON),
            is_due,
            "swept {} ms ago",
            NOON - swept_ms
        );
    };
    check(&mut keeper, NOON - HOUR_MS, true).await;
    check(&mut keeper, NOON - HOUR_MS + 1, false).await;
    // The clock had leapt ahead when it swept, and is right again.
    check(&mut keeper, NOON + 30 * DAY_MS, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_leaps_ahead_and_back_takes_nothing_with_it() {
    const MINUTE_MS: i64 = 60_000;
    let (_dir, lake) = lake().await;
    let table = Table::Logs;
    fill(&lake, table, 3, TODAY).await;
    let store = lake.table_store(table);
    let staged = object_store::path::Path::from("date=2026-11-22/flushed-in-the-making.parquet");
    let put = object_store::ObjectStoreExt::put(&*store, &staged, bytes::Bytes::from_static(b"rows").into());
    put.await.unwrap();
    let mut keeper = keeper(&lake, table, |_| {});
    let mut now = NOON;
    for leap in [0, 365 * DAY_MS, 0] {
        for _ in 0..5 {
            now += MINUTE_MS;
            let report = keeper.run_once(now + leap).await.unwrap();
            assert_eq!((report.expired_rows, report.orphans), (0, 0));
        }
    }
    assert!(object_store::ObjectStoreExt::head(&*store, &staged).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn keeping_ends_when_a_table_is_kept_no_more() {
    let (_dir, lake) = lake().await;
    let (_stopper, stop) = watch::channel(false);
    let observer: Observer = Arc::new(|table, _| assert_ne!(table, Table::Traces, "as asked"));
    let keeping = run(lake, Policy::of, Duration::from_secs(3600), stop, observer);
    let ended = tokio::time::timeout(Duration::from_secs(60), keeping).await;
    assert!(ended.is_ok(), "a panic ends it");
}
