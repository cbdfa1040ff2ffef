//! OpenSLO's duration shorthand (`5m`, `4w`, `1M`), and our finer one for latencies and slices (`300ms`).
//!
//! Guarantees: what is printed parses back; case is meant (`m` is minutes, `M` months) and a wrong unit is answered with the right
//! ones; nothing overflows. Months, quarters and years keep their names, because their length depends on where they start.

use std::fmt;
use std::time::Duration;

/// The unit of a [`Period`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// `m`
    Minute,
    /// `h`
    Hour,
    /// `d`
    Day,
    /// `w`
    Week,
    /// `M`
    Month,
    /// `Q`
    Quarter,
    /// `Y`
    Year,
}

impl Unit {
    /// All units, short to long.
    pub const ALL: [Self; 7] = [
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Quarter,
        Self::Year,
    ];

    /// The letter it is written as.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Minute => 'm',
            Self::Hour => 'h',
            Self::Day => 'd',
            Self::Week => 'w',
            Self::Month => 'M',
            Self::Quarter => 'Q',
            Self::Year => 'Y',
        }
    }

    /// Seconds of one, where a month is taken as 30 days, a quarter as 90 and a year as 365, as OpenSLO's Go SDK does
    /// (OpenSLO/go-sdk, `duration_shorthand.go`). A day is 24 hours.
    #[must_use]
    pub const fn nominal_seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
            Self::Week => 7 * 86_400,
            Self::Month => 30 * 86_400,
            Self::Quarter => 90 * 86_400,
            Self::Year => 365 * 86_400,
        }
    }
}

/// A duration as OpenSLO writes it: a whole number and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Period {
    /// How many.
    pub count: u32,
    /// Of what.
    pub unit: Unit,
}

/// Longest that is read: who asks for more gets an answer about nothing, in millions of parts.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Period {
    /// That many of that unit.
    #[must_use]
    pub const fn new(count: u32, unit: Unit) -> Self {
        Self { count, unit }
    }

    /// Reads `5m`, `1h`, `30d`, `4w`, `1M`, `1Q`, `1Y`.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        if number.is_empty() {
            return Err("expected a duration such as 5m, 1h, 30d, 4w, 1M, 1Q or 1Y".into());
        }
        let count = number
            .parse()
            .map_err(|_| format!("`{number}` is more than a duration can count"))?;
        let mut letters = unit.chars();
        let found = match (letters.next(), letters.next()) {
            (Some(letter), None) => Unit::ALL.into_iter().find(|unit| unit.letter() == letter),
            _ => None,
        };
        match found {
            Some(unit) => {
                let period = Self { count, unit };
                match period.nominal() <= LONGEST {
                    true => Ok(period),
                    false => Err(format!("`{text}` is longer than a hundred years")),
                }
            }
            None => Err(match unit {
                "" => format!(
                    "a duration needs its unit: {number}m, {number}h, {number}d, {number}w, {number}M, {number}Q or {number}Y"
                ),
                "D" | "H" | "W" => format!("unknown unit `{unit}`: write {number}{}", unit.to_ascii_lowercase()),
                "q" | "y" => format!("unknown unit `{unit}`: write {number}{}", unit.to_ascii_uppercase()),
                "s" | "ms" => format!("unknown unit `{unit}`: the shortest unit here is m (minutes)"),
                _ => format!("unknown unit `{unit}`: expected m, h, d, w, M (months), Q or Y"),
            }),
        }
    }

    /// Its length if that is always the same: minutes, hours, days of 24 hours, weeks. `None` for months, quarters and years.
    #[must_use]
    pub fn fixed(self) -> Option<Duration> {
        match self.unit {
            Unit::Minute | Unit::Hour | Unit::Day | Unit::Week => Some(self.nominal()),
            Unit::Month | Unit::Quarter | Unit::Year => None,
        }
    }

    /// Its length with 30 days to a month, 90 to a quarter and 365 to a year.
    #[must_use]
    pub fn nominal(self) -> Duration {
        Duration::from_secs(u64::from(self.count) * self.unit.nominal_seconds())
    }

    /// The shortest way to write a length in whole minutes: `90m`, `2h`, `30d`. `None` if there are parts of a minute or too many.
    #[must_use]
    pub fn from_duration(duration: Duration) -> Option<Self> {
        if duration.subsec_nanos() != 0 {
            return None;
        }
        let seconds = duration.as_secs();
        let unit = [Unit::Day, Unit::Hour, Unit::Minute]
            .into_iter()
            .find(|unit| seconds.is_multiple_of(unit.nominal_seconds()))?;
        let count = u32::try_from(seconds / unit.nominal_seconds()).ok()?;
        Some(Self { count, unit })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.count, self.unit.letter())
    }
}

/// Units of a latency, long to short, with their nanoseconds.
const LATENCY_UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a latency in nanoseconds: `300ms`, `1.5s`, `250us`. Above zero.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn parse_latency(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err("expected a duration such as 300ms or 1.5s".into());
    }
    if unit.is_empty() {
        return Err(format!(
            "a duration needs its unit, such as {number}ms (ns, us, ms, s, m or h)"
        ));
    }
    let Some((_, scale)) = LATENCY_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("unknown unit `{unit}`: expected ns, us, ms, s, m or h"));
    };
    let (mantissa, digits) = crate::Decimal::parse(number)?.parts();
    let (mantissa, denominator) = (i128::from(mantissa), 10_i128.pow(digits.into()));
    let scaled = mantissa * i128::from(*scale);
    if scaled % denominator != 0 {
        return Err("finer than a nanosecond".into());
    }
    match i64::try_from(scaled / denominator) {
        Ok(0) => Err("expected more than no time at all".into()),
        Ok(ns) => Ok(ns.unsigned_abs()),
        Err(_) => Err("longer than 292 years".into()),
    }
}

/// Writes nanoseconds with the largest unit that divides them: `300ms`, `1500ms`, `1s`.
#[must_use]
pub fn format_latency(ns: u64) -> String {
    let (unit, scale) = LATENCY_UNITS
        .iter()
        .find(|(_, scale)| ns.is_multiple_of(*scale) && ns > 0)
        .unwrap_or(&("ns", 1));
    format!("{}{unit}", ns / scale)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, shown: &str) {
        match Period::parse(text) {
            Ok(period) => assert_eq!(format!("{period} {}s", period.nominal().as_secs()), shown, "{text}"),
            Err(error) => assert!(error.contains(shown), "{text}: {error}"),
        }
    }

    #[test]
    fn periods() {
        check("0m", "0m 0s");
        check("5m", "5m 300s");
        check("1h", "1h 3600s");
        check("28d", "28d 2419200s");
        check("4w", "4w 2419200s");
        check("1M", "1M 2592000s");
        check("1Q", "1Q 7776000s");
        check("1Y", "1Y 31536000s");
        check("007d", "7d 604800s");
        check("", "expected a duration such as");
        check("-5m", "expected a duration such as");
        check("m", "expected a duration such as");
        check("30", "needs its unit: 30m");
        check("30D", "write 30d");
        check("1y", "write 1Y");
        check("30s", "shortest unit here is m");
        check("1h30m", "unknown unit `h30m`");
        check("5 m", "unknown unit ` m`");
        check("100Y", "100Y 3153600000s");
        check("101Y", "longer than a hundred years");
        check("4294967295Y", "longer than a hundred years");
        check("99999999999d", "more than a duration can count");
        assert_eq!(Period::parse("1M").unwrap().fixed(), None);
        assert_eq!(Period::parse("1w").unwrap().fixed(), Some(Duration::from_secs(604_800)));
    }

    #[test]
    fn latencies() {
        let check = |text: &str, shown: &str| match parse_latency(text) {
            Ok(ns) => assert_eq!(format!("{ns} {}", format_latency(ns)), shown, "{text}"),
            Err(error) => assert!(error.contains(shown), "{text}: {error}"),
        };
        check("300ms", "300000000 300ms");
        check("1.5s", "1500000000 1500ms");
        check("250 us", "250000 250us");
        check("1h", "3600000000000 1h");
        check("0.5ns", "finer than a nanosecond");
        check("0ms", "more than no time");
        check("300", "such as 300ms");
        check("300d", "unknown unit `d`");
        check("1.2.3s", "expected a number");
        check("9999999999h", "longer than 292 years");
        check("", "expected a duration");
    }

    proptest! {
        #[test]
        fn what_is_printed_parses(count: u32, unit in 0_usize..7, ns in 1_u64..i64::MAX as u64) {
            let period = Period::new(count, Unit::ALL[unit]);
            let read = Period::parse(&period.to_string());
            prop_assert_eq!(read.ok(), Some(period).filter(|period| period.nominal() <= LONGEST));
            prop_assert_eq!(parse_latency(&format_latency(ns)), Ok(ns));
            if let Some(fixed) = period.fixed() && let Some(again) = Period::from_duration(fixed) {
                prop_assert_eq!(again.nominal(), fixed);
            }
        }

        #[test]
        fn no_text_panics(text in "[0-9a-zA-Z. µ]{0,20}") {
            let _ = Period::parse(&text);
            let _ = parse_latency(&text);
        }
    }
}
