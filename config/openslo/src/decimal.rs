//! Exact decimals. A target of 99.9 % is 999/1000, not the double next to it.
//!
//! Guarantees: what is written is what is kept, and prints back; order and equality are those of the numbers (`0.50` = `0.5`);
//! comparing with a ratio of counts is exact. Leaves out: arithmetic that can lose digits. Whoever needs a quotient takes
//! [`Decimal::parts`] and divides last.

use std::cmp::Ordering;
use std::fmt;

/// Most digits after the point.
pub const SCALE_MAX: u8 = 18;

/// A decimal number: `mantissa / 10^scale`, without trailing zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Decimal {
    mantissa: i64,
    scale: u8,
}

impl Decimal {
    /// Nothing.
    pub const ZERO: Self = Self { mantissa: 0, scale: 0 };
    /// One.
    pub const ONE: Self = Self { mantissa: 1, scale: 0 };

    /// `mantissa / 10^scale`. `None` for more than [`SCALE_MAX`] digits after the point that are not zeros.
    #[must_use]
    pub fn new(mut mantissa: i64, mut scale: u8) -> Option<Self> {
        while scale > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        (scale <= SCALE_MAX).then_some(Self { mantissa, scale })
    }

    /// Reads `12`, `-0.5`, `.5`, `99.95`, `1e-3`.
    ///
    /// # Errors
    /// A sentence: not a number, or more digits than fit.
    pub fn parse(text: &str) -> Result<Self, String> {
        let not_a_number = || "expected a number, such as 0.999".to_owned();
        let too_long = || format!("more digits than can be kept exactly (18, {SCALE_MAX} of them after the point)");
        let (body, exponent) = match text.split_once(['e', 'E']) {
            Some((body, exponent)) => (body, exponent.parse::<i32>().map_err(|_| not_a_number())?),
            None => (text, 0),
        };
        let (negative, body) = match body.as_bytes().first() {
            Some(b'-') => (true, &body[1..]),
            Some(b'+') => (false, &body[1..]),
            _ => (false, body),
        };
        let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        if whole.len() + fraction.len() == 0 || !digits().all(|b| b.is_ascii_digit()) {
            return Err(not_a_number());
        }
        let mut mantissa: i64 = 0;
        // Trailing zeros after the point say nothing and must not overflow anything.
        let fraction = fraction.trim_end_matches('0');
        for digit in whole.bytes().chain(fraction.bytes()) {
            mantissa = mantissa
                .checked_mul(10)
                .and_then(|m| m.checked_add(i64::from(digit - b'0')))
                .ok_or_else(too_long)?;
        }
        let mut scale = i64::try_from(fraction.len()).map_err(|_| too_long())? - i64::from(exponent);
        if mantissa == 0 {
            return Ok(Self::ZERO);
        }
        while scale < 0 {
            mantissa = mantissa.checked_mul(10).ok_or_else(too_long)?;
            scale += 1;
        }
        while scale > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        let scale = u8::try_from(scale).map_err(|_| too_long())?;
        let mantissa = if negative { -mantissa } else { mantissa };
        Self::new(mantissa, scale).ok_or_else(too_long)
    }

    /// The number is `mantissa / 10^scale`: `0.999` is `(999, 3)`.
    #[must_use]
    pub const fn parts(self) -> (i64, u8) {
        (self.mantissa, self.scale)
    }

    /// How many digits stand after the point.
    #[must_use]
    pub const fn scale(self) -> u8 {
        self.scale
    }

    /// `10^scale`, the denominator.
    #[must_use]
    pub const fn denominator(self) -> i64 {
        10_i64.pow(self.scale as u32)
    }

    /// `1 - self`, exact. `None` if it does not fit.
    #[must_use]
    pub fn complement(self) -> Option<Self> {
        Self::new(self.denominator().checked_sub(self.mantissa)?, self.scale)
    }

    /// The number times `10^by`. `None` if it does not fit.
    #[must_use]
    pub fn shift(self, by: i8) -> Option<Self> {
        let mut mantissa = self.mantissa;
        let mut scale = i16::from(self.scale) - i16::from(by);
        while scale < 0 {
            mantissa = mantissa.checked_mul(10)?;
            scale += 1;
        }
        Self::new(mantissa, u8::try_from(scale).ok()?)
    }

    /// How `part / whole` compares with this number, exactly. `None` when `whole` is zero: then there is no ratio.
    #[must_use]
    pub fn cmp_ratio(self, part: u64, whole: u64) -> Option<Ordering> {
        if whole == 0 {
            return None;
        }
        // Both products are below 2^127: u64 * 10^18 and i64 * u64.
        let left = i128::from(part) * i128::from(self.denominator());
        let right = i128::from(self.mantissa) * i128::from(whole);
        Some(left.cmp(&right))
    }

    /// The nearest double: for plots and logs, not for decisions.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        // Parsing the digits rounds once; a division of two doubles would round up to three times.
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    /// Above zero.
    #[must_use]
    pub const fn is_positive(self) -> bool {
        self.mantissa > 0
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = i128::from(self.mantissa) * i128::from(other.denominator());
        let right = i128::from(other.mantissa) * i128::from(self.denominator());
        left.cmp(&right)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let digits = self.mantissa.unsigned_abs().to_string();
        let scale = usize::from(self.scale);
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

/// Most digits of a target after the point, as a fraction: 99.9999999 %.
pub const TARGET_DIGITS_MAX: u8 = 9;

/// What share of events (or slices) must be good: a decimal in `[0, 1)`. One is no target: there would be no budget to count against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(Decimal);

impl Target {
    /// From a fraction such as `0.999`.
    ///
    /// # Errors
    /// A sentence that says what to write instead: not in `[0, 1)`, or more than [`TARGET_DIGITS_MAX`] digits.
    pub fn new(fraction: Decimal) -> Result<Self, String> {
        if fraction == Decimal::ONE {
            return Err(
                "a target of 1 leaves no budget: any bad event would break it for good; write for example 0.9999"
                    .into(),
            );
        }
        if fraction > Decimal::ONE {
            return Err(match fraction.shift(-2).filter(|p| *p < Decimal::ONE) {
                Some(share) => format!("a target is a fraction below 1: write {share}, or `targetPercent: {fraction}`"),
                None => "a target is a fraction from 0 to below 1, such as 0.999".into(),
            });
        }
        if fraction < Decimal::ZERO {
            return Err("a target is a fraction from 0 to below 1, such as 0.999".into());
        }
        if fraction.scale() > TARGET_DIGITS_MAX {
            return Err(format!(
                "a target has at most {TARGET_DIGITS_MAX} digits after the point"
            ));
        }
        Ok(Self(fraction))
    }

    /// From percent, such as `99.9`.
    ///
    /// # Errors
    /// As [`Target::new`], in percent.
    pub fn from_percent(percent: Decimal) -> Result<Self, String> {
        let hundred = Decimal {
            mantissa: 100,
            scale: 0,
        };
        if percent == hundred {
            return Err(
                "a target of 100 leaves no budget: any bad event would break it for good; write for example 99.99"
                    .into(),
            );
        }
        if percent < Decimal::ZERO || percent > hundred {
            return Err("a target in percent is from 0 to below 100, such as 99.9".into());
        }
        let fraction = percent.shift(-2).filter(|f| f.scale() <= TARGET_DIGITS_MAX);
        let Some(fraction) = fraction else {
            let most = TARGET_DIGITS_MAX - 2;
            return Err(format!("a target in percent has at most {most} digits after the point"));
        };
        Self::new(fraction)
    }

    /// As a fraction: `0.999`.
    #[must_use]
    pub const fn fraction(self) -> Decimal {
        self.0
    }

    /// As percent: `99.9`.
    #[must_use]
    pub fn percent(self) -> Decimal {
        self.0
            .shift(2)
            .expect("a target has at most 9 digits, so two fewer after the point fit")
    }

    /// The budget `1 - target`, as a fraction: `0.001`. Above zero.
    #[must_use]
    pub fn budget(self) -> Decimal {
        self.0
            .complement()
            .expect("a target has at most 9 digits, so its complement fits")
    }
}

impl fmt::Display for Target {
    /// In percent, with the sign: `99.9%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, shown: &str) {
        match Decimal::parse(text) {
            Ok(decimal) => assert_eq!(decimal.to_string(), shown, "{text}"),
            Err(error) => assert!(error.contains(shown), "{text}: {error}"),
        }
    }

    #[test]
    fn decimals() {
        check("0", "0");
        check("-0.0", "0");
        check("0.9990000", "0.999");
        check(".5", "0.5");
        check("5.", "5");
        check("+1", "1");
        check("-0.05", "-0.05");
        check("1e-3", "0.001");
        check("1.5E2", "150");
        check("0.1000000000000000000000000000", "0.1");
        check("100", "100");
        check("9223372036854775807", "9223372036854775807");
        check("9223372036854775808", "more digits");
        check("0.0000000000000000001", "more digits");
        check("1e30", "more digits");
        check("0e30", "0");
        check("", "expected a number");
        check(".", "expected a number");
        check("-", "expected a number");
        check("99.9%", "expected a number");
        check("1_000", "expected a number");
        check("NaN", "expected a number");
        check("1e", "expected a number");
        check("--1", "expected a number");
    }

    #[test]
    fn targets() {
        let target = |text: &str| Target::new(Decimal::parse(text).unwrap());
        let percent = |text: &str| Target::from_percent(Decimal::parse(text).unwrap());
        assert_eq!(target("0.999").unwrap().to_string(), "99.9%");
        assert_eq!(target("0.999").unwrap().budget().to_string(), "0.001");
        assert_eq!(percent("99.95").unwrap().fraction().to_string(), "0.9995");
        assert_eq!(target("0").unwrap().budget(), Decimal::ONE);
        for (wrong, word) in [
            (target("1"), "leaves no budget"),
            (target("99.9"), "write 0.999, or `targetPercent: 99.9`"),
            (target("-0.1"), "from 0 to below 1"),
            (target("250"), "from 0 to below 1"),
            (target("0.9999999999"), "at most 9 digits"),
            (percent("100"), "leaves no budget"),
            (percent("100.1"), "below 100"),
            (percent("99.99999999"), "at most 7 digits"),
        ] {
            let error = wrong.unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_ratio_is_compared_exactly() {
        let target = Decimal::parse("0.999").unwrap();
        assert_eq!(target.cmp_ratio(999, 1000), Some(Ordering::Equal));
        // One in 10^18 beside the target; as doubles the two are the same number.
        let whole = 1_000_000_000_000_000_000;
        assert_eq!(target.cmp_ratio(whole / 1000 * 999 - 1, whole), Some(Ordering::Less));
        assert_eq!(target.cmp_ratio(1, 0), None);
        let largest = Decimal::new(i64::MAX, 0).unwrap();
        assert_eq!(largest.cmp_ratio(u64::MAX, u64::MAX), Some(Ordering::Less));
        let smallest = Decimal::new(1, 18).unwrap();
        assert_eq!(smallest.cmp_ratio(u64::MAX, 1), Some(Ordering::Greater));
    }

    proptest! {
        #[test]
        fn print_and_parse_agree(mantissa: i64, scale in 0_u8..=18) {
            let decimal = Decimal::new(mantissa, scale).unwrap();
            prop_assert_eq!(Decimal::parse(&decimal.to_string()), Ok(decimal));
        }

        #[test]
        fn order_is_that_of_the_numbers(a: i32, b: i32, s in 0_u8..9, t in 0_u8..9) {
            let (x, y) = (Decimal::new(a.into(), s).unwrap(), Decimal::new(b.into(), t).unwrap());
            let exact = (i128::from(a) * 10_i128.pow(t.into())).cmp(&(i128::from(b) * 10_i128.pow(s.into())));
            prop_assert_eq!(x.cmp(&y), exact);
            prop_assert_eq!(x == y, exact == Ordering::Equal);
        }

        #[test]
        fn a_complement_undoes_itself(mantissa in 0_i64..1_000_000_000, scale in 9_u8..=18) {
            let decimal = Decimal::new(mantissa, scale).unwrap();
            prop_assert_eq!(decimal.complement().and_then(Decimal::complement), Some(decimal));
        }

        #[test]
        fn no_text_panics(text in "[-+.eE0-9x ]{0,30}") {
            let _ = Decimal::parse(&text);
        }
    }
}
