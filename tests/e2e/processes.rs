//! Processes: children that die alone, ports that are taken, settings that do not exist, directories in use.
use std::io::Write as _;

use std::net::TcpListener;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::harness::{Server, gone, http, run, run_unread, signal, tailwater, wait_for};
use crate::sample;

#[test]
fn the_collector_raises_its_limit_of_open_files() {
    let data = tempfile::tempdir().unwrap();
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.expect("Linux has a limit");
    // What is started next inherits it.
    let lower = Rlimit {
        current: Some(hard - 1),
        ..limit
    };
    setrlimit(Resource::Nofile, lower).unwrap();
    let server = Server::start("collector", data.path(), &[("intake.connections.total", "1000000")]);
    assert_eq!(server.counted("process_max_fds", &[]), hard as f64);
    assert!(
        server.log().contains("the hard limit of open files is too low"),
        "{}",
        server.log()
    );
    assert!(server.stop().success());
}

#[test]
fn killing_the_query_child_leaves_ingest_untouched_and_it_comes_back() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start("run", data.path(), &[]);
    let query = server.pid("query").expect("the query role runs");
    let collector = server.pid("collector");
    signal(query, Signal::KILL);
    for number in 0..20u64 {
        assert_eq!(
            server
                .post("/v1/traces", &sample::traces("cart", vec![sample::span(number)]))
                .status,
            200
        );
    }
    wait_for("the query role to come back", || {
        server.pid("query").filter(|pid| *pid != query)
    });
    server.wait_ready(&["query"]);
    server.settle();
    assert_eq!(server.sql_number("select count(*) from spans"), 20.0);
    assert_eq!(server.pid("collector"), collector, "the collector never noticed");
    assert!(server.stop().success());
}

#[test]
fn a_killed_collector_comes_back_on_the_same_ports_and_children_go_with_their_supervisor() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start("run", data.path(), &[]);
    let (collector, address) = (server.pid("collector").unwrap(), server.http());
    assert_eq!(
        server
            .post("/v1/traces", &sample::traces("cart", vec![sample::span(1)]))
            .status,
        200
    );
    signal(collector, Signal::KILL);
    // The listener is the supervisor's: a request queues instead of being refused.
    let reply = http(
        address,
        "POST",
        "/v1/traces",
        &[("content-type", "application/x-protobuf")],
        &sample::traces("cart", vec![sample::span(2)]),
    );
    assert_eq!(reply.status, 200);
    wait_for("both spans", || {
        (server.try_sql("select count(*) from spans").ok()?[0][0].as_i64()? == 2).then_some(())
    });
    let children: Vec<i32> = ["collector", "query", "maintain"]
        .iter()
        .filter_map(|role| server.pid(role))
        .collect();
    assert_eq!(children.len(), 3);
    server.kill_alone();
    for pid in children {
        wait_for("the children to end with their supervisor", || gone(pid).then_some(()));
    }
}

#[test]
fn a_taken_port_is_an_error_that_names_port_and_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let data = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let set = format!("intake.grpc.listen={address}");
    let (code, _, err) = run(&["run", "--data", data.path().to_str().unwrap(), "--set", &set]);
    assert_ne!(code, 0);
    assert!(err.contains("intake.grpc.listen") && err.contains(&address), "{err}");
}

#[test]
fn under_run_what_follows_the_memory_follows_half_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.yaml");
    std::fs::write(
        &policy,
        "trace: {buffer_bytes: 1000TiB}\nstrata: [{name: rest, target: all}]\n",
    )
    .unwrap();
    let most = |role: &str| -> u64 {
        let data = directory.path().join(role);
        let server = Server::start(role, &data, &[("sampling.policy", policy.to_str().unwrap())]);
        let log = server.log();
        let told = log.lines().find(|line| line.contains("trace.buffer_bytes"));
        let told = told.unwrap_or_else(|| panic!("nothing lowers a policy that asks for all memory:\n{log}"));
        let (_, most) = told.split_once(" most=").expect("a warning with what there is");
        most.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(most("collector") / 2, most("run"));
}

#[test]
fn settings_that_do_not_exist_or_contradict_each_other_end_with_78_before_anything_is_bound() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tailwater.yaml");
    let check = |text: &str, wanted: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let (code, _, err) = run(&["run", "--config", file.to_str().unwrap()]);
        assert_eq!(code, 78, "{text}: {err}");
        for part in wanted {
            assert!(err.contains(part), "'{part}' in {err}");
        }
    };
    check(
        "intake:\n  htp:\n    listen: 127.0.0.1:1\n",
        &["tailwater.yaml:2", "htp", "http"],
    );
    check("intake:\n  wire_body: 80MiB\n  body: 1MiB\n", &["wire_body", "body"]);
    check("intake:\n  grpc:\n    listen: 0.0.0.0:4317\n", &["allow_insecure"]);
    check(
        "storage:\n  commit:\n    interval: soon\n",
        &["tailwater.yaml:3", "interval"],
    );
    let output = tailwater()
        .arg("run")
        .env("TAILWATER_INTAKE_HTTP_LISTN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("TAILWATER_INTAKE_HTTP_LISTEN"),
        "the nearest name is said"
    );
}

#[test]
fn listeners_that_are_open_to_other_machines_are_told() {
    for (listen, insecure) in [("127.0.0.1:0", 0.0), ("0.0.0.0:0", 1.0)] {
        let data = tempfile::tempdir().unwrap();
        let settings = [("allow_insecure", "true"), ("intake.grpc.listen", listen)];
        let server = Server::start("collector", data.path(), &settings);
        assert_eq!(
            server.metrics().get("tailwater_insecure_listeners"),
            Some(&insecure),
            "{listen}"
        );
        let log = server.log();
        let told: Vec<&str> = log.lines().filter(|line| line.contains("allow_insecure")).collect();
        assert_eq!(told.len() as f64, insecure, "{log}");
        assert!(told.iter().all(|line| line.contains("intake.grpc.listen")), "{log}");
        assert!(server.stop().success());
    }
}

#[test]
fn a_second_collector_on_a_directory_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let _first = Server::start("collector", data.path(), &[]);
    let mut second = Server::spawn("collector", data.path(), &[]);
    let status = wait_for("the second collector to end", || second.ended());
    assert!(!status.success());
    assert!(second.log().contains("in use"), "{}", second.log());
}

#[test]
fn a_directory_that_forgets_is_refused_unless_the_settings_accept_it() {
    let Ok(data) = tempfile::tempdir_in("/dev/shm") else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no /dev/shm here");
        return;
    };
    if tailwater_wal::volatile(data.path()).unwrap().is_none() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: /dev/shm is no tmpfs here");
        return;
    }
    let mut refused = Server::spawn("collector", data.path(), &[]);
    let status = wait_for("the collector to end", || refused.ended());
    assert_eq!(status.code(), Some(78));
    let log = refused.log();
    assert!(log.contains("tmpfs") && log.contains("storage.allow_volatile"), "{log}");
    // Logs on a disk do not help rows that have left them.
    let logs = tempfile::tempdir().unwrap();
    let logs = logs.path().display().to_string();
    let mut refused = Server::spawn("collector", data.path(), &[("storage.wal_dir", &logs)]);
    assert_eq!(wait_for("the collector to end", || refused.ended()).code(), Some(78));
    let accepted = Server::start("collector", data.path(), &[("storage.allow_volatile", "true")]);
    assert!(accepted.stop().success());
}

#[test]
fn status_without_a_directory_asks_at_the_configured_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("my-data");
    let elsewhere = folder.path().join("tailwater-data");
    let server = Server::start("run", &data, &[]);
    let admins: Vec<String> = ["collector", "query", "maintain"]
        .iter()
        .map(|role| format!("admin.{role}={}", server.address(role, &format!("admin.{role}"))))
        .collect();
    let status = |admins: &[String], named: bool| {
        let mut command = tailwater();
        command.args(["status", "--over", "0s"]);
        command.args(admins.iter().flat_map(|admin| ["--set", admin]));
        match named {
            true => command.arg("--data").arg(&elsewhere),
            false => command.env("TAILWATER_DATA", &elsewhere),
        };
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = status(&admins, false);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.matches(" ready ").count(), 3, "{text}");
    assert!(text.contains("tailwater-data holds no lake"), "{text}");
    // A directory that was named is what is asked about.
    let (code, text) = status(&admins, true);
    assert!(code == Some(1) && text.matches("not running").count() == 3, "{text}");
    assert!(server.stop().success());
    let (code, text) = status(&admins, false);
    assert!(code == Some(1) && text.matches("not running").count() == 3, "{text}");
    assert!(
        text.contains("no role answers: name the data directory with --data"),
        "{text}"
    );
    let nowhere = elsewhere.to_str().unwrap();
    assert_eq!(run_unread(&["status", "--data", nowhere, "--over", "0s"]), 1);
}

#[test]
fn each_port_says_what_the_other_one_is_for() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start("collector", data.path(), &[]);
    for kind in ["application/x-protobuf", "application/grpc"] {
        let reply = http(server.grpc(), "POST", "/v1/traces", &[("content-type", kind)], b"");
        let text = String::from_utf8(reply.body).unwrap();
        assert!(reply.status == 415 && text.contains("4318"), "{} {text}", reply.status);
    }
    let (grpc, http) = (server.grpc(), server.http());
    for (protocol, address, hint) in [("grpc", http, "--protocol http"), ("http", grpc, "OTLP/gRPC port")] {
        let endpoint = format!("http://{address}");
        let (code, out, err) = run(&[
            "load",
            "--endpoint",
            &endpoint,
            "--protocol",
            protocol,
            "--signals",
            "logs",
            "--rate",
            "100",
            "--duration",
            "100ms",
        ]);
        assert!(code == 1 && out.contains(hint), "{protocol}: {code} {out} {err}");
    }
    assert!(server.stop().success());
}

#[test]
fn load_without_a_server_ends_at_once() {
    let (code, out, err) = run(&["load", "--endpoint", "http://127.0.0.1:1"]);
    assert!(code == 69 && out.is_empty(), "{code} {out}");
    assert!(
        err.contains("127.0.0.1:1") && err.contains("Is `tailwater run` running?"),
        "{err}"
    );
}

#[test]
fn every_file_that_cannot_be_used_is_named_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("data"), "").unwrap();
    std::fs::write(path("ca.pem"), "").unwrap();
    let settings = [
        ("access.tokens", path("tokens"), path("tokens")),
        ("tls.cert", path("server.pem"), path("server.pem")),
        ("tls.key", path("server.key"), path("server.key")),
        ("tls.client_ca", path("ca.pem"), "holds no certificate".to_owned()),
        ("data", path("data"), "not a directory".to_owned()),
    ];
    for command in [&["config", "check"][..], &["run"], &["collector"]] {
        let mut args = command.to_vec();
        let pairs: Vec<String> = settings.iter().map(|(key, path, _)| format!("{key}={path}")).collect();
        pairs.iter().for_each(|pair| args.extend(["--set", pair]));
        let (code, _, err) = run(&args);
        assert_eq!(code, 78, "{command:?}: {err}");
        for (key, _, says) in &settings {
            let line = err.lines().find(|line| line.contains(&format!("{key}: ")));
            assert!(
                line.is_some_and(|line| line.contains(says)),
                "{key} in {command:?}: {err}"
            );
        }
    }
}
