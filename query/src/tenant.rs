//! Whose rows a query may show, and the barrier that keeps it to them.
//!
//! ```text
//!  files that by their bounds hold one tenant ──────────────────────────────> as ever, filters and all
//!  files of several                    ──> DataSourceExec ──> TenantExec ───> what the query asks of the rows
//!  frames of the outbox                ──> HotExec (takes the tenant's rows as it reads)
//! ```
//!
//! Why a barrier and not one more filter: a filter of the query that runs beside ours, or before it, sees other tenants' rows, and what it says
//! when it fails on one of them (`cast(body as int)`) is that row. Nothing is pushed through [`TenantExec`]; bounds, page indexes and blooms
//! still leave out what they can, because they are only ever compared.
//!
//! Guarantees: every scan of a tenant's query yields that tenant's rows alone; [`verify`] looks at each plan before it runs and refuses
//! one that was put together otherwise. Assumes: bounds in the log are never narrower than the values.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, Scalar, StringArray};
use arrow::compute::kernels::cmp;
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PhysicalExpr, PlanProperties,
};
use futures::StreamExt;
use tailwater_storage::lake::{FileEntry, Value};

use crate::provider::HotExec;

/// The column that every table has.
pub(crate) const COLUMN: &str = "tenant";

/// Whose rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's: whoever can read the files of the lake needs no leave of ours.
    #[default]
    Everything,
    /// One tenant's.
    Tenant(Arc<str>),
}

impl Scope {
    /// The tenant, if it is one.
    pub fn tenant(&self) -> Option<&Arc<str>> {
        match self {
            Scope::Everything => None,
            Scope::Tenant(tenant) => Some(tenant),
        }
    }
}

/// A file is this tenant's alone: what [`verify`] finds at the files that need no barrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole(pub Arc<str>);

/// What the log says of a file's tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// This tenant's rows and no others.
    Only,
    /// Perhaps rows of it, among others.
    Some,
    /// Not one row of it.
    None,
}

/// Whether a file holds rows of a tenant.
pub(crate) fn holds(file: &FileEntry, tenant: &str) -> Holds {
    let Some(range) = file.range(COLUMN) else {
        return Holds::Some;
    };
    let (Some(Value::Text(min)), Some(Value::Text(max))) = (&range.min, &range.max) else {
        return Holds::Some;
    };
    if tenant < &**min || tenant > &**max {
        return Holds::None;
    }
    // No value is outside of the bounds, and nothing lies between a text and itself. Nulls have no bounds.
    let only = &**min == tenant && &**max == tenant && range.nulls == Some(0);
    if only { Holds::Only } else { Holds::Some }
}

/// The condition on the rows, for what is compared with bounds.
pub(crate) fn condition(tenant: &str) -> Expr {
    col(COLUMN).eq(lit(tenant))
}

/// Which rows are the tenant's.
pub(crate) fn mask(column: &ArrayRef, tenant: &str) -> Result<BooleanArray> {
    let value_type = match column.data_type() {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let wanted = cast(&StringArray::from(vec![tenant]), value_type)?;
    Ok(cmp::eq(column, &Scalar::new(wanted))?)
}

/// Lets through the rows of one tenant, and no filter the other way.
#[derive(Debug)]
pub(crate) struct TenantExec {
    input: Arc<dyn ExecutionPlan>,
    tenant: Arc<str>,
    /// Place of the tenant in the input.
    column: usize,
    /// The columns that go on.
    kept: Vec<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl TenantExec {
    /// The first `width` columns of `input`, which has the tenant's among its columns.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, tenant: Arc<str>, width: usize) -> Result<TenantExec> {
        let column = input.schema().index_of(COLUMN)?;
        let kept: Vec<usize> = (0..width).collect();
        let schema = Arc::new(input.schema().project(&kept)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(TenantExec {
            input,
            tenant,
            column,
            kept,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The same barrier over another input.
    fn over(&self, mut inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (inputs.pop(), inputs.is_empty()) else {
            return internal_err!("TenantExec has one input");
        };
        Ok(Arc::new(TenantExec::new(input, self.tenant.clone(), self.kept.len())?))
    }
}

impl DisplayAs for TenantExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantExec: tenant={}", self.tenant)
    }
}

impl ExecutionPlan for TenantExec {
    fn name(&self) -> &str {
        "TenantExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (tenant, column, kept) = (self.tenant.clone(), self.column, self.kept.clone());
        let schema = self.schema();
        let rows = input.filter_map(move |rows| {
            let taken = rows.and_then(|rows| {
                let _timer = metrics.elapsed_compute().timer();
                let mask = mask(rows.column(column), &tenant)?;
                let rows = take(&rows.project(&kept)?, &mask)?;
                metrics.record_output(rows.num_rows());
                Ok(rows)
            });
            let wanted = !matches!(&taken, Ok(rows) if rows.num_rows() == 0);
            std::future::ready(wanted.then_some(taken))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The rows of a mask; all of them as they are.
pub(crate) fn take(rows: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch> {
    // Nulls are not among the true ones.
    if mask.true_count() == rows.num_rows() {
        return Ok(rows.clone());
    }
    if rows.num_columns() == 0 {
        let options = RecordBatchOptions::new().with_row_count(Some(mask.true_count()));
        return Ok(RecordBatch::try_new_with_options(rows.schema(), Vec::new(), &options)?);
    }
    Ok(filter_record_batch(rows, mask)?)
}

/// That no scan of this plan can show another tenant's rows.
///
/// # Errors
/// An internal error that names the scan; then the plan must not run.
pub(crate) fn verify(plan: &Arc<dyn ExecutionPlan>, scope: &Scope) -> Result<()> {
    match scope {
        Scope::Everything => Ok(()),
        Scope::Tenant(tenant) => check(plan, tenant, false),
    }
}

fn check(plan: &Arc<dyn ExecutionPlan>, tenant: &Arc<str>, behind: bool) -> Result<()> {
    let mut behind = behind;
    if let Some(barrier) = plan.downcast_ref::<TenantExec>() {
        behind = barrier.tenant == *tenant;
    } else if let Some(hot) = plan.downcast_ref::<HotExec>() {
        if hot.tenant() != Some(tenant) {
            return internal_err!("a scan of the outbox lacks its tenant");
        }
    } else if let Some(scan) = plan.downcast_ref::<DataSourceExec>()
        && let Some(files) = scan.data_source().downcast_ref::<FileScanConfig>()
    {
        let whole = |file: &datafusion::datasource::listing::PartitionedFile| {
            file.extension::<Whole>().is_some_and(|whole| whole.0 == *tenant)
        };
        if !behind && !files.file_groups.iter().flat_map(|group| group.iter()).all(whole) {
            return internal_err!("a scan of the tables lacks its tenant");
        }
    }
    plan.children()
        .into_iter()
        .try_for_each(|child| check(child, tenant, behind))
}

/// The columns to read for a barrier: those that are wanted, and the tenant's behind them if it is not among them.
pub(crate) fn with_column(schema: &SchemaRef, projection: Option<&Vec<usize>>) -> Result<(Vec<usize>, usize)> {
    let tenant = schema
        .index_of(COLUMN)
        .map_err(|_| internal_datafusion_err!("a table without tenants"))?;
    let mut columns = projection
        .cloned()
        .unwrap_or_else(|| (0..schema.fields().len()).collect());
    let width = columns.len();
    if !columns.contains(&tenant) {
        columns.push(tenant);
    }
    Ok((columns, width))
}
