//! OTLP on a listener: which protocol it speaks, and one panicking request answers 500 alone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tailwater_runtime::serve::{self, Limits, Reason, Service, UnderWay};
use tailwater_runtime::tls::Tls;
use tokio::net::TcpListener;

use super::refusal::Refusal;
use super::{Intake, grpc, http as otlp_http};

/// Which protocol a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC: HTTP/2 with prior knowledge.
    Grpc,
    /// OTLP/HTTP: HTTP/1.1 and HTTP/2.
    Http,
}

/// Serves one listener until `stop` resolves, then lets requests in flight finish for at most `grace`.
pub async fn serve(
    protocol: Protocol,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    intake: Arc<Intake>,
    stop: impl Future<Output = ()>,
    grace: Duration,
) {
    let otlp = Otlp {
        protocol,
        headers: limits.headers,
        intake,
    };
    serve::serve(listener, tls, limits, Arc::new(otlp), stop, grace).await;
}

struct Otlp {
    protocol: Protocol,
    /// Most fields in a head.
    headers: usize,
    intake: Arc<Intake>,
}

impl Service for Otlp {
    type Body = Either<grpc::Body, Full<Bytes>>;

    // The guard goes with the answer's head: its body is there by then.
    async fn answer(self: Arc<Self>, request: Request<Incoming>, _under_way: UnderWay) -> Answer {
        Otlp::answer(&self, request).await
    }

    fn refused(&self, reason: Reason) {
        self.intake.stats.refused_connection(reason);
    }
}

type Answer = Response<Either<grpc::Body, Full<Bytes>>>;

impl Otlp {
    /// Answers a request; one that panics is answered with an internal error, and only that one.
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (protocol, intake) = (self.protocol, self.intake.clone());
        // Before anything is checked: every answer is in the form of its request.
        let form = otlp_http::answer_form(request.headers());
        // HTTP/1 has been counted by its parser.
        if request.headers().len() > self.headers {
            let refusal = Refusal::TooManyHeaders { limit: self.headers };
            return match protocol {
                Protocol::Grpc => {
                    intake.refused_unread("grpc", &refusal);
                    grpc::refuse(&refusal).map(Either::Left)
                }
                Protocol::Http => {
                    intake.refused_unread("http", &refusal);
                    otlp_http::refuse(&refusal, form).map(Either::Right)
                }
            };
        }
        let answered = async {
            match protocol {
                Protocol::Grpc => grpc::answer(intake, request).await.map(Either::Left),
                Protocol::Http => otlp_http::answer(intake, request).await.map(Either::Right),
            }
        };
        let panicked = |_| match protocol {
            Protocol::Grpc => grpc::internal_error().map(Either::Left),
            Protocol::Http => otlp_http::internal_error(form).map(Either::Right),
        };
        AssertUnwindSafe(answered).catch_unwind().await.unwrap_or_else(panicked)
    }
}
