//! The protobuf wire form, read in place.
//!
//! Guarantees: never panics, never recurses, never allocates, never reads past the slice it was given. Accepts what a
//! conforming decoder accepts: unknown fields and groups are skipped, a known field with another wire type is an error.
//! Leaves out: what fields mean (`item`, `value`).
//!
//! Hot code. A tag is compared as the raw number that stands in the bytes, so that a message is one `match`.

use std::fmt;

/// Messages within messages, groups included, that a request may have. The same limit as prost's.
pub const RECURSION_LIMIT: usize = 100;

/// Why bytes are no protobuf message of the expected type. Final: the same bytes fail again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// A length or a fixed-size value reaches beyond its message.
    Truncated,
    /// A varint of more than 64 bits.
    Varint,
    /// Field number 0 or above 2^29 - 1, or an unknown wire type.
    Tag,
    /// A known field with a wire type that is not its own.
    WireType,
    /// The end of a group that was not begun, or of another one.
    Group,
    /// More than [`RECURSION_LIMIT`] levels.
    TooDeep,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Truncated => "malformed protobuf: a field reaches beyond its message",
            Malformed::Varint => "malformed protobuf: varint of more than 64 bits",
            Malformed::Tag => "malformed protobuf: invalid field number or wire type",
            Malformed::WireType => "malformed protobuf: a known field has another wire type",
            Malformed::Group => "malformed protobuf: unmatched end of group",
            Malformed::TooDeep => "malformed protobuf: nested too deep",
        })
    }
}

impl std::error::Error for Malformed {}

/// Result of reading the wire.
pub type Wire<T> = Result<T, Malformed>;

/// Raw tag of a varint field.
pub const fn varint(number: u32) -> u32 {
    number << 3
}

/// Raw tag of a fixed64, sfixed64 or double field.
pub const fn fixed64(number: u32) -> u32 {
    number << 3 | 1
}

/// Raw tag of a string, bytes, message or packed field.
pub const fn len(number: u32) -> u32 {
    number << 3 | 2
}

/// Raw tag of a fixed32 field.
pub const fn fixed32(number: u32) -> u32 {
    number << 3 | 5
}

/// What is left of a message.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads a message from its first byte.
    #[inline(always)]
    pub fn new(message: &'a [u8]) -> Reader<'a> {
        Reader { rest: message }
    }

    /// The bytes not read yet.
    #[inline(always)]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next raw tag, `None` at the end of the message.
    #[inline(always)]
    pub fn tag(&mut self) -> Wire<Option<u32>> {
        match self.rest {
            [] => Ok(None),
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                if *byte < 8 {
                    Err(Malformed::Tag)
                } else {
                    Ok(Some(u32::from(*byte)))
                }
            }
            // Field numbers of 16 to 2047.
            [low, high @ 1..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(Some(u32::from(*low & 0x7f) | u32::from(*high) << 7))
            }
            _ => self.long_tag(),
        }
    }

    /// Visits the content of the field behind `tag`, which takes one byte, and of those like it that follow at once: where fields of one kind
    /// stand together nobody has to ask of each what it is.
    #[inline(always)]
    pub fn each(&mut self, tag: u32, mut visit: impl FnMut(&'a [u8]) -> Wire<()>) -> Wire<()> {
        let mut content = self.bytes()?;
        loop {
            visit(content)?;
            content = match self.next_short(tag) {
                Some(next) => next,
                None => return Ok(()),
            };
        }
    }

    /// The content of the next field, if that has this tag and less than 128 bytes.
    #[inline(always)]
    fn next_short(&mut self, tag: u32) -> Option<&'a [u8]> {
        match self.rest {
            [byte, len @ 0..0x80, rest @ ..] if u32::from(*byte) == tag => {
                let (content, rest) = rest.split_at_checked(usize::from(*len))?;
                self.rest = rest;
                Some(content)
            }
            _ => None,
        }
    }

    #[cold]
    fn long_tag(&mut self) -> Wire<Option<u32>> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed::Tag)?;
        if tag < 8 { Err(Malformed::Tag) } else { Ok(Some(tag)) }
    }

    /// A varint.
    #[inline(always)]
    pub fn varint(&mut self) -> Wire<u64> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            [low, high, rest @ ..] if *high < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*low & 0x7f) | u64::from(*high) << 7)
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Wire<u64> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (index * 7);
            if *byte < 0x80 {
                if index == 9 && *byte > 1 {
                    return Err(Malformed::Varint);
                }
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 {
            Malformed::Truncated
        } else {
            Malformed::Varint
        })
    }

    /// A length-delimited field's content.
    #[inline(always)]
    pub fn bytes(&mut self) -> Wire<&'a [u8]> {
        let len = self.varint()?;
        // A length beyond usize is beyond the slice as well.
        match usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len))
        {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(Malformed::Truncated),
        }
    }

    /// A fixed64 value.
    #[inline(always)]
    pub fn fixed64(&mut self) -> Wire<u64> {
        match self.rest.split_first_chunk::<8>() {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(u64::from_le_bytes(*bytes))
            }
            None => Err(Malformed::Truncated),
        }
    }

    /// A double.
    #[inline(always)]
    pub fn double(&mut self) -> Wire<f64> {
        Ok(f64::from_bits(self.fixed64()?))
    }

    /// A fixed32 value.
    #[inline(always)]
    pub fn fixed32(&mut self) -> Wire<u32> {
        match self.rest.split_first_chunk::<4>() {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(u32::from_le_bytes(*bytes))
            }
            None => Err(Malformed::Truncated),
        }
    }

    /// A uint32, int32 or enum: the low 32 bits of a varint, as protobuf says.
    #[inline(always)]
    pub fn uint32(&mut self) -> Wire<u32> {
        Ok(self.varint()? as u32)
    }

    /// An sint32.
    #[inline(always)]
    pub fn sint32(&mut self) -> Wire<i32> {
        let raw = self.uint32()?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// Skips a field that this reader's owner does not know. `known` has bit n set for each field number n that the owner
    /// knows: such a field is here with a wrong wire type.
    #[cold]
    pub fn other(&mut self, tag: u32, known: u32) -> Wire<()> {
        let number = tag >> 3;
        if number < 32 && known >> number & 1 == 1 {
            Err(Malformed::WireType)
        } else {
            self.skip(tag)
        }
    }

    /// Skips the field behind `tag`, a whole group if it begins one.
    pub fn skip(&mut self, tag: u32) -> Wire<()> {
        match tag & 7 {
            0 => self.varint().map(drop),
            1 => self.fixed64().map(drop),
            2 => self.bytes().map(drop),
            3 => self.skip_group(tag >> 3),
            4 => Err(Malformed::Group),
            5 => self.fixed32().map(drop),
            _ => Err(Malformed::Tag),
        }
    }

    fn skip_group(&mut self, number: u32) -> Wire<()> {
        let mut open = [0u32; RECURSION_LIMIT];
        let mut depth = 1;
        open[0] = number;
        while depth > 0 {
            let tag = self.tag()?.ok_or(Malformed::Truncated)?;
            match tag & 7 {
                3 => {
                    *open.get_mut(depth).ok_or(Malformed::TooDeep)? = tag >> 3;
                    depth += 1;
                }
                4 if open[depth - 1] == tag >> 3 => depth -= 1,
                _ => self.skip(tag)?,
            }
        }
        Ok(())
    }
}

/// Bits for [`Reader::other`] from field numbers below 32.
pub const fn known(numbers: &[u32]) -> u32 {
    let (mut mask, mut index) = (0, 0);
    while index < numbers.len() {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn varints() {
        let check = |bytes: &[u8], expect: Wire<u64>| assert_eq!(Reader::new(bytes).varint(), expect, "{bytes:x?}");
        check(&[0], Ok(0));
        check(&[0x7f], Ok(127));
        check(&[0x80, 1], Ok(128));
        check(&[0xff, 0xff, 3], Ok(65535));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Ok(u64::MAX));
        check(
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            Err(Malformed::Varint),
        );
        check(&[0x80; 10], Err(Malformed::Varint));
        check(&[0x80; 9], Err(Malformed::Truncated));
        check(&[], Err(Malformed::Truncated));
    }

    #[test]
    fn tags() {
        let check =
            |bytes: &[u8], expect: Wire<Option<u32>>| assert_eq!(Reader::new(bytes).tag(), expect, "{bytes:x?}");
        check(&[], Ok(None));
        check(&[0x0a], Ok(Some(len(1))));
        check(&[0x85, 1], Ok(Some(fixed32(16))));
        check(&[7], Err(Malformed::Tag));
        check(&[0x87, 0], Err(Malformed::Tag));
        check(&[0xff, 0xff, 0xff, 0xff, 0x0f], Ok(Some(u32::MAX)));
        check(&[0xff, 0xff, 0xff, 0xff, 0x1f], Err(Malformed::Tag));
    }

    #[test]
    fn lengths_never_reach_beyond_the_message() {
        let check = |bytes: &[u8], expect: Wire<&[u8]>| assert_eq!(Reader::new(bytes).bytes(), expect, "{bytes:x?}");
        check(&[2, 7, 8, 9], Ok(&[7, 8]));
        check(&[0], Ok(&[]));
        check(&[3, 7, 8], Err(Malformed::Truncated));
        check(
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0],
            Err(Malformed::Truncated),
        );
    }

    #[test]
    fn groups_are_skipped_whole() {
        let check = |bytes: &[u8], expect: Wire<()>| {
            let mut reader = Reader::new(bytes);
            let tag = reader.tag().unwrap().unwrap();
            assert_eq!(reader.skip(tag), expect, "{bytes:x?}");
        };
        check(&[0x0b, 0x0c], Ok(()));
        check(&[0x0b, 0x10, 1, 0x13, 0x14, 0x0c], Ok(()));
        check(&[0x0b, 0x14], Err(Malformed::Group));
        check(&[0x0c], Err(Malformed::Group));
        check(&[0x0b, 0x10, 1], Err(Malformed::Truncated));
        check(&[0x0b; 200], Err(Malformed::TooDeep));
        check(&[0x0e], Err(Malformed::Tag));
    }

    #[test]
    fn a_known_field_of_another_type_is_an_error() {
        let mask = known(&[1, 2]);
        assert_eq!(Reader::new(&[5]).other(varint(1), mask), Err(Malformed::WireType));
        assert_eq!(Reader::new(&[5]).other(varint(3), mask), Ok(()));
        assert_eq!(Reader::new(&[5]).other(varint(33), mask), Ok(()));
    }

    #[test]
    fn zigzag() {
        for (raw, value) in [(0u8, 0), (1, -1), (2, 1), (3, -2)] {
            assert_eq!(Reader::new(&[raw]).sint32(), Ok(value));
        }
    }
}
