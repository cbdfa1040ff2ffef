//! Batches of decided rows: how they are written to the outbox, and how they are read back without a copy.
//!
//! ```text
//!  wal segment:  preamble | record | record | ...
//!  preamble:     "TWO1" | schemas version | per table: code, length, Arrow schema message      (once a segment)
//!  record head:  version | settlement (opaque, the journal's) | index: per frame table, rows, times, place, CRC, services, traces
//!  record body:  frame | frame | ...      each at a multiple of 64 bytes
//!  frame:        Arrow dictionary messages, one record batch message: uncompressed, 64-byte aligned, no schema
//! ```
//!
//! Guarantees: a frame decodes to the rows that were given, or to [`crate::ErrorKind::Damaged`]; a decoded batch points into the
//! mapping and keeps it alive. Assumes: the log keeps bodies at multiples of 64 bytes (else decoding copies, and is still right).
//! Leaves out: when a batch is cut and what its settlement means (crate `journal`).

mod batch;
mod frame;
mod head;
mod preamble;
mod traces;
mod view;

pub use batch::{BatchBuilder, Encoded};
pub use frame::{FrameRef, as_schema, with_batch_id};
pub use head::{FrameHead, Head};
pub use preamble::{Schemas, preamble};
pub use traces::TraceFilter;
pub use view::{CONTROL, OUTBOX_KIND, Outbox, View};

#[cfg(test)]
mod tests;
