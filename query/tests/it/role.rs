//! The process `tailwater query` as its clients see it.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use tailwater_config::Config;
use tailwater_query::role::{self, Guard, Role};
use tailwater_query::{EngineConfig, Limits};
use tailwater_runtime::{Metrics, Shutdown, descriptors};
use tailwater_storage::lake::Lake;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Status and body of one request on a connection of its own.
async fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A role with these limits over a lake that is not there yet.
struct Running {
    address: SocketAddr,
    admin: SocketAddr,
    metrics: Metrics,
    shutdown: Shutdown,
    role: tokio::task::JoinHandle<std::io::Result<()>>,
    lake: Lake,
    _directory: tempfile::TempDir,
}

impl Running {
    fn start(limits: Limits) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(&directory.path().join("lake")).unwrap();
        let [query, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, admin_address) = (query.local_addr().unwrap(), admin.local_addr().unwrap());
        let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
        let config = Role {
            engine: EngineConfig {
                lake: lake.clone(),
                outbox: None,
                temp: None,
                limits: Limits { threads: 1, ..limits },
            },
            slos: None,
            query,
            admin,
            guard: Guard::open(&Config::of(&[]).unwrap(), &metrics).unwrap(),
            metrics: metrics.clone(),
            data: None,
        };
        Running {
            address,
            admin: admin_address,
            metrics,
            role: tokio::spawn(role::run(config, shutdown.clone())),
            shutdown,
            lake,
            _directory: directory,
        }
    }

    async fn until(&self, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.metrics.encode().contains(&format!("\n{line}\n")) {
            assert!(Instant::now() < deadline, "{line}: {}", self.metrics.encode());
            tokio::task::yield_now().await;
        }
    }
}

/// Whether the server closes a connection on which it got this, and says nothing.
async fn closed(address: SocketAddr, sent: &str) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(sent.as_bytes()).await;
    // An end or a reset; far above every limit there is.
    let read = tokio::time::timeout(Duration::from_secs(3600), stream.read(&mut [0])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

/// Time passes by itself as soon as nothing else happens.
#[tokio::test(start_paused = true)]
async fn who_never_asks_is_let_go() {
    let running = Running::start(Limits::default());
    for (name, address) in [("query", running.address), ("admin", running.admin)] {
        for sent in ["", "GET / HTTP/1.1\r\nhost: x\r\nx-never: ends"] {
            assert!(closed(address, sent).await, "{name}: {sent:?}");
        }
        let counted = format!("tailwater_{name}_connections_refused_total{{reason=\"header_timeout\"}} 2");
        running.until(&counted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_a_part_of_the_places() {
    descriptors::raise();
    let running = Running::start(Limits::default());
    for (name, address, limits) in [
        ("query", running.address, role::connections(Duration::from_secs(30))),
        ("admin", running.admin, tailwater_runtime::admin::LIMITS),
    ] {
        assert!(limits.per_peer < limits.connections);
        let mut held = Vec::new();
        for _ in 0..limits.per_peer {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(closed(address, "").await, "{name}");
        let counted = format!("tailwater_{name}_connections_refused_total{{reason=\"per_peer\"}} 1");
        running.until(&counted).await;
    }
}

const ENDLESS: &str = "select count(*) from generate_series(1, 100000000000)";

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_with_its_client_and_with_the_drain() {
    // Nothing ends by its own time.
    let running = Running::start(Limits {
        timeout: Duration::from_secs(3600),
        ..Limits::default()
    });
    running.lake.ensure_tables().await.unwrap();
    let ask = async || {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let head = format!(
            "POST /api/v1/sql HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            ENDLESS.len()
        );
        stream.write_all((head + ENDLESS).as_bytes()).await.unwrap();
        running.until("tailwater_query_running 1.0").await;
        stream
    };
    drop(ask().await);
    running.until("tailwater_query_running 0.0").await;

    let _asked = ask().await;
    running.shutdown.begin("the first signal");
    // New connections are not taken any more.
    while TcpStream::connect(running.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    running.shutdown.immediate("the second signal");
    running.role.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_the_lake_answers_and_drains() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(&directory.path().join("lake")).unwrap();
    let temp = directory.path().join("temp");
    std::fs::create_dir_all(temp.join("datafusion-killed/deep")).unwrap();
    let [query, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, admin_address) = (query.local_addr().unwrap(), admin.local_addr().unwrap());
    let shutdown = Shutdown::new();
    let limits = Limits {
        threads: 1,
        ..Limits::default()
    };
    let engine = EngineConfig {
        lake: lake.clone(),
        outbox: None,
        temp: Some(temp.clone()),
        limits,
    };
    let data = directory.path().to_path_buf();
    let metrics = Metrics::new();
    let config = Role {
        engine,
        slos: None,
        query,
        admin,
        guard: Guard::open(&Config::of(&[]).unwrap(), &metrics).unwrap(),
        metrics,
        data: Some(data.clone()),
    };
    let running = tokio::spawn(role::run(config, shutdown.clone()));

    // Connections queue in the listener until it serves.
    let (status, body) = request(address, "POST", "/api/v1/sql", "select count(*) from spans").await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(request(admin_address, "GET", "/readyz", "").await.0, 503);
    assert!(!temp.join("datafusion-killed").exists());
    lake.ensure_tables().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while request(admin_address, "GET", "/readyz", "").await.0 != 200 {
        assert!(Instant::now() < deadline, "it never gets ready");
    }
    let (status, body) = request(address, "POST", "/api/v1/sql", "select count(*) as n from spans").await;
    assert_eq!((status, body.contains("\"rows\":[\n[0]]")), (200, true), "{body}");
    let (_, metrics) = request(admin_address, "GET", "/metrics", "").await;
    assert!(metrics.contains("tailwater_query_answered_total 1"), "{metrics}");
    assert!(
        metrics.contains("tailwater_query_failed_unavailable_total 1"),
        "{metrics}"
    );
    let file = tailwater_runtime::run_dir::read(&data, "query").unwrap().unwrap();
    assert_eq!(file.reach("query.listen"), Some(address));

    shutdown.begin("test");
    running.await.unwrap().unwrap();
    assert!(tailwater_runtime::run_dir::read(&data, "query").unwrap().is_none());
}
