//! Leaving files and frames out early changes no answer.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use proptest::prelude::*;
use tokio::runtime::Runtime;

use crate::fixtures::{Fixture, MIDNIGHT, Span, trace_hex};

/// Six files and four frames, some overlapping, with times that end at odd microseconds, missing services, and long texts.
static LAKE: LazyLock<(Runtime, Mutex<Fixture>)> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let fixture = runtime.block_on(async {
        let mut fixture = Fixture::with_outbox().await;
        for part in 0..10u8 {
            let spans: Vec<Span> = (0..20u8).map(|at| span(part, at)).collect();
            fixture.append(&spans);
            if part < 6 {
                fixture.commit_to(u64::from(part) + 1).await;
            }
        }
        fixture
    });
    (runtime, Mutex::new(fixture))
});

/// The lake, for one test at a time: whether it leaves anything out is a switch of all of it.
fn alone() -> (&'static Runtime, MutexGuard<'static, Fixture>) {
    let (runtime, fixture) = &*LAKE;
    // A test that failed has left nothing behind.
    (runtime, fixture.lock().unwrap_or_else(PoisonError::into_inner))
}

const SERVICES: [Option<&str>; 4] = [None, Some("cart"), Some("mail"), Some(LONG)];
/// Longer than statistics keep.
const LONG: &str = "a-service-whose-name-is-far-longer-than-the-sixty-four-bytes-that-statistics-keep-of-a-text";
const TIMES: [i64; 6] = [0, 1, 999, 1000, 1001, 500_000];

fn span(part: u8, at: u8) -> Span {
    Span {
        // Parts begin 10 ms apart, two of them before midnight; a part lasts up to 500 ms.
        ts: MIDNIGHT - 20_000 + i64::from(part) * 10_000 + TIMES[usize::from(at) % TIMES.len()],
        service: SERVICES[usize::from(part + at) % (1 + usize::from(part) % SERVICES.len())],
        name: ["GET /", "POST /"][usize::from(at) % 2],
        duration_ns: i64::from(at) * 1000 + i64::from(part),
        http_status: at.is_multiple_of(3).then_some(200 + i32::from(part)),
        trace: part * 10 + at / 2,
        span: part * 20 + at,
        ..Span::default()
    }
}

fn time() -> impl Strategy<Value = String> {
    // At, one before and one behind the bounds of files, in microseconds; and at milliseconds, to which Delta cuts.
    let micros = (0..10i64, prop::sample::select(TIMES.to_vec()), -1..=1i64)
        .prop_map(|(part, time, near)| -20_000 + part * 10_000 + time + near);
    prop_oneof![micros, (-25i64..=85).prop_map(|millis| millis * 1000)].prop_map(|offset| {
        let time = chrono::DateTime::from_timestamp_micros(MIDNIGHT + offset).unwrap();
        format!(
            "timestamp '{}'",
            time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
        )
    })
}

fn service() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["cart", "mail", "checkout", "", LONG, &LONG[..64]])
}

fn compare() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["=", "<>", "<", "<=", ">", ">="])
}

fn leaf() -> impl Strategy<Value = String> {
    prop_oneof![
        (compare(), time()).prop_map(|(op, time)| format!("ts {op} {time}")),
        (time(), time()).prop_map(|(from, to)| format!("ts between {from} and {to}")),
        (compare(), service()).prop_map(|(op, service)| format!("service_name {op} '{service}'")),
        (service(), service()).prop_map(|(one, other)| format!("service_name in ('{one}', '{other}')")),
        (service(), service()).prop_map(|(one, other)| format!("service_name not in ('{one}', '{other}')")),
        service().prop_map(|service| format!("service_name like '{}%'", &service[..service.len().min(3)])),
        Just("service_name is null".to_owned()),
        Just("service_name is not null".to_owned()),
        (0..110u8).prop_map(|trace| format!("trace_id = '{}'", trace_hex(trace))),
        (0..110u8, 0..110u8).prop_map(|(one, other)| format!(
            "trace_id in ('{}', '{}')",
            trace_hex(one),
            trace_hex(other)
        )),
        (compare(), 0..12_000i64).prop_map(|(op, duration)| format!("duration_ns {op} {duration}")),
        (compare(), 199..211i32).prop_map(|(op, status)| format!("http_status {op} {status}")),
        (
            compare(),
            prop::sample::select(vec!["2026-11-21", "2026-11-22", "2026-11-23"])
        )
            .prop_map(|(op, date)| format!("date {op} '{date}'")),
        (compare(), 0..12i64).prop_map(|(op, batch)| format!("batch_id {op} {batch}")),
        (compare(), 0..3i8).prop_map(|(op, status)| format!("status_code {op} {status}")),
    ]
}

fn predicate() -> impl Strategy<Value = String> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" and "))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|any| format!("({})", any.join(" or "))),
            inner.prop_map(|not| format!("not ({not})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn no_answer_changes(predicate in predicate()) {
        let (runtime, fixture) = alone();
        let counted = format!("select count(*), sum(duration_ns), min(ts), max(service_name), count(http_status) from spans where {predicate}");
        // Every column: what is the same in all of a file is not read from it.
        let listed = format!("select * from spans where {predicate} order by span_id limit 500");
        runtime.block_on(async {
            let mut answers = Vec::new();
            for pruning in [true, false] {
                fixture.engine.set_pruning(pruning);
                answers.push((fixture.ask(&counted).await.unwrap(), fixture.ask(&listed).await.unwrap()));
            }
            prop_assert_eq!(&answers[0], &answers[1], "{}", predicate);
            // The list counts what the count counts: with row filters in the scan and without.
            let count: usize = answers[0].0[0].split(',').next().unwrap().parse().unwrap();
            prop_assert_eq!(count, answers[0].1.len());
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn rows_in_runs_are_aggregated_as_rows_are(predicate in predicate()) {
        let (runtime, fixture) = alone();
        let ask = |service: &str| format!(
            "select {service} service, date_trunc('minute', ts) m, count(*), sum(duration_ns) filter (where status_code <> 2), \
             percentile_cont(duration_ns, 0.9), exphist_quantile(exphist(duration_ns), 0.9) \
             from spans where {predicate} group by 1, 2 order by 1, 2"
        );
        runtime.block_on(async {
            fixture.engine.set_pruning(true);
            // What is made of a column is in no known order.
            let (runs, rows) = (ask("service_name"), ask("service_name || ''"));
            prop_assert_eq!(fixture.ask(&runs).await.unwrap(), fixture.ask(&rows).await.unwrap());
            for (sql, in_runs) in [(runs, true), (rows, false)] {
                let plan = fixture.ask(&format!("explain {sql}")).await.unwrap().join("\n");
                prop_assert!(plan.contains("RunAggregateExec") == in_runs || !plan.contains(".parquet"), "{}", plan);
            }
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn the_first_rows_are_the_first(
        column in prop::sample::select(vec!["duration_ns", "ts", "http_status", "batch_id", "service_name"]),
        order in prop::sample::select(vec!["", "desc", "desc nulls last", "asc nulls first"]),
        (limit, offset) in (0..9usize, 0..4usize),
        from in prop::sample::select(vec![
            "spans",
            "(select duration_ns as ts, ts as duration_ns, http_status, batch_id, service_name from spans) s",
            "(select * from spans where status_code = 2) s",
            "(select * from spans order by duration_ns limit 30) s",
            "(select * from spans union all select * from spans) s",
            "(select distinct duration_ns, ts, http_status, batch_id, service_name from spans) s",
            "spans a join spans b using (span_id, duration_ns, ts, http_status, batch_id, service_name)",
        ]),
    ) {
        let (runtime, fixture) = alone();
        let sql = format!("select {column} from {from} order by {column} {order} limit {limit} offset {offset}");
        runtime.block_on(async {
            let mut answers = Vec::new();
            for pruning in [true, false] {
                fixture.engine.set_pruning(pruning);
                answers.push(fixture.ask(&sql).await.unwrap());
            }
            prop_assert_eq!(&answers[0], &answers[1], "{}", sql);
            Ok(())
        })?;
    }
}

/// The bound of the first rows is there: no test of answers would miss it.
#[test]
fn the_first_rows_have_a_bound() {
    let (runtime, fixture) = alone();
    runtime.block_on(async {
        fixture.engine.set_pruning(true);
        let check = async |sql: &str, bound: Option<&str>| {
            let plan = fixture.ask(&format!("explain {sql}")).await.unwrap().join("\n");
            let scan = plan.lines().find(|line| line.contains(".parquet")).unwrap_or_default();
            assert_eq!(
                bound.is_some_and(|bound| scan.contains(bound)),
                bound.is_some(),
                "{sql}: {plan}"
            );
            assert!(
                bound.is_some() || !scan.contains("predicate=duration_ns@4"),
                "{sql}: {scan}"
            );
        };
        check(
            "select name from spans order by duration_ns desc limit 3",
            Some("predicate=duration_ns@4 >= "),
        )
        .await;
        check(
            "select name, duration_ns d from spans order by d limit 2 offset 1",
            Some("predicate=duration_ns@4 <= "),
        )
        .await;
        check(
            "select * from (select duration_ns as x from spans) order by x desc limit 3",
            Some(" >= "),
        )
        .await;
        check(
            "select name from spans where kind = 2 order by duration_ns desc limit 3",
            None,
        )
        .await;
        check("select name from spans order by duration_ns + 1 desc limit 3", None).await;
        check("select name from spans order by duration_ns desc limit 100000", None).await;
        check("select name from spans order by http_status desc limit 3", None).await;
    });
}

/// A trace found by its times first is the trace found by its id: parts that came late, in other files and in the outbox, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_whole_when_it_is_found_by_time_first() {
    let mut fixture = Fixture::with_outbox().await;
    let span = |trace: u8, at: u8| Span {
        ts: MIDNIGHT + i64::from(trace) * 1000 + i64::from(at) * 7,
        trace,
        span: at,
        ..Span::default()
    };
    for part in 0..6u8 {
        // Every trace has a span in two batches, one an hour late.
        let mut spans: Vec<Span> = (0..50u8).map(|at| span(part * 10 + at / 5, at)).collect();
        spans.extend((0..5u8).map(|at| Span {
            ts: MIDNIGHT + 3_600_000_000,
            ..span(part.saturating_sub(1) * 10 + at, 200 + at)
        }));
        fixture.append_with_parts(&spans);
    }
    fixture.commit_to(4).await;
    let mut found = 0;
    for trace in (0..62u8).chain([255]) {
        let sql = format!(
            "select hex_id(span_id), ts, batch_id from spans where trace_id = '{}' order by 1, 2, 3",
            trace_hex(trace)
        );
        let mut answers = Vec::new();
        for rows_min in [0, u64::MAX] {
            fixture.engine.set_window_rows_min(rows_min);
            answers.push(fixture.ask(&sql).await.unwrap());
        }
        assert_eq!(answers[0], answers[1], "{sql}");
        found += answers[0].len();
    }
    assert_eq!(found, 6 * 55);
    fixture.engine.set_window_rows_min(0);
    // A trace that `traces` does not know is in no file.
    let plan = fixture
        .ask(&format!(
            "explain select * from spans where trace_id = '{}'",
            trace_hex(250)
        ))
        .await
        .unwrap()
        .join("\n");
    assert!(!plan.contains(".parquet"), "{plan}");
}

/// Files declare their order; the answer must be in it where files overlap and where services are null.
#[tokio::test]
async fn a_declared_order_is_the_order_of_the_rows() {
    let mut fixture = Fixture::new().await;
    for part in 0..5u8 {
        fixture
            .commit(&(0..20u8).map(|at| span(part, at)).collect::<Vec<_>>())
            .await;
    }
    // These do not overlap and follow each other.
    for at in 0..3i64 {
        fixture
            .commit(&[Span {
                ts: MIDNIGHT + 1_000_000 * at,
                service: Some("zoo"),
                ..Span::default()
            }])
            .await;
    }
    for filter in ["true", "service_name = 'zoo'", "service_name is null", "batch_id > 4"] {
        let rows = fixture
            .ask(&format!(
                "select coalesce(service_name, ''), name, ts from spans where {filter}"
            ))
            .await
            .unwrap();
        let mut expect = rows.clone();
        expect.sort();
        let ordered = format!(
            "select coalesce(service_name, ''), name, ts from spans where {filter} order by service_name nulls first, name, ts"
        );
        // CSV writes an empty text as two quotes, which sort before letters as null does.
        assert_eq!(fixture.ask(&ordered).await.unwrap(), expect, "{filter}");
        let reversed = format!(
            "{} limit 7",
            ordered.replace(" nulls first, name, ts", " desc nulls last, name desc, ts desc")
        );
        expect.reverse();
        expect.truncate(7);
        assert_eq!(fixture.ask(&reversed).await.unwrap(), expect, "{filter}");
    }
    let plan = fixture
        .ask("explain select ts from spans where service_name = 'zoo' and name = 'GET /' order by ts")
        .await
        .unwrap()
        .join("\n");
    assert!(!plan.contains("SortExec"), "{plan}");
}
