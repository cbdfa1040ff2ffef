//! The log against an oracle, on the simulated disk: random runs with kills, power cuts and faults, and short runs cut at every
//! single operation. Everything is on one thread and seeded, so a failing case repeats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::sim::{Fault, Sim};
use crate::{Ack, Bodies, Clock, FullReason, Io, ManualClock, Ticket};

#[derive(Clone, Debug)]
enum Op {
    /// Records of these lengths, appended before anything is written.
    Burst(Vec<usize>),
    Wait(u64),
    /// Trim this share of what is readable.
    Trim(u64),
    Close,
    Kill,
    PowerCut,
    /// In so many operations.
    Fault(u64, Fault),
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![6 => 0..400usize, 3 => 1_000..9_000usize, 1 => Just(30_000)];
    let fault = prop_oneof![Just(Fault::Eio), Just(Fault::Enospc), Just(Fault::Gone)];
    prop_oneof![
        8 => proptest::collection::vec(len, 1..6).prop_map(Op::Burst),
        2 => (0..1_500u64).prop_map(Op::Wait),
        2 => (0..=100u64).prop_map(Op::Trim),
        1 => Just(Op::Close),
        2 => Just(Op::Kill),
        2 => Just(Op::PowerCut),
        2 => (1..12u64, fault).prop_map(|(n, fault)| Op::Fault(n, fault)),
    ]
}

/// What must be true, kept beside the log.
struct Oracle {
    sim: Sim,
    options: Options,
    time: ManualClock,
    /// `None` only inside `reopen`.
    wal: Option<Wal>,
    stamps: u64,
    /// Every content a number may have been written with.
    written: BTreeMap<u64, Vec<(u64, usize)>>,
    /// The content of each number that was promised.
    promised: BTreeMap<u64, (u64, usize)>,
    needed: u64,
    faulted: bool,
}

impl Oracle {
    fn new(seed: u64, ack: Ack, io: Io, recycle: usize) -> Oracle {
        let (clock, time) = Clock::manual();
        let dir = Path::new("/log");
        let options = Options {
            ack,
            io,
            recycle,
            segment_bytes: 32 << 10,
            bodies: match seed % 2 {
                0 => Bodies::AtOpening,
                _ => Bodies::WhenRead,
            },
            clock,
            ..options(dir)
        };
        let sim = Sim::new(seed);
        let (wal, _) = Wal::open_inline(Arc::new(sim.clone()), options.clone()).unwrap();
        Oracle {
            sim,
            options,
            time,
            wal: Some(wal),
            stamps: 0,
            written: BTreeMap::new(),
            promised: BTreeMap::new(),
            needed: 0,
            faulted: false,
        }
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().unwrap()
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Burst(lens) => self.burst(lens),
            Op::Wait(ms) => {
                self.time.advance(Duration::from_millis(*ms));
                self.wal().tick();
            }
            Op::Trim(percent) => {
                let below = self.needed + (self.wal().durable() + 1).saturating_sub(self.needed) * percent / 100;
                if self.wal().trim_below(below).is_ok() {
                    self.needed = self.needed.max(below);
                    self.promised = self.promised.split_off(&self.needed);
                } else {
                    assert!(self.faulted, "trimming fails only if the disk does");
                    // Whatever was removed is not missed.
                    self.needed = self.needed.max(below);
                    self.promised = self.promised.split_off(&self.needed);
                }
            }
            Op::Close => {
                let closed = self.wal().close();
                assert!(closed.is_ok() || self.faulted);
                self.reopen(false);
            }
            Op::Kill => self.reopen(false),
            Op::PowerCut => self.reopen(true),
            Op::Fault(n, fault) => {
                self.faulted = true;
                self.sim.fault_in(*n, *fault);
            }
        }
    }

    fn burst(&mut self, lens: &[usize]) {
        let mut tickets: Vec<(Ticket, (u64, usize))> = Vec::new();
        for &len in lens {
            self.stamps += 1;
            let content = (self.stamps, len);
            match self.wal().append(head(self.stamps), body(self.stamps, len)) {
                Ok(ticket) => {
                    self.written.entry(ticket.seq()).or_default().push(content);
                    tickets.push((ticket, content));
                }
                Err(error) => assert!(self.faulted && error.kind() == Kind::Poisoned, "{error}"),
            }
        }
        self.wal().tick();
        for (ticket, content) in tickets {
            match ticket.try_wait().expect("done after a tick") {
                Ok(seq) => {
                    assert_eq!(seq, ticket.seq());
                    assert_eq!(
                        self.promised.insert(seq, content),
                        None,
                        "number {seq} was promised twice"
                    );
                }
                Err(error) => {
                    assert!(self.faulted, "{error}");
                    if error.kind() == Kind::Full(FullReason::Disk) {
                        // Never written, so it must never be read.
                        self.written.get_mut(&ticket.seq()).unwrap().retain(|c| *c != content);
                    } else {
                        assert_eq!(error.kind(), Kind::Poisoned);
                    }
                }
            }
        }
    }

    /// The process goes, and with it perhaps the power; the next one must find every promise kept.
    fn reopen(&mut self, power_cut: bool) {
        let durable = self.wal().durable();
        match power_cut {
            true => self.sim.power_cut(),
            false => self.sim.kill(),
        }
        self.wal = None;
        // In write mode a promise holds against a kill, but not against a disk that failed or lost its power.
        if self.options.ack == Ack::Write && (power_cut || self.faulted) {
            self.promised.retain(|seq, _| *seq <= durable);
        }
        self.faulted = false;
        let last_promised = self
            .promised
            .last_key_value()
            .map_or(self.needed.saturating_sub(1), |(seq, _)| *seq);
        let options = Options {
            needed: self.needed,
            floor: durable,
            ..self.options.clone()
        };
        let (wal, recovered) = Wal::open_inline(Arc::new(self.sim.clone()), options).unwrap();
        assert_eq!(recovered.damage, vec![], "a crash is not damage");
        assert!(recovered.next_seq > last_promised && recovered.next_seq > durable);
        let mut next = None;
        let mut found = BTreeMap::new();
        for record in wal.records(self.needed) {
            let record = record.unwrap();
            assert_eq!(*next.get_or_insert(record.seq), record.seq, "dense");
            next = Some(record.seq + 1);
            let candidates = self.written.get(&record.seq).cloned().unwrap_or_default();
            let content = candidates
                .into_iter()
                .find(|&(stamp, len)| record.head == head(stamp) && record.body == body(stamp, len))
                .unwrap_or_else(|| panic!("record {} holds what nobody wrote", record.seq));
            found.insert(record.seq, content);
        }
        for (seq, content) in &self.promised {
            assert_eq!(found.get(seq), Some(content), "promised record {seq}");
        }
        assert!(next.is_none() || next == Some(recovered.next_seq));
        // What recovery kept is durable from here on, and what it dropped is gone for good.
        self.written.retain(|seq, _| *seq < recovered.next_seq);
        for (seq, content) in &found {
            self.written.insert(*seq, vec![*content]);
        }
        self.promised = found;
        self.wal = Some(wal);
    }
}

fn cases(default: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(default),
    }
}

proptest! {
    // PROPTEST_CASES asks for more; a failing case prints its input, seed included.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..cases(96) })]

    #[test]
    fn keeps_its_promises(
        seed: u64,
        write_mode in proptest::bool::weighted(0.3),
        direct in proptest::bool::weighted(0.3),
        recycle in 0..3usize,
        ops in proptest::collection::vec(op(), 1..40),
    ) {
        let ack = if write_mode { Ack::Write } else { Ack::Fsync };
        let io = if direct { Io::Direct } else { Io::Buffered };
        let mut oracle = Oracle::new(seed, ack, io, recycle);
        for op in &ops {
            oracle.run(op);
        }
        oracle.reopen(true);
        oracle.reopen(false);
    }
}

/// Appends over several segments, a giant, a trim, a marker, a close and a reopening: cut at every operation, by kill and by power,
/// and then once more at every operation of the recovery.
#[test]
fn cut_at_every_operation() {
    let script = |oracle: &mut Oracle, from: usize| {
        let ops = [
            Op::Burst(vec![100, 200]),
            Op::Burst(vec![9_000, 9_000, 9_000, 9_000]),
            Op::Wait(1_000),
            Op::Burst(vec![40_000, 10]),
            Op::Trim(60),
            Op::Burst(vec![5_000]),
            Op::Wait(150),
            Op::Burst(vec![30_000, 30_000]),
        ];
        ops[from..].iter().for_each(|op| oracle.run(op));
    };
    for (ack, io, recycle) in [
        (Ack::Fsync, Io::Buffered, 2),
        (Ack::Fsync, Io::Direct, 0),
        (Ack::Write, Io::Buffered, 0),
    ] {
        let mut whole = Oracle::new(1, ack, io, recycle);
        script(&mut whole, 0);
        let ops = whole.sim.ops();
        assert!(ops > 30, "{ops}");
        for cut in 1..=ops {
            for power in [false, true] {
                let mut oracle = Oracle::new(cut, ack, io, recycle);
                oracle.run(&Op::Fault(cut, Fault::Gone));
                script(&mut oracle, 0);
                oracle.reopen(power);
                script(&mut oracle, 4);
                oracle.reopen(!power);
            }
        }
    }
}

/// Recovery after a failed sync copies; a crash at every operation of that must change nothing.
#[test]
fn recovery_can_be_cut_at_every_operation() {
    for io in [Io::Buffered, Io::Direct] {
        let mut cut = 0;
        loop {
            cut += 1;
            let mut oracle = Oracle::new(cut, Ack::Fsync, io, 1);
            oracle.run(&Op::Burst(vec![100, 5_000]));
            // The write goes well, the sync does not: what is read back afterwards may be a lie.
            oracle.run(&Op::Fault(2, Fault::Eio));
            oracle.run(&Op::Burst(vec![700, 700]));
            assert!(oracle.wal().poisoned().is_some());
            assert_eq!(kind(oracle.wal().append(head(0), body(0, 1))), Kind::Poisoned);
            oracle.wal = None;
            oracle.sim.kill();
            oracle.sim.fault_in(cut, Fault::Gone);
            let options = oracle.options.clone();
            let opened = Wal::open_inline(Arc::new(oracle.sim.clone()), options);
            let finished = match opened {
                Ok((wal, _)) => {
                    // Whatever this start answered as readable is a promise now.
                    for record in wal.records(0) {
                        let record = record.unwrap();
                        let content = oracle.written[&record.seq]
                            .iter()
                            .find(|(stamp, _)| record.head == head(*stamp))
                            .copied()
                            .unwrap();
                        oracle.promised.insert(record.seq, content);
                    }
                    oracle.wal = Some(wal);
                    true
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Io, "{error}");
                    // Stand in for the process that died while opening.
                    let sim = Sim::new(0);
                    let (wal, _) = Wal::open_inline(Arc::new(sim), oracle.options.clone()).unwrap();
                    oracle.wal = Some(wal);
                    false
                }
            };
            oracle.reopen(cut % 2 == 0);
            oracle.reopen(true);
            if finished && cut > 12 {
                break;
            }
        }
    }
}

/// A failed sync, a process that reads its own lies, and then the power goes: the copy must have made the lies true.
#[test]
fn what_recovery_answers_survives_the_power_even_after_a_failed_sync() {
    for seed in 0..64 {
        let mut oracle = Oracle::new(seed, Ack::Fsync, Io::Buffered, 0);
        oracle.run(&Op::Burst(vec![100]));
        oracle.run(&Op::Fault(2, Fault::Eio));
        oracle.run(&Op::Burst(vec![3_000, 3_000]));
        oracle.reopen(false);
        let kept = oracle.promised.len();
        oracle.reopen(true);
        assert_eq!(oracle.promised.len(), kept);
    }
}

#[test]
fn no_room_at_preallocation_refuses_and_heals() {
    let sim = Sim::new(3);
    sim.set_capacity(100 << 10);
    let options = Options {
        segment_bytes: 32 << 10,
        ..options(Path::new("/log"))
    };
    let (wal, _) = Wal::open_inline(Arc::new(sim.clone()), options).unwrap();
    let append = |len| -> crate::Result<u64> {
        let ticket = wal.append(head(1), body(1, len))?;
        wal.tick();
        ticket.try_wait().unwrap()
    };
    assert_eq!(append(20_000).unwrap(), 1);
    // The file system says there is room and then refuses: numbers go back.
    sim.fault_in(2, Fault::Enospc);
    let refused = append(20_000).unwrap_err();
    assert_eq!(refused.kind(), Kind::Full(FullReason::Disk));
    assert!(refused.is_retryable());
    assert_eq!(wal.next_seq(), 2);
    assert!(
        sim.names(Path::new("/log"))
            .iter()
            .all(|name| !name.starts_with("new-")),
        "nothing is left lying about"
    );
    assert_eq!(append(20_000).unwrap(), 2);
    assert_eq!(append(20_000).unwrap(), 3);
    assert_eq!(kind(append(20_000)), Kind::Full(FullReason::Reserve));
    wal.trim_below(3).unwrap();
    assert_eq!(append(20_000).unwrap(), 4);
    assert_eq!(wal.stats().refused_disk, 1);
    assert_eq!(wal.stats().refused_reserve, 1);
}

#[test]
fn trimming_is_durable() {
    for seed in 0..16 {
        let mut oracle = Oracle::new(seed, Ack::Fsync, Io::Buffered, 1);
        (0..4).for_each(|_| oracle.run(&Op::Burst(vec![20_000])));
        oracle.run(&Op::Trim(100));
        let before = oracle.sim.names(Path::new("/log"));
        oracle.sim.power_cut();
        assert_eq!(oracle.sim.names(Path::new("/log")), before);
        assert_eq!(before.len(), 2, "one segment and one free file");
    }
}

/// A writer that panics leaves nobody waiting, and takes nothing more.
#[test]
fn a_panic_of_the_writer_poisons_the_log() {
    // Before, in and behind the write of a group.
    for at in 1..6 {
        let sim = Sim::new(at);
        let (wal, _) = Wal::open_threaded(Arc::new(sim.clone()), options(Path::new("/log"))).unwrap();
        sim.fault_in(at, Fault::Panic);
        let ended = (1..100).find_map(|seq| {
            let ticket = wal.append(head(seq), body(seq, 5_000));
            ticket.and_then(|ticket| ticket.wait()).err()
        });
        assert_eq!(ended.map(|error| error.kind()), Some(Kind::Poisoned), "{at}");
        assert_eq!(kind(wal.append(head(0), body(0, 1))), Kind::Poisoned, "{at}");
        assert!(wal.poisoned().is_some());
    }
}
