//! Levels of `red`: every question has the answer that the same rows give without them.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Date32Array, TimestampMicrosecondArray};
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::exphist::ExpHist;
use tailwater_model::red::{RedKey, RedRow, WEIGHT_ONE, red_batch};
use tailwater_model::table::Table;
use tailwater_openslo::annotation::NoData;
use tailwater_openslo::{Period, ResolvedSlo, read, resolve};
use tailwater_query::{http, slo};
use tailwater_slo::evaluate::Exhaustion;
use tailwater_slo::{Settings, Time};
use tailwater_storage::lake::app_id;
use tailwater_storage::maintain::{Keeper, Policy, Report};
use tower::ServiceExt;

use crate::fixtures::{self, Fixture, LOG, MIDNIGHT};

const DAY: i64 = 86_400;
/// 2026-11-22T00:00:00Z, s since 1970. Days of the tests go before it.
const T0: i64 = MIDNIGHT / 1_000_000;
const MS: u64 = 1_000_000;

fn row(rng: &mut SmallRng, from: i64, to: i64) -> RedRow {
    const THRESHOLDS: [&[u64]; 2] = [&[300 * MS], &[]];
    let (service, operation) = (rng.random_range(0..2), rng.random_range(0..2));
    let is_error = rng.random_range(0..10) == 0;
    let durations: Vec<u64> = (0..rng.random_range(1..4))
        .map(|_| rng.random_range(1..900) * MS)
        .collect();
    let mut sketch = ExpHist::new();
    durations.iter().for_each(|ns| sketch.record(*ns as f64));
    let n = durations.len() as u64;
    let at = rng.random_range(from..to).div_euclid(10) * 10;
    let thresholds = THRESHOLDS[usize::from(rng.random_range(0..8) == 0)].iter();
    RedRow {
        key: Arc::new(RedKey {
            tenant: "default".into(),
            service_name: ["cart", "checkout"][service].into(),
            operation: ["GET /", "POST /pay"][operation].into(),
            kind: 2,
            is_entry: operation == 1 || service == 0,
            is_error,
            status_class: if is_error { "5xx" } else { "2xx" }.into(),
            error_type: if is_error { "500" } else { "" }.into(),
            ..RedKey::default()
        }),
        slice_ns: at as u64 * 1_000_000_000,
        slice_s: 10,
        n,
        sum_ns: durations.iter().sum(),
        max_ns: durations.iter().copied().max().unwrap_or_default(),
        exphist: sketch.encode(),
        registers: thresholds
            .map(|threshold| {
                (
                    *threshold,
                    durations.iter().filter(|ns| *ns <= threshold).count() as u64,
                )
            })
            .collect(),
        n_weighted: n * WEIGHT_ONE,
        exemplar: None,
    }
}

async fn keep(fixture: &Fixture, table: Table, now_s: i64) -> Report {
    keep_by(fixture, table, now_s, |policy| policy).await
}

async fn keep_by(fixture: &Fixture, table: Table, now_s: i64, change: impl Fn(Policy) -> Policy) -> Report {
    let policy = change(Policy {
        // Files are as young as the test.
        quiet_ms: -1000 * DAY * 1000,
        vacuum_after_ms: i64::MAX / 4,
        merge_files_min: 2,
        ..Policy::of(table)
    });
    let turn = Arc::new(tokio::sync::Semaphore::new(1));
    let mut keeper = Keeper::new(fixture.lake.clone(), table, policy, turn);
    keeper.run_once(now_s * 1000).await.unwrap()
}

/// Batches of rows: in the outbox, and in the table too if it was committed.
async fn append(fixture: &mut Fixture, rows: &[RedRow], committed: bool) {
    for rows in rows.chunks(150) {
        let batch = red_batch(rows);
        fixture.append_rows(Table::Red, &batch);
        if committed {
            let committer = fixture.lake.committer(Table::Red, app_id(LOG, Table::Red));
            committer.append(&[batch]).await.unwrap();
        }
    }
}

/// The same five days twice: as they were committed, and with levels. Days before the last two are folded, hours of all but the last are derived,
/// two hours have late rows since, and the newest rows are in the outbox alone.
async fn both() -> [Fixture; 2] {
    let mut fixtures = [Fixture::with_outbox().await, Fixture::with_outbox().await];
    for (at, fixture) in fixtures.iter_mut().enumerate() {
        let mut rng = SmallRng::seed_from_u64(11);
        let mut some =
            |count: usize, from: i64, to: i64| -> Vec<RedRow> { (0..count).map(|_| row(&mut rng, from, to)).collect() };
        for day in -4..=0 {
            append(fixture, &some(600, T0 + day * DAY, T0 + (day + 1) * DAY), true).await;
        }
        if at == 1 {
            let now = T0 + DAY + 1800;
            assert!(keep(fixture, Table::Red, now).await.folded_rows > 0);
            assert_eq!(keep(fixture, Table::Red15m, now).await.derived_days, 5);
            assert_eq!(keep(fixture, Table::Red1h, now).await.derived_days, 5);
        }
        append(fixture, &some(40, T0 - 2 * DAY + 3600, T0 - 2 * DAY + 7200), true).await;
        append(fixture, &some(40, T0 + 10 * 3600, T0 + 11 * 3600), true).await;
        append(fixture, &some(300, T0 + DAY, T0 + DAY + 1500), true).await;
        append(fixture, &some(60, T0 - 3 * DAY, T0 + DAY + 1600), false).await;
    }
    fixtures
}

const SUMS: &str = "sum(n), sum(errors), sum(sum_ns), max(max_ns), sum(n_weighted), sum(register_le(registers, 300000000)), \
                    exphist_count(exphist_merge(exphist)), exphist_quantile(exphist_merge(exphist), 0.99)";

#[tokio::test(flavor = "multi_thread")]
async fn sums_over_whole_slices_are_those_of_red() {
    let [plain, leveled] = both().await;
    for (table, seconds) in [("red", 60), ("red_15m", 900), ("red_1h", 3600)] {
        for condition in [
            "true",
            "service_name = 'cart' and not is_error",
            "ts >= timestamp '2026-11-19T00:00:00Z' and ts < timestamp '2026-11-22T11:00:00Z'",
            "date = date '2026-11-20'",
        ] {
            let text = |table: &str| {
                format!(
                    "select date_bin(interval '{seconds} seconds', ts), service_name, operation, is_error, status_class, {SUMS} from {table} \
                     where {condition} group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5"
                )
            };
            let expected = plain.ask(&text("red")).await.unwrap();
            assert!(expected.len() > 10);
            assert_eq!(
                leveled.ask(&text(table)).await.unwrap(),
                expected,
                "{table} {condition}"
            );
            assert_eq!(
                plain.ask(&text(table)).await.unwrap(),
                expected,
                "{table} not derived, {condition}"
            );
        }
    }
    // And they are fewer rows.
    let rows = async |table: &str| -> u64 {
        leveled
            .value(&format!("select count(*) from {table}"))
            .await
            .parse()
            .unwrap()
    };
    assert!(rows("red_1h").await < rows("red_15m").await && rows("red_15m").await < rows("red").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_that_hold_are_not_read_from_red() {
    let [_, leveled] = both().await;
    let text = "select date_bin(interval '1 hour', ts), sum(n) from red_1h where ts < timestamp '2026-11-19T00:00:00Z' group by 1 order by 1";
    let expected = leveled.ask(text).await.unwrap();
    std::fs::remove_dir_all(leveled.directory.path().join("lake/red/date=2026-11-18")).unwrap();
    assert_eq!(leveled.ask(text).await.unwrap(), expected);
    assert!(leveled.ask(&text.replace("red_1h", "red")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn views_add_up_what_their_slices_cover() {
    let [plain, leveled] = both().await;
    for (suffix, seconds) in [("", 60), ("_15m", 900), ("_1h", 3600)] {
        let moment = format!(
            "select date_bin(interval '{seconds} seconds', min(ts)) from red \
             where is_entry and service_name = 'checkout' and ts >= timestamp '2026-11-21T05:00:00Z'"
        );
        let moment = plain.value(&moment).await;
        for (view, keys, only) in [
            ("service_red", "service_name", "is_entry"),
            ("operation_red", "service_name, operation, kind, is_entry", "true"),
        ] {
            for (condition, beneath) in [
                ("true", "true"),
                ("service_name = 'checkout'", "service_name = 'checkout'"),
                (
                    "ts >= timestamp '2026-11-20T00:30:00Z' and ts <= timestamp '2026-11-22T10:20:00Z'",
                    "date_bin(interval '{} seconds', ts) >= timestamp '2026-11-20T00:30:00Z' \
                     and date_bin(interval '{} seconds', ts) <= timestamp '2026-11-22T10:20:00Z'",
                ),
                (
                    &*format!("timestamp '{moment}' = ts and date = date '2026-11-21'"),
                    &*format!("date_bin(interval '{{}} seconds', ts) = timestamp '{moment}'"),
                ),
            ] {
                let expected = format!(
                    "select arrow_cast(date_bin(interval '{seconds} seconds', ts), 'Timestamp(Microsecond, Some(\"UTC\"))'), \
                     {keys}, sum(n), sum(errors), sum(n) / {seconds}.0e0, \
                     sum(errors) / (sum(n) * 1.0e0), exphist_quantile(exphist_merge(exphist), 0.5), \
                     exphist_quantile(exphist_merge(exphist), 0.99), max(max_ns) from red where {only} and {} \
                     group by 1, {keys} order by 1, {keys}",
                    beneath.replace("{}", &seconds.to_string())
                );
                let asked = format!(
                    "select ts, {keys}, requests, errors, rate, error_share, p50_ns, p99_ns, max_ns from {view}{suffix} \
                     where {condition} order by ts, {keys}"
                );
                let expected = plain.ask(&expected).await.unwrap();
                assert!(!expected.is_empty(), "{condition}");
                assert_eq!(leveled.ask(&asked).await.unwrap(), expected, "{asked}");
                assert_eq!(plain.ask(&asked).await.unwrap(), expected, "{asked}");
            }
        }
    }
    let listed = leveled
        .ask("select table_name from information_schema.tables where table_schema = 'lake' and table_name like '%red%' order by 1")
        .await
        .unwrap();
    assert_eq!(
        listed,
        [
            "operation_red",
            "operation_red_15m",
            "operation_red_1h",
            "red",
            "red_15m",
            "red_1h",
            "service_red",
            "service_red_15m",
            "service_red_1h"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_reads_what_the_conditions_leave() {
    let [_, leveled] = both().await;
    let text = "select sum(requests) from service_red where ts >= timestamp '2026-11-21T12:00:00Z' and ts < timestamp '2026-11-21T13:00:00Z'";
    let expected = leveled.value(text).await;
    std::fs::remove_dir_all(leveled.directory.path().join("lake/red/date=2026-11-19")).unwrap();
    assert_eq!(leveled.value(text).await, expected);
}

fn document(metric: &str, method: &str, objective: &str, window: &str) -> Vec<ResolvedSlo> {
    let text = format!(
        "apiVersion: openslo/v1\nkind: SLO\nmetadata: {{name: pay}}\nspec:\n  service: checkout\n  indicator:\n    metadata: {{name: pay}}\n    \
         spec:\n      {metric}\n  timeWindow: [{{duration: {window}, isRolling: true}}]\n  budgetingMethod: {method}\n  objectives: [{{{objective}}}]\n"
    );
    let reading = read(Path::new("pay.yaml"), &text);
    assert_eq!(reading.problems, [], "{text}");
    let resolved = resolve(&reading.documents);
    assert_eq!(resolved.problems, [], "{text}");
    resolved.slos
}

/// Errors, durations with a register and without, and a ratio of two counts.
const METRICS: [&str; 4] = [
    "ratioMetric: {rawType: success, raw: {metricSource: {type: tailwater, spec: {red: {service: checkout, good: {errors: exclude}}}}}}",
    "ratioMetric: {rawType: success, raw: {metricSource: {type: tailwater, spec: {red: {service: checkout, good: {maxDuration: 300ms, errors: exclude}}}}}}",
    "ratioMetric: {rawType: success, raw: {metricSource: {type: tailwater, spec: {red: {service: cart, good: {maxDuration: 250ms, errors: include}}}}}}",
    "ratioMetric: {counter: false, bad: {metricSource: {type: tailwater, spec: {red: {service: checkout, statusClass: 5xx}}}}, \
     total: {metricSource: {type: tailwater, spec: {red: {service: checkout}}}}}",
];

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_the_same() {
    let [plain, leveled] = both().await;
    for metric in METRICS {
        for (method, objective) in [
            ("Occurrences", "displayName: a, target: 0.9"),
            (
                "Timeslices",
                "displayName: b, target: 0.9, timeSliceTarget: 0.8, timeSliceWindow: 15m",
            ),
            (
                "Timeslices",
                "displayName: c, target: 0.9, timeSliceTarget: 0.8, timeSliceWindow: 1h",
            ),
        ] {
            for (window, at) in [("3d", T0 + DAY + 1600), ("90m", T0 - DAY + 1234), ("4d", T0 + 7 * 3600)] {
                let slos = document(metric, method, objective, window);
                let [expected, found] = [&plain, &leveled].map(|fixture| {
                    let slos = slos.clone();
                    async move {
                        slo::report(&fixture.engine, &slos, &Settings::default(), Time(at))
                            .await
                            .unwrap()
                    }
                });
                let (expected, found) = (expected.await, found.await);
                assert_eq!(expected.report.objectives.len(), 1);
                assert_eq!(
                    format!("{:#?}", found.report),
                    format!("{:#?}", expected.report),
                    "{metric} {method} {window}"
                );
            }
        }
    }
}

/// Minutes are gone, hours and the ledger are not: slices of minutes are judged as far as there are any.
#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_is_no_silence() {
    let mut fixture = Fixture::new().await;
    let mut rng = SmallRng::seed_from_u64(12);
    let rows: Vec<RedRow> = (-4 * 144..144)
        .flat_map(|step| (0..20).map(move |_| step * 600))
        .map(|from| row(&mut rng, T0 + from, T0 + from + 600))
        .collect();
    fixture.commit_rows(Table::Red, &red_batch(&rows)).await;
    let ledger: Vec<i64> = (-4 * DAY..DAY).step_by(300).map(|at| (T0 + at) * 1_000_000).collect();
    let ledger = fixtures::rows(Table::Ledger, ledger.len(), |column| {
        let times = TimestampMicrosecondArray::from(ledger.clone()).with_timezone("UTC");
        let dates = ledger.iter().map(|us| us.div_euclid(86_400_000_000) as i32);
        match column {
            "ts" => Some(Arc::new(times)),
            "date" => Some(Arc::new(Date32Array::from_iter_values(dates))),
            _ => None,
        }
    });
    fixture.commit_rows(Table::Ledger, &ledger).await;
    let now = T0 + DAY + 1800;
    for table in [Table::Red15m, Table::Red1h] {
        assert_eq!(keep(&fixture, table, now).await.derived_days, 5);
    }
    for table in [Table::Red, Table::Red15m] {
        let policy = |policy: Policy| Policy {
            retention_days: Some(2),
            ..policy
        };
        assert!(keep_by(&fixture, table, now, policy).await.expired_rows > 0);
    }
    // Slices, no-data, and what is judged of four days: the last two, or all of them.
    for (width, no_data, days) in [
        ("5m", NoData::Gap, 2),
        ("5m", NoData::Good, 2),
        ("5m", NoData::Bad, 2),
        ("30m", NoData::Bad, 2),
        ("1h", NoData::Bad, 4),
        ("2h", NoData::Gap, 4),
    ] {
        for metric in [METRICS[0], METRICS[3]] {
            let objective = format!("target: 0.5, timeSliceTarget: 0.5, timeSliceWindow: {width}");
            let mut slos = document(metric, "Timeslices", &objective, "4d");
            slos[0].extensions.no_data = no_data;
            let at = Time(T0 + DAY);
            let reported = slo::report(&fixture.engine, &slos, &Settings::default(), at)
                .await
                .unwrap();
            let objective = &reported.report.objectives[0];
            let window = &objective.windows[0];
            let what = format!("{width} {no_data:?} {window:?}");
            let judged = window.partial_seconds.unwrap_or(4 * DAY as u64).div_ceil(DAY as u64);
            assert_eq!(judged, days, "{what}");
            let slices = window.slices.unwrap();
            assert!(
                slices.measured * Period::parse(width).unwrap().nominal().as_secs() <= days * DAY as u64,
                "{what}"
            );
            assert!(
                window.coverage > 0.99 && slices.bad <= slices.measured as f64 / 2.0,
                "{what}"
            );
            assert_eq!(
                objective.notes.iter().any(|note| note.starts_with("partial")),
                days == 2,
                "{what}"
            );
            assert_eq!(
                matches!(window.exhaustion, Exhaustion::Unknown { .. }),
                days == 2,
                "{what}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_the_same() {
    let [plain, leveled] = both().await;
    let (from, to) = (T0 - 4 * DAY, T0 + DAY);
    for (query, step) in [
        ("sum by (service) (rate(traces_spanmetrics_calls_total[1h]))", 3600),
        ("increase(traces_spanmetrics_calls_total{service=\"cart\"}[2h])", 7200),
        ("sum by (span_name) (rate(traces_spanmetrics_calls_total[30m]))", 1800),
        ("sum(rate(traces_spanmetrics_calls_total[5m]))", 3600),
        (
            "histogram_quantile(0.99, sum by (le) (rate(traces_spanmetrics_latency_bucket[1h])))",
            3600,
        ),
        ("sum(increase(traces_spanmetrics_latency_sum[1h]))", 3600),
        ("traces_spanmetrics_calls_total", 7200),
    ] {
        for shift in [0, 60] {
            let mut answers = Vec::new();
            for fixture in [&plain, &leveled] {
                let params = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("query", query)
                    .append_pair("start", &(from + 7200 + shift).to_string())
                    .append_pair("end", &(to + shift).to_string())
                    .append_pair("step", &step.to_string())
                    .finish();
                let uri = format!("/prometheus/api/v1/query_range?{params}");
                let request = Request::get(uri).body(Body::empty()).unwrap();
                let response = http::router(http::Desk::open(fixture.engine.clone()))
                    .oneshot(request)
                    .await
                    .unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                answers.push(String::from_utf8(body.to_vec()).unwrap());
            }
            assert!(answers[0].contains("\"values\""), "{query}: {}", answers[0]);
            assert_eq!(answers[1], answers[0], "{query} shifted by {shift} s");
        }
    }
}
