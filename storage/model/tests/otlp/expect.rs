//! What a request's items should become, computed from prost's tree by plain code that shares nothing with the decoder under
//! test. Its sources are the documents (`design/reliability.md` rows 22-31, the columns' own sentences), not the decoder.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::*;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::reject::Reason;
use tailwater_model::otlp::value::Any;

use super::check::Truth;

/// A span, data point or log record of a request, in wire order.
#[derive(Debug)]
pub struct Item {
    pub span: Option<Span>,
    pub resource: Resource,
    pub service_name: String,
    pub service_namespace: String,
    /// Why it is rejected, in the order of the checks; empty when it is not.
    pub reasons: Vec<Reason>,
}

const NS_MAX: u64 = i64::MAX as u64;

pub fn items(truth: &Truth, arrival_ns: u64, caps: &Caps) -> Vec<Item> {
    let mut items = Vec::new();
    match truth {
        Truth::Traces(request) => {
            for group in &request.resource_spans {
                let resource = group.resource.clone().unwrap_or_default();
                for block in &group.scope_spans {
                    let scope = block.scope.clone().unwrap_or_default();
                    for span in &block.spans {
                        let mut reasons = origin_reasons(&resource, &scope, caps);
                        reasons.extend(span_reasons(span, caps));
                        items.push(item(Some(span), &resource, reasons));
                    }
                }
            }
        }
        Truth::Logs(request) => {
            for group in &request.resource_logs {
                let resource = group.resource.clone().unwrap_or_default();
                for block in &group.scope_logs {
                    let scope = block.scope.clone().unwrap_or_default();
                    for record in &block.log_records {
                        let mut reasons = origin_reasons(&resource, &scope, caps);
                        reasons.extend(log_reasons(record, caps));
                        items.push(item(None, &resource, reasons));
                    }
                }
            }
        }
        Truth::Metrics(request) => {
            for group in &request.resource_metrics {
                let resource = group.resource.clone().unwrap_or_default();
                for block in &group.scope_metrics {
                    let scope = block.scope.clone().unwrap_or_default();
                    for metric in &block.metrics {
                        for point in points(metric) {
                            let mut reasons = origin_reasons(&resource, &scope, caps);
                            reasons.extend(point_reasons(&point, arrival_ns, caps));
                            items.push(item(None, &resource, reasons));
                        }
                    }
                }
            }
        }
    }
    items
}

fn item(span: Option<&Span>, resource: &Resource, reasons: Vec<Reason>) -> Item {
    let first = |key: &str| match resource
        .attributes
        .iter()
        .find(|pair| pair.key == key)
        .and_then(|pair| pair.value.as_ref())
    {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => text.clone(),
        _ => String::new(),
    };
    Item {
        span: span.cloned(),
        resource: resource.clone(),
        service_name: first("service.name"),
        service_namespace: first("service.namespace"),
        reasons,
    }
}

/// A data point of any kind.
#[derive(Debug, Clone, Copy)]
pub enum Point<'a> {
    Number(&'a NumberDataPoint),
    Histogram(&'a HistogramDataPoint),
    Exponential(&'a ExponentialHistogramDataPoint),
    Summary(&'a SummaryDataPoint),
}

pub fn points(metric: &Metric) -> Vec<Point<'_>> {
    match &metric.data {
        None => vec![],
        Some(Data::Gauge(data)) => data.data_points.iter().map(Point::Number).collect(),
        Some(Data::Sum(data)) => data.data_points.iter().map(Point::Number).collect(),
        Some(Data::Histogram(data)) => data.data_points.iter().map(Point::Histogram).collect(),
        Some(Data::ExponentialHistogram(data)) => data.data_points.iter().map(Point::Exponential).collect(),
        Some(Data::Summary(data)) => data.data_points.iter().map(Point::Summary).collect(),
    }
}

fn origin_reasons(resource: &Resource, scope: &InstrumentationScope, caps: &Caps) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for (size, attributes) in [
        (resource.encoded_len(), &resource.attributes),
        (scope.encoded_len(), &scope.attributes),
    ] {
        if size > caps.item_bytes {
            reasons.push(Reason::TooLarge);
        }
        if deepest(attributes) > caps.depth {
            reasons.push(Reason::TooDeep);
        }
    }
    reasons
}

fn span_reasons(span: &Span, caps: &Caps) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut when = |condition: bool, reason: Reason| {
        if condition {
            reasons.push(reason);
        }
    };
    when(span.encoded_len() > caps.item_bytes, Reason::TooLarge);
    when(
        span.trace_id.len() != 16 || span.trace_id.iter().all(|byte| *byte == 0),
        Reason::InvalidTraceId,
    );
    when(
        span.span_id.len() != 8 || span.span_id.iter().all(|byte| *byte == 0),
        Reason::InvalidSpanId,
    );
    when(![0, 8].contains(&span.parent_span_id.len()), Reason::InvalidParentId);
    when(
        span.start_time_unix_nano > NS_MAX || span.end_time_unix_nano > NS_MAX,
        Reason::TimestampOverflow,
    );
    let depth = std::iter::once(&span.attributes)
        .chain(span.events.iter().map(|event| &event.attributes))
        .chain(span.links.iter().map(|link| &link.attributes))
        .map(|attributes| deepest(attributes))
        .max();
    when(depth > Some(caps.depth), Reason::TooDeep);
    reasons
}

fn log_reasons(record: &LogRecord, caps: &Caps) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if record.encoded_len() > caps.item_bytes {
        reasons.push(Reason::TooLarge);
    }
    if record.time_unix_nano > NS_MAX || record.observed_time_unix_nano > NS_MAX {
        reasons.push(Reason::TimestampOverflow);
    }
    if deepest(&record.attributes).max(record.body.as_ref().map_or(0, depth)) > caps.depth {
        reasons.push(Reason::TooDeep);
    }
    reasons
}

fn point_reasons(point: &Point<'_>, arrival_ns: u64, caps: &Caps) -> Vec<Reason> {
    let (size, start, time, attributes, exemplars): (_, _, _, _, &[Exemplar]) = match point {
        Point::Number(point) => (
            point.encoded_len(),
            point.start_time_unix_nano,
            point.time_unix_nano,
            &point.attributes,
            &point.exemplars,
        ),
        Point::Histogram(point) => (
            point.encoded_len(),
            point.start_time_unix_nano,
            point.time_unix_nano,
            &point.attributes,
            &point.exemplars,
        ),
        Point::Exponential(point) => (
            point.encoded_len(),
            point.start_time_unix_nano,
            point.time_unix_nano,
            &point.attributes,
            &point.exemplars,
        ),
        Point::Summary(point) => (
            point.encoded_len(),
            point.start_time_unix_nano,
            point.time_unix_nano,
            &point.attributes,
            &[],
        ),
    };
    let depth = exemplars
        .iter()
        .map(|exemplar| deepest(&exemplar.filtered_attributes))
        .fold(deepest(attributes), usize::max);
    let mut reasons = Vec::new();
    let mut when = |condition: bool, reason: Reason| {
        if condition {
            reasons.push(reason);
        }
    };
    when(size > caps.item_bytes, Reason::TooLarge);
    when(time == 0, Reason::ZeroTimestamp);
    when(time > NS_MAX || start > NS_MAX, Reason::TimestampOverflow);
    when(
        i128::from(time) > i128::from(arrival_ns) + i128::from(caps.future_ns),
        Reason::Future,
    );
    when(
        i128::from(time) < i128::from(arrival_ns) - i128::from(caps.past_ns),
        Reason::Past,
    );
    when(depth > caps.depth, Reason::TooDeep);
    match point {
        Point::Number(_) => {}
        Point::Histogram(point) => {
            let bounds = &point.explicit_bounds;
            let buckets = match point.bucket_counts.len() {
                0 => bounds.is_empty(),
                counts => counts == bounds.len() + 1,
            };
            let ascending = (1..bounds.len()).all(|place| bounds[place - 1] < bounds[place])
                && !bounds.iter().any(|bound| bound.is_nan());
            let stored = point.count <= NS_MAX && point.bucket_counts.iter().all(|count| *count <= NS_MAX);
            when(!(buckets && ascending && stored), Reason::BadHistogram);
        }
        Point::Exponential(point) => {
            let mut good = point.scale >= -10 && point.scale <= 20;
            good &= point.zero_threshold >= 0.0;
            good &= point.count <= NS_MAX && point.zero_count <= NS_MAX;
            for side in [&point.positive, &point.negative].into_iter().flatten() {
                good &= i128::from(side.offset) + side.bucket_counts.len() as i128 <= i128::from(i32::MAX);
                good &= side.bucket_counts.iter().all(|count| *count <= NS_MAX);
            }
            when(!good, Reason::BadExponentialHistogram);
        }
        Point::Summary(point) => {
            let good = point
                .quantile_values
                .iter()
                .all(|value| value.quantile >= 0.0 && value.quantile <= 1.0);
            when(!good || point.count > NS_MAX, Reason::BadSummary);
        }
    }
    reasons
}

fn deepest(attributes: &[KeyValue]) -> usize {
    attributes
        .iter()
        .filter_map(|pair| pair.value.as_ref())
        .map(depth)
        .max()
        .unwrap_or(0)
}

/// AnyValues within one another; a scalar is 1.
fn depth(any: &AnyValue) -> usize {
    1 + match &any.value {
        Some(Value::ArrayValue(list)) => list.values.iter().map(depth).max().unwrap_or(0),
        Some(Value::KvlistValue(list)) => deepest(&list.values),
        _ => 0,
    }
}

/// The value of the first attribute of this key, of the span or else of its resource, as [`any_text`] shows it.
pub fn looked_up(span: &Span, resource: &Resource, key: &str) -> Option<String> {
    let find = |attributes: &[KeyValue]| {
        attributes
            .iter()
            .find(|pair| pair.key == key)
            .map(|pair| pair.value.clone().unwrap_or_default())
    };
    find(&span.attributes)
        .or_else(|| find(&resource.attributes))
        .map(|any| match any.value {
            None | Some(Value::StringValueStrindex(_)) => "empty".to_owned(),
            Some(Value::StringValue(text)) => format!("{text:?}"),
            Some(Value::BoolValue(value)) => value.to_string(),
            Some(Value::IntValue(value)) => value.to_string(),
            Some(Value::DoubleValue(value)) => format!("double {:x}", value.to_bits()),
            Some(Value::BytesValue(bytes)) => format!("{bytes:x?}"),
            Some(Value::ArrayValue(_)) => "array".to_owned(),
            Some(Value::KvlistValue(_)) => "kvlist".to_owned(),
        })
}

/// A peeked value in the words of [`looked_up`].
pub fn any_text(any: &Any<'_>) -> String {
    match any {
        Any::Empty => "empty".to_owned(),
        Any::Str(raw) => format!("{:?}", String::from_utf8_lossy(raw)),
        Any::Bool(value) => value.to_string(),
        Any::Int(value) => value.to_string(),
        Any::Double(value) => format!("double {:x}", value.to_bits()),
        Any::Bytes(bytes) => format!("{bytes:x?}"),
        Any::Array(_) => "array".to_owned(),
        Any::Kvlist(_) => "kvlist".to_owned(),
    }
}
