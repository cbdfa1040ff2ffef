//! Drafts to OTLP/JSON text plus the places of their stamps: the same requests as `proto`, for the other encoding.

use tailwater_model::signal::Signal;

use super::draft::{HISTOGRAM_BOUNDS, ItemsDraft, LogDraft, MetricDraft, MetricShape, RequestDraft, SpanDraft, Value};
use super::proto::{histogram_counts, histogram_sum, severity_text};
use super::stamp::{Form, Stamp, Template, What};

/// Encodes a draft.
pub fn encode(draft: &RequestDraft) -> Template {
    let (resources, scopes, list) = match draft.signal {
        Signal::Traces => ("resourceSpans", "scopeSpans", "spans"),
        Signal::Metrics => ("resourceMetrics", "scopeMetrics", "metrics"),
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
    };
    let mut text = Text::default();
    let (mut items, mut traces) = (0, 0);
    text.push("{\"");
    text.push(resources);
    text.push("\":");
    text.list(&draft.resources, |text, entry| {
        text.push("{\"resource\":{\"attributes\":");
        text.list(&entry.attributes, |text, (key, value)| {
            attribute(text, key, &Value::Text(value.clone()))
        });
        text.push("},\"");
        text.push(scopes);
        text.push("\":[{\"scope\":{\"name\":");
        text.string(entry.scope);
        text.push(",\"version\":\"1.0.0\"},\"");
        text.push(list);
        text.push("\":");
        match &entry.items {
            ItemsDraft::Spans(spans) => {
                items += spans.len();
                traces = spans.iter().map(|span| span.trace + 1).fold(traces, u32::max);
                text.list(spans, span);
            }
            ItemsDraft::Logs(logs) => {
                items += logs.len();
                traces = logs
                    .iter()
                    .filter_map(|log| Some(log.link?.0 + 1))
                    .fold(traces, u32::max);
                text.list(logs, log);
            }
            ItemsDraft::Metrics(metrics) => {
                items += metrics.iter().map(|metric| metric.points.len()).sum::<usize>();
                text.list(metrics, metric);
            }
        }
        text.push("}]}");
    });
    text.push("}");
    Template::new(draft.signal, Form::Json, items as u32, traces, text.bytes, text.stamps)
}

fn span(text: &mut Text, draft: &SpanDraft) {
    text.push("{\"traceId\":");
    text.stamped("", What::Trace(draft.trace));
    text.push(",\"spanId\":");
    text.stamped("", What::Span(draft.span));
    if let Some(parent) = draft.parent {
        text.push(",\"parentSpanId\":");
        text.stamped("", What::Span(parent));
    }
    text.push(",\"name\":");
    text.string(&draft.name);
    text.push(&format!(
        ",\"kind\":{},\"flags\":257,\"startTimeUnixNano\":",
        draft.kind
    ));
    text.stamped(
        "",
        What::Time {
            trace: draft.trace,
            offset_ns: draft.start_ns,
        },
    );
    text.push(",\"endTimeUnixNano\":");
    text.stamped(
        "",
        What::Time {
            trace: draft.trace,
            offset_ns: draft.end_ns,
        },
    );
    text.push(",\"attributes\":");
    text.list(&draft.attributes, |text, (key, value)| attribute(text, key, value));
    if let Some(message) = draft.error {
        text.push(",\"status\":{\"code\":2,\"message\":");
        text.string(message);
        text.push("}");
    }
    text.push("}");
}

fn log(text: &mut Text, draft: &LogDraft) {
    text.push("{\"timeUnixNano\":");
    text.stamped(
        "",
        match draft.link {
            Some((trace, _)) => What::Time {
                trace,
                offset_ns: draft.time_ns,
            },
            None => What::Moment {
                offset_ns: draft.time_ns,
            },
        },
    );
    text.push(",\"observedTimeUnixNano\":");
    text.stamped("", What::Moment { offset_ns: 0 });
    text.push(&format!(
        ",\"severityNumber\":{},\"severityText\":\"{}\",\"body\":{{\"stringValue\":",
        draft.severity,
        severity_text(draft.severity)
    ));
    text.string(&draft.body);
    text.push("},\"attributes\":");
    let uid = [("log.record.uid", Value::Uid(draft.item))];
    text.list(uid.iter().chain(&draft.attributes), |text, (key, value)| {
        attribute(text, key, value)
    });
    if let Some((trace, span)) = draft.link {
        text.push(",\"flags\":1,\"traceId\":");
        text.stamped("", What::Trace(trace));
        text.push(",\"spanId\":");
        text.stamped("", What::Span(span));
    }
    text.push("}");
}

fn metric(text: &mut Text, draft: &MetricDraft) {
    text.push("{\"name\":");
    text.string(draft.name);
    text.push(",\"unit\":");
    text.string(draft.unit);
    text.push(match draft.shape {
        MetricShape::Gauge => ",\"gauge\":{\"dataPoints\":",
        MetricShape::Counter => ",\"sum\":{\"aggregationTemporality\":2,\"isMonotonic\":true,\"dataPoints\":",
        MetricShape::Histogram => ",\"histogram\":{\"aggregationTemporality\":1,\"dataPoints\":",
    });
    text.list(&draft.points, |text, (item, attributes)| {
        text.push("{\"attributes\":");
        text.list(attributes, |text, (key, value)| attribute(text, key, value));
        text.push(",\"timeUnixNano\":");
        text.stamped("", What::Moment { offset_ns: 0 });
        match draft.shape {
            MetricShape::Gauge => {
                text.push(",\"asDouble\":");
                text.place(What::Gauge(*item));
            }
            MetricShape::Counter => {
                text.push(",\"startTimeUnixNano\":");
                text.stamped("", What::RunStart);
                text.push(",\"asInt\":");
                text.stamped("", What::Count);
            }
            MetricShape::Histogram => {
                let counts = histogram_counts(*item);
                text.push(",\"startTimeUnixNano\":");
                text.stamped(
                    "",
                    What::Moment {
                        offset_ns: -10_000_000_000,
                    },
                );
                let count: u64 = counts.iter().sum();
                text.push(&format!(
                    ",\"count\":\"{count}\",\"sum\":{},\"bucketCounts\":",
                    histogram_sum(&counts)
                ));
                text.list(&counts, |text, count| text.push(&format!("\"{count}\"")));
                text.push(",\"explicitBounds\":");
                text.list(&HISTOGRAM_BOUNDS, |text, bound| text.push(&bound.to_string()));
            }
        }
        text.push("}");
    });
    text.push("}}");
}

fn attribute(text: &mut Text, key: &str, value: &Value) {
    text.push("{\"key\":");
    text.string(key);
    text.push(",\"value\":{");
    let kind = if matches!(value, Value::Int(_) | Value::Port(_)) {
        "\"intValue\":"
    } else {
        "\"stringValue\":"
    };
    text.push(kind);
    match value {
        Value::Text(plain) => text.string(plain),
        Value::Int(int) => text.push(&format!("\"{int}\"")),
        Value::Uid(item) => text.stamped("", What::Uid(*item)),
        Value::Hex(salt) => text.stamped("", What::Hex(*salt)),
        Value::Address(salt) => text.stamped("10.244.", What::Address(*salt)),
        Value::User(salt) => text.stamped("user-", What::Digits(*salt)),
        Value::Port(salt) => text.stamped("", What::Port(*salt)),
    }
    text.push("}}");
}

/// JSON text under construction.
#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    stamps: Vec<Stamp>,
}

impl Text {
    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn string(&mut self, text: &str) {
        self.push(&serde_json::Value::from(text).to_string());
    }

    fn list<T>(&mut self, entries: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut Text, T)) {
        self.push("[");
        for (position, entry) in entries.into_iter().enumerate() {
            if position > 0 {
                self.push(",");
            }
            each(self, entry);
        }
        self.push("]");
    }

    fn place(&mut self, what: What) {
        self.stamps.push(Stamp {
            at: self.bytes.len() as u32,
            what,
        });
        self.bytes.resize(self.bytes.len() + what.width(Form::Json), b'0');
    }

    fn stamped(&mut self, prefix: &str, what: What) {
        self.push("\"");
        self.push(prefix);
        self.place(what);
        self.push("\"");
    }
}
