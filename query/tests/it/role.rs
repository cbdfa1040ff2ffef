//! The process `tailwater query` as its clients see it.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use tailwater_config::Config;
use tailwater_query::role::{self, Guard, Role};
use tailwater_query::{EngineConfig, Limits};
use tailwater_runtime::{Metrics, Shutdown};
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
