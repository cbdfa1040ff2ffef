//! OTLP: the wire walker over request bytes, and what reads through it.

pub mod caps;
pub mod json;
pub mod reject;
pub mod reply;
