//! One query for many objectives: each of a hundred would open the same files and read the pages of its neighbours.
//!
//! ```text
//!  plans --those of one service and operation, by what they read--> red join (values (id, service, operation, limit)) --by id--> answers
//! ```
//! What a plan asks alone is asked once for its counts and its durations where both are of the same rows. The answers lie where a plan's own query would have
//! put them, so nobody else knows of this. Leaves out: windows in so many slices that the answers of all would be too much at once.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::Int64Type;
use datafusion::common::{ScalarValue, internal_datafusion_err};
use futures::{StreamExt, stream};
use tailwater_openslo::{Good, Indicator, RedKey, RedSelector};
use tailwater_slo::plan::What;
use tailwater_slo::{Need, Plan, Span};

use super::pieces::{Piece, pieces};
use super::reader::{KEPT_ROWS_MAX, Reader};
use super::requests::{durations, good_of, limit_of, requests, requests_with_durations};
use super::select::{Text, bin};
use crate::error::{Error, ErrorKind, Result};

/// Plans whose answers are held at once.
pub(super) const PLANS: usize = 128;

/// Rows that all answers of one query may have, and that those of one plan may.
const ROWS_MAX: i64 = 1_000_000;
const ROWS_OF_ONE_MAX: i64 = 50_000;

/// Queries that run at once.
const AT_ONCE: usize = 4;

/// What a plan asks of a piece.
struct Wanted<'a> {
    of: &'a RedSelector,
    /// `None` asks for durations.
    good: Option<Good>,
    /// What the plan needs, and what of it is a piece.
    need: &'a Need,
    piece: Piece,
    /// Its question, and where the answer belongs.
    text: Text,
    key: String,
}

impl Wanted<'_> {
    /// One question for these counts and those durations, where the durations are read of all that is counted, and of nothing else that is needed: whoever
    /// takes the counts from the answer leaves out what the plan needs no counts of.
    fn with_durations(&self, durations: &Wanted<'_>) -> Option<Text> {
        let good = self
            .good
            .filter(|_| durations.good.is_none() && self.of == durations.of)?;
        let (own, all) = (&self.piece, &durations.piece);
        let is_in = |span: Span, spans: &[Span]| spans.iter().any(|other| other.and(span) == span);
        let is_own = |span: &Span| {
            all.spans
                .iter()
                .map(|other| other.and(*span))
                .all(|both| both.is_empty() || is_in(both, &own.spans))
        };
        let fits = own.table == all.table
            && all.seconds.is_multiple_of(own.seconds)
            && own.spans.iter().all(|span| is_in(*span, &all.spans))
            && self.need.spans.iter().all(is_own);
        let piece = Piece {
            table: own.table,
            spans: all.spans.clone(),
            seconds: own.seconds,
        };
        (fits && rows(&piece) <= KEPT_ROWS_MAX).then(|| requests_with_durations(self.of, good, &piece))
    }
}

impl Reader<'_> {
    /// Asks what these plans will, as far as several ask the same of different operations, or one asks twice of the same rows. What is too much together
    /// is left for each to ask alone.
    ///
    /// # Errors
    /// What queries can end in, but for limits.
    pub(super) async fn ask_together(&self, plans: &[Plan]) -> Result<()> {
        // In the order of the plans, so that equal reports are made of equal queries.
        let (mut places, mut groups) = (HashMap::new(), Vec::<Vec<Wanted<'_>>>::new());
        for plan in plans {
            let Indicator::Requests { of, good } = &plan.indicator else {
                continue;
            };
            for need in &plan.needs {
                for piece in pieces(&need.spans, need.width) {
                    let (good, text) = match need.what {
                        What::Counts => (Some(*good), requests(of, *good, &piece)),
                        What::Durations => (None, durations(of, &piece)),
                    };
                    let key = text.key();
                    let rows_max = one_operation(of).map_or(KEPT_ROWS_MAX, |_| ROWS_OF_ONE_MAX);
                    if self.knows(&key) || rows(&piece) > rows_max {
                        continue;
                    }
                    let form = good.map(|good| (good.exclude_errors, good.max_duration_ns.is_some()));
                    let shape = match one_operation(of) {
                        Some(_) => format!("{form:?} {piece:?}"),
                        None => key.clone(),
                    };
                    let place = *places.entry(shape).or_insert(groups.len());
                    if place == groups.len() {
                        groups.push(Vec::new());
                    }
                    let wanted = &mut groups[place];
                    if wanted.iter().all(|known| known.key != key) {
                        wanted.push(Wanted {
                            of,
                            good,
                            need,
                            piece,
                            text,
                            key,
                        });
                    }
                }
            }
        }
        let mut alone = Vec::new();
        for wanted in &groups {
            let at_once = usize::try_from(ROWS_MAX / rows(&wanted[0].piece).max(1))
                .unwrap_or(1)
                .max(1);
            for wanted in wanted.chunks(at_once) {
                if let [wanted] = wanted {
                    alone.push(wanted);
                    continue;
                }
                let answers = match self.of_all(wanted).await {
                    Ok(answers) => answers,
                    Err(error) if is_too_much(error.kind()) => continue,
                    Err(error) => return Err(error),
                };
                for (wanted, rows) in wanted.iter().zip(answers) {
                    self.learn(wanted.key.clone(), Arc::new(rows));
                }
            }
        }
        let questions = in_pairs(&alone).into_iter().map(|question| self.answered(question));
        // One is planned while another is read. What goes wrong goes wrong again, and is told, when the plan itself asks.
        let questions: Vec<_> = questions.collect();
        let answers: Vec<_> = stream::iter(questions).buffer_unordered(AT_ONCE).collect().await;
        for (keys, rows) in answers {
            if let Ok(rows) = rows {
                let rows = Arc::new(rows);
                keys.into_iter().for_each(|key| self.learn(key, rows.clone()));
            }
        }
        Ok(())
    }

    async fn answered(&self, (text, keys): (Text, Vec<String>)) -> (Vec<String>, Result<Vec<RecordBatch>>) {
        (keys, self.run(text).await)
    }

    /// The answers to questions of one form about one operation each.
    async fn of_all(&self, wanted: &[Wanted<'_>]) -> Result<Vec<Vec<RecordBatch>>> {
        let piece = &wanted[0].piece;
        let mut text = Text::default();
        text.push("select id, ");
        bin(&mut text, piece.seconds, "ts");
        text.push(" as at, ");
        match wanted[0].good {
            None => text.push("exphist_merge(exphist) as durations"),
            Some(good) => {
                let limit = good
                    .max_duration_ns
                    .map(|_| |text: &mut Text| text.push("wanted.limit_ns"));
                good_of(&mut text, good.exclude_errors, limit);
            }
        }
        text.push(" from ");
        text.push(piece.table.name());
        text.push(" join (values ");
        for (id, wanted) in wanted.iter().enumerate() {
            let (service, operation) = one_operation(wanted.of).unwrap_or_default();
            text.push(&format!("{}({id}, cast(", if id > 0 { ", " } else { "" }));
            text.value(ScalarValue::Utf8(Some(service.to_owned())));
            text.push(" as varchar), cast(");
            text.value(ScalarValue::Utf8(Some(operation.to_owned())));
            let limit_ns = wanted.good.and_then(limit_of).unwrap_or_default();
            text.push(&format!(" as varchar), {limit_ns})"));
        }
        text.push(
            ") as wanted(id, service, name, limit_ns) on service_name = wanted.service and operation = wanted.name where is_entry and ",
        );
        text.within("ts", &piece.spans);
        text.push(" group by 1, 2");
        let mut answers = vec![Vec::new(); wanted.len()];
        for rows in self.run(text).await? {
            split(&rows, &mut answers).map_err(Error::from_datafusion)?;
        }
        Ok(answers)
    }
}

/// The questions, and where their answers belong; counts and durations of the same rows are one question.
fn in_pairs(alone: &[&Wanted<'_>]) -> Vec<(Text, Vec<String>)> {
    let mut left: Vec<Option<&Wanted<'_>>> = alone.iter().copied().map(Some).collect();
    let mut questions = Vec::new();
    for counts in alone.iter().filter(|wanted| wanted.good.is_some()) {
        let pair = left
            .iter_mut()
            .find_map(|left| Some((counts.with_durations((*left)?)?, left.take()?)));
        let (text, keys) = match pair {
            Some((text, durations)) => (text, vec![counts.key.clone(), durations.key.clone()]),
            None => (counts.text.clone(), vec![counts.key.clone()]),
        };
        questions.push((text, keys));
    }
    let durations = left.into_iter().flatten().filter(|wanted| wanted.good.is_none());
    questions.extend(durations.map(|wanted| (wanted.text.clone(), vec![wanted.key.clone()])));
    questions
}

fn is_too_much(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::AnswerTooLarge | ErrorKind::Exhausted | ErrorKind::Timeout
    )
}

/// Gives each answer its rows, by the number in the first column.
fn split(rows: &RecordBatch, answers: &mut [Vec<RecordBatch>]) -> datafusion::common::Result<()> {
    let ids = rows.column(0).as_primitive_opt::<Int64Type>();
    let ids = ids.ok_or_else(|| internal_datafusion_err!("an id that is no number"))?;
    let mut places = vec![Vec::new(); answers.len()];
    for (row, id) in ids.values().iter().enumerate() {
        places[*id as usize].push(row as u32);
    }
    let rest = rows.project(&(1..rows.num_columns()).collect::<Vec<_>>())?;
    for (answer, places) in answers.iter_mut().zip(places).filter(|(_, places)| !places.is_empty()) {
        let columns = take_arrays(rest.columns(), &UInt32Array::from(places), None)?;
        answer.push(RecordBatch::try_new(rest.schema(), columns)?);
    }
    Ok(())
}

/// Rows of a plan's answer, at most.
fn rows(piece: &Piece) -> i64 {
    let seconds: i64 = piece.spans.iter().map(|span| span.to.0 - span.from.0).sum();
    seconds / i64::from(piece.seconds.max(1)) + piece.spans.len() as i64
}

/// The service and operation, if that is all that a selector says.
fn one_operation(of: &RedSelector) -> Option<(&str, &str)> {
    let one = |key| match of.any_of.get(&key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.as_str()),
        _ => None,
    };
    let all = of.any_of.len() == 2 && of.none_of.is_empty();
    Some((one(RedKey::Service)?, one(RedKey::Operation)?)).filter(|_| all)
}

#[cfg(test)]
mod tests {
    use tailwater_slo::Time;

    use super::*;

    #[test]
    fn counts_and_durations_of_the_same_rows_are_one_question() {
        // Quarters of counts and of durations; the expected questions, by how many needs each answers.
        let check = |counts: &[(i64, i64)], durations: &[(i64, i64)], expected: &[usize]| {
            let need = |what, quarters: &[(i64, i64)]| Need {
                what,
                width: 3600,
                spans: quarters
                    .iter()
                    .map(|(from, to)| Span::new(Time(from * 900), Time(to * 900)))
                    .collect(),
            };
            let needs = [need(What::Counts, counts), need(What::Durations, durations)];
            let of = RedSelector::default();
            let mut wanted = Vec::new();
            for need in &needs {
                for piece in pieces(&need.spans, need.width) {
                    let good = (need.what == What::Counts).then_some(Good {
                        exclude_errors: true,
                        max_duration_ns: None,
                    });
                    let text = match good {
                        Some(good) => requests(&of, good, &piece),
                        None => super::durations(&of, &piece),
                    };
                    let key = text.key();
                    wanted.push(Wanted {
                        of: &of,
                        good,
                        need,
                        piece,
                        text,
                        key,
                    });
                }
            }
            let questions = in_pairs(&wanted.iter().collect::<Vec<_>>());
            let answered: Vec<usize> = questions.iter().map(|(_, keys)| keys.len()).collect();
            assert_eq!(answered, expected, "{counts:?} {durations:?}");
            for (text, keys) in questions.iter().filter(|(_, keys)| keys.len() == 2) {
                assert!(
                    text.sql.contains("as total") && text.sql.contains("as durations"),
                    "{keys:?}"
                );
            }
        };
        check(&[(0, 40)], &[(0, 40)], &[2]);
        // Hours that are counted in minutes, between.
        check(&[(0, 8), (12, 40)], &[(0, 40)], &[2]);
        // More is counted than durations are read of.
        check(&[(0, 40)], &[(0, 36)], &[1, 1]);
        // The last hour's quarters are counted by themselves, and would be again in the whole hour.
        check(&[(0, 39)], &[(0, 40)], &[1, 1, 1]);
    }
}
