//! The I/O choices behind `docs/decisions/002-wal-io.md`, as tables.
//!
//! 1. append + fdatasync per file kind and size, on bare files;
//! 2. ack latency of the intake log beside a writer of large records, with and without pacing;
//! 3. the log itself: one waiter, many waiters;
//! 4. opening and reading back.
//!
//! `cargo bench -p tailwater-wal --bench io [-- DIR]` measures in DIR (default: the current directory); `cargo test` runs a few operations of each.
//! `--only-reading` leaves out the first three.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tailwater_wal::{Io, Options, Wal};

const MIB: usize = 1 << 20;
const SIZES: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, MIB];

fn main() {
    let full = std::env::args().any(|a| a == "--bench");
    let at = std::env::args()
        .skip(1)
        .find(|a| !a.starts_with("--"))
        .unwrap_or_else(|| ".".to_owned());
    let dir = tempfile::Builder::new()
        .prefix("wal-bench-")
        .tempdir_in(if full {
            at
        } else {
            std::env::temp_dir().display().to_string()
        })
        .unwrap();
    println!(
        "load average before: {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    if !std::env::args().any(|a| a == "--only-reading") {
        file_kinds(dir.path(), full);
        beside_large_writes(dir.path(), full);
        whole_log(dir.path(), full);
    }
    reading_back(dir.path(), full);
    println!(
        "load average after: {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
}

/// Bytes at a 4096 boundary.
struct Aligned(Vec<u8>, usize, usize);

impl Aligned {
    fn new(len: usize) -> Aligned {
        let bytes: Vec<u8> = (0..len + 4096).map(|i| (i * 31) as u8).collect();
        let start = bytes.as_ptr().align_offset(4096);
        Aligned(bytes, start, len)
    }

    fn get(&self) -> &[u8] {
        &self.0[self.1..self.1 + self.2]
    }
}

#[derive(Clone, Copy, Debug)]
enum FileKind {
    Growing,
    Fallocated,
    FallocatedDirect,
    Recycled,
    RecycledDirect,
}

fn open(path: &Path, direct: bool) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(path)
        .unwrap()
}

/// A file as the log would meet it, `len` bytes long (or growing to it).
fn prepare(path: &Path, kind: FileKind, len: usize) -> File {
    let _ = std::fs::remove_file(path);
    let file = open(path, false);
    match kind {
        FileKind::Growing => {}
        FileKind::Fallocated | FileKind::FallocatedDirect => {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len as u64).unwrap();
        }
        FileKind::Recycled | FileKind::RecycledDirect => {
            let block = vec![1u8; MIB];
            for at in (0..len).step_by(MIB) {
                file.write_all_at(&block, at as u64).unwrap();
            }
        }
    }
    file.sync_all().unwrap();
    drop(file);
    open(
        path,
        matches!(kind, FileKind::RecycledDirect | FileKind::FallocatedDirect),
    )
}

/// Nanoseconds this thread was on a core.
fn cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn percentile(sorted: &[Duration], p: usize) -> f64 {
    sorted[(sorted.len() * p / 100).min(sorted.len() - 1)].as_nanos() as f64 / 1e3
}

fn file_kinds(dir: &Path, full: bool) {
    println!("\nappend + fdatasync, one file of at most 256 MiB, kinds interleaved");
    println!(
        "{:>16} {:>6} {:>6} {:>9} {:>9} {:>9} {:>10} {:>12}",
        "kind", "KiB", "n", "p50 us", "p99 us", "MB/s", "wall ns/B", "cpu ns/B"
    );
    let rounds = if full { 3 } else { 1 };
    for size in SIZES {
        let n = if full { (256 * MIB / size).min(1_000) } else { 4 };
        let kinds = [
            FileKind::Growing,
            FileKind::Fallocated,
            FileKind::FallocatedDirect,
            FileKind::Recycled,
            FileKind::RecycledDirect,
        ];
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); kinds.len()];
        let mut cpu = [0u64; 5];
        for _ in 0..rounds {
            for (i, kind) in kinds.into_iter().enumerate() {
                let path = dir.join("kinds");
                let file = prepare(&path, kind, n * size);
                let data = Aligned::new(size);
                let before = cpu_nanos();
                for op in 0..n {
                    let start = Instant::now();
                    file.write_all_at(data.get(), (op * size) as u64).unwrap();
                    file.sync_data().unwrap();
                    times[i].push(start.elapsed());
                }
                cpu[i] += cpu_nanos() - before;
            }
        }
        for (i, kind) in kinds.into_iter().enumerate() {
            let total: Duration = times[i].iter().sum();
            let bytes = (times[i].len() * size) as f64;
            times[i].sort();
            println!(
                "{:>16} {:>6} {:>6} {:>9.0} {:>9.0} {:>9.0} {:>10.2} {:>12.3}",
                format!("{kind:?}"),
                size >> 10,
                times[i].len(),
                percentile(&times[i], 50),
                percentile(&times[i], 99),
                bytes / total.as_secs_f64() / 1e6,
                total.as_nanos() as f64 / bytes,
                cpu[i] as f64 / bytes,
            );
        }
    }
}

/// The ack path is 64 KiB appends to an intake log; beside it, 32 MiB records every 250 ms, as the outbox writes them at 0.5 M spans/s.
fn beside_large_writes(dir: &Path, full: bool) {
    println!("\n64 KiB append to ack, beside 32 MiB every 250 ms");
    println!(
        "{:>28} {:>6} {:>9} {:>9} {:>9}",
        "beside", "n", "p50 us", "p99 us", "max us"
    );
    let span = if full {
        Duration::from_secs(6)
    } else {
        Duration::from_millis(1)
    };
    for beside in ["nothing", "one write, one fdatasync", "the log's paced pieces"] {
        let home = tempfile::tempdir_in(dir).unwrap();
        let intake = log(&home.path().join("intake"), Io::Buffered, 4);
        warm(&intake, full);
        let stop = Arc::new(AtomicBool::new(beside == "nothing"));
        let other = {
            let (stop, home) = (stop.clone(), home.path().to_owned());
            std::thread::spawn(move || large_writes(&home, beside, &stop))
        };
        let data = Bytes::from(vec![7u8; 64 << 10]);
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < span || times.len() < 4 {
            let begin = Instant::now();
            intake.append(Bytes::new(), data.clone()).unwrap().wait().unwrap();
            times.push(begin.elapsed());
            if times.len() % 256 == 0 {
                intake.trim_below(intake.durable()).unwrap();
            }
            // About a third of the disk: an open question is latency, not throughput.
            std::thread::sleep(Duration::from_micros(500));
        }
        stop.store(true, Ordering::Relaxed);
        other.join().unwrap();
        times.sort();
        let max = times[times.len() - 1].as_nanos() as f64 / 1e3;
        println!(
            "{:>28} {:>6} {:>9.0} {:>9.0} {:>9.0}",
            beside,
            times.len(),
            percentile(&times, 50),
            percentile(&times, 99),
            max
        );
    }
}

fn large_writes(dir: &Path, how: &str, stop: &AtomicBool) {
    let body = Bytes::from(vec![9u8; 32 * MIB]);
    let paced = log(&dir.join("outbox"), Io::Buffered, 0);
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        if how == "one write, one fdatasync" {
            let path = dir.join(format!("plain-{}", n % 4));
            let file = prepare(&path, FileKind::Fallocated, 32 * MIB);
            file.write_all_at(&body, 0).unwrap();
            file.sync_data().unwrap();
        } else {
            paced.append(Bytes::new(), body.clone()).unwrap().wait().unwrap();
            paced.trim_below(paced.durable()).unwrap();
        }
        n += 1;
        std::thread::sleep(Duration::from_millis(250).saturating_sub(start.elapsed()));
    }
}

fn log(dir: &Path, io: Io, recycle: usize) -> Wal {
    let options = Options {
        io,
        recycle,
        reserve_bytes: 0,
        budget_bytes: 2 << 30,
        allow_volatile: true,
        ..Options::new(dir, [1; 16], 1)
    };
    Wal::open(options).unwrap().0
}

/// Until recycled segments are in use.
fn warm(wal: &Wal, full: bool) {
    if !full {
        return;
    }
    let data = Bytes::from(vec![7u8; MIB]);
    for _ in 0..330 {
        wal.append(Bytes::new(), data.clone()).unwrap().wait().unwrap();
        if wal.stats().segments > 4 {
            wal.trim_below(wal.durable()).unwrap();
        }
    }
}

fn whole_log(dir: &Path, full: bool) {
    println!("\nthe log: append to ack");
    println!(
        "{:>9} {:>8} {:>6} {:>7} {:>9} {:>9} {:>9} {:>12}",
        "mode", "waiters", "KiB", "n", "p50 us", "p99 us", "MB/s", "KiB/sync"
    );
    for (io, size, waiters) in [
        (Io::Buffered, 4 << 10, 1),
        (Io::Direct, 4 << 10, 1),
        (Io::Buffered, 64 << 10, 1),
        (Io::Direct, 64 << 10, 1),
        (Io::Buffered, 64 << 10, 32),
        (Io::Direct, 64 << 10, 32),
        (Io::Buffered, 225 << 10, 32),
        (Io::Direct, 225 << 10, 32),
    ] {
        let home = tempfile::tempdir_in(dir).unwrap();
        let wal = log(home.path(), io, 4);
        warm(&wal, full);
        let before = wal.stats();
        let n = if full {
            256 * MIB / size / 2 * if waiters > 1 { 4 } else { 1 }
        } else {
            4 * waiters
        };
        let n = n.min(4_000);
        let data = Bytes::from(vec![7u8; size]);
        let start = Instant::now();
        let mut times = Vec::with_capacity(n);
        // A window of `waiters` unfinished appends, as that many connections would make.
        let mut open = std::collections::VecDeque::new();
        for i in 0..n {
            if open.len() == waiters {
                let (begin, ticket): (Instant, tailwater_wal::Ticket) = open.pop_front().unwrap();
                ticket.wait().unwrap();
                times.push(begin.elapsed());
            }
            open.push_back((Instant::now(), wal.append(Bytes::new(), data.clone()).unwrap()));
            if i % 128 == 0 {
                wal.trim_below(wal.durable()).unwrap();
            }
        }
        for (begin, ticket) in open {
            ticket.wait().unwrap();
            times.push(begin.elapsed());
        }
        let took = start.elapsed().as_secs_f64();
        let after = wal.stats();
        assert_eq!(
            after.next_seq - before.next_seq,
            n as u64,
            "every append got its number"
        );
        times.sort();
        println!(
            "{:>9} {:>8} {:>6} {:>7} {:>9.0} {:>9.0} {:>9.0} {:>12.0}",
            format!("{io:?}"),
            waiters,
            size >> 10,
            n,
            percentile(&times, 50),
            percentile(&times, 99),
            (n * size) as f64 / took / 1e6,
            (after.bytes - before.bytes) as f64 / (after.syncs - before.syncs) as f64 / 1024.0,
        );
    }
}

fn reading_back(dir: &Path, full: bool) {
    println!("\nopening (everything verified) and reading back, 225 KiB records");
    println!("{:>9} {:>6} {:>12} {:>12}", "mode", "MiB", "open MB/s", "read MB/s");
    for io in [Io::Buffered, Io::Direct] {
        let home = tempfile::tempdir_in(dir).unwrap();
        let n = if full { 2_400 } else { 8 };
        let data = Bytes::from(vec![7u8; 225 << 10]);
        let wal = log(home.path(), io, 0);
        let tickets: Vec<_> = (0..n)
            .map(|_| {
                loop {
                    match wal.append(Bytes::new(), data.clone()) {
                        Ok(ticket) => break ticket,
                        // The queue is full.
                        Err(_) => wal.until_durable(wal.next_seq() - 1).wait().map(drop).unwrap(),
                    }
                }
            })
            .collect();
        assert!(tickets.iter().all(|t| t.wait().is_ok()));
        drop(wal);
        let bytes = (n * data.len()) as f64;
        let start = Instant::now();
        let wal = log(home.path(), io, 0);
        let opened = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let read = wal.records(0).map(|r| r.unwrap().body.len()).sum::<usize>();
        assert_eq!(read, n * data.len());
        let took = start.elapsed().as_secs_f64();
        println!(
            "{:>9} {:>6} {:>12.0} {:>12.0}",
            format!("{io:?}"),
            read >> 20,
            bytes / opened / 1e6,
            bytes / took / 1e6
        );
    }
}
