//! Every bad input gets the code that `design/reliability.md` names for it (rows 19 to 31), moves a counter, and harms nobody.

use std::io::Write;

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, any_value::Value};

use crate::harness::{Reply, Server, http, raw};
use crate::sample;

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Rejected items and message of a partial success in JSON form; none on full success.
fn rejected(reply: &Reply) -> Option<String> {
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    let json = reply.json();
    let partial = json.get("partialSuccess")?;
    partial
        .as_object()?
        .iter()
        .find(|(key, _)| key.starts_with("rejected"))
        .and_then(|(_, count)| Some(count.as_str()?.to_owned()))
}

#[test]
fn bad_requests_are_refused_with_the_code_of_their_row_and_neighbours_live() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(
        "run",
        data.path(),
        &[("intake.wire_body", "1MiB"), ("intake.body", "4MiB")],
    );
    let address = server.http();
    let good = sample::traces("cart", vec![sample::span(1)]);
    let deep_nesting = [vec![0x0a, 0x7f], vec![0x0a; 3000]].concat();
    let check = |what: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8], status: u16| {
        let reply = http(address, method, path, headers, body);
        assert_eq!(reply.status, status, "{what}: {}", String::from_utf8_lossy(&reply.body));
        if status != 200 {
            assert!(!reply.body.is_empty(), "{what}: every refusal has a google.rpc.Status");
            let is_json = headers.contains(&JSON);
            let media = if is_json {
                "application/json"
            } else {
                "application/x-protobuf"
            };
            assert_eq!(
                reply.headers["content-type"], media,
                "{what}: in the encoding of the request"
            );
            if is_json {
                assert!(reply.json()["message"].is_string(), "{what}");
            }
        }
    };
    check("row 31: another method", "GET", "/v1/traces", &[PROTOBUF], b"", 405);
    check("row 31: another path", "POST", "/v1/nothing", &[PROTOBUF], &good, 404);
    check(
        "row 31: another type",
        "POST",
        "/v1/traces",
        &[("content-type", "text/plain")],
        &good,
        415,
    );
    check(
        "row 31: another encoding",
        "POST",
        "/v1/traces",
        &[PROTOBUF, ("content-encoding", "br")],
        &good,
        415,
    );
    check(
        "row 19: nested encodings",
        "POST",
        "/v1/traces",
        &[PROTOBUF, ("content-encoding", "gzip, gzip")],
        &good,
        415,
    );
    let bomb = gzip(&vec![0; 16 << 20]);
    check(
        "row 19: a bomb",
        "POST",
        "/v1/traces",
        &[PROTOBUF, ("content-encoding", "gzip")],
        &bomb,
        413,
    );
    check(
        "row 20: too large",
        "POST",
        "/v1/traces",
        &[PROTOBUF],
        &vec![0; (1 << 20) + 1],
        413,
    );
    check(
        "row 20: cut gzip",
        "POST",
        "/v1/traces",
        &[PROTOBUF, ("content-encoding", "gzip")],
        &gzip(&good)[..20],
        400,
    );
    check(
        "row 21: no protobuf",
        "POST",
        "/v1/traces",
        &[PROTOBUF],
        b"\xff\xff\xff\xff",
        400,
    );
    check(
        "row 21: cut protobuf",
        "POST",
        "/v1/traces",
        &[PROTOBUF],
        &good[..good.len() - 1],
        400,
    );
    check(
        "row 21: no JSON",
        "POST",
        "/v1/traces",
        &[JSON],
        b"{\"resourceSpans\": [",
        400,
    );
    check(
        "row 21: an enum by name",
        "POST",
        "/v1/traces",
        &[JSON],
        br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"SPAN_KIND_SERVER"}]}]}]}"#,
        400,
    );
    check(
        "row 22: deeper than any decoder goes",
        "POST",
        "/v1/traces",
        &[PROTOBUF],
        &deep_nesting,
        400,
    );
    check(
        "row 23: JSON that is not UTF-8",
        "POST",
        "/v1/logs",
        &[JSON],
        b"{\"resourceLogs\": [\"\xff\"]}",
        400,
    );
    check("row 31: empty request", "POST", "/v1/traces", &[PROTOBUF], b"", 200);
    check("row 31: empty JSON", "POST", "/v1/metrics", &[JSON], b"{}", 200);
    check(
        "row 31: unknown fields",
        "POST",
        "/v1/logs",
        &[JSON],
        br#"{"novel": {"a": [1, null]}, "resource_logs": 7}"#,
        200,
    );
    // Bytes end in an account with their items: those of an envelope without any are never received.
    let received = || server.counted("tailwater_item_bytes_total", &["\"traces\"", "\"received\""]);
    let before = received();
    let envelope = br#"{"resourceSpans": [{"resource": {"attributes": []}}]}"#;
    check(
        "row 31: an envelope without items",
        "POST",
        "/v1/traces",
        &[JSON],
        envelope,
        200,
    );
    assert_eq!(received(), before);
    check(
        "encoding: gzip",
        "POST",
        "/v1/traces",
        &[PROTOBUF, ("content-encoding", "gzip")],
        &gzip(&good),
        200,
    );
    check(
        "encoding: zstd",
        "POST",
        "/v1/traces",
        &[PROTOBUF, ("content-encoding", "zstd")],
        &zstd_of(&sample::traces("cart", vec![sample::span(2)])),
        200,
    );

    // Row 20, on raw sockets: a lying length, and a body that breaks off.
    let lying = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        1u64 << 40
    );
    assert_eq!(
        raw(address, lying.as_bytes())
            .expect("an answer before the body")
            .status,
        413
    );
    let headless = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    assert!(raw(address, headless.as_bytes()).is_none_or(|reply| reply.status == 400));

    for (reason, protocol) in [
        ("method_not_allowed", "http"),
        ("unknown_path", "http"),
        ("unsupported_type", "http"),
        ("too_large", "http"),
        ("malformed", "http"),
    ] {
        let name = format!("\"{reason}\"");
        assert!(
            server.counted("tailwater_requests_refused_total", &[&name, protocol]) >= 1.0,
            "{reason} is counted"
        );
    }
    server.settle();
    assert_eq!(
        server.sql_number("select count(*) from spans"),
        2.0,
        "only the good ones are stored"
    );
}

fn zstd_of(plain: &[u8]) -> Vec<u8> {
    // A frame of one raw block, by hand: the test needs no encoder for it. RFC 8878, 3.1.1.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend((plain.len() as u32).to_le_bytes());
    frame.extend(&(((plain.len() as u32) << 3) | 1).to_le_bytes()[..3]);
    frame.extend(plain);
    frame
}

#[test]
fn bad_items_are_rejected_one_by_one_and_the_rest_of_the_batch_lives() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start("run", data.path(), &[]);
    let address = server.http();
    let nested = |depth: usize| {
        let mut value = AnyValue {
            value: Some(Value::IntValue(1)),
        };
        for _ in 1..depth {
            value = AnyValue {
                value: Some(Value::ArrayValue(ArrayValue { values: vec![value] })),
            };
        }
        value
    };
    let mut spans: Vec<_> = (0..9).map(sample::span).collect();
    spans[0].trace_id = vec![1; 15];
    spans[1].trace_id = vec![0; 16];
    spans[2].span_id = vec![];
    spans[3].attributes = vec![sample::text("big", &"x".repeat(2 << 20))];
    spans[4].attributes[0].value = Some(nested(17));
    spans[5].start_time_unix_nano = u64::MAX;
    // Taken, with a flag or a cut: rows 25 to 27.
    spans[6].end_time_unix_nano = 1;
    spans[7].start_time_unix_nano = 0;
    spans[8].attributes = (0..600)
        .map(|number| sample::text(&format!("key{number}"), "v"))
        .collect();
    let reply = server.post("/v1/traces", &sample::traces("cart", spans));
    assert_eq!(reply.status, 200);
    let message = String::from_utf8_lossy(&reply.body).into_owned();
    for reason in [
        "invalid_trace_id 2",
        "invalid_span_id 1",
        "too_large 1",
        "too_deep 1",
        "timestamp_overflow 1",
    ] {
        assert!(message.contains(reason), "{reason} in {message}");
    }
    server.settle();
    assert_eq!(server.sql_number("select count(*) from spans"), 3.0);
    assert_eq!(
        server.sql_number("select count(*) from spans where ts_flag is not null"),
        2.0
    );
    assert_eq!(server.sql_number("select max(dropped_attrs) from spans"), 600.0 - 512.0);
    assert_eq!(
        server.sql_number("select duration_ns from spans where ts_flag = 'end_before_start'"),
        0.0
    );

    // Row 23: not UTF-8 in protobuf is replaced. Row 24: a log with odd ids is stored unlinked. Row 25: without a time, too.
    let mut record = sample::record("replace me");
    record.trace_id = vec![1, 2, 3];
    record.time_unix_nano = 0;
    let mut request = sample::logs("cart", vec![record]);
    let at = request.windows(7).position(|window| window == b"replace").unwrap();
    request[at] = 0xff;
    assert_eq!(server.post("/v1/logs", &request).status, 200);
    server.settle();
    let row = &server.sql("select body, trace_id is null, ts > to_timestamp(0) from logs")[0];
    assert_eq!(row[0].as_str(), Some("\u{fffd}eplace me"));
    assert_eq!((row[1].as_bool(), row[2].as_bool()), (Some(true), Some(true)));
    assert!(server.counted("tailwater_strings_changed_total", &["sanitized"]) >= 1.0);

    // Rows 25, 26, 29 for metrics, in JSON.
    let now = sample::now_ns();
    let metrics = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[
            {{"name":"g","gauge":{{"dataPoints":[{{"timeUnixNano":"{now}","asDouble":"NaN"}},{{"timeUnixNano":"0","asDouble":1}},
                {{"timeUnixNano":"{future}","asDouble":1}},{{"timeUnixNano":"1","asDouble":1}}]}}}},
            {{"name":"h","histogram":{{"aggregationTemporality":2,"dataPoints":[{{"timeUnixNano":"{now}","count":"3","bucketCounts":["1","2"],"explicitBounds":[1,2,3]}}]}}}}
        ]}}]}}]}}"#,
        future = now + 3_600_000_000_000,
    );
    let reply = http(address, "POST", "/v1/metrics", &[JSON], metrics.as_bytes());
    assert_eq!(rejected(&reply).as_deref(), Some("4"));
    server.settle();
    assert_eq!(
        server.sql_number("select count(*) from metric_points where isnan(value)"),
        1.0
    );
    for reason in [
        "zero_timestamp",
        "future",
        "past",
        "bad_histogram",
        "too_deep",
        "too_large",
    ] {
        let label = format!("\"{reason}\"");
        assert_eq!(
            server.counted("tailwater_items_total", &["\"rejected\"", &label]),
            1.0,
            "{reason} is counted once"
        );
    }
    assert!(server.stop().success());
    let data = data.path().display().to_string();
    crate::harness::run_ok(&["lake", "verify", "--data", &data]);
}
