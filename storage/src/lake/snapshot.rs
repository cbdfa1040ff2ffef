//! One version of one table, and keeping up with the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow::datatypes::SchemaRef;
use deltalake_core::kernel::{Action, Add, Version};
use deltalake_core::logstore::LogStoreRef;
use tailwater_model::table::Table;
use tokio::sync::Mutex;

use super::data_file::Tier;
use super::hours::{Hours, TAG_HOURS};
use super::replay::{self, Replay, TAG_CRC32C, TAG_SORTED, TAG_TIER};
use super::stats::{self, ColumnRange, Value};
use super::{layout, schema};
use crate::{Error, ErrorKind, Result};

/// After this long without looking, the next log entry may have come and been cleaned away, which looks the same as "nothing new": read the
/// log afresh instead of tailing. Log entries have to stay for rather longer ([`crate::maintain::Policy::log_retention_ms`]).
pub const TAIL_AGE_MAX: Duration = Duration::from_secs(3600);

/// An active data file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileEntry {
    /// Path below the table's directory.
    pub path: Arc<str>,
    /// Length in bytes.
    pub size: u64,
    /// Rows.
    pub rows: u64,
    /// Partition: days since 1970.
    pub date: i32,
    /// When it was made, in milliseconds since 1970.
    pub modified_ms: i64,
    /// Whether its rows are in the table's order ([`tailwater_model::table::sort_columns`], ascending, nulls first).
    pub sorted: bool,
    /// How far compaction has come with it.
    pub tier: Tier,
    /// Bounds of the columns that the log has statistics of.
    pub stats: Vec<ColumnRange>,
    /// Versions of `red` by hour, in `red` and the tables derived from it; `None` if the file does not say.
    pub hours: Option<Hours>,
    /// CRC-32C of its bytes; `None` if the log does not say (another engine's file, or one written before this was noted).
    pub crc32c: Option<u32>,
}

impl FileEntry {
    /// What is known of a column.
    pub fn range(&self, column: &str) -> Option<&ColumnRange> {
        self.stats.iter().find(|range| &*range.column == column)
    }

    /// Smallest and largest value of an integer or time column, if both are known.
    pub fn int_range(&self, column: &str) -> Option<(i64, i64)> {
        match (&self.range(column)?.min, &self.range(column)?.max) {
            (Some(Value::Int(min)), Some(Value::Int(max))) => Some((*min, *max)),
            _ => None,
        }
    }

    pub(crate) fn from_add(schema: &SchemaRef, add: &Add) -> Result<FileEntry> {
        let damaged = |what: &str| Error::new(ErrorKind::Damaged, format!("file {}: {what} in the log", add.path));
        let date = add
            .partition_values
            .get("date")
            .and_then(|date| date.as_deref())
            .ok_or_else(|| damaged("no date"))?;
        let date = layout::parse_date(date).ok_or_else(|| damaged("bad date"))?;
        let tag = |name: &str| add.tags.as_ref()?.get(name)?.as_deref();
        let (rows, stats) = stats::parse(schema, add.stats.as_deref(), add.tags.as_ref());
        Ok(FileEntry {
            path: Arc::from(add.path.as_str()),
            size: u64::try_from(add.size).map_err(|_| damaged("negative size"))?,
            rows: rows.ok_or_else(|| damaged("no row count"))?,
            date,
            modified_ms: add.modification_time,
            sorted: tag(TAG_SORTED) == Some("true"),
            tier: tag(TAG_TIER).and_then(Tier::from_name).unwrap_or(Tier::Flushed),
            stats,
            hours: tag(TAG_HOURS).and_then(Hours::parse),
            crc32c: tag(TAG_CRC32C).and_then(|text| u32::from_str_radix(text, 16).ok()),
        })
    }
}

/// One version of one table.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Which table.
    pub table: Table,
    /// Which version.
    pub version: u64,
    /// The table's columns as the log has them, `date` included. May lack columns that this program knows, if `maintain` has
    /// not added them yet, and may have columns that it does not know.
    pub schema: SchemaRef,
    files: Arc<Vec<Arc<FileEntry>>>,
    txns: Arc<HashMap<String, i64>>,
}

impl Snapshot {
    /// The active files, in the order of their commits.
    pub fn files(&self) -> &[Arc<FileEntry>] {
        &self.files
    }

    /// Version of the last transaction of this application; `None` if it never wrote here.
    pub fn txn(&self, app_id: &str) -> Option<i64> {
        self.txns.get(app_id).copied()
    }

    /// All applications that wrote here, with the version of the last transaction of each.
    pub fn txns(&self) -> impl Iterator<Item = (&str, i64)> {
        self.txns.iter().map(|(app, version)| (app.as_str(), *version))
    }

    fn from_replay(table: Table, replay: Replay) -> Result<Snapshot> {
        let (Some(metadata), Some(protocol)) = (&replay.metadata, &replay.protocol) else {
            return Err(Error::new(ErrorKind::Damaged, "the log has no metadata or no protocol"));
        };
        schema::check_protocol(protocol)?;
        let schema = schema::from_metadata(metadata)?;
        let files = replay
            .files
            .values()
            .map(|add| FileEntry::from_add(&schema, add).map(Arc::new));
        let mut files = files.collect::<Result<Vec<_>>>()?;
        files.sort_by_key(|file| file.modified_ms);
        let (files, txns) = (Arc::new(files), Arc::new(replay.txns));
        Ok(Snapshot {
            table,
            version: replay.version,
            schema,
            files,
            txns,
        })
    }

    /// The snapshot after these commits; `None` if one of them changes metadata or protocol, so that all must be read anew.
    fn after(&self, commits: Vec<(Version, Vec<Action>)>) -> Result<Option<Snapshot>> {
        let mut next = self.clone();
        // Copies the pointers once, however many commits there are.
        let mut files = (*self.files).clone();
        for (version, actions) in commits {
            let mut removed = HashSet::new();
            let mut added = Vec::new();
            for action in actions {
                match action {
                    Action::Add(add) => {
                        added.push(Arc::new(FileEntry::from_add(&self.schema, &add)?));
                        // Adding a path again replaces what the log says of it.
                        removed.insert(add.path);
                    }
                    Action::Remove(remove) => {
                        removed.insert(remove.path);
                    }
                    Action::Txn(txn) => {
                        Arc::make_mut(&mut next.txns).insert(txn.app_id, txn.version);
                    }
                    Action::Metadata(_) | Action::Protocol(_) => return Ok(None),
                    Action::Cdc(_) | Action::CommitInfo(_) | Action::DomainMetadata(_) => {}
                }
            }
            if !removed.is_empty() {
                files.retain(|file| !removed.contains(&*file.path));
            }
            files.append(&mut added);
            next.version = version;
        }
        next.files = Arc::new(files);
        Ok(Some(next))
    }
}

/// When something was done, by both clocks: one stands still while the machine sleeps, the other may be set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    pub running: Instant,
    pub wall: SystemTime,
}

impl Looked {
    pub fn now() -> Looked {
        Looked {
            running: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The longer of the two. A wall clock set back says nothing.
    pub fn since(&self, earlier: &Looked) -> Duration {
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        self.running.duration_since(earlier.running).max(wall)
    }
}

/// The newest snapshot known, shared by everyone who asks this [`super::Lake`].
#[derive(Debug, Default)]
pub(super) struct Known {
    newest: Mutex<Option<(Arc<Snapshot>, Looked)>>,
}

impl Known {
    /// Reads what was committed since, and returns the result.
    pub async fn latest(&self, table: Table, log: &LogStoreRef) -> Result<Arc<Snapshot>> {
        // One reader of the log at a time: those who wait find the work done.
        let mut newest = self.newest.lock().await;
        let now = Looked::now();
        let tailed = match &*newest {
            Some((known, looked)) if now.since(looked) < TAIL_AGE_MAX => tail(known, log).await?,
            _ => None,
        };
        let snapshot = match tailed {
            Some(snapshot) => snapshot,
            None => {
                let replay = Replay::load(log).await?;
                let missing = || Error::new(ErrorKind::MissingTable, "the lake has no such table yet");
                Arc::new(Snapshot::from_replay(table, replay.ok_or_else(missing)?)?)
            }
        };
        *newest = Some((snapshot.clone(), now));
        Ok(snapshot)
    }
}

async fn tail(known: &Arc<Snapshot>, log: &LogStoreRef) -> Result<Option<Arc<Snapshot>>> {
    let mut commits = Vec::new();
    let mut version = known.version;
    while let Some(entry) = log.read_commit_entry(version + 1).await? {
        version += 1;
        commits.push((version, replay::actions(version, &entry)?));
    }
    if commits.is_empty() {
        return Ok(Some(known.clone()));
    }
    Ok(known.after(commits)?.map(Arc::new))
}
