//! DuckDB, in a process of its own, over the same Parquet files (`tests/readers/duck_bench.py`).

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

pub struct Duck {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub version: String,
    pub files: u64,
}

impl Duck {
    /// Starts it over a lake. None, and a line that says so, where there is no Python with DuckDB.
    pub fn start(lake: &Path, threads: usize) -> Option<Duck> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = match std::env::var_os("TAILWATER_DUCKDB_PYTHON") {
            Some(python) => PathBuf::from(python),
            None => root.join("target/tools/venv/bin/python"),
        };
        let has_duckdb = Command::new(&python)
            .args(["-c", "import duckdb"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !has_duckdb {
            println!(
                "SKIPPED: no DuckDB (tests/tools installs it, TAILWATER_DUCKDB_PYTHON names another Python that has it)"
            );
            return None;
        }
        let mut child = Command::new(python)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(root.join("tests/readers/duck_bench.py"))
            .arg(lake)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let questions = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut duck = Duck {
            child,
            questions,
            answers,
            version: String::new(),
            files: 0,
        };
        let head = duck.line();
        duck.version = head["version"].as_str().unwrap().to_owned();
        duck.files = head["files"].as_u64().unwrap();
        Some(duck)
    }

    /// How long a query took, in milliseconds, and its rows.
    pub fn ask(&mut self, sql: &str) -> (f64, Vec<Vec<Value>>) {
        writeln!(self.questions, "{}", Value::from(sql)).unwrap();
        let mut answer = self.line();
        let rows = serde_json::from_value(answer["rows"].take()).unwrap();
        (answer["ms"].as_f64().unwrap(), rows)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).unwrap();
        assert!(read > 0, "duck_bench.py says why on standard error");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Duck {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
