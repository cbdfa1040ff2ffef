//! Points and spans of event time, and the windows an objective is judged over.
//!
//! A rolling window is a fixed number of seconds. A calendar window is counted in local days or months from a local start, so that it
//! is 23, 24 or 25 hours times its days where clocks change, and a month has the days it has.

use std::fmt;

use chrono::{DateTime, Datelike, Days, Months, NaiveDateTime, Offset, TimeDelta, TimeZone};
use chrono_tz::Tz;

/// A point in time: seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// The last multiple of `width` seconds (> 0) at or before this.
    #[must_use]
    pub const fn floor(self, width: u32) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(width as i64)))
    }

    /// The first multiple of `width` seconds (> 0) at or after this.
    #[must_use]
    pub const fn ceil(self, width: u32) -> Self {
        Self(self.0.saturating_add(self.0.wrapping_neg().rem_euclid(width as i64)))
    }

    /// This many seconds later.
    #[must_use]
    pub const fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// The moment in a zone; the nearest one there is for times outside the years chrono knows.
    #[must_use]
    pub fn in_zone(self, zone: Tz) -> DateTime<Tz> {
        let limit = if self.0 < 0 {
            DateTime::<chrono::Utc>::MIN_UTC
        } else {
            DateTime::<chrono::Utc>::MAX_UTC
        };
        DateTime::from_timestamp(self.0, 0)
            .unwrap_or(limit)
            .with_timezone(&zone)
    }
}

/// `2026-03-01T12:30:00Z`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.in_zone(Tz::UTC).format("%Y-%m-%dT%H:%M:%SZ"))
    }
}

impl serde::Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From `from` up to but without `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Span {
    /// First second.
    pub from: Time,
    /// First second after it.
    pub to: Time,
}

impl Span {
    /// From one point to another; empty when `to` is not after `from`.
    #[must_use]
    pub const fn new(from: Time, to: Time) -> Self {
        Self { from, to }
    }

    /// Length in seconds, 0 when empty.
    #[must_use]
    pub fn seconds(self) -> u64 {
        u64::try_from(self.to.0.saturating_sub(self.from.0)).unwrap_or(0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.to <= self.from
    }

    /// Whether the point is in it.
    #[must_use]
    pub fn holds(self, time: Time) -> bool {
        self.from <= time && time < self.to
    }

    /// What both have in common, perhaps nothing.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::new(self.from.max(other.from), self.to.min(other.to))
    }

    /// Whether they have a second in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        !self.and(other).is_empty()
    }
}

/// What a calendar window counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalendarUnit {
    /// Seconds of physical time, for minutes and hours.
    Seconds(u32),
    /// Local days; a week is seven.
    Days(u32),
    /// Local months; a quarter is three, a year twelve. The day of the start is cut to the month's last.
    Months(u32),
}

/// A window an objective is judged over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so many seconds.
    Rolling(u64),
    /// Windows back to back from a local start.
    Calendar {
        /// Local time at which one of the windows starts.
        start: NaiveDateTime,
        /// The zone of that time.
        zone: Tz,
        /// Length of one window; its count is at least 1.
        unit: CalendarUnit,
    },
}

impl Window {
    /// The window at `at`, whole: a rolling one ends there, of the calendar ones it is the one that holds `at`.
    #[must_use]
    pub fn at(self, at: Time) -> Span {
        match self {
            Self::Rolling(seconds) => Span::new(at.plus(-i64::try_from(seconds).unwrap_or(i64::MAX)), at),
            Self::Calendar { start, zone, unit } => calendar(at, start, zone, unit),
        }
    }

    /// Whether it follows the clock.
    #[must_use]
    pub const fn is_rolling(self) -> bool {
        matches!(self, Self::Rolling(_))
    }
}

fn calendar(at: Time, start: NaiveDateTime, zone: Tz, unit: CalendarUnit) -> Span {
    let origin = instant(start, zone);
    let nth = |n: i64| nth_start(start, origin, zone, unit, n);
    let local = at.in_zone(zone).naive_local();
    // A guess that is off by one at most: clocks change by less than the shortest local unit, and months are cut, not moved.
    let mut n = match unit {
        CalendarUnit::Seconds(seconds) => (at.0 - origin.0).div_euclid(seconds.max(1).into()),
        CalendarUnit::Days(days) => (local - start).num_days().div_euclid(days.max(1).into()),
        CalendarUnit::Months(months) => {
            let count = |t: NaiveDateTime| i64::from(t.year()) * 12 + i64::from(t.month0());
            (count(local) - count(start)).div_euclid(months.max(1).into())
        }
    };
    while nth(n) > at {
        n -= 1;
    }
    while nth(n + 1) <= at {
        n += 1;
    }
    Span::new(nth(n), nth(n + 1))
}

/// Start of the `n`-th window after the first. Counted from the first each time, so that a start on the 31st stays one.
fn nth_start(start: NaiveDateTime, origin: Time, zone: Tz, unit: CalendarUnit, n: i64) -> Time {
    let steps = |each: u32| n.saturating_mul(each.max(1).into());
    let local = match unit {
        CalendarUnit::Seconds(seconds) => return origin.plus(steps(seconds)),
        CalendarUnit::Days(days) => {
            let days = steps(days);
            let by = Days::new(days.unsigned_abs());
            if days < 0 {
                start.checked_sub_days(by)
            } else {
                start.checked_add_days(by)
            }
        }
        CalendarUnit::Months(months) => {
            let months = steps(months);
            let by = Months::new(u32::try_from(months.unsigned_abs()).unwrap_or(u32::MAX));
            if months < 0 {
                start.checked_sub_months(by)
            } else {
                start.checked_add_months(by)
            }
        }
    };
    match local {
        Some(local) => instant(local, zone),
        // Beyond the years chrono knows there is no window: an end that nothing reaches.
        None if n < 0 => Time(i64::MIN),
        None => Time(i64::MAX),
    }
}

/// The moment a local time names. Where clocks go back it is the first of the two; a time that clocks skip is moved on by as much as
/// they were, as Java and most calendars do.
fn instant(local: NaiveDateTime, zone: Tz) -> Time {
    if let Some(moment) = zone.from_local_datetime(&local).earliest() {
        return Time(moment.timestamp());
    }
    // No zone ever skipped a whole day at an hour where the day before was skipped too.
    let before = local.checked_sub_signed(TimeDelta::days(1)).unwrap_or(local);
    let offset = match zone.offset_from_local_datetime(&before).earliest() {
        Some(offset) => offset.fix().local_minus_utc(),
        None => 0,
    };
    Time(local.and_utc().timestamp() - i64::from(offset))
}

#[cfg(test)]
mod tests;
