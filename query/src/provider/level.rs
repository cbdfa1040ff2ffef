//! A table derived from `red` as a query sees it: its own rows where they hold, those of `red` for the hours where they do not.
//!
//! ```text
//!   derived table, hours that hold ─┐
//!   files of `red`, the other hours ├─> UNION ALL
//!   frames above `red`'s version   ─┘
//! ```
//!
//! Guarantees: sums over whole slices of the table are those of `red` at the same cut, whatever `maintain` is doing; only the width of rows
//! differs. Days that retention removed from `red` are there as long as the derived table has them.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit};
use tailwater_model::table::{self, Table};
use tailwater_storage::hot::HotTable;
use tailwater_storage::levels::uncovered;

use super::{Hints, LakeTable};
use crate::tenant::Scope;

/// The derived table of a cut, over `red` of the same cut.
pub(crate) fn level(
    red: &HotTable,
    derived: HotTable,
    hints: &Arc<Hints>,
    scope: &Scope,
) -> Result<Arc<dyn TableProvider>> {
    let name = derived.table.name();
    let hours = match (&red.snapshot, &derived.snapshot) {
        (Some(red), Some(derived)) => uncovered(red, derived),
        _ => None,
    };
    let Some(hours) = hours else {
        return Ok(Arc::new(LakeTable::new(red.clone(), hints.clone(), scope.clone())));
    };
    let (files, frames) = (
        HotTable {
            frames: Arc::new([]),
            ..red.clone()
        },
        HotTable {
            snapshot: None,
            ..red.clone()
        },
    );
    let mut plan = part(name, derived, (hints, scope), outside(&hours))?;
    if !hours.is_empty() {
        plan = plan.union(part(Table::Red.name(), files, (hints, scope), within(&hours))?.build()?)?;
    }
    if !frames.frames.is_empty() {
        plan = plan.union(part("red_frames", frames, (hints, scope), None)?.build()?)?;
    }
    Ok(Arc::new(ViewTable::new(plan.build()?, None)))
}

/// The columns that this program knows of the rows for which `condition` holds.
fn part(
    name: &str,
    pinned: HotTable,
    (hints, scope): (&Arc<Hints>, &Scope),
    condition: Option<Expr>,
) -> Result<LogicalPlanBuilder> {
    let provider = Arc::new(LakeTable::new(pinned, hints.clone(), scope.clone()));
    let mut plan = LogicalPlanBuilder::scan(name, provider_as_source(provider), None)?;
    if let Some(condition) = condition {
        plan = plan.filter(condition)?;
    }
    let columns = table::schema(Table::Red);
    plan.project(columns.fields().iter().map(|field| col(field.name())))
}

fn within(ranges: &[(i64, i64)]) -> Option<Expr> {
    let inside = ranges
        .iter()
        .map(|(from, to)| col("ts").gt_eq(time(*from)).and(col("ts").lt(time(*to))));
    inside.reduce(Expr::or)
}

/// Not `not (...)`: statistics choose files by ranges.
fn outside(ranges: &[(i64, i64)]) -> Option<Expr> {
    let (first, last) = (ranges.first()?, ranges.last()?);
    let before = col("ts").lt(time(first.0)).or(col("ts").gt_eq(time(last.1)));
    let between = ranges.windows(2).map(|pair| (pair[0].1, pair[1].0));
    Some(between.fold(before, |outside, (from, to)| {
        outside.or(col("ts").gt_eq(time(from)).and(col("ts").lt(time(to))))
    }))
}

fn time(us: i64) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())))
}

/// Adds conditions to every scan of a plan.
pub(crate) fn with_conditions(plan: LogicalPlan, conditions: &[Expr]) -> Result<LogicalPlan> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    let filtered = plan.transform_up(|node| {
        if !matches!(node, LogicalPlan::TableScan(_)) {
            return Ok(Transformed::no(node));
        }
        let mut scan = LogicalPlanBuilder::from(node);
        for condition in conditions {
            scan = scan.filter(condition.clone())?;
        }
        Ok(Transformed::yes(scan.build()?))
    });
    filtered.map(|plan| plan.data)
}
