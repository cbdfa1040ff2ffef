//! Which series were seen already, per day.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashSet;

/// The (day, series) pairs that a collector has written to `metric_series`. Kept by the caller across batches; losing it
/// costs repeated rows, which readers expect.
#[derive(Debug)]
pub struct SeriesSeen {
    seen: HashSet<(i32, u64), ahash::RandomState>,
    newest_day: i32,
    max: usize,
    epoch: u64,
}

/// Tells apart what different [`SeriesSeen`] know, and the same one before and after it forgot.
static EPOCH: AtomicU64 = AtomicU64::new(1);

fn next_epoch() -> u64 {
    EPOCH.fetch_add(1, Ordering::Relaxed)
}

impl SeriesSeen {
    /// Remembers at most `max` pairs; beyond that it starts anew.
    pub fn new(max: usize) -> SeriesSeen {
        SeriesSeen {
            seen: HashSet::default(),
            newest_day: i32::MIN,
            max: max.max(1),
            epoch: next_epoch(),
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

    /// Whether this is the first sight. `series` is a hash that includes the tenant.
    pub(super) fn first(&mut self, day: i32, series: u64) -> bool {
        if day > self.newest_day {
            // Points of yesterday may still come; older ones are rare enough to be written again.
            self.newest_day = day;
            self.seen.retain(|(known, _)| *known >= day - 1);
        }
        if self.seen.len() >= self.max && !self.seen.contains(&(day, series)) {
            self.clear();
        }
        self.seen.insert((day, series))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_new_once_a_day() {
        let mut seen = SeriesSeen::new(100);
        assert!(seen.first(10, 1));
        assert!(!seen.first(10, 1));
        assert!(seen.first(10, 2));
        assert!(seen.first(11, 1));
        assert!(!seen.first(10, 2));
        assert!(seen.first(12, 1));
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn it_is_bounded() {
        let mut seen = SeriesSeen::new(3);
        for series in 0..100 {
            seen.first(1, series);
            assert!(seen.len() <= 3);
        }
    }
}
