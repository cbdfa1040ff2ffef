//! The digest register: a request that repeats one of the last 15 minutes gets the first one's answer and is stored once.
//!
//! ```text
//! begin --First--> (append, sync) --done--> Hit(answer) for later copies, until the window or the count runs out
//!                        '---------failed-> forgotten: the next copy is First again
//! begin --Pending(token)--> the caller parks the copy under the token and asks again after done or failed
//! ```
//!
//! Guarantees: bounded by count and by age; entries under way are never evicted; only finished entries enter a checkpoint, for
//! an answer must not outlive a record that was lost. Assumes: `done` is called once the record is durable and BEFORE it is
//! handed downstream: else a checkpoint could pass a record whose digest it does not hold, and trim the record.
//! Leaves out: the digest itself (the caller hashes tenant, signal and bytes), waiting, and time (passed in, unix ns of arrival).

use std::collections::{HashMap, VecDeque};

use crate::error::Error;
use crate::reasons::ReasonCode;
use crate::wire::{Reader, put_varint};

/// How long a repeat is recognised: 15 minutes, in ns.
pub const WINDOW_NS: u64 = 15 * 60 * 1_000_000_000;

/// The facts of a reply: how many items were rejected for which reason. Counts and message text follow from them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// `None` is full success: the usual case costs no allocation, and 8 bytes in a register of a million.
    #[allow(clippy::box_collection)]
    rejected: Option<Box<Vec<(ReasonCode, u64)>>>,
}

impl Answer {
    /// Counts `items` more as rejected for `reason`.
    pub fn add(&mut self, reason: ReasonCode, items: u64) {
        let reasons = self.rejected.get_or_insert_default();
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(items),
            None => reasons.push((reason, items)),
        }
    }

    /// How many items were rejected.
    pub fn rejected(&self) -> u64 {
        self.reasons()
            .iter()
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Counts by reason, in the order they were met.
    pub fn reasons(&self) -> &[(ReasonCode, u64)] {
        self.rejected.as_deref().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.reasons().len() as u64);
        for (reason, count) in self.reasons() {
            out.push(reason.0);
            put_varint(out, *count);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Answer, Error> {
        let mut answer = Answer::default();
        for _ in 0..reader.count(2)? {
            answer.add(ReasonCode(reader.u8()?), reader.varint()?);
        }
        Ok(answer)
    }
}

/// Names a request under way. Waiters park under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

/// What the register says to a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin<'a> {
    /// Not seen: store it, then call [`Register::done`] or [`Register::failed`] with this token.
    First(Token),
    /// The first copy is under way: wait for its outcome, then ask again.
    Pending(Token),
    /// A repeat: give this answer, store nothing but a duplicate record.
    Hit(&'a Answer),
}

/// Digests of recent requests.
#[derive(Debug)]
pub struct Register {
    entries: HashMap<u128, Entry, ahash::RandomState>,
    /// One for every entry ever begun, in that order; `base` is the token of the front. Entries that failed leave theirs behind.
    order: VecDeque<(u128, u64)>,
    base: u64,
    count_max: usize,
    window_ns: u64,
    clock_ns: u64,
    evicted: u64,
}

#[derive(Debug)]
struct Entry {
    token: Token,
    /// `None` while under way.
    answer: Option<Answer>,
}

impl Register {
    /// An empty register of at most `count_max` finished digests, each for `window_ns` (usually [`WINDOW_NS`]).
    pub fn new(count_max: usize, window_ns: u64) -> Register {
        Register {
            entries: HashMap::default(),
            order: VecDeque::new(),
            base: 0,
            count_max,
            window_ns,
            clock_ns: 0,
            evicted: 0,
        }
    }

    /// Asks for a request of this digest that arrived at `now_ns`. A clock that steps back counts as standing still.
    pub fn begin(&mut self, digest: u128, now_ns: u64) -> Begin<'_> {
        self.expire(now_ns);
        // Two look-ups on a hit; a borrow out of `get` would last through the insert below.
        if self.entries.contains_key(&digest) {
            let entry = &self.entries[&digest];
            return match &entry.answer {
                Some(answer) => Begin::Hit(answer),
                None => Begin::Pending(entry.token),
            };
        }
        Begin::First(self.insert(digest, None))
    }

    /// The record of a [`Begin::First`] is durable; repeats get `answer` from now on.
    ///
    /// # Panics
    /// When the digest is not under way with this token: a request is finished once.
    pub fn done(&mut self, digest: u128, token: Token, answer: Answer) {
        let entry = self.under_way(digest, token);
        entry.answer = Some(answer);
    }

    /// The record of a [`Begin::First`] did not become durable; the next copy is the first again.
    ///
    /// # Panics
    /// When the digest is not under way with this token: a request is finished once.
    pub fn failed(&mut self, digest: u128, token: Token) {
        self.under_way(digest, token);
        self.entries.remove(&digest);
    }

    /// Recovery: enters a finished digest, from the checkpoint first and then from the records of the log in LSN order.
    /// A digest already there keeps its first answer.
    pub fn restore(&mut self, digest: u128, arrival_ns: u64, answer: Answer) {
        self.expire(arrival_ns);
        if !self.entries.contains_key(&digest) {
            self.insert(digest, Some(answer));
        }
    }

    /// Digests held, under way included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no digest is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Digests that the count pushed out before their window ended; a repeat of such a one is stored again.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Finished digests, oldest first, with the arrival of the first copy.
    pub fn finished(&self) -> impl Iterator<Item = (u128, u64, &Answer)> {
        self.order
            .iter()
            .enumerate()
            .filter_map(|(index, (digest, arrival_ns))| {
                let entry = self.entries.get(digest)?;
                let current = entry.token.0 == self.base + index as u64;
                current.then_some((*digest, *arrival_ns, entry.answer.as_ref()?))
            })
    }

    fn insert(&mut self, digest: u128, answer: Option<Answer>) -> Token {
        let token = Token(self.base + self.order.len() as u64);
        self.order.push_back((digest, self.clock_ns));
        self.entries.insert(digest, Entry { token, answer });
        token
    }

    fn under_way(&mut self, digest: u128, token: Token) -> &mut Entry {
        let entry = self
            .entries
            .get_mut(&digest)
            .filter(|entry| entry.token == token && entry.answer.is_none());
        entry.expect("a request is finished once, by the one that was first")
    }

    /// Drops what is out of the window, and the oldest when one more would be too many. Stops at an entry under way.
    fn expire(&mut self, now_ns: u64) {
        self.clock_ns = self.clock_ns.max(now_ns);
        while let Some((digest, arrival_ns)) = self.order.front() {
            let current = self.entries.get(digest).filter(|entry| entry.token.0 == self.base);
            if let Some(entry) = current {
                let outside = self.clock_ns - arrival_ns > self.window_ns;
                let crowded = self.entries.len() >= self.count_max;
                if entry.answer.is_none() || !(outside || crowded) {
                    return;
                }
                self.evicted += u64::from(!outside);
                self.entries.remove(digest);
            }
            self.order.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(register: &mut Register, digest: u128, now: u64) -> Token {
        match register.begin(digest, now) {
            Begin::First(token) => token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_repeat_waits_then_gets_the_first_answer() {
        let mut register = Register::new(10, 100);
        let token = first(&mut register, 7, 0);
        assert_eq!(register.begin(7, 1), Begin::Pending(token));
        let mut answer = Answer::default();
        answer.add(ReasonCode(3), 2);
        answer.add(ReasonCode(3), 1);
        register.done(7, token, answer.clone());
        assert_eq!(register.begin(7, 2), Begin::Hit(&answer));
        assert_eq!(answer.rejected(), 3);
        assert_eq!(register.begin(7, 100), Begin::Hit(&answer));
        first(&mut register, 7, 101);
    }

    #[test]
    fn a_failure_makes_the_next_copy_the_first() {
        let mut register = Register::new(10, 100);
        let token = first(&mut register, 7, 0);
        register.failed(7, token);
        let again = first(&mut register, 7, 50);
        assert_ne!(token, again);
        register.done(7, again, Answer::default());
        // The place of the failed copy in the order must not take the second copy's entry along.
        assert_eq!(register.begin(7, 149), Begin::Hit(&Answer::default()));
        assert_eq!(register.finished().count(), 1);
    }

    #[test]
    fn the_count_is_bounded_and_requests_under_way_stay() {
        let mut register = Register::new(3, 1000);
        let slow = first(&mut register, 0, 0);
        for digest in 1..=2 {
            let token = first(&mut register, digest, 0);
            register.done(digest, token, Answer::default());
        }
        let token = first(&mut register, 3, 1);
        assert_eq!(register.len(), 4, "the oldest is under way, so nothing may go");
        register.done(0, slow, Answer::default());
        register.done(3, token, Answer::default());
        first(&mut register, 4, 2);
        assert_eq!(register.len(), 3);
        assert_eq!(register.evicted(), 2);
    }

    #[test]
    fn only_finished_digests_are_kept_for_a_checkpoint() {
        let mut register = Register::new(10, 100);
        first(&mut register, 1, 0);
        let token = first(&mut register, 2, 5);
        register.done(2, token, Answer::default());
        assert_eq!(
            register
                .finished()
                .map(|(digest, at, _)| (digest, at))
                .collect::<Vec<_>>(),
            [(2, 5)]
        );
    }

    #[test]
    fn a_clock_that_steps_back_stands_still() {
        let mut register = Register::new(10, 100);
        let token = first(&mut register, 1, 1000);
        register.done(1, token, Answer::default());
        assert_eq!(register.begin(1, 0), Begin::Hit(&Answer::default()));
    }

    #[test]
    fn restored_digests_keep_the_first_answer() {
        let mut register = Register::new(10, 100);
        let mut answer = Answer::default();
        answer.add(ReasonCode(1), 1);
        register.restore(1, 10, answer.clone());
        register.restore(1, 20, Answer::default());
        assert_eq!(register.begin(1, 30), Begin::Hit(&answer));
    }
}
