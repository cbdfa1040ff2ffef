//! Requests and their durations, as `red` counted them.

use std::collections::BTreeMap;

use arrow::array::Array;
use datafusion::common::ScalarValue;
use tailwater_openslo::{Good, RedSelector};
use tailwater_slo::latency::{Histogram, LatencyBin};
use tailwater_slo::{Need, Slice, Span, Time};

use super::pieces::{Piece, pieces};
use super::reader::Reader;
use super::rows::{cell, count, histogram, integers, sketches, times};
use super::select::{Text, bin, from_red};
use crate::error::Result;

impl Reader<'_> {
    pub(super) async fn requests(
        &mut self,
        of: &RedSelector,
        good: Good,
        need: &Need,
        into: &mut Vec<Slice>,
    ) -> Result<()> {
        for piece in pieces(&need.spans, need.width) {
            self.requests_of(of, good, need, &piece, into).await?;
        }
        Ok(())
    }

    async fn requests_of(
        &mut self,
        of: &RedSelector,
        good: Good,
        need: &Need,
        piece: &Piece,
        into: &mut Vec<Slice>,
    ) -> Result<()> {
        let mut text = Text::default();
        text.push("select ");
        bin(&mut text, piece.seconds, "ts");
        text.push(" as at, sum(n) as total, ");
        let threshold = good.max_duration_ns.map(|ns| i64::try_from(ns).unwrap_or(i64::MAX));
        match threshold {
            None => text.push("sum(n - errors) as good"),
            Some(ns) => {
                let ok = if good.exclude_errors { "not is_error" } else { "true" };
                let register = |text: &mut Text| {
                    text.push("register_le(registers, ");
                    text.value(ScalarValue::Int64(Some(ns)));
                    text.push(")");
                };
                text.push(&format!("sum(case when {ok} then "));
                register(&mut text);
                text.push(&format!(" end) as good, exphist_merge(case when {ok} and "));
                register(&mut text);
                text.push(" is null then exphist end) as rest");
            }
        }
        from_red(&mut text, of, piece);
        for rows in self.ask(text).await?.iter() {
            let (starts, total, good) = (times(rows, "at")?, integers(rows, "total")?, integers(rows, "good")?);
            let rest = match threshold {
                Some(ns) => Some((ns, sketches(rows, "rest")?)),
                None => None,
            };
            for (row, start) in starts.into_iter().enumerate() {
                let Some((start, width)) = start.and_then(|start| cell(&need.spans, need.width, start)) else {
                    continue;
                };
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

    pub(super) async fn durations(&mut self, of: &RedSelector, need: &Need, into: &mut Vec<LatencyBin>) -> Result<()> {
        let mut bins: BTreeMap<(Time, u32), Histogram> = BTreeMap::new();
        for piece in pieces(&need.spans, need.width) {
            let mut text = Text::default();
            text.push("select ");
            bin(&mut text, piece.seconds, "ts");
            text.push(" as at, exphist_merge(exphist) as durations");
            from_red(&mut text, of, &piece);
            for rows in self.ask(text).await?.iter() {
                let (starts, durations) = (times(rows, "at")?, sketches(rows, "durations")?);
                for (row, start) in starts.into_iter().enumerate() {
                    if let Some(cell) = start.and_then(|start| cell(&need.spans, need.width, start))
                        && durations.is_valid(row)
                    {
                        bins.entry(cell).or_default().merge(&histogram(durations.value(row))?);
                    }
                }
            }
        }
        into.extend(bins.into_iter().map(|((start, width), histogram)| LatencyBin {
            span: Span::new(start, start.plus(width.into())),
            histogram,
        }));
        Ok(())
    }
}
