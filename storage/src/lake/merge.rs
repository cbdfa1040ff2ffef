//! Sorted runs into one: frames into a file, small files into a large one.
//!
//! A k-way merge over row keys (a few integers where the columns allow it, else Arrow's row format: one `memcmp` a comparison),
//! which copies whole stretches at a time: the
//! source with the smallest row gives all its rows up to the next source's smallest, found by galloping. Frames of one table
//! follow each other in time, so for each service and name the stretches are long, and the merge costs far less than a sort.
//! Memory: one batch a source, plus the batches that the chunk being built refers to.

use std::cmp::Ordering;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute;
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType, UInt32Type};
use arrow::row::{RowConverter, Rows, SortField};

use super::encode::{self, Runs, Stretch};
use crate::{Error, ErrorKind, Result};

/// Batches of one sorted run, in order.
pub(crate) type Source = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// Merges sorted runs into batches of at most `chunk_rows` rows. Equal rows keep the order of their sources.
pub(crate) struct Merge {
    schema: SchemaRef,
    keys: Vec<usize>,
    /// None if all keys are numbers.
    converter: Option<RowConverter>,
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
    keys: Keys,
}

/// What rows are compared by. Those of one merge are all of one kind.
enum Keys {
    /// So many numbers a row. Frames hold ranks, ids and times: comparing these takes a third of the time of their bytes.
    Numbers(Vec<u64>, usize),
    Rows(Rows),
}

impl Keys {
    /// Whether such a column becomes a number: a rank, which may be null, or 64 bits, which may not.
    fn is_number(field: &Field) -> bool {
        match field.data_type() {
            DataType::UInt32 => true,
            DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _) => !field.is_nullable(),
            _ => false,
        }
    }

    /// Two ranks make one number, anything else a number of its own.
    fn numbers(columns: &[ArrayRef], rows: usize) -> Keys {
        let mut parts: Vec<Vec<u64>> = Vec::new();
        let mut half = false;
        for column in columns {
            if let Some(ranks) = column.as_primitive_opt::<UInt32Type>() {
                // Null comes first. There are fewer words than ranks, so one more fits.
                let ranks = ranks.iter().map(|rank| rank.map_or(0, |rank| u64::from(rank) + 1));
                match parts.last_mut().filter(|_| half) {
                    Some(part) => part.iter_mut().zip(ranks).for_each(|(part, rank)| *part |= rank),
                    None => parts.push(ranks.map(|rank| rank << 32).collect()),
                }
                half = !half;
                continue;
            }
            half = false;
            let values: &[i64] = match column.as_primitive_opt::<Int64Type>() {
                Some(numbers) => numbers.values(),
                None => column.as_primitive::<TimestampMicrosecondType>().values(),
            };
            parts.push(values.iter().map(|value| (*value as u64) ^ (1 << 63)).collect());
        }
        let width = parts.len();
        let mut numbers = Vec::with_capacity(rows * width);
        for row in 0..rows {
            numbers.extend(parts.iter().map(|part| part[row]));
        }
        Keys::Numbers(numbers, width)
    }

    fn len(&self) -> usize {
        match self {
            Keys::Numbers(numbers, width) => numbers.len() / width,
            Keys::Rows(rows) => rows.num_rows(),
        }
    }

    #[inline]
    fn compare(&self, row: usize, other: &Keys, other_row: usize) -> Ordering {
        match (self, other) {
            (Keys::Numbers(ours, width), Keys::Numbers(theirs, _)) => {
                ours[row * width..][..*width].cmp(&theirs[other_row * width..][..*width])
            }
            (Keys::Rows(ours), Keys::Rows(theirs)) => ours.row(row).cmp(&theirs.row(other_row)),
            _ => unreachable!("keys of one merge are of one kind"),
        }
    }
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
        let converter = match !keys.is_empty() && keys.iter().all(|key| Keys::is_number(schema.field(*key))) {
            true => None,
            false => {
                let fields = keys
                    .iter()
                    .map(|key| SortField::new(schema.field(*key).data_type().clone()));
                Some(RowConverter::new(fields.collect())?)
            }
        };
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
            let (batch, keys) = self.sorted(batch)?;
            let previous = self.cursors[cursor].loaded.replace(Loaded { batch, keys });
            self.cursors[cursor].at = 0;
            // A run that steps back between two batches would give a file that claims an order it does not have.
            if let (Some(previous), Some(loaded)) = (previous, &self.cursors[cursor].loaded)
                && previous.keys.compare(previous.keys.len() - 1, &loaded.keys, 0).is_gt()
            {
                return Err(Error::new(ErrorKind::Invalid, "a run to be merged is not sorted"));
            }
            return Ok(true);
        }
    }

    /// The batch with its keys; sorted here if it is not, because makers of frames may skip it when a batch is small.
    fn sorted(&mut self, batch: RecordBatch) -> Result<(RecordBatch, Keys)> {
        let keys = self.keys_of(&batch)?;
        if (1..keys.len()).all(|row| keys.compare(row - 1, &keys, row).is_le()) {
            return Ok((batch, keys));
        }
        let mut order: Vec<u32> = (0..keys.len() as u32).collect();
        order.sort_by(|a, b| keys.compare(*a as usize, &keys, *b as usize));
        let batch = compute::take_record_batch(&batch, &UInt32Array::from(order))?;
        let keys = self.keys_of(&batch)?;
        Ok((batch, keys))
    }

    fn keys_of(&self, batch: &RecordBatch) -> Result<Keys> {
        let columns: Vec<_> = self.keys.iter().map(|key| batch.column(*key).clone()).collect();
        Ok(match &self.converter {
            Some(converter) => Keys::Rows(converter.convert_columns(&columns)?),
            None => Keys::numbers(&columns, batch.num_rows()),
        })
    }

    /// Whether cursor `a`'s next row comes before cursor `b`'s.
    fn before(&self, a: usize, b: usize) -> bool {
        match (&self.cursors[a].loaded, &self.cursors[b].loaded) {
            (Some(left), Some(right)) => {
                let order = left.keys.compare(self.cursors[a].at, &right.keys, self.cursors[b].at);
                order.then(a.cmp(&b)).is_lt()
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
        let Some(loaded) = &cursor.loaded else {
            return 0;
        };
        let limit = limit.min(loaded.keys.len() - cursor.at);
        let rival = [1, 2]
            .into_iter()
            .filter_map(|place| self.heap.get(place).copied())
            .reduce(|a, b| if self.before(b, a) { b } else { a });
        let Some(rival) = rival else { return limit };
        let Some(other) = &self.cursors[rival].loaded else {
            return limit;
        };
        let bound = self.cursors[rival].at;
        let ours = |count: usize| {
            let order = loaded.keys.compare(cursor.at + count, &other.keys, bound);
            order.then(first.cmp(&rival)).is_lt()
        };
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
            if cursor.at == loaded.keys.len() {
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

    use arrow::array::{Array, Int64Array, StringArray};
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

    proptest! {
        /// Keys that are numbers give the order that Arrow's rows give.
        #[test]
        fn numbers_are_ordered_as_rows(
            rows in proptest::collection::vec((proptest::option::of(0u32..3), proptest::option::of(0u32..3), -2i64..3, proptest::option::of(0u32..3), any::<i64>()), 2..40),
        ) {
            let ranks = |ranks: Vec<Option<u32>>| -> ArrayRef { Arc::new(UInt32Array::from(ranks)) };
            let columns: Vec<ArrayRef> = vec![
                ranks(rows.iter().map(|row| row.0).collect()),
                ranks(rows.iter().map(|row| row.1).collect()),
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
                ranks(rows.iter().map(|row| row.3).collect()),
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.4))),
            ];
            let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
            let converter = RowConverter::new(fields.collect()).unwrap();
            let bytes = Keys::Rows(converter.convert_columns(&columns).unwrap());
            let numbers = Keys::numbers(&columns, rows.len());
            prop_assert_eq!(numbers.len(), rows.len());
            for one in 0..rows.len() {
                for other in 0..rows.len() {
                    prop_assert_eq!(numbers.compare(one, &numbers, other), bytes.compare(one, &bytes, other));
                }
            }
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
