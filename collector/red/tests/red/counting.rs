//! What is counted for a span, and that nothing but the spans decides over it.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tailwater_model::exphist::ExpHist;
use tailwater_model::red::{Exemplar, RedKey, RedRow, SLICE_NS, WEIGHT_ONE};
use tailwater_red::{Aggregator, Mode, Settings};

use crate::make::{MS, Made, NOW, SECOND, declared, push, request, settings};

fn rows_of(settings: Settings, spans: &[Made]) -> Vec<RedRow> {
    let mut red = Aggregator::new(settings);
    push(&mut red, spans, NOW, Mode::Count);
    red.drain().red
}

fn one(spans: &[Made]) -> RedRow {
    let rows = rows_of(settings(), spans);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.into_iter().next().unwrap()
}

/// Rows added up by key and slice, all that can be compared.
#[derive(Debug, PartialEq, Default)]
pub struct Total {
    n: u64,
    sum_ns: u128,
    max_ns: u64,
    weighted: u128,
    registers: BTreeMap<u64, u64>,
    sketch: Vec<u8>,
    exemplar: Option<Exemplar>,
}

pub fn totals(rows: &[RedRow]) -> BTreeMap<(RedKey, u64), Total> {
    let mut sketches: BTreeMap<(RedKey, u64), ExpHist> = BTreeMap::new();
    let mut totals: BTreeMap<(RedKey, u64), Total> = BTreeMap::new();
    for row in rows {
        let key = ((*row.key).clone(), row.slice_ns);
        let total = totals.entry(key.clone()).or_default();
        total.n += row.n;
        total.sum_ns += u128::from(row.sum_ns);
        total.max_ns = total.max_ns.max(row.max_ns);
        total.weighted += u128::from(row.n_weighted);
        for (threshold, count) in &row.registers {
            *total.registers.entry(*threshold).or_default() += count;
        }
        total.exemplar = total.exemplar.max(row.exemplar);
        if !row.exphist.is_empty() {
            sketches.entry(key).or_default().merge_encoded(&row.exphist).unwrap();
        }
    }
    for (key, sketch) in sketches {
        totals.get_mut(&key).unwrap().sketch = sketch.encode();
    }
    totals
}

#[test]
fn a_span_becomes_a_row() {
    let made = Made {
        trace: 7,
        id: 9,
        ..Made::default()
    };
    let made = made
        .text("http.route", "/cart/{id}")
        .int("http.response.status_code", 503)
        .text("app.tier", "gold")
        .of("service.namespace", "shop")
        .of("deployment.environment", "prod")
        .of("cloud.region", "eu-1")
        .of("service.version", "1.2.3");
    let mut settings = settings();
    settings.dimensions = vec!["app.tier".into(), "app.absent".into()];
    settings.declared = vec![declared("get", &[MS, 100]), declared("put", &[5])];
    let row = rows_of(settings, std::slice::from_ref(&made)).remove(0);
    let text = |text: &str| -> Arc<str> { text.into() };
    assert_eq!(
        *row.key,
        RedKey {
            tenant: text("default"),
            service_name: text("cart"),
            operation: text("get"),
            service_namespace: text("shop"),
            deployment_env: text("prod"),
            cloud_region: text("eu-1"),
            service_version: text("1.2.3"),
            http_route: text("/cart/{id}"),
            kind: 2,
            is_entry: true,
            is_error: true,
            status_class: text("5xx"),
            error_type: text("503"),
            dims: vec![(text("app.tier"), text("gold"))],
        }
    );
    assert_eq!((row.n, row.sum_ns, row.max_ns, row.n_weighted), (1, MS, MS, WEIGHT_ONE));
    assert_eq!(row.registers, [(100, 0), (MS, 1)]);
    assert_eq!(row.slice_ns, (NOW - SECOND + MS) / SLICE_NS * SLICE_NS);
    let exemplar = row.exemplar.unwrap();
    assert_eq!((exemplar.trace.0, exemplar.ns), (made.trace_id(), MS));
    assert_eq!(exemplar.span.0, 9u64.to_be_bytes());
    assert_eq!(ExpHist::decode(&row.exphist).unwrap().count(), 1.0);
}

#[test]
fn the_end_puts_a_span_in_its_slice_unless_it_is_not_to_be_trusted() {
    let check = |start: u64, end: u64, slice: u64, ns: u64| {
        let row = one(&[Made {
            start,
            end,
            ..Made::default()
        }]);
        assert_eq!((row.slice_ns, row.sum_ns), (slice, ns), "{start} {end}");
    };
    let slice = |at: u64| at / SLICE_NS * SLICE_NS;
    check(
        NOW - 25 * SECOND,
        NOW - 15 * SECOND,
        slice(NOW - 15 * SECOND),
        10 * SECOND,
    );
    check(NOW - 25 * SECOND, 0, slice(NOW - 25 * SECOND), 0);
    check(NOW - 25 * SECOND, NOW - 26 * SECOND, slice(NOW - 25 * SECOND), 0);
    check(0, NOW - 15 * SECOND, slice(NOW - 15 * SECOND), 0);
    check(0, 0, slice(NOW), 0);
    check(NOW, NOW + 3600 * SECOND, slice(NOW), 3600 * SECOND);
    check(5, 40 * 24 * 3600 * SECOND, slice(NOW), 40 * 24 * 3600 * SECOND - 5);
    // An hour late is an hour late.
    check(
        NOW - 3600 * SECOND,
        NOW - 3599 * SECOND,
        slice(NOW - 3599 * SECOND),
        SECOND,
    );
}

#[test]
fn error_types_are_named() {
    let check = |made: Made, class: &str, error_type: &str| {
        let row = one(&[made]);
        assert_eq!((&*row.key.status_class, &*row.key.error_type), (class, error_type));
    };
    let made = Made::default;
    check(made(), "", "");
    check(made().int("http.status_code", 200).text("error.type", "x"), "2xx", "");
    check(made().int("http.status_code", 500).text("error.type", "x"), "5xx", "x");
    check(made().text("http.status_code", "500"), "5xx", "500");
    check(made().int("rpc.grpc.status_code", 14), "UNAVAILABLE", "UNAVAILABLE");
    check(
        made().text("rpc.response.status_code", "DEADLINE_EXCEEDED"),
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED",
    );
    check(made().text("rpc.response.status_code", "5"), "NOT_FOUND", "");
    check(Made { status: 2, ..made() }, "", "");
    check(Made { status: 2, ..made() }.int("http.status_code", 200), "2xx", "");
    check(made().int("http.status_code", 429), "429", "");
}

#[test]
fn upstream_sampling_weighs_beside_the_raw_count() {
    let with = |tracestate: &str, trace| Made {
        tracestate: tracestate.into(),
        trace,
        ..Made::default()
    };
    // th:8 keeps half, th:c a quarter.
    let row = one(&[
        with("ot=th:8", 1),
        with("x=1,ot=th:c;rv:ffffffffffffff", 2),
        with("", 3),
    ]);
    assert_eq!((row.n, row.n_weighted), (3, (2 + 4 + 1) * WEIGHT_ONE));
    let exemplar = row.exemplar.unwrap();
    assert_eq!(exemplar.r, (1 << 56) - 1, "the explicit R wins");
    assert_eq!(exemplar.trace.0, with("", 2).trace_id());
}

#[test]
fn sums_beyond_a_column_spill_into_rows() {
    let half = i64::MAX as u64 / 2 + 10;
    let spans: Vec<Made> = (0..5)
        .map(|_| Made {
            start: 1,
            end: 1 + half,
            ..Made::default()
        })
        .collect();
    let rows = rows_of(settings(), &spans);
    assert!(rows.len() > 1 && rows.iter().all(|row| row.sum_ns <= i64::MAX as u64));
    let totals = totals(&rows);
    let total = totals.values().next().unwrap();
    assert_eq!((totals.len(), total.n, total.sum_ns), (1, 5, 5 * u128::from(half)));
}

#[test]
fn rejected_spans_are_not_counted() {
    let spans: Vec<Made> = (0..5)
        .map(|at| Made {
            name: format!("op{at}"),
            ..Made::default()
        })
        .collect();
    let mut red = Aggregator::new(settings());
    let info = tailwater_model::otlp::columns::RequestInfo {
        tenant: "default",
        arrival_ns: NOW,
        rejected: &[0, 3],
    };
    red.push_request(&request(&spans), &info, Mode::Count).unwrap();
    let mut names: Vec<String> = red
        .drain()
        .red
        .iter()
        .map(|row| row.key.operation.to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["op1", "op2", "op4"]);
}

#[test]
fn tenants_stay_apart_and_texts_are_cleaned() {
    let mut red = Aggregator::new(settings());
    let bytes = request(&[Made::default()]);
    for tenant in ["a", "b", "a"] {
        let info = tailwater_model::otlp::columns::RequestInfo {
            tenant,
            arrival_ns: NOW,
            rejected: &[],
        };
        red.push_request(&bytes, &info, Mode::Count).unwrap();
    }
    let rows = red.drain().red;
    let mut counts: Vec<(&str, u64)> = rows.iter().map(|row| (&*row.key.tenant, row.n)).collect();
    counts.sort();
    assert_eq!(counts, [("a", 2), ("b", 1)]);
    assert!(red.drain().red.is_empty());
    let long = one(&[Made {
        name: "x".repeat(5000),
        ..Made::default()
    }]);
    assert_eq!(long.key.operation.len(), 256);
}

#[test]
fn p99_is_within_1_1_percent_of_exact() {
    let mut random = 1u64;
    let mut unit = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 11) as f64 / (1u64 << 53) as f64
    };
    // About lognormal with a slow mode, as services have it: 2 ms, and 5 % at 400 ms.
    let mut durations: Vec<u64> = (0..20_000)
        .map(|_| {
            let normal = (0..12).map(|_| unit()).sum::<f64>() - 6.0;
            let middle = if unit() < 0.05 { 400.0 } else { 2.0 };
            (middle * normal.exp() * MS as f64) as u64
        })
        .collect();
    let mut red = Aggregator::new(settings());
    for (at, chunk) in durations.chunks(500).enumerate() {
        let spans: Vec<Made> = chunk
            .iter()
            .map(|ns| Made {
                start: NOW - 60 * SECOND,
                end: NOW - 60 * SECOND + ns,
                ..Made::default()
            })
            .collect();
        push(&mut red, &spans, NOW + at as u64, Mode::Count);
    }
    let mut all = ExpHist::new();
    red.drain()
        .red
        .iter()
        .for_each(|row| all.merge_encoded(&row.exphist).unwrap());
    durations.sort_unstable();
    for q in [0.5, 0.9, 0.99, 0.999] {
        let rank = q * (durations.len() - 1) as f64;
        let (low, high) = (
            durations[rank as usize] as f64,
            durations[(rank as usize + 1).min(durations.len() - 1)] as f64,
        );
        let exact = low + (high - low) * rank.fract();
        let found = all.quantile(q).unwrap();
        assert!((found / exact - 1.0).abs() < 0.011, "{q}: {found} {exact}");
    }
}

fn any_span() -> impl Strategy<Value = Made> {
    (0u64..3, 0u64..4, 0i64..4, 0u64..60, 0u64..5_000, 0u64..40, 0u64..6).prop_map(
        |(service, name, code, ago, ms, trace, kind)| {
            let end = NOW - ago * SECOND;
            let made = Made {
                service: format!("s{service}"),
                name: format!("op{name}"),
                kind: kind as i32,
                trace,
                id: trace + 1,
                start: end - ms * MS,
                end,
                tracestate: if trace % 5 == 0 {
                    "ot=th:8".into()
                } else {
                    String::new()
                },
                ..Made::default()
            };
            made.int("http.response.status_code", [200, 404, 429, 503][code as usize])
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whenever it is flushed, in whatever order the spans come: the same totals by key and slice.
    #[test]
    fn totals_do_not_depend_on_flushes_or_order(
        spans in prop::collection::vec(any_span(), 1..120),
        flushes in prop::collection::vec(any::<bool>(), 120),
        seed in any::<u64>(),
    ) {
        let settings = || {
            let mut settings = settings();
            settings.declared = vec![declared("op1", &[200 * MS, 2 * SECOND])];
            settings
        };
        let whole = totals(&rows_of(settings(), &spans));
        prop_assert_eq!(whole.values().map(|total| total.n).sum::<u64>(), spans.len() as u64);
        let mut shuffled = spans.clone();
        let mut random = seed;
        for at in (1..shuffled.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, (random >> 33) as usize % (at + 1));
        }
        for order in [&spans, &shuffled] {
            let mut red = Aggregator::new(settings());
            let mut rows = Vec::new();
            for (span, flush) in order.iter().zip(&flushes) {
                push(&mut red, std::slice::from_ref(span), NOW, Mode::Count);
                if *flush {
                    rows.extend(red.drain().red);
                }
            }
            rows.extend(red.drain().red);
            prop_assert_eq!(&totals(&rows), &whole);
        }
    }
}
