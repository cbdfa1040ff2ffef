//! A trace is decided once, and a restart or a new policy goes on where things were.

use std::collections::BTreeMap;

use super::{ERRORS_AND_REST, SECOND_NS, goal, policy, sampler};
use crate::fault::Fault;
use crate::sampler::{Offer, Output, Tick};
use crate::sim::{Ours, Random, START_NS, Traffic};

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

/// The state of a checkpoint brings back debt, calibration, audits and what became of traces.
#[test]
fn a_restart_goes_on_where_it_was() {
    let mut ours = Ours::new(goal(200.0, "")).unwrap();
    let (traffic, mut random) = (Traffic::default(), Random::new(6));
    for second in 0..20 {
        let traces = traffic.second(second, &mut random);
        ours.second(second, &traces, f64::INFINITY);
    }
    ours.sampler().calibrate(None, 1.0, 1.5);
    let decided: Vec<_> = ours
        .output()
        .verdicts
        .iter()
        .map(|verdict| (verdict.trace, verdict.keep))
        .collect();
    let bytes = ours.sampler().encode();
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
    assert_eq!(again.encode().len(), bytes.len());
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
