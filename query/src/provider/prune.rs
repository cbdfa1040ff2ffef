//! Which files and frames can hold a row that matches, by what is known of them without opening them.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::PhysicalExpr;
use tailwater_model::table::{self, Table};
use tailwater_storage::lake::{FileEntry, Value};
use tailwater_storage::outbox::FrameRef;

/// The files that may hold a match, in their order.
pub(super) fn files(
    files: &[Arc<FileEntry>],
    schema: &SchemaRef,
    predicate: &Arc<dyn PhysicalExpr>,
) -> Vec<Arc<FileEntry>> {
    keep(files, schema, predicate, &FileBounds { files, schema })
}

/// The frames that may hold a match, in their order.
pub(super) fn frames(
    table: Table,
    frames: &[FrameRef],
    schema: &SchemaRef,
    predicate: &Arc<dyn PhysicalExpr>,
) -> Vec<FrameRef> {
    keep(
        frames,
        schema,
        predicate,
        &FrameBounds {
            frames,
            schema,
            time: table::time_column(table),
        },
    )
}

fn keep<T: Clone>(
    all: &[T],
    schema: &SchemaRef,
    predicate: &Arc<dyn PhysicalExpr>,
    known: &dyn PruningStatistics,
) -> Vec<T> {
    // A predicate that says nothing about bounds, or that this version of DataFusion cannot judge, prunes nothing.
    let pruning = PruningPredicateBuilder::new()
        .with_file_schema(schema.clone())
        .try_build(predicate.clone());
    let verdicts = pruning.and_then(|predicate| predicate.prune(known));
    match verdicts {
        Ok(verdicts) => all
            .iter()
            .zip(verdicts)
            .filter(|(_, keep)| *keep)
            .map(|(item, _)| item.clone())
            .collect(),
        Err(error) => {
            tracing::debug!(%error, "predicate does not prune");
            all.to_vec()
        }
    }
}

/// A bound as a value of the column's type; `None` where the types do not go together.
pub(super) fn scalar(value: &Value, data_type: &DataType) -> Option<ScalarValue> {
    match (value, data_type) {
        (Value::Text(text), DataType::Utf8View) => Some(ScalarValue::Utf8View(Some(text.to_string()))),
        (Value::Text(text), DataType::Utf8) => Some(ScalarValue::Utf8(Some(text.to_string()))),
        (Value::Int(value), DataType::Int64) => Some(ScalarValue::Int64(Some(*value))),
        (Value::Int(value), DataType::Int32) => i32::try_from(*value).ok().map(|value| ScalarValue::Int32(Some(value))),
        (Value::Int(value), DataType::Int16) => i16::try_from(*value).ok().map(|value| ScalarValue::Int16(Some(value))),
        (Value::Int(value), DataType::Int8) => i8::try_from(*value).ok().map(|value| ScalarValue::Int8(Some(value))),
        (Value::Int(value), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            Some(ScalarValue::TimestampMicrosecond(Some(*value), zone.clone()))
        }
        _ => None,
    }
}

/// One array of a bound for every container; `None` if not one is known.
fn bounds<'a>(
    schema: &SchemaRef,
    column: &Column,
    values: impl Iterator<Item = Option<ScalarValue>> + 'a,
) -> Option<ArrayRef> {
    let data_type = schema.field_with_name(&column.name).ok()?.data_type().clone();
    let nothing = ScalarValue::try_from(&data_type).ok()?;
    let mut any = false;
    let values = values.map(|value| {
        any |= value.is_some();
        value.unwrap_or_else(|| nothing.clone())
    });
    let array = ScalarValue::iter_to_array(values.collect::<Vec<_>>()).ok()?;
    any.then_some(array)
}

struct FileBounds<'a> {
    files: &'a [Arc<FileEntry>],
    schema: &'a SchemaRef,
}

impl FileBounds<'_> {
    fn side(
        &self,
        column: &Column,
        side: impl Fn(&tailwater_storage::lake::ColumnRange) -> Option<&Value>,
    ) -> Option<ArrayRef> {
        if column.name == "date" {
            let dates = self.files.iter().map(|file| Some(ScalarValue::Date32(Some(file.date))));
            return bounds(self.schema, column, dates);
        }
        let data_type = self.schema.field_with_name(&column.name).ok()?.data_type();
        let values = self
            .files
            .iter()
            .map(|file| scalar(side(file.range(&column.name)?)?, data_type));
        bounds(self.schema, column, values)
    }
}

impl PruningStatistics for FileBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.side(column, |range| range.min.as_ref())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.side(column, |range| range.max.as_ref())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let nulls = self.files.iter().map(|file| match column.name.as_str() {
            "date" => Some(0),
            name => file.range(name)?.nulls,
        });
        Some(Arc::new(nulls.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(
            self.files.iter().map(|file| Some(file.rows)).collect::<UInt64Array>(),
        ))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

struct FrameBounds<'a> {
    frames: &'a [FrameRef],
    schema: &'a SchemaRef,
    time: &'static str,
}

impl FrameBounds<'_> {
    fn times(&self, column: &Column, side: impl Fn((i64, i64)) -> i64) -> Option<ArrayRef> {
        if column.name != self.time {
            return None;
        }
        let data_type = self.schema.field_with_name(self.time).ok()?.data_type();
        let values = self
            .frames
            .iter()
            .map(|frame| scalar(&Value::Int(side(frame.head.times?)), data_type));
        bounds(self.schema, column, values)
    }
}

impl PruningStatistics for FrameBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.times(column, |(min, _)| min)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.times(column, |(_, max)| max)
    }

    fn num_containers(&self) -> usize {
        self.frames.len()
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(
            self.frames
                .iter()
                .map(|frame| Some(frame.rows() as u64))
                .collect::<UInt64Array>(),
        ))
    }

    /// `false` where none of the values is inside, unknown elsewhere.
    #[allow(clippy::mutable_key_type)] // DataFusion's signature; the keys do not change here.
    fn contained(&self, column: &Column, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        let may_have = |frame: &FrameRef, value: &ScalarValue| match column.name.as_str() {
            "service_name" => text(value).is_none_or(|service| frame.head.may_have_service(service)),
            "trace_id" => bytes(value).is_none_or(|trace| frame.head.may_have_trace(trace)),
            _ => true,
        };
        if !matches!(column.name.as_str(), "service_name" | "trace_id") {
            return None;
        }
        let inside = self
            .frames
            .iter()
            .map(|frame| match values.iter().any(|value| may_have(frame, value)) {
                true => None,
                false => Some(false),
            });
        Some(inside.collect())
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Dictionary(_, value) => text(value),
        value => value.try_as_str().flatten(),
    }
}

fn bytes(value: &ScalarValue) -> Option<&[u8]> {
    match value {
        ScalarValue::Binary(Some(bytes))
        | ScalarValue::LargeBinary(Some(bytes))
        | ScalarValue::BinaryView(Some(bytes))
        | ScalarValue::FixedSizeBinary(_, Some(bytes)) => Some(bytes),
        _ => None,
    }
}
