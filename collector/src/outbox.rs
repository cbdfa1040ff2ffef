//! The way of a batch into the outbox: one after the other, again and again until it is in.
//!
//! ```text
//! road --(one batch ahead)--> outbox thread --append, sync--> durable batch number --> deliver, checkpoint, queries
//! ```
//!
//! A full disk or budget makes the thread wait; the road then waits for it, the backlog fills, and requests are refused.
//! Nothing is dropped on the way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    /// Places in the backlog of the requests in it.
    pub places: Vec<OwnedSemaphorePermit>,
}

/// What waits in the outbox for each table: how much, and since when.
#[derive(Debug, Default)]
pub struct Waiting {
    tables: Mutex<[VecDeque<Frames>; Table::COLLECTED.len()]>,
}

#[derive(Debug, Clone, Copy)]
struct Frames {
    seq: BatchSeq,
    bytes: u64,
    since: Instant,
}

impl Waiting {
    /// A batch is durable, with the frames its head lists.
    pub fn add(&self, seq: BatchSeq, head: &Head, since: Instant) {
        let mut tables = self.tables.lock();
        for frame in &head.frames {
            let queue = &mut tables[index(frame.table)];
            match queue.back_mut() {
                Some(last) if last.seq == seq => last.bytes += frame.len,
                _ => queue.push_back(Frames {
                    seq,
                    bytes: frame.len,
                    since,
                }),
            }
        }
    }

    /// The table has committed through `seq`.
    pub fn committed(&self, table: Table, seq: BatchSeq) {
        let queue = &mut self.tables.lock()[index(table)];
        while queue.front().is_some_and(|front| front.seq <= seq) {
            queue.pop_front();
        }
    }

    /// Bytes that wait, and since when the oldest does.
    pub fn of(&self, table: Table) -> Option<(u64, Instant)> {
        let queue = &self.tables.lock()[index(table)];
        let oldest = queue.front()?.since;
        Some((queue.iter().map(|frames| frames.bytes).sum(), oldest))
    }

    /// The last batch of a commit that takes about `bytes_max`, starting with the oldest; at least one batch.
    pub fn through(&self, table: Table, bytes_max: u64) -> Option<BatchSeq> {
        let queue = &self.tables.lock()[index(table)];
        let mut sum = 0;
        let mut through = None;
        for frames in queue {
            sum += frames.bytes;
            if through.is_some() && sum > bytes_max {
                break;
            }
            through = Some(frames.seq);
        }
        through
    }
}

fn index(table: Table) -> usize {
    table as usize - 1
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
        for batch in sealed {
            if let Err(error) = append(&wal, &batch, &health) {
                fatal.report("outbox", &error);
                return;
            }
            let head = Head::decode(batch.encoded.head.clone()).expect("a head that was just encoded decodes");
            waiting.add(batch.cut.seq, &head, Instant::now());
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
            .append(batch.encoded.head.clone(), Body::from(batch.encoded.body.clone()))
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
