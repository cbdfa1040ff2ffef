//! What is read from a sketch: quantiles, counts, sums, extremes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Builder};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, plan_err};
use tailwater_model::exphist::{Malformed, View};

use super::bytes::{Bytes, coerce, coerce_number};
use super::exphist_agg::malformed;
use super::scalar::Scalar;

/// The functions over a sketch.
pub(super) fn all() -> Vec<Scalar> {
    let double = DataType::Float64;
    vec![
        Scalar::new("exphist_quantile", sketch_and_number, double.clone(), |args| {
            with_number(args, |view, q| view.quantile(q))
        }),
        Scalar::new("exphist_count_le", sketch_and_number, double.clone(), |args| {
            with_number(args, |view, x| view.count_le(x).map(Some))
        }),
        Scalar::new("exphist_count", sketch, double.clone(), |args| {
            alone(args, |view| view.count().map(Some))
        }),
        Scalar::new("exphist_sum", sketch, double.clone(), |args| {
            alone(args, |view| Ok(Some(view.sum())))
        }),
        Scalar::new("exphist_min", sketch, double.clone(), |args| {
            alone(args, |view| Ok(view.min()))
        }),
        Scalar::new("exphist_max", sketch, double, |args| alone(args, |view| Ok(view.max()))),
    ]
}

fn sketch(given: &[DataType]) -> Result<Vec<DataType>> {
    match given {
        [sketch] => Ok(vec![coerce("a function of a sketch", sketch)?]),
        other => plan_err!("expected one sketch, found {} arguments", other.len()),
    }
}

fn sketch_and_number(given: &[DataType]) -> Result<Vec<DataType>> {
    match given {
        [sketch, number] => Ok(vec![
            coerce("a function of a sketch", sketch)?,
            coerce_number("a function of a sketch", number)?,
        ]),
        other => plan_err!("expected a sketch and a number, found {} arguments", other.len()),
    }
}

fn alone(args: &[ArrayRef], read: impl Fn(View<'_>) -> Result<Option<f64>, Malformed>) -> Result<ArrayRef> {
    let sketches = Bytes::of(&args[0])?;
    let mut out = Float64Builder::with_capacity(args[0].len());
    for row in 0..args[0].len() {
        out.append_option(match sketches.get(row) {
            Some(bytes) => View::parse(bytes).and_then(&read).map_err(malformed)?,
            None => None,
        });
    }
    Ok(Arc::new(out.finish()))
}

fn with_number(args: &[ArrayRef], read: impl Fn(View<'_>, f64) -> Result<Option<f64>, Malformed>) -> Result<ArrayRef> {
    let sketches = Bytes::of(&args[0])?;
    let numbers = args[1].as_primitive::<Float64Type>();
    let mut out = Float64Builder::with_capacity(args[0].len());
    for row in 0..args[0].len() {
        out.append_option(match sketches.get(row) {
            Some(bytes) if numbers.is_valid(row) => View::parse(bytes)
                .and_then(|view| read(view, numbers.value(row)))
                .map_err(malformed)?,
            _ => None,
        });
    }
    Ok(Arc::new(out.finish()))
}
