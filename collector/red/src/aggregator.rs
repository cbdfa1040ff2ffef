//! Spans in, rows out.

use std::sync::Arc;

use tailwater_config::settings::Red;
use tailwater_model::ids::{SpanId, TraceId};
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::RequestInfo;
use tailwater_model::otlp::judge::TimeFlag;
use tailwater_model::otlp::peek::{self, Keys, Malformed, SpanPeek};
use tailwater_model::red::{EdgeKind, EdgeRow, Exemplar, RedRow, SLICE_NS, Unpaired, WEIGHT_ONE, fixed_weight};
use tailwater_sampling::tracestate::Upstream;

use crate::cells::{Cells, Counted};
use crate::declared::Declared;
use crate::edges::{Joiner, Link, Side};
use crate::guard::{self, Guard};
use crate::keys::Interner;
use crate::rules::{CLIENT, CONSUMER, PRODUCER, Rules, SERVER};
use crate::span::{self, Values};

/// What is counted, and within which bounds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Errors and entries.
    pub rules: Rules,
    /// Keys of a service in two hours.
    pub keys_max: usize,
    /// Services of a tenant in two hours.
    pub services_max: usize,
    /// Attributes to count by.
    pub dimensions: Vec<Arc<str>>,
    /// Calls between services: how long a side waits, ns of the arrival clock, and how many may; `None` joins none.
    pub edges: Option<(u64, usize)>,
    /// What SLOs name.
    pub declared: Vec<Declared>,
    /// Which times are not to be trusted; the same as the intake's.
    pub caps: Caps,
}

impl Settings {
    /// The settings configured.
    pub fn new(red: &Red, declared: Vec<Declared>, caps: Caps) -> Settings {
        let edges = &red.edges;
        let wait_ns = u64::try_from(edges.wait.as_nanos()).unwrap_or(u64::MAX / 4);
        Settings {
            rules: Rules::new(red),
            keys_max: red.keys as usize,
            services_max: red.services as usize,
            dimensions: red.dimensions.get().iter().map(|name| name.as_str().into()).collect(),
            edges: edges.enabled.then_some((wait_ns, edges.waiting as usize)),
            declared,
            caps,
        }
    }
}

/// What a request still has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is new, or above the watermark A of what was counted: count it.
    Count,
    /// It was counted before the crash: only bring back the sides of calls that were waiting.
    Restore,
}

/// What was counted since the last drain.
#[derive(Debug, Clone, Default)]
pub struct Drained {
    /// Rows of `red`, a key and slice once (unless its sums are too large for one).
    pub red: Vec<RedRow>,
    /// Rows of `edges`.
    pub edges: Vec<EdgeRow>,
    /// Spans of `red` whose key lies beyond the limits: a counter to watch.
    pub folded: u64,
}

/// Counts spans.
#[derive(Debug)]
pub struct Aggregator {
    settings: Settings,
    asked: Arc<Keys>,
    guard: Guard,
    interner: Interner,
    cells: Cells,
    joiner: Option<Joiner>,
    has_turned: bool,
    /// Of the request begun.
    arrival_ns: u64,
    mode: Mode,
}

impl Aggregator {
    /// Nothing counted yet.
    pub fn new(settings: Settings) -> Aggregator {
        let dimensions: Vec<String> = settings.dimensions.iter().map(|name| name.to_string()).collect();
        Aggregator {
            asked: Arc::new(span::keys(&dimensions)),
            guard: Guard::default(),
            interner: Interner::new(),
            cells: Cells::default(),
            joiner: settings.edges.map(|(wait_ns, max)| Joiner::new(wait_ns, max)),
            has_turned: false,
            arrival_ns: 0,
            mode: Mode::Count,
            settings,
        }
    }

    /// Counts the spans of a request, but those rejected: [`Aggregator::begin`] and [`Aggregator::count`] over a walk of its own.
    ///
    /// # Errors
    /// [`Malformed`], possibly after some spans were counted; `peek::inspect` refuses such a request before.
    pub fn push_request(&mut self, payload: &[u8], info: &RequestInfo<'_>, mode: Mode) -> Result<(), Malformed> {
        self.begin(info, mode);
        self.walk(payload, info)
    }

    /// A request begins. Records come in the order of the intake log, those of other signals too: the clock of arrivals is what ends the
    /// waiting for the other side of a call.
    pub fn begin(&mut self, info: &RequestInfo<'_>, mode: Mode) {
        if mode == Mode::Count && self.guard.advance(info.arrival_ns) {
            self.interner.turn();
            self.has_turned = true;
        }
        if let Some(joiner) = &mut self.joiner {
            joiner.begin(info.arrival_ns, mode == Mode::Restore);
        }
        self.interner.request(info.tenant);
        (self.arrival_ns, self.mode) = (info.arrival_ns, mode);
    }

    /// Walks the request begun and counts its spans, but those rejected.
    ///
    /// # Errors
    /// As [`Aggregator::push_request`].
    pub fn walk(&mut self, payload: &[u8], info: &RequestInfo<'_>) -> Result<(), Malformed> {
        if payload.is_empty() || !self.wants_spans() {
            return Ok(());
        }
        let asked = self.asked.clone();
        let mut rejected = info.rejected.iter().peekable();
        peek::spans(payload, &asked, |span| {
            if rejected.next_if(|ordinal| **ordinal == span.ordinal).is_none() {
                self.count(span);
            }
            true
        })
    }

    /// The keys that spans are to be shown with.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.asked
    }

    fn wants_spans(&self) -> bool {
        self.mode == Mode::Count || self.joiner.is_some()
    }

    /// Counts a span of the request begun, walked with [`Aggregator::keys`]. Whoever walks leaves out those rejected.
    #[inline]
    pub fn count(&mut self, span: &SpanPeek<'_, '_>) {
        if self.wants_spans() {
            self.span(span, self.arrival_ns, self.mode);
        }
    }

    #[inline]
    fn span(&mut self, span: &SpanPeek<'_, '_>, arrival_ns: u64, mode: Mode) {
        let Aggregator {
            settings,
            guard,
            interner,
            cells,
            joiner,
            ..
        } = self;
        let seen = span::seen(span);
        let (is_entry, is_error) = (settings.rules.is_entry(&seen), settings.rules.is_error(&seen));
        let trace = TraceId(span.head.trace_id.try_into().unwrap_or_default());
        let upstream = Upstream::parse(span.head.trace_state);
        let weight = match upstream.threshold {
            Some(threshold) => fixed_weight(threshold.weight()),
            None => WEIGHT_ONE,
        };
        let (ns, at_ns) = times(span, arrival_ns, &settings.caps);
        let exemplar = Exemplar {
            r: upstream.randomness(trace).bits(),
            ns,
            end_ns: at_ns,
            trace,
            span: SpanId(span.head.span_id.try_into().unwrap_or_default()),
        };
        let counted = Counted {
            slice_ns: at_ns - at_ns % SLICE_NS,
            ns,
            weight,
            exemplar,
        };
        let origin = interner.origin_of(span, guard, settings);
        if mode == Mode::Count {
            let id = interner.key_of(span, &seen, (is_entry, is_error), origin, guard, settings);
            cells.add(id, interner.key_mut(id), &counted);
        }
        let Some(joiner) = joiner else { return };
        let (kind, is_client) = match seen.kind {
            CLIENT => (EdgeKind::Request, true),
            SERVER => (EdgeKind::Request, false),
            PRODUCER => (EdgeKind::Message, true),
            CONSUMER => (EdgeKind::Message, false),
            _ => return,
        };
        let values = Values(span.values);
        let side = Side {
            end: match is_client {
                true => interner.caller(values.peer(), origin, guard, settings),
                false => interner.origin(origin).end.clone(),
            },
            weight,
            exemplar,
            is_error,
        };
        let span = match is_client {
            true => exemplar.span.0,
            false => span.head.parent_span_id.try_into().unwrap_or_default(),
        };
        let link = Link { kind, span };
        match is_client {
            true if values.is_database() => joiner.alone(kind, Some(&side), None, Unpaired::Database),
            true => joiner.client(link, side),
            false if seen.is_root => joiner.alone(kind, None, Some(&side), Unpaired::Root),
            false => joiner.server(link, side),
        }
    }

    /// Hands out what was counted since the last drain.
    pub fn drain(&mut self) -> Drained {
        let drained = Drained {
            folded: self.cells.folded(self.interner.keys()),
            red: self.cells.drain(self.interner.keys()),
            edges: self.joiner.as_mut().map(Joiner::drain).unwrap_or_default(),
        };
        if std::mem::take(&mut self.has_turned) {
            self.interner.forget_keys();
        }
        drained
    }

    /// Cells of `red` that wait for a drain.
    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Sides of calls that wait, or may still be found.
    pub fn waiting(&mut self) -> usize {
        self.joiner.as_mut().map_or(0, Joiner::waiting)
    }

    /// How far behind a record, ns of the arrival clock, a walk in [`Mode::Restore`] must begin to know what was waiting there.
    pub fn restore_ns(&self) -> u64 {
        self.settings.edges.map_or(0, |(wait_ns, _)| wait_ns.saturating_mul(2))
    }

    /// Which keys and services are known: a section of the checkpoint (rule P7).
    pub fn guard(&self) -> Vec<u8> {
        self.guard.encode()
    }

    /// Takes up the known keys and services of a checkpoint, before anything is counted.
    ///
    /// # Errors
    /// [`guard::Malformed`] when the bytes are none.
    pub fn restore_guard(&mut self, bytes: &[u8]) -> Result<(), guard::Malformed> {
        self.guard = Guard::decode(bytes)?;
        self.interner.turn();
        Ok(())
    }
}

/// Duration, and the time that puts the span in its slice: its end, as a request counts when it is answered. A span that ends before it
/// starts, or did not end, is placed by its start; one whose time is not to be trusted by its arrival. All ns.
#[inline]
fn times(span: &SpanPeek<'_, '_>, arrival_ns: u64, caps: &Caps) -> (u64, u64) {
    let (start, end) = (span.head.start, span.head.end);
    // Without a start there is no duration, only the time of day.
    let ns = if start == 0 { 0 } else { end.saturating_sub(start) };
    let at = end.max(start);
    let is_off = TimeFlag::of(at, arrival_ns, caps).is_some_and(TimeFlag::moves_date);
    (ns, if is_off { arrival_ns } else { at })
}
