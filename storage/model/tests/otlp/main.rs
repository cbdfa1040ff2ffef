//! Tailwater's OTLP readers against `opentelemetry-proto`: the example requests, generated requests, bent and broken bytes, JSON.
//!
//! What it proves: both decoders accept the same requests, count the same items and yield the same values. What it can't prove:
//! that either agrees with an SDK; `tests/clients` is for that.
//!
//! A failing property prints its smallest request and the seed of its bending. `PROPTEST_CASES` widens the search.

#![allow(clippy::unwrap_used)]

mod bend;
mod cell;
mod check;
mod data;
mod expect;
mod generate;
mod generated;
mod json;
mod regressions;
mod seeds;
mod table;
mod wire;
