//! One query for many objectives: each of a hundred would open the same files and read the pages of its neighbours.
//!
//! ```text
//!  plans --those of one service and operation, by what they read--> red join (values (id, service, operation, limit)) --by id--> answers
//! ```
//! The answers lie where a plan's own query would have put them, so nobody else knows of this. Leaves out: selectors of any other form, windows in
//! so many slices that the answers of all would be too much at once.

use std::collections::HashMap;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::Int64Type;
use datafusion::common::{ScalarValue, internal_datafusion_err};
use futures::{StreamExt, stream};
use tailwater_openslo::{Good, Indicator, RedKey, RedSelector};
use tailwater_slo::Plan;
use tailwater_slo::plan::What;

use super::pieces::{Piece, pieces};
use super::reader::Reader;
use super::requests::{durations, good_of, limit_of, requests};
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
    service: &'a str,
    operation: &'a str,
    good: Option<Good>,
    /// Its question, and where the answer belongs.
    text: Text,
    key: String,
}

impl Reader<'_> {
    /// Asks what these plans will, as far as several ask the same of different operations. What is too much together is left for each to ask alone.
    ///
    /// # Errors
    /// What queries can end in, but for limits.
    pub(super) async fn ask_together(&mut self, plans: &[Plan]) -> Result<()> {
        // In the order of the plans, so that equal reports are made of equal queries.
        let (mut places, mut groups) = (HashMap::new(), Vec::<(Piece, Vec<Wanted<'_>>)>::new());
        for plan in plans {
            let Indicator::Requests { of, good } = &plan.indicator else {
                continue;
            };
            let Some((service, operation)) = one_operation(of) else {
                continue;
            };
            for need in &plan.needs {
                for piece in pieces(&need.spans, need.width) {
                    let (good, text) = match need.what {
                        What::Counts => (Some(*good), requests(of, *good, &piece)),
                        What::Durations => (None, durations(of, &piece)),
                    };
                    let key = text.key();
                    if self.knows(&key) || rows(&piece) > ROWS_OF_ONE_MAX {
                        continue;
                    }
                    let form = good.map(|good| (good.exclude_errors, good.max_duration_ns.is_some()));
                    let shape = format!("{form:?} {piece:?}");
                    let place = *places.entry(shape).or_insert(groups.len());
                    if place == groups.len() {
                        groups.push((piece, Vec::new()));
                    }
                    let wanted = &mut groups[place].1;
                    if wanted.iter().all(|known| known.key != key) {
                        wanted.push(Wanted {
                            service,
                            operation,
                            good,
                            text,
                            key,
                        });
                    }
                }
            }
        }
        let mut texts = Vec::new();
        for (piece, wanted) in &groups {
            let at_once = usize::try_from(ROWS_MAX / rows(piece).max(1)).unwrap_or(1).max(1);
            for wanted in wanted.chunks(at_once) {
                if let [wanted] = wanted {
                    texts.push(wanted.text.clone());
                    continue;
                }
                let answers = match self.of_all(piece, wanted).await {
                    Ok(answers) => answers,
                    Err(error) if is_too_much(error.kind()) => continue,
                    Err(error) => return Err(error),
                };
                for (wanted, rows) in wanted.iter().zip(answers) {
                    self.learn(wanted.key.clone(), rows);
                }
            }
        }
        let alone: Vec<_> = texts.into_iter().map(|text| self.keyed(text)).collect();
        // One is planned while another is read. What goes wrong goes wrong again, and is told, when the plan itself asks.
        let answers: Vec<_> = stream::iter(alone).buffer_unordered(AT_ONCE).collect().await;
        for (key, rows) in answers {
            if let Ok(rows) = rows {
                self.learn(key, rows);
            }
        }
        Ok(())
    }

    async fn keyed(&self, text: Text) -> (String, Result<Vec<RecordBatch>>) {
        (text.key(), self.run(text).await)
    }

    async fn of_all(&self, piece: &Piece, wanted: &[Wanted<'_>]) -> Result<Vec<Vec<RecordBatch>>> {
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
            text.push(&format!("{}({id}, cast(", if id > 0 { ", " } else { "" }));
            text.value(ScalarValue::Utf8(Some(wanted.service.to_owned())));
            text.push(" as varchar), cast(");
            text.value(ScalarValue::Utf8(Some(wanted.operation.to_owned())));
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
