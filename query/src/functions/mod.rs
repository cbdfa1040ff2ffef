//! The SQL functions that Tailwater adds. All are pure; none reads a file, the clock or the network.
//!
//! | function | returns |
//! |---|---|
//! | `exphist(value [, weight])` | aggregate: sketch of the values, BINARY; NULL when nothing counted |
//! | `exphist_merge(sketch)` | aggregate: the sketches in one |
//! | `exphist_quantile(sketch, q)` | DOUBLE within 1.09 % of `percentile_cont(q)` |
//! | `exphist_count_le(sketch, x)` | DOUBLE: weight of the values at or below x |
//! | `exphist_count`, `exphist_sum`, `exphist_min`, `exphist_max` | DOUBLE |
//! | `register_le(registers, threshold_ns)` | BIGINT: durations at or below a threshold, exactly; NULL where none was kept for it |
//! | `hex_id(id)` | the id of a trace or span as lower-case hex |
//! | `trace_id('hex')`, `span_id('hex')` | BINARY of 16 and 8 bytes |
//! | `ts_nanos(ts, ts_ns)` | TIMESTAMP in ns, UTC: the time as it was sent |

mod bytes;
mod exphist_agg;
mod exphist_scalar;
mod ids;
mod register;
mod scalar;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

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
    exphist_agg::all()
        .into_iter()
        .map(|function| Arc::new(AggregateUDF::new_from_impl(function)))
        .collect()
}
