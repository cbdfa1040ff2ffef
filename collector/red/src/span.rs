//! The attributes that counting looks at, and how they are read.

use tailwater_model::otlp::peek::{Keys, SpanPeek};
use tailwater_model::otlp::value::Raw;

use crate::rules::{Grpc, Seen};

/// Asked of every span; the dimensions follow. A span's own attribute wins over its resource's.
const ASKED: [&str; 16] = [
    "http.response.status_code",
    "http.status_code",
    "http.route",
    "rpc.grpc.status_code",
    "rpc.response.status_code",
    "error.type",
    "deployment.environment.name",
    "deployment.environment",
    "service.version",
    "cloud.region",
    "peer.service",
    "service.peer.name",
    "db.system.name",
    "db.system",
    "messaging.system",
    "server.address",
];

/// The keys to ask for.
pub(crate) fn keys(dimensions: &[String]) -> Keys {
    Keys::new(ASKED.into_iter().chain(dimensions.iter().map(String::as_str)))
}

/// The values of [`keys`].
#[derive(Clone, Copy)]
pub(crate) struct Values<'a, 'v>(pub &'v [Option<Raw<'a>>]);

impl<'a, 'v> Values<'a, 'v> {
    #[inline]
    fn text(self, at: usize) -> &'a [u8] {
        self.0[at].and_then(Raw::text).unwrap_or_default()
    }

    /// The first of these that is a text.
    #[inline]
    fn first(self, at: [usize; 2]) -> &'a [u8] {
        match self.text(at[0]) {
            b"" => self.text(at[1]),
            text => text,
        }
    }

    pub fn route(self) -> &'a [u8] {
        self.text(2)
    }

    pub fn error_type(self) -> &'a [u8] {
        self.text(5)
    }

    pub fn deployment_env(self) -> &'a [u8] {
        self.first([6, 7])
    }

    pub fn service_version(self) -> &'a [u8] {
        self.text(8)
    }

    pub fn cloud_region(self) -> &'a [u8] {
        self.text(9)
    }

    pub fn is_database(self) -> bool {
        self.0[12].or(self.0[13]).is_some()
    }

    /// Whom a caller says it calls.
    pub fn peer(self) -> &'a [u8] {
        [self.first([10, 11]), self.first([12, 13]), self.text(14), self.text(15)]
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default()
    }

    pub fn dimensions(self) -> &'v [Option<Raw<'a>>] {
        &self.0[ASKED.len()..]
    }

    #[inline]
    fn http(self) -> u16 {
        let Some(code) = self.0[0].or(self.0[1]) else { return 0 };
        match code.number() {
            Some(code) => u16::try_from(code).unwrap_or(0),
            // Converted from Jaeger or Zipkin, where tags are texts.
            None => code.text().filter(|code| code.len() == 3).and_then(digits).unwrap_or(0),
        }
    }

    #[inline]
    fn grpc(self) -> Option<Grpc> {
        let code = self.0[3].or(self.0[4])?;
        match code.number() {
            Some(code) => Some(Grpc::from_number(code)),
            None => {
                let code = code.text()?;
                Grpc::from_name(code).or_else(|| Some(Grpc::from_number(digits(code)?.into())))
            }
        }
    }
}

fn digits(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What the rules look at.
#[inline]
pub(crate) fn seen(span: &SpanPeek<'_, '_>) -> Seen {
    let values = Values(span.values);
    Seen {
        kind: span.head.kind,
        status: span.head.status_code,
        http: values.http(),
        grpc: values.grpc(),
        is_root: !span.head.parent_span_id.iter().any(|byte| *byte != 0),
        flags: span.head.flags,
    }
}
