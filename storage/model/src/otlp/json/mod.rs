//! OTLP/JSON requests to protobuf bytes, so that everything behind the door reads one encoding.
//!
//! The proto3 JSON mapping with OTLP's twists (OTLP specification 1.11, "JSON Protobuf Encoding"):
//!
//! - Keys are lowerCamelCase only. Other keys, snake_case included, are unknown and ignored at any depth.
//! - `traceId`, `spanId`, `parentSpanId` are hex of either case; other bytes are base64 (standard or url-safe, padding
//!   optional). An id that is not hex makes the request malformed; one of the wrong *length* passes, because the item alone is
//!   bad and is rejected later through `partial_success`.
//! - Every number may be a JSON number or a string holding one; integers also as `1e3` or `12.0`; doubles also as `NaN`, `Infinity`,
//!   `-Infinity`. What its field cannot hold is an error that names the path.
//! - Enums are integers; a name is an error.
//! - `null` means absent. In a list it is an error.
//! - A key given twice follows protobuf: the last scalar wins, messages merge, lists are appended. So does an AnyValue with two values:
//!   the last one wins.
//! - Text that is not UTF-8, or escapes a lone surrogate in a field that is read, is an error.
//!
//! Guarantees: one pass over the text, no tree; nested at most [`DEPTH_MAX`] deep (unknown fields to any depth, they are
//! skipped without recursion); output at most the given cap. Numbers are written even when they are zero: presence costs a byte
//! or two and saves knowing which fields have it.
//!
//! Assumes: the caller has bounded the text. Leaves out: the profiles signal, whose string indices are unknown here.

mod bytes;
mod descriptor;
mod number;

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::signal::Signal;
use descriptor::{Field, Kind, Message};

/// How many objects and lists may be open at once. An AnyValue in an AnyValue opens three, so values nest about thirty deep:
/// more than is ever kept, and well within a small stack.
pub const DEPTH_MAX: usize = 100;

/// Longest error message in bytes; what a client sent is quoted in it.
const MESSAGE_MAX: usize = 256;

/// What kind of refusal an error calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonErrorKind {
    /// Not an OTLP/JSON request: HTTP 400.
    Malformed,
    /// Well-formed so far, but larger as protobuf than the cap: HTTP 413.
    TooLarge,
    /// Well-formed so far, but the caller has no more memory for it.
    NoRoom,
}

/// Why a JSON request was not taken, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// Which answer it calls for.
    pub kind: JsonErrorKind,
    /// Line of the text, from 1.
    pub line: usize,
    /// Column in bytes, from 1; 0 at the start of a line. The parser stands behind what it refuses.
    pub column: usize,
    /// Field that was being read, as in `resourceSpans[0].scopeSpans[0].spans[3].traceId`. Empty at the top.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} at line {} column {}", self.message, self.line, self.column)
    }
}

impl std::error::Error for JsonError {}

/// Turns an OTLP/JSON export request into the protobuf bytes of the same request, of at most `bytes_max` bytes.
///
/// # Errors
/// [`JsonErrorKind::Malformed`] when the text is not such a request, [`JsonErrorKind::TooLarge`] when its protobuf form
/// exceeds the cap.
pub fn transcode(signal: Signal, json: &[u8], bytes_max: usize) -> Result<Vec<u8>, JsonError> {
    transcode_within(signal, json, bytes_max, &mut |out, more, _| {
        out.reserve(more);
        true
    })
}

/// Makes room in the output: the buffer, how many bytes more it has to hold, and how large it need never be. `false` if there is none.
pub type Room<'r> = &'r mut dyn FnMut(&mut Vec<u8>, usize, usize) -> bool;

/// As [`transcode`], for a caller who counts memory: the output grows by `room` alone.
///
/// # Errors
/// As [`transcode`], and [`JsonErrorKind::NoRoom`] when `room` says no.
pub fn transcode_within(signal: Signal, json: &[u8], bytes_max: usize, room: Room<'_>) -> Result<Vec<u8>, JsonError> {
    let text = std::str::from_utf8(json).map_err(|error| not_utf8(json, error.valid_up_to()))?;
    let mut writer = Writer {
        out: Vec::new(),
        bytes_max,
        room,
        refused: None,
        depth: 0,
        path: Vec::new(),
    };
    let message = descriptor::request(signal);
    let mut parser = serde_json::Deserializer::from_str(text);
    // Protobuf is about half of its JSON; growing once or twice is cheaper than holding the whole cap.
    let read = writer
        .room((json.len() / 2).min(bytes_max))
        .and_then(|()| {
            let request = Object {
                message,
                null: Null::Refused,
                writer: &mut writer,
            };
            request.deserialize(&mut parser)
        })
        .and_then(|_present| parser.end());
    match read {
        Ok(()) => Ok(writer.out),
        Err(error) => Err(writer.describe(&error)),
    }
}

fn not_utf8(json: &[u8], offset: usize) -> JsonError {
    let before = &json[..offset];
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    JsonError {
        kind: JsonErrorKind::Malformed,
        line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
        column: offset - line_start + 1,
        path: String::new(),
        message: "invalid UTF-8".to_owned(),
    }
}

/// What may stand beyond the cap before it is noticed: a number, or the head of a field.
const SLACK: usize = 32;

/// The protobuf being written, and where in the JSON the parser stands.
struct Writer<'r> {
    out: Vec<u8>,
    bytes_max: usize,
    room: Room<'r>,
    /// Why there is no going on, other than what is wrong with the text.
    refused: Option<JsonErrorKind>,
    depth: usize,
    /// Steps from the top to the value being read. Steps are left standing when an error unwinds: that is its path.
    path: Vec<Step>,
}

enum Step {
    Field(&'static str),
    Index(usize),
}

impl Writer<'_> {
    fn describe(&self, error: &serde_json::Error) -> JsonError {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => {
                    path.push('.');
                    path.push_str(name);
                }
                Step::Index(index) => {
                    path.push_str(&format!("[{index}]"));
                }
            }
        }
        let mut message = error.to_string();
        // serde_json appends the position to its text; it has a field of its own here.
        if let Some(end) = message.rfind(" at line ") {
            message.truncate(end);
        }
        if message.len() > MESSAGE_MAX {
            let end = message.floor_char_boundary(MESSAGE_MAX);
            message.truncate(end);
            message.push_str("...");
        }
        JsonError {
            kind: self.refused.unwrap_or(JsonErrorKind::Malformed),
            line: error.line(),
            column: error.column(),
            path,
            message,
        }
    }

    fn open<E: de::Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(E::custom(format_args!("nested more than {DEPTH_MAX} deep")));
        }
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
    }

    fn check_size<E: de::Error>(&mut self) -> Result<(), E> {
        match self.out.len() > self.bytes_max {
            true => Err(self.too_large()),
            false => Ok(()),
        }
    }

    #[cold]
    fn too_large<E: de::Error>(&mut self) -> E {
        self.refused = Some(JsonErrorKind::TooLarge);
        E::custom(format_args!(
            "request is larger than {} bytes as protobuf",
            self.bytes_max
        ))
    }

    /// Makes sure that `more` bytes can be pushed without the output growing by itself.
    #[inline]
    fn room<E: de::Error>(&mut self, more: usize) -> Result<(), E> {
        match self.out.capacity() - self.out.len() < more {
            true => self.grow(more),
            false => Ok(()),
        }
    }

    #[cold]
    fn grow<E: de::Error>(&mut self, more: usize) -> Result<(), E> {
        let most = self.bytes_max.saturating_add(SLACK);
        if self.out.len() + more > most {
            return Err(self.too_large());
        }
        if !(self.room)(&mut self.out, more, most) {
            self.refused = Some(JsonErrorKind::NoRoom);
            return Err(E::custom("no memory for the rest of the request"));
        }
        Ok(())
    }

    fn tag(&mut self, number: u32, wire_type: u32) {
        push_varint(&mut self.out, u64::from(number << 3 | wire_type));
    }

    /// Starts a length-delimited field: its tag and one byte for the length. Returns what [`Writer::end`] needs.
    fn begin<E: de::Error>(&mut self, number: u32) -> Result<Span, E> {
        self.room(TAG_MAX + 1)?;
        let tag = self.out.len();
        self.tag(number, LENGTH_DELIMITED);
        self.out.push(0);
        Ok(Span {
            tag,
            content: self.out.len(),
        })
    }

    /// Writes the length of what was pushed since `begin`. Content of 128 bytes and more moves up for the longer length: a field is
    /// moved once per level around it, three times in practice and [`DEPTH_MAX`] times at most.
    fn end<E: de::Error>(&mut self, span: Span) -> Result<(), E> {
        let length = self.out.len() - span.content;
        if length < 0x80 {
            self.out[span.content - 1] = length as u8;
            return Ok(());
        }
        let mut varint = [0u8; VARINT_MAX];
        let width = put_varint(&mut varint, length as u64);
        self.room(width - 1)?;
        self.out.extend_from_slice(&varint[..width - 1]);
        self.out
            .copy_within(span.content..span.content + length, span.content + width - 1);
        self.out[span.content - 1..span.content - 1 + width].copy_from_slice(&varint[..width]);
        Ok(())
    }

    /// Takes back a field that turned out to be absent.
    fn undo(&mut self, span: Span) {
        self.out.truncate(span.tag);
    }

    /// Writes the value of a numeric field; `raw` is its JSON text. With `tagged` false the bare value, for packed lists.
    fn number<E: de::Error>(&mut self, field: &Field, raw: &str, tagged: bool) -> Result<(), E> {
        let (wire_type, wire) =
            wire_value(field.kind, raw).map_err(|why| E::custom(format_args!("{} {}", Excerpt(raw), why)))?;
        self.room(TAG_MAX + VARINT_MAX)?;
        if tagged {
            self.tag(field.number, wire_type);
        }
        match wire {
            Wire::Varint(value) => push_varint(&mut self.out, value),
            Wire::Four(bytes) => self.out.extend_from_slice(&bytes),
            Wire::Eight(bytes) => self.out.extend_from_slice(&bytes),
        }
        Ok(())
    }
}

/// Where a length-delimited field began.
struct Span {
    tag: usize,
    content: usize,
}

/// Longest tag of a field here, and longest varint.
const TAG_MAX: usize = 5;
const VARINT_MAX: usize = 10;
const _: () = assert!(TAG_MAX + VARINT_MAX <= SLACK);

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH_DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

enum Wire {
    Varint(u64),
    Four([u8; 4]),
    Eight([u8; 8]),
}

/// The wire type and value of a scalar that is not text. `raw` is its JSON text, of any type.
fn wire_value(kind: Kind, raw: &str) -> Result<(u32, Wire), Cow<'static, str>> {
    if let Kind::Bool = kind {
        return match raw {
            "true" => Ok((VARINT, Wire::Varint(1))),
            "false" => Ok((VARINT, Wire::Varint(0))),
            _ => Err("is not a boolean".into()),
        };
    }
    let quoted = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if let (Kind::Enum, Some(_)) = (kind, quoted) {
        return Err("is a name or a string; an enum is given by its number".into());
    }
    // A digit may be written as an escape; nobody does, but the mapping allows it.
    let text: Cow<'_, str> = match quoted {
        Some(inner) if inner.contains('\\') => {
            Cow::Owned(serde_json::from_str::<String>(raw).map_err(|_| "is not a number")?)
        }
        Some(inner) => Cow::Borrowed(inner),
        None => Cow::Borrowed(raw),
    };
    if let Kind::Double | Kind::PackedDouble = kind {
        let special = match text.as_ref() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        };
        let value = match special {
            Some(value) => value,
            None => number::double(&text).map_err(|trouble| format!("is {}", trouble.text()))?,
        };
        return Ok((FIXED64, Wire::Eight(value.to_le_bytes())));
    }
    let value = number::integer(&text).map_err(|trouble| format!("is {}", trouble.text()))?;
    let out_of_range = || Cow::from(format!("is out of range for {}", kind.range_name()));
    let wire = match kind {
        // An unknown number is kept: enums are open.
        Kind::Enum => i32::try_from(value)
            .map(|value| (VARINT, Wire::Varint(i64::from(value) as u64)))
            .map_err(drop),
        Kind::Uint32 => u32::try_from(value)
            .map(|value| (VARINT, Wire::Varint(value.into())))
            .map_err(drop),
        Kind::Sint32 => i32::try_from(value)
            .map(|value| (VARINT, Wire::Varint(((value << 1) ^ (value >> 31)) as u32 as u64)))
            .map_err(drop),
        Kind::Int64 => i64::try_from(value)
            .map(|value| (VARINT, Wire::Varint(value as u64)))
            .map_err(drop),
        Kind::PackedUint64 => u64::try_from(value)
            .map(|value| (VARINT, Wire::Varint(value)))
            .map_err(drop),
        Kind::Fixed32 => u32::try_from(value)
            .map(|value| (FIXED32, Wire::Four(value.to_le_bytes())))
            .map_err(drop),
        Kind::Fixed64 | Kind::PackedFixed64 => u64::try_from(value)
            .map(|value| (FIXED64, Wire::Eight(value.to_le_bytes())))
            .map_err(drop),
        Kind::Sfixed64 => i64::try_from(value)
            .map(|value| (FIXED64, Wire::Eight(value.to_le_bytes())))
            .map_err(drop),
        Kind::Text
        | Kind::Bytes
        | Kind::Id
        | Kind::Bool
        | Kind::Double
        | Kind::One(_)
        | Kind::Many(_)
        | Kind::Texts
        | Kind::PackedDouble => unreachable!("not an integer field"),
    };
    wire.map_err(|()| out_of_range())
}

impl Kind {
    fn range_name(self) -> &'static str {
        match self {
            Kind::Enum | Kind::Sint32 => "a signed 32-bit integer",
            Kind::Uint32 | Kind::Fixed32 => "an unsigned 32-bit integer",
            Kind::Int64 | Kind::Sfixed64 => "a signed 64-bit integer",
            _ => "an unsigned 64-bit integer",
        }
    }
}

/// A JSON value as it is quoted in an error message: its beginning.
struct Excerpt<'a>(&'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.floor_char_boundary(64);
        f.write_str(&self.0[..end])?;
        if end < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

pub(super) fn push_varint(out: &mut Vec<u8>, value: u64) {
    let mut bytes = [0u8; VARINT_MAX];
    let width = put_varint(&mut bytes, value);
    out.extend_from_slice(&bytes[..width]);
}

fn put_varint(bytes: &mut [u8; VARINT_MAX], mut value: u64) -> usize {
    let mut width = 0;
    while value >= 0x80 {
        bytes[width] = value as u8 | 0x80;
        value >>= 7;
        width += 1;
    }
    bytes[width] = value as u8;
    width + 1
}

/// Whether `null` may stand for the value.
#[derive(Clone, Copy, PartialEq)]
enum Null {
    Absent,
    Refused,
}

/// Reads an object as a message and writes its fields, unframed. Yields whether it was there.
struct Object<'w, 'r> {
    message: &'static Message,
    null: Null,
    writer: &'w mut Writer<'r>,
}

impl<'de> DeserializeSeed<'de> for Object<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", self.message.name)
    }

    fn visit_unit<E: de::Error>(self) -> Result<bool, E> {
        match self.null {
            Null::Absent => Ok(false),
            Null::Refused => Err(E::invalid_type(de::Unexpected::Unit, &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let writer = self.writer;
        writer.open()?;
        while let Some(key) = map.next_key_seed(Key(self.message))? {
            match key {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(field) => {
                    writer.path.push(Step::Field(field.json));
                    read_field(field, &mut map, writer)?;
                    writer.check_size()?;
                    writer.path.pop();
                }
            }
        }
        writer.close();
        Ok(true)
    }
}

fn read_field<'de, A: MapAccess<'de>>(
    field: &'static Field,
    map: &mut A,
    writer: &mut Writer<'_>,
) -> Result<(), A::Error> {
    match field.kind {
        Kind::One(message) => {
            let span = writer.begin(field.number)?;
            let present = map.next_value_seed(Object {
                message,
                null: Null::Absent,
                writer: &mut *writer,
            })?;
            match present {
                true => writer.end(span)?,
                false => writer.undo(span),
            }
        }
        Kind::Many(_) | Kind::Texts | Kind::PackedFixed64 | Kind::PackedUint64 | Kind::PackedDouble => {
            map.next_value_seed(List { field, writer })?;
        }
        Kind::Text | Kind::Bytes | Kind::Id => {
            map.next_value_seed(Text {
                field,
                null: Null::Absent,
                writer,
            })?;
        }
        _ => {
            let raw: &RawValue = map.next_value()?;
            if raw.get() != "null" {
                writer.number(field, raw.get(), true)?;
            }
        }
    }
    Ok(())
}

/// Reads a key of a message: its field, or `None` for one to be ignored.
struct Key(&'static Message);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a key of {}", self.0.name)
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(key))
    }
}

/// Reads a list and writes it as a repeated field.
struct List<'w, 'r> {
    field: &'static Field,
    writer: &'w mut Writer<'r>,
}

impl<'de> DeserializeSeed<'de> for List<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let List { field, writer } = self;
        writer.open()?;
        // A packed list is one field around all elements, the others are a field per element.
        let packed = match field.kind {
            Kind::Many(_) | Kind::Texts => None,
            _ => Some(writer.begin(field.number)?),
        };
        let mut index = 0;
        loop {
            writer.path.push(Step::Index(index));
            let more = match field.kind {
                Kind::Many(message) => {
                    let span = writer.begin(field.number)?;
                    let element = Object {
                        message,
                        null: Null::Refused,
                        writer: &mut *writer,
                    };
                    let more = list.next_element_seed(element)?.is_some();
                    match more {
                        true => writer.end(span)?,
                        false => writer.undo(span),
                    }
                    more
                }
                Kind::Texts => {
                    let element = Text {
                        field,
                        null: Null::Refused,
                        writer: &mut *writer,
                    };
                    list.next_element_seed(element)?.is_some()
                }
                _ => match list.next_element::<&RawValue>()? {
                    Some(raw) => {
                        writer.number(field, raw.get(), false)?;
                        true
                    }
                    None => false,
                },
            };
            writer.check_size()?;
            writer.path.pop();
            if !more {
                break;
            }
            index += 1;
        }
        match packed {
            Some(span) if index == 0 => writer.undo(span),
            Some(span) => writer.end(span)?,
            None => {}
        }
        writer.close();
        Ok(())
    }
}

/// Reads a string and writes it as the text or the bytes it stands for.
struct Text<'w, 'r> {
    field: &'static Field,
    null: Null,
    writer: &'w mut Writer<'r>,
}

impl<'de> DeserializeSeed<'de> for Text<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.field.kind {
            Kind::Bytes => "a string of base64",
            Kind::Id => "a string of hex digits",
            _ => "a string",
        })
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        match self.null {
            Null::Absent => Ok(()),
            Null::Refused => Err(E::invalid_type(de::Unexpected::Unit, &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let writer = self.writer;
        let span = writer.begin(self.field.number)?;
        writer.room(match self.field.kind {
            Kind::Id => text.len() / 2,
            Kind::Bytes => text.len() / 4 * 3 + 2,
            _ => text.len(),
        })?;
        let good = match self.field.kind {
            Kind::Id => bytes::push_hex(text, &mut writer.out),
            Kind::Bytes => bytes::push_base64(text, &mut writer.out),
            _ => {
                writer.out.extend_from_slice(text.as_bytes());
                true
            }
        };
        if !good {
            let wanted = if let Kind::Id = self.field.kind {
                "hex digits in pairs"
            } else {
                "base64"
            };
            return Err(E::custom(format_args!("\"{}\" is not {wanted}", Excerpt(text))));
        }
        writer.end(span)
    }
}

#[cfg(test)]
mod tests;
