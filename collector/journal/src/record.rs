//! The head of an intake record (P2): what the collector must know of a request beside its payload.
//!
//! ```text
//! version u8 = 1 | flags u8 | signal u8 | arrival u64 LE, unix ns | tenant len+UTF-8 | items varint | wire bytes varint
//! flags bit 0: digest, 16 bytes LE follow
//! flags bit 1: rejected items follow: runs varint, then per run {reason u8, gap varint, length varint}
//! flags bit 2: duplicate (the record has no payload)
//! ```
//!
//! Guarantees: rejected items are stored by ordinal, so replay rejects exactly the same ones even if limits changed since;
//! decoding untrusted bytes returns an error and never panics; memory grows with the bytes given, not with what they claim.
//! Assumes: length, CRC, log id, LSN and the durable LSN are the log's own header. Leaves out: the payload.

use tailwater_model::signal::Signal;

use crate::dedup::Answer;
use crate::error::Error;
use crate::reasons::ReasonCode;
use crate::wire::{Reader, put_bytes, put_varint};

const WHAT: &str = "intake record head";
const VERSION: u8 = 1;
const HAS_DIGEST: u8 = 1;
const HAS_REJECTED: u8 = 2;
const DUPLICATE: u8 = 4;

/// Head of an intake record. Borrows the tenant from the request, or from the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head<'a> {
    /// When the request arrived, unix ns. Replay's clock.
    pub arrival_ns: u64,
    /// Whose data.
    pub tenant: &'a str,
    /// Which signal.
    pub signal: Signal,
    /// Items in the request, rejected ones included.
    pub items: u64,
    /// Protobuf bytes of the payload as it was counted, also when the record carries none.
    pub wire_bytes: u64,
    /// Digest of tenant, signal and bytes; none when deduplication is off.
    pub digest: Option<u128>,
    /// A repeat of a request inside the window: only the ledger sees it.
    pub duplicate: bool,
    /// Items refused one by one.
    pub rejected: Rejected,
}

/// Ordinals of the rejected items of a request with their reasons, ascending, as runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rejected {
    runs: Vec<Run>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u32,
    count: u32,
    reason: ReasonCode,
}

impl Rejected {
    /// Appends an item.
    ///
    /// # Panics
    /// When ordinals do not ascend: the walker that rejects goes through the items in order.
    pub fn push(&mut self, ordinal: u32, reason: ReasonCode) {
        if let Some(run) = self.runs.last_mut() {
            let next = u64::from(run.first) + u64::from(run.count);
            assert!(u64::from(ordinal) >= next, "rejected ordinals ascend");
            if run.reason == reason && u64::from(ordinal) == next {
                run.count += 1;
                return;
            }
        }
        self.runs.push(Run {
            first: ordinal,
            count: 1,
            reason,
        });
    }

    /// How many items.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// Whether no item was rejected.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The items, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, ReasonCode)> + '_ {
        self.runs
            .iter()
            .flat_map(|run| (0..run.count).map(|index| (run.first + index, run.reason)))
    }

    /// What the sender was told: counts by reason, in order of first sight.
    pub fn answer(&self) -> Answer {
        let mut answer = Answer::default();
        for run in &self.runs {
            answer.add(run.reason, u64::from(run.count));
        }
        answer
    }
}

impl FromIterator<(u32, ReasonCode)> for Rejected {
    fn from_iter<I: IntoIterator<Item = (u32, ReasonCode)>>(items: I) -> Rejected {
        let mut rejected = Rejected::default();
        items
            .into_iter()
            .for_each(|(ordinal, reason)| rejected.push(ordinal, reason));
        rejected
    }
}

impl<'a> Head<'a> {
    /// Appends the encoded head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.push(VERSION);
        out.push(
            flag(self.digest.is_some(), HAS_DIGEST)
                | flag(!self.rejected.is_empty(), HAS_REJECTED)
                | flag(self.duplicate, DUPLICATE),
        );
        out.push(self.signal as u8);
        out.extend_from_slice(&self.arrival_ns.to_le_bytes());
        put_bytes(out, self.tenant.as_bytes());
        put_varint(out, self.items);
        put_varint(out, self.wire_bytes);
        if let Some(digest) = self.digest {
            out.extend_from_slice(&digest.to_le_bytes());
        }
        if !self.rejected.is_empty() {
            put_varint(out, self.rejected.runs.len() as u64);
            let mut next = 0;
            for run in &self.rejected.runs {
                out.push(run.reason.0);
                put_varint(out, u64::from(run.first) - next);
                put_varint(out, u64::from(run.count));
                next = u64::from(run.first) + u64::from(run.count);
            }
        }
    }

    /// Decodes a head that [`Head::encode`] wrote.
    ///
    /// # Errors
    /// Any [`Error`] of malformed bytes; [`Error::Version`] for a newer format.
    pub fn decode(bytes: &'a [u8]) -> Result<Head<'a>, Error> {
        let mut reader = Reader::new(WHAT, bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(Error::Version {
                what: WHAT,
                version: version.into(),
                known: VERSION.into(),
            });
        }
        let flags = reader.u8()?;
        if flags & !(HAS_DIGEST | HAS_REJECTED | DUPLICATE) != 0 {
            return Err(reader.malformed("unknown flag"));
        }
        let signal = Signal::from_code(reader.u8()?).ok_or_else(|| reader.malformed("unknown signal"))?;
        let arrival_ns = reader.u64_le()?;
        let tenant = reader.text()?;
        let items = reader.varint()?;
        let wire_bytes = reader.varint()?;
        let digest = if flags & HAS_DIGEST != 0 {
            Some(u128::from_le_bytes(reader.array()?))
        } else {
            None
        };
        let rejected = if flags & HAS_REJECTED != 0 {
            decode_rejected(&mut reader, items)?
        } else {
            Rejected::default()
        };
        reader.end()?;
        Ok(Head {
            arrival_ns,
            tenant,
            signal,
            items,
            wire_bytes,
            digest,
            duplicate: flags & DUPLICATE != 0,
            rejected,
        })
    }
}

fn decode_rejected(reader: &mut Reader<'_>, items: u64) -> Result<Rejected, Error> {
    let count = reader.count(3)?;
    let mut runs = Vec::with_capacity(count);
    let mut next = 0u64;
    for _ in 0..count {
        let reason = ReasonCode(reader.u8()?);
        let first = next
            .checked_add(reader.varint()?)
            .ok_or_else(|| reader.malformed("rejected ordinal overflows"))?;
        let length = reader.varint()?;
        next = first
            .checked_add(length)
            .ok_or_else(|| reader.malformed("rejected ordinal overflows"))?;
        if length == 0 || next > items || next > u64::from(u32::MAX) {
            return Err(reader.malformed("rejected ordinal outside the request"));
        }
        runs.push(Run {
            first: first as u32,
            count: length as u32,
            reason,
        });
    }
    Ok(Rejected { runs })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn head(rejected: Rejected) -> Head<'static> {
        Head {
            arrival_ns: 1_700_000_000_123_456_789,
            tenant: "default",
            signal: Signal::Traces,
            items: 512,
            wire_bytes: 225_280,
            digest: Some(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
            duplicate: false,
            rejected,
        }
    }

    fn encoded(head: &Head<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        head.encode(&mut out);
        out
    }

    #[test]
    fn a_clean_head_is_small() {
        assert_eq!(encoded(&head(Rejected::default())).len(), 40);
    }

    #[test]
    fn a_wholly_rejected_request_is_one_run() {
        let rejected: Rejected = (0..512).map(|ordinal| (ordinal, ReasonCode(7))).collect();
        let whole = head(rejected);
        let bytes = encoded(&whole);
        assert_eq!(bytes.len(), 45);
        let back = Head::decode(&bytes).unwrap();
        assert_eq!(back.rejected.count(), 512);
        assert_eq!(back.rejected.answer().rejected(), 512);
        assert_eq!(back, whole);
    }

    #[test]
    fn frozen_bytes_of_version_1() {
        let head = Head {
            arrival_ns: 0x0102_0304_0506_0708,
            tenant: "t",
            signal: Signal::Logs,
            items: 300,
            wire_bytes: 5,
            digest: Some(1),
            duplicate: true,
            rejected: [(2, ReasonCode(9)), (3, ReasonCode(9)), (299, ReasonCode(1))]
                .into_iter()
                .collect(),
        };
        let frozen = [
            1, 7, 3, 8, 7, 6, 5, 4, 3, 2, 1, 1, b't', 0xac, 2, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 9,
            2, 2, 1, 0xa7, 2, 1,
        ];
        assert_eq!(encoded(&head), frozen);
        assert_eq!(Head::decode(&frozen).unwrap(), head);
    }

    #[test]
    fn ordinals_outside_the_request_are_errors() {
        let mut small = head([(511, ReasonCode(1))].into_iter().collect());
        small.items = 511;
        assert!(matches!(Head::decode(&encoded(&small)), Err(Error::Malformed { .. })));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = encoded(&head(Rejected::default()));
        bytes[0] = 2;
        assert_eq!(
            Head::decode(&bytes),
            Err(Error::Version {
                what: WHAT,
                version: 2,
                known: 1
            })
        );
    }

    fn rejected() -> impl Strategy<Value = Rejected> {
        prop::collection::btree_map(0u32..100_000, 0u8..4, 0..60).prop_map(|items| {
            items
                .into_iter()
                .map(|(ordinal, reason)| (ordinal, ReasonCode(reason)))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn heads_come_back(arrival_ns: u64, tenant in "\\PC{0,20}", extra in 0u64..1 << 40, wire_bytes: u64, digest: Option<u128>,
                           duplicate: bool, rejected in rejected(), signal in prop::sample::select(&Signal::ALL[..])) {
            let items = 100_000 + extra;
            let head = Head { arrival_ns, tenant: &tenant, signal, items, wire_bytes, digest, duplicate, rejected };
            let bytes = encoded(&head);
            prop_assert_eq!(&Head::decode(&bytes).unwrap(), &head);
            for cut in 0..bytes.len() {
                prop_assert!(Head::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn decoding_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..80), valid: bool) {
            if valid && bytes.len() > 2 {
                bytes[0] = 1;
                bytes[1] &= 7;
                bytes[2] = bytes[2] % 3 + 1;
            }
            if let Ok(head) = Head::decode(&bytes) {
                head.rejected.count();
                head.rejected.iter().take(1000).for_each(drop);
            }
        }
    }
}
