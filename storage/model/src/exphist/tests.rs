//! What the module head promises, checked on generated values.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// Exact `percentile_cont` of sorted values.
fn exact(sorted: &[f64], q: f64) -> f64 {
    let rank = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    low + (high - low) * rank.fract()
}

fn sketch(values: impl IntoIterator<Item = (f64, f64)>) -> ExpHist {
    let mut sketch = ExpHist::new();
    values
        .into_iter()
        .for_each(|(value, weight)| sketch.record_weighted(value, weight));
    sketch
}

fn once(values: &[f64]) -> ExpHist {
    sketch(values.iter().map(|value| (*value, 1.0)))
}

/// Integers and powers far apart: both signs, zeros, ranges that need a lower scale.
fn integer_values() -> impl Strategy<Value = Vec<(f64, f64)>> {
    let value = prop_oneof![
        (-1000i64..1000).prop_map(|v| v as f64),
        (1i64..10_000_000_000).prop_map(|v| v as f64),
        (-40i32..40).prop_map(|e| f64::from(e).exp2()),
        (-20i32..20).prop_map(|e| -f64::from(e).exp2()),
    ];
    prop::collection::vec((value, (1u8..20).prop_map(f64::from)), 0..60)
}

/// The part of the encoding that does not depend on the order of float additions: everything but the sum.
fn without_sum(sketch: &ExpHist) -> Vec<u8> {
    let mut bytes = sketch.encode();
    if bytes.len() > 11 {
        bytes.drain(3..11);
    }
    bytes
}

proptest! {
    #[test]
    fn merging_is_associative_commutative_and_equals_one_sketch(a in integer_values(), b in integer_values(), c in integer_values()) {
        let (x, y, z) = (sketch(a.clone()), sketch(b.clone()), sketch(c.clone()));
        let mut left = x.clone();
        left.merge(&y);
        left.merge(&z);
        let mut right = z.clone();
        right.merge(&y);
        let mut outer = x.clone();
        outer.merge(&right);
        let mut all = a;
        all.extend(b);
        all.extend(c);
        all.reverse();
        let whole = sketch(all);
        prop_assert_eq!(without_sum(&left), without_sum(&outer));
        prop_assert_eq!(without_sum(&left), without_sum(&whole));
        prop_assert!((left.sum() - whole.sum()).abs() <= 1e-9 * whole.sum().abs().max(1.0));
    }

    #[test]
    fn the_encoding_round_trips(values in integer_values(), fractions in any::<bool>()) {
        let sketch = sketch(values.into_iter().map(|(v, w)| (v, if fractions { w / 7.0 } else { w })));
        let bytes = sketch.encode();
        prop_assert_eq!(ExpHist::decode(&bytes).unwrap().encode(), bytes);
    }

    #[test]
    fn quantiles_are_within_the_bound_of_percentile_cont(mut values in prop::collection::vec(1e-3f64..1e12, 1..200), q in 0.0f64..=1.0) {
        let sketch = once(&values);
        values.sort_by(f64::total_cmp);
        let (truth, read) = (exact(&values, q), sketch.quantile(q).unwrap());
        prop_assert!((read - truth).abs() <= 0.010_9 * truth, "{} {}", read, truth);
    }

    #[test]
    fn negative_quantiles_mirror_positive_ones(values in prop::collection::vec(1e-3f64..1e9, 1..100), q in 0.0f64..=1.0) {
        let negated: Vec<f64> = values.iter().map(|value| -value).collect();
        let (plain, mirrored) = (once(&values).quantile(1.0 - q).unwrap(), once(&negated).quantile(q).unwrap());
        prop_assert!((plain + mirrored).abs() <= 1e-6 * plain.abs(), "{} {}", plain, mirrored);
    }

    #[test]
    fn a_weight_is_a_repetition(values in prop::collection::vec((1u32..1_000_000, 1u8..9), 1..40), q in 0.0f64..=1.0) {
        let weighted = sketch(values.iter().map(|(v, w)| (f64::from(*v), f64::from(*w))));
        let repeated = sketch(values.iter().flat_map(|(v, w)| (0..*w).map(|_| (f64::from(*v), 1.0))));
        prop_assert_eq!(weighted.encode(), repeated.encode());
        prop_assert_eq!(weighted.quantile(q), repeated.quantile(q));
    }

    #[test]
    fn count_le_is_monotone_and_off_by_at_most_the_bucket_of_x(values in prop::collection::vec(-1e6f64..1e6, 1..100), x in -1e6f64..1e6) {
        let sketch = once(&values);
        let width = (1.0f64 / 32.0).exp2() * (1.0 + 1e-12);
        let (inner, outer) = if x >= 0.0 { (x / width, x * width) } else { (x * width, x / width) };
        let at = |limit: f64| values.iter().filter(|value| **value <= limit).count() as f64;
        let read = sketch.count_le(x);
        prop_assert!(read >= at(inner) - 1e-6 && read <= at(outer) + 1e-6, "{} <= {} <= {}", at(inner), read, at(outer));
        prop_assert!(sketch.count_le(x.next_down()) <= read + 1e-9);
    }

    #[test]
    fn ranges_hold_the_values(values in integer_values(), x in prop_oneof![-1e6_f64..1e6, (-40_i32..40).prop_map(|e| f64::from(e).exp2())]) {
        let bytes = sketch(values.clone()).encode();
        let ranges = View::parse(&bytes).unwrap().ranges().unwrap();
        let weight = |holds: &dyn Fn(&(f64, f64, f64)) -> bool| ranges.iter().filter(|range| holds(range)).map(|range| range.2).sum::<f64>();
        let truth: f64 = values.iter().filter(|(value, _)| *value <= x).map(|(_, weight)| weight).sum();
        let (least, most) = (weight(&|range| range.1 <= x), weight(&|range| range.0 < x || range.1 <= x));
        prop_assert!(least <= truth && truth <= most, "{least} {truth} {most}: {ranges:?}");
        prop_assert_eq!(weight(&|_| true), values.iter().map(|(_, weight)| weight).sum::<f64>());
        prop_assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].1 && pair[0].0 <= pair[1].0), "{ranges:?}");
        let mut above_zero = Vec::new();
        let rest = View::parse(&bytes).unwrap().each_positive(|bucket, weight| above_zero.push((super::index::boundary(bucket + 1, SCALE), weight))).unwrap();
        let expected: Vec<_> = ranges.iter().filter(|range| range.1 > 0.0).map(|range| (range.1, range.2)).collect();
        prop_assert_eq!(&above_zero, &expected);
        prop_assert_eq!(rest, weight(&|range| range.1 <= 0.0));
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), damage in any::<(usize, u8)>(), values in integer_values()) {
        let mut damaged = sketch(values).encode();
        let at = damage.0 % damaged.len();
        damaged[at] ^= damage.1;
        let mut prefixed = vec![1, 0, 5];
        prefixed.extend(&bytes);
        for bytes in [bytes, damaged, prefixed] {
            if let Ok(sketch) = ExpHist::decode(&bytes) {
                sketch.encode();
            }
            if let Ok(view) = View::parse(&bytes) {
                let _ = (view.quantile(0.5), view.count_le(1.0), view.count(), view.ranges().is_ok(), view.each_positive(|_, _| {}));
            }
        }
    }
}

#[test]
fn what_is_not_a_value_does_not_count() {
    let mut sketch = ExpHist::new();
    sketch.record(f64::NAN);
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        sketch.record_weighted(1.0, weight);
    }
    assert_eq!(sketch.count(), 0.0);
    assert_eq!(sketch.quantile(0.5), None);
    assert_eq!(sketch.encode(), [1, 8, 5]);
}

#[test]
fn infinities_have_their_rank_and_cost_no_precision() {
    let sketch = once(&[f64::NEG_INFINITY, 1.0, 2.0, 3.0, f64::INFINITY]);
    assert_eq!(sketch.count(), 5.0);
    assert_eq!(sketch.quantile(0.0), Some(f64::NEG_INFINITY));
    assert_eq!(sketch.quantile(1.0), Some(f64::INFINITY));
    assert!((sketch.quantile(0.5).unwrap() - 2.0).abs() < 0.03);
    assert_eq!(sketch.count_le(1e300), 4.0);
    assert_eq!(sketch.count_le(0.0), 1.0);
    assert!(sketch.sum().is_nan());
    assert_eq!(ExpHist::decode(&sketch.encode()).unwrap().encode(), sketch.encode());
    assert_eq!(once(&[f64::INFINITY]).quantile(0.5), Some(f64::INFINITY));
    assert_eq!(once(&[f64::INFINITY]).count_le(5.0), 0.0);
}

#[test]
fn zeros_and_subnormals() {
    let sketch = once(&[0.0, -0.0, 0.0, f64::from_bits(1)]);
    assert_eq!(sketch.quantile(0.5), Some(0.0));
    assert_eq!(sketch.count_le(0.0), 3.0);
    assert_eq!(sketch.count_le(-1.0), 0.0);
    assert_eq!(sketch.count_le(1.0), 4.0);
}

#[test]
fn one_value_is_read_back_exactly() {
    for value in [1.0, 0.1, 12_345.678, -3.3, f64::MAX, f64::MIN_POSITIVE] {
        for q in [0.0, 0.3, 1.0] {
            assert_eq!(once(&[value]).quantile(q), Some(value));
        }
    }
}

#[test]
fn the_whole_number_line_fits_at_scale_zero() {
    let sketch = once(&[f64::MIN_POSITIVE, 1.0, f64::MAX]);
    assert_eq!(sketch.encode()[2], 0);
    assert_eq!(sketch.count(), 3.0);
    assert!((sketch.quantile(0.5).unwrap() / 1.0).log2().abs() <= 1.0);
}

#[test]
fn groups_are_independent_and_leave_from_the_front() {
    let mut sketches = Sketches::new();
    sketches.resize(3);
    for step in 0..1000u32 {
        sketches.record((step % 3) as usize, f64::from(step + 1), 1.0);
    }
    let mut last = Vec::new();
    sketches.encode(2, &mut last);
    sketches.drop_first(2);
    assert_eq!(sketches.len(), 1);
    let mut first = Vec::new();
    sketches.encode(0, &mut first);
    assert_eq!(first, last);
    let before = sketches.size();
    sketches.resize(2);
    (0..900u32).for_each(|step| sketches.record(1, f64::from(step + 1), 1.0));
    assert!(
        sketches.size() <= before + 4096,
        "windows of groups that left are used again"
    );
}
