//! Memory that runs short, or a tenant's number of waiting traces: an admission threshold that rises until what waits fits. A tenant's own
//! holds for its traces alone.
//!
//! Every rise walks over the traces that wait: those below the threshold go, whole; those above carry it from then on. Traces of a stratum that
//! keeps all are spared, until sparing the others is not enough. A threshold rises by what is in memory, never by the R of a trace that
//! stays: had its R been larger still, nothing would have come otherwise, so its weight is the inverse of its probability.

use super::decide::summary;
use super::{Output, Sampler};
use crate::policy::Target;
use crate::table::Trace;
use crate::threshold::{PROBABILITY_MIN, Threshold};
use crate::verdict::Trigger;

/// Steps of the probability of being let in.
const RISE: f64 = 0.75;
const FALL: f64 = 1.25;
/// Share of the limit below which the threshold falls.
const LOW: f64 = 0.7;
/// What a rise makes room for, of the limit, so that the next span does not walk over everything again.
const ROOM: f64 = 0.97;

/// Who is let in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    /// Traces not protected, and protected ones.
    p: [f64; 2],
}

impl Default for Admission {
    fn default() -> Admission {
        Admission { p: [1.0; 2] }
    }
}

/// Of what there is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// Memory of all that waits.
    Memory,
    /// Traces that this tenant may have waiting.
    OfTenant(u32),
}

/// Traces of one tenant that wait, how many may, and who is let in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Live {
    pub waiting: u32,
    pub most: Option<u32>,
    admission: Admission,
}

impl Live {
    /// Whether more wait than may.
    pub fn is_full(&self) -> bool {
        self.most.is_some_and(|most| self.waiting > most)
    }

    /// Lets more in when there is room again.
    pub fn fall(&mut self) {
        let used = self
            .most
            .map_or(0.0, |most| f64::from(self.waiting) / f64::from(most.max(1)));
        self.admission.fall(used);
    }
}

impl Admission {
    fn is_raised(&self) -> bool {
        self.p != [1.0; 2]
    }

    pub fn threshold(&self) -> Threshold {
        self.of(false)
    }

    fn of(&self, is_protected: bool) -> Threshold {
        Threshold::of_probability(self.p[usize::from(is_protected)])
    }

    /// Lets more in when there is room again: those protected first.
    pub fn fall(&mut self, used: f64) {
        if used < LOW {
            let class = usize::from(self.p[1] < 1.0);
            self.p[class] = (self.p[class] * FALL).min(1.0);
        }
    }
}

impl<M: Copy> Sampler<M> {
    pub(super) fn limit_bytes(&self) -> u64 {
        self.live().policy.trace.buffer_bytes
    }

    /// Whether memory is so short that traces go which their stratum would have kept all of: what comes should better wait outside.
    pub fn is_cramped(&self) -> bool {
        self.admission.p[1] < 1.0
    }

    /// Whether a trace is in a stratum that keeps all of it.
    fn is_protected(&self, trace: &Trace<M>) -> bool {
        let live = self.live_of(trace);
        let first = live
            .program
            .matching(summary(&self.tenants, trace))
            .find(|at| !matches!(live.policy.strata[*at].target, Target::First { .. }));
        first.is_some_and(|at| live.policy.strata[at].target == Target::All && live.policy.strata[at].when.is_some())
    }

    /// Whether a trace that has just begun is not let in, and for want of what. What it was measured against it carries.
    pub(super) fn refuses(&mut self, place: u32) -> Option<Short> {
        let trace = self.table.get(place);
        let live = &self.live[trace.tenant as usize];
        if !self.admission.is_raised() && !live.admission.is_raised() {
            return None;
        }
        let is_protected = self.is_protected(trace);
        let of_memory = self.admission.of(is_protected);
        let of_tenant = live.admission.of(is_protected);
        let trace = self.table.get_mut(place);
        trace.admitted = of_memory.max(of_tenant);
        if trace.admitted.keeps(trace.randomness) {
            return None;
        }
        Some(match of_memory.keeps(trace.randomness) {
            true => Short::OfTenant(trace.tenant),
            false => Short::Memory,
        })
    }

    /// Takes out a trace that there is no room for.
    pub(super) fn evict(&mut self, place: u32, short: Short, out: &mut Output<M>) {
        let threshold = self.table.get(place).admitted;
        self.settle(place, Err(short), threshold, Trigger::Admission, out);
    }

    /// How much waits, against what may.
    fn used(&self, short: Short) -> (u64, u64) {
        match short {
            Short::Memory => (self.bytes(), self.limit_bytes()),
            Short::OfTenant(tenant) => {
                let live = &self.live[tenant as usize];
                (live.waiting.into(), live.most.map_or(u64::MAX, u64::from))
            }
        }
    }

    fn admission_of(&mut self, short: Short) -> &mut Admission {
        match short {
            Short::Memory => &mut self.admission,
            Short::OfTenant(tenant) => &mut self.live[tenant as usize].admission,
        }
    }

    /// Places of the traces that count.
    fn waiting_of(&self, short: Short) -> Vec<u32> {
        let counts = |place: &u32| match short {
            Short::Memory => true,
            Short::OfTenant(tenant) => self.table.get(*place).tenant == tenant,
        };
        self.table.waiting().filter(counts).collect()
    }

    /// Makes room: raises the threshold until what waits fits.
    pub(super) fn make_room(&mut self, short: Short, out: &mut Output<M>) {
        if short == Short::Memory {
            let (table, wheel) = (&self.table, &mut self.wheel);
            if wheel.bytes() > 48 * table.len() {
                wheel.retain(|entry, number| table.owner(entry).is_some_and(|trace| trace.timer == number));
            }
            self.table.shrink();
        }
        let goal = (self.used(short).1 as f64 * ROOM) as u64;
        while self.used(short).0 > goal {
            let before = self.used(short).0;
            let [open, protected] = &mut self.admission_of(short).p;
            // Where few are left to go, those protected share the loss.
            match *open > PROBABILITY_MIN * 4.0 {
                true => *open *= RISE,
                false if *protected > PROBABILITY_MIN => *protected *= RISE,
                false => break,
            }
            let raised = *self.admission_of(short);
            let mut open_left = false;
            for place in self.waiting_of(short) {
                let is_protected = self.is_protected(self.table.get(place));
                let trace = self.table.get_mut(place);
                trace.admitted = trace.admitted.max(raised.of(is_protected));
                if trace.admitted.keeps(trace.randomness) {
                    open_left |= !is_protected;
                } else {
                    self.evict(place, short, out);
                }
            }
            let after = self.used(short).0;
            if !open_left && after > goal && before == after {
                let open = &mut self.admission_of(short).p[0];
                *open = open.min(PROBABILITY_MIN * 4.0);
            }
        }
        let (used, most) = self.used(short);
        if used > most {
            // Few traces, each of them large: they are decided as they stand.
            self.waiting_of(short)
                .into_iter()
                .for_each(|place| self.decide_now(place, Trigger::Admission, out));
        }
    }
}
