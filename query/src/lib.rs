//! Answers: SQL over the lake and the outbox.
//!
//! [`Engine::open`] over a [`tailwater_storage::lake::Lake`] and, on the collector's machine, its outbox; [`Engine::query`] gives an [`Answer`]: columns, then
//! rows. [`format`] writes them. The road of a query: text limits and allow-list (`guard`), what people write that is not SQL (`rewrite`), one
//! cut over lake and outbox (`cut`), tables for DataFusion (`provider`), limits while it runs (`engine`).
//!
//! Whose rows a query may show: `tenant`.
//!
//! Absent, and must stay so: writing a table, taking a lock of the data directory, opening a file that a query names.

mod cut;
mod engine;
mod error;
pub mod format;
pub mod functions;
mod guard;
pub mod http;
mod limits;
mod meant;
mod provider;
mod rewrite;
pub mod role;
mod runs;
mod series;
pub mod slo;
mod stats;
mod tenant;
mod views;

pub use engine::{Answer, Engine, EngineConfig, Query};
pub use error::{Error, ErrorKind, Position, Result};
pub use limits::Limits;
pub use stats::Stats;
pub use tenant::Scope;
