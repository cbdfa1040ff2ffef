//! `burn-tiers`: burn rates of two windows, in one line.

use std::time::Duration;

use crate::decimal::Decimal;
use crate::document::Op;
use crate::period::Period;
use crate::resolved::BurnTier;

/// A tier as written: its burn rate may be relative to the window of the SLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TierText {
    burn: Burn,
    long: Period,
    short: Option<Period>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Burn {
    Rate(Decimal),
    /// Percent of the budget spent in the long window.
    Share(Decimal),
}

/// Reads `14.4@1h/5m or 2%@6h/30m`.
pub(crate) fn parse_tiers(text: &str) -> Result<Vec<TierText>, String> {
    let tiers = text
        .split(" or ")
        .map(|tier| parse_tier(tier.trim()))
        .collect::<Result<Vec<_>, _>>()?;
    if tiers.len() > TIERS_MAX {
        return Err(format!("more than {TIERS_MAX} tiers"));
    }
    Ok(tiers)
}

/// Most tiers of one alert.
const TIERS_MAX: usize = 8;

fn parse_tier(text: &str) -> Result<TierText, String> {
    let expected = || format!("`{text}` is no tier: expected BURN@LONG/SHORT, such as 14.4@1h/5m or 2%@1h/5m");
    let (burn, windows) = text.split_once('@').ok_or_else(expected)?;
    let burn = match burn.strip_suffix('%') {
        Some(share) => Burn::Share(Decimal::parse(share).map_err(|_| expected())?),
        None => Burn::Rate(Decimal::parse(burn).map_err(|_| expected())?),
    };
    let (Burn::Rate(number) | Burn::Share(number)) = burn;
    if !number.is_positive() || number.scale() > 6 {
        return Err(format!(
            "`{text}`: a burn rate is above zero and has at most 6 digits after the point"
        ));
    }
    let (long, short) = match windows.split_once('/') {
        Some((long, short)) => (long, Some(short)),
        None => (windows, None),
    };
    let window = |text: &str| match Period::parse(text) {
        Ok(period) if period.fixed().is_some_and(|length| !length.is_zero()) => Ok(period),
        Ok(_) => Err(format!(
            "`{text}`: a window of an alert is in m, h, d or w, and not empty"
        )),
        Err(message) => Err(message),
    };
    let (long, short) = (window(long)?, short.map(window).transpose()?);
    if short.is_some_and(|short| short.nominal() >= long.nominal()) {
        return Err(format!(
            "`{text}`: the short window comes second and is shorter than the long one"
        ));
    }
    Ok(TierText { burn, long, short })
}

impl TierText {
    /// The tier for an SLO whose window has this length. A share `f` of the budget spent in `L` of a window `W` is a burn rate of
    /// `f * W / L` (SRE workbook, chapter 5), here rounded half up to six digits.
    pub(crate) fn resolve(self, window: Duration) -> BurnTier {
        let long = self.long.nominal();
        let threshold = match self.burn {
            Burn::Rate(rate) => rate,
            Burn::Share(percent) => share_to_rate(percent, window, long),
        };
        BurnTier {
            op: Op::Gt,
            threshold,
            long,
            short: self.short.map(Period::nominal),
        }
    }
}

pub(crate) fn share_to_rate(percent: Decimal, window: Duration, long: Duration) -> Decimal {
    let (mantissa, scale) = percent.parts();
    let numerator = i128::from(mantissa) * i128::from(window.as_secs()) * 1_000_000;
    let denominator = 10_i128.pow(u32::from(scale) + 2) * i128::from(long.as_secs().max(1));
    let rounded = (2 * numerator + denominator).div_euclid(2 * denominator);
    let rounded = i64::try_from(rounded).unwrap_or(i64::MAX);
    Decimal::new(rounded, 6).unwrap_or_default()
}

impl TierText {
    /// The OpenSLO fields beside it say another alert. A share of budget depends on the SLO, so only its window is compared.
    pub(crate) fn differs(self, op: Op, threshold: Decimal, lookback: Period) -> bool {
        let rate_differs = match self.burn {
            Burn::Rate(rate) => rate != threshold,
            Burn::Share(_) => false,
        };
        matches!(op, Op::Lt | Op::Lte) || rate_differs || self.long.nominal() != lookback.nominal()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// SRE workbook, chapter 5, for 30 days; design/slo.md 2b has the other windows.
    #[test]
    fn shares_of_budget() {
        let check = |percent: i64, days: u64, long: &str, expect: &str| {
            let long = Period::parse(long).unwrap().nominal();
            let rate = share_to_rate(
                Decimal::new(percent, 0).unwrap(),
                Duration::from_secs(days * 86_400),
                long,
            );
            assert_eq!(rate.to_string(), expect, "{percent}% of {days} d in {long:?}");
        };
        check(2, 30, "1h", "14.4");
        check(5, 30, "6h", "6");
        check(10, 30, "1d", "3");
        check(10, 30, "3d", "1");
        check(2, 28, "1h", "13.44");
        check(5, 28, "6h", "5.6");
        check(10, 28, "1d", "2.8");
        check(10, 28, "3d", "0.933333");
        check(2, 7, "1h", "3.36");
        check(5, 7, "6h", "1.4");
        check(10, 7, "1d", "0.7");
        check(10, 7, "3d", "0.233333");
        check(2, 90, "1h", "43.2");
        check(5, 90, "6h", "18");
    }
}
