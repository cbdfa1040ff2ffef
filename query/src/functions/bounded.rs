//! DataFusion's functions that make much out of little: every place in a text becomes another text. They do so outside of the memory pool, of constants even
//! while a query is planned. Here a call adds at most [`ADDED_BYTES_MAX`] to the texts it is given, and [`CONSTANT_BYTES_MAX`] to a constant.
//!
//! What a call may add is known from the lengths of its arguments. Where that is little, all is made at once; else in halves, so that no more than the limit
//! is held beyond it. A row that alone may add more is refused.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::concat;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result, exec_datafusion_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// Most bytes that a call adds to the texts of a batch of rows.
const ADDED_BYTES_MAX: usize = 16 << 20;

/// Most that it adds to a constant: every step of planning may look at that.
const CONSTANT_BYTES_MAX: usize = 1 << 20;

/// Longest text of a value that is none: a float of 309 digits before the point, or as many behind it.
const NUMBER_BYTES: usize = 350;

/// How a function adds to its first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// The third argument, before each letter and at the end. A group that it names is no longer than what it replaces.
    Replaced,
    /// The second argument or the third, after each element.
    Joined,
    /// A second letter for each byte.
    Encoded,
}

/// The function itself, or with a bound if it needs one.
pub(crate) fn bounded(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let growth = match inner.name() {
        "replace" | "regexp_replace" => Growth::Replaced,
        "array_to_string" => Growth::Joined,
        "encode" => Growth::Encoded,
        _ => return inner,
    };
    Arc::new(ScalarUDF::new_from_impl(Bounded { inner, growth }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl Bounded {
    /// The most bytes that a call may add.
    fn adds(&self, args: &[ColumnarValue], rows: usize) -> Result<usize> {
        let size = |at: usize| args.get(at).map_or(Ok(Size::default()), |arg| Size::of(arg, rows));
        let given = size(0)?;
        Ok(match self.growth {
            Growth::Replaced => given
                .bytes
                .saturating_add(given.values)
                .saturating_mul(size(2)?.longest),
            Growth::Joined => {
                let each = size(1)?.longest.saturating_add(size(2)?.longest);
                given.bytes.saturating_add(given.values.saturating_mul(each))
            }
            Growth::Encoded => given.bytes,
        })
    }

    fn refused(&self, most: usize) -> DataFusionError {
        let (name, most) = (self.name(), most >> 20);
        exec_datafusion_err!("{name} may add more than {most} MiB to the texts it is given: give it shorter ones")
    }

    fn by_parts(&self, args: &ScalarFunctionArgs, rows: usize) -> Result<ArrayRef> {
        let refused = || self.refused(ADDED_BYTES_MAX);
        let mut room = Size::of(&args.args[0], rows)?.bytes.saturating_add(ADDED_BYTES_MAX);
        let (mut left, mut parts) = (vec![(0, rows)], Vec::new());
        while let Some((from, rows)) = left.pop() {
            let part = part(args, from, rows);
            if self.adds(&part.args, rows)? <= ADDED_BYTES_MAX {
                let made = self.inner.invoke_with_args(part)?.into_array(rows)?;
                room = room.checked_sub(Size::of_array(&made).bytes).ok_or_else(refused)?;
                parts.push(made);
            } else if rows > 1 {
                let half = rows / 2;
                left.extend([(from + half, rows - half), (from, half)]);
            } else {
                return Err(refused());
            }
        }
        let parts: Vec<&dyn Array> = parts.iter().map(|part| &**part).collect();
        Ok(concat(&parts)?)
    }
}

/// The same call for some of its rows.
fn part(args: &ScalarFunctionArgs, from: usize, rows: usize) -> ScalarFunctionArgs {
    let of = |arg: &ColumnarValue| match arg {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(from, rows)),
        ColumnarValue::Scalar(value) => ColumnarValue::Scalar(value.clone()),
    };
    ScalarFunctionArgs {
        args: args.args.iter().map(of).collect(),
        number_rows: rows,
        ..args.clone()
    }
}

/// Texts of an argument, those in lists too.
#[derive(Default)]
struct Size {
    values: usize,
    bytes: usize,
    longest: usize,
}

impl Size {
    fn of(arg: &ColumnarValue, rows: usize) -> Result<Size> {
        match arg {
            ColumnarValue::Array(array) => Ok(Size::of_array(array)),
            ColumnarValue::Scalar(value) => {
                let one = Size::of_array(&value.to_array()?);
                Ok(Size {
                    values: one.values.saturating_mul(rows),
                    bytes: one.bytes.saturating_mul(rows),
                    ..one
                })
            }
        }
    }

    fn of_array(array: &ArrayRef) -> Size {
        let mut size = Size::default();
        size.add(array);
        size
    }

    fn add(&mut self, array: &ArrayRef) {
        match array.data_type() {
            DataType::Utf8 => self.lengths(array.as_string::<i32>().iter().map(|text| text.map(str::len))),
            DataType::LargeUtf8 => self.lengths(array.as_string::<i64>().iter().map(|text| text.map(str::len))),
            DataType::Utf8View => self.lengths(array.as_string_view().iter().map(|text| text.map(str::len))),
            DataType::Binary => self.lengths(array.as_binary::<i32>().iter().map(|bytes| bytes.map(<[u8]>::len))),
            DataType::LargeBinary => self.lengths(array.as_binary::<i64>().iter().map(|bytes| bytes.map(<[u8]>::len))),
            DataType::BinaryView => self.lengths(array.as_binary_view().iter().map(|bytes| bytes.map(<[u8]>::len))),
            DataType::FixedSizeBinary(width) => {
                let width = usize::try_from(*width).unwrap_or_default();
                self.lengths(std::iter::repeat_n(Some(width), array.len()));
            }
            DataType::List(_) => array.as_list::<i32>().iter().flatten().for_each(|list| self.add(&list)),
            DataType::LargeList(_) => array.as_list::<i64>().iter().flatten().for_each(|list| self.add(&list)),
            DataType::FixedSizeList(..) => array
                .as_fixed_size_list()
                .iter()
                .flatten()
                .for_each(|list| self.add(&list)),
            _ => self.lengths(std::iter::repeat_n(Some(NUMBER_BYTES), array.len())),
        }
    }

    /// NULL has no length, and may be written as something.
    fn lengths(&mut self, lengths: impl Iterator<Item = Option<usize>>) {
        for length in lengths.map(Option::unwrap_or_default) {
            self.values += 1;
            self.bytes += length;
            self.longest = self.longest.max(length);
        }
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(given)
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        self.inner.return_type(given)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let (rows, most) = match constant {
            true => (1, CONSTANT_BYTES_MAX),
            false => (args.number_rows, ADDED_BYTES_MAX),
        };
        match self.adds(&args.args, rows)? {
            added if added <= most => self.inner.invoke_with_args(args),
            _ if constant => Err(self.refused(most)),
            _ => Ok(ColumnarValue::Array(self.by_parts(&args, rows)?)),
        }
    }
}
