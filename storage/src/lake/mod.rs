//! The tables: what exists, what is in them at one instant, and how rows get in.
//!
//! delta-rs is used narrowly, as a log (`design/storage-query.md`, a): it creates tables, adds columns, builds and stores
//! commit entries, writes checkpoints. Which files are active is kept here, by tailing the log one entry at a time, so that
//! neither a query nor a commit costs time in proportion to the number of files. Commits never use delta-rs's retries and hooks.
//!
//! Guarantees: a [`Snapshot`] is one version of one table, never a mixture; it is at most one `read_commit_entry` old when
//! handed out. Assumes: protocol reader 1 / writer 2; only `maintain` changes metadata, and only at start.
//! Leaves out: reading data files for queries (crate `query`).

mod additive;
mod commit;
mod data_file;
mod encode;
mod hours;
mod layout;
mod merge;
mod replay;
mod schema;
mod snapshot;
mod stats;
mod words;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake_core::DeltaTableBuilder;
use deltalake_core::logstore::LogStoreRef;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tailwater_model::ids::LogId;
use tailwater_model::table::Table;
use url::Url;

pub use commit::{Committed, Committer, PENDING_AGE_MAX};
pub use data_file::Tier;
pub use hours::Hours;
pub use layout::{REMOVED_KEPT_DAYS, stats_columns};
pub use snapshot::{FileEntry, Snapshot, TAIL_AGE_MAX};
pub use stats::{ColumnRange, Value};

pub(crate) use additive::{Rule, added_up, rule as additive_rule};
pub(crate) use commit::{Attempt, Change, commit_once, is_marked};
pub(crate) use data_file::{FileMaker, Written};
pub(crate) use hours::{HOUR_US, TAG_HOURS};
pub(crate) use layout::{ROW_GROUP_BYTES, format_date};
pub(crate) use merge::{Merge, Source};
pub(crate) use replay::Replay;

use crate::store::{SyncedStore, Syncs};
use crate::{Error, ErrorKind, Result};

/// The lake of one data directory. Cloning shares what is known of the tables.
#[derive(Debug, Clone)]
pub struct Lake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    url: Url,
    /// Where files lie on this machine; `None` for any other store.
    local: Option<PathBuf>,
    /// The whole store, paths absolute. What a query engine registers under [`Lake::url`]'s scheme.
    store: Arc<dyn ObjectStore>,
    syncs: Syncs,
    tables: Vec<TableState>,
}

#[derive(Debug)]
struct TableState {
    log: LogStoreRef,
    known: snapshot::Known,
}

impl Lake {
    /// The lake in a directory of this machine. Nothing is created and nothing is read yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a path that cannot be made absolute.
    pub fn open(directory: &Path) -> Result<Lake> {
        Lake::open_recorded(directory, Syncs::default())
    }

    /// As [`Lake::open`], telling `syncs` of everything made durable.
    ///
    /// # Errors
    /// As [`Lake::open`].
    pub fn open_recorded(directory: &Path, syncs: Syncs) -> Result<Lake> {
        let directory = resolve(directory)?;
        let url = Url::from_directory_path(&directory).map_err(|()| {
            Error::new(
                ErrorKind::Invalid,
                format!("not a path for a lake: {}", directory.display()),
            )
        })?;
        Lake::build(url, Arc::new(SyncedStore::new(syncs.clone())), Some(directory), syncs)
    }

    /// The lake at a URL: `file://`, or `memory://` for one that ends with the process.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for any other scheme; give [`Lake::with_store`] the store for it.
    pub fn open_url(url: &Url) -> Result<Lake> {
        match (url.scheme(), url.to_file_path()) {
            ("file", Ok(path)) => Lake::open(&path),
            ("memory", _) => Lake::with_store(url, Arc::new(InMemory::new())),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("no store for {url}: file:// and memory:// are built in"),
            )),
        }
    }

    /// The lake at `url` in a given store, whose paths are those of the URL. The store must make every write that it reports
    /// durable.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a URL that delta-rs cannot use.
    pub fn with_store(url: &Url, store: Arc<dyn ObjectStore>) -> Result<Lake> {
        Lake::build(url.clone(), store, None, Syncs::default())
    }

    fn build(mut url: Url, store: Arc<dyn ObjectStore>, local: Option<PathBuf>, syncs: Syncs) -> Result<Lake> {
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let tables = Table::ALL.into_iter().map(|table| {
            let table_url = url
                .join(&format!("{}/", table.name()))
                .map_err(|error| Error::caused(ErrorKind::Invalid, format!("lake url {url}"), error))?;
            let log = DeltaTableBuilder::from_url(table_url.clone())?
                .with_storage_backend(store.clone(), table_url)
                .build_storage()?;
            Ok(TableState {
                log,
                known: snapshot::Known::default(),
            })
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        Ok(Lake {
            inner: Arc::new(Inner {
                url,
                local,
                store,
                syncs,
                tables,
            }),
        })
    }

    /// Where the lake is; ends with a slash. A table's files are at `<url><table>/<path>`.
    pub fn url(&self) -> &Url {
        &self.inner.url
    }

    /// The store of the lake, rooted at the root of the URL (not at the lake).
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        self.inner.store.clone()
    }

    /// The store rooted at a table's directory: [`FileEntry::path`] is a path in it.
    pub fn table_store(&self, table: Table) -> Arc<dyn ObjectStore> {
        self.log(table).object_store(None)
    }

    /// Where a table's files lie on this machine, if they do.
    pub fn local_table_dir(&self, table: Table) -> Option<PathBuf> {
        Some(self.inner.local.as_ref()?.join(table.name()))
    }

    /// The table as it is now. Costs one read of a log entry that does not exist, plus what was committed since.
    ///
    /// # Errors
    /// [`ErrorKind::MissingTable`]; [`ErrorKind::Damaged`] with the file's name; [`ErrorKind::Incompatible`]; [`ErrorKind::Store`].
    pub async fn snapshot(&self, table: Table) -> Result<Arc<Snapshot>> {
        let state = self.state(table);
        state
            .known
            .latest(table, &state.log)
            .await
            .map_err(|error| error.within(format_args!("table {}", table.name())))
    }

    /// The one writer of `table` for this application id (see [`app_id`]). Two at a time fence each other.
    pub fn committer(&self, table: Table, app_id: impl Into<String>) -> Committer {
        Committer::new(self.clone(), table, app_id.into())
    }

    /// Creates the tables that do not exist, and adds columns that this program knows and a table lacks. For `maintain`, or
    /// the first start, before collectors write: a commit in flight would have to be encoded again.
    ///
    /// # Errors
    /// [`ErrorKind::Incompatible`] if a table has a column of another type, lacks one that may not be null, is partitioned
    /// otherwise, or needs a newer protocol; the text says which.
    pub async fn ensure_tables(&self) -> Result<()> {
        for table in Table::ALL {
            schema::ensure(self, table)
                .await
                .map_err(|error| error.within(format_args!("table {}", table.name())))?;
        }
        Ok(())
    }

    pub(crate) fn log(&self, table: Table) -> &LogStoreRef {
        &self.state(table).log
    }

    pub(crate) fn syncs(&self) -> &Syncs {
        &self.inner.syncs
    }

    /// Syncs the names of a table's log entries: one that a process before this one put, or whose put failed at the end, can be read before it
    /// is durable.
    pub(crate) async fn sync_log(&self, table: Table) -> Result<()> {
        let Some(directory) = self.local_table_dir(table) else {
            return Ok(());
        };
        Ok(crate::store::sync_directory(directory.join("_delta_log"), self.syncs()).await?)
    }

    fn state(&self, table: Table) -> &TableState {
        // Codes are dense from 1, in the order of `Table::ALL`; a test holds them to it.
        &self.inner.tables[table as usize - 1]
    }
}

/// The application id of a collector's `txn` in a table (rule P6). Its version is the last outbox batch in the table.
pub fn app_id(log_id: LogId, table: Table) -> String {
    format!("collector/{log_id}/{}", table.name())
}

/// Absolute, with symbolic links resolved as far as the path exists.
fn resolve(directory: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(directory)?;
    let existing = absolute
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    let rest = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
    Ok(existing.canonicalize()?.join(rest))
}

#[cfg(test)]
pub(crate) mod tests;
