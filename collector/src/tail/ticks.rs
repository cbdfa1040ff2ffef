//! Ticks as rows of table `sampling_ticks`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Float64Array, Int64Array, RecordBatch, StringDictionaryBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::Int32Type;
use tailwater_model::table::{Table, frame_schema};
use tailwater_sampling::TickRow;

const DAY_NS: u64 = 86_400_000_000_000;

/// The rows in the table's frame schema, sorted. Counts beyond 2^63 - 1 stand as that.
pub fn tick_batch(rows: &[TickRow]) -> RecordBatch {
    let mut rows: Vec<&TickRow> = rows.iter().collect();
    rows.sort_by(|a, b| (&a.tenant, &a.stratum, a.at_ns).cmp(&(&b.tenant, &b.stratum, b.at_ns)));
    let words = |of: fn(&TickRow) -> &str| -> ArrayRef {
        let mut words = StringDictionaryBuilder::<Int32Type>::new();
        rows.iter().for_each(|row| words.append_value(of(row)));
        Arc::new(words.finish())
    };
    let counts = |of: fn(&TickRow) -> u64| -> ArrayRef {
        let counts = rows.iter().map(|row| i64::try_from(of(row)).unwrap_or(i64::MAX));
        Arc::new(Int64Array::from_iter_values(counts))
    };
    let numbers = |of: fn(&TickRow) -> f64| -> ArrayRef {
        let numbers = rows.iter().map(|row| Some(of(row)).filter(|number| number.is_finite()));
        Arc::new(numbers.collect::<Float64Array>())
    };
    let amounts = |of: fn(&TickRow) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| of(row))))
    };
    let days = rows.iter().map(|row| (row.at_ns / DAY_NS) as i32);
    let times = rows.iter().map(|row| (row.at_ns / 1000) as i64);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Date32Array::from_iter_values(days)),
        words(|row| &row.tenant),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        words(|row| &row.stratum),
        counts(|row| row.epoch),
        counts(|row| row.tick),
        counts(|row| row.seen_traces),
        counts(|row| row.seen_spans),
        counts(|row| row.seen_bytes),
        counts(|row| row.kept_traces),
        counts(|row| row.kept_spans),
        counts(|row| row.kept_bytes),
        amounts(|row| row.kept_cost),
        amounts(|row| row.adjusted_traces),
        counts(|row| row.late_spans),
        counts(|row| row.late_kept_spans),
        counts(|row| row.threshold_min.bits()),
        counts(|row| row.threshold_max.bits()),
        // Without a budget there is no end of tokens.
        amounts(|row| row.tokens.clamp(f64::MIN, f64::MAX)),
        numbers(|row| row.rate),
    ];
    RecordBatch::try_new(frame_schema(Table::SamplingTicks), columns)
        .expect("columns stand in the order of the frame schema")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ticks_make_an_empty_batch_of_the_schema() {
        assert_eq!(tick_batch(&[]).num_rows(), 0);
    }
}
