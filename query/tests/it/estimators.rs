//! Estimates from a sampled table: against what was there, and against `red`, which counted before sampling.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::exphist::ExpHist;
use tailwater_model::red::{RedKey, RedRow, WEIGHT_ONE, red_batch};
use tailwater_model::table::Table;
use tailwater_query::{ErrorKind, Limits, http};
use tower::ServiceExt;

use crate::fixtures::{Fixture, MIDNIGHT, Span, with_batch_id};

/// Traces of 1 to 6 spans; 1 in 20 has an error. All traces with errors or whose first span is above 40 ms are kept, of the others 1 in 10.
///
/// The trace ids of fixtures are one byte, so `http_status` names the trace here.
fn traffic(traces: i32) -> (Vec<Span>, Vec<Span>) {
    let mut random = SmallRng::seed_from_u64(4);
    let (mut all, mut kept) = (Vec::new(), Vec::new());
    for trace in 0..traces {
        let failed = random.random_bool(0.05);
        let scale = (-(random.random_range(0.0..1.0_f64)).max(1e-9).ln()) * 10.0;
        let spans: Vec<Span> = (0..random.random_range(1..=6))
            .map(|span| Span {
                ts: MIDNIGHT + i64::from(trace) * 1000,
                span,
                http_status: Some(trace),
                duration_ns: (1e6 * scale * random.random_range(0.5..2.0)) as i64 + 1,
                status_code: if failed && span == 0 { 2 } else { 0 },
                ..Span::default()
            })
            .collect();
        let weight = if failed || spans[0].duration_ns > 40_000_000 {
            1.0
        } else {
            10.0
        };
        if random.random_bool(1.0 / weight) {
            kept.extend(spans.iter().cloned().map(|span| Span {
                weight: Some(weight),
                ..span
            }));
        }
        all.extend(spans);
    }
    (all, kept)
}

fn red_of(spans: &[Span]) -> Vec<RedRow> {
    let row = |error: bool| {
        let of: Vec<u64> = spans
            .iter()
            .filter(|span| (span.status_code == 2) == error)
            .map(|span| span.duration_ns as u64)
            .collect();
        let mut sketch = ExpHist::new();
        of.iter().for_each(|ns| sketch.record(*ns as f64));
        RedRow {
            key: Arc::new(RedKey {
                tenant: "default".into(),
                service_name: "cart".into(),
                operation: "GET /".into(),
                kind: 2,
                is_entry: true,
                is_error: error,
                ..RedKey::default()
            }),
            slice_ns: MIDNIGHT as u64 * 1000,
            slice_s: 10,
            n: of.len() as u64,
            sum_ns: of.iter().sum(),
            max_ns: of.iter().copied().max().unwrap_or(0),
            exphist: sketch.encode(),
            registers: Vec::new(),
            n_weighted: of.len() as u64 * WEIGHT_ONE,
            exemplar: None,
        }
    };
    vec![row(false), row(true)]
}

async fn sampled() -> (Fixture, Vec<Span>) {
    let mut fixture = Fixture::new().await;
    let (all, kept) = traffic(8000);
    // In several files, so that plans have parts to merge.
    for part in kept.chunks(kept.len() / 4 + 1) {
        fixture.commit(part).await;
    }
    let red = vec![with_batch_id(&red_batch(&red_of(&all)), 1)];
    let committer = fixture.lake.committer(Table::Red, "collector/test/red");
    committer.commit(0, 1, red).await.unwrap();
    (fixture, all)
}

fn numbers(line: &str) -> Vec<f64> {
    line.split(',')
        .map(|cell| cell.parse().unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

#[tokio::test]
async fn rows_and_red_tell_the_same_story() {
    let (fixture, all) = sampled().await;
    let red = fixture
        .ask("select sum(n), sum(n) filter (where is_error) / sum(n)::double, exphist_quantile(exphist_merge(exphist), 0.99) from red")
        .await
        .unwrap();
    let red = numbers(&red[0]);
    assert_eq!(red[0], all.len() as f64, "red counts what was there");
    let rows = fixture
        .ask(
            "with e as (select ht_sum_interval(1, sample_weight, http_status) c, \
             ht_ratio_interval(case when status_code = 2 then 1 else 0 end, 1, sample_weight, http_status) s, \
             wquantile_interval(duration_ns, sample_weight, 0.99, http_status) q, \
             ht_sum(1, sample_weight) pc, ht_ratio(case when status_code = 2 then 1 else 0 end, 1, sample_weight, http_status) ps, \
             wquantile(duration_ns, sample_weight, 0.99) pq from spans) \
             select c.low, c.estimate, c.high, pc, s.low, s.estimate, s.high, ps, q.low, q.estimate, q.high, pq, c.n, c.n_effective from e",
        )
        .await
        .unwrap();
    let rows = numbers(&rows[0]);
    // A sketch is off by 1.09 % at most.
    for (found, truth, slack) in [
        (&rows[0..4], red[0], 0.0),
        (&rows[4..8], red[1], 0.0),
        (&rows[8..12], red[2], 0.011),
    ] {
        assert!(
            found[0] <= truth * (1.0 + slack) && truth * (1.0 - slack) <= found[2],
            "{found:?} for {truth}"
        );
        assert!(found[0] < found[1] && found[1] < found[2], "{found:?}");
        assert!((found[1] - found[3]).abs() <= 1e-9 * found[1], "{found:?}");
        assert!(
            found[2] - found[0] < 0.25 * truth,
            "{found:?} says something of {truth}"
        );
    }
    let (n, effective) = (rows[12], rows[13]);
    assert!(n > 800.0 && n < 2000.0 && effective < n, "{n} {effective}");
}

#[tokio::test]
async fn groups_add_up_in_any_number_of_parts() {
    let (fixture, _) = sampled().await;
    let by = "select sum(e) from (select ht_sum(duration_ns, sample_weight) e from spans group by span_id)";
    let whole = "select ht_sum_interval(duration_ns, sample_weight, http_status)['estimate'] from spans";
    assert_eq!(fixture.ask(by).await.unwrap(), fixture.ask(whole).await.unwrap());
}

async fn notes(fixture: &Fixture, sql: &str) -> String {
    let request = Request::post("/api/v1/sql").body(Body::from(sql.to_owned())).unwrap();
    let reply = http::router(http::Desk::open(fixture.engine.clone()))
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(reply.status(), 200, "{sql}");
    reply
        .headers()
        .get("tailwater-notes")
        .map(|notes| notes.to_str().unwrap().to_owned())
        .unwrap_or_default()
}

#[tokio::test]
async fn answers_say_when_they_rest_on_little() {
    let fixture = Fixture::new().await;
    let check = async |sql: &str, expect: &str| assert_eq!(notes(&fixture, sql).await, expect, "{sql}");
    check("select ht_sum(v, 2) from generate_series(1, 100) x(v)", "").await;
    check("select ht_sum(v, 1) from generate_series(1, 3) x(v)", "").await;
    check(
        "select ht_sum(v, 2) from generate_series(1, 29) x(v)",
        "ht_sum: the estimate rests on an effective n under 30",
    )
    .await;
    check(
        "select v % 2, wquantile_interval(v, case when v < 10 then null else 3 end, 0.5, v) from generate_series(1, 40) x(v) group by 1",
        "wquantile_interval: 2 of 2 estimates rest on an effective n under 30; wquantile_interval: 9 rows without a weight are left out",
    )
    .await;
    // Of one trace there may be any number of rows.
    for (trace, few) in [(", 'a'", true), (", v % 29", true), (", v", false), ("", false)] {
        check(
            &format!("select ht_ratio(v, 1, 100{trace}) from generate_series(1, 1000) x(v)"),
            if few {
                "ht_ratio: the estimate rests on an effective n under 30"
            } else {
                ""
            },
        )
        .await;
    }
    // A query's remarks are its own.
    check("select ht_sum(v, 2) from generate_series(1, 100) x(v)", "").await;
}

#[tokio::test]
async fn what_they_hold_is_from_the_memory_of_queries() {
    let fixture = Fixture::with_limits(Limits {
        threads: 2,
        memory_bytes_max: 8 << 20,
        ..Limits::default()
    })
    .await;
    for estimate in [
        "ht_sum_interval(v, 2, v)",
        "ht_ratio_interval(v, 1, 2, v)",
        "wquantile(v, 2, 0.5)",
        "wquantile_interval(v, 2, 0.5, v)",
    ] {
        let sql = |rows: u32| format!("select {estimate} from generate_series(1, {rows}) x(v)");
        assert_eq!(fixture.ask(&sql(10_000)).await.unwrap().len(), 1, "{estimate}");
        let error = fixture.ask(&sql(2_000_000)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{estimate}: {error}");
        // And given back.
        assert_eq!(fixture.ask(&sql(10_000)).await.unwrap().len(), 1, "{estimate}");
    }
    // By group it goes through temporary files: the same answers.
    let by_group = "select count(*), sum(e) from (select v % 5000 g, wquantile(v, 2, 1) e from generate_series(1, 400000) x(v) group by 1)";
    assert_eq!(fixture.ask(by_group).await.unwrap(), ["5000,1987502500.0"]);
}
