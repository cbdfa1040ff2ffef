//! Recent quantiles of durations, from RED's rows: what "slow" is compared with.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use tailwater_model::exphist::ExpHist;
use tailwater_model::red::RedRow;
use tailwater_sampling::Recent;
use tailwater_sampling::policy::expr::Quantile;

/// Width of a slot.
const SLOT_NS: u64 = 60 * 1_000_000_000;
/// Fewer requests than this say nothing about a quantile.
const COUNT_MIN: f64 = 100.0;

/// Tenant, service, operation.
type Name = (Arc<str>, Arc<str>, Arc<str>);

/// Requests of the last minutes, a slot each. Bounded by RED's own limits on keys.
#[derive(Debug, Default)]
pub struct Durations {
    slots: VecDeque<(u64, AHashMap<Name, ExpHist>)>,
}

impl Durations {
    /// Adds rows that were counted at `now_ns`. Answers whether a slot has ended: time to [`Durations::recent`].
    pub fn add(&mut self, now_ns: u64, rows: &[RedRow]) -> bool {
        let slot = now_ns / SLOT_NS;
        let is_new = self.slots.back().is_none_or(|(last, _)| *last < slot);
        if is_new {
            self.slots.push_back((slot, AHashMap::new()));
        }
        if let Some((_, open)) = self.slots.back_mut() {
            for row in rows.iter().filter(|row| row.key.is_entry) {
                let key = &row.key;
                let name = (key.tenant.clone(), key.service_name.clone(), key.operation.clone());
                // Our own bytes: they decode.
                let _ = open.entry(name).or_default().merge_encoded(&row.exphist);
            }
        }
        is_new && self.slots.len() > 1
    }

    /// The quantiles of whole slots, and forgets what none of them asks for.
    pub fn recent(&mut self, quantiles: &[Quantile], mut tenant: impl FnMut(&str) -> u32) -> Recent {
        let mut recent = Recent::default();
        let Some(open) = self.slots.back().map(|(slot, _)| *slot) else {
            return recent;
        };
        let longest = quantiles
            .iter()
            .map(|quantile| slots(quantile.window_ns))
            .max()
            .unwrap_or(0);
        while self.slots.front().is_some_and(|(slot, _)| *slot + longest < open) {
            self.slots.pop_front();
        }
        for (at, quantile) in quantiles.iter().enumerate() {
            let mut operations: AHashMap<&Name, ExpHist> = AHashMap::new();
            let mut services: AHashMap<(&str, &str), ExpHist> = AHashMap::new();
            let window = slots(quantile.window_ns);
            for (_, slot) in self
                .slots
                .iter()
                .filter(|(slot, _)| *slot < open && *slot + window >= open)
            {
                for (name, durations) in slot {
                    operations.entry(name).or_default().merge(durations);
                    services.entry((&*name.0, &*name.1)).or_default().merge(durations);
                }
            }
            let known = |durations: &ExpHist| {
                let ns = durations
                    .quantile(quantile.q)
                    .filter(|_| durations.count() >= COUNT_MIN)?;
                Some(ns as u64)
            };
            for ((tenant_name, service, operation), durations) in operations {
                if let Some(ns) = known(&durations) {
                    recent.set(
                        at,
                        tenant(tenant_name),
                        service.as_bytes(),
                        Some(operation.as_bytes()),
                        ns,
                    );
                }
            }
            for ((tenant_name, service), durations) in services {
                if let Some(ns) = known(&durations) {
                    recent.set(at, tenant(tenant_name), service.as_bytes(), None, ns);
                }
            }
        }
        recent
    }
}

fn slots(window_ns: u64) -> u64 {
    window_ns.div_ceil(SLOT_NS).max(1)
}
