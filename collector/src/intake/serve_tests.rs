//! An intake behind real sockets, whose requests wait for as long as a test wants: an identical one is under way.

use std::net::SocketAddr;
use std::sync::mpsc;

use ::http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tailwater_config::{Config, Machine};
use tailwater_journal::dedup::Register;
use tailwater_runtime::{Access, Metrics, Readiness};
use tailwater_wal::{Options, Wal};
use tokio::net::{TcpListener, TcpStream};

use super::serve::{Protocol, serve};
use super::*;
use crate::dedup::Ticket;
use crate::fatal::Fatal;
use crate::log::Accepted;
use crate::settings;

/// A logs request with one empty resource.
const PAYLOAD: &[u8] = &[0x0a, 0];
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const PATIENCE: Duration = Duration::from_secs(60);

struct Fixture {
    intake: Arc<Intake>,
    metrics: Metrics,
    grpc: SocketAddr,
    http: SocketAddr,
    _folder: tempfile::TempDir,
    _road: mpsc::Receiver<Accepted>,
}

impl Fixture {
    async fn start(pairs: &[(&str, &str)]) -> Fixture {
        Fixture::start_at(pairs, || 1_800_000_000_000_000_000).await
    }

    async fn start_at(pairs: &[(&str, &str)], now: fn() -> u64) -> Fixture {
        let config = Config::of(pairs).unwrap();
        let limits = config
            .limits(Machine {
                memory_bytes: 1 << 30,
                cpus: 1,
                is_shared: false,
            })
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path().join("intake"), [7; 16], 1);
        options.segment_bytes = 1 << 20;
        options.reserve_bytes = 0;
        options.allow_volatile = true;
        let (wal, _) = Wal::open(options).unwrap();
        let metrics = Metrics::new();
        let stats = Stats::new(&metrics);
        let (sender, road) = mpsc::channel();
        let health = Readiness::new().condition("intake_log");
        let (log, _) = Log::start(Arc::new(wal), sender, stats.clone(), health, Fatal::new().0).unwrap();
        let intake = Arc::new(Intake {
            limits: settings::request_limits(&config, &limits, settings::caps(&config)),
            tenants: Tenants::new(
                Access::anybody(),
                limits.tenant_memory_bytes,
                config.intake.rate.clone(),
                config.query.clone(),
            ),
            memory: Budget::new(limits.intake_memory_bytes),
            backlog: Backlog::new(1 << 20, Duration::ZERO),
            dedup: Some(Dedup::new(Register::new(10, u64::MAX))),
            log,
            gate: Arc::default(),
            stats,
            now,
            closing: AtomicBool::new(false),
        });
        let mut addresses = Vec::new();
        for protocol in [Protocol::Grpc, Protocol::Http] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let limits = settings::connection_limits(&config);
            let never = std::future::pending();
            tokio::spawn(serve(
                protocol,
                listener,
                None,
                limits,
                intake.clone(),
                never,
                Duration::ZERO,
            ));
        }
        Fixture {
            intake,
            metrics,
            grpc: addresses[0],
            http: addresses[1],
            _folder: folder,
            _road: road,
        }
    }

    /// Until the ticket goes, requests of [`PAYLOAD`] wait.
    async fn under_way(&self) -> Ticket {
        let digest = digest("default", Signal::Logs, PAYLOAD);
        let dedup = self.intake.dedup.as_ref().unwrap();
        match dedup.admit(digest, (self.intake.now)()).await {
            Admitted::First(ticket) => ticket,
            Admitted::Repeat(_) => panic!("nothing was sent yet"),
        }
    }

    async fn until(&self, what: &str, done: impl Fn(&Fixture) -> bool) {
        let look = async {
            while !done(self) {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, look).await;
        assert!(in_time.is_ok(), "{what}; {}", self.metrics.encode());
    }

    /// Whether one request ended so.
    fn counted(&self, protocol: &str, outcome: &str) -> bool {
        let labels = format!("{{protocol=\"{protocol}\",signal=\"logs\",outcome=\"{outcome}\"}} 1");
        self.metrics.encode().contains(&labels)
    }
}

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn connect(address: SocketAddr) -> (Sender, tokio::task::JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    (sender, tokio::spawn(connection))
}

fn call(address: SocketAddr, timeout: Option<&str>) -> ::http::Request<Full<Bytes>> {
    let mut request =
        ::http::Request::post(format!("http://{address}{LOGS}")).header("content-type", "application/grpc");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let framed = [&[0, 0, 0, 0, PAYLOAD.len() as u8], PAYLOAD].concat();
    request.body(Full::new(Bytes::from(framed))).unwrap()
}

fn post(address: SocketAddr) -> ::http::Request<Full<Bytes>> {
    let request = ::http::Request::post("/v1/logs")
        .header("host", address.to_string())
        .header("content-type", "application/json");
    request
        .body(Full::new(Bytes::from_static(br#"{"resourceLogs": [{}]}"#)))
        .unwrap()
}

#[tokio::test]
async fn slowness_of_the_server_is_told_as_such_with_a_time_to_come_back() {
    let server = Fixture::start(&[("intake.request_timeout", "100ms")]).await;
    let _ticket = server.under_way().await;
    let waited = "waiting for an identical request under way";

    let (mut sender, _connection) = connect(server.grpc).await;
    let answer = sender.send_request(call(server.grpc, None)).await.unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("grpc-status"), "14");
    assert!(header("grpc-message").contains(waited), "{answer:?}");
    assert!(answer.headers().contains_key("grpc-status-details-bin"), "{answer:?}");

    let stream = TcpStream::connect(server.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(post(server.http)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains(waited), "{body:?}");
    for protocol in ["grpc", "http"] {
        assert!(server.counted(protocol, "timeout_first_copy"), "{protocol}");
    }
}

#[tokio::test]
async fn a_call_whose_deadline_passes_is_told_so_and_counted() {
    let server = Fixture::start(&[]).await;
    let _ticket = server.under_way().await;
    let (mut sender, _connection) = connect(server.grpc).await;
    let answer = sender.send_request(call(server.grpc, Some("50m"))).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4", "{answer:?}");
    assert!(server.counted("grpc", "deadline"));
}

#[tokio::test]
async fn a_request_whose_client_hangs_up_is_counted() {
    let server = Fixture::start(&[]).await;
    let _ticket = server.under_way().await;
    let waiting = |server: &Fixture| server.intake.memory.used() == PAYLOAD.len() as u64;
    let gone = |server: &Fixture| server.intake.memory.used() == 0;

    let (mut sender, _connection) = connect(server.grpc).await;
    let calling = tokio::spawn(async move { sender.send_request(call(server.grpc, None)).await });
    server.until("the call waits", waiting).await;
    // RST_STREAM; the connection stays.
    calling.abort();
    server.until("the call is over", gone).await;
    assert!(server.counted("grpc", "cancelled"));

    let stream = TcpStream::connect(server.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = post(server.http);
    let posting = tokio::spawn(async move { sender.send_request(request).await });
    server.until("the request waits", waiting).await;
    connection.abort();
    assert!(posting.await.unwrap().is_err());
    server.until("the request is over", gone).await;
    assert!(server.counted("http", "cancelled"));
}

#[tokio::test]
async fn a_refusal_before_anything_is_looked_at_has_the_form_of_its_request() {
    let fails = Fixture::start_at(&[], || panic!("a clock that fails")).await;
    let strict = Fixture::start(&[("intake.connections.headers", "10")]).await;
    for (server, status, words) in [
        (&fails, StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        (
            &strict,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "intake.connections.headers",
        ),
    ] {
        for (media, json) in [("application/json", true), ("application/x-protobuf", false)] {
            let (mut sender, _connection) = connect(server.http).await;
            let mut request =
                ::http::Request::post(format!("http://{}/v1/logs", server.http)).header("content-type", media);
            for number in 0..20 {
                request = request.header(format!("x-{number}"), "1");
            }
            let answer = sender
                .send_request(request.body(Full::default()).unwrap())
                .await
                .unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()["content-type"], media);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let said = match json {
                true => serde_json::from_slice::<serde_json::Value>(&body).unwrap()["message"].to_string(),
                // Field 2 of a google.rpc.Status, as it stands.
                false => String::from_utf8_lossy(&body).into_owned(),
            };
            assert!(said.contains(words), "{media}: {said}");
        }
    }
}

#[tokio::test]
async fn what_could_never_be_held_is_refused_for_good() {
    // A tenant may hold 512 KiB.
    let server = Fixture::start(&[
        ("intake.memory", "1MiB"),
        ("intake.body", "512KiB"),
        ("intake.wire_body", "512KiB"),
        ("intake.caps.item", "256KiB"),
    ])
    .await;
    let bounds = "1,".repeat(100_000);
    let json = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"histogram":{{"dataPoints":[{{"explicitBounds":[{bounds}1]}}]}}}}]}}]}}]}}"#
    );
    for (what, encoding, body) in [
        // It moves from 256 KiB to 512 KiB.
        ("as it is inflated", Some("gzip"), gzip(&vec![0; 400 << 10])),
        // 200 kB that become 800 kB.
        ("as protobuf", None, json.into_bytes()),
    ] {
        let (mut sender, _connection) = connect(server.http).await;
        let mut request = ::http::Request::post(format!("http://{}/v1/metrics", server.http))
            .header("content-type", "application/json");
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        let answer = sender
            .send_request(request.body(Full::from(body)).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE, "{what}");
        assert!(!answer.headers().contains_key("retry-after"), "{what}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(
            String::from_utf8_lossy(&body).contains("intake.memory"),
            "{what}: {body:?}"
        );
    }
    assert_eq!(server.intake.memory.used(), 0);
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}
