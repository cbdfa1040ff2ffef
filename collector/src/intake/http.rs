//! OTLP/HTTP: `POST /v1/{traces,metrics,logs}`, protobuf and JSON, answers in the encoding of the request.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tailwater_model::otlp::reply::{self, Code, Encoding as Form, Status};
use tailwater_model::signal::Signal;

use super::inflate::Encoding;
use super::refusal::Refusal;
use super::{Intake, Packed};

/// Answers one OTLP/HTTP request. Never fails: every refusal is a response.
pub async fn answer(intake: Arc<Intake>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let form = form_of(request.headers());
    // Who asks comes first: a stranger learns nothing about paths and forms.
    let known = intake.tenants.of(request.headers(), "http").map_err(Refusal::Denied);
    let answered = match known.and_then(|tenant| Ok((tenant, classify(&request, &form)?))) {
        Ok((tenant, (signal, form, encoding))) => {
            let (parts, body) = request.into_parts();
            let length = content_length(&parts.headers);
            let packed = Packed {
                signal,
                form,
                encoding,
                length,
                framed: false,
                deadline: None,
            };
            let outcome = intake.accept(&tenant, packed, body).await;
            outcome.map(|partial| respond(StatusCode::OK, form, reply::success(signal, form, partial.as_ref())))
        }
        Err(refusal) => {
            intake.refused_unread("http", &refusal);
            Err(refusal)
        }
    };
    answered.unwrap_or_else(|refusal| refuse(&refusal, form.unwrap_or(UNTOLD)))
}

/// The form of answers to requests that do not say theirs.
const UNTOLD: Form = Form::Protobuf;

/// The form that an answer to a request with this head has, whatever is wrong with the rest of it.
pub fn answer_form(headers: &HeaderMap) -> Form {
    form_of(headers).unwrap_or(UNTOLD)
}

fn classify<B>(request: &Request<B>, form: &Result<Form, Refusal>) -> Result<(Signal, Form, Encoding), Refusal> {
    let path = request.uri().path();
    let signal = match path {
        "/v1/traces" => Signal::Traces,
        "/v1/metrics" => Signal::Metrics,
        "/v1/logs" => Signal::Logs,
        _ => return Err(Refusal::UnknownPath(path.chars().take(128).collect())),
    };
    if request.method() != Method::POST {
        return Err(Refusal::MethodNotAllowed);
    }
    let form = form.clone()?;
    let encoding = encoding_of(request.headers(), header::CONTENT_ENCODING.as_str())?;
    Ok((signal, form, encoding))
}

/// The media type without its parameters; an absent one is refused like an unknown one.
fn form_of(headers: &HeaderMap) -> Result<Form, Refusal> {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let media = text.split(';').next().unwrap_or("").trim();
    match media.to_ascii_lowercase().as_str() {
        "application/x-protobuf" => Ok(Form::Protobuf),
        "application/json" => Ok(Form::Json),
        _ => Err(Refusal::UnsupportedType(media.chars().take(128).collect())),
    }
}

/// The content encoding named by `header`; several of them are nested encoding, which is refused.
pub(super) fn encoding_of(headers: &HeaderMap, header: &str) -> Result<Encoding, Refusal> {
    let mut names = headers.get_all(header).iter();
    let name = names.next().map_or(Ok(""), |value| value.to_str()).unwrap_or("?");
    match (Encoding::parse(name), names.next()) {
        (Some(encoding), None) => Ok(encoding),
        _ => Err(Refusal::UnsupportedEncoding(name.chars().take(64).collect())),
    }
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The refusal as a response with a `google.rpc.Status` body.
pub fn refuse(refusal: &Refusal, form: Form) -> Response<Full<Bytes>> {
    let mut response = respond(refusal.http_status(), form, refusal.status().encode(form));
    let headers = response.headers_mut();
    if let Some(wait) = refusal.retry_after() {
        // The header counts whole seconds: rounded up, so that nobody comes back early.
        let seconds = wait.as_nanos().div_ceil(1_000_000_000).max(1) as u64;
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if matches!(refusal, Refusal::Denied(denied) if !denied.is_forbidden()) {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if *refusal == Refusal::MethodNotAllowed {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    if matches!(refusal, Refusal::UnsupportedEncoding(_)) {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(Encoding::ACCEPTED));
    }
    response
}

/// Answer of a request whose handler panicked: final, and only this request's.
pub fn internal_error(form: Form) -> Response<Full<Bytes>> {
    let status = Status::new(Code::Internal, "internal error");
    respond(StatusCode::INTERNAL_SERVER_ERROR, form, status.encode(form))
}

fn respond(status: StatusCode, form: Form, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, headers: &[(&str, &str)], expected: Result<(Signal, Form, Encoding), u16>) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let got = classify(&request, &form_of(request.headers())).map_err(|refusal| refusal.http_status().as_u16());
        assert_eq!(got, expected, "{method} {path} {headers:?}");
    }

    #[test]
    fn paths_methods_types_and_encodings() {
        let pb = ("content-type", "application/x-protobuf");
        let ok = |signal, form, encoding| Ok((signal, form, encoding));
        check(
            "POST",
            "/v1/traces",
            &[pb],
            ok(Signal::Traces, Form::Protobuf, Encoding::Identity),
        );
        check(
            "POST",
            "/v1/metrics",
            &[
                ("content-type", "Application/JSON; charset=utf-8"),
                ("content-encoding", "gzip"),
            ],
            ok(Signal::Metrics, Form::Json, Encoding::Gzip),
        );
        check(
            "POST",
            "/v1/logs?x=1",
            &[pb, ("content-encoding", "zstd")],
            ok(Signal::Logs, Form::Protobuf, Encoding::Zstd),
        );
        check("GET", "/v1/traces", &[pb], Err(405));
        check("POST", "/v1/traces/", &[pb], Err(404));
        check("POST", "//v1/traces", &[pb], Err(404));
        check("POST", "/V1/TRACES", &[pb], Err(404));
        check("POST", "/v1development/profiles", &[pb], Err(404));
        check("POST", "/v1/traces", &[], Err(415));
        check("POST", "/v1/traces", &[("content-type", "text/plain")], Err(415));
        check("POST", "/v1/traces", &[pb, ("content-encoding", "br")], Err(415));
        check(
            "POST",
            "/v1/traces",
            &[pb, ("content-encoding", "gzip, gzip")],
            Err(415),
        );
        check(
            "POST",
            "/v1/traces",
            &[pb, ("content-encoding", "gzip"), ("content-encoding", "gzip")],
            Err(415),
        );
    }

    #[test]
    fn retry_after_is_in_whole_seconds_rounded_up() {
        let wait = std::time::Duration::from_nanos(1_000_515_823);
        let response = refuse(
            &Refusal::Overloaded {
                what: "memory",
                retry_after: wait,
            },
            Form::Json,
        );
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/json");
        assert!(
            !refuse(&Refusal::TooLarge { limit: 1 }, Form::Json)
                .headers()
                .contains_key("retry-after")
        );
    }
}
