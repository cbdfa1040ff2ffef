//! What counts as an error, and where a service is entered. `docs/red.md` says the same in words, and why.

use tailwater_config::settings::{Judged, Red};

/// Span kinds of OTLP.
pub(crate) const SERVER: i32 = 2;
pub(crate) const CLIENT: i32 = 3;
pub(crate) const PRODUCER: i32 = 4;
pub(crate) const CONSUMER: i32 = 5;

const STATUS_OK: i32 = 1;
const STATUS_ERROR: i32 = 2;

/// `flags`: the parent is known to be remote (has-is-remote and is-remote).
const REMOTE: u32 = 0x300;

/// Where conventions leave it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// HTTP 429 and gRPC `RESOURCE_EXHAUSTED` are errors of the side that answers.
    pub too_many_requests: bool,
    /// HTTP 499 and gRPC `CANCELLED` are errors of the side that answers.
    pub client_closed: bool,
    /// Status Ok wins over HTTP and gRPC codes.
    pub trust_ok: bool,
    /// Roots of any kind are entries.
    pub roots: bool,
    /// Consumer spans are entries.
    pub consumers: bool,
}

impl Rules {
    /// The rules configured.
    pub fn new(red: &Red) -> Rules {
        Rules {
            too_many_requests: red.errors.too_many_requests == Judged::Error,
            client_closed: red.errors.client_closed == Judged::Error,
            trust_ok: red.errors.trust_ok,
            roots: red.entry.roots,
            consumers: red.entry.consumers,
        }
    }
}

/// What the rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Span kind.
    pub kind: i32,
    /// Status code of the span: 0 unset, 1 ok, 2 error.
    pub status: i32,
    /// HTTP status code, 0 if none was sent.
    pub http: u16,
    /// gRPC status code.
    pub grpc: Option<Grpc>,
    /// Whether it has no parent.
    pub is_root: bool,
    /// OTLP flags.
    pub flags: u32,
}

impl Rules {
    /// Whether the service is entered here: as column `spans.is_entry`, less what is switched off.
    #[inline]
    pub fn is_entry(&self, seen: &Seen) -> bool {
        seen.kind == SERVER
            || seen.kind == CONSUMER && self.consumers
            || seen.flags & REMOTE == REMOTE
            || seen.is_root && self.roots && seen.kind != CONSUMER
    }

    /// Whether it counts as an error.
    #[inline]
    pub fn is_error(&self, seen: &Seen) -> bool {
        if seen.status == STATUS_OK && self.trust_ok {
            return false;
        }
        // A caller's failure is what the caller calls so. An answer is judged by its code first: a framework that marks every
        // refused or abandoned request as an error does not decide over a service's SLI.
        if seen.kind == CLIENT || seen.kind == PRODUCER {
            return seen.status == STATUS_ERROR || seen.http >= 400 || seen.grpc.is_some_and(|code| code != Grpc::OK);
        }
        match (seen.grpc, seen.http) {
            (Some(Grpc::RESOURCE_EXHAUSTED), _) | (None, 429) => self.too_many_requests,
            (Some(Grpc::CANCELLED), _) | (None, 499) => self.client_closed,
            (Some(code), _) => seen.status == STATUS_ERROR || code.is_servers_fault(),
            (None, http) => seen.status == STATUS_ERROR || http >= 500,
        }
    }
}

/// A gRPC status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grpc(u8);

const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Grpc {
    /// Success.
    pub const OK: Grpc = Grpc(0);
    /// The caller hung up.
    pub const CANCELLED: Grpc = Grpc(1);
    /// The caller asks too much.
    pub const RESOURCE_EXHAUSTED: Grpc = Grpc(8);

    /// The code of this number; what gRPC does not define is its `UNKNOWN`.
    pub fn from_number(number: i64) -> Grpc {
        let known = u8::try_from(number)
            .ok()
            .filter(|code| usize::from(*code) < NAMES.len());
        Grpc(known.unwrap_or(2))
    }

    /// The code of this name, in any case.
    pub fn from_name(name: &[u8]) -> Option<Grpc> {
        let at = NAMES
            .iter()
            .position(|known| known.as_bytes().eq_ignore_ascii_case(name))?;
        Some(Grpc(at as u8))
    }

    /// Its name in the gRPC documentation.
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }

    /// Codes that the conventions for RPC spans have a server span call an error: the others tell the caller off.
    pub fn is_servers_fault(self) -> bool {
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
        matches!(self.0, 2 | 4 | 12..=15)
    }
}

/// Value of column `status_class`, as one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u8);

const CLASS_429: u8 = 6;
const CLASS_499: u8 = 7;
const CLASS_GRPC: u8 = 8;

impl Class {
    /// Of the gRPC code if there is one: an RPC's HTTP status is nearly always 200.
    #[inline]
    pub fn of(seen: &Seen) -> Class {
        match (seen.grpc, seen.http) {
            (Some(code), _) => Class(CLASS_GRPC + code.0),
            (None, 429) => Class(CLASS_429),
            (None, 499) => Class(CLASS_499),
            (None, http @ 100..600) => Class((http / 100) as u8),
            (None, _) => Class(0),
        }
    }

    /// The byte.
    pub fn code(self) -> u8 {
        self.0
    }

    /// As the table has it; empty for none.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "",
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            CLASS_429 => "429",
            CLASS_499 => "499",
            code => NAMES[usize::from(code - CLASS_GRPC)],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const INTERNAL: i32 = 1;
    const RULES: Rules = Rules {
        too_many_requests: false,
        client_closed: false,
        trust_ok: true,
        roots: true,
        consumers: true,
    };

    fn grpc(name: &str) -> Option<Grpc> {
        Some(Grpc::from_name(name.as_bytes()).unwrap())
    }

    fn seen(kind: i32, status: i32, http: u16, grpc: Option<Grpc>) -> Seen {
        Seen {
            kind,
            status,
            http,
            grpc,
            ..Seen::default()
        }
    }

    #[test]
    fn errors() {
        let check = |rules: Rules, seen: Seen, is_error: bool| {
            assert_eq!(rules.is_error(&seen), is_error, "{rules:?} {seen:?}");
        };
        for (kind, status, http, is_error) in [
            // Status alone.
            (INTERNAL, 0, 0, false),
            (INTERNAL, 1, 0, false),
            (INTERNAL, 2, 0, true),
            (SERVER, 2, 0, true),
            (CONSUMER, 2, 0, true),
            // A server answers for 5xx, and for what it calls an error itself.
            (SERVER, 0, 200, false),
            (SERVER, 0, 302, false),
            (SERVER, 0, 404, false),
            (SERVER, 2, 404, true),
            (SERVER, 2, 200, true),
            (SERVER, 0, 500, true),
            (SERVER, 0, 503, true),
            (SERVER, 0, 599, true),
            // The two that are decided here, whatever the status.
            (SERVER, 0, 429, false),
            (SERVER, 2, 429, false),
            (SERVER, 0, 499, false),
            (SERVER, 2, 499, false),
            // The application has the last word.
            (SERVER, 1, 500, false),
            (CLIENT, 1, 404, false),
            // A caller counts what it did not get.
            (CLIENT, 0, 200, false),
            (CLIENT, 0, 404, true),
            (CLIENT, 2, 404, true),
            (CLIENT, 0, 429, true),
            (CLIENT, 2, 0, true),
            (CLIENT, 0, 0, false),
            (PRODUCER, 2, 0, true),
        ] {
            check(RULES, seen(kind, status, http, None), is_error);
        }
        for (kind, status, code, is_error) in [
            (SERVER, 0, "OK", false),
            (SERVER, 0, "CANCELLED", false),
            (SERVER, 2, "CANCELLED", false),
            (SERVER, 0, "UNKNOWN", true),
            (SERVER, 0, "INVALID_ARGUMENT", false),
            (SERVER, 2, "INVALID_ARGUMENT", true),
            (SERVER, 0, "DEADLINE_EXCEEDED", true),
            (SERVER, 0, "NOT_FOUND", false),
            (SERVER, 0, "RESOURCE_EXHAUSTED", false),
            (SERVER, 2, "RESOURCE_EXHAUSTED", false),
            (SERVER, 0, "UNIMPLEMENTED", true),
            (SERVER, 0, "INTERNAL", true),
            (SERVER, 0, "UNAVAILABLE", true),
            (SERVER, 0, "DATA_LOSS", true),
            (SERVER, 0, "UNAUTHENTICATED", false),
            (CLIENT, 0, "OK", false),
            (CLIENT, 0, "NOT_FOUND", true),
            (CLIENT, 0, "RESOURCE_EXHAUSTED", true),
        ] {
            check(RULES, seen(kind, status, 0, grpc(code)), is_error);
            // A 200 around it changes nothing.
            check(RULES, seen(kind, status, 200, grpc(code)), is_error);
        }
        let strict = Rules {
            too_many_requests: true,
            client_closed: true,
            trust_ok: false,
            ..RULES
        };
        for seen in [
            seen(SERVER, 0, 429, None),
            seen(SERVER, 0, 499, None),
            seen(SERVER, 0, 0, grpc("RESOURCE_EXHAUSTED")),
            seen(SERVER, 0, 0, grpc("CANCELLED")),
            seen(SERVER, 1, 500, None),
        ] {
            check(strict, seen, true);
        }
    }

    #[test]
    fn entries() {
        let check = |rules: Rules, kind: i32, is_root: bool, flags: u32, is_entry: bool| {
            let seen = Seen {
                kind,
                is_root,
                flags,
                ..Seen::default()
            };
            assert_eq!(rules.is_entry(&seen), is_entry, "{rules:?} {seen:?}");
        };
        for (kind, is_root, flags, is_entry) in [
            (SERVER, false, 0, true),
            (SERVER, true, 0, true),
            (CONSUMER, false, 0, true),
            (INTERNAL, false, 0, false),
            (INTERNAL, true, 0, true),
            (CLIENT, false, 0, false),
            (CLIENT, true, 0, true),
            (PRODUCER, false, 0x100, false),
            (INTERNAL, false, 0x300, true),
        ] {
            check(RULES, kind, is_root, flags, is_entry);
        }
        let strict = Rules {
            roots: false,
            consumers: false,
            ..RULES
        };
        check(strict, INTERNAL, true, 0, false);
        check(strict, CONSUMER, false, 0, false);
        check(strict, CONSUMER, true, 0, false);
        check(strict, SERVER, true, 0, true);
    }

    #[test]
    fn classes() {
        let check = |http: u16, code: Option<Grpc>, name: &str| {
            assert_eq!(Class::of(&seen(SERVER, 0, http, code)).name(), name);
        };
        for (http, name) in [
            (0, ""),
            (99, ""),
            (100, "1xx"),
            (204, "2xx"),
            (304, "3xx"),
            (404, "4xx"),
            (429, "429"),
            (499, "499"),
            (503, "5xx"),
            (600, ""),
        ] {
            check(http, None, name);
        }
        for (number, name) in NAMES.iter().enumerate() {
            check(200, Some(Grpc::from_number(number as i64)), name);
        }
        check(0, Some(Grpc::from_number(17)), "UNKNOWN");
        check(0, Some(Grpc::from_number(-1)), "UNKNOWN");
        assert_eq!(Grpc::from_name(b"not_found").unwrap().name(), "NOT_FOUND");
        assert_eq!(Grpc::from_name(b"404"), None);
    }
}
