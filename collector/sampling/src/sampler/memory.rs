//! Memory that runs short: an admission threshold that rises until what waits fits.
//!
//! Every rise walks over the traces that wait: those below the threshold go, whole; those above carry it from then on. Traces of a stratum that
//! keeps all are spared, until sparing the others is not enough. A threshold rises by what is in memory, never by the R of a trace that
//! stays: had its R been larger still, nothing would have come otherwise, so its weight is the inverse of its probability.

use super::{Output, Sampler, summary};
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

impl Admission {
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

    /// Whether a trace that has just begun is not let in. What it was measured against it carries.
    pub(super) fn refuses(&mut self, place: u32) -> bool {
        if self.admission.p == [1.0; 2] {
            return false;
        }
        let trace = self.table.get(place);
        let threshold = self.admission.of(self.is_protected(trace));
        let trace = self.table.get_mut(place);
        trace.admitted = threshold;
        !threshold.keeps(trace.randomness)
    }

    /// Takes out a trace that memory has no room for.
    pub(super) fn evict(&mut self, place: u32, out: &mut Output<M>) {
        let threshold = self.table.get(place).admitted;
        self.settle(place, None, threshold, Trigger::Admission, out);
    }

    /// Makes room: raises the threshold until what waits fits.
    pub(super) fn make_room(&mut self, out: &mut Output<M>) {
        let (table, wheel) = (&self.table, &mut self.wheel);
        if wheel.bytes() > 48 * table.len() {
            wheel.retain(|entry, number| table.owner(entry).is_some_and(|trace| trace.timer == number));
        }
        self.table.shrink();
        let goal = (self.limit_bytes() as f64 * ROOM) as u64;
        while self.bytes() > goal {
            let before = self.bytes();
            let [open, protected] = &mut self.admission.p;
            // Where few are left to go, those protected share the loss.
            match *open > PROBABILITY_MIN * 4.0 {
                true => *open *= RISE,
                false if *protected > PROBABILITY_MIN => *protected *= RISE,
                false => break,
            }
            let places: Vec<u32> = self.table.waiting().collect();
            let mut open_left = false;
            for place in places {
                let is_protected = self.is_protected(self.table.get(place));
                let threshold = self.admission.of(is_protected);
                let trace = self.table.get_mut(place);
                trace.admitted = trace.admitted.max(threshold);
                if trace.admitted.keeps(trace.randomness) {
                    open_left |= !is_protected;
                } else {
                    self.evict(place, out);
                }
            }
            if !open_left && self.bytes() > goal && before == self.bytes() {
                self.admission.p[0] = self.admission.p[0].min(PROBABILITY_MIN * 4.0);
            }
        }
        if self.bytes() > self.limit_bytes() {
            // Few traces, each of them large: they are decided as they stand.
            let places: Vec<u32> = self.table.waiting().collect();
            places
                .into_iter()
                .for_each(|place| self.decide_now(place, Trigger::Admission, out));
        }
    }
}
