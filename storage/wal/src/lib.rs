//! A segmented, group-committed log. Used twice (intake log, outbox); knows nothing of OTLP.
