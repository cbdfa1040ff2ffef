//! Estimates as a column.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, Int64Builder, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use tailwater_slo::estimate::Estimate;

/// Fields of an interval form's answer.
pub(super) fn fields() -> Fields {
    let field = |name: &str, of: DataType| Field::new(name, of, true);
    Fields::from(vec![
        field("estimate", DataType::Float64),
        field("low", DataType::Float64),
        field("high", DataType::Float64),
        field("n", DataType::Int64),
        field("n_effective", DataType::Float64),
        field("note", DataType::Utf8),
    ])
}

/// Builds the column.
#[derive(Default)]
pub(super) struct Answers {
    estimate: Float64Builder,
    low: Float64Builder,
    high: Float64Builder,
    n: Int64Builder,
    n_effective: Float64Builder,
    note: StringBuilder,
}

impl Answers {
    pub(super) fn push(&mut self, found: &Estimate) {
        self.estimate.append_option(found.estimate);
        self.low.append_option(found.low);
        self.high.append_option(found.high);
        self.n.append_value(found.n as i64);
        self.n_effective.append_value(found.n_effective);
        self.note.append_option(found.note());
    }

    pub(super) fn finish(mut self) -> ArrayRef {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.estimate.finish()),
            Arc::new(self.low.finish()),
            Arc::new(self.high.finish()),
            Arc::new(self.n.finish()),
            Arc::new(self.n_effective.finish()),
            Arc::new(self.note.finish()),
        ];
        Arc::new(StructArray::new(fields(), columns, None))
    }
}
