//! The way of a record: appended, synced, answered, handed to the road.
//!
//! ```text
//! requests --append (order of LSNs)--> acker --+--> answer to the client
//!                                              '--> road, in LSN order, durable records only (P3)
//! ```
//!
//! The acker is a thread of its own, so that an answer never waits for the road, which may be busy with a batch. Its queue
//! needs no bound: every entry holds its bytes of the memory budget and its place in the backlog.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use tailwater_journal::record::{Head, Rejected};
use tailwater_model::ids::Lsn;
use tailwater_model::otlp::columns::RequestInfo;
use tailwater_model::signal::Signal;
use tailwater_wal::{Body, Kind, Ticket as Durable, Wal};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::admit::Held;
use crate::dedup::Ticket;
use crate::fatal::Fatal;
use crate::stats::Stats;

/// What is recorded of a request beside its payload.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Arrival, unix ns.
    pub arrival_ns: u64,
    /// Whose.
    pub tenant: Arc<str>,
    /// Which signal.
    pub signal: Signal,
    /// Items in the request, rejected ones included.
    pub items: u64,
    /// Protobuf bytes of the payload, also when the record carries none. 0 without items: bytes are accounted for with items,
    /// and those of an empty envelope could end in no account.
    pub wire_bytes: u64,
    /// Identity for deduplication.
    pub digest: Option<u128>,
    /// A repeat: only the ledger sees it.
    pub duplicate: bool,
    /// Items refused one by one.
    pub rejected: Rejected,
}

impl Entry {
    /// Ordinals of the items refused, ascending.
    pub fn ordinals(&self) -> Vec<u32> {
        self.rejected.iter().map(|(ordinal, _)| ordinal).collect()
    }

    /// What builders and counters are told of the request; `rejected` are its [`Entry::ordinals`].
    pub fn info<'a>(&'a self, rejected: &'a [u32]) -> RequestInfo<'a> {
        RequestInfo {
            tenant: &self.tenant,
            arrival_ns: self.arrival_ns,
            rejected,
        }
    }
}

/// A request on its way into the log, with everything it holds.
pub struct Appended {
    /// What is recorded of it.
    pub entry: Entry,
    /// The protobuf bytes; empty for a duplicate or a wholly rejected request.
    pub payload: Bytes,
    /// To be finished when the record is durable.
    pub ticket: Option<Ticket>,
    /// Memory.
    pub held: Held,
    /// Place in the backlog.
    pub place: Option<OwnedSemaphorePermit>,
}

/// A durable record on its way to the road. What it holds is given back when it is dropped.
pub struct Accepted {
    /// Its number.
    pub lsn: Lsn,
    /// What is recorded of it.
    pub entry: Entry,
    /// The protobuf bytes.
    pub payload: Bytes,
    /// Memory; `None` in a replay, which reads one record at a time.
    pub held: Option<Held>,
    /// Place in the backlog.
    pub place: Option<OwnedSemaphorePermit>,
}

/// Resolves when a record is durable, or with what kept it from being so.
pub type Outcome = oneshot::Receiver<Result<(), tailwater_wal::Error>>;

/// Why a record was not appended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// The process drains.
    #[error("the collector is shutting down")]
    Closing,
    /// The log said no: full, too large, poisoned.
    #[error("{0}")]
    Log(tailwater_wal::Error),
}

struct Waiting {
    durable: Durable,
    appended: Appended,
    answer: oneshot::Sender<Result<(), tailwater_wal::Error>>,
}

/// The intake log with its acker.
pub struct Log {
    wal: Arc<Wal>,
    /// Appending and queueing are one step, so that the queue has the order of the log.
    queue: Mutex<Option<mpsc::Sender<Waiting>>>,
    fatal: Fatal,
}

impl Log {
    /// Starts the acker; durable records go to `road`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        wal: Arc<Wal>,
        road: mpsc::Sender<Accepted>,
        stats: Arc<Stats>,
        fatal: Fatal,
    ) -> std::io::Result<(Arc<Log>, JoinHandle<()>)> {
        let (queue, waiting) = mpsc::channel();
        let of_acker = fatal.clone();
        let acker = fatal.spawn("acker", move || acknowledge(&waiting, &road, &stats, &of_acker))?;
        Ok((
            Arc::new(Log {
                wal,
                queue: Mutex::new(Some(queue)),
                fatal,
            }),
            acker,
        ))
    }

    /// Appends a record. The receiver resolves when it is durable, or with the error that kept it from being so. Dropping
    /// the receiver takes nothing back.
    ///
    /// # Errors
    /// [`Refused`]; nothing was appended then.
    pub fn append(&self, appended: Appended) -> Result<Outcome, Refused> {
        let entry = &appended.entry;
        let mut head = Vec::with_capacity(64);
        Head {
            arrival_ns: entry.arrival_ns,
            tenant: &entry.tenant,
            signal: entry.signal,
            items: entry.items,
            wire_bytes: entry.wire_bytes,
            digest: entry.digest,
            duplicate: entry.duplicate,
            rejected: entry.rejected.clone(),
        }
        .encode(&mut head);
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.lock();
        let Some(queue) = queue.as_ref() else {
            return Err(Refused::Closing);
        };
        let durable = self
            .wal
            .append(head, Body::from(appended.payload.clone()))
            .inspect_err(|error| end_if_poisoned(&self.fatal, error))
            .map_err(Refused::Log)?;
        let waiting = Waiting {
            durable,
            appended,
            answer,
        };
        // Without an acker the process is ending. The record may be in the log all the same; the client comes again, and is known by its digest.
        queue.send(waiting).map_err(|_| Refused::Closing)?;
        Ok(answered)
    }

    /// Takes no more records; the acker ends when those under way are through.
    pub fn close(&self) {
        self.queue.lock().take();
    }

    /// The log itself.
    pub fn wal(&self) -> &Arc<Wal> {
        &self.wal
    }
}

/// After a failed write or sync nobody knows what is on disk: only a new start finds out.
fn end_if_poisoned(fatal: &Fatal, error: &tailwater_wal::Error) {
    if error.kind() == Kind::Poisoned {
        fatal.report("intake log", error);
    }
}

fn acknowledge(waiting: &mpsc::Receiver<Waiting>, road: &mpsc::Sender<Accepted>, stats: &Stats, fatal: &Fatal) {
    for Waiting {
        durable,
        appended,
        answer,
    } in waiting
    {
        match durable.wait() {
            Ok(lsn) => {
                let Appended {
                    entry,
                    payload,
                    ticket,
                    held,
                    place,
                } = appended;
                // Before the record goes on: no checkpoint may pass it without its digest.
                if let Some(ticket) = ticket {
                    ticket.done(entry.rejected.answer());
                }
                stats.received(&entry);
                // A client that has gone does not take its record with it.
                let _ = answer.send(Ok(()));
                if road
                    .send(Accepted {
                        lsn: Lsn(lsn),
                        entry,
                        payload,
                        held: Some(held),
                        place,
                    })
                    .is_err()
                {
                    // The road has stopped, which stops the process; replay finds the record in the log.
                    return;
                }
            }
            Err(error) => {
                end_if_poisoned(fatal, &error);
                let _ = answer.send(Err(error));
            }
        }
    }
}
