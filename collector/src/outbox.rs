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
    /// Protobuf bytes of the spans that verdicts put into it. Late spans are in none: what they take counts to what traces take.
    pub wire_bytes: u64,
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
    /// Frames whose rows are not kept.
    unkept: usize,
    /// Bytes of frames with traces that were committed, and what they took in the tables.
    drained: u64,
    stored: u64,
    /// Commits of spans.
    commits: u64,
    /// By place in [`TRACES`].
    measured: [Measured; TRACES.len()],
}

/// What commits of a table took, and what came to be in them; since it was last asked.
#[derive(Debug, Default)]
struct Measured {
    wire: u64,
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
    /// Commits of spans, which take most.
    pub commits: u64,
}

const TRACES: [Table; 2] = [Table::Spans, Table::Traces];

#[derive(Debug)]
struct Frame {
    seq: BatchSeq,
    bytes: u64,
    /// [`Sealed::wire_bytes`] of its batch, unless a process before this one made it.
    wire: Option<u64>,
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

    /// A batch is durable, with the frames its head lists; `rows` are theirs, or none at all. `wire` is [`Sealed::wire_bytes`], if it is known.
    pub fn add(&self, seq: BatchSeq, head: &Head, rows: Vec<RecordBatch>, wire: Option<u64>, since: Instant) {
        let mut rows = rows.into_iter();
        let mut inner = self.inner.lock();
        for frame in &head.frames {
            let rows = rows.next().filter(|_| inner.kept + frame.len <= self.kept_max);
            inner.kept += if rows.is_some() { frame.len } else { 0 };
            inner.unkept += usize::from(rows.is_none());
            inner.tables[index(frame.table)].push_back(Frame {
                seq,
                bytes: frame.len,
                wire,
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

    /// Whether rows that wait are in the file alone.
    pub fn needs_file(&self) -> bool {
        self.inner.lock().unkept > 0
    }

    /// The table has committed through `seq`; `stored` bytes of files came of it, 0 if that is not known.
    pub fn committed(&self, table: Table, seq: BatchSeq, stored: u64) {
        let inner = &mut *self.inner.lock();
        let (mut drained, mut wire) = (0, Some(0));
        while let Some(frame) = inner.tables[index(table)].pop_front_if(|front| front.seq <= seq) {
            inner.unkept -= usize::from(frame.rows.is_none());
            inner.kept -= frame.rows.map_or(0, |_| frame.bytes);
            drained += frame.bytes;
            wire = wire.and_then(|sum: u64| Some(sum + frame.wire?));
        }
        let place = TRACES.iter().position(|of_traces| *of_traces == table);
        let Some(place) = place.filter(|_| stored > 0) else {
            return;
        };
        inner.drained += drained;
        inner.stored += stored;
        inner.commits += u64::from(table == Table::Spans);
        // Of a commit that is not known in whole nothing is known.
        if let Some(wire) = wire {
            inner.measured[place].wire += wire;
            inner.measured[place].stored += stored;
        }
    }

    /// What a byte of protobuf took in the tables, by the commits since the last answer; `None` until each table has had one.
    pub fn stored_per_byte(&self) -> Option<f64> {
        let inner = &mut *self.inner.lock();
        if inner.measured.iter().any(|table| table.wire == 0) {
            return None;
        }
        // Every table has its part of all that came to be in its commits, so that one which commits more often weighs no more.
        let tables = std::mem::take(&mut inner.measured);
        Some(tables.iter().map(|table| table.stored as f64 / table.wire as f64).sum())
    }

    /// How the rows of traces fare.
    pub fn traces(&self) -> Traces {
        let inner = self.inner.lock();
        let waiting = TRACES.iter().flat_map(|table| &inner.tables[index(*table)]);
        Traces {
            waiting: waiting.map(|frame| frame.bytes).sum(),
            drained: inner.drained,
            stored: inner.stored,
            commits: inner.commits,
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
    fatal: &Fatal,
) -> std::io::Result<(mpsc::SyncSender<Sealed>, JoinHandle<()>)> {
    let (queue, sealed) = mpsc::sync_channel::<Sealed>(1);
    let of_thread = fatal.clone();
    let thread = fatal.spawn("outbox", move || {
        for mut batch in sealed {
            if let Err(error) = append(&wal, &batch, &health) {
                of_thread.report("outbox", &error);
                return;
            }
            let head = Head::decode(batch.encoded.head.clone()).expect("a head that was just encoded decodes");
            let rows = std::mem::take(&mut batch.rows);
            waiting.add(batch.cut.seq, &head, rows, Some(batch.wire_bytes), Instant::now());
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use tailwater_sampling::policy;
    use tailwater_sampling::sim::{Ours, Random, SPAN_BYTES, STORED_PER_BYTE, Traffic};
    use tailwater_storage::outbox::FrameHead;

    use super::*;

    /// A batch of spans that were so many bytes of protobuf.
    fn add(waiting: &Waiting, seq: u64, wire: u64, is_known: bool) {
        let frame = |table, len| FrameHead {
            table,
            rows: 1,
            times: None,
            services: None,
            traces: None,
            offset: 0,
            len,
            crc: 0,
        };
        let head = Head {
            settlement: bytes::Bytes::new(),
            frames: vec![frame(Table::Spans, 2 * wire), frame(Table::Traces, wire / 4)],
        };
        let wire = is_known.then_some(wire);
        waiting.add(BatchSeq(seq), &head, Vec::new(), wire, Instant::now());
    }

    #[test]
    fn what_a_byte_took_is_told_by_whole_commits_of_this_process() {
        let waiting = Waiting::new(0);
        assert_eq!(waiting.stored_per_byte(), None);
        // The table has had batch 1 since before the start; 2 comes out of the file.
        (1..=2).for_each(|seq| add(&waiting, seq, 1000, false));
        (3..=6).for_each(|seq| add(&waiting, seq, 1000, true));
        waiting.committed(Table::Spans, BatchSeq(1), 0);
        waiting.committed(Table::Spans, BatchSeq(3), 7000);
        waiting.committed(Table::Traces, BatchSeq(3), 500);
        assert_eq!(waiting.stored_per_byte(), None, "half of each is of the process before");
        waiting.committed(Table::Spans, BatchSeq(4), 80);
        waiting.committed(Table::Spans, BatchSeq(5), 120);
        assert_eq!(waiting.stored_per_byte(), None, "nothing is known of the other table");
        waiting.committed(Table::Traces, BatchSeq(6), 60);
        assert_eq!(waiting.stored_per_byte(), Some(0.1 + 0.02));
        assert_eq!(waiting.stored_per_byte(), None, "it was told");
        let traces = waiting.traces();
        assert_eq!(
            (traces.stored, traces.commits),
            (7760, 3),
            "what had no size is no commit"
        );
        assert_eq!((traces.waiting, traces.drained), (2000, 8000 + 1500));
    }

    #[test]
    fn the_file_is_needed_while_rows_that_wait_are_nowhere_else() {
        let waiting = Waiting::new(0);
        assert!(!waiting.needs_file());
        add(&waiting, 1, 1000, false);
        add(&waiting, 2, 1000, true);
        waiting.committed(Table::Spans, BatchSeq(2), 0);
        waiting.committed(Table::Traces, BatchSeq(1), 0);
        assert!(waiting.needs_file(), "a frame of a table still waits");
        waiting.committed(Table::Traces, BatchSeq(2), 0);
        assert!(!waiting.needs_file());
    }

    /// B2, with a store that stands for ten minutes and commits that come less often than what they took is asked for: what is kept takes what the
    /// budget says, before, meanwhile and after.
    #[test]
    fn the_budget_in_bytes_holds_whenever_commits_come() {
        let budget = 100.0 * f64::from(SPAN_BYTES) * STORED_PER_BYTE;
        // Of spans and of traces: together a third of what an uncalibrated sampler expects.
        let truth = [0.028, 0.005];
        for interval in [5, 30, 200] {
            let text = format!("budget: {{stored_bytes_per_sec: {budget}}}");
            let policy = policy::read(Path::new("p.yaml"), &text).unwrap_or_else(|problems| panic!("{problems}"));
            let mut ours = Ours::new(policy).unwrap();
            let (traffic, mut random) = (Traffic::default(), Random::new(4));
            let waiting = Waiting::new(0);
            let mut kept = Vec::new();
            let mut since = [0; 2];
            for second in 1..=4500u64 {
                let traces = traffic.second(second, &mut random);
                ours.second(second, &traces, f64::INFINITY);
                let verdicts = ours.output().verdicts.iter().filter(|verdict| verdict.keep);
                let wire: u64 = verdicts.map(|verdict| verdict.bytes).sum();
                add(&waiting, second, wire, true);
                kept.push(wire);
                let is_up = !(2600..3200).contains(&second);
                let tables = [(Table::Spans, interval), (Table::Traces, interval * 3 / 2)];
                for (at, (table, every)) in tables.into_iter().enumerate() {
                    if is_up && second - since[at] >= every {
                        let wire: u64 = kept[since[at] as usize..].iter().sum();
                        waiting.committed(table, BatchSeq(second), (wire as f64 * truth[at]) as u64);
                        since[at] = second;
                    }
                }
                if second % 60 == 0
                    && let Some(stored_per_byte) = waiting.stored_per_byte()
                {
                    ours.sampler().calibrate(None, stored_per_byte);
                }
            }
            let used = |from: usize, to: usize| {
                let wire: u64 = kept[from..to].iter().sum();
                wire as f64 * (truth[0] + truth[1]) / (to - from) as f64 / budget
            };
            let used = [used(2400, 2600), used(2600, 3200), used(3200, 3400), used(3400, 4500)];
            println!("a commit every {interval} s: {used:.3?} of the budget");
            assert!(
                used.iter().all(|part| (part - 1.0).abs() <= 0.05),
                "{interval} s: {used:?}"
            );
        }
    }
}
