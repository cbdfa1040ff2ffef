//! Which traces stay, and with what weight. Pure: no clock, no I/O.
//!
//! What is here: thresholds and randomness of the OpenTelemetry specification ([`threshold`]), what a tracestate says of
//! them ([`tracestate`]), and the seam between the collector's road and the policies ([`sampler`]). What is absent and must stay so: time that is
//! not an argument, tokio, and any decision that looks at the R it decides about.

pub mod sampler;
pub mod threshold;
pub mod tracestate;

pub use sampler::{Due, Offer, Policy, Sampler, SpanAt, SpanFacts, Trigger, Unconditional, Verdict};
pub use threshold::{Randomness, Threshold};
