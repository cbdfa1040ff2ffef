//! What is remembered of a key (a fingerprint in a stratum of a tenant): how many have come in its window, how much of its floor it has.
//!
//! Bounded: when it is full, keys unseen for two minutes are forgotten, and a new key finds no place, which costs it its privilege and
//! nothing else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ahash::RandomState;

const KEYS_MAX: usize = 1 << 16;
const FORGET_NS: u64 = 120_000_000_000;

/// Tenant, slot of the stratum, fingerprint.
pub(crate) type Key = (u32, u64, u64);

#[derive(Debug, Clone, Copy)]
struct Page {
    seen_ns: u64,
    window: u64,
    count: u32,
    credit: f32,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    pages: HashMap<Key, Page, RandomState>,
    swept_ns: u64,
}

impl Book {
    /// Counts one of `key`; whether it is among the first `count` of its window.
    pub fn first(&mut self, key: Key, now_ns: u64, count: u32, window_ns: u64) -> bool {
        let Some(page) = self.page(key, now_ns, 0.0) else {
            return false;
        };
        let window = now_ns / window_ns;
        if page.window != window {
            (page.window, page.count) = (window, 0);
        }
        page.seen_ns = now_ns;
        page.count = page.count.saturating_add(1);
        page.count <= count
    }

    /// How many traces of `key` its floor covers now. Saved up for a minute at most, and at least one.
    pub fn credit(&mut self, key: Key, now_ns: u64, floor_per_sec: f64) -> f64 {
        let most = (floor_per_sec * 60.0).max(1.0);
        let Some(page) = self.page(key, now_ns, most) else {
            return 0.0;
        };
        let elapsed = now_ns.saturating_sub(page.seen_ns) as f64 / 1e9;
        page.credit = (f64::from(page.credit) + elapsed * floor_per_sec).min(most) as f32;
        page.seen_ns = now_ns;
        f64::from(page.credit)
    }

    /// Takes traces off the floor of `key`.
    pub fn spend(&mut self, key: Key, traces: f64) {
        if let Some(page) = self.pages.get_mut(&key) {
            page.credit = (f64::from(page.credit) - traces).max(0.0) as f32;
        }
    }

    /// Forgets the keys of slots that are not used.
    pub fn retain(&mut self, is_used: impl Fn(u64) -> bool) {
        self.pages.retain(|(_, slot, _), _| is_used(*slot));
    }

    fn page(&mut self, key: Key, now_ns: u64, credit: f64) -> Option<&mut Page> {
        if self.pages.len() >= KEYS_MAX && !self.pages.contains_key(&key) {
            // Once a second at most: a flood of keys must not make every one of them walk the book.
            if now_ns.saturating_sub(self.swept_ns) < 1_000_000_000 {
                return None;
            }
            self.swept_ns = now_ns;
            self.pages
                .retain(|_, page| now_ns.saturating_sub(page.seen_ns) < FORGET_NS);
            if self.pages.len() >= KEYS_MAX {
                return None;
            }
        }
        Some(match self.pages.entry(key) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(free) => free.insert(Page {
                seen_ns: now_ns,
                window: 0,
                count: 0,
                credit: credit as f32,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_first_of_a_window() {
        let mut book = Book::default();
        let first: Vec<_> = (0..4)
            .map(|n| book.first((1, 2, 3), (60 + n) * SECOND, 2, 60 * SECOND))
            .collect();
        assert_eq!(first, [true, true, false, false]);
        assert!(book.first((1, 2, 3), 120 * SECOND, 2, 60 * SECOND));
        assert!(book.first((1, 2, 4), 60 * SECOND, 2, 60 * SECOND));
    }

    #[test]
    fn a_floor_is_saved_up() {
        let mut book = Book::default();
        let key = (1, 2, 3);
        assert_eq!(book.credit(key, 0, 2.0 / 60.0), 2.0);
        book.spend(key, 2.0);
        assert!((book.credit(key, 30 * SECOND, 2.0 / 60.0) - 1.0).abs() < 1e-6);
        assert!((book.credit(key, 3000 * SECOND, 2.0 / 60.0) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_flood_of_keys_finds_no_place() {
        let mut book = Book::default();
        for n in 0..KEYS_MAX as u64 {
            assert!(book.first((0, 0, n), SECOND, 1, 60 * SECOND));
        }
        assert!(!book.first((0, 0, u64::MAX), 2 * SECOND, 1, 60 * SECOND));
        assert!(
            book.first((0, 0, u64::MAX), 200 * SECOND, 1, 60 * SECOND),
            "the old ones are forgotten"
        );
        assert_eq!(book.pages.len(), 1);
    }
}
