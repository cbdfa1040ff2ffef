//! A road that samples, with crashes at any batch: every span has one row or one refusal, and a trace one decision.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use bytes::Bytes;
use opentelemetry_proto::tonic::trace::v1::Span;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::ids::TraceId;
use tailwater_sampling::{Randomness, Threshold};
use tailwater_storage::outbox::Head;

use super::process::{self, Log as _, Process, Saved, span_of, tail_settings, tenant_of, trace_of};
use super::tests::{LOG_ID, NOW, SECOND, request_of};
use super::*;
use crate::tail;

const POLICY: &str = r#"
trace: {root_settle: 1s, idle: 2s, timeout: 10s, span_limit: 50}
strata:
  - {name: error, when: any(span.status == error), target: all}
  - {name: drop, when: 'root.op in ["/healthz"]', target: drop}
  - {name: rest, target: 25%}
"#;

/// A span: trace, number in it, whether it is an error.
type Made = (u8, u8, bool);

/// A span as it comes, and when it came for the first time.
type Sent = (Made, u64);

/// The intake log, and how many traces of a tenant may wait.
#[derive(Clone)]
struct Log(Arc<Vec<(u64, Vec<Sent>)>>, Option<u32>);

impl process::Log for Log {
    fn record(&self, lsn: u64) -> Accepted {
        let (arrival_ns, spans) = &self.0[lsn as usize - 1];
        let spans = spans.iter().map(|(made, first_ns)| span(*made, *first_ns)).collect();
        let mut record = request_of(lsn, *arrival_ns, "web", spans);
        record.entry.tenant = tenant_of(lsn).into();
        record
    }

    fn live_traces(&self) -> Option<u32> {
        self.1
    }
}

/// Traces above have an R of their own, the largest, which their first span alone says.
const SAID: u8 = 210;
const LARGEST: &str = "ffffffffffffff";

fn span((trace, number, is_error): Made, end_ns: u64) -> Span {
    Span {
        trace_state: if trace > SAID && number == 0 {
            format!("ot=rv:{LARGEST}")
        } else {
            String::new()
        },
        ..span_of(trace, number, is_error, end_ns)
    }
}

/// Threshold, weight, reason, whether late.
type Stored = (i64, f64, String, bool);

/// What the batches that survived say.
#[derive(Default)]
struct Settled {
    batches: Vec<Bytes>,
    /// Of checkpoints that might have been made, and are there if the last batch in them is.
    saved: Vec<Saved>,
    rows: BTreeMap<(TraceId, Vec<u8>), Stored>,
    /// Late rows, and what table `sampling_ticks` says of them.
    late: [u64; 2],
    /// Rows of spans that have one.
    again: u64,
    first_parts: BTreeMap<TraceId, u64>,
    received: u64,
    stored: u64,
    sampled_out: u64,
    deduplicated: u64,
    /// Why they are sampled out, where the policy did not say.
    reasons: BTreeSet<&'static str>,
    bytes: [u64; 4],
}

impl Settled {
    /// A process: replays, walks `new` records, and leaves the first `keep` of its batches behind.
    fn run(&mut self, log: &Log, new: std::ops::Range<u64>, keep: usize, recent_bytes: u64) {
        self.run_by(Some(POLICY), log, new, keep, recent_bytes);
    }

    /// The same with another policy, or none.
    fn run_by(&mut self, policy: Option<&str>, log: &Log, new: std::ops::Range<u64>, keep: usize, recent_bytes: u64) {
        let process = Process {
            policy,
            tail: tail_settings(recent_bytes),
            red: None,
            saved: self.saved.last().map(|(_, bytes)| &bytes[..]),
        };
        let left = process.run(&self.batches, log, new);
        left.batches.iter().take(keep).for_each(|batch| self.settle(batch));
        if policy.is_none() {
            // A checkpoint without a sampler.
            self.saved.clear();
        }
        self.saved.extend(left.saved);
        let settled = self.batches.len() as u64;
        self.saved.retain(|(batch, _)| batch.0 <= settled);
    }

    fn settle(&mut self, batch: &Sealed) {
        self.batches.push(batch.cut.settlement.clone().into());
        for (key, amount) in &batch.cut.ledger {
            let (account, bytes) = match key.account {
                Account::Received => (&mut self.received, 0),
                Account::Stored => (&mut self.stored, 1),
                Account::SampledOut => (&mut self.sampled_out, 2),
                Account::Deduplicated => {
                    assert_eq!(key.reason, tail::AGAIN);
                    (&mut self.deduplicated, 3)
                }
                other => panic!("{other:?}: {amount:?}"),
            };
            *account += amount.items;
            let is_short = key.account == Account::SampledOut && !key.reason.is_empty();
            self.reasons.extend(is_short.then_some(key.reason));
            self.bytes[bytes] += amount.bytes;
        }
        let head = Head::decode(batch.encoded.head.clone()).unwrap();
        for (frame, rows) in head.frames.iter().zip(&batch.rows) {
            let column = |name: &str| rows.column_by_name(name).unwrap();
            let real = |row: usize| TraceId(column("trace_id").as_binary::<i32>().value(row).try_into().unwrap());
            let tenant = |row: usize| {
                let tenants = column("tenant").as_dictionary::<Int32Type>();
                tenants
                    .values()
                    .as_string::<i32>()
                    .value(tenants.key(row).unwrap())
                    .to_owned()
            };
            let id = |row: usize| Own::of(&LOG_ID.0, tenant(row).as_bytes()).trace(real(row));
            for row in 0..rows.num_rows() {
                match frame.table {
                    Table::Spans => {
                        let reasons = column("sample_reason").as_dictionary::<Int32Type>();
                        let reason = reasons.values().as_string::<i32>().value(reasons.key(row).unwrap());
                        let state = column("trace_state").as_dictionary::<Int32Type>();
                        let texts = state.values().as_string::<i32>();
                        let state = state.key(row).map_or("", |key| texts.value(key));
                        let threshold = column("sample_threshold").as_primitive::<Int64Type>().value(row);
                        let said = Threshold::from_bits(threshold as u64).unwrap();
                        if reason == "all" {
                            // Late spans of theirs may meet a policy.
                            assert!(["", "ot=th:0"].contains(&state) && said == Threshold::ALWAYS);
                        } else if real(row).0[0] > SAID {
                            assert!(state.starts_with(&format!("ot=th:{said}")));
                        } else {
                            assert_eq!(state, format!("ot=th:{said}"));
                            assert!(said.keeps(Randomness::of_trace(real(row))), "R >= T");
                        }
                        let weight = column("sample_weight").as_primitive::<Float64Type>().value(row);
                        let late = column("late").as_boolean().value(row);
                        let span = column("span_id").as_binary::<i32>().value(row).to_vec();
                        let before = self
                            .rows
                            .insert((id(row), span), (threshold, weight, reason.to_owned(), late));
                        // What comes again after the decision, or without a policy, is stored again.
                        assert!(before.is_none() || late || reason == "all", "a span is stored once");
                        self.again += u64::from(before.is_some());
                        self.late[0] += u64::from(late);
                    }
                    Table::SamplingTicks => {
                        self.late[1] += column("late_kept_spans").as_primitive::<Int64Type>().value(row) as u64;
                    }
                    Table::Traces => {
                        let part = column("part").as_primitive::<Int32Type>().value(row);
                        *self.first_parts.entry(id(row)).or_default() += u64::from(part == 0);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Traces that overlap, in requests; every span of them, whose and when; how many of them come again.
struct Traffic {
    records: Vec<(u64, Vec<Sent>)>,
    made: Vec<(&'static str, Made, u64)>,
    again: u64,
}

const TRACES: u8 = 40;

fn traffic(random: &mut SmallRng) -> Traffic {
    let mut left: Vec<(u8, u8)> = (1..=TRACES).map(|trace| (trace, random.random_range(1..6))).collect();
    let mut numbers = [0u8; 256];
    let mut arrival_ns = NOW;
    let (mut records, mut made, mut again) = (Vec::new(), Vec::new(), 0u64);
    while !left.is_empty() {
        arrival_ns += random.random_range(SECOND / 10..3 * SECOND);
        let mut spans = Vec::new();
        for _ in 0..random.random_range(1..6) {
            if left.is_empty() {
                break;
            }
            // Traces begin one after the other and overlap; some spans come long after the rest.
            let reach = left.len().min(if random.random_bool(0.1) { 30 } else { 4 });
            let at = random.random_range(0..reach);
            let trace = left[at].0;
            let span = (trace, numbers[usize::from(trace)], random.random_bool(0.05));
            numbers[usize::from(trace)] += 1;
            left[at].1 -= 1;
            if left[at].1 == 0 {
                left.remove(at);
            }
            spans.push((span, arrival_ns));
            made.push((tenant_of(records.len() as u64 + 1), span, arrival_ns));
        }
        // Some come again, of late or of long ago.
        while random.random_bool(0.2) && !made.is_empty() {
            let reach = if random.random_bool(0.7) { 12 } else { made.len() };
            let (tenant, span, first_ns) = made[made.len() - 1 - random.random_range(0..reach.min(made.len()))];
            if tenant == tenant_of(records.len() as u64 + 1) {
                spans.push((span, first_ns));
                again += 1;
            }
        }
        records.push((arrival_ns, spans));
    }
    // Time passes: everything is due. The last one makes the clock go on and stays undecided itself.
    records.push((arrival_ns + 60 * SECOND, vec![((200, 0, false), arrival_ns)]));
    Traffic { records, made, again }
}

/// What was short, and how many spans were told to have come before.
fn check(seed: u64, live_traces: Option<u32>) -> (BTreeSet<&'static str>, u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let Traffic { records, made, again } = traffic(&mut random);
    let log = Log(Arc::new(records), live_traces);
    let end = log.0.len() as u64 + 1;
    let mut settled = Settled::default();
    let mut walked = 1;
    while walked < end {
        let next = random.random_range(walked..=end);
        // A crash loses the last batches; records are durable before they are walked.
        let keep = if random.random_bool(0.5) {
            random.random_range(0..10)
        } else {
            usize::MAX
        };
        settled.run(
            &log,
            walked..next,
            keep,
            if random.random_bool(0.5) { 0 } else { 1 << 20 },
        );
        walked = next;
    }
    settled.run(&log, end..end, usize::MAX, 0);

    let mut kept: BTreeMap<TraceId, (i64, String)> = BTreeMap::new();
    for ((trace, _), (threshold, weight, reason, _)) in &settled.rows {
        let known = kept.entry(*trace).or_insert((*threshold, reason.clone()));
        assert_eq!(
            (known.0, &known.1),
            (*threshold, reason),
            "seed {seed}: one decision for a trace"
        );
        let said = Threshold::from_bits(*threshold as u64).unwrap();
        assert_eq!(*weight, said.weight());
    }
    let total = made.len() as u64 + again + 1;
    assert_eq!(settled.received, total, "seed {seed}");
    assert_eq!(settled.stored, settled.rows.len() as u64 + settled.again, "seed {seed}");
    assert!(settled.again + settled.deduplicated <= again, "seed {seed}");
    // With a limit the last one may have been refused as it came.
    let waiting = total - settled.stored - settled.sampled_out - settled.deduplicated;
    assert!(
        waiting == 1 || live_traces.is_some() && waiting == 0,
        "seed {seed}: all but the last one is settled: {waiting}"
    );
    let last = waiting * log.record(end - 1).entry.wire_bytes;
    assert_eq!(
        settled.bytes[0],
        settled.bytes[1] + settled.bytes[2] + settled.bytes[3] + last,
        "seed {seed}: to the byte"
    );
    assert_eq!(settled.late[0], settled.late[1], "seed {seed}: late spans are counted");
    for (trace, (_, reason)) in &kept {
        assert_eq!(settled.first_parts.get(trace), Some(&1), "seed {seed}: counted once");
        assert_ne!(reason, "drop");
    }
    for (tenant, (trace, ..), _) in &made {
        let found = kept.get(&Own::of(&LOG_ID.0, tenant.as_bytes()).trace(trace_of(*trace)));
        let is_dropped = found.is_none_or(|(_, reason)| reason == "error");
        assert!(is_dropped || trace % 10 != 9, "seed {seed}: dropped");
    }
    for (tenant, trace) in ["default", "other"]
        .into_iter()
        .flat_map(|tenant| (1..=TRACES).map(move |trace| (tenant, trace)))
    {
        let id = Own::of(&LOG_ID.0, tenant.as_bytes()).trace(trace_of(trace));
        let rows = settled.rows.keys().filter(|(of, _)| *of == id).count();
        let sent = made
            .iter()
            .filter(|(of, (other, ..), _)| (*of, *other) == (tenant, trace))
            .count();
        assert!(
            rows == 0 || rows == sent,
            "seed {seed}: trace {trace} is whole or not there: {rows} of {sent}"
        );
    }
    (settled.reasons, settled.deduplicated)
}

#[test]
fn any_crash_leaves_one_decision_for_every_trace_and_one_end_for_every_span() {
    let mut deduplicated = 0;
    for seed in 0..60 {
        let (reasons, again) = check(seed, None);
        assert_eq!(reasons, BTreeSet::new());
        deduplicated += again;
    }
    assert!(deduplicated > 100, "{deduplicated}");
}

#[test]
fn a_limit_of_waiting_traces_has_its_reason_in_the_ledger_and_leaves_no_half_trace() {
    let reasons: BTreeSet<_> = (0..20).flat_map(|seed| check(seed, Some(2)).0).collect();
    assert_eq!(reasons, BTreeSet::from([tailwater_sampling::LIVE_TRACES]));
}

#[test]
fn a_late_span_follows_its_trace_whether_or_not_it_says_the_same_r() {
    let small = (SAID + 1..).find(|trace| {
        let quarter = Threshold::of_probability(0.25);
        trace % 10 != 9 && !quarter.keeps(Randomness::of_trace(trace_of(*trace)))
    });
    let trace = small.unwrap();
    let sent = |number, at_s| (NOW + at_s * SECOND, vec![((trace, number, false), NOW + at_s * SECOND)]);
    // LSN 3 is another tenant's.
    let others = |at_s| (NOW + at_s * SECOND, vec![((1, 0, false), NOW)]);
    let records = vec![sent(0, 0), sent(1, 0), others(20), sent(2, 21), sent(3, 22), others(60)];
    let log = Log(Arc::new(records), None);
    // All in one process; and the late ones in the next, which knows the trace by the journal alone.
    for second in [7, 5] {
        let mut settled = Settled::default();
        settled.run(&log, 1..second, usize::MAX, 0);
        settled.run(&log, second..7, usize::MAX, 0);
        let of_trace = settled.rows.iter().filter(|((id, _), _)| *id == trace_of(trace));
        let mut lates: Vec<bool> = of_trace.map(|(_, (.., late))| *late).collect();
        lates.sort_unstable();
        assert_eq!(lates, [false, false, true, true]);
    }
}

/// The policy is taken away and comes back while traces wait, and processes crash: what waited is stored, everything has one end.
#[test]
fn what_waits_when_the_policy_is_taken_away_is_stored_undecided() {
    let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let Traffic { records, made, again } = traffic(&mut random);
        let log = Log(Arc::new(records), None);
        let end = log.0.len() as u64 + 1;
        let mut settled = Settled::default();
        let mut walked = 1;
        while walked < end {
            let next = random.random_range(walked..=end);
            let keep = match random.random_bool(0.5) {
                true => random.random_range(0..10),
                false => usize::MAX,
            };
            let policy = random.random_bool(0.6).then_some(POLICY);
            settled.run_by(policy, &log, walked..next, keep, 1 << 20);
            walked = next;
        }
        settled.run_by(None, &log, end..end, usize::MAX, 0);
        let total = made.len() as u64 + again + 1;
        let ended = settled.stored + settled.sampled_out + settled.deduplicated;
        assert_eq!((settled.received, ended), (total, total), "seed {seed}: nothing waits");
        assert!(
            settled.again + settled.deduplicated <= again,
            "seed {seed}: stored once"
        );
        assert_eq!(settled.stored, settled.rows.len() as u64 + settled.again, "seed {seed}");
        let [received, ended @ ..] = settled.bytes;
        assert_eq!(received, ended.iter().sum::<u64>(), "seed {seed}: to the byte");
        assert!(settled.first_parts.values().all(|parts| *parts <= 1), "seed {seed}");
        for (threshold, weight, reason, _) in settled.rows.into_values() {
            assert_eq!(weight, Threshold::from_bits(threshold as u64).unwrap().weight());
            assert!(reason != "undecided" || weight == 1.0, "seed {seed}");
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let names: Vec<&str> = reasons.keys().map(String::as_str).collect();
    assert_eq!(names, ["all", "error", "rest", "undecided"]);
    assert!(reasons["undecided"] > 100, "{reasons:?}");
}

#[test]
fn what_became_of_a_trace_is_known_by_tenant() {
    let (error, healthz) = (1, 9);
    let log = Log(
        Arc::new(vec![
            (NOW, vec![((error, 0, true), NOW)]),
            (NOW, vec![((healthz, 0, false), NOW)]),
            (NOW, vec![((error, 0, false), NOW)]),
        ]),
        None,
    );
    let journal = process::recovered(&[]);
    let policy = tailwater_sampling::policy::read("p.yaml".as_ref(), POLICY).unwrap();
    let behind = Box::new(process::Calm(log.clone(), None));
    let tail = Tail::new(tail_settings(1 << 20), policy, None, LOG_ID, behind, NOW).unwrap();
    let tail = Arc::new(Mutex::new(tail));
    let (outbox, _sealed) = std::sync::mpsc::sync_channel(1000);
    let parts = Parts {
        tail: Some(tail.clone()),
        ..super::tests::parts(journal.clone(), None, outbox)
    };
    process::walk(parts, &log, 1..4);
    let fate = |tenant: &str, trace: u8| tail.lock().fate(&tenant.into(), trace_of(trace), &journal.lock());
    // The third record is of the other tenant.
    for (tenant, trace, waits) in [
        ("default", error, true),
        ("default", healthz, true),
        ("other", error, true),
        ("other", healthz, false),
        ("default", 2, false),
        ("nobody", error, false),
    ] {
        let expect = waits.then_some(tail::Fate::Waits);
        assert_eq!(fate(tenant, trace), expect, "{tenant} {trace}");
    }
    let (mut spans, mut logs) = (SpanColumns::new(Caps::default()), LogColumns::new(Caps::default()));
    tail.lock()
        .tick(NOW + 60 * SECOND, &mut journal.lock(), &mut spans, &mut logs);
    let decided = |tenant: &str, trace: u8| match fate(tenant, trace) {
        Some(tail::Fate::Decided {
            decision,
            is_kept,
            settled_ns,
        }) => (decision.reason.to_string(), is_kept, settled_ns),
        other => panic!("{tenant} {trace}: {other:?}"),
    };
    assert_eq!(decided("default", error), ("error".to_owned(), true, None));
    assert_eq!(decided("default", healthz), ("drop".to_owned(), false, None));
    assert_eq!(decided("other", error).0, "rest");
    assert_eq!(fate("other", healthz), None);
    // The road has cut by its own clock.
    let cut_ns = NOW + 7200 * SECOND;
    journal.lock().cut(cut_ns, TableSet::EMPTY).unwrap().unwrap();
    assert_eq!(decided("default", healthz), ("drop".to_owned(), false, Some(cut_ns)));
}
