//! The rows of the two metric tables: what they share, and their numbers.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Float64Type, Int8Type, Int16Type, Int32Type, Int64Type};

use super::attrs::{self, Attrs};
use super::build::{self, Batch};
use super::cache::{Entry, Outline, Place, Raw, SeriesCache, Together};
use super::keys::Keys;
use super::metrics::Metric;
use super::nested::Exemplars;
use super::origin::{self, OriginStrings, Origins};
use super::time;
use crate::otlp::caps::Caps;
use crate::otlp::item::Parts;
use crate::otlp::point::{Number, POINT_VALUE_LEVEL, Point, Shape};
use crate::otlp::text::Tally;
use crate::otlp::value::KeyValue;
use crate::otlp::wire::Wire;
use crate::table::{self, Table};

/// What rows of both tables have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) time: u64,
    pub(super) start: u64,
    pub(super) arrival: u64,
    /// In the cache of its sink.
    pub(super) entry: u32,
    /// That of the entry, unless a schema URL came behind the points.
    pub(super) scope: u32,
    pub(super) flags: u32,
}

/// What rows refer to, with their strings.
pub(super) struct Identity<'a> {
    pub(super) metrics: &'a [Metric],
    pub(super) tenants: ArrayRef,
    pub(super) names: ArrayRef,
    pub(super) units: ArrayRef,
    pub(super) origins: &'a Origins,
    pub(super) strings: &'a OriginStrings,
}

/// The numbers of a table's rows.
pub(super) trait Values: Default {
    fn push(&mut self, point: &Point);
    fn truncate(&mut self, row: usize);
    fn bytes(&self) -> usize;
    fn take(&mut self, batch: &mut Batch, order: &[u32]);
}

/// Rows of one metric table in the making. What a series says again with every point stays from batch to batch.
#[derive(Debug)]
pub(super) struct Sink<V> {
    table: Table,
    pub(super) rows: Vec<Row>,
    values: V,
    keys: Keys,
    nested_keys: Keys,
    /// Of each entry of the cache.
    attrs: Attrs,
    exemplars: Exemplars,
    pub(super) cache: SeriesCache,
    scattered: Vec<u8>,
    /// Of each entry of the cache its place in the order of the table, as of the last batch. Those of one series share one.
    ranks: Vec<u32>,
}

/// What was read of a point besides its numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    /// In the cache.
    pub(super) entry: u32,
    /// Whether the entry was made for this point; then this is the sum of the hashes of its attributes.
    pub(super) new: Option<u64>,
    pub(super) depth: usize,
    pub(super) tally: Tally,
}

impl<V: Values> Sink<V> {
    pub(super) fn new(table: Table) -> Sink<V> {
        Sink {
            table,
            rows: Vec::new(),
            values: V::default(),
            keys: attrs::keys_for(table),
            nested_keys: Keys::new(Vec::new()),
            attrs: Attrs::new(table, POINT_VALUE_LEVEL),
            exemplars: Exemplars::default(),
            cache: SeriesCache::default(),
            scattered: Vec::new(),
            ranks: Vec::new(),
        }
    }

    /// Reads a point. [`Sink::push`] or [`Sink::refuse`] comes next.
    #[inline]
    pub(super) fn open(
        &mut self,
        shape: Shape,
        message: &[u8],
        place: Place,
        point: &mut Point,
        caps: &Caps,
    ) -> Wire<Opened> {
        let mut outline = Outline::new();
        point.read(shape, message, &mut outline)?;
        let raw = match outline.raw(message) {
            Some(raw) => raw,
            None => {
                self.scattered.clear();
                point.read(shape, message, &mut Together(&mut self.scattered))?;
                Raw::scattered(&self.scattered)
            }
        };
        let mut opened = match self.cache.find(place, raw) {
            Ok(entry) => {
                let Entry { depth, tally, .. } = *self.cache.get(entry);
                let new = None;
                Opened {
                    entry,
                    new,
                    depth,
                    tally,
                }
            }
            Err(vacant) => {
                self.attrs.begin(&mut self.keys, self.cache.len());
                let mut parts = Attributes {
                    caps,
                    keys: &mut self.keys,
                    attrs: &mut self.attrs,
                    tally: Tally::default(),
                    hash: 0,
                };
                if let Err(malformed) = point.read(shape, message, &mut parts) {
                    self.attrs.truncate(self.cache.len());
                    return Err(malformed);
                }
                let Attributes { tally, hash, .. } = parts;
                let (depth, row_bytes) = (self.attrs.depth(), self.attrs.row_bytes());
                self.attrs.end();
                let entry = self
                    .cache
                    .insert(vacant, raw, Entry::new(place, depth, tally, row_bytes));
                let new = Some(hash);
                Opened {
                    entry,
                    new,
                    depth,
                    tally,
                }
            }
        };
        if outline.has_exemplars {
            let mut parts = Examples {
                caps,
                keys: &mut self.nested_keys,
                exemplars: &mut self.exemplars,
                tally: Tally::default(),
                depth: 1,
            };
            let read = point.read(shape, message, &mut parts);
            opened.depth = opened.depth.max(parts.depth);
            opened.tally.add(parts.tally);
            if let Err(malformed) = read {
                self.refuse(&opened);
                return Err(malformed);
            }
        }
        Ok(opened)
    }

    /// Adds the point that was opened.
    #[inline]
    pub(super) fn push(&mut self, row: Row, point: &Point) {
        self.values.push(point);
        self.exemplars.end_row();
        self.rows.push(row);
    }

    /// Forgets the point that was opened.
    pub(super) fn refuse(&mut self, opened: &Opened) {
        self.exemplars.truncate(self.rows.len());
        if opened.new.is_some() {
            self.cache.pop();
            self.attrs.truncate(self.cache.len());
        }
    }

    pub(super) fn truncate(&mut self, row: usize) {
        self.rows.truncate(row);
        self.values.truncate(row);
        self.exemplars.truncate(row);
    }

    /// Bytes of what there is once in a batch.
    pub(super) fn words_bytes(&self) -> usize {
        self.keys.bytes() + self.nested_keys.bytes() + self.attrs.words_bytes()
    }

    pub(super) fn bytes(&self) -> usize {
        90 * self.rows.len() + self.values.bytes() + self.exemplars.bytes() + self.words_bytes()
    }

    /// Forgets every series. There may be no rows.
    pub(super) fn clear(&mut self) {
        self.cache.clear();
        self.ranks.clear();
        self.attrs.clear();
        self.keys.take();
    }

    /// The batch, sorted by `place`, series, time, and how many entries of the cache it is of. Empties this, but for the cache.
    pub(super) fn take(&mut self, identity: &Identity<'_>, place: impl Fn(i32, u32) -> u64) -> (RecordBatch, usize) {
        if self.rows.is_empty() {
            // What refused points have left.
            self.nested_keys.take();
            return (RecordBatch::new_empty(table::frame_schema(self.table)), 0);
        }
        let (order, used) = self.order(place);
        let rows: Vec<Row> = order.iter().map(|row| self.rows[*row as usize]).collect();
        self.rows.clear();

        let entries: Vec<u32> = rows.iter().map(|row| row.entry).collect();
        let places: Vec<Place> = entries.iter().map(|entry| self.cache.get(*entry).place).collect();
        let series = entries.iter().map(|entry| self.cache.get(*entry).series);
        let mut batch = Batch::new(self.table, rows.len());
        let metric = |place: &Place| identity.metrics[place.metric as usize];
        batch.set("date", time::dates(rows.iter().map(|row| time::day(row.time))));
        batch.set(
            "tenant",
            build::words(&identity.tenants, places.iter().map(|place| place.tenant)),
        );
        batch.set("ts", time::timestamps(rows.iter().map(|row| row.time)));
        batch.set(
            "ts_ns",
            Arc::new(build::primitive::<Int16Type>(
                rows.iter().map(|row| time::below_us(row.time)),
            )),
        );
        batch.set("start_ts", time::timestamps_or_null(rows.iter().map(|row| row.start)));
        let start_ns = rows
            .iter()
            .map(|row| (row.start != 0).then(|| time::below_us(row.start)));
        batch.set("start_ts_ns", Arc::new(build::optional::<Int16Type>(start_ns)));
        batch.set(
            "metric_name",
            build::words(&identity.names, places.iter().map(|place| metric(place).name)),
        );
        batch.set("series_id", Arc::new(build::primitive::<Int64Type>(series)));
        batch.set(
            "type",
            Arc::new(build::primitive::<Int8Type>(
                places.iter().map(|place| metric(place).shape as i8),
            )),
        );
        batch.set(
            "temporality",
            Arc::new(build::primitive::<Int8Type>(
                places.iter().map(|place| metric(place).temporality),
            )),
        );
        batch.set(
            "monotonic",
            build::optional_booleans(places.iter().map(|place| metric(place).monotonic)),
        );
        batch.set_words("unit", &identity.units, places.iter().map(|place| metric(place).unit));
        batch.set(
            "flags",
            Arc::new(build::primitive::<Int32Type>(rows.iter().map(|row| row.flags as i32))),
        );
        batch.set("ingest_ts", time::timestamps(rows.iter().map(|row| row.arrival)));
        identity.origins.set(
            &mut batch,
            identity.strings,
            places.iter().zip(&rows).map(|(place, row)| (place.resource, row.scope)),
        );
        self.attrs.show(&mut batch, &self.keys.share(), &entries);
        self.exemplars.take(&mut batch, &self.nested_keys.take(), &order);
        self.values.take(&mut batch, &order);
        (batch.finish(), used)
    }

    /// The order of rows by `place`, series, time, and how many entries of the cache they have.
    ///
    /// Entries are sorted, not rows, and only if there are new ones; rows are then dealt out to their series, where they mostly
    /// lie in the order of time.
    fn order(&mut self, place: impl Fn(i32, u32) -> u64) -> (Vec<u32>, usize) {
        if self.ranks.len() != self.cache.len() {
            let entries = self.cache.entries().enumerate();
            let mut sorted: Vec<(u64, i64, u32)> = entries
                .map(|(index, entry)| {
                    (
                        place(entry.place.tenant, entry.place.metric),
                        entry.series,
                        index as u32,
                    )
                })
                .collect();
            sorted.sort_unstable();
            self.ranks.resize(sorted.len(), 0);
            let (mut rank, mut last) = (0, None);
            for (place, series, index) in sorted {
                rank += u32::from(last.is_some_and(|last| last != (place, series)));
                last = Some((place, series));
                self.ranks[index as usize] = rank;
            }
        }
        let mut used = vec![false; self.cache.len()];
        let mut ends = vec![0u32; self.cache.len()];
        for row in &self.rows {
            used[row.entry as usize] = true;
            ends[self.ranks[row.entry as usize] as usize] += 1;
        }
        let mut from = 0;
        for end in &mut ends {
            let count = *end;
            *end = from;
            from += count;
        }
        let mut order = vec![0u32; self.rows.len()];
        for (index, row) in self.rows.iter().enumerate() {
            let end = &mut ends[self.ranks[row.entry as usize] as usize];
            order[*end as usize] = index as u32;
            *end += 1;
        }
        let mut from = 0;
        for end in ends {
            let own = &mut order[from..end as usize];
            let key = |index: &u32| (self.rows[*index as usize].time, *index);
            if !own.is_sorted_by_key(key) {
                own.sort_unstable_by_key(key);
            }
            from = end as usize;
        }
        (order, used.into_iter().filter(|used| *used).count())
    }
}

/// Takes the attributes of a point.
struct Attributes<'c> {
    caps: &'c Caps,
    keys: &'c mut Keys,
    attrs: &'c mut Attrs,
    tally: Tally,
    hash: u64,
}

impl<'a> Parts<'a> for Attributes<'_> {
    #[inline]
    fn attribute(&mut self, message: &'a [u8]) -> Wire<()> {
        let (key, raw) = KeyValue::split(message)?;
        if self.attrs.push(self.keys, (key, raw), self.caps, &mut self.tally)? {
            self.hash = self.hash.wrapping_add(origin::pair_hash(key, raw));
        }
        Ok(())
    }

    fn event(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }

    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}

/// Takes the exemplars of a point.
struct Examples<'c> {
    caps: &'c Caps,
    keys: &'c mut Keys,
    exemplars: &'c mut Exemplars,
    tally: Tally,
    depth: usize,
}

impl<'a> Parts<'a> for Examples<'_> {
    fn attribute(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }

    fn event(&mut self, message: &'a [u8]) -> Wire<()> {
        let keep = self.exemplars.open() < self.caps.exemplars;
        self.tally.truncated += u64::from(!keep);
        self.exemplars
            .push(message, keep, self.keys, &mut self.depth, self.caps, &mut self.tally)
    }

    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}

/// Numbers of gauges and sums.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    values: Vec<Number>,
}

/// The integer, if a double cannot hold it.
fn beyond_double(number: Number) -> Option<i64> {
    match number {
        // The second test catches i64::MAX, which rounds up to 2^63 and would saturate back to itself.
        Number::Int(value) if value as f64 as i64 != value || value as f64 >= 9_223_372_036_854_775_808.0 => {
            Some(value)
        }
        _ => None,
    }
}

impl Values for Numbers {
    #[inline]
    fn push(&mut self, point: &Point) {
        self.values.push(point.number);
    }

    fn truncate(&mut self, row: usize) {
        self.values.truncate(row);
    }

    fn bytes(&self) -> usize {
        16 * self.values.len()
    }

    fn take(&mut self, batch: &mut Batch, order: &[u32]) {
        let values = order.iter().map(|row| self.values[*row as usize]);
        let doubles = values.clone().map(|number| match number {
            Number::None => None,
            Number::Double(value) => Some(value),
            Number::Int(value) => Some(value as f64),
        });
        batch.set("value", Arc::new(build::optional::<Float64Type>(doubles)));
        batch.set(
            "value_int",
            Arc::new(build::optional::<Int64Type>(values.clone().map(beyond_double))),
        );
        batch.set(
            "is_int",
            build::booleans(values.map(|number| matches!(number, Number::Int(_)))),
        );
        self.values.clear();
    }
}

/// One distribution; its lists are ranges of [`Dists`].
#[derive(Debug, Clone, Copy)]
struct Dist {
    count: u64,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    exponential: Option<Exponential>,
    bounds: (u32, u32),
    counts: (u32, u32),
    pos_counts: (u32, u32),
    neg_counts: (u32, u32),
    quantiles: (u32, u32),
}

#[derive(Debug, Clone, Copy)]
struct Exponential {
    scale: i32,
    zero_count: u64,
    zero_threshold: f64,
    pos_offset: i32,
    neg_offset: i32,
}

/// Numbers of histograms, exponential histograms and summaries.
#[derive(Debug, Default)]
pub(super) struct Dists {
    dists: Vec<Dist>,
    bounds: Vec<f64>,
    counts: Vec<i64>,
    quantiles: Vec<(f64, f64)>,
}

impl Dists {
    // Judged before: no count is beyond i64.
    fn add_counts(&mut self, counts: &[u64]) -> (u32, u32) {
        let from = self.counts.len() as u32;
        self.counts.extend(counts.iter().map(|count| *count as i64));
        (from, self.counts.len() as u32)
    }
}

impl Values for Dists {
    fn push(&mut self, point: &Point) {
        let bounds = self.bounds.len() as u32;
        self.bounds.extend_from_slice(&point.bounds);
        let quantiles = self.quantiles.len() as u32;
        self.quantiles.extend_from_slice(&point.quantiles);
        let dist = Dist {
            count: point.count,
            sum: point.sum,
            min: point.min,
            max: point.max,
            exponential: point.exponential.then_some(Exponential {
                scale: point.scale,
                zero_count: point.zero_count,
                zero_threshold: point.zero_threshold,
                pos_offset: point.positive.offset,
                neg_offset: point.negative.offset,
            }),
            bounds: (bounds, self.bounds.len() as u32),
            counts: self.add_counts(&point.counts),
            pos_counts: self.add_counts(&point.positive.counts),
            neg_counts: self.add_counts(&point.negative.counts),
            quantiles: (quantiles, self.quantiles.len() as u32),
        };
        self.dists.push(dist);
    }

    fn truncate(&mut self, row: usize) {
        self.dists.truncate(row);
        let last = self.dists.last();
        self.bounds.truncate(last.map_or(0, |dist| dist.bounds.1 as usize));
        self.counts.truncate(last.map_or(0, |dist| dist.neg_counts.1 as usize));
        self.quantiles
            .truncate(last.map_or(0, |dist| dist.quantiles.1 as usize));
    }

    fn bytes(&self) -> usize {
        100 * self.dists.len() + 8 * (self.bounds.len() + self.counts.len() + 2 * self.quantiles.len())
    }

    fn take(&mut self, batch: &mut Batch, order: &[u32]) {
        let dists = order.iter().map(|row| self.dists[*row as usize]);
        let exponentials = dists.clone().map(|dist| dist.exponential);
        batch.set(
            "count",
            Arc::new(build::primitive::<Int64Type>(
                dists.clone().map(|dist| dist.count as i64),
            )),
        );
        batch.set(
            "sum",
            Arc::new(build::optional::<Float64Type>(dists.clone().map(|dist| dist.sum))),
        );
        batch.set(
            "min",
            Arc::new(build::optional::<Float64Type>(dists.clone().map(|dist| dist.min))),
        );
        batch.set(
            "max",
            Arc::new(build::optional::<Float64Type>(dists.clone().map(|dist| dist.max))),
        );
        let this = &*self;
        let number_lists = |batch: &mut Batch, name: &str, ranges: fn(&Dist) -> (u32, u32)| {
            let ranges = order.iter().map(move |row| ranges(&this.dists[*row as usize]));
            batch.set(
                name,
                build::number_lists::<Int64Type>(&batch.data_type(name), &this.counts, ranges),
            );
        };
        number_lists(batch, "counts", |dist| dist.counts);
        number_lists(batch, "pos_counts", |dist| dist.pos_counts);
        number_lists(batch, "neg_counts", |dist| dist.neg_counts);
        let bounds = dists.clone().map(|dist| dist.bounds);
        batch.set(
            "bounds",
            build::number_lists::<Float64Type>(&batch.data_type("bounds"), &self.bounds, bounds),
        );
        let scales = exponentials.clone().map(|dist| dist.map(|dist| dist.scale));
        batch.set("scale", Arc::new(build::optional::<Int32Type>(scales)));
        let zeros = exponentials.clone().map(|dist| dist.map(|dist| dist.zero_count as i64));
        batch.set("zero_count", Arc::new(build::optional::<Int64Type>(zeros)));
        let thresholds = exponentials.clone().map(|dist| dist.map(|dist| dist.zero_threshold));
        batch.set("zero_threshold", Arc::new(build::optional::<Float64Type>(thresholds)));
        let offsets = exponentials.clone().map(|dist| dist.map(|dist| dist.pos_offset));
        batch.set("pos_offset", Arc::new(build::optional::<Int32Type>(offsets)));
        let offsets = exponentials.map(|dist| dist.map(|dist| dist.neg_offset));
        batch.set("neg_offset", Arc::new(build::optional::<Int32Type>(offsets)));
        let ranges = dists.map(|dist| dist.quantiles);
        let offsets = build::offsets(ranges.clone().map(|(from, to)| (to - from) as usize));
        let quantiles: Vec<(f64, f64)> = ranges
            .flat_map(|(from, to)| self.quantiles[from as usize..to as usize].iter().copied())
            .collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(build::primitive::<Float64Type>(
                quantiles.iter().map(|(quantile, _)| *quantile),
            )),
            Arc::new(build::primitive::<Float64Type>(
                quantiles.iter().map(|(_, value)| *value),
            )),
        ];
        batch.set(
            "quantiles",
            build::list_of_structs(&batch.data_type("quantiles"), offsets, columns),
        );
        self.truncate(0);
    }
}
