//! Samples of gauges and sums, and where samples of all kinds are gathered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use tailwater_promql::{Histogram, Labels, Matcher, Series, number};

use super::super::{Room, Sql, Window, table};
use super::{SERIES_NAMED_MAX, Stored};
use crate::engine::Engine;
use crate::error::Result;

/// Bit of `flags`: there is no value, the series has ended for now.
pub(super) const NO_VALUE: i64 = 1;

/// Samples by labels, in any order.
pub(super) struct Gathered<'m> {
    matchers: &'m [Matcher],
    room: &'m mut Room,
    floats: BTreeMap<Labels, Vec<(i64, f64)>>,
    histograms: BTreeMap<Labels, Vec<(i64, Arc<Histogram>)>>,
}

impl<'m> Gathered<'m> {
    pub fn new(matchers: &'m [Matcher], room: &'m mut Room) -> Gathered<'m> {
        Gathered {
            matchers,
            room,
            floats: BTreeMap::new(),
            histograms: BTreeMap::new(),
        }
    }

    /// Adds samples, if the labels are selected.
    pub fn floats(&mut self, labels: Labels, samples: impl IntoIterator<Item = (i64, f64)>) -> Result<()> {
        if Matcher::all(self.matchers, &labels) {
            let all = self.floats.entry(labels).or_default();
            let before = all.len();
            all.extend(samples);
            self.room.take(all.len() - before)?;
        }
        Ok(())
    }

    /// Adds histograms, likewise, one by one: sums of many grow.
    pub fn histograms(
        &mut self,
        labels: Labels,
        samples: impl IntoIterator<Item = (i64, Arc<Histogram>)>,
    ) -> Result<()> {
        if Matcher::all(self.matchers, &labels) {
            let all = self.histograms.entry(labels).or_default();
            for (time, histogram) in samples {
                self.room.take(1)?;
                if all.last().is_none_or(|(_, before)| !Arc::ptr_eq(before, &histogram)) {
                    self.room.take_histogram(&histogram)?;
                }
                all.push((time, histogram));
            }
        }
        Ok(())
    }

    /// Series with rising times. A time has one sample: the last read, a float before a histogram.
    pub fn finish(self) -> Vec<Series> {
        let floats = self.floats.into_iter().map(|(labels, samples)| {
            let series = Series::of_floats(labels.clone(), rising(samples));
            (labels, series)
        });
        let mut all: BTreeMap<Labels, Series> = floats.collect();
        for (labels, samples) in self.histograms {
            let one = all.entry(labels.clone()).or_insert_with(|| Series {
                labels,
                ..Series::default()
            });
            for (time, value) in rising(samples) {
                if one.floats.times.binary_search(&time).is_err() {
                    one.histograms.push(time, value);
                }
            }
        }
        all.into_values().filter(|series| !series.is_empty()).collect()
    }
}

/// In order of time; of several at one time the last.
fn rising<V>(mut samples: Vec<(i64, V)>) -> impl Iterator<Item = (i64, V)> {
    samples.sort_by_key(|(time, _)| *time);
    let mut samples = samples.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut one = samples.next()?;
        while let Some(later) = samples.next_if(|(time, _)| *time == one.0) {
            one = later;
        }
        Some(one)
    })
}

/// `where` of the points in a window; times are cut to milliseconds.
pub(super) fn in_window(sql: &mut Sql, window: Window) {
    sql.push(" where ts >= ").time(window.after_ms.saturating_add(1));
    sql.push(" and ts < ").time(window.upto_ms.saturating_add(1));
}

/// ` and` the metrics and, if they are few, the series.
pub(super) fn of_series(sql: &mut Sql, series: &[&Stored]) {
    let names: BTreeSet<&str> = series.iter().map(|stored| stored.sent.name.as_str()).collect();
    sql.among("metric_name", names.into_iter());
    if series.len() <= SERIES_NAMED_MAX {
        let ids: Vec<String> = series.iter().map(|stored| stored.id.to_string()).collect();
        sql.push(&format!(" and series_id in ({})", ids.join(", ")));
    }
}

/// One point.
struct Point {
    time_ms: i64,
    /// Where its interval begins, ms, if that was sent.
    start_ms: Option<i64>,
    /// `None` if there is no value.
    value: Option<f64>,
}

/// How points come out of rows.
pub(super) struct Read<P> {
    /// All of them, in the order of the rows.
    pub parse: fn(&RecordBatch) -> Result<Vec<P>>,
    /// When one was, ms since 1970.
    pub time_ms: fn(&P) -> i64,
}

/// The points of each of these series, in order of time; of deltas with the same labels those of all, under one of them. `select` names the columns and the
/// table, the series' id first; `of_points` reads such rows.
pub(super) async fn by_series<'s, P: Send>(
    engine: &Engine,
    select: &str,
    series: &[&'s Stored],
    window: Window,
    notes: &mut BTreeSet<String>,
    of_points: Read<P>,
) -> Result<Vec<(&'s Stored, Vec<P>)>> {
    if series.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Sql::default();
    sql.push(select);
    in_window(&mut sql, window);
    of_series(&mut sql, series);
    let mut points: HashMap<i64, Vec<P>> = HashMap::new();
    for rows in table::read(engine, sql, notes).await? {
        let ids = table::integers(&rows, 0)?;
        for (row, point) in (of_points.parse)(&rows)?.into_iter().enumerate() {
            points.entry(ids.value(row)).or_default().push(point);
        }
    }
    let mut all: Vec<(&Stored, Vec<P>)> = Vec::with_capacity(points.len());
    let mut adding: BTreeMap<(i64, Labels), usize> = BTreeMap::new();
    for stored in series {
        let Some(points) = points.remove(&stored.id) else {
            continue;
        };
        if stored.adds_up() {
            let at = *adding
                .entry((stored.sent.kind, stored.labels("", None)))
                .or_insert(all.len());
            if let Some((_, same)) = all.get_mut(at) {
                same.extend(points);
                continue;
            }
        }
        all.push((stored, points));
    }
    for (_, points) in &mut all {
        points.sort_by_key(of_points.time_ms);
    }
    Ok(all)
}

const SELECT: &str = "select series_id, arrow_cast(ts, 'Int64'), arrow_cast(start_ts, 'Int64'), flags, \
                      coalesce(value, arrow_cast(value_int, 'Float64')) from metric_points";

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
        let samples = if stored.adds_up() {
            summed(&points, window.after_ms + 1, moments)
        } else {
            let samples = points.iter().map(|point| (point.time_ms, shown(point.value)));
            samples.collect()
        };
        out.floats(stored.labels("", None), samples)?;
    }
    Ok(())
}

fn parse(rows: &RecordBatch) -> Result<Vec<Point>> {
    let [times, starts, flags] = [
        table::integers(rows, 1)?,
        table::integers(rows, 2)?,
        table::integers(rows, 3)?,
    ];
    let values = table::floats(rows, 4)?;
    let point = |row: usize| {
        let is_there = values.is_valid(row) && flags.value(row) & NO_VALUE == 0;
        Point {
            time_ms: times.value(row).div_euclid(1000),
            start_ms: starts.is_valid(row).then(|| starts.value(row).div_euclid(1000)),
            value: is_there.then(|| values.value(row)),
        }
    };
    Ok((0..rows.num_rows()).map(point).collect())
}

fn shown(value: Option<f64>) -> f64 {
    value.unwrap_or_else(number::stale)
}

/// Deltas as a counter that begins at 0 with the first interval, or with the window if that is later.
fn summed(points: &[Point], from_ms: i64, moments: &[i64]) -> Vec<(i64, f64)> {
    let (mut total, mut last) = (0.0, None);
    let mut samples = Vec::with_capacity(points.len() + 1);
    if let Some(start) = born(points.iter().map(|point| (point.time_ms, point.start_ms)), from_ms) {
        samples.push((start, 0.0));
    }
    for point in points {
        if let Some(value) = point.value {
            let paused = paused(last, (point.time_ms, point.start_ms), moments);
            samples.extend(paused.map(|time| (time, total)));
            total += value;
            samples.push((point.time_ms, total));
            last = Some(point.time_ms);
        }
    }
    samples
}

/// When a sum of deltas is 0: 1 ms into its first interval, for windows are open on the left; not at or after its first point. Points are times and
/// where their intervals begin.
pub(super) fn born(points: impl Iterator<Item = (i64, Option<i64>)> + Clone, from_ms: i64) -> Option<i64> {
    let first = points.clone().map(|(time, _)| time).min()?;
    let start = points.filter_map(|(_, start)| start).min()?;
    let born = start.saturating_add(1).max(from_ms);
    (born < first).then_some(born)
}

/// When a sum of deltas is what it was, between the last point and this one: if this one's interval begins later than that, at the moments until then and
/// 1 ms into it. A point is its time and where its interval begins.
pub(super) fn paused(
    last: Option<i64>,
    (time, start): (i64, Option<i64>),
    moments: &[i64],
) -> impl Iterator<Item = i64> + use<'_> {
    let pause = last.zip(start).map(|(last, start)| (last, start.saturating_add(1)));
    let pause = pause.filter(|(last, end)| last + 1 < *end && *end < time);
    let within = pause.map_or(&[][..], |(last, end)| {
        let until = moments.partition_point(|moment| *moment < end);
        let after = moments.partition_point(|moment| *moment <= last);
        &moments[after..until]
    });
    within.iter().copied().chain(pause.map(|(_, end)| end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_become_a_counter() {
        let point = |time_ms, start_ms, value| Point {
            time_ms,
            start_ms,
            value,
        };
        let points = [
            point(20_000, Some(10_000), Some(2.0)),
            point(30_000, Some(20_000), None),
            point(40_000, Some(30_000), Some(3.0)),
        ];
        let check = |points: &[Point], from_ms: i64, moments: &[i64], expected: &[(i64, f64)]| {
            assert_eq!(summed(points, from_ms, moments), expected);
        };
        let all = [(10_001, 0.0), (20_000, 2.0), (30_001, 2.0), (40_000, 5.0)];
        check(&points, 0, &[], &all);
        check(&points, 15_000, &[], &[(15_000, 0.0), all[1], all[2], all[3]]);
        // A minute in which nothing was sent, with what looks into it.
        let pause = [
            point(20_000, Some(10_000), Some(2.0)),
            point(90_000, Some(80_000), Some(3.0)),
        ];
        let moments = [20_000, 50_000, 50_001, 80_000, 80_001, 85_000];
        let still = [(50_000, 2.0), (50_001, 2.0), (80_000, 2.0), (80_001, 2.0)];
        check(&pause, 0, &moments, &[&all[..2], &still, &[(90_000, 5.0)]].concat());
        check(&pause, 0, &[], &[all[0], all[1], still[3], (90_000, 5.0)]);
        // Of two senders: begins with the interval that does.
        let two = [
            point(20_000, Some(15_000), Some(2.0)),
            point(21_000, Some(10_000), Some(3.0)),
        ];
        check(&two, 0, &[], &[(10_001, 0.0), (20_000, 2.0), (21_000, 5.0)]);
        check(&[point(5, None, Some(1.0))], 0, &[], &[(5, 1.0)]);
        check(&[], 0, &[], &[]);
    }

    #[test]
    fn histograms_take_room_as_they_are_made() {
        let mut room = Room::with(1000);
        let mut out = Gathered::new(&[], &mut room);
        let mut made = 0;
        let one = || {
            Arc::new(Histogram {
                positive: (0..160).map(|index| (index, 1.0)).collect(),
                ..Histogram::default()
            })
        };
        let samples = (0..1000).map(|time| {
            made += 1;
            (time, one())
        });
        assert!(out.histograms(Labels::default(), samples).is_err());
        assert!(made < 30, "{made}");
        // One that stands still is held once.
        let mut room = Room::with(1000);
        let mut out = Gathered::new(&[], &mut room);
        let still = one();
        let samples = (0..900).map(|time| (time, still.clone()));
        assert!(out.histograms(Labels::default(), samples).is_ok());
    }

    #[test]
    fn a_time_has_one_sample() {
        let samples = vec![(2, 'a'), (1, 'b'), (2, 'c')];
        assert_eq!(rising(samples).collect::<Vec<_>>(), [(1, 'b'), (2, 'c')]);
    }
}
