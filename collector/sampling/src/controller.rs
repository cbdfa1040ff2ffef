//! From the demand of a due batch and a token bucket with debt to a threshold per stratum, or per key of a shared one.
//!
//! ```text
//!   tokens <- min(burst min(B, r), tokens + min(B, r) dt)          B: the rate of the budget, or what is left of the day over its time
//!   tenants: weighted max-min of tokens                      r: what the governor allows
//!     strata in order, each up to its caps, into a bounded debt     -> a_s
//!     what is left: by keys, demand^alpha, floors first             -> a_k
//!   p from  sum c_i min(1, p / p_i) = a      (c_i exact, p_i: what the trace has survived)      T = quantised(1 - p)
//!   tokens <- tokens - cost of what was kept
//! ```
//!
//! Guarantees: every T is fixed by costs, contents and the past alone (with `hard`, also by the R of one trace that is not kept); the sum
//! of what is kept differs from the budget by the noise of a tick and the burst, however the traffic moves. Debt is what corrects, in the next
//! tick, or in the next few where a tick pays for few traces; there is no prediction.

use std::collections::HashMap;

use ahash::RandomState;

use crate::allocate::{Claim, fill, solve};
use crate::book::Book;
use crate::fault::Fault;
use crate::policy::{Budget, Policy, Share, Target};
use crate::threshold::{Randomness, Threshold};

/// Bytes as stored, spans, and bytes as received; budgets are of the first two alone.
pub(crate) const RESOURCES: usize = 3;
const BYTES: usize = 0;
const SPANS: usize = 1;

/// What shared strata get of a tick's budget before those with a target of their own, and in debt too; and what those get in debt. With nothing
/// they would keep a trace of 2^14, and its weight would drown every estimate.
const DEBT_MIN: f64 = 0.1;

/// How many traces a tick has to pay for before debt is repaid in one.
const STEADY: f64 = 16.0;

/// Ticks are expected this often; the first has no other to be measured from.
const FIRST_TICK_NS: u64 = 1_000_000_000;
const DAY_NS: u64 = 86_400_000_000_000;

/// A due trace, as far as budgets go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub tenant: u32,
    pub stratum: u16,
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
    items: std::ops::Range<usize>,
    p: f64,
}

/// Shares by number, looked up by the caller's interning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shares<'a> {
    pub tenants: &'a [Share],
    pub services: &'a [Share],
}

/// A bucket of tokens with the time it was filled.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
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

/// What the controller remembers from tick to tick.
#[derive(Debug)]
pub(crate) struct Controller {
    pub tokens: [f64; RESOURCES],
    pub last_ns: u64,
    pub day: u64,
    pub day_spent: f64,
    /// What the buckets were filled with at the last tick, by resource, a second.
    rates: [f64; RESOURCES],
    /// What the budget alone would allow, by resource, a second.
    budgets: [f64; RESOURCES],
    /// Of tenant, stratum and kind: resource * 2, + 1 for an absolute limit.
    buckets: HashMap<(u32, u16, usize), Bucket, RandomState>,
    book: Book,
    /// Strata that got less than they asked for in the last tick, a bit each.
    pub squeezed: u64,
    /// What each tenant of the tick got, by resource.
    granted: Vec<(u32, [f64; RESOURCES])>,
    pub fault: Fault,
}

impl Controller {
    pub fn new() -> Controller {
        Controller {
            tokens: [0.0; RESOURCES],
            last_ns: 0,
            day: 0,
            day_spent: 0.0,
            rates: [f64::INFINITY; RESOURCES],
            budgets: [f64::INFINITY; RESOURCES],
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

    /// Fills the buckets for a tick; `rate` is what the governor allows, stored bytes a second. Answers the time since the last, seconds.
    pub fn refill(&mut self, budget: &Budget, now_ns: u64, rate: f64) -> f64 {
        let dt_ns = match self.last_ns {
            0 => FIRST_TICK_NS,
            // Of a checkpoint, written before the clock was set back: while a sampler runs its time does not step back.
            last if last > now_ns => FIRST_TICK_NS,
            last => now_ns - last,
        };
        let dt = dt_ns as f64 / 1e9;
        self.last_ns = now_ns;
        let day = now_ns / DAY_NS;
        if day != self.day {
            (self.day, self.day_spent) = (day, 0.0);
        }
        let day_left = DAY_NS - now_ns % DAY_NS;
        let of_day = (budget.bytes_per_day - self.day_spent).max(0.0) / (day_left as f64 / 1e9).max(1.0);
        let budgets = [budget.bytes_per_sec.min(of_day), budget.spans_per_sec, f64::INFINITY];
        let rates = [budgets[BYTES].min(rate), budgets[SPANS], f64::INFINITY];
        // Without a budget it is the governor's rate that buckets are sized and shares are made of.
        self.budgets = [0, 1, 2].map(|at: usize| {
            if budgets[at].is_finite() {
                budgets[at]
            } else {
                rates[at]
            }
        });
        self.rates = rates;
        for (tokens, rate) in self.tokens.iter_mut().zip(rates) {
            // What was saved is not for when the governor says that there is less.
            let most = rate * (budget.burst_ns.max(dt_ns) as f64 / 1e9);
            // Endless tokens stay so only while the budget is endless.
            let before = if tokens.is_finite() { *tokens } else { 0.0 };
            *tokens = (before + rate * dt).min(most);
        }
        dt
    }

    /// Sets the threshold of every item. They come out ordered by tenant, stratum and key.
    pub fn decide(&mut self, policy: &Policy, shares: Shares<'_>, now_ns: u64, dt: f64, items: &mut [Item]) {
        items.sort_unstable_by_key(|item| (item.tenant, item.stratum, item.key, item.place));
        let mut cells = cells(policy, items);
        self.squeezed = 0;
        self.granted = runs(&cells, |cell| cell.tenant)
            .map(|own| (cells[own.start].tenant, [f64::INFINITY; RESOURCES]))
            .collect();
        for resource in 0..RESOURCES {
            self.allocate(policy, shares, now_ns, dt, items, &mut cells, resource);
        }
        for cell in &cells {
            if let Target::Share { floor_per_sec, .. } = policy.strata[usize::from(cell.stratum)].target
                && floor_per_sec > 0.0
            {
                self.book
                    .spend((cell.tenant, cell.stratum, cell.key), cell.items.len() as f64 * cell.p);
            }
            let threshold = match policy.strata[usize::from(cell.stratum)].target {
                Target::Drop => Threshold::NEVER,
                _ => Threshold::of_probability(cell.p),
            };
            items[cell.items.clone()]
                .iter_mut()
                .for_each(|item| item.threshold = threshold);
        }
        if policy.budget.hard {
            let mut rest = &cells[..];
            while let Some(first) = rest.first() {
                let (own, others) = rest.split_at(rest.partition_point(|cell| cell.tenant <= first.tenant));
                self.cut(policy, items, own);
                rest = others;
            }
        }
    }

    /// Books what was kept.
    pub fn charge(&mut self, item: &Item) {
        for resource in 0..RESOURCES {
            self.tokens[resource] -= item.cost[resource];
            for kind in [2 * resource, 2 * resource + 1] {
                if let Some(bucket) = self.buckets.get_mut(&(item.tenant, item.stratum, kind)) {
                    bucket.tokens -= item.cost[resource];
                }
            }
        }
        self.day_spent += item.cost[BYTES];
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
        let is_endless = self.tokens[resource].is_infinite();
        let has_limits = policy.strata.iter().any(|stratum| limit(stratum, resource).is_finite());
        if is_endless && !has_limits {
            return;
        }
        // Caps are shares of the budget; what may be borrowed is a tick's worth of what really comes in.
        let seconds = dt.max(1e-3);
        let (full, tick) = (self.budgets[resource] * seconds, self.rates[resource] * seconds);
        let mean = mean_cost(policy, items, resource);
        let at_hand = at_hand(self.tokens[resource], tick, mean);
        let tenants: Vec<std::ops::Range<usize>> = runs(cells, |cell| cell.tenant).collect();
        let claims: Vec<Claim> = tenants
            .iter()
            .map(|own| {
                let share = shares.tenants[cells[own.start].tenant as usize];
                let wants = cells[own.clone()]
                    .iter()
                    .map(|cell| wanted(policy, items, cell, resource));
                Claim {
                    demand: wants.sum(),
                    weight: share.weight,
                    floor: if share.min > 0.0 { share.min * at_hand } else { 0.0 },
                }
            })
            .collect();
        let weights: f64 = claims.iter().map(|claim| claim.weight).sum();
        let borrow = (tick + self.tokens[resource].min(0.0) * repaid(tick, mean)).max(0.0);
        let granted = fill(at_hand, &claims);
        for (index, ((own, claim), granted)) in tenants.into_iter().zip(claims).zip(granted).enumerate() {
            if !is_endless {
                self.granted[index].1[resource] = granted;
            }
            let part = claim.weight / weights;
            // What others leave counts, what was saved does not.
            let entitled = (full * part).max(granted.min(full));
            let shared = cells[own.clone()].iter().filter(|cell| is_shared(policy, cell));
            let shared: f64 = shared.map(|cell| wanted(policy, items, cell, resource)).sum();
            let aimed = runs(&cells[own.clone()], |cell| u32::from(cell.stratum))
                .filter(|run| !is_shared(policy, &cells[own.start + run.start]))
                .count();
            let least = if is_endless { 0.0 } else { DEBT_MIN * tick * part };
            let grant = Grant {
                left: if is_endless { f64::INFINITY } else { granted },
                // Strata with a target of their own may borrow, so that a tick with many errors loses none of them.
                borrow: borrow * part,
                shared: shared.min(least),
                aimed: least / aimed.max(1) as f64,
                rate: entitled / seconds,
                seconds,
            };
            self.tenant(policy, shares, now_ns, items, &mut cells[own], resource, grant);
        }
    }

    /// Divides what a tenant got.
    #[allow(clippy::too_many_arguments)]
    fn tenant(
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
                    .entry((tenant, number, 2 * resource + kind))
                    .or_insert(full);
                bucket.fill(now_ns, rate, burst_s);
                let tick = rate * grant.seconds;
                let own = &items[cells[0].items.start..cells[cells.len() - 1].items.end];
                let usable = at_hand(bucket.tokens, tick, mean_cost(policy, own, resource));
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
                    .credit((cell.tenant, cell.stratum, cell.key), now_ns, floor_per_sec),
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

    /// The hard cap of a tenant's shared strata: in the order of how near a trace is to being dropped, the first that does not fit sets the
    /// threshold of all, and is not kept itself. So no kept trace's R decides anything.
    fn cut(&self, policy: &Policy, items: &mut [Item], cells: &[Cell]) {
        let shared = |cell: &&Cell| is_shared(policy, cell);
        let granted = self.granted.iter().find(|(tenant, _)| *tenant == cells[0].tenant);
        let mut left = granted.map_or([f64::INFINITY; RESOURCES], |(_, granted)| *granted);
        for cell in cells.iter().filter(|cell| !shared(cell)) {
            for item in items[cell.items.clone()]
                .iter()
                .filter(|item| item.threshold.keeps(item.randomness))
            {
                (0..RESOURCES).for_each(|resource| left[resource] -= item.cost[resource]);
            }
        }
        // How far from the edge: 0 is the last to be dropped, 1 the first.
        let mut order = Vec::new();
        for cell in cells.iter().filter(shared) {
            for at in cell
                .items
                .clone()
                .filter(|at| items[*at].threshold.keeps(items[*at].randomness))
            {
                order.push(((1.0 - items[at].randomness.fraction()) / cell.p, at));
            }
        }
        order.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
        let mut edge = None;
        for (index, (distance, at)) in order.iter().enumerate() {
            (0..RESOURCES).for_each(|resource| left[resource] -= items[*at].cost[resource]);
            if left.iter().any(|left| *left < 0.0) {
                edge = match self.fault == Fault::LastKeptR {
                    true => index.checked_sub(1).map(|before| (order[before].0, usize::MAX)),
                    false => Some((*distance, *at)),
                };
                break;
            }
        }
        let Some((distance, excluded)) = edge else { return };
        for cell in cells.iter().filter(shared) {
            let edge = ((1.0 - distance * cell.p).clamp(0.0, 1.0) * (1u64 << 56) as f64) as u64;
            let mut threshold = Threshold::from_bits(edge.min((1 << 56) - 1)).unwrap_or(Threshold::NEVER);
            if cell.items.contains(&excluded) {
                threshold = threshold.max(Threshold::excluding(items[excluded].randomness));
            }
            items[cell.items.clone()]
                .iter_mut()
                .for_each(|item| item.threshold = item.threshold.max(threshold));
        }
    }
}

/// What a tenant may still use.
struct Grant {
    left: f64,
    /// Beyond that, for strata with a target of their own.
    borrow: f64,
    /// Kept back for shared strata.
    shared: f64,
    /// What each of the others gets in debt.
    aimed: f64,
    /// What caps are a share of, a second.
    rate: f64,
    /// Of the tick.
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
    (tick / (STEADY * mean)).min(1.0)
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

fn is_shared(policy: &Policy, cell: &Cell) -> bool {
    matches!(policy.strata[usize::from(cell.stratum)].target, Target::Share { .. })
}

fn limit(stratum: &crate::policy::Stratum, resource: usize) -> f64 {
    [stratum.bytes_per_sec, stratum.spans_per_sec, stratum.sent_bytes_per_sec][resource]
}

/// Runs of cells with an equal number.
fn runs(cells: &[Cell], number: impl Fn(&Cell) -> u32) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
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

fn pairs(items: &[Item], cell: &Cell, resource: usize) -> Vec<(f64, f64)> {
    items[cell.items.clone()]
        .iter()
        .map(|item| (item.survived, item.cost[resource]))
        .collect()
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
