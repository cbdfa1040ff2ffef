//! Ticks as rows of table `sampling_ticks`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use tailwater_model::rows::{dates, integers, times, words};
use tailwater_model::table::{Table, frame_schema};
use tailwater_sampling::TickRow;

/// The rows in the table's frame schema, sorted. Counts beyond 2^63 - 1 stand as that.
pub fn tick_batch(rows: &[TickRow]) -> RecordBatch {
    let mut rows: Vec<&TickRow> = rows.iter().collect();
    rows.sort_by(|a, b| (&a.tenant, &a.stratum, a.at_ns).cmp(&(&b.tenant, &b.stratum, b.at_ns)));
    let numbers = |of: fn(&TickRow) -> f64| -> ArrayRef {
        let numbers = rows.iter().map(|row| Some(of(row)).filter(|number| number.is_finite()));
        Arc::new(numbers.collect::<Float64Array>())
    };
    let amounts = |of: fn(&TickRow) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| of(row))))
    };
    let columns: Vec<ArrayRef> = vec![
        dates(rows.iter().map(|row| row.at_ns)),
        words(rows.iter().map(|row| &*row.tenant)),
        times(rows.iter().map(|row| Some(row.at_ns))),
        words(rows.iter().map(|row| &*row.stratum)),
        integers(rows.iter().map(|row| row.epoch)),
        integers(rows.iter().map(|row| row.tick)),
        integers(rows.iter().map(|row| row.seen_traces)),
        integers(rows.iter().map(|row| row.seen_spans)),
        integers(rows.iter().map(|row| row.seen_bytes)),
        integers(rows.iter().map(|row| row.kept_traces)),
        integers(rows.iter().map(|row| row.kept_spans)),
        integers(rows.iter().map(|row| row.kept_bytes)),
        amounts(|row| row.kept_cost),
        amounts(|row| row.adjusted_traces),
        integers(rows.iter().map(|row| row.late_spans)),
        integers(rows.iter().map(|row| row.late_kept_spans)),
        integers(rows.iter().map(|row| row.threshold_min.bits())),
        integers(rows.iter().map(|row| row.threshold_max.bits())),
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
