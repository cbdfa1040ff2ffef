//! A process of the collector between its two logs, for tests: it replays, walks new records, and leaves batches behind.

use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use tailwater_journal::Recovery;
use tailwater_model::ids::{BatchSeq, TraceId};
use tailwater_sampling::Memory;
use tailwater_sampling::governor::Drain;
use tailwater_sampling::policy::{self, Policy};

use super::tests::{NOW, SECOND, journal_settings, parts};
use super::*;
use crate::outbox::Waiting;
use crate::tail::{self, Behind, Picked, Picks};

/// An intake log.
pub(super) trait Log: Clone + Send + 'static {
    /// Its record of this LSN.
    fn record(&self, lsn: u64) -> Accepted;

    /// How many traces of a tenant may wait.
    fn live_traces(&self) -> Option<u32> {
        None
    }

    /// Its beginning, where it has hardly any room left.
    fn crowded(&self) -> Option<std::ops::Range<Lsn>> {
        None
    }

    /// A clock that nobody sets.
    fn steady_ns(&self) -> Option<u64> {
        None
    }

    /// A policy that was read.
    fn policy(&self) -> Option<Policy> {
        None
    }
}

/// A log behind which nothing is short; what commits took, if there are any.
pub(super) struct Calm<L>(pub L, pub Option<Arc<Waiting>>);

impl<L: Log> Behind for Calm<L> {
    fn drain(&self) -> Drain {
        Drain {
            queued: 0.0,
            drained: Some(0.0),
            commits: 0,
        }
    }
    fn stored_per_byte(&self) -> Option<f64> {
        self.1.as_ref()?.stored_per_byte()
    }
    fn pressure(&self) -> (f64, f64) {
        (0.0, 0.0)
    }
    fn records(&self, lsns: Vec<Lsn>) -> Box<dyn Picks> {
        let records: Vec<Accepted> = lsns.into_iter().map(|lsn| self.0.record(lsn.0)).collect();
        Box::new(AtHand {
            records: records.into_iter(),
            current: None,
        })
    }
    fn policy(&mut self) -> Option<Policy> {
        self.0.policy()
    }
    fn live_traces(&self, _: &str) -> Option<u32> {
        self.0.live_traces()
    }
    fn crowded(&self) -> Option<std::ops::Range<Lsn>> {
        self.0.crowded()
    }
    fn steady_ns(&self) -> Option<u64> {
        self.0.steady_ns()
    }
}

/// Records that are there.
struct AtHand {
    records: std::vec::IntoIter<Accepted>,
    current: Option<Accepted>,
}

impl Picks for AtHand {
    fn next(&mut self) -> Option<Result<Option<Picked<'_>>, tailwater_wal::Error>> {
        self.current = self.records.next();
        let record = self.current.as_ref()?;
        Some(Ok(Some(Picked {
            lsn: record.lsn,
            arrival_ns: record.entry.arrival_ns,
            rejected: record.entry.ordinals(),
            payload: &record.payload,
        })))
    }
}

/// What a process is like. Without a policy it settles what waited under one.
pub(super) struct Process<'a> {
    pub policy: Option<&'a str>,
    pub tail: tail::Settings,
    pub red: Option<Arc<Mutex<Aggregator>>>,
    /// The sampler's section of the last checkpoint.
    pub saved: Option<&'a [u8]>,
}

/// What a process leaves behind.
pub(super) struct Left {
    pub batches: Vec<Sealed>,
    /// The sampler's section of every checkpoint that might have been made, with the last batch in it.
    pub saved: Vec<Saved>,
}

pub(super) type Saved = (BatchSeq, Vec<u8>);

/// No log record follows its trace.
pub(crate) fn tail_settings(recent_bytes: u64) -> tail::Settings {
    tail::Settings {
        recent_bytes,
        waiting_bytes_max: u64::MAX,
        follow_logs: false,
        log_bytes: 0,
        memory: Memory::default(),
        delay: Duration::from_millis(200),
        commit: Duration::from_secs(30),
        // A few spans: a tick may need several batches.
        batch_bytes: 4000,
        log_lasts: None,
    }
}

/// A counter with the settings that users have by default.
pub(super) fn counter() -> Option<Arc<Mutex<Aggregator>>> {
    let config = tailwater_config::Config::of(&[]).unwrap();
    let red = tailwater_red::Settings::new(&config.red, Vec::new(), Caps::default());
    Some(Arc::new(Mutex::new(Aggregator::new(red))))
}

impl Process<'_> {
    /// Starts on the settlements of earlier batches, walks what the log still gives and then its `new` records, and ends cleanly.
    pub fn run(self, settled: &[Bytes], log: &impl Log, new: std::ops::Range<u64>) -> Left {
        let journal = recovered(settled);
        let log_id = journal.lock().log_id();
        let behind = Box::new(Calm(log.clone(), None));
        let (tail, leftover) = match self.policy {
            Some(policy) => {
                let policy = policy::read(Path::new("p.yaml"), policy).unwrap();
                let tail = Tail::new(self.tail, policy, self.saved, log_id, behind, NOW).unwrap();
                (Some(Arc::new(Mutex::new(tail))), None)
            }
            None => (None, Some(Tail::leftover(self.tail, log_id, behind, NOW).unwrap())),
        };
        let (outbox, sealed) = mpsc::sync_channel(1000);
        let mut road = Road::new(Parts {
            tail: tail.clone(),
            leftover,
            ..parts(journal.clone(), self.red, outbox)
        });
        let saved = Arc::new(Mutex::new(Vec::new()));
        if let Some(tail) = tail {
            // As the keeper does.
            let (journal, saved) = (journal.clone(), saved.clone());
            road.look = Some(Box::new(move || {
                let tail = tail.lock();
                let batch = journal.lock().batch();
                saved.lock().push((batch, tail.encode(batch)));
            }));
        }
        walk_road(road, &journal, log, new);
        let saved = std::mem::take(&mut *saved.lock());
        Left {
            batches: sealed.try_iter().collect(),
            saved,
        }
    }
}

/// The rules as a process finds them that starts on the settlements of earlier batches.
pub(super) fn recovered(settled: &[Bytes]) -> Arc<Mutex<Journal>> {
    let mut recovery = Recovery::new(journal_settings(), None).unwrap();
    for (at, settlement) in settled.iter().enumerate() {
        recovery.batch(BatchSeq(at as u64 + 1), settlement).unwrap();
    }
    Arc::new(Mutex::new(recovery.finish()))
}

/// Walks what the log still gives, and its `new` records.
pub(super) fn walk(parts: Parts, log: &impl Log, new: std::ops::Range<u64>) {
    let journal = parts.journal.clone();
    walk_road(Road::new(parts), &journal, log, new);
}

fn walk_road(road: Road, journal: &Mutex<Journal>, log: &impl Log, new: std::ops::Range<u64>) {
    let from = journal.lock().replay_from().0;
    let replay = (from..new.start).map(|lsn| Ok(log.record(lsn))).collect();
    assert_eq!(run_road(road, replay, new.map(|lsn| log.record(lsn))), None);
}

/// Walks a replay, then `new` records. Answers why it did not come to the end.
pub(super) fn run(
    parts: Parts,
    replay: Vec<Result<Accepted, ReplayError>>,
    new: impl Iterator<Item = Accepted>,
) -> Option<String> {
    run_road(Road::new(parts), replay, new)
}

fn run_road(
    road: Road,
    replay: Vec<Result<Accepted, ReplayError>>,
    new: impl Iterator<Item = Accepted>,
) -> Option<String> {
    let (sender, records) = mpsc::channel();
    new.for_each(|record| sender.send(record).unwrap());
    drop(sender);
    let (fatal, mut failed) = Fatal::new();
    road.run(replay.into_iter(), &records, |_| {}, &fatal);
    failed.try_recv().ok()
}

/// Two tenants use the same trace ids.
pub(super) fn tenant_of(lsn: u64) -> &'static str {
    if lsn.is_multiple_of(3) { "other" } else { "default" }
}

pub(super) fn trace_of(trace: u8) -> TraceId {
    // Any 56 bits.
    let mut id = [trace; 16];
    id[9..].copy_from_slice(&u64::from(trace).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[1..]);
    TraceId(id)
}

/// The span of this number in a trace, which takes a second and ends at `end_ns`; number 0 is the root.
pub(super) fn span_of(trace: u8, number: u8, is_error: bool, end_ns: u64) -> Span {
    Span {
        trace_id: trace_of(trace).0.to_vec(),
        span_id: vec![number + 1, 1, 1, 1, 1, 1, 1, trace],
        parent_span_id: if number == 0 {
            Vec::new()
        } else {
            vec![1, 1, 1, 1, 1, 1, 1, trace]
        },
        name: if trace % 10 == 9 { "/healthz" } else { "op" }.into(),
        kind: 2,
        start_time_unix_nano: end_ns - SECOND,
        end_time_unix_nano: end_ns,
        status: Some(Status {
            code: if is_error { 2 } else { 0 },
            ..Status::default()
        }),
        ..Span::default()
    }
}
