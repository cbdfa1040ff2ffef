//! The road: durable records become columns, columns become batches.
//!
//! ```text
//! replay, then new records --LSN order--> columns per table --(rows, bytes or age)--> cut --> outbox (one batch ahead)
//! ```
//!
//! One thread walks the records in LSN order and owns the columns, so every shard advances together and a batch is cut
//! between two requests by construction (P4). With everything kept no trace is ever pending: low is always A + 1, and a
//! replay starts where the last batch ended.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::Bytes;
use parking_lot::Mutex;
use tailwater_journal::settlement::TableSet;
use tailwater_journal::{Decision, Journal, Row};
use tailwater_model::ids::{LogId, Lsn, Shard};
use tailwater_model::ledger::{Account, Amount, Key, ledger_batch};
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::{Choice, LogColumns, MetricColumns, Sampling, SeriesSeen, SpanColumns};
use tailwater_model::otlp::reject::Reason;
use tailwater_model::red::{edge_batch, red_batch};
use tailwater_model::signal::Signal;
use tailwater_model::table::Table;
use tailwater_red::{Aggregator, Mode};
use tailwater_sampling::{KeepAll, Own, Unconditional};
use tailwater_storage::outbox::BatchBuilder;
use tokio::sync::OwnedSemaphorePermit;
use tracing::error;

use crate::fatal::Fatal;
use crate::hold::Hold;
use crate::log::{Accepted, Entry};
use crate::open::ReplayError;
use crate::outbox::Sealed;
use crate::stats::Stats;
use crate::suspects::Suspects;
use crate::tail::{self, Tail, share, tick_batch};

/// When a batch is cut.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Longest wait of a row.
    pub delay: Duration,
    /// Rows.
    pub rows: usize,
    /// Bytes of columns.
    pub bytes: usize,
}

/// What the road needs of others.
pub struct Parts {
    /// When a batch is cut.
    pub settings: Settings,
    /// The rules.
    pub journal: Arc<Mutex<Journal>>,
    /// Everything stays,
    pub sampler: KeepAll,
    /// unless this decides about traces. The keeper asks it for its part of the checkpoint.
    pub tail: Option<Arc<Mutex<Tail>>>,
    /// Without it: settles what waited when there was one.
    pub leftover: Option<Tail>,
    /// What is counted of every span; `None` counts nothing. The keeper reads its guard.
    pub red: Option<Arc<Mutex<Aggregator>>>,
    /// Bytes of the intake log that may be kept for the sides of calls that wait.
    pub hold_bytes: u64,
    /// Where batches go.
    pub outbox: SyncSender<Sealed>,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Per item; the same as the intake's.
    pub caps: Caps,
    /// Unix ns.
    pub now: fn() -> u64,
    /// Records that are not to be walked once more.
    pub suspects: Suspects,
}

/// The walker and what it fills.
pub struct Road {
    settings: Settings,
    journal: Arc<Mutex<Journal>>,
    outbox: SyncSender<Sealed>,
    stats: Arc<Stats>,
    now: fn() -> u64,
    log_id: LogId,
    verdict: Unconditional,
    decision: Decision,
    tail: Option<Arc<Mutex<Tail>>>,
    /// The tail is there for the replay alone.
    is_leaving: bool,
    red: Option<Arc<Mutex<Aggregator>>>,
    hold: Hold,
    spans: SpanColumns,
    logs: LogColumns,
    metrics: MetricColumns,
    series: SeriesSeen,
    ledger: AHashMap<Key, Amount>,
    places: Vec<OwnedSemaphorePermit>,
    /// Last record walked since the last cut.
    walked: Option<Lsn>,
    /// When the first record of the open batch was walked.
    since: Option<Instant>,
    suspects: Suspects,
    /// Called before a batch is cut.
    #[cfg(test)]
    look: Option<Box<dyn FnMut() + Send>>,
}

/// Why the road ended.
#[derive(Debug, thiserror::Error)]
pub enum RoadError {
    /// The rules were broken, or a counter ran over.
    #[error("journal: {0}")]
    Journal(#[from] tailwater_journal::Error),
    /// Columns that the outbox does not take.
    #[error("outbox frame: {0}")]
    Frame(#[from] tailwater_storage::Error),
    /// The intake log does not let itself be read.
    #[error("reading the intake log: {0}")]
    IntakeLog(#[from] ReplayError),
    /// The outbox thread has ended, and said why.
    #[error("the outbox has ended")]
    OutboxEnded,
}

/// Series remembered as seen today, in 34 MiB; those beyond that are listed again and again, which readers expect.
const SERIES_MAX: usize = 1 << 20;

/// Width of a slice of the ledger.
const SLICE_NS: u64 = 10 * 1_000_000_000;

/// How often the tail looks at the clock when nothing arrives.
const TICK: Duration = Duration::from_millis(500);

/// A trace may be met in many batches; only the first part counts it.
const FIRST_PART: i32 = 0;
const LATER_PART: i32 = 1;

impl Road {
    /// A road with nothing on it.
    pub fn new(parts: Parts) -> Road {
        let Parts {
            settings,
            journal,
            sampler,
            tail,
            leftover,
            red,
            hold_bytes,
            outbox,
            stats,
            caps,
            now,
            suspects,
        } = parts;
        let is_leaving = tail.is_none();
        let tail = tail.or_else(|| Some(Arc::new(Mutex::new(leftover?))));
        let (keep_ns, asked) = match &red {
            Some(red) => {
                let red = red.lock();
                (red.restore_ns(), red.keys().clone())
            }
            None => (0, Arc::default()),
        };
        let verdict = sampler.unconditional();
        let (log_id, decision) = {
            let mut journal = journal.lock();
            let policy = journal.policy(verdict.reason, verdict.epoch);
            (
                journal.log_id(),
                Decision {
                    threshold: verdict.threshold.bits(),
                    policy,
                },
            )
        };
        Road {
            settings,
            journal,
            outbox,
            stats,
            now,
            log_id,
            verdict,
            decision,
            tail,
            is_leaving,
            red,
            hold: Hold::new(keep_ns, hold_bytes),
            spans: SpanColumns::asking(caps.clone(), asked),
            logs: LogColumns::new(caps.clone()),
            metrics: MetricColumns::new(caps),
            series: SeriesSeen::new(SERIES_MAX),
            ledger: AHashMap::new(),
            places: Vec::new(),
            walked: None,
            since: None,
            suspects,
            #[cfg(test)]
            look: None,
        }
    }

    /// Walks the replay, then new records until their sender is gone; then cuts the last batch.
    pub fn run(
        mut self,
        replay: impl Iterator<Item = Result<Accepted, ReplayError>>,
        records: &Receiver<Accepted>,
        replayed: impl FnOnce(u64),
        fatal: &Fatal,
    ) {
        if let Err(error) = self.walk_all(replay, records, replayed) {
            fatal.report("road", &error);
        }
    }

    fn walk_all(
        &mut self,
        replay: impl Iterator<Item = Result<Accepted, ReplayError>>,
        records: &Receiver<Accepted>,
        replayed: impl FnOnce(u64),
    ) -> Result<(), RoadError> {
        let mut count = 0;
        for record in replay {
            // Whatever is behind it is not read: to go on would be to move past it.
            let record = self.checked(record?);
            if self.is_counted(record.lsn) {
                self.begin(&record, Mode::Restore);
                if !self.offer(&record)? {
                    self.restore(&record);
                }
                // What it settles is settled through here, also if no new record comes before the cut: else a second crash stores it again.
                self.walked = Some(record.lsn);
                self.tick(record.entry.arrival_ns)?;
                self.cut_if_full()?;
                continue;
            }
            self.leave()?;
            self.stats.received(&record.entry);
            self.walk(record)?;
            count += 1;
        }
        self.leave()?;
        if let Some(tail) = &self.tail {
            tail.lock().live((self.now)());
        }
        replayed(count);
        loop {
            let wait = match (self.since, &self.tail) {
                (Some(since), _) => self.settings.delay.saturating_sub(since.elapsed()),
                (None, None) => Duration::from_secs(3600),
                (None, Some(_)) => TICK,
            };
            match records.recv_timeout(wait) {
                Ok(record) => {
                    let record = self.checked(record);
                    self.walk(record)?;
                }
                Err(RecvTimeoutError::Timeout) => self.tick((self.now)())?,
                Err(RecvTimeoutError::Disconnected) => return self.cut(),
            }
            if self.since.is_some_and(|since| since.elapsed() >= self.settings.delay) {
                self.cut()?;
            }
        }
    }

    /// The record, its walk begun. One that brought the road down before is as if damage had taken it.
    fn checked(&mut self, record: Accepted) -> Accepted {
        match self.suspects.begin(record.lsn) {
            false => record,
            true => Accepted {
                payload: Bytes::new(),
                ..record
            },
        }
    }

    /// The records that a policy which is gone had seen are walked: what waited is due by and by, and then everything is kept as it comes.
    fn leave(&mut self) -> Result<(), RoadError> {
        if !std::mem::take(&mut self.is_leaving) {
            return Ok(());
        }
        if let Some(tail) = self.tail.clone() {
            let next = || {
                let tail = tail.lock();
                (!tail.is_empty()).then(|| tail.next_tick_ns())
            };
            // What came within half a second at a time, so that no batch holds all of it.
            while let Some(now_ns) = next() {
                self.tick(now_ns)?;
                self.cut_if_full()?;
            }
            self.cut()?;
            self.tail = None;
        }
        tail::end_following(&mut self.journal.lock());
        Ok(())
    }

    /// Whether a record is at or below the watermark: all of it is in a batch. It is read once more only for what waited.
    fn is_counted(&self, lsn: Lsn) -> bool {
        !self.journal.lock().replay_record(Shard::of_record(lsn).0, lsn)
    }

    /// A record begins: moves the clock of the sides of calls that wait, and tells how its spans are to be counted, which is done before
    /// anything is sampled (P5).
    fn begin(&mut self, record: &Accepted, mode: Mode) {
        let Some(red) = &self.red else { return };
        let Accepted {
            lsn, entry, payload, ..
        } = record;
        red.lock().begin(&entry.info(&[]), mode);
        self.hold
            .record(*lsn, entry.arrival_ns, payload.len() as u64, &self.journal);
    }

    /// Brings back what waited of the spans of a record that is in a batch and not the tail's.
    fn restore(&mut self, record: &Accepted) {
        let Some(red) = &self.red else { return };
        let entry = &record.entry;
        if entry.signal != Signal::Traces || entry.duplicate {
            return;
        }
        let rejected = entry.ordinals();
        if let Err(error) = red.lock().walk(&record.payload, &entry.info(&rejected)) {
            error!(lsn = record.lsn.0, %error, "an accepted request cannot be counted");
        }
    }

    /// Lets the tail look at the clock: what is due is decided. Between two records only, because batches may be cut.
    fn tick(&mut self, now_ns: u64) -> Result<(), RoadError> {
        let Some(of_road) = self.tail.clone() else {
            return Ok(());
        };
        let mut tail = of_road.lock();
        tail.tick(now_ns, &mut self.journal.lock(), &mut self.spans, &mut self.logs);
        self.settle(&mut tail)?;
        while tail.is_behind() {
            drop(tail);
            self.cut()?;
            tail = of_road.lock();
            tail.go_on(&mut self.journal.lock(), &mut self.spans, &mut self.logs);
            self.settle(&mut tail)?;
        }
        Ok(())
    }

    /// Offers the spans or log records of a record to the tail. Answers whether the record is the tail's.
    fn offer(&mut self, record: &Accepted) -> Result<bool, RoadError> {
        let Some(tail) = self.tail.clone() else {
            return Ok(false);
        };
        let entry = &record.entry;
        let mut tail = tail.lock();
        {
            let mut journal = self.journal.lock();
            let (lsn, payload) = (record.lsn, &record.payload);
            match entry.signal {
                _ if entry.duplicate || payload.is_empty() => {}
                Signal::Traces => {
                    let mut red = self.red.as_ref().map(|red| red.lock());
                    let rows = (&mut self.spans, &mut self.logs);
                    tail.record(lsn, entry, payload, &mut journal, red.as_deref_mut(), rows);
                }
                Signal::Logs => tail.logs(lsn, entry, payload, &mut journal, &mut self.logs),
                Signal::Metrics => {}
            }
        }
        self.settle(&mut tail)?;
        Ok(entry.signal == Signal::Traces || entry.signal == Signal::Logs && tail.takes_logs())
    }

    /// Counts what the tail has settled, if it could.
    fn settle(&mut self, tail: &mut Tail) -> Result<(), RoadError> {
        if let Some(error) = tail.failed() {
            return Err(RoadError::IntakeLog(error.into()));
        }
        let mut has_news = tail.has_ticks();
        for settled in tail.settled() {
            has_news = true;
            let key = Key {
                tenant: settled.tenant,
                signal: settled.signal,
                account: settled.account,
                reason: settled.reason,
            };
            self.add(key, settled.items, settled.bytes);
        }
        if has_news {
            self.since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn walk(&mut self, record: Accepted) -> Result<(), RoadError> {
        self.begin(&record, Mode::Count);
        let is_offered = self.offer(&record)?;
        let Accepted {
            lsn,
            entry,
            payload,
            held,
            place,
        } = record;
        debug_assert!(
            self.walked.is_none_or(|walked| walked < lsn),
            "records come in LSN order"
        );
        // A record that items were accepted of has a payload, unless damage took it.
        let is_damaged = payload.is_empty() && entry.items > entry.rejected.count();
        if entry.duplicate {
            self.count(&entry, Account::Deduplicated, "", entry.items, entry.wire_bytes);
        } else if is_damaged {
            self.count_rejected(&entry, 0, 0, LOST_DAMAGED);
        } else if is_offered {
            for (ordinal, code) in entry.rejected.iter() {
                let reason = Reason::from_code(code.0).map_or("unknown", Reason::name);
                self.count(&entry, Account::Rejected, reason, 1, share(&entry, ordinal));
            }
        } else {
            let (rows, bytes) = match payload.is_empty() {
                true => (0, 0),
                false => self.decode(lsn, &entry, &payload),
            };
            self.count_rejected(&entry, rows, bytes, LOST_UNDECODABLE);
        }
        self.count(&entry, Account::Received, "", entry.items, entry.wire_bytes);
        drop((payload, held));
        self.places.extend(place);
        self.walked = Some(lsn);
        self.since.get_or_insert_with(Instant::now);
        self.tick(entry.arrival_ns)?;
        self.cut_if_full()
    }

    fn cut_if_full(&mut self) -> Result<(), RoadError> {
        if self.rows() >= self.settings.rows || self.bytes() >= self.settings.bytes {
            self.cut()?;
        }
        Ok(())
    }

    /// Decodes a request into columns; answers how many rows it became, and their wire bytes.
    fn decode(&mut self, lsn: Lsn, entry: &Entry, payload: &[u8]) -> (u64, u64) {
        let rejected = entry.ordinals();
        let info = entry.info(&rejected);
        let pushed = match entry.signal {
            Signal::Traces => {
                let choice = Choice::Said(self.sampling(), upstream::by_sender);
                match &self.red {
                    Some(red) => {
                        let mut red = red.lock();
                        self.spans.push_shown(payload, &info, choice, |span| red.count(span))
                    }
                    None => self.spans.push_request(payload, &info, choice),
                }
            }
            Signal::Logs => self.logs.push_request(payload, &info, Choice::All(self.sampling())),
            Signal::Metrics => self.metrics.push_request(payload, &info, &mut self.series),
        };
        match pushed {
            Ok(pushed) => (pushed.rows, pushed.bytes),
            Err(error) => {
                // It was inspected before it was accepted, so this is our fault; the items end as lost, not unaccounted.
                error!(lsn = lsn.0, signal = entry.signal.name(), %error, "an accepted request cannot be decoded");
                (0, 0)
            }
        }
    }

    fn sampling(&self) -> Sampling<'static> {
        Sampling {
            sample_weight: Some(self.verdict.weight()),
            sample_threshold: Some(self.verdict.threshold.bits() as i64),
            sample_reason: Some(self.verdict.reason),
            // Where nothing is sampled, silence is not put down as a doubt in every row.
            weight_quality: None,
            trigger: Some(self.verdict.trigger.name()),
            partial: Some(false),
            late: Some(false),
            policy_epoch: Some(self.verdict.epoch as i64),
            trace_state: None,
        }
    }

    /// What did not become a row was rejected for a reason, or is lost for this one. Bytes are those of the rows; the
    /// rest of the request, envelope included, is shared out by items.
    fn count_rejected(&mut self, entry: &Entry, rows: u64, row_bytes: u64, lost_to: &'static str) {
        let answer = entry.rejected.answer();
        let lost = entry.items.saturating_sub(rows + answer.rejected());
        let share = |items: u64, of: u64, bytes: u64| if items == of { bytes } else { bytes / of.max(1) * items };
        let beside = entry.wire_bytes.saturating_sub(row_bytes);
        let mut left = answer.rejected() + lost;
        let mut spent = 0;
        if rows > 0 {
            let bytes = if left == 0 { entry.wire_bytes } else { row_bytes };
            self.count(entry, Account::Stored, "", rows, bytes);
        }
        let whole = if rows > 0 { beside } else { entry.wire_bytes };
        for (code, items) in answer.reasons() {
            let bytes = share(*items, left, whole - spent);
            (left, spent) = (left - items, spent + bytes);
            let reason = Reason::from_code(code.0).map_or("unknown", Reason::name);
            self.count(entry, Account::Rejected, reason, *items, bytes);
        }
        if lost > 0 {
            self.count(entry, Account::Lost, lost_to, lost, whole - spent);
        }
    }

    fn count(&mut self, entry: &Entry, account: Account, reason: &'static str, items: u64, bytes: u64) {
        let key = Key {
            tenant: entry.tenant.clone(),
            signal: entry.signal,
            account,
            reason,
        };
        self.add(key, items, bytes);
    }

    fn add(&mut self, key: Key, items: u64, bytes: u64) {
        let amount = self.ledger.entry(key).or_default();
        amount.items += items;
        amount.bytes += bytes;
    }

    fn rows(&self) -> usize {
        self.spans.len() + self.logs.len() + self.metrics.len()
    }

    fn bytes(&self) -> usize {
        self.spans.bytes() + self.logs.bytes() + self.metrics.bytes()
    }

    /// Ends the open batch and sends it off. Waits while the outbox is a batch behind.
    fn cut(&mut self) -> Result<(), RoadError> {
        #[cfg(test)]
        self.look.iter_mut().for_each(|look| look());
        self.since = None;
        let walked = self.walked.take();
        let now_ns = (self.now)();
        let of_tail = self.tail.as_ref().map(|tail| {
            let mut tail = tail.lock();
            (tail.time(now_ns), tail.cut())
        });
        let (decided_ns, (fresh, ticks, wire_bytes)) = of_tail.unwrap_or_else(|| (now_ns, Default::default()));
        if walked.is_none() && self.rows() == 0 && self.ledger.is_empty() && ticks.is_empty() {
            return Ok(());
        }
        let mut frames = Vec::with_capacity(Table::COLLECTED.len());
        if let Some(red) = &self.red {
            let drained = red.lock().drain();
            self.stats.folded(drained.folded);
            if let Some(tail) = &self.tail {
                tail.lock().counted(now_ns, &drained.red);
            }
            frames.push((Table::Red, red_batch(&drained.red)));
            frames.push((Table::Edges, edge_batch(&drained.edges)));
        }
        frames.push((Table::SamplingTicks, tick_batch(&ticks)));
        let cut = {
            let mut journal = self.journal.lock();
            if !self.spans.is_empty() {
                let (log_id, decision) = (self.log_id, self.decision);
                let (is_sampled, walked) = (self.tail.is_some(), walked.unwrap_or_default());
                let batches = self.spans.finish_sorted(|tenant, trace| {
                    let trace = Own::of(&log_id.0, tenant.as_bytes()).trace(trace);
                    if is_sampled {
                        return if fresh.contains(&trace) { FIRST_PART } else { LATER_PART };
                    }
                    let shard = Shard::of_trace(log_id, trace).0;
                    let known = journal.replay_span(shard, walked, &trace).row != Row::Pending;
                    journal.touch(shard, trace, decision);
                    if known { LATER_PART } else { FIRST_PART }
                });
                frames.push((Table::Spans, batches.spans));
                frames.push((Table::Traces, batches.traces));
            }
            if !self.logs.is_empty() {
                frames.push((Table::Logs, self.logs.finish_sorted()));
            }
            if !self.metrics.is_empty() {
                let batches = self.metrics.finish_sorted();
                frames.push((Table::MetricPoints, batches.points));
                frames.push((Table::MetricDists, batches.dists));
                frames.push((Table::MetricSeries, batches.series));
            }
            self.stats.items_changed(Signal::Traces, &self.spans.take_changes());
            self.stats.items_changed(Signal::Logs, &self.logs.take_changes());
            self.stats.items_changed(Signal::Metrics, &self.metrics.take_changes());
            frames.retain(|(_, rows)| rows.num_rows() > 0);
            for (key, amount) in self.ledger.drain() {
                journal.count(&key, amount)?;
            }
            if let Some(walked) = walked {
                journal.advance_all(walked);
            }
            let tables: TableSet = frames.iter().map(|(table, _)| *table).collect();
            journal.cut(decided_ns, tables)?
        };
        let Some(cut) = cut else { return Ok(()) };
        if !cut.ledger.is_empty() {
            frames.push((Table::Ledger, ledger_batch(&cut.ledger, now_ns - now_ns % SLICE_NS)));
        }
        let mut batch = BatchBuilder::new(cut.settlement.clone().into());
        for (table, rows) in &frames {
            batch = batch.frame(*table, rows)?;
        }
        let sealed = Sealed {
            cut,
            encoded: batch.finish(),
            rows: frames.into_iter().map(|(_, rows)| rows).collect(),
            wire_bytes,
            places: std::mem::take(&mut self.places),
        };
        self.outbox.send(sealed).map_err(|_| RoadError::OutboxEnded)
    }
}

/// Reason of items that were accepted and cannot be decoded.
pub const LOST_UNDECODABLE: &str = "undecodable";
/// Reason of items that were accepted and that media damage took, as far as the head of their record still tells of them.
pub const LOST_DAMAGED: &str = "damaged";

mod upstream;

#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod process;
#[cfg(test)]
mod tail_tests;
#[cfg(test)]
mod tests;
