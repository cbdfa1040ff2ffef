//! What a query answers.

use std::sync::Arc;

use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::sample::Series;

/// A float or a histogram.
#[derive(Debug, Clone, PartialEq)]
pub enum Point {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// One series at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which series.
    pub labels: Labels,
    /// Its value.
    pub point: Point,
}

/// The answer's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of a range query, or of an instant query for a range of samples: in order of labels.
    Matrix(Vec<Series>),
    /// Of an instant query, in the order that the query gives it.
    Vector {
        /// The moment asked for, ms.
        time_ms: i64,
        /// A sample per series.
        samples: Vec<Sample>,
    },
    /// A number.
    Scalar {
        /// The moment asked for, ms.
        time_ms: i64,
        /// The number.
        value: f64,
    },
    /// A text.
    Text {
        /// The moment asked for, ms.
        time_ms: i64,
        /// The text.
        text: String,
    },
}

/// A value with what is to be said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The value.
    pub value: Value,
    /// Reasons to doubt it.
    pub warnings: Vec<String>,
    /// Things worth knowing.
    pub infos: Vec<String>,
}
