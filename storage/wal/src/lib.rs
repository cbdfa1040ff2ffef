//! A segmented, group-committed log. Used twice (intake log, outbox); knows nothing of OTLP.
//!
//! A record is a small *head* and a large *body*, both opaque; it has a dense sequence number, given at append. One writer
//! thread commits groups; a [`Ticket`] (future, or blocking) completes when its record is durable.
//!
//! Guarantees:
//! - An acknowledged record ([`Ack::Fsync`]) is read back after any crash; if its bytes are damaged later, that is reported, never passed over.
//! - A number is never given to two records that were ever written in the same place of the order.
//! - An append is refused ([`Kind::Full`]) before anything of it is written, and refusals end by themselves.
//! - After a failed write or sync nothing more is accepted ([`Kind::Poisoned`]).
//! - Readers in other processes never see bytes that a crash could take back.
//!
//! Assumes: one writing process per directory (enforced by a lock); file systems that keep rename atomic and fdatasync honest.
//!
//! Leaves out: what records mean, when they may be trimmed, compression, encryption.
//!
//! The byte layout and the pipeline with its capacities are in the crate's README.

mod buffer;
mod clock;
mod control;
mod error;
mod file;
mod format;
mod map;
mod options;
mod picks;
pub mod reader;
mod records;
mod recover;
mod segment;
mod shared;
#[cfg(test)]
mod sim;
mod stats;
#[cfg(test)]
mod tests;
mod ticket;
mod turns;
mod wal;
mod walk;
mod writer;

pub use clock::{Clock, ManualClock};
pub use control::Published;
pub use error::{Error, FullReason, Kind, Result};
pub use file::volatile;
pub use format::{ALIGN, Body};
pub use options::{Ack, Bodies, Io, Options};
pub use picks::{Picked, Picks};
pub use records::{Record, Records};
pub use recover::{Damage, QUARANTINE, Recovered};
pub use segment::GROUP_BYTES;
pub use stats::Stats;
pub use ticket::Ticket;
pub use wal::Wal;
pub use walk::Part;
pub use writer::{MARKER_DELAY, SYNC_DELAY};
