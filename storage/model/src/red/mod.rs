//! RED: rate, errors and durations, counted before anything is sampled; and edges, the same of calls between services.
//!
//! Guarantees: every number of a row is an integer that readers add up (or of which they take the largest), and a histogram adds
//! up by bucket. So the totals of a key and slice do not depend on how often or in which order rows were flushed, summed or folded.
//! Assumes: durations are counted in ns, where 63 bits span fewer buckets than a histogram of scale 5 holds; so no histogram here
//! ever loses resolution.

mod batch;
mod edges;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};

use crate::ids::{SpanId, TraceId};
use crate::rows::{dates, integers, maybe_words, times, words};
use crate::table::{self, Table};

use batch::{registers, word_map};
pub use edges::{EdgeKey, EdgeKind, EdgeRow, Unpaired, edge_batch};

/// Width of a slice as the collector writes it, ns of event time.
pub const SLICE_NS: u64 = 10 * 1_000_000_000;

/// Stands for whatever lies beyond a limit of different values.
pub const OTHER: &str = "__other__";

/// One span in the unit of weighted counts: they are fixed point with 20 binary places, so that sums stay exact.
pub const WEIGHT_ONE: u64 = 1 << 20;

/// Largest weight of one span, 2^30 spans: what more is claimed is not believed, and thousands of them still add up in 63 bits.
pub const WEIGHT_MAX: u64 = 1 << 50;

/// A weight as fixed point, at least one span. 1 exactly for 1.
pub fn fixed_weight(weight: f64) -> u64 {
    // `as` saturates, and NaN becomes 0.
    ((weight * WEIGHT_ONE as f64).round() as u64).clamp(WEIGHT_ONE, WEIGHT_MAX)
}

/// What rows of `red` are counted by, besides the slice. Empty texts are null in the table, but for `operation`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RedKey {
    /// Whose.
    pub tenant: Arc<str>,
    /// `service.name`.
    pub service_name: Arc<str>,
    /// Span name.
    pub operation: Arc<str>,
    /// `service.namespace`.
    pub service_namespace: Arc<str>,
    /// `deployment.environment.name`.
    pub deployment_env: Arc<str>,
    /// `cloud.region`.
    pub cloud_region: Arc<str>,
    /// `service.version`.
    pub service_version: Arc<str>,
    /// `http.route`.
    pub http_route: Arc<str>,
    /// Span kind, 0 to 5.
    pub kind: u8,
    /// Whether the service is entered here.
    pub is_entry: bool,
    /// Whether it counts as an error.
    pub is_error: bool,
    /// HTTP status class or gRPC code.
    pub status_class: Arc<str>,
    /// What kind of error.
    pub error_type: Arc<str>,
    /// Configured dimensions that the span has, in the order configured.
    pub dims: Vec<(Arc<str>, Arc<str>)>,
}

/// The span to look at for a row: the one of largest R among those counted. Ordered, so that the larger of two is the one to keep
/// whichever came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exemplar {
    /// Randomness, 56 bits.
    pub r: u64,
    /// Duration, ns.
    pub ns: u64,
    /// End, ns since 1970.
    pub end_ns: u64,
    /// Its trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
}

/// A row of `red`: what was counted for a key in a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedRow {
    /// Counted by.
    pub key: Arc<RedKey>,
    /// Start of the slice, ns since 1970.
    pub slice_ns: u64,
    /// Width of the slice, s.
    pub slice_s: u32,
    /// Spans.
    pub n: u64,
    /// Sum of durations, ns.
    pub sum_ns: u64,
    /// Longest duration, ns.
    pub max_ns: u64,
    /// Encoded histogram of durations; empty for none.
    pub exphist: Vec<u8>,
    /// Thresholds, ns, ascending, with the number of durations at or below each.
    pub registers: Vec<(u64, u64)>,
    /// Spans times [`WEIGHT_ONE`], weighted.
    pub n_weighted: u64,
    /// What to look at.
    pub exemplar: Option<Exemplar>,
}

/// Rows as a batch of table `red` in its frame schema, sorted. Numbers beyond 2^63 - 1 stand as that.
pub fn red_batch(rows: &[RedRow]) -> RecordBatch {
    let mut rows: Vec<&RedRow> = rows.iter().collect();
    rows.sort_unstable_by(|a, b| {
        let key = |row: &'_ RedRow| (row.slice_ns, row.slice_s);
        (&a.key.tenant, &a.key.service_name, &a.key.operation)
            .cmp(&(&b.key.tenant, &b.key.service_name, &b.key.operation))
            .then_with(|| key(a).cmp(&key(b)))
            .then_with(|| a.key.cmp(&b.key))
    });
    let keys = || rows.iter().map(|row| &*row.key);
    let errors = |row: &RedRow, count: u64| if row.key.is_error { count } else { 0 };
    let mut columns: Vec<ArrayRef> = vec![
        dates(rows.iter().map(|row| row.slice_ns)),
        words(keys().map(|key| &*key.tenant)),
        times(rows.iter().map(|row| Some(row.slice_ns))),
        batch::widths(rows.iter().map(|row| row.slice_s)),
        maybe_words(keys().map(|key| &*key.service_name)),
        maybe_words(keys().map(|key| &*key.service_namespace)),
        maybe_words(keys().map(|key| &*key.deployment_env)),
        maybe_words(keys().map(|key| &*key.cloud_region)),
        maybe_words(keys().map(|key| &*key.service_version)),
        words(keys().map(|key| &*key.operation)),
        maybe_words(keys().map(|key| &*key.http_route)),
        batch::kinds(keys().map(|key| key.kind)),
        Arc::new(BooleanArray::from_iter(keys().map(|key| Some(key.is_entry)))),
        Arc::new(BooleanArray::from_iter(keys().map(|key| Some(key.is_error)))),
        maybe_words(keys().map(|key| &*key.status_class)),
        maybe_words(keys().map(|key| &*key.error_type)),
        word_map(Table::Red, "dims", keys().map(|key| key.dims.as_slice())),
        integers(rows.iter().map(|row| row.n)),
        integers(rows.iter().map(|row| errors(row, row.n))),
        integers(rows.iter().map(|row| row.sum_ns)),
        integers(rows.iter().map(|row| row.max_ns)),
        batch::sketches(rows.iter().map(|row| row.exphist.as_slice())),
        registers(Table::Red, rows.iter().map(|row| row.registers.as_slice())),
        integers(rows.iter().map(|row| row.n_weighted)),
        integers(rows.iter().map(|row| errors(row, row.n_weighted))),
    ];
    columns.extend(batch::exemplars(rows.iter().map(|row| row.exemplar)));
    RecordBatch::try_new(table::frame_schema(Table::Red), columns)
        .expect("columns stand in the order of the frame schema")
}

#[cfg(test)]
mod tests;
