//! AnyValue and KeyValue as borrowed views, their nesting depth, and their texts.
//!
//! Where a message stands twice in a singular field protobuf merges the two. Here the last one that has a value wins, which
//! differs only if both are lists; no encoder writes such bytes.

use std::fmt::Write as _;

use super::text::{self, Tally};
use super::wire::{self, Malformed, RECURSION_LIMIT, Reader, Wire};

/// The value of an AnyValue. Strings are raw: they need not be UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Any<'a> {
    /// Nothing set, or only `string_value_strindex`, which has no meaning outside profiles.
    #[default]
    Empty,
    /// `string_value`.
    Str(&'a [u8]),
    /// `bool_value`.
    Bool(bool),
    /// `int_value`.
    Int(i64),
    /// `double_value`.
    Double(f64),
    /// `bytes_value`.
    Bytes(&'a [u8]),
    /// `array_value`: the bytes of the ArrayValue.
    Array(&'a [u8]),
    /// `kvlist_value`: the bytes of the KeyValueList.
    Kvlist(&'a [u8]),
}

const ANY_KNOWN: u32 = wire::known(&[1, 2, 3, 4, 5, 6, 7, 8]);
const ANY_STR: u32 = wire::len(1);
const ANY_BOOL: u32 = wire::varint(2);
const ANY_INT: u32 = wire::varint(3);
const ANY_DOUBLE: u32 = wire::fixed64(4);
const ANY_ARRAY: u32 = wire::len(5);
const ANY_KVLIST: u32 = wire::len(6);
const ANY_BYTES: u32 = wire::len(7);
const ANY_STRINDEX: u32 = wire::varint(8);

const KV_KNOWN: u32 = wire::known(&[1, 2, 3]);
const KV_KEY: u32 = wire::len(1);
const KV_VALUE: u32 = wire::len(2);
const KV_STRINDEX: u32 = wire::varint(3);

const LIST_KNOWN: u32 = wire::known(&[1]);
const LIST_VALUES: u32 = wire::len(1);

impl<'a> Any<'a> {
    /// Reads an AnyValue. Lists are not looked into: see [`depth`].
    #[inline]
    pub fn read(message: &'a [u8]) -> Wire<Any<'a>> {
        // The common forms first.
        match short_text(message) {
            Some(text) => Ok(Any::Str(text)),
            None => match short_number(message) {
                Some(number) => Ok(Any::Int(number)),
                None => Any::read_on(message),
            },
        }
    }

    #[inline(never)]
    fn read_on(message: &'a [u8]) -> Wire<Any<'a>> {
        let mut any = Any::Empty;
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            any = match tag {
                ANY_STR => Any::Str(reader.bytes()?),
                ANY_BOOL => Any::Bool(reader.varint()? != 0),
                ANY_INT => Any::Int(reader.varint()? as i64),
                ANY_DOUBLE => Any::Double(reader.double()?),
                ANY_ARRAY => Any::Array(reader.bytes()?),
                ANY_KVLIST => Any::Kvlist(reader.bytes()?),
                ANY_BYTES => Any::Bytes(reader.bytes()?),
                ANY_STRINDEX => {
                    reader.varint()?;
                    Any::Empty
                }
                _ => {
                    reader.other(tag, ANY_KNOWN)?;
                    any
                }
            };
        }
        Ok(any)
    }

    /// Whether the value is a list, whose inside has to be checked with [`depth`].
    #[inline]
    pub fn is_list(&self) -> bool {
        matches!(self, Any::Array(_) | Any::Kvlist(_))
    }
}

/// The text of an AnyValue that is a string of less than 128 bytes and nothing else, as most are; None for any other.
///
/// Where spans are walked, this is asked before an [`Any`] is made: a value that goes through memory on its way from one function to the
/// next is stored by halves and loaded whole, which made the processor wait for a third of the walk.
#[inline(always)]
pub fn short_text(any: &[u8]) -> Option<&[u8]> {
    match any {
        [0x0a, len, text @ ..] if usize::from(*len) == text.len() && *len < 0x80 => Some(text),
        _ => None,
    }
}

/// The whole number of an AnyValue that is one of at most three bytes on the wire (codes, ports, line numbers) and nothing else; None for any
/// other.
#[inline(always)]
pub fn short_number(any: &[u8]) -> Option<i64> {
    let low = |byte: u8| i64::from(byte & 0x7f);
    match *any {
        [0x18, a @ 0..=0x7f] => Some(low(a)),
        [0x18, a @ 0x80..=0xff, b @ 0..=0x7f] => Some(low(a) | low(b) << 7),
        [0x18, a @ 0x80..=0xff, b @ 0x80..=0xff, c @ 0..=0x7f] => Some(low(a) | low(b) << 7 | low(c) << 14),
        _ => None,
    }
}

/// An AnyValue not read yet. That it can be read has been checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raw<'a>(pub &'a [u8]);

impl<'a> Raw<'a> {
    /// The value; empty if it cannot be read after all.
    #[inline]
    pub fn any(self) -> Any<'a> {
        Any::read(self.0).unwrap_or_default()
    }

    /// The whole number; `None` for any other value.
    #[inline]
    pub fn number(self) -> Option<i64> {
        match short_number(self.0) {
            None => match self.any() {
                Any::Int(number) => Some(number),
                _ => None,
            },
            number => number,
        }
    }

    /// The text of a string; `None` for any other value.
    #[inline]
    pub fn text(self) -> Option<&'a [u8]> {
        match short_text(self.0) {
            None => match self.any() {
                Any::Str(text) => Some(text),
                _ => None,
            },
            text => text,
        }
    }
}

/// A KeyValue: raw key, value, and the raw AnyValue that the value was read from.
#[derive(Debug, Clone, Copy)]
pub struct KeyValue<'a> {
    /// Key as sent.
    pub key: &'a [u8],
    /// Value.
    pub value: Any<'a>,
    /// The bytes of the AnyValue.
    pub raw: &'a [u8],
}

impl<'a> KeyValue<'a> {
    /// Whether the value is `string_value_strindex`, which has no meaning outside profiles.
    pub fn is_strindex(&self) -> bool {
        matches!(self.value, Any::Empty) && self.raw.first().map(|tag| u32::from(*tag)) == Some(ANY_STRINDEX)
    }

    /// Reads a KeyValue.
    #[inline]
    pub fn read(message: &'a [u8]) -> Wire<KeyValue<'a>> {
        match KeyValue::short(message) {
            Some((key, raw)) => Ok(KeyValue {
                key,
                value: Any::read(raw)?,
                raw,
            }),
            None => KeyValue::read_on(message),
        }
    }

    /// Key and AnyValue of a KeyValue. The AnyValue may turn out to be malformed.
    #[inline(always)]
    pub fn split(message: &'a [u8]) -> Wire<(&'a [u8], &'a [u8])> {
        match KeyValue::short(message) {
            Some(parts) => Ok(parts),
            None => {
                let found = KeyValue::read_on(message)?;
                Ok((found.key, found.raw))
            }
        }
    }

    /// The usual layout: key, value, nothing else, lengths of one byte.
    #[inline(always)]
    fn short(message: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        if let [0x0a, key_len, rest @ ..] = message
            && *key_len < 0x80
            && let Some((key, [0x12, value_len, raw @ ..])) = rest.split_at_checked(usize::from(*key_len))
            && usize::from(*value_len) == raw.len()
            && *value_len < 0x80
        {
            return Some((key, raw));
        }
        None
    }

    #[inline(never)]
    fn read_on(message: &'a [u8]) -> Wire<KeyValue<'a>> {
        let mut found = KeyValue {
            key: &[],
            value: Any::Empty,
            raw: &[],
        };
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag {
                KV_KEY => found.key = reader.bytes()?,
                KV_VALUE => {
                    let raw = reader.bytes()?;
                    let value = Any::read(raw)?;
                    if value != Any::Empty || found.value == Any::Empty {
                        (found.value, found.raw) = (value, raw);
                    }
                }
                KV_STRINDEX => {
                    reader.varint()?;
                }
                _ => reader.other(tag, KV_KNOWN)?,
            }
        }
        Ok(found)
    }
}

/// What a level of nesting is.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Any,
    Array,
    Kvlist,
    KeyValue,
}

/// Walks all of an AnyValue and says how many AnyValues stand within one another (a scalar: 1). `outer` is how many
/// messages surround it; beyond [`RECURSION_LIMIT`] in total the request is malformed.
pub fn depth(any: &[u8], outer: usize) -> Wire<usize> {
    let mut above: [(&[u8], Level); RECURSION_LIMIT] = [(&[], Level::Any); RECURSION_LIMIT];
    let (mut height, mut level, mut reader) = (0, Level::Any, Reader::new(any));
    let (mut anys, mut deepest) = (1, 1);
    loop {
        let Some(tag) = reader.tag()? else {
            if height == 0 {
                return Ok(deepest);
            }
            anys -= usize::from(level == Level::Any);
            height -= 1;
            level = above[height].1;
            reader = Reader::new(above[height].0);
            continue;
        };
        let next = match (level, tag) {
            (Level::Any, ANY_ARRAY) => Level::Array,
            (Level::Any, ANY_KVLIST) => Level::Kvlist,
            (Level::Array, LIST_VALUES) | (Level::KeyValue, KV_VALUE) => Level::Any,
            (Level::Kvlist, LIST_VALUES) => Level::KeyValue,
            (Level::Any, ANY_STR | ANY_BOOL | ANY_INT | ANY_DOUBLE | ANY_BYTES | ANY_STRINDEX)
            | (Level::KeyValue, KV_KEY | KV_STRINDEX) => {
                reader.skip(tag)?;
                continue;
            }
            (level, tag) => {
                let known = match level {
                    Level::Any => ANY_KNOWN,
                    Level::KeyValue => KV_KNOWN,
                    Level::Array | Level::Kvlist => LIST_KNOWN,
                };
                reader.other(tag, known)?;
                continue;
            }
        };
        let inner = reader.bytes()?;
        if outer + height + 1 > RECURSION_LIMIT || height == RECURSION_LIMIT {
            return Err(Malformed::TooDeep);
        }
        above[height] = (reader.rest(), level);
        height += 1;
        level = next;
        anys += usize::from(level == Level::Any);
        deepest = deepest.max(anys);
        reader = Reader::new(inner);
    }
}

/// Visits the elements of an ArrayValue.
pub fn elements<'a>(array: &'a [u8], mut visit: impl FnMut(&'a [u8]) -> Wire<()>) -> Wire<()> {
    let mut reader = Reader::new(array);
    while let Some(tag) = reader.tag()? {
        match tag {
            LIST_VALUES => visit(reader.bytes()?)?,
            _ => reader.other(tag, LIST_KNOWN)?,
        }
    }
    Ok(())
}

/// Appends the OTLP-JSON text of an AnyValue: `{"stringValue":"a"}`, `{}` for an empty one. The caller has bounded the depth.
pub fn write_json(any: Any<'_>, out: &mut String, tally: &mut Tally) -> Wire<()> {
    // Writing to a String cannot fail.
    match any {
        Any::Empty => out.push_str("{}"),
        Any::Str(raw) => {
            out.push_str("{\"stringValue\":");
            write_json_str(raw, out, tally);
            out.push('}');
        }
        Any::Bool(value) => {
            let _ = write!(out, "{{\"boolValue\":{value}}}");
        }
        Any::Int(value) => {
            let _ = write!(out, "{{\"intValue\":\"{value}\"}}");
        }
        Any::Double(value) => {
            out.push_str("{\"doubleValue\":");
            write_json_double(value, out);
            out.push('}');
        }
        Any::Bytes(raw) => {
            out.push_str("{\"bytesValue\":\"");
            write_base64(raw, out);
            out.push_str("\"}");
        }
        Any::Array(raw) => {
            out.push_str("{\"arrayValue\":{\"values\":[");
            let mut first = true;
            elements(raw, |element| {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                write_json(Any::read(element)?, out, tally)
            })?;
            out.push_str("]}}");
        }
        Any::Kvlist(raw) => {
            out.push_str("{\"kvlistValue\":{\"values\":[");
            let mut first = true;
            elements(raw, |element| {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                let pair = KeyValue::read(element)?;
                out.push_str("{\"key\":");
                write_json_str(pair.key, out, tally);
                out.push_str(",\"value\":");
                write_json(pair.value, out, tally)?;
                out.push('}');
                Ok(())
            })?;
            out.push_str("]}}");
        }
    }
    Ok(())
}

/// Appends a value as plain text: strings as they are, numbers and booleans in decimal, the rest as OTLP-JSON.
pub fn write_text(any: Any<'_>, out: &mut String, tally: &mut Tally) -> Wire<()> {
    match any {
        Any::Str(raw) => text::push_clean(raw, out, tally),
        Any::Bool(value) => out.push_str(if value { "true" } else { "false" }),
        Any::Int(value) => {
            let _ = write!(out, "{value}");
        }
        Any::Double(value) => write_double(value, out),
        Any::Empty | Any::Bytes(_) | Any::Array(_) | Any::Kvlist(_) => write_json(any, out, tally)?,
    }
    Ok(())
}

/// Appends a number as plain text. The smallest would take three hundred zeros: beyond 16 digits it has an exponent.
fn write_double(value: f64, out: &mut String) {
    let is_plain = value == 0.0 || !value.is_finite() || (1e-5..1e16).contains(&value.abs());
    let _ = match is_plain {
        true => write!(out, "{value}"),
        false => write!(out, "{value:e}"),
    };
}

fn write_json_double(value: f64, out: &mut String) {
    if value.is_nan() {
        out.push_str("\"NaN\"");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else {
        let _ = write!(out, "{value:?}");
    }
}

fn write_json_str(raw: &[u8], out: &mut String, tally: &mut Tally) {
    out.push('"');
    let clean = text::clean(raw, tally);
    let mut from = 0;
    for (index, byte) in clean.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&clean[from..index]);
        from = index + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
    out.push_str(&clean[from..]);
    out.push('"');
}

fn write_base64(raw: &[u8], out: &mut String) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in raw.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
}
