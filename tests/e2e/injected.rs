//! Is the SLO met? Real traffic (minutes of the Nezha data set) into which errors were put, so that the truth is known: counted here from the file, by code of
//! this test's own, and told by `slo report` and `slo check`. And a past written by `load --history`, whose incidents are known too.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde_json::Value;

use crate::harness::{Server, run, run_ok, test_data};
use crate::recordings::OLD;
use crate::sample;

const MS: u64 = 1_000_000;

/// One request in this many fails.
const FAILS: usize = 20;

/// Entry spans by service, some of them failed.
fn injected(file: &Path) -> HashMap<String, Vec<Span>> {
    let mut text = String::new();
    let packed = std::fs::File::open(file).unwrap();
    flate2::read::MultiGzDecoder::new(packed)
        .read_to_string(&mut text)
        .unwrap();
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let pods: HashMap<(&str, &str), &str> = rows.iter().map(|row| ((row[0], row[1]), row[3])).collect();
    let mut services: HashMap<String, Vec<Span>> = HashMap::new();
    for row in &rows {
        // A service is entered where the caller runs elsewhere.
        if pods.get(&(row[0], row[2])).is_some_and(|pod| *pod == row[3]) {
            continue;
        }
        // The pod's name without its two hashes.
        let service = row[3].rsplitn(3, '-').nth(2).unwrap().to_owned();
        let spans = services.entry(service).or_default();
        let failed = spans.len() % FAILS == FAILS - 1;
        spans.push(Span {
            trace_id: hex::decode(row[0]).unwrap(),
            span_id: hex::decode(row[1]).unwrap(),
            parent_span_id: hex::decode(row[2]).unwrap_or_default(),
            name: row[4].to_owned(),
            kind: 2,
            start_time_unix_nano: row[5].parse().unwrap(),
            end_time_unix_nano: row[6].parse().unwrap(),
            status: failed.then(|| Status {
                code: 2,
                ..Status::default()
            }),
            ..Span::default()
        });
    }
    services
}

fn slo(name: &str, service: &str, good: &str, target: &str) -> String {
    format!(
        "apiVersion: openslo/v1\nkind: SLO\nmetadata: {{name: {name}}}\nspec:\n  service: {service}\n  indicator:\n    metadata: {{name: {name}}}\n    \
         spec: {{ratioMetric: {{rawType: success, raw: {{metricSource: {{type: tailwater, spec: {{red: {{service: {service}, good: {{{good}}}}}}}}}}}}}}}\n  \
         timeWindow: [{{duration: 1h, isRolling: true}}]\n  budgetingMethod: Occurrences\n  objectives: [{{target: {target}}}]\n"
    )
}

#[test]
fn errors_put_into_the_nezha_minutes_are_reported() {
    let Some(folder) = test_data("nezha/trace") else { return };
    let services = injected(&folder.join("05_43_trace.csv.gz"));
    let (service, spans) = services.iter().max_by_key(|(_, spans)| spans.len()).unwrap();
    let ns = |span: &Span| span.end_time_unix_nano - span.start_time_unix_nano;
    let mut durations: Vec<u64> = spans.iter().map(ns).collect();
    durations.sort_unstable();
    // Whole milliseconds near the median: about half is too slow.
    let limit_ms = durations[durations.len() / 2] / MS + 1;
    // Reports end with the last whole minute.
    let last = spans.iter().map(|span| span.end_time_unix_nano).max().unwrap();
    let until = last / 60_000_000_000 * 60_000_000_000;
    let told = || spans.iter().filter(|span| span.end_time_unix_nano < until);
    let total = told().count() as u64;
    let failed = told().filter(|span| span.status.is_some()).count() as u64;
    let fast = told()
        .filter(|span| span.status.is_none() && ns(span) <= limit_ms * MS)
        .count() as u64;
    assert!(failed > 50 && total > 1000, "{service}: {failed} of {total}");
    assert!(fast > total / 10 && fast < total);
    let at = chrono::DateTime::from_timestamp((until / 1_000_000_000) as i64, 0).unwrap();
    let at = at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);

    let files = tempfile::tempdir().unwrap();
    let put = |name: &str, service: &str, good: &str, target: &str| {
        let path = files.path().join(format!("{name}.yaml"));
        std::fs::write(&path, slo(name, service, good, target)).unwrap();
        path.display().to_string()
    };
    let holds = put("holds", service, "errors: exclude", "0.9");
    let broken = put("broken", service, "errors: exclude", "0.99");
    let close = put("close", service, "errors: exclude", "0.95");
    let fast_enough = put(
        "fast",
        service,
        &format!("errors: exclude, maxDuration: {limit_ms}ms"),
        "0.05",
    );
    let nobody = put("nobody", "nobody", "errors: exclude", "0.9");
    let bad = put("bad", service, "errors: perhaps", "0.9");

    let data = files.path().join("data");
    let settings: Vec<_> = OLD.into_iter().chain([("slo.files", fast_enough.as_str())]).collect();
    let server = Server::start("run", &data, &settings);
    for (service, spans) in &services {
        for part in spans.chunks(2_000) {
            assert_eq!(
                server
                    .post("/v1/traces", &sample::traces(service, part.to_vec()))
                    .status,
                200
            );
        }
    }
    server.settle();
    let endpoint = format!("http://{}", server.address("query", "query.listen"));
    let report = |format: &str, files: &[&str]| {
        let mut args = vec![
            "slo",
            "report",
            "--endpoint",
            &endpoint,
            "--at",
            &at,
            "--format",
            format,
        ];
        args.extend(files);
        run_ok(&args)
    };
    let all = [holds.as_str(), &broken, &close, &fast_enough];
    let json: Value = serde_json::from_str(&report("json", &all)).unwrap();
    for (name, verdict, good) in [
        ("holds", "met", total - failed),
        ("broken", "missed", total - failed),
        ("close", "undetermined", total - failed),
        ("fast", "met", fast),
    ] {
        let objectives = json["objectives"].as_array().unwrap().iter();
        let objective = objectives.clone().find(|one| one["slo"] == name).unwrap();
        let counts = &objective["windows"][0]["counts"];
        let exact = serde_json::json!({"good": good, "good_most": good, "bad": total - good, "total": total});
        assert_eq!(
            (objective["verdict"].as_str(), counts),
            (Some(verdict), &exact),
            "{name}: {objective}"
        );
    }
    let text = report("text", &all);
    for part in [
        "holds",
        "broken",
        "close",
        "fast",
        service.as_str(),
        "missed",
        "undetermined",
        &at,
    ] {
        assert!(text.contains(part), "'{part}' in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let markdown = report("md", &all);
    assert!(markdown.contains("| ") && markdown.contains("missed"), "{markdown}");
    let html = report("html", &all);
    assert!(
        html.contains("<svg") && html.contains("missed") && !html.contains("src=\"http"),
        "{html}"
    );

    let check = |files: &[&str], code: i32| {
        let mut args = vec!["slo", "check", "--endpoint", &endpoint, "--at", &at];
        args.extend(files);
        let (got, out, err) = run(&args);
        assert_eq!(got, code, "{files:?}\n{out}\n{err}");
    };
    check(&[&holds], 0);
    check(&[&holds, &fast_enough], 0);
    check(&[&broken], 1);
    check(&[&holds, &broken, &close], 1);
    check(&[&close], 3);
    check(&[&nobody], 3);
    check(&[&bad], 2);
    assert!(server.stop().success());
}

#[test]
fn a_past_is_written_once_and_its_incidents_are_reported() {
    let files = tempfile::tempdir().unwrap();
    let data = files.path().join("past").display().to_string();
    let load = [
        "load",
        "--history",
        "10d",
        "--services",
        "4",
        "--operations",
        "8",
        "--density",
        "60%",
        "--rows",
        "2m",
        "--seed",
        "11",
        "--until",
        "2026-11-22T20:00:00Z",
        "--format",
        "json",
        "--data",
        &data,
    ];
    let told: Value = serde_json::from_str(&run_ok(&load)).unwrap();
    let incident = &told["incidents"][0];
    let (service, to_s) = (
        incident["service"].as_str().unwrap(),
        incident["to_s"].as_i64().unwrap(),
    );
    let at = |at_s: i64| {
        let at = chrono::DateTime::from_timestamp(at_s, 0).unwrap();
        at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    assert_eq!(incident["kind"], "latency", "the first of every past: {told}");
    let path = files.path().join("slow.yaml");
    // The medians of four services lie below 20 ms.
    std::fs::write(&path, slo("slow", service, "errors: include, maxDuration: 40ms", "0.9")).unwrap();
    let path = path.display().to_string();
    let minutes = (to_s - incident["from_s"].as_i64().unwrap()) / 60;
    let good = |at_s: i64| {
        let window = format!("{minutes}m");
        let (at, args) = (
            at(at_s),
            [
                "slo", "report", "--data", &data, "--format", "json", "--window", &window,
            ],
        );
        let json: Value = serde_json::from_str(&run_ok(&[&args[..], &["--at", &at, &path]].concat())).unwrap();
        let counts = &json["objectives"][0]["windows"][0]["counts"];
        let number = |name: &str| counts[name].as_f64().unwrap();
        assert!(number("total") > 30.0, "{json}");
        number("good") / number("total")
    };
    let (during, after) = (good(to_s), good(to_s + 6 * 3600));
    assert!(
        during < after - 0.1,
        "{during} of requests are fast in the incident, {after} after it: {incident}"
    );

    run_ok(&["lake", "verify", "--data", &data]);
    let (code, _, err) = run(&load);
    assert!(code == 2 && err.contains("already holds"), "{code} {err}");
    // What comes later is added to it.
    let server = Server::start("run", Path::new(&data), &[]);
    let (code, _, err) = run(&load);
    assert!(code == 2 && err.contains("in use"), "{code} {err}");
    assert_eq!(
        server
            .post("/v1/traces", &sample::traces("cart", vec![sample::span(1)]))
            .status,
        200
    );
    server.settle();
    assert!(server.sql_number("select sum(n) from red where service_name = 'cart'") == 1.0);
    assert!(server.stop().success());
    run_ok(&["lake", "verify", "--data", &data]);
}
