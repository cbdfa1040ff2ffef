//! Drafts to protobuf bytes plus the places of their stamps.
//!
//! A hand-written encoder rather than `prost`, because the one thing needed here, where each id and time landed, is the one thing
//! `prost` does not tell. The tests decode its output with `opentelemetry-proto`.

use tailwater_model::signal::Signal;

use super::draft::{
    HISTOGRAM_BOUNDS, ItemsDraft, LogDraft, MetricDraft, MetricShape, RequestDraft, ResourceDraft, SpanDraft, Value,
};
use super::stamp::{Form, Stamp, Template, What};

/// Encodes a draft.
pub fn encode(draft: &RequestDraft) -> Template {
    let mut request = Message::default();
    let (mut items, mut traces) = (0, 0);
    for entry in &draft.resources {
        // ResourceSpans, ResourceMetrics and ResourceLogs share their shape: 1 resource, 2 scope part.
        let mut part = Message::default();
        part.message(1, resource(entry));
        let mut scope_part = Message::default();
        let mut scope = Message::default();
        scope.text(1, entry.scope);
        scope.text(2, "1.0.0");
        scope_part.message(1, scope);
        match &entry.items {
            ItemsDraft::Spans(spans) => {
                for draft in spans {
                    scope_part.message(2, span(draft));
                    traces = traces.max(draft.trace + 1);
                }
                items += spans.len();
            }
            ItemsDraft::Logs(logs) => {
                for draft in logs {
                    scope_part.message(2, log(draft));
                    traces = traces.max(draft.link.map_or(0, |(trace, _)| trace + 1));
                }
                items += logs.len();
            }
            ItemsDraft::Metrics(metrics) => {
                for draft in metrics {
                    scope_part.message(2, metric(draft));
                    items += draft.points.len();
                }
            }
        }
        part.message(2, scope_part);
        request.message(1, part);
    }
    let signal: Signal = draft.signal;
    Template::new(
        signal,
        Form::Binary,
        items as u32,
        traces,
        request.bytes,
        request.stamps,
    )
}

fn resource(draft: &ResourceDraft) -> Message {
    let mut resource = Message::default();
    for (key, value) in &draft.attributes {
        resource.message(1, attribute(key, &Value::Text(value.clone())));
    }
    resource
}

fn span(draft: &SpanDraft) -> Message {
    let mut span = Message::default();
    span.stamped_bytes(1, What::Trace(draft.trace));
    span.stamped_bytes(2, What::Span(draft.span));
    if let Some(parent) = draft.parent {
        span.stamped_bytes(4, What::Span(parent));
    }
    span.text(5, &draft.name);
    span.varint(6, draft.kind.into());
    span.stamped_fixed64(
        7,
        What::Time {
            trace: draft.trace,
            offset_ns: draft.start_ns,
        },
    );
    span.stamped_fixed64(
        8,
        What::Time {
            trace: draft.trace,
            offset_ns: draft.end_ns,
        },
    );
    for (key, value) in &draft.attributes {
        span.message(9, attribute(key, value));
    }
    if let Some(message) = draft.error {
        let mut status = Message::default();
        status.text(2, message);
        status.varint(3, 2);
        span.message(15, status);
    }
    // flags: sampled; is_remote is known and false (bit 8).
    span.fixed32(16, 0x101);
    span
}

fn log(draft: &LogDraft) -> Message {
    let mut record = Message::default();
    let time = match draft.link {
        Some((trace, _)) => What::Time {
            trace,
            offset_ns: draft.time_ns,
        },
        None => What::Moment {
            offset_ns: draft.time_ns,
        },
    };
    record.stamped_fixed64(1, time);
    record.stamped_fixed64(11, What::Moment { offset_ns: 0 });
    record.varint(2, draft.severity.into());
    record.text(3, severity_text(draft.severity));
    let mut body = Message::default();
    body.text(1, &draft.body);
    record.message(5, body);
    record.message(6, attribute("log.record.uid", &Value::Uid(draft.item)));
    for (key, value) in &draft.attributes {
        record.message(6, attribute(key, value));
    }
    if let Some((trace, span)) = draft.link {
        record.fixed32(8, 1);
        record.stamped_bytes(9, What::Trace(trace));
        record.stamped_bytes(10, What::Span(span));
    }
    record
}

/// Severity text of an OTLP severity number.
pub fn severity_text(number: u8) -> &'static str {
    match number {
        17.. => "ERROR",
        13..=16 => "WARN",
        9..=12 => "INFO",
        _ => "DEBUG",
    }
}

fn metric(draft: &MetricDraft) -> Message {
    let mut metric = Message::default();
    metric.text(1, draft.name);
    metric.text(3, draft.unit);
    let mut data = Message::default();
    for (item, attributes) in &draft.points {
        let mut point = Message::default();
        let attribute_field = if draft.shape == MetricShape::Histogram { 9 } else { 7 };
        for (key, value) in attributes {
            point.message(attribute_field, attribute(key, value));
        }
        match draft.shape {
            MetricShape::Gauge => {
                point.stamped_fixed64(3, What::Moment { offset_ns: 0 });
                point.stamped_fixed64(4, What::Gauge(*item));
            }
            MetricShape::Counter => {
                point.stamped_fixed64(2, What::RunStart);
                point.stamped_fixed64(3, What::Moment { offset_ns: 0 });
                point.stamped_fixed64(6, What::Count);
            }
            MetricShape::Histogram => histogram_point(&mut point, *item),
        }
        data.message(1, point);
    }
    match draft.shape {
        MetricShape::Gauge => metric.message(5, data),
        MetricShape::Counter => {
            data.varint(2, 2);
            data.varint(3, 1);
            metric.message(7, data);
        }
        MetricShape::Histogram => {
            data.varint(2, 1);
            metric.message(9, data);
        }
    }
    metric
}

/// Counts of a generated histogram: a hump whose place depends on the series.
pub fn histogram_counts(item: u32) -> [u64; HISTOGRAM_BOUNDS.len() + 1] {
    let peak = 2 + (item % 4) as usize;
    std::array::from_fn(|bucket| 40 >> (2 * bucket.abs_diff(peak)))
}

fn histogram_point(point: &mut Message, item: u32) {
    let counts = histogram_counts(item);
    point.stamped_fixed64(
        2,
        What::Moment {
            offset_ns: -10_000_000_000,
        },
    );
    point.stamped_fixed64(3, What::Moment { offset_ns: 0 });
    point.fixed64(4, counts.iter().sum());
    point.fixed64(5, histogram_sum(&counts).to_bits());
    let mut packed = Vec::new();
    counts
        .iter()
        .for_each(|count| packed.extend_from_slice(&count.to_le_bytes()));
    point.bytes(6, &packed);
    packed.clear();
    HISTOGRAM_BOUNDS
        .iter()
        .for_each(|bound| packed.extend_from_slice(&bound.to_le_bytes()));
    point.bytes(7, &packed);
}

/// A sum that fits the counts: every value at the upper bound of its bucket.
pub fn histogram_sum(counts: &[u64]) -> f64 {
    counts
        .iter()
        .zip(HISTOGRAM_BOUNDS.iter().chain([&10.0]))
        .map(|(count, bound)| *count as f64 * bound)
        .sum()
}

fn attribute(key: &str, value: &Value) -> Message {
    let mut any = Message::default();
    match value {
        Value::Text(text) => any.text(1, text),
        Value::Int(int) => any.varint(3, *int as u64),
        Value::Uid(item) => any.stamped_text(1, "", What::Uid(*item)),
        Value::Hex(salt) => any.stamped_text(1, "", What::Hex(*salt)),
        Value::Address(salt) => any.stamped_text(1, "10.244.", What::Address(*salt)),
        Value::User(salt) => any.stamped_text(1, "user-", What::Digits(*salt)),
        Value::Port(salt) => any.stamped_varint(3, What::Port(*salt)),
    }
    let mut pair = Message::default();
    pair.text(1, key);
    pair.message(2, any);
    pair
}

/// A protobuf message under construction; stamps are relative to its first byte.
#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    stamps: Vec<Stamp>,
}

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.raw_varint(u64::from(field << 3 | wire));
    }

    fn varint(&mut self, field: u32, value: u64) {
        self.tag(field, 0);
        self.raw_varint(value);
    }

    fn fixed64(&mut self, field: u32, value: u64) {
        self.tag(field, 1);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn fixed32(&mut self, field: u32, value: u32) {
        self.tag(field, 5);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, 2);
        self.raw_varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u32, inner: Message) {
        self.tag(field, 2);
        self.raw_varint(inner.bytes.len() as u64);
        let base = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&inner.bytes);
        self.stamps.extend(inner.stamps.into_iter().map(|stamp| Stamp {
            at: stamp.at + base,
            what: stamp.what,
        }));
    }

    /// Room for a stamp at the end of what is written so far.
    fn place(&mut self, what: What) {
        self.stamps.push(Stamp {
            at: self.bytes.len() as u32,
            what,
        });
        self.bytes.resize(self.bytes.len() + what.width(Form::Binary), 0);
    }

    fn stamped_bytes(&mut self, field: u32, what: What) {
        self.stamped_text(field, "", what);
    }

    fn stamped_text(&mut self, field: u32, prefix: &str, what: What) {
        self.tag(field, 2);
        self.raw_varint((prefix.len() + what.width(Form::Binary)) as u64);
        self.bytes.extend_from_slice(prefix.as_bytes());
        self.place(what);
    }

    fn stamped_fixed64(&mut self, field: u32, what: What) {
        self.tag(field, 1);
        self.place(what);
    }

    fn stamped_varint(&mut self, field: u32, what: What) {
        self.tag(field, 0);
        self.place(what);
    }
}
