//! Attribute keys: one table per batch, shared by every map of it.
//!
//! Items of one kind carry the same keys in the same order, so each key remembers which one followed it last: the next
//! attribute is compared with that before anything is hashed.

use std::sync::Arc;

use arrow::array::ArrayRef;

use super::dict::{Dict, NONE, Novelty};
use crate::otlp::peek;
use crate::otlp::text::Tally;

/// Where values under a key go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Into the map of their type.
    Map,
    /// A string into word column n, any other value into the map of its type.
    Word(u8),
    /// An integer of 32 bits into number column n, any other value into the map of its type.
    Int(u8),
}

#[derive(Debug, Clone, Copy)]
struct Info {
    slot: Slot,
    /// Its place among the keys asked for; [`UNASKED`] if it is none.
    asked: u8,
    /// Last list of attributes that had this key.
    stamp: u32,
    /// Key that followed this one last.
    next: i32,
    /// Id of the last string value.
    last_value: i32,
    /// Of the string values.
    novelty: Novelty,
}

const UNASKED: u8 = u8::MAX;

#[derive(Debug)]
pub(super) struct Keys {
    dict: Dict,
    infos: Vec<Info>,
    promoted: Vec<(&'static str, Slot)>,
    asked: Arc<peek::Keys>,
    /// One of them is longer than texts of keys may be: none is known by its text.
    is_cut: bool,
    /// The text of the list's last key is what was sent.
    is_as_sent: bool,
    /// Key that began the last list.
    first: i32,
    previous: i32,
    guess: i32,
    stamp: u32,
}

impl Keys {
    /// A table in which these keys have columns.
    pub(super) fn new(promoted: Vec<(&'static str, Slot)>) -> Keys {
        let mut keys = Keys {
            dict: Dict::default(),
            infos: Vec::new(),
            promoted,
            asked: Arc::default(),
            is_cut: false,
            is_as_sent: false,
            first: NONE,
            previous: NONE,
            guess: NONE,
            stamp: 0,
        };
        keys.begin();
        keys
    }

    /// The same, which also tells where a key stands among these. Texts of keys are cut at `cap` bytes.
    pub(super) fn asking(self, asked: Arc<peek::Keys>, cap: usize) -> Keys {
        let is_cut = asked.longest() > cap;
        Keys { asked, is_cut, ..self }
    }

    /// The keys asked for.
    pub(super) fn asked(&self) -> &Arc<peek::Keys> {
        &self.asked
    }

    /// The place among the keys asked for of the list's last key, which was sent as `raw`.
    #[inline]
    pub(super) fn asked_place(&self, raw: &[u8]) -> Option<usize> {
        if self.is_cut {
            return self.asked.find(raw);
        }
        let asked = self.infos.get(self.previous as usize)?.asked;
        (asked != UNASKED && self.is_as_sent).then_some(usize::from(asked))
    }

    /// A new list of attributes begins.
    #[inline]
    pub(super) fn begin(&mut self) {
        if self.stamp == u32::MAX {
            self.infos.iter_mut().for_each(|info| info.stamp = 0);
            self.stamp = 0;
        }
        self.stamp += 1;
        self.previous = NONE;
        self.guess = self.first;
    }

    /// Id of the next key of the list; `None` if the list had it already.
    #[inline]
    pub(super) fn next(&mut self, raw: &[u8], cap: usize, tally: &mut Tally) -> Option<i32> {
        let id = if self.dict.is(self.guess, raw) {
            self.is_as_sent = true;
            self.guess
        } else {
            self.look_up(raw, cap, tally)
        };
        tally.empty_keys += u64::from(raw.is_empty());
        let info = &mut self.infos[id as usize];
        self.previous = id;
        self.guess = info.next;
        if info.stamp == self.stamp {
            tally.duplicate_keys += 1;
            return None;
        }
        info.stamp = self.stamp;
        Some(id)
    }

    #[inline(never)]
    fn look_up(&mut self, raw: &[u8], cap: usize, tally: &mut Tally) -> i32 {
        let id = self.dict.put(raw, cap, tally);
        self.is_as_sent = self.dict.is(id, raw);
        if id as usize == self.infos.len() {
            let key = self.dict.get(id);
            let slot = self
                .promoted
                .iter()
                .find(|(name, _)| name.as_bytes() == key)
                .map_or(Slot::Map, |(_, slot)| *slot);
            let asked = self.asked.find(key).map_or(UNASKED, |place| place as u8);
            self.infos.push(Info {
                slot,
                asked,
                stamp: 0,
                next: NONE,
                last_value: NONE,
                novelty: Novelty::default(),
            });
        }
        match self.infos.get_mut(self.previous as usize) {
            Some(previous) => previous.next = id,
            None => self.first = id,
        }
        id
    }

    #[inline]
    pub(super) fn slot(&self, key: i32) -> Slot {
        self.infos[key as usize].slot
    }

    /// Id of a string value under this key; the last one is tried first.
    #[inline]
    pub(super) fn value(&mut self, key: i32, values: &mut Dict, raw: &[u8], cap: usize, tally: &mut Tally) -> i32 {
        let info = &mut self.infos[key as usize];
        if !values.is(info.last_value, raw) {
            info.last_value = values.put_judged(&mut info.novelty, raw, cap, tally);
        }
        info.last_value
    }

    pub(super) fn bytes(&self) -> usize {
        self.dict.bytes()
    }

    /// The keys as an Arrow array by id; the table keeps them.
    pub(super) fn share(&mut self) -> ArrayRef {
        self.dict.share()
    }

    /// The keys as an Arrow array by id; the table is empty afterwards.
    pub(super) fn take(&mut self) -> ArrayRef {
        self.infos.clear();
        self.first = NONE;
        self.begin();
        self.dict.take()
    }
}
