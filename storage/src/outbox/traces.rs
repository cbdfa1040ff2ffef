//! Which traces a frame may hold: a Bloom filter of 10 bits a trace, so that a trace looked up by id skips frames.

use xxhash_rust::xxh3::xxh3_128;

/// Bits a trace. With [`PROBES`] probes about 1 in 120 foreign traces is taken for one inside.
const BITS_PER_TRACE: usize = 10;
const PROBES: u32 = 7;

/// A Bloom filter over trace ids. Says "no" only when that is certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceFilter {
    bits: Vec<u8>,
}

impl TraceFilter {
    /// A filter over distinct ids; repeated ones only waste room.
    pub fn of<'a>(ids: impl ExactSizeIterator<Item = &'a [u8]>) -> TraceFilter {
        let bytes = (ids.len() * BITS_PER_TRACE).div_ceil(8);
        let mut filter = TraceFilter { bits: vec![0; bytes] };
        for id in ids {
            for bit in places(id, bytes) {
                filter.bits[bit / 8] |= 1 << (bit % 8);
            }
        }
        filter
    }

    /// Whether the trace may be inside.
    pub fn may_contain(&self, trace_id: &[u8]) -> bool {
        !self.bits.is_empty() && places(trace_id, self.bits.len()).all(|bit| self.bits[bit / 8] & (1 << (bit % 8)) != 0)
    }

    pub(super) fn from_bytes(bits: &[u8]) -> TraceFilter {
        TraceFilter { bits: bits.to_vec() }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bits
    }
}

/// The probed bits: two halves of one hash, combined (Kirsch and Mitzenmacher).
fn places(id: &[u8], bytes: usize) -> impl Iterator<Item = usize> {
    let hash = xxh3_128(id);
    let (first, second) = (hash as u64, (hash >> 64) as u64 | 1);
    let bits = (bytes * 8) as u64;
    (0..PROBES).map(move |probe| (first.wrapping_add(second.wrapping_mul(u64::from(probe))) % bits) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_false_no_and_few_false_yes() {
        let id = |n: u64| xxh3_128(&n.to_le_bytes()).to_le_bytes();
        let inside: Vec<_> = (0..4000).map(id).collect();
        let filter = TraceFilter::of(inside.iter().map(|id| id.as_slice()));
        assert!(inside.iter().all(|id| filter.may_contain(id)));
        let wrong = (4000..24_000).filter(|n| filter.may_contain(&id(*n))).count();
        assert!(wrong < 400, "{wrong} of 20000 is more than twice the expected 0.8 %");
        assert!(
            !TraceFilter::of([].into_iter()).may_contain(&id(1)),
            "a filter without traces holds none"
        );
    }
}
