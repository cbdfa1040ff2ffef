//! OTLP over hyper: HTTP/1.1 keep-alive for OTLP/HTTP, HTTP/2 with unary framing of its own for OTLP/gRPC.
//!
//! hyper rather than tonic, because the bodies exist already: a typed client would decode and encode them again.
//! Bounded by its connections; a broken connection is replaced by the next request that needs one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tailwater_model::signal::Signal;
use tailwater_runtime::tls::{Connector, Stream, Unreachable};
use tokio::sync::{Mutex, Semaphore};

use super::answer::{self, Answer};

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf bodies.
    Http,
    /// OTLP/HTTP with JSON bodies.
    HttpJson,
}

impl Protocol {
    /// Where a Tailwater on this machine listens for it.
    pub fn default_endpoint(self) -> &'static str {
        match self {
            Protocol::Grpc => "http://127.0.0.1:4317",
            Protocol::Http | Protocol::HttpJson => "http://127.0.0.1:4318",
        }
    }
}

/// Encoding of request bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// As they are.
    None,
    /// gzip, level 1.
    Gzip,
    /// zstd, level 1.
    Zstd,
}

impl Compression {
    fn name(self) -> Option<&'static str> {
        match self {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        }
    }
}

/// Where and how to send.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port` or `https://host:port`, for HTTP with an optional path before `/v1/...`.
    pub endpoint: Uri,
    /// How requests travel.
    pub protocol: Protocol,
    /// Encoding of request bodies.
    pub compression: Compression,
    /// TCP connections, at least 1.
    pub connections: usize,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Makes connections, over TLS or not.
    pub connector: Connector,
    /// Sent with each request.
    pub authorization: Option<HeaderValue>,
}

/// Longest answer read: answers carry a message and a few numbers.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Connections to one server.
#[derive(Debug)]
pub struct Client {
    target: Target,
    /// `host:port`, as dialled and as named in requests.
    authority: String,
    /// HTTP/1.1: permission to hold a connection, and those not in use.
    turns: Semaphore,
    idle: std::sync::Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
    /// HTTP/2: shared connections, used in turn.
    shared: Vec<Mutex<Option<http2::SendRequest<Full<Bytes>>>>>,
    next: AtomicUsize,
}

impl Client {
    /// A client; connects when first used.
    ///
    /// # Errors
    /// When the endpoint names no host.
    pub fn new(target: Target) -> anyhow::Result<Client> {
        let endpoint = &target.endpoint;
        let host = endpoint
            .host()
            .ok_or_else(|| anyhow!("endpoint `{endpoint}` names no host (want http://host:port)"))?;
        let port = endpoint
            .port_u16()
            .unwrap_or(if target.protocol == Protocol::Grpc { 4317 } else { 4318 });
        let connections = target.connections.max(1);
        Ok(Client {
            authority: format!("{host}:{port}"),
            turns: Semaphore::new(connections),
            idle: std::sync::Mutex::default(),
            shared: (0..connections).map(|_| Mutex::new(None)).collect(),
            next: AtomicUsize::new(0),
            target,
        })
    }

    /// Puts `payload` (with `headroom` free bytes before it, see [`headroom`]) into its envelope: compression, gRPC framing.
    ///
    /// # Errors
    /// When the compressor fails, which means memory is short.
    pub fn envelop(&self, mut payload: Vec<u8>) -> anyhow::Result<Bytes> {
        let head = headroom(self.target.protocol);
        let compressed = match self.target.compression {
            Compression::None => None,
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(vec![0; head], flate2::Compression::fast());
                std::io::Write::write_all(&mut encoder, &payload[head..])?;
                Some(encoder.finish()?)
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(vec![0; head], 1)?;
                std::io::Write::write_all(&mut encoder, &payload[head..])?;
                Some(encoder.finish()?)
            }
        };
        let flag = u8::from(compressed.is_some());
        payload = compressed.unwrap_or(payload);
        if head > 0 {
            let length = u32::try_from(payload.len() - head).context("a gRPC message is below 4 GiB")?;
            payload[0] = flag;
            payload[1..5].copy_from_slice(&length.to_be_bytes());
        }
        Ok(payload.into())
    }

    /// Makes a connection and lets it go, to know whether somebody listens.
    ///
    /// # Errors
    /// Why nobody does.
    pub async fn reach(&self) -> Result<(), Unreachable> {
        let connected = self.target.connector.reach(&self.authority, self.target.timeout).await;
        connected.map(drop)
    }

    /// Sends an enveloped request once and says what the answer means.
    pub async fn send(&self, signal: Signal, body: Bytes) -> Answer {
        let exchange = async {
            match self.target.protocol {
                Protocol::Grpc => self.send_grpc(signal, body).await,
                Protocol::Http | Protocol::HttpJson => self.send_http(signal, body).await,
            }
        };
        match tokio::time::timeout(self.target.timeout, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Broken {
                cause: format!("{error:#}"),
            },
            Err(_) => Answer::Broken {
                cause: format!("no answer within {:?}", self.target.timeout),
            },
        }
    }

    async fn send_http(&self, signal: Signal, body: Bytes) -> anyhow::Result<Answer> {
        let _turn = self.turns.acquire().await.context("closed")?;
        let parked = self
            .idle
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .pop();
        // A parked connection may have been closed by the server meanwhile; `ready` says so before anything is sent.
        let mut alive = None;
        if let Some(mut sender) = parked {
            alive = sender.ready().await.is_ok().then_some(sender);
        }
        let mut sender = match alive {
            Some(sender) => sender,
            None => self.connect_http1().await?,
        };
        let kind = if self.target.protocol == Protocol::Http {
            "application/x-protobuf"
        } else {
            "application/json"
        };
        let prefix = self.target.endpoint.path().trim_end_matches('/');
        let mut request = Request::post(format!("{prefix}/v1/{}", signal.name()))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, kind)
            .header(header::USER_AGENT, USER_AGENT);
        if let Some(token) = &self.target.authorization {
            request = request.header(header::AUTHORIZATION, token);
        }
        if let Some(name) = self.target.compression.name() {
            request = request.header(header::CONTENT_ENCODING, name);
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let (parts, body) = response.into_parts();
        let body = read(body).await?.to_bytes();
        if !sender.is_closed() {
            self.idle
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push(sender);
        }
        Ok(answer::of_http(signal, parts.status, &parts.headers, &body))
    }

    async fn send_grpc(&self, signal: Signal, body: Bytes) -> anyhow::Result<Answer> {
        let service = match signal {
            Signal::Traces => "trace.v1.TraceService",
            Signal::Metrics => "metrics.v1.MetricsService",
            Signal::Logs => "logs.v1.LogsService",
        };
        let uri = format!(
            "{}://{}/opentelemetry.proto.collector.{service}/Export",
            self.target.connector.scheme(),
            self.authority
        );
        let mut request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, USER_AGENT);
        if let Some(token) = &self.target.authorization {
            request = request.header(header::AUTHORIZATION, token);
        }
        if let Some(name) = self.target.compression.name() {
            request = request.header("grpc-encoding", name);
        }
        let mut sender = self.shared_connection().await?;
        sender.ready().await?;
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let (parts, body) = response.into_parts();
        if !parts.status.is_success() {
            // A proxy's or a limit's answer below gRPC; the HTTP rules name the retryable ones.
            let answer = answer::of_http(signal, parts.status, &parts.headers, b"");
            return Ok(answer::no_grpc(answer));
        }
        let collected = read(body).await?;
        let trailers: HeaderMap = collected.trailers().cloned().unwrap_or(parts.headers);
        Ok(answer::of_grpc(&trailers, &collected.to_bytes()))
    }

    async fn connect(&self) -> anyhow::Result<TokioIo<Stream>> {
        let stream = self.target.connector.connect(&self.authority);
        let stream = stream.await.with_context(|| format!("connect to {}", self.authority))?;
        Ok(TokioIo::new(stream))
    }

    async fn connect_http1(&self) -> anyhow::Result<http1::SendRequest<Full<Bytes>>> {
        let (sender, connection) = http1::handshake(self.connect().await?).await?;
        tokio::spawn(async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection closed");
            }
        });
        Ok(sender)
    }

    async fn shared_connection(&self) -> anyhow::Result<http2::SendRequest<Full<Bytes>>> {
        let slot = &self.shared[self.next.fetch_add(1, Ordering::Relaxed) % self.shared.len()];
        let mut slot = slot.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let handshake = http2::Builder::new(TokioExecutor::new()).handshake(self.connect().await?);
        let (sender, connection) = handshake.await?;
        tokio::spawn(async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection closed");
            }
        });
        *slot = Some(sender.clone());
        Ok(sender)
    }
}

const USER_AGENT: &str = concat!("tailwater-load/", env!("CARGO_PKG_VERSION"));

/// Free bytes an envelope needs before the payload: gRPC's compressed flag and length.
pub fn headroom(protocol: Protocol) -> usize {
    if protocol == Protocol::Grpc { 5 } else { 0 }
}

async fn read(body: hyper::body::Incoming) -> anyhow::Result<http_body_util::Collected<Bytes>> {
    Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow!("reading the answer: {error}"))
}
