//! What the points of a series share, decoded once and found again by the bytes they came in.
//!
//! A series sends the same attributes with every point, byte for byte, and a client sends its series in the same order every
//! time. So a point is first compared with the series that followed the one before it the last time: most need one `memcmp`,
//! no hash and no look at a single attribute.
//!
//! Guarantees: equal entries have equal bytes, not merely equal hashes. Assumes: bytes that were decoded once are well-formed.

use ahash::RandomState;
use hashbrown::HashTable;

use crate::otlp::item::Parts;
use crate::otlp::text::Tally;
use crate::otlp::wire::Wire;

/// Whose point it is, of which metric, resource and scope of the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) tenant: i32,
    pub(super) metric: u32,
    pub(super) resource: u32,
    pub(super) scope: u32,
}

/// A series, as the attributes of its points say it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) place: Place,
    /// Stored `series_id`. Two entries may have the same: attributes in another order, for instance.
    pub(super) series: i64,
    /// Depth of the deepest attribute value.
    pub(super) depth: usize,
    /// What had to be changed in the attributes; counted again for each point.
    pub(super) tally: Tally,
    /// Bytes that a point takes in a batch because of its attributes, resource and scope.
    pub(super) row_bytes: usize,
    /// The day for which it was last looked up in [`super::SeriesSeen`], and the epoch of that.
    pub(super) seen: (u64, i32),
}

/// The attributes of a point as they stand in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    /// Length of the first one: all that the bytes leave open. [`SCATTERED`] if they did not stand together.
    first: u32,
    /// From the first one, without its tag and length, to the end of the last one.
    bytes: &'a [u8],
}

impl<'a> Raw<'a> {
    /// Attributes that [`Together`] has put together.
    pub(super) fn scattered(bytes: &'a [u8]) -> Raw<'a> {
        Raw {
            first: SCATTERED,
            bytes,
        }
    }
}

const SCATTERED: u32 = u32::MAX;
/// Longest tag and length that may stand between two attributes; together with another field they would be longer.
const GAP_MAX: usize = 3;
const NONE: u32 = u32::MAX;
/// Bytes of attributes that are kept to compare with. When there are more, what is there is not found again.
const BYTES_MAX: usize = 32 << 20;

impl Entry {
    /// Of a series whose id is not known yet.
    pub(super) fn new(place: Place, depth: usize, tally: Tally, row_bytes: usize) -> Entry {
        Entry {
            place,
            series: 0,
            depth,
            tally,
            row_bytes,
            seen: (0, 0),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    entry: Entry,
    hash: u64,
    first: u32,
    bytes: (u32, u32),
    /// What followed it last.
    next: u32,
}

/// Series by place and attributes.
#[derive(Debug, Default)]
pub(super) struct SeriesCache {
    slots: Vec<Slot>,
    bytes: Vec<u8>,
    /// (hash, index); the hash saves rehashing when the table grows.
    table: HashTable<(u64, u32)>,
    state: RandomState,
    /// The point before this one.
    previous: u32,
    /// Slots below this have lost their bytes.
    found_from: u32,
}

/// Where an entry that is not there belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vacant(u64);

impl SeriesCache {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> &Entry {
        &self.slots[index as usize].entry
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.slots[index as usize].entry
    }

    pub(super) fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.slots.iter().map(|slot| &slot.entry)
    }

    /// Index of the entry of a point.
    #[inline]
    pub(super) fn find(&mut self, place: Place, raw: Raw<'_>) -> Result<u32, Vacant> {
        let guess = self.slots.get(self.previous as usize).map_or(0, |slot| slot.next);
        if self.is(guess, place, raw) {
            self.previous = guess;
            return Ok(guess);
        }
        self.look_up(place, raw)
    }

    #[inline]
    fn is(&self, index: u32, place: Place, raw: Raw<'_>) -> bool {
        self.slots.get(index as usize).is_some_and(|slot| {
            index >= self.found_from
                && slot.entry.place == place
                && slot.first == raw.first
                && self.bytes[slot.bytes.0 as usize..slot.bytes.1 as usize] == *raw.bytes
        })
    }

    #[inline(never)]
    fn look_up(&mut self, place: Place, raw: Raw<'_>) -> Result<u32, Vacant> {
        let Place {
            tenant,
            metric,
            resource,
            scope,
        } = place;
        let hash = self
            .state
            .hash_one((tenant, metric, resource, scope, raw.first, raw.bytes));
        let found = self
            .table
            .find(hash, |(known, index)| *known == hash && self.is(*index, place, raw));
        match found {
            Some((_, index)) => {
                let index = *index;
                self.follow(index);
                Ok(index)
            }
            None => Err(Vacant(hash)),
        }
    }

    fn follow(&mut self, index: u32) {
        if let Some(previous) = self.slots.get_mut(self.previous as usize) {
            previous.next = index;
        }
        self.previous = index;
    }

    /// Adds what [`SeriesCache::find`] has not found.
    pub(super) fn insert(&mut self, vacant: Vacant, raw: Raw<'_>, entry: Entry) -> u32 {
        let index = self.slots.len() as u32;
        if self.bytes.len() > BYTES_MAX {
            self.bytes.clear();
            self.table.clear();
            self.found_from = index;
        }
        let from = self.bytes.len() as u32;
        self.bytes.extend_from_slice(raw.bytes);
        let to = u32::try_from(self.bytes.len()).expect("a request is far shorter than 4 GiB");
        self.slots.push(Slot {
            entry,
            hash: vacant.0,
            first: raw.first,
            bytes: (from, to),
            next: NONE,
        });
        self.table.insert_unique(vacant.0, (vacant.0, index), |(hash, _)| *hash);
        self.follow(index);
        index
    }

    /// Removes the entry added last.
    pub(super) fn pop(&mut self) {
        let Some(slot) = self.slots.pop() else { return };
        let index = self.slots.len() as u32;
        if let Ok(found) = self.table.find_entry(slot.hash, |(_, known)| *known == index) {
            found.remove();
        }
        self.bytes.truncate(slot.bytes.0 as usize);
        self.previous = NONE;
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.bytes.clear();
        self.table.clear();
        (self.previous, self.found_from) = (NONE, 0);
    }
}

/// Finds the attributes of a point, and whether it has examples, without looking into either.
#[derive(Debug)]
pub(super) struct Outline {
    first: u32,
    from: usize,
    to: usize,
    is_scattered: bool,
    pub(super) has_exemplars: bool,
}

impl Outline {
    pub(super) fn new() -> Outline {
        Outline {
            first: 0,
            from: 0,
            to: 0,
            is_scattered: false,
            has_exemplars: false,
        }
    }

    /// The attributes of `message`, in which they were found; `None` if they do not stand together.
    #[inline]
    pub(super) fn raw<'a>(&self, message: &'a [u8]) -> Option<Raw<'a>> {
        let base = message.as_ptr() as usize;
        let bytes = match self.from {
            0 => &[],
            _ => message.get(self.from - base..self.to - base)?,
        };
        (!self.is_scattered).then_some(Raw {
            first: self.first,
            bytes,
        })
    }
}

impl<'a> Parts<'a> for Outline {
    #[inline]
    fn attribute(&mut self, pair: &'a [u8]) -> Wire<()> {
        let from = pair.as_ptr() as usize;
        if self.from == 0 {
            (self.from, self.first) = (from, pair.len() as u32);
        } else {
            self.is_scattered |= from - self.to > GAP_MAX;
        }
        self.to = from + pair.len();
        Ok(())
    }

    fn event(&mut self, _: &'a [u8]) -> Wire<()> {
        self.has_exemplars = true;
        Ok(())
    }

    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}

/// Puts attributes that do not stand together one behind the other, for [`Raw::scattered`].
#[derive(Debug)]
pub(super) struct Together<'s>(pub(super) &'s mut Vec<u8>);

impl<'a> Parts<'a> for Together<'_> {
    fn attribute(&mut self, pair: &'a [u8]) -> Wire<()> {
        self.0.extend_from_slice(&(pair.len() as u64).to_le_bytes());
        self.0.extend_from_slice(pair);
        Ok(())
    }

    fn event(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }

    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}
