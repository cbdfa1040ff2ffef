//! What a command that asks a server shows and trusts: a token, authorities, a certificate of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use http::Uri;
use tailwater_config::Secret;
use tailwater_runtime::tls::{Connector, Speaks, Trust};

use super::tell;

/// Options of commands that ask a server.
#[derive(Debug, Clone, Default, Args)]
pub struct ClientArgs {
    /// Token for a server that asks for one. Other users of the machine can see options, but not variables.
    #[arg(long, env = "TAILWATER_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = secret)]
    pub token: Option<Secret>,
    /// Certificates (PEM) of the authorities to trust for https; without it, the system's.
    #[arg(long, env = "TAILWATER_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Certificate (PEM) to show to a server that asks for one.
    #[arg(long, env = "TAILWATER_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "TAILWATER_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Name that the server's certificate must have, where it is not the host's.
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
}

#[allow(clippy::unnecessary_wraps)] // What clap calls.
fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text.trim()))
}

/// A server, and how to talk to it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `host:port`.
    pub authority: String,
    /// Makes connections.
    pub connector: Connector,
    /// Sent with each request.
    pub token: Option<Secret>,
}

impl Peer {
    /// Without TLS and token.
    #[must_use]
    pub fn plain(authority: impl Into<String>) -> Peer {
        Peer {
            authority: authority.into(),
            connector: Connector::plain(),
            token: None,
        }
    }

    /// `Authorization`, if there is a token.
    ///
    /// # Errors
    /// When the token holds what no header may.
    pub fn authorization(&self) -> anyhow::Result<Option<http::HeaderValue>> {
        authorization(self.token.as_ref())
    }
}

/// The header of a token. Marked as sensitive, so that no library writes it into a log.
///
/// # Errors
/// When the token holds what no header may.
pub fn authorization(token: Option<&Secret>) -> anyhow::Result<Option<http::HeaderValue>> {
    let Some(token) = token else { return Ok(None) };
    // The error of a header holds nothing of its value.
    let mut value = http::HeaderValue::try_from(format!("Bearer {}", token.reveal()))
        .map_err(|_| anyhow!("the token holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

impl ClientArgs {
    /// The token, if there is one.
    #[must_use]
    pub fn token(&self) -> Option<Secret> {
        // A variable that is set to nothing counts as not set, as everywhere.
        self.token.clone().filter(|token| !token.reveal().is_empty())
    }

    /// Makes connections for an endpoint: plain for `http`, TLS for `https`. Says so where a token goes over a network in clear text.
    ///
    /// # Errors
    /// When a file cannot be read; for another scheme.
    pub fn connector(&self, endpoint: &Uri, speaks: Speaks) -> anyhow::Result<Connector> {
        match endpoint.scheme_str() {
            None | Some("http") => {
                if let Some(warning) = self.in_clear(endpoint) {
                    tell(format_args!("tailwater: {warning}"));
                }
                Ok(Connector::plain())
            }
            Some("https") => self.tls(speaks),
            Some(_) => bail!("endpoint `{endpoint}`: only http:// and https:// are supported"),
        }
    }

    /// What there is to say about a token and a plain endpoint.
    fn in_clear(&self, endpoint: &Uri) -> Option<String> {
        self.token()?;
        let host = endpoint.host()?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let here = match bare.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => bare.eq_ignore_ascii_case("localhost"),
        };
        (!here).then(|| {
            format!("warning: the token goes to {host} in clear text, for all on the way to read: use https://")
        })
    }

    fn tls(&self, speaks: Speaks) -> anyhow::Result<Connector> {
        let trust = Trust {
            ca: self.ca.clone(),
            identity: self.client_cert.clone().zip(self.client_key.clone()),
            name: self.server_name.clone(),
        };
        Connector::tls(&trust, speaks).context("TLS")
    }

    /// The server of an `http(s)://host:port`.
    ///
    /// # Errors
    /// When it is something else, or a file cannot be read.
    pub fn peer(&self, endpoint: &Uri) -> anyhow::Result<Peer> {
        let host = endpoint
            .host()
            .ok_or_else(|| anyhow!("endpoint `{endpoint}` names no host (want http://host:port)"))?;
        Ok(Peer {
            authority: format!("{host}:{}", endpoint.port_u16().unwrap_or(4319)),
            connector: self.connector(endpoint, Speaks::Http1)?,
            token: self.token(),
        })
    }

    /// The server at an address of this machine.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn local(&self, address: SocketAddr, tls: bool) -> anyhow::Result<Peer> {
        Ok(Peer {
            authority: address.to_string(),
            connector: if tls {
                self.tls(Speaks::Http1)?
            } else {
                Connector::plain()
            },
            token: self.token(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        client: ClientArgs,
    }

    #[test]
    fn endpoints_have_a_scheme_a_host_and_a_port() {
        let client = ClientArgs::default();
        let of = |text: &'static str| client.peer(&Uri::from_static(text)).map(|peer| peer.authority);
        assert_eq!(of("http://127.0.0.1").unwrap(), "127.0.0.1:4319");
        assert_eq!(of("http://[::1]:5").unwrap(), "[::1]:5");
        assert!(
            of("ftp://x:1")
                .unwrap_err()
                .to_string()
                .contains("only http:// and https://")
        );
        assert!(of("/x").unwrap_err().to_string().contains("names no host"));
    }

    #[test]
    fn a_token_in_clear_text_over_a_network_is_warned_of() {
        let check = |token: Option<&str>, endpoint: &'static str, warned: bool| {
            let client = ClientArgs {
                token: token.map(Secret::new),
                ..ClientArgs::default()
            };
            let said = client.in_clear(&Uri::from_static(endpoint));
            assert_eq!(said.is_some(), warned, "{endpoint}: {said:?}");
            assert!(!said.unwrap_or_default().contains("canary"));
        };
        let token = Some("tw_canary");
        check(token, "http://lake.example:4319", true);
        check(token, "lake.example:4317", true);
        check(token, "http://10.0.0.7:4319", true);
        check(token, "http://[fd00::7]:4319", true);
        check(token, "http://localhost.example:4319", true);
        check(token, "http://localhost:4319", false);
        check(token, "http://127.0.0.9:4319", false);
        check(token, "http://[::1]:4319", false);
        check(None, "http://lake.example:4319", false);
        check(Some(""), "http://lake.example:4319", false);
    }

    #[test]
    fn a_token_is_in_the_header_and_nowhere_else() {
        let line = Line::try_parse_from(["x", "--token", " tw_canary "]).unwrap();
        let peer = line.client.peer(&Uri::from_static("http://x:1")).unwrap();
        let header = peer.authorization().unwrap().unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer tw_canary");
        let said = format!("{line:?} {peer:?} {header:?}");
        assert!(!said.contains("canary"), "{said}");
        let line = Line::try_parse_from(["x", "--token", "tw_canary\n2"]).unwrap();
        let error = authorization(line.client.token().as_ref()).unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
        let line = Line::try_parse_from(["x", "--token", ""]).unwrap();
        assert!(line.client.token().is_none());
    }
}
