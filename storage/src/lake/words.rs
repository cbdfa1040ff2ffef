//! One dictionary per column over all frames of a commit.
//!
//! Each frame has dictionaries of its own. Copying rows of a hundred frames into one chunk would copy a hundred dictionaries for
//! each chunk; sharing one first costs a hash per distinct word and frame, and a look-up per row; where words hardly repeat the
//! dictionaries are put one behind the other instead. Sharing also gives every word a rank, so that rows are compared by small
//! numbers instead of by text.

use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int32Array, ListArray, MapArray, RecordBatch, StringArray, StructArray,
    UInt32Array,
};
use arrow::compute;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};

use crate::{Error, ErrorKind, Result};

/// Before the name of a sort column: the name of the column with its ranks.
const RANK: &str = "__rank_";

/// The batches with shared dictionaries and, behind their own columns, one of ranks for each dictionary in `order`. The second
/// result is the order in terms of these columns.
///
/// # Errors
/// [`ErrorKind::Invalid`] if the batches have different schemas, or more than 2^31 distinct words.
pub(super) fn shared(batches: Vec<RecordBatch>, order: &[&str]) -> Result<(Vec<RecordBatch>, Vec<String>)> {
    let Some(first) = batches.first() else {
        return Ok((batches, Vec::new()));
    };
    let schema = first.schema();
    let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::new(); batches.len()];
    for index in 0..schema.fields().len() {
        let arrays = batches.iter().map(|batch| batch.column(index).clone()).collect();
        for (columns, array) in columns.iter_mut().zip(unify(arrays)?) {
            columns.push(array);
        }
    }
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    let mut names = Vec::new();
    for name in order {
        let index = schema.index_of(name)?;
        let is_shared =
            matches!(schema.field(index).data_type(), DataType::Dictionary(..)) && same_values(&columns, index);
        if !is_shared {
            names.push((*name).to_owned());
            continue;
        }
        names.push(format!("{RANK}{name}"));
        fields.push(Arc::new(Field::new(format!("{RANK}{name}"), DataType::UInt32, true)));
        let ranks = compute::rank(columns[0][index].as_dictionary::<Int32Type>().values(), None)?;
        for columns in &mut columns {
            let keys = columns[index].as_dictionary::<Int32Type>().keys();
            let ranked: UInt32Array = keys.iter().map(|key| key.map(|key| ranks[key as usize])).collect();
            columns.push(Arc::new(ranked));
        }
    }
    let schema = Arc::new(Schema::new(fields));
    let batches = columns
        .into_iter()
        .map(|columns| Ok(RecordBatch::try_new(schema.clone(), columns)?));
    Ok((batches.collect::<Result<_>>()?, names))
}

fn same_values(columns: &[Vec<ArrayRef>], index: usize) -> bool {
    let values = |columns: &Vec<ArrayRef>| columns[index].as_dictionary::<Int32Type>().values().clone();
    let first = values(&columns[0]);
    first.null_count() == 0 && columns.iter().all(|columns| Arc::ptr_eq(&values(columns), &first))
}

fn has_words(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(key, value) => **key == DataType::Int32 && **value == DataType::Utf8,
        DataType::List(field) | DataType::Map(field, _) => has_words(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_words(field.data_type())),
        _ => false,
    }
}

/// The same arrays, with one dictionary for each place in the type that has one.
fn unify(arrays: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
    let Some(first) = arrays.first() else { return Ok(arrays) };
    let kind = first.data_type().clone();
    if !has_words(&kind) || arrays.len() == 1 && !matches!(kind, DataType::Dictionary(..)) {
        return Ok(arrays);
    }
    if arrays.iter().any(|array| array.data_type() != &kind) {
        return Err(Error::new(
            ErrorKind::Invalid,
            "batches of one commit have different schemas",
        ));
    }
    match &kind {
        DataType::Dictionary(..) => words(arrays),
        DataType::List(field) => {
            let lists: Vec<&ListArray> = arrays.iter().map(|array| array.as_list::<i32>()).collect();
            let inner = unify(lists.iter().map(|list| list.values().clone()).collect())?;
            let rebuilt = lists.iter().zip(inner).map(|(list, inner)| {
                let array = ListArray::try_new(field.clone(), list.offsets().clone(), inner, list.nulls().cloned())?;
                Ok(Arc::new(array) as ArrayRef)
            });
            rebuilt.collect()
        }
        DataType::Map(field, sorted) => {
            let maps: Vec<&MapArray> = arrays.iter().map(|array| array.as_map()).collect();
            let inner = unify(
                maps.iter()
                    .map(|map| Arc::new(map.entries().clone()) as ArrayRef)
                    .collect(),
            )?;
            let rebuilt = maps.iter().zip(inner).map(|(map, inner)| {
                let (entries, nulls) = (inner.as_struct().clone(), map.nulls().cloned());
                let array = MapArray::try_new(field.clone(), map.offsets().clone(), entries, nulls, *sorted)?;
                Ok(Arc::new(array) as ArrayRef)
            });
            rebuilt.collect()
        }
        DataType::Struct(fields) => {
            let structs: Vec<&StructArray> = arrays.iter().map(|array| array.as_struct()).collect();
            let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::new(); structs.len()];
            for index in 0..fields.len() {
                let inner = unify(structs.iter().map(|array| array.column(index).clone()).collect())?;
                columns
                    .iter_mut()
                    .zip(inner)
                    .for_each(|(columns, inner)| columns.push(inner));
            }
            let rebuilt = structs.iter().zip(columns).map(|(array, columns)| {
                let array =
                    StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())?;
                Ok(Arc::new(array) as ArrayRef)
            });
            rebuilt.collect()
        }
        _ => Ok(arrays),
    }
}

/// With fewer rows a word than this, hashing every word to find equal ones costs more than the equal ones do: session ids and
/// the like make up much of an attribute map. The Parquet writer finds them again in any case.
const NEAR_UNIQUE: usize = 4;

/// One dictionary that is all of them, one after the other: equal words of two frames stay two.
fn appended(dictionaries: &[&DictionaryArray<Int32Type>], values: &[&StringArray]) -> Result<Vec<ArrayRef>> {
    let all: Vec<&dyn Array> = values.iter().map(|values| *values as &dyn Array).collect();
    let all = compute::concat(&all)?;
    let mut before = 0;
    let moved = dictionaries.iter().zip(values).map(|(dictionary, values)| {
        // A null slot may hold anything.
        let keys: Int32Array = dictionary.keys().unary(|key| key.wrapping_add(before));
        before += values.len() as i32;
        Ok(Arc::new(DictionaryArray::try_new(keys, all.clone())?) as ArrayRef)
    });
    moved.collect()
}

fn words(arrays: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
    let dictionaries: Vec<&DictionaryArray<Int32Type>> = arrays.iter().map(|array| array.as_dictionary()).collect();
    let values: Vec<&StringArray> = dictionaries
        .iter()
        .map(|array| array.values().as_string::<i32>())
        .collect();
    if values.iter().any(|values| values.null_count() > 0) {
        // Null may be said by a key or by a word; nobody we know says it by a word, so there is no fast way for it.
        return Ok(arrays.clone());
    }
    let total: usize = values.iter().map(|values| values.len()).sum();
    let rows: usize = dictionaries.iter().map(|array| array.len()).sum();
    let bytes: usize = values.iter().map(|values| values.value_data().len()).sum();
    if (total..=NEAR_UNIQUE * total).contains(&rows) && i32::try_from(total.max(bytes)).is_ok() {
        return appended(&dictionaries, &values);
    }
    let mut known: AHashMap<&str, i32> = AHashMap::new();
    let mut all: Vec<&str> = Vec::new();
    let mut keys: Vec<Int32Array> = Vec::with_capacity(arrays.len());
    for (dictionary, values) in dictionaries.iter().zip(&values) {
        // Only words that a row uses get a place: a frame cut by date keeps the dictionary of the whole.
        const UNSEEN: i32 = -1;
        let mut places = vec![UNSEEN; values.len()];
        let old = dictionary.keys();
        let mut new = vec![0; old.len()];
        for (row, new) in new.iter_mut().enumerate() {
            if old.is_null(row) {
                continue;
            }
            let place = &mut places[old.value(row) as usize];
            if *place == UNSEEN {
                let word = values.value(old.value(row) as usize);
                *place = *known.entry(word).or_insert_with(|| {
                    all.push(word);
                    (all.len() - 1) as i32
                });
            }
            *new = *place;
        }
        keys.push(Int32Array::new(new.into(), old.nulls().cloned()));
    }
    if i32::try_from(all.len()).is_err() {
        return Err(Error::new(
            ErrorKind::Invalid,
            "more than 2^31 distinct words in one commit",
        ));
    }
    let bytes: usize = all.iter().map(|word| word.len()).sum();
    if i32::try_from(bytes).is_err() {
        // One dictionary cannot hold them; each frame's own can.
        return Ok(arrays.clone());
    }
    let all: ArrayRef = Arc::new(StringArray::from_iter_values(all));
    let shared = keys
        .into_iter()
        .map(|keys| Ok(Arc::new(DictionaryArray::try_new(keys, all.clone())?) as ArrayRef));
    shared.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::datatypes::UInt32Type;
    use tailwater_model::table::{Table, schema, sort_columns};

    use super::*;
    use crate::outbox::as_schema;
    use crate::testing::frame_rows;

    #[test]
    fn sharing_changes_no_value_and_ranks_order_as_the_words_do() {
        for table in Table::ALL {
            let frames: Vec<_> = (0..5).map(|seed| frame_rows(table, 60 * seed as usize, seed)).collect();
            // Slices, because frames cut by date look like them.
            let frames: Vec<_> = frames
                .iter()
                .map(|frame| frame.slice(frame.num_rows() / 3, frame.num_rows() / 2))
                .collect();
            let (out, order) = shared(frames.clone(), sort_columns(table)).unwrap();
            assert_eq!(order.len(), sort_columns(table).len());
            let wanted: Vec<_> = schema(table)
                .fields()
                .iter()
                .filter(|field| field.name() != "batch_id")
                .cloned()
                .collect();
            let plain = Arc::new(Schema::new(wanted));
            for (before, after) in frames.iter().zip(&out) {
                assert_eq!(
                    as_schema(before, &plain).unwrap(),
                    as_schema(after, &plain).unwrap(),
                    "{}",
                    table.name()
                );
            }
            for (index, field) in out[0].schema().fields().iter().enumerate() {
                if matches!(field.data_type(), DataType::Dictionary(..)) {
                    let columns: Vec<Vec<ArrayRef>> = out.iter().map(|batch| batch.columns().to_vec()).collect();
                    assert!(same_values(&columns, index), "{}.{}", table.name(), field.name());
                }
            }
            let tenants = |batch: &RecordBatch| {
                as_schema(batch, &plain)
                    .unwrap()
                    .column_by_name("tenant")
                    .unwrap()
                    .as_string::<i32>()
                    .clone()
            };
            let ranks = |batch: &RecordBatch| {
                batch
                    .column_by_name("__rank_tenant")
                    .unwrap()
                    .as_primitive::<UInt32Type>()
                    .clone()
            };
            let pairs: Vec<(String, u32)> = out
                .iter()
                .flat_map(|batch| {
                    tenants(batch)
                        .iter()
                        .flatten()
                        .map(str::to_owned)
                        .zip(ranks(batch).values().to_vec())
                        .collect::<Vec<_>>()
                })
                .collect();
            for a in &pairs {
                for b in pairs.iter().step_by(7) {
                    assert_eq!(a.0.cmp(&b.0), a.1.cmp(&b.1));
                }
            }
        }
    }
}
