//! What one query, and all of them together, may use.

use std::time::Duration;

/// Stack of the threads that parse, plan and run queries. Only what is touched is ever real memory.
pub(crate) const STACK_BYTES: usize = 32 << 20;

/// Limits of the engine. The defaults are those of the configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Memory of all queries together, bytes.
    pub memory_bytes_max: usize,
    /// Disk for what does not fit into memory, bytes; 0 keeps queries off the disk.
    pub temp_bytes_max: u64,
    /// A query is stopped after this, its answer sent or not.
    pub timeout: Duration,
    /// Most rows of an answer.
    pub rows_max: usize,
    /// Largest answer, in bytes of Arrow columns.
    pub answer_bytes_max: usize,
    /// Longest query text, bytes.
    pub text_bytes_max: usize,
    /// Deepest nesting.
    pub depth_max: usize,
    /// Most terms in a chain (`a or b or ...`), parts of a union, tables of a FROM.
    pub terms_max: usize,
    /// Queries at once; four times as many wait, the rest is refused.
    pub concurrency: usize,
    /// Threads that run queries.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes_max: 1 << 30,
            temp_bytes_max: 10 << 30,
            timeout: Duration::from_secs(30),
            rows_max: 10_000,
            answer_bytes_max: 64 << 20,
            text_bytes_max: 64 << 10,
            depth_max: 50,
            terms_max: 500,
            concurrency: 4,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}
