//! A lake of S-spans: bytes a span, and the seven questions of `design/performance.md` 1.4 beside DuckDB on the same Parquet files.
//!
//! ```text
//! cargo bench --bench lake                    10 million spans over six hours, made for the occasion (two minutes)
//! cargo bench --bench lake -- --data DIR      an existing data directory, nobody writing to it
//!     --spans N   --hours N   so many spans over so many hours          --keep DIR   makes the lake there and leaves it
//!     --runs N    so many runs of each question instead of five         --only TEXT  only questions with this in their name
//!     --json FILE the figures for programs
//! cargo test --bench lake                     20,000 spans, to see that it works
//! ```
//!
//! Both engines have as many threads, keep their caches between questions as servers do, and take turns; the best time of each counts.
//! DuckDB is asked in the way that is fastest for it (`epoch_us(ts) // 60000000`: `date_trunc` on a time with a zone takes three times as
//! long). Answers must be equal. The baseline of the bytes is DuckDB's own zstd Parquet of the same rows in the same order.
#![allow(clippy::unwrap_used, missing_docs)]

/// As a query process has it.
#[path = "../../src/allocator.rs"]
mod allocator;
mod bytes;
mod duck;
mod make;
mod questions;

use std::path::PathBuf;

use serde_json::json;
use tailwater_query::{Engine, EngineConfig, Limits};
use tailwater_storage::lake::Lake;
use tokio::runtime::Runtime;

use duck::Duck;

struct Arguments {
    data: Option<PathBuf>,
    keep: Option<PathBuf>,
    spans: usize,
    hours: u64,
    runs: usize,
    only: Option<String>,
    json: Option<PathBuf>,
}

impl Arguments {
    fn read() -> Arguments {
        let given: Vec<String> = std::env::args().collect();
        let after = |name: &str| {
            let at = given.iter().position(|argument| argument == name)?;
            given.get(at + 1)
        };
        let full = given.iter().any(|argument| argument == "--bench");
        let number = |name, full_default, small| match after(name) {
            Some(number) => number.parse().unwrap(),
            None if full => full_default,
            None => small,
        };
        Arguments {
            data: after("--data").map(PathBuf::from),
            keep: after("--keep").map(PathBuf::from),
            spans: number("--spans", 10_000_000, 20_000),
            hours: number("--hours", 6, 6) as u64,
            runs: number("--runs", 5, 2),
            only: after("--only").cloned(),
            json: after("--json").map(PathBuf::from),
        }
    }
}

fn main() {
    allocator::set_up();
    let arguments = Arguments::read();
    println!("machine: {}", machine());
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let temporary = tempfile::tempdir().unwrap();
        let data = arguments.data.as_ref().or(arguments.keep.as_ref());
        let data = data.map_or_else(|| temporary.path().to_owned(), PathBuf::clone);
        let lake_dir = data.join("lake");
        let lake = match arguments.data {
            Some(_) => Lake::open(&lake_dir).unwrap(),
            None => {
                std::fs::create_dir_all(&lake_dir).unwrap();
                make::lake(&lake_dir, arguments.spans, arguments.hours).await
            }
        };
        let limits = Limits {
            rows_max: usize::MAX,
            answer_bytes_max: usize::MAX,
            ..Limits::default()
        };
        let mut duck = Duck::start(&lake_dir, limits.threads);
        let bytes = bytes::measure(&lake, &lake_dir, duck.as_mut(), temporary.path()).await;
        let config = EngineConfig {
            lake,
            outbox: Some(data.join("outbox")),
            temp: Some(temporary.path().join("spill")),
            limits,
        };
        let engine = Engine::open(config).unwrap();
        let questions = questions::compare(&engine, duck.as_mut(), arguments.runs, arguments.only.as_deref()).await;
        let figures = json!({
            "machine": machine(),
            "threads": engine.limits().threads,
            "duckdb": duck.as_ref().map(|duck| &duck.version),
            "bytes": bytes,
            "questions": questions,
        });
        if let Some(path) = &arguments.json {
            std::fs::write(path, format!("{figures:#}\n")).unwrap();
        }
    });
}

/// What the figures were measured on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':')
            .map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {cores} cores, {} memory, load {}",
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/loadavg").trim()
    )
}
