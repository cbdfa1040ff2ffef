//! Requests on which a decoder was once wrong, and shapes that random search finds too rarely.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::{Choice, LogColumns, RequestInfo};
use tailwater_model::otlp::peek;
use tailwater_model::signal::Signal;

use crate::check::{self, ARRIVAL_NS};
use crate::{data, table};

fn check_hex(signal: Signal, request: &str) {
    check::pb(signal, &hex::decode(request).unwrap());
}

/// A log request around the bytes of a LogRecord.
fn log(record: &[u8]) -> Vec<u8> {
    let framed = |number: u8, content: &[u8]| {
        let mut out = vec![number << 3 | 2];
        crate::wire::put_varint(content.len() as u64, &mut out);
        out.extend_from_slice(content);
        out
    };
    framed(1, &framed(2, &framed(2, record)))
}

#[test]
fn a_body_given_twice_keeps_its_value_when_the_second_is_empty() {
    check::pb(Signal::Logs, &log(b"\x2a\x03\x0a\x01a\x2a\x00"));
    check::pb(Signal::Logs, &log(b"\x2a\x03\x0a\x01a\x2a\x02\x10\x01"));
    check::pb(Signal::Logs, &log(b"\x2a\x00\x2a\x03\x0a\x01a"));
}

#[test]
fn the_first_service_name_counts_even_if_it_is_no_text() {
    check_hex(
        Signal::Traces,
        "0a680a340a0e0a0c736572766963652e6e616d650a030a01610a030a01610a030a01610a130a0c736572766963652e6e616d6512030a01611230122e0a10\
         000000000000000000000000000000001208000000000000000039152dcd0cb899971741152dcd0cb8999717",
    );
}

#[test]
fn empty_requests_and_envelopes_have_no_items() {
    for signal in Signal::ALL {
        for bytes in [
            &b""[..],
            b"\x0a\x00",
            b"\x0a\x02\x12\x00",
            b"\x0a\x04\x0a\x00\x12\x00",
            b"\x0a\x02\x0a\x00\x0a\x00",
        ] {
            check::pb(signal, bytes);
            assert_eq!(
                peek::inspect(signal, bytes, ARRIVAL_NS, &Caps::default())
                    .unwrap()
                    .items,
                0
            );
        }
    }
}

#[test]
fn every_series_of_a_metric_keeps_its_first_description() {
    let point = |key: &str, at_s: u64| NumberDataPoint {
        time_unix_nano: ARRIVAL_NS - at_s * 1_000_000_000,
        attributes: vec![KeyValue {
            key: key.to_owned(),
            ..KeyValue::default()
        }],
        value: Some(number_data_point::Value::AsInt(1)),
        ..NumberDataPoint::default()
    };
    let metric = |description: &str, points: &[(&str, u64)]| Metric {
        name: "queue.size".to_owned(),
        description: description.to_owned(),
        data: Some(metric::Data::Gauge(Gauge {
            data_points: points.iter().map(|(key, at_s)| point(key, *at_s)).collect(),
        })),
        ..Metric::default()
    };
    let day = 86_400;
    let metrics = vec![
        metric("of a", &[("a", 9)]),
        metric("of both", &[("a", 8), ("a", day), ("b", 8)]),
        metric("", &[("b", 7), ("b", day), ("c", 7)]),
    ];
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics {
                metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    check::pb(Signal::Metrics, &request.encode_to_vec());
}

/// Lists within lists, so many AnyValues deep.
fn nested(depth: usize) -> AnyValue {
    let innermost = AnyValue {
        value: Some(Value::BoolValue(true)),
    };
    (1..depth).fold(innermost, |inner, _| AnyValue {
        value: Some(Value::ArrayValue(ArrayValue { values: vec![inner] })),
    })
}

#[test]
fn nesting_up_to_and_beyond_every_limit() {
    let check = || {
        let caps = Caps::default();
        // 16 levels are kept, more are a bad item, and beyond what prost reads (100 messages) it is no request.
        for (depth, items, rejected) in [(15, 1, 0), (16, 1, 0), (17, 1, 1), (48, 1, 1), (49, 1, 1)] {
            let record = LogRecord {
                body: Some(nested(depth)),
                time_unix_nano: ARRIVAL_NS,
                ..LogRecord::default()
            };
            let bytes = log(&record.encode_to_vec());
            check::pb(Signal::Logs, &bytes);
            let found = peek::inspect(Signal::Logs, &bytes, ARRIVAL_NS, &caps).unwrap();
            assert_eq!((found.items, found.rejected.len()), (items, rejected), "depth {depth}");
        }
        for depth in [50, 51, 100, 1000] {
            let mut body = vec![0x10, 1];
            for _ in 1..depth {
                // An AnyValue around an ArrayValue around what there is.
                for tag in [0x0a, 0x2a] {
                    let mut outer = vec![tag];
                    crate::wire::put_varint(body.len() as u64, &mut outer);
                    outer.extend_from_slice(&body);
                    body = outer;
                }
            }
            let mut record = vec![0x2a];
            crate::wire::put_varint(body.len() as u64, &mut record);
            record.extend_from_slice(&body);
            let bytes = log(&record);
            assert!(
                ExportLogsServiceRequest::decode(&bytes[..]).is_err(),
                "prost reads depth {depth}"
            );
            peek::inspect(Signal::Logs, &bytes, ARRIVAL_NS, &caps).expect_err("deeper than prost reads");
        }
    };
    // The readers must not need a deep stack: a request is decoded on whatever thread it came in.
    check();
}

#[test]
fn deep_bytes_need_no_deep_stack() {
    // A million opening lengths, each claiming the rest: built from the inside, cheaply, as one long run of tags.
    let mut deep = Vec::new();
    for _ in 0..200_000 {
        deep.extend_from_slice(&[0x2a, 0x0a]);
    }
    let groups = [0x0b_u8].repeat(1_000_000);
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(move || {
            for signal in Signal::ALL {
                for bytes in [&deep[..], &groups] {
                    let _ = peek::inspect(signal, bytes, ARRIVAL_NS, &Caps::default());
                    let _ = peek::inspect(signal, &log(bytes), ARRIVAL_NS, &Caps::default());
                }
            }
            let record = LogRecord {
                body: Some(nested(49)),
                ..LogRecord::default()
            };
            let found = peek::inspect(
                Signal::Logs,
                &log(&record.encode_to_vec()),
                ARRIVAL_NS,
                &Caps::default(),
            )
            .unwrap();
            assert_eq!(found.rejected.len(), 1);
            // Dropping prost's own tree is fine: it has at most a hundred levels.
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_hundred_items_keep_their_ordinals() {
    // Every third record has a time that cannot be stored.
    let record = |index: u64| LogRecord {
        time_unix_nano: if index.is_multiple_of(3) { u64::MAX } else { ARRIVAL_NS },
        ..LogRecord::default()
    };
    let log_records = (0..100).map(record).collect();
    let scope_logs = vec![ScopeLogs {
        log_records,
        ..ScopeLogs::default()
    }];
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            scope_logs,
            ..ResourceLogs::default()
        }],
    };
    let bytes = request.encode_to_vec();
    check::pb(Signal::Logs, &bytes);
    let found = peek::inspect(Signal::Logs, &bytes, ARRIVAL_NS, &Caps::default()).unwrap();
    assert_eq!(found.ordinals(), (0..100).step_by(3).collect::<Vec<u32>>());
}

#[test]
fn the_example_requests_decode_alike() {
    let examples = [
        ("trace.json", Signal::Traces),
        ("metrics.json", Signal::Metrics),
        ("logs.json", Signal::Logs),
        ("events.json", Signal::Logs),
    ];
    for (name, signal) in examples {
        if let Some(text) = data::example(name) {
            check::json(signal, text.as_bytes());
            // Their own time, so that the metric points are not refused as old.
            let bytes = tailwater_model::otlp::json::transcode(signal, text.as_bytes(), 1 << 20).unwrap();
            check::check(signal, &bytes, 1_544_712_661_000_000_000, &Caps::default());
        }
    }
}

/// A collector refuses what would be too large as rows, so the estimate must not fall short where little becomes much, and be of the right order
/// where it does not.
#[test]
fn the_size_of_rows_is_estimated() {
    let check = |records: Vec<LogRecord>, attributes: usize| {
        let resource = Resource {
            attributes: (0..attributes).map(|n| text(&format!("key.{n}"), "value")).collect(),
            ..Resource::default()
        };
        let request = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(resource),
                scope_logs: vec![ScopeLogs {
                    log_records: records,
                    ..ScopeLogs::default()
                }],
                ..ResourceLogs::default()
            }],
        };
        let bytes = request.encode_to_vec();
        let caps = Caps::default();
        let estimated = peek::inspect(Signal::Logs, &bytes, ARRIVAL_NS, &caps)
            .unwrap()
            .row_bytes;
        let mut columns = LogColumns::new(caps);
        let info = RequestInfo {
            tenant: "acme",
            arrival_ns: ARRIVAL_NS,
            rejected: &[],
        };
        columns
            .push_request(&bytes, &info, Choice::All(table::SAMPLING))
            .unwrap();
        let batch = columns.finish_sorted();
        let sizes = batch
            .columns()
            .iter()
            .map(|column| column.to_data().get_slice_memory_size().unwrap());
        let actual = sizes.sum::<usize>() as u64;
        assert!(
            actual <= estimated && estimated <= 4 * actual,
            "{actual} bytes, estimated as {estimated}"
        );
    };
    let record = |body: &str, attributes: usize| LogRecord {
        body: Some(text("", body).value.unwrap()),
        attributes: (0..attributes)
            .map(|n| text(&format!("key.{n}"), &format!("{n} of {body}")))
            .collect(),
        ..LogRecord::default()
    };
    check(vec![LogRecord::default(); 5000], 0);
    check(vec![LogRecord::default(); 5000], 128);
    check(
        (0..1000).map(|n| record(&format!("line {n} of a log"), 6)).collect(),
        10,
    );
    check(vec![record(&"x".repeat(60_000), 0); 10], 0);
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.into())),
        }),
        ..KeyValue::default()
    }
}
