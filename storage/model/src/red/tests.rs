#![allow(clippy::unwrap_used)]

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};

use super::*;

fn key(service: &str, operation: &str, is_error: bool) -> Arc<RedKey> {
    Arc::new(RedKey {
        tenant: "default".into(),
        service_name: service.into(),
        operation: operation.into(),
        kind: 2,
        is_entry: true,
        is_error,
        dims: vec![("region".into(), "eu".into())],
        ..RedKey::default()
    })
}

fn row(key: Arc<RedKey>, slice_ns: u64, n: u64) -> RedRow {
    RedRow {
        key,
        slice_ns,
        slice_s: 10,
        n,
        sum_ns: u64::MAX,
        max_ns: 7,
        exphist: Vec::new(),
        registers: vec![(100, n)],
        n_weighted: n * WEIGHT_ONE,
        exemplar: Some(Exemplar {
            r: 5,
            ns: 7,
            end_ns: 12_345,
            trace: TraceId([1; 16]),
            span: SpanId([2; 8]),
        }),
    }
}

#[test]
fn rows_become_a_sorted_batch() {
    let rows = [
        row(key("b", "op", false), 0, 1),
        row(key("a", "op", true), SLICE_NS, 2),
        row(key("", "op", false), SLICE_NS * 8640, 3),
    ];
    let batch = red_batch(&rows);
    let numbers = |name: &str| {
        let column = batch.column_by_name(name).unwrap();
        column.as_primitive::<Int64Type>().values().to_vec()
    };
    assert_eq!(numbers("n"), [3, 2, 1]);
    assert_eq!(numbers("errors"), [0, 2, 0]);
    assert_eq!(numbers("errors_weighted"), [0, 2 << 20, 0]);
    assert_eq!(numbers("sum_ns"), [i64::MAX; 3]);
    assert!(batch.column_by_name("service_name").unwrap().is_null(0));
    assert!(batch.column_by_name("exphist").unwrap().is_null(1));
    assert_eq!(
        batch.column(0).as_primitive::<arrow::datatypes::Date32Type>().values(),
        &[1, 0, 0]
    );
    let ts = batch
        .column_by_name("ts")
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>();
    assert_eq!(ts.values(), &[86_400_000_000, 10_000_000, 0]);
    assert_eq!(batch.column_by_name("dims").unwrap().as_map().value_length(0), 1);
    assert_eq!(red_batch(&[]).num_rows(), 0);
}

#[test]
fn edges_become_a_sorted_batch() {
    let key = |client: &str, server: &str| {
        Arc::new(EdgeKey {
            tenant: "default".into(),
            client_service: client.into(),
            server_service: server.into(),
            client_namespace: "".into(),
            server_namespace: "".into(),
            kind: EdgeKind::Request,
            peer: "".into(),
            unpaired: server.is_empty().then_some(Unpaired::Expired),
        })
    };
    let row = |key| EdgeRow {
        key,
        slice_ns: 0,
        slice_s: 10,
        n: 4,
        errors: 1,
        sum_ns: [10, 20],
        max_ns: [3, 6],
        exphist: [vec![1, 8, 5], Vec::new()],
        n_weighted: 4 << 20,
        errors_weighted: 1 << 20,
        exemplar: None,
    };
    let batch = edge_batch(&[row(key("b", "c")), row(key("a", ""))]);
    let server = batch.column_by_name("server_service").unwrap();
    assert!(server.is_null(0) && server.is_valid(1));
    let sums = batch.column_by_name("server_sum_ns").unwrap();
    assert_eq!(sums.as_primitive::<Int64Type>().values(), &[20, 20]);
    assert!(batch.column_by_name("exemplar_r").unwrap().is_null(0));
    assert!(batch.column_by_name("unpaired").unwrap().is_valid(0));
}

#[test]
fn weights_are_fixed_point() {
    for (weight, fixed) in [
        (1.0, WEIGHT_ONE),
        (0.0, WEIGHT_ONE),
        (f64::NAN, WEIGHT_ONE),
        (2.5, 5 * WEIGHT_ONE / 2),
        (3.0000001, 3 * WEIGHT_ONE),
        (2f64.powi(56), WEIGHT_MAX),
    ] {
        assert_eq!(fixed_weight(weight), fixed, "{weight}");
    }
}
