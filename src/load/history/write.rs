//! A past into a lake.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::Schema;
use prost::Message;
use rustix::fs::{FlockOperation, flock};
use tailwater_model::ids::LogId;
use tailwater_model::ledger::{Account, Amount, Key, ledger_batch};
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::{Choice, LogColumns, RequestInfo, Sampling, SpanColumns};
use tailwater_model::red::{edge_batch, red_batch};
use tailwater_model::signal::Signal;
use tailwater_model::table::{Table, schema};
use tailwater_red::{Aggregator, Mode, Settings};
use tailwater_storage::ErrorKind;
use tailwater_storage::lake::{Committer, Lake, app_id};
use tokio::sync::mpsc;

use super::counts::{Counted, Counter, Piece, pieces};
use super::keys::{TENANT, keys};
use super::rows::{self, SLICE_S};
use super::tell::{Told, Wrote};
use super::world::World;

/// Spans of a commit of rows.
const ROWS_MAX: usize = 100_000;

/// Bytes that a span which is only counted is taken to have had on the wire.
const SPAN_BYTES: u64 = 440;

/// Why the ledger says that counted spans have no rows.
const REASON: &str = "history";

/// Longer than a side of a call waits for the other, ns: a week.
const ALL_WAITED_NS: u64 = 7 * 86_400 * 1_000_000_000;

/// How the collector would count.
#[derive(Debug, Clone)]
pub struct Counting {
    /// RED, with what SLOs declare.
    pub red: Settings,
    /// What an item may be.
    pub caps: Caps,
}

/// Writes a past into the lake of a data directory that holds nothing yet. `progress` is told what share is written.
///
/// A run that ends halfway leaves a lake that the next one refuses: remove the directory.
///
/// # Errors
/// When the directory holds data or is in use; what the lake says.
pub async fn write(data: &Path, world: World, counting: Counting, progress: impl Fn(f64)) -> anyhow::Result<Told> {
    let started = Instant::now();
    tailwater_runtime::run_dir::make_private(data).with_context(|| data.display().to_string())?;
    let _locks = [lock(data, "collector.lock")?, lock(data, "maintain.lock")?];
    let lake = Lake::open(&data.join("lake"))?;
    ensure_empty(data, &lake).await?;
    lake.ensure_tables().await?;
    let mut into = Tables::new(&lake, world.seed);
    let (sender, mut made) = mpsc::channel(1);
    let world = Arc::new(world);
    let making = tokio::task::spawn_blocking({
        let world = world.clone();
        move || make(&world, &counting, &sender)
    });
    let whole = (world.to_s - world.from_s).max(1) as f64;
    while let Some(Made { frames, until_s }) = made.recv().await {
        into.commit(frames).await?;
        progress((until_s - world.from_s) as f64 / whole);
    }
    making.await.context("making the past panicked")??;
    into.finish().await?;
    Ok(Told::new(&world, into.wrote(), started.elapsed()))
}

/// The lock of a role on a data directory; released with the file.
fn lock(data: &Path, name: &str) -> anyhow::Result<std::fs::File> {
    let path = data.join(name);
    let file = std::fs::File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| path.display().to_string())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!("{} is in use by another process", data.display()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

async fn ensure_empty(data: &Path, lake: &Lake) -> anyhow::Result<()> {
    let holds = |what: &str| {
        format!(
            "{} already holds {what}: a past is written into a new directory",
            data.display()
        )
    };
    for name in ["log_id", "intake", "outbox", "checkpoint"] {
        ensure!(!data.join(name).exists(), "{}", holds("a collector's data"));
    }
    for table in Table::ALL {
        match lake.snapshot(table).await {
            // A table that had rows has been told of a batch.
            Ok(snapshot) => ensure!(
                snapshot.files().is_empty() && snapshot.txns().next().is_none(),
                "{}",
                holds(&format!("table {}", table.name()))
            ),
            Err(error) if error.kind() == ErrorKind::MissingTable => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Rows to be committed together.
#[derive(Debug)]
struct Made {
    frames: Vec<(Table, RecordBatch)>,
    /// What of the past is in the lake then.
    until_s: u64,
}

/// Makes all rows in order of time. Ends early when nobody takes them.
fn make(world: &World, counting: &Counting, sender: &mpsc::Sender<Made>) -> anyhow::Result<()> {
    let counter = Counter::new(world, keys(world, &counting.red)?);
    for piece in pieces(world) {
        let made = Made {
            frames: counted_frames(piece, &counter.count(piece))?,
            until_s: piece.to_s,
        };
        if sender.blocking_send(made).is_err() {
            return Ok(());
        }
    }
    let mut recent = Recent::new(counting);
    for deployment in world.deployments() {
        let request = rows::deployed(world, &deployment).encode_to_vec();
        recent.logs(&request, deployment.at_s * 1_000_000_000)?;
    }
    let mut start_s = world.rows_s;
    while start_s < world.to_s {
        let sent = rows::slice(world, start_s);
        start_s += SLICE_S;
        recent.spans(&sent.traces.encode_to_vec(), start_s * 1_000_000_000)?;
        recent.logs(&sent.logs.encode_to_vec(), start_s * 1_000_000_000)?;
        if recent.spans.len() >= ROWS_MAX {
            let made = recent.made(start_s);
            if sender.blocking_send(made).is_err() {
                return Ok(());
            }
        }
    }
    recent.wait_for_all(world.to_s * 1_000_000_000)?;
    let made = recent.made(world.to_s);
    // Nobody takes it only when the writer has failed, and says why itself.
    let _ = sender.blocking_send(made);
    Ok(())
}

fn counted_frames(piece: Piece, counted: &Counted) -> anyhow::Result<Vec<(Table, RecordBatch)>> {
    let mut frames = vec![
        (Table::Red, red_batch(&counted.red)),
        (Table::Edges, edge_batch(&counted.edges)),
    ];
    for (slice, spans) in counted.spans.iter().enumerate().filter(|(_, spans)| **spans > 0) {
        let amount = Amount {
            items: *spans,
            bytes: spans * SPAN_BYTES,
        };
        let entries = [
            (key(Signal::Traces, Account::Received, ""), amount),
            (key(Signal::Traces, Account::SampledOut, REASON), amount),
        ];
        let at_ns = (piece.from_s + slice as u64 * piece.slice_s) * 1_000_000_000;
        frames.push((Table::Ledger, ledger_batch(&entries, at_ns)));
    }
    Ok(frames)
}

fn key(signal: Signal, account: Account, reason: &'static str) -> Key {
    Key {
        tenant: TENANT.into(),
        signal,
        account,
        reason,
    }
}

/// The part with rows: what the collector's road does with a request.
struct Recent {
    spans: SpanColumns,
    logs: LogColumns,
    red: Aggregator,
    ledger: Vec<RecordBatch>,
}

impl Recent {
    fn new(counting: &Counting) -> Recent {
        // Everything is told in time, whenever it happened.
        let caps = Caps {
            past_ns: u64::MAX,
            ..counting.caps.clone()
        };
        Recent {
            spans: SpanColumns::new(caps.clone()),
            logs: LogColumns::new(caps),
            red: Aggregator::new(counting.red.clone()),
            ledger: Vec::new(),
        }
    }

    fn spans(&mut self, request: &[u8], arrival_ns: u64) -> anyhow::Result<()> {
        let info = info(arrival_ns);
        self.red.push_request(request, &info, Mode::Count)?;
        let pushed = self.spans.push_request(request, &info, Choice::All(Sampling::ALL))?;
        self.stored(Signal::Traces, pushed.rows, pushed.bytes, arrival_ns);
        Ok(())
    }

    fn logs(&mut self, request: &[u8], arrival_ns: u64) -> anyhow::Result<()> {
        let pushed = self
            .logs
            .push_request(request, &info(arrival_ns), Choice::All(Sampling::ALL))?;
        self.stored(Signal::Logs, pushed.rows, pushed.bytes, arrival_ns);
        Ok(())
    }

    fn stored(&mut self, signal: Signal, items: u64, bytes: u64, arrival_ns: u64) {
        if items > 0 {
            let amount = Amount { items, bytes };
            let entries = [Account::Received, Account::Stored].map(|account| (key(signal, account, ""), amount));
            // What arrives as a slice ends belongs to it.
            let slice_ns = SLICE_S * 1_000_000_000;
            let at_ns = arrival_ns.saturating_sub(1) / slice_ns * slice_ns;
            self.ledger.push(ledger_batch(&entries, at_ns));
        }
    }

    /// Lets the time pass in which the other side of a call might come.
    fn wait_for_all(&mut self, end_ns: u64) -> anyhow::Result<()> {
        Ok(self.red.push_request(&[], &info(end_ns + ALL_WAITED_NS), Mode::Count)?)
    }

    fn made(&mut self, until_s: u64) -> Made {
        let counted = self.red.drain();
        let mut frames = vec![
            (Table::Red, red_batch(&counted.red)),
            (Table::Edges, edge_batch(&counted.edges)),
        ];
        if !self.spans.is_empty() {
            // A request has whole traces, so each has its only part here.
            let batches = self.spans.finish_sorted(|_, _| 0);
            frames.push((Table::Spans, batches.spans));
            frames.push((Table::Traces, batches.traces));
        }
        if !self.logs.is_empty() {
            frames.push((Table::Logs, self.logs.finish_sorted()));
        }
        frames.extend(self.ledger.drain(..).map(|rows| (Table::Ledger, rows)));
        Made { frames, until_s }
    }
}

fn info(arrival_ns: u64) -> RequestInfo<'static> {
    RequestInfo {
        tenant: TENANT,
        arrival_ns,
        rejected: &[],
    }
}

/// The tables, written as a collector of its own would.
struct Tables {
    tables: Vec<(Committer, u64, Wrote)>,
    /// The last batch.
    batch: u64,
}

impl Tables {
    fn new(lake: &Lake, seed: u64) -> Tables {
        let mut id = *b"history:\0\0\0\0\0\0\0\0";
        id[8..].copy_from_slice(&seed.to_be_bytes());
        let table = |table: Table| {
            let committer = lake.committer(table, app_id(LogId(id), table));
            (committer, 0, Wrote::nothing(table))
        };
        Tables {
            tables: Table::COLLECTED.into_iter().map(table).collect(),
            batch: 0,
        }
    }

    async fn commit(&mut self, frames: Vec<(Table, RecordBatch)>) -> anyhow::Result<()> {
        self.batch += 1;
        for (committer, at, wrote) in &mut self.tables {
            let of_table = frames
                .iter()
                .filter(|(table, rows)| *table == wrote.table && rows.num_rows() > 0);
            let batches = of_table.map(|(table, rows)| with_batch(*table, rows, self.batch));
            let batches = batches.collect::<anyhow::Result<Vec<_>>>()?;
            if !batches.is_empty() {
                wrote.add(&Box::pin(committer.commit(*at, self.batch, batches)).await?);
                *at = self.batch;
            }
        }
        Ok(())
    }

    /// Tells every table of the last batch, so that all of it is one cut (`lake verify` counts up to there).
    async fn finish(&mut self) -> anyhow::Result<()> {
        for (committer, at, _) in &mut self.tables {
            if *at < self.batch {
                Box::pin(committer.commit(*at, self.batch, Vec::new())).await?;
            }
        }
        Ok(())
    }

    fn wrote(self) -> Vec<Wrote> {
        self.tables.into_iter().map(|(_, _, wrote)| wrote).collect()
    }
}

/// Rows of a frame as a committer takes them: with the number of their batch.
fn with_batch(table: Table, rows: &RecordBatch, batch: u64) -> anyhow::Result<RecordBatch> {
    let column = schema(table).field_with_name("batch_id")?.clone();
    let fields = rows.schema_ref().fields().iter().cloned().chain([Arc::new(column)]);
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let number = Int64Array::from_value(i64::try_from(batch)?, rows.num_rows());
    let columns = rows.columns().iter().cloned().chain([Arc::new(number) as _]);
    Ok(RecordBatch::try_new(schema, columns.collect())?)
}
