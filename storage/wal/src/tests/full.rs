//! Being full is a state that one leaves; being broken is not.
use std::io::Write as _;

use std::sync::Arc;

use super::*;
use crate::sim::{Fault, Sim};
use crate::{Ack, FullReason};

fn inline(sim: &Sim, options: &Options) -> Wal {
    Wal::open_inline(Arc::new(sim.clone()), options.clone()).unwrap().0
}

fn append(wal: &Wal, len: usize) -> crate::Result<u64> {
    let seq = wal.next_seq();
    let ticket = wal.append(head(seq), body(seq, len))?;
    wal.tick();
    ticket.try_wait().expect("done after a tick")
}

#[test]
fn the_budget_refuses_before_writing_and_heals_by_trimming() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        budget_bytes: 3 * (64 << 10),
        ..options(dir.path())
    };
    let (wal, _) = open(&options);
    let refused = loop {
        match wal.append(head(wal.next_seq()), body(wal.next_seq(), 20_000)) {
            Ok(ticket) => drop(ticket.wait().unwrap()),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), Kind::Full(FullReason::Budget));
    assert!(refused.is_retryable());
    let full = wal.stats();
    assert_eq!(
        (full.segments, full.disk_bytes, full.refused_budget),
        (3, 3 * (64 << 10), 1)
    );
    assert_eq!(wal.no_room().map(|error| error.kind()), Some(refused.kind()));
    assert_eq!(wal.stats().refused_budget, 1, "asking is no refusal");
    // A small record still fits into what is open; a large one still does not.
    let seq = wal.next_seq();
    assert_eq!(wal.append(head(seq), body(seq, 10)).unwrap().wait().unwrap(), seq);
    assert_eq!(
        kind(wal.append(head(0), body(0, 20_000))),
        Kind::Full(FullReason::Budget)
    );
    assert_eq!(read(&wal, 1), (1..=seq).collect::<Vec<_>>());
    assert!(wal.trim_below(seq).unwrap() >= 64 << 10);
    assert!(wal.no_room().is_none());
    fill(&wal, 2, 20_000);
    drop(wal);
    let (_, recovered) = open(&options);
    assert_eq!((recovered.next_seq, recovered.damage.len()), (seq + 3, 0));
}

#[test]
fn the_reserve_is_left_alone_and_the_log_heals_when_others_free_space() {
    let sim = Sim::new(1);
    let options = Options {
        reserve_bytes: 40 << 10,
        ..options(Path::new("/log"))
    };
    sim.set_capacity(200 << 10);
    let wal = inline(&sim, &options);
    append(&wal, 40_000).unwrap();
    append(&wal, 40_000).unwrap();
    assert_eq!(kind(append(&wal, 40_000)), Kind::Full(FullReason::Reserve));
    assert_eq!((wal.next_seq(), wal.stats().refused_reserve), (3, 1));
    sim.set_capacity(240 << 10);
    append(&wal, 40_000).unwrap();
    assert_eq!(read(&wal, 1), vec![1, 2, 3]);
}

/// Beyond the budget and into the reserve go the records that are named, in segments of their own size, and nothing else does.
#[test]
fn what_is_lent_is_taken_when_there_is_no_room() {
    let limits = [
        (2 * (64 << 10), 0, FullReason::Budget),
        (16 << 20, 72 << 10, FullReason::Reserve),
    ];
    for ((budget_bytes, reserve_bytes, reason), io) in limits
        .into_iter()
        .flat_map(|limit| [(limit, Io::Buffered), (limit, Io::Direct)])
    {
        let sim = Sim::new(1);
        sim.set_capacity(200 << 10);
        let options = Options {
            budget_bytes,
            reserve_bytes,
            io,
            ..options(Path::new("/log"))
        };
        let wal = inline(&sim, &options);
        append(&wal, 40_000).unwrap();
        append(&wal, 40_000).unwrap();
        assert_eq!(kind(append(&wal, 40_000)), Kind::Full(reason));
        wal.lend(3);
        assert_eq!(append(&wal, 30_000).unwrap(), 3);
        let lent = wal.stats().disk_bytes - 2 * (64 << 10);
        assert!(
            (30_000..64 << 10).contains(&lent),
            "{lent} bytes for a record of 30,000"
        );
        assert_eq!(kind(append(&wal, 40_000)), Kind::Full(reason));
        wal.trim_below(3).unwrap();
        append(&wal, 40_000).unwrap();
        drop(wal);
        sim.power_cut();
        assert_eq!(read(&inline(&sim, &options), 1), vec![3, 4]);
    }
}

#[test]
fn recycled_segments_need_no_free_space() {
    let sim = Sim::new(1);
    let options = Options {
        recycle: 2,
        reserve_bytes: 1 << 30,
        ..options(Path::new("/log"))
    };
    sim.set_capacity(2 << 30);
    let wal = inline(&sim, &options);
    for _ in 0..3 {
        append(&wal, 40_000).unwrap();
    }
    wal.trim_below(3).unwrap();
    sim.set_capacity(0);
    append(&wal, 40_000).unwrap();
    append(&wal, 40_000).unwrap();
    assert_eq!(kind(append(&wal, 40_000)), Kind::Full(FullReason::Reserve));
}

/// Free files go, one by one, while less than the reserve and a segment is free; not one that a queued record counts on.
#[test]
fn free_segments_are_given_back_at_the_reserve() {
    let segment = 64 << 10;
    let sim = Sim::new(1);
    let options = Options {
        recycle: 8,
        reserve_bytes: 40 << 10,
        ..options(Path::new("/log"))
    };
    let wal = inline(&sim, &options);
    for _ in 0..6 {
        append(&wal, 40_000).unwrap();
    }
    sim.set_capacity(6 * segment + (200 << 10));
    assert_eq!(wal.trim_below(6).unwrap(), 0);
    assert_eq!(wal.stats().free_segments, 5);
    // Others take what was left. The next trim has nothing to trim.
    sim.set_capacity(6 * segment + (10 << 10));
    assert_eq!(wal.trim_below(6).unwrap(), 2 * segment);
    assert_eq!((wal.stats().free_segments, wal.stats().disk_bytes), (3, 4 * segment));
    assert_eq!(wal.trim_below(6).unwrap(), 0);
    // Two of the three are taken by what is queued.
    let tickets = [40_000, 40_000].map(|len| wal.append(head(wal.next_seq()), body(wal.next_seq(), len)).unwrap());
    sim.set_capacity(0);
    assert_eq!(wal.trim_below(6).unwrap(), segment);
    wal.tick();
    assert!(tickets.iter().all(|ticket| ticket.try_wait().unwrap().is_ok()));
    assert_eq!(kind(append(&wal, 40_000)), Kind::Full(FullReason::Reserve));
    // What was trimmed a moment ago goes at once.
    assert_eq!(wal.trim_below(8).unwrap(), 2 * segment);
    sim.set_capacity(u64::MAX);
    append(&wal, 40_000).unwrap();
    assert_eq!(read(&wal, 8), vec![8, 9]);
    drop(wal);
    sim.power_cut();
    assert_eq!(read(&inline(&sim, &options), 8), vec![8, 9]);
}

/// Free files that are too short for a record are not in its way: neither at the budget nor at the reserve.
#[test]
fn free_segments_make_room_for_a_large_record() {
    let limits = [(5 * (64 << 10), 0, u64::MAX), (16 << 20, 40 << 10, 390 << 10)];
    for (budget_bytes, reserve_bytes, capacity) in limits {
        let sim = Sim::new(1);
        sim.set_capacity(capacity);
        let options = Options {
            recycle: 8,
            budget_bytes,
            reserve_bytes,
            ..options(Path::new("/log"))
        };
        let wal = inline(&sim, &options);
        for _ in 0..5 {
            append(&wal, 40_000).unwrap();
        }
        sim.set_capacity(capacity.saturating_add(64 << 10));
        wal.trim_below(5).unwrap();
        sim.set_capacity(capacity);
        assert_eq!(wal.stats().free_segments, 4);
        assert_eq!(append(&wal, 100_000).unwrap(), 6, "budget {budget_bytes}");
        assert!(wal.stats().free_segments < 4);
        drop(wal);
        sim.power_cut();
        assert_eq!(read(&inline(&sim, &options), 5), vec![5, 6]);
    }
}

/// A free file that cannot be removed stays one.
#[test]
fn a_free_segment_that_cannot_be_unlinked_stays() {
    let sim = Sim::new(1);
    let options = Options {
        recycle: 8,
        reserve_bytes: 40 << 10,
        ..options(Path::new("/log"))
    };
    let wal = inline(&sim, &options);
    for _ in 0..3 {
        append(&wal, 40_000).unwrap();
    }
    wal.trim_below(3).unwrap();
    sim.set_capacity(200 << 10);
    sim.fault_in(1, Fault::Eio);
    assert_eq!(kind(wal.trim_below(3)), Kind::Io);
    assert_eq!(wal.stats().free_segments, 2);
    assert_eq!(wal.trim_below(3).unwrap(), 2 * (64 << 10));
}

#[test]
fn a_full_queue_refuses_and_heals_when_the_disk_catches_up() {
    let sim = Sim::new(1);
    let options = Options {
        queue_bytes_max: 10_000,
        ..options(Path::new("/log"))
    };
    let wal = inline(&sim, &options);
    let giant = wal.append(head(1), body(1, 50_000)).unwrap();
    let refused = wal.append(head(2), body(2, 10));
    assert_eq!(refused.unwrap_err().kind(), Kind::Full(FullReason::Queue));
    assert_eq!(wal.stats().queue_records, 1);
    wal.tick();
    giant.wait().unwrap();
    assert_eq!(append(&wal, 10).unwrap(), 2);
    assert_eq!(wal.stats().refused_queue, 1);
}

#[test]
fn one_refusal_takes_back_everything_behind_it() {
    let sim = Sim::new(1);
    sim.whole_writes();
    let wal = inline(&sim, &options(Path::new("/log")));
    append(&wal, 21_000).unwrap();
    let tickets: Vec<_> = (2..=6)
        .map(|seq| wal.append(head(seq), body(seq, 21_000)).unwrap())
        .collect();
    // 2 goes with 1's segment (a write and a sync); preallocating the next (after creating it) finds no room.
    sim.fault_in(4, Fault::Enospc);
    wal.tick();
    let outcomes: Vec<_> = tickets
        .iter()
        .map(|t| t.try_wait().unwrap().map_err(|e| e.kind()))
        .collect();
    let full = Err(Kind::Full(FullReason::Disk));
    assert_eq!(outcomes, vec![Ok(2), full, full, full, full]);
    assert_eq!(wal.next_seq(), 3);
    for seq in 3..=6 {
        assert_eq!(append(&wal, 21_000).unwrap(), seq);
    }
    assert_eq!(read(&wal, 1), vec![1, 2, 3, 4, 5, 6]);
}

/// Creating, preallocating and naming can each find no room, for fresh and for recycled files; none of it may harm the log.
#[test]
fn no_room_at_any_step_of_a_new_segment_is_a_refusal() {
    // Of a fresh file: create, preallocate, header, sync, rename. Of a recycled one: header, sync, rename.
    let steps = [(0, 1), (0, 2), (0, 5), (1, 3)].map(|(recycle, step)| (recycle, step, Fault::Enospc));
    for (recycle, step, fault) in steps.into_iter().chain([(0, 1, Fault::Emfile)]) {
        let sim = Sim::new(1);
        sim.whole_writes();
        let options = Options {
            recycle,
            ..options(Path::new("/log"))
        };
        let wal = inline(&sim, &options);
        for _ in 0..3 {
            append(&wal, 40_000).unwrap();
        }
        wal.trim_below(3).unwrap();
        sim.fault_in(step, fault);
        assert_eq!(
            kind(append(&wal, 40_000)),
            Kind::Full(FullReason::Disk),
            "recycle {recycle}, step {step}"
        );
        assert_eq!(append(&wal, 40_000).unwrap(), 4);
        sim.power_cut();
        drop(wal);
        let wal = inline(&sim, &options);
        assert_eq!(read(&wal, 3), vec![3, 4]);
    }
}

#[test]
fn a_failed_write_or_sync_poisons() {
    for (ack, nth) in [(Ack::Fsync, 1), (Ack::Fsync, 2), (Ack::Write, 1)] {
        let sim = Sim::new(1);
        sim.whole_writes();
        let options = Options {
            ack,
            ..options(Path::new("/log"))
        };
        let wal = inline(&sim, &options);
        append(&wal, 10).unwrap();
        let tickets: Vec<_> = (2..=4)
            .map(|seq| wal.append(head(seq), body(seq, 10)).unwrap())
            .collect();
        let durable = wal.until_durable(4);
        sim.fault_in(nth, Fault::Eio);
        wal.tick();
        for ticket in tickets.iter().chain([&durable]) {
            let error = ticket.try_wait().unwrap().unwrap_err();
            assert_eq!(error.kind(), Kind::Poisoned);
            assert!(
                !error.is_retryable() && std::error::Error::source(&error).is_some(),
                "{error}"
            );
        }
        let ops = sim.ops();
        assert_eq!(kind(wal.append(head(5), body(5, 10))), Kind::Poisoned);
        assert_eq!(kind(wal.trim_below(2)), Kind::Poisoned);
        assert_eq!(kind(wal.close()), Kind::Poisoned);
        assert_eq!(sim.ops(), ops, "a poisoned log touches the disk no more");
        assert!(wal.stats().poisoned);
    }
}

#[test]
fn too_large_and_closed_are_errors_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        record_bytes_max: 1_000,
        ..options(dir.path())
    };
    let (wal, _) = open(&options);
    assert_eq!(kind(wal.append(head(1), body(1, 1_000))), Kind::TooLarge);
    fill(&wal, 1, 500);
    wal.close().unwrap();
    assert_eq!(kind(wal.append(head(1), body(1, 1))), Kind::Closed);
    assert_eq!(kind(wal.until_durable(2).wait()), Kind::Closed);
    assert_eq!(wal.until_durable(1).wait().unwrap(), 1);
}

#[test]
fn contradicting_options_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |options: Options| assert_eq!(kind(Wal::open(options).map(drop)), Kind::Options);
    refused(Options {
        segment_bytes: 4096,
        ..options(dir.path())
    });
    refused(Options {
        budget_bytes: 64 << 10,
        ..options(dir.path())
    });
    refused(Options {
        recycle: 1,
        control: Some(dir.path().join("control")),
        ..options(dir.path())
    });
}

#[test]
fn fsync_mode_on_a_ram_disk_is_refused_unless_allowed() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no /dev/shm here");
        return;
    };
    if !matches!(
        crate::file::Disk::volatile(&crate::file::Os::default(), dir.path()),
        Ok(Some("tmpfs"))
    ) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: /dev/shm is no tmpfs here");
        return;
    }
    let strict = Options {
        allow_volatile: false,
        ..options(dir.path())
    };
    assert_eq!(kind(Wal::open(strict.clone()).map(drop)), Kind::Options);
    Wal::open(Options {
        ack: Ack::Write,
        ..strict
    })
    .unwrap();
    open(&options(dir.path()));
}
