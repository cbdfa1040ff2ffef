//! Retention: whole files go, and what went is counted in the same commit.
//!
//! The ledger's identity needs `expired`: rows readable = stored - expired. A Remove leaves the log after some hours, so the
//! count rides in `txn` actions, which no checkpoint forgets: `expired/<table>/<tenant>` has the rows removed so far as its
//! version, and `expired-through/<table>` the largest outbox batch among them. The commit that removes the files raises
//! both, so they are exact at every version of the table. A file whose rows cannot be counted stays; of `red` and what is derived from it,
//! whose rows no account has, it goes uncounted, for days go in order there.
//!
//! A clock that was wrong for a minute must not cost rows: see [`super::clock`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use deltalake_core::kernel::Action;
use deltalake_core::protocol::DeltaOperation;
use tailwater_model::table::{Table, time_column};
use tracing::{info, warn};
use uuid::Uuid;

use super::compact::{Outcome, blamed, remove, txn};
use super::{DAY_MS, Keeper, Report, files};
use crate::lake::{Change, FileEntry, Snapshot, Value};
use crate::levels::{expired_before, expired_before_app_id, uncovered_dates};
use crate::{Error, ErrorKind, Result};

/// Application id under which rows of a tenant that retention removed are counted.
pub fn expired_app_id(table: Table, tenant: &str) -> String {
    format!("expired/{}/{tenant}", table.name())
}

fn through_app_id(table: Table) -> String {
    format!("expired-through/{}", table.name())
}

/// Rows that retention has removed from the table so far, by tenant.
pub fn expired(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let prefix = expired_app_id(snapshot.table, "");
    let counts = snapshot
        .txns()
        .filter_map(|(app, rows)| Some((app.strip_prefix(&prefix)?.to_owned(), u64::try_from(rows).ok()?)));
    counts.collect()
}

/// The largest outbox batch among the rows that retention has removed; 0 if none were.
pub fn expired_through(snapshot: &Snapshot) -> u64 {
    snapshot
        .txn(&through_app_id(snapshot.table))
        .and_then(|batch| u64::try_from(batch).ok())
        .unwrap_or(0)
}

/// Whether files go by their day alone.
fn goes_by_days(table: Table) -> bool {
    table == Table::Red || table.derived_slice_s().is_some()
}

/// The files whose rows are all older than `cutoff_ms`.
fn outlived(files: &[Arc<FileEntry>], table: Table, cutoff_ms: i64) -> Vec<Arc<FileEntry>> {
    let last_day = cutoff_ms.div_euclid(DAY_MS);
    let is_old = |file: &Arc<FileEntry>| {
        let date = i64::from(file.date);
        // On the day of the cut a file may go early by its newest row. Its rows' own times count only there: under the day
        // of arrival lie rows with times long past, which are not to go at once.
        let newest = file
            .int_range(if table == Table::Traces {
                "ts_max"
            } else {
                time_column(table)
            })
            .map(|range| range.1);
        date < last_day
            || (!goes_by_days(table)
                && date == last_day
                && newest.is_some_and(|newest| newest.div_euclid(1000) < cutoff_ms))
    };
    files.iter().filter(|file| is_old(file)).cloned().collect()
}

impl Keeper {
    pub(super) async fn expire(&mut self, now_ms: i64, report: &mut Report) -> Result<()> {
        let Some(days) = self.policy.retention_days else {
            return Ok(());
        };
        let cutoff_ms = now_ms - i64::from(days) * DAY_MS;
        let snapshot = self.lake.snapshot(self.table).await?;
        let mut old = outlived(snapshot.files(), self.table, cutoff_ms);
        if !old.is_empty() {
            // Days go in order: one number says which are gone.
            let wanted = self.still_wanted(&snapshot, now_ms).await?;
            old.retain(|file| wanted.is_none_or(|first| file.date < first));
        }
        if old.is_empty() {
            return Ok(());
        }
        if !self.clock.is_believed(&snapshot) {
            let (table, files) = (self.table.name(), old.len());
            warn!(
                table,
                files, "rows seem to have outlived their retention; they go if the clock still says so in an hour"
            );
            return Ok(());
        }
        let mut rows: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        let mut through = 0;
        let mut counted = Vec::with_capacity(old.len());
        for file in old {
            match self.count(&snapshot, &file, now_ms).await? {
                Some(tenants) => tenants
                    .into_iter()
                    .for_each(|(tenant, count)| *rows.entry(tenant).or_default() += count),
                None if goes_by_days(self.table) => {}
                None => continue,
            }
            through = through.max(file.int_range("batch_id").map_or(0, |range| range.1));
            counted.push(file);
        }
        let old = counted;
        if old.is_empty() {
            return Ok(());
        }
        let table = self.table;
        let outcome = self
            .commit(|now| {
                let active: std::collections::HashSet<&str> = now.files().iter().map(|file| &*file.path).collect();
                if !old.iter().all(|file| active.contains(&*file.path)) {
                    return Ok(None);
                }
                // Rows that came since for a day that is going are not in what is kept of it: the next run looks again.
                let stays = |file: &Arc<FileEntry>| {
                    let same_day = old.iter().any(|gone| gone.date == file.date);
                    same_day && old.iter().all(|gone| gone.path != file.path)
                };
                if table == Table::Red && now.files().iter().any(stays) {
                    return Ok(None);
                }
                let removes = old.iter().map(|file| Ok(Action::Remove(remove(file, now_ms, true)?)));
                let mut txns = Vec::new();
                for (tenant, count) in &rows {
                    let app = expired_app_id(table, tenant);
                    let total = i64::try_from(*count)
                        .ok()
                        .and_then(|count| now.txn(&app).unwrap_or(0).checked_add(count));
                    let total =
                        total.ok_or_else(|| Error::new(ErrorKind::Damaged, format!("count {app} leaves 63 bits")))?;
                    txns.push(txn(&app, total, now_ms));
                }
                let app = through_app_id(table);
                txns.push(txn(&app, through.max(now.txn(&app).unwrap_or(0)), now_ms));
                if table == Table::Red {
                    let first = old
                        .iter()
                        .map(|file| i64::from(file.date) + 1)
                        .max()
                        .unwrap_or(i64::MIN);
                    let first = first.max(expired_before(now));
                    txns.push(txn(&expired_before_app_id(table), first, now_ms));
                }
                Ok(Some(Change {
                    actions: removes.collect::<Result<_>>()?,
                    txns,
                    operation: DeltaOperation::Delete {
                        predicate: Some(format!("retention before {cutoff_ms}")),
                    },
                    mark: Uuid::new_v4().to_string(),
                }))
            })
            .await?;
        if let Outcome::Committed = outcome {
            report.expired_files += old.len() as u64;
            report.expired_rows += rows.values().sum::<u64>();
            info!(
                table = table.name(),
                files = old.len(),
                rows = rows.values().sum::<u64>(),
                "rows outlived their retention"
            );
        }
        Ok(())
    }

    /// The first day from which a table that is kept longer still lacks hours.
    async fn still_wanted(&self, snapshot: &Snapshot, now_ms: i64) -> Result<Option<i32>> {
        let mut first = None;
        for (table, days) in &self.policy.kept_in {
            let derived = match self.lake.snapshot(*table).await {
                Ok(derived) => derived,
                Err(error) if error.kind() == ErrorKind::MissingTable => continue,
                Err(error) => return Err(error),
            };
            let kept = now_ms.div_euclid(DAY_MS) - i64::from(*days);
            // If nothing can be told of hours, nothing can be derived, and waiting for it would be for ever.
            let lacking = uncovered_dates(snapshot, &derived).unwrap_or_default();
            let lacking = lacking.into_iter().find(|date| i64::from(*date) >= kept);
            first = [first, lacking].into_iter().flatten().min();
        }
        Ok(first)
    }

    /// Rows of the file by tenant: from the log if it says there is one tenant, else from the file. `None` if that cannot be read.
    async fn count(
        &mut self,
        snapshot: &Snapshot,
        file: &Arc<FileEntry>,
        now_ms: i64,
    ) -> Result<Option<BTreeMap<Arc<str>, u64>>> {
        if let Some(range) = file.range("tenant")
            && let (Some(Value::Text(min)), Some(Value::Text(max))) = (&range.min, &range.max)
            && min == max
        {
            return Ok(Some([(min.clone(), file.rows)].into()));
        }
        if self.aside.has(file) {
            return Ok(None);
        }
        match self.tenants(snapshot, file).await {
            Ok(tenants) => Ok(Some(tenants)),
            Err(error) => {
                self.aside.put(self.table, blamed(error, [file].into_iter()), now_ms)?;
                Ok(None)
            }
        }
    }

    async fn tenants(&self, snapshot: &Snapshot, file: &Arc<FileEntry>) -> Result<BTreeMap<Arc<str>, u64>> {
        let opened = files::open(&self.lake, self.table, file).await?;
        let (path, schema) = (file.path.clone(), snapshot.schema.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let mut counts: BTreeMap<Arc<str>, u64> = BTreeMap::new();
            for batch in opened.rows(&path, &schema, Some(&["tenant"]))? {
                let batch = batch?;
                for tenant in batch.column(0).as_string::<i32>().iter().flatten() {
                    match counts.get_mut(tenant) {
                        Some(count) => *count += 1,
                        None => {
                            counts.insert(Arc::from(tenant), 1);
                        }
                    }
                }
            }
            Ok(counts)
        });
        counted.await?
    }
}
