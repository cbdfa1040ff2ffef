//! When to stop: a token that every part can wait for, set by SIGTERM, SIGINT or the end of the supervisor.
//!
//! Three states, in one direction only: running, draining (finish what is under way), immediate (drop it). The first signal starts the
//! drain, the second makes it immediate, and a process that has not ended [`LAST_GRACE`] later is ended.

use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::fds;

/// The variable with the reading end of the supervisor's pipe. When the other end closes, the supervisor is gone.
pub const SUPERVISOR_FD: &str = "TAILWATER_SUPERVISOR_FD";

/// Time between "immediate" and the end of the process, whatever is still running.
pub const LAST_GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Immediate,
}

/// A token that says when to stop. Clones are the same token.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<(Phase, &'static str)>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A token that nobody has set. For tests and for parts with a shorter life than the process.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new((Phase::Running, ""))))
    }

    /// The process's token: set by SIGTERM, SIGINT, and by the end of the supervisor if there is one. Must be called inside a runtime, once.
    ///
    /// # Errors
    /// When signals cannot be watched, or [`SUPERVISOR_FD`] is not an inherited pipe.
    pub fn install() -> io::Result<Self> {
        let shutdown = Self::new();
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(shutdown.clone().signals(term, int));
        if let Some(pipe) = supervisor_pipe()? {
            tokio::spawn(shutdown.clone().supervisor(pipe));
        }
        Ok(shutdown)
    }

    /// Starts the drain. Later calls change nothing.
    pub fn begin(&self, reason: &'static str) {
        self.advance(Phase::Draining, reason);
    }

    /// Ends the drain too: drop what is under way.
    pub fn immediate(&self, reason: &'static str) {
        self.advance(Phase::Immediate, reason);
    }

    fn advance(&self, to: Phase, reason: &'static str) {
        self.0.send_if_modified(|now| {
            let later = now.0 < to;
            if later {
                *now = (to, reason);
            }
            later
        });
    }

    /// The drain has begun (or more).
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.0.borrow().0 >= Phase::Draining
    }

    /// What is under way should be dropped.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        self.0.borrow().0 >= Phase::Immediate
    }

    /// Why; empty while running.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.0.borrow().1
    }

    /// Waits for the drain to begin.
    pub async fn begun(&self) {
        self.reach(Phase::Draining).await;
    }

    /// Waits for "immediate".
    pub async fn immediate_begun(&self) {
        self.reach(Phase::Immediate).await;
    }

    async fn reach(&self, phase: Phase) {
        let mut states = self.0.subscribe();
        // This token holds the sender, so the channel cannot close while it is borrowed here.
        let _ = states.wait_for(|now| now.0 >= phase).await;
    }

    /// Runs `work` (the rest of the drain) for at most `limit`, or until "immediate".
    pub async fn drain<F: Future>(&self, limit: Duration, work: F) -> Drained<F::Output> {
        tokio::select! {
            biased;
            done = work => Drained::Done(done),
            () = self.immediate_begun() => Drained::Cut("told to stop at once"),
            () = tokio::time::sleep(limit) => Drained::Cut("drain_timeout passed"),
        }
    }

    async fn signals(self, mut term: Signal, mut int: Signal) {
        let mut next = async || {
            tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            }
        };
        let first = next().await;
        info!(signal = first, "stopping; a second signal stops at once");
        self.begin(first);
        let second = next().await;
        warn!(signal = second, "stopping at once");
        self.immediate(second);
        tokio::time::sleep(LAST_GRACE).await;
        std::process::exit(crate::Exit::Trouble.code().into());
    }

    async fn supervisor(self, mut pipe: pipe::Receiver) {
        let mut byte = [0];
        // Nothing is ever written: the read ends when the last writer is gone, however it went.
        while matches!(pipe.read(&mut byte).await, Ok(1..)) {}
        warn!("the supervisor is gone, stopping");
        self.begin("supervisor gone");
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained<T> {
    /// All work was finished.
    Done(T),
    /// It was cut short, and why.
    Cut(&'static str),
}

/// The inherited pipe, if there is a supervisor.
fn supervisor_pipe() -> io::Result<Option<pipe::Receiver>> {
    let Some(text) = std::env::var_os(SUPERVISOR_FD) else {
        return Ok(None);
    };
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, format!("{SUPERVISOR_FD}: {what}"));
    let fd = text
        .to_str()
        .and_then(|t| t.parse::<RawFd>().ok())
        .ok_or_else(|| wrong("not a number".into()))?;
    let owned = fds::take(fd).map_err(|e| wrong(e.to_string()))?;
    pipe::Receiver::from_owned_fd(owned)
        .map(Some)
        .map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn goes_one_way() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_begun());
        let waiter = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                shutdown.begun().await;
                shutdown.reason()
            }
        });
        shutdown.begin("first");
        shutdown.begin("second");
        assert_eq!(waiter.await.unwrap(), "first");
        assert!(shutdown.is_begun() && !shutdown.is_immediate());
        shutdown.immediate("now");
        shutdown.begin("late");
        shutdown.immediate_begun().await;
        assert_eq!(shutdown.reason(), "now");
    }

    #[tokio::test(start_paused = true)]
    async fn drain_is_bounded() {
        let shutdown = Shutdown::new();
        let limit = Duration::from_secs(25);
        assert_eq!(shutdown.drain(limit, async { 7 }).await, Drained::Done(7));
        let forever = std::future::pending::<()>;
        assert_eq!(
            shutdown.drain(limit, forever()).await,
            Drained::Cut("drain_timeout passed")
        );
        shutdown.immediate("test");
        assert_eq!(
            shutdown.drain(limit, forever()).await,
            Drained::Cut("told to stop at once")
        );
    }

    #[tokio::test]
    async fn ends_with_the_supervisor() {
        let (reader, writer) = io::pipe().unwrap();
        let shutdown = Shutdown::new();
        let pipe = pipe::Receiver::from_owned_fd(reader.into()).unwrap();
        let watching = tokio::spawn(shutdown.clone().supervisor(pipe));
        assert!(!shutdown.is_begun());
        drop(writer);
        shutdown.begun().await;
        watching.await.unwrap();
        assert_eq!(shutdown.reason(), "supervisor gone");
    }
}
