//! Bytes a span: data files, the traces they belong to, and the logs that name them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use tailwater_model::table::Table;
use tailwater_storage::lake::Lake;

use super::duck::Duck;
use super::make::TABLES;

/// Columns that are printed: those above this many bytes a span.
const SHOWN: f64 = 0.05;

/// Prints the figures; `scratch` has room for DuckDB's file.
pub async fn measure(lake: &Lake, directory: &Path, duck: Option<&mut Duck>, scratch: &Path) -> Value {
    let spans = lake.snapshot(Table::Spans).await.unwrap();
    let rows: u64 = spans.files().iter().map(|file| file.rows).sum();
    let a_span = |bytes: u64| bytes as f64 / rows as f64;
    let mut data = BTreeMap::new();
    let mut logs = 0;
    for table in TABLES {
        let snapshot = lake.snapshot(table).await.unwrap();
        let bytes = snapshot.files().iter().map(|file| file.size).sum();
        data.insert(table.name(), a_span(bytes));
        logs += size_of(&directory.join(table.name()).join("_delta_log"));
    }
    let total = data.values().sum::<f64>() + a_span(logs);
    println!("\n{rows} spans in {} files", spans.files().len());
    println!(
        "{total:.2} bytes a span: {:.2} of spans, {:.2} of traces, {:.2} of logs",
        data["spans"],
        data["traces"],
        a_span(logs)
    );

    let mut columns: BTreeMap<String, u64> = BTreeMap::new();
    for file in spans.files() {
        let path = directory.join("spans").join(&*file.path);
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        let (mut chunks, metadata) = (0, reader.metadata());
        for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
            let blooms = column.bloom_filter_length().unwrap_or(0) as u64;
            let bytes = column.compressed_size() as u64;
            *columns.entry(column.column_path().string()).or_default() += bytes;
            *columns.entry("(blooms)".to_owned()).or_default() += blooms;
            chunks += bytes + blooms;
        }
        *columns.entry("(footers and page indexes)".to_owned()).or_default() += file.size - chunks;
    }
    let mut columns: Vec<(String, f64)> = columns.into_iter().map(|(name, bytes)| (name, a_span(bytes))).collect();
    columns.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (name, bytes) in columns.iter().filter(|(_, bytes)| *bytes >= SHOWN) {
        println!("    {bytes:>6.2} {name}");
    }

    let theirs = duck.map(|duck| {
        let path = scratch.join("duck.parquet");
        duck.ask(&format!(
            "copy (select * from spans) to '{}' (format parquet, compression zstd)",
            path.display()
        ));
        let bytes = a_span(std::fs::metadata(&path).unwrap().len());
        std::fs::remove_file(path).unwrap();
        println!(
            "DuckDB's zstd Parquet of the same rows: {bytes:.2} bytes a span; ours / theirs {:.2}",
            data["spans"] / bytes
        );
        bytes
    });
    json!({ "spans": rows, "a_span": total, "data": data, "logs": a_span(logs), "duckdb": theirs, "columns": columns })
}

fn size_of(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(|data| data.is_file())
        .map(|data| data.len())
        .sum()
}
