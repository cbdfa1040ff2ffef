//! The accept loops of every listener: connections in, bounded in number, age and patience, and how each ends.
//!
//! ```text
//! listener -> [place] -> [seat of its address] -> [TLS] -> which HTTP -> requests -> Service::answer
//! ```
//!
//! Guarantees: who sends nothing, or never ends what it sends, holds a place for a while only, and one address never holds them all. What a
//! request is, and who may send it, is the matter of a [`Service`]: OTLP in the collector, [`Web`] for everything with routes.

mod connection;
mod web;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use self::connection::{Activity, Next, Noted, Version};
use crate::tls::{Stream, Tls};

pub use self::connection::{Patience, UnderWay};
pub use self::web::{Web, limits};

/// Why a connection was not served, or cut off: a word for a counter.
pub type Reason = &'static str;

/// What a listener serves.
pub trait Service: Send + Sync + 'static {
    /// Body of an answer.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers a request. Until the guard goes it counts as under way, and the connection as busy.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        under_way: UnderWay,
    ) -> impl Future<Output = Response<Self::Body>> + Send + 'static;

    /// A connection was not served, or cut off.
    fn refused(&self, reason: Reason);
}

/// Limits of a listener's connections (`design/reliability.md` section 5, item 4).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections in all.
    pub connections: usize,
    /// Open connections from one address.
    pub per_peer: usize,
    /// Requests in flight on one HTTP/2 connection.
    pub streams: u32,
    /// HTTP/2 streams that the client reset and the server has not looked at yet.
    pub pending_resets: usize,
    /// Bytes of the head of a request.
    pub header_bytes: usize,
    /// Fields in the head of a request.
    pub headers: usize,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// How long a connection may go without a request, or with a part of its head.
    pub patience: Patience,
    /// HTTP/2 ping after this much silence; a TCP probe, too.
    pub keepalive: Duration,
    /// Time for the peer to answer the ping.
    pub keepalive_timeout: Duration,
    /// Time for what is under way on a connection that was asked to end.
    pub grace: Duration,
}

/// Windows sized so that a 225 KB request needs no round trip to be sent whole.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// TCP probes without an answer before the connection counts as dead.
const PROBES: u32 = 3;

/// Serves one listener until `stop` resolves, then lets requests in flight finish for at most `grace`.
pub async fn serve<S: Service>(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    service: Arc<S>,
    stop: impl Future<Output = ()>,
    grace: Duration,
) {
    let open = TaskTracker::new();
    let closing = watch::Sender::new(false);
    let places = Arc::new(Semaphore::new(limits.connections));
    let peers: Arc<Mutex<HashMap<IpAddr, usize>>> = Arc::default();
    let way = Arc::new(Way {
        tls,
        limits,
        service,
        http1: http1(&limits),
        http2: http2(&limits),
    });
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
                way.service.refused("accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Some(seat) = Seat::take(&peers, peer, limits.per_peer) else {
            way.service.refused("per_peer");
            continue;
        };
        // Without it small answers wait for the client's delayed acks; a socket that refuses it still works.
        let _ = stream.set_nodelay(true);
        let _ = probe(&stream, &limits);
        let (way, closing) = (way.clone(), closing.subscribe());
        open.spawn(async move {
            let _held = (place, seat);
            if let Err(reason) = way.connection(stream, closing).await {
                way.service.refused(reason);
            }
        });
    }
    let address = listener.local_addr().ok();
    drop(listener);
    closing.send_replace(true);
    open.close();
    if tokio::time::timeout(grace, open.wait()).await.is_err() {
        warn!(?address, "connections still open after the grace period");
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// A connection is accepted only when there is a place for it: the kernel's queue holds the others.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> std::io::Result<(Place, TcpStream, IpAddr)> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((place, stream, peer.ip()))
}

/// Lets the kernel find peers that are gone without a word: HTTP/1 has no pings.
fn probe(stream: &TcpStream, limits: &Limits) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, limits.keepalive)?;
    sockopt::set_tcp_keepintvl(stream, limits.keepalive_timeout)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_socket_keepalive(stream, true)
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Its timer cannot tell a head from the pause before it: [`Activity`] can.
    builder
        .header_read_timeout(None::<Duration>)
        .max_header_size(limits.header_bytes)
        .max_headers(limits.headers);
    builder
}

fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.pending_resets)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(limits.keepalive)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// A listener's way in: what all of its connections share.
struct Way<S> {
    tls: Option<Arc<Tls>>,
    limits: Limits,
    service: Arc<S>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl<S: Service> Way<S> {
    /// Serves a connection to its end.
    async fn connection(
        self: &Arc<Way<S>>,
        stream: TcpStream,
        mut closing: watch::Receiver<bool>,
    ) -> Result<(), Reason> {
        let opened = tokio::select! {
            opened = self.open(stream) => opened?,
            // Nothing has begun: a drain does not wait for it.
            _ = closing.changed() => return Ok(()),
        };
        let Some((version, io, activity)) = opened else {
            return Ok(());
        };
        let io = TokioIo::new(io);
        let (service, noting) = (self.service.clone(), activity.clone());
        let service = service_fn(move |request| {
            let answered = service.clone().answer(request, noting.request());
            async move { Ok::<_, Infallible>(answered.await) }
        });
        match version {
            Version::Http1 => {
                keep(
                    self.http1.serve_connection(io, service),
                    &activity,
                    closing,
                    self.limits.grace,
                )
                .await
            }
            Version::Http2 => {
                keep(
                    self.http2.serve_connection(io, service),
                    &activity,
                    closing,
                    self.limits.grace,
                )
                .await
            }
        }
    }

    /// The connection after its handshake and its first bytes; `None` when the client left before.
    async fn open(&self, stream: TcpStream) -> Result<Option<(Version, Noted, Arc<Activity>)>, Reason> {
        let mut stream = match &self.tls {
            None => Stream::Plain(stream),
            // Off the accept loop: a client that takes its time takes nobody else's.
            Some(tls) => match tokio::time::timeout(self.limits.handshake_timeout, tls.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    debug!(%error, "a TLS handshake failed");
                    return Err("handshake");
                }
                Err(_) => return Err("handshake_timeout"),
            },
        };
        let opened = Instant::now();
        let patience = self.limits.patience;
        let (version, first) = match tokio::time::timeout(patience.header, connection::version(&mut stream)).await {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(error)) => {
                debug!(%error, "connection ended with an error");
                return Ok(None);
            }
            Err(_) => return Err("header_timeout"),
        };
        let activity = Activity::new(version, patience, opened, Instant::now());
        Ok(Some((version, Noted::new(first, stream, activity.clone()), activity)))
    }
}

/// Keeps a connection until it ends by itself, is too old, does nothing for too long, or the process drains.
async fn keep<C>(
    connection: C,
    activity: &Activity,
    mut closing: watch::Receiver<bool>,
    grace: Duration,
) -> Result<(), Reason>
where
    C: GracefulConnection,
    C::Error: Display,
{
    let ended = |ended: Result<(), C::Error>| {
        if let Err(error) = ended {
            debug!(%error, "connection ended with an error");
        }
        Ok(())
    };
    let mut connection = pin!(connection);
    let mut look = pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        tokio::select! {
            // First: what has arrived counts before the time it took.
            biased;
            result = connection.as_mut() => return ended(result),
            _ = closing.changed() => break,
            () = look.as_mut() => match activity.next(Instant::now()) {
                Next::Look(at) => look.as_mut().reset(at),
                Next::Ask => break,
                Next::Cut(reason) => return Err(reason),
            },
        }
    }
    connection.as_mut().graceful_shutdown();
    match tokio::time::timeout(grace, connection).await {
        Ok(result) => ended(result),
        Err(_) => Err("max_age_grace"),
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

#[cfg(test)]
mod tests;
