//! What can go wrong with a query, by kind.

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
    #[error("unsupported: {0}")]
    Unsupported(String),
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
            Self::Parse { .. } | Self::Unsupported(_) | Self::BadParameter(_) | Self::TooManySteps { .. } => "bad_data",
            Self::Execution(_) | Self::TooMuch { .. } => "execution",
            Self::Cancelled => "canceled",
        }
    }

    pub(crate) fn execution(message: impl Into<String>) -> Self {
        Self::Execution(message.into())
    }

    pub(crate) fn same_labelset() -> Self {
        Self::execution("vector cannot contain metrics with the same labelset")
    }
}
