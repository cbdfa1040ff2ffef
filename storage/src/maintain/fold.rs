//! Slices of 10 s become slices of a minute: one commit removes the narrow rows and adds the wide ones.
//!
//! So a span counts in one row at every version of the table. Rows that come late for a minute that was folded lie beside it as slices of
//! 10 s until their file is folded too; whoever reads adds up by the minute that covers them. A crash before the commit leaves
//! files that nothing names; a crash after it leaves nothing to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use tailwater_model::table::sort_columns;

use super::compact::{CHUNK_ROWS, blamed, rearranged, without_date, write_rows};
use super::plan::Group;
use super::rows::{Summed, widened};
use super::{Keeper, Policy, Report, files};
use crate::Result;
use crate::lake::{FileEntry, FileMaker, Merge, Source, Written, additive_rule};

/// Width of the slices that the narrow ones become, seconds.
pub(super) const FOLDED_S: i32 = 60;

/// Files to be folded now: all of whose slices are old enough, and whose day is quiet or has many of them.
pub(super) fn folds(files: &[Arc<FileEntry>], now_ms: i64, policy: &Policy) -> Vec<Group> {
    let Some(after_ms) = policy.fold_after_ms else {
        return Vec::new();
    };
    let mut days: BTreeMap<i32, Vec<Arc<FileEntry>>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.sorted) {
        // A file that does not say may have narrow slices; once folded it says.
        let narrow = file
            .int_range("slice_s")
            .is_none_or(|(least, _)| least < FOLDED_S.into());
        let ended_ms = |newest_us: i64| newest_us.div_euclid(1000) + i64::from(FOLDED_S) * 1000;
        let old = file
            .int_range("ts")
            .is_some_and(|(_, newest)| ended_ms(newest) <= now_ms.saturating_sub(after_ms));
        if narrow && old {
            days.entry(file.date).or_default().push(file.clone());
        }
    }
    let mut groups = Vec::new();
    for (date, files) in days {
        let newest = files.iter().map(|file| file.modified_ms).max().unwrap_or(i64::MIN);
        // A trickle of late rows does not make a file each.
        if newest + policy.quiet_ms <= now_ms || files.len() >= policy.merge_files_min {
            groups.extend(files.chunks(policy.merge_files_max.max(1)).map(|files| Group {
                date,
                files: files.to_vec(),
            }));
        }
    }
    groups
}

impl Keeper {
    /// Folds a group. False if its files changed under us.
    pub(super) async fn fold(&self, group: &Group, now_ms: i64, report: &mut Report) -> Result<bool> {
        let Some(rule) = additive_rule(self.table) else {
            return Ok(false);
        };
        let _turn = self.turn().await?;
        let snapshot = self.lake.snapshot(self.table).await?;
        let maker = self.maker();
        let mut opened = Vec::with_capacity(group.files.len());
        for file in &group.files {
            opened.push((file.path.clone(), files::open(&self.lake, self.table, file).await?));
        }
        let schema = without_date(&snapshot.schema);
        let (date, target, order) = (group.date, self.target_bytes(&snapshot), sort_columns(self.table));
        let make = move |maker: &FileMaker, written: &mut Vec<Written>| {
            let sources = opened.into_iter().map(|(path, file)| {
                let rows = file.rows(&path, &schema, None)?;
                Ok(Box::new(rows.map(|rows| widened(&rows?, FOLDED_S))) as Source)
            });
            let merged = Merge::new(&schema, order, sources.collect::<Result<_>>()?, CHUNK_ROWS)?;
            let folded = Summed::new(merged, &schema, rule, order)?;
            write_rows(maker, &schema, folded, date, target, now_ms, written)
        };
        let made = maker.make(make).await;
        let mut written = made.map_err(|error| blamed(error, group.files.iter()))?;
        rearranged(&mut written, &group.files);
        let rows = written.iter().map(|file| file.rows).sum::<u64>();
        let replaced = self.replace(&snapshot, &group.files, &maker, written, now_ms).await?;
        if replaced {
            report.folded_rows += group.files.iter().map(|file| file.rows).sum::<u64>();
            report.folded_into += rows;
        }
        Ok(replaced)
    }
}
