//! What the OTLP messages look like in JSON: one static table a message, name to field number and kind.
//!
//! Copied by hand from opentelemetry-proto 1.9 and later (the `.proto` files that `opentelemetry-proto` 0.33 was generated from); the
//! tests compare every field with the generated types. Left out on purpose: `keyStrindex` and `stringValueStrindex`, which
//! mean something in profiles only and are read as absent elsewhere.

use crate::signal::Signal;

/// A message: its name for error messages, and its fields.
pub(super) struct Message {
    pub name: &'static str,
    pub fields: &'static [Field],
}

/// A field: its lowerCamelCase name, its number on the wire, and how its value is read and written.
pub(super) struct Field {
    pub json: &'static str,
    pub number: u32,
    pub kind: Kind,
}

/// How a JSON value becomes a protobuf one.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// `string`.
    Text,
    /// `bytes` in base64.
    Bytes,
    /// `bytes` in hex: trace and span ids.
    Id,
    /// `bool`.
    Bool,
    /// An enum: a number, never a name.
    Enum,
    /// `uint32`.
    Uint32,
    /// `sint32`: zigzag.
    Sint32,
    /// `int64`.
    Int64,
    /// `fixed32`.
    Fixed32,
    /// `fixed64`.
    Fixed64,
    /// `sfixed64`.
    Sfixed64,
    /// `double`.
    Double,
    /// One message.
    One(&'static Message),
    /// `repeated` message.
    Many(&'static Message),
    /// `repeated string`.
    Texts,
    /// `repeated fixed64`, packed.
    PackedFixed64,
    /// `repeated uint64`, packed.
    PackedUint64,
    /// `repeated double`, packed.
    PackedDouble,
}

impl Message {
    /// The field of this JSON name. Tables are short: a scan is as fast as a hash.
    pub(super) fn field(&self, json: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.json == json)
    }
}

/// The export request of a signal.
pub(super) fn request(signal: Signal) -> &'static Message {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    }
}

const fn f(json: &'static str, number: u32, kind: Kind) -> Field {
    Field { json, number, kind }
}

macro_rules! message {
    ($name:ident, $text:literal, [$(($json:literal, $number:literal, $kind:expr)),* $(,)?]) => {
        static $name: Message = Message { name: $text, fields: &[$(f($json, $number, $kind)),*] };
    };
}

use Kind::*;

message!(
    TRACES,
    "ExportTraceServiceRequest",
    [("resourceSpans", 1, Many(&RESOURCE_SPANS))]
);
message!(
    METRICS,
    "ExportMetricsServiceRequest",
    [("resourceMetrics", 1, Many(&RESOURCE_METRICS))]
);
message!(
    LOGS,
    "ExportLogsServiceRequest",
    [("resourceLogs", 1, Many(&RESOURCE_LOGS))]
);

message!(
    RESOURCE,
    "Resource",
    [
        ("attributes", 1, Many(&KEY_VALUE)),
        ("droppedAttributesCount", 2, Uint32),
        ("entityRefs", 3, Many(&ENTITY_REF)),
    ]
);
message!(
    ENTITY_REF,
    "EntityRef",
    [
        ("schemaUrl", 1, Text),
        ("type", 2, Text),
        ("idKeys", 3, Texts),
        ("descriptionKeys", 4, Texts)
    ]
);
message!(
    SCOPE,
    "InstrumentationScope",
    [
        ("name", 1, Text),
        ("version", 2, Text),
        ("attributes", 3, Many(&KEY_VALUE)),
        ("droppedAttributesCount", 4, Uint32),
    ]
);
message!(KEY_VALUE, "KeyValue", [("key", 1, Text), ("value", 2, One(&ANY_VALUE))]);
message!(
    ANY_VALUE,
    "AnyValue",
    [
        ("stringValue", 1, Text),
        ("boolValue", 2, Bool),
        ("intValue", 3, Int64),
        ("doubleValue", 4, Double),
        ("arrayValue", 5, One(&ARRAY_VALUE)),
        ("kvlistValue", 6, One(&KEY_VALUE_LIST)),
        ("bytesValue", 7, Bytes),
    ]
);
message!(ARRAY_VALUE, "ArrayValue", [("values", 1, Many(&ANY_VALUE))]);
message!(KEY_VALUE_LIST, "KeyValueList", [("values", 1, Many(&KEY_VALUE))]);

message!(
    RESOURCE_SPANS,
    "ResourceSpans",
    [
        ("resource", 1, One(&RESOURCE)),
        ("scopeSpans", 2, Many(&SCOPE_SPANS)),
        ("schemaUrl", 3, Text)
    ]
);
message!(
    SCOPE_SPANS,
    "ScopeSpans",
    [
        ("scope", 1, One(&SCOPE)),
        ("spans", 2, Many(&SPAN)),
        ("schemaUrl", 3, Text)
    ]
);
message!(
    SPAN,
    "Span",
    [
        ("traceId", 1, Id),
        ("spanId", 2, Id),
        ("traceState", 3, Text),
        ("parentSpanId", 4, Id),
        ("name", 5, Text),
        ("kind", 6, Enum),
        ("startTimeUnixNano", 7, Fixed64),
        ("endTimeUnixNano", 8, Fixed64),
        ("attributes", 9, Many(&KEY_VALUE)),
        ("droppedAttributesCount", 10, Uint32),
        ("events", 11, Many(&EVENT)),
        ("droppedEventsCount", 12, Uint32),
        ("links", 13, Many(&LINK)),
        ("droppedLinksCount", 14, Uint32),
        ("status", 15, One(&STATUS)),
        ("flags", 16, Fixed32),
    ]
);
message!(
    EVENT,
    "Event",
    [
        ("timeUnixNano", 1, Fixed64),
        ("name", 2, Text),
        ("attributes", 3, Many(&KEY_VALUE)),
        ("droppedAttributesCount", 4, Uint32),
    ]
);
message!(
    LINK,
    "Link",
    [
        ("traceId", 1, Id),
        ("spanId", 2, Id),
        ("traceState", 3, Text),
        ("attributes", 4, Many(&KEY_VALUE)),
        ("droppedAttributesCount", 5, Uint32),
        ("flags", 6, Fixed32),
    ]
);
message!(STATUS, "Status", [("message", 2, Text), ("code", 3, Enum)]);

message!(
    RESOURCE_LOGS,
    "ResourceLogs",
    [
        ("resource", 1, One(&RESOURCE)),
        ("scopeLogs", 2, Many(&SCOPE_LOGS)),
        ("schemaUrl", 3, Text)
    ]
);
message!(
    SCOPE_LOGS,
    "ScopeLogs",
    [
        ("scope", 1, One(&SCOPE)),
        ("logRecords", 2, Many(&LOG_RECORD)),
        ("schemaUrl", 3, Text)
    ]
);
message!(
    LOG_RECORD,
    "LogRecord",
    [
        ("timeUnixNano", 1, Fixed64),
        ("severityNumber", 2, Enum),
        ("severityText", 3, Text),
        ("body", 5, One(&ANY_VALUE)),
        ("attributes", 6, Many(&KEY_VALUE)),
        ("droppedAttributesCount", 7, Uint32),
        ("flags", 8, Fixed32),
        ("traceId", 9, Id),
        ("spanId", 10, Id),
        ("observedTimeUnixNano", 11, Fixed64),
        ("eventName", 12, Text),
    ]
);

message!(
    RESOURCE_METRICS,
    "ResourceMetrics",
    [
        ("resource", 1, One(&RESOURCE)),
        ("scopeMetrics", 2, Many(&SCOPE_METRICS)),
        ("schemaUrl", 3, Text)
    ]
);
message!(
    SCOPE_METRICS,
    "ScopeMetrics",
    [
        ("scope", 1, One(&SCOPE)),
        ("metrics", 2, Many(&METRIC)),
        ("schemaUrl", 3, Text)
    ]
);
message!(
    METRIC,
    "Metric",
    [
        ("name", 1, Text),
        ("description", 2, Text),
        ("unit", 3, Text),
        ("gauge", 5, One(&GAUGE)),
        ("sum", 7, One(&SUM)),
        ("histogram", 9, One(&HISTOGRAM)),
        ("exponentialHistogram", 10, One(&EXPONENTIAL_HISTOGRAM)),
        ("summary", 11, One(&SUMMARY)),
        ("metadata", 12, Many(&KEY_VALUE)),
    ]
);
message!(GAUGE, "Gauge", [("dataPoints", 1, Many(&NUMBER_POINT))]);
message!(
    SUM,
    "Sum",
    [
        ("dataPoints", 1, Many(&NUMBER_POINT)),
        ("aggregationTemporality", 2, Enum),
        ("isMonotonic", 3, Bool)
    ]
);
message!(
    HISTOGRAM,
    "Histogram",
    [
        ("dataPoints", 1, Many(&HISTOGRAM_POINT)),
        ("aggregationTemporality", 2, Enum)
    ]
);
message!(
    EXPONENTIAL_HISTOGRAM,
    "ExponentialHistogram",
    [
        ("dataPoints", 1, Many(&EXPONENTIAL_POINT)),
        ("aggregationTemporality", 2, Enum)
    ]
);
message!(SUMMARY, "Summary", [("dataPoints", 1, Many(&SUMMARY_POINT))]);
message!(
    NUMBER_POINT,
    "NumberDataPoint",
    [
        ("startTimeUnixNano", 2, Fixed64),
        ("timeUnixNano", 3, Fixed64),
        ("asDouble", 4, Double),
        ("exemplars", 5, Many(&EXEMPLAR)),
        ("asInt", 6, Sfixed64),
        ("attributes", 7, Many(&KEY_VALUE)),
        ("flags", 8, Uint32),
    ]
);
message!(
    HISTOGRAM_POINT,
    "HistogramDataPoint",
    [
        ("startTimeUnixNano", 2, Fixed64),
        ("timeUnixNano", 3, Fixed64),
        ("count", 4, Fixed64),
        ("sum", 5, Double),
        ("bucketCounts", 6, PackedFixed64),
        ("explicitBounds", 7, PackedDouble),
        ("exemplars", 8, Many(&EXEMPLAR)),
        ("attributes", 9, Many(&KEY_VALUE)),
        ("flags", 10, Uint32),
        ("min", 11, Double),
        ("max", 12, Double),
    ]
);
message!(
    EXPONENTIAL_POINT,
    "ExponentialHistogramDataPoint",
    [
        ("attributes", 1, Many(&KEY_VALUE)),
        ("startTimeUnixNano", 2, Fixed64),
        ("timeUnixNano", 3, Fixed64),
        ("count", 4, Fixed64),
        ("sum", 5, Double),
        ("scale", 6, Sint32),
        ("zeroCount", 7, Fixed64),
        ("positive", 8, One(&BUCKETS)),
        ("negative", 9, One(&BUCKETS)),
        ("flags", 10, Uint32),
        ("exemplars", 11, Many(&EXEMPLAR)),
        ("min", 12, Double),
        ("max", 13, Double),
        ("zeroThreshold", 14, Double),
    ]
);
message!(
    BUCKETS,
    "Buckets",
    [("offset", 1, Sint32), ("bucketCounts", 2, PackedUint64)]
);
message!(
    SUMMARY_POINT,
    "SummaryDataPoint",
    [
        ("startTimeUnixNano", 2, Fixed64),
        ("timeUnixNano", 3, Fixed64),
        ("count", 4, Fixed64),
        ("sum", 5, Double),
        ("quantileValues", 6, Many(&VALUE_AT_QUANTILE)),
        ("attributes", 7, Many(&KEY_VALUE)),
        ("flags", 8, Uint32),
    ]
);
message!(
    VALUE_AT_QUANTILE,
    "ValueAtQuantile",
    [("quantile", 1, Double), ("value", 2, Double)]
);
message!(
    EXEMPLAR,
    "Exemplar",
    [
        ("timeUnixNano", 2, Fixed64),
        ("asDouble", 3, Double),
        ("spanId", 4, Id),
        ("traceId", 5, Id),
        ("asInt", 6, Sfixed64),
        ("filteredAttributes", 7, Many(&KEY_VALUE)),
    ]
);
