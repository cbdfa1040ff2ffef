//! The aggregator through its front door: requests in, rows out.
#![allow(clippy::unwrap_used)]

mod counting;
mod edges;
mod guard;
mod make;
