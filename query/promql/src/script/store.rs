//! Series that scripts load, as a time-series database would hand them out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Load, ScriptPoint};
use crate::expr::Matcher;
use crate::histogram::{CUSTOM_BUCKETS, Histogram, ResetHint};
use crate::labels::{BUCKET, Labels, METRIC_NAME};
use crate::number::{is_stale, parse};
use crate::plan::Need;
use crate::sample::{Floats, Histograms, Series};

/// Everything loaded since the last `clear`.
#[derive(Debug, Clone, Default)]
pub struct Store {
    series: BTreeMap<Labels, BTreeMap<i64, ScriptPoint>>,
    /// Some samples were loaded with start timestamps, which are not kept.
    pub start_timestamps: bool,
}

impl Store {
    /// Adds samples; one that is there already stays.
    pub fn load(&mut self, load: &Load) {
        self.start_timestamps |= load.start_timestamps;
        let mut added: Vec<(Labels, Vec<(i64, ScriptPoint)>)> = Vec::new();
        for (labels, points) in &load.series {
            let times = (0..).map(|number: i64| number * load.step_ms);
            let points = times.zip(points).filter(|(_, point)| **point != ScriptPoint::Nothing);
            added.push((
                labels.clone(),
                points.map(|(time, point)| (time, point.clone())).collect(),
            ));
        }
        if load.with_custom_buckets {
            let converted = custom_buckets(&added);
            added.extend(converted);
        }
        for (labels, points) in added {
            let samples = self.series.entry(labels).or_default();
            for (time, point) in points {
                samples.entry(time).or_insert(point);
            }
        }
    }

    /// Every series with all its samples.
    #[must_use]
    pub fn all(&self) -> Vec<Series> {
        self.series
            .iter()
            .map(|(labels, samples)| series(labels, samples, i64::MIN, i64::MAX))
            .filter(|series| !series.is_empty())
            .collect()
    }

    /// What a query needs.
    #[must_use]
    pub fn fetch(&self, need: &Need) -> Vec<Series> {
        self.series
            .iter()
            .filter(|(labels, _)| Matcher::all(&need.matchers, labels))
            .map(|(labels, samples)| series(labels, samples, need.from_ms, need.to_ms))
            .filter(|series| !series.is_empty())
            .collect()
    }
}

fn series(labels: &Labels, samples: &BTreeMap<i64, ScriptPoint>, from_ms: i64, to_ms: i64) -> Series {
    let mut floats = Floats::default();
    let mut histograms = Histograms::default();
    let mut chunk: Option<Arc<Histogram>> = None;
    for (time, point) in samples {
        let wanted = (from_ms..=to_ms).contains(time);
        match point {
            ScriptPoint::Nothing => {}
            ScriptPoint::Float(value) => {
                chunk = None;
                if wanted {
                    floats.push(*time, *value);
                }
            }
            ScriptPoint::Histogram(histogram, _) => {
                let follows = chunk.as_ref().is_some_and(|before| continues(histogram, before));
                chunk = Some(Arc::clone(histogram));
                if wanted {
                    let reset = match histogram.reset {
                        ResetHint::Gauge => ResetHint::Gauge,
                        _ if follows => ResetHint::NotReset,
                        _ => ResetHint::Unknown,
                    };
                    histograms.push(
                        *time,
                        Arc::new(Histogram {
                            reset,
                            ..Histogram::clone(histogram)
                        }),
                    );
                }
            }
        }
    }
    Series {
        labels: labels.clone(),
        floats,
        histograms,
    }
}

/// True if a database would append this histogram to the chunk of the one before: then it says, when it is read, that
/// there was no reset (prometheus/prometheus:tsdb/chunkenc/float_histogram.go, appendable).
fn continues(histogram: &Histogram, before: &Histogram) -> bool {
    if histogram.reset == ResetHint::Reset
        || histogram.reset == ResetHint::Gauge
        || before.reset == ResetHint::Gauge
        || is_stale(before.sum)
    {
        return false;
    }
    let unknown = Histogram {
        reset: ResetHint::Unknown,
        ..histogram.clone()
    };
    is_stale(histogram.sum)
        || (histogram.schema == before.schema
            && histogram.zero_threshold == before.zero_threshold
            && histogram.bounds == before.bounds
            && !unknown.is_reset_after(before))
}

/// What one classic histogram says at one time.
#[derive(Debug, Default)]
struct Classic {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

/// Classic histograms as histograms with custom buckets (prometheus/prometheus:util/convertnhcb). What is not cumulative
/// has no such form and is left out.
fn custom_buckets(series: &[(Labels, Vec<(i64, ScriptPoint)>)]) -> Vec<(Labels, Vec<(i64, ScriptPoint)>)> {
    let mut found: BTreeMap<Labels, BTreeMap<i64, Classic>> = BTreeMap::new();
    for (labels, points) in series {
        let name = labels.metric();
        let Some((base, part)) = ["_bucket", "_count", "_sum"]
            .into_iter()
            .find_map(|part| name.strip_suffix(part).map(|base| (base, part)))
        else {
            continue;
        };
        let bound = parse(labels.get(BUCKET)).filter(|bound| !bound.is_nan());
        if part == "_bucket" && bound.is_none() {
            continue;
        }
        let of_base = found
            .entry(labels.with(METRIC_NAME, base).with(BUCKET, ""))
            .or_default();
        for (time, point) in points {
            let ScriptPoint::Float(value) = point else { continue };
            let classic = of_base.entry(*time).or_default();
            match (part, bound) {
                ("_bucket", Some(bound)) => classic.buckets.push((bound, *value)),
                ("_count", _) => classic.count = Some(*value),
                _ => classic.sum = *value,
            }
        }
    }
    found
        .into_iter()
        .map(|(labels, times)| {
            let points = times.into_iter().filter_map(|(time, classic)| {
                convert(classic).map(|histogram| (time, ScriptPoint::Histogram(Arc::new(histogram), false)))
            });
            (labels, points.collect())
        })
        .collect()
}

fn convert(mut classic: Classic) -> Option<Histogram> {
    classic.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    classic.buckets.dedup_by(|next, kept| next.0 == kept.0);
    let count = classic
        .count
        .or(classic.buckets.last().map(|bucket| bucket.1))
        .unwrap_or(0.0);
    if classic.buckets.last().is_none_or(|last| last.0 != f64::INFINITY) {
        classic.buckets.push((f64::INFINITY, count));
    }
    if classic.buckets.windows(2).any(|pair| pair[1].1 < pair[0].1) || classic.buckets.last()?.1 != count {
        return None;
    }
    let mut before = 0.0;
    let mut positive = Vec::with_capacity(classic.buckets.len());
    for (index, (_, up_to)) in (0..).zip(&classic.buckets) {
        positive.push((index, up_to - before));
        before = *up_to;
    }
    let bounds = classic
        .buckets
        .iter()
        .map(|bucket| bucket.0)
        .filter(|bound| bound.is_finite())
        .collect();
    let histogram = Histogram {
        schema: CUSTOM_BUCKETS,
        count,
        sum: classic.sum,
        positive,
        bounds,
        ..Histogram::default()
    };
    Some(histogram.compact())
}
