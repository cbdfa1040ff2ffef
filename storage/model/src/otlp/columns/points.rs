//! The rows of the two metric tables: what they share, and their numbers.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Float64Type, Int8Type, Int16Type, Int32Type, Int64Type};

use super::attrs::{self, Attrs};
use super::build::{self, Batch};
use super::keys::Keys;
use super::metrics::Metric;
use super::nested::Exemplars;
use super::origin::{OriginStrings, Origins};
use super::time;
use crate::otlp::point::{Number, Point};
use crate::table::Table;

/// What rows of both tables have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) time: u64,
    pub(super) start: u64,
    pub(super) arrival: u64,
    pub(super) series: i64,
    pub(super) tenant: i32,
    pub(super) metric: u32,
    pub(super) resource: u32,
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

/// Rows of one metric table in the making.
#[derive(Debug)]
pub(super) struct Sink<V> {
    table: Table,
    pub(super) rows: Vec<Row>,
    values: V,
    keys: Keys,
    nested_keys: Keys,
    attrs: Attrs,
    exemplars: Exemplars,
}

impl<V: Values> Sink<V> {
    pub(super) fn new(table: Table) -> Sink<V> {
        Sink {
            table,
            rows: Vec::new(),
            values: V::default(),
            keys: attrs::keys_for(table),
            nested_keys: Keys::new(Vec::new()),
            attrs: Attrs::new(table),
            exemplars: Exemplars::default(),
        }
    }

    /// What the parts of the next row go into, and its number.
    #[inline]
    pub(super) fn open(&mut self) -> (&mut Keys, &mut Keys, &mut Attrs, &mut Exemplars, usize) {
        (
            &mut self.keys,
            &mut self.nested_keys,
            &mut self.attrs,
            &mut self.exemplars,
            self.rows.len(),
        )
    }

    #[inline]
    pub(super) fn push(&mut self, row: Row, point: &Point) {
        self.values.push(point);
        self.attrs.end();
        self.exemplars.end_row();
        self.rows.push(row);
    }

    pub(super) fn truncate(&mut self, row: usize) {
        self.rows.truncate(row);
        self.values.truncate(row);
        self.attrs.truncate(row);
        self.exemplars.truncate(row);
    }

    pub(super) fn bytes(&self) -> usize {
        90 * self.rows.len()
            + self.values.bytes()
            + self.keys.bytes()
            + self.nested_keys.bytes()
            + self.attrs.bytes()
            + self.exemplars.bytes()
    }

    /// The batch, sorted by `place`, series, time. Empties this.
    pub(super) fn take(&mut self, identity: &Identity<'_>, place: impl Fn(i32, u32) -> u64) -> RecordBatch {
        let mut order: Vec<(u64, i64, u64, u32)> = self
            .rows
            .iter()
            .enumerate()
            .map(|(index, row)| (place(row.tenant, row.metric), row.series, row.time, index as u32))
            .collect();
        order.sort_unstable();
        let order: Vec<u32> = order.into_iter().map(|(_, _, _, index)| index).collect();
        let rows: Vec<Row> = order.iter().map(|row| self.rows[*row as usize]).collect();
        self.rows.clear();

        let mut batch = Batch::new(self.table, rows.len());
        let metric = |row: &Row| identity.metrics[row.metric as usize];
        batch.set("date", time::dates(rows.iter().map(|row| time::day(row.time))));
        batch.set(
            "tenant",
            build::words(&identity.tenants, rows.iter().map(|row| row.tenant)),
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
            build::words(&identity.names, rows.iter().map(|row| metric(row).name)),
        );
        batch.set(
            "series_id",
            Arc::new(build::primitive::<Int64Type>(rows.iter().map(|row| row.series))),
        );
        batch.set(
            "type",
            Arc::new(build::primitive::<Int8Type>(
                rows.iter().map(|row| metric(row).shape as i8),
            )),
        );
        batch.set(
            "temporality",
            Arc::new(build::primitive::<Int8Type>(
                rows.iter().map(|row| metric(row).temporality),
            )),
        );
        batch.set(
            "monotonic",
            build::optional_booleans(rows.iter().map(|row| metric(row).monotonic)),
        );
        batch.set_words("unit", &identity.units, rows.iter().map(|row| metric(row).unit));
        batch.set(
            "flags",
            Arc::new(build::primitive::<Int32Type>(rows.iter().map(|row| row.flags as i32))),
        );
        batch.set("ingest_ts", time::timestamps(rows.iter().map(|row| row.arrival)));
        identity.origins.set(
            &mut batch,
            identity.strings,
            rows.iter().map(|row| (row.resource, row.scope)),
        );
        let (keys, nested_keys) = (self.keys.take(), self.nested_keys.take());
        self.attrs.take(&mut batch, &keys, &order);
        self.exemplars.take(&mut batch, &nested_keys, &order);
        self.values.take(&mut batch, &order);
        batch.finish()
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
