//! The crate's one error: a kind for programs, a text and a source for people.

use std::fmt;
use std::sync::Arc;

/// What went wrong, in the words a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The store said no or could not be reached. The same call may succeed later.
    Store,
    /// The table does not exist. `Lake::ensure_tables` makes it.
    MissingTable,
    /// The table cannot be used as it is: another protocol, a column of another type, a missing column.
    Incompatible,
    /// Bytes that do not say what they must: a bad checksum, a log entry that does not parse. The text names the file.
    Damaged,
    /// The table's `txn` is not what the caller expected, because another process writes under the same log id, or because
    /// the outbox is older than the table. Stop; do not retry.
    Fenced,
    /// Another commit won too often. The same call may succeed later.
    Conflict,
    /// The caller's arguments contradict each other or the table's schema.
    Invalid,
    /// No file can be made of these rows, now or later. Of other rows it can.
    Unwritable,
}

/// An error of this crate.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    files: Vec<Arc<str>>,
}

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            source: None,
            files: Vec::new(),
        }
    }

    pub(crate) fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error {
            kind,
            message: message.into(),
            source: Some(source.into()),
            files: Vec::new(),
        }
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Store | ErrorKind::Conflict)
    }

    /// Paths of the data files that cannot be used as they are, one of them at least; none if the files are not the reason.
    pub(crate) fn files(&self) -> &[Arc<str>] {
        &self.files
    }

    /// This error as one of these data files, unless it knows already which one it is.
    pub(crate) fn of_files<'a>(mut self, files: impl IntoIterator<Item = &'a Arc<str>>) -> Error {
        if self.files.is_empty() {
            self.files.extend(files.into_iter().cloned());
        }
        self
    }

    /// This error as one of rows to be written: unless it is the store's, it comes again with them.
    pub(crate) fn of_rows(mut self) -> Error {
        if !self.is_retryable() {
            self.kind = ErrorKind::Unwritable;
        }
        self
    }

    /// This error with words in front of its text.
    pub(crate) fn within(mut self, context: impl fmt::Display) -> Error {
        self.message = format!("{context}: {}", self.message);
        self
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
        self.source
            .as_ref()
            .map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Error {
        Error::caused(ErrorKind::Store, "store", error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::caused(ErrorKind::Store, "file", error)
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Error {
        Error::caused(ErrorKind::Invalid, "arrow", error)
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(error: parquet::errors::ParquetError) -> Error {
        // What it was read from or written to speaks as an external error; everything else comes again with the same bytes or rows.
        let kind = match &error {
            parquet::errors::ParquetError::External(_) => ErrorKind::Store,
            _ => ErrorKind::Invalid,
        };
        Error::caused(kind, "parquet", error)
    }
}

impl From<deltalake_core::DeltaTableError> for Error {
    fn from(error: deltalake_core::DeltaTableError) -> Error {
        use deltalake_core::DeltaTableError as Delta;
        let kind = match &error {
            Delta::NotATable(_) => ErrorKind::MissingTable,
            Delta::InvalidJsonLog { .. } | Delta::InvalidStatsJson { .. } => ErrorKind::Damaged,
            _ => ErrorKind::Store,
        };
        Error::caused(kind, "delta", error)
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Error {
        // A panic comes again with the same input.
        let kind = if error.is_panic() {
            ErrorKind::Damaged
        } else {
            ErrorKind::Store
        };
        Error::caused(kind, "background work stopped", error)
    }
}
