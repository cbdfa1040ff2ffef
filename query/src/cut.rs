//! One cut over all tables of a query: which version of each, and which outbox frames it does not have yet.
//!
//! Guarantees (the reading protocol of `design/protocol.md`, built in [`tailwater_storage::hot`]): every row that was durable when the cut
//! was made is seen once, from the table or from a frame, and the same batches are seen in every table. Takes no locks and never waits
//! for a writer.

use std::path::PathBuf;

use tailwater_model::table::Table;
use tailwater_storage::hot::{HotTable, hot_view};
use tailwater_storage::lake::Lake;
use tailwater_storage::outbox::Outbox;

use crate::error::{Error, ErrorKind, Result};

/// The tables of one query at one instant.
#[derive(Debug)]
pub(crate) struct Cut {
    pub tables: Vec<HotTable>,
    /// What whoever reads the answer must know: rows that are missing from it.
    pub notes: Vec<String>,
}

/// Where cuts are made. Keeps mappings and snapshots between queries.
#[derive(Debug)]
pub(crate) struct Source {
    lake: Lake,
    outbox: Option<Outbox>,
}

impl Source {
    pub(crate) fn new(lake: Lake, outbox: Option<PathBuf>) -> Source {
        Source {
            lake,
            outbox: outbox.map(|directory| Outbox::open_readonly(&directory)),
        }
    }

    /// Pins these tables.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if there is neither such a table nor an outbox that may have its rows.
    pub(crate) async fn pin(&self, tables: &[Table]) -> Result<Cut> {
        let view = hot_view(&self.lake, self.outbox.as_ref(), tables).await?;
        if view.cut == 0
            && let Some(missing) = view.tables.iter().find(|table| is_missing(table))
        {
            return Err(no_table(missing.table));
        }
        let notes = view.missing.iter().map(|(first, last)| {
            format!("rows of outbox batches {first} to {last} may be missing: their bytes are damaged")
        });
        let notes: Vec<String> = notes.collect();
        for note in &notes {
            tracing::warn!("{note}");
        }
        Ok(Cut {
            tables: view.tables,
            notes,
        })
    }

    /// Whether every table is there.
    pub(crate) async fn ready(&self) -> Result<()> {
        let view = hot_view(&self.lake, self.outbox.as_ref(), &Table::ALL).await?;
        match view.tables.iter().find(|table| is_missing(table)) {
            Some(missing) => Err(no_table(missing.table)),
            None => Ok(()),
        }
    }
}

/// Without a derived table, `red` answers.
fn is_missing(table: &HotTable) -> bool {
    table.snapshot.is_none() && table.table.derived_slice_s().is_none()
}

fn no_table(table: Table) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the lake has no table {} yet", table.name()),
    )
}
