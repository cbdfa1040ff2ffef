//! The way of a batch into the outbox: one after the other, again and again until it is in.
//!
//! ```text
//! road --(one batch ahead)--> outbox thread --append, sync--> durable batch number --> deliver, checkpoint, queries
//! ```
//!
//! Rows that wait for their commit stay in memory as far as there is room for them, so that delivery need not fetch back from the disk
//! what was written a moment ago (`docs/decisions/008-outbox-direct.md`); the file has the rest, and all of it after a restart.
//!
//! A full disk or budget makes the thread wait; the road then waits for it, the backlog fills, and requests are refused.
//! Nothing is dropped on the way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tailwater_journal::Cut;
use tailwater_model::ids::BatchSeq;
use tailwater_model::table::Table;
use tailwater_runtime::health;
use tailwater_storage::outbox::{Encoded, Head};
use tailwater_wal::{Body, Wal};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{info, warn};

use crate::fatal::Fatal;
use crate::stats::Stats;

/// A batch that is cut and encoded.
pub struct Sealed {
    /// What the journal said.
    pub cut: Cut,
    /// The record.
    pub encoded: Encoded,
    /// The rows in it, in the order of its frames.
    pub rows: Vec<RecordBatch>,
    /// Places in the backlog of the requests in it.
    pub places: Vec<OwnedSemaphorePermit>,
}

/// What waits in the outbox for each table: how much, and since when; and the rows themselves, some of them.
#[derive(Debug)]
pub struct Waiting {
    kept_max: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tables: [VecDeque<Frame>; Table::COLLECTED.len()],
    kept: u64,
    /// Bytes of frames with traces that were committed, and what they took in the tables.
    drained: u64,
    stored: u64,
}

/// How the rows of traces fare, bytes since start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traces {
    /// Frames that wait.
    pub waiting: u64,
    /// Frames committed.
    pub drained: u64,
    /// What those took in the tables.
    pub stored: u64,
}

const TRACES: [Table; 2] = [Table::Spans, Table::Traces];

#[derive(Debug)]
struct Frame {
    seq: BatchSeq,
    bytes: u64,
    since: Instant,
    rows: Option<RecordBatch>,
}

impl Waiting {
    /// Nothing waits. Rows are kept up to this many bytes of frames.
    pub fn new(kept_max: u64) -> Waiting {
        Waiting {
            kept_max,
            inner: Mutex::default(),
        }
    }

    /// A batch is durable, with the frames its head lists; `rows` are theirs, or none at all.
    pub fn add(&self, seq: BatchSeq, head: &Head, rows: Vec<RecordBatch>, since: Instant) {
        let mut rows = rows.into_iter();
        let mut inner = self.inner.lock();
        for frame in &head.frames {
            let rows = rows.next().filter(|_| inner.kept + frame.len <= self.kept_max);
            inner.kept += if rows.is_some() { frame.len } else { 0 };
            inner.tables[index(frame.table)].push_back(Frame {
                seq,
                bytes: frame.len,
                since,
                rows,
            });
        }
    }

    /// The frames of a table in batches `after + 1 ..= through`: of which batch, and the rows if they are kept.
    pub fn frames(&self, table: Table, after: BatchSeq, through: BatchSeq) -> Vec<(BatchSeq, Option<RecordBatch>)> {
        let inner = self.inner.lock();
        let frames = inner.tables[index(table)].iter();
        let frames = frames.filter(|frame| frame.seq > after && frame.seq <= through);
        frames.map(|frame| (frame.seq, frame.rows.clone())).collect()
    }

    /// The table has committed through `seq`; `stored` bytes of files came of it.
    pub fn committed(&self, table: Table, seq: BatchSeq, stored: u64) {
        let inner = &mut *self.inner.lock();
        let is_of_traces = TRACES.contains(&table);
        inner.stored += if is_of_traces { stored } else { 0 };
        while let Some(frame) = inner.tables[index(table)].pop_front_if(|front| front.seq <= seq) {
            inner.kept -= frame.rows.map_or(0, |_| frame.bytes);
            inner.drained += if is_of_traces { frame.bytes } else { 0 };
        }
    }

    /// How the rows of traces fare.
    pub fn traces(&self) -> Traces {
        let inner = self.inner.lock();
        let waiting = TRACES.iter().flat_map(|table| &inner.tables[index(*table)]);
        Traces {
            waiting: waiting.map(|frame| frame.bytes).sum(),
            drained: inner.drained,
            stored: inner.stored,
        }
    }

    /// Bytes that wait, and since when the oldest does.
    pub fn of(&self, table: Table) -> Option<(u64, Instant)> {
        let inner = self.inner.lock();
        let queue = &inner.tables[index(table)];
        let oldest = queue.front()?.since;
        Some((queue.iter().map(|frame| frame.bytes).sum(), oldest))
    }

    /// The last batch of a commit that takes about `bytes_max`, starting with the oldest; at least one batch.
    pub fn through(&self, table: Table, bytes_max: u64) -> Option<BatchSeq> {
        let inner = self.inner.lock();
        let queue = &inner.tables[index(table)];
        let mut sum = 0;
        let mut through = None;
        for frame in queue {
            sum += frame.bytes;
            if through.is_some_and(|through| through < frame.seq) && sum > bytes_max {
                break;
            }
            through = Some(frame.seq);
        }
        through
    }
}

fn index(table: Table) -> usize {
    table as usize - 1
}

/// Whether more than half of the room for batches is taken.
pub fn is_crowded(wal: &Wal) -> bool {
    let stats = wal.stats();
    stats.disk_bytes > stats.budget_bytes / 2
}

const RETRY: Duration = Duration::from_millis(50);

/// Starts the thread. Returns the way in; the thread ends when it is dropped.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    wal: Arc<Wal>,
    waiting: Arc<Waiting>,
    durable: watch::Sender<BatchSeq>,
    stats: Arc<Stats>,
    health: health::Handle,
    fatal: Fatal,
) -> std::io::Result<(mpsc::SyncSender<Sealed>, JoinHandle<()>)> {
    let (queue, sealed) = mpsc::sync_channel::<Sealed>(1);
    let thread = std::thread::Builder::new().name("outbox".into()).spawn(move || {
        let _watch = fatal.watch("outbox");
        for mut batch in sealed {
            if let Err(error) = append(&wal, &batch, &health) {
                fatal.report("outbox", &error);
                return;
            }
            let head = Head::decode(batch.encoded.head.clone()).expect("a head that was just encoded decodes");
            waiting.add(batch.cut.seq, &head, std::mem::take(&mut batch.rows), Instant::now());
            stats.batch(batch.encoded.rows, batch.encoded.body_len);
            stats.settled(batch.cut.ledger.iter().map(|(key, amount)| (key, amount)));
            durable.send_replace(batch.cut.seq);
            // Only now have the requests in it left the backlog.
            drop(batch.places);
        }
    })?;
    Ok((queue, thread))
}

fn append(wal: &Wal, batch: &Sealed, health: &health::Handle) -> Result<(), tailwater_wal::Error> {
    let mut refused = None;
    loop {
        let appended = wal
            .append(
                batch.encoded.head.clone(),
                Body::checked(batch.encoded.body.clone(), batch.encoded.body_crc),
            )
            .and_then(|ticket| ticket.wait());
        match appended {
            Ok(seq) => {
                assert_eq!(seq, batch.cut.seq.0, "the outbox numbers batches as the journal does");
                if let Some(since) = refused.take() {
                    let since: Instant = since;
                    info!(
                        waited_ms = since.elapsed().as_millis() as u64,
                        "the outbox takes batches again"
                    );
                    health.ready();
                }
                return Ok(());
            }
            Err(error) if error.is_retryable() => {
                if refused.is_none() {
                    warn!(%error, batch = batch.cut.seq.0, "the outbox is full; requests will be refused until there is room");
                    health.not_ready(format!("outbox: {error}"));
                    refused = Some(Instant::now());
                }
                std::thread::sleep(RETRY);
            }
            Err(error) => return Err(error),
        }
    }
}
