//! Traffic made up from a seed, other samplers' rules, and what a policy makes of it: for tests, and for `tailwater sampling simulate`.
//!
//! Guarantees: equal seeds give equal traffic on every machine. What the baselines are: re-implementations of the published rules
//! ([`Baseline`]), fed with the same traces in the same order; not the programs. Times are those of decisions, so a sampler that waits is
//! measured by its own clock.

mod baseline;
mod random;
mod traffic;

use std::collections::HashMap;
use std::fmt;

use ahash::RandomState;
use tailwater_model::ids::TraceId;

pub use baseline::{Baseline, Bucket, Ema, Windowed};
pub use random::Random;
pub use traffic::{Burst, Made, SPAN_BYTES, START_NS, Traffic};

use crate::late::Memory;
use crate::policy::Policy;
use crate::sampler::{Output, Sampler, Tick};

const SECOND_NS: u64 = 1_000_000_000;
/// Bytes stored per byte of protobuf that an uncalibrated sampler expects: what turns a goal in spans into one in bytes.
pub const STORED_PER_BYTE: f64 = 0.1;

/// What became of a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Its key.
    pub key: u32,
    /// Its spans.
    pub spans: u32,
    /// Whether it had an error.
    pub error: bool,
    /// Its duration, ns.
    pub duration_ns: u64,
    /// Whether it is kept.
    pub is_kept: bool,
    /// What it stands for if it is.
    pub weight: f64,
}

impl Choice {
    /// The choice on a trace.
    pub fn new(trace: &Made, is_kept: bool, weight: f64) -> Choice {
        Choice {
            key: trace.key,
            spans: trace.spans,
            error: trace.error,
            duration_ns: trace.duration_ns,
            is_kept,
            weight,
        }
    }
}

/// Ours, fed with made up traces.
#[derive(Debug)]
pub struct Ours {
    sampler: Sampler<()>,
    waiting: HashMap<TraceId, Made, RandomState>,
    output: Output<()>,
    /// Service and name of each key; tenant is `sim` unless a key has another.
    names: fn(u32) -> (String, String),
    tenant: fn(u32) -> &'static str,
}

impl Ours {
    /// A sampler of this policy; fails for one that cannot be run.
    ///
    /// # Errors
    /// A sentence.
    pub fn new(policy: Policy) -> Result<Ours, String> {
        let sampler = Sampler::new(policy, Memory::default(), START_NS)?;
        Ok(Ours::of(sampler))
    }

    pub(crate) fn of(sampler: Sampler<()>) -> Ours {
        Ours {
            sampler,
            waiting: HashMap::default(),
            output: Output::default(),
            names: |key| (format!("service-{}", key % 7), format!("GET /{key}")),
            tenant: |_| "sim",
        }
    }

    /// Gives every key its tenant.
    #[must_use]
    pub fn with_tenants(mut self, tenant: fn(u32) -> &'static str) -> Ours {
        self.tenant = tenant;
        self
    }

    /// The sampler.
    pub fn sampler(&mut self) -> &mut Sampler<()> {
        &mut self.sampler
    }

    /// What the last second put out.
    pub fn output(&self) -> &Output<()> {
        &self.output
    }

    /// Offers the traces of a second, then ticks. Answers what was decided meanwhile.
    pub fn second(&mut self, second: u64, traces: &[Made], rate: f64) -> Vec<Choice> {
        self.output.clear();
        for trace in traces {
            let tenant = self.sampler.tenant((self.tenant)(trace.key));
            let (service, name) = (self.names)(trace.key);
            let (span, at) = trace.span(service.as_bytes(), name.as_bytes());
            self.sampler
                .offer(trace.at_ns, tenant, &span, at, || (), &mut self.output);
            self.waiting.insert(trace.id, trace.clone());
        }
        let now_ns = START_NS + (second + 1) * SECOND_NS;
        self.sampler.tick(Tick { now_ns, rate }, &mut self.output);
        let mut choices = Vec::with_capacity(self.output.verdicts.len());
        for verdict in &self.output.verdicts {
            if let Some(trace) = self.waiting.remove(&verdict.trace) {
                choices.push(Choice::new(&trace, verdict.keep, verdict.decision.threshold.weight()));
            }
        }
        choices
    }
}

/// How a sampler did against its goal.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Score {
    /// Mean kept over goal, the 100 s before the burst.
    pub steady: f64,
    /// Mean kept over goal during the burst.
    pub burst: f64,
    /// Largest of one second of the burst.
    pub worst: f64,
    /// Largest deviation of ten seconds of the burst from the goal, from the third second on.
    pub tens: f64,
    /// Mean kept over goal, the 60 s after the burst.
    pub after: f64,
    /// Weighted estimate of what was offered during the burst, over what was.
    pub estimate: f64,
    /// Spans kept above the goal, over whole seconds of the burst added up.
    pub excess: f64,
}

/// Runs a sampler on traffic. `decide` gets the traces of each second and answers what it decided; `lag_s` is how long it waits.
pub fn score(
    traffic: &Traffic,
    goal: f64,
    seed: u64,
    lag_s: u64,
    mut decide: impl FnMut(u64, &[Made], &mut Random) -> Vec<Choice>,
) -> Score {
    let (mut arrivals, mut coins) = (Random::new(seed), Random::new(!seed));
    let (from, to) = (traffic.burst_s.0 + lag_s, traffic.burst_s.1 + lag_s);
    let mut kept = Vec::new();
    let (mut offered, mut estimated) = (0.0, 0.0);
    for second in 0..to + 60 {
        let traces = traffic.second(second, &mut arrivals);
        let choices = decide(second, &traces, &mut coins);
        let sum = |of: &dyn Fn(&Choice) -> f64| choices.iter().map(of).sum::<f64>();
        if (from..to).contains(&second) {
            offered += sum(&|choice| f64::from(choice.spans));
            estimated += sum(&|choice| f64::from(u8::from(choice.is_kept)) * choice.weight * f64::from(choice.spans));
        }
        kept.push(sum(&|choice| f64::from(u8::from(choice.is_kept)) * f64::from(choice.spans)) / goal);
    }
    let range = |from: u64, to: u64| &kept[from as usize..to as usize];
    let mean = |seconds: &[f64]| seconds.iter().sum::<f64>() / seconds.len() as f64;
    let burst = range(from, to);
    Score {
        steady: mean(range(from - 100, from)),
        burst: mean(burst),
        worst: burst.iter().copied().fold(0.0, f64::max),
        tens: burst[2..]
            .windows(10)
            .map(|ten| (mean(ten) - 1.0).abs())
            .fold(0.0, f64::max),
        after: mean(range(to, to + 60)),
        estimate: estimated / offered.max(1.0),
        excess: burst.iter().map(|second| (second - 1.0) * goal).sum::<f64>().max(0.0),
    }
}

/// A row of [`Comparison`].
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Which sampler.
    pub name: &'static str,
    /// Which burst.
    pub burst: Burst,
    /// Means over the seeds.
    pub score: Score,
}

/// How samplers compare, as a table to print.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison(pub Vec<Line>);

/// Compares a policy with the baselines over the three bursts; the policy's own goal has to be `goal` spans a second.
///
/// # Errors
/// A sentence, for a policy that cannot be run.
pub fn compare(policy: &Policy, goal: f64, traffic: &Traffic, seeds: &[u64]) -> Result<Comparison, String> {
    let mut lines = Vec::new();
    // A root settles, and a tick takes it up.
    let lag_s = policy.trace.root_settle_ns.div_ceil(SECOND_NS);
    for burst in [Burst::Scale, Burst::OneKey, Burst::Flood] {
        let traffic = Traffic { burst, ..*traffic };
        let mut add = |name, scores: Vec<Score>| {
            lines.push(Line {
                name,
                burst,
                score: mean(&scores),
            })
        };
        for index in 0..3 {
            let run = |seed: &u64| {
                let mut baselines = Baseline::all(goal);
                score(&traffic, goal, *seed, 0, |_, traces, coins| {
                    baselines[index].1.second(traces, coins)
                })
            };
            add(Baseline::all(goal)[index].0, seeds.iter().map(run).collect());
        }
        let mut scores = Vec::new();
        for seed in seeds {
            let mut ours = Ours::new(policy.clone())?;
            let decide = |second, traces: &[Made], _: &mut Random| ours.second(second, traces, f64::INFINITY);
            scores.push(score(&traffic, goal, *seed, lag_s, decide));
        }
        add("Tailwater", scores);
    }
    Ok(Comparison(lines))
}

fn mean(scores: &[Score]) -> Score {
    let of = |part: fn(&Score) -> f64| scores.iter().map(part).sum::<f64>() / scores.len() as f64;
    Score {
        steady: of(|score| score.steady),
        burst: of(|score| score.burst),
        worst: scores.iter().map(|score| score.worst).fold(0.0, f64::max),
        tens: scores.iter().map(|score| score.tens).fold(0.0, f64::max),
        after: of(|score| score.after),
        estimate: of(|score| score.estimate),
        excess: of(|score| score.excess),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20} {:<8} {:>7} {:>7} {:>8} {:>8} {:>7} {:>9} {:>9}",
            "kept / budget", "burst", "steady", "burst", "worst 1s", "off 10s", "after", "HT/true", "excess"
        )?;
        for Line { name, burst, score } in &self.0 {
            writeln!(
                f,
                "{name:<20} {:<8} {:>7.3} {:>7.3} {:>8.2} {:>8.3} {:>7.3} {:>9.3} {:>9.0}",
                format!("{burst:?}"),
                score.steady,
                score.burst,
                score.worst,
                score.tens,
                score.after,
                score.estimate,
                score.excess,
            )?;
        }
        Ok(())
    }
}
