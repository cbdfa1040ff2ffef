//! Every bad input gets the code that `design/reliability.md` names for it (rows 19 to 31), moves a counter, and harms nobody; nor do clients that
//! connect and say nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tonic::Code;

use crate::harness::{PATIENCE, Reply, Server, framed, grpc_call, http, raw, signal, wait_for};
use crate::sample;

const TRACES: &str = "opentelemetry.proto.collector.trace.v1.TraceService/Export";

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
        &[
            ("intake.wire_body", "1MiB"),
            ("intake.body", "4MiB"),
            ("storage.outbox.segment", "64MiB"),
        ],
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
    // Two bytes each, and a row.
    check(
        "row 20: too large as rows",
        "POST",
        "/v1/logs",
        &[PROTOBUF],
        &sample::logs("cart", vec![LogRecord::default(); 300_000]),
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

    let metrics = server.metrics();
    assert_eq!(metrics.get("tailwater_digests_evicted_total"), Some(&0.0));
    for (reason, protocol) in [
        ("method_not_allowed", "http"),
        ("unknown_path", "http"),
        ("unsupported_type", "http"),
        ("too_large", "http"),
        ("too_many_rows", "http"),
        ("inflate_ratio", "http"),
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

#[test]
fn bad_calls_are_refused_with_the_code_of_their_row() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(
        "run",
        data.path(),
        &[
            ("intake.wire_body", "4MiB"),
            ("intake.body", "4MiB"),
            ("intake.connections.headers", "20"),
        ],
    );
    let good = |number| sample::traces("cart", vec![sample::span(number)]);
    let check = |what: &str, method: &str, headers: &[(&str, &str)], body: Vec<u8>, code: Code, words: &str| {
        let reply = grpc_call(server.grpc(), method, headers, body);
        assert_eq!((reply.http, reply.status.code()), (200, code), "{what}: {reply:?}");
        assert!(reply.status.message().contains(words), "{what}: {reply:?}");
        assert!(!reply.says_when(), "{what}: final");
        reply
    };
    let gzip_encoding = [("grpc-encoding", "gzip")];
    for (what, method) in [
        (
            "row 31: another method",
            "opentelemetry.proto.collector.trace.v1.TraceService/Import",
        ),
        (
            "row 31: another service",
            "opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
        ),
        ("row 31: no service", "v1/traces"),
    ] {
        check(
            what,
            method,
            &[],
            framed(false, &good(0)),
            Code::Unimplemented,
            "no such path",
        );
    }
    let reply = check(
        "row 31: another encoding",
        TRACES,
        &[("grpc-encoding", "br")],
        framed(true, &good(0)),
        Code::Unimplemented,
        "'br' is not supported",
    );
    assert_eq!(reply.headers["grpc-accept-encoding"], "identity,gzip,zstd,deflate");
    let not_grpc = grpc_call(server.grpc(), TRACES, &[("content-type", "text/plain")], Vec::new());
    assert_eq!(not_grpc.http, 415, "row 31: another type");
    check(
        "row 19: nested encodings",
        TRACES,
        &[("grpc-encoding", "gzip"), ("grpc-encoding", "gzip")],
        framed(true, &gzip(&gzip(&good(0)))),
        Code::Unimplemented,
        "not supported",
    );
    check(
        "row 19: a bomb",
        TRACES,
        &gzip_encoding,
        framed(true, &gzip(&vec![0; 16 << 20])),
        Code::ResourceExhausted,
        "intake.inflate_ratio",
    );
    check(
        "row 20: too large",
        TRACES,
        &[],
        framed(false, &vec![0; (4 << 20) + 1]),
        Code::ResourceExhausted,
        "larger than 4194304 bytes",
    );
    let mut cut = framed(false, &good(0));
    cut.pop();
    type Bad<'b> = (&'b str, &'b [(&'b str, &'b str)], Vec<u8>, &'b str);
    let malformed: [Bad<'_>; 8] = [
        ("row 20: a message cut short", &[], cut, "cut short"),
        ("row 20: no message", &[], Vec::new(), "prefix is cut short"),
        (
            "row 20: two messages",
            &[],
            [framed(false, &good(0)), framed(false, &good(1))].concat(),
            "more than one message",
        ),
        (
            "row 20: cut gzip",
            &gzip_encoding,
            framed(true, &gzip(&good(0))[..20]),
            "cannot be inflated",
        ),
        (
            "row 20: compressed by nobody knows what",
            &[],
            framed(true, &gzip(&good(0))),
            "names no encoding",
        ),
        ("row 21: no protobuf", &[], framed(false, b"\xff\xff\xff\xff"), ""),
        (
            "row 21: cut protobuf",
            &[],
            framed(false, &good(0)[..good(0).len() - 1]),
            "",
        ),
        (
            "row 22: deeper than any decoder goes",
            &[],
            framed(false, &[vec![0x0a, 0x7f], vec![0x0a; 3000]].concat()),
            "",
        ),
    ];
    for (what, headers, body, words) in malformed {
        check(what, TRACES, headers, body, Code::InvalidArgument, words);
    }
    let many: Vec<String> = (0..30).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    check(
        "more headers than there may be",
        TRACES,
        &many,
        framed(false, &good(0)),
        Code::ResourceExhausted,
        "intake.connections.headers",
    );
    // Field 99 of the request, of two bytes.
    let novel = [&[0x9a, 0x06, 2, 7, 7][..], &good(0)].concat();
    for (what, encoding, body) in [
        ("row 31: empty request", "identity", framed(false, b"")),
        ("row 31: unknown fields", "identity", framed(false, &novel)),
        ("encoding: gzip", "gzip", framed(true, &gzip(&good(1)))),
        ("encoding: gzip that was not used", "gzip", framed(false, &good(2))),
        ("encoding: zstd", "zstd", framed(true, &zstd_of(&good(3)))),
    ] {
        let reply = check(what, TRACES, &[("grpc-encoding", encoding)], body, Code::Ok, "");
        assert_eq!(reply.message, b"", "{what}: full success says nothing");
    }

    // Rows 22 to 27: what is wrong with items is told beside the success.
    let reply = check(
        "bad items",
        TRACES,
        &[],
        framed(false, &sample::traces("cart", bad_spans())),
        Code::Ok,
        "",
    );
    let partial = ExportTraceServiceResponse::decode(&*reply.message).unwrap();
    let partial = partial.partial_success.expect("some items are rejected");
    assert_eq!(partial.rejected_spans, 6, "{partial:?}");
    for reason in BAD_SPANS {
        assert!(partial.error_message.contains(reason), "{reason} in {partial:?}");
    }

    for reason in [
        "unknown_path",
        "unsupported_encoding",
        "inflate_ratio",
        "too_large",
        "too_many_headers",
        "malformed",
    ] {
        let name = format!("\"{reason}\"");
        assert!(
            server.counted("tailwater_requests_refused_total", &[&name, "grpc"]) >= 1.0,
            "{reason} is counted"
        );
    }
    server.settle();
    assert_eq!(
        server.sql_number("select count(*) from spans"),
        4.0 + 3.0,
        "only the good ones are stored"
    );
}

#[test]
fn who_is_refused_for_lack_of_room_is_told_when_to_come_back() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(
        "collector",
        data.path(),
        &[
            ("intake.memory", "1MiB"),
            ("intake.tenant_share", "100%"),
            ("intake.body", "512KiB"),
            ("intake.wire_body", "512KiB"),
            ("intake.caps.item", "256KiB"),
            ("intake.rate.bytes_per_sec", "off"),
            ("intake.connections.body_idle", "5m"),
            ("intake.request_timeout", "5m"),
        ],
    );
    // A body is in the budget from its head on, whenever it comes.
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
        512 << 10
    );
    let hogs: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut hog = TcpStream::connect(server.http()).unwrap();
            hog.write_all(head.as_bytes()).unwrap();
            hog
        })
        .collect();
    wait_for("the memory to be taken", || {
        (server.counted("tailwater_memory_used_bytes", &[]) == f64::from(1 << 20)).then_some(())
    });
    let request = sample::traces("cart", vec![sample::span(1)]);
    let reply = server.post("/v1/traces", &request);
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.headers["retry-after"].parse::<u32>().unwrap() >= 1);
    let reply = grpc_call(server.grpc(), TRACES, &[], framed(false, &request));
    assert_eq!(reply.status.code(), Code::Unavailable, "{reply:?}");
    assert!(
        reply.status.message().contains("memory is full") && reply.says_when(),
        "{reply:?}"
    );
    drop(hogs);
    wait_for("room again", || {
        (server.post("/v1/traces", &request).status == 200).then_some(())
    });
    assert_eq!(
        grpc_call(server.grpc(), TRACES, &[], framed(false, &request))
            .status
            .code(),
        Code::Ok,
        "a repeat"
    );
    assert!(server.stop().success());
}

/// What the server says until it closes the connection.
fn until_closed(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => said,
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "closed in time");
            said
        }
    }
}

/// A connection on which only this is sent.
fn says(address: SocketAddr, words: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(words).unwrap();
    stream
}

#[test]
fn clients_that_say_nothing_lose_their_place() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(
        "collector",
        data.path(),
        &[
            ("intake.connections.header_timeout", "200ms"),
            ("intake.connections.idle", "1s"),
            ("intake.connections.max_age_grace", "200ms"),
        ],
    );
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let quiet: [(SocketAddr, &[u8]); 6] = [
        (server.grpc(), b""),
        (server.http(), b""),
        (server.grpc(), &preface[..10]),
        (server.http(), &preface[..10]),
        (server.http(), b"P"),
        (server.http(), b"POST /v1/traces HTTP/1.1\r\nhost:"),
    ];
    let open = quiet.map(|(address, words)| says(address, words));
    for stream in open {
        assert_eq!(until_closed(stream), b"", "no answer to what is no request");
    }
    wait_for("all of them to be counted", || {
        let counted = server.counted("tailwater_connections_refused_total", &["header_timeout"]);
        (counted == quiet.len() as f64).then_some(())
    });
    // HTTP/2 without a request: told to go away, and cut off when it does not.
    let settings = [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    for address in [server.grpc(), server.http()] {
        let began = Instant::now();
        let said = until_closed(says(address, &settings));
        assert!(
            began.elapsed() >= Duration::from_secs(1),
            "only after intake.connections.idle"
        );
        // A GOAWAY frame of eight bytes: RFC 9113, 6.8.
        assert!(
            said.windows(9).any(|window| window == [0, 0, 8, 7, 0, 0, 0, 0, 0]),
            "{said:?}"
        );
    }
    // HTTP/1: the pause between two requests is not the time of a head.
    let request =
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    let began = Instant::now();
    let said = until_closed(says(server.http(), request.as_bytes()));
    assert!(said.starts_with(b"HTTP/1.1 200 "), "{said:?}");
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "only after intake.connections.idle"
    );
    assert!(server.stop().success());
}

#[test]
fn a_connection_ends_with_its_age_even_if_the_client_does_not_care() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(
        "collector",
        data.path(),
        &[
            ("intake.connections.max_age", "1s"),
            ("intake.connections.max_age_grace", "0s"),
            ("intake.connections.body_idle", "5m"),
        ],
    );
    let head =
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 9\r\n\r\n";
    assert_eq!(
        until_closed(says(server.http(), head.as_bytes())),
        b"",
        "its body never comes"
    );
    wait_for("it to be counted", || {
        (server.counted("tailwater_connections_refused_total", &["max_age_grace"]) == 1.0).then_some(())
    });
    assert!(server.stop().success());
}

#[test]
fn a_drain_does_not_wait_for_clients_that_say_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start("collector", data.path(), &[]);
    let (grpc, http) = (server.grpc(), server.http());
    let _quiet = [says(grpc, b""), says(http, b""), says(grpc, b"PRI"), says(http, b"PRI")];
    // The accept loop is in order: who is answered came after them.
    assert_eq!(server.post("/v1/traces", b"").status, 200);
    let empty = grpc_call(grpc, TRACES, &[], framed(false, b""));
    assert_eq!(empty.status.code(), Code::Ok);
    signal(server.pid("collector").unwrap(), rustix::process::Signal::TERM);
    let status = wait_for("the collector to end", || server.ended());
    assert!(status.success());
    let log = server.log();
    assert!(!log.contains("still open after the grace period"), "{log}");
}

#[test]
fn limits_of_heads_are_those_of_the_settings() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(
        "collector",
        data.path(),
        &[
            ("intake.connections.headers", "20"),
            ("intake.connections.header_bytes", "2KiB"),
        ],
    );
    let long = "x".repeat(3000);
    let many: Vec<String> = (0..30).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    for (headers, status) in [(&[("x-long", &*long)][..], 431), (&many[..], 431), (&[][..], 200)] {
        let all = [headers, &[PROTOBUF]].concat();
        assert_eq!(
            http(server.http(), "POST", "/v1/traces", &all, b"").status,
            status,
            "{all:?}"
        );
    }
    let reply = grpc_call(server.grpc(), TRACES, &[("x-long", &long)], framed(false, b""));
    assert_eq!(reply.http, 431, "{reply:?}");
    assert!(server.stop().success());
}

/// Reasons that the answer to [`bad_spans`] has to name, with their counts.
const BAD_SPANS: [&str; 5] = [
    "invalid_trace_id 2",
    "invalid_span_id 1",
    "too_large 1",
    "too_deep 1",
    "timestamp_overflow 1",
];

/// Six spans to be rejected, and three that are taken with a flag or a cut (rows 25 to 27).
fn bad_spans() -> Vec<Span> {
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
    spans[6].end_time_unix_nano = 1;
    spans[7].start_time_unix_nano = 0;
    spans[7].attributes = vec![
        sample::text("twice", "a"),
        sample::text("twice", "b"),
        sample::text("", "c"),
    ];
    spans[7].attributes.push(KeyValue {
        key: "index".into(),
        value: Some(AnyValue {
            value: Some(Value::StringValueStrindex(1)),
        }),
        ..KeyValue::default()
    });
    spans[8].attributes = (0..600)
        .map(|number| sample::text(&format!("key{number}"), "v"))
        .collect();
    spans
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
    let reply = server.post("/v1/traces", &sample::traces("cart", bad_spans()));
    assert_eq!(reply.status, 200);
    let message = String::from_utf8_lossy(&reply.body).into_owned();
    for reason in BAD_SPANS {
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

    // Rows 24 to 27: what is stored otherwise than sent moves a counter.
    for (signal, change) in [
        ("traces", "zero"),
        ("traces", "end_before_start"),
        ("traces", "duplicate_key"),
        ("traces", "empty_key"),
        ("traces", "strindex"),
        ("logs", "unlinked"),
        ("logs", "zero"),
    ] {
        let labels = [&*format!("\"{signal}\""), &format!("\"{change}\"")];
        let counted = server.counted("tailwater_items_changed_total", &labels);
        assert_eq!(counted, 1.0, "{change} of {signal}");
    }

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
