//! `inspect` and the columns agree, whatever the bytes: on what is malformed, on which items are rejected, on the rest.

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use prost::Message as _;

use super::*;
use crate::otlp::caps::Caps;
use crate::otlp::columns::{Choice, LogColumns, MetricColumns, Pushed, Sampling, SeriesSeen, SpanColumns};
use crate::otlp::peek::{self, Keys};
use crate::otlp::value::{Any, Raw};
use crate::signal::Signal;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

/// Small enough that generated items run into all of them.
pub(super) fn caps() -> Caps {
    Caps {
        item_bytes: 400,
        depth: 3,
        attributes: 4,
        origin_attributes: 3,
        nested_attributes: 1,
        value_bytes: 12,
        text_bytes: 10,
        body_bytes: 16,
        key_bytes: 4,
        events: 1,
        links: 1,
        exemplars: 1,
        ..Caps::default()
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        "[a-zé]{0,16}".prop_map(Value::StringValue),
        any::<i64>().prop_map(Value::IntValue),
        any::<f64>().prop_map(Value::DoubleValue),
        any::<bool>().prop_map(Value::BoolValue),
        proptest::collection::vec(any::<u8>(), 0..6).prop_map(Value::BytesValue),
    ];
    leaf.prop_recursive(4, 8, 2, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..2).prop_map(array),
            proptest::collection::vec(("[ab]{0,2}", inner), 0..2)
                .prop_map(|pairs| kvlist(pairs.iter().map(|(key, value)| (key.as_str(), value.clone())).collect())),
        ]
    })
}

fn pairs() -> impl Strategy<Value = Vec<KeyValue>> {
    let key = prop_oneof![
        "[a-c]{0,5}",
        Just("http.route".to_string()),
        Just("http.method".into()),
        Just("http.status_code".into())
    ];
    let pair = (key, proptest::option::of(value())).prop_map(|(key, value)| KeyValue {
        key,
        value: value.map(super::any),
        ..KeyValue::default()
    });
    proptest::collection::vec(pair, 0..6)
}

fn id(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![8 => Just(vec![7; len]), 1 => Just(vec![0; len]), 1 => proptest::collection::vec(1u8.., 0..20)]
}

fn moment() -> impl Strategy<Value = u64> {
    prop_oneof![6 => NOW - 1_000_000..NOW + 1_000_000, 1 => Just(0), 1 => any::<u64>()]
}

fn origin() -> impl Strategy<Value = Option<Resource>> {
    proptest::option::of(pairs().prop_map(|attributes| Resource {
        attributes,
        ..Resource::default()
    }))
}

fn span() -> impl Strategy<Value = Span> {
    let nested = (
        proptest::collection::vec(
            (moment(), pairs()).prop_map(|(time_unix_nano, attributes)| Event {
                time_unix_nano,
                attributes,
                ..Event::default()
            }),
            0..3,
        ),
        proptest::collection::vec(
            (id(16), pairs()).prop_map(|(trace_id, attributes)| Link {
                trace_id,
                attributes,
                ..Link::default()
            }),
            0..3,
        ),
    );
    (
        id(16),
        id(8),
        id(8),
        "[a-z]{0,12}",
        moment(),
        moment(),
        pairs(),
        nested,
        0..4,
    )
        .prop_map(
            |(
                trace_id,
                span_id,
                parent_span_id,
                name,
                start_time_unix_nano,
                end_time_unix_nano,
                attributes,
                (events, links),
                code,
            )| Span {
                trace_id,
                span_id,
                parent_span_id,
                name,
                start_time_unix_nano,
                end_time_unix_nano,
                attributes,
                events,
                links,
                status: Some(Status {
                    code,
                    ..Status::default()
                }),
                ..Span::default()
            },
        )
}

fn traces() -> impl Strategy<Value = Vec<u8>> {
    let group = (origin(), proptest::collection::vec(span(), 0..4)).prop_map(|(resource, spans)| ResourceSpans {
        resource,
        scope_spans: vec![ScopeSpans {
            spans,
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    });
    proptest::collection::vec(group, 0..3)
        .prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans }.encode_to_vec())
}

fn logs() -> impl Strategy<Value = Vec<u8>> {
    let record = (
        moment(),
        moment(),
        proptest::option::of(value()),
        pairs(),
        id(16),
        id(8),
    )
        .prop_map(
            |(time_unix_nano, observed_time_unix_nano, body, attributes, trace_id, span_id)| LogRecord {
                time_unix_nano,
                observed_time_unix_nano,
                body: body.map(super::any),
                attributes,
                trace_id,
                span_id,
                ..LogRecord::default()
            },
        );
    let group = (origin(), proptest::collection::vec(record, 0..4)).prop_map(|(resource, log_records)| ResourceLogs {
        resource,
        scope_logs: vec![ScopeLogs {
            log_records,
            ..ScopeLogs::default()
        }],
        ..ResourceLogs::default()
    });
    proptest::collection::vec(group, 0..3)
        .prop_map(|resource_logs| ExportLogsServiceRequest { resource_logs }.encode_to_vec())
}

pub(super) fn metrics() -> impl Strategy<Value = Vec<u8>> {
    let number = (moment(), moment(), pairs(), any::<i64>()).prop_map(
        |(time_unix_nano, start_time_unix_nano, attributes, int)| NumberDataPoint {
            time_unix_nano,
            start_time_unix_nano,
            attributes,
            value: Some(number_data_point::Value::AsInt(int)),
            ..NumberDataPoint::default()
        },
    );
    let counts = proptest::collection::vec(any::<u64>().prop_map(|count| count >> 1), 0..4);
    let bounds =
        proptest::collection::vec(-3i8..4, 0..3).prop_map(|bounds| bounds.into_iter().map(f64::from).collect());
    let histogram =
        (moment(), pairs(), counts, bounds).prop_map(|(time_unix_nano, attributes, bucket_counts, explicit_bounds)| {
            HistogramDataPoint {
                time_unix_nano,
                attributes,
                bucket_counts,
                explicit_bounds,
                ..HistogramDataPoint::default()
            }
        });
    let data = prop_oneof![
        proptest::collection::vec(number, 0..4).prop_map(|data_points| metric::Data::Sum(Sum {
            data_points,
            ..Sum::default()
        })),
        proptest::collection::vec(histogram, 0..4).prop_map(|data_points| metric::Data::Histogram(Histogram {
            data_points,
            ..Histogram::default()
        })),
    ];
    let metric = ("[a-c]{0,2}", data).prop_map(|(name, data)| Metric {
        name,
        data: Some(data),
        ..Metric::default()
    });
    let group = (origin(), proptest::collection::vec(metric, 0..3)).prop_map(|(resource, metrics)| ResourceMetrics {
        resource,
        scope_metrics: vec![ScopeMetrics {
            metrics,
            ..ScopeMetrics::default()
        }],
        ..ResourceMetrics::default()
    });
    proptest::collection::vec(group, 0..3)
        .prop_map(|resource_metrics| ExportMetricsServiceRequest { resource_metrics }.encode_to_vec())
}

/// Pushes into fresh columns and checks the batches. `rejected` as `RequestInfo` has it.
fn push(signal: Signal, payload: &[u8], rejected: &[u32]) -> Option<Pushed> {
    let info = RequestInfo { rejected, ..info("t") };
    let (pushed, rows) = match signal {
        Signal::Traces => {
            let mut columns = SpanColumns::new(caps());
            let pushed = columns.push_request(payload, &info, Choice::All(Sampling::ALL)).ok();
            let batches = columns.finish_sorted(|_, _| 0);
            check_sound(&batches.spans, Table::Spans);
            check_sound(&batches.traces, Table::Traces);
            (pushed, batches.spans.num_rows())
        }
        Signal::Logs => {
            let mut columns = LogColumns::new(caps());
            let pushed = columns.push_request(payload, &info, Choice::All(Sampling::ALL)).ok();
            let batch = columns.finish_sorted();
            check_sound(&batch, Table::Logs);
            (pushed, batch.num_rows())
        }
        Signal::Metrics => {
            let mut columns = MetricColumns::new(caps());
            let pushed = columns.push_request(payload, &info, &mut SeriesSeen::new(10)).ok();
            let batches = columns.finish_sorted();
            check_sound(&batches.points, Table::MetricPoints);
            check_sound(&batches.dists, Table::MetricDists);
            check_sound(&batches.series, Table::MetricSeries);
            (pushed, batches.points.num_rows() + batches.dists.num_rows())
        }
    };
    assert_eq!(pushed.as_ref().map_or(0, |pushed| pushed.rows), rows as u64);
    pushed
}

fn check_agreement(signal: Signal, payload: &[u8]) {
    let inspected = peek::inspect(signal, payload, NOW, &caps()).ok();
    let pushed = push(signal, payload, &[]);
    assert_eq!(inspected.is_some(), pushed.is_some(), "one calls it malformed");
    let Some((inspected, pushed)) = inspected.zip(pushed) else {
        return;
    };
    assert_eq!(pushed.refused, inspected.rejected);
    assert_eq!(pushed.rows, inspected.accepted());
    let again = push(signal, payload, &inspected.ordinals()).expect("the same bytes");
    assert_eq!(
        (again.rows, again.bytes, again.refused.len()),
        (pushed.rows, pushed.bytes, 0)
    );
    if signal == Signal::Traces {
        let mut spans = 0;
        peek::spans(payload, &Keys::new(["http.route"]), |span| {
            assert_eq!(u64::from(span.ordinal), spans);
            assert!(span.offset + span.len <= payload.len());
            spans += 1;
            true
        })
        .expect("inspect accepted it");
        assert_eq!(spans, inspected.items);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_traces(payload in traces()) {
        check_agreement(Signal::Traces, &payload);
    }

    #[test]
    fn on_logs(payload in logs()) {
        check_agreement(Signal::Logs, &payload);
    }

    #[test]
    fn on_metrics(payload in metrics()) {
        check_agreement(Signal::Metrics, &payload);
    }

    #[test]
    fn on_damaged_requests(payload in traces(), logs in logs(), metrics in metrics(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (signal, mut payload) in [(Signal::Traces, payload), (Signal::Logs, logs), (Signal::Metrics, metrics)] {
            if !payload.is_empty() {
                let at = at.index(payload.len());
                payload[at] = byte;
                check_agreement(signal, &payload);
                check_agreement(signal, &payload[..at]);
            }
        }
    }
}

#[test]
fn peek_finds_what_was_asked_for() {
    let spans = vec![
        Span {
            attributes: attrs(vec![("a", text("x")), ("b", Value::IntValue(1)), ("a", text("y"))]),
            name: "one".into(),
            ..Span::default()
        },
        Span {
            attributes: attrs(vec![("longer.key", text("z"))]),
            name: "two".into(),
            ..Span::default()
        },
    ];
    let origin = resource(vec![
        ("service.name", text("s")),
        ("service.namespace", text("n")),
        ("a", text("of resource")),
    ]);
    let scope_spans = vec![ScopeSpans {
        spans: spans.clone(),
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        resource: origin,
        scope_spans,
        ..ResourceSpans::default()
    }];
    let payload = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    let mut seen = Vec::new();
    peek::spans(&payload, &Keys::new(["a", "b"]), |span| {
        assert_eq!(
            Span::decode(&payload[span.offset..span.offset + span.len]).unwrap(),
            spans[span.ordinal as usize]
        );
        assert_eq!(
            (span.service_name, span.service_namespace),
            (b"s".as_slice(), b"n".as_slice())
        );
        let values: Vec<_> = span.values.iter().map(|value| value.map(Raw::any)).collect();
        let of_resource: Vec<_> = span.of_resource.iter().map(|value| value.map(Raw::any)).collect();
        assert_eq!(of_resource, [Some(Any::Str(b"of resource")), None]);
        let own = [0, 1].map(|at| span.own_value(at).is_some());
        seen.push((span.head.name.to_vec(), format!("{values:?}"), own));
        true
    })
    .unwrap();
    let bytes = |text: &str| format!("{:?}", text.as_bytes());
    assert_eq!(
        seen,
        [
            (
                b"one".to_vec(),
                format!("[Some(Str({})), Some(Int(1))]", bytes("x")),
                [true, true]
            ),
            (
                b"two".to_vec(),
                format!("[Some(Str({})), None]", bytes("of resource")),
                [false, false]
            ),
        ]
    );
    let mut count = 0;
    peek::spans(&payload, &Keys::default(), |_| {
        count += 1;
        false
    })
    .unwrap();
    assert_eq!(count, 1, "the visitor said stop");
}
