//! Log records that follow their trace (`sampling.logs: follow_trace`).
//!
//! ```text
//! record --peek--> no trace id, error: stored at once
//!            '--> trace decided: as it was    '--> not decided: waits by reference; its trace's verdict, or its time, settles it
//! ```
//!
//! Guarantees: same R, same T, so a log record is stored iff its trace is; every one is settled once, over any crash. A trace's log records
//! have a key of their own in the journal: when their trace's spans come long after, those are still decided by what they say, not by what
//! became of the logs. Log records whose trace nobody has seen within its timeout are stored with weight 1, reason [`UNDECIDED`], and so are
//! all later ones of that trace; so are the oldest when more wait than [`super::Settings::log_bytes`].
//! Whether records follow is itself in the journal, under a key that is no trace's: where it was switched on, a replay must tell what was
//! settled as it was walked from what waited.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use bytes::Bytes;
use tailwater_journal::{Decision as Settled, Journal, Row};
use tailwater_model::ids::{LogId, Lsn, Shard, TraceId};
use tailwater_model::ledger::Account;
use tailwater_model::otlp::columns::{Choice, LogColumns, Sampling};
use tailwater_model::otlp::peek;
use tailwater_model::signal::Signal;
use tailwater_sampling::tracestate::Quality;
use tailwater_sampling::{Decision, Late, Own, Threshold, Verdict};
use tracing::error;
use xxhash_rust::xxh3::Xxh3;

use super::rows::{Ready, Record, Take};
use super::{LATE, Mark, Settle, Tail, decision_of, reason_of, settled_as, share};
use crate::log::Entry;

/// Reason of log records that are errors.
pub const LOG_ERROR: &str = "log_error";
/// Reason of log records without a trace id.
pub const NO_TRACE: &str = "no_trace";
/// Reason of log records whose trace was not decided in time, and of what waited under a policy that is gone.
pub const UNDECIDED: &str = "undecided";

/// OTLP's severity number of ERROR; what is above is worse.
const SEVERITY_ERROR: i32 = 17;

/// Where a log record lies.
#[derive(Debug, Clone, Copy)]
struct LogAt {
    lsn: Lsn,
    ordinal: u32,
    bytes: u64,
}

/// Log records of one trace that wait.
#[derive(Debug)]
struct Wait {
    tenant: u32,
    trace: TraceId,
    mark: Mark,
    due_ns: u64,
    logs: Vec<LogAt>,
}

/// What a place in the queue, in the map and in the journal takes, about; and one record.
const WAIT_BYTES: u64 = 192;
const LOG_BYTES: u64 = size_of::<LogAt>() as u64;

impl Wait {
    fn bytes(&self) -> u64 {
        WAIT_BYTES + LOG_BYTES * self.logs.len() as u64
    }
}

/// Why some log records are stored.
#[derive(Debug, Clone)]
struct Why {
    threshold: Threshold,
    reason: Arc<str>,
    epoch: u64,
    quality: Quality,
    is_late: bool,
}

/// What waits of logs.
#[derive(Debug, Default)]
pub(super) struct Followers {
    /// Read from the journal: first record whose log records follow.
    since: Option<Option<Lsn>>,
    waits: AHashMap<TraceId, Wait>,
    /// By when they are due; those settled before are passed over.
    due: VecDeque<(u64, TraceId)>,
    bytes: u64,
}

impl Followers {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    fn take(&mut self, key: TraceId) -> Option<Wait> {
        let wait = self.waits.remove(&key)?;
        self.bytes -= wait.bytes();
        Some(wait)
    }
}

/// The key of a trace's log records, by the trace's among all tenants'. Nobody outside knows the log's id, so no trace id can be made to be it.
fn key_of_logs(log_id: LogId, trace: TraceId) -> TraceId {
    salted(log_id, b"logs", &trace.0)
}

fn salted(log_id: LogId, what: &[u8], id: &[u8]) -> TraceId {
    let mut hasher = Xxh3::new();
    [&log_id.0, what, id].into_iter().for_each(|part| hasher.update(part));
    TraceId(hasher.digest128().to_be_bytes())
}

fn switch(log_id: LogId) -> (u8, TraceId) {
    let key = salted(log_id, b"switch", b"");
    (Shard::of_trace(log_id, key).0, key)
}

/// Says in the open batch from which record on logs follow; LSN 0 is none, and no record's.
fn say(journal: &mut Journal, log_id: LogId, since: Option<Lsn>) {
    let policy = journal.policy("logs", 0);
    let (shard, key) = switch(log_id);
    let threshold = since.map_or(0, |lsn| lsn.0);
    journal.touch(shard, key, Settled { threshold, policy });
}

fn said(journal: &Journal, log_id: LogId) -> Option<Lsn> {
    let (shard, key) = switch(log_id);
    let said = journal.decision(shard, &key)?;
    (said.threshold > 0).then_some(Lsn(said.threshold))
}

/// Logs are stored as they are walked from now on, without a tail. Call it before anything is walked.
pub fn end(journal: &mut Journal) {
    let log_id = journal.log_id();
    if said(journal, log_id).is_some() {
        say(journal, log_id, None);
    }
}

impl Tail {
    /// Whether log records are settled here and not as they are walked.
    pub fn takes_logs(&self) -> bool {
        self.settings.follow_logs
    }

    /// Settles the log records of a record whose traces are decided, and lets the others wait. In a replay what was settled before the
    /// crash is passed over.
    pub fn logs(&mut self, lsn: Lsn, entry: &Entry, payload: &Bytes, journal: &mut Journal, logs: &mut LogColumns) {
        let is_new = journal.replay_record(Shard::of_record(lsn).0, lsn);
        let log_id = self.log_id;
        let since = *self.followers.since.get_or_insert_with(|| said(journal, log_id));
        let follows = self.settings.follow_logs;
        match (follows, is_new) {
            // What waited when this was switched off comes before everything new; it is in this batch, too.
            (false, true) => {
                if since.is_some() {
                    say(journal, log_id, None);
                    self.followers.since = Some(None);
                }
                return;
            }
            (true, true) => {
                let from = since.unwrap_or(Lsn(journal.complete().0 + 1));
                self.followers.since = Some(Some(from));
                // Every time: a decision that is not touched is forgotten.
                say(journal, log_id, Some(from));
            }
            (_, false) if since.is_none_or(|since| lsn < since) => return,
            (_, false) => {}
        }
        let ordinals = entry.ordinals();
        let record = Record::new(lsn, entry, &ordinals, payload);
        let tenant = self.tenant(&entry.tenant);
        let own = Own::of(&self.log_id.0, entry.tenant.as_bytes());
        let epoch = self.epoch();
        let (mut whys, mut takes) = (Vec::new(), Vec::new());
        let mut is_held = false;
        let mut rejected = record.rejected.iter().peekable();
        let walked = peek::logs(payload, |log| {
            if rejected.next_if(|ordinal| **ordinal == log.ordinal).is_some() {
                return;
            }
            let bytes = share(entry, log.ordinal);
            let mut keep = |why: Why| {
                takes.push(Take {
                    ordinal: log.ordinal,
                    bytes,
                    why: whys.len(),
                });
                whys.push(why);
            };
            let trace = log.trace_id.try_into().ok().map(TraceId);
            let trace = trace.filter(|trace| trace.0 != [0; 16]);
            let (Some(trace), false) = (trace, log.severity_number >= SEVERITY_ERROR) else {
                // These never wait, so the watermark tells whether they are settled.
                if is_new {
                    keep(Why::whole(if trace.is_none() { NO_TRACE } else { LOG_ERROR }, epoch));
                }
                return;
            };
            let id = own.trace(trace);
            let key = key_of_logs(log_id, id);
            let shard = Shard::of_trace(log_id, key).0;
            let decision = match journal.replay_span(shard, lsn, &key).row {
                Row::Skip => return,
                Row::Late(settled) => {
                    let decision = decision_of(settled, journal);
                    let is_kept = decision.keeps(trace);
                    Some((decision, is_kept))
                }
                Row::Pending if self.followers.waits.contains_key(&key) => None,
                Row::Pending => self.decided(journal, id, tenant, trace),
            };
            let decision = decision.or_else(|| (!follows).then(|| undecided(epoch)));
            let Some((decision, is_kept)) = decision else {
                is_held = true;
                let at = LogAt {
                    lsn,
                    ordinal: log.ordinal,
                    bytes,
                };
                let due_ns = self
                    .read(entry.arrival_ns)
                    .saturating_add(self.sampler.policy().trace.timeout_ns);
                self.hold((tenant, trace, key), shard, at, due_ns, journal);
                return;
            };
            let settled = settled_as(&decision, journal);
            journal.touch(shard, key, settled);
            if is_kept {
                keep(Why::late(&decision));
            } else {
                self.settled.push(Settle {
                    tenant: entry.tenant.clone(),
                    signal: Signal::Logs,
                    account: Account::SampledOut,
                    reason: "",
                    items: 1,
                    bytes,
                });
            }
        });
        if let Err(error) = walked {
            error!(lsn = lsn.0, %error, "an accepted request cannot be read");
        }
        if !takes.is_empty() {
            self.store_logs(record, &takes, &whys, logs);
        }
        if is_held {
            self.recent.offer(lsn, entry, &ordinals, payload);
        }
        self.make_log_room(journal, logs);
    }

    /// What a trace was decided, if it was.
    fn decided(&self, journal: &Journal, id: TraceId, tenant: u32, trace: TraceId) -> Option<(Decision, bool)> {
        let shard = Shard::of_trace(self.log_id, id).0;
        if let Some(settled) = journal.decision(shard, &id) {
            let decision = decision_of(settled, journal);
            let is_kept = decision.keeps(trace);
            return Some((decision, is_kept));
        }
        let decision = match self.sampler.recall(tenant, trace)? {
            Late::Kept(decision) => decision,
            // Which stratum dropped it is forgotten.
            Late::Dropped => Decision {
                threshold: Threshold::ALWAYS,
                reason: LATE.into(),
                epoch: self.epoch(),
                is_hashed: false,
                is_dropped: true,
                by_said: None,
            },
        };
        let is_kept = !decision.is_dropped;
        Some((decision, is_kept))
    }

    fn hold(
        &mut self,
        (tenant, trace, key): (u32, TraceId, TraceId),
        shard: u8,
        at: LogAt,
        due_ns: u64,
        journal: &mut Journal,
    ) {
        let followers = &mut self.followers;
        let wait = followers.waits.entry(key).or_insert_with(|| {
            followers.due.push_back((due_ns, key));
            followers.bytes += WAIT_BYTES;
            Wait {
                tenant,
                trace,
                mark: Mark {
                    shard,
                    slot: journal.open(shard, at.lsn),
                    is_again: false,
                },
                due_ns,
                logs: Vec::new(),
            }
        });
        wait.logs.push(at);
        followers.bytes += LOG_BYTES;
    }

    /// The log records that waited for these traces.
    pub(super) fn follow(&mut self, verdicts: &[Verdict<Mark>], journal: &mut Journal, logs: &mut LogColumns) {
        if self.followers.waits.is_empty() {
            return;
        }
        let (mut ready, mut whys) = (Ready::new(), Vec::new());
        for verdict in verdicts {
            let tenant = &self.tenants[verdict.tenant as usize];
            let key = key_of_logs(
                self.log_id,
                Own::of(&self.log_id.0, tenant.as_bytes()).trace(verdict.trace),
            );
            let Some(wait) = self.followers.take(key) else { continue };
            let why = verdict.keep.then(|| Why::with(verdict));
            self.settle_wait(key, wait, &verdict.decision, why, journal, (&mut ready, &mut whys));
        }
        self.store_ready_logs(ready, &whys, logs);
    }

    /// Log records whose trace has not come by `now_ns`, or that the intake log has no more room for.
    pub(super) fn expire_logs(&mut self, now_ns: u64, journal: &mut Journal, logs: &mut LogColumns) {
        let (mut ready, mut whys) = (Ready::new(), Vec::new());
        while let Some((due_ns, key)) = self.followers.due.front().copied() {
            let Some(wait) = self.followers.waits.get_mut(&key).filter(|wait| wait.due_ns == due_ns) else {
                self.followers.due.pop_front();
                continue;
            };
            let is_hurried = wait.logs.first().is_some_and(|log| log.lsn < self.hurried);
            if due_ns > now_ns && !is_hurried {
                break;
            }
            self.followers.due.pop_front();
            if !is_hurried && self.sampler.waits(wait.tenant, wait.trace) {
                // Its own time is up soon, and then it is decided.
                wait.due_ns = now_ns.saturating_add(self.sampler.policy().trace.timeout_ns);
                self.followers.due.push_back((wait.due_ns, key));
                continue;
            }
            self.give_up(key, journal, (&mut ready, &mut whys));
        }
        self.store_ready_logs(ready, &whys, logs);
    }

    /// The oldest go when too many wait.
    fn make_log_room(&mut self, journal: &mut Journal, logs: &mut LogColumns) {
        let (mut ready, mut whys) = (Ready::new(), Vec::new());
        while self.followers.bytes > self.settings.log_bytes
            && let Some((due_ns, key)) = self.followers.due.pop_front()
        {
            let is_live = self.followers.waits.get(&key).is_some_and(|wait| wait.due_ns == due_ns);
            if is_live {
                self.give_up(key, journal, (&mut ready, &mut whys));
            }
        }
        // Places of what was settled before its time are not counted, so they are bounded here.
        if self.followers.due.len() > 2 * self.followers.waits.len() + 1024 {
            let waits = &self.followers.waits;
            let is_live = |(due_ns, key): &(u64, TraceId)| waits.get(key).is_some_and(|wait| wait.due_ns == *due_ns);
            self.followers.due.retain(is_live);
        }
        self.store_ready_logs(ready, &whys, logs);
    }

    fn give_up(&mut self, key: TraceId, journal: &mut Journal, to: (&mut Ready, &mut Vec<Why>)) {
        let Some(wait) = self.followers.take(key) else { return };
        let (decision, _) = undecided(self.epoch());
        let why = Why::whole(UNDECIDED, decision.epoch);
        self.settle_wait(key, wait, &decision, Some(why), journal, to);
    }

    /// Puts the log records of a trace into their accounts: stored for a reason, or sampled out without.
    fn settle_wait(
        &mut self,
        key: TraceId,
        wait: Wait,
        decision: &Decision,
        why: Option<Why>,
        journal: &mut Journal,
        (ready, whys): (&mut Ready, &mut Vec<Why>),
    ) {
        let settled = settled_as(decision, journal);
        journal.decide(wait.mark.shard, wait.mark.slot, key, settled);
        let tenant = self.tenants[wait.tenant as usize].clone();
        let Some(why) = why else {
            self.settled.push(Settle {
                tenant,
                signal: Signal::Logs,
                account: Account::SampledOut,
                reason: reason_of(decision),
                items: wait.logs.len() as u64,
                bytes: wait.logs.iter().map(|log| log.bytes).sum(),
            });
            return;
        };
        for log in wait.logs {
            let of_record = ready.entry(log.lsn).or_insert_with(|| (tenant.clone(), Vec::new()));
            of_record.1.push(Take {
                ordinal: log.ordinal,
                bytes: log.bytes,
                why: whys.len(),
            });
        }
        whys.push(why);
    }

    fn store_ready_logs(&mut self, ready: Ready, whys: &[Why], logs: &mut LogColumns) {
        self.store_ready(Signal::Logs, ready, |tail, record, takes| {
            tail.store_logs(record, takes, whys, logs);
        });
    }

    /// Rows of some log records of a record, each with the statement of why it is kept.
    fn store_logs(&mut self, record: Record<'_>, takes: &[Take], whys: &[Why], logs: &mut LogColumns) {
        let mut verdicts: Vec<Sampling<'_>> = Vec::new();
        let mut places: AHashMap<usize, u32> = AHashMap::new();
        let last = takes.last().map_or(0, |take| take.ordinal);
        let mut of = vec![u32::MAX; last as usize + 1];
        for take in takes {
            of[take.ordinal as usize] = *places.entry(take.why).or_insert_with(|| {
                verdicts.push(whys[take.why].statement());
                verdicts.len() as u32 - 1
            });
        }
        let info = record.info();
        let choice = Choice::Each {
            verdicts: &verdicts,
            of: &of,
        };
        let pushed = logs.push_request(record.payload, &info, choice);
        self.account(record, Signal::Logs, takes, pushed.map(|pushed| pushed.rows));
    }
}

fn undecided(epoch: u64) -> (Decision, bool) {
    let decision = Decision {
        threshold: Threshold::ALWAYS,
        reason: UNDECIDED.into(),
        epoch,
        is_hashed: false,
        is_dropped: false,
        by_said: None,
    };
    (decision, true)
}

impl Why {
    /// Stored whatever becomes of a trace.
    fn whole(reason: &'static str, epoch: u64) -> Why {
        Why {
            threshold: Threshold::ALWAYS,
            reason: reason.into(),
            epoch,
            quality: Quality::Exact,
            is_late: false,
        }
    }

    /// Stored with its trace. Nobody upstream samples log records, so what its spans were sampled with upstream is not in the weight.
    fn with(verdict: &Verdict<Mark>) -> Why {
        Why {
            threshold: verdict.given,
            reason: verdict.decision.reason.clone(),
            epoch: verdict.decision.epoch,
            quality: Quality::Exact,
            is_late: false,
        }
    }

    /// Stored since its trace was. What its spans were sampled with upstream is not remembered, so the weight may be that much too large.
    fn late(decision: &Decision) -> Why {
        let is_whole = decision.threshold == Threshold::ALWAYS;
        Why {
            threshold: decision.threshold,
            reason: decision.reason.clone(),
            epoch: decision.epoch,
            quality: if is_whole { Quality::Exact } else { Quality::AtMost },
            is_late: true,
        }
    }

    fn statement(&self) -> Sampling<'_> {
        Sampling {
            sample_weight: Some(self.threshold.weight()),
            sample_threshold: Some(self.threshold.bits() as i64),
            sample_reason: Some(&self.reason),
            weight_quality: Some(self.quality.name()),
            trigger: None,
            partial: Some(false),
            late: Some(self.is_late),
            policy_epoch: Some(self.epoch as i64),
            trace_state: None,
        }
    }
}
