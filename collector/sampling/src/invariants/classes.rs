//! E1, F1: what a policy promises of errors, of tenants, of first ones and of a dry run.

use std::collections::BTreeMap;

use super::estimates::{BUSY, Group, bias_of};
use super::{ERRORS_AND_REST, goal, policy, sampler};
use crate::fault::Fault;
use crate::sim::{Burst, Made, Ours, Random, SPAN_BYTES, STORED_PER_BYTE, Traffic};
use crate::threshold::Threshold;

/// E1: errors are kept while they fit under their cap, and above it they are counted right.
#[test]
fn errors_are_kept_up_to_their_cap() {
    let run = |errors| {
        let traffic = Traffic {
            errors,
            burst: Burst::None,
            ..Traffic::default()
        };
        let mut ours = Ours::new(goal(400.0, ERRORS_AND_REST)).unwrap();
        let mut random = Random::new(8);
        let (mut all, mut kept, mut errors, mut volume) = (0.0, 0.0, Group::default(), 0.0);
        for second in 0..120 {
            let traces = traffic.second(second, &mut random);
            for choice in ours.second(second, &traces, f64::INFINITY) {
                let weight = choice.is_kept.then_some(choice.weight);
                volume += weight.map_or(0.0, |_| f64::from(choice.spans));
                if choice.error {
                    all += 1.0;
                    kept += f64::from(u8::from(choice.is_kept));
                    errors.add(1.0, weight);
                }
            }
        }
        (kept / all, errors.estimate(), volume / 120.0 / 400.0)
    };
    let (part, ..) = run(0.10);
    assert_eq!(part, 1.0, "100 of 400 spans a second are errors");
    let (part, estimate, volume) = run(0.80);
    assert!(part < 0.6, "{part}");
    assert!(
        (estimate.sum - estimate.truth).abs() < 3.0 * estimate.variance.sqrt(),
        "{estimate:?}"
    );
    assert!((volume - 1.0).abs() < 0.05, "{volume}");
}

/// E1, when all of it is errors and twenty times the budget: the budget holds from the third second on, with a cap the cap does, and what is kept
/// counts all.
#[test]
fn a_storm_of_errors_keeps_the_budget_and_counts_right() {
    let storm = Traffic {
        errors: 1.0,
        burst: Burst::Scale,
        burst_s: (60, 120),
        ..BUSY
    };
    let errors = |cap: &str| {
        let error = format!("{{name: error, when: any(span.status == error), target: all{cap}}}");
        goal(
            1000.0,
            &format!("strata: [{error}, {{name: rest, share: by(fingerprint)}}]"),
        )
    };
    for (cap, part) in [("", 1.0), (", cap: 50%", 0.5)] {
        for seed in 0..3 {
            let mut ours = Ours::new(errors(cap)).unwrap();
            let mut random = Random::new(seed);
            let mut kept = Vec::new();
            for second in 0..180 {
                let traces = storm.second(second, &mut random);
                let choices = ours.second(second, &traces, f64::INFINITY);
                let spans = choices.iter().filter(|choice| choice.is_kept);
                kept.push(spans.map(|choice| f64::from(choice.spans)).sum::<f64>() / 1000.0 / part);
            }
            // A root settles for two seconds, and the burst takes two to show.
            for ten in kept[64..120].windows(10).chain(kept[130..].windows(10)) {
                let mean = ten.iter().sum::<f64>() / 10.0;
                assert!((mean - 1.0).abs() <= 0.1, "{cap} seed {seed}: {mean}");
            }
            let minute = kept[62..122].iter().sum::<f64>() / 60.0;
            assert!((minute - 1.0).abs() <= 0.02, "{cap} seed {seed}: {minute}");
        }
        let short = Traffic {
            burst_s: (6, 12),
            ..storm
        };
        let found = bias_of("errors", || sampler(errors(cap), Fault::None), &short, 40, 16);
        println!(
            "{cap}: {:.4} +- {:.4}, covered {}",
            found.mean, found.error, found.covered
        );
        assert!(!found.is_there(), "{cap}: {} {}", found.mean, found.error);
        assert!(
            found.error < 0.02 && found.covered >= 0.85,
            "{cap}: {} {}",
            found.error,
            found.covered
        );
    }
}

/// A cap holds from the first second also where its stratum was quiet for long: nobody saves up for a storm.
#[test]
fn a_cap_is_not_saved_up() {
    let strata = r#"
strata:
  - {name: error, when: any(span.status == error), target: all, cap: 20%}
  - {name: rest, share: all}
"#;
    let (mut ours, mut random) = (Ours::new(goal(400.0, strata)).unwrap(), Random::new(5));
    let mut kept = 0.0;
    for second in 0..630 {
        let is_storm = second == 0 || second >= 600;
        let traffic = Traffic {
            errors: f64::from(u8::from(is_storm)),
            ..Traffic::default()
        };
        let traces = traffic.second(second, &mut random);
        let choices = ours.second(second, &traces, f64::INFINITY);
        let errors = choices
            .iter()
            .filter(|choice| choice.is_kept && choice.error && second > 600);
        kept += errors.map(|choice| f64::from(choice.spans)).sum::<f64>();
    }
    let part = kept / 27.0 / 400.0;
    assert!(part < 0.25, "{part}");
}

/// F1: what a tenant sends ten times as much moves what others keep by less than 2 %.
#[test]
fn a_noisy_tenant_takes_nothing_from_others() {
    let quiet_kept = |noise: f64| {
        let mut ours = Ours::new(goal(400.0, "strata: [{name: rest, share: by(fingerprint)}]")).unwrap();
        ours = ours.with_tenants(|key| if key < 50 { "quiet" } else { "noisy" });
        // Small traces, so that it is the tenants that are seen, not the noise of sizes.
        let traffic = Traffic {
            spans_per_trace: 1.0,
            burst: Burst::None,
            ..Traffic::default()
        };
        let noisy = Traffic {
            spans_per_sec: 1000.0 * noise,
            ..traffic
        };
        let (mut random, mut other) = (Random::new(2), Random::new(3));
        let mut kept = 0.0;
        for second in 0..150 {
            let mut traces = traffic.second(second, &mut random);
            traces.extend(noisy.second(second, &mut other).into_iter().map(|trace| Made {
                key: trace.key + 50,
                ..trace
            }));
            let choices = ours.second(second, &traces, f64::INFINITY);
            let quiet = choices.iter().filter(|choice| choice.is_kept && choice.key < 50);
            kept += quiet.map(|choice| f64::from(choice.spans)).sum::<f64>();
        }
        kept
    };
    let (before, after) = (quiet_kept(1.0), quiet_kept(10.0));
    assert!((after / before - 1.0).abs() < 0.02, "{before} {after}");
}

#[test]
fn first_ones_probes_and_drops() {
    let strata = r#"
strata:
  - {name: never, when: root.op == "GET /0", target: drop}
  - {name: rare, first: 2, window: 60s}
  - {name: probe, when: root.op == "GET /1", target: 10%}
  - {name: rest, target: all}
"#;
    let mut ours = Ours::new(policy(strata)).unwrap();
    let (traffic, mut random) = (Traffic::default(), Random::new(6));
    let mut seen: BTreeMap<(String, bool), u32> = BTreeMap::new();
    for second in 0..50 {
        let traces = traffic.second(second, &mut random);
        ours.second(second, &traces, f64::INFINITY);
        for verdict in &ours.output().verdicts {
            *seen
                .entry((verdict.decision.reason.to_string(), verdict.keep))
                .or_default() += 1;
        }
        for row in &ours.output().ticks {
            assert!(row.kept_traces <= row.seen_traces && &*row.tenant == "sim");
        }
    }
    let of = |name: &str, keep| seen.get(&(name.to_owned(), keep)).copied().unwrap_or(0);
    assert_eq!(
        (of("never", true), of("rare", false), of("rest", false)),
        (0, 0, 0),
        "{seen:?}"
    );
    assert!(of("never", false) > 500 && of("rest", true) > 2000, "{seen:?}");
    // Fingerprints: 49 operations, with and without errors; two of each.
    assert!((98..=196).contains(&of("rare", true)), "{seen:?}");
    let probes = f64::from(of("probe", true)) / f64::from(of("probe", true) + of("probe", false));
    assert!((probes - 0.1).abs() < 0.04, "{probes}");
}

/// A dry run keeps everything, and its ticks say of a minute what those of a run in earnest say.
#[test]
fn a_dry_run_says_what_the_policy_would_keep() {
    let ticks = |dry_run| {
        let mut policy = goal(200.0, ERRORS_AND_REST);
        policy.dry_run = dry_run;
        let (mut ours, mut random) = (Ours::new(policy).unwrap(), Random::new(6));
        let mut ticks = Vec::new();
        for second in 0..60 {
            let traces = Traffic::default().second(second, &mut random);
            ours.second(second, &traces, f64::INFINITY);
            for verdict in ours.output().verdicts.iter().filter(|_| dry_run) {
                assert!(verdict.keep && verdict.decision.threshold == Threshold::ALWAYS && verdict.shadow.is_some());
            }
            ticks.extend(ours.output().ticks.iter().cloned());
        }
        ticks
    };
    let (dry, real) = (ticks(true), ticks(false));
    assert_eq!(dry, real);
    let spans = dry.iter().map(|row| row.kept_cost).sum::<f64>() / f64::from(SPAN_BYTES) / STORED_PER_BYTE / 60.0;
    assert!((150.0..=210.0).contains(&spans), "{spans} of 200 spans a second");
}
