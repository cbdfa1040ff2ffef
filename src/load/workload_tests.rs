//! Templates decode, with `opentelemetry-proto`, to what the workload promises; stamps land where they should.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::super::ids;
use super::super::stamp::Moment;
use super::*;

const NOW: u64 = 1_790_000_000_000_000_000;

fn workload(shape: Shape, form: Form) -> Workload {
    Workload {
        shape,
        form,
        services: if shape == Shape::Sspan { 10 } else { 8 },
        fill: Fill::Items(512),
        errors: 0.01,
        latency: Default::default(),
        series: 1_000,
        templates: 3,
        incident: None,
        seed: 11,
    }
}

fn moment(request: u64) -> Moment {
    Moment {
        seed: 5,
        request,
        link: request,
        now_ns: NOW + request,
        run_start_ns: NOW - 1,
    }
}

fn body(template: &Template, request: u64) -> Vec<u8> {
    let mut out = Vec::new();
    template.write(&moment(request), &mut out);
    assert_eq!(out.len(), template.len());
    out
}

fn spans(request: &ExportTraceServiceRequest) -> Vec<&Span> {
    request
        .resource_spans
        .iter()
        .flat_map(|part| &part.scope_spans)
        .flat_map(|scope| &scope.spans)
        .collect()
}

#[test]
fn an_s_span_is_440_bytes_with_10_and_12_attributes() {
    let templates = workload(Shape::Sspan, Form::Binary).templates(Signal::Traces);
    let bytes: usize = templates.iter().map(Template::len).sum();
    let each = bytes as f64 / (512.0 * templates.len() as f64);
    assert!((432.0..448.0).contains(&each), "{each} B a span");
    let request = ExportTraceServiceRequest::decode(&body(&templates[0], 1)[..]).unwrap();
    assert_eq!(spans(&request).len(), 512);
    assert!(spans(&request).iter().all(|span| span.attributes.len() == 10));
    assert!(
        request
            .resource_spans
            .iter()
            .all(|part| part.resource.as_ref().unwrap().attributes.len() == 12)
    );
}

#[test]
fn stamped_ids_are_those_of_the_request_and_never_repeat() {
    let template = &workload(Shape::Sspan, Form::Binary).templates(Signal::Traces)[0];
    let (mut seen, mut bodies) = (HashSet::new(), HashSet::new());
    for number in 0..5 {
        let bytes = body(template, number);
        let request = ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
        let spans = spans(&request);
        let own: HashSet<&[u8]> = spans.iter().map(|span| &span.span_id[..]).collect();
        assert_eq!(own.len(), 512);
        assert!((0..512).all(|item| own.contains(&ids::item_id(5, number, item)[..])));
        for span in &spans {
            assert!(seen.insert(span.span_id.clone()));
            assert!(span.parent_span_id.is_empty() || own.contains(&span.parent_span_id[..]));
            assert!((0..template.traces).any(|trace| ids::trace_id(5, number, trace) == span.trace_id[..]));
        }
        let first = hex::decode(template.first_id(&moment(number))).unwrap();
        assert!(own.contains(&first[..]), "the ledger names a span of the request");
        assert!(bodies.insert(bytes));
    }
}

#[test]
fn stamped_times_are_just_before_now_and_nest() {
    let template = &workload(Shape::Shop, Form::Binary).templates(Signal::Traces)[1];
    let request = ExportTraceServiceRequest::decode(&body(template, 9)[..]).unwrap();
    let spans = spans(&request);
    for span in &spans {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        assert!(span.end_time_unix_nano <= NOW + 9 && span.start_time_unix_nano > NOW - 5_000_000_000);
        if let Some(parent) = spans.iter().find(|parent| parent.span_id == span.parent_span_id) {
            assert!(parent.start_time_unix_nano <= span.start_time_unix_nano);
            assert!(span.end_time_unix_nano <= parent.end_time_unix_nano);
            assert_eq!(parent.trace_id, span.trace_id);
        }
    }
}

#[test]
fn json_and_protobuf_say_the_same() {
    for shape in [Shape::Sspan, Shape::Shop] {
        let binary = workload(shape, Form::Binary);
        let text = workload(shape, Form::Json);
        let pair = |signal| {
            (
                body(&binary.templates(signal)[0], 3),
                body(&text.templates(signal)[0], 3),
            )
        };
        let (proto, json) = pair(Signal::Traces);
        let json: ExportTraceServiceRequest = serde_json::from_slice(&json).unwrap();
        assert!(
            ExportTraceServiceRequest::decode(&proto[..]).unwrap() == json,
            "{shape:?} traces differ"
        );
        let (proto, json) = pair(Signal::Logs);
        let json: ExportLogsServiceRequest = serde_json::from_slice(&json).unwrap();
        assert!(
            ExportLogsServiceRequest::decode(&proto[..]).unwrap() == json,
            "{shape:?} logs differ"
        );
    }
}

#[test]
fn json_metrics_parse_and_count() {
    let template = &workload(Shape::Shop, Form::Json).templates(Signal::Metrics)[0];
    let request: ExportMetricsServiceRequest = serde_json::from_slice(&body(template, 3)).unwrap();
    assert_eq!(points(&request), 512);
}

fn points(request: &ExportMetricsServiceRequest) -> usize {
    let metrics = request
        .resource_metrics
        .iter()
        .flat_map(|part| &part.scope_metrics)
        .flat_map(|scope| &scope.metrics);
    metrics
        .map(|metric| match metric.data.as_ref().unwrap() {
            Data::Gauge(gauge) => gauge.data_points.len(),
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
                sum.data_points.len()
            }
            Data::Histogram(histogram) => {
                for point in &histogram.data_points {
                    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                }
                histogram.data_points.len()
            }
            other => panic!("not generated: {other:?}"),
        })
        .sum()
}

#[test]
fn metrics_cover_every_series_with_six_attributes() {
    let templates = workload(Shape::Sspan, Form::Binary).templates(Signal::Metrics);
    assert_eq!(templates.len(), 2);
    let mut series = HashSet::new();
    for template in &templates {
        let request = ExportMetricsServiceRequest::decode(&body(template, 4)[..]).unwrap();
        assert_eq!((points(&request), template.items), (512, 512));
        for part in &request.resource_metrics {
            let resource = format!("{:?}", part.resource);
            for metric in part.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                let points = match metric.data.as_ref().unwrap() {
                    Data::Gauge(gauge) => &gauge.data_points,
                    Data::Sum(sum) => &sum.data_points,
                    other => panic!("not in this workload: {other:?}"),
                };
                for point in points {
                    assert_eq!((point.attributes.len(), point.time_unix_nano), (6, NOW + 4));
                    series.insert(format!("{resource} {} {:?}", metric.name, point.attributes));
                }
            }
        }
    }
    assert_eq!(series.len(), 1_000);
}

#[test]
fn logs_are_300_bytes_and_belong_to_spans_of_the_linked_request() {
    let workload = workload(Shape::Sspan, Form::Binary);
    let traces = &workload.templates(Signal::Traces)[2];
    let logs = &workload.templates(Signal::Logs)[2];
    let each = logs.len() as f64 / 512.0;
    assert!((270.0..330.0).contains(&each), "{each} B a log");
    let mut out = Vec::new();
    logs.write(&Moment { link: 7, ..moment(8) }, &mut out);
    let request = ExportLogsServiceRequest::decode(&out[..]).unwrap();
    let of_spans = ExportTraceServiceRequest::decode(&body(traces, 7)[..]).unwrap();
    let known: HashSet<(Vec<u8>, Vec<u8>)> = spans(&of_spans)
        .iter()
        .map(|span| (span.trace_id.clone(), span.span_id.clone()))
        .collect();
    let records: Vec<_> = request
        .resource_logs
        .iter()
        .flat_map(|part| &part.scope_logs[0].log_records)
        .collect();
    assert_eq!(records.len(), 512);
    assert!(
        records
            .iter()
            .all(|log| known.contains(&(log.trace_id.clone(), log.span_id.clone())))
    );
    let uids: HashSet<_> = records.iter().map(|log| format!("{:?}", log.attributes[0])).collect();
    assert_eq!(uids.len(), 512);
}

#[test]
fn services_are_as_many_as_asked_for() {
    for services in [1, 5, 8, 20] {
        let workload = Workload {
            services,
            templates: 20,
            ..workload(Shape::Shop, Form::Binary)
        };
        let mut names = HashSet::new();
        for template in workload.templates(Signal::Traces) {
            let request = ExportTraceServiceRequest::decode(&body(&template, 1)[..]).unwrap();
            for part in request.resource_spans {
                names.insert(format!("{:?}", part.resource.unwrap().attributes[0].value));
            }
        }
        assert_eq!(names.len(), services);
    }
}

#[test]
fn whole_traces_are_not_cut() {
    let workload = Workload {
        fill: Fill::Traces(4),
        ..workload(Shape::Shop, Form::Binary)
    };
    let template = &workload.templates(Signal::Traces)[0];
    let request = ExportTraceServiceRequest::decode(&body(template, 1)[..]).unwrap();
    assert_eq!(
        spans(&request)
            .iter()
            .filter(|span| span.parent_span_id.is_empty())
            .count(),
        4
    );
    assert_eq!(template.traces, 4);
}
