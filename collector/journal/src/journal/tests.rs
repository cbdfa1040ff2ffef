#![allow(clippy::unwrap_used)]
use super::*;
use tailwater_model::ledger::Account;
use tailwater_model::signal::Signal;

fn settings() -> Settings {
    Settings {
        log_id: LogId([7; 16]),
        shards: 2,
        decisions_max: 1000,
        decision_age_max_ns: u64::MAX,
        reasons: Reasons::default(),
    }
}

fn fresh(settings: Settings) -> Journal {
    Recovery::new(settings, None).unwrap().finish()
}

/// A journal that went through these batches and then died.
fn after(settings: Settings, batches: &[Vec<u8>]) -> Journal {
    let mut recovery = Recovery::new(settings, None).unwrap();
    for (index, settlement) in batches.iter().enumerate() {
        recovery.batch(BatchSeq(index as u64 + 1), settlement).unwrap();
    }
    recovery.finish()
}

fn trace(number: u8) -> TraceId {
    TraceId([number; 16])
}

fn decision(journal: &mut Journal, threshold: u64) -> Decision {
    Decision {
        threshold,
        policy: journal.policy("rest", 1),
    }
}

fn cut(journal: &mut Journal, now_ns: u64) -> Vec<u8> {
    journal.cut(now_ns, TableSet::EMPTY).unwrap().unwrap().settlement
}

fn row(journal: &Journal, lsn: u64, number: u8) -> Row {
    journal.replay_span(0, Lsn(lsn), &trace(number)).row
}

#[test]
fn nothing_to_say_is_no_batch() {
    let mut journal = fresh(settings());
    assert_eq!(journal.cut(5, TableSet::EMPTY), Ok(None));
    journal.advance_all(Lsn(3));
    assert!(journal.cut(5, TableSet::EMPTY).unwrap().is_some());
    assert_eq!(journal.cut(6, TableSet::EMPTY), Ok(None));
    assert_eq!(
        journal.cut(6, TableSet::EMPTY.with(Table::Logs)).unwrap().unwrap().seq,
        BatchSeq(2)
    );
}

#[test]
fn a_pending_trace_holds_low_and_is_replayed_uncounted() {
    let mut journal = fresh(settings());
    let slot = journal.open(0, Lsn(4));
    journal.advance_all(Lsn(9));
    let first = cut(&mut journal, 1);
    assert_eq!(journal.replay_from(), Lsn(4));
    let again = after(settings(), std::slice::from_ref(&first));
    assert_eq!(
        again.replay_span(0, Lsn(4), &trace(1)),
        Judgement {
            count: false,
            row: Row::Pending
        }
    );
    assert_eq!(
        again.replay_span(0, Lsn(10), &trace(1)),
        Judgement {
            count: true,
            row: Row::Pending
        }
    );
    assert_eq!(
        again.replay_span(0, Lsn(3), &trace(2)),
        Judgement {
            count: false,
            row: Row::Skip
        }
    );
    assert!(!again.replay_record(1, Lsn(9)) && again.replay_record(1, Lsn(10)));

    let decided = decision(&mut journal, 1 << 55);
    journal.decide(0, slot, trace(1), decided);
    let second = cut(&mut journal, 2);
    assert_eq!(journal.replay_from(), Lsn(10));
    let again = after(settings(), &[first, second]);
    assert_eq!(row(&again, 9, 1), Row::Skip);
    let Row::Late(remembered) = row(&again, 10, 1) else {
        panic!("the decision is remembered")
    };
    assert_eq!(remembered.threshold, 1 << 55);
    assert_eq!(
        again.policy_of(remembered.policy),
        &Policy {
            reason: "rest".into(),
            epoch: 1
        }
    );
}

/// The case that P4's text leaves open: A says 9, the replay has walked to 5 only, and decides.
#[test]
fn a_decision_in_a_replay_speaks_for_what_was_walked() {
    let mut journal = fresh(settings());
    let _slot = journal.open(0, Lsn(4));
    journal.advance_all(Lsn(9));
    let first = cut(&mut journal, 1);
    let mut journal = after(settings(), std::slice::from_ref(&first));
    let slot = journal.open(0, Lsn(4));
    journal.advance_all(Lsn(5));
    let decided = decision(&mut journal, 0);
    journal.decide(0, slot, trace(1), decided);
    let second = cut(&mut journal, 2);
    let again = after(settings(), &[first, second]);
    assert_eq!(row(&again, 5, 1), Row::Skip);
    let late = again.replay_span(0, Lsn(8), &trace(1));
    assert!(!late.count && matches!(late.row, Row::Late(_)), "{late:?}");
    assert_eq!(again.replay_from(), Lsn(6));
}

#[test]
fn late_spans_follow_a_decision_of_the_open_batch() {
    let mut journal = fresh(settings());
    let decided = decision(&mut journal, 3);
    journal.touch(0, trace(1), decided);
    assert_eq!(row(&journal, 1, 1), Row::Late(decided));
    // No batch has it yet, so no checkpoint may.
    assert_eq!(journal.remembered(), 0);
    journal.advance_all(Lsn(1));
    cut(&mut journal, 1);
    assert_eq!(journal.remembered(), 1);
}

#[test]
fn a_decision_is_not_forgotten_while_its_spans_may_be_replayed() {
    let mut journal = fresh(Settings {
        decisions_max: 2,
        ..settings()
    });
    let slot = journal.open(0, Lsn(1));
    for number in 1..5 {
        let decided = decision(&mut journal, 0);
        journal.touch(0, trace(number), decided);
        journal.advance_all(Lsn(number.into()));
        cut(&mut journal, number.into());
    }
    assert_eq!(
        (journal.remembered(), journal.forgotten()),
        (4, 0),
        "trace 9 is pending since LSN 1"
    );
    let decided = decision(&mut journal, 0);
    journal.decide(0, slot, trace(9), decided);
    journal.advance_all(Lsn(5));
    cut(&mut journal, 5);
    assert_eq!((journal.remembered(), journal.forgotten()), (1, 4));
    assert_eq!((journal.forgotten_ns(0), journal.forgotten_ns(1)), (4, 0));
    assert_eq!(row(&journal, 5, 9), Row::Skip);
    assert_eq!(row(&journal, 6, 4), Row::Pending);
}

#[test]
fn age_counts_from_the_last_touch() {
    let mut journal = fresh(Settings {
        decision_age_max_ns: 10,
        ..settings()
    });
    for (number, now) in [(1, 100), (2, 101), (1, 108), (3, 112)] {
        let decided = decision(&mut journal, 0);
        journal.touch(0, trace(number), decided);
        journal.advance_all(Lsn(now));
        cut(&mut journal, now);
    }
    assert_eq!(row(&journal, 200, 2), Row::Pending, "11 old");
    assert!(matches!(row(&journal, 200, 1), Row::Late(_)), "touched 4 ago");
    assert!(matches!(row(&journal, 200, 3), Row::Late(_)));
}

#[test]
fn batches_of_another_history_are_refused() {
    let mut journal = fresh(settings());
    journal.advance_all(Lsn(9));
    let first = cut(&mut journal, 1);
    let mut other = fresh(settings());
    other.advance_all(Lsn(4));
    let older = cut(&mut other, 1);

    let mut recovery = Recovery::new(settings(), None).unwrap();
    assert_eq!(
        recovery.batch(BatchSeq(2), &first),
        Err(Error::BatchGap {
            settled: BatchSeq(0),
            found: BatchSeq(2)
        })
    );
    recovery.batch(BatchSeq(1), &first).unwrap();
    assert_eq!(
        recovery.batch(BatchSeq(2), &older),
        Err(Error::Regress {
            batch: BatchSeq(2),
            shard: 0
        })
    );
    recovery
        .batch(BatchSeq(1), &older)
        .expect("within what was settled: only its frames matter");

    let mut narrow = Recovery::new(
        Settings {
            shards: 1,
            ..settings()
        },
        None,
    )
    .unwrap();
    assert_eq!(
        narrow.batch(BatchSeq(1), &first),
        Err(Error::OtherShards { expected: 1, found: 2 })
    );
}

#[test]
fn the_lsn_floor_outlives_the_log() {
    let mut journal = fresh(settings());
    journal.advance_all(Lsn(40));
    cut(&mut journal, 1);
    assert_eq!(journal.lsn_floor(), Lsn(40));
    let (bytes, _) = journal.checkpoint(Lsn(55), &Register::new(1, 1), &[]);
    let checkpoint = Checkpoint::decode(&bytes, &Reasons::default()).unwrap();
    let journal = Recovery::new(settings(), Some(&checkpoint)).unwrap().finish();
    assert_eq!(journal.lsn_floor(), Lsn(55));
    assert_eq!(journal.replay_from(), Lsn(41));
}

#[test]
fn trimming_waits_for_the_durable_checkpoint_and_every_table() {
    let mut journal = fresh(settings());
    let received = Key {
        tenant: "t".into(),
        signal: Signal::Logs,
        account: Account::Received,
        reason: "",
    };
    journal.count(&received, Amount { items: 1, bytes: 2 }).unwrap();
    journal.advance_all(Lsn(5));
    let batch = journal.cut(1, TableSet::EMPTY.with(Table::Logs)).unwrap().unwrap();
    assert_eq!(batch.ledger, [(received, Amount { items: 1, bytes: 2 })]);
    for table in Table::COLLECTED {
        journal.read_version(table, None).unwrap();
    }
    let untouched = TrimPoints {
        intake_below: Lsn(1),
        outbox_below: BatchSeq(1),
    };
    assert_eq!(journal.trim_points(), untouched);
    journal.committed(Table::Logs, BatchSeq(1));
    let (_, mark) = journal.checkpoint(Lsn(5), &Register::new(1, 1), &[]);
    assert_eq!(journal.trim_points(), untouched, "the checkpoint is not durable yet");
    journal.checkpointed(mark);
    let held = TrimPoints {
        intake_below: Lsn(6),
        outbox_below: BatchSeq(1),
    };
    assert_eq!(journal.trim_points(), held, "the ledger's rows are not committed yet");
    assert_eq!(
        journal.plan_commit(Table::Ledger, BatchSeq(1)).unwrap().through,
        BatchSeq(1)
    );
    journal.committed(Table::Ledger, BatchSeq(1));
    assert_eq!(
        journal.trim_points(),
        TrimPoints {
            intake_below: Lsn(6),
            outbox_below: BatchSeq(2)
        }
    );
}

#[test]
fn frames_of_batches_within_the_checkpoint_are_still_owed_to_their_tables() {
    let mut journal = fresh(settings());
    journal.advance_all(Lsn(5));
    let batch = journal.cut(1, TableSet::EMPTY.with(Table::Logs)).unwrap().unwrap();
    let (bytes, _) = journal.checkpoint(Lsn(5), &Register::new(1, 1), &[]);
    let checkpoint = Checkpoint::decode(&bytes, &Reasons::default()).unwrap();
    let mut recovery = Recovery::new(settings(), Some(&checkpoint)).unwrap();
    recovery.batch(BatchSeq(1), &batch.settlement).unwrap();
    let mut journal = recovery.finish();
    journal.read_version(Table::Logs, None).unwrap();
    assert_eq!(journal.batch(), BatchSeq(1));
    assert_eq!(journal.trim_points().outbox_below, BatchSeq(1));
    let plan = journal.plan_commit(Table::Logs, BatchSeq(1)).unwrap();
    assert_eq!((plan.after, plan.through), (BatchSeq(0), BatchSeq(1)));
}

#[test]
fn equal_histories_give_equal_bytes() {
    let history = || {
        let mut journal = fresh(settings());
        let decided = decision(&mut journal, 7);
        for number in 0..200 {
            journal.touch(number % 2, trace(number), decided);
        }
        journal.advance_all(Lsn(1));
        cut(&mut journal, 1)
    };
    assert_eq!(history(), history());
}
