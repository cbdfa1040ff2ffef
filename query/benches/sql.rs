//! The questions of `design/performance.md` 1.4 over a lake, best of five, and what the sketch costs a value.
//!
//! `cargo bench -p tailwater-query --bench sql [-- --data DIR] [-- --spans N]` asks an existing data directory, or a lake of N (default 2 million)
//! spans made for the occasion; `cargo test` runs a lake of 3,000. Prints a check value with each time: equal inputs give equal values.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tailwater_model::exphist::{Sketches, View};
use tailwater_query::{Engine, EngineConfig, Limits, format};
use tailwater_storage::lake::Lake;
use tokio::runtime::Runtime;

#[path = "../tests/it/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;

use fixtures::{Fixture, MIDNIGHT, Span, trace_hex};

const RUNS: usize = 5;

const QUESTIONS: [(&str, &str); 9] = [
    (
        "p99 service x minute, exact",
        "select service_name, date_trunc('minute', ts) m, percentile_cont(duration_ns::double, 0.99) p from spans group by 1, 2",
    ),
    (
        "p99 service x minute, sketch",
        "select service_name, date_trunc('minute', ts) m, exphist_quantile(exphist(duration_ns), 0.99) p from spans group by 1, 2",
    ),
    (
        "good/total service x minute",
        "select service_name, date_trunc('minute', ts) m, count(*) filter (where status_code <> 2 and duration_ns < 5e8) good, count(*) n from spans group by 1, 2",
    ),
    ("trace by id", "select * from spans where trace_id = '$TRACE'"),
    (
        "trace by id, miss",
        "select * from spans where trace_id = 'fefefefefefefefefefefefefefefefe'",
    ),
    (
        "20 slowest",
        "select service_name, name, duration_ns, hex_id(trace_id) from spans order by duration_ns desc limit 20",
    ),
    (
        "p99 of a user",
        "select percentile_cont(duration_ns::double, 0.99) from spans where attrs_str['user.id'] = 'u1'",
    ),
    (
        "p99 by minute, a service, 3 h",
        "select date_trunc('minute', ts) m, percentile_cont(duration_ns::double, 0.99) from spans where service_name = 'cart' \
         and ts >= (select min(ts) from spans) and ts < (select min(ts) from spans) + interval '3 hours' group by 1",
    ),
    ("count", "select count(*) from spans"),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let full = arguments.iter().any(|argument| argument == "--bench");
    let after = |name: &str| {
        arguments
            .iter()
            .position(|argument| argument == name)
            .and_then(|at| arguments.get(at + 1))
    };
    let spans = after("--spans").map_or(if full { 2_000_000 } else { 3000 }, |count| count.parse().unwrap());
    println!(
        "load average: {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    sketch(if full { 10_000_000 } else { 20_000 });
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        match after("--data").map(PathBuf::from) {
            Some(data) => {
                let limits = Limits {
                    rows_max: usize::MAX,
                    answer_bytes_max: usize::MAX,
                    ..Limits::default()
                };
                let lake = Lake::open(&data.join("lake")).unwrap();
                let config = EngineConfig {
                    lake,
                    outbox: Some(data.join("outbox")),
                    temp: None,
                    limits,
                };
                ask(&Engine::open(config).unwrap()).await;
            }
            None => ask(&made(spans).await.engine).await,
        }
    });
}

/// A lake of this many spans: eight services, ten names, 41 spans to a trace, three hours.
async fn made(spans: usize) -> Fixture {
    const SERVICES: [&str; 8] = [
        "frontend", "cart", "checkout", "mail", "payment", "shipping", "currency", "ads",
    ];
    const NAMES: [&str; 10] = ["/", "/a", "/b", "/c", "/d", "/e", "/f", "/g", "/h", "/i"];
    let limits = Limits {
        rows_max: usize::MAX,
        answer_bytes_max: usize::MAX,
        ..Limits::default()
    };
    let mut fixture = Fixture::with_limits(limits).await;
    let step = 3 * 3_600_000_000 / spans.max(1) as i64;
    let mut random = 88_172_645_463_325_252_u64;
    let mut at = 0;
    while at < spans {
        let part = (spans - at).min(200_000);
        let rows: Vec<Span> = (at..at + part)
            .map(|at| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                Span {
                    ts: MIDNIGHT + at as i64 * step,
                    service: Some(SERVICES[random as usize % 8]),
                    name: NAMES[(random >> 8) as usize % 10],
                    duration_ns: 1_000_000 + (random >> 16) as i64 % 1_000_000_000,
                    status_code: if random.is_multiple_of(50) { 2 } else { 0 },
                    trace: (at / 41 % 250) as u8,
                    span: random as u8,
                    attrs: if random.is_multiple_of(100) {
                        vec![("user.id", "u1")]
                    } else {
                        Vec::new()
                    },
                    ..Span::default()
                }
            })
            .collect();
        fixture.commit(&rows).await;
        at += part;
    }
    fixture
}

async fn ask(engine: &Engine) {
    let known = engine.collect("select hex_id(min(trace_id)) from spans").await.unwrap();
    let mut trace = String::new();
    known.iter().for_each(|rows| format::csv_rows(rows, &mut trace));
    let trace = if trace.trim().len() == 32 {
        trace.trim().to_owned()
    } else {
        trace_hex(1)
    };
    println!("{:32} {:>10} {:>8}", "question", "best ms", "rows");
    let mut total = Duration::ZERO;
    for (name, sql) in QUESTIONS {
        let sql = sql.replace("$TRACE", &trace);
        let mut best = Duration::MAX;
        let mut rows = 0;
        for _ in 0..RUNS {
            let started = Instant::now();
            let answer = engine
                .collect(sql.as_str())
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            best = best.min(started.elapsed());
            rows = answer.iter().map(|rows| rows.num_rows()).sum();
        }
        total += best;
        println!("{name:32} {:>10.2} {rows:>8}", best.as_secs_f64() * 1e3);
    }
    println!("{:32} {:>10.2}", "total", total.as_secs_f64() * 1e3);
}

/// What the sketch costs: a value recorded, a sketch written, merged, read.
fn sketch(values: usize) {
    println!(
        "{:>9} {:>10} {:>10} {:>10} {:>12} {:>8} {:>8}",
        "groups", "record ns", "encode ns", "merge ns", "quantile ns", "bytes", "MiB"
    );
    let mut random = 88_172_645_463_325_252_u64;
    for groups in [1, 100, 10_000] {
        let mut sketches = Sketches::new();
        sketches.resize(groups);
        let started = Instant::now();
        for at in 0..values {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
            sketches.record(at * 7919 % groups, 1e6 * (1.0 - uniform).recip(), 1.0);
        }
        let record = started.elapsed() / values as u32;
        let started = Instant::now();
        let encoded: Vec<Vec<u8>> = (0..groups)
            .map(|group| {
                let mut bytes = Vec::new();
                sketches.encode(group, &mut bytes);
                bytes
            })
            .collect();
        let encode = started.elapsed() / groups as u32;
        let started = Instant::now();
        let mut merged = Sketches::new();
        merged.resize(1);
        encoded
            .iter()
            .for_each(|bytes| merged.merge(0, View::parse(bytes).unwrap()).unwrap());
        let merge = started.elapsed() / groups as u32;
        let started = Instant::now();
        let count: f64 = encoded
            .iter()
            .map(|bytes| View::parse(bytes).unwrap())
            .map(|view| {
                assert!(view.quantile(0.99).unwrap().is_some());
                view.count().unwrap()
            })
            .sum();
        let quantile = started.elapsed() / groups as u32;
        assert_eq!(count as usize, values, "every value is counted once");
        let bytes = encoded.iter().map(Vec::len).sum::<usize>() / groups;
        println!(
            "{groups:>9} {:>10} {:>10} {:>10} {:>12} {bytes:>8} {:>8}",
            record.as_nanos(),
            encode.as_nanos(),
            merge.as_nanos(),
            quantile.as_nanos(),
            sketches.size() >> 20,
        );
    }
}
