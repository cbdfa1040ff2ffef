//! Requests for property tests: every field of all three signals, with the values that trouble a receiver.
//!
//! Sizes are small on purpose: a property has to see many shapes, not large ones. Limits are tested with small caps.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::*;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tailwater_model::table::{Table, promote};

// Most generated times lie around the arrival.
use crate::check::ARRIVAL_NS;

const DAY_NS: u64 = 24 * 3600 * 1_000_000_000;

fn text() -> BoxedStrategy<String> {
    prop_oneof![
        4 => "[a-z]{0,8}",
        1 => Just(String::new()),
        1 => "[ -~]{0,20}",
        1 => "\\PC{0,12}",
        1 => Just("nul \0 quote \" back \\ tab \t newline \n ctl \u{1}".to_owned()),
        // Longer than one length byte.
        1 => "[a-zäöü]{100,200}",
    ]
    .boxed()
}

/// Keys collide often, and are often promoted.
fn key() -> BoxedStrategy<String> {
    let promoted: Vec<&'static str> = promote::RESOURCE
        .iter()
        .chain(promote::item(Table::Spans))
        .chain(promote::item(Table::Logs))
        .chain(promote::item(Table::MetricPoints))
        .map(|promotion| promotion.key)
        .collect();
    prop_oneof![
        3 => "[a-e]".prop_map(String::from),
        3 => proptest::sample::select(promoted).prop_map(String::from),
        1 => text(),
    ]
    .boxed()
}

fn double() -> BoxedStrategy<f64> {
    prop_oneof![
        3 => -1000.0..1000.0f64,
        2 => any::<f64>(),
        1 => proptest::sample::select(vec![
            0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, 9_007_199_254_740_993.0,
            // The stale marker of Prometheus: a NaN with a payload.
            f64::from_bits(0x7ff0_0000_0000_0002),
        ]),
    ]
    .boxed()
}

fn int() -> BoxedStrategy<i64> {
    prop_oneof![
        3 => -1000i64..1000,
        1 => any::<i64>(),
        1 => proptest::sample::select(vec![0, i64::MIN, i64::MAX, 9_007_199_254_740_993, 200, i64::from(i32::MAX) + 1]),
    ]
    .boxed()
}

fn count32() -> BoxedStrategy<u32> {
    prop_oneof![3 => Just(0), 2 => 0u32..10, 1 => any::<u32>(), 1 => Just(u32::MAX)].boxed()
}

fn count64() -> BoxedStrategy<u64> {
    prop_oneof![6 => 0u64..100, 1 => Just(0), 1 => any::<u64>(), 1 => Just(i64::MAX as u64), 1 => Just(i64::MAX as u64 + 1)].boxed()
}

pub fn time() -> BoxedStrategy<u64> {
    prop_oneof![
        8 => ARRIVAL_NS - 3600 * 1_000_000_000..ARRIVAL_NS,
        1 => Just(0),
        // The edges of "not to be trusted": ten minutes ahead, thirty days behind.
        1 => ARRIVAL_NS + 600_000_000_000 - 1..=ARRIVAL_NS + 600_000_000_000 + 1,
        1 => ARRIVAL_NS - 30 * DAY_NS - 1..=ARRIVAL_NS - 30 * DAY_NS + 1,
        1 => any::<u64>(),
        1 => Just(i64::MAX as u64),
        1 => Just(i64::MAX as u64 + 1),
        1 => Just(999),
    ]
    .boxed()
}

fn id(len: usize) -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        16 => vec(any::<u8>(), len),
        1 => Just(vec![]),
        1 => Just(vec![0; len]),
        1 => vec(any::<u8>(), 0..34),
    ]
    .boxed()
}

fn scalar() -> BoxedStrategy<AnyValue> {
    option::weighted(
        0.9,
        prop_oneof![
            4 => text().prop_map(Value::StringValue),
            1 => any::<bool>().prop_map(Value::BoolValue),
            2 => int().prop_map(Value::IntValue),
            2 => double().prop_map(Value::DoubleValue),
            1 => vec(any::<u8>(), 0..10).prop_map(Value::BytesValue),
        ],
    )
    .prop_map(|value| AnyValue { value })
    .boxed()
}

pub fn any_value() -> BoxedStrategy<AnyValue> {
    let nested = scalar().prop_recursive(4, 12, 3, |inner| {
        let pair = (text(), option::weighted(0.9, inner.clone())).prop_map(|(key, value)| KeyValue {
            key,
            value,
            key_strindex: 0,
        });
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec(pair, 0..4).prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    });
    prop_oneof![4 => scalar(), 1 => nested].boxed()
}

pub fn attributes() -> BoxedStrategy<Vec<KeyValue>> {
    let pair = (
        key(),
        option::weighted(0.95, any_value()),
        prop_oneof![9 => Just(0), 1 => any::<i32>()],
    )
        .prop_map(|(key, value, key_strindex)| KeyValue {
            key,
            value,
            key_strindex,
        });
    prop_oneof![4 => vec(pair.clone(), 0..5), 1 => vec(pair, 5..12)].boxed()
}

fn resource() -> BoxedStrategy<Option<Resource>> {
    let entity = (text(), text(), vec(text(), 0..3)).prop_map(|(schema_url, r#type, id_keys)| EntityRef {
        schema_url,
        r#type,
        id_keys,
        description_keys: vec![],
    });
    let resource =
        (attributes(), count32(), vec(entity, 0..2)).prop_map(|(attributes, dropped_attributes_count, entity_refs)| {
            Resource {
                attributes,
                dropped_attributes_count,
                entity_refs,
            }
        });
    option::weighted(0.9, resource).boxed()
}

fn scope() -> BoxedStrategy<Option<InstrumentationScope>> {
    let scope =
        (text(), text(), attributes(), count32()).prop_map(|(name, version, attributes, dropped_attributes_count)| {
            InstrumentationScope {
                name,
                version,
                attributes,
                dropped_attributes_count,
            }
        });
    option::weighted(0.9, scope).boxed()
}

fn flags() -> BoxedStrategy<u32> {
    prop_oneof![2 => Just(0), 2 => 0u32..0x400, 1 => any::<u32>()].boxed()
}

/// Enum numbers: mostly those that exist, but an enum is open.
fn number(below: i32) -> BoxedStrategy<i32> {
    prop_oneof![8 => 0..below, 1 => any::<i32>(), 1 => -3..300].boxed()
}

fn span() -> BoxedStrategy<Span> {
    let event = (time(), text(), attributes(), count32()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    );
    let link = (id(16), id(8), text(), attributes(), count32(), flags()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    );
    let status = option::of((text(), number(3)).prop_map(|(message, code)| Status { message, code }));
    let parent = prop_oneof![1 => Just(vec![]), 2 => id(8)];
    let who = (id(16), id(8), parent, text(), flags());
    let what = (text(), number(6), time(), time(), attributes(), count32());
    let more = (vec(event, 0..4), count32(), vec(link, 0..4), count32(), status);
    (who, what, more)
        .prop_map(|(who, what, more)| Span {
            trace_id: who.0,
            span_id: who.1,
            parent_span_id: who.2,
            trace_state: who.3,
            flags: who.4,
            name: what.0,
            kind: what.1,
            start_time_unix_nano: what.2,
            end_time_unix_nano: what.3,
            attributes: what.4,
            dropped_attributes_count: what.5,
            events: more.0,
            dropped_events_count: more.1,
            links: more.2,
            dropped_links_count: more.3,
            status: more.4,
        })
        .boxed()
}

pub fn traces() -> BoxedStrategy<ExportTraceServiceRequest> {
    let scope_spans = (scope(), vec(span(), 0..4), text()).prop_map(|(scope, spans, schema_url)| ScopeSpans {
        scope,
        spans,
        schema_url,
    });
    let resource_spans =
        (resource(), vec(scope_spans, 0..3), text()).prop_map(|(resource, scope_spans, schema_url)| ResourceSpans {
            resource,
            scope_spans,
            schema_url,
        });
    vec(resource_spans, 0..3)
        .prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
        .boxed()
}

fn log_record() -> BoxedStrategy<LogRecord> {
    let when = (time(), time());
    let what = (
        number(25),
        text(),
        option::weighted(0.8, any_value()),
        attributes(),
        count32(),
        flags(),
        text(),
    );
    (when, what, id(16), id(8))
        .prop_map(|(when, what, trace_id, span_id)| LogRecord {
            time_unix_nano: when.0,
            observed_time_unix_nano: when.1,
            severity_number: what.0,
            severity_text: what.1,
            body: what.2,
            attributes: what.3,
            dropped_attributes_count: what.4,
            flags: what.5,
            trace_id,
            span_id,
            event_name: what.6,
        })
        .boxed()
}

pub fn logs() -> BoxedStrategy<ExportLogsServiceRequest> {
    let scope_logs =
        (scope(), vec(log_record(), 0..4), text()).prop_map(|(scope, log_records, schema_url)| ScopeLogs {
            scope,
            log_records,
            schema_url,
        });
    let resource_logs =
        (resource(), vec(scope_logs, 0..3), text()).prop_map(|(resource, scope_logs, schema_url)| ResourceLogs {
            resource,
            scope_logs,
            schema_url,
        });
    vec(resource_logs, 0..3)
        .prop_map(|resource_logs| ExportLogsServiceRequest { resource_logs })
        .boxed()
}

fn exemplars() -> BoxedStrategy<Vec<Exemplar>> {
    let value = option::weighted(
        0.9,
        prop_oneof![
            double().prop_map(exemplar::Value::AsDouble),
            int().prop_map(exemplar::Value::AsInt)
        ],
    );
    let exemplar = (attributes(), time(), id(8), id(16), value).prop_map(
        |(filtered_attributes, time_unix_nano, span_id, trace_id, value)| Exemplar {
            filtered_attributes,
            time_unix_nano,
            span_id,
            trace_id,
            value,
        },
    );
    prop_oneof![3 => Just(vec![]), 1 => vec(exemplar, 0..3)].boxed()
}

/// Start, time, attributes, flags, exemplars: what every point has.
type PointParts = (u64, u64, Vec<KeyValue>, u32, Vec<Exemplar>);

fn point() -> BoxedStrategy<PointParts> {
    let start = prop_oneof![1 => Just(0), 2 => time()];
    // A point's time decides whether it is taken at all; most should be.
    let at = prop_oneof![4 => ARRIVAL_NS - DAY_NS..ARRIVAL_NS, 1 => time()];
    (
        start,
        at,
        attributes(),
        prop_oneof![Just(0u32), Just(1), any::<u32>()],
        exemplars(),
    )
        .boxed()
}

fn number_point() -> BoxedStrategy<NumberDataPoint> {
    let value = option::weighted(
        0.9,
        prop_oneof![
            double().prop_map(number_data_point::Value::AsDouble),
            int().prop_map(number_data_point::Value::AsInt)
        ],
    );
    (point(), value)
        .prop_map(
            |((start_time_unix_nano, time_unix_nano, attributes, flags, exemplars), value)| NumberDataPoint {
                attributes,
                start_time_unix_nano,
                time_unix_nano,
                exemplars,
                flags,
                value,
            },
        )
        .boxed()
}

/// Bounds and counts, mostly of a histogram that makes sense.
fn buckets() -> BoxedStrategy<(Vec<u64>, Vec<f64>)> {
    let good = vec((0u64..100, 0.1..10.0f64), 0..6).prop_map(|pairs| {
        let mut at = -5.0;
        let bounds: Vec<f64> = pairs
            .iter()
            .map(|(_, step)| {
                at += step;
                at
            })
            .collect();
        let mut counts: Vec<u64> = pairs.iter().map(|(count, _)| *count).collect();
        counts.push(3);
        (counts, bounds)
    });
    prop_oneof![
        6 => good,
        1 => Just((vec![], vec![])),
        1 => (vec(count64(), 0..4), vec(double(), 0..4)),
    ]
    .boxed()
}

fn histogram_point() -> BoxedStrategy<HistogramDataPoint> {
    let count = prop_oneof![3 => Just(None), 1 => count64().prop_map(Some)];
    (
        point(),
        count,
        buckets(),
        option::of(double()),
        option::of(double()),
        option::of(double()),
    )
        .prop_map(
            |(
                (start_time_unix_nano, time_unix_nano, attributes, flags, exemplars),
                count,
                (bucket_counts, explicit_bounds),
                sum,
                min,
                max,
            )| {
                let total = bucket_counts
                    .iter()
                    .fold(0u64, |total, count| total.wrapping_add(*count));
                HistogramDataPoint {
                    attributes,
                    start_time_unix_nano,
                    time_unix_nano,
                    count: count.unwrap_or(total),
                    sum,
                    bucket_counts,
                    explicit_bounds,
                    exemplars,
                    flags,
                    min,
                    max,
                }
            },
        )
        .boxed()
}

fn exponential_point() -> BoxedStrategy<ExponentialHistogramDataPoint> {
    let offset = || prop_oneof![6 => -50..50i32, 1 => any::<i32>()];
    let counts = || prop_oneof![6 => vec(0u64..1000, 0..5), 1 => vec(count64(), 0..3)];
    let side =
        move || option::of((offset(), counts()).prop_map(|(offset, bucket_counts)| Buckets { offset, bucket_counts }));
    let scale = prop_oneof![6 => -10..=20i32, 1 => any::<i32>(), 1 => proptest::sample::select(vec![-11, 21])];
    let zero = (
        prop_oneof![6 => 0u64..10, 1 => count64()],
        prop_oneof![3 => Just(0.0), 1 => double()],
    );
    let count = prop_oneof![3 => Just(None), 1 => count64().prop_map(Some)];
    let ends = (option::of(double()), option::of(double()), option::of(double()));
    (point(), scale, zero, side(), side(), count, ends)
        .prop_map(
            |(
                (start_time_unix_nano, time_unix_nano, attributes, flags, exemplars),
                scale,
                zero,
                positive,
                negative,
                count,
                ends,
            )| {
                let sum_of = |side: &Option<Buckets>| {
                    side.iter()
                        .flat_map(|side| &side.bucket_counts)
                        .fold(0u64, |total, count| total.wrapping_add(*count))
                };
                let total = sum_of(&positive).wrapping_add(sum_of(&negative)).wrapping_add(zero.0);
                ExponentialHistogramDataPoint {
                    attributes,
                    start_time_unix_nano,
                    time_unix_nano,
                    count: count.unwrap_or(total),
                    sum: ends.0,
                    scale,
                    zero_count: zero.0,
                    positive,
                    negative,
                    flags,
                    exemplars,
                    min: ends.1,
                    max: ends.2,
                    zero_threshold: zero.1,
                }
            },
        )
        .boxed()
}

fn summary_point() -> BoxedStrategy<SummaryDataPoint> {
    let quantile = prop_oneof![6 => 0.0..=1.0f64, 1 => double()];
    let value = (quantile, double()).prop_map(|(quantile, value)| ValueAtQuantile { quantile, value });
    (point(), count64(), double(), vec(value, 0..4))
        .prop_map(
            |((start_time_unix_nano, time_unix_nano, attributes, flags, _), count, sum, quantile_values)| {
                SummaryDataPoint {
                    attributes,
                    start_time_unix_nano,
                    time_unix_nano,
                    count,
                    sum,
                    quantile_values,
                    flags,
                }
            },
        )
        .boxed()
}

fn metric() -> BoxedStrategy<Metric> {
    use metric::Data;
    let data = option::weighted(
        0.95,
        prop_oneof![
            vec(number_point(), 0..4).prop_map(|data_points| Data::Gauge(Gauge { data_points })),
            (vec(number_point(), 0..4), number(3), any::<bool>()).prop_map(
                |(data_points, aggregation_temporality, is_monotonic)| {
                    Data::Sum(Sum {
                        data_points,
                        aggregation_temporality,
                        is_monotonic,
                    })
                }
            ),
            (vec(histogram_point(), 0..4), number(3)).prop_map(|(data_points, aggregation_temporality)| {
                Data::Histogram(Histogram {
                    data_points,
                    aggregation_temporality,
                })
            }),
            (vec(exponential_point(), 0..4), number(3)).prop_map(|(data_points, aggregation_temporality)| {
                Data::ExponentialHistogram(ExponentialHistogram {
                    data_points,
                    aggregation_temporality,
                })
            }),
            vec(summary_point(), 0..4).prop_map(|data_points| Data::Summary(Summary { data_points })),
        ],
    );
    (text(), text(), text(), attributes(), data)
        .prop_map(|(name, description, unit, metadata, data)| Metric {
            name,
            description,
            unit,
            metadata,
            data,
        })
        .boxed()
}

pub fn metrics() -> BoxedStrategy<ExportMetricsServiceRequest> {
    let scope_metrics = (scope(), vec(metric(), 0..4), text()).prop_map(|(scope, metrics, schema_url)| ScopeMetrics {
        scope,
        metrics,
        schema_url,
    });
    let resource_metrics =
        (resource(), vec(scope_metrics, 0..3), text()).prop_map(|(resource, scope_metrics, schema_url)| {
            ResourceMetrics {
                resource,
                scope_metrics,
                schema_url,
            }
        });
    vec(resource_metrics, 0..3)
        .prop_map(|resource_metrics| ExportMetricsServiceRequest { resource_metrics })
        .boxed()
}
