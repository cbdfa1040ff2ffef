//! TLS of listeners and clients: PEM files to rustls, read again when they change.
//!
//! Guarantees: TLS 1.2 or newer; new files count for new connections and leave open ones alone; files that do not go together change nothing;
//! with `client_ca` nobody gets past the handshake without a certificate of those authorities. Nothing here can switch verification off.
//! Assumes ring as the provider, because object_store brings it anyway.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tailwater_config::TlsFiles;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// Largest PEM file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a connection may speak, in ALPN's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/2 alone: gRPC.
    Http2,
    /// HTTP/1.1 alone.
    Http1,
    /// Either.
    Both,
}

impl Speaks {
    fn alpn(self) -> Vec<Vec<u8>> {
        let words: &[&[u8]] = match self {
            Speaks::Http2 => &[b"h2"],
            Speaks::Http1 => &[b"http/1.1"],
            Speaks::Both => &[b"h2", b"http/1.1"],
        };
        words.iter().map(|word| word.to_vec()).collect()
    }
}

/// The certificate of a listener, and whom it lets in.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    speaks: Speaks,
    current: RwLock<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// SHA-256 over the files.
    print: [u8; 32],
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be read, is not PEM, or the key is not the certificate's or may be read by everybody.
    pub fn open(files: TlsFiles, speaks: Speaks) -> io::Result<Arc<Tls>> {
        let current = RwLock::new(load(&files, speaks, None)?.expect("nothing is known yet"));
        Ok(Arc::new(Tls { files, speaks, current }))
    }

    /// Everything that is wrong with the files, each with what it is of them: `cert`, `key` or `client_ca`.
    #[must_use]
    pub fn check(files: &TlsFiles) -> Vec<(&'static str, io::Error)> {
        let cert = bytes(&files.cert).and_then(|pem| certificates(&files.cert, &pem));
        let key = private(&files.key)
            .and_then(|()| bytes(&files.key))
            .and_then(|pem| private_key(&files.key, &pem));
        let authority = |path: &PathBuf| bytes(path).and_then(|pem| authorities(path, &pem));
        let ca = files.client_ca.as_ref().map(authority);
        let all = [
            ("cert", cert.err()),
            ("key", key.err()),
            ("client_ca", ca.and_then(Result::err)),
        ];
        let mut wrong: Vec<_> = all.into_iter().filter_map(|(of, error)| Some((of, error?))).collect();
        // Each for itself is good; together they may not be.
        if wrong.is_empty() {
            wrong.extend(load(files, Speaks::Both, None).err().map(|error| ("cert", error)));
        }
        wrong
    }

    /// Reads the files again; says whether they changed. What is wrong with them leaves everything as it was.
    ///
    /// # Errors
    /// As [`Tls::open`].
    pub fn reload(&self) -> io::Result<bool> {
        let print = self.current.read().print;
        let Some(new) = load(&self.files, self.speaks, Some(print))? else {
            return Ok(false);
        };
        // With the settings their tickets go, so nobody resumes what the old authorities allowed.
        *self.current.write() = new;
        Ok(true)
    }

    /// The handshake, as the files are now.
    ///
    /// # Errors
    /// When the client does not manage it: another protocol, no certificate.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        let config = self.current.read().config.clone();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }
}

fn wrong(path: &Path, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()))
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| wrong(path, error))?;
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(path, error))?;
    Ok(bytes)
}

fn certificates(path: &Path, pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(wrong(path, "holds no certificate (PEM)")),
        Ok(all) => Ok(all),
        Err(error) => Err(wrong(path, format!("is no PEM: {error}"))),
    }
}

fn private(path: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(path)
        .map_err(|error| wrong(path, error))?
        .permissions()
        .mode();
    if mode & 0o007 != 0 {
        return Err(wrong(path, "everybody may use this private key (chmod o-rwx)"));
    }
    Ok(())
}

fn private_key(path: &Path, pem: &[u8]) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| wrong(path, "holds no private key (PEM)"))
}

fn authorities(path: &Path, pem: &[u8]) -> io::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|error| wrong(path, error))?;
    }
    Ok(Arc::new(roots))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The settings of these files; `None` if they are the ones of this print.
fn load(files: &TlsFiles, speaks: Speaks, known: Option<[u8; 32]>) -> io::Result<Option<Loaded>> {
    private(&files.key)?;
    let (cert, key) = (bytes(&files.cert)?, bytes(&files.key)?);
    let ca = files.client_ca.as_deref().map(bytes).transpose()?;
    let mut whole = Vec::new();
    for part in [&cert, &key, ca.as_ref().unwrap_or(&Vec::new())] {
        whole.extend_from_slice(&(part.len() as u64).to_be_bytes());
        whole.extend_from_slice(part);
    }
    let print = crate::access::hash(&whole);
    if known == Some(print) {
        return Ok(None);
    }
    let chain = certificates(&files.cert, &cert)?;
    let key = private_key(&files.key, &key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match (&files.client_ca, &ca) {
        (Some(path), Some(pem)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities(path, pem)?, provider())
                .build()
                .map_err(|error| wrong(path, error))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    // The error would be the same for a key that is not the certificate's; it holds nothing of either.
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&files.cert, format!("and {}: {error}", files.key.display())))?;
    config.alpn_protocols = speaks.alpn();
    Ok(Some(Loaded {
        config: Arc::new(config),
        print,
    }))
}

/// What a client trusts and shows.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Authorities of servers, PEM; `None` takes the system's.
    pub ca: Option<PathBuf>,
    /// Its own certificate and key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have, where it is not the address's.
    pub name: Option<String>,
}

/// Makes connections of a client.
#[derive(Clone)]
pub struct Connector {
    tls: Option<TlsConnector>,
    name: Option<String>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// Nobody answers at an address.
#[derive(Debug)]
pub struct Unreachable(String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

impl Connector {
    /// Plain TCP.
    #[must_use]
    pub fn plain() -> Connector {
        Connector { tls: None, name: None }
    }

    /// TLS.
    ///
    /// # Errors
    /// When a file cannot be read, or the system has no authorities.
    pub fn tls(trust: &Trust, speaks: Speaks) -> io::Result<Connector> {
        let roots = match &trust.ca {
            Some(path) => authorities(path, &bytes(path)?)?,
            None => {
                let mut roots = RootCertStore::empty();
                // Some of a system's certificates are always beyond a library; what matters is that there are others.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(io::Error::other(
                        "the system has no certificates of authorities: name a file (--ca)",
                    ));
                }
                Arc::new(roots)
            }
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        let mut config = match &trust.identity {
            Some((cert, key)) => {
                let chain = certificates(cert, &bytes(cert)?)?;
                let pem = bytes(key)?;
                let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| wrong(key, "holds no private key (PEM)"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| wrong(cert, error))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = speaks.alpn();
        Ok(Connector {
            tls: Some(TlsConnector::from(Arc::new(config))),
            name: trust.name.clone(),
        })
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// As [`Connector::connect`], for so long and no longer.
    ///
    /// # Errors
    /// Where nobody answers, and why.
    pub async fn reach(&self, authority: &str, within: Duration) -> Result<Stream, Unreachable> {
        let unreachable = |why: String| Unreachable(format!("no server answers at {authority}: {why}"));
        match tokio::time::timeout(within, self.connect(authority)).await {
            Ok(connected) => connected.map_err(|error| unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("not within {within:?}"))),
        }
    }

    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody listens, or the certificate is not good: another name, out of date, of an unknown authority.
    pub async fn connect(&self, authority: &str) -> io::Result<Stream> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(stream));
        };
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = self
            .name
            .as_deref()
            .unwrap_or(host.trim_start_matches('[').trim_end_matches(']'));
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(tls.connect(name, stream).await?.into())))
    }
}

/// A connection with or without TLS.
#[derive(Debug)]
pub enum Stream {
    /// Without.
    Plain(TcpStream),
    /// With.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
