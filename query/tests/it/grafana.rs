//! One test per endpoint that Grafana must or should have, and per trap in its code: requests as the plugin writes them, answers read as strictly
//! as it reads them (pkg/promlib of grafana/grafana-prometheus-datasource, Grafana 13.1 and 13.2).
//!
//! `prometheus.rs` beside this file is about what the numbers are; this is about their form.

use std::sync::Arc;

use arrow::array::*;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tailwater_model::red::{edge_batch, red_batch};
use tailwater_model::table::Table;
use tailwater_query::http;
use tower::ServiceExt;

use crate::fixtures::{Fixture, MIDNIGHT};
use crate::prometheus::{T0, data, edge, form, get, instant, key, number, red};

/// A lake with five minutes of two services that call each other.
async fn loaded() -> Fixture {
    let mut fixture = Fixture::new().await;
    let (cart, failed, mail) = (
        key("cart", "GET /", false),
        key("cart", "GET /", true),
        key("mail", "send", false),
    );
    let rows: Vec<_> = (0..30)
        .flat_map(|slice| {
            [
                red(&cart, slice, &[20, 30]),
                red(&failed, slice, &[300]),
                red(&mail, slice, &[1]),
            ]
        })
        .collect();
    fixture.commit_rows(Table::Red, &red_batch(&rows)).await;
    let calls: Vec<_> = (0..30)
        .map(|slice| edge("cart", "mail", "", None, slice, 2, 1))
        .collect();
    fixture.commit_rows(Table::Edges, &edge_batch(&calls)).await;
    fixture
}

/// The body as it goes over the wire.
async fn text(fixture: &Fixture, path: &str) -> String {
    let request = Request::get(format!("/prometheus/api/v1/{path}"))
        .header(header::ACCEPT_ENCODING, "gzip")
        .body(Body::empty())
        .unwrap();
    let response = http::router(http::Desk::open(fixture.engine.clone()))
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    // It takes gzip, and nothing obliges us to send it; what is sent must be what the header says.
    assert!(response.headers().get(header::CONTENT_ENCODING).is_none());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// A sample as the converter of the plugin reads it: `[<number>, "<float>"]`.
fn sample(value: &Value) -> (f64, f64) {
    let pair = value.as_array().unwrap();
    assert_eq!(pair.len(), 2, "{value}");
    let number = match pair[1].as_str().unwrap() {
        "NaN" => f64::NAN,
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().unwrap(),
    };
    (pair[0].as_f64().unwrap(), number)
}

#[tokio::test]
async fn query_as_instant_panels_and_alerts_send_it() {
    let fixture = loaded().await;
    // Times are floats with three digits, empty parameters are sent too.
    let time = format!("{}.500", T0 + 300);
    let params = [
        (
            "query",
            "sum by (service) (increase(traces_spanmetrics_calls_total[5m]))",
        ),
        ("time", time.as_str()),
        ("timeout", ""),
        ("stats", "all"),
    ];
    let found = data(&fixture, "query", &params).await;
    assert_eq!(found["resultType"], "vector");
    let result = found["result"].as_array().unwrap();
    assert_eq!(result.len(), 2);
    for one in result {
        let (at, value) = sample(&one["value"]);
        assert!((at - (T0 as f64 + 300.5)).abs() < 1e-9 && value > 0.0, "{one}");
    }
    // What JSON has no number for is a text.
    for (query, shown) in [
        ("vector(1) / 0", "+Inf"),
        ("vector(-1) / 0", "-Inf"),
        ("vector(0) / 0", "NaN"),
    ] {
        assert_eq!(instant(&fixture, query, T0).await, [format!("{{}} {shown}")]);
    }
    let words = data(&fixture, "query", &[("query", "\"words\""), ("time", "4")]).await;
    assert_eq!(words, json!({ "resultType": "string", "result": [4, "words"] }));
}

#[tokio::test]
async fn query_range_as_graphs_send_it() {
    let fixture = loaded().await;
    let (start, end) = (format!("{}.000", T0 + 60), format!("{}.000", T0 + 300));
    let rate = "sum by (service) (rate(traces_spanmetrics_calls_total[1m]))";
    let params = [("query", rate), ("start", &start), ("end", &end), ("step", "15.000")];
    let found = data(&fixture, "query_range", &params).await;
    assert_eq!(found["resultType"], "matrix");
    for series in found["result"].as_array().unwrap() {
        let values = series["values"].as_array().unwrap();
        assert_eq!(values.len(), 17);
        let times: Vec<f64> = values.iter().map(|value| sample(value).0).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 15.0), "{times:?}");
        assert!(series["metric"].as_object().unwrap().values().all(Value::is_string));
    }
    // Nothing is an empty list, never null.
    let params = [
        ("query", "nothing_of_the_kind"),
        ("start", &start),
        ("end", &end),
        ("step", "15"),
    ];
    let none = data(&fixture, "query_range", &params).await;
    assert_eq!(none, json!({ "resultType": "matrix", "result": [] }));
    // As many points as Grafana keeps.
    let (start, end) = (T0.to_string(), (T0 + 10_999).to_string());
    let params = [("query", "vector(1)"), ("start", &start), ("end", &end), ("step", "1")];
    let most = data(&fixture, "query_range", &params).await;
    assert_eq!(most["result"][0]["values"].as_array().unwrap().len(), 11_000);
}

#[tokio::test]
async fn the_type_of_a_result_comes_before_it() {
    let fixture = loaded().await;
    let rate = "rate(traces_spanmetrics_calls_total%5B1m%5D)";
    let window = format!("start={T0}&end={}&step=60", T0 + 300);
    for path in [
        "query?query=1&time=4".to_owned(),
        "query?query=%22x%22&time=4".to_owned(),
        format!("query?query={rate}&time={}", T0 + 300),
        format!("query_range?query={rate}&{window}"),
    ] {
        let body = text(&fixture, &path).await;
        let (kind, result) = (body.find("\"resultType\""), body.find("\"result\""));
        assert!(kind.is_some() && kind < result, "{path}: {body}");
    }
}

#[tokio::test]
async fn native_histograms_are_cells_of_a_heatmap() {
    let fixture = loaded().await;
    let query = "sum(increase(traces_spanmetrics_latency{service=\"cart\"}[5m]))";
    let at = (T0 + 300).to_string();
    let found = data(&fixture, "query", &[("query", query), ("time", &at)]).await;
    let check = |pair: &Value| {
        let pair = pair.as_array().unwrap();
        assert_eq!(pair.len(), 2);
        assert!(pair[0].is_number());
        let (histogram, number) = (&pair[1], |value: &Value| {
            value.as_str().unwrap().parse::<f64>().unwrap()
        });
        assert!((number(&histogram["count"]) - 90.0).abs() < 0.01, "{histogram}");
        assert!(number(&histogram["sum"]) > 0.0);
        let buckets = histogram["buckets"].as_array().unwrap();
        let mut below = f64::NEG_INFINITY;
        let mut total = 0.0;
        for bucket in buckets {
            let bucket = bucket.as_array().unwrap();
            assert_eq!(bucket.len(), 4);
            assert!((0..=3).contains(&bucket[0].as_i64().unwrap()));
            let [low, high, count] = [1, 2, 3].map(|at| number(&bucket[at]));
            assert!(below <= low && low < high && count > 0.0, "{buckets:?}");
            below = high;
            total += count;
        }
        assert!((total - 90.0).abs() < 0.01);
    };
    check(&found["result"][0]["histogram"]);
    let params = [("query", query), ("start", &at), ("end", &at), ("step", "15")];
    let found = data(&fixture, "query_range", &params).await;
    check(&found["result"][0]["histograms"][0]);
    assert!(found["result"][0].get("values").is_none());
}

#[tokio::test]
async fn notices_of_a_panel_travel_as_warnings_and_infos() {
    let fixture = loaded().await;
    let at = (T0 + 300).to_string();
    let ask = async |query: &str| get(&fixture, "query", &[("query", query), ("time", &at)]).await.1;
    let plain = ask("sum(rate(traces_spanmetrics_calls_total[1m]))").await;
    assert_eq!((&plain["warnings"], &plain["infos"]), (&json!([]), &json!([])));
    let info = ask("rate(traces_spanmetrics_latency_sum[1m]) and on () vector(time())").await;
    assert_eq!(info["infos"], json!([]));
    // A counter by itself has counted since the window of the query began.
    for (query, expected) in [
        ("traces_spanmetrics_calls_total", 1),
        ("sum by (service) (traces_spanmetrics_calls_total)", 1),
        ("max_over_time(traces_service_graph_request_total[1m])", 1),
        ("histogram_quantile(0.9, traces_spanmetrics_latency)", 1),
        (
            "traces_spanmetrics_calls_total - traces_spanmetrics_calls_total offset 1m",
            1,
        ),
        ("increase(traces_spanmetrics_calls_total[1m])", 0),
        ("irate(traces_spanmetrics_calls_total[1m])", 0),
        ("resets(traces_spanmetrics_calls_total[1m])", 0),
        ("count by (service) (traces_spanmetrics_calls_total)", 0),
        ("group by (client, server) (traces_service_graph_request_total)", 0),
        ("absent(traces_spanmetrics_calls_total{service=\"nobody\"})", 0),
        ("traces_spanmetrics_calls_total{service=\"nobody\"}", 0),
        ("max_over_time(rate(traces_spanmetrics_calls_total[1m])[2m:1m])", 0),
        ("rate(traces_spanmetrics_calls_total[2m:10s])", 0),
        ("vector(1)", 0),
    ] {
        let infos = ask(query).await["infos"].clone();
        let of_values = infos.as_array().unwrap().iter();
        let of_values = of_values.filter(|info| info.as_str().unwrap().contains("increase()"));
        assert_eq!(of_values.count(), expected, "{query}: {infos}");
    }
    let quantile = ask("quantile(2, traces_spanmetrics_calls_total)").await;
    let warnings = quantile["warnings"].as_array().unwrap();
    assert!(
        warnings.len() == 1 && warnings[0].as_str().unwrap().contains("quantile"),
        "{quantile}"
    );
}

#[tokio::test]
async fn labels_and_their_values_as_the_builder_asks() {
    let fixture = loaded().await;
    let (start, end) = (format!("{T0}.000"), format!("{}.000", T0 + 300));
    let window = [("start", start.as_str()), ("end", end.as_str())];
    let with =
        |more: &[(&'static str, &'static str)]| -> Vec<(&str, &str)> { window.iter().chain(more).copied().collect() };
    for limit in ["40000", "0"] {
        let names = data(&fixture, "labels", &with(&[("limit", limit)])).await;
        assert!(names.as_array().unwrap().len() > 10, "{limit}: {names}");
    }
    let of_metric = with(&[
        ("match[]", "{__name__=\"traces_service_graph_request_total\"}"),
        ("limit", "40000"),
    ]);
    let names = data(&fixture, "labels", &of_metric).await;
    assert_eq!(names, json!(["__name__", "client", "server"]));
    let (status, values) = get(&fixture, "label/U__span__name/values", &window).await;
    assert_eq!((status, &values["data"]), (StatusCode::OK, &json!(["GET /", "send"])));
    let matched = with(&[(
        "match[]",
        "{service=~\"(cart|mail)\",status_code=\"STATUS_CODE_ERROR\"}",
    )]);
    let (_, values) = get(&fixture, "label/service/values", &matched).await;
    assert_eq!(values["data"], json!(["cart"]));
    // Values have no form in Prometheus either: after a 405 the front end asks again with GET.
    let (status, _) = form(&fixture, "label/service/values", &window).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn series_as_variables_and_tempos_probe_ask() {
    let fixture = loaded().await;
    let (start, end) = (T0.to_string(), (T0 + 300).to_string());
    let series = async |selector: &str| {
        let params = [
            ("match[]", selector),
            ("start", start.as_str()),
            ("end", &end),
            ("limit", "40000"),
        ];
        data(&fixture, "series", &params).await.as_array().unwrap().clone()
    };
    assert_eq!(
        series("traces_spanmetrics_calls_total{service=\"mail\"}").await.len(),
        1
    );
    for native in [
        "traces_spanmetrics_latency{}",
        "traces_service_graph_request_server_seconds{}",
    ] {
        assert!(!series(native).await.is_empty(), "{native}");
    }
    assert_eq!(series("{service=\"nobody\"}").await.len(), 0);
}

#[tokio::test]
async fn the_service_graph_of_tempo() {
    let fixture = loaded().await;
    let at = T0 + 300;
    let calls = "sum by (client, server) (rate(traces_service_graph_request_total{server=~\"mail\"}[300s]))";
    assert_eq!(
        instant(&fixture, calls, at).await,
        [r#"{"client":"cart","server":"mail"} 0.2"#]
    );
    let both = "group by (client, connection_type, server, server_service_namespace, client_service_namespace) \
                (traces_service_graph_request_total{client=\"cart\"} OR traces_service_graph_request_total{server=\"cart\"})";
    assert_eq!(
        instant(&fixture, both, at).await,
        [r#"{"client":"cart","server":"mail"} 1"#]
    );
    let failed = "sum(increase(traces_service_graph_request_failed_total[300s]))";
    assert_eq!(number(&fixture, failed, at).await, 30.0);
    let classic =
        "histogram_quantile(.9, sum(rate(traces_service_graph_request_server_seconds_bucket[300s])) by (le, server))";
    let native = "histogram_quantile(.9, sum(rate(traces_service_graph_request_server_seconds[300s])) by (server))";
    for query in [classic, native] {
        let seconds = number(&fixture, query, at).await;
        assert!((0.004..0.0085).contains(&seconds), "{query}: {seconds}");
    }
    let top = "topk(5, sum(rate(traces_spanmetrics_calls_total{span_name=~\"GET /\"}[300s])) by (span_name))";
    let busiest = instant(&fixture, top, at).await;
    assert!(
        busiest.len() == 1 && busiest[0].starts_with(r#"{"span_name":"GET /"} 0.3"#),
        "{busiest:?}"
    );
}

#[tokio::test]
async fn metadata_exemplars_buildinfo_rules() {
    let fixture = loaded().await;
    let (_, metadata) = get(&fixture, "metadata", &[("limit", "40000")]).await;
    for (metric, kind) in [
        ("traces_spanmetrics_calls_total", "counter"),
        ("traces_spanmetrics_latency", "histogram"),
        ("tailwater_items_total", "counter"),
    ] {
        assert_eq!(metadata["data"][metric][0]["type"], kind, "{metric}");
    }
    // The probe for exemplars, in milliseconds: an error would switch them off.
    let (start, end) = (format!("{T0}000"), format!("{}000", T0 + 300));
    let probe = [("query", "test"), ("start", start.as_str()), ("end", &end)];
    let (status, answer) = get(&fixture, "query_exemplars", &probe).await;
    assert_eq!(
        (status, &answer["status"], &answer["data"]),
        (StatusCode::OK, &json!("success"), &json!([]))
    );
    let (_, build) = get(&fixture, "status/buildinfo", &[]).await;
    assert!(build["data"].get("features").is_none() && build["data"]["version"].is_string());
    assert_eq!(get(&fixture, "status/flags", &[]).await.0, StatusCode::NOT_FOUND);
    for path in ["rules", "alerts"] {
        assert!(get(&fixture, path, &[]).await.1["data"][if path == "rules" { "groups" } else { path }].is_array());
    }
}

#[tokio::test]
async fn errors_have_a_status_whose_body_is_read() {
    let fixture = loaded().await;
    let at = (T0 + 300).to_string();
    for (query, status, kind) in [
        ("sum(", 400, "bad_data"),
        (
            "traces_spanmetrics_calls_total * on () traces_spanmetrics_calls_total",
            422,
            "execution",
        ),
    ] {
        let (found, answer) = form(&fixture, "query", &[("query", query), ("time", &at)]).await;
        assert_eq!(
            (found.as_u16(), &answer["errorType"]),
            (status, &json!(kind)),
            "{answer}"
        );
        assert!(answer["error"].as_str().is_some_and(|text| !text.is_empty()));
    }
}

/// A delta sum and a histogram whose points carry exemplars.
async fn with_exemplars() -> Fixture {
    let mut fixture = Fixture::new().await;
    crate::prometheus::commit_example_points(&mut fixture).await;
    fixture
}

#[tokio::test]
async fn exemplars_of_metrics_that_were_sent() {
    let fixture = with_exemplars().await;
    let (start, end) = (T0.to_string(), (T0 + 300).to_string());
    let ask = async |query: &str| {
        let params = [("query", query), ("start", start.as_str()), ("end", &end)];
        data(&fixture, "query_exemplars", &params).await
    };
    let found = ask("histogram_quantile(0.9, rate(http_duration_seconds_bucket{le=\"1\"}[5m]))").await;
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    let labels = &found[0]["seriesLabels"];
    assert_eq!(
        [&labels["__name__"], &labels["job"], &labels["http_route"]],
        ["http_duration_seconds_bucket", "shop/cart", "/items"]
    );
    let expected = json!({
        "labels": { "trace_id": "ab".repeat(16), "span_id": "cd".repeat(8), "user_id": "u1" },
        "value": "0.25",
        "timestamp": (T0 + 90) as f64,
    });
    assert_eq!(found[0]["exemplars"], json!([expected]));
    // One without a trace, and none that was measured outside of the window.
    let sums = ask("rate(http_requests_total[1m])").await;
    assert_eq!(sums[0]["exemplars"].as_array().unwrap().len(), 1, "{sums}");
    assert_eq!(sums[0]["exemplars"][0]["labels"], json!({ "user_id": "u1" }));
    assert_eq!(ask("rate(http_requests_total{job=\"other\"}[1m])").await, json!([]));
}

/// The column `exemplars` of rows, each with the exemplars given: seconds after midnight, value, with a trace.
pub(crate) fn exemplar_column(rows: &[Vec<(i64, f64, bool)>]) -> ArrayRef {
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::DataType;
    let schema = tailwater_model::table::frame_schema(Table::MetricPoints);
    let DataType::List(item) = schema.field_with_name("exemplars").unwrap().data_type().clone() else {
        panic!("exemplars are a list")
    };
    let DataType::Struct(fields) = item.data_type().clone() else {
        panic!("exemplars are structs")
    };
    let all: Vec<_> = rows.iter().flatten().copied().collect();
    let mut attrs = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for _ in &all {
        attrs.keys().append_value("user.id");
        attrs.values().append_value("u1");
        attrs.append(true).unwrap();
    }
    let ids =
        |id: Vec<u8>| -> ArrayRef { Arc::new(BinaryArray::from_iter(all.iter().map(|one| one.2.then(|| id.clone())))) };
    let times = TimestampMicrosecondArray::from_iter_values(all.iter().map(|one| MIDNIGHT + one.0 * 1_000_000));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(times.with_timezone("UTC")),
        Arc::new(Int16Array::from(vec![0; all.len()])),
        Arc::new(Float64Array::from_iter_values(all.iter().map(|one| one.1))),
        ids(vec![0xab; 16]),
        ids(vec![0xcd; 8]),
        Arc::new(attrs.finish()),
    ];
    let columns = fields
        .iter()
        .zip(columns)
        .map(|(field, column)| crate::fixtures::as_type(&column, field.data_type()))
        .collect();
    Arc::new(ListArray::new(
        item,
        OffsetBuffer::from_lengths(rows.iter().map(Vec::len)),
        Arc::new(StructArray::new(fields, columns, None)),
        None,
    ))
}
