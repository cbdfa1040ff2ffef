//! C2: a road that counts and samples, killed at every batch of many runs. RED ends as if nothing had happened, no acknowledged span is lost, no
//! decision flips. (`collector/journal/tests/model` has the crash at every write, of a disk that tears; here the sampler and RED are the real ones.)
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use opentelemetry_proto::tonic::trace::v1::Span;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::ids::TraceId;
use tailwater_storage::outbox::Head;

use super::process::{self, Process, Saved, counter, span_of, tail_settings};
use super::tests::{NOW, SECOND, request_of};
use super::*;

const POLICY: &str = r#"
budget: {spans_per_sec: 1}
trace: {root_settle: 1s, idle: 2s, timeout: 10s}
strata:
  - {name: error, when: any(span.status == error), target: all, cap: 50%}
  - {name: rest, share: all}
"#;

/// The intake log: arrivals and spans.
#[derive(Clone)]
struct Log(Arc<Vec<(u64, Vec<Span>)>>);

impl Log {
    fn of(seed: u64) -> Log {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut arrival_ns = NOW;
        let mut records = Vec::new();
        let mut open: Vec<(u8, u8)> = Vec::new();
        let mut next = 0u8;
        while next < 30 || !open.is_empty() {
            arrival_ns += random.random_range(SECOND / 10..2 * SECOND);
            let mut spans = Vec::new();
            for _ in 0..random.random_range(1..5) {
                if next < 30 && (open.is_empty() || random.random_bool(0.5)) {
                    next += 1;
                    open.push((next, 0));
                }
                if open.is_empty() {
                    break;
                }
                let at = random.random_range(0..open.len());
                let (trace, number) = open[at];
                spans.push(span(trace, number, random.random_bool(0.1), arrival_ns));
                match number < 4 && random.random_bool(0.8) {
                    true => open[at].1 += 1,
                    false => drop(open.remove(at)),
                }
            }
            records.push((arrival_ns, spans));
        }
        // Time passes, so that all is due; what makes it pass waits itself.
        records.push((arrival_ns + 60 * SECOND, vec![span(200, 0, false, arrival_ns)]));
        Log(Arc::new(records))
    }

    fn end(&self) -> u64 {
        self.0.len() as u64 + 1
    }
}

impl process::Log for Log {
    fn record(&self, lsn: u64) -> Accepted {
        let (arrival_ns, spans) = &self.0[lsn as usize - 1];
        request_of(lsn, *arrival_ns, "web", spans.clone())
    }
}

fn span(trace: u8, number: u8, is_error: bool, arrival_ns: u64) -> Span {
    Span {
        name: format!("op-{}", trace % 3),
        kind: if number < 2 { 2 } else { 1 },
        start_time_unix_nano: arrival_ns - SECOND / 100 * u64::from(number + 1),
        ..span_of(trace, number, is_error, arrival_ns)
    }
}

/// Operation, kind, entry, error, slice in us: spans, errors, sum of durations.
type Red = BTreeMap<(String, i8, bool, bool, i64), [i64; 3]>;

/// What the batches that survived say.
#[derive(Default)]
struct Settled {
    batches: Vec<Bytes>,
    /// Of checkpoints that might have been made, and are there if the last batch in them is.
    saved: Vec<Saved>,
    red: Red,
    /// Of every stored trace.
    first_parts: BTreeMap<TraceId, u64>,
    /// Threshold of every stored span.
    rows: BTreeMap<(TraceId, Vec<u8>), i64>,
    ends: BTreeMap<Account, u64>,
}

impl Settled {
    /// A process walks what the log still gives it and `new` records, and dies after `keep` batches. Answers how many it would have made.
    fn run(&mut self, log: &Log, new: std::ops::Range<u64>, keep: usize) -> usize {
        let process = Process {
            policy: Some(POLICY),
            tail: tail_settings(1 << 20),
            red: counter(),
            saved: self.saved.last().map(|(_, bytes)| &bytes[..]),
        };
        let left = process.run(&self.batches, log, new);
        left.batches.iter().take(keep).for_each(|batch| self.settle(batch));
        self.saved.extend(left.saved);
        let settled = self.batches.len() as u64;
        self.saved.retain(|(batch, _)| batch.0 <= settled);
        left.batches.len()
    }

    fn settle(&mut self, batch: &Sealed) {
        self.batches.push(batch.cut.settlement.clone().into());
        for (key, amount) in &batch.cut.ledger {
            *self.ends.entry(key.account).or_default() += amount.items;
        }
        let head = Head::decode(batch.encoded.head.clone()).unwrap();
        for (frame, rows) in head.frames.iter().zip(&batch.rows) {
            let column = |name: &str| rows.column_by_name(name).unwrap();
            for row in 0..rows.num_rows() {
                let long = |name: &str| column(name).as_primitive::<Int64Type>().value(row);
                if frame.table == Table::Spans {
                    let id = TraceId(column("trace_id").as_binary::<i32>().value(row).try_into().unwrap());
                    let span = column("span_id").as_binary::<i32>().value(row).to_vec();
                    let before = self.rows.insert((id, span), long("sample_threshold"));
                    assert!(before.is_none(), "a span is stored once");
                } else if frame.table == Table::Traces {
                    let id = TraceId(column("trace_id").as_binary::<i32>().value(row).try_into().unwrap());
                    let part = column("part").as_primitive::<Int32Type>().value(row);
                    *self.first_parts.entry(id).or_default() += u64::from(part == 0);
                } else if frame.table == Table::Red {
                    let names = column("operation").as_dictionary::<Int32Type>();
                    let name = names.values().as_string::<i32>().value(names.key(row).unwrap());
                    let key = (
                        name.to_owned(),
                        column("kind").as_primitive::<arrow::datatypes::Int8Type>().value(row),
                        column("is_entry").as_boolean().value(row),
                        column("is_error").as_boolean().value(row),
                        column("ts").as_primitive::<TimestampMicrosecondType>().value(row),
                    );
                    let sums = self.red.entry(key).or_default();
                    for (sum, name) in sums.iter_mut().zip(["n", "errors", "sum_ns"]) {
                        *sum += long(name);
                    }
                }
            }
        }
    }

    fn end(&self, account: Account) -> u64 {
        self.ends.get(&account).copied().unwrap_or(0)
    }

    /// Holds what is there now against what was sent, and against a run that nothing happened to.
    fn check(&self, log: &Log, undisturbed: &Settled, place: &str) {
        assert_eq!(self.red, undisturbed.red, "{place}: RED");
        let mut sent: BTreeMap<TraceId, u64> = BTreeMap::new();
        for span in log.0.iter().flat_map(|(_, spans)| spans) {
            *sent.entry(TraceId(span.trace_id[..].try_into().unwrap())).or_default() += 1;
        }
        let total = sent.values().sum::<u64>();
        assert_eq!(self.end(Account::Received), total, "{place}");
        // All but the last, which waits.
        let ended = self.end(Account::Stored) + self.end(Account::SampledOut);
        assert_eq!(ended, total - 1, "{place}: no span is lost, none ends twice");
        assert_eq!(self.end(Account::Stored), self.rows.len() as u64, "{place}");
        let mut stored: BTreeMap<TraceId, (u64, BTreeSet<i64>)> = BTreeMap::new();
        for ((trace, _), threshold) in &self.rows {
            let of = stored.entry(*trace).or_default();
            of.0 += 1;
            of.1.insert(*threshold);
        }
        for (trace, (rows, thresholds)) in stored {
            assert_eq!(
                rows, sent[&trace],
                "{place}: {trace:?}: a decision to keep holds for all of a trace"
            );
            assert_eq!(thresholds.len(), 1, "{place}: {trace:?}: a decision stays");
            assert_eq!(self.first_parts[&trace], 1, "{place}: {trace:?}: counted once");
        }
    }
}

/// `TAILWATER_CRASHES=1000` runs more than the usual ones.
#[test]
fn a_crash_at_any_batch_moves_no_count_loses_no_span_and_flips_no_decision() {
    let asked = std::env::var("TAILWATER_CRASHES")
        .ok()
        .and_then(|crashes| crashes.parse().ok());
    let asked: u64 = asked.unwrap_or(50);
    let (mut points, mut kept) = (0, 0);
    for seed in 0.. {
        let log = Log::of(seed);
        let mut undisturbed = Settled::default();
        let batches = undisturbed.run(&log, 1..log.end(), usize::MAX);
        undisturbed.check(&log, &undisturbed, &format!("seed {seed}"));
        kept += undisturbed.rows.len();
        for keep in 0..batches {
            let mut settled = Settled::default();
            let made = settled.run(&log, 1..log.end(), keep);
            let decided: BTreeMap<_, _> = settled
                .rows
                .iter()
                .map(|((trace, _), threshold)| (*trace, *threshold))
                .collect();
            // Every second crash is followed by another one, halfway through what it makes up for.
            if keep % 2 == 1 {
                settled.run(&log, log.end()..log.end(), (made - keep) / 2);
                points += 1;
            }
            settled.run(&log, log.end()..log.end(), usize::MAX);
            let place = format!("seed {seed}, crash after batch {keep} of {made}");
            settled.check(&log, &undisturbed, &place);
            for ((trace, _), threshold) in &settled.rows {
                let before = decided.get(trace);
                assert!(
                    before.is_none_or(|before| before == threshold),
                    "{place}: {trace:?} is decided again"
                );
            }
            points += 1;
        }
        if points >= asked {
            break;
        }
    }
    println!("{points} crashes, {kept} spans kept where there was none");
    assert!(kept > 20, "{kept}");
}

/// What a batch settled is forgotten while its rows are there: the checks above see it.
#[test]
fn a_forgotten_batch_is_noticed() {
    let log = Log::of(0);
    let mut undisturbed = Settled::default();
    undisturbed.run(&log, 1..log.end(), usize::MAX);
    let noticed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut settled = Settled::default();
        settled.run(&log, 1..log.end(), 6);
        settled.batches.pop();
        settled.run(&log, log.end()..log.end(), usize::MAX);
        settled.check(&log, &undisturbed, "forgotten");
    }));
    assert!(noticed.is_err());
}
