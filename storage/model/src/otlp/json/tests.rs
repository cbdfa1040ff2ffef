#![allow(clippy::unwrap_used)]

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::*;

const CAP: usize = 1 << 20;

fn error(signal: Signal, json: &str) -> JsonError {
    transcode(signal, json.as_bytes(), CAP).expect_err(json)
}

/// The span with these JSON fields.
fn span(fields: &str) -> Span {
    let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{fields}}}]}}]}}]}}"#);
    let bytes = transcode(Signal::Traces, json.as_bytes(), CAP).unwrap_or_else(|error| panic!("{json}: {error}"));
    ExportTraceServiceRequest::decode(&bytes[..])
        .unwrap()
        .resource_spans
        .remove(0)
        .scope_spans
        .remove(0)
        .spans
        .remove(0)
}

fn span_error(fields: &str) -> String {
    error(
        Signal::Traces,
        &format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{fields}}}]}}]}}]}}"#),
    )
    .to_string()
}

fn log(fields: &str) -> LogRecord {
    let json = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{{fields}}}]}}]}}]}}"#);
    let bytes = transcode(Signal::Logs, json.as_bytes(), CAP).unwrap_or_else(|error| panic!("{json}: {error}"));
    ExportLogsServiceRequest::decode(&bytes[..])
        .unwrap()
        .resource_logs
        .remove(0)
        .scope_logs
        .remove(0)
        .log_records
        .remove(0)
}

fn body(value: &str) -> Option<Value> {
    log(&format!(r#""body":{value}"#)).body.unwrap().value
}

fn metric(fields: &str) -> Metric {
    let json = format!(r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{{fields}}}]}}]}}]}}"#);
    let bytes = transcode(Signal::Metrics, json.as_bytes(), CAP).unwrap_or_else(|error| panic!("{json}: {error}"));
    let mut request = ExportMetricsServiceRequest::decode(&bytes[..]).unwrap();
    request
        .resource_metrics
        .remove(0)
        .scope_metrics
        .remove(0)
        .metrics
        .remove(0)
}

#[test]
fn empty_requests_and_empty_envelopes_are_requests() {
    for json in [
        "{}",
        " { } ",
        r#"{"resourceSpans":[]}"#,
        r#"{"resourceSpans":null}"#,
        r#"{"resource_spans":[{"scopeSpans":5}],"whatever":{"a":[1,{"b":null}]}}"#,
    ] {
        assert_eq!(transcode(Signal::Traces, json.as_bytes(), CAP).unwrap(), b"", "{json}");
    }
    let bytes = transcode(Signal::Traces, br#"{"resourceSpans":[{},{"scopeSpans":[{}]}]}"#, CAP).unwrap();
    assert_eq!(
        ExportTraceServiceRequest::decode(&bytes[..])
            .unwrap()
            .resource_spans
            .len(),
        2
    );
}

#[test]
fn ids_are_hex_of_either_case_and_any_length() {
    let read = span(r#""traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","parentSpanId":"""#);
    assert_eq!(hex::encode(&read.trace_id), "5b8efff798038103d269b633813fc60c");
    assert_eq!(hex::encode(&read.span_id), "eee19b7ec3c1b174");
    assert!(read.parent_span_id.is_empty());
    // The length is the item's trouble, not the request's.
    assert_eq!(span(r#""traceId":"abcd""#).trace_id, [0xab, 0xcd]);
    let read = span(r#""links":[{"traceId":"0102","spanId":"FF"}]"#);
    assert_eq!(
        (&read.links[0].trace_id[..], &read.links[0].span_id[..]),
        (&[1, 2][..], &[0xff][..])
    );
    assert_eq!(
        span_error(r#""traceId":"abc""#),
        "resourceSpans[0].scopeSpans[0].spans[0].traceId: \"abc\" is not hex digits in pairs at line 1 column 59"
    );
    assert!(
        span_error(r#""links":[{},{"spanId":"W46P"}]"#)
            .starts_with("resourceSpans[0].scopeSpans[0].spans[0].links[1].spanId: ")
    );
    assert!(span_error(r#""spanId":12"#).contains("expected a string of hex digits"));
}

#[test]
fn sixty_four_bit_integers_as_strings_or_numbers() {
    for form in [
        "1544712660300000001",
        r#""1544712660300000001""#,
        "1.544712660300000001e18",
        r#""1544712660300000001.0""#,
    ] {
        assert_eq!(
            span(&format!(r#""startTimeUnixNano":{form}"#)).start_time_unix_nano,
            1_544_712_660_300_000_001,
            "{form}"
        );
    }
    assert_eq!(
        span(r#""endTimeUnixNano":"18446744073709551615""#).end_time_unix_nano,
        u64::MAX
    );
    assert_eq!(
        body(r#"{"intValue":"-9223372036854775808"}"#),
        Some(Value::IntValue(i64::MIN))
    );
    assert_eq!(body(r#"{"intValue":1e3}"#), Some(Value::IntValue(1000)));
    assert_eq!(body(r#"{"intValue":"\u0031\u0032"}"#), Some(Value::IntValue(12)));
    assert_eq!(body(r#"{"intValue":0}"#), Some(Value::IntValue(0)));
    for (fields, expect) in [
        (
            r#""startTimeUnixNano":"18446744073709551616""#,
            "startTimeUnixNano: \"18446744073709551616\" is out of range for an unsigned 64-bit integer",
        ),
        (
            r#""startTimeUnixNano":-1"#,
            "startTimeUnixNano: -1 is out of range for an unsigned 64-bit integer",
        ),
        (r#""startTimeUnixNano":1.5"#, "startTimeUnixNano: 1.5 is not an integer"),
        (r#""startTimeUnixNano":"""#, "startTimeUnixNano: \"\" is not a number"),
        (
            r#""startTimeUnixNano":" 1""#,
            "startTimeUnixNano: \" 1\" is not a number",
        ),
        (r#""startTimeUnixNano":true"#, "startTimeUnixNano: true is not a number"),
        (
            r#""startTimeUnixNano":{"a":1}"#,
            "startTimeUnixNano: {\"a\":1} is not a number",
        ),
        (
            r#""attributes":[{"value":{"intValue":"9223372036854775808"}}]"#,
            "attributes[0].value.intValue: \"9223372036854775808\" is out of range for a signed 64-bit integer",
        ),
    ] {
        assert!(span_error(fields).contains(expect), "{}", span_error(fields));
    }
}

#[test]
fn thirty_two_bit_integers_as_strings_or_numbers() {
    assert_eq!(span(r#""flags":"257","droppedLinksCount":4294967295"#).flags, 257);
    assert_eq!(
        span(r#""droppedLinksCount":"4294967295""#).dropped_links_count,
        u32::MAX
    );
    assert!(
        span_error(r#""flags":4294967296"#)
            .contains("flags: 4294967296 is out of range for an unsigned 32-bit integer")
    );
    let Some(Data::ExponentialHistogram(read)) = metric(
        r#""exponentialHistogram":{"dataPoints":[{"scale":-10,"negative":{"offset":"-2147483648"}},{"scale":"20"}]}"#,
    )
    .data
    else {
        panic!("not an exponential histogram")
    };
    assert_eq!((read.data_points[0].scale, read.data_points[1].scale), (-10, 20));
    assert_eq!(read.data_points[0].negative.as_ref().unwrap().offset, i32::MIN);
}

#[test]
fn doubles_as_numbers_strings_and_names() {
    let double = |value: &str| match body(&format!(r#"{{"doubleValue":{value}}}"#)) {
        Some(Value::DoubleValue(read)) => read,
        other => panic!("{other:?}"),
    };
    assert_eq!(double("637.704"), 637.704);
    assert_eq!(double("5"), 5.0);
    assert_eq!(double(r#""2.5e-3""#), 0.0025);
    // serde_json alone is one bit off here unless built for exactness.
    assert_eq!(
        double("122.416294033786585"),
        "122.416294033786585".parse::<f64>().unwrap()
    );
    assert_eq!(double("-0.0").to_bits(), (-0.0f64).to_bits());
    assert!(double(r#""NaN""#).is_nan());
    assert_eq!(double(r#""Infinity""#), f64::INFINITY);
    assert_eq!(double(r#""-Infinity""#), f64::NEG_INFINITY);
    for bad in [
        "1e999",
        r#""nan""#,
        r#""inf""#,
        r#""infinity""#,
        r#""1,5""#,
        r#""""#,
        "[1]",
        "false",
    ] {
        let fields = format!(r#""attributes":[{{"value":{{"doubleValue":{bad}}}}}]"#);
        assert!(
            span_error(&fields).contains("attributes[0].value.doubleValue: "),
            "{bad}"
        );
    }
}

#[test]
fn enums_are_numbers_only() {
    assert_eq!(span(r#""kind":2,"status":{"code":2,"message":"m"}"#).kind, 2);
    assert_eq!(span(r#""kind":99"#).kind, 99);
    assert_eq!(span(r#""kind":-1"#).kind, -1);
    assert_eq!(log(r#""severityNumber":17"#).severity_number, 17);
    for bad in [r#""SPAN_KIND_SERVER""#, r#""2""#] {
        assert!(
            span_error(&format!(r#""kind":{bad}"#)).contains("an enum is given by its number"),
            "{bad}"
        );
    }
    assert!(span_error(r#""kind":2147483648"#).contains("out of range"));
}

#[test]
fn any_values_of_every_kind() {
    assert_eq!(body(r#"{"stringValue":""}"#), Some(Value::StringValue(String::new())));
    assert_eq!(
        body(r#"{"stringValue":"\u00e4\uD83D\uDE00\n"}"#),
        Some(Value::StringValue("ä😀\n".into()))
    );
    assert_eq!(body(r#"{"boolValue":false}"#), Some(Value::BoolValue(false)));
    assert_eq!(
        body(r#"{"bytesValue":"+/8="}"#),
        Some(Value::BytesValue(vec![0xfb, 0xff]))
    );
    assert_eq!(
        body(r#"{"bytesValue":"-_8"}"#),
        Some(Value::BytesValue(vec![0xfb, 0xff]))
    );
    assert_eq!(body("{}"), None);
    assert_eq!(body(r#"{"stringValue":null}"#), None);
    assert_eq!(body(r#"{"string_value":"a","unheardOf":[[[]]]}"#), None);
    let Some(Value::ArrayValue(list)) =
        body(r#"{"arrayValue":{"values":[{"intValue":1},{},{"kvlistValue":{"values":[{"key":"k"}]}}]}}"#)
    else {
        panic!("not a list")
    };
    assert_eq!(list.values.len(), 3);
    assert_eq!(list.values[1].value, None);
    let Some(Value::KvlistValue(map)) = &list.values[2].value else {
        panic!("not a map")
    };
    assert_eq!((map.values[0].key.as_str(), &map.values[0].value), ("k", &None));
    assert_eq!(
        body(r#"{"arrayValue":{}}"#),
        Some(Value::ArrayValue(Default::default()))
    );
    assert_eq!(body(r#"{"arrayValue":null}"#), None);
}

#[test]
fn null_is_absent_but_not_in_lists() {
    let read =
        span(r#""name":null,"kind":null,"attributes":null,"status":null,"traceId":null,"startTimeUnixNano":null"#);
    assert_eq!(read, Span::default());
    assert!(
        span_error(r#""attributes":[null]"#)
            .contains("attributes[0]: invalid type: null, expected an object (KeyValue)")
    );
    assert_eq!(error(Signal::Traces, "null").path, "");
    let histogram = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"histogram":{"dataPoints":[{"bucketCounts":[1,null]}]}}]}]}]}"#;
    assert!(error(Signal::Metrics, histogram).path.ends_with("bucketCounts[1]"));
}

#[test]
fn the_last_of_two_wins() {
    assert_eq!(span(r#""name":"a","name":"b""#).name, "b");
    assert_eq!(span(r#""kind":3,"kind":0"#).kind, 0);
    assert_eq!(span(r#""kind":3,"kind":null"#).kind, 3);
    assert_eq!(span(r#""events":[{}],"events":[{"name":"e"}]"#).events.len(), 2);
    let read = span(r#""status":{"code":2},"status":{"message":"m"}"#).status.unwrap();
    assert_eq!((read.code, read.message.as_str()), (2, "m"));
    assert_eq!(
        body(r#"{"intValue":1,"stringValue":"a"}"#),
        Some(Value::StringValue("a".into()))
    );
}

#[test]
fn packed_lists_and_zero_lengths() {
    let counts: Vec<String> = (0..40).map(|count| format!("\"{count}\"")).collect();
    let json = format!(
        r#""histogram":{{"aggregationTemporality":2,"dataPoints":[{{"count":"780","sum":0,"bucketCounts":[{}],"explicitBounds":[0,"1.5",-1e3],"min":0}},{{"bucketCounts":[],"explicitBounds":[]}}]}}"#,
        counts.join(",")
    );
    let Some(Data::Histogram(read)) = metric(&json).data else {
        panic!("not a histogram")
    };
    assert_eq!(read.data_points[0].bucket_counts, (0..40).collect::<Vec<u64>>());
    assert_eq!(read.data_points[0].explicit_bounds, [0.0, 1.5, -1000.0]);
    // A zero that was sent is there; what was not sent is not.
    assert_eq!(
        (
            read.data_points[0].sum,
            read.data_points[0].min,
            read.data_points[0].max
        ),
        (Some(0.0), Some(0.0), None)
    );
    assert!(read.data_points[1].bucket_counts.is_empty());
    let Some(Data::ExponentialHistogram(read)) =
        metric(r#""exponentialHistogram":{"dataPoints":[{"positive":{"offset":1,"bucketCounts":["0",300,18446744073709551615]}}]}"#).data
    else {
        panic!("not an exponential histogram")
    };
    assert_eq!(
        read.data_points[0].positive.as_ref().unwrap().bucket_counts,
        [0, 300, u64::MAX]
    );
}

#[test]
fn entity_refs_survive() {
    let json = br#"{"resourceLogs":[{"resource":{"entityRefs":[{"type":"service","idKeys":["a","b"],"descriptionKeys":[]}]},"schemaUrl":"s"}]}"#;
    let bytes = transcode(Signal::Logs, json, CAP).unwrap();
    let request = ExportLogsServiceRequest::decode(&bytes[..]).unwrap();
    let entity = &request.resource_logs[0].resource.as_ref().unwrap().entity_refs[0];
    assert_eq!(
        (entity.r#type.as_str(), &entity.id_keys[..]),
        ("service", &["a".to_owned(), "b".to_owned()][..])
    );
    assert_eq!(request.resource_logs[0].schema_url, "s");
}

#[test]
fn text_that_is_not_a_request_is_refused_with_its_place() {
    for json in [
        "",
        " ",
        "[]",
        "5",
        "\"a\"",
        "{",
        "{}{}",
        "{}x",
        r#"{"resourceSpans":{}}"#,
        r#"{"resourceSpans":[5]}"#,
        r#"{"a":1,}"#,
        "{'a':1}",
    ] {
        error(Signal::Traces, json);
    }
    let read = error(Signal::Traces, "{\n \"resourceSpans\": [\n  {\"scopeSpans\": 7}]}");
    assert_eq!((read.line, read.path.as_str()), (3, "resourceSpans[0].scopeSpans"));
    let read = transcode(Signal::Traces, b"{\n\"a\xff\":1}", CAP).unwrap_err();
    assert_eq!((read.line, read.column, read.message.as_str()), (2, 3, "invalid UTF-8"));
    for lone in [r"\ud800", r"\udc00", r"\ud800\ud800", r"\ud800x"] {
        assert!(
            span_error(&format!(r#""name":"{lone}""#)).contains("spans[0].name: "),
            "{lone}"
        );
    }
    // A control character must be escaped.
    span_error("\"name\":\"a\nb\"");
}

#[test]
fn messages_quote_little_of_what_was_sent() {
    let long = "x".repeat(10_000);
    let read = error(Signal::Traces, &format!(r#"{{"resourceSpans":"{long}"}}"#));
    assert!(read.message.len() <= MESSAGE_MAX + 3, "{}", read.message.len());
    assert!(span_error(&format!(r#""traceId":"{long}""#)).len() < 300);
    assert!(span_error(&format!(r#""kind":"{long}""#)).len() < 300);
}

#[test]
fn depth_is_bounded_in_a_small_stack_and_unknown_fields_are_skipped_at_any_depth() {
    let nested = |levels: usize| {
        format!(
            r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{}{{"intValue":1}}{}}}]}}]}}]}}"#,
            r#"{"arrayValue":{"values":["#.repeat(levels),
            "]}}".repeat(levels)
        )
    };
    let check = move || {
        // 7 levels lead to the body, 3 more each value: 30 fit, 31 are one object too many.
        assert!(transcode(Signal::Logs, nested(30).as_bytes(), CAP).is_ok());
        for levels in [31, 1000, 100_000] {
            let read = error(Signal::Logs, &nested(levels));
            assert!(read.message.contains("nested more than 100 deep"), "{read}");
        }
        let unknown = format!(r#"{{"x":{}{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(transcode(Signal::Logs, unknown.as_bytes(), CAP), Ok(Vec::new()));
        let scalar = format!(
            r#"{{"resourceLogs":[{{"schemaUrl":{}{}}}]}}"#,
            "[".repeat(1_000_000),
            "]".repeat(1_000_000)
        );
        error(Signal::Logs, &scalar);
    };
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(check)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn output_is_capped() {
    let bounds = vec!["0"; 1000].join(",");
    let json = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"histogram":{{"dataPoints":[{{"explicitBounds":[{bounds}]}}]}}}}]}}]}}]}}"#
    );
    let whole = transcode(Signal::Metrics, json.as_bytes(), CAP).unwrap();
    assert!(whole.len() > 8000);
    assert_eq!(transcode(Signal::Metrics, json.as_bytes(), whole.len()).unwrap(), whole);
    let read = transcode(Signal::Metrics, json.as_bytes(), whole.len() - 1).unwrap_err();
    assert_eq!(read.kind, JsonErrorKind::TooLarge);
    assert_eq!(error(Signal::Metrics, "[").kind, JsonErrorKind::Malformed);
}

#[test]
fn the_output_grows_by_the_room_it_is_given_alone() {
    let bounds = vec!["1"; 1000].join(",");
    let json = format!(
        r#"{{"resourceMetrics":[{{"schemaUrl":"{}","scopeMetrics":[{{"metrics":[{{"name":"a","histogram":{{"dataPoints":[{{"startTimeUnixNano":"1",
            "explicitBounds":[{bounds}],"exemplars":[{{"traceId":"0102030405060708090a0b0c0d0e0f10","asInt":"-1"}}]}}]}}}}]}}]}}]}}"#,
        "u".repeat(5000)
    );
    let within = |limit: usize| {
        let mut given = 0;
        let made = transcode_within(Signal::Metrics, json.as_bytes(), CAP, &mut |out, more, most| {
            assert_eq!(out.capacity(), given, "it has not grown by itself");
            assert!(more <= most);
            let fits = out.len() + more <= limit;
            if fits {
                out.reserve_exact(more);
                given = out.capacity();
            }
            fits
        });
        (made, given)
    };
    let (made, given) = within(CAP);
    let made = made.unwrap();
    assert_eq!(
        (&made, made.capacity()),
        (&transcode(Signal::Metrics, json.as_bytes(), CAP).unwrap(), given)
    );
    // Four times the numbers, and the rest.
    assert!(made.len() > json.len());
    let (made, given) = within(json.len());
    assert_eq!(made.unwrap_err().kind, JsonErrorKind::NoRoom);
    assert!(given <= json.len());
}

#[test]
fn lengths_at_the_edges_of_a_varint() {
    for length in [0, 1, 126, 127, 128, 129, 16_383, 16_384, 16_385, 70_000] {
        let name = "n".repeat(length);
        assert_eq!(span(&format!(r#""name":"{name}","kind":1"#)).name, name, "{length}");
    }
}
