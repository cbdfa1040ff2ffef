//! `exphist` and `exphist_merge`: aggregation into sketches, by group in flat memory.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, not_impl_err, plan_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};
use tailwater_model::exphist::{Malformed, Sketches, View};

use super::bytes::{Bytes, coerce, coerce_number};

/// Both functions: they differ in what a row is.
pub(super) fn all() -> [ExpHistAggregate; 2] {
    [Input::Values, Input::Sketches].map(|input| ExpHistAggregate {
        input,
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Input {
    /// DOUBLE values, perhaps with DOUBLE weights.
    Values,
    /// BINARY sketches.
    Sketches,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ExpHistAggregate {
    input: Input,
    signature: Signature,
}

impl AggregateUDFImpl for ExpHistAggregate {
    fn name(&self) -> &str {
        match self.input {
            Input::Values => "exphist",
            Input::Sketches => "exphist_merge",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match (self.input, given.len()) {
            (Input::Values, 1 | 2) => given.iter().map(|given| coerce_number(self.name(), given)).collect(),
            (Input::Sketches, 1) => Ok(vec![coerce(self.name(), &given[0])?]),
            (Input::Values, n) => plan_err!("exphist takes a value and perhaps a weight, not {n} arguments"),
            (Input::Sketches, n) => plan_err!("exphist_merge takes one sketch, not {n} arguments"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return not_impl_err!("{} does not take DISTINCT", self.name());
        }
        let mut sketches = Sketches::new();
        sketches.resize(1);
        Ok(Box::new(One {
            input: self.input,
            sketches,
        }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Many {
            input: self.input,
            sketches: Sketches::new(),
        }))
    }
}

/// Aggregation without GROUP BY.
#[derive(Debug)]
struct One {
    input: Input,
    sketches: Sketches,
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        update(self.input, &mut self.sketches, values, None, |_| 0)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(self.sketches.any(0).then(|| {
            let mut bytes = Vec::new();
            self.sketches.encode(0, &mut bytes);
            bytes
        })))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sketches.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        update(Input::Sketches, &mut self.sketches, states, None, |_| 0)
    }
}

/// Aggregation by group.
struct Many {
    input: Input,
    sketches: Sketches,
}

impl GroupsAccumulator for Many {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.sketches.resize(total_num_groups);
        update(self.input, &mut self.sketches, values, opt_filter, |row| {
            group_indices[row]
        })
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = match emit_to {
            EmitTo::All => self.sketches.len(),
            EmitTo::First(groups) => groups,
        };
        let sketches = encode(&self.sketches, groups);
        self.sketches.drop_first(groups);
        Ok(sketches)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.sketches.resize(total_num_groups);
        update(Input::Sketches, &mut self.sketches, states, None, |row| {
            group_indices[row]
        })
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut sketches = Sketches::new();
        sketches.resize(rows);
        update(self.input, &mut sketches, values, opt_filter, |row| row)?;
        Ok(vec![encode(&sketches, rows)])
    }

    fn size(&self) -> usize {
        self.sketches.size()
    }
}

impl std::fmt::Debug for Many {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {} groups", self.input, self.sketches.len())
    }
}

/// The first `groups` sketches; NULL for those that counted nothing.
fn encode(sketches: &Sketches, groups: usize) -> ArrayRef {
    let mut builder = BinaryBuilder::with_capacity(groups, groups * 64);
    let mut bytes = Vec::new();
    for group in 0..groups {
        if sketches.any(group) {
            bytes.clear();
            sketches.encode(group, &mut bytes);
            builder.append_value(&bytes);
        } else {
            builder.append_null();
        }
    }
    Arc::new(builder.finish())
}

fn update(
    input: Input,
    sketches: &mut Sketches,
    columns: &[ArrayRef],
    filter: Option<&BooleanArray>,
    group: impl Fn(usize) -> usize,
) -> Result<()> {
    let wanted = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
    match input {
        Input::Values => {
            let values: &Float64Array = columns[0].as_primitive::<Float64Type>();
            let weights: Option<&Float64Array> = columns.get(1).map(|weights| weights.as_primitive::<Float64Type>());
            // A row without a weight stands for itself: that is what NULL says in `sample_weight`.
            let weight = |row: usize| match weights {
                Some(weights) if weights.is_valid(row) => weights.value(row),
                _ => 1.0,
            };
            if values.null_count() == 0 && filter.is_none() {
                for (row, value) in values.values().iter().enumerate() {
                    sketches.record(group(row), *value, weight(row));
                }
                return Ok(());
            }
            for row in (0..values.len()).filter(|row| values.is_valid(*row) && wanted(*row)) {
                sketches.record(group(row), values.value(row), weight(row));
            }
        }
        Input::Sketches => {
            let column = Bytes::of(&columns[0])?;
            for row in (0..columns[0].len()).filter(|row| wanted(*row)) {
                if let Some(bytes) = column.get(row) {
                    View::parse(bytes)
                        .and_then(|view| sketches.merge(group(row), view))
                        .map_err(malformed)?;
                }
            }
        }
    }
    Ok(())
}

pub(super) fn malformed(error: Malformed) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("{error}")
}
