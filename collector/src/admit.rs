//! Admission: bytes are taken from a budget before anything is decoded, and given back when nobody holds them.
//!
//! Gates, in the order a request meets them:
//!
//! ```text
//! overload ladder ([`crate::gate`]): 503 with RetryInfo, before the body is read
//! memory budget (process, and a share per tenant) -> tenant rate (bytes/s, points/s) -> backlog (accepted, not yet in a batch)
//!   503, share: 429, both with RetryInfo;               429 / RetryInfo                   503 / RetryInfo after a short wait
//!   more than there is at all: 413
//! ```
//!
//! The number of metric series is no gate: waiting does not help, so points of further ones are rejected one by one.
//!
//! The memory budget covers a request from its first byte until the road has turned it into columns. The backlog gate is
//! the one that waits: acks come after an fsync, not after the road, so without it a fast client would fill the memory
//! budget with accepted requests. A waiting request is not accepted yet, so refusing it loses nothing.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::AHashSet;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use tailwater_config::access::Quotas;
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
    /// More than there is when nobody else holds anything: waiting does not help, 413.
    Never {
        /// Bytes there are.
        limit: u64,
    },
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
        let limit = self.budgets[0].limit.min(self.budgets[1].limit);
        if self.bytes.saturating_add(bytes) > limit {
            return Err(Exhausted::Never { limit });
        }
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

    /// Makes room in `buffer` for `more` bytes. It doubles, but not beyond `most` bytes; its capacity is held, on top of `beside`, and its old
    /// place too while its bytes move.
    ///
    /// # Errors
    /// [`Exhausted`]; the buffer is as it was.
    pub fn make_room(&mut self, buffer: &mut Vec<u8>, more: usize, most: usize, beside: u64) -> Result<(), Exhausted> {
        let (need, old) = (buffer.len() + more, buffer.capacity());
        if need <= old {
            return Ok(());
        }
        let room = old.saturating_mul(2).min(most).max(need);
        self.grow_to(beside + (old + room) as u64)?;
        buffer.reserve_exact(room - buffer.len());
        self.shrink_to(beside + room as u64);
        Ok(())
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

/// What one tenant may take: rates, a number of metric series, and a share of the memory.
#[derive(Debug)]
pub struct Tenant {
    /// Name, as it stands in rows and labels.
    pub name: Arc<str>,
    /// Memory share.
    pub memory: Arc<Budget>,
    quotas: Quotas,
    bytes: Option<DefaultDirectRateLimiter>,
    points: Option<DefaultDirectRateLimiter>,
    series: Option<Arc<Mutex<SeriesSeen>>>,
}

/// Rate limits count KiB, so that a bucket's u32 reaches 4 TiB.
const RATE_UNIT: u64 = 1024;

impl Tenant {
    /// A tenant with `share` bytes of memory and these limits.
    pub fn new(name: &str, share: u64, quotas: Quotas) -> Tenant {
        Tenant::with(name.into(), Budget::new(share), quotas, None)
    }

    /// The tenant under new limits. What it holds stays held, and its series stay known; its buckets are full again.
    pub fn changed(&self, quotas: Quotas) -> Tenant {
        Tenant::with(self.name.clone(), self.memory.clone(), quotas, self.series.clone())
    }

    fn with(name: Arc<str>, memory: Arc<Budget>, quotas: Quotas, series: Option<Arc<Mutex<SeriesSeen>>>) -> Tenant {
        let limiter = |each, burst| RateLimiter::direct(Quota::per_second(each).allow_burst(burst));
        Tenant {
            name,
            memory,
            quotas,
            bytes: quotas
                .bytes
                .map(|(each, burst)| limiter(units(each / RATE_UNIT), units(burst / RATE_UNIT))),
            points: quotas
                .points
                .map(|(each, burst)| limiter(units(each.into()), units(burst.into()))),
            series: quotas.series.map(|_| series.unwrap_or_default()),
        }
    }

    /// Its limits.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Takes `bytes` from the bucket. The error is how long until they would be there; a request larger than the whole
    /// bucket passes when the bucket is full, else it could never pass.
    pub fn take(&self, bytes: u64) -> Result<(), Duration> {
        // A part of a unit is one: else two requests of almost two would pass for two.
        take(self.bytes.as_ref(), bytes.div_ceil(RATE_UNIT))
    }

    /// Takes metric points, likewise.
    pub fn take_points(&self, points: u64) -> Result<(), Duration> {
        take(self.points.as_ref(), points)
    }

    /// Which of these series are too many: those that the tenant does not have yet when it has all it may. `None` without a limit.
    pub fn excess_series(&self, series: &[u64], now_ns: u64) -> Option<Vec<usize>> {
        let (most, seen) = (self.quotas.series?, self.series.as_ref()?);
        let mut seen = seen.lock();
        seen.turn(now_ns);
        let mut excess = Vec::new();
        for (at, one) in series.iter().enumerate() {
            if !seen.admit(*one, most as usize) {
                excess.push(at);
            }
        }
        Some(excess)
    }

    /// Whether series are counted.
    pub fn limits_series(&self) -> bool {
        self.series.is_some()
    }
}

/// At least one of a bucket's units.
fn units(count: u64) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(count.max(1)).unwrap_or(u32::MAX)).expect("at least one unit, by the max")
}

fn take(rate: Option<&DefaultDirectRateLimiter>, count: u64) -> Result<(), Duration> {
    let Some(rate) = rate else { return Ok(()) };
    let mut ask = units(count);
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

/// How long a series that sends nothing still counts, at least; at most twice as long.
const SERIES_TURN_NS: u64 = 30 * 60 * 1_000_000_000;

/// The metric series of a tenant in the last half to whole hour. Forgotten by a restart, which only ever lets more in.
#[derive(Debug, Default)]
struct SeriesSeen {
    /// No series is in both.
    now: AHashSet<u64>,
    before: AHashSet<u64>,
    turned_ns: u64,
}

impl SeriesSeen {
    fn turn(&mut self, now_ns: u64) {
        // A clock that was set back: else nothing would be forgotten until it has caught up.
        self.turned_ns = self.turned_ns.min(now_ns);
        let turns = now_ns.saturating_sub(self.turned_ns) / SERIES_TURN_NS;
        if turns == 0 {
            return;
        }
        let last = std::mem::take(&mut self.now);
        self.before = if turns == 1 { last } else { AHashSet::new() };
        self.turned_ns = now_ns;
    }

    fn admit(&mut self, series: u64, most: usize) -> bool {
        if self.now.contains(&series) {
            return true;
        }
        let known = self.before.remove(&series);
        if !known && self.now.len() + self.before.len() >= most {
            return false;
        }
        self.now.insert(series)
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

    const FREE: Quotas = Quotas {
        bytes: None,
        points: None,
        series: None,
        live_traces: None,
        queries: None,
    };

    #[test]
    fn a_tenant_at_its_share_leaves_the_process_budget_as_it_was() {
        let (process, tenant) = (Budget::new(100), Budget::new(50));
        let mut held = Held::take(&process, &tenant, 40).expect("fits both");
        assert_eq!(Held::take(&process, &tenant, 20).unwrap_err(), Exhausted::Tenant);
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
    fn what_can_never_be_held_is_told_apart_from_what_cannot_be_held_now() {
        for (process, tenant, taken, bytes, expected) in [
            (100, 50, 0, 50, Ok(())),
            (100, 50, 0, 51, Err(Exhausted::Never { limit: 50 })),
            (100, 50, 1, 50, Err(Exhausted::Tenant)),
            (40, 50, 0, 41, Err(Exhausted::Never { limit: 40 })),
            (50, 60, 1, 50, Err(Exhausted::Process)),
        ] {
            let (process, tenant) = (Budget::new(process), Budget::new(tenant));
            let _other = Held::take(&process, &tenant, taken).expect("it fits");
            let got = Held::take(&process, &tenant, bytes).map(drop);
            assert_eq!(got, expected, "{bytes} beside {taken}");
        }
    }

    #[test]
    fn a_buffer_that_grows_is_held_with_its_old_place_while_it_moves() {
        let budget = Budget::new(100);
        let mut held = Held::take(&budget, &budget_of_all(), 10).expect("it fits");
        let mut buffer = Vec::new();
        let mut check = |more: usize, most: usize, expected: Result<(usize, u64), Exhausted>| {
            let made = held.make_room(&mut buffer, more, most, 10);
            let got = made.map(|()| (buffer.capacity(), budget.used()));
            assert_eq!(got, expected, "room for {more}");
            buffer.resize(buffer.capacity(), 0);
        };
        check(8, 64, Ok((8, 18)));
        check(1, 64, Ok((16, 26)));
        check(20, 64, Ok((36, 46)));
        // 10 + 36 + 64.
        check(1, 64, Err(Exhausted::Never { limit: 100 }));
        check(1, 40, Ok((40, 50)));
    }

    fn budget_of_all() -> Arc<Budget> {
        Budget::new(u64::MAX)
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_when_the_bucket_is_full() {
        let tenant = Tenant::new(
            "default",
            0,
            Quotas {
                bytes: Some((10 * RATE_UNIT, 20 * RATE_UNIT)),
                points: Some((10, 20)),
                ..FREE
            },
        );
        assert_eq!(tenant.take(1000 * RATE_UNIT), Ok(()));
        let wait = tenant.take(RATE_UNIT).expect_err("the bucket is empty now");
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        assert_eq!(tenant.take_points(20), Ok(()), "points have a bucket of their own");
        let wait = tenant.take_points(1).expect_err("it is empty, too");
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        let free = Tenant::new("free", 0, FREE);
        assert_eq!((free.take(u64::MAX), free.take_points(u64::MAX)), (Ok(()), Ok(())));
        assert_eq!(free.excess_series(&[1, 2, 3], 0), None);
    }

    #[test]
    fn a_part_of_a_kilobyte_counts_as_one() {
        let passed = |bytes: u64| {
            let quotas = Quotas {
                bytes: Some((RATE_UNIT, 8 * RATE_UNIT)),
                ..FREE
            };
            let tenant = Tenant::new("default", 0, quotas);
            // The bucket fills by one unit a second: the table is through long before.
            (0..100).take_while(|_| tenant.take(bytes).is_ok()).count()
        };
        for (bytes, expected) in [(1, 8), (1024, 8), (1025, 4), (2047, 4), (2048, 4), (4097, 1)] {
            assert_eq!(passed(bytes), expected, "{bytes} bytes");
        }
    }

    #[test]
    fn series_beyond_the_limit_are_told_until_others_are_forgotten() {
        let tenant = Tenant::new(
            "default",
            0,
            Quotas {
                series: Some(3),
                ..FREE
            },
        );
        let start = 1_800_000_000_000_000_000;
        let excess = |series: &[u64], turns: u64| {
            tenant
                .excess_series(series, start + turns * SERIES_TURN_NS)
                .expect("a limit")
        };
        assert_eq!(excess(&[1, 2, 1, 3, 2], 0), [0; 0]);
        assert_eq!(excess(&[4, 1, 5, 2], 0), [0, 2]);
        // 1 goes on, 2 and 3 are silent for one turn and still count, then they do not.
        assert_eq!(excess(&[1, 4], 1), [1]);
        assert_eq!(excess(&[4, 5, 1, 6], 2), [3]);
        // A long silence forgets all.
        assert_eq!(excess(&[7, 8, 9, 1], 9), [3]);
        // Another limit keeps what is known.
        let more = tenant.changed(Quotas {
            series: Some(4),
            ..FREE
        });
        assert_eq!(
            more.excess_series(&[7, 8, 9, 1, 2], start + 9 * SERIES_TURN_NS),
            Some(vec![4])
        );
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
