//! Tables whose rows are summed by readers: equal keys of one commit become one row (rule P6).

use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute;
use arrow::datatypes::Int64Type;
use arrow::row::{OwnedRow, RowConverter, SortField};
use tailwater_model::table::{Table, schema};

use crate::outbox::as_schema;
use crate::{Error, ErrorKind, Result};

/// The columns to be summed; every other column but `batch_id` is part of the key.
pub(super) fn sums(table: Table) -> Option<&'static [&'static str]> {
    match table {
        Table::Ledger => Some(&["items", "bytes"]),
        _ => None,
    }
}

/// One row per key, with the sums of `columns`. Every row gets `batch_id` = `hi`: the row says what batches up to `hi` added,
/// so a cut that is to be exact must lie on a value of `batch_id` that the table has.
///
/// # Errors
/// [`ErrorKind::Invalid`] if a sum leaves 64 bits.
pub(super) fn summed(table: Table, columns: &[&str], batches: &[RecordBatch], hi: u64) -> Result<RecordBatch> {
    let schema = schema(table);
    let batches = batches
        .iter()
        .map(|batch| as_schema(batch, &schema))
        .collect::<Result<Vec<_>>>()?;
    let all = compute::concat_batches(&schema, &batches)?;
    let is_key = |name: &str| name != "batch_id" && !columns.contains(&name);
    let keys: Vec<ArrayRef> = (schema.fields().iter().zip(all.columns()))
        .filter(|(field, _)| is_key(field.name()))
        .map(|(_, column)| column.clone())
        .collect();
    let converter = RowConverter::new(keys.iter().map(|key| SortField::new(key.data_type().clone())).collect())?;
    let rows = converter.convert_columns(&keys)?;
    let mut places: AHashMap<OwnedRow, usize> = AHashMap::new();
    let mut first: Vec<u32> = Vec::new();
    let inputs: Vec<&Int64Array> = columns
        .iter()
        .map(|name| {
            all.column_by_name(name)
                .map(|column| column.as_primitive::<Int64Type>())
        })
        .collect::<Option<_>>()
        .ok_or_else(|| Error::new(ErrorKind::Invalid, "a column to be summed is missing"))?;
    let mut totals: Vec<Vec<i64>> = vec![Vec::new(); inputs.len()];
    for (index, row) in rows.iter().enumerate() {
        let place = *places.entry(row.owned()).or_insert_with(|| {
            first.push(index as u32);
            totals.iter_mut().for_each(|total| total.push(0));
            first.len() - 1
        });
        for (total, input) in totals.iter_mut().zip(&inputs) {
            total[place] = total[place]
                .checked_add(input.value(index))
                .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("sum of {} leaves 64 bits", table.name())))?;
        }
    }
    let mut out = compute::take_record_batch(&all, &UInt32Array::from(first))?
        .columns()
        .to_vec();
    for (name, total) in columns.iter().zip(totals) {
        out[schema.index_of(name)?] = Arc::new(Int64Array::from(total));
    }
    let hi = i64::try_from(hi).map_err(|_| Error::new(ErrorKind::Invalid, "batch number above 2^63"))?;
    out[schema.index_of("batch_id")?] = Arc::new(Int64Array::from_value(hi, places.len()));
    Ok(RecordBatch::try_new(schema, out)?)
}
