//! The checkpoint (P7): what must outlive the segments of both logs.
//!
//! ```text
//! "TWCK" | version varint = 1 | log id, 16 bytes | B varint | largest LSN varint
//! then sections: id varint (0 ends) | flags u8, bit 0: required | length varint | bytes
//! then CRC-32C of everything before, u32 LE
//!   1 marks      shards: count, {A delta of the last, A + 1 - low, forgotten ns}; tables: count, {code u8, v}
//!   2 decisions  policies: count, {epoch, reason}; per shard: count, {trace id, T, policy, through delta, touched delta}
//!   3 digests    count, {digest 16 bytes LE, arrival delta, answer}
//!   4 ledger     count, {tenant, signal u8, account u8, reason, items, bytes}
//!   64.. other   opaque: RED guard keys, controller state
//! ```
//!
//! Guarantees: decoding untrusted bytes returns an error and never panics; a section that this version does not know is kept if it is optional
//! and refused if it is required. Assumes: the caller writes it aside, fsyncs, renames, fsyncs the directory, and does so only
//! once batch B is durable in the outbox: a checkpoint ahead of the outbox would settle what no batch holds.
//! Leaves out: all of that I/O.

use tailwater_model::ids::{BatchSeq, LogId, Lsn, TraceId};
use tailwater_model::ledger::{Amount, Key};
use tailwater_model::table::Table;

use crate::dedup::{Answer, Register};
use crate::error::Error;
use crate::journal::Journal;
use crate::ledger::{decode_entries, encode_entries};
use crate::reasons::Reasons;
use crate::settlement::Policy;
use crate::wire::{Reader, put_bytes, put_delta, put_threshold, put_varint};

const WHAT: &str = "checkpoint";
const MAGIC: [u8; 4] = *b"TWCK";
const VERSION: u64 = 1;
const END: u64 = 0;
const MARKS: u64 = 1;
const DECISIONS: u64 = 2;
const DIGESTS: u64 = 3;
const LEDGER: u64 = 4;
const REQUIRED: u8 = 1;

/// The smallest id of a section that is opaque to the journal.
pub const SECTION_MIN: u64 = 64;

/// A part of the checkpoint that the journal only carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// At least [`SECTION_MIN`]; stable for ever.
    pub id: u64,
    /// A program that does not know the id must refuse the checkpoint instead of ignoring the section.
    pub required: bool,
    /// The owner's bytes.
    pub bytes: Vec<u8>,
}

/// What trimming needs to know of a durable checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// B: the last batch that the checkpoint contains.
    pub batch: BatchSeq,
    /// The smallest low of its shards.
    pub low: Lsn,
}

/// Watermarks of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardMarks {
    /// A.
    pub complete: Lsn,
    /// The first LSN still needed.
    pub low: Lsn,
    /// Arrival clock of the youngest decision forgotten so far.
    pub forgotten_ns: u64,
}

/// A remembered decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedTrace {
    /// Which trace.
    pub trace: TraceId,
    /// T, 56 bits.
    pub threshold: u64,
    /// Index into [`Checkpoint::policies`].
    pub policy: u32,
    /// Its spans at or below are settled.
    pub through: Lsn,
    /// Arrival clock of the batch that touched it last.
    pub touched_ns: u64,
}

/// A digest whose record is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedDigest {
    /// The digest.
    pub digest: u128,
    /// Arrival of the first copy, unix ns.
    pub arrival_ns: u64,
    /// What the first copy was told.
    pub answer: Answer,
}

/// A decoded checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of which data directory.
    pub log_id: LogId,
    /// B.
    pub batch: BatchSeq,
    /// The largest LSN known to be durable when it was written; no later record may have one at or below it (P3).
    pub lsn_high: Lsn,
    /// By shard.
    pub shards: Vec<ShardMarks>,
    /// v of each table.
    pub versions: Vec<(Table, BatchSeq)>,
    /// What the decisions refer to.
    pub policies: Vec<Policy>,
    /// By shard, oldest first.
    pub decisions: Vec<Vec<RememberedTrace>>,
    /// Oldest first: hand them to [`Register::restore`] before the digests of the log's records.
    pub digests: Vec<FinishedDigest>,
    /// Totals through B.
    pub ledger: Vec<(Key, Amount)>,
    /// Opaque sections, in stored order, unknown optional ones included: write those back that you do not replace.
    pub sections: Vec<Section>,
}

/// A checkpoint being written: the journal's part is there, digests are still coming.
#[derive(Debug)]
pub struct Draft {
    out: Vec<u8>,
    mark: Mark,
    digests: Vec<u8>,
    count: u64,
    arrival_ns: u64,
    /// Tokens still to come; known from the first piece on.
    tokens: Option<std::ops::Range<u64>>,
}

impl Draft {
    /// What the checkpoint will contain.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Adds finished digests, at most `count_max`; true when all are in. The register may change between two pieces: every record
    /// that the draft lets go was done before the draft was begun, and what comes later is in the log still.
    pub fn digests(&mut self, register: &Register, count_max: usize) -> bool {
        let tokens = self.tokens.get_or_insert(0..register.next_token());
        let finished = register.finished_from(tokens.start).enumerate();
        for (taken, (token, digest, arrival_ns, answer)) in finished {
            if token >= tokens.end {
                break;
            }
            if taken == count_max {
                return false;
            }
            self.digests.extend_from_slice(&digest.to_le_bytes());
            put_delta(&mut self.digests, self.arrival_ns, arrival_ns);
            answer.encode(&mut self.digests);
            self.arrival_ns = arrival_ns;
            self.count += 1;
            tokens.start = token + 1;
        }
        true
    }

    /// Adds the opaque sections and the trailer.
    ///
    /// # Panics
    /// When a section's id is below [`SECTION_MIN`].
    pub fn finish(self, sections: &[Section]) -> (Vec<u8>, Mark) {
        let mut out = self.out;
        put_section(&mut out, DIGESTS, true, |out| {
            put_varint(out, self.count);
            out.extend_from_slice(&self.digests);
        });
        for section in sections {
            assert!(
                section.id >= SECTION_MIN,
                "section id {} belongs to the journal",
                section.id
            );
            put_section(&mut out, section.id, section.required, |out| {
                out.extend_from_slice(&section.bytes)
            });
        }
        put_varint(&mut out, END);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        (out, self.mark)
    }
}

/// Encodes the journal's settled state.
pub(crate) fn draft(journal: &Journal, lsn_high: Lsn) -> Draft {
    let mut out = Vec::with_capacity(4096 + 28 * journal.remembered());
    out.extend_from_slice(&MAGIC);
    put_varint(&mut out, VERSION);
    out.extend_from_slice(&journal.log_id().0);
    put_varint(&mut out, journal.batch().0);
    put_varint(&mut out, lsn_high.max(journal.lsn_floor()).0);
    put_section(&mut out, MARKS, true, |out| encode_marks(out, journal));
    put_section(&mut out, DECISIONS, true, |out| encode_decisions(out, journal));
    put_section(&mut out, LEDGER, true, |out| {
        let totals = journal.ledger().totals();
        let mut totals: Vec<_> = totals.map(|(key, amount)| (key.clone(), *amount)).collect();
        totals.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        encode_entries(out, &totals);
    });
    let mark = Mark {
        batch: journal.batch(),
        low: journal.replay_from(),
    };
    Draft {
        out,
        mark,
        digests: Vec::new(),
        count: 0,
        arrival_ns: 0,
        tokens: None,
    }
}

fn put_section(out: &mut Vec<u8>, id: u64, required: bool, write: impl FnOnce(&mut Vec<u8>)) {
    put_varint(out, id);
    out.push(if required { REQUIRED } else { 0 });
    // The length comes before bytes whose number is not known yet: a varint padded to five bytes has room for 32 GiB.
    let at = out.len();
    out.extend_from_slice(&[0; 5]);
    write(out);
    let len = out.len() - at - 5;
    assert!(len < 1 << 35, "checkpoint section {id} has {len} bytes");
    for (index, byte) in out[at..at + 5].iter_mut().enumerate() {
        *byte = (len >> (7 * index)) as u8 & 0x7f | if index < 4 { 0x80 } else { 0 };
    }
}

fn encode_marks(out: &mut Vec<u8>, journal: &Journal) {
    put_varint(out, journal.shards().len() as u64);
    let mut last = 0;
    for shard in journal.shards() {
        put_delta(out, last, shard.complete.0);
        put_varint(out, shard.complete.0 + 1 - shard.low.0);
        put_varint(out, shard.forgotten_ns);
        last = shard.complete.0;
    }
    put_varint(out, Table::COLLECTED.len() as u64);
    for (table, version) in journal.tables().versions() {
        out.push(table as u8);
        put_varint(out, version.0);
    }
}

fn encode_decisions(out: &mut Vec<u8>, journal: &Journal) {
    put_varint(out, journal.policies().len() as u64);
    for policy in journal.policies() {
        put_varint(out, policy.epoch);
        put_bytes(out, policy.reason.as_bytes());
    }
    for shard in journal.shards() {
        put_varint(out, shard.all_remembered().len() as u64);
        let (mut through, mut touched_ns) = (0, 0);
        for entry in shard.all_remembered() {
            out.extend_from_slice(&entry.trace.0);
            put_threshold(out, entry.decision.threshold);
            put_varint(out, entry.decision.policy.0.into());
            put_delta(out, through, entry.through.0);
            put_delta(out, touched_ns, entry.touched_ns);
            (through, touched_ns) = (entry.through.0, entry.touched_ns);
        }
    }
}

/// A sequence number: below 2^63, so that counting on from it cannot overflow.
fn sequence(reader: &mut Reader<'_>) -> Result<u64, Error> {
    let number = reader.varint()?;
    if number >> 63 == 0 {
        Ok(number)
    } else {
        Err(reader.malformed("sequence number out of range"))
    }
}

impl Checkpoint {
    /// Decodes a whole checkpoint file.
    ///
    /// # Errors
    /// [`Error::Checksum`] for a torn or damaged file; [`Error::Version`], [`Error::UnknownSection`] or [`Error::UnknownReason`] for
    /// one of a newer program; the others for malformed bytes.
    pub fn decode(bytes: &[u8], reasons: &Reasons) -> Result<Checkpoint, Error> {
        let (bytes, crc) = bytes.split_last_chunk::<4>().ok_or(Error::Truncated { what: WHAT })?;
        if crc32c::crc32c(bytes) != u32::from_le_bytes(*crc) {
            return Err(Error::Checksum { what: WHAT });
        }
        Checkpoint::decode_checked(bytes, reasons)
    }

    /// Decodes bytes whose checksum was right.
    fn decode_checked(bytes: &[u8], reasons: &Reasons) -> Result<Checkpoint, Error> {
        let mut reader = Reader::new(WHAT, bytes);
        if reader.array::<4>()? != MAGIC {
            return Err(reader.malformed("not a checkpoint"));
        }
        let version = reader.varint()?;
        if version != VERSION {
            return Err(Error::Version {
                what: WHAT,
                version,
                known: VERSION,
            });
        }
        let mut checkpoint = Checkpoint {
            log_id: LogId(reader.array()?),
            batch: BatchSeq(sequence(&mut reader)?),
            lsn_high: Lsn(sequence(&mut reader)?),
            shards: Vec::new(),
            versions: Vec::new(),
            policies: Vec::new(),
            decisions: Vec::new(),
            digests: Vec::new(),
            ledger: Vec::new(),
            sections: Vec::new(),
        };
        loop {
            let id = reader.varint()?;
            if id == END {
                break;
            }
            let required = reader.u8()? & REQUIRED != 0;
            let bytes = reader.bytes()?;
            let mut section = Reader::new(WHAT, bytes);
            match id {
                MARKS => checkpoint.decode_marks(&mut section)?,
                DECISIONS => checkpoint.decode_decisions(&mut section)?,
                DIGESTS => checkpoint.decode_digests(&mut section)?,
                LEDGER => checkpoint.ledger = decode_entries(&mut section, reasons)?,
                SECTION_MIN.. => {
                    checkpoint.sections.push(Section {
                        id,
                        required,
                        bytes: bytes.to_vec(),
                    });
                    continue;
                }
                _ if required => return Err(Error::UnknownSection { id }),
                _ => continue,
            }
            section.end()?;
        }
        if checkpoint.shards.is_empty() || checkpoint.decisions.len() != checkpoint.shards.len() {
            return Err(reader.malformed("marks or decisions missing"));
        }
        reader.end()?;
        Ok(checkpoint)
    }

    /// Takes the opaque section `id` out.
    pub fn take_section(&mut self, id: u64) -> Option<Section> {
        let index = self.sections.iter().position(|section| section.id == id)?;
        Some(self.sections.remove(index))
    }

    /// Refuses a required section whose id is not in `known`; optional ones pass.
    ///
    /// # Errors
    /// [`Error::UnknownSection`].
    pub fn require_known(&self, known: &[u64]) -> Result<(), Error> {
        let unknown = self
            .sections
            .iter()
            .find(|section| section.required && !known.contains(&section.id));
        unknown.map_or(Ok(()), |section| Err(Error::UnknownSection { id: section.id }))
    }

    /// What trimming needs of this checkpoint.
    pub fn mark(&self) -> Mark {
        let low = self.shards.iter().map(|shard| shard.low).min().unwrap_or(Lsn(1));
        Mark { batch: self.batch, low }
    }

    fn decode_marks(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let mut last = 0;
        for _ in 0..reader.count(3)? {
            let complete = reader.delta(last)?;
            if complete >> 63 != 0 {
                return Err(reader.malformed("LSN out of range"));
            }
            let next = complete + 1;
            let low = next
                .checked_sub(reader.varint()?)
                .filter(|low| *low > 0)
                .ok_or_else(|| reader.malformed("low out of range"))?;
            self.shards.push(ShardMarks {
                complete: Lsn(complete),
                low: Lsn(low),
                forgotten_ns: reader.varint()?,
            });
            last = complete;
        }
        for _ in 0..reader.count(2)? {
            let table = Table::from_code(reader.u8()?).ok_or_else(|| reader.malformed("unknown table"))?;
            self.versions.push((table, BatchSeq(sequence(reader)?)));
        }
        Ok(())
    }

    fn decode_decisions(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        for _ in 0..reader.count(2)? {
            let epoch = reader.varint()?;
            self.policies.push(Policy {
                reason: reader.text()?.into(),
                epoch,
            });
        }
        for _ in 0..self.shards.len() {
            let count = reader.count(20)?;
            let mut traces = Vec::with_capacity(count);
            let (mut through, mut touched_ns) = (0, 0);
            for _ in 0..count {
                let trace = TraceId(reader.array()?);
                let threshold = reader.threshold()?;
                let policy = reader.varint_u32()?;
                if policy as usize >= self.policies.len() {
                    return Err(reader.malformed("unknown policy"));
                }
                through = reader.delta(through)?;
                touched_ns = reader.delta(touched_ns)?;
                traces.push(RememberedTrace {
                    trace,
                    threshold,
                    policy,
                    through: Lsn(through),
                    touched_ns,
                });
            }
            self.decisions.push(traces);
        }
        Ok(())
    }

    fn decode_digests(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let count = reader.count(18)?;
        self.digests.reserve_exact(count);
        let mut arrival_ns = 0;
        for _ in 0..count {
            let digest = u128::from_le_bytes(reader.array()?);
            arrival_ns = reader.delta(arrival_ns)?;
            self.digests.push(FinishedDigest {
                digest,
                arrival_ns,
                answer: Answer::decode(reader)?,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
