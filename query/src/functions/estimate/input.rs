//! The columns of a call, row by row and checked.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::{Result, exec_err, plan_err};
use tailwater_slo::estimate::{NO_TRACE, TraceKey};
use xxhash_rust::xxh3::xxh3_128;

use super::{Call, Kind, What};
use crate::functions::bytes::{self, Bytes};

/// A row that counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub num: f64,
    pub den: f64,
    /// `None`: nobody knows for how many it stands.
    pub weight: Option<f64>,
    pub trace: TraceKey,
}

pub(super) struct Input<'a> {
    kind: Kind,
    num: &'a Float64Array,
    den: Option<&'a Float64Array>,
    weight: &'a Float64Array,
    trace: Option<Names<'a>>,
}

impl<'a> Input<'a> {
    pub(super) fn of(call: &Call, columns: &'a [ArrayRef]) -> Result<Input<'a>> {
        let kind = call.kind;
        let number = |at: usize| columns[at].as_primitive::<Float64Type>();
        Ok(Input {
            kind,
            num: number(0),
            den: (kind.what == What::Ratio).then(|| number(1)),
            weight: number(kind.weight()),
            trace: call.traced.then(|| Names::of(&columns[kind.trace()])).transpose()?,
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.num.len()
    }

    /// The row; `None` if a value is NULL. Values and weights nothing can be estimated from are refused.
    #[inline]
    pub(super) fn row(&self, row: usize) -> Result<Option<Row>> {
        if self.num.is_null(row) || self.den.is_some_and(|den| den.is_null(row)) {
            return Ok(None);
        }
        let num = self.num.value(row);
        let den = self.den.map_or(0.0, |den| den.value(row));
        let is_number = match self.kind.what {
            What::Quantile => !num.is_nan(),
            What::Sum | What::Ratio => num.is_finite() && den.is_finite(),
        };
        if !is_number {
            let name = self.kind.name();
            return exec_err!(
                "{name}: there is a value of {num}{}: leave such rows out",
                over(self.den.map(|_| den))
            );
        }
        let weight = self.weight.is_valid(row).then(|| self.weight.value(row));
        if let Some(weight) = weight.filter(|weight| !(*weight >= 1.0 && weight.is_finite())) {
            let name = self.kind.name();
            return exec_err!(
                "{name}: there is a weight of {weight}: a weight says how many rows one stands for, so it is at least 1"
            );
        }
        let trace = self.trace.as_ref().map_or(NO_TRACE, |names| names.key(row));
        Ok(Some(Row {
            num,
            den,
            weight,
            trace,
        }))
    }
}

fn over(den: Option<f64>) -> String {
    den.map(|den| format!(" over {den}")).unwrap_or_default()
}

/// Names of traces.
enum Names<'a> {
    Bytes(Bytes<'a>),
    Texts(&'a StringArray),
    Numbers(&'a Int64Array),
}

/// Ids, texts and integers name a trace.
pub(super) fn coerce_trace(function: &str, given: &DataType) -> Result<DataType> {
    match given {
        DataType::Dictionary(_, value) => coerce_trace(function, value),
        given if given.is_string() => Ok(DataType::Utf8),
        given if given.is_integer() => Ok(DataType::Int64),
        given => match bytes::coerce(function, given) {
            Ok(given) => Ok(given),
            Err(_) => plan_err!("{function}: a trace is named by BINARY, text or an integer, not {given}"),
        },
    }
}

impl<'a> Names<'a> {
    fn of(array: &'a ArrayRef) -> Result<Names<'a>> {
        Ok(match array.data_type() {
            DataType::Utf8 => Names::Texts(array.as_string()),
            DataType::Int64 => Names::Numbers(array.as_primitive::<Int64Type>()),
            _ => Names::Bytes(Bytes::of(array)?),
        })
    }

    #[inline]
    fn key(&self, row: usize) -> TraceKey {
        match self {
            Names::Bytes(array) => array.get(row).map_or(NO_TRACE, key_of),
            Names::Texts(array) if array.is_valid(row) => key_of(array.value(row).as_bytes()),
            Names::Numbers(array) if array.is_valid(row) => [array.value(row) as u64, 1],
            Names::Texts(_) | Names::Numbers(_) => NO_TRACE,
        }
    }
}

/// 16 bytes are their own key, all zeros is no trace, as in OpenTelemetry. What is longer or shorter is hashed; nothing is no name.
fn key_of(name: &[u8]) -> TraceKey {
    let halves = |bytes: &[u8; 16]| {
        let bits = u128::from_le_bytes(*bytes);
        [bits as u64, (bits >> 64) as u64]
    };
    match <&[u8; 16]>::try_from(name) {
        Ok(id) => halves(id),
        Err(_) if name.is_empty() => NO_TRACE,
        Err(_) => halves(&xxh3_128(name).to_le_bytes()),
    }
}
