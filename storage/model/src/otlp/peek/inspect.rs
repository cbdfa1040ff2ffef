//! What a request holds and which of its items are rejected, before anything is kept of it.
//!
//! Guarantees: accepts exactly what `columns` can decode, and both reject the same items, because both ask `judge`. Leaves out: contents. Nothing is
//! cut or replaced here, only counted.

use crate::otlp::caps::Caps;
use crate::otlp::envelope::{self, Origin, Visit};
use crate::otlp::item::{self, BODY_LEVEL, ITEM_VALUE_LEVEL, NESTED_VALUE_LEVEL, Parts};
use crate::otlp::point::{self, EXEMPLAR_VALUE_LEVEL, POINT_VALUE_LEVEL, Point};
use crate::otlp::reject::Reason;
use crate::otlp::text::Tally;
use crate::otlp::value::{self, Any, KeyValue};
use crate::otlp::wire::{Malformed, Wire};
use crate::otlp::{judge, wire};
use crate::signal::Signal;

/// What a well-formed request holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspected {
    /// Spans, data points or log records, rejected ones included.
    pub items: u64,
    /// Ordinals (from 0, in wire order) of rejected items with the reason of each, ascending.
    pub rejected: Vec<(u32, Reason)>,
    /// Protobuf bytes of the rejected items.
    pub rejected_bytes: u64,
    /// What the rows of the items that are not rejected take as columns, bytes: about, and rather more. Small items grow most, and attributes of
    /// a resource or scope stand in every row.
    pub row_bytes: u64,
    /// Strings that are not UTF-8, in all items.
    pub sanitized: u64,
    /// Strings beyond a cap, and attributes, events, links or exemplars in excess of one, in all items.
    pub truncated: u64,
}

/// Columns that every row has, whatever is in it.
const ROW_BYTES: u64 = 256;
/// A byte of an item as columns: texts stand as they are, small numbers and structs take more.
const COLUMN_BYTES_PER_BYTE: u64 = 2;
/// An attribute of a resource or scope in a row: its places in two dictionaries.
const PAIR_BYTES: u64 = 8;

impl Inspected {
    /// Items that are not rejected.
    pub fn accepted(&self) -> u64 {
        self.items - self.rejected.len() as u64
    }

    /// Ordinals of the rejected items, as `columns` takes them.
    pub fn ordinals(&self) -> Vec<u32> {
        self.rejected.iter().map(|(ordinal, _)| *ordinal).collect()
    }
}

/// Walks a request once: checks its wire form, counts its items, decides which are rejected.
///
/// `arrival_ns` is the wall clock, ns since 1970.
///
/// # Errors
/// [`Malformed`] when the bytes are no such request; then nothing of it can be accepted.
pub fn inspect(signal: Signal, payload: &[u8], arrival_ns: u64, caps: &Caps) -> Result<Inspected, Malformed> {
    let mut inspector = Inspector {
        signal,
        arrival_ns,
        caps,
        found: Inspected::default(),
        tally: Tally::default(),
        resource: None,
        scope: None,
        pairs: [0; 2],
        mark: Mark::default(),
        point: Point::default(),
    };
    envelope::walk(payload, &mut inspector)?;
    let mut found = inspector.found;
    (found.sanitized, found.truncated) = (inspector.tally.sanitized, inspector.tally.truncated);
    Ok(found)
}

/// Where a block began.
#[derive(Default)]
struct Mark {
    items: u64,
    rejected: usize,
    rejected_bytes: u64,
    row_bytes: u64,
    tally: Tally,
}

struct Inspector<'c> {
    signal: Signal,
    arrival_ns: u64,
    caps: &'c Caps,
    found: Inspected,
    tally: Tally,
    resource: Option<Reason>,
    scope: Option<Reason>,
    /// Attributes of the resource and of the scope that rows have.
    pairs: [u64; 2],
    mark: Mark,
    point: Point,
}

impl Inspector<'_> {
    #[inline]
    fn count(&mut self, own: Option<Reason>, bytes: usize) {
        if let Some(reason) = self.resource.or(self.scope).or(own) {
            // A request is bounded to far less than 2^32 bytes by the intake, and an item takes two.
            self.found.rejected.push((self.found.items as u32, reason));
            self.found.rejected_bytes += bytes as u64;
        } else {
            let pairs = self.pairs[0] + self.pairs[1];
            self.found.row_bytes += ROW_BYTES + COLUMN_BYTES_PER_BYTE * bytes as u64 + PAIR_BYTES * pairs;
        }
        self.found.items += 1;
    }

    fn text(&mut self, raw: &[u8]) {
        check_text(raw, self.caps.text_bytes, &mut self.tally);
    }

    fn parts(&self) -> PartChecks<'_> {
        PartChecks {
            caps: self.caps,
            signal: self.signal,
            tally: Tally::default(),
            depth: 1,
            attributes: 0,
            events: 0,
            links: 0,
        }
    }
}

fn check_text(raw: &[u8], cap: usize, tally: &mut Tally) {
    tally.sanitized += u64::from(!raw.is_ascii() && std::str::from_utf8(raw).is_err());
    tally.truncated += u64::from(raw.len() > cap);
}

impl<'a> Visit<'a> for Inspector<'_> {
    fn resource(&mut self, resource: Origin<'a>) -> Wire<()> {
        let (mut depth, mut attributes) = (1, 0);
        let (caps, tally) = (self.caps, &mut self.tally);
        resource.resource_attributes(|pair| {
            depth = depth.max(envelope::resource_depth(&pair)?);
            attributes += 1;
            check_pair(&pair, caps, tally);
            Ok(())
        })?;
        tally.truncated += excess(attributes, caps.origin_attributes);
        self.pairs = [attributes.min(caps.origin_attributes) as u64, 0];
        self.text(resource.schema_url);
        self.resource = judge::origin(resource.size(), depth, self.caps);
        Ok(())
    }

    fn scope(&mut self, scope: Origin<'a>) -> Wire<()> {
        let found = &self.found;
        self.mark = Mark {
            items: found.items,
            rejected: found.rejected.len(),
            rejected_bytes: found.rejected_bytes,
            row_bytes: found.row_bytes,
            tally: self.tally,
        };
        let (mut depth, mut attributes) = (1, 0);
        let (caps, tally) = (self.caps, &mut self.tally);
        let (name, version) = scope.scope_attributes(|pair| {
            depth = depth.max(envelope::scope_depth(&pair)?);
            attributes += 1;
            check_pair(&pair, caps, tally);
            Ok(())
        })?;
        tally.truncated += excess(attributes, caps.origin_attributes);
        self.pairs[1] = attributes.min(caps.origin_attributes) as u64;
        for text in [name, version, scope.schema_url] {
            self.text(text);
        }
        self.scope = judge::origin(scope.size(), depth, self.caps);
        Ok(())
    }

    fn rescope(&mut self, scope: Origin<'a>) -> Wire<()> {
        self.text(scope.schema_url);
        Ok(())
    }

    fn rewind(&mut self) {
        self.found.items = self.mark.items;
        self.found.rejected.truncate(self.mark.rejected);
        self.found.rejected_bytes = self.mark.rejected_bytes;
        self.found.row_bytes = self.mark.row_bytes;
        self.tally = self.mark.tally;
    }

    #[inline]
    fn entry(&mut self, entry: &'a [u8]) -> Wire<()> {
        match self.signal {
            Signal::Traces => {
                let mut parts = self.parts();
                let head = item::span(entry, &mut parts)?;
                let (depth, tally) = parts.end();
                self.tally.add(tally);
                for text in [head.name, head.trace_state, head.status_message] {
                    self.text(text);
                }
                self.count(judge::span(&head, entry.len(), depth, self.caps), entry.len());
            }
            Signal::Logs => {
                let mut parts = self.parts();
                let head = item::log(entry, &mut parts)?;
                let (mut depth, tally) = parts.end();
                self.tally.add(tally);
                if let Some(raw) = head.body {
                    let body = Any::read(raw)?;
                    match body {
                        Any::Str(text) => check_text(text, self.caps.body_bytes, &mut self.tally),
                        Any::Array(_) | Any::Kvlist(_) => depth = depth.max(value::depth(raw, BODY_LEVEL)?),
                        _ => {}
                    }
                    self.tally.truncated += u64::from(!matches!(body, Any::Str(_)) && raw.len() > self.caps.body_bytes);
                }
                for text in [head.severity_text, head.event_name] {
                    self.text(text);
                }
                self.count(judge::log(&head, entry.len(), depth, self.caps), entry.len());
            }
            Signal::Metrics => {
                let head = point::metric(entry)?;
                for text in [head.name, head.unit, head.description] {
                    self.text(text);
                }
                let mut numbers = std::mem::take(&mut self.point);
                head.points(|shape, message| {
                    let mut parts = self.parts();
                    numbers.read(shape, message, &mut parts)?;
                    let (depth, tally) = parts.end();
                    self.tally.add(tally);
                    self.count(
                        judge::point(shape, &numbers, message.len(), depth, self.arrival_ns, self.caps),
                        message.len(),
                    );
                    Ok(())
                })?;
                self.point = numbers;
            }
        }
        Ok(())
    }
}

fn excess(count: usize, cap: usize) -> u64 {
    count.saturating_sub(cap) as u64
}

fn check_pair(pair: &KeyValue<'_>, caps: &Caps, tally: &mut Tally) {
    check_text(pair.key, caps.key_bytes, tally);
    match pair.value {
        Any::Str(text) => check_text(text, caps.value_bytes, tally),
        Any::Bytes(_) | Any::Array(_) | Any::Kvlist(_) => {
            tally.truncated += u64::from(pair.raw.len() > caps.value_bytes)
        }
        Any::Empty | Any::Bool(_) | Any::Int(_) | Any::Double(_) => {}
    }
}

/// Checks what stands many times in an item.
struct PartChecks<'c> {
    caps: &'c Caps,
    signal: Signal,
    tally: Tally,
    depth: usize,
    attributes: usize,
    events: usize,
    links: usize,
}

impl PartChecks<'_> {
    fn end(self) -> (usize, Tally) {
        let mut tally = self.tally;
        let events = if self.signal == Signal::Metrics {
            self.caps.exemplars
        } else {
            self.caps.events
        };
        tally.truncated += excess(self.attributes, self.caps.attributes)
            + excess(self.events, events)
            + excess(self.links, self.caps.links);
        (self.depth, tally)
    }

    #[inline]
    fn pair(&mut self, message: &[u8], outer: usize) -> Wire<()> {
        let (key, raw) = KeyValue::split(message)?;
        let is_number = value::short_number(raw).is_some();
        if !is_number && value::short_text(raw).is_none() {
            self.value(raw, outer)?;
        }
        // Tags and short lengths are ASCII too, so one test covers key and value of nearly every pair. Numbers are not.
        let texts = if is_number { key } else { message };
        if texts.len() > self.caps.key_bytes || !texts.is_ascii() {
            check_pair(&KeyValue::read(message)?, self.caps, &mut self.tally);
        }
        Ok(())
    }

    #[inline(never)]
    fn value(&mut self, raw: &[u8], outer: usize) -> Wire<()> {
        if Any::read(raw)?.is_list() {
            self.depth = self.depth.max(value::depth(raw, outer)?);
        }
        Ok(())
    }

    fn nested(&mut self, attributes: usize) {
        self.tally.truncated += excess(attributes, self.caps.nested_attributes);
    }
}

impl<'a> Parts<'a> for PartChecks<'_> {
    #[inline]
    fn attribute(&mut self, pair: &'a [u8]) -> Wire<()> {
        self.attributes += 1;
        let outer = if self.signal == Signal::Metrics {
            POINT_VALUE_LEVEL
        } else {
            ITEM_VALUE_LEVEL
        };
        self.pair(pair, outer)
    }

    fn event(&mut self, event: &'a [u8]) -> Wire<()> {
        self.events += 1;
        let mut attributes = 0;
        if self.signal == Signal::Metrics {
            point::exemplar(event, |pair| {
                attributes += 1;
                self.pair(pair, EXEMPLAR_VALUE_LEVEL)
            })?;
        } else {
            let head = item::event(event, |pair| {
                attributes += 1;
                self.pair(pair, NESTED_VALUE_LEVEL)
            })?;
            check_text(head.name, self.caps.text_bytes, &mut self.tally);
        }
        self.nested(attributes);
        Ok(())
    }

    fn link(&mut self, link: &'a [u8]) -> Wire<()> {
        self.links += 1;
        let mut attributes = 0;
        let head = item::link(link, |pair| {
            attributes += 1;
            self.pair(pair, NESTED_VALUE_LEVEL)
        })?;
        check_text(head.trace_state, self.caps.text_bytes, &mut self.tally);
        self.nested(attributes);
        Ok(())
    }
}

/// Whether the bytes are a request at all, without judging its items.
///
/// # Errors
/// [`Malformed`] when they are not.
pub fn validate(signal: Signal, payload: &[u8]) -> Result<(), Malformed> {
    inspect(signal, payload, 0, &Caps::default()).map(drop)
}

const _: () = assert!(wire::RECURSION_LIMIT > EXEMPLAR_VALUE_LEVEL);
