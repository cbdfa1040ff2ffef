#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use axum::Router;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::metrics::Metrics;

const LONG: Duration = Duration::from_secs(3600);
/// A test that waits for longer has failed.
const BOUND: Duration = Duration::from_secs(60);
/// The kernel takes what is sent, so time alone passes it.
const SHORT: Duration = Duration::from_millis(50);

/// Nothing runs out.
fn patient() -> Limits {
    let mut limits = limits(8, 8, 1 << 10, LONG);
    limits.handshake_timeout = LONG;
    limits.patience = Patience {
        header: LONG,
        idle: LONG,
        age: LONG,
        request: Some(LONG),
    };
    limits
}

struct Server {
    address: SocketAddr,
    metrics: Metrics,
}

impl Server {
    async fn start(limits: Limits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::new();
        let routes = Router::new()
            .route("/", get(async || "hello"))
            .route("/length", post(async |body: String| body.len().to_string()))
            .route("/endless", get(endless))
            .route("/slow", get(slow));
        let web = Web::new("test", routes, limits, &metrics);
        tokio::spawn(serve(listener, None, limits, web, std::future::pending(), LONG));
        Server { address, metrics }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// How often a connection was refused for this reason; looked at until it is so often.
    async fn refused(&self, reason: &str, times: u32) {
        let line = format!("tailwater_test_connections_refused_total{{reason=\"{reason}\"}} {times}\n");
        let look = async {
            while !self.metrics.encode().contains(&line) {
                tokio::task::yield_now().await;
            }
        };
        let seen = tokio::time::timeout(BOUND, look).await;
        assert!(seen.is_ok(), "{line}{}", self.metrics.encode());
    }
}

/// Never ends.
async fn endless() -> axum::body::Body {
    axum::body::Body::from_stream(futures::stream::repeat_with(|| {
        Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1 << 16]))
    }))
}

/// A part at once, a part after a quarter of an hour.
async fn slow() -> axum::body::Body {
    let parts = futures::stream::unfold(0, |at| async move {
        if at == 1 {
            tokio::time::sleep(LONG / 4).await;
        }
        (at < 2).then(|| (Ok::<_, Infallible>("part"), at + 1))
    });
    axum::body::Body::from_stream(parts)
}

/// What came until the server closed.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is a way to close, too.
    let closed = tokio::time::timeout(BOUND, stream.read_to_end(&mut bytes)).await;
    assert!(closed.is_ok(), "the server keeps the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn who_sends_nothing_or_never_ends_is_closed() {
    let check = async |limits: Limits, sent: &[u8], answered: &str, reason: Option<&str>| {
        let server = Server::start(limits).await;
        let mut stream = server.connect().await;
        stream.write_all(sent).await.unwrap();
        let got = rest(&mut stream).await;
        assert!(
            got.starts_with(answered) && got.is_empty() == answered.is_empty(),
            "{got:?}"
        );
        if let Some(reason) = reason {
            server.refused(reason, 1).await;
        }
    };
    let header = |header| Limits {
        patience: Patience {
            header,
            ..patient().patience
        },
        ..patient()
    };
    let idle = |idle| Limits {
        patience: Patience {
            idle,
            ..patient().patience
        },
        // Nobody here answers the ping that comes with the request to end.
        grace: SHORT,
        ..patient()
    };
    let request = |request| Limits {
        patience: Patience {
            request: Some(request),
            ..patient().patience
        },
        ..patient()
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let cut = Some("header_timeout");
    check(header(SHORT), b"", "", cut).await;
    check(header(SHORT), &preface[..9], "", cut).await;
    check(header(SHORT), b"GET / HTTP/1.1\r\nhost: x\r\nx-long: 1", "", cut).await;
    check(idle(SHORT), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200", None).await;
    check(idle(SHORT), &[&preface[..], &settings].concat(), "\0", None).await;
    let no_body = b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf";
    check(request(SHORT), no_body, "HTTP/1.1 408", None).await;
    let large = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(2048));
    check(patient(), large.as_bytes(), "HTTP/1.1 431", None).await;
}

#[tokio::test]
async fn who_does_not_take_an_answer_is_cut_off() {
    let mut limits = patient();
    limits.patience.request = Some(SHORT);
    limits.patience.header = SHORT;
    let server = Server::start(limits).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    server.refused("request_timeout", 1).await;
}

#[tokio::test]
async fn an_address_has_so_many_places_and_gets_them_back() {
    let mut limits = patient();
    limits.per_peer = 2;
    let server = Server::start(limits).await;
    let (one, _two) = (server.connect().await, server.connect().await);
    assert_eq!(rest(&mut server.connect().await).await, "");
    server.refused("per_peer", 1).await;
    drop(one);
    let ask = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    loop {
        let mut again = server.connect().await;
        // The place is free as soon as the server has seen that the other one left.
        if again.write_all(ask).await.is_ok() && rest(&mut again).await.ends_with("hello") {
            break;
        }
    }
}

#[tokio::test]
async fn above_all_places_the_kernel_holds_the_others() {
    let mut limits = patient();
    limits.connections = 1;
    let server = Server::start(limits).await;
    let mut one = server.connect().await;
    let mut two = server.connect().await;
    let ask = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    two.write_all(ask).await.unwrap();
    one.write_all(ask).await.unwrap();
    assert!(rest(&mut one).await.ends_with("hello"));
    assert!(rest(&mut two).await.ends_with("hello"));
}

/// Time passes by itself as soon as nothing else happens.
#[tokio::test(start_paused = true)]
async fn an_answer_in_parts_is_no_silence() {
    let mut limits = patient();
    limits.patience.idle = Duration::from_secs(60);
    let server = Server::start(limits).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let begun = Instant::now();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert_eq!(got.matches("part").count(), 2, "{got:?}");
    assert!(got.ends_with("0\r\n\r\n"), "{got:?}");
    assert!(begun.elapsed() >= LONG / 4);
}

#[tokio::test]
async fn peers_that_are_gone_without_a_word_are_probed_for() {
    let limits = Limits {
        keepalive: Duration::from_secs(45),
        keepalive_timeout: Duration::from_millis(2500),
        ..patient()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (accepted, _client) = tokio::join!(listener.accept(), TcpStream::connect(listener.local_addr().unwrap()));
    let (stream, _) = accepted.unwrap();
    probe(&stream, &limits).unwrap();
    assert!(sockopt::socket_keepalive(&stream).unwrap());
    assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), Duration::from_secs(45));
    assert_eq!(
        sockopt::tcp_keepintvl(&stream).unwrap(),
        Duration::from_secs(3),
        "whole seconds"
    );
}
