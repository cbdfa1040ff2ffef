//! A past that never was: months of traffic written straight into a new lake, so that long windows can be shown, tested and measured.
//!
//! ```text
//! settings --seed--> world (services, sites of a call tree, deployments, incidents)
//!                      |-- counts: rows of red and edges, a piece of time after another --.
//!                      '-- rows:   the last hour as OTLP, through the collector's code ---+--> write: commits of the lake
//! ```
//!
//! Guarantees: equal settings (seed and `now_ns` among them) give equal rows. What `red`, `edges` and `ledger` say of a slice agrees, request by request:
//! every duration is drawn once and counted on both sides of its call. In the last part, which has spans and logs too, all counts come
//! from [`tailwater_red::Aggregator`], fed with the very bytes that the rows are made of. Assumes: nobody else writes the lake ([`write`] holds the
//! locks). Leaves out: metrics as sent; exemplars before the part with rows, since there is no span that they could show.

mod attributes;
mod counts;
mod draw;
mod keys;
mod rows;
mod tell;
mod world;
mod write;

pub use tell::{Told, Wrote};
pub use world::{Deployment, Incident, Service, Settings, Site, Trouble, World};
pub use write::{Counting, write};

#[cfg(test)]
mod tests;
