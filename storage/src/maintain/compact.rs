//! Merging files: sorted runs in, sorted files out, one commit.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use deltalake_core::kernel::{Action, Remove, Transaction};
use deltalake_core::protocol::DeltaOperation;
use tailwater_model::table::sort_columns;
use tracing::debug;
use uuid::Uuid;

use super::plan::Group;
use super::{Keeper, Report, files};
use crate::lake::{
    Attempt, Change, FileEntry, FileMaker, Hours, Merge, Snapshot, TAG_HOURS, Written, commit_once, format_date,
    is_marked,
};
use crate::{Error, ErrorKind, Result};

/// Rows in memory between reading and writing.
pub(super) const CHUNK_ROWS: usize = 4096;
/// Attempts before leaving it to the next run.
const ATTEMPTS_MAX: u32 = 6;

impl Keeper {
    /// Merges a group. False if its files changed under us, so that there is nothing to commit.
    pub(super) async fn compact(&self, group: &Group, now_ms: i64, report: &mut Report) -> Result<bool> {
        let _turn = self.turn().await?;
        let snapshot = self.lake.snapshot(self.table).await?;
        let maker = self.maker();
        let mut opened = Vec::with_capacity(group.files.len());
        for file in &group.files {
            opened.push((file.path.clone(), files::open(&self.lake, self.table, file).await?));
        }
        let schema = without_date(&snapshot.schema);
        let (date, target) = (group.date, self.target_bytes(&snapshot));
        let order = sort_columns(self.table);
        let make = move |maker: &FileMaker, written: &mut Vec<Written>| {
            let footers = opened.iter().map(|(path, file)| file.metadata(path));
            let maker = maker.knowing(&footers.collect::<Result<Vec<_>>>()?);
            let sources = opened.into_iter().map(|(path, file)| file.rows(&path, &schema, None));
            let sources = sources.collect::<Result<_>>()?;
            let merged = Merge::new(&schema, order, sources, CHUNK_ROWS)?;
            write_rows(&maker, &schema, merged, date, target, now_ms, written)
        };
        let made = maker.make(make).await;
        let mut written = made.map_err(|error| blamed(error, group.files.iter()))?;
        let rows: u64 = group.files.iter().map(|file| file.rows).sum();
        let merged_rows: u64 = written.iter().map(|file| file.rows).sum();
        if rows != merged_rows {
            maker.discard(&written).await;
            let text = format!("merging {rows} rows of {} gave {merged_rows}", self.table.name());
            return Err(blamed(Error::new(ErrorKind::Damaged, text), group.files.iter()));
        }
        rearranged(&mut written, &group.files);
        let bytes = written.iter().map(|file| file.bytes).sum::<u64>();
        let files = written.len() as u64;
        let replaced = self.replace(&snapshot, &group.files, &maker, written, now_ms).await?;
        if replaced {
            report.merges += 1;
            report.merged_files += group.files.len() as u64;
            report.merged_bytes += group.files.iter().map(|file| file.size).sum::<u64>();
            report.written_files += files;
            report.written_bytes += bytes;
        }
        Ok(replaced)
    }

    /// The right to use memory and disk for a rewrite.
    pub(super) async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        let ending = |_| Error::new(ErrorKind::Store, "maintenance is ending");
        self.turn.acquire().await.map_err(ending)
    }

    /// Size at which files of the table are cut.
    pub(super) fn target_bytes(&self, snapshot: &Snapshot) -> u64 {
        let policy = self.policy_for(snapshot);
        policy.target_bytes.max(policy.large_bytes)
    }

    /// One commit that removes `old` and adds `new`, which was made for the columns of `snapshot`. False, and the new files are gone, if
    /// `old` or the columns changed under us. Whether data changes is what the Adds say.
    pub(super) async fn replace(
        &self,
        snapshot: &Snapshot,
        old: &[Arc<FileEntry>],
        maker: &FileMaker,
        new: Vec<Written>,
        now_ms: i64,
    ) -> Result<bool> {
        let data_change = new.iter().any(|file| file.add.data_change);
        let adds: Vec<Action> = new.iter().map(|file| Action::Add(file.add.clone())).collect();
        let target_size = i64::try_from(self.target_bytes(snapshot)).unwrap_or(i64::MAX);
        let built = self
            .commit(|now| {
                let same_columns = now.schema == snapshot.schema;
                if !same_columns || !all_active(now, old) {
                    return Ok(None);
                }
                let removes = old
                    .iter()
                    .map(|file| Ok(Action::Remove(remove(file, now_ms, data_change)?)));
                Ok(Some(Change {
                    actions: removes.chain(adds.iter().cloned().map(Ok)).collect::<Result<_>>()?,
                    txns: Vec::new(),
                    operation: DeltaOperation::Optimize {
                        predicate: None,
                        target_size,
                    },
                    mark: Uuid::new_v4().to_string(),
                }))
            })
            .await;
        match built {
            Ok(Outcome::Committed) => Ok(true),
            Ok(Outcome::Moot) => {
                maker.discard(&new).await;
                Ok(false)
            }
            Err(Failed::Certain(error)) => {
                maker.discard(&new).await;
                Err(error)
            }
            // An entry that names the new files may yet appear: the sweep decides in a day.
            Err(Failed::Doubtful(error)) => Err(error),
        }
    }

    /// Commits what `build` says for the newest snapshot; `None` from it means there is nothing to do any more.
    pub(super) async fn commit(&self, build: impl Fn(&Snapshot) -> Result<Option<Change>>) -> Result<Outcome, Failed> {
        let mut tried: Vec<(u64, String)> = Vec::new();
        let mut last = None;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(wait(self.policy.conflict_wait, attempt)).await;
            }
            let snapshot = match self.lake.snapshot(self.table).await {
                Ok(snapshot) => snapshot,
                Err(error) if error.is_retryable() && !tried.is_empty() => {
                    last = Some(error);
                    continue;
                }
                Err(error) => return Err(Failed::Certain(error)),
            };
            for (version, mark) in &tried {
                match is_marked(&self.lake, self.table, *version, mark).await {
                    Ok(true) => return Ok(Outcome::Committed),
                    Ok(false) => {}
                    Err(error) => return Err(Failed::Doubtful(error)),
                }
            }
            let Some(change) = build(&snapshot).map_err(Failed::Certain)? else {
                return Ok(Outcome::Moot);
            };
            let mark = change.mark.clone();
            match commit_once(&self.lake, self.table, snapshot.version, change).await {
                Attempt::Done(_) => return Ok(Outcome::Committed),
                Attempt::Conflict => debug!(table = self.table.name(), "another commit came first"),
                Attempt::Doubtful(error) => {
                    tried.push((snapshot.version + 1, mark));
                    last = Some(error);
                }
            }
        }
        let error = last.unwrap_or_else(|| Error::new(ErrorKind::Conflict, format!("lost {ATTEMPTS_MAX} races")));
        Err(if tried.is_empty() {
            Failed::Certain(error)
        } else {
            Failed::Doubtful(error)
        })
    }
}

/// How a maintenance commit ended.
pub(super) enum Outcome {
    Committed,
    /// There was nothing to do any more.
    Moot,
}

/// Why a maintenance commit failed.
pub(super) enum Failed {
    /// No entry of ours exists.
    Certain(Error),
    /// One may.
    Doubtful(Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        match failed {
            Failed::Certain(error) | Failed::Doubtful(error) => error,
        }
    }
}

fn wait(first: Duration, attempt: u32) -> Duration {
    use rand::Rng;
    let whole = first.saturating_mul(1 << (attempt - 1).min(4));
    whole.mul_f64(rand::rng().random_range(1.0..=1.5))
}

/// Marks files as holding what was in `old`: nobody who follows the table has to look at them again.
pub(super) fn rearranged(new: &mut [Written], old: &[Arc<FileEntry>]) {
    let mut hours = Some(Hours::default());
    for file in old {
        hours = hours.zip(file.hours).map(|(mut all, more)| {
            all.absorb(&more);
            all
        });
    }
    for file in new {
        file.add.data_change = false;
        if let Some(hours) = &hours {
            set_hours(file, hours);
        }
    }
}

pub(super) fn set_hours(file: &mut Written, hours: &Hours) {
    let tags = file.add.tags.get_or_insert_default();
    tags.insert(TAG_HOURS.to_owned(), Some(hours.to_string()));
}

/// Sorted rows into files of about `target` bytes.
pub(super) fn write_rows(
    maker: &FileMaker,
    schema: &SchemaRef,
    rows: impl Iterator<Item = Result<RecordBatch>>,
    date: i32,
    target: u64,
    now_ms: i64,
    written: &mut Vec<Written>,
) -> Result<()> {
    let mut open = None;
    for rows in rows {
        let mut file = match open.take() {
            Some(file) => file,
            None => maker.start(schema, date, now_ms)?,
        };
        file.write(&rows?)?;
        if file.reached(target)? {
            written.push(file.finish()?);
        } else {
            open = Some(file);
        }
    }
    if let Some(file) = open {
        written.push(file.finish()?);
    }
    Ok(())
}

/// An error of making files out of these: unless it is the disk's, it comes again with them.
pub(super) fn blamed<'a>(error: Error, files: impl Iterator<Item = &'a Arc<FileEntry>>) -> Error {
    match error.kind() {
        ErrorKind::Damaged | ErrorKind::Invalid => error.of_files(files.map(|file| &file.path)),
        _ => error,
    }
}

fn all_active(snapshot: &Snapshot, files: &[Arc<FileEntry>]) -> bool {
    let active: std::collections::HashSet<&str> = snapshot.files().iter().map(|file| &*file.path).collect();
    files.iter().all(|file| active.contains(&*file.path))
}

pub(super) fn remove(file: &FileEntry, now_ms: i64, data_change: bool) -> Result<Remove> {
    let day = format_date(file.date).ok_or_else(|| Error::new(ErrorKind::Damaged, "a file without a calendar date"))?;
    Ok(Remove {
        path: file.path.to_string(),
        data_change,
        deletion_timestamp: Some(now_ms),
        extended_file_metadata: Some(true),
        partition_values: Some([("date".to_owned(), Some(day))].into()),
        size: i64::try_from(file.size).ok(),
        ..Remove::default()
    })
}

pub(super) fn txn(app_id: &str, version: i64, now_ms: i64) -> Transaction {
    Transaction::new_with_last_update(app_id, version, Some(now_ms))
}

/// The columns of a table's files: all but the partition.
pub(crate) fn without_date(schema: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new(
        schema
            .fields()
            .iter()
            .filter(|field| field.name() != "date")
            .cloned()
            .collect::<Vec<_>>(),
    ))
}
