//! Queries of a dashboard over series in memory.
//!
//! `cargo bench -p tailwater-promql` prints times and samples per second; `cargo test` runs every query once on a few
//! series and prints the same check values.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tailwater_promql::{Params, Query, Series, Value};

struct Case {
    name: &'static str,
    query: &'static str,
    /// Series, distance of samples, length, step: ms.
    series: usize,
    every_ms: i64,
    length_ms: i64,
    step_ms: i64,
}

const HOUR: i64 = 3_600_000;

const CASES: &[Case] = &[
    Case {
        name: "rate_30d_200_series_at_1m",
        query: "sum by (service) (rate(calls_total[5m]))",
        series: 200,
        every_ms: 60_000,
        length_ms: 30 * 24 * HOUR,
        step_ms: HOUR,
    },
    Case {
        name: "rate_6h_1000_series_at_10s",
        query: "sum by (service) (rate(calls_total[5m]))",
        series: 1000,
        every_ms: 10_000,
        length_ms: 6 * HOUR,
        step_ms: 60_000,
    },
    Case {
        name: "quantile_6h_100_histograms_of_10",
        query: "histogram_quantile(0.99, sum by (service, le) (rate(calls_total[5m])))",
        series: 1000,
        every_ms: 10_000,
        length_ms: 6 * HOUR,
        step_ms: 60_000,
    },
    Case {
        name: "ratio_6h_1000_series",
        query: "sum by (service) (rate(calls_total[5m])) / on (service) group_left sum by (service) (rate(calls_total[1h]))",
        series: 1000,
        every_ms: 10_000,
        length_ms: 6 * HOUR,
        step_ms: 60_000,
    },
    Case {
        name: "max_over_time_6h_1000_series",
        query: "max by (service) (max_over_time(calls_total[5m]))",
        series: 1000,
        every_ms: 10_000,
        length_ms: 6 * HOUR,
        step_ms: 60_000,
    },
];

fn series(case: &Case, count: usize) -> Vec<Series> {
    let bounds = ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50", "+Inf"];
    (0..count)
        .map(|number| {
            let service = format!("service-{}", number / 10 % 50);
            let pairs = [
                ("__name__", "calls_total".to_owned()),
                ("instance", (number / 10).to_string()),
                ("le", bounds[number % 10].to_owned()),
                ("service", service),
            ];
            let samples = (0..case.length_ms / case.every_ms).map(|at| {
                // A restart once a day.
                let up = at % (24 * HOUR / case.every_ms);
                #[allow(clippy::cast_precision_loss)]
                let value = (up * (1 + number as i64 % 10)) as f64;
                (at * case.every_ms, value)
            });
            Series::of_floats(pairs.into_iter().collect(), samples)
        })
        .collect()
}

fn queries(criterion: &mut Criterion) {
    let full = std::env::args().any(|arg| arg == "--bench");
    let mut group = criterion.benchmark_group("evaluate");
    group.sample_size(10);
    for case in CASES {
        let all = series(case, if full { case.series } else { 20 });
        let query = Query::parse(case.query).unwrap();
        let params = Params::range(HOUR, case.length_ms - case.every_ms, case.step_ms);
        let plan = query.plan(params).unwrap();
        let data: Vec<_> = plan.needs().iter().map(|_| all.clone()).collect();
        let samples: usize = data.iter().flatten().map(Series::len).sum();
        drop(all);
        let Value::Matrix(matrix) = plan.evaluate(&data, &|| false).unwrap().value else {
            panic!("not a matrix")
        };
        let check: f64 = matrix
            .iter()
            .flat_map(|series| &series.floats.values)
            .filter(|value| value.is_finite())
            .sum();
        println!(
            "{}: {samples} samples in, {} series out, check {check:.3}",
            case.name,
            matrix.len()
        );
        group.throughput(Throughput::Elements(samples as u64));
        group.bench_function(case.name, |bench| {
            bench.iter(|| black_box(plan.evaluate(&data, &|| false).unwrap()))
        });
    }
    group.finish();
}

criterion_group!(benches, queries);
criterion_main!(benches);
