//! Pre-encoded request bodies whose ids, times and noisy values are written in place, once per request.
//!
//! Guarantees: a stamp never changes the length of a body, so no length prefix has to be touched; the result is a pure function
//! of (template, seed, request numbers, time). Stamping a 512-span body costs about as much as copying it, which is what lets
//! one core feed a server with millions of spans a second.

use tailwater_model::signal::Signal;

use super::ids;

/// How the body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Protobuf: ids are raw bytes, times little-endian fixed64.
    Binary,
    /// OTLP/JSON: ids are lower-case hex, times 19 decimal digits.
    Json,
}

/// What to write at a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    /// Id of this trace of the linked request.
    Trace(u32),
    /// Id of this span of the linked request.
    Span(u32),
    /// A time: of this trace, so many nanoseconds from the moment of sending (scaled by the trace's own factor).
    Time {
        /// Trace whose jitter applies.
        trace: u32,
        /// Nanoseconds relative to the moment of sending; not above 0.
        offset_ns: i64,
    },
    /// A time that is not jittered.
    Moment {
        /// Nanoseconds relative to the moment of sending.
        offset_ns: i64,
    },
    /// Start of every cumulative series: the start of the run.
    RunStart,
    /// Id of this item as 16 hex digits.
    Uid(u32),
    /// 16 hex digits of noise.
    Hex(u32),
    /// `ddd.ddd`, each 100..=255: the pods of a cluster.
    Address(u32),
    /// 16384..=65535: a three-byte varint, or five digits in JSON.
    Port(u32),
    /// Seven decimal digits below a million.
    Digits(u32),
    /// A counter that grows with the request number: sfixed64, or 12 digits in JSON.
    Count,
    /// A double in 0..100: fixed64, or `dd.dddd` in JSON.
    Gauge(u32),
}

impl What {
    /// Encoded width in bytes.
    pub fn width(self, form: Form) -> usize {
        let json = form == Form::Json;
        match self {
            What::Trace(_) => [16, 32][usize::from(json)],
            What::Span(_) => [8, 16][usize::from(json)],
            What::Time { .. } | What::Moment { .. } | What::RunStart => [8, 19][usize::from(json)],
            What::Uid(_) | What::Hex(_) => 16,
            What::Address(_) => 7,
            What::Port(_) => [3, 5][usize::from(json)],
            What::Digits(_) => 7,
            What::Count => [8, 12][usize::from(json)],
            What::Gauge(_) => [8, 7][usize::from(json)],
        }
    }
}

/// A place in a body and what belongs there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stamp {
    /// Byte offset.
    pub at: u32,
    /// What to write.
    pub what: What,
}

/// What makes one request differ from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Seed of the run.
    pub seed: u64,
    /// Number of this request, unique in the run.
    pub request: u64,
    /// Number of the request whose trace and span ids are used: its own, except for logs that belong to spans.
    pub link: u64,
    /// Nanoseconds since 1970 of sending; 19 digits (after September 2001).
    pub now_ns: u64,
    /// Nanoseconds since 1970 of the start of the run.
    pub run_start_ns: u64,
}

/// A pre-encoded request.
#[derive(Debug, Clone)]
pub struct Template {
    /// Of which signal.
    pub signal: Signal,
    /// How it is written.
    pub form: Form,
    /// Spans, points or records in it.
    pub items: u32,
    /// Traces it touches; 0 for metrics.
    pub traces: u32,
    body: Vec<u8>,
    stamps: Vec<Stamp>,
}

impl Template {
    /// A template of these parts.
    ///
    /// # Panics
    /// When a stamp reaches beyond the body: the encoders write the placeholder they record.
    pub fn new(signal: Signal, form: Form, items: u32, traces: u32, body: Vec<u8>, stamps: Vec<Stamp>) -> Template {
        for stamp in &stamps {
            assert!(
                stamp.at as usize + stamp.what.width(form) <= body.len(),
                "a stamp lies within its body"
            );
        }
        Template {
            signal,
            form,
            items,
            traces,
            body,
            stamps,
        }
    }

    /// Bytes of every request made from this template.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether requests made from this template are empty.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// The id that stands for the request in the ledger: its first span or record id, its time for metrics.
    pub fn first_id(&self, moment: &Moment) -> String {
        match self.signal {
            Signal::Metrics => moment.now_ns.to_string(),
            Signal::Traces | Signal::Logs => hex::encode(ids::item_id(moment.seed, moment.request, 0)),
        }
    }

    /// Appends the body of one request to `out`.
    pub fn write(&self, moment: &Moment, out: &mut Vec<u8>) {
        let base = out.len();
        out.extend_from_slice(&self.body);
        let body = &mut out[base..];
        let paces: Vec<Pace> = (0..self.traces).map(|trace| Pace::of(moment, trace)).collect();
        for stamp in &self.stamps {
            let at = stamp.at as usize;
            let place = &mut body[at..at + stamp.what.width(self.form)];
            match self.form {
                Form::Binary => stamp_binary(stamp.what, moment, &paces, place),
                Form::Json => stamp_json(stamp.what, moment, &paces, place),
            }
        }
    }
}

/// A trace's own tempo in one request: its times are stretched and moved so that no two requests share durations, while
/// containment of children in parents survives (the map is affine).
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Stretch in 1/1024: 0.5 to 1.5.
    stretch: i64,
    /// Extra distance from now, below 50 ms.
    back_ns: i64,
}

impl Pace {
    fn of(moment: &Moment, trace: u32) -> Pace {
        let noise = ids::noise(moment.seed ^ 0x70ac_e000, moment.link, trace);
        Pace {
            stretch: 512 + (noise & 1023) as i64,
            back_ns: ((noise >> 10) % 50_000_000) as i64,
        }
    }

    fn apply(self, now_ns: u64, offset_ns: i64) -> u64 {
        let moved = (i128::from(offset_ns) * i128::from(self.stretch)) >> 10;
        now_ns.saturating_add_signed(moved as i64 - self.back_ns)
    }
}

fn time_of(what: What, moment: &Moment, paces: &[Pace]) -> u64 {
    match what {
        What::Time { trace, offset_ns } => paces[trace as usize].apply(moment.now_ns, offset_ns),
        What::Moment { offset_ns } => moment.now_ns.saturating_add_signed(offset_ns),
        _ => moment.run_start_ns,
    }
}

fn stamp_binary(what: What, moment: &Moment, paces: &[Pace], place: &mut [u8]) {
    match what {
        What::Trace(trace) => place.copy_from_slice(&ids::trace_id(moment.seed, moment.link, trace)),
        What::Span(span) => place.copy_from_slice(&ids::item_id(moment.seed, moment.link, span)),
        What::Time { .. } | What::Moment { .. } | What::RunStart => {
            place.copy_from_slice(&time_of(what, moment, paces).to_le_bytes());
        }
        What::Count => place.copy_from_slice(&count(moment).to_le_bytes()),
        What::Gauge(salt) => place.copy_from_slice(&gauge(moment, salt).to_le_bytes()),
        What::Port(salt) => {
            let port = port(moment, salt);
            place.copy_from_slice(&[
                (port & 0x7f) as u8 | 0x80,
                (port >> 7 & 0x7f) as u8 | 0x80,
                (port >> 14) as u8,
            ]);
        }
        text => stamp_text(text, moment, place),
    }
}

fn stamp_json(what: What, moment: &Moment, paces: &[Pace], place: &mut [u8]) {
    match what {
        What::Trace(trace) => write_hex(&ids::trace_id(moment.seed, moment.link, trace), place),
        What::Span(span) => write_hex(&ids::item_id(moment.seed, moment.link, span), place),
        What::Time { .. } | What::Moment { .. } | What::RunStart => write_digits(time_of(what, moment, paces), place),
        What::Count => {
            // A JSON number must not start with 0, so the width is kept by an offset.
            write_digits(100_000_000_000 + count(moment), place);
        }
        What::Gauge(salt) => {
            let units = (gauge(moment, salt) * 10_000.0) as u64 % 900_000 + 100_000;
            write_digits(units / 10_000, &mut place[..2]);
            place[2] = b'.';
            write_digits(units % 10_000, &mut place[3..]);
        }
        What::Port(salt) => write_digits(u64::from(port(moment, salt)), place),
        text => stamp_text(text, moment, place),
    }
}

/// The values that are text in both forms.
fn stamp_text(what: What, moment: &Moment, place: &mut [u8]) {
    match what {
        What::Uid(item) => write_hex(&ids::item_id(moment.seed, moment.request, item), place),
        What::Hex(salt) => write_hex(&ids::noise(moment.seed, moment.request, salt).to_be_bytes(), place),
        What::Address(salt) => {
            let noise = ids::noise(moment.seed ^ 0xadd8, moment.request, salt);
            place.fill(b'.');
            for part in 0..2 {
                write_digits(100 + (noise >> (part * 16)) % 156, &mut place[part * 4..part * 4 + 3]);
            }
        }
        What::Digits(salt) => write_digits(
            ids::noise(moment.seed ^ 0xd161, moment.request, salt) % 1_000_000,
            place,
        ),
        _ => unreachable!("ids, times and numbers are handled per form"),
    }
}

fn port(moment: &Moment, salt: u32) -> u32 {
    16_384 + (ids::noise(moment.seed ^ 0x9047, moment.request, salt) % 49_152) as u32
}

fn count(moment: &Moment) -> u64 {
    moment.request
}

fn gauge(moment: &Moment, salt: u32) -> f64 {
    // Quarter units: realistic gauges repeat, and doubles with long mantissas would measure the noise, not the store.
    (ids::noise(moment.seed ^ 0x6a06, moment.request, salt) % 400) as f64 / 4.0
}

fn write_hex(bytes: &[u8], place: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(place.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn write_digits(mut value: u64, place: &mut [u8]) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}
