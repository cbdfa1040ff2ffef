//! What the caller hands in: series of samples in order of time.

use std::sync::Arc;

use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::number::is_stale;

/// Float samples, column by column. Times are milliseconds since 1970, strictly rising.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Floats {
    /// When, ms.
    pub times: Vec<i64>,
    /// What; as long as `times`. A stale marker ([`crate::number::stale`]) ends the series until its next sample.
    pub values: Vec<f64>,
}

/// Native-histogram samples, column by column; as [`Floats`]. A histogram whose sum is the stale marker is one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histograms {
    /// When, ms.
    pub times: Vec<i64>,
    /// What; as long as `times`.
    pub values: Vec<Arc<Histogram>>,
}

/// One series: its labels, and its samples of either kind. Most have only floats.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// Labels with the metric's name among them.
    pub labels: Labels,
    /// Float samples.
    pub floats: Floats,
    /// Histogram samples, at other times than the floats.
    pub histograms: Histograms,
}

impl Floats {
    /// Appends; the caller keeps times rising.
    pub fn push(&mut self, time_ms: i64, value: f64) {
        self.times.push(time_ms);
        self.values.push(value);
    }

    pub(crate) fn has_stale(&self) -> bool {
        self.values.iter().any(|value| is_stale(*value))
    }
}

impl Histograms {
    /// Appends; the caller keeps times rising.
    pub fn push(&mut self, time_ms: i64, value: Arc<Histogram>) {
        self.times.push(time_ms);
        self.values.push(value);
    }

    pub(crate) fn has_stale(&self) -> bool {
        self.values.iter().any(|value| is_stale(value.sum))
    }
}

impl Series {
    /// A series of floats.
    #[must_use]
    pub fn of_floats(labels: Labels, samples: impl IntoIterator<Item = (i64, f64)>) -> Self {
        let (times, values) = samples.into_iter().unzip();
        Self {
            labels,
            floats: Floats { times, values },
            histograms: Histograms::default(),
        }
    }

    /// Samples of both kinds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.floats.times.len() + self.histograms.times.len()
    }

    /// True without a sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
