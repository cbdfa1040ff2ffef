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
    /// This filter keeps its times.
    Within(Expr),
    /// There is no such trace.
    Nowhere,
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
        times
            .iter()
            .next()?
            .map(|time| ScalarValue::TimestampMicrosecond(Some(time), Some("UTC".into())))
    };
    let literal = |value| Expr::Literal(value, None);
    Ok(match time(0).zip(time(1)) {
        Some((first, last)) => Window::Within(col("ts").between(literal(first), literal(last))),
        None => Window::Nowhere,
    })
}
