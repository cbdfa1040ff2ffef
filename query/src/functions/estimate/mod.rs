//! `ht_sum`, `ht_ratio`, `wquantile` and their interval forms: what sampled rows say of all rows. The arithmetic, with its authors, is
//! [`tailwater_slo::estimate`]; `docs/estimators.md` is for those who ask.
//!
//! An aggregate keeps, per group, a head of sums and, if it needs them, cells (one for each trace and weight: intervals of sums and ratios),
//! draws (one for each row: quantiles) or its first traces (a ratio that is told them). A partial state is all of that as one binary value, so merging loses nothing and a group may spill. What is
//! held is accounted to the query's memory, twice: answers are computed on a copy of a group. When it does not fit, the query ends with
//! `resources_exhausted`.

mod answer;
mod held;
mod input;
mod remarks;
mod store;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{Result, ScalarValue, not_impl_err, plan_datafusion_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, ColumnarValue, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_plan::PhysicalExpr;
use tailwater_slo::interval::Confidence;

use super::bytes::coerce_number;
use held::Held;
pub(crate) use remarks::Remarks;

/// What is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Sum,
    Ratio,
    Quantile,
}

/// All of them; what their answers rest on goes to `remarks`.
pub(super) fn all(remarks: &Remarks) -> Vec<Estimator> {
    let forms = [What::Sum, What::Ratio, What::Quantile].map(|what| [(what, false), (what, true)]);
    let estimator = |(what, interval)| Estimator {
        kind: Kind { what, interval },
        remarks: remarks.clone(),
        signature: Signature::user_defined(Volatility::Immutable),
    };
    forms.into_iter().flatten().map(estimator).collect()
}

/// Which of the six.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    what: What,
    interval: bool,
}

impl Kind {
    fn name(self) -> &'static str {
        match (self.what, self.interval) {
            (What::Sum, false) => "ht_sum",
            (What::Sum, true) => "ht_sum_interval",
            (What::Ratio, false) => "ht_ratio",
            (What::Ratio, true) => "ht_ratio_interval",
            (What::Quantile, false) => "wquantile",
            (What::Quantile, true) => "wquantile_interval",
        }
    }

    /// Its arguments; those in brackets may be left out.
    fn usage(self) -> &'static str {
        match (self.what, self.interval) {
            (What::Sum, false) => "ht_sum(value, weight)",
            (What::Sum, true) => "ht_sum_interval(value, weight, trace [, confidence])",
            (What::Ratio, false) => "ht_ratio(num, den, weight [, trace])",
            (What::Ratio, true) => "ht_ratio_interval(num, den, weight, trace [, confidence])",
            (What::Quantile, false) => "wquantile(value, weight, q)",
            (What::Quantile, true) => "wquantile_interval(value, weight, q, trace [, confidence])",
        }
    }

    /// Where its arguments are: the weight, and of those it may lack the place.
    fn weight(self) -> usize {
        if self.what == What::Ratio { 2 } else { 1 }
    }

    fn trace(self) -> usize {
        if self.what == What::Sum { 2 } else { 3 }
    }

    fn arguments(self) -> std::ops::RangeInclusive<usize> {
        match (self.what, self.interval) {
            (What::Sum, false) => 2..=2,
            (What::Sum, true) => 3..=4,
            (What::Ratio, false) => 3..=4,
            (What::Quantile, false) => 3..=3,
            (What::Ratio | What::Quantile, true) => 4..=5,
        }
    }
}

/// An aggregate function.
#[derive(Debug)]
pub(super) struct Estimator {
    kind: Kind,
    remarks: Remarks,
    signature: Signature,
}

// Of two queries the remarks differ, the function is the same.
impl PartialEq for Estimator {
    fn eq(&self, other: &Estimator) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Estimator {}

impl Hash for Estimator {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

/// One use of an estimator in a query.
#[derive(Debug, Clone)]
struct Call {
    kind: Kind,
    /// Whether it is told the traces: intervals are, `ht_ratio` may be, to know how few they are.
    traced: bool,
    /// Which quantile.
    q: f64,
    confidence: Confidence,
    remarks: Remarks,
}

impl Estimator {
    fn call(&self, args: &AccumulatorArgs<'_>) -> Result<Call> {
        let name = self.kind.name();
        if args.is_distinct {
            return not_impl_err!("{name} does not take DISTINCT: equal rows are different rows");
        }
        let mut q = 0.0;
        if self.kind.what == What::Quantile {
            q = constant(name, "the quantile", &args.exprs[2])?;
            if !(0.0..=1.0).contains(&q) {
                return plan_err!("{name}: the quantile is between 0 and 1, not {q}");
            }
        }
        let mut confidence = Confidence::P95;
        if self.kind.interval && args.exprs.len() > self.kind.trace() + 1 {
            let wanted = constant(name, "the confidence", &args.exprs[self.kind.trace() + 1])?;
            let known = [(0.9, Confidence::P90), (0.95, Confidence::P95), (0.99, Confidence::P99)];
            let found = known.iter().find(|(share, _)| *share == wanted);
            confidence = found
                .ok_or_else(|| plan_datafusion_err!("{name}: the confidence is 0.9, 0.95 or 0.99, not {wanted}"))?
                .1;
        }
        Ok(Call {
            kind: self.kind,
            traced: self.kind.interval || self.kind.what == What::Ratio && args.exprs.len() > self.kind.trace(),
            q,
            confidence,
            remarks: self.remarks.clone(),
        })
    }
}

/// The value of an argument that is the same for all rows.
fn constant(name: &str, what: &str, expr: &Arc<dyn PhysicalExpr>) -> Result<f64> {
    let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
    match expr.evaluate(&nothing) {
        Ok(ColumnarValue::Scalar(ScalarValue::Float64(Some(value)))) => Ok(value),
        _ => plan_err!("{name}: {what} is a constant number"),
    }
}

impl AggregateUDFImpl for Estimator {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        if !self.kind.arguments().contains(&given.len()) {
            return plan_err!("{}: {} arguments were given", self.kind.usage(), given.len());
        }
        let takes_trace = self.kind.what == What::Ratio || self.kind.interval;
        let types = given.iter().enumerate().map(|(at, given)| {
            if takes_trace && at == self.kind.trace() {
                input::coerce_trace(self.name(), given)
            } else {
                coerce_number(self.name(), given)
            }
        });
        types.collect()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.kind.interval {
            DataType::Struct(answer::fields())
        } else {
            DataType::Float64
        })
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let name = format_state_name(args.name, "held");
        Ok(vec![Arc::new(Field::new(name, DataType::LargeBinary, true))])
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(One(Held::new(self.call(&args)?))))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Held::new(self.call(&args)?)))
    }
}

/// Aggregation without GROUP BY.
#[derive(Debug)]
struct One(Held);

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.resize(1);
        self.0.update(values, None, |_| 0)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.resize(1);
        ScalarValue::try_from_array(&self.0.answers(1)?, 0)
    }

    fn size(&self) -> usize {
        self.0.bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.resize(1);
        Ok(vec![ScalarValue::try_from_array(&self.0.states(1)?, 0)?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.resize(1);
        self.0.merge(states, |_| 0)
    }
}

impl GroupsAccumulator for Held {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.resize(total_num_groups);
        self.update(values, opt_filter, |row| group_indices[row])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.emitted(emit_to);
        let answers = self.answers(groups)?;
        self.drop_first(groups)?;
        Ok(answers)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = self.emitted(emit_to);
        let states = self.states(groups)?;
        self.drop_first(groups)?;
        Ok(vec![states])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.resize(total_num_groups);
        self.merge(states, |row| group_indices[row])
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut each = Held::new(self.call.clone());
        each.resize(rows);
        each.update(values, opt_filter, |row| row)?;
        Ok(vec![each.states(rows)?])
    }

    fn size(&self) -> usize {
        self.bytes()
    }
}

#[cfg(test)]
mod tests;
