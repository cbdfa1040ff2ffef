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

/// Reads frames.
#[derive(Debug)]
pub(crate) struct HotExec {
    table: Table,
    partitions: Vec<Vec<FrameRef>>,
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
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
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
        let wanted = schema.clone();
        let batches = stream::iter(frames)
            .map(move |frame| {
                let _timer = metrics.elapsed_compute().timer();
                let rows = read(&frame, &wanted)?;
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
        statistics.num_rows = Precision::Exact(match args.partition() {
            Some(partition) => rows(&self.partitions[partition]),
            None => self.partitions.iter().map(rows).sum(),
        });
        Ok(Arc::new(statistics))
    }
}

/// The wanted columns of a frame. A damaged frame is an error that names it.
fn read(frame: &FrameRef, wanted: &SchemaRef) -> Result<RecordBatch> {
    let storage = |error: tailwater_storage::Error| DataFusionError::External(Box::new(error));
    let rows = frame.read().map_err(storage)?;
    if wanted.fields().is_empty() {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        return Ok(RecordBatch::try_new_with_options(wanted.clone(), Vec::new(), &options)?);
    }
    as_schema(&rows, wanted).map_err(storage)
}
