//! What the lake holds, and whether that is what the ledger says.
//!
//! [`stats`] answers from the log, and from the files' footers if asked for columns. [`verify`] compares, per tenant and signal, the
//! rows that can be read with the ledger's `stored - expired`, and the ledger's two sides with each other, over one cut of
//! lake and outbox ([`crate::hot`]). Leaves out: printing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tailwater_model::ledger::Account;
use tailwater_model::signal::Signal;
use tailwater_model::table::{Table, schema};

use crate::hot::{HotTable, HotView, hot_view};
use crate::lake::{FileEntry, Lake, Snapshot, Tier};
use crate::maintain::{self, open_data_file};
use crate::outbox::{Outbox, as_schema};
use crate::{Error, ErrorKind, Result};

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStats {
    /// Which.
    pub table: Table,
    /// At this version of the Delta log.
    pub version: u64,
    /// Active files.
    pub files: u64,
    /// Of these, written by commits and not merged yet.
    pub flushed_files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their bytes, on disk.
    pub bytes: u64,
    /// First and last `date`, in days since 1970; `None` if there are no rows.
    pub dates: Option<(i32, i32)>,
    /// Rows that retention has removed so far.
    pub expired: u64,
    /// Largest first; empty unless asked for.
    pub columns: Vec<ColumnSize>,
}

/// What a column takes, over all files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSize {
    /// Top-level column.
    pub name: String,
    /// Bytes on disk.
    pub compressed: u64,
    /// Bytes after decompression, still encoded.
    pub uncompressed: u64,
}

/// What a table holds now. `columns` reads the footer of every file.
///
/// # Errors
/// As [`Lake::snapshot`]; [`ErrorKind::Damaged`] for a footer that cannot be read.
pub async fn stats(lake: &Lake, table: Table, columns: bool) -> Result<TableStats> {
    let snapshot = lake.snapshot(table).await?;
    let files = snapshot.files();
    let dates = files.iter().map(|file| file.date);
    Ok(TableStats {
        table,
        version: snapshot.version,
        files: files.len() as u64,
        flushed_files: files.iter().filter(|file| file.tier == Tier::Flushed).count() as u64,
        rows: files.iter().map(|file| file.rows).sum(),
        bytes: files.iter().map(|file| file.size).sum(),
        dates: dates.clone().min().zip(dates.max()),
        expired: maintain::expired(&snapshot).values().sum(),
        columns: if columns {
            column_sizes(lake, &snapshot).await?
        } else {
            Vec::new()
        },
    })
}

async fn column_sizes(lake: &Lake, snapshot: &Snapshot) -> Result<Vec<ColumnSize>> {
    let mut sizes: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for file in snapshot.files() {
        let opened = open_data_file(lake, snapshot.table, file).await?;
        let path = file.path.clone();
        let metadata = tokio::task::spawn_blocking(move || opened.metadata(&path)).await??;
        for group in metadata.row_groups() {
            for column in group.columns() {
                let name = column.column_path().parts().first().cloned().unwrap_or_default();
                let size = sizes.entry(name).or_default();
                size.0 += u64::try_from(column.compressed_size()).unwrap_or(0);
                size.1 += u64::try_from(column.uncompressed_size()).unwrap_or(0);
            }
        }
    }
    let sizes = sizes.into_iter().map(|(name, (compressed, uncompressed))| ColumnSize {
        name,
        compressed,
        uncompressed,
    });
    let mut sizes: Vec<_> = sizes.collect();
    sizes.sort_by_key(|size| std::cmp::Reverse(size.compressed));
    Ok(sizes)
}

/// How thoroughly [`verify`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Footers, tenants and batch numbers of the tables that hold items: enough to count.
    Counts,
    /// Every byte of every table, too: by the checksum that the log has of a file, or by decoding all of a file of which it has none.
    EveryByte,
}

/// The result of [`verify`].
#[derive(Debug, Clone)]
pub struct Verified {
    /// The last outbox batch that counts; 0 without an outbox and a ledger.
    pub cut: u64,
    /// One line per tenant and signal.
    pub lines: Vec<Line>,
    /// Files that cannot be read, with the reason. Their rows are missing from the counts.
    pub damaged: Vec<(Table, Arc<str>, String)>,
    /// Outbox batches that cannot be read, as ranges.
    pub missing: Vec<(u64, u64)>,
    /// Files looked at, and bytes in them.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
}

/// The account of a tenant's signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Whose.
    pub tenant: String,
    /// Of what.
    pub signal: Signal,
    /// The ledger's items by account; absent is 0.
    pub items: BTreeMap<Account, i64>,
    /// Their protobuf bytes by account; absent is 0.
    pub bytes: BTreeMap<Account, i64>,
    /// Rows that retention has removed.
    pub expired: u64,
    /// Rows that can be read.
    pub readable: u64,
}

impl Verified {
    /// Whether rows and ledger agree everywhere and everything could be read.
    pub fn is_exact(&self) -> bool {
        self.damaged.is_empty() && self.missing.is_empty() && self.lines.iter().all(Line::is_exact)
    }
}

impl Line {
    fn of(&self, account: Account) -> i64 {
        self.items.get(&account).copied().unwrap_or(0)
    }

    /// What was received and has ended nowhere yet: received minus every other account. Negative is an error.
    pub fn in_flight(&self) -> i64 {
        in_flight(&self.items)
    }

    /// The same in bytes. Negative is an error, and so is any while no item is in flight.
    pub fn bytes_in_flight(&self) -> i64 {
        in_flight(&self.bytes)
    }

    /// Whether the ledger's two sides can be right.
    fn is_balanced(&self) -> bool {
        let (items, bytes) = (self.in_flight(), self.bytes_in_flight());
        items >= 0 && bytes >= 0 && (items > 0 || bytes == 0)
    }

    /// Rows that can be read minus `stored - expired`: 0 if exact, negative if rows are missing.
    pub fn surplus(&self) -> i64 {
        self.readable as i64 - (self.of(Account::Stored) - self.expired as i64)
    }

    /// Whether both sides agree.
    pub fn is_exact(&self) -> bool {
        self.is_balanced() && self.surplus() == 0
    }
}

fn in_flight(of: &BTreeMap<Account, i64>) -> i64 {
    let of = |account: Account| of.get(&account).copied().unwrap_or(0);
    of(Account::Received) - Account::ENDS.into_iter().map(of).sum::<i64>()
}

/// The tables that hold the items of a signal, one row an item.
fn tables_of(signal: Signal) -> &'static [Table] {
    match signal {
        Signal::Traces => &[Table::Spans],
        Signal::Logs => &[Table::Logs],
        Signal::Metrics => &[Table::MetricPoints, Table::MetricDists],
    }
}

const COUNTED: [Table; 5] = [
    Table::Ledger,
    Table::Spans,
    Table::Logs,
    Table::MetricPoints,
    Table::MetricDists,
];

/// Compares the ledger with the rows.
///
/// With the outbox, everything up to its last durable batch counts. Without one (`None`), what counts is what every table
/// has: rows with `batch_id` up to the smallest `txn` of `app_prefix`'s tables, lowered to a batch that the ledger was committed at,
/// because ledger rows are sums of a whole commit.
///
/// # Errors
/// As [`hot_view`]. Damaged files are no error but part of the answer.
pub async fn verify(lake: &Lake, outbox: Option<&Outbox>, depth: Depth) -> Result<Verified> {
    let tables: &[Table] = match depth {
        Depth::Counts => &COUNTED,
        Depth::EveryByte => &Table::ALL,
    };
    let view = hot_view(lake, outbox, tables).await?;
    let limit = match outbox {
        Some(_) => None,
        None => Some(cut_of_tables(&view)),
    };
    let mut damaged = Vec::new();
    let (mut looked_at, mut bytes) = (0, 0);
    let mut lines: BTreeMap<(String, Signal), Line> = BTreeMap::new();
    for table in &view.tables {
        let columns: &[&str] = match table.table {
            Table::Ledger => &["tenant", "signal", "account", "items", "bytes", "batch_id"],
            table if COUNTED.contains(&table) => &["tenant", "batch_id"],
            _ => &["tenant"],
        };
        let mut add = |batch: &RecordBatch| match table.table {
            Table::Ledger => add_ledger(batch, limit, &mut lines),
            _ => add_rows(table.table, batch, limit, &mut lines),
        };
        for frame in table.frames.iter() {
            add(&as_schema(&frame.read()?, &schema(table.table))?)?;
        }
        let Some(snapshot) = &table.snapshot else { continue };
        for file in snapshot.files() {
            (looked_at, bytes) = (looked_at + 1, bytes + file.size);
            match read(lake, snapshot, file, columns, depth).await {
                Ok(batches) => batches.iter().try_for_each(&mut add)?,
                Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Store) => {
                    damaged.push((table.table, file.path.clone(), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        let Some(signal) = Signal::ALL
            .into_iter()
            .find(|signal| tables_of(*signal).contains(&table.table))
        else {
            continue;
        };
        for (tenant, rows) in maintain::expired(snapshot) {
            line(&mut lines, &tenant, signal).expired += rows;
        }
    }
    let cut = limit.unwrap_or(view.cut);
    Ok(Verified {
        cut,
        lines: lines.into_values().collect(),
        damaged,
        missing: view.missing,
        files: looked_at,
        bytes,
    })
}

/// The largest batch that every table has reached and at which the ledger was committed.
fn cut_of_tables(view: &HotView) -> u64 {
    let reached = |table: &HotTable| {
        let apps = table
            .snapshot
            .as_ref()?
            .txns()
            .filter(|(app, _)| app.starts_with("collector/"))
            .map(|(_, version)| version);
        apps.min().and_then(|version| u64::try_from(version).ok())
    };
    let counted = view.tables.iter().filter(|table| COUNTED.contains(&table.table));
    let least = counted.filter_map(reached).min().unwrap_or(0);
    let ledger = view
        .tables
        .iter()
        .find(|table| table.table == Table::Ledger)
        .and_then(|table| table.snapshot.as_ref());
    let commits = ledger
        .iter()
        .flat_map(|snapshot| snapshot.files())
        .filter_map(|file| file.int_range("batch_id"));
    // A file of one commit has one batch number. One merged from several has its largest at least.
    let commits = commits
        .flat_map(|(min, max)| [min, max])
        .filter_map(|batch| u64::try_from(batch).ok());
    commits.filter(|batch| *batch <= least).max().unwrap_or(0)
}

fn line<'a>(lines: &'a mut BTreeMap<(String, Signal), Line>, tenant: &str, signal: Signal) -> &'a mut Line {
    lines.entry((tenant.to_owned(), signal)).or_insert_with(|| Line {
        tenant: tenant.to_owned(),
        signal,
        items: BTreeMap::new(),
        bytes: BTreeMap::new(),
        expired: 0,
        readable: 0,
    })
}

fn within(limit: Option<u64>, batch: i64) -> bool {
    limit.is_none_or(|limit| u64::try_from(batch).is_ok_and(|batch| batch <= limit))
}

fn add_ledger(batch: &RecordBatch, limit: Option<u64>, lines: &mut BTreeMap<(String, Signal), Line>) -> Result<()> {
    let text = |name: &str| Ok::<_, Error>(column(batch, name)?.as_string::<i32>());
    let number = |name: &str| Ok::<_, Error>(column(batch, name)?.as_primitive::<Int64Type>());
    let (tenants, signals, accounts) = (text("tenant")?, text("signal")?, text("account")?);
    let (items, bytes, batches) = (number("items")?, number("bytes")?, number("batch_id")?);
    for row in 0..batch.num_rows() {
        if !within(limit, batches.value(row)) {
            continue;
        }
        let unknown = |what: &str| Error::new(ErrorKind::Damaged, format!("the ledger has an unknown {what}"));
        let signal = Signal::ALL
            .into_iter()
            .find(|signal| signal.name() == signals.value(row))
            .ok_or_else(|| unknown("signal"))?;
        let account = Account::from_name(accounts.value(row)).ok_or_else(|| unknown("account"))?;
        let line = line(lines, tenants.value(row), signal);
        *line.items.entry(account).or_default() += items.value(row);
        *line.bytes.entry(account).or_default() += bytes.value(row);
    }
    Ok(())
}

fn add_rows(
    table: Table,
    batch: &RecordBatch,
    limit: Option<u64>,
    lines: &mut BTreeMap<(String, Signal), Line>,
) -> Result<()> {
    let Some(signal) = Signal::ALL
        .into_iter()
        .find(|signal| tables_of(*signal).contains(&table))
    else {
        return Ok(());
    };
    let tenants = column(batch, "tenant")?.as_string::<i32>();
    let batches = column(batch, "batch_id")?.as_primitive::<Int64Type>();
    let mut at = 0;
    // Sorted by tenant: count runs, not rows.
    while at < batch.num_rows() {
        let tenant = tenants.value(at);
        let mut count = 0;
        while at < batch.num_rows() && tenants.value(at) == tenant {
            count += u64::from(within(limit, batches.value(at)));
            at += 1;
        }
        line(lines, tenant, signal).readable += count;
    }
    Ok(())
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a arrow::array::ArrayRef> {
    batch
        .column_by_name(name)
        .ok_or_else(|| Error::new(ErrorKind::Damaged, format!("column {name} is missing")))
}

async fn read(
    lake: &Lake,
    snapshot: &Snapshot,
    file: &Arc<FileEntry>,
    columns: &[&'static str],
    depth: Depth,
) -> Result<Vec<RecordBatch>> {
    let opened = open_data_file(lake, snapshot.table, file).await?;
    let (path, schema, columns, expected) = (file.path.clone(), snapshot.schema.clone(), columns.to_vec(), file.rows);
    let checksum = file.crc32c;
    let batches = tokio::task::spawn_blocking(move || {
        let wanted = match (depth, checksum) {
            (Depth::Counts, _) => Some(columns.as_slice()),
            (Depth::EveryByte, None) => None,
            (Depth::EveryByte, Some(written)) => {
                let found = opened.crc32c()?;
                if found != written {
                    let text = format!("file {path}: CRC-32C {found:08x}, {written:08x} was written");
                    return Err(Error::new(ErrorKind::Damaged, text));
                }
                Some(columns.as_slice())
            }
        };
        let file_schema = maintain::file_schema(&schema);
        let mut batches = Vec::new();
        for batch in opened.rows(&path, &file_schema, wanted)? {
            let batch = batch?;
            let kept: Vec<usize> = columns
                .iter()
                .map(|name| batch.schema().index_of(name))
                .collect::<Result<_, _>>()?;
            batches.push(batch.project(&kept)?);
        }
        Ok::<_, Error>(batches)
    });
    let batches = batches.await??;
    let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    if rows != expected {
        let text = format!("file {} has {rows} rows, the log says {expected}", file.path);
        return Err(Error::new(ErrorKind::Damaged, text));
    }
    Ok(batches)
}

/// The metadata of a Parquet file.
pub(crate) fn parquet_metadata<T: parquet::file::reader::ChunkReader + 'static>(
    file: T,
) -> parquet::errors::Result<Arc<parquet::file::metadata::ParquetMetaData>> {
    Ok(ParquetRecordBatchReaderBuilder::try_new(file)?.metadata().clone())
}

#[cfg(test)]
mod tests;
