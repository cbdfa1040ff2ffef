//! Routes behind a listener: what people, their tools and probes ask.
//!
//! Guarantees: a request whose body does not come, or that takes too long, is answered with 408; one whose answer nobody takes ends with its
//! connection; an answer that is sent in parts counts as under way to its last one. Every connection that was cut off is counted.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as Answer;
use axum::response::{IntoResponse as _, Json};
use axum::{BoxError, Router};
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::json;

use super::{Limits, Patience, Reason, Service, UnderWay};
use crate::metrics::{Counter, Labelled, Metrics};

/// Limits of a listener for routes, where the settings have none. Each request may take `request`, and as long again until its answer is taken.
#[must_use]
pub const fn limits(connections: usize, per_peer: usize, header_bytes: usize, request: Duration) -> Limits {
    Limits {
        connections,
        per_peer,
        streams: 64,
        pending_resets: 20,
        header_bytes,
        headers: 100,
        handshake_timeout: Duration::from_secs(5),
        patience: Patience {
            header: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            // No balancer spreads these over servers, so age alone ends none.
            age: Duration::from_secs(30 * 86_400),
            request: Some(request),
        },
        keepalive: Duration::from_secs(60),
        keepalive_timeout: Duration::from_secs(20),
        grace: request,
    }
}

/// Routes as a [`Service`].
pub struct Web {
    routes: TowerToHyperService<Router>,
    limits: Limits,
    refused: Labelled<1, Counter>,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Web {
    /// These routes under these limits. Also registers the counter `tailwater_<name>_connections_refused_total{reason}`.
    #[must_use]
    pub fn new(name: &str, routes: Router, limits: Limits, metrics: &Metrics) -> Arc<Web> {
        let refused = metrics.counters(
            &format!("tailwater_{name}_connections_refused"),
            "connections not served, or cut off",
            ["reason"],
        );
        Arc::new(Web {
            routes: TowerToHyperService::new(routes),
            limits,
            refused,
        })
    }
}

impl Service for Web {
    type Body = Held;

    async fn answer(self: Arc<Self>, request: Request<Incoming>, under_way: UnderWay) -> Response<Held> {
        let answer = if request.headers().len() > self.limits.headers {
            // HTTP/1 has been counted by its parser.
            let most = self.limits.headers;
            let text = format!("the request has more than {most} headers: send fewer");
            refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers", &text)
        } else {
            let routed = self.routes.call(request);
            match self.limits.patience.request {
                None => certain(routed.await),
                Some(limit) => match tokio::time::timeout(limit, routed).await {
                    Ok(answer) => certain(answer),
                    Err(_) => {
                        let text =
                            format!("the request took longer than {limit:?}: send its body at once, or ask for less");
                        refuse(StatusCode::REQUEST_TIMEOUT, "timeout", &text)
                    }
                },
            }
        };
        answer.map(|body| Held {
            body,
            _under_way: under_way,
        })
    }

    fn refused(&self, reason: Reason) {
        self.refused.with([reason]).inc();
    }
}

fn certain(answer: Result<Response<Answer>, Infallible>) -> Response<Answer> {
    answer.unwrap_or_else(|never| match never {})
}

fn refuse(status: StatusCode, kind: &str, text: &str) -> Response<Answer> {
    (status, Json(json!({ "error": text, "kind": kind }))).into_response()
}

/// The body of an answer, which is under way until it is sent.
#[derive(Debug)]
pub struct Held {
    body: Answer,
    _under_way: UnderWay,
}

impl Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body)
            .poll_frame(cx)
            .map_err(|error| error.into_inner())
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
