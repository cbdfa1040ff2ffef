//! Parts of traces: what the spans of a trace in one batch add up to.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Int8Type, Int32Type, Int64Type};
use hashbrown::HashMap;

use super::build::{self, Batch};
use super::dict::NONE;
use super::sampling::{SamplingStrings, Samplings};
use super::time;
use crate::ids::TraceId;
use crate::otlp::caps::Caps;
use crate::otlp::judge::TimeFlag;
use crate::table::Table;

/// Services that a part names.
const SERVICES_MAX: usize = 64;

/// What a span adds to its trace. Ids are those of the span batch's dictionaries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addition {
    pub(super) tenant: i32,
    pub(super) trace_id: [u8; 16],
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) arrival: u64,
    pub(super) service: i32,
    pub(super) name: i32,
    pub(super) route: i32,
    pub(super) kind: i8,
    pub(super) status: i8,
    pub(super) is_root: bool,
    pub(super) sampling: u32,
}

#[derive(Debug, Clone)]
struct Part {
    first: Addition,
    min: u64,
    max: u64,
    arrival: u64,
    spans: u32,
    errors: u32,
    root: Option<Addition>,
    services: Services,
}

/// Few services inline, more on the heap.
#[derive(Debug, Clone, Default)]
struct Services {
    len: usize,
    inline: [i32; 6],
    more: Vec<i32>,
}

impl Services {
    fn iter(&self) -> impl Iterator<Item = i32> {
        self.inline[..self.len].iter().chain(&self.more).copied()
    }

    #[inline]
    fn add(&mut self, service: i32) {
        if service == NONE || self.iter().any(|known| known == service) {
            return;
        }
        if let Some(place) = self.inline.get_mut(self.len) {
            *place = service;
            self.len += 1;
        } else if self.len + self.more.len() < SERVICES_MAX {
            self.more.push(service);
        }
    }
}

/// The parts of a batch.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: Vec<Part>,
    index: HashMap<(i32, [u8; 16]), u32, ahash::RandomState>,
    last: usize,
}

/// The strings that parts refer to.
pub(super) struct Strings<'a> {
    pub(super) tenants: &'a ArrayRef,
    pub(super) services: &'a ArrayRef,
    pub(super) names: &'a ArrayRef,
    pub(super) routes: &'a ArrayRef,
    pub(super) flags: &'a ArrayRef,
    pub(super) sampling: &'a SamplingStrings,
}

impl Parts {
    #[inline]
    pub(super) fn add(&mut self, span: Addition) {
        let same = |part: &Part| part.first.trace_id == span.trace_id && part.first.tenant == span.tenant;
        if !self.parts.get(self.last).is_some_and(same) {
            let next = self.parts.len() as u32;
            self.last = *self.index.entry((span.tenant, span.trace_id)).or_insert(next) as usize;
            if self.last == self.parts.len() {
                self.parts.push(Part {
                    first: span,
                    min: span.start,
                    max: span.end,
                    arrival: span.arrival,
                    spans: 0,
                    errors: 0,
                    root: None,
                    services: Services::default(),
                });
            }
        }
        let part = &mut self.parts[self.last];
        part.min = part.min.min(span.start);
        part.max = part.max.max(span.end);
        part.arrival = part.arrival.max(span.arrival);
        part.spans += 1;
        part.errors += u32::from(span.status == 2);
        if span.is_root && part.root.is_none() {
            part.root = Some(span);
        }
        part.services.add(span.service);
    }

    pub(super) fn bytes(&self) -> usize {
        200 * self.parts.len()
    }

    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.index.clear();
        self.last = 0;
    }

    /// The `traces` batch. `ranks` orders tenants; `part_of` numbers the parts; `flag_of` names flags.
    pub(super) fn take(
        &mut self,
        ranks: &[u32],
        strings: &Strings<'_>,
        samplings: &Samplings,
        caps: &Caps,
        flag_of: impl Fn(Option<TimeFlag>) -> i32,
        mut part_of: impl FnMut(i32, TraceId) -> i32,
    ) -> RecordBatch {
        let mut parts = std::mem::take(&mut self.parts);
        self.clear();
        parts.sort_unstable_by_key(|part| (ranks[part.first.tenant as usize], part.first.trace_id));
        let flags: Vec<Option<TimeFlag>> = parts
            .iter()
            .map(|part| TimeFlag::of(part.min, part.arrival, caps))
            .collect();
        let mut batch = Batch::new(Table::Traces, parts.len());
        let days = parts
            .iter()
            .zip(&flags)
            .map(|(part, flag)| time::day(if flag.is_some() { part.arrival } else { part.min }));
        batch.set("date", time::dates(days));
        batch.set(
            "tenant",
            build::words(strings.tenants, parts.iter().map(|part| part.first.tenant)),
        );
        batch.set("trace_id", build::ids(parts.iter().map(|part| part.first.trace_id)));
        batch.set("ts_min", time::timestamps(parts.iter().map(|part| part.min)));
        batch.set("ts_max", time::timestamps(parts.iter().map(|part| part.max)));
        batch.set(
            "ts_flag",
            build::words(strings.flags, flags.iter().map(|flag| flag_of(*flag))),
        );
        let numbers = parts
            .iter()
            .map(|part| part_of(part.first.tenant, TraceId(part.first.trace_id)));
        batch.set("part", Arc::new(build::primitive::<Int32Type>(numbers)));
        let durations = parts.iter().map(|part| part.max.saturating_sub(part.min) as i64);
        batch.set("duration_ns", Arc::new(build::primitive::<Int64Type>(durations)));
        let root = |field: fn(&Addition) -> i32| parts.iter().map(move |part| part.root.as_ref().map_or(NONE, field));
        batch.set_words("root_service", strings.services, root(|root| root.service));
        batch.set_words("root_name", strings.names, root(|root| root.name));
        batch.set_words("http_route", strings.routes, root(|root| root.route));
        let kinds = parts.iter().map(|part| part.root.map(|root| root.kind));
        batch.set("root_kind", Arc::new(build::optional::<Int8Type>(kinds)));
        let statuses = parts.iter().map(|part| part.root.map(|root| root.status));
        batch.set("root_status", Arc::new(build::optional::<Int8Type>(statuses)));
        batch.set(
            "span_count",
            Arc::new(build::primitive::<Int32Type>(
                parts.iter().map(|part| time::count(part.spans)),
            )),
        );
        batch.set(
            "error_count",
            Arc::new(build::primitive::<Int32Type>(
                parts.iter().map(|part| time::count(part.errors)),
            )),
        );
        let offsets = build::offsets(parts.iter().map(|part| part.services.len + part.services.more.len()));
        let services = build::words(strings.services, parts.iter().flat_map(|part| part.services.iter()));
        batch.set("services", build::list(&batch.data_type("services"), offsets, services));
        samplings.set(
            &mut batch,
            strings.sampling,
            parts.iter().map(|part| part.first.sampling),
        );
        batch.set("ingest_ts", time::timestamps(parts.iter().map(|part| part.arrival)));
        batch.finish()
    }
}
