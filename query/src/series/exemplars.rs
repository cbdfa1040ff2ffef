//! Spans behind the numbers: the exemplars of `red` and `edges`, and those that were sent with metrics.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use tailwater_promql::{Labels, Matcher};

use super::counted::{FAMILIES, Family, Metric, rows_of};
use super::{Window, stored, table};
use crate::engine::Engine;
use crate::error::Result;

/// Most exemplars of an answer; a graph shows fewer. The slowest are kept.
pub(super) const EXEMPLARS_MAX: usize = 2000;

/// A value that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exemplar {
    /// `trace_id` and `span_id` where they are known, and what else was sent.
    pub labels: BTreeMap<String, String>,
    /// Of a span its duration in seconds.
    pub value: f64,
    /// When, of a span its end; ms since 1970.
    pub time_ms: i64,
}

/// Exemplars by series, and what the reader must know of them.
#[derive(Debug, Default)]
pub(crate) struct Exemplars {
    pub series: BTreeMap<Labels, Vec<Exemplar>>,
    pub notes: BTreeSet<String>,
}

/// The exemplars of the series that any of the selectors selects. Those of a histogram are listed once, not per bucket.
///
/// # Errors
/// As [`Engine::query`].
pub(crate) async fn exemplars(engine: &Engine, selectors: &[Vec<Matcher>], window: Window) -> Result<Exemplars> {
    let mut found = Exemplars::default();
    for matchers in selectors {
        // A bucket's bound is no property of a span.
        let matchers: Vec<Matcher> = matchers.iter().filter(|one| one.name != "le").cloned().collect();
        for family in FAMILIES.iter().filter(|family| family.has_exemplars) {
            let metrics: Vec<&Metric> = family.selected(&matchers).collect();
            if metrics.is_empty() {
                continue;
            }
            let slowest = slowest(engine, family, &metrics, &matchers, window, &mut found.notes).await?;
            if slowest.len() >= EXEMPLARS_MAX {
                found.notes.insert(format!(
                    "only the {EXEMPLARS_MAX} slowest exemplars of {} are shown",
                    family.table
                ));
            }
            for Reverse(row) in slowest {
                for labels in row.sets {
                    #[allow(clippy::cast_precision_loss)] // Shown as seconds.
                    found.series.entry(labels).or_default().push(Exemplar {
                        labels: ids(&row.trace, &row.span),
                        value: row.ns as f64 / 1e9,
                        time_ms: row.us.div_euclid(1000),
                    });
                }
            }
        }
    }
    for matchers in selectors {
        stored::exemplars(engine, matchers, window, &mut found).await?;
    }
    for exemplars in found.series.values_mut() {
        exemplars.sort_by_key(|exemplar| exemplar.time_ms);
    }
    Ok(found)
}

/// A row with an exemplar.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    ns: i64,
    us: i64,
    trace: String,
    span: String,
    /// The series that it is of.
    sets: Vec<Labels>,
}

/// The slowest [`EXEMPLARS_MAX`] of the rows whose series the matchers select. SQL does not know all that matchers say: where others were among the slowest of
/// all, every row is looked at.
async fn slowest(
    engine: &Engine,
    family: &Family,
    metrics: &[&Metric],
    matchers: &[Matcher],
    window: Window,
    notes: &mut BTreeSet<String>,
) -> Result<BinaryHeap<Reverse<Row>>> {
    let key = family.key();
    let width = key.width();
    let exemplar = "hex_id(exemplar_trace_id), hex_id(exemplar_span_id), exemplar_ns, arrow_cast(exemplar_ts, 'Int64')";
    for limit in [EXEMPLARS_MAX, usize::MAX] {
        let mut sql = key.select([exemplar.to_owned()]);
        rows_of(&mut sql, family, matchers, window);
        sql.push(" and exemplar_ts is not null");
        if limit == EXEMPLARS_MAX {
            sql.push(&format!(" order by exemplar_ns desc limit {limit}"));
        }
        let mut kept: BinaryHeap<Reverse<Row>> = BinaryHeap::new();
        let (mut count, mut others) = (0, false);
        // Rows of a key often follow each other.
        let (mut text, mut last) = (String::new(), None);
        let mut answer = table::stream(engine, sql, notes).await?;
        while let Some(rows) = answer.next().await.transpose()? {
            count += rows.num_rows();
            let keys = key.of(&rows)?;
            let (traces, spans) = (table::texts(&rows, width)?, table::texts(&rows, width + 1)?);
            let (ns, us) = (table::integers(&rows, width + 2)?, table::integers(&rows, width + 3)?);
            for row in 0..rows.num_rows() {
                let is_full = kept.len() >= EXEMPLARS_MAX;
                if is_full && kept.peek().is_some_and(|Reverse(least)| least.ns >= ns.value(row)) {
                    continue;
                }
                keys.write(row, &mut text);
                let (_, sets) = match last.take() {
                    Some((of, sets)) if of == text => last.insert((of, sets)),
                    _ => {
                        let pairs = key.labels(&text);
                        let sets = metrics.iter().map(|metric| metric.labels(&pairs, None));
                        let sets: Vec<Labels> = sets.filter(|labels| Matcher::all(matchers, labels)).collect();
                        last.insert((text.clone(), sets))
                    }
                };
                if sets.is_empty() {
                    others = true;
                    continue;
                }
                if is_full {
                    kept.pop();
                }
                kept.push(Reverse(Row {
                    ns: ns.value(row),
                    us: us.value(row),
                    trace: traces.value(row).to_owned(),
                    span: spans.value(row).to_owned(),
                    sets: sets.clone(),
                }));
            }
        }
        if count < limit || !others {
            return Ok(kept);
        }
    }
    Ok(BinaryHeap::new())
}

/// The labels of a span.
pub(super) fn ids(trace: &str, span: &str) -> BTreeMap<String, String> {
    let all = [("trace_id", trace), ("span_id", span)].into_iter();
    all.filter(|(_, id)| !id.is_empty())
        .map(|(name, id)| (name.to_owned(), id.to_owned()))
        .collect()
}
