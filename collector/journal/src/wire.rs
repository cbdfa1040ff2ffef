//! The journal's byte forms: LEB128 varints, little-endian integers, length-prefixed bytes. Private to the crate.
//!
//! Guarantees: a [`Reader`] never panics and never allocates, whatever the bytes.

use crate::error::Error;

/// Appends an unsigned LEB128 varint (1-10 bytes).
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed difference, small magnitudes short (zigzag).
pub(crate) fn put_delta(out: &mut Vec<u8>, base: u64, value: u64) {
    let delta = value.wrapping_sub(base) as i64;
    put_varint(out, ((delta << 1) ^ (delta >> 63)) as u64);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a 56-bit threshold. Thresholds are quantised at the top, so their bits are reversed: few digits, few bytes.
pub(crate) fn put_threshold(out: &mut Vec<u8>, threshold: u64) {
    put_varint(out, threshold.reverse_bits() >> 8);
}

/// Reads the forms above out of untrusted bytes.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; errors name `what`.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, what }
    }

    /// The error of a broken rule.
    pub fn malformed(&self, why: &'static str) -> Error {
        Error::Malformed { what: self.what, why }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Error::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Error::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    /// Eight bytes, little-endian.
    pub fn u64_le(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// An unsigned varint.
    pub fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.malformed("varint longer than 64 bits"))
    }

    /// A varint that fits 32 bits.
    pub fn varint_u32(&mut self) -> Result<u32, Error> {
        u32::try_from(self.varint()?).map_err(|_| self.malformed("number above 32 bits"))
    }

    /// A signed difference from `base`.
    pub fn delta(&mut self, base: u64) -> Result<u64, Error> {
        let zigzag = self.varint()?;
        Ok(base.wrapping_add((zigzag >> 1) ^ (zigzag & 1).wrapping_neg()))
    }

    /// Length-prefixed bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let count = usize::try_from(self.varint()?).map_err(|_| Error::Truncated { what: self.what })?;
        self.take(count)
    }

    /// Length-prefixed UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.malformed("text is not UTF-8"))
    }

    /// A 56-bit threshold.
    pub fn threshold(&mut self) -> Result<u64, Error> {
        let reversed = self.varint()?;
        if reversed >> 56 != 0 {
            return Err(self.malformed("threshold above 56 bits"));
        }
        Ok((reversed << 8).reverse_bits())
    }

    /// A count of things of at least `size_min` bytes each: refused when they cannot follow, so that it may size a buffer.
    pub fn count(&mut self, size_min: usize) -> Result<usize, Error> {
        let count = self.varint()?;
        if count > (self.remaining() / size_min.max(1)) as u64 {
            return Err(Error::Truncated { what: self.what });
        }
        Ok(count as usize)
    }

    /// Ends the reading: nothing may be left.
    pub fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("bytes after the end"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, base: u64, threshold in 0u64..1 << 56) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_delta(&mut out, base, value);
            put_threshold(&mut out, threshold);
            let mut reader = Reader::new("test", &out);
            prop_assert_eq!(reader.varint().unwrap(), value);
            prop_assert_eq!(reader.delta(base).unwrap(), value);
            prop_assert_eq!(reader.threshold().unwrap(), threshold);
            prop_assert!(reader.end().is_ok());
        }
    }

    #[test]
    fn quantised_thresholds_are_short() {
        for (threshold, len) in [
            (0, 1),
            (1 << 55, 1),
            (0x00ff_f000_0000_0000, 2),
            (0x00ff_f800_0000_0000, 2),
            (0x00ab_cd00_0000_0000, 3),
        ] {
            let mut out = Vec::new();
            put_threshold(&mut out, threshold);
            assert_eq!(out.len(), len, "{threshold:x}");
        }
    }

    #[test]
    fn overlong_varints_are_errors() {
        assert!(Reader::new("test", &[0xff; 10]).varint().is_err());
        assert!(Reader::new("test", &[0x80; 11]).varint().is_err());
        assert!(Reader::new("test", &[0x80]).varint().is_err());
        assert_eq!(
            Reader::new("test", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).varint(),
            Ok(u64::MAX)
        );
    }
}
