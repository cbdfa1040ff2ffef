//! Series out of the metrics that were sent: `metric_series` names and labels them, `metric_points` and `metric_dists` have their samples.
//!
//! | sent as | shown as |
//! |---|---|
//! | gauge, sum | one series; a cumulative sum as it is, deltas added up from the beginning of the window |
//! | histogram | `_bucket{le}`, `_count`, `_sum` |
//! | exponential histogram | a native histogram, of schema 8 at most |
//! | summary | `{quantile}`, `_count`, `_sum` |
//! | resource attributes | `job`, `instance`, and the rest as labels of `target_info` |
//!
//! Names and labels are translated by [`super::naming`]; `job` is `service.namespace/service.name`, `instance` is `service.instance.id`. Scopes label
//! nothing, as in Prometheus' default: points of two scopes with the same labels are one series, of two points at the same time the later read
//! stays. Deltas of such are all added up: each counted something of its own.
//!
//! Who counts nothing sends no delta. Where the interval of a delta begins after the point before it, the counter stood still in between: it has a sample
//! 1 ms into the interval, and for `rate` and `increase` one wherever their windows begin and end meanwhile, or they would miss what the delta added.

mod dists;
mod examples;
mod points;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
use tailwater_promql::{Labels, METRIC_NAME, Matcher, Need};

use super::grid::Grid;
use super::naming::{self, Shape};
use super::{Found, FoundLabels, Metadata, Room, Sql, Window, counted, may_be, table};
use crate::engine::Engine;
use crate::error::Result;
pub(super) use examples::exemplars;

/// The metric that carries what is known of a target.
const TARGET_INFO: &str = "target_info";

/// A target is said to be there once in this time, ms: half of Prometheus' look-back.
const TARGET_INFO_MS: i64 = 150_000;

/// More series than these are not named to the scan; it reads the whole metric then.
const SERIES_NAMED_MAX: usize = 1000;

const GAUGE: i64 = 1;
const SUM: i64 = 2;
const HISTOGRAM: i64 = 3;
const EXPONENTIAL: i64 = 4;
const SUMMARY: i64 = 5;
const DELTA: i64 = 1;

/// A metric as it was sent, and its name here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    name: String,
    kind: i64,
    delta: bool,
    monotonic: bool,
    /// The name in Prometheus, without the suffix of a part.
    base: String,
}

impl Sent {
    /// Names of what it becomes.
    fn names(&self) -> Vec<String> {
        let suffixes: &[&str] = match self.kind {
            HISTOGRAM => &["_bucket", "_count", "_sum"],
            SUMMARY => &["", "_count", "_sum"],
            _ => &[""],
        };
        suffixes.iter().map(|suffix| format!("{}{suffix}", self.base)).collect()
    }
}

/// The columns that say what a metric is.
const SHAPE: &str = "metric_name, type, temporality, monotonic, unit";

/// Them, first in a read.
struct Shapes {
    names: StringArray,
    units: StringArray,
    kinds: Int64Array,
    temporalities: Int64Array,
    monotonic: Int64Array,
}

impl Shapes {
    fn new(rows: &RecordBatch) -> Result<Shapes> {
        Ok(Shapes {
            names: table::texts(rows, 0)?,
            units: table::texts(rows, 4)?,
            kinds: table::integers(rows, 1)?,
            temporalities: table::integers(rows, 2)?,
            monotonic: table::integers(rows, 3)?,
        })
    }

    fn sent(&self, row: usize) -> Sent {
        let (name, kind) = (self.names.value(row), self.kinds.value(row));
        let monotonic = kind == SUM && self.monotonic.is_valid(row) && self.monotonic.value(row) == 1;
        let unit = table::text(&self.units, row).unwrap_or_default();
        let shape = match kind {
            GAUGE => Shape::Gauge,
            SUM if monotonic => Shape::Counter,
            _ => Shape::Other,
        };
        Sent {
            name: name.to_owned(),
            kind,
            delta: self.temporalities.value(row) == DELTA,
            monotonic,
            base: naming::metric(name, unit, shape),
        }
    }
}

/// A stored series.
#[derive(Debug)]
struct Stored {
    id: i64,
    sent: Sent,
    /// Labels but the name, `job` and `instance` among them.
    labels: Vec<(String, String)>,
    /// Labels of its target.
    target: Vec<(String, String)>,
}

impl Stored {
    fn labels(&self, suffix: &str, extra: Option<(&str, &str)>) -> Labels {
        let name = format!("{}{suffix}", self.sent.base);
        let pairs = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        pairs.chain(extra).chain([(METRIC_NAME, name.as_str())]).collect()
    }

    /// Whether its points say what was added since the one before.
    fn adds_up(&self) -> bool {
        self.sent.delta && matches!(self.sent.kind, SUM | HISTOGRAM | EXPONENTIAL)
    }

    /// `None` if nothing but the target's identity is known of it.
    fn target(&self) -> Option<Labels> {
        let tells = self.target.iter().any(|(name, _)| name != "job" && name != "instance");
        let pairs = self.target.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        tells.then(|| pairs.chain([(METRIC_NAME, TARGET_INFO)]).collect())
    }
}

/// The metrics of the window that the conditions on the name let through.
async fn sent(
    engine: &Engine,
    matchers: &[Matcher],
    window: Window,
    notes: &mut BTreeSet<String>,
) -> Result<Vec<(Sent, String)>> {
    let mut sql = Sql::default();
    sql.push("select distinct ")
        .push(SHAPE)
        .push(", description from metric_series where date >= ");
    sql.day(window.after_ms).push(" and date <= ").day(window.upto_ms);
    let mut all = Vec::new();
    for rows in table::read(engine, sql, notes).await? {
        let (shapes, helps) = (Shapes::new(&rows)?, table::texts(&rows, 5)?);
        for row in 0..rows.num_rows() {
            let sent = shapes.sent(row);
            if sent.names().iter().any(|name| may_be(matchers, name)) {
                all.push((sent, table::text(&helps, row).unwrap_or_default().to_owned()));
            }
        }
    }
    Ok(all)
}

/// The stored series of these metrics; of all metrics if `names` is `None`.
async fn stored(
    engine: &Engine,
    names: Option<&BTreeSet<String>>,
    window: Window,
    notes: &mut BTreeSet<String>,
) -> Result<Vec<Stored>> {
    let mut sql = Sql::default();
    sql.push("select distinct ")
        .push(SHAPE)
        .push(", series_id, array_to_string(map_keys(labels), chr(31)), ");
    sql.push("array_to_string(map_values(labels), chr(31)) from metric_series where date >= ");
    sql.day(window.after_ms).push(" and date <= ").day(window.upto_ms);
    if let Some(names) = names {
        sql.among("metric_name", names.iter().map(String::as_str));
    }
    let mut all: HashMap<i64, Stored> = HashMap::new();
    for rows in table::read(engine, sql, notes).await? {
        let (shapes, ids) = (Shapes::new(&rows)?, table::integers(&rows, 5)?);
        let (keys, values) = (table::texts(&rows, 6)?, table::texts(&rows, 7)?);
        for row in 0..rows.num_rows() {
            let keys = table::text(&keys, row).unwrap_or_default().split('\u{1f}');
            let values = table::text(&values, row).unwrap_or_default().split('\u{1f}');
            let (labels, target) = labels_of(keys.zip(values));
            all.entry(ids.value(row)).or_insert_with(|| Stored {
                id: ids.value(row),
                sent: shapes.sent(row),
                labels,
                target,
            });
        }
    }
    let mut all: Vec<Stored> = all.into_values().collect();
    all.sort_unstable_by_key(|stored| stored.id);
    Ok(all)
}

type Pairs = Vec<(String, String)>;

/// Labels of a series and of its target, out of the attributes that `metric_series` has.
fn labels_of<'a>(attributes: impl Iterator<Item = (&'a str, &'a str)>) -> (Pairs, Pairs) {
    let (mut labels, mut target) = (Vec::new(), Vec::new());
    let (mut name, mut namespace, mut instance) = ("", "", "");
    for (key, value) in attributes {
        match key.strip_prefix("resource.") {
            Some("service.name") => name = value,
            Some("service.namespace") => namespace = value,
            Some("service.instance.id") => instance = value,
            Some(key) => target.push((naming::label(key), value.to_owned())),
            None if key.starts_with("scope.") || key.is_empty() => {}
            None => labels.push((naming::label(key), value.to_owned())),
        }
    }
    let job = if namespace.is_empty() || name.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    };
    // What the resource does not tell, a point's own attribute of that name may.
    let told = [("job", job.as_str()), ("instance", instance)];
    for (name, value) in told.into_iter().filter(|(_, value)| !value.is_empty()) {
        for pairs in [&mut labels, &mut target] {
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    (labels, target)
}

/// All samples of the series that a need selects.
pub(super) async fn select(engine: &Engine, need: &Need, lookback_ms: i64, found: &mut Found) -> Result<()> {
    let window = Window {
        after_ms: need.from_ms.saturating_sub(1),
        upto_ms: need.to_ms,
    };
    let matchers = &need.matchers;
    if may_be(matchers, TARGET_INFO) {
        targets(engine, matchers, window, found).await?;
    }
    let metrics = sent(engine, matchers, window, &mut found.notes).await?;
    if metrics.is_empty() {
        return Ok(());
    }
    let names: BTreeSet<String> = metrics.into_iter().map(|(sent, _)| sent.name).collect();
    let mut all = stored(engine, Some(&names), window, &mut found.notes).await?;
    all.retain(|stored| is_selected(stored, matchers));
    let moments = if all.iter().any(Stored::adds_up) {
        moments(need, lookback_ms, &found.room)?
    } else {
        Vec::new()
    };
    let mut out = points::Gathered::new(matchers, &mut found.room);
    let (numbers, dists): (Vec<&Stored>, Vec<&Stored>) =
        all.iter().partition(|stored| matches!(stored.sent.kind, GAUGE | SUM));
    points::read(engine, &numbers, window, &moments, &mut out, &mut found.notes).await?;
    dists::read(engine, &dists, window, &moments, &mut out, &mut found.notes).await?;
    let series = out.finish();
    let adding: BTreeSet<String> = all
        .iter()
        .filter(|stored| stored.adds_up())
        .flat_map(|stored| stored.sent.names())
        .collect();
    let mut names = series.iter().map(|one| one.labels.metric());
    let name = names.find(|name| adding.contains(*name));
    found
        .infos
        .extend(name.and_then(|name| counted::by_itself(name, &need.hints)));
    found.series.extend(series);
    Ok(())
}

/// Where the windows of a `rate` or `increase` begin and end, rising; none for what looks at the samples inside.
fn moments(need: &Need, lookback_ms: i64, room: &Room) -> Result<Vec<i64>> {
    let reads_ends = matches!(need.hints.function, Some("rate" | "increase"));
    if need.hints.nested || need.hints.range_ms == 0 || !reads_ends {
        return Ok(Vec::new());
    }
    let grid = Grid::new(need, lookback_ms, room.left).ok_or_else(|| room.too_small())?;
    Ok(grid.times)
}

/// Whether anything that the series becomes can be selected: what its buckets and quantiles are called is not known yet.
fn is_selected(stored: &Stored, matchers: &[Matcher]) -> bool {
    let known: Vec<Matcher> = matchers
        .iter()
        .filter(|matcher| !matches!(matcher.name.as_str(), METRIC_NAME | "le" | "quantile"))
        .cloned()
        .collect();
    stored.sent.names().iter().any(|name| may_be(matchers, name)) && Matcher::all(&known, &stored.labels("", None))
}

/// `target_info`, once per target and [`TARGET_INFO_MS`] in which one of its series had a point.
async fn targets(engine: &Engine, matchers: &[Matcher], window: Window, found: &mut Found) -> Result<()> {
    let mut all = stored(engine, None, window, &mut found.notes).await?;
    all.retain(|stored| stored.target().is_some_and(|labels| Matcher::all(matchers, &labels)));
    if all.is_empty() {
        return Ok(());
    }
    let by_id: HashMap<i64, &Stored> = all.iter().map(|stored| (stored.id, stored)).collect();
    let mut seen: BTreeMap<Labels, BTreeMap<i64, i64>> = BTreeMap::new();
    for table in ["metric_points", "metric_dists"] {
        let mut sql = Sql::default();
        let slot = format!("arrow_cast(ts, 'Int64') / {}", TARGET_INFO_MS * 1000);
        sql.push(&format!(
            "select series_id, {slot}, max(arrow_cast(ts, 'Int64') / 1000) from {table}"
        ));
        points::in_window(&mut sql, window);
        sql.push(" group by 1, 2");
        for rows in table::read(engine, sql, &mut found.notes).await? {
            let [ids, slots, last] = [
                table::integers(&rows, 0)?,
                table::integers(&rows, 1)?,
                table::integers(&rows, 2)?,
            ];
            for row in 0..rows.num_rows() {
                if let Some(labels) = by_id.get(&ids.value(row)).and_then(|stored| stored.target()) {
                    let newest = seen
                        .entry(labels)
                        .or_default()
                        .entry(slots.value(row))
                        .or_insert(i64::MIN);
                    *newest = (*newest).max(last.value(row));
                }
            }
        }
    }
    for (labels, times) in seen {
        let samples = times.into_values().map(|time| (time, 1.0));
        found.push(tailwater_promql::Series::of_floats(labels, samples))?;
    }
    Ok(())
}

/// The label sets that these matchers select. Which buckets a histogram has stands only in its points, so they are read where a
/// `_bucket` or quantile may be selected.
pub(super) async fn labels(
    engine: &Engine,
    matchers: &[Matcher],
    window: Window,
    found: &mut FoundLabels<'_>,
) -> Result<()> {
    let metrics = sent(engine, matchers, window, &mut found.notes).await?;
    let names: BTreeSet<String> = metrics.into_iter().map(|(sent, _)| sent.name).collect();
    let about_targets = may_be(matchers, TARGET_INFO);
    if names.is_empty() && !about_targets {
        return Ok(());
    }
    let all = stored(engine, (!about_targets).then_some(&names), window, &mut found.notes).await?;
    if about_targets {
        let mut targets = all.iter().filter_map(Stored::target);
        targets.try_for_each(|labels| match Matcher::all(matchers, &labels) {
            true => found.insert(labels),
            false => Ok(()),
        })?;
    }
    let selected: Vec<&Stored> = all
        .iter()
        .filter(|stored| names.contains(&stored.sent.name) && is_selected(stored, matchers))
        .collect();
    let bounds = dists::bounds(engine, &selected, matchers, window, &mut found.notes).await?;
    for stored in selected {
        let mut put = |suffix: &str, extra: Option<(&str, &str)>| {
            let labels = stored.labels(suffix, extra);
            match Matcher::all(matchers, &labels) {
                true => found.insert(labels),
                false => Ok(()),
            }
        };
        match stored.sent.kind {
            HISTOGRAM | SUMMARY => {
                put("_count", None)?;
                put("_sum", None)?;
                let (suffix, name) = if stored.sent.kind == HISTOGRAM {
                    ("_bucket", "le")
                } else {
                    ("", "quantile")
                };
                for bound in bounds.get(&stored.id).into_iter().flatten() {
                    put(suffix, Some((name, bound)))?;
                }
            }
            _ => put("", None)?,
        }
    }
    Ok(())
}

/// Names with type, help and unit.
pub(super) async fn metadata(engine: &Engine, window: Window) -> Result<Vec<(String, Metadata)>> {
    let metrics = sent(engine, &[], window, &mut BTreeSet::new()).await?;
    let described = metrics.into_iter().map(|(sent, help)| {
        let kind = match sent.kind {
            SUM if sent.monotonic => "counter",
            GAUGE | SUM => "gauge",
            SUMMARY => "summary",
            _ => "histogram",
        };
        let metadata = Metadata {
            kind,
            help,
            unit: String::new(),
        };
        (sent.base, metadata)
    });
    Ok(described.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_attributes_tell_the_target() {
        let attributes = [
            ("http.route", "/a"),
            ("resource.service.name", "cart"),
            ("resource.service.namespace", "shop"),
            ("resource.service.instance.id", "i1"),
            ("resource.host.name", "h"),
            ("scope.name", "lib"),
        ];
        let (labels, target) = labels_of(attributes.into_iter());
        let texts = |pairs: &Pairs| {
            let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            pairs.join(" ")
        };
        assert_eq!(texts(&labels), "http_route=/a job=shop/cart instance=i1");
        assert_eq!(texts(&target), "host_name=h job=shop/cart instance=i1");
    }

    #[test]
    fn an_attribute_tells_the_job_where_the_resource_does_not() {
        let check = |attributes: &[(&str, &str)], expected: &str| {
            let (labels, _) = labels_of(attributes.iter().copied());
            assert_eq!(labels.into_iter().collect::<Labels>().to_string(), expected);
        };
        let own = [("job", "backup"), ("instance", "i7")];
        check(&own, r#"{instance="i7", job="backup"}"#);
        check(
            &[own[0], own[1], ("resource.service.name", "cart")],
            r#"{instance="i7", job="cart"}"#,
        );
    }
}
