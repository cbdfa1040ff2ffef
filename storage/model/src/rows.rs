//! Columns of frames out of plain values.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int64Array, StringDictionaryBuilder, TimestampMicrosecondArray};
use arrow::datatypes::Int32Type;

const DAY_NS: u64 = 86_400_000_000_000;

/// A count as a column holds it.
pub(crate) fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Column `date` for these times, ns since 1970.
pub fn dates(slices_ns: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(Date32Array::from_iter_values(slices_ns.map(|ns| (ns / DAY_NS) as i32)))
}

/// Microseconds since 1970, UTC, for these ns.
pub fn times(ns: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    let times = TimestampMicrosecondArray::from_iter(ns.map(|ns| Some((ns? / 1000) as i64)));
    Arc::new(times.with_timezone("UTC"))
}

/// Counts; those beyond 2^63 - 1 stand as that.
pub fn integers(counts: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(counts.map(stored)))
}

/// Words, as a dictionary.
pub fn words<'a>(words: impl Iterator<Item = &'a str>) -> ArrayRef {
    dictionary(words.map(Some))
}

/// As [`words`], empty ones null.
pub fn maybe_words<'a>(words: impl Iterator<Item = &'a str>) -> ArrayRef {
    dictionary(words.map(|word| Some(word).filter(|word| !word.is_empty())))
}

fn dictionary<'a>(words: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    // Frames wait in memory, most with few rows: the builder's own 1,024 of everything are 9 KB a column.
    let (rows, _) = words.size_hint();
    let mut out = StringDictionaryBuilder::<Int32Type>::with_capacity(rows, 0, 0);
    words.for_each(|word| out.append_option(word));
    Arc::new(out.finish())
}
