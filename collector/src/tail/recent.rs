//! Requests that rows may still be taken from, kept in memory as long as that spares reading them again.
//!
//! The newest are kept, so many bytes of them. Where traces wait longer than that lasts, none of them would still be there when it is asked
//! for: then nothing is kept, and memory goes back to the requests to come while it is warm.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tailwater_model::ids::Lsn;

use super::rows::Record;
use crate::log::Entry;

/// A request that is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    lsn: Lsn,
    tenant: Arc<str>,
    arrival_ns: u64,
    rejected: Arc<[u32]>,
    payload: Bytes,
}

impl Kept {
    pub fn record(&self) -> Record<'_> {
        Record {
            lsn: self.lsn,
            tenant: &self.tenant,
            arrival_ns: self.arrival_ns,
            rejected: &self.rejected,
            payload: &self.payload,
        }
    }
}

/// Those that are kept.
#[derive(Debug)]
pub(super) struct Recent {
    /// Most bytes.
    most: u64,
    kept: VecDeque<Kept>,
    bytes: u64,
    /// Bytes offered since start, and how many they were before some of the records.
    passed: u64,
    marks: VecDeque<(Lsn, u64)>,
    /// Share of what is asked for that lies within `most` bytes of the newest, of late.
    within: f64,
}

/// So many marks for [`Recent::most`] bytes; what lies before all of them is not within.
const MARKS: u64 = 64;
/// Weight of one record in [`Recent::within`].
const WEIGHT: f64 = 1.0 / 64.0;
/// Share from which on it is worth it.
const WITHIN_MIN: f64 = 0.125;

impl Recent {
    pub fn new(most: u64) -> Recent {
        Recent {
            most,
            kept: VecDeque::new(),
            bytes: 0,
            passed: 0,
            marks: VecDeque::new(),
            within: 1.0,
        }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A request that something waits of. They come in the order of their numbers.
    pub fn offer(&mut self, lsn: Lsn, entry: &Entry, rejected: &[u32], payload: &Bytes) {
        let step = self.most / MARKS;
        if self.marks.back().is_none_or(|(_, at)| self.passed >= at + step) {
            self.marks.push_back((lsn, self.passed));
            if self.marks.len() as u64 > MARKS + 1 {
                self.marks.pop_front();
            }
        }
        self.passed += payload.len() as u64;
        if self.within < WITHIN_MIN {
            self.kept = VecDeque::new();
            self.bytes = 0;
            return;
        }
        self.bytes += payload.len() as u64;
        self.kept.push_back(Kept {
            lsn,
            tenant: entry.tenant.clone(),
            arrival_ns: entry.arrival_ns,
            rejected: rejected.into(),
            payload: payload.clone(),
        });
        while self.bytes > self.most
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.payload.len() as u64;
        }
    }

    /// A request that rows are taken from, if it is kept.
    pub fn find(&mut self, lsn: Lsn) -> Option<Kept> {
        let mark = self.marks.partition_point(|(first, _)| *first <= lsn);
        let is_within = mark > 0 && self.passed - self.marks[mark - 1].1 <= self.most;
        self.within += (f64::from(u8::from(is_within)) - self.within) * WEIGHT;
        let at = self.kept.binary_search_by_key(&lsn, |kept| kept.lsn).ok()?;
        Some(self.kept[at].clone())
    }
}

#[cfg(test)]
mod tests {
    use tailwater_journal::record::Rejected;
    use tailwater_model::signal::Signal;

    use super::*;

    const REQUEST: usize = 1000;

    /// Offers requests, asks for the one so many before each, and answers whether the last was kept and how much is kept.
    fn run(recent: &mut Recent, requests: std::ops::Range<u64>, before: u64) -> (bool, u64) {
        let entry = Entry {
            arrival_ns: 7,
            tenant: "default".into(),
            signal: Signal::Traces,
            items: 1,
            wire_bytes: REQUEST as u64,
            digest: None,
            duplicate: false,
            rejected: Rejected::default(),
        };
        let mut is_found = false;
        for lsn in requests {
            recent.offer(Lsn(lsn), &entry, &[3], &Bytes::from(vec![lsn as u8; REQUEST]));
            let found = recent.find(Lsn(lsn.saturating_sub(before)));
            is_found = found.is_some();
            if let Some(kept) = found {
                let record = kept.record();
                assert_eq!((record.lsn, record.arrival_ns), (Lsn(lsn - before), 7));
                assert_eq!((record.rejected, record.payload[0]), (&[3][..], (lsn - before) as u8));
            }
        }
        (is_found, recent.bytes())
    }

    #[test]
    fn what_would_be_gone_when_it_is_asked_for_is_not_kept() {
        let most = 100 * REQUEST as u64;
        let mut recent = Recent::new(most);
        assert_eq!(run(&mut recent, 1..1000, 50), (true, most));
        assert_eq!(run(&mut recent, 1000..2000, 150), (false, 0));
        assert!(run(&mut recent, 2000..2100, 50).0, "it is worth it again");
        assert_eq!(run(&mut recent, 2100..3000, 5000), (false, 0));
    }

    #[test]
    fn without_room_nothing_is_kept() {
        assert_eq!(run(&mut Recent::new(0), 1..300, 0), (false, 0));
    }
}
