//! The plan that reads frames of the outbox where they lie.
//!
//! A frame is decoded once per mapping (checksum, offsets); a query then takes the columns it wants. Words are dictionaries in
//! the frame; the cast to views points them into the dictionary's bytes, so no text is copied.

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};
use tailwater_model::table::Table;
use tailwater_storage::outbox::{FrameRef, as_schema};

use crate::tenant::{self, Scope};

/// Reads frames.
#[derive(Debug)]
pub(crate) struct HotExec {
    table: Table,
    partitions: Vec<Vec<FrameRef>>,
    /// Whose rows are taken; `None` is everybody's.
    tenant: Option<Arc<str>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl HotExec {
    pub(super) fn new(
        table: Table,
        frames: Vec<FrameRef>,
        schema: &SchemaRef,
        projection: Option<&Vec<usize>>,
        partitions: usize,
        scope: &Scope,
    ) -> Result<HotExec> {
        let schema = match projection {
            Some(projection) => Arc::new(schema.project(projection)?),
            None => schema.clone(),
        };
        let mut groups: Vec<(usize, Vec<FrameRef>)> = vec![(0, Vec::new()); partitions.clamp(1, frames.len().max(1))];
        for frame in frames {
            let (rows, group) = groups
                .iter_mut()
                .min_by_key(|(rows, _)| *rows)
                .expect("there is at least one group");
            *rows += frame.rows();
            group.push(frame);
        }
        let partitions: Vec<_> = groups.into_iter().map(|(_, group)| group).collect();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(HotExec {
            table,
            partitions,
            tenant: scope.tenant().cloned(),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// Whose rows it yields; `None` is everybody's.
    pub(crate) fn tenant(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref()
    }
}

impl DisplayAs for HotExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames: usize = self.partitions.iter().map(Vec::len).sum();
        let rows: usize = self.partitions.iter().flatten().map(FrameRef::rows).sum();
        write!(f, "HotExec: table={}, frames={frames}, rows={rows}", self.table.name())
    }
}

impl ExecutionPlan for HotExec {
    fn name(&self) -> &str {
        "HotExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let frames = self.partitions[partition].clone();
        let schema = self.schema();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let rows_max = context.session_config().batch_size();
        let (wanted, tenant) = (schema.clone(), self.tenant.clone());
        let batches = stream::iter(frames)
            .map(move |frame| {
                let _timer = metrics.elapsed_compute().timer();
                let rows = read(&frame, &wanted, tenant.as_deref())?;
                metrics.record_output(rows.num_rows());
                Ok::<_, DataFusionError>(rows)
            })
            .map_ok(move |rows| {
                let starts = (0..rows.num_rows()).step_by(rows_max);
                let pieces: Vec<_> = starts
                    .map(|start| Ok(rows.slice(start, rows_max.min(rows.num_rows() - start))))
                    .collect();
                stream::iter(pieces)
            })
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let rows = |frames: &Vec<FrameRef>| frames.iter().map(FrameRef::rows).sum::<usize>();
        let mut statistics = Statistics::new_unknown(&self.schema());
        let rows = match args.partition() {
            Some(partition) => rows(&self.partitions[partition]),
            None => self.partitions.iter().map(rows).sum(),
        };
        // A count must not be answered from rows that are not shown.
        statistics.num_rows = match self.tenant {
            None => Precision::Exact(rows),
            Some(_) => Precision::Inexact(rows),
        };
        Ok(Arc::new(statistics))
    }
}

/// The wanted columns of a frame, of the tenant's rows if there is one. A damaged frame is an error that names it.
fn read(frame: &FrameRef, wanted: &SchemaRef, tenant: Option<&str>) -> Result<RecordBatch> {
    let storage = |error: tailwater_storage::Error| DataFusionError::External(Box::new(error));
    let rows = frame.read().map_err(storage)?;
    let mask = match tenant {
        Some(tenant) => {
            let column = rows.schema().index_of(tenant::COLUMN)?;
            Some(tenant::mask(rows.column(column), tenant)?)
        }
        None => None,
    };
    let rows = if wanted.fields().is_empty() {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(wanted.clone(), Vec::new(), &options)?
    } else {
        as_schema(&rows, wanted).map_err(storage)?
    };
    match mask {
        Some(mask) => tenant::take(&rows, &mask),
        None => Ok(rows),
    }
}
