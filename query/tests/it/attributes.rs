//! A promoted attribute whose value has another type than its column stays in a map, and is found there.

use datafusion::common::ScalarValue;
use tailwater_query::Query;

use crate::fixtures::{Fixture, Span};

/// Statuses as numbers, as texts and beyond 32 bits; a route, a user and an instance that are numbers.
fn spans() -> Vec<Span> {
    let of = |at: u8, span: Span| Span { span: at, ..span };
    let texts = |key, value| Span {
        attrs: vec![(key, value)],
        ..Span::default()
    };
    let numbers = |key, value| Span {
        ints: vec![(key, value)],
        ..Span::default()
    };
    let all = [
        Span {
            http_status: Some(503),
            ..Span::default()
        },
        texts("http.status_code", "503"),
        numbers("http.status_code", 5_000_000_000),
        texts("http.status_code", "OK"),
        Span {
            http_route: Some("42"),
            ..Span::default()
        },
        numbers("http.route", 42),
        numbers("user.id", 42),
        Span {
            resource: vec![("service.instance.id", "7"), ("service.name", "9")],
            service: None,
            ..Span::default()
        },
    ];
    (0..).zip(all).map(|(at, span)| of(at, span)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_another_type_are_found() {
    let (mut committed, mut waiting) = (Fixture::new().await, Fixture::with_outbox().await);
    committed.commit(&spans()).await;
    waiting.append(&spans());
    for fixture in [&committed, &waiting] {
        for (filter, expected) in [
            ("attributes['http.status_code'] = 503", 2),
            ("attributes['http.status_code'] = '503'", 2),
            ("attributes['http.status_code'] >= 500", 3),
            ("attributes['http.status_code'] / 100 = 5", 2),
            ("attributes['http.status_code'] in (503, 5000000000)", 3),
            ("attributes['http.status_code'] = 'OK'", 1),
            ("attributes['http.status_code'] is not null", 3),
            ("not (attributes['http.status_code'] = 503)", 1),
            ("attributes['http.route'] = '42'", 2),
            ("attributes['http.route'] in ('x', '42')", 2),
            ("attributes['user.id'] = '42'", 1),
            ("attributes['user.id'] is not null", 1),
            ("resource['service.instance.id'] = '7'", 1),
            ("resource['service.instance.id'] <> '8'", 1),
            ("resource['service.name'] = '9'", 1),
            ("resource['service.name'] = 'cart'", 7),
        ] {
            let sql = format!("select count(*) from spans where {filter}");
            assert_eq!(fixture.value(&sql).await, expected.to_string(), "{filter}");
        }
        let by_status = "select attributes['http.status_code'], count(*) from spans group by 1 order by 1 nulls last";
        assert_eq!(fixture.ask(by_status).await.unwrap(), ["503,2", "5000000000,1", ",5"]);
        for (filter, value, expected) in [
            ("attributes['http.route'] = $1", ScalarValue::from("42"), 2),
            ("attributes['http.status_code'] = $1", ScalarValue::from(503i64), 2),
        ] {
            let query = Query {
                text: format!("select 1 from spans where {filter}"),
                params: vec![value],
            };
            let batches = fixture.engine.collect(query).await.unwrap();
            let rows: usize = batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
            assert_eq!(rows, expected, "{filter}");
        }
    }
}

/// Where no value of a map can be meant the maps are not read, and the column prunes as it does by its own name.
#[tokio::test(flavor = "multi_thread")]
async fn maps_are_read_only_where_they_can_matter() {
    let mut fixture = Fixture::new().await;
    fixture.commit(&spans()).await;
    let plan = async |filter: &str| {
        let sql = format!("explain select span_id from spans where {filter}");
        fixture.ask(&sql).await.unwrap().join("\n")
    };
    for (attribute, column) in [
        ("attributes['http.route'] = '/items'", "http_route = '/items'"),
        ("attributes['user.id'] = 'u1'", "user_id = 'u1'"),
        ("resource['service.name'] = 'cart'", "service_name = 'cart'"),
        ("resource['service.name'] like 'c%'", "service_name like 'c%'"),
    ] {
        let found = plan(attribute).await;
        assert!(!found.contains("_attrs") && !found.contains("attrs_"), "{found}");
        assert_eq!(found, plan(column).await);
    }
    // One row has no service, and might have a number for one.
    for (absent, is_read) in [("zoo", false), ("0", true)] {
        let found = plan(&format!("resource['service.name'] = '{absent}'")).await;
        assert_eq!(found.contains(".parquet"), is_read, "{found}");
    }
}
