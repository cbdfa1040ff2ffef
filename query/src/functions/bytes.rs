//! One way to read the four Arrow types that hold bytes.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, FixedSizeBinaryArray, LargeBinaryArray};
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err, plan_err};

/// A column of bytes.
pub(super) enum Bytes<'a> {
    Small(&'a BinaryArray),
    Large(&'a LargeBinaryArray),
    View(&'a BinaryViewArray),
    Fixed(&'a FixedSizeBinaryArray),
    /// A column that is NULL in every row.
    Null,
}

impl<'a> Bytes<'a> {
    pub(super) fn of(array: &'a ArrayRef) -> Result<Bytes<'a>> {
        Ok(match array.data_type() {
            DataType::Binary => Bytes::Small(array.as_binary()),
            DataType::LargeBinary => Bytes::Large(array.as_binary()),
            DataType::BinaryView => Bytes::View(array.as_binary_view()),
            DataType::FixedSizeBinary(_) => Bytes::Fixed(array.as_fixed_size_binary()),
            DataType::Null => Bytes::Null,
            other => return exec_err!("expected BINARY, found {other}"),
        })
    }

    #[inline]
    pub(super) fn get(&self, row: usize) -> Option<&'a [u8]> {
        match self {
            Bytes::Small(array) => array.is_valid(row).then(|| array.value(row)),
            Bytes::Large(array) => array.is_valid(row).then(|| array.value(row)),
            Bytes::View(array) => {
                let array: &'a BinaryViewArray = array;
                array.is_valid(row).then(|| array.value(row))
            }
            Bytes::Fixed(array) => array.is_valid(row).then(|| array.value(row)),
            Bytes::Null => None,
        }
    }
}

/// Lets any column of bytes through as it is; an error for other types.
pub(super) fn coerce(function: &str, given: &DataType) -> Result<DataType> {
    match given {
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_)
        | DataType::Null => Ok(given.clone()),
        DataType::Dictionary(_, value) => coerce(function, value),
        other => plan_err!("{function} takes BINARY, not {other}"),
    }
}

/// Lets any number through as DOUBLE; an error for other types.
pub(super) fn coerce_number(function: &str, given: &DataType) -> Result<DataType> {
    if given.is_numeric() || given.is_null() {
        Ok(DataType::Float64)
    } else {
        plan_err!("{function} takes a number, not {given}")
    }
}
