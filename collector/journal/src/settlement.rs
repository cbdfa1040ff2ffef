//! The settlement of an outbox batch (P4 a, b): how far each shard is, and what was decided about which trace.
//!
//! ```text
//! version u8 = 1 | at u64 LE, unix ns | tables varint, bit = table code | base varint
//! then entries, each with a varint tag:
//!   0 END
//!   1 SHARD   shard u8 | A - base zigzag | A + 1 - low varint | A - through varint
//!   2 POLICY  epoch varint | reason len+UTF-8            (the n-th of these is policy n, from 0)
//!   3+n TRACE trace id, 16 bytes | T, bits reversed, varint      (of the last SHARD, by policy n)
//! then the ledger deltas: count, {tenant, signal u8, account u8, reason, items, bytes}
//! ```
//!
//! A trace kept whole costs 18 bytes, one with a 4-digit threshold 20; a moved shard about 5.
//! Guarantees: decoding untrusted bytes returns an error and never panics. Writing allocates nothing per trace. Leaves out: row frames and
//! CRC, which are the outbox's.

use tailwater_model::ids::{Lsn, TraceId};
use tailwater_model::ledger::{Amount, Key};
use tailwater_model::table::Table;

use crate::error::Error;
use crate::ledger::{decode_entries, encode_entries};
use crate::reasons::Reasons;
use crate::wire::{Reader, put_bytes, put_delta, put_threshold, put_varint};

const WHAT: &str = "batch settlement";
const VERSION: u8 = 1;
const END: u64 = 0;
const SHARD: u64 = 1;
const POLICY: u64 = 2;
const TRACE: u64 = 3;

/// A set of tables: those in which a batch has a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableSet(u64);

impl TableSet {
    /// No table.
    pub const EMPTY: TableSet = TableSet(0);

    /// The set with `table` in it.
    #[must_use]
    pub fn with(self, table: Table) -> TableSet {
        TableSet(self.0 | 1 << table as u8)
    }

    /// Whether `table` is in the set.
    pub fn contains(self, table: Table) -> bool {
        self.0 & 1 << table as u8 != 0
    }

    /// The tables in the set.
    pub fn iter(self) -> impl Iterator<Item = Table> {
        Table::COLLECTED.into_iter().filter(move |table| self.contains(*table))
    }
}

impl FromIterator<Table> for TableSet {
    fn from_iter<I: IntoIterator<Item = Table>>(tables: I) -> TableSet {
        tables.into_iter().fold(TableSet::EMPTY, TableSet::with)
    }
}

/// Where a shard stands at the end of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardMark {
    /// Which shard.
    pub shard: u8,
    /// A: RED, ledger, logs, metrics and late spans are complete through here. Never moves back.
    pub complete: Lsn,
    /// The first LSN still needed: of the oldest pending trace, else one past `through`. Never moves back.
    pub low: Lsn,
    /// How far the shard's rows had been walked: the `through` of every trace touched. It equals `complete`, except while a
    /// replay walks records that were counted before the crash; a decision made then says nothing of the spans it has not
    /// seen again.
    pub through: Lsn,
}

/// A decision in stored form: which threshold, by which policy entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    /// The trace: decided in this batch, or one that late spans met.
    pub trace: TraceId,
    /// Its shard; `through` is that shard's.
    pub shard: u8,
    /// T, 56 bits. A span is stored iff R >= T.
    pub threshold: u64,
    /// Index into [`Settlement::policies`].
    pub policy: u32,
}

/// Why a decision was taken and under which version of the policies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Policy {
    /// Stratum or cause, as it stands in `sample_reason`.
    pub reason: std::sync::Arc<str>,
    /// Version of the policies.
    pub epoch: u64,
}

/// A decoded settlement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settlement {
    /// Arrival clock when the batch was cut, unix ns.
    pub at_ns: u64,
    /// Tables in which the batch has a frame.
    pub tables: TableSet,
    /// Shards that moved.
    pub shards: Vec<ShardMark>,
    /// What the touches refer to.
    pub policies: Vec<Policy>,
    /// Traces decided or met late.
    pub touches: Vec<Touch>,
    /// Additive ledger entries, keys distinct.
    pub ledger: Vec<(Key, Amount)>,
}

/// Writes a settlement front to back.
#[derive(Debug)]
pub struct Writer {
    out: Vec<u8>,
    base: u64,
    /// Policy ids of the caller, in the order of their POLICY entries.
    policies: Vec<u32>,
}

impl Writer {
    /// Starts a settlement. `base` is any LSN near the shards' A, for small differences.
    pub fn new(at_ns: u64, tables: TableSet, base: Lsn) -> Writer {
        let mut out = Vec::with_capacity(1024);
        out.push(VERSION);
        out.extend_from_slice(&at_ns.to_le_bytes());
        put_varint(&mut out, tables.0);
        put_varint(&mut out, base.0);
        Writer {
            out,
            base: base.0,
            policies: Vec::new(),
        }
    }

    /// A shard; the traces that follow are of it. Shards ascend.
    ///
    /// # Panics
    /// When `low` or `through` lies beyond A.
    pub fn shard(&mut self, mark: ShardMark) {
        assert!(
            mark.low.0 <= mark.complete.0 + 1 && mark.through <= mark.complete,
            "low and through lie within A: {mark:?}"
        );
        put_varint(&mut self.out, SHARD);
        self.out.push(mark.shard);
        put_delta(&mut self.out, self.base, mark.complete.0);
        put_varint(&mut self.out, mark.complete.0 + 1 - mark.low.0);
        put_varint(&mut self.out, mark.complete.0 - mark.through.0);
    }

    /// A trace of the last shard. `id` is the caller's number for `policy`, which is written on first use.
    pub fn trace(&mut self, trace: TraceId, threshold: u64, id: u32, policy: impl FnOnce() -> Policy) {
        // A handful of policies decide a batch: a scan is shorter than a hash.
        let index = self.policies.iter().position(|known| *known == id).unwrap_or_else(|| {
            let policy = policy();
            put_varint(&mut self.out, POLICY);
            put_varint(&mut self.out, policy.epoch);
            put_bytes(&mut self.out, policy.reason.as_bytes());
            self.policies.push(id);
            self.policies.len() - 1
        });
        put_varint(&mut self.out, TRACE + index as u64);
        self.out.extend_from_slice(&trace.0);
        put_threshold(&mut self.out, threshold);
    }

    /// Ends the settlement with the batch's ledger deltas.
    pub fn finish(mut self, ledger: &[(Key, Amount)]) -> Vec<u8> {
        put_varint(&mut self.out, END);
        encode_entries(&mut self.out, ledger);
        self.out
    }
}

impl Settlement {
    /// Decodes what a [`Writer`] wrote.
    ///
    /// # Errors
    /// Any [`Error`] of malformed bytes; [`Error::Version`] or [`Error::UnknownReason`] for those of a newer program.
    pub fn decode(bytes: &[u8], reasons: &Reasons) -> Result<Settlement, Error> {
        let mut reader = Reader::new(WHAT, bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(Error::Version {
                what: WHAT,
                version: version.into(),
                known: VERSION.into(),
            });
        }
        let mut settlement = Settlement {
            at_ns: reader.u64_le()?,
            ..Settlement::default()
        };
        let tables = reader.varint()?;
        settlement.tables = (0..64)
            .filter(|bit| tables >> bit & 1 == 1)
            .filter_map(Table::from_code)
            .collect();
        if settlement.tables.0 != tables {
            return Err(reader.malformed("unknown table"));
        }
        let base = reader.varint()?;
        loop {
            match reader.varint()? {
                END => break,
                SHARD => {
                    let mark = decode_shard(&mut reader, base)?;
                    if settlement.shards.last().is_some_and(|last| last.shard >= mark.shard) {
                        return Err(reader.malformed("shards do not ascend"));
                    }
                    settlement.shards.push(mark);
                }
                POLICY => {
                    let epoch = reader.varint()?;
                    settlement.policies.push(Policy {
                        reason: reader.text()?.into(),
                        epoch,
                    });
                }
                tag => {
                    let shard = settlement
                        .shards
                        .last()
                        .ok_or_else(|| reader.malformed("trace before its shard"))?
                        .shard;
                    let known = tag - TRACE < settlement.policies.len() as u64;
                    let policy = known
                        .then_some((tag - TRACE) as u32)
                        .ok_or_else(|| reader.malformed("unknown policy"))?;
                    let trace = TraceId(reader.array()?);
                    settlement.touches.push(Touch {
                        trace,
                        shard,
                        threshold: reader.threshold()?,
                        policy,
                    });
                }
            }
        }
        settlement.ledger = decode_entries(&mut reader, reasons)?;
        reader.end()?;
        Ok(settlement)
    }
}

fn decode_shard(reader: &mut Reader<'_>, base: u64) -> Result<ShardMark, Error> {
    let shard = reader.u8()?;
    let complete = reader.delta(base)?;
    let next = complete
        .checked_add(1)
        .ok_or_else(|| reader.malformed("LSN out of range"))?;
    let low = next
        .checked_sub(reader.varint()?)
        .ok_or_else(|| reader.malformed("low out of range"))?;
    let through = complete
        .checked_sub(reader.varint()?)
        .ok_or_else(|| reader.malformed("through out of range"))?;
    Ok(ShardMark {
        shard,
        complete: Lsn(complete),
        low: Lsn(low),
        through: Lsn(through),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use tailwater_model::ledger::Account;
    use tailwater_model::signal::Signal;

    fn policy(reason: &str, epoch: u64) -> Policy {
        Policy {
            reason: reason.into(),
            epoch,
        }
    }

    fn trace(number: u32) -> TraceId {
        let mut id = [0xab; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        TraceId(id)
    }

    fn reasons() -> Reasons {
        Reasons::new(["bad_id"])
    }

    /// A settlement of 64 shards with `traces` traces each.
    fn wide(traces: u32) -> Vec<u8> {
        let mut writer = Writer::new(
            1_700_000_000_000_000_000,
            [Table::Spans, Table::Ledger].into_iter().collect(),
            Lsn(5_000_000),
        );
        for shard in 0..64 {
            writer.shard(ShardMark {
                shard,
                complete: Lsn(5_000_000),
                low: Lsn(4_999_000),
                through: Lsn(5_000_000),
            });
            for number in 0..traces {
                let (threshold, id) = if number % 4 == 0 {
                    (0, 9)
                } else {
                    (0x00fd_7000_0000_0000, 4)
                };
                writer.trace(trace(number), threshold, id, || {
                    policy(if id == 9 { "error" } else { "rest" }, 3)
                });
            }
        }
        let key = Key {
            tenant: "default".into(),
            signal: Signal::Traces,
            account: Account::Rejected,
            reason: "bad_id",
        };
        writer.finish(&[(key, Amount { items: 3, bytes: 0 })])
    }

    #[test]
    fn a_trace_costs_about_twenty_bytes() {
        let per_trace = (wide(101).len() - wide(1).len()) as f64 / 6400.0;
        assert!((18.0..=20.0).contains(&per_trace), "{per_trace}");
        let per_shard = wide(0).len() as f64 / 64.0;
        assert!(per_shard < 8.0, "{per_shard}");
    }

    #[test]
    fn what_was_written_comes_back() {
        let settlement = Settlement::decode(&wide(3), &reasons()).unwrap();
        assert_eq!(settlement.at_ns, 1_700_000_000_000_000_000);
        assert_eq!(
            settlement.tables.iter().collect::<Vec<_>>(),
            [Table::Spans, Table::Ledger]
        );
        assert_eq!(settlement.shards.len(), 64);
        assert_eq!(settlement.policies, [policy("error", 3), policy("rest", 3)]);
        assert_eq!(settlement.touches.len(), 192);
        assert_eq!(
            settlement.touches[1],
            Touch {
                trace: trace(1),
                shard: 0,
                threshold: 0x00fd_7000_0000_0000,
                policy: 1
            }
        );
        assert_eq!(settlement.touches[191].shard, 63);
        assert_eq!(settlement.ledger[0].0.reason, "bad_id");
    }

    #[test]
    fn an_unknown_ledger_reason_is_refused() {
        let error = Settlement::decode(&wide(0), &Reasons::default()).unwrap_err();
        assert_eq!(
            error,
            Error::UnknownReason {
                reason: "bad_id".into()
            }
        );
    }

    #[test]
    fn frozen_bytes_of_version_1() {
        let mut writer = Writer::new(0x0102, TableSet::EMPTY.with(Table::Spans), Lsn(300));
        writer.shard(ShardMark {
            shard: 5,
            complete: Lsn(299),
            low: Lsn(290),
            through: Lsn(298),
        });
        writer.trace(TraceId([7; 16]), 1 << 55, 42, || policy("all", 1));
        let frozen = [
            &[
                1, 2, 1, 0, 0, 0, 0, 0, 0, 2, 0xac, 2, 1, 5, 1, 10, 1, 2, 1, 3, b'a', b'l', b'l', 3,
            ][..],
            &[7; 16],
            &[1, 0, 0],
        ]
        .concat();
        assert_eq!(writer.finish(&[]), frozen);
        let settlement = Settlement::decode(&frozen, &Reasons::default()).unwrap();
        assert_eq!(
            settlement.shards,
            [ShardMark {
                shard: 5,
                complete: Lsn(299),
                low: Lsn(290),
                through: Lsn(298)
            }]
        );
        assert_eq!(settlement.touches[0].threshold, 1 << 55);
    }

    proptest! {
        #[test]
        fn decoding_mutated_bytes_never_panics(at in 0usize..1500, byte: u8, cut in 0usize..1500) {
            let mut bytes = wide(1);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len().min(bytes.len() * 2 - cut.min(bytes.len())));
            let _ = Settlement::decode(&bytes, &reasons());
            let _ = Settlement::decode(&bytes[..cut % bytes.len()], &reasons());
        }

        #[test]
        fn decoding_noise_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = Settlement::decode(&bytes, &reasons());
        }
    }
}
