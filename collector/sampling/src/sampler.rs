//! The sampler of one shard or of several: spans go in, verdicts come out.
//!
//! ```text
//!   offer(span) -- Late / Dropped: its trace is decided, follow it
//!               -- Held: it waits with its trace     -- Refused: memory is short, and its trace is not to be kept
//!   tick(now)   -- verdicts of the traces that are due, rows of table `sampling_ticks`
//!   both may put verdicts into the Output: after each of them empty it
//! ```
//!
//! Guarantees: a verdict is a threshold, never a bare keep: a trace is stored iff R >= T, and T depends on contents, on other traces and on
//! the past, never on the trace's own R. Whole traces are decided. Memory stays within its limit by raising T for the traces that wait, so
//! that those which stay carry it in their weight. Time is an argument, ns of the arrival clock; what does not move on is taken as standing.
//! Assumes: spans of one trace come to one sampler, in LSN order; byte-identical requests were taken out before.
//! Leaves out: reading spans ([`tailwater_model::otlp::peek`]), storing, and what happened before a crash: what waits comes back from the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ahash::RandomState;
use tailwater_model::ids::{Lsn, TraceId};
use tailwater_model::otlp::peek::{Keys, SpanPeek};
use xxhash_rust::xxh3::xxh3_64;

use crate::again;
use crate::audit::Audit;
use crate::controller::Controller;
use crate::fault::Fault;
use crate::late::{Late, LateMemory, Memory};
use crate::names::Names;
use crate::own::Own;
use crate::policy::expr::{Quantile, STATUS_ERROR};
use crate::policy::{Policy, Program, Share};
use crate::recent::Recent;
use crate::table::{HeadRank, Opening, Table, Trace};
use crate::threshold::{Randomness, Threshold};
use crate::tracestate::{Missing, Stamp, Upstream};
use crate::verdict::{Decision, SpanAt, TickRow, Trigger, Verdict};
use crate::wheel::{Entry, Wheel};

mod decide;
mod memory;
mod saved;

/// Most services told apart for calibration, weights and the audit.
const SERVICES_MAX: usize = 1 << 16;
/// Most tenants. They come from credentials, so there are few.
const TENANTS_MAX: usize = 1 << 16;
/// A trace of so many bytes is due as one at its limit of spans is. With twice as many of either it is decided at once: what is kept of it is in
/// memory at once.
const TRACE_BYTES: u64 = 32 << 20;
/// What a byte of protobuf takes when stored, until it was measured.
const STORED_PER_BYTE: f64 = 0.1;
/// Reason of traces refused or evicted because memory was short.
pub const ADMISSION: &str = "admission";
/// Reason of traces refused or evicted because their tenant has as many waiting as it may.
pub const LIVE_TRACES: &str = "live_traces";

/// What became of an offered span.
#[derive(Debug, Clone, PartialEq)]
pub enum Offer {
    /// The span waits with its trace.
    Held,
    /// It does already: this one is counted with its trace's verdict ([`Verdict::again`]).
    Again,
    /// The trace was kept: store the span, late, with this decision.
    Late(Decision),
    /// The trace was not kept: neither is the span.
    Dropped,
    /// The trace is not let in; its verdict is in the [`Output`], this span included.
    Refused,
}

/// What came out.
#[derive(Debug)]
pub struct Output<M> {
    /// Traces decided.
    pub verdicts: Vec<Verdict<M>>,
    /// Their spans, by [`Verdict::spans`].
    pub spans: Vec<SpanAt>,
    /// Rows of table `sampling_ticks`.
    pub ticks: Vec<TickRow>,
}

impl<M> Default for Output<M> {
    fn default() -> Output<M> {
        Output {
            verdicts: Vec::new(),
            spans: Vec::new(),
            ticks: Vec::new(),
        }
    }
}

impl<M> Output<M> {
    /// Empties it, and keeps its room.
    pub fn clear(&mut self) {
        self.verdicts.clear();
        self.spans.clear();
        self.ticks.clear();
    }
}

/// What a tick needs to know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    /// Arrival clock, unix ns.
    pub now_ns: u64,
    /// What the governor allows, stored bytes a second; infinite if nothing is behind ([`crate::governor::Governor`]).
    pub rate: f64,
}

/// A policy that traces wait under.
#[derive(Debug)]
struct Live {
    policy: Policy,
    program: Program,
    reasons: Vec<Arc<str>>,
    /// Where the controller remembers each stratum: in one place for all policies that have one of its name.
    slots: Vec<u64>,
    /// By place in the program.
    recent: Arc<Recent>,
    /// Strata that got less than they asked for in the last tick, a bit each.
    squeezed: u64,
    waiting: usize,
}

#[derive(Debug)]
struct Service {
    audit: Audit,
    /// Stored bytes a byte of protobuf takes.
    ratio: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Sampler<M> {
    /// By number; the last is the one for new traces. Those that no trace waits under are gone.
    policies: Vec<Option<Live>>,
    current: usize,
    table: Table<M>,
    /// Where the trace of the last span waits, or waited: the next is often of the same.
    place: u32,
    wheel: Wheel,
    late: LateMemory,
    /// Of the tenants' own traces.
    key: [u8; 16],
    controller: Controller,
    tenants: Names,
    tenant_shares: Vec<Share>,
    services: Names,
    service_shares: Vec<Share>,
    service: Vec<Service>,
    /// T of the last tick by policy, tenant, stratum and key; key `u64::MAX` is the largest of the stratum.
    last: HashMap<(u32, u32, u16, u64), Threshold, RandomState>,
    rows: HashMap<(u32, Arc<str>, u64), TickRow, RandomState>,
    /// By tenant.
    live: Vec<memory::Live>,
    /// By [`memory::Short`].
    short_reasons: [Arc<str>; 2],
    tick: u64,
    /// As of the last tick.
    rate: f64,
    now_ns: u64,
    /// Of what was decided before nothing is known but what was restored.
    begun_ns: u64,
    /// Traces that begin below are due.
    hurried: Lsn,
    fired: Vec<(Entry, u32)>,
    fault: Fault,
}

impl<M: Copy> Sampler<M> {
    /// A sampler that decides by `policy`, whose clock stands at `now_ns`.
    ///
    /// # Errors
    /// A sentence, for a policy that cannot be run; [`crate::policy::read`] answers none of those.
    pub fn new(policy: Policy, memory: Memory, now_ns: u64) -> Result<Sampler<M>, String> {
        let mut sampler = Sampler {
            policies: Vec::new(),
            current: 0,
            table: Table::new(),
            place: 0,
            wheel: Wheel::new(now_ns),
            late: LateMemory::new(memory),
            key: [0; 16],
            controller: Controller::new(),
            tenants: Names::new(TENANTS_MAX),
            tenant_shares: Vec::new(),
            services: Names::new(SERVICES_MAX),
            service_shares: Vec::new(),
            service: Vec::new(),
            last: HashMap::default(),
            rows: HashMap::default(),
            live: Vec::new(),
            short_reasons: [ADMISSION.into(), LIVE_TRACES.into()],
            tick: 0,
            rate: f64::INFINITY,
            now_ns,
            begun_ns: now_ns,
            hurried: Lsn(0),
            fired: Vec::new(),
            fault: Fault::None,
        };
        sampler.reload(policy)?;
        sampler.service.push(Service::new(STORED_PER_BYTE));
        Ok(sampler)
    }

    /// Takes up another policy, for traces that begin from now on; those that wait are decided by theirs. Call it between two requests.
    ///
    /// # Errors
    /// A sentence, for a policy that cannot be run, alone or beside those that traces still wait under; the old one stays.
    pub fn reload(&mut self, policy: Policy) -> Result<(), String> {
        // Traces that wait read the values of later spans by their own policy's places: those stay where they are, and all others are free.
        let waiting = self.policies.iter().flatten().filter(|live| live.waiting > 0);
        let program = Program::beside(&policy, waiting.map(|live| &live.program))?;
        let reasons = policy.strata.iter().map(|stratum| Arc::from(&*stratum.name)).collect();
        let slots = policy.strata.iter().map(|stratum| xxh3_64(stratum.name.as_bytes()));
        let slots = slots.collect();
        // They are by place: for another policy "slow" is unknown until they are said again.
        let before = self.policies.get(self.current).and_then(Option::as_ref);
        let before = before.filter(|live| live.program.quantiles() == program.quantiles());
        let recent = before.map(|live| live.recent.clone()).unwrap_or_default();
        let policies = &mut self.policies;
        policies.push(Some(Live {
            policy,
            program,
            reasons,
            slots,
            recent,
            squeezed: 0,
            waiting: 0,
        }));
        self.current = policies.len() - 1;
        let current = self.current;
        for (place, live) in self.policies.iter_mut().enumerate() {
            if place != current && live.as_ref().is_some_and(|live| live.waiting == 0) {
                *live = None;
            }
        }
        let live = self.policies.iter().flatten();
        let used: HashSet<u64> = live.flat_map(|live| live.slots.iter().copied()).collect();
        self.controller.retain(|slot| used.contains(&slot));
        self.tenant_shares = (0..self.tenants.len() as u32)
            .map(|number| self.tenant_share(number))
            .collect();
        self.service_shares = (0..self.services.len() as u32)
            .map(|number| self.service_share(number))
            .collect();
        Ok(())
    }

    /// Attributes that [`Sampler::offer`] wants in [`SpanPeek::values`]. Ask again after a reload.
    pub fn keys(&self) -> Keys {
        self.live().program.keys()
    }

    /// Quantiles that conditions compare with: hand them in with [`Sampler::set_recent`], by their places here.
    pub fn quantiles(&self) -> &[Quantile] {
        self.live().program.quantiles()
    }

    /// The policy for new traces.
    pub fn policy(&self) -> &Policy {
        &self.live().policy
    }

    /// Recent quantiles of durations, of the window before; they hold until the next ones. Traces that wait under a policy of before keep theirs.
    pub fn set_recent(&mut self, recent: Recent) {
        self.live_mut().recent = Arc::new(recent);
    }

    /// The number of a tenant.
    pub fn tenant(&mut self, name: &str) -> u32 {
        let (number, is_new) = self.tenants.number(name.as_bytes());
        if is_new {
            self.tenant_shares.push(self.tenant_share(number));
        }
        if self.live.len() <= number as usize {
            self.live.resize(number as usize + 1, memory::Live::default());
        }
        number
    }

    /// The id of a tenant's trace among all tenants'.
    pub(crate) fn own(&self, tenant: u32, id: TraceId) -> TraceId {
        Own::of(&self.key, self.tenants.name(tenant)).trace(id)
    }

    /// Tells tenants' traces apart with this key, which no tenant may know, instead of one of zeros. The journal's ids must be made with the same.
    pub fn keyed(mut self, key: [u8; 16]) -> Self {
        self.key = key;
        self
    }

    /// Offers a span. `values` of the peek are those of [`Sampler::keys`]; `open` is asked for a mark when a trace begins to wait.
    pub fn offer(
        &mut self,
        now_ns: u64,
        tenant: u32,
        span: &SpanPeek<'_, '_>,
        at: SpanAt,
        open: impl FnOnce() -> M,
        out: &mut Output<M>,
    ) -> Offer {
        match self.add(now_ns, tenant, span, at, out) {
            Some(offer) => offer,
            None => self.begin(now_ns, tenant, span, at, open, out),
        }
    }

    /// Offers a span, if its trace waits: of those that do not, the caller may know more.
    #[inline]
    pub fn add(
        &mut self,
        now_ns: u64,
        tenant: u32,
        span: &SpanPeek<'_, '_>,
        at: SpanAt,
        out: &mut Output<M>,
    ) -> Option<Offer> {
        let id = TraceId(span.head.trace_id.try_into().unwrap_or_default());
        if !self.table.is_at(self.place, tenant, id) {
            self.place = self.table.find(self.table.hash(tenant, id), tenant, id)?;
        }
        self.now_ns = self.now_ns.max(now_ns);
        Some(self.push(self.place, span, at, false, out))
    }

    /// Offers a span whose trace does not wait.
    pub fn begin(
        &mut self,
        now_ns: u64,
        tenant: u32,
        span: &SpanPeek<'_, '_>,
        at: SpanAt,
        open: impl FnOnce() -> M,
        out: &mut Output<M>,
    ) -> Offer {
        self.now_ns = self.now_ns.max(now_ns);
        let id = TraceId(span.head.trace_id.try_into().unwrap_or_default());
        if let Some(late) = self.late.find(self.own(tenant, id)) {
            return self.late_span(tenant, late);
        }
        let limits = self.live().policy.trace;
        let opening = Opening {
            id,
            mark: open(),
            now_ns: self.now_ns,
            due_ns: self.now_ns.saturating_add(limits.timeout_ns),
            tenant,
            policy: self.current as u32,
        };
        self.live_mut().waiting += 1;
        self.live[tenant as usize].waiting += 1;
        self.place = self.table.open(self.table.hash(tenant, id), opening);
        self.push(self.place, span, at, true, out)
    }

    /// Puts a span to its trace.
    #[inline]
    fn push(&mut self, place: u32, span: &SpanPeek<'_, '_>, at: SpanAt, is_new: bool, out: &mut Output<M>) -> Offer {
        if !self.table.push(place, at, again::key(&span.head)) {
            return Offer::Again;
        }
        let is_nearer = self.take_in(place, span, at, is_new);
        let refused = if is_new { self.refuses(place) } else { None };
        let offer = match refused {
            Some(short) => {
                self.evict(place, short, out);
                Offer::Refused
            }
            None => {
                self.hold(place, is_new, is_nearer, out);
                Offer::Held
            }
        };
        // The table of names may have grown for one that was refused, too.
        if self.bytes() > self.limit_bytes() {
            self.make_room(memory::Short::Memory, out);
        }
        offer
    }

    /// A span was added to a trace: sets its timer, and looks at the limits of the trace and of its tenant.
    #[inline]
    fn hold(&mut self, place: u32, is_new: bool, is_nearer: bool, out: &mut Output<M>) {
        if is_nearer {
            self.set_timer(place, is_new);
        }
        let trace = self.table.get(place);
        let tenant = trace.tenant;
        let limit = self.live_of(trace).policy.trace.span_limit;
        if is_full(trace, limit, 1) {
            if is_full(trace, limit, 2) {
                self.decide_now(place, Trigger::SpanLimit, out);
            } else if trace.due_ns > self.now_ns {
                self.table.get_mut(place).due_ns = self.now_ns;
                self.set_timer(place, false);
            }
        }
        if is_new && self.live[tenant as usize].is_full() {
            self.make_room(memory::Short::OfTenant(tenant), out);
        }
    }

    /// Adds a new span to what is known of its trace. Answers whether its deadline may have come nearer.
    #[inline]
    fn take_in(&mut self, place: u32, span: &SpanPeek<'_, '_>, at: SpanAt, is_new: bool) -> bool {
        let service = self.service_number(span.service_name);
        let ratio = self.service[service as usize].ratio;
        let upstream = Upstream::parse(span.head.trace_state);
        let trace = self.table.get_mut(place);
        let live = self.policies[trace.policy as usize]
            .as_ref()
            .expect("a policy outlives its traces");
        trace.last_ns = self.now_ns;
        trace.bytes += u64::from(at.len);
        trace.cost += f64::from(at.len) * ratio;
        trace.start_ns = trace.start_ns.min(span.head.start);
        trace.end_ns = trace.end_ns.max(span.head.end);
        trace.error |= span.head.status_code == STATUS_ERROR;
        trace.any |= live.program.any_bits(span, trace.any);
        trace.before = trace.before.max(upstream.threshold.unwrap_or(Threshold::ALWAYS));
        if let (Some(said), false) = (upstream.randomness, trace.is_said) {
            (trace.randomness, trace.is_said, trace.is_hashed) = (said, true, false);
        }
        if is_new {
            let audit = &mut self.service[service as usize].audit;
            audit.count(trace.randomness, upstream.threshold);
            // What a span says is never rewritten, even if it is not random.
            if audit.failed && !trace.is_said {
                (trace.randomness, trace.is_hashed) = (Randomness::hashed(trace.id), true);
            }
        }
        let rank = rank(span);
        let is_surer = rank > trace.head;
        if is_new || is_surer || rank == trace.head && span.head.start < trace.head_start_ns {
            let is_rooted = rank == HeadRank::Root && is_surer;
            let head = live.program.head(span, trace.tenant, &live.recent);
            (trace.head, trace.head_start_ns, trace.service) = (rank, span.head.start, service);
            (trace.root, trace.print) = (head.bits, head.print);
            let limits = live.policy.trace;
            if is_rooted {
                trace.due_ns = trace.due_ns.min(self.now_ns.saturating_add(limits.root_settle_ns));
            }
            return is_new || is_surer;
        }
        false
    }

    fn set_timer(&mut self, place: u32, is_new: bool) {
        let trace = self.table.get(place);
        let (idle_ns, seq) = (self.live_of(trace).policy.trace.idle_ns, trace.seq);
        let set = (!is_new).then_some(trace.timer);
        let timer = self.wheel.set(deadline(trace, idle_ns), Entry { place, seq }, set);
        self.table.get_mut(place).timer = timer;
    }

    fn late_span(&mut self, tenant: u32, late: Late) -> Offer {
        match late {
            Late::Kept(decision) => {
                self.late(tenant, &decision, true);
                Offer::Late(decision)
            }
            Late::Dropped => {
                // Which stratum dropped it is not remembered.
                let epoch = self.live().policy.epoch;
                self.count_late(tenant, Arc::from("late"), epoch, false);
                Offer::Dropped
            }
        }
    }

    /// Counts a late span whose decision the caller knew: [`Sampler::begin`] was not asked.
    pub fn late(&mut self, tenant: u32, decision: &Decision, is_kept: bool) {
        self.count_late(tenant, decision.reason.clone(), decision.epoch, is_kept);
    }

    fn count_late(&mut self, tenant: u32, reason: Arc<str>, epoch: u64, is_kept: bool) {
        let row = self.row(tenant, reason, epoch);
        row.late_spans += 1;
        row.late_kept_spans += u64::from(is_kept);
    }

    /// Has the next tick decide the traces whose first span lies below `below`, due or not: the log that they wait in has no more room for them.
    pub fn hurry(&mut self, below: Lsn) {
        self.hurried = self.hurried.max(below);
    }

    /// What was counted since the last tick, as rows of the tick under way: what is settled with it needs not wait for that.
    pub fn counted(&mut self, ticks: &mut Vec<TickRow>) {
        let (tokens, rate) = (self.controller.tokens[0], self.rate);
        for ((tenant, ..), row) in self.rows.drain() {
            ticks.push(TickRow {
                tenant: String::from_utf8_lossy(self.tenants.name(tenant)).into(),
                tick: self.tick + 1,
                at_ns: self.now_ns,
                tokens,
                rate,
                ..row
            });
        }
    }

    /// Decides what is due. Call it every half second or second; with nothing due it still moves the budget on.
    pub fn tick(&mut self, tick: Tick, out: &mut Output<M>) {
        self.now_ns = self.now_ns.max(tick.now_ns);
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(self.now_ns, &mut fired);
        let mut due = Vec::new();
        for (entry, number) in fired.drain(..) {
            let Some(trace) = self.table.owner(entry) else { continue };
            if trace.timer != number {
                continue;
            }
            let live = self.live_of(trace);
            let at_ns = deadline(trace, live.policy.trace.idle_ns);
            if at_ns <= self.now_ns {
                let trigger = match trace.head {
                    _ if is_full(trace, live.policy.trace.span_limit, 1) => Trigger::SpanLimit,
                    HeadRank::Root => Trigger::Root,
                    _ if trace.due_ns <= self.now_ns => Trigger::Timeout,
                    _ => Trigger::Idle,
                };
                due.push((entry.place, trigger));
            } else {
                let timer = self.wheel.set(at_ns, entry, None);
                self.table.get_mut(entry.place).timer = timer;
            }
        }
        self.fired = fired;
        self.add_hurried(&mut due);
        self.rate = tick.rate;
        self.decide(&due, tick.rate, out);
        let used = self.bytes() as f64 / self.limit_bytes() as f64;
        self.live.iter_mut().for_each(|live| live.fall(used));
    }

    /// Adds the traces that [`Sampler::hurry`] was asked for.
    fn add_hurried(&mut self, due: &mut Vec<(u32, Trigger)>) {
        let below = std::mem::take(&mut self.hurried);
        if below == Lsn(0) {
            return;
        }
        let known: HashSet<u32, RandomState> = due.iter().map(|(place, _)| *place).collect();
        let places = self.table.waiting();
        let early = places.filter(|place| self.table.first_lsn(*place) < below && !known.contains(place));
        due.extend(early.map(|place| (place, Trigger::Admission)));
    }

    /// Decides everything that waits, for a shutdown after which nothing is read again.
    pub fn finish(&mut self, tick: Tick, out: &mut Output<M>) {
        self.now_ns = self.now_ns.max(tick.now_ns);
        let due: Vec<_> = self.table.waiting().map(|place| (place, Trigger::Shutdown)).collect();
        self.decide(&due, tick.rate, out);
    }

    /// What a kept span carries out, late or not.
    pub fn stamp(&self, trace: TraceId, upstream: Upstream, decision: &Decision) -> Stamp {
        let missing: Missing = self.live().policy.missing;
        Stamp::of(upstream, trace, decision.threshold, decision.is_hashed, missing)
    }

    /// Says what a byte of protobuf of a service took when it was stored. Without a service it holds for all, also for those that come later.
    /// Call it about once a minute, if anything was stored; a measurement moves what is expected by half of what it says, at most to twice.
    pub fn calibrate(&mut self, service: Option<&str>, stored_per_byte: f64) {
        if !(stored_per_byte > 0.0 && stored_per_byte.is_finite()) {
            return;
        }
        let number = service.map(|name| self.service_number(name.as_bytes()) as usize);
        let services = self
            .service
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| number.is_none_or(|number| number == *at));
        for (_, Service { ratio, .. }) in services {
            // The measurement does not depend on what was expected, so one that comes late corrects nothing twice.
            *ratio = ((*ratio + stored_per_byte) / 2.0).min(2.0 * *ratio).clamp(1e-4, 100.0);
        }
    }

    /// The number of a service.
    #[inline]
    fn service_number(&mut self, name: &[u8]) -> u32 {
        let (number, is_new) = self.services.number(name);
        if is_new {
            // What holds for all is kept with number 0, which has no name.
            self.service.push(Service::new(self.service[0].ratio));
            self.service_shares.push(self.service_share(number));
        }
        number
    }

    /// Memory of what waits, bytes.
    #[inline]
    pub fn bytes(&self) -> u64 {
        (self.table.bytes() + self.wheel.bytes()) as u64
    }

    /// How many traces of a tenant may wait at once; `None` is no limit.
    pub fn limit_live(&mut self, tenant: u32, most: Option<u32>) {
        if let Some(live) = self.live.get_mut(tenant as usize) {
            live.most = most;
        }
    }

    /// Traces that wait.
    pub fn waiting(&self) -> usize {
        self.table.len()
    }

    /// Whether a tenant's trace waits for its decision.
    pub fn waits(&self, tenant: u32, id: TraceId) -> bool {
        let hash = self.table.hash(tenant, id);
        self.table.find(hash, tenant, id).is_some()
    }

    /// Traces remembered, kept and dropped.
    pub fn remembered(&self) -> (usize, usize) {
        self.late.len()
    }

    /// An unknown trace whose spans began at or before this may have been decided already, ns of the clock that [`Sampler::tick`] is told; what was
    /// decided before the last restart is taken for forgotten.
    pub fn forgotten_ns(&self) -> u64 {
        self.late.forgotten_ns().max(self.begun_ns)
    }

    /// How many decisions were forgotten before their time, because more were made than are remembered.
    pub fn crowded_out(&self) -> u64 {
        self.late.crowded_out()
    }

    /// Names of the strata that got less than they asked for in the last tick.
    pub fn squeezed(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().flatten().flat_map(|live| {
            let strata = live.policy.strata.iter().enumerate();
            strata
                .filter(|(at, _)| live.squeezed >> at & 1 != 0)
                .map(|(_, stratum)| &*stratum.name)
        })
    }

    /// Services whose trace ids are not random: R of their traces is a hash, and `rv` is to be written.
    pub fn not_random(&self) -> impl Iterator<Item = &[u8]> {
        let failed = self
            .service
            .iter()
            .enumerate()
            .filter(|(_, service)| service.audit.failed);
        failed.map(|(number, _)| self.services.name(number as u32))
    }

    fn live(&self) -> &Live {
        self.policies[self.current]
            .as_ref()
            .expect("the current policy is live")
    }

    fn live_mut(&mut self) -> &mut Live {
        self.policies[self.current]
            .as_mut()
            .expect("the current policy is live")
    }

    fn live_of(&self, trace: &Trace<M>) -> &Live {
        self.policies[trace.policy as usize]
            .as_ref()
            .expect("a policy outlives its traces")
    }

    fn tenant_share(&self, number: u32) -> Share {
        let policy = &self.live().policy;
        let name = std::str::from_utf8(self.tenants.name(number)).unwrap_or_default();
        policy.tenants.get(name).copied().unwrap_or(policy.tenant)
    }

    fn service_share(&self, number: u32) -> Share {
        let name = std::str::from_utf8(self.services.name(number)).unwrap_or_default();
        self.live().policy.services.get(name).copied().unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn with_fault(mut self, fault: Fault) -> Sampler<M> {
        self.fault = fault;
        self
    }
}

impl Service {
    fn new(ratio: f64) -> Service {
        Service {
            audit: Audit::default(),
            ratio,
        }
    }
}

/// Whether a trace has so many times the spans of its limit, or the bytes.
#[inline]
fn is_full<M>(trace: &Trace<M>, span_limit: u32, times: u32) -> bool {
    trace.spans >= span_limit.saturating_mul(times) || trace.bytes >= TRACE_BYTES * u64::from(times)
}

/// When a trace is due, if nothing more of it comes.
fn deadline<M>(trace: &Trace<M>, idle_ns: u64) -> u64 {
    match trace.head {
        HeadRank::Entry => trace.due_ns.min(trace.last_ns.saturating_add(idle_ns)),
        HeadRank::Root | HeadRank::Any => trace.due_ns,
    }
}

/// OTLP's flags: whether it is known that the parent is remote, and whether it is.
const REMOTE_KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

fn rank(span: &SpanPeek<'_, '_>) -> HeadRank {
    let (server, consumer) = (2, 5);
    if !span.head.parent_span_id.iter().any(|byte| *byte != 0) {
        return HeadRank::Root;
    }
    let is_entry = match span.head.flags & REMOTE_KNOWN {
        0 => [server, consumer].contains(&span.head.kind),
        _ => span.head.flags & REMOTE != 0,
    };
    if is_entry { HeadRank::Entry } else { HeadRank::Any }
}
