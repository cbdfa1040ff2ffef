//! Why a whole request was refused, and how each protocol says so. The only place where refusals become codes.
//!
//! Codes follow the OTLP specification 1.11 (what clients may retry) and `design/reliability.md` section 2.

use std::fmt;
use std::time::Duration;

use tailwater_model::otlp::reply::{Code, Status};
use tailwater_runtime::access::Denied;

use crate::admit::Exhausted;
use crate::stats::Outcome;

/// What is full when the budget of request bytes is.
pub const MEMORY: &str = "memory";

/// What a request is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The rest of its body: the client or the network is slow. All others are the server's.
    Body,
    /// A core to inflate and decode it.
    Decoding,
    /// The outcome of an identical request.
    FirstCopy,
    /// A place in the backlog.
    Backlog,
    /// The sync of its record.
    Disk,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Body => "its body",
            Stage::Decoding => "decoding",
            Stage::FirstCopy => "an identical request under way",
            Stage::Backlog => "a place in the backlog",
            Stage::Disk => "the disk",
        }
    }
}

/// A request that was not accepted. Nothing of it is stored, unless [`Refusal::outcome`] is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The server cannot take it now; the same request may pass later.
    Overloaded {
        /// What is full, in words.
        what: &'static str,
        /// When to come back.
        retry_after: Duration,
    },
    /// No good token, or one that may not do this; final.
    Denied(Denied),
    /// This tenant is over its quota; the same request may pass later.
    OverQuota {
        /// Of what.
        what: &'static str,
        /// When to come back.
        retry_after: Duration,
    },
    /// Over a size limit, final.
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// Decoding takes more memory than a tenant may hold when nothing else is held, final.
    OverMemory {
        /// Bytes that a tenant may hold.
        limit: u64,
    },
    /// Many small items, or many attributes of a resource, repeated in every row: as rows it would be too large, final.
    TooManyRows {
        /// Bytes of its rows, about.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Compressed too well to be honest, final.
    Bomb {
        /// `intake.inflate_ratio`.
        ratio: u64,
    },
    /// Too many fields in its head, final.
    TooManyHeaders {
        /// Their limit.
        limit: usize,
    },
    /// Cannot be decoded, final.
    Malformed(String),
    /// A content type we do not speak.
    UnsupportedType(String),
    /// A content encoding we do not speak.
    UnsupportedEncoding(String),
    /// No such path or method of a service.
    UnknownPath(String),
    /// A path of ours with another method than POST.
    MethodNotAllowed,
    /// The body stopped coming.
    Stalled,
    /// It took longer than a request may; the same request may pass later.
    TimedOut {
        /// What took the time, at the end.
        waits_for: Stage,
        /// `intake.request_timeout`.
        limit: Duration,
        /// When to come back.
        retry_after: Duration,
    },
    /// The client's own deadline passed.
    Deadline,
    /// The log failed under us; the process is about to stop. Outcome unknown: retry.
    LogFailed,
}

impl Refusal {
    /// A final refusal of undecodable bytes.
    pub fn malformed(message: impl Into<String>) -> Refusal {
        Refusal::Malformed(message.into())
    }

    /// Label of the counter this refusal moves.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Overloaded { what, .. } => what,
            Refusal::Denied(denied) => denied.reason(),
            Refusal::OverQuota { what: "bytes", .. } => "over_quota_bytes",
            Refusal::OverQuota { what: "points", .. } => "over_quota_points",
            Refusal::OverQuota { .. } => "over_quota_memory",
            Refusal::TooLarge { .. } => "too_large",
            Refusal::OverMemory { .. } => "too_large_for_memory",
            Refusal::TooManyRows { .. } => "too_many_rows",
            Refusal::Bomb { .. } => "inflate_ratio",
            Refusal::TooManyHeaders { .. } => "too_many_headers",
            Refusal::Malformed(_) => "malformed",
            Refusal::UnsupportedType(_) => "unsupported_type",
            Refusal::UnsupportedEncoding(_) => "unsupported_encoding",
            Refusal::UnknownPath(_) => "unknown_path",
            Refusal::MethodNotAllowed => "method_not_allowed",
            Refusal::Stalled => "stalled",
            Refusal::TimedOut { waits_for, .. } => match waits_for {
                Stage::Body => "timeout_body",
                Stage::Decoding => "timeout_decoding",
                Stage::FirstCopy => "timeout_first_copy",
                Stage::Backlog => "timeout_backlog",
                Stage::Disk => "timeout_disk",
            },
            Refusal::Deadline => "deadline",
            Refusal::LogFailed => "log_failed",
        }
    }

    /// What is known of the request's end: a record that was appended becomes durable whether or not anybody still waits for it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Refusal::TimedOut {
                waits_for: Stage::Disk, ..
            }
            | Refusal::Deadline
            | Refusal::LogFailed => Outcome::Unknown(self.reason()),
            _ => Outcome::Refused(self.reason()),
        }
    }

    /// HTTP status. Only 429 and 503 tell an OTLP client to try again.
    pub fn http_status(&self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            Refusal::Overloaded { .. } | Refusal::TimedOut { .. } | Refusal::LogFailed | Refusal::Stalled => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // Only gRPC has one.
            Refusal::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Refusal::Denied(denied) => denied.http_status(),
            Refusal::OverQuota { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::TooLarge { .. }
            | Refusal::OverMemory { .. }
            | Refusal::TooManyRows { .. }
            | Refusal::Bomb { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::TooManyHeaders { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::UnsupportedType(_) | Refusal::UnsupportedEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refusal::UnknownPath(_) => StatusCode::NOT_FOUND,
            Refusal::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// gRPC status. RESOURCE_EXHAUSTED is retryable only with RetryInfo, so what is too large carries none.
    pub fn grpc_code(&self) -> Code {
        match self {
            Refusal::Overloaded { .. } | Refusal::TimedOut { .. } | Refusal::LogFailed => Code::Unavailable,
            Refusal::Denied(denied) if denied.is_forbidden() => Code::PermissionDenied,
            Refusal::Denied(_) => Code::Unauthenticated,
            Refusal::Stalled | Refusal::Deadline => Code::DeadlineExceeded,
            Refusal::OverQuota { .. }
            | Refusal::TooLarge { .. }
            | Refusal::OverMemory { .. }
            | Refusal::TooManyRows { .. }
            | Refusal::Bomb { .. }
            | Refusal::TooManyHeaders { .. } => Code::ResourceExhausted,
            Refusal::Malformed(_) => Code::InvalidArgument,
            Refusal::UnsupportedType(_)
            | Refusal::UnsupportedEncoding(_)
            | Refusal::UnknownPath(_)
            | Refusal::MethodNotAllowed => Code::Unimplemented,
        }
    }

    /// The refusal as `google.rpc.Status`, for the HTTP body and the gRPC trailers.
    pub fn status(&self) -> Status {
        let status = Status::new(self.grpc_code(), self.to_string());
        match self.retry_after() {
            Some(wait) => status.retry_after(wait),
            None => status,
        }
    }

    /// When the client should come back, for refusals that pass by themselves.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::Overloaded { retry_after, .. }
            | Refusal::OverQuota { retry_after, .. }
            | Refusal::TimedOut { retry_after, .. } => Some(*retry_after),
            Refusal::LogFailed => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl From<Exhausted> for Refusal {
    fn from(exhausted: Exhausted) -> Refusal {
        match exhausted {
            Exhausted::Process => Refusal::Overloaded {
                what: MEMORY,
                retry_after: Duration::from_secs(1),
            },
            Exhausted::Tenant => Refusal::OverQuota {
                what: MEMORY,
                retry_after: Duration::from_secs(1),
            },
            Exhausted::Never { limit } => Refusal::OverMemory { limit },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Overloaded { what, retry_after } => {
                write!(
                    f,
                    "overloaded ({what} is full), try again in {} ms",
                    retry_after.as_millis()
                )
            }
            Refusal::Denied(denied) => denied.fmt(f),
            Refusal::OverQuota { what, retry_after } => {
                write!(
                    f,
                    "tenant is over its quota of {what}, try again in {} ms",
                    retry_after.as_millis()
                )
            }
            Refusal::TooLarge { limit } => write!(f, "request is larger than {limit} bytes"),
            Refusal::OverMemory { limit } => write!(
                f,
                "to decode this request takes more than {limit} bytes, all that a tenant may hold (intake.memory, intake.tenant_share): send fewer items at a time"
            ),
            Refusal::TooManyRows { bytes, limit } => write!(
                f,
                "the items of this request take about {bytes} bytes as rows, more than storage.outbox.segment ({limit}): send fewer at a time"
            ),
            Refusal::Bomb { ratio } => {
                write!(
                    f,
                    "the body inflates to more than {ratio} times its size (intake.inflate_ratio)"
                )
            }
            Refusal::TooManyHeaders { limit } => {
                write!(
                    f,
                    "more than {limit} fields in the head of the request (intake.connections.headers)"
                )
            }
            Refusal::Malformed(message) => f.write_str(message),
            Refusal::UnsupportedType(got) => {
                write!(
                    f,
                    "content type '{got}' is not supported; send application/x-protobuf or application/json"
                )
            }
            Refusal::UnsupportedEncoding(got) => {
                write!(
                    f,
                    "encoding '{got}' is not supported; send one of {}",
                    super::inflate::Encoding::ACCEPTED
                )
            }
            Refusal::UnknownPath(path) => {
                write!(
                    f,
                    "no such path '{path}'; OTLP/HTTP is at /v1/traces, /v1/metrics and /v1/logs"
                )
            }
            Refusal::MethodNotAllowed => f.write_str("method not allowed; OTLP requests are POST"),
            Refusal::Stalled => f.write_str("the request body stopped coming"),
            Refusal::TimedOut {
                waits_for,
                limit,
                retry_after,
            } => {
                write!(
                    f,
                    "not done after {} ms (intake.request_timeout), waiting for {}; try again in {} ms",
                    limit.as_millis(),
                    waits_for.name(),
                    retry_after.as_millis()
                )
            }
            Refusal::Deadline => f.write_str("deadline of the call passed"),
            Refusal::LogFailed => f.write_str("the intake log failed; the server is restarting"),
        }
    }
}

/// Spreads retries: +-50 % around `base`, by a seed of the request, so that refused clients do not come back together.
pub fn jittered(base: Duration, seed: u64) -> Duration {
    let spread = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as u32; // 0..1024
    base / 2 + base * spread / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use tailwater_runtime::access::Role;

    #[test]
    fn only_what_passes_by_itself_is_retryable() {
        let later = Duration::from_secs(3);
        let timed_out = |waits_for| Refusal::TimedOut {
            waits_for,
            limit: Duration::from_secs(30),
            retry_after: later,
        };
        for (refusal, http, grpc, retry) in [
            (
                Refusal::Overloaded {
                    what: "memory",
                    retry_after: later,
                },
                503,
                Code::Unavailable,
                Some(later),
            ),
            (
                Refusal::OverQuota {
                    what: "points",
                    retry_after: later,
                },
                429,
                Code::ResourceExhausted,
                Some(later),
            ),
            (Refusal::Denied(Denied::Missing), 401, Code::Unauthenticated, None),
            (Refusal::Denied(Denied::Unknown), 401, Code::Unauthenticated, None),
            (
                Refusal::Denied(Denied::Lacks(Role::Ingest)),
                403,
                Code::PermissionDenied,
                None,
            ),
            (Refusal::TooLarge { limit: 1 }, 413, Code::ResourceExhausted, None),
            (Refusal::OverMemory { limit: 1 }, 413, Code::ResourceExhausted, None),
            (Refusal::Bomb { ratio: 200 }, 413, Code::ResourceExhausted, None),
            (
                Refusal::TooManyRows { bytes: 2, limit: 1 },
                413,
                Code::ResourceExhausted,
                None,
            ),
            (
                Refusal::TooManyHeaders { limit: 100 },
                431,
                Code::ResourceExhausted,
                None,
            ),
            // The server's own slowness is its own to tell; a body that stops is the client's.
            (timed_out(Stage::Decoding), 503, Code::Unavailable, Some(later)),
            (timed_out(Stage::Disk), 503, Code::Unavailable, Some(later)),
            (Refusal::Stalled, 503, Code::DeadlineExceeded, None),
            (Refusal::Deadline, 504, Code::DeadlineExceeded, None),
            (Refusal::LogFailed, 503, Code::Unavailable, Some(Duration::from_secs(1))),
            (Refusal::malformed("x"), 400, Code::InvalidArgument, None),
            (Refusal::UnsupportedType("x".into()), 415, Code::Unimplemented, None),
            (Refusal::UnsupportedEncoding("x".into()), 415, Code::Unimplemented, None),
            (Refusal::UnknownPath("x".into()), 404, Code::Unimplemented, None),
            (Refusal::MethodNotAllowed, 405, Code::Unimplemented, None),
        ] {
            assert_eq!(refusal.http_status().as_u16(), http, "{refusal}");
            assert_eq!(refusal.grpc_code(), grpc, "{refusal}");
            assert_eq!(refusal.retry_after(), retry, "{refusal}");
        }
    }

    #[test]
    fn a_timeout_names_what_it_waited_for() {
        let refusal = |waits_for| Refusal::TimedOut {
            waits_for,
            limit: Duration::from_millis(500),
            retry_after: Duration::from_secs(5),
        };
        let disk = refusal(Stage::Disk);
        assert_eq!(
            disk.to_string(),
            "not done after 500 ms (intake.request_timeout), waiting for the disk; try again in 5000 ms"
        );
        assert_eq!(
            disk.outcome(),
            Outcome::Unknown("timeout_disk"),
            "it may be durable all the same"
        );
        for stage in [Stage::Body, Stage::Decoding, Stage::FirstCopy, Stage::Backlog] {
            assert!(matches!(refusal(stage).outcome(), Outcome::Refused(_)), "{stage:?}");
        }
    }

    #[test]
    fn jitter_stays_within_half() {
        let base = Duration::from_millis(1000);
        let all: Vec<_> = (0..1000).map(|seed| jittered(base, seed)).collect();
        assert!(all.iter().all(|d| (500..1500).contains(&d.as_millis())));
        assert!(all.iter().collect::<std::collections::HashSet<_>>().len() > 500);
    }
}
