//! The collector role: intake, admission, the road through the logs, delivery to the lake.
//!
//! ```text
//! intake (tokio) --> acker --> road --> outbox --> deliver (tokio, one task a table) --> lake
//!    |  memory budget  |         |  backlog  |         |  outbox budget
//!    '-- 503 / 429     ack       '-- columns '-- one batch ahead
//! ```
//!
//! Three threads carry records (acker, road, outbox) because they block; everything else is tasks. [`run`] reads as the
//! list of parts.

pub mod admit;
mod checkpoint;
mod declared;
mod dedup;
mod deliver;
mod fatal;
mod figures;
mod gate;
mod hold;
pub mod intake;
mod keep;
mod log;
mod open;
mod outbox;
mod road;
mod run;
mod settings;
mod stats;
mod suspects;
mod tail;
mod tenants;

pub use run::{CollectorError, Listeners, run};
pub use settings::{caps, counting};
pub use tail::Durations;
