//! From the demand of a due batch and a token bucket with debt to a threshold per stratum, or per key of a shared one.
//!
//! ```text
//!   tokens <- min(burst min(B, r), tokens + min(B, r) dt)          B: the rate of the budget, or what is left of the day over its time
//!   tenants: weighted max-min of tokens - sum of b            r: what the governor allows      b: what a tenant is ahead, or owes
//!     strata in order, each up to its caps, into a bounded debt     -> a_s
//!     what is left: by keys, demand^alpha, floors first             -> a_k
//!   p from  sum c_i min(1, p / p_i) = a      (c_i exact, p_i: what the trace has survived)      T = quantised(1 - p)
//!   tokens <- tokens - cost of what was kept                 b <- b + granted - cost of what was kept
//! ```
//!
//! Guarantees: every T is fixed by costs, contents and the past alone (with `hard`, also by the R of one trace that is not kept, and of those in strata
//! with a target of their own); the sum of what is kept differs from the budget by the noise of a tick and the burst, however the traffic moves. Debt is
//! what corrects, in the next tick, or in the next few where a tick pays for few traces; there is no prediction. A tenant's debt is its own: what all share is
//! what there would be if everybody had kept what was granted, so others get what they would without it. Who owes claims that much more, with traces or without.
//! Here is what each tenant gets; `strata` divides that, `hard` cuts it.

use std::collections::HashMap;
use std::ops::Range;

use ahash::RandomState;

use crate::allocate::{Claim, fill};
use crate::book::Book;
use crate::fault::Fault;
use crate::policy::{Budget, Policy, Share, Target};
use crate::threshold::{Randomness, Threshold};

mod hard;
mod strata;

use strata::{Bucket, Grant};

/// Bytes as stored, spans, and bytes as received; budgets are of the first two alone.
pub(crate) const RESOURCES: usize = 3;
const BYTES: usize = 0;
const SPANS: usize = 1;

/// What shared strata get of a tick's budget before those with a target of their own, and in debt too; and what those get in debt. With nothing
/// they would keep a trace of 2^14, and its weight would drown every estimate.
const DEBT_MIN: f64 = 0.1;

/// How many traces a tick has to pay for before debt is repaid in one.
const STEADY: f64 = 16.0;

/// Shortest time that what a trace gets alone is meant for. More may come at once that cannot wait, and what they get beyond it makes a debt.
const ALONE_MIN_S: f64 = 1e-2;

/// Ticks are expected this often; the first has no other to be measured from.
const FIRST_TICK_NS: u64 = 1_000_000_000;
const DAY_NS: u64 = 86_400_000_000_000;

/// A due trace, as far as budgets go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub tenant: u32,
    /// Of its policy.
    pub stratum: u16,
    /// Of the stratum's name: what is remembered of it outlives its policy.
    pub slot: u64,
    /// Between whom its stratum is shared; 0 if it is not.
    pub key: u64,
    pub service: u32,
    /// By resource.
    pub cost: [f64; RESOURCES],
    /// The probability with which it has come this far, above 0.
    pub survived: f64,
    pub randomness: Randomness,
    /// Where the caller has it.
    pub place: u32,
    /// The answer.
    pub threshold: Threshold,
}

/// Traces that get one threshold: a run of items.
#[derive(Debug, Clone)]
struct Cell {
    tenant: u32,
    stratum: u16,
    key: u64,
    service: u32,
    items: Range<usize>,
    p: f64,
}

/// Shares by number, looked up by the caller's interning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shares<'a> {
    pub tenants: &'a [Share],
    pub services: &'a [Share],
}

/// What a tenant has had of what it was granted, by resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Account {
    /// What it is ahead (above 0), or owes.
    pub balance: [f64; RESOURCES],
    /// What it was granted of the next tick, for traces that could not wait for it; and what they would have taken.
    pub early: [f64; RESOURCES],
    pub asked: [f64; RESOURCES],
    /// When the last of them came.
    pub early_ns: u64,
    /// Whether it had traces in the last tick, or before it.
    pub is_present: bool,
}

/// What the controller remembers from tick to tick.
#[derive(Debug)]
pub(crate) struct Controller {
    pub tokens: [f64; RESOURCES],
    /// By tenant, as far as they had traces.
    pub accounts: Vec<Account>,
    pub last_ns: u64,
    pub day: u64,
    pub day_spent: f64,
    /// What the buckets were filled with at the last tick, by resource, a second.
    rates: [f64; RESOURCES],
    /// What the budget alone would allow, by resource, a second.
    budgets: [f64; RESOURCES],
    /// What may be saved up, by resource.
    most: [f64; RESOURCES],
    /// What the governor allowed at the last tick.
    governed: f64,
    /// Of tenant, slot and kind: resource * 2, + 1 for an absolute limit.
    buckets: HashMap<(u32, u64, usize), Bucket, RandomState>,
    book: Book,
    /// Strata that got less than they asked for, a bit each.
    squeezed: u64,
    /// What each tenant of the tick got, by resource.
    granted: Vec<(u32, [f64; RESOURCES])>,
    pub fault: Fault,
}

impl Controller {
    pub fn new() -> Controller {
        Controller {
            tokens: [0.0; RESOURCES],
            accounts: Vec::new(),
            last_ns: 0,
            day: 0,
            day_spent: 0.0,
            rates: [f64::INFINITY; RESOURCES],
            budgets: [f64::INFINITY; RESOURCES],
            most: [f64::INFINITY; RESOURCES],
            governed: f64::INFINITY,
            buckets: HashMap::default(),
            book: Book::default(),
            squeezed: 0,
            granted: Vec::new(),
            fault: Fault::None,
        }
    }

    /// Where the first ones of a fingerprint are counted.
    pub fn book(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Forgets what belongs to slots that no policy has any more.
    pub fn retain(&mut self, is_used: impl Fn(u64) -> bool) {
        self.buckets.retain(|(_, slot, _), _| is_used(*slot));
        self.book.retain(is_used);
    }

    /// Fills the buckets for a tick; `rate` is what the governor allows, stored bytes a second. Answers the time since the last, seconds.
    pub fn refill(&mut self, budget: &Budget, now_ns: u64, rate: f64) -> f64 {
        self.governed = rate;
        let dt_ns = self.since_tick(now_ns);
        self.set_rates(budget, now_ns, dt_ns);
        self.tokens = [0, 1, 2].map(|resource| self.filled(resource, dt_ns));
        self.accounts.iter_mut().for_each(|account| account.is_present = false);
        self.last_ns = now_ns;
        dt_ns as f64 / 1e9
    }

    fn since_tick(&self, now_ns: u64) -> u64 {
        match self.last_ns {
            0 => FIRST_TICK_NS,
            // Of a checkpoint, written before the clock was set back: while a sampler runs its time does not step back.
            last if last > now_ns => FIRST_TICK_NS,
            last => now_ns - last,
        }
    }

    fn set_rates(&mut self, budget: &Budget, now_ns: u64, dt_ns: u64) {
        let day = now_ns / DAY_NS;
        if day != self.day {
            (self.day, self.day_spent) = (day, 0.0);
        }
        let day_left = DAY_NS - now_ns % DAY_NS;
        let of_day = (budget.bytes_per_day - self.day_spent).max(0.0) / (day_left as f64 / 1e9).max(1.0);
        let budgets = [budget.bytes_per_sec.min(of_day), budget.spans_per_sec, f64::INFINITY];
        self.rates = [budgets[BYTES].min(self.governed), budgets[SPANS], f64::INFINITY];
        // Without a budget it is the governor's rate that buckets are sized and shares are made of.
        self.budgets = [0, 1, 2].map(|at: usize| {
            if budgets[at].is_finite() {
                budgets[at]
            } else {
                self.rates[at]
            }
        });
        // What was saved is not for when the governor says that there is less.
        self.most = self.rates.map(|rate| rate * (budget.burst_ns.max(dt_ns) as f64 / 1e9));
    }

    /// The tokens so long after the last tick.
    fn filled(&self, resource: usize, dt_ns: u64) -> f64 {
        // Endless tokens stay so only while the budget is endless.
        let before = Some(self.tokens[resource]).filter(|tokens| tokens.is_finite());
        let come = self.rates[resource] * (dt_ns as f64 / 1e9);
        // What some owe is missing, and no room for savings.
        let owed: f64 = self
            .accounts
            .iter()
            .map(|account| account.balance[resource].min(0.0))
            .sum();
        (before.unwrap_or(0.0) + come).min(self.most[resource] + owed)
    }

    /// What all share of so many tokens: what there would be if everybody had kept what was granted.
    fn pool(&self, resource: usize, tokens: f64) -> f64 {
        let had = self
            .accounts
            .iter()
            .map(|account| account.balance[resource] - account.early[resource]);
        tokens - had.sum::<f64>()
    }

    /// Sets the threshold of every item. They come out ordered by tenant, stratum and key. Answers which strata got less than they asked for, a bit each.
    pub fn decide(&mut self, policy: &Policy, shares: Shares<'_>, now_ns: u64, dt: f64, items: &mut [Item]) -> u64 {
        items.sort_unstable_by_key(|item| (item.tenant, item.stratum, item.key, item.place));
        let mut cells = cells(policy, items);
        self.squeezed = 0;
        self.accounts.resize(shares.tenants.len(), Account::default());
        self.granted = runs(&cells, |cell| cell.tenant)
            .map(|own| (cells[own.start].tenant, [f64::INFINITY; RESOURCES]))
            .collect();
        for resource in 0..RESOURCES {
            self.allocate(policy, shares, now_ns, dt, items, &mut cells, resource);
        }
        self.set_thresholds(policy, items, &cells);
        if policy.budget.hard {
            let mut rest = &cells[..];
            while let Some(first) = rest.first() {
                let (own, others) = rest.split_at(rest.partition_point(|cell| cell.tenant <= first.tenant));
                self.cut(policy, items, own);
                rest = others;
            }
        }
        self.squeezed
    }

    /// Sets the threshold of a trace that cannot wait for the tick, at least to `least`: it is a tick of its own, of its tenant's part of what has come since
    /// the last, and takes that out of what the tenant gets of the next. `budget` is that of the ticks.
    pub fn alone(
        &mut self,
        budget: &Budget,
        policy: &Policy,
        shares: Shares<'_>,
        now_ns: u64,
        least: Threshold,
        item: &mut Item,
    ) {
        let dt_ns = self.since_tick(now_ns);
        self.set_rates(budget, now_ns, dt_ns);
        let (tenant, account) = (item.tenant as usize, *self.account(item.tenant));
        let others = self.accounts.iter().zip(shares.tenants).enumerate();
        let others = others.filter(|(other, (account, _))| account.is_present && *other != tenant);
        let weight = shares.tenants[tenant].weight;
        let part = weight / (weight + others.map(|(_, (_, share))| share.weight).sum::<f64>());
        let since_ns = now_ns.saturating_sub(account.early_ns).min(dt_ns);
        let seconds = (since_ns as f64 / 1e9).max(ALONE_MIN_S);
        let items = std::slice::from_mut(item);
        let mut cells = cells(policy, items);
        let mut at_hand = [0.0; RESOURCES];
        for (resource, at_hand) in at_hand.iter_mut().enumerate() {
            if !self.is_limited(policy, resource) {
                continue;
            }
            let pool = self.pool(resource, self.filled(resource, dt_ns));
            *at_hand = (pool.max(0.0) * part - account.early[resource]).max(0.0);
            let granted = Granted {
                granted: *at_hand,
                balance: account.balance[resource],
                behind: pool.min(0.0) * part,
                part,
                seconds,
            };
            let grant = self.grant(policy, items, &cells, resource, &granted);
            self.tenant(policy, shares, now_ns, items, &mut cells, resource, grant);
        }
        self.set_thresholds(policy, items, &cells);
        item.threshold = item.threshold.max(least);
        let p = (item.threshold.probability() / item.survived).min(1.0);
        let is_counted = self.tokens.map(f64::is_finite);
        for resource in (0..RESOURCES).filter(|resource| is_counted[*resource]) {
            let cost = item.cost[resource];
            let account = &mut self.accounts[tenant];
            // What is at hand and not for the trace repays.
            let granted = (p * cost - account.balance[resource].min(0.0)).min(at_hand[resource]);
            account.balance[resource] += granted;
            account.early[resource] += granted;
            account.asked[resource] += cost;
        }
        self.accounts[tenant].early_ns = now_ns;
    }

    /// Gives the items of each cell the threshold of its p.
    fn set_thresholds(&mut self, policy: &Policy, items: &mut [Item], cells: &[Cell]) {
        for cell in cells {
            if let Target::Share { floor_per_sec, .. } = policy.strata[usize::from(cell.stratum)].target
                && floor_per_sec > 0.0
            {
                let key = (cell.tenant, slot(items, cell), cell.key);
                self.book.spend(key, cell.items.len() as f64 * cell.p);
            }
            let threshold = match policy.strata[usize::from(cell.stratum)].target {
                Target::Drop => Threshold::NEVER,
                _ => Threshold::of_probability(cell.p),
            };
            items[cell.items.clone()]
                .iter_mut()
                .for_each(|item| item.threshold = threshold);
        }
    }

    /// Books what was kept.
    pub fn charge(&mut self, item: &Item) {
        for resource in 0..RESOURCES {
            if self.tokens[resource].is_finite() {
                self.tokens[resource] -= item.cost[resource];
                self.account(item.tenant).balance[resource] -= item.cost[resource];
            }
            for kind in [2 * resource, 2 * resource + 1] {
                if let Some(bucket) = self.buckets.get_mut(&(item.tenant, item.slot, kind)) {
                    bucket.tokens -= item.cost[resource];
                }
            }
        }
        self.day_spent += item.cost[BYTES];
    }

    pub fn account(&mut self, tenant: u32) -> &mut Account {
        let tenant = tenant as usize;
        self.accounts
            .resize(self.accounts.len().max(tenant + 1), Account::default());
        &mut self.accounts[tenant]
    }

    /// Lowers the p of each cell to what one resource allows.
    #[allow(clippy::too_many_arguments)]
    fn allocate(
        &mut self,
        policy: &Policy,
        shares: Shares<'_>,
        now_ns: u64,
        dt: f64,
        items: &[Item],
        cells: &mut [Cell],
        resource: usize,
    ) {
        if self.tokens[resource].is_infinite() {
            self.accounts.iter_mut().for_each(|account| {
                (
                    account.balance[resource],
                    account.early[resource],
                    account.asked[resource],
                ) = (0.0, 0.0, 0.0);
            });
        }
        if !self.is_limited(policy, resource) {
            return;
        }
        // Caps are shares of the budget; what may be borrowed is a tick's worth of what really comes in.
        let seconds = dt.max(1e-3);
        let tick = self.rates[resource] * seconds;
        let pool = self.pool(resource, self.tokens[resource]);
        let at_hand = at_hand(pool, tick, mean_cost(policy, items, resource));
        let tenants = self.claimants(cells, resource);
        let claims: Vec<Claim> = tenants
            .iter()
            .map(|(tenant, own)| {
                let (share, account) = (shares.tenants[*tenant as usize], &self.accounts[*tenant as usize]);
                let wants = cells[own.clone()]
                    .iter()
                    .map(|cell| wanted(policy, items, cell, resource));
                Claim {
                    demand: wants.sum::<f64>() + account.asked[resource] - account.balance[resource].min(0.0),
                    weight: share.weight,
                    floor: if share.min > 0.0 { share.min * at_hand } else { 0.0 },
                }
            })
            .collect();
        let weights: f64 = claims.iter().map(|claim| claim.weight).sum();
        let granted = fill(at_hand, &claims);
        for (index, (((tenant, own), claim), granted)) in tenants.into_iter().zip(claims).zip(granted).enumerate() {
            let part = claim.weight / weights;
            let account = &mut self.accounts[tenant as usize];
            let is_away = own.is_empty() && account.asked[resource] == 0.0;
            account.is_present |= !is_away;
            // Of what is ahead, more than a burst of its part is everybody's, and so is all that who has no traces cannot use.
            let saved = (self.most[resource] - tick).max(0.0) * part;
            let granted = Granted {
                granted: granted - account.early[resource],
                balance: account.balance[resource].min(if is_away { 0.0 } else { saved }),
                behind: pool.min(0.0) * part,
                part,
                seconds,
            };
            if self.tokens[resource].is_finite() {
                account.balance[resource] = granted.balance + granted.granted;
                (account.early[resource], account.asked[resource]) = (0.0, 0.0);
            }
            let grant = self.grant(policy, items, &cells[own.clone()], resource, &granted);
            if let Some((_, left)) = self.granted.get_mut(index) {
                left[resource] = grant.left;
            }
            self.tenant(policy, shares, now_ns, items, &mut cells[own], resource, grant);
        }
    }

    /// Whether a policy limits a resource, or the budget does.
    fn is_limited(&self, policy: &Policy, resource: usize) -> bool {
        let has_limits = || policy.strata.iter().any(|stratum| limit(stratum, resource).is_finite());
        self.tokens[resource].is_finite() || has_limits()
    }

    /// Who has traces, with its cells, and then who has none but had some before the tick, is ahead or owes.
    fn claimants(&self, cells: &[Cell], resource: usize) -> Vec<(u32, Range<usize>)> {
        let present = runs(cells, |cell| cell.tenant).map(|own| (cells[own.start].tenant, own));
        let mut claimants: Vec<_> = present.collect();
        let is_absent = |tenant: u32| claimants.binary_search_by_key(&tenant, |(tenant, _)| *tenant).is_err();
        let claims = |account: &Account| account.balance[resource] != 0.0 || account.asked[resource] != 0.0;
        let accounts = (0..).zip(&self.accounts);
        let absent = accounts.filter(|(tenant, account)| claims(account) && is_absent(*tenant));
        let absent: Vec<_> = absent.map(|(tenant, _)| (tenant, 0..0)).collect();
        claimants.extend(absent);
        claimants
    }

    /// What a tenant may use in all of what it was granted.
    fn grant(&self, policy: &Policy, items: &[Item], cells: &[Cell], resource: usize, of: &Granted) -> Grant {
        let is_endless = self.tokens[resource].is_infinite();
        let (full, tick) = (self.budgets[resource] * of.seconds, self.rates[resource] * of.seconds);
        // What others leave counts, what was saved does not.
        let entitled = (full * of.part).max(of.granted.min(full));
        let shared = cells.iter().filter(|cell| is_shared(policy, cell));
        let shared: f64 = shared.map(|cell| wanted(policy, items, cell, resource)).sum();
        let aimed = runs(cells, |cell| u32::from(cell.stratum))
            .filter(|run| !is_shared(policy, &cells[run.start]))
            .count();
        let least = if is_endless { 0.0 } else { DEBT_MIN * tick * of.part };
        let income = of.granted.min(tick).max(tick * of.part);
        let repaid = repaid(income, mean_cost(policy, range(items, cells), resource));
        let behind = of.behind + (of.granted + of.balance).min(0.0);
        Grant {
            left: match is_endless {
                true => f64::INFINITY,
                false => (of.granted + of.balance.max(0.0) + of.balance.min(0.0) * repaid).max(0.0),
            },
            // Strata with a target of their own may borrow, so that a tick with many errors loses none of them.
            borrow: match is_endless {
                true => 0.0,
                false => (tick * of.part + behind * repaid).max(0.0),
            },
            shared: shared.min(least),
            aimed: least / aimed.max(1) as f64,
            rate: entitled / of.seconds,
            seconds: of.seconds,
        }
    }
}

/// What a tenant was granted.
struct Granted {
    /// Of what all share.
    granted: f64,
    /// Its own.
    balance: f64,
    /// Its part of what all owe, at most 0.
    behind: f64,
    /// Of the rate.
    part: f64,
    /// For how long.
    seconds: f64,
}

/// What may be spent of `tokens` in a tick that brought `tick` of them. What was saved is at hand. Debt is repaid at once where a tick pays for
/// many traces. Where it pays for few, one more than expected makes a debt of whole ticks and means nothing: thresholds would jump between
/// little and all if it were made up for at once, and weights with them. So it is repaid over several ticks, and may stand at a few traces.
fn at_hand(tokens: f64, tick: f64, mean: f64) -> f64 {
    if tokens >= tick {
        return tokens;
    }
    (tick + (tokens - tick) * repaid(tick, mean)).max(0.0)
}

/// How much of a debt is repaid in a tick, where a trace costs so much on average.
fn repaid(tick: f64, mean: f64) -> f64 {
    // The sum of no costs is -0.0.
    if mean > 0.0 {
        (tick / (STEADY * mean)).min(1.0)
    } else {
        1.0
    }
}

/// What a trace costs on average. A hard cap owes nothing, so that there all of a debt is repaid at once, as if traces cost nothing.
fn mean_cost(policy: &Policy, items: &[Item], resource: usize) -> f64 {
    let costs: f64 = items.iter().map(|item| item.cost[resource]).sum();
    if policy.budget.hard {
        0.0
    } else {
        costs / items.len().max(1) as f64
    }
}

/// The items of neighbouring cells.
fn range<'a>(items: &'a [Item], cells: &[Cell]) -> &'a [Item] {
    match (cells.first(), cells.last()) {
        (Some(first), Some(last)) => &items[first.items.start..last.items.end],
        _ => &[],
    }
}

fn slot(items: &[Item], cell: &Cell) -> u64 {
    items[cell.items.start].slot
}

fn is_shared(policy: &Policy, cell: &Cell) -> bool {
    matches!(policy.strata[usize::from(cell.stratum)].target, Target::Share { .. })
}

fn limit(stratum: &crate::policy::Stratum, resource: usize) -> f64 {
    [stratum.bytes_per_sec, stratum.spans_per_sec, stratum.sent_bytes_per_sec][resource]
}

/// Runs of cells with an equal number.
fn runs(cells: &[Cell], number: impl Fn(&Cell) -> u32) -> impl Iterator<Item = Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        match ranges.last_mut() {
            Some(range) if number(&cells[range.start]) == number(cell) => range.end = at + 1,
            _ => ranges.push(at..at + 1),
        }
    }
    ranges.into_iter()
}

fn cells(policy: &Policy, items: &[Item]) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        match cells.last_mut() {
            Some(cell) if (cell.tenant, cell.stratum, cell.key) == (item.tenant, item.stratum, item.key) => {
                cell.items.end = at + 1;
            }
            _ => cells.push(Cell {
                tenant: item.tenant,
                stratum: item.stratum,
                key: item.key,
                service: item.service,
                items: at..at + 1,
                p: match policy.strata[usize::from(item.stratum)].target {
                    Target::Probability(p) => p,
                    _ => 1.0,
                },
            }),
        }
    }
    cells
}

/// What a cell costs at its target.
fn wanted(policy: &Policy, items: &[Item], cell: &Cell, resource: usize) -> f64 {
    let items = items[cell.items.clone()].iter();
    match policy.strata[usize::from(cell.stratum)].target {
        Target::Drop => 0.0,
        Target::Probability(p) => items
            .map(|item| item.cost[resource] * (p / item.survived).min(1.0))
            .sum(),
        _ => items.map(|item| item.cost[resource]).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody is granted more than there is, where nobody has traces and somebody owes.
    #[test]
    fn a_tick_without_traces_has_no_more_than_others() {
        let mean = mean_cost(&Policy::default(), &[], 0);
        assert_eq!(at_hand(999.5, 1000.0, mean), 999.5);
        assert_eq!(at_hand(-1.0, 1000.0, mean), 0.0);
    }
}
