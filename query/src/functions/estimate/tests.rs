#![allow(clippy::unwrap_used)]

use arrow::array::{AsArray, BinaryArray, Float64Array, Int64Array, StringArray};
use arrow::compute::concat;
use arrow::datatypes::Float64Type;
use proptest::prelude::*;

use super::*;

const KINDS: [Kind; 6] = [
    Kind {
        what: What::Sum,
        interval: false,
    },
    Kind {
        what: What::Sum,
        interval: true,
    },
    Kind {
        what: What::Ratio,
        interval: false,
    },
    Kind {
        what: What::Ratio,
        interval: true,
    },
    Kind {
        what: What::Quantile,
        interval: false,
    },
    Kind {
        what: What::Quantile,
        interval: true,
    },
];

/// Group, value, weight (0 is NULL), trace (0 is NULL).
type Row = (usize, i32, u8, u8);

const GROUPS: usize = 5;

fn held(kind: Kind) -> Held {
    let mut held = Held::new(Call {
        kind,
        traced: kind.interval || kind.what == What::Ratio,
        q: 0.7,
        confidence: Confidence::P95,
        remarks: Remarks::default(),
    });
    held.resize(GROUPS);
    held
}

fn columns(kind: Kind, rows: &[Row]) -> Vec<ArrayRef> {
    let value: ArrayRef = Arc::new(rows.iter().map(|row| Some(f64::from(row.1))).collect::<Float64Array>());
    let den: ArrayRef = Arc::new(Float64Array::from(vec![60.0; rows.len()]));
    let weight: ArrayRef = Arc::new(
        rows.iter()
            .map(|row| (row.2 > 0).then(|| f64::from(row.2)))
            .collect::<Float64Array>(),
    );
    let trace: ArrayRef = Arc::new(
        rows.iter()
            .map(|row| (row.3 > 0).then(|| i64::from(row.3)))
            .collect::<Int64Array>(),
    );
    match kind.what {
        What::Sum => vec![value, weight, trace],
        What::Ratio => vec![value, den, weight, trace],
        What::Quantile => vec![value, weight, den, trace],
    }
}

fn update(held: &mut Held, rows: &[Row]) {
    held.update(&columns(held.call.kind, rows), None, |at| rows[at].0)
        .unwrap();
}

/// Every number of an answer, and its notes; NULL is NaN.
fn numbers(answers: &ArrayRef) -> (Vec<f64>, Vec<Option<String>>) {
    let floats = |array: &ArrayRef| -> Vec<f64> {
        let array = arrow::compute::cast(array, &DataType::Float64).unwrap();
        array
            .as_primitive::<Float64Type>()
            .iter()
            .map(|value| value.unwrap_or(f64::NAN))
            .collect()
    };
    match answers.as_struct_opt() {
        None => (floats(answers), Vec::new()),
        Some(answers) => {
            let notes = answers
                .column(5)
                .as_string::<i32>()
                .iter()
                .map(|note| note.map(str::to_owned));
            (
                answers.columns()[..5].iter().flat_map(floats).collect(),
                notes.collect(),
            )
        }
    }
}

fn assert_same(found: &ArrayRef, expect: &ArrayRef, what: &str) {
    let ((found, notes), (expect, notes_expected)) = (numbers(found), numbers(expect));
    assert_eq!(notes, notes_expected, "{what}");
    assert_eq!(found.len(), expect.len(), "{what}");
    for (found, expect) in found.iter().zip(&expect) {
        let same = found.is_nan() && expect.is_nan() || (found - expect).abs() <= 1e-9 * expect.abs().max(1.0);
        assert!(same, "{what}: {found} for {expect}");
    }
}

fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    let weight = prop_oneof![Just(0), Just(1), 1..60_u8];
    prop::collection::vec((0..GROUPS, 0..50_i32, weight, 0..20_u8), 0..120)
}

proptest! {
    #[test]
    fn parts_merge_to_the_whole_in_any_order(rows in any_rows(), cuts in prop::collection::vec(0..120_usize, 0..4), turn in 0..5_usize) {
        for kind in KINDS {
            let mut whole = held(kind);
            update(&mut whole, &rows);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.min(&rows.len())).chain([0, rows.len()]).collect();
            cuts.sort_unstable();
            let mut states: Vec<ArrayRef> = cuts.windows(2).map(|cut| {
                let mut part = held(kind);
                update(&mut part, &rows[cut[0]..cut[1]]);
                part.states(GROUPS).unwrap()
            }).collect();
            let turn = turn % states.len();
            states.rotate_left(turn);
            states.reverse();
            let mut merged = held(kind);
            for state in states {
                merged.merge(&[state], |row| row).unwrap();
            }
            assert_same(&merged.answers(GROUPS).unwrap(), &whole.answers(GROUPS).unwrap(), kind.name());
        }
    }

    #[test]
    fn rows_made_states_one_by_one_say_the_same(rows in any_rows()) {
        for kind in KINDS {
            let mut whole = held(kind);
            update(&mut whole, &rows);
            let each = GroupsAccumulator::convert_to_state(&whole, &columns(kind, &rows), None).unwrap();
            let mut merged = held(kind);
            merged.merge(&each, |row| rows[row].0).unwrap();
            assert_same(&merged.answers(GROUPS).unwrap(), &whole.answers(GROUPS).unwrap(), kind.name());
        }
    }

    #[test]
    fn groups_emitted_first_are_those_of_the_whole(rows in any_rows(), first in 0..=GROUPS) {
        for kind in KINDS {
            let mut whole = held(kind);
            update(&mut whole, &rows);
            let expect = whole.answers(GROUPS).unwrap();
            let begun = whole.evaluate(EmitTo::First(first)).unwrap();
            whole.resize(GROUPS - first);
            let rest = whole.evaluate(EmitTo::All).unwrap();
            assert_same(&concat(&[&begun, &rest]).unwrap(), &expect, kind.name());
            assert_eq!(whole.emitted(EmitTo::All), 0);
        }
    }

    /// What every row says with weight 1 is what SQL's own aggregates say, without width.
    #[test]
    fn weight_one_is_exact(rows in any_rows()) {
        let rows: Vec<Row> = rows.into_iter().map(|row| (0, row.1, 1, row.3)).collect();
        prop_assume!(!rows.is_empty());
        let sum: f64 = rows.iter().map(|row| f64::from(row.1)).sum();
        let mut values: Vec<i32> = rows.iter().map(|row| row.1).collect();
        values.sort_unstable();
        // 0.7 * n is never off by less than the tenth it is written in.
        let rank = (7 * values.len()).div_ceil(10);
        for (kind, expect) in KINDS.into_iter().zip([sum, sum, sum / (60.0 * rows.len() as f64), sum / (60.0 * rows.len() as f64), f64::from(values[rank - 1]), f64::from(values[rank - 1])]) {
            let mut whole = held(kind);
            update(&mut whole, &rows);
            let (found, notes) = numbers(&whole.answers(1).unwrap());
            let points = if kind.interval { 3 } else { 1 };
            prop_assert_eq!(&found[..points], &vec![expect; points][..], "{}", kind.name());
            prop_assert!(notes.iter().all(Option::is_none));
            prop_assert!(whole.call.remarks.texts().is_empty());
        }
    }
}

#[test]
fn names_of_traces_of_all_types_group_alike() {
    let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0; 6]));
    let weights: ArrayRef = Arc::new(Float64Array::from(vec![8.0; 6]));
    let names = ["a", "b", "a", "b", "a", "c"];
    let ids: Vec<[u8; 16]> = names.iter().map(|name| [name.as_bytes()[0]; 16]).collect();
    let traces: [ArrayRef; 4] = [
        Arc::new(StringArray::from(names.to_vec())),
        Arc::new(BinaryArray::from_iter_values(ids)),
        Arc::new(BinaryArray::from_iter_values(names.map(str::as_bytes))),
        Arc::new(
            names
                .iter()
                .map(|name| Some(i64::from(name.as_bytes()[0])))
                .collect::<Int64Array>(),
        ),
    ];
    let answers = traces.map(|trace| {
        let mut whole = held(KINDS[1]);
        whole
            .update(&[values.clone(), weights.clone(), trace], None, |_| 0)
            .unwrap();
        whole.answers(1).unwrap()
    });
    assert_eq!(numbers(&answers[0]).0[3], 3.0);
    answers
        .iter()
        .for_each(|answer| assert_same(answer, &answers[0], "names"));
}

#[test]
fn what_is_held_is_accounted() {
    let rows: Vec<Row> = (0..250).map(|at| (0, 1, 2, at as u8)).collect();
    for kind in KINDS {
        let mut whole = held(kind);
        let empty = whole.bytes();
        for _ in 0..100 {
            update(&mut whole, &rows);
        }
        let entries = match (kind.what, kind.interval) {
            (What::Sum, false) => 0,
            (What::Ratio, false) => 30 * 20,
            // 249 traces, and 100 rows without one.
            (What::Sum | What::Ratio, true) => 349 * 40,
            (What::Quantile, false) => 25_000 * 20,
            (What::Quantile, true) => 25_000 * 36,
        };
        assert!(
            whole.bytes() >= empty + 2 * entries,
            "{}: {}",
            kind.name(),
            whole.bytes()
        );
        whole.drop_first(GROUPS).unwrap();
        assert!(whole.bytes() <= empty, "{}", kind.name());
    }
}

/// One trace may have very many rows.
#[test]
fn a_ratio_that_is_told_its_traces_says_when_they_are_few() {
    let few = |rows: &[Row]| {
        let mut halves = rows.chunks(rows.len().div_ceil(2)).map(|half| {
            let mut held = held(KINDS[2]);
            update(&mut held, half);
            held.states(GROUPS).unwrap()
        });
        let mut whole = held(KINDS[2]);
        halves.try_for_each(|half| whole.merge(&[half], |row| row)).unwrap();
        whole.answers(1).unwrap();
        !whole.call.remarks.texts().is_empty()
    };
    let check = |traces: usize, weight: u8, expect: bool| {
        let rows: Vec<Row> = (0..1000).map(|at| (0, 1, weight, 1 + (at % traces) as u8)).collect();
        assert_eq!(few(&rows), expect, "{traces} traces of weight {weight}");
    };
    check(1, 100, true);
    check(29, 100, true);
    check(30, 100, false);
    check(200, 100, false);
    // Nothing was left out.
    check(1, 1, false);
    // Each for itself.
    assert!(!few(&[(0, 1, 100, 0); 40]));
    assert!(few(&[(0, 1, 100, 0); 20]));
}

#[test]
fn a_state_cut_short_is_refused() {
    let mut whole = held(KINDS[1]);
    update(&mut whole, &[(0, 1, 2, 3)]);
    let state = whole.states(1).unwrap();
    let cut: ArrayRef = Arc::new(BinaryArray::from_iter_values(
        [&state.as_binary::<i64>().value(0)[..70]],
    ));
    assert!(whole.merge(&[cut], |_| 0).is_err());
}
