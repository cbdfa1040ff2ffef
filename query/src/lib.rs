//! Answers: SQL over the lake and the outbox.
