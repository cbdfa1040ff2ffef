//! The end of the process from inside: a log that failed under us, a table that is not ours.

use std::fmt::Display;
use std::io;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tracing::error;

/// Reports what makes going on impossible. Clones report to the same place.
#[derive(Clone)]
pub struct Fatal(mpsc::UnboundedSender<String>);

impl Fatal {
    /// The reporter, and where `run` hears of it.
    pub fn new() -> (Fatal, mpsc::UnboundedReceiver<String>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Fatal(sender), receiver)
    }

    /// Watches over the thread or task of `part`: if it panics, the process ends. Keep what this answers until it is done.
    #[must_use]
    pub fn watch(&self, part: &'static str) -> Watch {
        Watch {
            fatal: self.clone(),
            part,
        }
    }

    /// Starts a thread that [`Fatal::watch`] watches over.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(&self, part: &'static str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let watch = self.watch(part);
        std::thread::Builder::new().name(part.into()).spawn(move || {
            let _watch = watch;
            work();
        })
    }

    /// `part` cannot go on.
    pub fn report(&self, part: &'static str, cause: &dyn Display) {
        error!(part, %cause, "cannot go on; the process ends and recovery sorts it out");
        // Nobody listens any more: the process is ending already.
        let _ = self.0.send(format!("{part}: {cause}"));
    }
}

/// See [`Fatal::watch`].
pub struct Watch {
    fatal: Fatal,
    part: &'static str,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fatal.report(self.part, &"it panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_panic_is_reported_and_an_end_is_not() {
        let (fatal, mut failed) = Fatal::new();
        let run = |part, panics: bool| {
            let thread = fatal.spawn(part, move || assert!(!panics, "as asked"));
            thread.unwrap().join().is_err()
        };
        assert!(!run("road", false));
        assert!(failed.try_recv().is_err());
        assert!(run("acker", true));
        assert_eq!(failed.try_recv().as_deref(), Ok("acker: it panicked"));
    }
}
