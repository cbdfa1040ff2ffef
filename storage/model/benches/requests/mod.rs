//! Requests as the product will see them: S-spans, logs of 300 B, gauges and sums with 6 attributes.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

/// 2026-01-01T00:00:00Z.
pub const NOW: u64 = 1_767_225_600_000_000_000;

/// (service, gRPC service, operations).
const SHOP: &[(&str, &str, &[&str])] = &[
    (
        "frontend",
        "hipstershop.Frontend",
        &["Home", "Product", "ViewCart", "PlaceOrder"],
    ),
    (
        "cartservice",
        "hipstershop.CartService",
        &["GetCart", "AddItem", "EmptyCart"],
    ),
    (
        "productcatalogservice",
        "hipstershop.ProductCatalogService",
        &["GetProduct", "ListProducts"],
    ),
    (
        "currencyservice",
        "hipstershop.CurrencyService",
        &["Convert", "GetSupportedCurrencies"],
    ),
    (
        "recommendationservice",
        "hipstershop.RecommendationService",
        &["ListRecommendations"],
    ),
    ("checkoutservice", "hipstershop.CheckoutService", &["PlaceOrder"]),
    (
        "shippingservice",
        "hipstershop.ShippingService",
        &["GetQuote", "ShipOrder"],
    ),
    ("adservice", "hipstershop.AdService", &["GetAds"]),
];

/// Numbers that look random and are the same in every run (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: i64) -> KeyValue {
    pair(key, Value::IntValue(value))
}

fn resource(service: &str) -> Option<Resource> {
    let attributes = vec![
        text("service.name", service),
        text("service.namespace", "online-boutique"),
        text("service.version", "0.3.4"),
        text("service.instance.id", format!("{service}-579f59597d-wc2lz")),
        text("deployment.environment", "production"),
        text("host.name", "gke-cluster-pool-1-2af2"),
        text("k8s.namespace.name", "hipster"),
        text("k8s.pod.name", format!("{service}-579f59597d-wc2lz")),
        text("k8s.node.name", "gke-cluster-pool-1-2af2"),
        text("telemetry.sdk.name", "opentelemetry"),
        text("telemetry.sdk.language", "go"),
        text("telemetry.sdk.version", "1.28.0"),
    ];
    Some(Resource {
        attributes,
        ..Resource::default()
    })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: "otelgrpc".into(),
        version: "0.53.0".into(),
        ..InstrumentationScope::default()
    })
}

/// Traces requests: in each the spans of eight services, about 41 spans a trace.
pub fn spans(requests: usize, items: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng(7);
    let mut request = |_| {
        let traces: Vec<[u8; 16]> = (0..items.div_ceil(41))
            .map(|_| std::array::from_fn(|_| 0))
            .map(|mut id: [u8; 16]| {
                id[..8].copy_from_slice(&rng.next().to_le_bytes());
                id[8..].copy_from_slice(&rng.next().to_le_bytes());
                id
            })
            .collect();
        let resource_spans = SHOP
            .iter()
            .map(|(service, grpc, operations)| {
                let spans = (0..items / SHOP.len())
                    .map(|_| span(&mut rng, &traces, grpc, operations))
                    .collect();
                let scope_spans = vec![ScopeSpans {
                    scope: scope(),
                    spans,
                    ..ScopeSpans::default()
                }];
                ResourceSpans {
                    resource: resource(service),
                    scope_spans,
                    ..ResourceSpans::default()
                }
            })
            .collect();
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    };
    (0..requests).map(&mut request).collect()
}

fn span(rng: &mut Rng, traces: &[[u8; 16]], grpc: &str, operations: &[&str]) -> Span {
    let operation = operations[rng.below(operations.len())];
    let start = NOW - 10_000_000_000 + rng.next() % 5_000_000_000;
    let failed = rng.below(100) == 0;
    Span {
        trace_id: traces[rng.below(traces.len())].to_vec(),
        span_id: rng.next().to_le_bytes().to_vec(),
        parent_span_id: if rng.below(41) == 0 {
            vec![]
        } else {
            rng.next().to_le_bytes().to_vec()
        },
        name: format!("{grpc}/{operation}"),
        kind: 2 + rng.below(2) as i32,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 50_000 + rng.next() % 30_000_000,
        attributes: vec![
            text("rpc.system", "grpc"),
            text("rpc.service", grpc),
            text("rpc.method", operation),
            int("rpc.grpc.status_code", if failed { 13 } else { 0 }),
            text("net.peer.ip", format!("10.64.{}.{}", rng.below(4), rng.below(60))),
            int("net.peer.port", 32_768 + rng.below(20_000) as i64),
            text("http.route", format!("/{operation}")),
            int("http.status_code", if failed { 500 } else { 200 }),
            text("app.user_id", format!("user-{}", rng.below(5000))),
            text("app.session_id", format!("{:016x}", rng.next())),
        ],
        status: Some(Status {
            code: if failed { 2 } else { 0 },
            ..Status::default()
        }),
        flags: 0x101,
        ..Span::default()
    }
}

/// Logs requests: records of about 300 B.
pub fn logs(requests: usize, items: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng(8);
    let mut request = |_| {
        let resource_logs = SHOP
            .iter()
            .map(|(service, grpc, operations)| {
                let log_records = (0..items / SHOP.len())
                    .map(|_| {
                        let operation = operations[rng.below(operations.len())];
                        let body = format!(
                            "{grpc}/{operation}: request {:016x} from user-{} finished in {} us, {} items, currency USD",
                            rng.next(),
                            rng.below(5000),
                            rng.below(100_000),
                            rng.below(9)
                        );
                        LogRecord {
                            time_unix_nano: NOW - rng.next() % 5_000_000_000,
                            observed_time_unix_nano: NOW,
                            severity_number: 9,
                            severity_text: "INFO".into(),
                            body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
                            attributes: vec![
                                text("log.iostream", "stdout"),
                                text("code.function", operation),
                                int("thread.id", rng.below(16) as i64),
                                text("logger", *grpc),
                            ],
                            trace_id: [rng.next().to_le_bytes(), rng.next().to_le_bytes()].concat(),
                            span_id: rng.next().to_le_bytes().to_vec(),
                            ..LogRecord::default()
                        }
                    })
                    .collect();
                let scope_logs = vec![ScopeLogs { scope: scope(), log_records, ..ScopeLogs::default() }];
                ResourceLogs { resource: resource(service), scope_logs, ..ResourceLogs::default() }
            })
            .collect();
        ExportLogsServiceRequest { resource_logs }.encode_to_vec()
    };
    (0..requests).map(&mut request).collect()
}

/// Metrics requests: gauges and sums, 6 attributes a point, 10,000 series.
pub fn metrics(requests: usize, items: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng(9);
    let mut request = |_| {
        let resource_metrics = SHOP
            .iter()
            .map(|(service, grpc, operations)| {
                let mut points = |int: bool| {
                    let points = (0..items / SHOP.len() / 4).map(|_| NumberDataPoint {
                        attributes: vec![
                            text("rpc.system", "grpc"),
                            text("rpc.service", *grpc),
                            text("rpc.method", operations[rng.below(operations.len())]),
                            text("net.peer.ip", format!("10.64.{}.{}", rng.below(4), rng.below(20))),
                            text("region", "eu-west-1"),
                            text("status", "ok"),
                        ],
                        start_time_unix_nano: NOW - 60_000_000_000,
                        time_unix_nano: NOW - rng.next() % 5_000_000_000,
                        value: Some(if int {
                            number_data_point::Value::AsInt(rng.below(100_000) as i64)
                        } else {
                            number_data_point::Value::AsDouble(rng.below(100_000) as f64 / 7.0)
                        }),
                        ..NumberDataPoint::default()
                    });
                    points.collect::<Vec<_>>()
                };
                let metric = |name: &str, data| Metric {
                    name: name.into(),
                    unit: "1".into(),
                    data: Some(data),
                    ..Metric::default()
                };
                let sum = |data_points| {
                    metric::Data::Sum(Sum {
                        data_points,
                        aggregation_temporality: 2,
                        is_monotonic: true,
                    })
                };
                let metrics = vec![
                    metric("rpc.server.requests", sum(points(true))),
                    metric("rpc.server.bytes", sum(points(true))),
                    metric(
                        "process.cpu.utilization",
                        metric::Data::Gauge(Gauge {
                            data_points: points(false),
                        }),
                    ),
                    metric(
                        "process.memory.usage",
                        metric::Data::Gauge(Gauge {
                            data_points: points(false),
                        }),
                    ),
                ];
                let scope_metrics = vec![ScopeMetrics {
                    scope: scope(),
                    metrics,
                    ..ScopeMetrics::default()
                }];
                ResourceMetrics {
                    resource: resource(service),
                    scope_metrics,
                    ..ResourceMetrics::default()
                }
            })
            .collect();
        ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
    };
    (0..requests).map(&mut request).collect()
}
