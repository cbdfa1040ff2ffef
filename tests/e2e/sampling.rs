//! Tail sampling with the real binary: whole traces, weights that add up, and an account that is exact through kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use prost::Message;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::harness::{Server, run, run_ok, wait_for};
use crate::sample;

const POLICY: &str = "\
trace: {root_settle: 300ms, idle: 500ms, timeout: 2s}
strata:
  - {name: error, when: any(span.status == error), target: all}
  - {name: rest, target: 20%}
";

/// The rows, each by the names of its columns.
fn ask(data: &str, query: &str) -> Vec<Value> {
    let text = run_ok(&["sql", "--data", data, "--format", "json", query]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    let names = answer["columns"].as_array().unwrap();
    let row = |row: &Value| {
        let named = names.iter().zip(row.as_array().unwrap());
        named
            .map(|(name, value)| (name["name"].as_str().unwrap().to_owned(), value.clone()))
            .collect()
    };
    answer["rows"].as_array().unwrap().iter().map(row).collect()
}

fn number(row: &Value, column: &str) -> f64 {
    let value = &row[column];
    let said = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    said.unwrap_or_else(|| panic!("{column} of {row}"))
}

#[test]
fn whole_traces_stay_by_their_policy_through_kills_and_every_span_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    let policy = policy.display().to_string();
    run_ok(&["sampling", "check", &policy]);
    let data = folder.path().join("data");
    let hurried = [
        ("sampling.policy", policy.as_str()),
        // Some of the requests are read again from the log.
        ("sampling.recent", "1MiB"),
        ("storage.commit.interval", "300ms"),
        ("storage.checkpoint_interval", "300ms"),
    ];
    let mut server = Server::start("collector", &data, &hurried);
    let address = server.http().to_string();
    let settings: Vec<(&str, &str)> = hurried
        .into_iter()
        .chain([("intake.http.listen", address.as_str())])
        .collect();

    let is_over = Arc::new(AtomicBool::new(false));
    let endpoint = format!("http://{address}");
    let load = {
        let is_over = is_over.clone();
        std::thread::spawn(move || {
            let args = [
                "load",
                "--endpoint",
                &endpoint,
                "--protocol",
                "http",
                "--signals",
                "traces",
                "--rate",
                "2000",
                "--duration",
                "8s",
                "--errors",
                "0.05",
                "--seed",
                "11",
                "--format",
                "json",
            ];
            let answer = run(&args);
            is_over.store(true, Ordering::Relaxed);
            answer
        })
    };
    let received = |server: &Server| server.counted("tailwater_items_total", &["account=\"received\""]);
    for _ in 0..3 {
        let before = received(&server);
        wait_for("more spans", || {
            (is_over.load(Ordering::Relaxed) || received(&server) > before + 1500.0).then_some(())
        });
        server.kill();
        server = Server::start("collector", &data, &settings);
    }
    let (_, told, _) = load.join().unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    let acked = number(&told["signals"]["traces"], "acked");
    assert!(acked > 5000.0, "{told}");
    wait_for("every trace to be decided", || {
        (received(&server) >= acked && server.counted("tailwater_items_in_flight", &[]) == 0.0).then_some(())
    });
    assert!(server.stop().success());

    let data = data.display().to_string();
    run_ok(&["lake", "verify", "--data", &data]);
    let accounts = ask(
        &data,
        "select account, sum(items) as items, sum(bytes) as bytes from ledger where signal = 'traces' group by account",
    );
    let of = |account: &str, what: &str| {
        let row = accounts.iter().find(|row| row["account"] == account);
        row.map_or(0.0, |row| number(row, what))
    };
    for what in ["items", "bytes"] {
        let ended = of("stored", what) + of("sampled_out", what) + of("deduplicated", what);
        assert_eq!(of("received", what), ended, "{what}: {accounts:?}");
    }
    assert!(of("sampled_out", "items") > of("stored", "items"));
    let rows = &ask(
        &data,
        "select count(*) as n, count(distinct span_id) as spans, count(*) filter (where sample_reason = 'error' and sample_weight <> 1.0) as odd_errors, \
         count(*) filter (where trace_state not like 'ot=th:%') as unsaid from spans",
    )[0];
    assert_eq!(number(rows, "n"), of("stored", "items"));
    assert_eq!(number(rows, "spans"), number(rows, "n"), "stored once");
    assert_eq!(
        [number(rows, "odd_errors"), number(rows, "unsaid")],
        [0.0, 0.0],
        "{rows}"
    );
    let split = &ask(
        &data,
        "select count(*) as n from (select trace_id from spans group by trace_id having count(distinct sample_threshold) > 1)",
    )[0];
    assert_eq!(number(split, "n"), 0.0, "one decision for a trace");
    // What the rows stand for is what RED counted, within five standard errors; traces are sampled, not spans.
    let truth = &ask(&data, "select sum(n) as n from red")[0];
    assert_eq!(
        number(truth, "n"),
        of("received", "items") - of("deduplicated", "items")
    );
    let estimate = &ask(
        &data,
        "select sum(total) as n, sum(count * count * weight * (weight - 1)) as variance from \
         (select sum(sample_weight) as total, max(sample_weight) as weight, count(*) as count from spans group by trace_id)",
    )[0];
    let error = (number(estimate, "n") - number(truth, "n")).abs();
    assert!(
        error <= 5.0 * number(estimate, "variance").sqrt(),
        "{estimate} for {truth}"
    );
    let ticks = &ask(
        &data,
        "select sum(kept_spans) + sum(late_kept_spans) as kept, sum(seen_spans) as seen from sampling_ticks",
    )[0];
    assert!(
        number(ticks, "kept") >= number(rows, "n") * 0.5 && number(ticks, "seen") > number(ticks, "kept"),
        "{ticks}"
    );
    let trace = &ask(&data, "select encode(trace_id, 'hex') as id from spans limit 1")[0]["id"];
    let told = run_ok(&["sampling", "explain", trace.as_str().unwrap(), "--data", &data]);
    assert!(told.contains("stratum") && told.contains("th"), "{told}");
}

#[test]
fn a_policy_that_is_wrong_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, "bugdet: {spans_per_sec: 5}\n").unwrap();
    let policy = policy.display().to_string();
    let (code, _, error) = run(&["sampling", "check", &policy]);
    assert_eq!(code, 78, "{error}");
    assert!(
        error.contains("policy.yaml:1:1") && error.contains("did you mean budget?"),
        "{error}"
    );
    let data = folder.path().join("data").display().to_string();
    let set = format!("sampling.policy={policy}");
    let (code, _, error) = run(&[
        "collector",
        "--data",
        &data,
        "--set",
        &set,
        "--set",
        "intake.grpc.listen=127.0.0.1:0",
        "--set",
        "intake.http.listen=127.0.0.1:0",
        "--set",
        "admin.collector=127.0.0.1:0",
    ]);
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("did you mean budget?"), "{error}");
}

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
