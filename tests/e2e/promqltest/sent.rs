//! Series of a script as an OTLP request, and why those that are not in it cannot be said in OTLP.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
    HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
    number_data_point::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tailwater_promql::number::{is_stale, plain};
use tailwater_promql::{BUCKET, Histogram as Native, Labels, METRIC_NAME, ResetHint, Series};

use crate::sample;

const NO_VALUE: u32 = DataPointFlags::NoRecordedValueMask as u32;
const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// A denser side of a histogram than this has no place in a request.
const BUCKETS_MAX: i64 = 5000;

/// What can be sent, and the rest.
pub struct Sent {
    /// The request; empty if there is nothing to send.
    pub request: Vec<u8>,
    /// Points in it.
    pub points: usize,
    /// What cannot be said, with the reason.
    pub unsaid: BTreeMap<Labels, &'static str>,
}

/// Metrics of one resource by name and kind, in the order of the kinds of OTLP.
#[derive(Default)]
struct OfResource(BTreeMap<(String, u8), Data>);

impl OfResource {
    fn numbers(&mut self, name: &str) -> &mut Vec<NumberDataPoint> {
        let data = if is_total(name) {
            let sum = Sum {
                data_points: Vec::new(),
                aggregation_temporality: CUMULATIVE,
                is_monotonic: true,
            };
            self.0.entry((name.to_owned(), 7)).or_insert(Data::Sum(sum))
        } else {
            self.0
                .entry((name.to_owned(), 5))
                .or_insert(Data::Gauge(Gauge::default()))
        };
        match data {
            Data::Sum(sum) => &mut sum.data_points,
            Data::Gauge(gauge) => &mut gauge.data_points,
            _ => unreachable!("keyed by kind"),
        }
    }

    fn histograms(&mut self, name: &str) -> &mut Vec<HistogramDataPoint> {
        let empty = Histogram {
            data_points: Vec::new(),
            aggregation_temporality: CUMULATIVE,
        };
        match self.0.entry((name.to_owned(), 9)).or_insert(Data::Histogram(empty)) {
            Data::Histogram(histogram) => &mut histogram.data_points,
            _ => unreachable!("keyed by kind"),
        }
    }

    fn exponential(&mut self, name: &str) -> &mut Vec<ExponentialHistogramDataPoint> {
        let empty = ExponentialHistogram {
            data_points: Vec::new(),
            aggregation_temporality: CUMULATIVE,
        };
        match self
            .0
            .entry((name.to_owned(), 10))
            .or_insert(Data::ExponentialHistogram(empty))
        {
            Data::ExponentialHistogram(histogram) => &mut histogram.data_points,
            _ => unreachable!("keyed by kind"),
        }
    }
}

/// Says these series in OTLP.
pub fn sent(all: &[Series]) -> Sent {
    let mut resources: BTreeMap<(String, String), OfResource> = BTreeMap::new();
    let mut unsaid = BTreeMap::new();
    let mut points = 0;
    let classic = classic(all);
    for (labels, buckets) in &classic.whole {
        let of = resources.entry(target(labels)).or_default();
        let histograms = of.histograms(labels.metric());
        let before = histograms.len();
        histograms.extend(histogram_points(labels, buckets));
        points += histograms.len() - before;
    }
    for series in all {
        if classic.parts.contains(&series.labels) {
            continue;
        }
        if let Some(why) = why_not(series) {
            unsaid.insert(series.labels.clone(), why);
            continue;
        }
        let of = resources.entry(target(&series.labels)).or_default();
        let name = series.labels.metric();
        points += series.len();
        let floats = series.floats.times.iter().zip(&series.floats.values);
        let floats: Vec<_> = floats
            .map(|(time, value)| number_point(&series.labels, *time, *value))
            .collect();
        if !floats.is_empty() {
            of.numbers(name).extend(floats);
        }
        let native = series.histograms.times.iter().zip(&series.histograms.values);
        let native: Vec<_> = native
            .map(|(time, value)| native_point(&series.labels, *time, value))
            .collect();
        if !native.is_empty() {
            of.exponential(name).extend(native);
        }
    }
    let resource_metrics: Vec<ResourceMetrics> = resources
        .into_iter()
        .map(|((job, instance), of)| resource(&job, &instance, of))
        .collect();
    Sent {
        request: ExportMetricsServiceRequest { resource_metrics }.encode_to_vec(),
        points,
        unsaid,
    }
}

fn resource(job: &str, instance: &str, of: OfResource) -> ResourceMetrics {
    let of_target = [("service.name", job), ("service.instance.id", instance)];
    let attributes = of_target.into_iter().filter(|(_, value)| !value.is_empty());
    let metrics = of.0.into_iter().map(|((name, _), data)| Metric {
        name,
        data: Some(data),
        ..Metric::default()
    });
    ResourceMetrics {
        resource: Some(Resource {
            attributes: attributes.map(|(key, value)| sample::text(key, value)).collect(),
            ..Resource::default()
        }),
        scope_metrics: vec![ScopeMetrics {
            metrics: metrics.collect(),
            ..ScopeMetrics::default()
        }],
        ..ResourceMetrics::default()
    }
}

/// Why a series cannot be sent; `None` if it can.
fn why_not(series: &Series) -> Option<&'static str> {
    let name = series.labels.metric();
    if name.is_empty() {
        return Some("series without a name");
    }
    if !is_kept(name) {
        return Some("names that the translation from OTLP changes");
    }
    if series.labels.iter().any(|label| !label_is_kept(&label.name)) {
        return Some("labels that the translation from OTLP changes");
    }
    series
        .histograms
        .values
        .iter()
        .find_map(|histogram| why_no_exponential(histogram))
}

fn why_no_exponential(histogram: &Native) -> Option<&'static str> {
    if is_stale(histogram.sum) {
        return None;
    }
    let sides = [&histogram.positive, &histogram.negative];
    let mut counts = sides.into_iter().flatten().map(|(_, count)| *count);
    let is_count = |count: f64| count >= 0.0 && count.fract() == 0.0 && count < 9e15;
    if histogram.is_custom() {
        Some("histograms with custom buckets")
    } else if histogram.reset == ResetHint::Gauge {
        Some("gauge histograms")
    } else if !is_count(histogram.count) || !is_count(histogram.zero_count) || !counts.all(is_count) {
        Some("histograms with fractions of observations")
    } else if sides.into_iter().any(|side| width(side) > BUCKETS_MAX) {
        Some("histograms with buckets far apart")
    } else {
        None
    }
}

fn width(side: &[(i32, f64)]) -> i64 {
    match (side.first(), side.last()) {
        (Some((first, _)), Some((last, _))) => i64::from(*last) - i64::from(*first) + 1,
        _ => 0,
    }
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether `UnderscoreEscapingWithSuffixes` leaves the name of a gauge alone, or of a counter if it ends in `_total`.
fn is_kept(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    name.chars().all(|c| is_letter(c) || c == ':')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && words.iter().all(|word| !word.is_empty())
        && (!is_total(name) || words.iter().filter(|word| **word == "total").count() == 1)
}

fn is_total(name: &str) -> bool {
    name.ends_with("_total")
}

fn label_is_kept(name: &str) -> bool {
    name.chars().all(is_letter)
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && (!name.starts_with('_') || name.starts_with("__"))
}

/// Job and instance.
fn target(labels: &Labels) -> (String, String) {
    (labels.get("job").to_owned(), labels.get("instance").to_owned())
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    let own = labels
        .iter()
        .filter(|label| ![METRIC_NAME, "job", "instance"].contains(&&*label.name));
    own.map(|label| sample::text(&label.name, &label.value)).collect()
}

/// 0 means that there is no time: the first nanosecond stands for it.
fn ns(time_ms: i64) -> u64 {
    u64::try_from(time_ms)
        .expect("scripts begin at 0")
        .saturating_mul(1_000_000)
        .max(1)
}

fn number_point(labels: &Labels, time_ms: i64, value: f64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(labels),
        time_unix_nano: ns(time_ms),
        value: (!is_stale(value)).then_some(Value::AsDouble(value)),
        flags: if is_stale(value) { NO_VALUE } else { 0 },
        ..NumberDataPoint::default()
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `why_no_exponential` let it through.
fn count(value: f64) -> u64 {
    value as u64
}

fn native_point(labels: &Labels, time_ms: i64, histogram: &Native) -> ExponentialHistogramDataPoint {
    let empty = ExponentialHistogramDataPoint {
        attributes: attributes(labels),
        time_unix_nano: ns(time_ms),
        ..ExponentialHistogramDataPoint::default()
    };
    if is_stale(histogram.sum) {
        return ExponentialHistogramDataPoint {
            flags: NO_VALUE,
            ..empty
        };
    }
    // `(base^(i-1), base^i]` has index i in Prometheus and i - 1 in OTLP.
    let side = |buckets: &[(i32, f64)]| {
        let first = buckets.first()?.0;
        let mut counts = vec![0; usize::try_from(width(buckets)).ok()?];
        for (index, value) in buckets {
            counts[usize::try_from(index - first).ok()?] = count(*value);
        }
        Some(Buckets {
            offset: first - 1,
            bucket_counts: counts,
        })
    };
    ExponentialHistogramDataPoint {
        count: count(histogram.count),
        sum: Some(histogram.sum),
        scale: histogram.schema,
        zero_count: count(histogram.zero_count),
        zero_threshold: histogram.zero_threshold,
        positive: side(&histogram.positive),
        negative: side(&histogram.negative),
        ..empty
    }
}

/// Buckets of a histogram by bound, then its count and sum.
type Whole<'s> = (Vec<(f64, &'s Series)>, &'s Series, &'s Series);

/// Classic histograms of which all parts are there.
struct Classic<'s> {
    /// By the labels of the histogram.
    whole: BTreeMap<Labels, Whole<'s>>,
    /// Labels of what is in them.
    parts: BTreeSet<Labels>,
}

fn classic(all: &[Series]) -> Classic<'_> {
    let by_labels: BTreeMap<&Labels, &Series> = all.iter().map(|series| (&series.labels, series)).collect();
    let mut groups: BTreeMap<Labels, Vec<(f64, &Series)>> = BTreeMap::new();
    for series in all {
        let (name, le) = (series.labels.metric(), series.labels.get(BUCKET));
        let Some(base) = name.strip_suffix("_bucket") else {
            continue;
        };
        // A bound that is written otherwise would come back as another label.
        let bound = le.parse::<f64>().ok().filter(|bound| plain(*bound) == le);
        if let Some(bound) = bound
            && why_not(series).is_none()
            && is_kept(base)
        {
            let of = series.labels.with(METRIC_NAME, base).with(BUCKET, "");
            groups.entry(of).or_default().push((bound, series));
        }
    }
    let mut found = Classic {
        whole: BTreeMap::new(),
        parts: BTreeSet::new(),
    };
    for (labels, mut buckets) in groups {
        let part = |suffix: &str| {
            let name = format!("{}{suffix}", labels.metric());
            by_labels.get(&labels.with(METRIC_NAME, &name)).copied()
        };
        let (Some(count), Some(sum)) = (part("_count"), part("_sum")) else {
            continue;
        };
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let whole = (buckets, count, sum);
        if fits_together(&whole) {
            let parts = whole.0.iter().map(|(_, series)| *series).chain([count, sum]);
            found.parts.extend(parts.map(|series| series.labels.clone()));
            found.whole.insert(labels, whole);
        }
    }
    found
}

/// Whether the parts are those of one histogram at each of their times: whole numbers that rise from bucket to bucket, up to the count.
fn fits_together((buckets, count, sum): &Whole<'_>) -> bool {
    let is_last_infinite = buckets.last().is_some_and(|(bound, _)| *bound == f64::INFINITY);
    let parts = || buckets.iter().map(|(_, series)| *series);
    let same_times = parts()
        .chain([*count, *sum])
        .all(|series| series.histograms.times.is_empty() && series.floats.times == count.floats.times);
    let rising: Vec<&Series> = parts().chain([*count]).collect();
    let at = |series: &Series, at: usize| series.floats.values[at];
    is_last_infinite
        && same_times
        && (0..count.floats.times.len()).all(|time| {
            let values = rising.iter().map(|series| at(series, time));
            values
                .clone()
                .all(|value| value >= 0.0 && value.fract() == 0.0 && value < 9e15)
                && values.is_sorted()
                && at(buckets[buckets.len() - 1].1, time) == at(count, time)
                && !is_stale(at(sum, time))
        })
}

fn histogram_points(labels: &Labels, (buckets, of_all, sum): &Whole<'_>) -> Vec<HistogramDataPoint> {
    let bounds: Vec<f64> = buckets[..buckets.len() - 1].iter().map(|(bound, _)| *bound).collect();
    let times = of_all.floats.times.iter().enumerate();
    times
        .map(|(at, time)| {
            let mut below = 0;
            let counts = buckets.iter().map(|(_, series)| {
                let upto = count(series.floats.values[at]);
                let own = upto - below;
                below = upto;
                own
            });
            HistogramDataPoint {
                attributes: attributes(labels),
                time_unix_nano: ns(*time),
                count: count(of_all.floats.values[at]),
                sum: Some(sum.floats.values[at]),
                bucket_counts: counts.collect(),
                explicit_bounds: bounds.clone(),
                ..HistogramDataPoint::default()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_translation_keeps() {
        for (name, kept) in [
            ("http_requests_total", true),
            ("job:rate5m", true),
            ("a_total_b", true),
            ("a_total_b_total", false),
            ("_a", false),
            ("a__b", false),
            ("a_", false),
            ("1a", false),
            ("a.b", false),
        ] {
            assert_eq!(is_kept(name), kept, "{name}");
        }
        for (name, kept) in [
            ("a_b", true),
            ("__unit__", true),
            ("_a", false),
            ("0", false),
            ("é", false),
        ] {
            assert_eq!(label_is_kept(name), kept, "{name}");
        }
    }
}
