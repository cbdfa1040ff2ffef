//! The attributes of items: promoted ones into their columns, the rest into a map per type; and maps of texts for what is
//! attached to items (resources, scopes, events, links, exemplars).

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};

use super::build::{self, Batch};
use super::dict::{Dict, NONE, Novelty};
use super::keys::{Keys, Slot};
use crate::otlp::caps::Caps;
use crate::otlp::text::Tally;
use crate::otlp::value::{self, Any, KeyValue};
use crate::otlp::wire::Wire;
use crate::table::Table;
use crate::table::promote::{self, Promotion, Want};

/// Word and number columns of promoted attributes, in the order of their first mention.
fn columns(promotions: &[Promotion], want: Want) -> Vec<&'static str> {
    let mut names = Vec::new();
    for promotion in promotions.iter().filter(|promotion| promotion.want == want) {
        if !names.contains(&promotion.column) {
            names.push(promotion.column);
        }
    }
    names
}

/// The key table for the items of a table.
pub(super) fn keys_for(table: Table) -> Keys {
    let promotions = promote::item(table);
    let (words, ints) = (columns(promotions, Want::Str), columns(promotions, Want::Int));
    let slot = |promotion: &Promotion| {
        let index = |names: &[&str]| {
            names
                .iter()
                .position(|name| *name == promotion.column)
                .expect("made from the same list") as u8
        };
        match promotion.want {
            Want::Str => Slot::Word(index(&words)),
            Want::Int => Slot::Int(index(&ints)),
        }
    };
    Keys::new(
        promotions
            .iter()
            .map(|promotion| (promotion.key, slot(promotion)))
            .collect(),
    )
}

/// A word column that only some rows have: rows beyond its end are null.
#[derive(Debug, Default)]
struct WordColumn {
    name: &'static str,
    dict: Dict,
    ids: Vec<i32>,
    last: i32,
    novelty: Novelty,
}

/// A number column that only some rows have.
#[derive(Debug, Default)]
struct IntColumn {
    name: &'static str,
    values: Vec<Option<i32>>,
}

/// Entries of a map column, row after row.
#[derive(Debug)]
struct Entries<T> {
    /// End of each row.
    ends: Vec<u32>,
    keys: Vec<i32>,
    values: Vec<T>,
}

impl<T> Default for Entries<T> {
    fn default() -> Entries<T> {
        Entries {
            ends: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<T: Copy> Entries<T> {
    #[inline]
    fn push(&mut self, key: i32, value: T) {
        self.keys.push(key);
        self.values.push(value);
    }

    #[inline]
    fn end_row(&mut self) {
        self.ends.push(self.keys.len() as u32);
    }

    /// Forgets rows from `row` on, and the entries of a row that has not ended.
    fn truncate(&mut self, row: usize) {
        self.ends.truncate(row);
        let end = self.ends.last().map_or(0, |end| *end as usize);
        self.keys.truncate(end);
        self.values.truncate(end);
    }

    fn range(&self, row: u32) -> std::ops::Range<usize> {
        let row = row as usize;
        let from = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        from..self.ends[row] as usize
    }

    fn set(
        &self,
        batch: &mut Batch,
        name: &str,
        keys: &ArrayRef,
        order: &[u32],
        values: impl FnOnce(Vec<T>) -> ArrayRef,
    ) {
        let data_type = batch.data_type(name);
        // Rows may be asked for more than once, or not at all: their number says how many entries there are, about.
        let entries = self.keys.len() * order.len().div_ceil(self.ends.len().max(1));
        let (mut sorted_keys, mut sorted_values) = match self.keys.is_empty() {
            true => (Vec::new(), Vec::new()),
            false => (Vec::with_capacity(entries), Vec::with_capacity(entries)),
        };
        let offsets = if self.keys.is_empty() {
            batch.empty_offsets()
        } else {
            build::offsets(order.iter().map(|row| {
                let range = self.range(*row);
                sorted_keys.extend_from_slice(&self.keys[range.clone()]);
                sorted_values.extend_from_slice(&self.values[range.clone()]);
                range.len()
            }))
        };
        batch.set(
            name,
            build::map(
                &data_type,
                offsets,
                build::words(keys, sorted_keys.into_iter()),
                values(sorted_values),
            ),
        );
    }
}

/// Attributes of the items of one table.
#[derive(Debug)]
pub(super) struct Attrs {
    words: Vec<WordColumn>,
    ints: Vec<IntColumn>,
    strings: Entries<i32>,
    string_values: Dict,
    integers: Entries<i64>,
    doubles: Entries<f64>,
    bools: Entries<bool>,
    json: Entries<i32>,
    json_values: Dict,
    text: String,
    /// How deep the values of attributes lie.
    level: usize,
    row: usize,
    count: usize,
    dropped: u32,
    depth: usize,
}

impl Attrs {
    /// Of the items of `table`, whose attributes' values lie `level` deep.
    pub(super) fn new(table: Table, level: usize) -> Attrs {
        let promotions = promote::item(table);
        let word = |name| WordColumn {
            name,
            last: NONE,
            ..WordColumn::default()
        };
        Attrs {
            words: columns(promotions, Want::Str).into_iter().map(word).collect(),
            ints: columns(promotions, Want::Int)
                .into_iter()
                .map(|name| IntColumn {
                    name,
                    values: Vec::new(),
                })
                .collect(),
            strings: Entries::default(),
            string_values: Dict::default(),
            integers: Entries::default(),
            doubles: Entries::default(),
            bools: Entries::default(),
            json: Entries::default(),
            json_values: Dict::default(),
            text: String::new(),
            level,
            row: 0,
            count: 0,
            dropped: 0,
            depth: 1,
        }
    }

    /// Row `row` begins.
    #[inline]
    pub(super) fn begin(&mut self, keys: &mut Keys, row: usize) {
        keys.begin();
        (self.row, self.count, self.dropped, self.depth) = (row, 0, 0, 1);
    }

    #[inline]
    fn push_text(&mut self, keys: &mut Keys, key: &[u8], raw: &[u8], caps: &Caps, tally: &mut Tally) -> bool {
        let Some(key) = self.next_key(keys, key, caps, tally) else {
            return false;
        };
        match keys.slot(key) {
            Slot::Word(index) if self.set_word(index, raw, caps, tally) => {}
            _ => {
                let id = keys.value(key, &mut self.string_values, raw, caps.value_bytes, tally);
                self.strings.push(key, id);
            }
        }
        true
    }

    #[inline]
    fn push_int(&mut self, keys: &mut Keys, key: &[u8], value: i64, caps: &Caps, tally: &mut Tally) -> bool {
        let Some(key) = self.next_key(keys, key, caps, tally) else {
            return false;
        };
        match keys.slot(key) {
            Slot::Int(index) if self.set_int(index, value) => {}
            _ => self.integers.push(key, value),
        }
        true
    }

    /// Whether the row's attributes so far are more than are kept.
    #[inline]
    pub(super) fn is_over(&self, caps: &Caps) -> bool {
        self.count > caps.attributes
    }

    #[inline]
    fn next_key(&mut self, keys: &mut Keys, key: &[u8], caps: &Caps, tally: &mut Tally) -> Option<i32> {
        self.count += 1;
        if self.is_over(caps) {
            self.drop_one(tally);
            return None;
        }
        keys.next(key, caps.key_bytes, tally)
    }

    /// The row's next attribute, by the bytes of its value. Tells whether it is kept.
    #[inline]
    pub(super) fn push(
        &mut self,
        keys: &mut Keys,
        (key, raw): (&[u8], &[u8]),
        caps: &Caps,
        tally: &mut Tally,
    ) -> Wire<bool> {
        if let Some(text) = value::short_text(raw) {
            Ok(self.push_text(keys, key, text, caps, tally))
        } else if let Some(number) = value::short_number(raw) {
            Ok(self.push_int(keys, key, number, caps, tally))
        } else {
            self.push_any(keys, (key, raw), caps, tally)
        }
    }

    #[inline(never)]
    fn push_any(&mut self, keys: &mut Keys, (key, raw): (&[u8], &[u8]), caps: &Caps, tally: &mut Tally) -> Wire<bool> {
        let value = Any::read(raw)?;
        let is_strindex = KeyValue { key, value, raw }.is_strindex();
        if value.is_list() {
            self.depth = self.depth.max(value::depth(raw, self.level)?);
            if self.depth > caps.depth {
                return Ok(false);
            }
        }
        match value {
            Any::Str(text) => return Ok(self.push_text(keys, key, text, caps, tally)),
            Any::Int(number) => return Ok(self.push_int(keys, key, number, caps, tally)),
            _ => {}
        }
        let Some(key) = self.next_key(keys, key, caps, tally) else {
            return Ok(false);
        };
        match value {
            Any::Double(value) => self.doubles.push(key, value),
            Any::Bool(value) => self.bools.push(key, value),
            Any::Str(_) | Any::Int(_) | Any::Empty | Any::Bytes(_) | Any::Array(_) | Any::Kvlist(_) => {
                if raw.len() > caps.value_bytes {
                    self.drop_one(tally);
                    return Ok(false);
                }
                tally.strindexes += u64::from(is_strindex);
                self.text.clear();
                value::write_json(value, &mut self.text, tally)?;
                let id = self.json_values.put(self.text.as_bytes(), usize::MAX, tally);
                self.json.push(key, id);
            }
        }
        Ok(true)
    }

    #[cold]
    fn drop_one(&mut self, tally: &mut Tally) {
        self.dropped += 1;
        tally.truncated += 1;
    }

    /// Whether the column took it; not if the row has a value already, under the key's other name.
    #[inline]
    fn set_word(&mut self, index: u8, raw: &[u8], caps: &Caps, tally: &mut Tally) -> bool {
        let column = &mut self.words[usize::from(index)];
        if column.ids.len() > self.row {
            return false;
        }
        if !column.dict.is(column.last, raw) {
            column.last = column
                .dict
                .put_judged(&mut column.novelty, raw, caps.value_bytes, tally);
        }
        column.ids.resize(self.row, NONE);
        column.ids.push(column.last);
        true
    }

    #[inline]
    fn set_int(&mut self, index: u8, value: i64) -> bool {
        let column = &mut self.ints[usize::from(index)];
        let Ok(value) = i32::try_from(value) else { return false };
        if column.values.len() > self.row {
            return false;
        }
        column.values.resize(self.row, None);
        column.values.push(Some(value));
        true
    }

    /// How deep the row's attributes are nested.
    #[inline]
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Attributes of the row that were cut.
    #[inline]
    pub(super) fn dropped(&self) -> u32 {
        self.dropped
    }

    /// Id that a row has in a word column, [`NONE`] if none.
    pub(super) fn word_id(&self, name: &str, row: usize) -> i32 {
        let column = self.words.iter().find(|column| column.name == name);
        column.and_then(|column| column.ids.get(row)).copied().unwrap_or(NONE)
    }

    /// The row is complete.
    #[inline]
    pub(super) fn end(&mut self) {
        self.strings.end_row();
        self.integers.end_row();
        self.doubles.end_row();
        self.bools.end_row();
        self.json.end_row();
    }

    /// Forgets rows from `row` on, and the row begun.
    pub(super) fn truncate(&mut self, row: usize) {
        self.words.iter_mut().for_each(|column| column.ids.truncate(row));
        self.ints.iter_mut().for_each(|column| column.values.truncate(row));
        self.strings.truncate(row);
        self.integers.truncate(row);
        self.doubles.truncate(row);
        self.bools.truncate(row);
        self.json.truncate(row);
    }

    /// Bytes of all strings.
    pub(super) fn words_bytes(&self) -> usize {
        let words: usize = self.words.iter().map(|column| column.dict.bytes()).sum();
        words + self.string_values.bytes() + self.json_values.bytes()
    }

    /// Bytes that the row begun will take in a batch each time that it is asked for.
    pub(super) fn row_bytes(&self) -> usize {
        let begun = |ends: &[u32], entries: usize| entries - ends.last().map_or(0, |end| *end as usize);
        4 * (self.words.len() + self.ints.len())
            + 20
            + 8 * (begun(&self.strings.ends, self.strings.keys.len()) + begun(&self.json.ends, self.json.keys.len()))
            + 12 * (begun(&self.integers.ends, self.integers.keys.len())
                + begun(&self.doubles.ends, self.doubles.keys.len()))
            + 5 * begun(&self.bools.ends, self.bools.keys.len())
    }

    pub(super) fn bytes(&self) -> usize {
        let words: usize = self
            .words
            .iter()
            .map(|column| column.dict.bytes() + 4 * column.ids.len())
            .sum();
        words
            + self.string_values.bytes()
            + self.json_values.bytes()
            + 8 * (self.strings.keys.len() + self.json.keys.len())
            + 12 * (self.integers.keys.len() + self.doubles.keys.len())
            + 5 * self.bools.keys.len()
            + 4 * self.ints.iter().map(|column| column.values.len()).sum::<usize>()
            + 20 * self.strings.ends.len()
    }

    /// Sets the columns of a batch, rows in the given order, and empties this. Hands back the strings of the column
    /// `http_route`, which the trace parts use too.
    pub(super) fn take(&mut self, batch: &mut Batch, keys: &ArrayRef, order: &[u32]) -> ArrayRef {
        let routes = self.set(batch, keys, order, Dict::take);
        self.clear();
        routes
    }

    /// As [`Attrs::take`], but everything stays for the next batch. A row may be asked for any number of times.
    pub(super) fn show(&mut self, batch: &mut Batch, keys: &ArrayRef, order: &[u32]) {
        self.set(batch, keys, order, Dict::share);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.truncate(0);
        for column in &mut self.words {
            // A refused row may have left strings without a row.
            column.dict.clear();
            (column.last, column.novelty) = (NONE, Novelty::default());
        }
        self.string_values.clear();
        self.json_values.clear();
    }

    fn set(
        &mut self,
        batch: &mut Batch,
        keys: &ArrayRef,
        order: &[u32],
        strings_of: fn(&mut Dict) -> ArrayRef,
    ) -> ArrayRef {
        let mut routes = Dict::default().take();
        for column in &mut self.words {
            if !column.ids.is_empty() {
                let strings = strings_of(&mut column.dict);
                let ids = order
                    .iter()
                    .map(|row| column.ids.get(*row as usize).copied().unwrap_or(NONE));
                batch.set(column.name, build::words(&strings, ids));
                if column.name == "http_route" {
                    routes = strings;
                }
            }
        }
        for column in &self.ints {
            if !column.values.is_empty() {
                let values = order
                    .iter()
                    .map(|row| column.values.get(*row as usize).copied().flatten());
                batch.set(column.name, Arc::new(build::optional::<Int32Type>(values)));
            }
        }
        let strings = strings_of(&mut self.string_values);
        self.strings.set(batch, "attrs_str", keys, order, |ids| {
            build::words(&strings, ids.into_iter())
        });
        self.integers.set(batch, "attrs_int", keys, order, |values| {
            Arc::new(PrimitiveArray::<Int64Type>::new(ScalarBuffer::from(values), None))
        });
        self.doubles.set(batch, "attrs_dbl", keys, order, |values| {
            Arc::new(PrimitiveArray::<Float64Type>::new(ScalarBuffer::from(values), None))
        });
        self.bools.set(batch, "attrs_bool", keys, order, |values| {
            Arc::new(BooleanArray::new(BooleanBuffer::from(values.as_slice()), None))
        });
        let json = strings_of(&mut self.json_values);
        self.json.set(batch, "attrs_json", keys, order, |ids| {
            build::words(&json, ids.into_iter())
        });
        routes
    }
}

/// Maps of texts, packed one after another. Who attaches them keeps their ranges.
#[derive(Debug, Default)]
pub(super) struct TextMaps {
    keys: Vec<i32>,
    values: Vec<i32>,
    dict: Dict,
    text: String,
    count: usize,
}

impl TextMaps {
    /// Where the next entry goes: a map is the range between two calls.
    #[inline]
    pub(super) fn mark(&self) -> u32 {
        self.keys.len() as u32
    }

    /// A map begins.
    #[inline]
    pub(super) fn begin(&mut self, keys: &mut Keys) {
        keys.begin();
        self.count = 0;
    }

    /// Adds an attribute as text. `false` if it was dropped because of a cap.
    pub(super) fn push(
        &mut self,
        keys: &mut Keys,
        pair: &KeyValue<'_>,
        cap: usize,
        caps: &Caps,
        tally: &mut Tally,
    ) -> Wire<bool> {
        self.count += 1;
        if self.count > cap {
            tally.truncated += 1;
            return Ok(false);
        }
        let Some(key) = keys.next(pair.key, caps.key_bytes, tally) else {
            return Ok(true);
        };
        // Only now: a key whose value is left out has been seen all the same.
        if !matches!(pair.value, Any::Str(_)) && pair.raw.len() > caps.value_bytes {
            tally.truncated += 1;
            return Ok(false);
        }
        let id = match pair.value {
            Any::Str(raw) => self.dict.put(raw, caps.value_bytes, tally),
            other => {
                tally.strindexes += u64::from(pair.is_strindex());
                self.text.clear();
                value::write_text(other, &mut self.text, tally)?;
                self.dict.put(self.text.as_bytes(), usize::MAX, tally)
            }
        };
        self.keys.push(key);
        self.values.push(id);
        Ok(true)
    }

    /// Adds an entry under a key that is known to be new to the map.
    pub(super) fn push_text(&mut self, keys: &mut Keys, key: &str, value: &[u8], caps: &Caps, tally: &mut Tally) {
        if let Some(key) = keys.next(key.as_bytes(), usize::MAX, tally) {
            self.keys.push(key);
            self.values.push(self.dict.put(value, caps.value_bytes, tally));
        }
    }

    pub(super) fn truncate(&mut self, mark: u32) {
        self.keys.truncate(mark as usize);
        self.values.truncate(mark as usize);
    }

    pub(super) fn bytes(&self) -> usize {
        8 * self.keys.len() + self.dict.bytes()
    }

    /// The strings, for [`TextMaps::array`].
    pub(super) fn take_strings(&mut self) -> ArrayRef {
        self.dict.take()
    }

    /// The strings, which stay for the next batch.
    pub(super) fn share_strings(&mut self) -> ArrayRef {
        self.dict.share()
    }

    /// A map column of these ranges.
    pub(super) fn array(
        &self,
        data_type: &arrow::datatypes::DataType,
        keys: &ArrayRef,
        strings: &ArrayRef,
        ranges: impl ExactSizeIterator<Item = (u32, u32)> + Clone,
    ) -> ArrayRef {
        let offsets = build::offsets(ranges.clone().map(|(from, to)| (to - from) as usize));
        let total = offsets.last().map_or(0, |end| *end as usize);
        let (mut flat_keys, mut flat_values) = (Vec::with_capacity(total), Vec::with_capacity(total));
        for (from, to) in ranges {
            flat_keys.extend_from_slice(&self.keys[from as usize..to as usize]);
            flat_values.extend_from_slice(&self.values[from as usize..to as usize]);
        }
        build::map(
            data_type,
            offsets,
            build::words(keys, flat_keys.into_iter()),
            build::words(strings, flat_values.into_iter()),
        )
    }

    /// Forgets all maps.
    pub(super) fn clear(&mut self) {
        self.truncate(0);
        self.dict.take();
    }
}
