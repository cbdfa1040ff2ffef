//! Rows that are not in a table yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tailwater_query::{Engine, EngineConfig, Limits};

use crate::fixtures::{Fixture, MIDNIGHT, Span, shop, trace_hex};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_there_as_soon_as_it_is_durable() {
    let mut fixture = Fixture::with_outbox().await;
    assert_eq!(fixture.value("select count(*) from spans").await, "0");
    let spans = shop();
    fixture.append(&spans[..70]);
    assert_eq!(fixture.value("select count(*) from spans").await, "70");
    fixture.append(&spans[70..]);
    // Hot alone, both, cold alone: every column and type the same.
    let all = "select * from spans order by span_id";
    let hot = fixture.ask(all).await.unwrap();
    fixture.commit_to(1).await;
    let both = fixture.ask(all).await.unwrap();
    fixture.commit_to(2).await;
    let cold = fixture.ask(all).await.unwrap();
    assert_eq!(hot.len(), 120);
    assert!(hot == both && both == cold);
    assert_eq!(
        fixture
            .ask("explain select * from spans")
            .await
            .unwrap()
            .iter()
            .filter(|line| line.contains("HotExec"))
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_cannot_match_are_not_opened() {
    let mut fixture = Fixture::with_outbox().await;
    for (at, service) in ["cart", "mail", "checkout", "cart"].into_iter().enumerate() {
        let ts = MIDNIGHT + at as i64 * 1_000_000;
        fixture.append(&[Span {
            service: Some(service),
            ts,
            trace: at as u8 + 1,
            ..Span::default()
        }]);
    }
    for (filter, frames) in [
        ("true", "frames=4,"),
        ("service_name = 'cart'", "frames=2,"),
        ("service_name in ('cart', 'mail')", "frames=3,"),
        ("ts >= timestamp '2026-11-22T00:00:02Z'", "frames=2,"),
        (&format!("trace_id = '{}'", trace_hex(2)), "frames=1,"),
        (&format!("trace_id = '{}' and service_name = 'cart'", trace_hex(2)), ""),
        ("resource['service.name'] = 'cart'", "frames=2,"),
        ("attributes['http.route'] = 'x' or service_name = 'mail'", "frames=4,"),
    ] {
        let plan = fixture
            .ask(&format!("explain select * from spans where {filter}"))
            .await
            .unwrap()
            .join("\n");
        match frames {
            "" => assert!(!plan.contains("HotExec"), "{filter}: {plan}"),
            frames => assert!(plan.contains(frames), "{filter}: {plan}"),
        }
    }
    assert_eq!(fixture.value("select count(*) from spans").await, "4");
}

/// A writer appends, a committer moves batches into the table and trims, queries run all the time: each sees every batch that was durable when
/// it began, each row once, and the same batches in both tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_row_once_while_batches_move() {
    const BATCHES: u64 = 60;
    const ROWS: u64 = 50;
    let fixture = Fixture::with_outbox().await;
    let (fixture, done, durable) = (
        Arc::new(tokio::sync::Mutex::new(fixture)),
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let engine = fixture.lock().await.engine.clone();
    let writer = tokio::spawn({
        let (fixture, done, durable) = (fixture.clone(), done.clone(), durable.clone());
        async move {
            for batch in 0..BATCHES {
                let span = |row: u64| Span {
                    ts: MIDNIGHT + (batch * ROWS + row) as i64,
                    ..Span::default()
                };
                let spans: Vec<_> = (0..ROWS).map(span).collect();
                let mut fixture = fixture.lock().await;
                fixture.append_both(&spans);
                durable.store(batch + 1, Ordering::SeqCst);
                match batch % 5 {
                    3 => fixture.commit_to(batch).await,
                    4 => fixture.trim(),
                    _ => {}
                }
                drop(fixture);
                tokio::task::yield_now().await;
            }
            done.store(true, Ordering::SeqCst);
        }
    });
    let query = "select s.n, s.distinct_n, s.last, t.last, t.n from \
                 (select count(*) n, count(distinct ts) distinct_n, max(batch_id) last from spans) s, \
                 (select count(*) n, max(batch_id) last from traces) t";
    let mut seen = 0;
    let mut queries = 0;
    while !done.load(Ordering::SeqCst) || queries < 5 {
        let before = durable.load(Ordering::SeqCst);
        let batches = engine.collect(query).await.unwrap();
        let mut text = String::new();
        batches
            .iter()
            .for_each(|rows| tailwater_query::format::csv_rows(rows, &mut text));
        let numbers: Vec<u64> = text.trim().split(',').map(|cell| cell.parse().unwrap_or(0)).collect();
        let [count, distinct, last, last_trace, traces] = numbers[..] else {
            panic!("{text}")
        };
        assert_eq!(
            (count, distinct),
            (last * ROWS, last * ROWS),
            "each row of batches 1..={last} once"
        );
        assert_eq!((last_trace, traces), (last, last), "one cut over both tables");
        assert!(
            last >= before && last >= seen,
            "{before} batches were durable, {seen} were seen, now {last}"
        );
        seen = last;
        queries += 1;
    }
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_is_read_without_a_collector_and_without_its_locks() {
    let mut fixture = Fixture::with_outbox().await;
    fixture.append(&shop());
    fixture.commit_to(1).await;
    fixture.append(&shop());
    let outbox = fixture.directory.path().join("outbox");
    // Another process: a second engine, the first writer still at it.
    let config = EngineConfig {
        lake: fixture.lake.clone(),
        outbox: Some(outbox),
        temp: None,
        limits: Limits::default(),
    };
    let second = Engine::open(config).unwrap();
    assert_eq!(
        second
            .collect("select 1 from spans")
            .await
            .unwrap()
            .iter()
            .map(|rows| rows.num_rows())
            .sum::<usize>(),
        240
    );
    let config = EngineConfig {
        lake: fixture.lake.clone(),
        outbox: None,
        temp: None,
        limits: Limits::default(),
    };
    let tables_alone = Engine::open(config).unwrap();
    assert_eq!(
        tables_alone
            .collect("select 1 from spans")
            .await
            .unwrap()
            .iter()
            .map(|rows| rows.num_rows())
            .sum::<usize>(),
        120
    );
}
