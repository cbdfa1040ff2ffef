//! The state machine of the two logs: what a record or a span still has to do, and what may be trimmed.
//!
//! ```text
//!   start   Recovery::new(settings, checkpoint) -> batch(seq, settlement)* -> finish() -> Journal
//!   walk    replay_record / replay_span -> count?  Skip | Late | Pending       (the same for replayed and for new records)
//!           open / touch / decide / advance fill the open batch
//!   cut     cut() -> settlement bytes for the outbox; the state moves on at once
//!   commit  read_version, plan_commit, committed
//!   keep    checkpoint() -> bytes; once they are durable checkpointed(mark) -> trim_points()
//! ```
//!
//! Guarantees, over any crash between any two writes, given what each method assumes: a span is counted once and has one row or one logged
//! refusal; no decision flips while it is remembered; nothing needed is trimmed. `tests/model.rs` checks that.
//! Leaves out: I/O, time and concurrency; one thread owns the journal.

use std::collections::HashMap;

use tailwater_model::ids::{BatchSeq, LogId, Lsn, TraceId};
use tailwater_model::ledger::{Amount, Key};
use tailwater_model::table::Table;

use crate::checkpoint::{self, Checkpoint, Draft, Mark, RememberedTrace, Section};
use crate::dedup::Register;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::pending::Slot;
use crate::reasons::Reasons;
use crate::settlement::{Policy, Settlement, ShardMark, TableSet, Writer};
use crate::shard::{Bounds, Decision, PolicyId, Remembered, ShardState};
use crate::tables::{CommitPlan, Tables};

/// What is fixed for a journal.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Identity of the data directory.
    pub log_id: LogId,
    /// Virtual shards: [`tailwater_model::ids::SHARDS`], fewer in tests.
    pub shards: u8,
    /// How many decisions are remembered, over all shards. Some 110 bytes each.
    pub decisions_max: usize,
    /// How long a decision is remembered after its trace was last touched, in ns of the arrival clock.
    pub decision_age_max_ns: u64,
    /// Reasons that ledger keys may carry.
    pub reasons: Reasons,
}

/// What to do with the row of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// Settled before: nothing.
    Skip,
    /// The trace is decided: follow it, then [`Journal::touch`] it, kept or not.
    Late(Decision),
    /// Undecided: to the sampler.
    Pending,
}

/// What a span still has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Whether RED and the ledger's `received` count it. What became of it (stored, sampled out) counts with its row.
    pub count: bool,
    /// What to do with its row.
    pub row: Row,
}

/// A batch cut off: append it to the outbox as it is, again and again until it is in, before anything else is appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The number that the outbox must give it.
    pub seq: BatchSeq,
    /// The encoded settlement.
    pub settlement: Vec<u8>,
    /// The batch's ledger deltas: rows of table `ledger` when there are any.
    pub ledger: Vec<(Key, Amount)>,
}

/// Below which sequence numbers the logs may be trimmed, if whole segments are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrimPoints {
    /// Intake records below are settled, by a durable checkpoint.
    pub intake_below: Lsn,
    /// Outbox batches below are in the checkpoint and in every table that they have a frame for.
    pub outbox_below: BatchSeq,
}

/// The journal of one data directory.
#[derive(Debug)]
pub struct Journal {
    log_id: LogId,
    reasons: Reasons,
    bounds: Bounds,
    shards: Vec<ShardState>,
    policies: Vec<Policy>,
    policy_ids: HashMap<Policy, PolicyId, ahash::RandomState>,
    tables: Tables,
    ledger: Ledger,
    batch: BatchSeq,
    clock_ns: u64,
    lsn_high: Lsn,
    mark: Mark,
}

/// A journal that is still reading what its predecessor settled.
#[derive(Debug)]
pub struct Recovery {
    journal: Journal,
}

impl Recovery {
    /// Starts from a checkpoint, or from nothing on an empty directory.
    ///
    /// # Errors
    /// [`Error::OtherLog`] or [`Error::OtherShards`] for a checkpoint of another directory; [`Error::Overflow`] for a malformed one.
    pub fn new(settings: Settings, checkpoint: Option<&Checkpoint>) -> Result<Recovery, Error> {
        assert!(settings.shards > 0, "a journal has at least one shard");
        let shards = usize::from(settings.shards);
        let mut journal = Journal {
            log_id: settings.log_id,
            reasons: settings.reasons,
            bounds: Bounds {
                count_max: settings.decisions_max.div_ceil(shards),
                age_max_ns: settings.decision_age_max_ns,
            },
            shards: (0..shards).map(|_| ShardState::new()).collect(),
            policies: Vec::new(),
            policy_ids: HashMap::default(),
            tables: Tables::new(&[]),
            ledger: Ledger::default(),
            batch: BatchSeq(0),
            clock_ns: 0,
            lsn_high: Lsn(0),
            mark: Mark {
                batch: BatchSeq(0),
                low: Lsn(1),
            },
        };
        if let Some(checkpoint) = checkpoint {
            journal.load(checkpoint)?;
        }
        Ok(Recovery { journal })
    }

    /// A batch of the outbox, in order, from the first one that is there. Those within the checkpoint only say which tables
    /// still need them.
    ///
    /// # Errors
    /// Those of [`Settlement::decode`]; [`Error::BatchGap`] or [`Error::Regress`] when the batch does not continue this history.
    pub fn batch(&mut self, seq: BatchSeq, settlement: &[u8]) -> Result<(), Error> {
        let settlement = Settlement::decode(settlement, &self.journal.reasons)?;
        if seq <= self.journal.batch {
            self.journal.tables.frames(seq, settlement.tables);
            return Ok(());
        }
        self.journal.settle(seq, &settlement)
    }

    /// Everything durable was read: the walk begins at [`Journal::replay_from`].
    pub fn finish(mut self) -> Journal {
        for shard in &mut self.journal.shards {
            shard.position = Lsn(shard.low.0 - 1);
        }
        self.journal
    }
}

impl Journal {
    // ---- the walk over records

    /// The first record that a replay must read: the smallest low of all shards.
    pub fn replay_from(&self) -> Lsn {
        self.shards.iter().map(|shard| shard.low).min().unwrap_or(Lsn(1))
    }

    /// The next LSN must be larger than this and larger than every LSN in the intake log (P3, P9).
    pub fn lsn_floor(&self) -> Lsn {
        self.shards
            .iter()
            .map(|shard| shard.complete)
            .max()
            .unwrap_or_default()
            .max(self.lsn_high)
    }

    /// Whether the items of a record that belong to no trace (all of logs and metrics; rejected spans; duplicates) still have to be
    /// counted and stored. `shard` is the record's.
    pub fn replay_record(&self, shard: u8, lsn: Lsn) -> bool {
        lsn > self.shards[usize::from(shard)].complete
    }

    /// What a span of the record at `lsn` still has to do. Records come in LSN order within a shard; `shard` is the trace's.
    pub fn replay_span(&self, shard: u8, lsn: Lsn, trace: &TraceId) -> Judgement {
        let shard = &self.shards[usize::from(shard)];
        let row = if lsn < shard.low {
            // A trace that was decided and then forgotten may still have spans here: none of them is pending.
            Row::Skip
        } else if let Some(decision) = shard.touched.get(trace) {
            Row::Late(*decision)
        } else {
            match shard.remembered(trace) {
                Some(entry) if lsn <= entry.through => Row::Skip,
                Some(entry) => Row::Late(entry.decision),
                None => Row::Pending,
            }
        };
        Judgement {
            count: lsn > shard.complete,
            row,
        }
    }

    /// What a trace was decided, in the open batch or before it, if that is remembered.
    pub fn decision(&self, shard: u8, trace: &TraceId) -> Option<Decision> {
        let shard = &self.shards[usize::from(shard)];
        let settled = || shard.remembered(trace).map(|entry| entry.decision);
        shard.touched.get(trace).copied().or_else(settled)
    }

    /// Arrival clock of the last batch that settled the decision of a trace, or a late span of it, unix ns; `None` if none did, or it is forgotten.
    pub fn settled_ns(&self, shard: u8, trace: &TraceId) -> Option<u64> {
        let shard = &self.shards[usize::from(shard)];
        shard.remembered(trace).map(|entry| entry.touched_ns)
    }

    /// The last record that every shard has in a batch, what waits of it apart.
    pub fn complete(&self) -> Lsn {
        self.shards.iter().map(|shard| shard.complete).min().unwrap_or_default()
    }

    /// A trace goes to the sampler undecided; its first span lies at `lsn`. Holds the intake log until [`Journal::decide`].
    ///
    /// A replay begins at the smallest low of all shards; what this one has settled below its own stays so.
    pub fn open(&mut self, shard: u8, lsn: Lsn) -> Slot {
        let shard = &mut self.shards[usize::from(shard)];
        shard.pending.open(lsn.max(shard.low))
    }

    /// An open trace is decided: its rows or their refusal are in the open batch.
    ///
    /// # Panics
    /// When the slot was closed before.
    pub fn decide(&mut self, shard: u8, slot: Slot, trace: TraceId, decision: Decision) {
        self.shards[usize::from(shard)].pending.close(slot);
        self.touch(shard, trace, decision);
    }

    /// Whoever opened `slot` needs the intake log from there no more, and no trace was decided: for what waits without a decision to
    /// come, such as one side of a call.
    ///
    /// # Panics
    /// When the slot was closed before.
    pub fn release(&mut self, shard: u8, slot: Slot) {
        self.shards[usize::from(shard)].pending.close(slot);
    }

    /// A late span of a decided trace, kept or not, is settled by the open batch; or a trace is decided without having been open.
    pub fn touch(&mut self, shard: u8, trace: TraceId, decision: Decision) {
        self.shards[usize::from(shard)].touch(trace, decision);
    }

    /// The shard has handled every record through `lsn`, those without anything for it included.
    pub fn advance(&mut self, shard: u8, lsn: Lsn) {
        let shard = &mut self.shards[usize::from(shard)];
        shard.position = shard.position.max(lsn);
    }

    /// [`Journal::advance`] for every shard: for a road that walks the records with one thread.
    pub fn advance_all(&mut self, lsn: Lsn) {
        self.shards
            .iter_mut()
            .for_each(|shard| shard.position = shard.position.max(lsn));
    }

    /// The id of a reason and version of the policies, for [`Decision`]s. Ids last as long as the journal.
    pub fn policy(&mut self, reason: &str, epoch: u64) -> PolicyId {
        self.policy_id(&Policy {
            reason: reason.into(),
            epoch,
        })
    }

    /// What an id stands for.
    pub fn policy_of(&self, id: PolicyId) -> &Policy {
        &self.policies[id.0 as usize]
    }

    /// Counts into the open batch.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond 64 bits.
    pub fn count(&mut self, key: &Key, amount: Amount) -> Result<(), Error> {
        self.ledger.add(key, amount)
    }

    // ---- batches

    /// Cuts the open batch off, between two requests. `tables` are those with a frame in it; `ledger` is added when there are
    /// deltas. `None` when there is nothing to say.
    ///
    /// Assumes: everything at or below the shards' positions is durable in the intake log (P3).
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond 64 bits.
    pub fn cut(&mut self, now_ns: u64, tables: TableSet) -> Result<Option<Cut>, Error> {
        let ledger = self.ledger.drain();
        let tables = if ledger.is_empty() {
            tables
        } else {
            tables.with(Table::Ledger)
        };
        let moved = |shard: &ShardState| {
            shard.position > shard.complete || shard.low_now() > shard.low || !shard.touched.is_empty()
        };
        if tables == TableSet::EMPTY && !self.shards.iter().any(moved) {
            return Ok(None);
        }
        let mut writer = Writer::new(now_ns.max(self.clock_ns), tables, self.lsn_floor());
        for (number, shard) in self.shards.iter_mut().enumerate().filter(|(_, shard)| moved(shard)) {
            writer.shard(ShardMark {
                shard: number as u8,
                complete: shard.complete.max(shard.position),
                low: shard.low_now(),
                through: shard.position,
            });
            for trace in shard.touched_order.drain(..) {
                let decision = shard.touched[&trace];
                let id = decision.policy.0;
                writer.trace(trace, decision.threshold, id, || self.policies[id as usize].clone());
            }
            shard.touched.clear();
        }
        let settlement = writer.finish(&ledger);
        let seq = BatchSeq(self.batch.0 + 1);
        // The same road as after a restart: what is settled is what the bytes say.
        self.settle(seq, &Settlement::decode(&settlement, &self.reasons)?)?;
        Ok(Some(Cut {
            seq,
            settlement,
            ledger,
        }))
    }

    /// Rolls the state forward over one batch.
    fn settle(&mut self, seq: BatchSeq, settlement: &Settlement) -> Result<(), Error> {
        if seq.0 != self.batch.0 + 1 {
            return Err(Error::BatchGap {
                settled: self.batch,
                found: seq,
            });
        }
        for mark in &settlement.shards {
            let state = self.shards.get(usize::from(mark.shard));
            let state = state.ok_or(Error::OtherShards {
                expected: self.shards.len(),
                found: usize::from(mark.shard) + 1,
            })?;
            if mark.complete < state.complete || mark.low < state.low {
                return Err(Error::Regress {
                    batch: seq,
                    shard: mark.shard,
                });
            }
        }
        self.clock_ns = self.clock_ns.max(settlement.at_ns);
        let policies: Vec<_> = settlement
            .policies
            .iter()
            .map(|policy| self.policy_id(policy))
            .collect();
        let mut touches = settlement.touches.as_slice();
        for mark in &settlement.shards {
            let shard = &mut self.shards[usize::from(mark.shard)];
            let count = touches.iter().take_while(|touch| touch.shard == mark.shard).count();
            let (own, rest) = touches.split_at(count);
            touches = rest;
            for touch in own {
                let decision = Decision {
                    threshold: touch.threshold,
                    policy: policies[touch.policy as usize],
                };
                shard.remember(Remembered {
                    trace: touch.trace,
                    decision,
                    through: mark.through,
                    touched_ns: self.clock_ns,
                });
            }
            (shard.complete, shard.low) = (mark.complete, mark.low);
            shard.forget(self.clock_ns, self.bounds);
        }
        self.ledger.settle(&settlement.ledger)?;
        self.tables.frames(seq, settlement.tables);
        self.batch = seq;
        Ok(())
    }

    /// The last batch settled; the next outbox sequence number is one more, whatever is left of the outbox.
    pub fn batch(&self) -> BatchSeq {
        self.batch
    }

    // ---- tables

    /// The table's `txn` of this log was read (`None`: it has none). Until then nothing is committed to it.
    ///
    /// # Errors
    /// [`Error::ForeignTable`] when it lies beyond the outbox's end: refuse to start.
    pub fn read_version(&mut self, table: Table, txn: Option<BatchSeq>) -> Result<(), Error> {
        self.tables.read(table, txn, self.batch)
    }

    /// What a commit to `table` takes, if there is a frame for it: batches above v, through `durable` of the outbox.
    pub fn plan_commit(&self, table: Table, durable: BatchSeq) -> Option<CommitPlan> {
        self.tables.plan(table, durable.min(self.batch))
    }

    /// The table has committed through `through`, durably. After a doubtful error read the `txn` back instead.
    pub fn committed(&mut self, table: Table, through: BatchSeq) {
        self.tables.committed(table, through);
    }

    /// v of a table: the last batch that it is known to hold.
    pub fn version(&self, table: Table) -> BatchSeq {
        self.tables.version(table)
    }

    // ---- checkpoint and trim

    /// Encodes the settled state; the digests come afterwards, in pieces ([`Draft::digests`]), so that requests need not wait for a
    /// register to be walked. `lsn_high` is the largest LSN known to be durable: what a restart does not find up to it counts as lost.
    pub fn draft_checkpoint(&self, lsn_high: Lsn) -> Draft {
        checkpoint::draft(self, lsn_high)
    }

    /// [`Journal::draft_checkpoint`] with everything at once. Write the bytes only once the outbox is durable through the mark's
    /// batch, then call [`Journal::checkpointed`].
    ///
    /// # Panics
    /// When a section's id is below [`checkpoint::SECTION_MIN`].
    pub fn checkpoint(&self, lsn_high: Lsn, register: &Register, sections: &[Section]) -> (Vec<u8>, Mark) {
        let mut draft = self.draft_checkpoint(lsn_high);
        while !draft.digests(register, usize::MAX) {}
        draft.finish(sections)
    }

    /// The checkpoint of this mark is durable, its directory entry included.
    pub fn checkpointed(&mut self, mark: Mark) {
        assert!(
            mark.batch >= self.mark.batch && mark.low >= self.mark.low,
            "checkpoints are written in order"
        );
        self.mark = mark;
    }

    /// What may be trimmed now.
    pub fn trim_points(&self) -> TrimPoints {
        let checkpointed = BatchSeq(self.mark.batch.0 + 1);
        let outbox_below = self
            .tables
            .first_needed()
            .map_or(checkpointed, |needed| needed.min(checkpointed));
        TrimPoints {
            intake_below: self.mark.low,
            outbox_below,
        }
    }

    /// Whether outbox batches wait for nothing but a newer checkpoint before they can be trimmed.
    pub fn waits_for_checkpoint(&self) -> bool {
        let next = BatchSeq(self.mark.batch.0 + 1);
        self.batch >= next && self.is_delivered(next)
    }

    /// Whether every table has all it needs of the batches through this one.
    pub fn is_delivered(&self, through: BatchSeq) -> bool {
        self.tables.first_needed().is_none_or(|needed| needed > through)
    }

    // ---- what to look at

    /// The ledger: settled totals and the open batch.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Largest arrival clock settled, unix ns.
    pub fn clock_ns(&self) -> u64 {
        self.clock_ns
    }

    /// Traces open in the sampler.
    pub fn pending(&self) -> usize {
        self.shards.iter().map(|shard| shard.pending.len()).sum()
    }

    /// Decisions remembered, those of the open batch apart.
    pub fn remembered(&self) -> usize {
        self.shards.iter().map(|shard| shard.all_remembered().len()).sum()
    }

    /// Decisions forgotten since start, by count or by age.
    pub fn forgotten(&self) -> u64 {
        self.shards.iter().map(|shard| shard.forgotten).sum()
    }

    /// Arrival clock of the youngest decision that `shard` has forgotten, 0 for none. An unknown trace whose spans began at or before it
    /// may have been decided already: its new decision is flagged partial.
    pub fn forgotten_ns(&self, shard: u8) -> u64 {
        self.shards[usize::from(shard)].forgotten_ns
    }

    /// Identity of the data directory.
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    pub(crate) fn shards(&self) -> &[ShardState] {
        &self.shards
    }

    pub(crate) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    fn policy_id(&mut self, policy: &Policy) -> PolicyId {
        if let Some(id) = self.policy_ids.get(policy) {
            return *id;
        }
        let id = PolicyId(self.policies.len() as u32);
        self.policies.push(policy.clone());
        self.policy_ids.insert(policy.clone(), id);
        id
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        if checkpoint.log_id != self.log_id {
            let (expected, found) = (self.log_id.to_string(), checkpoint.log_id.to_string());
            return Err(Error::OtherLog { expected, found });
        }
        if checkpoint.shards.len() != self.shards.len() || checkpoint.decisions.len() != self.shards.len() {
            return Err(Error::OtherShards {
                expected: self.shards.len(),
                found: checkpoint.shards.len(),
            });
        }
        let policies: Vec<_> = checkpoint
            .policies
            .iter()
            .map(|policy| self.policy_id(policy))
            .collect();
        for ((state, marks), traces) in self
            .shards
            .iter_mut()
            .zip(&checkpoint.shards)
            .zip(&checkpoint.decisions)
        {
            (state.complete, state.low, state.forgotten_ns) = (marks.complete, marks.low, marks.forgotten_ns);
            state.reserve(traces.len());
            for RememberedTrace {
                trace,
                threshold,
                policy,
                through,
                touched_ns,
            } in traces.iter().copied()
            {
                let decision = Decision {
                    threshold,
                    policy: policies[policy as usize],
                };
                state.remember(Remembered {
                    trace,
                    decision,
                    through,
                    touched_ns,
                });
                self.clock_ns = self.clock_ns.max(touched_ns);
            }
        }
        self.tables = Tables::new(&checkpoint.versions);
        self.ledger.settle(&checkpoint.ledger)?;
        self.batch = checkpoint.batch;
        self.lsn_high = checkpoint.lsn_high;
        self.mark = checkpoint.mark();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
