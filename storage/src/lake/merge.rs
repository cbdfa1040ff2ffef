//! Sorted runs into one: frames into a file, small files into a large one.
//!
//! A k-way merge over row keys (Arrow's row format: one `memcmp` a comparison), which copies whole stretches at a time: the
//! source with the smallest row gives all its rows up to the next source's smallest, found by galloping. Frames of one table
//! follow each other in time, so for each service and name the stretches are long, and the merge costs far less than a sort.
//! Memory: one batch a source, plus the batches that the chunk being built refers to.

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};

use super::encode::{self, Runs, Stretch};
use crate::{Error, ErrorKind, Result};

/// Batches of one sorted run, in order.
pub(crate) type Source = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// Merges sorted runs into batches of at most `chunk_rows` rows. Equal rows keep the order of their sources.
pub(crate) struct Merge {
    schema: SchemaRef,
    keys: Vec<usize>,
    converter: RowConverter,
    cursors: Vec<Cursor>,
    /// Cursors that still have rows: a binary heap, smallest row first.
    heap: Vec<usize>,
    chunk_rows: usize,
}

struct Cursor {
    source: Source,
    loaded: Option<Loaded>,
    at: usize,
}

struct Loaded {
    batch: RecordBatch,
    rows: Rows,
}

impl Merge {
    /// A merge of runs with this schema, ordered by the named columns ascending, nulls first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a column is missing or cannot be ordered; whatever the sources say.
    pub fn new(schema: &SchemaRef, order: &[&str], sources: Vec<Source>, chunk_rows: usize) -> Result<Merge> {
        let keys = order
            .iter()
            .map(|name| schema.index_of(name))
            .collect::<Result<Vec<_>, _>>()?;
        let fields = keys
            .iter()
            .map(|key| SortField::new(schema.field(*key).data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let cursors = sources
            .into_iter()
            .map(|source| Cursor {
                source,
                loaded: None,
                at: 0,
            })
            .collect();
        let mut merge = Merge {
            schema: schema.clone(),
            keys,
            converter,
            cursors,
            heap: Vec::new(),
            chunk_rows,
        };
        for cursor in 0..merge.cursors.len() {
            if merge.load(cursor)? {
                merge.heap.push(cursor);
            }
        }
        for place in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(place);
        }
        Ok(merge)
    }

    /// Loads the cursor's next batch that has rows; false at its end.
    fn load(&mut self, cursor: usize) -> Result<bool> {
        loop {
            let Some(batch) = self.cursors[cursor].source.next().transpose()? else {
                self.cursors[cursor].loaded = None;
                return Ok(false);
            };
            if batch.num_rows() == 0 {
                continue;
            }
            if batch.schema_ref().fields() != self.schema.fields() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "runs to be merged have different schemas",
                ));
            }
            let (batch, rows) = self.sorted(batch)?;
            let previous = self.cursors[cursor].loaded.replace(Loaded { batch, rows });
            self.cursors[cursor].at = 0;
            // A run that steps back between two batches would give a file that claims an order it does not have.
            if let (Some(previous), Some(loaded)) = (previous, &self.cursors[cursor].loaded)
                && previous.rows.row(previous.rows.num_rows() - 1) > loaded.rows.row(0)
            {
                return Err(Error::new(ErrorKind::Invalid, "a run to be merged is not sorted"));
            }
            return Ok(true);
        }
    }

    /// The batch with its keys; sorted here if it is not, because makers of frames may skip it when a batch is small.
    fn sorted(&mut self, batch: RecordBatch) -> Result<(RecordBatch, Rows)> {
        let rows = self.key_rows(&batch)?;
        if (1..rows.num_rows()).all(|row| rows.row(row - 1) <= rows.row(row)) {
            return Ok((batch, rows));
        }
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
        order.sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
        let batch = compute::take_record_batch(&batch, &UInt32Array::from(order))?;
        let rows = self.key_rows(&batch)?;
        Ok((batch, rows))
    }

    fn key_rows(&self, batch: &RecordBatch) -> Result<Rows> {
        let columns: Vec<_> = self.keys.iter().map(|key| batch.column(*key).clone()).collect();
        Ok(self.converter.convert_columns(&columns)?)
    }

    /// Whether cursor `a`'s next row comes before cursor `b`'s.
    fn before(&self, a: usize, b: usize) -> bool {
        match (&self.cursors[a].loaded, &self.cursors[b].loaded) {
            (Some(left), Some(right)) => {
                (left.rows.row(self.cursors[a].at), a) < (right.rows.row(self.cursors[b].at), b)
            }
            _ => unreachable!("only cursors with rows are in the heap"),
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let mut least = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.before(self.heap[child], self.heap[least]) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.heap.swap(place, least);
            place = least;
        }
    }

    /// How many rows of the first cursor come before every other cursor's next row; at most `limit`, at least 1.
    fn stretch(&self, limit: usize) -> usize {
        let first = self.heap[0];
        let cursor = &self.cursors[first];
        let Some(loaded) = &cursor.loaded else { return 0 };
        let limit = limit.min(loaded.rows.num_rows() - cursor.at);
        let rival = [1, 2]
            .into_iter()
            .filter_map(|place| self.heap.get(place).copied())
            .reduce(|a, b| if self.before(b, a) { b } else { a });
        let Some(rival) = rival else { return limit };
        let Some(other) = &self.cursors[rival].loaded else {
            return limit;
        };
        let bound = other.rows.row(self.cursors[rival].at);
        let ours = |count: usize| (loaded.rows.row(cursor.at + count), first) < (bound, rival);
        // Rows 0..low are ours; row `high` is not, or is out of reach.
        let (mut low, mut step) = (1, 1);
        while low < limit && ours((low + step - 1).min(limit - 1)) {
            low = (low + step).min(limit);
            step *= 2;
        }
        let mut high = (low + step - 1).min(limit);
        while low < high {
            let middle = low + (high - low) / 2;
            if ours(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The next rows in order, a chunk of them, where they lie.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a run that is not sorted; whatever the sources say.
    pub fn next_runs(&mut self) -> Result<Option<Runs>> {
        let mut runs = Runs {
            batches: Vec::new(),
            stretches: Vec::new(),
            rows: 0,
        };
        // Where a cursor's present batch is among `batches`.
        let mut places: Vec<Option<usize>> = vec![None; self.cursors.len()];
        while runs.rows < self.chunk_rows && !self.heap.is_empty() {
            let count = self.stretch(self.chunk_rows - runs.rows);
            let first = self.heap[0];
            let cursor = &mut self.cursors[first];
            let Some(loaded) = &cursor.loaded else { break };
            let batch = *places[first].get_or_insert_with(|| {
                runs.batches.push(loaded.batch.clone());
                runs.batches.len() - 1
            });
            runs.stretches.push(Stretch {
                batch,
                start: cursor.at,
                count,
            });
            cursor.at += count;
            runs.rows += count;
            if cursor.at == loaded.rows.num_rows() {
                places[first] = None;
                if !self.load(first)? {
                    self.heap.swap_remove(0);
                }
            }
            self.sift_down(0);
        }
        Ok((runs.rows > 0).then_some(runs))
    }

    fn assemble(&self, runs: &Runs) -> Result<RecordBatch> {
        if let [only] = runs.stretches.as_slice() {
            return Ok(runs.batches[only.batch].slice(only.start, only.count));
        }
        let columns = (0..self.schema.fields().len()).map(|column| {
            let arrays: Vec<&ArrayRef> = runs.batches.iter().map(|batch| batch.column(column)).collect();
            encode::gathered(&arrays, &runs.stretches)
        });
        Ok(RecordBatch::try_new(
            self.schema.clone(),
            columns.collect::<Result<_>>()?,
        )?)
    }
}

impl Iterator for Merge {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        let runs = self.next_runs().transpose()?;
        Some(runs.and_then(|runs| self.assemble(&runs)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;

    use super::*;

    fn batch(rows: &[(Option<String>, i64, i64)]) -> RecordBatch {
        let words: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0.clone())));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        let origins: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
        RecordBatch::try_from_iter_with_nullable([
            ("word", words, true),
            ("number", numbers, false),
            ("origin", origins, false),
        ])
        .unwrap()
    }

    fn rows(batch: &RecordBatch) -> Vec<(Option<String>, i64, i64)> {
        let words = batch.column(0).as_string::<i32>();
        let (numbers, origins) = (
            batch.column(1).as_primitive::<Int64Type>(),
            batch.column(2).as_primitive::<Int64Type>(),
        );
        (0..batch.num_rows())
            .map(|row| {
                (
                    words.is_valid(row).then(|| words.value(row).to_owned()),
                    numbers.value(row),
                    origins.value(row),
                )
            })
            .collect()
    }

    proptest! {
        /// The merge is the stable sort of the concatenation, in chunks of the size asked for.
        #[test]
        fn merge_equals_stable_sort(
            runs in proptest::collection::vec(
                (proptest::collection::vec((proptest::option::of("[abc]{0,2}"), 0i64..6), 0..60), 1usize..20, any::<bool>()), 0..7),
            chunk in 1usize..40,
        ) {
            let mut all = Vec::new();
            let mut sources: Vec<Source> = Vec::new();
            for (run, (mut keys, split, presorted)) in runs.into_iter().enumerate() {
                // A run of one batch may come unsorted; one of several may not.
                if presorted { keys.sort(); }
                let run_rows: Vec<_> = keys.into_iter().enumerate().map(|(at, key)| (key.0, key.1, (run * 1000 + at) as i64)).collect();
                all.extend(run_rows.clone());
                let split = if presorted { split } else { run_rows.len().max(1) };
                let batches: Vec<_> = run_rows.chunks(split).map(|rows| Ok(batch(rows))).collect();
                sources.push(Box::new(batches.into_iter()));
            }
            all.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
            let schema = batch(&[]).schema();
            let merged: Vec<RecordBatch> = Merge::new(&schema, &["word", "number"], sources, chunk).unwrap().map(Result::unwrap).collect();
            for (index, out) in merged.iter().enumerate() {
                prop_assert!(out.num_rows() == chunk || index + 1 == merged.len());
            }
            prop_assert_eq!(merged.iter().flat_map(rows).collect::<Vec<_>>(), all);
        }
    }

    #[test]
    fn a_run_that_steps_back_is_refused() {
        let high = batch(&[(Some("b".into()), 1, 0)]);
        let low = batch(&[(Some("a".into()), 1, 0)]);
        let sources: Vec<Source> = vec![Box::new(vec![Ok(high.clone()), Ok(low)].into_iter())];
        let merged: Result<Vec<_>> = Merge::new(&high.schema(), &["word"], sources, 8).unwrap().collect();
        assert_eq!(merged.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
