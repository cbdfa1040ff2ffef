//! What became of decided traces, for spans that come late.
//!
//! ```text
//!   slice of time (a quarter of the memory's length)
//!     kept     trace id -> T, reason, epoch      exact, ~40 bytes
//!     dropped  64 bits of a hash of the id       ~10 bytes; 100k traces/s for a minute are 60 MB
//! ```
//!
//! Kept is asked first. A trace that is new is taken for a dropped one with probability n / 2^64, n the fingerprints remembered: with 10^8 of
//! them 5e-12, which biases no count that can be measured. The oldest slice goes when its time is over, or early when there are too many.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ahash::RandomState;
use tailwater_model::ids::TraceId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::state::{Malformed, Reader, put_bytes, put_u32, put_u64};
use crate::threshold::Threshold;
use crate::verdict::Decision;

/// Slices that a memory is cut into: it remembers for between 3/4 and all of its length.
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

#[derive(Debug, Default)]
struct Slice {
    number: u64,
    kept: HashMap<TraceId, Kept, RandomState>,
    dropped: HashSet<u64, RandomState>,
}

#[derive(Debug)]
pub(crate) struct LateMemory {
    memory: Memory,
    /// Youngest last.
    slices: VecDeque<Slice>,
    /// Reason, epoch, whether R is a hash, whether it was said by a span.
    causes: Vec<(Arc<str>, u64, bool, bool)>,
}

impl LateMemory {
    pub fn new(memory: Memory) -> LateMemory {
        LateMemory {
            memory,
            slices: VecDeque::new(),
            causes: Vec::new(),
        }
    }

    pub fn find(&self, trace: TraceId) -> Option<Late> {
        let kept = self.slices.iter().rev().find_map(|slice| slice.kept.get(&trace));
        if let Some(kept) = kept {
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
        let print = print(trace);
        let is_dropped = self.slices.iter().any(|slice| slice.dropped.contains(&print));
        is_dropped.then_some(Late::Dropped)
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
        if let Some(slice) = self.slice(now_ns) {
            slice.kept.insert(trace, Kept { threshold, cause });
        }
    }

    pub fn drop(&mut self, now_ns: u64, trace: TraceId) {
        if let Some(slice) = self.slice(now_ns) {
            slice.dropped.insert(print(trace));
        }
    }

    /// The slice of now; none if nothing is to be remembered.
    fn slice(&mut self, now_ns: u64) -> Option<&mut Slice> {
        let Memory {
            age_ns,
            kept_max,
            dropped_max,
        } = self.memory;
        if kept_max == 0 || dropped_max == 0 {
            return None;
        }
        let number = now_ns / (age_ns / SLICES).max(1);
        let number = self.slices.back().map_or(number, |slice| slice.number.max(number));
        if self.slices.back().is_none_or(|slice| slice.number < number) {
            self.slices.push_back(Slice {
                number,
                ..Slice::default()
            });
        }
        let count = |slices: &VecDeque<Slice>| {
            let sum = |len: fn(&Slice) -> usize| slices.iter().map(len).sum::<usize>();
            (sum(|slice| slice.kept.len()), sum(|slice| slice.dropped.len()))
        };
        loop {
            let (kept, dropped) = count(&self.slices);
            let is_full = kept >= kept_max || dropped >= dropped_max;
            let is_old = self.slices.front().is_some_and(|slice| slice.number + SLICES <= number);
            match self.slices.len() {
                2.. if is_old || is_full => drop(self.slices.pop_front()),
                // One slice alone is too many: it starts again.
                1 if is_full => {
                    self.slices[0].kept.clear();
                    self.slices[0].dropped.clear();
                }
                _ => break,
            }
        }
        self.slices.back_mut()
    }

    pub fn clear(&mut self) {
        self.slices.clear();
    }

    pub fn len(&self) -> (usize, usize) {
        let sum = |len: fn(&Slice) -> usize| self.slices.iter().map(len).sum::<usize>();
        (sum(|slice| slice.kept.len()), sum(|slice| slice.dropped.len()))
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.causes.len() as u32);
        for (reason, epoch, is_hashed, is_said) in &self.causes {
            put_bytes(out, reason.as_bytes());
            put_u64(out, *epoch);
            out.push(u8::from(*is_hashed) | u8::from(*is_said) << 1);
        }
        put_u32(out, self.slices.len() as u32);
        for slice in &self.slices {
            put_u64(out, slice.number);
            put_u32(out, slice.kept.len() as u32);
            for (trace, kept) in &slice.kept {
                out.extend_from_slice(&trace.0);
                put_u64(out, kept.threshold.bits());
                put_u32(out, kept.cause);
            }
            put_u32(out, slice.dropped.len() as u32);
            slice.dropped.iter().for_each(|print| put_u64(out, *print));
        }
    }

    pub fn decode(&self, reader: &mut Reader<'_>) -> Result<LateMemory, Malformed> {
        let mut causes = Vec::new();
        for _ in 0..reader.u32()? {
            let (reason, epoch, flags) = (Arc::from(reader.text()?), reader.u64()?, reader.u8()?);
            causes.push((reason, epoch, flags & 1 != 0, flags & 2 != 0));
        }
        let mut slices: VecDeque<Slice> = VecDeque::new();
        for _ in 0..reader.u32()? {
            let mut slice = Slice {
                number: reader.u64()?,
                ..Slice::default()
            };
            for _ in 0..reader.u32()? {
                let trace = TraceId(reader.array()?);
                let threshold = Threshold::from_bits(reader.u64()?).ok_or(Malformed)?;
                let cause = reader.u32()?;
                if cause as usize >= causes.len() {
                    return Err(Malformed);
                }
                slice.kept.insert(trace, Kept { threshold, cause });
            }
            for _ in 0..reader.u32()? {
                slice.dropped.insert(reader.u64()?);
            }
            if slices.back().is_some_and(|before| before.number >= slice.number) {
                return Err(Malformed);
            }
            slices.push_back(slice);
        }
        Ok(LateMemory {
            memory: self.memory,
            slices,
            causes,
        })
    }
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
        memory.drop(520, id(5));
        assert_eq!((memory.find(id(1)), memory.find(id(2))), (None, None));
        assert_eq!(memory.find(id(4)), Some(Late::Dropped));
    }

    #[test]
    fn it_is_bounded() {
        let mut memory = LateMemory::new(Memory {
            age_ns: 1000,
            kept_max: 10,
            dropped_max: 20,
        });
        for n in 0..1000 {
            memory.keep(n, id(n), &decision(0.5));
            memory.drop(n, id(10_000 + n));
            let (kept, dropped) = memory.len();
            assert!(kept <= 10 && dropped <= 20, "{kept} {dropped}");
        }
        let mut none = LateMemory::new(Memory {
            kept_max: 0,
            ..Memory::default()
        });
        none.drop(1, id(1));
        assert_eq!(none.find(id(1)), None);
    }

    #[test]
    fn it_comes_back_from_its_bytes() {
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
        let mut bytes = Vec::new();
        memory.encode(&mut bytes);
        let again = LateMemory::new(Memory::default())
            .decode(&mut Reader::new(&bytes))
            .unwrap();
        for n in 1..6 {
            assert_eq!(again.find(id(n)), memory.find(id(n)), "{n}");
        }
        for len in 0..bytes.len() {
            assert!(
                LateMemory::new(Memory::default())
                    .decode(&mut Reader::new(&bytes[..len]))
                    .is_err(),
                "{len}"
            );
        }
    }
}
