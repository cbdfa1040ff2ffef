//! The settlement rules of the two logs, pure: watermarks, decisions, checkpoint, replay (`design/protocol.md`, P1-P9).
//!
//! What is here: the bytes that the intake log and the outbox carry for the journal ([`record`], [`settlement`], [`checkpoint`]), the
//! state machine that reads and writes them ([`Journal`]), the digest register ([`dedup`]) and the ledger's totals ([`ledger`]).
//! What is absent and must stay so: I/O, clocks, threads, async. Segments, CRCs of records, locks and torn tails are the log's.

pub mod checkpoint;
pub mod dedup;
pub mod ledger;
pub mod record;
pub mod settlement;

mod error;
mod journal;
mod pending;
mod reasons;
mod shard;
mod tables;
mod wire;

pub use error::Error;
pub use journal::{Cut, Journal, Judgement, Recovery, Row, Settings, TrimPoints};
pub use pending::Slot;
pub use reasons::{ReasonCode, Reasons};
pub use shard::{Decision, PolicyId};
pub use tables::CommitPlan;
