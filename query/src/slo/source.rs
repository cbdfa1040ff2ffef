//! Events and values of a source: `red`, or the SQL of a document.

use std::collections::BTreeMap;

use tailwater_openslo::Source;
use tailwater_slo::{Need, Span, Time};

use super::pieces::pieces;
use super::reader::Reader;
use super::rows::{Received, cell, count, integers, numbers, times};
use super::select::{Text, bin, from_red};
use crate::error::{Error, ErrorKind, Result};

/// How far before its window a counter that only grows is looked at for its last value.
const COUNTER_BEFORE_SECONDS: i64 = 3600;

impl Reader<'_> {
    /// How many events per slice.
    pub(super) async fn counts(
        &self,
        source: &Source,
        counter: bool,
        need: &Need,
        received: &mut Received,
    ) -> Result<BTreeMap<(Time, u32), u64>> {
        let mut counts: BTreeMap<(Time, u32), u64> = BTreeMap::new();
        let mut add = |time: Time, events: u64| {
            if let Some(cell) = cell(&need.spans, need.width, time) {
                let sum = counts.entry(cell).or_default();
                *sum = sum.saturating_add(events);
            }
        };
        match source {
            Source::Red(of) => {
                for piece in pieces(&need.spans, need.width) {
                    let mut text = Text::default();
                    text.push("select ");
                    bin(&mut text, piece.seconds, "ts");
                    text.push(" as at, sum(n) as total, sum(n_weighted) as weighted");
                    from_red(&mut text, of, &piece);
                    for rows in self.ask(text).await?.iter() {
                        let (total, weighted) = (integers(rows, "total")?, integers(rows, "weighted")?);
                        for (row, start) in times(rows, "at")?.into_iter().enumerate() {
                            if let Some(start) = start {
                                add(start, count(&total, row)?);
                                received.add(start, count(&total, row)?, count(&weighted, row)?);
                            }
                        }
                    }
                }
            }
            Source::Sql(_) if counter => {
                let mut values = self.values(source, &before(&need.spans)).await?;
                values.sort_by_key(|(time, _)| *time);
                for pair in values.windows(2) {
                    let [(_, last), (time, value)] = pair else { continue };
                    // A counter that fell was reset and has counted from zero since.
                    let grown = if value >= last { value - last } else { *value };
                    add(*time, events(*time, grown)?);
                }
            }
            Source::Sql(_) => {
                for (time, value) in self.values(source, &need.spans).await? {
                    add(time, events(time, value)?);
                }
            }
            // Planning refuses these.
            Source::Foreign { .. } => {}
        }
        Ok(counts)
    }

    /// What the SQL of a document answers, rows without a time or a value left out.
    pub(super) async fn values(&self, source: &Source, spans: &[Span]) -> Result<Vec<(Time, f64)>> {
        let Source::Sql(sql) = source else {
            return Ok(Vec::new());
        };
        let mut text = Text::default();
        wrap(&mut text, "slice, value", sql);
        text.push(" where ");
        text.within("slice", spans);
        let mut found = Vec::new();
        for rows in self.ask(text).await.map_err(unwrapped)?.iter() {
            let values = numbers(rows, "value")?;
            let both = times(rows, "slice")?.into_iter().zip(values.iter());
            found.extend(both.filter_map(|(time, value)| Some((time?, value?))));
        }
        Ok(found)
    }
}

/// `select what from (sql) as source`, the document's text on lines of its own, so that a comment at its end ends there.
pub(super) fn wrap(text: &mut Text, what: &str, sql: &str) {
    text.push("select ");
    text.push(what);
    text.push(" from (\n");
    text.push(sql.trim_end().trim_end_matches(';'));
    text.push("\n) as source");
}

/// An error about a wrapped text, with the line in the text of the document.
pub(super) fn unwrapped(error: Error) -> Error {
    let position = error
        .position()
        .filter(|position| position.line > 1)
        .map(|mut position| {
            position.line -= 1;
            position
        });
    let place = position
        .map(|at| format!("line {} of its SQL: ", at.line))
        .unwrap_or_default();
    let message = format!("{place}{error} (a source has the columns `slice`, a time, and `value`, a number)");
    let message = if error.kind() == ErrorKind::BadQuery {
        message
    } else {
        error.to_string()
    };
    Error::new(error.kind(), message)
}

/// The same spans, each beginning earlier, so that a counter has a value to grow from.
fn before(spans: &[Span]) -> Vec<Span> {
    let mut longer: Vec<Span> = Vec::new();
    for span in spans {
        let from = span.from.plus(-COUNTER_BEFORE_SECONDS);
        match longer.last_mut() {
            Some(last) if last.to >= from => last.to = span.to,
            _ => longer.push(Span::new(from, span.to)),
        }
    }
    longer
}

/// A value that counts events.
fn events(time: Time, value: f64) -> Result<u64> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value.round() as u64);
    }
    let message = format!("`value` is {value} at {time}, which is no number of events");
    Err(Error::new(ErrorKind::BadQuery, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_before_each_span() {
        let spans = [(7200, 7300), (7400, 7500), (90_000, 90_060)].map(|(a, b)| Span::new(Time(a), Time(b)));
        let longer = before(&spans);
        let longer: Vec<_> = longer.iter().map(|span| (span.from.0, span.to.0)).collect();
        assert_eq!(longer, [(3600, 7500), (86_400, 90_060)]);
    }

    #[test]
    fn a_negative_number_of_events_is_refused() {
        let kind = |value| events(Time(0), value).map_err(|error| error.kind());
        assert_eq!(kind(2.0), Ok(2));
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(kind(value), Err(ErrorKind::BadQuery));
        }
    }
}
