//! Tokens, tenants and TLS with the real binary: what each role of a token may do, what one tenant sees of another, and a server whose
//! tokens and certificate change while clients send.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data,
};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use tailwater_runtime::tls::{Connector, Speaks, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{self, Reply, Server, http, run, run_ok, signal, tailwater, wait_for};
use crate::sample;

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");

/// A file of tokens, made with the command.
struct Tokens {
    file: PathBuf,
    of: HashMap<String, String>,
}

impl Tokens {
    fn new(dir: &Path, all: &[(&str, &str, &str)]) -> Tokens {
        let file = dir.join("tokens");
        let mut of = HashMap::new();
        for (name, tenant, roles) in all {
            let path = file.to_str().unwrap();
            let args = [
                "token", "add", name, "--tenant", tenant, "--role", roles, "--file", path,
            ];
            of.insert((*name).to_owned(), run_ok(&args).trim().to_owned());
        }
        Tokens { file, of }
    }

    fn bearer(&self, name: &str) -> String {
        format!("Bearer {}", self.of[name])
    }
}

const ALL: &[(&str, &str, &str)] = &[
    ("shop-in", "shop", "ingest"),
    ("shop-out", "shop", "read"),
    ("bank-in", "bank", "ingest"),
    ("bank-out", "bank", "read"),
    ("operator", "default", "admin"),
];

fn points(series: std::ops::Range<u32>) -> Vec<u8> {
    let data_points = series
        .map(|series| NumberDataPoint {
            attributes: vec![sample::text("series", &series.to_string())],
            time_unix_nano: sample::now_ns(),
            ..NumberDataPoint::default()
        })
        .collect();
    let metrics = vec![Metric {
        name: "e2e.points".into(),
        data: Some(Data::Gauge(Gauge { data_points })),
        ..Metric::default()
    }];
    let scope_metrics = vec![ScopeMetrics {
        metrics,
        ..ScopeMetrics::default()
    }];
    let resource_metrics = vec![ResourceMetrics {
        scope_metrics,
        ..ResourceMetrics::default()
    }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

/// grpc-status of points sent, and whether there were details.
fn grpc(address: SocketAddr, token: Option<&str>, message: &[u8]) -> (String, bool) {
    harness::grpc(
        address,
        "opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        token,
        message,
    )
}

fn counted(server: &Server, tokens: &Tokens, name: &str, labels: &[&str]) -> f64 {
    let admin = server.address("collector", "admin.collector");
    let reply = http(
        admin,
        "GET",
        "/metrics",
        &[("authorization", &tokens.bearer("operator"))],
        b"",
    );
    assert_eq!(reply.status, 200);
    let text = String::from_utf8(reply.body).unwrap();
    text.lines()
        .filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[test]
fn each_token_does_what_it_is_for_and_sees_its_tenant_alone() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::new(dir.path(), ALL);
    let mut file = std::fs::OpenOptions::new().append(true).open(&tokens.file).unwrap();
    writeln!(file, "tenant bank points_per_sec=10 points_burst=10 series=3").unwrap();
    let data = dir.path().join("data");
    let path = tokens.file.display().to_string();
    let server = Server::start("run", &data, &[("access.tokens", &path), ("intake.dedup", "off")]);
    let intake = server.http();

    // Who may send: 401, 403, in the encoding of the request.
    let send = |token: Option<&str>, kind: (&'static str, &'static str), body: &[u8]| -> Reply {
        let mut headers = vec![kind];
        if let Some(token) = token {
            headers.push(("authorization", token));
        }
        http(intake, "POST", "/v1/metrics", &headers, body)
    };
    let wrong = "Bearer tw_0000000000000000000000000000000000000000000000000000000000000000";
    let (read, ingest) = (tokens.bearer("shop-out"), tokens.bearer("shop-in"));
    for (token, status, code) in [
        (None, 401, "16"),
        (Some(wrong), 401, "16"),
        (Some("Basic dHc6dHc="), 401, "16"),
        (Some(&*read), 403, "7"),
        (Some(&*ingest), 200, "0"),
    ] {
        let as_json = send(token, JSON, br#"{"resourceMetrics":[]}"#);
        assert_eq!(as_json.status, status, "{token:?}");
        let as_protobuf = send(token, PROTOBUF, &points(0..1));
        assert_eq!(as_protobuf.status, status, "{token:?}");
        assert_eq!(as_protobuf.headers["content-type"], "application/x-protobuf");
        let (got, details) = grpc(server.grpc(), token, &points(0..1));
        assert_eq!((&*got, details), (code, false), "{token:?}");
        if status != 200 {
            assert_eq!(
                as_json.json()["code"],
                code.parse::<i64>().unwrap(),
                "google.rpc.Status"
            );
            assert_eq!(as_json.headers.contains_key("www-authenticate"), status == 401);
            assert!(!as_json.headers.contains_key("retry-after"), "final");
        }
    }
    // Paths are not for strangers either.
    assert_eq!(http(intake, "GET", "/nothing", &[], b"").status, 401);
    for role in ["collector", "query", "maintain"] {
        let admin = server.address(role, &format!("admin.{role}"));
        let get = |path: &str, token: Option<&str>| {
            let bearer = token.map(|token| tokens.bearer(token));
            let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
            http(admin, "GET", path, &headers, b"").status
        };
        assert_eq!(
            (get("/metrics", None), get("/status", None), get("/healthz", None)),
            (401, 401, 200),
            "{role}"
        );
        assert_eq!(
            (get("/metrics", Some("shop-out")), get("/metrics", Some("operator"))),
            (403, 200),
            "{role}"
        );
    }
    assert!(
        counted(
            &server,
            &tokens,
            "tailwater_access_denied_total",
            &["\"http\"", "no_token"]
        ) >= 2.0
    );
    assert!(
        counted(
            &server,
            &tokens,
            "tailwater_requests_refused_total",
            &["grpc", "missing_role"]
        ) >= 1.0
    );

    // Limits of one tenant: the points of a second, then the number of series.
    let bank = tokens.bearer("bank-in");
    let reply = send(Some(&bank), JSON, br#"{"resourceMetrics":[]}"#);
    assert_eq!(reply.status, 200);
    let some = send(Some(&bank), PROTOBUF, &points(0..5));
    assert_eq!(some.status, 200);
    let said = String::from_utf8_lossy(&some.body).into_owned();
    assert!(said.contains("too_many_series 2"), "{said}");
    let refused = wait_for("the points of a second to be used up", || {
        let reply = send(Some(&bank), PROTOBUF, &points(0..3));
        (reply.status != 200).then_some(reply)
    });
    assert_eq!(
        (refused.status, refused.headers.contains_key("retry-after")),
        (429, true)
    );
    let refused = wait_for("gRPC to say so, too", || {
        Some(grpc(server.grpc(), Some(&bank), &points(0..3))).filter(|(code, _)| code != "0")
    });
    assert_eq!(refused, ("8".to_owned(), true), "RESOURCE_EXHAUSTED with RetryInfo");
    assert!(
        counted(
            &server,
            &tokens,
            "tailwater_requests_refused_total",
            &["over_quota_points"]
        ) >= 2.0
    );
    assert_eq!(
        send(Some(&ingest), PROTOBUF, &points(0..100)).status,
        200,
        "the other tenant has none of it"
    );

    // What a tenant sees.
    let settle = || {
        wait_for("items in flight to settle", || {
            (counted(&server, &tokens, "tailwater_items_in_flight", &[]) == 0.0).then_some(())
        });
    };
    for (token, service) in [("shop-in", "cart"), ("bank-in", "vault")] {
        let body = sample::traces(service, vec![sample::span(1)]);
        let reply = http(
            intake,
            "POST",
            "/v1/traces",
            &[PROTOBUF, ("authorization", &tokens.bearer(token))],
            &body,
        );
        assert_eq!(reply.status, 200);
    }
    settle();
    let query = format!("http://{}", server.address("query", "query.listen"));
    let ask = |token: &str, sql: &str| -> (i32, String) {
        let mut command = tailwater();
        command.args(["sql", "--format", "csv", "--endpoint", &query, sql]);
        let output = command.env("TAILWATER_TOKEN", &tokens.of[token]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        // RFC 4180 ends lines in CRLF.
        let text = String::from_utf8(text).unwrap().replace('\r', "");
        (output.status.code().unwrap(), text)
    };
    for (token, service) in [("shop-out", "cart"), ("bank-out", "vault")] {
        let (code, out) = ask(
            token,
            "select tenant, service_name, count(*) as n from spans group by 1, 2",
        );
        let tenant = token.split('-').next().unwrap();
        assert_eq!(
            (code, out.trim()),
            (0, &*format!("tenant,service_name,n\n{tenant},{service},1")),
            "{token}"
        );
    }
    let (code, out) = ask("shop-in", "select 1");
    assert!(code == 2 && out.contains("has not the role read"), "{code} {out}");
    let (code, out, _) = run(&[
        "status",
        "--data",
        data.to_str().unwrap(),
        "--token",
        &tokens.of["operator"],
        "--format",
        "json",
    ]);
    assert!(code == 0 && out.contains("\"bank\""), "{code} {out}");
    // Without the role it says what it cannot show.
    for token in [None, Some(&tokens.of["shop-out"])] {
        let mut args = vec!["status", "--data", data.to_str().unwrap(), "--format", "json"];
        token.iter().for_each(|token| args.extend(["--token", token]));
        let (code, out, _) = run(&args);
        let status: serde_json::Value = serde_json::from_str(&out).unwrap();
        let note = status["notes"][0].as_str().unwrap_or_default();
        assert!(
            code == 0 && note.contains("a token with the role admin"),
            "{code} {out}"
        );
    }

    // A revoked token ends with the next look at the file, here at once.
    run_ok(&["token", "revoke", "shop-out", "--file", &path]);
    signal(server.pid("run").unwrap(), Signal::HUP);
    wait_for("the revoked token to be refused", || {
        (ask("shop-out", "select 1").0 == 2).then_some(())
    });
    assert_eq!(ask("bank-out", "select 1 as n").0, 0);

    // Nothing of a token is anywhere.
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&tokens.file), 0o600);
    let print = run_ok(&["config", "print", "--set", &format!("access.tokens={path}")]);
    let help = tailwater()
        .args(["sql", "--help"])
        .env("TAILWATER_TOKEN", &tokens.of["operator"])
        .output()
        .unwrap();
    let lists = run_ok(&["token", "list", "--file", &path]);
    assert!(lists.contains("bank-in") && !lists.contains("shop-out"), "{lists}");
    let written = [server.log(), print, String::from_utf8(help.stdout).unwrap(), lists].concat();
    for (name, token) in &tokens.of {
        assert!(
            !written.contains(token.as_str()) && !written.contains(&token[3..40]),
            "{name}"
        );
    }
    assert!(server.stop().success());
}

#[test]
fn a_new_data_directory_is_for_this_user_alone() {
    let dir = tempfile::tempdir().unwrap();
    // Whichever role comes first.
    for (role, listeners) in [
        ("maintain", &["admin.maintain"][..]),
        ("query", &["query.listen", "admin.query"]),
    ] {
        let data = dir.path().join(role);
        let mut command = tailwater();
        command.arg(role).arg("--data").arg(&data).stderr(Stdio::null());
        for listener in listeners {
            command.args(["--set", &format!("{listener}=127.0.0.1:0")]);
        }
        let mut child = command.spawn().unwrap();
        wait_for("the directory", || data.is_dir().then_some(()));
        let mode = std::fs::metadata(&data).unwrap().permissions().mode() & 0o777;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(mode, 0o700, "{role}");
    }
}

#[test]
fn guards_that_cannot_be_used_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    std::fs::write(&file, "token x roles=read sha256=tw_canary0123456789\n").unwrap();
    let data = dir.path().join("data");
    for role in ["run", "collector", "query", "maintain"] {
        let set = format!("access.tokens={}", file.display());
        let (code, _, err) = run(&[role, "--data", data.to_str().unwrap(), "--set", &set]);
        assert!(
            code == 78 && err.contains("tokens:1:1") && !err.contains("canary"),
            "{role}: {code} {err}"
        );
    }
    let set = [
        "--set",
        "tls.cert=/nonexistent.pem",
        "--set",
        "tls.key=/nonexistent.key",
    ];
    let (code, _, err) = run(&[&["config", "check"], &set[..]].concat());
    assert!(code == 78 && err.contains("/nonexistent"), "{code} {err}");
}

/// An authority, and certificates of it.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority(Issuer::new(params, key), pem)
    }

    fn put(&self, cert: &Path, key: &Path, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let pair = KeyPair::generate().unwrap();
        let issued = CertificateParams::new(names)
            .unwrap()
            .signed_by(&pair, &self.0)
            .unwrap();
        std::fs::write(cert, issued.pem()).unwrap();
        std::fs::write(key, pair.serialize_pem()).unwrap();
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_certificate_is_exchanged_while_clients_send() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = |path: PathBuf| path.display().to_string();
    let (old, new) = (Authority::new(), Authority::new());
    old.put(&at("server.pem"), &at("server.key"), &["localhost", "127.0.0.1"]);
    std::fs::write(at("old.pem"), &old.1).unwrap();
    std::fs::write(at("new.pem"), &new.1).unwrap();
    std::fs::write(at("both.pem"), [old.1.as_str(), &new.1].concat()).unwrap();
    let tokens = Tokens::new(dir.path(), ALL);
    let data = dir.path().join("data");
    let (cert, key, path) = (
        text(at("server.pem")),
        text(at("server.key")),
        text(tokens.file.clone()),
    );
    let mut settings = vec![("access.tokens", &*path)];
    for section in ["intake.grpc", "intake.http", "query"] {
        settings.push((Box::leak(format!("{section}.tls.cert").into_boxed_str()), &cert));
        settings.push((Box::leak(format!("{section}.tls.key").into_boxed_str()), &key));
    }
    let server = Server::start("run", &data, &settings);
    let intake = server.http();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();

    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|client| {
            let trust = Trust {
                ca: Some(at("both.pem")),
                ..Trust::default()
            };
            let connector = Connector::tls(&trust, Speaks::Http1).unwrap();
            let (stop, sent, token) = (stop.clone(), sent.clone(), tokens.bearer("shop-in"));
            runtime.spawn(async move {
                let mut number = client * 1_000_000;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let body = sample::traces("cart", vec![sample::span(number)]);
                    let head = format!(
                        "POST /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-protobuf\r\n\
                         authorization: {token}\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    let mut stream = connector.connect(&intake.to_string()).await.unwrap();
                    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).await.unwrap();
                    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let progress = |more: usize| {
        let seen = sent.load(Ordering::Relaxed);
        wait_for("requests to go on", || {
            (sent.load(Ordering::Relaxed) >= seen + more).then_some(())
        });
    };
    progress(20);
    let load = |ca: &str, more: &[&str]| -> (i32, String) {
        let endpoint = format!("https://{}", server.grpc());
        let fixed = [
            "load",
            "--signals",
            "logs",
            "--rate",
            "50",
            "--duration",
            "100ms",
            "--retry-for",
            "1s",
            "--endpoint",
            &endpoint,
        ];
        let mut command = tailwater();
        command
            .args(fixed)
            .args(more)
            .env("TAILWATER_CA", at(ca))
            .env("TAILWATER_TOKEN", &tokens.of["shop-in"]);
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    assert_eq!(load("old.pem", &[]).0, 0);
    assert_ne!(load("new.pem", &[]).0, 0, "the authority is not known");
    new.put(&at("server.pem"), &at("server.key"), &["localhost", "127.0.0.1"]);
    signal(server.pid("run").unwrap(), Signal::HUP);
    wait_for("the new certificate", || (load("new.pem", &[]).0 == 0).then_some(()));
    progress(20);
    assert_ne!(load("old.pem", &[]).0, 0);
    assert_ne!(load("new.pem", &["--server-name", "other.test"]).0, 0, "another name");
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        runtime.block_on(client).expect("no request was lost");
    }
    wait_for("items in flight to settle", || {
        (counted(&server, &tokens, "tailwater_items_in_flight", &[]) == 0.0).then_some(())
    });
    // Asked over TLS by the command line, which finds the port in the data directory.
    let mut command = tailwater();
    let query = format!("https://localhost:{}", server.address("query", "query.listen").port());
    command.args([
        "sql",
        "--format",
        "csv",
        "--endpoint",
        &query,
        "select count(*) as n from spans",
        "--ca",
    ]);
    let output = command
        .arg(at("new.pem"))
        .env("TAILWATER_TOKEN", &tokens.of["shop-out"])
        .output()
        .unwrap();
    let stored = String::from_utf8(output.stdout).unwrap().replace('\r', "");
    assert_eq!(
        stored.trim(),
        format!("n\n{}", sent.load(Ordering::Relaxed)),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(server.stop().success());
}
