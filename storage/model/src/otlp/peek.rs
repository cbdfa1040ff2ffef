//! The cheap readers: [`inspect`] checks and counts a request once, [`spans`] and [`logs`] show its items without copying anything.
//!
//! Guarantees: no allocation per item; no panic on any bytes.

use std::iter::Peekable;

use super::envelope::{self, Origin, Visit};
use super::item::{self, Parts, SpanHead};
use super::value::{Any, KeyValue, Raw};
use super::wire::Wire;

mod inspect;
mod logs;

pub use self::inspect::{Inspected, inspect, validate};
pub use self::logs::{LogPeek, logs};
pub use super::wire::Malformed;

/// Attribute keys whose values [`spans`] looks up.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// By length.
    keys: Vec<Key>,
    /// Of the keys of n bytes (63: of 63 or more) the low four bits of the last byte, a bit each. Most attributes are told apart
    /// by this alone.
    ends: Vec<u16>,
    /// Where the keys of n bytes begin (63: of 63 or more).
    starts: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Key {
    text: Box<[u8]>,
    /// In the order given.
    place: usize,
    ends: [u64; 2],
}

/// The first and the last eight bytes, which overlap where there are less than 16; of less than eight bytes nothing.
#[inline(always)]
fn ends(text: &[u8]) -> [u64; 2] {
    match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => [u64::from_le_bytes(*first), u64::from_le_bytes(*last)],
        _ => [0; 2],
    }
}

/// Lengths that are told apart.
const LENGTHS: usize = 64;
const KEYS_MAX: usize = 128;

impl Keys {
    /// These keys, in the order in which [`SpanPeek::values`] has their values.
    ///
    /// # Panics
    /// For more than 128 keys.
    pub fn new<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Keys {
        let keys = keys.into_iter().enumerate().map(|(place, key)| {
            let text = Box::from(key.as_ref().as_bytes());
            let ends = ends(&text);
            Key { text, place, ends }
        });
        let mut keys: Vec<Key> = keys.collect();
        assert!(keys.len() <= KEYS_MAX, "a bit for each key");
        let class = |key: &[u8]| key.len().min(LENGTHS - 1);
        // Stable: of equal keys the first is found, as in the order given.
        keys.sort_by_key(|key| class(&key.text));
        let mut ends = vec![0; LENGTHS];
        for key in &keys {
            ends[class(&key.text)] |= 1 << (key.text.last().unwrap_or(&0) & 15);
        }
        let starts = (0..=LENGTHS).map(|length| keys.partition_point(|key| class(&key.text) < length) as u8);
        Keys {
            ends,
            starts: starts.collect(),
            keys,
        }
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Bytes of the longest.
    pub(super) fn longest(&self) -> usize {
        self.keys.iter().map(|key| key.text.len()).max().unwrap_or(0)
    }

    #[inline]
    fn may_have(&self, class: usize, last: u8) -> bool {
        self.ends.get(class).is_some_and(|ends| ends >> (last & 15) & 1 != 0)
    }

    /// The place of this key, if it is one of them.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let class = key.len().min(LENGTHS - 1);
        if self.starts.is_empty() {
            return None;
        }
        let range = usize::from(self.starts[class])..usize::from(self.starts[class + 1]);
        // Most keys are told apart, and short ones found, without a call.
        let ends = ends(key);
        let found = self.keys[range]
            .iter()
            .find(|known| known.ends == ends && ((8..=16).contains(&key.len()) || *known.text == *key));
        found.map(|known| known.place)
    }
}

/// A span, borrowed from the request. Ids and strings are as sent: lengths and UTF-8 are not checked.
#[derive(Debug, Clone, Copy)]
pub struct SpanPeek<'a, 'v> {
    /// Ordinal in the request, from 0, as in [`Inspected::rejected`].
    pub ordinal: u32,
    /// Where its message begins in the request, bytes.
    pub offset: usize,
    /// Bytes of its message.
    pub len: usize,
    /// Ids, times, name, kind, status, tracestate, flags.
    pub head: SpanHead<'a>,
    /// `service.name` of its resource; empty if not sent.
    pub service_name: &'a [u8],
    /// `service.namespace` of its resource; empty if not sent.
    pub service_namespace: &'a [u8],
    /// Values of the asked keys, among the span's attributes or else its resource's; `None` where neither has the key.
    pub values: &'v [Option<Raw<'a>>],
    /// Values of the asked keys among its resource's attributes alone.
    pub of_resource: &'v [Option<Raw<'a>>],
    /// Which of [`SpanPeek::values`] are the span's own, a bit each.
    pub own: u128,
}

impl<'a> SpanPeek<'a, '_> {
    /// The value of the asked key at this place, if the span itself has it.
    #[inline]
    pub fn own_value(&self, at: usize) -> Option<Raw<'a>> {
        let is_own = self.own >> at & 1 != 0;
        self.values.get(at).copied().flatten().filter(|_| is_own)
    }
}

/// Shows every span of a traces request, rejected ones too, in wire order. Return `false` to stop.
///
/// Meant for requests that [`inspect`] has accepted: attributes that nobody asked for, events and links are not looked into.
///
/// # Errors
/// [`Malformed`], possibly after some spans were shown.
pub fn spans<'a>(
    payload: &'a [u8],
    keys: &Keys,
    mut visit: impl FnMut(&SpanPeek<'a, '_>) -> bool,
) -> Result<(), Malformed> {
    spans_for(payload, [keys], |[span]| visit(span))
}

/// As [`spans`], for several who ask for keys of their own: each span is walked once, and shown as each of them would see it.
///
/// # Errors
/// As [`spans`].
pub fn spans_for<'a, const N: usize>(
    payload: &'a [u8],
    keys: [&Keys; N],
    visit: impl FnMut([&SpanPeek<'a, '_>; N]) -> bool,
) -> Result<(), Malformed> {
    let mut peeker = Peeker {
        payload,
        visit,
        ordinal: 0,
        going: true,
        asked: keys.map(Asked::new),
    };
    envelope::walk(payload, &mut peeker)
}

/// The values that one asker is shown, filled while a span is walked.
#[derive(Debug)]
pub(super) struct Asked<'a, 'k> {
    pub keys: &'k Keys,
    service_name: &'a [u8],
    service_namespace: &'a [u8],
    of_resource: Vec<Option<Raw<'a>>>,
    /// The resource's where the span has none itself.
    values: Vec<Option<Raw<'a>>>,
    /// Those that the span has itself; of equal keys the first wins.
    own: u128,
}

impl<'a, 'k> Asked<'a, 'k> {
    pub fn new(keys: &'k Keys) -> Asked<'a, 'k> {
        Asked {
            keys,
            service_name: &[],
            service_namespace: &[],
            of_resource: vec![None; keys.len()],
            values: vec![None; keys.len()],
            own: 0,
        }
    }

    /// A resource begins.
    pub fn resource(&mut self, resource: &Origin<'a>) -> Wire<()> {
        (self.service_name, self.service_namespace) = (&[], &[]);
        self.of_resource.fill(None);
        self.own = 0;
        // Of equal keys the first wins, also if its value is no text, as in the columns.
        let (mut name, mut namespace) = (None, None);
        resource.resource_attributes(|pair| {
            match pair.key {
                b"service.name" => drop(name.get_or_insert(pair.value)),
                b"service.namespace" => drop(namespace.get_or_insert(pair.value)),
                _ => {}
            }
            if let Some(index) = self.keys.find(pair.key) {
                self.of_resource[index].get_or_insert(Raw(pair.raw));
            }
            Ok(())
        })?;
        if let Some(Any::Str(text)) = name {
            self.service_name = text;
        }
        if let Some(Any::Str(text)) = namespace {
            self.service_namespace = text;
        }
        self.values.copy_from_slice(&self.of_resource);
        Ok(())
    }

    /// A span begins.
    #[inline]
    pub fn begin(&mut self) {
        while self.own != 0 {
            let at = self.own.trailing_zeros() as usize;
            self.values[at] = self.of_resource[at];
            self.own &= self.own - 1;
        }
    }

    /// The span's next value of the key at this place.
    #[inline]
    pub fn put(&mut self, at: usize, raw: &'a [u8]) {
        if self.own >> at & 1 == 0 {
            self.own |= 1 << at;
            self.values[at] = Some(Raw(raw));
        }
    }

    /// The span that was walked since [`Asked::begin`], whose message is `entry`, with this ordinal.
    #[inline]
    pub fn shown(&self, ordinal: u32, offset: usize, entry: &[u8], head: SpanHead<'a>) -> SpanPeek<'a, '_> {
        SpanPeek {
            ordinal,
            offset,
            len: entry.len(),
            head,
            service_name: self.service_name,
            service_namespace: self.service_namespace,
            values: &self.values,
            of_resource: &self.of_resource,
            own: self.own,
        }
    }
}

/// Shows the heads of the spans at these ordinals, which ascend; the others are passed over unread.
///
/// # Errors
/// As [`spans`].
pub fn spans_at<'a>(
    payload: &'a [u8],
    ordinals: impl Iterator<Item = u32>,
    visit: impl FnMut(SpanHead<'a>),
) -> Result<(), Malformed> {
    envelope::walk(
        payload,
        &mut Heads {
            ordinals: ordinals.peekable(),
            next: 0,
            visit,
        },
    )
}

struct Heads<I: Iterator<Item = u32>, F> {
    ordinals: Peekable<I>,
    /// Ordinal of the next entry.
    next: u32,
    visit: F,
}

impl<'a, I: Iterator<Item = u32>, F: FnMut(SpanHead<'a>)> Visit<'a> for Heads<I, F> {
    const SCOPES: bool = false;

    #[inline]
    fn entry(&mut self, entry: &'a [u8]) -> Wire<()> {
        let ordinal = self.next;
        self.next += 1;
        if self.ordinals.next_if_eq(&ordinal).is_some() {
            (self.visit)(item::span(entry, &mut Lookup::<0>(&mut []))?);
        }
        Ok(())
    }
}

struct Peeker<'a, 'k, F, const N: usize> {
    payload: &'a [u8],
    visit: F,
    ordinal: u32,
    going: bool,
    asked: [Asked<'a, 'k>; N],
}

impl<'a, F: FnMut([&SpanPeek<'a, '_>; N]) -> bool, const N: usize> Visit<'a> for Peeker<'a, '_, F, N> {
    const SCOPES: bool = false;

    fn resource(&mut self, resource: Origin<'a>) -> Wire<()> {
        self.asked.iter_mut().try_for_each(|asked| asked.resource(&resource))
    }

    #[inline]
    fn entry(&mut self, entry: &'a [u8]) -> Wire<()> {
        if !self.going {
            return Ok(());
        }
        self.asked.iter_mut().for_each(Asked::begin);
        let head = item::span(entry, &mut Lookup(&mut self.asked))?;
        let (ordinal, offset) = (self.ordinal, entry.as_ptr() as usize - self.payload.as_ptr() as usize);
        self.ordinal += 1;
        let shown = self
            .asked
            .each_ref()
            .map(|asked| asked.shown(ordinal, offset, entry, head));
        self.going = (self.visit)(shown.each_ref());
        Ok(())
    }
}

struct Lookup<'v, 'a, 'k, const N: usize>(&'v mut [Asked<'a, 'k>; N]);

impl<'a, const N: usize> Parts<'a> for Lookup<'_, 'a, '_, N> {
    #[inline]
    fn attribute(&mut self, message: &'a [u8]) -> Wire<()> {
        // The key comes first in every known encoder; its length and last byte tell most pairs apart.
        if let [0x0a, len @ 1..63, key @ ..] = message
            && let Some(last) = key.get(usize::from(*len) - 1)
            && !self.0.iter().any(|asked| asked.keys.may_have(usize::from(*len), *last))
        {
            return Ok(());
        }
        let (key, raw) = KeyValue::split(message)?;
        for asked in self.0.iter_mut() {
            if let Some(index) = asked.keys.find(key) {
                asked.put(index, raw);
            }
        }
        Ok(())
    }

    #[inline]
    fn event(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }

    #[inline]
    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}
