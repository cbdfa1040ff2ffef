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
    /// Where each digest stands in `order`.
    tokens: HashMap<[u8; 16], Token, ahash::RandomState>,
    /// Every copy that was ever first, oldest first; `base` is the token of the front. In a row, for a checkpoint walks them all.
    order: VecDeque<Entry>,
    base: u64,
    count_max: usize,
    window_ns: u64,
    clock_ns: u64,
    evicted: u64,
}

#[derive(Debug)]
struct Entry {
    /// Bytes, because a u128 would pad the entry to 48.
    digest: [u8; 16],
    arrival_ns: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    UnderWay,
    Done(Answer),
    Failed,
}

impl Register {
    /// An empty register of at most `count_max` finished digests, each for `window_ns` (usually [`WINDOW_NS`]). Some 100 bytes each.
    pub fn new(count_max: usize, window_ns: u64) -> Register {
        Register {
            tokens: HashMap::default(),
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
        let digest = digest.to_le_bytes();
        let Some(token) = self.tokens.get(&digest).copied() else {
            return Begin::First(self.insert(digest, State::UnderWay));
        };
        match &self.order[(token.0 - self.base) as usize].state {
            State::Done(answer) => Begin::Hit(answer),
            State::UnderWay => Begin::Pending(token),
            State::Failed => unreachable!("a failed digest has no token"),
        }
    }

    /// The record of a [`Begin::First`] is durable; repeats get `answer` from now on.
    ///
    /// # Panics
    /// When the digest is not under way with this token: a request is finished once.
    pub fn done(&mut self, digest: u128, token: Token, answer: Answer) {
        self.under_way(digest, token).state = State::Done(answer);
    }

    /// The record of a [`Begin::First`] did not become durable; the next copy is the first again.
    ///
    /// # Panics
    /// When the digest is not under way with this token: a request is finished once.
    pub fn failed(&mut self, digest: u128, token: Token) {
        self.under_way(digest, token).state = State::Failed;
        self.tokens.remove(&digest.to_le_bytes());
    }

    /// Recovery: enters a finished digest, from the checkpoint first and then from the records of the log in LSN order.
    /// A digest already there keeps its first answer.
    pub fn restore(&mut self, digest: u128, arrival_ns: u64, answer: Answer) {
        self.expire(arrival_ns);
        let digest = digest.to_le_bytes();
        if !self.tokens.contains_key(&digest) {
            self.insert(digest, State::Done(answer));
        }
    }

    /// Digests held, under way included.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether no digest is held.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Digests that the count pushed out before their window ended; a repeat of such a one is stored again.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Finished digests, oldest first, with the arrival of the first copy.
    pub fn finished(&self) -> impl Iterator<Item = (u128, u64, &Answer)> {
        self.finished_from(0)
            .map(|(_, digest, arrival_ns, answer)| (digest, arrival_ns, answer))
    }

    /// The token that the next first copy will have.
    pub(crate) fn next_token(&self) -> u64 {
        self.base + self.order.len() as u64
    }

    /// As [`Register::finished`], with tokens, from one on.
    pub(crate) fn finished_from(&self, token: u64) -> impl Iterator<Item = (u64, u128, u64, &Answer)> {
        let first = token.max(self.base);
        let entries = self.order.range((first.min(self.next_token()) - self.base) as usize..);
        (first..).zip(entries).filter_map(|(token, entry)| match &entry.state {
            State::Done(answer) => Some((token, u128::from_le_bytes(entry.digest), entry.arrival_ns, answer)),
            State::UnderWay | State::Failed => None,
        })
    }

    fn insert(&mut self, digest: [u8; 16], state: State) -> Token {
        let token = Token(self.next_token());
        self.order.push_back(Entry {
            digest,
            arrival_ns: self.clock_ns,
            state,
        });
        self.tokens.insert(digest, token);
        token
    }

    fn under_way(&mut self, digest: u128, token: Token) -> &mut Entry {
        let index = token
            .0
            .checked_sub(self.base)
            .and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.order.get_mut(index));
        let entry =
            entry.filter(|entry| entry.digest == digest.to_le_bytes() && matches!(entry.state, State::UnderWay));
        entry.expect("a request is finished once, by the one that was first")
    }

    /// Drops what is out of the window, and the oldest when one more would be too many. Stops at an entry under way.
    fn expire(&mut self, now_ns: u64) {
        self.clock_ns = self.clock_ns.max(now_ns);
        while let Some(entry) = self.order.front() {
            let outside = self.clock_ns - entry.arrival_ns > self.window_ns;
            let crowded = self.tokens.len() >= self.count_max;
            match entry.state {
                State::Failed => {}
                State::Done(_) if outside || crowded => {
                    self.evicted += u64::from(!outside);
                    self.tokens.remove(&entry.digest);
                }
                State::Done(_) | State::UnderWay => return,
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
