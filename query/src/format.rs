//! Answers as text: JSON, CSV, and a table for terminals. The command line and HTTP both use this.
//!
//! How values are written (the same everywhere, except that CSV and tables show a bare text without quotes):
//!
//! | SQL | JSON |
//! |---|---|
//! | integers | number; a string beyond +-(2^53 - 1), where many readers would round |
//! | DOUBLE | number; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | BINARY (ids, sketches) | lower-case hex |
//! | TIMESTAMP | RFC 3339 in UTC with the digits of its unit: `2026-11-22T20:00:00.123456Z` |
//! | DATE | `2026-11-22` |
//! | MAP, STRUCT | object; ARRAY: array |
//! | NULL | `null`; nothing in CSV; nothing in a table |
//!
//! CSV cells are written as they are, so a text that begins with `=`, `+`, `-` or `@` is a formula to a spreadsheet: import it as text.
//!
//! JSON document: `{"columns":[{"name":"...","type":"..."}],"rows":[[...],...],"row_count":n}`. Rows are arrays, because two columns
//! of an answer may have the same name.

mod value;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, TimeUnit};

pub use value::{json_value, text_value};

/// Widest column of a table, in characters; longer values are cut.
const TABLE_COLUMN_MAX: usize = 60;

/// The SQL name of a column's type, as answers and `/api/v1/tables` show it.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => "BIGINT UNSIGNED".into(),
        DataType::Float16 | DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "BINARY".into()
        }
        DataType::Date32 | DataType::Date64 => "DATE".into(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => "TIMESTAMP(9)".into(),
        DataType::Timestamp(..) => "TIMESTAMP".into(),
        DataType::Dictionary(_, value) => type_name(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            format!("ARRAY<{}>", type_name(item.data_type()))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!(
                    "MAP<{}, {}>",
                    type_name(fields[0].data_type()),
                    type_name(fields[1].data_type())
                )
            }
            other => format!("MAP<{}>", type_name(other)),
        },
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|field| format!("{} {}", field.name(), type_name(field.data_type())))
                .collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        other => other.to_string().to_uppercase(),
    }
}

/// Begins the JSON document.
pub fn json_head(schema: &Schema, out: &mut String) {
    out.push_str("{\"columns\":[");
    for (at, field) in schema.fields().iter().enumerate() {
        out.push_str(if at > 0 { ",{\"name\":" } else { "{\"name\":" });
        value::quote(field.name(), out);
        out.push_str(",\"type\":");
        value::quote(&type_name(field.data_type()), out);
        out.push('}');
    }
    out.push_str("],\"rows\":[");
}

/// Continues it. `written` counts the rows so far.
pub fn json_rows(rows: &RecordBatch, written: &mut usize, out: &mut String) {
    for row in 0..rows.num_rows() {
        out.push_str(if *written > 0 { ",\n[" } else { "\n[" });
        for (at, column) in rows.columns().iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            json_value(column, row, out);
        }
        out.push(']');
        *written += 1;
    }
}

/// Ends it.
pub fn json_tail(written: usize, out: &mut String) {
    out.push_str(&format!("],\"row_count\":{written}}}\n"));
}

/// The header line of CSV (RFC 4180).
pub fn csv_head(schema: &Schema, out: &mut String) {
    for (at, field) in schema.fields().iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        csv_cell(field.name(), out);
    }
    out.push_str("\r\n");
}

/// Rows of CSV. NULL is an empty cell, an empty text is `""`.
pub fn csv_rows(rows: &RecordBatch, out: &mut String) {
    let mut cell = String::new();
    for row in 0..rows.num_rows() {
        for (at, column) in rows.columns().iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            if column.is_null(row) {
                continue;
            }
            cell.clear();
            text_value(column, row, &mut cell);
            csv_cell(&cell, out);
        }
        out.push_str("\r\n");
    }
}

fn csv_cell(text: &str, out: &mut String) {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for char in text.chars() {
        if char == '"' {
            out.push('"');
        }
        out.push(char);
    }
    out.push('"');
}

/// A table for people, numbers to the right. Ends with a line that counts the rows.
pub fn table(schema: &Schema, batches: &[RecordBatch]) -> String {
    let columns = schema.fields().len();
    let mut lines: Vec<Vec<String>> = Vec::new();
    for rows in batches {
        for row in 0..rows.num_rows() {
            let cells = rows.columns().iter().map(|column| {
                let mut cell = String::new();
                if !column.is_null(row) {
                    text_value(column, row, &mut cell);
                }
                fitted(&cell)
            });
            lines.push(cells.collect());
        }
    }
    let head: Vec<String> = schema.fields().iter().map(|field| fitted(field.name())).collect();
    let mut widths: Vec<usize> = head.iter().map(|name| name.chars().count()).collect();
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let right: Vec<bool> = schema
        .fields()
        .iter()
        .map(|field| field.data_type().is_numeric())
        .collect();
    let mut out = String::new();
    let mut write = |cells: &[String]| {
        for at in 0..columns {
            let gap = widths[at] - cells[at].chars().count();
            let (before, after) = if right[at] { (gap, 0) } else { (0, gap) };
            out.push_str(if at > 0 { "  " } else { "" });
            out.extend(std::iter::repeat_n(' ', before));
            out.push_str(&cells[at]);
            if at + 1 < columns {
                out.extend(std::iter::repeat_n(' ', after));
            }
        }
        out.push('\n');
    };
    write(&head);
    write(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
    lines.iter().for_each(|line| write(line));
    let rows = lines.len();
    out.push_str(&format!("({rows} {})\n", if rows == 1 { "row" } else { "rows" }));
    out
}

/// One line, no control characters (data must not steer a terminal), cut to the widest a column may be.
fn fitted(text: &str) -> String {
    let mut fitted: String = text
        .chars()
        .take(TABLE_COLUMN_MAX)
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    if text.chars().count() > TABLE_COLUMN_MAX {
        fitted.pop();
        fitted.push('…');
    }
    fitted
}

#[cfg(test)]
mod tests;
