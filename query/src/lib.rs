//! Answers: SQL over the lake and the outbox.

pub mod exphist;
pub mod functions;
