//! Columns that say the same in every row of a file. Most of a file's columns are such, and a reader that fetches a few rows unpacks a page of
//! each for nothing: DataFusion puts in the value where a file's statistics are exact and leave room for one value only.

use std::sync::Arc;

use arrow::array::{AsArray, MapArray, new_empty_array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::{HashMap, ScalarValue};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;

/// A column by its place in the schema, and what all rows of the file have there; `None` is null.
pub(super) type Constant = (usize, Option<ScalarValue>);

/// The constants that a file's footer tells of. Bounds that were cut and columns without statistics tell of none.
///
/// A map or list that may not be null is empty in all rows where its leaves count as many nulls as rows.
pub(super) fn of_file(footer: &ParquetMetaData, schema: &SchemaRef) -> Vec<Constant> {
    let leaves = footer.file_metadata().schema_descr().columns();
    let mut leaves_of: HashMap<&str, Vec<usize>> = HashMap::new();
    for (leaf, column) in leaves.iter().enumerate() {
        leaves_of
            .entry(column.path().parts()[0].as_str())
            .or_default()
            .push(leaf);
    }
    let fields = schema.fields().iter().enumerate();
    fields
        .filter_map(|(at, field)| {
            let leaves = leaves_of.get(field.name().as_str())?;
            let chunks = || {
                let of_group = |leaf: usize| footer.row_groups().iter().map(move |group| group.column(leaf));
                leaves.iter().flat_map(move |leaf| of_group(*leaf))
            };
            if chunks().all(is_null) {
                return match field.data_type() {
                    DataType::Map(..) | DataType::List(_) if !field.is_nullable() => {
                        Some((at, Some(empty(field.data_type())?)))
                    }
                    // Empty or null: the nulls of leaves do not say.
                    kind if kind.is_nested() => None,
                    _ => Some((at, None)),
                };
            }
            let mut values = chunks().map(|chunk| only_value(chunk, field.data_type()));
            let value = values.next()??;
            values
                .all(|other| other.as_ref() == Some(&value))
                .then_some((at, Some(value)))
        })
        .collect()
}

/// A map or list without entries.
fn empty(kind: &DataType) -> Option<ScalarValue> {
    match kind {
        DataType::Map(entry, ordered) => {
            let entries = new_empty_array(entry.data_type());
            let entries = entries.as_struct().clone();
            let map =
                MapArray::try_new(entry.clone(), OffsetBuffer::from_lengths([0]), entries, None, *ordered).ok()?;
            Some(ScalarValue::Map(Arc::new(map)))
        }
        _ => ScalarValue::new_default(kind).ok(),
    }
}

fn is_null(chunk: &ColumnChunkMetaData) -> bool {
    let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
    nulls == u64::try_from(chunk.num_values()).ok()
}

/// The value of all rows of a chunk.
fn only_value(chunk: &ColumnChunkMetaData, kind: &DataType) -> Option<ScalarValue> {
    let statistics = chunk.statistics()?;
    let exact = statistics.min_is_exact() && statistics.max_is_exact() && statistics.null_count_opt() == Some(0);
    if !exact || statistics.min_bytes_opt()? != statistics.max_bytes_opt()? {
        return None;
    }
    Some(match (statistics, kind) {
        (Statistics::Boolean(values), DataType::Boolean) => ScalarValue::Boolean(values.min_opt().copied()),
        (Statistics::Int32(values), DataType::Int8) => ScalarValue::Int8(Some((*values.min_opt()?).try_into().ok()?)),
        (Statistics::Int32(values), DataType::Int16) => ScalarValue::Int16(Some((*values.min_opt()?).try_into().ok()?)),
        (Statistics::Int32(values), DataType::Int32) => ScalarValue::Int32(values.min_opt().copied()),
        (Statistics::Int64(values), DataType::Int64) => ScalarValue::Int64(values.min_opt().copied()),
        (Statistics::Int64(values), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            ScalarValue::TimestampMicrosecond(values.min_opt().copied(), zone.clone())
        }
        // Not doubles: bounds say nothing of NaN, and a zero stands for either zero.
        (Statistics::ByteArray(values), DataType::Utf8View) => {
            ScalarValue::Utf8View(Some(values.min_opt()?.as_utf8().ok()?.to_owned()))
        }
        (Statistics::ByteArray(values), DataType::BinaryView) => {
            ScalarValue::BinaryView(Some(values.min_opt()?.data().to_vec()))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{
        ArrayRef, BooleanArray, Float64Array, Int8Array, Int64Array, ListArray, MapBuilder, RecordBatch, StringBuilder,
        StringViewArray,
    };
    use arrow::datatypes::{Field, Int64Type, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::ParquetMetaDataReader;
    use parquet::file::properties::WriterProperties;

    use super::*;

    /// The constants of a file of one column, in two row groups.
    fn check(column: ArrayRef, nullable: bool, expected: Option<Option<ScalarValue>>) {
        let field = Field::new("it", column.data_type().clone(), nullable);
        let schema = Arc::new(Schema::new(vec![field]));
        let rows = RecordBatch::try_new(schema.clone(), vec![column]).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(rows.num_rows() / 2))
            .set_statistics_truncate_length(Some(64));
        let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties.build())).unwrap();
        writer.write(&rows).unwrap();
        let bytes = bytes::Bytes::from(writer.into_inner().unwrap());
        let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes).unwrap();
        assert_eq!(footer.num_row_groups(), 2);
        let found = of_file(&footer, &schema).pop();
        assert_eq!(found, expected.map(|value| (0, value)), "{rows:?}");
    }

    fn maps(entries: &[usize]) -> MapArray {
        let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for entries in entries {
            for entry in 0..*entries {
                maps.keys().append_value(entry.to_string());
                maps.values().append_null();
            }
            maps.append(true).unwrap();
        }
        maps.finish()
    }

    #[test]
    fn only_what_all_rows_say_is_constant() {
        let texts = |texts: [&str; 4]| Arc::new(StringViewArray::from(texts.to_vec())) as ArrayRef;
        let long = "x".repeat(65);
        check(
            Arc::new(Int64Array::from(vec![7; 4])),
            false,
            Some(Some(ScalarValue::Int64(Some(7)))),
        );
        check(Arc::new(Int64Array::from(vec![7, 7, 7, 8])), false, None);
        check(Arc::new(Int64Array::from(vec![7, 7, 8, 8])), false, None);
        check(
            Arc::new(Int64Array::from(vec![Some(7), None, Some(7), Some(7)])),
            true,
            None,
        );
        check(
            Arc::new(Int64Array::from(vec![None, None, Some(7), Some(7)])),
            true,
            None,
        );
        check(Arc::new(Int64Array::from(vec![None; 4])), true, Some(None));
        check(
            Arc::new(Int8Array::from(vec![-3; 4])),
            false,
            Some(Some(ScalarValue::Int8(Some(-3)))),
        );
        check(
            Arc::new(BooleanArray::from(vec![true; 4])),
            true,
            Some(Some(ScalarValue::Boolean(Some(true)))),
        );
        check(
            texts(["shop"; 4]),
            true,
            Some(Some(ScalarValue::Utf8View(Some("shop".into())))),
        );
        check(texts([&long; 4]), true, None);
        check(Arc::new(Float64Array::from(vec![1.0, f64::NAN, 1.0, 1.0])), true, None);
        let nothing = ScalarValue::Map(Arc::new(maps(&[0])));
        check(Arc::new(maps(&[0, 0, 0, 0])), false, Some(Some(nothing)));
        check(Arc::new(maps(&[0, 0, 0, 0])), true, None);
        check(Arc::new(maps(&[0, 0, 1, 0])), false, None);
        let lists = |rows: [Option<Vec<Option<i64>>>; 2]| {
            let rows = rows.into_iter().cycle().take(4);
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows)) as ArrayRef
        };
        let nothing = ScalarValue::new_default(lists([None, None]).data_type()).unwrap();
        check(lists([Some(vec![]), Some(vec![])]), false, Some(Some(nothing)));
        check(lists([None, Some(vec![])]), true, None);
        check(lists([Some(vec![]), Some(vec![Some(1)])]), false, None);
    }
}
