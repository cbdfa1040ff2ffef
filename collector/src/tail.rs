//! Tail sampling on the road: spans wait with their trace, verdicts become rows.
//!
//! ```text
//! record --peek--> offer --> trace table --(due, twice a second)--> verdict --+--> kept: the records again --> rows
//!                    '--> late: the decision of its trace, journal's or memory's '--> not: counted as sampled out
//! ```
//!
//! Guarantees: whatever a verdict settles (rows, counts, the decision itself) is in one open batch, so a crash leaves all of it or nothing
//! (rule P4); what waits holds the intake log (`journal.open`), and a restart offers it again. Bounded: waiting spans by the policy's
//! memory, payloads kept for rows by [`Settings::recent_bytes`]; what is not kept is read from the log.
//! Bytes of a request are shared out over its items by their places, envelope included, so that the ledger is exact however its traces end.

mod behind;
mod durations;
mod fate;
mod follow;
mod recent;
mod rows;
mod ticks;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashSet;
use bytes::Bytes;
use tailwater_journal::{Decision as Settled, Journal, Row, Slot};
use tailwater_model::clock::Clock;
use tailwater_model::ids::{BatchSeq, LogId, Lsn, Shard, TraceId};
use tailwater_model::ledger::Account;
use tailwater_model::otlp::columns::{LogColumns, SpanColumns};
use tailwater_model::otlp::peek::{self, Keys};
use tailwater_model::red::RedRow;
use tailwater_model::signal::Signal;
use tailwater_red::Aggregator;
use tailwater_sampling::governor::{self, Governor, Ladder, Pressure, Rung};
use tailwater_sampling::policy::{Policy, Stratum};
use tailwater_sampling::{
    ADMISSION, Decision, LIVE_TRACES, Memory, Offer, Output, Own, Sampler, SpanAt, Threshold, Tick, TickRow, Verdict,
};
use tracing::{error, info, warn};

#[cfg(test)]
pub use self::behind::Picked;
pub use self::behind::{Behind, LiveTraces, Logs, Picks, PolicyFile};
pub use self::durations::Durations;
pub use self::fate::Fate;
use self::follow::Followers;
pub use self::follow::UNDECIDED;
pub use self::follow::end as end_following;
#[cfg(test)]
pub use self::follow::{LOG_ERROR, NO_TRACE};
use self::recent::Recent;
pub(crate) use self::rows::stamped;
use self::rows::{Ready, Record, Take, Why};
pub use self::ticks::tick_batch;
use crate::gate::Cause;
use crate::log::Entry;

/// What the tail needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Payloads of records kept in memory for the rows of traces that wait, bytes.
    pub recent_bytes: u64,
    /// The most that a policy's `trace.buffer_bytes` is taken for.
    pub waiting_bytes_max: u64,
    /// Whether log records follow their trace.
    pub follow_logs: bool,
    /// What is known of log records that wait for their trace, bytes.
    pub log_bytes: u64,
    /// How long decisions are remembered, ns of the arrival clock.
    pub memory: Memory,
    /// Longest wait of a decided row for its batch.
    pub delay: Duration,
    /// Longest time between two commits of a table.
    pub commit: Duration,
    /// Bytes of spans kept, as received, that one batch takes of a tick's decisions.
    pub batch_bytes: u64,
    /// How long the intake log has room for what one tenant may send; `None` without a limit of its rate.
    pub log_lasts: Option<Duration>,
}

impl Settings {
    /// Lowers what a policy lets wait to what there is room for, and says if it is more than its default, or too much for the intake log.
    fn fit(&self, mut policy: Policy) -> Policy {
        let (asked, most) = (policy.trace.buffer_bytes, self.waiting_bytes_max);
        if asked > most {
            if asked > Policy::default().trace.buffer_bytes {
                warn!(
                    asked,
                    most, "traces that wait (trace.buffer_bytes) have their part of the memory, not more"
                );
            }
            policy.trace.buffer_bytes = most;
        }
        let timeout = Duration::from_nanos(policy.trace.timeout_ns);
        if let Some(lasts) = self.log_lasts.filter(|lasts| *lasts < timeout) {
            warn!(
                ?timeout,
                ?lasts,
                "traces may wait longer (trace.timeout) than storage.intake_log.budget has room for what intake.rate.bytes_per_sec lets one tenant send: \
                 they will be decided early"
            );
        }
        policy
    }
}

/// What a waiting trace is known by in the journal.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    shard: u8,
    slot: Slot,
    /// A part of it may have been decided before, and forgotten.
    is_again: bool,
}

/// What became of items.
#[derive(Debug, Clone)]
pub struct Settle {
    /// Whose.
    pub tenant: Arc<str>,
    /// Spans or log records.
    pub signal: Signal,
    /// [`Account::Stored`], [`Account::SampledOut`] or [`Account::Deduplicated`], or [`Account::Lost`] after a fault of ours.
    pub account: Account,
    /// Of what is sampled out: empty where the policy decided, else what was short. Of what is not stored twice: [`AGAIN`].
    pub reason: &'static str,
    /// How many.
    pub items: u64,
    /// Their share of the bytes received.
    pub bytes: u64,
}

/// Reason of spans that came again, in other requests, while their trace waited. Requests that came again have none.
pub const AGAIN: &str = "span";

/// Half a second: short against the shortest wait, long against the work of a tick.
const TICK_NS: u64 = 500_000_000;
/// How often the shares of stored bytes are measured anew.
const CALIBRATE_NS: u64 = 60 * 1_000_000_000;

/// The tail.
pub struct Tail {
    settings: Settings,
    sampler: Sampler<Mark>,
    governor: Governor,
    ladder: Ladder,
    behind: Box<dyn Behind>,
    keys: Keys,
    log_id: LogId,
    tenants: Vec<Arc<str>>,
    out: Output<Mark>,
    /// Verdicts of `out` that are settled already.
    resolved: usize,
    recent: Recent,
    followers: Followers,
    clock: Clock,
    next_tick_ns: u64,
    /// Whether the replay is over.
    is_live: bool,
    /// A policy that cannot be run beside those that traces still wait under.
    refused: Option<Policy>,
    /// Records that no trace is to wait in any more.
    hurried: Lsn,
    /// Traces of the open batch that have their first part in it, by their id among all tenants'.
    fresh: AHashSet<TraceId>,
    /// Traces whose decision is in this batch, the open one when it was made, by their id among all tenants'.
    decided: (BatchSeq, Vec<TraceId>),
    settled: Vec<Settle>,
    ticks: Vec<TickRow>,
    /// Of the kept traces of the open batch.
    wire_bytes: u64,
    calibrated_ns: u64,
    durations: Durations,
    failed: Option<tailwater_wal::Error>,
}

impl Tail {
    /// Starts with nothing waiting.
    ///
    /// # Errors
    /// Why the policy cannot be run.
    pub fn new(
        settings: Settings,
        policy: Policy,
        saved: Option<&[u8]>,
        log_id: LogId,
        behind: Box<dyn Behind>,
        now_ns: u64,
    ) -> Result<Tail, String> {
        let governor = Governor::new(governor::Settings {
            budget: policy.budget.bytes_per_sec,
            // A tick, the wait for the batch, and its way into the outbox.
            lag: settings.delay.max(Duration::from_secs(1)),
            commit: settings.commit,
        });
        let mut sampler = Sampler::new(settings.fit(policy), settings.memory, now_ns)?.keyed(log_id.0);
        if let Some(saved) = saved
            && let Err(error) = sampler.restore(saved)
        {
            warn!(%error, "the sampler's budget starts anew: its part of the checkpoint cannot be read");
        }
        Ok(Tail {
            settings,
            keys: sampler.keys(),
            sampler,
            governor,
            ladder: Ladder::default(),
            behind,
            log_id,
            tenants: Vec::new(),
            out: Output::default(),
            resolved: 0,
            recent: Recent::new(settings.recent_bytes),
            followers: Followers::default(),
            clock: Clock::default(),
            next_tick_ns: 0,
            is_live: false,
            refused: None,
            hurried: Lsn(0),
            fresh: AHashSet::new(),
            decided: Default::default(),
            settled: Vec::new(),
            ticks: Vec::new(),
            wire_bytes: 0,
            calibrated_ns: 0,
            durations: Durations::default(),
            failed: None,
        })
    }

    /// Settles what waited under a policy that is gone: all of it is stored, with the weight that it came with and reason [`UNDECIDED`].
    ///
    /// # Errors
    /// As [`Tail::new`].
    pub fn leftover(settings: Settings, log_id: LogId, behind: Box<dyn Behind>, now_ns: u64) -> Result<Tail, String> {
        let policy = Policy {
            strata: vec![Stratum::all(UNDECIDED, None)],
            ..Policy::default()
        };
        let settings = Settings {
            follow_logs: true,
            log_lasts: None,
            ..settings
        };
        Tail::new(settings, policy, None, log_id, behind, now_ns)
    }

    /// When [`Tail::tick`] looks at what is due again, by the arrival clock.
    pub fn next_tick_ns(&self) -> u64 {
        self.clock.arrival(self.next_tick_ns)
    }

    /// The replay is over: what comes now has come now, and `now_ns` is what the system's clock says.
    pub fn live(&mut self, now_ns: u64) {
        self.is_live = true;
        if let Some(steady_ns) = self.behind.steady_ns() {
            self.clock.begin(now_ns, steady_ns);
        }
    }

    /// The time that decisions are remembered by, when the system's clock says `now_ns`: it does not jump with that.
    pub fn time(&self, now_ns: u64) -> u64 {
        self.clock.at(now_ns, self.behind.steady_ns())
    }

    /// The time of what arrived then.
    fn read(&mut self, arrival_ns: u64) -> u64 {
        let steady_ns = if self.is_live { self.behind.steady_ns() } else { None };
        match steady_ns {
            Some(steady_ns) => self.clock.read_beside(arrival_ns, steady_ns),
            None => self.clock.read(arrival_ns),
        }
    }

    /// Whether nothing waits, neither spans nor log records.
    pub fn is_empty(&self) -> bool {
        self.sampler.waiting() == 0 && self.followers.is_empty()
    }

    /// The sampler's section of a checkpoint that has the batches through `batch`. What is decided and in none of them is not in it either: after a crash
    /// it comes again from the log, undecided. Ask for it while nothing can be decided between the checkpoint's draft and this.
    pub fn encode(&self, batch: BatchSeq) -> Vec<u8> {
        let (seq, traces) = &self.decided;
        let mut undecided = if *seq > batch { traces.clone() } else { Vec::new() };
        undecided.extend(
            self.out.verdicts[self.resolved..]
                .iter()
                .map(|verdict| self.key(verdict)),
        );
        self.sampler.encode(&undecided)
    }

    /// The id of a verdict's trace among all tenants'.
    fn key(&self, verdict: &Verdict<Mark>) -> TraceId {
        let tenant = &self.tenants[verdict.tenant as usize];
        Own::of(&self.log_id.0, tenant.as_bytes()).trace(verdict.trace)
    }

    /// Offers the spans of a record, those rejected apart, and stores what belongs to traces that are decided. In a replay what was
    /// settled before the crash is passed over. What is not rejected is counted by `red` in the same walk.
    pub fn record(
        &mut self,
        lsn: Lsn,
        entry: &Entry,
        payload: &Bytes,
        journal: &mut Journal,
        mut red: Option<&mut Aggregator>,
        (spans, logs): (&mut SpanColumns, &mut LogColumns),
    ) {
        let ordinals = entry.ordinals();
        let record = Record::new(lsn, entry, &ordinals, payload);
        let now_ns = self.read(entry.arrival_ns);
        let tenant = self.tenant(&entry.tenant);
        let (mut whys, mut takes) = (Vec::new(), Vec::new());
        let mut is_held = false;
        let mut rejected = record.rejected.iter().peekable();
        let (sampler, out, settled) = (&mut self.sampler, &mut self.out, &mut self.settled);
        // The journal knows a trace by its id among all tenants'.
        let (log_id, own) = (self.log_id, Own::of(&self.log_id.0, entry.tenant.as_bytes()));
        let clock = &self.clock;
        let counted = red.as_ref().map(|red| red.keys().clone()).unwrap_or_default();
        let walked = peek::spans_for(payload, [&self.keys, &counted], |[span, counted]| {
            if rejected.next_if(|ordinal| **ordinal == span.ordinal).is_some() {
                return true;
            }
            if let Some(red) = &mut red {
                red.count(counted);
            }
            let bytes = share(entry, span.ordinal);
            let at = SpanAt {
                lsn,
                ordinal: span.ordinal,
                len: u32::try_from(bytes).unwrap_or(u32::MAX),
            };
            // What waits is decided nowhere, so nobody else need be asked.
            if let Some(offer) = sampler.add(now_ns, tenant, span, at, out) {
                // One that came again is counted by its trace's verdict; the first one is what is stored.
                is_held |= offer != Offer::Again;
                return true;
            }
            let trace = TraceId(span.head.trace_id.try_into().unwrap_or_default());
            let key = own.trace(trace);
            let shard = Shard::of_trace(log_id, key).0;
            let (decision, is_kept) = match journal.replay_span(shard, lsn, &key).row {
                Row::Skip => return true,
                Row::Late(settled) => {
                    journal.touch(shard, key, settled);
                    let decision = decision_of(settled, journal);
                    let is_kept = decision.keeps(trace);
                    sampler.late(tenant, &decision, is_kept);
                    (decision, is_kept)
                }
                Row::Pending => {
                    let forgotten_ns = journal.forgotten_ns(shard).min(sampler.forgotten_ns());
                    let open = || Mark {
                        shard,
                        slot: journal.open(shard, lsn),
                        is_again: forgotten_ns > 0 && span.head.start <= clock.arrival(forgotten_ns),
                    };
                    let (decision, is_kept) = match sampler.begin(now_ns, tenant, span, at, open, out) {
                        Offer::Held | Offer::Refused | Offer::Again => {
                            is_held = true;
                            return true;
                        }
                        Offer::Late(decision) => (decision, true),
                        // Which stratum dropped it is forgotten.
                        Offer::Dropped => {
                            let decision = Decision {
                                threshold: Threshold::ALWAYS,
                                reason: LATE.into(),
                                epoch: sampler.policy().epoch,
                                is_hashed: false,
                                is_dropped: true,
                                by_said: None,
                            };
                            (decision, false)
                        }
                    };
                    let settled = settled_as(&decision, journal);
                    journal.touch(shard, key, settled);
                    (decision, is_kept)
                }
            };
            if is_kept {
                takes.push(Take {
                    ordinal: span.ordinal,
                    bytes,
                    why: whys.len(),
                });
                whys.push(Why {
                    decision,
                    trigger: None,
                    is_partial: false,
                    is_late: true,
                });
            } else {
                settled.push(Settle {
                    tenant: entry.tenant.clone(),
                    signal: Signal::Traces,
                    account: Account::SampledOut,
                    reason: "",
                    items: 1,
                    bytes,
                });
            }
            true
        });
        if let Err(error) = walked {
            error!(lsn = lsn.0, %error, "an accepted request cannot be read");
        }
        if !takes.is_empty() {
            self.store(record, &takes, &whys, spans);
        }
        if is_held {
            self.recent.offer(lsn, entry, &ordinals, payload);
        }
        // Of what had to go for lack of room, as of what is due, a batch holds only so much; the rest is settled behind the record.
        self.go_on(journal, spans, logs);
    }

    /// Decides what is due by the arrival clock `now_ns`, if it is time to look again. After a stall that is all that waited, so there may be more than
    /// a batch should hold: while [`Tail::is_behind`], cut the batch, and [`Tail::go_on`] before anything else.
    pub fn tick(&mut self, now_ns: u64, journal: &mut Journal, spans: &mut SpanColumns, logs: &mut LogColumns) {
        let now_ns = self.read(now_ns);
        if now_ns < self.next_tick_ns {
            return;
        }
        self.next_tick_ns = now_ns + TICK_NS;
        let refused = self.refused.take();
        if let Some(policy) = self.behind.policy() {
            self.reload(self.settings.fit(policy), true);
        } else if let Some(policy) = refused {
            self.reload(policy, false);
        }
        for (number, tenant) in self.tenants.iter().enumerate() {
            let most = self.behind.live_traces(tenant);
            self.sampler.limit_live(number as u32, most);
        }
        let drain = self.behind.drain();
        let rate = self.governor.rate(now_ns, drain);
        let budget = self.sampler.policy().budget.bytes_per_sec;
        self.calibrate(now_ns);
        self.hurry();
        self.sampler.tick(Tick { now_ns, rate }, &mut self.out);
        let (queue, log) = self.behind.pressure();
        let is_cramped = self.sampler.is_cramped();
        let rung = self.ladder.step(
            now_ns,
            Pressure {
                queue,
                log,
                memory: f64::from(u8::from(is_cramped)),
                is_governed: rate < budget,
                is_squeezed: self.sampler.squeezed().next().is_some(),
                is_admitting: self.sampler.admission() != Threshold::ALWAYS,
            },
        );
        let fullest = match (queue.max(log) >= 1.0, is_cramped) {
            (false, true) => Cause::TraceMemory,
            _ if queue >= log => Cause::WriterQueue,
            _ => Cause::IntakeLog,
        };
        self.behind.stand(rung, fullest, self.governor.delay(drain.queued));
        self.go_on(journal, spans, logs);
        self.expire_logs(now_ns, journal, logs);
    }

    /// Whether traces are decided that are in no batch yet.
    pub fn is_behind(&self) -> bool {
        self.resolved < self.out.verdicts.len()
    }

    /// Settles as many of the decisions as a batch takes.
    pub fn go_on(&mut self, journal: &mut Journal, spans: &mut SpanColumns, logs: &mut LogColumns) {
        self.resolve(self.settings.batch_bytes, journal, spans, logs);
    }

    /// What RED has counted since the last call, at `now_ns` of the arrival clock: "slow" is slow compared with it.
    pub fn counted(&mut self, now_ns: u64, rows: &[RedRow]) {
        if self.sampler.quantiles().is_empty() || !self.durations.add(now_ns, rows) {
            return;
        }
        let quantiles = self.sampler.quantiles().to_vec();
        let recent = self.durations.recent(&quantiles, |name| self.sampler.tenant(name));
        self.sampler.set_recent(recent);
    }

    /// How many decisions were forgotten before their time.
    pub fn crowded_out(&self) -> u64 {
        self.sampler.crowded_out()
    }

    /// Where overload stands.
    pub fn rung(&self) -> Rung {
        self.ladder.rung()
    }

    /// Version of the policy for new traces.
    pub fn epoch(&self) -> u64 {
        self.sampler.policy().epoch
    }

    /// Traces that wait, and the memory that they take, bytes.
    pub fn waiting(&self) -> (usize, u64) {
        let bytes = self.sampler.bytes() + self.followers.bytes() + self.recent.bytes();
        (self.sampler.waiting(), bytes)
    }

    /// The open batch is cut: the traces that have their first part in it, its ticks, and the protobuf bytes of the spans that verdicts put into it.
    pub fn cut(&mut self) -> (AHashSet<TraceId>, Vec<TickRow>, u64) {
        // What late spans were counted leaves with their rows.
        self.sampler.counted(&mut self.out.ticks);
        self.take_ticks();
        (
            std::mem::take(&mut self.fresh),
            std::mem::take(&mut self.ticks),
            std::mem::take(&mut self.wire_bytes),
        )
    }

    /// What was settled since the last call.
    pub fn settled(&mut self) -> impl Iterator<Item = Settle> + '_ {
        self.settled.drain(..)
    }

    /// Why rows that belong into the open batch could not be read, if so: it must not leave.
    pub fn failed(&mut self) -> Option<tailwater_wal::Error> {
        self.failed.take()
    }

    /// Whether the open batch has something to say beside rows.
    pub fn has_ticks(&self) -> bool {
        !self.ticks.is_empty()
    }

    /// One that cannot be run beside those that traces still wait under is tried again with the next tick.
    fn reload(&mut self, policy: Policy, is_new: bool) {
        let epoch = policy.epoch;
        let budget = policy.budget.bytes_per_sec;
        match self.sampler.reload(policy.clone()) {
            Ok(()) => {
                self.keys = self.sampler.keys();
                self.governor.set_budget(budget);
                info!(
                    epoch,
                    "sampling policy taken up; traces that wait are decided by theirs"
                );
            }
            Err(error) => {
                self.refused = Some(policy);
                if is_new {
                    warn!(%error, "the new sampling policy cannot be run yet; the old one stays until traces that wait are decided");
                }
            }
        }
    }

    /// Where the intake log is nearly full, its beginning is let go: what waits in it is decided now, with what is due and by its budget. The next
    /// checkpoint makes the room.
    fn hurry(&mut self) {
        let Some(Range { start, end }) = self.behind.crowded() else {
            return;
        };
        // Until the log begins further on those are the traces that are decided already, and few more.
        if self.hurried.0 >= start.0 + end.0.saturating_sub(start.0) * 3 / 4 {
            return;
        }
        self.hurried = end;
        self.sampler.hurry(end);
        warn!(
            through = end.0,
            "the intake log is nearly full; the traces that have waited longest are decided now"
        );
    }

    /// While nothing is committed nothing is known, however long that takes.
    fn calibrate(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.calibrated_ns) < CALIBRATE_NS {
            return;
        }
        if let Some(stored_per_byte) = self.behind.stored_per_byte() {
            self.sampler.calibrate(None, stored_per_byte);
            self.calibrated_ns = now_ns;
        }
    }

    fn tenant(&mut self, name: &Arc<str>) -> u32 {
        let number = self.sampler.tenant(name);
        if self.tenants.len() <= number as usize {
            self.tenants.resize(number as usize + 1, name.clone());
            self.sampler.limit_live(number, self.behind.live_traces(name));
        }
        number
    }

    /// Takes rows of `sampling_ticks` into the open batch, by the clock of arrivals.
    fn take_ticks(&mut self) {
        let clock = &self.clock;
        let ticks = self.out.ticks.drain(..).map(|row| TickRow {
            at_ns: clock.arrival(row.at_ns),
            ..row
        });
        self.ticks.extend(ticks);
    }

    /// Turns verdicts into rows, counts and decisions of the open batch, until those kept are of `bytes_max`; a verdict is settled whole.
    fn resolve(&mut self, bytes_max: u64, journal: &mut Journal, spans: &mut SpanColumns, logs: &mut LogColumns) {
        self.take_ticks();
        if self.out.verdicts.is_empty() {
            return;
        }
        let out = std::mem::take(&mut self.out);
        let mut bytes = 0;
        let more = out.verdicts[self.resolved..].iter().take_while(|verdict| {
            let has_room = bytes < bytes_max;
            bytes += if verdict.keep { verdict.bytes } else { 0 };
            has_room
        });
        let upto = self.resolved + more.count();
        let verdicts = &out.verdicts[self.resolved..upto];
        self.follow(verdicts, journal, logs);
        let mut whys = Vec::new();
        let mut ready = Ready::new();
        let keys: Vec<TraceId> = verdicts.iter().map(|verdict| self.key(verdict)).collect();
        for (verdict, key) in verdicts.iter().zip(&keys) {
            let (Mark { shard, slot, .. }, key) = (verdict.mark, *key);
            let settled = settled_as(&verdict.decision, journal);
            let tenant = &self.tenants[verdict.tenant as usize];
            journal.decide(shard, slot, key, settled);
            if verdict.again > 0 {
                self.settled.push(Settle {
                    tenant: tenant.clone(),
                    signal: Signal::Traces,
                    account: Account::Deduplicated,
                    reason: AGAIN,
                    items: verdict.again.into(),
                    bytes: verdict.again_bytes,
                });
            }
            if !verdict.keep {
                self.settled.push(Settle {
                    tenant: tenant.clone(),
                    signal: Signal::Traces,
                    account: Account::SampledOut,
                    reason: reason_of(&verdict.decision),
                    items: verdict.span_count.into(),
                    bytes: verdict.bytes,
                });
                continue;
            }
            self.fresh.insert(key);
            self.wire_bytes += verdict.bytes;
            for at in &out.spans[verdict.spans.clone()] {
                let of_record = ready.entry(at.lsn).or_insert_with(|| (tenant.clone(), Vec::new()));
                of_record.1.push(Take {
                    ordinal: at.ordinal,
                    bytes: at.len.into(),
                    why: whys.len(),
                });
            }
            whys.push(Why {
                decision: verdict.decision.clone(),
                trigger: Some(verdict.trigger),
                is_partial: verdict.trigger.is_partial() || verdict.mark.is_again,
                is_late: false,
            });
        }
        self.store_ready(Signal::Traces, ready, |tail, record, takes| {
            tail.store(record, takes, &whys, spans);
        });
        let open = BatchSeq(journal.batch().0 + 1);
        if self.decided.0 != open {
            self.decided = (open, Vec::new());
        }
        self.decided.1.extend(keys);
        self.resolved = upto;
        self.out = out;
        if !self.is_behind() {
            self.out.clear();
            self.resolved = 0;
        }
    }
}

/// Reason of late spans of traces that were not kept, once it is forgotten why.
const LATE: &str = "late";

/// Why something is sampled out, as the ledger says it.
fn reason_of(decision: &Decision) -> &'static str {
    let short = [ADMISSION, LIVE_TRACES];
    short.into_iter().find(|name| **name == *decision.reason).unwrap_or("")
}

fn settled_as(decision: &Decision, journal: &mut Journal) -> Settled {
    Settled {
        threshold: decision.threshold.bits(),
        policy: journal.policy(&decision.journal_reason(), decision.epoch),
    }
}

fn decision_of(settled: Settled, journal: &Journal) -> Decision {
    let policy = journal.policy_of(settled.policy);
    let threshold = Threshold::from_bits(settled.threshold).unwrap_or(Threshold::ALWAYS);
    Decision::from_journal(threshold, &policy.reason, policy.epoch)
}

/// The bytes of a request that its item at `ordinal` accounts for. Over all items they add up to the request's.
pub fn share(entry: &Entry, ordinal: u32) -> u64 {
    let upto = |items: u64| (u128::from(entry.wire_bytes) * u128::from(items) / u128::from(entry.items.max(1))) as u64;
    upto(u64::from(ordinal) + 1) - upto(u64::from(ordinal))
}

#[cfg(test)]
mod tests {
    use tailwater_model::table::{Table, columns};
    use tailwater_sampling::Trigger;
    use tailwater_sampling::tracestate::Quality;

    use super::*;
    use crate::road::process::tail_settings;

    #[test]
    fn a_policy_has_no_more_memory_than_there_is() {
        let fitted = |asked, waiting_bytes_max| {
            let settings = Settings {
                waiting_bytes_max,
                ..tail_settings(0)
            };
            let mut policy = Policy::default();
            policy.trace.buffer_bytes = asked;
            settings.fit(policy).trace.buffer_bytes
        };
        assert_eq!(fitted(1 << 30, 128 << 20), 128 << 20);
        assert_eq!(fitted(4 << 30, 6 << 30), 4 << 30);
    }

    #[test]
    fn the_reference_names_what_makes_a_trace_due() {
        let says = |column: &str, name: &str| {
            let mut columns = columns(Table::Spans);
            let doc = columns
                .find(|known| known.name == column)
                .map_or("", |column| column.doc);
            assert!(doc.contains(name), "{column}: {name} is not in: {doc}");
        };
        Trigger::ALL.iter().for_each(|trigger| says("trigger", trigger.name()));
        let qualities = [
            Quality::Exact,
            Quality::AssumedUpstream,
            Quality::AtMost,
            Quality::Unknown,
        ];
        qualities
            .iter()
            .for_each(|quality| says("weight_quality", quality.name()));
    }
}
