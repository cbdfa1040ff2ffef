//! Levels of `red` against what was counted: whatever is folded, derived, late, raced or cut off, each row counts once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::exphist::ExpHist;
use tailwater_model::ids::{SpanId, TraceId};
use tailwater_model::red::{EdgeKey, EdgeKind, EdgeRow, Exemplar, RedKey, RedRow, edge_batch, red_batch};

use super::*;
use crate::faults::{Fault, FaultStore};
use crate::lake::tests::{APP, lake, rows};
use crate::lake::{HOUR_US, Snapshot};
use crate::levels::uncovered;
use crate::testing::TODAY;

const SECOND_NS: u64 = 1_000_000_000;
const MIDNIGHT_MS: i64 = TODAY as i64 * DAY_MS;
const DERIVED: [Table; 2] = [Table::Red15m, Table::Red1h];

fn keeper(lake: &Lake, table: Table, change: impl FnOnce(&mut Policy)) -> Keeper {
    let mut policy = Policy::of(table);
    policy.conflict_wait = Duration::from_millis(1);
    // The clock of the test runs ahead of the files'.
    policy.vacuum_after_ms = i64::MAX / 4;
    change(&mut policy);
    Keeper::new(lake.clone(), table, policy, Arc::new(Semaphore::new(1)))
}

async fn run(lake: &Lake, table: Table, now_ms: i64) -> Report {
    let mut keeper = keeper(lake, table, |_| {});
    keeper.clock = clock::Clock::held(now_ms);
    keeper.run_once(now_ms).await.unwrap()
}

/// Spans of an operation that end in the slice at `second` of `TODAY`.
fn row(operation: u8, second: i64, durations_us: &[u64], thresholds: &[u64]) -> RedRow {
    let key = RedKey {
        tenant: "default".into(),
        service_name: format!("s{}", operation % 3).into(),
        operation: format!("op{operation}").into(),
        kind: 2,
        is_entry: true,
        is_error: operation % 2 == 1,
        dims: vec![("tier".into(), format!("t{}", operation % 2).into())],
        ..RedKey::default()
    };
    let mut sketch = ExpHist::new();
    durations_us.iter().for_each(|us| sketch.record((us * 1000) as f64));
    let at_most = |threshold: u64| durations_us.iter().filter(|us| **us * 1000 <= threshold).count() as u64;
    RedRow {
        key: Arc::new(key),
        slice_ns: ((i64::from(TODAY) * 86_400 + second.div_euclid(10) * 10) as u64) * SECOND_NS,
        slice_s: 10,
        n: durations_us.len() as u64,
        sum_ns: durations_us.iter().sum::<u64>() * 1000,
        max_ns: durations_us.iter().max().map_or(0, |us| us * 1000),
        exphist: sketch.encode(),
        registers: thresholds
            .iter()
            .map(|threshold| (*threshold, at_most(*threshold)))
            .collect(),
        n_weighted: (durations_us.len() as u64) << 21,
        exemplar: durations_us.iter().map(|us| exemplar(*us)).max(),
    }
}

fn exemplar(us: u64) -> Exemplar {
    Exemplar {
        r: us.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8,
        ns: us * 1000,
        end_ns: us * 1_000_000,
        trace: TraceId([us as u8; 16]),
        span: SpanId([us as u8; 8]),
    }
}

/// Random rows between two seconds of `TODAY`.
fn some_rows(rng: &mut SmallRng, count: usize, from: i64, to: i64) -> Vec<RedRow> {
    const THRESHOLDS: [&[u64]; 3] = [&[], &[500_000], &[500_000, 2_000_000]];
    (0..count)
        .map(|_| {
            let durations: Vec<u64> = (0..rng.random_range(1..4)).map(|_| rng.random_range(1..5000)).collect();
            let thresholds = THRESHOLDS[rng.random_range(0..3)];
            row(
                rng.random_range(0..5),
                rng.random_range(from..to),
                &durations,
                thresholds,
            )
        })
        .collect()
}

async fn append(lake: &Lake, given: &[RedRow]) {
    let committer = lake.committer(Table::Red, APP);
    committer.append(&[red_batch(given)]).await.unwrap();
}

/// What the rows of a key in a slice add up to.
#[derive(Debug, Default, Clone, PartialEq)]
struct Total {
    sums: [i128; 5],
    max_ns: i64,
    registers: Vec<i64>,
    durations: Vec<u8>,
    exemplar: Option<(i64, i64, Vec<u8>)>,
}

/// Totals by key and slice of `width_s`, of rows that begin at a time that `chosen` lets through.
fn totals(batches: &[RecordBatch], width_s: i64, chosen: impl Fn(i64) -> bool) -> BTreeMap<String, Total> {
    let mut totals: BTreeMap<String, (Total, ExpHist)> = BTreeMap::new();
    for batch in batches {
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let int = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
        let text = |name: &str, row: usize| column(name).as_string::<i32>().value(row).to_owned();
        let times = column("ts").as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            let ts = times.value(row);
            if !chosen(ts) {
                continue;
            }
            assert!(i64::from(column("slice_s").as_primitive::<Int32Type>().value(row)) <= width_s);
            let registers = column("registers").as_list::<i32>().value(row);
            let of = |part: usize| {
                registers
                    .as_struct()
                    .column(part)
                    .as_primitive::<Int64Type>()
                    .values()
                    .to_vec()
            };
            let slice = ts.div_euclid(width_s * 1_000_000) * width_s;
            let tier = column("dims")
                .as_map()
                .value(row)
                .column(1)
                .as_string::<i32>()
                .value(0)
                .to_owned();
            let key = format!(
                "{} {} {tier} {:?} {slice}",
                text("service_name", row),
                text("operation", row),
                of(0)
            );
            let (total, durations) = totals.entry(key).or_insert_with(|| (Total::default(), ExpHist::new()));
            for (sum, name) in total
                .sums
                .iter_mut()
                .zip(["n", "errors", "sum_ns", "n_weighted", "errors_weighted"])
            {
                *sum += i128::from(int(name, row));
            }
            total.max_ns = total.max_ns.max(int("max_ns", row));
            total.registers.resize(of(1).len(), 0);
            total
                .registers
                .iter_mut()
                .zip(of(1))
                .for_each(|(sum, count)| *sum += count);
            durations
                .merge_encoded(column("exphist").as_binary::<i32>().value(row))
                .unwrap();
            let trace = column("exemplar_trace_id").as_binary::<i32>().value(row).to_vec();
            let exemplar = (int("exemplar_r", row), int("exemplar_ns", row), trace);
            total.exemplar = total.exemplar.take().max(Some(exemplar));
        }
    }
    let coded = |(key, (mut total, durations)): (String, (Total, ExpHist))| {
        total.durations = durations.encode();
        (key, total)
    };
    totals.into_iter().map(coded).collect()
}

/// The rows of a snapshot, in the lake schema.
async fn rows_at(lake: &Lake, snapshot: &Snapshot) -> Vec<RecordBatch> {
    let mut out = Vec::new();
    for file in snapshot.files() {
        let opened = files::open(lake, snapshot.table, file).await.unwrap();
        let schema = file_schema(&snapshot.schema);
        out.extend(opened.rows(&file.path, &schema, None).unwrap().map(Result::unwrap));
    }
    out
}

/// What a query over the derived table sees at these snapshots, in slices of the table's width.
async fn seen(lake: &Lake, red: &Snapshot, derived: &Snapshot) -> BTreeMap<String, Total> {
    let width = i64::from(derived.table.derived_slice_s().unwrap());
    let ranges = uncovered(red, derived).unwrap();
    let fine = |ts: i64| ranges.iter().any(|(from, to)| (*from..*to).contains(&ts));
    let mut all = totals(&rows_at(lake, derived).await, width, |ts| !fine(ts));
    for (key, total) in totals(&rows_at(lake, red).await, width, fine) {
        assert!(all.insert(key.clone(), total).is_none(), "{key} is in both");
    }
    all
}

/// Everything that reads must agree with what was given.
async fn check(lake: &Lake, given: &[RedRow], what: &str) {
    let expected = [crate::outbox::as_schema(
        &crate::outbox::with_batch_id(&red_batch(given), tailwater_model::ids::BatchSeq(1)).unwrap(),
        &tailwater_model::table::schema(Table::Red),
    )
    .unwrap()];
    let red = lake.snapshot(Table::Red).await.unwrap();
    let found = totals(&rows_at(lake, &red).await, 60, |_| true);
    assert!(found == totals(&expected, 60, |_| true), "{what}: red");
    for table in DERIVED {
        let derived = lake.snapshot(table).await.unwrap();
        let width = i64::from(table.derived_slice_s().unwrap());
        let found = seen(lake, &red, &derived).await;
        assert!(found == totals(&expected, width, |_| true), "{what}: {}", table.name());
    }
}

async fn widths(lake: &Lake, table: Table) -> BTreeMap<i32, usize> {
    let mut widths = BTreeMap::new();
    for batch in rows(lake, table).await {
        let column = batch.column_by_name("slice_s").unwrap().as_primitive::<Int32Type>();
        column
            .values()
            .iter()
            .for_each(|width| *widths.entry(*width).or_default() += 1);
    }
    widths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_folded_when_all_of_it_is_old_and_late_rows_after_it() {
    let (_dir, lake) = lake().await;
    let mut rng = SmallRng::seed_from_u64(1);
    let mut given = Vec::new();
    for _ in 0..3 {
        let more = some_rows(&mut rng, 200, 0, 3600);
        append(&lake, &more).await;
        given.extend(more);
    }
    // Files are as old as the clock says, rows as old as the test says.
    let old = MIDNIGHT_MS + HOUR_MS + 3 * DAY_MS;
    let quiet = old.max(chrono::Utc::now().timestamp_millis()) + HOUR_MS;
    assert_eq!(
        run(&lake, Table::Red, old - 70_000).await.folded_rows,
        0,
        "the last minute is not old yet"
    );
    let report = run(&lake, Table::Red, quiet).await;
    assert!(
        report.folded_rows > 0 && report.folded_into < report.folded_rows,
        "{report:?}"
    );
    assert_eq!(widths(&lake, Table::Red).await.into_keys().collect::<Vec<_>>(), [60]);
    check(&lake, &given, "folded").await;
    assert_eq!(run(&lake, Table::Red, quiet).await.folded_rows, 0, "once is enough");

    // A late row lies beside the minute it belongs to, until it is folded too.
    let late = some_rows(&mut rng, 20, 0, 3600);
    append(&lake, &late).await;
    given.extend(late);
    assert_eq!(
        widths(&lake, Table::Red).await.into_keys().collect::<Vec<_>>(),
        [10, 60]
    );
    check(&lake, &given, "late").await;
    assert!(run(&lake, Table::Red, quiet + HOUR_MS).await.folded_rows > 0);
    assert_eq!(widths(&lake, Table::Red).await.into_keys().collect::<Vec<_>>(), [60]);
    check(&lake, &given, "late and folded").await;
    let fresh = Lake::open_url(lake.url()).unwrap();
    check(&fresh, &given, "replayed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_are_folded_too() {
    let (_dir, lake) = lake().await;
    let edge = |second: u64, us: u64| {
        let mut sketch = ExpHist::new();
        sketch.record((us * 1000) as f64);
        EdgeRow {
            key: Arc::new(EdgeKey {
                tenant: "default".into(),
                client_service: "a".into(),
                server_service: "b".into(),
                client_namespace: "".into(),
                server_namespace: "".into(),
                kind: EdgeKind::Request,
                peer: "".into(),
                unpaired: None,
            }),
            slice_ns: (i64::from(TODAY) as u64 * 86_400 + second) * SECOND_NS,
            slice_s: 10,
            n: 1,
            errors: 0,
            sum_ns: [us * 1000, us * 900],
            max_ns: [us * 1000, us * 900],
            exphist: [sketch.encode(), sketch.encode()],
            n_weighted: 1 << 20,
            errors_weighted: 0,
            exemplar: Some(exemplar(us)),
        }
    };
    let edges: Vec<EdgeRow> = (0..30).map(|at| edge(at * 10, 7 + at)).collect();
    lake.committer(Table::Edges, APP)
        .append(&[edge_batch(&edges)])
        .await
        .unwrap();
    let now = chrono::Utc::now().timestamp_millis().max(MIDNIGHT_MS) + 5 * DAY_MS;
    let report = run(&lake, Table::Edges, now).await;
    assert_eq!((report.folded_rows, report.folded_into), (30, 5));
    let found = rows(&lake, Table::Edges).await;
    let sum = |name: &str| -> i64 {
        let columns = found.iter().map(|batch| batch.column_by_name(name).unwrap());
        columns
            .map(|column| column.as_primitive::<Int64Type>().values().iter().sum::<i64>())
            .sum()
    };
    assert_eq!((sum("n"), sum("n_weighted")), (30, 30 << 20));
    assert_eq!(sum("server_sum_ns"), (0..30).map(|at| (7 + at) * 900).sum::<i64>());
}

/// Commits of any time of the day, folds, merges, derivations and retention of no row, in any order, with the clock going on.
#[tokio::test(flavor = "multi_thread")]
async fn levels_agree_after_any_steps() {
    for seed in 0..5 {
        let (_dir, lake) = lake().await;
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut given, mut derived_days) = (Vec::new(), 0);
        let mut now = chrono::Utc::now().timestamp_millis().max(MIDNIGHT_MS) + 2 * HOUR_MS;
        let mut before: Vec<Arc<Snapshot>> = Vec::new();
        for step in 0..25 {
            match rng.random_range(0..5) {
                0 | 1 => {
                    let from = rng.random_range(0..80_000);
                    let to = if rng.random_bool(0.5) { from + 3000 } else { 86_400 };
                    let count = rng.random_range(1..40);
                    let more = some_rows(&mut rng, count, from, to);
                    append(&lake, &more).await;
                    given.extend(more);
                }
                2 => {
                    keeper(&lake, Table::Red, |policy| policy.merge_files_min = 2)
                        .run_once(now)
                        .await
                        .unwrap();
                }
                3 => {
                    let table = DERIVED[rng.random_range(0..2)];
                    derived_days += run(&lake, table, now).await.derived_days;
                }
                _ => now += rng.random_range(0..36 * HOUR_MS),
            }
            if given.is_empty() {
                continue;
            }
            check(&lake, &given, &format!("seed {seed} step {step}")).await;
            // A query may have looked at one table long before the other.
            let mut after = Vec::new();
            for table in [Table::Red, Table::Red15m, Table::Red1h] {
                after.push(lake.snapshot(table).await.unwrap());
            }
            if let [red, quarters, hours] = before.as_slice() {
                for (derived, later) in [(quarters, &after[1]), (hours, &after[2])] {
                    assert_eq!(
                        seen(&lake, red, later).await,
                        seen(&lake, red, derived).await,
                        "seed {seed} step {step}"
                    );
                    assert_eq!(
                        seen(&lake, &after[0], derived).await,
                        seen(&lake, &after[0], later).await
                    );
                }
            }
            // Several steps lie between the looks, so that what was derived later has rows that came later.
            if before.is_empty() || rng.random_bool(0.25) {
                before = after;
            }
        }
        assert!(derived_days > 0 || seed > 3, "seed {seed} derived nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_hours_that_late_rows_touch_are_made_again() {
    let (_dir, lake) = lake().await;
    let mut rng = SmallRng::seed_from_u64(3);
    let mut given = some_rows(&mut rng, 400, 0, 6 * 3600);
    append(&lake, &given).await;
    let now = chrono::Utc::now()
        .timestamp_millis()
        .max(MIDNIGHT_MS + 5 * HOUR_MS + 1000);
    let now = if now > MIDNIGHT_MS + DAY_MS {
        now
    } else {
        MIDNIGHT_MS + DAY_MS + HOUR_MS
    };
    for table in DERIVED {
        assert_eq!(run(&lake, table, now).await.derived_days, 1);
    }
    let ranges = |red: &Snapshot, derived: &Snapshot| {
        let base = i64::from(TODAY) * 24 * HOUR_US;
        let hours = |(from, to): (i64, i64)| ((from - base) / HOUR_US, (to - base) / HOUR_US);
        uncovered(red, derived)
            .unwrap()
            .into_iter()
            .map(hours)
            .collect::<Vec<_>>()
    };
    let red = lake.snapshot(Table::Red).await.unwrap();
    let hours = lake.snapshot(Table::Red1h).await.unwrap();
    assert_eq!(ranges(&red, &hours), []);
    let late = some_rows(&mut rng, 3, 2 * 3600, 3 * 3600);
    append(&lake, &late).await;
    given.extend(late);
    let red = lake.snapshot(Table::Red).await.unwrap();
    assert_eq!(ranges(&red, &hours), [(2, 3)]);
    // A merge mixes late rows with others, and outdates nothing more.
    let merged = keeper(&lake, Table::Red, |policy| policy.merge_files_min = 2)
        .run_once(now)
        .await
        .unwrap();
    let red = lake.snapshot(Table::Red).await.unwrap();
    assert_eq!((red.files().len(), ranges(&red, &hours)), (1, vec![(2, 3)]));
    check(&lake, &given, "late").await;
    assert_eq!(
        run(&lake, Table::Red1h, now).await.derived_days,
        0,
        "not for each late row"
    );
    assert_eq!(run(&lake, Table::Red1h, now + HOUR_MS).await.derived_days, 1);
    let made = lake.snapshot(Table::Red1h).await.unwrap();
    let stamps = made.files()[0].hours.unwrap();
    assert!(stamps.0[2] > stamps.0[1] && stamps.0[1] == hours.files()[0].hours.unwrap().0[1]);
    assert_eq!(ranges(&red, &made), []);
    check(&lake, &given, "made again").await;
    // Folding moves no total, so all hours still hold.
    let report = run(&lake, Table::Red, now + 4 * DAY_MS).await;
    // Long after the day of these rows the merge has folded them already.
    assert!(merged.folded_rows + report.folded_rows > 0);
    let red = lake.snapshot(Table::Red).await.unwrap();
    assert_eq!(ranges(&red, &made), []);
    check(&lake, &given, "folded").await;
    // What the log says of hours outlives its entries.
    let policy = |policy: &mut Policy| (policy.checkpoint_commits, policy.log_retention_ms) = (1, -HOUR_MS);
    for table in [Table::Red, Table::Red15m, Table::Red1h] {
        let mut keeper = keeper(&lake, table, policy);
        keeper.clock = clock::Clock::held(now + 4 * DAY_MS);
        let report = keeper.run_once(now + 4 * DAY_MS).await.unwrap();
        assert!(
            report.checkpoint.is_some() && report.log_files_removed > 0,
            "{report:?}"
        );
    }
    let fresh = Lake::open_url(lake.url()).unwrap();
    let (red, made) = (
        fresh.snapshot(Table::Red).await.unwrap(),
        fresh.snapshot(Table::Red1h).await.unwrap(),
    );
    assert_eq!(ranges(&red, &made), []);
    check(&fresh, &given, "from a checkpoint").await;
}

/// Polls a future so many times; true if it ended. Dropping it then is what a crash is.
async fn polled<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_loses_and_doubles_nothing() {
    let (_dir, lake) = lake().await;
    let mut rng = SmallRng::seed_from_u64(4);
    let mut given = Vec::new();
    let mut now = chrono::Utc::now().timestamp_millis().max(MIDNIGHT_MS) + 5 * DAY_MS;
    let mut cut = 0;
    for polls in (0..60).chain((60..2000).step_by(97)) {
        now += HOUR_MS;
        let more = some_rows(&mut rng, 30, 0, 86_400);
        append(&lake, &more).await;
        given.extend(more);
        let table = [Table::Red, Table::Red15m, Table::Red1h][polls % 3];
        let ended = polled(keeper(&lake, table, |_| {}).run_once(now), polls).await;
        cut += u32::from(ended.is_none());
        let fresh = Lake::open_url(lake.url()).unwrap();
        check(&fresh, &given, &format!("cut after {polls} polls of {}", table.name())).await;
    }
    assert!(cut > 10, "the cuts came too late");
    for table in [Table::Red, Table::Red15m, Table::Red1h] {
        run(&lake, table, now + HOUR_MS).await;
    }
    check(&lake, &given, "the end").await;
    assert_eq!(widths(&lake, Table::Red).await.into_keys().collect::<Vec<_>>(), [60]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_doubtful_outcome_happen_once() {
    let url = url::Url::parse("memory:///lake/").unwrap();
    let store = FaultStore::new(Arc::new(object_store::memory::InMemory::new()));
    let lake = Lake::with_store(&url, store.clone()).unwrap();
    lake.ensure_tables().await.unwrap();
    let mut rng = SmallRng::seed_from_u64(5);
    let mut given = Vec::new();
    let mut now = chrono::Utc::now().timestamp_millis().max(MIDNIGHT_MS) + 5 * DAY_MS;
    for fault in [Fault::Before, Fault::After, Fault::AfterThenExists] {
        for table in [Table::Red, Table::Red15m, Table::Red1h] {
            let more = some_rows(&mut rng, 40, 0, 86_400);
            append(&lake, &more).await;
            given.extend(more);
            now += HOUR_MS;
            store.entries.lock().push(fault);
            let report = run(&lake, table, now).await;
            assert!(
                report.folded_rows + report.derived_days > 0,
                "{fault:?} {}",
                table.name()
            );
            assert!(store.entries.lock().is_empty());
            check(&lake, &given, &format!("{fault:?} {}", table.name())).await;
        }
        // Without its files there is no commit.
        for table in [Table::Red, Table::Red15m] {
            let more = some_rows(&mut rng, 40, 0, 86_400);
            append(&lake, &more).await;
            given.extend(more);
            now += HOUR_MS;
            store.data.lock().push(Fault::Before);
            keeper(&lake, table, |_| {}).run_once(now).await.unwrap_err();
            check(&lake, &given, "no file").await;
            run(&lake, table, now).await;
            check(&lake, &given, "after all").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folding_and_deriving_race_with_ingest() {
    const COMMITS: u64 = 30;
    let (_dir, lake) = lake().await;
    let now = chrono::Utc::now().timestamp_millis().max(MIDNIGHT_MS) + 5 * DAY_MS;
    let appender = {
        let lake = Lake::open_url(lake.url()).unwrap();
        tokio::spawn(async move {
            let mut rng = SmallRng::seed_from_u64(6);
            let mut given = Vec::new();
            for _ in 0..COMMITS {
                let more = some_rows(&mut rng, 50, 0, 86_400);
                append(&lake, &more).await;
                given.extend(more);
            }
            given
        })
    };
    let keepers = [Table::Red, Table::Red15m, Table::Red1h].map(|table| {
        let lake = Lake::open_url(lake.url()).unwrap();
        tokio::spawn(async move {
            let mut keeper = keeper(&lake, table, |policy| {
                (policy.quiet_ms, policy.merge_files_min) = (0, 2)
            });
            let mut done = 0;
            loop {
                let last = lake.snapshot(Table::Red).await.unwrap().txn(APP) == Some(COMMITS as i64);
                match keeper.run_once(now).await {
                    Ok(report) => done += report.folded_rows + report.derived_days,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                }
                if last {
                    return done;
                }
            }
        })
    });
    let given = appender.await.unwrap();
    for keeper in keepers {
        assert!(keeper.await.unwrap() > 0);
    }
    check(&lake, &given, "after the race").await;
    check(&Lake::open_url(lake.url()).unwrap(), &given, "replayed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_leaves_red_only_when_its_hours_are_kept() {
    let (_dir, lake) = lake().await;
    let mut rng = SmallRng::seed_from_u64(7);
    let given = some_rows(&mut rng, 200, 0, 86_400);
    append(&lake, &given).await;
    let now = MIDNIGHT_MS + 120 * DAY_MS;
    assert_eq!(
        run(&lake, Table::Red, now).await.expired_rows,
        0,
        "nobody has its hours yet"
    );
    check(&lake, &given, "kept").await;
    assert_eq!(run(&lake, Table::Red1h, now).await.derived_days, 1);
    // Quarters are kept no longer than `red` itself.
    assert_eq!(run(&lake, Table::Red15m, now).await.derived_days, 0);
    let before = lake.snapshot(Table::Red).await.unwrap();
    assert!(run(&lake, Table::Red, now).await.expired_rows > 0);
    let red = lake.snapshot(Table::Red).await.unwrap();
    assert!(red.files().is_empty());
    let hours = lake.snapshot(Table::Red1h).await.unwrap();
    assert_eq!(seen(&lake, &red, &hours).await, seen(&lake, &before, &hours).await);
    // A row for a day that is gone changes nothing of what is kept of it.
    append(&lake, &given[..1]).await;
    assert_eq!(run(&lake, Table::Red1h, now + HOUR_MS).await.derived_days, 0);
    let red = lake.snapshot(Table::Red).await.unwrap();
    assert_eq!(seen(&lake, &red, &hours).await, seen(&lake, &before, &hours).await);
    assert!(run(&lake, Table::Red, now + HOUR_MS).await.expired_rows > 0);
    // At last the hours go too.
    let gone = run(&lake, Table::Red1h, MIDNIGHT_MS + 402 * DAY_MS).await;
    assert!(gone.expired_rows > 0 && gone.files == 0, "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_whose_file_cannot_be_read_does_not_keep_others_from_being_derived() {
    let (_dir, lake) = lake().await;
    for second in [-86_000, -86_000 - 86_400] {
        append(&lake, &[row(1, second, &[5], &[])]).await;
    }
    // Days are made newest first.
    let red = lake.snapshot(Table::Red).await.unwrap();
    let broken = red.files().iter().max_by_key(|file| file.date).unwrap();
    assert_eq!(broken.date, TODAY - 1);
    std::fs::remove_file(lake.local_table_dir(Table::Red).unwrap().join(&*broken.path)).unwrap();
    let mut keeper = keeper(&lake, Table::Red15m, |_| {});
    for derived_days in [1, 0] {
        let report = keeper.run_once(MIDNIGHT_MS + HOUR_MS).await.unwrap();
        assert_eq!(report.derived_days, derived_days);
        assert_eq!(report.unreadable[0].0, broken.path);
    }
    let made = lake.snapshot(Table::Red15m).await.unwrap();
    let dates: Vec<i32> = made.files().iter().map(|file| file.date).collect();
    assert_eq!(dates, [TODAY - 2]);
}
