//! Protobuf as a tree of fields, slow and plain: what the tests bend requests with, and what they make prost's input from.
//!
//! prost refuses a request with a string that is not UTF-8, Tailwater stores it with U+FFFD. [`plain`] rewrites such strings,
//! so that prost's tree can be the truth for every request.

use tailwater_model::signal::Signal;

/// A message type: its fields by number.
pub struct Type {
    pub name: &'static str,
    pub fields: &'static [(u32, Shape)],
}

/// What stands in a field, as far as bending needs to know. Scalars that are not packed are not listed.
#[derive(Clone, Copy)]
pub enum Shape {
    Str,
    One(&'static Type),
    Many(&'static Type),
    PackedFixed64,
    PackedVarint,
}

use Shape::*;

macro_rules! types {
    ($($name:ident = [$(($number:literal, $shape:expr)),* $(,)?];)*) => {
        $(static $name: Type = Type { name: stringify!($name), fields: &[$(($number, $shape)),*] };)*
    };
}

types! {
    TRACES = [(1, Many(&RESOURCE_SPANS))];
    METRICS = [(1, Many(&RESOURCE_METRICS))];
    LOGS = [(1, Many(&RESOURCE_LOGS))];
    RESOURCE = [(1, Many(&KEY_VALUE)), (3, Many(&ENTITY_REF))];
    ENTITY_REF = [(1, Str), (2, Str), (3, Str), (4, Str)];
    SCOPE = [(1, Str), (2, Str), (3, Many(&KEY_VALUE))];
    KEY_VALUE = [(1, Str), (2, One(&ANY_VALUE))];
    ANY_VALUE = [(1, Str), (5, One(&ARRAY_VALUE)), (6, One(&KV_LIST))];
    ARRAY_VALUE = [(1, Many(&ANY_VALUE))];
    KV_LIST = [(1, Many(&KEY_VALUE))];
    RESOURCE_SPANS = [(1, One(&RESOURCE)), (2, Many(&SCOPE_SPANS)), (3, Str)];
    SCOPE_SPANS = [(1, One(&SCOPE)), (2, Many(&SPAN)), (3, Str)];
    SPAN = [(3, Str), (5, Str), (9, Many(&KEY_VALUE)), (11, Many(&EVENT)), (13, Many(&LINK)), (15, One(&STATUS))];
    EVENT = [(2, Str), (3, Many(&KEY_VALUE))];
    LINK = [(3, Str), (4, Many(&KEY_VALUE))];
    STATUS = [(2, Str)];
    RESOURCE_LOGS = [(1, One(&RESOURCE)), (2, Many(&SCOPE_LOGS)), (3, Str)];
    SCOPE_LOGS = [(1, One(&SCOPE)), (2, Many(&LOG_RECORD)), (3, Str)];
    LOG_RECORD = [(3, Str), (5, One(&ANY_VALUE)), (6, Many(&KEY_VALUE)), (12, Str)];
    RESOURCE_METRICS = [(1, One(&RESOURCE)), (2, Many(&SCOPE_METRICS)), (3, Str)];
    SCOPE_METRICS = [(1, One(&SCOPE)), (2, Many(&METRIC)), (3, Str)];
    METRIC = [
        (1, Str), (2, Str), (3, Str), (5, One(&NUMBERS)), (7, One(&NUMBERS)), (9, One(&HISTOGRAMS)),
        (10, One(&EXPONENTIALS)), (11, One(&SUMMARIES)), (12, Many(&KEY_VALUE)),
    ];
    NUMBERS = [(1, Many(&NUMBER_POINT))];
    HISTOGRAMS = [(1, Many(&HISTOGRAM_POINT))];
    EXPONENTIALS = [(1, Many(&EXPONENTIAL_POINT))];
    SUMMARIES = [(1, Many(&SUMMARY_POINT))];
    NUMBER_POINT = [(5, Many(&EXEMPLAR)), (7, Many(&KEY_VALUE))];
    HISTOGRAM_POINT = [(6, PackedFixed64), (7, PackedFixed64), (8, Many(&EXEMPLAR)), (9, Many(&KEY_VALUE))];
    EXPONENTIAL_POINT = [(1, Many(&KEY_VALUE)), (8, One(&BUCKETS)), (9, One(&BUCKETS)), (11, Many(&EXEMPLAR))];
    BUCKETS = [(2, PackedVarint)];
    SUMMARY_POINT = [(6, Many(&QUANTILE)), (7, Many(&KEY_VALUE))];
    QUANTILE = [];
    EXEMPLAR = [(7, Many(&KEY_VALUE))];
}

/// Type of a signal's export request.
pub fn request(signal: Signal) -> &'static Type {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    }
}

/// One field as it stood.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub number: u32,
    pub content: Content,
}

#[derive(Debug, Clone)]
pub enum Content {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Message(&'static Type, Vec<Field>),
    /// A group, its tags included.
    Group(Vec<u8>),
}

impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        let bytes = |content: &Content| {
            let mut out = Vec::new();
            put(
                &Field {
                    number: 1,
                    content: content.clone(),
                },
                &mut out,
            );
            out
        };
        bytes(self) == bytes(other)
    }
}

impl std::fmt::Debug for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Type {
    pub fn shape(&self, number: u32) -> Option<Shape> {
        self.fields
            .iter()
            .find(|(known, _)| *known == number)
            .map(|(_, shape)| *shape)
    }

    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

/// Reads a message. `None` when it is malformed; a message inside that is malformed, or too deep, stays bytes.
pub fn parse(ty: &'static Type, bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut rest = bytes;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let before = rest;
        let tag = u32::try_from(varint(&mut rest)?).ok()?;
        let number = tag >> 3;
        if number == 0 {
            return None;
        }
        let content = match tag & 7 {
            0 => Content::Varint(varint(&mut rest)?),
            1 => Content::Fixed64(take(&mut rest)?),
            5 => Content::Fixed32(take(&mut rest)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let (content, after) = rest.split_at_checked(length)?;
                rest = after;
                match ty.shape(number) {
                    Some(One(inner) | Many(inner)) if depth < 120 => match parse(inner, content, depth + 1) {
                        Some(fields) => Content::Message(inner, fields),
                        None => Content::Bytes(content.to_vec()),
                    },
                    _ => Content::Bytes(content.to_vec()),
                }
            }
            3 => {
                group(&mut rest, number, 0)?;
                Content::Group(before[..before.len() - rest.len()].to_vec())
            }
            _ => return None,
        };
        fields.push(Field { number, content });
    }
    Some(fields)
}

fn group(rest: &mut &[u8], number: u32, depth: usize) -> Option<()> {
    if depth > 110 {
        return None;
    }
    loop {
        let tag = u32::try_from(varint(rest)?).ok()?;
        match tag & 7 {
            0 => drop(varint(rest)?),
            1 => drop(take::<8>(rest)?),
            5 => drop(take::<4>(rest)?),
            2 => {
                let length = usize::try_from(varint(rest)?).ok()?;
                *rest = rest.split_at_checked(length)?.1;
            }
            3 => group(rest, tag >> 3, depth + 1)?,
            4 => return (tag >> 3 == number).then_some(()),
            _ => return None,
        }
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for place in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        if place == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*bytes)
}

/// Writes a message.
pub fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        put(field, &mut out);
    }
    out
}

fn put(field: &Field, out: &mut Vec<u8>) {
    let tag = |wire_type: u32| u64::from(field.number << 3 | wire_type);
    match &field.content {
        Content::Varint(value) => {
            put_varint(tag(0), out);
            put_varint(*value, out);
        }
        Content::Fixed64(bytes) => {
            put_varint(tag(1), out);
            out.extend_from_slice(bytes);
        }
        Content::Fixed32(bytes) => {
            put_varint(tag(5), out);
            out.extend_from_slice(bytes);
        }
        Content::Bytes(bytes) => {
            put_varint(tag(2), out);
            put_varint(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
        Content::Message(_, fields) => {
            let bytes = encode(fields);
            put_varint(tag(2), out);
            put_varint(bytes.len() as u64, out);
            out.extend_from_slice(&bytes);
        }
        Content::Group(bytes) => out.extend_from_slice(bytes),
    }
}

pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What prost is given in place of a request.
pub struct Plain {
    /// The request with U+FFFD for what is not UTF-8.
    pub bytes: Vec<u8>,
    /// Strings that had to be changed.
    pub sanitized: u64,
    /// A value stands there twice, once as a list: protobuf merges lists, Tailwater takes the last value, as `otlp::value` says.
    /// Such a request is only checked not to panic.
    pub ambiguous: bool,
    /// A metric has data of two kinds. The last counts; what is wrong inside the others prost sees and Tailwater does not.
    pub shadowed: bool,
}

/// Makes a request readable for prost.
pub fn plain(signal: Signal, bytes: &[u8]) -> Plain {
    let mut plain = Plain {
        bytes: Vec::new(),
        sanitized: 0,
        ambiguous: false,
        shadowed: false,
    };
    match parse(request(signal), bytes, 0) {
        None => plain.bytes = bytes.to_vec(),
        Some(mut fields) => {
            clean(request(signal), &mut fields, &mut plain);
            plain.bytes = encode(&fields);
        }
    }
    plain
}

fn clean(ty: &'static Type, fields: &mut [Field], plain: &mut Plain) {
    let times = |number: u32| fields.iter().filter(|field| field.number == number).count();
    let of_oneof = |numbers: &[u32]| fields.iter().filter(|field| numbers.contains(&field.number)).count();
    plain.ambiguous |= (ty.is("ANY_VALUE") && of_oneof(&[1, 2, 3, 4, 5, 6, 7, 8]) > 1 && of_oneof(&[5, 6]) > 0)
        || (ty.is("KEY_VALUE") && times(2) > 1 && fields.iter().any(holds_list))
        || (ty.is("LOG_RECORD") && times(5) > 1 && fields.iter().any(holds_list));
    plain.shadowed |= ty.is("METRIC") && [5, 7, 9, 10, 11].into_iter().filter(|kind| times(*kind) > 0).count() > 1;
    for field in fields {
        match (&mut field.content, ty.shape(field.number)) {
            (Content::Bytes(bytes), Some(Str)) if std::str::from_utf8(bytes).is_err() => {
                plain.sanitized += 1;
                *bytes = String::from_utf8_lossy(bytes).into_owned().into_bytes();
            }
            (Content::Message(inner, fields), _) => clean(inner, fields, plain),
            _ => {}
        }
    }
}

fn holds_list(field: &Field) -> bool {
    match &field.content {
        Content::Message(ty, fields) if ty.is("ANY_VALUE") => fields.iter().any(|field| [5, 6].contains(&field.number)),
        _ => false,
    }
}

/// A span by itself, readable for prost.
pub fn plain_span(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Plain {
        bytes: Vec::new(),
        sanitized: 0,
        ambiguous: false,
        shadowed: false,
    };
    let mut fields = parse(&SPAN, bytes, 0).expect("a span");
    clean(&SPAN, &mut fields, &mut plain);
    encode(&fields)
}
