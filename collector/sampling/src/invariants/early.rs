//! B1, F1 and U1 for traces that go beyond their limit of spans, and for tenants whose traces are worth ticks.

use super::{SECOND_NS, policy};
use crate::late::Memory;
use crate::policy::Policy;
use crate::sampler::{Offer, Output, Sampler, Tick};
use crate::sim::{Random, SPAN_BYTES, START_NS, Traffic};

/// Traces of so many spans each, all of a trace in one request.
#[derive(Debug, Clone, Copy)]
struct Sender {
    tenant: &'static str,
    spans: u32,
    errors: f64,
    spans_per_sec: fn(u64) -> f64,
}

/// What became of a tenant's traces.
#[derive(Debug, Default, Clone)]
struct Found {
    /// Spans kept, by second.
    kept: Vec<f64>,
    /// Traces, and what those kept stand for.
    traces: f64,
    sum: f64,
    /// Largest weight.
    heaviest: f64,
}

impl Found {
    fn mean(&self, seconds: std::ops::Range<usize>) -> f64 {
        let of = &self.kept[seconds];
        of.iter().sum::<f64>() / of.len() as f64
    }
}

/// Runs senders against a policy, with two ticks a second. Equal senders send the same whatever the others do.
fn run(policy: Policy, senders: &[Sender], seconds: u64, seed: u64) -> Vec<Found> {
    let mut sampler: Sampler<()> = Sampler::new(policy, Memory::default(), START_NS).unwrap();
    let mut out = Output::default();
    let mut random: Vec<Random> = (0..senders.len() as u64)
        .map(|number| Random::new(seed * 1000 + number))
        .collect();
    let mut found = vec![Found::default(); senders.len()];
    let tenants: Vec<u32> = senders.iter().map(|sender| sampler.tenant(sender.tenant)).collect();
    for second in 0..seconds + 5 {
        let mut traces = Vec::new();
        for (number, sender) in senders.iter().enumerate().filter(|_| second < seconds) {
            let traffic = Traffic {
                spans_per_sec: (sender.spans_per_sec)(second),
                spans_per_trace: f64::from(sender.spans),
                keys: 5,
                errors: sender.errors,
                ..Traffic::default()
            };
            let made = traffic.second(second, &mut random[number]);
            traces.extend(made.into_iter().map(|trace| (number, trace)));
        }
        traces.sort_by_key(|(_, trace)| (trace.at_ns, trace.id));
        let mut next = traces.iter().peekable();
        for half in 1..=2 {
            let now_ns = START_NS + second * SECOND_NS + half * SECOND_NS / 2;
            while let Some((number, made)) = next.next_if(|(_, made)| made.at_ns < now_ns) {
                for child in 0..senders[*number].spans {
                    let id = u64::from(child + 1).to_be_bytes();
                    let (mut span, mut at) = made.span(b"cart", b"GET");
                    (span.len, at.len) = (SPAN_BYTES as usize, SPAN_BYTES);
                    (span.head.span_id, at.ordinal) = (&id, child);
                    span.head.parent_span_id = if child == 0 { &[] } else { &[9; 8] };
                    let offer = sampler.offer(made.at_ns, tenants[*number], &span, at, || (), &mut out);
                    assert!(!matches!(offer, Offer::Again | Offer::Refused));
                }
            }
            let rate = f64::INFINITY;
            sampler.tick(Tick { now_ns, rate }, &mut out);
        }
        found.iter_mut().for_each(|found| found.kept.push(0.0));
        for verdict in out.verdicts.drain(..) {
            let of = tenants.iter().position(|tenant| *tenant == verdict.tenant).unwrap();
            let found = &mut found[of];
            found.traces += 1.0;
            if verdict.keep {
                let weight = verdict.decision.threshold.weight();
                *found.kept.last_mut().unwrap() += f64::from(verdict.span_count);
                (found.sum, found.heaviest) = (found.sum + weight, found.heaviest.max(weight));
            }
        }
        out.clear();
    }
    assert_eq!(sampler.waiting(), 0, "everything is decided");
    found
}

const REST: &str = "strata: [{name: rest, share: by(fingerprint)}]";
const ERRORS: &str = r#"
strata:
  - {name: error, when: any(span.status == error), target: all}
  - {name: rest, share: by(fingerprint)}
"#;

fn limited(spans_per_sec: f64, span_limit: u32, strata: &str) -> Policy {
    policy(&format!(
        "budget: {{spans_per_sec: {spans_per_sec}}}\ntrace: {{span_limit: {span_limit}}}\n{strata}"
    ))
}

/// B1 with an empty bucket: five times the traffic, a tenth of it kept, whether traces end just beyond the limit and wait for the tick, or go so far that
/// they do not.
#[test]
fn traces_beyond_their_limit_keep_to_the_budget() {
    for (spans, strata) in [(150, REST), (150, ERRORS), (250, REST), (250, ERRORS)] {
        let sender = Sender {
            tenant: "a",
            spans,
            errors: 0.5,
            spans_per_sec: |second| if second < 20 { 4_000.0 } else { 20_000.0 },
        };
        let found = &run(limited(2000.0, 100, strata), &[sender], 80, 1)[0];
        let (minute, heaviest) = (found.mean(22..80) / 2000.0, found.heaviest);
        let tens = found.kept[22..80].windows(10);
        let tens = tens.map(|ten| (ten.iter().sum::<f64>() / 20_000.0 - 1.0).abs());
        let ten = tens.fold(0.0, f64::max);
        println!(
            "{spans} spans: a minute {minute:.3}, ten seconds off {ten:.3}, HT/true {:.3}, heaviest {heaviest:.0}",
            found.sum / found.traces
        );
        assert!((minute - 1.0).abs() <= 0.02, "{spans}: {minute}");
        // Of 80 traces of 250 spans in ten seconds a few more are lent.
        assert!(ten <= 0.1, "{spans}: {ten}");
    }
}

/// U1 for the same.
#[test]
fn traces_beyond_their_limit_are_counted_right() {
    for spans in [150, 250] {
        let sender = Sender {
            tenant: "a",
            spans,
            errors: 0.5,
            spans_per_sec: |second| if second < 4 { 1_000.0 } else { 5_000.0 },
        };
        let off: Vec<f64> = (0..40)
            .map(|seed| run(limited(1000.0, 100, ERRORS), &[sender], 16, seed).remove(0))
            .map(|found| found.sum / found.traces - 1.0)
            .collect();
        let n = off.len() as f64;
        let mean = off.iter().sum::<f64>() / n;
        let error = (off.iter().map(|off| (off - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
        println!("{spans} spans: {mean:.4} +- {error:.4}");
        assert!(mean.abs() <= 3.0 * error, "{spans}: {mean} {error}");
        assert!(error < 0.04, "{spans}: {error}");
    }
}

/// F1: what others keep moves by less than 2 % when a tenant sends many times as much: of errors without a cap, all the time or every few ticks, or of
/// traces beyond the limit; whether the others are within their share, or everybody is beyond it.
#[test]
fn a_tenant_makes_up_for_its_own_debt() {
    type Rate = fn(u64) -> f64;
    const STEADY: [[Rate; 3]; 2] = [
        [|_| 450.0, |_| 600.0, |_| 9_000.0],
        [|_| 2_000.0, |_| 3_000.0, |_| 9_000.0],
    ];
    // Away most of the time, and worth its share of all of it when it comes.
    const AT_TIMES: [[Rate; 3]; 2] = [
        [
            |_| 450.0,
            |second| if second % 4 == 0 { 2_400.0 } else { 0.0 },
            |second| if second % 4 == 0 { 12_000.0 } else { 0.0 },
        ],
        [
            |_| 2_000.0,
            |second| if second % 4 == 0 { 4_000.0 } else { 0.0 },
            |second| if second % 4 == 0 { 12_000.0 } else { 0.0 },
        ],
    ];
    let mut moved = Vec::new();
    for (what, spans, errors, rates) in [
        ("errors", 10, 1.0, STEADY),
        ("errors at times", 10, 1.0, AT_TIMES),
        ("beyond the limit", 150, 0.0, STEADY),
        ("beyond the limit, failed", 150, 1.0, STEADY),
        ("far beyond the limit", 250, 0.0, STEADY),
        ("far beyond the limit, failed", 250, 1.0, STEADY),
    ] {
        for [offered, before, after] in rates {
            let kept = |noise: Rate| {
                let noisy = Sender {
                    tenant: "noisy",
                    spans,
                    errors,
                    spans_per_sec: noise,
                };
                let quiet = Sender {
                    tenant: "quiet",
                    spans: 2,
                    errors: 0.1,
                    spans_per_sec: offered,
                };
                let found = run(limited(1000.0, 100, ERRORS), &[noisy, quiet], 100, 3);
                (found[0].mean(20..100), found[1].mean(20..100))
            };
            let (before, after) = (kept(before), kept(after));
            println!("{what}, {} offered: {before:.1?} {after:.1?}", offered(0));
            moved.push((what, after.1 / before.1 - 1.0));
        }
    }
    assert!(moved.iter().all(|(_, by)| by.abs() < 0.02), "{moved:.3?}");
}
