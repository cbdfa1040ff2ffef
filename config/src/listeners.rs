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

    /// Sections that a listener has its TLS from, by name (`query.tls`), with their files.
    #[must_use]
    pub fn tls_sections(&self) -> Vec<(&'static str, TlsFiles)> {
        let sections = [
            ("tls", &self.tls),
            ("intake.grpc.tls", &self.intake.grpc.tls),
            ("intake.http.tls", &self.intake.http.tls),
            ("query.tls", &self.query.tls),
            ("admin.tls", &self.admin.tls),
        ];
        let used: Vec<TlsFiles> = self.listeners().iter().filter_map(|one| self.tls_of(one.key)).collect();
        let files = sections
            .into_iter()
            .filter_map(|(name, tls)| Some((name, TlsFiles::of(tls)?)));
        files.filter(|(_, files)| used.contains(files)).collect()
    }

    /// Whether other machines reach the listener with this key (`query.listen`) without TLS or without tokens: only `allow_insecure` lets it.
    #[must_use]
    pub fn is_insecure(&self, listener: &str) -> bool {
        let listeners = self.listeners();
        let Some(one) = listeners.iter().find(|one| one.key == listener) else {
            return false;
        };
        let is_guarded = self.tls_of(listener).is_some() && self.access.tokens.is_some();
        !one.address.ip().to_canonical().is_loopback() && !is_guarded
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
        let sections: Vec<&str> = config.tls_sections().iter().map(|(name, _)| *name).collect();
        assert_eq!(sections, ["tls", "query.tls"]);
        assert_eq!(Config::of(&[]).unwrap().tls_of("query.listen"), None);
        assert_eq!(Config::of(&[]).unwrap().tls_sections(), []);
    }
}
