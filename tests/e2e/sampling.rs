//! Tail sampling with the real binary: whole traces, weights that add up, and an account that is exact through kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::{Server, run, run_ok, wait_for};

const POLICY: &str = "\
trace: {root_settle: 300ms, idle: 500ms, timeout: 2s}
strata:
  - {name: error, when: any(span.status == error), target: all}
  - {name: rest, target: 20%}
";

/// The rows, each by the names of its columns.
pub fn ask(data: &str, query: &str) -> Vec<Value> {
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

/// A number of a row, however JSON writes it.
pub fn number(row: &Value, column: &str) -> f64 {
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
