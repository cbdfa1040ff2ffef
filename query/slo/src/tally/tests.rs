#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::fixture::{decimal, ratio_timeslices, timeslices};

fn slices(counts: &[(u64, u64)], width: u32) -> Vec<Slice> {
    let start = |i: usize| Time(i as i64 * i64::from(width));
    counts
        .iter()
        .enumerate()
        .map(|(i, &(good, total))| Slice::new(start(i), width, good, total))
        .collect()
}

fn sum(slices: &[Slice], budgeting: &Budgeting) -> Sums {
    slices
        .iter()
        .fold(Sums::default(), |sum, slice| sum + Sums::of(slice, budgeting))
}

fn consumed(counts: &[(u64, u64)], budgeting: Budgeting, budget: &str) -> Option<f64> {
    sum(&slices(counts, 60), &budgeting)
        .tally(&budgeting)
        .consumed(decimal(budget))
        .map(Ratio::as_f64)
}

#[test]
fn budgets_by_method() {
    let check = |counts: &[(u64, u64)], budgeting: Budgeting, budget: &str, expected: Option<f64>| {
        let ours = consumed(counts, budgeting, budget);
        let same = match (ours, expected) {
            (Some(ours), Some(expected)) => (ours - expected).abs() < 1e-12 || ours == expected,
            (ours, expected) => ours == expected,
        };
        assert!(same, "{counts:?} {budgeting:?} {budget}: {ours:?}, not {expected:?}");
    };
    use Budgeting::Occurrences;
    check(&[], Occurrences, "0.001", None);
    check(&[(0, 0), (0, 0)], Occurrences, "0.001", None);
    check(&[(1000, 1000)], Occurrences, "0.001", Some(0.0));
    check(&[(999, 1000)], Occurrences, "0.001", Some(1.0));
    check(&[(0, 1000)], Occurrences, "0.001", Some(1000.0));
    // A quiet slice weighs as little as its events, whatever its ratio.
    check(&[(999_990, 999_990), (0, 10)], Occurrences, "0.001", Some(0.01));
    check(&[(999_990, 999_990), (0, 10)], timeslices(1, "0.99"), "0.1", Some(5.0));
    check(&[(999_990, 999_990), (0, 10)], ratio_timeslices(1), "0.1", Some(5.0));
    check(&[(9, 10), (10, 10)], ratio_timeslices(1), "0.1", Some(0.5));
    // On the slice target is good; just below is bad.
    check(&[(99, 100), (98, 100)], timeslices(1, "0.99"), "0.5", Some(1.0));
    check(&[(99, 100), (0, 0)], timeslices(1, "0.99"), "0.5", Some(0.0));
    check(&[(99, 100)], timeslices(1, "1"), "0.5", Some(2.0));
    // No budget: nothing bad is fine, anything else is beyond all bounds.
    check(&[(5, 5)], Occurrences, "0", Some(0.0));
    check(&[(4, 5)], Occurrences, "0", Some(f64::INFINITY));
    // All the budget there can be.
    check(&[(0, 5)], Occurrences, "1", Some(1.0));
}

/// Slices of a 30 day window: 43.2 minutes at 99.9 %, so one bad slice of five minutes costs 5/43.2 (design/slo.md 2a).
#[test]
fn a_bad_slice_costs_its_length() {
    let minutes = |bad: usize, width: usize, budgeting: Budgeting| {
        let counts: Vec<_> = (0..30 * 1440 / width).map(|i| (u64::from(i >= bad), 1)).collect();
        consumed(&counts, budgeting, "0.001").unwrap()
    };
    assert!((minutes(5, 1, timeslices(1, "0.5")) - 5.0 / 43.2).abs() < 1e-12);
    assert!((minutes(1, 5, timeslices(5, "0.5")) - 5.0 / 43.2).abs() < 1e-12);
}

/// slo-generator 2.6.0 with a backend of these counts, as `(goal, good, bad, window in days, SLI, budget, error, remaining minutes,
/// consumed %)`. Its burn rate, rounded to one digit before it is compared, is left out.
#[test]
fn slo_generator_agrees_where_it_is_right() {
    type Row = (&'static str, u64, u64, u64, f64, f64, f64, f64, f64);
    #[rustfmt::skip]
    let table: [Row; 7] = [
        ("0.999", 999_000, 1_000, 30, 0.999, 43.20000000000004, 43.20000000000004, 0.0, 100.0),
        ("0.999", 998_000, 2_000, 30, 0.998, 43.20000000000004, 86.40000000000008, -43.20000000000004, 200.0),
        ("0.999", 99_950, 50, 28, 0.9995, 40.320000000000036, 20.159999999997776, 20.160000000002256, 49.99999999999445),
        ("0.9995", 1_998_000, 2_000, 90, 0.999, 64.79999999999286, 129.6000000000001, -64.80000000000726, 200.0000000000222),
        ("0.95", 900, 100, 7, 0.9, 504.0000000000004, 1007.9999999999998, -503.9999999999993, 199.9999999999998),
        ("0.99", 4_000, 0, 30, 1.0, 432.00000000000034, 0.0, 432.00000000000034, 0.0),
        ("0.9", 1, 3, 1, 0.25, 143.99999999999997, 1080.0, -936.0, 750.0000000000001),
    ];
    for (goal, good, bad, days, sli, budget_minutes, error_minutes, remaining_minutes, percent) in table {
        let budget = decimal(goal).complement().unwrap();
        let tally = sum(&slices(&[(good, good + bad)], 60), &Budgeting::Occurrences).tally(&Budgeting::Occurrences);
        let consumed = tally.consumed(budget).unwrap();
        let minutes = days as f64 * 1440.0 * budget.to_f64();
        for (ours, theirs) in [
            (tally.sli().unwrap(), sli),
            (minutes, budget_minutes),
            (minutes * consumed.as_f64(), error_minutes),
            (minutes * consumed.complement().as_f64(), remaining_minutes),
            (consumed.as_f64() * 100.0, percent),
        ] {
            assert!(
                (ours - theirs).abs() < 1e-9 * theirs.abs().max(1.0),
                "{goal} {good} {bad}: {ours}, not {theirs}"
            );
        }
    }
    // Where it is wrong: 1 bad in 10^7 is rounded to 100 %, and a goal of 1 burns at 0.
    let tally = sum(&slices(&[(9_999_999, 10_000_000)], 60), &Budgeting::Occurrences).tally(&Budgeting::Occurrences);
    assert_eq!(
        (tally.reaches(Decimal::ONE), percent_down(tally.good(), tally.total, 3)),
        (Some(false), "99.999%".into())
    );
    assert_eq!(tally.consumed(Decimal::ZERO).unwrap().as_f64(), f64::INFINITY);
}

#[test]
fn what_is_unknown_widens() {
    let occurrences = Budgeting::Occurrences;
    let slice = Slice::between(Time(0), 60, (900, 970), 1000);
    let tally = Sums::of(&slice, &occurrences).tally(&occurrences);
    assert_eq!((tally.bad, tally.bad_least, tally.sli()), (100, 30, Some(0.9)));
    assert_eq!(tally.known(), Some(Interval { lo: 0.9, hi: 0.97 }));
    assert_eq!(
        [0.89, 0.95, 0.98].map(|t| tally.reaches(decimal(&t.to_string()))),
        [Some(true), None, Some(false)]
    );
    let chance = tally.interval(IntervalMethod::Wilson, Confidence::P95);
    assert!(chance.lo < 0.9 && chance.hi > 0.97);
    // A slice that may have been bad is a slice that may be bad.
    let method = timeslices(1, "0.95");
    let tally = Sums::of(&slice, &method).tally(&method);
    assert_eq!((tally.bad, tally.bad_least, tally.total), (1, 0, 1));
}

#[test]
fn a_mean_of_ratios_has_the_trials_of_its_variance() {
    // Ten slices of a hundred: a thousand trials; one slice of one event weighs as much as its slice does.
    let method = ratio_timeslices(1);
    let trials = |counts: &[(u64, u64)]| sum(&slices(counts, 60), &method).tally(&method).trials;
    assert!((trials(&[(90, 100); 10]) - 1000.0).abs() < 1e-6);
    assert!((trials(&[(90, 100), (1, 1)]) - 4.0 / 1.01).abs() < 1e-6);
    assert_eq!(trials(&[]), 0.0);
}

#[test]
fn slices_that_cannot_be() {
    let method = Budgeting::Occurrences;
    assert_eq!(Sums::of(&Slice::new(Time(0), 60, 6, 5), &method).impossible, 1);
    assert_eq!(Sums::of(&Slice::new(Time(0), 60, 1, 0), &method).impossible, 1);
    assert_eq!(Sums::of(&Slice::between(Time(0), 60, (4, 6), 5), &method).impossible, 1);
    assert_eq!(Sums::of(&Slice::new(Time(0), 60, 5, 5), &method).impossible, 0);
    // A slice that is judged by itself cannot have more bad events than events; what adds up can.
    let late = Slice::of_bad(Time(0), 60, 6, 5);
    for (budgeting, impossible) in [(method, 0), (timeslices(1, "0.5"), 1), (ratio_timeslices(1), 1)] {
        assert_eq!(Sums::of(&late, &budgeting).impossible, impossible, "{budgeting:?}");
    }
    assert_eq!(Slice::ratio(Time(0), 60, 1.01), None);
    assert_eq!(Slice::ratio(Time(0), 60, f64::NAN), None);
    assert_eq!(Slice::ratio(Time(0), 60, 0.25).unwrap().good, 250_000_000);
    assert_eq!(Slice::judged(Time(0), 60, true), Slice::new(Time(0), 60, 1, 1));
}

/// What is lost is booked when it is known to be lost, which may be after what was received.
#[test]
fn bad_events_may_be_booked_late() {
    let check = |counts: &[(u64, u64)], bad: u128, total: u128, is_overfull: bool| {
        let slices = counts
            .iter()
            .map(|(bad, total)| Slice::of_bad(Time(0), 60, *bad, *total));
        let sums = slices.fold(Sums::default(), |sums, slice| {
            sums + Sums::of(&slice, &Budgeting::Occurrences)
        });
        let tally = sums.tally(&Budgeting::Occurrences);
        assert_eq!(
            (tally.bad, tally.bad_least, tally.total),
            (bad, bad, total),
            "{counts:?}"
        );
        assert_eq!((sums.is_overfull(), sums.impossible), (is_overfull, 0), "{counts:?}");
        assert_eq!(sums.good() + tally.bad, total);
    };
    check(&[(0, 1000), (30, 0)], 30, 1000, false);
    check(&[(30, 0), (0, 1000)], 30, 1000, false);
    check(&[(5, 100), (30, 10), (0, 0)], 35, 110, false);
    check(&[(0, 20), (30, 10)], 30, 30, false);
    check(&[(0, 19), (30, 10)], 29, 29, true);
    check(&[(30, 0)], 0, 0, true);
}

#[test]
fn forgiven_time_has_nothing_bad() {
    for method in [Budgeting::Occurrences, timeslices(1, "0.99"), ratio_timeslices(1)] {
        for slice in [
            Slice::between(Time(0), 60, (5, 6), 10),
            Slice::of_bad(Time(0), 60, 30, 10),
        ] {
            let sums = Sums::of(&slice, &method).forgiven();
            let tally = sums.tally(&method);
            assert_eq!((tally.bad, tally.bad_least), (0, 0), "{method:?}");
            assert!(tally.total > 0);
        }
    }
}

#[test]
fn percentages_are_cut_off() {
    let check =
        |part: u128, whole: u128, digits: usize, shown: &str| assert_eq!(percent_down(part, whole, digits), shown);
    check(9_999_999, 10_000_000, 3, "99.999%");
    check(9_999_999, 10_000_000, 5, "99.99999%");
    check(1, 3, 2, "33.33%");
    check(3, 3, 2, "100.00%");
    check(0, 3, 0, "0%");
    check(u128::from(u64::MAX) - 1, u64::MAX.into(), 9, "99.999999999%");
    check((1 << 68) - 1, 1 << 68, 9, "99.999999999%");
}

fn methods() -> impl Strategy<Value = Budgeting> {
    prop::sample::select(vec![Budgeting::Occurrences, timeslices(1, "0.95"), ratio_timeslices(1)])
}

fn counts() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let slice = (0_u64..200, 0_u64..20).prop_map(|(good, bad)| (good, good + bad));
    prop::collection::vec(prop_oneof![9 => slice, 1 => Just((0, 0))], 0..60)
}

fn budgets() -> impl Strategy<Value = Decimal> {
    (1_i64..1000).prop_map(|parts| Decimal::new(parts, 3).unwrap())
}

proptest! {
    #[test]
    fn order_and_grouping_of_sums_do_not_matter(counts in counts(), method in methods(), cut in 0_usize..60) {
        let forward = slices(&counts, 60);
        let mut backward = forward.clone();
        backward.reverse();
        let (left, right) = forward.split_at(cut.min(forward.len()));
        let all = sum(&forward, &method);
        prop_assert_eq!(sum(&backward, &method), all);
        prop_assert_eq!(sum(left, &method) + sum(right, &method), all);
        prop_assert_eq!(all - sum(left, &method), sum(right, &method));
    }

    #[test]
    fn width_of_slices_does_not_matter_to_occurrences(counts in counts(), group in 1_usize..10, budget in budgets()) {
        let coarse: Vec<_> = counts.chunks(group).map(|chunk| chunk.iter().fold((0, 0), |(g, n), (good, total)| (g + good, n + total))).collect();
        prop_assert_eq!(
            consumed(&counts, Budgeting::Occurrences, &budget.to_string()),
            consumed(&coarse, Budgeting::Occurrences, &budget.to_string())
        );
    }

    /// Nor does it where bad events are booked elsewhere than what they are of.
    #[test]
    fn nor_does_it_to_bad_events_booked_late(counts in prop::collection::vec((0_u64..30, 0_u64..60), 0..60), group in 1_usize..10, cut in 0_usize..60) {
        let of = |counts: &[(u64, u64)]| {
            let slices = counts.iter().map(|(bad, total)| Slice::of_bad(Time(0), 60, *bad, *total));
            slices.fold(Sums::default(), |sums, slice| sums + Sums::of(&slice, &Budgeting::Occurrences))
        };
        let coarse: Vec<_> = counts.chunks(group).map(|chunk| chunk.iter().fold((0, 0), |(b, n), (bad, total)| (b + bad, n + total))).collect();
        let (all, bad) = (of(&counts), counts.iter().map(|(bad, _)| u128::from(*bad)).sum::<u128>());
        let tally = all.tally(&Budgeting::Occurrences);
        prop_assert_eq!(of(&coarse).tally(&Budgeting::Occurrences), tally);
        prop_assert_eq!((tally.bad, all.is_overfull()), (bad.min(tally.total), bad > tally.total));
        let (left, right) = counts.split_at(cut.min(counts.len()));
        prop_assert_eq!(all - of(left), of(right));
    }

    #[test]
    fn consumed_and_remaining_make_one(counts in counts(), method in methods(), budget in budgets()) {
        if let Some(consumed) = sum(&slices(&counts, 60), &method).tally(&method).consumed(budget) {
            let (gone, all) = consumed.parts();
            let (left, same) = consumed.complement().parts();
            prop_assert_eq!((gone + left, all), (all, same));
            prop_assert!(gone >= 0 && all > 0);
        }
    }

    #[test]
    fn a_good_event_more_never_raises_burn(counts in counts(), method in methods(), at in 0_usize..60, more in 1_u64..50, budget in budgets()) {
        let mut better = counts.clone();
        if let Some((good, total)) = better.get_mut(at).filter(|(_, total)| *total > 0) {
            (*good, *total) = (*good + more, *total + more);
        }
        let budget = budget.to_string();
        if let (Some(before), Some(after)) = (consumed(&counts, method, &budget), consumed(&better, method, &budget)) {
            prop_assert!(after <= before + 1e-12, "{after} above {before}");
        }
    }

    #[test]
    fn a_bad_event_more_never_lowers_burn(counts in counts(), method in methods(), at in 0_usize..60, budget in budgets()) {
        let mut worse = counts.clone();
        if let Some((_, total)) = worse.get_mut(at).filter(|(_, total)| *total > 0) {
            *total += 1;
        }
        let budget = budget.to_string();
        if let (Some(before), Some(after)) = (consumed(&counts, method, &budget), consumed(&worse, method, &budget)) {
            prop_assert!(after >= before - 1e-12, "{after} below {before}");
        }
    }

    #[test]
    fn so_many_times_the_traffic_burns_the_same(counts in counts(), method in methods(), times in 1_u64..1000, budget in budgets()) {
        let scaled: Vec<_> = counts.iter().map(|(good, total)| (good * times, total * times)).collect();
        let budget = budget.to_string();
        match (consumed(&counts, method, &budget), consumed(&scaled, method, &budget)) {
            (Some(before), Some(after)) => prop_assert!((after - before).abs() < 1e-9),
            (before, after) => prop_assert_eq!(before, after),
        }
    }

    #[test]
    fn chance_never_narrows_what_is_known(counts in counts(), method in methods(), unsure in 0_u64..30) {
        let mut slices = slices(&counts, 60);
        for slice in &mut slices {
            slice.good_most = slice.total.min(slice.good + unsure);
        }
        let tally = sum(&slices, &method).tally(&method);
        if let Some(known) = tally.known() {
            for each in [IntervalMethod::Wilson, IntervalMethod::ClopperPearson] {
                let chance = tally.interval(each, Confidence::P95);
                prop_assert!(chance.lo <= known.lo + 1e-9 && chance.hi >= known.hi - 1e-9, "{chance:?} {known:?}");
            }
        }
    }
}
