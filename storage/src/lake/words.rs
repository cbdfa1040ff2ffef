//! Ranks of words, so that rows of frames with dictionaries of their own are compared by small numbers instead of by text.

use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};

use crate::Result;

/// Before the name of a sort column: the name of the column with its ranks.
const RANK: &str = "__rank_";

/// The batches, of one schema, with a column of ranks behind their own for each dictionary in `order`. The second result is the order
/// in terms of these columns.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if a column of the order is missing.
pub(super) fn ranked(batches: Vec<RecordBatch>, order: &[&str]) -> Result<(Vec<RecordBatch>, Vec<String>)> {
    let Some(first) = batches.first() else {
        return Ok((batches, Vec::new()));
    };
    let schema = first.schema();
    let mut columns: Vec<Vec<ArrayRef>> = batches.iter().map(|batch| batch.columns().to_vec()).collect();
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    let mut names = Vec::new();
    for name in order {
        let index = schema.index_of(name)?;
        let arrays: Vec<ArrayRef> = batches.iter().map(|batch| batch.column(index).clone()).collect();
        let Some(ranks) = ranks(&arrays) else {
            names.push((*name).to_owned());
            continue;
        };
        names.push(format!("{RANK}{name}"));
        fields.push(Arc::new(Field::new(format!("{RANK}{name}"), DataType::UInt32, true)));
        for (columns, ranks) in columns.iter_mut().zip(ranks) {
            columns.push(Arc::new(ranks));
        }
    }
    let schema = Arc::new(Schema::new(fields));
    let batches = columns
        .into_iter()
        .map(|columns| Ok(RecordBatch::try_new(schema.clone(), columns)?));
    Ok((batches.collect::<Result<_>>()?, names))
}

/// For each row the place of its word among all words, sorted. None for columns that are no dictionaries of strings.
fn ranks(arrays: &[ArrayRef]) -> Option<Vec<UInt32Array>> {
    let mut all: Vec<&str> = Vec::new();
    let mut known: AHashMap<&str, usize> = AHashMap::new();
    // Of each array, for each of its words, its number in `all`.
    let mut numbers: Vec<Vec<usize>> = Vec::with_capacity(arrays.len());
    for array in arrays {
        let values = array.as_any_dictionary_opt()?.values().as_string_opt::<i32>()?;
        // Null may be said by a key or by a word; nobody we know says it by a word, so there is no fast way for it.
        if values.null_count() > 0 || array.as_dictionary_opt::<Int32Type>().is_none() {
            return None;
        }
        let numbered = values.iter().flatten().map(|word| {
            *known.entry(word).or_insert_with(|| {
                all.push(word);
                all.len() - 1
            })
        });
        numbers.push(numbered.collect());
    }
    let mut sorted: Vec<usize> = (0..all.len()).collect();
    sorted.sort_unstable_by_key(|number| all[*number]);
    let mut rank_of = vec![0; all.len()];
    for (rank, number) in sorted.into_iter().enumerate() {
        rank_of[number] = rank as u32;
    }
    let ranked = arrays.iter().zip(&numbers).map(|(array, numbers)| {
        let keys = array.as_dictionary::<Int32Type>().keys();
        // A null slot may hold anything.
        keys.iter()
            .map(|key| key.map(|key| rank_of[numbers[key as usize]]))
            .collect()
    });
    Some(ranked.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tailwater_model::table::{Table, sort_columns};

    use super::*;
    use crate::testing::frame_rows;

    #[test]
    fn ranks_order_as_the_words_do() {
        for table in Table::ALL {
            let frames: Vec<_> = (0..5).map(|seed| frame_rows(table, 60 * seed as usize, seed)).collect();
            // Slices, because frames cut by date look like them.
            let frames: Vec<_> = frames
                .iter()
                .map(|frame| frame.slice(frame.num_rows() / 3, frame.num_rows() / 2))
                .collect();
            let (out, order) = ranked(frames.clone(), sort_columns(table)).unwrap();
            for (name, rank) in sort_columns(table)
                .iter()
                .zip(&order)
                .filter(|(name, rank)| *name != rank)
            {
                let mut rows: Vec<(Option<u32>, Option<String>)> = Vec::new();
                for batch in &out {
                    let words = batch.column_by_name(name).unwrap().as_dictionary::<Int32Type>();
                    let words = words.downcast_dict::<arrow::array::StringArray>().unwrap();
                    let ranks = batch
                        .column_by_name(rank)
                        .unwrap()
                        .as_primitive::<arrow::datatypes::UInt32Type>();
                    rows.extend(
                        ranks
                            .iter()
                            .zip(words)
                            .map(|(rank, word)| (rank, word.map(str::to_owned))),
                    );
                }
                let by_rank = |rows: &[(Option<u32>, Option<String>)]| {
                    let mut rows = rows.to_vec();
                    rows.sort_by_key(|(rank, _)| *rank);
                    rows.into_iter().map(|(_, word)| word).collect::<Vec<_>>()
                };
                let mut by_word: Vec<_> = rows.iter().map(|(_, word)| word.clone()).collect();
                by_word.sort();
                assert_eq!(by_rank(&rows), by_word, "{}.{name}", table.name());
            }
        }
    }
}
