//! Table `logs`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Int8Type, Int16Type, Int32Type};

use super::attrs::{self, Attrs};
use super::build::{self, Batch};
use super::dict::Dict;
use super::keys::Keys;
use super::origin::Origins;
use super::sampling::{Choice, Chosen, Samplings};
use super::{BATCH_BYTES_MAX, Changes, Mark, Ordinals, PushError, Pushed, RequestInfo, time};
use crate::ids::{SpanId, TraceId};
use crate::otlp::caps::Caps;
use crate::otlp::envelope::{self, Origin, Visit};
use crate::otlp::item::{self, BODY_LEVEL, ITEM_VALUE_LEVEL, LogHead, Parts};
use crate::otlp::judge::{self, TimeFlag};
use crate::otlp::reject::Reason;
use crate::otlp::text::{self, Tally};
use crate::otlp::value::{self, Any, KeyValue};
use crate::otlp::wire::Wire;
use crate::table::Table;

/// Which of the two body columns a row fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    None,
    Text,
    Json,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    /// As shown: the record's own, else observed, else arrival.
    time: u64,
    observed: u64,
    arrival: u64,
    trace_id: [u8; 16],
    span_id: [u8; 8],
    tenant: i32,
    resource: u32,
    scope: u32,
    sampling: u32,
    severity_text: i32,
    event_name: i32,
    flags: u32,
    dropped: u32,
    body: (u32, u32),
    body_is: Body,
    time_flag: Option<TimeFlag>,
    severity: i8,
}

/// Collects logs requests into batches of `logs`.
#[derive(Debug)]
pub struct LogColumns {
    caps: Caps,
    rows: Vec<Row>,
    bodies: Vec<u8>,
    text: String,
    origins: Origins,
    keys: Keys,
    attrs: Attrs,
    tenants: Dict,
    severities: Dict,
    event_names: Dict,
    samplings: Samplings,
    row_bytes: usize,
    changes: Changes,
}

impl LogColumns {
    /// An empty builder.
    pub fn new(caps: Caps) -> LogColumns {
        LogColumns {
            caps,
            rows: Vec::new(),
            bodies: Vec::new(),
            text: String::new(),
            origins: Origins::new(),
            keys: attrs::keys_for(Table::Logs),
            attrs: Attrs::new(Table::Logs, ITEM_VALUE_LEVEL),
            tenants: Dict::default(),
            severities: Dict::default(),
            event_names: Dict::default(),
            samplings: Samplings::default(),
            row_bytes: 0,
            changes: Changes::default(),
        }
    }

    /// What was changed since this was last asked. Flags count when a batch is finished.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes that the batch will have, about. Cheap.
    pub fn bytes(&self) -> usize {
        let words = self.severities.bytes() + self.event_names.bytes();
        self.row_bytes
            + 130 * self.rows.len()
            + self.bodies.len()
            + self.origins.bytes()
            + self.keys.bytes()
            + self.attrs.bytes()
            + words
    }

    /// Adds the records of a logs request that are neither rejected nor left out by `choice`.
    ///
    /// # Errors
    /// [`PushError`]; nothing was added then.
    pub fn push_request(
        &mut self,
        payload: &[u8],
        info: &RequestInfo<'_>,
        choice: Choice<'_>,
    ) -> Result<Pushed, PushError> {
        if self.bytes() > BATCH_BYTES_MAX {
            return Err(PushError::Full);
        }
        let (from, row_bytes) = (self.rows.len(), self.row_bytes);
        let chosen = self.samplings.choose(choice);
        let tenant = self
            .tenants
            .put(info.tenant.as_bytes(), usize::MAX, &mut Tally::default());
        let mut push = Push {
            to: self,
            pushed: Pushed::default(),
            ordinals: Ordinals::new(info.rejected),
            chosen,
            tenant,
            arrival: info.arrival_ns,
            resource: 0,
            scope: 0,
            rejected: None,
            mark: Mark::default(),
        };
        let walked = envelope::walk(payload, &mut push);
        let pushed = push.pushed;
        if let Err(malformed) = walked {
            self.truncate(from);
            self.row_bytes = row_bytes;
            return Err(malformed.into());
        }
        self.changes.add(pushed.tally);
        Ok(pushed)
    }

    fn truncate(&mut self, row: usize) {
        self.rows.truncate(row);
        self.bodies
            .truncate(self.rows.last().map_or(0, |row| row.body.1 as usize));
        self.attrs.truncate(row);
    }

    /// The batch, sorted; the builder is empty afterwards.
    pub fn finish_sorted(&mut self) -> RecordBatch {
        let order = self.order();
        let rows: Vec<Row> = order.iter().map(|row| self.rows[*row as usize]).collect();
        self.rows.clear();
        let mut batch = Batch::new(Table::Logs, rows.len());
        let origins = self.origins.take_strings();
        let sampling = self.samplings.take_strings();
        let keys = self.keys.take();
        self.set_own(&mut batch, &rows);
        self.origins
            .set(&mut batch, &origins, rows.iter().map(|row| (row.resource, row.scope)));
        self.samplings
            .set(&mut batch, &sampling, rows.iter().map(|row| row.sampling));
        self.attrs.take(&mut batch, &keys, &order);
        self.origins.clear();
        self.samplings.clear();
        self.bodies.clear();
        self.row_bytes = 0;
        batch.finish()
    }

    /// Rows by tenant, service, time.
    fn order(&self) -> Vec<u32> {
        let (tenants, services) = (self.tenants.ranks(), self.origins.service_ranks());
        let mut order: Vec<(u64, u64, u32)> = self
            .rows
            .iter()
            .enumerate()
            .map(|(index, row)| {
                let place = u64::from(tenants[row.tenant as usize]) << 32 | u64::from(services[row.resource as usize]);
                (place, row.time, index as u32)
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, _, index)| index).collect()
    }

    fn set_own(&mut self, batch: &mut Batch, rows: &[Row]) {
        let (flags, flag_of) = time::flags();
        let moved = |row: &Row| row.time_flag.is_some_and(TimeFlag::moves_date);
        batch.set(
            "date",
            time::dates(
                rows.iter()
                    .map(|row| time::day(if moved(row) { row.arrival } else { row.time })),
            ),
        );
        batch.set(
            "tenant",
            build::words(&self.tenants.take(), rows.iter().map(|row| row.tenant)),
        );
        batch.set("ts", time::timestamps(rows.iter().map(|row| row.time)));
        batch.set(
            "ts_ns",
            Arc::new(build::primitive::<Int16Type>(
                rows.iter().map(|row| time::below_us(row.time)),
            )),
        );
        if rows.iter().any(|row| row.time_flag.is_some()) {
            self.changes.flag(rows.iter().filter_map(|row| row.time_flag));
            batch.set(
                "ts_flag",
                build::words(&flags, rows.iter().map(|row| flag_of(row.time_flag))),
            );
        }
        batch.set(
            "observed_ts",
            time::timestamps_or_null(rows.iter().map(|row| row.observed)),
        );
        let observed_ns = rows
            .iter()
            .map(|row| (row.observed != 0).then(|| time::below_us(row.observed)));
        batch.set("observed_ts_ns", Arc::new(build::optional::<Int16Type>(observed_ns)));
        batch.set(
            "severity_number",
            Arc::new(build::primitive::<Int8Type>(rows.iter().map(|row| row.severity))),
        );
        batch.set_words(
            "severity_text",
            &self.severities.take(),
            rows.iter().map(|row| row.severity_text),
        );
        batch.set_words(
            "event_name",
            &self.event_names.take(),
            rows.iter().map(|row| row.event_name),
        );
        batch.set("body", self.texts(rows, Body::Text));
        batch.set("body_json", self.texts(rows, Body::Json));
        batch.set("trace_id", build::ids_or_null(rows.iter().map(|row| row.trace_id)));
        batch.set("span_id", build::ids_or_null(rows.iter().map(|row| row.span_id)));
        batch.set("flags", time::bits_or_null(rows.iter().map(|row| row.flags)));
        batch.set(
            "dropped_attrs",
            Arc::new(build::primitive::<Int32Type>(
                rows.iter().map(|row| time::count(row.dropped)),
            )),
        );
        batch.set("ingest_ts", time::timestamps(rows.iter().map(|row| row.arrival)));
    }

    fn texts(&self, rows: &[Row], which: Body) -> ArrayRef {
        let (mut bytes, mut offsets) = (
            Vec::with_capacity(self.bodies.len()),
            Vec::with_capacity(rows.len() + 1),
        );
        offsets.push(0i32);
        for row in rows {
            if row.body_is == which {
                bytes.extend_from_slice(&self.bodies[row.body.0 as usize..row.body.1 as usize]);
            }
            offsets.push(bytes.len() as i32);
        }
        let nulls = NullBuffer::new(BooleanBuffer::collect_bool(rows.len(), |index| {
            rows[index].body_is == which
        }));
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        Arc::new(StringArray::new(
            OffsetBuffer::new(ScalarBuffer::from(offsets)),
            Buffer::from_vec(bytes),
            nulls,
        ))
    }
}

struct Push<'c, 'r> {
    to: &'c mut LogColumns,
    pushed: Pushed,
    ordinals: Ordinals<'r>,
    chosen: Chosen<'r>,
    tenant: i32,
    arrival: u64,
    resource: u32,
    scope: u32,
    rejected: Option<Reason>,
    mark: Mark<'r>,
}

impl<'a> Visit<'a> for Push<'_, '_> {
    fn resource(&mut self, resource: Origin<'a>) -> Wire<()> {
        self.resource = self
            .to
            .origins
            .resource(&resource, &self.to.caps, &mut self.pushed.tally)?;
        Ok(())
    }

    fn scope(&mut self, scope: Origin<'a>) -> Wire<()> {
        self.mark = Mark {
            pushed: self.pushed.mark(),
            ordinals: self.ordinals,
            rows: (self.to.rows.len(), 0, 0),
            row_bytes: self.to.row_bytes,
        };
        self.scope = self.to.origins.scope(&scope, &self.to.caps, &mut self.pushed.tally)?;
        self.rejected = self.to.origins.rejected(self.resource, self.scope);
        Ok(())
    }

    fn rescope(&mut self, scope: Origin<'a>) -> Wire<()> {
        let mut tally = Tally::default();
        let known = self.to.origins.scope_tally(self.scope);
        self.scope = self.to.origins.scope(&scope, &self.to.caps, &mut tally)?;
        // The scope was counted when it began; only what its URL adds is new.
        self.pushed.tally.add_difference(tally, known);
        self.to.rows[self.mark.rows.0..]
            .iter_mut()
            .for_each(|row| row.scope = self.scope);
        Ok(())
    }

    fn rewind(&mut self) {
        self.pushed.rewind(self.mark.pushed);
        self.ordinals = self.mark.ordinals;
        self.to.truncate(self.mark.rows.0);
        self.to.row_bytes = self.mark.row_bytes;
    }

    #[inline]
    fn entry(&mut self, entry: &'a [u8]) -> Wire<()> {
        let (ordinal, listed) = self.ordinals.step();
        let Some((sampling, _)) = self.chosen.entry(ordinal).filter(|_| !listed) else {
            return Ok(());
        };
        let to = &mut *self.to;
        let row = to.rows.len();
        to.attrs.begin(&mut to.keys, row);
        let mut parts = LogParts {
            caps: &to.caps,
            keys: &mut to.keys,
            attrs: &mut to.attrs,
            tally: Tally::default(),
        };
        let head = item::log(entry, &mut parts)?;
        let (mut depth, tally) = (parts.attrs.depth(), parts.tally);
        let body = match head.body {
            Some(raw) => {
                let body = Any::read(raw)?;
                if body.is_list() {
                    depth = depth.max(value::depth(raw, BODY_LEVEL)?);
                }
                Some((body, raw.len()))
            }
            None => None,
        };
        if let Some(reason) = self
            .rejected
            .or_else(|| judge::log(&head, entry.len(), depth, &to.caps))
        {
            to.truncate(row);
            self.pushed.refused.push((ordinal, reason));
            return Ok(());
        }
        self.pushed.tally.add(tally);
        let (body_is, body) = to.add_body(body, &mut self.pushed.tally)?;
        let mut row = to.row(&head, self.arrival, &mut self.pushed.tally);
        (row.body_is, row.body) = (body_is, body);
        (row.tenant, row.resource, row.scope, row.sampling) = (self.tenant, self.resource, self.scope, sampling);
        to.row_bytes += to.origins.row_bytes(row.resource, row.scope);
        to.attrs.end();
        to.rows.push(row);
        self.pushed.rows += 1;
        self.pushed.bytes += entry.len() as u64;
        Ok(())
    }
}

impl LogColumns {
    fn add_body(&mut self, body: Option<(Any<'_>, usize)>, tally: &mut Tally) -> Wire<(Body, (u32, u32))> {
        let from = self.bodies.len() as u32;
        let cap = self.caps.body_bytes;
        let body_is = match body {
            None | Some((Any::Empty, _)) => Body::None,
            Some((Any::Str(raw), _)) => {
                let clean = text::clean(raw, tally);
                self.bodies.extend_from_slice(text::cut(&clean, cap, tally).as_bytes());
                Body::Text
            }
            Some((_, size)) if size > cap => {
                tally.truncated += 1;
                Body::None
            }
            Some((other, _)) => {
                self.text.clear();
                value::write_json(other, &mut self.text, tally)?;
                self.bodies.extend_from_slice(self.text.as_bytes());
                Body::Json
            }
        };
        Ok((body_is, (from, self.bodies.len() as u32)))
    }

    fn row(&mut self, head: &LogHead<'_>, arrival: u64, tally: &mut Tally) -> Row {
        let cap = self.caps.text_bytes;
        let (time, fallback) = match (head.time, head.observed) {
            (0, 0) => (arrival, Some(TimeFlag::Zero)),
            (0, observed) => (observed, Some(TimeFlag::Observed)),
            (time, _) => (time, None),
        };
        // An id that is not valid links to nothing (proto text), and a span id without a trace id names no span.
        let trace_id = TraceId::parse(head.trace_id);
        let span_id = trace_id.and(SpanId::parse(head.span_id));
        let lost = |sent: &[u8], kept: bool| !sent.is_empty() && !kept;
        let is_unlinked = lost(head.trace_id, trace_id.is_some()) || lost(head.span_id, span_id.is_some());
        tally.unlinked += u64::from(is_unlinked);
        Row {
            time,
            observed: head.observed,
            arrival,
            trace_id: trace_id.unwrap_or_default().0,
            span_id: span_id.unwrap_or_default().0,
            tenant: 0,
            resource: 0,
            scope: 0,
            sampling: 0,
            severity_text: self.severities.put_some(head.severity_text, cap, tally),
            event_name: self.event_names.put_some(head.event_name, cap, tally),
            flags: head.flags,
            dropped: head.dropped_attributes.saturating_add(self.attrs.dropped()),
            body: (0, 0),
            body_is: Body::None,
            time_flag: TimeFlag::of(time, arrival, &self.caps).or(fallback),
            severity: i8::try_from(head.severity_number).unwrap_or_default(),
        }
    }
}

struct LogParts<'c> {
    caps: &'c Caps,
    keys: &'c mut Keys,
    attrs: &'c mut Attrs,
    tally: Tally,
}

impl<'a> Parts<'a> for LogParts<'_> {
    #[inline]
    fn attribute(&mut self, message: &'a [u8]) -> Wire<()> {
        let pair = KeyValue::split(message)?;
        self.attrs.push(self.keys, pair, self.caps, &mut self.tally).map(drop)
    }

    fn event(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }

    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}
