//! Prometheus' HTTP API under `/prometheus/api/v1`, for Grafana's Prometheus data source and whatever else speaks it.
//!
//! | path | methods | answer |
//! |---|---|---|
//! | `query`, `query_range` | GET, POST form | [`evaluate`]: PromQL over the series of [`crate::series`] |
//! | `labels`, `series` | GET, POST form | [`lists`]: label names, label sets |
//! | `label/<name>/values`, `metadata` | GET | label values, types and help of metrics |
//! | `query_exemplars` | GET, POST form | spans behind the numbers |
//! | `rules`, `alerts` | GET | none: Tailwater keeps no rules of Prometheus |
//! | `status/buildinfo` | GET | version. Without `features`, or Grafana takes us for Mimir |
//! | `/prometheus/-/healthy`, `/prometheus/-/ready` | GET | 200; 503 while there is no lake |
//!
//! Not there, on purpose: `status/flags` (whoever has it is taken for Thanos), and what only Prometheus' own pages ask.
//!
//! Every answer is `{"status":"success","data":...,"warnings":[...],"infos":[...]}` or `{"status":"error","errorType":...,"error":...}`
//! (prometheus/prometheus:docs/querying/api.md). Grafana shows warnings and infos at the panel. A client that goes away stops its query.

mod evaluate;
mod lists;
mod params;
mod reply;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::desk::{Asked, Desk};
use reply::{Failure, success};

/// The Prometheus whose answers these are, for clients that switch features by version; ours stands behind it.
const VERSION: &str = concat!("3.0.0+tailwater.", env!("CARGO_PKG_VERSION"));

/// What there is, for whoever asks for something else.
const ENDPOINTS: &str = "there are GET and POST of query, query_range, labels, series and query_exemplars, and GET of label/<name>/values, metadata, rules, \
                         alerts and status/buildinfo, all below /prometheus/api/v1/";

/// The routes, with their full paths.
pub(super) fn router() -> Router<Desk> {
    let api = Router::new()
        .route("/query", get(evaluate::instant).post(evaluate::instant))
        .route("/query_range", get(evaluate::range).post(evaluate::range))
        .route("/labels", get(lists::names).post(lists::names))
        .route("/label/{name}/values", get(lists::values))
        .route("/series", get(lists::series).post(lists::series))
        .route("/metadata", get(lists::metadata))
        .route("/query_exemplars", get(lists::exemplars).post(lists::exemplars))
        .route("/rules", get(async || success(&json!({ "groups": [] }), &[])))
        .route("/alerts", get(async || success(&json!({ "alerts": [] }), &[])))
        .route("/status/buildinfo", get(build))
        .fallback(async || unknown())
        .method_not_allowed_fallback(other_method);
    Router::new()
        .nest("/prometheus/api/v1", api)
        .route("/prometheus/-/healthy", get(async || "Tailwater answers PromQL.\n"))
        .route("/prometheus/-/ready", get(ready))
}

/// The answer where there is nothing.
pub(super) fn unknown() -> Response {
    Failure::not_found(format!("no such endpoint of the Prometheus API: {ENDPOINTS}")).into_response()
}

async fn other_method(method: Method) -> Failure {
    Failure::other_method(format!("no method {method} of this endpoint: {ENDPOINTS}"))
}

async fn ready(Asked(engine): Asked) -> Response {
    match engine.ready().await {
        Ok(()) => "Tailwater is ready to answer PromQL.\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn build() -> Response {
    success(
        &json!({
            "version": VERSION, "revision": "", "branch": "", "buildUser": "", "buildDate": "", "goVersion": "",
        }),
        &[],
    )
}
