//! `tailwater slo`: what it says, in every form, and its exit codes, on a lake with an hour of requests.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use opentelemetry_proto::tonic::trace::v1::Status;
use serde_json::Value;
use tailwater_model::exphist::ExpHist;
use tailwater_model::red::{RedKey, RedRow, WEIGHT_ONE, red_batch};
use tailwater_model::table::{Table, schema};
use tailwater_storage::lake::Lake;

use crate::browser::{Scheme, chromium, look};
use crate::harness::{Server, http, run, run_ok, run_unread};
use crate::sample;

/// 2026-11-22T00:00:00Z.
const MIDNIGHT: u64 = 20_779 * 86_400;
const AT: &str = "2026-11-22T01:00:00Z";
const MS: u64 = 1_000_000;

/// Requests of `checkout` in the hour from midnight: for each tenant 1,000 a minute of 1 to 100 ms, of which 20 fail.
fn rows(tenants: &[&str]) -> RecordBatch {
    let row = |tenant: &str, minute: u64, is_error: bool, n: u64| {
        let mut sketch = ExpHist::new();
        let durations = || (0..n).map(|i| (i % 100 + 1) * MS);
        durations().for_each(|ns| sketch.record(ns as f64));
        RedRow {
            key: Arc::new(RedKey {
                tenant: tenant.into(),
                service_name: "checkout".into(),
                operation: "POST /pay".into(),
                kind: 2,
                is_entry: true,
                is_error,
                status_class: if is_error { "5xx" } else { "2xx" }.into(),
                ..RedKey::default()
            }),
            slice_ns: (MIDNIGHT + minute * 60) * 1_000_000_000,
            slice_s: 60,
            n,
            sum_ns: durations().sum(),
            max_ns: durations().max().unwrap_or(0),
            exphist: sketch.encode(),
            registers: vec![(50 * MS, durations().filter(|ns| *ns <= 50 * MS).count() as u64)],
            n_weighted: n * WEIGHT_ONE,
            exemplar: None,
        }
    };
    let minutes = tenants
        .iter()
        .flat_map(|tenant| (0..60).map(move |minute| (tenant, minute)));
    let rows: Vec<RedRow> = minutes
        .flat_map(|(tenant, minute)| [row(tenant, minute, false, 980), row(tenant, minute, true, 20)])
        .collect();
    let frame = red_batch(&rows);
    let table = schema(Table::Red);
    let mut fields: Vec<_> = frame.schema().fields().iter().cloned().collect();
    fields.push(table.field_with_name("batch_id").unwrap().clone().into());
    let mut columns = frame.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(1, frame.num_rows())));
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap()
}

fn lake(data: &Path) {
    lake_of(data, &["default"]);
}

fn lake_of(data: &Path, tenants: &[&str]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let lake = Lake::open(&data.join("lake")).unwrap();
        lake.ensure_tables().await.unwrap();
        let committer = lake.committer(Table::Red, "collector/test/red");
        Box::pin(committer.commit(0, 1, vec![rows(tenants)])).await.unwrap();
    });
}

/// Documents in a directory of their own, beside a data directory.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        Files {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn put(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// An SLO over requests of `service` with these demands.
    fn slo(&self, name: &str, service: &str, good: &str, target: &str) -> String {
        let text = format!(
            "apiVersion: openslo/v1
kind: SLO
metadata:
  name: {name}
spec:
  service: {service}
  indicator:
    metadata:
      name: {name}
    spec:
      ratioMetric:
        rawType: success
        raw:
          metricSource:
            type: tailwater
            spec:
              red:
                service: {service}
                good: {{{good}}}
  timeWindow:
    - duration: 1h
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - target: {target}
"
        );
        self.put(&format!("{name}.yaml"), &text)
    }
}

#[test]
fn check_says_it_in_its_exit_code() {
    let files = Files::new();
    let data = files.path("data");
    lake(Path::new(&data));
    let holds = files.slo("holds", "checkout", "errors: exclude", "0.95");
    let broken = files.slo("broken", "checkout", "errors: exclude", "0.99");
    let close = files.slo("close", "checkout", "errors: exclude", "0.98");
    let nobody = files.slo("nobody", "nobody", "errors: exclude", "0.95");
    let foreign = files.put(
        "foreign.yaml",
        &std::fs::read_to_string(&holds)
            .unwrap()
            .replace("holds", "foreign")
            .replace("type: tailwater", "type: Prometheus"),
    );
    let wrong = files.slo("wrong", "checkout", "errors: perhaps", "0.95");
    let text = std::fs::read_to_string(&holds).unwrap().replace("holds", "bad-sql");
    let (before, rest) = text.split_once("red:").unwrap();
    let after = &rest[rest.find("  timeWindow").unwrap()..];
    let bad_sql = files.put(
        "sql.yaml",
        &format!("{before}sql: select slice, value from nowhere\n{after}"),
    );
    let check = |documents: &[&str], code: i32, says: &str| {
        let mut args = vec!["slo", "check", "--data", &data, "--at", AT];
        args.extend(documents);
        let (got, out, err) = run(&args);
        assert_eq!(got, code, "{documents:?}\n{out}\n{err}");
        assert_eq!(run_unread(&args), code, "{documents:?}, when nobody reads it");
        assert!(format!("{out}{err}").contains(says), "'{says}' in\n{out}\n{err}");
    };
    check(&[&holds], 0, "met");
    check(&[&broken], 1, "missed");
    check(&[&holds, &broken, &nobody], 1, "missed");
    check(&[&close], 3, "undetermined");
    check(&[&nobody], 3, "no data");
    check(&[&holds, &foreign], 3, "Prometheus");
    check(&[&wrong], 2, "wrong.yaml:19:");
    check(&[&bad_sql], 2, "SLO `bad-sql`");
    check(&[&files.path("absent.yaml")], 2, "absent.yaml");
    check(&[&files.put("empty.yaml", "# nothing\n")], 2, "no SLO");
    check(&["--window", "0d", &holds], 2, "length");
    let (code, _, err) = run(&["slo", "check", "--data", &data, "--at", "noon", &holds]);
    assert!(code == 2 && err.contains("noon"), "{code} {err}");
    // Quiet is quiet, and --data is needed where nothing runs.
    let (code, out, _) = run(&["slo", "check", "-q", "--data", &data, "--at", AT, &broken]);
    assert_eq!((code, out.as_str()), (1, ""));
    let (code, _, err) = run(&["slo", "check", "--endpoint", "http://127.0.0.1:1", &holds]);
    assert_eq!(code, 69, "{err}");
}

#[test]
fn what_a_server_refuses_is_told_apart() {
    let files = Files::new();
    let slo = files.slo("holds", "checkout", "errors: exclude", "0.95");
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", server.local_addr().unwrap());
    let codes = [
        (400, 2),
        (401, 2),
        (403, 2),
        (413, 2),
        (422, 2),
        (429, 69),
        (500, 2),
        (503, 69),
        (504, 69),
    ];
    for (status, code) in codes {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = server.accept().unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                // To the end of the head, and the body that its length announces.
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                let head = String::from_utf8(request).unwrap().to_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
                stream.read_exact(&mut vec![0; length]).unwrap();
                let body = format!(r#"{{"error":"it is a {status}","kind":"x"}}"#);
                let reply = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(reply.as_bytes()).unwrap();
            });
            let (got, _, err) = run(&["slo", "check", "--endpoint", &endpoint, "--at", AT, &slo]);
            assert_eq!(got, code, "{status}: {err}");
            assert!(err.contains(&format!("it is a {status}")), "{err}");
        });
    }
}

#[test]
fn one_tenant_of_a_data_directory_is_reported() {
    let files = Files::new();
    let data = files.path("data");
    lake_of(Path::new(&data), &["bank", "shop"]);
    let slo = files.slo("holds", "checkout", "errors: exclude", "0.95");
    let total = |more: &[&str]| {
        let mut args = vec!["slo", "report", "--data", &data, "--at", AT, "--format", "json", &slo];
        args.extend(more);
        let json: Value = serde_json::from_str(&run_ok(&args)).unwrap();
        json["objectives"][0]["windows"][0]["counts"]["total"].as_u64()
    };
    assert_eq!(
        total(&[]),
        Some(120_000),
        "whoever can read the files counts all of them"
    );
    assert_eq!(total(&["--tenant", "shop"]), Some(60_000));
    assert_eq!(total(&["--tenant", "nobody"]), Some(0));
    // A server knows who asks.
    for more in [&["--endpoint", "http://127.0.0.1:1"][..], &[]] {
        let mut args = vec!["slo", "report", "--tenant", "shop", &slo];
        args.extend(more);
        let (code, _, err) = run(&args);
        assert!(code == 2 && err.contains("--tenant"), "{code} {err}");
    }
}

#[test]
fn interval_and_evidence_are_chosen() {
    let files = Files::new();
    let data = files.path("data");
    lake(Path::new(&data));
    // Exactly as many fail as may.
    let close = files.slo("close", "checkout", "errors: exclude", "0.98");
    let server = Server::start("query", Path::new(&data), &[]);
    let endpoint = format!("http://{}", server.address("query", "query.listen"));
    for place in [["--data", &data], ["--endpoint", &endpoint]] {
        for (more, code, says) in [
            (&["--interval", "wilson"][..], 3, "Wilson 95%"),
            (&["--interval", "clopper-pearson"], 3, "Clopper-Pearson 95%"),
            (&["--evidence", "counts"], 0, "met"),
        ] {
            let mut args = vec!["slo", "check", place[0], place[1], "--at", AT, &close];
            args.extend(more);
            let (got, out, err) = run(&args);
            assert_eq!(got, code, "{more:?}\n{out}\n{err}");
            assert!(out.contains(says), "'{says}' in\n{out}");
        }
    }
    assert!(server.stop().success());
}

#[test]
fn a_report_has_four_forms_and_always_the_same_bytes() {
    let files = Files::new();
    let data = files.path("data");
    lake(Path::new(&data));
    let latency = files.slo("fast", "checkout", "errors: exclude, maxDuration: 50ms", "0.45");
    let report = |more: &[&str]| {
        let mut args = vec!["slo", "report", "--data", &data, "--at", AT, &latency];
        args.extend(more);
        run_ok(&args)
    };
    let text = report(&[]);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(!text.contains('\u{1b}'), "no colour off a terminal: {text}");
    for part in ["fast", "checkout", "45%", "within 50ms", "2026-11-22T01:00:00Z"] {
        assert!(text.contains(part), "'{part}' in\n{text}");
    }
    let json: Value = serde_json::from_str(&report(&["--format", "json"])).unwrap();
    let objective = &json["objectives"][0];
    // Of 980 good requests a minute 500 took at most 50 ms, which a register says exactly.
    assert_eq!(objective["windows"][0]["counts"]["good"], 500 * 60);
    assert_eq!(objective["windows"][0]["counts"]["good_most"], 500 * 60);
    assert_eq!(objective["windows"][0]["counts"]["total"], 60_000);
    assert_eq!(
        (&json["summary"]["met"], &objective["verdict"]),
        (&1.into(), &"met".into())
    );
    assert!(report(&["--format", "md"]).contains("| "), "a Markdown table");
    let html = files.path("report.html");
    assert_eq!(report(&["--format", "html", "-o", &html]), "", "it goes to the file");
    let html = std::fs::read_to_string(html).unwrap();
    assert!(
        html.contains("<svg") && !html.contains("src=\"http"),
        "one file that needs no other"
    );
    for format in ["text", "json", "md", "html"] {
        assert_eq!(report(&["--format", format]), report(&["--format", format]), "{format}");
    }
    let json: Value = serde_json::from_str(&report(&["--format", "json", "--window", "15m,30m"])).unwrap();
    let windows: Vec<_> = json["objectives"][0]["windows"].as_array().unwrap().iter().collect();
    let totals: Vec<_> = windows.iter().map(|w| (&w["name"], &w["counts"]["total"])).collect();
    assert_eq!(
        totals,
        [(&"15m".into(), &15_000.into()), (&"30m".into(), &30_000.into())]
    );
}

/// The page as a person sees it. The pictures stay in the folder for temporary files of tests, for whoever wants to look.
#[test]
fn a_browser_shows_the_report_in_both_schemes() {
    let Some(chromium) = chromium() else { return };
    let files = Files::new();
    let data = files.path("data");
    lake(Path::new(&data));
    let documents = [
        files.slo("holds", "checkout", "errors: exclude", "0.95"),
        files.slo("broken", "checkout", "errors: exclude, maxDuration: 50ms", "0.99"),
        files.slo("close", "checkout", "errors: exclude", "0.98"),
        files.slo("nobody", "nobody", "errors: exclude", "0.95"),
    ];
    let page = files.path("report.html");
    let mut args = vec![
        "slo", "report", "--data", &data, "--at", AT, "--format", "html", "-o", &page,
    ];
    args.extend(documents.iter().map(String::as_str));
    run_ok(&args);
    let blank = files.put("blank.html", "<!doctype html><title>blank</title>");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // The ground of both schemes, `--bg` in the page's style.
    for (scheme, ground) in [(Scheme::Light, [0xf6, 0xf7, 0xf9]), (Scheme::Dark, [0x0e, 0x11, 0x16])] {
        for size in [(1200, 2400), (600, 2400)] {
            let into = folder.join(format!("slo-report-{scheme:?}-{}.png", size.0).to_lowercase());
            let picture = look(&chromium, Path::new(&page), scheme, size, &into);
            assert_eq!(
                ((picture.width, picture.height), picture.corner),
                (size, ground),
                "{scheme:?}"
            );
            assert!(picture.lines > 500, "{scheme:?} {picture:?}");
        }
        let empty = look(
            &chromium,
            Path::new(&blank),
            scheme,
            (600, 400),
            &folder.join("blank.png"),
        );
        assert!(empty.lines < 5, "{empty:?}");
    }
}

#[test]
fn a_server_reports_the_same() {
    let files = Files::new();
    let data = files.path("data");
    lake(Path::new(&data));
    let holds = files.slo("holds", "checkout", "errors: exclude", "0.95");
    let broken = files.slo("broken", "checkout", "errors: exclude", "0.99");
    let server = Server::start("query", Path::new(&data), &[]);
    let endpoint = format!("http://{}", server.address("query", "query.listen"));
    for format in ["text", "json", "md", "html"] {
        let asked = ["--at", AT, "--format", format, "--window", "30m,1h", &holds, &broken];
        let of = |place: [&str; 2]| {
            let mut args = vec!["slo", "report"];
            args.extend(place);
            args.extend(asked);
            run_ok(&args)
        };
        assert_eq!(of(["--endpoint", &endpoint]), of(["--data", &data]), "{format}");
    }
    for (file, code) in [(&holds, 0), (&broken, 1)] {
        let (got, out, err) = run(&["slo", "check", "--endpoint", &endpoint, "--at", AT, file]);
        assert_eq!(got, code, "{out}\n{err}");
    }
    let address = server.address("query", "query.listen");
    let reply = http(
        address,
        "POST",
        "/api/v1/slo/report",
        &[],
        b"apiVersion: openslo/v1\nkind: SLA\n",
    );
    let problems = reply.json();
    assert_eq!(
        (reply.status, &problems["kind"]),
        (400, &"bad_document".into()),
        "{problems}"
    );
    assert!(problems["error"].as_str().unwrap().contains("body:2:"), "{problems}");
    assert!(server.stop().success());
}

#[test]
fn what_was_just_received_is_reported() {
    let files = Files::new();
    let data = files.path("data");
    let slo = files.slo("fresh", "cart", "errors: exclude, maxDuration: 50ms", "0.4");
    let server = Server::start("run", Path::new(&data), &[("slo.files", &slo)]);
    // Ten minutes ago, so that the minute is over; one of four with an error, durations of 1 to 100 ms.
    let spans: Vec<_> = (0..400)
        .map(|number| {
            let mut span = sample::span(number);
            for time in [&mut span.start_time_unix_nano, &mut span.end_time_unix_nano] {
                *time -= 600_000_000_000;
            }
            if number % 4 == 3 {
                span.status = Some(Status {
                    code: 2,
                    ..Status::default()
                });
            }
            span
        })
        .collect();
    assert_eq!(server.post("/v1/traces", &sample::traces("cart", spans)).status, 200);
    server.settle();
    let endpoint = format!("http://{}", server.address("query", "query.listen"));
    for place in [["--endpoint", &endpoint], ["--data", &data]] {
        let json = run_ok(&["slo", "report", place[0], place[1], "--format", "json", &slo]);
        let json: Value = serde_json::from_str(&json).unwrap();
        let counts = &json["objectives"][0]["windows"][0]["counts"];
        // The collector knows the threshold, so it is exact: of 1 to 50 ms there are four times 50, less four times 4, 8, ... 48 ms.
        let exact = serde_json::json!({"good": 152, "good_most": 152, "bad": 248, "total": 400});
        assert_eq!(*counts, exact, "{json}");
    }
    assert!(server.stop().success());
}

#[test]
fn documents_are_validated_formatted_listed_and_begun() {
    let files = Files::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let templates = root.join("config/slo");
    let said = run_ok(&["slo", "validate", templates.to_str().unwrap()]);
    assert!(said.starts_with("4 files, 4 SLOs: valid"), "{said}");
    let list = run_ok(&["slo", "list"]);
    for name in ["success-rate", "latency-p99", "burn-rate", "telemetry-loss"] {
        assert!(list.contains(name), "{list}");
        let text = run_ok(&["slo", "template", name]);
        let file = files.put(&format!("{name}.yaml"), &text);
        run_ok(&["slo", "validate", "--strict", &file]);
        assert!(run_ok(&["slo", "list", &file]).contains("99"), "its target");
    }
    let (code, _, err) = run(&["slo", "template", "latency-p98"]);
    assert_eq!(code, 2);
    assert!(err.contains("did you mean latency-p99?"), "{err}");

    let two = files.put(
        "two.yaml",
        "apiVersion: openslo/v1\nkind: SLO\nmetadata: {name: A b}\nspec: {}\n---\napiVersion: openslo/v1\nkind: Sli\n",
    );
    let (code, out, err) = run(&["slo", "validate", &two]);
    assert_eq!((code, out.as_str()), (2, ""));
    for part in ["two.yaml:3:", "metadata.name", "two.yaml:7:", "SLI"] {
        assert!(err.contains(part), "'{part}' in {err}");
    }
    // A trap is a warning, unless one wants it to be more.
    let unstated = files.slo("unstated", "checkout", "maxDuration: 1s", "0.9");
    let (code, _, err) = run(&["slo", "validate", &unstated]);
    assert!(
        code == 0 && err.contains("warning: ") && err.contains("errors-unstated"),
        "{code} {err}"
    );
    assert_eq!(run(&["slo", "validate", "--strict", &unstated]).0, 2);
}

#[test]
fn formatting_is_checked_and_written() {
    let files = Files::new();
    let messy = "# why\nkind: Service\napiVersion: \"openslo/v1\"\nmetadata: {name: checkout}\nspec: {}\n";
    let file = files.put("service.yaml", messy);
    let (code, out, _) = run(&["slo", "fmt", "--check", &file]);
    assert_eq!((code, out), (1, format!("{file}\n")));
    let shown = run_ok(&["slo", "fmt", &file]);
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        messy,
        "showing changes nothing"
    );
    assert!(
        shown.contains("# why\n") && shown.contains("apiVersion: openslo/v1\nkind: Service\n"),
        "{shown}"
    );
    run_ok(&["slo", "fmt", "--write", &file]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), shown);
    assert_eq!(run_ok(&["slo", "fmt", "--check", &file]), "");
    let broken = files.put("broken.yaml", "kind: [\n");
    let (code, _, err) = run(&["slo", "fmt", "--write", &broken, &file]);
    assert_eq!(code, 2);
    assert!(err.contains("broken.yaml:"), "{err}");
    assert_eq!(std::fs::read_to_string(&broken).unwrap(), "kind: [\n");
}

#[test]
fn sloth_is_imported() {
    let files = Files::new();
    let sloth = files.put(
        "sloth.yml",
        "version: prometheus/v1
service: myservice
slos:
  - name: requests-availability
    objective: 99.9
    description: Few errors.
    sli:
      events:
        error_query: sum(rate(http_requests_total{code=~\"5..\"}[{{.window}}]))
        total_query: sum(rate(http_requests_total[{{.window}}]))
    alerting:
      name: HighErrorRate
      page_alert: {labels: {severity: page}}
      ticket_alert: {labels: {severity: ticket}}
",
    );
    let output = files.path("imported.yaml");
    assert_eq!(run_ok(&["slo", "import", "sloth", &sloth, "-o", &output]), "");
    let listed = run_ok(&["slo", "list", &output]);
    assert!(listed.contains("myservice") && listed.contains("99.9%"), "{listed}");
    assert_eq!(
        run_ok(&["slo", "fmt", "--check", &output]),
        "",
        "what is written is canonical"
    );
    let (code, _, err) = run(&[
        "slo",
        "import",
        "sloth",
        &files.put("no.yml", "version: prometheus/v2\n"),
    ]);
    assert_eq!(code, 2);
    assert!(err.contains("no.yml:1:"), "{err}");
    let level = "apiVersion: sloth.slok.dev/v1\nkind: PrometheusServiceLevel\nspec: {service: a, slos: []}\n";
    let (code, _, err) = run(&["slo", "import", "sloth", &files.put("level.yml", level)]);
    assert!(
        code == 2 && err.lines().count() == 1 && err.contains("of Kubernetes"),
        "{code} {err}"
    );
}

#[test]
fn folders_without_documents_are_no_success_and_those_in_them_are_named() {
    let files = Files::new();
    std::fs::create_dir_all(files.path("slo/more")).unwrap();
    std::fs::create_dir_all(files.path("slo/..data")).unwrap();
    let folder = files.path("slo");
    let (code, out, err) = run(&["slo", "validate", &folder]);
    assert!(
        code == 2 && out.is_empty() && err.contains("no document"),
        "{code} {out} {err}"
    );
    let slo = files.slo("holds", "checkout", "errors: exclude", "0.95");
    std::fs::rename(slo, files.path("slo/holds.yaml")).unwrap();
    let (code, _, err) = run(&["slo", "validate", &folder]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("slo/more: folders in a folder"), "{err}");
    assert!(!err.contains("..data"), "{err}");
}

#[test]
fn every_subcommand_has_an_example() {
    for command in ["validate", "fmt", "import", "list", "template", "report", "check"] {
        let help = run_ok(&["slo", command, "--help"]);
        assert!(
            help.contains(&format!("tailwater slo {command}")) && help.contains("Example"),
            "{help}"
        );
    }
}
