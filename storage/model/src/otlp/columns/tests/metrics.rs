use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
};
use prost::Message as _;

use super::*;
use crate::otlp::caps::Caps;
use crate::otlp::columns::{MetricBatches, MetricColumns, Pushed, SeriesSeen};
use crate::otlp::peek;
use crate::otlp::reject::Reason;
use crate::signal::Signal;

pub(super) fn request(data: Vec<Data>) -> Vec<u8> {
    let metric = |data| Metric {
        name: "m".into(),
        unit: "s".into(),
        description: "d".into(),
        data: Some(data),
        ..Metric::default()
    };
    let metrics = data.into_iter().map(metric).collect();
    let scope_metrics = vec![ScopeMetrics {
        scope: scope("lib", "1"),
        metrics,
        ..ScopeMetrics::default()
    }];
    let origin = resource(vec![("service.name", text("shop")), ("zone", text("z"))]);
    let resource_metrics = vec![ResourceMetrics {
        resource: origin,
        scope_metrics,
        ..ResourceMetrics::default()
    }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

pub(super) fn number(value: Number) -> NumberDataPoint {
    NumberDataPoint {
        time_unix_nano: NOW - 1,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

pub(super) fn gauge(data_points: Vec<NumberDataPoint>) -> Data {
    Data::Gauge(Gauge { data_points })
}

fn histogram(counts: &[u64], bounds: &[f64]) -> HistogramDataPoint {
    HistogramDataPoint {
        time_unix_nano: NOW,
        count: counts.iter().fold(0, |sum, count| sum.wrapping_add(*count)),
        bucket_counts: counts.into(),
        explicit_bounds: bounds.into(),
        ..HistogramDataPoint::default()
    }
}

fn exponential(scale: i32, offset: i32) -> ExponentialHistogramDataPoint {
    ExponentialHistogramDataPoint {
        time_unix_nano: NOW,
        count: 6,
        scale,
        zero_count: 1,
        zero_threshold: 0.25,
        positive: Some(Buckets {
            offset,
            bucket_counts: vec![2, 300],
        }),
        negative: Some(Buckets {
            offset: -3,
            bucket_counts: vec![],
        }),
        ..ExponentialHistogramDataPoint::default()
    }
}

fn decode(payload: &[u8]) -> (Pushed, MetricBatches) {
    decode_with(payload, &mut SeriesSeen::new(100))
}

fn decode_with(payload: &[u8], seen: &mut SeriesSeen) -> (Pushed, MetricBatches) {
    let caps = Caps::default();
    let inspected = peek::inspect(Signal::Metrics, payload, NOW, &caps).unwrap();
    let mut columns = MetricColumns::new(caps);
    let pushed = columns.push_request(payload, &info("default"), seen).unwrap();
    assert_eq!(pushed.refused, inspected.rejected);
    assert_eq!(pushed.rows, inspected.accepted());
    let batches = columns.finish_sorted();
    check_sound(&batches.points, Table::MetricPoints);
    check_sound(&batches.dists, Table::MetricDists);
    check_sound(&batches.series, Table::MetricSeries);
    (pushed, batches)
}

#[test]
fn every_field_of_a_number_has_its_place() {
    let example = Exemplar {
        filtered_attributes: attrs(vec![("f", Value::IntValue(4))]),
        time_unix_nano: NOW + 7,
        span_id: vec![2; 8],
        trace_id: vec![],
        value: Some(exemplar::Value::AsInt(9)),
    };
    let point = NumberDataPoint {
        start_time_unix_nano: NOW - 1_000_000_001,
        attributes: attrs(vec![
            ("http.route", text("/r")),
            ("k", text("v")),
            ("n", Value::IntValue(2)),
        ]),
        exemplars: vec![example],
        flags: 1,
        ..number(Number::AsDouble(1.5))
    };
    let sum = Data::Sum(Sum {
        data_points: vec![point],
        aggregation_temporality: 2,
        is_monotonic: true,
    });
    let (_, batches) = decode(&request(vec![sum]));
    check_row(
        &batches.points,
        &[
            ("date", "20453"),
            ("ts", "1767225599999999"),
            ("ts_ns", "999"),
            ("start_ts", "1767225598999999"),
            ("start_ts_ns", "999"),
            ("metric_name", "m"),
            ("type", "2"),
            ("temporality", "2"),
            ("monotonic", "true"),
            ("unit", "s"),
            ("flags", "1"),
            ("value", "1.5"),
            ("value_int", "null"),
            ("is_int", "false"),
            ("service_name", "shop"),
            ("http_route", "/r"),
            ("attrs_str", "{k: v}"),
            ("attrs_int", "{n: 2}"),
            ("resource_attrs", "{zone: z}"),
            ("scope_name", "lib"),
            (
                "exemplars",
                "[(ts: 1767225600000000, ts_ns: 7, value: 9.0, trace_id: null, span_id: 0202020202020202, attrs: {f: 4})]",
            ),
        ],
    );
    check_row(
        &batches.series,
        &[
            ("metric_name", "m"),
            ("type", "2"),
            ("temporality", "2"),
            ("monotonic", "true"),
            ("unit", "s"),
            ("description", "d"),
            ("service_name", "shop"),
            (
                "labels",
                "{http.route: /r, k: v, n: 2, resource.service.name: shop, resource.zone: z, scope.name: lib, scope.version: 1}",
            ),
            ("first_ts", "1767225599999999"),
        ],
    );
    assert_eq!(
        column(&batches.series, "series_id"),
        column(&batches.points, "series_id")
    );
    assert_eq!(batches.dists.num_rows(), 0);
}

#[test]
fn numbers_are_exact() {
    let check = |point: NumberDataPoint, value: &str, int: &str, is_int: &str| {
        check_row(
            &decode(&request(vec![gauge(vec![point])])).1.points,
            &[("value", value), ("value_int", int), ("is_int", is_int)],
        );
    };
    check(number(Number::AsInt(-3)), "-3.0", "null", "true");
    check(number(Number::AsInt(1 << 53)), "9007199254740992.0", "null", "true");
    check(
        number(Number::AsInt((1 << 53) + 1)),
        "9007199254740992.0",
        "9007199254740993",
        "true",
    );
    check(
        number(Number::AsInt(i64::MAX)),
        "9.223372036854776e18",
        "9223372036854775807",
        "true",
    );
    check(number(Number::AsInt(i64::MIN)), "-9.223372036854776e18", "null", "true");
    check(number(Number::AsDouble(f64::INFINITY)), "inf", "null", "false");
    check(number(Number::AsDouble(-0.0)), "-0.0", "null", "false");
    check(
        NumberDataPoint {
            value: None,
            flags: 1,
            ..number(Number::AsInt(0))
        },
        "null",
        "null",
        "false",
    );
    // Prometheus's stale marker is a NaN of its own: its bits survive.
    let stale = f64::from_bits(0x7ff0_0000_0000_0002);
    let (_, batches) = decode(&request(vec![gauge(vec![number(Number::AsDouble(stale))])]));
    let values = batches
        .points
        .column_by_name("value")
        .unwrap()
        .as_primitive::<Float64Type>();
    assert_eq!(values.value(0).to_bits(), stale.to_bits());
}

#[test]
fn distributions_have_their_places() {
    let histogram = HistogramDataPoint {
        sum: Some(2.5),
        min: Some(0.5),
        max: Some(2.0),
        ..histogram(&[1, 2], &[1.0])
    };
    let data = Data::Histogram(Histogram {
        data_points: vec![histogram],
        aggregation_temporality: 1,
    });
    let (_, batches) = decode(&request(vec![data]));
    check_row(
        &batches.dists,
        &[
            ("type", "3"),
            ("temporality", "1"),
            ("monotonic", "null"),
            ("count", "3"),
            ("sum", "2.5"),
            ("min", "0.5"),
            ("max", "2.0"),
            ("bounds", "[1.0]"),
            ("counts", "[1, 2]"),
            ("scale", "null"),
            ("zero_count", "null"),
            ("pos_counts", "[]"),
            ("quantiles", "[]"),
        ],
    );
    let data = Data::ExponentialHistogram(ExponentialHistogram {
        data_points: vec![exponential(20, -7)],
        aggregation_temporality: 2,
    });
    check_row(
        &decode(&request(vec![data])).1.dists,
        &[
            ("type", "4"),
            ("sum", "null"),
            ("scale", "20"),
            ("zero_count", "1"),
            ("zero_threshold", "0.25"),
            ("pos_offset", "-7"),
            ("pos_counts", "[2, 300]"),
            ("neg_offset", "-3"),
            ("neg_counts", "[]"),
            ("counts", "[]"),
        ],
    );
    let quantile_values = vec![
        ValueAtQuantile {
            quantile: 0.0,
            value: 1.0,
        },
        ValueAtQuantile {
            quantile: 1.0,
            value: f64::NAN,
        },
    ];
    let point = SummaryDataPoint {
        time_unix_nano: NOW,
        count: 2,
        sum: 3.0,
        quantile_values,
        ..SummaryDataPoint::default()
    };
    let (_, batches) = decode(&request(vec![Data::Summary(Summary {
        data_points: vec![point],
    })]));
    check_row(
        &batches.dists,
        &[
            ("type", "5"),
            ("temporality", "0"),
            ("count", "2"),
            ("sum", "3.0"),
            ("quantiles", "[(q: 0.0, v: 1.0), (q: 1.0, v: NaN)]"),
        ],
    );
}

#[test]
fn bad_points_are_rejected_alone() {
    let bad_number = |time: u64, start: u64, reason: Reason| {
        let bad = NumberDataPoint {
            time_unix_nano: time,
            start_time_unix_nano: start,
            ..number(Number::AsInt(2))
        };
        let (pushed, batches) = decode(&request(vec![gauge(vec![
            number(Number::AsInt(1)),
            bad,
            number(Number::AsInt(3)),
        ])]));
        assert_eq!(pushed.refused, [(1, reason)]);
        assert_eq!(column(&batches.points, "value"), ["1.0", "3.0"]);
    };
    let caps = Caps::default();
    bad_number(0, 0, Reason::ZeroTimestamp);
    bad_number(1 << 63, 0, Reason::TimestampOverflow);
    bad_number(NOW, 1 << 63, Reason::TimestampOverflow);
    bad_number(NOW + caps.future_ns + 1, 0, Reason::Future);
    bad_number(NOW - caps.past_ns - 1, 0, Reason::Past);

    let histogram_is = |point: HistogramDataPoint, reason: Option<Reason>| {
        let data = Data::Histogram(Histogram {
            data_points: vec![point.clone(), histogram(&[], &[])],
            aggregation_temporality: 2,
        });
        let (pushed, batches) = decode(&request(vec![data]));
        assert_eq!(pushed.refused.first().map(|(_, reason)| *reason), reason, "{point:?}");
        assert_eq!(batches.dists.num_rows(), if reason.is_some() { 1 } else { 2 });
    };
    let bad = Some(Reason::BadHistogram);
    histogram_is(histogram(&[1, 2, 3], &[1.0, 2.0]), None);
    histogram_is(histogram(&[5], &[]), None);
    histogram_is(histogram(&[1, 2], &[1.0, 2.0]), bad);
    histogram_is(histogram(&[], &[1.0]), bad);
    histogram_is(histogram(&[1, 2, 3], &[2.0, 1.0]), bad);
    histogram_is(histogram(&[1, 2, 3], &[1.0, 1.0]), bad);
    histogram_is(histogram(&[1, 2], &[f64::NAN]), bad);
    histogram_is(histogram(&[1 << 63], &[]), bad);

    let exponential_is = |point: ExponentialHistogramDataPoint, bad: bool| {
        let data = Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![point.clone()],
            aggregation_temporality: 2,
        });
        let expect: &[_] = if bad {
            &[(0, Reason::BadExponentialHistogram)]
        } else {
            &[]
        };
        assert_eq!(decode(&request(vec![data])).0.refused, expect, "{point:?}");
    };
    exponential_is(exponential(-10, 0), false);
    exponential_is(exponential(-11, 0), true);
    exponential_is(exponential(20, i32::MIN), false);
    exponential_is(exponential(21, 0), true);
    exponential_is(exponential(0, i32::MAX), true);
    exponential_is(
        ExponentialHistogramDataPoint {
            zero_threshold: -1.0,
            ..exponential(0, 0)
        },
        true,
    );
    exponential_is(
        ExponentialHistogramDataPoint {
            zero_threshold: f64::NAN,
            ..exponential(0, 0)
        },
        true,
    );

    let quantile_values = vec![ValueAtQuantile {
        quantile: 1.5,
        value: 1.0,
    }];
    let point = SummaryDataPoint {
        time_unix_nano: NOW,
        quantile_values,
        ..SummaryDataPoint::default()
    };
    let (pushed, _) = decode(&request(vec![Data::Summary(Summary {
        data_points: vec![point],
    })]));
    assert_eq!(pushed.refused, [(0, Reason::BadSummary)]);
}

#[test]
fn a_series_is_its_attributes_in_any_order() {
    let series = |pairs: Vec<(&str, Value)>| {
        let point = NumberDataPoint {
            attributes: attrs(pairs),
            ..number(Number::AsInt(1))
        };
        column(&decode(&request(vec![gauge(vec![point])])).1.points, "series_id").remove(0)
    };
    let first = series(vec![("a", text("1")), ("b", text("2"))]);
    assert_eq!(first, series(vec![("b", text("2")), ("a", text("1"))]));
    assert_eq!(
        first,
        series(vec![("b", text("2")), ("a", text("1")), ("b", text("3"))])
    );
    for other in [
        vec![("a", text("2")), ("b", text("1"))],
        vec![("a", text("1"))],
        vec![("a", Value::IntValue(1)), ("b", text("2"))],
    ] {
        assert_ne!(first, series(other));
    }
    // Stored for years: a change of this number splits every series in two.
    assert_eq!(series(vec![]), SERIES_OF_NO_ATTRIBUTES);
    let sum = Data::Sum(Sum {
        data_points: vec![number(Number::AsInt(1))],
        ..Sum::default()
    });
    assert_ne!(
        series(vec![]),
        column(&decode(&request(vec![sum])).1.points, "series_id")[0]
    );
}

const SERIES_OF_NO_ATTRIBUTES: &str = "2534102118780367806";

#[test]
fn a_series_is_described_once_a_day() {
    let mut seen = SeriesSeen::new(100);
    let payload = request(vec![gauge(vec![number(Number::AsInt(1)), number(Number::AsInt(2))])]);
    assert_eq!(decode_with(&payload, &mut seen).1.series.num_rows(), 1);
    assert_eq!(decode_with(&payload, &mut seen).1.series.num_rows(), 0);
    let earlier = NumberDataPoint {
        time_unix_nano: NOW - 2 * 86_400_000_000_000,
        ..number(Number::AsInt(1))
    };
    assert_eq!(
        decode_with(&request(vec![gauge(vec![earlier])]), &mut seen)
            .1
            .series
            .num_rows(),
        1
    );
}

#[test]
fn rows_are_sorted_by_series_and_time() {
    let point = |key: &str, time: u64| NumberDataPoint {
        attributes: attrs(vec![("k", text(key))]),
        time_unix_nano: NOW + time,
        ..number(Number::AsInt(time as i64))
    };
    let points = (0..40)
        .map(|index| point(["x", "y", "z"][index % 3], (index as u64 * 7) % 40))
        .collect();
    let (pushed, batches) = decode(&request(vec![gauge(points)]));
    assert_eq!(
        (pushed.rows, batches.points.num_rows(), batches.series.num_rows()),
        (40, 40, 3)
    );
}

#[test]
fn the_last_kind_of_data_counts() {
    let mut metric = Metric {
        name: "m".into(),
        data: Some(gauge(vec![number(Number::AsInt(1))])),
        ..Metric::default()
    }
    .encode_to_vec();
    let sum = Data::Sum(Sum {
        data_points: vec![number(Number::AsInt(2)), number(Number::AsInt(3))],
        ..Sum::default()
    });
    metric.extend(
        Metric {
            data: Some(sum),
            ..Metric::default()
        }
        .encode_to_vec(),
    );
    let field = |number: u8, body: &[u8]| [&[number << 3 | 2, body.len() as u8][..], body].concat();
    let payload = field(1, &field(2, &field(2, &metric)));
    let prost = ExportMetricsServiceRequest::decode(payload.as_slice()).unwrap();
    assert!(
        matches!(&prost.resource_metrics[0].scope_metrics[0].metrics[0].data, Some(Data::Sum(sum)) if sum.data_points.len() == 2)
    );
    let (pushed, batches) = decode(&payload);
    assert_eq!(pushed.rows, 2);
    assert_eq!(column(&batches.points, "type"), ["2", "2"]);
}
