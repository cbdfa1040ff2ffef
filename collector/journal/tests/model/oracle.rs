//! The checker: sees what the process cannot (all that was ever durable) and says which guarantee does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tailwater_journal::Journal;
use tailwater_journal::dedup::Answer;
use tailwater_journal::record::Head;
use tailwater_model::ids::{BatchSeq, Lsn};
use tailwater_model::signal::Signal;
use tailwater_model::table::Table;

use crate::disk::{Batch, Disk, Record};
use crate::workload::{Request, randomness};
use crate::world::Plan;

#[derive(Default)]
pub struct Oracle {
    /// Every record that was ever durable, by LSN.
    records: BTreeMap<u64, Record>,
    /// Every batch that was ever durable.
    batches: BTreeMap<u64, Batch>,
    /// What each client was told.
    answers: BTreeMap<usize, (Rc<Request>, Answer)>,
    /// LSNs whose requests were acknowledged.
    acked: BTreeSet<u64>,
    /// Requests on their way, for their clients to send again after a crash.
    pub unanswered: Vec<Rc<Request>>,
}

impl Oracle {
    /// Takes note of what is durable now.
    pub fn observe(&mut self, disk: &Disk) -> Result<(), String> {
        for (lsn, record) in disk
            .intake
            .entries
            .iter()
            .filter(|(lsn, _)| *lsn <= disk.intake.durable)
        {
            let known = self.records.entry(*lsn).or_insert_with(|| record.clone());
            if known.uid != record.uid {
                return Err(format!("LSN used twice: {lsn}"));
            }
        }
        for (seq, batch) in disk
            .outbox
            .entries
            .iter()
            .filter(|(seq, _)| *seq <= disk.outbox.durable)
        {
            let known = self.batches.entry(*seq).or_insert_with(|| batch.clone());
            if known.uid != batch.uid {
                return Err(format!("batch written twice: {seq}"));
            }
        }
        Ok(())
    }

    /// A client has its reply.
    pub fn answered(&mut self, request: &Rc<Request>, lsn: u64, answer: &Answer) -> Result<(), String> {
        self.acked.insert(lsn);
        if let Some(index) = self.unanswered.iter().position(|other| Rc::ptr_eq(other, request)) {
            self.unanswered.swap_remove(index);
        }
        let (_, first) = self
            .answers
            .entry(request.number)
            .or_insert_with(|| (request.clone(), answer.clone()));
        if first != answer {
            return Err(format!(
                "request {} was told {first:?}, then {answer:?}",
                request.number
            ));
        }
        Ok(())
    }

    /// Whether a durable batch decided the trace.
    pub fn decided(&self, trace: u32) -> bool {
        self.batches
            .values()
            .any(|batch| batch.outcomes.iter().any(|outcome| outcome.trace == trace))
    }

    pub fn has_frame(&self, seq: u64, table: Table) -> bool {
        self.batches
            .get(&seq)
            .is_some_and(|batch| batch.frames.contains_key(&table))
    }

    /// At the quiet end nothing is in flight, nothing holds a log.
    pub fn check_journal(&self, journal: &Journal) -> Result<(), String> {
        for ((tenant, signal), balance) in journal.ledger().balances().map_err(|error| error.to_string())? {
            if balance.received != balance.accounted {
                return Err(format!("ledger of {tenant} {signal} at rest: {balance:?}"));
            }
        }
        let points = journal.trim_points();
        if let Some((last, _)) = self.records.last_key_value()
            && points.intake_below <= Lsn(*last)
        {
            return Err(format!("nothing is pending through LSN {last}, but {points:?}"));
        }
        if points.outbox_below != BatchSeq(journal.batch().0 + 1) {
            return Err(format!(
                "everything committed through {:?}, but {points:?}",
                journal.batch()
            ));
        }
        Ok(())
    }

    /// The guarantees, over the tables.
    pub fn check_end(&self, plan: &Plan, disk: &Disk) -> Result<(), String> {
        self.check_acked()?;
        let expected = self.expected()?;
        if let Some((request, _)) = self
            .answers
            .values()
            .find(|(request, _)| !expected.requests.contains(&Some(request.digest())))
        {
            return Err(format!(
                "a reply promised request {} and no record holds it",
                request.number
            ));
        }
        self.check_decisions(plan)?;
        self.check_spans(&expected, disk)?;
        for (table, rows) in [(Table::Logs, &expected.logs), (Table::MetricPoints, &expected.points)] {
            check_once(table.name(), rows, &disk.tables[&table].rows)?;
        }
        for (table, deltas) in [(Table::MetricDists, &expected.red), (Table::Ledger, &expected.ledger)] {
            let found: BTreeMap<_, _> = disk.tables[&table]
                .deltas
                .iter()
                .filter(|(_, delta)| **delta != 0)
                .collect();
            let wanted: BTreeMap<_, _> = deltas.iter().filter(|(_, delta)| **delta != 0).collect();
            if found != wanted {
                return Err(format!("{}: {found:?} instead of {wanted:?}", table.name()));
            }
        }
        self.check_parts(plan, disk)
    }

    fn check_acked(&self) -> Result<(), String> {
        match self.acked.iter().find(|lsn| !self.records.contains_key(lsn)) {
            Some(lsn) => Err(format!("acknowledged and gone: record {lsn}")),
            None => Ok(()),
        }
    }

    /// What the durable records call for, each counted once.
    fn expected(&self) -> Result<Expected, String> {
        let mut expected = Expected::default();
        let mut firsts = BTreeMap::new();
        for (lsn, record) in &self.records {
            let head = Head::decode(&record.head).map_err(|error| error.to_string())?;
            expected.account(head.signal, "received", head.items);
            if head.duplicate {
                expected.account(head.signal, "deduplicated", head.items);
                continue;
            }
            if let Some(first) = firsts.insert(head.digest, lsn) {
                return Err(format!("stored twice: records {first} and {lsn} hold the same request"));
            }
            expected.account(head.signal, "rejected", head.rejected.count());
            expected.requests.insert(head.digest);
            let Some(request) = &record.payload else {
                continue;
            };
            let rejected: BTreeSet<_> = head.rejected.iter().map(|(ordinal, _)| ordinal).collect();
            for ordinal in (0..request.items()).filter(|ordinal| !rejected.contains(ordinal)) {
                let row = (request.number, ordinal);
                match head.signal {
                    Signal::Logs => expected.logs.push(row),
                    Signal::Metrics => expected.points.push(row),
                    Signal::Traces => {
                        let span = request.spans[ordinal as usize];
                        *expected.red.entry(format!("red {}", span.service)).or_default() += 1;
                        expected.spans.push(row);
                    }
                }
            }
        }
        for (signal, rows) in [
            (Signal::Logs, expected.logs.len()),
            (Signal::Metrics, expected.points.len()),
        ] {
            expected.account(signal, "stored", rows as u64);
        }
        for outcome in self.batches.values().flat_map(|batch| &batch.outcomes) {
            expected.account(Signal::Traces, if outcome.kept { "stored" } else { "sampled_out" }, 1);
        }
        Ok(expected)
    }

    /// Every outcome follows the decision of its trace, and no decision flips.
    fn check_decisions(&self, plan: &Plan) -> Result<(), String> {
        let mut decisions = BTreeMap::new();
        for (seq, batch) in &self.batches {
            for outcome in &batch.outcomes {
                let before = *decisions.entry(outcome.trace).or_insert(outcome.threshold);
                if before != outcome.threshold && !plan.forgets() {
                    return Err(format!(
                        "trace {} flips from {before:x} in batch {seq}: {outcome:?}",
                        outcome.trace
                    ));
                }
                if outcome.kept != (randomness(outcome.trace) >= outcome.threshold) {
                    return Err(format!("{outcome:?} does not follow its threshold"));
                }
            }
        }
        Ok(())
    }

    /// Every span has one outcome; every kept one has one row.
    fn check_spans(&self, expected: &Expected, disk: &Disk) -> Result<(), String> {
        let outcomes: Vec<_> = self
            .batches
            .values()
            .flat_map(|batch| &batch.outcomes)
            .copied()
            .collect();
        let ended: Vec<_> = outcomes.iter().map(|outcome| outcome.span).collect();
        check_once("span outcomes", &expected.spans, &ended)?;
        let kept: Vec<_> = outcomes
            .iter()
            .filter(|outcome| outcome.kept)
            .map(|outcome| outcome.span)
            .collect();
        check_once("spans", &kept, &disk.tables[&Table::Spans].rows)
    }

    /// A trace is decided once, so it has one first part.
    fn check_parts(&self, plan: &Plan, disk: &Disk) -> Result<(), String> {
        let parts = &disk.tables[&Table::Traces].deltas;
        match parts.iter().find(|(_, parts)| **parts != 1) {
            Some((trace, parts)) if !plan.forgets() => Err(format!("{trace}: {parts}")),
            _ => Ok(()),
        }
    }
}

#[derive(Default)]
struct Expected {
    requests: BTreeSet<Option<u128>>,
    spans: Vec<(usize, u32)>,
    logs: Vec<(usize, u32)>,
    points: Vec<(usize, u32)>,
    red: BTreeMap<String, i64>,
    ledger: BTreeMap<String, i64>,
}

impl Expected {
    fn account(&mut self, signal: Signal, account: &str, items: u64) {
        *self.ledger.entry(format!("{signal} {account} items")).or_default() += items as i64;
        *self.ledger.entry(format!("{signal} {account} bytes")).or_default() += 10 * items as i64;
    }
}

fn check_once(what: &str, expected: &[(usize, u32)], found: &[(usize, u32)]) -> Result<(), String> {
    let mut counts: BTreeMap<_, i32> = expected.iter().map(|row| (*row, 0)).collect();
    for row in found {
        *counts
            .get_mut(row)
            .ok_or_else(|| format!("{what}: {row:?} came from nowhere"))? += 1;
    }
    match counts.iter().find(|(_, count)| **count != 1) {
        Some((row, count)) => Err(format!("{what}: {row:?} is there {count} times")),
        None => Ok(()),
    }
}
