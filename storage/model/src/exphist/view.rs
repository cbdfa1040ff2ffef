//! Reads an encoded sketch in place.

use super::encoding::{
    Cursor, EMPTY, FLOAT_COUNTS, INFINITIES, Malformed, NEGATIVES, VERSION, index_in_range, unzigzag,
};
use super::index::{INDEX_MAX, boundary, middle};
use super::{SCALE, SCALE_MIN};

/// An encoded sketch. The head is checked by [`View::parse`], the buckets while they are read.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(super) scale: i8,
    pub(super) sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) zero: f64,
    pub(super) below_all: f64,
    pub(super) above_all: f64,
    /// At the first bucket count, if there are buckets.
    body: Option<Cursor<'a>>,
    has_negatives: bool,
}

/// Walks the buckets of one sign, by ascending magnitude.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buckets<'a> {
    cursor: Cursor<'a>,
    scale: i8,
    left: u64,
    previous: Option<i64>,
}

impl<'a> View<'a> {
    /// Checks version and head.
    pub fn parse(bytes: &'a [u8]) -> Result<View<'a>, Malformed> {
        let mut cursor = Cursor {
            rest: bytes,
            float_counts: false,
        };
        if cursor.byte()? != VERSION {
            return Err(Malformed("another version"));
        }
        let flags = cursor.byte()?;
        let scale = cursor.byte()? as i8;
        if flags & !(FLOAT_COUNTS | INFINITIES | NEGATIVES | EMPTY) != 0 {
            return Err(Malformed("an unknown flag"));
        }
        if !(SCALE_MIN..=SCALE).contains(&scale) {
            return Err(Malformed("the scale is out of range"));
        }
        let mut view = View {
            scale,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            zero: 0.0,
            below_all: 0.0,
            above_all: 0.0,
            body: None,
            has_negatives: flags & NEGATIVES != 0,
        };
        if flags & EMPTY != 0 {
            return if cursor.rest.is_empty() {
                Ok(view)
            } else {
                Err(Malformed("bytes after the end"))
            };
        }
        cursor.float_counts = flags & FLOAT_COUNTS != 0;
        view.sum = cursor.float()?;
        view.min = cursor.float()?;
        view.max = cursor.float()?;
        view.zero = cursor.count()?;
        if flags & INFINITIES != 0 {
            view.below_all = cursor.count()?;
            view.above_all = cursor.count()?;
        }
        view.body = Some(cursor);
        Ok(view)
    }

    /// Negative buckets; read them to their end and hand them to [`View::positives`].
    pub(super) fn negatives(&self) -> Result<Option<Buckets<'a>>, Malformed> {
        match self.body {
            Some(cursor) if self.has_negatives => Ok(Some(Buckets::start(cursor, self.scale)?)),
            _ => Ok(None),
        }
    }

    /// Positive buckets. `after` are the negative ones, read to their end.
    pub(super) fn positives(&self, after: Option<Buckets<'a>>) -> Result<Option<Buckets<'a>>, Malformed> {
        debug_assert!(after.is_none_or(|buckets| buckets.left == 0));
        match after.map(|buckets| buckets.cursor).or(self.body) {
            Some(cursor) => Ok(Some(Buckets::start(cursor, self.scale)?)),
            None => Ok(None),
        }
    }

    /// Weights of negative values, of positive values, and of everything.
    fn totals(&self) -> Result<(f64, f64, f64), Malformed> {
        let mut negatives = self.negatives()?;
        let below = drain(&mut negatives)?;
        let mut positives = self.positives(negatives)?;
        let above = drain(&mut positives)?;
        if positives.is_some_and(|buckets| !buckets.cursor.rest.is_empty()) {
            return Err(Malformed("bytes after the end"));
        }
        Ok((
            below,
            above,
            self.below_all + below + self.zero + above + self.above_all,
        ))
    }

    /// Sum of all weights.
    pub fn count(&self) -> Result<f64, Malformed> {
        self.totals().map(|(_, _, all)| all)
    }

    /// Weighted sum; infinite or NaN when infinities were counted.
    pub fn sum(&self) -> f64 {
        match (self.below_all > 0.0, self.above_all > 0.0) {
            (false, false) => self.sum,
            (true, false) => f64::NEG_INFINITY,
            (false, true) => f64::INFINITY,
            (true, true) => f64::NAN,
        }
    }

    /// Smallest value; `None` when nothing was counted.
    pub fn min(&self) -> Option<f64> {
        if self.below_all > 0.0 {
            return Some(f64::NEG_INFINITY);
        }
        match self.min <= self.max {
            true => Some(self.min),
            false => (self.above_all > 0.0).then_some(f64::INFINITY),
        }
    }

    /// Largest value; `None` when nothing was counted.
    pub fn max(&self) -> Option<f64> {
        if self.above_all > 0.0 {
            return Some(f64::INFINITY);
        }
        match self.min <= self.max {
            true => Some(self.max),
            false => (self.below_all > 0.0).then_some(f64::NEG_INFINITY),
        }
    }

    /// Value at quantile `q` as `percentile_cont` defines it, see the module head. `None` for an empty sketch or `q` outside 0..=1.
    pub fn quantile(&self, q: f64) -> Result<Option<f64>, Malformed> {
        let (below, _, all) = self.totals()?;
        if all <= 0.0 || !(0.0..=1.0).contains(&q) {
            return Ok(None);
        }
        // A sketch of weight below one is read as one value.
        let last = (all - 1.0).max(0.0);
        let rank = q * last;
        let low = self.at_rank(rank.floor(), last, below)?;
        let fraction = rank - rank.floor();
        if fraction == 0.0 {
            return Ok(Some(low));
        }
        let high = self.at_rank((rank.floor() + 1.0).min(last), last, below)?;
        Ok(Some(if low == high {
            low
        } else {
            low + (high - low) * fraction
        }))
    }

    /// The value of this rank, 0 being the smallest and `last` the largest.
    fn at_rank(&self, rank: f64, last: f64, below: f64) -> Result<f64, Malformed> {
        if rank <= 0.0 {
            return Ok(self.min().unwrap_or(f64::NAN));
        }
        if rank >= last {
            return Ok(self.max().unwrap_or(f64::NAN));
        }
        let mut rank = rank - self.below_all;
        if rank < 0.0 {
            return Ok(f64::NEG_INFINITY);
        }
        let mut negatives = self.negatives()?;
        if rank < below {
            // Magnitudes ascend, values descend: look for the mirrored rank.
            let mirrored = below - rank;
            let mut seen = 0.0;
            while let Some((at, count)) = next(&mut negatives)? {
                seen += count;
                if seen >= mirrored {
                    return Ok(self.clamp(-middle(at, self.scale)));
                }
            }
        }
        rank -= below;
        drain(&mut negatives)?;
        if rank < self.zero {
            return Ok(0.0);
        }
        rank -= self.zero;
        let mut positives = self.positives(negatives)?;
        let mut seen = 0.0;
        while let Some((at, count)) = next(&mut positives)? {
            seen += count;
            if seen > rank {
                return Ok(self.clamp(middle(at, self.scale)));
            }
        }
        // Only infinities are left, or rounding of fractional weights ate the last crumb.
        Ok(self.max().unwrap_or(f64::NAN))
    }

    fn clamp(&self, value: f64) -> f64 {
        value.max(self.min).min(self.max)
    }

    /// What the sketch knows of its values, as `(above, upto, weight)`: so much weight lies in `(above, upto]`, or is `upto` where both are
    /// the same number (zeros). By ascending value; for code that has its own idea of what to read from a histogram.
    pub fn ranges(&self) -> Result<Vec<(f64, f64, f64)>, Malformed> {
        let mut ranges = Vec::new();
        if self.below_all > 0.0 {
            ranges.push((f64::NEG_INFINITY, f64::NEG_INFINITY, self.below_all));
        }
        let mut negatives = self.negatives()?;
        let first = ranges.len();
        while let Some((at, count)) = next(&mut negatives)? {
            // A negative bucket holds [-upper, -lower): written from just below its lower end.
            let (lower, upper) = (boundary(at, self.scale), boundary(at + 1, self.scale));
            let upto = if lower < f64::MIN_POSITIVE { 0.0 } else { -lower };
            ranges.push(((-upper).next_down(), upto.next_down(), count));
        }
        ranges[first..].reverse();
        if self.zero > 0.0 {
            ranges.push((0.0, 0.0, self.zero));
        }
        let mut positives = self.positives(negatives)?;
        while let Some((at, count)) = next(&mut positives)? {
            let lower = boundary(at, self.scale);
            // The bucket that ends at the smallest normal number holds the subnormal ones too.
            let above = if lower < f64::MIN_POSITIVE { 0.0 } else { lower };
            ranges.push((above, boundary(at + 1, self.scale), count));
        }
        if self.above_all > 0.0 {
            ranges.push((f64::INFINITY, f64::INFINITY, self.above_all));
        }
        Ok(ranges)
    }

    /// Hands out what buckets of positive values hold, by ascending index, and returns the weight of all else that is at or below zero. Bucket `i` is
    /// `(2^(i/32), 2^((i+1)/32)]`; of a sketch of a lower [`SCALE`] it is the last of those that the wider bucket holds.
    pub fn each_positive(&self, mut each: impl FnMut(i32, f64)) -> Result<f64, Malformed> {
        let mut negatives = self.negatives()?;
        let below = drain(&mut negatives)?;
        let mut positives = self.positives(negatives)?;
        while let Some((at, count)) = next(&mut positives)? {
            each(((at + 1) << (SCALE - self.scale)) - 1, count);
        }
        if self.above_all > 0.0 {
            each(INDEX_MAX, self.above_all);
        }
        Ok(self.below_all + below + self.zero)
    }

    /// Weight of the values at or below `x`. In the bucket of `x` the values are taken as evenly spread by logarithm; outside that
    /// bucket the answer is exact. 0 for NaN.
    pub fn count_le(&self, x: f64) -> Result<f64, Malformed> {
        let (_, _, all) = self.totals()?;
        if x.is_nan() {
            return Ok(0.0);
        }
        if x == f64::INFINITY {
            return Ok(all);
        }
        if x >= self.max {
            return Ok(all - self.above_all);
        }
        if x < self.min {
            return Ok(self.below_all);
        }
        let mut total = self.below_all;
        let mut negatives = self.negatives()?;
        while let Some((at, count)) = next(&mut negatives)? {
            let (lower, upper) = (boundary(at, self.scale), boundary(at + 1, self.scale));
            // A value -m is at or below x when m >= -x.
            total += count * (1.0 - share_below(lower, upper, (-x).max(0.0)));
        }
        if x >= 0.0 {
            total += self.zero;
        }
        let mut positives = self.positives(negatives)?;
        while let Some((at, count)) = next(&mut positives)? {
            let (lower, upper) = (boundary(at, self.scale), boundary(at + 1, self.scale));
            if x <= lower {
                break;
            }
            total += count * share_below(lower, upper, x);
        }
        Ok(total)
    }
}

/// Which share of a bucket `(lower, upper]` lies at or below a magnitude.
fn share_below(lower: f64, upper: f64, magnitude: f64) -> f64 {
    if magnitude <= lower {
        0.0
    } else if magnitude >= upper {
        1.0
    } else {
        ((magnitude.log2() - lower.log2()) / (upper.log2() - lower.log2())).clamp(0.0, 1.0)
    }
}

fn next(buckets: &mut Option<Buckets<'_>>) -> Result<Option<(i32, f64)>, Malformed> {
    match buckets {
        Some(buckets) => buckets.next(),
        None => Ok(None),
    }
}

fn drain(buckets: &mut Option<Buckets<'_>>) -> Result<f64, Malformed> {
    let mut total = 0.0;
    while let Some((_, count)) = next(buckets)? {
        total += count;
    }
    Ok(total)
}

impl<'a> Buckets<'a> {
    fn start(mut cursor: Cursor<'a>, scale: i8) -> Result<Buckets<'a>, Malformed> {
        let left = cursor.varint()?;
        Ok(Buckets {
            cursor,
            scale,
            left,
            previous: None,
        })
    }

    /// Next bucket with a count: its index and the count.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(i32, f64)>, Malformed> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let gap = self.cursor.varint()?;
        let at = match self.previous {
            None => unzigzag(gap).map(i64::from),
            Some(previous) => i64::try_from(gap).ok().and_then(|gap| gap.checked_add(previous + 1)),
        };
        let at = at
            .filter(|at| index_in_range(*at, self.scale))
            .ok_or(Malformed("a bucket is out of range"))?;
        self.previous = Some(at);
        let count = self.cursor.count()?;
        if count == 0.0 {
            return Err(Malformed("a stored bucket is empty"));
        }
        Ok(Some((at as i32, count)))
    }
}
