//! The crate's one error, and the one place where it becomes an HTTP status.

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
            // A file that the log names and that is gone will not come back by waiting.
            let kind = match store {
                object_store::Error::NotFound { .. } => ErrorKind::Damaged,
                _ => ErrorKind::Unavailable,
            };
            return Error::new(kind, store.to_string());
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
        Storage::Invalid => ErrorKind::Internal,
    }
}

fn kind_of(error: &DataFusionError) -> ErrorKind {
    match error.find_root() {
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Configuration(_) => ErrorKind::BadQuery,
        DataFusionError::ResourcesExhausted(_) => ErrorKind::Exhausted,
        DataFusionError::ParquetError(_) => ErrorKind::Damaged,
        DataFusionError::ObjectStore(_) => ErrorKind::Unavailable,
        DataFusionError::IoError(io) if io.kind() == std::io::ErrorKind::StorageFull => ErrorKind::Exhausted,
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
    let prefixes = [
        "Error during planning: ",
        "Schema error: ",
        "Execution error: ",
        "Resources exhausted: ",
    ];
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
