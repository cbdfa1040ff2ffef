//! The way of a record: appended, synced, answered, handed to the road.
//!
//! ```text
//! requests --append (order of LSNs)--> acker --+--> answer to the client
//!                                              '--> road, in LSN order, durable records only (P3)
//! ```
//!
//! The acker is a thread of its own, so that an answer never waits for the road, which may be busy with a batch. Its queue
//! needs no bound: every entry holds its bytes of the memory budget and its place in the backlog.
//!
//! While the log has no room the condition `intake_log` says so: from the first refusal on, until a record is durable or [`Log::watch_room`] sees
//! that there is room again, for a server that is not ready is sent nothing to find out with.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tailwater_journal::record::{Head, Rejected};
use tailwater_model::ids::Lsn;
use tailwater_model::otlp::columns::RequestInfo;
use tailwater_model::signal::Signal;
use tailwater_runtime::health::Handle;
use tailwater_wal::{Body, FullReason, Kind, Ticket as Durable, Wal};
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
    room: Arc<Room>,
    fatal: Fatal,
}

/// How often a log without room is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Whether the log has room, as far as somebody has found out.
struct Room {
    is_full: Mutex<bool>,
    health: Handle,
}

impl Room {
    fn new(health: Handle) -> Room {
        health.ready();
        Room {
            is_full: Mutex::new(false),
            health,
        }
    }

    /// A full queue is left in a moment; the others are not.
    fn refused(&self, error: &tailwater_wal::Error) {
        if matches!(
            error.kind(),
            Kind::Full(FullReason::Budget | FullReason::Reserve | FullReason::Disk)
        ) {
            let mut is_full = self.is_full.lock();
            *is_full = true;
            self.health.not_ready(format!("requests are refused: {error}"));
        }
    }

    fn taken(&self) {
        let mut is_full = self.is_full.lock();
        if std::mem::take(&mut *is_full) {
            self.health.ready();
        }
    }
}

impl Log {
    /// Starts the acker; durable records go to `road`. `health` is the condition `intake_log`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        wal: Arc<Wal>,
        road: mpsc::Sender<Accepted>,
        stats: Arc<Stats>,
        health: Handle,
        fatal: Fatal,
    ) -> std::io::Result<(Arc<Log>, JoinHandle<()>)> {
        let (queue, waiting) = mpsc::channel();
        let room = Arc::new(Room::new(health));
        let (room_of_acker, of_acker) = (room.clone(), fatal.clone());
        let acker = fatal.spawn("acker", move || {
            acknowledge(&waiting, &road, &stats, &room_of_acker, &of_acker);
        })?;
        Ok((
            Arc::new(Log {
                wal,
                queue: Mutex::new(Some(queue)),
                room,
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
            .inspect_err(|error| {
                end_if_poisoned(&self.fatal, error);
                self.room.refused(error);
            })
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

    /// Looks, while the log is without room, whether there is some again. Ends with the task that it runs on.
    pub async fn watch_room(self: Arc<Log>) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look();
        }
    }

    fn look(&self) {
        let is_full = *self.room.is_full.lock();
        if is_full && self.wal.no_room().is_none() {
            self.room.taken();
        }
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

fn acknowledge(
    waiting: &mpsc::Receiver<Waiting>,
    road: &mpsc::Sender<Accepted>,
    stats: &Stats,
    room: &Room,
    fatal: &Fatal,
) {
    for Waiting {
        durable,
        appended,
        answer,
    } in waiting
    {
        match durable.wait() {
            Ok(lsn) => {
                room.taken();
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
                room.refused(&error);
                let _ = answer.send(Err(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tailwater_runtime::health::State;
    use tailwater_runtime::{Metrics, Readiness};
    use tailwater_wal::Options;

    use super::*;
    use crate::admit::Budget;

    /// A log of two segments, each of which holds one record.
    struct Fixture {
        log: Arc<Log>,
        readiness: Readiness,
        memory: Arc<Budget>,
        _road: mpsc::Receiver<Accepted>,
        _folder: tempfile::TempDir,
    }

    impl Fixture {
        fn start() -> Fixture {
            let folder = tempfile::tempdir().unwrap();
            let mut options = Options::new(folder.path().join("intake"), [7; 16], 1);
            (options.segment_bytes, options.budget_bytes) = (64 << 10, 128 << 10);
            (options.reserve_bytes, options.allow_volatile) = (0, true);
            let (wal, _) = Wal::open(options).unwrap();
            let (sender, _road) = mpsc::channel();
            let readiness = Readiness::new();
            let health = readiness.condition("intake_log");
            let stats = Stats::new(&Metrics::new());
            let (log, _) = Log::start(Arc::new(wal), sender, stats, health, Fatal::new().0).unwrap();
            Fixture {
                log,
                readiness,
                memory: Budget::new(1 << 20),
                _road,
                _folder: folder,
            }
        }

        /// Whether a record is taken.
        async fn append(&self) -> bool {
            let appended = Appended {
                entry: Entry {
                    arrival_ns: 1,
                    tenant: "t".into(),
                    signal: Signal::Logs,
                    items: 1,
                    wire_bytes: 1,
                    digest: None,
                    duplicate: false,
                    rejected: Rejected::default(),
                },
                payload: vec![0; 40_000].into(),
                ticket: None,
                held: Held::take(&self.memory, &self.memory, 1).unwrap(),
                place: None,
            };
            match self.log.append(appended) {
                Ok(durable) => durable.await.unwrap().is_ok(),
                Err(_) => false,
            }
        }

        fn state(&self) -> (State, String) {
            let condition = self.readiness.report().conditions["intake_log"].clone();
            (condition.state, condition.reason)
        }
    }

    /// Two records fill the log, of which trimming takes the first.
    #[tokio::test]
    async fn a_log_without_room_is_not_ready_until_there_is_room() {
        for by_looking in [false, true] {
            let fixture = Fixture::start();
            assert_eq!(fixture.state().0, State::Ready);
            assert!(fixture.append().await && fixture.append().await);
            assert_eq!(fixture.state().0, State::Ready, "full, but nothing was refused");
            assert!(!fixture.append().await);
            let (state, reason) = fixture.state();
            assert_eq!(state, State::NotReady);
            assert!(reason.contains("would exceed its budget of 131072"), "{reason}");
            fixture.log.look();
            assert_eq!(fixture.state().0, State::NotReady);
            fixture.log.wal().trim_below(2).unwrap();
            match by_looking {
                true => fixture.log.look(),
                false => assert!(fixture.append().await),
            }
            assert_eq!(fixture.state(), (State::Ready, String::new()));
        }
    }
}
