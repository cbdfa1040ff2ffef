//! What the process uses, read from `/proc/self` when someone looks at `/metrics`. Names are those of Prometheus's client libraries.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The fields of `/proc/<pid>/stat` from the third (state) on. `None` when there is no such process.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, is in parentheses and may hold anything, spaces and parentheses too.
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// A numeric field, numbered as in proc(5).
fn number(stat: &[String], field: usize) -> Option<u64> {
    stat.get(field.checked_sub(3)?)?.parse().ok()
}

/// Start of a running process in clock ticks since boot: with the pid, an identity that is not used again. `None` when it has ended,
/// also when nobody has collected its exit code yet.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = stat(pid)?;
    let ended = matches!(stat.first().map(String::as_str), Some("Z" | "X" | "x"));
    if ended { None } else { number(&stat, 22) }
}

/// The collector.
#[derive(Debug)]
pub(crate) struct Figures;

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| match value {
            Some(value) => {
                ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
            }
            None => Ok(()),
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |key: &str| kib(&status, key).map(|kib| kib * 1024.0);
        gauge(
            "process_resident_memory_bytes",
            "Memory of the process that is in RAM.",
            bytes("VmRSS:"),
        )?;
        gauge(
            "process_anonymous_memory_bytes",
            "The part of it that is not backed by a file.",
            bytes("RssAnon:"),
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Address space of the process.",
            bytes("VmSize:"),
        )?;
        gauge("process_threads", "Threads.", kib(&status, "Threads:"))?;
        gauge(
            "process_open_fds",
            "Open file descriptors.",
            fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as f64),
        )?;
        gauge("process_max_fds", "Most file descriptors it may open.", max_fds())?;
        gauge(
            "process_start_time_seconds",
            "When it started, seconds since 1970.",
            start_seconds(),
        )?;
        if let Some(seconds) = cpu_seconds() {
            let descriptor = encoder.encode_descriptor(
                "process_cpu_seconds",
                "Time on a CPU, user and system.",
                None,
                MetricType::Counter,
            )?;
            ConstCounter::new(seconds).encode(descriptor)?;
        }
        Ok(())
    }
}

/// The number behind a key of `/proc/self/status`.
fn kib(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn max_fds() -> Option<f64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map(|n| n as f64)
}

fn cpu_seconds() -> Option<f64> {
    let stat = stat(std::process::id())?;
    Some((number(&stat, 14)? + number(&stat, 15)?) as f64 / ticks_per_second())
}

fn start_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .parse()
        .ok()?;
    Some(boot + start_ticks(std::process::id())? as f64 / ticks_per_second())
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}
