//! What sampling costs: a span into the trace table, a trace out of it, against the plain way to do it, a map of owned spans.
//!
//! `cargo bench -p tailwater-sampling`; `cargo test` runs every case once, small, and checks what comes out. 100,000 traces of ten spans wait
//! at a time, their spans interleaved, with the four rules of the issue: errors, slow, an attribute, the rest.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput};
use tailwater_model::ids::{Lsn, TraceId};
use tailwater_model::otlp::item::SpanHead;
use tailwater_model::otlp::peek::SpanPeek;
use tailwater_model::otlp::value::Raw;
use tailwater_sampling::sim::{Random, START_NS};
use tailwater_sampling::{Memory, Output, Sampler, SpanAt, Tick};

const POLICY: &str = r#"
budget: {stored_bytes_per_sec: 4MiB}
trace: {buffer_bytes: 4GiB}
strata:
  - {name: error, when: any(span.status == error), target: all, cap: 50%}
  - {name: slow, when: root.duration >= 500ms, target: all, cap: 25%}
  - {name: forced, when: 'any(span.attr["force_sample"])', target: all, cap: 2%}
  - {name: rest, share: by(fingerprint), alpha: 0.3}
"#;

struct Made {
    id: [u8; 16],
    span: [u8; 8],
    parent: [u8; 8],
    error: bool,
    service: &'static [u8],
}

const SERVICES: [&[u8]; 4] = [b"cart", b"checkout", b"frontend", b"payment"];
const SPANS: usize = 10;

/// Spans of so many traces in the order in which a busy collector meets them: those of a trace some hundred spans apart.
fn spans(traces: usize) -> Vec<Made> {
    let mut random = Random::new(1);
    let mut made = Vec::with_capacity(traces * SPANS);
    for _ in 0..traces {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&random.next().to_le_bytes());
        id[8..].copy_from_slice(&random.next().to_le_bytes());
        for span in 0..SPANS {
            made.push(Made {
                id,
                span: random.next().to_le_bytes(),
                parent: [u8::from(span > 0); 8],
                error: random.unit() < 0.002,
                service: SERVICES[span % 4],
            });
        }
    }
    for at in (0..made.len()).rev() {
        let other = at.saturating_sub((random.next() % 5000) as usize);
        made.swap(at, other);
    }
    made
}

fn peek<'a>(made: &'a Made, values: &'a [Option<Raw<'a>>]) -> SpanPeek<'a, 'a> {
    let head = SpanHead {
        trace_id: &made.id,
        span_id: &made.span,
        parent_span_id: if made.parent == [0; 8] { &[] } else { &made.parent },
        name: b"GET /api/products",
        kind: 2,
        start: START_NS,
        end: START_NS + 5_000_000,
        status_code: if made.error { 2 } else { 0 },
        flags: 0x100,
        ..SpanHead::default()
    };
    SpanPeek {
        ordinal: 0,
        offset: 0,
        len: 440,
        head,
        service_name: made.service,
        service_namespace: b"",
        values,
        of_resource: &[],
        own: 0,
    }
}

fn sampler() -> Sampler<u64> {
    let policy = tailwater_sampling::policy::read(Path::new("bench.yaml"), POLICY).unwrap();
    Sampler::new(policy, Memory::default(), START_NS).unwrap()
}

fn fill(sampler: &mut Sampler<u64>, made: &[Made], output: &mut Output<u64>) {
    let tenant = sampler.tenant("default");
    for (at, made) in made.iter().enumerate() {
        let at = SpanAt {
            lsn: Lsn(at as u64 / 512 + 1),
            ordinal: at as u32 % 512,
            len: 440,
        };
        sampler.offer(
            START_NS + at.lsn.0 * 1000,
            tenant,
            &peek(made, &[None]),
            at,
            || at.lsn.0,
            output,
        );
    }
}

/// What a sampler that holds spans has of each, at the least.
struct Owned {
    _name: Box<[u8]>,
    _service: Box<[u8]>,
    _start: u64,
    _end: u64,
    status: i32,
    _rest: Box<[u8]>,
}

fn naive(made: &[Made]) -> HashMap<TraceId, Vec<Owned>> {
    let mut traces: HashMap<TraceId, Vec<Owned>> = HashMap::new();
    for made in made {
        let span = peek(made, &[]);
        traces.entry(TraceId(made.id)).or_default().push(Owned {
            _name: span.head.name.into(),
            _service: span.service_name.into(),
            _start: span.head.start,
            _end: span.head.end,
            status: span.head.status_code,
            _rest: vec![0; 380].into(),
        });
    }
    traces
}

fn main() {
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let traces = if is_bench { 100_000 } else { 500 };
    let made = spans(traces);
    let mut output = Output::default();
    let tick = Tick {
        now_ns: START_NS + 60_000_000_000,
        rate: f64::INFINITY,
    };

    let mut held = sampler();
    fill(&mut held, &made, &mut output);
    assert_eq!(held.waiting(), traces, "every trace waits");
    println!(
        "{} bytes held per span, {} per trace",
        held.bytes() / made.len() as u64,
        held.bytes() / traces as u64
    );
    held.tick(tick, &mut output);
    let seen: u64 = output.ticks.iter().map(|row| row.seen_spans).sum();
    assert_eq!(
        (output.verdicts.len(), seen),
        (traces, made.len() as u64),
        "every trace is decided"
    );
    assert_eq!(
        naive(&made).values().flatten().filter(|span| span.status == 2).count(),
        made.iter().filter(|made| made.error).count()
    );

    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("sampling");
    group.throughput(Throughput::Elements(made.len() as u64));
    group.bench_function("offer, per span", |bencher| {
        bencher.iter_batched_ref(
            || (sampler(), Output::default()),
            |(sampler, output)| fill(sampler, &made, output),
            BatchSize::PerIteration,
        );
    });
    // A sampler that has run for a while: its places are there, and are used again.
    group.bench_function("offer and tick, warm, per span", |bencher| {
        let (mut sampler, mut output) = (sampler(), Output::default());
        let mut second = 60;
        bencher.iter(|| {
            fill(&mut sampler, &made, &mut output);
            second += 60;
            let now_ns = START_NS + second * 1_000_000_000;
            sampler.finish(Tick { now_ns, ..tick }, &mut output);
            output.clear();
            sampler.forget();
        });
    });
    group.bench_function("naive map of owned spans, per span", |bencher| {
        bencher.iter_with_large_drop(|| black_box(naive(&made)));
    });
    group.throughput(Throughput::Elements(traces as u64));
    group.bench_function("tick, per trace", |bencher| {
        bencher.iter_batched_ref(
            || {
                let (mut sampler, mut output) = (sampler(), Output::default());
                fill(&mut sampler, &made, &mut output);
                (sampler, output)
            },
            |(sampler, output)| sampler.tick(tick, output),
            BatchSize::PerIteration,
        );
    });
    group.finish();
    criterion.final_summary();
}
