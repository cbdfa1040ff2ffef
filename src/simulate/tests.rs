//! Recordings made here, whose answers are known, through files as a user has them.
#![allow(clippy::unwrap_used)]
use std::io::Write as _;

use std::path::{Path, PathBuf};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use tailwater_config::Config;
use tailwater_sampling::policy;
use tailwater_sampling::sim::Random;

use super::report::{Accuracy, Service, Stratum};
use super::*;

const START_NS: u64 = 1_700_006_400_000_000_000;
const MS: u64 = 1_000_000;

fn policy(text: &str) -> Policy {
    policy::read(Path::new("test.yaml"), text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn counting() -> tailwater_red::Settings {
    let config = Config::of(&[]).unwrap();
    tailwater_collector::counting(&config, &tailwater_collector::caps(&config))
}

fn span(trace: u64, number: u8, at_ms: u64, duration_ms: u64) -> Span {
    Span {
        trace_id: [[0; 8], (trace + 1).to_be_bytes()].concat(),
        span_id: [&(trace + 1).to_be_bytes()[1..], &[number]].concat(),
        parent_span_id: if number == 0 {
            vec![]
        } else {
            [&(trace + 1).to_be_bytes()[1..], &[0]].concat()
        },
        name: format!("op-{}", trace % 3),
        kind: if number == 0 { 2 } else { 1 },
        start_time_unix_nano: START_NS + at_ms * MS,
        end_time_unix_nano: START_NS + (at_ms + duration_ms) * MS,
        ..Span::default()
    }
}

fn request(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let name = KeyValue {
        key: "service.name".into(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(service.into())),
        }),
        ..KeyValue::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![name],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

/// A file of OTLP-JSON lines, the later ones first: the order of a file means nothing.
fn file(requests: &[ExportTraceServiceRequest]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recorded.jsonl");
    let lines = requests
        .iter()
        .rev()
        .map(|request| serde_json::to_string(request).unwrap() + "\n");
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    (folder, path)
}

/// 2,000 traces of 4 spans in 100 s, a tenth of them failed, by two services.
fn shop() -> Vec<ExportTraceServiceRequest> {
    let mut random = Random::new(5);
    let requests = (0..2000).map(|trace| {
        let duration_ms = random.lognormal(50.0, 0.8) as u64 + 1;
        let mut spans: Vec<Span> = (0..4)
            .map(|number| span(trace, number, trace * 50, duration_ms))
            .collect();
        if random.unit() < 0.1 {
            spans[0].status = Some(Status {
                code: 2,
                ..Status::default()
            });
        }
        request(if trace % 4 == 0 { "cart" } else { "frontend" }, spans)
    });
    requests.collect()
}

fn report(text: &str, requests: &[ExportTraceServiceRequest], seeds: u64) -> Report {
    let (_folder, path) = file(requests);
    simulate(&policy(text), &[path], &counting(), seeds).unwrap()
}

#[test]
fn where_everything_is_kept_nothing_is_off() {
    let report = report("strata: [{name: rest, target: all}]", &shop(), 2);
    assert_eq!(
        (
            report.recording.spans,
            report.recording.traces,
            report.recording.services
        ),
        (8000, 2000, 2)
    );
    assert_eq!(report.strata.len(), 1);
    let Stratum { offered, kept, .. } = &report.strata[0];
    assert_eq!((offered.traces, offered.spans, offered), (2000.0, 8000.0, kept));
    assert!(report.budgets.is_empty());
    let requests: Vec<f64> = report.services.iter().map(|one| one.requests.truth).collect();
    assert_eq!(
        requests,
        [500.0, 1500.0],
        "server spans are requests, not their children"
    );
    for service in &report.services {
        for figure in [service.requests, service.error_share, service.p99_ms] {
            assert_eq!(
                (figure.rms, figure.held, figure.runs),
                (Some(0.0), Some(1.0), 2),
                "{service:?}"
            );
        }
    }
}

#[test]
fn half_of_the_traces_say_what_half_can_say() {
    let report = report("strata: [{name: rest, target: 50%}]", &shop(), 200);
    let kept = report.strata[0].kept.traces / 2000.0;
    assert!((kept - 0.5).abs() < 0.01, "{kept}");
    for service in &report.services {
        // Poisson sampling of n: the estimate is off by sqrt((1 - p) / (p n)).
        let expected = (1.0 / service.requests.truth).sqrt();
        let off = service.requests.rms.unwrap() / expected;
        assert!((0.85..1.15).contains(&off), "{service:?}");
        for held in [service.requests.held, service.error_share.held, service.p99_ms.held] {
            assert!((0.88..=0.99).contains(&held.unwrap()), "{service:?}");
        }
    }
    let text = report.table();
    assert!(
        text.contains("frontend") && text.contains("2000 traces") && text.contains("200."),
        "{text}"
    );
}

#[test]
fn strata_and_the_budget_are_as_the_policy_says() {
    let text = "budget: {spans_per_sec: 20}\n\
        strata: [{name: error, when: any(span.status == error), target: all, cap: 80%}, {name: rest, share: all}]";
    let report = report(text, &shop(), 10);
    let names: Vec<&str> = report.strata.iter().map(|one| one.stratum.as_str()).collect();
    assert_eq!(names, ["error", "rest"]);
    let errors = &report.strata[0];
    // 8 of 20 spans a second, but not evenly: now and then a tick has more than it may borrow.
    assert!(errors.kept.traces > 0.98 * errors.offered.traces, "{errors:?}");
    assert!((150.0..250.0).contains(&errors.kept.traces), "{errors:?}");
    let [budget] = &report.budgets[..] else {
        panic!("{report:?}")
    };
    assert_eq!((budget.budget, budget.per_second), ("spans_per_sec", 20.0));
    assert!(
        (budget.mean - 1.0).abs() < 0.1 && budget.worst_second > 1.0,
        "{budget:?}"
    );
    // Errors are all there; it is their share's other side that is estimated.
    for service in &report.services {
        assert!(
            service.error_share.rms.unwrap() < service.requests.rms.unwrap() * 1.5,
            "{service:?}"
        );
    }
}

#[test]
fn late_spans_follow_their_trace_and_long_silences_are_skipped() {
    let mut requests = shop();
    // A day later a span of every trace that nobody remembers, and at once one that somebody does.
    let late = (0..2000).map(|trace| request("cart", vec![span(trace, 9, trace * 50 + 20_000, 1)]));
    requests.extend(late);
    let text = "trace: {root_settle: 1s, idle: 2s, timeout: 5s}\nstrata: [{name: rest, target: 50%}]";
    let report = report(text, &requests, 3);
    assert_eq!(report.late.spans, 2000.0);
    assert!((report.late.kept / 2000.0 - 0.5).abs() < 0.05, "{:?}", report.late);
    let mut far = vec![request("cart", vec![span(1, 0, 0, 5)])];
    far.push(request("cart", vec![span(2, 0, 400 * 86_400_000, 5)]));
    let started = std::time::Instant::now();
    let report = self::report(
        "budget: {spans_per_sec: 5}\nstrata: [{name: rest, share: all}]",
        &far,
        1,
    );
    assert_eq!(report.strata[0].kept.traces, 2.0);
    assert!(
        started.elapsed() < std::time::Duration::from_secs(20),
        "400 days are 69 million ticks"
    );
}

#[test]
fn slow_is_what_red_calls_slow() {
    let text = "strata: [{name: slow, when: root.duration >= red.p90(1m), target: all}, {name: rest, target: 10%}]";
    let report = report(text, &shop(), 1);
    let slow = report.strata[0].offered.traces;
    // Known after the first minute: a tenth of the 800 traces of the last 40 s.
    assert!(
        report.strata[0].stratum == "slow" && (40.0..160.0).contains(&slow),
        "{:?}",
        report.strata
    );
}

#[test]
fn what_upstream_sampled_is_counted_for_what_it_stands_for() {
    let mut requests = shop();
    for span in requests
        .iter_mut()
        .flat_map(|request| &mut request.resource_spans)
        .flat_map(|part| &mut part.scope_spans)
        .flat_map(|scope| &mut scope.spans)
    {
        // Kept upstream with 1/2; its R says so.
        span.trace_state = "ot=th:8;rv:c0000000000000".to_owned();
    }
    let report = report("strata: [{name: rest, target: 25%}]", &requests, 40);
    assert_eq!(report.services[1].requests.truth, 3000.0);
    assert_eq!(report.services[1].requests.runs, 40);
}

#[test]
fn errors_name_the_file_and_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.jsonl");
    let good = serde_json::to_string(&request("cart", vec![span(1, 0, 0, 5)])).unwrap();
    std::fs::write(&path, format!("{good}\n{{\"resourceSpans\":7}}\n")).unwrap();
    let all = policy("strata: [{name: rest, target: all}]");
    let error = format!("{:#}", simulate(&all, &[path], &counting(), 1).unwrap_err());
    assert!(error.contains("broken.jsonl") && error.contains("line 2"), "{error}");
    let path = folder.path().join("logs.jsonl");
    std::fs::write(&path, "{\"resourceLogs\":[]}\n").unwrap();
    let error = format!("{:#}", simulate(&all, &[path], &counting(), 1).unwrap_err());
    assert!(error.contains("no spans"), "{error}");
}

/// A minute of the Nezha data set, where this machine has it.
fn nezha(minute: &str) -> Option<PathBuf> {
    let named = std::env::var_os("TAILWATER_TEST_DATA").map(PathBuf::from);
    let data = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let path = data.join(format!("nezha/trace/{minute}_trace.csv.gz"));
    if !path.is_file() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {} is not there (set TAILWATER_TEST_DATA)",
            path.display()
        );
        return None;
    }
    Some(path)
}

#[test]
fn a_recorded_minute_is_simulated() {
    let Some(path) = nezha("05_20") else { return };
    let text = "budget: {spans_per_sec: 30}\nstrata: [{name: rest, share: all}]";
    let report = simulate(&policy(text), &[path], &counting(), 10).unwrap();
    println!("{}", report.table());
    assert!(
        report.recording.traces > 50 && report.recording.services >= 8,
        "{:?}",
        report.recording
    );
    let all: f64 = report.strata.iter().map(|one| one.offered.spans).sum();
    assert!(
        (all + report.late.spans - report.recording.spans as f64).abs() < 1e-6,
        "every span is somewhere"
    );
    // Six traces at once, then seconds without any: what is saved up for two seconds does not cover that.
    assert!((0.4..1.1).contains(&report.budgets[0].mean), "{:?}", report.budgets);
}

/// A span of a recorded trace: its resource, and itself with times from the trace's first start on.
type Shaped = (Option<Resource>, Span);

/// The whole traces of a file that take less than `longest_ns`, as shapes.
fn shapes(path: &Path, longest_ns: u64) -> Vec<Vec<Shaped>> {
    let mut traces: std::collections::BTreeMap<Vec<u8>, Vec<Shaped>> = Default::default();
    crate::load::replay::read(&[path.to_owned()], 512, &mut |request| {
        let crate::load::replay::Recorded::Traces(request) = request else {
            return Ok(());
        };
        for part in request.resource_spans {
            for span in part.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let of = traces.entry(span.trace_id.clone()).or_default();
                of.push((part.resource.clone(), span));
            }
        }
        Ok(())
    })
    .unwrap();
    let mut shapes: Vec<Vec<Shaped>> = traces.into_values().collect();
    for shape in &mut shapes {
        let first = shape.iter().map(|(_, span)| span.start_time_unix_nano).min().unwrap();
        for (_, span) in shape {
            span.start_time_unix_nano -= first;
            span.end_time_unix_nano -= first;
        }
    }
    let has_root = |shape: &[Shaped]| shape.iter().any(|(_, span)| span.parent_span_id.is_empty());
    shapes.retain(|shape| has_root(shape) && shape.iter().all(|(_, span)| span.end_time_unix_nano < longest_ns));
    shapes
}

/// Traces of recorded shapes (services, fan-out, durations, sizes) arriving by chance, 20 a second. The data set has no
/// status, so one in ten fails here by a coin. The budget holds, and what is kept says what there was, in every service.
#[test]
fn the_budget_and_the_weights_hold_for_recorded_shapes() {
    let Some(path) = nezha("05_27") else { return };
    let shapes = shapes(&path, 4_000_000_000);
    assert!(shapes.len() > 50, "{}", shapes.len());
    let mut random = Random::new(9);
    let (mut requests, mut spans, mut number) = (Vec::new(), 0, 0_u64);
    for second in 0..80 {
        for _ in 0..random.poisson(20.0) {
            let at_ns = START_NS + second * 1_000_000_000 + random.next() % 1_000_000_000;
            let shape = &shapes[random.next() as usize % shapes.len()];
            let has_failed = random.unit() < 0.1;
            number += 1;
            let parts = shape.iter().map(|(resource, span)| {
                let mut span = span.clone();
                span.trace_id = [[1; 8], number.to_be_bytes()].concat();
                span.start_time_unix_nano += at_ns;
                span.end_time_unix_nano += at_ns;
                if has_failed && span.parent_span_id.is_empty() {
                    span.status = Some(Status {
                        code: 2,
                        ..Status::default()
                    });
                }
                ResourceSpans {
                    resource: resource.clone(),
                    scope_spans: vec![ScopeSpans {
                        spans: vec![span],
                        ..ScopeSpans::default()
                    }],
                    ..ResourceSpans::default()
                }
            });
            requests.push(ExportTraceServiceRequest {
                resource_spans: parts.collect(),
            });
            spans += shape.len();
        }
    }
    let budget = spans as f64 / 80.0 * 0.2;
    let text = format!(
        "budget: {{spans_per_sec: {budget}}}\n\
         trace: {{root_settle: 1s, idle: 2s, timeout: 10s}}\n\
         strata: [{{name: error, when: any(span.status == error), target: all, cap: 60%}}, {{name: rest, share: all}}]"
    );
    let report = report(&text, &requests, 8);
    println!("{}", report.table());
    assert_eq!(report.recording.rejected, 0);
    // Four seconds of 84 have only the ends of what began before.
    assert!((0.9..1.03).contains(&report.budgets[0].mean), "{:?}", report.budgets);
    let errors = &report.strata[0];
    assert!(
        errors.kept.traces > 0.9 * errors.offered.traces,
        "half of the budget, under a cap of more: {errors:?}"
    );
    let held = |of: fn(&Service) -> &Accuracy| {
        let held = report
            .services
            .iter()
            .filter(|one| one.requests.truth > 200.0)
            .map(|one| of(one).held.unwrap());
        let held: Vec<f64> = held.collect();
        assert!(held.len() >= 5, "{held:?}");
        held.iter().sum::<f64>() / held.len() as f64
    };
    assert!(held(|one| &one.requests) > 0.85, "{report:?}");
    assert!(held(|one| &one.error_share) > 0.85, "{report:?}");
    let frontend = report.services.iter().find(|one| one.service == "frontend").unwrap();
    // About a tenth of 1,440 unfailed traces stays: off by sqrt(9 / 1440) of their number and a little for uneven weights.
    assert!(frontend.requests.rms.unwrap() < 0.16, "{frontend:?}");
    assert!(frontend.error_share.rms.unwrap() < 0.25, "{frontend:?}");
}
