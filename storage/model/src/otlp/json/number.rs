//! Numbers as the proto3 JSON mapping writes them: a JSON number, or a string that holds one.
//!
//! Integers are read exactly, also from forms like `1e3` and `12.0`, without a detour through `f64` that would round times in
//! nanoseconds. Doubles go through the standard library's parser, which rounds correctly.

/// Why a text is not the number a field wants. The texts end up in an error message for the client.
#[derive(Debug, PartialEq)]
pub(super) enum Trouble {
    NotANumber,
    NotIntegral,
    OutOfRange,
}

impl Trouble {
    pub(super) fn text(&self) -> &'static str {
        match self {
            Trouble::NotANumber => "not a number",
            Trouble::NotIntegral => "not an integer",
            Trouble::OutOfRange => "out of range",
        }
    }
}

/// Reads a decimal text of JSON's number grammar as an exact integer.
pub(super) fn integer(text: &str) -> Result<i128, Trouble> {
    let decimal = Decimal::parse(text).ok_or(Trouble::NotANumber)?;
    decimal.integer()
}

/// Reads a decimal text of JSON's number grammar as the nearest double. Beyond the largest finite double is an error, as the
/// mapping demands; below the smallest it is zero.
pub(super) fn double(text: &str) -> Result<f64, Trouble> {
    Decimal::parse(text).ok_or(Trouble::NotANumber)?;
    let value: f64 = text.parse().map_err(|_| Trouble::NotANumber)?;
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Trouble::OutOfRange)
    }
}

/// The parts of `-12.50e3`: sign, `12`, `50`, 3.
struct Decimal<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Decimal<'a>> {
        let mut rest = text.as_bytes();
        let negative = eat(&mut rest, b"-");
        let whole = digits(&mut rest);
        if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
            return None;
        }
        let mut fraction: &[u8] = &[];
        if eat(&mut rest, b".") {
            fraction = digits(&mut rest);
            if fraction.is_empty() {
                return None;
            }
        }
        let mut exponent = 0i64;
        if eat(&mut rest, b"eE") {
            let minus = rest.first() == Some(&b'-');
            eat(&mut rest, b"+-");
            let figures = digits(&mut rest);
            if figures.is_empty() {
                return None;
            }
            // Saturates far beyond what any field holds, so that a long exponent costs no more than its digits.
            for digit in figures {
                exponent = exponent
                    .saturating_mul(10)
                    .saturating_add(i64::from(digit - b'0'))
                    .min(i64::MAX / 4);
            }
            if minus {
                exponent = -exponent;
            }
        }
        rest.is_empty().then_some(Decimal {
            negative,
            whole,
            fraction,
            exponent,
        })
    }

    fn integer(&self) -> Result<i128, Trouble> {
        let mut exponent = self.exponent - self.fraction.len() as i64;
        let significant = || {
            self.whole
                .iter()
                .chain(self.fraction)
                .skip_while(|digit| **digit == b'0')
        };
        let count = significant().count();
        if count == 0 {
            return Ok(0);
        }
        let trailing_zeros = self
            .fraction
            .iter()
            .rev()
            .chain(self.whole.iter().rev())
            .take_while(|digit| **digit == b'0')
            .count();
        let kept = count - trailing_zeros;
        exponent = exponent.saturating_add(trailing_zeros as i64);
        if exponent < 0 {
            return Err(Trouble::NotIntegral);
        }
        // 20 digits hold every u64; 38 would fit an i128, so nothing below overflows.
        if kept as i64 + exponent > 20 {
            return Err(Trouble::OutOfRange);
        }
        let mut value = 0i128;
        for digit in significant().take(kept) {
            value = value * 10 + i128::from(digit - b'0');
        }
        for _ in 0..exponent {
            value *= 10;
        }
        Ok(if self.negative { -value } else { value })
    }
}

fn eat(rest: &mut &[u8], any_of: &[u8]) -> bool {
    match rest.first() {
        Some(byte) if any_of.contains(byte) => {
            *rest = &rest[1..];
            true
        }
        _ => false,
    }
}

fn digits<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_in_every_form() {
        let check = |text: &str, expect: Result<i128, Trouble>| assert_eq!(integer(text), expect, "{text}");
        check("0", Ok(0));
        check("-0", Ok(0));
        check("0.000e99", Ok(0));
        check("1e3", Ok(1000));
        check("1E+3", Ok(1000));
        check("1.5e1", Ok(15));
        check("1500e-2", Ok(15));
        check("12.0", Ok(12));
        check("100.00", Ok(100));
        check("-9223372036854775808", Ok(i64::MIN.into()));
        check("18446744073709551615", Ok(u64::MAX.into()));
        check("1.544712660300000001e18", Ok(1_544_712_660_300_000_001));
        check("1.5", Err(Trouble::NotIntegral));
        check("1e-1", Err(Trouble::NotIntegral));
        check("1e999999999999999999999999", Err(Trouble::OutOfRange));
        check("1e-999999999999999999999999", Err(Trouble::NotIntegral));
        check("999999999999999999999", Err(Trouble::OutOfRange));
        for bad in [
            "", "-", "+1", "01", "1.", ".5", "1e", "1e+", " 1", "1 ", "0x10", "1_000", "NaN", "inf", "१",
        ] {
            check(bad, Err(Trouble::NotANumber));
        }
    }

    #[test]
    fn doubles_round_correctly_and_stay_finite() {
        assert_eq!(double("637.704"), Ok(637.704));
        assert_eq!(double("1.7976931348623157e308"), Ok(f64::MAX));
        assert_eq!(double("5e-324"), Ok(f64::from_bits(1)));
        assert_eq!(double("-0").map(f64::to_bits), Ok((-0.0f64).to_bits()));
        assert_eq!(double("1e309"), Err(Trouble::OutOfRange));
        assert_eq!(double("inf"), Err(Trouble::NotANumber));
        assert_eq!(double("nan"), Err(Trouble::NotANumber));
    }
}
