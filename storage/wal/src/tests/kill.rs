//! SIGKILL of a real process on a real file system: what it acknowledged is there. The test binary runs itself as the victim.
//!
//! WAL_KILL_ROUNDS asks for more rounds. Proves nothing about power loss; `crash` does that.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::reader::Reader;
use crate::{Io, Ticket};

const DIR: &str = "TAILWATER_WAL_KILL_DIR";
const NEEDED: &str = "TAILWATER_WAL_KILL_NEEDED";
const DIRECT: &str = "TAILWATER_WAL_KILL_DIRECT";

fn victim_options(dir: &Path, needed: u64, direct: bool) -> Options {
    let mapped = !direct;
    Options {
        segment_bytes: 256 << 10,
        needed,
        io: if direct { Io::Direct } else { Io::Buffered },
        recycle: if mapped { 0 } else { 2 },
        control: mapped.then(|| dir.join("control")),
        ..options(&dir.join("log"))
    }
}

fn len_of(seq: u64) -> usize {
    match seq % 41 {
        0 => 1_500_000,
        n => (n as usize * 2_503) % 30_000,
    }
}

/// The victim: appends, says what was acknowledged, trims. Runs for ever when started by the test below, and does nothing otherwise.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let needed = std::env::var(NEEDED).unwrap().parse().unwrap();
    let (wal, recovered) = open(&victim_options(
        Path::new(&dir),
        needed,
        std::env::var_os(DIRECT).is_some(),
    ));
    assert_eq!(recovered.damage, vec![]);
    let mut out = std::io::stdout();
    let mut open: VecDeque<Ticket> = VecDeque::new();
    loop {
        let seq = wal.next_seq();
        open.push_back(wal.append(head(seq), body(seq, len_of(seq))).unwrap());
        if open.len() < 8 {
            continue;
        }
        let acked = open.pop_front().unwrap().wait().unwrap();
        // One write each, straight into the pipe: what is read was acknowledged.
        out.write_all(format!("\nack {acked}\n").as_bytes()).unwrap();
        out.flush().unwrap();
        if acked.is_multiple_of(50) && acked > 60 {
            out.write_all(format!("\ntrim {}\n", acked - 60).as_bytes()).unwrap();
            out.flush().unwrap();
            wal.trim_below(acked - 60).unwrap();
        }
    }
}

#[test]
fn acknowledged_records_survive_sigkill() {
    let rounds: u64 = std::env::var("WAL_KILL_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(4);
    for direct in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut acked, mut needed) = (0u64, 0u64);
        for round in 0..rounds {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "tests::kill::victim", "--nocapture", "--test-threads", "1"])
                .env(DIR, dir.path())
                .env(NEEDED, needed.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit());
            if direct {
                command.env(DIRECT, "1");
            }
            let mut child = command.spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            // Another moment every round; the counter, not the clock, decides.
            let target = 1 + (round * 7_919 + 13) % 211;
            let mut heard = 0;
            let mut killed = false;
            while let Some(Ok(line)) = lines.next() {
                if let Some(seq) = line.strip_prefix("ack ").and_then(|n| n.parse::<u64>().ok()) {
                    assert_eq!(seq, if heard == 0 { seq } else { acked + 1 });
                    acked = seq;
                    heard += 1;
                } else if let Some(seq) = line.strip_prefix("trim ").and_then(|n| n.parse().ok()) {
                    needed = seq;
                }
                if heard == target && !killed {
                    child.kill().unwrap();
                    killed = true;
                }
            }
            child.wait().unwrap();
            assert!(killed, "the victim ended by itself in round {round}");

            let options = victim_options(dir.path(), needed, direct);
            if let Some(control) = &options.control {
                let view = Reader::open(&options.dir, control, 1).unwrap().view().unwrap();
                assert!(view.durable >= acked, "the page is published before the ack");
                assert!(view.holes.is_empty());
            }
            let (wal, recovered) = open(&options);
            assert_eq!(recovered.damage, vec![], "round {round}");
            assert!(recovered.next_seq > acked, "round {round}");
            let found = read(&wal, needed);
            assert_eq!(found, (found[0]..recovered.next_seq).collect::<Vec<_>>(), "dense");
            assert!(found[0] <= needed.max(1));
            for record in wal.records(needed) {
                let record = record.unwrap();
                assert_eq!(record.body.len(), len_of(record.seq));
            }
            acked = recovered.next_seq - 1;
        }
    }
}
