//! Samples of histograms, exponential histograms and summaries.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use tailwater_promql::{Histogram, Matcher, number};

use super::super::{Sql, Window, table};
use super::points::{Gathered, NO_VALUE, Read, born, by_series, in_window, of_series, paused};
use super::{EXPONENTIAL, HISTOGRAM, SUMMARY, Stored};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};

/// Finest and coarsest resolution of a native histogram.
const SCHEMA_MAX: i32 = 8;
const SCHEMA_MIN: i32 = -4;

/// Half width of the zero bucket where none was sent, as Prometheus has it for OTLP: 1e-128 (prometheusremotewrite/histograms.go).
const ZERO_THRESHOLD: f64 = 1e-128;

/// One point, as it was sent.
#[derive(Debug, Clone, Default, PartialEq)]
struct Point {
    time_ms: i64,
    start_ms: Option<i64>,
    is_there: bool,
    count: f64,
    sum: Option<f64>,
    /// Upper bounds, and counts per bucket.
    bounds: Vec<f64>,
    counts: Vec<f64>,
    scale: i32,
    zero_count: f64,
    zero_threshold: f64,
    /// Index of the first bucket, and counts: above zero, below zero.
    positive: (i32, Vec<f64>),
    negative: (i32, Vec<f64>),
    /// Quantile and value.
    quantiles: Vec<(f64, f64)>,
}

const SELECT: &str = "select series_id, arrow_cast(ts, 'Int64'), arrow_cast(start_ts, 'Int64'), flags, count, sum, scale, zero_count, zero_threshold, \
                      pos_offset, neg_offset, bounds, counts, pos_counts, neg_counts, quantiles from metric_dists";

/// Reads the points of these series.
pub(super) async fn read(
    engine: &Engine,
    series: &[&Stored],
    window: Window,
    moments: &[i64],
    out: &mut Gathered<'_>,
    notes: &mut BTreeSet<String>,
) -> Result<()> {
    let of_points = Read {
        parse,
        time_ms: |point: &Point| point.time_ms,
    };
    for (stored, points) in by_series(engine, SELECT, series, window, notes, of_points).await? {
        let times = points.iter().map(|point| (point.time_ms, point.start_ms));
        let born = born(times, window.after_ms + 1).filter(|_| stored.adds_up());
        match stored.sent.kind {
            HISTOGRAM => classic(stored, &points, (born, moments), out)?,
            EXPONENTIAL => native(stored, &points, (born, moments), out, notes)?,
            SUMMARY => summary(stored, &points, out)?,
            _ => {}
        }
    }
    Ok(())
}

fn parse(rows: &RecordBatch) -> Result<Vec<Point>> {
    let [times, starts, flags, counts, scales, pos_offsets, neg_offsets] = [
        table::integers(rows, 1)?,
        table::integers(rows, 2)?,
        table::integers(rows, 3)?,
        table::integers(rows, 4)?,
        table::integers(rows, 6)?,
        table::integers(rows, 9)?,
        table::integers(rows, 10)?,
    ];
    let [sums, zeros, thresholds] = [
        table::floats(rows, 5)?,
        table::floats(rows, 7)?,
        table::floats(rows, 8)?,
    ];
    let [bounds, buckets, positives, negatives] = [11, 12, 13, 14].map(|column| Lists { rows, column });
    let quantiles = rows
        .column(15)
        .as_list_opt::<i32>()
        .ok_or_else(|| Error::new(ErrorKind::Internal, "quantiles are no list"))?;
    let or_zero = |column: &arrow::array::Float64Array, row: usize| {
        if column.is_valid(row) { column.value(row) } else { 0.0 }
    };
    let small = |column: &arrow::array::Int64Array, row: usize| {
        if column.is_valid(row) {
            i32::try_from(column.value(row)).unwrap_or_default()
        } else {
            0
        }
    };
    (0..rows.num_rows())
        .map(|row| {
            let pairs = quantiles.value(row);
            let pairs = pairs.as_struct();
            let [qs, vs] = [0, 1].map(|column| pairs.column(column).as_primitive::<Float64Type>());
            #[allow(clippy::cast_precision_loss)] // Counts beyond 2^53 are rounded, as in Prometheus.
            Ok(Point {
                time_ms: times.value(row).div_euclid(1000),
                start_ms: starts.is_valid(row).then(|| starts.value(row).div_euclid(1000)),
                is_there: flags.value(row) & NO_VALUE == 0,
                count: counts.value(row) as f64,
                sum: sums.is_valid(row).then(|| sums.value(row)),
                bounds: bounds.floats(row)?,
                counts: buckets.floats(row)?,
                scale: small(&scales, row),
                zero_count: or_zero(&zeros, row),
                zero_threshold: or_zero(&thresholds, row),
                positive: (small(&pos_offsets, row), positives.floats(row)?),
                negative: (small(&neg_offsets, row), negatives.floats(row)?),
                quantiles: (0..pairs.len()).map(|at| (qs.value(at), vs.value(at))).collect(),
            })
        })
        .collect()
}

struct Lists<'r> {
    rows: &'r RecordBatch,
    column: usize,
}

impl Lists<'_> {
    #[allow(clippy::cast_precision_loss)] // As above.
    fn floats(&self, row: usize) -> Result<Vec<f64>> {
        let list = self.rows.column(self.column).as_list_opt::<i32>();
        let wrong = || {
            Error::new(
                ErrorKind::Internal,
                format!("column {} is no list of numbers", self.column),
            )
        };
        let values = list.ok_or_else(wrong)?.value(row);
        if let Some(values) = values.as_primitive_opt::<Float64Type>() {
            return Ok(values.values().to_vec());
        }
        let values = values.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
        Ok(values.values().iter().map(|value| *value as f64).collect())
    }
}

/// A bound as a label: the shortest decimal.
fn text(bound: f64) -> String {
    number::plain(bound)
}

impl Point {
    /// When a sum of deltas stood still before this one.
    fn paused<'m>(&self, last: Option<i64>, moments: &'m [i64]) -> impl Iterator<Item = i64> + use<'m> {
        paused(last, (self.time_ms, self.start_ms), moments)
    }
}

/// `_bucket`, `_count` and `_sum` of a histogram; deltas are added up, from when they are born, and stand still at these moments.
fn classic(
    stored: &Stored,
    points: &[Point],
    (born, moments): (Option<i64>, &[i64]),
    out: &mut Gathered<'_>,
) -> Result<()> {
    let delta = stored.sent.delta;
    let (mut counts, mut sums) = (Vec::new(), Vec::new());
    let mut buckets: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    let mut totals: HashMap<String, f64> = HashMap::new();
    let (mut count, mut sum) = (0.0, 0.0);
    let mut last = None;
    for point in points {
        if !point.is_there {
            if !delta {
                let ended = (point.time_ms, number::stale());
                counts.push(ended);
                sums.push(ended);
                buckets.values_mut().for_each(|samples| samples.push(ended));
            }
            continue;
        }
        let before = |total: f64| if delta { total } else { 0.0 };
        let still = |total: f64| point.paused(last, moments).map(move |time| (time, total));
        counts.extend(still(count));
        count = before(count) + point.count;
        counts.push((point.time_ms, count));
        if let Some(of_point) = point.sum {
            sums.extend(still(sum));
            sum = before(sum) + of_point;
            sums.push((point.time_ms, sum));
        }
        for (le, below) in cumulative(point) {
            let total = totals.entry(le.clone()).or_default();
            let samples = buckets.entry(le).or_default();
            samples.extend(still(*total));
            *total = before(*total) + below;
            samples.push((point.time_ms, *total));
        }
        last = delta.then_some(point.time_ms);
    }
    let zero = born.map(|time| (time, 0.0));
    out.floats(stored.labels("_count", None), zero.into_iter().chain(counts))?;
    if !sums.is_empty() {
        out.floats(stored.labels("_sum", None), zero.into_iter().chain(sums))?;
    }
    for (le, samples) in buckets {
        out.floats(
            stored.labels("_bucket", Some(("le", &le))),
            zero.into_iter().chain(samples),
        )?;
    }
    Ok(())
}

/// How many values are at or below each bound, and at all.
fn cumulative(point: &Point) -> Vec<(String, f64)> {
    let mut below = 0.0;
    let finite = point.bounds.iter().zip(&point.counts).map(|(bound, count)| {
        below += count;
        (text(*bound), below)
    });
    let mut all: Vec<(String, f64)> = finite.collect();
    all.push(("+Inf".to_owned(), point.count));
    all
}

/// Native histograms; deltas likewise.
fn native(
    stored: &Stored,
    points: &[Point],
    (born, moments): (Option<i64>, &[i64]),
    out: &mut Gathered<'_>,
    notes: &mut BTreeSet<String>,
) -> Result<()> {
    let delta = stored.sent.delta;
    let mut total: Option<(i64, Arc<Histogram>)> = None;
    let samples = points.iter().flat_map(|point| {
        if !point.is_there {
            let ended = Histogram {
                sum: number::stale(),
                ..Histogram::default()
            };
            let ended = (!delta).then(|| (point.time_ms, Arc::new(ended)));
            return None.into_iter().flatten().chain(ended);
        }
        let Some(one) = histogram(point) else {
            notes.insert(format!(
                "points of {} are left out: their scale is below {SCHEMA_MIN}",
                stored.sent.name
            ));
            return None.into_iter().flatten().chain(None);
        };
        let before = total.take().filter(|_| delta);
        let still = before.clone().map(|(last, total)| {
            let paused = point.paused(Some(last), moments);
            paused.map(move |time| (time, total.clone()))
        });
        let shown = Arc::new(match before {
            Some((_, before)) => added(Arc::unwrap_or_clone(before), one),
            None => one,
        });
        total = Some((point.time_ms, shown.clone()));
        still.into_iter().flatten().chain(Some((point.time_ms, shown)))
    });
    let mut samples = samples.peekable();
    let zero = born.zip(samples.peek()).map(|(time, (_, first))| {
        let zero = Histogram {
            schema: first.schema,
            zero_threshold: first.zero_threshold,
            ..Histogram::default()
        };
        (time, Arc::new(zero))
    });
    out.histograms(stored.labels("", None), zero.into_iter().chain(samples))
}

/// With Prometheus' indices (`(base^(i-1), base^i]`, one above OTLP's) and at most its resolution; `None` below its coarsest.
fn histogram(point: &Point) -> Option<Histogram> {
    if point.scale < SCHEMA_MIN {
        return None;
    }
    let side = |(offset, counts): &(i32, Vec<f64>)| -> Vec<(i32, f64)> {
        let buckets = counts.iter().enumerate().filter(|(_, count)| **count != 0.0);
        let numbered = buckets.map(|(at, count)| {
            let at = i32::try_from(at).unwrap_or(i32::MAX);
            (offset.saturating_add(at).saturating_add(1), *count)
        });
        numbered.collect()
    };
    let full = Histogram {
        schema: point.scale,
        zero_threshold: if point.zero_threshold > 0.0 {
            point.zero_threshold
        } else {
            ZERO_THRESHOLD
        },
        zero_count: point.zero_count,
        count: point.count,
        // As Prometheus: a sum that was not sent is 0.
        sum: point.sum.unwrap_or_default(),
        positive: side(&point.positive),
        negative: side(&point.negative),
        ..Histogram::default()
    };
    Some(coarser(full, SCHEMA_MAX))
}

/// At most this schema.
fn coarser(mut histogram: Histogram, schema: i32) -> Histogram {
    let shift = histogram.schema - schema;
    if shift <= 0 {
        return histogram;
    }
    for side in [&mut histogram.positive, &mut histogram.negative] {
        let mut merged: Vec<(i32, f64)> = Vec::new();
        for (index, count) in side.drain(..) {
            let index = ((index - 1) >> shift.min(31)) + 1;
            match merged.last_mut() {
                Some((last, total)) if *last == index => *total += count,
                _ => merged.push((index, count)),
            }
        }
        *side = merged;
    }
    histogram.schema = schema;
    histogram
}

/// Both together, at the coarser schema.
fn added(a: Histogram, b: Histogram) -> Histogram {
    let schema = a.schema.min(b.schema);
    let (a, b) = (coarser(a, schema), coarser(b, schema));
    let merged = |a: Vec<(i32, f64)>, b: Vec<(i32, f64)>| {
        let mut all: BTreeMap<i32, f64> = a.into_iter().collect();
        for (index, count) in b {
            *all.entry(index).or_default() += count;
        }
        all.into_iter().collect()
    };
    Histogram {
        schema,
        zero_threshold: a.zero_threshold.max(b.zero_threshold),
        zero_count: a.zero_count + b.zero_count,
        count: a.count + b.count,
        sum: a.sum + b.sum,
        positive: merged(a.positive, b.positive),
        negative: merged(a.negative, b.negative),
        ..Histogram::default()
    }
}

/// `{quantile}`, `_count` and `_sum` of a summary.
fn summary(stored: &Stored, points: &[Point], out: &mut Gathered<'_>) -> Result<()> {
    let mut quantiles: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    let or_stale = |point: &Point, value: f64| (point.time_ms, if point.is_there { value } else { number::stale() });
    for point in points {
        for (q, value) in &point.quantiles {
            quantiles.entry(text(*q)).or_default().push(or_stale(point, *value));
        }
    }
    let counts = points.iter().map(|point| or_stale(point, point.count));
    out.floats(stored.labels("_count", None), counts)?;
    let sums = points
        .iter()
        .map(|point| or_stale(point, point.sum.unwrap_or_default()));
    out.floats(stored.labels("_sum", None), sums)?;
    for (q, samples) in quantiles {
        out.floats(stored.labels("", Some(("quantile", &q))), samples)?;
    }
    Ok(())
}

/// `le` and `quantile` values of these series in the window, where the matchers let through what carries them.
pub(super) async fn bounds(
    engine: &Engine,
    series: &[&Stored],
    matchers: &[Matcher],
    window: Window,
    notes: &mut BTreeSet<String>,
) -> Result<HashMap<i64, BTreeSet<String>>> {
    let carries = |stored: &&&Stored| match stored.sent.kind {
        HISTOGRAM => super::may_be(matchers, &format!("{}_bucket", stored.sent.base)),
        SUMMARY => super::may_be(matchers, &stored.sent.base),
        _ => false,
    };
    let wanted: Vec<&Stored> = series.iter().filter(carries).copied().collect();
    let mut found: HashMap<i64, BTreeSet<String>> = HashMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let mut sql = Sql::default();
    // A series rarely changes its bounds: lists that are equal come once.
    sql.push("select distinct series_id, type, bounds, quantiles from metric_dists");
    in_window(&mut sql, window);
    of_series(&mut sql, &wanted);
    for rows in table::read(engine, sql, notes).await? {
        let (ids, kinds) = (table::integers(&rows, 0)?, table::integers(&rows, 1)?);
        let bounds = Lists { rows: &rows, column: 2 };
        for row in 0..rows.num_rows() {
            let values = found.entry(ids.value(row)).or_default();
            if kinds.value(row) == HISTOGRAM {
                values.extend(bounds.floats(row)?.into_iter().map(text));
                values.insert("+Inf".to_owned());
            } else if let Some(pairs) = rows.column(3).as_list_opt::<i32>() {
                let pairs = pairs.value(row);
                let qs = pairs.as_struct().column(0).as_primitive::<Float64Type>().clone();
                values.extend(qs.values().iter().map(|q| text(*q)));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn exponential_histograms_change_their_indices() {
        let point = Point {
            count: 7.0,
            sum: Some(9.0),
            scale: 1,
            zero_count: 1.0,
            positive: (-1, vec![1.0, 0.0, 2.0]),
            negative: (3, vec![3.0]),
            ..Point::default()
        };
        let found = histogram(&point).unwrap();
        assert_eq!((found.schema, found.count, found.sum), (1, 7.0, 9.0));
        assert_eq!(found.positive, [(0, 1.0), (2, 2.0)]);
        assert_eq!(found.negative, [(4, 3.0)]);
        // (2^-0.5, 1] and (2^0.5, 2] lie in (0.5, 1] and (1, 2].
        let coarse = coarser(found.clone(), 0);
        assert_eq!(coarse.positive, [(0, 1.0), (1, 2.0)]);
        let both = added(found, coarse);
        assert_eq!((both.schema, both.count), (0, 14.0));
        assert_eq!(both.positive, [(0, 2.0), (1, 4.0)]);
        assert!(histogram(&Point { scale: -5, ..point }).is_none());
    }

    #[test]
    fn buckets_are_cumulative() {
        let point = Point {
            count: 6.0,
            bounds: vec![0.005, 1.0],
            counts: vec![1.0, 2.0, 3.0],
            ..Point::default()
        };
        let found: Vec<String> = cumulative(&point)
            .iter()
            .map(|(le, count)| format!("{le}:{count}"))
            .collect();
        assert_eq!(found, ["0.005:1", "1:3", "+Inf:6"]);
    }
}
