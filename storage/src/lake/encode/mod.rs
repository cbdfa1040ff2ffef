//! Sorted rows of many frames into Parquet row groups, without putting the rows together first.
//!
//! ```text
//! frames (sorted, dictionaries of their own) --merge--> stretches --per column--> pages --> chunks --> row group
//! ```
//!
//! A span has some ninety leaf columns. Most say the same for all rows of a commit, and the rest are mostly words; for both there is a
//! writer here that looks at each word once a frame. Numbers and ids are gathered into arrays and left to the Parquet
//! library's own writers, as are shapes that no frame of ours has.

mod chunk;
mod hybrid;
mod ids;
mod levels;
mod values;
mod words;

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch};
use arrow::compute;
use arrow::datatypes::{ArrowPrimitiveType, TimestampMicrosecondType};
use arrow::datatypes::{DataType, Field, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema, TimeUnit};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::Encoding;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};

pub(super) use self::chunk::Pages;
use self::chunk::{Bounds, Chunk, Content, DataPage, DictionaryPage};
use self::levels::{Levels, Shape};
use self::values::Numbers;
pub(super) use self::values::gathered;
use self::words::{Entries, Words};
use crate::Result;

/// Rows `start..start + count` of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub batch: usize,
    pub start: usize,
    pub count: usize,
}

impl Stretch {
    fn rows(&self) -> Range<usize> {
        self.start..self.start + self.count
    }
}

/// Rows in the order in which a file has them, still where they were.
#[derive(Debug)]
pub(crate) struct Runs {
    pub batches: Vec<RecordBatch>,
    pub stretches: Vec<Stretch>,
    pub rows: usize,
}

impl Runs {
    /// The stretches of each page.
    fn pages(&self, page_rows: usize) -> Vec<Vec<Stretch>> {
        let (mut pages, mut page, mut room) = (Vec::new(), Vec::new(), page_rows);
        for stretch in &self.stretches {
            let mut rest = *stretch;
            while rest.count > 0 {
                let count = rest.count.min(room);
                page.push(Stretch { count, ..rest });
                (rest.start, rest.count, room) = (rest.start + count, rest.count - count, room - count);
                if room == 0 {
                    pages.push(std::mem::take(&mut page));
                    room = page_rows;
                }
            }
        }
        if !page.is_empty() {
            pages.push(page);
        }
        pages
    }
}

/// How a column is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Plan {
    /// Every row says this.
    Same(Same),
    /// A dictionary column.
    Words,
    /// A map from words to words.
    WordMap,
    /// A map from words to numbers of eight bytes.
    NumberMap,
    /// Bytes.
    Ids,
    /// By the library.
    Array,
}

/// What every row says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Same {
    Null,
    /// A list or map without entries.
    Empty,
    Word(String),
    /// Any integer, as its bytes.
    Int(i64),
    Double(u64),
    Bool(bool),
}

/// How the columns of these batches, all of one schema, are best written; and the batches, with plain strings in the columns that
/// the library is to write.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if a column cannot be unpacked.
pub(super) fn plan(batches: Vec<RecordBatch>) -> Result<(Vec<RecordBatch>, Vec<Plan>)> {
    let Some(first) = batches.first() else {
        return Ok((batches, Vec::new()));
    };
    let schema = first.schema();
    let mut columns: Vec<Vec<ArrayRef>> = batches.iter().map(|batch| batch.columns().to_vec()).collect();
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut plans = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter_mut().enumerate() {
        let arrays: Vec<&ArrayRef> = columns.iter().map(|columns| &columns[index]).collect();
        let plan = plan_of(&arrays);
        if plan == Plan::Array {
            let plain = unpacked(field.data_type());
            if plain != *field.data_type() {
                for columns in &mut columns {
                    columns[index] = compute::cast(&columns[index], &plain)?;
                }
                field.set_data_type(plain);
            }
        }
        plans.push(plan);
    }
    let schema = std::sync::Arc::new(Schema::new(fields));
    let batches = columns
        .into_iter()
        .map(|columns| Ok(RecordBatch::try_new(schema.clone(), columns)?));
    Ok((batches.collect::<Result<_>>()?, plans))
}

fn plan_of(arrays: &[&ArrayRef]) -> Plan {
    if let Some(same) = same(arrays) {
        return Plan::Same(same);
    }
    let all = |test: &dyn Fn(&ArrayRef) -> bool| arrays.iter().all(|array| test(array));
    match arrays[0].data_type() {
        DataType::Dictionary(..) if all(&|array| is_words(array)) => Plan::Words,
        DataType::Map(..) if all(&|array| has_word_keys(array) && is_words(array.as_map().values())) => Plan::WordMap,
        DataType::Map(..) if all(&|array| has_word_keys(array) && is_numbers(array.as_map().values())) => {
            Plan::NumberMap
        }
        DataType::Binary => Plan::Ids,
        _ => Plan::Array,
    }
}

/// A dictionary of words where null is said by keys.
fn is_words(array: &dyn Array) -> bool {
    let DataType::Dictionary(key, value) = array.data_type() else {
        return false;
    };
    **key == DataType::Int32
        && **value == DataType::Utf8
        && array.as_dictionary::<Int32Type>().values().null_count() == 0
}

fn has_word_keys(array: &dyn Array) -> bool {
    let map = array.as_map();
    let nulls = map.null_count() + map.entries().null_count() + map.keys().null_count();
    nulls == 0 && is_words(map.keys())
}

fn is_numbers(array: &dyn Array) -> bool {
    matches!(array.data_type(), DataType::Int64 | DataType::Float64) && array.null_count() == 0
}

/// The type without dictionaries. Words become views of the dictionary's: a word of 64 KiB in each of 40,000 rows would be more than offsets reach, and
/// than memory has.
fn unpacked(kind: &DataType) -> DataType {
    let inner = |field: &Field| field.clone().with_data_type(unpacked(field.data_type()));
    match kind {
        DataType::Dictionary(_, value) if **value == DataType::Utf8 => DataType::Utf8View,
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        DataType::List(field) => DataType::List(inner(field).into()),
        DataType::Map(field, sorted) => DataType::Map(inner(field).into(), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| inner(field)).collect()),
        other => other.clone(),
    }
}

/// What all rows of these arrays say, if they say the same.
fn same(arrays: &[&ArrayRef]) -> Option<Same> {
    let has_rows = |array: &&ArrayRef| !array.is_empty();
    let mut found: Option<Same> = None;
    for array in arrays.iter().copied().filter(has_rows) {
        let this = same_in(array)?;
        if *found.get_or_insert_with(|| this.clone()) != this {
            return None;
        }
    }
    found
}

fn same_in(array: &ArrayRef) -> Option<Same> {
    if array.null_count() == array.len() {
        return Some(Same::Null);
    }
    if array.null_count() > 0 {
        return None;
    }
    fn one<T: ArrowPrimitiveType>(array: &ArrayRef) -> Option<T::Native> {
        let values = array.as_primitive::<T>().values();
        let first = values.first()?;
        values.iter().all(|value| value == first).then_some(*first)
    }
    match array.data_type() {
        DataType::Dictionary(..) if is_words(array) => Words::new(array).only().map(|word| Same::Word(word.to_owned())),
        DataType::Map(..) => is_empty(array.as_map().offsets()).then_some(Same::Empty),
        DataType::List(_) => is_empty(array.as_list::<i32>().offsets()).then_some(Same::Empty),
        DataType::Boolean => {
            let values = array.as_boolean();
            let trues = values.true_count();
            (trues == 0 || trues == values.len()).then_some(Same::Bool(trues > 0))
        }
        DataType::Int8 => one::<Int8Type>(array).map(|value| Same::Int(value.into())),
        DataType::Int16 => one::<Int16Type>(array).map(|value| Same::Int(value.into())),
        DataType::Int32 => one::<Int32Type>(array).map(|value| Same::Int(value.into())),
        DataType::Int64 => one::<Int64Type>(array).map(Same::Int),
        DataType::Timestamp(TimeUnit::Microsecond, _) => one::<TimestampMicrosecondType>(array).map(Same::Int),
        DataType::Float64 => one::<Float64Type>(array).map(|value| Same::Double(value.to_bits())),
        _ => None,
    }
}

fn is_empty(offsets: &[i32]) -> bool {
    offsets.first() == offsets.last()
}

/// A chunk of either maker.
enum AnyChunk {
    Ours(Chunk),
    Library(ArrowColumnChunk),
}

/// What the rows of a file are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    /// Of the batches, which may have more columns behind these.
    pub schema: &'a Schema,
    pub plans: &'a [Plan],
    /// The columns that the file has, in its order.
    pub columns: &'a [usize],
    pub page_rows: usize,
}

/// Those of `columns` that the library writes.
pub(super) fn library_columns(columns: &[usize], plans: &[Plan]) -> Vec<usize> {
    columns
        .iter()
        .copied()
        .filter(|index| plans[*index] == Plan::Array)
        .collect()
}

/// Writes one row group. `library` makes the writers of [`library_columns`]; `columns` are those of the file.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] and [`crate::ErrorKind::Store`], as the library says.
pub(super) fn write_group<W: std::io::Write + Send>(
    file: &mut SerializedFileWriter<W>,
    library: &ArrowRowGroupWriterFactory,
    runs: &Runs,
    rows: &Rows<'_>,
    maker: &mut Pages,
) -> Result<()> {
    let writers = library.create_column_writers(file.flushed_row_groups().len())?;
    let chunks = row_group(runs, rows, file.schema_descr(), file.properties(), writers, maker)?;
    let mut group = file.next_row_group()?;
    for chunk in chunks {
        match chunk {
            AnyChunk::Ours(chunk) => group.append_column(&chunk.bytes, chunk.close)?,
            AnyChunk::Library(chunk) => chunk.append_to_row_group(&mut group)?,
        }
    }
    group.close()?;
    Ok(())
}

/// The chunks of one row group; `writers` are the library's, one for each leaf of [`library_columns`].
fn row_group(
    runs: &Runs,
    rows: &Rows<'_>,
    parquet: &SchemaDescriptor,
    properties: &WriterProperties,
    writers: Vec<ArrowColumnWriter>,
    maker: &mut Pages,
) -> Result<Vec<AnyChunk>> {
    let pages = runs.pages(rows.page_rows);
    let mut leaves = parquet.columns().iter().peekable();
    let mut writers = writers.into_iter();
    let mut chunks = Vec::with_capacity(parquet.num_columns());
    let put = |leaf: &ColumnDescPtr, content: Content, maker: &mut Pages, chunks: &mut Vec<AnyChunk>| {
        chunks.push(AnyChunk::Ours(maker.chunk(leaf, properties, content)?));
        Ok::<_, crate::Error>(())
    };
    for index in rows.columns {
        let field = rows.schema.field(*index);
        // The leaves of a field are those whose path begins with its name.
        let mut own: Vec<&ColumnDescPtr> = Vec::new();
        while let Some(leaf) = leaves.next_if(|leaf| leaf.path().parts().first() == Some(field.name())) {
            own.push(leaf);
        }
        let arrays: Vec<&ArrayRef> = runs.batches.iter().map(|batch| batch.column(*index)).collect();
        match &rows.plans[*index] {
            Plan::Same(same) => {
                for leaf in own {
                    put(
                        leaf,
                        same_value(same, leaf, field.is_nullable(), runs.rows),
                        maker,
                        &mut chunks,
                    )?;
                }
            }
            Plan::Words => {
                let sources: Vec<Words<'_>> = arrays.iter().map(|array| Words::new(array)).collect();
                for leaf in own {
                    let bounds = properties.statistics_enabled(leaf.path()) != EnabledStatistics::None;
                    let content = words::flat(&sources, &pages, leaf.max_def_level(), bounds);
                    put(leaf, content, maker, &mut chunks)?;
                }
            }
            Plan::Ids => {
                let sources: Vec<&BinaryArray> = arrays.iter().filter_map(|array| ids::of(array)).collect();
                for leaf in own {
                    let form = ids::Form {
                        max_definition: leaf.max_def_level(),
                        dictionary: properties.dictionary_enabled(leaf.path()),
                        bounds: properties.statistics_enabled(leaf.path()) != EnabledStatistics::None,
                        bloom: properties.bloom_filter_properties(leaf.path()).map(|bloom| bloom.fpp()),
                    };
                    put(leaf, ids::flat(&sources, &pages, form)?, maker, &mut chunks)?;
                }
            }
            Plan::WordMap | Plan::NumberMap => {
                let shapes: Vec<Shape> = pages.iter().map(|page| shape(&arrays, page)).collect();
                let empty = u8::from(field.is_nullable());
                let of_numbers = rows.plans[*index] == Plan::NumberMap;
                for (at, leaf) in own.into_iter().enumerate() {
                    let (is_key, full) = (at == 0, leaf.max_def_level());
                    let content = if is_key || !of_numbers {
                        let sources: Vec<Entries<'_>> = arrays.iter().map(|array| side(array, is_key)).collect();
                        words::entries(&sources, &pages, &shapes, full, empty)
                    } else {
                        let sources: Vec<Numbers<'_>> = arrays.iter().map(|array| numbers(array)).collect();
                        values::entries(&sources, &pages, &shapes, full, empty)
                    };
                    put(leaf, content, maker, &mut chunks)?;
                }
            }
            Plan::Array => {
                let mut own: Vec<ArrowColumnWriter> = writers.by_ref().take(own.len()).collect();
                for page in &pages {
                    let array = gathered(&arrays, page)?;
                    for (writer, leaf) in own.iter_mut().zip(compute_leaves(field, &array)?) {
                        writer.write(&leaf)?;
                    }
                }
                for writer in own {
                    chunks.push(AnyChunk::Library(writer.close()?));
                }
            }
        }
    }
    Ok(chunks)
}

fn shape(maps: &[&ArrayRef], page: &[Stretch]) -> Shape {
    let mut shape = Shape::default();
    for stretch in page {
        shape.add(&maps[stretch.batch].as_map().offsets()[stretch.start..=stretch.start + stretch.count]);
    }
    shape
}

fn side(map: &ArrayRef, keys: bool) -> Entries<'_> {
    let map = map.as_map();
    Entries {
        offsets: map.offsets(),
        words: Words::new(if keys { map.keys() } else { map.values() }),
    }
}

fn numbers(map: &ArrayRef) -> Numbers<'_> {
    let map = map.as_map();
    Numbers {
        offsets: map.offsets(),
        values: map.values(),
    }
}

/// The content of a chunk whose rows all say the same.
fn same_value(same: &Same, leaf: &ColumnDescPtr, nullable: bool, rows: usize) -> Content {
    let mut body = Vec::new();
    let bounds = |bytes: Vec<u8>| {
        Some(Bounds {
            min: bytes.clone(),
            max: bytes,
            exact: true,
        })
    };
    levels::put(Levels::All(0, rows), leaf.max_rep_level(), &mut body);
    let missing = matches!(same, Same::Null | Same::Empty);
    let level = match same {
        Same::Null => 0,
        Same::Empty => u8::from(nullable),
        _ => leaf.max_def_level() as u8,
    };
    levels::put(Levels::All(level, rows), leaf.max_def_level(), &mut body);
    let (dictionary, bounds) = match same {
        Same::Null | Same::Empty => (None, None),
        Same::Word(word) => {
            let mut text = Vec::new();
            values::put_bytes(word.as_bytes(), &mut text);
            (Some(text), Some(words::bounds(word, word)))
        }
        Same::Int(value) => {
            // Parquet has no integer below 32 bits.
            let bytes = match leaf.physical_type() {
                parquet::basic::Type::INT32 => (*value as i32).to_le_bytes().to_vec(),
                _ => value.to_le_bytes().to_vec(),
            };
            (Some(bytes.clone()), bounds(bytes))
        }
        Same::Double(bits) => (Some(bits.to_le_bytes().to_vec()), None),
        Same::Bool(value) => {
            body.resize(body.len() + rows.div_ceil(8), if *value { 0xff } else { 0 });
            (None, None)
        }
    };
    let encoding = match &dictionary {
        Some(_) => {
            // One word needs no bits: a run of it is a count.
            body.push(0);
            hybrid::put_run(0, rows, 0, &mut body);
            Encoding::RLE_DICTIONARY
        }
        None => Encoding::PLAIN,
    };
    let page = DataPage {
        body,
        encoding,
        values: rows,
        nulls: if missing { rows } else { 0 },
        rows,
        bounds,
    };
    Content {
        dictionary: dictionary.map(|body| DictionaryPage { body, values: 1 }),
        pages: vec![page],
        bloom: None,
    }
}

#[cfg(test)]
mod tests;
