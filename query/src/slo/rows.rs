//! What the engine's columns say: times, counts, values, sketches; and where in a need's spans a row belongs.

use std::fmt::Display;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use tailwater_model::exphist::View;
use tailwater_model::red::WEIGHT_ONE;
use tailwater_slo::latency::{Bucket, Histogram};
use tailwater_slo::{Span, Time, Upstream};

use crate::error::{Error, ErrorKind, Result};

/// Column `name` as `to`; a sentence if the query has none.
fn column(rows: &RecordBatch, name: &str, to: &DataType) -> Result<ArrayRef> {
    let found = rows
        .column_by_name(name)
        .ok_or_else(|| Error::new(ErrorKind::BadQuery, format!("the query has no column `{name}`")))?;
    // What is not a number is an error, not a missing value.
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(found, to, &strict)
        .map_err(|error| Error::new(ErrorKind::BadQuery, format!("column `{name}`: {error}")))
}

/// Points in time, whole seconds. Times without a zone are UTC.
pub(super) fn times(rows: &RecordBatch, name: &str) -> Result<Vec<Option<Time>>> {
    let micros = column(
        rows,
        name,
        &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    )?;
    let micros = micros.as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    Ok(micros
        .iter()
        .map(|time| time.map(|us| Time(us.div_euclid(1_000_000))))
        .collect())
}

pub(super) fn texts(rows: &RecordBatch, name: &str) -> Result<StringArray> {
    Ok(column(rows, name, &DataType::Utf8)?.as_string::<i32>().clone())
}

pub(super) fn integers(rows: &RecordBatch, name: &str) -> Result<Int64Array> {
    Ok(column(rows, name, &DataType::Int64)?
        .as_primitive::<Int64Type>()
        .clone())
}

pub(super) fn numbers(rows: &RecordBatch, name: &str) -> Result<Float64Array> {
    Ok(column(rows, name, &DataType::Float64)?
        .as_primitive::<Float64Type>()
        .clone())
}

pub(super) fn sketches(rows: &RecordBatch, name: &str) -> Result<BinaryArray> {
    Ok(column(rows, name, &DataType::Binary)?.as_binary::<i32>().clone())
}

/// A count that is at least zero. The table's counts are; a sum of them that wrapped is not.
pub(super) fn count(of: &Int64Array, row: usize) -> Result<u64> {
    if of.is_null(row) {
        return Ok(0);
    }
    u64::try_from(of.value(row))
        .map_err(|_| Error::new(ErrorKind::Damaged, format!("a count in `red` is {}", of.value(row))))
}

/// What a window received, and what that stands for.
pub(super) struct Received {
    window: Span,
    events: u64,
    /// In units of 1/[`WEIGHT_ONE`].
    weighted: u128,
}

impl Received {
    pub(super) fn within(window: Span) -> Received {
        Received {
            window,
            events: 0,
            weighted: 0,
        }
    }

    /// Adds what a slice received, if it begins in the window.
    pub(super) fn add(&mut self, start: Time, events: u64, weighted: u64) {
        if self.window.holds(start) {
            self.events = self.events.saturating_add(events);
            self.weighted += u128::from(weighted);
        }
    }

    pub(super) fn upstream(&self) -> Upstream {
        let one = u128::from(WEIGHT_ONE);
        Upstream {
            received: self.events,
            stand_for: u64::try_from((self.weighted + one / 2) / one).unwrap_or(u64::MAX),
        }
    }
}

/// What a stored sketch counted, as ranges.
pub(super) fn histogram(sketch: &[u8]) -> Result<Histogram> {
    let view = View::parse(sketch).map_err(damaged)?;
    let ranges = view.ranges().map_err(damaged)?;
    let buckets = ranges.into_iter().map(|(above, upto, weight)| Bucket {
        above,
        upto,
        // Weights of `red` are whole: spans are counted one by one.
        count: weight.round() as u64,
    });
    Histogram::new(buckets.collect(), view.max()).map_err(damaged)
}

pub(super) fn damaged(what: impl Display) -> Error {
    Error::new(ErrorKind::Damaged, format!("a histogram in `red`: {what}"))
}

/// The slice of `width` seconds that a time belongs to, cut where its span begins and ends. `None` outside all spans.
pub(super) fn cell(spans: &[Span], width: u32, time: Time) -> Option<(Time, u32)> {
    let at = spans.partition_point(|span| span.to <= time);
    let span = spans.get(at).filter(|span| span.holds(time))?;
    let whole = Span::new(time.floor(width), time.floor(width).plus(width.into())).and(*span);
    Some((whole.from, u32::try_from(whole.seconds()).unwrap_or(width)))
}

/// Width of the groups to ask for: the slices', unless spans begin or end inside of slices.
pub(super) fn group_seconds(spans: &[Span], width: u32) -> u32 {
    let ends = spans.iter().flat_map(|span| [span.from, span.to]);
    ends.fold(width, |width, end| {
        let (mut a, mut b) = (width, end.0.rem_euclid(width.into()) as u32);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn slices_are_cut_where_spans_are() {
        let spans = [Span::new(Time(90), Time(240)), Span::new(Time(300), Time(420))];
        let check = |time, expected| assert_eq!(cell(&spans, 120, Time(time)), expected, "{time}");
        check(89, None);
        check(90, Some((Time(90), 30)));
        check(119, Some((Time(90), 30)));
        check(120, Some((Time(120), 120)));
        check(239, Some((Time(120), 120)));
        check(240, None);
        check(300, Some((Time(300), 60)));
        check(419, Some((Time(360), 60)));
        check(420, None);
        assert_eq!(group_seconds(&spans, 120), 30);
        assert_eq!(group_seconds(&spans[1..], 60), 60);
        assert_eq!(group_seconds(&[], 3600), 3600);
    }

    #[test]
    fn a_sketch_reads_as_ranges() {
        let mut sketch = tailwater_model::exphist::ExpHist::new();
        for ms in 1..=100 {
            sketch.record(f64::from(ms) * 1e6);
        }
        let histogram = histogram(&sketch.encode()).unwrap();
        assert_eq!((histogram.count(), histogram.max()), (100, Some(1e8)));
        let (least, most) = histogram.at_most(5e7);
        assert!(least <= 50 && 50 <= most && most - least <= 2, "{least} {most}");
        assert_eq!(super::histogram(b"pony").unwrap_err().kind(), ErrorKind::Damaged);
    }
}
