//! Two tenants: what one has changes no answer of the other, by no road. And who has no token gets no answer.

use std::path::Path;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, TimeUnit};
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use tailwater_config::Config;
use tailwater_model::exphist::ExpHist;
use tailwater_model::ids::{LogId, SpanId, TraceId};
use tailwater_model::red::{Exemplar, RedKey, RedRow, WEIGHT_ONE, red_batch};
use tailwater_model::table::{Table, frame_schema};
use tailwater_openslo::{ResolvedSlo, read, resolve};
use tailwater_query::{Engine, EngineConfig, ErrorKind, Limits, Scope, http};
use tailwater_runtime::Metrics;
use tailwater_runtime::access::{Access, hash, hex};
use tailwater_storage::lake::app_id;
use tower::ServiceExt;

use crate::fixtures::{Fixture, MIDNIGHT, TODAY, rows, with_batch_id};
use crate::slo::document_text;

/// One row of each tenant named, in any table. Texts are numbers for `b` and words for everybody else, so a cast of another's row fails.
fn some(table: Table, tenants: &[&str]) -> RecordBatch {
    if table == Table::Red {
        return red_batch(&tenants.iter().map(|tenant| red(tenant)).collect::<Vec<_>>());
    }
    let word = |tenant: &str| {
        if tenant == "b" {
            "7".to_owned()
        } else {
            format!("secret-of-{tenant}")
        }
    };
    let schema = frame_schema(table);
    rows(table, tenants.len(), |column| {
        let texts = |of: &dyn Fn(&str) -> String| -> ArrayRef {
            Arc::new(tenants.iter().map(|tenant| Some(of(tenant))).collect::<StringArray>())
        };
        Some(match (column, schema.field_with_name(column).unwrap().data_type()) {
            ("date", _) => Arc::new(Date32Array::from(vec![TODAY; tenants.len()])),
            ("tenant", _) => texts(&|tenant| tenant.to_owned()),
            ("kind" | "account" | "signal" | "reason", DataType::Utf8 | DataType::Dictionary(..)) => {
                texts(&|_| "x".into())
            }
            (_, DataType::Utf8 | DataType::Dictionary(..)) => texts(&word),
            (_, DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                Arc::new(TimestampMicrosecondArray::from(vec![MIDNIGHT; tenants.len()]).with_timezone("UTC"))
            }
            (_, DataType::Binary) if column.contains("exphist") => {
                let mut sketch = ExpHist::new();
                sketch.record(5e6);
                Arc::new(BinaryArray::from_iter_values(vec![sketch.encode(); tenants.len()]))
            }
            _ => return None,
        })
    })
}

fn red(tenant: &str) -> RedRow {
    let mut sketch = ExpHist::new();
    sketch.record(5e6);
    let service = if tenant == "b" {
        "7".to_owned()
    } else {
        format!("secret-of-{tenant}")
    };
    RedRow {
        key: Arc::new(RedKey {
            tenant: tenant.into(),
            service_name: service.into(),
            operation: "op".into(),
            kind: 2,
            is_entry: true,
            is_error: tenant != "b",
            ..RedKey::default()
        }),
        slice_ns: MIDNIGHT as u64 * 1000,
        slice_s: 10,
        n: 1,
        sum_ns: 5_000_000,
        max_ns: 5_000_000,
        exphist: sketch.encode(),
        registers: Vec::new(),
        n_weighted: WEIGHT_ONE,
        exemplar: Some(Exemplar {
            r: 5,
            ns: 5_000_000,
            end_ns: MIDNIGHT as u64 * 1000 + 1,
            trace: TraceId([tenant.as_bytes()[0]; 16]),
            span: SpanId([7; 8]),
        }),
    }
}

/// SLOs of an operator: for everybody, for `b`, and those that only others may see, of which a window, a name and a mistake would be seen if
/// anything was.
fn declared(others: bool) -> Vec<ResolvedSlo> {
    let text = |name: &str, tenants: &str, window: &str| {
        let text = document_text("7").replace("name: pay", &format!("name: {name}"));
        let text = text.replace("red: {service: '7'", &format!("red: {{{tenants}service: '7'"));
        text.replace("service: checkout", &format!("service: of-{name}"))
            .replace("duration: 1h", &format!("duration: {window}"))
    };
    let mut all = vec![
        text("everybodys", "", "1h"),
        text("of-b", "tenant: b, ", "2h"),
        text("of-b-and-c", "tenant: [b, c], ", "1h"),
        text("not-of-a", "not: {tenant: a}, ", "1h"),
    ];
    if others {
        all.push(text("secret-of-a", "tenant: a, ", "45d"));
        all.push(text("secret-of-a-and-c", "tenant: [a, c], ", "46d"));
        all.push(text("secret-of-all-but-b", "not: {tenant: b}, ", "47d"));
        let total = "tenant: a, service: '7'}}}}, bad: {metricSource: {type: tailwater, spec: {red: {service: '7', statusClass: 5xx}}}}}";
        let ratio =
            format!("ratioMetric: {{counter: false, total: {{metricSource: {{type: tailwater, spec: {{red: {{{total}");
        let pair = text("secret-of-a-pair", "", "48d");
        let metric = pair.lines().find(|line| line.contains("ratioMetric")).unwrap().trim();
        all.push(pair.replace(metric, &ratio));
    }
    let reading = read(Path::new("slos.yaml"), &all.join("---\n"));
    let resolved = resolve(&reading.documents);
    assert_eq!((reading.problems, resolved.problems), (Vec::new(), Vec::new()));
    assert_eq!(resolved.slos.len(), all.len());
    resolved.slos
}

/// A lake in which `b` has the same rows whoever else is there: in files shared with others, in files of its own, in frames.
async fn lake(others: bool) -> Fixture {
    let mut fixture = Fixture::with_outbox().await;
    let shared: &[&str] = if others { &["a", "b", "c"] } else { &["b"] };
    for table in Table::ALL {
        let committer = fixture.lake.committer(table, app_id(LogId([7; 16]), table));
        let commit = async |seq: u64, tenants: &[&str]| {
            let rows = with_batch_id(&some(table, tenants), seq as i64);
            committer.commit(seq - 1, seq, vec![rows]).await.unwrap();
        };
        commit(1, shared).await;
        commit(2, &["b"]).await;
        // The others' own file comes under the same number, so that the outbox goes on from there in both lakes.
        commit(3, if others { &["a"] } else { &[] }).await;
    }
    // Batches 1 to 3 are in the tables.
    for _ in 1..=3 {
        fixture.append_rows(Table::Spans, &some(Table::Spans, &["b"]));
    }
    for table in Table::ALL {
        fixture.append_rows(table, &some(table, shared));
    }
    if others {
        fixture.append_rows(Table::Spans, &some(Table::Spans, &["a", "c"]));
    }
    fixture.engine.declare(declared(others));
    fixture
}

struct Tokens {
    _file: tempfile::NamedTempFile,
    access: Arc<Access>,
}

fn tokens() -> Tokens {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = |name: &str, tenant: &str, roles: &str| {
        format!(
            "token {name} tenant={tenant} roles={roles} sha256={}\n",
            hex(&hash(name.as_bytes()))
        )
    };
    let text = [
        line("read-b", "b", "read"),
        line("read-a", "a", "read"),
        line("ingest-b", "b", "ingest"),
        line("admin-b", "b", "admin"),
        line("operator", "b", "read,admin"),
        "tenant a queries=1\n".to_owned(),
    ];
    std::fs::write(file.path(), text.concat()).unwrap();
    let access = Access::of(Some(file.path().into()), &Metrics::new()).unwrap();
    Tokens { _file: file, access }
}

type Reply = (StatusCode, HeaderMap, String);

/// Makes a request, which can be sent once.
type Make = Box<dyn Fn() -> Request<Body>>;

async fn ask(engine: &Engine, tokens: &Tokens, token: Option<&str>, mut request: Request<Body>) -> Reply {
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    let settings = Config::of(&[]).unwrap().query.clone();
    let desk = http::Desk::new(engine.clone(), tokens.access.clone(), settings);
    let response = http::router(desk).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, String::from_utf8_lossy(&body).into_owned())
}

fn sql(text: &str) -> Request<Body> {
    Request::post("/api/v1/sql").body(Body::from(text.to_owned())).unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

/// Questions whose answers would show other tenants' rows if anything did.
fn questions() -> Vec<String> {
    let mut all = Vec::new();
    for table in Table::ALL {
        let name = table.name();
        all.push(format!("select * from {name} order by batch_id"));
        all.push(format!("select count(*) from {name}"));
        all.push(format!(
            "select tenant, count(*) from {name} group by tenant order by 1"
        ));
        all.push(format!("select count(*) from {name} where tenant <> 'b'"));
        all.push(format!("select count(*) from {name} where tenant = 'a' or true"));
        all.push(format!("select batch_id from {name} order by batch_id desc limit 1"));
        all.push(format!("select min(tenant), max(tenant) from {name}"));
        all.push(format!(
            "with x as (select * from {name}) select count(*) from x, {name} y where x.tenant = y.tenant"
        ));
        all.push(format!(
            "select count(*) from {name} where exists (select 1 from {name} i where i.tenant = 'a')"
        ));
        all.push(format!(
            "select (select count(*) from {name}), (select max(tenant) from {name})"
        ));
        all.push(format!(
            "select tenant from {name} union all select tenant from spans order by 1"
        ));
        all.push(format!("select distinct count(*) over () from {name}"));
        all.push(format!("with recursive r as (select 1 as n union all select n + 1 from r where n < (select count(*) from {name})) select count(*) from r"));
    }
    // What fails on another's row must not be asked of it: `b`'s names are numbers.
    for condition in [
        "cast(name as int) > 0",
        "cast(service_name as int) > 0",
        "cast(service_name as int) > 0 and trace_id = X'00000000000000000000000000000000'",
        "tenant = 'b' and cast(name as int) = 7",
        "1 / (case when tenant = 'b' then 1 else 0 end) = 1",
    ] {
        all.push(format!("select count(*) from spans where {condition}"));
        all.push(format!(
            "select name from spans where {condition} order by batch_id limit 2"
        ));
        all.push(format!("select sum(cast(name as int)) from spans where {condition}"));
    }
    all.push("select cast(name as date) from spans".into());
    // Not `show tables`: its order is a hash table's, another for each query.
    all.push("select * from information_schema.tables order by table_schema, table_name".into());
    all.push("show columns from spans".into());
    all.push("select table_name, column_name from information_schema.columns order by 1, 2".into());
    all.push("select nonsense from spans".into());
    all.push("explain select * from spans".into());
    all.push("explain analyze select * from spans".into());
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_changes_no_answer() {
    let (alone, crowded) = (lake(false).await, lake(true).await);
    let tokens = tokens();
    let t0 = MIDNIGHT / 1_000_000;
    let mut requests: Vec<(String, Make)> = Vec::new();
    for text in questions() {
        requests.push((text.clone(), Box::new(move || sql(&text))));
    }
    let from_to = format!("start={t0}&end={}&step=10", t0 + 300);
    for path in [
        format!("query?query={{__name__!=%22%22}}&time={}", t0 + 60),
        format!(
            "query?query=count({{__name__!=%22%22}})%20by%20(service)&time={}",
            t0 + 60
        ),
        format!("query_range?query=sum({{__name__=~%22trace.*%22}})%20by%20(service)&{from_to}"),
        format!("labels?{from_to}"),
        format!("label/service/values?{from_to}"),
        format!("label/__name__/values?{from_to}"),
        format!("series?match[]={{__name__!=%22%22}}&{from_to}"),
        format!("series?match[]={{service=%22secret-of-a%22}}&{from_to}"),
        format!("metadata?{from_to}"),
        format!("query_exemplars?query={{__name__!=%22%22}}&{from_to}"),
        format!("query?query={{__name__=~%22slo:.*%22}}&time={}", t0 + 60),
        format!("query_range?query=slo:period_burn_rate:ratio&{from_to}"),
        format!("query?query=tailwater_slo_info&time={}", t0 + 60),
        format!(
            "query?query=slo:objective:ratio{{slo=%22secret-of-a%22}}&time={}",
            t0 + 60
        ),
        format!("series?match[]=tailwater_slo_info&{from_to}"),
        format!("label/slo/values?{from_to}"),
        format!("label/window/values?{from_to}"),
        format!("label/definition/values?{from_to}"),
        "rules".into(),
        "alerts".into(),
        "status/buildinfo".into(),
        "nothing".into(),
    ] {
        requests.push((
            path.clone(),
            Box::new(move || get(&format!("/prometheus/api/v1/{path}"))),
        ));
    }
    for path in [
        "/prometheus/-/ready",
        "/prometheus/-/healthy",
        "/api/v1/tables",
        "/nothing",
    ] {
        requests.push((path.into(), Box::new(move || get(path))));
    }
    for service in ["7", "secret-of-a"] {
        let body = document_text(service);
        requests.push((
            format!("slo of {service}"),
            Box::new(move || {
                let uri = "/api/v1/slo/report?at=2026-11-22T01:00:00Z&window=1h";
                Request::post(uri).body(Body::from(body.clone())).unwrap()
            }),
        ));
    }
    for pruning in [true, false] {
        for fixture in [&alone, &crowded] {
            fixture.engine.set_pruning(pruning);
        }
        for (what, request) in &requests {
            let want = ask(&alone.engine, &tokens, Some("read-b"), request()).await;
            let got = ask(&crowded.engine, &tokens, Some("read-b"), request()).await;
            assert_eq!(got, want, "{what}, pruning {pruning}");
            // A report says which service it was asked about.
            assert!(
                what.contains("secret-of") || !got.2.contains("secret-of"),
                "{what}: {}",
                got.2
            );
        }
    }
    // It is not that nothing is ever answered.
    let count = |reply: Reply| reply.2;
    let of_b = count(
        ask(
            &crowded.engine,
            &tokens,
            Some("read-b"),
            sql("select count(*) from logs"),
        )
        .await,
    );
    assert!(of_b.contains("[3]"), "{of_b}");
    let of_a = count(
        ask(
            &crowded.engine,
            &tokens,
            Some("read-a"),
            sql("select distinct body from logs"),
        )
        .await,
    );
    assert!(of_a.contains("secret-of-a") && !of_a.contains("secret-of-c"), "{of_a}");
    let slos = async |token| {
        ask(
            &crowded.engine,
            &tokens,
            Some(token),
            get("/prometheus/api/v1/label/slo/values"),
        )
        .await
        .2
    };
    let (of_a, of_b) = (slos("read-a").await, slos("read-b").await);
    let all = [
        "everybodys",
        "secret-of-a\"",
        "secret-of-a-and-c",
        "secret-of-all-but-b",
        "secret-of-a-pair",
    ];
    assert!(all.iter().all(|name| of_a.contains(name)), "{of_a}");
    assert!(!of_a.contains("of-b\"") && !of_a.contains("not-of-a"), "{of_a}");
    let all = ["everybodys", "of-b\"", "of-b-and-c", "not-of-a"];
    assert!(all.iter().all(|name| of_b.contains(name)), "{of_b}");
    let seven = ask(
        &crowded.engine,
        &tokens,
        Some("read-b"),
        sql("select sum(cast(name as int)) from spans"),
    )
    .await;
    assert_eq!(seven.0, StatusCode::OK, "{}", seven.2);
    let all = crowded.value("select count(distinct tenant) from logs").await;
    assert_eq!(all, "3", "whoever reads the files sees all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_plan_lacks_the_tenant() {
    let fixture = lake(true).await;
    let tenant = |name: &str| fixture.engine.for_tenant(name.into(), None, true);
    let (a, b) = (Scope::Tenant("a".into()), Scope::Tenant("b".into()));
    let mut scans = 0;
    for question in questions() {
        if question.starts_with("explain")
            || tenant("b")
                .verify_as(&question, &b)
                .await
                .is_err_and(|error| error.kind() == ErrorKind::BadQuery)
        {
            continue;
        }
        tenant("b")
            .verify_as(&question, &b)
            .await
            .unwrap_or_else(|error| panic!("{question}: {error}"));
    }
    // And the check itself is no formality: it refuses the plans of others, and those without a tenant.
    for table in Table::ALL {
        for question in [
            format!("select * from {}", table.name()),
            format!("select count(x.tenant) from {0} x, {0} y", table.name()),
        ] {
            let refused =
                |error: tailwater_query::Result<()>| error.unwrap_err().to_string().contains("lacks its tenant");
            assert!(refused(fixture.engine.verify_as(&question, &b).await), "{question}");
            assert!(refused(tenant("a").verify_as(&question, &b).await), "{question}");
            assert!(refused(tenant("b").verify_as(&question, &a).await), "{question}");
            scans += 1;
        }
    }
    assert_eq!(scans, 2 * Table::ALL.len());
    for table in Table::ALL {
        let columns = frame_schema(table);
        assert!(!columns.field_with_name("tenant").unwrap().is_nullable(), "{table:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_ask() {
    let fixture = lake(true).await;
    let tokens = tokens();
    for path in [
        "/api/v1/tables",
        "/api/v1/sql",
        "/nothing",
        "/",
        "//api/v1/tables",
        "/prometheus/api/v1/labels",
        "/prometheus/api/v1/status/buildinfo",
        "/prometheus/-/ready",
        "/prometheus/nothing",
    ] {
        for (token, status) in [
            (None, 401),
            (Some("nonsense"), 401),
            (Some(""), 401),
            (Some("ingest-b"), 403),
            (Some("admin-b"), 403),
        ] {
            let (got, headers, body) = ask(&fixture.engine, &tokens, token, get(path)).await;
            assert_eq!(got.as_u16(), status, "{path} {token:?}: {body}");
            assert_eq!(headers.contains_key(header::WWW_AUTHENTICATE), status == 401, "{path}");
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert!(json["error"].is_string(), "{body}");
            assert_eq!(
                json["status"] == "error",
                path.starts_with("/prometheus/"),
                "{path}: {body}"
            );
        }
        let (got, _, _) = ask(&fixture.engine, &tokens, Some("read-b"), get(path)).await;
        assert!(![401, 403].contains(&got.as_u16()), "{path}");
    }
    // A header decides nothing: it may only agree.
    for (org, status) in [("b", 200), ("a", 403)] {
        let mut request = sql("select count(*) from spans");
        request.headers_mut().insert("x-scope-orgid", org.parse().unwrap());
        assert_eq!(
            ask(&fixture.engine, &tokens, Some("read-b"), request).await.0.as_u16(),
            status,
            "{org}"
        );
    }
    // Plans show files and counts of everybody: for operators.
    for statement in [
        "explain select * from spans",
        "explain analyze select 1",
        "EXPLAIN VERBOSE select * from logs",
    ] {
        let (status, _, body) = ask(&fixture.engine, &tokens, Some("read-b"), sql(statement)).await;
        assert!(
            status == StatusCode::BAD_REQUEST && body.contains("role admin"),
            "{statement}: {body}"
        );
        assert_eq!(
            ask(&fixture.engine, &tokens, Some("operator"), sql(statement)).await.0,
            StatusCode::OK
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_as_many_queries_at_once_as_it_may() {
    let fixture = lake(true).await;
    let tokens = tokens();
    let request = || fixture.engine.for_tenant("a".into(), Some(1), false);
    // An answer that nobody reads on holds its place.
    let endless = "select a.value from generate_series(1, 100000) a, generate_series(1, 100000) b";
    let held = request().query(endless).await.unwrap();
    assert_eq!(
        request().query("select 1").await.unwrap_err().kind(),
        ErrorKind::OverQuota
    );
    for (what, made) in asked_by_a() {
        let (status, headers, body) = ask(&fixture.engine, &tokens, Some("read-a"), made()).await;
        // Grafana reads `errorType` and `error` of 503 and not of 429.
        let (code, kind) = if what.starts_with("PromQL") {
            (503, r#""errorType":"unavailable""#)
        } else {
            (429, r#""kind":"over_quota""#)
        };
        assert_eq!(
            (status.as_u16(), headers.contains_key(header::RETRY_AFTER)),
            (code, true),
            "{what}: {body}"
        );
        assert!(
            body.contains(kind) && body.contains("as many queries"),
            "{what}: {body}"
        );
    }
    // Documents are not read for somebody who would be refused anyhow: these never come.
    let never = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let report = Request::post("/api/v1/slo/report").body(never).unwrap();
    let (status, _, body) = ask(&fixture.engine, &tokens, Some("read-a"), report).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{body}");
    assert_eq!(
        ask(&fixture.engine, &tokens, Some("read-b"), sql("select 1")).await.0,
        StatusCode::OK
    );
    assert!(fixture.engine.stats().failed_total(ErrorKind::OverQuota) >= 2);
    drop(held);
    // The place is given back when the query has really ended.
    while request().query("select 1").await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// What the tenant that may ask one thing at a time asks: answers of one query, and of many.
fn asked_by_a() -> Vec<(&'static str, Make)> {
    let t0 = MIDNIGHT / 1_000_000;
    let range = format!(
        "/prometheus/api/v1/query_range?query=count({{__name__!=%22%22}})%2Bcount({{service!=%22%22}})&start={t0}&end={}&step=10",
        t0 + 300
    );
    let report = || {
        let uri = "/api/v1/slo/report?at=2026-11-22T00:01:00Z&window=1h,30d";
        let documents = [
            document_text("secret-of-a"),
            document_text("other").replace("pay", "other"),
        ];
        Request::post(uri).body(Body::from(documents.join("---\n"))).unwrap()
    };
    vec![
        ("SQL", Box::new(|| sql("select 1"))),
        ("PromQL", Box::new(move || get(&range))),
        (
            "PromQL of nothing",
            Box::new(|| get("/prometheus/api/v1/query?query=1")),
        ),
        ("PromQL labels", Box::new(|| get("/prometheus/api/v1/labels"))),
        ("report", Box::new(report)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_many_queries_counts_once() {
    let fixture = lake(true).await;
    let tokens = tokens();
    for (what, made) in asked_by_a() {
        // An engine of its own: the last query of another answer may not have ended yet.
        let engine = Engine::open(EngineConfig {
            lake: fixture.lake.clone(),
            outbox: None,
            temp: None,
            limits: Limits::default(),
        })
        .unwrap();
        let (status, _, body) = ask(&engine, &tokens, Some("read-a"), made()).await;
        assert_eq!(status, StatusCode::OK, "{what}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_still_sent_holds_its_place() {
    let fixture = lake(true).await;
    let tokens = tokens();
    let settings = Config::of(&[]).unwrap().query.clone();
    let desk = http::Desk::new(fixture.engine.clone(), tokens.access.clone(), settings);
    let text = format!("select '{}' || value from generate_series(1, 10000)", "x".repeat(1000));
    let mut long = sql(&text);
    let token = "Bearer read-a".parse().unwrap();
    long.headers_mut().insert(header::AUTHORIZATION, token);
    let sending = http::router(desk).oneshot(long).await.unwrap();
    assert_eq!(sending.status(), StatusCode::OK);
    let second = async || ask(&fixture.engine, &tokens, Some("read-a"), sql("select 1")).await.0;
    assert_eq!(second().await, StatusCode::TOO_MANY_REQUESTS);
    drop(sending);
    while second().await != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}
