//! The lake: Delta tables of Parquet files, and the outbox read as hot store.
//!
//! For: writing decided rows into open tables exactly once, reading which files and frames make up a table at one instant, and
//! keeping the tables small and fast. Guarantees: a commit that returned is on disk (files, log entry, directories); a batch
//! of the outbox is in a table once (`txn`, rule P6); a reader sees each row once, from the outbox or from the table.
//! Assumes: one collector per log id, one maintainer per lake. Leaves out: queries (crate `query`), the logs' own bytes
//! (crate `wal`), deciding what to keep (crate `collector`).
//!
//! The road: [`outbox::BatchBuilder`] makes a batch for the log; [`outbox::Outbox`] reads it back; [`lake::Committer`] moves it
//! into tables; [`hot::hot_view`] is what a query reads: files and frames of one instant; [`maintain`] keeps house; [`verify`] checks.
//! `FORMAT.md` says it for outsiders.

pub mod error;
pub mod hot;
pub mod lake;
pub mod levels;
pub mod maintain;
pub mod outbox;
pub mod store;
pub mod verify;

pub use error::{Error, ErrorKind, Result};

#[cfg(test)]
mod faults;
#[cfg(test)]
mod format_md;
#[cfg(test)]
mod testing;
