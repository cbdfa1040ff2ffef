//! Every type in every format.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{Field, Int32Type, Schema};

use super::*;

fn check(array: impl Array + 'static, json: &str, text: &str) {
    let array: ArrayRef = Arc::new(array);
    let (mut as_json, mut as_text) = (String::new(), String::new());
    json_value(&array, 0, &mut as_json);
    text_value(&array, 0, &mut as_text);
    assert_eq!((as_json.as_str(), as_text.as_str()), (json, text));
    serde_json::from_str::<serde_json::Value>(&as_json).unwrap();
}

#[test]
fn scalars() {
    check(
        Int64Array::from(vec![9_007_199_254_740_991]),
        "9007199254740991",
        "9007199254740991",
    );
    check(
        Int64Array::from(vec![9_007_199_254_740_992]),
        "\"9007199254740992\"",
        "9007199254740992",
    );
    check(
        Int64Array::from(vec![i64::MIN]),
        "\"-9223372036854775808\"",
        "-9223372036854775808",
    );
    check(
        UInt64Array::from(vec![u64::MAX]),
        "\"18446744073709551615\"",
        "18446744073709551615",
    );
    check(Int8Array::from(vec![-3]), "-3", "-3");
    check(Float64Array::from(vec![0.5]), "0.5", "0.5");
    check(Float64Array::from(vec![f64::NAN]), "\"NaN\"", "NaN");
    check(Float64Array::from(vec![f64::NEG_INFINITY]), "\"-Infinity\"", "-inf");
    check(Float32Array::from(vec![0.1]), "0.1", "0.1");
    check(BooleanArray::from(vec![true]), "true", "true");
    check(Int64Array::from(vec![None::<i64>]), "null", "");
    check(NullArray::new(1), "null", "");
    check(BinaryArray::from(vec![&[0xab_u8, 0x01][..]]), "\"ab01\"", "ab01");
    check(BinaryViewArray::from(vec![&[0xff_u8][..]]), "\"ff\"", "ff");
    check(
        StringViewArray::from(vec!["a\"\n\u{1}é"]),
        "\"a\\\"\\n\\u0001é\"",
        "a\"\n\u{1}é",
    );
    check(Date32Array::from(vec![20_779]), "\"2026-11-22\"", "2026-11-22");
}

#[test]
fn times_have_the_digits_of_their_unit() {
    let micros = TimestampMicrosecondArray::from(vec![1_795_377_600_123_456]).with_timezone("UTC");
    check(micros, "\"2026-11-22T20:00:00.123456Z\"", "2026-11-22T20:00:00.123456Z");
    let nanos = TimestampNanosecondArray::from(vec![1_795_377_600_123_456_789]);
    check(
        nanos,
        "\"2026-11-22T20:00:00.123456789Z\"",
        "2026-11-22T20:00:00.123456789Z",
    );
}

#[test]
fn nested() {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None])]);
    check(list, "[1,null]", "[1,null]");
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    map.keys().append_value("k\"");
    map.values().append_value(7);
    map.append(true).unwrap();
    check(map.finish(), "{\"k\\\"\":7}", "{\"k\\\"\":7}");
    let dictionary: DictionaryArray<Int32Type> = vec!["word"].into_iter().collect();
    check(dictionary, "\"word\"", "word");
}

fn rows() -> (Schema, RecordBatch) {
    let schema = Schema::new(vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
    ]);
    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a,b"), Some(""), None]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(200), None]));
    (
        schema.clone(),
        RecordBatch::try_new(Arc::new(schema), vec![names, numbers]).unwrap(),
    )
}

#[test]
fn documents() {
    let (schema, rows) = rows();
    let mut json = String::new();
    let mut written = 0;
    json_head(&schema, &mut json);
    json_rows(&rows, &mut written, &mut json);
    json_tail(written, &mut json);
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed["columns"][1]["type"], "BIGINT");
    assert_eq!(parsed["rows"], serde_json::json!([["a,b", 1], ["", 200], [null, null]]));
    assert_eq!(parsed["row_count"], 3);

    let mut csv = String::new();
    csv_head(&schema, &mut csv);
    csv_rows(&rows, &mut csv);
    assert_eq!(csv, "name,n\r\n\"a,b\",1\r\n\"\",200\r\n,\r\n");

    assert_eq!(
        table(&schema, &[rows]),
        "name    n\n----  ---\na,b     1\n      200\n         \n(3 rows)\n"
    );
}

#[test]
fn a_value_cannot_steer_the_terminal() {
    let schema = Schema::new(vec![Field::new("x", DataType::Utf8, true)]);
    let rows: ArrayRef = Arc::new(StringArray::from(vec!["\u{1b}[2J".to_owned() + &"y".repeat(100)]));
    let rows = RecordBatch::try_new(Arc::new(schema.clone()), vec![rows]).unwrap();
    let text = table(&schema, &[rows]);
    assert!(!text.contains('\u{1b}') && text.contains('…'));
}
