//! Keeps the end of the intake log readable, for what a restart must read again though it is counted: the sides of calls that wait
//! for their other side.
//!
//! A slot of the journal's is opened every so often, and given back when everything from it to the next is older than asked for; so
//! low (rule P4) stays that far behind. Bounded by bytes as well: then the log has its room, and a crash may cost the pairing of some calls.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tailwater_journal::{Journal, Slot};
use tailwater_model::clock::Clock;
use tailwater_model::ids::Lsn;

/// Slots over the whole time or size: what is kept is at most this part too much.
const GRAINS: u64 = 16;
/// Which shard's slots are used. Low is the smallest of all shards, so any does.
const SHARD: u8 = 0;

/// The hold.
#[derive(Debug)]
pub struct Hold {
    keep_ns: u64,
    bytes_max: u64,
    clock: Clock,
    clock_ns: u64,
    bytes: u64,
    slots: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    slot: Slot,
    /// Where clock and byte count stood before its first record.
    clock_ns: u64,
    bytes: u64,
}

impl Hold {
    /// Keeps records of the last `keep_ns` of the arrival clock, 0 for none, but no more than about `bytes_max` of them.
    pub fn new(keep_ns: u64, bytes_max: u64) -> Hold {
        Hold {
            keep_ns,
            bytes_max,
            clock: Clock::default(),
            clock_ns: 0,
            bytes: 0,
            slots: VecDeque::new(),
        }
    }

    /// A record is walked.
    pub fn record(&mut self, lsn: Lsn, arrival_ns: u64, bytes: u64, journal: &Mutex<Journal>) {
        if self.keep_ns == 0 {
            return;
        }
        self.clock_ns = self.clock_ns.max(self.clock.read(arrival_ns));
        let is_due = self.slots.back().is_none_or(|last| {
            self.clock_ns - last.clock_ns >= self.keep_ns / GRAINS || self.bytes - last.bytes >= self.bytes_max / GRAINS
        });
        if is_due {
            let slot = journal.lock().open(SHARD, lsn);
            self.slots.push_back(Held {
                slot,
                clock_ns: self.clock_ns,
                bytes: self.bytes,
            });
        }
        self.bytes += bytes;
        // A slot's records end where the next one's begin.
        while let [_, next, ..] = self.slots.make_contiguous() {
            let is_old = next.clock_ns < self.clock_ns.saturating_sub(self.keep_ns);
            if !is_old && self.bytes - next.bytes < self.bytes_max {
                return;
            }
            if let Some(held) = self.slots.pop_front() {
                journal.lock().release(SHARD, held.slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_journal::{Reasons, Recovery, Settings};
    use tailwater_model::ids::LogId;

    use super::*;

    /// Walks records of these arrivals and sizes; the first LSN still needed after each.
    fn check(keep_ns: u64, bytes_max: u64, records: &[(u64, u64)], expect: &[u64]) {
        let settings = Settings {
            log_id: LogId([1; 16]),
            shards: 2,
            decisions_max: 10,
            decision_age_max_ns: 1,
            reasons: Reasons::new([]),
        };
        let journal = Recovery::new(settings, None).expect("an empty directory").finish();
        let journal = Mutex::new(journal);
        let mut hold = Hold::new(keep_ns, bytes_max);
        let mut found = Vec::new();
        for (at, (arrival_ns, bytes)) in records.iter().enumerate() {
            let lsn = Lsn(at as u64 + 1);
            hold.record(lsn, *arrival_ns, *bytes, &journal);
            let mut journal = journal.lock();
            journal.advance_all(lsn);
            journal.cut(*arrival_ns, Default::default()).expect("a cut");
            found.push(journal.replay_from().0);
        }
        assert_eq!(found, expect);
    }

    #[test]
    fn what_is_older_goes() {
        let records: Vec<(u64, u64)> = (0..8).map(|at| (1000 + at * 100, 1)).collect();
        check(300, 1000, &records, &[1, 1, 1, 1, 1, 2, 3, 4]);
        // A clock that steps back lets nothing go, and nothing else either.
        check(300, 1000, &[(1000, 1), (1100, 1), (500, 1), (1500, 1)], &[1, 1, 1, 2]);
    }

    /// After a restart another shard's oldest trace has the replay begin below what the hold's shard has settled.
    #[test]
    fn a_replay_from_below_takes_nothing_back() {
        let settings = || Settings {
            log_id: LogId([1; 16]),
            shards: 2,
            decisions_max: 10,
            decision_age_max_ns: 1,
            reasons: Reasons::new([]),
        };
        let mut before = Recovery::new(settings(), None).expect("an empty directory").finish();
        let _waits = before.open(1, Lsn(3));
        before.advance_all(Lsn(9));
        let cut = before.cut(1000, Default::default()).expect("a cut").expect("news");

        let mut recovery = Recovery::new(settings(), None).expect("an empty directory");
        recovery.batch(cut.seq, &cut.settlement).expect("what was settled");
        let journal = Mutex::new(recovery.finish());
        let mut hold = Hold::new(300, 1000);
        assert_eq!(journal.lock().replay_from(), Lsn(3));
        for lsn in 3..12 {
            hold.record(Lsn(lsn), 1000 + lsn, 1, &journal);
            journal.lock().advance_all(Lsn(lsn));
            journal.lock().cut(1000 + lsn, Default::default()).expect("a cut");
        }
    }

    #[test]
    fn bytes_are_bounded() {
        let records: Vec<(u64, u64)> = (0..6).map(|_| (1000, 100)).collect();
        check(300, 250, &records, &[1, 1, 1, 2, 3, 4]);
    }

    #[test]
    fn without_a_time_nothing_is_kept() {
        check(0, 1000, &[(1, 1), (2, 1), (3, 1)], &[2, 3, 4]);
    }
}
