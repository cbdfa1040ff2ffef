//! Seeded draws from a known population: how often intervals hold the truth, and how far estimates are off.

use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

struct Trace {
    durations: Vec<f64>,
    errors: f64,
    /// The probability with which traces of its kind are kept, where each kind has its own: 50 kinds, lognormal, most between 0.005 and 0.5.
    p_of_kind: f64,
}

/// Traces with a heavy tail of sizes (lognormal, sigma 1), durations that differ more between traces than within one, and errors in
/// 5 % of the traces, in some of their spans.
fn population(traces: usize, seed: u64) -> Vec<Trace> {
    let (mut random, mut kinds) = (Random(seed), Random(!seed));
    let p_of_kind: Vec<f64> = (0..50)
        .map(|_| (-3.0 + 1.2 * kinds.normal()).exp().clamp(0.005, 1.0))
        .collect();
    let mut one = || {
        let size = (0.8 + random.normal()).exp().ceil().clamp(1.0, 300.0) as usize;
        let scale = (3.0 + 0.7 * random.normal()).exp();
        let durations = (0..size).map(|_| scale * (0.6 * random.normal()).exp()).collect();
        let errors = if random.unit() < 0.05 {
            (random.unit() * size as f64).ceil()
        } else {
            0.0
        };
        Trace {
            durations,
            errors,
            p_of_kind: p_of_kind[(kinds.unit() * 50.0) as usize],
        }
    };
    (0..traces).map(|_| one()).collect()
}

/// The value at rank q of all.
fn truth(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((q * values.len() as f64).ceil() as usize).max(1) - 1]
}

fn holds(found: Estimate, truth: f64) -> bool {
    found.low.is_none_or(|low| low <= truth) && found.high.is_none_or(|high| truth <= high)
}

/// Of `rounds` samples of which each trace is in with probability `p(trace)`: how often the intervals of count, sum, error share, mean, median, P90
/// and P99 hold the truth.
fn coverage(population: &[Trace], p: impl Fn(&Trace) -> f64, rounds: u32, seed: u64) -> [f64; 7] {
    let mut random = Random(seed);
    let values: Vec<f64> = population
        .iter()
        .flat_map(|trace| trace.durations.iter().copied())
        .collect();
    let spans = values.len() as f64;
    let sum: f64 = values.iter().sum();
    let errors: f64 = population.iter().map(|trace| trace.errors).sum();
    let quantiles = [0.5, 0.9, 0.99].map(|q| (q, truth(values.clone(), q)));
    let mut held = [0_u32; 7];
    for _ in 0..rounds {
        let (mut counts, mut sums, mut shares, mut means) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut draws = Vec::new();
        for (at, trace) in population.iter().enumerate() {
            let p = p(trace);
            if random.unit() >= p {
                continue;
            }
            let (key, weight) = ([at as u64, 1], p.recip());
            let (n, total) = (trace.durations.len() as f64, trace.durations.iter().sum());
            let part = |num, den| Part {
                trace: key,
                weight,
                num,
                den,
            };
            counts.push(part(n, 0.0));
            sums.push(part(total, 0.0));
            shares.push(part(trace.errors, n));
            means.push(part(total, n));
            draws.extend(
                trace
                    .durations
                    .iter()
                    .map(|value| (Draw { value: *value, weight }, key)),
            );
        }
        let seen = Seen {
            rows: 1,
            sampled: true,
            positive: true,
            ..Seen::default()
        };
        let mut found = vec![
            holds(total(&counts, seen, P95), spans),
            holds(total(&sums, seen, P95), sum),
            holds(ratio(&shares, seen, P95), errors / spans),
            holds(ratio(&means, seen, P95), sum / spans),
        ];
        for (q, truth) in quantiles {
            found.push(holds(quantile(&mut draws, q, seen, P95), truth));
        }
        for (held, found) in held.iter_mut().zip(found) {
            *held += u32::from(found);
        }
    }
    held.map(|held| f64::from(held) / f64::from(rounds))
}

/// What [`coverage`] is of.
const OF: [&str; 7] = ["count", "sum", "share", "mean", "P50", "P90", "P99"];

/// Traces with an error or long ones are all kept, of the rest 5 %.
fn in_strata(trace: &Trace) -> f64 {
    if trace.errors > 0.0 || trace.durations[0] > 150.0 {
        1.0
    } else {
        0.05
    }
}

#[test]
fn intervals_hold_the_truth_as_often_as_they_promise() {
    // From 1,000 kept traces on.
    let population = population(10_000, 1);
    let uniform = [(11, 0.1), (12, 0.2), (13, 0.4), (14, 0.7)];
    let mut cells = uniform
        .map(|(seed, p)| coverage(&population, |_| p, 1000, seed))
        .to_vec();
    cells.push(coverage(&population, in_strata, 1000, 15));
    println!("kept 0.1, 0.2, 0.4, 0.7, strata: {OF:?} {cells:.3?}");
    for (at, name) in OF.into_iter().enumerate() {
        let shares: Vec<f64> = cells.iter().map(|cell| cell[at]).collect();
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!((0.94..=0.97).contains(&mean), "{name}: {mean:.3} on average");
        assert!(
            shares.iter().all(|share| (0.93..=0.98).contains(share)),
            "{name}: {shares:?}"
        );
    }
}

#[test]
fn intervals_of_few_traces_hold_nearly_as_often() {
    // 200 kept of 2,000; and of another 2,000 in strata those with errors, the long ones and 90 others.
    let uniform = coverage(&population(2000, 2), |_| 0.1, 1000, 17);
    let strata = coverage(&population(2000, 3), in_strata, 1000, 18);
    println!("few: {OF:?} {uniform:.3?}, strata {strata:.3?}");
    let [others @ .., p99] = strata;
    assert!(
        uniform.iter().chain(&others).all(|share| (0.93..=0.99).contains(share)),
        "{uniform:?} {strata:?}"
    );
    // Known to be too narrow: of the 70 rows above P99 a few have weight 20. Where none of those was kept, the others count as certain.
    assert!((0.75..=0.9).contains(&p99), "{p99}");
}

#[test]
fn intervals_of_traces_with_weights_of_their_kind_hold_nearly_as_often() {
    // Six populations, because which kinds get which weights matters.
    let mut mean = [0.0; OF.len()];
    for seed in 1..=6 {
        let found = coverage(&population(10_000, seed), |trace| trace.p_of_kind, 500, 19 + seed);
        println!("weights of 2 to 200 by kind, {seed}: {OF:?} {found:.3?}");
        // Few errors and few slow spans have the weights in which most of them are.
        assert!(found.iter().all(|share| (0.91..=0.98).contains(share)), "{found:?}");
        mean.iter_mut()
            .zip(found)
            .for_each(|(mean, share)| *mean += share / 6.0);
    }
    println!("on average {mean:.3?}");
    assert!(mean.iter().all(|share| (0.92..=0.97).contains(share)), "{mean:?}");
}

/// The same draws with the variance taken span by span, as if spans were kept one by one: the interval is far too narrow. If this held, the test
/// above would prove nothing.
#[test]
fn intervals_by_span_do_not_hold() {
    let population = population(4000, 1);
    let mut random = Random(16);
    let spans: f64 = population.iter().map(|trace| trace.durations.len() as f64).sum();
    let mut held = 0;
    for _ in 0..500 {
        let kept: Vec<&Trace> = population.iter().filter(|_| random.unit() < 0.1).collect();
        let row = Part {
            trace: NO_TRACE,
            weight: 10.0,
            num: 1.0,
            den: 0.0,
        };
        let rows: Vec<Part> = kept.iter().flat_map(|trace| vec![row; trace.durations.len()]).collect();
        held += u32::from(holds(total(&rows, seen(&rows), P95), spans));
    }
    assert!(held < 375, "{held} of 500");
}

#[test]
fn estimates_and_variances_are_right_on_average() {
    let population = population(4000, 2);
    let mut random = Random(21);
    let sum: f64 = population.iter().flat_map(|trace| &trace.durations).sum();
    let mut found = Vec::new();
    let mut claimed = 0.0;
    let rounds = 2000;
    for _ in 0..rounds {
        let mut parts = Vec::new();
        for (at, trace) in population.iter().enumerate() {
            // Two thresholds against one number: the first span of a trace has been sampled less.
            let r = random.unit();
            let (first, rest) = (trace.durations[0], trace.durations[1..].iter().sum::<f64>());
            for (p, num) in [(0.2, first), (0.05, rest)] {
                if r < p && num != 0.0 {
                    parts.push(Part {
                        trace: [at as u64, 1],
                        weight: 1.0 / p,
                        num,
                        den: 0.0,
                    });
                }
            }
        }
        sort(&mut parts);
        found.push(parts.iter().map(|part| part.weight * part.num).sum::<f64>());
        claimed += variance(&parts, |part| part.num) / f64::from(rounds);
    }
    let mean = found.iter().sum::<f64>() / f64::from(rounds);
    let spread = found.iter().map(|total| (total - mean).powi(2)).sum::<f64>() / f64::from(rounds - 1);
    let error = (spread / f64::from(rounds)).sqrt();
    assert!((mean - sum).abs() < 3.0 * error, "{mean} for {sum} +- {error}");
    assert!(
        (claimed / spread - 1.0).abs() < 0.1,
        "variance {claimed}, spread {spread}"
    );
}

/// P99 of windows of lognormal durations of which about 3 % are kept: RMS error, share kept, and how often the interval holds.
#[derive(Debug)]
struct Windows {
    rms: f64,
    kept: f64,
    held: f64,
}

/// Windows of so many requests, 10 million in all. Kept are all above the quantile `slow` of the window before, and of the others each with probability `p`.
fn windows(requests: usize, slow: f64, p: f64, seed: u64) -> Windows {
    let rounds = 10_000_000 / requests;
    let mut random = Random(seed);
    let mut draw = || -> Vec<f64> { (0..requests).map(|_| (3.0 + 0.9 * random.normal()).exp()).collect() };
    let slow = truth(draw(), slow);
    let windows: Vec<Vec<f64>> = (0..rounds).map(|_| draw()).collect();
    let (mut squares, mut kept, mut held) = (0.0, 0, 0);
    for window in windows {
        let mut draws = Vec::new();
        for (at, value) in window.iter().enumerate() {
            let p = if *value >= slow { 1.0 } else { p };
            let (value, weight) = (*value, p.recip());
            if random.unit() < p {
                draws.push((Draw { value, weight }, [at as u64, 1]));
            }
        }
        kept += draws.len();
        let seen = Seen {
            rows: 1,
            sampled: true,
            ..Seen::default()
        };
        let found = quantile(&mut draws, 0.99, seen, P95);
        let truth = truth(window, 0.99);
        squares += (found.estimate.unwrap() / truth - 1.0).powi(2);
        held += u32::from(holds(found, truth));
    }
    let rounds = rounds as f64;
    Windows {
        rms: (squares / rounds).sqrt(),
        kept: kept as f64 / (rounds * requests as f64),
        held: f64::from(held) / rounds,
    }
}

/// Issue 4: at 3 % kept the P99 from rows is within 2 % RMS, where the slow ones are all kept.
#[test]
fn p99_from_rows_at_three_percent_kept() {
    // The error falls with the root of what is kept. All of it is that of the number of requests, of which those above P99 are a known part: the
    // more of the others are kept, and the fewer slow ones below P99, the smaller it is.
    for (requests, slow, p, most) in [
        (100_000, 0.98, 0.01, 0.012),
        (100_000, 0.9875, 0.0175, 0.01),
        (20_000, 0.98, 0.01, 0.026),
        (20_000, 0.9875, 0.0175, 0.02),
    ] {
        let found = windows(requests, slow, p, 31);
        println!("P99 of {requests}, slow above {slow}: {found:?}");
        assert!((0.027..0.033).contains(&found.kept), "{found:?}");
        assert!(found.rms <= most && found.held >= 0.92, "{requests} {slow}: {found:?}");
    }
    // Not by luck: keeping 3 % of everything alike is far worse, and its intervals know it.
    let uniform = windows(100_000, 1.0, 0.03, 32);
    println!("P99 of 100000, all alike: {uniform:?}");
    assert!(uniform.rms > 0.04 && uniform.held >= 0.92, "{uniform:?}");
}
