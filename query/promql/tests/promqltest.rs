//! Prometheus' own PromQL scripts against the evaluator, and its part of the page that says how it did.
//!
//! Every instant query is asked as Prometheus' harness asks it: as it is, pinned to its time by `@` at five other times, and
//! each of those again as the middle of a range. What is refused must be refused by name; nothing may fail.
use std::io::Write as _;

use std::path::{Path, PathBuf};

use tailwater_promql::script::{Command, End, Eval, Store, Tally, When, parse, tables, with_part};
use tailwater_promql::{Answer, Error, Params, Query, Value};

/// Functions for which a sample's start timestamp matters.
const OF_START_TIMESTAMPS: &[&str] = &["rate(", "increase(", "resets("];

fn shared(what: &str) -> Option<PathBuf> {
    let root = std::env::var_os("TAILWATER_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let path = root.join(what);
    if path.exists() {
        return Some(path);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {} is not there (set TAILWATER_TEST_DATA)",
        path.display()
    );
    None
}

fn ask(query: &Query, store: &Store, params: Params) -> Result<Answer, Error> {
    let plan = query.plan(params)?;
    let data: Vec<_> = plan.needs().iter().map(|need| store.fetch(need)).collect();
    plan.evaluate(&data, &|| false)
}

fn evaluate(eval: &Eval, store: &Store) -> End {
    let judge = |result: Result<Answer, Error>, what: &str| match result {
        Err(Error::Unsupported { what, .. }) => Err(End::Refused(what)),
        result => {
            let words = result.as_ref().map_err(ToString::to_string);
            let outcome = match &words {
                Ok(answer) => Ok(*answer),
                Err(text) => Err(text.as_str()),
            };
            eval.check(outcome)
                .map_err(|error| End::Failed(format!("{what}: {error}")))?;
            Ok(result.ok())
        }
    };
    let run = || -> Result<(), End> {
        let query = match Query::parse(&eval.query) {
            Ok(query) => query,
            Err(error) => return judge(Err(error), "parse").map(|_| ()),
        };
        if store.start_timestamps && OF_START_TIMESTAMPS.iter().any(|function| eval.query.contains(function)) {
            return Err(End::Refused("start timestamps of samples".into()));
        }
        let at = match eval.when {
            When::Range(start, end, step) => {
                return judge(ask(&query, store, Params::range(start, end, step)), "range").map(|_| ());
            }
            When::Instant(at) => at,
        };
        let mut queries = vec![(query.clone(), at, "instant".to_owned())];
        let pinned_at = eval.range_vector.map_or(at, |(_, to, _)| to);
        if let Some(pinned) = query.pinned(pinned_at) {
            let times = if at == 0 {
                vec![-1000, 0, 1000]
            } else {
                vec![-10 * at, 0, at / 5, at, 10 * at]
            };
            queries.extend(
                times
                    .into_iter()
                    .map(|time| (pinned.clone(), time, format!("pinned, at {time}"))),
            );
        }
        for (query, time, what) in queries {
            let answer = judge(ask(&query, store, Params::instant(time)), &what)?;
            let of_query = ["start()", "end()", "range()", "step()"];
            let no_range = eval.fail.is_some()
                || eval.ordered
                || eval.range_vector.is_some()
                || eval.text.is_some()
                || of_query.iter().any(|function| eval.query.contains(function));
            if no_range || answer.is_none() {
                continue;
            }
            let range = ask(&query, store, Params::range(time - 60_000, time + 60_000, 60_000))
                .map_err(|error| End::Failed(format!("{what}, as a range: {error}")))?;
            let Value::Matrix(matrix) = range.value else {
                return Err(End::Failed(format!("{what}, as a range: not a matrix")));
            };
            eval.check_value(&eval.at_moment(&matrix, time))
                .map_err(|error| End::Failed(format!("{what}, as a range: {error}")))?;
        }
        Ok(())
    };
    run().err().unwrap_or(End::Passed)
}

fn run(script: &str) -> Tally {
    let mut tally = Tally::default();
    let mut store = Store::default();
    for command in parse(script).expect("a script of Prometheus can be read") {
        match command {
            Command::Clear => store = Store::default(),
            Command::Load(load) => store.load(&load),
            Command::Eval(eval) => tally.add(eval.line, &eval.query, evaluate(&eval, &store)),
        }
    }
    tally
}

/// Runs all scripts; prints a line per file.
fn run_all(folder: &Path) -> Vec<(String, Tally)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the scripts can be listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .collect();
    files.sort();
    assert!(files.len() >= 21, "only {} scripts", files.len());
    let only = std::env::var("PROMQLTEST_ONLY").unwrap_or_default();
    files
        .iter()
        .filter(|path| path.to_string_lossy().contains(&only))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let tally = run(&std::fs::read_to_string(path).expect("a script can be read"));
            println!("{name}: {}", tally.shown());
            (name, tally)
        })
        .collect()
}

#[test]
fn conformance() {
    let Some(folder) = shared("promqltest") else { return };
    let tallies = run_all(&folder);
    let failed: Vec<String> = tallies
        .iter()
        .flat_map(|(name, tally)| tally.failed.iter().map(move |error| format!("{name}:{error}")))
        .collect();
    assert!(
        failed.is_empty(),
        "{} evaluations failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
    if std::env::var_os("PROMQLTEST_ONLY").is_some() {
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance/promql.md");
    let page = std::fs::read_to_string(&file).expect("the page");
    let fresh = with_part(&page, "evaluator", &tables(&tallies)).expect("its part of the page");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &fresh).expect("the page can be written");
    } else {
        assert!(
            page == fresh,
            "docs/conformance/promql.md is stale: run UPDATE=1 cargo test -p tailwater-promql conformance"
        );
    }
}
