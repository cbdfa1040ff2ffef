//! What can go wrong with a query, by kind.

use crate::notes::{Position, line_and_column};

/// Why a query has no answer. The text says what was wrong; the kind says whose fault it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not PromQL. HTTP: 400 `bad_data`.
    #[error("{line}:{column}: parse error: {message}")]
    Parse {
        /// Line, from 1.
        line: usize,
        /// Byte in the line, from 1.
        column: usize,
        /// What is wrong there, and what to write instead where that is known.
        message: String,
    },
    /// PromQL, but not evaluated here. HTTP: 400 `bad_data`.
    #[error("{}unsupported: {what}{}", before(.place.as_ref()), behind(.instead))]
    Unsupported {
        /// What is not evaluated, by name.
        what: String,
        /// What to write instead, as a sentence; empty where there is nothing.
        instead: &'static str,
        /// Line and byte in the line, both from 1, where they are known.
        place: Option<(usize, usize)>,
    },
    /// The parameters make no sense (step, range, order). HTTP: 400 `bad_data`.
    #[error("{0}")]
    BadParameter(String),
    /// The data do not allow the operation. HTTP: 422 `execution`.
    #[error("{0}")]
    Execution(String),
    /// More than the query may hold. HTTP: 422 `execution`.
    #[error("query would hold more than {max} {what}: ask for fewer series, a shorter range or a larger step")]
    TooMuch {
        /// `samples` or `series`.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// More points per series than allowed. HTTP: 400 `bad_data`. The words are those of Prometheus.
    #[error(
        "exceeded maximum resolution of {max} points per timeseries. Try decreasing the query resolution (?step=XX)"
    )]
    TooManySteps {
        /// The limit.
        max: usize,
    },
    /// Stopped because the caller said so. HTTP: 503 `canceled`.
    #[error("query was canceled in expression evaluation")]
    Cancelled,
}

impl Error {
    /// The `errorType` of Prometheus' HTTP API.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Parse { .. } | Self::Unsupported { .. } | Self::BadParameter(_) | Self::TooManySteps { .. } => {
                "bad_data"
            }
            Self::Execution(_) | Self::TooMuch { .. } => "execution",
            Self::Cancelled => "canceled",
        }
    }

    pub(crate) fn unsupported(what: impl Into<String>, instead: &'static str) -> Self {
        Self::Unsupported {
            what: what.into(),
            instead,
            place: None,
        }
    }

    /// The same of what stands at a place of the query; other errors as they are.
    pub(crate) fn at(mut self, query: &str, position: Position) -> Self {
        if let Self::Unsupported { place, .. } = &mut self {
            *place = Some(line_and_column(query, position));
        }
        self
    }

    pub(crate) fn execution(message: impl Into<String>) -> Self {
        Self::Execution(message.into())
    }

    pub(crate) fn same_labelset() -> Self {
        Self::execution("vector cannot contain metrics with the same labelset")
    }
}

/// A place as it stands before what is said of it.
fn before(place: Option<&(usize, usize)>) -> String {
    place.map_or_else(String::new, |(line, column)| format!("{line}:{column}: "))
}

fn behind(instead: &str) -> String {
    if instead.is_empty() {
        return String::new();
    }
    format!("; {instead}")
}
