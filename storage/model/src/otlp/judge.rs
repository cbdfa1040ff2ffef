//! Which items are rejected. The one place that decides it: `peek::inspect` and `columns` both ask here.
//!
//! An item's own reasons come in the order of the checks below; the reason of its resource, then of its scope, goes first.

use super::caps::Caps;
use super::item::{LogHead, SpanHead};
use super::point::{Point, Shape};
use super::reject::Reason;
use crate::ids::{SpanId, TraceId};

const NS_MAX: u64 = i64::MAX as u64;

/// Judges a resource or scope by its size and the deepest of its attribute values.
pub fn origin(size: usize, depth: usize, caps: &Caps) -> Option<Reason> {
    if size > caps.item_bytes {
        Some(Reason::TooLarge)
    } else {
        (depth > caps.depth).then_some(Reason::TooDeep)
    }
}

/// Judges a span. `depth` is that of the deepest attribute value, events and links included.
#[inline]
pub fn span(head: &SpanHead<'_>, size: usize, depth: usize, caps: &Caps) -> Option<Reason> {
    if size > caps.item_bytes {
        Some(Reason::TooLarge)
    } else if TraceId::parse(head.trace_id).is_none() {
        Some(Reason::InvalidTraceId)
    } else if SpanId::parse(head.span_id).is_none() {
        Some(Reason::InvalidSpanId)
    } else if !matches!(head.parent_span_id.len(), 0 | 8) {
        Some(Reason::InvalidParentId)
    } else if head.start > NS_MAX || head.end > NS_MAX {
        Some(Reason::TimestampOverflow)
    } else {
        (depth > caps.depth).then_some(Reason::TooDeep)
    }
}

/// Judges a log record. `depth` is that of the deepest attribute value, or of the body.
#[inline]
pub fn log(head: &LogHead<'_>, size: usize, depth: usize, caps: &Caps) -> Option<Reason> {
    if size > caps.item_bytes {
        Some(Reason::TooLarge)
    } else if head.time > NS_MAX || head.observed > NS_MAX {
        Some(Reason::TimestampOverflow)
    } else {
        (depth > caps.depth).then_some(Reason::TooDeep)
    }
}

/// Judges a data point. `depth` is that of the deepest attribute value, exemplars included.
#[inline]
pub fn point(shape: Shape, point: &Point, size: usize, depth: usize, arrival_ns: u64, caps: &Caps) -> Option<Reason> {
    if size > caps.item_bytes {
        Some(Reason::TooLarge)
    } else if point.time == 0 {
        Some(Reason::ZeroTimestamp)
    } else if point.time > NS_MAX || point.start > NS_MAX {
        Some(Reason::TimestampOverflow)
    } else if point.time > arrival_ns.saturating_add(caps.future_ns) {
        Some(Reason::Future)
    } else if point.time < arrival_ns.saturating_sub(caps.past_ns) {
        Some(Reason::Past)
    } else if depth > caps.depth {
        Some(Reason::TooDeep)
    } else {
        match shape {
            Shape::Gauge | Shape::Sum => None,
            Shape::Histogram => (!histogram_is_sound(point)).then_some(Reason::BadHistogram),
            Shape::Exponential => (!exponential_is_sound(point)).then_some(Reason::BadExponentialHistogram),
            Shape::Summary => (!summary_is_sound(point)).then_some(Reason::BadSummary),
        }
    }
}

fn stored(count: &u64) -> bool {
    *count <= NS_MAX
}

/// Bounds ascend, and there is one bucket more than bounds, or neither. That the counts add up to `count` is not asked: SDKs
/// that read their buckets while counting miss by a few.
fn histogram_is_sound(point: &Point) -> bool {
    let buckets = if point.counts.is_empty() {
        point.bounds.is_empty()
    } else {
        point.counts.len() == point.bounds.len() + 1
    };
    buckets
        && point.bounds.iter().all(|bound| !bound.is_nan())
        && point.bounds.windows(2).all(|pair| pair[0] < pair[1])
        && stored(&point.count)
        && point.counts.iter().all(stored)
}

/// Scale within what base-2 histograms of doubles can use, and bucket indexes within 32 bits.
fn exponential_is_sound(point: &Point) -> bool {
    let fits = |side: &super::point::Buckets| {
        let last = i64::from(side.offset) + i64::try_from(side.counts.len()).unwrap_or(i64::MAX / 2);
        last <= i64::from(i32::MAX) && side.counts.iter().all(stored)
    };
    (-10..=20).contains(&point.scale)
        && point.zero_threshold >= 0.0
        && stored(&point.count)
        && stored(&point.zero_count)
        && fits(&point.positive)
        && fits(&point.negative)
}

fn summary_is_sound(point: &Point) -> bool {
    stored(&point.count)
        && point
            .quantiles
            .iter()
            .all(|(quantile, _)| (0.0..=1.0).contains(quantile))
}

/// What is wrong with an item's time, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TimeFlag {
    /// No time was sent. A log record then shows its arrival.
    Zero = 0,
    /// Too far ahead of arrival.
    Future = 1,
    /// Older than what is retained.
    Past = 2,
    /// The span ends before it starts.
    EndBeforeStart = 3,
    /// The log record has no time of its own and shows when it was observed.
    Observed = 4,
}

impl TimeFlag {
    /// All flags, in the order of their numbers.
    pub const ALL: [TimeFlag; 5] = [
        TimeFlag::Zero,
        TimeFlag::Future,
        TimeFlag::Past,
        TimeFlag::EndBeforeStart,
        TimeFlag::Observed,
    ];

    /// Flag of a time.
    pub fn of(time_ns: u64, arrival_ns: u64, caps: &Caps) -> Option<TimeFlag> {
        if time_ns == 0 {
            Some(TimeFlag::Zero)
        } else if time_ns > arrival_ns.saturating_add(caps.future_ns) {
            Some(TimeFlag::Future)
        } else {
            (time_ns < arrival_ns.saturating_sub(caps.past_ns)).then_some(TimeFlag::Past)
        }
    }

    /// Value of column `ts_flag`.
    pub fn name(self) -> &'static str {
        match self {
            TimeFlag::Zero => "zero",
            TimeFlag::Future => "future",
            TimeFlag::Past => "past",
            TimeFlag::EndBeforeStart => "end_before_start",
            TimeFlag::Observed => "observed",
        }
    }

    /// Whether the row is stored under the day of arrival.
    pub fn moves_date(self) -> bool {
        matches!(self, TimeFlag::Zero | TimeFlag::Future | TimeFlag::Past)
    }
}
