//! The stored form of a sketch. Version 1; a reader refuses versions it does not know.
//!
//! ```text
//! offset  size  what
//! 0       1     version = 1
//! 1       1     flags: 1 counts are f64, 2 has infinities, 4 has negative buckets, 8 is empty
//! 2       1     scale (i8, -10..=5)
//! -- an empty sketch ends here --
//! 3       24    sum, min, max of the finite values: f64 each
//! 27      ...   count of zeros
//! ...     ...   flag 2: count of -inf, count of +inf
//! ...     ...   flag 4: buckets of negative values, by magnitude
//! ...     ...   buckets of positive values
//!
//! count   = varint, or f64 when flag 1 is set (one weight was not an integer below 2^53)
//! buckets = varint n, then n pairs in ascending order: varint gap, count
//!           the first gap is zigzag(index), the later ones index - previous - 1
//! ```
//! Numbers are little endian, varints are LEB128. Buckets of no count are not stored.

use super::{SCALE, SCALE_MIN, index};

pub(super) const VERSION: u8 = 1;
pub(super) const FLOAT_COUNTS: u8 = 1;
pub(super) const INFINITIES: u8 = 2;
pub(super) const NEGATIVES: u8 = 4;
pub(super) const EMPTY: u8 = 8;

/// Counts at or above this are stored as f64.
pub(super) const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// The bytes are not a sketch of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an exponential histogram of version 1: {0}")]
pub struct Malformed(pub(super) &'static str);

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn zigzag(value: i32) -> u64 {
    ((value << 1) ^ (value >> 31)) as u32 as u64
}

pub(super) fn unzigzag(value: u64) -> Option<i32> {
    let value = u32::try_from(value).ok()?;
    Some((value >> 1) as i32 ^ -((value & 1) as i32))
}

/// A position in encoded bytes. Copies are cheap and independent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub rest: &'a [u8],
    pub float_counts: bool,
}

impl Cursor<'_> {
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*first)
    }

    pub fn float(&mut self) -> Result<f64, Malformed> {
        let (bytes, rest) = self
            .rest
            .split_first_chunk::<8>()
            .ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(f64::from_le_bytes(*bytes))
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        // Most are one byte: the next bucket is near, and its count small.
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is too long"))
    }

    #[inline]
    pub fn count(&mut self) -> Result<f64, Malformed> {
        if !self.float_counts {
            return Ok(self.varint()? as f64);
        }
        let count = self.float()?;
        if count >= 0.0 && count.is_finite() {
            Ok(count)
        } else {
            Err(Malformed("a count is not a count"))
        }
    }
}

/// Whether an index can exist at this scale. Keeps hostile bytes from asking for absurd buckets.
pub(super) fn index_in_range(at: i64, scale: i8) -> bool {
    debug_assert!((SCALE_MIN..=SCALE).contains(&scale));
    let shift = SCALE - scale;
    at >= i64::from(index::INDEX_MIN >> shift) && at <= i64::from(index::INDEX_MAX >> shift)
}
