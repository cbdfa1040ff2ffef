//! OTLP requests straight into Arrow record batches, in the frame schemas of `table`.
//!
//! Guarantees: one pass over the bytes, no tree in between, resources and scopes decoded once; a request is taken whole or,
//! if it is malformed, not at all; exactly the items are rejected that `peek::inspect` rejects, given the same arrival and
//! caps. Batches come out sorted by `table::sort_columns`. Every builder can be used again after it was finished.
//!
//! Assumes: the caller finishes a batch long before [`BATCH_BYTES_MAX`].
//!
//! Rules for what the protocol leaves open:
//! - Of equal keys in one list the first wins; the others are left out and counted. An empty key is a key like any other.
//! - Strings that are not UTF-8 get U+FFFD, strings beyond a cap are cut at a character, both counted. Lists and bytes
//!   beyond the cap are left out and count as dropped attributes.
//! - Resource, scope, event, link and exemplar attributes are kept as text; item attributes keep their type.
//!
//! Leaves out: dropped-attribute counts and entity references of resources and scopes, metadata of metrics.

mod attrs;
mod build;
mod cache;
mod dict;
mod keys;
mod labels;
mod logs;
mod metrics;
mod nested;
mod origin;
mod points;
mod sampling;
mod series;
mod spans;
mod time;
mod traces;

#[cfg(test)]
mod tests;

pub use logs::LogColumns;
pub use metrics::{MetricBatches, MetricColumns};
pub use sampling::{Choice, Sampling};
pub use series::SeriesSeen;
pub use spans::{SpanBatches, SpanColumns};

use super::judge::TimeFlag;
use super::peek::Malformed;
use super::reject::Reason;
use super::text::Tally;

/// Bytes that a batch may have before a push is refused. Far above any sensible batch: Arrow's offsets end at 2 GiB, and one
/// more request has to fit.
pub const BATCH_BYTES_MAX: usize = 1 << 30;

/// What is known of a request besides its bytes.
#[derive(Debug, Clone, Copy)]
pub struct RequestInfo<'a> {
    /// Whose data it is.
    pub tenant: &'a str,
    /// When it arrived, ns since 1970.
    pub arrival_ns: u64,
    /// Ordinals that `peek::inspect` rejected, ascending. They are skipped whatever the caps say now.
    pub rejected: &'a [u32],
}

/// What a push added.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pushed {
    /// Items that became rows.
    pub rows: u64,
    /// Their protobuf bytes.
    pub bytes: u64,
    /// Items that cannot be stored and were not among [`RequestInfo::rejected`]. Empty if that list came from `inspect`
    /// with the same arrival and caps.
    pub refused: Vec<(u32, Reason)>,
    /// What had to be changed.
    pub tally: Tally,
}

/// What was changed in rows, or is odd about them. Counters, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    tally: Tally,
    /// Rows by the flag of their time.
    flagged: [u64; TimeFlag::ALL.len()],
}

impl Changes {
    /// How often each was done, if it was. Of attributes: `duplicate_key`, `empty_key`, `strindex`; of log records: `unlinked`; of spans and
    /// log records: what column `ts_flag` says. Texts that were changed are counted by `peek::inspect`.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let tally = [
            ("duplicate_key", self.tally.duplicate_keys),
            ("empty_key", self.tally.empty_keys),
            ("strindex", self.tally.strindexes),
            ("unlinked", self.tally.unlinked),
        ];
        let flagged = TimeFlag::ALL.map(|flag| (flag.name(), self.flagged[flag as usize]));
        tally.into_iter().chain(flagged).filter(|(_, count)| *count > 0)
    }

    fn add(&mut self, tally: Tally) {
        self.tally.add(tally);
    }

    fn flag(&mut self, flags: impl Iterator<Item = TimeFlag>) {
        flags.for_each(|flag| self.flagged[flag as usize] += 1);
    }
}

/// Why a request was not taken; the builder is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The bytes are no such request.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The batch has [`BATCH_BYTES_MAX`]: finish it first.
    #[error("batch is full, finish it before the next request")]
    Full,
}

/// Where a block of a request began, to come back to it.
#[derive(Debug, Clone, Copy, Default)]
struct Mark<'a> {
    pushed: (u64, u64, usize, Tally),
    ordinals: Ordinals<'a>,
    rows: (usize, usize, usize),
    row_bytes: usize,
}

impl Pushed {
    fn mark(&self) -> (u64, u64, usize, Tally) {
        (self.rows, self.bytes, self.refused.len(), self.tally)
    }

    fn rewind(&mut self, mark: (u64, u64, usize, Tally)) {
        let refused;
        (self.rows, self.bytes, refused, self.tally) = mark;
        self.refused.truncate(refused);
    }
}

/// Steps through the items of a request: which ordinal, is it among the rejected.
#[derive(Debug, Clone, Copy, Default)]
struct Ordinals<'a> {
    next: u32,
    rejected: &'a [u32],
}

impl<'a> Ordinals<'a> {
    fn new(rejected: &'a [u32]) -> Ordinals<'a> {
        Ordinals { next: 0, rejected }
    }

    /// Ordinal of the next item, and whether it is rejected already.
    #[inline]
    fn step(&mut self) -> (u32, bool) {
        let ordinal = self.next;
        self.next = self.next.wrapping_add(1);
        let listed = self.rejected.first() == Some(&ordinal);
        if listed {
            self.rejected = &self.rejected[1..];
        }
        (ordinal, listed)
    }
}
