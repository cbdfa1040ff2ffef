//! Decisions: due traces in their strata, the thresholds that the controller finds for them, and what leaves with each.
//!
//! What cannot wait for the tick (a trace at twice its limit of spans, a few large ones that fill the memory) gets what its tenant has at hand by then, and
//! no more than the last tick gave to traces like it.

use std::sync::Arc;

use super::{Live, Output, Sampler, memory};
use crate::controller::{Controller, Item, Shares};
use crate::fault::Fault;
use crate::names::Names;
use crate::policy::{By, Summary, Target};
use crate::table::{HeadRank, Trace};
use crate::threshold::{PROBABILITY_MIN, Threshold};
use crate::verdict::{Decision, TickRow, Trigger, Verdict};

impl<M: Copy> Sampler<M> {
    /// Decides these traces, by their places, in one tick.
    pub(super) fn decide(&mut self, due: &[(u32, Trigger)], rate: f64, out: &mut Output<M>) {
        self.tick += 1;
        let budget = self.live().policy.budget;
        let dt = self.controller.refill(&budget, self.now_ns, rate);
        self.controller.fault = self.fault;
        let tokens = self.controller.tokens[0];
        self.last.clear();
        self.policies.iter_mut().flatten().for_each(|live| live.squeezed = 0);
        // Right after a reload there are two policies, for a trace's life; the older decides first, out of the same tokens.
        let mut numbers: Vec<u32> = due.iter().map(|(place, _)| self.table.get(*place).policy).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            numbers.push(self.current as u32);
        }
        for number in numbers {
            let mut items = self.items(due, number);
            let live = self.policies[number as usize]
                .as_mut()
                .expect("a policy outlives its traces");
            let shares = Shares {
                tenants: &self.tenant_shares,
                services: &self.service_shares,
            };
            live.squeezed = self
                .controller
                .decide(&live.policy, shares, self.now_ns, dt, &mut items);
            let mut kept = Vec::new();
            for item in &mut items {
                let (place, trigger) = due[item.place as usize];
                let trace = self.table.get(place);
                let key = (number, item.tenant, item.stratum, item.key);
                self.last.insert(key, item.threshold);
                let most = self
                    .last
                    .entry((number, item.tenant, item.stratum, u64::MAX))
                    .or_insert(Threshold::ALWAYS);
                *most = (*most).max(item.threshold);
                if self.fault == Fault::OwnR && item.threshold.keeps(item.randomness) {
                    let middle = (item.threshold.bits() + item.randomness.bits()) / 2;
                    item.threshold = Threshold::from_bits(middle).unwrap_or(item.threshold);
                }
                if self.fault != Fault::EvictionWithoutWeight {
                    item.threshold = item.threshold.max(trace.admitted);
                }
                // A dry run pays for what it would keep, or it would say what another budget does.
                if item.threshold.keeps(item.randomness) {
                    kept.push(*item);
                }
                let (stratum, threshold) = (item.stratum, item.threshold);
                self.settle(place, Ok(stratum), threshold, trigger, out);
            }
            kept.iter().for_each(|item| self.controller.charge(item));
        }
        for ((tenant, ..), mut row) in self.rows.drain() {
            row.tenant = String::from_utf8_lossy(self.tenants.name(tenant)).into();
            (row.tokens, row.rate, row.tick, row.at_ns) = (tokens, rate, self.tick, self.now_ns);
            out.ticks.push(row);
        }
        out.ticks.sort_by(|left, right| {
            (&left.tenant, &left.stratum, left.epoch).cmp(&(&right.tenant, &right.stratum, right.epoch))
        });
    }

    /// The due traces of a policy, each in its stratum.
    fn items(&mut self, due: &[(u32, Trigger)], number: u32) -> Vec<Item> {
        let live = self.policies[number as usize]
            .as_ref()
            .expect("a policy outlives its traces");
        let mut items = Vec::with_capacity(due.len());
        for (index, (place, _)) in due.iter().enumerate() {
            let trace = self.table.get(*place);
            if trace.policy == number {
                let (stratum, key) = stratum(live, &self.tenants, &mut self.controller, trace, self.now_ns);
                items.push(item(live, trace, (stratum, key), index as u32));
            }
        }
        items
    }

    /// Decides one trace before the tick.
    pub(super) fn decide_now(&mut self, place: u32, trigger: Trigger, out: &mut Output<M>) {
        let trace = self.table.get(place);
        let live = self.policies[trace.policy as usize]
            .as_ref()
            .expect("a policy outlives its traces");
        let (stratum, key) = stratum(live, &self.tenants, &mut self.controller, trace, self.now_ns);
        let mut item = item(live, trace, (stratum, key), place);
        let known = |key| self.last.get(&(trace.policy, trace.tenant, stratum, key)).copied();
        let last = known(key).or_else(|| known(u64::MAX)).unwrap_or(Threshold::ALWAYS);
        let shares = Shares {
            tenants: &self.tenant_shares,
            services: &self.service_shares,
        };
        let (budget, least) = (self.live().policy.budget, last.max(trace.admitted));
        self.controller
            .alone(&budget, &live.policy, shares, self.now_ns, least, &mut item);
        if item.threshold.keeps(item.randomness) {
            self.controller.charge(&item);
        }
        self.settle(place, Ok(stratum), item.threshold, trigger, out);
    }

    /// Takes a trace out with its answer: what its stratum says, or what was short.
    pub(super) fn settle(
        &mut self,
        place: u32,
        stratum: Result<u16, memory::Short>,
        threshold: Threshold,
        trigger: Trigger,
        out: &mut Output<M>,
    ) {
        let trace = self.table.get(place);
        let live = self.policies[trace.policy as usize]
            .as_mut()
            .expect("a policy outlives its traces");
        live.waiting -= 1;
        self.live[trace.tenant as usize].waiting -= 1;
        let is_dropped = stratum.is_ok_and(|stratum| live.policy.strata[usize::from(stratum)].target == Target::Drop);
        let (is_dry, epoch) = (live.policy.dry_run, live.policy.epoch);
        let reason = match stratum {
            Ok(stratum) => &live.reasons[usize::from(stratum)],
            Err(memory::Short::Memory) => &self.short_reasons[0],
            Err(memory::Short::OfTenant(_)) => &self.short_reasons[1],
        };
        let reason = reason.clone();
        let would = !is_dropped && threshold.keeps(trace.randomness);
        // A dry run keeps what it can; what memory has no room for is gone all the same.
        let is_shadowed = is_dry && stratum.is_ok();
        let decision = Decision {
            threshold: if is_shadowed { trace.admitted } else { threshold },
            reason: reason.clone(),
            epoch,
            is_hashed: trace.is_hashed,
            is_dropped: is_dropped && !is_shadowed,
            by_said: trace.is_said.then_some(would || is_shadowed),
        };
        let given = decision.threshold.given(if trace.is_hashed {
            Threshold::ALWAYS
        } else {
            trace.before
        });
        let keep = would || is_shadowed;
        let (id, mark, tenant) = (trace.id, trace.mark, trace.tenant);
        let (span_count, bytes, cost) = (trace.spans, trace.bytes, trace.cost);
        let (again, again_bytes) = (trace.again, trace.again_bytes);
        let own = self.own(tenant, id);
        let first = out.spans.len();
        self.table.close(place, keep.then_some(&mut out.spans));
        if keep {
            let remembered = match self.fault {
                Fault::LateWithoutWeight => &Decision {
                    threshold: Threshold::ALWAYS,
                    ..decision.clone()
                },
                _ => &decision,
            };
            self.late.keep(self.now_ns, own, remembered);
        } else {
            self.late.drop(self.now_ns, own);
        }
        let row = self.row(tenant, reason, epoch);
        row.seen_traces += 1;
        row.seen_spans += u64::from(span_count);
        row.seen_bytes += bytes;
        row.threshold_min = row.threshold_min.min(threshold);
        row.threshold_max = row.threshold_max.max(threshold);
        if would {
            row.kept_traces += 1;
            row.kept_spans += u64::from(span_count);
            row.kept_bytes += bytes;
            row.kept_cost += cost;
            row.adjusted_traces += threshold.weight();
        }
        out.verdicts.push(Verdict {
            trace: id,
            mark,
            tenant,
            keep,
            decision,
            given,
            trigger,
            shadow: is_shadowed.then_some(threshold),
            span_count,
            bytes,
            again,
            again_bytes,
            cost,
            tick: self.tick,
            spans: first..out.spans.len(),
        });
    }

    /// The row of table `sampling_ticks` that this tick will end with.
    pub(super) fn row(&mut self, tenant: u32, stratum: Arc<str>, epoch: u64) -> &mut TickRow {
        self.rows
            .entry((tenant, stratum, epoch))
            .or_insert_with_key(|(_, stratum, epoch)| TickRow {
                tick: 0,
                at_ns: 0,
                tenant: Arc::from(""),
                stratum: stratum.clone(),
                epoch: *epoch,
                seen_traces: 0,
                seen_spans: 0,
                seen_bytes: 0,
                kept_traces: 0,
                kept_spans: 0,
                kept_bytes: 0,
                kept_cost: 0.0,
                adjusted_traces: 0.0,
                late_spans: 0,
                late_kept_spans: 0,
                threshold_min: Threshold::NEVER,
                threshold_max: Threshold::ALWAYS,
                tokens: 0.0,
                rate: 0.0,
            })
    }
}

/// What conditions ask of a trace as a whole.
pub(super) fn summary<'a, M>(tenants: &'a Names, trace: &Trace<M>) -> Summary<'a> {
    Summary {
        any: trace.any,
        root: trace.root,
        duration_ns: trace.end_ns.saturating_sub(trace.start_ns),
        spans: trace.spans,
        bytes: trace.bytes,
        error: trace.error,
        has_root: trace.head == HeadRank::Root,
        tenant: std::str::from_utf8(tenants.name(trace.tenant)).unwrap_or_default(),
    }
}

/// The first stratum that the trace belongs to, and the key that it is shared by.
fn stratum<M>(live: &Live, tenants: &Names, controller: &mut Controller, trace: &Trace<M>, now_ns: u64) -> (u16, u64) {
    let mut last = 0;
    for at in live.program.matching(summary(tenants, trace)) {
        last = at as u16;
        let print = || live.program.fingerprint(trace.print, trace.error);
        match live.policy.strata[at].target {
            Target::First { count, window_ns } => {
                let key = (trace.tenant, live.slots[at], print());
                if controller.book().first(key, now_ns, count, window_ns) {
                    return (last, 0);
                }
            }
            Target::Share { by, .. } => {
                let key = match by {
                    By::All => 0,
                    // The largest key is not one.
                    By::Fingerprint => print().min(u64::MAX - 1),
                    By::Service => u64::from(trace.service),
                };
                return (last, key);
            }
            Target::All | Target::Drop | Target::Probability(_) => return (last, 0),
        }
    }
    (last, 0)
}

fn item<M>(live: &Live, trace: &Trace<M>, (stratum, key): (u16, u64), place: u32) -> Item {
    // What an upstream stage let through it judged by an R that a hash has nothing to do with.
    let before = if trace.is_hashed {
        Threshold::ALWAYS
    } else {
        trace.before
    };
    Item {
        tenant: trace.tenant,
        stratum,
        slot: live.slots[usize::from(stratum)],
        key,
        service: trace.service,
        cost: [trace.cost, f64::from(trace.spans), trace.bytes as f64],
        survived: before.max(trace.admitted).probability().max(PROBABILITY_MIN),
        randomness: trace.randomness,
        place,
        threshold: Threshold::ALWAYS,
    }
}
