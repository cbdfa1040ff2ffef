//! Sizes, durations and shares with their units, as text and as numbers.
//!
//! Guarantees: what is printed parses back to the same value; a number without a unit is never guessed at (a size may be plain bytes,
//! a duration may not); overflow is an error. Leaves out: microseconds and compound forms such as `1h30m`.

use std::fmt;
use std::time::Duration;

/// A number of bytes. Written `64MiB` (1024s), `16MB` (1000s) or plain bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Units of a size, largest first, with their bytes.
const SIZE_UNITS: [(&str, u64); 11] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    /// That many bytes.
    #[must_use]
    pub const fn bytes_of(bytes: u64) -> Self {
        Self(bytes)
    }

    /// That many KiB (saturating).
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 10))
    }

    /// That many MiB (saturating).
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The bytes as a `usize`, saturating where a `usize` is smaller.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Reads `64MiB`, `16MB`, `1.5 GiB`, `4096`. Units are read without regard to case.
    ///
    /// # Errors
    /// A sentence saying what is wrong: not a number, an unknown or ambiguous unit, a part of a byte, or more than 64 bits hold.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        if number.is_empty() {
            return Err("expected a size such as 64MiB, 16MB or plain bytes".into());
        }
        let scale = match unit {
            "" => 1,
            _ => match SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
                Some((_, scale)) => *scale,
                None if matches!(unit, "k" | "K" | "M" | "m" | "G" | "g" | "T" | "t") => {
                    let unit = unit.to_ascii_uppercase();
                    return Err(format!(
                        "`{unit}` is ambiguous: write {number}{unit}iB (1024s) or {number}{unit}B (1000s)"
                    ));
                }
                None => {
                    return Err(format!(
                        "unknown unit `{unit}`: expected B, kB, MB, GB, TB, KiB, MiB, GiB or TiB"
                    ));
                }
            },
        };
        Ok(Self(scaled(number, scale)?))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0B");
        }
        // The unit that leaves the shortest exact number; binary units come first, so they win a tie.
        let exact = SIZE_UNITS.iter().filter(|(_, scale)| self.0.is_multiple_of(*scale));
        match exact.min_by_key(|(_, scale)| self.0 / scale) {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Units of a duration, largest first, with their milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads a duration with its unit: `250ms`, `30s`, `15m`, `12h`, `30d`; a plain `0` is no time at all.
///
/// # Errors
/// A sentence saying what is wrong: no number, no unit, an unknown unit, a part of a millisecond, or more than 64 bits of them.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    if number.is_empty() {
        return Err("expected a duration such as 250ms, 30s, 15m, 12h or 30d".into());
    }
    if unit.is_empty() {
        if number == "0" {
            return Ok(Duration::ZERO);
        }
        return Err(format!(
            "a duration needs its unit, such as {number}s (ms, s, m, h or d)"
        ));
    }
    match TIME_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, scale)) => Ok(Duration::from_millis(scaled(number, *scale)?)),
        None => Err(format!("unknown unit `{unit}`: expected ms, s, m, h or d")),
    }
}

/// Writes a duration with the largest unit that divides it. Parts of a millisecond are cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let ms = millis(duration);
    if ms == 0 {
        return "0s".into();
    }
    let (unit, scale) = TIME_UNITS
        .iter()
        .find(|(_, scale)| ms.is_multiple_of(*scale))
        .unwrap_or(&("ms", 1));
    format!("{}{unit}", ms / scale)
}

/// Whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A share in whole percent, 0 to 100. Written `50%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl Percent {
    /// The share as a number from 0 to 100.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// That share of `whole`, rounded down.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        let part = u128::from(whole) * u128::from(self.0) / 100;
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// Reads `50%`.
    ///
    /// # Errors
    /// A sentence, when this is not a whole number from 0 to 100 followed by a percent sign.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some(number) = text.strip_suffix('%') else {
            return Err("expected a share such as 50%".into());
        };
        match number.trim_end().parse::<u8>() {
            Ok(n) if n <= 100 => Ok(Self(n)),
            _ => Err("expected a whole share from 0% to 100%".into()),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// The number in front and the unit behind it, both without spaces around them.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

/// `number` (digits, perhaps a decimal point) times `scale`, exactly.
fn scaled(number: &str, scale: u64) -> Result<u64, String> {
    let plain = number.replace('_', "");
    let (whole, part) = plain.split_once('.').unwrap_or((&plain, ""));
    if part.contains('.') || part.len() > 18 || (whole.is_empty() && part.is_empty()) {
        return Err(format!("`{number}` is not a number"));
    }
    let too_large = || format!("`{number}` is too large");
    let digits = |text: &str| {
        if text.is_empty() {
            Ok(0)
        } else {
            text.parse::<u64>().map_err(|_| too_large())
        }
    };
    let tens = 10u128.pow(u32::try_from(part.len()).map_err(|_| too_large())?);
    let fraction = u128::from(digits(part)?) * u128::from(scale);
    if fraction % tens != 0 {
        return Err(format!(
            "`{number}` of this unit is not a whole number of the smallest one"
        ));
    }
    let total = u128::from(digits(whole)?) * u128::from(scale) + fraction / tens;
    u64::try_from(total).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        let check = |text: &str, bytes: u64, shown: &str| {
            let size = Size::parse(text).unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown), "{text}");
        };
        check("0", 0, "0B");
        check("4096", 4096, "4KiB");
        check("16MB", 16_000_000, "16MB");
        check("64MiB", 67_108_864, "64MiB");
        check("64 mib", 67_108_864, "64MiB");
        check("1.5GiB", 1_610_612_736, "1536MiB");
        check("1_000", 1000, "1kB");
        check("7", 7, "7B");
        check("18446744073709551615", u64::MAX, "18446744073709551615B");
    }

    #[test]
    fn sizes_refused() {
        let check = |text: &str, word: &str| {
            let error = Size::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        };
        check("", "expected a size");
        check("MiB", "expected a size");
        check("-1", "expected a size");
        check("64M", "write 64MiB (1024s) or 64MB");
        check("3 parsecs", "unknown unit `parsecs`");
        check("0.5B", "whole number");
        check("1.2.3MB", "not a number");
        check(".", "not a number");
        check("18446744073709551616", "too large");
        check("99999PiB", "too large");
    }

    #[test]
    fn durations() {
        let check = |text: &str, ms: u64, shown: &str| {
            let duration = parse_duration(text).unwrap();
            assert_eq!(
                (millis(duration), format_duration(duration).as_str()),
                (ms, shown),
                "{text}"
            );
        };
        check("0", 0, "0s");
        check("250ms", 250, "250ms");
        check("30s", 30_000, "30s");
        check("1.5s", 1500, "1500ms");
        check("90s", 90_000, "90s");
        check("60s", 60_000, "1m");
        check("15m", 900_000, "15m");
        check("30d", 2_592_000_000, "30d");
    }

    #[test]
    fn durations_refused() {
        let check = |text: &str, word: &str| {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        };
        check("", "expected a duration");
        check("30", "needs its unit, such as 30s");
        check("30 fortnights", "unknown unit");
        check("5M", "unknown unit `M`");
        check("0.5ms", "whole number");
        check("99999999999999999d", "too large");
    }

    #[test]
    fn shares() {
        assert_eq!(Percent::parse("50%").unwrap().of(u64::MAX), u64::MAX / 2);
        assert_eq!(Percent::parse("100 %").unwrap().to_string(), "100%");
        for bad in ["50", "101%", "-1%", "%", "half"] {
            assert!(Percent::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn size_round_trip(bytes in prop_oneof![any::<u64>(), (0u64..4096).prop_map(|n| n << 20), (0u64..4096).prop_map(|n| n * 1_000_000)]) {
            let size = Size::bytes_of(bytes);
            prop_assert_eq!(Size::parse(&size.to_string()), Ok(size));
        }

        #[test]
        fn duration_round_trip(ms in prop_oneof![any::<u64>(), 0u64..100_000, (0u64..4000).prop_map(|n| n * 86_400_000)]) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn percent_round_trip(n in 0u8..=100, whole in any::<u64>()) {
            let share = Percent(n);
            prop_assert_eq!(Percent::parse(&share.to_string()), Ok(share));
            prop_assert!(share.of(whole) <= whole);
        }

        #[test]
        fn nothing_panics(text in ".{0,24}") {
            let _ = Size::parse(&text);
            let _ = parse_duration(&text);
            let _ = Percent::parse(&text);
        }
    }
}
