//! Thresholds and randomness: the arithmetic of consistent probability sampling.
//!
//! Sources: OpenTelemetry specification, `trace/tracestate-handling.md` and `trace/tracestate-probability-sampling.md` (status
//! Development). A trace has 56 bits of randomness R. A stage rejects below a threshold T: keep iff R >= T, so
//! p = (2^56 - T) / 2^56, and a kept span stands for 1 / p. Kept at one probability implies kept at every larger one.

use std::fmt;

use tailwater_model::ids::TraceId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// 2^56: how many values R and T have, and the adjusted count of the rarest span.
const RANGE: u64 = 1 << 56;

/// Hex digits of 56 bits.
const DIGITS: usize = 14;

/// Digits a computed threshold is rounded to, leading `f` not counted: the advice of the specification. p is then right to 2^-13 of itself.
const PRECISION: usize = 4;

/// The smallest probability that is ever computed: it bounds every weight at 16,384. What needs less is refused instead.
pub const PROBABILITY_MIN: f64 = 1.0 / 16_384.0;

/// Seed of [`Randomness::hashed`]. The same in every collector and for ever, so that they agree on R.
const HASH_SEED: u64 = 0x7461_696c_7761_7465;

/// A 56-bit rejection threshold T. Larger rejects more; there is no value that rejects everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Threshold(u64);

impl Threshold {
    /// T = 0: everything is kept, weight 1.
    pub const ALWAYS: Threshold = Threshold(0);

    /// The threshold of these bits; `None` above 56 bits.
    pub const fn from_bits(bits: u64) -> Option<Threshold> {
        if bits < RANGE { Some(Threshold(bits)) } else { None }
    }

    /// The bits, below 2^56.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The law: keep iff R >= T.
    pub const fn keeps(self, randomness: Randomness) -> bool {
        randomness.0 >= self.0
    }

    /// Probability of being kept, in (0, 1].
    pub fn probability(self) -> f64 {
        (RANGE - self.0) as f64 / RANGE as f64
    }

    /// Adjusted count: how many spans a kept one stands for, in [1, 2^56].
    pub fn weight(self) -> f64 {
        RANGE as f64 / (RANGE - self.0) as f64
    }

    /// The threshold whose probability is that of passing this one, given that `before` was passed. R being the same, both are passed by
    /// whoever passes the larger.
    pub fn given(self, before: Threshold) -> Threshold {
        match (self <= before, before == Threshold::ALWAYS) {
            (true, _) => Threshold::ALWAYS,
            (false, true) => self,
            (false, false) => {
                let passed = RANGE - before.0;
                // Exact: 112 bits are enough. Below `passed`, so the result is below the range.
                let part = u128::from(self.0 - before.0) * u128::from(RANGE) / u128::from(passed);
                Threshold(part as u64)
            }
        }
    }

    /// The threshold of a probability, rounded to the digits that are stored, so that what is applied is what is recorded. Above 1 counts
    /// as 1; below [`PROBABILITY_MIN`], and if it is no number, as that.
    pub fn of_probability(probability: f64) -> Threshold {
        if probability >= 1.0 {
            return Threshold::ALWAYS;
        }
        let exact = ((1.0 - probability.max(PROBABILITY_MIN)) * RANGE as f64) as u64;
        let leading = ((exact << 8).leading_ones() / 4) as usize;
        let unit = 1u64 << (4 * (DIGITS - (PRECISION + leading).min(DIGITS)));
        Threshold(((exact + unit / 2) / unit * unit).min(RANGE - unit))
    }

    /// Keeps nobody but the largest R: what a rule that stores nothing is written down as.
    pub const NEVER: Threshold = Threshold(RANGE - 1);

    /// The smallest threshold that rejects `randomness`.
    pub const fn excluding(randomness: Randomness) -> Threshold {
        if randomness.0 + 1 < RANGE {
            Threshold(randomness.0 + 1)
        } else {
            Threshold::NEVER
        }
    }

    /// Parses the value of `th`: 1 to 14 hex digits of either case, short ones padded with zeros on the right.
    pub fn parse(th: &[u8]) -> Option<Threshold> {
        let bits = (1..=DIGITS).contains(&th.len()).then(|| parse_hex(th)).flatten()?;
        Some(Threshold(bits << (4 * (DIGITS - th.len()))))
    }
}

/// Writes `th` as the specification does: lower-case hex, trailing zeros cut, at least one digit.
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = (self.0.trailing_zeros() as usize / 4).min(DIGITS - 1);
        write!(f, "{:0width$x}", self.0 >> (4 * cut), width = DIGITS - cut)
    }
}

/// 56 bits of randomness R, the same for every span of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Randomness(u64);

impl Randomness {
    /// R of a trace without `rv`: the low 7 bytes of its id, big-endian, presumed random.
    pub fn of_trace(trace: TraceId) -> Randomness {
        let [.., a, b, c, d, e, f, g] = trace.0;
        Randomness(u64::from_be_bytes([0, a, b, c, d, e, f, g]))
    }

    /// R of a trace whose id is not random: 56 bits of a hash of it. It has to be written as `rv`, or nobody else can follow.
    pub fn hashed(trace: TraceId) -> Randomness {
        Randomness(xxh3_64_with_seed(&trace.0, HASH_SEED) >> 8)
    }

    /// The randomness of these bits; `None` above 56 bits.
    pub const fn from_bits(bits: u64) -> Option<Randomness> {
        if bits < RANGE { Some(Randomness(bits)) } else { None }
    }

    /// The bits, below 2^56.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// R as a number in [0, 1).
    pub fn fraction(self) -> f64 {
        self.0 as f64 / RANGE as f64
    }

    /// Parses the value of `rv`: exactly 14 hex digits of either case.
    pub fn parse(rv: &[u8]) -> Option<Randomness> {
        (rv.len() == DIGITS).then(|| parse_hex(rv)).flatten().map(Randomness)
    }
}

/// Writes `rv` as the specification does: 14 lower-case hex digits.
impl fmt::Display for Randomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$x}", self.0, width = DIGITS)
    }
}

fn parse_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |bits, digit| {
        Some(bits << 4 | u64::from(char::from(*digit).to_digit(16)?))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn threshold(th: &str) -> Threshold {
        Threshold::parse(th.as_bytes()).unwrap()
    }

    #[test]
    fn values_of_the_specification() {
        for (th, bits, probability, weight) in [
            ("0", 0, 1.0, 1.0),
            ("8", 1 << 55, 0.5, 2.0),
            ("c", 0xc0_0000_0000_0000, 0.25, 4.0),
            ("4", 0x40_0000_0000_0000, 0.75, 1.0 / 0.75),
            ("fc", 0xfc_0000_0000_0000, 1.0 / 64.0, 64.0),
            ("ffffffffffffff", RANGE - 1, 1.0 / RANGE as f64, RANGE as f64),
        ] {
            let parsed = threshold(th);
            assert_eq!(parsed.bits(), bits, "{th}");
            assert_eq!(parsed.probability(), probability, "{th}");
            assert_eq!(parsed.weight(), weight, "{th}");
            assert_eq!(parsed.to_string(), th);
        }
        // One in a hundred at four digits: p is 1 % to within the precision.
        assert!((threshold("fd71").probability() - 0.01).abs() < 1e-5);
    }

    #[test]
    fn th_is_written_short_and_lower_case() {
        for (th, short) in [
            ("00", "0"),
            ("80000000000000", "8"),
            ("FD70", "fd7"),
            ("08", "08"),
            ("00000000000010", "0000000000001"),
        ] {
            assert_eq!(threshold(th).to_string(), short, "{th}");
        }
    }

    #[test]
    fn bad_values_are_none() {
        for th in ["", "g", "-1", "+1", " 8", "0x8", "123456789abcdef"] {
            assert_eq!(Threshold::parse(th.as_bytes()), None, "{th:?}");
        }
        for rv in ["", "8", "123456789abcd", "123456789abcdef", "123456789abcdg"] {
            assert_eq!(Randomness::parse(rv.as_bytes()), None, "{rv:?}");
        }
        assert_eq!(Threshold::from_bits(RANGE), None);
    }

    /// A branch of another implementation read the id's tail little-endian: these bytes tell.
    #[test]
    fn randomness_is_the_big_endian_tail_of_the_id() {
        let trace = TraceId([
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7,
        ]);
        assert_eq!(Randomness::of_trace(trace).bits(), 0x01_0203_0405_0607);
        assert_eq!(Randomness::parse(b"01020304050607"), Some(Randomness::of_trace(trace)));
    }

    #[test]
    fn the_threshold_itself_is_kept() {
        let half = threshold("8");
        assert!(half.keeps(Randomness::parse(b"80000000000000").unwrap()));
        assert!(!half.keeps(Randomness::parse(b"7fffffffffffff").unwrap()));
        assert!(Threshold::ALWAYS.keeps(Randomness::parse(b"00000000000000").unwrap()));
    }

    #[test]
    fn computed_thresholds() {
        for (probability, th) in [
            (2.0, "0"),
            (1.0, "0"),
            (0.5, "8"),
            (0.1, "e666"),
            (0.01, "fd70a"),
            (0.001, "ffbe77"),
            (0.0, "fffc"),
            (f64::NAN, "fffc"),
            (0.999_999_999, "0"),
        ] {
            assert_eq!(Threshold::of_probability(probability).to_string(), th, "{probability}");
        }
        let top = Randomness::from_bits(RANGE - 1).unwrap();
        assert_eq!(Threshold::excluding(top), Threshold::NEVER);
        assert_eq!(Randomness::parse(top.to_string().as_bytes()), Some(top));
    }

    proptest! {
        #[test]
        fn rounding_hardly_moves_the_probability(probability in PROBABILITY_MIN..1.0) {
            let threshold = Threshold::of_probability(probability);
            prop_assert!((threshold.probability() / probability - 1.0).abs() < 1.0 / 8192.0, "{} {probability}", threshold);
            prop_assert!(threshold.to_string().trim_start_matches('f').len() <= PRECISION);
        }

        #[test]
        fn the_excluding_threshold_is_the_smallest(bits in 0..RANGE - 1) {
            let threshold = Threshold::excluding(Randomness(bits));
            prop_assert!(!threshold.keeps(Randomness(bits)) && threshold.keeps(Randomness(bits + 1)));
        }

        #[test]
        fn th_comes_back(bits in 0..RANGE, digits in 1usize..=14) {
            let quantised = bits >> (4 * (14 - digits)) << (4 * (14 - digits));
            let threshold = Threshold::from_bits(quantised).unwrap();
            let th = threshold.to_string();
            prop_assert!(th.len() <= digits);
            prop_assert!(th == "0" || !th.ends_with('0'));
            prop_assert_eq!(Threshold::parse(th.as_bytes()), Some(threshold));
        }

        #[test]
        fn kept_sets_nest(left in 0..RANGE, right in 0..RANGE, id: [u8; 16]) {
            let (low, high) = (Threshold(left.min(right)), Threshold(left.max(right)));
            let randomness = Randomness::of_trace(TraceId(id));
            prop_assert!(!high.keeps(randomness) || low.keeps(randomness));
            prop_assert!(low.weight() <= high.weight() && low.probability() >= high.probability());
        }

        #[test]
        fn weight_is_the_inverse_of_probability(bits in 0..RANGE) {
            let threshold = Threshold(bits);
            prop_assert!((threshold.weight() * threshold.probability() - 1.0).abs() < 1e-12);
            prop_assert!(threshold.weight() >= 1.0 && threshold.probability() > 0.0);
        }

        #[test]
        fn given_multiplies_back(bits in 0..RANGE, before in 0..RANGE) {
            let (threshold, before) = (Threshold(bits), Threshold(before));
            let both = threshold.given(before).probability() * before.probability();
            prop_assert!((both - threshold.max(before).probability()).abs() < 1e-9);
            prop_assert_eq!(threshold.given(Threshold::ALWAYS), threshold);
        }

        #[test]
        fn parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = (Threshold::parse(&bytes), Randomness::parse(&bytes));
        }
    }
}
