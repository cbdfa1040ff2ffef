//! The HTTP interface of the query role.
//!
//! | method and path | answer |
//! |---|---|
//! | `POST /api/v1/sql` | runs a query, see [`sql`] |
//! | `POST /api/v1/slo/report` | reports OpenSLO documents, see [`slo`] |
//! | `GET /api/v1/tables` | tables with columns, types, units and sentences |
//! | `/prometheus/api/v1/...` | PromQL as Prometheus answers it, see [`prometheus`]; its errors have its own shape |
//!
//! Errors are JSON: `{"error":"...","kind":"bad_query","position":{"line":1,"column":8}}`, `position` where it is known. Statuses are those
//! of [`crate::ErrorKind::http_status`]; busy and unavailable carry `Retry-After`. Unknown paths are `not_found`, other methods `method_not_allowed`; both
//! name what there is.
//!
//! Where there are tokens, every path needs one with the role `read` (401, 403), and its tenant's rows are all there is: see [`desk`].

mod desk;
pub mod notes;
mod prometheus;
mod slo;
mod sql;
mod tables;

use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use crate::error::{Error, ErrorKind};

pub use desk::Desk;

/// What there is, for whoever asks for something else.
const ENDPOINTS: &str =
    "there are POST /api/v1/sql, POST /api/v1/slo/report, GET /api/v1/tables and /prometheus/api/v1/...";

/// The routes. Unknown paths are 404, known ones with another method 405.
pub fn router(desk: Desk) -> Router {
    // A text in JSON is longer than the text itself: escapes at most double what people write, and parameters come along.
    let body_max = desk.limits().text_bytes_max.saturating_mul(4).saturating_add(64 << 10);
    Router::new()
        .route("/api/v1/sql", post(sql::run))
        .route("/api/v1/tables", get(tables::list))
        .merge(prometheus::router())
        .layer(axum::extract::DefaultBodyLimit::max(body_max))
        // Documents are longer than a query, and have a limit of their own.
        .route("/api/v1/slo/report", post(slo::report).layer(slo::body_limit()))
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        // Last, so that it is around everything, the answer to unknown paths too.
        .layer(axum::middleware::from_fn_with_state(desk.clone(), desk::admit))
        .with_state(desk)
}

async fn unknown(uri: Uri) -> Response {
    let path = uri.path();
    if path.starts_with("/prometheus/") {
        return prometheus::unknown();
    }
    nothing(
        StatusCode::NOT_FOUND,
        "not_found",
        &format!("no path {path}: {ENDPOINTS}"),
    )
}

async fn other_method(method: Method, uri: Uri) -> Response {
    let text = format!("no method {method} of {}: {ENDPOINTS}", uri.path());
    nothing(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &text)
}

fn nothing(status: StatusCode, kind: &str, text: &str) -> Response {
    (status, axum::Json(json!({ "error": text, "kind": kind }))).into_response()
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.to_string(), "kind": self.kind().name() });
        if let Some(position) = self.position() {
            body["position"] = json!(position);
        }
        let status = StatusCode::from_u16(self.kind().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(body)).into_response();
        if matches!(
            self.kind(),
            ErrorKind::Busy | ErrorKind::OverQuota | ErrorKind::Unavailable
        ) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
