use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message as _;

use super::*;
use crate::otlp::caps::Caps;
use crate::otlp::columns::{Changes, Choice, LogColumns, Pushed, Sampling};
use crate::otlp::peek;
use crate::otlp::reject::Reason;
use crate::signal::Signal;

fn request(service: &str, log_records: Vec<LogRecord>) -> Vec<u8> {
    let scope_logs = vec![ScopeLogs {
        scope: scope("lib", ""),
        log_records,
        ..ScopeLogs::default()
    }];
    let resource_logs = vec![ResourceLogs {
        resource: resource(vec![("service.name", text(service))]),
        scope_logs,
        ..ResourceLogs::default()
    }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

fn record(body: Value) -> LogRecord {
    LogRecord {
        time_unix_nano: NOW - 1,
        body: Some(any(body)),
        ..LogRecord::default()
    }
}

fn decode(caps: Caps, payload: &[u8]) -> (Pushed, RecordBatch) {
    let inspected = peek::inspect(Signal::Logs, payload, NOW, &caps).unwrap();
    let mut columns = LogColumns::new(caps);
    let pushed = columns
        .push_request(payload, &info("default"), Choice::All(Sampling::ALL))
        .unwrap();
    assert_eq!(pushed.refused, inspected.rejected);
    assert_eq!(pushed.rows, inspected.accepted());
    assert_eq!(
        (pushed.tally.sanitized, pushed.tally.truncated),
        (inspected.sanitized, inspected.truncated)
    );
    let batch = columns.finish_sorted();
    check_sound(&batch, Table::Logs);
    (pushed, batch)
}

fn decode_one(record: LogRecord) -> RecordBatch {
    decode(Caps::default(), &request("shop", vec![record])).1
}

#[test]
fn every_field_of_a_record_has_its_place() {
    let record = LogRecord {
        observed_time_unix_nano: NOW + 2,
        severity_number: 17,
        severity_text: "ERROR".into(),
        attributes: attrs(vec![
            ("exception.type", text("Boom")),
            ("http.route", text("/r")),
            ("n", Value::IntValue(1)),
            ("e", array(vec![])),
        ]),
        dropped_attributes_count: 3,
        flags: 1,
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        event_name: "ev".into(),
        ..record(text("it broke"))
    };
    check_row(
        &decode_one(record),
        &[
            ("date", "20453"),
            ("ts", "1767225599999999"),
            ("ts_ns", "999"),
            ("ts_flag", "null"),
            ("observed_ts", "1767225600000000"),
            ("observed_ts_ns", "2"),
            ("service_name", "shop"),
            ("severity_number", "17"),
            ("severity_text", "ERROR"),
            ("event_name", "ev"),
            ("body", "it broke"),
            ("body_json", "null"),
            ("trace_id", &"01".repeat(16)),
            ("span_id", &"02".repeat(8)),
            ("flags", "1"),
            ("sample_weight", "1.0"),
            ("exception_type", "Boom"),
            ("http_route", "/r"),
            ("attrs_str", "{}"),
            ("attrs_int", "{n: 1}"),
            ("attrs_json", "{e: {\"arrayValue\":{\"values\":[]}}}"),
            ("scope_name", "lib"),
            ("scope_version", "null"),
            ("dropped_attrs", "3"),
        ],
    );
}

#[test]
fn what_is_stored_otherwise_than_sent_is_counted() {
    let check = |record: LogRecord, expected: &[(&str, u64)]| {
        let payload = request("shop", vec![record.clone(), record]);
        let mut columns = LogColumns::new(Caps::default());
        let choice = || Choice::All(Sampling::ALL);
        columns.push_request(&payload, &info("default"), choice()).unwrap();
        // What is malformed adds nothing.
        let cut = &payload[..payload.len() - 1];
        columns.push_request(cut, &info("default"), choice()).unwrap_err();
        columns.finish_sorted();
        let expected: Vec<(&str, u64)> = expected.iter().map(|(name, count)| (*name, 2 * count)).collect();
        assert_eq!(columns.take_changes().counts().collect::<Vec<_>>(), expected);
        assert_eq!(columns.take_changes(), Changes::default(), "it was taken");
    };
    let with = |trace_id: &[u8], span_id: &[u8]| LogRecord {
        trace_id: trace_id.to_vec(),
        span_id: span_id.to_vec(),
        ..record(text("x"))
    };
    let at = |time_unix_nano: u64, observed_time_unix_nano: u64| LogRecord {
        time_unix_nano,
        observed_time_unix_nano,
        ..record(text("x"))
    };
    check(with(&[], &[]), &[]);
    check(with(&[1; 16], &[2; 8]), &[]);
    check(with(&[1; 16], &[]), &[]);
    for (trace_id, span_id) in [
        (&[1; 15][..], &[2; 8][..]),
        (&[0; 16], &[]),
        (&[], &[2; 8]),
        (&[1; 16], &[2; 7]),
        (&[1; 16], &[0; 8]),
    ] {
        check(with(trace_id, span_id), &[("unlinked", 1)]);
    }
    let caps = Caps::default();
    check(at(0, 0), &[("zero", 1)]);
    check(at(0, NOW), &[("observed", 1)]);
    check(at(NOW + caps.future_ns, 0), &[]);
    check(at(NOW + caps.future_ns + 1, 0), &[("future", 1)]);
    check(at(NOW - caps.past_ns - 1, 0), &[("past", 1)]);
    let attributes = attrs(vec![
        ("a", text("1")),
        ("", text("2")),
        ("a", text("3")),
        ("b", Value::StringValueStrindex(7)),
        ("c", Value::StringValueStrindex(8)),
    ]);
    let changes = [("duplicate_key", 1), ("empty_key", 1), ("strindex", 2)];
    check(
        LogRecord {
            attributes,
            ..record(text("x"))
        },
        &changes,
    );
}

#[test]
fn bodies_of_any_type() {
    let check = |body: Option<Value>, text: &str, json: &str| {
        let record = LogRecord {
            time_unix_nano: NOW,
            body: body.map(any),
            ..LogRecord::default()
        };
        check_row(&decode_one(record), &[("body", text), ("body_json", json)]);
    };
    check(None, "null", "null");
    check(Some(text("")), "", "null");
    check(
        Some(Value::IntValue(i64::MIN)),
        "null",
        "{\"intValue\":\"-9223372036854775808\"}",
    );
    check(
        Some(Value::DoubleValue(f64::NEG_INFINITY)),
        "null",
        "{\"doubleValue\":\"-Infinity\"}",
    );
    check(
        Some(Value::BytesValue(b"abcd".to_vec())),
        "null",
        "{\"bytesValue\":\"YWJjZA==\"}",
    );
    check(
        Some(kvlist(vec![("a\n\u{1}", array(vec![Value::BoolValue(true)]))])),
        "null",
        "{\"kvlistValue\":{\"values\":[{\"key\":\"a\\n\\u0001\",\"value\":{\"arrayValue\":{\"values\":[{\"boolValue\":true}]}}}]}}",
    );
}

#[test]
fn a_record_without_time_shows_when_it_was_observed_or_arrived() {
    let check = |time: u64, observed: u64, ts: u64, flag: &str| {
        let record = LogRecord {
            time_unix_nano: time,
            observed_time_unix_nano: observed,
            ..record(text("x"))
        };
        check_row(
            &decode_one(record),
            &[("ts", &(ts / 1000).to_string()), ("ts_flag", flag)],
        );
    };
    check(NOW - 1000, NOW, NOW - 1000, "null");
    check(0, NOW - 2000, NOW - 2000, "observed");
    check(0, 0, NOW, "zero");
    check(NOW * 2, 0, NOW * 2, "future");
    check(1000, 0, 1000, "past");
}

#[test]
fn ids_that_are_not_valid_link_to_nothing() {
    let check = |trace_id: Vec<u8>, span_id: Vec<u8>, expect: (&str, &str)| {
        let record = LogRecord {
            trace_id,
            span_id,
            ..record(text("x"))
        };
        check_row(&decode_one(record), &[("trace_id", expect.0), ("span_id", expect.1)]);
    };
    let (trace, span) = ("01".repeat(16), "02".repeat(8));
    check(vec![1; 16], vec![2; 8], (&trace, &span));
    check(vec![1; 16], vec![2; 7], (&trace, "null"));
    check(vec![1; 16], vec![0; 8], (&trace, "null"));
    check(vec![1; 15], vec![2; 8], ("null", "null"));
    check(vec![0; 16], vec![2; 8], ("null", "null"));
}

#[test]
fn bad_records_are_rejected_alone() {
    let bad = |bad: LogRecord, reason: Reason| {
        let (pushed, batch) = decode(
            Caps::default(),
            &request("s", vec![record(text("a")), bad, record(text("b"))]),
        );
        assert_eq!(pushed.refused, [(1, reason)]);
        assert_eq!(column(&batch, "body"), ["a", "b"]);
    };
    bad(
        LogRecord {
            time_unix_nano: 1 << 63,
            ..record(text("x"))
        },
        Reason::TimestampOverflow,
    );
    bad(
        LogRecord {
            observed_time_unix_nano: u64::MAX,
            ..record(text("x"))
        },
        Reason::TimestampOverflow,
    );
    bad(record(text(&"x".repeat(1 << 20))), Reason::TooLarge);
    bad(record(nest(16)), Reason::TooDeep);
    bad(
        LogRecord {
            attributes: attrs(vec![("deep", nest(20))]),
            ..record(text("x"))
        },
        Reason::TooDeep,
    );
}

#[test]
fn depth_16_is_stored_and_beyond_the_decoders_limit_is_malformed() {
    let (pushed, _) = decode(Caps::default(), &request("s", vec![record(nest(15))]));
    assert_eq!(pushed.rows, 1);
    // 4 messages above the body, 2 per level: the 48th level is the last that fits 100. prost agrees.
    for levels in [47, 48, 49, 50, 1000] {
        let payload = request("s", vec![record(nest(levels))]);
        let own = peek::inspect(Signal::Logs, &payload, NOW, &Caps::default());
        let prost = ExportLogsServiceRequest::decode(payload.as_slice());
        assert_eq!(own.is_err(), prost.is_err(), "{levels} levels");
        assert_eq!(own.is_err(), levels > 48, "{levels} levels");
    }
}

#[test]
fn a_body_beyond_its_cap_is_cut() {
    let caps = Caps {
        body_bytes: 4,
        ..Caps::default()
    };
    let (_, batch) = decode(
        caps,
        &request("s", vec![record(text("12345")), record(array(vec![text("12345")]))]),
    );
    assert_eq!(column(&batch, "body"), ["1234", "null"]);
    assert_eq!(column(&batch, "body_json"), ["null", "null"]);
}

#[test]
fn rows_are_sorted_by_service_and_time() {
    let mut columns = LogColumns::new(Caps::default());
    let at = |body: &str, time: u64| LogRecord {
        time_unix_nano: NOW + time,
        ..record(text(body))
    };
    for (service, records) in [
        ("b", vec![at("4", 9), at("3", 1)]),
        ("a", vec![at("2", 5)]),
        ("", vec![at("1", 7)]),
    ] {
        columns
            .push_request(&request(service, records), &info("t"), Choice::All(Sampling::ALL))
            .unwrap();
    }
    let batch = columns.finish_sorted();
    check_sound(&batch, Table::Logs);
    assert_eq!(column(&batch, "body"), ["1", "2", "3", "4"]);
}
