//! What Grafana's Prometheus data source asks, and what it must get (pkg/promlib and packages/grafana-prometheus of grafana/grafana).

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field};
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tailwater_model::exphist::ExpHist;
use tailwater_model::ids::{SpanId, TraceId};
use tailwater_model::red::{
    EdgeKey, EdgeKind, EdgeRow, Exemplar, RedKey, RedRow, SLICE_NS, Unpaired, WEIGHT_ONE, edge_batch, red_batch,
};
use tailwater_model::table::Table;
use tailwater_query::{Limits, http};
use tower::ServiceExt;

use crate::fixtures::{Fixture, MIDNIGHT, TODAY, rows};
use crate::grafana::exemplar_column;

/// Midnight, s since 1970.
pub(crate) const T0: i64 = MIDNIGHT / 1_000_000;

pub(crate) async fn send(fixture: &Fixture, request: Request<Body>) -> (StatusCode, Value) {
    send_to(http::Desk::open(fixture.engine.clone()), request).await
}

async fn send_to(desk: http::Desk, request: Request<Body>) -> (StatusCode, Value) {
    let response = http::router(desk).oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn encoded(params: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(params)
        .finish()
}

pub(crate) async fn get(fixture: &Fixture, path: &str, params: &[(&str, &str)]) -> (StatusCode, Value) {
    let uri = format!("/prometheus/api/v1/{path}?{}", encoded(params));
    send(fixture, Request::get(uri).body(Body::empty()).unwrap()).await
}

pub(crate) async fn form(fixture: &Fixture, path: &str, params: &[(&str, &str)]) -> (StatusCode, Value) {
    let request = Request::post(format!("/prometheus/api/v1/{path}"))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(encoded(params)))
        .unwrap();
    send(fixture, request).await
}

/// `data` of an answer that must be a success, by GET and by POST alike.
pub(crate) async fn data(fixture: &Fixture, path: &str, params: &[(&str, &str)]) -> Value {
    let (status, answer) = get(fixture, path, params).await;
    assert_eq!(status, StatusCode::OK, "{path} {params:?}: {answer}");
    assert_eq!(answer["status"], "success");
    assert_eq!(form(fixture, path, params).await, (status, answer.clone()), "{path}");
    answer["data"].clone()
}

/// The result of an instant query, `metric value` per series, in order.
pub(crate) async fn instant(fixture: &Fixture, query: &str, time: i64) -> Vec<String> {
    let data = data(fixture, "query", &[("query", query), ("time", &time.to_string())]).await;
    assert_eq!(data["resultType"], "vector", "{query}");
    let samples = data["result"].as_array().unwrap().iter();
    let mut lines: Vec<String> = samples
        .map(|sample| {
            format!(
                "{} {}",
                sample["metric"],
                sample["value"][1].as_str().unwrap_or("histogram")
            )
        })
        .collect();
    lines.sort();
    lines
}

/// What an instant query says of each service at its time, asked a while later.
async fn by_service(fixture: &Fixture, query: &str, time: i64, later: i64) -> Vec<(String, f64)> {
    let desk = http::Desk::open(fixture.engine.clone()).at((time + later) * 1000);
    let params = encoded(&[("query", query), ("time", &time.to_string())]);
    let request = Request::get(format!("/prometheus/api/v1/query?{params}"));
    let (status, answer) = send_to(desk, request.body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{query}: {answer}");
    let samples = answer["data"]["result"].as_array().unwrap().iter();
    let mut found: Vec<(String, f64)> = samples
        .map(|sample| {
            let service = sample["metric"]["service"].as_str().unwrap_or_default();
            (
                service.to_owned(),
                sample["value"][1].as_str().unwrap().parse().unwrap(),
            )
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The one number of an instant query.
pub(crate) async fn number(fixture: &Fixture, query: &str, time: i64) -> f64 {
    let lines = instant(fixture, query, time).await;
    assert_eq!(lines.len(), 1, "{query}: {lines:?}");
    lines[0].rsplit_once(' ').unwrap().1.parse().unwrap()
}

pub(crate) fn key(service: &str, operation: &str, is_error: bool) -> Arc<RedKey> {
    Arc::new(RedKey {
        tenant: "default".into(),
        service_name: service.into(),
        operation: operation.into(),
        service_namespace: "shop".into(),
        kind: 2,
        is_entry: true,
        is_error,
        status_class: if is_error { "5xx" } else { "" }.into(),
        dims: vec![("customer.tier".into(), "gold".into())],
        ..RedKey::default()
    })
}

/// A row with the durations of its spans, ms.
pub(crate) fn red(key: &Arc<RedKey>, slice: u64, durations_ms: &[u64]) -> RedRow {
    let mut sketch = ExpHist::new();
    durations_ms
        .iter()
        .for_each(|ms| sketch.record((ms * 1_000_000) as f64));
    let slice_ns = T0 as u64 * 1_000_000_000 + slice * SLICE_NS;
    RedRow {
        key: key.clone(),
        slice_ns,
        slice_s: 10,
        n: durations_ms.len() as u64,
        sum_ns: durations_ms.iter().sum::<u64>() * 1_000_000,
        max_ns: durations_ms.iter().max().unwrap_or(&0) * 1_000_000,
        exphist: sketch.encode(),
        registers: Vec::new(),
        n_weighted: durations_ms.len() as u64 * WEIGHT_ONE,
        exemplar: Some(Exemplar {
            r: 5,
            ns: 7_000_000,
            end_ns: slice_ns + 1_500_000_000,
            trace: TraceId([0xab; 16]),
            span: SpanId([0xcd; 8]),
        }),
    }
}

/// Ten minutes of `cart`, uneven, with errors; `mail` for three slices in the middle.
fn shop() -> Vec<RedRow> {
    let (ok, bad, mail) = (
        key("cart", "GET /", false),
        key("cart", "GET /", true),
        key("mail", "send", false),
    );
    let mut all = Vec::new();
    for slice in 0..60 {
        let n = (slice * 7 + 3) % 11;
        if n > 0 {
            all.push(red(&ok, slice, &vec![20; n as usize]));
        }
        if slice % 4 == 1 {
            all.push(red(&bad, slice, &[300]));
        }
        if (33..36).contains(&slice) {
            all.push(red(&mail, slice, &[1, 2]));
        }
    }
    all
}

/// How many spans of a service ended in `(from, to]`, in slices.
fn counted(rows: &[RedRow], service: &str, from: u64, to: u64) -> u64 {
    let slice = |row: &RedRow| (row.slice_ns / 1_000_000_000 - T0 as u64) / 10 + 1;
    let of = rows
        .iter()
        .filter(|row| &*row.key.service_name == service && (from + 1..=to).contains(&slice(row)));
    of.map(|row| row.n).sum()
}

async fn filled() -> (Fixture, Vec<RedRow>) {
    let mut fixture = Fixture::new().await;
    let rows = shop();
    fixture.commit_rows(Table::Red, &red_batch(&rows)).await;
    (fixture, rows)
}

/// Where slices are on their way, a counter ends with the newest of the table and not with its own.
#[tokio::test]
async fn what_stopped_does_not_grow_on_while_others_count() {
    // The window asked about is the minute to 00:09:51: `a` counts all the time, `b` last half a minute ago, `c` a minute and a half ago.
    const AT: i64 = T0 + 591;
    let mut fixture = Fixture::new().await;
    let keys = ["a", "b", "c"].map(|service| key(service, "GET /", false));
    let failed = key("a", "GET /", true);
    let mut all: Vec<RedRow> = (0..59).map(|slice| red(&keys[0], slice, &[20])).collect();
    all.extend([(1, 55), (2, 49)].map(|(service, slice)| red(&keys[service], slice, &[20])));
    all.push(red(&failed, 55, &[20]));
    fixture.commit_rows(Table::Red, &red_batch(&all)).await;
    let calls = "traces_spanmetrics_calls_total";
    let check = async |query: &str, time: i64, later: i64, expected: &[(&str, f64)]| {
        let found = by_service(&fixture, query, time, later).await;
        let names = |of: &[(&str, f64)]| of.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
        let found_names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(found_names, names(expected), "{query}");
        for ((_, value), (_, expected)) in found.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-3 * expected, "{query}: {found:?}");
        }
    };
    // The newest slice ended a second ago, with 59 s of the window: the rest is extrapolated, alike for all.
    let grown = 60.0 / 58.999;
    for (range, expected) in [("1m", grown), ("2m", 120.0 / 118.999)] {
        let of_b = [("b", expected)];
        check(&format!("increase({calls}{{service=\"b\"}}[{range}])"), AT, 0, &of_b).await;
    }
    let all = [("a", 7.0 * grown), ("b", grown)];
    check(&format!("sum by (service) (increase({calls}[1m]))"), AT, 0, &all).await;
    let share = format!(
        "sum by (service) (rate({calls}{{status_code=\"STATUS_CODE_ERROR\"}}[1m])) / sum by (service) (rate({calls}[1m]))"
    );
    check(&share, AT, 0, &[("a", 1.0 / 7.0)]).await;
    check(&format!("increase({calls}{{service=\"c\"}}[1m])"), AT, 0, &[]).await;
    // By itself it is there for a look-back after its last slice, in a graph too.
    check(&format!("{calls}{{service=\"c\"}}"), AT, 0, &[("c", 1.0)]).await;
    // Nothing came for a minute: then what there is has stopped, and the same where it had the time to arrive.
    let of_b = [("b", 1.0)];
    let query = format!("increase({calls}{{service=\"b\"}}[2m])");
    check(&query, T0 + 660, 0, &of_b).await;
    check(&query, AT, 3600, &of_b).await;
    check(&query, AT, 61, &of_b).await;
}

/// Where the tables end is asked once a request, and not at all where all had the time to arrive.
#[tokio::test]
async fn the_end_of_a_table_is_asked_once() {
    let (fixture, _) = filled().await;
    let calls = "traces_spanmetrics_calls_total";
    let of = |service: &str| format!("sum by (service) (rate({calls}{{service=\"{service}\"}}[1m]))");
    let query = format!("{} or {}", of("cart"), of("mail"));
    let asked = async |later: i64| {
        let before = fixture.engine.stats().succeeded_total();
        by_service(&fixture, &query, T0 + 600, later).await;
        fixture.engine.stats().succeeded_total() - before
    };
    let at_rest = asked(3600).await;
    assert_eq!(asked(5).await, at_rest + 1);
}

/// A range query reads only what its windows hold: at every moment it says what an instant query says.
#[tokio::test]
async fn windows_that_do_not_touch_say_what_each_alone_says() {
    let (fixture, rows) = filled().await;
    for (range, step) in [(60, 100), (30, 70), (20, 21), (60, 60), (120, 50), (10, 300)] {
        let query = format!("sum by (service) (increase(traces_spanmetrics_calls_total[{range}s]))");
        let (start, end) = (T0 + range, T0 + 600);
        let times = [("start", start), ("end", end), ("step", step)].map(|(name, at)| (name, at.to_string()));
        let mut params: Vec<(&str, &str)> = times.iter().map(|(name, at)| (*name, at.as_str())).collect();
        params.push(("query", &query));
        let answer = data(&fixture, "query_range", &params).await;
        let mut seen = 0.0;
        for series in answer["result"].as_array().unwrap() {
            let service = series["metric"]["service"].as_str().unwrap();
            for point in series["values"].as_array().unwrap() {
                let at = point[0].as_i64().unwrap();
                let value: f64 = point[1].as_str().unwrap().parse().unwrap();
                let alone = instant(&fixture, &query, at).await;
                let of_service = alone.iter().find(|line| line.contains(&format!("\"{service}\"")));
                let expected = of_service.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap());
                assert!(
                    (value - expected).abs() < 0.01 * expected.max(1.0),
                    "{query} at {at}: {value}, alone {expected}"
                );
                if at % 10 == 0 && range % 10 == 0 {
                    let (from, to) = ((at - range - T0) as u64 / 10, (at - T0) as u64 / 10);
                    let counted = counted(&rows, service, from, to) as f64;
                    assert!(
                        (value - counted).abs() < 0.01 * counted.max(1.0),
                        "{query} at {at}: {value} of {counted}"
                    );
                }
                seen += value;
            }
        }
        assert!(seen > 5.0, "{query}: {answer}");
    }
}

/// What has stopped is there for a look-back, in a graph as at each of its moments.
#[tokio::test]
async fn a_graph_shows_what_is_there_at_each_moment() {
    let (fixture, _) = filled().await;
    for (query, step) in [
        ("count by (service) (traces_spanmetrics_calls_total)", 60),
        ("count by (service) (traces_spanmetrics_latency)", 100),
        (
            "count by (service) (traces_spanmetrics_latency_bucket{le=\"+Inf\"})",
            30,
        ),
    ] {
        let times = [("start", T0 + 60), ("end", T0 + 1260), ("step", step)].map(|(name, at)| (name, at.to_string()));
        let mut params: Vec<(&str, &str)> = times.iter().map(|(name, at)| (*name, at.as_str())).collect();
        params.push(("query", query));
        let shown = points(&data(&fixture, "query_range", &params).await);
        for at in (T0 + 60..=T0 + 1260).step_by(step as usize) {
            let alone = instant(&fixture, query, at).await;
            let of_graph: Vec<String> = shown
                .iter()
                .filter(|(_, time, _)| *time == at)
                .map(|(series, _, value)| format!("{series} {value}"))
                .collect();
            assert_eq!(of_graph, alone, "{query} at {}", at - T0);
        }
    }
}

/// Series and their points: `metric` and a time, with the number there.
fn points(answer: &Value) -> Vec<(String, i64, f64)> {
    let mut all = Vec::new();
    for series in answer["result"].as_array().unwrap() {
        for point in series["values"].as_array().unwrap() {
            let (at, value) = (point[0].as_i64().unwrap(), point[1].as_str().unwrap());
            all.push((series["metric"].to_string(), at, value.parse().unwrap()));
        }
    }
    all
}

/// Counters that come summed up (`0 +` keeps them apart) say what the counters say, but for a millisecond of extrapolation.
#[tokio::test]
async fn sums_say_what_their_series_say() {
    let (fixture, _) = filled().await;
    let both = "status_code=~\"STATUS_CODE_ERROR|STATUS_CODE_UNSET\"";
    for (range, step) in [(60, 100), (20, 21), (60, 60), (120, 50), (40, 30), (70, 60), (300, 7)] {
        for (by, selector, of) in [
            ("service", "traces_spanmetrics_calls_total".to_owned(), ""),
            ("", "traces_spanmetrics_calls_total".to_owned(), ""),
            (
                "customer_tier, status_code",
                "traces_spanmetrics_calls_total".to_owned(),
                "",
            ),
            ("service", format!("traces_spanmetrics_latency_sum{{{both}}}"), ""),
            (
                "service",
                "traces_spanmetrics_calls_total{customer_tier!~\"silver\"}".to_owned(),
                "",
            ),
            (
                "service, le",
                "traces_spanmetrics_latency_bucket{le!=\"+Inf\"}".to_owned(),
                "",
            ),
            (
                "service",
                "traces_spanmetrics_latency".to_owned(),
                "histogram_quantile(0.9, ",
            ),
        ] {
            let close = if of.is_empty() { "" } else { ")" };
            let ask = async |apart: &str| {
                let query = format!("{of}sum by ({by}) ({apart}rate({selector}[{range}s])){close}");
                let times =
                    [("start", T0 + range), ("end", T0 + 600), ("step", step)].map(|(name, at)| (name, at.to_string()));
                let mut params: Vec<(&str, &str)> = times.iter().map(|(name, at)| (*name, at.as_str())).collect();
                params.push(("query", &query));
                (points(&data(&fixture, "query_range", &params).await), query)
            };
            // A histogram is added to no number.
            let ((summed, query), (apart, _)) = (ask("").await, ask(if of.is_empty() { "0 + " } else { "1 * " }).await);
            assert_eq!(summed.len(), apart.len(), "{query}");
            assert!(summed.len() > 5, "{query}");
            for (one, other) in summed.iter().zip(&apart) {
                assert_eq!((&one.0, one.1), (&other.0, other.1), "{query}");
                let near = (one.2 - other.2).abs() <= 1.1e-3 / range as f64 * other.2.abs().max(1e-9);
                assert!(
                    near || (one.2.is_nan() && other.2.is_nan()),
                    "{query}: {one:?} {other:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_health_check_needs_no_lake() {
    let fixture = Fixture::new().await;
    let answer = form(&fixture, "query", &[("query", "1+1"), ("time", "4")]).await;
    let expected = json!({
        "status": "success", "data": { "resultType": "scalar", "result": [4, "2"] }, "warnings": [], "infos": [],
    });
    assert_eq!(answer, (StatusCode::OK, expected));
    // Grafana reads a stream: the type must come before what it is the type of.
    let uri = "/prometheus/api/v1/query?query=1&time=4";
    let response = http::router(http::Desk::open(fixture.engine.clone()))
        .oneshot(Request::get(uri).body(Body::empty()).unwrap())
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(
        text.starts_with(r#"{"status":"success","data":{"resultType":"#),
        "{text}"
    );
    for path in ["/prometheus/-/healthy", "/prometheus/-/ready"] {
        let (status, _) = send(&fixture, Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn increases_are_the_counts_of_the_table() {
    let (fixture, rows) = filled().await;
    for (range, from, to) in [
        ("5m", 0, 30),
        ("5m", 30, 60),
        ("1m", 12, 18),
        ("30s", 35, 38),
        ("10m", 0, 60),
    ] {
        let query = format!("sum by (service) (increase(traces_spanmetrics_calls_total[{range}]))");
        let expected: Vec<String> = ["cart", "mail"]
            .iter()
            .filter(|service| counted(&rows, service, from, to) > 0)
            .map(|service| format!("{{\"service\":\"{service}\"}} {}", counted(&rows, service, from, to)))
            .collect();
        assert_eq!(
            instant(&fixture, &query, T0 + to as i64 * 10).await,
            expected,
            "{range}"
        );
    }
    // Nothing happens in the rest of the window: nothing is made up.
    let all = "sum(increase(traces_spanmetrics_calls_total{service=\"mail\"}[10m]))";
    assert_eq!(instant(&fixture, all, T0 + 600).await, ["{} 6"]);
    let rate = "sum(rate(traces_spanmetrics_calls_total{service=\"mail\"}[1m]))";
    assert_eq!(instant(&fixture, rate, T0 + 360).await, ["{} 0.1"]);
}

#[tokio::test]
async fn a_graph_shows_each_windows_count() {
    let (fixture, rows) = filled().await;
    for step in [10, 30, 60] {
        let params = [
            (
                "query",
                "sum(increase(traces_spanmetrics_calls_total{service=\"cart\"}[1m]))",
            ),
            ("start", &(T0 + 60).to_string()),
            ("end", &format!("{}.0", T0 + 600)),
            ("step", &step.to_string()),
        ];
        let data = data(&fixture, "query_range", &params).await;
        assert_eq!(data["resultType"], "matrix");
        let values = data["result"][0]["values"].as_array().unwrap();
        assert_eq!(values.len() as i64, 540 / step + 1);
        for value in values {
            let to = (value[0].as_i64().unwrap() - T0) as u64 / 10;
            let found: f64 = value[1].as_str().unwrap().parse().unwrap();
            let expected = counted(&rows, "cart", to - 6, to) as f64;
            // A window in the middle extrapolates over its first millisecond.
            assert!(
                (found - expected).abs() <= expected * 2e-5,
                "{step} {to}: {found} {expected}"
            );
        }
    }
    // Other functions see every slice: the same counts by way of a subquery and by the last slice alone.
    let nested = "max_over_time(sum(increase(traces_spanmetrics_calls_total{service=\"cart\"}[1m]))[5m:1m])";
    let most = (5..10)
        .map(|minute| counted(&rows, "cart", minute * 6, minute * 6 + 6))
        .max()
        .unwrap() as f64;
    let found = number(&fixture, nested, T0 + 600).await;
    assert!((found - most).abs() <= most * 2e-5, "{found} {most}");
}

#[tokio::test]
async fn durations_as_classic_and_as_native_histograms() {
    let (fixture, rows) = filled().await;
    let n = counted(&rows, "cart", 0, 60) as f64;
    let errors: u64 = rows.iter().filter(|row| row.key.is_error).map(|row| row.n).sum();
    let of = |metric: &str| format!("sum(increase(traces_spanmetrics_latency{metric}{{service=\"cart\"}}[10m]))");
    assert_eq!(number(&fixture, &of("_count"), T0 + 600).await, n);
    let sum = number(&fixture, &of("_sum"), T0 + 600).await;
    assert!(
        (sum - ((n - errors as f64) * 0.02 + errors as f64 * 0.3)).abs() < 1e-9,
        "{sum}"
    );
    // Bounds are powers of two in ns, so the counts at them are exact.
    let below =
        "sum by (le) (increase(traces_spanmetrics_latency_bucket{service=\"cart\",le=~\"0.033554432|[+]Inf\"}[10m]))";
    let expected = [
        format!("{{\"le\":\"+Inf\"}} {n}"),
        format!("{{\"le\":\"0.033554432\"}} {}", n - errors as f64),
    ];
    assert_eq!(instant(&fixture, below, T0 + 600).await, expected);
    let classic =
        "histogram_quantile(0.5, sum by (le) (rate(traces_spanmetrics_latency_bucket{service=\"cart\"}[10m])))";
    let native = "histogram_quantile(0.5, sum(rate(traces_spanmetrics_latency{service=\"cart\"}[10m])))";
    let (classic, native) = (
        number(&fixture, classic, T0 + 600).await,
        number(&fixture, native, T0 + 600).await,
    );
    assert!((0.0168..=0.0336).contains(&classic), "{classic}");
    assert!((native / 0.02 - 1.0).abs() < 0.03, "{native}");
    let count = number(
        &fixture,
        "histogram_count(sum(increase(traces_spanmetrics_latency{service=\"cart\"}[10m])))",
        T0 + 600,
    )
    .await;
    assert!((count - n).abs() < n * 1e-5, "{count} {n}");
}

#[tokio::test]
async fn names_values_and_series_are_listed() {
    let (fixture, _) = filled().await;
    let (start, end) = (T0.to_string(), (T0 + 600).to_string());
    let window = [("start", start.as_str()), ("end", end.as_str())];
    let names = data(&fixture, "labels", &window).await;
    let has = |name: &str| names.as_array().unwrap().contains(&json!(name));
    assert!(
        has("__name__") && has("service") && has("le") && has("customer_tier") && has("status_class"),
        "{names}"
    );
    let get_values = async |label: &str, params: &[(&str, &str)]| {
        let (status, answer) = get(&fixture, &format!("label/{label}/values"), params).await;
        assert_eq!(
            (status, &answer["status"]),
            (StatusCode::OK, &json!("success")),
            "{answer}"
        );
        answer
    };
    assert_eq!(get_values("service", &window).await["data"], json!(["cart", "mail"]));
    assert_eq!(
        get_values("U__span__name", &window).await["data"],
        json!(["GET /", "send"])
    );
    let metrics = get_values("__name__", &window).await;
    assert!(
        metrics["data"]
            .as_array()
            .unwrap()
            .contains(&json!("traces_spanmetrics_calls_total"))
    );
    let bounds = get_values("le", &window).await;
    assert_eq!(bounds["data"].as_array().unwrap().len(), 21, "{bounds}");
    let above = [window[0], window[1], ("match[]", "{service=\"mail\",le=~\"[1-9].*\"}")];
    let bounds = get_values("le", &above).await;
    assert_eq!(bounds["data"].as_array().unwrap().len(), 7, "{bounds}");
    let limited = [window[0], window[1], ("limit", "1")];
    let answer = get_values("service", &limited).await;
    assert_eq!(answer["data"], json!(["cart"]));
    assert_eq!(answer["warnings"], json!(["results truncated due to limit"]));
    let matched = [window[0], window[1], ("match[]", "{service=~\"ma.*\"}")];
    assert_eq!(get_values("span_name", &matched).await["data"], json!(["send"]));
    let none = [
        ("start", end.as_str()),
        ("end", end.as_str()),
        ("match[]", "{service=\"nobody\"}"),
    ];
    assert_eq!(get_values("service", &none).await["data"], json!([]));

    let matched = [
        window[0],
        window[1],
        ("match[]", "traces_spanmetrics_calls_total{service=\"mail\"}"),
        (
            "match[]",
            "traces_spanmetrics_calls_total{status_code=\"STATUS_CODE_ERROR\"}",
        ),
    ];
    let series = data(&fixture, "series", &matched).await;
    let of = |service: &str, name: &str, error: bool| {
        let mut labels = json!({
            "__name__": "traces_spanmetrics_calls_total", "service": service, "span_name": name, "span_kind": "SPAN_KIND_SERVER",
            "status_code": if error { "STATUS_CODE_ERROR" } else { "STATUS_CODE_UNSET" }, "is_entry": "true",
            "service_namespace": "shop", "customer_tier": "gold",
        });
        if error {
            labels["status_class"] = json!("5xx");
        }
        labels
    };
    assert_eq!(series, json!([of("cart", "GET /", true), of("mail", "send", false)]));
    // Tempo's data source looks whether there are native histograms this way.
    let probe = [window[0], window[1], ("match[]", "traces_spanmetrics_latency{}")];
    assert_eq!(data(&fixture, "series", &probe).await.as_array().unwrap().len(), 3);
    let (status, answer) = get(&fixture, "series", &window).await;
    assert_eq!(
        (status, &answer["error"]),
        (StatusCode::BAD_REQUEST, &json!("no match[] parameter provided"))
    );
}

#[tokio::test]
async fn exemplars_lead_to_traces() {
    let (fixture, _) = filled().await;
    // The probe when a data source is loaded: times in milliseconds.
    let probe = [("query", "test"), ("start", "1795305600000"), ("end", "1795305900000")];
    assert_eq!(data(&fixture, "query_exemplars", &probe).await, json!([]));
    let (start, end) = (T0.to_string(), (T0 + 600).to_string());
    let query = "histogram_quantile(0.9, sum by (le) (rate(traces_spanmetrics_latency_bucket{service=\"mail\"}[5m])))";
    let found = data(
        &fixture,
        "query_exemplars",
        &[("query", query), ("start", &start), ("end", &end)],
    )
    .await;
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["seriesLabels"]["service"], "mail");
    let expected = json!({
        "labels": { "trace_id": "ab".repeat(16), "span_id": "cd".repeat(8) }, "value": "0.007", "timestamp": (T0 + 331) as f64 + 0.5,
    });
    assert_eq!(found[0]["exemplars"][0], expected);
    assert_eq!(found[0]["exemplars"].as_array().unwrap().len(), 3);
}

/// The slowest of all are not those that were asked for.
#[tokio::test]
async fn exemplars_are_the_slowest_of_those_asked_for() {
    let mut fixture = Fixture::new().await;
    let (cart, mail) = (key("cart", "GET /", false), key("mail", "send", false));
    let mut rows: Vec<RedRow> = (0..2100).map(|slice| red(&cart, slice, &[20])).collect();
    let mut fast = red(&mail, 7, &[1]);
    fast.exemplar.as_mut().unwrap().ns = 1_000_000;
    rows.push(fast);
    fixture.commit_rows(Table::Red, &red_batch(&rows)).await;
    let (start, end) = (T0.to_string(), (T0 + 21_000).to_string());
    let ask = async |query: &str| {
        let window = [("query", query), ("start", start.as_str()), ("end", end.as_str())];
        let (_, answer) = get(&fixture, "query_exemplars", &window).await;
        let of = |one: &Value| one["exemplars"].as_array().unwrap().len();
        let counts: Vec<usize> = answer["data"].as_array().unwrap().iter().map(of).collect();
        (counts, answer["warnings"].as_array().unwrap().len())
    };
    assert_eq!(ask("traces_spanmetrics_latency").await, (vec![2000], 1));
    assert_eq!(ask("traces_spanmetrics_latency{service!=\"cart\"}").await, (vec![1], 0));
    assert_eq!(ask("traces_spanmetrics_latency{service=~\"m.*\"}").await, (vec![1], 0));
    assert_eq!(
        ask("traces_spanmetrics_latency{customer_tier=\"none\"}").await,
        (vec![], 0)
    );
    assert_eq!(
        ask("traces_spanmetrics_latency{service!=\"mail\"}").await,
        (vec![2000], 1)
    );
}

#[tokio::test]
async fn a_query_holds_no_more_than_it_may() {
    let mut fixture = Fixture::with_limits(Limits {
        memory_bytes_max: 16 << 20,
        ..Limits::default()
    })
    .await;
    fixture.commit_rows(Table::Red, &red_batch(&shop())).await;
    let ask = async |path: &str, query: &str| {
        let (start, end) = (T0.to_string(), (T0 + 11_000).to_string());
        let range = [
            ("query", query),
            ("start", &*start),
            ("end", &*end),
            ("step", "1"),
            ("time", &*end),
        ];
        let (status, answer) = get(&fixture, path, &range).await;
        let is_too_much = answer["error"]
            .as_str()
            .is_some_and(|error| error.contains("the query selects more than 262144 samples"));
        assert_eq!(is_too_much, status == StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        is_too_much
    };
    // All needs together.
    let rates = |minutes: std::ops::RangeInclusive<u32>| {
        let rates = minutes.map(|minutes| format!("count(rate(traces_spanmetrics_calls_total[{minutes}m]))"));
        rates.collect::<Vec<_>>().join(" + ")
    };
    assert!(!ask("query_range", &rates(1..=2)).await);
    assert!(ask("query_range", &rates(1..=9)).await);
    // A moment per slice, before there is a single row.
    for query in [
        "changes(traces_spanmetrics_calls_total[100y])",
        "max_over_time(traces_spanmetrics_calls_total[100y])",
    ] {
        assert!(ask("query", query).await, "{query}");
    }
}

#[tokio::test]
async fn selectors_are_read_where_queries_are() {
    let fixture = Fixture::with_limits(Limits {
        concurrency: 1,
        ..Limits::default()
    })
    .await;
    let held = fixture
        .engine
        .query("select * from generate_series(1, 100000000000)")
        .await
        .unwrap();
    let mut asked = Box::pin(get(&fixture, "labels", &[("match[]", "{")]));
    assert!(futures::poll!(&mut asked).is_pending());
    drop(held);
    assert_eq!(asked.await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_grafana_asks_besides() {
    let fixture = Fixture::new().await;
    let (status, build) = get(&fixture, "status/buildinfo", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(build["data"]["version"].as_str().unwrap().starts_with("3."), "{build}");
    // With `features` Grafana takes us for Mimir, with flags for Thanos.
    assert!(build["data"].get("features").is_none());
    assert_eq!(get(&fixture, "status/flags", &[]).await.0, StatusCode::NOT_FOUND);
    let (status, other) = form(&fixture, "rules", &[]).await;
    assert_eq!(
        (status, &other["status"]),
        (StatusCode::METHOD_NOT_ALLOWED, &json!("error"))
    );
    assert!(other["error"].as_str().unwrap().contains("query_range"), "{other}");
    let (status, missing) = get(&fixture, "targets", &[]).await;
    assert_eq!(
        (status, &missing["errorType"]),
        (StatusCode::NOT_FOUND, &json!("not_found"))
    );
    assert_eq!(
        get(&fixture, "rules", &[("type", "record")]).await.1["data"],
        json!({ "groups": [] })
    );
    assert_eq!(get(&fixture, "alerts", &[]).await.1["data"], json!({ "alerts": [] }));
    let (_, metadata) = get(&fixture, "metadata", &[("metric", "traces_spanmetrics_calls_total")]).await;
    let help =
        "Spans received, counted before sampling; one that was sampled upstream counts for all that it stands for.";
    let expected = json!([{ "type": "counter", "help": help, "unit": "" }]);
    assert_eq!(metadata["data"], json!({ "traces_spanmetrics_calls_total": expected }));
    let (_, metadata) = get(&fixture, "metadata", &[("limit", "2")]).await;
    assert_eq!(metadata["data"].as_object().unwrap().len(), 2);
    let (_, all) = get(&fixture, "metadata", &[]).await;
    let (_, metadata) = get(&fixture, "metadata", &[("limit", "-1"), ("limit_per_metric", "-1")]).await;
    assert_eq!(metadata, all);
    assert_eq!(
        get(&fixture, "metadata", &[("limit", "x")]).await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let fixture = Fixture::new().await;
    let check = async |path: &str, params: &[(&str, &str)], status: u16, kind: &str, text: &str| {
        let (found, answer) = get(&fixture, path, params).await;
        assert_eq!(
            (found.as_u16(), &answer["errorType"]),
            (status, &json!(kind)),
            "{answer}"
        );
        assert_eq!(answer["status"], "error");
        assert!(answer["error"].as_str().unwrap().contains(text), "{answer}");
        assert_eq!(form(&fixture, path, params).await, (found, answer), "{path}");
    };
    check("query", &[], 400, "bad_data", "\"query\"").await;
    check("query", &[("query", "sum(")], 400, "bad_data", "parse error").await;
    check(
        "query",
        &[("query", "1"), ("time", "soon")],
        400,
        "bad_data",
        "\"time\"",
    )
    .await;
    let (status, answer) = form(&fixture, "query", &[("query", &"x".repeat(100_000))]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        answer["error"].as_str().unwrap().contains("the limit is 65536"),
        "{answer}"
    );
    check(
        "query",
        &[("query", "1"), ("timeout", "0s")],
        503,
        "timeout",
        "longer than",
    )
    .await;
    let range = |step: &'static str| [("query", "up"), ("start", "0"), ("end", "100000"), ("step", step)];
    check("query_range", &range("0"), 400, "bad_data", "zero or negative").await;
    check(
        "query_range",
        &range("1"),
        400,
        "bad_data",
        "exceeded maximum resolution of 11000 points",
    )
    .await;
    check("query_range", &range("1m1m"), 400, "bad_data", "\"step\"").await;
    check("query_range", &range("")[..3], 400, "bad_data", "\"step\"").await;
    check(
        "query_range",
        &[("query", "up"), ("start", "9"), ("end", "8"), ("step", "1")],
        400,
        "bad_data",
        "before start",
    )
    .await;
    check(
        "labels",
        &[("start", "9"), ("end", "8")],
        400,
        "bad_data",
        "before start",
    )
    .await;
    check("labels", &[("match[]", "rate(x[5m])")], 400, "bad_data", "match[]").await;
    check("labels", &[("limit", "-1")], 400, "bad_data", "limit").await;
    check("query", &[("query", "info(up)")], 400, "bad_data", "unsupported: ").await;
    let (status, _) = get(&fixture, "label/U__zz_/values", &[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

pub(crate) fn edge(
    client: &str,
    server: &str,
    peer: &str,
    unpaired: Option<Unpaired>,
    slice: u64,
    n: u64,
    errors: u64,
) -> EdgeRow {
    let mut sketch = ExpHist::new();
    (0..n).for_each(|_| sketch.record(5e6));
    EdgeRow {
        key: Arc::new(EdgeKey {
            tenant: "default".into(),
            client_service: client.into(),
            server_service: server.into(),
            client_namespace: "".into(),
            server_namespace: "".into(),
            kind: EdgeKind::Request,
            peer: peer.into(),
            unpaired,
        }),
        slice_ns: T0 as u64 * 1_000_000_000 + slice * SLICE_NS,
        slice_s: 10,
        n,
        errors,
        sum_ns: [n * 5_000_000; 2],
        max_ns: [5_000_000; 2],
        exphist: [
            sketch.encode(),
            if server.is_empty() { Vec::new() } else { sketch.encode() },
        ],
        n_weighted: n * WEIGHT_ONE,
        errors_weighted: errors * WEIGHT_ONE,
        exemplar: None,
    }
}

#[tokio::test]
async fn calls_between_services_are_a_graph() {
    let mut fixture = Fixture::new().await;
    let rows = [
        edge("cart", "mail", "", None, 0, 4, 1),
        edge("cart", "mail", "", None, 7, 3, 0),
        edge("cart", "", "postgresql", Some(Unpaired::Database), 1, 5, 0),
        edge("", "cart", "", Some(Unpaired::Root), 1, 2, 0),
        edge("cart", "", "", Some(Unpaired::Expired), 1, 9, 9),
    ];
    fixture.commit_rows(Table::Edges, &edge_batch(&rows)).await;
    let graph = "sum by (client, server, connection_type) (increase(traces_service_graph_request_total[5m]))";
    let expected = [
        r#"{"client":"cart","connection_type":"database","server":"postgresql"} 5"#,
        r#"{"client":"cart","server":"mail"} 7"#,
        r#"{"client":"user","connection_type":"virtual_node","server":"cart"} 2"#,
    ];
    assert_eq!(instant(&fixture, graph, T0 + 300).await, expected);
    let failed = "sum(increase(traces_service_graph_request_failed_total{server=\"mail\"}[5m]))";
    assert_eq!(number(&fixture, failed, T0 + 300).await, 1.0);
    let of = |part: &str| format!("sum(increase(traces_service_graph_request_server_seconds{part}[5m]))");
    assert_eq!(number(&fixture, &of("_count"), T0 + 300).await, 9.0);
    assert_eq!(
        number(&fixture, &of("_bucket{le=\"+Inf\",client=\"cart\"}"), T0 + 300).await,
        7.0
    );
}

#[tokio::test]
async fn what_was_sampled_upstream_counts_for_all_that_it_stands_for() {
    let mut fixture = Fixture::new().await;
    let sampled = key("cart", "GET /", false);
    let rows: Vec<RedRow> = (0..6)
        .flat_map(|slice| {
            let one_in_ten = RedRow {
                n_weighted: 30 * WEIGHT_ONE,
                ..red(&sampled, slice, &[20; 3])
            };
            [one_in_ten, red(&key("mail", "send", false), slice, &[1])]
        })
        .collect();
    fixture.commit_rows(Table::Red, &red_batch(&rows)).await;
    let edges: Vec<EdgeRow> = (0..6)
        .map(|slice| EdgeRow {
            n_weighted: 40 * WEIGHT_ONE,
            errors_weighted: 10 * WEIGHT_ONE,
            ..edge("cart", "mail", "", None, slice, 4, 1)
        })
        .collect();
    fixture.commit_rows(Table::Edges, &edge_batch(&edges)).await;
    let at = (T0 + 60).to_string();
    let check = async |query: &str, value: f64, says: Option<&str>| {
        let (_, answer) = get(&fixture, "query", &[("query", query), ("time", &at)]).await;
        let found: f64 = answer["data"]["result"][0]["value"][1]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((found - value).abs() < 0.01 * value, "{query}: {answer}");
        match says {
            Some(says) => assert!(answer["infos"].to_string().contains(says), "{query}: {says}: {answer}"),
            None => assert_eq!(answer["infos"], json!([]), "{query}"),
        }
    };
    let sum = |of: &str| format!("sum(increase({of}[1m]))");
    let calls = |service: &str| sum(&format!("traces_spanmetrics_calls_total{{service=\"{service}\"}}"));
    check(&calls("cart"), 180.0, Some("18 were received and count as the 180")).await;
    check(&calls("mail"), 6.0, None).await;
    check(
        &sum("traces_spanmetrics_calls_total"),
        186.0,
        Some("24 were received and count as the 186"),
    )
    .await;
    check(&sum("traces_spanmetrics_calls_total{service!~\"cart\"}"), 6.0, None).await;
    // Histograms are of what was received.
    check(
        &sum("traces_spanmetrics_latency_count"),
        24.0,
        Some("the 24 received are shown"),
    )
    .await;
    let count = "histogram_count(sum(increase(traces_spanmetrics_latency[1m])))";
    check(count, 24.0, Some("they stand for 186")).await;
    check(
        &sum("traces_service_graph_request_total"),
        240.0,
        Some("count as the 240"),
    )
    .await;
    check(
        &sum("traces_service_graph_request_failed_total"),
        60.0,
        Some("24 were received"),
    )
    .await;
}

#[tokio::test]
async fn ranges_shorter_than_old_slices_say_so() {
    let mut fixture = Fixture::new().await;
    let (old, new) = (key("cart", "GET /", false), key("mail", "send", false));
    // A minute, as it is kept after three days, and slices as they come.
    let minute = RedRow {
        slice_s: 60,
        ..red(&old, 0, &[20; 6])
    };
    let rows: Vec<RedRow> = std::iter::once(minute)
        .chain((0..6).map(|slice| red(&new, slice, &[1])))
        .collect();
    fixture.commit_rows(Table::Red, &red_batch(&rows)).await;
    let check = async |service: &str, range: &str, jumps: bool| {
        let query = format!("sum(rate(traces_spanmetrics_calls_total{{service=\"{service}\"}}[{range}]))");
        let at = (T0 + 60).to_string();
        let (_, answer) = get(&fixture, "query", &[("query", &query), ("time", &at)]).await;
        let says = answer["infos"]
            .to_string()
            .contains("is kept in slices of 60 s in this window");
        assert_eq!(says, jumps, "{query}: {answer}");
    };
    check("cart", "30s", true).await;
    check("cart", "1m", false).await;
    check("mail", "30s", false).await;
}

/// Series id, name, type, temporality, unit, labels.
type StoredSeries = (
    i64,
    &'static str,
    i64,
    i64,
    &'static str,
    &'static [(&'static str, &'static str)],
);

/// Series id, name, type, temporality, seconds after midnight.
type StoredPoint = (i64, &'static str, i64, i64, i64);

/// Rows of `metric_series`.
fn series_rows(all: &[StoredSeries]) -> RecordBatch {
    let texts = |of: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new((0..all.len()).map(|at| Some(of(at))).collect::<StringArray>())
    };
    let numbers =
        |of: &dyn Fn(usize) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..all.len()).map(of))) };
    rows(Table::MetricSeries, all.len(), |column| {
        Some(match column {
            "date" => Arc::new(Date32Array::from(vec![TODAY; all.len()])),
            "tenant" => texts(&|_| "default".into()),
            "series_id" => numbers(&|at| all[at].0),
            "metric_name" => texts(&|at| all[at].1.into()),
            "type" => numbers(&|at| all[at].2),
            "temporality" => numbers(&|at| all[at].3),
            "monotonic" => Arc::new(BooleanArray::from_iter(all.iter().map(|one| Some(one.2 == 2)))),
            "unit" => texts(&|at| all[at].4.into()),
            "description" => texts(&|at| format!("about {}", all[at].1)),
            "first_ts" => Arc::new(TimestampMicrosecondArray::from(vec![MIDNIGHT; all.len()]).with_timezone("UTC")),
            "labels" => {
                let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
                for one in all {
                    for (key, value) in one.5 {
                        map.keys().append_value(key);
                        map.values().append_value(value);
                    }
                    map.append(true).unwrap();
                }
                Arc::new(map.finish())
            }
            _ => return None,
        })
    })
}

/// Rows of a table of points.
fn point_rows(table: Table, all: &[StoredPoint], given: &dyn Fn(&str) -> Option<ArrayRef>) -> RecordBatch {
    let numbers =
        |of: &dyn Fn(usize) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..all.len()).map(of))) };
    let times = |of: &dyn Fn(usize) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values((0..all.len()).map(of)).with_timezone("UTC"))
    };
    rows(table, all.len(), |column| {
        Some(match column {
            "date" => Arc::new(Date32Array::from(vec![TODAY; all.len()])),
            "tenant" => Arc::new(StringArray::from(vec!["default"; all.len()])),
            "ts" => times(&|at| MIDNIGHT + all[at].4 * 1_000_000),
            "start_ts" => times(&|at| MIDNIGHT + (all[at].4 - 60) * 1_000_000),
            "series_id" => numbers(&|at| all[at].0),
            "metric_name" => Arc::new(all.iter().map(|one| Some(one.1)).collect::<StringArray>()),
            "type" => numbers(&|at| all[at].2),
            "temporality" => numbers(&|at| all[at].3),
            other => return given(other),
        })
    })
}

const CART: &[(&str, &str)] = &[
    ("http.route", "/items"),
    ("resource.service.name", "cart"),
    ("resource.service.namespace", "shop"),
    ("resource.service.instance.id", "i1"),
    ("resource.host.name", "h1"),
    ("scope.name", "lib"),
];

/// Rows of `metric_dists`: one value up to 0.1, two up to 1 and three above, or six of (0.5, 1], times `of`.
fn dist_rows(
    dists: &[StoredPoint],
    of: &dyn Fn(&StoredPoint) -> i64,
    sum: &dyn Fn(&StoredPoint) -> Option<f64>,
) -> RecordBatch {
    let list = |of: &dyn Fn(&StoredPoint) -> Option<Vec<i64>>| -> ArrayRef {
        let mut list = ListBuilder::new(Int64Builder::new()).with_field(Field::new("element", DataType::Int64, false));
        for dist in dists {
            list.values().append_slice(&of(dist).unwrap_or_default());
            list.append(true);
        }
        Arc::new(list.finish())
    };
    point_rows(Table::MetricDists, dists, &|column| {
        Some(match column {
            "count" => Arc::new(Int64Array::from_iter_values(dists.iter().map(|dist| 6 * of(dist)))),
            "sum" => Arc::new(dists.iter().map(sum).collect::<Float64Array>()),
            "bounds" => {
                let mut list =
                    ListBuilder::new(Float64Builder::new()).with_field(Field::new("element", DataType::Float64, false));
                for dist in dists {
                    list.values().append_slice(if dist.2 == 3 { &[0.1, 1.0] } else { &[] });
                    list.append(true);
                }
                Arc::new(list.finish())
            }
            "counts" => list(&|dist| (dist.2 == 3).then(|| [1, 2, 3].map(|n| n * of(dist)).to_vec())),
            "pos_counts" => list(&|dist| (dist.2 == 4).then(|| vec![6 * of(dist)])),
            "scale" => Arc::new(Int64Array::from(vec![0; dists.len()])),
            "pos_offset" => Arc::new(Int64Array::from(vec![-1; dists.len()])),
            _ => return None,
        })
    })
}

async fn with_metrics() -> Fixture {
    let mut fixture = Fixture::new().await;
    let series = [
        (1, "http.requests", 2, 2, "{request}", CART),
        (2, "queue.size", 1, 0, "By", CART),
        (3, "jobs", 2, 1, "", CART),
        (4, "http.duration", 3, 2, "s", CART),
        (5, "io.duration", 4, 2, "s", CART),
    ];
    fixture.commit_rows(Table::MetricSeries, &series_rows(&series)).await;
    let minutes = [60, 120, 180, 240, 300];
    let mut points = Vec::new();
    for at in minutes {
        points.push((1, "http.requests", 2, 2, at));
        points.push((2, "queue.size", 1, 0, at));
        points.push((3, "jobs", 2, 1, at));
    }
    // Rows are sorted as the table is; the value is given by time and series before that.
    let values: Vec<f64> = points
        .iter()
        .map(|point| match point.0 {
            1 => 100.0 + point.4 as f64,
            2 => 7.5,
            _ => 4.0,
        })
        .collect();
    let values: ArrayRef = Arc::new(Float64Array::from(values));
    let numbers = point_rows(Table::MetricPoints, &points, &|column| {
        (column == "value").then(|| values.clone())
    });
    fixture.commit_rows(Table::MetricPoints, &numbers).await;
    let dists: Vec<_> = minutes
        .iter()
        .flat_map(|at| [(4, "http.duration", 3, 2, *at), (5, "io.duration", 4, 2, *at)])
        .collect();
    let minute = |dist: &StoredPoint| dist.4 / 60;
    let rows = dist_rows(&dists, &minute, &|dist| Some(3.0 * minute(dist) as f64));
    fixture.commit_rows(Table::MetricDists, &rows).await;
    fixture
}

/// A counter and a histogram of `cart` whose points carry exemplars; a later point has one from after the first five minutes.
pub(crate) async fn commit_example_points(fixture: &mut Fixture) {
    let series = [
        (1, "http.requests", 2, 2, "{request}", CART),
        (4, "http.duration", 3, 2, "s", CART),
    ];
    fixture.commit_rows(Table::MetricSeries, &series_rows(&series)).await;
    let points = [(1, "http.requests", 2, 2, 120), (1, "http.requests", 2, 2, 360)];
    let examples = exemplar_column(&[vec![(100, 3.0, false)], vec![(350, 4.0, true)]]);
    let numbers = point_rows(Table::MetricPoints, &points, &|column| {
        (column == "exemplars").then(|| examples.clone())
    });
    fixture.commit_rows(Table::MetricPoints, &numbers).await;
    let dists = [(4, "http.duration", 3, 2, 120)];
    let examples = exemplar_column(&[vec![(90, 0.25, true)]]);
    let dists = point_rows(Table::MetricDists, &dists, &|column| {
        (column == "exemplars").then(|| examples.clone())
    });
    fixture.commit_rows(Table::MetricDists, &dists).await;
}

#[tokio::test]
async fn metrics_have_their_prometheus_names() {
    let fixture = with_metrics().await;
    let (start, end) = (T0.to_string(), (T0 + 300).to_string());
    let window = [("start", start.as_str()), ("end", end.as_str())];
    let (_, names) = get(&fixture, "label/__name__/values", &window).await;
    let expected = [
        "http_duration_seconds_bucket",
        "http_duration_seconds_count",
        "http_duration_seconds_sum",
        "http_requests_total",
        "io_duration_seconds",
        "jobs_total",
        "queue_size_bytes",
        "target_info",
    ];
    assert_eq!(names["data"], json!(expected));
    let (_, bounds) = get(&fixture, "label/le/values", &window).await;
    assert_eq!(bounds["data"], json!(["+Inf", "0.1", "1"]));
    let matched = [window[0], window[1], ("match[]", "queue_size_bytes")];
    let labels =
        json!({ "__name__": "queue_size_bytes", "http_route": "/items", "instance": "i1", "job": "shop/cart" });
    assert_eq!(data(&fixture, "series", &matched).await, json!([labels]));
    let (_, metadata) = get(
        &fixture,
        "metadata",
        &[window[0], window[1], ("metric", "http_requests_total")],
    )
    .await;
    let about = json!([{ "type": "counter", "help": "about http.requests", "unit": "" }]);
    assert_eq!(metadata["data"]["http_requests_total"], about);
}

#[tokio::test]
async fn metrics_are_answered_from_their_points() {
    let fixture = with_metrics().await;
    let at = T0 + 300;
    let gauge = r#"{"__name__":"queue_size_bytes","http_route":"/items","instance":"i1","job":"shop/cart"} 7.5"#;
    assert_eq!(
        instant(&fixture, "queue_size_bytes{job=\"shop/cart\"}", at).await,
        [gauge]
    );
    assert_eq!(instant(&fixture, "queue_size_bytes{job=\"cart\"}", at).await, [""; 0]);
    // Cumulative sums as they are.
    assert_eq!(number(&fixture, "sum(http_requests_total)", at).await, 400.0);
    assert_eq!(number(&fixture, "sum(rate(http_requests_total[5m]))", at).await, 1.0);
    // Deltas added up, the first with them.
    assert_eq!(number(&fixture, "sum(increase(jobs_total[5m]))", at).await, 20.0);
    assert_eq!(
        number(&fixture, "sum by (le) (http_duration_seconds_bucket{le=\"1\"})", at).await,
        15.0
    );
    assert_eq!(
        number(&fixture, "sum(http_duration_seconds_bucket{le=\"+Inf\"})", at).await,
        30.0
    );
    assert_eq!(number(&fixture, "sum(http_duration_seconds_sum)", at).await, 15.0);
    // One bucket of (0.5, 1].
    let quantile = number(&fixture, "histogram_quantile(1, sum(io_duration_seconds))", at).await;
    assert_eq!(quantile, 1.0);
    assert_eq!(number(&fixture, "histogram_count(io_duration_seconds)", at).await, 30.0);
    let info = instant(&fixture, "target_info", at).await;
    assert_eq!(
        info,
        [r#"{"__name__":"target_info","host_name":"h1","instance":"i1","job":"shop/cart"} 1"#]
    );
    let joined = "sum by (host_name) (queue_size_bytes * on (job, instance) group_left (host_name) target_info)";
    assert_eq!(instant(&fixture, joined, at).await, [r#"{"host_name":"h1"} 7.5"#]);
}

/// Two scopes, or two replicas that do not say which they are, count with the same labels.
#[tokio::test]
async fn deltas_of_several_senders_are_one_counter() {
    const OTHER: &[(&str, &str)] = &[
        ("http.route", "/items"),
        ("resource.service.name", "cart"),
        ("resource.service.namespace", "shop"),
        ("resource.service.instance.id", "i1"),
        ("resource.host.name", "h2"),
        ("scope.name", "other"),
    ];
    let mut fixture = Fixture::new().await;
    let series = [
        (1, "hits", 2, 1, "", CART),
        (2, "hits", 2, 1, "", OTHER),
        (3, "wait", 3, 1, "s", CART),
        (4, "wait", 3, 1, "s", OTHER),
        (5, "gap", 4, 1, "s", CART),
        (6, "gap", 4, 1, "s", OTHER),
    ];
    fixture.commit_rows(Table::MetricSeries, &series_rows(&series)).await;
    // By turns, and at last both at once.
    let times = |id: i64| match id % 2 {
        1 => [60, 120, 180, 240, 300],
        _ => [90, 150, 210, 270, 300],
    };
    let of = |ids: std::ops::Range<usize>| -> Vec<StoredPoint> {
        let series = series[ids].iter();
        series
            .flat_map(|one| times(one.0).map(|at| (one.0, one.1, one.2, 1, at)))
            .collect()
    };
    let points = of(0..2);
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values(
        points.iter().map(|point| if point.0 == 1 { 4.0 } else { 1.0 }),
    ));
    let numbers = point_rows(Table::MetricPoints, &points, &|column| {
        (column == "value").then(|| values.clone())
    });
    fixture.commit_rows(Table::MetricPoints, &numbers).await;
    // One point says no sum.
    let sum = |dist: &StoredPoint| (dist.4 != 120).then_some(3.0);
    let dists = dist_rows(&of(2..6), &|_| 1, &sum);
    fixture.commit_rows(Table::MetricDists, &dists).await;
    let at = T0 + 300;
    for (query, expected) in [
        ("count(hits_total)", 1.0),
        ("resets(hits_total[5m])", 0.0),
        ("increase(hits_total[5m])", 25.0),
        ("resets(wait_seconds_count[5m])", 0.0),
        ("increase(wait_seconds_count[5m])", 60.0),
        ("increase(wait_seconds_bucket{le=\"1\"}[5m])", 30.0),
        ("increase(wait_seconds_sum[5m])", 27.0),
        ("resets(gap_seconds[5m])", 0.0),
        ("histogram_count(increase(gap_seconds[5m]))", 60.0),
        ("histogram_sum(increase(gap_seconds[5m]))", 27.0),
    ] {
        let found = number(&fixture, query, at).await;
        assert!((found - expected).abs() < 1e-9 * expected.max(1.0), "{query}: {found}");
    }
}

#[tokio::test]
async fn a_counter_of_deltas_by_itself_says_where_it_begins() {
    let fixture = with_metrics().await;
    let at = (T0 + 300).to_string();
    let check = async |query: &str, says: bool| {
        let (_, answer) = get(&fixture, "query", &[("query", query), ("time", &at)]).await;
        assert!(!answer["data"]["result"].as_array().unwrap().is_empty(), "{query}");
        let found = answer["infos"]
            .to_string()
            .contains("counts from the beginning of the window");
        assert_eq!(found, says, "{query}: {answer}");
    };
    check("jobs_total", true).await;
    check("sum(jobs_total)", true).await;
    check("rate(jobs_total[5m])", false).await;
    check("count(jobs_total)", false).await;
    // Cumulative ones are as they were sent.
    check("http_requests_total", false).await;
}

/// Who counts nothing sends nothing: what comes after is not lost, and not made more of.
#[tokio::test]
async fn deltas_after_a_pause_count() {
    let mut fixture = Fixture::new().await;
    let series = [
        (1, "hits", 2, 1, "", CART),
        (2, "wait", 3, 1, "s", CART),
        (3, "gap", 4, 1, "s", CART),
    ];
    fixture.commit_rows(Table::MetricSeries, &series_rows(&series)).await;
    let of = |one: &StoredSeries| [60, 120, 1200, 2400].map(|at| (one.0, one.1, one.2, 1, at));
    let sums = of(&series[0]);
    let values: ArrayRef = Arc::new(Float64Array::from(vec![4.0; sums.len()]));
    let sums = point_rows(Table::MetricPoints, &sums, &|column| {
        (column == "value").then(|| values.clone())
    });
    fixture.commit_rows(Table::MetricPoints, &sums).await;
    let dists: Vec<StoredPoint> = series[1..].iter().flat_map(of).collect();
    fixture
        .commit_rows(Table::MetricDists, &dist_rows(&dists, &|_| 1, &|_| Some(3.0)))
        .await;
    // Pauses on both sides of one delta; a window that ends in a pause would be drawn out by half an interval.
    let (start, end) = ((T0 + 1500).to_string(), (T0 + 2400).to_string());
    for (metric, expected) in [
        ("increase(hits_total[10m])", 4.0),
        ("increase(wait_seconds_count[10m])", 6.0),
        ("increase(wait_seconds_bucket{le=\"1\"}[10m])", 3.0),
        ("increase(wait_seconds_sum[10m])", 3.0),
        ("histogram_count(increase(gap_seconds[10m]))", 6.0),
    ] {
        let range = [
            ("query", metric),
            ("start", start.as_str()),
            ("end", end.as_str()),
            ("step", "300"),
        ];
        let found = points(&data(&fixture, "query_range", &range).await);
        let found: Vec<(i64, f64)> = found.into_iter().map(|(_, at, value)| (at - T0, value)).collect();
        let all = [(1500, expected), (1800, 0.0), (2100, 0.0), (2400, expected)];
        assert_eq!(found.len(), all.len(), "{metric}: {found:?}");
        for ((at, value), (of, expected)) in found.iter().zip(all) {
            assert!(*at == of && (value - expected).abs() < 1e-3, "{metric}: {found:?}");
        }
    }
    // What looks at the samples inside sees where a delta began.
    let found = number(&fixture, "irate(hits_total[20m])", T0 + 1200).await;
    assert!((found - 4.0 / 60.0).abs() < 1e-5, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_not_in_a_table_yet_count() {
    let mut fixture = Fixture::with_outbox().await;
    let key = key("cart", "GET /", false);
    fixture.append_rows(Table::Red, &red_batch(&[red(&key, 0, &[1, 2])]));
    // The same key and slice, flushed once more.
    fixture.append_rows(Table::Red, &red_batch(&[red(&key, 0, &[3]), red(&key, 1, &[4])]));
    let query = "sum(increase(traces_spanmetrics_calls_total[1m]))";
    assert_eq!(number(&fixture, query, T0 + 60).await, 4.0);
}
