//! What clients send: requests of spans, logs and metrics, from a seed.

use std::rc::Rc;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tailwater_model::ids::TraceId;
use tailwater_model::signal::Signal;

/// A span of the workload.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub trace: u32,
    pub service: u32,
    /// Ends its trace, so that the sampler decides soon.
    pub root: bool,
    /// How near it is to a limit: limits differ between runs of the process.
    pub odd: u8,
}

#[derive(Debug)]
pub struct Request {
    pub number: usize,
    pub signal: Signal,
    /// Spans; empty for other signals.
    pub spans: Vec<Span>,
    /// Log records or data points; 0 for traces.
    pub items: u32,
}

impl Request {
    pub fn items(&self) -> u32 {
        self.items + self.spans.len() as u32
    }

    pub fn digest(&self) -> u128 {
        u128::from(mix(self.number as u64)) << 64 | self.number as u128
    }

    /// Ordinals that a process with these limits rejects.
    pub fn rejected(&self, limit: u8) -> Vec<u32> {
        let odd = self
            .spans
            .iter()
            .map(|span| span.odd)
            .chain((0..self.items).map(|item| (mix(item.into()) % 16) as u8));
        odd.enumerate()
            .filter(|(_, odd)| *odd >= limit)
            .map(|(ordinal, _)| ordinal as u32)
            .collect()
    }
}

/// A good enough hash.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .wrapping_add(0x9e37_79b9);
    (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) ^ value >> 31
}

pub fn trace_id(trace: u32) -> TraceId {
    let mut id = [1; 16];
    id[..8].copy_from_slice(&mix(trace.into()).to_be_bytes());
    TraceId(id)
}

/// R of a trace, 56 bits.
pub fn randomness(trace: u32) -> u64 {
    mix(u64::from(trace) + 77) >> 8
}

/// Requests in the order in which they are sent. Traces are spread over many requests; every third request adds to the giant trace 0;
/// some spans come long after their root.
pub fn requests(rng: &mut SmallRng, count: usize) -> Vec<Rc<Request>> {
    let traces = count as u32;
    let mut spans = Vec::new();
    for trace in 1..traces {
        let length = rng.random_range(1..6);
        let start = f64::from(trace) + rng.random_range(0.0..3.0);
        for index in 0..length {
            let late = if rng.random_bool(0.15) {
                rng.random_range(5.0..25.0)
            } else {
                0.0
            };
            let span = Span {
                trace,
                service: trace % 3,
                root: index == length - 1 && rng.random_bool(0.8),
                odd: rng.random_range(0..16),
            };
            spans.push((start + f64::from(index) * rng.random_range(0.0..2.0) + late, span));
        }
    }
    for index in 0..count {
        if index % 3 == 0 {
            spans.push((
                index as f64,
                Span {
                    trace: 0,
                    service: 0,
                    root: false,
                    odd: rng.random_range(0..16),
                },
            ));
        }
    }
    spans.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let mut spans = spans.into_iter().map(|(_, span)| span).peekable();
    let mut requests = Vec::new();
    while spans.peek().is_some() {
        let number = requests.len();
        let (signal, spans, items) = match rng.random_range(0..6) {
            0 => (Signal::Logs, Vec::new(), rng.random_range(0..5)),
            1 => (Signal::Metrics, Vec::new(), rng.random_range(1..5)),
            _ => {
                let mut spans: Vec<_> = spans.by_ref().take(rng.random_range(1..9)).collect();
                spans.shuffle(rng);
                (Signal::Traces, spans, 0)
            }
        };
        requests.push(Rc::new(Request {
            number,
            signal,
            spans,
            items,
        }));
    }
    requests
}
