//! What whole traces, kept by chance, say of all traces: totals, ratios and quantiles, each with an interval.
//!
//! The design: trace t is kept with a probability p of its own, no two traces by the same chance (Poisson sampling), and carries the
//! weight w = 1/p >= 1. D. G. Horvitz and D. J. Thompson, 1952: the sum of w*y over what was kept is right on average, whatever the p are. Its
//! variance is estimated per trace, because the rows of a trace stay or go together:
//!
//! ```text
//!  V = sum over kept traces of w (w-1) y^2            y: the trace's total
//! ```
//!
//! Rows of one trace may have different weights (a service sampled more before it sent). They are then kept by one random number of the trace
//! against several thresholds, so of two rows the likelier one is there whenever the other is, and a trace adds
//!
//! ```text
//!  sum over i, j of (1 - 1/min(w_i, w_j)) (w_i y_i) (w_j y_j)
//! ```
//!
//! which is the line above where all its weights are one. Intervals know that a total that came out too low says too small a variance ([`spread`]).
//! Guarantees: weights that are all 1 give exact answers and intervals without width; the order of traces changes nothing but the last digits;
//! what is turned around (other sign, other side of a share) has its interval turned around. Assumes weights of at least 1. Leaves out: traces that
//! share their random number.

mod quantile;
mod spread;

use crate::interval::{Confidence, wilson_at};

pub use quantile::{Draw, at_rank, quantile};
use spread::Spread;

/// Below this effective number of traces an estimate says so: an interval then covers less often than it promises.
pub const EFFECTIVE_MIN: f64 = 30.0;

/// What names a trace: the 16 bytes of its id, or a hash of a longer name.
pub type TraceKey = [u64; 2];

/// A row without a trace. Each such row was kept or dropped on its own.
pub const NO_TRACE: TraceKey = [0, 0];

/// What the rows of a trace with one weight add up to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Which trace.
    pub trace: TraceKey,
    /// The weight of these rows.
    pub weight: f64,
    /// The sum of what is summed or, in a ratio, of its upper side.
    pub num: f64,
    /// The sum of the lower side of a ratio; 0 where there is none.
    pub den: f64,
}

/// What is known of all rows, beside the parts: rows of value 0 have none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Rows with a weight.
    pub rows: u64,
    /// Rows without one. Nobody knows for how many they stand, so they are in no estimate.
    pub unweighted: u64,
    /// Some weight is above 1: something was left out by chance.
    pub sampled: bool,
    /// Some value is below 0.
    pub negative: bool,
    /// Some value is above 0.
    pub positive: bool,
}

impl Seen {
    /// Both together.
    pub fn merge(&mut self, other: Seen) {
        self.rows += other.rows;
        self.unweighted += other.unweighted;
        self.sampled |= other.sampled;
        self.negative |= other.negative;
        self.positive |= other.positive;
    }
}

/// An estimate with its interval. `None` is "unknown": of an end, that nothing kept bounds it on that side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The estimate itself; `None` where there is nothing to estimate from.
    pub estimate: Option<f64>,
    /// Lower end.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Traces it rests on.
    pub n: u64,
    /// Equally weighted traces that would say as much (L. Kish, 1965): (sum of w)^2 / sum of w^2, a trace counted by its largest weight.
    pub n_effective: f64,
    /// Rows left out because they have no weight.
    pub unweighted: u64,
    /// Chance had a part in it.
    pub sampled: bool,
    /// Of a share: effective number of the traces that have its rarer side (the error, or the success), if chance had a part in those.
    pub rarer: Option<f64>,
}

impl Estimate {
    /// Whether it rests on too little for its interval to be believed. What was not sampled is exact, however little it is.
    #[must_use]
    pub fn is_few(&self) -> bool {
        self.sampled && (self.n_effective < EFFECTIVE_MIN || self.rarer.is_some_and(|n| n < EFFECTIVE_MIN))
    }

    /// What the reader has to know, in words. `None` where there is nothing to say.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let mut said = Vec::new();
        if self.n == 0 && self.sampled {
            said.push("nothing of it was kept, which does not mean that there was nothing".to_owned());
        } else if self.sampled && self.n_effective < EFFECTIVE_MIN {
            said.push(format!("effective n {:.1} is under {EFFECTIVE_MIN}", self.n_effective));
        } else if let Some(n) = self.rarer.filter(|n| self.sampled && *n < EFFECTIVE_MIN) {
            said.push(format!(
                "effective n of its rarer side, {n:.1}, is under {EFFECTIVE_MIN}"
            ));
        }
        if self.n > 0 && self.estimate.is_some() {
            match (self.low, self.high) {
                (None, None) => said.push("too little was kept to bound it on either side".to_owned()),
                (None, Some(_)) => said.push("too little was kept to bound it below".to_owned()),
                (Some(_), None) => said.push("too little was kept to bound it above".to_owned()),
                (Some(_), Some(_)) => {}
            }
        }
        match self.unweighted {
            0 => {}
            1 => said.push("1 row without a weight is left out".to_owned()),
            rows => said.push(format!("{rows} rows without a weight are left out")),
        }
        (!said.is_empty()).then(|| said.join("; "))
    }

    fn begun(seen: Seen) -> Estimate {
        Estimate {
            unweighted: seen.unweighted,
            sampled: seen.sampled,
            ..Estimate::default()
        }
    }
}

/// Sorts parts as [`total`] and [`ratio`] want them: by trace, then by weight.
pub fn sort(parts: &mut [Part]) {
    parts.sort_unstable_by(|a, b| a.trace.cmp(&b.trace).then(a.weight.total_cmp(&b.weight)));
}

/// The total of what is summed, with the interval of its [`spread`]. Where no row is negative, the total is at least what was kept; where none is
/// positive, at most. Parts in the order of [`sort`]; none of them is 0.
#[must_use]
pub fn total(parts: &[Part], seen: Seen, confidence: Confidence) -> Estimate {
    let mut found = Estimate::begun(seen);
    if seen.rows == 0 {
        return found;
    }
    let estimate: f64 = parts.iter().map(|part| part.weight * part.num).sum();
    found.estimate = Some(estimate);
    (found.n, found.n_effective) = effective(parts);
    if parts.is_empty() {
        // Only zeros. If nothing was left out that is the truth; else what was left out may be anything.
        (found.low, found.high) = if seen.sampled {
            (None, None)
        } else {
            (Some(0.0), Some(0.0))
        };
        return found;
    }
    // Rows of value 0 add nothing, whatever they weigh.
    found.sampled = parts.iter().any(|part| part.weight > 1.0);
    let (down, up) = Spread::of(parts, |part| part.num).reach(confidence);
    let kept: f64 = parts.iter().map(|part| part.num).sum();
    let (mut low, mut high) = (estimate - down, estimate + up);
    if !seen.negative {
        low = low.max(kept).min(estimate);
    }
    if !seen.positive {
        high = high.min(kept).max(estimate);
    }
    (found.low, found.high) = (Some(low), Some(high));
    found
}

/// The ratio of two totals, Q = sum of w*num / sum of w*den, by linearisation (the delta method): its error is that of the sum of w (num - Q den),
/// over the sum of w*den.
///
/// A share (0 <= num <= den in every part) stays within 0..=1 and has a width where no trace, or every trace, has the event: [`share`]. Every other
/// ratio gets the interval of the [`spread`]; where neither side of it has a negative part it is at least 0. Parts in the order of [`sort`].
#[must_use]
pub fn ratio(parts: &[Part], seen: Seen, confidence: Confidence) -> Estimate {
    let mut found = Estimate::begun(seen);
    (found.n, found.n_effective) = effective(parts);
    let below: f64 = parts.iter().map(|part| part.weight * part.den).sum();
    if below == 0.0 {
        return found;
    }
    let above: f64 = parts.iter().map(|part| part.weight * part.num).sum();
    let q = above / below;
    found.estimate = Some(q);
    let spread = Spread::of(parts, |part| residual(part, q));
    let is_share = parts.iter().all(|part| 0.0 <= part.num && part.num <= part.den);
    if is_share {
        let (low, high) = share(q, &spread, below, variance(parts, |part| part.den), confidence);
        found.rarer = rarer(parts);
        (found.low, found.high) = (Some(low), Some(high));
        return found;
    }
    let (down, up) = spread.reach(confidence);
    // Over a negative sum, up is down.
    let ends = [q - down / below, q + up / below];
    let (mut low, mut high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
    if parts.iter().all(|part| part.den >= 0.0) {
        if !seen.negative {
            low = low.max(0.0);
        }
        if !seen.positive {
            high = high.min(0.0);
        }
    }
    (found.low, found.high) = (Some(low), Some(high));
    found
}

/// Of what a residual is made of, the part that rounding may leave where there is none.
const ROUNDING: f64 = 1e-11;

/// num - q den. What rounding leaves of nothing is nothing: else it would decide whether there is a variance, and so how wide the interval is.
fn residual(part: &Part, q: f64) -> f64 {
    let expected = q * part.den;
    let off = part.num - expected;
    match off.abs() <= ROUNDING * part.num.abs().max(expected.abs()) {
        true => 0.0,
        false => off,
    }
}

/// The interval of a share `q` of `below`; `spread` is of num - q den, `all` the variance of `below`, which is what it would be if all rows of a
/// trace were alike, over q (1-q).
///
/// It is Wilson's with as many trials as have this variance, q (1-q) / V, and with Student's deviate. His slope is that of trials alike. Where
/// traces differ in size the errors of large ones make a steeper one: on that side, whichever of the two goes further.
fn share(q: f64, spread: &Spread, below: f64, all: f64, confidence: Confidence) -> (f64, f64) {
    let v = spread.variance() / (below * below);
    let either = q * (1.0 - q);
    let (trials, t) = if v > 0.0 && either > 0.0 {
        (either / v, spread.deviate(confidence))
    } else {
        (below * below / all, confidence.z())
    };
    if trials.is_infinite() {
        return (q, q);
    }
    let wilson = wilson_at(q * trials, trials, t);
    let (mut low, mut high) = (wilson.lo.min(q), wilson.hi.max(q));
    let (down, up) = spread.reach(confidence);
    if up > down {
        high = high.max(q + up / below).min(1.0);
    } else if down > up {
        low = low.min(q - down / below).max(0.0);
    }
    (low, high)
}

/// Kish's number of the traces with the event, or of those without, whichever has fewer; `None` where those are none or were all kept.
fn rarer(parts: &[Part]) -> Option<f64> {
    let side = |has: fn(&Part) -> bool| {
        let (mut n, mut sum, mut squares, mut sampled) = (0, 0.0, 0.0, false);
        for trace in traces(parts).filter(|trace| trace.iter().any(has)) {
            let weight = trace[trace.len() - 1].weight;
            (n, sum, squares, sampled) = (n + 1, sum + weight, squares + weight * weight, sampled || weight > 1.0);
        }
        (n, sampled.then(|| kish(sum, squares)))
    };
    let (with, without) = (side(|part| part.num > 0.0), side(|part| part.num < part.den));
    if with.0 <= without.0 { with.1 } else { without.1 }
}

/// Estimated variance of the sum of w*z, for a `z` of the parts.
fn variance(parts: &[Part], z: impl Fn(&Part) -> f64) -> f64 {
    Spread::of(parts, z).variance()
}

/// The parts of each trace.
fn traces(parts: &[Part]) -> impl Iterator<Item = &[Part]> {
    parts.chunk_by(|a, b| a.trace == b.trace && a.trace != NO_TRACE)
}

/// Number of traces, and Kish's effective number of them.
fn effective(parts: &[Part]) -> (u64, f64) {
    let (mut n, mut sum, mut squares) = (0, 0.0, 0.0);
    for trace in traces(parts) {
        let weight = trace[trace.len() - 1].weight;
        n += 1;
        sum += weight;
        squares += weight * weight;
    }
    (n, kish(sum, squares))
}

/// Kish's effective number, from the sum of weights and of their squares; 0 of nothing.
#[must_use]
pub fn kish(sum: f64, squares: f64) -> f64 {
    if squares > 0.0 { sum * sum / squares } else { 0.0 }
}

#[cfg(test)]
mod tests;
