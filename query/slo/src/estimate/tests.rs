#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::interval::wilson;

const P95: Confidence = Confidence::P95;

/// Student's t of 95 % for the degrees of freedom of the examples, by the series of `spread`: 2*408^2 / 76248 and 2*262.5^2 / 21328.125.
const T_4_4: f64 = 2.686_386_422_251_228;
const T_6_5: f64 = 2.405_089_288_248_014_6;

fn part(trace: u64, weight: f64, num: f64, den: f64) -> Part {
    Part {
        trace: [trace, 1],
        weight,
        num,
        den,
    }
}

/// What was seen of rows that all became parts.
fn seen(parts: &[Part]) -> Seen {
    Seen {
        rows: parts.len() as u64,
        unweighted: 0,
        sampled: parts.iter().any(|part| part.weight > 1.0),
        negative: parts.iter().any(|part| part.num < 0.0),
        positive: parts.iter().any(|part| part.num > 0.0),
    }
}

fn sorted(mut parts: Vec<Part>) -> Vec<Part> {
    sort(&mut parts);
    parts
}

fn total_of(parts: Vec<Part>) -> Estimate {
    total(&sorted(parts.clone()), seen(&parts), P95)
}

fn ratio_of(parts: Vec<Part>) -> Estimate {
    ratio(&sorted(parts.clone()), seen(&parts), P95)
}

fn quantile_of(rows: &[(f64, f64, u64)], q: f64) -> Estimate {
    let seen = Seen {
        rows: rows.len() as u64,
        sampled: rows.iter().any(|row| row.1 > 1.0),
        ..Seen::default()
    };
    let mut draws = quantile::drawn(rows);
    quantile(&mut draws, q, seen, P95)
}

fn near(found: Option<f64>, expect: f64) -> bool {
    found.is_some_and(|found| (found - expect).abs() <= 1e-9 * expect.abs().max(1.0))
}

#[test]
fn a_total_by_hand() {
    // Two traces of weight 4 with totals 3 and 5: 32, V = 4*3*(9+25) = 408, slope 4*9*(27+125) / 408 = 13.4, and 4.4 degrees of freedom.
    let found = total_of(vec![part(1, 4.0, 3.0, 0.0), part(2, 4.0, 5.0, 0.0)]);
    assert!(near(found.estimate, 32.0));
    let (t, slope) = (T_4_4, 5472.0 / 408.0);
    let up = (t * t * slope + (t.powi(4) * slope * slope + 4.0 * t * t * 408.0).sqrt()) / 2.0;
    assert!(near(found.high, 32.0 + up), "{found:?}");
    // 32 - 54.3 would be below the 8 that are there for certain.
    assert!(near(found.low, 8.0), "{found:?}");
    assert_eq!((found.n, found.n_effective), (2, 2.0));
    assert_eq!(found.note().unwrap(), "effective n 2.0 is under 30");
}

#[test]
fn rows_of_one_trace_are_one_draw() {
    let together = total_of(vec![part(1, 10.0, 6.0, 0.0)]);
    let apart = total_of((1..=6).map(|trace| part(trace, 10.0, 1.0, 0.0)).collect());
    assert_eq!(together.estimate, apart.estimate);
    // The same rows in one trace are sqrt(6) times less sure, and how unsure is less sure.
    let width = |found: Estimate| found.high.unwrap() - found.estimate.unwrap();
    assert!(width(together) / width(apart) > 6_f64.sqrt());
    assert_eq!((together.n, apart.n), (1, 6));
    // Rows without a trace are apart.
    let none = |num| Part {
        trace: NO_TRACE,
        weight: 10.0,
        num,
        den: 0.0,
    };
    assert_eq!(total_of(vec![none(1.0); 6]), apart);
}

#[test]
fn two_weights_in_a_trace_are_thresholds_of_one_number() {
    // Weight 2 is kept whenever weight 4 is. V = (1-1/2)(2*3)^2 + 2 (1-1/2)(2*3)(4*5) + (1-1/4)(4*5)^2.
    let found = total_of(vec![part(1, 4.0, 5.0, 0.0), part(1, 2.0, 3.0, 0.0)]);
    let v: f64 = 0.5 * 36.0 + 2.0 * 0.5 * 120.0 + 0.75 * 400.0;
    let parts = sorted(vec![part(1, 4.0, 5.0, 0.0), part(1, 2.0, 3.0, 0.0)]);
    assert!(near(Some(variance(&parts, |part| part.num)), v));
    assert!(near(found.estimate, 26.0) && near(found.low, 8.0), "{found:?}");
    assert_eq!(found.n, 1);
    // The variance is right on average: over the one random number it is E(estimate^2) - total^2.
    let outcomes = [
        (0.25, vec![part(1, 4.0, 5.0, 0.0), part(1, 2.0, 3.0, 0.0)]),
        (0.25, vec![part(1, 2.0, 3.0, 0.0)]),
    ];
    let mean: f64 = outcomes
        .iter()
        .map(|(p, parts)| p * variance(&sorted(parts.clone()), |part| part.num))
        .sum();
    let square: f64 = outcomes
        .iter()
        .map(|(p, parts)| p * total_of(parts.clone()).estimate.unwrap().powi(2))
        .sum();
    assert!((mean - (square - 64.0)).abs() < 1e-9, "{mean} {square}");
}

#[test]
fn a_ratio_by_hand() {
    // Means: Q = (2*10 + 3*40) / (2*1 + 3*2) = 17.5; V = (2*1*(10-17.5)^2 + 3*2*(40-35)^2) / 64.
    let found = ratio_of(vec![part(1, 2.0, 10.0, 1.0), part(2, 3.0, 40.0, 2.0)]);
    assert!(near(found.estimate, 17.5));
    // By t of 6.5 degrees of freedom; above, the variance grows.
    let (v, covariance) = (2.0 * 56.25 + 6.0 * 25.0, 2.0 * -421.875 + 12.0 * 125.0);
    let shift = T_6_5 * T_6_5 * covariance / v / 2.0;
    let up = shift + (shift * shift + T_6_5 * T_6_5 * v).sqrt();
    assert!(near(found.low, 17.5 - T_6_5 * v.sqrt() / 8.0), "{found:?}");
    assert!(near(found.high, 17.5 + up / 8.0), "{found:?}");
    let turned = ratio_of(vec![part(1, 2.0, -10.0, 1.0), part(2, 3.0, -40.0, 2.0)]);
    assert!(
        near(turned.low, -found.high.unwrap()) && near(turned.high, -found.low.unwrap()),
        "{turned:?}"
    );
    // Nothing below the line: no ratio.
    let none = ratio_of(vec![part(1, 2.0, 10.0, 0.0)]);
    assert_eq!((none.estimate, none.low, none.high), (None, None, None));
}

#[test]
fn a_share_of_none_or_of_all_is_not_certain() {
    let none = ratio_of((1..=1000).map(|trace| part(trace, 20.0, 0.0, 3.0)).collect());
    assert!(near(none.estimate, 0.0) && near(none.low, 0.0));
    // Wilson of 0 in 1000 * 20/19 traces, not in 3000 rows: their rows may all follow their trace.
    let trials = 1000.0 * 20.0 / 19.0;
    assert!(near(none.high, wilson(0.0, trials, P95).hi), "{none:?}");
    let all = ratio_of((1..=1000).map(|trace| part(trace, 20.0, 3.0, 3.0)).collect());
    assert!(
        near(all.high, 1.0) && near(all.low, 1.0 - none.high.unwrap()),
        "{all:?}"
    );
    assert_eq!((none.note(), all.note()), (None, None));
}

#[test]
fn a_share_without_skew_is_in_the_middle() {
    let found = ratio_of(
        (1..=40)
            .map(|trace| part(trace, 20.0, (trace % 2) as f64, 1.0))
            .collect(),
    );
    assert!(near(found.estimate, 0.5));
    assert!(near(found.low, 1.0 - found.high.unwrap()), "{found:?}");
}

#[test]
fn a_share_leans_to_where_traces_are_large() {
    // Of 1,000 traces 49 have one error and one has 30: further up than Wilson, who knows no sizes; down as he has it.
    let errors = |trace| match trace {
        0 => 30.0,
        1..50 => 1.0,
        _ => 0.0,
    };
    let parts = sorted((0..1000).map(|trace| part(trace, 20.0, errors(trace), 30.0)).collect());
    let (found, below) = (ratio(&parts, seen(&parts), P95), 600_000.0);
    let q = found.estimate.unwrap();
    let spread = Spread::of(&parts, |part| part.num - q * part.den);
    let trials = q * (1.0 - q) * below * below / spread.variance();
    let wilson = wilson_at(q * trials, trials, spread.deviate(P95));
    let end = q + spread.reach(P95).1 / below;
    assert!(near(found.low, wilson.lo), "{found:?} {wilson:?}");
    assert!(near(found.high, end) && end > 1.1 * wilson.hi, "{found:?} {wilson:?}");
}

#[test]
fn a_share_says_when_few_traces_have_it() {
    let with = |weight: f64| {
        let rest = (100..1100).map(|trace| part(trace, 20.0, 0.0, 2.0));
        ratio_of((1..=5).map(|trace| part(trace, weight, 1.0, 2.0)).chain(rest).collect())
    };
    assert_eq!(
        with(20.0).note().unwrap(),
        "effective n of its rarer side, 5.0, is under 30"
    );
    // All of them were kept: nothing is missing.
    assert_eq!(with(1.0).note(), None);
}

#[test]
fn errors_kept_whole_are_exact_in_a_sampled_service() {
    // Five errors, weight 1, and zeros of weight 50, which have no parts.
    let parts: Vec<Part> = (1..=5).map(|trace| part(trace, 1.0, 1.0, 0.0)).collect();
    let found = total(
        &parts,
        Seen {
            sampled: true,
            rows: 900,
            ..seen(&parts)
        },
        P95,
    );
    assert_eq!(
        (found.estimate, found.low, found.high),
        (Some(5.0), Some(5.0), Some(5.0))
    );
    assert_eq!(found.note(), None);
}

#[test]
fn nothing_kept_is_not_nothing() {
    let zeros = Seen {
        rows: 9,
        sampled: true,
        ..Seen::default()
    };
    let found = total(&[], zeros, P95);
    assert_eq!((found.estimate, found.low, found.high), (Some(0.0), None, None));
    assert!(found.note().unwrap().starts_with("nothing of it was kept"));
    let whole = total(
        &[],
        Seen {
            sampled: false,
            ..zeros
        },
        P95,
    );
    assert_eq!((whole.low, whole.high, whole.note()), (Some(0.0), Some(0.0), None));
    let unknown = Seen {
        unweighted: 3,
        ..Seen::default()
    };
    assert_eq!(
        total(&[], unknown, P95).note().unwrap(),
        "3 rows without a weight are left out"
    );
    assert_eq!(total(&[], unknown, P95).estimate, None);
}

#[test]
fn quantiles_are_values_that_are_there() {
    let rows: Vec<_> = (1..=100).map(|value| (f64::from(value), 1.0, value as u64)).collect();
    // 0.07 * 100 is 7.000000000000001.
    for (q, expect) in [
        (0.0, 1.0),
        (0.07, 7.0),
        (0.5, 50.0),
        (0.501, 51.0),
        (0.99, 99.0),
        (1.0, 100.0),
    ] {
        let found = quantile_of(&rows, q);
        assert_eq!(
            (found.estimate, found.low, found.high),
            (Some(expect), Some(expect), Some(expect)),
            "{q}"
        );
    }
    // One row that stands for 97 and three of weight 1.
    let rows = [(1.0, 1.0, 1), (2.0, 97.0, 2), (3.0, 1.0, 3), (4.0, 1.0, 4)];
    for (q, expect) in [(0.01, 1.0), (0.02, 2.0), (0.98, 2.0), (0.99, 3.0), (0.991, 4.0)] {
        assert_eq!(quantile_of(&rows, q).estimate, Some(expect), "{q}");
    }
}

#[test]
fn ends_of_a_quantile_are_ranks_as_the_binomial_has_them() {
    // A weight so high that what was kept is a sample of something endless: ranks 40 and 60 or so of the median of 100.
    let rows: Vec<_> = (1..=100).map(|value| (f64::from(value), 1e9, value as u64)).collect();
    let found = quantile_of(&rows, 0.5);
    let ranks = crate::interval::order_ranks(100, 0.5, P95).unwrap();
    let (low, high) = (found.low.unwrap(), found.high.unwrap());
    assert!(
        (low - ranks.0 as f64).abs() <= 1.0 && (high - ranks.1 as f64).abs() <= 1.0,
        "{low} {high} {ranks:?}"
    );
}

#[test]
fn a_tail_without_rows_has_no_end() {
    let rows = |n: u64| (1..=n).map(|value| (value as f64, 50.0, value)).collect::<Vec<_>>();
    let few = quantile_of(&rows(100), 0.99);
    assert_eq!((few.estimate, few.high), (Some(99.0), None));
    assert_eq!(few.note().unwrap(), "too little was kept to bound it above");
    assert_eq!(quantile_of(&rows(100), 0.01).low, None);
    assert!(quantile_of(&rows(1000), 0.99).high.is_some());
    assert_eq!(quantile_of(&rows(1000), 1.0).high, None);
    assert_eq!(quantile_of(&rows(1000), 0.0).low, None);
    assert_eq!(
        quantile_of(&[(7.0, 50.0, 1)], 0.5).note().unwrap(),
        "effective n 1.0 is under 30; too little was kept to bound it on either side"
    );
}

#[test]
fn slow_traces_kept_whole_make_a_high_quantile_sure() {
    let fast = (0..200).map(|n| (1.0 + n as f64 / 200.0, 98.0, 1000 + n));
    let slow = (0..400).map(|n| (10.0 + n as f64, 1.0, n));
    let found = quantile_of(&fast.chain(slow).collect::<Vec<_>>(), 0.99);
    // Rank 200 of the 400 slow ones.
    assert_eq!(found.estimate, Some(209.0));
    let (low, high) = (found.low.unwrap(), found.high.unwrap());
    assert!(low > 170.0 && high < 240.0, "{low} {high}");
}

#[test]
fn two_traces_of_many_rows_say_as_little_as_two() {
    let rows: Vec<_> = (0..2000).map(|row| ((row % 1000) as f64, 30.0, row / 1000)).collect();
    let found = quantile_of(&rows, 0.5);
    assert_eq!(found.n, 2);
    assert!(found.is_few());
}

/// Of one trace, or of traces alike, nothing tells a variance but how many there are, whatever rounding makes of num - q den.
#[test]
fn traces_alike_have_a_width_however_their_share_is_rounded() {
    for (num, copies) in (1..69).flat_map(|num| [(num, 1), (num, 7)]) {
        let parts = (0..copies).map(|trace| part(trace, 2.0, num.into(), 69.0)).collect();
        let found = ratio_of(parts);
        let width = found.high.unwrap() - found.low.unwrap();
        assert!(width > 0.1, "{num} of 69, {copies} times: {width}");
    }
}

fn any_parts() -> impl Strategy<Value = Vec<Part>> {
    let weight = prop_oneof![Just(1.0), (1..200_u32).prop_map(f64::from)];
    let one = (0..40_u64, weight, 0..50_i32, 0..50_i32);
    prop::collection::vec(
        one.prop_map(|(trace, weight, num, more)| part(trace, weight, num.into(), f64::from(num + more))),
        1..60,
    )
}

/// The double sum as it stands in the module's documentation.
fn variance_in_full(parts: &[Part]) -> f64 {
    let mut v = 0.0;
    for a in parts {
        for b in parts.iter().filter(|b| b.trace == a.trace) {
            v += (1.0 - 1.0 / a.weight.min(b.weight)) * a.weight * a.num * b.weight * b.num;
        }
    }
    v
}

proptest! {
    #[test]
    fn the_short_form_of_the_variance_is_the_double_sum(parts in any_parts()) {
        let (short, full) = (variance(&sorted(parts.clone()), |part| part.num), variance_in_full(&parts));
        prop_assert!((short - full).abs() <= 1e-9 * full.max(1.0), "{short} {full}");
    }

    #[test]
    fn an_interval_holds_its_estimate(parts in any_parts(), q in 0.0..=1.0) {
        for found in [total_of(parts.clone()), ratio_of(parts.clone())] {
            if let Some(estimate) = found.estimate {
                prop_assert!(found.low.is_none_or(|low| low <= estimate) && found.high.is_none_or(|high| estimate <= high), "{found:?}");
            }
            prop_assert!(found.n_effective <= found.n as f64 + 1e-9);
        }
        let rows: Vec<_> = parts.iter().map(|part| (part.num, part.weight, part.trace[0])).collect();
        let found = quantile_of(&rows, q);
        let estimate = found.estimate.unwrap();
        prop_assert!(found.low.is_none_or(|low| low <= estimate) && found.high.is_none_or(|high| estimate <= high), "{found:?}");
    }

    #[test]
    fn weights_of_one_are_exact(parts in any_parts(), q in 0.0..=1.0) {
        let parts: Vec<Part> = parts.into_iter().map(|part| Part { weight: 1.0, ..part }).collect();
        let sum: f64 = parts.iter().map(|part| part.num).sum();
        let found = total_of(parts.clone());
        prop_assert_eq!((found.estimate, found.low, found.high, found.note()), (Some(sum), Some(sum), Some(sum), None));
        let below: f64 = parts.iter().map(|part| part.den).sum();
        let found = ratio_of(parts.clone());
        let expect = (below > 0.0).then_some(sum / below);
        prop_assert_eq!((found.estimate, found.low, found.high), (expect, expect, expect));
        let rows: Vec<_> = parts.iter().map(|part| (part.num, 1.0, part.trace[0])).collect();
        let mut values: Vec<f64> = rows.iter().map(|row| row.0).collect();
        values.sort_by(f64::total_cmp);
        let expect = (0..values.len()).find(|at| (at + 1) as f64 >= q * values.len() as f64 * (1.0 - 1e-15)).map(|at| values[at]);
        let found = quantile_of(&rows, q);
        prop_assert_eq!((found.estimate, found.low, found.high), (expect, expect, expect));
    }

    #[test]
    fn the_share_below_a_value_is_that_of_a_ratio(parts in any_parts(), order in prop::collection::vec(0..60_usize, 1..20)) {
        // Against `ratio`, in the order in which a search may come by.
        let rows: Vec<_> = parts.iter().map(|part| (part.num, part.weight, part.trace[0])).collect();
        let order = order.into_iter().map(|at| at % (rows.len() + 1));
        for [found, expect] in quantile::shares(&rows, order) {
            prop_assert!((found.0 - expect.0).abs() < 1e-9 && (found.1 - expect.1).abs() < 1e-9, "{found:?} {expect:?}");
        }
    }

    #[test]
    fn what_is_turned_around_has_its_interval_turned_around(parts in any_parts()) {
        let ends = |found: Estimate| [found.low, found.estimate, found.high].map(|end| end.unwrap_or(0.0));
        let turned = |of: fn(Vec<Part>) -> Estimate, zero: f64, num: &dyn Fn(&Part, f64) -> f64| {
            let [there, back] = [1.0, -1.0].map(|sign| {
                ends(of(parts.iter().map(|part| Part { num: num(part, sign), ..*part }).collect()))
            });
            (0..3).all(|at| (there[at] - (zero - back[2 - at])).abs() <= 1e-9 * there[at].abs().max(1.0))
        };
        prop_assert!(turned(total_of, 0.0, &|part, sign| sign * part.num));
        // A mean, above 1 everywhere, so that it is no share.
        prop_assert!(turned(ratio_of, 0.0, &|part, sign| sign * (part.num + part.den + 1.0)));
        if parts.iter().any(|part| part.den > 0.0) {
            let others = turned(ratio_of, 1.0, &|part, sign| if sign > 0.0 { part.num } else { part.den - part.num });
            prop_assert!(others);
        }
    }

    #[test]
    fn what_is_never_negative_has_no_negative_end(parts in any_parts()) {
        let kept: f64 = parts.iter().map(|part| part.num).sum();
        prop_assert!(total_of(parts.clone()).low.is_none_or(|low| low >= kept * (1.0 - 1e-12)));
        let mean = ratio_of(parts.iter().map(|part| Part { den: 1.0, ..*part }).collect());
        prop_assert!(mean.low.unwrap() >= 0.0);
    }

    #[test]
    fn the_point_estimate_is_the_same_with_and_without_interval(parts in any_parts(), q in 0.0..=1.0) {
        let rows: Vec<_> = parts.iter().map(|part| (part.num, part.weight, part.trace[0])).collect();
        let mut draws: Vec<_> = rows.iter().map(|row| Draw { value: row.0, weight: row.1 }).collect();
        prop_assert_eq!(at_rank(&mut draws, q), quantile_of(&rows, q).estimate);
    }
}

mod simulation;
