//! The envelope of every answer, and which status an error has.
//!
//! Grafana reads `errorType` and `error` of 400, 422 and 503 and shows anything else as it came, so whatever a person can do something about has
//! one of those (web/api/v1/api.go of prometheus/prometheus: respondError).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind};

/// An answer without data, in Prometheus' words.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    kind: &'static str,
    text: String,
}

impl Failure {
    /// The request is wrong.
    pub fn bad_data(text: impl Into<String>) -> Failure {
        Failure {
            status: StatusCode::BAD_REQUEST,
            kind: "bad_data",
            text: text.into(),
        }
    }

    /// There is nothing here.
    pub fn not_found(text: impl Into<String>) -> Failure {
        Failure {
            status: StatusCode::NOT_FOUND,
            kind: "not_found",
            text: text.into(),
        }
    }

    /// There is something here, but not for this method.
    pub fn other_method(text: impl Into<String>) -> Failure {
        Failure {
            status: StatusCode::METHOD_NOT_ALLOWED,
            kind: "bad_data",
            text: text.into(),
        }
    }

    /// The time is up.
    pub fn timeout(after: std::time::Duration) -> Failure {
        Failure {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: "timeout",
            text: format!("the query took longer than {after:?}"),
        }
    }
}

impl From<tailwater_promql::Error> for Failure {
    fn from(error: tailwater_promql::Error) -> Failure {
        let kind = error.error_type();
        let status = match kind {
            "bad_data" => StatusCode::BAD_REQUEST,
            "canceled" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let text = error.to_string();
        // Words that Grafana and its users know.
        let text = match error {
            tailwater_promql::Error::Parse { .. } => format!("invalid parameter \"query\": {text}"),
            _ => text,
        };
        Failure { status, kind, text }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let (status, kind) = match error.kind() {
            ErrorKind::AnswerTooLarge | ErrorKind::Exhausted | ErrorKind::Failed | ErrorKind::TextTooLong => {
                (StatusCode::UNPROCESSABLE_ENTITY, "execution")
            }
            // Prometheus has no word for too many requests, and Grafana would show the body as it is.
            ErrorKind::Busy | ErrorKind::OverQuota | ErrorKind::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            ErrorKind::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            // The SQL is ours, so an error in it is, too.
            ErrorKind::BadQuery | ErrorKind::NotAllowed | ErrorKind::Damaged | ErrorKind::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
        };
        // A tenant at its own limit is no trouble of the server.
        if status.is_server_error() && error.kind() != ErrorKind::OverQuota {
            tracing::warn!(kind = error.kind().name(), %error, "a PromQL query failed");
        }
        Failure {
            status,
            kind,
            text: error.to_string(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "status": "error", "errorType": self.kind, "error": self.text });
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.kind == "unavailable" {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// An answer.
pub(super) fn success(data: &Value, warnings: &[String]) -> Response {
    written(&data.to_string(), warnings, &[])
}

/// An answer whose data are already JSON.
pub(super) fn written(data: &str, warnings: &[String], infos: &[String]) -> Response {
    let mut body = String::with_capacity(data.len() + 128);
    body.push_str(r#"{"status":"success","data":"#);
    body.push_str(data);
    body.push_str(&format!(
        r#","warnings":{},"infos":{}}}"#,
        json!(warnings),
        json!(infos)
    ));
    let kind = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (kind, body).into_response()
}
