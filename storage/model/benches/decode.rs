//! Peek and full decode against prost's decode-and-drop, on S-spans: 440 B, 10 + 12 attributes, 512 a request.
//!
//! `cargo bench -p tailwater-model` prints ns and ratios per span; `cargo test` runs every case once on a small request. All
//! readers get the same bytes and the allocator of the product. The shapes are those of Online Boutique as recorded in the
//! Nezha data set; ids, times, sessions and peers are drawn anew for every span of every request.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::{
    Choice, LogColumns, MetricColumns, RequestInfo, Sampling, SeriesSeen, SpanColumns,
};
use tailwater_model::otlp::peek::{self, Keys};
use tailwater_model::signal::Signal;

mod requests;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Items in a request.
const ITEMS: usize = 512;

fn sizes() -> (usize, usize) {
    // (requests, items): enough that no cache holds them all, or just a few.
    if std::env::args().any(|arg| arg == "--bench") {
        (64, ITEMS)
    } else {
        (2, 32)
    }
}

fn info() -> RequestInfo<'static> {
    RequestInfo {
        tenant: "default",
        arrival_ns: requests::NOW,
        rejected: &[],
    }
}

fn keys() -> Keys {
    Keys::new(["http.route", "http.status_code", "error.type", "app.user_id"])
}

fn peek_spans(requests: &[Vec<u8>], keys: &Keys) -> u64 {
    let mut check = 0;
    for request in requests {
        peek::spans(request, keys, |span| {
            let slow = span.head.end.wrapping_sub(span.head.start) > 1_000_000_000;
            check += u64::from(slow)
                + u64::from(span.values[1].is_some())
                + u64::from(span.head.trace_id[0])
                + span.service_name.len() as u64;
            true
        })
        .unwrap();
    }
    check
}

fn inspect(signal: Signal, requests: &[Vec<u8>], caps: &Caps) -> u64 {
    requests
        .iter()
        .map(|request| peek::inspect(signal, request, requests::NOW, caps).unwrap().items)
        .sum()
}

fn push_spans(requests: &[Vec<u8>], columns: &mut SpanColumns) -> u64 {
    requests
        .iter()
        .map(|request| {
            columns
                .push_request(request, &info(), Choice::All(Sampling::ALL))
                .unwrap()
                .rows
        })
        .sum()
}

fn decode_spans(requests: &[Vec<u8>], columns: &mut SpanColumns) -> u64 {
    push_spans(requests, columns);
    let batches = columns.finish_sorted(|_, _| 0);
    (batches.spans.num_rows() + batches.traces.num_rows()) as u64
}

fn decode_logs(requests: &[Vec<u8>], columns: &mut LogColumns) -> u64 {
    for request in requests {
        columns
            .push_request(request, &info(), Choice::All(Sampling::ALL))
            .unwrap();
    }
    columns.finish_sorted().num_rows() as u64
}

fn decode_metrics(requests: &[Vec<u8>], columns: &mut MetricColumns, seen: &mut SeriesSeen) -> u64 {
    for request in requests {
        columns.push_request(request, &info(), seen).unwrap();
    }
    let batches = columns.finish_sorted();
    (batches.points.num_rows() + batches.dists.num_rows()) as u64
}

fn prost_drop<M: prost::Message + Default>(requests: &[Vec<u8>]) -> u64 {
    requests
        .iter()
        .map(|request| drop(black_box(M::decode(request.as_slice()).unwrap())))
        .count() as u64
}

fn cases(c: &mut Criterion) {
    let (requests, items) = sizes();
    let total = (requests * items) as u64;
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(total)).sample_size(10);

    let spans = requests::spans(requests, items);
    let mut columns = SpanColumns::new(Caps::default());
    group.bench_function("spans/prost", |b| {
        b.iter(|| prost_drop::<ExportTraceServiceRequest>(&spans))
    });
    group.bench_function("spans/peek", |b| b.iter(|| peek_spans(&spans, &keys())));
    group.bench_function("spans/inspect", |b| {
        b.iter(|| inspect(Signal::Traces, &spans, &Caps::default()))
    });
    group.bench_function("spans/columns", |b| b.iter(|| decode_spans(&spans, &mut columns)));

    let logs = requests::logs(requests, items);
    let mut columns = LogColumns::new(Caps::default());
    group.bench_function("logs/prost", |b| {
        b.iter(|| prost_drop::<ExportLogsServiceRequest>(&logs))
    });
    group.bench_function("logs/inspect", |b| {
        b.iter(|| inspect(Signal::Logs, &logs, &Caps::default()))
    });
    group.bench_function("logs/columns", |b| b.iter(|| decode_logs(&logs, &mut columns)));

    let metrics = requests::metrics(requests, items);
    let (mut columns, mut seen) = (MetricColumns::new(Caps::default()), SeriesSeen::new(1 << 20));
    group.bench_function("metrics/prost", |b| {
        b.iter(|| prost_drop::<ExportMetricsServiceRequest>(&metrics))
    });
    group.bench_function("metrics/inspect", |b| {
        b.iter(|| inspect(Signal::Metrics, &metrics, &Caps::default()))
    });
    group.bench_function("metrics/columns", |b| {
        b.iter(|| decode_metrics(&metrics, &mut columns, &mut seen))
    });
    group.finish();
}

criterion_group!(benches, cases);

/// Nanoseconds that this thread was on a CPU: neighbours on a busy machine do not count. Elsewhere than on Linux the wall clock.
fn on_cpu(start: Instant) -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = stat.and_then(|stat| stat.split_whitespace().next()?.parse().ok());
    ns.unwrap_or_else(|| start.elapsed().as_nanos() as u64)
}

/// Nanoseconds an item takes, best of several rounds. The kernel counts in ticks of up to 4 ms, so a round lasts 200 ms.
fn time(items: u64, mut run: impl FnMut() -> u64) -> f64 {
    let (rounds, round_ms) = if items > 1000 { (5, 200) } else { (1, 0) };
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

fn ratios() {
    let (count, items) = sizes();
    let total = (count * items) as u64;
    let row = |name: &str, bytes: &[Vec<u8>], prost: f64, own: f64| {
        let size = bytes.iter().map(Vec::len).sum::<usize>() as f64 / total as f64;
        println!(
            "{name:<16} {size:>5.0} B/item  prost {prost:>6.0} ns  own {own:>6.0} ns  ratio {:>5.2}  {:>6.2} M/s",
            prost / own,
            1e3 / own
        );
    };
    let spans = requests::spans(count, items);
    let mut columns = SpanColumns::new(Caps::default());
    let prost = time(total, || prost_drop::<ExportTraceServiceRequest>(&spans));
    row("spans/peek", &spans, prost, time(total, || peek_spans(&spans, &keys())));
    row(
        "spans/inspect",
        &spans,
        prost,
        time(total, || inspect(Signal::Traces, &spans, &Caps::default())),
    );
    row(
        "spans/columns",
        &spans,
        prost,
        time(total, || decode_spans(&spans, &mut columns)),
    );
    assert_eq!(push_spans(&spans, &mut columns), total, "every span becomes a row");

    let logs = requests::logs(count, items);
    let mut columns = LogColumns::new(Caps::default());
    let prost = time(total, || prost_drop::<ExportLogsServiceRequest>(&logs));
    row(
        "logs/inspect",
        &logs,
        prost,
        time(total, || inspect(Signal::Logs, &logs, &Caps::default())),
    );
    row(
        "logs/columns",
        &logs,
        prost,
        time(total, || decode_logs(&logs, &mut columns)),
    );

    let metrics = requests::metrics(count, items);
    let (mut columns, mut seen) = (MetricColumns::new(Caps::default()), SeriesSeen::new(1 << 20));
    let prost = time(total, || prost_drop::<ExportMetricsServiceRequest>(&metrics));
    row(
        "metrics/inspect",
        &metrics,
        prost,
        time(total, || inspect(Signal::Metrics, &metrics, &Caps::default())),
    );
    row(
        "metrics/columns",
        &metrics,
        prost,
        time(total, || decode_metrics(&metrics, &mut columns, &mut seen)),
    );
    assert_eq!(
        decode_metrics(&metrics, &mut columns, &mut seen),
        total,
        "every point becomes a row"
    );
}

fn main() {
    if !std::env::args().any(|arg| arg == "--profile-time") {
        ratios();
    }
    if !std::env::args().any(|arg| arg == "--ratios") {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}
