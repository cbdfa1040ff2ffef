//! Traces and logs of the Nezha data set (Online Boutique on Kubernetes) as OTLP.
//!
//! The files know ids, pod, operation and times of a span, and nothing else. What OTLP wants beyond that is derived: the service is
//! the pod's name without its two hashes; the kind comes from where parent and children run; there is no status, so it stays
//! unset. A log's line wraps the program's own, which is JSON or plain text.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::BufRead;

use anyhow::{Context, bail};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use super::Recorded;
use super::csv::Records;

/// Columns of a trace file.
pub const TRACE_HEAD: [&str; 8] = [
    "TraceID",
    "SpanID",
    "ParentID",
    "PodName",
    "OperationName",
    "StartTimeUnixNano",
    "EndTimeUnixNano",
    "Duration",
];

/// Columns of a log file.
pub const LOG_HEAD: [&str; 8] = [
    "Timestamp",
    "TimeUnixNano",
    "Node",
    "PodName",
    "Container",
    "TraceID",
    "SpanID",
    "Log",
];

struct Row {
    trace: Vec<u8>,
    span: [u8; 8],
    parent: Option<[u8; 8]>,
    pod: String,
    operation: String,
    start_ns: u64,
    end_ns: u64,
}

/// Reads a trace file behind its header. The whole file is held, because a span's kind depends on its relatives.
///
/// # Errors
/// A row that cannot be understood, with its line; or what `each` returns.
pub fn traces<R: BufRead>(
    records: &mut Records<R>,
    batch: usize,
    each: &mut dyn FnMut(Recorded) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    while let Some((line, fields)) = records.next()? {
        rows.push(trace_row(&fields).with_context(|| format!("line {line}"))?);
    }
    let kinds = kinds(&rows);
    for (rows, kinds) in rows.chunks(batch.max(1)).zip(kinds.chunks(batch.max(1))) {
        let mut by_pod: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
        for (row, kind) in rows.iter().zip(kinds) {
            by_pod.entry(&row.pod).or_default().push(span(row, *kind));
        }
        let resource_spans = by_pod
            .into_iter()
            .map(|(pod, spans)| ResourceSpans {
                resource: Some(resource(pod)),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope()),
                    spans,
                    ..Default::default()
                }],
                ..Default::default()
            })
            .collect();
        each(Recorded::Traces(ExportTraceServiceRequest { resource_spans }))?;
    }
    Ok(())
}

fn trace_row(fields: &[String]) -> anyhow::Result<Row> {
    let [trace, span, parent, pod, operation, start, end, _duration] = fields else {
        bail!("{} columns instead of 8", fields.len());
    };
    Ok(Row {
        trace: id::<16>("TraceID", trace)?.to_vec(),
        span: id("SpanID", span)?,
        parent: if parent == "root" {
            None
        } else {
            Some(id("ParentID", parent)?)
        },
        pod: pod.clone(),
        operation: operation.clone(),
        start_ns: start.parse().context("StartTimeUnixNano")?,
        end_ns: end.parse().context("EndTimeUnixNano")?,
    })
}

fn id<const N: usize>(name: &str, text: &str) -> anyhow::Result<[u8; N]> {
    let mut id = [0; N];
    hex::decode_to_slice(text, &mut id).with_context(|| format!("{name} `{text}` is not {N} bytes in hex"))?;
    Ok(id)
}

/// The kind of every row, from where its parent and its children run and what its operation is called.
fn kinds(rows: &[Row]) -> Vec<SpanKind> {
    let pods: HashMap<[u8; 8], &str> = rows.iter().map(|row| (row.span, row.pod.as_str())).collect();
    let calls_out: HashSet<[u8; 8]> = rows
        .iter()
        .filter_map(|row| {
            row.parent
                .filter(|parent| pods.get(parent).is_some_and(|pod| *pod != row.pod))
        })
        .collect();
    let kind = |row: &Row| {
        let Some(parent) = row.parent else {
            return SpanKind::Server;
        };
        let operation = row.operation.as_str();
        let parent_pod = pods.get(&parent);
        if parent_pod.is_some_and(|pod| *pod != row.pod) {
            return SpanKind::Server;
        }
        let database = operation.starts_with("sql.") || operation.starts_with("SELECT ");
        if database || calls_out.contains(&row.span) || calls_other_service(operation, &row.pod) {
            return SpanKind::Client;
        }
        // The parent is not in the file: only servers of some languages mark themselves.
        let marked = operation.starts_with("grpc.") || operation.starts_with('/');
        if parent_pod.is_none() && marked {
            SpanKind::Server
        } else {
            SpanKind::Internal
        }
    };
    rows.iter().map(kind).collect()
}

/// Whether `hipstershop.CartService/GetCart` and the like names another service than the pod's own.
fn calls_other_service(operation: &str, pod: &str) -> bool {
    let Some((path, _)) = operation.trim_start_matches('/').rsplit_once('/') else {
        return false;
    };
    let target = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
    !target.starts_with(service(pod))
}

fn span(row: &Row, kind: SpanKind) -> Span {
    Span {
        trace_id: row.trace.clone(),
        span_id: row.span.to_vec(),
        parent_span_id: row.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        name: row.operation.clone(),
        kind: kind.into(),
        start_time_unix_nano: row.start_ns,
        end_time_unix_nano: row.end_ns,
        ..Default::default()
    }
}

/// The service of a pod: its name without the hashes of replica set and pod.
pub fn service(pod: &str) -> &str {
    pod.rsplitn(3, '-').nth(2).unwrap_or(pod)
}

fn text(text: impl Into<String>) -> Option<AnyValue> {
    Some(AnyValue {
        value: Some(Value::StringValue(text.into())),
    })
}

fn pair(key: &str, value: impl Into<String>) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: text(value),
        ..Default::default()
    }
}

fn resource(pod: &str) -> Resource {
    let attributes = vec![
        pair("service.name", service(pod)),
        pair("k8s.pod.name", pod),
        pair("k8s.namespace.name", "hipstershop"),
    ];
    Resource {
        attributes,
        ..Default::default()
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "nezha".to_owned(),
        ..Default::default()
    }
}

/// Reads a log file behind its header, `batch` rows at a time.
///
/// # Errors
/// As [`traces`].
pub fn logs<R: BufRead>(
    records: &mut Records<R>,
    batch: usize,
    each: &mut dyn FnMut(Recorded) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut by_pod: BTreeMap<String, Vec<LogRecord>> = BTreeMap::new();
    let mut rows = 0;
    let mut flush = |by_pod: &mut BTreeMap<String, Vec<LogRecord>>| {
        let resource_logs = std::mem::take(by_pod)
            .into_iter()
            .map(|(pod, log_records)| ResourceLogs {
                resource: Some(resource(&pod)),
                scope_logs: vec![ScopeLogs {
                    scope: Some(scope()),
                    log_records,
                    ..Default::default()
                }],
                ..Default::default()
            })
            .collect();
        each(Recorded::Logs(ExportLogsServiceRequest { resource_logs }))
    };
    while let Some((line, fields)) = records.next()? {
        let (pod, record) = log_row(&fields).with_context(|| format!("line {line}"))?;
        by_pod.entry(pod).or_default().push(record);
        rows += 1;
        if rows % batch.max(1) == 0 {
            flush(&mut by_pod)?;
        }
    }
    if by_pod.is_empty() { Ok(()) } else { flush(&mut by_pod) }
}

fn log_row(fields: &[String]) -> anyhow::Result<(String, LogRecord)> {
    let [_timestamp, time, _node, pod, container, trace, span, log] = fields else {
        bail!("{} columns instead of 8", fields.len());
    };
    let line = Line::parse(log);
    let mut attributes = vec![pair("k8s.container.name", container)];
    attributes.extend(line.attributes);
    let record = LogRecord {
        time_unix_nano: time.parse().context("TimeUnixNano")?,
        severity_number: line.severity,
        severity_text: line.severity_text,
        body: text(line.message),
        attributes,
        trace_id: id::<16>("TraceID", trace)?.to_vec(),
        span_id: id::<8>("SpanID", span)?.to_vec(),
        ..Default::default()
    };
    Ok((pod.clone(), record))
}

/// What a program logged, taken out of the container runtime's wrapping.
struct Line {
    message: String,
    severity: i32,
    severity_text: String,
    attributes: Vec<KeyValue>,
}

impl Line {
    fn parse(log: &str) -> Line {
        let outer: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(log).ok();
        let inner = outer
            .as_ref()
            .and_then(|outer| outer.get("log")?.as_str())
            .unwrap_or(log)
            .trim_end();
        match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(inner) {
            Ok(fields) if fields.get("message").is_some_and(serde_json::Value::is_string) => Line::of_fields(fields),
            _ => Line::of_text(inner),
        }
    }

    fn of_fields(fields: serde_json::Map<String, serde_json::Value>) -> Line {
        let mut line = Line {
            message: String::new(),
            severity: 0,
            severity_text: String::new(),
            attributes: vec![],
        };
        for (key, value) in fields {
            let value = match value {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            match key.as_str() {
                "message" => line.message = value,
                "severity" => {
                    line.severity = severity(&value).unwrap_or(0);
                    line.severity_text = value;
                }
                // The row has the time.
                "timestamp" => {}
                _ => line.attributes.push(pair(&key, value)),
            }
        }
        line
    }

    /// Plain text; its level is one of the first words, if any (`05:20:13.392 INFO  - ...`).
    fn of_text(text: &str) -> Line {
        let level = text.split_whitespace().take(3).find(|word| severity(word).is_some());
        Line {
            message: text.to_owned(),
            severity: level.and_then(severity).unwrap_or(0),
            severity_text: level.unwrap_or_default().to_owned(),
            attributes: vec![],
        }
    }
}

/// The OTLP severity number of a level's name.
fn severity(level: &str) -> Option<i32> {
    match level.to_ascii_uppercase().as_str() {
        "TRACE" => Some(1),
        "DEBUG" => Some(5),
        "INFO" => Some(9),
        "WARN" | "WARNING" => Some(13),
        "ERROR" => Some(17),
        "FATAL" | "CRITICAL" => Some(21),
        _ => None,
    }
}
