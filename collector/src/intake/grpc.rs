//! OTLP/gRPC: unary `Export` of the three services, with our own framing.
//!
//! Why not a generated tonic service: it decodes into owned prost trees, and inflates before admission can see the bytes.
//! A unary call is a five-byte prefix and three trailers; the HTTP/2 below it is hyper's.
//!
//! ```text
//! | compressed: u8 (0 or 1) | length: u32 BE | message |
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use tailwater_model::otlp::reply::{self, Code, Encoding as Form, Status};
use tailwater_model::signal::Signal;

use super::http::{content_length, encoding_of};
use super::inflate::Encoding;
use super::refusal::Refusal;
use super::{Intake, Packed};

/// Bytes of the prefix before a message.
pub const PREFIX: usize = 5;

/// A gRPC response body: one message and trailers, or trailers only.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Answers one gRPC call. Never fails: every refusal is a status.
pub async fn answer(intake: Arc<Intake>, request: Request<Incoming>) -> Response<Body> {
    if request.version() != Version::HTTP_2 || !is_grpc(request.headers()) {
        return not_grpc();
    }
    // Who asks comes first: a stranger learns nothing about paths and forms.
    let known = intake.tenants.of(request.headers(), "grpc").map_err(Refusal::Denied);
    let (tenant, (signal, encoding)) = match known.and_then(|tenant| Ok((tenant, classify(&request)?))) {
        Ok(call) => call,
        Err(refusal) => {
            intake.refused_unread("grpc", &refusal);
            return refuse(&refusal);
        }
    };
    let deadline = request
        .headers()
        .get("grpc-timeout")
        .and_then(|value| parse_timeout(value.to_str().ok()?));
    let (parts, body) = request.into_parts();
    let length = content_length(&parts.headers);
    let packed = Packed {
        signal,
        form: Form::Protobuf,
        encoding,
        length,
        framed: true,
        deadline,
    };
    match intake.accept(&tenant, packed, body).await {
        Ok(partial) => success(&reply::success(signal, Form::Protobuf, partial.as_ref())),
        Err(refusal) => refuse(&refusal),
    }
}

fn classify<B>(request: &Request<B>) -> Result<(Signal, Encoding), Refusal> {
    let path = request.uri().path();
    let signal = match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Signal::Traces,
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Signal::Metrics,
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Signal::Logs,
        _ => return Err(Refusal::UnknownPath(path.chars().take(128).collect())),
    };
    if request.method() != Method::POST {
        return Err(Refusal::MethodNotAllowed);
    }
    Ok((signal, encoding_of(request.headers(), "grpc-encoding")?))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    matches!(
        text.split(';').next().unwrap_or("").trim(),
        "application/grpc" | "application/grpc+proto"
    )
}

/// Takes the message out of a unary request body: `(compressed, message)`.
pub(super) fn unframe(mut body: Bytes) -> Result<(bool, Bytes), Refusal> {
    let Some(prefix) = body.first_chunk::<PREFIX>() else {
        return Err(Refusal::malformed("the gRPC message prefix is cut short"));
    };
    let compressed = match prefix[0] {
        0 => false,
        1 => true,
        other => {
            return Err(Refusal::malformed(format!(
                "gRPC compressed flag is {other}, not 0 or 1"
            )));
        }
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    let message = body.split_off(PREFIX);
    match message.len().cmp(&length) {
        std::cmp::Ordering::Equal => Ok((compressed, message)),
        std::cmp::Ordering::Less => Err(Refusal::malformed(format!(
            "the gRPC message is cut short: {} of {length} bytes",
            message.len()
        ))),
        std::cmp::Ordering::Greater => Err(Refusal::malformed("more than one message in a unary gRPC call")),
    }
}

/// `grpc-timeout`: up to 8 digits and a unit of H M S m u n.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = (digits.len() <= 8).then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

fn success(message: &[u8]) -> Response<Body> {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("replies are capped at 4 MiB"));
    framed.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let body = Full::new(framed.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    grpc_response(body.boxed_unsync())
}

/// The refusal as a trailers-only response.
pub fn refuse(refusal: &Refusal) -> Response<Body> {
    let mut response = failure(&refusal.status());
    if matches!(refusal, Refusal::UnsupportedEncoding(_)) {
        response
            .headers_mut()
            .insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(Encoding::ACCEPTED));
    }
    response
}

/// Answer of a call whose handler panicked: final, and only this call's.
pub fn internal_error() -> Response<Body> {
    failure(&Status::new(Code::Internal, "internal error"))
}

fn failure(status: &Status) -> Response<Body> {
    let mut response = grpc_response(Empty::new().boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(GRPC_STATUS, HeaderValue::from(status.code.number()));
    let text = |value: String| HeaderValue::try_from(value).expect("percent-encoding and base64 are visible ASCII");
    headers.insert(GRPC_MESSAGE, text(status.message_trailer()));
    if let Some(details) = status.details_trailer() {
        headers.insert(GRPC_DETAILS, text(details));
    }
    response
}

fn grpc_response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A request that is no gRPC at all: plain HTTP 415, as the gRPC protocol asks.
fn not_grpc() -> Response<Body> {
    let text = "this is the OTLP/gRPC port; OTLP/HTTP is served on another one (4318 by default)\n";
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_frame(body: &[u8], expected: Result<(bool, &[u8]), &str>) {
        match (unframe(Bytes::copy_from_slice(body)), expected) {
            (Ok((compressed, message)), Ok(wanted)) => assert_eq!((compressed, &message[..]), wanted),
            (Err(refusal), Err(wanted)) => assert!(refusal.to_string().contains(wanted), "{refusal}"),
            (got, wanted) => panic!("{body:?}: got {got:?}, wanted {wanted:?}"),
        }
    }

    #[test]
    fn frames() {
        check_frame(&[0, 0, 0, 0, 0], Ok((false, b"")));
        check_frame(&[1, 0, 0, 0, 2, 7, 8], Ok((true, &[7, 8])));
        check_frame(&[], Err("prefix is cut short"));
        check_frame(&[0, 0, 0, 0], Err("prefix is cut short"));
        check_frame(&[2, 0, 0, 0, 0], Err("compressed flag is 2"));
        check_frame(&[0, 0, 0, 0, 2, 7], Err("cut short: 1 of 2"));
        check_frame(&[0, 255, 255, 255, 255, 7], Err("cut short"));
        check_frame(&[0, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0], Err("more than one message"));
    }

    #[test]
    fn timeouts() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("5x", None),
            ("-5S", None),
        ] {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn a_refusal_is_trailers_only_with_retry_info_where_it_passes_by_itself() {
        let response = refuse(&Refusal::Overloaded {
            what: "memory",
            retry_after: Duration::from_secs(2),
        });
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert!(response.headers().contains_key("grpc-status-details-bin"));
        let response = refuse(&Refusal::UnsupportedEncoding("br".into()));
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(response.headers()["grpc-accept-encoding"], Encoding::ACCEPTED);
    }
}
