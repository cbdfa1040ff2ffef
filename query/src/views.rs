//! Views over `red`: rate, errors and durations of a service or an operation, one row a slice.
//!
//! | view | slice | read from |
//! |---|---|---|
//! | `service_red`, `operation_red` | 1 min | `red` |
//! | `service_red_15m`, `operation_red_15m` | 15 min | `red_15m` |
//! | `service_red_1h`, `operation_red_1h` | 1 h | `red_1h` |
//!
//! Rows of `red` come in slices of different widths (10 s, and 1 min once folded, even within one minute), so a view adds up what its slice covers.
//! What a query asks of `ts`, `date` and the columns of the key chooses files before anything is added up: that is why these are
//! not plain SQL views, in which a condition on a computed `ts` would read the whole table.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, Operator, TableProviderFilterPushDown, TableType, col, lit,
};
use datafusion::physical_plan::ExecutionPlan;
use tailwater_model::table::Table;

use crate::provider::with_conditions;

/// A view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Name in SQL.
    pub name: &'static str,
    /// What it reads.
    pub table: Table,
    /// Width of its slices, seconds.
    pub slice_s: u32,
    /// A row an operation, not a service.
    by_operation: bool,
}

const fn view(name: &'static str, table: Table, slice_s: u32, by_operation: bool) -> View {
    View {
        name,
        table,
        slice_s,
        by_operation,
    }
}

/// All views.
pub(crate) const VIEWS: [View; 6] = [
    view("service_red", Table::Red, 60, false),
    view("service_red_15m", Table::Red15m, 900, false),
    view("service_red_1h", Table::Red1h, 3600, false),
    view("operation_red", Table::Red, 60, true),
    view("operation_red_15m", Table::Red15m, 900, true),
    view("operation_red_1h", Table::Red1h, 3600, true),
];

const SERVICE: &[&str] = &["tenant", "service_name", "service_namespace", "deployment_env"];
const OPERATION: &[&str] = &[
    "tenant",
    "service_name",
    "service_namespace",
    "deployment_env",
    "operation",
    "http_route",
    "kind",
    "is_entry",
];

impl View {
    fn keys(&self) -> &'static [&'static str] {
        if self.by_operation { OPERATION } else { SERVICE }
    }

    /// What it means.
    fn sql(&self) -> String {
        let View { slice_s, .. } = self;
        let keys = self.keys().join(", ");
        // `date_bin` answers nanoseconds; times here are microseconds as in every table.
        // A service's requests are those that enter it; an operation is looked at wherever it runs.
        let only = if self.by_operation { "" } else { "where is_entry" };
        format!(
            "select date, arrow_cast(ts, 'Timestamp(Microsecond, Some(\"UTC\"))') as ts, {slice_s} as slice_s, {keys}, requests, errors, requests / {slice_s}.0e0 as rate, \
             errors / nullif(requests * 1.0e0, 0) as error_share, exphist_quantile(durations, 0.5) as p50_ns, \
             exphist_quantile(durations, 0.95) as p95_ns, exphist_quantile(durations, 0.99) as p99_ns, max_ns, sum_ns, durations \
             from (select date, date_bin(interval '{slice_s} seconds', ts) as ts, {keys}, sum(n) as requests, sum(errors) as errors, \
             max(max_ns) as max_ns, sum(sum_ns) as sum_ns, exphist_merge(exphist) as durations \
             from {table} {only} group by date, date_bin(interval '{slice_s} seconds', ts), {keys}) as slices",
            table = self.table.name(),
        )
    }
}

/// Puts a view beside the tables of a query, which are there already.
pub(crate) async fn register(view: View, state: &SessionState) -> Result<()> {
    let dialect = &state.config().options().sql_parser.dialect;
    let statement = state.sql_to_statement(&view.sql(), dialect)?;
    let plan = state.statement_to_plan(statement).await?;
    let schema = Arc::new(plan.schema().as_arrow().clone());
    let provider = Arc::new(Sliced { view, plan, schema });
    state
        .schema_for_ref(view.name)?
        .register_table(view.name.to_owned(), provider)?;
    Ok(())
}

/// A view as a table that knows which conditions hold for what it reads.
#[derive(Debug)]
struct Sliced {
    view: View,
    plan: LogicalPlan,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for Sliced {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // They choose what is read; the rows are looked at again.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let conditions: Vec<Expr> = filters.iter().filter_map(|filter| self.beneath(filter)).collect();
        let mut plan = LogicalPlanBuilder::from(with_conditions(self.plan.clone(), &conditions)?);
        if let Some(projection) = projection {
            let names = projection.iter().map(|index| col(self.schema.field(*index).name()));
            plan = plan.project(names)?;
        }
        state.create_physical_plan(&plan.build()?).await
    }
}

impl Sliced {
    /// What holds for the rows beneath if `filter` holds for a row of the view; `None` if that says nothing.
    fn beneath(&self, filter: &Expr) -> Option<Expr> {
        let passes = |name: &str| name == "date" || self.view.keys().contains(&name);
        let columns = filter.column_refs();
        if !columns.is_empty() && columns.iter().all(|column| passes(&column.name)) {
            return unqualified(filter);
        }
        match filter {
            Expr::BinaryExpr(binary) => {
                let (op, literal) = match (&*binary.left, &*binary.right) {
                    (Expr::Column(column), Expr::Literal(value, _)) if column.name == "ts" => (binary.op, value),
                    (Expr::Literal(value, _), Expr::Column(column)) if column.name == "ts" => {
                        (binary.op.swap()?, value)
                    }
                    _ => return None,
                };
                self.around(op, literal)
            }
            Expr::Between(between) if !between.negated => match (&*between.expr, &*between.low, &*between.high) {
                (Expr::Column(column), Expr::Literal(low, _), Expr::Literal(high, _)) if column.name == "ts" => {
                    let low = self.around(Operator::GtEq, low)?;
                    Some(low.and(self.around(Operator::LtEq, high)?))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// When rows of a slice begin whose own begin compares so: not before it, and less than a slice after it.
    fn around(&self, op: Operator, begin: &ScalarValue) -> Option<Expr> {
        let ScalarValue::TimestampMicrosecond(Some(us), zone) = begin else {
            return None;
        };
        let later = us.saturating_add(i64::from(self.view.slice_s) * 1_000_000);
        let later = lit(ScalarValue::TimestampMicrosecond(Some(later), zone.clone()));
        let ts = || col("ts");
        match op {
            Operator::Gt | Operator::GtEq => Some(ts().gt_eq(lit(begin.clone()))),
            Operator::Lt | Operator::LtEq => Some(ts().lt_eq(later)),
            Operator::Eq => Some(ts().gt_eq(lit(begin.clone())).and(ts().lt_eq(later))),
            _ => None,
        }
    }
}

/// The expression with columns by name alone.
fn unqualified(expr: &Expr) -> Option<Expr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    let bare = expr.clone().transform_up(|expr| {
        Ok(match expr {
            Expr::Column(column) => Transformed::yes(col(column.name.as_str())),
            other => Transformed::no(other),
        })
    });
    bare.ok().map(|bare| bare.data)
}
