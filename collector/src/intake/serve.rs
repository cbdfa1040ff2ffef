//! The accept loops: connections in, bounded in number, age and patience; one panicking request answers 500 alone.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tailwater_runtime::tls::{Stream, Tls};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{Intake, grpc, http as otlp_http};

/// Limits of connections (`design/reliability.md` section 5, item 4).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections in all.
    pub connections: usize,
    /// Open connections from one address.
    pub per_peer: usize,
    /// Requests in flight on one HTTP/2 connection.
    pub streams: u32,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Time to send the headers of a request.
    pub header_timeout: Duration,
    /// HTTP/2 ping after this much silence.
    pub keepalive: Duration,
    /// Time for the peer to answer the ping.
    pub keepalive_timeout: Duration,
    /// A connection is asked to close after this long.
    pub max_age: Duration,
}

const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
const HEADERS_MAX: usize = 100;
const PENDING_RESETS_MAX: usize = 20;
/// Windows sized so that a 225 KB request needs no round trip to be sent whole.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

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
    let open = TaskTracker::new();
    let closing = watch::Sender::new(false);
    let places = Arc::new(Semaphore::new(limits.connections));
    let peers: Arc<Mutex<HashMap<IpAddr, usize>>> = Arc::default();
    let builder = builder(protocol, limits);
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (place, stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, or a peer that went away: neither may end the loop.
                warn!(%error, "cannot accept a connection");
                intake.stats.refused_connection("accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Some(seat) = Seat::take(&peers, peer, limits.per_peer) else {
            intake.stats.refused_connection("per_peer");
            continue;
        };
        // Without it small answers wait for the client's delayed acks; a socket that refuses it still works.
        let _ = stream.set_nodelay(true);
        let (intake, builder, tls) = (intake.clone(), builder.clone(), tls.clone());
        let mut closing = closing.subscribe();
        open.spawn(async move {
            let _held = (place, seat);
            let stream = match tls {
                None => Stream::Plain(stream),
                // Off the accept loop: a client that takes its time takes nobody else's.
                Some(tls) => match tokio::time::timeout(limits.handshake_timeout, tls.accept(stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        debug!(%error, "a TLS handshake failed");
                        return intake.stats.refused_connection("handshake");
                    }
                    Err(_) => return intake.stats.refused_connection("handshake_timeout"),
                },
            };
            let service = service_fn(move |request| answer(protocol, intake.clone(), request));
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let mut asked = false;
            let age = tokio::time::sleep(limits.max_age);
            tokio::pin!(age);
            loop {
                tokio::select! {
                    ended = connection.as_mut() => {
                        if let Err(error) = ended {
                            debug!(%error, "connection ended with an error");
                        }
                        return;
                    }
                    () = &mut age, if !asked => {}
                    _ = closing.changed(), if !asked => {}
                }
                // Too old, or the process drains: what is under way is finished, nothing new begins.
                connection.as_mut().graceful_shutdown();
                asked = true;
            }
        });
    }
    drop(listener);
    closing.send_replace(true);
    open.close();
    if tokio::time::timeout(grace, open.wait()).await.is_err() {
        warn!(?protocol, "connections still open after the grace period");
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// A connection is accepted only when there is a place for it: the kernel's queue holds the others.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> std::io::Result<(Place, TcpStream, IpAddr)> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((place, stream, peer.ip()))
}

fn builder(protocol: Protocol, limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(limits.keepalive)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_headers(HEADERS_MAX)
        .header_read_timeout(limits.header_timeout);
    match protocol {
        Protocol::Grpc => builder.http2_only(),
        Protocol::Http => builder,
    }
}

/// One of the places an address may take.
struct Seat {
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Seat {
    fn take(peers: &Arc<Mutex<HashMap<IpAddr, usize>>>, peer: IpAddr, most: usize) -> Option<Seat> {
        let mut taken = peers.lock();
        let count = taken.entry(peer).or_insert(0);
        (*count < most).then(|| {
            *count += 1;
            Seat {
                peers: peers.clone(),
                peer,
            }
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.peers.lock();
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

type Answer = Response<Either<grpc::Body, Full<Bytes>>>;

/// Answers a request; one that panics is answered with an internal error, and only that one.
async fn answer(protocol: Protocol, intake: Arc<Intake>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let answered = async {
        match protocol {
            Protocol::Grpc => grpc::answer(intake, request).await.map(Either::Left),
            Protocol::Http => otlp_http::answer(intake, request).await.map(Either::Right),
        }
    };
    let panicked = |_| match protocol {
        Protocol::Grpc => grpc::internal_error().map(Either::Left),
        Protocol::Http => otlp_http::internal_error().map(Either::Right),
    };
    Ok(AssertUnwindSafe(answered).catch_unwind().await.unwrap_or_else(panicked))
}
