//! Queries over a small lake made the way the collector makes it: rows in frame form, committed through `Committer`, the newest
//! ones still in an outbox.
#![allow(clippy::unwrap_used)]

mod attributes;
mod dashboards;
mod estimators;
mod fixtures;
mod grafana;
mod hot;
mod levels;
mod limits;
mod prometheus;
mod pruning;
mod role;
mod script;
mod slo;
mod tenants;
mod wire;
