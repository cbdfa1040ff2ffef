//! A trace is decided once, and a restart or a new policy goes on where things were.

use std::collections::{BTreeMap, BTreeSet};

use super::{ERRORS_AND_REST, SECOND_NS, goal, policy, sampler};
use crate::fault::Fault;
use crate::recent::Recent;
use crate::sampler::{Offer, Output, Sampler, Tick};
use crate::sim::{Burst, Made, Ours, Random, START_NS, Traffic};
use crate::threshold::Threshold;
use crate::verdict::{SpanAt, Trigger, Verdict};
use tailwater_model::ids::Lsn;
use tailwater_model::otlp::value::Raw;

/// A trace may be known better twice in a moment, each time with the same deadline.
#[test]
fn a_trace_is_decided_once_however_often_its_deadline_is_set() {
    let waits = "trace: {root_settle: 10s, idle: 10s, timeout: 10s}";
    let mut sampler = sampler(policy(waits), Fault::None);
    let (tenant, mut out) = (sampler.tenant("sim"), Output::default());
    let made = &Traffic::default().second(0, &mut Random::new(1))[0];
    // Something within, a server, the root.
    for (at, (parent, kind)) in [(&[1; 8][..], 1), (&[1; 8], 2), (&[], 2)].into_iter().enumerate() {
        let (mut span, at_log) = made.span(b"s", b"op");
        (span.head.parent_span_id, span.head.kind) = (parent, kind);
        span.head.start += at as u64;
        assert_eq!(
            sampler.offer(START_NS, tenant, &span, at_log, || (), &mut out),
            Offer::Held
        );
    }
    let (now_ns, rate) = (START_NS + 11 * SECOND_NS, f64::INFINITY);
    sampler.tick(Tick { now_ns, rate }, &mut out);
    let spans: Vec<u32> = out.verdicts.iter().map(|verdict| verdict.span_count).collect();
    assert_eq!((spans, sampler.waiting()), (vec![3], 0));
}

/// A trace is decided once, whenever its root comes after its first span: also when it settles just when the trace would have been idle.
#[test]
fn a_root_that_settles_when_its_trace_is_idle_decides_it_once() {
    let mut random = Random::new(1);
    let made = Traffic::default().second(0, &mut random).remove(0);
    for root_ms in (0..8_000).step_by(50) {
        let mut sampler = sampler(goal(200.0, ERRORS_AND_REST), Fault::None);
        let (tenant, mut output) = (sampler.tenant("a"), Output::default());
        let mut verdicts = 0;
        for half in 0..80u64 {
            let now_ns = START_NS + half * SECOND_NS / 2;
            if half == 0 || root_ms / 500 == half {
                let (mut span, at) = made.span(b"cart", b"GET");
                span.head.parent_span_id = if half == 0 { &[1; 8] } else { &[] };
                span.head.span_id = if half == 0 { &[2; 8] } else { &[1; 8] };
                let at_ns = START_NS + if half == 0 { 0 } else { root_ms * 1_000_000 };
                sampler.offer(at_ns, tenant, &span, at, || (), &mut output);
            }
            let rate = f64::INFINITY;
            sampler.tick(Tick { now_ns, rate }, &mut output);
            verdicts += output.verdicts.len();
            output.clear();
        }
        assert_eq!((verdicts, sampler.waiting()), (1, 0), "root after {root_ms} ms");
    }
}

/// What spans say of the time moves nothing but durations: with clocks that are hours off, each service's by others, every trace is decided at the same
/// tick, for the same reason and with the same T.
#[test]
fn clocks_that_are_hours_off_change_no_decision() {
    const HOUR_NS: i64 = 3600 * SECOND_NS as i64;
    let decided = |seed: u64, skew: fn(u32) -> i64| {
        let traffic = Traffic {
            errors: 0.05,
            burst: Burst::Scale,
            burst_s: (10, 20),
            ..Traffic::default()
        };
        let mut sampler = sampler(goal(300.0, ERRORS_AND_REST), Fault::None);
        let (tenant, mut output, mut random) = (sampler.tenant("a"), Output::default(), Random::new(seed));
        let mut found = Vec::new();
        for second in 0..40 {
            for made in traffic.second(second, &mut random) {
                let services = [made.key % 7, made.key % 5 + 7];
                for (at, service) in services.into_iter().enumerate() {
                    let name = format!("service-{service}");
                    let (mut span, mut at_log) = made.span(name.as_bytes(), b"GET");
                    // The call comes first, then the root.
                    let ids: [&[u8]; 2] = [&[1; 8], &[2; 8]];
                    (span.head.span_id, span.head.parent_span_id) = (ids[at], if at == 0 { ids[1] } else { &[] });
                    (at_log.ordinal, at_log.len) = (at as u32, at_log.len / 2);
                    for time in [&mut span.head.start, &mut span.head.end] {
                        *time = time.saturating_add_signed(skew(service));
                    }
                    sampler.offer(made.at_ns, tenant, &span, at_log, || (), &mut output);
                }
            }
            let (now_ns, rate) = (START_NS + (second + 1) * SECOND_NS, f64::INFINITY);
            sampler.tick(Tick { now_ns, rate }, &mut output);
            for verdict in output.verdicts.drain(..) {
                found.push((second, verdict.trace, verdict.keep, verdict.decision, verdict.trigger));
            }
            output.clear();
        }
        found
    };
    for seed in 0..3 {
        let right = decided(seed, |_| 0);
        let reasons: BTreeSet<&str> = right.iter().map(|(_, _, _, decision, _)| &*decision.reason).collect();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        let wrong: [fn(u32) -> i64; 3] = [
            |service| i64::from(service) % 5 * HOUR_NS,
            |service| -(i64::from(service) % 5) * 7 * HOUR_NS,
            |service| if service % 2 == 0 { i64::MAX } else { -HOUR_NS },
        ];
        for (number, skew) in wrong.into_iter().enumerate() {
            let skewed = decided(seed, skew);
            assert_eq!(skewed.len(), right.len());
            let differs = skewed.iter().zip(&right).find(|(skewed, right)| skewed != right);
            assert_eq!(differs, None, "seed {seed}, skew {number}");
        }
    }
}

/// The state of a checkpoint brings back debt, calibration, audits and what became of traces.
#[test]
fn a_restart_goes_on_where_it_was() {
    let mut ours = Ours::new(goal(200.0, "")).unwrap();
    let (traffic, mut random) = (Traffic::default(), Random::new(6));
    for second in 0..20 {
        let traces = traffic.second(second, &mut random);
        ours.second(second, &traces, f64::INFINITY);
    }
    ours.sampler().calibrate(None, 0.15);
    let decided: Vec<_> = ours
        .output()
        .verdicts
        .iter()
        .map(|verdict| (verdict.trace, verdict.keep))
        .collect();
    let bytes = ours.sampler().encode(&[]);
    let mut again = sampler(goal(200.0, ""), Fault::None);
    again.restore(&bytes).unwrap();
    assert!(!decided.is_empty());
    let (tenant, other) = (again.tenant("sim"), again.tenant("other"));
    for (trace, keep) in decided {
        let of = ours.sampler().tenant("sim");
        assert_eq!(again.recall(tenant, trace), ours.sampler().recall(of, trace));
        assert_eq!(matches!(again.recall(tenant, trace), Some(crate::Late::Kept(_))), keep);
        assert_eq!(
            again.recall(other, trace),
            None,
            "another tenant's trace is another trace"
        );
    }
    for len in (0..bytes.len()).step_by(bytes.len() / 200) {
        assert!(
            sampler(goal(200.0, ""), Fault::None).restore(&bytes[..len]).is_err(),
            "{len}"
        );
    }
    // Byte-equal but for the order of hash sets.
    assert_eq!(again.encode(&[]).len(), bytes.len());
}

/// What a tenant owes is in the checkpoint: after a restart everybody gets what they would have without it.
#[test]
fn a_debt_outlives_a_restart() {
    let make = || sampler(goal(10.0, "strata: [{name: all, target: all}]"), Fault::None);
    let mut random = Random::new(7);
    let mut second = |sampler: &mut Sampler<()>, second: u64, tenant: &str, spans: u32, traces: usize| {
        let (tenant, mut out) = (sampler.tenant(tenant), Output::default());
        for mut made in Traffic::default().second(second, &mut random).into_iter().take(traces) {
            made.spans = spans;
            // Kept by nearly every threshold.
            made.id.0[9] = 0xff;
            let (span, at) = made.span(b"cart", b"GET");
            sampler.offer(made.at_ns, tenant, &span, at, || (), &mut out);
        }
        let tick = |now: u64| Tick {
            now_ns: START_NS + now * SECOND_NS,
            rate: f64::INFINITY,
        };
        (1..4).for_each(|after| sampler.tick(tick(second + after), &mut out));
        assert_eq!(out.verdicts.len(), traces);
        out.verdicts[0].decision.threshold.probability()
    };
    let mut before = make();
    second(&mut before, 0, "quiet", 1, 10);
    second(&mut before, 4, "noisy", 1000, 1);
    let mut after = make();
    after.restore(&before.encode(&[])).unwrap();
    let found = [before, after].map(|mut sampler| {
        let noisy = second(&mut sampler, 8, "noisy", 1, 40);
        (noisy, second(&mut sampler, 12, "quiet", 1, 40))
    });
    assert_eq!(found[0], found[1]);
    assert!(found[0].0 < 0.1 && found[0].1 > 0.2, "{found:?}");
}

/// A reload takes effect for new traces; those that wait are decided by the policy that they began under.
#[test]
fn a_reload_leaves_waiting_traces_to_their_policy() {
    let mut old =
        policy("strata: [{name: old, when: 'any(span.attr[\"a\"] exists)', target: all}, {name: rest, target: all}]");
    old.epoch = 1;
    let mut ours = Ours::new(old).unwrap();
    let mut random = Random::new(6);
    let traffic = Traffic::default();
    let first = traffic.second(0, &mut random);
    ours.second(0, &first, f64::INFINITY);
    let mut new =
        policy("strata: [{name: new, when: 'any(span.attr[\"b\"] exists)', target: all}, {name: rest, target: all}]");
    new.epoch = 2;
    ours.sampler().reload(new).unwrap();
    assert_eq!(
        ours.sampler().keys().len(),
        2,
        "the old key keeps its place while traces wait under it"
    );
    let second = traffic.second(1, &mut random);
    ours.second(1, &second, f64::INFINITY);
    let mut epochs = BTreeMap::new();
    for at in 2..6 {
        ours.second(at, &[], f64::INFINITY);
        for verdict in &ours.output().verdicts {
            *epochs.entry(verdict.decision.epoch).or_insert(0) += 1;
        }
    }
    assert_eq!(epochs[&1], first.len());
    assert_eq!(epochs[&2], second.len());
}

/// Every edit asks for a hundred other attributes, while a trace of the first policy waits.
#[test]
fn a_trace_that_waits_stands_in_the_way_of_no_number_of_reloads() {
    let of = |epoch: u64, keys: Vec<String>| {
        let tests: Vec<_> = keys.iter().map(|key| format!("span.attr[\"{key}\"] exists")).collect();
        let mut policy = policy(&format!(
            "strata: [{{name: met, when: 'any({})', target: all}}, {{name: rest, target: all}}]",
            tests.join(" or ")
        ));
        policy.epoch = epoch;
        policy
    };
    let mut sampler = sampler(of(1, vec!["first".into()]), Fault::None);
    let (tenant, mut out) = (sampler.tenant("a"), Output::default());
    let made = &Traffic::default().second(0, &mut Random::new(1))[0];
    let (mut span, at) = made.span(b"s", b"op");
    sampler.offer(START_NS, tenant, &span, at, || (), &mut out);
    for epoch in 2..52 {
        sampler
            .reload(of(epoch, (0..100).map(|n| format!("{epoch}-{n}")).collect()))
            .unwrap();
        assert_eq!(sampler.keys().len(), 101);
    }
    // Its own attribute is looked for where it always was.
    let values = [Some(Raw(b"\x0a\x03yes"))];
    (span.values, span.head.span_id) = (&values, &[9; 8]);
    sampler.offer(START_NS, tenant, &span, at, || (), &mut out);
    let (now_ns, rate) = (START_NS + 100 * SECOND_NS, f64::INFINITY);
    sampler.tick(Tick { now_ns, rate }, &mut out);
    let reasons: Vec<_> = out.verdicts.iter().map(|verdict| &*verdict.decision.reason).collect();
    assert_eq!((reasons, out.verdicts[0].decision.epoch), (vec!["met"], 1));
}

/// What waits below a record is decided at the next tick, as what is due beside it is.
#[test]
fn what_the_log_has_no_room_for_is_decided_early() {
    let mut sampler = sampler(policy("strata: [{name: rest, target: 50%}]"), Fault::None);
    let (tenant, mut out) = (sampler.tenant("a"), Output::default());
    let made = Traffic::default().second(0, &mut Random::new(1));
    for (lsn, made) in made.iter().enumerate() {
        let (span, mut at) = made.span(b"s", b"op");
        at.lsn = Lsn(lsn as u64 + 1);
        sampler.offer(START_NS, tenant, &span, at, || (), &mut out);
    }
    let rate = f64::INFINITY;
    let mut tick = |now_ns: u64, below: u64| {
        sampler.hurry(Lsn(below));
        sampler.tick(Tick { now_ns, rate }, &mut out);
        let said = out.verdicts.iter().map(|verdict| {
            assert_eq!(verdict.decision.threshold, Threshold::of_probability(0.5));
            verdict.trigger
        });
        let said: Vec<Trigger> = said.collect();
        out.clear();
        said
    };
    assert!(tick(START_NS, 0).is_empty());
    assert_eq!(tick(START_NS, 8), [Trigger::Admission; 7]);
    assert!(tick(START_NS, 8).is_empty());
    // All of them are due.
    let due = tick(START_NS + 100 * SECOND_NS, 20);
    assert_eq!(due.len(), made.len() - 7);
    assert!(!due.contains(&Trigger::Admission));
}

/// Late spans are counted whoever knew the decision, and not twice.
#[test]
fn late_spans_are_counted_before_the_tick_is_over() {
    let mut sampler = sampler(policy("strata: [{name: rest, target: all}]"), Fault::None);
    let (tenant, mut out) = (sampler.tenant("a"), Output::default());
    let made = &Traffic::default().second(0, &mut Random::new(1))[0];
    let (span, at) = made.span(b"s", b"op");
    sampler.offer(START_NS, tenant, &span, at, || (), &mut out);
    let (now_ns, rate) = (START_NS + 100 * SECOND_NS, 1e9);
    sampler.tick(Tick { now_ns, rate }, &mut out);
    let decision = out.verdicts[0].decision.clone();
    out.clear();
    let late = sampler.offer(now_ns, tenant, &span, at, || (), &mut out);
    assert_eq!(late, Offer::Late(decision.clone()));
    sampler.late(tenant, &decision, true);
    sampler.late(tenant, &decision, false);
    let mut rows = Vec::new();
    sampler.counted(&mut rows);
    let row = &rows[0];
    assert_eq!((rows.len(), &*row.tenant, &*row.stratum), (1, "a", "rest"));
    assert_eq!((row.late_spans, row.late_kept_spans, row.seen_traces), (3, 2, 0));
    assert_eq!((row.at_ns, row.rate), (now_ns, 1e9));
    sampler.tick(Tick { now_ns, rate }, &mut out);
    assert!(out.ticks.is_empty());
}

/// A trace with an error of so many spans, each a request of its own.
fn offer_failed(sampler: &mut Sampler<()>, made: &Made, spans: u8, out: &mut Output<()>) {
    let tenant = sampler.tenant("a");
    for number in 0..spans {
        let (mut span, at) = made.span(b"cart", b"GET");
        let id = [number + 1; 8];
        (span.head.span_id, span.head.status_code) = (&id, 2);
        span.head.parent_span_id = if number == 0 { &[] } else { &[1; 8] };
        let at = SpanAt {
            ordinal: number.into(),
            ..at
        };
        sampler.offer(made.at_ns, tenant, &span, at, || (), out);
    }
}

/// What the policy of before decides says nothing of another one's stratum in the same place: not its thresholds, not what its strata owe, and not
/// how slow is slow.
#[test]
fn policies_on_either_side_of_a_reload_share_names_only() {
    let tick = |second: u64| Tick {
        now_ns: START_NS + second * SECOND_NS,
        rate: f64::INFINITY,
    };
    let mut random = Random::new(8);
    let mut made = |second: u64| {
        let mut made = Traffic::default().second(second, &mut random).remove(0);
        // Kept by nearly every threshold.
        made.id.0[9] = 0xff;
        made
    };

    // Thresholds: the old one drops errors, the new one keeps them.
    let of = |error: &str| {
        policy(&format!(
            "trace: {{span_limit: 2}}\nstrata: [{error}, {{name: rest, target: all}}]"
        ))
    };
    let old = of("{name: no, when: any(span.status == error), target: drop}");
    let new = of("{name: error, when: any(span.status == error), target: all}");
    let (mut sampler, mut out) = (sampler(old, Fault::None), Output::default());
    offer_failed(&mut sampler, &made(0), 1, &mut out);
    sampler.reload(new).unwrap();
    sampler.tick(tick(4), &mut out);
    let decided = |out: &mut Output<()>| -> Vec<(String, bool, f64)> {
        let of = |verdict: Verdict<()>| {
            let decision = verdict.decision;
            (
                decision.reason.to_string(),
                verdict.keep,
                decision.threshold.probability(),
            )
        };
        out.spans.clear();
        out.verdicts.drain(..).map(of).collect()
    };
    assert_eq!(
        decided(&mut out),
        [("no".to_owned(), false, Threshold::NEVER.probability())]
    );
    offer_failed(&mut sampler, &made(4), 4, &mut out);
    assert_eq!(
        decided(&mut out),
        [("error".to_owned(), true, 1.0)],
        "with four spans, at once"
    );

    // Limits: one large trace takes more than its stratum has, and no other stratum pays for it.
    let noise = "{name: noise, when: not any(span.status == error), target: all, bytes_per_sec: 1KiB}";
    let error = "{name: error, when: any(span.status == error), target: all, bytes_per_sec: 1KiB}";
    let rest = "{name: rest, target: all}";
    let of = |strata: &str| policy(&format!("strata: [{strata}]"));
    let offer = |sampler: &mut Sampler<()>, second: u64, spans: u32, error: bool, trace: Made, out: &mut Output<()>| {
        let trace = Made {
            at_ns: START_NS + second * SECOND_NS,
            spans,
            error,
            ..trace
        };
        let (tenant, (span, at)) = (sampler.tenant("a"), trace.span(b"cart", b"GET"));
        sampler.offer(trace.at_ns, tenant, &span, at, || (), out);
    };
    let mut sampler = super::sampler(of(&format!("{noise}, {rest}")), Fault::None);
    offer(&mut sampler, 0, 200, false, made(0), &mut out);
    sampler.tick(tick(4), &mut out);
    let noise_kept = decided(&mut out);
    assert!(
        noise_kept[0].0 == "noise" && noise_kept[0].1 && noise_kept[0].2 > 0.05,
        "{noise_kept:?}"
    );
    assert_eq!(sampler.squeezed().collect::<Vec<_>>(), ["noise"]);
    sampler.reload(of(&format!("{error}, {noise}, {rest}"))).unwrap();
    assert_eq!(sampler.squeezed().count(), 0, "nothing of the new one is");
    offer(&mut sampler, 4, 1, true, made(4), &mut out);
    sampler.tick(tick(8), &mut out);
    assert_eq!(decided(&mut out), [("error".to_owned(), true, 1.0)], "it owes nothing");
    sampler.reload(of(&format!("{noise}, {rest}"))).unwrap();
    (0..20).for_each(|_| offer(&mut sampler, 8, 1, false, made(8), &mut out));
    sampler.tick(tick(12), &mut out);
    let owes = decided(&mut out);
    let is_held = owes.iter().all(|(reason, _, p)| reason == "noise" && *p < 0.5);
    assert!(
        owes.len() == 20 && is_held,
        "half of its limit, and it owes still: {owes:?}"
    );

    // Quantiles: 100 ms at place 0 of the old one, 1 ms at place 0 of the new one; a root of 50 ms comes after the reload.
    let of = |quantile: &str| {
        let slow = format!("{{name: slow, when: 'root.duration >= red.{quantile}', target: all}}");
        policy(&format!("strata: [{slow}, {{name: rest, target: all}}]"))
    };
    let mut sampler = super::sampler(of("p98(5m)"), Fault::None);
    let tenant = sampler.tenant("a");
    let recent = |ns| {
        let mut recent = Recent::default();
        recent.set(0, tenant, b"cart", None, ns);
        recent
    };
    sampler.set_recent(recent(100_000_000));
    let waits = Made {
        duration_ns: 50_000_000,
        ..made(0)
    };
    let (mut span, at) = waits.span(b"cart", b"GET");
    (span.head.parent_span_id, span.head.span_id) = (&[1; 8], &[2; 8]);
    sampler.offer(waits.at_ns, tenant, &span, at, || (), &mut out);
    sampler.reload(of("p50(1m)")).unwrap();
    sampler.set_recent(recent(1_000_000));
    (span.head.parent_span_id, span.head.span_id) = (&[], &[1; 8]);
    sampler.offer(waits.at_ns, tenant, &span, at, || (), &mut out);
    let after = Made {
        duration_ns: 50_000_000,
        ..made(0)
    };
    offer_failed(&mut sampler, &after, 1, &mut out);
    sampler.tick(tick(8), &mut out);
    let mut reasons: Vec<String> = decided(&mut out).into_iter().map(|(reason, ..)| reason).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["rest", "slow"]);

    // What both ask for stays known.
    sampler.reload(of("p50(1m)")).unwrap();
    offer_failed(
        &mut sampler,
        &Made {
            duration_ns: 50_000_000,
            ..made(8)
        },
        1,
        &mut out,
    );
    sampler.tick(tick(16), &mut out);
    assert_eq!(decided(&mut out)[0].0, "slow");
}
