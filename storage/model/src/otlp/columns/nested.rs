//! What a row has many of: span events, span links, exemplars. Packed one after another, with a range per row.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Float64Type, Int16Type, Int32Type};

use super::attrs::TextMaps;
use super::build::{self, Batch};
use super::dict::Dict;
use super::keys::Keys;
use super::time;
use crate::otlp::caps::Caps;
use crate::otlp::item::{EventHead, LinkHead, NESTED_VALUE_LEVEL};
use crate::otlp::point::{self, EXEMPLAR_VALUE_LEVEL, Number};
use crate::otlp::text::Tally;
use crate::otlp::value::{self, KeyValue};
use crate::otlp::wire::Wire;
use crate::otlp::{item, peek::Malformed};

/// Ids or other short bytes; empty is null where the column allows it.
#[derive(Debug, Default)]
struct Blobs {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Blobs {
    fn push(&mut self, blob: &[u8]) {
        self.bytes.extend_from_slice(blob);
        self.ends.push(self.bytes.len() as u32);
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
    }

    fn array(&self, order: &[u32], nullable: bool) -> ArrayRef {
        let (mut bytes, mut offsets, mut valid) = (Vec::new(), vec![0i32], Vec::with_capacity(order.len()));
        for index in order {
            let from = index.checked_sub(1).map_or(0, |previous| self.ends[previous as usize]);
            bytes.extend_from_slice(&self.bytes[from as usize..self.ends[*index as usize] as usize]);
            valid.push(from != self.ends[*index as usize]);
            offsets.push(bytes.len() as i32);
        }
        let nulls = nullable.then(|| NullBuffer::from(valid));
        Arc::new(BinaryArray::new(
            OffsetBuffer::new(ScalarBuffer::from(offsets)),
            Buffer::from_vec(bytes),
            nulls,
        ))
    }
}

/// The ranges of rows in a packed column.
#[derive(Debug, Default)]
struct Rows {
    ends: Vec<u32>,
}

impl Rows {
    fn start(&self, row: usize) -> u32 {
        row.checked_sub(1).map_or(0, |previous| self.ends[previous])
    }

    /// Offsets of the rows in this order, and the order of their elements.
    fn sort(&self, order: &[u32]) -> (OffsetBuffer<i32>, Vec<u32>) {
        let mut elements = Vec::with_capacity(self.ends.last().map_or(0, |end| *end as usize));
        let offsets = build::offsets(order.iter().map(|row| {
            let range = self.start(*row as usize)..self.ends[*row as usize];
            let len = range.len();
            elements.extend(range);
            len
        }));
        (offsets, elements)
    }
}

fn pair<'a>(message: &'a [u8], outer: usize, deepest: &mut usize) -> Wire<KeyValue<'a>> {
    let pair = KeyValue::read(message)?;
    if pair.value.is_list() {
        *deepest = (*deepest).max(value::depth(pair.raw, outer)?);
    }
    Ok(pair)
}

/// Column `events`.
#[derive(Debug, Default)]
pub(super) struct Events {
    rows: Rows,
    times: Vec<u64>,
    names: Vec<i32>,
    name_dict: Dict,
    attrs: Vec<(u32, u32)>,
    dropped: Vec<u32>,
    maps: TextMaps,
}

impl Events {
    /// Events of the row begun.
    pub(super) fn open(&self) -> usize {
        self.times.len() - self.rows.ends.last().map_or(0, |end| *end as usize)
    }

    /// Adds an event to the row begun, `keep` or not: its depth counts either way.
    pub(super) fn push(
        &mut self,
        message: &[u8],
        keep: bool,
        keys: &mut Keys,
        deepest: &mut usize,
        caps: &Caps,
        tally: &mut Tally,
    ) -> Wire<()> {
        let from = self.maps.mark();
        let mut cut = 0;
        let maps = &mut self.maps;
        maps.begin(keys);
        let EventHead {
            time,
            name,
            dropped_attributes,
        } = item::event(message, |message| {
            let pair = pair(message, NESTED_VALUE_LEVEL, deepest)?;
            if keep && *deepest <= caps.depth {
                cut += u32::from(!maps.push(keys, &pair, caps.nested_attributes, caps, tally)?);
            }
            Ok(())
        })?;
        if keep {
            self.times.push(time);
            self.names.push(self.name_dict.put(name, caps.text_bytes, tally));
            self.attrs.push((from, self.maps.mark()));
            self.dropped.push(dropped_attributes.saturating_add(cut));
        }
        Ok(())
    }

    pub(super) fn end_row(&mut self) {
        self.rows.ends.push(self.times.len() as u32);
    }

    pub(super) fn truncate(&mut self, row: usize) {
        self.rows.ends.truncate(row);
        let end = self.rows.start(row) as usize;
        self.times.truncate(end);
        self.names.truncate(end);
        self.attrs.truncate(end);
        self.dropped.truncate(end);
        self.maps.truncate(self.attrs.last().map_or(0, |(_, to)| *to));
    }

    pub(super) fn bytes(&self) -> usize {
        4 * self.rows.ends.len() + 26 * self.times.len() + self.name_dict.bytes() + self.maps.bytes()
    }

    pub(super) fn take(&mut self, batch: &mut Batch, keys: &ArrayRef, order: &[u32]) {
        let data_type = batch.data_type("events");
        let (offsets, order) = self.rows.sort(order);
        let at = |index: &u32| *index as usize;
        let (names, values) = (self.name_dict.take(), self.maps.take_strings());
        let attrs = order.iter().map(|index| self.attrs[at(index)]);
        let columns: Vec<ArrayRef> = vec![
            time::timestamps(order.iter().map(|index| self.times[at(index)])),
            Arc::new(build::primitive::<Int16Type>(
                order.iter().map(|index| time::below_us(self.times[at(index)])),
            )),
            build::words(&names, order.iter().map(|index| self.names[at(index)])),
            self.maps
                .array(&build::struct_field(&data_type, "attrs"), keys, &values, attrs),
            Arc::new(build::primitive::<Int32Type>(
                order.iter().map(|index| time::count(self.dropped[at(index)])),
            )),
        ];
        batch.set("events", build::list_of_structs(&data_type, offsets, columns));
        self.truncate(0);
        self.maps.clear();
    }
}

/// Column `links`.
#[derive(Debug, Default)]
pub(super) struct Links {
    rows: Rows,
    trace_ids: Blobs,
    span_ids: Blobs,
    states: Vec<i32>,
    state_dict: Dict,
    flags: Vec<u32>,
    attrs: Vec<(u32, u32)>,
    dropped: Vec<u32>,
    maps: TextMaps,
}

impl Links {
    pub(super) fn open(&self) -> usize {
        self.flags.len() - self.rows.ends.last().map_or(0, |end| *end as usize)
    }

    pub(super) fn push(
        &mut self,
        message: &[u8],
        keep: bool,
        keys: &mut Keys,
        deepest: &mut usize,
        caps: &Caps,
        tally: &mut Tally,
    ) -> Wire<()> {
        let from = self.maps.mark();
        let mut cut = 0;
        let maps = &mut self.maps;
        maps.begin(keys);
        let LinkHead {
            trace_id,
            span_id,
            trace_state,
            flags,
            dropped_attributes,
        } = item::link(message, |message| {
            let pair = pair(message, NESTED_VALUE_LEVEL, deepest)?;
            if keep && *deepest <= caps.depth {
                cut += u32::from(!maps.push(keys, &pair, caps.nested_attributes, caps, tally)?);
            }
            Ok(())
        })?;
        if keep {
            self.trace_ids.push(trace_id);
            self.span_ids.push(span_id);
            self.states
                .push(self.state_dict.put_some(trace_state, caps.text_bytes, tally));
            self.flags.push(flags);
            self.attrs.push((from, self.maps.mark()));
            self.dropped.push(dropped_attributes.saturating_add(cut));
        }
        Ok(())
    }

    pub(super) fn end_row(&mut self) {
        self.rows.ends.push(self.flags.len() as u32);
    }

    pub(super) fn truncate(&mut self, row: usize) {
        self.rows.ends.truncate(row);
        let end = self.rows.start(row) as usize;
        self.trace_ids.truncate(end);
        self.span_ids.truncate(end);
        self.states.truncate(end);
        self.flags.truncate(end);
        self.attrs.truncate(end);
        self.dropped.truncate(end);
        self.maps.truncate(self.attrs.last().map_or(0, |(_, to)| *to));
    }

    pub(super) fn bytes(&self) -> usize {
        4 * self.rows.ends.len() + 48 * self.flags.len() + self.state_dict.bytes() + self.maps.bytes()
    }

    pub(super) fn take(&mut self, batch: &mut Batch, keys: &ArrayRef, order: &[u32]) {
        let data_type = batch.data_type("links");
        let (offsets, order) = self.rows.sort(order);
        let at = |index: &u32| *index as usize;
        let (states, values) = (self.state_dict.take(), self.maps.take_strings());
        let attrs = order.iter().map(|index| self.attrs[at(index)]);
        let columns: Vec<ArrayRef> = vec![
            self.trace_ids.array(&order, false),
            self.span_ids.array(&order, false),
            build::words(&states, order.iter().map(|index| self.states[at(index)])),
            Arc::new(build::primitive::<Int32Type>(
                order.iter().map(|index| self.flags[at(index)] as i32),
            )),
            self.maps
                .array(&build::struct_field(&data_type, "attrs"), keys, &values, attrs),
            Arc::new(build::primitive::<Int32Type>(
                order.iter().map(|index| time::count(self.dropped[at(index)])),
            )),
        ];
        batch.set("links", build::list_of_structs(&data_type, offsets, columns));
        self.truncate(0);
        self.maps.clear();
    }
}

/// Column `exemplars`.
#[derive(Debug, Default)]
pub(super) struct Exemplars {
    rows: Rows,
    times: Vec<u64>,
    values: Vec<Option<f64>>,
    trace_ids: Blobs,
    span_ids: Blobs,
    attrs: Vec<(u32, u32)>,
    maps: TextMaps,
}

impl Exemplars {
    pub(super) fn open(&self) -> usize {
        self.times.len() - self.rows.ends.last().map_or(0, |end| *end as usize)
    }

    pub(super) fn push(
        &mut self,
        message: &[u8],
        keep: bool,
        keys: &mut Keys,
        deepest: &mut usize,
        caps: &Caps,
        tally: &mut Tally,
    ) -> Result<(), Malformed> {
        let from = self.maps.mark();
        let maps = &mut self.maps;
        maps.begin(keys);
        let head = point::exemplar(message, |message| {
            let pair = pair(message, EXEMPLAR_VALUE_LEVEL, deepest)?;
            if keep && *deepest <= caps.depth {
                maps.push(keys, &pair, caps.nested_attributes, caps, tally)?;
            }
            Ok(())
        })?;
        if keep {
            self.times.push(head.time);
            self.values.push(match head.number {
                Number::None => None,
                Number::Double(value) => Some(value),
                Number::Int(value) => Some(value as f64),
            });
            self.trace_ids.push(head.trace_id);
            self.span_ids.push(head.span_id);
            self.attrs.push((from, self.maps.mark()));
        }
        Ok(())
    }

    pub(super) fn end_row(&mut self) {
        self.rows.ends.push(self.times.len() as u32);
    }

    pub(super) fn truncate(&mut self, row: usize) {
        self.rows.ends.truncate(row);
        let end = self.rows.start(row) as usize;
        self.times.truncate(end);
        self.values.truncate(end);
        self.trace_ids.truncate(end);
        self.span_ids.truncate(end);
        self.attrs.truncate(end);
        self.maps.truncate(self.attrs.last().map_or(0, |(_, to)| *to));
    }

    pub(super) fn bytes(&self) -> usize {
        4 * self.rows.ends.len() + 60 * self.times.len() + self.maps.bytes()
    }

    pub(super) fn take(&mut self, batch: &mut Batch, keys: &ArrayRef, order: &[u32]) {
        let data_type = batch.data_type("exemplars");
        let (offsets, order) = match self.times.is_empty() {
            true => (batch.empty_offsets(), Vec::new()),
            false => self.rows.sort(order),
        };
        let at = |index: &u32| *index as usize;
        let values = self.maps.take_strings();
        let attrs = order.iter().map(|index| self.attrs[at(index)]);
        let columns: Vec<ArrayRef> = vec![
            time::timestamps(order.iter().map(|index| self.times[at(index)])),
            Arc::new(build::primitive::<Int16Type>(
                order.iter().map(|index| time::below_us(self.times[at(index)])),
            )),
            Arc::new(build::optional::<Float64Type>(
                order.iter().map(|index| self.values[at(index)]),
            )),
            self.trace_ids.array(&order, true),
            self.span_ids.array(&order, true),
            self.maps
                .array(&build::struct_field(&data_type, "attrs"), keys, &values, attrs),
        ];
        batch.set("exemplars", build::list_of_structs(&data_type, offsets, columns));
        self.truncate(0);
        self.maps.clear();
    }
}
