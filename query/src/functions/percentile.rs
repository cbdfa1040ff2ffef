//! `percentile_cont` by group, faster than DataFusion's own: the same answers from values that are kept where they came.
//!
//! DataFusion pushes each value onto a vector of its group, and a state onto another: half of the time goes into growing them. Rows of a lake come
//! in runs of one group. So a batch's values stay as they are, beside the lengths of its runs, and are copied once, group by group, when asked.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, ListArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::{and, is_not_null};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, resources_datafusion_err};
use datafusion::functions_aggregate::percentile_cont::percentile_cont_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, Signature,
};

/// DataFusion's function in all but how DOUBLE values are gathered by group.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct PercentileCont {
    inner: Arc<AggregateUDF>,
}

impl PercentileCont {
    pub(super) fn new() -> PercentileCont {
        PercentileCont {
            inner: percentile_cont_udaf(),
        }
    }
}

impl AggregateUDFImpl for PercentileCont {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        if *args.expr_fields[0].data_type() != DataType::Float64 {
            return self.inner.create_groups_accumulator(args);
        }
        Ok(Box::new(Percentiles {
            of_one: self.inner.accumulator(args.clone())?,
            of_rows: self.inner.create_groups_accumulator(args)?,
            batches: Vec::new(),
            groups: 0,
        }))
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.inner.simplify()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

struct Percentiles {
    /// Says the percentile of one group. Empty between calls.
    of_one: Box<dyn Accumulator>,
    /// Makes states of single rows.
    of_rows: Box<dyn GroupsAccumulator>,
    batches: Vec<Batch>,
    groups: usize,
}

struct Batch {
    values: ScalarBuffer<f64>,
    runs: Vec<Run>,
}

/// The next values of a batch, all of one group. A group of `GONE` has been told.
#[derive(Clone, Copy)]
struct Run {
    group: u32,
    len: u32,
}

const GONE: u32 = u32::MAX;

impl Batch {
    fn new(values: ScalarBuffer<f64>, groups: impl Iterator<Item = (usize, usize)>) -> Batch {
        let mut runs: Vec<Run> = Vec::new();
        for (group, len) in groups.filter(|(_, len)| *len > 0) {
            match runs.last_mut() {
                Some(run) if run.group as usize == group => run.len += len as u32,
                _ => runs.push(Run {
                    group: group as u32,
                    len: len as u32,
                }),
            }
        }
        Batch { values, runs }
    }

    fn size(&self) -> usize {
        size_of_val(&self.values[..]) + self.runs.capacity() * size_of::<Run>()
    }
}

impl Percentiles {
    /// The values of the groups below `end`, group by group, with where each group's begin and the last one's end. They are gone from here then, and
    /// the group `end` is the first.
    fn take(&mut self, emit_to: EmitTo) -> (Vec<usize>, Vec<f64>) {
        let end = match emit_to {
            EmitTo::All => self.groups,
            EmitTo::First(end) => end,
        };
        let mut starts = vec![0; end + 1];
        let runs = self.batches.iter().flat_map(|batch| &batch.runs);
        for run in runs.filter(|run| (run.group as usize) < end) {
            starts[run.group as usize + 1] += run.len as usize;
        }
        (0..end).for_each(|group| starts[group + 1] += starts[group]);
        let mut values = vec![0.0; starts[end]];
        let mut next = starts.clone();
        for batch in &mut self.batches {
            let mut at = 0;
            for run in &mut batch.runs {
                let (group, len) = (run.group as usize, run.len as usize);
                if group < end {
                    values[next[group]..next[group] + len].copy_from_slice(&batch.values[at..at + len]);
                    next[group] += len;
                    run.group = GONE;
                } else if run.group != GONE {
                    run.group -= end as u32;
                }
                at += len;
            }
        }
        self.batches
            .retain(|batch| batch.runs.iter().any(|run| run.group != GONE));
        self.groups -= end;
        (starts, values)
    }
}

impl GroupsAccumulator for Percentiles {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.groups = total;
        let values = values[0].as_primitive::<Float64Type>();
        let valid = values.nulls().map(|_| is_not_null(values)).transpose()?;
        let passing = match (filter, valid) {
            (Some(filter), Some(valid)) => Some(and(&is_true(filter), &valid)?),
            (Some(filter), None) => Some(is_true(filter)),
            (None, valid) => valid,
        };
        let batch = match passing {
            None => Batch::new(values.values().clone(), groups.iter().map(|group| (*group, 1))),
            Some(passing) => {
                let rows = || passing.values().set_indices();
                let kept: Vec<f64> = rows().map(|row| values.value(row)).collect();
                Batch::new(kept.into(), rows().map(|row| (groups[row], 1)))
            }
        };
        self.batches.push(batch);
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.groups = total;
        let states = states[0].as_list::<i32>();
        let values = states.values().as_primitive::<Float64Type>();
        let offsets = states.value_offsets();
        let (first, last) = (offsets[0] as usize, offsets[states.len()] as usize);
        // A list that is null may hold values all the same: they are of no group.
        let runs = groups.iter().enumerate().map(|(row, group)| {
            let len = (offsets[row + 1] - offsets[row]) as usize;
            (if states.is_null(row) { GONE as usize } else { *group }, len)
        });
        let batch = Batch::new(values.values().slice(first, last - first), runs);
        self.batches.push(batch);
        Ok(())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (starts, values) = self.take(emit_to);
        let offsets: Option<Vec<i32>> = starts.iter().map(|start| i32::try_from(*start).ok()).collect();
        let offsets =
            offsets.ok_or_else(|| resources_datafusion_err!("percentile_cont of over 2,147,483,647 values"))?;
        let lists = ListArray::try_new(
            Arc::new(Field::new_list_field(DataType::Float64, true)),
            OffsetBuffer::new(offsets.into()),
            Arc::new(Float64Array::from(values)),
            None,
        )?;
        Ok(vec![Arc::new(lists)])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (starts, values) = self.take(emit_to);
        let values = Float64Array::from(values);
        let mut answers = Vec::with_capacity(starts.len() - 1);
        for group in starts.windows(2) {
            let of_group: ArrayRef = Arc::new(values.slice(group[0], group[1] - group[0]));
            self.of_one.update_batch(&[of_group])?;
            answers.push(match self.of_one.evaluate()? {
                ScalarValue::Float64(answer) => answer,
                other => unreachable!("a percentile of DOUBLE that is {other:?}"),
            });
            // Takes the values out.
            self.of_one.state()?;
        }
        Ok(Arc::new(Float64Array::from(answers)))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        // The second argument is the rank.
        self.of_rows.convert_to_state(&values[..1], filter)
    }

    fn size(&self) -> usize {
        self.batches.iter().map(Batch::size).sum::<usize>() + self.batches.capacity() * size_of::<Batch>()
    }
}

/// A filter passes what is true, not what is null.
fn is_true(filter: &BooleanArray) -> BooleanArray {
    match filter.nulls() {
        None => filter.clone(),
        Some(valid) => BooleanArray::new(filter.values() & valid.inner(), None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::datatypes::Schema;
    use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
    use datafusion::physical_expr::expressions::{col, lit};
    use proptest::prelude::*;

    use super::*;

    fn aggregate(function: AggregateUDF) -> AggregateFunctionExpr {
        let schema = Arc::new(Schema::new(vec![Field::new("it", DataType::Float64, true)]));
        let arguments = vec![col("it", &schema).unwrap(), lit(0.9)];
        let builder = AggregateExprBuilder::new(Arc::new(function), arguments);
        builder.schema(schema).alias("p90").build().unwrap()
    }

    /// Batches of rows: a value, its group, whether the filter passes it.
    type Rows = Vec<Vec<(Option<f64>, usize, Option<bool>)>>;

    /// The percentiles by group, in two stages: each batch's states merged, the first of the groups told before the rest.
    fn asked(function: AggregateUDF, rows: &Rows, first: usize) -> Vec<Option<f64>> {
        let aggregate = aggregate(function);
        let new = || aggregate.create_groups_accumulator().unwrap();
        let total = 1 + rows.iter().flatten().map(|row| row.1).max().unwrap_or(0);
        let mut last = new();
        for batch in rows {
            let values: ArrayRef = Arc::new(Float64Array::from_iter(batch.iter().map(|row| row.0)));
            let groups: Vec<usize> = batch.iter().map(|row| row.1).collect();
            let filter = BooleanArray::from_iter(batch.iter().map(|row| row.2));
            let rank: ArrayRef = Arc::new(Float64Array::from_value(0.9, values.len()));
            let mut one = new();
            one.update_batch(&[values.clone(), rank], &groups, Some(&filter), total)
                .unwrap();
            let head = one.state(EmitTo::First(first.min(total))).unwrap();
            let tail = one.state(EmitTo::All).unwrap();
            let heads: Vec<usize> = (0..first.min(total)).collect();
            let tails: Vec<usize> = (first.min(total)..total).collect();
            last.merge_batch(&head, &heads, total).unwrap();
            last.merge_batch(&tail, &tails, total).unwrap();
            // Rows that are not aggregated are states of their own.
            let single = new().convert_to_state(&[values], Some(&filter)).unwrap();
            last.merge_batch(&single, &groups, total).unwrap();
        }
        let head = last.evaluate(EmitTo::First(first.min(total))).unwrap();
        let tail = last.evaluate(EmitTo::All).unwrap();
        let answers = [head, tail];
        answers
            .iter()
            .flat_map(|answers| answers.as_primitive::<Float64Type>().iter())
            .collect()
    }

    proptest! {
        #[test]
        fn the_answers_are_datafusions(
            rows in prop::collection::vec(
                prop::collection::vec((prop::option::of(-1e3f64..1e3), 0..5usize, prop::option::of(any::<bool>())), 1..30), 1..5),
            first in 0..6usize,
        ) {
            let ours = asked(AggregateUDF::new_from_impl(PercentileCont::new()), &rows, first);
            let theirs = asked(percentile_cont_udaf().as_ref().clone(), &rows, first);
            prop_assert_eq!(ours, theirs);
        }
    }
}
