//! SIGKILL at random moments under load, of the collector and of who merges its files: every acknowledged span, log record and point is there, once,
//! `red` counts the spans, and the ledger agrees.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};

use crate::harness::{Server, asked, run_ok, try_http};
use crate::sample;

/// Rounds of a usual run; `TAILWATER_KILLS` asks for more.
const ROUNDS: u32 = 10;
const ITEMS_A_REQUEST: u64 = 50;

/// What request `number` is: mostly spans.
fn request(number: u64) -> (&'static str, Vec<u8>) {
    let items = number * ITEMS_A_REQUEST..(number + 1) * ITEMS_A_REQUEST;
    match number % 5 {
        3 => {
            let records = items.map(|item| sample::record(&item.to_string())).collect();
            ("/v1/logs", sample::logs("cart", records))
        }
        4 => ("/v1/metrics", sample::gauge("cart", items.map(|item| item as i64))),
        _ => ("/v1/traces", sample::traces("cart", items.map(sample::span).collect())),
    }
}

#[test]
fn every_acked_item_is_there_once_after_kills_under_load() {
    let (rounds, seed) = (asked("TAILWATER_KILLS", ROUNDS), asked("TAILWATER_SEED", 0x7a11));
    eprintln!("{rounds} rounds, seed {seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    // Small and hurried, so that kills meet every kind of step: segments roll, tables commit, checkpoints trim.
    let settings = [
        ("storage.commit.interval", "300ms"),
        ("storage.commit.bytes", "64KiB"),
        ("storage.checkpoint_interval", "200ms"),
        ("storage.batch.delay", "20ms"),
        ("intake.body", "256KiB"),
        ("intake.wire_body", "256KiB"),
        ("intake.caps.item", "64KiB"),
        ("storage.batch.bytes", "256KiB"),
        ("storage.intake_log.segment", "1MiB"),
        ("storage.outbox.segment", "2MiB"),
        ("storage.compact.interval", "100ms"),
        ("storage.compact.min_files", "2"),
    ];
    let mut server = Server::start("collector", data.path(), &settings);
    let address = server.http();
    let listen = [("intake.http.listen", address.to_string())];
    let settings: Vec<(&str, &str)> = settings
        .into_iter()
        .chain(listen.iter().map(|(key, value)| (*key, value.as_str())))
        .collect();

    let mut merging = Server::spawn("maintain", data.path(), &settings);
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(0));
    let acked = Arc::new(AtomicU64::new(0));
    let senders: Vec<_> = (0..3)
        .map(|_| {
            let (stop, next, acked) = (stop.clone(), next.clone(), acked.clone());
            std::thread::spawn(move || {
                let mut mine = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (path, body) = request(number);
                    // The same bytes again until somebody says yes: what was stored before a lost answer must not double.
                    loop {
                        let reply = try_http(
                            address,
                            "POST",
                            path,
                            &[("content-type", "application/x-protobuf")],
                            &body,
                        );
                        match reply.map(|reply| (reply.status, reply.body.len())) {
                            Some((200, 0)) => break,
                            Some((200, _)) => panic!("request {number} was not taken whole"),
                            Some((503 | 429, _)) | None => std::thread::sleep(Duration::from_millis(5)),
                            Some((status, _)) => panic!("request {number} was answered {status}"),
                        }
                    }
                    acked.fetch_add(1, Ordering::Relaxed);
                    mine.push(number);
                }
                mine
            })
        })
        .collect();
    for round in 0..rounds {
        let (before, more) = (acked.load(Ordering::Relaxed), random.random_range(1..60));
        crate::harness::wait_for("requests to be acknowledged", || {
            (acked.load(Ordering::Relaxed) >= before + more).then_some(())
        });
        // Anywhere in what the collector does from here on.
        std::thread::sleep(Duration::from_micros(random.random_range(0..50_000)));
        server.kill_alone();
        server = Server::spawn("collector", data.path(), &settings);
        if round % 2 == 1 {
            merging.kill_alone();
            merging = Server::spawn("maintain", data.path(), &settings);
        }
        // Every third time once more, in the middle of recovery.
        if round % 3 == 2 {
            std::thread::sleep(Duration::from_micros(random.random_range(0..200_000)));
            server.kill_alone();
            server = Server::spawn("collector", data.path(), &settings);
        }
    }
    let before = acked.load(Ordering::Relaxed);
    crate::harness::wait_for("life after the last kill", || {
        (acked.load(Ordering::Relaxed) > before + 5).then_some(())
    });
    stop.store(true, Ordering::Relaxed);
    let sent: HashSet<u64> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
    server.wait_ready(&["collector"]);
    assert!(server.stop().success());
    assert!(merging.stop().success());

    let data = data.path().display().to_string();
    let mut found = HashSet::new();
    for (column, table) in [
        ("attrs_str['e2e.number']", "spans"),
        ("body", "logs"),
        ("cast(value as bigint)", "metric_points"),
    ] {
        let csv = run_ok(&[
            "sql",
            "--data",
            &data,
            "--format",
            "csv",
            "--set",
            "query.rows=100000000",
            &format!("select {column}, count(*) from {table} group by 1"),
        ]);
        for line in csv.lines().skip(1) {
            let (item, count) = line.split_once(',').unwrap();
            assert_eq!(count, "1", "item {item} is in `{table}` more than once");
            assert!(
                found.insert(item.parse::<u64>().unwrap()),
                "item {item} is in two tables"
            );
        }
    }
    let wanted: HashSet<u64> = sent
        .iter()
        .flat_map(|request| request * ITEMS_A_REQUEST..(request + 1) * ITEMS_A_REQUEST)
        .collect();
    let missing: Vec<_> = wanted.difference(&found).take(5).collect();
    assert!(missing.is_empty(), "acked and gone: {missing:?}");
    let extra: Vec<_> = found.difference(&wanted).take(5).collect();
    assert!(extra.is_empty(), "never acked to anybody who kept asking: {extra:?}");
    run_ok(&["lake", "verify", "--data", &data]);
    // What was counted before anything was stored says the same of every key and slice.
    let asked = |sql: &str| run_ok(&["sql", "--data", &data, "--format", "csv", sql]);
    let (stored, counted) = (
        asked(
            "select service_name, name, kind, (cast(ts as bigint) * 1000 + ts_ns + duration_ns) / 10000000000 slice, count(*), sum(duration_ns) \
             from spans group by 1, 2, 3, 4 order by 1, 2, 3, 4",
        ),
        asked(
            "select service_name, operation, kind, cast(ts as bigint) / 10000000 slice, sum(n), sum(sum_ns) \
             from red group by 1, 2, 3, 4 order by 1, 2, 3, 4",
        ),
    );
    let rows = |csv: &str| csv.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert!(rows(&stored).len() >= 7, "{stored}");
    assert_eq!(rows(&stored), rows(&counted), "stored, and counted in `red`");
    eprintln!("{} requests, {} items, {rounds} kills", sent.len(), found.len());
}
