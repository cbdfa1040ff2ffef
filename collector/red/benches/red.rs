//! What counting costs a span, against what decoding it into columns costs, on the S-spans of `storage/model/benches`.
//!
//! `cargo bench -p tailwater-red` prints ns per span; `cargo test` runs every case once on a small request and checks the counts.
//! Counting is measured in a walk of its own, and in the walk that decodes into columns (`in the decode`: what that walk takes longer), which is how
//! the road counts. For edges these
//! spans are the worst case: all are clients or servers, none finds its other side, and after a second as many wait as may.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::{Choice, RequestInfo, Sampling, SpanColumns};
use tailwater_model::otlp::peek::{self, Keys};
use tailwater_red::{Aggregator, Mode, Rules, Settings};

#[allow(dead_code)]
#[path = "../../../storage/model/benches/requests/mod.rs"]
mod requests;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn settings(edges: bool) -> Settings {
    Settings {
        rules: Rules {
            too_many_requests: false,
            client_closed: false,
            trust_ok: true,
            roots: true,
            consumers: true,
        },
        keys_max: 2000,
        services_max: 2000,
        dimensions: vec!["app.tier".into()],
        edges: edges.then_some((10_000_000_000, 500_000)),
        declared: vec![tailwater_red::Declared {
            thresholds_ns: vec![100_000_000, 300_000_000],
            ..tailwater_red::Declared::default()
        }],
        caps: Caps::default(),
    }
}

fn info(at: usize) -> RequestInfo<'static> {
    RequestInfo {
        tenant: "default",
        // 1 ms apart: at 512 spans a request half a million a second.
        arrival_ns: requests::NOW + at as u64 * 1_000_000,
        rejected: &[],
    }
}

/// Counts all requests with a drain at the end, as a batch of 32768 spans has one.
fn count(requests: &[Vec<u8>], red: &mut Aggregator, at: &mut usize) -> u64 {
    let mut total = 0;
    for request in requests {
        red.push_request(request, &info(*at), Mode::Count).unwrap();
        *at += 1;
        if at.is_multiple_of(64) {
            total += red.drain().red.iter().map(|row| row.n).sum::<u64>();
        }
    }
    total + red.drain().red.iter().map(|row| row.n).sum::<u64>()
}

fn walk(requests: &[Vec<u8>], keys: &Keys) -> u64 {
    let mut check = 0;
    for request in requests {
        peek::spans(request, keys, |span| {
            check += u64::from(span.head.end > span.head.start) + span.values.iter().flatten().count() as u64;
            true
        })
        .unwrap();
    }
    check
}

/// Decodes all requests into one batch, and counts their spans on the way if there is a counter.
fn decode(requests: &[Vec<u8>], columns: &mut SpanColumns, mut red: Option<&mut Aggregator>, at: &mut usize) -> u64 {
    for request in requests {
        let (info, all) = (info(*at), Choice::All(Sampling::ALL));
        *at += 1;
        match &mut red {
            Some(red) => {
                red.begin(&info, Mode::Count);
                columns.push_shown(request, &info, all, |span| red.count(span))
            }
            None => columns.push_request(request, &info, all),
        }
        .unwrap();
    }
    let batches = columns.finish_sorted(|_, _| 0);
    let counted = red.map_or(0, |red| red.drain().red.iter().map(|row| row.n).sum());
    (batches.spans.num_rows() + batches.traces.num_rows()) as u64 + counted
}

/// Nanoseconds that this thread was on a CPU: neighbours on a busy machine do not count. Elsewhere than on Linux the wall clock.
fn on_cpu(start: Instant) -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = stat.and_then(|stat| stat.split_whitespace().next()?.parse().ok());
    ns.unwrap_or_else(|| start.elapsed().as_nanos() as u64)
}

/// Nanoseconds an item takes in each of these, best of several rounds, which go by turns: a machine is not as fast at all times. The
/// kernel counts in ticks of up to 4 ms, so a turn lasts 100 ms.
fn times(items: u64, cases: &mut [(&str, &mut dyn FnMut() -> u64)]) -> Vec<f64> {
    let (rounds, turn_ms) = if items > 1000 { (12, 100) } else { (1, 0) };
    let mut best = vec![f64::INFINITY; cases.len()];
    for _ in 0..rounds {
        for (best, (_, run)) in best.iter_mut().zip(cases.iter_mut()) {
            let start = Instant::now();
            let (before, mut runs) = (on_cpu(start), 0);
            while runs == 0 || start.elapsed().as_millis() < turn_ms {
                black_box(run());
                runs += 1;
            }
            *best = best.min((on_cpu(start) - before) as f64 / (items * runs) as f64);
        }
    }
    best
}

fn main() {
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let (count_of, items) = if is_bench { (64, 512) } else { (2, 32) };
    let total = (count_of * items) as u64;
    let spans = requests::spans(count_of, items);
    assert_eq!(
        count(&spans, &mut Aggregator::new(settings(false)), &mut 0),
        total,
        "every span counts once"
    );

    let keys = Aggregator::new(settings(false)).keys().clone();
    let mut counters = [false, true, false, true].map(|edges| (Aggregator::new(settings(edges)), 0));
    let [
        (red, red_at),
        (both, both_at),
        (beside, beside_at),
        (both_beside, both_beside_at),
    ] = &mut counters;
    let mut plain = SpanColumns::new(Caps::default());
    let mut asking = SpanColumns::asking(Caps::default(), keys.clone());
    let mut asking_both = SpanColumns::asking(Caps::default(), keys.clone());
    let mut cases: [(&str, &mut dyn FnMut() -> u64); 6] = [
        ("decode into columns", &mut || decode(&spans, &mut plain, None, &mut 0)),
        ("walk with red's keys", &mut || walk(&spans, &keys)),
        ("red, a walk of its own", &mut || count(&spans, red, red_at)),
        ("red and edges, a walk of its own", &mut || count(&spans, both, both_at)),
        ("red, in the decode", &mut || {
            decode(&spans, &mut asking, Some(beside), beside_at)
        }),
        ("red and edges, in the decode", &mut || {
            decode(&spans, &mut asking_both, Some(both_beside), both_beside_at)
        }),
    ];
    let best = times(total, &mut cases);
    for ((name, _), ns) in cases.iter().zip(&best) {
        let ns = if name.ends_with("in the decode") {
            ns - best[0]
        } else {
            *ns
        };
        println!(
            "{name:<32} {ns:>6.0} ns/span  {:>5.1} % of decode",
            100.0 * ns / best[0]
        );
    }
}
