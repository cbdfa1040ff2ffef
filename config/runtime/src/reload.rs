//! Files that are read again while the process runs: tokens, certificates, keys. On SIGHUP, and whenever their contents changed.
//!
//! Why contents and not times: a mounted secret is swapped by a link whose times say nothing, and the files are small. A new state is
//! whole or it is not taken: what is wrong with a file is logged and counted, and the old state stays.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::Metrics;
use crate::access::Access;
use crate::tls::Tls;

/// What can be read again.
#[derive(Debug, Clone)]
pub enum Part {
    /// Tokens.
    Access(Arc<Access>),
    /// The certificate of a listener, by its key.
    Tls(&'static str, Arc<Tls>),
}

impl Part {
    fn name(&self) -> &'static str {
        match self {
            Part::Access(_) => "access.tokens",
            Part::Tls(listener, _) => listener,
        }
    }

    fn reload(&self) -> io::Result<bool> {
        match self {
            Part::Access(access) => access.reload(),
            Part::Tls(_, tls) => tls.reload(),
        }
    }
}

/// Ends the watch when dropped.
#[derive(Debug)]
pub struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Looks at the parts `every` so often and on SIGHUP. Must be called inside a runtime.
///
/// # Errors
/// When signals cannot be watched.
pub fn watch(parts: Vec<Part>, every: Duration, metrics: &Metrics) -> io::Result<Watch> {
    let reloads = metrics.counters(
        "tailwater_reloads",
        "changed files of tokens and certificates that were read again, by what they are and outcome (ok, failed)",
        ["part", "outcome"],
    );
    let mut hangup = signal(SignalKind::hangup())?;
    let mut clock = tokio::time::interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let task = tokio::spawn(async move {
        // What was last wrong with each part, so that a file that stays broken is told once.
        let mut told = vec![String::new(); parts.len()];
        loop {
            let asked = tokio::select! {
                _ = clock.tick() => false,
                _ = hangup.recv() => true,
            };
            for (part, told) in parts.iter().zip(&mut told) {
                let work = part.clone();
                let outcome = tokio::task::spawn_blocking(move || work.reload()).await;
                match outcome.unwrap_or_else(|error| Err(io::Error::other(error))) {
                    Ok(changed) => {
                        told.clear();
                        if changed {
                            reloads.with([part.name(), "ok"]).inc();
                            tracing::info!(part = part.name(), "read again");
                        } else if asked {
                            tracing::info!(part = part.name(), "as it was");
                        }
                    }
                    Err(error) => {
                        let text = error.to_string();
                        if asked || *told != text {
                            reloads.with([part.name(), "failed"]).inc();
                            tracing::error!(part = part.name(), %error, "cannot be read again, the old state stays");
                        }
                        *told = text;
                    }
                }
            }
        }
    });
    Ok(Watch(task.abort_handle()))
}
