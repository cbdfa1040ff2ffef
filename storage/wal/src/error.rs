//! What can go wrong, as a *kind* for programs and a *source* for people.

use std::fmt;
use std::io;
use std::sync::Arc;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an append was refused although nothing is broken. All of these heal by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FullReason {
    /// `queue_bytes_max` bytes already wait for the disk.
    Queue,
    /// Another segment would exceed `budget_bytes`.
    Budget,
    /// Another segment would leave less than `reserve_bytes` free on the file system.
    Reserve,
    /// The file system itself refused room for a segment (no space, quota, inodes or file handles).
    Disk,
}

impl FullReason {
    /// A stable word for counters and messages.
    pub fn name(self) -> &'static str {
        match self {
            FullReason::Queue => "queue",
            FullReason::Budget => "budget",
            FullReason::Reserve => "reserve",
            FullReason::Disk => "disk",
        }
    }
}

/// The kind of an [`Error`], for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No room now; nothing was written. Try again later.
    Full(FullReason),
    /// A write or sync failed, so nobody knows what is on disk. Nothing more is accepted; end the process, recovery
    /// sorts it out.
    Poisoned,
    /// Another process holds the directory.
    Locked,
    /// The directory belongs to another log, or to another kind of log.
    Foreign,
    /// The files have a newer format than this program.
    Newer,
    /// The record exceeds `record_bytes_max` or `head_bytes_max`.
    TooLarge,
    /// Stored bytes at or below the largest durable sequence number do not verify: `first..=last` is lost.
    Damaged {
        /// First lost sequence number.
        first: u64,
        /// Last lost sequence number.
        last: u64,
    },
    /// The log was closed.
    Closed,
    /// The options contradict each other.
    Options,
    /// The operating system refused, outside the write path.
    Io,
}

/// An error of this crate. Cheap to clone: every waiter of a failed group gets one.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: Arc<str>,
    source: Option<Arc<io::Error>>,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into().into(),
            source: None,
        }
    }

    pub(crate) fn with(kind: Kind, message: impl Into<String>, source: io::Error) -> Self {
        Error {
            kind,
            message: message.into().into(),
            source: Some(Arc::new(source)),
        }
    }

    pub(crate) fn io(message: impl Into<String>, source: io::Error) -> Self {
        Error::with(Kind::Io, message, source)
    }

    /// What happened, for programs.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the same call can succeed later without anybody repairing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, Kind::Full(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Errors of opening or preallocating a file that mean "no room now" rather than "broken".
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE | Errno::NOMEM)
    )
}
