//! One HTTP/1.1 exchange with a role, over TLS where it has it: what `sql`, `status` and `demo` ask with.

use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
pub use tailwater_runtime::tls::Unreachable;

use super::client::Peer;

/// Longest answer: well above `query.result`'s largest setting in practice, and a bound on memory.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Time to connect; the roles are on this machine or near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether what was answered with this status, or an error of the engine that has it, may pass later: too busy, or not ready.
pub fn is_for_later(status: u16) -> bool {
    matches!(status, 429 | 503 | 504)
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its head.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Gets a path.
///
/// # Errors
/// [`Unreachable`], or a transfer that broke off.
pub async fn get(peer: &Peer, path: &str) -> anyhow::Result<Answer> {
    let request = Request::get(path)
        .header(header::HOST, &peer.authority)
        .body(Full::default())?;
    exchange(peer, request).await
}

/// Posts a text to a path, asking for a content type.
///
/// # Errors
/// As [`get`].
pub async fn post(peer: &Peer, path: &str, text: &str, accept: &str) -> anyhow::Result<Answer> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, &peer.authority)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .header(header::ACCEPT, accept)
        .body(Full::from(text.to_owned()))?;
    exchange(peer, request).await
}

async fn exchange(peer: &Peer, mut request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let authority = &peer.authority;
    if let Some(token) = peer.authorization()? {
        request.headers_mut().insert(header::AUTHORIZATION, token);
    }
    let stream = peer.connector.reach(authority, CONNECT_TIMEOUT).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .with_context(|| format!("ask {authority}"))?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow!("the answer of {authority} broke off: {error}"))?
        .to_bytes();
    connection.abort();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}
