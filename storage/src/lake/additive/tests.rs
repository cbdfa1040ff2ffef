#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use arrow::array::Array;
use proptest::prelude::*;
use tailwater_model::exphist::ExpHist;
use tailwater_model::ids::{SpanId, TraceId};
use tailwater_model::red::{EdgeKey, EdgeKind, EdgeRow, Exemplar, RedKey, RedRow, edge_batch, red_batch};

use super::*;

fn key(operation: &str, is_error: bool, tier: Option<&str>) -> Arc<RedKey> {
    Arc::new(RedKey {
        tenant: "default".into(),
        service_name: "cart".into(),
        operation: operation.into(),
        kind: 2,
        is_entry: true,
        is_error,
        dims: tier.map(|tier| ("tier".into(), tier.into())).into_iter().collect(),
        ..RedKey::default()
    })
}

/// A row that counts these durations, ns.
fn row(key: Arc<RedKey>, durations: &[u64], thresholds: &[u64]) -> RedRow {
    let mut sketch = ExpHist::new();
    durations.iter().for_each(|ns| sketch.record(*ns as f64));
    RedRow {
        key,
        slice_ns: 20_000_000_000,
        slice_s: 10,
        n: durations.len() as u64,
        sum_ns: durations.iter().sum(),
        max_ns: durations.iter().max().copied().unwrap_or(0),
        exphist: if durations.is_empty() {
            Vec::new()
        } else {
            sketch.encode()
        },
        registers: thresholds
            .iter()
            .map(|threshold| {
                (
                    *threshold,
                    durations.iter().filter(|ns| *ns <= threshold).count() as u64,
                )
            })
            .collect(),
        n_weighted: (durations.len() as u64) << 20,
        exemplar: durations.iter().copied().map(exemplar).max(),
    }
}

fn exemplar(ns: u64) -> Exemplar {
    Exemplar {
        r: ns.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8,
        ns,
        end_ns: ns * 1000,
        trace: TraceId([ns as u8; 16]),
        span: SpanId([ns as u8; 8]),
    }
}

/// A frame as it is read back: with the number of its batch.
fn read(frame: RecordBatch) -> RecordBatch {
    let mut fields: Vec<_> = frame.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(arrow::datatypes::Field::new(
        "batch_id",
        DataType::Int64,
        false,
    )));
    let mut columns = frame.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(1, frame.num_rows())));
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap()
}

fn sum(rows: &[RedRow]) -> RecordBatch {
    summed(Table::Red, rule(Table::Red).unwrap(), &[read(red_batch(rows))], 7).unwrap()
}

fn numbers(batch: &RecordBatch, name: &str) -> Vec<i64> {
    integers(batch, name).unwrap().values().to_vec()
}

#[test]
fn equal_keys_become_one_row() {
    let out = sum(&[
        row(key("get", false, None), &[1_000, 3_000], &[2_000]),
        row(key("get", false, None), &[9_000], &[2_000]),
        row(key("get", false, None), &[], &[2_000]),
        // Apart: an error, a dimension, another threshold.
        row(key("get", true, None), &[5_000], &[2_000]),
        row(key("get", false, Some("gold")), &[6_000], &[2_000]),
        row(key("get", false, None), &[7_000], &[2_000, 8_000]),
    ]);
    let mut found: Vec<_> = [numbers(&out, "n"), numbers(&out, "sum_ns"), numbers(&out, "max_ns")].concat();
    found.sort_unstable();
    assert_eq!(out.num_rows(), 4);
    assert_eq!(
        found,
        [1, 1, 1, 3, 5_000, 5_000, 6_000, 6_000, 7_000, 7_000, 9_000, 13_000]
    );
    assert_eq!(numbers(&out, "batch_id"), [7; 4]);
    let three = numbers(&out, "n").iter().position(|n| *n == 3).unwrap();
    let sketch = out.column_by_name("exphist").unwrap().as_binary::<i32>().value(three);
    let mut whole = ExpHist::new();
    [1_000.0, 3_000.0, 9_000.0].iter().for_each(|ns| whole.record(*ns));
    assert_eq!(sketch, whole.encode());
    let registers = out.column_by_name("registers").unwrap().as_list::<i32>().value(three);
    let counts = registers
        .as_struct()
        .column(1)
        .as_primitive::<Int64Type>()
        .values()
        .to_vec();
    assert_eq!(counts, [1]);
    let best = [1_000, 3_000, 9_000].into_iter().map(exemplar).max().unwrap();
    assert_eq!(numbers(&out, "exemplar_r")[three], best.r as i64);
    assert_eq!(numbers(&out, "exemplar_ns")[three], best.ns as i64);
}

#[test]
fn a_sum_that_leaves_64_bits_opens_a_second_row() {
    let mut huge = row(key("get", false, None), &[1], &[]);
    huge.sum_ns = i64::MAX as u64 - 5;
    let out = sum(&[huge.clone(), huge.clone(), row(key("get", false, None), &[2], &[])]);
    assert_eq!(out.num_rows(), 2);
    let total: i128 = numbers(&out, "sum_ns").iter().map(|sum| i128::from(*sum)).sum();
    assert_eq!(total, 2 * i128::from(i64::MAX - 5) + 2);
    assert_eq!(numbers(&out, "n").iter().sum::<i64>(), 3);
}

#[test]
fn a_damaged_histogram_is_said_to_be() {
    let mut bad = row(key("get", false, None), &[1], &[]);
    bad.exphist = vec![9, 9, 9];
    let batch = read(red_batch(&[bad, row(key("get", false, None), &[1], &[])]));
    let error = summed(Table::Red, rule(Table::Red).unwrap(), &[batch], 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
}

#[test]
fn edges_add_up() {
    let edge = |n: u64, client: &[u64], server: &[u64]| {
        let sketch = |values: &[u64]| {
            let mut sketch = ExpHist::new();
            values.iter().for_each(|ns| sketch.record(*ns as f64));
            sketch.encode()
        };
        EdgeRow {
            key: Arc::new(EdgeKey {
                tenant: "default".into(),
                client_service: "a".into(),
                server_service: "b".into(),
                client_namespace: "".into(),
                server_namespace: "".into(),
                kind: EdgeKind::Request,
                peer: "".into(),
                unpaired: None,
            }),
            slice_ns: 0,
            slice_s: 10,
            n,
            errors: 1,
            sum_ns: [client.iter().sum(), server.iter().sum()],
            max_ns: [*client.iter().max().unwrap(), *server.iter().max().unwrap()],
            exphist: [sketch(client), sketch(server)],
            n_weighted: n << 20,
            errors_weighted: 1 << 20,
            exemplar: None,
        }
    };
    let batch = read(edge_batch(&[edge(2, &[10, 20], &[5, 15]), edge(1, &[40], &[1])]));
    let out = summed(Table::Edges, rule(Table::Edges).unwrap(), &[batch], 3).unwrap();
    let check = |name: &str, expect: i64| assert_eq!(numbers(&out, name), [expect], "{name}");
    check("n", 3);
    check("errors", 2);
    check("client_sum_ns", 70);
    check("client_max_ns", 40);
    check("server_sum_ns", 21);
    check("server_max_ns", 15);
    check("n_weighted", 3 << 20);
    let server = out
        .column_by_name("server_exphist")
        .unwrap()
        .as_binary::<i32>()
        .value(0);
    assert_eq!(ExpHist::decode(server).unwrap().count(), 3.0);
    assert!(out.column_by_name("exemplar_r").unwrap().is_null(0));
}

/// Every row as text, by key: equal whatever the order of rows.
fn texts(batch: &RecordBatch) -> Vec<String> {
    crate::testing::row_texts(Table::Red, std::slice::from_ref(batch))
}

proptest! {
    /// Adding up at once, in any order, or in two rounds gives the same rows.
    #[test]
    fn no_order_and_no_grouping_changes_a_row(
        spans in prop::collection::vec((0u8..3, any::<bool>(), 0u64..1 << 40), 1..60),
        cuts in prop::collection::vec(0usize..60, 0..6),
        seed in any::<u64>(),
    ) {
        let single = |(operation, is_error, ns): (u8, bool, u64)| {
            row(key(&format!("op{operation}"), is_error, None), &[ns], &[1 << 20, 1 << 39])
        };
        let rows: Vec<RedRow> = spans.iter().copied().map(single).collect();
        let whole = texts(&sum(&rows));
        let mut shuffled = rows.clone();
        let mut random = seed;
        for at in (1..shuffled.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, (random >> 33) as usize % (at + 1));
        }
        prop_assert_eq!(&texts(&sum(&shuffled)), &whole);
        // Groups first, then their sums.
        let mut groups: BTreeMap<usize, Vec<RedRow>> = BTreeMap::new();
        for (at, row) in shuffled.iter().enumerate() {
            let group = cuts.iter().filter(|cut| **cut <= at).count();
            groups.entry(group).or_default().push(row.clone());
        }
        let parts: Vec<RecordBatch> = groups.values().map(|rows| sum(rows)).collect();
        let folded = summed(Table::Red, rule(Table::Red).unwrap(), &parts, 7).unwrap();
        prop_assert_eq!(&texts(&folded), &whole);
    }
}
