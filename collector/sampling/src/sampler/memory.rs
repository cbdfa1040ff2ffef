//! Memory that runs short, or a tenant's number of waiting traces: an admission threshold that rises until what waits fits. Each tenant has its own, and where
//! memory is short it rises for those who take more than their weighted share of it: what they do not take the others may.
//!
//! Every rise walks over the traces that wait: those below the threshold go, whole; those above carry it from then on. Traces of a stratum that
//! keeps all are spared, until sparing the others is not enough. A threshold rises by what is in memory, never by the R of a trace that
//! stays: had its R been larger still, nothing would have come otherwise, so its weight is the inverse of its probability.

use super::decide::summary;
use super::{Output, Sampler};
use crate::allocate::{Claim, fill};
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

/// Traces of one tenant that wait, how many may, and who is let in: by [`Short`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Live {
    pub waiting: u32,
    pub most: Option<u32>,
    of_memory: Admission,
    of_tenant: Admission,
}

impl Live {
    /// Whether more wait than may.
    pub fn is_full(&self) -> bool {
        self.most.is_some_and(|most| self.waiting > most)
    }

    /// Lets more in when there is room again; so much of the memory is used.
    pub fn fall(&mut self, memory: f64) {
        let used = self
            .most
            .map_or(0.0, |most| f64::from(self.waiting) / f64::from(most.max(1)));
        self.of_memory.fall(memory);
        self.of_tenant.fall(used);
    }

    fn admission(&mut self, short: Short) -> &mut Admission {
        match short {
            Short::Memory => &mut self.of_memory,
            Short::OfTenant(_) => &mut self.of_tenant,
        }
    }
}

impl Admission {
    fn is_raised(&self) -> bool {
        self.p != [1.0; 2]
    }

    fn of(&self, is_protected: bool) -> Threshold {
        Threshold::of_probability(self.p[usize::from(is_protected)])
    }

    /// Raises the threshold by a step; answers whether it could. Where few are left to go, those protected share the loss.
    fn raise(&mut self) -> bool {
        let [open, protected] = &mut self.p;
        match *open > PROBABILITY_MIN * 4.0 {
            true => *open *= RISE,
            false if *protected > PROBABILITY_MIN => *protected *= RISE,
            false => return false,
        }
        true
    }

    /// The next step is one for those protected.
    fn exhaust_open(&mut self) {
        self.p[0] = self.p[0].min(PROBABILITY_MIN * 4.0);
    }

    /// Lets more in when there is room again: those protected first.
    fn fall(&mut self, used: f64) {
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

    /// T below which new traces are not let in, for want of memory: the largest of all tenants.
    pub fn admission(&self) -> Threshold {
        let of = |live: &Live| live.of_memory.of(false);
        self.live.iter().map(of).max().unwrap_or(Threshold::ALWAYS)
    }

    /// Whether memory is so short that of every tenant traces go which their stratum would have kept all of: what comes should better wait outside.
    pub fn is_cramped(&self) -> bool {
        let is_short = |live: &Live| live.of_memory.p[1] < 1.0;
        let mut waiting = self.live.iter().filter(|live| live.waiting > 0);
        self.live.iter().any(is_short) && waiting.all(is_short)
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
        if !live.of_memory.is_raised() && !live.of_tenant.is_raised() {
            return None;
        }
        let is_protected = self.is_protected(trace);
        let of_memory = live.of_memory.of(is_protected);
        let of_tenant = live.of_tenant.of(is_protected);
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

    /// By tenant, whether its traces are those to go: whoever takes more than its weighted share of what may wait.
    fn beyond(&self, short: Short, goal: u64) -> Vec<bool> {
        let mut taken = vec![0.0; self.live.len()];
        if let Short::OfTenant(tenant) = short {
            return (0..taken.len()).map(|number| number == tenant as usize).collect();
        }
        for place in self.table.waiting() {
            let trace = self.table.get(place);
            taken[trace.tenant as usize] += self.table.bytes_of(trace) as f64;
        }
        let sum: f64 = taken.iter().sum();
        // What is nobody's own, such as the table of names, goes with the rest.
        let goal = goal as f64 * sum / self.used(short).0.max(1) as f64;
        let claims: Vec<Claim> = taken
            .iter()
            .zip(&self.tenant_shares)
            .map(|(taken, share)| Claim {
                demand: *taken,
                weight: share.weight,
                floor: share.min * goal,
            })
            .collect();
        let shares = fill(goal, &claims);
        taken
            .iter()
            .zip(shares)
            .map(|(taken, share)| *taken > share * (1.0 + 1e-9))
            .collect()
    }

    /// Places of the traces of these tenants.
    fn waiting_of(&self, tenants: &[bool]) -> Vec<u32> {
        let places = self.table.waiting();
        places
            .filter(|place| tenants[self.table.get(*place).tenant as usize])
            .collect()
    }

    /// Makes room: raises thresholds until what waits fits.
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
            let beyond = self.beyond(short, goal);
            let mut can_rise = false;
            for (live, _) in self.live.iter_mut().zip(&beyond).filter(|(_, is_beyond)| **is_beyond) {
                can_rise |= live.admission(short).raise();
            }
            if !can_rise {
                break;
            }
            // By tenant, whether some went, and whether unprotected ones are left.
            let mut found = vec![(false, false); self.live.len()];
            for place in self.waiting_of(&beyond) {
                let is_protected = self.is_protected(self.table.get(place));
                let trace = self.table.get_mut(place);
                let tenant = trace.tenant as usize;
                trace.admitted = trace.admitted.max(self.live[tenant].admission(short).of(is_protected));
                let (some_went, is_open_left) = &mut found[tenant];
                if trace.admitted.keeps(trace.randomness) {
                    *is_open_left |= !is_protected;
                } else {
                    *some_went = true;
                    self.evict(place, short, out);
                }
            }
            if self.used(short).0 > goal {
                let lives = self.live.iter_mut().zip(&beyond).zip(&found);
                lives
                    .filter(|((_, is_beyond), found)| **is_beyond && **found == (false, false))
                    .for_each(|((live, _), _)| live.admission(short).exhaust_open());
            }
        }
        // Few traces, each of them large: they are decided as they stand.
        while self.used(short).0 > self.used(short).1 {
            let places = self.waiting_of(&self.beyond(short, goal));
            if places.is_empty() {
                break;
            }
            places
                .into_iter()
                .for_each(|place| self.decide_now(place, Trigger::Admission, out));
        }
    }
}
