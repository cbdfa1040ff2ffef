//! The admin endpoints of a role: `/metrics`, `/healthz` (alive), `/readyz` (200 or 503 with the conditions), and what the role adds.
//!
//! Guarantees: answers as long as the [`Server`] is held, so also while the role drains. With tokens, whoever has none with the role `admin`
//! learns from `/healthz` and `/readyz` what a load balancer must know, and nothing else from anything; nobody takes more than [`LIMITS`] of the
//! descriptors that the role itself needs. Leaves out: anything that changes state.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, Request, State as Shared};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::access::{Access, Denied, Role};
use crate::health::{Readiness, State};
use crate::listen;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::serve::{self, Limits, Web};
use crate::tls::Tls;

/// A scraper, probes and a few people; each answer is there at once.
pub const LIMITS: Limits = serve::limits(64, 32, 16 << 10, Duration::from_secs(30));

/// What the endpoints show.
#[derive(Clone, Debug)]
pub struct Admin {
    role: &'static str,
    metrics: Metrics,
    readiness: Readiness,
    started: Instant,
    more: Router,
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
}

impl Admin {
    /// Endpoints of `role`. Also registers the gauge `tailwater_ready`.
    #[must_use]
    pub fn new(role: &'static str, metrics: Metrics, readiness: Readiness) -> Self {
        let ready = readiness.clone();
        metrics.gauge_fn(
            "tailwater_ready",
            "1 when the role can do its work, else 0",
            move || f64::from(u8::from(ready.is_ready())),
        );
        Self {
            role,
            metrics,
            readiness,
            started: Instant::now(),
            more: Router::new(),
            access: Access::anybody(),
            tls: None,
        }
    }

    /// Asks for tokens, and speaks TLS.
    #[must_use]
    pub fn guarded(mut self, access: Arc<Access>, tls: Option<Arc<Tls>>) -> Self {
        self.access = access;
        self.tls = tls;
        self
    }

    /// Adds routes of the role's own.
    #[must_use]
    pub fn routes(mut self, routes: Router) -> Self {
        self.more = self.more.merge(routes);
        self
    }

    /// Adds `/status`: whatever `status` says when asked, as JSON.
    #[must_use]
    pub fn status<F>(self, status: F) -> Self
    where
        F: Fn() -> Value + Clone + Send + Sync + 'static,
    {
        self.routes(Router::new().route("/status", get(async move || Json(status()))))
    }

    /// Adds `/trace/{id}`: what `trace` says of a trace id (32 hex digits), as JSON; 400 for what is none.
    #[must_use]
    pub fn trace<F>(self, trace: F) -> Self
    where
        F: Fn(u128) -> Value + Clone + Send + Sync + 'static,
    {
        let answer = async move |Path(id): Path<String>| {
            let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            match u128::from_str_radix(&id, 16) {
                Ok(id) if is_id => (no_store(), Json(trace(id))).into_response(),
                _ => StatusCode::BAD_REQUEST.into_response(),
            }
        };
        self.routes(Router::new().route("/trace/{id}", get(answer)))
    }

    /// The routes, for a server of one's own.
    pub fn router(&self) -> Router {
        let open = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(self.clone());
        // The fallback is inside: which paths there are is not for everybody either.
        let guarded = Router::new()
            .route("/metrics", get(metrics))
            .with_state(self.clone())
            .merge(self.more.clone())
            .fallback(async || StatusCode::NOT_FOUND)
            .layer(middleware::from_fn_with_state(self.access.clone(), guard));
        open.merge(guarded)
    }

    /// Serves on `listener` until the [`Server`] is dropped. Must be called inside a runtime. Also registers the counter
    /// `tailwater_admin_connections_refused_total`.
    ///
    /// # Errors
    /// When the runtime cannot watch the listener.
    pub fn spawn(&self, listener: TcpListener) -> io::Result<Server> {
        self.spawn_within(listener, LIMITS)
    }

    fn spawn_within(&self, listener: TcpListener, limits: Limits) -> io::Result<Server> {
        let listener = listen::tokio(listener)?;
        let address = listener.local_addr()?;
        let web = Web::new("admin", self.router(), limits, &self.metrics);
        // Until the task is aborted; then its connections are asked to end.
        let until = std::future::pending();
        let task = tokio::spawn(serve::serve(
            listener,
            self.tls.clone(),
            limits,
            web,
            until,
            Duration::ZERO,
        ));
        Ok(Server {
            address,
            task: task.abort_handle(),
        })
    }
}

/// A running admin server. Ends when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: AbortHandle,
}

impl Server {
    /// Where it listens, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn guard(Shared(access): Shared<Arc<Access>>, request: Request, next: Next) -> Response {
    match access.ask(request.headers(), Role::Admin, "admin") {
        Ok(_) => next.run(request).await,
        Err(denied) => refuse(denied),
    }
}

/// 401 or 403, as JSON.
pub fn refuse(denied: Denied) -> Response {
    let kind = if denied.is_forbidden() {
        "forbidden"
    } else {
        "unauthenticated"
    };
    let body = Json(json!({ "error": denied.to_string(), "kind": kind }));
    let mut response = (denied.http_status(), no_store(), body).into_response();
    if !denied.is_forbidden() {
        let headers = response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

async fn metrics(Shared(admin): Shared<Admin>) -> Response {
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))],
        admin.metrics.encode(),
    )
        .into_response()
}

async fn healthz(Shared(admin): Shared<Admin>) -> Response {
    let body = json!({"alive": true, "role": admin.role, "pid": std::process::id(), "uptime_seconds": admin.started.elapsed().as_secs()});
    (no_store(), Json(body)).into_response()
}

async fn readyz(Shared(admin): Shared<Admin>, request: Request) -> Response {
    let mut report = admin.readiness.report();
    // Probes need no token; reasons name tables and paths. Asked without one on purpose, so nothing is counted as denied.
    if admin.access.is_guarded() && !admin.access.may(request.headers(), Role::Admin) {
        report.conditions.clear();
    }
    let code = if report.state == State::NotReady {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    (code, no_store(), Json(report)).into_response()
}

fn no_store() -> [(header::HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    #[tokio::test]
    async fn endpoints() {
        let (metrics, readiness) = (Metrics::for_process("collector"), Readiness::new());
        let admin = Admin::new("collector", metrics, readiness.clone())
            .status(|| json!({"lag_bytes": 7}))
            .trace(|id| json!({"low": id & 0xff}));
        let listener = listen::bind("admin.collector", "127.0.0.1:0".parse().unwrap()).unwrap();
        let server = admin.spawn(listener).unwrap();
        let address = server.address();

        let (head, body) = ask(address, "/readyz").await;
        assert!(head.starts_with("http/1.1 503"), "{head}");
        assert_eq!(body, r#"{"state":"not_ready","conditions":{}}"#);
        readiness.condition("intake_log").ready();
        readiness.condition("disk").degraded("slow");
        let (head, body) = ask(address, "/readyz").await;
        assert!(
            head.starts_with("http/1.1 200") && head.contains("application/json"),
            "{head}"
        );
        assert_eq!(
            body,
            r#"{"state":"degraded","conditions":{"disk":{"state":"degraded","reason":"slow"},"intake_log":{"state":"ready"}}}"#
        );

        let (head, body) = ask(address, "/metrics").await;
        assert!(head.contains(&format!("content-type: {CONTENT_TYPE}")), "{head}");
        assert!(
            body.contains("\ntailwater_ready 1.0\n") && body.ends_with("# EOF\n"),
            "{body}"
        );

        let (head, body) = ask(address, "/healthz").await;
        assert!(
            head.starts_with("http/1.1 200") && body.contains(r#""role":"collector""#),
            "{head} {body}"
        );
        assert_eq!(ask(address, "/status").await.1, r#"{"lag_bytes":7}"#);
        assert_eq!(
            ask(address, "/trace/4bf92f3577b34da6a3ce929d0e0e4736").await.1,
            r#"{"low":54}"#
        );
        for id in ["4bf92f", "+bf92f3577b34da6a3ce929d0e0e4736"] {
            assert!(
                ask(address, &format!("/trace/{id}"))
                    .await
                    .0
                    .starts_with("http/1.1 400")
            );
        }
        assert!(ask(address, "/nothing").await.0.starts_with("http/1.1 404"));
    }

    #[tokio::test]
    async fn without_a_token_only_probes_are_answered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = |name: &str, role: &str| {
            let sha256 = crate::access::hex(&crate::access::hash(name.as_bytes()));
            format!("token {name} roles={role} sha256={sha256}\n")
        };
        std::fs::write(file.path(), line("tw_admin", "admin") + &line("tw_read", "read,ingest")).unwrap();
        let (metrics, readiness) = (Metrics::for_process("query"), Readiness::new());
        let access = Access::of(Some(file.path().into()), &metrics).unwrap();
        readiness.condition("lake").degraded("file /secret/place is damaged");
        let admin = Admin::new("query", metrics, readiness)
            .status(|| json!({"tenants": ["a"]}))
            .trace(|_| json!({"found": [{"tenant": "a"}]}))
            .guarded(access, None);
        let server = admin
            .spawn(listen::bind("admin.query", "127.0.0.1:0".parse().unwrap()).unwrap())
            .unwrap();
        let ask = async |path: &str, token: &str| {
            let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{token}Connection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            (text[9..12].to_owned(), text)
        };
        let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
        let trace = "/trace/4bf92f3577b34da6a3ce929d0e0e4736";
        for path in ["/metrics", "/status", trace, "/nothing", "/"] {
            assert_eq!(ask(path, "").await.0, "401", "{path}");
            assert_eq!(ask(path, &bearer("tw_other")).await.0, "401", "{path}");
            assert_eq!(ask(path, &bearer("tw_read")).await.0, "403", "{path}");
        }
        assert!(
            ask("/metrics", "")
                .await
                .1
                .to_ascii_lowercase()
                .contains("www-authenticate: bearer")
        );
        assert_eq!(ask("/metrics", &bearer("tw_admin")).await.0, "200");
        assert_eq!(ask("/status", &bearer("tw_admin")).await.0, "200");
        assert_eq!(ask(trace, &bearer("tw_admin")).await.0, "200");
        assert_eq!(ask("/nothing", &bearer("tw_admin")).await.0, "404");
        for path in ["/healthz", "/readyz"] {
            let (status, text) = ask(path, "").await;
            assert_eq!(status, "200", "{path}");
            assert!(!text.contains("/secret"), "{text}");
        }
        assert!(ask("/readyz", &bearer("tw_admin")).await.1.contains("/secret"));
    }

    /// In the collector's process descriptors that strangers hold are missing to the intake.
    #[tokio::test]
    async fn strangers_hold_few_places_and_no_longer_than_they_send() {
        let (mut quick, mut few) = (LIMITS, LIMITS);
        quick.patience.header = Duration::from_millis(50);
        (few.per_peer, few.patience.header) = (3, Duration::from_secs(3600));
        let start = async |limits: Limits| {
            let metrics = Metrics::new();
            let admin = Admin::new("collector", metrics.clone(), Readiness::new());
            let listener = listen::bind("admin.collector", "127.0.0.1:0".parse().unwrap()).unwrap();
            (admin.spawn_within(listener, limits).unwrap(), metrics)
        };
        let closed = async |server: &Server, sent: &str| {
            let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
            let _ = stream.write_all(sent.as_bytes()).await;
            // An end or a reset; a server that waits for more is neither.
            let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut [0])).await;
            matches!(read, Ok(Ok(0) | Err(_)))
        };
        let (server, metrics) = start(quick).await;
        for sent in ["", "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Never: ends"] {
            assert!(closed(&server, sent).await, "{sent:?}");
        }
        let counted = r#"tailwater_admin_connections_refused_total{reason="header_timeout"} 2"#;
        while !metrics.encode().contains(counted) {
            tokio::task::yield_now().await;
        }
        let (server, metrics) = start(few).await;
        let mut held = Vec::new();
        for _ in 0..few.per_peer {
            held.push(tokio::net::TcpStream::connect(server.address()).await.unwrap());
        }
        assert!(closed(&server, "").await);
        assert!(
            metrics
                .encode()
                .contains(r#"tailwater_admin_connections_refused_total{reason="per_peer"} 1"#)
        );
    }
}
