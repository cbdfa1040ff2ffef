//! The one sketch of Tailwater: a base-2 exponential histogram as OTLP defines it.
//!
//! Bucket `i` at scale `s` holds the values in `(base^i, base^(i+1)]` with `base = 2^(2^-s)`; zeros have a bucket of their own,
//! negative values a second set of buckets over their magnitude. At [`SCALE`] 5 a value read back as the middle of its bucket is
//! within `(base-1)/(base+1)` = 1.09 % of the truth. Sketches merge without loss: a merge gives what one sketch over all the
//! values would give, whatever the order, as long as the weights are integers (their sums are exact below 2^53).
//!
//! # What counts
//! - NaN is not a value: it is left out. Infinities are counted apart, so that one of them does not cost the rest its precision.
//! - A weight says how many values this one stands for. 0, negative, NaN and infinite weights leave the value out.
//! - Subnormal numbers are counted in the bucket that ends at the smallest normal number.
//! - More than [`BUCKETS_MAX`] buckets of one sign (64 octaves at scale 5) halve the resolution until they fit.
//!
//! # Reading a quantile
//! The rank of quantile `q` among `n` values is `q * (n - 1)`, as in SQL's `percentile_cont`: between two neighbours the answer is
//! interpolated, each neighbour is taken as the middle of its bucket and clamped to the smallest and largest value seen. So the answer is within
//! 1.09 % of the exact `percentile_cont`. Interpolating inside a bucket instead would look smoother and double that bound.
//!
//! Left out: I/O, SQL types (the query crate's functions have them), time.
//!
//! [`Sketches`] holds one sketch per group in flat memory and is what aggregation uses; [`ExpHist`] is a single one for other code;
//! [`View`] reads the encoded form without decoding it.

mod encoding;
mod index;
mod sketches;
#[cfg(test)]
mod tests;
mod view;

pub use encoding::Malformed;
pub use sketches::Sketches;
pub use view::View;

/// Scale of a new sketch: 32 buckets to an octave.
pub const SCALE: i8 = 5;

/// Smallest scale there is, OTLP's own limit: two buckets hold every number.
pub const SCALE_MIN: i8 = -10;

/// Most buckets one sign of one sketch spans, from its first to its last used one.
pub const BUCKETS_MAX: usize = 2048;

/// One sketch, for code that does not aggregate by group.
#[derive(Debug, Clone)]
pub struct ExpHist {
    inner: Sketches,
}

impl Default for ExpHist {
    fn default() -> Self {
        ExpHist::new()
    }
}

impl ExpHist {
    /// A sketch of no values.
    pub fn new() -> ExpHist {
        let mut inner = Sketches::new();
        inner.resize(1);
        ExpHist { inner }
    }

    /// Counts `value` once.
    pub fn record(&mut self, value: f64) {
        self.inner.record(0, value, 1.0);
    }

    /// Counts `value` `weight` times.
    pub fn record_weighted(&mut self, value: f64, weight: f64) {
        self.inner.record(0, value, weight);
    }

    /// Adds what an encoded sketch counted. On an error the sketch holds a part of it and should be thrown away.
    pub fn merge_encoded(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.inner.merge(0, View::parse(bytes)?)
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &ExpHist) {
        self.merge_encoded(&other.encode())
            .expect("what this module encodes it reads back");
    }

    /// The encoded form, see `encoding.rs` for its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.inner.encode(0, &mut out);
        out
    }

    /// The sketch that was encoded.
    pub fn decode(bytes: &[u8]) -> Result<ExpHist, Malformed> {
        let mut sketch = ExpHist::new();
        sketch.merge_encoded(bytes)?;
        Ok(sketch)
    }

    /// Sum of all weights.
    pub fn count(&self) -> f64 {
        self.read(|view| view.count())
    }

    /// Weighted sum of the values.
    pub fn sum(&self) -> f64 {
        self.read(|view| Ok(view.sum()))
    }

    /// Value at quantile `q` in 0..=1; `None` when nothing was counted or `q` is out of range.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        self.read(|view| view.quantile(q))
    }

    /// Weight of the values at or below `x`, interpolated in the bucket of `x`.
    pub fn count_le(&self, x: f64) -> f64 {
        self.read(|view| view.count_le(x))
    }

    fn read<T>(&self, f: impl FnOnce(View<'_>) -> Result<T, Malformed>) -> T {
        View::parse(&self.encode())
            .and_then(f)
            .expect("what this module encodes it reads back")
    }
}
