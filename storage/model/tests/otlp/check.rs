//! One request through both decoders: Tailwater's over the bytes, and prost's tree put into rows by slow, plain code.
//!
//! Shared with the fuzz targets, which include this file by path. Everything here panics with what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::{
    Choice, LogColumns, MetricBatches, MetricColumns, RequestInfo, SeriesSeen, SpanColumns,
};
use tailwater_model::otlp::json::transcode;
use tailwater_model::otlp::peek::{self, Inspected};
use tailwater_model::signal::Signal;
use tailwater_model::table::{Table, frame_schema, sort_columns};

use super::cell::{self, Row};
use super::expect::{self, Item};
use super::table::{self, Around};
use super::wire::{self, Plain};

/// What prost makes of a request.
pub enum Truth {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

impl Truth {
    pub fn decode(signal: Signal, bytes: &[u8]) -> Result<Truth, prost::DecodeError> {
        Ok(match signal {
            Signal::Traces => Truth::Traces(ExportTraceServiceRequest::decode(bytes)?),
            Signal::Metrics => Truth::Metrics(ExportMetricsServiceRequest::decode(bytes)?),
            Signal::Logs => Truth::Logs(ExportLogsServiceRequest::decode(bytes)?),
        })
    }
}

/// When the requests of the checks arrive, ns since 1970.
pub const ARRIVAL_NS: u64 = 1_700_000_000_123_456_789;

/// Any bytes as a protobuf request.
pub fn pb(signal: Signal, bytes: &[u8]) {
    check(signal, bytes, ARRIVAL_NS, &Caps::default());
}

/// Any bytes as a JSON request: what the transcoder makes of it is a request, and one on which the decoders agree.
pub fn json(signal: Signal, bytes: &[u8]) {
    let bytes_max = 1 << 20;
    let Ok(request) = transcode(signal, bytes, bytes_max) else {
        return;
    };
    assert!(request.len() <= bytes_max);
    if let Err(error) = Truth::decode(signal, &request) {
        panic!("the transcoder wrote what prost refuses: {error}");
    }
    pb(signal, &request);
}

/// Checks that both decoders agree on whether this is a request, on its items, on which are rejected and why, and on every
/// column of every row.
pub fn check(signal: Signal, bytes: &[u8], arrival_ns: u64, caps: &Caps) {
    let ours = peek::inspect(signal, bytes, arrival_ns, caps);
    let Plain {
        bytes: readable,
        sanitized,
        ambiguous,
        shadowed,
    } = wire::plain(signal, bytes);
    let truth = Truth::decode(signal, &readable);
    if ambiguous {
        return;
    }
    let (ours, truth) = match (ours, truth) {
        (Ok(ours), Ok(truth)) => (ours, truth),
        (Err(_), Err(_)) => return,
        // prost counts an unknown scalar as a level of nesting, and looks into data of a metric that later data replaces.
        (Ok(_), Err(error)) if shadowed || error.to_string().contains("recursion limit") => return,
        (Ok(_), Err(error)) => panic!("prost refuses what inspect accepts: {error}"),
        (Err(error), Ok(_)) => panic!("inspect refuses what prost accepts: {error}"),
    };
    let items = expect::items(&truth, arrival_ns, caps);
    assert_eq!(ours.items, items.len() as u64, "items");
    assert!(
        ours.sanitized <= sanitized,
        "{} strings sanitized of {sanitized}",
        ours.sanitized
    );
    let mut rejected = ours.rejected.iter().peekable();
    for (ordinal, item) in items.iter().enumerate() {
        let got = rejected
            .next_if(|(at, _)| *at as usize == ordinal)
            .map(|(_, reason)| *reason);
        match (got, &item.reasons[..]) {
            (None, []) => {}
            (Some(reason), [first, ..]) if reason == *first => {}
            (got, reasons) => {
                panic!("item {ordinal}: rejected for {got:?}, expected the first of {reasons:?}\n{item:#?}")
            }
        }
    }
    assert_eq!(
        rejected.next(),
        None,
        "rejected ordinals out of order or beyond the items"
    );
    if signal == Signal::Traces {
        check_peek(bytes, &items);
        check_shown(bytes, &ours, arrival_ns, caps);
    }
    let around = Around {
        tenant: "acme",
        arrival_ns,
        caps,
    };
    let rows = table::rows(&truth, around);
    let series = table::series(&truth, &rows, around);
    check_columns(signal, bytes, &ours, &rows, &series, around);
}

fn check_columns(
    signal: Signal,
    bytes: &[u8],
    inspected: &Inspected,
    expected: &BTreeMap<Table, Vec<Row>>,
    series: &BTreeSet<String>,
    around: Around<'_>,
) {
    let rejected = inspected.ordinals();
    let info = RequestInfo {
        tenant: around.tenant,
        arrival_ns: around.arrival_ns,
        rejected: &rejected,
    };
    let choice = Choice::All(table::SAMPLING);
    let (pushed, batches) = match signal {
        Signal::Traces => {
            let mut columns = SpanColumns::new(around.caps.clone());
            let pushed = columns.push_request(bytes, &info, choice);
            assert_eq!(columns.len() as u64, inspected.accepted());
            let batches = columns.finish_sorted(|_, _| table::PART);
            (
                pushed,
                vec![(Table::Spans, batches.spans), (Table::Traces, batches.traces)],
            )
        }
        Signal::Logs => {
            let mut columns = LogColumns::new(around.caps.clone());
            let pushed = columns.push_request(bytes, &info, choice);
            (pushed, vec![(Table::Logs, columns.finish_sorted())])
        }
        Signal::Metrics => {
            let mut columns = MetricColumns::new(around.caps.clone());
            let pushed = columns.push_request(bytes, &info, &mut SeriesSeen::new(10_000));
            let batches = columns.finish_sorted();
            check_series(&batches, series);
            (
                pushed,
                vec![
                    (Table::MetricPoints, batches.points),
                    (Table::MetricDists, batches.dists),
                ],
            )
        }
    };
    let pushed = pushed.expect("inspect has accepted it");
    assert_eq!(pushed.rows, inspected.accepted(), "rows pushed");
    assert_eq!(pushed.refused, [], "the columns refuse items that inspect accepts");
    for (table, batch) in batches {
        assert_eq!(batch.schema(), frame_schema(table), "schema of {}", table.name());
        let actual = cell::rows(&batch);
        cell::assert_sorted(table.name(), sort_columns(table), &actual);
        cell::compare(table.name(), expected.get(&table).map_or(&[][..], |rows| rows), &actual);
    }
}

/// There is one row of `metric_series` a series and day that has points, and these rows say what was expected.
fn check_series(batches: &MetricBatches, expected: &BTreeSet<String>) {
    let rows = cell::rows(&batches.series);
    assert_eq!(batches.series.schema(), frame_schema(Table::MetricSeries));
    cell::assert_sorted("metric_series", sort_columns(Table::MetricSeries), &rows);
    let key = |row: &Row| format!("{:?} {:?}", row["series_id"], row["date"]);
    let with_points: BTreeSet<String> = cell::rows(&batches.points)
        .iter()
        .chain(&cell::rows(&batches.dists))
        .map(key)
        .collect();
    assert_eq!(
        rows.iter().map(key).collect::<BTreeSet<_>>(),
        with_points,
        "series with rows and series with points"
    );
    assert_eq!(rows.len(), with_points.len(), "rows of metric_series");
    assert_eq!(
        &rows.iter().map(table::series_of).collect::<BTreeSet<_>>(),
        expected,
        "rows of metric_series"
    );
}

/// What a push shows is what the peek shows of the spans that are not rejected, also to others beside.
fn check_shown(bytes: &[u8], inspected: &Inspected, arrival_ns: u64, caps: &Caps) {
    let long = "k".repeat(caps.key_bytes + 1);
    for asked in [&["a", "http.route", "service.version", ""][..], &["a", &long], &[]] {
        let keys = Arc::new(peek::Keys::new(asked));
        let other = peek::Keys::new(["b", "a"]);
        let rejected = inspected.ordinals();
        let (mut peeked, mut beside, mut shown) = (Vec::new(), Vec::new(), Vec::new());
        peek::spans(bytes, &keys, |span| {
            if !rejected.contains(&span.ordinal) {
                peeked.push(format!("{span:?}"));
            }
            true
        })
        .expect("inspected");
        peek::spans_for(bytes, [&other, &keys], |[_, span]| {
            if !rejected.contains(&span.ordinal) {
                beside.push(format!("{span:?}"));
            }
            true
        })
        .expect("inspected");
        let info = RequestInfo {
            tenant: "acme",
            arrival_ns,
            rejected: &rejected,
        };
        let choice = Choice::All(table::SAMPLING);
        SpanColumns::asking(caps.clone(), keys)
            .push_shown(bytes, &info, choice, |span| shown.push(format!("{span:?}")))
            .expect("inspected");
        assert_eq!(peeked, beside);
        assert_eq!(peeked, shown);
    }
}

fn check_peek(bytes: &[u8], items: &[Item]) {
    // Strings come raw from the peek; the truth has them sanitised.
    let text = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
    let keys = peek::Keys::new(["a", "http.route", "service.version", ""]);
    let mut seen = 0;
    // Those of every second place, one by one, are those among all.
    let (mut all, mut some) = (Vec::new(), Vec::new());
    peek::spans(bytes, &keys, |span| {
        all.push(format!("{:?}", span.head));
        true
    })
    .expect("a request");
    let places = (1..all.len() as u32).step_by(2);
    peek::spans_at(bytes, places.clone(), |head| some.push(format!("{head:?}"))).expect("a request");
    let expected: Vec<&String> = places.map(|place| &all[place as usize]).collect();
    assert_eq!(some.iter().collect::<Vec<_>>(), expected);
    peek::spans(bytes, &keys, |peek| {
        let Some(item) = items.get(seen) else {
            panic!("the peek shows more than {} spans", items.len())
        };
        let span = item.span.as_ref().expect("an item of a traces request is a span");
        assert_eq!(peek.ordinal as usize, seen);
        let head = peek.head;
        assert_eq!(head.trace_id, span.trace_id, "trace id of span {seen}");
        assert_eq!(head.span_id, span.span_id);
        assert_eq!(head.parent_span_id, span.parent_span_id);
        assert_eq!(text(head.trace_state), span.trace_state);
        assert_eq!(text(head.name), span.name);
        assert_eq!((head.kind, head.flags), (span.kind, span.flags));
        assert_eq!(
            (head.start, head.end),
            (span.start_time_unix_nano, span.end_time_unix_nano)
        );
        let status = span.status.clone().unwrap_or_default();
        assert_eq!(
            (head.status_code, text(head.status_message)),
            (status.code, status.message)
        );
        assert_eq!(
            (head.dropped_attributes, head.dropped_events, head.dropped_links),
            (
                span.dropped_attributes_count,
                span.dropped_events_count,
                span.dropped_links_count
            )
        );
        assert_eq!(
            text(peek.service_name),
            item.service_name,
            "service name of span {seen}"
        );
        assert_eq!(text(peek.service_namespace), item.service_namespace);
        let message = &bytes[peek.offset..peek.offset + peek.len];
        let alone =
            opentelemetry_proto::tonic::trace::v1::Span::decode(&wire::plain_span(message)[..]).expect("a span");
        // As bytes: a tree with a NaN is not equal to itself.
        assert_eq!(
            alone.encode_to_vec(),
            span.encode_to_vec(),
            "offset and length of span {seen}"
        );
        for (key, value) in ["a", "http.route", "service.version", ""].into_iter().zip(peek.values) {
            let expected = expect::looked_up(span, &item.resource, key);
            assert_eq!(
                value.map(|value| expect::any_text(&value.any())),
                expected,
                "{key:?} of span {seen}"
            );
        }
        seen += 1;
        true
    })
    .expect("inspect has accepted it");
    assert_eq!(seen, items.len(), "spans shown");
}
