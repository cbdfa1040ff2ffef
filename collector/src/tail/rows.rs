//! From references to rows: the records that kept traces lie in are read again, and what is taken of them is stored with why.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use tailwater_model::ids::{Lsn, TraceId};
use tailwater_model::ledger::Account;
use tailwater_model::otlp::columns::{Choice, PushError, RequestInfo, Sampling, SpanColumns};
use tailwater_model::otlp::peek;
use tailwater_model::signal::Signal;
use tailwater_sampling::tracestate::{self, Stamp, Upstream};
use tailwater_sampling::{Decision, Trigger};
use tracing::error;

use super::{Settle, Tail};
use crate::log::Entry;
use crate::road::{LOST_DAMAGED, LOST_UNDECODABLE};

/// A request that rows are taken from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub lsn: Lsn,
    pub tenant: &'a Arc<str>,
    pub arrival_ns: u64,
    pub rejected: &'a [u32],
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    pub fn new(lsn: Lsn, entry: &'a Entry, rejected: &'a [u32], payload: &'a [u8]) -> Record<'a> {
        Record {
            lsn,
            tenant: &entry.tenant,
            arrival_ns: entry.arrival_ns,
            rejected,
            payload,
        }
    }

    /// What columns are told of its request.
    pub fn info(&self) -> RequestInfo<'a> {
        RequestInfo {
            tenant: self.tenant,
            arrival_ns: self.arrival_ns,
            rejected: self.rejected,
        }
    }
}

/// What becomes rows: by record of the intake log, each with its tenant and what is taken of it.
pub(super) type Ready = BTreeMap<Lsn, (Arc<str>, Vec<Take>)>;

/// A span that becomes a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Take {
    pub ordinal: u32,
    pub bytes: u64,
    /// Place of its [`Why`].
    pub why: usize,
}

#[derive(Debug)]
pub(super) struct Why {
    pub decision: Decision,
    pub trigger: Option<Trigger>,
    pub is_partial: bool,
    pub is_late: bool,
}

/// A statement with the weight of a stamp.
pub fn stamped(stamp: Stamp, rest: Sampling<'_>) -> Sampling<'_> {
    Sampling {
        sample_weight: stamp.weight(),
        sample_threshold: stamp.threshold.map(|threshold| threshold.bits() as i64),
        weight_quality: Some(stamp.quality.name()),
        ..rest
    }
}

impl Tail {
    /// A record that was kept by reference does not verify any more.
    fn lose(&mut self, lsn: Lsn, tenant: Arc<str>, signal: Signal, takes: &[Take]) {
        error!(
            lsn = lsn.0,
            signal = signal.name(),
            items = takes.len(),
            "a record of traces that were kept cannot be read any more"
        );
        self.settled.push(Settle {
            tenant,
            signal,
            account: Account::Lost,
            reason: LOST_DAMAGED,
            items: takes.len() as u64,
            bytes: takes.iter().map(|take| take.bytes).sum(),
        });
    }

    /// Stores what is ready with `store`: from the records at hand, then from the log.
    pub(super) fn store_ready(
        &mut self,
        signal: Signal,
        mut ready: Ready,
        mut store: impl FnMut(&mut Tail, Record<'_>, &[Take]),
    ) {
        ready
            .values_mut()
            .for_each(|(_, takes)| takes.sort_unstable_by_key(|take| take.ordinal));
        ready.retain(|lsn, (_, takes)| {
            let kept = self.recent.find(*lsn);
            if let Some(kept) = &kept {
                store(self, kept.record(), takes);
            }
            kept.is_none()
        });
        if ready.is_empty() {
            return;
        }
        let mut picks = self.behind.records(ready.keys().copied().collect());
        while let Some(found) = picks.next() {
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            };
            let Some((found, (tenant, takes))) = found.and_then(|found| {
                let taken = ready.remove(&found.lsn)?;
                Some((found, taken))
            }) else {
                continue;
            };
            let record = Record {
                lsn: found.lsn,
                tenant: &tenant,
                arrival_ns: found.arrival_ns,
                rejected: &found.rejected,
                payload: found.payload,
            };
            store(self, record, &takes);
        }
        for (lsn, (tenant, takes)) in ready {
            self.lose(lsn, tenant, signal, &takes);
        }
    }

    /// Rows of some spans of a record, each with the statement of why it is kept.
    pub(super) fn store(&mut self, record: Record<'_>, takes: &[Take], whys: &[Why], spans: &mut SpanColumns) {
        struct Statement {
            why: usize,
            stamp: Stamp,
            trace_state: Vec<u8>,
        }
        let mut statements: Vec<Statement> = Vec::new();
        let mut known: AHashMap<(usize, &[u8]), u32> = AHashMap::new();
        let last = takes.last().map_or(0, |take| take.ordinal);
        let mut of = vec![u32::MAX; last as usize + 1];
        let mut next = takes.iter();
        let sampler = &self.sampler;
        let ordinals = takes.iter().map(|take| take.ordinal);
        let walked = peek::spans_at(record.payload, ordinals, |head| {
            let Some(take) = next.next() else { return };
            of[take.ordinal as usize] = *known.entry((take.why, head.trace_state)).or_insert_with(|| {
                let decision = &whys[take.why].decision;
                let trace = TraceId(head.trace_id.try_into().unwrap_or_default());
                let upstream = Upstream::parse(head.trace_state);
                let stamp = sampler.stamp(trace, upstream, decision);
                let randomness = decision.is_hashed.then(|| decision.randomness(trace, upstream));
                let mut trace_state = Vec::new();
                tracestate::write(head.trace_state, stamp.threshold, randomness, &mut trace_state);
                statements.push(Statement {
                    why: take.why,
                    stamp,
                    trace_state,
                });
                statements.len() as u32 - 1
            });
        });
        let verdicts: Vec<Sampling<'_>> = statements
            .iter()
            .map(|said| {
                let why = &whys[said.why];
                let rest = Sampling {
                    sample_reason: Some(&why.decision.reason),
                    trigger: why.trigger.map(Trigger::name),
                    partial: Some(why.is_partial),
                    late: Some(why.is_late),
                    policy_epoch: Some(why.decision.epoch as i64),
                    trace_state: Some(&said.trace_state),
                    ..Sampling::default()
                };
                stamped(said.stamp, rest)
            })
            .collect();
        let info = record.info();
        let choice = Choice::Each {
            verdicts: &verdicts,
            of: &of,
        };
        let pushed = walked
            .map_err(Into::into)
            .and_then(|()| spans.push_request(record.payload, &info, choice));
        self.account(record, Signal::Traces, takes, pushed.map(|pushed| pushed.rows));
    }

    /// Counts what became of the items of a record that were to be rows.
    pub(super) fn account(&mut self, record: Record<'_>, signal: Signal, takes: &[Take], rows: Result<u64, PushError>) {
        let (items, bytes) = (takes.len() as u64, takes.iter().map(|take| take.bytes).sum::<u64>());
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                // It was inspected before it was accepted, so this is our fault; the items end as lost, not unaccounted.
                error!(lsn = record.lsn.0, %error, "an accepted request cannot be decoded");
                0
            }
        };
        let stored = if rows == items {
            bytes
        } else {
            bytes / items.max(1) * rows
        };
        for (account, items, bytes) in [
            (Account::Stored, rows, stored),
            (Account::Lost, items - rows.min(items), bytes - stored),
        ] {
            if items > 0 {
                self.settled.push(Settle {
                    tenant: record.tenant.clone(),
                    signal,
                    account,
                    reason: if account == Account::Lost { LOST_UNDECODABLE } else { "" },
                    items,
                    bytes,
                });
            }
        }
    }
}
