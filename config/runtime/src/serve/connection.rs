//! One connection: which HTTP its client speaks, and how long it may keep its place without a request.
//!
//! ```text
//! accept -> [TLS] -> first bytes -> head -> requests <-> nothing -> asked to end -> cut
//!        handshake_timeout  header_timeout                 idle, max_age     max_age_grace
//! ```
//!
//! Guarantees: a silent peer is let go in any state. hyper alone does not do that: it has no timer before the first byte nor for the preface of
//! HTTP/2, no idle limit on HTTP/2, and on HTTP/1 one timer for both the head and the pause before it. Leaves out what HTTP/2 does by itself: pings.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Reason;
use crate::tls::Stream;

/// The first bytes of every HTTP/2 connection. RFC 9113, 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1, or something that its parser refuses.
    Http1,
    /// HTTP/2, after its whole preface.
    Http2,
}

/// Reads until it is clear which HTTP this is. The bytes are given back, for the library wants to read them again; `None` from a client that left
/// without any.
///
/// # Errors
/// Those of the connection.
pub async fn version(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Version, Vec<u8>)>> {
    let mut first = [0; PREFACE.len()];
    let mut filled = 0;
    while filled < PREFACE.len() {
        let read = stream.read(&mut first[filled..]).await?;
        filled += read;
        if filled == 0 {
            return Ok(None);
        }
        if read == 0 || first[..filled] != PREFACE[..filled] {
            return Ok(Some((Version::Http1, first[..filled].to_vec())));
        }
    }
    Ok(Some((Version::Http2, first.to_vec())))
}

/// How long a connection may be what it is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the first byte of a head to its last; of the first one, from the accept.
    pub header: Duration,
    /// Without a request.
    pub idle: Duration,
    /// In all.
    pub age: Duration,
    /// From the head of a request until its answer begins, and as long again to take it. `None` where the service bounds its requests.
    pub request: Option<Duration>,
}

/// What to do about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing; look again then.
    Look(Instant),
    /// Ask it to end: what is under way is finished, nothing new begins.
    Ask,
    /// Drop it: a head or a request is under way for too long.
    Cut(Reason),
}

/// What a connection is doing, as its reads and requests tell.
#[derive(Debug)]
pub struct Activity {
    version: Version,
    patience: Patience,
    opened: Instant,
    doing: Mutex<Doing>,
}

#[derive(Debug)]
enum Doing {
    Nothing {
        since: Instant,
    },
    /// HTTP/1 alone: on HTTP/2 bytes may as well be an answer to a ping.
    Head {
        since: Instant,
    },
    /// When each of them began, the oldest first.
    Requests(Vec<Instant>),
}

impl Activity {
    /// Of a connection that was accepted at `opened` and whose version became clear at `now`.
    pub fn new(version: Version, patience: Patience, opened: Instant, now: Instant) -> Arc<Activity> {
        Arc::new(Activity {
            version,
            patience,
            opened,
            doing: Mutex::new(match version {
                Version::Http1 => Doing::Head { since: opened },
                // A client may well connect long before its first export.
                Version::Http2 => Doing::Nothing { since: now },
            }),
        })
    }

    /// Bytes came.
    fn bytes(&self, now: Instant) {
        let mut doing = self.doing.lock();
        if let (Version::Http1, Doing::Nothing { .. }) = (self.version, &*doing) {
            *doing = Doing::Head { since: now };
        }
    }

    /// A request begins; it ends when the guard goes.
    pub fn request(self: &Arc<Activity>) -> UnderWay {
        let since = Instant::now();
        self.begin(since);
        UnderWay {
            activity: self.clone(),
            since,
        }
    }

    fn begin(&self, since: Instant) {
        let mut doing = self.doing.lock();
        match &mut *doing {
            Doing::Requests(begun) => begun.push(since),
            _ => *doing = Doing::Requests(vec![since]),
        }
    }

    /// One that began at `since` ends.
    fn end(&self, since: Instant, now: Instant) {
        let mut doing = self.doing.lock();
        if let Doing::Requests(begun) = &mut *doing {
            if let Some(at) = begun.iter().position(|one| *one == since) {
                begun.remove(at);
            }
            if begun.is_empty() {
                *doing = Doing::Nothing { since: now };
            }
        }
    }

    /// What to do about it. Between two looks no limit passes unseen: what begins after a look has at least until the next one.
    pub fn next(&self, now: Instant) -> Next {
        let Patience {
            header,
            idle,
            age,
            request,
        } = self.patience;
        let old = self.opened + age;
        // The oldest request is let go by this time.
        let overdue = |begun: &[Instant]| Some(*begun.first()? + 2 * request?);
        let until = match &*self.doing.lock() {
            Doing::Head { since } if *since + header <= now => return Next::Cut("header_timeout"),
            Doing::Nothing { since } if *since + idle <= now => return Next::Ask,
            Doing::Requests(begun) if overdue(begun).is_some_and(|at| at <= now) => {
                return Next::Cut("request_timeout");
            }
            _ if old <= now => return Next::Ask,
            Doing::Head { since } => *since + header,
            Doing::Nothing { since } => *since + idle,
            Doing::Requests(begun) => overdue(begun).unwrap_or(old),
        };
        Next::Look(until.min(old).min(now + header.min(idle)))
    }
}

/// A request under way.
#[derive(Debug)]
pub struct UnderWay {
    activity: Arc<Activity>,
    since: Instant,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.activity.end(self.since, Instant::now());
    }
}

/// The connection as the HTTP library sees it: with its first bytes again, and every read noted.
#[derive(Debug)]
pub struct Noted {
    first: Vec<u8>,
    stream: Stream,
    activity: Arc<Activity>,
}

impl Noted {
    /// `first` is what was read of `stream` already.
    pub fn new(first: Vec<u8>, stream: Stream, activity: Arc<Activity>) -> Noted {
        Noted {
            first,
            stream,
            activity,
        }
    }
}

impl AsyncRead for Noted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let taken = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first[..taken]);
            this.first.drain(..taken);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.activity.bytes(Instant::now());
        }
        polled
    }
}

impl AsyncWrite for Noted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PATIENCE: Patience = Patience {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        age: Duration::from_secs(1800),
        request: None,
    };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test]
    async fn the_first_bytes_tell_the_version_and_are_kept() {
        for (sent, expected) in [
            (&PREFACE[..], Some(Version::Http2)),
            (b"POST /v1/traces HTTP/1.1\r\nhost: a\r\n", Some(Version::Http1)),
            (b"P", Some(Version::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\n", Some(Version::Http1)),
            (b"", None),
        ] {
            let got = version(&mut &*sent).await.unwrap();
            assert_eq!(got.as_ref().map(|(version, _)| *version), expected, "{sent:?}");
            let kept = got.map_or(Vec::new(), |(_, first)| first);
            assert_eq!(kept, sent[..sent.len().min(PREFACE.len())]);
        }
    }

    #[test]
    fn a_head_that_does_not_end_is_cut_and_the_first_one_counts_from_the_accept() {
        let start = Instant::now();
        let activity = Activity::new(Version::Http1, PATIENCE, start, start + seconds(4));
        assert_eq!(activity.next(start + seconds(4)), Next::Look(start + seconds(10)));
        assert_eq!(activity.next(start + seconds(10)), Next::Cut("header_timeout"));
        activity.begin(start);
        activity.end(start, start + seconds(20));
        assert_eq!(
            activity.next(start + seconds(20)),
            Next::Look(start + seconds(30)),
            "a head may begin"
        );
        activity.bytes(start + seconds(21));
        activity.bytes(start + seconds(29));
        assert_eq!(activity.next(start + seconds(30)), Next::Look(start + seconds(31)));
        assert_eq!(
            activity.next(start + seconds(31)),
            Next::Cut("header_timeout"),
            "more bytes win no time"
        );
    }

    #[test]
    fn without_a_request_it_is_asked_to_end_and_pings_are_none() {
        for version in [Version::Http1, Version::Http2] {
            let start = Instant::now();
            let activity = Activity::new(version, PATIENCE, start, start);
            activity.begin(start);
            activity.begin(start + seconds(1));
            activity.end(start, start + seconds(2));
            assert_eq!(
                activity.next(start + seconds(900)),
                Next::Look(start + seconds(910)),
                "one is under way"
            );
            activity.end(start + seconds(1), start + seconds(1000));
            assert_eq!(activity.next(start + seconds(1055)), Next::Look(start + seconds(1060)));
            assert_eq!(activity.next(start + seconds(1060)), Next::Ask);
            activity.bytes(start + seconds(1059));
            let next = activity.next(start + seconds(1060));
            match version {
                Version::Http1 => assert_eq!(next, Next::Look(start + seconds(1069))),
                Version::Http2 => assert_eq!(next, Next::Ask),
            }
        }
    }

    #[test]
    fn an_old_one_is_asked_to_end_whatever_it_does() {
        let start = Instant::now();
        let activity = Activity::new(Version::Http2, PATIENCE, start, start);
        let _request = activity.request();
        assert_eq!(activity.next(start + seconds(1795)), Next::Look(start + seconds(1800)));
        assert_eq!(activity.next(start + seconds(1800)), Next::Ask);
    }

    #[test]
    fn the_oldest_request_is_let_go_in_time_where_nobody_else_sees_to_it() {
        let patience = Patience {
            request: Some(seconds(90)),
            ..PATIENCE
        };
        let start = Instant::now();
        let activity = Activity::new(Version::Http2, patience, start, start);
        activity.begin(start);
        activity.begin(start + seconds(5));
        assert_eq!(activity.next(start + seconds(175)), Next::Look(start + seconds(180)));
        assert_eq!(activity.next(start + seconds(180)), Next::Cut("request_timeout"));
        activity.end(start, start + seconds(180));
        assert_eq!(activity.next(start + seconds(180)), Next::Look(start + seconds(185)));
    }
}
