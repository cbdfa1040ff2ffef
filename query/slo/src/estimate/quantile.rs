//! Quantiles of weighted rows. The quantile q is the smallest value x with F(x) >= q, where F(x) is the weight of the rows at or below x over the
//! weight of all: with weights of 1 the `percentile_disc(q)` of SQL, a value that is there.
//!
//! The interval is R. S. Woodruff's (1952): ends where the share of rows at or below could still be q. That share's interval is not taken at the
//! estimate alone but at every candidate x (C. A. Francisco and W. A. Fuller, 1991), as that of any share, per trace ([`share`]): with few rows
//! beyond a high quantile the error at the estimate says almost nothing, and what it says is skewed. Where no value kept is surely beyond the
//! quantile, that end is unknown.
//!
//! What it cannot know: rows beyond the quantile that have weight 1 count as certain, and if none of a larger weight was kept there, it takes that there
//! are none. Where slow traces are kept whole that is so; where it is not, few traces kept of the rest can miss them.

use super::{Estimate, NO_TRACE, Part, Seen, Spread, TraceKey, effective, share, variance};
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
    let at = reached(draws.iter().map(|draw| draw.weight), q)?;
    Some(draws[at].value)
}

/// The first of rows in ascending order with at least the share `q` of the weight at or below it.
fn reached(weights: impl ExactSizeIterator<Item = f64> + Clone, q: f64) -> Option<usize> {
    let last = weights.len().checked_sub(1)?;
    // `q * all` is off by two roundings, which must not ask for one row more.
    let wanted = q * weights.clone().sum::<f64>() * (1.0 - 4.0 * f64::EPSILON);
    let mut below = 0.0;
    let found = weights.enumerate().find(|(_, weight)| {
        below += weight;
        below >= wanted
    });
    Some(found.map_or(last, |(at, _)| at))
}

/// The quantile with its interval; sorts the draws by value.
pub fn quantile(draws: &mut [(Draw, TraceKey)], q: f64, seen: Seen, confidence: Confidence) -> Estimate {
    let mut found = Estimate {
        unweighted: seen.unweighted,
        sampled: seen.sampled,
        ..Estimate::default()
    };
    draws.sort_unstable_by(|a, b| a.0.value.total_cmp(&b.0.value));
    let Some(row) = reached(draws.iter().map(|draw| draw.0.weight), q) else {
        return found;
    };
    let mut below = Below::new(draws);
    (found.n, found.n_effective) = effective(&below.parts);
    found.estimate = Some(draws[row].0.value);
    if below.whole == 0.0 {
        (found.low, found.high) = (found.estimate, found.estimate);
        return found;
    }
    let steps = steps(draws);
    let value = |step: usize| draws[steps[step] as usize - 1].0.value;
    let at = steps.partition_point(|end| *end as usize <= row);
    let mut share_at = |rows: u32| below.share(rows as usize, confidence);
    // The ends are searched by halves, as if with every value on the way from the estimate the share at or below grew surer.
    let first = first(0..at, |step| share_at(steps[step]).1 >= q);
    if first > 0 || (q > 0.0 && share_at(0).1 < q) {
        found.low = Some(value(first));
    }
    let beyond = self::first(at..steps.len(), |step| share_at(steps[step]).0 > q);
    found.high = (beyond < steps.len()).then(|| value(beyond));
    found
}

/// How many rows are at or below each value that is there.
fn steps(draws: &[(Draw, TraceKey)]) -> Vec<u32> {
    let same = draws.chunk_by(|a, b| a.0.value == b.0.value);
    let mut rows = 0;
    same.map(|same| {
        rows += same.len() as u32;
        rows
    })
    .collect()
}

/// The first step from which on `is` holds, or the end.
fn first(within: std::ops::Range<usize>, mut is: impl FnMut(usize) -> bool) -> usize {
    let (mut from, mut to) = (within.start, within.end);
    while from < to {
        let middle = from + (to - from) / 2;
        if is(middle) {
            to = middle;
        } else {
            from = middle + 1;
        }
    }
    from
}

/// The share F of the rows at or below a value, for one value after another.
struct Below {
    /// Per trace and weight: `den` rows, `num` of them at or below the value.
    parts: Vec<Part>,
    /// The part of each row.
    part_of: Vec<u32>,
    /// How many rows are at or below it.
    rows: usize,
    /// The weight of all rows, and its variance.
    all: f64,
    whole: f64,
}

impl Below {
    fn new(draws: &[(Draw, TraceKey)]) -> Below {
        let mut order: Vec<u32> = (0..draws.len() as u32).collect();
        order.sort_unstable_by(|a, b| {
            let ((a, trace_a), (b, trace_b)) = (draws[*a as usize], draws[*b as usize]);
            trace_a.cmp(&trace_b).then(a.weight.total_cmp(&b.weight))
        });
        let mut parts: Vec<Part> = Vec::new();
        let mut part_of = vec![0; draws.len()];
        for row in order {
            let (Draw { weight, .. }, trace) = draws[row as usize];
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
        Below {
            all: parts.iter().map(|part| part.weight * part.den).sum(),
            whole: variance(&parts, |part| part.den),
            rows: 0,
            parts,
            part_of,
        }
    }

    /// Between what shares the first `rows` rows may lie.
    fn share(&mut self, rows: usize, confidence: Confidence) -> (f64, f64) {
        for row in self.rows..rows {
            self.parts[self.part_of[row] as usize].num += 1.0;
        }
        for row in rows..self.rows {
            self.parts[self.part_of[row] as usize].num -= 1.0;
        }
        self.rows = rows;
        // Summed as `all` is: of all rows it is exactly 1.
        let f = self.parts.iter().map(|part| part.weight * part.num).sum::<f64>() / self.all;
        let spread = Spread::of(&self.parts, |part| part.num - f * part.den);
        share(f, &spread, self.all, self.whole, confidence)
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

/// After each row in order of value: what shares F may be, as the search has them, and as a ratio has them.
#[cfg(test)]
pub(super) fn shares(rows: &[(f64, f64, u64)], order: impl Iterator<Item = usize>) -> Vec<[(f64, f64); 2]> {
    let mut draws = drawn(rows);
    draws.sort_by(|a, b| a.0.value.total_cmp(&b.0.value));
    let mut below = Below::new(&draws);
    let each = |count: usize| {
        let mut parts: Vec<Part> = Vec::new();
        for (row, (draw, trace)) in draws.iter().enumerate() {
            parts.push(Part {
                trace: *trace,
                weight: draw.weight,
                num: f64::from(row < count),
                den: 1.0,
            });
        }
        super::sort(&mut parts);
        let found = super::ratio(&parts, Seen::default(), Confidence::P95);
        [
            below.share(count, Confidence::P95),
            (found.low.unwrap_or(f64::NAN), found.high.unwrap_or(f64::NAN)),
        ]
    };
    order.map(each).collect()
}
