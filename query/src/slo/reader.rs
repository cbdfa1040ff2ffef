//! Asks the engine, each question once.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tailwater_slo::{Data, Plan, SloReport, Time, evaluate};

use super::ROWS_MAX;
use super::rows::times;
use super::select::Text;
use crate::engine::{Engine, Query};
use crate::error::Result;

/// Larger answers are not kept for a second objective: a hundred of them would take more memory than asking again takes time.
pub(super) const KEPT_ROWS_MAX: i64 = 10_000;

/// Asks the engine.
pub(super) struct Reader<'a> {
    engine: &'a Engine,
    answers: Mutex<HashMap<String, Arc<Vec<RecordBatch>>>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(engine: &'a Engine) -> Reader<'a> {
        Reader {
            engine,
            answers: Mutex::default(),
        }
    }

    pub(super) async fn ask(&self, text: Text) -> Result<Arc<Vec<RecordBatch>>> {
        let key = text.key();
        let known = self.answers.lock().get(&key).cloned();
        if let Some(answer) = known {
            return Ok(answer);
        }
        let rows = Arc::new(self.run(text).await?);
        if rows.iter().map(|rows| rows.num_rows() as i64).sum::<i64>() <= KEPT_ROWS_MAX {
            self.answers.lock().insert(key, rows.clone());
        }
        Ok(rows)
    }

    /// Evaluates what was read, where queries run.
    pub(super) async fn evaluate(&self, plan: Plan, data: Data) -> Result<SloReport> {
        self.engine.compute(move |_| evaluate(&plan, data)).await
    }

    /// Asks without looking whether the answer is known.
    pub(super) async fn run(&self, text: Text) -> Result<Vec<RecordBatch>> {
        let query = Query {
            text: text.sql,
            params: text.params,
        };
        let answer = self.engine.query(query).await?.with_rows_max(ROWS_MAX);
        answer.collect().await
    }

    /// Whether the answer to the question of this key is known.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.answers.lock().contains_key(key)
    }

    /// Takes an answer that was found otherwise, until all are forgotten.
    pub(super) fn learn(&self, key: String, rows: Arc<Vec<RecordBatch>>) {
        self.answers.lock().insert(key, rows);
    }

    /// Keeps no answer any longer.
    pub(super) fn forget(&self) {
        self.answers.lock().clear();
    }

    /// The first time that a query answers.
    pub(super) async fn time(&self, text: Text) -> Result<Option<Time>> {
        for rows in self.ask(text).await?.iter() {
            if let Some(found) = times(rows, "at")?.into_iter().flatten().next() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
