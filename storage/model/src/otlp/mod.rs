//! OTLP: the wire walker over request bytes, and what reads through it.
//!
//! ```text
//! bytes -> wire (fields) -> envelope (resources, scopes, entries) -> item, point (heads) -> value (attributes)
//!                                    |                                   |
//!                                    +--> peek: inspect, spans           +--> judge: which items are rejected
//!                                    +--> columns: Arrow record batches
//!                                    +--> series: which metric series a request has
//! ```

pub mod caps;
pub mod columns;
pub mod envelope;
pub mod item;
pub mod json;
pub mod judge;
pub mod peek;
pub mod point;
pub mod reject;
pub mod reply;
pub mod series;
pub mod text;
pub mod value;
pub mod wire;
