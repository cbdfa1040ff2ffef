//! Keeps the columns in `FORMAT.md` as they are in the code.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use tailwater_model::table::{Kind, Table, columns, sort_columns};

use crate::lake::stats_columns;

const BEGIN: &str = "UPDATE_FORMAT=1 rewrites it -->\n";
const END: &str = "<!-- end of the generated part -->";

fn delta_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Date => "DATE",
        Kind::Ts => "TIMESTAMP",
        Kind::Text | Kind::Word => "STRING",
        Kind::Bytes => "BINARY",
        Kind::Bool => "BOOLEAN",
        Kind::I8 => "BYTE",
        Kind::I16 => "SHORT",
        Kind::I32 => "INTEGER",
        Kind::I64 => "LONG",
        Kind::F64 => "DOUBLE",
        Kind::MapWord => "MAP<STRING, STRING>",
        Kind::MapI64 => "MAP<STRING, LONG>",
        Kind::MapF64 => "MAP<STRING, DOUBLE>",
        Kind::MapBool => "MAP<STRING, BOOLEAN>",
        Kind::ListWord => "ARRAY<STRING>",
        Kind::ListI64 => "ARRAY<LONG>",
        Kind::ListF64 => "ARRAY<DOUBLE>",
        Kind::Events => {
            "ARRAY<STRUCT<ts TIMESTAMP, ts_ns SHORT, name STRING, attrs MAP<STRING, STRING>, dropped INTEGER>>"
        }
        Kind::Links => {
            "ARRAY<STRUCT<trace_id BINARY, span_id BINARY, trace_state STRING, flags INTEGER, attrs MAP<STRING, STRING>, dropped INTEGER>>"
        }
        Kind::Exemplars => {
            "ARRAY<STRUCT<ts TIMESTAMP, ts_ns SHORT, value DOUBLE, trace_id BINARY, span_id BINARY, attrs MAP<STRING, STRING>>>"
        }
        Kind::Quantiles => "ARRAY<STRUCT<q DOUBLE, v DOUBLE>>",
        Kind::Registers => "ARRAY<STRUCT<threshold_ns LONG, le_count LONG>>",
    }
}

fn generated() -> String {
    let mut out = String::new();
    for table in Table::ALL {
        let join = |names: &[&str]| {
            names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        writeln!(out, "\n### {}\n", table.name()).unwrap();
        writeln!(
            out,
            "Sorted by {}. Bounds in the log: {}.\n",
            join(sort_columns(table)),
            join(&stats_columns(table))
        )
        .unwrap();
        writeln!(out, "| column | type | unit | |\n|---|---|---|---|").unwrap();
        for column in columns(table) {
            let null = if column.required { " NOT NULL" } else { "" };
            let doc = column.doc.replace('|', "\\|");
            writeln!(
                out,
                "| `{}` | {}{null} | {} | {doc} |",
                column.name,
                delta_type(column.kind),
                column.unit
            )
            .unwrap();
        }
    }
    out.push('\n');
    out
}

#[test]
fn format_md_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/FORMAT.md");
    let text = std::fs::read_to_string(path).unwrap();
    let begin = text.find(BEGIN).unwrap() + BEGIN.len();
    let end = text.find(END).unwrap();
    let fresh = format!("{}{}{}", &text[..begin], generated(), &text[end..]);
    if std::env::var_os("UPDATE_FORMAT").is_some() {
        std::fs::write(path, &fresh).unwrap();
    }
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text == fresh,
        "storage/FORMAT.md is stale: run UPDATE_FORMAT=1 cargo test -p tailwater-storage format_md"
    );
}
