//! Moving a range of outbox batches into a table, once.
//!
//! A commit is: encode the rows into durable files, then put one log entry that names them and says `txn = hi`. The entry's
//! name is the next version, and only one writer can create it; whoever loses reads what won and tries the next. When the
//! store answers with an error the entry may exist all the same, so the log is read back first, and our own entry is known
//! by a mark in its `commitInfo`. Files are removed only when it is certain that no entry of ours names them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute;
use arrow::datatypes::{Date32Type, Schema, SchemaRef};
use chrono::Utc;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Transaction};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use rand::Rng;
use tailwater_model::ids::BatchSeq;
use tailwater_model::table::{Table, schema as lake_schema, sort_columns};
use tokio::sync::Mutex;
use tracing::{debug, warn};
use uuid::Uuid;

use super::data_file::{FileMaker, Tier, Written};
use super::merge::{Merge, Source};
use super::snapshot::{Looked, TAIL_AGE_MAX};
use super::{Lake, Snapshot, additive, encode, hours, layout, schema, words};
use crate::outbox::{as_schema, with_batch_id};
use crate::{Error, ErrorKind, Result};

/// Attempts before a commit gives its caller a chance to think.
const ATTEMPTS_MAX: u32 = 10;
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Files encoded for longer than this are made anew. Files that no entry names have to stay for rather longer
/// ([`crate::maintain::Policy::vacuum_after_ms`]): their age counts from when they were begun.
pub const PENDING_AGE_MAX: Duration = Duration::from_secs(12 * 3600);
/// Key of our mark in `commitInfo`.
const MARK: &str = "tailwaterCommit";

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The table's new version.
    pub version: u64,
    /// Rows written (after summing, for additive tables).
    pub rows: u64,
    /// Bytes of Parquet written.
    pub bytes: u64,
    /// Data files written.
    pub files: u64,
    /// Time spent sorting, encoding and syncing data files.
    pub encode_ms: u64,
    /// Time spent on the log, waiting included.
    pub commit_ms: u64,
    /// Log entries tried.
    pub attempts: u32,
}

/// The one writer of a table on behalf of one outbox.
#[derive(Debug)]
pub struct Committer {
    lake: Lake,
    table: Table,
    app_id: String,
    maker: FileMaker,
    /// A commit that failed without a certain outcome; the next call with the same range takes it up again.
    pending: Mutex<Option<Pending>>,
}

#[derive(Debug)]
struct Pending {
    range: (u64, u64),
    mark: String,
    /// The table's columns that the files were made for.
    schema: SchemaRef,
    written: Vec<Written>,
    /// Versions whose entry may be ours.
    tried: Vec<u64>,
    encode_ms: u64,
    since: Looked,
}

impl Committer {
    pub(super) fn new(lake: Lake, table: Table, app_id: String) -> Committer {
        let maker = FileMaker::new(&lake, table, Tier::Flushed);
        Committer {
            lake,
            table,
            app_id,
            maker,
            pending: Mutex::new(None),
        }
    }

    /// Whose rows.
    pub fn table(&self) -> Table {
        self.table
    }

    /// The last outbox batch in the table (v of rule P6), 0 if there is none, from the log as it is now, and durable. Compare it with the
    /// outbox's end: a table ahead of it belongs to another history, and the process must not start.
    ///
    /// # Errors
    /// As [`Lake::snapshot`]; [`ErrorKind::Damaged`] for a negative number; [`ErrorKind::Store`] if the log cannot be synced.
    pub async fn version(&self) -> Result<u64> {
        let version = self.txn(&*self.lake.snapshot(self.table).await?)?;
        self.lake.sync_log(self.table).await?;
        Ok(version)
    }

    /// Puts the rows of batches `v + 1 ..= hi` into the table: all of the table's frames in that range, as
    /// [`crate::outbox::FrameRef::read`] gives them. When this returns, files, log entry and directories are durable.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if the table is not at `v`; [`ErrorKind::Conflict`] or [`ErrorKind::Store`] when ten attempts
    /// were not enough: call again with the same range, which takes up what is already encoded and finds out whether an
    /// earlier attempt succeeded after all; [`ErrorKind::Incompatible`] if the rows do not fit the table;
    /// [`ErrorKind::Unwritable`] if it is the rows that cannot be encoded, a panic over them included.
    pub async fn commit(&self, v: u64, hi: u64, batches: Vec<RecordBatch>) -> Result<Committed> {
        if hi <= v {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("nothing to commit between batch {v} and {hi}"),
            ));
        }
        let mut slot = self.pending.lock().await;
        let taken = slot.take().filter(|pending| pending.range == (v, hi));
        let mut pending = taken;
        let outcome = self.attempt(v, hi, &batches, &mut pending).await;
        if let Err(error) = &outcome {
            match pending {
                // An entry that names these files may exist or may yet appear.
                Some(pending) if error.is_retryable() => *slot = Some(pending),
                Some(pending) if pending.tried.is_empty() => self.maker.discard(&pending.written).await,
                _ => {}
            }
        }
        outcome.map_err(|error| error.within(format_args!("table {}", self.table.name())))
    }

    /// Puts rows in frame form ([`tailwater_model::table::frame_schema`]) into the table as one batch after the last one: for a writer that
    /// has no outbox, such as one that writes a past. Rows of `red` and `edges` ([`tailwater_model::red::red_batch`]) may have slices of any width up
    /// to a minute that divides one; slices of an hour that is over are derived from them like any others.
    ///
    /// # Errors
    /// As [`Committer::commit`]; what failed may be appended again only if [`Committer::version`] has not moved.
    pub async fn append(&self, frames: &[RecordBatch]) -> Result<Committed> {
        let v = self.version().await?;
        let seq = BatchSeq(v + 1);
        let batches = frames.iter().map(|frame| with_batch_id(frame, seq));
        self.commit(v, v + 1, batches.collect::<Result<_>>()?).await
    }

    async fn attempt(&self, v: u64, hi: u64, batches: &[RecordBatch], slot: &mut Option<Pending>) -> Result<Committed> {
        let started = Instant::now();
        let mut last_error = None;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(backoff(attempt)).await;
            }
            let looked = Looked::now();
            let snapshot = match self.lake.snapshot(self.table).await {
                Ok(snapshot) => snapshot,
                Err(error) if error.is_retryable() => {
                    last_error = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let at = self.txn(&snapshot)?;
            if at != v {
                if let Some(pending) = slot.as_ref()
                    && at >= hi
                    && let Some(version) = self.landed(pending).await?
                {
                    return Ok(committed(pending, version, attempt, started));
                }
                // Another writer with our id put other files there.
                if let Some(pending) = slot.take() {
                    self.discard(pending, &snapshot).await;
                }
                let text = format!(
                    "is at outbox batch {at}, expected {v}: another process writes as {}",
                    self.app_id
                );
                return Err(Error::new(ErrorKind::Fenced, text));
            }
            if let Some(stale) = slot.take_if(|pending| pending.is_stale(&snapshot, &Looked::now())) {
                self.discard(stale, &snapshot).await;
            }
            if slot.is_none() {
                *slot = Some(self.encode((v, hi), snapshot.schema.clone(), batches).await?);
            }
            // The clock may have leapt since, or encoding taken for ever: the sweep goes by it, and what cleans the log. The next version may
            // have come and gone.
            let now = Looked::now();
            let is_fresh = now.since(&looked) < TAIL_AGE_MAX;
            let Some(pending) = slot
                .as_mut()
                .filter(|pending| is_fresh && !pending.is_stale(&snapshot, &now))
            else {
                continue;
            };
            let change = self.change(pending, snapshot.version + 1)?;
            pending.tried.push(snapshot.version + 1);
            match commit_once(&self.lake, self.table, snapshot.version, change).await {
                Attempt::Done(version) => return Ok(committed(pending, version, attempt + 1, started)),
                Attempt::Conflict => {
                    debug!(
                        table = self.table.name(),
                        version = snapshot.version + 1,
                        "another commit came first"
                    );
                    last_error = None;
                }
                Attempt::Doubtful(error) => {
                    warn!(table = self.table.name(), %error, "commit with unknown outcome, reading the log back");
                    last_error = Some(error);
                }
            }
        }
        Err(last_error.unwrap_or_else(|| {
            Error::new(
                ErrorKind::Conflict,
                format!("lost {ATTEMPTS_MAX} races for the next version"),
            )
        }))
    }

    /// Removes files that the log, read up to `snapshot`, does not name. If a version tried is not taken yet, the entry
    /// may still arrive there, and the sweep decides.
    async fn discard(&self, pending: Pending, snapshot: &Snapshot) {
        if pending.tried.iter().all(|version| *version <= snapshot.version) {
            self.maker.discard(&pending.written).await;
        }
    }

    /// The version whose entry is ours, if one is.
    async fn landed(&self, pending: &Pending) -> Result<Option<u64>> {
        for version in &pending.tried {
            if is_marked(&self.lake, self.table, *version, &pending.mark).await? {
                return Ok(Some(*version));
            }
        }
        Ok(None)
    }

    fn txn(&self, snapshot: &Snapshot) -> Result<u64> {
        let version = snapshot.txn(&self.app_id).unwrap_or(0);
        u64::try_from(version).map_err(|_| Error::new(ErrorKind::Damaged, format!("txn {} is {version}", self.app_id)))
    }

    async fn encode(&self, range: (u64, u64), schema: SchemaRef, batches: &[RecordBatch]) -> Result<Pending> {
        let (started, since) = (Instant::now(), Looked::now());
        schema::check(&lake_schema(self.table), &schema)?;
        let (batches, columns) = (batches.to_vec(), schema.clone());
        let now_ms = Utc::now().timestamp_millis();
        let make = move |maker: &FileMaker, written: &mut Vec<Written>| {
            encode(maker, &columns, batches, range.1, now_ms, written)
        };
        let written = self.maker.make(make).await.map_err(Error::of_rows)?;
        let encode_ms = started.elapsed().as_millis() as u64;
        Ok(Pending {
            range,
            mark: Uuid::new_v4().to_string(),
            schema,
            written,
            tried: Vec::new(),
            encode_ms,
            since,
        })
    }

    fn change(&self, pending: &Pending, version: u64) -> Result<Change> {
        let hi =
            i64::try_from(pending.range.1).map_err(|_| Error::new(ErrorKind::Invalid, "batch number above 2^63"))?;
        Ok(Change {
            actions: pending
                .written
                .iter()
                .map(|file| Action::Add(file.add_in(version)))
                .collect(),
            txns: vec![Transaction::new_with_last_update(
                &self.app_id,
                hi,
                Some(Utc::now().timestamp_millis()),
            )],
            operation: DeltaOperation::Write {
                mode: SaveMode::Append,
                partition_by: Some(vec!["date".to_owned()]),
                predicate: None,
            },
            mark: pending.mark.clone(),
        })
    }
}

impl Pending {
    /// Whether the files must be made anew: the columns changed under us (MetadataChanged), or the sweep may take them.
    fn is_stale(&self, snapshot: &Snapshot, now: &Looked) -> bool {
        self.schema != snapshot.schema || is_aged(&self.since, now)
    }
}

fn is_aged(since: &Looked, now: &Looked) -> bool {
    now.since(since) > PENDING_AGE_MAX
}

fn committed(pending: &Pending, version: u64, attempts: u32, started: Instant) -> Committed {
    let total = started.elapsed().as_millis() as u64;
    Committed {
        version,
        rows: pending.written.iter().map(|file| file.rows).sum(),
        bytes: pending.written.iter().map(|file| file.bytes).sum(),
        files: pending.written.len() as u64,
        encode_ms: pending.encode_ms,
        commit_ms: total.saturating_sub(pending.encode_ms),
        attempts,
    }
}

/// Whether the entry of this version carries the mark. If so it is durable: what was doubtful may have been the sync of its name.
pub(crate) async fn is_marked(lake: &Lake, table: Table, version: u64, mark: &str) -> Result<bool> {
    let entry = lake.log(table).read_commit_entry(version).await?;
    let is_marked = entry.is_some_and(|entry| entry.windows(mark.len()).any(|window| window == mark.as_bytes()));
    if is_marked {
        lake.sync_log(table).await?;
    }
    Ok(is_marked)
}

/// What a log entry is to say.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub actions: Vec<Action>,
    pub txns: Vec<Transaction>,
    pub operation: DeltaOperation,
    /// Unique; by it an entry is known to be ours.
    pub mark: String,
}

/// How one attempt to put a log entry ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    Done(u64),
    /// The version exists. It may be ours, if the store repeated the request by itself: look for the mark.
    Conflict,
    /// Whether the entry exists is not known.
    Doubtful(Error),
}

/// Puts the entry after version `on`, once. Neither lists the log nor loads a delta-rs snapshot: the caller has read the log
/// up to `on`, and the entry's name decides the race.
pub(crate) async fn commit_once(lake: &Lake, table: Table, on: u64, change: Change) -> Attempt {
    let log = lake.log(table);
    let mark = change.mark;
    let mut properties = CommitProperties::default()
        .with_max_retries(0)
        .with_create_checkpoint(false)
        .with_cleanup_expired_logs(Some(false))
        .with_metadata([(MARK.to_owned(), mark.clone().into())]);
    for txn in change.txns {
        properties = properties.with_application_transaction(txn);
    }
    let prepared = CommitBuilder::from(properties)
        .with_actions(change.actions)
        .build(None, log.clone(), change.operation)
        .into_prepared_commit_future()
        .await;
    let entry = match prepared {
        Ok(prepared) => prepared.commit_or_bytes().clone(),
        Err(error) => return Attempt::Doubtful(error.into()),
    };
    match log.write_commit_entry(on + 1, entry, Uuid::new_v4()).await {
        Ok(()) => Attempt::Done(on + 1),
        Err(TransactionError::VersionAlreadyExists(_)) => match is_marked(lake, table, on + 1, &mark).await {
            Ok(true) => Attempt::Done(on + 1),
            Ok(false) => Attempt::Conflict,
            Err(error) => Attempt::Doubtful(error),
        },
        Err(error) => Attempt::Doubtful(deltalake_core::DeltaTableError::from(error).into()),
    }
}

/// Doubles from 10 ms to 1 s, and takes a random half to whole of it, so that two losers do not meet again.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let whole = BACKOFF_FIRST.saturating_mul(1 << attempt.min(10)).min(BACKOFF_MAX);
    whole.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Rows into files, one a date.
fn encode(
    maker: &FileMaker,
    table_schema: &SchemaRef,
    batches: Vec<RecordBatch>,
    hi: u64,
    now_ms: i64,
    written: &mut Vec<Written>,
) -> Result<()> {
    let batches = match additive::rule(maker.table) {
        Some(rule) if !batches.is_empty() => vec![additive::summed(maker.table, rule, &batches, hi)?],
        _ => one_schema(maker.table, table_schema, batches)?,
    };
    for (date, batches) in by_date(&batches)? {
        let touched = (maker.table == Table::Red)
            .then(|| hours::touched(date, &batches))
            .flatten();
        let (batches, plans) = encode::plan(batches)?;
        let mut file = maker.start_groups(&batches, &plans, date, now_ms)?;
        let group_rows = layout::group_rows(&batches);
        let (batches, order) = words::ranked(batches, sort_columns(maker.table))?;
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        let ranked = batches[0].schema();
        let sources = batches
            .into_iter()
            .map(|batch| Box::new(std::iter::once(Ok(batch))) as Source);
        let mut merge = Merge::new(&ranked, &order, sources.collect(), group_rows)?;
        while let Some(runs) = merge.next_runs()? {
            file.write(&runs)?;
        }
        let mut file = file.finish()?;
        file.hours = touched;
        written.push(file);
    }
    Ok(())
}

/// The batches with the columns that table and program have in common, all of one schema.
fn one_schema(table: Table, table_schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let batches: Vec<RecordBatch> = batches.into_iter().filter(|batch| batch.num_rows() > 0).collect();
    let Some(first) = batches.first() else {
        return Ok(Vec::new());
    };
    let uniform = batches
        .iter()
        .all(|batch| batch.schema_ref().fields() == first.schema_ref().fields());
    let wanted = lake_schema(table);
    let fields = wanted
        .fields()
        .iter()
        .filter(|field| table_schema.field_with_name(field.name()).is_ok());
    let fields = fields.map(|field| match first.schema_ref().field_with_name(field.name()) {
        // Words stay dictionaries if they are so in every batch: the file does not show it, and it saves unpacking them.
        Ok(given) if uniform => Arc::new(field.as_ref().clone().with_data_type(given.data_type().clone())),
        _ => field.clone(),
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    batches.iter().map(|batch| as_schema(batch, &schema)).collect()
}

/// The batches split by their `date`, dates ascending.
fn by_date(batches: &[RecordBatch]) -> Result<Vec<(i32, Vec<RecordBatch>)>> {
    let mut dates = std::collections::BTreeMap::<i32, Vec<RecordBatch>>::new();
    for batch in batches {
        let column = batch
            .column_by_name("date")
            .and_then(|column| column.as_primitive_opt::<Date32Type>());
        let column = column.ok_or_else(|| Error::new(ErrorKind::Invalid, "rows without a date"))?;
        if column.null_count() > 0 {
            return Err(Error::new(ErrorKind::Invalid, "a row without a date"));
        }
        match (compute::min(column), compute::max(column)) {
            (Some(min), Some(max)) if min == max => dates.entry(min).or_default().push(batch.clone()),
            _ => {
                let distinct: std::collections::BTreeSet<i32> = column.values().iter().copied().collect();
                for date in distinct {
                    let chosen: BooleanArray = column.values().iter().map(|value| Some(*value == date)).collect();
                    dates
                        .entry(date)
                        .or_default()
                        .push(compute::filter_record_batch(batch, &chosen)?);
                }
            }
        }
    }
    Ok(dates.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_age_by_the_clock_that_went_further() {
        const HOUR: u64 = 3600;
        let check = |running_s: u64, wall_s: i64, expected: bool| {
            let since = Looked::now();
            let wall = match u64::try_from(wall_s) {
                Ok(ahead) => since.wall + Duration::from_secs(ahead),
                Err(_) => since.wall - Duration::from_secs(wall_s.unsigned_abs()),
            };
            let now = Looked {
                running: since.running + Duration::from_secs(running_s),
                wall,
            };
            assert_eq!(is_aged(&since, &now), expected, "{running_s} s, {wall_s} s");
        };
        check(60, 60, false);
        check(13 * HOUR, 13 * HOUR as i64, true);
        // The wall clock leapt ahead, and the sweep with it; or back; or the machine slept.
        check(60, 30 * 24 * HOUR as i64, true);
        check(13 * HOUR, -1, true);
        check(60, 13 * HOUR as i64, true);
    }
}
