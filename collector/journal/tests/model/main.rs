//! Model test of the protocol: a collector around the journal that dies at every write, and a checker that knows all that was durable.
//!
//! What it proves, for the seeds run: over any one crash, and over crashes in quick succession, by kill and by power loss, acknowledged
//! spans are stored once or refused by a logged decision, no decision flips, RED and ledger end as if nothing had happened,
//! nothing needed is trimmed, no LSN is used twice. What it cannot prove: anything about files, for the disk is a model too.
//! `TAILWATER_MODEL_SEEDS=500` runs more seeds. A failure prints the plan that repeats it.

#![allow(clippy::unwrap_used)]

mod bugs;
mod disk;
mod oracle;
mod process;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bugs::Bug;
use world::{Coverage, Plan, World};

/// Runs one plan; a panic of the journal is a violation as well.
fn run(plan: &Plan, coverage: &mut Coverage) -> Result<u64, String> {
    let mut world = World::new(plan.clone());
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    for (what, count) in &world.coverage {
        *coverage.entry(what).or_default() += count;
    }
    match result {
        Ok(result) => result
            .map(|()| world.disk.writes)
            .map_err(|violation| format!("{violation}\n  {plan:?}")),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panic: {}\n  {plan:?}", message.unwrap_or_default()))
        }
    }
}

/// Runs a plan without a crash, then once for every write with a crash there.
fn crash_at_every_write(plan: &Plan, coverage: &mut Coverage) -> Result<u64, String> {
    let writes = run(plan, coverage)?;
    for crash_at in 1..=writes {
        // The same world up to the crash; what follows differs with the parity, so both single and repeated crashes occur everywhere.
        run(
            &Plan {
                crash_at: Some(crash_at),
                crash_again: (crash_at + plan.seed).is_multiple_of(2),
                ..plan.clone()
            },
            coverage,
        )?;
    }
    Ok(writes)
}

fn seeds(default: u64) -> u64 {
    std::env::var("TAILWATER_MODEL_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(default)
}

fn check(plan: Plan, seeds: u64, must_happen: &[&str]) {
    let mut coverage = Coverage::new();
    let mut writes = 0;
    for seed in 0..seeds {
        match crash_at_every_write(&Plan { seed, ..plan.clone() }, &mut coverage) {
            Ok(count) => writes += count,
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{seeds} seeds, {writes} crash points: {coverage:?}");
    let missing: Vec<_> = must_happen
        .iter()
        .filter(|what| !coverage.contains_key(**what))
        .collect();
    assert!(missing.is_empty(), "the run is void, this never happened: {missing:?}");
}

const ALWAYS: [&str; 18] = [
    "kill",
    "power loss",
    "torn tail",
    "replay",
    "replay skips",
    "restart on an empty intake log",
    "late span",
    "late span in the replay",
    "late span counted before the crash",
    "pending span counted before the crash",
    "giant trace decided early",
    "decision in the middle of a replay",
    "duplicate",
    "duplicate waits",
    "duplicate after a restart",
    "doubtful commit",
    "intake trimmed",
    "outbox trimmed",
];

#[test]
fn a_crash_at_any_write_changes_nothing() {
    check(Plan::default(), seeds(12), &ALWAYS);
}

#[test]
fn forgotten_traces_are_decided_anew_and_stored_once() {
    let by_count = Plan {
        decisions_max: 4,
        ..Plan::default()
    };
    check(by_count, seeds(5), &["forgotten trace decided anew", "replay skips"]);
    let by_age = Plan {
        decision_age_max: 60,
        ..Plan::default()
    };
    check(by_age, seeds(5), &["forgotten trace decided anew", "replay skips"]);
}

#[test]
fn one_shard_and_sixty_four_behave_alike() {
    for shards in [1, 64] {
        check(
            Plan {
                shards,
                ..Plan::default()
            },
            seeds(2),
            &["replay skips", "late span"],
        );
    }
}

/// A checker that never fails proves nothing: each rule, broken, must be noticed, and for what it is.
#[test]
fn every_broken_rule_is_noticed() {
    let missed: Vec<_> = Bug::ALL.into_iter().filter(|bug| !is_noticed(*bug)).collect();
    assert!(missed.is_empty(), "the checker did not notice {missed:?}");
}

fn is_noticed(bug: Bug) -> bool {
    let decisions_max = if bug == Bug::LowForgotten { 4 } else { 1 << 20 };
    for seed in 0..20 {
        let plan = Plan {
            seed,
            bug: Some(bug),
            decisions_max,
            ..Plan::default()
        };
        for crash_at in std::iter::once(None).chain((1..200).map(Some)) {
            let plan = Plan {
                crash_at,
                crash_again: crash_at.is_some_and(|at| at % 2 == 0),
                ..plan.clone()
            };
            if let Err(violation) = run(&plan, &mut Coverage::new())
                && bug.symptoms().iter().any(|symptom| violation.starts_with(symptom))
            {
                println!("{bug:?}: {violation}");
                return true;
            }
        }
    }
    false
}
