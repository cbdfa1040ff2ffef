//! The listeners there are, and what guards each of them.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::settings::{Settings, Tls};

/// A listener, as the settings describe it.
pub(crate) struct Listener<'s> {
    /// The key of its address.
    pub key: &'static str,
    pub address: SocketAddr,
    pub own: &'s Tls,
}

/// Files of a listener with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Authorities of client certificates, PEM; `None` asks clients for none.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    fn of(tls: &Tls) -> Option<TlsFiles> {
        Some(TlsFiles {
            cert: tls.cert.clone()?,
            key: tls.key.clone()?,
            client_ca: tls.client_ca.clone(),
        })
    }
}

impl Settings {
    /// Every listener.
    pub(crate) fn listeners(&self) -> [Listener<'_>; 6] {
        let of = |key, address, own| Listener { key, address, own };
        let (grpc, http, query, admin) = (&self.intake.grpc, &self.intake.http, &self.query, &self.admin);
        [
            of("intake.grpc.listen", grpc.listen, &grpc.tls),
            of("intake.http.listen", http.listen, &http.tls),
            of("query.listen", query.listen, &query.tls),
            of("admin.collector", admin.collector, &admin.tls),
            of("admin.query", admin.query, &admin.tls),
            of("admin.maintain", admin.maintain, &admin.tls),
        ]
    }

    /// TLS of the listener with this key (`query.listen`): its own section if that names a certificate, else `tls`. `None` is no TLS.
    #[must_use]
    pub fn tls_of(&self, listener: &str) -> Option<TlsFiles> {
        let own = self.listeners().into_iter().find(|one| one.key == listener)?.own;
        TlsFiles::of(own).or_else(|| TlsFiles::of(&self.tls))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::Config;

    #[test]
    fn a_section_of_its_own_stands_in_place_of_the_common_one() {
        let config = Config::of(&[
            ("tls.cert", "c"),
            ("tls.key", "k"),
            ("tls.client_ca", "ca"),
            ("query.tls.cert", "qc"),
            ("query.tls.key", "qk"),
        ])
        .unwrap();
        let of = |listener: &str| {
            let files = config.tls_of(listener).unwrap();
            (files.cert.display().to_string(), files.client_ca.is_some())
        };
        assert_eq!(of("intake.grpc.listen"), ("c".into(), true));
        assert_eq!(of("admin.maintain"), ("c".into(), true));
        // Grafana has no client certificate.
        assert_eq!(of("query.listen"), ("qc".into(), false));
        assert_eq!(Config::of(&[]).unwrap().tls_of("query.listen"), None);
    }
}
