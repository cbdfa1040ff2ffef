//! What stops a query, and that nothing else suffers.

use std::time::{Duration, Instant};

use datafusion::common::ScalarValue;
use tailwater_query::{Error, ErrorKind, Limits, Query};

use crate::fixtures::{Fixture, shop};

const BOMB: &str = "select count(*) from generate_series(1, 100000000000) a, generate_series(1, 100000000000) b where a.value + b.value < 0";

fn small() -> Limits {
    Limits {
        threads: 2,
        ..Limits::default()
    }
}

async fn kind(fixture: &Fixture, sql: &str) -> ErrorKind {
    fixture
        .ask(sql)
        .await
        .map(|lines| panic!("{sql}: {lines:?}"))
        .unwrap_err()
        .kind()
}

#[tokio::test]
async fn rows_and_bytes_of_an_answer() {
    let fixture = Fixture::with_limits(Limits {
        rows_max: 100,
        answer_bytes_max: 100_000,
        ..small()
    })
    .await;
    assert_eq!(
        fixture
            .ask("select * from generate_series(1, 100)")
            .await
            .unwrap()
            .len(),
        100
    );
    let wide = format!("select '{}' || value from generate_series(1, 100)", "x".repeat(5000));
    for (sql, says) in [
        ("select * from generate_series(1, 101)", "100 rows (query.rows)"),
        (&*wide, "100000 bytes (query.result)"),
    ] {
        let error = fixture.ask(sql).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AnswerTooLarge);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn time_runs_out() {
    let fixture = Fixture::with_limits(Limits {
        timeout: Duration::from_millis(300),
        ..small()
    })
    .await;
    let started = Instant::now();
    assert_eq!(kind(&fixture, BOMB).await, ErrorKind::Timeout);
    // Far below what the query would take; not tight, the machine may be busy.
    assert!(started.elapsed() < Duration::from_secs(20));
    settled(&fixture).await;
    assert_eq!(fixture.engine.stats().failed_total(ErrorKind::Timeout), 1);
    assert_eq!(fixture.value("select 1").await, "1");
}

#[tokio::test]
async fn memory_runs_out_and_the_disk_is_left_clean() {
    let limits = Limits {
        memory_bytes_max: 4 << 20,
        temp_bytes_max: 1 << 20,
        ..small()
    };
    let fixture = Fixture::with_limits(limits).await;
    let hungry = "select value, count(*) from generate_series(1, 3000000) group by value having count(*) > 1";
    let error = fixture.ask(hungry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    let text = error.to_string();
    assert!(text.contains("query.memory") && !text.contains("consumer"), "{text}");
    settled(&fixture).await;
    // Files go with the operators that made them, which other threads may still be letting go of.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !files_below(&fixture.directory.path().join("temp")).is_empty() {
        assert!(Instant::now() < deadline, "temporary files stay");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(fixture.value("select 1").await, "1");
}

#[tokio::test]
async fn a_dropped_answer_stops_its_query() {
    let fixture = Fixture::with_limits(small()).await;
    let mut answer = fixture
        .engine
        .query("select * from generate_series(1, 100000000000)")
        .await
        .unwrap();
    answer.next().await.unwrap().unwrap();
    assert_eq!(fixture.engine.stats().running_now(), 1);
    drop(answer);
    settled(&fixture).await;
}

#[tokio::test]
async fn a_dropped_question_stops_its_query() {
    let fixture = Fixture::with_limits(small()).await;
    {
        let question = fixture.engine.collect(BOMB);
        tokio::pin!(question);
        // Polled until it runs, then given up.
        while fixture.engine.stats().running_now() == 0 {
            let _ = tokio::time::timeout(Duration::from_millis(1), &mut question).await;
        }
    }
    settled(&fixture).await;
}

#[tokio::test]
async fn too_many_at_once_are_refused() {
    let fixture = Fixture::with_limits(Limits {
        concurrency: 1,
        ..small()
    })
    .await;
    let held = fixture
        .engine
        .query("select * from generate_series(1, 100000000000)")
        .await
        .unwrap();
    let asked: Vec<_> = (0..6)
        .map(|_| {
            tokio::spawn({
                let engine = fixture.engine.clone();
                async move { engine.collect("select 1").await.map_err(|error: Error| error.kind()) }
            })
        })
        .collect();
    while fixture.engine.stats().failed_total(ErrorKind::Busy) < 2 {
        tokio::task::yield_now().await;
    }
    drop(held);
    let mut refused = 0;
    for asked in asked {
        refused += usize::from(asked.await.unwrap().is_err_and(|kind| kind == ErrorKind::Busy));
    }
    // One place, four may wait.
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn stack_killers_are_refused_and_the_engine_lives() {
    let mut fixture = Fixture::with_limits(small()).await;
    fixture.commit(&shop()).await;
    let killers = [
        format!("select {}", vec!["1"; 2000].join("+")),
        format!("select count(*) from spans where {}", vec!["a"; 12_000].join(" or ")),
        vec!["select 1"; 3000].join(" union all "),
        format!("select {}1{}", "(".repeat(3000), ")".repeat(3000)),
        format!("select {}1{}", "abs(".repeat(49), ")".repeat(49)),
    ];
    for sql in &killers {
        match fixture.ask(sql).await {
            Ok(_) => {}
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::BadQuery | ErrorKind::TextTooLong),
                "{error}"
            ),
        }
    }
    assert!(fixture.ask(&killers[0]).await.is_err() && fixture.ask(&killers[2]).await.is_err());
    // As deep as is allowed: planned and run.
    let chain = vec!["duration_ns > 0"; 490].join(" and ");
    assert_eq!(
        fixture
            .value(&format!("select count(*) from spans where {chain}"))
            .await,
        "120"
    );
    let sum = vec!["duration_ns"; 490].join("+");
    assert_eq!(
        fixture.value(&format!("select max({sum}) > 0 from spans")).await,
        "true"
    );
    let union = vec!["select count(*) n from spans"; 200].join(" union all ");
    assert_eq!(fixture.value(&format!("select sum(n) from ({union})")).await, "24000");
}

#[tokio::test]
async fn only_questions_are_answered() {
    let mut fixture = Fixture::with_limits(small()).await;
    fixture.commit(&shop()).await;
    for sql in [
        "insert into spans select * from spans",
        "delete from spans",
        "create table x as select 1",
        "create external table x stored as parquet location '/etc'",
        "copy spans to '/tmp/x.parquet'",
        "explain analyze insert into spans select * from spans",
        "set datafusion.catalog.location = '/'",
        "drop table spans",
    ] {
        assert_eq!(kind(&fixture, sql).await, ErrorKind::NotAllowed, "{sql}");
    }
    for sql in [
        "select * from '/etc/passwd'",
        "select * from \"file:///etc/passwd\"",
        "select * from parquet_scan('/x')",
    ] {
        assert_eq!(kind(&fixture, sql).await, ErrorKind::BadQuery, "{sql}");
    }
    assert_eq!(fixture.value("select count(*) from spans").await, "120");
    assert!(!fixture.ask("explain select * from spans").await.unwrap().is_empty());
    assert!(!fixture.ask("show tables").await.unwrap().is_empty());
    assert!(fixture.ask("describe spans").await.unwrap().len() > 50);
}

#[tokio::test]
async fn no_lake_yet_and_damage() {
    let directory = tempfile::tempdir().unwrap();
    let lake = tailwater_storage::lake::Lake::open(&directory.path().join("lake")).unwrap();
    let config = tailwater_query::EngineConfig {
        lake: lake.clone(),
        outbox: None,
        temp: None,
        limits: small(),
    };
    let engine = tailwater_query::Engine::open(config).unwrap();
    assert_eq!(engine.ready().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(
        engine.collect("select * from spans").await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    lake.ensure_tables().await.unwrap();
    engine.ready().await.unwrap();
    assert_eq!(
        engine
            .collect("select * from spans")
            .await
            .unwrap()
            .iter()
            .map(|rows| rows.num_rows())
            .sum::<usize>(),
        0
    );

    let mut fixture = Fixture::new().await;
    fixture.commit(&shop()).await;
    let snapshot = fixture
        .lake
        .snapshot(tailwater_model::table::Table::Spans)
        .await
        .unwrap();
    let file = fixture
        .lake
        .local_table_dir(snapshot.table)
        .unwrap()
        .join(&*snapshot.files()[0].path);
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 40..end - 8].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    let error = fixture.ask("select sum(duration_ns) from spans").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(
        error
            .to_string()
            .contains(&format!("spans/{}", snapshot.files()[0].path)),
        "{error}"
    );
}

#[tokio::test]
async fn texts_are_not_multiplied() {
    let fixture = Fixture::with_limits(small()).await;
    let long = ScalarValue::Utf8(Some("x".repeat(20_000)));
    let check = async |sql: &str, expected: Result<&str, &str>| {
        let text = sql.to_owned();
        let params = if sql.contains("$1") {
            vec![long.clone()]
        } else {
            Vec::new()
        };
        let found = fixture.engine.collect(Query { text, params }).await;
        match (found, expected) {
            (Ok(rows), Ok(expected)) => {
                let value = arrow::util::display::array_value_to_string(rows[0].column(0), 0).unwrap();
                assert_eq!(value, expected, "{sql}");
            }
            (Err(error), Err(name)) => {
                assert_eq!(error.kind(), ErrorKind::Failed, "{sql}: {error}");
                let says = format!("{name} may add more than ");
                assert!(error.to_string().contains(&says), "{sql}: {error}");
            }
            (found, _) => panic!("{sql}: {found:?}"),
        }
    };
    check("select length(replace(replace($1,'x',$1),'x',$1))", Err("replace")).await;
    check("select length(replace($1, '', $1))", Err("replace")).await;
    check("select length(regexp_replace($1, 'x', $1, 'g'))", Err("regexp_replace")).await;
    check(
        "select length(array_to_string(string_to_array($1, NULL), $1))",
        Err("array_to_string"),
    )
    .await;
    let doubled = format!("select length({}$1{})", "encode(".repeat(7), ", 'hex')".repeat(7));
    check(&doubled, Err("encode")).await;
    // Many rows, and texts that are no constants.
    let rows = |text: &str, n: usize| {
        format!("select sum(length({text})) from (select value, $1::text || value as t from generate_series(1, {n}))")
    };
    check(&rows("replace(t, 'x', $1)", 10), Err("replace")).await;
    check(&rows("replace(t, 'x', 'yyyyyyyyy')", 120), Err("replace")).await;
    check(
        &rows("list_to_string(make_array(value, value, value, value), $1)", 300),
        Err("array_to_string"),
    )
    .await;
    // More than the limit may come of these, and does not; some in halves.
    check("select replace('a-b-c', '-', '+')", Ok("a+b+c")).await;
    check("select regexp_replace('ab', '(a)(b)', '\\2\\1')", Ok("ba")).await;
    check("select array_to_string(make_array(1, NULL, 3), ',', '?')", Ok("1,?,3")).await;
    check("select replace(NULL, 'a', 'b')", Ok("")).await;
    check(&rows("replace(t, 'x', 'yy')", 9), Ok("360009")).await;
    check(&rows("replace(t, 'no', 'none')", 250), Ok("5000642")).await;
}

fn files_below(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files
}

/// Waits until no query runs and none of its memory is held.
async fn settled(fixture: &Fixture) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while fixture.engine.stats().running_now() > 0 {
        assert!(Instant::now() < deadline, "a query goes on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
