//! `register_le`: the exact register of a row of `red`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Builder};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Result, exec_datafusion_err, plan_err};

use super::scalar::Scalar;

/// `register_le(registers, threshold_ns)`. NULL is not 0: a row without a register for the threshold has to be counted by its histogram.
pub(super) fn register_le() -> Scalar {
    Scalar::new("register_le", coerce, DataType::Int64, run)
}

fn coerce(given: &[DataType]) -> Result<Vec<DataType>> {
    match given {
        [list @ DataType::List(item), number] if number.is_numeric() || number.is_null() => match item.data_type() {
            DataType::Struct(fields) if fields.find("threshold_ns").is_some() && fields.find("le_count").is_some() => {
                Ok(vec![list.clone(), DataType::Int64])
            }
            _ => plan_err!("register_le takes the column `registers` of `red` and a threshold in ns"),
        },
        _ => plan_err!("register_le takes the column `registers` of `red` and a threshold in ns"),
    }
}

fn run(args: &[ArrayRef]) -> Result<ArrayRef> {
    let registers = args[0].as_list::<i32>();
    let wanted = args[1].as_primitive::<Int64Type>();
    let entries = registers.values().as_struct();
    let part = |name: &str| {
        entries
            .column_by_name(name)
            .and_then(|column| column.as_primitive_opt::<Int64Type>())
            .ok_or_else(|| exec_datafusion_err!("registers have no {name}"))
    };
    let (thresholds, counts) = (part("threshold_ns")?, part("le_count")?);
    let offsets = registers.value_offsets();
    let mut out = Int64Builder::with_capacity(registers.len());
    for row in 0..registers.len() {
        let found = (registers.is_valid(row) && wanted.is_valid(row))
            .then(|| {
                (offsets[row] as usize..offsets[row + 1] as usize).find(|at| thresholds.value(*at) == wanted.value(row))
            })
            .flatten();
        out.append_option(found.map(|at| counts.value(at)));
    }
    Ok(Arc::new(out.finish()))
}
