//! What the engine did, counted. Whoever serves metrics reads it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::ErrorKind;

/// Counters since the engine was opened.
#[derive(Debug, Default)]
pub struct Stats {
    running: AtomicUsize,
    succeeded: AtomicU64,
    failed: [AtomicU64; ErrorKind::ALL.len()],
    rows: AtomicU64,
    micros: AtomicU64,
}

/// One running query; counts down when it is dropped.
pub(crate) struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stats {
    pub(crate) fn running(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(&self.running)
    }

    pub(crate) fn succeeded(&self, rows: u64, took: Duration) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.took(took);
    }

    pub(crate) fn failed(&self, kind: ErrorKind, took: Duration) {
        self.failed[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.took(took);
    }

    fn took(&self, took: Duration) {
        self.micros
            .fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Queries that run now.
    pub fn running_now(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Queries answered in full.
    pub fn succeeded_total(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Queries that ended in an error of this kind.
    pub fn failed_total(&self, kind: ErrorKind) -> u64 {
        self.failed[kind as usize].load(Ordering::Relaxed)
    }

    /// Rows of all answers.
    pub fn rows_total(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Time of all queries together, waiting included.
    pub fn time_total(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_counter() {
        for (at, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "kinds are listed in their order");
        }
    }
}
