//! The first rows by a number, found by the bounds of pages before a row is read.
//!
//! Of `order by duration_ns desc limit 20` every page whose largest value is among the twenty largest of all pages holds a row that is at least so
//! long. So the answer is among the rows that are as long as the twentieth of those, and few pages have any.
//!
//! Guarantees: a bound leaves out no row of the answer. Why: as many rows as are wanted are at it or beyond, and ties stay in. Assumes:
//! nothing between the table and the order takes rows away, and nothing else reads the table (else there is no bound).

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::{Expr, FetchType, LogicalPlan, SkipType, col, lit};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use super::files;

/// So many first rows of a table by one of its columns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Top {
    pub table: String,
    pub column: String,
    pub descending: bool,
    pub rows: usize,
}

/// More rows than this are in so many pages that bounds leave out little.
const ROWS_MAX: usize = 10_000;

impl Top {
    /// What a query wants that asks for nothing else. Any doubt means `None`.
    pub(super) fn wanted(plan: &LogicalPlan) -> Result<Option<Top>> {
        let mut scans = 0;
        plan.apply_with_subqueries(|node| {
            scans += usize::from(matches!(node, LogicalPlan::TableScan(_)));
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if scans == 1 { limited(plan) } else { None })
    }

    /// The filter that holds for all rows of the answer that these files have; `None` if they do not say.
    pub(super) fn bound<'a>(&self, field: &Field, footers: impl Iterator<Item = &'a ParquetMetaData>) -> Option<Expr> {
        if field.is_nullable() || field.name() != &self.column {
            return None;
        }
        let literal = |value| match field.data_type() {
            DataType::Int64 => Some(ScalarValue::Int64(Some(value))),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                Some(ScalarValue::TimestampMicrosecond(Some(value), zone.clone()))
            }
            _ => None,
        };
        let mut ends: Vec<i64> = footers.flat_map(|footer| self.page_ends(footer)).collect();
        let nth = self.rows.checked_sub(1).filter(|nth| *nth < ends.len())?;
        let (_, end, _) = match self.descending {
            true => ends.select_nth_unstable_by(nth, |a, b| b.cmp(a)),
            false => ends.select_nth_unstable(nth),
        };
        let literal = lit(literal(*end)?);
        let column = col(Column::from_name(&self.column));
        Some(if self.descending {
            column.gt_eq(literal)
        } else {
            column.lt_eq(literal)
        })
    }

    /// The value of each page that comes first. Whole numbers are told exactly.
    fn page_ends(&self, footer: &ParquetMetaData) -> Vec<i64> {
        let Some(leaf) = files::leaf(footer.file_metadata().schema_descr(), &self.column) else {
            return Vec::new();
        };
        let groups = footer.column_index().map(Vec::as_slice).unwrap_or_default();
        let of_group = |columns: &Vec<ColumnIndexMetaData>| match columns.get(leaf) {
            Some(ColumnIndexMetaData::INT64(pages)) if self.descending => {
                pages.max_values_iter().flatten().copied().collect()
            }
            Some(ColumnIndexMetaData::INT64(pages)) => pages.min_values_iter().flatten().copied().collect(),
            _ => Vec::new(),
        };
        groups.iter().flat_map(of_group).collect()
    }
}

fn limited(plan: &LogicalPlan) -> Option<Top> {
    match plan {
        LogicalPlan::Projection(projection) => limited(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => limited(&alias.input),
        LogicalPlan::Explain(explain) => limited(&explain.plan),
        LogicalPlan::Analyze(analyze) => limited(&analyze.input),
        LogicalPlan::Limit(limit) => {
            let (Ok(SkipType::Literal(skip)), Ok(FetchType::Literal(Some(fetch)))) =
                (limit.get_skip_type(), limit.get_fetch_type())
            else {
                return None;
            };
            let rows = skip.checked_add(fetch).filter(|rows| *rows <= ROWS_MAX)?;
            ordered(&limit.input, rows)
        }
        _ => None,
    }
}

fn ordered(plan: &LogicalPlan, rows: usize) -> Option<Top> {
    match plan {
        // What the select list renames is still the order of below.
        LogicalPlan::Projection(projection) => ordered(&projection.input, rows),
        LogicalPlan::Sort(sort) if sort.fetch.is_none_or(|fetch| fetch >= rows) => {
            let first = sort.expr.first()?;
            let Expr::Column(column) = &first.expr else { return None };
            let (table, column) = source(&sort.input, column)?;
            Some(Top {
                table,
                column,
                descending: !first.asc,
                rows,
            })
        }
        _ => None,
    }
}

/// The table and its column that a column of a plan is, if the plan has the table's rows, all of them.
fn source(plan: &LogicalPlan, column: &Column) -> Option<(String, String)> {
    match plan {
        LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
            Some((scan.table_name.table().to_owned(), column.name.clone()))
        }
        LogicalPlan::SubqueryAlias(alias) => source(&alias.input, column),
        LogicalPlan::Projection(projection) => {
            let at = projection.schema.index_of_column(column).ok()?;
            let mut expr = projection.expr.get(at)?;
            while let Expr::Alias(alias) = expr {
                expr = &alias.expr;
            }
            match expr {
                Expr::Column(column) => source(&projection.input, column),
                _ => None,
            }
        }
        _ => None,
    }
}
