//! One value as JSON or text.

use std::fmt::Write;

use arrow::array::{Array, AsArray};
use arrow::datatypes::*;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, SecondsFormat, Utc};

/// Largest integer that every JSON reader keeps.
const SAFE: i64 = (1 << 53) - 1;

/// Appends a value as JSON.
pub fn json_value(array: &dyn Array, row: usize, out: &mut String) {
    if array.is_null(row) {
        return out.push_str("null");
    }
    match array.data_type() {
        DataType::Null => out.push_str("null"),
        DataType::Boolean => out.push_str(if array.as_boolean().value(row) { "true" } else { "false" }),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            text_value(array, row, out);
        }
        DataType::Int64 => {
            let value = array.as_primitive::<Int64Type>().value(row);
            number(value, (-SAFE..=SAFE).contains(&value), out);
        }
        DataType::UInt64 => {
            let value = array.as_primitive::<UInt64Type>().value(row);
            number(value, value <= SAFE as u64, out);
        }
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row), out),
        DataType::Float32 => {
            // Through its own shortest text: widened first, 0.1 would be 0.10000000149011612.
            let value = array.as_primitive::<Float32Type>().value(row);
            if value.is_finite() {
                written(format_args!("{value:?}"), out)
            } else {
                float(value.into(), out)
            }
        }
        DataType::List(_) => list(array.as_list::<i32>().value(row).as_ref(), out),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row).as_ref(), out),
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(row).as_ref(), out),
        DataType::Struct(fields) => {
            let array = array.as_struct();
            out.push('{');
            for (at, field) in fields.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                quote(field.name(), out);
                out.push(':');
                json_value(array.column(at), row, out);
            }
            out.push('}');
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let mut key = String::new();
            out.push('{');
            for at in 0..entries.len() {
                if at > 0 {
                    out.push(',');
                }
                key.clear();
                text_value(keys, at, &mut key);
                quote(&key, out);
                out.push(':');
                json_value(values, at, out);
            }
            out.push('}');
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[row];
            json_value(dictionary.values().as_ref(), key, out);
        }
        _ => {
            let mut text = String::new();
            text_value(array, row, &mut text);
            quote(&text, out);
        }
    }
}

/// Appends a value as bare text; NULL is nothing, nested values are JSON.
pub fn text_value(array: &dyn Array, row: usize, out: &mut String) {
    if array.is_null(row) {
        return;
    }
    match array.data_type() {
        DataType::Utf8 => out.push_str(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => out.push_str(array.as_string::<i64>().value(row)),
        DataType::Utf8View => out.push_str(array.as_string_view().value(row)),
        DataType::Binary => bytes(array.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row), out),
        DataType::BinaryView => bytes(array.as_binary_view().value(row), out),
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(row), out),
        DataType::Int8 => written(array.as_primitive::<Int8Type>().value(row), out),
        DataType::Int16 => written(array.as_primitive::<Int16Type>().value(row), out),
        DataType::Int32 => written(array.as_primitive::<Int32Type>().value(row), out),
        DataType::Int64 => written(array.as_primitive::<Int64Type>().value(row), out),
        DataType::UInt8 => written(array.as_primitive::<UInt8Type>().value(row), out),
        DataType::UInt16 => written(array.as_primitive::<UInt16Type>().value(row), out),
        DataType::UInt32 => written(array.as_primitive::<UInt32Type>().value(row), out),
        DataType::UInt64 => written(array.as_primitive::<UInt64Type>().value(row), out),
        // `{:?}` is the shortest text that reads back the same, with an exponent where digits would fill the line.
        DataType::Float32 => written(
            format_args!("{:?}", array.as_primitive::<Float32Type>().value(row)),
            out,
        ),
        DataType::Float64 => written(
            format_args!("{:?}", array.as_primitive::<Float64Type>().value(row)),
            out,
        ),
        DataType::Timestamp(unit, _) => {
            let value = match unit {
                TimeUnit::Second => array.as_primitive::<TimestampSecondType>().value(row),
                TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row),
                TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row),
                TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(row),
            };
            timestamp(value, *unit, out);
        }
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::Struct(_)
        | DataType::Map(..) => json_value(array, row, out),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            text_value(dictionary.values().as_ref(), dictionary.normalized_keys()[row], out);
        }
        // Dates, times, intervals, decimals: as Arrow writes them.
        _ => match ArrayFormatter::try_new(array, &FormatOptions::new()) {
            Ok(formatter) => written(formatter.value(row), out),
            Err(error) => written(error, out),
        },
    }
}

/// Appends a JSON string.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // U+2028 and U+2029 end a line in JavaScript, DEL upsets terminals.
            char if char < ' ' || matches!(char, '\u{7f}' | '\u{2028}' | '\u{2029}') => {
                written(format_args!("\\u{:04x}", u32::from(char)), out);
            }
            char => out.push(char),
        }
    }
    out.push('"');
}

fn written(value: impl std::fmt::Display, out: &mut String) {
    write!(out, "{value}").expect("writing to a String does not fail");
}

fn number(value: impl std::fmt::Display, safe: bool, out: &mut String) {
    if safe {
        written(value, out)
    } else {
        written(format_args!("\"{value}\""), out)
    }
}

fn float(value: f64, out: &mut String) {
    match serde_json::Number::from_f64(value) {
        Some(number) => written(number, out),
        None if value.is_nan() => out.push_str("\"NaN\""),
        None => out.push_str(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" }),
    }
}

fn bytes(bytes: &[u8], out: &mut String) {
    out.push_str(&hex::encode(bytes));
}

fn list(items: &dyn Array, out: &mut String) {
    out.push('[');
    for at in 0..items.len() {
        if at > 0 {
            out.push(',');
        }
        json_value(items, at, out);
    }
    out.push(']');
}

fn timestamp(value: i64, unit: TimeUnit, out: &mut String) {
    let (time, digits) = match unit {
        TimeUnit::Second => (DateTime::<Utc>::from_timestamp(value, 0), SecondsFormat::Secs),
        TimeUnit::Millisecond => (DateTime::from_timestamp_millis(value), SecondsFormat::Millis),
        TimeUnit::Microsecond => (DateTime::from_timestamp_micros(value), SecondsFormat::Micros),
        TimeUnit::Nanosecond => (Some(DateTime::from_timestamp_nanos(value)), SecondsFormat::Nanos),
    };
    match time {
        Some(time) => out.push_str(&time.to_rfc3339_opts(digits, true)),
        // Beyond the year 262,000: the number says more than nothing.
        None => written(value, out),
    }
}
