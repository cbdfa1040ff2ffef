//! Order of floats with NaN in it, and quantiles of them.

use std::cmp::Ordering;

/// NaN first, then rising.
pub(super) fn nan_first(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// The q-quantile of values in any order, which are sorted on the way: the weighted mean of the two nearest (promql/quantile.go).
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub(super) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_unstable_by(|a, b| nan_first(*a, *b));
    let rank = q * (values.len() - 1) as f64;
    let lower = rank.floor().max(0.0);
    let upper = ((values.len() - 1) as f64).min(lower + 1.0);
    let weight = rank - rank.floor();
    values[lower as usize] * (1.0 - weight) + values[upper as usize] * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let check = |q: f64, mut values: Vec<f64>, expected: f64| {
            let value = quantile(q, &mut values);
            assert!(
                value == expected || (value.is_nan() && expected.is_nan()),
                "{q}: {value} {expected}"
            );
        };
        check(0.5, vec![3.0, 1.0, 2.0], 2.0);
        check(0.75, vec![4.0, 0.0], 3.0);
        check(1.0, vec![1.0, 2.0], 2.0);
        check(0.0, vec![1.0, f64::NAN], f64::NAN);
        check(1.0, vec![1.0, f64::NAN], 1.0);
        check(-0.1, vec![1.0], f64::NEG_INFINITY);
        check(1.1, vec![1.0], f64::INFINITY);
        check(0.5, vec![], f64::NAN);
    }
}
