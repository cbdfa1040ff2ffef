#![allow(clippy::unwrap_used)]
use super::*;
use crate::dedup::Begin;
use crate::{Decision, ReasonCode, Recovery, Settings};
use proptest::prelude::*;
use tailwater_model::ledger::Account;
use tailwater_model::signal::Signal;

use crate::settlement::TableSet;

fn settings() -> Settings {
    Settings {
        log_id: LogId([7; 16]),
        shards: 3,
        decisions_max: 1000,
        decision_age_max_ns: u64::MAX,
        reasons: reasons(),
    }
}

fn reasons() -> Reasons {
    Reasons::new(["bad_id"])
}

fn section(id: u64, required: bool) -> Section {
    Section {
        id,
        required,
        bytes: vec![id as u8; 300],
    }
}

/// A checkpoint with something of everything.
fn full(sections: &[Section]) -> Vec<u8> {
    let mut journal = Recovery::new(settings(), None).unwrap().finish();
    let policy = journal.policy("rest", 3);
    let all = journal.policy("all", 3);
    for number in 0..40u8 {
        let (threshold, policy) = if number % 3 == 0 {
            (0, all)
        } else {
            (0x00fd_7000_0000_0000, policy)
        };
        journal.touch(number % 3, TraceId([number; 16]), Decision { threshold, policy });
        journal.advance(number % 3, Lsn(1000 + u64::from(number)));
        let key = Key {
            tenant: "acme".into(),
            signal: Signal::Traces,
            account: Account::Rejected,
            reason: "bad_id",
        };
        journal.count(&key, Amount { items: 1, bytes: 440 }).unwrap();
        if number % 10 == 9 {
            let now_ns = 1_700_000_000_000_000_000 + u64::from(number);
            journal
                .cut(now_ns, TableSet::EMPTY.with(Table::Spans))
                .unwrap()
                .unwrap();
        }
    }
    let _slot = journal.open(1, Lsn(1040));
    journal.committed(Table::Spans, BatchSeq(2));
    let mut register = Register::new(100, 1000);
    for digest in 0..20u128 {
        let Begin::First(token) = register.begin(digest << 100 | 5, digest as u64) else {
            panic!("new")
        };
        let mut answer = Answer::default();
        if digest == 4 {
            answer.add(ReasonCode(2), 9);
            answer.add(ReasonCode(1), 1);
        }
        if digest != 6 {
            register.done(digest << 100 | 5, token, answer);
        }
    }
    journal.checkpoint(Lsn(1050), &register, sections).0
}

/// Journal and register as a restart builds them, encoded again.
fn again(checkpoint: &Checkpoint) -> Vec<u8> {
    let journal = Recovery::new(settings(), Some(checkpoint)).unwrap().finish();
    let mut register = Register::new(100, 1000);
    for entry in &checkpoint.digests {
        register.restore(entry.digest, entry.arrival_ns, entry.answer.clone());
    }
    journal.checkpoint(Lsn(0), &register, &checkpoint.sections).0
}

/// The bytes without trailer, with a new one: damage behind a right checksum.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn what_was_written_comes_back() {
    let bytes = full(&[section(64, true), section(90, false)]);
    let checkpoint = Checkpoint::decode(&bytes, &reasons()).unwrap();
    assert_eq!((checkpoint.batch, checkpoint.lsn_high), (BatchSeq(4), Lsn(1050)));
    assert_eq!(
        checkpoint.decisions.iter().map(Vec::len).collect::<Vec<_>>(),
        [14, 13, 13]
    );
    let oldest = checkpoint.decisions[1][0];
    assert_eq!(
        (oldest.trace, oldest.threshold),
        (TraceId([1; 16]), 0x00fd_7000_0000_0000)
    );
    assert_eq!(
        (oldest.through, oldest.touched_ns),
        (Lsn(1007), 1_700_000_000_000_000_009)
    );
    assert_eq!(
        checkpoint.policies[oldest.policy as usize],
        Policy {
            reason: "rest".into(),
            epoch: 3
        }
    );
    assert_eq!(checkpoint.digests.len(), 19, "the one under way stays out");
    assert_eq!(
        checkpoint.digests[4].answer.reasons(),
        [(ReasonCode(2), 9), (ReasonCode(1), 1)]
    );
    assert_eq!(
        checkpoint.ledger[0].1,
        Amount {
            items: 40,
            bytes: 40 * 440
        }
    );
    assert!(checkpoint.versions.contains(&(Table::Spans, BatchSeq(2))));
    assert_eq!(checkpoint.sections, [section(64, true), section(90, false)]);
    assert_eq!(again(&checkpoint), bytes);
}

#[test]
fn an_open_trace_shows_in_low_only_once_a_batch_says_so() {
    let checkpoint = Checkpoint::decode(&full(&[]), &reasons()).unwrap();
    assert_eq!(
        checkpoint.mark(),
        Mark {
            batch: BatchSeq(4),
            low: Lsn(1038)
        }
    );
}

#[test]
fn digests_may_come_in_pieces_while_the_register_goes_on() {
    let journal = Recovery::new(settings(), None).unwrap().finish();
    let mut register = Register::new(100, 10);
    let done = |register: &mut Register, digest: u128, now_ns| {
        let Begin::First(token) = register.begin(digest, now_ns) else {
            panic!("new")
        };
        register.done(digest, token, Answer::default());
    };
    (0..6).for_each(|digest| done(&mut register, digest, digest as u64));
    let mut draft = journal.draft_checkpoint(Lsn(0));
    assert!(!draft.digests(&register, 2));
    // Digest 6 is new, and 0 to 3 run out of their window: two of them are in already.
    done(&mut register, 6, 14);
    assert!(!draft.digests(&register, 1));
    assert!(draft.digests(&register, 1));
    let checkpoint = Checkpoint::decode(&draft.finish(&[]).0, &reasons()).unwrap();
    assert_eq!(
        checkpoint.digests.iter().map(|entry| entry.digest).collect::<Vec<_>>(),
        [0, 1, 4, 5]
    );
}

#[test]
fn other_directories_are_refused() {
    let checkpoint = Checkpoint::decode(&full(&[]), &reasons()).unwrap();
    let other = Settings {
        log_id: LogId([8; 16]),
        ..settings()
    };
    assert!(matches!(
        Recovery::new(other, Some(&checkpoint)),
        Err(Error::OtherLog { .. })
    ));
    let narrow = Settings {
        shards: 2,
        ..settings()
    };
    assert_eq!(
        Recovery::new(narrow, Some(&checkpoint)).unwrap_err(),
        Error::OtherShards { expected: 2, found: 3 }
    );
}

#[test]
fn unknown_sections_are_kept_or_refused_as_they_ask() {
    let mut checkpoint = Checkpoint::decode(&full(&[section(64, true), section(65, false)]), &reasons()).unwrap();
    assert_eq!(checkpoint.require_known(&[]), Err(Error::UnknownSection { id: 64 }));
    assert_eq!(checkpoint.require_known(&[64]), Ok(()));
    assert_eq!(checkpoint.take_section(65), Some(section(65, false)));
    assert_eq!(checkpoint.take_section(65), None);

    // An id of the journal's own range that a later version may add: 9, empty.
    let bytes = full(&[]);
    for (flags, expected) in [(0, Ok(())), (1, Err(Error::UnknownSection { id: 9 }))] {
        let mut newer = bytes[..bytes.len() - 5].to_vec();
        newer.extend_from_slice(&[9, flags, 0, 0]);
        assert_eq!(Checkpoint::decode(&resealed(newer), &reasons()).map(drop), expected);
    }
}

#[test]
fn a_newer_version_is_named() {
    let mut bytes = full(&[]);
    bytes.truncate(bytes.len() - 4);
    bytes[4] = 2;
    assert_eq!(
        Checkpoint::decode(&resealed(bytes), &reasons()),
        Err(Error::Version {
            what: WHAT,
            version: 2,
            known: 1
        })
    );
}

#[test]
fn every_cut_and_every_flipped_bit_fails_the_checksum() {
    let bytes = full(&[]);
    for len in 0..bytes.len() {
        assert!(Checkpoint::decode(&bytes[..len], &reasons()).is_err(), "cut at {len}");
    }
    for index in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[index] ^= 1 << (index % 8);
        assert_eq!(
            Checkpoint::decode(&flipped, &reasons()),
            Err(Error::Checksum { what: WHAT }),
            "byte {index}"
        );
    }
}

#[test]
fn frozen_bytes_of_version_1() {
    let journal = Recovery::new(
        Settings {
            shards: 1,
            ..settings()
        },
        None,
    )
    .unwrap()
    .finish();
    let (bytes, _) = journal.checkpoint(
        Lsn(3),
        &Register::new(1, 1),
        &[Section {
            id: 64,
            required: false,
            bytes: vec![5],
        }],
    );
    let marks = [
        1, 1, 0x99, 0x80, 0x80, 0x80, 0, 1, 0, 0, 0, 10, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0, 10, 0,
    ];
    // Before there was table `sampling_ticks`, and before there were `red` and `edges`.
    let without_ticks = [
        1, 1, 0x97, 0x80, 0x80, 0x80, 0, 1, 0, 0, 0, 9, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0,
    ];
    let without_red = [
        1, 1, 0x93, 0x80, 0x80, 0x80, 0, 1, 0, 0, 0, 7, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0,
    ];
    let rest = [
        2, 1, 0x82, 0x80, 0x80, 0x80, 0, 0, 0, 4, 1, 0x81, 0x80, 0x80, 0x80, 0, 0, 3, 1, 0x81, 0x80, 0x80, 0x80, 0, 0,
        64, 0, 0x81, 0x80, 0x80, 0x80, 0, 5, 0,
    ];
    let frozen = |marks: &[u8]| resealed([&b"TWCK\x01"[..], &[7; 16], &[0, 3], marks, &rest].concat());
    assert_eq!(bytes, frozen(&marks));
    for marks in [&without_ticks[..], &without_red] {
        let old = Checkpoint::decode(&frozen(marks), &reasons()).unwrap();
        let settings = Settings {
            shards: 1,
            ..settings()
        };
        let journal = Recovery::new(settings, Some(&old)).unwrap().finish();
        assert_eq!(journal.version(Table::Red).0, 0);
        assert_eq!(journal.version(Table::SamplingTicks).0, 0);
    }
}

proptest! {
    #[test]
    fn decoding_mutated_bytes_never_panics(edits in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6), cut: Option<usize>) {
        let mut bytes = full(&[section(64, false)]);
        bytes.truncate(bytes.len() - 4);
        for (at, byte) in edits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % bytes.len());
        }
        if let Ok(checkpoint) = Checkpoint::decode(&resealed(bytes), &reasons()) {
            // What decodes must also load, or be refused in words.
            let _ = Recovery::new(settings(), Some(&checkpoint)).map(Recovery::finish);
        }
    }
}
