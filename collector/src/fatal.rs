//! The end of the process from inside: a log that failed under us, a table that is not ours.

use std::fmt::Display;

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

    /// `part` cannot go on.
    pub fn report(&self, part: &'static str, cause: &dyn Display) {
        error!(part, %cause, "cannot go on; the process ends and recovery sorts it out");
        // Nobody listens any more: the process is ending already.
        let _ = self.0.send(format!("{part}: {cause}"));
    }
}
