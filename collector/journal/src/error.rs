//! What can be wrong with stored journal bytes, or with a directory as a whole.

use tailwater_model::ids::BatchSeq;
use tailwater_model::table::Table;

/// Why journal bytes or a recovery step were refused. None of these heals by trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before the value does.
    #[error("{what} ends early")]
    Truncated {
        /// Which structure.
        what: &'static str,
    },
    /// Written by a version that this program does not know.
    #[error("{what} has format version {version}, this program reads up to {known}")]
    Version {
        /// Which structure.
        what: &'static str,
        /// The version found.
        version: u64,
        /// The newest version known here.
        known: u64,
    },
    /// A value that the format does not allow.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Which structure.
        what: &'static str,
        /// Which rule is broken.
        why: &'static str,
    },
    /// The trailer checksum does not match.
    #[error("{what} fails its checksum")]
    Checksum {
        /// Which structure.
        what: &'static str,
    },
    /// A reason that the table handed in does not know, so its ledger key cannot be built.
    #[error("unknown ledger reason {reason:?}: written by a newer version")]
    UnknownReason {
        /// The stored name.
        reason: String,
    },
    /// A checkpoint section marked as required that this program does not know.
    #[error("checkpoint section {id} is required and unknown: written by a newer version")]
    UnknownSection {
        /// Section id.
        id: u64,
    },
    /// The checkpoint belongs to another data directory.
    #[error("checkpoint belongs to log {found}, not to {expected}")]
    OtherLog {
        /// Log id of this directory.
        expected: String,
        /// Log id in the checkpoint.
        found: String,
    },
    /// The checkpoint has another number of shards than the journal was built for; it is fixed for the life of a directory.
    #[error("checkpoint has {found} shards, not {expected}")]
    OtherShards {
        /// Shards of this journal.
        expected: usize,
        /// Shards in the checkpoint.
        found: usize,
    },
    /// A batch is missing between what was settled and this one.
    #[error("outbox batch {found:?} follows {settled:?}: batches are missing")]
    BatchGap {
        /// Last batch settled.
        settled: BatchSeq,
        /// The batch that was offered.
        found: BatchSeq,
    },
    /// A watermark would move backwards; the batch does not belong to this history.
    #[error("outbox batch {batch:?} moves a watermark of shard {shard} backwards")]
    Regress {
        /// The batch that was offered.
        batch: BatchSeq,
        /// Which shard.
        shard: u8,
    },
    /// A table has committed batches that the outbox does not know (P6): foreign or restored directory.
    #[error("table {} has committed batch {version:?} but the outbox ends at {end:?}: foreign or restored directory", table.name())]
    ForeignTable {
        /// Which table.
        table: Table,
        /// Its `txn` version.
        version: BatchSeq,
        /// Last batch of the outbox.
        end: BatchSeq,
    },
    /// An amount does not fit 64 bits.
    #[error("ledger amount overflows 64 bits")]
    Overflow,
}
