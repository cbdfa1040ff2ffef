//! Intake: from a request on the wire to a durable record and an answer.
//!
//! ```text
//! body --(memory budget)--> inflate --> protobuf --> inspect --> dedup --(backlog)--> log append --> fdatasync --> answer
//!                                  JSON --transcode--^                                    '--> road (LSN order)
//! ```
//!
//! Guarantees: the answer follows the sync that covers the record (`ack: fsync`); a record that was appended reaches the
//! road even when the client has gone; a refused request leaves nothing behind. The tenant is the token's
//! ([`crate::tenants`]); nothing in a payload is asked for it.

pub mod grpc;
pub mod http;
pub mod inflate;
pub mod refusal;
pub mod serve;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tailwater_journal::ReasonCode;
use tailwater_journal::dedup::Answer;
use tailwater_journal::record::Rejected;
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::json::{self, JsonErrorKind};
use tailwater_model::otlp::peek;
use tailwater_model::otlp::reject::Reason;
use tailwater_model::otlp::reply::{Encoding as Form, PartialSuccess};
use tailwater_model::otlp::series;
use tailwater_model::signal::Signal;

use self::inflate::Encoding;
use self::refusal::{MEMORY, Refusal, Stage, jittered};
use crate::admit::{Backlog, Budget, Held, Tenant};
use crate::dedup::{Admitted, Dedup};
use crate::gate::Gate;
use crate::log::{Appended, Entry, Log, Refused};
use crate::stats::{Outcome, Stats};
use crate::tenants::Tenants;

/// How a request is packed, as its head says.
#[derive(Debug, Clone, Copy)]
pub struct Packed {
    /// Which signal.
    pub signal: Signal,
    /// Protobuf or JSON.
    pub form: Form,
    /// Compression of the body, or of the gRPC message.
    pub encoding: Encoding,
    /// `Content-Length`, if given.
    pub length: Option<u64>,
    /// Whether the body is one gRPC message with its prefix.
    pub framed: bool,
    /// How long the client waits for the answer, if it says so.
    pub deadline: Option<Duration>,
}

/// Limits of one request.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Body bytes as they arrive.
    pub wire_body: u64,
    /// Body bytes after inflating, and the inflate ratio.
    pub inflate: inflate::Limits,
    /// Bytes of a request's rows.
    pub row_bytes: u64,
    /// Longest pause inside a body.
    pub body_idle: Duration,
    /// From the head of a request to its answer.
    pub request: Duration,
    /// Per item.
    pub caps: Caps,
}

/// The intake of a collector: one for both protocols and all connections.
pub struct Intake {
    /// Limits of a request.
    pub limits: Limits,
    /// Whose a request is, by its token.
    pub tenants: Tenants,
    /// Memory of all requests.
    pub memory: Arc<Budget>,
    /// Accepted bytes that are not yet in a batch.
    pub backlog: Backlog,
    /// Recent digests; `None` with `dedup: off`.
    pub dedup: Option<Arc<Dedup>>,
    /// The intake log and the way to the road.
    pub log: Arc<Log>,
    /// Closed on the last rung of the overload ladder.
    pub gate: Arc<Gate>,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Unix ns. An argument, so that tests own the clock.
    pub now: fn() -> u64,
    /// Set when the process drains: everything new is refused, retryably.
    pub closing: AtomicBool,
}

const FIRST_READ: u64 = 64 * 1024;
/// JSON and compressed bodies above this are worked on off the I/O threads.
const INLINE_MAX: usize = 256 * 1024;
const RETRY_SOON: Duration = Duration::from_secs(1);
const RETRY_DISK: Duration = Duration::from_secs(5);

impl Intake {
    /// Takes a request: `Ok` is durable. The partial success is what the client is told beside it.
    pub async fn accept(
        &self,
        tenant: &Tenant,
        packed: Packed,
        body: Incoming,
    ) -> Result<Option<PartialSuccess>, Refusal> {
        let arrival_ns = (self.now)();
        let mut told = Told::new(&self.stats, packed);
        let limit = self.limits.request;
        let patience = packed.deadline.map_or(limit, |deadline| deadline.min(limit));
        // What is in the log stays accepted whoever stops waiting, and a retry of it is a duplicate.
        let taking = self.take(tenant, packed, body, arrival_ns, &mut told.progress);
        let outcome = match tokio::time::timeout(patience, taking).await {
            Ok(outcome) => outcome.map_err(|refusal| self.spread(refusal, arrival_ns)),
            Err(_) if patience < limit => Err(Refusal::Deadline),
            Err(_) => Err(self.timed_out(told.progress.waits_for, arrival_ns)),
        };
        told.outcome = outcome.as_ref().map_or_else(Refusal::outcome, |_| Outcome::Ok);
        outcome.map(|answer| partial_success(&answer))
    }

    /// Counts a request that was refused by its head alone.
    pub fn refused_unread(&self, protocol: &'static str, refusal: &Refusal) {
        self.stats.refused_unread(protocol, refusal.reason());
    }

    async fn take(
        &self,
        tenant: &Tenant,
        packed: Packed,
        body: Incoming,
        arrival_ns: u64,
        progress: &mut Progress,
    ) -> Result<Answer, Refusal> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(self.overloaded("shutting_down", RETRY_SOON, arrival_ns));
        }
        if let Some((what, retry_after)) = self.gate.refuses(packed.signal, arrival_ns) {
            return Err(Refusal::Overloaded { what, retry_after });
        }
        let (wire, mut held) = self.read(tenant, packed, body).await?;
        progress.wire_bytes = wire.len() as u64;
        progress.waits_for = Stage::Decoding;
        let payload = self.unpack(tenant, packed, wire, &mut held).await?;
        held.shrink_to(payload.len() as u64);
        let over = |what: &'static str| {
            move |wait: Duration| Refusal::OverQuota {
                what,
                retry_after: jittered(wait, arrival_ns),
            }
        };
        tenant.take(payload.len() as u64).map_err(over("bytes"))?;
        let inspected = peek::inspect(packed.signal, &payload, arrival_ns, &self.limits.caps)
            .map_err(|malformed| Refusal::malformed(malformed.to_string()))?;
        if inspected.row_bytes > self.limits.row_bytes {
            return Err(Refusal::TooManyRows {
                bytes: inspected.row_bytes,
                limit: self.limits.row_bytes,
            });
        }
        self.stats
            .changed(packed.signal, inspected.sanitized, inspected.truncated);
        if packed.signal == Signal::Metrics {
            tenant.take_points(inspected.accepted()).map_err(over("points"))?;
        }
        let mut rejected = inspected.rejected;
        if packed.signal == Signal::Metrics && tenant.limits_series() {
            reject_series(tenant, &payload, arrival_ns, &mut rejected)?;
        }
        let rejected: Rejected = rejected
            .iter()
            .map(|(ordinal, reason)| (*ordinal, ReasonCode(reason.code())))
            .collect();
        let request = Request {
            packed,
            arrival_ns,
            items: inspected.items,
            rejected,
            payload,
            held,
        };
        match &self.dedup {
            Some(dedup) => self.store_once(dedup, tenant, request, progress).await,
            None => self.store(tenant, request, None, progress).await,
        }
    }

    /// Reads the body; every byte is in the budget before it is in memory.
    async fn read(&self, tenant: &Tenant, packed: Packed, mut body: Incoming) -> Result<(Bytes, Held), Refusal> {
        let most = self.limits.wire_body + if packed.framed { grpc::PREFIX as u64 } else { 0 };
        if packed.length.is_some_and(|length| length > most) {
            return Err(Refusal::TooLarge {
                limit: self.limits.wire_body,
            });
        }
        let expected = packed.length.unwrap_or(FIRST_READ);
        let mut held = Held::take(&self.memory, &tenant.memory, expected)?;
        let mut whole = Vec::new();
        let mut first: Option<Bytes> = None;
        while let Some(frame) = tokio::time::timeout(self.limits.body_idle, body.frame())
            .await
            .map_err(|_| Refusal::Stalled)?
        {
            let frame = frame.map_err(|error| Refusal::malformed(format!("the request body broke off: {error}")))?;
            let Ok(chunk) = frame.into_data() else { continue };
            let size = whole.len() as u64 + first.as_ref().map_or(0, |first| first.len() as u64) + chunk.len() as u64;
            if size > most {
                return Err(Refusal::TooLarge {
                    limit: self.limits.wire_body,
                });
            }
            // A body of one chunk, as HTTP/1.1 clients mostly send it, is not copied.
            if first.is_none() && whole.is_empty() {
                held.grow_to(size)?;
                first = Some(chunk);
                continue;
            }
            let previous = first.take().unwrap_or_default();
            let least = if whole.is_empty() { expected.max(size) } else { size };
            let more = least as usize - whole.len();
            held.make_room(&mut whole, more, most as usize, 0)?;
            whole.extend_from_slice(&previous);
            whole.extend_from_slice(&chunk);
        }
        let body = first.unwrap_or_else(|| {
            whole.shrink_to_fit();
            Bytes::from(whole)
        });
        held.shrink_to(body.len() as u64);
        match packed.length {
            Some(length) if length != body.len() as u64 => Err(Refusal::malformed(format!(
                "the body has {} bytes, Content-Length said {length}",
                body.len()
            ))),
            _ => Ok((body, held)),
        }
    }

    /// Frame, compression and JSON off; what remains is the protobuf payload.
    async fn unpack(&self, tenant: &Tenant, packed: Packed, wire: Bytes, held: &mut Held) -> Result<Bytes, Refusal> {
        let (encoding, wire) = match packed.framed {
            true => match grpc::unframe(wire)? {
                (true, _) if packed.encoding == Encoding::Identity => {
                    return Err(Refusal::malformed(
                        "the gRPC message is flagged as compressed, but grpc-encoding names no encoding",
                    ));
                }
                (true, message) => (packed.encoding, message),
                (false, message) => (Encoding::Identity, message),
            },
            false => (packed.encoding, wire),
        };
        if encoding == Encoding::Identity && packed.form == Form::Protobuf {
            return inflate::inflate(encoding, wire, self.limits.inflate, held);
        }
        let limits = self.limits.inflate;
        if wire.len() <= INLINE_MAX {
            return unpack_now(packed, encoding, wire, limits, held);
        }
        let mut moved = Held::take(&self.memory, &tenant.memory, 0)?;
        std::mem::swap(&mut moved, held);
        let (payload, moved) = tokio::task::spawn_blocking(move || {
            let payload = unpack_now(packed, encoding, wire, limits, &mut moved);
            (payload, moved)
        })
        .await
        .map_err(|_| Refusal::malformed("the request could not be decoded"))?;
        *held = moved;
        payload
    }

    /// Stores a request unless it repeats a recent one, whose answer it then gets.
    async fn store_once(
        &self,
        dedup: &Arc<Dedup>,
        tenant: &Tenant,
        mut request: Request,
        progress: &mut Progress,
    ) -> Result<Answer, Refusal> {
        let digest = digest(&tenant.name, request.packed.signal, &request.payload);
        progress.waits_for = Stage::FirstCopy;
        match dedup.admit(digest, request.arrival_ns).await {
            Admitted::First(ticket) => self.store(tenant, request, Some(ticket), progress).await,
            Admitted::Repeat(answer) => {
                progress.waits_for = Stage::Disk;
                let entry = Entry {
                    duplicate: true,
                    digest: Some(digest),
                    rejected: Rejected::default(),
                    ..request.entry(tenant)
                };
                request.payload = Bytes::new();
                self.append(
                    request.arrival_ns,
                    Appended {
                        entry,
                        payload: Bytes::new(),
                        ticket: None,
                        held: request.held,
                        place: None,
                    },
                )
                .await?;
                Ok(answer)
            }
        }
    }

    async fn store(
        &self,
        tenant: &Tenant,
        request: Request,
        ticket: Option<crate::dedup::Ticket>,
        progress: &mut Progress,
    ) -> Result<Answer, Refusal> {
        let answer = request.rejected.answer();
        let entry = Entry {
            digest: ticket.as_ref().map(crate::dedup::Ticket::digest),
            ..request.entry(tenant)
        };
        // A wholly rejected request leaves its facts in the log, not its bytes.
        let wholly_rejected = answer.rejected() == request.items;
        let payload = if wholly_rejected { Bytes::new() } else { request.payload };
        progress.waits_for = Stage::Backlog;
        let place = match self.backlog.enter(payload.len() as u64).await {
            Some(place) => place,
            None => return Err(self.overloaded("backlog", RETRY_SOON, request.arrival_ns)),
        };
        let appended = Appended {
            entry,
            payload,
            ticket,
            held: request.held,
            place: Some(place),
        };
        progress.waits_for = Stage::Disk;
        self.append(request.arrival_ns, appended).await?;
        Ok(answer)
    }

    async fn append(&self, arrival_ns: u64, appended: Appended) -> Result<(), Refusal> {
        let refusal = |error: tailwater_wal::Error| match error.kind() {
            tailwater_wal::Kind::Full(_) => self.overloaded("disk", RETRY_DISK, arrival_ns),
            tailwater_wal::Kind::TooLarge => Refusal::TooLarge {
                limit: self.limits.inflate.body,
            },
            _ => Refusal::LogFailed,
        };
        // Appending is one synchronous step: from here on the record does not depend on this task.
        let durable = self.log.append(appended).map_err(|refused| match refused {
            Refused::Closing => self.overloaded("shutting_down", RETRY_SOON, arrival_ns),
            Refused::Log(error) => refusal(error),
        })?;
        durable.await.map_err(|_| Refusal::LogFailed)?.map_err(refusal)
    }

    /// Retry-After grows with the backlog and is spread, so that a herd does not come back as one.
    fn overloaded(&self, what: &'static str, base: Duration, seed: u64) -> Refusal {
        let retry_after = self.later(base, seed);
        Refusal::Overloaded { what, retry_after }
    }

    /// A request that took longer than a request may.
    fn timed_out(&self, waits_for: Stage, seed: u64) -> Refusal {
        let base = match waits_for {
            Stage::Disk => RETRY_DISK,
            _ => RETRY_SOON,
        };
        Refusal::TimedOut {
            waits_for,
            limit: self.limits.request,
            retry_after: self.later(base, seed),
        }
    }

    fn later(&self, base: Duration, seed: u64) -> Duration {
        let scale = 1 + (4 * self.backlog.used() / self.backlog.limit().max(1)) as u32;
        jittered(base * scale, seed)
    }

    /// A full memory budget knows neither the backlog nor the request: its refusals get their wait here.
    fn spread(&self, refusal: Refusal, seed: u64) -> Refusal {
        match refusal {
            Refusal::Overloaded {
                what: what @ MEMORY,
                retry_after,
            } => self.overloaded(what, retry_after, seed),
            Refusal::OverQuota {
                what: what @ MEMORY,
                retry_after,
            } => Refusal::OverQuota {
                what,
                retry_after: self.later(retry_after, seed),
            },
            other => other,
        }
    }
}

/// How far a request is.
struct Progress {
    wire_bytes: u64,
    waits_for: Stage,
}

/// Counts a request when it goes, however it ends: a client that hangs up takes the future with it.
struct Told<'s> {
    stats: &'s Stats,
    packed: Packed,
    started: Instant,
    progress: Progress,
    outcome: Outcome,
}

impl Told<'_> {
    fn new(stats: &Stats, packed: Packed) -> Told<'_> {
        Told {
            stats,
            packed,
            started: Instant::now(),
            progress: Progress {
                wire_bytes: 0,
                waits_for: Stage::Body,
            },
            outcome: Outcome::Unknown("cancelled"),
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let outcome = match self.outcome {
            Outcome::Unknown(_) if std::thread::panicking() => Outcome::Unknown("panicked"),
            outcome => outcome,
        };
        self.stats
            .request(self.packed, self.progress.wire_bytes, outcome, self.started.elapsed());
    }
}

/// A request that is decoded, inspected and admitted to memory.
struct Request {
    packed: Packed,
    arrival_ns: u64,
    items: u64,
    rejected: Rejected,
    payload: Bytes,
    held: Held,
}

impl Request {
    fn entry(&self, tenant: &Tenant) -> Entry {
        Entry {
            arrival_ns: self.arrival_ns,
            tenant: tenant.name.clone(),
            signal: self.packed.signal,
            items: self.items,
            wire_bytes: if self.items > 0 { self.payload.len() as u64 } else { 0 },
            digest: None,
            duplicate: false,
            rejected: self.rejected.clone(),
        }
    }
}

fn unpack_now(
    packed: Packed,
    encoding: Encoding,
    wire: Bytes,
    limits: inflate::Limits,
    held: &mut Held,
) -> Result<Bytes, Refusal> {
    let plain = inflate::inflate(encoding, wire, limits, held)?;
    if packed.form == Form::Protobuf {
        return Ok(plain);
    }
    // The compressed body is gone by now.
    let beside = plain.len() as u64;
    held.shrink_to(beside);
    let most = usize::try_from(limits.body).unwrap_or(usize::MAX);
    // Mostly about half of the JSON, but `1,` in a list of numbers becomes eight bytes.
    let mut full = None;
    let room = &mut |payload: &mut Vec<u8>, more: usize, most: usize| {
        let made = held.make_room(payload, more, most, beside);
        made.map_err(|exhausted| full = Some(exhausted)).is_ok()
    };
    let mut payload = json::transcode_within(packed.signal, &plain, most, room).map_err(|error| match error.kind {
        JsonErrorKind::TooLarge => Refusal::TooLarge { limit: limits.body },
        JsonErrorKind::NoRoom => full.map_or(Refusal::TooLarge { limit: limits.body }, Refusal::from),
        JsonErrorKind::Malformed => Refusal::malformed(error.to_string()),
    })?;
    payload.shrink_to_fit();
    Ok(Bytes::from(payload))
}

/// Adds the points of series that are too many for the tenant. Ordinals stay ascending.
fn reject_series(
    tenant: &Tenant,
    payload: &[u8],
    arrival_ns: u64,
    rejected: &mut Vec<(u32, Reason)>,
) -> Result<(), Refusal> {
    let mut series = series::series(payload).map_err(|malformed| Refusal::malformed(malformed.to_string()))?;
    // What is rejected anyway makes no series.
    let good: Vec<u32> = (0..series.len() as u32)
        .filter(|ordinal| rejected.binary_search_by_key(ordinal, |(ordinal, _)| *ordinal).is_err())
        .collect();
    if good.len() < series.len() {
        series = good.iter().map(|ordinal| series[*ordinal as usize]).collect();
    }
    let excess = tenant.excess_series(&series, arrival_ns).unwrap_or_default();
    rejected.extend(excess.into_iter().map(|at| (good[at], Reason::TooManySeries)));
    rejected.sort_unstable_by_key(|(ordinal, _)| *ordinal);
    Ok(())
}

/// Identity of a request for 15 minutes: tenant, signal and protobuf bytes.
fn digest(tenant: &str, signal: Signal, payload: &[u8]) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::with_seed(signal as u64);
    hasher.update(tenant.as_bytes());
    hasher.update(&[0xff]);
    hasher.update(payload);
    hasher.digest128()
}

/// What the client is told of an answer; nothing on full success.
fn partial_success(answer: &Answer) -> Option<PartialSuccess> {
    let rejected = answer.rejected();
    (rejected > 0).then(|| {
        let reasons: Vec<String> = answer
            .reasons()
            .iter()
            .map(|(code, count)| format!("{} {count}", Reason::from_code(code.0).map_or("unknown", Reason::name)))
            .collect();
        PartialSuccess {
            rejected,
            message: format!("rejected for good: {}", reasons.join(", ")),
        }
    })
}

#[cfg(test)]
mod serve_tests;

#[cfg(test)]
mod tests {
    use tailwater_runtime::Metrics;

    use super::*;

    #[test]
    fn digests_tell_tenants_signals_and_bytes_apart() {
        let all = [
            digest("a", Signal::Traces, b"x"),
            digest("b", Signal::Traces, b"x"),
            digest("a", Signal::Logs, b"x"),
            digest("a", Signal::Traces, b"y"),
            digest("ax", Signal::Traces, b""),
        ];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_eq!(digest("a", Signal::Traces, b"x"), all[0]);
    }

    #[test]
    fn a_request_that_is_dropped_is_counted_like_any_other() {
        let metrics = Metrics::new();
        let stats = Stats::new(&metrics);
        let packed = Packed {
            signal: Signal::Logs,
            form: Form::Protobuf,
            encoding: Encoding::Identity,
            length: None,
            framed: true,
            deadline: None,
        };
        for outcome in [
            None,
            Some(Refusal::Deadline.outcome()),
            Some(Refusal::malformed("x").outcome()),
            Some(Outcome::Ok),
        ] {
            let mut told = Told::new(&stats, packed);
            told.outcome = outcome.unwrap_or(told.outcome);
        }
        let panicking = std::panic::AssertUnwindSafe(|| {
            let _told = Told::new(&stats, packed);
            panic!("in the middle of a request");
        });
        assert!(std::panic::catch_unwind(panicking).is_err());
        let text = metrics.encode();
        for outcome in ["cancelled", "deadline", "malformed", "ok", "panicked"] {
            let counted = format!("outcome=\"{outcome}\"}} 1");
            assert!(text.contains(&counted), "{outcome} in {text}");
        }
        assert!(
            text.contains("tailwater_ack_seconds_count{signal=\"logs\"} 4"),
            "all but what was refused took their time: {text}"
        );
        assert!(text.contains("reason=\"malformed\"} 1") && !text.contains("reason=\"deadline\""));
    }

    #[test]
    fn a_partial_success_names_every_reason_and_is_unset_on_full_success() {
        assert_eq!(partial_success(&Answer::default()), None);
        let mut answer = Answer::default();
        answer.add(ReasonCode(Reason::InvalidTraceId.code()), 2);
        answer.add(ReasonCode(Reason::TooLarge.code()), 1);
        let said = partial_success(&answer).expect("three items were rejected");
        assert_eq!(said.rejected, 3);
        assert_eq!(said.message, "rejected for good: invalid_trace_id 2, too_large 1");
    }
}
