//! Which series were seen already, per day.
//!
//! Losing sight of one costs repeated rows, which readers expect. What is remembered is bounded, and being full costs as much as is too much:
//! pairs that find no place are new each time, those that have one stay known. Places come free when their series are silent for half an
//! hour or more, or when their day is over.

use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use hashbrown::HashTable;

/// The (day, series) pairs that a collector has written to `metric_series`. Kept by the caller across batches.
#[derive(Debug)]
pub struct SeriesSeen {
    seen: HashTable<Seen>,
    state: RandomState,
    newest_day: i32,
    max: usize,
    epoch: u64,
    turn: u32,
    turned_ns: u64,
    /// Places were made since the last turn: there are no more to be had.
    is_purged: bool,
}

/// 16 bytes, and one of the table: 34 MiB for a million of them, at most.
#[derive(Debug, Clone, Copy)]
struct Seen {
    series: u64,
    day: i32,
    /// The last turn in which it was looked up.
    turn: u32,
}

/// A series that sends nothing is remembered so long at least, and twice as long at most once places are short.
const TURN_NS: u64 = 30 * 60 * 1_000_000_000;

/// Tells apart what different [`SeriesSeen`] know, and the same one before and after it forgot.
static EPOCH: AtomicU64 = AtomicU64::new(1);

fn next_epoch() -> u64 {
    EPOCH.fetch_add(1, Ordering::Relaxed)
}

impl SeriesSeen {
    /// Remembers at most `max` pairs.
    pub fn new(max: usize) -> SeriesSeen {
        SeriesSeen {
            seen: HashTable::new(),
            state: RandomState::new(),
            newest_day: i32::MIN,
            max: max.max(1),
            epoch: next_epoch(),
            turn: 0,
            turned_ns: 0,
            is_purged: false,
        }
    }

    /// Pairs remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Forgets everything: for when rows that were handed out may not have been kept.
    pub fn clear(&mut self) {
        self.seen.clear();
        self.epoch = next_epoch();
    }

    /// What was seen stays seen while this is the same.
    #[inline]
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this is the first sight, as far as it is known. `series` is a hash that includes the tenant; `now_ns` is when the point arrived.
    pub(super) fn first(&mut self, day: i32, series: u64, now_ns: u64) -> bool {
        if day > self.newest_day {
            // Points of yesterday may still come; older ones are rare enough to be written again.
            self.newest_day = day;
            self.is_purged = false;
            self.seen.retain(|known| known.day >= day - 1);
        }
        if self.seen.len() >= self.max / 2 {
            self.turn(now_ns);
        }
        let hash = self.state.hash_one((day, series));
        let found = self
            .seen
            .find_mut(hash, |known| known.series == series && known.day == day);
        if let Some(known) = found {
            known.turn = self.turn;
            return false;
        }
        if self.seen.len() >= self.max && !self.is_purged {
            self.is_purged = true;
            let (newest, turn) = (self.newest_day, self.turn);
            self.seen.retain(|known| known.day == newest && turn - known.turn <= 1);
        }
        if self.seen.len() < self.max {
            let new = Seen {
                series,
                day,
                turn: self.turn,
            };
            let hash = |known: &Seen| self.state.hash_one((known.day, known.series));
            self.seen.insert_unique(hash(&new), new, hash);
        }
        true
    }

    /// From time to time a turn begins, and who is still there says so: by another epoch all are looked up again.
    fn turn(&mut self, now_ns: u64) {
        if now_ns.abs_diff(self.turned_ns) >= TURN_NS {
            self.turned_ns = now_ns;
            self.turn += 1;
            self.epoch = next_epoch();
            self.is_purged = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 1_800_000_000_000_000_000;

    #[test]
    fn a_series_is_new_once_a_day() {
        let mut seen = SeriesSeen::new(100);
        assert!(seen.first(10, 1, 0));
        assert!(!seen.first(10, 1, 0));
        assert!(seen.first(10, 2, 0));
        assert!(seen.first(11, 1, 0));
        assert!(!seen.first(10, 2, 0));
        assert!(seen.first(12, 1, 0));
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn it_is_bounded() {
        let mut seen = SeriesSeen::new(3);
        for series in 0..100 {
            seen.first(1, series, START_NS + series * TURN_NS / 4);
            assert!(seen.len() <= 3);
        }
    }

    /// Scrapes of so many series a minute for two hours, `churn` of which are others each time.
    #[test]
    fn series_too_many_cost_what_is_too_much() {
        const MAX: u64 = 1000;
        const MINUTE_NS: u64 = 60 * 1_000_000_000;
        let check = |series: u64, churn: u64, most: u64| {
            let mut seen = SeriesSeen::new(MAX as usize);
            let mut listed = 0;
            for minute in 0..120 {
                for one in minute * churn..minute * churn + series {
                    listed += u64::from(seen.first(1, one, START_NS + minute * MINUTE_NS));
                }
                assert!(seen.len() <= MAX as usize);
            }
            let least = series + 119 * churn;
            assert!(
                (least..=least + most).contains(&listed),
                "{series} and {churn} a minute: {listed} listed, {least} are different"
            );
        };
        check(400, 0, 0);
        check(1000, 0, 0);
        // A tenth too many: a tenth is listed again, not all.
        check(1100, 0, 119 * 100);
        check(2000, 0, 119 * 1000);
        // 595 come and go: their places are found.
        check(500, 5, 0);
        // With 1785 there is no room for those of an hour: of 500 points a minute a third is listed again.
        check(500, 15, 119 * 170);
    }

    #[test]
    fn yesterday_makes_room_for_today() {
        let mut seen = SeriesSeen::new(10);
        for day in 1..4 {
            for minute in 0..3 {
                for series in 0..8 {
                    let is_first = seen.first(day, series, START_NS + minute);
                    assert_eq!(is_first, minute == 0, "day {day}, minute {minute}, series {series}");
                }
            }
        }
    }
}
