//! Processes: children that die alone, ports that are taken, settings that do not exist, directories in use.
use std::io::Write as _;

use std::net::TcpListener;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::harness::{Server, gone, http, run, signal, tailwater, wait_for};
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
