//! Nanoseconds to columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{Date32Type, Int32Type, TimestampMicrosecondType};

use super::build;
use super::dict::NONE;
use crate::otlp::judge::TimeFlag;

/// Whole microseconds. Fits: u64::MAX / 1000 is below i64::MAX.
#[inline]
pub(super) fn us(ns: u64) -> i64 {
    (ns / 1000) as i64
}

/// The nanoseconds that [`us`] leaves out.
#[inline]
pub(super) fn below_us(ns: u64) -> i16 {
    (ns % 1000) as i16
}

/// Days since 1970.
#[inline]
pub(super) fn day(ns: u64) -> i32 {
    (ns / 86_400_000_000_000) as i32
}

/// A u32 count in a signed column.
#[inline]
pub(super) fn count(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A timestamp column.
pub(super) fn timestamps(ns: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(build::primitive::<TimestampMicrosecondType>(ns.map(us)).with_timezone("UTC"))
}

/// A timestamp column in which 0 is null.
pub(super) fn timestamps_or_null(ns: impl ExactSizeIterator<Item = u64>) -> ArrayRef {
    Arc::new(build::optional::<TimestampMicrosecondType>(ns.map(|ns| (ns != 0).then(|| us(ns)))).with_timezone("UTC"))
}

/// A date column.
pub(super) fn dates(days: impl Iterator<Item = i32>) -> ArrayRef {
    Arc::new(build::primitive::<Date32Type>(days))
}

/// A column of bits in which 0 is null.
pub(super) fn bits_or_null(bits: impl ExactSizeIterator<Item = u32>) -> ArrayRef {
    Arc::new(build::optional::<Int32Type>(
        bits.map(|bits| (bits != 0).then_some(bits as i32)),
    ))
}

/// Strings of column `ts_flag`, and the id of each flag.
pub(super) fn flags() -> (ArrayRef, impl Fn(Option<TimeFlag>) -> i32 + Copy) {
    let strings = StringArray::from_iter_values(TimeFlag::ALL.map(TimeFlag::name));
    (Arc::new(strings), |flag: Option<TimeFlag>| {
        flag.map_or(NONE, |flag| flag as i32)
    })
}
