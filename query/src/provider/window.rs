//! Finding a trace in time before looking for it by id.
//!
//! Ids are random, so no page of `spans` can be left out by them, and blooms leave out row groups at best. But `traces` is sorted by id:
//! a few pages of it say when the trace began and ended, and times do choose files and, within the runs of one service and name, pages.
//!
//! Guarantees: a window holds every span of the trace. Why: each batch of spans carries the part of `traces` that covers them, and
//! both tables are read at the same cut; so what `traces` does not know is nowhere. Where `traces` may have lost parts that `spans` still has (it does not go back as far), there is no window.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::catalog::Session;
use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, Operator, col};
use datafusion::physical_plan::collect;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use tailwater_storage::lake::FileEntry;

use super::LakeTable;

/// The one trace that filters ask for, as the value it is compared with.
pub(super) fn wanted_trace(filters: &[Expr]) -> Option<&Expr> {
    let is_trace = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == "trace_id");
    filters.iter().find_map(|filter| match filter {
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq => match (&*binary.left, &*binary.right) {
            (left, right @ Expr::Literal(..)) if is_trace(left) => Some(right),
            (left @ Expr::Literal(..), right) if is_trace(right) => Some(left),
            _ => None,
        },
        _ => None,
    })
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
        let leaves = footer.file_metadata().schema_descr().columns();
        let leaf = leaves.iter().position(|leaf| leaf.path().parts() == ["ts"])?;
        let (bounds, places) = (footer.column_index()?, footer.offset_index()?);
        let mut ranges = Vec::new();
        let mut start = 0;
        for (at, group) in footer.row_groups().iter().enumerate() {
            let rows = group.num_rows() as usize;
            let ColumnIndexMetaData::INT64(bounds) = bounds.get(at)?.get(leaf)? else {
                return None;
            };
            let pages = places.get(at)?.get(leaf)?.page_locations();
            for (page, place) in pages.iter().enumerate() {
                let begins_late = bounds.min_value(page).is_some_and(|first| *first > self.last);
                let ends_early = bounds.max_value(page).is_some_and(|last| *last < self.first);
                if !begins_late && !ends_early {
                    let end = pages.get(page + 1).map_or(rows, |next| next.first_row_index as usize);
                    ranges.push(start + place.first_row_index as usize..start + end);
                }
            }
            start += rows;
        }
        Some(RowSelection::from_consecutive_ranges(ranges.into_iter(), start))
    }
}

/// Asks `traces`, which must cover the spans.
pub(super) async fn of_trace(traces: Arc<LakeTable>, trace: &Expr, state: &dyn Session) -> Result<Window> {
    let plan = LogicalPlanBuilder::scan("traces", provider_as_source(traces), None)?
        .filter(col("trace_id").eq(trace.clone()))?
        .aggregate(Vec::<Expr>::new(), [min(col("ts_min")), max(col("ts_max"))])?
        .build()?;
    let plan = state.create_physical_plan(&plan).await?;
    let batches = collect(plan, state.task_ctx()).await?;
    let time = |column: usize| {
        let rows = batches.iter().find(|rows| rows.num_rows() > 0)?;
        let times = rows.column(column).as_primitive_opt::<TimestampMicrosecondType>()?;
        times.iter().next()?
    };
    Ok(match time(0).zip(time(1)) {
        Some((first, last)) => Window::Within(Times { first, last }),
        None => Window::Nowhere,
    })
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
