//! Identities: what names a record, a batch, a trace, a span and a shard.

use std::fmt;

/// Sequence number of a record in the intake log. Dense from 1, never used twice (P3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// Sequence number of a batch in the outbox. Dense from 1; 0 stands for "before the first" (P4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BatchSeq(pub u64);

/// W3C trace id: 16 bytes, valid when any of them is not zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TraceId(pub [u8; 16]);

/// W3C span id: 8 bytes, valid when any of them is not zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpanId(pub [u8; 8]);

/// Identity of a data directory, random, fixed for its life (P1). Names the collector in every Delta `txn`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId(pub [u8; 16]);

/// How many virtual shards a data directory has, for its life (P1).
pub const SHARDS: usize = 64;

/// Virtual shard of a trace or, for items without one, of a record. Always below [`SHARDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub u8);

impl TraceId {
    /// Parses 16 bytes; `None` for another length or all zero (both invalid by the proto text).
    pub fn parse(bytes: &[u8]) -> Option<TraceId> {
        let id: [u8; 16] = bytes.try_into().ok()?;
        (id != [0; 16]).then_some(TraceId(id))
    }
}

impl SpanId {
    /// Parses 8 bytes; `None` for another length or all zero.
    pub fn parse(bytes: &[u8]) -> Option<SpanId> {
        let id: [u8; 8] = bytes.try_into().ok()?;
        (id != [0; 8]).then_some(SpanId(id))
    }
}

impl Shard {
    /// Shard of a trace: a hash salted with the log id, never the bits of R, so that sampling and sharding are independent.
    pub fn of_trace(salt: LogId, trace: TraceId) -> Shard {
        let seed = u64::from_le_bytes(salt.0[..8].try_into().expect("a log id has 16 bytes"));
        Shard((xxhash_rust::xxh3::xxh3_64_with_seed(&trace.0, seed) % SHARDS as u64) as u8)
    }

    /// Shard of an item that belongs to no trace: its record's LSN modulo 64.
    pub fn of_record(lsn: Lsn) -> Shard {
        Shard((lsn.0 % SHARDS as u64) as u8)
    }
}

macro_rules! hex_text {
    ($($id:ty),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
hex_text!(TraceId, SpanId, LogId);
