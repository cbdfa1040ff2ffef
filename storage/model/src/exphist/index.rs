//! From a value to its bucket and back, exactly and without a logarithm.

use super::SCALE;

/// Mantissa bits of `2^(j/32)`, rounded down: the boundaries of the 32 buckets of an octave at scale 5.
#[rustfmt::skip]
const BOUNDARIES: [u64; 32] = [
    0x0000000000000, 0x059b0d3158574, 0x0b5586cf9890f, 0x11301d0125b50,
    0x172b83c7d517a, 0x1d4873168b9aa, 0x2387a6e756238, 0x29e9df51fdee1,
    0x306fe0a31b715, 0x371a7373aa9ca, 0x3dea64c123422, 0x44e086061892d,
    0x4bfdad5362a27, 0x5342b569d4f81, 0x5ab07dd485429, 0x6247eb03a5584,
    0x6a09e667f3bcc, 0x71f75e8ec5f73, 0x7a11473eb0186, 0x82589994cce12,
    0x8ace5422aa0db, 0x93737b0cdc5e4, 0x9c49182a3f090, 0xa5503b23e255c,
    0xae89f995ad3ad, 0xb7f76f2fb5e46, 0xc199bdd85529c, 0xcb720dcef9069,
    0xd5818dcfba487, 0xdfc97337b9b5e, 0xea4afa2a490d9, 0xf50765b6e4540,
];

const MANTISSA: u64 = (1 << 52) - 1;

/// For each value of the top six mantissa bits, how many boundaries of the octave lie below the slot's lower edge. The narrowest
/// bucket (0.0219) is wider than a slot (0.0156), so at most one more boundary lies inside the slot.
const SLOTS: [u8; 64] = slots();

const fn slots() -> [u8; 64] {
    let mut slots = [0; 64];
    let mut slot = 0;
    while slot < 64 {
        let edge = (slot as u64) << 46;
        let mut below = 0;
        while below < 31 && BOUNDARIES[below + 1] < edge {
            below += 1;
        }
        slots[slot] = below as u8;
        slot += 1;
    }
    slots
}

/// Smallest and largest index at scale 5.
pub(super) const INDEX_MIN: i32 = -1022 * 32 - 1;
pub(super) const INDEX_MAX: i32 = 1024 * 32 - 1;

/// Bucket of a finite magnitude above zero at scale 5. Exact: boundaries belong to the bucket below them.
#[inline]
pub(super) fn index(magnitude: f64) -> i32 {
    debug_assert!(magnitude > 0.0 && magnitude.is_finite());
    let bits = magnitude.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let mantissa = bits & MANTISSA;
    if exponent == -1023 {
        return INDEX_MIN;
    }
    if mantissa == 0 {
        return exponent * 32 - 1;
    }
    let below = SLOTS[(mantissa >> 46) as usize] as usize;
    // A boundary is irrational and stored rounded down, so "mantissa above it" is "mantissa greater than the stored bits".
    let inside = below < 31 && BOUNDARIES[below + 1] < mantissa;
    exponent * 32 + below as i32 + i32::from(inside)
}

/// Lower boundary of bucket `index` at `scale`; the upper one is that of `index + 1`. Infinite above the largest number.
pub(super) fn boundary(index: i32, scale: i8) -> f64 {
    let at_five = (index as i64) << (SCALE - scale);
    let exponent = at_five.div_euclid(32).clamp(-1100, 1024) as f64;
    let mantissa = f64::from_bits((1023 << 52) | BOUNDARIES[at_five.rem_euclid(32) as usize]);
    mantissa * exponent.exp2()
}

/// The value that stands for bucket `index`: its relative error is the same at both ends, `(base-1)/(base+1)`.
pub(super) fn middle(index: i32, scale: i8) -> f64 {
    let lower = boundary(index, scale);
    let base = f64::from(-scale).exp2().exp2();
    if base.is_finite() && lower > 0.0 {
        return lower * (2.0 * base / (1.0 + base));
    }
    // Buckets wider than all numbers together: any value does, callers clamp to what was seen.
    if index < 0 { f64::MIN_POSITIVE } else { f64::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_those_of_the_definition() {
        for (j, bits) in BOUNDARIES.iter().enumerate() {
            let ours = f64::from_bits((1023 << 52) | bits);
            let theirs = (j as f64 / 32.0).exp2();
            assert!((ours - theirs).abs() <= 2.0 * f64::EPSILON, "{j}: {ours} {theirs}");
        }
    }

    #[test]
    fn a_boundary_is_in_the_bucket_below_and_the_next_number_is_not() {
        for index_at in [-40_000, -32_705, -65, -64, -33, -1, 0, 1, 31, 32, 63, 64, 1000, 32_000] {
            let low = boundary(index_at, 5);
            if low < f64::MIN_POSITIVE {
                continue;
            }
            // Irrational boundaries are stored rounded down: the stored number is below the true one, its successor above.
            assert_eq!(index(low), index_at - 1, "{index_at}");
            assert_eq!(index(low.next_up()), index_at, "{index_at}");
        }
    }

    #[test]
    fn every_mantissa_slot_agrees_with_the_logarithm() {
        for step in 0..100_000u64 {
            let value = 1.0 + (step as f64 + 0.5) / 100_000.0;
            assert_eq!(index(value), (value.log2() * 32.0).ceil() as i32 - 1, "{value}");
        }
    }

    #[test]
    fn ends_of_the_number_line() {
        assert_eq!(index(f64::from_bits(1)), INDEX_MIN);
        assert_eq!(index(f64::MIN_POSITIVE), INDEX_MIN);
        assert_eq!(index(f64::MAX), INDEX_MAX);
        assert_eq!(boundary(INDEX_MAX + 1, 5), f64::INFINITY);
        assert!(middle(INDEX_MAX, 5).is_finite());
        assert!(middle(0, -10).is_finite() && middle(-1, -10).is_finite());
    }
}
