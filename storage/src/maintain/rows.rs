//! Streams of rows of `red` and `edges` on their way to wider slices.

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int32Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute;
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::row::{OwnedRow, RowConverter, SortField};
use std::sync::Arc;

use crate::lake::{HOUR_US, Rule, added_up};
use crate::{Error, ErrorKind, Result};

/// Rows whose slices are narrower than `slice_s` seconds become rows of the slice of that width that covers them. Keeps the table's order.
pub(super) fn widened(rows: &RecordBatch, slice_s: i32) -> Result<RecordBatch> {
    let schema = rows.schema();
    let (ts, width) = (schema.index_of("ts")?, schema.index_of("slice_s")?);
    let (times, widths) = (
        rows.column(ts).as_primitive::<TimestampMicrosecondType>(),
        rows.column(width).as_primitive::<Int32Type>(),
    );
    let slice_us = i64::from(slice_s) * 1_000_000;
    let pairs = times.values().iter().zip(widths.values());
    let covering = pairs.map(|(time, width)| match *width < slice_s {
        true => time.div_euclid(slice_us) * slice_us,
        false => *time,
    });
    let covering = TimestampMicrosecondArray::from_iter_values(covering).with_timezone("UTC");
    let wider = Int32Array::from_iter_values(widths.values().iter().map(|width| (*width).max(slice_s)));
    let mut columns = rows.columns().to_vec();
    columns[ts] = Arc::new(covering);
    columns[width] = Arc::new(wider);
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// The rows of these hours (a bit each) of a day.
pub(super) fn of_hours(rows: &RecordBatch, date: i32, mask: u32) -> Result<RecordBatch> {
    let midnight = i64::from(date) * 24 * HOUR_US;
    let ts = rows.schema().index_of("ts")?;
    let times = rows.column(ts).as_primitive::<TimestampMicrosecondType>().values();
    let chosen = times.iter().map(|time| {
        let hour = (time - midnight).div_euclid(HOUR_US);
        Some((0..24).contains(&hour) && mask & 1 << hour != 0)
    });
    let chosen: BooleanArray = chosen.collect();
    Ok(compute::filter_record_batch(rows, &chosen)?)
}

/// Adds up rows of equal key, which come in the table's order. Holds the rows of one run of equal leading sort columns
/// at a time: those before `ts`, so that no key reaches beyond its run.
pub(super) struct Summed<I> {
    rows: I,
    schema: SchemaRef,
    rule: Rule,
    keys: Vec<usize>,
    converter: RowConverter,
    /// Rows of the run that is being read, and what its leading columns are.
    open: Vec<RecordBatch>,
    run: Option<OwnedRow>,
    /// What was counted on the way in and out: nothing may come of it that was not there.
    counted: [i128; 2],
    ended: bool,
}

impl<I: Iterator<Item = Result<RecordBatch>>> Summed<I> {
    /// Over rows with these columns, sorted by `order`, whose last is the time.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a column is missing.
    pub fn new(rows: I, schema: &SchemaRef, rule: Rule, order: &[&str]) -> Result<Summed<I>> {
        let leading = order.iter().filter(|name| **name != "ts");
        let keys = leading
            .map(|name| schema.index_of(name))
            .collect::<Result<Vec<_>, _>>()?;
        let fields = keys
            .iter()
            .map(|key| SortField::new(schema.field(*key).data_type().clone()));
        Ok(Summed {
            rows,
            schema: schema.clone(),
            rule,
            converter: RowConverter::new(fields.collect())?,
            keys,
            open: Vec::new(),
            run: None,
            counted: [0; 2],
            ended: false,
        })
    }

    /// Takes in rows; gives those of the runs that ended with them.
    fn take(&mut self, rows: RecordBatch) -> Result<Option<RecordBatch>> {
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        self.counted[0] += self.events(&rows)?;
        let columns: Vec<ArrayRef> = self.keys.iter().map(|key| rows.column(*key).clone()).collect();
        let keys = self.converter.convert_columns(&columns)?;
        let last = keys.row(rows.num_rows() - 1);
        let begin = (0..rows.num_rows())
            .rev()
            .take_while(|row| keys.row(*row) == last)
            .last();
        let begin = begin.unwrap_or(0);
        let goes_on = begin == 0 && self.run.as_ref().is_some_and(|run| run.row() == last);
        self.run = Some(last.owned());
        if goes_on {
            self.open.push(rows);
            return Ok(None);
        }
        self.open.push(rows.slice(0, begin));
        let closed = self.close();
        self.open.push(rows.slice(begin, rows.num_rows() - begin));
        closed
    }

    fn close(&mut self) -> Result<Option<RecordBatch>> {
        let open = std::mem::take(&mut self.open);
        if open.iter().all(|rows| rows.num_rows() == 0) {
            return Ok(None);
        }
        let out = added_up(&self.schema, self.rule, &open)?;
        self.counted[1] += self.events(&out)?;
        Ok(Some(out))
    }

    fn events(&self, rows: &RecordBatch) -> Result<i128> {
        let n = rows.column(self.schema.index_of("n")?).as_primitive::<Int64Type>();
        Ok(n.values().iter().map(|n| i128::from(*n)).sum())
    }

    fn end(&mut self) -> Result<Option<RecordBatch>> {
        self.ended = true;
        let last = self.close()?;
        let [taken, given] = self.counted;
        if taken != given {
            let text = format!("adding up rows that count {taken} gave {given}");
            return Err(Error::new(ErrorKind::Damaged, text));
        }
        Ok(last)
    }
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for Summed<I> {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let step = match self.rows.next() {
                Some(rows) => rows.and_then(|rows| self.take(rows)),
                None => self.end(),
            };
            if let Some(out) = step.transpose() {
                self.ended |= out.is_err();
                return Some(out);
            }
        }
        None
    }
}
