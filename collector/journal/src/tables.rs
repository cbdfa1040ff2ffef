//! What each table has committed, and what the outbox still holds for it (P6, P8).

use std::collections::VecDeque;

use tailwater_model::ids::BatchSeq;
use tailwater_model::table::Table;

use crate::error::Error;
use crate::settlement::TableSet;

/// A contiguous range of batches for one Delta commit: `after < seq <= through`, `txn` version = `through`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitPlan {
    /// Which table.
    pub table: Table,
    /// v: what the table has.
    pub after: BatchSeq,
    /// hi: what it will have. The caller may stop earlier, for size.
    pub through: BatchSeq,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    states: Vec<TableState>,
}

#[derive(Debug, Clone)]
struct TableState {
    table: Table,
    /// v: the larger of the table's `txn` and the checkpoint's.
    version: BatchSeq,
    /// Whether the table's own `txn` has been read since start; before that nothing is committed.
    read: bool,
    /// Batches above v with a frame of this table, as inclusive runs, ascending.
    frames: VecDeque<(u64, u64)>,
}

impl Tables {
    pub fn new(versions: &[(Table, BatchSeq)]) -> Tables {
        let version = |table| {
            versions
                .iter()
                .find(|(known, _)| *known == table)
                .map_or(BatchSeq(0), |(_, version)| *version)
        };
        let state = |table| TableState {
            table,
            version: version(table),
            read: false,
            frames: VecDeque::new(),
        };
        Tables {
            states: Table::COLLECTED.into_iter().map(state).collect(),
        }
    }

    fn state(&self, table: Table) -> &TableState {
        self.states
            .iter()
            .find(|state| state.table == table)
            .expect("every table has a state")
    }

    fn state_mut(&mut self, table: Table) -> &mut TableState {
        self.states
            .iter_mut()
            .find(|state| state.table == table)
            .expect("every table has a state")
    }

    /// A batch with frames of `tables`; batches come in order.
    pub fn frames(&mut self, seq: BatchSeq, tables: TableSet) {
        for state in self
            .states
            .iter_mut()
            .filter(|state| tables.contains(state.table) && seq > state.version)
        {
            match state.frames.back_mut() {
                Some((_, last)) if *last + 1 == seq.0 => *last = seq.0,
                Some((_, last)) if *last >= seq.0 => {}
                _ => state.frames.push_back((seq.0, seq.0)),
            }
        }
    }

    /// The table's own `txn` was read: `None` for a table without one.
    pub fn read(&mut self, table: Table, txn: Option<BatchSeq>, end: BatchSeq) -> Result<(), Error> {
        let version = txn.unwrap_or_default();
        if version > end {
            return Err(Error::ForeignTable { table, version, end });
        }
        self.state_mut(table).read = true;
        self.committed(table, version);
        Ok(())
    }

    pub fn committed(&mut self, table: Table, through: BatchSeq) {
        let state = self.state_mut(table);
        state.version = state.version.max(through);
        let version = state.version.0;
        while let Some((first, last)) = state.frames.front_mut() {
            if *last > version {
                *first = (*first).max(version + 1);
                return;
            }
            state.frames.pop_front();
        }
    }

    pub fn plan(&self, table: Table, durable: BatchSeq) -> Option<CommitPlan> {
        let state = self.state(table);
        let (first, _) = *state.frames.front()?;
        (state.read && first <= durable.0).then_some(CommitPlan {
            table,
            after: state.version,
            through: durable,
        })
    }

    pub fn version(&self, table: Table) -> BatchSeq {
        self.state(table).version
    }

    pub fn versions(&self) -> impl Iterator<Item = (Table, BatchSeq)> + '_ {
        self.states.iter().map(|state| (state.table, state.version))
    }

    /// The first batch that some table still needs.
    pub fn first_needed(&self) -> Option<BatchSeq> {
        self.states
            .iter()
            .filter_map(|state| state.frames.front())
            .map(|(first, _)| BatchSeq(*first))
            .min()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tables(versions: &[(Table, BatchSeq)]) -> Tables {
        let mut tables = Tables::new(versions);
        for seq in 1..=6 {
            let mut set = TableSet::EMPTY.with(Table::Ledger);
            if [2, 3, 6].contains(&seq) {
                set = set.with(Table::Logs);
            }
            tables.frames(BatchSeq(seq), set);
        }
        tables
    }

    #[test]
    fn nothing_is_committed_before_the_txn_was_read() {
        let mut tables = tables(&[]);
        assert_eq!(tables.plan(Table::Logs, BatchSeq(6)), None);
        tables.read(Table::Logs, None, BatchSeq(6)).unwrap();
        let plan = CommitPlan {
            table: Table::Logs,
            after: BatchSeq(0),
            through: BatchSeq(6),
        };
        assert_eq!(tables.plan(Table::Logs, BatchSeq(6)), Some(plan));
        assert_eq!(tables.plan(Table::Logs, BatchSeq(1)), None, "no frame in (0, 1]");
        tables.read(Table::Spans, None, BatchSeq(6)).unwrap();
        assert_eq!(
            tables.plan(Table::Spans, BatchSeq(6)),
            None,
            "a table without frames has nothing to commit"
        );
    }

    #[test]
    fn the_larger_of_txn_and_checkpoint_counts() {
        let mut tables = tables(&[(Table::Logs, BatchSeq(3))]);
        tables.read(Table::Logs, Some(BatchSeq(2)), BatchSeq(6)).unwrap();
        assert_eq!(tables.plan(Table::Logs, BatchSeq(6)).unwrap().after, BatchSeq(3));
        tables.read(Table::Logs, Some(BatchSeq(6)), BatchSeq(6)).unwrap();
        assert_eq!(tables.plan(Table::Logs, BatchSeq(6)), None);
    }

    #[test]
    fn a_table_ahead_of_the_outbox_is_foreign() {
        let mut tables = tables(&[]);
        let error = tables.read(Table::Logs, Some(BatchSeq(7)), BatchSeq(6)).unwrap_err();
        assert_eq!(
            error,
            Error::ForeignTable {
                table: Table::Logs,
                version: BatchSeq(7),
                end: BatchSeq(6)
            }
        );
        assert!(error.to_string().contains("table logs"), "{error}");
    }

    #[test]
    fn the_slowest_table_with_a_frame_holds_the_outbox() {
        let mut tables = tables(&[]);
        assert_eq!(tables.first_needed(), Some(BatchSeq(1)));
        tables.committed(Table::Ledger, BatchSeq(4));
        assert_eq!(tables.first_needed(), Some(BatchSeq(2)));
        tables.committed(Table::Logs, BatchSeq(2));
        assert_eq!(tables.first_needed(), Some(BatchSeq(3)));
        tables.committed(Table::Logs, BatchSeq(5));
        assert_eq!(tables.first_needed(), Some(BatchSeq(5)));
        tables.committed(Table::Ledger, BatchSeq(6));
        assert_eq!(tables.first_needed(), Some(BatchSeq(6)));
        tables.committed(Table::Logs, BatchSeq(6));
        assert_eq!(tables.first_needed(), None);
    }
}
