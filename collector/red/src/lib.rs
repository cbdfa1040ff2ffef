//! Counts every span before anything is sampled: rate, errors and durations by operation, and calls between services.
//!
//! ```text
//!   request bytes --peek--> span --rules--> entry? error? class?
//!                                   |
//!                                   +--> key (interned, guarded) x 10 s slice --> cell  --drain--> rows of `red`
//!                                   +--> joiner: waits for the other side      --> cell  --drain--> rows of `edges`
//! ```
//!
//! Guarantees: what is drained, added up by key and slice, does not depend on when it was drained. Beyond the limits of keys and
//! services spans count as `__other__`, so that totals stay exact; what an SLO declares never does. `docs/red.md` says what
//! counts as an error and as an entry, and how the counts survive a crash.
//! Assumes: requests that `peek::inspect` has accepted, in the order of the intake log. Leaves out: I/O, clocks, threads.

mod aggregator;
mod cells;
mod declared;
mod edges;
mod guard;
mod keys;
mod rules;
mod span;

pub use aggregator::{Aggregator, Drained, Mode, Settings};
pub use declared::Declared;
pub use guard::Malformed;
pub use rules::{Class, Grpc, Rules, Seen};
