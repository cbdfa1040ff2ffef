//! What a server's answer means for a request: acked, try again, or final. Pure; OTLP 1.11's words.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use prost::Message;
use tailwater_model::signal::Signal;
use tonic::Code;

/// Meaning of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Accepted; so many items were rejected through `partial_success`.
    Acked {
        /// Items rejected.
        rejected: u64,
    },
    /// Refused for now: send the same bytes again.
    Refused {
        /// What the server called it: `429`, `UNAVAILABLE`, ...
        code: String,
        /// When, if the server said so.
        after: Option<Duration>,
    },
    /// Refused for good.
    Final {
        /// Code and message.
        code: String,
    },
    /// No answer: the connection failed or the time was up. The server may have stored the request.
    Broken {
        /// Why.
        cause: String,
    },
}

/// `partial_success` of all three signals: they differ in field names only.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo` with its `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// Meaning of an OTLP/HTTP answer.
pub fn of_http(signal: Signal, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
    let kind = headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let is = |name: &str| kind.is_some_and(|kind| kind.starts_with(name.as_bytes()));
    let json = is("application/json");
    match status.as_u16() {
        200..=299 if json => match serde_json::from_slice::<serde_json::Value>(body) {
            Ok(answer) => Answer::Acked {
                rejected: json_rejected(signal, &answer),
            },
            Err(error) => Answer::Final {
                code: format!("{status}: unreadable answer: {error}"),
            },
        },
        200..=299 => of_response(body, || status.to_string()),
        429 | 502 | 503 | 504 => Answer::Refused {
            code: status.as_str().to_owned(),
            after: headers
                .get(http::header::RETRY_AFTER)
                .and_then(|value| retry_after(value.to_str().ok()?)),
        },
        _ if json || is("text/plain") => Answer::Final {
            code: format!("{} {}", status.as_str(), String::from_utf8_lossy(body).trim_end()),
        },
        _ => {
            let message = RpcStatus::decode(body).map(|status| status.message).unwrap_or_default();
            Answer::Final {
                code: format!("{} {message}", status.as_str()).trim_end().to_owned(),
            }
        }
    }
}

/// An answer that was final below gRPC, with what the reason may be.
pub fn no_grpc(answer: Answer) -> Answer {
    match answer {
        Answer::Final { code } => Answer::Final {
            code: format!("{code} without gRPC: is it an OTLP/HTTP port? --protocol http speaks that"),
        },
        other => other,
    }
}

/// Meaning of an OTLP/gRPC answer: its trailers (or, for an answer of headers only, its headers) and its body.
pub fn of_grpc(trailers: &HeaderMap, body: &[u8]) -> Answer {
    let Some(status) = tonic::Status::from_header_map(trailers) else {
        return Answer::Broken {
            cause: "answer without grpc-status".to_owned(),
        };
    };
    let name = || format!("{:?}", status.code());
    match status.code() {
        // Five bytes of framing: compressed flag and length. Compression was not offered.
        Code::Ok => of_response(body.get(5..).unwrap_or_default(), name),
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Answer::Refused {
            code: name(),
            after: retry_info(status.details()),
        },
        Code::ResourceExhausted => match retry_info(status.details()) {
            // Without RetryInfo the spec calls it final: the server will not recover.
            None => Answer::Final {
                code: format!("{} {}", name(), status.message()),
            },
            after => Answer::Refused { code: name(), after },
        },
        _ => Answer::Final {
            code: format!("{} {}", name(), status.message()),
        },
    }
}

fn of_response(body: &[u8], name: impl Fn() -> String) -> Answer {
    match ExportResponse::decode(body) {
        Ok(response) => {
            let rejected = response.partial_success.map_or(0, |partial| partial.rejected);
            Answer::Acked {
                rejected: rejected.max(0) as u64,
            }
        }
        Err(error) => Answer::Final {
            code: format!("{}: unreadable answer: {error}", name()),
        },
    }
}

fn json_rejected(signal: Signal, answer: &serde_json::Value) -> u64 {
    let key = match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
    };
    let value = &answer["partialSuccess"][key];
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

/// `Retry-After` in seconds. The date form is not used by OTLP servers and reads as nothing said.
fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&info.value[..]).ok()?.retry_delay.unwrap_or_default();
    Some(Duration::new(
        delay.seconds.try_into().ok()?,
        delay.nanos.try_into().ok()?,
    ))
}

/// How long to wait before attempt `attempt` (0: the first repetition). `jitter` is in 0..1.
pub fn backoff(attempt: u32, after: Option<Duration>, jitter: f64) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(5);
    match after {
        // Never sooner than the server said, and not all clients at once.
        Some(after) => after.max(Duration::from_millis(10)).mul_f64(1.0 + jitter * 0.2),
        None => FIRST
            .saturating_mul(1 << attempt.min(10))
            .min(MOST)
            .mul_f64(0.5 + jitter),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn http(status: u16, headers: &[(&'static str, &'static str)], body: &[u8]) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        of_http(Signal::Traces, StatusCode::from_u16(status).unwrap(), &headers, body)
    }

    #[test]
    fn http_answers() {
        assert_eq!(http(200, &[], b""), Answer::Acked { rejected: 0 });
        let partial = ExportResponse {
            partial_success: Some(PartialSuccess {
                rejected: 3,
                ..Default::default()
            }),
        };
        assert_eq!(http(200, &[], &partial.encode_to_vec()), Answer::Acked { rejected: 3 });
        let json = [("content-type", "application/json")];
        assert_eq!(
            http(200, &json, br#"{"partialSuccess":{"rejectedSpans":"4"}}"#),
            Answer::Acked { rejected: 4 }
        );
        assert_eq!(http(200, &json, b"{}"), Answer::Acked { rejected: 0 });
        let refused = Answer::Refused {
            code: "503".into(),
            after: Some(Duration::from_secs(7)),
        };
        assert_eq!(http(503, &[("retry-after", "7")], b""), refused);
        assert_eq!(
            http(429, &[], b""),
            Answer::Refused {
                code: "429".into(),
                after: None
            }
        );
        let bad = RpcStatus {
            message: "no".into(),
            ..Default::default()
        }
        .encode_to_vec();
        assert_eq!(http(400, &[], &bad), Answer::Final { code: "400 no".into() });
        assert!(matches!(http(200, &[], b"\xff\xff"), Answer::Final { .. }));
    }

    #[test]
    fn grpc_answers() {
        let answer = |code: Code, details: Vec<u8>| {
            let status = tonic::Status::with_details(code, "why", details.into());
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers).unwrap();
            of_grpc(&trailers, b"\0\0\0\0\0")
        };
        let seconds = |seconds| {
            let info = RetryInfo {
                retry_delay: Some(Span {
                    seconds,
                    nanos: 500_000_000,
                }),
            }
            .encode_to_vec();
            let any = Any {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
                value: info,
            };
            RpcStatus {
                details: vec![any],
                ..Default::default()
            }
            .encode_to_vec()
        };
        assert_eq!(answer(Code::Ok, vec![]), Answer::Acked { rejected: 0 });
        assert_eq!(
            answer(Code::Unavailable, vec![]),
            Answer::Refused {
                code: "Unavailable".into(),
                after: None
            }
        );
        let after = Some(Duration::from_millis(2_500));
        assert_eq!(
            answer(Code::Unavailable, seconds(2)),
            Answer::Refused {
                code: "Unavailable".into(),
                after
            }
        );
        assert_eq!(
            answer(Code::ResourceExhausted, seconds(2)),
            Answer::Refused {
                code: "ResourceExhausted".into(),
                after
            }
        );
        assert!(matches!(answer(Code::ResourceExhausted, vec![]), Answer::Final { .. }));
        assert!(matches!(answer(Code::InvalidArgument, vec![]), Answer::Final { .. }));
        assert!(matches!(of_grpc(&HeaderMap::new(), b""), Answer::Broken { .. }));
    }

    #[test]
    fn backoff_grows_to_its_cap_and_heeds_the_server() {
        assert_eq!(backoff(0, None, 0.5), Duration::from_millis(100));
        assert_eq!(backoff(2, None, 0.5), Duration::from_millis(400));
        assert_eq!(backoff(40, None, 0.5), Duration::from_secs(5));
        assert_eq!(backoff(0, Some(Duration::from_secs(30)), 0.0), Duration::from_secs(30));
    }
}
