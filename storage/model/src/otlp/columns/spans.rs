//! Table `spans`, and the parts of table `traces` that its rows make.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Int8Type, Int16Type, Int32Type, Int64Type};

use super::attrs::{self, Attrs};
use super::build::{self, Batch};
use super::dict::{Dict, NONE};
use super::keys::Keys;
use super::nested::{Events, Links};
use super::origin::Origins;
use super::sampling::{Choice, Chosen, Samplings};
use super::traces::{self, Addition};
use super::{BATCH_BYTES_MAX, Changes, Mark, Ordinals, PushError, Pushed, RequestInfo, time};
use crate::ids::TraceId;
use crate::otlp::caps::Caps;
use crate::otlp::envelope::{self, Origin, Visit};
use crate::otlp::item::{self, ITEM_VALUE_LEVEL, Parts, SpanHead};
use crate::otlp::judge::{self, TimeFlag};
use crate::otlp::peek::{self, Asked, SpanPeek};
use crate::otlp::reject::Reason;
use crate::otlp::text::Tally;
use crate::otlp::value::KeyValue;
use crate::otlp::wire::Wire;
use crate::table::Table;

/// Flags bit 8: the next bit is meaningful. Bit 9: the parent is remote.
const REMOTE: u32 = 0x300;

/// The fields of a row that every span has. Ids index dictionaries.
#[derive(Debug, Clone, Copy)]
struct Row {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    parent: [u8; 8],
    start: u64,
    end: u64,
    arrival: u64,
    tenant: i32,
    resource: u32,
    scope: u32,
    sampling: u32,
    name: i32,
    status_message: i32,
    trace_state: i32,
    flags: u32,
    dropped: [u32; 3],
    time_flag: Option<TimeFlag>,
    kind: i8,
    status: i8,
}

impl Row {
    fn is_root(&self) -> bool {
        self.parent == [0; 8]
    }

    fn is_entry(&self) -> bool {
        self.is_root() || matches!(self.kind, 2 | 5) || self.flags & REMOTE == REMOTE
    }
}

/// What a finished builder hands out.
#[derive(Debug, Clone)]
pub struct SpanBatches {
    /// Rows of `spans`, sorted.
    pub spans: RecordBatch,
    /// One part for each trace among them, sorted.
    pub traces: RecordBatch,
}

/// Collects traces requests into batches of `spans` and `traces`.
#[derive(Debug)]
pub struct SpanColumns {
    caps: Caps,
    rows: Vec<Row>,
    origins: Origins,
    keys: Keys,
    /// Of events and links: their lists interleave with those of items.
    nested_keys: Keys,
    attrs: Attrs,
    events: Events,
    links: Links,
    tenants: Dict,
    names: Dict,
    status_messages: Dict,
    trace_states: Dict,
    samplings: Samplings,
    parts: traces::Parts,
    row_bytes: usize,
    changes: Changes,
}

impl SpanColumns {
    /// An empty builder.
    pub fn new(caps: Caps) -> SpanColumns {
        SpanColumns::asking(caps, Arc::default())
    }

    /// An empty builder whose [`SpanColumns::push_shown`] shows the values of these keys.
    pub fn asking(caps: Caps, asked: Arc<peek::Keys>) -> SpanColumns {
        SpanColumns {
            rows: Vec::new(),
            origins: Origins::new(),
            keys: attrs::keys_for(Table::Spans).asking(asked, caps.key_bytes),
            caps,
            nested_keys: Keys::new(Vec::new()),
            attrs: Attrs::new(Table::Spans, ITEM_VALUE_LEVEL),
            events: Events::default(),
            links: Links::default(),
            tenants: Dict::default(),
            names: Dict::default(),
            status_messages: Dict::default(),
            trace_states: Dict::default(),
            samplings: Samplings::default(),
            parts: traces::Parts::default(),
            row_bytes: 0,
            changes: Changes::default(),
        }
    }

    /// The caps that apply.
    pub fn caps(&self) -> &Caps {
        &self.caps
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

    /// Bytes that the batches will have, about. Cheap.
    pub fn bytes(&self) -> usize {
        let words = self.names.bytes() + self.status_messages.bytes() + self.trace_states.bytes();
        self.row_bytes
            + 150 * self.rows.len()
            + self.origins.bytes()
            + self.keys.bytes()
            + self.attrs.bytes()
            + self.events.bytes()
            + self.links.bytes()
            + self.parts.bytes()
            + words
    }

    /// Adds the spans of a traces request that are neither rejected nor left out by `choice`.
    ///
    /// # Errors
    /// [`PushError`]; nothing was added then.
    pub fn push_request(
        &mut self,
        payload: &[u8],
        info: &RequestInfo<'_>,
        choice: Choice<'_>,
    ) -> Result<Pushed, PushError> {
        self.push(payload, info, choice, None)
    }

    /// As [`SpanColumns::push_request`], and shows each span that becomes a row once, as [`peek::spans`] would show it: who counts
    /// spans needs no walk of its own.
    ///
    /// # Errors
    /// [`PushError`]; nothing was added then, but spans may have been shown.
    pub fn push_shown<'a>(
        &mut self,
        payload: &'a [u8],
        info: &RequestInfo<'_>,
        choice: Choice<'_>,
        mut show: impl FnMut(&SpanPeek<'a, '_>),
    ) -> Result<Pushed, PushError> {
        self.push(payload, info, choice, Some(&mut show))
    }

    fn push<'a>(
        &mut self,
        payload: &'a [u8],
        info: &RequestInfo<'_>,
        choice: Choice<'_>,
        show: Option<Show<'a, '_>>,
    ) -> Result<Pushed, PushError> {
        if self.bytes() > BATCH_BYTES_MAX {
            return Err(PushError::Full);
        }
        let (from, row_bytes) = (self.rows.len(), self.row_bytes);
        let chosen = self.samplings.choose(choice);
        let tenant = self
            .tenants
            .put(info.tenant.as_bytes(), usize::MAX, &mut Tally::default());
        let asked = self.keys.asked().clone();
        let mut push = Push {
            to: self,
            payload,
            shown: show.map(|show| Shown {
                show,
                asked: Asked::new(&asked),
                next: 0,
            }),
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
        // Only now: parts cannot forget a span.
        for row in from..self.rows.len() {
            self.add_to_part(row);
        }
        Ok(pushed)
    }

    fn add_to_part(&mut self, index: usize) {
        let row = &self.rows[index];
        let is_root = row.is_root();
        self.parts.add(Addition {
            tenant: row.tenant,
            trace_id: row.trace_id,
            start: row.start,
            end: row.end.max(row.start),
            arrival: row.arrival,
            service: self.origins.service(row.resource),
            name: row.name,
            route: if is_root {
                self.attrs.word_id("http_route", index)
            } else {
                NONE
            },
            kind: row.kind,
            status: row.status,
            is_root,
            sampling: row.sampling,
        });
    }

    /// Forgets rows from `row` on. Strings and origins that only they used stay until the batch is finished.
    fn truncate(&mut self, row: usize) {
        self.rows.truncate(row);
        self.attrs.truncate(row);
        self.events.truncate(row);
        self.links.truncate(row);
    }

    /// The batches, sorted; the builder is empty afterwards. `part_of` tells the number of the part that this batch adds to a
    /// trace of a tenant: 0 if the trace has none yet.
    pub fn finish_sorted(&mut self, mut part_of: impl FnMut(&str, TraceId) -> i32) -> SpanBatches {
        let order = self.order();
        let rows: Vec<Row> = order.iter().map(|row| self.rows[*row as usize]).collect();
        self.rows.clear();
        let mut batch = Batch::new(Table::Spans, rows.len());

        let tenant_ranks = self.tenants.ranks();
        let tenant_texts: Vec<String> = (0..self.tenants.len())
            .map(|id| String::from_utf8_lossy(self.tenants.get(id as i32)).into_owned())
            .collect();
        let tenants = self.tenants.take();
        let names = self.names.take();
        let origins = self.origins.take_strings();
        let sampling = self.samplings.take_strings();
        let (keys, nested_keys) = (self.keys.take(), self.nested_keys.take());
        let (flags, flag_of) = time::flags();

        self.set_own(&mut batch, &rows, &tenants, &names, &flags, flag_of);
        self.origins
            .set(&mut batch, &origins, rows.iter().map(|row| (row.resource, row.scope)));
        self.samplings
            .set(&mut batch, &sampling, rows.iter().map(|row| row.sampling));
        let routes = self.attrs.take(&mut batch, &keys, &order);
        self.events.take(&mut batch, &nested_keys, &order);
        self.links.take(&mut batch, &nested_keys, &order);

        let strings = traces::Strings {
            tenants: &tenants,
            services: origins.services(),
            names: &names,
            routes: &routes,
            flags: &flags,
            sampling: &sampling,
        };
        let traces = self.parts.take(
            &tenant_ranks,
            &strings,
            &self.samplings,
            &self.caps,
            flag_of,
            |tenant, trace| part_of(&tenant_texts[tenant as usize], trace),
        );
        self.origins.clear();
        self.samplings.clear();
        self.row_bytes = 0;
        SpanBatches {
            spans: batch.finish(),
            traces,
        }
    }

    /// Rows by tenant, service, name, time. Strings are compared once per dictionary, then their ranks are.
    fn order(&self) -> Vec<u32> {
        let (tenants, services, names) = (self.tenants.ranks(), self.origins.service_ranks(), self.names.ranks());
        let mut order: Vec<(u64, u64, u32)> = self
            .rows
            .iter()
            .enumerate()
            .map(|(index, row)| {
                let service = u64::from(services[row.resource as usize]);
                let place =
                    u64::from(tenants[row.tenant as usize]) << 48 | service << 24 | u64::from(names[row.name as usize]);
                (place, row.start, index as u32)
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, _, index)| index).collect()
    }

    fn set_own(
        &mut self,
        batch: &mut Batch,
        rows: &[Row],
        tenants: &ArrayRef,
        names: &ArrayRef,
        flags: &ArrayRef,
        flag_of: impl Fn(Option<TimeFlag>) -> i32,
    ) {
        let moved = |row: &Row| row.time_flag.is_some_and(TimeFlag::moves_date);
        batch.set(
            "date",
            time::dates(
                rows.iter()
                    .map(|row| time::day(if moved(row) { row.arrival } else { row.start })),
            ),
        );
        batch.set("tenant", build::words(tenants, rows.iter().map(|row| row.tenant)));
        batch.set("ts", time::timestamps(rows.iter().map(|row| row.start)));
        batch.set(
            "ts_ns",
            Arc::new(build::primitive::<Int16Type>(
                rows.iter().map(|row| time::below_us(row.start)),
            )),
        );
        if rows.iter().any(|row| row.time_flag.is_some()) {
            self.changes.flag(rows.iter().filter_map(|row| row.time_flag));
            batch.set(
                "ts_flag",
                build::words(flags, rows.iter().map(|row| flag_of(row.time_flag))),
            );
        }
        let durations = rows.iter().map(|row| row.end.saturating_sub(row.start) as i64);
        batch.set("duration_ns", Arc::new(build::primitive::<Int64Type>(durations)));
        let ends = rows.iter().map(|row| (row.end < row.start).then_some(row.end as i64));
        batch.set("end_ns", Arc::new(build::optional::<Int64Type>(ends)));
        batch.set("name", build::words(names, rows.iter().map(|row| row.name)));
        batch.set(
            "kind",
            Arc::new(build::primitive::<Int8Type>(rows.iter().map(|row| row.kind))),
        );
        batch.set(
            "status_code",
            Arc::new(build::primitive::<Int8Type>(rows.iter().map(|row| row.status))),
        );
        batch.set_words(
            "status_message",
            &self.status_messages.take(),
            rows.iter().map(|row| row.status_message),
        );
        batch.set("trace_id", build::ids(rows.iter().map(|row| row.trace_id)));
        batch.set("span_id", build::ids(rows.iter().map(|row| row.span_id)));
        batch.set("parent_span_id", build::ids_or_null(rows.iter().map(|row| row.parent)));
        batch.set_words(
            "trace_state",
            &self.trace_states.take(),
            rows.iter().map(|row| row.trace_state),
        );
        batch.set("flags", time::bits_or_null(rows.iter().map(|row| row.flags)));
        batch.set("is_root", build::booleans(rows.iter().map(Row::is_root)));
        batch.set("is_entry", build::booleans(rows.iter().map(Row::is_entry)));
        for (index, name) in ["dropped_attrs", "dropped_events", "dropped_links"]
            .into_iter()
            .enumerate()
        {
            batch.set(
                name,
                Arc::new(build::primitive::<Int32Type>(
                    rows.iter().map(|row| time::count(row.dropped[index])),
                )),
            );
        }
        batch.set("ingest_ts", time::timestamps(rows.iter().map(|row| row.arrival)));
    }
}

/// Not generic, so that the walk is compiled once, here where all of it can be inlined.
type Show<'a, 'c> = &'c mut dyn FnMut(&SpanPeek<'a, '_>);

/// Whom spans are shown to.
struct Shown<'a, 'c> {
    show: Show<'a, 'c>,
    asked: Asked<'a, 'c>,
    /// Those before were shown, also if their block is begun again.
    next: u32,
}

/// A request on its way in.
struct Push<'a, 'c, 'r> {
    to: &'c mut SpanColumns,
    payload: &'a [u8],
    shown: Option<Shown<'a, 'c>>,
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

impl<'a> Visit<'a> for Push<'a, '_, '_> {
    fn resource(&mut self, resource: Origin<'a>) -> Wire<()> {
        if let Some(shown) = &mut self.shown {
            shown.asked.resource(&resource)?;
        }
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
        let Some((sampling, trace_state)) = self.chosen.entry(ordinal).filter(|_| !listed) else {
            return Ok(());
        };
        let to = &mut *self.to;
        let row = to.rows.len();
        to.attrs.begin(&mut to.keys, row);
        let mut parts = SpanParts {
            caps: &to.caps,
            keys: &mut to.keys,
            nested_keys: &mut to.nested_keys,
            attrs: &mut to.attrs,
            events: &mut to.events,
            links: &mut to.links,
            tally: Tally::default(),
            depth: 1,
            cut: [0; 2],
            asked: match &mut self.shown {
                Some(shown) => {
                    shown.asked.begin();
                    Some(&mut shown.asked)
                }
                None => None,
            },
        };
        let head = item::span(entry, &mut parts)?;
        let (depth, cut, tally) = (parts.depth.max(parts.attrs.depth()), parts.cut, parts.tally);
        if let Some(reason) = self
            .rejected
            .or_else(|| judge::span(&head, entry.len(), depth, &to.caps))
        {
            to.truncate(row);
            self.pushed.refused.push((ordinal, reason));
            return Ok(());
        }
        if let Some(shown) = self.shown.as_mut().filter(|shown| shown.next <= ordinal) {
            let offset = entry.as_ptr() as usize - self.payload.as_ptr() as usize;
            (shown.show)(&shown.asked.shown(ordinal, offset, entry, head));
            shown.next = ordinal + 1;
        }
        self.pushed.tally.add(tally);
        let said = match head.trace_state {
            b"" => None,
            said => to.samplings.said(&self.chosen, head.trace_id, said),
        };
        let sampling = said.unwrap_or(sampling);
        let head = SpanHead {
            trace_state: trace_state.unwrap_or(head.trace_state),
            ..head
        };
        to.end_row(&head, cut, &mut self.pushed.tally, |row| {
            (row.tenant, row.resource, row.scope) = (self.tenant, self.resource, self.scope);
            (row.arrival, row.sampling) = (self.arrival, sampling);
        });
        self.pushed.rows += 1;
        self.pushed.bytes += entry.len() as u64;
        Ok(())
    }
}

impl SpanColumns {
    #[inline]
    fn end_row(&mut self, head: &SpanHead<'_>, cut: [u32; 2], tally: &mut Tally, origin: impl FnOnce(&mut Row)) {
        let cap = self.caps.text_bytes;
        let mut row = Row {
            trace_id: id(head.trace_id),
            span_id: id(head.span_id),
            parent: id(head.parent_span_id),
            start: head.start,
            end: head.end,
            arrival: 0,
            tenant: 0,
            resource: 0,
            scope: 0,
            sampling: 0,
            name: self.names.put(head.name, cap, tally),
            status_message: self.status_messages.put_some(head.status_message, cap, tally),
            trace_state: self.trace_states.put_some(head.trace_state, cap, tally),
            flags: head.flags,
            dropped: [
                head.dropped_attributes.saturating_add(self.attrs.dropped()),
                head.dropped_events.saturating_add(cut[0]),
                head.dropped_links.saturating_add(cut[1]),
            ],
            time_flag: None,
            kind: i8::try_from(head.kind).unwrap_or_default(),
            status: i8::try_from(head.status_code).unwrap_or_default(),
        };
        origin(&mut row);
        let end_before_start = (row.end < row.start).then_some(TimeFlag::EndBeforeStart);
        row.time_flag = TimeFlag::of(row.start, row.arrival, &self.caps).or(end_before_start);
        self.row_bytes += self.origins.row_bytes(row.resource, row.scope);
        self.attrs.end();
        self.events.end_row();
        self.links.end_row();
        self.rows.push(row);
    }
}

/// An id of the length that was judged; zero, which is no id, where there is none.
#[inline]
fn id<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

struct SpanParts<'a, 'c, 'k> {
    caps: &'c Caps,
    keys: &'c mut Keys,
    nested_keys: &'c mut Keys,
    attrs: &'c mut Attrs,
    events: &'c mut Events,
    links: &'c mut Links,
    tally: Tally,
    depth: usize,
    /// Events and links cut.
    cut: [u32; 2],
    asked: Option<&'c mut Asked<'a, 'k>>,
}

impl<'a> Parts<'a> for SpanParts<'a, '_, '_> {
    #[inline]
    fn attribute(&mut self, message: &'a [u8]) -> Wire<()> {
        let (key, raw) = KeyValue::split(message)?;
        self.attrs.push(self.keys, (key, raw), self.caps, &mut self.tally)?;
        if let Some(asked) = &mut self.asked {
            let place = match self.attrs.is_over(self.caps) {
                false => self.keys.asked_place(key),
                true => asked.keys.find(key),
            };
            if let Some(place) = place {
                asked.put(place, raw);
            }
        }
        Ok(())
    }

    fn event(&mut self, message: &'a [u8]) -> Wire<()> {
        let keep = self.events.open() < self.caps.events;
        self.cut[0] += u32::from(!keep);
        self.tally.truncated += u64::from(!keep);
        self.events.push(
            message,
            keep,
            self.nested_keys,
            &mut self.depth,
            self.caps,
            &mut self.tally,
        )
    }

    fn link(&mut self, message: &'a [u8]) -> Wire<()> {
        let keep = self.links.open() < self.caps.links;
        self.cut[1] += u32::from(!keep);
        self.tally.truncated += u64::from(!keep);
        self.links.push(
            message,
            keep,
            self.nested_keys,
            &mut self.depth,
            self.caps,
            &mut self.tally,
        )
    }
}
