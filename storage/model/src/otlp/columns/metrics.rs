//! Tables `metric_points`, `metric_dists` and `metric_series`, from one walk.

use arrow::array::RecordBatch;

use super::cache::Place;
use super::dict::Dict;
use super::labels::{Series, SeriesRows};
use super::origin::{self, Origins};
use super::points::{Dists, Identity, Numbers, Row, Sink, Values};
use super::series::SeriesSeen;
use super::{BATCH_BYTES_MAX, Changes, Mark, Ordinals, PushError, Pushed, RequestInfo, time};
use crate::otlp::caps::Caps;
use crate::otlp::envelope::{self, Origin, Visit};
use crate::otlp::judge;
use crate::otlp::point::{self, MetricHead, Point, Shape};
use crate::otlp::reject::Reason;
use crate::otlp::text::Tally;
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

/// Series and words are kept for the next batch if it may have at most this many times as many of them as it needs.
const KEPT_PER_USED: usize = 2;

/// A metric that rows refer to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    pub(super) name: i32,
    pub(super) unit: i32,
    pub(super) description: i32,
    pub(super) shape: Shape,
    pub(super) temporality: i8,
    pub(super) monotonic: Option<bool>,
    hash: u64,
}

/// Collects metrics requests into batches of the three metric tables. Remembers series, resources and words from one batch to the
/// next while most of them come again.
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
    series: SeriesRows,
    row_bytes: usize,
    changes: Changes,
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
            series: SeriesRows::new(),
            row_bytes: 0,
            changes: Changes::default(),
        }
    }

    /// What was changed since this was last asked.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
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
            + self.series.bytes()
    }

    /// Bytes of what is kept between batches and stands in each.
    fn words_bytes(&self) -> usize {
        self.origins.bytes()
            + self.names.bytes()
            + self.descriptions.bytes()
            + self.numbers.words_bytes()
            + self.dists.words_bytes()
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
        self.changes.add(pushed.tally);
        Ok(pushed)
    }

    /// The batches, sorted; the builder has no rows afterwards.
    pub fn finish_sorted(&mut self) -> MetricBatches {
        let bytes = self.bytes();
        let (tenant_ranks, name_ranks) = (self.tenants.ranks(), self.names.ranks());
        let metrics = &self.metrics;
        let place = |tenant: i32, metric: u32| {
            u64::from(tenant_ranks[tenant as usize]) << 32
                | u64::from(name_ranks[metrics[metric as usize].name as usize])
        };
        let origins = self.origins.share_strings();
        let identity = Identity {
            metrics,
            tenants: self.tenants.share(),
            names: self.names.share(),
            units: self.units.share(),
            origins: &self.origins,
            strings: &origins,
        };
        let (points, point_series) = self.numbers.take(&identity, place);
        let (dists, dist_series) = self.dists.take(&identity, place);
        let series = self.series.take(&identity, &mut self.descriptions, place);
        self.row_bytes = 0;

        // A frame holds all words of its dictionaries: not many more than it needs.
        let known = self.numbers.cache.len() + self.dists.cache.len();
        if (point_series + dist_series) * KEPT_PER_USED < known || self.words_bytes() > bytes / 4 {
            self.forget();
        }
        MetricBatches { points, dists, series }
    }

    /// Forgets what is kept between batches. There may be no rows.
    fn forget(&mut self) {
        self.numbers.clear();
        self.dists.clear();
        self.origins.clear();
        self.metrics.clear();
        self.metric_of.clear();
        self.tenants.clear();
        self.names.clear();
        self.units.clear();
        self.descriptions.clear();
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
        let context = Context {
            place: Place {
                tenant: self.tenant,
                metric,
                resource: self.resource,
                scope: self.scope,
            },
            shape,
            message,
            arrival: self.arrival,
            rejected: self.rejected,
            tenant_hash: self.tenant_hash,
        };
        let MetricColumns {
            caps,
            point,
            metrics,
            origins,
            numbers,
            dists,
            ..
        } = &mut *self.to;
        let to = Around {
            caps,
            metrics,
            origins,
            seen: self.seen,
        };
        let added = match shape {
            Shape::Gauge | Shape::Sum => context.add(numbers, point, to)?,
            _ => context.add(dists, point, to)?,
        };
        match added {
            Ok(added) => {
                self.pushed.tally.add(added.tally);
                self.pushed.rows += 1;
                self.pushed.bytes += message.len() as u64;
                self.to.row_bytes += added.row_bytes;
                if added.is_first {
                    let Place {
                        tenant,
                        metric,
                        resource,
                        ..
                    } = context.place;
                    let row = Series::new(added.series, tenant, metric, resource, added.time);
                    let origins = (self.origin, self.scope_origin);
                    self.to.series.push(row, shape, message, origins, &self.to.caps)?;
                }
            }
            Err(reason) => self.pushed.refused.push((ordinal, reason)),
        }
        Ok(())
    }
}

/// A point on its way into a sink.
struct Context<'a> {
    place: Place,
    shape: Shape,
    message: &'a [u8],
    arrival: u64,
    rejected: Option<Reason>,
    tenant_hash: u64,
}

/// What both sinks need of the builder.
struct Around<'c> {
    caps: &'c Caps,
    metrics: &'c [Metric],
    origins: &'c Origins,
    seen: &'c mut SeriesSeen,
}

/// A point that became a row.
struct Added {
    series: i64,
    time: u64,
    /// The first of its series on this day.
    is_first: bool,
    tally: Tally,
    row_bytes: usize,
}

impl Context<'_> {
    #[inline]
    fn add<V: Values>(&self, sink: &mut Sink<V>, point: &mut Point, around: Around<'_>) -> Wire<Result<Added, Reason>> {
        let Around {
            caps,
            metrics,
            origins,
            seen,
        } = around;
        let Place {
            metric,
            resource,
            scope,
            ..
        } = self.place;
        let opened = sink.open(self.shape, self.message, self.place, point, caps)?;
        let own = || judge::point(self.shape, point, self.message.len(), opened.depth, self.arrival, caps);
        if let Some(reason) = self.rejected.or_else(own) {
            sink.refuse(&opened);
            return Ok(Err(reason));
        }
        let entry = sink.cache.get_mut(opened.entry);
        if let Some(hash) = opened.new {
            let identity = metrics[metric as usize].hash ^ origins.hash(resource, scope).rotate_left(17);
            entry.series = xxhash_rust::xxh3::xxh3_64_with_seed(&hash.to_le_bytes(), identity) as i64;
            entry.row_bytes += origins.row_bytes(resource, scope);
        }
        let day = time::day(point.time);
        let mut is_first = false;
        if entry.seen != (seen.epoch(), day) {
            is_first = seen.first(day, entry.series as u64 ^ self.tenant_hash, self.arrival);
            entry.seen = (seen.epoch(), day);
        }
        let added = Added {
            series: entry.series,
            time: point.time,
            is_first,
            tally: opened.tally,
            row_bytes: entry.row_bytes,
        };
        let row = Row {
            time: point.time,
            start: point.start,
            arrival: self.arrival,
            entry: opened.entry,
            scope,
            flags: point.flags,
        };
        sink.push(row, point);
        Ok(Ok(added))
    }
}
