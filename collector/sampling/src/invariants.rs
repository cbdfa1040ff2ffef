//! The invariants of `design/sampling.md` 5.5 that a sampler can be held to alone, with their acceptance numbers; and that each of the
//! mistakes of [`Fault`] breaks one of them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use crate::fault::Fault;
use crate::late::Memory;
use crate::policy::{self, Policy};
use crate::sampler::{Offer, Output, Sampler, Tick};
use crate::sim::{Burst, Made, Ours, Random, SPAN_BYTES, START_NS, STORED_PER_BYTE, Traffic, compare, score};
use crate::threshold::{Randomness, Threshold};
use tailwater_model::ids::TraceId;
use tailwater_slo::estimate::{NO_TRACE, Part, Seen, total};
use tailwater_slo::interval::Confidence;

mod complete;

const SECOND_NS: u64 = 1_000_000_000;

fn policy(text: &str) -> Policy {
    policy::read(Path::new("test.yaml"), text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A policy with a budget in bytes that stands for this many spans a second.
fn goal(spans_per_sec: f64, strata: &str) -> Policy {
    let bytes = spans_per_sec * f64::from(SPAN_BYTES) * STORED_PER_BYTE;
    policy(&format!("budget: {{stored_bytes_per_sec: {bytes}}}\n{strata}"))
}

const ERRORS_AND_REST: &str = r#"
strata:
  - {name: error, when: any(span.status == error), target: all, cap: 50%}
  - {name: slow, when: root.duration >= 1s, target: all, cap: 25%}
  - {name: rest, share: by(fingerprint), alpha: 0.3}
"#;

fn sampler(policy: Policy, fault: Fault) -> Sampler<()> {
    Sampler::new(policy, Memory::default(), START_NS)
        .unwrap()
        .with_fault(fault)
}

// ---- budget

/// B1 and the table of section 6: steady and after the burst at least 97 %, the burst within 5 %, EMA's excess beaten 20 times.
#[test]
fn the_budget_holds_from_the_first_second_of_a_burst() {
    let traffic = Traffic::default();
    let table = compare(&goal(200.0, ""), 200.0, &traffic, &[1, 2, 3]).unwrap();
    println!("goal 200 spans/s of {} offered\n{table}", traffic.spans_per_sec);
    for burst in [Burst::Scale, Burst::OneKey, Burst::Flood] {
        let of = |name| {
            table
                .0
                .iter()
                .find(|line| line.name == name && line.burst == burst)
                .unwrap()
                .score
        };
        let (ours, ema) = (of("Tailwater"), of("EMAThroughput"));
        assert!((0.97..=1.03).contains(&ours.steady), "{burst:?} {ours:?}");
        assert!((ours.burst - 1.0).abs() <= 0.05, "{burst:?} {ours:?}");
        assert!((0.97..=1.05).contains(&ours.after), "{burst:?} {ours:?}");
        assert!(ours.excess * 20.0 <= ema.excess, "{burst:?} {ours:?} {ema:?}");
        assert!((ours.estimate - 1.0).abs() < 0.1, "{burst:?} {ours:?}");
    }
}

/// B1 at ten times the scale: ten seconds within 5 % from the third on, a minute within 1 %, one second at most 1.5 times.
#[test]
fn at_scale_ten_seconds_are_within_five_percent() {
    for burst in [Burst::Scale, Burst::OneKey, Burst::Flood] {
        let traffic = Traffic {
            spans_per_sec: 10_000.0,
            burst,
            burst_s: (130, 190),
            ..Traffic::default()
        };
        let mut ours = Ours::new(goal(2000.0, "")).unwrap();
        let got = score(&traffic, 2000.0, 5, 2, |second, traces, _| {
            ours.second(second, traces, f64::INFINITY)
        });
        println!("{burst:?}: {got:?}");
        assert!(got.tens <= 0.05, "{burst:?} {got:?}");
        assert!((got.burst - 1.0).abs() <= 0.01, "{burst:?} {got:?}");
        assert!(got.worst <= 1.5, "{burst:?} {got:?}");
    }
}

/// B2, as far as it goes without files: what is stored differs from what is expected, by service, and after calibration the budget holds.
#[test]
fn calibration_brings_the_budget_in_bytes_to_what_is_stored() {
    let budget = 400.0 * f64::from(SPAN_BYTES) * STORED_PER_BYTE;
    let mut ours = Ours::new(goal(400.0, "")).unwrap();
    let (traffic, mut random) = (Traffic::default(), Random::new(9));
    let (mut stored, mut last_ten) = ([0.0; 7], 0.0);
    let mut expected = [0.0; 7];
    for second in 0..1500 {
        let traces = traffic.second(second, &mut random);
        let choices = ours.second(second, &traces, f64::INFINITY);
        let costs: Vec<f64> = ours.output().verdicts.iter().map(|verdict| verdict.cost).collect();
        for (choice, cost) in choices.iter().zip(costs).filter(|(choice, _)| choice.is_kept) {
            let service = (choice.key % 7) as usize;
            let size = f64::from(choice.spans * SPAN_BYTES) * (0.03 + 0.04 * service as f64);
            stored[service] += size;
            expected[service] += cost;
            last_ten += if second >= 900 { size } else { 0.0 };
        }
        if second % 60 == 59 {
            for service in 0..7 {
                let name = format!("service-{service}");
                ours.sampler()
                    .calibrate(Some(&name), expected[service], stored[service]);
            }
            (stored, expected) = ([0.0; 7], [0.0; 7]);
        }
    }
    let used = last_ten / 600.0 / budget;
    assert!((used - 1.0).abs() <= 0.05, "{used}");
}

/// A budget that pays for one trace a tick, with half of all traces failed and capped: a trace more or less makes a debt or savings of whole ticks,
/// and yet weights stay alike, so that what is kept says nearly as much as equal weights would.
#[test]
fn a_budget_of_few_traces_leaves_weights_even() {
    let strata = r#"
strata:
  - {name: error, when: any(span.status == error), target: all, cap: 30%}
  - {name: rest, share: all}
"#;
    let traffic = Traffic {
        errors: 0.5,
        burst: Burst::None,
        ..Traffic::default()
    };
    let (mut ours, mut random) = (Ours::new(goal(10.0, strata)).unwrap(), Random::new(12));
    let (mut spans, mut weights) = (0.0, [(0.0, 0.0, 0.0); 2]);
    for second in 0..2000 {
        let traces = traffic.second(second, &mut random);
        for choice in ours.second(second, &traces, f64::INFINITY) {
            if choice.is_kept {
                spans += f64::from(choice.spans);
                let (kept, sum, squares) = &mut weights[usize::from(choice.error)];
                (*kept, *sum, *squares) = (*kept + 1.0, *sum + choice.weight, *squares + choice.weight.powi(2));
            }
        }
    }
    let effective = weights.map(|(kept, sum, squares)| sum * sum / squares / kept);
    println!("{spans} spans for 20000; the kept are worth {effective:?} of as many of equal weight");
    // What two seconds of luck leave unspent is lost: `burst_sec`.
    assert!((spans / 2000.0 / 10.0 - 1.0).abs() < 0.05, "{spans}");
    assert!(weights.iter().all(|(kept, ..)| *kept > 400.0), "{weights:?}");
    assert!(effective.iter().all(|part| *part > 0.65), "{effective:?}");
}

/// A budget of spans, one of a day, and both.
#[test]
fn every_kind_of_budget_holds() {
    let kept = |policy: Policy, seconds: u64| {
        let mut ours = Ours::new(policy).unwrap();
        let (traffic, mut random) = (Traffic::default(), Random::new(3));
        let (mut kept, mut bytes) = (0.0, 0.0);
        for second in 0..seconds {
            let traces = traffic.second(second, &mut random);
            ours.second(second, &traces, f64::INFINITY);
            for verdict in ours
                .output()
                .verdicts
                .iter()
                .filter(|verdict| verdict.keep && second >= 10)
            {
                // One span stands for all of a trace, so a budget of spans is one of traces here.
                kept += f64::from(verdict.span_count);
                bytes += verdict.cost;
            }
        }
        (kept / (seconds - 10) as f64, bytes / (seconds - 10) as f64)
    };
    let (spans, _) = kept(policy("budget: {spans_per_sec: 30}"), 200);
    assert!((spans / 30.0 - 1.0).abs() < 0.03, "{spans}");
    let (_, day) = kept(policy("budget: {stored_bytes_per_day: 864000000}"), 200);
    assert!((day / 10_000.0 - 1.0).abs() < 0.03, "{day}");
    let (both, _) = kept(policy("budget: {spans_per_sec: 10, stored_bytes_per_sec: 1GiB}"), 200);
    assert!((both / 10.0 - 1.0).abs() < 0.03, "{both}");
}

// ---- weights

/// Of a group: what there was, and what was kept of it.
#[derive(Debug, Default)]
struct Group {
    truth: f64,
    kept: Vec<Part>,
}

/// What the kept ones of a group say of all.
#[derive(Debug, Default, Clone, Copy)]
struct Estimate {
    truth: f64,
    sum: f64,
    variance: f64,
    /// The interval as users get it.
    low: f64,
    high: f64,
}

impl Group {
    fn add(&mut self, value: f64, kept: Option<f64>) {
        self.truth += value;
        if let Some(weight) = kept.filter(|_| value != 0.0) {
            self.kept.push(Part {
                trace: NO_TRACE,
                weight,
                num: value,
                den: 0.0,
            });
        }
    }

    fn estimate(self) -> Estimate {
        let seen = Seen {
            rows: self.kept.len() as u64,
            sampled: self.kept.iter().any(|part| part.weight > 1.0),
            positive: true,
            ..Seen::default()
        };
        let said = total(&self.kept, seen, Confidence::P95);
        let of = |part: &Part| part.weight * (part.weight - 1.0) * part.num * part.num;
        Estimate {
            truth: self.truth,
            sum: said.estimate.unwrap_or(0.0),
            variance: self.kept.iter().map(of).sum(),
            low: said.low.unwrap_or(0.0),
            high: said.high.unwrap_or(f64::INFINITY),
        }
    }
}

impl Estimate {
    /// Whether the plain interval, estimate +- 1.96 standard errors, has the truth in it.
    fn is_in_plain(&self) -> bool {
        (self.sum - self.truth).abs() <= Confidence::P95.z() * self.variance.sqrt()
    }

    fn is_in(&self) -> bool {
        // Of what was all kept, both are sums of the same numbers in another order.
        let slack = 1e-9 * self.truth;
        self.low - slack <= self.truth && self.truth <= self.high + slack
    }
}

/// Runs a sampler for some seconds; a late span of every trace comes at the end.
fn estimates(make: impl Fn() -> Sampler<()>, traffic: &Traffic, seed: u64, seconds: u64) -> BTreeMap<String, Estimate> {
    let tenant = |key: u32| if key.is_multiple_of(2) { "even" } else { "odd" };
    let mut sampler = make();
    let mut random = Random::new(seed);
    let (mut made, mut output): (BTreeMap<TraceId, Made>, _) = (BTreeMap::new(), Output::default());
    let mut found: BTreeMap<String, Group> = BTreeMap::new();
    let mut settle = |output: &mut Output<()>, made: &BTreeMap<TraceId, Made>| {
        for verdict in &output.verdicts {
            let trace = &made[&verdict.trace];
            let kept = verdict.keep.then(|| verdict.decision.threshold.weight());
            let mut add = |group: String, value: f64| found.entry(group).or_default().add(value, kept);
            add("count".into(), 1.0);
            add("errors".into(), f64::from(u8::from(trace.error)));
            add("latency".into(), trace.duration_ns as f64);
            add(format!("service {}", trace.key % 7), 1.0);
            add(format!("tenant {}", tenant(trace.key)), 1.0);
        }
        output.clear();
    };
    let span = |sampler: &mut Sampler<()>, trace: &Made, now_ns: u64, output: &mut Output<()>| {
        let (service, name) = (format!("service-{}", trace.key % 7), format!("GET /{}", trace.key));
        let (peek, at) = trace.span(service.as_bytes(), name.as_bytes());
        let tenant = sampler.tenant(tenant(trace.key));
        sampler.offer(now_ns, tenant, &peek, at, || (), output)
    };
    let tick = |second: u64| Tick {
        now_ns: START_NS + (second + 1) * SECOND_NS,
        rate: f64::INFINITY,
    };
    for second in 0..seconds {
        for trace in traffic.second(second, &mut random) {
            span(&mut sampler, &trace, trace.at_ns, &mut output);
            made.insert(trace.id, trace);
        }
        sampler.tick(tick(second), &mut output);
        settle(&mut output, &made);
    }
    sampler.finish(tick(seconds), &mut output);
    settle(&mut output, &made);
    let mut late = Group::default();
    for trace in made.values() {
        let kept = match span(&mut sampler, trace, START_NS + (seconds + 2) * SECOND_NS, &mut output) {
            Offer::Late(decision) => {
                assert!(decision.keeps(trace.id), "a late span of a kept trace is kept");
                Some(decision.threshold.weight())
            }
            Offer::Dropped => None,
            other => panic!("every trace is remembered: {other:?}"),
        };
        late.add(1.0, kept);
    }
    found.insert("late".into(), late);
    assert_eq!(found["count"].truth as usize, made.len(), "every trace is decided once");
    found
        .into_iter()
        .map(|(name, group)| (name, group.estimate()))
        .collect()
}

struct Bias {
    group: String,
    mean: f64,
    error: f64,
    /// How often the plain interval has the truth in it.
    plain: f64,
    /// How often the one that users get has.
    covered: f64,
    /// Mean square of the errors over the mean of the variances said: 1 if they are right.
    variance_ratio: f64,
    /// How far the errors and the variances said go together.
    correlation: f64,
}

impl Bias {
    fn is_there(&self) -> bool {
        (self.mean - 1.0).abs() > 3.0 * self.error.max(1e-9)
    }
}

/// Means of estimate over truth, over seeds.
fn bias(make: impl Fn() -> Sampler<()>, traffic: &Traffic, seeds: u64, seconds: u64) -> Vec<Bias> {
    let runs: Vec<_> = (0..seeds)
        .map(|seed| estimates(&make, traffic, 1000 + seed, seconds))
        .collect();
    let groups: Vec<String> = runs[0].keys().cloned().collect();
    let bias = |group: String| {
        let of: Vec<Estimate> = runs
            .iter()
            .map(|run| run.get(&group).copied().unwrap_or_default())
            .collect();
        let n = of.len() as f64;
        // Ratios would be biased where the truth is random too: errors of the total, against its mean.
        let truth = of.iter().map(|one| one.truth).sum::<f64>() / n;
        let off: Vec<f64> = of.iter().map(|one| (one.sum - one.truth) / truth).collect();
        let mean = off.iter().sum::<f64>() / n;
        let variance = off.iter().map(|off| (off - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let covered = |by: fn(&Estimate) -> bool| of.iter().filter(|one| by(one)).count() as f64 / n;
        let errors: Vec<f64> = of.iter().map(|one| one.sum - one.truth).collect();
        let said: Vec<f64> = of.iter().map(|one| one.variance).collect();
        let mean_of = |values: &[f64]| values.iter().sum::<f64>() / n;
        let product = |left: &[f64], right: &[f64]| {
            let (l, r) = (mean_of(left), mean_of(right));
            left.iter().zip(right).map(|(a, b)| (a - l) * (b - r)).sum::<f64>()
        };
        let square = errors.iter().map(|error| error * error).sum::<f64>() / n;
        Bias {
            group,
            mean: 1.0 + mean,
            error: (variance / n).sqrt(),
            plain: covered(Estimate::is_in_plain),
            covered: covered(Estimate::is_in),
            variance_ratio: square / mean_of(&said),
            correlation: product(&errors, &said) / (product(&errors, &errors) * product(&said, &said)).sqrt(),
        }
    };
    groups.into_iter().map(bias).collect()
}

const BUSY: Traffic = Traffic {
    spans_per_sec: 2000.0,
    spans_per_trace: 10.0,
    keys: 50,
    errors: 0.05,
    burst: Burst::Scale,
    burst_s: (15, 16),
};

fn sampled_through_a_burst(seeds: u64) -> Vec<Bias> {
    let strata = r#"
strata:
  - {name: error, when: any(span.status == error), target: all, cap: 20%}
  - {name: slow, when: root.duration >= 1s, target: all, cap: 10%}
  - {name: rest, share: by(fingerprint), alpha: 0.7}
"#;
    let found = bias(|| sampler(goal(1500.0, strata), Fault::None), &BUSY, seeds, 24);
    for bias in &found {
        println!(
            "{:<12} {:.5} +- {:.5}, variance {:.3} of that said, correlation {:.2}, covered: plain {:.1} %, ours {:.1} %",
            bias.group,
            bias.mean,
            bias.error,
            bias.variance_ratio,
            bias.correlation,
            bias.plain * 100.0,
            bias.covered * 100.0
        );
    }
    found
}

/// U1 over a burst: no bias beyond three standard errors. A service is a seventh of the traffic, so its error is asked to be below 1 % here
/// where the whole's is below 0.5 %.
#[test]
fn estimates_are_unbiased() {
    for bias in sampled_through_a_burst(300) {
        let most = if bias.group.starts_with("service") { 0.01 } else { 0.005 };
        assert!(!bias.is_there(), "{} {} {}", bias.group, bias.mean, bias.error);
        assert!(bias.error <= most, "{} {}", bias.group, bias.error);
    }
}

/// The other half of U1: the intervals of 95 % that users get (`docs/estimators.md`) cover counts, errors and latencies in 93 to 97 of 100 runs through a
/// burst, though the tail of latencies is heavy. Plain ones do not, though the variances said are right: a sum that is too low says too low a variance as
/// well. Of a single service the two go together so closely that its interval is on the safe side, at 98.
#[test]
fn intervals_cover_what_they_say() {
    let (services, others): (Vec<Bias>, Vec<Bias>) = sampled_through_a_burst(300)
        .into_iter()
        .partition(|bias| bias.group.starts_with("service"));
    let mean = |of: &[Bias], covered: fn(&Bias) -> f64| of.iter().map(covered).sum::<f64>() / of.len() as f64;
    for (of, most) in [(&others, 0.97), (&services, 0.99)] {
        let (ours, plain) = (mean(of, |bias| bias.covered), mean(of, |bias| bias.plain));
        println!("covered on average: plain {plain:.3}, ours {ours:.3}");
        assert!((0.93..=most).contains(&ours) && plain < 0.93, "{ours} {plain}");
        assert!(of.iter().all(|bias| bias.covered >= 0.93), "{ours}");
    }
}

#[test]
fn a_threshold_that_knows_its_own_r_is_found() {
    let found = bias(|| sampler(goal(600.0, ERRORS_AND_REST), Fault::OwnR), &BUSY, 30, 24);
    assert!(found.iter().any(|bias| bias.group == "count" && bias.is_there()));
}

#[test]
fn late_spans_carry_the_weight_of_their_trace() {
    let late = |fault| {
        let found = bias(|| sampler(goal(600.0, ERRORS_AND_REST), fault), &BUSY, 30, 24);
        found.into_iter().find(|bias| bias.group == "late").unwrap()
    };
    let right = late(Fault::None);
    assert!(!right.is_there(), "{} {}", right.mean, right.error);
    let wrong = late(Fault::LateWithoutWeight);
    assert!(wrong.mean < 0.6, "{}", wrong.mean);
}

/// The hard cap keeps few traces a tick, so that last-kept is off by 1 / (k - 1).
#[test]
fn the_hard_cap_takes_the_first_excluded_r() {
    let traffic = Traffic {
        spans_per_trace: 1.0,
        spans_per_sec: 100.0,
        burst: Burst::None,
        ..BUSY
    };
    let count = |fault| {
        let make = || {
            sampler(
                policy("budget: {spans_per_sec: 10, hard_cap: true}\nstrata: [{name: rest, share: all}]"),
                fault,
            )
        };
        let found = bias(make, &traffic, 60, 60);
        found.into_iter().find(|bias| bias.group == "count").unwrap()
    };
    let right = count(Fault::None);
    assert!(!right.is_there(), "{} {}", right.mean, right.error);
    assert!((right.mean - 1.0).abs() < 0.02, "{}", right.mean);
    let wrong = count(Fault::LastKeptR);
    assert!(wrong.is_there() && wrong.mean > 1.03, "{} {}", wrong.mean, wrong.error);
}

/// M1 and U1 together: memory stays within its limit, and what outlives an eviction stands for what did not.
#[test]
fn evicted_traces_are_in_the_weights_of_those_that_stay() {
    let count = |fault| {
        let make = || {
            let mut policy = goal(1e6, ERRORS_AND_REST);
            policy.trace.buffer_bytes = 300_000;
            sampler(policy, fault)
        };
        let found = bias(make, &BUSY, 40, 24);
        found.into_iter().find(|bias| bias.group == "count").unwrap()
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

/// U3: the R of a trace changes no threshold of its batch.
#[test]
fn the_r_of_one_trace_moves_no_threshold() {
    let thresholds = |fault, flip: Option<usize>, seed| {
        let mut ours = Ours::of(sampler(goal(100.0, ERRORS_AND_REST), fault));
        let mut random = Random::new(seed);
        let traffic = Traffic::default();
        let mut traces = traffic.second(0, &mut random);
        // All in one batch: a later one may well depend on what was kept before.
        traces
            .iter_mut()
            .for_each(|trace| trace.at_ns = START_NS + SECOND_NS / 2);
        if let Some(at) = flip {
            traces[at].id.0[9] ^= 0x80;
        }
        ours.second(0, &traces, f64::INFINITY);
        let mut found = Vec::new();
        for second in 1..4 {
            ours.second(second, &[], f64::INFINITY);
            found.extend(
                ours.output()
                    .verdicts
                    .iter()
                    .map(|verdict| (verdict.span_count, verdict.decision.threshold)),
            );
        }
        (found, traces.len())
    };
    for seed in 0..20 {
        let (before, count) = thresholds(Fault::None, None, seed);
        assert_eq!(before.len(), count);
        for at in (0..count).step_by(7) {
            assert_eq!(
                thresholds(Fault::None, Some(at), seed).0,
                before,
                "seed {seed} trace {at}"
            );
        }
    }
    let (before, count) = thresholds(Fault::OwnR, None, 1);
    assert!(
        (0..count).any(|at| thresholds(Fault::OwnR, Some(at), 1).0 != before),
        "the mistake is caught"
    );
}

/// U2: what is kept has R >= T, and with less budget a part of it is kept, nothing else.
#[test]
fn kept_sets_nest() {
    let kept = |spans: f64| {
        let mut ours = Ours::new(goal(spans, "")).unwrap();
        let mut random = Random::new(4);
        let traces = Traffic::default().second(0, &mut random);
        ours.second(0, &traces, f64::INFINITY);
        let mut kept = Vec::new();
        for second in 1..4 {
            ours.second(second, &[], f64::INFINITY);
            for verdict in ours.output().verdicts.iter().filter(|verdict| verdict.keep) {
                assert!(verdict.decision.threshold.keeps(Randomness::of_trace(verdict.trace)));
                kept.push(verdict.trace);
            }
        }
        kept
    };
    let (more, less) = (kept(500.0), kept(50.0));
    assert!(!less.is_empty() && less.len() < more.len());
    assert!(less.iter().all(|trace| more.contains(trace)));
}

// ---- classes and tenants

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

#[test]
fn a_dry_run_keeps_everything_and_says_what_it_would_do() {
    let mut dry = goal(200.0, "");
    dry.dry_run = true;
    let mut ours = Ours::new(dry).unwrap();
    let mut random = Random::new(6);
    let traces = Traffic::default().second(0, &mut random);
    ours.second(0, &traces, f64::INFINITY);
    let mut would_drop = 0;
    for second in 1..4 {
        ours.second(second, &[], f64::INFINITY);
        for verdict in &ours.output().verdicts {
            assert!(verdict.keep && verdict.decision.threshold == Threshold::ALWAYS);
            would_drop += usize::from(verdict.shadow.unwrap() > Threshold::ALWAYS);
        }
    }
    assert!(would_drop > 0);
}

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

// ---- memory, ids, restarts

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

/// R1: ids counted up are found within a minute; R is a hash from then on, and counts are right again.
#[test]
fn ids_that_are_not_random_are_found_and_hashed() {
    let mut sampler = sampler(goal(200.0, "strata: [{name: rest, share: all}]"), Fault::None);
    let tenant = sampler.tenant("a");
    let (mut output, mut random) = (Output::default(), Random::new(1));
    let (mut truth, mut sum, mut found_at) = (0.0, 0.0, None);
    let mut counter = 0u64;
    for second in 0..300u64 {
        for mut trace in Traffic::default().second(second, &mut random) {
            counter += 1;
            trace.id.0[8..].copy_from_slice(&counter.to_be_bytes());
            let (span, at) = trace.span(b"cart", b"GET");
            sampler.offer(trace.at_ns, tenant, &span, at, || (), &mut output);
        }
        let now_ns = START_NS + (second + 1) * SECOND_NS;
        sampler.tick(
            Tick {
                now_ns,
                rate: f64::INFINITY,
            },
            &mut output,
        );
        if sampler.not_random().next().is_some() {
            found_at.get_or_insert(second);
        }
        for verdict in output.verdicts.drain(..).filter(|_| second > 60) {
            assert!(verdict.decision.is_hashed);
            truth += 1.0;
            sum += if verdict.keep {
                verdict.decision.threshold.weight()
            } else {
                0.0
            };
        }
    }
    assert!(found_at.is_some_and(|at| at < 60), "{found_at:?}");
    assert!((sum / truth - 1.0).abs() < 0.05, "{}", sum / truth);
    assert_eq!(sampler.not_random().collect::<Vec<_>>(), [b"cart"]);
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
