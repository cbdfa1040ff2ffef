//! The rows that a request's accepted items should become, column by column, as `storage/model/src/table/columns.rs` describes them.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, Metric, exemplar, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::Sampling;
use tailwater_model::table::promote::{self, Want};
use tailwater_model::table::{self, Table};

use super::cell::{Cell, Row, canonical, canonical_of_text};
use super::check::Truth;
use super::expect::{self, Point};

/// What the decoder is told about a request.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    pub tenant: &'a str,
    pub arrival_ns: u64,
    pub caps: &'a Caps,
}

const DAY_NS: u64 = 24 * 3600 * 1_000_000_000;

/// The rows of the accepted items, per table, in wire order.
pub fn rows(truth: &Truth, around: Around<'_>) -> BTreeMap<Table, Vec<Row>> {
    let mut rows: BTreeMap<Table, Vec<Row>> = BTreeMap::new();
    let items = expect::items(truth, around.arrival_ns, around.caps);
    let mut accepted = items.iter().map(|item| item.reasons.is_empty());
    let mut accepted = || accepted.next().expect("as many items as are walked");
    match truth {
        Truth::Traces(request) => {
            let mut spans = Vec::new();
            for group in &request.resource_spans {
                for block in &group.scope_spans {
                    let origin = origin(
                        &group.resource,
                        &group.schema_url,
                        &block.scope,
                        &block.schema_url,
                        around.caps,
                    );
                    for span in &block.spans {
                        if accepted() {
                            spans.push((
                                span_row(span, &origin, around),
                                span.start_time_unix_nano,
                                span.end_time_unix_nano,
                            ));
                        }
                    }
                }
            }
            rows.insert(Table::Traces, trace_rows(&spans, around));
            rows.insert(Table::Spans, spans.into_iter().map(|(row, _, _)| row).collect());
        }
        Truth::Logs(request) => {
            for group in &request.resource_logs {
                for block in &group.scope_logs {
                    let origin = origin(
                        &group.resource,
                        &group.schema_url,
                        &block.scope,
                        &block.schema_url,
                        around.caps,
                    );
                    for record in &block.log_records {
                        if accepted() {
                            rows.entry(Table::Logs)
                                .or_default()
                                .push(log_row(record, &origin, around));
                        }
                    }
                }
            }
        }
        Truth::Metrics(request) => {
            for group in &request.resource_metrics {
                for block in &group.scope_metrics {
                    let origin = origin(
                        &group.resource,
                        &group.schema_url,
                        &block.scope,
                        &block.schema_url,
                        around.caps,
                    );
                    for metric in &block.metrics {
                        for point in expect::points(metric) {
                            if accepted() {
                                let (table, row) = point_row(metric, point, &origin, around);
                                rows.entry(table).or_default().push(row);
                            }
                        }
                    }
                }
            }
        }
    }
    rows
}

/// All columns of a table's frame, null.
fn blank(table: Table, origin: &Row, around: Around<'_>) -> Row {
    let mut row: Row = table::frame_schema(table)
        .fields()
        .iter()
        .map(|field| (field.name().clone(), Cell::Null))
        .collect();
    for (name, cell) in origin {
        set(&mut row, name, cell.clone());
    }
    set(&mut row, "tenant", Cell::text(around.tenant));
    set(&mut row, "ingest_ts", micros(around.arrival_ns));
    row
}

fn set(row: &mut Row, name: &str, cell: Cell) {
    assert!(row.insert(name.to_owned(), cell).is_some(), "no column {name}");
}

fn micros(ns: u64) -> Cell {
    Cell::Int((ns / 1000) as i64)
}

fn below_micros(ns: u64) -> Cell {
    Cell::Int((ns % 1000) as i64)
}

fn i32_of_bits(bits: u32) -> i64 {
    i64::from(bits as i32)
}

fn saturated(count: u64) -> Cell {
    Cell::Int(count.min(i32::MAX as u64) as i64)
}

/// A text within a cap.
fn cut(text: &str, cap: usize) -> String {
    let mut end = text.len().min(cap);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// `ts`, `ts_ns`, `date`, and the flag without `end_before_start`.
fn set_time(row: &mut Row, sent_ns: u64, shown_ns: u64, around: Around<'_>) -> Option<&'static str> {
    let flag = if sent_ns == 0 {
        Some("zero")
    } else if i128::from(sent_ns) > i128::from(around.arrival_ns) + i128::from(around.caps.future_ns) {
        Some("future")
    } else if i128::from(sent_ns) < i128::from(around.arrival_ns) - i128::from(around.caps.past_ns) {
        Some("past")
    } else {
        None
    };
    let day = if flag.is_some() {
        around.arrival_ns / DAY_NS
    } else {
        sent_ns / DAY_NS
    };
    set(row, "date", Cell::Int(day as i64));
    set(row, "ts", micros(shown_ns));
    set(row, "ts_ns", below_micros(shown_ns));
    flag
}

/// Enum numbers are open; what a byte cannot hold is unspecified.
fn small(number: i32) -> Cell {
    Cell::Int(i8::try_from(number).unwrap_or(0).into())
}

fn span_row(span: &Span, origin: &Row, around: Around<'_>) -> Row {
    let caps = around.caps;
    let mut row = blank(Table::Spans, origin, around);
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    let flag = set_time(&mut row, start, start, around).or((end < start).then_some("end_before_start"));
    set(&mut row, "ts_flag", flag.map_or(Cell::Null, Cell::text));
    set(&mut row, "duration_ns", Cell::Int(end.saturating_sub(start) as i64));
    set(
        &mut row,
        "end_ns",
        if end < start { Cell::Int(end as i64) } else { Cell::Null },
    );
    set(&mut row, "name", Cell::Text(cut(&span.name, caps.text_bytes)));
    set(&mut row, "kind", small(span.kind));
    let status = span.status.clone().unwrap_or_default();
    set(&mut row, "status_code", small(status.code));
    set(
        &mut row,
        "status_message",
        Cell::text_or_null(&cut(&status.message, caps.text_bytes)),
    );
    set(&mut row, "trace_id", Cell::Bytes(span.trace_id.clone()));
    set(&mut row, "span_id", Cell::Bytes(span.span_id.clone()));
    let root = span.parent_span_id.iter().all(|byte| *byte == 0);
    set(
        &mut row,
        "parent_span_id",
        if root {
            Cell::Null
        } else {
            Cell::Bytes(span.parent_span_id.clone())
        },
    );
    set(
        &mut row,
        "trace_state",
        Cell::text_or_null(&cut(&span.trace_state, caps.text_bytes)),
    );
    set(
        &mut row,
        "flags",
        if span.flags == 0 {
            Cell::Null
        } else {
            Cell::Int(i32_of_bits(span.flags))
        },
    );
    set(&mut row, "is_root", Cell::Bool(root));
    let remote = span.flags & 0x300 == 0x300;
    set(
        &mut row,
        "is_entry",
        Cell::Bool(root || [2, 5].contains(&span.kind) || remote),
    );
    set_sampling(&mut row);
    let cut_attributes = set_attributes(&mut row, Table::Spans, &span.attributes, caps);
    set(
        &mut row,
        "dropped_attrs",
        saturated(u64::from(span.dropped_attributes_count) + cut_attributes),
    );
    let events: Vec<Cell> = span
        .events
        .iter()
        .take(caps.events)
        .map(|event| {
            let (attrs, dropped) = text_map(&event.attributes, caps.nested_attributes, caps);
            Cell::Struct(vec![
                ("ts".into(), micros(event.time_unix_nano)),
                ("ts_ns".into(), below_micros(event.time_unix_nano)),
                ("name".into(), Cell::Text(cut(&event.name, caps.text_bytes))),
                ("attrs".into(), attrs),
                (
                    "dropped".into(),
                    saturated(u64::from(event.dropped_attributes_count) + dropped),
                ),
            ])
        })
        .collect();
    set(
        &mut row,
        "dropped_events",
        saturated(u64::from(span.dropped_events_count) + (span.events.len() - events.len()) as u64),
    );
    set(&mut row, "events", Cell::List(events));
    let links: Vec<Cell> = span
        .links
        .iter()
        .take(caps.links)
        .map(|link| {
            let (attrs, dropped) = text_map(&link.attributes, caps.nested_attributes, caps);
            Cell::Struct(vec![
                ("trace_id".into(), Cell::Bytes(link.trace_id.clone())),
                ("span_id".into(), Cell::Bytes(link.span_id.clone())),
                (
                    "trace_state".into(),
                    Cell::text_or_null(&cut(&link.trace_state, caps.text_bytes)),
                ),
                ("flags".into(), Cell::Int(i32_of_bits(link.flags))),
                ("attrs".into(), attrs),
                (
                    "dropped".into(),
                    saturated(u64::from(link.dropped_attributes_count) + dropped),
                ),
            ])
        })
        .collect();
    set(
        &mut row,
        "dropped_links",
        saturated(u64::from(span.dropped_links_count) + (span.links.len() - links.len()) as u64),
    );
    set(&mut row, "links", Cell::List(links));
    row
}

fn log_row(record: &LogRecord, origin: &Row, around: Around<'_>) -> Row {
    let caps = around.caps;
    let mut row = blank(Table::Logs, origin, around);
    let sent = record.time_unix_nano;
    let observed = record.observed_time_unix_nano;
    // A record without a time has the time of its observation, or else of its arrival.
    let shown = [sent, observed, around.arrival_ns]
        .into_iter()
        .find(|time| *time != 0)
        .unwrap_or_default();
    let flag = set_time(&mut row, shown, shown, around).or(match (sent, observed) {
        (0, 0) => Some("zero"),
        (0, _) => Some("observed"),
        _ => None,
    });
    set(&mut row, "ts_flag", flag.map_or(Cell::Null, Cell::text));
    if observed != 0 {
        set(&mut row, "observed_ts", micros(observed));
        set(&mut row, "observed_ts_ns", below_micros(observed));
    }
    set(&mut row, "severity_number", small(record.severity_number));
    set(
        &mut row,
        "severity_text",
        Cell::text_or_null(&cut(&record.severity_text, caps.text_bytes)),
    );
    set(
        &mut row,
        "event_name",
        Cell::text_or_null(&cut(&record.event_name, caps.text_bytes)),
    );
    match &record.body {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => set(&mut row, "body", Cell::Text(cut(text, caps.body_bytes))),
        Some(any @ AnyValue { value: Some(value) })
            if !matches!(value, Value::StringValueStrindex(_)) && any.encoded_len() <= caps.body_bytes =>
        {
            set(&mut row, "body_json", Cell::Json(canonical(any)));
        }
        _ => {}
    }
    if valid_id(&record.trace_id, 16) {
        set(&mut row, "trace_id", Cell::Bytes(record.trace_id.clone()));
        if valid_id(&record.span_id, 8) {
            set(&mut row, "span_id", Cell::Bytes(record.span_id.clone()));
        }
    }
    set(
        &mut row,
        "flags",
        if record.flags == 0 {
            Cell::Null
        } else {
            Cell::Int(i32_of_bits(record.flags))
        },
    );
    set_sampling(&mut row);
    let cut_attributes = set_attributes(&mut row, Table::Logs, &record.attributes, caps);
    set(
        &mut row,
        "dropped_attrs",
        saturated(u64::from(record.dropped_attributes_count) + cut_attributes),
    );
    row
}

fn point_row(metric: &Metric, point: Point<'_>, origin: &Row, around: Around<'_>) -> (Table, Row) {
    let caps = around.caps;
    let table = if let Point::Number(_) = point {
        Table::MetricPoints
    } else {
        Table::MetricDists
    };
    let mut row = blank(table, origin, around);
    let (kind, temporality, monotonic) = match metric.data.as_ref().expect("a metric with points has data") {
        Data::Gauge(_) => (1, 0, None),
        Data::Sum(data) => (2, data.aggregation_temporality, Some(data.is_monotonic)),
        Data::Histogram(data) => (3, data.aggregation_temporality, None),
        Data::ExponentialHistogram(data) => (4, data.aggregation_temporality, None),
        Data::Summary(_) => (5, 0, None),
    };
    let (start, time, flags, attributes, exemplars): (_, _, _, &[KeyValue], &[Exemplar]) = match point {
        Point::Number(point) => {
            let (value, value_int, is_int) = match point.value {
                None => (Cell::Null, Cell::Null, false),
                Some(number_data_point::Value::AsDouble(value)) => (Cell::double(value), Cell::Null, false),
                Some(number_data_point::Value::AsInt(value)) => {
                    let exact = (value as f64) as i128 == i128::from(value);
                    (
                        Cell::double(value as f64),
                        if exact { Cell::Null } else { Cell::Int(value) },
                        true,
                    )
                }
            };
            set(&mut row, "value", value);
            set(&mut row, "value_int", value_int);
            set(&mut row, "is_int", Cell::Bool(is_int));
            (
                point.start_time_unix_nano,
                point.time_unix_nano,
                point.flags,
                &point.attributes,
                &point.exemplars,
            )
        }
        Point::Histogram(point) => {
            dist(&mut row, point.count, point.sum, point.min, point.max);
            set(
                &mut row,
                "bounds",
                Cell::List(point.explicit_bounds.iter().map(|bound| Cell::double(*bound)).collect()),
            );
            set(&mut row, "counts", counts(&point.bucket_counts));
            (
                point.start_time_unix_nano,
                point.time_unix_nano,
                point.flags,
                &point.attributes,
                &point.exemplars,
            )
        }
        Point::Exponential(point) => {
            dist(&mut row, point.count, point.sum, point.min, point.max);
            set(&mut row, "scale", Cell::Int(point.scale.into()));
            set(&mut row, "zero_count", Cell::Int(point.zero_count as i64));
            set(&mut row, "zero_threshold", Cell::double(point.zero_threshold));
            for (side, offset, list) in [
                (&point.positive, "pos_offset", "pos_counts"),
                (&point.negative, "neg_offset", "neg_counts"),
            ] {
                let side = side.clone().unwrap_or_default();
                set(&mut row, offset, Cell::Int(side.offset.into()));
                set(&mut row, list, counts(&side.bucket_counts));
            }
            (
                point.start_time_unix_nano,
                point.time_unix_nano,
                point.flags,
                &point.attributes,
                &point.exemplars,
            )
        }
        Point::Summary(point) => {
            dist(&mut row, point.count, Some(point.sum), None, None);
            let quantile = |value: &opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile| {
                Cell::Struct(vec![
                    ("q".into(), Cell::double(value.quantile)),
                    ("v".into(), Cell::double(value.value)),
                ])
            };
            set(
                &mut row,
                "quantiles",
                Cell::List(point.quantile_values.iter().map(quantile).collect()),
            );
            (
                point.start_time_unix_nano,
                point.time_unix_nano,
                point.flags,
                &point.attributes,
                &[],
            )
        }
    };
    set_time(&mut row, time, time, around);
    if start != 0 {
        set(&mut row, "start_ts", micros(start));
        set(&mut row, "start_ts_ns", below_micros(start));
    }
    set(&mut row, "series_id", Cell::Some);
    set(&mut row, "metric_name", Cell::Text(cut(&metric.name, caps.text_bytes)));
    set(&mut row, "type", Cell::Int(kind));
    set(&mut row, "temporality", small(temporality));
    set(&mut row, "monotonic", monotonic.map_or(Cell::Null, Cell::Bool));
    set(
        &mut row,
        "unit",
        Cell::text_or_null(&cut(&metric.unit, caps.text_bytes)),
    );
    set(&mut row, "flags", Cell::Int(i32_of_bits(flags)));
    set_attributes(&mut row, table, attributes, caps);
    let exemplars = exemplars.iter().take(caps.exemplars).map(|exemplar| {
        let value = match exemplar.value {
            None => Cell::Null,
            Some(exemplar::Value::AsDouble(value)) => Cell::double(value),
            Some(exemplar::Value::AsInt(value)) => Cell::double(value as f64),
        };
        let bytes = |id: &[u8]| {
            if id.is_empty() {
                Cell::Null
            } else {
                Cell::Bytes(id.to_vec())
            }
        };
        Cell::Struct(vec![
            ("ts".into(), micros(exemplar.time_unix_nano)),
            ("ts_ns".into(), below_micros(exemplar.time_unix_nano)),
            ("value".into(), value),
            ("trace_id".into(), bytes(&exemplar.trace_id)),
            ("span_id".into(), bytes(&exemplar.span_id)),
            (
                "attrs".into(),
                text_map(&exemplar.filtered_attributes, caps.nested_attributes, caps).0,
            ),
        ])
    });
    set(&mut row, "exemplars", Cell::List(exemplars.collect()));
    (table, row)
}

fn dist(row: &mut Row, count: u64, sum: Option<f64>, min: Option<f64>, max: Option<f64>) {
    set(row, "count", Cell::Int(count as i64));
    for (name, value) in [("sum", sum), ("min", min), ("max", max)] {
        set(row, name, value.map_or(Cell::Null, Cell::double));
    }
    for list in ["bounds", "counts", "pos_counts", "neg_counts", "quantiles"] {
        set(row, list, Cell::List(vec![]));
    }
}

fn counts(counts: &[u64]) -> Cell {
    Cell::List(counts.iter().map(|count| Cell::Int(*count as i64)).collect())
}

fn valid_id(id: &[u8], len: usize) -> bool {
    id.len() == len && id.iter().any(|byte| *byte != 0)
}

/// What sampling is told to say of every item: no two columns alike, so that none can be taken for another.
pub const SAMPLING: Sampling<'static> = Sampling {
    sample_weight: Some(2.5),
    sample_threshold: Some(77),
    sample_reason: Some("rule"),
    weight_quality: None,
    trigger: Some("idle"),
    partial: Some(true),
    late: Some(false),
    policy_epoch: Some(3),
    trace_state: None,
};

fn set_sampling(row: &mut Row) {
    set(row, "sample_weight", Cell::double(2.5));
    set(row, "sample_threshold", Cell::Int(77));
    set(row, "sample_reason", Cell::text("rule"));
    set(row, "trigger", Cell::text("idle"));
    set(row, "partial", Cell::Bool(true));
    set(row, "late", Cell::Bool(false));
    set(row, "policy_epoch", Cell::Int(3));
}

/// A row of `spans` with its start and end in ns.
type Timed = (Row, u64, u64);

/// The parts of traces that these rows of `spans` add up to, one a trace, in order of first sight.
fn trace_rows(spans: &[Timed], around: Around<'_>) -> Vec<Row> {
    let mut traces: Vec<(Cell, Vec<&Timed>)> = Vec::new();
    for span in spans {
        match traces.iter_mut().find(|(id, _)| *id == span.0["trace_id"]) {
            Some((_, spans)) => spans.push(span),
            None => traces.push((span.0["trace_id"].clone(), vec![span])),
        }
    }
    let part = |(id, spans): (Cell, Vec<&Timed>)| {
        let mut row: Row = table::frame_schema(Table::Traces)
            .fields()
            .iter()
            .map(|field| (field.name().clone(), Cell::Null))
            .collect();
        set(&mut row, "tenant", Cell::text(around.tenant));
        set(&mut row, "ingest_ts", micros(around.arrival_ns));
        set(&mut row, "trace_id", id);
        let min = spans.iter().map(|(_, start, _)| *start).min().unwrap_or_default();
        // A span that ends before it starts has no duration, so its end is its start.
        let max = spans
            .iter()
            .map(|(_, start, end)| *start.max(end))
            .max()
            .unwrap_or_default();
        // The names of the times differ, their rule does not.
        let mut time: Row = ["date", "ts", "ts_ns"]
            .into_iter()
            .map(|name| (name.to_owned(), Cell::Null))
            .collect();
        let flag = set_time(&mut time, min, min, around);
        set(&mut row, "date", time["date"].clone());
        set(&mut row, "ts_min", micros(min));
        set(&mut row, "ts_max", micros(max));
        set(&mut row, "ts_flag", flag.map_or(Cell::Null, Cell::text));
        set(&mut row, "part", Cell::Int(PART.into()));
        set(&mut row, "duration_ns", Cell::Int((max - min) as i64));
        if let Some((root, _, _)) = spans.iter().find(|(span, _, _)| span["is_root"] == Cell::Bool(true)) {
            for (name, of_span) in [
                ("root_service", "service_name"),
                ("root_name", "name"),
                ("root_kind", "kind"),
                ("root_status", "status_code"),
                ("http_route", "http_route"),
            ] {
                set(&mut row, name, root[of_span].clone());
            }
        }
        set(&mut row, "span_count", Cell::Int(spans.len() as i64));
        let errors = spans
            .iter()
            .filter(|(span, _, _)| span["status_code"] == Cell::Int(2))
            .count();
        set(&mut row, "error_count", Cell::Int(errors as i64));
        let mut services: Vec<Cell> = Vec::new();
        for (span, _, _) in spans {
            if span["service_name"] != Cell::Null && !services.contains(&span["service_name"]) {
                services.push(span["service_name"].clone());
            }
        }
        set(&mut row, "services", Cell::List(services));
        set_sampling(&mut row);
        row
    };
    traces.into_iter().map(part).collect()
}

/// The number that the tests give every part of a trace.
pub const PART: i32 = 4;

/// Resource and scope columns.
fn origin(
    resource: &Option<Resource>,
    resource_url: &str,
    scope: &Option<InstrumentationScope>,
    scope_url: &str,
    caps: &Caps,
) -> Row {
    let mut row = Row::new();
    let resource = resource.clone().unwrap_or_default();
    let scope = scope.clone().unwrap_or_default();
    let mut left = Vec::new();
    let mut seen = BTreeSet::new();
    for pair in resource.attributes.iter().take(caps.origin_attributes) {
        if !seen.insert(cut(&pair.key, caps.key_bytes)) {
            continue;
        }
        let column = promote::RESOURCE
            .iter()
            .find(|promotion| promotion.key == pair.key)
            .map(|promotion| promotion.column);
        match (column, &pair.value) {
            (
                Some(column),
                Some(AnyValue {
                    value: Some(Value::StringValue(text)),
                }),
            ) if !row.contains_key(column) => {
                row.insert(column.to_owned(), Cell::Text(cut(text, caps.value_bytes)));
            }
            _ => left.push(pair.clone()),
        }
    }
    row.insert("resource_attrs".into(), text_map(&left, usize::MAX, caps).0);
    row.insert(
        "resource_schema_url".into(),
        Cell::text_or_null(&cut(resource_url, caps.text_bytes)),
    );
    row.insert(
        "scope_name".into(),
        Cell::text_or_null(&cut(&scope.name, caps.text_bytes)),
    );
    row.insert(
        "scope_version".into(),
        Cell::text_or_null(&cut(&scope.version, caps.text_bytes)),
    );
    row.insert(
        "scope_schema_url".into(),
        Cell::text_or_null(&cut(scope_url, caps.text_bytes)),
    );
    row.insert(
        "scope_attrs".into(),
        text_map(&scope.attributes, caps.origin_attributes, caps).0,
    );
    row
}

/// Attributes as texts, and how many a cap cost.
fn text_map(attributes: &[KeyValue], cap: usize, caps: &Caps) -> (Cell, u64) {
    let mut entries = Vec::new();
    let mut seen = BTreeSet::new();
    let mut dropped = attributes.len().saturating_sub(cap) as u64;
    for pair in attributes.iter().take(cap) {
        let key = cut(&pair.key, caps.key_bytes);
        if !seen.insert(key.clone()) {
            continue;
        }
        let any = pair.value.clone().unwrap_or_default();
        let value = match &any.value {
            Some(Value::StringValue(text)) => Cell::Text(cut(text, caps.value_bytes)),
            Some(Value::BoolValue(value)) => Cell::Text(value.to_string()),
            Some(Value::IntValue(value)) => Cell::Text(value.to_string()),
            Some(Value::DoubleValue(value)) => Cell::Text(number(*value)),
            _ if any.encoded_len() > caps.value_bytes => {
                dropped += 1;
                continue;
            }
            _ => Cell::Json(canonical(&any)),
        };
        entries.push((key, value));
    }
    (Cell::Map(entries), dropped)
}

/// The attribute columns of an item. Returns how many attributes a cap cost.
fn set_attributes(row: &mut Row, table: Table, attributes: &[KeyValue], caps: &Caps) -> u64 {
    let mut maps: BTreeMap<&str, Vec<(String, Cell)>> =
        ["attrs_str", "attrs_int", "attrs_dbl", "attrs_bool", "attrs_json"]
            .into_iter()
            .map(|name| (name, Vec::new()))
            .collect();
    let mut seen = BTreeSet::new();
    let mut dropped = attributes.len().saturating_sub(caps.attributes) as u64;
    for pair in attributes.iter().take(caps.attributes) {
        let key = cut(&pair.key, caps.key_bytes);
        if !seen.insert(key.clone()) {
            continue;
        }
        let promotion = promote::item(table).iter().find(|promotion| promotion.key == key);
        let column = |want: Want, row: &Row| {
            promotion
                .filter(|promotion| promotion.want == want && row[promotion.column] == Cell::Null)
                .map(|promotion| promotion.column)
        };
        let any = pair.value.clone().unwrap_or_default();
        let (map, value) = match &any.value {
            Some(Value::StringValue(text)) => {
                let text = Cell::Text(cut(text, caps.value_bytes));
                match column(Want::Str, row) {
                    Some(column) => {
                        set(row, column, text);
                        continue;
                    }
                    None => ("attrs_str", text),
                }
            }
            Some(Value::IntValue(value)) => match column(Want::Int, row) {
                Some(column) if i32::try_from(*value).is_ok() => {
                    set(row, column, Cell::Int(*value));
                    continue;
                }
                _ => ("attrs_int", Cell::Int(*value)),
            },
            Some(Value::DoubleValue(value)) => ("attrs_dbl", Cell::double(*value)),
            Some(Value::BoolValue(value)) => ("attrs_bool", Cell::Bool(*value)),
            _ if any.encoded_len() > caps.value_bytes => {
                dropped += 1;
                continue;
            }
            _ => ("attrs_json", Cell::Json(canonical(&any))),
        };
        maps.get_mut(map).unwrap().push((key, value));
    }
    for (name, entries) in maps {
        set(row, name, Cell::Map(entries));
    }
    dropped
}

/// A row of `metric_series` without its id, time and the order of its labels.
pub fn series_of(row: &Row) -> String {
    let labels = match &row["labels"] {
        Cell::Map(entries) => entries
            .iter()
            .map(|(key, value)| (key.clone(), spelled(value)))
            .collect(),
        other => panic!("labels are {other:?}"),
    };
    series_text(row, &row["description"], &labels)
}

/// With an exponent where it would be long.
fn number(value: f64) -> String {
    match value.abs() {
        far if far.is_finite() && far != 0.0 && !(1e-5..1e16).contains(&far) => format!("{value:e}"),
        _ => value.to_string(),
    }
}

/// Spells a label so that two spellings of one JSON value are equal.
fn spelled(value: &Cell) -> String {
    match value {
        Cell::Text(text) if text.starts_with('{') => canonical_of_text(text).unwrap_or_else(|| text.clone()),
        Cell::Text(text) => text.clone(),
        Cell::Json(canonical) => canonical.clone(),
        other => panic!("a label is {other:?}"),
    }
}

fn series_text(row: &Row, description: &Cell, labels: &BTreeMap<String, String>) -> String {
    let identity = [
        "date",
        "tenant",
        "metric_name",
        "type",
        "temporality",
        "monotonic",
        "unit",
        "service_name",
    ]
    .map(|name| &row[name]);
    format!("{identity:?} {description:?} {labels:?}")
}

/// What [`series_of`] should say of the series of all accepted points. Labels are a point's own attributes, those of its resource
/// under `resource.`, those of its scope, its name and its version under `scope.`; of equal keys the first in this order.
pub fn series(truth: &Truth, rows: &BTreeMap<Table, Vec<Row>>, around: Around<'_>) -> BTreeSet<String> {
    let Truth::Metrics(request) = truth else {
        return BTreeSet::new();
    };
    let items = expect::items(truth, around.arrival_ns, around.caps);
    let mut accepted = items.iter().map(|item| item.reasons.is_empty());
    let none = Vec::new();
    let mut points = rows.get(&Table::MetricPoints).unwrap_or(&none).iter();
    let mut dists = rows.get(&Table::MetricDists).unwrap_or(&none).iter();
    // A series that is described in two ways on one day keeps the first description; others of its metric have their own.
    let mut descriptions: BTreeMap<String, Cell> = BTreeMap::new();
    let mut series = BTreeSet::new();
    for group in &request.resource_metrics {
        for block in &group.scope_metrics {
            for metric in &block.metrics {
                for point in expect::points(metric) {
                    if !accepted.next().expect("as many items as are walked") {
                        continue;
                    }
                    let (own, row) = match point {
                        Point::Number(point) => (&point.attributes, points.next()),
                        Point::Histogram(point) => (&point.attributes, dists.next()),
                        Point::Exponential(point) => (&point.attributes, dists.next()),
                        Point::Summary(point) => (&point.attributes, dists.next()),
                    };
                    let row = row.expect("a row for each accepted point");
                    let mut pairs = own.clone();
                    let prefixed = |prefix: &str, pair: &KeyValue| KeyValue {
                        key: format!("{prefix}{}", pair.key),
                        ..pair.clone()
                    };
                    if let Some(resource) = &group.resource {
                        let some = resource.attributes.iter().take(around.caps.origin_attributes);
                        pairs.extend(some.map(|pair| prefixed("resource.", pair)));
                    }
                    if let Some(scope) = &block.scope {
                        let some = scope.attributes.iter().take(around.caps.origin_attributes);
                        pairs.extend(some.map(|pair| prefixed("scope.", pair)));
                        for (key, text) in [("scope.name", &scope.name), ("scope.version", &scope.version)] {
                            if !text.is_empty() {
                                let value = Some(AnyValue {
                                    value: Some(Value::StringValue(text.clone())),
                                });
                                pairs.push(KeyValue {
                                    key: key.to_owned(),
                                    value,
                                    key_strindex: 0,
                                });
                            }
                        }
                    }
                    let Cell::Map(labels) = text_map(&pairs, usize::MAX, around.caps).0 else {
                        unreachable!("a map")
                    };
                    let labels = labels
                        .iter()
                        .map(|(key, value)| (key.clone(), spelled(value)))
                        .collect();
                    let description = Cell::text_or_null(&cut(&metric.description, around.caps.text_bytes));
                    let of_series = series_text(row, &Cell::Null, &labels);
                    let description = descriptions.entry(of_series).or_insert(description);
                    series.insert(series_text(row, description, &labels));
                }
            }
        }
    }
    series
}
