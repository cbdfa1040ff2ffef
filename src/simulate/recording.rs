//! Recorded spans in the order of their ends, each as a request of its own, with what RED makes of it.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tailwater_collector::Durations;
use tailwater_model::ids::TraceId;
use tailwater_model::otlp::columns::RequestInfo;
use tailwater_model::otlp::peek::{self, Keys};
use tailwater_model::signal::Signal;
use tailwater_red::{Aggregator, Mode};
use tailwater_sampling::policy::Policy;
use tailwater_sampling::tracestate::Upstream;
use tailwater_sampling::{Memory, Recent, Sampler};

use crate::load::replay::{self, Recorded};

/// Most spans of a recording: they are held in memory, some 500 bytes each.
pub const SPANS_MAX: usize = 4_000_000;

/// Items a request where a file does not say: what a collector's batch holds.
const BATCH: usize = 512;

/// Whose the recorded traffic is.
pub(super) const TENANT: &str = "default";

/// A span.
#[derive(Debug)]
pub(super) struct Event {
    /// When it arrives: its end, or its start if it has none; ns since 1970.
    pub at_ns: u64,
    /// Place among the recording's traces.
    pub trace: u32,
    /// Place among its services.
    pub service: u32,
    pub is_entry: bool,
    pub is_error: bool,
    pub duration_ns: u64,
    /// For how many it stands by what upstream sampling says.
    pub weight: f64,
    /// Its share of the request it came in, bytes.
    pub bytes: u32,
    /// The request.
    pub payload: Vec<u8>,
}

/// Recorded traffic.
#[derive(Debug)]
pub struct Recording {
    pub(super) files: usize,
    pub(super) events: Vec<Event>,
    pub(super) traces: usize,
    pub(super) services: Vec<String>,
    /// Recent quantiles, each from this moment on.
    pub(super) recent: Vec<(u64, Recent)>,
    /// Spans that an intake would reject.
    pub(super) rejected: u64,
}

impl Recording {
    /// Reads files, in any order, as the simulation of `policy` wants them.
    ///
    /// # Errors
    /// A file that cannot be read, with its line; too many spans, or none at all.
    pub fn read(files: &[PathBuf], policy: &Policy, counting: &tailwater_red::Settings) -> anyhow::Result<Recording> {
        let mut requests = Vec::new();
        for file in files {
            replay::read(std::slice::from_ref(file), BATCH, &mut |request| {
                if let Recorded::Traces(request) = request {
                    apart(request, &mut requests);
                }
                if requests.len() > SPANS_MAX {
                    bail!("{}: more than {SPANS_MAX} spans up to here", file.display());
                }
                Ok(())
            })?;
        }
        if requests.is_empty() {
            bail!("no spans in the recording");
        }
        requests.sort_by_key(|(at_ns, ..)| *at_ns);
        Recording::of(requests, files.len(), policy, counting)
    }

    fn of(
        requests: Vec<(u64, u32, Vec<u8>)>,
        files: usize,
        policy: &Policy,
        counting: &tailwater_red::Settings,
    ) -> anyhow::Result<Recording> {
        let mut recording = Recording {
            files,
            events: Vec::with_capacity(requests.len()),
            traces: 0,
            services: Vec::new(),
            recent: Vec::new(),
            rejected: 0,
        };
        // Which quantiles the policy compares with, and what number the tenant has.
        let mut sampler: Sampler<()> =
            Sampler::new(policy.clone(), Memory::default(), 0).map_err(anyhow::Error::msg)?;
        let tenant = sampler.tenant(TENANT);
        let quantiles = sampler.quantiles().to_vec();
        let mut durations = Durations::default();
        // Calls between services are nobody's concern here.
        let mut red = Aggregator::new(tailwater_red::Settings {
            edges: None,
            ..counting.clone()
        });
        let (mut traces, mut services) = (HashMap::new(), HashMap::new());
        for (at_ns, bytes, payload) in requests {
            let wrong = |error| anyhow!("a span that was read cannot be read again: {error}");
            let inspected = peek::inspect(Signal::Traces, &payload, at_ns, &counting.caps).map_err(wrong)?;
            if !inspected.rejected.is_empty() {
                recording.rejected += 1;
                continue;
            }
            let info = RequestInfo {
                tenant: TENANT,
                arrival_ns: at_ns,
                rejected: &[],
            };
            red.push_request(&payload, &info, Mode::Count).map_err(wrong)?;
            let rows = red.drain().red;
            let row = rows.first().context("an accepted span is counted")?;
            if !quantiles.is_empty() && durations.add(at_ns, &rows) {
                recording.recent.push((at_ns, durations.recent(&quantiles, |_| tenant)));
            }
            let (mut id, mut weight) = (TraceId::default(), 1.0);
            peek::spans(&payload, &Keys::default(), |span| {
                id = TraceId(span.head.trace_id.try_into().unwrap_or_default());
                weight = Upstream::parse(span.head.trace_state)
                    .threshold
                    .map_or(1.0, |th| th.weight());
                true
            })
            .map_err(wrong)?;
            let next = traces.len() as u32;
            let trace = *traces.entry(id).or_insert(next);
            let next = services.len() as u32;
            let service = *services.entry(row.key.service_name.clone()).or_insert_with(|| {
                recording.services.push(row.key.service_name.to_string());
                next
            });
            recording.events.push(Event {
                at_ns,
                trace,
                service,
                is_entry: row.key.is_entry,
                is_error: row.key.is_error,
                duration_ns: row.max_ns,
                weight,
                bytes,
                payload,
            });
        }
        recording.traces = traces.len();
        if recording.events.is_empty() {
            bail!(
                "no spans in the recording that an intake would accept: {} are rejected",
                recording.rejected
            );
        }
        Ok(recording)
    }

    /// From the first end to the last, seconds.
    pub(super) fn seconds(&self) -> f64 {
        let (first, last) = (self.events.first(), self.events.last());
        first
            .zip(last)
            .map_or(0.0, |(first, last)| (last.at_ns - first.at_ns) as f64 / 1e9)
    }
}

/// The spans of a request, each in one of its own: when it arrives, its share of the bytes, the request.
fn apart(request: ExportTraceServiceRequest, into: &mut Vec<(u64, u32, Vec<u8>)>) {
    let spans = replay::spans(&request).count().max(1);
    let bytes = (request.encoded_len() / spans) as u32;
    for part in request.resource_spans {
        let (resource, schema_url) = (part.resource, part.schema_url);
        for scope in part.scope_spans {
            for span in scope.spans {
                let at_ns = arrival_ns(&span);
                let alone = ExportTraceServiceRequest {
                    resource_spans: vec![ResourceSpans {
                        resource: resource.clone(),
                        scope_spans: vec![ScopeSpans {
                            scope: scope.scope.clone(),
                            spans: vec![span],
                            schema_url: scope.schema_url.clone(),
                        }],
                        schema_url: schema_url.clone(),
                    }],
                };
                into.push((at_ns, bytes, alone.encode_to_vec()));
            }
        }
    }
}

fn arrival_ns(span: &Span) -> u64 {
    span.end_time_unix_nano.max(span.start_time_unix_nano)
}
