//! Ingest end to end: a collector pinned to one core, the load generator on the other.
//!
//! ```text
//! cargo bench --bench ingest                 all measurements, about 6 minutes
//! cargo bench --bench ingest -- 20           seconds per measurement
//! cargo test                                 runs each for a moment, to see that it works
//! ```
//!
//! Ratios stand beside a baseline of the same run: `fsync` beside `write`, ack P99 beside a bare append+fdatasync of the same
//! sizes. A run is void, and says so, when a request was taken for a repeat or when the ledger does not add up.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_tailwater");
const SERVER_CORE: &str = "0";
const CLIENT_CORE: &str = "1";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let measuring = args.iter().any(|arg| arg == "--bench");
    let seconds: u64 = match measuring {
        true => args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(60),
        false => 1,
    };
    println!("machine: {}", machine());
    println!("server on core {SERVER_CORE}, generator on core {CLIENT_CORE}, {seconds} s each\n");
    let rate = |full: &'static str, small: &'static str| if measuring { full } else { small };

    let fsync = measure(
        "traces, ack after fsync",
        "fsync",
        "traces",
        rate("max", "2000"),
        seconds,
        true,
    );
    let write = measure(
        "traces, ack after write",
        "write",
        "traces",
        rate("max", "2000"),
        seconds.min(20),
        true,
    );
    println!(
        "    fsync / write: {:.2} of its items/s\n",
        fsync.items_per_second / write.items_per_second
    );
    measure("logs", "fsync", "logs", rate("max", "2000"), seconds.min(20), true);
    measure(
        "metrics",
        "fsync",
        "metrics",
        rate("max", "2000"),
        seconds.min(20),
        true,
    );

    let paced = measure(
        "traces, open loop at 100k/s",
        "fsync",
        "traces",
        rate("100000", "1000"),
        seconds.min(20),
        false,
    );
    let bare = bare_append_p99(225 * 1024, if measuring { 2000 } else { 20 });
    println!(
        "    ack P99 {:.2} ms; bare append+fdatasync of 225 KiB: P99 {:.2} ms; ratio {:.1}",
        paced.ack_p99_ms,
        bare,
        paced.ack_p99_ms / bare
    );
}

struct Measured {
    items_per_second: f64,
    ack_p99_ms: f64,
}

fn measure(what: &str, ack: &str, signal: &str, rate: &str, seconds: u64, closed: bool) -> Measured {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), ack);
    let endpoint = format!("http://{}", server.address("intake.http.listen"));
    let duration = format!("{seconds}s");
    let in_flight = if closed { "16" } else { "64" };
    let load = pinned(CLIENT_CORE)
        .args([
            "load",
            "--protocol",
            "http",
            "--signals",
            signal,
            "--rate",
            rate,
            "--duration",
            &duration,
        ])
        .args([
            "--in-flight",
            in_flight,
            "--connections",
            "16",
            "--format",
            "json",
            "--endpoint",
            &endpoint,
        ])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&load.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}",
            String::from_utf8_lossy(&load.stdout),
            String::from_utf8_lossy(&load.stderr)
        )
    });
    let total = report["signals"][signal].clone();
    let metrics = server.metrics();
    let metric = |name: &str, label: &str| -> f64 {
        metrics
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    let items = number(&total["acked"]);
    let deduplicated = metric("tailwater_items_total", "\"deduplicated\"");
    let cpu = metric("process_cpu_seconds_total", "");
    let anonymous = metric("process_anonymous_memory_bytes", "");
    let intake = metric("tailwater_intake_log_written_bytes_total", "");
    let outbox = metric("tailwater_outbox_written_bytes_total", "");
    server.stop();
    let parquet = parquet_bytes(&data.path().join("lake"));
    let verify = Command::new(BINARY)
        .args(["lake", "verify", "--data"])
        .arg(data.path())
        .output()
        .unwrap();
    let elapsed = report["seconds"].as_f64().unwrap_or(seconds as f64);
    let per_second = items / elapsed;
    let mb = |bytes: f64| bytes / elapsed / 1e6;
    println!("{what}");
    println!(
        "    {:.0} items/s acked, {:.2} us of CPU an item, ack P50 {:.2} ms P99 {:.2} ms",
        per_second,
        cpu * 1e6 / items.max(1.0),
        number(&total["ack_p50_ms"]),
        number(&total["ack_p99_ms"]),
    );
    println!(
        "    written: intake log {:.0}, outbox {:.0}, Parquet {:.0} MB/s; {:.1} bytes of Parquet an item before compaction; anonymous memory {:.0} MiB",
        mb(intake),
        mb(outbox),
        mb(parquet),
        parquet / items.max(1.0),
        anonymous / 1024.0 / 1024.0
    );
    if deduplicated != 0.0 {
        println!("    VOID: {deduplicated} items were taken for repeats");
    }
    assert!(
        verify.status.success(),
        "VOID, the ledger does not add up: {}",
        String::from_utf8_lossy(&verify.stdout)
    );
    Measured {
        items_per_second: per_second,
        ack_p99_ms: number(&total["ack_p99_ms"]),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// The binary on one core; unpinned, and said so, where `taskset` is absent.
fn pinned(core: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core, BINARY]);
    if Command::new("taskset")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        println!("    taskset is absent: not pinned");
        return Command::new(BINARY);
    }
    command
}

struct Server {
    child: Child,
    run_file: std::path::PathBuf,
}

impl Server {
    fn start(data: &Path, ack: &str) -> Server {
        let mut command = pinned(SERVER_CORE);
        // Where the tests find their data is no setting.
        command
            .env_remove("TAILWATER_TEST_DATA")
            // The disk of whoever runs this may be nearly full.
            .env("TAILWATER_STORAGE_DISK_RESERVE", "1MiB")
            .args(["collector", "--data"])
            .arg(data);
        for key in ["intake.grpc.listen", "intake.http.listen", "admin.collector"] {
            command.args(["--set", &format!("{key}=127.0.0.1:0")]);
        }
        command.args(["--set", &format!("storage.ack={ack}"), "--set", "log.level=warn"]);
        let child = command.spawn().unwrap();
        let server = Server {
            child,
            run_file: data.join("run/collector.json"),
        };
        let started = Instant::now();
        while !server.run_file.exists() {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "the collector does not come up"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        println!(
            "    (ready {:.0} ms after its start)",
            started.elapsed().as_secs_f64() * 1e3
        );
        server
    }

    fn address(&self, key: &str) -> SocketAddr {
        let file: Value = serde_json::from_slice(&std::fs::read(&self.run_file).unwrap()).unwrap();
        file["addresses"][key].as_str().unwrap().parse().unwrap()
    }

    fn metrics(&self) -> String {
        use std::io::Read;
        let mut stream = std::net::TcpStream::connect(self.address("admin.collector")).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// SIGTERM: everything accepted is in the tables afterwards.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parquet_bytes(directory: &Path) -> f64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            match path.is_dir() {
                true => parquet_bytes(&path),
                false if path.extension().is_some_and(|extension| extension == "parquet") => {
                    entry.metadata().map_or(0, |data| data.len()) as f64
                }
                false => 0.0,
            }
        })
        .sum()
}

/// P99 in ms of appending `size` bytes to a file and syncing it.
fn bare_append_p99(size: usize, times: usize) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let mut file = File::create(directory.path().join("bare")).unwrap();
    let bytes = vec![0x5a; size];
    let mut took: Vec<f64> = (0..times)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[(times * 99 / 100).min(times - 1)]
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("?", |text| text.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{model}, {cores} cores; commit {}", commit())
}

fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "?".into(), |text| text.trim().to_owned())
}
