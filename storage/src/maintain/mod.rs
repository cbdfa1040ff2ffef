//! Keeping tables small and fast: compaction, levels of `red`, retention, checkpoints, log clean-up, vacuum.
//!
//! One task a table. It alone removes and rewrites data files, checkpoints and cleans the log; collectors only append, so the two
//! meet nowhere but in the race for the next version, which this side loses politely (it waits at least a second).
//!
//! Guarantees: compaction changes no row and no order; levels change no total of a key over whole minutes (`fold`) or hours (`derive`); a file is unlinked no earlier than a day after the commit that let go
//! of it, or a day after it was written if no commit ever named it; rows that retention removes are counted, per tenant, in
//! the commit that removes them. Assumes: one maintainer per lake (the caller holds `maintain.lock`).
//!
//! A run has steps, and one that fails keeps no other from being done. A file that cannot be read is left alone for an hour and told
//! ([`Report::unreadable`]); the rest of its table is kept. Nothing is removed by a clock that has just leapt.
//!
//! [`Keeper::run_once`] takes the time as an argument and does everything due; [`run`] calls it for ever.

mod aside;
mod clock;
mod compact;
mod derive;
mod expire;
mod files;
mod fold;
mod plan;
mod rows;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tailwater_model::table::Table;
use tokio::sync::{Semaphore, watch};
use tracing::{error, info, warn};

use crate::lake::{FileMaker, Lake, ROW_GROUP_BYTES, Snapshot, Tier};
use crate::{ErrorKind, Result};

pub use expire::{expired, expired_app_id, expired_through};
use fold::folds;
use plan::fitting;
pub use plan::{Group, plan};

pub(crate) use compact::without_date as file_schema;
pub(crate) use files::open as open_data_file;

/// Merges, and folds, in one run, so that checkpoints and retention are never far behind.
const MERGES_MAX: u32 = 32;
/// A table is to have about so many files of the size aimed at: with those that are smaller, and one at least of each day, it stays
/// below 2,000.
const FILES_AIM: u64 = 600;
const MIB: u64 = 1 << 20;
const HOUR_MS: i64 = 3_600_000;
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

/// How a table is kept.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Rows older than this many days go; `None` keeps them for ever. A day goes as a whole, except that files whose newest row is
    /// old enough go on the last day already (not of `red` and what is derived from it: a derived day stands for all of the day).
    pub retention_days: Option<u32>,
    /// A day goes only when these tables, which are kept longer (so many days), have what they derive from it.
    pub kept_in: Vec<(Table, u32)>,
    /// Slices below a minute that are older than this become slices of a minute.
    pub fold_after_ms: Option<i64>,
    /// An hour is derived so long after its end: most rows have come by then.
    pub settle_ms: i64,
    /// Sorted files of this many bytes are not rewritten, while the table is small.
    pub large_bytes: u64,
    /// Files that compaction writes are about this large, at most, while the table is small: see [`Policy::for_table`].
    pub target_bytes: u64,
    /// This many files of about one size are merged.
    pub merge_files_min: usize,
    /// At most this many at once: each costs memory for its pages.
    pub merge_files_max: usize,
    /// With more files than this that merging could spare, two of a day are enough to be merged.
    pub crowded_files: usize,
    /// A day that is over and has seen no new file for so long is merged into as few files as can be. A day of a derived table is not
    /// made anew sooner than so long after the last time.
    pub quiet_ms: i64,
    /// A file is merged with what is not an eighth of it, of a day that is over and quiet, no sooner than so long after it was made.
    pub rest_ms: i64,
    /// A checkpoint after this many commits.
    pub checkpoint_commits: u64,
    /// Log entries older than this go once a checkpoint covers them. Rather longer than [`TAIL_AGE_MAX`](crate::lake::TAIL_AGE_MAX): who tails the
    /// log would else take a version that has come and gone for one that is free, and commit it again.
    pub log_retention_ms: i64,
    /// Removed and orphaned files are unlinked after this long. Above the longest query, and rather longer than
    /// [`PENDING_AGE_MAX`](crate::lake::PENDING_AGE_MAX): a commit would else name files that are gone. No longer than
    /// [`REMOVED_KEPT_DAYS`](crate::lake::REMOVED_KEPT_DAYS).
    pub vacuum_after_ms: i64,
    /// How often log and directories are listed for what can go.
    pub sweep_every_ms: i64,
    /// First wait after a conflict; doubles.
    pub conflict_wait: Duration,
    /// Free bytes of a local disk that merges leave alone. A merge needs room for its output while its input is still there.
    pub reserve_bytes: u64,
}

impl Policy {
    /// The defaults of `DESIGN.md` for a table: rows 30 days, what was counted of them 100 (of slices below a minute 3, of hours 400), the ledger
    /// for ever (its sums are the left side of `lake verify`).
    pub fn of(table: Table) -> Policy {
        Policy {
            retention_days: match table {
                Table::Ledger => None,
                Table::Red | Table::Edges | Table::Red15m => Some(100),
                Table::Red1h => Some(400),
                _ => Some(30),
            },
            kept_in: if table == Table::Red {
                vec![(Table::Red1h, 400)]
            } else {
                Vec::new()
            },
            fold_after_ms: matches!(table, Table::Red | Table::Edges).then_some(3 * DAY_MS),
            settle_ms: HOUR_MS / 12,
            large_bytes: 64 * MIB,
            target_bytes: 128 * MIB,
            merge_files_min: 8,
            merge_files_max: 16,
            crowded_files: 1500,
            quiet_ms: HOUR_MS / 4,
            rest_ms: DAY_MS,
            checkpoint_commits: 50,
            log_retention_ms: 6 * HOUR_MS,
            vacuum_after_ms: DAY_MS,
            sweep_every_ms: HOUR_MS,
            conflict_wait: Duration::from_secs(1),
            reserve_bytes: 256 * MIB,
        }
    }
}

impl Policy {
    /// The policy of a table of so many bytes: what files aim at doubles as often as it takes to keep their number down. A merge holds a row group
    /// of its result and a page of each source and column, whatever their sizes.
    pub fn for_table(&self, bytes: u64) -> Policy {
        let least = self.target_bytes.saturating_mul(FILES_AIM).max(1);
        let times = bytes.div_ceil(least).max(1).next_power_of_two();
        Policy {
            large_bytes: self.large_bytes.saturating_mul(times),
            target_bytes: self.target_bytes.saturating_mul(times),
            ..self.clone()
        }
    }
}

/// What a run did to a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The table's version afterwards.
    pub version: u64,
    /// Active files afterwards.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Merges that wait for room on the disk.
    pub postponed: u64,
    /// Merges done, files read and written by them, and bytes.
    pub merges: u64,
    /// Files merged away.
    pub merged_files: u64,
    /// Bytes read by merges.
    pub merged_bytes: u64,
    /// Files made by merges.
    pub written_files: u64,
    /// Bytes written by merges.
    pub written_bytes: u64,
    /// Rows of narrow slices that were folded.
    pub folded_rows: u64,
    /// Rows they became.
    pub folded_into: u64,
    /// Days of a derived table that were made or brought up to date.
    pub derived_days: u64,
    /// Days that were due but left to the next run.
    pub postponed_days: u64,
    /// Files that retention removed.
    pub expired_files: u64,
    /// Rows in them.
    pub expired_rows: u64,
    /// A checkpoint was written for this version.
    pub checkpoint: Option<u64>,
    /// Log files removed.
    pub log_files_removed: u64,
    /// Data files unlinked that a commit had removed.
    pub vacuumed: u64,
    /// Data files unlinked that no commit ever named.
    pub orphans: u64,
    /// Files that are left alone because they cannot be read, and why.
    pub unreadable: Vec<(Arc<str>, String)>,
}

/// Keeps one table.
#[derive(Debug)]
pub struct Keeper {
    lake: Lake,
    table: Table,
    policy: Policy,
    /// Version of the newest checkpoint, once looked up.
    checkpoint: Option<u64>,
    swept_ms: Option<i64>,
    aside: aside::Aside,
    clock: clock::Clock,
    /// One merge at a time over all tables: they are what costs memory and disk bandwidth.
    turn: Arc<Semaphore>,
}

impl Keeper {
    /// A keeper of `table`. Keepers of one process share `turn`.
    pub fn new(lake: Lake, table: Table, policy: Policy, turn: Arc<Semaphore>) -> Keeper {
        Keeper {
            lake,
            table,
            policy,
            checkpoint: None,
            swept_ms: None,
            aside: aside::Aside::default(),
            clock: clock::Clock::default(),
            turn,
        }
    }

    /// Whose files.
    pub fn table(&self) -> Table {
        self.table
    }

    /// Does everything that is due at `now_ms` (milliseconds since 1970).
    ///
    /// # Errors
    /// As [`Lake::snapshot`]; [`ErrorKind::Conflict`] if other commits kept winning. It is the first of its steps; what could be done is done.
    pub async fn run_once(&mut self, now_ms: i64) -> Result<Report> {
        let mut report = Report::default();
        self.clock.read(now_ms);
        let mut outcome = self.look_again(now_ms).await;
        if let Some(slice_s) = self.table.derived_slice_s() {
            outcome = outcome.and(self.derive(slice_s, now_ms, &mut report).await);
        }
        outcome = outcome.and(self.expire(now_ms, &mut report).await);
        outcome = outcome.and(self.fold_all(now_ms, &mut report).await);
        // A day of a derived table is written as a whole already.
        if self.table.derived_slice_s().is_none() {
            outcome = outcome.and(self.compact_all(now_ms, &mut report).await);
        }
        outcome = outcome.and(self.upkeep(now_ms, &mut report).await);
        outcome?;
        let snapshot = self.lake.snapshot(self.table).await?;
        report.version = snapshot.version;
        report.files = snapshot.files().len() as u64;
        report.bytes = bytes_of(&snapshot);
        report.unreadable = self.aside.told();
        Ok(report)
    }
}

fn bytes_of(snapshot: &Snapshot) -> u64 {
    snapshot.files().iter().map(|file| file.size).sum()
}

impl Keeper {
    /// How the table is kept as large as it is now. Elsewhere than on a local disk files are fetched whole, so they do not grow.
    fn policy_for(&self, snapshot: &Snapshot) -> Policy {
        match self.lake.local_table_dir(self.table) {
            Some(_) => self.policy.for_table(bytes_of(snapshot)),
            None => self.policy.clone(),
        }
    }

    /// Makes the files that others become. Their row groups are no larger than a file of a small table, whatever the size of this one.
    fn maker(&self) -> FileMaker {
        let target = usize::try_from(self.policy.target_bytes).unwrap_or(usize::MAX);
        // Very small groups would be slow to read.
        let group_bytes = target.clamp(ROW_GROUP_BYTES / 8, ROW_GROUP_BYTES);
        FileMaker::new(&self.lake, self.table, Tier::Merged).groups_of(group_bytes)
    }

    /// Bytes that a merge may take without touching the reserve. A store that is no local disk has room.
    fn room(&self) -> u64 {
        let Some(directory) = self.lake.local_table_dir(self.table) else {
            return u64::MAX;
        };
        match rustix::fs::statvfs(&directory) {
            Ok(disk) => disk
                .f_bavail
                .saturating_mul(disk.f_frsize)
                .saturating_sub(self.policy.reserve_bytes),
            Err(_) => u64::MAX,
        }
    }

    /// Looks at the files of the table that were left alone for long enough. Those of another table are tried by what needs them.
    async fn look_again(&mut self, now_ms: i64) -> Result<()> {
        let due = self.aside.take_due(now_ms);
        if due.is_empty() {
            return Ok(());
        }
        let snapshot = self.lake.snapshot(self.table).await?;
        for file in snapshot.files().iter().filter(|file| due.contains(&file.path)) {
            if let Err(error) = files::check(&self.lake, self.table, file).await {
                self.aside.put(self.table, error, now_ms)?;
            }
        }
        Ok(())
    }

    async fn fold_all(&mut self, now_ms: i64, report: &mut Report) -> Result<()> {
        let mut waiting = 0;
        for _ in 0..MERGES_MAX {
            let snapshot = self.lake.snapshot(self.table).await?;
            let groups = folds(&self.aside.others(snapshot.files()), now_ms, &self.policy);
            let (fits, waits) = fitting(groups, self.room());
            waiting = waits;
            let Some(group) = fits else { break };
            match self.fold(&group, now_ms, report).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => self.aside.put(self.table, error, now_ms)?,
            }
        }
        report.postponed += waiting;
        Ok(())
    }

    async fn compact_all(&mut self, now_ms: i64, report: &mut Report) -> Result<()> {
        let mut waiting = 0;
        for _ in 0..MERGES_MAX {
            let snapshot = self.lake.snapshot(self.table).await?;
            let policy = self.policy_for(&snapshot);
            let groups = plan(&self.aside.others(snapshot.files()), now_ms, &policy);
            let (fits, waits) = fitting(groups, self.room());
            waiting = waits;
            let Some(group) = fits else { break };
            match self.compact(&group, now_ms, report).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => self.aside.put(self.table, error, now_ms)?,
            }
        }
        report.postponed += waiting;
        Ok(())
    }
}

/// Told of the end of every run of every table.
pub type Observer = Arc<dyn Fn(Table, &Result<Report>) + Send + Sync>;

/// Keeps all tables until `stop` becomes true: a run of each table every `pause`. A run that has begun is finished. Ends early if keeping a
/// table panicked: the process is to be started again, for nobody keeps that table any more.
pub async fn run(
    lake: Lake,
    policy: impl Fn(Table) -> Policy,
    pause: Duration,
    stop: watch::Receiver<bool>,
    observer: Observer,
) {
    let turn = Arc::new(Semaphore::new(1));
    let mut tasks = tokio::task::JoinSet::new();
    for table in Table::ALL {
        let keeper = Keeper::new(lake.clone(), table, policy(table), turn.clone());
        tasks.spawn(keep(keeper, pause, stop.clone(), observer.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            error!(%error, "keeping a table panicked; the process ends and is started again");
            return;
        }
    }
}

async fn keep(mut keeper: Keeper, pause: Duration, mut stop: watch::Receiver<bool>, observer: Observer) {
    let table = keeper.table.name();
    while !*stop.borrow() {
        let outcome = keeper.run_once(Utc::now().timestamp_millis()).await;
        match &outcome {
            Ok(report) if report.merges + report.expired_files + report.folded_rows + report.derived_days > 0 => {
                info!(
                    table,
                    merges = report.merges,
                    folded = report.folded_rows,
                    derived_days = report.derived_days,
                    expired = report.expired_rows,
                    files = report.files,
                    "maintained"
                );
            }
            Ok(report) if report.postponed > 0 => {
                warn!(table, "merges wait: the disk has no room for them beside the reserve");
            }
            Ok(_) => {}
            // Before the first start of a collector there is nothing to keep.
            Err(error) if error.kind() == ErrorKind::MissingTable => {}
            Err(error) => warn!(table, %error, "maintenance failed, trying again"),
        }
        observer(keeper.table, &outcome);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = stop.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod level_tests;
#[cfg(test)]
mod tests;
