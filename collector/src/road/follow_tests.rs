//! Log records that follow their traces, with crashes at any batch and with the setting switched between two processes: every record has
//! one row or one refusal, and the same end as its trace.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message as _;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::ids::TraceId;
use tailwater_sampling::{Randomness, Threshold};
use tailwater_storage::outbox::Head;

use super::process::{self, Process, span_of, tail_settings, tenant_of, trace_of};
use super::tests::{NOW, SECOND, request_of};
use super::*;
use crate::tail::{self, LOG_ERROR, NO_TRACE, UNDECIDED};

const POLICY: &str = r#"
trace: {root_settle: 1s, idle: 2s, timeout: 10s, span_limit: 50}
strata:
  - {name: error, when: any(span.status == error), target: all}
  - {name: drop, when: 'root.op in ["/healthz"]', target: drop}
  - {name: rest, target: 25%}
"#;

const ERROR: i32 = 17;

/// A log record: number among all, trace (0: none), severity.
type MadeLog = (u32, u8, i32);

#[derive(Clone)]
enum Made {
    /// Trace, number in it, whether it is an error.
    Spans(Vec<(u8, u8, bool)>),
    Logs(Vec<MadeLog>),
}

#[derive(Clone)]
struct Log(Arc<Vec<(u64, Made)>>);

impl process::Log for Log {
    fn record(&self, lsn: u64) -> Accepted {
        let (arrival_ns, made) = &self.0[lsn as usize - 1];
        let mut record = match made {
            Made::Spans(spans) => {
                let span = |(trace, number, is_error): &_| span_of(*trace, *number, *is_error, *arrival_ns);
                let spans = spans.iter().map(span).collect();
                request_of(lsn, *arrival_ns, "web", spans)
            }
            Made::Logs(logs) => logs_of(lsn, *arrival_ns, logs),
        };
        record.entry.tenant = tenant_of(lsn).into();
        record
    }
}

fn logs_of(lsn: u64, arrival_ns: u64, logs: &[MadeLog]) -> Accepted {
    let record = |(number, trace, severity_number): &MadeLog| LogRecord {
        time_unix_nano: arrival_ns,
        severity_number: *severity_number,
        trace_id: if *trace == 0 {
            Vec::new()
        } else {
            trace_of(*trace).0.to_vec()
        },
        body: Some(AnyValue {
            value: Some(Value::StringValue(number.to_string())),
        }),
        ..LogRecord::default()
    };
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            scope_logs: vec![ScopeLogs {
                log_records: logs.iter().map(record).collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    };
    let payload = Bytes::from(request.encode_to_vec());
    let mut accepted = request_of(lsn, arrival_ns, "web", Vec::new());
    accepted.entry.signal = Signal::Logs;
    accepted.entry.items = logs.len() as u64;
    accepted.entry.wire_bytes = payload.len() as u64;
    accepted.payload = payload;
    accepted
}

/// What one process of them is like.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Batches that survive it.
    keep: usize,
    has_policy: bool,
    recent_bytes: u64,
    follow_logs: bool,
    log_bytes: u64,
}

#[derive(Debug, Clone)]
struct Stored {
    threshold: i64,
    weight: f64,
    reason: String,
    late: bool,
}

/// What the batches that survived say.
#[derive(Default)]
struct Settled {
    batches: Vec<Bytes>,
    /// Kept traces, by tenant.
    traces: BTreeMap<(String, TraceId), (i64, String)>,
    logs: BTreeMap<u32, Stored>,
    /// Received, stored, sampled out; of log records.
    items: [u64; 3],
    bytes: [u64; 3],
}

fn text(rows: &RecordBatch, name: &str, row: usize) -> String {
    let words = rows.column_by_name(name).unwrap().as_dictionary::<Int32Type>();
    words
        .values()
        .as_string::<i32>()
        .value(words.key(row).unwrap())
        .to_owned()
}

impl Settled {
    /// A process: replays, walks `new` records, and leaves the first of its batches behind.
    fn run(&mut self, log: &Log, new: std::ops::Range<u64>, of: Run) {
        let process = Process {
            policy: of.has_policy.then_some(POLICY),
            tail: tail::Settings {
                follow_logs: of.follow_logs,
                log_bytes: of.log_bytes,
                ..tail_settings(of.recent_bytes)
            },
            red: None,
            saved: None,
        };
        let left = process.run(&self.batches, log, new);
        left.batches.iter().take(of.keep).for_each(|batch| self.settle(batch));
    }

    fn settle(&mut self, batch: &Sealed) {
        self.batches.push(batch.cut.settlement.clone().into());
        for (key, amount) in batch.cut.ledger.iter().filter(|(key, _)| key.signal == Signal::Logs) {
            let account = match key.account {
                Account::Received => 0,
                Account::Stored => 1,
                Account::SampledOut => 2,
                other => panic!("{other:?}: {amount:?}"),
            };
            self.items[account] += amount.items;
            self.bytes[account] += amount.bytes;
        }
        let head = Head::decode(batch.encoded.head.clone()).unwrap();
        for (frame, rows) in head.frames.iter().zip(&batch.rows) {
            for row in 0..rows.num_rows() {
                match frame.table {
                    Table::Spans => self.span(rows, row),
                    Table::Logs => self.log(rows, row),
                    _ => {}
                }
            }
        }
    }

    fn span(&mut self, rows: &RecordBatch, row: usize) {
        let trace = rows.column_by_name("trace_id").unwrap().as_binary::<i32>().value(row);
        let threshold = rows.column_by_name("sample_threshold").unwrap();
        let threshold = threshold.as_primitive::<Int64Type>().value(row);
        let key = (text(rows, "tenant", row), TraceId(trace.try_into().unwrap()));
        self.traces.insert(key, (threshold, text(rows, "sample_reason", row)));
    }

    fn log(&mut self, rows: &RecordBatch, row: usize) {
        let column = |name: &str| rows.column_by_name(name).unwrap();
        let number = column("body").as_string::<i32>().value(row).parse().unwrap();
        let stored = Stored {
            threshold: column("sample_threshold").as_primitive::<Int64Type>().value(row),
            weight: column("sample_weight").as_primitive::<Float64Type>().value(row),
            reason: text(rows, "sample_reason", row),
            late: column("late").as_boolean().value(row),
        };
        let said = Threshold::from_bits(stored.threshold as u64).unwrap();
        assert_eq!(stored.weight, said.weight());
        if !column("weight_quality").is_null(row) {
            let is_sure = !stored.late || said == Threshold::ALWAYS;
            let quality = if is_sure { "exact" } else { "at_most" };
            assert_eq!(text(rows, "weight_quality", row), quality, "{stored:?}");
        }
        let ids = column("trace_id").as_binary::<i32>();
        if !ids.is_null(row) {
            let trace = TraceId(ids.value(row).try_into().unwrap());
            assert!(said.keeps(Randomness::of_trace(trace)), "R >= T");
        }
        let before = self.logs.insert(number, stored);
        assert!(before.is_none(), "log record {number} is stored once");
    }
}

/// Spans and log records of 40 traces, which overlap; of some there are only log records. By number: tenant, trace and severity.
fn make(random: &mut SmallRng) -> (Log, BTreeMap<u32, (&'static str, u8, i32)>) {
    let mut left: Vec<(u8, u8)> = (1..=40).map(|trace| (trace, random.random_range(1..6))).collect();
    let mut numbers = [0u8; 256];
    let mut arrival_ns = NOW;
    let (mut records, mut logs) = (Vec::new(), BTreeMap::new());
    while !left.is_empty() {
        arrival_ns += random.random_range(SECOND / 10..3 * SECOND);
        let reach = left.len().min(if random.random_bool(0.1) { 30 } else { 4 });
        if random.random_bool(0.5) {
            let lsn = records.len() as u64 + 1;
            let made: Vec<MadeLog> = (0..random.random_range(1..6))
                .map(|_| {
                    let trace = match random.random_range(0..10) {
                        0 => 0,
                        // Nobody sends a span of these.
                        1 => random.random_range(100..110),
                        // About a trace that is over.
                        2 => random.random_range(1..=40),
                        _ => left[random.random_range(0..reach)].0,
                    };
                    let severity = if random.random_bool(0.1) { ERROR } else { 9 };
                    let number = logs.len() as u32;
                    logs.insert(number, (tenant_of(lsn), trace, severity));
                    (number, trace, severity)
                })
                .collect();
            records.push((arrival_ns, Made::Logs(made)));
            continue;
        }
        let mut spans = Vec::new();
        for _ in 0..random.random_range(1..4) {
            if left.is_empty() {
                break;
            }
            let at = random.random_range(0..reach.min(left.len()));
            let trace = left[at].0;
            spans.push((trace, numbers[usize::from(trace)], random.random_bool(0.05)));
            numbers[usize::from(trace)] += 1;
            left[at].1 -= 1;
            if left[at].1 == 0 {
                left.remove(at);
            }
        }
        records.push((arrival_ns, Made::Spans(spans)));
    }
    // Time passes twice: everything is due, what waited for a trace that waited too.
    for minute in 1..3 {
        records.push((
            arrival_ns + 60 * minute * SECOND,
            Made::Spans(vec![(200, minute as u8, false)]),
        ));
    }
    (Log(Arc::new(records)), logs)
}

/// How many log records ended for which reason.
type Seen = BTreeMap<String, u64>;

fn check(seed: u64, crashes: bool, switches: bool, log_bytes: u64, seen: &mut Seen) {
    let mut random = SmallRng::seed_from_u64(seed);
    let (log, made) = make(&mut random);
    let end = log.0.len() as u64 + 1;
    let mut settled = Settled::default();
    let mut walked = 1;
    while walked < end {
        let next = if crashes {
            random.random_range(walked..=end)
        } else {
            end
        };
        let process = Run {
            // A crash loses the last batches; records are durable before they are walked.
            keep: if crashes && random.random_bool(0.5) {
                random.random_range(0..10)
            } else {
                usize::MAX
            },
            has_policy: true,
            recent_bytes: if random.random_bool(0.5) { 0 } else { 1 << 20 },
            follow_logs: !switches || random.random_bool(0.5),
            log_bytes,
        };
        settled.run(&log, walked..next, process);
        walked = next;
    }
    let last = Run {
        keep: usize::MAX,
        has_policy: true,
        recent_bytes: 0,
        follow_logs: true,
        log_bytes,
    };
    settled.run(&log, end..end, last);

    assert_eq!(settled.items[0], made.len() as u64, "seed {seed}: received once");
    assert_eq!(
        settled.items[1],
        settled.logs.len() as u64,
        "seed {seed}: every row is counted"
    );
    assert_eq!(
        settled.items[0],
        settled.items[1] + settled.items[2],
        "seed {seed}: all are settled"
    );
    assert_eq!(
        settled.bytes[0],
        settled.bytes[1] + settled.bytes[2],
        "seed {seed}: to the byte"
    );
    let mut followed: BTreeSet<u32> = BTreeSet::new();
    for (number, (tenant, trace, severity)) in &made {
        let kept = settled.traces.get(&((*tenant).to_owned(), trace_of(*trace)));
        let Some(stored) = settled.logs.get(number) else {
            *seen.entry("sampled out".into()).or_default() += 1;
            assert!(*severity < ERROR, "seed {seed}: {number}: errors stay");
            assert!(*trace != 0, "seed {seed}: {number}: it follows nobody");
            assert!(kept.is_none(), "seed {seed}: {number}: its trace is stored");
            continue;
        };
        *seen.entry(stored.reason.clone()).or_default() += 1;
        match (&*stored.reason, *trace, *severity) {
            ("all", ..) => assert!(switches, "seed {seed}: {number}"),
            (NO_TRACE, trace, _) => assert_eq!(trace, 0, "seed {seed}: {number}"),
            (LOG_ERROR, _, severity) => assert!(severity >= ERROR, "seed {seed}: {number}"),
            (UNDECIDED, trace, severity) => assert!(trace != 0 && severity < ERROR, "seed {seed}: {number}"),
            (reason, ..) => {
                followed.insert(*number);
                *seen.entry(format!("followed, late {}", stored.late)).or_default() += 1;
                let (threshold, of_trace) =
                    kept.unwrap_or_else(|| panic!("seed {seed}: {number}: its trace is not stored"));
                assert_eq!(
                    (stored.threshold, reason),
                    (*threshold, &**of_trace),
                    "seed {seed}: {number}"
                );
            }
        }
    }
    if !switches && log_bytes > 0 {
        assert!(!followed.is_empty(), "seed {seed}: none followed");
    }
}

fn check_all(seeds: u64, crashes: bool, switches: bool, log_bytes: u64) -> Seen {
    let mut seen = Seen::new();
    (0..seeds).for_each(|seed| check(seed, crashes, switches, log_bytes, &mut seen));
    seen
}

#[test]
fn log_records_have_the_end_of_their_trace() {
    let seen = check_all(40, false, false, 1 << 20);
    for end in [
        "sampled out",
        "followed, late true",
        "followed, late false",
        NO_TRACE,
        LOG_ERROR,
        UNDECIDED,
    ] {
        assert!(seen.contains_key(end), "no {end} among {seen:?}");
    }
}

#[test]
fn any_crash_leaves_one_end_for_every_log_record() {
    check_all(80, true, false, 1 << 20);
}

#[test]
fn switching_it_on_and_off_between_crashes_stores_nothing_twice_and_loses_nothing() {
    let seen = check_all(120, true, true, 1 << 20);
    assert!(seen.contains_key("all") && seen.contains_key("sampled out"), "{seen:?}");
}

#[test]
fn without_room_to_wait_they_are_stored() {
    let seen = check_all(20, true, false, 0);
    assert!(!seen.contains_key("followed, late false"), "nothing waited: {seen:?}");
    assert!(seen[UNDECIDED] > 0);
}

/// The policy is taken away and comes back while log records wait, and processes crash.
#[test]
fn without_the_policy_that_they_waited_under_they_are_stored() {
    let mut undecided = 0;
    for seed in 0..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (log, made) = make(&mut random);
        let end = log.0.len() as u64 + 1;
        let mut settled = Settled::default();
        let mut walked = 1;
        while walked <= end {
            let next = random.random_range(walked..=end);
            let is_last = next == end;
            let process = Run {
                keep: match !is_last && random.random_bool(0.5) {
                    true => random.random_range(0..10),
                    false => usize::MAX,
                },
                has_policy: !is_last && random.random_bool(0.6),
                recent_bytes: 0,
                follow_logs: random.random_bool(0.8),
                log_bytes: 1 << 20,
            };
            settled.run(&log, walked..next, process);
            walked = if is_last { end + 1 } else { next };
        }
        let [received, stored, sampled_out] = settled.items;
        assert_eq!(received, made.len() as u64, "seed {seed}: received once");
        assert_eq!(stored, settled.logs.len() as u64, "seed {seed}: every row is counted");
        assert_eq!(received, stored + sampled_out, "seed {seed}: nothing waits");
        let [received, stored, sampled_out] = settled.bytes;
        assert_eq!(received, stored + sampled_out, "seed {seed}: to the byte");
        for (number, (_, _, severity)) in &made {
            assert!(
                *severity < ERROR || settled.logs.contains_key(number),
                "seed {seed}: errors stay"
            );
        }
        undecided += settled.logs.values().filter(|log| log.reason == UNDECIDED).count();
    }
    assert!(undecided > 50, "{undecided}");
}
