//! Prometheus' own PromQL scripts against the evaluator, and the page that says how it did.
//!
//! Every instant query is asked as Prometheus' harness asks it: as it is, pinned to its time by `@` at five other times, and
//! each of those again as the middle of a range. What is refused must be refused by name; nothing may fail.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use tailwater_promql::script::{Command, Eval, Store, When, parse};
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
    eprintln!("SKIPPED: {} is not there (set TAILWATER_TEST_DATA)", path.display());
    None
}

/// How an evaluation ended.
#[derive(Debug)]
enum End {
    Passed,
    Refused(String),
    Failed(String),
}

fn ask(query: &Query, store: &Store, params: Params) -> Result<Answer, Error> {
    let plan = query.plan(params)?;
    let data: Vec<_> = plan.needs().iter().map(|need| store.fetch(need)).collect();
    plan.evaluate(&data, &|| false)
}

fn evaluate(eval: &Eval, store: &Store) -> End {
    let judge = |result: Result<Answer, Error>, what: &str| match result {
        Err(Error::Unsupported(name)) => Err(End::Refused(name)),
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

#[derive(Default)]
struct Count {
    run: usize,
    passed: usize,
    refused: BTreeMap<String, usize>,
    failed: Vec<String>,
}

fn run(script: &str) -> Count {
    let mut count = Count::default();
    let mut store = Store::default();
    for command in parse(script).expect("a script of Prometheus can be read") {
        match command {
            Command::Clear => store = Store::default(),
            Command::Load(load) => store.load(&load),
            Command::Eval(eval) => {
                count.run += 1;
                match evaluate(&eval, &store) {
                    End::Passed => count.passed += 1,
                    End::Refused(name) => *count.refused.entry(name).or_default() += 1,
                    End::Failed(error) => count.failed.push(format!("{}: {} => {error}", eval.line, eval.query)),
                }
            }
        }
    }
    count
}

/// Runs all scripts; prints a line per file.
fn run_all(folder: &Path) -> Vec<(String, Count)> {
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
            let count = run(&std::fs::read_to_string(path).expect("a script can be read"));
            let refused: usize = count.refused.values().sum();
            println!(
                "{name}: {} run, {} passed, {refused} refused by name, {} failed",
                count.run,
                count.passed,
                count.failed.len()
            );
            (name, count)
        })
        .collect()
}

fn page(counts: &[(String, Count)]) -> String {
    let mut page = String::from(
        "# PromQL conformance\n\n\
         Generated by `UPDATE=1 cargo test -p tailwater-promql conformance` from the scripts that Prometheus 3.14 tests itself \
         with\n(promql/promqltest/testdata, commit d15adb9a). Do not edit.\n\n\
         An evaluation counts as passed when all forms of it do: an instant query is also asked pinned by `@` at five other\n\
         times, and each of those as the middle of a range query. Refused means an error that names what is not evaluated;\n\
         Prometheus itself has all of these behind a feature flag.\n\n\
         | script | evaluations | passed | refused by name |\n|---|---:|---:|---:|\n",
    );
    let mut all: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut run, mut passed, mut refused) = (0, 0, 0);
    for (name, count) in counts {
        let of_file: usize = count.refused.values().sum();
        let _ = writeln!(page, "| {name} | {} | {} | {of_file} |", count.run, count.passed);
        run += count.run;
        passed += count.passed;
        refused += of_file;
        for (name, number) in &count.refused {
            *all.entry(name).or_default() += number;
        }
    }
    let _ = writeln!(
        page,
        "| all | {run} | {passed} | {refused} |\n\n| refused | evaluations |\n|---|---:|"
    );
    for (name, number) in all {
        let _ = writeln!(page, "| {name} | {number} |");
    }
    page
}

#[test]
fn conformance() {
    let Some(folder) = shared("promqltest") else { return };
    let counts = run_all(&folder);
    let failed: Vec<String> = counts
        .iter()
        .flat_map(|(name, count)| count.failed.iter().map(move |error| format!("{name}:{error}")))
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
    let page = page(&counts);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("the folder can be made");
        std::fs::write(&file, &page).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == page,
        "docs/conformance/promql.md is stale: run UPDATE=1 cargo test -p tailwater-promql conformance"
    );
}
