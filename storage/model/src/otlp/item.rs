//! Spans and log records as borrowed heads: the fields that stand once. What stands many times goes to a visitor.

use super::value;
use super::wire::{self, Reader, Wire};

/// Messages around the AnyValue of a span's, record's attribute: group, block, item, pair, value.
pub const ITEM_VALUE_LEVEL: usize = 5;
/// Around the AnyValue of an event's or link's attribute.
pub const NESTED_VALUE_LEVEL: usize = 6;
/// Around the body of a log record.
pub const BODY_LEVEL: usize = 4;

/// Repeated parts of an item, each as its raw message.
pub trait Parts<'a> {
    /// A KeyValue of the item.
    fn attribute(&mut self, pair: &'a [u8]) -> Wire<()>;
    /// A span event, or the exemplar of a data point.
    fn event(&mut self, event: &'a [u8]) -> Wire<()>;
    /// A span link.
    fn link(&mut self, link: &'a [u8]) -> Wire<()>;
}

/// The fields of a span that stand once. Ids and strings are as sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpanHead<'a> {
    /// Trace id, of any length.
    pub trace_id: &'a [u8],
    /// Span id, of any length.
    pub span_id: &'a [u8],
    /// Parent span id, empty for a root.
    pub parent_span_id: &'a [u8],
    /// W3C tracestate.
    pub trace_state: &'a [u8],
    /// W3C flags and the remote bits.
    pub flags: u32,
    /// Name.
    pub name: &'a [u8],
    /// Kind.
    pub kind: i32,
    /// Start, ns since 1970.
    pub start: u64,
    /// End, ns since 1970.
    pub end: u64,
    /// Status code.
    pub status_code: i32,
    /// Status message.
    pub status_message: &'a [u8],
    /// Attributes dropped by the SDK.
    pub dropped_attributes: u32,
    /// Events dropped by the SDK.
    pub dropped_events: u32,
    /// Links dropped by the SDK.
    pub dropped_links: u32,
}

const SPAN_KNOWN: u32 = wire::known(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
const SPAN_TRACE_ID: u32 = wire::len(1);
const SPAN_SPAN_ID: u32 = wire::len(2);
const SPAN_TRACE_STATE: u32 = wire::len(3);
const SPAN_PARENT: u32 = wire::len(4);
const SPAN_NAME: u32 = wire::len(5);
const SPAN_KIND: u32 = wire::varint(6);
const SPAN_START: u32 = wire::fixed64(7);
const SPAN_END: u32 = wire::fixed64(8);
const SPAN_ATTRIBUTE: u32 = wire::len(9);
const SPAN_DROPPED_ATTRIBUTES: u32 = wire::varint(10);
const SPAN_EVENT: u32 = wire::len(11);
const SPAN_DROPPED_EVENTS: u32 = wire::varint(12);
const SPAN_LINK: u32 = wire::len(13);
const SPAN_DROPPED_LINKS: u32 = wire::varint(14);
const SPAN_STATUS: u32 = wire::len(15);
const SPAN_FLAGS: u32 = wire::fixed32(16);

/// Reads a span.
#[inline]
pub fn span<'a>(message: &'a [u8], parts: &mut impl Parts<'a>) -> Wire<SpanHead<'a>> {
    let mut head = SpanHead::default();
    let mut reader = Reader::new(message);
    // Nearly every span begins so: both ids, of the lengths that they should have.
    if let Some((ids, rest)) = message.split_first_chunk::<28>()
        && let [0x0a, 16, trace_id @ .., 0x12, 8, _, _, _, _, _, _, _, _] = ids
    {
        (head.trace_id, head.span_id) = (trace_id, &ids[20..]);
        reader = Reader::new(rest);
    }
    while let Some(tag) = reader.tag()? {
        match tag {
            SPAN_ATTRIBUTE => reader.each(SPAN_ATTRIBUTE, |pair| parts.attribute(pair))?,
            SPAN_TRACE_ID => head.trace_id = reader.bytes()?,
            SPAN_SPAN_ID => head.span_id = reader.bytes()?,
            SPAN_TRACE_STATE => head.trace_state = reader.bytes()?,
            SPAN_PARENT => head.parent_span_id = reader.bytes()?,
            SPAN_NAME => head.name = reader.bytes()?,
            SPAN_KIND => head.kind = reader.varint()? as i32,
            SPAN_START => head.start = reader.fixed64()?,
            SPAN_END => head.end = reader.fixed64()?,
            SPAN_DROPPED_ATTRIBUTES => head.dropped_attributes = reader.uint32()?,
            SPAN_EVENT => parts.event(reader.bytes()?)?,
            SPAN_DROPPED_EVENTS => head.dropped_events = reader.uint32()?,
            SPAN_LINK => parts.link(reader.bytes()?)?,
            SPAN_DROPPED_LINKS => head.dropped_links = reader.uint32()?,
            SPAN_STATUS => status(reader.bytes()?, &mut head)?,
            SPAN_FLAGS => head.flags = reader.fixed32()?,
            _ => reader.other(tag, SPAN_KNOWN)?,
        }
    }
    Ok(head)
}

#[inline]
fn status<'a>(message: &'a [u8], head: &mut SpanHead<'a>) -> Wire<()> {
    const KNOWN: u32 = wire::known(&[2, 3]);
    const MESSAGE: u32 = wire::len(2);
    const CODE: u32 = wire::varint(3);
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            CODE => head.status_code = reader.varint()? as i32,
            MESSAGE => head.status_message = reader.bytes()?,
            _ => reader.other(tag, KNOWN)?,
        }
    }
    Ok(())
}

/// The fields of a span event that stand once.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventHead<'a> {
    /// Time, ns since 1970.
    pub time: u64,
    /// Name.
    pub name: &'a [u8],
    /// Attributes dropped by the SDK.
    pub dropped_attributes: u32,
}

/// Reads a span event.
pub fn event<'a>(message: &'a [u8], mut attribute: impl FnMut(&'a [u8]) -> Wire<()>) -> Wire<EventHead<'a>> {
    const KNOWN: u32 = wire::known(&[1, 2, 3, 4]);
    const TIME: u32 = wire::fixed64(1);
    const NAME: u32 = wire::len(2);
    const ATTRIBUTE: u32 = wire::len(3);
    const DROPPED: u32 = wire::varint(4);
    let mut head = EventHead::default();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            TIME => head.time = reader.fixed64()?,
            NAME => head.name = reader.bytes()?,
            ATTRIBUTE => reader.each(ATTRIBUTE, &mut attribute)?,
            DROPPED => head.dropped_attributes = reader.uint32()?,
            _ => reader.other(tag, KNOWN)?,
        }
    }
    Ok(head)
}

/// The fields of a span link that stand once.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkHead<'a> {
    /// Trace id as sent, of any length.
    pub trace_id: &'a [u8],
    /// Span id as sent, of any length.
    pub span_id: &'a [u8],
    /// W3C tracestate.
    pub trace_state: &'a [u8],
    /// W3C flags and the remote bits.
    pub flags: u32,
    /// Attributes dropped by the SDK.
    pub dropped_attributes: u32,
}

/// Reads a span link.
pub fn link<'a>(message: &'a [u8], mut attribute: impl FnMut(&'a [u8]) -> Wire<()>) -> Wire<LinkHead<'a>> {
    const KNOWN: u32 = wire::known(&[1, 2, 3, 4, 5, 6]);
    const TRACE_ID: u32 = wire::len(1);
    const SPAN_ID: u32 = wire::len(2);
    const TRACE_STATE: u32 = wire::len(3);
    const ATTRIBUTE: u32 = wire::len(4);
    const DROPPED: u32 = wire::varint(5);
    const FLAGS: u32 = wire::fixed32(6);
    let mut head = LinkHead::default();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            TRACE_ID => head.trace_id = reader.bytes()?,
            SPAN_ID => head.span_id = reader.bytes()?,
            TRACE_STATE => head.trace_state = reader.bytes()?,
            ATTRIBUTE => reader.each(ATTRIBUTE, &mut attribute)?,
            DROPPED => head.dropped_attributes = reader.uint32()?,
            FLAGS => head.flags = reader.fixed32()?,
            _ => reader.other(tag, KNOWN)?,
        }
    }
    Ok(head)
}

/// The fields of a log record that stand once.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogHead<'a> {
    /// Time, ns since 1970; 0 if unknown.
    pub time: u64,
    /// When it was observed, ns since 1970; 0 if unknown.
    pub observed: u64,
    /// Severity number.
    pub severity_number: i32,
    /// Severity text.
    pub severity_text: &'a [u8],
    /// The body's AnyValue, if there is one.
    pub body: Option<&'a [u8]>,
    /// Attributes dropped by the SDK.
    pub dropped_attributes: u32,
    /// W3C flags.
    pub flags: u32,
    /// Trace id, of any length.
    pub trace_id: &'a [u8],
    /// Span id, of any length.
    pub span_id: &'a [u8],
    /// Event name.
    pub event_name: &'a [u8],
}

/// Reads a log record.
#[inline]
pub fn log<'a>(message: &'a [u8], parts: &mut impl Parts<'a>) -> Wire<LogHead<'a>> {
    const KNOWN: u32 = wire::known(&[1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12]);
    const TIME: u32 = wire::fixed64(1);
    const SEVERITY_NUMBER: u32 = wire::varint(2);
    const SEVERITY_TEXT: u32 = wire::len(3);
    const BODY: u32 = wire::len(5);
    const ATTRIBUTE: u32 = wire::len(6);
    const DROPPED: u32 = wire::varint(7);
    const FLAGS: u32 = wire::fixed32(8);
    const TRACE_ID: u32 = wire::len(9);
    const SPAN_ID: u32 = wire::len(10);
    const OBSERVED: u32 = wire::fixed64(11);
    const EVENT_NAME: u32 = wire::len(12);
    let mut head = LogHead::default();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            TIME => head.time = reader.fixed64()?,
            SEVERITY_NUMBER => head.severity_number = reader.varint()? as i32,
            SEVERITY_TEXT => head.severity_text = reader.bytes()?,
            BODY => {
                // As in a KeyValue: of two the last that has a value.
                let raw = reader.bytes()?;
                if head.body.is_none() || value::Any::read(raw)? != value::Any::Empty {
                    head.body = Some(raw);
                }
            }
            ATTRIBUTE => reader.each(ATTRIBUTE, |pair| parts.attribute(pair))?,
            DROPPED => head.dropped_attributes = reader.uint32()?,
            FLAGS => head.flags = reader.fixed32()?,
            TRACE_ID => head.trace_id = reader.bytes()?,
            SPAN_ID => head.span_id = reader.bytes()?,
            OBSERVED => head.observed = reader.fixed64()?,
            EVENT_NAME => head.event_name = reader.bytes()?,
            _ => reader.other(tag, KNOWN)?,
        }
    }
    Ok(head)
}
