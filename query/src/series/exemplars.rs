//! Spans behind the numbers: the exemplars of `red` and `edges`, and those that were sent with metrics.

use std::collections::{BTreeMap, BTreeSet};

use tailwater_promql::{Labels, Matcher};

use super::counted::{FAMILIES, Metric, rows_of};
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
            let key = family.key();
            let exemplar =
                "hex_id(exemplar_trace_id), hex_id(exemplar_span_id), exemplar_ns, arrow_cast(exemplar_ts, 'Int64')";
            let mut sql = key.select([exemplar.to_owned()]);
            rows_of(&mut sql, family, &matchers, window);
            sql.push(&format!(
                " and exemplar_ts is not null order by exemplar_ns desc limit {EXEMPLARS_MAX}"
            ));
            let width = key.width();
            let mut text = String::new();
            let mut count = 0;
            for rows in table::read(engine, sql, &mut found.notes).await? {
                count += rows.num_rows();
                let keys = key.of(&rows)?;
                let (traces, spans) = (table::texts(&rows, width)?, table::texts(&rows, width + 1)?);
                let (ns, us) = (table::integers(&rows, width + 2)?, table::integers(&rows, width + 3)?);
                for row in 0..rows.num_rows() {
                    keys.write(row, &mut text);
                    let pairs = key.labels(&text);
                    let sets = metrics.iter().map(|metric| metric.labels(&pairs, None));
                    for labels in sets.filter(|labels| Matcher::all(&matchers, labels)) {
                        #[allow(clippy::cast_precision_loss)] // Shown as seconds.
                        found.series.entry(labels).or_default().push(Exemplar {
                            labels: ids(traces.value(row), spans.value(row)),
                            value: ns.value(row) as f64 / 1e9,
                            time_ms: us.value(row).div_euclid(1000),
                        });
                    }
                }
            }
            if count >= EXEMPLARS_MAX {
                found.notes.insert(format!(
                    "only the {EXEMPLARS_MAX} slowest exemplars of {} are shown",
                    family.table
                ));
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

/// The labels of a span.
pub(super) fn ids(trace: &str, span: &str) -> BTreeMap<String, String> {
    let all = [("trace_id", trace), ("span_id", span)].into_iter();
    all.filter(|(_, id)| !id.is_empty())
        .map(|(name, id)| (name.to_owned(), id.to_owned()))
        .collect()
}
