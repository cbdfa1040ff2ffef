//! The SQL functions that Tailwater adds. All are pure; none reads a file, the clock or the network.
//!
//! | function | returns |
//! |---|---|
//! | `exphist(value [, weight])` | aggregate: sketch of the values, BINARY; NULL when nothing counted |
//! | `exphist_merge(sketch)` | aggregate: the sketches in one |
//! | `exphist_quantile(sketch, q)` | DOUBLE within 1.09 % of `percentile_cont(q)` |
//! | `exphist_count_le(sketch, x)` | DOUBLE: weight of the values at or below x |
//! | `exphist_count`, `exphist_sum`, `exphist_min`, `exphist_max` | DOUBLE |
//! | `ht_sum(value, weight)` | aggregate: DOUBLE, the sum over all rows, estimated from those kept: `docs/estimators.md` |
//! | `ht_ratio(num, den, weight [, trace])` | aggregate: DOUBLE, the ratio of two such sums |
//! | `wquantile(value, weight, q)` | aggregate: DOUBLE, the value at the weighted rank |
//! | `ht_sum_interval(value, weight, trace [, confidence])`, `ht_ratio_interval(num, den, weight, trace [, confidence])`, `wquantile_interval(value, weight, q, trace [, confidence])` | aggregates: STRUCT<estimate, low, high, n, n_effective, note> |
//! | `register_le(registers, threshold_ns)` | BIGINT: durations at or below a threshold, exactly; NULL where none was kept for it |
//! | `hex_id(id)` | the id of a trace or span as lower-case hex |
//! | `trace_id('hex')`, `span_id('hex')` | BINARY of 16 and 8 bytes |
//! | `ts_nanos(ts, ts_ns)` | TIMESTAMP in ns, UTC: the time as it was sent |

mod bounded;
mod bytes;
mod estimate;
mod exphist_agg;
mod exphist_scalar;
mod ids;
mod percentile;
mod register;
mod scalar;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

pub(crate) use bounded::bounded;
pub(crate) use estimate::Remarks;
pub(crate) use ids::parse_hex_id;

/// All scalar functions of Tailwater.
pub fn scalars() -> Vec<Arc<ScalarUDF>> {
    exphist_scalar::all()
        .into_iter()
        .chain(ids::all())
        .chain([register::register_le()])
        .map(|function| Arc::new(ScalarUDF::new_from_impl(function)))
        .collect()
}

/// All aggregate functions of Tailwater.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let sketches = exphist_agg::all().into_iter();
    let sketches = sketches.map(|function| Arc::new(AggregateUDF::new_from_impl(function)));
    let percentile = Arc::new(AggregateUDF::new_from_impl(percentile::PercentileCont::new()));
    let sketches = sketches.chain([percentile]);
    sketches.chain(estimators(&Remarks::default())).collect()
}

/// The estimators, for one query: `remarks` learns what its estimates rest on.
pub(crate) fn estimators(remarks: &Remarks) -> impl Iterator<Item = Arc<AggregateUDF>> {
    let functions = estimate::all(remarks).into_iter();
    functions.map(|function| Arc::new(AggregateUDF::new_from_impl(function)))
}
