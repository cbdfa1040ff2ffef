//! Partial aggregation of rows that come in runs of one group.
//!
//! ```text
//!   batch ──> group columns ──> where a run begins ──> a group number per run (hash table) ──> a group number per row ──> accumulators
//! ```
//!
//! DataFusion hashes and compares the group columns of every row. The rows of a lake are in order of service, name and time, so that thousands of
//! neighbours are of one group, and seeing that a row is as the one before it costs a tenth of looking it up.
//!
//! Guarantees: the states of `AggregateExec` in mode partial, each group's once unless memory ran short. Assumes: a partial aggregate
//! with plain groups. Leaves out: spilling (a partial aggregate hands on what it has), giving up where groups are nearly as many as rows.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, AsArray, ByteView, GenericByteViewArray, RecordBatch, UInt32Array,
    downcast_primitive_array,
};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::take_arrays;
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, SchemaRef, StringViewType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, Statistics, internal_datafusion_err};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use datafusion::physical_plan::aggregates::{
    AggregateExec, AggregateMode, aggregate_expressions, evaluate_group_by, evaluate_many,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions, SendableRecordBatchStream,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tailwater_model::table::{self, Table};

use crate::provider::store_url;

/// Puts [`RunAggregateExec`] in the place of partial aggregates whose groups the tables' order keeps together.
#[derive(Debug)]
pub(crate) struct AggregateRuns;

impl PhysicalOptimizerRule for AggregateRuns {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let replaced = |plan: Arc<dyn ExecutionPlan>| {
            Ok(match plan.downcast_ref::<AggregateExec>() {
                Some(partial) if comes_in_runs(partial) => Transformed::yes(RunAggregateExec::over(partial.clone())),
                _ => Transformed::no(plan),
            })
        };
        plan.transform_up(replaced).data()
    }

    fn name(&self) -> &str {
        "aggregate_runs"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn comes_in_runs(aggregate: &AggregateExec) -> bool {
    let groups = aggregate.group_expr();
    let plain = *aggregate.mode() == AggregateMode::Partial
        && groups.is_single()
        && !groups.is_empty()
        && aggregate.limit_options().is_none()
        && !aggregate.aggr_expr().is_empty()
        && aggregate.aggr_expr().iter().all(|of| of.groups_accumulator_supported());
    let columns = groups
        .expr()
        .iter()
        .filter_map(|(group, _)| group.downcast_ref::<Column>());
    plain
        && columns
            .into_iter()
            .any(|column| leads(aggregate.input(), column.name()))
}

/// Whether the files that are read here are in order of this column, after the tenant.
fn leads(plan: &Arc<dyn ExecutionPlan>, column: &str) -> bool {
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>() {
        let files = scan.data_source().downcast_ref::<FileScanConfig>();
        let of_table = |table: &Table| files.is_some_and(|files| files.object_store_url == store_url(*table));
        return Table::ALL
            .into_iter()
            .find(of_table)
            .is_some_and(|table| table::sort_columns(table).get(1) == Some(&column));
    }
    plan.children().into_iter().any(|child| leads(child, column))
}

/// What the aggregate in it says, computed run by run.
#[derive(Debug)]
pub(crate) struct RunAggregateExec {
    partial: AggregateExec,
    metrics: ExecutionPlanMetricsSet,
}

impl RunAggregateExec {
    fn over(partial: AggregateExec) -> Arc<dyn ExecutionPlan> {
        Arc::new(RunAggregateExec {
            partial,
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

impl DisplayAs for RunAggregateExec {
    fn fmt_as(&self, form: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if form != DisplayFormatType::TreeRender {
            f.write_str("RunAggregateExec: ")?;
        }
        self.partial.fmt_as(form, f)
    }
}

impl ExecutionPlan for RunAggregateExec {
    fn name(&self) -> &str {
        "RunAggregateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.partial.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.partial.children()
    }

    fn apply_expressions(
        &self,
        each: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.partial.apply_expressions(each)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partial = Arc::new(self.partial.clone()).replace_children(children, options)?;
        partial_again(&partial)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.partial.input().execute(partition, context.clone())?;
        let reservation = MemoryConsumer::new(format!("RunAggregate[{partition}]")).register(context.memory_pool());
        let groups = Groups::new(&self.partial, reservation, context.session_config().batch_size())?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            aggregate(input, groups, metrics),
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        self.partial.statistics_from_inputs(inputs, args)
    }
}

fn partial_again(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let partial = plan.downcast_ref::<AggregateExec>();
    let partial = partial.ok_or_else(|| internal_datafusion_err!("an aggregate that is none with other inputs"))?;
    Ok(RunAggregateExec::over(partial.clone()))
}

/// The states of all groups when the input has ended, and of those so far where memory runs short.
fn aggregate(
    input: SendableRecordBatchStream,
    groups: Groups,
    metrics: BaselineMetrics,
) -> impl Stream<Item = Result<RecordBatch>> {
    let steps = stream::try_unfold(Some((input, groups, metrics)), |state| async move {
        let Some((mut input, mut groups, metrics)) = state else {
            return Ok(None);
        };
        loop {
            let Some(rows) = input.next().await.transpose()? else {
                let states = groups.tell()?;
                metrics.record_output(states.iter().map(RecordBatch::num_rows).sum());
                return Ok::<_, DataFusionError>(Some((states, None)));
            };
            let timer = metrics.elapsed_compute().timer();
            groups.add(&rows)?;
            if let Err(short) = groups.reserve() {
                if groups.is_empty() {
                    return Err(short);
                }
                let states = groups.tell()?;
                groups.reserve()?;
                metrics.record_output(states.iter().map(RecordBatch::num_rows).sum());
                timer.done();
                return Ok(Some((states, Some((input, groups, metrics)))));
            }
        }
    });
    steps
        .map_ok(|states| stream::iter(states.into_iter().map(Ok)))
        .try_flatten()
}

/// The groups of one partition so far.
struct Groups {
    partial: AggregateExec,
    schema: SchemaRef,
    keys: Box<dyn GroupValues>,
    aggregates: Vec<Aggregate>,
    arguments: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    reservation: MemoryReservation,
    rows_max: usize,
    /// Of the batch at hand: the group of each run, and of each row.
    of_runs: Vec<usize>,
    of_rows: Vec<usize>,
}

struct Aggregate {
    filter: Option<Arc<dyn PhysicalExpr>>,
    states: Box<dyn GroupsAccumulator>,
}

impl Groups {
    fn new(partial: &AggregateExec, reservation: MemoryReservation, rows_max: usize) -> Result<Groups> {
        let aggregates = partial
            .aggr_expr()
            .iter()
            .zip(partial.filter_expr())
            .map(|(of, filter)| {
                Ok(Aggregate {
                    filter: filter.clone(),
                    states: of.create_groups_accumulator()?,
                })
            });
        Ok(Groups {
            schema: partial.schema(),
            keys: new_group_values(
                partial.group_expr().group_schema(&partial.input_schema())?,
                &GroupOrdering::None,
            )?,
            aggregates: aggregates.collect::<Result<_>>()?,
            arguments: aggregate_expressions(
                partial.aggr_expr(),
                partial.mode(),
                partial.group_expr().num_group_exprs(),
            )?,
            partial: partial.clone(),
            reservation,
            rows_max: rows_max.max(1),
            of_runs: Vec::new(),
            of_rows: Vec::new(),
        })
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn add(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let mut sets = evaluate_group_by(self.partial.group_expr(), rows)?;
        let columns = sets
            .pop()
            .ok_or_else(|| internal_datafusion_err!("an aggregate without groups"))?;
        self.find(&columns, rows.num_rows())?;
        let total = self.keys.len();
        let arguments = evaluate_many(&self.arguments, rows)?;
        for (aggregate, arguments) in self.aggregates.iter_mut().zip(arguments) {
            let filter = aggregate.filter.as_ref();
            let filter = filter
                .map(|filter| filter.evaluate(rows)?.into_array(rows.num_rows()))
                .transpose()?;
            let filter = filter.as_ref().map(|filter| filter.as_boolean());
            aggregate
                .states
                .update_batch(&arguments, &self.of_rows, filter, total)?;
        }
        Ok(())
    }

    /// The group of each row.
    fn find(&mut self, columns: &[ArrayRef], rows: usize) -> Result<()> {
        self.of_rows.clear();
        let starts = starts(columns, rows)?;
        if starts.len() * 2 > rows {
            return self.keys.intern(columns, &mut self.of_rows);
        }
        let firsts = take_arrays(columns, &UInt32Array::from(starts.clone()), None)?;
        self.keys.intern(&firsts, &mut self.of_runs)?;
        let ends = starts.iter().skip(1).map(|end| *end as usize).chain([rows]);
        for (group, end) in self.of_runs.iter().zip(ends) {
            self.of_rows.resize(end, *group);
        }
        Ok(())
    }

    fn reserve(&mut self) -> Result<()> {
        let states: usize = self.aggregates.iter().map(|aggregate| aggregate.states.size()).sum();
        let numbers = (self.of_rows.capacity() + self.of_runs.capacity()) * size_of::<usize>();
        self.reservation.try_resize(self.keys.size() + states + numbers)
    }

    /// The states of all groups, which are gone from here then.
    fn tell(&mut self) -> Result<Vec<RecordBatch>> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let mut columns = self.keys.emit(EmitTo::All)?;
        for aggregate in &mut self.aggregates {
            columns.extend(aggregate.states.state(EmitTo::All)?);
        }
        self.keys.clear_shrink(0);
        let states = RecordBatch::try_new(self.schema.clone(), columns)?;
        let pieces = (0..states.num_rows()).step_by(self.rows_max);
        Ok(pieces
            .map(|at| states.slice(at, self.rows_max.min(states.num_rows() - at)))
            .collect())
    }
}

/// The rows that differ from the one before them in any column; the first is one.
fn starts(columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
    let mut differs = vec![false; rows];
    differs[0] = true;
    for column in columns {
        match column.data_type() {
            DataType::Utf8View if column.null_count() == 0 => {
                texts::<StringViewType>(column.as_string_view(), &mut differs)
            }
            DataType::BinaryView if column.null_count() == 0 => {
                texts::<BinaryViewType>(column.as_binary_view(), &mut differs)
            }
            _ => downcast_primitive_array! {
                column => if column.null_count() == 0 {
                    let values = column.values();
                    let neighbours = values.iter().zip(&values[1..]);
                    differs[1..].iter_mut().zip(neighbours).for_each(|(differs, (a, b))| *differs |= a.is_ne(*b));
                } else {
                    any(column, &mut differs)?
                },
                _ => any(column, &mut differs)?
            },
        }
    }
    let rows = differs.iter().enumerate().filter(|(_, differs)| **differs);
    Ok(rows.map(|(row, _)| row as u32).collect())
}

/// Views that are the same are of the same text; others may be still, of another page.
fn texts<T: ByteViewType>(texts: &GenericByteViewArray<T>, differs: &mut [bool]) {
    let views = texts.views();
    let bytes = |row| -> &[u8] { texts.value(row).as_ref() };
    for row in 1..views.len() {
        let (before, view) = (views[row - 1], views[row]);
        if before != view {
            let (before_head, head) = (ByteView::from(before), ByteView::from(view));
            let same = before_head.length == head.length && bytes(row - 1) == bytes(row);
            differs[row] |= !same;
        }
    }
}

fn any(column: &dyn Array, differs: &mut [bool]) -> Result<()> {
    let (before, after) = (column.slice(0, column.len() - 1), column.slice(1, column.len() - 1));
    let found = distinct(&before, &after)?;
    differs[1..]
        .iter_mut()
        .zip(found.values())
        .for_each(|(differs, found)| *differs |= found);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use arrow::array::{Int64Array, StringViewArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Int64Type, Schema};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::functions_aggregate::count::count_udaf;
    use datafusion::physical_expr::aggregate::AggregateExprBuilder;
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_plan::aggregates::PhysicalGroupBy;
    use datafusion::physical_plan::collect;
    use proptest::prelude::*;

    use super::*;

    fn check(columns: &[ArrayRef], expected: &[u32]) {
        assert_eq!(starts(columns, columns[0].len()).unwrap(), expected, "{columns:?}");
    }

    #[test]
    fn runs_begin_where_a_column_changes() {
        let texts = |texts: &[Option<&str>]| Arc::new(StringViewArray::from(texts.to_vec())) as ArrayRef;
        let long = ["a service of a long name, one", "a service of a long name, two"];
        check(&[texts(&[Some("a"), Some("a"), Some("b"), Some("a")])], &[0, 2, 3]);
        check(&[texts(&[Some(long[0]), Some(long[0]), Some(long[1])])], &[0, 2]);
        check(&[texts(&[None, None, Some(""), Some(""), None])], &[0, 2, 4]);
        check(
            &[texts(&[Some("a"); 4]), Arc::new(Int64Array::from(vec![1, 1, 2, 2]))],
            &[0, 2],
        );
        check(
            &[Arc::new(Int64Array::from(vec![None, Some(0), Some(0), None]))],
            &[0, 1, 3],
        );
        check(
            &[Arc::new(
                TimestampMicrosecondArray::from(vec![5, 5, 6]).with_timezone("UTC"),
            )],
            &[0, 2],
        );
        check(
            &[Arc::new(arrow::array::BooleanArray::from(vec![true, true, false]))],
            &[0, 2],
        );
        check(&[texts(&[Some("alone")])], &[0]);
    }

    /// Counts by text, as the states of a partial aggregate tell them, with this much memory; and how many batches these were.
    fn counted(rows: Vec<RecordBatch>, memory: usize) -> Result<(BTreeMap<Option<String>, i64>, usize)> {
        let schema = rows[0].schema();
        let input = MemorySourceConfig::try_new_exec(&[rows], schema.clone(), None)?;
        let groups = PhysicalGroupBy::new_single(vec![(col("it", &schema)?, "it".into())]);
        let count = AggregateExprBuilder::new(count_udaf(), vec![col("it", &schema)?]).schema(schema.clone());
        let count = Arc::new(count.alias("count").build()?);
        let partial = AggregateExec::try_new(AggregateMode::Partial, groups, vec![count], vec![None], input, schema)?;
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(memory, 1.0).build_arc()?;
        let context = TaskContext::default().with_runtime(runtime);
        let states = futures::executor::block_on(collect(RunAggregateExec::over(partial), Arc::new(context)))?;
        let mut counts = BTreeMap::new();
        for state in &states {
            let (texts, of) = (
                state.column(0).as_string_view(),
                state.column(1).as_primitive::<Int64Type>(),
            );
            for (text, count) in texts.iter().zip(of.values()) {
                *counts.entry(text.map(str::to_owned)).or_default() += count;
            }
        }
        Ok((counts, states.len()))
    }

    fn batches(texts: &[Vec<Option<String>>]) -> Vec<RecordBatch> {
        let schema = Arc::new(Schema::new(vec![Field::new("it", DataType::Utf8View, true)]));
        let batch = |texts: &Vec<Option<String>>| {
            let column = Arc::new(StringViewArray::from_iter(texts.iter().map(Option::as_deref)));
            RecordBatch::try_new(schema.clone(), vec![column]).unwrap()
        };
        texts.iter().map(batch).collect()
    }

    proptest! {
        #[test]
        fn every_row_is_counted_once(
            texts in prop::collection::vec(prop::collection::vec((prop::option::of("[ab]{0,2}"), 1..9usize), 0..20), 1..5)
        ) {
            let repeated = |runs: &Vec<(Option<String>, usize)>| {
                runs.iter().flat_map(|(text, times)| vec![text.clone(); *times]).collect::<Vec<_>>()
            };
            let texts: Vec<_> = texts.iter().map(repeated).collect();
            let mut expected: BTreeMap<Option<String>, i64> = BTreeMap::new();
            for text in texts.iter().flatten() {
                // `count(it)` counts no nulls.
                *expected.entry(text.clone()).or_default() += i64::from(text.is_some());
            }
            prop_assert_eq!(counted(batches(&texts), usize::MAX).unwrap().0, expected);
        }
    }

    #[test]
    fn what_there_is_goes_on_where_memory_is_short() {
        let texts: Vec<Vec<_>> = (0..50)
            .map(|batch| {
                (0..1000)
                    .map(|row| Some(format!("a text of some length, {}", batch * 500 + row / 2)))
                    .collect()
            })
            .collect();
        let (all, whole) = counted(batches(&texts), usize::MAX).unwrap();
        let (again, pieces) = counted(batches(&texts), 400 << 10).unwrap();
        assert_eq!(all, again);
        assert!(pieces > whole, "{pieces} of {whole}");
        let error = counted(batches(&texts), 1 << 10).unwrap_err();
        assert!(error.to_string().contains("RunAggregate"), "{error}");
    }
}
