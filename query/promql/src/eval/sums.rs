//! Sums and means of histograms over the series of a group, step by step.

use std::sync::Arc;

use super::over_time::MeanHistogram;
use super::{Evaluator, Track};
use crate::error::Error;
use crate::histogram::{Accumulator, Added, Histogram, IncompatibleBuckets, ResetHint};
use crate::notes::{Operation, Position};
use crate::number::{is_stale, stale};
use crate::value::Point;

/// Sums of histograms, a step each; empty as long as there are none.
pub(super) struct Histograms<S>(Vec<OfStep<S>>);

impl<S> Default for Histograms<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

struct OfStep<S> {
    /// Mostly all there is, and then the answer as it is.
    first: Option<Arc<Histogram>>,
    /// Of the first and others.
    sum: Option<S>,
    incompatible: bool,
    reset: bool,
    not_reset: bool,
}

impl<S> Default for OfStep<S> {
    fn default() -> Self {
        Self {
            first: None,
            sum: None,
            incompatible: false,
            reset: false,
            not_reset: false,
        }
    }
}

/// A sum or a mean of histograms.
pub(super) trait Summed {
    fn begin(first: &Histogram) -> Self;
    fn more(&mut self, next: &Histogram) -> Result<Added, IncompatibleBuckets>;
    fn end(&self) -> Histogram;
}

impl Summed for Accumulator {
    fn begin(first: &Histogram) -> Self {
        Self::new(first)
    }

    fn more(&mut self, next: &Histogram) -> Result<Added, IncompatibleBuckets> {
        self.add(next)
    }

    fn end(&self) -> Histogram {
        self.plain(1.0)
    }
}

impl Summed for MeanHistogram {
    fn begin(first: &Histogram) -> Self {
        Self::new(first)
    }

    fn more(&mut self, next: &Histogram) -> Result<Added, IncompatibleBuckets> {
        self.add(next)
    }

    fn end(&self) -> Histogram {
        self.finish()
    }
}

impl Evaluator<'_> {
    pub(super) fn add_histograms<S: Summed>(
        &self,
        track: &Track,
        sums: &mut Histograms<S>,
        at: Position,
    ) -> Result<(), Error> {
        let Some(histograms) = &track.histograms else {
            return Ok(());
        };
        self.hold(0)?;
        sums.0.resize_with(histograms.len(), OfStep::default);
        for (of_step, histogram) in sums.0.iter_mut().zip(histograms) {
            let Some(histogram) = histogram else { continue };
            if of_step.incompatible {
                continue;
            }
            of_step.reset |= histogram.reset == ResetHint::Reset;
            of_step.not_reset |= histogram.reset == ResetHint::NotReset;
            let Some(first) = &of_step.first else {
                of_step.first = Some(Arc::clone(histogram));
                continue;
            };
            let sum = of_step.sum.get_or_insert_with(|| S::begin(first));
            match sum.more(histogram) {
                Ok(added) if added.bounds_reconciled => {
                    self.notes.borrow_mut().bounds_reconciled(Operation::Aggregation, at);
                }
                Ok(_) => {}
                Err(IncompatibleBuckets) => {
                    self.notes.borrow_mut().mixed_schemas(track.labels.metric(), at);
                    of_step.incompatible = true;
                }
            }
        }
        Ok(())
    }

    /// Sums of histograms into the result. A step that has floats as well has no answer.
    pub(super) fn settle<S: Summed>(&self, sums: Histograms<S>, result: &mut Track, at: Position) {
        for (step, of_step) in sums.0.into_iter().enumerate() {
            let Some(first) = of_step.first else { continue };
            if !is_stale(result.values[step]) {
                self.notes.borrow_mut().mixed_in_aggregation(at);
                result.values[step] = stale();
                continue;
            }
            if of_step.incompatible {
                continue;
            }
            if of_step.reset && of_step.not_reset {
                self.notes.borrow_mut().reset_collision(Operation::Aggregation, at);
            }
            let sum = match of_step.sum {
                Some(sum) => Arc::new(sum.end().compact()),
                None => Histogram::compacted(first),
            };
            result.set(step, Point::Histogram(sum));
        }
    }
}
