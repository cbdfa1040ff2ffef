//! Readers beside a writer.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::reader::Reader;

#[test]
fn views_are_whole_while_the_writer_rolls_and_trims() {
    let dir = tempfile::tempdir().unwrap();
    let (log, control) = (dir.path().join("log"), dir.path().join("control"));
    let options = Options {
        control: Some(control.clone()),
        ..options(&log)
    };
    let (wal, _) = open(&options);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let reader = Reader::open(&log, &control, 1).unwrap();
                let (mut views, mut seen) = (0, 0);
                while !done.load(Ordering::Acquire) || views < 3 {
                    let view = reader.view().unwrap();
                    views += 1;
                    assert!(view.durable >= seen, "time goes forward");
                    seen = view.durable;
                    let mut next = None;
                    for (_, record) in view.records(0) {
                        assert_eq!(*next.get_or_insert(record.seq), record.seq, "dense");
                        next = Some(record.seq + 1);
                        record.check_body().unwrap();
                        assert_eq!(record.head, head(record.seq));
                        assert_eq!(record.body, body(record.seq, record.body.len()));
                    }
                    assert!(next.is_none_or(|next| next == view.durable + 1), "all of it");
                    assert!(view.holes.is_empty());
                }
            });
        }
        for round in 1..=60u64 {
            fill(&wal, 5, 100 + (round as usize * 977) % 9_000);
            if round % 4 == 0 {
                wal.trim_below(wal.durable().saturating_sub(8)).unwrap();
            }
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(Reader::open(&log, &control, 1).unwrap().durable().unwrap(), 300);
}

#[test]
fn a_reader_passes_over_damage_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (log, control) = (dir.path().join("log"), dir.path().join("control"));
    let options = Options {
        control: Some(control.clone()),
        ..options(&log)
    };
    let (wal, _) = open(&options);
    fill(&wal, 6, 5_000);
    drop(wal);
    let segment = std::fs::read_dir(&log)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "wal"))
        .unwrap();
    let total = 64 + 64 + 5_056;
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + total + 10] ^= 1;
    bytes[4096 + 3 * total + 1000] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let reader = Reader::open(&log, &control, 1).unwrap();
    let view = reader.view().unwrap();
    assert_eq!(*view.holes, vec![(2, 2)], "a bad header");
    let checks: Vec<(u64, bool)> = view.records(1).map(|(_, r)| (r.seq, r.check_body().is_ok())).collect();
    assert_eq!(checks, vec![(1, true), (3, true), (4, false), (5, true), (6, true)]);
}

#[test]
fn readers_name_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (log, control) = (dir.path().join("log"), dir.path().join("control"));
    let missing = Reader::open(&log, &control, 1).map(|_| ()).unwrap_err();
    assert_eq!(missing.kind(), Kind::Io);
    let options = Options {
        control: Some(control.clone()),
        ..options(&log)
    };
    drop(open(&options));
    assert_eq!(kind(Reader::open(&log, &control, 2).map(|_| ())), Kind::Foreign);
    std::fs::write(&control, [0u8; 4096]).unwrap();
    assert_eq!(kind(Reader::open(&log, &control, 1).map(|_| ())), Kind::Foreign);
}

/// The page's numbers are a claim about durability even after a crash: what it says and the log cannot show is damage.
#[test]
fn the_control_page_counts_as_somewhere_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (log, control) = (dir.path().join("log"), dir.path().join("control"));
    let options = Options {
        control: Some(control.clone()),
        ..options(&log)
    };
    let (wal, _) = open(&options);
    fill(&wal, 3, 100);
    drop(wal);
    for entry in std::fs::read_dir(&log).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "wal") {
            let mut bytes = std::fs::read(&path).unwrap();
            // Record 3 and the marker behind it.
            bytes[4096 + 2 * 256..].fill(0);
            std::fs::write(&path, &bytes).unwrap();
        }
    }
    let (wal, recovered) = open(&options);
    assert_eq!(
        (recovered.lost().collect::<Vec<_>>(), recovered.next_seq),
        (vec![(3, 3)], 4)
    );
    assert_eq!(read(&wal, 1), vec![1, 2]);
}
