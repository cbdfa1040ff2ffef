//! M1: memory and waiting traces stay within their limits, and weights say what that cost.

use super::estimates::{BUSY, bias, bias_of};
use super::{ERRORS_AND_REST, SECOND_NS, goal, sampler};
use crate::fault::Fault;
use crate::sampler::{Offer, Output, Tick};
use crate::sim::{Burst, Random, START_NS, Traffic};
use crate::threshold::Threshold;

/// M1 and U1 together: memory stays within its limit, and what outlives an eviction stands for what did not.
#[test]
fn evicted_traces_are_in_the_weights_of_those_that_stay() {
    let count = |fault| {
        let make = || {
            let mut policy = goal(1e6, ERRORS_AND_REST);
            policy.trace.buffer_bytes = 300_000;
            sampler(policy, fault)
        };
        bias_of("count", make, &BUSY, 40, 24)
    };
    let right = count(Fault::None);
    assert!(!right.is_there(), "{} {}", right.mean, right.error);
    let wrong = count(Fault::EvictionWithoutWeight);
    assert!(wrong.mean < 0.95, "{}", wrong.mean);
}

/// A tenant beyond its number of waiting traces: whole traces go, the weights of its others say so, and no other tenant notices.
#[test]
fn a_limit_of_waiting_traces_is_in_the_weights_of_its_tenant_alone() {
    let found = |fault| {
        let make = || {
            let mut sampler = sampler(goal(1e6, ERRORS_AND_REST), fault);
            let tenant = sampler.tenant("even");
            sampler.limit_live(tenant, Some(100));
            sampler
        };
        let found = bias(make, &BUSY, 40, 24);
        let of = |group: &str| {
            found
                .iter()
                .find(|bias| bias.group == group)
                .map(|bias| (bias.mean, bias.error))
        };
        println!("{fault:?}: {:?}", (of("tenant even"), of("tenant odd")));
        assert_eq!(of("tenant odd"), Some((1.0, 0.0)), "all of the other tenant stays");
        found.into_iter().find(|bias| bias.group == "tenant even").unwrap()
    };
    let right = found(Fault::None);
    assert!(!right.is_there(), "{} {}", right.mean, right.error);
    assert!(right.error > 0.0, "the limit is met");
    let wrong = found(Fault::EvictionWithoutWeight);
    assert!(wrong.mean < 0.95, "{}", wrong.mean);
}

/// The limit holds at every moment, what it costs has its reason, and once the tenant is quiet it lets everything in again.
#[test]
fn no_more_traces_wait_than_may() {
    let mut sampler = sampler(goal(1e6, ERRORS_AND_REST), Fault::None);
    let tenant = sampler.tenant("a");
    sampler.limit_live(tenant, Some(50));
    let (mut output, mut random) = (Output::default(), Random::new(3));
    let (mut made, mut decided, mut of_limit) = (0u64, 0u64, 0u64);
    for second in 0..40u64 {
        let traffic = Traffic {
            // 20 traces a second wait 2 s each: in the end they fit.
            spans_per_sec: if second < 20 { 2000.0 } else { 100.0 },
            burst: Burst::None,
            ..Traffic::default()
        };
        for trace in traffic.second(second, &mut random) {
            let (span, at) = trace.span(b"cart", b"GET");
            sampler.offer(trace.at_ns, tenant, &span, at, || (), &mut output);
            made += 1;
            assert!(sampler.waiting() <= 50, "{}", sampler.waiting());
        }
        let now_ns = START_NS + (second + 1) * SECOND_NS;
        let rate = f64::INFINITY;
        sampler.tick(Tick { now_ns, rate }, &mut output);
        let went = |verdict: &&crate::Verdict<()>| *verdict.decision.reason == *crate::LIVE_TRACES;
        let gone = output.verdicts.iter().filter(went).count() as u64;
        assert!(second < 35 || gone == 0, "second {second}: {gone} go");
        assert!(output.verdicts.iter().filter(went).all(|verdict| !verdict.keep));
        (of_limit, decided) = (of_limit + gone, decided + output.verdicts.len() as u64);
        output.clear();
    }
    assert!(of_limit > made / 4, "{of_limit} of {made}");
    assert_eq!(
        made,
        decided + sampler.waiting() as u64,
        "every trace has its answer or waits"
    );
}

/// M1: twenty times the traffic and a trace of a million spans: memory within 2 % of its limit.
#[test]
fn memory_stays_within_its_limit() {
    let mut policy = goal(200.0, ERRORS_AND_REST);
    policy.trace.buffer_bytes = 2 << 20;
    let mut sampler = sampler(policy, Fault::None);
    let tenant = sampler.tenant("a");
    let mut output = Output::default();
    let traffic = Traffic {
        spans_per_sec: 20_000.0 * 5.0,
        burst: Burst::None,
        ..Traffic::default()
    };
    let mut random = Random::new(1);
    let giant = traffic.second(0, &mut random).remove(0);
    let (mut most, mut giant_left, mut giant_spans) = (0, 1_000_000u32, 0u64);
    for second in 0..8 {
        for trace in traffic.second(second, &mut random) {
            let (span, at) = trace.span(b"cart", b"GET");
            sampler.offer(trace.at_ns, tenant, &span, at, || (), &mut output);
            let (mut span, at) = giant.span(b"cart", b"GIANT");
            for number in 0..20.min(giant_left) {
                span.head.end = giant.at_ns + u64::from(giant_left - number);
                match sampler.offer(trace.at_ns, tenant, &span, at, || (), &mut output) {
                    Offer::Late(_) | Offer::Dropped => giant_spans += 1,
                    Offer::Held | Offer::Refused => {}
                    Offer::Again => panic!("no span comes again"),
                }
            }
            giant_left = giant_left.saturating_sub(20);
            most = most.max(sampler.bytes());
            for verdict in output.verdicts.drain(..).filter(|verdict| verdict.trace == giant.id) {
                giant_spans += u64::from(verdict.span_count);
            }
            output.spans.clear();
        }
        let now_ns = START_NS + (second + 1) * SECOND_NS;
        sampler.tick(
            Tick {
                now_ns,
                rate: f64::INFINITY,
            },
            &mut output,
        );
    }
    let now_ns = START_NS + 100 * SECOND_NS;
    sampler.finish(
        Tick {
            now_ns,
            rate: f64::INFINITY,
        },
        &mut output,
    );
    let left = output.verdicts.iter().filter(|verdict| verdict.trace == giant.id);
    giant_spans += left.map(|verdict| u64::from(verdict.span_count)).sum::<u64>();
    assert!(most as f64 <= 1.02 * f64::from(2 << 20), "{most}");
    assert_eq!(giant_left, 0);
    assert_eq!(giant_spans, 1_000_000, "every span of the giant has its answer");
    assert!(sampler.admission() > Threshold::ALWAYS);
}

/// F1 for memory: a tenant that sends more than there is room for loses its own traces, and no other tenant's weights move.
#[test]
fn a_noisy_tenant_takes_no_memory_from_others() {
    for (what, errors) in [("open", 0.0), ("protected", 1.0)] {
        let mut policy = goal(1e6, ERRORS_AND_REST);
        policy.trace.buffer_bytes = 1 << 20;
        let mut sampler = sampler(policy, Fault::None);
        let tenants = ["noisy", "quiet"].map(|name| sampler.tenant(name));
        let (mut output, mut random) = (Output::default(), Random::new(3));
        let mut gone = [0.0; 2];
        for second in 0..20u64 {
            for (tenant, (spans_per_sec, errors)) in tenants.into_iter().zip([(20_000.0, errors), (2_000.0, 0.0)]) {
                let traffic = Traffic {
                    spans_per_sec,
                    errors,
                    burst: Burst::None,
                    ..Traffic::default()
                };
                for trace in traffic.second(second, &mut random) {
                    let (span, at) = trace.span(b"cart", b"GET");
                    sampler.offer(trace.at_ns, tenant, &span, at, || (), &mut output);
                }
            }
            let now_ns = START_NS + (second + 1) * SECOND_NS;
            let rate = f64::INFINITY;
            sampler.tick(Tick { now_ns, rate }, &mut output);
            assert!(!sampler.is_cramped(), "one of two tenants is");
            for verdict in output.verdicts.drain(..) {
                let is_quiet = verdict.tenant == tenants[1];
                gone[usize::from(is_quiet)] += f64::from(u8::from(!verdict.keep));
                assert!(!is_quiet || verdict.decision.threshold == Threshold::ALWAYS);
            }
            output.clear();
        }
        assert!(gone[0] > 1000.0 && gone[1] == 0.0, "{what}: {gone:?}");
    }
}
