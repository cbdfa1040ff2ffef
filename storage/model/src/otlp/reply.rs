//! What a client is answered, in the encoding of its request.
//!
//! Success is `Export<Signal>ServiceResponse`: empty on full success (`partial_success` must be *unset* then, its presence alone
//! would be a warning), else with the count of rejected items and a message. Failure is `google.rpc.Status`: over HTTP the body,
//! over gRPC the trailers `grpc-status`, `grpc-message` and `grpc-status-details-bin`.
//!
//! Guarantees: an answer is at most [`REPLY_BYTES_MAX`] bytes (OTLP 1.11 asks for a limit and names 4 MiB); what does not fit is
//! cut from the end of the message first, then whole field violations go. Messages are valid UTF-8 in any case.
//!
//! Leaves out: which code is retryable and when; the caller decides that (`design/reliability.md` section 2).

use std::fmt::Write as _;
use std::time::Duration;

use super::json::push_varint;
use crate::signal::Signal;

/// Largest answer in bytes, of either encoding.
pub const REPLY_BYTES_MAX: usize = 4 << 20;

/// Largest `google.rpc.Status` in a gRPC trailer, before base64: header lists are commonly refused from 8 KiB on.
pub const TRAILER_BYTES_MAX: usize = 2 << 10;

/// How a request was written, and so its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/x-protobuf`, and gRPC.
    Protobuf,
    /// `application/json`.
    Json,
}

impl Encoding {
    /// Media type of an HTTP body.
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Protobuf => "application/x-protobuf",
            Encoding::Json => "application/json",
        }
    }
}

/// What a success says when not everything, or not everything unchanged, was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartialSuccess {
    /// Items that were refused for good. 0 with a message is a warning on full acceptance.
    pub rejected: u64,
    /// Why, in English.
    pub message: String,
}

/// The canonical codes of gRPC, as far as an OTLP server answers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// The request is malformed; final.
    InvalidArgument = 3,
    /// The deadline passed; retryable.
    DeadlineExceeded = 4,
    /// Not allowed; final.
    PermissionDenied = 7,
    /// A quota (with a delay: retryable) or a size limit (without: final).
    ResourceExhausted = 8,
    /// No such method, path, media type or encoding; final.
    Unimplemented = 12,
    /// A broken invariant; final.
    Internal = 13,
    /// Overload or shutdown; retryable.
    Unavailable = 14,
    /// No or bad credentials; final.
    Unauthenticated = 16,
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// One entry of a `google.rpc.BadRequest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, as in `resourceSpans[0].scopeSpans[0]`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// A failure: `google.rpc.Status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What kind.
    pub code: Code,
    /// Why, in English.
    pub message: String,
    /// When to try again (`google.rpc.RetryInfo`). `None` means, for `ResourceExhausted`, never.
    pub retry_after: Option<Duration>,
    /// Where the request is bad (`google.rpc.BadRequest`).
    pub violations: Vec<Violation>,
}

impl Status {
    /// A failure without details.
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status {
            code,
            message: message.into(),
            retry_after: None,
            violations: Vec::new(),
        }
    }

    /// The same, to be tried again after a while.
    pub fn retry_after(mut self, delay: Duration) -> Status {
        self.retry_after = Some(delay);
        self
    }

    /// The same, pointing at a field.
    pub fn violation(mut self, field: impl Into<String>, description: impl Into<String>) -> Status {
        self.violations.push(Violation {
            field: field.into(),
            description: description.into(),
        });
        self
    }

    /// The body of a failed HTTP request.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        self.encode_within(encoding, REPLY_BYTES_MAX)
    }

    /// Value of the trailer `grpc-status-details-bin`: the status in base64 without padding. `None` when there are no details,
    /// because the other two trailers say the rest.
    pub fn details_trailer(&self) -> Option<String> {
        if self.retry_after.is_none() && self.violations.is_empty() {
            return None;
        }
        Some(base64_unpadded(
            &self.encode_within(Encoding::Protobuf, TRAILER_BYTES_MAX),
        ))
    }

    /// Value of the trailer `grpc-message`: the message, percent-encoded, cut to what a trailer may hold.
    pub fn message_trailer(&self) -> String {
        let mut out = String::with_capacity(self.message.len().min(TRAILER_BYTES_MAX));
        for character in self.message.chars() {
            let before = out.len();
            let mut utf8 = [0; 4];
            for byte in character.encode_utf8(&mut utf8).bytes() {
                if matches!(byte, b' '..=b'~') && byte != b'%' {
                    out.push(char::from(byte));
                } else {
                    write!(out, "%{byte:02X}").expect("writing to a String does not fail");
                }
            }
            if out.len() > TRAILER_BYTES_MAX {
                out.truncate(before);
                break;
            }
        }
        out
    }

    fn encode_within(&self, encoding: Encoding, bytes_max: usize) -> Vec<u8> {
        // The message goes first, then violations from the last; code and delay always stay, they are what a client acts on.
        let mut violations = &self.violations[..];
        loop {
            let encode = |message: &str| match encoding {
                Encoding::Protobuf => self.protobuf(message, violations),
                Encoding::Json => self.json(message, violations),
            };
            let encoded = shorten(&self.message, bytes_max, encode);
            match violations {
                [kept @ .., _last] if encoded.len() > bytes_max => violations = &kept[..kept.len() / 2],
                _ => return encoded,
            }
        }
    }

    fn protobuf(&self, message: &str, violations: &[Violation]) -> Vec<u8> {
        let mut out = Vec::new();
        push_int(&mut out, 1, i64::from(self.code.number()));
        push_bytes(&mut out, 2, message.as_bytes());
        if let Some(delay) = self.retry_after {
            let mut duration = Vec::new();
            push_int(&mut duration, 1, seconds(delay));
            push_int(&mut duration, 2, i64::from(delay.subsec_nanos()));
            let mut info = Vec::new();
            push_message(&mut info, 1, &duration);
            push_any(&mut out, RETRY_INFO, &info);
        }
        if !violations.is_empty() {
            let mut bad_request = Vec::new();
            for violation in violations {
                let mut entry = Vec::new();
                push_bytes(&mut entry, 1, violation.field.as_bytes());
                push_bytes(&mut entry, 2, violation.description.as_bytes());
                push_message(&mut bad_request, 1, &entry);
            }
            push_any(&mut out, BAD_REQUEST, &bad_request);
        }
        out
    }

    fn json(&self, message: &str, violations: &[Violation]) -> Vec<u8> {
        let mut details = Vec::new();
        if let Some(delay) = self.retry_after {
            // proto3 JSON writes 0, 3, 6 or 9 digits after the point; 0 and 9 are enough.
            let text = match delay.subsec_nanos() {
                0 => format!("{}s", seconds(delay)),
                nanos => format!("{}.{nanos:09}s", seconds(delay)),
            };
            details.push(serde_json::json!({ "@type": RETRY_INFO, "retryDelay": text }));
        }
        if !violations.is_empty() {
            let entries: Vec<_> = violations
                .iter()
                .map(|violation| serde_json::json!({ "field": violation.field, "description": violation.description }))
                .collect();
            details.push(serde_json::json!({ "@type": BAD_REQUEST, "fieldViolations": entries }));
        }
        let mut status = serde_json::json!({ "code": self.code.number(), "message": message });
        if !details.is_empty() {
            status["details"] = details.into();
        }
        status.to_string().into_bytes()
    }
}

/// The body of a successful export. Empty protobuf or `{}` when there is nothing to say.
pub fn success(signal: Signal, encoding: Encoding, partial: Option<&PartialSuccess>) -> Vec<u8> {
    let partial = partial.filter(|partial| partial.rejected > 0 || !partial.message.is_empty());
    let Some(partial) = partial else {
        return match encoding {
            Encoding::Protobuf => Vec::new(),
            Encoding::Json => b"{}".to_vec(),
        };
    };
    shorten(&partial.message, REPLY_BYTES_MAX, |message| match encoding {
        Encoding::Protobuf => {
            let mut body = Vec::new();
            push_int(&mut body, 1, i64::try_from(partial.rejected).unwrap_or(i64::MAX));
            push_bytes(&mut body, 2, message.as_bytes());
            let mut out = Vec::new();
            push_message(&mut out, 1, &body);
            out
        }
        Encoding::Json => {
            let rejected = match signal {
                Signal::Traces => "rejectedSpans",
                Signal::Metrics => "rejectedDataPoints",
                Signal::Logs => "rejectedLogRecords",
            };
            // 64-bit integers are strings in OTLP/JSON.
            let body = serde_json::json!({ rejected: partial.rejected.to_string(), "errorMessage": message });
            serde_json::json!({ "partialSuccess": body }).to_string().into_bytes()
        }
    })
}

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

/// Encodes with the longest beginning of the message that keeps the answer within the cap, found by halving: escapes make a message
/// grow by an unknown factor. When not even an empty message fits, that is what comes out.
fn shorten(message: &str, bytes_max: usize, encode: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let mut message = &message[..message.floor_char_boundary(bytes_max)];
    loop {
        let encoded = encode(message);
        if encoded.len() <= bytes_max || message.is_empty() {
            return encoded;
        }
        message = &message[..message.floor_char_boundary(message.len() / 2)];
    }
}

fn seconds(delay: Duration) -> i64 {
    // The Duration of protobuf ends after ten thousand years.
    i64::try_from(delay.as_secs()).unwrap_or(i64::MAX).min(315_576_000_000)
}

// proto3 leaves zeros and empty texts unwritten.

fn push_int(out: &mut Vec<u8>, number: u32, value: i64) {
    if value != 0 {
        push_varint(out, u64::from(number << 3));
        push_varint(out, value as u64);
    }
}

fn push_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    if !value.is_empty() {
        push_message(out, number, value);
    }
}

fn push_message(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    push_varint(out, u64::from(number << 3 | 2));
    push_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn push_any(out: &mut Vec<u8>, type_url: &str, value: &[u8]) {
    let mut any = Vec::new();
    push_bytes(&mut any, 1, type_url.as_bytes());
    push_bytes(&mut any, 2, value);
    push_message(out, 3, &any);
}

fn base64_unpadded(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..=group.len() {
            out.push(char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
    use prost::Message;

    use super::*;

    // google.rpc, by hand: the fields and numbers of google/rpc/status.proto and error_details.proto.
    #[derive(Clone, PartialEq, Message)]
    struct RpcStatus {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<ProtoDuration>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct ProtoDuration {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }
    #[derive(Clone, PartialEq, Message)]
    struct BadRequest {
        #[prost(message, repeated, tag = "1")]
        field_violations: Vec<FieldViolation>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct FieldViolation {
        #[prost(string, tag = "1")]
        field: String,
        #[prost(string, tag = "2")]
        description: String,
    }

    fn full() -> Status {
        Status::new(Code::Unavailable, "log is full \"now\"")
            .retry_after(Duration::from_millis(1500))
            .violation("a.b[0]", "too big")
    }

    #[test]
    fn full_success_leaves_partial_success_unset() {
        let nothing = PartialSuccess::default();
        for partial in [None, Some(&nothing)] {
            assert_eq!(success(Signal::Traces, Encoding::Protobuf, partial), b"");
            assert_eq!(success(Signal::Traces, Encoding::Json, partial), b"{}");
        }
    }

    #[test]
    fn partial_success_is_what_prost_reads() {
        let partial = PartialSuccess {
            rejected: 3,
            message: "3 spans: bad trace id".into(),
        };
        let read = ExportTraceServiceResponse::decode(&success(Signal::Traces, Encoding::Protobuf, Some(&partial))[..]);
        let read = read.unwrap().partial_success.unwrap();
        assert_eq!(
            (read.rejected_spans, read.error_message.as_str()),
            (3, "3 spans: bad trace id")
        );
        let read =
            ExportMetricsServiceResponse::decode(&success(Signal::Metrics, Encoding::Protobuf, Some(&partial))[..]);
        assert_eq!(read.unwrap().partial_success.unwrap().rejected_data_points, 3);
        // A warning: nothing rejected, but something to say.
        let warning = PartialSuccess {
            rejected: 0,
            message: "2 values cut".into(),
        };
        let read =
            ExportLogsServiceResponse::decode(&success(Signal::Logs, Encoding::Protobuf, Some(&warning))[..]).unwrap();
        assert_eq!(
            read.partial_success,
            Some(ExportLogsPartialSuccess {
                rejected_log_records: 0,
                error_message: "2 values cut".into()
            })
        );
    }

    #[test]
    fn partial_success_in_json_has_the_name_of_the_signal() {
        let partial = PartialSuccess {
            rejected: 3,
            message: "a \"b\"".into(),
        };
        for (signal, name) in [
            (Signal::Traces, "rejectedSpans"),
            (Signal::Metrics, "rejectedDataPoints"),
            (Signal::Logs, "rejectedLogRecords"),
        ] {
            let read: serde_json::Value =
                serde_json::from_slice(&success(signal, Encoding::Json, Some(&partial))).unwrap();
            assert_eq!(
                read,
                serde_json::json!({ "partialSuccess": { name: "3", "errorMessage": "a \"b\"" } })
            );
        }
    }

    #[test]
    fn status_is_what_prost_reads() {
        let read = RpcStatus::decode(&full().encode(Encoding::Protobuf)[..]).unwrap();
        assert_eq!((read.code, read.message.as_str()), (14, "log is full \"now\""));
        assert_eq!(read.details[0].type_url, "type.googleapis.com/google.rpc.RetryInfo");
        let delay = RetryInfo::decode(&read.details[0].value[..])
            .unwrap()
            .retry_delay
            .unwrap();
        assert_eq!((delay.seconds, delay.nanos), (1, 500_000_000));
        assert_eq!(read.details[1].type_url, "type.googleapis.com/google.rpc.BadRequest");
        let bad = BadRequest::decode(&read.details[1].value[..]).unwrap();
        assert_eq!(
            bad.field_violations,
            [FieldViolation {
                field: "a.b[0]".into(),
                description: "too big".into()
            }]
        );
        // A delay of zero is a delay: the detail must be there, with an empty duration.
        let read = RpcStatus::decode(
            &Status::new(Code::ResourceExhausted, "")
                .retry_after(Duration::ZERO)
                .encode(Encoding::Protobuf)[..],
        );
        let read = read.unwrap();
        let delay = RetryInfo::decode(&read.details[0].value[..])
            .unwrap()
            .retry_delay
            .unwrap();
        assert_eq!((delay.seconds, delay.nanos), (0, 0));
    }

    #[test]
    fn status_in_json_names_the_types_of_its_details() {
        let read: serde_json::Value = serde_json::from_slice(&full().encode(Encoding::Json)).unwrap();
        assert_eq!(
            read,
            serde_json::json!({
                "code": 14,
                "message": "log is full \"now\"",
                "details": [
                    { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.500000000s" },
                    { "@type": "type.googleapis.com/google.rpc.BadRequest",
                      "fieldViolations": [{ "field": "a.b[0]", "description": "too big" }] },
                ],
            })
        );
        let plain = Status::new(Code::InvalidArgument, "no").encode(Encoding::Json);
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&plain).unwrap(),
            serde_json::json!({ "code": 3, "message": "no" })
        );
    }

    #[test]
    fn trailers() {
        let trailer = full().details_trailer().unwrap();
        assert!(!trailer.contains('='));
        assert_eq!(Status::new(Code::Internal, "x").details_trailer(), None);
        assert_eq!(base64_unpadded(b""), "");
        assert_eq!(base64_unpadded(b"f"), "Zg");
        assert_eq!(base64_unpadded(b"fo"), "Zm8");
        assert_eq!(base64_unpadded(b"foo"), "Zm9v");
        assert_eq!(base64_unpadded(&[0xfb, 0xff, 0xbf, 0x10]), "+/+/EA");
        let message = |text: &str| Status::new(Code::Internal, text).message_trailer();
        assert_eq!(message("plain, 100% ä\n"), "plain, 100%25 %C3%A4%0A");
        assert!(message(&"ä".repeat(10_000)).len() <= TRAILER_BYTES_MAX);
        assert!(message(&"ä".repeat(10_000)).ends_with("%A4"), "cut inside a character");
        let giant = Status::new(Code::Unavailable, "m".repeat(10_000)).retry_after(Duration::from_secs(5));
        assert!(giant.encode_within(Encoding::Protobuf, TRAILER_BYTES_MAX).len() <= TRAILER_BYTES_MAX);
        let read = RpcStatus::decode(&giant.encode_within(Encoding::Protobuf, TRAILER_BYTES_MAX)[..]).unwrap();
        assert_eq!(read.details.len(), 1, "the delay outlives the message");
    }

    #[test]
    fn answers_are_capped_and_stay_readable() {
        // Quotes double in JSON, control characters grow sixfold, ä is two bytes that must not be parted.
        for text in ["m", "\"", "\u{1}", "ä"] {
            let message = text.repeat(REPLY_BYTES_MAX);
            let partial = PartialSuccess {
                rejected: 7,
                message: message.clone(),
            };
            let body = success(Signal::Traces, Encoding::Json, Some(&partial));
            assert!(
                body.len() <= REPLY_BYTES_MAX && body.len() > REPLY_BYTES_MAX / 8,
                "{}",
                body.len()
            );
            let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(read["partialSuccess"]["rejectedSpans"], "7");
            let body = success(Signal::Traces, Encoding::Protobuf, Some(&partial));
            assert!(body.len() <= REPLY_BYTES_MAX);
            assert_eq!(
                ExportTraceServiceResponse::decode(&body[..])
                    .unwrap()
                    .partial_success
                    .unwrap()
                    .rejected_spans,
                7
            );
            let status = Status::new(Code::InvalidArgument, message);
            for encoding in [Encoding::Protobuf, Encoding::Json] {
                assert!(status.encode(encoding).len() <= REPLY_BYTES_MAX);
            }
        }
        let mut many = Status::new(Code::InvalidArgument, "bad").retry_after(Duration::from_secs(1));
        for index in 0..2000 {
            many = many.violation(format!("resourceSpans[{index}]"), "d".repeat(4000));
        }
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let body = many.encode(encoding);
            assert!(
                body.len() <= REPLY_BYTES_MAX && body.len() > REPLY_BYTES_MAX / 4,
                "{}",
                body.len()
            );
        }
    }
}
