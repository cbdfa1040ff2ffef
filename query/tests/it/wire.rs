//! The HTTP interface.

use arrow::ipc::reader::StreamReader;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tailwater_query::{Limits, http};
use tower::ServiceExt;

use crate::fixtures::{Fixture, shop};

struct Reply {
    status: StatusCode,
    kind: String,
    retry_after: bool,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

async fn send(fixture: &Fixture, request: Request<Body>) -> Reply {
    let response = http::router(http::Desk::open(fixture.engine.clone()))
        .oneshot(request)
        .await
        .unwrap();
    let status = response.status();
    let of = |name| {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let (kind, retry_after) = (
        of(header::CONTENT_TYPE).unwrap_or_default(),
        of(header::RETRY_AFTER).is_some(),
    );
    let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    Reply {
        status,
        kind,
        retry_after,
        body,
    }
}

async fn post(fixture: &Fixture, path: &str, kind: &str, body: impl Into<String>) -> Reply {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, kind)
        .body(Body::from(body.into()))
        .unwrap();
    send(fixture, request).await
}

async fn sql(fixture: &Fixture, sql: &str) -> Reply {
    post(fixture, "/api/v1/sql", "text/plain", sql).await
}

async fn filled() -> Fixture {
    let mut fixture = Fixture::new().await;
    fixture.commit(&shop()).await;
    fixture
}

#[tokio::test]
async fn json_csv_and_arrow_say_the_same() {
    let fixture = filled().await;
    let query = "select service_name, count(*) n, min(trace_id) id, min(ts) ts from spans group by 1 order by 1";
    let reply = sql(&fixture, query).await;
    assert_eq!(
        (reply.status, reply.kind.as_str()),
        (StatusCode::OK, "application/json")
    );
    let answer = reply.json();
    assert_eq!(answer["columns"][2], json!({ "name": "id", "type": "BINARY" }));
    assert_eq!(answer["row_count"], 3);
    assert_eq!(
        answer["rows"][0],
        json!(["cart", 40, "00".repeat(16), "2026-11-21T23:00:00.000000Z"])
    );

    let reply = post(&fixture, "/api/v1/sql?format=csv", "text/plain", query).await;
    let csv = String::from_utf8(reply.body).unwrap();
    assert!(
        csv.starts_with(&format!(
            "service_name,n,id,ts\r\ncart,40,{},2026-11-21T23:00:00.000000Z\r\n",
            "00".repeat(16)
        )),
        "{csv}"
    );

    let request = Request::post("/api/v1/sql").header(header::ACCEPT, "application/vnd.apache.arrow.stream");
    let reply = send(&fixture, request.body(Body::from(query)).unwrap()).await;
    let batches: Vec<_> = StreamReader::try_new(reply.body.as_slice(), None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(batches.iter().map(|rows| rows.num_rows()).sum::<usize>(), 3);

    let empty = sql(&fixture, "select 1 as one where false").await.json();
    assert_eq!(
        empty,
        json!({ "columns": [{ "name": "one", "type": "BIGINT" }], "rows": [], "row_count": 0 })
    );
}

#[tokio::test]
async fn parameters_are_values() {
    let fixture = filled().await;
    let fixture = &fixture;
    let ask = |body: Value| async move {
        post(
            fixture,
            "/api/v1/sql",
            "application/json; charset=utf-8",
            body.to_string(),
        )
        .await
    };
    let body = json!({ "sql": "select count(*) from spans where service_name = $1 and duration_ns > $2", "params": ["cart", 60_000_000] });
    assert_eq!(ask(body).await.json()["rows"], json!([[20]]));
    let injected = json!({ "sql": "select count(*) from spans where service_name = $1", "params": ["x' or '1'='1"] });
    assert_eq!(ask(injected).await.json()["rows"], json!([[0]]));
    assert_eq!(
        ask(json!({ "sql": "select $1", "params": [[1]] })).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        ask(json!({ "sql": "select 1", "parms": [] })).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(ask(json!({ "sql": "select $1" })).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn errors_have_a_status_a_kind_and_a_place() {
    let fixture = filled().await;
    let reply = sql(&fixture, "select 1\nfrom )").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.json()["kind"], "bad_query");
    assert_eq!(reply.json()["position"], json!({ "line": 2, "column": 6 }));

    let reply = sql(&fixture, "select service_nam from spans").await;
    assert_eq!(
        (reply.status, reply.json()["position"].clone()),
        (StatusCode::BAD_REQUEST, json!({ "line": 1, "column": 8 }))
    );

    assert_eq!(sql(&fixture, "drop table spans").await.json()["kind"], "not_allowed");
    assert_eq!(
        sql(&fixture, "select 1/0").await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_eq!(
        sql(&fixture, &format!("select '{}'", "x".repeat(70_000))).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(
        sql(&fixture, &"x".repeat(2_000_000)).await.json()["kind"],
        "text_too_long"
    );
    let long = json!({ "sql": "select length($1)", "params": ["x".repeat(70_000)] });
    let reply = post(&fixture, "/api/v1/sql", "application/json", long.to_string()).await;
    assert_eq!(reply.json()["kind"], "text_too_long");
    let message = reply.json()["error"].to_string();
    assert!(
        message.contains("the query and its parameters have 70017 bytes, the limit is 65536"),
        "{message}"
    );
    assert_eq!(
        post(&fixture, "/api/v1/sql?format=xml", "text/plain", "select 1")
            .await
            .status,
        StatusCode::BAD_REQUEST
    );
    let misspelled = post(&fixture, "/api/v1/sql?fromat=csv", "text/plain", "select 1").await;
    assert_eq!(misspelled.status, StatusCode::BAD_REQUEST);
    let message = misspelled.json()["error"].to_string();
    assert!(message.contains("fromat") && message.contains("format"), "{message}");
    for (path, status, kind) in [
        ("/api/v1/sql?query=select", 405, "method_not_allowed"),
        ("/api/v1/slo/report", 405, "method_not_allowed"),
        ("/api/v1/query", 404, "not_found"),
        ("/", 404, "not_found"),
    ] {
        let get = Request::get(path).body(Body::empty()).unwrap();
        let reply = send(&fixture, get).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["kind"]), (status, &json!(kind)));
        let message = reply.json()["error"].to_string();
        assert!(
            message.contains("POST /api/v1/sql") && message.contains("/prometheus/api/v1/"),
            "{message}"
        );
    }
    let bytes = Request::post("/api/v1/sql").body(Body::from(vec![0xff, 0xfe])).unwrap();
    assert_eq!(send(&fixture, bytes).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn names_that_are_not_there_lead_to_those_that_are() {
    let fixture = filled().await;
    let check = async |query: &str, expected: &str| {
        let reply = sql(&fixture, query).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]),
            (StatusCode::BAD_REQUEST, &json!(expected)),
            "{query}"
        );
    };
    check(
        "select * from span",
        "there is no table span; SHOW TABLES lists all; did you mean spans?",
    )
    .await;
    check(
        "select service_nam from spans",
        "there is no column service_nam; DESCRIBE spans lists all; did you mean service_name or service_namespace?",
    )
    .await;
    check(
        "select s.service_nam from spans s where true",
        "there is no column s.service_nam; did you mean service_name or service_namespace?",
    )
    .await;
    check(
        "select attributes from spans",
        "attributes stands only with a key in quotes: attributes['k']; all are in attrs_str, attrs_int, attrs_dbl, attrs_bool and attrs_json",
    )
    .await;
    check(
        "select count(resource) from spans",
        "resource stands only with a key in quotes: resource['k']; all are in resource_attrs",
    )
    .await;
}

#[tokio::test]
async fn a_long_answer_is_streamed_and_breaks_off_rather_than_ending_short() {
    let fixture = Fixture::with_limits(Limits {
        rows_max: 2_000_000,
        threads: 2,
        ..Limits::default()
    })
    .await;
    let reply = sql(&fixture, "select value, 'some text' from generate_series(1, 400000)").await;
    assert!(reply.body.len() > 8 << 20);
    assert_eq!(reply.json()["row_count"], 400_000);

    let fixture = Fixture::with_limits(Limits {
        rows_max: 300_000,
        threads: 2,
        ..Limits::default()
    })
    .await;
    let request = Request::post("/api/v1/sql")
        .body(Body::from("select value, 'some text' from generate_series(1, 400000)"))
        .unwrap();
    let response = http::router(http::Desk::open(fixture.engine.clone()))
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn busy_says_when_to_come_back() {
    let fixture = Fixture::with_limits(Limits {
        concurrency: 1,
        timeout: std::time::Duration::from_secs(2),
        threads: 2,
        ..Limits::default()
    })
    .await;
    let _held = fixture
        .engine
        .query("select * from generate_series(1, 100000000000)")
        .await
        .unwrap();
    let waiting: Vec<_> = (0..5).map(|_| sql(&fixture, "select 1")).collect();
    let replies = futures::future::join_all(waiting).await;
    let busy: Vec<_> = replies
        .iter()
        .filter(|reply| reply.status == StatusCode::TOO_MANY_REQUESTS)
        .collect();
    assert!(!busy.is_empty() && busy.iter().all(|reply| reply.retry_after));
}

#[tokio::test]
async fn tables_are_described() {
    let fixture = Fixture::new().await;
    let reply = send(&fixture, Request::get("/api/v1/tables").body(Body::empty()).unwrap())
        .await
        .json();
    let tables = reply["tables"].as_array().unwrap();
    assert_eq!(tables.len(), tailwater_model::table::Table::ALL.len());
    let spans = &tables[0];
    assert_eq!(spans["time_column"], "ts");
    let columns = spans["columns"].as_array().unwrap();
    assert!(
        columns
            .iter()
            .all(|column| !column["type"].as_str().unwrap().is_empty() && !column["doc"].as_str().unwrap().is_empty())
    );
    assert!(
        columns
            .iter()
            .any(|column| column["name"] == "duration_ns" && column["type"] == "BIGINT")
    );
}
