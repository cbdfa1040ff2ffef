//! Functions of ranges: a window of samples per step, cut by indices that only move forward.

use std::sync::Arc;

use super::select::{Ranged, Sampled, forward};
use super::{Evaluator, Steady, Steps, Track};
use crate::error::Error;
use crate::expr::{Expr, Node};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::notes::Position;
use crate::number::is_stale;
use crate::value::Point;

/// Samples that are looked at between two questions whether anybody still waits.
const SAMPLES_UNASKED: usize = 1 << 20;

/// The samples of one series that one step looks at: after `from_ms`, up to and including `to_ms`. Never empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window<'a> {
    pub times: &'a [i64],
    pub values: &'a [f64],
    pub histogram_times: &'a [i64],
    pub histograms: &'a [Arc<Histogram>],
    pub from_ms: i64,
    pub to_ms: i64,
    /// The step, and the moment it stands for.
    pub step: usize,
    pub step_ms: i64,
}

/// What a function may want to say about a series, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub metric: &'a str,
    pub at: Position,
}

impl Window<'_> {
    pub fn is_mixed(&self) -> bool {
        !self.values.is_empty() && !self.histograms.is_empty()
    }
}

/// Whether a function takes the name away. first and last over time act like an offset, so they keep it.
fn drops_name(function: &str) -> bool {
    !matches!(function, "last_over_time" | "first_over_time")
}

impl Evaluator<'_> {
    /// A call with a range among its arguments.
    pub(super) fn over_range(
        &self,
        function: &'static str,
        args: &[Node],
        range_arg: usize,
        steps: Steps,
    ) -> Result<Vec<Track>, Error> {
        let range_node = &args[range_arg];
        let ranged = self.ranged(range_node, steps)?;
        let mut scalars = Vec::new();
        for (number, arg) in args.iter().enumerate() {
            if number != range_arg {
                scalars.push(self.scalar(arg, steps)?);
            }
        }
        if function == "absent_over_time" {
            return self.absent_over_time(range_node, &ranged, steps);
        }
        // Notes of these two name the whole of the arguments or the first one; that is where the range is, but for
        // quantile_over_time, whose note is about the number before it.
        let at = if function == "quantile_over_time" {
            args[0].at
        } else {
            range_node.at
        };
        let mut tracks = Vec::with_capacity(ranged.series.len());
        for series in &ranged.series {
            self.hold(steps.count)?;
            let mut track = Track::new(
                series.labels.clone(),
                drops_name(function) || series.drop_name,
                steps.count,
            );
            let place = Place {
                metric: series.labels.metric(),
                at,
            };
            match function {
                "rate" | "increase" | "delta" => {
                    self.extrapolated(function, series, &ranged, steps, place, &mut track)?;
                    let counter = function != "delta" && track.values.iter().any(|value| !is_stale(*value));
                    if counter && !place.metric.is_empty() && !looks_like_a_counter(place.metric) {
                        self.notes.borrow_mut().maybe_not_a_counter(place.metric, at);
                    }
                }
                _ => {
                    let mut failed = None;
                    self.windows(series, &ranged, steps, |window| {
                        let mut notes = self.notes.borrow_mut();
                        let point = match function {
                            "irate" | "idelta" => super::rate::instant(&window, function == "irate", place, &mut notes),
                            "deriv" | "predict_linear" | "changes" | "resets" | "double_exponential_smoothing" => {
                                super::change::point(function, &window, &scalars, place, &mut notes).unwrap_or_else(
                                    |error| {
                                        failed.get_or_insert(error);
                                        None
                                    },
                                )
                            }
                            _ => super::over_time::point(function, &window, &scalars, place, &mut notes)
                                .unwrap_or_else(|error| {
                                    failed.get_or_insert(error);
                                    None
                                }),
                        };
                        if let Some(point) = point {
                            track.set(window.step, point);
                        }
                    })?;
                    if let Some(error) = failed {
                        return Err(error);
                    }
                }
            }
            if !track.is_empty() {
                tracks.push(track);
            }
        }
        Ok(tracks)
    }

    /// Calls `each` for every step whose window has a sample.
    ///
    /// # Errors
    /// [`Error::Cancelled`]: one long series can have a day's work.
    pub(super) fn windows<'s>(
        &self,
        series: &'s Sampled<'_>,
        ranged: &Ranged<'_>,
        steps: Steps,
        mut each: impl FnMut(Window<'s>),
    ) -> Result<(), Error> {
        let mut seen = 0;
        let (mut first, mut last, mut first_histogram, mut last_histogram) = (0, 0, 0, 0);
        for step in 0..steps.count {
            let step_ms = steps.time(step);
            let to_ms = self.looked_at(ranged.shift, step_ms);
            let from_ms = to_ms - ranged.range_ms;
            first = forward(&series.times, first, from_ms);
            last = forward(&series.times, last.max(first), to_ms);
            first_histogram = forward(&series.histogram_times, first_histogram, from_ms);
            last_histogram = forward(&series.histogram_times, last_histogram.max(first_histogram), to_ms);
            if first == last && first_histogram == last_histogram {
                continue;
            }
            seen += last - first + last_histogram - first_histogram;
            if seen >= SAMPLES_UNASKED {
                seen = 0;
                self.hold(0)?;
            }
            each(Window {
                times: &series.times[first..last],
                values: &series.values[first..last],
                histogram_times: &series.histogram_times[first_histogram..last_histogram],
                histograms: &series.histograms[first_histogram..last_histogram],
                from_ms,
                to_ms,
                step,
                step_ms,
            });
        }
        Ok(())
    }

    fn absent_over_time(&self, node: &Node, ranged: &Ranged<'_>, steps: Steps) -> Result<Vec<Track>, Error> {
        let mut present = vec![false; steps.count];
        for series in &ranged.series {
            self.hold(0)?;
            self.windows(series, ranged, steps, |window| present[window.step] = true)?;
        }
        let labels = match &node.bare().expr {
            Expr::Range { selector, .. } => selector.absent_labels(),
            _ => Labels::default(),
        };
        let mut track = Track::new(labels, true, steps.count);
        for (step, present) in present.into_iter().enumerate() {
            if !present {
                track.set(step, Point::Float(1.0));
            }
        }
        Ok(if track.is_empty() { Vec::new() } else { vec![track] })
    }

    /// The number of the argument that is a range, if one is.
    pub(super) fn range_arg(args: &[Node]) -> Option<usize> {
        args.iter()
            .position(|arg| matches!(arg.bare().expr, Expr::Range { .. } | Expr::Subquery { .. }))
    }

    pub(super) fn range_call(
        &self,
        function: &'static str,
        args: &[Node],
        range_arg: usize,
        steps: Steps,
    ) -> Result<Steady, Error> {
        self.over_range(function, args, range_arg, steps).map(Steady::Vector)
    }
}

fn looks_like_a_counter(metric: &str) -> bool {
    ["_total", "_sum", "_count", "_bucket"]
        .iter()
        .any(|suffix| metric.ends_with(suffix))
}
