//! The end of a past, which can be looked at: traces drawn along the call tree, as OTLP requests.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::attributes::{self, Side};
use super::counts::mixed;
use super::draw::poisson;
use super::world::{Deployment, HOP_NS, World, rhythm};
use crate::load::shop::Work;

/// Slices of RED in this part, and what one request covers.
pub(super) const SLICE_S: u64 = 10;

/// One request in this many tells a log; all that fail do.
const LOGS_ONE_IN: u32 = 10;

/// Which version of which service.
type Origin = (usize, usize);

/// What is sent in a slice.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub traces: ExportTraceServiceRequest,
    pub logs: ExportLogsServiceRequest,
}

/// The traces that begin in the slice from `start_s`, with the logs of their spans. Those that do not end before the past does are left out.
pub(super) fn slice(world: &World, start_s: u64) -> Sent {
    let mut drawing = Drawing {
        world,
        rng: SmallRng::seed_from_u64(mixed(world.seed, start_s, u64::MAX)),
        calls: calls(world),
        spans: BTreeMap::new(),
        logs: BTreeMap::new(),
    };
    let mean = rhythm(start_s) * SLICE_S as f64;
    for (at, site) in world.sites.iter().enumerate().filter(|(_, site)| site.caller.is_none()) {
        for _ in 0..poisson(&mut drawing.rng, site.rate * mean) {
            let start_ns = start_s * 1_000_000_000 + drawing.rng.random_range(0..SLICE_S * 1_000_000_000);
            drawing.trace(at, start_ns);
        }
    }
    drawing.sent()
}

/// A log record that tells of a deployment, sent by the service.
pub(super) fn deployed(world: &World, deployment: &Deployment) -> ExportLogsServiceRequest {
    let at_ns = deployment.at_s * 1_000_000_000;
    let record = LogRecord {
        event_name: "deployment".to_owned(),
        attributes: vec![attributes::text("deployment.status", "succeeded")],
        ..log(
            at_ns,
            9,
            format!("{} {} is deployed", deployment.service, deployment.version),
        )
    };
    let service = world
        .services
        .iter()
        .position(|service| service.name == deployment.service);
    let service = service.unwrap_or_default();
    let origin = (service, world.version(service, deployment.at_s));
    logs_request(world, BTreeMap::from([(origin, vec![record])]))
}

/// The sites that a site calls.
fn calls(world: &World) -> Vec<Vec<usize>> {
    let mut calls = vec![Vec::new(); world.sites.len()];
    for (at, site) in world.sites.iter().enumerate() {
        if let Some(caller) = site.caller {
            calls[caller].push(at);
        }
    }
    calls
}

struct Drawing<'w> {
    world: &'w World,
    rng: SmallRng,
    calls: Vec<Vec<usize>>,
    spans: BTreeMap<Origin, Vec<Span>>,
    logs: BTreeMap<Origin, Vec<LogRecord>>,
}

impl Drawing<'_> {
    fn trace(&mut self, root: usize, start_ns: u64) {
        let mut spans = Vec::new();
        let trace: [u8; 16] = self.rng.random();
        let end_ns = self.place(root, &trace, &[], start_ns, &mut spans);
        if end_ns >= self.world.to_s * 1_000_000_000 {
            return;
        }
        for (service, span) in spans {
            let at_s = start_ns / 1_000_000_000;
            let origin = (service, self.world.version(service, at_s));
            let failed = span.status.is_some();
            if span.kind == 2 && (failed || self.rng.random_ratio(1, LOGS_ONE_IN)) {
                let end = if failed {
                    "failed: deadline exceeded"
                } else {
                    "finished"
                };
                let record = LogRecord {
                    trace_id: span.trace_id.clone(),
                    span_id: span.span_id.clone(),
                    flags: 1,
                    ..log(
                        span.end_time_unix_nano,
                        if failed { 17 } else { 9 },
                        format!("{} {end}", span.name),
                    )
                };
                self.logs.entry(origin).or_default().push(record);
            }
            self.spans.entry(origin).or_default().push(span);
        }
    }

    /// Places a call that begins at `start_ns` and all that it calls; returns when it ends.
    fn place(
        &mut self,
        at: usize,
        trace: &[u8; 16],
        parent: &[u8],
        start_ns: u64,
        spans: &mut Vec<(usize, Span)>,
    ) -> u64 {
        let site = &self.world.sites[at];
        let (slower, share) = self.world.suffers(site.service, start_ns / 1_000_000_000);
        let failed = self.rng.random::<f64>() < share.max(site.errors);
        let own_ns = (site.median_ns * slower * self.world.latencies[site.shape].draw(self.rng.next_u64())) as u64 + 1;
        let caller = site.caller.filter(|_| site.work == Work::Rpc);
        let hop_ns = match caller {
            Some(_) => (HOP_NS * self.world.latencies[0].draw(self.rng.next_u64())) as u64,
            None => 0,
        };
        let mut parent = parent.to_vec();
        let outer = caller.map(|caller| {
            let id: [u8; 8] = self.rng.random();
            let span = span_of(attributes::span(site, Side::Caller, failed), trace, &id, &parent);
            parent = id.to_vec();
            spans.push((self.world.sites[caller].service, span));
            spans.len() - 1
        });
        let id: [u8; 8] = self.rng.random();
        spans.push((
            site.service,
            span_of(attributes::span(site, Side::Own, failed), trace, &id, &parent),
        ));
        let inner = spans.len() - 1;
        let begins_ns = start_ns + hop_ns;
        // Calls follow each other and lie within the caller, which waits for them if they take longer than usual.
        let mut now_ns = begins_ns;
        for call in self.calls[at].clone() {
            let calls = self.world.sites[call].calls;
            let more = self.rng.random::<f64>() < calls.fract();
            for _ in 0..calls as u64 + u64::from(more) {
                now_ns = self.place(call, trace, &id, now_ns + 1_000, spans);
            }
        }
        let ends_ns = (begins_ns + own_ns).max(now_ns + 1_000);
        let mut set = |place: usize, from: u64, to: u64| {
            (spans[place].1.start_time_unix_nano, spans[place].1.end_time_unix_nano) = (from, to);
        };
        set(inner, begins_ns, ends_ns);
        if let Some(outer) = outer {
            set(outer, start_ns, ends_ns + hop_ns);
        }
        ends_ns + hop_ns
    }

    fn sent(self) -> Sent {
        let resource_spans = self.spans.into_iter().map(|(origin, spans)| ResourceSpans {
            resource: Some(resource(self.world, origin)),
            scope_spans: vec![ScopeSpans {
                scope: Some(attributes::scope()),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        });
        Sent {
            traces: ExportTraceServiceRequest {
                resource_spans: resource_spans.collect(),
            },
            logs: logs_request(self.world, self.logs),
        }
    }
}

fn span_of(span: Span, trace: &[u8; 16], id: &[u8; 8], parent: &[u8]) -> Span {
    Span {
        trace_id: trace.to_vec(),
        span_id: id.to_vec(),
        parent_span_id: parent.to_vec(),
        ..span
    }
}

fn resource(world: &World, (service, version): Origin) -> opentelemetry_proto::tonic::resource::v1::Resource {
    let service = &world.services[service];
    attributes::resource(&service.name, &service.versions[version].1)
}

fn log(at_ns: u64, severity: i32, body: String) -> LogRecord {
    LogRecord {
        time_unix_nano: at_ns,
        observed_time_unix_nano: at_ns,
        severity_number: severity,
        severity_text: crate::load::proto::severity_text(severity as u8).to_owned(),
        body: Some(AnyValue {
            value: Some(Value::StringValue(body)),
        }),
        ..LogRecord::default()
    }
}

fn logs_request(world: &World, logs: BTreeMap<Origin, Vec<LogRecord>>) -> ExportLogsServiceRequest {
    let resource_logs = logs.into_iter().map(|(origin, log_records)| ResourceLogs {
        resource: Some(resource(world, origin)),
        scope_logs: vec![ScopeLogs {
            scope: Some(attributes::scope()),
            log_records,
            ..ScopeLogs::default()
        }],
        ..ResourceLogs::default()
    });
    ExportLogsServiceRequest {
        resource_logs: resource_logs.collect(),
    }
}
