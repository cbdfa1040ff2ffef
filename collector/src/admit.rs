//! Admission: bytes are taken from a budget before anything is decoded, and given back when nobody holds them.
//!
//! Three gates, in the order a request meets them:
//!
//! ```text
//! tenant rate (bytes/s, bucket) -> memory budget (process, and a share per tenant) -> backlog (accepted, not yet in a batch)
//!        429 / RetryInfo                 503 / RetryInfo                                503 / RetryInfo after a short wait
//! ```
//!
//! The memory budget covers a request from its first byte until the road has turned it into columns. The backlog gate is
//! the one that waits: acks come after an fsync, not after the road, so without it a fast client would fill the memory
//! budget with accepted requests. A waiting request is not accepted yet, so refusing it loses nothing.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of memory that requests may hold, shared by all tenants.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: u64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Budget> {
        Arc::new(Budget {
            used: AtomicU64::new(0),
            limit,
        })
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes there are.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    fn take(&self, bytes: u64) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.limit)
            })
            .is_ok()
    }

    fn give(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "a budget never gives back more than it took");
    }
}

/// Bytes taken from the process budget and from the tenant's share of it; given back on drop.
#[derive(Debug)]
pub struct Held {
    budgets: [Arc<Budget>; 2],
    bytes: u64,
}

/// The budget that was empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The whole process is at its limit: nobody's fault, 503.
    Process,
    /// This tenant is at its share: 429.
    Tenant,
}

impl Held {
    /// Takes `bytes` from both budgets, or none.
    pub fn take(process: &Arc<Budget>, tenant: &Arc<Budget>, bytes: u64) -> Result<Held, Exhausted> {
        let mut held = Held {
            budgets: [process.clone(), tenant.clone()],
            bytes: 0,
        };
        held.grow(bytes)?;
        Ok(held)
    }

    /// Takes `bytes` more from both budgets, or none.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Exhausted> {
        if !self.budgets[0].take(bytes) {
            return Err(Exhausted::Process);
        }
        if !self.budgets[1].take(bytes) {
            self.budgets[0].give(bytes);
            return Err(Exhausted::Tenant);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Makes the held amount at least `bytes`.
    pub fn grow_to(&mut self, bytes: u64) -> Result<(), Exhausted> {
        match bytes.checked_sub(self.bytes) {
            Some(more) if more > 0 => self.grow(more),
            _ => Ok(()),
        }
    }

    /// Gives back what is held above `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.budgets.iter().for_each(|budget| budget.give(surplus));
            self.bytes = bytes;
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// What one tenant may take: a rate, and a share of the memory.
#[derive(Debug)]
pub struct Tenant {
    /// Name, as it stands in rows and labels.
    pub name: Arc<str>,
    /// Memory share.
    pub memory: Arc<Budget>,
    rate: Option<DefaultDirectRateLimiter>,
}

/// Rate limits count KiB, so that a bucket's u32 reaches 4 TiB.
const RATE_UNIT: u64 = 1024;

impl Tenant {
    /// A tenant with `share` bytes of memory and, if given, a bucket of `burst` bytes that refills at `bytes_per_sec`.
    pub fn new(name: &str, share: u64, rate: Option<(u64, u64)>) -> Tenant {
        let units = |bytes: u64| {
            let units = u32::try_from((bytes / RATE_UNIT).max(1)).unwrap_or(u32::MAX);
            NonZeroU32::new(units).expect("at least one unit, by the max above")
        };
        let rate = rate.map(|(bytes_per_sec, burst)| {
            RateLimiter::direct(Quota::per_second(units(bytes_per_sec)).allow_burst(units(burst)))
        });
        Tenant {
            name: Arc::from(name),
            memory: Budget::new(share),
            rate,
        }
    }

    /// Takes `bytes` from the bucket. The error is how long until they would be there; a request larger than the whole
    /// bucket passes when the bucket is full, else it could never pass.
    pub fn take(&self, bytes: u64) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        let units = u32::try_from((bytes / RATE_UNIT).max(1)).unwrap_or(u32::MAX);
        let mut ask = NonZeroU32::new(units).expect("at least one unit, by the max above");
        loop {
            match rate.check_n(ask) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(not_yet)) => {
                    use governor::clock::{Clock, DefaultClock};
                    return Err(not_yet.wait_time_from(DefaultClock::default().now()));
                }
                Err(governor::InsufficientCapacity(burst)) => {
                    ask = NonZeroU32::new(burst).expect("a bucket holds at least one unit");
                }
            }
        }
    }
}

/// Payload bytes that are accepted but not yet in a batch of the outbox.
#[derive(Debug, Clone)]
pub struct Backlog {
    units: Arc<Semaphore>,
    limit: u32,
    wait: Duration,
}

const BACKLOG_UNIT: u64 = 1024;

impl Backlog {
    /// Room for `limit` bytes; a request waits at most `wait` for its place.
    pub fn new(limit: u64, wait: Duration) -> Backlog {
        let limit = u32::try_from((limit / BACKLOG_UNIT).max(1)).unwrap_or(u32::MAX >> 4);
        Backlog {
            units: Arc::new(Semaphore::new(limit as usize)),
            limit,
            wait,
        }
    }

    /// A place for `bytes`; `None` when none came free in time. A request larger than the whole backlog takes all of it.
    pub async fn enter(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(BACKLOG_UNIT))
            .unwrap_or(u32::MAX)
            .clamp(1, self.limit);
        let place = self.units.clone().acquire_many_owned(units);
        tokio::time::timeout(self.wait, place).await.ok()?.ok()
    }

    /// Bytes inside now.
    pub fn used(&self) -> u64 {
        u64::from(self.limit).saturating_sub(self.units.available_permits() as u64) * BACKLOG_UNIT
    }

    /// Bytes there is room for.
    pub fn limit(&self) -> u64 {
        u64::from(self.limit) * BACKLOG_UNIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_at_its_share_leaves_the_process_budget_as_it_was() {
        let (process, tenant) = (Budget::new(100), Budget::new(50));
        let mut held = Held::take(&process, &tenant, 40).expect("fits both");
        assert_eq!(held.grow(20).unwrap_err(), Exhausted::Tenant);
        assert_eq!((process.used(), tenant.used()), (40, 40));
        let other = Budget::new(100);
        let second = Held::take(&process, &other, 60).expect("the rest of the process budget");
        assert_eq!(held.grow(1).unwrap_err(), Exhausted::Process);
        drop(second);
        held.grow_to(50).expect("given back");
        held.shrink_to(10);
        assert_eq!((process.used(), tenant.used(), held.bytes()), (10, 10, 10));
        drop(held);
        assert_eq!((process.used(), tenant.used(), other.used()), (0, 0, 0));
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_when_the_bucket_is_full() {
        let tenant = Tenant::new("default", 0, Some((10 * RATE_UNIT, 20 * RATE_UNIT)));
        assert_eq!(tenant.take(1000 * RATE_UNIT), Ok(()));
        let wait = tenant.take(RATE_UNIT).expect_err("the bucket is empty now");
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        assert_eq!(Tenant::new("free", 0, None).take(u64::MAX), Ok(()));
    }

    #[tokio::test]
    async fn the_backlog_makes_a_request_wait_and_then_refuses_it() {
        let backlog = Backlog::new(10 * BACKLOG_UNIT, Duration::ZERO);
        let place = backlog.enter(100 * BACKLOG_UNIT).await.expect("a giant takes it all");
        assert_eq!(backlog.used(), backlog.limit());
        assert!(backlog.enter(1).await.is_none(), "nothing came free");
        drop(place);
        assert!(backlog.enter(1).await.is_some());
    }
}
