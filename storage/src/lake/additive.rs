//! Tables whose rows are summed by readers: rows of equal key in one commit become one row (rule P6).
//!
//! What a key's rows add up to does not depend on their order or on how they were spread over commits: numbers are integers,
//! histograms add up by bucket, and of two exemplars the larger stays, whichever came first. What cannot be added stays apart:
//! registers of different thresholds, and sums that would leave 64 bits, are rows of their own.

use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int64Array, ListArray, RecordBatch, StructArray, UInt32Array,
};
use arrow::compute;
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::row::{Row, RowConverter, SortField};
use tailwater_model::exphist::{Sketches, View};
use tailwater_model::table::{Table, schema};

use crate::outbox::as_schema;
use crate::{Error, ErrorKind, Result};

/// How the rows of a table are added up. Every column not named, but `batch_id`, is part of the key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// Integers to be added.
    sums: &'static [&'static str],
    /// Integers of which the largest stays.
    maxima: &'static [&'static str],
    /// Encoded exponential histograms.
    sketches: &'static [&'static str],
    /// Whether there are `registers`: the thresholds belong to the key, their counts are added.
    registers: bool,
    /// Whether there are the [`EXEMPLAR`] columns.
    exemplar: bool,
}

/// The columns of an exemplar, in the order in which two are compared.
const EXEMPLAR: [&str; 5] = [
    "exemplar_r",
    "exemplar_ns",
    "exemplar_ts",
    "exemplar_trace_id",
    "exemplar_span_id",
];
const REGISTERS: &str = "registers";

/// How the table is added up; `None` for a table of plain rows.
pub(crate) fn rule(table: Table) -> Option<Rule> {
    match table {
        Table::Ledger => Some(Rule {
            sums: &["items", "bytes"],
            maxima: &[],
            sketches: &[],
            registers: false,
            exemplar: false,
        }),
        Table::Red | Table::Red15m | Table::Red1h => Some(Rule {
            sums: &["n", "errors", "sum_ns", "n_weighted", "errors_weighted"],
            maxima: &["max_ns"],
            sketches: &["exphist"],
            registers: true,
            exemplar: true,
        }),
        Table::Edges => Some(Rule {
            sums: &[
                "n",
                "errors",
                "client_sum_ns",
                "server_sum_ns",
                "n_weighted",
                "errors_weighted",
            ],
            maxima: &["client_max_ns", "server_max_ns"],
            sketches: &["client_exphist", "server_exphist"],
            registers: false,
            exemplar: true,
        }),
        _ => None,
    }
}

impl Rule {
    fn is_key(&self, column: &str) -> bool {
        let valued = self.sums.contains(&column) || self.maxima.contains(&column) || self.sketches.contains(&column);
        let exemplar = self.exemplar && EXEMPLAR.contains(&column);
        !(valued || exemplar || column == "batch_id" || self.registers && column == REGISTERS)
    }
}

/// Texts as words of a dictionary, as frames have them: written out, seven long texts in each of very many rows would be gigabytes.
fn as_words(schema: &Schema) -> SchemaRef {
    let words = DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into());
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(words.clone())),
        _ => field.clone(),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// One row per key, added up by `rule`. Its texts are words of a dictionary. Every row gets `batch_id` = `hi`: the row says what batches up to `hi` added,
/// so a cut that is to be exact must lie on a value of `batch_id` that the table has.
///
/// # Errors
/// [`ErrorKind::Incompatible`] if the rows do not fit the table; [`ErrorKind::Damaged`] for a histogram that cannot be read.
pub(super) fn summed(table: Table, rule: Rule, batches: &[RecordBatch], hi: u64) -> Result<RecordBatch> {
    let schema = as_words(&schema(table));
    let batches = batches
        .iter()
        .map(|batch| as_schema(batch, &schema))
        .collect::<Result<Vec<_>>>()?;
    let hi = i64::try_from(hi).map_err(|_| Error::new(ErrorKind::Invalid, "batch number above 2^63"))?;
    let mut out = added_up(&schema, rule, &batches)?.columns().to_vec();
    let rows = out.first().map_or(0, |column| column.len());
    out[schema.index_of("batch_id")?] = Arc::new(Int64Array::from_value(hi, rows));
    Ok(RecordBatch::try_new(schema, out)?)
}

/// One row per key, in the order of the first row of each, added up by `rule`; `batch_id` is the largest of a key's rows. Columns that
/// the rule does not know belong to the key.
///
/// # Errors
/// [`ErrorKind::Invalid`] if a column of the rule is missing; [`ErrorKind::Damaged`] for a histogram that cannot be read.
pub(crate) fn added_up(schema: &SchemaRef, rule: Rule, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let all = compute::concat_batches(schema, batches)?;
    let places = Places::new(schema, rule, &all)?;
    let mut out = compute::take_record_batch(&all, &UInt32Array::from(places.first.clone()))?
        .columns()
        .to_vec();
    let mut set = |name: &str, column: ArrayRef| -> Result<()> {
        out[schema.index_of(name)?] = column;
        Ok(())
    };
    for (name, sum) in rule.sums.iter().zip(&places.sums) {
        set(name, Arc::new(Int64Array::from(sum.clone())))?;
    }
    for name in rule.maxima.iter().chain(&["batch_id"]) {
        let values = integers(&all, name)?.values();
        let mut largest = vec![i64::MIN; places.first.len()];
        for (place, value) in places.of_row.iter().zip(values) {
            largest[*place] = largest[*place].max(*value);
        }
        set(name, Arc::new(Int64Array::from(largest)))?;
    }
    for name in rule.sketches {
        set(name, sketches(column(&all, name)?.as_binary(), &places)?)?;
    }
    if rule.registers {
        set(REGISTERS, registers(column(&all, REGISTERS)?.as_list(), &places)?)?;
    }
    if rule.exemplar {
        let kept = UInt32Array::from(exemplars(&all, &places)?);
        for name in EXEMPLAR {
            set(name, compute::take(column(&all, name)?, &kept, None)?)?;
        }
    }
    Ok(RecordBatch::try_new(schema.clone(), out)?)
}

/// Which rows come together.
struct Places {
    /// Of every row, the row it becomes.
    of_row: Vec<usize>,
    /// Of every row to be, the first that it is made of.
    first: Vec<u32>,
    /// Its sums, by column.
    sums: Vec<Vec<i64>>,
}

impl Places {
    fn new(schema: &SchemaRef, rule: Rule, all: &RecordBatch) -> Result<Places> {
        let mut keys: Vec<ArrayRef> = (schema.fields().iter().zip(all.columns()))
            .filter(|(field, _)| rule.is_key(field.name()))
            .map(|(_, column)| column.clone())
            .collect();
        if rule.registers {
            keys.push(thresholds(column(all, REGISTERS)?.as_list())?);
        }
        let converter = RowConverter::new(keys.iter().map(|key| SortField::new(key.data_type().clone())).collect())?;
        let rows = converter.convert_columns(&keys)?;
        let inputs = rule.sums.iter().map(|name| integers(all, name));
        let inputs: Vec<&Int64Array> = inputs.collect::<Result<_>>()?;
        let mut open: AHashMap<Row<'_>, usize> = AHashMap::new();
        let mut places = Places {
            of_row: Vec::with_capacity(all.num_rows()),
            first: Vec::new(),
            sums: vec![Vec::new(); inputs.len()],
        };
        for (index, row) in rows.iter().enumerate() {
            let place = match open.get(&row) {
                Some(place) if places.fits(*place, &inputs, index) => *place,
                _ => {
                    let place = places.open(index);
                    open.insert(row, place);
                    place
                }
            };
            for (sum, input) in places.sums.iter_mut().zip(&inputs) {
                sum[place] += input.value(index);
            }
            places.of_row.push(place);
        }
        Ok(places)
    }

    fn fits(&self, place: usize, inputs: &[&Int64Array], index: usize) -> bool {
        let mut pairs = self.sums.iter().zip(inputs);
        pairs.all(|(sum, input)| sum[place].checked_add(input.value(index)).is_some())
    }

    fn open(&mut self, index: usize) -> usize {
        self.first.push(index as u32);
        self.sums.iter_mut().for_each(|sum| sum.push(0));
        self.first.len() - 1
    }
}

fn column<'a>(all: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    let missing = || Error::new(ErrorKind::Invalid, format!("column {name} to be added up is missing"));
    all.column_by_name(name).ok_or_else(missing)
}

fn integers<'a>(all: &'a RecordBatch, name: &str) -> Result<&'a Int64Array> {
    Ok(column(all, name)?.as_primitive::<Int64Type>())
}

/// The histograms of each place, merged. One that stands alone keeps its bytes.
fn sketches(column: &BinaryArray, places: &Places) -> Result<ArrayRef> {
    let damaged = |error| Error::caused(ErrorKind::Damaged, "a histogram to be added up", error);
    let mut alone: Vec<Option<&[u8]>> = vec![None; places.first.len()];
    let mut merged: AHashMap<usize, usize> = AHashMap::new();
    let mut sizes = 0;
    let mut pending: Vec<(usize, &[u8])> = Vec::new();
    for (row, place) in places.of_row.iter().enumerate() {
        if column.is_null(row) {
            continue;
        }
        let bytes = column.value(row);
        match (merged.get(place), alone[*place]) {
            (Some(group), _) => pending.push((*group, bytes)),
            (None, None) => alone[*place] = Some(bytes),
            (None, Some(first)) => {
                merged.insert(*place, sizes);
                pending.extend([(sizes, first), (sizes, bytes)]);
                sizes += 1;
            }
        }
    }
    let mut groups = Sketches::new();
    groups.resize(sizes);
    for (group, bytes) in pending {
        let view = View::parse(bytes).map_err(damaged)?;
        groups.merge(group, view).map_err(damaged)?;
    }
    let mut buffer = Vec::new();
    let mut out = arrow::array::BinaryBuilder::new();
    for (place, alone) in alone.iter().enumerate() {
        match merged.get(&place) {
            Some(group) => {
                buffer.clear();
                groups.encode(*group, &mut buffer);
                out.append_value(&buffer);
            }
            None => out.append_option(*alone),
        }
    }
    Ok(Arc::new(out.finish()))
}

/// The thresholds of each row's registers.
fn thresholds(registers: &ListArray) -> Result<ArrayRef> {
    let values = registers.values().as_struct().column(0).clone();
    let field = Arc::new(arrow::datatypes::Field::new("element", DataType::Int64, false));
    Ok(Arc::new(ListArray::try_new(
        field,
        registers.offsets().clone(),
        values,
        registers.nulls().cloned(),
    )?))
}

/// The registers of each place. All its rows have the same thresholds.
fn registers(column: &ListArray, places: &Places) -> Result<ArrayRef> {
    let first = UInt32Array::from(places.first.clone());
    let taken = compute::take(column, &first, None)?;
    let taken = taken.as_list::<i32>();
    let entries = taken.values().as_struct();
    let mut counts = vec![0i64; entries.len()];
    let inputs = column.values().as_struct().column(1).as_primitive::<Int64Type>();
    for (row, place) in places.of_row.iter().enumerate() {
        let from = column.value_offsets()[row] as usize;
        let to = taken.value_offsets()[*place] as usize;
        for at in 0..taken.value_length(*place) as usize {
            // Never more than n, whose sum fits.
            counts[to + at] += inputs.value(from + at);
        }
    }
    let DataType::List(field) = column.data_type() else {
        return Err(Error::new(ErrorKind::Invalid, "registers are not a list"));
    };
    let entries = StructArray::try_new(
        entries.fields().clone(),
        vec![entries.column(0).clone(), Arc::new(Int64Array::from(counts))],
        None,
    )?;
    let list = ListArray::try_new(
        field.clone(),
        taken.offsets().clone(),
        Arc::new(entries),
        taken.nulls().cloned(),
    )?;
    Ok(Arc::new(list))
}

/// Of every place the row with the largest exemplar; a null counts as the smallest.
fn exemplars(all: &RecordBatch, places: &Places) -> Result<Vec<u32>> {
    let (r, ns) = (integers(all, EXEMPLAR[0])?, integers(all, EXEMPLAR[1])?);
    let ts = column(all, EXEMPLAR[2])?.as_primitive::<TimestampMicrosecondType>();
    let trace = column(all, EXEMPLAR[3])?.as_binary::<i32>();
    let span = column(all, EXEMPLAR[4])?.as_binary::<i32>();
    let rank = |row: u32| {
        let row = row as usize;
        r.is_valid(row).then(|| {
            (
                r.value(row),
                ns.value(row),
                ts.value(row),
                trace.value(row),
                span.value(row),
            )
        })
    };
    let mut kept = places.first.clone();
    for (row, place) in places.of_row.iter().enumerate() {
        let row = row as u32;
        if rank(row) > rank(kept[*place]) {
            kept[*place] = row;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
