//! What counting costs a span, against what decoding it into columns costs, on the S-spans of `storage/model/benches`.
//!
//! `cargo bench -p tailwater-red` prints ns per span; `cargo test` runs every case once on a small request and checks the counts.
//! Counting is measured whole (the walk over the request included), and less the walk that a sampler's peek does anyway. For edges these
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

fn decode(requests: &[Vec<u8>], columns: &mut SpanColumns) -> u64 {
    for request in requests {
        columns
            .push_request(request, &info(0), Choice::All(Sampling::ALL))
            .unwrap();
    }
    let batches = columns.finish_sorted(|_, _| 0);
    (batches.spans.num_rows() + batches.traces.num_rows()) as u64
}

/// Nanoseconds that this thread was on a CPU: neighbours on a busy machine do not count. Elsewhere than on Linux the wall clock.
fn on_cpu(start: Instant) -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = stat.and_then(|stat| stat.split_whitespace().next()?.parse().ok());
    ns.unwrap_or_else(|| start.elapsed().as_nanos() as u64)
}

/// Nanoseconds an item takes, best of several rounds. The kernel counts in ticks of up to 4 ms, so a round lasts 200 ms.
fn time(items: u64, mut run: impl FnMut() -> u64) -> f64 {
    let (rounds, round_ms) = if items > 1000 { (7, 200) } else { (1, 0) };
    let best = (0..rounds).map(|_| {
        let start = Instant::now();
        let (before, mut runs) = (on_cpu(start), 0);
        while runs == 0 || start.elapsed().as_millis() < round_ms {
            black_box(run());
            runs += 1;
        }
        (on_cpu(start) - before) as f64 / (items * runs) as f64
    });
    best.fold(f64::INFINITY, f64::min)
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

    let few = time(total, || {
        walk(
            &spans,
            &Keys::new(["http.route", "http.status_code", "error.type", "app.tier"]),
        )
    });
    let asked = [
        "http.response.status_code",
        "http.status_code",
        "http.route",
        "rpc.grpc.status_code",
        "rpc.response.status_code",
        "error.type",
        "deployment.environment.name",
        "deployment.environment",
        "service.version",
        "cloud.region",
        "peer.service",
        "service.peer.name",
        "db.system.name",
        "db.system",
        "messaging.system",
        "server.address",
        "app.tier",
    ];
    let many = time(total, || walk(&spans, &Keys::new(asked)));
    let mut at = 0;
    let mut red = Aggregator::new(settings(false));
    let whole = time(total, || count(&spans, &mut red, &mut at));
    let mut red = Aggregator::new(settings(true));
    let with_edges = time(total, || count(&spans, &mut red, &mut at));
    let mut columns = SpanColumns::new(Caps::default());
    let columns = time(total, || decode(&spans, &mut columns));
    let row = |name: &str, ns: f64| {
        println!(
            "{name:<24} {ns:>6.0} ns/span  {:>5.1} % of decode  less the walk {:>5.0} ns",
            100.0 * ns / columns,
            ns - few
        );
    };
    row("walk, 4 keys", few);
    row("walk, red's 17 keys", many);
    row("red", whole);
    row("red and edges", with_edges);
    row("decode into columns", columns);
}
