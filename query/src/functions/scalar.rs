//! One shape for all scalar functions here: a name, a check of the argument types, a function over columns.

use std::hash::{Hash, Hasher};

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// A function of Tailwater. Two are the same when their names are.
pub(crate) struct Scalar {
    name: &'static str,
    signature: Signature,
    coerce: fn(&[DataType]) -> Result<Vec<DataType>>,
    returns: DataType,
    run: fn(&[ArrayRef]) -> Result<ArrayRef>,
}

impl Scalar {
    pub(super) fn new(
        name: &'static str,
        coerce: fn(&[DataType]) -> Result<Vec<DataType>>,
        returns: DataType,
        run: fn(&[ArrayRef]) -> Result<ArrayRef>,
    ) -> Scalar {
        Scalar {
            name,
            signature: Signature::user_defined(Volatility::Immutable),
            coerce,
            returns,
            run,
        }
    }
}

impl std::fmt::Debug for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Scalar) -> bool {
        self.name == other.name
    }
}

impl Eq for Scalar {}

impl Hash for Scalar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Scalar {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        (self.coerce)(given)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let result = (self.run)(&columns)?;
        if constant && result.len() == 1 {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}
