//! Tail sampling with the real binary: whole traces, weights that add up, and an account that is exact through kills.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::harness::{Server, asked, grpc, http, run, run_ok, run_unread, signal, tailwater, wait_for};
use crate::sample;

const POLICY: &str = "\
trace: {root_settle: 300ms, idle: 500ms, timeout: 2s}
strata:
  - {name: error, when: any(span.status == error), target: all}
  - {name: rest, target: 20%}
";

/// Kills of a usual run; `TAILWATER_KILLS` asks for more.
const KILLS: u32 = 10;

/// The rows, each by the names of its columns.
pub fn ask(data: &str, query: &str) -> Vec<Value> {
    named(&run_ok(&["sql", "--data", data, "--format", "json", query]))
}

fn named(answer: &str) -> Vec<Value> {
    let answer: Value = serde_json::from_str(answer).unwrap();
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
fn import_answers_1_when_something_is_lost_and_check_points_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("otelcol.yaml").display().to_string();
    let processor = "num_traces: 50\n    policies:\n      - {name: all, type: always_sample}\n";
    let one = format!("processors:\n  tail_sampling:\n    {processor}");
    for (text, code, says) in [
        (one.clone(), 0, ":3:5: note: num_traces"),
        (
            format!("{one}  tail_sampling/eu:\n    {processor}"),
            1,
            "lost: tail_sampling/eu",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let (got, _, err) = run(&["sampling", "import", &path]);
        assert!(got == code && err.contains(says), "{got} {err}");
        assert_eq!(run_unread(&["sampling", "import", &path]), code);
        let (got, _, err) = run(&["sampling", "check", &path]);
        assert!(got == 78 && err.contains("sampling import"), "{got} {err}");
    }
}

#[test]
fn a_trace_id_may_come_with_the_end_of_its_line() {
    let nowhere = tempfile::tempdir().unwrap();
    let data = nowhere.path().display().to_string();
    let explain = |id: &str| run(&["sampling", "explain", id, "--data", &data]).2;
    let err = explain("4bf92f3577b34da6a3ce929d0e0e4736\r");
    assert!(err.contains("holds no lake"), "{err}");
    let err = explain("4bf92f\r77b3");
    assert!(err.contains(r#""4bf92f\r77b3" is no trace id"#), "{err}");
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
    let (kills, seed) = (asked("TAILWATER_KILLS", KILLS), asked("TAILWATER_SEED", 11));
    eprintln!("{kills} kills, seed {seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut server = Server::start("collector", &data, &hurried);
    let address = server.http().to_string();
    let settings: Vec<(&str, &str)> = hurried
        .into_iter()
        .chain([("intake.http.listen", address.as_str())])
        .collect();

    let load = tailwater()
        .args([
            "load",
            "--protocol",
            "http",
            "--signals",
            "traces",
            "--rate",
            "2000",
            "--errors",
            "0.05",
        ])
        .args([
            "--endpoint",
            &format!("http://{address}"),
            "--seed",
            &seed.to_string(),
            "--format",
            "json",
        ])
        // It is told when to end; this is for when the test is not there any more to do so.
        .args(["--duration", &format!("{}s", 120 + 10 * kills)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let received = |server: &Server| server.counted("tailwater_items_total", &["account=\"received\""]);
    let more_than = |server: &Server, spans: f64| {
        wait_for("more spans", || (received(server) > spans).then_some(()));
    };
    for kill in 0..kills {
        more_than(&server, received(&server) + random.random_range(200.0..2000.0));
        // Anywhere in what the collector does from here on.
        std::thread::sleep(Duration::from_micros(random.random_range(0..50_000)));
        server.kill();
        // Every third time once more, in the middle of recovery.
        if kill % 3 == 2 {
            server = Server::spawn("collector", &data, &settings);
            std::thread::sleep(Duration::from_micros(random.random_range(0..200_000)));
            server.kill();
        }
        server = Server::start("collector", &data, &settings);
    }
    more_than(&server, received(&server).max(6000.0) + 2000.0);
    signal(load.id() as i32, rustix::process::Signal::TERM);
    let told = String::from_utf8(load.wait_with_output().unwrap().stdout).unwrap();
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
        "select count(*) as n, count(distinct span_id) as spans, count(*) filter (where not late) as on_time, count(*) filter (where sample_reason = 'error' and sample_weight <> 1.0) as odd_errors, \
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
        "select sum(kept_spans) as kept, sum(seen_spans) as seen from sampling_ticks",
    )[0];
    // How many are late depends on how busy the machine is. A tick is in one batch with its rows.
    assert_eq!(number(ticks, "kept"), number(rows, "on_time"), "{ticks} {rows}");
    assert!(number(ticks, "seen") > number(ticks, "kept"), "{ticks}");
    let trace = &ask(&data, "select encode(trace_id, 'hex') as id from spans limit 1")[0]["id"];
    let told = run_ok(&["sampling", "explain", trace.as_str().unwrap(), "--data", &data]);
    assert!(told.contains("stratum") && told.contains("th"), "{told}");
    eprintln!("{kills} kills under load; {accounts:?}, {ticks}");
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

/// Errors stay, the rest is dropped.
const ERRORS: &str = "\
trace: {root_settle: 100ms, idle: 100ms, timeout: 1s}
strata:
  - {name: error, when: any(span.status == error), target: all}
  - {name: rest, target: drop}
";

#[test]
fn a_trace_is_explained_whether_it_was_kept_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, ERRORS).unwrap();
    let policy = policy.display().to_string();
    let data = folder.path().join("data");
    let settings = [
        ("sampling.policy", policy.as_str()),
        ("storage.commit.interval", "300ms"),
    ];
    let server = Server::start("collector", &data, &settings);
    let other = Span {
        trace_id: vec![7; 16],
        ..sample::span(1)
    };
    let mut body = failed(1, 1);
    body.extend(sample::traces("shop", vec![other]));
    assert_eq!(server.post("/v1/traces", &body).status, 200);

    let data = data.display().to_string();
    let set = format!("sampling.policy={policy}");
    let explain = |id: &str| {
        let args = [
            "sampling", "explain", id, "--data", &data, "--set", &set, "--format", "json",
        ];
        let (code, out, err) = run(&args);
        assert_eq!(code, 0, "{err}");
        (out, err)
    };
    let id = wait_for("the kept one's row", || {
        let query = "select encode(trace_id, 'hex') from spans";
        let (code, out, _) = run(&["sql", "--data", &data, "--format", "csv", query]);
        (code == 0).then(|| out.lines().nth(1).map(str::to_owned))?
    });
    let (row, err) = wait_for("the tick beside it", || {
        let (out, err) = explain(&id);
        let row = named(&out).remove(0);
        (row["decided"] != Value::Null).then_some((row, err))
    });
    assert_eq!(
        [&row["stratum"], &row["th"], &row["tenant"]],
        ["error", "0", "default"],
        "{row}"
    );
    assert_eq!((number(&row, "p"), number(&row, "weight")), (1.0, 1.0), "{row}");
    assert_eq!(
        err, "note: {name: error, when: 'any(span.status == error)', target: all}\n",
        "{row}"
    );
    let (_, err) = explain(&"07".repeat(16));
    assert!(
        err.contains("tenant default: sampled out: stratum rest keeps none (target: drop), policy epoch"),
        "{err}"
    );
    assert!(err.contains("sampling_ticks"), "{err}");
    let (_, err) = explain(&"08".repeat(16));
    assert!(err.contains("does not know it"), "{err}");
    assert!(server.stop().success());
    let (_, err) = explain(&"07".repeat(16));
    assert!(err.contains("no collector works on this data directory"), "{err}");
}

/// Every trace is to be kept, and memory has room for some two thousand of them.
const CRAMPED: &str = "\
trace: {root_settle: 10s, idle: 10s, timeout: 10s, buffer_bytes: 1MiB}
strata:
  - {name: error, when: any(span.status == error), target: all}
  - {name: rest, target: 50%}
";

/// Traces of one span that failed; ids as random as SDKs make them.
fn failed(request: u64, traces: u64) -> Vec<u8> {
    let span = |number: u64| {
        let number = request * traces + number;
        let id = u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        Span {
            trace_id: id.to_be_bytes().to_vec(),
            status: Some(Status {
                code: 2,
                ..Status::default()
            }),
            ..sample::span(number)
        }
    };
    sample::traces("shop", (0..traces).map(span).collect())
}

/// The last rung of the ladder: refused with a wait that is spread, the other signals not; ended when what waits was decided; and then whoever comes
/// again is let in. What was acknowledged on the way has one end each, and the rows say what they stand for.
#[test]
fn spans_are_refused_while_memory_is_too_short_for_what_is_protected_and_nothing_acknowledged_is_lost() {
    const TRACES: u64 = 300;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, CRAMPED).unwrap();
    let policy = policy.display().to_string();
    let data = folder.path().join("data");
    let settings = [
        ("sampling.policy", policy.as_str()),
        ("storage.commit.interval", "300ms"),
    ];
    let server = Server::start("collector", &data, &settings);
    let ready = || {
        let admin = server.address("collector", "admin.collector");
        http(admin, "GET", "/readyz", &[], b"")
    };
    assert_eq!(ready().status, 200);

    let mut requests = 0;
    let refused = wait_for("a refusal", || {
        let body = failed(requests, TRACES);
        let reply = server.post("/v1/traces", &body);
        match reply.status {
            200 => requests += 1,
            503 => return Some(body),
            other => panic!("{other}: {}", String::from_utf8_lossy(&reply.body)),
        }
        None
    });
    assert!(requests * TRACES > 1000, "{requests} requests were taken");

    // Whoever comes again is told another wait each time, within half of what it is; a client of JSON reads it to the nanosecond.
    let mut waits = BTreeSet::new();
    for _ in 0..20 {
        let reply = http(
            server.http(),
            "POST",
            "/v1/traces",
            &[("content-type", "application/json")],
            br#"{"resourceSpans": []}"#,
        );
        let told = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(
            reply.status == 503 && told.contains("trace_memory"),
            "{}: {told}",
            reply.status
        );
        let wait = &reply.json()["details"][0]["retryDelay"];
        let wait: f64 = wait.as_str().unwrap().trim_end_matches('s').parse().unwrap();
        let seconds: f64 = reply.headers["retry-after"].parse().unwrap();
        assert!(
            (0.5..=1.5).contains(&wait) && seconds == wait.ceil(),
            "{wait} {seconds}"
        );
        waits.insert((wait * 1e9) as u64);
    }
    assert!(waits.len() > 10, "{waits:?}");
    let spread = (waits.last().unwrap() - waits.first().unwrap()) as f64 / 1e9;
    assert!(spread > 0.4, "{waits:?}");
    let method = "opentelemetry.proto.collector.trace.v1.TraceService/Export";
    assert_eq!(grpc(server.grpc(), method, None, &refused), ("14".to_owned(), true));
    assert_eq!(
        server
            .post("/v1/logs", &sample::logs("shop", vec![sample::record("a")]))
            .status,
        200
    );
    let told = ready();
    let text = String::from_utf8_lossy(&told.body).into_owned();
    assert!(
        told.status == 503 && text.contains("trace_memory"),
        "{}: {text}",
        told.status
    );
    assert_eq!(
        server.counted("tailwater_requests_refused_total", &["reason=\"trace_memory\""]),
        22.0
    );

    // What waits falls due, and who was refused comes again.
    wait_for("the refused request to be taken", || {
        match server.post("/v1/traces", &refused).status {
            200 => Some(()),
            503 => None,
            other => panic!("{other}"),
        }
    });
    requests += 1;
    wait_for("readiness", || (ready().status == 200).then_some(()));
    server.settle();
    assert!(server.stop().success());

    let data = data.display().to_string();
    run_ok(&["lake", "verify", "--data", &data]);
    let accounts = ask(
        &data,
        "select account, reason, sum(items) as items from ledger where signal = 'traces' group by account, reason",
    );
    let of = |account: &str, reason: Option<&str>| -> f64 {
        let own = |row: &&Value| row["account"] == account && reason.is_none_or(|reason| row["reason"] == reason);
        accounts.iter().filter(own).map(|row| number(row, "items")).sum()
    };
    let acked = (requests * TRACES) as f64;
    assert_eq!(of("received", None), acked, "{accounts:?}");
    assert_eq!(
        of("stored", None) + of("sampled_out", Some("admission")),
        acked,
        "{accounts:?}"
    );
    assert!(of("sampled_out", None) > 0.0, "{accounts:?}");
    let rows = &ask(
        &data,
        "select count(*) as n, count(distinct trace_id) as traces, sum(sample_weight) as total, \
         sum(sample_weight * (sample_weight - 1)) as variance from spans",
    )[0];
    assert_eq!(number(rows, "n"), of("stored", None));
    assert_eq!(number(rows, "traces"), number(rows, "n"), "stored once");
    let error = (number(rows, "total") - acked).abs();
    assert!(error <= 5.0 * number(rows, "variance").sqrt(), "{rows} for {acked}");
}

#[test]
fn what_waits_when_the_policy_is_taken_away_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(
        &policy,
        "trace: {root_settle: 1h, idle: 1h, timeout: 1h}\nstrata: [{name: rest, target: 1%}]\n",
    )
    .unwrap();
    let policy = policy.display().to_string();
    let data = folder.path().join("data");
    let server = Server::start("collector", &data, &[("sampling.policy", &policy)]);
    assert_eq!(server.post("/v1/traces", &failed(0, 50)).status, 200);
    wait_for("spans that wait", || {
        (server.counted("tailwater_items_in_flight", &["signal=\"traces\""]) == 50.0).then_some(())
    });
    assert!(server.stop().success());
    let server = Server::start("collector", &data, &[]);
    server.settle();
    assert_eq!(server.post("/v1/traces", &failed(1, 50)).status, 200);
    server.settle();
    assert!(server.stop().success());
    let data = data.display().to_string();
    run_ok(&["lake", "verify", "--data", &data]);
    let rows = ask(
        &data,
        "select sample_reason as reason, count(*) as n, sum(sample_weight) as total from spans group by sample_reason order by sample_reason",
    );
    let told: Vec<(&str, f64, f64)> = rows
        .iter()
        .map(|row| (row["reason"].as_str().unwrap(), number(row, "n"), number(row, "total")))
        .collect();
    assert_eq!(told, [("all", 50.0, 50.0), ("undecided", 50.0, 50.0)]);
}

#[test]
fn a_span_that_comes_again_beside_others_is_stored_once_and_told_in_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, "trace: {root_settle: 2s, idle: 2s, timeout: 2s}\n").unwrap();
    let policy = policy.display().to_string();
    let data = folder.path().join("data");
    let settings = [("sampling.policy", policy.as_str())];
    let server = Server::start("collector", &data, &settings);
    // Of one trace.
    let spans: Vec<Span> = (0..3).map(sample::span).collect();
    for part in [&spans[..2], &spans[1..]] {
        let body = sample::traces("shop", part.to_vec());
        assert_eq!(server.post("/v1/traces", &body).status, 200);
    }
    server.settle();
    assert!(server.stop().success());
    // Whoever comes next can read why.
    assert!(Server::start("collector", &data, &settings).stop().success());
    let data = data.display().to_string();
    run_ok(&["lake", "verify", "--data", &data]);
    let accounts = ask(
        &data,
        "select account, reason, sum(items) as items from ledger where signal = 'traces' group by account, reason order by account",
    );
    let told: Vec<(&str, &str, f64)> = accounts
        .iter()
        .map(|row| {
            let text = |column: &str| row[column].as_str().unwrap_or_default();
            (text("account"), text("reason"), number(row, "items"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("deduplicated", "span", 1.0),
            ("received", "", 4.0),
            ("stored", "", 3.0)
        ]
    );
    let rows = &ask(
        &data,
        "select count(*) as n, count(distinct span_id) as spans from spans",
    )[0];
    assert_eq!((number(rows, "n"), number(rows, "spans")), (3.0, 3.0));
    // RED counts what came.
    assert_eq!(number(&ask(&data, "select sum(n) as n from red")[0], "n"), 4.0);
}
