//! The collector between two crashes: what the real one does around the journal, in steps of random order.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use rand::Rng;
use rand::seq::IteratorRandom;
use tailwater_journal::checkpoint::Checkpoint;
use tailwater_journal::dedup::{Answer, Begin, Register, Token};
use tailwater_journal::record::Head;
use tailwater_journal::{Decision, Journal, ReasonCode, Reasons, Recovery, Row, Settings, Slot};
use tailwater_model::ids::{BatchSeq, LogId, Lsn};
use tailwater_model::ledger::{Account, Amount, Key};
use tailwater_model::signal::Signal;
use tailwater_model::table::Table;

use crate::bugs::{Bug, break_checkpoint, break_settlement};
use crate::disk::{Batch, Frame, Outcome, Record};
use crate::workload::{Request, randomness, trace_id};
use crate::world::{Stop, World};

/// A request whose record is appended and whose reply is due at the next sync.
struct Waiting {
    lsn: u64,
    request: Rc<Request>,
    /// `None` for a duplicate.
    token: Option<Token>,
    answer: Answer,
}

/// An undecided trace of the toy sampler.
struct Held {
    shard: u8,
    slot: Slot,
    spans: Vec<(usize, u32)>,
    since: u64,
    root: bool,
}

/// The collector between two crashes.
pub struct Process<'w> {
    world: &'w mut World,
    journal: Journal,
    register: Register,
    /// Next LSN that each shard handles.
    cursors: Vec<u64>,
    next_lsn: u64,
    waiting: Vec<Waiting>,
    held: BTreeMap<u32, Held>,
    frames: BTreeMap<Table, Frame>,
    outcomes: Vec<Outcome>,
    /// Largest LSN of the log when this incarnation began: at or below is replay.
    replay_to: u64,
}

const SPAN_BYTES: u64 = 10;

impl<'w> Process<'w> {
    /// P9.
    pub fn recover(world: &'w mut World) -> Result<Process<'w>, Stop> {
        // What is in the page cache only must not be named by anything that is durable.
        world.disk.sync_intake()?;
        world.disk.sync_outbox()?;
        world.oracle.observe(&world.disk)?;
        let reasons = Reasons::new(["odd"]);
        let mut checkpoint = match &world.disk.checkpoint {
            Some(bytes) => Some(Checkpoint::decode(bytes, &reasons)?),
            None => None,
        };
        if let Some(checkpoint) = &mut checkpoint {
            break_checkpoint(world.plan.bug, checkpoint);
        }
        let settings = Settings {
            log_id: LogId([7; 16]),
            shards: world.plan.shards,
            decisions_max: world.plan.decisions_max,
            decision_age_max_ns: world.plan.decision_age_max,
            reasons: reasons.clone(),
        };
        let mut recovery = Recovery::new(settings, checkpoint.as_ref())?;
        for (seq, batch) in &world.disk.outbox.entries {
            recovery.batch(
                BatchSeq(*seq),
                &break_settlement(world.plan.bug, &batch.settlement, &reasons),
            )?;
        }
        let journal = recovery.finish();

        let mut register = Register::new(1 << 20, 1 << 40);
        for entry in checkpoint.iter().flat_map(|checkpoint| &checkpoint.digests) {
            register.restore(entry.digest, entry.arrival_ns, entry.answer.clone());
        }
        for (_, record) in &world.disk.intake.entries {
            let head = Head::decode(&record.head)?;
            if let Some(digest) = head.digest.filter(|_| !head.duplicate) {
                register.restore(digest, head.arrival_ns, head.rejected.answer());
            }
        }

        // Clients notice: most of those without a reply try again.
        for request in std::mem::take(&mut world.oracle.unanswered) {
            if world.rng.random_bool(0.8) {
                world.todo.push_front(request);
            }
        }

        let last = world.disk.intake.last();
        let floor = if world.broken(Bug::LsnReused) {
            0
        } else {
            journal.lsn_floor().0
        };
        let from = journal.replay_from().0;
        if world.incarnation > 0 && from <= last {
            world.cover("replay");
        }
        if last == 0 && !world.todo.is_empty() && journal.lsn_floor().0 > 0 {
            world.cover("restart on an empty intake log");
        }
        Ok(Process {
            cursors: vec![from; usize::from(world.plan.shards)],
            next_lsn: last.max(floor) + 1,
            replay_to: last,
            world,
            journal,
            register,
            waiting: Vec::new(),
            held: BTreeMap::new(),
            frames: BTreeMap::new(),
            outcomes: Vec::new(),
        })
    }

    /// Steps in random order until everything is said, then to quiescence.
    pub fn live(mut self) -> Result<(), Stop> {
        while !(self.world.todo.is_empty() && self.waiting.is_empty()) {
            self.world.now += self.world.rng.random_range(1..4);
            match self.world.rng.random_range(0..100) {
                0..20 => self.receive()?,
                20..28 => self.sync_intake()?,
                28..62 => self.walk()?,
                62..70 => self.tick(false)?,
                70..80 => self.cut()?,
                80..85 => self.world.disk.sync_outbox()?,
                85..94 => self.commit()?,
                94..96 => self.checkpoint(true)?,
                96 if self.world.plan.seed.is_multiple_of(3) => self.settle_all()?,
                _ => self.trim()?,
            }
            self.world.oracle.observe(&self.world.disk)?;
        }
        self.settle_all()
    }

    /// Clients pause: everything settles, and both logs may become empty.
    fn settle_all(&mut self) -> Result<(), Stop> {
        self.sync_intake()?;
        while (0..self.world.plan.shards).any(|shard| self.behind(shard)) {
            self.walk()?;
        }
        self.tick(true)?;
        self.cut()?;
        self.world.disk.sync_outbox()?;
        self.world.oracle.observe(&self.world.disk)?;
        for table in Table::COLLECTED {
            self.read_version(table)?;
            while self.journal.plan_commit(table, BatchSeq(u64::MAX)).is_some() {
                self.commit_table(table)?;
            }
        }
        self.checkpoint(false)?;
        self.trim()?;
        self.world.oracle.check_journal(&self.journal)?;
        Ok(())
    }

    // ---- intake

    fn receive(&mut self) -> Result<(), Stop> {
        let Some(request) = self.world.todo.pop_front() else {
            return Ok(());
        };
        let now = self.world.now;
        let (token, answer) = match self.register.begin(request.digest(), now) {
            Begin::Hit(answer) => (None, answer.clone()),
            Begin::Pending(_) => {
                self.world.todo.push_back(request);
                self.world.cover("duplicate waits");
                return self.sync_intake();
            }
            Begin::First(token) => (Some(token), Answer::default()),
        };
        if let Some(token) = token
            && self.world.rng.random_bool(0.05)
        {
            // Disk full: refused, the client comes again.
            self.register.failed(request.digest(), token);
            self.world.todo.push_back(request);
            self.world.cover("refused");
            return Ok(());
        }
        let limit = self.limit();
        let rejected = if token.is_some() {
            request.rejected(limit)
        } else {
            Vec::new()
        };
        let head = Head {
            arrival_ns: now,
            tenant: "default",
            signal: request.signal,
            items: request.items().into(),
            wire_bytes: u64::from(request.items()) * SPAN_BYTES,
            digest: Some(request.digest()),
            duplicate: token.is_none(),
            rejected: rejected.into_iter().map(|ordinal| (ordinal, ReasonCode(1))).collect(),
        };
        let answer = if token.is_some() {
            head.rejected.answer()
        } else {
            answer
        };
        let wholly_rejected = head.rejected.count() == head.items;
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        let payload = (token.is_some() && !wholly_rejected).then(|| request.clone());
        let record = Record {
            uid: self.world.uid(),
            head: bytes,
            payload,
        };
        self.world.oracle.unanswered.push(request.clone());
        self.world.disk.append_record(lsn, record)?;
        if token.is_none() {
            self.world.cover(if self.world.incarnation > 0 {
                "duplicate after a restart"
            } else {
                "duplicate"
            });
        }
        let mut waiting = Waiting {
            lsn,
            request,
            token,
            answer,
        };
        if self.world.broken(Bug::DigestDoneAtAppend)
            && let Some(token) = waiting.token.take()
        {
            self.register
                .done(waiting.request.digest(), token, waiting.answer.clone());
        }
        self.waiting.push(waiting);
        if self.world.broken(Bug::AckBeforeSync) {
            self.reply()?;
        }
        Ok(())
    }

    fn sync_intake(&mut self) -> Result<(), Stop> {
        self.world.disk.sync_intake()?;
        self.world.oracle.observe(&self.world.disk)?;
        self.reply()
    }

    fn reply(&mut self) -> Result<(), Stop> {
        // Digests first: the shards may see these records from now on.
        for waiting in &mut self.waiting {
            if let Some(token) = waiting.token.take() {
                self.register
                    .done(waiting.request.digest(), token, waiting.answer.clone());
            }
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.world.disk.point()?;
            self.world
                .oracle
                .answered(&waiting.request, waiting.lsn, &waiting.answer)?;
        }
        Ok(())
    }

    /// Limits change from one run of the process to the next.
    fn limit(&self) -> u8 {
        13 + (self.world.incarnation % 3) as u8
    }

    // ---- the walk

    fn readable(&self) -> u64 {
        let disk = &self.world.disk.intake;
        if self.world.broken(Bug::EffectBeforeDurable) {
            disk.last()
        } else {
            disk.durable.min(disk.last())
        }
    }

    fn behind(&self, shard: u8) -> bool {
        let next = self.world.disk.intake.next(self.cursors[usize::from(shard)]);
        next.is_some_and(|lsn| lsn <= self.readable())
    }

    /// One shard, any, handles its next record.
    fn walk(&mut self) -> Result<(), Stop> {
        let shard = self.world.rng.random_range(0..self.world.plan.shards);
        if !self.behind(shard) {
            return Ok(());
        }
        let lsn = self
            .world
            .disk
            .intake
            .next(self.cursors[usize::from(shard)])
            .expect("it is behind");
        let record = self.world.disk.intake.get(lsn).expect("it is there").clone();
        let head = Head::decode(&record.head)?;
        if lsn % u64::from(self.world.plan.shards) == u64::from(shard) {
            self.walk_record(shard, Lsn(lsn), &head, record.payload.as_deref())?;
        }
        if let Some(request) = &record.payload {
            self.walk_spans(shard, Lsn(lsn), &head, request)?;
        }
        self.journal.advance(shard, Lsn(lsn));
        self.cursors[usize::from(shard)] = lsn + 1;
        Ok(())
    }

    /// Items that belong to no trace.
    fn walk_record(&mut self, shard: u8, lsn: Lsn, head: &Head<'_>, payload: Option<&Request>) -> Result<(), Stop> {
        if !(self.journal.replay_record(shard, lsn) || self.world.broken(Bug::CountAgain)) {
            return Ok(());
        }
        if head.duplicate {
            self.count(head, Account::Received, head.items)?;
            return self.count(head, Account::Deduplicated, head.items);
        }
        let rejected = self.rejected(head, payload);
        self.count(head, Account::Received, rejected.len() as u64)?;
        self.count(head, Account::Rejected, rejected.len() as u64)?;
        let Some(request) = payload.filter(|request| request.items > 0) else {
            return Ok(());
        };
        let rows = (0..request.items)
            .filter(|item| !rejected.contains(item))
            .map(|item| (request.number, item));
        let rows: Vec<_> = rows.collect();
        self.count(head, Account::Received, rows.len() as u64)?;
        self.count(head, Account::Stored, rows.len() as u64)?;
        let table = if head.signal == Signal::Logs {
            Table::Logs
        } else {
            Table::MetricPoints
        };
        if !rows.is_empty() {
            self.frames.entry(table).or_default().rows.extend(rows);
        }
        Ok(())
    }

    fn rejected(&self, head: &Head<'_>, payload: Option<&Request>) -> Vec<u32> {
        match payload {
            Some(request) if self.world.broken(Bug::RejectedAnew) => request.rejected(self.limit()),
            _ => head.rejected.iter().map(|(ordinal, _)| ordinal).collect(),
        }
    }

    fn walk_spans(&mut self, shard: u8, lsn: Lsn, head: &Head<'_>, request: &Request) -> Result<(), Stop> {
        let rejected = self.rejected(head, Some(request));
        let replay = self.world.incarnation > 0 && lsn.0 <= self.replay_to;
        for (ordinal, span) in request.spans.iter().enumerate() {
            let ordinal = ordinal as u32;
            if span.trace % u32::from(self.world.plan.shards) != u32::from(shard) || rejected.contains(&ordinal) {
                continue;
            }
            let judgement = self.journal.replay_span(shard, lsn, &trace_id(span.trace));
            if judgement.count || self.world.broken(Bug::CountAgain) {
                self.count(head, Account::Received, 1)?;
                let red = self.frames.entry(Table::MetricDists).or_default();
                *red.deltas.entry(format!("red {}", span.service)).or_default() += 1;
            }
            let at = (request.number, ordinal);
            match judgement.row {
                Row::Skip => {
                    if replay {
                        self.world.cover("replay skips");
                    }
                }
                Row::Late(decision) => {
                    self.world.cover(match (replay, judgement.count) {
                        (true, false) => "late span counted before the crash",
                        (true, true) => "late span in the replay",
                        (false, _) => "late span",
                    });
                    self.end(span.trace, at, decision.threshold)?;
                    self.journal.touch(shard, trace_id(span.trace), decision);
                }
                Row::Pending => {
                    if replay && !judgement.count {
                        self.world.cover("pending span counted before the crash");
                    }
                    if !self.held.contains_key(&span.trace) {
                        if self.world.oracle.decided(span.trace) {
                            self.world.cover("forgotten trace decided anew");
                            if self.journal.forgotten_ns(shard) == 0 {
                                return Err(format!("a decision flips: trace {} is pending again", span.trace).into());
                            }
                        }
                        let slot = self.journal.open(shard, lsn);
                        let held = Held {
                            shard,
                            slot,
                            spans: Vec::new(),
                            since: self.world.now,
                            root: false,
                        };
                        self.held.insert(span.trace, held);
                    }
                    let held = self.held.get_mut(&span.trace).expect("it was just put there");
                    held.spans.push(at);
                    held.root |= span.root;
                }
            }
        }
        Ok(())
    }

    // ---- the toy sampler

    /// Decides what is due: by root, by age, by size, or now and then under pressure; also in the middle of a replay.
    fn tick(&mut self, all: bool) -> Result<(), Stop> {
        let now = self.world.now;
        let pressure = self.world.rng.random_bool(0.05);
        let due = |held: &Held| {
            all || pressure || held.spans.len() >= 4 || (held.root && now - held.since > 20) || now - held.since > 150
        };
        let due: Vec<_> = self
            .held
            .iter()
            .filter(|(_, held)| due(held))
            .map(|(trace, _)| *trace)
            .collect();
        for trace in due {
            let held = self.held.remove(&trace).expect("it is there");
            if trace == 0 && held.spans.len() >= 4 {
                self.world.cover("giant trace decided early");
            }
            if self.cursors[usize::from(held.shard)] <= self.replay_to {
                self.world.cover("decision in the middle of a replay");
            }
            // Another decision every time it is asked: a flip cannot hide.
            let threshold = self.world.rng.random_range(0..4) << 54;
            let policy = self
                .journal
                .policy(if threshold == 0 { "all" } else { "rest" }, self.world.incarnation);
            held.spans
                .iter()
                .try_for_each(|span| self.end(trace, *span, threshold))?;
            self.journal
                .decide(held.shard, held.slot, trace_id(trace), Decision { threshold, policy });
            let traces = self.frames.entry(Table::Traces).or_default();
            *traces.deltas.entry(format!("parts {trace}")).or_default() += 1;
        }
        Ok(())
    }

    /// A span ends: a row, or a logged refusal.
    fn end(&mut self, trace: u32, span: (usize, u32), threshold: u64) -> Result<(), Stop> {
        let kept = randomness(trace) >= threshold;
        self.outcomes.push(Outcome {
            span,
            trace,
            kept,
            threshold,
        });
        let account = if kept { Account::Stored } else { Account::SampledOut };
        if kept {
            self.frames.entry(Table::Spans).or_default().rows.push(span);
        }
        let key = self.key(Signal::Traces, account);
        self.journal.count(
            &key,
            Amount {
                items: 1,
                bytes: SPAN_BYTES,
            },
        )?;
        Ok(())
    }

    fn count(&mut self, head: &Head<'_>, account: Account, items: u64) -> Result<(), Stop> {
        let key = self.key(head.signal, account);
        self.journal.count(
            &key,
            Amount {
                items,
                bytes: items * SPAN_BYTES,
            },
        )?;
        Ok(())
    }

    fn key(&self, signal: Signal, account: Account) -> Key {
        let reason = if account == Account::Rejected { "odd" } else { "" };
        Key {
            tenant: Arc::from("default"),
            signal,
            account,
            reason,
        }
    }

    // ---- batches, tables, checkpoint, trim

    fn cut(&mut self) -> Result<(), Stop> {
        let tables = self.frames.keys().copied().collect();
        let Some(cut) = self.journal.cut(self.world.now, tables)? else {
            return Ok(());
        };
        self.journal
            .ledger()
            .check()
            .map_err(|imbalance| imbalance.to_string())?;
        let mut frames = std::mem::take(&mut self.frames);
        for (key, amount) in &cut.ledger {
            let deltas = &mut frames.entry(Table::Ledger).or_default().deltas;
            let name = format!("{} {}", key.signal, key.account.name());
            *deltas.entry(format!("{name} items")).or_default() += amount.items as i64;
            *deltas.entry(format!("{name} bytes")).or_default() += amount.bytes as i64;
        }
        let outcomes = std::mem::take(&mut self.outcomes);
        let batch = Batch {
            uid: self.world.uid(),
            settlement: cut.settlement,
            frames,
            outcomes,
        };
        self.world.disk.append_batch(cut.seq.0, batch)?;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Stop> {
        let table = Table::COLLECTED
            .into_iter()
            .choose(&mut self.world.rng)
            .expect("there are tables");
        // The store may be down for a while after a start.
        if self.world.rng.random_bool(0.3) {
            self.read_version(table)?;
        }
        self.commit_table(table)
    }

    fn read_version(&mut self, table: Table) -> Result<(), Stop> {
        let txn = self.world.disk.tables[&table].txn.map(BatchSeq);
        Ok(self.journal.read_version(table, txn)?)
    }

    fn commit_table(&mut self, table: Table) -> Result<(), Stop> {
        let Some(plan) = self
            .journal
            .plan_commit(table, BatchSeq(self.world.disk.outbox.durable))
        else {
            return Ok(());
        };
        let through = self.world.rng.random_range(plan.after.0 + 1..=plan.through.0);
        let mut frames = Vec::new();
        for seq in plan.after.0 + 1..=through {
            match self.world.disk.outbox.get(seq) {
                Some(batch) => frames.extend(batch.frames.get(&table).cloned()),
                None if self.world.oracle.has_frame(seq, table) => {
                    return Err(format!("a trimmed batch is needed: {seq} by {}", table.name()).into());
                }
                None => {}
            }
        }
        let (arrives, doubtful) = match self.world.rng.random_range(0..10) {
            0 => (false, true),
            1 => (true, true),
            _ => (true, false),
        };
        if arrives {
            self.world.disk.commit(table, through, &frames)?;
        }
        if !doubtful {
            self.journal.committed(table, BatchSeq(through));
        } else if !self.world.broken(Bug::DoubtfulCommitAgain) {
            self.world.cover("doubtful commit");
            self.read_version(table)?;
        }
        Ok(())
    }

    /// Requests do not wait for a register to be walked: if `busy`, some arrive meanwhile.
    fn checkpoint(&mut self, busy: bool) -> Result<(), Stop> {
        let mut draft = self.journal.draft_checkpoint(Lsn(self.world.disk.intake.durable));
        while !draft.digests(&self.register, 3) {
            match self.world.rng.random_range(0..4) {
                0 if busy => self.receive()?,
                1 if busy => self.sync_intake()?,
                _ => {}
            }
        }
        let (bytes, mark) = draft.finish(&[]);
        if self.world.disk.outbox.durable < mark.batch.0 && !self.world.broken(Bug::CheckpointAheadOfOutbox) {
            self.world.disk.sync_outbox()?;
        }
        self.world.disk.write_aside(bytes)?;
        self.world.disk.sync_aside()?;
        self.world.disk.rename()?;
        self.world.disk.sync_dir()?;
        self.journal.checkpointed(mark);
        Ok(())
    }

    fn trim(&mut self) -> Result<(), Stop> {
        let points = self.journal.trim_points();
        let intake = match self.world.plan.bug {
            Some(Bug::IntakeTrimmedByRunningLow) => self.journal.replay_from(),
            _ => points.intake_below,
        };
        let outbox = match self.world.plan.bug {
            Some(Bug::OutboxTrimmedByVersions) => {
                let versions = [Table::Spans, Table::Ledger].map(|table| self.journal.version(table).0);
                versions.into_iter().min().unwrap_or(0) + 1
            }
            _ => points.outbox_below.0,
        };
        if self.world.disk.trim_intake(intake.0)? > 0 {
            self.world.cover("intake trimmed");
        }
        if self.world.disk.trim_outbox(outbox)? > 0 {
            self.world.cover("outbox trimmed");
        }
        Ok(())
    }
}
