//! How far a sum of w*z over kept traces may be off, on either side.
//!
//! A plain interval, sum -+ z sqrt(V), is too short on one side. V is made of the same traces as the sum: if a few that hold much of it were missed,
//! the sum is too low and V is seen too small with it. So a score test is inverted, as E. B. Wilson (1927) did for a share: the distance d from
//! the sum to a truth is measured by the variance that the sum would have if that were the truth. What V would be there is told by its
//! regression on the sum, of slope b (so P. G. Andersson and O. Nerman, 2000, for shares; of sums with any weights it follows in the same way):
//!
//! ```text
//!  d^2 <= t^2 (V + b d)      b = C / V,  C = covariance of the sum and V = sum over kept traces of w (w-1)^2 z^3
//!  d   <= (t^2 b + sqrt(t^4 b^2 + 4 t^2 V)) / 2
//! ```
//!
//! - On the side where the variance grows alone. On the other it would be less, but b is itself made of a few large traces, and that side became too
//!   short by simulation. There d <= t sqrt(V).
//! - t is Student's with the degrees of freedom that a V of this variance has, 2 V^2 / W (F. E. Satterthwaite, 1946), where
//!   W = variance of V = sum over kept traces of w (w-1)^3 z^4.
//!
//! Of a share of traces that are alike, b is the slope of Wilson's q (1-q). A trace whose parts have different weights adds to V, C and W what their common
//! random number makes of them: with a = w z, parts by ascending weight, and u = what a part and lighter ones add to V,
//!
//! ```text
//!  V = a.a   C = a.u   W = u.u        a.b = sum over i, j of (1 - 1/min(w_i, w_j)) a_i b_j,  u_j = (1 - 1/w_j) a_j^2 + 2 a_j sum over i < j of (1 - 1/w_i) a_i
//! ```
//!
//! each of which is right on average. All weights 1: all are 0, and nothing is off.

use super::{Part, traces};
use crate::interval::Confidence;

/// What kept traces tell of the error of their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spread {
    /// The largest |w*z|, in whose powers the others are: a fourth power must not overflow.
    unit: f64,
    /// V: variance of the sum.
    variance: f64,
    /// C: covariance of the sum and V.
    covariance: f64,
    /// W: variance of V.
    of_variance: f64,
}

impl Spread {
    /// Of a `z` of the parts, which are in the order of [`super::sort`].
    pub(super) fn of(parts: &[Part], z: impl Fn(&Part) -> f64) -> Spread {
        let unit = parts
            .iter()
            .map(|part| (part.weight * z(part)).abs())
            .fold(0.0, f64::max);
        let mut all = Spread {
            unit,
            ..Spread::default()
        };
        if unit == 0.0 {
            return all;
        }
        for trace in traces(parts) {
            let one = Spread::of_trace(trace.iter().map(|part| (part.weight, part.weight * z(part) / unit)));
            // Both are at least 0 by algebra; rounding must not make a root of them impossible.
            all.variance += one.variance.max(0.0);
            all.covariance += one.covariance;
            all.of_variance += one.of_variance.max(0.0);
        }
        all
    }

    /// Of one trace: the weight and w*z of each part, by ascending weight.
    fn of_trace(parts: impl Iterator<Item = (f64, f64)>) -> Spread {
        let mut one = Spread::default();
        // Sums of (1 - 1/w) a and (1 - 1/w) u over lighter parts.
        let (mut lighter_a, mut lighter_u) = (0.0, 0.0);
        for (weight, a) in parts {
            let f = 1.0 - weight.recip();
            let u = a * (f * a + 2.0 * lighter_a);
            one.variance += u;
            one.covariance += f * a * u + a * lighter_u + u * lighter_a;
            one.of_variance += u * (f * u + 2.0 * lighter_u);
            lighter_a += f * a;
            lighter_u += f * u;
        }
        one
    }

    /// V.
    pub(super) fn variance(&self) -> f64 {
        self.variance * self.unit * self.unit
    }

    /// t.
    pub(super) fn deviate(&self, confidence: Confidence) -> f64 {
        // W is at most V^2, but for rounding.
        let freedom = 2.0 * self.variance * self.variance / self.of_variance;
        if freedom.is_finite() {
            student(confidence.z(), freedom.max(2.0))
        } else {
            confidence.z()
        }
    }

    /// How far the truth may lie below and above the sum.
    pub(super) fn reach(&self, confidence: Confidence) -> (f64, f64) {
        if self.variance == 0.0 {
            return (0.0, 0.0);
        }
        let (t, slope) = (self.deviate(confidence), self.covariance / self.variance);
        let end = |slope: f64| {
            let shift = t * t * slope.max(0.0) / 2.0;
            self.unit * (shift + (shift * shift + t * t * self.variance).sqrt())
        };
        (end(-slope), end(slope))
    }
}

/// The quantile of Student's distribution that belongs to `z` of the normal one: M. Abramowitz and I. A. Stegun, 26.7.5. Of 95 %, too small by
/// 0.8 % at 2 degrees of freedom and 0.1 % at 3; of 99 %, by 4 and 0.8 %.
fn student(z: f64, freedom: f64) -> f64 {
    let s = z * z;
    let terms = [
        (s + 1.0) / 4.0,
        ((5.0 * s + 16.0) * s + 3.0) / 96.0,
        (((3.0 * s + 19.0) * s + 17.0) * s - 15.0) / 384.0,
        ((((79.0 * s + 776.0) * s + 1482.0) * s - 1920.0) * s - 945.0) / 92_160.0,
    ];
    z * (1.0 + terms.iter().rev().fold(0.0, |sum, term| (sum + term) / freedom))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn parts(of: &[(f64, f64)]) -> Vec<Part> {
        let part = |(weight, num): &(f64, f64)| Part {
            trace: [1, 1],
            weight: *weight,
            num: *num,
            den: 0.0,
        };
        let mut parts: Vec<Part> = of.iter().map(part).collect();
        crate::estimate::sort(&mut parts);
        parts
    }

    fn spread(of: &[(f64, f64)]) -> Spread {
        Spread::of(&parts(of), |part| part.num)
    }

    /// V, C and W in the units of z.
    fn sums(of: &[(f64, f64)]) -> [f64; 3] {
        let found = spread(of);
        let (unit, square) = (found.unit, found.unit * found.unit);
        [
            found.variance(),
            found.covariance * square * unit,
            found.of_variance * square * square,
        ]
    }

    fn near(found: [f64; 3], expect: [f64; 3]) -> bool {
        let scale = expect[0].max(1.0);
        (0..3).all(|at| (found[at] - expect[at]).abs() <= 1e-9 * scale.powf(1.0 + at as f64 / 2.0))
    }

    #[test]
    fn a_trace_by_hand() {
        // Weight 4, z 3: 4*3*9, 4*9*27, 4*27*81.
        assert!(near(sums(&[(4.0, 3.0)]), [108.0, 972.0, 8748.0]));
        assert!(near(sums(&[(4.0, -3.0)]), [108.0, -972.0, 8748.0]));
        assert_eq!(sums(&[(1.0, 3.0)]), [0.0; 3]);
        assert_eq!(sums(&[]), [0.0; 3]);
    }

    /// Over the one random number of a trace: what V, C and W say on average is what they are named for.
    #[test]
    fn moments_are_right_on_average() {
        let check = |all: &[(f64, f64)]| {
            let parts = parts(all);
            // Kept: those of the k lightest weights, or none.
            let mut outcomes = vec![(1.0 - parts[0].weight.recip(), 0.0, [0.0; 3])];
            for k in 1..=parts.len() {
                let next = parts.get(k).map_or(0.0, |part| part.weight.recip());
                let kept: Vec<_> = parts[..k].iter().map(|part| (part.weight, part.num)).collect();
                let sum = kept.iter().map(|(weight, num)| weight * num).sum();
                outcomes.push((parts[k - 1].weight.recip() - next, sum, sums(&kept)));
            }
            let mean = |of: &dyn Fn(f64, [f64; 3]) -> f64| -> f64 {
                outcomes.iter().map(|(p, sum, moments)| p * of(*sum, *moments)).sum()
            };
            let (sum, v) = (mean(&|sum, _| sum), mean(&|_, [v, ..]| v));
            let said = [0, 1, 2].map(|at| mean(&|_, moments| moments[at]));
            let are = [
                mean(&|found, _| (found - sum).powi(2)),
                mean(&|found, moments| (found - sum) * (moments[0] - v)),
                mean(&|_, moments| (moments[0] - v).powi(2)),
            ];
            assert!(near(said, are), "{all:?}: {said:?} {are:?}");
        };
        check(&[(7.0, 2.5)]);
        check(&[(4.0, 5.0), (2.0, 3.0)]);
        check(&[(1.0, 8.0), (2.0, -3.0), (5.0, 1.0)]);
        check(&[(3.0, -1.0), (6.0, 4.0), (20.0, 2.0), (50.0, -7.0)]);
    }

    #[test]
    fn the_reach_is_that_of_the_score_test() {
        // 2,500 alike of weight 4, z 1: V = 12 * 2500, b = 3, and 2 V^2 / W = 6666.7 degrees of freedom, of which t is 1.96032.
        let alike: Vec<Part> = (0..2500)
            .map(|at| Part {
                trace: [at, 1],
                weight: 4.0,
                num: 1.0,
                den: 0.0,
            })
            .collect();
        let found = Spread::of(&alike, |part| part.num);
        let t = found.deviate(Confidence::P95);
        assert!((t - 1.960_32).abs() < 1e-6, "{t}");
        let (down, up) = found.reach(Confidence::P95);
        // At the upper end, the distance is t roots of the variance that would be there.
        assert!((up - t * (30_000.0 + 3.0 * up).sqrt()).abs() < 1e-9, "{up}");
        assert!((down - t * 30_000_f64.sqrt()).abs() < 1e-9, "{down}");
    }

    #[test]
    fn quantiles_are_students() {
        // SciPy 1.17.1: t.ppf(0.5 + confidence / 2, freedom).
        for (confidence, freedom, expect, off) in [
            (Confidence::P90, 2.0, 2.919_986, 0.003),
            (Confidence::P95, 2.0, 4.302_653, 0.008),
            (Confidence::P99, 2.0, 9.924_843, 0.042),
            (Confidence::P95, 3.0, 3.182_446, 0.0013),
            (Confidence::P99, 3.0, 5.840_909, 0.008),
            (Confidence::P95, 6.0, 2.446_912, 1e-4),
            (Confidence::P99, 10.0, 3.169_273, 1e-4),
            (Confidence::P95, 30.0, 2.042_272, 1e-6),
            (Confidence::P99, 1e9, 2.575_829, 1e-6),
        ] {
            let found = student(confidence.z(), freedom);
            assert!(found <= expect * (1.0 + 1e-6), "{found} {expect}");
            assert!(found >= expect * (1.0 - off), "{found} {expect}");
        }
    }

    #[test]
    fn huge_and_tiny_values_have_an_end() {
        for scale in [1e-150, 1.0, 1e150] {
            let (down, up) = spread(&[(4.0, 3.0 * scale)]).reach(Confidence::P95);
            let (one_down, one_up) = spread(&[(4.0, 3.0)]).reach(Confidence::P95);
            assert!(
                (down / scale - one_down).abs() < 1e-9 && (up / scale - one_up).abs() < 1e-9,
                "{down} {up}"
            );
        }
    }

    fn any() -> impl Strategy<Value = Vec<(f64, f64)>> {
        let weight = prop_oneof![Just(1.0), (1..200_u32).prop_map(f64::from)];
        prop::collection::vec((weight, (-50..50_i32).prop_map(f64::from)), 1..9)
    }

    /// The sums over all pairs, triples and fours of the parts of a trace, by the probabilities with which they are kept.
    fn in_full(of: &[(f64, f64)]) -> [f64; 3] {
        let a: Vec<(f64, f64)> = of.iter().map(|(weight, z)| (*weight, weight * z)).collect();
        let pairs: Vec<(f64, f64)> = a
            .iter()
            .flat_map(|(v, x)| {
                a.iter()
                    .map(move |(w, y)| (v.max(*w), (1.0 - v.min(*w).recip()) * x * y))
            })
            .collect();
        let dot = |left: &[(f64, f64)], right: &[(f64, f64)]| -> f64 {
            let each = |(v, x): &(f64, f64)| {
                right
                    .iter()
                    .map(|(w, y)| (1.0 - v.min(*w).recip()) * x * y)
                    .sum::<f64>()
            };
            left.iter().map(each).sum()
        };
        [dot(&a, &a), dot(&a, &pairs), dot(&pairs, &pairs)]
    }

    proptest! {
        #[test]
        fn short_forms_are_the_sums_in_full(of in any()) {
            let (short, full) = (sums(&of), in_full(&of));
            let size = of.iter().map(|(weight, z)| (weight * z).abs()).sum::<f64>().max(1.0);
            for at in 0..3 {
                prop_assert!((short[at] - full[at]).abs() <= 1e-9 * size.powi(2 + at as i32), "{:?} {:?}", short, full);
            }
        }

        #[test]
        fn sides_change_with_the_sign(of in any()) {
            let turned: Vec<_> = of.iter().map(|(weight, z)| (*weight, -z)).collect();
            let (down, up) = spread(&of).reach(Confidence::P95);
            prop_assert!(down >= 0.0 && up >= 0.0);
            prop_assert_eq!(spread(&turned).reach(Confidence::P95), (up, down));
            // What is short on its side is the plain interval, by Student's t.
            let found = spread(&of);
            let plain = found.deviate(Confidence::P95) * found.variance().sqrt();
            prop_assert!((down.min(up) - plain).abs() <= 1e-9 * plain);
        }
    }
}
