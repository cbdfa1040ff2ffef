//! What a tenant got of a resource, among its strata and, within a shared one, among its keys.
//!
//! Strata have their turn in the order of the policy, each up to its caps; those with a target of their own may borrow, and a little is kept back for the
//! shared ones. Leaves out: what a tenant gets.

use std::collections::HashMap;

use ahash::RandomState;

use super::{
    Cell, Controller, DEBT_MIN, Item, Shares, at_hand, is_shared, limit, mean_cost, range, runs, slot, wanted,
};
use crate::allocate::{Claim, fill, solve};
use crate::policy::{Policy, Target};

/// A bucket of tokens with the time it was filled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    pub tokens: f64,
    filled_ns: u64,
}

impl Bucket {
    /// Whatever time went by without it being asked for, there is no more in it than a burst, or a tick that is longer.
    fn fill(&mut self, now_ns: u64, rate: f64, burst_s: f64) {
        let dt_ns = now_ns.saturating_sub(self.filled_ns);
        let most = rate * burst_s;
        self.tokens = (self.tokens + rate * (dt_ns as f64 / 1e9)).min(most);
        self.filled_ns = now_ns;
    }
}

/// What a tenant may still use.
pub(super) struct Grant {
    pub left: f64,
    /// Beyond that, for strata with a target of their own.
    pub borrow: f64,
    /// Kept back for shared strata.
    pub shared: f64,
    /// What each of the others gets in debt.
    pub aimed: f64,
    /// What caps are a share of, a second.
    pub rate: f64,
    /// Of the tick.
    pub seconds: f64,
}

impl Controller {
    /// Divides what a tenant got.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn tenant(
        &mut self,
        policy: &Policy,
        shares: Shares<'_>,
        now_ns: u64,
        items: &[Item],
        cells: &mut [Cell],
        resource: usize,
        mut grant: Grant,
    ) {
        let strata: Vec<_> = runs(cells, |cell| u32::from(cell.stratum)).collect();
        for own in strata {
            let cells = &mut cells[own];
            let (tenant, number) = (cells[0].tenant, cells[0].stratum);
            let stratum = &policy.strata[usize::from(number)];
            let mut most = f64::INFINITY;
            let caps = [(stratum.cap.unwrap_or(1.0) * grant.rate, stratum.cap.is_some()), {
                let limit = limit(stratum, resource);
                (limit, limit.is_finite())
            }];
            for (kind, (rate, _)) in caps
                .into_iter()
                .enumerate()
                .filter(|(_, (rate, is_set))| *is_set && rate.is_finite())
            {
                let burst_s = (policy.budget.burst_ns as f64 / 1e9).max(grant.seconds);
                let full = Bucket {
                    tokens: rate * burst_s,
                    filled_ns: now_ns,
                };
                let bucket = self
                    .buckets
                    .entry((tenant, slot(items, &cells[0]), 2 * resource + kind))
                    .or_insert(full);
                bucket.fill(now_ns, rate, burst_s);
                let tick = rate * grant.seconds;
                let usable = at_hand(bucket.tokens, tick, mean_cost(policy, range(items, cells), resource));
                most = most.min(usable.max(DEBT_MIN * tick));
            }
            let wants: f64 = cells.iter().map(|cell| wanted(policy, items, cell, resource)).sum();
            let given = match &stratum.target {
                Target::Drop => 0.0,
                Target::All | Target::First { .. } | Target::Probability(_) => {
                    let given = wants
                        .min(most)
                        .min((grant.left + grant.borrow - grant.shared).max(grant.aimed));
                    for cell in cells.iter_mut().filter(|_| given < wants) {
                        let p = solve(&mut pairs(items, cell, resource), given);
                        cell.p = cell.p.min(p);
                    }
                    given
                }
                Target::Share {
                    alpha, floor_per_sec, ..
                } => {
                    let given = wants.min(most).min(grant.left.max(grant.shared));
                    let mut claims = self.claims(shares, now_ns, items, cells, resource, (*alpha, *floor_per_sec));
                    service_floors(shares, cells, given, &mut claims);
                    for (cell, granted) in cells.iter_mut().zip(fill(given, &claims)) {
                        let p = solve(&mut pairs(items, cell, resource), granted);
                        cell.p = cell.p.min(p);
                    }
                    given
                }
            };
            if given < wants * (1.0 - 1e-9) {
                self.squeezed |= 1 << number;
            }
            grant.left -= given;
            if is_shared(policy, &cells[0]) {
                grant.shared = 0.0;
            }
        }
    }

    fn claims(
        &mut self,
        shares: Shares<'_>,
        now_ns: u64,
        items: &[Item],
        cells: &[Cell],
        resource: usize,
        (alpha, floor_per_sec): (f64, f64),
    ) -> Vec<Claim> {
        let claim = |cell: &Cell| {
            let demand: f64 = items[cell.items.clone()].iter().map(|item| item.cost[resource]).sum();
            let count = cell.items.len() as f64;
            let floor = match floor_per_sec > 0.0 {
                true => self
                    .book
                    .credit((cell.tenant, slot(items, cell), cell.key), now_ns, floor_per_sec),
                false => 0.0,
            };
            Claim {
                demand,
                weight: (shares.services[cell.service as usize].weight * demand.powf(alpha)).max(f64::MIN_POSITIVE),
                floor: demand * (floor / count).min(1.0),
            }
        };
        cells.iter().map(claim).collect()
    }
}

fn pairs(items: &[Item], cell: &Cell, resource: usize) -> Vec<(f64, f64)> {
    items[cell.items.clone()]
        .iter()
        .map(|item| (item.survived, item.cost[resource]))
        .collect()
}

/// Raises the floors of keys whose services have a minimum share.
fn service_floors(shares: Shares<'_>, cells: &[Cell], given: f64, claims: &mut [Claim]) {
    let mut demand: HashMap<u32, f64, RandomState> = HashMap::default();
    let has_min = |cell: &Cell| shares.services[cell.service as usize].min > 0.0;
    for (cell, claim) in cells.iter().zip(claims.iter()).filter(|(cell, _)| has_min(cell)) {
        *demand.entry(cell.service).or_default() += claim.demand;
    }
    for (cell, claim) in cells.iter().zip(claims).filter(|(cell, _)| has_min(cell)) {
        let share = shares.services[cell.service as usize].min * given * claim.demand / demand[&cell.service];
        claim.floor = claim.floor.max(share);
    }
}
