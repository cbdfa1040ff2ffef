//! From references to rows: the records that kept traces lie in are read again, and what is taken of them is stored with why.

use std::sync::Arc;

use ahash::AHashMap;
use bytes::Bytes;
use tailwater_model::ids::{Lsn, TraceId};
use tailwater_model::ledger::Account;
use tailwater_model::otlp::columns::{Choice, PushError, RequestInfo, Sampling, SpanColumns};
use tailwater_model::otlp::peek::{self, Keys, SpanPeek};
use tailwater_model::signal::Signal;
use tailwater_sampling::tracestate::{self, Upstream};
use tailwater_sampling::{Decision, Threshold, Trigger};
use tracing::error;

use super::{Settle, Tail};
use crate::log::Entry;
use crate::road::LOST_UNDECODABLE;

/// A request that rows are still taken from.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub lsn: Lsn,
    pub tenant: Arc<str>,
    pub arrival_ns: u64,
    pub rejected: Arc<[u32]>,
    pub payload: Bytes,
}

impl Record {
    /// What columns are told of its request.
    pub fn info(&self) -> RequestInfo<'_> {
        RequestInfo {
            tenant: &self.tenant,
            arrival_ns: self.arrival_ns,
            rejected: &self.rejected,
        }
    }
}

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
    pub is_late: bool,
}

impl Record {
    pub fn new(lsn: Lsn, entry: &Entry, payload: &Bytes) -> Record {
        Record {
            lsn,
            tenant: entry.tenant.clone(),
            arrival_ns: entry.arrival_ns,
            rejected: entry.ordinals().into(),
            payload: payload.clone(),
        }
    }
}

impl Tail {
    /// A record that was kept by reference is gone: our fault, and loud.
    pub(super) fn lose(&mut self, lsn: Lsn, tenant: Arc<str>, signal: Signal, takes: &[Take]) {
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
            reason: LOST_UNDECODABLE,
            items: takes.len() as u64,
            bytes: takes.iter().map(|take| take.bytes).sum(),
        });
    }

    pub(super) fn find(&self, lsn: Lsn) -> Option<Record> {
        match self.recent.binary_search_by_key(&lsn, |record| record.lsn) {
            Ok(at) => Some(self.recent[at].clone()),
            Err(_) => {
                let found = self.behind.record(lsn)?;
                Some(Record::new(lsn, &found.entry, &found.payload))
            }
        }
    }

    /// Rows of some spans of a record, each with the statement of why it is kept.
    pub(super) fn store(&mut self, record: &Record, takes: &[Take], whys: &[Why], spans: &mut SpanColumns) {
        struct Statement {
            why: usize,
            weight: Option<f64>,
            threshold: Option<Threshold>,
            quality: &'static str,
            trace_state: Vec<u8>,
        }
        let mut statements: Vec<Statement> = Vec::new();
        let mut known: AHashMap<(usize, &[u8]), u32> = AHashMap::new();
        let last = takes.last().map_or(0, |take| take.ordinal);
        let mut of = vec![u32::MAX; last as usize + 1];
        let mut next = takes.iter().peekable();
        let sampler = &self.sampler;
        let walked = peek::spans(&record.payload, &Keys::default(), |span: &SpanPeek<'_, '_>| {
            let Some(take) = next.next_if(|take| take.ordinal == span.ordinal) else {
                return next.peek().is_some();
            };
            of[take.ordinal as usize] = *known.entry((take.why, span.head.trace_state)).or_insert_with(|| {
                let decision = &whys[take.why].decision;
                let trace = TraceId(span.head.trace_id.try_into().unwrap_or_default());
                let upstream = Upstream::parse(span.head.trace_state);
                let stamp = sampler.stamp(trace, upstream, decision);
                let randomness = decision.is_hashed.then(|| decision.randomness(trace, upstream));
                let mut trace_state = Vec::new();
                tracestate::write(span.head.trace_state, stamp.threshold, randomness, &mut trace_state);
                statements.push(Statement {
                    why: take.why,
                    weight: stamp.weight(),
                    threshold: stamp.threshold,
                    quality: stamp.quality.name(),
                    trace_state,
                });
                statements.len() as u32 - 1
            });
            next.peek().is_some()
        });
        let verdicts: Vec<Sampling<'_>> = statements
            .iter()
            .map(|said| {
                let why = &whys[said.why];
                Sampling {
                    sample_weight: said.weight,
                    sample_threshold: said.threshold.map(|threshold| threshold.bits() as i64),
                    sample_reason: Some(&why.decision.reason),
                    weight_quality: Some(said.quality),
                    trigger: why.trigger.map(Trigger::name),
                    partial: Some(why.trigger.is_some_and(Trigger::is_partial)),
                    late: Some(why.is_late),
                    policy_epoch: Some(why.decision.epoch as i64),
                    trace_state: Some(&said.trace_state),
                }
            })
            .collect();
        let info = record.info();
        let choice = Choice::Each {
            verdicts: &verdicts,
            of: &of,
        };
        let pushed = walked
            .map_err(Into::into)
            .and_then(|()| spans.push_request(&record.payload, &info, choice));
        self.account(record, Signal::Traces, takes, pushed.map(|pushed| pushed.rows));
    }

    /// Counts what became of the items of a record that were to be rows.
    pub(super) fn account(&mut self, record: &Record, signal: Signal, takes: &[Take], rows: Result<u64, PushError>) {
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
