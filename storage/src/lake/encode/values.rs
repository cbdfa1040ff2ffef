//! Values as Parquet's plain encoding has them, and rows of fixed width put together.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, ArrowPrimitiveType, AsArray, MutableArrayData, PrimitiveArray, make_array,
};
use arrow::datatypes::{
    DataType, Date32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use parquet::basic::Encoding;

use super::Stretch;
use super::chunk::{Content, DataPage};
use super::levels::{self, Levels, Shape};
use crate::Result;

/// Appends a byte array: its length in four bytes, then itself.
pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The values of maps from words to numbers of eight bytes.
#[derive(Debug)]
pub(super) struct Numbers<'a> {
    pub offsets: &'a [i32],
    /// Without nulls.
    pub values: &'a dyn Array,
}

/// Numbers in maps, plain; definition levels as in [`super::words::entries`].
pub(super) fn entries(
    sources: &[Numbers<'_>],
    pages: &[Vec<Stretch>],
    shapes: &[Shape],
    max_definition: i16,
    empty: u8,
) -> Content {
    let mut room = Vec::new();
    let pages = pages.iter().zip(shapes).map(|(page, shape)| {
        let levels = shape.repetition.len();
        let mut body = Vec::with_capacity(shape.entries * 8 + levels / 4 + 64);
        levels::put(Levels::Each(&shape.repetition), 1, &mut body);
        levels::put(
            shape.definition(max_definition as u8, empty, &mut room),
            max_definition,
            &mut body,
        );
        for stretch in page {
            let Numbers { offsets, values } = &sources[stretch.batch];
            let rows = stretch.rows();
            let range = offsets[rows.start] as usize..offsets[rows.end] as usize;
            match values.data_type() {
                DataType::Float64 => values.as_primitive::<Float64Type>().values()[range]
                    .iter()
                    .for_each(|value| body.extend_from_slice(&value.to_le_bytes())),
                _ => values.as_primitive::<Int64Type>().values()[range]
                    .iter()
                    .for_each(|value| body.extend_from_slice(&value.to_le_bytes())),
            }
        }
        DataPage {
            body,
            encoding: Encoding::PLAIN,
            values: levels,
            nulls: levels - shape.entries,
            rows: page.iter().map(|stretch| stretch.count).sum(),
            bounds: None,
        }
    });
    Content {
        dictionary: None,
        pages: pages.collect(),
        bloom: None,
    }
}

/// The rows of these stretches, one after the other.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if offsets run over.
pub(in crate::lake) fn gathered(arrays: &[&ArrayRef], stretches: &[Stretch]) -> Result<ArrayRef> {
    if let [only] = stretches {
        return Ok(arrays[only.batch].slice(only.start, only.count));
    }
    let rows = stretches.iter().map(|stretch| stretch.count).sum();
    if let Some(numbers) = numbers(arrays, stretches, rows) {
        return Ok(numbers);
    }
    let data: Vec<ArrayData> = arrays.iter().map(|array| array.to_data()).collect();
    let mut out = MutableArrayData::new(data.iter().collect(), false, rows);
    for stretch in stretches {
        out.try_extend(stretch.batch, stretch.start, stretch.start + stretch.count)?;
    }
    Ok(make_array(out.freeze()))
}

/// The fast way for numbers without nulls.
fn numbers(arrays: &[&ArrayRef], stretches: &[Stretch], rows: usize) -> Option<ArrayRef> {
    fn of<T: ArrowPrimitiveType>(arrays: &[&ArrayRef], stretches: &[Stretch], rows: usize) -> ArrayRef {
        let mut out: Vec<T::Native> = Vec::with_capacity(rows);
        let values: Vec<&[T::Native]> = arrays
            .iter()
            .map(|array| &**array.as_primitive::<T>().values())
            .collect();
        for stretch in stretches {
            out.extend_from_slice(&values[stretch.batch][stretch.rows()]);
        }
        let kind = arrays[0].data_type().clone();
        Arc::new(PrimitiveArray::<T>::new(out.into(), None).with_data_type(kind))
    }
    if arrays.iter().any(|array| array.null_count() > 0) {
        return None;
    }
    Some(match arrays.first()?.data_type() {
        DataType::Int8 => of::<Int8Type>(arrays, stretches, rows),
        DataType::Int16 => of::<Int16Type>(arrays, stretches, rows),
        DataType::Int32 => of::<Int32Type>(arrays, stretches, rows),
        DataType::Int64 => of::<Int64Type>(arrays, stretches, rows),
        DataType::Date32 => of::<Date32Type>(arrays, stretches, rows),
        DataType::Float64 => of::<Float64Type>(arrays, stretches, rows),
        DataType::Timestamp(TimeUnit::Microsecond, _) => of::<TimestampMicrosecondType>(arrays, stretches, rows),
        _ => return None,
    })
}
