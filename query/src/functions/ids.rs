//! Ids and times for people: hex in both directions, nanoseconds from the two columns that hold them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, StringBuilder, TimestampNanosecondBuilder};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, exec_err, plan_err};

use super::bytes::{Bytes, coerce};
use super::scalar::Scalar;

/// The functions over ids and times.
pub(super) fn all() -> Vec<Scalar> {
    let nanos = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    vec![
        Scalar::new("hex_id", id, DataType::Utf8, hex_id),
        Scalar::new("trace_id", text, DataType::Binary, |args| from_hex("trace", 16, args)),
        Scalar::new("span_id", text, DataType::Binary, |args| from_hex("span", 8, args)),
        Scalar::new("ts_nanos", time, nanos, ts_nanos),
    ]
}

/// The bytes of a trace id (32 hex digits) or span id (16), upper or lower case; `None` for any other text.
pub(crate) fn parse_hex_id(text: &str) -> Option<Vec<u8>> {
    matches!(text.len(), 16 | 32).then(|| hex::decode(text).ok()).flatten()
}

fn id(given: &[DataType]) -> Result<Vec<DataType>> {
    match given {
        [given] => Ok(vec![coerce("hex_id", given)?]),
        other => plan_err!("hex_id takes one id, not {} arguments", other.len()),
    }
}

fn text(given: &[DataType]) -> Result<Vec<DataType>> {
    match given {
        [given] if given.is_string() || given.is_null() => Ok(vec![DataType::Utf8]),
        [DataType::Dictionary(_, value)] if value.is_string() => Ok(vec![DataType::Utf8]),
        _ => plan_err!("an id is written as one text of hex digits"),
    }
}

fn time(given: &[DataType]) -> Result<Vec<DataType>> {
    match given {
        [DataType::Timestamp(..) | DataType::Null, rest] if rest.is_integer() || rest.is_null() => Ok(vec![
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Int64,
        ]),
        _ => plan_err!("ts_nanos takes a timestamp and the nanoseconds that go with it: ts_nanos(ts, ts_ns)"),
    }
}

fn hex_id(args: &[ArrayRef]) -> Result<ArrayRef> {
    let ids = Bytes::of(&args[0])?;
    let mut out = StringBuilder::with_capacity(args[0].len(), args[0].len() * 32);
    let mut digits = [0; 64];
    for row in 0..args[0].len() {
        match ids.get(row) {
            None => out.append_null(),
            Some(id) => match digits.get_mut(..id.len() * 2) {
                Some(digits) => {
                    hex::encode_to_slice(id, digits).expect("twice as many digits as bytes");
                    out.append_value(std::str::from_utf8(digits).expect("hex digits are ASCII"));
                }
                None => out.append_value(hex::encode(id)),
            },
        }
    }
    Ok(Arc::new(out.finish()))
}

fn from_hex(what: &str, bytes: usize, args: &[ArrayRef]) -> Result<ArrayRef> {
    let texts = args[0].as_string::<i32>();
    let mut out = BinaryBuilder::with_capacity(texts.len(), texts.len() * bytes);
    for text in texts {
        match text {
            None => out.append_null(),
            Some(text) => match parse_hex_id(text).filter(|id| id.len() == bytes) {
                Some(id) => out.append_value(id),
                None => return exec_err!("a {what} id has {} hex digits", bytes * 2),
            },
        }
    }
    Ok(Arc::new(out.finish()))
}

fn ts_nanos(args: &[ArrayRef]) -> Result<ArrayRef> {
    let (micros, rests) = (
        args[0].as_primitive::<TimestampMicrosecondType>(),
        args[1].as_primitive::<Int64Type>(),
    );
    let mut out = TimestampNanosecondBuilder::with_capacity(micros.len());
    for row in 0..micros.len() {
        if micros.is_null(row) {
            out.append_null();
            continue;
        }
        let rest = if rests.is_valid(row) { rests.value(row) } else { 0 };
        match micros
            .value(row)
            .checked_mul(1000)
            .and_then(|nanos| nanos.checked_add(rest))
        {
            Some(nanos) => out.append_value(nanos),
            None => return exec_err!("a time outside 1677 to 2262 has no nanoseconds"),
        }
    }
    Ok(Arc::new(out.finish().with_timezone("UTC")))
}
