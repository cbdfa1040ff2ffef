//! TLS as clients meet it: names, dates, client certificates, and files that change under load.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tailwater_config::TlsFiles;
use tailwater_runtime::serve::{self, Web};
use tailwater_runtime::tls::{Connector, Speaks, Tls, Trust};
use tailwater_runtime::{Metrics, reload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An authority and a place for files.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority {
            issuer: Issuer::new(params, key),
            dir,
        }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Certificate and key for these names, in PEM.
    fn issue(&self, names: &[&str], expired: bool) -> (String, String) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The same as files.
    fn files(&self, stem: &str, names: &[&str], expired: bool) -> (PathBuf, PathBuf) {
        let (cert, key) = (
            self.dir.path().join(format!("{stem}.pem")),
            self.dir.path().join(format!("{stem}.key")),
        );
        put(&cert, &key, &self.issue(names, expired));
        (cert, key)
    }
}

fn put(cert: &Path, key: &Path, (chain, private): &(String, String)) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(cert, chain).unwrap();
    std::fs::write(key, private).unwrap();
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A server that says "hello".
async fn serve(tls: Arc<Tls>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = Router::new().route("/", get(async || "hello"));
    let limits = serve::limits(64, 64, 16 << 10, Duration::from_secs(60));
    let web = Web::new("test", routes, limits, &Metrics::new());
    tokio::spawn(serve::serve(
        listener,
        Some(tls),
        limits,
        web,
        std::future::pending(),
        Duration::ZERO,
    ));
    port
}

fn client(ca: &Path, identity: Option<(PathBuf, PathBuf)>, name: Option<&str>) -> Connector {
    let trust = Trust {
        ca: Some(ca.to_owned()),
        identity,
        name: name.map(str::to_owned),
    };
    Connector::tls(&trust, Speaks::Http1).unwrap()
}

async fn hello(client: &Connector, port: u16) -> std::io::Result<()> {
    let mut stream = client.connect(&format!("127.0.0.1:{port}")).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    // A server that closes without TLS's own goodbye is an error here, so a cut answer never passes for a whole one.
    stream.read_to_string(&mut answer).await?;
    match answer.ends_with("hello") {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("answered {answer:?}"))),
    }
}

fn open(cert: &Path, key: &Path, client_ca: Option<PathBuf>) -> std::io::Result<Arc<Tls>> {
    let files = TlsFiles {
        cert: cert.to_owned(),
        key: key.to_owned(),
        client_ca,
    };
    Tls::open(files, Speaks::Both)
}

#[tokio::test]
async fn names_dates_and_authorities_must_be_right() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let check = async |expired: bool, ca: &Path, name: Option<&str>, says: Option<&str>| {
        let (cert, key) = ours.files("server", &["127.0.0.1", "tailwater.test"], expired);
        let port = serve(open(&cert, &key, None).unwrap()).await;
        match (hello(&client(ca, None, name), port).await, says) {
            (Ok(()), None) => {}
            (Err(error), Some(says)) => assert!(error.to_string().contains(says), "{error}"),
            (got, says) => panic!("{got:?}, wanted {says:?}"),
        }
    };
    check(false, &ours.ca(), None, None).await;
    check(false, &ours.ca(), Some("tailwater.test"), None).await;
    check(false, &ours.ca(), Some("other.test"), Some("not valid for name")).await;
    check(true, &ours.ca(), None, Some("expired")).await;
    check(false, &theirs.ca(), None, Some("UnknownIssuer")).await;
}

#[tokio::test]
async fn with_client_ca_nobody_gets_in_without_a_certificate_of_it() {
    let (servers, clients, theirs) = (
        Authority::new("servers"),
        Authority::new("clients"),
        Authority::new("theirs"),
    );
    let (cert, key) = servers.files("server", &["127.0.0.1"], false);
    let port = serve(open(&cert, &key, Some(clients.ca())).unwrap()).await;
    let ask = async |identity: Option<(PathBuf, PathBuf)>| hello(&client(&servers.ca(), identity, None), port).await;
    assert!(ask(None).await.is_err());
    assert!(ask(Some(theirs.files("agent", &["agent"], false))).await.is_err());
    assert!(ask(Some(clients.files("old", &["agent"], true))).await.is_err());
    ask(Some(clients.files("agent", &["agent"], false))).await.unwrap();
}

#[test]
fn files_that_cannot_be_used_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let ours = Authority::new("ours");
    let (cert, key) = ours.files("server", &["x"], false);
    let (_, other) = ours.files("other", &["x"], false);
    let says = |cert: &Path, key: &Path, ca: Option<PathBuf>, words: &str| {
        let error = open(cert, key, ca).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains("BEGIN") && !error.contains("MIG"), "{error}");
    };
    open(&cert, &key, None).unwrap();
    std::fs::set_permissions(&cert, std::fs::Permissions::from_mode(0o600)).unwrap();
    says(&cert, &other, None, "server.pem");
    says(&cert, &cert, None, "holds no private key");
    says(&key, &key, None, "holds no certificate");
    says(&ours.dir.path().join("none"), &key, None, "none");
    says(&cert, &key, Some(key.clone()), "holds no certificate");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o604)).unwrap();
    says(&cert, &key, None, "everybody may use this private key");
}

/// Clients on fresh and on kept connections while the certificate is exchanged for one of another authority, and broken, and mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_loses_no_request() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (cert, key) = old.files("server", &["127.0.0.1"], false);
    let both = old.dir.path().join("both.pem");
    let text = [old.ca(), new.ca()]
        .map(|path| std::fs::read_to_string(path).unwrap())
        .concat();
    std::fs::write(&both, text).unwrap();
    let tls = open(&cert, &key, None).unwrap();
    let metrics = Metrics::new();
    let parts = vec![reload::Part::Tls("query.listen", tls.clone())];
    let _watch = reload::watch(parts, Duration::from_millis(5), &metrics).unwrap();
    let port = serve(tls).await;

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, stop, answered) = (client(&both, None, None), stop.clone(), answered.clone());
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                hello(&client, port).await.unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // A connection from before the rotation goes on.
    let mut kept = client(&both, None, None)
        .connect(&format!("127.0.0.1:{port}"))
        .await
        .unwrap();
    let mut ask_kept = async || {
        kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert_ne!(kept.read_buf(&mut answer).await.unwrap(), 0, "it was cut");
        }
    };
    ask_kept().await;
    let only_new = client(&new.ca(), None, None);
    assert!(hello(&only_new, port).await.is_err());
    // Half a rotation: a key that is not the certificate's yet. Nothing changes.
    let (chain, private) = new.issue(&["127.0.0.1"], false);
    std::fs::write(&key, &private).unwrap();
    let failed = r#"tailwater_reloads_total{part="query.listen",outcome="failed"} 1"#;
    while !metrics.encode().contains(failed) {
        tokio::task::yield_now().await;
    }
    assert!(hello(&client(&old.ca(), None, None), port).await.is_ok());
    put(&cert, &key, &(chain, private));
    while hello(&only_new, port).await.is_err() {}
    let seen = answered.load(Ordering::Relaxed);
    while answered.load(Ordering::Relaxed) < seen + 20 {
        tokio::task::yield_now().await;
    }
    ask_kept().await;
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = load.join_next().await {
        done.unwrap();
    }
    assert!(
        hello(&client(&old.ca(), None, None), port).await.is_err(),
        "the old one is gone"
    );
}
