//! The traces that wait: what is known of each, and where its spans lie.
//!
//! ```text
//!   ids: hash -> place         traces: one Trace each          chunks: 4 x {LSN, ordinal, bytes}, 4 keys and the next chunk
//! ```
//!
//! A span that comes again is counted and not added. Bounded by bytes that it counts itself; who fills it makes room. Nothing is allocated per
//! trace or span, but for a set of the spans of a trace that has many: places come from slabs.

use ahash::RandomState;
use hashbrown::HashTable;
use tailwater_model::ids::{Lsn, TraceId};

use crate::again::{FEW, Seen};
use crate::slab::Slab;
use crate::threshold::{Randomness, Threshold};
use crate::verdict::SpanAt;
use crate::wheel::Entry;

/// No chunk.
const NONE: u32 = u32::MAX;
const CHUNK_SPANS: usize = 4;

/// A waiting trace.
#[derive(Debug)]
pub(crate) struct Trace<M> {
    pub id: TraceId,
    pub mark: M,
    pub randomness: Randomness,
    /// The largest th_in of its spans: they all have come through it.
    pub before: Threshold,
    /// T of the evictions that it has outlived.
    pub admitted: Threshold,
    pub last_ns: u64,
    /// When it is due by its root or by its first span.
    pub due_ns: u64,
    /// Start of the first span to the end of the last, by their own clocks.
    pub start_ns: u64,
    pub end_ns: u64,
    pub head_start_ns: u64,
    pub print: u64,
    pub any: u64,
    pub root: u64,
    pub bytes: u64,
    pub cost: f64,
    pub spans: u32,
    /// Spans that came again, and their bytes.
    pub again: u32,
    pub again_bytes: u64,
    seen: Seen,
    pub tenant: u32,
    pub service: u32,
    /// Of the policies, the one that began with it.
    pub policy: u32,
    /// Number of its live entry in the wheel.
    pub timer: u32,
    pub seq: u32,
    first_chunk: u32,
    last_chunk: u32,
    pub head: HeadRank,
    pub error: bool,
    pub is_hashed: bool,
    /// R was said by a span, not taken from the id.
    pub is_said: bool,
    pub is_waiting: bool,
}

/// How sure it is that a span is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HeadRank {
    Any,
    /// Entered from elsewhere: a server, a consumer, or a parent that is remote.
    Entry,
    Root,
}

#[derive(Debug)]
struct Chunk {
    spans: [SpanAt; CHUNK_SPANS],
    keys: [u64; CHUNK_SPANS],
    next: u32,
}

#[derive(Debug, Clone, Copy)]
struct Id {
    hash: u64,
    place: u32,
}

#[derive(Debug)]
pub(crate) struct Table<M> {
    hasher: RandomState,
    ids: HashTable<Id>,
    traces: Slab<Trace<M>>,
    chunks: Slab<Chunk>,
    /// Of the sets of large traces.
    set_bytes: usize,
    seq: u32,
}

/// A new trace, by what its first span says; the rest is filled in by its spans.
pub(crate) struct Opening<M> {
    pub id: TraceId,
    pub mark: M,
    pub now_ns: u64,
    pub due_ns: u64,
    pub tenant: u32,
    pub policy: u32,
}

impl<M> Table<M> {
    pub fn new() -> Table<M> {
        Table {
            hasher: RandomState::new(),
            ids: HashTable::new(),
            traces: Slab::new(),
            chunks: Slab::new(),
            set_bytes: 0,
            seq: 0,
        }
    }

    /// Two tenants may use one id: those are two traces.
    pub fn hash(&self, tenant: u32, id: TraceId) -> u64 {
        // In two numbers: an array is hashed as its length and its bytes.
        self.hasher.hash_one((tenant, u128::from_ne_bytes(id.0)))
    }

    #[inline]
    pub fn find(&self, hash: u64, tenant: u32, id: TraceId) -> Option<u32> {
        let found = self.ids.find(hash, |known| {
            let trace = self.traces.get(known.place);
            known.hash == hash && (trace.tenant, trace.id) == (tenant, id)
        });
        found.map(|known| known.place)
    }

    pub fn open(&mut self, hash: u64, opening: Opening<M>) -> u32 {
        let Opening {
            id,
            mark,
            now_ns,
            due_ns,
            tenant,
            policy,
        } = opening;
        self.seq = self.seq.wrapping_add(1);
        let place = self.traces.put(Trace {
            id,
            mark,
            randomness: Randomness::of_trace(id),
            before: Threshold::ALWAYS,
            admitted: Threshold::ALWAYS,
            last_ns: now_ns,
            due_ns,
            start_ns: u64::MAX,
            end_ns: 0,
            head_start_ns: u64::MAX,
            print: 0,
            any: 0,
            root: 0,
            bytes: 0,
            cost: 0.0,
            spans: 0,
            again: 0,
            again_bytes: 0,
            seen: Seen::default(),
            tenant,
            service: 0,
            policy,
            timer: 0,
            seq: self.seq,
            first_chunk: NONE,
            last_chunk: NONE,
            head: HeadRank::Any,
            error: false,
            is_hashed: false,
            is_said: false,
            is_waiting: true,
        });
        self.ids.insert_unique(hash, Id { hash, place }, |known| known.hash);
        place
    }

    /// Adds a span to a trace, unless it is there: `key` tells it from the trace's others. Answers whether it was added.
    #[inline]
    pub fn push(&mut self, place: u32, at: SpanAt, key: u64) -> bool {
        if self.traces.get_mut(place).seen.note(key) && self.has(place, key) {
            let trace = self.traces.get_mut(place);
            trace.again += 1;
            trace.again_bytes += u64::from(at.len);
            return false;
        }
        let trace = self.traces.get_mut(place);
        let within = trace.spans as usize % CHUNK_SPANS;
        trace.spans += 1;
        if trace.spans > FEW {
            self.remember(place, key);
        }
        let trace = self.traces.get_mut(place);
        if within > 0 {
            let chunk = self.chunks.get_mut(trace.last_chunk);
            (chunk.spans[within], chunk.keys[within]) = (at, key);
            return true;
        }
        let none = SpanAt {
            lsn: Lsn(0),
            ordinal: 0,
            len: 0,
        };
        let chunk = self.chunks.put(Chunk {
            spans: [at, none, none, none],
            keys: [key, 0, 0, 0],
            next: NONE,
        });
        match trace.last_chunk {
            NONE => trace.first_chunk = chunk,
            last => self.chunks.get_mut(last).next = chunk,
        }
        trace.last_chunk = chunk;
        true
    }

    /// Whether a trace has the span of this key.
    fn has(&self, place: u32, key: u64) -> bool {
        let trace = self.traces.get(place);
        trace
            .seen
            .has(key)
            .unwrap_or_else(|| self.keys(trace).any(|known| known == key))
    }

    /// The keys of a trace's spans.
    fn keys<'a>(&'a self, trace: &Trace<M>) -> impl Iterator<Item = u64> + 'a {
        let (mut left, mut next) = (trace.spans as usize, trace.first_chunk);
        std::iter::from_fn(move || {
            let chunk = (next != NONE).then(|| self.chunks.get(next))?;
            let own = &chunk.keys[..left.min(CHUNK_SPANS)];
            (left, next) = (left.saturating_sub(CHUNK_SPANS), chunk.next);
            Some(own.iter().copied())
        })
        .flatten()
    }

    /// Puts the key of a new span into the set of a large trace; into a new one with all that it has.
    #[inline(never)]
    fn remember(&mut self, place: u32, key: u64) {
        let trace = self.traces.get(place);
        let mut keys = vec![key];
        if !trace.seen.is_set() {
            // The one that is being added is counted already, and not there yet.
            keys.extend(self.keys(trace).take(FEW as usize));
        }
        self.set_bytes += self.traces.get_mut(place).seen.add(&keys);
    }

    #[inline]
    pub fn get(&self, place: u32) -> &Trace<M> {
        self.traces.get(place)
    }

    #[inline]
    pub fn get_mut(&mut self, place: u32) -> &mut Trace<M> {
        self.traces.get_mut(place)
    }

    /// The record of a trace's first span.
    pub fn first_lsn(&self, place: u32) -> Lsn {
        match self.traces.get(place).first_chunk {
            NONE => Lsn(u64::MAX),
            chunk => self.chunks.get(chunk).spans[0].lsn,
        }
    }

    /// Whether it is this trace that waits at a place.
    #[inline]
    pub fn is_at(&self, place: u32, tenant: u32, id: TraceId) -> bool {
        place < self.traces.places() && {
            let trace = self.traces.get(place);
            trace.is_waiting && (trace.tenant, trace.id) == (tenant, id)
        }
    }

    /// The trace that an entry of the wheel was set for, if it still waits.
    pub fn owner(&self, entry: Entry) -> Option<&Trace<M>> {
        let trace = self.traces.get(entry.place);
        (trace.is_waiting && trace.seq == entry.seq).then_some(trace)
    }

    /// Takes a trace out; appends its spans, in the order of their arrival, if they are wanted.
    pub fn close(&mut self, place: u32, spans: Option<&mut Vec<SpanAt>>) {
        let trace = self.traces.get_mut(place);
        trace.is_waiting = false;
        self.set_bytes -= std::mem::take(&mut trace.seen).bytes();
        let (tenant, id) = (trace.tenant, trace.id);
        let (mut left, mut chunk) = (trace.spans as usize, trace.first_chunk);
        let mut spans = spans;
        while chunk != NONE {
            let Chunk { spans: own, next, .. } = self.chunks.get(chunk);
            let next = *next;
            if let Some(spans) = &mut spans {
                spans.extend_from_slice(&own[..left.min(CHUNK_SPANS)]);
            }
            left = left.saturating_sub(CHUNK_SPANS);
            self.chunks.free(chunk);
            chunk = next;
        }
        let hash = self.hash(tenant, id);
        if let Ok(found) = self.ids.find_entry(hash, |known| known.place == place) {
            found.remove();
        }
        self.traces.free(place);
    }

    /// Places of the traces that wait.
    pub fn waiting(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.traces.places()).filter(|place| self.traces.get(*place).is_waiting)
    }

    /// Gives back room for names that nobody has.
    pub fn shrink(&mut self) {
        if self.ids.len() * 4 < self.ids.capacity() {
            self.ids.shrink_to(self.ids.len() * 2, |known| known.hash);
        }
    }

    /// Traces that wait.
    pub fn len(&self) -> usize {
        self.traces.len()
    }

    /// Memory of a trace that waits, bytes.
    pub fn bytes_of(&self, trace: &Trace<M>) -> usize {
        let chunks = (trace.spans as usize).div_ceil(CHUNK_SPANS);
        size_of::<Trace<M>>() + chunks * size_of::<Chunk>() + trace.seen.bytes()
    }

    /// Memory of what waits, bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.traces.len() * size_of::<Trace<M>>()
            + self.chunks.len() * size_of::<Chunk>()
            + self.ids.capacity() * (size_of::<Id>() + 1)
            + self.set_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(lsn: u64) -> SpanAt {
        SpanAt {
            lsn: Lsn(lsn),
            ordinal: lsn as u32,
            len: 9,
        }
    }

    proptest! {
        #[test]
        fn every_span_comes_back_once_and_in_order(
            steps in prop::collection::vec((0u8..6, prop::bool::weighted(0.02), 0u64..100), 1..1000),
        ) {
            let mut table = Table::new();
            let empty = table.bytes();
            let mut expected: Vec<Vec<SpanAt>> = vec![Vec::new(); 6];
            let mut keys: Vec<Vec<u64>> = vec![Vec::new(); 6];
            let mut again = [0; 6];
            for (lsn, (trace, close, key)) in steps.into_iter().enumerate() {
                // Every second trace has the id of the one before, and another tenant.
                let (tenant, id) = (u32::from(trace % 2), TraceId([trace / 2 + 1; 16]));
                let hash = table.hash(tenant, id);
                let place = table.find(hash, tenant, id);
                let of = usize::from(trace);
                if close {
                    let mut spans = Vec::new();
                    if let Some(place) = place {
                        prop_assert_eq!(table.get(place).again, again[of]);
                        prop_assert_eq!(table.get(place).again_bytes, 9 * u64::from(again[of]));
                        table.close(place, Some(&mut spans));
                    }
                    prop_assert_eq!(&spans, &expected[of]);
                    expected[of].clear();
                    keys[of].clear();
                    again[of] = 0;
                } else {
                    let opening = Opening { id, mark: (), now_ns: 1, due_ns: 2, tenant, policy: 0 };
                    let place = place.unwrap_or_else(|| table.open(hash, opening));
                    // Few different bits, so that keys are told apart by more than them.
                    let key = ((key % 7) << 32) | (key / 7);
                    let is_new = table.push(place, at(lsn as u64), key);
                    prop_assert!(table.is_at(place, tenant, id) && !table.is_at(place, tenant + 1, id));
                    prop_assert_eq!(is_new, !keys[of].contains(&key));
                    if is_new {
                        keys[of].push(key);
                        expected[of].push(at(lsn as u64));
                    } else {
                        again[of] += 1;
                    }
                }
                prop_assert_eq!(table.len(), expected.iter().filter(|spans| !spans.is_empty()).count());
                prop_assert_eq!(table.waiting().count(), table.len());
            }
            for place in table.waiting().collect::<Vec<_>>() {
                table.close(place, None);
            }
            prop_assert_eq!(table.set_bytes, 0);
            prop_assert!(table.bytes() < empty + 1000);
        }
    }
}
