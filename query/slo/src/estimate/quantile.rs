//! Quantiles of weighted rows. The quantile q is the smallest value x with F(x) >= q, where F(x) is the weight of the rows at or below x over the
//! weight of all: with weights of 1 the `percentile_disc(q)` of SQL, a value that is there.
//!
//! The interval is R. S. Woodruff's (1952): ends where the share of rows below could still be q. Its standard error is not taken at the estimate
//! alone but at every candidate x (C. A. Francisco and W. A. Fuller, 1991), as that of a ratio per trace, and bounded by Wilson: with few rows beyond a
//! high quantile the error at the estimate says almost nothing. Where no value kept is surely beyond the quantile, that end is unknown.

use super::{Estimate, NO_TRACE, Part, Seen, TraceKey, effective, share, variance};
use crate::interval::Confidence;

/// A weighted value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The value; not NaN.
    pub value: f64,
    /// Its weight.
    pub weight: f64,
}

/// The quantile alone; sorts the draws by value. `None` of nothing.
pub fn at_rank(draws: &mut [Draw], q: f64) -> Option<f64> {
    draws.sort_unstable_by(|a, b| a.value.total_cmp(&b.value));
    let all: f64 = draws.iter().map(|draw| draw.weight).sum();
    let wanted = rank(q, all);
    let mut below = 0.0;
    let reached = draws.iter().find(|draw| {
        below += draw.weight;
        below >= wanted
    });
    reached.or(draws.last()).map(|draw| draw.value)
}

/// The weight that has to be at or below the quantile. `q * all` is off by two roundings, which must not ask for one row more.
fn rank(q: f64, all: f64) -> f64 {
    q * all * (1.0 - 4.0 * f64::EPSILON)
}

/// The quantile with its interval; sorts the draws by value.
pub fn quantile(draws: &mut [(Draw, TraceKey)], q: f64, seen: Seen, confidence: Confidence) -> Estimate {
    let mut found = Estimate {
        unweighted: seen.unweighted,
        sampled: seen.sampled,
        ..Estimate::default()
    };
    if draws.is_empty() {
        return found;
    }
    draws.sort_unstable_by(|a, b| a.0.value.total_cmp(&b.0.value));
    let mut sweep = Sweep::new(draws);
    (found.n, found.n_effective) = effective(&sweep.parts);
    let wanted = rank(q, sweep.all);
    let exact = sweep.whole == 0.0;
    // Whether the last value looked at, still below the estimate, is surely below the quantile. First: below all that was kept.
    let mut surely_below = q > 0.0 && sweep.bounds(confidence).1 < q;
    let mut at = 0;
    while at < draws.len() {
        let value = draws[at].0.value;
        let same = draws[at..].iter().take_while(|draw| draw.0.value == value).count();
        (at..at + same).for_each(|row| sweep.pass(row, draws[row].0.weight));
        at += same;
        if found.estimate.is_none() && (sweep.below >= wanted || at == draws.len()) {
            found.estimate = Some(value);
            if surely_below || exact {
                found.low.get_or_insert(value);
            }
            if exact {
                found.high = Some(value);
                return found;
            }
        }
        let (low, high) = sweep.bounds(confidence);
        if found.estimate.is_none() {
            if high < q {
                (surely_below, found.low) = (true, None);
            } else if surely_below {
                found.low.get_or_insert(value);
            }
        } else if low > q {
            found.high = Some(value);
            return found;
        }
    }
    found
}

/// F and its variance while rows pass from above to below, in ascending order. With e rows of a trace at or below x and n rows in all, the
/// variance of F(x) is that of e - F n; its three sums of products change by one trace at a time.
struct Sweep {
    /// Per trace and weight: `den` rows, `num` of them passed.
    parts: Vec<Part>,
    /// The part of each row.
    part_of: Vec<u32>,
    all: f64,
    below: f64,
    passed: f64,
    mixed: f64,
    whole: f64,
}

impl Sweep {
    fn new(draws: &[(Draw, TraceKey)]) -> Sweep {
        let mut order: Vec<u32> = (0..draws.len() as u32).collect();
        order.sort_unstable_by(|a, b| {
            let ((a, trace_a), (b, trace_b)) = (draws[*a as usize], draws[*b as usize]);
            trace_a.cmp(&trace_b).then(a.weight.total_cmp(&b.weight))
        });
        let mut parts: Vec<Part> = Vec::new();
        let mut part_of = vec![0; draws.len()];
        let mut all = 0.0;
        for row in order {
            let (Draw { weight, .. }, trace) = draws[row as usize];
            all += weight;
            match parts.last_mut() {
                Some(part) if part.trace == trace && part.weight == weight && trace != NO_TRACE => part.den += 1.0,
                _ => parts.push(Part {
                    trace,
                    weight,
                    num: 0.0,
                    den: 1.0,
                }),
            }
            part_of[row as usize] = parts.len() as u32 - 1;
        }
        let whole = variance(&parts, |part| part.den);
        let (below, passed, mixed) = (0.0, 0.0, 0.0);
        Sweep {
            parts,
            part_of,
            all,
            below,
            passed,
            mixed,
            whole,
        }
    }

    fn pass(&mut self, row: usize, weight: f64) {
        self.below += weight;
        let at = self.part_of[row] as usize;
        let (mut with_passed, mut with_all) = (0.0, 0.0);
        for part in &self.parts[self.trace_of(at)] {
            let joint = (1.0 - part.weight.min(weight).recip()) * part.weight * weight;
            with_passed += joint * part.num;
            with_all += joint * part.den;
        }
        self.passed += 2.0 * with_passed + (1.0 - weight.recip()) * weight * weight;
        self.mixed += with_all;
        self.parts[at].num += 1.0;
    }

    /// The parts of the trace that the part at `at` belongs to: nearly always itself alone.
    fn trace_of(&self, at: usize) -> std::ops::Range<usize> {
        let trace = self.parts[at].trace;
        if trace == NO_TRACE {
            return at..at + 1;
        }
        let same = |part: &&Part| part.trace == trace;
        let before = self.parts[..at].iter().rev().take_while(same).count();
        at - before..at + self.parts[at..].iter().take_while(same).count()
    }

    /// Between what shares the rows at or below may lie.
    fn bounds(&self, confidence: Confidence) -> (f64, f64) {
        let (f, v) = self.f();
        share(f, v, self.whole / (self.all * self.all), confidence)
    }

    /// F and its variance.
    fn f(&self) -> (f64, f64) {
        let f = (self.below / self.all).min(1.0);
        let v = self.passed - 2.0 * f * self.mixed + f * f * self.whole;
        // A difference of large sums: what is this small is rounding.
        let v = if v <= 1e-12 * self.whole { 0.0 } else { v };
        (f, v / (self.all * self.all))
    }
}

/// Draws of tests: value, weight and trace of each.
#[cfg(test)]
pub(super) fn drawn(rows: &[(f64, f64, u64)]) -> Vec<(Draw, [u64; 2])> {
    let draw = |(value, weight, trace): &(f64, f64, u64)| {
        let (value, weight) = (*value, *weight);
        (Draw { value, weight }, [*trace, 1])
    };
    rows.iter().map(draw).collect()
}

/// After each row in order of value: F and its variance as the sweep has them, and as the formula of a ratio has them.
#[cfg(test)]
pub(super) fn f_and_variance(rows: &[(f64, f64, u64)]) -> [Vec<(f64, f64)>; 2] {
    let mut draws = drawn(rows);
    draws.sort_by(|a, b| a.0.value.total_cmp(&b.0.value));
    let mut sweep = Sweep::new(&draws);
    let all: f64 = draws.iter().map(|draw| draw.0.weight).sum();
    let passed = (0..draws.len()).map(|row| {
        sweep.pass(row, draws[row].0.weight);
        sweep.f()
    });
    let in_full = (1..=draws.len()).map(|count| {
        let f = draws[..count].iter().map(|draw| draw.0.weight).sum::<f64>() / all;
        let parts = draws.iter().enumerate().map(|(row, (draw, trace))| Part {
            trace: *trace,
            weight: draw.weight,
            num: f64::from(row < count),
            den: 1.0,
        });
        let mut parts: Vec<Part> = parts.collect();
        super::sort(&mut parts);
        (f, variance(&parts, |part| part.num - f * part.den) / (all * all))
    });
    [passed.collect(), in_full.collect()]
}
