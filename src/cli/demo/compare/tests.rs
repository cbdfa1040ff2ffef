//! Windows, cells and the table; and both questions against a lake whose rows are all there, where the two sides have to be equal.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde::de::DeserializeOwned;
use tailwater_config::Config;
use tailwater_query::{Engine, EngineConfig, format};
use tailwater_red::{Grpc, Rules as RedRules, Seen};
use tailwater_storage::lake::Lake;

use super::super::policy::Share;
use super::*;
use crate::load::history::{Counting, Settings, World, write};

#[test]
fn windows_are_of_whole_slices_that_are_settled() {
    let check = |opened_ms: u64, now_ms: u64, length_s: u64, expected: Option<(u64, u64)>| {
        let found = Window::of(opened_ms, now_ms, Duration::from_secs(8), Duration::from_secs(length_s));
        let expected = expected.map(|(from_ms, to_ms)| Window { from_ms, to_ms });
        assert_eq!(found, expected, "{opened_ms} {now_ms} {length_s}");
    };
    // The slice in which the shop opened is not whole.
    check(1_001_000, 1_018_000, 30, None);
    check(1_001_000, 1_027_999, 30, None);
    check(1_001_000, 1_028_000, 30, Some((1_010_000, 1_020_000)));
    check(1_000_000, 1_018_000, 30, Some((1_000_000, 1_010_000)));
    check(1_001_000, 1_099_000, 30, Some((1_060_000, 1_090_000)));
    check(1_001_000, 1_099_000, 3600, Some((1_010_000, 1_090_000)));
    // Lengths are cut to slices, but one there is.
    check(0, 1_099_000, 29, Some((1_070_000, 1_090_000)));
    check(0, 1_099_000, 1, Some((1_080_000, 1_090_000)));
    check(0, 5_000, 30, None);
}

#[test]
fn numbers_are_short() {
    let check = |value: f64, expected: &str| assert_eq!(short(value), expected);
    check(0.0, "0");
    check(0.004, "0.00");
    check(1.239, "1.24");
    check(9.996, "10.0");
    check(99.96, "100");
    check(945.4, "945");
    check(9_999.4, "9999");
    check(9_999.6, "10.0k");
    check(99_960.0, "100k");
    check(999_499.0, "999k");
    check(999_501.0, "1.0M");
    check(2.5e9, "2.5G");
}

fn interval(estimate: f64, low: Option<f64>, high: Option<f64>, note: Option<&str>) -> Option<Interval> {
    Some(Interval {
        estimate: Some(estimate),
        low,
        high,
        note: note.map(str::to_owned),
    })
}

#[test]
fn an_interval_holds_what_lies_in_it() {
    let check = |truth: f64, off: f64, low: Option<f64>, high: Option<f64>, expected: bool| {
        let figure = Figure::of(truth, off, &interval(1.0, low, high, None), 1.0);
        assert_eq!(figure.holds(), Some(expected), "{figure:?}");
    };
    check(10.0, 0.0, Some(9.0), Some(11.0), true);
    check(10.0, 0.0, Some(10.0), Some(10.0), true);
    check(10.0, 0.0, Some(10.1), Some(11.0), false);
    check(10.0, 0.0, Some(9.0), Some(9.9), false);
    // The truth of a sketch is a range itself.
    check(10.0, SKETCH, Some(10.1), Some(11.0), true);
    check(10.0, SKETCH, Some(10.2), Some(11.0), false);
    check(10.0, SKETCH, Some(9.0), Some(9.9), true);
    check(10.0, SKETCH, Some(9.0), Some(9.8), false);
    // An open side bounds nothing.
    check(10.0, 0.0, None, Some(11.0), true);
    check(10.0, 0.0, Some(9.0), None, true);
    check(10.0, 0.0, Some(11.0), None, false);
    let nothing = Interval {
        estimate: None,
        low: None,
        high: None,
        note: None,
    };
    assert_eq!(Figure::of(1.0, 0.0, &Some(nothing), 1.0).holds(), None);
    assert_eq!(Figure::of(1.0, 0.0, &None, 1.0).holds(), None);
}

fn rules() -> Rules {
    Rules {
        path: "demo-policy.yaml".into(),
        share: Some(Share::parse("2%").unwrap()),
        spans_per_sec: 100.0,
        settling: Duration::from_secs(8),
    }
}

const WINDOW: Window = Window {
    from_ms: 43_200_000,
    to_ms: 43_230_000,
};

#[test]
fn the_table_says_what_holds() {
    let cart = (
        Some("cart".to_owned()),
        4_500.0,
        900.0,
        25.0,
        interval(4_410.0, Some(3_900.0), Some(4_920.0), None),
        interval(0.25, Some(0.21), Some(0.29), Some("few")),
        interval(24.0, Some(20.0), None, None),
    );
    let idle = (Some("idle".to_owned()), 30.0, 0.0, 1.5, None, None, None);
    let services = [Service::of(&cart, 30.0), Service::of(&idle, 30.0)];
    let all = (
        100_000.0,
        2_010.0,
        interval(99_000.0, Some(9.1e4), Some(1.07e5), None).unwrap(),
    );
    let text = render(WINDOW, &services, &all, &rules(), false);
    let expected = "\
Requests of 12:00:00 to 12:00:30 UTC: counted, and estimated from the kept traces [95 % interval]
service  req/s      estimated  err %           estimated  p99ms      estimated
cart       150  147 [130,164]   20.0  !~25.0 [21.0,29.0]   25.0  24.0 [20.0,-]
idle      1.00   nothing kept      0        nothing kept   1.50   nothing kept
The interval holds what was counted in 2 of 3 (! where not); ~ rests on few traces.
Spans: 100000 sent, 2010 kept = 2.01 % (budget 2 %), which stand for 99.0k [91.0k,107k].

";
    assert_eq!(text, expected);
    let coloured = render(WINDOW, &services, &all, &rules(), true);
    assert_eq!(
        coloured.matches("\x1b[31m").count(),
        1,
        "only the failing service is red"
    );
}

#[test]
fn the_widest_table_fits_a_terminal() {
    let widest = |value: f64| interval(value, Some(value), Some(value), Some("few"));
    let row = (
        Some("a-service-with-a-name-that-goes-on-and-on".to_owned()),
        1e6,
        8e5,
        88_888.0,
        widest(1e7 + 1.0),
        widest(0.888),
        widest(77_777.0),
    );
    let all = (1e9, 2e7, widest(1e9).unwrap());
    let text = render(WINDOW, &[Service::of(&row, 30.0)], &all, &rules(), false);
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH, "{line}");
    }
    assert!(text.contains("a-servi"), "{text}");
}

fn engine(data: &Path) -> Engine {
    let config = Config::of(&[]).unwrap();
    let lake = Lake::open(&data.join("lake")).unwrap();
    Engine::open(EngineConfig {
        lake,
        outbox: None,
        temp: None,
        limits: tailwater_query::role::limits(&config, 256 << 20, 2),
    })
    .unwrap()
}

/// Rows as the query port would answer them.
async fn asked<T: DeserializeOwned>(engine: &Engine, sql: &str) -> Vec<T> {
    let mut answer = engine.query(sql).await.unwrap();
    let (mut text, mut written) = (String::new(), 0);
    format::json_head(answer.schema(), &mut text);
    while let Some(batch) = answer.next().await {
        format::json_rows(&batch.unwrap(), &mut written, &mut text);
    }
    format::json_tail(written, &mut text);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(answer["rows"].clone()).unwrap()
}

/// Slice by slice: one span on the wrong side of a slice's end, one error judged otherwise, and they differ.
#[test]
fn where_everything_is_kept_both_sides_are_equal() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let config = Config::of(&[]).unwrap();
    let caps = tailwater_collector::caps(&config);
    let counting = Counting {
        red: tailwater_collector::counting(&config, &caps),
        caps,
    };
    let now_s = 1_795_377_600;
    let settings = Settings {
        history: Duration::from_secs(1200),
        services: 8,
        operations: 0,
        density: None,
        rows: Duration::from_secs(600),
        seed: 7,
        now_ns: now_s * 1_000_000_000,
    };
    let world = World::shop(&settings, 60.0);
    runtime
        .block_on(Box::pin(write(&data, world, counting, |_| {})))
        .unwrap();
    let engine = engine(&data);
    let (mut requests, mut errors) = (0.0, 0.0);
    for at in (1..40).step_by(3) {
        let to_ms = (now_s - 10 * at) * 1000;
        let window = Window {
            from_ms: to_ms - SLICE_MS,
            to_ms,
        };
        let rows: Vec<Row> = runtime.block_on(asked(&engine, &by_service(window)));
        for row in &rows {
            let service = Service::of(row, window.seconds());
            let [rate, share, p99] = &service.figures;
            for figure in [rate, share] {
                let kept = figure.kept.as_ref().unwrap();
                assert_eq!(
                    (kept.low, kept.high),
                    (kept.estimate, kept.estimate),
                    "nothing was left out"
                );
                assert_eq!(figure.holds(), Some(true), "{at}: {service:?}");
            }
            let p99_ms = p99.kept.as_ref().unwrap().estimate.unwrap();
            // Of few requests the one counts between two of them, the other names one.
            assert!(
                row.1 < 100.0 || (p99_ms / p99.truth - 1.0).abs() < 0.5,
                "{at}: {service:?}"
            );
            (requests, errors) = (requests + row.1, errors + row.2);
        }
        let all: Vec<All> = runtime.block_on(asked(&engine, &of_all(window)));
        let (sent, kept, stand_for) = &all[0];
        assert_eq!((sent, Some(*sent)), (kept, stand_for.estimate), "{at}");
        assert!(*sent >= rows.iter().map(|row| row.1).sum());
    }
    assert!(requests > 500.0 && errors > 0.0, "{requests} {errors}");
}

#[test]
fn errors_are_what_red_calls_errors() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(&directory.path().join("lake")).unwrap();
    runtime.block_on(lake.ensure_tables()).unwrap();
    let http = "(cast(null as int)), (200), (302), (404), (429), (499), (500), (503), (599)";
    let rpc: String = (0..=17).map(|code| format!(", ({code})")).collect();
    let sql = format!(
        "select kind, status_code, http_status, rpc_status, {IS_ERROR} \
         from (values (0), (1), (2), (3), (4), (5)) as kinds(kind) cross join (values (0), (1), (2)) as statuses(status_code) \
         cross join (values {http}) as https(http_status) cross join (values (cast(null as int)){rpc}) as rpcs(rpc_status)"
    );
    /// Kind, status, HTTP and gRPC codes, and what the question makes of them.
    type Judged = (i32, i32, Option<u16>, Option<i64>, u8);
    let rows: Vec<Judged> = runtime.block_on(asked(&engine(directory.path()), &sql));
    assert_eq!(rows.len(), 6 * 3 * 9 * 19);
    let rules = RedRules::new(&Config::of(&[]).unwrap().red);
    for (kind, status, http, rpc, is_error) in rows {
        let seen = Seen {
            kind,
            status,
            http: http.unwrap_or(0),
            grpc: rpc.map(Grpc::from_number),
            ..Seen::default()
        };
        assert_eq!(is_error == 1, rules.is_error(&seen), "{seen:?}");
    }
}
