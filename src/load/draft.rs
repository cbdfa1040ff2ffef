//! A request before it is encoded: what a workload draws up and the two encoders (`proto`, `json`) write down.
//!
//! Ids are positions (`trace` 3, `span` 17), times are nanoseconds relative to the moment of sending; both become stamps.

use tailwater_model::signal::Signal;

/// One export request.
#[derive(Debug, Clone)]
pub struct RequestDraft {
    /// Of which signal; every resource holds items of this signal only.
    pub signal: Signal,
    /// One entry a service.
    pub resources: Vec<ResourceDraft>,
}

/// What one service contributes to a request, under one scope.
#[derive(Debug, Clone)]
pub struct ResourceDraft {
    /// Resource attributes.
    pub attributes: Vec<(&'static str, String)>,
    /// Name of the instrumentation scope; its version is always `1.0.0`.
    pub scope: &'static str,
    /// The items.
    pub items: ItemsDraft,
}

/// Items of one signal.
#[derive(Debug, Clone)]
pub enum ItemsDraft {
    /// Spans.
    Spans(Vec<SpanDraft>),
    /// Log records.
    Logs(Vec<LogDraft>),
    /// Metrics with their points.
    Metrics(Vec<MetricDraft>),
}

/// A span.
#[derive(Debug, Clone)]
pub struct SpanDraft {
    /// Trace position in the request.
    pub trace: u32,
    /// Span position in the request.
    pub span: u32,
    /// Position of the parent; `None` for a root.
    pub parent: Option<u32>,
    /// Operation.
    pub name: String,
    /// OTLP span kind: 1 internal, 2 server, 3 client.
    pub kind: u8,
    /// Start, ns relative to the moment of sending (negative: before).
    pub start_ns: i64,
    /// End, ns relative to the moment of sending.
    pub end_ns: i64,
    /// Status error with this message.
    pub error: Option<&'static str>,
    /// Attributes.
    pub attributes: Vec<(&'static str, Value)>,
}

/// A log record.
#[derive(Debug, Clone)]
pub struct LogDraft {
    /// Position of the record in the request; names its `log.record.uid`.
    pub item: u32,
    /// (trace position, span position) in the *linked* request.
    pub link: Option<(u32, u32)>,
    /// Time, ns relative to the moment of sending.
    pub time_ns: i64,
    /// OTLP severity number.
    pub severity: u8,
    /// Body text.
    pub body: String,
    /// Attributes.
    pub attributes: Vec<(&'static str, Value)>,
}

/// A metric with its points.
#[derive(Debug, Clone)]
pub struct MetricDraft {
    /// Name.
    pub name: &'static str,
    /// UCUM unit.
    pub unit: &'static str,
    /// What kind of points.
    pub shape: MetricShape,
    /// One entry a series: position of the point in the request, attributes.
    pub points: Vec<(u32, Vec<(&'static str, Value)>)>,
}

/// Kind of a metric's points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricShape {
    /// Gauge of doubles.
    Gauge,
    /// Cumulative monotonic sum of integers.
    Counter,
    /// Delta histogram with explicit bounds ([`HISTOGRAM_BOUNDS`]).
    Histogram,
}

/// Bucket bounds of generated histograms, in seconds.
pub const HISTOGRAM_BOUNDS: [f64; 8] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Attribute values; the last four are drawn afresh for every request and have a fixed encoded width.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// Integer.
    Int(i64),
    /// 16 hex digits, the id of item `.0`: unique (for logs).
    Uid(u32),
    /// 16 hex digits of noise.
    Hex(u32),
    /// `10.244.ddd.ddd` of noise.
    Address(u32),
    /// Integer of 16384..65536 (always three bytes as a varint, five digits as text).
    Port(u32),
    /// `user-` and 7 digits of noise, one of a million users.
    User(u32),
}
