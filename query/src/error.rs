//! The crate's one error, and the one place where it becomes an HTTP status.
//!
//! What an error says goes to whoever asked. Text that tells of the queries of others or of this machine, as that of the memory pool and of
//! the store does, goes to the log, and the asker gets a sentence of ours.

use std::fmt;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

use crate::meant;

/// What went wrong, in the words a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The text is not a query we can run: syntax, unknown names, types that do not fit, or too deep.
    BadQuery,
    /// A query, but of a sort that is never run: it would write, change settings or open files.
    NotAllowed,
    /// The query text is longer than the limit.
    TextTooLong,
    /// The answer is larger than the limit.
    AnswerTooLarge,
    /// The query failed on its data: division by zero, a cast that does not fit.
    Failed,
    /// Memory or temporary disk ran out.
    Exhausted,
    /// Too many queries at once. The same call may succeed later.
    Busy,
    /// The tenant runs as many queries as it may. The same call may succeed later.
    OverQuota,
    /// The time limit passed.
    Timeout,
    /// The lake is not there yet, or the store cannot be reached. The same call may succeed later.
    Unavailable,
    /// A file of the lake or of the outbox does not say what it must. The text names it.
    Damaged,
    /// A defect of this program.
    Internal,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [ErrorKind; 12] = [
        ErrorKind::BadQuery,
        ErrorKind::NotAllowed,
        ErrorKind::TextTooLong,
        ErrorKind::AnswerTooLarge,
        ErrorKind::Failed,
        ErrorKind::Exhausted,
        ErrorKind::Busy,
        ErrorKind::OverQuota,
        ErrorKind::Timeout,
        ErrorKind::Unavailable,
        ErrorKind::Damaged,
        ErrorKind::Internal,
    ];

    /// Name in answers, metric labels and logs.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::BadQuery => "bad_query",
            ErrorKind::NotAllowed => "not_allowed",
            ErrorKind::TextTooLong => "text_too_long",
            ErrorKind::AnswerTooLarge => "answer_too_large",
            ErrorKind::Failed => "failed",
            ErrorKind::Exhausted => "resources_exhausted",
            ErrorKind::Busy => "busy",
            ErrorKind::OverQuota => "over_quota",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Damaged => "damaged",
            ErrorKind::Internal => "internal",
        }
    }

    /// The HTTP status of this kind.
    pub fn http_status(self) -> u16 {
        match self {
            ErrorKind::BadQuery | ErrorKind::NotAllowed => 400,
            ErrorKind::TextTooLong => 413,
            ErrorKind::AnswerTooLarge | ErrorKind::Failed | ErrorKind::Exhausted => 422,
            ErrorKind::Busy | ErrorKind::OverQuota => 429,
            ErrorKind::Damaged | ErrorKind::Internal => 500,
            ErrorKind::Unavailable => 503,
            ErrorKind::Timeout => 504,
        }
    }
}

/// Where in the query text, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// An error of this crate.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    position: Option<Position>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a kind, with a text for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            position: None,
            source: None,
        }
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Where in the query text, if it is known.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether the same query may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Busy | ErrorKind::OverQuota | ErrorKind::Unavailable | ErrorKind::Timeout
        )
    }

    pub(crate) fn at(mut self, position: Option<Position>) -> Error {
        self.position = position;
        self
    }

    /// What DataFusion said while it planned or ran a query.
    pub(crate) fn from_datafusion(error: DataFusionError) -> Error {
        if let Some(damage) = find::<tailwater_storage::Error>(&error) {
            return Error::new(storage_kind(damage.kind()), damage.to_string());
        }
        if let Some(store) = find::<object_store::Error>(&error) {
            // It names files by their place on this machine.
            tracing::warn!(error = %store, "a file of the lake cannot be read");
            let (kind, why) = unreadable(store);
            return Error::new(kind, format!("a file of the lake cannot be read: {why}"));
        }
        if let Some(message) = exhausted(&error) {
            // It names the largest consumers, which are the queries of others, with what they compare and compute.
            tracing::warn!(error = %error.strip_backtrace(), "a query ran out of memory or disk");
            return Error::new(ErrorKind::Exhausted, message);
        }
        let position = error.diagnostic().and_then(|diagnostic| diagnostic.span);
        let position = position.map(|span| Position {
            line: span.start.line,
            column: span.start.column,
        });
        let kind = kind_of(&error);
        let message = match error.find_root() {
            DataFusionError::SQL(parser, _) => parser_message(parser),
            DataFusionError::SchemaError(wrong, _) => match &**wrong {
                SchemaError::FieldNotFound { field, valid_fields } => meant::column(field, valid_fields),
                other => other.to_string(),
            },
            root => {
                let message = strip(&root.strip_backtrace());
                meant::table(&message).unwrap_or(message)
            }
        };
        let position = position.or_else(|| position_in(&message));
        Error {
            kind,
            message,
            position,
            source: Some(Box::new(error)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl From<tailwater_storage::Error> for Error {
    fn from(error: tailwater_storage::Error) -> Error {
        Error {
            kind: storage_kind(error.kind()),
            message: error.to_string(),
            position: None,
            source: Some(Box::new(error)),
        }
    }
}

fn storage_kind(kind: tailwater_storage::ErrorKind) -> ErrorKind {
    use tailwater_storage::ErrorKind as Storage;
    match kind {
        Storage::Store | Storage::MissingTable | Storage::Conflict => ErrorKind::Unavailable,
        Storage::Damaged | Storage::Incompatible | Storage::Fenced => ErrorKind::Damaged,
        Storage::Invalid | Storage::Unwritable => ErrorKind::Internal,
    }
}

/// What is wrong with a file, without its name.
fn unreadable(store: &object_store::Error) -> (ErrorKind, &'static str) {
    use object_store::Error as Store;
    match store {
        // A file that the log names and that is gone will not come back by waiting.
        Store::NotFound { .. } => (ErrorKind::Damaged, "it is named by the log and not there"),
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
            (ErrorKind::Unavailable, "this program may not read it")
        }
        _ => (ErrorKind::Unavailable, "the store did not give it"),
    }
}

/// What to do where memory or disk ran out; `None` for other errors.
fn exhausted(error: &DataFusionError) -> Option<&'static str> {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Some(
            "the query needs more memory or temporary disk than is left for it: ask about less time, group by fewer values, or raise \
             query.memory or query.temp",
        ),
        DataFusionError::IoError(io) if io.kind() == std::io::ErrorKind::StorageFull => {
            Some("the disk for what does not fit into memory is full: ask about less time, or group by fewer values")
        }
        _ => None,
    }
}

fn kind_of(error: &DataFusionError) -> ErrorKind {
    match error.find_root() {
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Configuration(_) => ErrorKind::BadQuery,
        DataFusionError::ParquetError(_) => ErrorKind::Damaged,
        DataFusionError::ObjectStore(_) => ErrorKind::Unavailable,
        DataFusionError::Execution(_) | DataFusionError::ArrowError(..) => ErrorKind::Failed,
        _ => ErrorKind::Internal,
    }
}

/// The first error of this type in the chain of causes.
fn find<E: std::error::Error + 'static>(error: &DataFusionError) -> Option<&E> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // A boxed cause hides its own type behind `source`, so look into the box first.
        if let Some(DataFusionError::External(inner)) = error.downcast_ref::<DataFusionError>()
            && let Some(found) = inner.downcast_ref::<E>()
        {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn parser_message(error: &ParserError) -> String {
    match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.clone(),
        ParserError::RecursionLimitExceeded => "the query is nested too deeply".into(),
    }
}

/// DataFusion's own prefix says nothing to the person who wrote the query.
fn strip(message: &str) -> String {
    let prefixes = ["Error during planning: ", "Schema error: ", "Execution error: "];
    prefixes
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix))
        .unwrap_or(message)
        .to_owned()
}

/// The parser writes `... at Line: 1, Column: 8`.
fn position_in(message: &str) -> Option<Position> {
    let (_, rest) = message.rsplit_once("Line: ")?;
    let (line, rest) = rest.split_once(", Column: ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(Position {
        line: line.parse().ok()?,
        column: digits.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_and_this_machine_stay_out_of_the_text() {
        let check = |error: DataFusionError, kind: ErrorKind, says: &str| {
            let error = Error::from_datafusion(error);
            let text = error.to_string();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(text.contains(says), "{text}");
            for secret in ["secret", "/srv", "consumers", "os error"] {
                assert!(!text.contains(secret), "{text}");
            }
        };
        let pool = "Failed to allocate 1 MB for GroupedHashAggregateStream[0] (count(1)) with top memory consumers (across reservations) as:\n  \
                    FilterExec[0] (user = 'secret')#7(can spill: false) consumed 900.0 MB";
        let exhausted = || DataFusionError::ResourcesExhausted(pool.into());
        check(exhausted(), ErrorKind::Exhausted, "query.memory");
        check(
            exhausted().context("while sorting secret"),
            ErrorKind::Exhausted,
            "less time",
        );
        check(
            DataFusionError::ArrowError(
                Box::new(arrow::error::ArrowError::ExternalError(Box::new(exhausted()))),
                None,
            ),
            ErrorKind::Exhausted,
            "query.temp",
        );
        let full = std::io::Error::new(std::io::ErrorKind::StorageFull, "/srv/temp: os error 28");
        check(DataFusionError::IoError(full), ErrorKind::Exhausted, "disk");
        let source = || "Object at location /srv/lake/spans/part-0.parquet".into();
        let path = || "srv/lake/spans/secret.parquet".to_owned();
        let stored = |error: object_store::Error| DataFusionError::ObjectStore(Box::new(error));
        check(
            stored(object_store::Error::NotFound {
                path: path(),
                source: source(),
            }),
            ErrorKind::Damaged,
            "a file of the lake cannot be read: it is named by the log and not there",
        );
        check(
            stored(object_store::Error::PermissionDenied {
                path: path(),
                source: source(),
            }),
            ErrorKind::Unavailable,
            "may not read it",
        );
        check(
            DataFusionError::External(Box::new(object_store::Error::Generic {
                store: "LocalFileSystem",
                source: source(),
            })),
            ErrorKind::Unavailable,
            "the store did not give it",
        );
        let plain = Error::from_datafusion(DataFusionError::Execution("divide by zero".into()));
        assert_eq!(
            (plain.kind(), plain.to_string().as_str()),
            (ErrorKind::Failed, "divide by zero")
        );
    }
}
