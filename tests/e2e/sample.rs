//! Requests for tests: protobuf by the reference crate, ids that count.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

/// Unix ns.
pub fn now_ns() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64
}

/// A string attribute.
pub fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue {
        value: Some(Value::StringValue(value.into())),
    });
    KeyValue {
        key: key.into(),
        value,
        ..KeyValue::default()
    }
}

fn resource(service: &str) -> Option<Resource> {
    Some(Resource {
        attributes: vec![text("service.name", service)],
        ..Resource::default()
    })
}

/// A span whose ids are made of `number`.
pub fn span(number: u64) -> Span {
    let start = now_ns();
    Span {
        trace_id: [
            &(number / 4 + 1).to_be_bytes()[..],
            &(number / 4 + 1).rotate_left(17).to_be_bytes(),
        ]
        .concat(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        name: format!("op-{}", number % 7),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1_000_000 * (number % 100 + 1),
        attributes: vec![text("e2e.number", &number.to_string())],
        ..Span::default()
    }
}

/// A traces request.
pub fn traces(service: &str, spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans {
        spans,
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        resource: resource(service),
        scope_spans,
        ..ResourceSpans::default()
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// A logs request.
pub fn logs(service: &str, log_records: Vec<LogRecord>) -> Vec<u8> {
    let scope_logs = vec![ScopeLogs {
        log_records,
        ..ScopeLogs::default()
    }];
    let resource_logs = vec![ResourceLogs {
        resource: resource(service),
        scope_logs,
        ..ResourceLogs::default()
    }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

/// A log record with this body.
pub fn record(body: &str) -> LogRecord {
    LogRecord {
        time_unix_nano: now_ns(),
        severity_number: 9,
        body: Some(AnyValue {
            value: Some(Value::StringValue(body.into())),
        }),
        ..LogRecord::default()
    }
}

/// A metrics request: points of one gauge, with these values.
pub fn gauge(service: &str, values: impl Iterator<Item = i64>) -> Vec<u8> {
    let point = |value| NumberDataPoint {
        time_unix_nano: now_ns(),
        value: Some(number_data_point::Value::AsInt(value)),
        ..NumberDataPoint::default()
    };
    let metric = Metric {
        name: "e2e.gauge".into(),
        data: Some(Data::Gauge(Gauge {
            data_points: values.map(point).collect(),
        })),
        ..Metric::default()
    };
    let resource_metrics = vec![ResourceMetrics {
        resource: resource(service),
        scope_metrics: vec![ScopeMetrics {
            metrics: vec![metric],
            ..ScopeMetrics::default()
        }],
        ..ResourceMetrics::default()
    }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}
