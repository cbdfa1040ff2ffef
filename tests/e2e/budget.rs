//! The same recording under several budgets: no SLI moves, and `simulate` says before what `run` would do.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use prost::Message;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::harness::{Server, run, run_ok, wait_for};
use crate::sample;
use crate::sampling::{ask, number};

const POLICY: &str = "\
strata:
  - {name: error, when: any(span.status == error), target: all}
  - {name: rest, target: 20%}
";

/// Traces of the last minutes as OTLP-JSON lines, from a fixed sequence: checkout calls cart, one in twenty fails. Answers the durations of checkout, ns.
fn recording(path: &std::path::Path, traces: u64) -> Vec<u64> {
    let now_ns = sample::now_ns() / 1_000_000_000 * 1_000_000_000;
    let mut random = rand::rngs::SmallRng::seed_from_u64(17);
    let (mut lines, mut durations) = (String::new(), Vec::new());
    for trace in 0..traces {
        // Half a second to two decades above, over a hundred seconds.
        let duration_ns = (random.random_range(0.0..4.6_f64).exp() * 5e6) as u64;
        let end_ns = now_ns - 300_000_000_000 + trace * 100_000_000_000 / traces;
        let is_bad = random.random_bool(0.05);
        let id: u128 = random.random();
        let span = |number: u64, parent: Vec<u8>, kind: i32, within: u64| Span {
            trace_id: id.to_be_bytes().to_vec(),
            span_id: (trace * 4 + number + 1).to_be_bytes().to_vec(),
            parent_span_id: parent,
            name: if number < 2 { "POST /pay" } else { "GetCart" }.into(),
            kind,
            start_time_unix_nano: end_ns - duration_ns + within,
            end_time_unix_nano: end_ns - within,
            status: is_bad.then(|| Status {
                code: 2,
                ..Status::default()
            }),
            ..Span::default()
        };
        let parent = |number: u64| (trace * 4 + number + 1).to_be_bytes().to_vec();
        let of = |service: &str, spans| ExportTraceServiceRequest::decode(&sample::traces(service, spans)[..]).unwrap();
        let mut request = of("checkout", vec![span(0, vec![], 2, 0), span(1, parent(0), 3, 1000)]);
        request
            .resource_spans
            .extend(of("cart", vec![span(2, parent(1), 2, 2000)]).resource_spans);
        lines += &(serde_json::to_string(&request).unwrap() + "\n");
        durations.push(duration_ns);
    }
    std::fs::write(path, lines).unwrap();
    durations
}

/// S1: with everything kept and with a thousandth kept RED is the same to the byte, and so are SLIs, burn and P99; which is within the sketch's
/// bound of the exact one.
#[test]
fn no_sli_moves_with_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut durations = recording(&file("recorded.jsonl"), 4000);
    std::fs::write(
        file("policy.yaml"),
        "trace: {root_settle: 300ms, idle: 500ms, timeout: 2s}\nstrata: [{name: rest, target: 0.1%}]\n",
    )
    .unwrap();
    let objective = run_ok(&["slo", "template", "success-rate"]);
    std::fs::write(file("slo.yaml"), &objective).unwrap();
    // Within the recording: the ledger's times are those of the runs.
    let at = (sample::now_ns() / 1_000_000_000 - 230) as i64;
    let at = chrono::DateTime::from_timestamp(at, 0)
        .unwrap()
        .to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let seen = ["", &file("policy.yaml").display().to_string()].map(|policy| {
        let data = file(if policy.is_empty() { "all" } else { "few" });
        let policy: Vec<(&str, &str)> = if policy.is_empty() { vec![] } else { vec![("sampling.policy", policy)] };
        let server = Server::start("collector", &data, &policy);
        let (endpoint, recorded) = (format!("http://{}", server.http()), file("recorded.jsonl").display().to_string());
        let told = run_ok(&[
            "load", "--endpoint", &endpoint, "--protocol", "http", "--replay", &recorded, "--keep-times", "--format", "json",
        ]);
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(number(&told["signals"]["traces"], "acked"), 12_000.0, "{told}");
        wait_for("every trace to be decided", || {
            (server.counted("tailwater_items_in_flight", &[]) == 0.0).then_some(())
        });
        assert!(server.stop().success());
        let data = data.display().to_string();
        let red = "select service_name, operation, kind, is_entry, is_error, ts, slice_s, sum(n), sum(errors), sum(sum_ns), max(max_ns), \
            exphist_count(exphist_merge(exphist)), exphist_quantile(exphist_merge(exphist), 0.5), exphist_quantile(exphist_merge(exphist), 0.99) \
            from red group by 1, 2, 3, 4, 5, 6, 7 order by 1, 2, 3, 4, 5, 6, 7";
        let red = run_ok(&["sql", "--data", &data, "--format", "csv", red]);
        let slo = file("slo.yaml").display().to_string();
        let report = run_ok(&["slo", "report", &slo, "--window", "1h", "--at", &at, "--data", &data, "--format", "json"]);
        let p99 = &ask(&data, "select exphist_quantile(exphist_merge(exphist), 0.99) as p99 from red where is_entry and service_name = 'checkout'")[0];
        let rows = number(&ask(&data, "select count(*) as n from spans")[0], "n");
        (red, report, number(p99, "p99"), rows)
    });
    let [(red, report, p99, rows), (few_red, few_report, few_p99, few_rows)] = seen;
    assert!(rows == 12_000.0 && few_rows < 100.0, "{rows} {few_rows}");
    assert!(red.lines().count() > 30, "{red}");
    assert_eq!(red, few_red);
    assert_eq!(report, few_report);
    assert_eq!(p99, few_p99);
    durations.sort_unstable();
    let rank = 0.99 * (durations.len() - 1) as f64;
    let (low, high) = (
        durations[rank.floor() as usize] as f64,
        durations[rank.ceil() as usize] as f64,
    );
    let exact = low + (high - low) * rank.fract();
    assert!((p99 / exact - 1.0).abs() <= 0.011, "{p99} for {exact}");
}

#[test]
fn a_policy_is_tried_on_recorded_traffic() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    recording(&folder.path().join("recorded.jsonl"), 1000);
    std::fs::write(file("policy.yaml"), POLICY).unwrap();
    let args = [
        "sampling",
        "simulate",
        "--policy",
        &file("policy.yaml"),
        "--replay",
        &file("recorded.jsonl"),
        "--seeds",
        "5",
    ];
    let text = run_ok(&args);
    assert!(
        text.contains("3000 spans of 1000 traces") && text.contains("error") && text.contains("checkout"),
        "{text}"
    );
    let json = run_ok(&[&args[..], &["--format", "json"]].concat());
    let told: Value = serde_json::from_str(&json).unwrap();
    let strata = told["strata"].as_array().unwrap();
    assert_eq!(strata[0]["offered"], strata[0]["kept"], "errors are kept");
    let kept = number(&strata[1]["kept"], "traces") / number(&strata[1]["offered"], "traces");
    assert!((0.15..0.25).contains(&kept), "{strata:?}");
    assert_eq!(number(&told["services"][1]["requests"], "truth"), 1000.0, "{told}");
    assert_eq!(
        run_ok(&[&args[..], &["--format", "json"]].concat()),
        json,
        "equal seeds, equal answers"
    );
    std::fs::write(file("broken.jsonl"), "{\"resourceSpans\":[]}\n{\"resourceSpans\":7}\n").unwrap();
    let (code, _, error) = run(&[
        "sampling",
        "simulate",
        &file("policy.yaml"),
        "--replay",
        &file("broken.jsonl"),
    ]);
    assert!(
        code != 0 && error.contains("broken.jsonl") && error.contains("line 2"),
        "{error}"
    );
}
