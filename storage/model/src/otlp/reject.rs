//! Why an item is refused through `partial_success`. Names and codes are stored (ledger, intake log): never reuse one.

use std::fmt;

/// A permanent fault of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Trace id of a span is not 16 bytes, or all zero.
    InvalidTraceId = 1,
    /// Span id of a span is not 8 bytes, or all zero.
    InvalidSpanId = 2,
    /// Parent span id is neither empty nor 8 bytes.
    InvalidParentId = 3,
    /// Time of a metric point is 0.
    ZeroTimestamp = 4,
    /// A time beyond 2^63 - 1 ns (year 2262).
    TimestampOverflow = 5,
    /// Time of a metric point is too far ahead of arrival.
    Future = 6,
    /// Time of a metric point is older than what is retained.
    Past = 7,
    /// The item, its resource or its scope has too many bytes.
    TooLarge = 8,
    /// An attribute or a body is nested too deep.
    TooDeep = 9,
    /// Bounds and counts do not fit each other, bounds do not ascend, or a count is beyond 2^63 - 1.
    BadHistogram = 10,
    /// Scale, offsets, zero threshold or counts of an exponential histogram are out of range.
    BadExponentialHistogram = 11,
    /// A quantile outside [0, 1], or a count beyond 2^63 - 1.
    BadSummary = 12,
    /// A point of a metric series beyond what the tenant may have.
    TooManySeries = 13,
}

impl Reason {
    /// All reasons, in the order of their codes.
    pub const ALL: [Reason; 13] = [
        Reason::InvalidTraceId,
        Reason::InvalidSpanId,
        Reason::InvalidParentId,
        Reason::ZeroTimestamp,
        Reason::TimestampOverflow,
        Reason::Future,
        Reason::Past,
        Reason::TooLarge,
        Reason::TooDeep,
        Reason::BadHistogram,
        Reason::BadExponentialHistogram,
        Reason::BadSummary,
        Reason::TooManySeries,
    ];

    /// Code in stored records.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this stored code.
    pub fn from_code(code: u8) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// Name in counters, ledger rows and error messages.
    pub fn name(self) -> &'static str {
        match self {
            Reason::InvalidTraceId => "invalid_trace_id",
            Reason::InvalidSpanId => "invalid_span_id",
            Reason::InvalidParentId => "invalid_parent_id",
            Reason::ZeroTimestamp => "zero_timestamp",
            Reason::TimestampOverflow => "timestamp_overflow",
            Reason::Future => "future",
            Reason::Past => "past",
            Reason::TooLarge => "too_large",
            Reason::TooDeep => "too_deep",
            Reason::BadHistogram => "bad_histogram",
            Reason::BadExponentialHistogram => "bad_exponential_histogram",
            Reason::BadSummary => "bad_summary",
            Reason::TooManySeries => "too_many_series",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn codes_and_names_are_stable_and_unique() {
        let names: std::collections::HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(reason.code()), index + 1);
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(Reason::from_code(0), None);
    }
}
