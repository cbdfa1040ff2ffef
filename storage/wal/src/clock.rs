//! Time, passed in: the system's monotonic clock, or one that tests move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the writer reads the time for its timers.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System(Instant),
    Manual(Arc<AtomicU64>),
}

/// Moves the time of a [`Clock::manual`]. Call [`Wal::tick`](crate::Wal::tick) after it.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl Clock {
    /// The system's monotonic clock.
    pub fn system() -> Clock {
        Clock(Kind::System(Instant::now()))
    }

    /// A clock that stands still until moved.
    pub fn manual() -> (Clock, ManualClock) {
        let nanos = Arc::new(AtomicU64::new(0));
        (Clock(Kind::Manual(nanos.clone())), ManualClock(nanos))
    }

    /// Time since some fixed moment.
    pub(crate) fn now(&self) -> Duration {
        match &self.0 {
            Kind::System(start) => start.elapsed(),
            Kind::Manual(nanos) => Duration::from_nanos(nanos.load(Ordering::SeqCst)),
        }
    }

    /// How long to really sleep for `wait` of this clock; `None` until woken.
    pub(crate) fn sleep(&self, wait: Duration) -> Option<Duration> {
        match self.0 {
            Kind::System(_) => Some(wait),
            Kind::Manual(_) => None,
        }
    }
}

impl ManualClock {
    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}
