//! The plan that reads data files.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, Result, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, ParquetRowSelection};
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr, expressions};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::schema::types::SchemaDescriptor;
use tailwater_model::table::{self, Table};
use tailwater_storage::lake::FileEntry;

use super::constant::{self, Constant};
use super::named::NamedReaders;
use super::prune::scalar;
use super::window::Times;
use crate::tenant::Whole;

/// Up to this many files carry their statistics into the plan, for top-k queries to begin with the right file and skip others
/// while running. Beyond, building them would cost more than it saves (about 20 KiB a file).
const FILES_WITH_STATISTICS_MAX: usize = 256;

/// Up to this many footers are looked into before a scan for a few rows.
const FOOTERS_MAX: usize = 16;

/// Rows of a batch where pages are chosen. What a filter has read is kept for the columns that follow by whole batches, and the pages of a trace lie apart:
/// with larger ones more than twice the rows selected would be unpacked.
const PAGED_BATCH_ROWS: usize = 1024;

/// Files of fewer rows are not worth a second thread.
const SPREAD_ROWS_MIN: usize = 1 << 18;
/// The same where rows have histograms, which take longer to add up than to read.
const SPREAD_SKETCHES_MIN: usize = 1 << 14;

/// How much of a file's end is read for its footer at first.
pub(crate) const FOOTER_BYTES: usize = 1 << 20;

/// A file of so many rows has one row group.
const ONE_GROUP_ROWS_MAX: u64 = 1 << 18;

/// Where the store of a table is registered.
pub(crate) fn store_url(table: Table) -> ObjectStoreUrl {
    ObjectStoreUrl::parse(format!("lake://{}", table.name())).expect("table names are valid hosts")
}

pub(super) struct Scan<'a> {
    pub table: Table,
    /// What the query sees.
    pub schema: &'a SchemaRef,
    pub files: Vec<Arc<FileEntry>>,
    pub projection: Option<&'a Vec<usize>>,
    pub limit: Option<usize>,
    /// A filter that the query does not have but that holds for all its rows.
    pub window: Option<Expr>,
    /// That filter as times: where footers are looked into anyway, pages are chosen by these instead.
    pub times: Option<Times>,
    /// Whether filters run while decoding, row by row.
    pub row_filters: bool,
    /// Whether there are filters that bounds could speak to.
    pub is_filtered: bool,
    /// Whether columns that say the same in all of a file are left unread.
    pub constants: bool,
    /// The tenant whose rows alone are in these files, where that is known.
    pub whole: Option<Arc<str>>,
}

impl Scan<'_> {
    pub(super) async fn plan(self, state: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        // Delta keeps partition values out of the files; DataFusion puts them after the file's columns.
        let date = self.schema.index_of("date")?;
        let file_fields: Vec<_> = self
            .schema
            .fields()
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != date)
            .map(|(_, field)| field.clone())
            .collect();
        let width = file_fields.len();
        let table_schema = TableSchema::builder(Arc::new(Schema::new(file_fields)))
            .with_table_partition_cols(vec![Arc::new(self.schema.field(date).clone())])
            .build();
        let place = |at: usize| match at.cmp(&date) {
            std::cmp::Ordering::Less => at,
            std::cmp::Ordering::Equal => width,
            std::cmp::Ordering::Greater => at - 1,
        };
        let projection: Vec<usize> = match self.projection {
            Some(projection) => projection.iter().map(|at| place(*at)).collect(),
            None => (0..self.schema.fields().len()).map(place).collect(),
        };

        let url = store_url(self.table);
        let reader = readers(state, self.table)?;
        let mut options = state.table_options().parquet.clone();
        // Looking for a bloom that no file has takes a reader and a schema a file. Only trace ids have them.
        options.global.bloom_filter_on_read &= self.schema.column_with_name("trace_id").is_some();
        // Of a file with one row group its bounds are the file's, which chose it already, and pages have finer ones.
        options.global.pruning &= self.files.iter().any(|file| file.rows > ONE_GROUP_ROWS_MAX);
        let mut source = ParquetSource::new(table_schema.clone())
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(reader.clone())
            .with_pushdown_filters(self.row_filters);

        let scanned = table_schema.table_schema();
        let with_statistics = self.files.len() <= FILES_WITH_STATISTICS_MAX;
        let with_constants = self.constants && self.files.len() <= FOOTERS_MAX;
        let mut files = Vec::with_capacity(self.files.len());
        let mut is_paged = with_constants && self.times.is_some();
        for file in &self.files {
            let mut partitioned = partitioned(file, scanned, with_statistics);
            if let Some(tenant) = &self.whole {
                partitioned = partitioned.with_extension(Whole(tenant.clone()));
            }
            let mut pages = None;
            if with_constants {
                let footer = footer(&reader, &partitioned).await?;
                if let Some(statistics) = &mut partitioned.statistics {
                    tell_constants(Arc::make_mut(statistics), constant::of_file(&footer, scanned));
                }
                pages = self.times.and_then(|times| times.pages(&footer));
            }
            is_paged &= pages.is_some();
            files.push((partitioned, pages));
        }
        if let Some(window) = self.window.as_ref().filter(|_| !is_paged) {
            // The query's own filters are pushed down later and join this one.
            let schema = DFSchema::try_from(scanned.clone())?;
            source = source.with_predicate(state.create_physical_expr(window.clone(), &schema)?);
        }
        let threads = state.config().target_partitions();
        let rows_min = match self.schema.column_with_name("exphist") {
            Some(_) => SPREAD_SKETCHES_MIN,
            None => SPREAD_ROWS_MIN,
        };
        let files = spread(files, threads, rows_min);
        let (mut groups, ordering) = self.grouped(files, scanned, threads);
        if !self.row_filters && self.is_filtered && ordering.is_none() {
            // The files were chosen by their bounds, and no order is told from them. What a join learns while the scan runs is compared with those of pages.
            groups.iter_mut().for_each(forget_bounds);
        }

        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_batch_size(is_paged.then_some(PAGED_BATCH_ROWS))
            .with_file_groups(groups)
            .with_statistics(self.totals(scanned))
            .with_output_ordering(ordering.into_iter().collect())
            .with_limit(self.limit)
            .with_projection_indices(Some(projection))?;
        Ok(DataSourceExec::from_data_source(config.build()))
    }

    /// Rows are counted exactly; nothing else is claimed of the table as a whole.
    fn totals(&self, scanned: &SchemaRef) -> Statistics {
        let mut totals = Statistics::new_unknown(scanned);
        totals.num_rows = Precision::Exact(self.files.iter().map(|file| file.rows as usize).sum());
        totals.total_byte_size = Precision::Inexact(self.files.iter().map(|file| file.size as usize).sum());
        totals
    }

    /// One group for each thread, as even in bytes as whole files allow; an order is declared where it holds and costs nothing.
    fn grouped(
        &self,
        files: Vec<PartitionedFile>,
        scanned: &SchemaRef,
        threads: usize,
    ) -> (Vec<FileGroup>, Option<LexOrdering>) {
        if let Some(order) = self.order(scanned) {
            let one = [FileGroup::new(files.clone())];
            // Spread over all threads: one long chain of files would be read by one. Bounds say nothing of nulls, which come first.
            let no_nulls = |column: &&str| {
                self.files
                    .iter()
                    .all(|file| file.range(column).is_some_and(|range| range.nulls == Some(0)))
            };
            if table::sort_columns(self.table).iter().all(no_nulls)
                && let Ok(groups) =
                    FileScanConfig::split_groups_by_statistics_with_target_partitions(scanned, &one, &order, threads)
                && groups.len() <= threads
            {
                return (groups, Some(order));
            }
            // Rows are in order in each file, even where files overlap.
            if files.len() <= threads {
                return (
                    files.into_iter().map(|file| FileGroup::new(vec![file])).collect(),
                    Some(order),
                );
            }
        }
        let mut files = files;
        files.sort_by_key(|file| std::cmp::Reverse(file.object_meta.size));
        let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); threads.clamp(1, files.len())];
        for file in files {
            let (bytes, group) = groups
                .iter_mut()
                .min_by_key(|(bytes, _)| *bytes)
                .expect("there is at least one group");
            *bytes += file.object_meta.size;
            group.push(file);
        }
        (
            groups.into_iter().map(|(_, group)| FileGroup::new(group)).collect(),
            None,
        )
    }

    /// The order of the rows in every file. A leading column that has one and the same value everywhere (the tenant, mostly) orders
    /// nothing and is left out, so that the order begins with what queries ask for.
    fn order(&self, scanned: &SchemaRef) -> Option<LexOrdering> {
        if !self.files.iter().all(|file| file.sorted) {
            return None;
        }
        let columns = table::sort_columns(self.table);
        let constant = columns.iter().take_while(|column| self.is_constant(column)).count();
        let columns = &columns[constant.min(columns.len() - 1)..];
        let options = SortOptions {
            descending: false,
            nulls_first: true,
        };
        let order = columns
            .iter()
            .map(|column| Some(PhysicalSortExpr::new(expressions::col(column, scanned).ok()?, options)));
        LexOrdering::new(order.collect::<Option<Vec<_>>>()?)
    }

    fn is_constant(&self, column: &str) -> bool {
        let mut value = None;
        self.files.iter().all(|file| {
            let Some(range) = file.range(column) else { return false };
            let same = range.min.is_some() && range.min == range.max && range.nulls == Some(0);
            same && *value.get_or_insert(range.min.clone()) == range.min
        })
    }
}

fn partitioned(file: &FileEntry, scanned: &SchemaRef, with_statistics: bool) -> PartitionedFile {
    let meta = ObjectMeta {
        location: Path::from(&*file.path),
        // The cache of footers compares this and the size.
        last_modified: DateTime::<Utc>::from_timestamp_millis(file.modified_ms).unwrap_or_default(),
        size: file.size,
        e_tag: None,
        version: None,
    };
    let mut partitioned = PartitionedFile::new_from_meta(meta);
    partitioned.partition_values = vec![ScalarValue::Date32(Some(file.date))];
    if with_statistics {
        partitioned.statistics = Some(Arc::new(statistics(file, scanned)));
    }
    partitioned
}

/// A file of which nothing is known but where it is.
pub(super) fn bare(file: &FileEntry) -> PartitionedFile {
    partitioned(file, &Arc::new(Schema::empty()), false)
}

pub(super) fn readers(state: &dyn Session, table: Table) -> Result<Arc<dyn ParquetFileReaderFactory>> {
    let runtime = state.runtime_env();
    let footers = runtime.cache_manager.get_file_metadata_cache();
    Ok(Arc::new(NamedReaders {
        table: table.name(),
        inner: CachedParquetFileReaderFactory::new(runtime.object_store(store_url(table))?, footers),
    }))
}

/// The footers of the first of these files, as many as are asked for the sake of a few rows.
pub(super) async fn footers(
    state: &dyn Session,
    table: Table,
    files: &[Arc<FileEntry>],
) -> Result<Vec<Arc<ParquetMetaData>>> {
    let readers = readers(state, table)?;
    let mut footers = Vec::new();
    for file in files.iter().take(FOOTERS_MAX) {
        footers.push(footer(&readers, &bare(file)).await?);
    }
    Ok(footers)
}

/// The place among the leaves of a file of the top-level column of this name; `None` where it has none, or one that is nested.
pub(super) fn leaf(columns: &SchemaDescriptor, name: &str) -> Option<usize> {
    columns.columns().iter().position(|leaf| leaf.path().parts() == [name])
}

/// The footer with its page index, as the scan will want it too: from the cache, mostly.
pub(super) async fn footer(
    readers: &Arc<dyn ParquetFileReaderFactory>,
    file: &PartitionedFile,
) -> Result<Arc<ParquetMetaData>> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let mut reader = readers.create_reader(0, file.clone(), Some(FOOTER_BYTES), &ExecutionPlanMetricsSet::new())?;
    Ok(reader.get_metadata(Some(&options)).await?)
}

/// One large file is work enough for all threads: pieces of fewer files than threads. Of a file only the rows selected are read, if some are.
fn spread(
    files: Vec<(PartitionedFile, Option<RowSelection>)>,
    threads: usize,
    rows_min: usize,
) -> Vec<PartitionedFile> {
    let pieces = threads / files.len().max(1);
    let split = |(file, selected): (PartitionedFile, Option<RowSelection>)| {
        let rows = file
            .statistics
            .as_ref()
            .and_then(|statistics| statistics.num_rows.get_value().copied());
        let rows = rows.filter(|rows| *rows >= rows_min && pieces > 1).unwrap_or_default();
        if rows == 0 {
            return vec![match selected {
                Some(selected) => file.with_extension(ParquetRowSelection::new(selected)),
                None => file,
            }];
        }
        let step = rows.div_ceil(pieces);
        let piece = |start| {
            let len = step.min(rows - start);
            let piece = RowSelection::from_consecutive_ranges(std::iter::once(start..start + len), rows);
            let piece = match &selected {
                Some(selected) => selected.intersection(&piece),
                None => piece,
            };
            file.clone().with_extension(ParquetRowSelection::new(piece))
        };
        (0..rows).step_by(step).map(piece).collect()
    };
    files.into_iter().flat_map(split).collect()
}

/// Leaves the rows of these files alone of their statistics: bounds of columns would be compared with the filters once more, file by file.
fn forget_bounds(group: &mut FileGroup) {
    let files = std::mem::take(group).into_inner().into_iter();
    let forgetting = files.map(|mut file| {
        if let Some(statistics) = &mut file.statistics {
            let columns = statistics.column_statistics.len();
            let bare = vec![ColumnStatistics::new_unknown(); columns];
            Arc::make_mut(statistics).column_statistics = bare;
        }
        file
    });
    *group = FileGroup::new(forgetting.collect());
}

fn tell_constants(statistics: &mut Statistics, constants: Vec<Constant>) {
    let rows = statistics.num_rows;
    for (at, value) in constants {
        let column = &mut statistics.column_statistics[at];
        match value {
            Some(value) => {
                let value = Precision::Exact(value);
                (column.min_value, column.max_value, column.null_count) = (value.clone(), value, Precision::Exact(0));
            }
            None => column.null_count = rows,
        }
    }
}

/// Bounds may be wider than the values (texts are cut), so they are never exact: `max(ts)` must not be answered from them.
fn statistics(file: &FileEntry, scanned: &SchemaRef) -> Statistics {
    let columns = scanned.fields().iter().map(|field| {
        let mut column = ColumnStatistics::new_unknown();
        if field.name() == "date" {
            let date = Precision::Exact(ScalarValue::Date32(Some(file.date)));
            (column.min_value, column.max_value, column.null_count) = (date.clone(), date, Precision::Exact(0));
        } else if let Some(range) = file.range(field.name()) {
            let bound = |value: &Option<_>| {
                let value = value.as_ref().and_then(|value| scalar(value, field.data_type()));
                value.map_or(Precision::Absent, Precision::Inexact)
            };
            column.min_value = bound(&range.min);
            column.max_value = bound(&range.max);
            column.null_count = range
                .nulls
                .map_or(Precision::Absent, |nulls| Precision::Exact(nulls as usize));
        }
        column
    });
    Statistics {
        num_rows: Precision::Exact(file.rows as usize),
        total_byte_size: Precision::Inexact(file.size as usize),
        column_statistics: columns.collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The rows that each piece of these files selects, for so many threads.
    fn check(rows: &[usize], threads: usize, expected: &[Option<(usize, usize)>]) {
        let file = |rows: &usize| {
            let mut file = PartitionedFile::new("a.parquet", 1);
            let statistics = Statistics::new_unknown(&Schema::empty());
            file.statistics = Some(Arc::new(statistics.with_num_rows(Precision::Exact(*rows))));
            (file, None)
        };
        let pieces = spread(rows.iter().map(file).collect(), threads, SPREAD_ROWS_MIN);
        let selected = |piece: &PartitionedFile| {
            let selection = piece.extension::<ParquetRowSelection>()?.selection();
            let total: usize = selection.iter().map(|selector| selector.row_count).sum();
            assert!(rows.contains(&total), "a selection speaks of all rows");
            let skipped = selection.iter().take_while(|selector| selector.skip);
            Some((skipped.map(|selector| selector.row_count).sum(), selection.row_count()))
        };
        assert_eq!(pieces.iter().map(selected).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn few_large_files_are_spread_over_threads() {
        const LARGE: usize = SPREAD_ROWS_MIN + 1;
        const HALF: usize = SPREAD_ROWS_MIN / 2 + 1;
        check(&[LARGE], 2, &[Some((0, HALF)), Some((HALF, HALF - 1))]);
        check(&[LARGE], 1, &[None]);
        check(&[LARGE, LARGE], 3, &[None, None]);
        check(&[100], 4, &[None]);
        check(&[LARGE, 100], 4, &[Some((0, HALF)), Some((HALF, HALF - 1)), None]);
        check(&[], 4, &[]);
    }
}
