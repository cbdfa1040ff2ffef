//! Workloads: which requests are sent. A workload is drawn once into templates; the sender stamps them for ever.
//!
//! `sspan` is the measuring workload (440 B spans, 10 span and 12 resource attributes, 300 B logs, 6-attribute points);
//! `shop` is the showing workload (8 services, fewer attributes, histograms, logs that belong to the spans).

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_model::signal::Signal;

use super::draft::{ItemsDraft, LogDraft, MetricDraft, MetricShape, RequestDraft, ResourceDraft, SpanDraft, Value};
use super::shop::{self, Incident, Latency, SERVICES, ShopSpan, Side, Work};
use super::stamp::{Form, Template};
use super::{json, proto};

/// What the items look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// The S-span workload of the benches.
    Sspan,
    /// The simulated shop of `demo`.
    Shop,
}

/// How much goes into one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Exactly so many items; the last trace of a request may be cut short.
    Items(usize),
    /// So many whole traces (and the logs that belong to them).
    Traces(usize),
}

/// Everything that decides the templates.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// What the items look like.
    pub shape: Shape,
    /// How the requests are written.
    pub form: Form,
    /// How many distinct services; above the shop's own, further copies of it are numbered (`frontend-2`).
    pub services: usize,
    /// Size of a request.
    pub fill: Fill,
    /// Share of traces (and of log records) that fail, 0 to 1.
    pub errors: f64,
    /// How long operations take.
    pub latency: Latency,
    /// Distinct metric series.
    pub series: usize,
    /// Templates of traces and of logs. More of them vary the requests more and take memory.
    pub templates: usize,
    /// One service in trouble.
    pub incident: Option<Incident>,
    /// Decides everything that is drawn.
    pub seed: u64,
}

impl Workload {
    /// The templates of a signal. Those of logs belong, one by one, to those of traces (same trace and span positions).
    pub fn templates(&self, signal: Signal) -> Vec<Template> {
        let drafts: Vec<RequestDraft> = match signal {
            Signal::Traces => (0..self.templates).map(|template| self.spans(template)).collect(),
            Signal::Logs => (0..self.templates).map(|template| self.logs(template)).collect(),
            Signal::Metrics => self.metrics(),
        };
        drafts.iter().map(|draft| self.encode(draft)).collect()
    }

    fn encode(&self, draft: &RequestDraft) -> Template {
        match self.form {
            Form::Binary => proto::encode(draft),
            Form::Json => json::encode(draft),
        }
    }

    /// Services of one copy of the shop.
    fn base(&self) -> usize {
        let own = if self.shape == Shape::Sspan { SERVICES.len() } else { 8 };
        self.services.clamp(1, own)
    }

    /// Index of a shop's service among all services.
    fn service(&self, cell: usize, service: usize) -> usize {
        let index = cell * self.base() + service;
        if index < self.services { index } else { service }
    }

    /// The traces of a template: (copy of the shop, spans).
    fn traces(&self, template: usize) -> Vec<(usize, Vec<ShopSpan>)> {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ (template as u64) << 32);
        let cells = self.services.div_ceil(self.base());
        let mut traces = Vec::new();
        let mut left = match self.fill {
            Fill::Items(items) => items,
            Fill::Traces(_) => usize::MAX,
        };
        while left > 0 && !matches!(self.fill, Fill::Traces(count) if traces.len() == count) {
            let mut spans = shop::draw(&mut rng, self.base(), self.errors, self.latency, self.incident);
            spans.truncate(left);
            left -= spans.len();
            traces.push((rng.random_range(0..cells), spans));
        }
        traces
    }

    fn spans(&self, template: usize) -> RequestDraft {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0x5ba0 ^ (template as u64) << 32);
        let mut by_service: Vec<Vec<SpanDraft>> = vec![Vec::new(); self.services];
        let mut first = 0;
        for (trace, (cell, spans)) in self.traces(template).into_iter().enumerate() {
            for (position, span) in spans.iter().enumerate() {
                let number = first + position as u32;
                by_service[self.service(cell, span.service)].push(SpanDraft {
                    trace: trace as u32,
                    span: number,
                    parent: span.parent.map(|parent| first + parent as u32),
                    name: span.op.name.to_owned(),
                    kind: span.side as u8,
                    start_ns: span.start_ns,
                    end_ns: span.end_ns,
                    error: span.error.then_some("rpc error: deadline exceeded"),
                    attributes: self.span_attributes(&mut rng, span, number),
                });
            }
            first += spans.len() as u32;
        }
        self.request(Signal::Traces, by_service.into_iter().map(ItemsDraft::Spans).collect())
    }

    fn span_attributes(&self, rng: &mut SmallRng, span: &ShopSpan, number: u32) -> Vec<(&'static str, Value)> {
        let text = |text: &str| Value::Text(text.to_owned());
        let (target, method) = span
            .op
            .name
            .rsplit_once(['/', '.', ' '])
            .unwrap_or(("app", span.op.name));
        let mut attributes = match span.op.work {
            Work::Page => {
                let (verb, route) = span.op.name.split_once(' ').unwrap_or(("GET", "/"));
                vec![
                    ("http.request.method", text(verb)),
                    ("http.route", text(route)),
                    ("url.scheme", text("http")),
                    (
                        "http.response.status_code",
                        Value::Int(if span.error { 500 } else { 200 }),
                    ),
                ]
            }
            Work::Rpc => vec![
                ("rpc.system", text("grpc")),
                ("rpc.service", text(target)),
                ("rpc.method", text(method)),
                ("rpc.grpc.status_code", Value::Int(if span.error { 4 } else { 0 })),
            ],
            Work::Internal => vec![
                ("code.function.name", text(method)),
                ("code.namespace", text("hipstershop")),
                ("thread.name", text("worker")),
                ("app.items", Value::Int(rng.random_range(1..20))),
            ],
            Work::Database => vec![
                ("db.system.name", text("mysql")),
                ("db.operation.name", text("SELECT")),
                ("db.collection.name", text("products")),
                ("db.response.returned_rows", Value::Int(rng.random_range(1..20))),
            ],
        };
        if self.shape == Shape::Sspan {
            attributes.extend([
                ("network.peer.address", Value::Address(number)),
                ("network.peer.port", Value::Port(number)),
                ("session.id", Value::Hex(number)),
                ("user.id", Value::User(number)),
                ("thread.id", Value::Int(rng.random_range(1..64))),
                (
                    "client.sdk.version",
                    text("opentelemetry-go/1.38.0 grpc-go/1.75.1 linux"),
                ),
            ]);
        } else if span.op.work == Work::Page {
            attributes.push(("session.id", Value::Hex(number)));
        }
        attributes
    }

    fn logs(&self, template: usize) -> RequestDraft {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0x1095 ^ (template as u64) << 32);
        let mut by_service: Vec<Vec<LogDraft>> = vec![Vec::new(); self.services];
        let mut first = 0;
        let mut item = 0;
        for (trace, (cell, spans)) in self.traces(template).into_iter().enumerate() {
            for (position, span) in spans.iter().enumerate() {
                // With whole traces, a log for each server span; with a fixed count, one for each span.
                if matches!(self.fill, Fill::Traces(_)) && span.side != Side::Server {
                    continue;
                }
                by_service[self.service(cell, span.service)].push(LogDraft {
                    item,
                    link: Some((trace as u32, first + position as u32)),
                    time_ns: span.start_ns + (span.end_ns - span.start_ns) / 2,
                    severity: if span.error { 17 } else { 9 },
                    body: log_body(span),
                    attributes: self.log_attributes(&mut rng, item),
                });
                item += 1;
            }
            first += spans.len() as u32;
        }
        self.request(Signal::Logs, by_service.into_iter().map(ItemsDraft::Logs).collect())
    }

    fn log_attributes(&self, rng: &mut SmallRng, item: u32) -> Vec<(&'static str, Value)> {
        match self.shape {
            Shape::Shop => vec![],
            Shape::Sspan => vec![
                ("session.id", Value::Hex(item)),
                ("thread.id", Value::Int(rng.random_range(1..64))),
                ("code.function.name", Value::Text("handleRequest".to_owned())),
            ],
        }
    }

    fn metrics(&self) -> Vec<RequestDraft> {
        let batch = match self.fill {
            Fill::Items(items) => items,
            Fill::Traces(_) => self.series.max(1),
        };
        let starts = (0..self.series.max(1)).step_by(batch.max(1));
        starts.map(|start| self.metrics_request(start, batch)).collect()
    }

    /// Points of series `start`, `start + 1`, ... (around the end), `batch` of them.
    fn metrics_request(&self, start: usize, batch: usize) -> RequestDraft {
        const NAMES: [(&str, &str, MetricShape); 6] = [
            ("process.memory.usage", "By", MetricShape::Gauge),
            ("http.server.request.count", "{request}", MetricShape::Counter),
            ("system.cpu.utilization", "1", MetricShape::Gauge),
            ("rpc.server.request.count", "{request}", MetricShape::Counter),
            ("app.queue.length", "{item}", MetricShape::Gauge),
            ("http.server.request.duration", "s", MetricShape::Histogram),
        ];
        // The measuring workload is gauges and sums only; the shop has histograms as well.
        let names = if self.shape == Shape::Sspan {
            &NAMES[..5]
        } else {
            &NAMES[..]
        };
        let mut by_service: Vec<Vec<MetricDraft>> = vec![
            names
                .iter()
                .map(|(name, unit, shape)| MetricDraft {
                    name,
                    unit,
                    shape: *shape,
                    points: vec![]
                })
                .collect();
            self.services
        ];
        for point in 0..batch {
            let series = (start + point) % self.series.max(1);
            let (service, rest) = (series % self.services, series / self.services);
            let (name, rest) = (rest % names.len(), rest / names.len());
            let text = |text: String| Value::Text(text);
            by_service[service][name].points.push((
                point as u32,
                vec![
                    (
                        "k8s.pod.name",
                        text(format!("{}-{:04}", service_name(service, self.base()), rest / 8)),
                    ),
                    ("http.route", text(format!("/api/v1/resource{}", rest % 8))),
                    ("http.request.method", text(["GET", "POST"][rest % 2].to_owned())),
                    ("http.response.status_code", Value::Int([200, 404, 500, 503][rest % 4])),
                    ("cloud.region", text("eu-central-1".to_owned())),
                    (
                        "cloud.availability_zone",
                        text(format!("eu-central-1{}", ["a", "b", "c"][rest / 8 % 3])),
                    ),
                ],
            ));
        }
        let items = by_service
            .into_iter()
            .map(|metrics| metrics.into_iter().filter(|metric| !metric.points.is_empty()).collect())
            .map(ItemsDraft::Metrics)
            .collect();
        self.request(Signal::Metrics, items)
    }

    /// A request of these items by service; services without any are left out.
    fn request(&self, signal: Signal, by_service: Vec<ItemsDraft>) -> RequestDraft {
        let resources = by_service
            .into_iter()
            .enumerate()
            .filter(|(_, items)| match items {
                ItemsDraft::Spans(spans) => !spans.is_empty(),
                ItemsDraft::Logs(logs) => !logs.is_empty(),
                ItemsDraft::Metrics(metrics) => !metrics.is_empty(),
            })
            .map(|(service, items)| ResourceDraft {
                attributes: self.resource_attributes(service),
                scope: "tailwater.load",
                items,
            })
            .collect();
        RequestDraft { signal, resources }
    }

    fn resource_attributes(&self, service: usize) -> Vec<(&'static str, String)> {
        let name = service_name(service, self.base());
        let pod = format!("{name}-579b9bff58-t2d{service:02}");
        let mut attributes = vec![
            ("service.name", name.clone()),
            ("service.namespace", "shop".to_owned()),
            ("service.version", "1.4.2".to_owned()),
            ("deployment.environment.name", "demo".to_owned()),
        ];
        if self.shape == Shape::Sspan {
            attributes.extend([
                ("service.instance.id", format!("{pod}:7070")),
                ("k8s.namespace.name", "hipstershop".to_owned()),
                ("k8s.deployment.name", name),
                ("k8s.node.name", format!("worker-{}", service % 4)),
                ("host.name", pod.clone()),
                ("k8s.pod.name", pod),
                ("telemetry.sdk.language", "go".to_owned()),
                ("telemetry.sdk.name", "opentelemetry".to_owned()),
            ]);
        }
        attributes
    }
}

/// Name of service `index` where one copy of the shop has `base` services.
fn service_name(index: usize, base: usize) -> String {
    match index / base {
        0 => SERVICES[index % base].to_owned(),
        copy => format!("{}-{}", SERVICES[index % base], copy + 1),
    }
}

fn log_body(span: &ShopSpan) -> String {
    let name = span.op.name;
    match span.error {
        true => format!("{name} failed: deadline exceeded while waiting for the answer of the next service"),
        false => format!("{name} finished, items written to the answer, connection kept for the next call"),
    }
}

#[cfg(test)]
#[path = "workload_tests.rs"]
mod tests;
