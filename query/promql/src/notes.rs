//! Warnings and infos that travel with an answer, in the words of Prometheus (util/annotations/annotations.go).

use std::collections::BTreeMap;

use crate::calendar::rfc3339;
use crate::number::{general, two_digits};

/// A place in the query's text, in bytes.
pub(crate) type Position = usize;

/// At most this many of each kind are shown, as Prometheus' HTTP API does.
pub const NOTES_MAX: usize = 10;

/// What histograms were combined for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Addition,
    Subtraction,
    Aggregation,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Addition => "addition",
            Self::Subtraction => "subtraction",
            Self::Aggregation => "aggregation",
        }
    }
}

/// Where and how much a classic histogram had to be straightened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Straightened {
    pub min_bound: f64,
    pub max_bound: f64,
    pub max_difference: f64,
}

#[derive(Debug, Clone)]
struct Entry {
    info: bool,
    position: Position,
    straightened: Option<(Straightened, i64, i64, usize)>,
}

/// A set of notes; each text once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(BTreeMap<String, Entry>);

fn named(text: &str, metric: &str) -> String {
    if metric.is_empty() {
        text.to_owned()
    } else {
        format!("{text} for metric name {metric:?}")
    }
}

impl Notes {
    fn put(&mut self, info: bool, text: String, position: Position) {
        self.0.insert(
            text,
            Entry {
                info,
                position,
                straightened: None,
            },
        );
    }

    fn warn(&mut self, text: impl Into<String>, position: Position) {
        self.put(false, text.into(), position);
    }

    fn info(&mut self, text: impl Into<String>, position: Position) {
        self.put(true, text.into(), position);
    }

    pub fn invalid_quantile(&mut self, q: f64, at: Position) {
        self.warn(
            format!("quantile value should be between 0 and 1, got {}", general(q)),
            at,
        );
    }

    pub fn bad_bucket_label(&mut self, metric: &str, label: &str, at: Position) {
        let text = format!("bucket label \"le\" is missing or has a malformed value of {label:?}");
        self.warn(named(&text, metric), at);
    }

    pub fn mixed_floats_histograms(&mut self, metric: &str, at: Position) {
        self.warn(
            format!("encountered a mix of histograms and floats for metric name {metric:?}"),
            at,
        );
    }

    pub fn mixed_in_aggregation(&mut self, at: Position) {
        self.warn("encountered a mix of histograms and floats for aggregation", at);
    }

    pub fn mixed_classic_native(&mut self, metric: &str, at: Position) {
        self.warn(
            named("vector contains a mix of classic and native histograms", metric),
            at,
        );
    }

    pub fn not_a_counter(&mut self, metric: &str, at: Position) {
        self.warn(format!("this native histogram metric is not a counter: {metric:?}"), at);
    }

    pub fn not_a_gauge(&mut self, metric: &str, at: Position) {
        self.warn(format!("this native histogram metric is not a gauge: {metric:?}"), at);
    }

    pub fn mixed_schemas(&mut self, metric: &str, at: Position) {
        let text = "vector contains a mix of histograms with exponential and custom buckets schemas for metric name";
        self.warn(format!("{text} {metric:?}"), at);
    }

    pub fn incompatible_layout(&mut self, operator: &str, at: Position) {
        self.warn(
            format!("incompatible bucket layout encountered for binary operator {operator}"),
            at,
        );
    }

    pub fn sort_in_range(&mut self, at: Position) {
        self.warn(
            "sort is ineffective for range queries since results are always ordered by labels",
            at,
        );
    }

    pub fn reset_collision(&mut self, operation: Operation, at: Position) {
        self.warn(
            format!("conflicting counter resets during histogram {}", operation.word()),
            at,
        );
    }

    pub fn bounds_reconciled(&mut self, operation: Operation, at: Position) {
        self.info(
            format!("mismatched custom buckets were reconciled during {}", operation.word()),
            at,
        );
    }

    pub fn maybe_not_a_counter(&mut self, metric: &str, at: Position) {
        let text = "metric might not be a counter, name does not end in _total/_sum/_count/_bucket:";
        self.info(format!("{text} {metric:?}"), at);
    }

    pub fn incompatible_types(&mut self, left: &str, operator: &str, right: &str, at: Position) {
        let text = "incompatible sample types encountered for binary operator";
        self.info(format!("{text} {operator:?}: {left} {operator} {right}"), at);
    }

    pub fn ignored_in_aggregation(&mut self, aggregation: &str, at: Position) {
        self.info(format!("ignored histogram in {aggregation} aggregation"), at);
    }

    pub fn ignored_in_mixed_range(&mut self, metric: &str, at: Position) {
        let text = "ignored histograms in a range containing both floats and histograms for metric name";
        self.info(format!("{text} {metric:?}"), at);
    }

    pub fn quantile_is_nan(&mut self, metric: &str, at: Position) {
        self.info(
            named(
                "input to histogram_quantile has NaN observations, result is NaN",
                metric,
            ),
            at,
        );
    }

    pub fn quantile_is_skewed(&mut self, metric: &str, at: Position) {
        self.info(
            named(
                "input to histogram_quantile has NaN observations, result is skewed higher",
                metric,
            ),
            at,
        );
    }

    pub fn fraction_without_nan(&mut self, metric: &str, at: Position) {
        let text = "input to histogram_fraction has NaN observations, which are excluded from all fractions";
        self.info(named(text, metric), at);
    }

    pub fn forced_monotonicity(&mut self, metric: &str, at: Position, time_ms: i64, how: Straightened) {
        let text = "input to histogram_quantile needed to be fixed for monotonicity (see \
                    https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)";
        let key = named(text, metric);
        let (mut how, mut from, mut to, mut samples) = (how, time_ms, time_ms, 1);
        if let Some(Entry {
            straightened: Some(before),
            ..
        }) = self.0.get(&key)
        {
            how.min_bound = how.min_bound.min(before.0.min_bound);
            how.max_bound = how.max_bound.max(before.0.max_bound);
            how.max_difference = how.max_difference.max(before.0.max_difference);
            (from, to, samples) = (from.min(before.1), to.max(before.2), samples + before.3);
        }
        self.0.insert(
            key,
            Entry {
                info: true,
                position: at,
                straightened: Some((how, from, to, samples)),
            },
        );
    }

    /// Warnings and infos with the place in the query that each is about.
    pub fn into_texts(self, query: &str) -> (Vec<String>, Vec<String>) {
        let (mut warnings, mut infos) = (Vec::new(), Vec::new());
        for (text, entry) in self.0 {
            let kind = if entry.info { "info" } else { "warning" };
            let (line, column) = line_and_column(query, entry.position);
            let mut shown = format!("PromQL {kind}: {text}");
            if let Some((how, from, to, samples)) = entry.straightened {
                shown.push_str(&format!(
                    ", from buckets {} to {}, with a max diff of {}, over {samples} samples from {} to {}",
                    general(how.min_bound),
                    general(how.max_bound),
                    two_digits(how.max_difference),
                    rfc3339(from.div_euclid(1000)),
                    rfc3339(to.div_euclid(1000)),
                ));
            }
            shown.push_str(&format!(" ({line}:{column})"));
            if entry.info {
                infos.push(shown)
            } else {
                warnings.push(shown)
            }
        }
        for (kind, texts) in [("warning", &mut warnings), ("info", &mut infos)] {
            let more = texts.len().saturating_sub(NOTES_MAX);
            if more > 0 {
                texts.truncate(NOTES_MAX);
                texts.push(format!("{more} more {kind} annotations omitted"));
            }
        }
        (warnings, infos)
    }
}

/// Line and byte of a line, both from 1.
pub(crate) fn line_and_column(text: &str, position: Position) -> (usize, usize) {
    let before = &text.as_bytes()[..position.min(text.len())];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (line, before.len() - start + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_names_its_place_and_comes_once() {
        let mut notes = Notes::default();
        notes.invalid_quantile(1.5, 9);
        notes.invalid_quantile(1.5, 9);
        notes.ignored_in_aggregation("stddev", 2);
        let (warnings, infos) = notes.into_texts("quantile(\n1.5, x)");
        assert_eq!(
            warnings,
            ["PromQL warning: quantile value should be between 0 and 1, got 1.5 (1:10)"]
        );
        assert_eq!(infos, ["PromQL info: ignored histogram in stddev aggregation (1:3)"]);
        assert_eq!(line_and_column("a\nbc", 3), (2, 2));
    }

    #[test]
    fn straightened_buckets_are_summed_up() {
        let mut notes = Notes::default();
        let how = Straightened {
            min_bound: 2.0,
            max_bound: 2.0,
            max_difference: 0.123,
        };
        notes.forced_monotonicity("m", 0, 60_000, how);
        notes.forced_monotonicity(
            "m",
            0,
            0,
            Straightened {
                max_bound: 5.0,
                max_difference: 12.0,
                ..how
            },
        );
        let (_, infos) = notes.into_texts("q");
        assert!(
            infos[0].ends_with(
                "for metric name \"m\", from buckets 2 to 5, with a max diff of 12, over 2 samples from \
                 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z (1:1)"
            ),
            "{}",
            infos[0]
        );
    }

    #[test]
    fn no_more_notes_than_a_panel_can_show() {
        let mut notes = Notes::default();
        for metric in 0..25 {
            notes.not_a_gauge(&metric.to_string(), 0);
        }
        let (warnings, _) = notes.into_texts("q");
        assert_eq!(warnings.len(), NOTES_MAX + 1);
        assert_eq!(warnings[NOTES_MAX], "15 more warning annotations omitted");
    }
}
