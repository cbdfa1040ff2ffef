//! Per-item limits. A request as a whole is bounded before it gets here, by the intake.

/// What an item may be at most. Beyond a limit an item is rejected or cut, as each field says; both are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// Protobuf bytes of a span, log record, data point, resource or scope. Beyond: rejected `too_large`.
    pub item_bytes: usize,
    /// AnyValue levels, a scalar attribute being 1. Beyond: rejected `too_deep`.
    pub depth: usize,
    /// Attributes of a span, log record or data point. Beyond: cut, `dropped_attrs` moves.
    pub attributes: usize,
    /// Attributes of a resource or scope, which every one of its rows repeats. Beyond: cut.
    pub origin_attributes: usize,
    /// Attributes of an event, link or exemplar. Beyond: cut.
    pub nested_attributes: usize,
    /// Bytes of an attribute value. A string is cut at a character, any other value is dropped.
    pub value_bytes: usize,
    /// Bytes of a string that is no attribute value: name, status message, tracestate, unit. Beyond: cut.
    pub text_bytes: usize,
    /// Bytes of a log body. A string is cut, any other body is dropped.
    pub body_bytes: usize,
    /// Bytes of an attribute key. Beyond: cut.
    pub key_bytes: usize,
    /// Events of a span. Beyond: cut, `dropped_events` moves.
    pub events: usize,
    /// Links of a span. Beyond: cut, `dropped_links` moves.
    pub links: usize,
    /// Exemplars of a data point. Beyond: cut.
    pub exemplars: usize,
    /// How far ahead of arrival a time may lie, ns.
    pub future_ns: u64,
    /// How far behind arrival a time may lie, ns; the retention of the rows.
    pub past_ns: u64,
}

impl Default for Caps {
    fn default() -> Caps {
        Caps {
            item_bytes: 1 << 20,
            depth: 16,
            attributes: 512,
            origin_attributes: 128,
            nested_attributes: 128,
            value_bytes: 64 << 10,
            text_bytes: 64 << 10,
            body_bytes: 1 << 20,
            key_bytes: 256,
            events: 128,
            links: 128,
            exemplars: 128,
            future_ns: 10 * 60 * 1_000_000_000,
            past_ns: 30 * 24 * 3600 * 1_000_000_000,
        }
    }
}
