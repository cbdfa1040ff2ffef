//! Many runs of a sampler, and how far what it kept is off from what there was.

use std::collections::BTreeMap;

use super::SECOND_NS;
use crate::sampler::{Offer, Output, Sampler, Tick};
use crate::sim::{Burst, Made, Random, START_NS, Traffic};
use tailwater_model::ids::TraceId;
use tailwater_slo::estimate::{NO_TRACE, Part, Seen, total};
use tailwater_slo::interval::Confidence;

/// Of a group: what there was, and what was kept of it.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) truth: f64,
    pub(super) kept: Vec<Part>,
}

/// What the kept ones of a group say of all.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Estimate {
    pub(super) truth: f64,
    pub(super) sum: f64,
    pub(super) variance: f64,
    /// The interval as users get it.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Group {
    pub(super) fn add(&mut self, value: f64, kept: Option<f64>) {
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

    pub(super) fn estimate(self) -> Estimate {
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
    pub(super) fn is_in_plain(&self) -> bool {
        (self.sum - self.truth).abs() <= Confidence::P95.z() * self.variance.sqrt()
    }

    pub(super) fn is_in(&self) -> bool {
        // Of what was all kept, both are sums of the same numbers in another order.
        let slack = 1e-9 * self.truth;
        self.low - slack <= self.truth && self.truth <= self.high + slack
    }
}

/// Runs a sampler for some seconds; a late span of every trace comes at the end.
pub(super) fn estimates(
    make: impl Fn() -> Sampler<()>,
    traffic: &Traffic,
    seed: u64,
    seconds: u64,
) -> BTreeMap<String, Estimate> {
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
            add(format!("stratum {}", verdict.decision.reason), 1.0);
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

pub(super) struct Bias {
    pub(super) group: String,
    pub(super) mean: f64,
    pub(super) error: f64,
    /// How often the plain interval has the truth in it.
    pub(super) plain: f64,
    /// How often the one that users get has.
    pub(super) covered: f64,
    /// Mean square of the errors over the mean of the variances said: 1 if they are right.
    pub(super) variance_ratio: f64,
    /// How far the errors and the variances said go together.
    pub(super) correlation: f64,
}

impl Bias {
    pub(super) fn is_there(&self) -> bool {
        (self.mean - 1.0).abs() > 3.0 * self.error.max(1e-9)
    }
}

/// Means of estimate over truth, over seeds.
pub(super) fn bias(make: impl Fn() -> Sampler<()>, traffic: &Traffic, seeds: u64, seconds: u64) -> Vec<Bias> {
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

pub(super) const BUSY: Traffic = Traffic {
    spans_per_sec: 2000.0,
    spans_per_trace: 10.0,
    keys: 50,
    errors: 0.05,
    burst: Burst::Scale,
    burst_s: (15, 16),
};

/// [`bias`] of one group.
pub(super) fn bias_of(
    group: &str,
    make: impl Fn() -> Sampler<()>,
    traffic: &Traffic,
    seeds: u64,
    seconds: u64,
) -> Bias {
    let found = bias(make, traffic, seeds, seconds);
    found.into_iter().find(|bias| bias.group == group).unwrap()
}
