//! Requests with defaults, so that what a test sets means something.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::RequestInfo;
use tailwater_red::{Aggregator, Declared, Mode, Rules, Settings};

/// 2026-01-01T00:00:00Z.
pub const NOW: u64 = 1_767_225_600_000_000_000;
pub const SECOND: u64 = 1_000_000_000;
pub const MS: u64 = 1_000_000;
pub const WAIT: u64 = 10 * SECOND;

pub fn settings() -> Settings {
    Settings {
        rules: Rules {
            too_many_requests: false,
            client_closed: false,
            trust_ok: true,
            roots: true,
            consumers: true,
        },
        keys_max: 1000,
        services_max: 1000,
        dimensions: Vec::new(),
        edges: Some((WAIT, 10_000)),
        declared: Vec::new(),
        caps: Caps::default(),
    }
}

pub fn declared(operation: &str, thresholds_ns: &[u64]) -> Declared {
    Declared {
        operation: Some(operation.into()),
        thresholds_ns: thresholds_ns.to_vec(),
        ..Declared::default()
    }
}

/// One span to be.
#[derive(Debug, Clone)]
pub struct Made {
    pub service: String,
    pub name: String,
    pub kind: i32,
    pub status: i32,
    pub trace: u64,
    pub id: u64,
    pub parent: u64,
    pub start: u64,
    pub end: u64,
    pub tracestate: String,
    pub attributes: Vec<(String, Value)>,
    pub resource: Vec<(String, Value)>,
}

impl Default for Made {
    fn default() -> Made {
        Made {
            service: "cart".into(),
            name: "get".into(),
            kind: 2,
            status: 0,
            trace: 1,
            id: 1,
            parent: 0,
            start: NOW - SECOND,
            end: NOW - SECOND + MS,
            tracestate: String::new(),
            attributes: Vec::new(),
            resource: Vec::new(),
        }
    }
}

impl Made {
    pub fn text(mut self, key: &str, value: &str) -> Made {
        self.attributes.push((key.into(), Value::StringValue(value.into())));
        self
    }

    pub fn int(mut self, key: &str, value: i64) -> Made {
        self.attributes.push((key.into(), Value::IntValue(value)));
        self
    }

    pub fn of(mut self, key: &str, value: &str) -> Made {
        self.resource.push((key.into(), Value::StringValue(value.into())));
        self
    }

    pub fn trace_id(&self) -> [u8; 16] {
        // R is the low 56 bits: spread them.
        let r = self.trace.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut id = [1; 16];
        id[8..].copy_from_slice(&r.to_be_bytes());
        id
    }
}

fn pairs(pairs: &[(String, Value)]) -> Vec<KeyValue> {
    let pair = |(key, value): &(String, Value)| KeyValue {
        key: key.clone(),
        value: Some(AnyValue {
            value: Some(value.clone()),
        }),
        ..KeyValue::default()
    };
    pairs.iter().map(pair).collect()
}

/// A request with one resource a span.
pub fn request(spans: &[Made]) -> Vec<u8> {
    let resource_spans = spans.iter().map(|made| {
        let mut resource = pairs(&made.resource);
        resource.extend(pairs(&[(
            "service.name".into(),
            Value::StringValue(made.service.clone()),
        )]));
        let span = Span {
            trace_id: made.trace_id().to_vec(),
            span_id: made.id.to_be_bytes().to_vec(),
            parent_span_id: if made.parent == 0 {
                Vec::new()
            } else {
                made.parent.to_be_bytes().to_vec()
            },
            trace_state: made.tracestate.clone(),
            name: made.name.clone(),
            kind: made.kind,
            start_time_unix_nano: made.start,
            end_time_unix_nano: made.end,
            attributes: pairs(&made.attributes),
            status: Some(Status {
                code: made.status,
                ..Status::default()
            }),
            ..Span::default()
        };
        ResourceSpans {
            resource: Some(Resource {
                attributes: resource,
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans: vec![span],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }
    });
    let request = ExportTraceServiceRequest {
        resource_spans: resource_spans.collect(),
    };
    request.encode_to_vec()
}

pub fn push(red: &mut Aggregator, spans: &[Made], arrival_ns: u64, mode: Mode) {
    let info = RequestInfo {
        tenant: "default",
        arrival_ns,
        rejected: &[],
    };
    red.push_request(&request(spans), &info, mode).unwrap();
}

/// A record of another signal: the clock moves.
pub fn tick(red: &mut Aggregator, arrival_ns: u64, mode: Mode) {
    let info = RequestInfo {
        tenant: "default",
        arrival_ns,
        rejected: &[],
    };
    red.push_request(&[], &info, mode).unwrap();
}
