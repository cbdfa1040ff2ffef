//! Tables `metric_points`, `metric_dists` and `metric_series`, from one walk.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Int8Type, Int64Type, TimestampMicrosecondType};

use super::attrs::{Attrs, TextMaps};
use super::build::{self, Batch};
use super::dict::Dict;
use super::keys::Keys;
use super::nested::Exemplars;
use super::origin::{self, Origins};
use super::points::{Dists, Identity, Numbers, Row, Sink};
use super::series::SeriesSeen;
use super::{BATCH_BYTES_MAX, Mark, Ordinals, PushError, Pushed, RequestInfo, time};
use crate::otlp::caps::Caps;
use crate::otlp::envelope::{self, Origin, Visit};
use crate::otlp::item::Parts;
use crate::otlp::judge;
use crate::otlp::point::{self, MetricHead, POINT_VALUE_LEVEL, Point, Shape};
use crate::otlp::reject::Reason;
use crate::otlp::text::Tally;
use crate::otlp::value::{self, KeyValue};
use crate::otlp::wire::Wire;
use crate::table::Table;

/// What a finished builder hands out.
#[derive(Debug, Clone)]
pub struct MetricBatches {
    /// Rows of `metric_points`, sorted.
    pub points: RecordBatch,
    /// Rows of `metric_dists`, sorted.
    pub dists: RecordBatch,
    /// Rows of `metric_series`, sorted.
    pub series: RecordBatch,
}

/// A metric that rows refer to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    pub(super) name: i32,
    pub(super) unit: i32,
    description: i32,
    pub(super) shape: Shape,
    pub(super) temporality: i8,
    pub(super) monotonic: Option<bool>,
    hash: u64,
}

/// A row of `metric_series`.
#[derive(Debug, Clone, Copy)]
struct Series {
    id: i64,
    tenant: i32,
    metric: u32,
    resource: u32,
    first: u64,
    labels: (u32, u32),
}

/// Collects metrics requests into batches of the three metric tables.
#[derive(Debug)]
pub struct MetricColumns {
    caps: Caps,
    point: Point,
    metrics: Vec<Metric>,
    /// Where the last metrics of equal heads are, by hash.
    metric_of: hashbrown::HashMap<u64, u32, ahash::RandomState>,
    origins: Origins,
    tenants: Dict,
    names: Dict,
    units: Dict,
    descriptions: Dict,
    numbers: Sink<Numbers>,
    dists: Sink<Dists>,
    series: Vec<Series>,
    labels: TextMaps,
    label_keys: Keys,
    row_bytes: usize,
}

impl MetricColumns {
    /// An empty builder.
    pub fn new(caps: Caps) -> MetricColumns {
        MetricColumns {
            caps,
            point: Point::default(),
            metrics: Vec::new(),
            metric_of: hashbrown::HashMap::default(),
            origins: Origins::new(),
            tenants: Dict::default(),
            names: Dict::default(),
            units: Dict::default(),
            descriptions: Dict::default(),
            numbers: Sink::new(Table::MetricPoints),
            dists: Sink::new(Table::MetricDists),
            series: Vec::new(),
            labels: TextMaps::default(),
            label_keys: Keys::new(Vec::new()),
            row_bytes: 0,
        }
    }

    /// Rows of `metric_points` and `metric_dists` so far.
    pub fn len(&self) -> usize {
        self.numbers.rows.len() + self.dists.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the batches will have, about. Cheap.
    pub fn bytes(&self) -> usize {
        self.row_bytes
            + self.origins.bytes()
            + self.names.bytes()
            + self.descriptions.bytes()
            + self.numbers.bytes()
            + self.dists.bytes()
            + self.labels.bytes()
            + self.label_keys.bytes()
            + 40 * self.series.len()
    }

    /// Adds the data points of a metrics request that are not rejected. Series that `seen` does not know become rows of
    /// `metric_series`.
    ///
    /// # Errors
    /// [`PushError`]; nothing was added then, except that `seen` may know series whose rows were dropped.
    pub fn push_request(
        &mut self,
        payload: &[u8],
        info: &RequestInfo<'_>,
        seen: &mut SeriesSeen,
    ) -> Result<Pushed, PushError> {
        if self.bytes() > BATCH_BYTES_MAX {
            return Err(PushError::Full);
        }
        let from = (
            self.numbers.rows.len(),
            self.dists.rows.len(),
            self.series.len(),
            self.row_bytes,
        );
        let tenant = self
            .tenants
            .put(info.tenant.as_bytes(), usize::MAX, &mut Tally::default());
        let mut push = Push {
            tenant_hash: xxhash_rust::xxh3::xxh3_64(info.tenant.as_bytes()),
            to: self,
            seen,
            pushed: Pushed::default(),
            ordinals: Ordinals::new(info.rejected),
            tenant,
            arrival: info.arrival_ns,
            origin: None,
            scope_origin: None,
            resource: 0,
            scope: 0,
            rejected: None,
            mark: Mark::default(),
        };
        let walked = envelope::walk(payload, &mut push);
        let pushed = push.pushed;
        if let Err(malformed) = walked {
            self.numbers.truncate(from.0);
            self.dists.truncate(from.1);
            self.series.truncate(from.2);
            self.row_bytes = from.3;
            seen.clear();
            return Err(malformed.into());
        }
        Ok(pushed)
    }

    /// The batches, sorted; the builder is empty afterwards.
    pub fn finish_sorted(&mut self) -> MetricBatches {
        let (tenant_ranks, name_ranks) = (self.tenants.ranks(), self.names.ranks());
        let metrics = std::mem::take(&mut self.metrics);
        let place = |tenant: i32, metric: u32| {
            u64::from(tenant_ranks[tenant as usize]) << 32
                | u64::from(name_ranks[metrics[metric as usize].name as usize])
        };
        let origins = self.origins.take_strings();
        let identity = Identity {
            metrics: &metrics,
            tenants: self.tenants.take(),
            names: self.names.take(),
            units: self.units.take(),
            origins: &self.origins,
            strings: &origins,
        };
        let points = self.numbers.take(&identity, place);
        let dists = self.dists.take(&identity, place);

        let mut series = std::mem::take(&mut self.series);
        series.sort_unstable_by_key(|row| (place(row.tenant, row.metric), row.id, row.first));
        let mut batch = Batch::new(Table::MetricSeries, series.len());
        let metric = |row: &Series| metrics[row.metric as usize];
        batch.set("date", time::dates(series.iter().map(|row| time::day(row.first))));
        batch.set(
            "tenant",
            build::words(&identity.tenants, series.iter().map(|row| row.tenant)),
        );
        batch.set(
            "series_id",
            Arc::new(build::primitive::<Int64Type>(series.iter().map(|row| row.id))),
        );
        batch.set(
            "metric_name",
            build::words(&identity.names, series.iter().map(|row| metric(row).name)),
        );
        batch.set(
            "type",
            Arc::new(build::primitive::<Int8Type>(
                series.iter().map(|row| metric(row).shape as i8),
            )),
        );
        batch.set(
            "temporality",
            Arc::new(build::primitive::<Int8Type>(
                series.iter().map(|row| metric(row).temporality),
            )),
        );
        batch.set(
            "monotonic",
            build::optional_booleans(series.iter().map(|row| metric(row).monotonic)),
        );
        batch.set_words("unit", &identity.units, series.iter().map(|row| metric(row).unit));
        batch.set_words(
            "description",
            &self.descriptions.take(),
            series.iter().map(|row| metric(row).description),
        );
        batch.set_words(
            "service_name",
            origins.services(),
            series.iter().map(|row| self.origins.service(row.resource)),
        );
        let (keys, values) = (self.label_keys.take(), self.labels.take_strings());
        let labels = self.labels.array(
            &batch.data_type("labels"),
            &keys,
            &values,
            series.iter().map(|row| row.labels),
        );
        batch.set("labels", labels);
        let first = build::primitive::<TimestampMicrosecondType>(series.iter().map(|row| time::us(row.first)));
        batch.set("first_ts", Arc::new(first.with_timezone("UTC")));

        self.origins.clear();
        self.labels.clear();
        self.metric_of.clear();
        self.row_bytes = 0;
        MetricBatches {
            points,
            dists,
            series: batch.finish(),
        }
    }

    /// Index of a metric; heads seen in this batch are found by hash.
    fn metric(&mut self, head: &MetricHead<'_>, shape: Shape, tally: &mut Tally) -> u32 {
        let hash = origin::pair_hash(head.name, head.unit)
            .wrapping_add(shape as u64 | (head.temporality as u64) << 8 | u64::from(head.monotonic) << 40)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let cap = self.caps.text_bytes;
        let metric = Metric {
            name: self.names.put(head.name, cap, tally),
            unit: self.units.put_some(head.unit, cap, tally),
            description: self.descriptions.put_some(head.description, cap, tally),
            shape,
            temporality: i8::try_from(head.temporality).unwrap_or_default(),
            monotonic: (shape == Shape::Sum).then_some(head.monotonic),
            hash,
        };
        let next = self.metrics.len() as u32;
        let index = *self.metric_of.entry(hash).or_insert(next);
        let same = self.metrics.get(index as usize).is_some_and(|known| {
            (
                known.name,
                known.unit,
                known.description,
                known.shape,
                known.temporality,
                known.monotonic,
            ) == (
                metric.name,
                metric.unit,
                metric.description,
                metric.shape,
                metric.temporality,
                metric.monotonic,
            )
        });
        if same {
            return index;
        }
        // New, or another description under the same name.
        self.metrics.push(metric);
        self.metric_of.insert(hash, next);
        next
    }
}

/// A request on its way in.
struct Push<'c, 'r, 'a> {
    to: &'c mut MetricColumns,
    seen: &'c mut SeriesSeen,
    pushed: Pushed,
    ordinals: Ordinals<'r>,
    tenant: i32,
    tenant_hash: u64,
    arrival: u64,
    origin: Option<Origin<'a>>,
    scope_origin: Option<Origin<'a>>,
    resource: u32,
    scope: u32,
    rejected: Option<Reason>,
    mark: Mark<'r>,
}

impl<'a> Visit<'a> for Push<'_, '_, 'a> {
    fn resource(&mut self, resource: Origin<'a>) -> Wire<()> {
        self.resource = self
            .to
            .origins
            .resource(&resource, &self.to.caps, &mut self.pushed.tally)?;
        self.origin = Some(resource);
        Ok(())
    }

    fn scope(&mut self, scope: Origin<'a>) -> Wire<()> {
        self.mark = Mark {
            pushed: self.pushed.mark(),
            ordinals: self.ordinals,
            rows: (
                self.to.numbers.rows.len(),
                self.to.dists.rows.len(),
                self.to.series.len(),
            ),
            row_bytes: self.to.row_bytes,
        };
        self.scope = self.to.origins.scope(&scope, &self.to.caps, &mut self.pushed.tally)?;
        self.scope_origin = Some(scope);
        self.rejected = self.to.origins.rejected(self.resource, self.scope);
        Ok(())
    }

    fn rescope(&mut self, scope: Origin<'a>) -> Wire<()> {
        let mut tally = Tally::default();
        let known = self.to.origins.scope_tally(self.scope);
        self.scope = self.to.origins.scope(&scope, &self.to.caps, &mut tally)?;
        // The scope was counted when it began; only what its URL adds is new.
        self.pushed.tally.add_difference(tally, known);
        let new = self.scope;
        self.to.numbers.rows[self.mark.rows.0..]
            .iter_mut()
            .for_each(|row| row.scope = new);
        self.to.dists.rows[self.mark.rows.1..]
            .iter_mut()
            .for_each(|row| row.scope = new);
        Ok(())
    }

    fn rewind(&mut self) {
        self.pushed.rewind(self.mark.pushed);
        self.ordinals = self.mark.ordinals;
        self.to.numbers.truncate(self.mark.rows.0);
        self.to.dists.truncate(self.mark.rows.1);
        self.to.series.truncate(self.mark.rows.2);
        self.to.row_bytes = self.mark.row_bytes;
        // Series of the dropped rows must be described again.
        self.seen.clear();
    }

    fn entry(&mut self, entry: &'a [u8]) -> Wire<()> {
        let head = point::metric(entry)?;
        let Some(shape) = head.shape else { return Ok(()) };
        let metric = self.to.metric(&head, shape, &mut self.pushed.tally);
        head.points(|shape, message| self.point(metric, shape, message))
    }
}

impl<'a> Push<'_, '_, 'a> {
    #[inline]
    fn point(&mut self, metric: u32, shape: Shape, message: &'a [u8]) -> Wire<()> {
        let (ordinal, listed) = self.ordinals.step();
        if listed {
            return Ok(());
        }
        let to = &mut *self.to;
        let number = matches!(shape, Shape::Gauge | Shape::Sum);
        let (keys, nested_keys, attrs, exemplars, row) = if number { to.numbers.open() } else { to.dists.open() };
        attrs.begin(keys, row);
        let mut parts = PointParts {
            caps: &to.caps,
            keys,
            nested_keys,
            attrs,
            exemplars,
            tally: Tally::default(),
            depth: 1,
            hash: 0,
        };
        to.point.read(shape, message, &mut parts)?;
        let PointParts { tally, depth, hash, .. } = parts;
        let own = || judge::point(shape, &to.point, message.len(), depth, self.arrival, &to.caps);
        if let Some(reason) = self.rejected.or_else(own) {
            if number {
                to.numbers.truncate(row);
            } else {
                to.dists.truncate(row);
            }
            self.pushed.refused.push((ordinal, reason));
            return Ok(());
        }
        self.pushed.tally.add(tally);
        let identity = to.metrics[metric as usize].hash ^ to.origins.hash(self.resource, self.scope).rotate_left(17);
        let series = xxhash_rust::xxh3::xxh3_64_with_seed(&hash.to_le_bytes(), identity);
        let row = Row {
            time: to.point.time,
            start: to.point.start,
            arrival: self.arrival,
            series: series as i64,
            tenant: self.tenant,
            metric,
            resource: self.resource,
            scope: self.scope,
            flags: to.point.flags,
        };
        to.row_bytes += to.origins.row_bytes(self.resource, self.scope);
        if number {
            to.numbers.push(row, &to.point);
        } else {
            to.dists.push(row, &to.point);
        }
        self.pushed.rows += 1;
        self.pushed.bytes += message.len() as u64;
        if self.seen.first(time::day(row.time), series ^ self.tenant_hash) {
            self.first_sight(&row, shape, message)?;
        }
        Ok(())
    }

    /// Adds a row of `metric_series`. Rare, so everything is read once more.
    #[inline(never)]
    fn first_sight(&mut self, row: &Row, shape: Shape, message: &'a [u8]) -> Wire<()> {
        let to = &mut *self.to;
        let (labels, keys, caps) = (&mut to.labels, &mut to.label_keys, &to.caps);
        let tally = &mut Tally::default();
        let from = labels.mark();
        labels.begin(keys);
        let mut own = Vec::new();
        Point::default().read(shape, message, &mut Attributes(&mut own))?;
        // By the same caps as the series' identity: what does not tell two series apart must not label one of them.
        for pair in own.into_iter().take(caps.attributes) {
            labels.push(keys, &KeyValue::read(pair)?, usize::MAX, caps, tally)?;
        }
        let mut prefixed = Vec::new();
        let mut prefix = |prefix: &str, key: &[u8]| {
            prefixed.clear();
            prefixed.extend_from_slice(prefix.as_bytes());
            prefixed.extend_from_slice(key);
            prefixed.clone()
        };
        if let Some(resource) = self.origin {
            resource.resource_attributes(|pair| {
                let key = prefix("resource.", pair.key);
                labels
                    .push(keys, &KeyValue { key: &key, ..pair }, usize::MAX, caps, tally)
                    .map(drop)
            })?;
        }
        if let Some(scope) = self.scope_origin {
            let (name, version) = scope.scope_attributes(|pair| {
                let key = prefix("scope.", pair.key);
                labels
                    .push(keys, &KeyValue { key: &key, ..pair }, usize::MAX, caps, tally)
                    .map(drop)
            })?;
            for (key, value) in [("scope.name", name), ("scope.version", version)] {
                if !value.is_empty() {
                    labels.push_text(keys, key, value, caps, tally);
                }
            }
        }
        let labels = (from, labels.mark());
        to.series.push(Series {
            id: row.series,
            tenant: row.tenant,
            metric: row.metric,
            resource: row.resource,
            first: row.time,
            labels,
        });
        Ok(())
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

struct PointParts<'c> {
    caps: &'c Caps,
    keys: &'c mut Keys,
    nested_keys: &'c mut Keys,
    attrs: &'c mut Attrs,
    exemplars: &'c mut Exemplars,
    tally: Tally,
    depth: usize,
    /// Sum of the hashes of kept attributes: their order does not matter.
    hash: u64,
}

impl<'a> Parts<'a> for PointParts<'_> {
    #[inline]
    fn attribute(&mut self, message: &'a [u8]) -> Wire<()> {
        let pair = KeyValue::read(message)?;
        if pair.value.is_list() {
            self.depth = self.depth.max(value::depth(pair.raw, POINT_VALUE_LEVEL)?);
            if self.depth > self.caps.depth {
                return Ok(());
            }
        }
        if self.attrs.push(self.keys, &pair, self.caps, &mut self.tally)? {
            self.hash = self.hash.wrapping_add(origin::pair_hash(pair.key, pair.raw));
        }
        Ok(())
    }

    fn event(&mut self, message: &'a [u8]) -> Wire<()> {
        let keep = self.exemplars.open() < self.caps.exemplars;
        self.tally.truncated += u64::from(!keep);
        self.exemplars.push(
            message,
            keep,
            self.nested_keys,
            &mut self.depth,
            self.caps,
            &mut self.tally,
        )
    }

    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}
