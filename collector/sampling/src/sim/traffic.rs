//! Arrivals: Poisson per key, keys by Zipf's law, lognormal spans per trace, and three bursts.

use tailwater_model::ids::{Lsn, TraceId};
use tailwater_model::otlp::item::SpanHead;
use tailwater_model::otlp::peek::SpanPeek;

use super::Random;
use crate::verdict::SpanAt;

/// Protobuf bytes of a span.
pub const SPAN_BYTES: u32 = 1000;
/// Start of made up time, unix ns: the beginning of a day.
pub const START_NS: u64 = 1_700_006_400_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// What bursts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Burst {
    /// Nothing.
    None,
    /// Ten times everything.
    Scale,
    /// Ten times everything in volume, all of it on one key.
    OneKey,
    /// Nine times as much again, on 500 keys never seen before.
    Flood,
}

/// How traffic is made.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Spans a second offered in quiet times.
    pub spans_per_sec: f64,
    /// Mean of spans per trace.
    pub spans_per_trace: f64,
    /// Different keys in quiet times.
    pub keys: u32,
    /// Part of the traces with an error.
    pub errors: f64,
    /// What happens between the two seconds.
    pub burst: Burst,
    /// First and last second of it.
    pub burst_s: (u64, u64),
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            spans_per_sec: 1000.0,
            spans_per_trace: 10.0,
            keys: 50,
            errors: 0.01,
            burst: Burst::None,
            burst_s: (300, 420),
        }
    }
}

/// A trace made up. It is offered as one span that is as large as all of them.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its id, random.
    pub id: TraceId,
    /// When it arrives, unix ns.
    pub at_ns: u64,
    /// Its key, from 0: service and operation.
    pub key: u32,
    /// How many spans it has.
    pub spans: u32,
    /// Whether one failed.
    pub error: bool,
    /// Duration of the root, ns.
    pub duration_ns: u64,
}

impl Made {
    /// The span that stands for it, of that service and name, and where it lies.
    pub fn span<'a>(&'a self, service: &'a [u8], name: &'a [u8]) -> (SpanPeek<'a, 'a>, SpanAt) {
        let len = self.spans * SPAN_BYTES;
        let head = SpanHead {
            trace_id: &self.id.0,
            span_id: &self.id.0[..8],
            name,
            kind: 2,
            start: self.at_ns - self.duration_ns,
            end: self.at_ns,
            status_code: if self.error { 2 } else { 0 },
            ..SpanHead::default()
        };
        let peek = SpanPeek {
            ordinal: 0,
            offset: 0,
            len: len as usize,
            head,
            service_name: service,
            service_namespace: b"",
            values: &[],
            of_resource: &[],
            own: 0,
        };
        let at = SpanAt {
            lsn: Lsn(1),
            ordinal: 0,
            len,
        };
        (peek, at)
    }
}

impl Traffic {
    /// The traces of a second, counted from the start, in the order of their arrival.
    pub fn second(&self, second: u64, random: &mut Random) -> Vec<Made> {
        let is_burst = (self.burst_s.0..self.burst_s.1).contains(&second);
        let traces = self.spans_per_sec / self.spans_per_trace;
        let zipf: f64 = (1..=self.keys).map(|rank| 1.0 / f64::from(rank)).sum();
        let mut made = Vec::new();
        let mut key = |key: u32, rate: f64, made: &mut Vec<Made>| {
            for _ in 0..random.poisson(rate) {
                made.push(self.trace(key, second, random));
            }
        };
        for rank in 1..=self.keys {
            let quiet = traces / zipf / f64::from(rank);
            let more = match self.burst {
                Burst::Scale if is_burst => 9.0 * quiet,
                Burst::OneKey if is_burst && rank == self.keys / 2 => 9.0 * traces,
                _ => 0.0,
            };
            key(rank - 1, quiet + more, &mut made);
        }
        if self.burst == Burst::Flood && is_burst {
            (0..500).for_each(|new| key(self.keys + new, traces * 9.0 / 500.0, &mut made));
        }
        made.sort_by_key(|trace| (trace.at_ns, trace.id));
        made
    }

    fn trace(&self, key: u32, second: u64, random: &mut Random) -> Made {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&random.next().to_be_bytes());
        id[8..].copy_from_slice(&random.next().to_be_bytes());
        Made {
            id: TraceId(id),
            at_ns: START_NS + second * SECOND_NS + random.next() % SECOND_NS,
            key,
            spans: random.lognormal(self.spans_per_trace, 0.9).round().clamp(1.0, 10_000.0) as u32,
            error: random.unit() < self.errors,
            duration_ns: random.lognormal(100e6, 1.0) as u64,
        }
    }
}
