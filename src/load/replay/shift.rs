//! Every time of a recorded request, to be looked at or moved. A time of 0 means "not said" and is not visited.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, Metric};
use opentelemetry_proto::tonic::trace::v1::Span;

use super::Recorded;

/// A time moved by so many nanoseconds, kept within what a time can be.
pub fn moved(time_ns: u64, by_ns: i128) -> u64 {
    (i128::from(time_ns) + by_ns).clamp(1, u64::MAX.into()) as u64
}

/// The spans of a request.
pub fn spans(request: &ExportTraceServiceRequest) -> impl Iterator<Item = &Span> {
    request
        .resource_spans
        .iter()
        .flat_map(|part| &part.scope_spans)
        .flat_map(|scope| &scope.spans)
}

/// The number of points of a request.
pub fn points(request: &ExportMetricsServiceRequest) -> u64 {
    let scopes = request.resource_metrics.iter().flat_map(|part| &part.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics);
    metrics
        .filter_map(|metric| metric.data.as_ref())
        .map(|data| points_of(data) as u64)
        .sum()
}

fn points_of(data: &Data) -> usize {
    match data {
        Data::Gauge(data) => data.data_points.len(),
        Data::Sum(data) => data.data_points.len(),
        Data::Histogram(data) => data.data_points.len(),
        Data::ExponentialHistogram(data) => data.data_points.len(),
        Data::Summary(data) => data.data_points.len(),
    }
}

/// Visits every time that is said.
pub fn times(request: &mut Recorded, visit: &mut dyn FnMut(&mut u64)) {
    let visit = &mut |time: &mut u64| {
        if *time != 0 {
            visit(time);
        }
    };
    match request {
        Recorded::Traces(request) => {
            let scopes = request.resource_spans.iter_mut().flat_map(|part| &mut part.scope_spans);
            for span in scopes.flat_map(|scope| &mut scope.spans) {
                visit(&mut span.start_time_unix_nano);
                visit(&mut span.end_time_unix_nano);
                span.events
                    .iter_mut()
                    .for_each(|event| visit(&mut event.time_unix_nano));
            }
        }
        Recorded::Logs(request) => {
            let scopes = request.resource_logs.iter_mut().flat_map(|part| &mut part.scope_logs);
            for log in scopes.flat_map(|scope| &mut scope.log_records) {
                visit(&mut log.time_unix_nano);
                visit(&mut log.observed_time_unix_nano);
            }
        }
        Recorded::Metrics(request) => {
            let scopes = request
                .resource_metrics
                .iter_mut()
                .flat_map(|part| &mut part.scope_metrics);
            scopes
                .flat_map(|scope| &mut scope.metrics)
                .for_each(|metric| metric_times(metric, visit));
        }
    }
}

fn metric_times(metric: &mut Metric, visit: &mut dyn FnMut(&mut u64)) {
    macro_rules! points {
        ($data:expr $(, $exemplars:ident)?) => {
            for point in &mut $data.data_points {
                visit(&mut point.start_time_unix_nano);
                visit(&mut point.time_unix_nano);
                $(point.$exemplars.iter_mut().for_each(|exemplar: &mut Exemplar| visit(&mut exemplar.time_unix_nano));)?
            }
        };
    }
    match &mut metric.data {
        Some(Data::Gauge(data)) => points!(data, exemplars),
        Some(Data::Sum(data)) => points!(data, exemplars),
        Some(Data::Histogram(data)) => points!(data, exemplars),
        Some(Data::ExponentialHistogram(data)) => points!(data, exemplars),
        Some(Data::Summary(data)) => points!(data),
        None => {}
    }
}
