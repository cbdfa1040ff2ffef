//! Dividing a budget: between claims (weighted max-min with floors), and among traces of one probability.
//!
//! Nothing here knows of R: what comes out depends on costs, weights and what earlier stages did, so that every threshold made of it is
//! fixed before any trace of the batch is looked at.

/// What somebody could use, and by what right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Claim {
    /// What it would take of an endless budget; at least 0.
    pub demand: f64,
    /// Against the others; above 0.
    pub weight: f64,
    /// What it gets before weights count; cut to the demand.
    pub floor: f64,
}

/// Divides `capacity`: everybody gets clamp(level * weight, floor, demand), with the level at which it adds up. Floors beyond the capacity
/// shrink in proportion. What one does not need the others get.
pub(crate) fn fill(capacity: f64, claims: &[Claim]) -> Vec<f64> {
    let demand: f64 = claims.iter().map(|claim| claim.demand).sum();
    if demand <= capacity {
        return claims.iter().map(|claim| claim.demand).collect();
    }
    let floor = |claim: &Claim| claim.floor.min(claim.demand).max(0.0);
    let floors: f64 = claims.iter().map(floor).sum();
    if floors >= capacity {
        return claims
            .iter()
            .map(|claim| floor(claim) * capacity.max(0.0) / floors.max(f64::MIN_POSITIVE))
            .collect();
    }
    // Where a claim begins to rise with the level, and where it has what it needs.
    let mut events: Vec<(f64, f64)> = Vec::with_capacity(2 * claims.len());
    for claim in claims {
        events.push((floor(claim) / claim.weight, claim.weight));
        events.push((claim.demand / claim.weight, -claim.weight));
    }
    events.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
    let (mut level, mut slope, mut left) = (0.0, 0.0, capacity - floors);
    for (at, change) in events {
        let rise = slope * (at - level);
        if rise >= left {
            break;
        }
        (level, slope, left) = (at, slope + change, left - rise);
    }
    level += if slope > 0.0 { left / slope } else { 0.0 };
    claims
        .iter()
        .map(|claim| (level * claim.weight).clamp(floor(claim), claim.demand))
        .collect()
}

/// The p with which traces cost `target` on average: the sum of cost * min(1, p / p_in) over (p_in, cost), where p_in is the probability
/// with which a trace has come this far. At most 1. `pairs` are sorted here.
pub(crate) fn solve(pairs: &mut [(f64, f64)], target: f64) -> f64 {
    let total: f64 = pairs.iter().map(|(_, cost)| cost).sum();
    if total <= target {
        return 1.0;
    }
    pairs.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
    // Traces whose p_in is at or below p stay whole; of the others each costs p / p_in of itself.
    let mut whole = 0.0;
    let mut slope: f64 = pairs.iter().map(|(p_in, cost)| cost / p_in).sum();
    for (p_in, cost) in pairs.iter() {
        if whole + slope * p_in >= target {
            break;
        }
        (whole, slope) = (whole + cost, slope - cost / p_in);
    }
    if slope > 0.0 {
        ((target - whole) / slope).clamp(0.0, 1.0)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claims(of: &[(f64, f64, f64)]) -> Vec<Claim> {
        of.iter()
            .map(|&(demand, weight, floor)| Claim { demand, weight, floor })
            .collect()
    }

    #[test]
    fn shares() {
        for (capacity, of, expected) in [
            (10.0, vec![(3.0, 1.0, 0.0), (4.0, 1.0, 0.0)], vec![3.0, 4.0]),
            (
                10.0,
                vec![(3.0, 1.0, 0.0), (40.0, 1.0, 0.0), (40.0, 1.0, 0.0)],
                vec![3.0, 3.5, 3.5],
            ),
            (9.0, vec![(40.0, 1.0, 0.0), (40.0, 2.0, 0.0)], vec![3.0, 6.0]),
            (9.0, vec![(40.0, 1.0, 5.0), (40.0, 2.0, 0.0)], vec![5.0, 4.0]),
            (4.0, vec![(40.0, 1.0, 6.0), (40.0, 1.0, 2.0)], vec![3.0, 1.0]),
            (0.0, vec![(40.0, 1.0, 0.0)], vec![0.0]),
            (-1.0, vec![(40.0, 1.0, 1.0)], vec![0.0]),
            (f64::INFINITY, vec![(40.0, 1.0, 1.0)], vec![40.0]),
        ] {
            let got = fill(capacity, &claims(&of));
            assert!(
                got.iter()
                    .zip(&expected)
                    .all(|(got, expected)| (got - expected).abs() < 1e-9),
                "{of:?}: {got:?}"
            );
        }
    }

    #[test]
    fn one_probability() {
        assert_eq!(solve(&mut [(1.0, 10.0)], 2.5), 0.25);
        assert_eq!(solve(&mut [(1.0, 10.0)], 10.0), 1.0);
        assert_eq!(solve(&mut [], 0.0), 1.0);
        // Half of the cost has survived p = 0.1 before: it stays whole at any p above.
        assert_eq!(solve(&mut [(1.0, 10.0), (0.1, 10.0)], 12.5), 0.25);
        assert_eq!(solve(&mut [(1.0, 10.0), (0.1, 10.0)], 5.5), 0.05);
    }

    proptest! {
        #[test]
        fn all_of_the_capacity_is_used_and_no_more(
            capacity in 0.0..1000f64,
            of in prop::collection::vec((0.0..500f64, 0.01..10f64, 0.0..50f64), 1..30),
        ) {
            let claims = claims(&of);
            let got = fill(capacity, &claims);
            let demand: f64 = claims.iter().map(|claim| claim.demand).sum();
            prop_assert!((got.iter().sum::<f64>() - capacity.min(demand)).abs() < 1e-6 * (1.0 + capacity));
            prop_assert!(got.iter().zip(&claims).all(|(got, claim)| *got >= 0.0 && *got <= claim.demand + 1e-9));
        }

        #[test]
        fn the_probability_costs_the_target(
            share in 0.0..1.0f64,
            mut pairs in prop::collection::vec((0.001..1.0f64, 0.1..100f64), 1..30),
        ) {
            let total: f64 = pairs.iter().map(|(_, cost)| cost).sum();
            let p = solve(&mut pairs, share * total);
            let cost: f64 = pairs.iter().map(|(p_in, cost)| cost * (p / p_in).min(1.0)).sum();
            prop_assert!((cost - share * total).abs() < 1e-6 * total, "{cost} {}", share * total);
        }
    }
}
