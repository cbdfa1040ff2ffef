//! What survives a crash: two logs, a checkpoint file, seven tables. Every write is a point at which the power may go.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use rand::Rng;
use rand::rngs::SmallRng;
use tailwater_model::table::Table;

use crate::workload::Request;

/// The process died at this write.
#[derive(Debug)]
pub struct Crash;

/// An intake record: the head is what the journal encodes.
#[derive(Debug, Clone)]
pub struct Record {
    /// Identity beyond the LSN, to see reuse.
    pub uid: u64,
    pub head: Vec<u8>,
    pub payload: Option<Rc<Request>>,
}

/// Rows and deltas of one table in one batch.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// (request, ordinal) of each item.
    pub rows: Vec<(usize, u32)>,
    /// Additive counters.
    pub deltas: BTreeMap<String, i64>,
}

/// An outbox batch.
#[derive(Debug, Clone)]
pub struct Batch {
    pub uid: u64,
    pub settlement: Vec<u8>,
    pub frames: BTreeMap<Table, Frame>,
    /// For the checker: what became of each span, and by which threshold.
    pub outcomes: Vec<Outcome>,
}

/// A span's end, as its batch logged it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub span: (usize, u32),
    pub trace: u32,
    pub kept: bool,
    pub threshold: u64,
}

/// A log whose tail may not be durable yet.
#[derive(Debug)]
pub struct Log<T> {
    pub entries: VecDeque<(u64, T)>,
    /// Everything at or below has been synced.
    pub durable: u64,
    segment: u64,
}

impl<T> Log<T> {
    fn new(segment: u64) -> Log<T> {
        Log {
            entries: VecDeque::new(),
            durable: 0,
            segment,
        }
    }

    pub fn last(&self) -> u64 {
        self.entries.back().map_or(0, |(seq, _)| *seq)
    }

    pub fn get(&self, seq: u64) -> Option<&T> {
        let index = self.entries.partition_point(|(other, _)| *other < seq);
        self.entries
            .get(index)
            .filter(|(other, _)| *other == seq)
            .map(|(_, entry)| entry)
    }

    /// Sequence number of the first entry at or above `seq`.
    pub fn next(&self, seq: u64) -> Option<u64> {
        let index = self.entries.partition_point(|(other, _)| *other < seq);
        self.entries.get(index).map(|(other, _)| *other)
    }

    /// Drops whole segments below `seq`.
    fn trim(&mut self, seq: u64) -> usize {
        let keep = seq - seq % self.segment;
        let before = self.entries.len();
        self.entries.retain(|(other, _)| *other >= keep);
        before - self.entries.len()
    }

    fn lose_tail(&mut self, rng: &mut SmallRng) -> bool {
        let torn = self.entries.iter().filter(|(seq, _)| *seq > self.durable).count();
        let lost = rng.random_range(0..=torn);
        self.entries.truncate(self.entries.len() - lost);
        lost > 0
    }
}

#[derive(Debug, Default)]
pub struct StoredTable {
    pub txn: Option<u64>,
    pub rows: Vec<(usize, u32)>,
    pub deltas: BTreeMap<String, i64>,
}

#[derive(Debug)]
pub struct Disk {
    pub intake: Log<Record>,
    pub outbox: Log<Batch>,
    pub tables: BTreeMap<Table, StoredTable>,
    pub checkpoint: Option<Vec<u8>>,
    /// What `checkpoint` was before a rename whose directory has not been synced.
    replaced: Option<Option<Vec<u8>>>,
    aside: Option<Vec<u8>>,
    aside_synced: bool,
    pub writes: u64,
    pub crash_at: Option<u64>,
}

impl Disk {
    pub fn new() -> Disk {
        Disk {
            intake: Log::new(2),
            outbox: Log::new(2),
            tables: Table::COLLECTED
                .into_iter()
                .map(|table| (table, StoredTable::default()))
                .collect(),
            checkpoint: None,
            replaced: None,
            aside: None,
            aside_synced: false,
            writes: 0,
            crash_at: None,
        }
    }

    /// A point at which the process may die; what follows has not happened then.
    pub fn point(&mut self) -> Result<(), Crash> {
        self.writes += 1;
        if self.crash_at == Some(self.writes) {
            Err(Crash)
        } else {
            Ok(())
        }
    }

    pub fn append_record(&mut self, lsn: u64, record: Record) -> Result<(), Crash> {
        self.point()?;
        self.intake.entries.push_back((lsn, record));
        Ok(())
    }

    pub fn sync_intake(&mut self) -> Result<(), Crash> {
        self.point()?;
        self.intake.durable = self.intake.durable.max(self.intake.last());
        Ok(())
    }

    pub fn append_batch(&mut self, seq: u64, batch: Batch) -> Result<(), Crash> {
        self.point()?;
        self.outbox.entries.push_back((seq, batch));
        Ok(())
    }

    pub fn sync_outbox(&mut self) -> Result<(), Crash> {
        self.point()?;
        self.outbox.durable = self.outbox.durable.max(self.outbox.last());
        Ok(())
    }

    pub fn write_aside(&mut self, bytes: Vec<u8>) -> Result<(), Crash> {
        self.point()?;
        (self.aside, self.aside_synced) = (Some(bytes), false);
        Ok(())
    }

    pub fn sync_aside(&mut self) -> Result<(), Crash> {
        self.point()?;
        self.aside_synced = true;
        Ok(())
    }

    pub fn rename(&mut self) -> Result<(), Crash> {
        self.point()?;
        assert!(self.aside_synced, "a checkpoint is synced before it is renamed");
        self.replaced = Some(std::mem::replace(&mut self.checkpoint, self.aside.take()));
        Ok(())
    }

    pub fn sync_dir(&mut self) -> Result<(), Crash> {
        self.point()?;
        self.replaced = None;
        Ok(())
    }

    pub fn commit(&mut self, table: Table, txn: u64, frames: &[Frame]) -> Result<(), Crash> {
        self.point()?;
        let stored = self.tables.get_mut(&table).expect("every table is there");
        stored.txn = Some(txn);
        for frame in frames {
            stored.rows.extend(&frame.rows);
            frame
                .deltas
                .iter()
                .for_each(|(key, delta)| *stored.deltas.entry(key.clone()).or_default() += delta);
        }
        Ok(())
    }

    pub fn trim_intake(&mut self, below: u64) -> Result<usize, Crash> {
        self.point()?;
        Ok(self.intake.trim(below))
    }

    pub fn trim_outbox(&mut self, below: u64) -> Result<usize, Crash> {
        self.point()?;
        Ok(self.outbox.trim(below))
    }

    /// The process is gone; with `power` so is whatever was not synced, or part of it. True when records were lost.
    pub fn crash(&mut self, power: bool, rng: &mut SmallRng) -> bool {
        self.crash_at = None;
        self.aside = None;
        let replaced = self.replaced.take();
        if !power {
            return false;
        }
        if let Some(old) = replaced.filter(|_| rng.random_bool(0.5)) {
            self.checkpoint = old;
        }
        let lost = self.intake.lose_tail(rng);
        self.outbox.lose_tail(rng) | lost
    }
}
