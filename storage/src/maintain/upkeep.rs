//! Checkpoints, log clean-up, vacuum, and the sweep for files that nothing names.

use std::collections::HashSet;
use std::path::Path as FsPath;
use std::time::SystemTime;

use deltalake_core::{DeltaTable, checkpoints};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tracing::{debug, info};

use super::{Keeper, Report};
use crate::lake::Replay;
use crate::{Error, ErrorKind, Result};

impl Keeper {
    pub(super) async fn upkeep(&mut self, now_ms: i64, report: &mut Report) -> Result<()> {
        let snapshot = self.lake.snapshot(self.table).await?;
        // Set back, the clock says that the last one is yet to come.
        let is_due = self
            .swept_ms
            .is_none_or(|swept| !(0..self.policy.sweep_every_ms).contains(&(now_ms - swept)));
        let is_due = is_due && self.clock.is_believed(&snapshot);
        let mut outcome = Ok(());
        // First: a checkpoint may need the room that this makes.
        if is_due {
            outcome = self.sweep(now_ms, report).await;
        }
        outcome = outcome.and(self.write_checkpoint(report).await);
        if is_due {
            outcome = outcome.and(self.clean_log(now_ms, report).await);
        }
        if is_due && outcome.is_ok() {
            self.swept_ms = Some(now_ms);
        }
        outcome
    }

    async fn write_checkpoint(&mut self, report: &mut Report) -> Result<()> {
        let snapshot = self.lake.snapshot(self.table).await?;
        let newest = match self.checkpoint {
            Some(version) => version,
            None => newest_checkpoint(&*self.lake.table_store(self.table)).await?,
        };
        self.checkpoint = Some(newest);
        if snapshot.version < newest + self.policy.checkpoint_commits {
            return Ok(());
        }
        let mut table = DeltaTable::new(self.lake.log(self.table).clone());
        table.load_version(snapshot.version).await?;
        checkpoints::create_checkpoint(&table, None).await?;
        debug!(
            table = self.table.name(),
            version = snapshot.version,
            "checkpoint written"
        );
        self.checkpoint = Some(snapshot.version);
        report.checkpoint = Some(snapshot.version);
        Ok(())
    }

    async fn clean_log(&self, now_ms: i64, report: &mut Report) -> Result<()> {
        let snapshot = self.lake.snapshot(self.table).await?;
        let cutoff = now_ms - self.policy.log_retention_ms;
        let log = self.lake.log(self.table);
        let removed = checkpoints::cleanup_expired_logs_for(snapshot.version, log.as_ref(), cutoff, None).await?;
        report.log_files_removed += removed as u64;
        Ok(())
    }

    /// Unlinks files that a commit removed, or that no commit ever named, once they are old enough. The log is read afresh
    /// and before the listing: a file that a commit names by now is in it, and a file of a commit to come is young.
    async fn sweep(&self, now_ms: i64, report: &mut Report) -> Result<()> {
        let store = self.lake.table_store(self.table);
        let old = now_ms - self.policy.vacuum_after_ms;
        let listed = list_data_files(&*store).await?;
        let replay = Replay::load(self.lake.log(self.table)).await?;
        let Some(replay) = replay else {
            return Err(Error::new(ErrorKind::MissingTable, "the table is gone"));
        };
        let listed: HashSet<String> = listed
            .into_iter()
            .filter(|(_, modified)| *modified < old)
            .map(|(path, _)| path)
            .collect();
        let mut outcome = Ok(());
        for path in listed.into_iter().filter(|path| !replay.files.contains_key(path)) {
            let removed = replay.removed.get(&path);
            if removed.is_some_and(|removed| removed.deletion_timestamp.is_none_or(|at| at >= old)) {
                continue;
            }
            match store.delete(&Path::from(path.as_str())).await {
                Ok(()) if removed.is_some() => report.vacuumed += 1,
                Ok(()) => {
                    info!(table = self.table.name(), path, "orphan removed");
                    report.orphans += 1;
                }
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => outcome = outcome.and(Err(error.into())),
            }
        }
        if let Some(directory) = self.lake.local_table_dir(self.table) {
            let swept = tokio::task::spawn_blocking(move || sweep_staged(&directory, old)).await?;
            report.orphans += swept?;
        }
        outcome
    }
}

async fn newest_checkpoint(store: &dyn ObjectStore) -> Result<u64> {
    let objects: Vec<_> = store.list(Some(&Path::from("_delta_log"))).try_collect().await?;
    let versions = objects.iter().filter_map(|object| {
        let name = object.location.filename()?;
        let (version, rest) = name.split_once('.')?;
        rest.starts_with("checkpoint").then(|| version.parse().ok())?
    });
    Ok(versions.max().unwrap_or(0))
}

/// Data files with their modification times, in milliseconds since 1970.
async fn list_data_files(store: &dyn ObjectStore) -> Result<Vec<(String, i64)>> {
    let days = store.list_with_delimiter(None).await?.common_prefixes;
    let mut files = Vec::new();
    for day in days
        .iter()
        .filter(|day| day.filename().is_some_and(|name| name.starts_with("date=")))
    {
        let objects: Vec<_> = store.list(Some(day)).try_collect().await?;
        let data = objects
            .into_iter()
            .filter(|object| object.location.as_ref().ends_with(".parquet"));
        files.extend(data.map(|object| (object.location.to_string(), object.last_modified.timestamp_millis())));
    }
    Ok(files)
}

/// Removes staging files (`<name>#<digits>`) that a crash left; listings do not show them.
fn sweep_staged(directory: &FsPath, old_ms: i64) -> Result<u64> {
    let mut swept = 0;
    let directories = std::fs::read_dir(directory)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    for directory in directories.filter(|path| path.is_dir()) {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((_, digits)) = name.to_str().and_then(|name| name.rsplit_once('#')) else {
                continue;
            };
            let staged = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let modified = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .unwrap_or_else(|_| SystemTime::now());
            let modified = modified
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as i64);
            if staged && modified < old_ms {
                std::fs::remove_file(entry.path())?;
                swept += 1;
            }
        }
    }
    Ok(swept)
}
