//! Floats the way Prometheus treats them: how they are written, summed and marked as stale.

/// The bits of the value that says "this series ended here" (prometheus/prometheus:model/value/value.go).
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The stale marker as a float.
#[must_use]
pub fn stale() -> f64 {
    f64::from_bits(STALE_BITS)
}

/// True for the stale marker only, not for other NaN.
#[must_use]
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}

/// One step of Neumaier's compensated sum: `(sum, compensation)` after adding (util/kahansum/kahansum.go).
#[inline]
pub(crate) fn kahan(add: f64, sum: f64, c: f64) -> (f64, f64) {
    let total = sum + add;
    let c = if total.is_infinite() {
        0.0
    } else if sum.abs() >= add.abs() {
        c + ((sum - total) + add)
    } else {
        c + ((add - total) + sum)
    };
    (total, c)
}

/// Shortest decimal without exponent, `NaN`, `+Inf`, `-Inf`: how the HTTP API writes a sample.
#[must_use]
pub fn plain(value: f64) -> String {
    special(value).map_or_else(|| value.to_string(), str::to_owned)
}

fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value == f64::INFINITY {
        Some("+Inf")
    } else if value == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}

/// Go's `%g`: shortest digits, with an exponent of at least two digits below 1e-4 and from 1e6 on.
#[must_use]
pub fn general(value: f64) -> String {
    special(value).map_or_else(|| with_exponent(&format!("{value:e}"), 6), str::to_owned)
}

/// Go's `%.2g`: two digits, with an exponent below 1e-4 and from 100 on.
pub(crate) fn two_digits(value: f64) -> String {
    special(value).map_or_else(|| with_exponent(&format!("{value:.1e}"), 2), str::to_owned)
}

/// From Rust's scientific form to Go's general one.
fn with_exponent(scientific: &str, from: i32) -> String {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..from).contains(&exponent) {
        return scientific
            .parse::<f64>()
            .map_or_else(|_| scientific.to_owned(), |value| value.to_string());
    }
    let digits = if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        digits
    };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// What Go's `strconv.ParseFloat` reads of a bucket's bound.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    // Rust reads the same words but not hexadecimal; a bound in hexadecimal does not exist outside tests of Go.
    if unsigned.is_empty() || !unsigned.starts_with(|c: char| c.is_ascii_digit() || "iInN.".contains(c)) {
        return None;
    }
    text.parse().ok()
}

/// True when two floats differ by less than `epsilon` of their sum; NaN equals NaN (util/almost/almost.go).
#[must_use]
pub fn almost_equal(a: f64, b: f64, epsilon: f64) -> bool {
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < epsilon * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < epsilon
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_go_writes_them() {
        let check = |value: f64, shown: &str, g: &str| {
            assert_eq!(plain(value), shown);
            assert_eq!(general(value), g);
        };
        check(0.0, "0", "0");
        check(-0.0, "-0", "-0");
        check(1.5, "1.5", "1.5");
        check(1e21, "1000000000000000000000", "1e+21");
        check(100_000.0, "100000", "100000");
        check(1_234_567.0, "1234567", "1.234567e+06");
        check(0.000_012, "0.000012", "1.2e-05");
        check(f64::INFINITY, "+Inf", "+Inf");
        check(f64::NEG_INFINITY, "-Inf", "-Inf");
        check(f64::NAN, "NaN", "NaN");
    }

    #[test]
    fn two_digits_are_enough_for_a_difference() {
        let check = |value: f64, expected: &str| assert_eq!(two_digits(value), expected);
        check(0.0, "0");
        check(5.0, "5");
        check(12.6, "13");
        check(99.6, "1e+02");
        check(33_000.0, "3.3e+04");
        check(0.123, "0.12");
        check(0.000_012_3, "1.2e-05");
    }

    #[test]
    fn the_compensated_sum_keeps_what_a_plain_sum_loses() {
        let (sum, c) = [1.0, 1e100, 1.0, -1e100]
            .iter()
            .fold((0.0, 0.0), |(sum, c), value| kahan(*value, sum, c));
        assert_eq!(sum + c, 2.0);
        let (sum, c) = kahan(f64::MAX, f64::MAX, 3.0);
        assert_eq!((sum, c), (f64::INFINITY, 0.0));
    }

    #[test]
    fn bounds_are_read_as_go_reads_them() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(parse(text), expected, "{text}");
        check("+Inf", Some(f64::INFINITY));
        check("0.5", Some(0.5));
        check(".5", Some(0.5));
        check("1e3", Some(1000.0));
        check("", None);
        check("Hello", None);
        assert!(is_stale(stale()) && !is_stale(f64::NAN));
    }
}
