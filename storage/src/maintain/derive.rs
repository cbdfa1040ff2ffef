//! Keeps a derived table: the hours of `red` that are over, in wider slices.
//!
//! A day is rewritten as a whole: hours that still hold are copied, hours that are new or that late rows outdated are made again
//! from `red` (an hour table takes them from quarters that hold, which are fewer). The commit is to the derived table alone, and the files say
//! which version of `red` they stand for, so there is no moment at which the two contradict each other: see [`crate::levels`].

use std::sync::Arc;

use tailwater_model::table::{Table, sort_columns};
use tracing::{debug, warn};

use super::compact::{CHUNK_ROWS, blamed, set_hours, without_date, write_rows};
use super::rows::{Summed, of_hours, widened};
use super::{DAY_MS, HOUR_MS, Keeper, Report, files};
use crate::lake::{FileEntry, FileMaker, Hours, Merge, Snapshot, Source, Written, additive_rule};
use crate::levels::{self, Day};
use crate::{ErrorKind, Result};

/// Days in one run, so that checkpoints and retention are never far behind.
const DAYS_MAX: usize = 8;
/// A day in more files than this is left until they are merged: each takes memory while it is read.
const FILES_MAX: usize = 128;

/// Rows of these hours of a file, to be read.
struct Part {
    table: Table,
    file: Arc<FileEntry>,
    mask: u32,
}

impl Keeper {
    /// Makes what is due of the derived table, newest days first.
    pub(super) async fn derive(&mut self, slice_s: u32, now_ms: i64, report: &mut Report) -> Result<()> {
        let red = match self.lake.snapshot(Table::Red).await {
            Ok(red) => red,
            Err(error) if error.kind() == ErrorKind::MissingTable => return Ok(()),
            Err(error) => return Err(error),
        };
        let own = self.lake.snapshot(self.table).await?;
        let Some(days) = levels::days(&red, &own) else {
            warn!(
                table = self.table.name(),
                "a file of red does not say of its hours, so nothing is derived"
            );
            return Ok(());
        };
        let oldest = (self.policy.retention_days).map_or(i64::MIN, |days| now_ms.div_euclid(DAY_MS) - i64::from(days));
        for (date, day) in days.into_iter().rev() {
            let over =
                |hour: usize| i64::from(date) * DAY_MS + (hour as i64 + 1) * HOUR_MS + self.policy.settle_ms <= now_ms;
            let due = mask(|hour| over(hour) && day.changed.0[hour] > 0 && !day.holds(hour, red.version));
            let made_ms = own.files().iter().filter(|file| file.date == date);
            let made_ms = made_ms.map(|file| file.modified_ms).max();
            // Late rows outdate hours all the time; a day is not written again for each of them.
            let rested = made_ms.is_none_or(|made| made + self.policy.quiet_ms <= now_ms);
            if due == 0 || !rested || i64::from(date) < oldest {
                continue;
            }
            if report.derived_days as usize == DAYS_MAX {
                report.postponed_days += 1;
                continue;
            }
            match self.derive_day(slice_s, (&*red, &*own), (date, day), due, now_ms).await {
                Ok(true) => report.derived_days += 1,
                Ok(false) => {}
                Err(error) => self.aside.put(self.table, error, now_ms)?,
            }
        }
        Ok(())
    }

    /// Makes the `due` hours of a day, and copies the others that hold. False if the day waits, or changed under us.
    async fn derive_day(
        &self,
        slice_s: u32,
        (red, own): (&Snapshot, &Snapshot),
        (date, day): (i32, Day),
        due: u32,
        now_ms: i64,
    ) -> Result<bool> {
        let Some(rule) = additive_rule(self.table) else {
            return Ok(false);
        };
        let kept = mask(|hour| day.covers.0[hour] > 0 && day.holds(hour, red.version));
        let mut covers = Hours::of_mask(due, red.version);
        for hour in (0..24).filter(|hour| kept & 1 << hour != 0) {
            covers.0[hour] = day.covers.0[hour];
        }
        let old: Vec<Arc<FileEntry>> = (own.files().iter()).filter(|file| file.date == date).cloned().collect();
        let mut parts = Vec::new();
        self.push_parts(own, date, kept, &mut parts);
        let mut left = due;
        if self.table == Table::Red1h {
            let quarters = self.lake.snapshot(Table::Red15m).await?;
            let hold = levels::days(red, &quarters).and_then(|days| days.get(&date).copied());
            let hold = hold.map_or(0, |day| {
                mask(|hour| day.covers.0[hour] > 0 && day.holds(hour, red.version))
            });
            self.push_parts(&quarters, date, due & hold, &mut parts);
            left &= !hold;
        }
        self.push_parts(red, date, left, &mut parts);
        if parts.iter().any(|part| self.aside.has(&part.file)) {
            debug!(date, "waiting for a file that cannot be read");
            return Ok(false);
        }
        if parts.len() > FILES_MAX {
            debug!(date, files = parts.len(), "waiting for merges before hours are derived");
            return Ok(false);
        }
        let _turn = self.turn().await?;
        if parts.iter().map(|part| part.file.size).sum::<u64>() > self.room() {
            return Ok(false);
        }
        let files: Vec<Arc<FileEntry>> = parts.iter().map(|part| part.file.clone()).collect();
        let maker = self.maker();
        let mut opened = Vec::with_capacity(parts.len());
        for part in parts {
            let file = files::open(&self.lake, part.table, &part.file).await?;
            opened.push((part, file));
        }
        let schema = without_date(&own.schema);
        let (target, order, width) = (self.target_bytes(own), sort_columns(self.table), slice_s as i32);
        let make = move |maker: &FileMaker, written: &mut Vec<Written>| {
            let sources = opened.into_iter().map(|(part, file)| {
                let rows = file.rows(&part.file.path, &schema, None)?;
                let rows = rows.map(move |rows| widened(&of_hours(&rows?, date, part.mask)?, width));
                Ok(Box::new(rows) as Source)
            });
            let merged = Merge::new(&schema, order, sources.collect::<Result<_>>()?, CHUNK_ROWS)?;
            let summed = Summed::new(merged, &schema, rule, order)?;
            write_rows(maker, &schema, summed, date, target, now_ms, written)
        };
        let made = maker.make(make).await;
        let mut written = made.map_err(|error| blamed(error, files.iter()))?;
        written.iter_mut().for_each(|file| set_hours(file, &covers));
        self.replace(own, &old, &maker, written, now_ms).await
    }

    /// The files that may have rows of these hours.
    fn push_parts(&self, of: &Snapshot, date: i32, mask: u32, parts: &mut Vec<Part>) {
        let touches = |file: &FileEntry| {
            let hours = file.hours.unwrap_or_default();
            (0..24).any(|hour| mask & 1 << hour != 0 && hours.0[hour] > 0)
        };
        let files = of.files().iter().filter(|file| file.date == date && touches(file));
        parts.extend(files.map(|file| Part {
            table: of.table,
            file: file.clone(),
            mask,
        }));
    }
}

/// The hours of which something holds, a bit each.
fn mask(holds: impl Fn(usize) -> bool) -> u32 {
    (0..24)
        .filter(|hour| holds(*hour))
        .fold(0, |mask, hour| mask | 1 << hour)
}
