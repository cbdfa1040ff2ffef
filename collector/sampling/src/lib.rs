//! Which traces stay, and with what weight. Pure: no clock, no I/O.
//!
//! ```text
//!   policy (YAML) --> strata, budgets, limits --compiled--> bits of a trace, set as its spans go by
//!
//!   offer(span) --> trace table (LSN, ordinal, bytes; bounded) --due--> stratum --> controller: T --> verdict --> journal, rows
//!        \--> late memory: the decision of a trace that is decided                    ^  tokens, debt, shares
//!                                                              governor: measured drain --> rate; ladder --> refuse
//! ```
//!
//! The order of calls for one shard (or for all of them, with one thread):
//!
//! 1. start: [`Sampler::new`], [`Sampler::restore`] with the checkpoint's section, [`Sampler::remember`] for what the journal recalls;
//! 2. for every span that the journal calls pending: [`Sampler::offer`], with a journal slot as mark (`journal.open`); one it calls late is
//!    not offered, its decision is [`Decision::from_journal`];
//! 3. twice a second, by the arrival clock: `rate = governor.rate(..)`, [`Sampler::tick`], and about once a minute [`Sampler::set_recent`]
//!    and [`Sampler::calibrate`];
//! 4. after each of 2 and 3: for every [`Verdict`] `journal.decide(slot, T, journal_reason, epoch)`; the spans of a kept one are read again
//!    from the log at their [`SpanAt`]s and stored with [`Sampler::stamp`]; those of another are counted as sampled out;
//!    An [`Offer::Again`] is settled with its trace's verdict, which counts it apart;
//! 5. an [`Offer::Late`] is stored with its decision and touched in the journal, an [`Offer::Dropped`] is sampled out;
//! 6. checkpoint: [`Sampler::encode`].
//!
//! What is absent and must stay so: time that is not an argument, tokio, and any decision that looks at the R it decides about.

mod again;
mod allocate;
mod audit;
mod book;
mod controller;
mod fault;
pub mod governor;
pub mod import;
#[cfg(test)]
mod invariants;
mod keep_all;
mod late;
mod names;
mod own;
pub mod policy;
mod recent;
mod sampler;
pub mod sim;
mod slab;
mod state;
mod table;
pub mod threshold;
pub mod tracestate;
mod verdict;
mod wheel;

pub use keep_all::{KeepAll, Unconditional};
pub use late::{Late, Memory};
pub use own::Own;
pub use recent::Recent;
pub use sampler::{ADMISSION, LIVE_TRACES, Offer, Output, Sampler, Tick};
pub use state::Malformed;
pub use threshold::{Randomness, Threshold};
pub use verdict::{Decision, SpanAt, TickRow, Trigger, Verdict};
