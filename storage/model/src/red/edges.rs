//! Rows of `edges`: calls from one service to another.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};

use super::Exemplar;
use super::batch;
use crate::rows::{dates, integers, maybe_words, times, words};
use crate::table::{self, Table};

/// What connects two services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeKind {
    /// A client span and the server span below it.
    Request,
    /// A producer span and the consumer span below it.
    Message,
}

impl EdgeKind {
    /// Value of column `kind`.
    pub fn name(self) -> &'static str {
        match self {
            EdgeKind::Request => "request",
            EdgeKind::Message => "message",
        }
    }
}

/// Why one side of a call is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unpaired {
    /// It did not arrive in time; perhaps it is not instrumented.
    Expired,
    /// Too many spans were waiting for their other side.
    Full,
    /// The server's span is a root: whoever called sent no span.
    Root,
    /// The caller asks a database, and those send no spans.
    Database,
}

impl Unpaired {
    /// Value of column `unpaired`.
    pub fn name(self) -> &'static str {
        match self {
            Unpaired::Expired => "expired",
            Unpaired::Full => "full",
            Unpaired::Root => "root",
            Unpaired::Database => "database",
        }
    }
}

/// What rows of `edges` are counted by, besides the slice. Empty texts are null in the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeKey {
    /// Whose.
    pub tenant: Arc<str>,
    /// `service.name` of the caller.
    pub client_service: Arc<str>,
    /// `service.name` of the callee.
    pub server_service: Arc<str>,
    /// `service.namespace` of the caller.
    pub client_namespace: Arc<str>,
    /// `service.namespace` of the callee.
    pub server_namespace: Arc<str>,
    /// What connects them.
    pub kind: EdgeKind,
    /// Whom a caller alone says it calls.
    pub peer: Arc<str>,
    /// Why a side is missing.
    pub unpaired: Option<Unpaired>,
}

/// A row of `edges`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeRow {
    /// Counted by.
    pub key: Arc<EdgeKey>,
    /// Start of the slice, ns since 1970.
    pub slice_ns: u64,
    /// Width of the slice, s.
    pub slice_s: u32,
    /// Calls.
    pub n: u64,
    /// Failed ones.
    pub errors: u64,
    /// Sum of durations, ns, as the client, then as the server saw them.
    pub sum_ns: [u64; 2],
    /// Longest duration, likewise.
    pub max_ns: [u64; 2],
    /// Encoded histograms, likewise; empty for none.
    pub exphist: [Vec<u8>; 2],
    /// Calls times [`super::WEIGHT_ONE`], weighted.
    pub n_weighted: u64,
    /// Failed ones, likewise.
    pub errors_weighted: u64,
    /// What to look at: the server's span, or the client's where it stands alone.
    pub exemplar: Option<Exemplar>,
}

/// Rows as a batch of table `edges` in its frame schema, sorted. Numbers beyond 2^63 - 1 stand as that.
pub fn edge_batch(rows: &[EdgeRow]) -> RecordBatch {
    let mut rows: Vec<&EdgeRow> = rows.iter().collect();
    rows.sort_unstable_by(|a, b| {
        (&a.key.tenant, &a.key.client_service, &a.key.server_service)
            .cmp(&(&b.key.tenant, &b.key.client_service, &b.key.server_service))
            .then_with(|| (a.slice_ns, a.slice_s).cmp(&(b.slice_ns, b.slice_s)))
            .then_with(|| a.key.cmp(&b.key))
    });
    let keys = || rows.iter().map(|row| &*row.key);
    let mut columns: Vec<ArrayRef> = vec![
        dates(rows.iter().map(|row| row.slice_ns)),
        words(keys().map(|key| &*key.tenant)),
        times(rows.iter().map(|row| Some(row.slice_ns))),
        batch::widths(rows.iter().map(|row| row.slice_s)),
        words(keys().map(|key| key.kind.name())),
        maybe_words(keys().map(|key| &*key.client_service)),
        maybe_words(keys().map(|key| &*key.client_namespace)),
        maybe_words(keys().map(|key| &*key.server_service)),
        maybe_words(keys().map(|key| &*key.server_namespace)),
        maybe_words(keys().map(|key| &*key.peer)),
        maybe_words(keys().map(|key| key.unpaired.map_or("", Unpaired::name))),
        integers(rows.iter().map(|row| row.n)),
        integers(rows.iter().map(|row| row.errors)),
    ];
    for side in 0..2 {
        columns.push(integers(rows.iter().map(|row| row.sum_ns[side])));
        columns.push(integers(rows.iter().map(|row| row.max_ns[side])));
        columns.push(batch::sketches(rows.iter().map(|row| row.exphist[side].as_slice())));
    }
    columns.push(integers(rows.iter().map(|row| row.n_weighted)));
    columns.push(integers(rows.iter().map(|row| row.errors_weighted)));
    columns.extend(batch::exemplars(rows.iter().map(|row| row.exemplar)));
    RecordBatch::try_new(table::frame_schema(Table::Edges), columns)
        .expect("columns stand in the order of the frame schema")
}
