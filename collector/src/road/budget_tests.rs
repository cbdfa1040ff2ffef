//! Budgets and what lies behind: B2 with real files, and backpressure without a budget.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::ids::BatchSeq;
use tailwater_sampling::governor::{Drain, Rung};
use tailwater_sampling::policy::{self, Policy};
use tailwater_storage::lake::{Committer, Lake};
use tailwater_storage::outbox::{Head, with_batch_id};

use super::process::{self, Calm, Log as _, recovered, tail_settings};
use super::tests::{NOW, SECOND, parts, request_of};
use super::*;
use crate::outbox::Waiting;
use crate::tail::{Behind, Picks};

/// Five requests a second, each with these traces of five spans.
const REQUESTS: u64 = 5;
const TRACES: u64 = 4;

#[derive(Clone)]
struct Log;

impl process::Log for Log {
    fn record(&self, lsn: u64) -> Accepted {
        let arrival_ns = NOW + lsn * SECOND / REQUESTS;
        let mut random = SmallRng::seed_from_u64(lsn);
        let mut spans = Vec::new();
        for _ in 0..TRACES {
            let (trace, took): (u128, u64) = (random.random(), random.random_range(1_000_000..300_000_000));
            let ids: [u64; 5] = random.random();
            for (at, id) in ids.into_iter().enumerate() {
                let text = |key: &str, value: String| KeyValue {
                    key: key.into(),
                    value: Some(AnyValue {
                        value: Some(Value::StringValue(value)),
                    }),
                    ..KeyValue::default()
                };
                spans.push(Span {
                    trace_id: trace.to_be_bytes().to_vec(),
                    span_id: id.to_be_bytes().to_vec(),
                    parent_span_id: if at == 0 {
                        Vec::new()
                    } else {
                        ids[at / 2].to_be_bytes().to_vec()
                    },
                    name: format!("GET /{}", random.random_range(0..20)),
                    kind: if at == 0 { 2 } else { 1 },
                    start_time_unix_nano: arrival_ns - took,
                    end_time_unix_nano: arrival_ns - took / (at as u64 + 2),
                    attributes: vec![
                        text("http.route", format!("/{}", random.random_range(0..20))),
                        text("user", format!("{:08x}", random.random::<u32>())),
                    ],
                    ..Span::default()
                });
            }
        }
        request_of(lsn, arrival_ns, "web", spans)
    }
}

fn read(text: &str) -> Policy {
    policy::read(Path::new("p.yaml"), text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// What waits for a table becomes a commit of it. Answers the bytes of its files.
async fn commit(waiting: &Waiting, committer: &Committer, through: BatchSeq) -> u64 {
    let after = BatchSeq(committer.version().await.unwrap());
    let frames = waiting.frames(committer.table(), after, through).into_iter();
    let rows = frames.map(|(seq, rows)| with_batch_id(&rows.unwrap(), seq).unwrap());
    let committed = committer.commit(after.0, through.0, rows.collect()).await.unwrap();
    waiting.committed(committer.table(), through, committed.bytes);
    committed.bytes
}

#[test]
fn what_is_kept_takes_the_budget_in_parquet() {
    let folder = tempfile::tempdir().unwrap();
    let io = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let lake = Lake::open(folder.path()).unwrap();
    io.block_on(lake.ensure_tables()).unwrap();
    let tables = [Table::Spans, Table::Traces].map(|table| lake.committer(table, "test"));
    let budget = 1500.0;
    let policy = read(&format!(
        "budget: {{stored_bytes_per_sec: {budget}}}\nstrata: [{{name: rest, share: all}}]"
    ));
    let journal = recovered(&[]);
    let log_id = journal.lock().log_id();
    let waiting = Arc::new(Waiting::new(u64::MAX));
    let behind = Box::new(Calm(Log, Some(waiting.clone())));
    let tail = Tail::new(tail_settings(1 << 24), policy, None, log_id, behind, NOW).unwrap();
    let (outbox, sealed) = mpsc::sync_channel(1000);
    let mut road = Road::new(Parts {
        settings: Settings {
            delay: Duration::MAX,
            rows: usize::MAX,
            bytes: usize::MAX,
        },
        tail: Some(Arc::new(Mutex::new(tail))),
        ..parts(journal, None, outbox)
    });
    let (mut through, mut stored) = (BatchSeq(0), Vec::new());
    for second in 1..=1200 {
        for lsn in (second - 1) * REQUESTS + 1..=second * REQUESTS {
            road.walk(Log.record(lsn)).unwrap();
        }
        road.cut().unwrap();
        for batch in sealed.try_iter() {
            let head = Head::decode(batch.encoded.head.clone()).unwrap();
            through = batch.cut.seq;
            waiting.add(through, &head, batch.rows, Some(batch.wire_bytes), Instant::now());
        }
        if second % 30 == 0 {
            let commits = tables.iter().map(|table| io.block_on(commit(&waiting, table, through)));
            stored.push(commits.sum::<u64>() as f64 / 30.0 / budget);
        }
    }
    println!("of the budget, every half minute: {stored:.3?}");
    let used = stored[20..].iter().sum::<f64>() / 20.0;
    assert!((used - 1.0).abs() <= 0.05, "{used}");
}

/// Nothing arrives; what lies behind is what it says.
struct Sink(Arc<Mutex<Drain>>);

impl Behind for Sink {
    fn drain(&self) -> Drain {
        *self.0.lock()
    }
    fn pressure(&self) -> (f64, f64) {
        (0.0, 0.0)
    }
    fn records(&self, _: Vec<Lsn>) -> Box<dyn Picks> {
        unreachable!("nothing is kept")
    }
    fn policy(&mut self) -> Option<Policy> {
        None
    }
}

/// A backlog is felt whatever the budget counts, and if there is none.
#[test]
fn a_backlog_governs_a_policy_without_a_budget_in_bytes() {
    let strata = "strata: [{name: rest, target: all}]";
    for budget in [
        "",
        "budget: {spans_per_sec: 1000}\n",
        "budget: {stored_bytes_per_day: 1TiB}\n",
    ] {
        let drain = Arc::new(Mutex::new(Drain {
            queued: 0.0,
            drained: Some(0.0),
            commits: 0,
        }));
        let journal = recovered(&[]);
        let log_id = journal.lock().log_id();
        let (policy, behind) = (read(&format!("{budget}{strata}")), Box::new(Sink(drain.clone())));
        let mut tail = Tail::new(tail_settings(0), policy, None, log_id, behind, NOW).unwrap();
        let mut spans = SpanColumns::asking(Caps::default(), Arc::default());
        let mut logs = LogColumns::new(Caps::default());
        let mut rungs = Vec::new();
        for second in 0..600 {
            {
                let mut drain = drain.lock();
                drain.commits = second.min(300) / 30;
                drain.drained = Some(drain.commits as f64 * 30_000.0);
                drain.queued = if second > 300 {
                    (second - 300) as f64 * 1500.0
                } else {
                    0.0
                };
            }
            tail.tick(NOW + second * SECOND, &mut journal.lock(), &mut spans, &mut logs);
            rungs.push(tail.rung());
        }
        assert_eq!((rungs[300], rungs[599]), (Rung::Normal, Rung::Rest), "{budget}");
    }
}
