//! How far a counted share may lie from the true one: Wilson and Clopper-Pearson.
//!
//! Both answer "which failure rates are compatible with these counts". Wilson's is right on average (its coverage swings around the
//! promised one), Clopper-Pearson's is never less than promised and therefore wider. With no trials both say everything is possible.

use serde::Serialize;

use crate::beta::{beta_quantile, binomial_at_most};

/// How sure an interval is to hold the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Confidence {
    /// 90 %.
    #[serde(rename = "90%")]
    P90,
    /// 95 %.
    #[default]
    #[serde(rename = "95%")]
    P95,
    /// 99 %.
    #[serde(rename = "99%")]
    P99,
}

impl Confidence {
    /// The probability left outside, on both sides together.
    #[must_use]
    pub const fn alpha(self) -> f64 {
        match self {
            Self::P90 => 0.1,
            Self::P95 => 0.05,
            Self::P99 => 0.01,
        }
    }

    /// The two-sided quantile of the normal distribution.
    #[must_use]
    pub const fn z(self) -> f64 {
        match self {
            Self::P90 => 1.644_853_626_951_472_7,
            Self::P95 => 1.959_963_984_540_054,
            Self::P99 => 2.575_829_303_548_900_4,
        }
    }

    /// `95%`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P90 => "90%",
            Self::P95 => "95%",
            Self::P99 => "99%",
        }
    }
}

/// Which interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntervalMethod {
    /// E. B. Wilson, 1927: inverts the score test.
    #[default]
    Wilson,
    /// C. J. Clopper and E. S. Pearson, 1934: inverts the binomial tails, exactly.
    ClopperPearson,
}

impl IntervalMethod {
    /// The name as people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wilson => "Wilson",
            Self::ClopperPearson => "Clopper-Pearson",
        }
    }

    /// The name that [`IntervalMethod::parse`] reads.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wilson => "wilson",
            Self::ClopperPearson => "clopper-pearson",
        }
    }

    /// The method of this name: `wilson` or `clopper-pearson`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Wilson, Self::ClopperPearson]
            .into_iter()
            .find(|method| method.word() == text)
    }

    /// The interval of the probability of an event seen `k` times in `n` trials; `k <= n`. Both may be fractional (an effective number of
    /// trials). Clopper-Pearson's takes whole ones, so each end is that of the whole counts next to these that put it farthest out: never
    /// narrower than promised.
    #[must_use]
    pub fn bounds(self, k: f64, n: f64, confidence: Confidence) -> Interval {
        match self {
            Self::Wilson => wilson(k, n, confidence),
            Self::ClopperPearson => {
                // The lower end falls with fewer events and with more of the others, the upper one rises with the opposite.
                let others = n - k;
                let end = |k: f64, others: f64| clopper_pearson(k, k + others, confidence);
                Interval {
                    lo: end(k.floor(), others.ceil()).lo,
                    hi: end(k.ceil(), others.floor()).hi,
                }
            }
        }
    }
}

/// Two shares, both in 0..=1, `lo <= hi`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

impl Interval {
    /// Anything is possible.
    pub const ALL: Self = Self { lo: 0.0, hi: 1.0 };

    /// The interval of the opposite event.
    #[must_use]
    pub fn flipped(self) -> Self {
        Self {
            lo: 1.0 - self.hi,
            hi: 1.0 - self.lo,
        }
    }

    /// Whether `share` lies within, ends included.
    #[must_use]
    pub fn holds(self, share: f64) -> bool {
        self.lo <= share && share <= self.hi
    }
}

/// Wilson's score interval: with `z` of the confidence,
/// `(k + z^2/2 -+ z sqrt(k (n-k)/n + z^2/4)) / (n + z^2)`.
#[must_use]
pub fn wilson(k: f64, n: f64, confidence: Confidence) -> Interval {
    wilson_at(k, n, confidence.z())
}

/// [`wilson`] with another deviate than the normal one, such as Student's.
#[must_use]
pub(crate) fn wilson_at(k: f64, n: f64, z: f64) -> Interval {
    if n <= 0.0 {
        return Interval::ALL;
    }
    let centre = k + z * z / 2.0;
    let half = z * (k * (n - k) / n + z * z / 4.0).max(0.0).sqrt();
    // The ends are 0 and 1 by algebra; rounding must not move them inwards.
    let lo = if k <= 0.0 {
        0.0
    } else {
        ((centre - half) / (n + z * z)).max(0.0)
    };
    let hi = if k >= n {
        1.0
    } else {
        ((centre + half) / (n + z * z)).min(1.0)
    };
    Interval { lo, hi }
}

/// Clopper and Pearson's exact interval: `alpha/2` of the binomial tail outside each end, by quantiles of the beta distribution.
#[must_use]
pub fn clopper_pearson(k: f64, n: f64, confidence: Confidence) -> Interval {
    if n <= 0.0 {
        return Interval::ALL;
    }
    // Small shares keep their digits; large ones are one minus a small one.
    if k > n / 2.0 {
        return clopper_pearson(n - k, n, confidence).flipped();
    }
    let tail = confidence.alpha() / 2.0;
    let near = wilson(k, n, confidence);
    let lo = if k <= 0.0 {
        0.0
    } else {
        beta_quantile(tail, k, n - k + 1.0, near.lo)
    };
    let hi = if k >= n {
        1.0
    } else {
        beta_quantile(1.0 - tail, k + 1.0, n - k, near.hi)
    };
    Interval { lo, hi }
}

/// Ranks (1 is the smallest) of two order statistics between which quantile `q` lies with at least this confidence, whatever the
/// distribution: the largest lower and the smallest upper rank that leave at most `alpha/2` each. `None` when `n` is below
/// [`order_minimum`]: no observation is sure enough to be above (or below) the quantile.
#[must_use]
pub fn order_ranks(n: u64, q: f64, confidence: Confidence) -> Option<(u64, u64)> {
    let tail = confidence.alpha() / 2.0;
    let trials = n as f64;
    // X_(l) is above the quantile when at most l-1 values are below it; X_(u) is below it when at least u are.
    let mut lower = 0;
    let mut beyond = n + 1;
    while beyond - lower > 1 {
        let l = lower + (beyond - lower) / 2;
        if binomial_at_most((l - 1) as f64, trials, q) <= tail {
            lower = l;
        } else {
            beyond = l;
        }
    }
    let mut upper = n + 1;
    let mut below = 0;
    while upper - below > 1 {
        let u = below + (upper - below) / 2;
        // P(X >= u) as a tail of the other side: 1 - P(X <= u-1) would lose all digits.
        if binomial_at_most(trials - u as f64, trials, 1.0 - q) <= tail {
            upper = u;
        } else {
            below = u;
        }
    }
    (lower >= 1 && upper <= n).then_some((lower, upper))
}

/// Smallest number of values from which quantile `q` has a two-sided interval: the smallest `n` with `q^n <= alpha/2` and
/// `(1-q)^n <= alpha/2`.
#[must_use]
pub fn order_minimum(q: f64, confidence: Confidence) -> u64 {
    let tail = (confidence.alpha() / 2.0).ln();
    let need = |q: f64| (tail / q.ln()).ceil();
    need(q).max(need(1.0 - q)).max(1.0) as u64
}

#[cfg(test)]
mod tests;
