use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

use super::*;
use crate::otlp::caps::Caps;
use crate::otlp::columns::{Choice, Pushed, Sampling, SpanBatches, SpanColumns};
use crate::otlp::peek;
use crate::otlp::reject::Reason;
use crate::otlp::text::Tally;
use crate::signal::Signal;

fn request(resource: Option<Resource>, spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans {
        scope: scope("lib", "1.2"),
        spans,
        schema_url: "scope-url".into(),
    }];
    let resource_spans = vec![ResourceSpans {
        resource,
        scope_spans,
        schema_url: "res-url".into(),
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn span(trace: u8, id: u8) -> Span {
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        name: "op".into(),
        start_time_unix_nano: NOW - 5_000_000,
        end_time_unix_nano: NOW - 4_000_000,
        ..Span::default()
    }
}

fn decode(caps: Caps, payload: &[u8]) -> (Pushed, SpanBatches) {
    let inspected = peek::inspect(Signal::Traces, payload, NOW, &caps).unwrap();
    let mut columns = SpanColumns::new(caps);
    let pushed = columns
        .push_request(payload, &info("default"), Choice::All(Sampling::ALL))
        .unwrap();
    assert_eq!(pushed.refused, inspected.rejected);
    assert_eq!(pushed.rows, inspected.accepted());
    let mut listed = SpanColumns::new(columns.caps().clone());
    let rejected = inspected.ordinals();
    let again = listed
        .push_request(
            payload,
            &RequestInfo {
                rejected: &rejected,
                ..info("default")
            },
            Choice::All(Sampling::ALL),
        )
        .unwrap();
    assert_eq!((again.rows, again.refused.len()), (pushed.rows, 0));
    let batches = columns.finish_sorted(|_, _| 0);
    assert_eq!(listed.finish_sorted(|_, _| 0).spans, batches.spans);
    check_sound(&batches.spans, Table::Spans);
    check_sound(&batches.traces, Table::Traces);
    assert!(columns.is_empty());
    (pushed, batches)
}

fn decode_one(span: Span) -> (Pushed, RecordBatch) {
    let (pushed, batches) = decode(
        Caps::default(),
        &request(resource(vec![("service.name", text("shop"))]), vec![span]),
    );
    (pushed, batches.spans)
}

#[test]
fn every_field_of_a_span_has_its_place() {
    let span = Span {
        trace_state: "ot=th:8".into(),
        parent_span_id: vec![9; 8],
        flags: 0x301,
        name: "GET /cart".into(),
        kind: 3,
        start_time_unix_nano: NOW - 1_000_000_001,
        end_time_unix_nano: NOW,
        attributes: attrs(vec![
            ("http.request.method", text("GET")),
            ("http.response.status_code", Value::IntValue(200)),
            ("user", text("ann")),
            ("n", Value::IntValue(-7)),
            ("share", Value::DoubleValue(0.5)),
            ("ok", Value::BoolValue(true)),
            (
                "list",
                array(vec![text("a\"b"), Value::IntValue(1), Value::DoubleValue(f64::NAN)]),
            ),
            ("map", kvlist(vec![("k", Value::BoolValue(false))])),
            ("raw", Value::BytesValue(vec![1, 2, 255, 0])),
        ]),
        dropped_attributes_count: 1,
        events: vec![Event {
            time_unix_nano: NOW + 1,
            name: "e".into(),
            attributes: attrs(vec![("x", Value::IntValue(3))]),
            dropped_attributes_count: 2,
        }],
        dropped_events_count: 4,
        links: vec![Link {
            trace_id: vec![7; 16],
            span_id: vec![8; 8],
            trace_state: "a=b".into(),
            attributes: attrs(vec![("y", Value::BoolValue(true))]),
            dropped_attributes_count: 5,
            flags: 1,
        }],
        dropped_links_count: 6,
        status: Some(Status {
            message: "bad".into(),
            code: 2,
        }),
        ..span(1, 2)
    };
    let origin = resource(vec![
        ("service.name", text("shop")),
        ("service.namespace", text("eu")),
        ("deployment.environment", text("prod")),
        ("k8s.pod.name", text("pod-1")),
        ("host.name", Value::IntValue(7)),
        ("extra", Value::DoubleValue(1.5)),
    ]);
    let (pushed, batches) = decode(Caps::default(), &request(origin, vec![span]));
    assert_eq!((pushed.rows, pushed.tally), (1, Tally::default()));
    check_row(
        &batches.spans,
        &[
            ("date", "20453"),
            ("tenant", "default"),
            ("ts", "1767225598999999"),
            ("ts_ns", "999"),
            ("ts_flag", "null"),
            ("duration_ns", "1000000001"),
            ("end_ns", "null"),
            ("service_name", "shop"),
            ("service_namespace", "eu"),
            ("service_version", "null"),
            ("deployment_env", "prod"),
            ("k8s_pod", "pod-1"),
            ("host_name", "null"),
            ("resource_attrs", "{host.name: 7, extra: 1.5}"),
            ("resource_schema_url", "res-url"),
            ("scope_name", "lib"),
            ("scope_version", "1.2"),
            ("scope_schema_url", "scope-url"),
            ("scope_attrs", "{}"),
            ("name", "GET /cart"),
            ("kind", "3"),
            ("status_code", "2"),
            ("status_message", "bad"),
            ("trace_id", &"01".repeat(16)),
            ("span_id", &"02".repeat(8)),
            ("parent_span_id", &"09".repeat(8)),
            ("trace_state", "ot=th:8"),
            ("flags", "769"),
            ("is_root", "false"),
            ("is_entry", "true"),
            ("sample_weight", "1.0"),
            ("sample_threshold", "0"),
            ("sample_reason", "all"),
            ("trigger", "null"),
            ("partial", "false"),
            ("late", "false"),
            ("policy_epoch", "0"),
            ("http_method", "GET"),
            ("http_status", "200"),
            ("http_route", "null"),
            ("attrs_str", "{user: ann}"),
            ("attrs_int", "{n: -7}"),
            ("attrs_dbl", "{share: 0.5}"),
            ("attrs_bool", "{ok: true}"),
            (
                "attrs_json",
                "{list: {\"arrayValue\":{\"values\":[{\"stringValue\":\"a\\\"b\"},{\"intValue\":\"1\"},{\"doubleValue\":\"NaN\"}]}}, \
                 map: {\"kvlistValue\":{\"values\":[{\"key\":\"k\",\"value\":{\"boolValue\":false}}]}}, raw: {\"bytesValue\":\"AQL/AA==\"}}",
            ),
            ("dropped_attrs", "1"),
            ("dropped_events", "4"),
            ("dropped_links", "6"),
            (
                "events",
                "[(ts: 1767225600000000, ts_ns: 1, name: e, attrs: {x: 3}, dropped: 2)]",
            ),
            (
                "links",
                "[(trace_id: 07070707070707070707070707070707, span_id: 0808080808080808, trace_state: a=b, flags: 1, attrs: {y: true}, dropped: 5)]",
            ),
            ("ingest_ts", "1767225600000000"),
        ],
    );
}

#[test]
fn both_conventions_lead_to_one_column_and_nothing_is_lost() {
    let check = |pairs: Vec<(&str, Value)>, expect: &[(&str, &str)]| {
        check_row(
            &decode_one(Span {
                attributes: attrs(pairs),
                ..span(1, 1)
            })
            .1,
            expect,
        )
    };
    check(
        vec![("http.method", text("PUT"))],
        &[("http_method", "PUT"), ("attrs_str", "{}")],
    );
    check(
        vec![("http.method", text("PUT")), ("http.request.method", text("POST"))],
        &[("http_method", "PUT"), ("attrs_str", "{http.request.method: POST}")],
    );
    check(
        vec![("http.status_code", text("200"))],
        &[("http_status", "null"), ("attrs_str", "{http.status_code: 200}")],
    );
    check(
        vec![("http.status_code", Value::IntValue(1 << 40))],
        &[
            ("http_status", "null"),
            ("attrs_int", "{http.status_code: 1099511627776}"),
        ],
    );
    check(
        vec![("db.system", text("pg")), ("db.sql.table", text("t"))],
        &[("db_system", "pg"), ("db_collection", "t")],
    );
}

#[test]
fn the_first_of_equal_keys_wins() {
    let pairs = vec![
        ("a", text("1")),
        ("b", text("2")),
        ("a", text("3")),
        ("", text("empty")),
        ("a", Value::IntValue(4)),
    ];
    let (pushed, spans) = decode_one(Span {
        attributes: attrs(pairs),
        ..span(1, 1)
    });
    assert_eq!((pushed.tally.duplicate_keys, pushed.tally.empty_keys), (2, 1));
    check_row(
        &spans,
        &[
            ("attrs_str", "{a: 1, b: 2, : empty}"),
            ("attrs_int", "{}"),
            ("dropped_attrs", "0"),
        ],
    );
}

#[test]
fn times_that_cannot_be_trusted_are_flagged_and_stored_by_arrival() {
    let day = |ns: u64| (ns / 86_400_000_000_000).to_string();
    let check = |start: u64, end: u64, flag: &str, date: &str, duration: &str, raw_end: &str| {
        let (_, spans) = decode_one(Span {
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            ..span(1, 1)
        });
        let us = (start / 1000).to_string();
        check_row(
            &spans,
            &[
                ("ts", &us),
                ("ts_flag", flag),
                ("date", date),
                ("duration_ns", duration),
                ("end_ns", raw_end),
            ],
        );
    };
    let (minute, days) = (60_000_000_000, 86_400_000_000_000);
    check(NOW, NOW + 5, "null", &day(NOW), "5", "null");
    check(NOW + 10 * minute, NOW + 10 * minute, "null", &day(NOW), "0", "null");
    check(
        NOW + 10 * minute + 1,
        NOW + 11 * minute,
        "future",
        &day(NOW),
        "59999999999",
        "null",
    );
    check(
        NOW - 30 * days,
        NOW - 30 * days,
        "null",
        &day(NOW - 30 * days),
        "0",
        "null",
    );
    check(
        NOW - 30 * days - 1,
        NOW,
        "past",
        &day(NOW),
        &(30 * days + 1).to_string(),
        "null",
    );
    check(0, 7, "zero", &day(NOW), "7", "null");
    check(NOW, NOW - 1, "end_before_start", &day(NOW), "0", &(NOW - 1).to_string());
}

#[test]
fn bad_spans_are_rejected_alone() {
    let bad = |change: fn(&mut Span), reason: Reason| {
        let mut bad = span(2, 2);
        change(&mut bad);
        let (pushed, batches) = decode(Caps::default(), &request(None, vec![span(1, 1), bad, span(3, 3)]));
        assert_eq!(pushed.refused, [(1, reason)]);
        assert_eq!(column(&batches.spans, "span_id"), ["01".repeat(8), "03".repeat(8)]);
        assert_eq!(batches.traces.num_rows(), 2);
    };
    for len in (0..33).filter(|len| *len != 16) {
        let mut bad = span(2, 2);
        bad.trace_id = vec![1; len];
        let (pushed, _) = decode(Caps::default(), &request(None, vec![bad]));
        assert_eq!(pushed.refused, [(0, Reason::InvalidTraceId)], "{len}");
    }
    bad(|span| span.trace_id = vec![0; 16], Reason::InvalidTraceId);
    bad(|span| span.span_id = vec![0; 8], Reason::InvalidSpanId);
    bad(|span| span.span_id.clear(), Reason::InvalidSpanId);
    bad(|span| span.parent_span_id = vec![1; 7], Reason::InvalidParentId);
    bad(|span| span.start_time_unix_nano = 1 << 63, Reason::TimestampOverflow);
    bad(|span| span.end_time_unix_nano = u64::MAX, Reason::TimestampOverflow);
    bad(|span| span.name = "x".repeat(1 << 20), Reason::TooLarge);
    bad(
        |span| span.attributes = attrs(vec![("a", text("b")), ("deep", nest(16)), ("c", text("d"))]),
        Reason::TooDeep,
    );
    bad(
        |span| {
            span.events = vec![
                Event {
                    attributes: attrs(vec![("deep", nest(16))]),
                    ..Event::default()
                },
                Event::default(),
            ]
        },
        Reason::TooDeep,
    );
    bad(
        |span| {
            span.links = vec![Link {
                attributes: attrs(vec![("deep", nest(30))]),
                ..Link::default()
            }]
        },
        Reason::TooDeep,
    );
}

#[test]
fn a_bad_resource_rejects_its_spans() {
    let deep = request(resource(vec![("deep", nest(16))]), vec![span(1, 1), span(1, 2)]);
    let (pushed, batches) = decode(Caps::default(), &deep);
    assert_eq!(pushed.refused, [(0, Reason::TooDeep), (1, Reason::TooDeep)]);
    assert_eq!(batches.traces.num_rows(), 0);
}

#[test]
fn caps_cut_and_count() {
    let caps = Caps {
        attributes: 2,
        value_bytes: 4,
        key_bytes: 3,
        events: 1,
        links: 0,
        text_bytes: 5,
        nested_attributes: 1,
        ..Caps::default()
    };
    let pairs = vec![("a", text("12345")), ("long key", text("é é")), ("c", text("x"))];
    let span = Span {
        name: "operation".into(),
        attributes: attrs(pairs),
        events: vec![
            Event {
                attributes: attrs(vec![("p", text("1")), ("q", text("2"))]),
                ..Event::default()
            },
            Event::default(),
        ],
        links: vec![Link::default()],
        ..span(1, 1)
    };
    let payload = request(None, vec![span]);
    let (pushed, batches) = decode(caps.clone(), &payload);
    let spans = &batches.spans;
    check_row(
        spans,
        &[
            ("name", "opera"),
            ("attrs_str", "{a: 1234, lon: é }"),
            ("dropped_attrs", "1"),
            ("dropped_events", "1"),
            ("dropped_links", "1"),
            ("events", "[(ts: 0, ts_ns: 0, name: , attrs: {p: 1}, dropped: 1)]"),
            ("links", "[]"),
        ],
    );
    // Name, two values, one key, one attribute, one event attribute, one event, one link; and both schema URLs.
    assert_eq!(pushed.tally.truncated, 10);
    assert_eq!(
        peek::inspect(Signal::Traces, &payload, NOW, &caps).unwrap().truncated,
        10
    );
}

#[test]
fn a_long_list_is_left_out_whole() {
    let caps = Caps {
        value_bytes: 16,
        ..Caps::default()
    };
    let span = Span {
        attributes: attrs(vec![
            ("l", array(vec![text("0123456789"), text("0")])),
            ("s", text("x")),
        ]),
        ..span(1, 1)
    };
    let (pushed, batches) = decode(caps, &request(None, vec![span]));
    check_row(
        &batches.spans,
        &[("attrs_json", "{}"), ("attrs_str", "{s: x}"), ("dropped_attrs", "1")],
    );
    assert_eq!(pushed.tally.truncated, 1);
}

#[test]
fn invalid_utf8_is_replaced_and_counted() {
    let bad = Span {
        name: "n~!me".into(),
        attributes: attrs(vec![("k~!", text("v~!"))]),
        ..span(1, 1)
    };
    let mut payload = request(resource(vec![("service.name", text("s~!op"))]), vec![bad]);
    for at in 0..payload.len() - 1 {
        if &payload[at..at + 2] == b"~!" {
            payload[at] = 0xff;
        }
    }
    let (pushed, batches) = decode(Caps::default(), &payload);
    check_row(
        &batches.spans,
        &[
            ("service_name", "s\u{fffd}!op"),
            ("name", "n\u{fffd}!me"),
            ("attrs_str", "{k\u{fffd}!: v\u{fffd}!}"),
        ],
    );
    assert_eq!(pushed.tally.sanitized, 4);
    assert_eq!(
        peek::inspect(Signal::Traces, &payload, NOW, &Caps::default())
            .unwrap()
            .sanitized,
        4
    );
}

#[test]
fn rows_are_sorted_and_parts_add_up() {
    let mut columns = SpanColumns::new(Caps::default());
    let late = |trace, id, name: &str, start: u64, status| Span {
        name: name.into(),
        start_time_unix_nano: NOW + start,
        end_time_unix_nano: NOW + start + 10_000,
        parent_span_id: if id == 1 { vec![] } else { vec![1; 8] },
        kind: 2,
        status: Some(Status {
            code: status,
            ..Status::default()
        }),
        attributes: attrs(vec![("http.route", text("/r"))]),
        ..span(trace, id)
    };
    let front = request(
        resource(vec![("service.name", text("front"))]),
        vec![
            late(2, 1, "b", 2000, 0),
            late(1, 1, "a", 9000, 2),
            late(1, 2, "a", 1000, 0),
        ],
    );
    let cart = request(
        resource(vec![("service.name", text("cart"))]),
        vec![late(2, 3, "z", 0, 2)],
    );
    let choice = Choice::All(Sampling {
        trigger: Some("root"),
        ..Sampling::ALL
    });
    columns.push_request(&front, &info("t2"), choice).unwrap();
    columns.push_request(&cart, &info("t2"), choice).unwrap();
    columns
        .push_request(&cart, &info("t1"), Choice::All(Sampling::ALL))
        .unwrap();
    assert_eq!(columns.len(), 5);
    assert!(columns.bytes() > 500);
    let batches = columns.finish_sorted(|tenant, trace| i32::from(tenant == "t2" && trace.0 == [1; 16]));
    check_sound(&batches.spans, Table::Spans);
    check_sound(&batches.traces, Table::Traces);
    assert_eq!(column(&batches.spans, "tenant"), ["t1", "t2", "t2", "t2", "t2"]);
    assert_eq!(
        column(&batches.spans, "service_name"),
        ["cart", "cart", "front", "front", "front"]
    );
    assert_eq!(column(&batches.spans, "name"), ["z", "z", "a", "a", "b"]);
    assert_eq!(
        column(&batches.spans, "span_id"),
        [3, 3, 2, 1, 1].map(|id: u8| hex::encode([id; 8]))
    );
    assert_eq!(
        column(&batches.spans, "trigger"),
        ["null", "root", "root", "root", "root"]
    );
    let traces = &batches.traces;
    assert_eq!(column(traces, "tenant"), ["t1", "t2", "t2"]);
    assert_eq!(
        column(traces, "trace_id"),
        [2, 1, 2].map(|id: u8| hex::encode([id; 16]))
    );
    assert_eq!(column(traces, "part"), ["0", "1", "0"]);
    assert_eq!(column(traces, "span_count"), ["1", "2", "2"]);
    assert_eq!(column(traces, "error_count"), ["1", "1", "1"]);
    assert_eq!(column(traces, "services"), ["[cart]", "[front]", "[front, cart]"]);
    assert_eq!(column(traces, "root_service"), ["null", "front", "front"]);
    assert_eq!(column(traces, "root_name"), ["null", "a", "b"]);
    assert_eq!(column(traces, "root_status"), ["null", "2", "0"]);
    assert_eq!(column(traces, "http_route"), ["null", "/r", "/r"]);
    assert_eq!(column(traces, "duration_ns"), ["10000", "18000", "12000"]);
    assert_eq!(
        column(traces, "ts_min"),
        ["1767225600000000", "1767225600000001", "1767225600000000"]
    );

    // The builder is as new: the same request gives the same batch.
    columns
        .push_request(&cart, &info("t1"), Choice::All(Sampling::ALL))
        .unwrap();
    let mut fresh = SpanColumns::new(Caps::default());
    fresh
        .push_request(&cart, &info("t1"), Choice::All(Sampling::ALL))
        .unwrap();
    assert_eq!(
        columns.finish_sorted(|_, _| 0).spans,
        fresh.finish_sorted(|_, _| 0).spans
    );
}

#[test]
fn only_chosen_spans_become_rows() {
    let payload = request(None, vec![span(1, 1), span(2, 2), span(3, 3), span(4, 4)]);
    let verdicts = [
        Sampling::ALL,
        Sampling {
            sample_weight: Some(8.0),
            sample_reason: Some("slow"),
            ..Sampling::ALL
        },
    ];
    let mut columns = SpanColumns::new(Caps::default());
    let pushed = columns
        .push_request(
            &payload,
            &info("t"),
            Choice::Each {
                verdicts: &verdicts,
                of: &[1, u32::MAX, 0],
            },
        )
        .unwrap();
    assert_eq!(pushed.rows, 2);
    let batches = columns.finish_sorted(|_, _| 0);
    check_sound(&batches.spans, Table::Spans);
    assert_eq!(column(&batches.spans, "sample_weight"), ["8.0", "1.0"]);
    assert_eq!(column(&batches.traces, "sample_reason"), ["slow", "all"]);
}

#[test]
fn a_malformed_request_leaves_no_trace() {
    let mut payload = request(
        resource(vec![("service.name", text("x"))]),
        vec![span(1, 1), span(2, 2)],
    );
    let mut columns = SpanColumns::new(Caps::default());
    columns
        .push_request(&request(None, vec![span(9, 9)]), &info("t"), Choice::All(Sampling::ALL))
        .unwrap();
    // A third group that ends too early.
    payload.extend_from_slice(&[0x0a, 6, 0x12, 4, 0x12, 2, 0x0a, 9]);
    assert!(
        columns
            .push_request(&payload, &info("t"), Choice::All(Sampling::ALL))
            .is_err()
    );
    assert!(peek::inspect(Signal::Traces, &payload, NOW, &Caps::default()).is_err());
    let batches = columns.finish_sorted(|_, _| 0);
    check_sound(&batches.spans, Table::Spans);
    assert_eq!((batches.spans.num_rows(), batches.traces.num_rows()), (1, 1));
}

#[test]
fn fields_may_come_in_any_order() {
    // Scope spans before the resource, spans before the scope, the resource in two halves.
    let field = |number: u8, body: &[u8]| [&[number << 3 | 2, body.len() as u8][..], body].concat();
    let half = |key: &str, value: &str| resource(vec![(key, text(value))]).unwrap().encode_to_vec();
    let block = [
        field(2, &span(1, 1).encode_to_vec()),
        field(1, &scope("lib", "3").unwrap().encode_to_vec()),
    ]
    .concat();
    let group = [
        field(2, &block),
        field(1, &half("service.name", "s")),
        field(3, b"url"),
        field(1, &half("k", "v")),
    ]
    .concat();
    let (_, batches) = decode(Caps::default(), &field(1, &group));
    check_row(
        &batches.spans,
        &[
            ("service_name", "s"),
            ("resource_attrs", "{k: v}"),
            ("scope_name", "lib"),
            ("resource_schema_url", "url"),
        ],
    );
}

#[test]
fn a_late_scope_or_schema_url_holds_for_the_entries_before_it() {
    let len = |len: usize| [(len & 0x7f) as u8 | 0x80, (len >> 7) as u8];
    let field = |number: u8, body: &[u8]| [&[number << 3 | 2][..], &len(body.len()), body].concat();
    let entry = |id: u8| field(2, &span(1, id).encode_to_vec());
    let lib = field(1, &scope("lib", "3").unwrap().encode_to_vec());
    let deep = InstrumentationScope {
        attributes: attrs(vec![("deep", nest(16))]),
        ..InstrumentationScope::default()
    };
    let bad = entry(0);
    let check = |blocks: &[Vec<u8>], names: &[&str], urls: &[&str], refused: &[(u32, Reason)]| {
        let group = blocks.iter().flat_map(|block| field(2, block)).collect::<Vec<_>>();
        let (pushed, batches) = decode(Caps::default(), &field(1, &group));
        assert_eq!(column(&batches.spans, "scope_name"), names);
        assert_eq!(column(&batches.spans, "scope_schema_url"), urls);
        assert_eq!(pushed.refused, refused);
    };
    let plain = entry(1);
    check(
        &[plain.clone(), [lib.clone(), entry(2), field(3, b"u")].concat()],
        &["null", "lib"],
        &["null", "u"],
        &[],
    );
    check(
        &[plain.clone(), [bad, entry(2), lib, field(3, b"u")].concat()],
        &["null", "lib"],
        &["null", "u"],
        &[(1, Reason::InvalidSpanId)],
    );
    let late_deep = [entry(2), field(1, &deep.encode_to_vec())].concat();
    check(&[plain, late_deep], &["null"], &["null"], &[(1, Reason::TooDeep)]);
}

#[test]
fn values_that_never_repeat_survive() {
    let mut columns = SpanColumns::new(Caps::default());
    let spans = |from: u32| {
        let span = |index: u32| Span {
            start_time_unix_nano: NOW + u64::from(index),
            attributes: attrs(vec![("session", text(&format!("{index:x}"))), ("same", text("s"))]),
            ..span(1, 1)
        };
        (from..from + 300).map(span).collect()
    };
    for from in [0, 300, 0] {
        columns
            .push_request(&request(None, spans(from)), &info("t"), Choice::All(Sampling::ALL))
            .unwrap();
    }
    let batch = columns.finish_sorted(|_, _| 0).spans;
    check_sound(&batch, Table::Spans);
    let expect: Vec<String> = (0..300)
        .flat_map(|index| [index, index])
        .chain(300..600)
        .map(|index| format!("{{session: {index:x}, same: s}}"))
        .collect();
    assert_eq!(column(&batch, "attrs_str"), expect);
}

#[test]
fn nothing_makes_empty_batches() {
    let (pushed, batches) = decode(Caps::default(), &[]);
    assert_eq!(
        (pushed.rows, batches.spans.num_rows(), batches.traces.num_rows()),
        (0, 0, 0)
    );
}
