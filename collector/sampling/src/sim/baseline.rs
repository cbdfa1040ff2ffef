//! Rules of other samplers, from their published sources, fed with spans per key (`design/sampling.md` 2.1, pipeline-peers.md 4.4).

use std::collections::{BTreeMap, VecDeque};

use super::traffic::Made;
use super::{Choice, Random};

/// Another sampler.
#[derive(Debug)]
pub enum Baseline {
    /// dynsampler-go EMAThroughput: 15 s, weight 0.5, burst multiple 2 after 3 intervals.
    Ema(Ema),
    /// dynsampler-go WindowedThroughput: every second over the last 30.
    Windowed(Windowed),
    /// OpenTelemetry Collector `rate_limiting`: a token bucket of twice the rate; what it keeps counts once.
    TokenBucket(Bucket),
}

/// See [`Baseline::Ema`].
#[derive(Debug)]
pub struct Ema {
    goal: f64,
    current: BTreeMap<u32, f64>,
    average: BTreeMap<u32, f64>,
    rates: Option<BTreeMap<u32, f64>>,
    burst_at: f64,
    total: f64,
    seconds: u64,
    intervals: u64,
}

/// See [`Baseline::Windowed`].
#[derive(Debug)]
pub struct Windowed {
    goal: f64,
    window: VecDeque<BTreeMap<u32, f64>>,
    rates: BTreeMap<u32, f64>,
}

/// See [`Baseline::TokenBucket`].
#[derive(Debug)]
pub struct Bucket {
    goal: f64,
    tokens: f64,
}

const EMA_INTERVAL_S: u64 = 15;
const EMA_WEIGHT: f64 = 0.5;
const EMA_INITIAL_RATE: f64 = 10.0;
const EMA_BURST_MULTIPLE: f64 = 2.0;
const EMA_BURST_DELAY: u64 = 3;
const WINDOW_S: usize = 30;

impl Baseline {
    /// The three, for a goal in spans a second.
    pub fn all(goal: f64) -> [(&'static str, Baseline); 3] {
        let ema = Ema {
            goal,
            current: BTreeMap::new(),
            average: BTreeMap::new(),
            rates: None,
            burst_at: f64::INFINITY,
            total: 0.0,
            seconds: 0,
            intervals: 0,
        };
        let windowed = Windowed {
            goal,
            window: VecDeque::new(),
            rates: BTreeMap::new(),
        };
        let bucket = Bucket {
            goal,
            tokens: 2.0 * goal,
        };
        [
            ("EMAThroughput", Baseline::Ema(ema)),
            ("WindowedThroughput", Baseline::Windowed(windowed)),
            ("OTel token bucket", Baseline::TokenBucket(bucket)),
        ]
    }

    /// Decides the traces of a second.
    pub fn second(&mut self, traces: &[Made], random: &mut Random) -> Vec<Choice> {
        let mut choices = Vec::with_capacity(traces.len());
        for trace in traces {
            let spans = f64::from(trace.spans);
            let rate = match self {
                Baseline::Ema(ema) => ema.rate(trace.key, spans),
                Baseline::Windowed(windowed) => windowed.rate(trace.key, spans),
                Baseline::TokenBucket(bucket) => {
                    bucket.tokens = (bucket.tokens + bucket.goal / traces.len() as f64).min(2.0 * bucket.goal);
                    let is_kept = bucket.tokens >= spans;
                    bucket.tokens -= if is_kept { spans } else { 0.0 };
                    choices.push(Choice::new(trace, is_kept, 1.0));
                    continue;
                }
            };
            choices.push(Choice::new(trace, random.unit() * rate < 1.0, rate));
        }
        match self {
            Baseline::Ema(ema) => ema.end_second(),
            Baseline::Windowed(windowed) => windowed.end_second(),
            Baseline::TokenBucket(_) => {}
        }
        choices
    }
}

impl Ema {
    fn rate(&mut self, key: u32, spans: f64) -> f64 {
        *self.current.entry(key).or_default() += spans;
        self.total += spans;
        if self.total >= self.burst_at && self.intervals >= EMA_BURST_DELAY {
            self.update();
        }
        match &self.rates {
            None => EMA_INITIAL_RATE,
            Some(rates) => rates.get(&key).copied().unwrap_or(1.0),
        }
    }

    fn end_second(&mut self) {
        self.seconds += 1;
        if self.seconds >= EMA_INTERVAL_S {
            self.update();
        }
    }

    fn update(&mut self) {
        self.seconds = 0;
        self.intervals += 1;
        self.total = 0.0;
        let current = std::mem::take(&mut self.current);
        if current.is_empty() {
            return;
        }
        for (key, average) in &mut self.average {
            *average = EMA_WEIGHT * current.get(key).unwrap_or(&0.0) + (1.0 - EMA_WEIGHT) * *average;
        }
        for (key, count) in current {
            self.average.entry(key).or_insert(EMA_WEIGHT * count);
        }
        self.average.retain(|_, average| *average >= EMA_WEIGHT);
        let sum: f64 = self.average.values().map(|average| average.max(1.0)).sum();
        self.burst_at = sum * EMA_BURST_MULTIPLE;
        self.rates = Some(log_rates(&self.average, self.goal * EMA_INTERVAL_S as f64));
    }
}

/// The allocation of dynsampler-go: goals by the logarithm of counts, surplus carried on in the order of names.
fn log_rates(counts: &BTreeMap<u32, f64>, goal: f64) -> BTreeMap<u32, f64> {
    let logs: f64 = counts.values().map(|count| count.max(1.0).log10()).sum();
    let ratio = goal / logs;
    let (mut extra, mut left) = (0.0, counts.len() as f64);
    let rate = |(key, count): (&u32, &f64)| {
        let count = count.max(1.0);
        let share = extra / left;
        let goal = (count.log10() * ratio).max(1.0) + share;
        (extra, left) = (extra - share, left - 1.0);
        let rate = if count <= goal {
            extra += goal - count;
            1.0
        } else {
            let rate = (count / goal).ceil();
            extra += goal - count / rate;
            rate
        };
        (*key, if rate.is_nan() { 1.0 } else { rate })
    };
    counts.iter().map(rate).collect()
}

impl Windowed {
    fn rate(&mut self, key: u32, spans: f64) -> f64 {
        if self.window.is_empty() {
            self.window.push_back(BTreeMap::new());
        }
        if let Some(now) = self.window.back_mut() {
            *now.entry(key).or_default() += spans;
        }
        self.rates.get(&key).copied().unwrap_or(1.0)
    }

    fn end_second(&mut self) {
        let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
        for (key, count) in self.window.iter().flatten() {
            *counts.entry(*key).or_default() += count;
        }
        let share = self.goal * WINDOW_S as f64 / counts.len().max(1) as f64;
        self.rates = counts
            .into_iter()
            .map(|(key, count)| (key, (count / share).max(1.0).floor()))
            .collect();
        self.window.push_back(BTreeMap::new());
        if self.window.len() > WINDOW_S {
            self.window.pop_front();
        }
    }
}
