//! Requests and their durations, as `red` counted them.

use std::collections::BTreeMap;

use arrow::array::Array;
use datafusion::common::ScalarValue;
use tailwater_model::exphist::ExpHist;
use tailwater_openslo::{Good, RedSelector};
use tailwater_slo::latency::LatencyBin;
use tailwater_slo::{Need, Slice, Span, Time};

use super::pieces::{Piece, pieces};
use super::reader::Reader;
use super::rows::{Received, cell, count, damaged, histogram, integers, sketches, times};
use super::select::{Text, bin, from_red};
use crate::error::Result;

impl Reader<'_> {
    pub(super) async fn requests(
        &self,
        of: &RedSelector,
        good: Good,
        need: &Need,
        received: &mut Received,
        into: &mut Vec<Slice>,
    ) -> Result<()> {
        for piece in pieces(&need.spans, need.width) {
            self.requests_of(of, good, need, &piece, received, into).await?;
        }
        Ok(())
    }

    async fn requests_of(
        &self,
        of: &RedSelector,
        good: Good,
        need: &Need,
        piece: &Piece,
        received: &mut Received,
        into: &mut Vec<Slice>,
    ) -> Result<()> {
        let threshold = limit_of(good);
        for rows in self.ask(requests(of, good, piece)).await?.iter() {
            let (starts, total, good) = (times(rows, "at")?, integers(rows, "total")?, integers(rows, "good")?);
            let weighted = integers(rows, "weighted")?;
            let rest = match threshold {
                Some(ns) => Some((ns, sketches(rows, "rest")?)),
                None => None,
            };
            for (row, start) in starts.into_iter().enumerate() {
                let Some((start, width)) = start.and_then(|start| cell(&need.spans, need.width, start)) else {
                    continue;
                };
                received.add(start, count(&total, row)?, count(&weighted, row)?);
                let known = count(&good, row)?;
                let mut range = (known, known);
                if let Some((ns, rest)) = rest.as_ref().filter(|(_, rest)| rest.is_valid(row)) {
                    let (least, most) = histogram(rest.value(row))?.at_most(*ns as f64);
                    range = (known.saturating_add(least), known.saturating_add(most));
                }
                into.push(Slice::between(start, width, range, count(&total, row)?));
            }
        }
        Ok(())
    }

    pub(super) async fn durations(&self, of: &RedSelector, need: &Need, into: &mut Vec<LatencyBin>) -> Result<()> {
        let mut bins: BTreeMap<(Time, u32), ExpHist> = BTreeMap::new();
        for piece in pieces(&need.spans, need.width) {
            for rows in self.ask(durations(of, &piece)).await?.iter() {
                let (starts, durations) = (times(rows, "at")?, sketches(rows, "durations")?);
                for (row, start) in starts.into_iter().enumerate() {
                    if let Some(cell) = start.and_then(|start| cell(&need.spans, need.width, start))
                        && durations.is_valid(row)
                    {
                        let bin = bins.entry(cell).or_default();
                        bin.merge_encoded(durations.value(row)).map_err(damaged)?;
                    }
                }
            }
        }
        for ((start, width), sketch) in bins {
            into.push(LatencyBin {
                span: Span::new(start, start.plus(width.into())),
                histogram: histogram(&sketch.encode())?,
            });
        }
        Ok(())
    }
}

/// The longest that a good request takes, ns.
pub(super) fn limit_of(good: Good) -> Option<i64> {
    good.max_duration_ns.map(|ns| i64::try_from(ns).unwrap_or(i64::MAX))
}

/// Counts of a piece: `at`, `total`, `weighted`, `good`, and `rest` where there is a limit.
pub(super) fn requests(of: &RedSelector, good: Good, piece: &Piece) -> Text {
    requests_and(of, good, piece, "")
}

/// The same with the durations in a column of their own.
pub(super) fn requests_with_durations(of: &RedSelector, good: Good, piece: &Piece) -> Text {
    requests_and(of, good, piece, ", exphist_merge(exphist) as durations")
}

fn requests_and(of: &RedSelector, good: Good, piece: &Piece, more: &str) -> Text {
    let mut text = Text::default();
    text.push("select ");
    bin(&mut text, piece.seconds, "ts");
    text.push(" as at, ");
    let limit = limit_of(good).map(|ns| move |text: &mut Text| text.value(ScalarValue::Int64(Some(ns))));
    good_of(&mut text, good.exclude_errors, limit);
    text.push(more);
    from_red(&mut text, of, piece);
    text
}

/// `total`, `weighted` and `good`; with a limit of the duration, good are those that a register counts, and `rest` are the histograms of rows without one.
pub(super) fn good_of(text: &mut Text, exclude_errors: bool, limit: Option<impl Fn(&mut Text)>) {
    text.push("sum(n) as total, sum(n_weighted) as weighted, ");
    let Some(limit) = limit else {
        text.push("sum(n - errors) as good");
        return;
    };
    let ok = if exclude_errors { "not is_error" } else { "true" };
    let register = |text: &mut Text| {
        text.push("register_le(registers, ");
        limit(text);
        text.push(")");
    };
    text.push(&format!("sum(case when {ok} then "));
    register(text);
    text.push(&format!(" end) as good, exphist_merge(case when {ok} and "));
    register(text);
    text.push(" is null then exphist end) as rest");
}

/// Durations in a piece: `at`, `durations`.
pub(super) fn durations(of: &RedSelector, piece: &Piece) -> Text {
    let mut text = Text::default();
    text.push("select ");
    bin(&mut text, piece.seconds, "ts");
    text.push(" as at, exphist_merge(exphist) as durations");
    from_red(&mut text, of, piece);
    text
}
