//! What became of decided traces, for spans that come late.
//!
//! ```text
//!   kept     trace id -> T, reason, epoch      exact, ~40 bytes
//!   dropped  64 bits of a hash of the id       ~10 bytes; 100k traces/s for a minute are 60 MB
//!            each in slices of time: a quarter of the memory's length, or of its number where that comes first
//! ```
//!
//! Kept is asked first. A trace that is new is taken for a dropped one with probability n / 2^64, n the fingerprints remembered: with 10^8 of
//! them 5e-12, which biases no count that can be measured. The oldest slice goes when its time is over, or early when there are too many of its
//! kind; it is known until when something was forgotten.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use ahash::RandomState;
use tailwater_model::ids::TraceId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::state::{Malformed, Reader, put_bytes, put_u32, put_u64};
use crate::threshold::Threshold;
use crate::verdict::Decision;

/// Slices that a memory is cut into: it remembers for between 3/4 and all of its length, and as much of its number.
const SLICES: u64 = 4;
const SEED: u64 = 0x6c61_7465;

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// For how long, ns of the arrival clock.
    pub age_ns: u64,
    /// How many kept traces.
    pub kept_max: usize,
    /// How many dropped traces.
    pub dropped_max: usize,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            age_ns: 300_000_000_000,
            kept_max: 1 << 20,
            dropped_max: 8 << 20,
        }
    }
}

/// What is known of a trace that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Late {
    /// It was kept; a late span is stored with the same threshold.
    Kept(Decision),
    /// It was not.
    Dropped,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    threshold: Threshold,
    /// Into `causes`.
    cause: u32,
}

#[derive(Debug)]
struct Slice<K, V> {
    /// When its first came, and its last.
    first_ns: u64,
    last_ns: u64,
    known: HashMap<K, V, RandomState>,
}

/// Traces of one kind.
#[derive(Debug)]
struct Slices<K, V> {
    age_ns: u64,
    max: usize,
    /// Youngest last.
    slices: VecDeque<Slice<K, V>>,
    /// In all slices.
    len: usize,
    /// When the youngest that was forgotten had come; 0 before the first.
    forgotten_ns: u64,
    /// How many were forgotten before their time.
    crowded_out: u64,
}

impl<K: Eq + Hash, V> Slices<K, V> {
    fn new(age_ns: u64, max: usize) -> Slices<K, V> {
        Slices {
            age_ns,
            max,
            slices: VecDeque::new(),
            len: 0,
            forgotten_ns: 0,
            crowded_out: 0,
        }
    }

    fn find(&self, key: &K) -> Option<&V> {
        self.slices.iter().rev().find_map(|slice| slice.known.get(key))
    }

    fn insert(&mut self, now_ns: u64, key: K, value: V) {
        if self.max == 0 {
            self.forgotten_ns = self.forgotten_ns.max(now_ns);
            return;
        }
        while self.len >= self.max {
            self.crowded_out += self.forget_oldest();
        }
        let share = (self.max / SLICES as usize).max(1);
        let slice_ns = (self.age_ns / SLICES).max(1);
        let (is_open, like) = self.slices.back().map_or((false, 0), |slice| {
            let is_young = now_ns.saturating_sub(slice.first_ns) < slice_ns;
            (is_young && slice.known.len() < share, slice.known.len())
        });
        if !is_open {
            self.slices.push_back(Slice {
                first_ns: now_ns,
                last_ns: now_ns,
                // Room as for the one before, so that nothing is moved while it fills.
                known: HashMap::with_capacity_and_hasher(like, RandomState::new()),
            });
        }
        if let Some(slice) = self.slices.back_mut() {
            slice.last_ns = slice.last_ns.max(now_ns);
            self.len += usize::from(slice.known.insert(key, value).is_none());
        }
    }

    /// When the youngest came.
    fn last_ns(&self) -> u64 {
        self.slices.back().map_or(0, |slice| slice.last_ns)
    }

    /// Forgets what is too old.
    fn expire(&mut self, now_ns: u64) {
        let age_ns = self.age_ns;
        let is_old = |slice: &Slice<K, V>| now_ns.saturating_sub(slice.first_ns) >= age_ns;
        while self.slices.front().is_some_and(is_old) {
            self.forget_oldest();
        }
    }

    /// Answers how many they were.
    fn forget_oldest(&mut self) -> u64 {
        let Some(slice) = self.slices.pop_front() else { return 0 };
        self.len -= slice.known.len();
        self.forgotten_ns = self.forgotten_ns.max(slice.last_ns);
        slice.known.len() as u64
    }

    /// All but what `skip` says.
    fn encode(&self, out: &mut Vec<u8>, skip: impl Fn(&K) -> bool, put: impl Fn(&mut Vec<u8>, &K, &V)) {
        put_u32(out, self.slices.len() as u32);
        for slice in &self.slices {
            put_u64(out, slice.first_ns);
            put_u64(out, slice.last_ns);
            let known = || slice.known.iter().filter(|(key, _)| !skip(*key));
            put_u32(out, known().count() as u32);
            known().for_each(|(key, value)| put(out, key, value));
        }
    }

    fn decode(
        &mut self,
        reader: &mut Reader<'_>,
        mut get: impl FnMut(&mut Reader<'_>) -> Result<(K, V), Malformed>,
    ) -> Result<(), Malformed> {
        for _ in 0..reader.u32()? {
            let (first_ns, last_ns) = (reader.u64()?, reader.u64()?);
            let mut known = HashMap::default();
            for _ in 0..reader.u32()? {
                let (key, value) = get(reader)?;
                known.insert(key, value);
            }
            if first_ns < self.last_ns() || last_ns < first_ns {
                return Err(Malformed);
            }
            self.len += known.len();
            self.slices.push_back(Slice {
                first_ns,
                last_ns,
                known,
            });
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct LateMemory {
    memory: Memory,
    kept: Slices<TraceId, Kept>,
    /// By [`print`].
    dropped: Slices<u64, ()>,
    /// Reason, epoch, whether R is a hash, whether it was said by a span.
    causes: Vec<(Arc<str>, u64, bool, bool)>,
    now_ns: u64,
}

impl LateMemory {
    pub fn new(memory: Memory) -> LateMemory {
        LateMemory {
            memory,
            kept: Slices::new(memory.age_ns, memory.kept_max),
            dropped: Slices::new(memory.age_ns, memory.dropped_max),
            causes: Vec::new(),
            now_ns: 0,
        }
    }

    pub fn find(&self, trace: TraceId) -> Option<Late> {
        if let Some(kept) = self.kept.find(&trace) {
            let (reason, epoch, is_hashed, is_said) = &self.causes[kept.cause as usize];
            return Some(Late::Kept(Decision {
                threshold: kept.threshold,
                reason: reason.clone(),
                epoch: *epoch,
                is_hashed: *is_hashed,
                is_dropped: false,
                by_said: is_said.then_some(true),
            }));
        }
        self.dropped.find(&print(trace)).map(|()| Late::Dropped)
    }

    pub fn keep(&mut self, now_ns: u64, trace: TraceId, decision: &Decision) {
        let (epoch, is_hashed, is_said) = (decision.epoch, decision.is_hashed, decision.by_said.is_some());
        let cause = self.causes.iter().rposition(|(reason, of, hashed, said)| {
            (reason, *of, *hashed, *said) == (&decision.reason, epoch, is_hashed, is_said)
        });
        let cause = cause.unwrap_or_else(|| {
            self.causes.push((decision.reason.clone(), epoch, is_hashed, is_said));
            self.causes.len() - 1
        }) as u32;
        let threshold = decision.threshold;
        let now_ns = self.go_on(now_ns);
        self.kept.insert(now_ns, trace, Kept { threshold, cause });
    }

    pub fn drop(&mut self, now_ns: u64, trace: TraceId) {
        let now_ns = self.go_on(now_ns);
        self.dropped.insert(now_ns, print(trace), ());
    }

    /// The time, which does not go back; what is too old by now is gone.
    fn go_on(&mut self, now_ns: u64) -> u64 {
        self.now_ns = self.now_ns.max(now_ns);
        self.kept.expire(self.now_ns);
        self.dropped.expire(self.now_ns);
        self.now_ns
    }

    pub fn clear(&mut self) {
        self.kept = Slices::new(self.memory.age_ns, self.memory.kept_max);
        self.dropped = Slices::new(self.memory.age_ns, self.memory.dropped_max);
    }

    pub fn len(&self) -> (usize, usize) {
        (self.kept.len, self.dropped.len)
    }

    /// When the youngest that is not remembered any more was decided, ns; 0 before the first.
    pub fn forgotten_ns(&self) -> u64 {
        self.kept.forgotten_ns.max(self.dropped.forgotten_ns)
    }

    /// How many were forgotten before their time.
    pub fn crowded_out(&self) -> u64 {
        self.kept.crowded_out + self.dropped.crowded_out
    }

    /// All but what became of these traces.
    pub fn encode(&self, out: &mut Vec<u8>, except: &[TraceId]) {
        put_u32(out, self.causes.len() as u32);
        for (reason, epoch, is_hashed, is_said) in &self.causes {
            put_bytes(out, reason.as_bytes());
            put_u64(out, *epoch);
            out.push(u8::from(*is_hashed) | u8::from(*is_said) << 1);
        }
        let traces: HashSet<&TraceId, RandomState> = except.iter().collect();
        let prints: HashSet<u64, RandomState> = except.iter().map(|trace| print(*trace)).collect();
        self.kept.encode(
            out,
            |trace| traces.contains(trace),
            |out, trace, kept| {
                out.extend_from_slice(&trace.0);
                put_u64(out, kept.threshold.bits());
                put_u32(out, kept.cause);
            },
        );
        self.dropped.encode(
            out,
            |print| prints.contains(print),
            |out, print, ()| put_u64(out, *print),
        );
    }

    /// The memory of these bytes, with the bounds of this one.
    pub fn decode(&self, reader: &mut Reader<'_>) -> Result<LateMemory, Malformed> {
        let mut memory = LateMemory::new(self.memory);
        for _ in 0..reader.u32()? {
            let (reason, epoch, flags) = (Arc::from(reader.text()?), reader.u64()?, reader.u8()?);
            memory.causes.push((reason, epoch, flags & 1 != 0, flags & 2 != 0));
        }
        let causes = memory.causes.len();
        memory.kept.decode(reader, |reader| read_kept(reader, causes))?;
        memory.dropped.decode(reader, |reader| Ok((reader.u64()?, ())))?;
        memory.now_ns = memory.kept.last_ns().max(memory.dropped.last_ns());
        Ok(memory)
    }

    /// The memory of bytes of version 1, whose slices had a number and were of both kinds.
    pub fn decode_first(&self, reader: &mut Reader<'_>) -> Result<LateMemory, Malformed> {
        let mut memory = LateMemory::new(self.memory);
        for _ in 0..reader.u32()? {
            let (reason, epoch, flags) = (Arc::from(reader.text()?), reader.u64()?, reader.u8()?);
            memory.causes.push((reason, epoch, flags & 1 != 0, flags & 2 != 0));
        }
        for _ in 0..reader.u32()? {
            let first_ns = reader.u64()?.saturating_mul((self.memory.age_ns / SLICES).max(1));
            for _ in 0..reader.u32()? {
                let (trace, kept) = read_kept(reader, memory.causes.len())?;
                memory.kept.insert(first_ns, trace, kept);
            }
            for _ in 0..reader.u32()? {
                memory.dropped.insert(first_ns, reader.u64()?, ());
            }
        }
        memory.now_ns = memory.kept.last_ns().max(memory.dropped.last_ns());
        Ok(memory)
    }
}

fn read_kept(reader: &mut Reader<'_>, causes: usize) -> Result<(TraceId, Kept), Malformed> {
    let trace = TraceId(reader.array()?);
    let threshold = Threshold::from_bits(reader.u64()?).ok_or(Malformed)?;
    let cause = reader.u32()?;
    if cause as usize >= causes {
        return Err(Malformed);
    }
    Ok((trace, Kept { threshold, cause }))
}

fn print(trace: TraceId) -> u64 {
    xxh3_64_with_seed(&trace.0, SEED)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(n: u64) -> TraceId {
        let mut id = [7; 16];
        id[8..].copy_from_slice(&n.to_be_bytes());
        TraceId(id)
    }

    fn decision(p: f64) -> Decision {
        Decision {
            threshold: Threshold::of_probability(p),
            reason: "rest".into(),
            epoch: 3,
            is_hashed: false,
            is_dropped: false,
            by_said: None,
        }
    }

    #[test]
    fn what_became_of_a_trace_is_remembered_for_its_time() {
        let mut memory = LateMemory::new(Memory {
            age_ns: 400,
            ..Memory::default()
        });
        memory.keep(100, id(1), &decision(0.5));
        memory.drop(100, id(2));
        assert_eq!(memory.find(id(1)), Some(Late::Kept(decision(0.5))));
        assert_eq!(memory.find(id(2)), Some(Late::Dropped));
        assert_eq!(memory.find(id(3)), None);
        memory.drop(420, id(4));
        assert!(memory.find(id(1)).is_some());
        assert_eq!(memory.forgotten_ns(), 0);
        memory.drop(520, id(5));
        assert_eq!((memory.find(id(1)), memory.find(id(2))), (None, None));
        assert_eq!(memory.find(id(4)), Some(Late::Dropped));
        assert_eq!((memory.forgotten_ns(), memory.crowded_out()), (100, 0));
    }

    #[test]
    fn it_is_bounded() {
        let bounds = Memory {
            age_ns: 1000,
            kept_max: 10,
            dropped_max: 20,
        };
        let mut memory = LateMemory::new(bounds);
        for n in 0..1000 {
            memory.keep(n, id(n), &decision(0.5));
            memory.drop(n, id(10_000 + n));
            let (kept, dropped) = memory.len();
            assert!(kept <= 10 && dropped <= 20, "{kept} {dropped}");
            // Three quarters of what there is room for, or all that there was.
            assert!(n < 7 || kept >= 7 && n < 15 || dropped >= 15, "{kept} {dropped}");
        }
        let mut none = LateMemory::new(Memory {
            dropped_max: 0,
            ..bounds
        });
        none.drop(1, id(1));
        none.keep(2, id(2), &decision(0.5));
        assert_eq!(none.find(id(1)), None);
        assert_eq!(none.find(id(2)), Some(Late::Kept(decision(0.5))));
        assert_eq!(none.forgotten_ns(), 1);
    }

    /// More than there is room for in a quarter of the time costs the oldest of that kind, and none of the other.
    #[test]
    fn many_dropped_traces_take_no_kept_one_with_them() {
        let mut memory = LateMemory::new(Memory {
            age_ns: 1_000_000,
            kept_max: 40,
            dropped_max: 100,
        });
        for n in 0..30 {
            memory.keep(n, id(n), &decision(0.5));
        }
        for n in 0..1000 {
            memory.drop(100 + n, id(10_000 + n));
            assert_eq!(memory.find(id(10_000 + n)), Some(Late::Dropped));
        }
        let kept = (0..30).filter(|n| memory.find(id(*n)).is_some()).count();
        let known = (0..1000).filter(|n| memory.find(id(10_000 + n)).is_some());
        assert_eq!((kept, known.count()), (30, 100));
        // 25 to a slice: of those at 100 to 999 the last forgotten came at 999.
        assert_eq!((memory.forgotten_ns(), memory.crowded_out()), (999, 900));
    }

    fn some() -> LateMemory {
        let mut memory = LateMemory::new(Memory::default());
        memory.keep(1, id(1), &decision(0.5));
        memory.keep(
            90_000_000_000,
            id(2),
            &Decision {
                is_hashed: true,
                ..decision(0.1)
            },
        );
        let by_said = Some(true);
        memory.keep(
            90_000_000_000,
            id(4),
            &Decision {
                by_said,
                ..decision(0.1)
            },
        );
        memory.drop(90_000_000_000, id(3));
        memory.drop(90_000_000_001, id(6));
        memory
    }

    #[test]
    fn it_comes_back_from_its_bytes() {
        let memory = some();
        let mut bytes = Vec::new();
        memory.encode(&mut bytes, &[]);
        let again = LateMemory::new(Memory::default())
            .decode(&mut Reader::new(&bytes))
            .unwrap();
        for n in 1..7 {
            assert_eq!(again.find(id(n)), memory.find(id(n)), "{n}");
        }
        assert_eq!(again.len(), memory.len());
        for len in 0..bytes.len() {
            assert!(
                LateMemory::new(Memory::default())
                    .decode(&mut Reader::new(&bytes[..len]))
                    .is_err(),
                "{len}"
            );
        }
    }

    #[test]
    fn what_is_left_out_does_not_come_back() {
        let mut bytes = Vec::new();
        some().encode(&mut bytes, &[id(2), id(3), id(9)]);
        let again = LateMemory::new(Memory::default())
            .decode(&mut Reader::new(&bytes))
            .unwrap();
        let known: Vec<u64> = (1..7).filter(|n| again.find(id(*n)).is_some()).collect();
        assert_eq!((known, again.len()), (vec![1, 4, 6], (2, 1)));
    }

    #[test]
    fn bytes_of_version_1_are_read() {
        let mut bytes = Vec::new();
        put_u32(&mut bytes, 1);
        put_bytes(&mut bytes, b"rest");
        put_u64(&mut bytes, 3);
        bytes.push(0);
        put_u32(&mut bytes, 2);
        for number in [4, 5] {
            put_u64(&mut bytes, number);
            put_u32(&mut bytes, 1);
            bytes.extend_from_slice(&id(number).0);
            put_u64(&mut bytes, decision(0.5).threshold.bits());
            put_u32(&mut bytes, 0);
            put_u32(&mut bytes, 1);
            put_u64(&mut bytes, print(id(10 + number)));
        }
        let mut reader = Reader::new(&bytes);
        let memory = LateMemory::new(Memory::default()).decode_first(&mut reader).unwrap();
        reader.end().unwrap();
        for number in [4, 5] {
            assert_eq!(memory.find(id(number)), Some(Late::Kept(decision(0.5))));
            assert_eq!(memory.find(id(10 + number)), Some(Late::Dropped));
        }
    }
}
