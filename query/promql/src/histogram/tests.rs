use proptest::prelude::*;

use super::*;

fn exponential(schema: i32, positive: &[(i32, f64)]) -> Histogram {
    let count = positive.iter().map(|bucket| bucket.1).sum();
    Histogram {
        schema,
        count,
        sum: 1.0,
        positive: positive.to_vec(),
        ..Histogram::default()
    }
}

fn custom(bounds: &[f64], positive: &[(i32, f64)]) -> Histogram {
    Histogram {
        bounds: bounds.into(),
        ..exponential(CUSTOM_BUCKETS, positive)
    }
}

#[test]
fn bounds_follow_the_schema() {
    let check = |index, schema, expected: f64| {
        let bound = exponential_bound(index, schema);
        assert!(
            (bound - expected).abs() <= expected * 1e-15,
            "{index} {schema}: {bound} {expected}"
        );
    };
    check(0, 0, 1.0);
    check(1, 0, 2.0);
    check(-1, 0, 0.5);
    check(1, 1, std::f64::consts::SQRT_2);
    check(2, -1, 16.0);
    check(-2, -2, 1.0 / 256.0);
    check(1024, 0, f64::MAX);
    check(8192, 3, f64::MAX);
    assert_eq!(exponential_bound(1025, 0), f64::INFINITY);
    assert!(exponential_bound(-1074, 0) > 0.0, "subnormal bounds exist");
}

#[test]
fn a_sum_takes_the_coarser_schema_and_the_wider_zero() {
    let mut sum = exponential(1, &[(1, 1.0), (2, 2.0), (3, 4.0)]);
    let other = Histogram {
        zero_threshold: 1.5,
        zero_count: 1.0,
        count: 4.0,
        ..exponential(0, &[(2, 3.0)])
    };
    sum.add(&other).unwrap();
    // 1.5 cuts (1.41, 2]: the zero bucket grows to 2 and takes both buckets below it.
    assert_eq!((sum.schema, sum.zero_threshold, sum.zero_count), (0, 2.0, 4.0));
    assert_eq!(sum.positive, vec![(2, 7.0)]);
    assert_eq!(sum.count, 11.0);
}

#[test]
fn custom_bounds_are_cut_to_those_in_common() {
    let mut sum = custom(&[1.0, 2.0, 5.0], &[(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]);
    let added = sum
        .add(&custom(&[2.0, 3.0, 5.0], &[(0, 10.0), (1, 20.0), (3, 30.0)]))
        .unwrap();
    assert!(added.bounds_reconciled);
    assert_eq!(&*sum.bounds, &[2.0, 5.0]);
    assert_eq!(sum.positive, vec![(0, 13.0), (1, 23.0), (2, 34.0)]);
    assert_eq!(sum.add(&exponential(0, &[])), Err(IncompatibleBuckets));
}

#[test]
fn resets() {
    let check = |now: &Histogram, before: &Histogram, expected: bool| assert_eq!(now.is_reset_after(before), expected);
    let a = exponential(0, &[(1, 1.0), (2, 2.0)]);
    let grown = exponential(0, &[(1, 1.0), (2, 3.0)]);
    check(&grown, &a, false);
    check(&a, &grown, true);
    check(&exponential(0, &[(1, 9.0)]), &a, true);
    check(&exponential(-1, &[(1, 3.0)]), &a, false);
    check(&exponential(1, &[(1, 30.0)]), &a, true);
    check(
        &Histogram {
            reset: ResetHint::NotReset,
            ..a.clone()
        },
        &grown,
        false,
    );
    check(
        &Histogram {
            reset: ResetHint::Reset,
            ..grown.clone()
        },
        &a,
        true,
    );
}

#[test]
fn a_histogram_is_printed_as_prometheus_prints_it() {
    let histogram = Histogram {
        zero_threshold: 0.5,
        zero_count: 2.0,
        negative: vec![(1, 1.0)],
        ..exponential(0, &[(1, 3.0)])
    };
    assert_eq!(
        histogram.to_string(),
        "{count:3, sum:1, [-2,-1):1, [-0.5,0.5]:2, (1,2]:3}"
    );
}

#[test]
fn quantiles() {
    let check = |q: f64, histogram: &Histogram, expected: f64| {
        let (value, _) = quantile(q, histogram);
        assert!(
            (value - expected).abs() < 1e-9 || value == expected,
            "{q}: {value} {expected}"
        );
    };
    let one = exponential(0, &[(1, 4.0)]);
    check(0.5, &one, std::f64::consts::SQRT_2);
    check(1.0, &one, 2.0);
    check(-1.0, &one, f64::NEG_INFINITY);
    check(2.0, &one, f64::INFINITY);
    let bounds = custom(&[1.0, 2.0], &[(0, 1.0), (1, 1.0), (2, 2.0)]);
    check(0.25, &bounds, 1.0);
    check(0.9, &bounds, 2.0);
    assert_eq!(fraction(1.0, 2.0, &bounds).0, 0.25);
}

fn any_side() -> impl Strategy<Value = Buckets> {
    proptest::collection::btree_map(-40..40i32, 0..100u32, 0..12).prop_map(|side| {
        side.into_iter()
            .map(|(index, count)| (index, f64::from(count)))
            .collect()
    })
}

fn any_histogram() -> impl Strategy<Value = Histogram> {
    (
        -2..4i32,
        any_side(),
        any_side(),
        0..5u32,
        prop::sample::select(vec![0.0, 0.001, 0.25, 1.0, 3.0]),
    )
        .prop_map(|(schema, positive, negative, zero, zero_threshold)| {
            let plain = Histogram {
                schema,
                positive,
                negative,
                zero_count: f64::from(zero),
                ..Histogram::default()
            };
            let mut histogram = Histogram::default();
            // Buckets inside the zero bucket do not occur in stored histograms: let the zero bucket swallow them.
            let (zero_count, at) = plain.zero_count_at(zero_threshold);
            histogram.clone_from(&plain);
            histogram.widen_zero_for_test(zero_count, at);
            histogram.count = total(&histogram);
            histogram.sum = histogram.count;
            histogram
        })
}

fn total(histogram: &Histogram) -> f64 {
    histogram.zero_count
        + histogram
            .positive
            .iter()
            .chain(&histogram.negative)
            .map(|bucket| bucket.1)
            .sum::<f64>()
}

proptest! {
    /// Whole numbers: nothing is lost, whatever schemas and zero buckets meet, in either order.
    #[test]
    fn a_sum_counts_every_observation_once(a in any_histogram(), b in any_histogram()) {
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.add(&b).unwrap();
        ba.add(&a).unwrap();
        prop_assert_eq!(total(&ab), total(&a) + total(&b));
        prop_assert_eq!(ab.clone().compact(), ba.compact());
        let mut accumulated = Accumulator::new(&a);
        accumulated.add(&b).unwrap();
        prop_assert_eq!(accumulated.plain(1.0).compact(), ab.clone().compact());
        ab.subtract(&b).unwrap();
        prop_assert_eq!(total(&ab), total(&a));
        prop_assert!(ab.count == a.count);
    }

    #[test]
    fn growing_is_not_a_reset_and_shrinking_is(a in any_histogram(), b in any_histogram()) {
        let mut grown = a.clone();
        grown.add(&b).unwrap();
        prop_assert!(!grown.is_reset_after(&a));
        if b.count > 0.0 {
            prop_assert!(a.is_reset_after(&grown));
        }
    }

    #[test]
    fn a_quantile_lies_within_the_buckets_and_rises(histogram in any_histogram(), q in 0.0..=1.0f64) {
        prop_assume!(histogram.count > 0.0);
        let (value, _) = quantile(q, &histogram);
        let (lower, _) = quantile(q * 0.9, &histogram);
        prop_assert!(lower <= value + value.abs() * 1e-9, "{} {}", lower, value);
        let (part, _) = fraction(f64::NEG_INFINITY, value, &histogram);
        prop_assert!(part <= 1.0 + 1e-9);
    }
}
