//! A full disk undoes nothing: requests are refused with a time to come back, what was acknowledged stays, and when space returns so
//! does ingest, without a restart.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::{Rng, SeedableRng};

use crate::harness::{PATIENCE, Server, http, run_ok, try_http, wait_for};
use crate::sample;

const SPANS_A_REQUEST: u64 = 10;
/// Attribute text per span: with ten of them a few hundred requests fill the disk.
const TEXT_BYTES: usize = 16_000;

/// An ext4 filesystem in a file, mounted until dropped.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// None, and loudly, where one may not mount or there is no `mkfs.ext4`.
    fn of_bytes(bytes: u64) -> Option<Disk> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let disk = Disk { folder };
        std::fs::create_dir(disk.path()).unwrap();
        let make = ["mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"]
            .iter()
            .find_map(|program| {
                let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
                Command::new(program).args(options).arg(&image).output().ok()
            });
        let mount = || {
            Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, &disk.path()])
                .output()
                .ok()
        };
        for (what, output) in [("mkfs.ext4", make), ("mount -o loop", mount())] {
            if !output.as_ref().is_some_and(|output| output.status.success()) {
                let said = output
                    .map(|output| String::from_utf8_lossy(&output.stderr).into_owned())
                    .unwrap_or_default();
                let _ = writeln!(
                    std::io::stderr(),
                    "SKIPPED: the test of a full disk needs root, loop devices and mkfs.ext4; {what} failed: {}",
                    said.trim()
                );
                return None;
            }
        }
        Some(disk)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Somebody else takes what is left, to the last block. Answers the path of the file that holds it.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::options().append(true).create(true).open(&path).unwrap();
        let mut size = 1 << 20;
        while size >= 1 << 10 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
        // What is only in memory so far has its blocks reserved: it would have failed above.
        let _ = file.sync_all();
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The children of a killed server need a moment to notice.
        let started = std::time::Instant::now();
        let unmounted = |options: &[&str]| {
            let umount = Command::new("umount").args(options).arg(self.path()).output();
            umount.is_ok_and(|output| {
                output.status.success() || String::from_utf8_lossy(&output.stderr).contains("not mounted")
            })
        };
        while !unmounted(&[]) {
            if started.elapsed() > PATIENCE / 4 {
                unmounted(&["-l"]);
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Small segments and frequent commits; the rest follows from what the settings say about each other.
const SETTINGS: [(&str, &str); 11] = [
    ("storage.disk_reserve", "4MiB"),
    ("storage.intake_log.segment", "1MiB"),
    ("storage.outbox.segment", "2MiB"),
    ("storage.batch.bytes", "256KiB"),
    ("storage.batch.delay", "20ms"),
    ("storage.commit.interval", "300ms"),
    ("storage.commit.bytes", "64KiB"),
    ("storage.checkpoint_interval", "200ms"),
    ("intake.body", "256KiB"),
    ("intake.wire_body", "256KiB"),
    ("intake.caps.item", "64KiB"),
];

/// A client that knows what was acknowledged.
struct Client {
    random: rand::rngs::SmallRng,
    next: u64,
    acked: Vec<u64>,
    refused: Vec<u64>,
}

impl Client {
    fn request(&mut self) -> (u64, Vec<u8>) {
        let number = self.next;
        self.next += 1;
        let random = &mut self.random;
        let mut span = |number| {
            let mut span = sample::span(number);
            let text: String = (0..TEXT_BYTES).map(|_| random.random_range('!'..='~')).collect();
            span.attributes.push(sample::text("filler", &text));
            span
        };
        let first = number * SPANS_A_REQUEST;
        (
            number,
            sample::traces("cart", (first..first + SPANS_A_REQUEST).map(&mut span).collect()),
        )
    }

    /// Sends a request, or the same one again: whether it was acknowledged.
    fn send(&mut self, server: &Server, number: u64, body: &[u8]) -> bool {
        let reply = server.post("/v1/traces", body);
        match reply.status {
            200 => {
                assert!(reply.body.is_empty(), "taken whole");
                self.refused.retain(|refused| *refused != number);
                self.acked.push(number);
                true
            }
            503 => {
                let wait = reply
                    .headers
                    .get("retry-after")
                    .unwrap_or_else(|| panic!("no Retry-After in {reply:?}"));
                assert!(
                    (1..=60).contains(&wait.parse::<u32>().expect("seconds")),
                    "Retry-After: {wait}"
                );
                let message = String::from_utf8_lossy(&reply.body);
                assert!(message.contains("disk"), "says what is full: {message}");
                if !self.refused.contains(&number) {
                    self.refused.push(number);
                }
                false
            }
            status => panic!("{status}: {}", String::from_utf8_lossy(&reply.body)),
        }
    }

    /// Sends new requests until one is refused; answers that one.
    fn send_until_refused(&mut self, server: &Server, requests: u64) -> (u64, Vec<u8>) {
        for _ in 0..requests {
            let (number, body) = self.request();
            if !self.send(server, number, &body) {
                return (number, body);
            }
        }
        panic!("{requests} requests fit on the disk");
    }

    fn spans_acked(&self) -> f64 {
        (self.acked.len() as u64 * SPANS_A_REQUEST) as f64
    }
}

/// State of the collector and of its conditions, as `/readyz` says.
fn readiness(server: &Server) -> (u16, BTreeMap<String, String>) {
    let reply = http(
        server.address("collector", "admin.collector"),
        "GET",
        "/readyz",
        &[],
        b"",
    );
    let json = reply.json();
    let conditions = json["conditions"].as_object().unwrap_or_else(|| panic!("{json}"));
    let state = |(name, condition): (&String, &serde_json::Value)| {
        (name.clone(), condition["state"].as_str().unwrap().to_owned())
    };
    (reply.status, conditions.iter().map(state).collect())
}

fn verify(data: &Path) {
    run_ok(&["lake", "verify", "--data", &data.display().to_string()]);
}

#[test]
fn a_full_disk_refuses_undoes_nothing_and_is_over_when_space_returns() {
    let Some(disk) = Disk::of_bytes(64 << 20) else { return };
    let data = disk.path().join("data");
    let reserved = disk.path().join("reserved");
    std::fs::write(&reserved, vec![1; 24 << 20]).unwrap();
    let mut server = Server::start("run", &data, &SETTINGS);
    let mut client = Client {
        random: rand::rngs::SmallRng::seed_from_u64(7),
        next: 0,
        acked: vec![],
        refused: vec![],
    };
    let pid = server.pid("collector");

    // Ingest alone fills it, down to the reserve.
    let (number, body) = client.send_until_refused(&server, 2000);
    assert!(client.acked.len() > 10, "it was not full from the start");
    assert!(server.counted("tailwater_requests_refused_total", &["\"disk\"", "\"traces\""]) >= 1.0);
    // Somebody else takes the reserve too. What the tables free on their way is taken as well, until they can do no more. The
    // outbox may have taken all there was before that; if not, it can do no more either, and says so, as the intake log does.
    wait_for("the tables to be stuck", || {
        disk.fill();
        let (status, conditions) = readiness(&server);
        let is_stuck = ["intake_log", "outbox"].map(|log| conditions[log] == "not_ready");
        assert_eq!(status == 503, is_stuck.contains(&true), "{conditions:?}");
        (conditions["tables"] == "degraded").then_some(())
    });
    let never_again = wait_for("a refusal", || {
        disk.fill();
        let (number, body) = client.request();
        (!client.send(&server, number, &body)).then_some(number)
    });
    let row = &server.sql("select count(*), count(distinct span_id) from spans")[0];
    assert_eq!(row[0], row[1], "nothing is there twice");
    assert!(crate::harness::number(&row[0]) <= client.spans_acked());

    // Space returns: the refused request is taken, and nobody was started again.
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    std::fs::remove_file(&reserved).unwrap();
    wait_for("ingest to resume", || client.send(&server, number, &body).then_some(()));
    wait_for("the collector to be ready", || {
        (readiness(&server).0 == 200).then_some(())
    });
    assert_eq!(server.pid("collector"), pid, "without a restart");
    for _ in 0..5 {
        let (number, body) = client.request();
        wait_for("a request to be taken", || {
            client.send(&server, number, &body).then_some(())
        });
    }
    wait_for("every acked span to be visible", || {
        (server.sql_number("select count(*) from spans") == client.spans_acked()).then_some(())
    });

    // Full once more, and a crash on top of it.
    wait_for("a refusal", || {
        disk.fill();
        let (number, body) = client.request();
        (!client.send(&server, number, &body)).then_some(())
    });
    let collector = server.http();
    server.kill();
    wait_for("the killed server's collector to be gone", || {
        try_http(collector, "GET", "/", &[], b"").is_none().then_some(())
    });
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    let server = Server::start("run", &data, &SETTINGS);
    let (number, body) = client.request();
    wait_for("ingest after the crash", || {
        client.send(&server, number, &body).then_some(())
    });
    assert!(server.stop().success());

    let query = "select attrs_str['e2e.number'], count(*) from spans group by 1";
    let data_text = data.display().to_string();
    let csv = run_ok(&[
        "sql",
        "--data",
        &data_text,
        "--format",
        "csv",
        "--set",
        "query.rows=1000000",
        query,
    ]);
    let found: BTreeMap<u64, String> = csv
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(','))
        .map(|(number, count)| (number.parse().unwrap(), count.to_owned()))
        .collect();
    let acked: BTreeMap<u64, String> = client
        .acked
        .iter()
        .flat_map(|request| request * SPANS_A_REQUEST..(request + 1) * SPANS_A_REQUEST)
        .map(|number| (number, "1".to_owned()))
        .collect();
    assert!(
        client.refused.contains(&never_again),
        "one refused request was never sent again"
    );
    assert!(
        found == acked,
        "every acked span once, and no refused one: {} and {} spans",
        found.len(),
        acked.len()
    );
    verify(&data);
}

/// Requests and batches small enough for an outbox of a few segments.
const SMALL_BATCHES: [(&str, &str); 4] = [
    ("intake.body", "1MiB"),
    ("intake.wire_body", "1MiB"),
    ("intake.caps.item", "256KiB"),
    ("storage.batch.bytes", "1MiB"),
];

/// Sends spans from `first` on, again until they are taken.
fn send_text(server: &Server, first: u64) {
    let text = "x".repeat(TEXT_BYTES);
    let span = |number| {
        let mut span = sample::span(number);
        span.attributes.push(sample::text("text", &format!("{number}{text}")));
        span
    };
    let body = sample::traces("cart", (first..first + SPANS_A_REQUEST).map(span).collect());
    let headers = [("content-type", "application/x-protobuf")];
    wait_for("a request to be taken", || {
        let reply = try_http(server.http(), "POST", "/v1/traces", &headers, &body)?;
        (reply.status == 200).then_some(())
    });
}

#[test]
fn an_outbox_that_is_full_takes_batches_again_once_tables_are_committed() {
    let data = tempfile::tempdir().unwrap();
    // Two segments are full long before the first commit, and the next checkpoint waits for a batch that has no room.
    let mut settings = Vec::from(SMALL_BATCHES);
    settings.extend([
        ("storage.outbox.segment", "4MiB"),
        ("storage.outbox.budget", "8MiB"),
        ("storage.commit.interval", "4s"),
        ("storage.commit.bytes", "8MiB"),
        ("storage.checkpoint_interval", "100ms"),
    ]);
    let server = Server::start("collector", data.path(), &settings);
    let send = |first| send_text(&server, first);
    let mut firsts = (0..2000).step_by(SPANS_A_REQUEST as usize);
    // More than a segment, in a checkpoint.
    firsts.by_ref().take(35).for_each(send);
    server.settle();
    let settled = std::time::SystemTime::now();
    // It waits for a batch behind it, which a few requests bring; many would fill the outbox before it has come.
    let mut looks = 0;
    wait_for("a checkpoint", || {
        if looks % 20 == 0 {
            send(firsts.next().expect("a checkpoint before all is sent"));
        }
        looks += 1;
        let written = std::fs::metadata(data.path().join("checkpoint"))
            .ok()?
            .modified()
            .ok()?;
        (written > settled).then_some(())
    });
    firsts.for_each(send);
    assert!(server.log().contains("the outbox is full"), "{}", server.log());
    server.settle();
    assert!(server.stop().success());
    run_ok(&["lake", "verify", "--data", &data.path().display().to_string()]);
}

#[test]
fn an_outbox_that_is_full_before_the_first_checkpoint_takes_batches_again() {
    let data = tempfile::tempdir().unwrap();
    // Every segment holds batches that no checkpoint has, and none comes by itself.
    let mut settings = Vec::from(SMALL_BATCHES);
    settings.extend([
        ("storage.outbox.segment", "4MiB"),
        ("storage.outbox.budget", "8MiB"),
        ("storage.commit.interval", "2s"),
        ("storage.commit.bytes", "8MiB"),
        ("storage.checkpoint_interval", "10m"),
    ]);
    let server = Server::start("collector", data.path(), &settings);
    let firsts = (0..1500).step_by(SPANS_A_REQUEST as usize);
    firsts.for_each(|first| send_text(&server, first));
    assert!(server.log().contains("the outbox is full"), "{}", server.log());
    server.settle();
    assert!(server.stop().success());
    run_ok(&["lake", "verify", "--data", &data.path().display().to_string()]);
}

#[test]
fn an_outbox_that_crashes_have_filled_is_emptied_by_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    let settings = |commit: &'static str, checkpoint: &'static str| {
        let mut settings = Vec::from(SMALL_BATCHES);
        settings.extend([
            ("storage.outbox.segment", "4MiB"),
            ("storage.outbox.budget", "32MiB"),
            ("storage.commit.bytes", "8MiB"),
            ("storage.batch.delay", "20ms"),
            ("storage.commit.interval", commit),
            ("storage.checkpoint_interval", checkpoint),
        ]);
        settings
    };
    // Each life takes a segment, and none lives to see its rows in a table.
    let is_full = (0..20).any(|number| {
        let server = Server::start("collector", data.path(), &settings("10m", "10m"));
        let body = sample::traces("cart", vec![sample::span(number)]);
        wait_for("a request to be taken", || {
            (server.post("/v1/traces", &body).status == 200).then_some(())
        });
        wait_for("the batch to be written, or to find no room", || {
            let is_full = readiness(&server).1["outbox"] == "not_ready";
            (is_full || server.counted("tailwater_outbox_records", &[]) > 0.0).then_some(is_full)
        })
    });
    assert!(is_full, "20 segments of 4 MiB in 32 MiB");

    let server = Server::start("collector", data.path(), &settings("300ms", "200ms"));
    server.settle();
    assert!(server.stop().success());
    run_ok(&["lake", "verify", "--data", &data.path().display().to_string()]);
}
