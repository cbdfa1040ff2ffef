//! Finding a trace in time before looking for it by id.
//!
//! Ids are random, so no page of `spans` can be left out by them, and blooms leave out row groups at best. But `traces` is sorted by id:
//! a page or two of each of its files say when the trace began and ended, and times do choose files and, within the runs of one service and name, pages.
//!
//! Guarantees: a window holds every span of the trace. Why: each batch of spans carries the part of `traces` that covers them, and
//! both tables are read at the same cut; so what `traces` does not know is nowhere. Where `traces` may have lost parts that `spans` still has (it does not go back as far), there is no window.
//! A window may be wider, by another tenant's trace of the same id in the same file.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryViewArray, BooleanArray, RecordBatch, Scalar};
use arrow::compute::kernels::cmp;
use arrow::compute::{cast, filter_record_batch, max, min};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::catalog::Session;
use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::logical_expr::{Expr, Operator, col};
use datafusion::physical_plan::collect;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, RowFilter, RowSelection,
};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::data_type::ByteArray;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use tailwater_model::table::Table;
use tailwater_storage::lake::FileEntry;

use super::files::{self, FOOTER_BYTES};
use super::hot::HotExec;
use super::{LakeTable, prune};

/// Files of `traces` that are read at the same time.
const FILES_AT_ONCE: usize = 8;

/// What is asked of `traces`, of the rows of one id.
const BOUNDS: [&str; 2] = ["ts_min", "ts_max"];

/// The id of the one trace that filters ask for.
pub(super) fn wanted_trace(filters: &[Expr]) -> Option<&[u8]> {
    let is_trace = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == "trace_id");
    let value = filters.iter().find_map(|filter| match filter {
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq => match (&*binary.left, &*binary.right) {
            (left, Expr::Literal(value, _)) if is_trace(left) => Some(value),
            (Expr::Literal(value, _), right) if is_trace(right) => Some(value),
            _ => None,
        },
        _ => None,
    })?;
    match value {
        ScalarValue::Binary(id) | ScalarValue::BinaryView(id) | ScalarValue::LargeBinary(id) => id.as_deref(),
        _ => None,
    }
}

/// Whether `traces` goes back as far as these files of `spans`.
pub(super) fn covers(traces: &LakeTable, spans: &[Arc<FileEntry>]) -> bool {
    let first = |files: &[Arc<FileEntry>]| files.iter().map(|file| file.date).min();
    let Some(snapshot) = &traces.snapshot else { return false };
    match (first(snapshot.files()), first(spans)) {
        (Some(traces), Some(spans)) => traces <= spans,
        _ => false,
    }
}

/// When a trace was.
pub(super) enum Window {
    /// All of it.
    Within(Times),
    /// There is no such trace.
    Nowhere,
}

/// The first and the last time of `ts`, us since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub first: i64,
    pub last: i64,
}

impl Times {
    /// What all rows within pass.
    pub(super) fn filter(self) -> Expr {
        let literal = |time| Expr::Literal(ScalarValue::TimestampMicrosecond(Some(time), Some("UTC".into())), None);
        col("ts").between(literal(self.first), literal(self.last))
    }

    /// The rows of a file on pages that may hold such times; `None` where its footer tells nothing of the times of pages.
    ///
    /// A reader that is told the pages need not unpack the times of all their rows to find the few of one id, as it would for a filter.
    pub(super) fn pages(self, footer: &ParquetMetaData) -> Option<RowSelection> {
        pages(footer, "ts", |bounds, page| {
            let ColumnIndexMetaData::INT64(bounds) = bounds else {
                return None;
            };
            let bounds = (bounds.min_value(page), bounds.max_value(page));
            Some(may_meet(bounds, &self.first, &self.last))
        })
    }

    /// From the first to the last of both.
    fn and(self, other: Times) -> Times {
        Times {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }
}

/// Whether a page with these bounds, so far as they are known, may hold a value from `first` to `last`.
fn may_meet<T: Ord + ?Sized>((least, most): (Option<&T>, Option<&T>), first: &T, last: &T) -> bool {
    least.is_none_or(|least| least <= last) && most.is_none_or(|most| most >= first)
}

/// The rows of a file on pages of a column that may hold what is looked for, as bounds of the page tell; `None` where nothing is known of bounds.
fn pages(
    footer: &ParquetMetaData,
    column: &str,
    may_hold: impl Fn(&ColumnIndexMetaData, usize) -> Option<bool>,
) -> Option<RowSelection> {
    let leaf = files::leaf(footer.file_metadata().schema_descr(), column)?;
    let (bounds, places) = (footer.column_index()?, footer.offset_index()?);
    let mut ranges = Vec::new();
    let mut start = 0;
    for (at, group) in footer.row_groups().iter().enumerate() {
        let rows = group.num_rows() as usize;
        let bounds = bounds.get(at)?.get(leaf)?;
        let pages = places.get(at)?.get(leaf)?.page_locations();
        for (page, place) in pages.iter().enumerate() {
            if may_hold(bounds, page)? {
                let end = pages.get(page + 1).map_or(rows, |next| next.first_row_index as usize);
                ranges.push(start + place.first_row_index as usize..start + end);
            }
        }
        start += rows;
    }
    Some(RowSelection::from_consecutive_ranges(ranges.into_iter(), start))
}

/// Asks `traces`, which must cover the spans. Not by a query: planning one and its turns between threads would take longer than reading
/// the spans of a small trace.
pub(super) async fn of_trace(traces: &LakeTable, id: &[u8], state: &dyn Session) -> Result<Window> {
    let mut files = traces
        .snapshot
        .as_ref()
        .map_or_else(Vec::new, |snapshot| snapshot.files().to_vec());
    let mixed = traces.split(&mut files);
    files.extend(mixed);
    let readers = files::readers(state, Table::Traces)?;
    let reading = stream::iter(files).map(|file| in_file(&readers, file, id));
    let mut found: Vec<_> = reading.buffer_unordered(FILES_AT_ONCE).try_collect().await?;
    found.push(in_frames(traces, id, state).await?);
    Ok(match found.into_iter().flatten().reduce(Times::and) {
        Some(times) => Window::Within(times),
        None => Window::Nowhere,
    })
}

/// When this trace was as far as one file of `traces` knows. Of the pages that may hold it by their bounds, and not where blooms say no.
async fn in_file(
    readers: &Arc<dyn ParquetFileReaderFactory>,
    file: Arc<FileEntry>,
    id: &[u8],
) -> Result<Option<Times>> {
    let file = files::bare(&file);
    let footer = files::footer(readers, &file).await?;
    let selected = pages(&footer, "trace_id", |bounds, page| {
        let ColumnIndexMetaData::BYTE_ARRAY(bounds) = bounds else {
            return None;
        };
        Some(may_meet((bounds.min_value(page), bounds.max_value(page)), id, id))
    });
    if selected.as_ref().is_some_and(|selected| !selected.selects_any()) {
        return Ok(None);
    }
    let reader: Box<dyn AsyncFileReader> =
        readers.create_reader(0, file, Some(FOOTER_BYTES), &ExecutionPlanMetricsSet::new())?;
    let metadata = ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new())?;
    let mut reading = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata);
    if !blooms_may_hold(&mut reading, id).await? {
        return Ok(None);
    }
    let rows = rows_of(id, reading, selected)?;
    of_rows(&rows.try_collect::<Vec<_>>().await?)
}

/// A file opened for its rows.
type Reading = ParquetRecordBatchStreamBuilder<Box<dyn AsyncFileReader>>;

/// Whether a file may hold this id as far as its blooms know.
async fn blooms_may_hold(reading: &mut Reading, id: &[u8]) -> Result<bool> {
    let Some(leaf) = files::leaf(reading.parquet_schema(), "trace_id") else {
        return Ok(true);
    };
    let id = ByteArray::from(id.to_vec());
    for group in 0..reading.metadata().num_row_groups() {
        match reading.get_row_group_column_bloom_filter(group, leaf).await? {
            Some(bloom) if !bloom.check(&id) => {}
            _ => return Ok(true),
        }
    }
    Ok(false)
}

/// The times of this id's rows, of those selected.
fn rows_of(
    id: &[u8],
    mut reading: Reading,
    selected: Option<RowSelection>,
) -> Result<ParquetRecordBatchStream<Box<dyn AsyncFileReader>>> {
    let columns = |names: &[&str]| ProjectionMask::columns(reading.parquet_schema(), names.iter().copied());
    let (ids, bounds) = (columns(&["trace_id"]), columns(&BOUNDS));
    let id = id.to_vec();
    let is_wanted = ArrowPredicateFn::new(ids, move |rows| equal(rows.column(0), &id));
    if let Some(selected) = selected {
        reading = reading.with_row_selection(selected);
    }
    let filter = RowFilter::new(vec![Box::new(is_wanted)]);
    Ok(reading.with_projection(bounds).with_row_filter(filter).build()?)
}

/// Which of these are this id.
fn equal(ids: &ArrayRef, id: &[u8]) -> Result<BooleanArray, ArrowError> {
    cmp::eq(
        &cast(ids, &DataType::BinaryView)?,
        &Scalar::new(BinaryViewArray::from(vec![id])),
    )
}

/// When this trace was as far as the frames know that are not in files yet.
async fn in_frames(traces: &LakeTable, id: &[u8], state: &dyn Session) -> Result<Option<Times>> {
    if traces.frames.is_empty() {
        return Ok(None);
    }
    let filter = col("trace_id").eq(Expr::Literal(ScalarValue::BinaryView(Some(id.to_vec())), None));
    let frames = match traces.predicate(state, &[filter])? {
        Some(predicate) => prune::frames(Table::Traces, &traces.frames, &traces.schema, &predicate),
        None => traces.frames.to_vec(),
    };
    if frames.is_empty() {
        return Ok(None);
    }
    let columns = ["trace_id"]
        .iter()
        .chain(&BOUNDS)
        .map(|name| traces.schema.index_of(name));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let plan = HotExec::new(Table::Traces, frames, &traces.schema, Some(&columns), 1, &traces.scope)?;
    let mut rows = collect(Arc::new(plan), state.task_ctx()).await?;
    for rows in &mut rows {
        *rows = filter_record_batch(rows, &equal(rows.column(0), id)?)?;
    }
    of_rows(&rows)
}

/// The times that rows of `traces` span.
fn of_rows(rows: &[RecordBatch]) -> Result<Option<Times>> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut times: Option<Times> = None;
    for rows in rows {
        let column = |name: &str| -> Result<ArrayRef> {
            let column = rows.column(rows.schema_ref().index_of(name)?);
            Ok(cast(column, &micros)?)
        };
        let [first, last] = [column(BOUNDS[0])?, column(BOUNDS[1])?];
        let first = min(first.as_primitive::<TimestampMicrosecondType>());
        let last = max(last.as_primitive::<TimestampMicrosecondType>());
        if let Some((first, last)) = first.zip(last) {
            let more = Times { first, last };
            times = Some(times.map_or(more, |times| times.and(more)));
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
    use arrow::datatypes::Schema;
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    use parquet::file::properties::WriterProperties;

    use super::*;

    /// Two row groups of eight rows, two rows a page: times 0 to 70, and again.
    fn footer() -> ParquetMetaData {
        let times = (0..16).map(|row| row % 8 * 10).collect::<Vec<i64>>();
        let times = Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) as ArrayRef;
        let rows = RecordBatch::try_from_iter([("ts", times)]).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(8))
            .set_data_page_row_count_limit(2)
            .set_write_batch_size(2);
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties.build())).unwrap();
        writer.write(&rows).unwrap();
        let bytes = bytes::Bytes::from(writer.into_inner().unwrap());
        ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Required)
            .parse_and_finish(&bytes)
            .unwrap()
    }

    #[test]
    fn pages_that_may_hold_a_time_are_read() {
        let footer = footer();
        let check = |first, last, expected: &[(usize, usize)]| {
            let expected = RowSelection::from_consecutive_ranges(expected.iter().map(|(from, to)| *from..*to), 16);
            assert_eq!(
                Times { first, last }.pages(&footer),
                Some(expected),
                "{first} to {last}"
            );
        };
        check(0, 70, &[(0, 16)]);
        check(0, 0, &[(0, 2), (8, 10)]);
        check(10, 20, &[(0, 4), (8, 12)]);
        check(11, 19, &[]);
        check(70, 1000, &[(6, 8), (14, 16)]);
        check(-5, -1, &[]);
    }

    #[test]
    fn a_footer_without_times_tells_nothing() {
        let rows = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
        let bytes = bytes::Bytes::from(writer.into_inner().unwrap());
        let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes).unwrap();
        assert_eq!(Times { first: 0, last: 1 }.pages(&footer), None);
    }
}
