//! Open, append, read back, trim, reopen, read from outside.
use std::io::Write as _;

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::reader::Reader;
use crate::{ALIGN, Ack, Body, Clock, Io, Kind};

#[test]
fn appends_survive_a_reopening() {
    for io in [Io::Buffered, Io::Direct] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            io,
            ..options(dir.path())
        };
        let (wal, recovered) = open(&options);
        assert_eq!(
            recovered,
            Recovered {
                first_seq: 1,
                next_seq: 1,
                ..Recovered::default()
            }
        );
        fill(&wal, 40, 5000);
        assert_eq!(read(&wal, 1), (1..=40).collect::<Vec<_>>());
        assert_eq!(read(&wal, 17), (17..=40).collect::<Vec<_>>());
        wal.close().unwrap();
        drop(wal);
        let (wal, recovered) = open(&options);
        let expect = Recovered {
            first_seq: 1,
            next_seq: 41,
            records: 40,
            ..Recovered::default()
        };
        assert_eq!(recovered, expect, "after a clean close nothing is in doubt");
        assert_eq!(wal.durable(), 40);
        fill(&wal, 3, 10);
        assert_eq!(read(&wal, 39), vec![39, 40, 41, 42, 43]);
    }
}

#[test]
fn empty_heads_and_bodies_and_giants() {
    for io in [Io::Buffered, Io::Direct] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            io,
            ..options(dir.path())
        };
        let (wal, _) = open(&options);
        wal.append(Bytes::new(), Body::default()).unwrap().wait().unwrap();
        let giant = body(2, (3 << 20) + 17);
        wal.append(Bytes::from(vec![7; 70_000]), giant.clone())
            .unwrap()
            .wait()
            .unwrap();
        wal.append(Bytes::from_static(b"x"), Bytes::new())
            .unwrap()
            .wait()
            .unwrap();
        drop(wal);
        let (wal, _) = open(&options);
        let records: Vec<Record> = wal.records(0).map(|r| r.unwrap()).collect();
        assert_eq!(records.len(), 3);
        assert!(records[0].head.is_empty() && records[0].body.is_empty());
        assert_eq!(records[1].head, vec![7; 70_000]);
        assert_eq!(records[1].body, giant);
        assert_eq!(records[2].head, &b"x"[..]);
    }
}

#[test]
fn reading_begins_anywhere_without_the_start_of_the_segment() {
    for io in [Io::Buffered, Io::Direct] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            io,
            segment_bytes: 2 << 20,
            recycle: 2,
            ..options(dir.path())
        };
        let (wal, _) = open(&options);
        fill(&wal, 120, 70_000);
        let check = |first: u64, last: u64| {
            for from in (first..=last + 1).step_by(9) {
                assert_eq!(read(&wal, from), (from..=last).collect::<Vec<u64>>());
            }
        };
        check(1, 120);
        wal.trim_below(100).unwrap();
        // Into segments that were used before: what is known of them is forgotten.
        fill(&wal, 100, 50_000);
        check(100, 220);
    }
}

#[test]
fn single_records_are_picked_from_anywhere() {
    for io in [Io::Buffered, Io::Direct] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            io,
            segment_bytes: 2 << 20,
            ..options(dir.path())
        };
        let (wal, _) = open(&options);
        fill(&wal, 40, 70_000);
        fill(&wal, 300, 100);
        fill(&wal, 5, 600_000);
        drop(wal);
        // Of these only the segments are known, of those to come some places in them.
        let (wal, _) = open(&options);
        fill(&wal, 60, 50_000);
        for (first, step) in [(1, 1), (1, 7), (30, 100), (341, 1), (2, 403)] {
            let numbers: Vec<u64> = (first..=405).step_by(step).collect();
            let (mut picks, mut found) = (wal.pick(numbers.clone()), Vec::new());
            while let Some(picked) = picks.next() {
                let picked = picked.unwrap();
                assert_eq!(picked.head, head(picked.seq));
                assert_eq!(picked.body, body(picked.seq, picked.body.len()));
                found.push(picked.seq);
            }
            assert_eq!(found, numbers);
        }
        let damaged = |seq| Kind::Damaged { first: seq, last: seq };
        let mut picks = wal.pick([405, 406, 500]);
        assert_eq!(picks.next().unwrap().unwrap().seq, 405);
        assert_eq!(kind(picks.next().unwrap()), damaged(406));
        assert_eq!(kind(picks.next().unwrap()), damaged(500));
        assert!(picks.next().is_none());
    }
}

#[test]
fn slices_are_aligned_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(&options(dir.path()));
    let slices = vec![
        Bytes::from_static(b"abc"),
        Bytes::from(vec![1; 64]),
        Bytes::from_static(b"z"),
    ];
    wal.append(Bytes::new(), Body::aligned(slices.clone())).unwrap();
    wal.append(Bytes::new(), slices).unwrap().wait().unwrap();
    let bodies: Vec<Bytes> = wal.records(0).map(|r| r.unwrap().body).collect();
    assert_eq!(bodies[0].len(), 129);
    assert_eq!(
        (&bodies[0][..3], &bodies[0][3..64], bodies[0][128]),
        (&b"abc"[..], &[0; 61][..], b'z')
    );
    assert_eq!(bodies[1].len(), 68);
    assert_eq!(bodies[0].as_ptr() as u64 % ALIGN, 0);
}

#[test]
fn trimming_takes_whole_segments_and_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        recycle: 2,
        ..options(dir.path())
    };
    let (wal, _) = open(&options);
    fill(&wal, 60, 5000);
    let before = wal.stats();
    assert!(before.segments >= 5, "{before:?}");
    assert_eq!(wal.trim_below(1).unwrap(), 0);
    let freed = wal.trim_below(wal.next_seq() + 100).unwrap();
    let after = wal.stats();
    assert_eq!((after.segments, after.free_segments), (1, 2));
    assert_eq!(before.disk_bytes - after.disk_bytes, freed);
    let left = read(&wal, 1);
    assert_eq!(left.last(), Some(&60));
    fill(&wal, 30, 5000);
    assert_eq!(wal.stats().free_segments, 0, "recycled files are used first");
    drop(wal);
    let (wal, recovered) = open(&options);
    assert_eq!((recovered.first_seq, recovered.next_seq), (left[0], 91));
    assert_eq!(recovered.damage, vec![]);
    assert_eq!(read(&wal, 1), (left[0]..=90).collect::<Vec<_>>());
}

#[test]
fn numbers_go_on_above_the_floor() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        floor: 100,
        needed: 101,
        ..options(dir.path())
    };
    let (wal, recovered) = open(&options);
    assert_eq!((recovered.next_seq, wal.durable()), (101, 100));
    fill(&wal, 2, 10);
    assert_eq!(read(&wal, 0), vec![101, 102]);
}

#[test]
fn the_lock_keeps_a_second_writer_out() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(&options(dir.path()));
    let error = Wal::open(options(dir.path())).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Locked);
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(wal);
    open(&options(dir.path()));
}

#[test]
fn another_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(&options(dir.path()));
    fill(&wal, 1, 10);
    drop(wal);
    assert_eq!(
        kind(
            Wal::open(Options {
                kind: 2,
                ..options(dir.path())
            })
            .map(drop)
        ),
        Kind::Foreign
    );
    assert_eq!(
        kind(
            Wal::open(Options {
                log_id: [9; 16],
                ..options(dir.path())
            })
            .map(drop)
        ),
        Kind::Foreign
    );
}

#[test]
fn write_mode_acks_before_and_syncs_after_100_ms() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual();
    let options = Options {
        ack: Ack::Write,
        clock,
        ..options(dir.path())
    };
    let (wal, _) = open(&options);
    let later = wal.until_durable(2);
    fill(&wal, 2, 100);
    assert_eq!(wal.durable(), 0);
    time.advance(Duration::from_millis(99));
    wal.tick();
    assert_eq!(wal.durable(), 0);
    time.advance(Duration::from_millis(1));
    wal.tick();
    assert_eq!(wal.durable(), 2);
    later.wait().unwrap();
}

#[test]
fn a_marker_after_a_second_of_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual();
    let options = Options {
        clock,
        ..options(dir.path())
    };
    let (wal, _) = open(&options);
    fill(&wal, 2, 100);
    time.advance(Duration::from_millis(999));
    wal.tick();
    assert_eq!(wal.stats().markers, 0);
    time.advance(Duration::from_millis(1));
    wal.tick();
    time.advance(Duration::from_secs(100));
    wal.tick();
    assert_eq!(wal.stats().markers, 1, "one is enough until something is appended");
    fill(&wal, 1, 100);
    assert_eq!(read(&wal, 1), vec![1, 2, 3]);
}

#[test]
fn a_reader_sees_what_is_durable_and_keeps_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control");
    let log = dir.path().join("log");
    let preamble = Bytes::from(vec![42; 5000]);
    let options = Options {
        control: Some(control.clone()),
        preamble: preamble.clone(),
        ..options(&log)
    };
    let (wal, _) = open(&options);
    let reader = Reader::open(&log, &control, 1).unwrap();
    assert_eq!(reader.log_id(), LOG_ID);
    assert_eq!(reader.view().unwrap().durable, 0);
    fill(&wal, 40, 5000);
    let view = reader.view().unwrap();
    assert_eq!((view.durable, view.first_seq()), (40, 1));
    let seqs: Vec<u64> = view
        .records(1)
        .map(|(segment, record)| {
            assert_eq!(segment.preamble, Some(preamble.clone()));
            assert_eq!(record.body.as_ptr() as u64 % ALIGN, 0);
            assert_eq!(record.head, head(record.seq));
            assert_eq!(record.body, body(record.seq, 5000));
            record.check_body().unwrap();
            record.seq
        })
        .collect();
    assert_eq!(seqs, (1..=40).collect::<Vec<_>>());
    assert_eq!(view.holes.len(), 0);

    wal.trim_below(41).unwrap();
    let later = reader.view().unwrap();
    assert!(later.first_seq() > 30);
    assert_eq!(
        view.records(1).count(),
        40,
        "an unlinked segment lives as long as its mapping"
    );
    view.records(1).for_each(|(_, r)| r.check_body().unwrap());
    drop(wal);

    let (wal, _) = open(&options);
    fill(&wal, 5, 100);
    let last: Vec<u64> = reader.view().unwrap().records(41).map(|(_, r)| r.seq).collect();
    assert_eq!(
        last,
        (41..=45).collect::<Vec<_>>(),
        "the page survives a restart of the writer"
    );
}

#[test]
fn tickets_are_futures() {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake};
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(&options(dir.path()));
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut ticket = pin!(wal.append(head(1), body(1, 10)).unwrap());
    let seq = loop {
        match ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => break result.unwrap(),
            Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(seq, 1);
}

#[test]
fn direct_is_a_wish() {
    // tmpfs has known O_DIRECT since Linux 6.6 only; on either the log works.
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no /dev/shm here");
        return;
    };
    let options = Options {
        io: Io::Direct,
        ..options(dir.path())
    };
    let (wal, _) = open(&options);
    fill(&wal, 3, 100);
    drop(wal);
    let (wal, _) = open(&options);
    assert_eq!(read(&wal, 1), vec![1, 2, 3]);
    assert!(
        std::fs::read_dir(dir.path()).unwrap().all(|e| !e
            .unwrap()
            .file_name()
            .into_string()
            .unwrap()
            .starts_with("new-"))
    );
}
