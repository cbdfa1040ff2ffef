//! From plain vectors to Arrow arrays, in the order of a permutation. Everything an array needs is copied once, here.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, DictionaryArray, ListArray, MapArray, PrimitiveArray, RecordBatch,
    StructArray, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, FieldRef, Int32Type, SchemaRef};

use super::dict::NONE;
use crate::table::{self, Table};

/// A batch in the making: columns are set by name, those not set are null.
pub(super) struct Batch {
    schema: SchemaRef,
    rows: usize,
    columns: Vec<Option<ArrayRef>>,
    empty: OffsetBuffer<i32>,
}

impl Batch {
    pub(super) fn new(table: Table, rows: usize) -> Batch {
        let schema = table::frame_schema(table);
        let columns = vec![None; schema.fields().len()];
        Batch {
            schema,
            rows,
            columns,
            empty: OffsetBuffer::new_zeroed(rows),
        }
    }

    pub(super) fn set(&mut self, name: &str, column: ArrayRef) {
        let index = self
            .schema
            .index_of(name)
            .expect("builders set columns of the schema only");
        self.columns[index] = Some(column);
    }

    /// Sets a dictionary column, unless there are no strings: then it is null, as if it had not been set.
    pub(super) fn set_words(&mut self, name: &str, strings: &ArrayRef, ids: impl Iterator<Item = i32>) {
        if !strings.is_empty() {
            self.set(name, words(strings, ids));
        }
    }

    /// Offsets of lists or maps that are all empty. One buffer serves all such columns.
    pub(super) fn empty_offsets(&self) -> OffsetBuffer<i32> {
        self.empty.clone()
    }

    /// Type of a column, for the builders of nested ones.
    pub(super) fn data_type(&self, name: &str) -> DataType {
        self.schema
            .field_with_name(name)
            .expect("builders ask for columns of the schema only")
            .data_type()
            .clone()
    }

    pub(super) fn finish(self) -> RecordBatch {
        // Columns of one type that are all null share their buffers: many are, and fresh memory costs more than filling it.
        let mut nulls: Vec<ArrayRef> = Vec::new();
        let mut null = |data_type: &DataType| match nulls.iter().find(|array| array.data_type() == data_type) {
            Some(array) => array.clone(),
            None => {
                let array = new_null_array(data_type, self.rows);
                nulls.push(array.clone());
                array
            }
        };
        let columns = self
            .schema
            .fields()
            .iter()
            .zip(self.columns)
            .map(|(field, column)| column.unwrap_or_else(|| null(field.data_type())))
            .collect();
        RecordBatch::try_new(self.schema, columns)
            .expect("columns have the types of the frame schema and equal lengths")
    }
}

/// A column without nulls.
pub(super) fn primitive<T: ArrowPrimitiveType>(values: impl Iterator<Item = T::Native>) -> PrimitiveArray<T> {
    PrimitiveArray::new(ScalarBuffer::from(values.collect::<Vec<_>>()), None)
}

/// A column with nulls; `None` if it has nothing but nulls, so that its default stays.
pub(super) fn optional<T: ArrowPrimitiveType>(
    values: impl ExactSizeIterator<Item = Option<T::Native>>,
) -> PrimitiveArray<T> {
    let mut valid = Vec::with_capacity(values.len());
    let raw: Vec<T::Native> = values
        .map(|value| {
            valid.push(value.is_some());
            value.unwrap_or_default()
        })
        .collect();
    PrimitiveArray::new(ScalarBuffer::from(raw), nulls(&valid))
}

fn nulls(valid: &[bool]) -> Option<NullBuffer> {
    let nulls = NullBuffer::new(BooleanBuffer::from(valid));
    (nulls.null_count() > 0).then_some(nulls)
}

/// A column of booleans without nulls.
pub(super) fn booleans(values: impl ExactSizeIterator<Item = bool>) -> ArrayRef {
    let mut values = values;
    let len = values.len();
    Arc::new(BooleanArray::new(
        BooleanBuffer::collect_bool(len, |_| values.next().unwrap_or_default()),
        None,
    ))
}

/// A column of booleans with nulls.
pub(super) fn optional_booleans(values: impl Iterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(values.collect::<BooleanArray>())
}

/// A dictionary column; [`NONE`] is null.
pub(super) fn words(strings: &ArrayRef, ids: impl Iterator<Item = i32>) -> ArrayRef {
    Arc::new(dictionary(strings, ids.collect()))
}

fn dictionary(strings: &ArrayRef, mut ids: Vec<i32>) -> DictionaryArray<Int32Type> {
    let nulls = if ids.contains(&NONE) {
        let nulls = NullBuffer::new(BooleanBuffer::collect_bool(ids.len(), |index| ids[index] != NONE));
        ids.iter_mut().for_each(|id| *id = (*id).max(0));
        Some(nulls)
    } else {
        None
    };
    DictionaryArray::new(PrimitiveArray::new(ScalarBuffer::from(ids), nulls), strings.clone())
}

/// A binary column of one width.
pub(super) fn ids<const N: usize>(ids: impl ExactSizeIterator<Item = [u8; N]>) -> ArrayRef {
    let len = ids.len();
    let mut bytes = Vec::with_capacity(len * N);
    ids.for_each(|id| bytes.extend_from_slice(&id));
    let offsets: Vec<i32> = (0..=len as i32).map(|row| row * N as i32).collect();
    Arc::new(BinaryArray::new(
        OffsetBuffer::new(ScalarBuffer::from(offsets)),
        Buffer::from_vec(bytes),
        None,
    ))
}

/// A binary column of one width in which all zero is null.
pub(super) fn ids_or_null<const N: usize>(ids: impl ExactSizeIterator<Item = [u8; N]>) -> ArrayRef {
    let len = ids.len();
    let (mut bytes, mut offsets, mut valid) = (
        Vec::with_capacity(len * N),
        Vec::with_capacity(len + 1),
        Vec::with_capacity(len),
    );
    offsets.push(0);
    for id in ids {
        let some = id != [0; N];
        if some {
            bytes.extend_from_slice(&id);
        }
        valid.push(some);
        offsets.push(bytes.len() as i32);
    }
    Arc::new(BinaryArray::new(
        OffsetBuffer::new(ScalarBuffer::from(offsets)),
        Buffer::from_vec(bytes),
        nulls(&valid),
    ))
}

/// Offsets of a list from the lengths of its rows.
pub(super) fn offsets(lengths: impl Iterator<Item = usize>) -> OffsetBuffer<i32> {
    let mut end = 0i32;
    let ends = std::iter::once(0).chain(lengths.map(|len| {
        end += len as i32;
        end
    }));
    OffsetBuffer::new(ScalarBuffer::from(ends.collect::<Vec<_>>()))
}

/// A map column from its flattened entries.
pub(super) fn map(data_type: &DataType, offsets: OffsetBuffer<i32>, keys: ArrayRef, values: ArrayRef) -> ArrayRef {
    let DataType::Map(entries, _) = data_type else {
        unreachable!("asked for the type of a map column")
    };
    let DataType::Struct(fields) = entries.data_type() else {
        unreachable!("the entries of a map are a struct")
    };
    let entry = StructArray::new(fields.clone(), vec![keys, values], None);
    Arc::new(MapArray::new(entries.clone(), offsets, entry, None, false))
}

/// A list column from its flattened elements.
pub(super) fn list(data_type: &DataType, offsets: OffsetBuffer<i32>, elements: ArrayRef) -> ArrayRef {
    Arc::new(ListArray::new(element(data_type), offsets, elements, None))
}

/// A list of structs from the flattened fields of its elements.
pub(super) fn list_of_structs(data_type: &DataType, offsets: OffsetBuffer<i32>, columns: Vec<ArrayRef>) -> ArrayRef {
    let DataType::Struct(fields) = element(data_type).data_type().clone() else {
        unreachable!("asked for a list of structs")
    };
    list(data_type, offsets, Arc::new(StructArray::new(fields, columns, None)))
}

/// Type of a field of the structs in a list.
pub(super) fn struct_field(data_type: &DataType, name: &str) -> DataType {
    let DataType::Struct(fields) = element(data_type).data_type().clone() else {
        unreachable!("asked for a list of structs")
    };
    fields
        .iter()
        .find(|field| field.name() == name)
        .expect("asked for a field of the struct")
        .data_type()
        .clone()
}

fn element(data_type: &DataType) -> FieldRef {
    let DataType::List(element) = data_type else {
        unreachable!("asked for the type of a list column")
    };
    element.clone()
}

/// A list of numbers per row: `ranges[row]` of `values`.
pub(super) fn number_lists<T: ArrowPrimitiveType>(
    data_type: &DataType,
    values: &[T::Native],
    ranges: impl ExactSizeIterator<Item = (u32, u32)> + Clone,
) -> ArrayRef {
    let offsets = offsets(ranges.clone().map(|(from, to)| (to - from) as usize));
    let mut flat = Vec::with_capacity(offsets.last().copied().unwrap_or_default() as usize);
    ranges.for_each(|(from, to)| flat.extend_from_slice(&values[from as usize..to as usize]));
    list(
        data_type,
        offsets,
        Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(flat), None)),
    )
}
