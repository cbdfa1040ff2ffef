//! Spans that come again while their trace waits: a client that was not answered sends them once more, often beside others than the first time.
//!
//! The same span is what has the same span id, kind, start and end. The id alone is no key: the halves of a call in Zipkin's manner share one.
//! 64 bits of a hash stand for the four, so of a trace of n spans one is taken for another with a probability of n^2 / 2^65: 3e-12 for 10,000.
//! Leaves out: what comes again after the decision. It is stored again, as late.

use hashbrown::HashTable;
use tailwater_model::otlp::item::SpanHead;

/// What tells a span from the others of its trace.
#[inline]
pub(crate) fn key(head: &SpanHead<'_>) -> u64 {
    let mut id = [0; 8];
    let sent = &head.span_id[..head.span_id.len().min(8)];
    id[..sent.len()].copy_from_slice(sent);
    // wyhash's step, twice: on every span, a call of a hash of bytes costs more than all the rest of this.
    let mix = |left: u64, right: u64| {
        let product = u128::from(left) * u128::from(right);
        product as u64 ^ (product >> 64) as u64
    };
    let timed = mix(
        u64::from_le_bytes(id) ^ 0xa076_1d64_78bd_642f,
        head.start ^ 0xe703_7ed1_a0b4_28db,
    );
    mix(timed ^ head.end, u64::from(head.kind as u32) ^ 0x8ebc_6af0_9c88_c6e3)
}

/// So many spans are compared one by one, where the bits leave it open; of a trace with more, all keys stand in a set.
pub(crate) const FEW: u32 = 64;

/// Which spans a trace has, beside the keys that stand with them.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// A bit for every key. A key whose bit is not set is new, as nearly all are.
    bits: [u64; 4],
    all: Option<Box<HashTable<u64>>>,
}

impl Seen {
    /// Notes the bit of a key; answers whether the key may be there.
    #[inline]
    pub fn note(&mut self, key: u64) -> bool {
        let (word, bit) = (&mut self.bits[(key >> 62) as usize], 1 << (key & 63));
        let may_be = *word & bit != 0;
        *word |= bit;
        may_be
    }

    /// Whether a key is in the set; `None` if there is no set yet.
    pub fn has(&self, key: u64) -> Option<bool> {
        let all = self.all.as_ref()?;
        Some(all.find(key, |known| *known == key).is_some())
    }

    /// Puts keys that are new into the set. Answers by how many bytes it has grown.
    pub fn add(&mut self, keys: &[u64]) -> usize {
        let before = self.bytes();
        let all = self.all.get_or_insert_default();
        all.reserve(keys.len(), |key| *key);
        for key in keys {
            all.insert_unique(*key, *key, |key| *key);
        }
        self.bytes() - before
    }

    /// Whether all keys are in a set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.all.is_some()
    }

    /// Memory of the set.
    pub fn bytes(&self) -> usize {
        self.all
            .as_ref()
            .map_or(0, |all| size_of_val(&**all) + all.allocation_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_what_has_the_same_id_kind_and_times() {
        let head = SpanHead {
            span_id: &[1, 2, 3, 4, 5, 6, 7, 8],
            kind: 2,
            start: 5,
            end: 9,
            name: b"a",
            ..SpanHead::default()
        };
        assert_eq!(key(&head), key(&SpanHead { name: b"b", ..head }));
        let others = [
            SpanHead { kind: 3, ..head },
            SpanHead { start: 6, ..head },
            SpanHead { end: 8, ..head },
            SpanHead {
                span_id: &[1, 2, 3, 4, 5, 6, 7, 9],
                ..head
            },
            SpanHead { span_id: &[], ..head },
        ];
        for other in others {
            assert_ne!(key(&head), key(&other), "{other:?}");
        }
    }
}
