//! The questions, and their answers beside DuckDB's.

use std::time::Instant;

use arrow::array::RecordBatch;
use chrono::DateTime;
use serde_json::{Value, json};
use tailwater_query::{Engine, format};

use super::duck::Duck;

/// What a question is about, found in the lake before anything is timed.
struct About {
    trace: String,
    user: String,
    service: String,
    /// RFC 3339.
    from: String,
    to: String,
}

/// DataFusion interpolates between two values by a fraction that is rounded to a millionth; in a tail the two may lie some times their size
/// apart.
const INTERPOLATION_ERROR: f64 = 1e-5;

struct Question {
    name: &'static str,
    ours: String,
    /// None where the question is ours alone.
    duckdb: Option<String>,
    compare: Compare,
}

/// What must agree with DuckDB's answer.
enum Compare {
    /// All rows, in any order.
    Rows,
    /// The number of rows: values are written differently.
    Count,
    /// Each value with the exact one of the first question, within the bound of the sketch.
    Sketch,
}

/// Half of the widest relative error of a sketch at scale 5, and room for the last digits of a double.
const SKETCH_ERROR: f64 = 0.010_9;

fn questions(about: &About) -> Vec<Question> {
    let About {
        trace,
        user,
        service,
        from,
        to,
    } = about;
    let both = |name, ours: String, duckdb: String, compare| Question {
        name,
        ours,
        duckdb: Some(duckdb),
        compare,
    };
    vec![
        both(
            "P99 service x minute, exact",
            "select service_name, date_trunc('minute', ts) m, percentile_cont(duration_ns, 0.99) from spans group by 1, 2".into(),
            "select service_name, epoch_us(ts) // 60000000 m, quantile_cont(duration_ns, 0.99) from spans group by 1, 2".into(),
            Compare::Rows,
        ),
        both(
            "P99 service x minute, sketch",
            "select service_name, date_trunc('minute', ts) m, exphist_quantile(exphist(duration_ns), 0.99) from spans group by 1, 2".into(),
            "select service_name, epoch_us(ts) // 60000000 m, approx_quantile(duration_ns, 0.99) from spans group by 1, 2".into(),
            Compare::Sketch,
        ),
        both(
            "SLI good/total service x minute",
            "select service_name, date_trunc('minute', ts) m, count(*) filter (where status_code <> 2 and duration_ns < 500000000) good, count(*) n \
             from spans group by 1, 2"
                .into(),
            "select service_name, epoch_us(ts) // 60000000 m, count(*) filter (where status_code <> 2 and duration_ns < 500000000) good, count(*) n \
             from spans group by 1, 2"
                .into(),
            Compare::Rows,
        ),
        both(
            "trace by id",
            format!("select * from spans where trace_id = '{trace}'"),
            // Python's DuckDB wants another package for times with a zone.
            format!(
                "select * exclude (events, links) replace (epoch_us(ts) as ts, epoch_us(ingest_ts) as ingest_ts, date::varchar as date) \
                 from spans where trace_id = unhex('{trace}')"
            ),
            Compare::Count,
        ),
        both(
            "20 slowest",
            "select service_name, name, duration_ns, hex_id(trace_id) from spans order by duration_ns desc limit 20".into(),
            "select service_name, name, duration_ns, lower(hex(trace_id)) from spans order by duration_ns desc limit 20".into(),
            Compare::Rows,
        ),
        both(
            "P99 of a user",
            format!("select percentile_cont(duration_ns, 0.99), count(*) from spans where attributes['user.id'] = '{user}'"),
            format!("select quantile_cont(duration_ns, 0.99), count(*) from spans where user_id = '{user}'"),
            Compare::Rows,
        ),
        both(
            "P99 by minute, a service, 3 h",
            format!(
                "select date_trunc('minute', ts) m, percentile_cont(duration_ns, 0.99) from spans \
                 where service_name = '{service}' and ts >= '{from}' and ts < '{to}' group by 1"
            ),
            format!(
                "select epoch_us(ts) // 60000000 m, quantile_cont(duration_ns, 0.99) from spans \
                 where service_name = '{service}' and ts >= '{from}' and ts < '{to}' group by 1"
            ),
            Compare::Rows,
        ),
        Question {
            name: "trace by id, a miss",
            ours: "select * from spans where trace_id = 'fefefefefefefefefefefefefefefefe'".into(),
            duckdb: None,
            compare: Compare::Count,
        },
        Question {
            name: "count",
            ours: "select count(*) from spans".into(),
            duckdb: None,
            compare: Compare::Count,
        },
    ]
}
/// Asks and prints; `runs` times each, those with `only` in their name.
pub async fn compare(engine: &Engine, mut duck: Option<&mut Duck>, runs: usize, only: Option<&str>) -> Value {
    let about = about(engine).await;
    let spans = value(engine, "select count(*) from spans").await;
    if let Some(duck) = &duck {
        println!("DuckDB {} reads {} files", duck.version, duck.files);
    }
    println!("{spans} spans, {} threads, best of {}", engine.limits().threads, runs);
    println!(
        "\n{:34} {:>10} {:>10} {:>7} {:>8}",
        "question", "ours ms", "DuckDB ms", "ratio", "rows"
    );
    let mut figures = Vec::new();
    let (mut ours_total, mut theirs_total) = (0.0, 0.0);
    let mut exact = None;
    for question in questions(&about) {
        let wanted = only.is_none_or(|only| question.name.contains(only));
        if !wanted {
            continue;
        }
        let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
        let mut answers = (Vec::new(), None);
        for _ in 0..runs {
            let (ms, batches) = ask(engine, &question).await;
            ours = ours.min(ms);
            answers.0 = batches;
            if let (Some(duck), Some(sql)) = (&mut duck, &question.duckdb) {
                let (ms, rows) = duck.ask(sql);
                theirs = theirs.min(ms);
                answers.1 = Some(rows);
            }
        }
        let mine = rows_of(&answers.0);
        match (&question.compare, answers.1) {
            (Compare::Rows, Some(theirs)) => same(question.name, &mine, &theirs, INTERPOLATION_ERROR),
            (Compare::Count, Some(theirs)) => assert_eq!(mine.len(), theirs.len(), "{}", question.name),
            (Compare::Sketch, _) => {
                let exact = exact.as_ref().unwrap_or(&mine);
                same(question.name, &mine, exact, SKETCH_ERROR);
            }
            (_, None) => {}
        }
        let compared = question.duckdb.is_some() && duck.is_some();
        if compared {
            (ours_total, theirs_total) = (ours_total + ours, theirs_total + theirs);
            let ratio = ours / theirs;
            println!(
                "{:34} {ours:>10.2} {theirs:>10.2} {ratio:>7.2} {:>8}",
                question.name,
                mine.len()
            );
        } else {
            println!(
                "{:34} {ours:>10.2} {:>10} {:>7} {:>8}",
                question.name,
                "",
                "",
                mine.len()
            );
        }
        figures.push(json!({
            "question": question.name, "rows": mine.len(), "ours_ms": ours, "duckdb_ms": compared.then_some(theirs),
        }));
        exact.get_or_insert(mine);
    }
    if duck.is_some() {
        println!(
            "{:34} {ours_total:>10.2} {theirs_total:>10.2} {:>7.2}",
            "total of these",
            ours_total / theirs_total
        );
    }
    json!({ "each": figures, "ours_ms": ours_total, "duckdb_ms": theirs_total })
}

async fn ask(engine: &Engine, question: &Question) -> (f64, Vec<RecordBatch>) {
    let started = Instant::now();
    let batches = engine.collect(question.ours.as_str()).await;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    (ms, batches.unwrap_or_else(|error| panic!("{}: {error}", question.name)))
}

async fn about(engine: &Engine) -> About {
    let micros = async |what: &str| -> i64 {
        let text = value(engine, &format!("select cast({what}(ts) as bigint) from spans")).await;
        text.parse().unwrap()
    };
    let (first, last) = (micros("min").await, micros("max").await);
    let from = first + (last - first) / 4;
    let written = |micros| DateTime::from_timestamp_micros(micros).unwrap().to_rfc3339();
    let service = "select service_name from spans group by 1 order by count(*) desc, 1 limit 1";
    About {
        trace: value(engine, "select hex_id(min(trace_id)) from spans").await,
        user: value(engine, "select min(attributes['user.id']) from spans").await,
        service: value(engine, service).await,
        from: written(from),
        to: written(from + 3 * 3_600_000_000),
    }
}

/// The one value of an answer, as text.
async fn value(engine: &Engine, sql: &str) -> String {
    let batches = engine
        .collect(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut text = String::new();
    batches.iter().for_each(|rows| format::csv_rows(rows, &mut text));
    text.trim().to_owned()
}

fn rows_of(batches: &[RecordBatch]) -> Vec<Vec<Value>> {
    let row = |rows: &RecordBatch, row| {
        let cells = rows.columns().iter().map(|column| {
            let mut text = String::new();
            format::json_value(column, row, &mut text);
            serde_json::from_str(&text).unwrap()
        });
        cells.collect()
    };
    batches
        .iter()
        .flat_map(|rows| (0..rows.num_rows()).map(move |at| row(rows, at)))
        .collect()
}

/// Asserts that two answers have the same rows, in any order, numbers within this relative distance.
fn same(name: &str, ours: &[Vec<Value>], theirs: &[Vec<Value>], distance: f64) {
    let ordered = |rows: &[Vec<Value>]| {
        let mut rows: Vec<Vec<Value>> = rows.iter().map(|row| row.iter().map(minutes).collect()).collect();
        // By what is exact: texts and whole numbers.
        rows.sort_by_key(|row| {
            let exact = row.iter().filter(|cell| !cell.is_f64());
            exact.map(Value::to_string).collect::<Vec<_>>()
        });
        rows
    };
    let (ours, theirs) = (ordered(ours), ordered(theirs));
    assert_eq!(ours.len(), theirs.len(), "{name}: rows");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let equal = |(ours, theirs): (&Value, &Value)| match (ours.as_f64(), theirs.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= distance * a.abs().max(b.abs()),
            _ => ours == theirs,
        };
        let all = ours.len() == theirs.len() && ours.iter().zip(theirs).all(equal);
        assert!(all, "{name}: we say {ours:?}, they {theirs:?}");
    }
}

/// A time as minutes since 1970, which is how DuckDB is asked for it.
fn minutes(cell: &Value) -> Value {
    let time = cell.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    time.map_or_else(|| cell.clone(), |time| Value::from(time.timestamp() / 60))
}
