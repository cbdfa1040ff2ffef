//! How a table lies on disk: properties of the Delta table, encodings of the Parquet files. Measured in
//! `design/storage-query.md` section b.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use chrono::{Days, NaiveDate};
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::file::metadata::{ParquetMetaData, SortingColumn};
use parquet::file::properties::{BloomFilterPosition, EnabledStatistics, WriterProperties};
use parquet::schema::types::SchemaDescriptor;
use tailwater_model::table::{Table, sort_columns, time_column};

use super::data_file::Tier;

/// Rows a row group of a flushed file holds at most.
const ROW_GROUP_ROWS: usize = 262_144;
/// The same of a merged file: all of it, mostly. Sorted by service, each group meets most traces of the file, and tells their ids again:
/// with groups of a million rows they took 3 bytes a span, with one they take 2.
const MERGED_GROUP_ROWS: usize = 1 << 22;
/// Bytes a row group holds at most.
pub(crate) const ROW_GROUP_BYTES: usize = 128 << 20;
/// Rows a data page holds at most: the unit that the page index lets a reader skip.
pub(super) const PAGE_ROWS: usize = 16_384;
/// The same of a merged file, for columns that say little: a page of one word costs its 40 bytes of header and index, not its values.
const MERGED_PAGE_ROWS: usize = 65_536;
/// Bytes of a page inside a map or list, in a merged file: some thousands of rows. To find one of them a reader counts through all before it,
/// entry by entry.
const NESTED_PAGE_BYTES: usize = 8 << 10;
/// Bytes of a page of histograms in merged files: some 300 of them, where a question takes those of an operation.
const SKETCH_PAGE_BYTES: usize = 16 << 10;
/// Room for the dictionary of the values of a map.
const VALUE_DICTIONARY_BYTES: usize = 64 << 10;
/// Room for the dictionary of addresses: those of some ten thousand pods.
const ADDRESS_DICTIONARY_BYTES: usize = 1 << 20;
/// Room for the dictionary of trace ids: at 16 bytes an id, 262,144 distinct ones.
const TRACE_DICTIONARY_BYTES: usize = 4 << 20;

/// A leaf of less than a byte in so many rows is thin.
const ROWS_A_THIN_BYTE: i64 = 128;

/// How long a checkpoint names the files that were removed. A file it does not name any more is unlinked by its own age, which may be
/// greater: [`crate::maintain::Policy::vacuum_after_ms`] is no longer than this.
pub const REMOVED_KEPT_DAYS: u64 = 2;

/// Properties of every table.
///
/// Never `delta.setTransactionRetentionDuration`: a forgotten `txn` would let a collector store its outbox twice (rule P6).
/// Log clean-up on the commit path is off because it lists the whole log; `maintain` does it. Removed files stay in the log for
/// [`REMOVED_KEPT_DAYS`], so that our vacuum, which comes no later, knows them all, and another engine's vacuum hurts no running query.
pub(super) fn properties(table: Table) -> [(&'static str, String); 4] {
    [
        ("delta.dataSkippingStatsColumns", stats_columns(table).join(",")),
        ("delta.logRetentionDuration", "interval 6 hours".to_owned()),
        ("delta.enableExpiredLogCleanup", "false".to_owned()),
        (
            "delta.deletedFileRetentionDuration",
            format!("interval {REMOVED_KEPT_DAYS} days"),
        ),
    ]
}

/// The columns that the Delta log has bounds of: what prunes whole files.
pub fn stats_columns(table: Table) -> Vec<&'static str> {
    let mut columns = vec!["tenant", time_column(table)];
    columns.extend(match table {
        Table::Spans => &["service_name", "name"][..],
        Table::Traces => &["ts_max"],
        Table::Logs => &["service_name", "severity_number"],
        Table::MetricPoints | Table::MetricDists => &["service_name", "metric_name"],
        Table::MetricSeries => &["metric_name"],
        Table::Ledger => &["signal", "account"],
        Table::SamplingTicks => &["stratum"],
        // By the width of its slices a file says whether it is to be folded.
        Table::Red | Table::Red15m | Table::Red1h => &["service_name", "operation", "slice_s"],
        Table::Edges => &["client_service", "server_service", "slice_s"],
    });
    columns.push("batch_id");
    columns
}

/// Leaves of which the files with these footers hold so few bytes that compressing them saves nothing worth its time: words that are the same for long.
/// Of a file with a hundred columns most are such, and each that is compressed costs a reader of a few rows two zstd contexts.
pub(super) fn thin(sources: &[Arc<ParquetMetaData>]) -> HashSet<String> {
    let mut bytes: HashMap<String, i64> = HashMap::new();
    let mut rows = 0;
    for group in sources.iter().flat_map(|source| source.row_groups()) {
        rows += group.num_rows();
        for chunk in group.columns() {
            *bytes.entry(chunk.column_path().string()).or_default() += chunk.uncompressed_size();
        }
    }
    bytes.retain(|_, bytes| *bytes * ROWS_A_THIN_BYTE < rows);
    bytes.into_keys().collect()
}

/// Parquet properties for files of `table`; of the columns, those that are `thin` are not compressed.
pub(super) fn writer_properties(
    table: Table,
    tier: Tier,
    columns: &SchemaDescriptor,
    thin: &HashSet<String>,
    group_bytes: usize,
) -> WriterProperties {
    let level = ZstdLevel::try_new(zstd_level(tier)).expect("1 and 3 are zstd levels");
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(match tier {
            Tier::Flushed => ROW_GROUP_ROWS,
            Tier::Merged => MERGED_GROUP_ROWS,
        }))
        .set_max_row_group_bytes(Some(group_bytes))
        .set_data_page_row_count_limit(match tier {
            Tier::Flushed => PAGE_ROWS,
            Tier::Merged => merged_page_rows(table),
        })
        // After so many rows a page that is large enough may end.
        .set_write_batch_size(if counts_requests(table) { 256 } else { 1024 })
        .set_bloom_filter_position(BloomFilterPosition::End)
        .set_created_by(concat!("tailwater ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_sorting_columns(sorting(table, columns));
    for column in columns.columns() {
        let path = column.path().clone();
        let parts = path.parts();
        if is_read_by_the_few(table, tier, &parts[0])
            || has_no_pattern(tier, &parts[0])
            || thin.contains(&path.string())
        {
            properties = properties.set_column_compression(path.clone(), Compression::UNCOMPRESSED);
        }
        if parts.len() > 1 {
            // Nothing prunes by a value inside a map or list. What is asked of a file that stays is whether there is any.
            let statistics = match tier {
                Tier::Flushed => EnabledStatistics::None,
                Tier::Merged => EnabledStatistics::Chunk,
            };
            properties = properties.set_column_statistics_enabled(path.clone(), statistics);
            if tier == Tier::Merged {
                properties = properties.set_column_data_page_size_limit(path.clone(), NESTED_PAGE_BYTES);
            }
            if column.physical_type() == Type::BYTE_ARRAY && parts.last().is_some_and(|part| part == "value") {
                // Session ids and addresses, if there are any, fill a dictionary soon. Then it costs more than it saves: 22
                // bytes a span instead of 13.
                properties = properties
                    .set_column_dictionary_page_size_limit(path.clone(), VALUE_DICTIONARY_BYTES)
                    .set_column_encoding(path, Encoding::DELTA_LENGTH_BYTE_ARRAY);
            }
            continue;
        }
        if tier == Tier::Merged
            && let Some(bytes) = page_bytes(&parts[0])
        {
            properties = properties.set_column_data_page_size_limit(path.clone(), bytes);
        }
        match parts[0].as_str() {
            // Hours, quarters or minutes of one day: an entry of a dictionary is shorter than the difference of two.
            "ts" if tier == Tier::Merged && counts_requests(table) => {}
            // Rising or bounded numbers: differences pack better than dictionaries of near-unique values.
            // What is left of the nanoseconds is one of a thousand values: 10 bits each, 11 as a difference.
            "ts_ns" | "observed_ts_ns" | "start_ts_ns" if tier == Tier::Merged => {}
            "ts" | "ts_ns" | "ts_min" | "ts_max" | "duration_ns" | "observed_ts" | "observed_ts_ns" | "start_ts"
            | "start_ts_ns" | "first_ts" | "series_id" | "count" | "zero_count" => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            "trace_id" => {
                // Sorted by service, the spans of a trace lie apart but in one row group: 3.9 bytes a span instead of 11.
                // In `traces` every id is new, and they are in order: only there do bounds say anything.
                let repeats = table != Table::Traces;
                if repeats {
                    properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
                }
                if !repeats && tier == Tier::Merged {
                    // Neighbours begin alike: 14 bytes instead of 17.
                    properties = properties.set_column_encoding(path.clone(), Encoding::DELTA_BYTE_ARRAY);
                }
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), repeats)
                    .set_column_dictionary_page_size_limit(path.clone(), TRACE_DICTIONARY_BYTES);
                // In order, bounds of pages say all that a bloom would.
                if repeats || tier == Tier::Flushed {
                    properties = properties
                        .set_column_bloom_filter_enabled(path.clone(), true)
                        .set_column_bloom_filter_fpp(path.clone(), 0.01)
                        // Folded down to the ids that are there when the file is written.
                        .set_column_bloom_filter_max_ndv(path, MERGED_GROUP_ROWS as u64);
                }
            }
            "span_id" => {
                // Their lengths apart: 8 bytes a span instead of 12.
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
            "parent_span_id" => {
                // Siblings share one, and what little that saves zstd finds.
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
            // In order of ids neighbours have nothing in common, but a request brings several traces: 2.7 bytes a trace as a number of a dictionary, 4.4 as
            // a difference.
            "ingest_ts" if tier == Tier::Merged && table == Table::Traces => {
                properties = properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            // Neighbours mostly came in one request: zstd finds their times again, 1.2 bytes a span instead of 1.5.
            "ingest_ts" if tier == Tier::Merged => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::PLAIN);
            }
            // Any of 28,000 or so ephemeral ports: 15 or 16 bits as a number of a dictionary, 17 as a difference.
            "network_peer_port" if tier == Tier::Merged => {}
            "network_peer_port" => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            "session_id" | "user_id" | "network_peer_address" => {
                // A dictionary where they repeat. It is given up where they do not. Then addresses begin with something in common, which
                // is told once. Ids of sessions have nothing in common, and a search for it costs 2 % of them. Users such as
                // `user-0123456` are a word and digits: below level 13 zstd takes chance repeats of digits for something to
                // save on and needs 3.3 bytes, from there on it weighs them and needs 2.7.
                let (encoding, level) = match parts[0].as_str() {
                    "session_id" => (Encoding::DELTA_LENGTH_BYTE_ARRAY, 1),
                    "user_id" if tier == Tier::Merged => (Encoding::DELTA_LENGTH_BYTE_ARRAY, 13),
                    _ => (Encoding::DELTA_BYTE_ARRAY, zstd_level(tier)),
                };
                let level = ZstdLevel::try_new(level).expect("1, 3 and 13 are zstd levels");
                properties = properties
                    .set_column_dictionary_page_size_limit(
                        path.clone(),
                        match parts[0].as_str() {
                            "network_peer_address" => ADDRESS_DICTIONARY_BYTES,
                            _ => VALUE_DICTIONARY_BYTES,
                        },
                    )
                    .set_column_encoding(path.clone(), encoding)
                    .set_column_compression(path.clone(), Compression::ZSTD(level))
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
            // Hardly two are equal, and a reader of a few unpacks all of a dictionary.
            name if tier == Tier::Merged && counts_requests(table) && name.ends_with("exphist") => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_data_page_size_limit(path.clone(), SKETCH_PAGE_BYTES)
                    .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
            name if tier == Tier::Merged && counts_requests(table) && name.ends_with("_ns") => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            "ingest_ts" | "batch_id" => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            "body" | "body_json" => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
            _ => {}
        }
    }
    properties.build()
}

/// Bytes of a page, encoded, of the columns that are most of a file: a trace has a row or two in each of some fifty runs of a service and name, and
/// reading it unpacks a page of each column for each. About 4,096 rows, fewer where unpacking takes longest and smaller pages cost little.
fn page_bytes(column: &str) -> Option<usize> {
    let (rows, row_bits) = match column {
        "ts" | "ts_ns" | "observed_ts" | "observed_ts_ns" => (4096, 12),
        "network_peer_address" | "network_peer_port" => (4096, 16),
        "duration_ns" => (4096, 24),
        "span_id" | "ingest_ts" => (4096, 64),
        "user_id" => (4096, 128),
        "parent_span_id" => (2048, 64),
        "session_id" => (2048, 128),
        // Neighbours are of one time, and so of traces whose numbers in the dictionary begin alike: smaller pages are even smaller in all.
        "trace_id" => (1024, 16),
        _ => return None,
    };
    Some(rows * row_bits / 8)
}

/// Rows of a page in merged files, at most. A question of requests is about an operation or two, whose neighbouring rows of a day are a thousand minutes, a
/// hundred quarters or some twenty hours; what it reads is the pages that these are in.
fn merged_page_rows(table: Table) -> usize {
    match table {
        Table::Red | Table::Edges => 2048,
        Table::Red15m => 1024,
        Table::Red1h => 512,
        _ => MERGED_PAGE_ROWS,
    }
}

/// Whether a column is small in a file of which a question takes a few rows, and a question takes a file a day. A compressed chunk costs its reader two
/// zstd contexts, 50 to 100 us and 200 KiB, for some KiB less on the disk.
fn is_read_by_the_few(table: Table, tier: Tier, column: &str) -> bool {
    match table {
        Table::Ledger => column == "ts",
        _ if counts_requests(table) && tier == Tier::Merged => {
            !(column.ends_with("exphist") || column.ends_with("_ns") || column.starts_with("exemplar"))
        }
        _ => false,
    }
}

/// Whether no two rows of a column are alike for a reason: ids, what is left of nanoseconds, the bits of differences. Nothing compresses them, and trying costs time
/// on every read.
fn has_no_pattern(tier: Tier, column: &str) -> bool {
    match column {
        "span_id" => true,
        "duration_ns" | "ts_ns" | "observed_ts_ns" | "start_ts_ns" => tier == Tier::Merged,
        _ => false,
    }
}

fn counts_requests(table: Table) -> bool {
    matches!(table, Table::Red | Table::Red15m | Table::Red1h | Table::Edges)
}

/// Level of zstd for files of this tier. Freshly flushed files are compressed lightly: they live for minutes.
pub(super) fn zstd_level(tier: Tier) -> i32 {
    match tier {
        Tier::Flushed => 1,
        Tier::Merged => 3,
    }
}

/// Rows of a row group of such rows: few where they are large.
pub(super) fn group_rows(batches: &[RecordBatch]) -> usize {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    // Not what arrays hold on to: those of a frame hold on to all of it.
    let size = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    let bytes: usize = batches.iter().flat_map(|batch| batch.columns().iter().map(size)).sum();
    (ROW_GROUP_BYTES / (bytes / rows.max(1)).max(1)).clamp(1, ROW_GROUP_ROWS)
}

/// The sort order as Parquet states it: the longest prefix of the table's order that the file has as plain columns.
fn sorting(table: Table, columns: &SchemaDescriptor) -> Option<Vec<SortingColumn>> {
    let place = |name: &&str| {
        (0..columns.num_columns()).find(|index| columns.column(*index).path().parts() == [name.to_string()])
    };
    let sorting: Vec<SortingColumn> = (sort_columns(table).iter().map_while(place))
        .map(|index| SortingColumn {
            column_idx: index as i32,
            descending: false,
            nulls_first: true,
        })
        .collect();
    (!sorting.is_empty()).then_some(sorting)
}

/// `2026-11-22` of days since 1970.
pub(crate) fn format_date(days: i32) -> Option<String> {
    let epoch = NaiveDate::default();
    let date = match u64::try_from(days) {
        Ok(days) => epoch.checked_add_days(Days::new(days))?,
        Err(_) => epoch.checked_sub_days(Days::new(u64::from(days.unsigned_abs())))?,
    };
    Some(date.format("%Y-%m-%d").to_string())
}

/// Days since 1970 of `2026-11-22`.
pub(super) fn parse_date(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::StringArray;
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::ParquetMetaDataReader;

    use super::*;

    #[test]
    fn dates_go_there_and_back() {
        for days in [-1, 0, 1, 20_779, -700_000] {
            assert_eq!(parse_date(&format_date(days).unwrap()), Some(days));
        }
        assert_eq!(format_date(0).unwrap(), "1970-01-01");
        assert_eq!(parse_date("2026-13-01"), None);
    }

    #[test]
    fn words_that_say_next_to_nothing_are_thin() {
        let rows = 4096;
        let column =
            |words: &dyn Fn(usize) -> String| Arc::new(StringArray::from_iter_values((0..rows).map(words))) as ArrayRef;
        let rows = RecordBatch::try_from_iter([
            ("same", column(&|_| "GET".into())),
            ("runs", column(&|row| format!("service {}", row / 1024))),
            ("mixed", column(&|row| format!("{}", row * 7919 % 16))),
        ])
        .unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
        for _ in 0..8 {
            writer.write(&rows).unwrap();
        }
        let bytes = bytes::Bytes::from(writer.into_inner().unwrap());
        let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes).unwrap();
        let found = thin(&[Arc::new(footer)]);
        let mut found: Vec<_> = found.iter().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, ["runs", "same"]);
        assert!(thin(&[]).is_empty());
    }
}
