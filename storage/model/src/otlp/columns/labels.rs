//! Rows of `metric_series`: what a series is, said once a day.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Int8Type, Int64Type, TimestampMicrosecondType};

use super::attrs::TextMaps;
use super::build::{self, Batch};
use super::dict::Dict;
use super::keys::Keys;
use super::points::Identity;
use super::time;
use crate::otlp::caps::Caps;
use crate::otlp::envelope::Origin;
use crate::otlp::item::Parts;
use crate::otlp::point::{Point, Shape};
use crate::otlp::text::Tally;
use crate::otlp::value::KeyValue;
use crate::otlp::wire::Wire;
use crate::table::{self, Table};

/// A row of `metric_series`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series {
    pub(super) id: i64,
    pub(super) tenant: i32,
    pub(super) metric: u32,
    pub(super) resource: u32,
    pub(super) first: u64,
    labels: (u32, u32),
}

impl Series {
    /// Its labels come with [`SeriesRows::push`].
    pub(super) fn new(id: i64, tenant: i32, metric: u32, resource: u32, first: u64) -> Series {
        Series {
            id,
            tenant,
            metric,
            resource,
            first,
            labels: (0, 0),
        }
    }
}

/// Rows of `metric_series` in the making.
#[derive(Debug)]
pub(super) struct SeriesRows {
    rows: Vec<Series>,
    labels: TextMaps,
    keys: Keys,
}

impl SeriesRows {
    pub(super) fn new() -> SeriesRows {
        SeriesRows {
            rows: Vec::new(),
            labels: TextMaps::default(),
            keys: Keys::new(Vec::new()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn truncate(&mut self, row: usize) {
        self.rows.truncate(row);
    }

    pub(super) fn bytes(&self) -> usize {
        self.labels.bytes() + self.keys.bytes() + 40 * self.rows.len()
    }

    /// Adds a row with the labels of a point. Rare, so everything is read once more.
    #[inline(never)]
    pub(super) fn push(
        &mut self,
        row: Series,
        shape: Shape,
        message: &[u8],
        origins: (Option<Origin<'_>>, Option<Origin<'_>>),
        caps: &Caps,
    ) -> Wire<()> {
        let (labels, keys, tally) = (&mut self.labels, &mut self.keys, &mut Tally::default());
        let from = labels.mark();
        labels.begin(keys);
        let mut own = Vec::new();
        Point::default().read(shape, message, &mut Attributes(&mut own))?;
        // By the same caps as the series' identity: what does not tell two series apart must not label one of them.
        for pair in own.into_iter().take(caps.attributes) {
            labels.push(keys, &KeyValue::read(pair)?, usize::MAX, caps, tally)?;
        }
        let (resource, scope) = origins;
        let mut of_origin = |labels: &mut TextMaps, prefix: &str, nth: usize, pair: KeyValue<'_>| {
            // As many as rows of a resource or scope have: here they are said again for each series.
            if nth >= caps.origin_attributes {
                return Ok(());
            }
            let key = [prefix.as_bytes(), pair.key].concat();
            let pair = KeyValue { key: &key, ..pair };
            labels.push(keys, &pair, usize::MAX, caps, tally).map(drop)
        };
        if let Some(resource) = resource {
            let mut count = 0..;
            resource.resource_attributes(|pair| of_origin(labels, "resource.", count.next().unwrap_or(0), pair))?;
        }
        if let Some(scope) = scope {
            let mut count = 0..;
            let (name, version) =
                scope.scope_attributes(|pair| of_origin(labels, "scope.", count.next().unwrap_or(0), pair))?;
            for (key, value) in [("scope.name", name), ("scope.version", version)] {
                if !value.is_empty() {
                    labels.push_text(keys, key, value, caps, tally);
                }
            }
        }
        let labels = (from, labels.mark());
        self.rows.push(Series { labels, ..row });
        Ok(())
    }

    /// The batch, sorted by `place`, series, day. Empties this.
    pub(super) fn take(
        &mut self,
        identity: &Identity<'_>,
        descriptions: &mut Dict,
        place: impl Fn(i32, u32) -> u64,
    ) -> RecordBatch {
        let mut rows = std::mem::take(&mut self.rows);
        let (keys, values) = (self.keys.take(), self.labels.take_strings());
        if rows.is_empty() {
            // Of a request that was dropped there may be labels.
            self.labels.clear();
            return RecordBatch::new_empty(table::frame_schema(Table::MetricSeries));
        }
        rows.sort_unstable_by_key(|row| (place(row.tenant, row.metric), row.id, row.first));
        let mut batch = Batch::new(Table::MetricSeries, rows.len());
        let metric = |row: &Series| identity.metrics[row.metric as usize];
        batch.set("date", time::dates(rows.iter().map(|row| time::day(row.first))));
        batch.set(
            "tenant",
            build::words(&identity.tenants, rows.iter().map(|row| row.tenant)),
        );
        batch.set(
            "series_id",
            Arc::new(build::primitive::<Int64Type>(rows.iter().map(|row| row.id))),
        );
        batch.set(
            "metric_name",
            build::words(&identity.names, rows.iter().map(|row| metric(row).name)),
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
        batch.set_words(
            "description",
            &descriptions.share(),
            rows.iter().map(|row| metric(row).description),
        );
        batch.set_words(
            "service_name",
            identity.strings.services(),
            rows.iter().map(|row| identity.origins.service(row.resource)),
        );
        let labels = self.labels.array(
            &batch.data_type("labels"),
            &keys,
            &values,
            rows.iter().map(|row| row.labels),
        );
        batch.set("labels", labels);
        let first = build::primitive::<TimestampMicrosecondType>(rows.iter().map(|row| time::us(row.first)));
        batch.set("first_ts", Arc::new(first.with_timezone("UTC")));
        self.labels.clear();
        batch.finish()
    }
}

/// Collects the attributes of a point.
struct Attributes<'v, 'a>(&'v mut Vec<&'a [u8]>);

impl<'a> Parts<'a> for Attributes<'_, 'a> {
    fn attribute(&mut self, pair: &'a [u8]) -> Wire<()> {
        self.0.push(pair);
        Ok(())
    }

    fn event(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }

    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}
