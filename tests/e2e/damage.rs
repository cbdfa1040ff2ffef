//! Media damage costs what it hit, and says how much that was.

use std::path::{Path, PathBuf};

use crate::harness::{Server, run_ok, wait_for};
use crate::sample;

/// Batches leave as late as they may, so that what was posted is in the intake log alone.
const LATE_BATCHES: [(&str, &str); 1] = [("storage.batch.delay", "10s")];

/// Turns a bit of every place in the intake log where `text` stands. Answers in how many.
fn damage(data: &Path, text: &str) -> usize {
    let mut places = 0;
    for entry in std::fs::read_dir(data.join("intake")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let found = places_of(text.as_bytes(), &bytes);
        found.iter().for_each(|at| bytes[*at] ^= 1);
        if !found.is_empty() {
            std::fs::write(&path, bytes).unwrap();
        }
        places += found.len();
    }
    places
}

fn places_of(text: &[u8], bytes: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(text.len()).enumerate();
    windows
        .filter(|(_, window)| *window == text)
        .map(|(at, _)| at)
        .collect()
}

#[test]
fn a_damaged_record_of_the_intake_log_is_counted_as_lost() {
    let items = [3, 5, 7];
    let services = ["undamaged-one", "under-a-cosmic-ray", "undamaged-two"];
    // The batch may leave before the kill where the machine is that slow; then there is nothing to damage.
    let data = (0..10).find_map(|_| {
        let data = tempfile::tempdir().unwrap();
        let mut server = Server::start("collector", data.path(), &LATE_BATCHES);
        for (service, items) in services.iter().zip(items) {
            let spans = (0..items).map(sample::span).collect();
            assert_eq!(server.post("/v1/traces", &sample::traces(service, spans)).status, 200);
        }
        let is_early = server.counted("tailwater_outbox_records", &[]) == 0.0;
        server.kill();
        is_early.then_some(data)
    });
    let data = data.expect("three requests in ten seconds");
    assert_eq!(damage(data.path(), services[1]), 1);

    let server = Server::start("collector", data.path(), &[]);
    server.settle();
    let lost = ["account=\"lost\"", "reason=\"damaged\""];
    assert_eq!(
        server.counted("tailwater_items_total", &lost),
        items[1] as f64,
        "{}",
        server.log()
    );
    assert!(server.stop().success());

    let dir = data.path().display().to_string();
    run_ok(&["lake", "verify", "--data", &dir]);
    let ask = |query: &str| run_ok(&["sql", "--data", &dir, query, "--format", "csv"]);
    let accounts =
        ask("select account, reason, sum(items) from ledger where signal = 'traces' group by 1, 2 order by 1, 2");
    let rows: Vec<&str> = accounts.lines().skip(1).collect();
    assert_eq!(rows, ["lost,damaged,5", "received,,15", "stored,,10"], "{accounts}");
    let stored = ask("select service_name, count(*) from spans group by 1 order by 1");
    let rows: Vec<&str> = stored.lines().skip(1).collect();
    assert_eq!(rows, ["undamaged-one,3", "undamaged-two,7"], "{stored}");
}

/// Batches that are in no table, and that nobody can read: the collector does not guess, and says how to go on without them.
#[test]
fn an_outbox_that_cannot_be_told_any_more_can_be_left_behind() {
    let waits = [
        ("storage.commit.interval", "1h"),
        ("storage.checkpoint_interval", "10m"),
    ];
    let data = tempfile::tempdir().unwrap();
    let spans = |from: u64| sample::traces("cart", (from..from + 10).map(sample::span).collect());
    let server = Server::start("collector", data.path(), &[]);
    assert_eq!(server.post("/v1/traces", &spans(0)).status, 200);
    server.settle();
    // In the lake, and in the checkpoint.
    assert!(server.stop().success());
    let mut server = Server::start("collector", data.path(), &waits);
    assert_eq!(server.post("/v1/traces", &spans(10)).status, 200);
    server.settle();
    server.kill();
    for entry in std::fs::read_dir(data.path().join("outbox")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.iter_mut().skip(8192).step_by(16).for_each(|byte| *byte ^= 1);
            std::fs::write(&path, bytes).unwrap();
        }
    }

    let mut server = Server::spawn("collector", data.path(), &[]);
    let status = wait_for("the collector to refuse", || server.ended());
    assert_eq!(status.code(), Some(2), "{}", server.log());
    let said = server.log();
    let (_, remedy) = said.split_once("move ").expect(&said);
    let (names, _) = remedy.split_once(" out of").expect(&said);
    let names: Vec<&str> = names
        .split(|c: char| c != '_' && !c.is_alphanumeric())
        .filter(|name| !name.is_empty())
        .collect();
    let aside = tempfile::tempdir_in(data.path().parent().unwrap()).unwrap();
    for name in names.iter().filter(|name| **name != "and") {
        std::fs::rename(data.path().join(name), aside.path().join(name)).unwrap();
    }

    let server = Server::start("collector", data.path(), &[]);
    assert_eq!(server.post("/v1/traces", &spans(20)).status, 200);
    server.settle();
    assert!(server.stop().success());
    let dir = data.path().display().to_string();
    let csv = run_ok(&[
        "sql",
        "--data",
        &dir,
        "--format",
        "csv",
        "select count(*), count(distinct span_id) from spans",
    ]);
    assert_eq!(csv.lines().nth(1), Some("20,20"), "{csv}");
    run_ok(&["lake", "verify", "--data", &dir]);
}
