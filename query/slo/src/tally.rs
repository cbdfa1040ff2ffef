//! Counting: slices of event time in, sums that add up in any order, and from a sum the share of the budget that is gone.
//!
//! Guarantees: everything up to the last division is whole numbers, so that order of merging and width of slices change nothing
//! (Occurrences), and `consumed + remaining = 1` holds exactly. A slice whose good count is only known to lie in a range carries both
//! ends through; what is shown as one number is the worse end, so that nothing looks healthier than it is known to be.

use std::ops::{Add, AddAssign, Sub};

use tailwater_openslo::{Budgeting, Decimal};

use crate::interval::{Confidence, Interval, IntervalMethod};
use crate::time::{Span, Time};

/// What was counted in one slice of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its first second.
    pub start: Time,
    /// Its length in seconds, at least 1.
    pub width: u32,
    /// Fewest good events there can have been.
    pub good: u64,
    /// Most good events there can have been; equal to `good` unless a latency threshold fell inside a bucket.
    pub good_most: u64,
    /// All events that were counted; of ready ratios as many parts a value ([`crate::Plan::parts`]).
    pub total: u64,
    /// Bad events beyond all of this slice. They are of events that other slices count: what is lost may be booked later than what was received.
    pub excess: u64,
}

/// Parts of a ready ratio: a value of a `raw` indicator adds this many to a slice's total.
pub(crate) const RATIO_PARTS: u64 = 1_000_000_000;

impl Slice {
    /// Exact counts.
    #[must_use]
    pub const fn new(start: Time, width: u32, good: u64, total: u64) -> Self {
        Self {
            start,
            width,
            good,
            good_most: good,
            total,
            excess: 0,
        }
    }

    /// Between two counts of good events, as [`crate::latency::Histogram::at_most`] gives them.
    #[must_use]
    pub const fn between(start: Time, width: u32, good: (u64, u64), total: u64) -> Self {
        Self {
            start,
            width,
            good: good.0,
            good_most: good.1,
            total,
            excess: 0,
        }
    }

    /// Counts of bad events, of which there may be more than of all.
    #[must_use]
    pub const fn of_bad(start: Time, width: u32, bad: u64, total: u64) -> Self {
        Self {
            excess: bad.saturating_sub(total),
            ..Self::new(start, width, total.saturating_sub(bad), total)
        }
    }

    /// A value that was or was not as demanded.
    #[must_use]
    pub const fn judged(start: Time, width: u32, is_good: bool) -> Self {
        Self::new(start, width, is_good as u64, 1)
    }

    /// A ready share of good in 0..=1, without the counts behind it. `None` for what is not such a share.
    #[must_use]
    pub fn ratio(start: Time, width: u32, good: f64) -> Option<Self> {
        (0.0..=1.0)
            .contains(&good)
            .then(|| Self::new(start, width, (good * RATIO_PARTS as f64).round() as u64, RATIO_PARTS))
    }

    /// When it was.
    #[must_use]
    pub const fn span(self) -> Span {
        Span::new(self.start, self.start.plus(self.width as i64))
    }
}

/// Ratios of single slices are summed in this many parts of one; the error of a sum is below 2^-49 per slice, in any order.
const UNIT: u128 = 1 << 48;

/// Additive figures of some slices. Whole numbers only, so a difference of two prefixes is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Events, fewest good, before `excess` is taken from them.
    good: u128,
    /// Events, most good, likewise.
    good_most: u128,
    /// Events counted.
    pub total: u128,
    /// Bad events beyond all of their slices (Occurrences only: a slice that is judged by itself has none but its own).
    excess: u128,
    /// Slices with events.
    pub measured: u128,
    /// Of them surely good.
    slices_good: u128,
    /// Of them possibly good.
    slices_good_most: u128,
    /// Sum of the slices' shares of good, in parts of [`UNIT`].
    shares: u128,
    shares_most: u128,
    /// Sum of `1/events` of the slices, in parts of [`UNIT`]: what the variance of a mean of ratios hangs on.
    inverse: u128,
    /// Seconds of event time looked at.
    pub seconds: u64,
    /// Slices that claim more good events than events or, where slices are judged, more bad ones.
    pub impossible: u128,
}

impl Sums {
    /// The figures of one slice. Without events only its time counts.
    #[must_use]
    pub fn of(slice: &Slice, budgeting: &Budgeting) -> Self {
        let mut sums = Self {
            seconds: slice.width.into(),
            ..Self::default()
        };
        let adds_up = matches!(budgeting, Budgeting::Occurrences);
        if adds_up {
            sums.excess = slice.excess.into();
        }
        let is_impossible = slice.good.max(slice.good_most) > slice.total || !adds_up && slice.excess > slice.good;
        sums.impossible = is_impossible.into();
        if slice.total == 0 {
            return sums;
        }
        let total = u128::from(slice.total);
        let own = if adds_up { 0 } else { slice.excess };
        let counted = |good: u64| u128::from(good.saturating_sub(own)).min(total);
        let (good, most) = (counted(slice.good), counted(slice.good_most.max(slice.good)));
        (sums.good, sums.good_most, sums.total, sums.measured) = (good, most, total, 1);
        match budgeting {
            Budgeting::Occurrences => {}
            Budgeting::Timeslices { target, .. } => {
                sums.slices_good = reached(*target, good, total).into();
                sums.slices_good_most = reached(*target, most, total).into();
            }
            Budgeting::RatioTimeslices { .. } => {
                let share = |part: u128| (part * UNIT + total / 2) / total;
                (sums.shares, sums.shares_most) = (share(good), share(most));
                sums.inverse = (UNIT + total / 2) / total;
            }
        }
        sums
    }

    /// A slice that was looked at and had no events, counted as good or as bad by the caller's choice (slice methods only).
    #[must_use]
    pub fn empty_slice(width: u32, good: bool) -> Self {
        let one = u128::from(good);
        Self {
            measured: 1,
            slices_good: one,
            slices_good_most: one,
            shares: one * UNIT,
            shares_most: one * UNIT,
            inverse: UNIT,
            seconds: width.into(),
            ..Self::default()
        }
    }

    /// The same time with nothing bad in it: maintenance that counts as good.
    #[must_use]
    pub fn forgiven(mut self) -> Self {
        (self.good, self.good_most, self.excess) = (self.total, self.total, 0);
        (self.slices_good, self.slices_good_most) = (self.measured, self.measured);
        if self.shares_most > 0 || self.inverse > 0 {
            (self.shares, self.shares_most) = (self.measured * UNIT, self.measured * UNIT);
        }
        self
    }

    /// Events surely good.
    #[must_use]
    pub const fn good(&self) -> u128 {
        self.good.saturating_sub(self.excess)
    }

    /// Events possibly good.
    #[must_use]
    pub const fn good_most(&self) -> u128 {
        self.good_most.saturating_sub(self.excess)
    }

    /// Whether more events are bad than there are: some of them are of events from before or after.
    #[must_use]
    pub const fn is_overfull(&self) -> bool {
        self.excess > self.good_most
    }

    /// What the method counts. Never more bad than all: see [`Sums::is_overfull`].
    #[must_use]
    pub fn tally(&self, budgeting: &Budgeting) -> Tally {
        let (good, best, total, trials) = match budgeting {
            Budgeting::Occurrences => (self.good(), self.good_most(), self.total, self.total as f64),
            Budgeting::Timeslices { .. } => (
                self.slices_good,
                self.slices_good_most,
                self.measured,
                self.measured as f64,
            ),
            Budgeting::RatioTimeslices { .. } => {
                let slices = self.measured as f64;
                // A mean of m ratios of binomials of n_s trials has the variance of one binomial of m^2 / sum(1/n_s) trials.
                let trials = if self.inverse == 0 {
                    0.0
                } else {
                    slices * slices * (UNIT as f64) / self.inverse as f64
                };
                (self.shares, self.shares_most, self.measured * UNIT, trials)
            }
        };
        let parts = if matches!(budgeting, Budgeting::RatioTimeslices { .. }) {
            UNIT as u64
        } else {
            1
        };
        Tally {
            bad: total - good,
            bad_least: total - best,
            total,
            trials,
            parts,
        }
    }
}

impl Add for Sums {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.good += other.good;
        self.good_most += other.good_most;
        self.total += other.total;
        self.excess += other.excess;
        self.measured += other.measured;
        self.slices_good += other.slices_good;
        self.slices_good_most += other.slices_good_most;
        self.shares += other.shares;
        self.shares_most += other.shares_most;
        self.inverse += other.inverse;
        self.seconds += other.seconds;
        self.impossible += other.impossible;
    }
}

/// Of two prefixes of one series: what lies between them.
impl Sub for Sums {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        Self {
            good: self.good - earlier.good,
            good_most: self.good_most - earlier.good_most,
            total: self.total - earlier.total,
            excess: self.excess - earlier.excess,
            measured: self.measured - earlier.measured,
            slices_good: self.slices_good - earlier.slices_good,
            slices_good_most: self.slices_good_most - earlier.slices_good_most,
            shares: self.shares - earlier.shares,
            shares_most: self.shares_most - earlier.shares_most,
            inverse: self.inverse - earlier.inverse,
            seconds: self.seconds - earlier.seconds,
            impossible: self.impossible - earlier.impossible,
        }
    }
}

/// Bad and all in the unit of a budgeting method: events, slices, or parts of slices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Bad ones, at worst.
    pub bad: u128,
    /// Bad ones, at best.
    pub bad_least: u128,
    /// All that were counted.
    pub total: u128,
    /// How many independent trials this is worth to a confidence interval.
    pub trials: f64,
    /// How many parts make one event, value or slice, for people: 1, or more where ratios are summed.
    pub parts: u64,
}

impl Tally {
    /// As [`Tally::parts`], for dividing by.
    #[must_use]
    pub fn unit(&self) -> f64 {
        self.parts.max(1) as f64
    }

    /// Good of all, at worst; `None` when nothing was counted.
    #[must_use]
    pub fn sli(&self) -> Option<f64> {
        (self.total > 0).then(|| Ratio::new(self.good() as i128, self.total as i128).as_f64())
    }

    /// Good ones, at worst.
    #[must_use]
    pub const fn good(&self) -> u128 {
        self.total - self.bad
    }

    /// The share that lies between the ends of what is known: one number unless a bucket was cut.
    #[must_use]
    pub fn known(&self) -> Option<Interval> {
        let all = self.total as f64;
        (self.total > 0).then(|| Interval {
            lo: self.good() as f64 / all,
            hi: (self.total - self.bad_least) as f64 / all,
        })
    }

    /// Whether the counts as they are reach a target whatever is unknown (`Some(true)`), miss it (`Some(false)`), or leave it open.
    #[must_use]
    pub fn reaches(&self, target: Decimal) -> Option<bool> {
        if self.total == 0 {
            return None;
        }
        match (
            reached(target, self.good(), self.total),
            reached(target, self.total - self.bad_least, self.total),
        ) {
            (true, _) => Some(true),
            (false, false) => Some(false),
            (false, true) => None,
        }
    }

    /// How much of the budget is gone: `bad / (budget * total)`. It is the burn rate of the window at the same time. 1 is all of it, more
    /// than 1 is overdrawn. `None` when nothing was counted; infinite when there is no budget and something was bad.
    #[must_use]
    pub fn consumed(&self, budget: Decimal) -> Option<Ratio> {
        if self.total == 0 {
            return None;
        }
        let (parts, scale) = budget.parts();
        let num = self.bad as i128 * 10_i128.pow(scale.into());
        let den = self.total as i128 * i128::from(parts);
        Some(if num == 0 {
            Ratio::new(0, 1)
        } else {
            Ratio::new(num, den)
        })
    }

    /// The interval of the share of good: from the worst reading to the best one, each widened by chance.
    #[must_use]
    pub fn interval(&self, method: IntervalMethod, confidence: Confidence) -> Interval {
        let all = self.total as f64;
        if self.total == 0 {
            return Interval::ALL;
        }
        let trials = self.trials;
        let bad = |count: u128| {
            // Counted in events this is the count itself; in parts of slices it is scaled to the trials.
            let k = if trials == all {
                count as f64
            } else {
                count as f64 / all * trials
            };
            method.bounds(k, trials, confidence).flipped()
        };
        Interval {
            lo: bad(self.bad).lo,
            hi: bad(self.bad_least).hi,
        }
    }
}

/// A quotient of whole numbers, divided last. A denominator of 0 stands for infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    num: i128,
    den: i128,
}

impl Ratio {
    /// `num / den`, `den >= 0`.
    #[must_use]
    pub const fn new(num: i128, den: i128) -> Self {
        Self { num, den }
    }

    /// `1 - self`, exactly.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self {
            num: self.den - self.num,
            den: self.den,
        }
    }

    /// The nearest binary number, or nearly.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.num as f64 / self.den as f64
    }

    /// `(numerator, denominator)`, not reduced.
    #[must_use]
    pub const fn parts(self) -> (i128, i128) {
        (self.num, self.den)
    }
}

/// Whether `part` of `whole` is at least `share` (0 or more, at most 18 digits), exactly. Nothing of nothing reaches nothing.
#[must_use]
pub fn reached(share: Decimal, part: u128, whole: u128) -> bool {
    let (parts, scale) = share.parts();
    let parts = u128::from(parts.unsigned_abs());
    let tens = 10_u128.pow(scale.into());
    // Counts stay below 2^68 (u64 sums), targets below 10^9 and slice targets, which meet single slices only, below 10^18: no overflow.
    whole > 0 && part * tens >= whole * parts
}

/// `part / whole` as a percentage with this many digits (at most 9), cut off and never rounded up: 9,999,999 of 10,000,000 must not read
/// 100 %. `whole` is not 0.
#[must_use]
pub fn percent_down(part: u128, whole: u128, digits: usize) -> String {
    let scale = 10_u128.pow(digits as u32);
    let hundred = 100 * scale;
    // Digit by digit would be exact for every width; counts of 2^90 leave room for this.
    let value = part / whole * hundred + part % whole * hundred / whole;
    if digits == 0 {
        return format!("{value}%");
    }
    format!("{}.{:0digits$}%", value / scale, value % scale)
}

#[cfg(test)]
mod tests;
