//! Dictionaries: each different string of a column once, named by a dense id.
//!
//! What goes in is raw wire bytes; what is kept is UTF-8 within a cap. Cleaning happens only for strings not seen before,
//! so that the usual case is one hash and one comparison, or none: columns try the last id first.

use std::sync::Arc;

use ahash::RandomState;
use arrow::array::{ArrayRef, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use hashbrown::HashTable;

use crate::otlp::text::{self, Tally};

/// No string. Becomes null.
pub(super) const NONE: i32 = -1;

/// Values of one kind after which they are judged.
const TRIES: u32 = 128;

/// How many of a key's or column's values were new to the dictionary, of those that were not the last one again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Novelty {
    tries: u32,
    fresh: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Dict {
    bytes: Vec<u8>,
    /// Where each string begins, and at last where the last one ends.
    offsets: Vec<i32>,
    /// (hash, id); the hash saves rehashing when the table grows.
    table: HashTable<(u64, i32)>,
    state: RandomState,
    /// The strings as they were handed out last, by [`Dict::share`].
    shared: Option<ArrayRef>,
}

impl Default for Dict {
    fn default() -> Dict {
        Dict {
            bytes: Vec::new(),
            offsets: vec![0],
            table: HashTable::new(),
            state: RandomState::new(),
            shared: None,
        }
    }
}

impl Dict {
    /// How many strings.
    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Bytes that the Arrow array will have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + 4 * self.offsets.len()
    }

    /// The string with this id; an id that was never given out has none.
    #[inline(always)]
    pub(super) fn get(&self, id: i32) -> &[u8] {
        let id = id as usize;
        match self.offsets.get(id..id.wrapping_add(2)) {
            Some(&[from, to]) => &self.bytes[from as usize..to as usize],
            _ => &[],
        }
    }

    /// Whether the string with this id is `raw`.
    #[inline(always)]
    pub(super) fn is(&self, id: i32, raw: &[u8]) -> bool {
        // An id may come from an earlier batch or from another dictionary: then it names nothing, or what it names here.
        (id as usize) < self.len() && same(self.get(id), raw)
    }

    /// Id of a string, cleaned and cut to `cap` bytes where that is needed.
    #[inline]
    pub(super) fn put(&mut self, raw: &[u8], cap: usize, tally: &mut Tally) -> i32 {
        let hash = self.state.hash_one(raw);
        match self.find(hash, raw) {
            Some(id) => id,
            None => self.put_new(hash, raw, cap, tally),
        }
    }

    /// As [`Dict::put`], [`NONE`] for the empty string.
    #[inline]
    pub(super) fn put_some(&mut self, raw: &[u8], cap: usize, tally: &mut Tally) -> i32 {
        if raw.is_empty() {
            NONE
        } else {
            self.put(raw, cap, tally)
        }
    }

    #[inline(always)]
    fn find(&self, hash: u64, raw: &[u8]) -> Option<i32> {
        self.table
            .find(hash, |(known, id)| *known == hash && self.get(*id) == raw)
            .map(|(_, id)| *id)
    }

    #[inline(never)]
    fn put_new(&mut self, hash: u64, raw: &[u8], cap: usize, tally: &mut Tally) -> i32 {
        let clean = text::clean(raw, tally);
        let kept = text::cut(&clean, cap, tally).as_bytes();
        if kept == raw {
            return self.insert(hash, raw);
        }
        let hash = self.state.hash_one(kept);
        match self.find(hash, kept) {
            Some(id) => id,
            None => self.insert(hash, kept),
        }
    }

    /// As [`Dict::put`] for values that may hardly ever come twice: ids of sessions, requests, users. Once `novelty` has seen that nearly
    /// all of them are new, they are not looked up any more in this batch.
    #[inline]
    pub(super) fn put_judged(&mut self, novelty: &mut Novelty, raw: &[u8], cap: usize, tally: &mut Tally) -> i32 {
        if novelty.tries >= TRIES && novelty.fresh > novelty.tries / 16 * 15 {
            return self.put_unique(raw, cap, tally);
        }
        let before = self.len();
        let id = self.put(raw, cap, tally);
        novelty.tries += 1;
        novelty.fresh += u32::from(self.len() > before);
        id
    }

    /// Adds a string without looking whether it is there. Dictionaries may repeat a string; hashing, probing and growing the
    /// table is most of what a value costs that comes only once.
    fn put_unique(&mut self, raw: &[u8], cap: usize, tally: &mut Tally) -> i32 {
        let clean = text::clean(raw, tally);
        self.append(text::cut(&clean, cap, tally).as_bytes())
    }

    #[inline]
    fn append(&mut self, text: &[u8]) -> i32 {
        let id = self.len() as i32;
        self.bytes.extend_from_slice(text);
        let end = i32::try_from(self.bytes.len()).expect("a push is refused while a batch has BATCH_BYTES_MAX");
        self.offsets.push(end);
        id
    }

    fn insert(&mut self, hash: u64, text: &[u8]) -> i32 {
        let id = self.append(text);
        self.table.insert_unique(hash, (hash, id), |(hash, _)| *hash);
        id
    }

    /// For each id its place among the strings in ascending order.
    pub(super) fn ranks(&self) -> Vec<u32> {
        let mut order: Vec<i32> = (0..self.len() as i32).collect();
        order.sort_unstable_by(|a, b| self.get(*a).cmp(self.get(*b)));
        let mut ranks = vec![0; order.len()];
        for (rank, id) in order.into_iter().enumerate() {
            ranks[id as usize] = rank as u32;
        }
        ranks
    }

    /// Forgets all strings.
    pub(super) fn clear(&mut self) {
        // Not if there are none: `take` asks for as much room as there was.
        if self.len() > 0 {
            drop(self.take());
        }
    }

    /// The strings as an Arrow array by id. The dictionary keeps them for the next batch, and copies them only if there are new ones.
    pub(super) fn share(&mut self) -> ArrayRef {
        let known = self.shared.take().filter(|array| array.len() == self.len());
        let array = known.unwrap_or_else(|| {
            let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets.clone()));
            Arc::new(StringArray::new(offsets, Buffer::from_vec(self.bytes.clone()), None))
        });
        self.shared = Some(array.clone());
        array
    }

    /// The strings as an Arrow array by id; the dictionary is empty afterwards.
    pub(super) fn take(&mut self) -> ArrayRef {
        // The next batch will be like this one: ask for as much at once instead of growing into it.
        let mut next = Vec::with_capacity(self.offsets.len());
        next.push(0);
        let capacity = self.bytes.len();
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
        let offsets = std::mem::replace(&mut self.offsets, next);
        self.table.clear();
        self.shared = None;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Arc::new(StringArray::new(offsets, Buffer::from_vec(bytes), None))
    }
}

/// Whether both are the same bytes. Attributes are short: a call to compare them would cost more than comparing.
#[inline(always)]
fn same(a: &[u8], b: &[u8]) -> bool {
    let whole = |bytes: &[u8], at: usize| bytes[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
    let len = a.len();
    match len {
        _ if len != b.len() => false,
        // The first and the last eight bytes; they may overlap.
        8..=16 => whole(a, 0) == whole(b, 0) && whole(a, len - 8) == whole(b, len - 8),
        17..=32 => {
            whole(a, 0) == whole(b, 0)
                && whole(a, 8) == whole(b, 8)
                && whole(a, len - 16) == whole(b, len - 16)
                && whole(a, len - 8) == whole(b, len - 8)
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_makes_a_difference() {
        let text: Vec<u8> = (1..=40).collect();
        for len in 0..=text.len() {
            assert!(same(&text[..len], &text.clone()[..len]), "{len}");
            assert!(!same(&text[..len], &text[..len.saturating_sub(1)]) || len == 0, "{len}");
            for at in 0..len {
                let mut other = text[..len].to_vec();
                other[at] ^= 0x80;
                assert!(!same(&text[..len], &other), "byte {at} of {len}");
            }
        }
    }

    #[test]
    fn equal_strings_share_an_id_and_dirty_ones_are_cleaned() {
        let (mut dict, mut tally) = (Dict::default(), Tally::default());
        let put = |dict: &mut Dict, raw: &[u8], tally: &mut Tally| dict.put(raw, 4, tally);
        assert_eq!(put(&mut dict, b"b", &mut tally), 0);
        assert_eq!(put(&mut dict, b"", &mut tally), 1);
        assert_eq!(put(&mut dict, b"b", &mut tally), 0);
        assert_eq!(put(&mut dict, b"\xff", &mut tally), 2);
        assert_eq!(put(&mut dict, b"\xff", &mut tally), 2);
        assert_eq!(
            tally,
            Tally {
                sanitized: 2,
                ..Tally::default()
            }
        );
        assert_eq!(put(&mut dict, b"abcdef", &mut tally), 3);
        assert_eq!(put(&mut dict, b"abcd", &mut tally), 3);
        assert_eq!(tally.truncated, 1);
        assert_eq!(dict.ranks(), [2, 0, 3, 1]);
        assert!(dict.is(0, b"b") && !dict.is(NONE, b""));
        let shared = dict.share();
        assert!(Arc::ptr_eq(&shared, &dict.share()), "nothing new, nothing copied");
        assert_eq!(put(&mut dict, b"new", &mut tally), 4);
        assert_eq!((shared.len(), dict.share().len()), (4, 5));
        let strings = dict.take();
        assert_eq!(strings.len(), 5);
        assert_eq!(put(&mut dict, b"x", &mut tally), 0);
    }
}
