//! What is offered to both: traces of every kind that policies ask about, as OTLP requests with the time at which they come.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use tailwater_model::ids::TraceId;
use tailwater_sampling::Randomness;
use tailwater_sampling::sim::Random;
use tailwater_sampling::tracestate::Upstream;

/// How long both wait for a trace.
pub const WAIT_MS: u64 = 10_000;
/// Requests come this often, a quarter of a second off the moments at which samplers look at their clocks.
const SLOT_MS: u64 = 500;
const OFF_MS: u64 = 250;
const MS: u64 = 1_000_000;
/// When spans say that they began, unix ns.
const BEGAN_NS: u64 = 1_700_000_000_000_000_000;

/// A span as it comes.
#[derive(Debug, Clone)]
pub struct Sent {
    pub at_ms: u64,
    pub span: Span,
    /// Of [`resources`].
    pub resource: usize,
}

/// A trace, its spans in the order of their arrival.
#[derive(Debug, Clone, Default)]
pub struct Made {
    pub id: TraceId,
    pub spans: Vec<Sent>,
}

/// What comes, when, ms after the start.
#[derive(Debug, Default)]
pub struct Recording {
    pub requests: Vec<(u64, Vec<u8>)>,
    pub traces: Vec<Made>,
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(text: &str) -> Value {
    Value::StringValue(text.into())
}

/// Most spans are of the first.
pub fn resources() -> Vec<Resource> {
    let of = |service: &str, more: Vec<(&str, Value)>| {
        let mut attributes = vec![pair("service.name", text(service))];
        attributes.extend(more.into_iter().map(|(key, value)| pair(key, value)));
        Resource {
            attributes,
            ..Resource::default()
        }
    };
    vec![
        of("web", vec![]),
        of("cart", vec![("tier", text("gold"))]),
        of(
            "pay",
            vec![("tier", text("bronze")), ("cached", Value::BoolValue(true))],
        ),
        of("mail", vec![("http.status_code", Value::IntValue(404))]),
        of("db", vec![("cached", text("false"))]),
        of("edge", vec![("cached", Value::BoolValue(false))]),
    ]
}

fn one_of<T: Clone>(random: &mut Random, of: &[T]) -> T {
    of[random.next() as usize % of.len()].clone()
}

/// The recording of a seed.
pub fn record(seed: u64, traces: usize) -> Recording {
    let mut random = Random::new(seed);
    let mut slots: BTreeMap<u64, Vec<(TraceId, Sent)>> = BTreeMap::new();
    for _ in 0..traces {
        let begin = random.next() % 100;
        for (slot, sent) in trace(&mut random) {
            let at_ms = (begin + slot) * SLOT_MS + OFF_MS;
            let id = TraceId(sent.span.trace_id[..].try_into().expect("16 bytes"));
            slots.entry(at_ms).or_default().push((id, Sent { at_ms, ..sent }));
        }
    }
    let resources = resources();
    let mut recording = Recording::default();
    let mut made: BTreeMap<TraceId, Made> = BTreeMap::new();
    for (at_ms, mut sent) in slots {
        sent.sort_by_key(|(_, sent)| sent.resource);
        let mut request = ExportTraceServiceRequest::default();
        for of_resource in sent.chunk_by(|left, right| left.1.resource == right.1.resource) {
            let resource = resources[of_resource[0].1.resource].clone();
            let spans = of_resource.iter().map(|(_, sent)| sent.span.clone()).collect();
            request.resource_spans.push(resource_spans(resource, spans));
        }
        recording.requests.push((at_ms, request.encode_to_vec()));
        for (id, sent) in sent {
            let trace = made.entry(id).or_default();
            trace.id = id;
            trace.spans.push(sent);
        }
    }
    recording.traces = made.into_values().collect();
    recording
}

fn resource_spans(resource: Resource, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "recorder".into(),
                ..InstrumentationScope::default()
            }),
            spans,
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    }
}

/// The spans of a trace, each with how many slots after the trace's first it comes.
fn trace(random: &mut Random) -> Vec<(u64, Sent)> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random.next().to_be_bytes());
    id[8..].copy_from_slice(&random.next().to_be_bytes());
    let rv = random.next() >> 8;
    let (state, is_everywhere) = (random.unit(), random.unit() < 0.7);
    let state = match (state * 100.0) as u64 {
        0..55 => String::new(),
        55..65 => "vendor=blue".to_owned(),
        65..70 => "vendor=red".to_owned(),
        70..78 => {
            // Whoever sampled it upstream kept it.
            id[9] |= 0x80;
            "vendor=blue, ot=th:8".to_owned()
        }
        78..84 => format!("ot=rv:{rv:014x}"),
        84..88 => format!("ot=th:c;rv:{:014x},vendor=green", rv | 0xc0 << 48),
        // Two of one vendor, and a vendor of no name: W3C allows neither.
        88..94 => "vendor=blue,vendor=red".to_owned(),
        _ => "=x,vendor=blue".to_owned(),
    };
    let spans = 1 + (random.lognormal(4.0, 0.8) as usize).min(20);
    let durations = [
        0.3, 5.0, 120.0, 499.9, 500.0, 500.4, 501.0, 501.2, 900.0, 1999.0, 2000.0, 2000.7, 2001.0, 8000.0,
    ];
    let whole_ns = (one_of(random, &durations) * 1e6) as u64;
    let start_ns = BEGAN_NS + random.next() % 60_000 * MS;
    let (has_root, has_error, has_ok) = (random.unit() < 0.9, random.unit() < 0.12, random.unit() < 0.1);
    let is_flagged = random.unit() < 0.3;
    let mut sent = Vec::new();
    let mut ids: Vec<[u8; 8]> = Vec::new();
    for number in 0..spans {
        let own = random.next().to_be_bytes();
        let parent = match number {
            0 if has_root => Vec::new(),
            0 => random.next().to_be_bytes().to_vec(),
            _ => one_of(random, &ids).to_vec(),
        };
        ids.push(own);
        // The first one lasts as long as the trace; of the others some begin earlier.
        let (from, to) = match number {
            0 => (0, whole_ns),
            _ => {
                let from = (random.unit() * whole_ns as f64) as u64;
                (from, from + (random.unit() * (whole_ns - from) as f64) as u64)
            }
        };
        let code = match number + 1 == spans {
            true if has_error => 2,
            true if has_ok => 1,
            _ => 0,
        };
        let says = is_everywhere || number == 0;
        let span = Span {
            trace_id: id.to_vec(),
            span_id: own.to_vec(),
            parent_span_id: parent,
            trace_state: if says { state.clone() } else { String::new() },
            flags: 0x100 | u32::from(is_flagged && number == spans / 2),
            name: one_of(random, &["GET /cart", "GET /cart/7", "POST /pay", "poll"]).into(),
            kind: 1 + (random.next() % 5) as i32,
            start_time_unix_nano: start_ns + from,
            end_time_unix_nano: start_ns + to,
            attributes: attributes(random),
            status: Some(Status {
                code,
                message: "m".into(),
            }),
            ..Span::default()
        };
        let resource = if random.unit() < 0.9 {
            0
        } else {
            random.next() as usize % resources().len()
        };
        let slot = match number {
            // In some traces the root comes last, in some a span comes when all is decided.
            0 => random.next() % 6,
            _ if random.unit() < 0.015 => 2 * (WAIT_MS / SLOT_MS) - random.next() % 6,
            _ => random.next() % 4,
        };
        let span = Sent {
            at_ms: 0,
            span,
            resource,
        };
        // It is sent again since nobody answered.
        if slot < 6 && random.unit() < 0.04 {
            sent.push((slot + 1, span.clone()));
        }
        sent.push((slot, span));
    }
    // Of a trace that has late spans only, none is late.
    let first = sent.iter().map(|(slot, _)| *slot).min().unwrap_or_default();
    sent.iter_mut().for_each(|(slot, _)| *slot -= first);
    sent
}

fn attributes(random: &mut Random) -> Vec<KeyValue> {
    let mut pairs = vec![pair("thread.id", Value::IntValue((random.next() % 100) as i64))];
    let tiers = [
        text("gold"),
        text("silver"),
        text("bronze"),
        text(""),
        text("7up"),
        // A digit, but not one of ASCII.
        text("\u{663}"),
        Value::IntValue(7),
    ];
    let codes = [
        Value::IntValue(200),
        Value::IntValue(404),
        Value::IntValue(500),
        Value::IntValue(0),
        Value::IntValue(-1),
        Value::DoubleValue(404.0),
        Value::DoubleValue(450.5),
        text("404"),
    ];
    let cached = [
        Value::BoolValue(true),
        Value::BoolValue(false),
        text("true"),
        Value::IntValue(1),
    ];
    for (key, share, values) in [
        ("tier", 0.06, &tiers[..]),
        ("http.status_code", 0.08, &codes),
        ("cached", 0.05, &cached),
    ] {
        if random.unit() < share {
            pairs.push(pair(key, one_of(random, values)));
        }
    }
    pairs
}

impl Made {
    fn first_ms(&self) -> u64 {
        self.spans.first().map_or(0, |sent| sent.at_ms)
    }

    /// The spans that it is decided by.
    pub fn waited(&self) -> impl Iterator<Item = &Sent> {
        let due_ms = self.first_ms() + WAIT_MS;
        self.spans.iter().filter(move |sent| sent.at_ms < due_ms)
    }

    /// The second at which the Collector decides: with the whole second after the first span it closes a batch, and so many later takes it.
    pub fn second(&self) -> u64 {
        self.first_ms().div_ceil(1000) + WAIT_MS / 1000
    }

    /// Spans that it is decided by, each once.
    pub fn waited_once(&self) -> u64 {
        let ids: BTreeSet<&[u8]> = self.waited().map(|sent| sent.span.span_id.as_slice()).collect();
        ids.len() as u64
    }

    /// Its spans, late ones too, without those that come again while it waits.
    pub fn once(&self) -> u64 {
        self.spans.len() as u64 - self.count() + self.waited_once()
    }

    /// Spans that it is decided by, each as often as it came.
    pub fn count(&self) -> u64 {
        self.waited().count() as u64
    }

    /// Bytes of them in the batches that the Collector cuts them into.
    pub fn bytes(&self) -> u64 {
        let waited: Vec<&Sent> = self.waited().collect();
        let resources = resources();
        let batches = waited.chunk_by(|left, right| (left.at_ms, left.resource) == (right.at_ms, right.resource));
        let resource_spans = batches.map(|batch| {
            let spans = batch.iter().map(|sent| {
                let mut span = sent.span.clone();
                // A parent that there is none of takes two bytes there.
                if span.parent_span_id.is_empty() {
                    span.name.push_str("..");
                }
                span
            });
            resource_spans(resources[batch[0].resource].clone(), spans.collect())
        });
        let resource_spans = resource_spans.collect();
        ExportTraceServiceRequest { resource_spans }.encoded_len() as u64
    }

    /// What the tracestates say of sampling.
    pub fn upstream(&self) -> Upstream {
        let said = self
            .waited()
            .map(|sent| Upstream::parse(sent.span.trace_state.as_bytes()));
        said.fold(Upstream::default(), |known, said| Upstream {
            threshold: known.threshold.or(said.threshold),
            randomness: known.randomness.or(said.randomness),
        })
    }

    pub fn randomness(&self) -> Randomness {
        self.upstream().randomness(self.id)
    }

    /// Whether a span or its resource has an attribute with such a value.
    pub fn has(&self, key: &str, is_such: impl Fn(&Value) -> bool) -> bool {
        let resources = resources();
        self.waited().any(|sent| {
            let mut pairs = sent.span.attributes.iter().chain(&resources[sent.resource].attributes);
            pairs.any(|pair| {
                let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
                pair.key == key && value.is_some_and(&is_such)
            })
        })
    }

    /// Whether a span itself has an attribute with such a value.
    pub fn has_own(&self, key: &str, is_such: impl Fn(&Value) -> bool) -> bool {
        self.waited().any(|sent| {
            let mut pairs = sent.span.attributes.iter();
            pairs.any(|pair| {
                let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
                pair.key == key && value.is_some_and(&is_such)
            })
        })
    }

    pub fn has_status(&self, code: i32) -> bool {
        let mut waited = self.waited();
        waited.any(|sent| sent.span.status.as_ref().map_or(0, |status| status.code) == code)
    }

    /// Whole ms from the first start to the last end, after each span in the order of their arrival.
    pub fn lengths_ms(&self) -> Vec<u64> {
        let (mut start, mut end) = (u64::MAX, 0);
        let after = |sent: &Sent| {
            start = start.min(sent.span.start_time_unix_nano);
            end = end.max(sent.span.end_time_unix_nano);
            (end - start) / MS
        };
        self.waited().map(after).collect()
    }
}
