//! The hard cap: no tick keeps more of the shared strata than a tenant has left.

use super::{Cell, Controller, Item, RESOURCES, is_shared};
use crate::fault::Fault;
use crate::policy::Policy;
use crate::threshold::Threshold;

impl Controller {
    /// The hard cap of a tenant's shared strata: in the order of how near a trace is to being dropped, the first that does not fit sets the
    /// threshold of all, and is not kept itself. So no kept trace's R decides anything. What costs more than all that is left would never be kept,
    /// whatever its R: that is decided by its p alone, and makes a debt where it is kept.
    pub(super) fn cut(&self, policy: &Policy, items: &mut [Item], cells: &[Cell]) {
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
        let whole = left;
        let fits = |item: &Item| item.cost.iter().zip(whole).all(|(cost, left)| *cost <= left);
        // How far from the edge: 0 is the last to be dropped, 1 the first.
        let mut order = Vec::new();
        for cell in cells.iter().filter(shared) {
            for at in cell
                .items
                .clone()
                .filter(|at| fits(&items[*at]) && items[*at].threshold.keeps(items[*at].randomness))
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
            let cut = items[cell.items.clone()].iter_mut().filter(|item| fits(item));
            cut.for_each(|item| item.threshold = item.threshold.max(threshold));
        }
    }
}
