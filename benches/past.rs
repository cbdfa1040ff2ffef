//! Long windows: what issue 3 promises of 90 days of 1,000 operations, over a past that `load --history` would write.
//!
//! ```text
//! cargo bench --bench past                        writes 90 d x 1,000 operations (some three minutes, less than 1 GB), then asks
//! cargo bench --bench past -- --data DIR          the same, kept in DIR: used again if it is there
//! cargo bench --bench past -- --only TEXT         questions with this in their name
//! cargo bench --bench past -- --runs N            so many runs of each question instead of five
//! cargo test                                      a day of 20 operations, to see that it works
//! ```
//!
//! The P99 panel is asked of a past of its own, half an hour of a busier system: about a thousand spans a second.
//! The long past is thin (an operation in twenty has a request in a minute), and there a row of `red` stands for hardly more than a span.
//!
//! Every question is asked several times, best and worst are told, with the least that its threads ran and the most memory it took at any time (beyond what
//! was held before). Ratios, of the best times and of what threads ran, which other programs of the machine disturb less, stand beside the baselines of the
//! same run: `scan`, which adds up all of `red`'s counts in the window, and for the P99 panel DuckDB over the Parquet files of the spans (installed by
//! `tests/tools`), and this engine's own exact P99 over them. The check values of equal pasts are equal.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use tailwater::load::history::{self, Counting, Settings, World};
use tailwater_config::Config;
use tailwater_openslo::ResolvedSlo;
use tailwater_query::{Engine, EngineConfig, Limits, http, slo};
use tailwater_slo::Time;
use tailwater_storage::lake::Lake;
use tower::ServiceExt;

/// As a query process has it.
#[path = "../src/allocator.rs"]
mod allocator;

const RUNS: usize = 5;

/// What the long past is asked, SLOs over all of it and PromQL over its last month.
const LONG: [&str; 9] = [
    "scan: all counts (baseline)",
    "slo report of all",
    "slo report of 1 (errors)",
    "slo report of 1 (latency)",
    "PromQL rate by service",
    "PromQL rate, overlapping",
    "PromQL rate, tiling",
    "PromQL P99, overlapping",
    "PromQL P99, tiling",
];

/// What the busy half hour is asked.
const PANELS: [&str; 3] = [
    "P99 panel from red",
    "P99 panel from spans, this engine (baseline)",
    "P99 panel from spans, DuckDB (baseline)",
];

/// End of the past: 2026-11-22T20:00:00Z.
const NOW_S: u64 = 1_795_377_600;

fn main() {
    allocator::set_up();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let full = args.iter().any(|arg| arg == "--bench");
    let kept = args
        .windows(2)
        .find(|pair| pair[0] == "--data")
        .map(|pair| PathBuf::from(&pair[1]));
    println!(
        "{} processors, load average {}",
        std::thread::available_parallelism().unwrap(),
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    let scratch = tempfile::tempdir().unwrap();
    let data = kept.unwrap_or_else(|| scratch.path().join("data"));
    let busy_data = data.join("busy");
    let (world, busy) = (World::new(&settings(full)), World::new(&busy(full)));
    let slos = objectives(&world, if full { 100 } else { 6 });
    let asked_runs = args.windows(2).find(|pair| pair[0] == "--runs");
    let runs = match asked_runs {
        Some(pair) => pair[1].parse().unwrap(),
        None if full => RUNS,
        None => 1,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Box::pin(async {
        if LONG.into_iter().any(asked) {
            make(&data, &world, declared(&slos)).await;
            Box::pin(ask(&data, &world, &slos, runs)).await;
        }
        if PANELS.into_iter().any(asked) {
            make(&busy_data, &busy, Vec::new()).await;
            Box::pin(panel(&busy_data, &busy, runs)).await;
        }
    }));
}

/// Writes a past, unless it is there.
async fn make(data: &Path, world: &World, declared: Vec<tailwater_red::Declared>) {
    if data.join("lake").exists() {
        return;
    }
    let config = Config::of(&[]).unwrap();
    let caps = tailwater_collector::caps(&config);
    let red = tailwater_red::Settings {
        declared,
        ..tailwater_collector::counting(&config, &caps)
    };
    let told = history::write(data, world.clone(), Counting { red, caps }, |_| {})
        .await
        .unwrap();
    println!("{}", told.table());
    // Hours and quarters are derived as `maintain` does it.
    let mut compact = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    // A variable of this bench, which the binary would take for a setting.
    compact.env_remove("TAILWATER_PYTHON");
    // The disk of whoever runs this may be nearly full.
    compact.env("TAILWATER_STORAGE_DISK_RESERVE", "1MiB");
    let done = compact.args(["lake", "compact", "--data"]).arg(data).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn settings(full: bool) -> Settings {
    let (days, services, operations) = if full { (90, 20, 1000) } else { (1, 4, 20) };
    Settings {
        history: Duration::from_secs(days * 86_400),
        services,
        operations,
        density: None,
        rows: Duration::from_secs(1200),
        seed: 7,
        now_ns: NOW_S * 1_000_000_000,
    }
}

/// A thousand spans a second of as many operations.
fn busy(full: bool) -> Settings {
    let half_an_hour = Duration::from_secs(1800);
    Settings {
        history: half_an_hour,
        rows: half_an_hour,
        density: full.then_some(0.6),
        ..settings(full)
    }
}

/// SLOs over 90 days: of frequent and rare operations alike, by turns of errors and of latency.
fn objectives(world: &World, count: usize) -> Vec<ResolvedSlo> {
    let every = (world.sites.len() / count).max(1);
    let documents: Vec<String> = world.sites.iter().step_by(every).take(count).enumerate().map(|(number, site)| {
        let limit = (site.median_ns * 6.0 / 1e6).ceil();
        let good = match number % 2 {
            0 => "errors: exclude".to_owned(),
            _ => format!("errors: exclude, maxDuration: {limit}ms"),
        };
        format!(
            "apiVersion: openslo/v1\nkind: SLO\nmetadata: {{name: slo-{number}}}\nspec:\n  service: {service}\n  indicator:\n    metadata: {{name: sli-{number}}}\n    \
             spec: {{ratioMetric: {{rawType: success, raw: {{metricSource: {{type: tailwater, spec: {{red: {{service: {service}, operation: \"{operation}\", \
             good: {{{good}}}}}}}}}}}}}}}\n  timeWindow: [{{duration: 90d, isRolling: true}}]\n  budgetingMethod: Occurrences\n  objectives: [{{target: 0.99}}]\n",
            service = world.services[site.service].name,
            operation = site.name,
        )
    }).collect();
    let reading = tailwater_openslo::read(Path::new("past.yaml"), &documents.join("---\n"));
    let resolved = tailwater_openslo::resolve(&reading.documents);
    assert!(
        reading.problems.is_empty() && resolved.problems.is_empty(),
        "{reading:?} {resolved:?}"
    );
    assert_eq!(resolved.slos.len(), count);
    resolved.slos
}

/// The latency thresholds of every other SLO that has one are counted exactly; the rest is read from histograms.
fn declared(slos: &[ResolvedSlo]) -> Vec<tailwater_red::Declared> {
    let of = |slo: &ResolvedSlo| {
        let tailwater_openslo::Indicator::Requests { of, good } = &slo.objectives[0].indicator else {
            return None;
        };
        let named = |key| of.any_of.get(&key).and_then(|values| values.first().cloned());
        Some(tailwater_red::Declared {
            service_name: named(tailwater_openslo::RedKey::Service),
            operation: named(tailwater_openslo::RedKey::Operation),
            thresholds_ns: vec![good.max_duration_ns?],
            ..tailwater_red::Declared::default()
        })
    };
    slos.iter().filter_map(of).step_by(2).collect()
}

fn open(data: &Path) -> Engine {
    let config = EngineConfig {
        lake: Lake::open(&data.join("lake")).unwrap(),
        outbox: None,
        temp: None,
        // As `tailwater query` has them, but nothing is cut off.
        limits: Limits {
            rows_max: usize::MAX,
            answer_bytes_max: usize::MAX,
            ..Limits::default()
        },
    };
    Engine::open(config).unwrap()
}

async fn ask(data: &Path, world: &World, slos: &[ResolvedSlo], runs: usize) {
    let engine = &open(data);
    let days = ((world.to_s - world.from_s) / 86_400).min(30);
    println!(
        "{} SLOs over {} d, PromQL over {days} d",
        slos.len(),
        (world.to_s - world.from_s) / 86_400
    );
    head();
    let at = Time(world.to_s as i64);
    let scan = measure(LONG[0], runs, None, || async move {
        sql(engine, "select sum(n), sum(errors) from red where kind = 2").await
    })
    .await;
    let reported = |of: std::ops::Range<usize>| async move {
        let said = slo::report(engine, &slos[of], &tailwater_slo::Settings::default(), at)
            .await
            .unwrap();
        assert!(said.skipped.is_empty());
        let windows = said.report.objectives.iter().flat_map(|one| &one.windows);
        let (good, total) = windows.fold((0.0, 0), |(good, total), window| {
            (good + window.counts.good, total + window.counts.total)
        });
        format!("{good}/{total}")
    };
    let all = measure(LONG[1], runs, Some(3000), || reported(0..slos.len())).await;
    let one = measure(LONG[2], runs, Some(150), || reported(0..1)).await;
    measure(LONG[3], runs, Some(150), || reported(1..2)).await;
    // What Grafana makes of 30 days on a panel of a thousand points: steps of an hour.
    let hourly = |query: &'static str| move || range(engine, query, world, days * 86_400, 3600);
    let calls = "sum by (service) (rate(traces_spanmetrics_calls_total[5m]))";
    let rate = measure(LONG[4], runs, Some(200), hourly(calls)).await;
    // Windows of which each overlaps the next, as those of a step and a scrape do; and windows that tile, as `dashboards/on-call.json` asks.
    let dashboards = [
        "sum by (service) (rate(traces_spanmetrics_calls_total{is_entry=\"true\"}[3610s]))",
        "sum by (service) (rate(traces_spanmetrics_calls_total{is_entry=\"true\"}[1h]))",
        "histogram_quantile(0.99, sum by (service) (rate(traces_spanmetrics_latency{is_entry=\"true\"}[3610s])))",
        "histogram_quantile(0.99, sum by (service) (rate(traces_spanmetrics_latency{is_entry=\"true\"}[1h])))",
    ];
    for (name, query) in LONG[5..].iter().zip(dashboards) {
        measure(name, runs, None, hourly(query)).await;
    }
    println!();
    ratio("slo report of all / scan", all, scan);
    ratio("slo report of one / scan", one, scan);
    ratio("PromQL rate / scan", rate, scan);
    println!();
}

/// P99 of every service by minute, out of `red` and out of the spans.
async fn panel(data: &Path, world: &World, runs: usize) {
    let engine = &open(data);
    let spans = sql(engine, "select count(*) from spans").await;
    println!("{} min of {spans} spans", (world.to_s - world.rows_s) / 60);
    head();
    let panel = format!(
        "select service_name, date_bin(interval '1 minute', ts) as at, exphist_quantile(exphist_merge(exphist), 0.99) as p99 from red \
         where kind = 2 and ts >= to_timestamp({from}) and ts < to_timestamp({to}) group by 1, 2",
        from = world.rows_s,
        to = world.to_s,
    );
    let red = measure(PANELS[0], runs, None, || async { sql(engine, &panel).await }).await;
    let exact =
        "select service_name, date_trunc('minute', ts) as at, AGGREGATE as p99 from spans where kind = 2 group by 1, 2";
    let own = exact.replace("AGGREGATE", "percentile_cont(duration_ns::double, 0.99)");
    let own = measure(PANELS[1], runs, None, || async { sql(engine, &own).await }).await;
    let exact = exact.replace("AGGREGATE", "quantile_cont(duration_ns, 0.99)");
    let duck = asked(PANELS[2]).then(|| duck(data, &exact, runs)).flatten();
    if let Some((duck, rows)) = duck {
        println!(
            "{:44} {:>9.1} {:>9} {:>9.1} {:>9} {:>9}  {rows} rows",
            PANELS[2],
            duck.best * 1e3,
            "",
            duck.cpu * 1e3,
            "",
            ""
        );
    }
    println!();
    ratio("P99 panel: spans with this engine / red", own, red);
    match duck {
        Some((duck, _)) => ratio("P99 panel: spans with DuckDB / red (goal 10)", duck, red),
        None if asked(PANELS[2]) => println!("SKIPPED: no DuckDB (run tests/tools)"),
        None => {}
    }
}

/// Seconds that a question took, and that threads ran for it.
#[derive(Clone, Copy)]
struct Took {
    best: f64,
    cpu: f64,
}

fn head() {
    println!(
        "{:44} {:>9} {:>9} {:>9} {:>9} {:>9}  check",
        "question", "best ms", "worst ms", "cpu ms", "MiB more", "goal ms"
    );
}

fn ratio(name: &str, of: Took, to: Took) {
    let (best, cpu) = (of.best / to.best, of.cpu / to.cpu);
    // What was not asked took no number of seconds.
    if !best.is_nan() {
        println!("{name:60} {best:.2}, by what threads ran {cpu:.2}");
    }
}

/// Whether `--only` lets this question through.
fn asked(name: &str) -> bool {
    let only = std::env::args().skip_while(|arg| arg != "--only").nth(1);
    only.is_none_or(|only| name.contains(&only))
}

/// Asks; prints best and worst time, memory and check value.
async fn measure<F: Future<Output = String>>(
    name: &str,
    runs: usize,
    goal_ms: Option<u64>,
    ask: impl Fn() -> F,
) -> Took {
    if !asked(name) {
        return Took {
            best: f64::NAN,
            cpu: f64::NAN,
        };
    }
    let (mut best, mut worst, mut cpu, mut checks) = (f64::MAX, 0f64, f64::MAX, std::collections::BTreeSet::new());
    let before = memory("VmRSS:");
    // From here on the most is counted anew (proc(5)).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    for _ in 0..runs {
        let (started, ran) = (Instant::now(), cpu_s());
        checks.insert(ask().await);
        let seconds = started.elapsed().as_secs_f64();
        cpu = cpu.min(cpu_s() - ran);
        (best, worst) = (best.min(seconds), worst.max(seconds));
    }
    let more = memory("VmHWM:").saturating_sub(before) >> 10;
    assert_eq!(
        checks.len(),
        1,
        "{name}: equal questions have equal answers: {checks:?}"
    );
    let goal = goal_ms.map(|ms| ms.to_string()).unwrap_or_default();
    let check = checks.pop_first().unwrap();
    println!(
        "{name:44} {:>9.1} {:>9.1} {:>9.1} {more:>9} {goal:>9}  {check}",
        best * 1e3,
        worst * 1e3,
        cpu * 1e3
    );
    Took { best, cpu }
}

/// What all threads ran so far, seconds: told apart from waiting on a machine that others use too (proc(5), schedstat).
fn cpu_s() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ran = threads.filter_map(|thread| {
        let told = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        told.split_whitespace().next()?.parse::<f64>().ok()
    });
    ran.sum::<f64>() / 1e9
}

/// KiB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status
        .lines()
        .find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse().ok());
    found.unwrap_or(0)
}

async fn sql(engine: &Engine, text: &str) -> String {
    let rows = engine
        .collect(text)
        .await
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    match &rows[..] {
        [one] if one.num_rows() == 1 => {
            let mut text = String::new();
            tailwater_query::format::csv_rows(one, &mut text);
            text.trim().to_owned()
        }
        rows => format!("{} rows", rows.iter().map(|rows| rows.num_rows()).sum::<usize>()),
    }
}

/// A range query over the HTTP API, its answer in JSON included.
async fn range(engine: &Engine, query: &str, world: &World, seconds: u64, step: u64) -> String {
    let body = format!(
        "query={}&start={}&end={}&step={step}",
        query.replace(' ', "+").replace('[', "%5B").replace(']', "%5D"),
        world.to_s - seconds,
        world.to_s
    );
    let request = axum::http::Request::post("/prometheus/api/v1/query_range")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(axum::body::Body::from(body))
        .unwrap();
    let response = http::router(http::Desk::open(engine.clone()))
        .oneshot(request)
        .await
        .unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let series = answer["data"]["result"].as_array().unwrap();
    let points: usize = series
        .iter()
        .map(|one| one["values"].as_array().map_or(0, Vec::len))
        .sum();
    format!("{} series, {points} points", series.len())
}

/// How long it took, and the rows of the answer.
fn duck(data: &Path, sql: &str, runs: usize) -> Option<(Took, u64)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python =
        std::env::var_os("TAILWATER_PYTHON").map_or_else(|| root.join("target/tools/venv/bin/python"), PathBuf::from);
    let output = Command::new(python)
        .arg(root.join("benches/peers/duck.py"))
        .arg(data.join("lake"))
        .args(["spans", sql, &runs.to_string()])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let told = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = told
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let found = match numbers[..] {
        [best, cpu, rows] => Some((Took { best, cpu }, rows as u64)),
        _ => None,
    };
    found.or_else(|| {
        eprintln!("DuckDB: {}", String::from_utf8_lossy(&output.stderr));
        None
    })
}
