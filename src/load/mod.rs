//! The load generator: open-loop OTLP for measuring, a simulated shop for showing, recorded files for replaying.
//!
//! Guarantees: no two requests of a run are alike (ids, times and noisy attributes are stamped per request); a retry repeats
//! its request byte for byte; latency is measured from the moment a request was due, not from when it got a turn; memory is
//! bounded by templates plus `in_flight` bodies. Assumes a server that speaks OTLP/gRPC or OTLP/HTTP without TLS.
//! Leaves out: TLS, tokens, reading anything back.
//!
//! ```text
//! workload --draws--> draft --proto|json--> template --stamp(seed, request, now)--> body --client--> server
//!                                                         ^                           |
//!                                                     schedule                     outcome -> tally, ledger
//! ```

pub mod answer;
pub mod client;
pub mod draft;
pub mod history;
pub mod ids;
pub mod json;
pub mod ledger;
pub mod proto;
pub mod replay;
pub mod run;
pub mod send;
pub mod shop;
pub mod stamp;
pub mod tally;
pub mod workload;
