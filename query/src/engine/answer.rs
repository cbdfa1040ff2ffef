//! The rows of a query as they come.

use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant as Deadline, timeout_at};

use super::{Engine, Notes, timed_out};
use crate::error::{Error, ErrorKind, Result};

/// Stops the query's task.
pub(super) struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The answer to a query: columns now, rows as they are read. Dropping it stops the query.
pub struct Answer {
    schema: SchemaRef,
    notes: Notes,
    rows: mpsc::Receiver<Result<RecordBatch>>,
    deadline: Deadline,
    rows_read: usize,
    bytes_read: usize,
    rows_max: Most,
    bytes_max: Most,
    ended: bool,
    engine: Engine,
    started: Instant,
    _stop: AbortOnDrop,
}

/// A limit, and the setting that it comes from.
#[derive(Clone, Copy)]
struct Most {
    most: usize,
    key: Option<&'static str>,
}

impl Most {
    fn set(most: usize, key: &'static str) -> Most {
        Most { most, key: Some(key) }
    }

    fn fixed(most: usize) -> Most {
        Most { most, key: None }
    }

    /// For a message.
    fn by(self) -> String {
        self.key.map(|key| format!(" ({key})")).unwrap_or_default()
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("schema", &self.schema)
            .field("rows_read", &self.rows_read)
            .finish_non_exhaustive()
    }
}

impl Answer {
    pub(super) fn new(
        schema: SchemaRef,
        notes: Notes,
        rows: mpsc::Receiver<Result<RecordBatch>>,
        deadline: Deadline,
        stop: AbortOnDrop,
        engine: Engine,
        started: Instant,
    ) -> Answer {
        Answer {
            schema,
            notes,
            rows,
            deadline,
            rows_read: 0,
            bytes_read: 0,
            rows_max: Most::set(engine.limits().rows_max, "query.rows"),
            bytes_max: Most::set(engine.limits().answer_bytes_max, "query.result"),
            ended: false,
            engine,
            started,
            _stop: stop,
        }
    }

    /// For rows that are not shown but computed with: what they take counts, not how many they are.
    pub(super) fn with_bytes_max(mut self, bytes: usize) -> Answer {
        (self.rows_max, self.bytes_max) = (Most::fixed(usize::MAX), Most::set(bytes, "part of query.memory"));
        self
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What the reader must know of the answer as a whole, such as rows that damage has taken from it, or estimates that rest on too little. Mostly
    /// empty. Estimates are remarked on as they are made: after the last row all of them are.
    pub fn notes(&self) -> Vec<String> {
        [self.notes.cut.clone(), self.notes.remarks.texts()].concat()
    }

    /// Another limit of rows, for what is not an answer to people. Bytes and time stay limited.
    pub(crate) fn with_rows_max(mut self, rows_max: usize) -> Answer {
        self.rows_max = Most::fixed(rows_max);
        self
    }

    /// The next rows; `None` after the last. After an error there is nothing more, and what was read is not the whole answer.
    ///
    /// # Errors
    /// [`ErrorKind::AnswerTooLarge`], [`ErrorKind::Timeout`], and what can happen to a running query.
    pub async fn next(&mut self) -> Option<Result<RecordBatch>> {
        if self.ended {
            return None;
        }
        let limits = self.engine.limits();
        let next = match timeout_at(self.deadline, self.rows.recv()).await {
            Err(_) => Some(Err(timed_out(limits))),
            Ok(Some(Ok(batch))) => {
                self.rows_read += batch.num_rows();
                self.bytes_read += batch_bytes(&batch);
                Some(if self.rows_read > self.rows_max.most {
                    let message = format!(
                        "the answer has more than {} rows{}: aggregate, or add a LIMIT",
                        self.rows_max.most,
                        self.rows_max.by()
                    );
                    Err(Error::new(ErrorKind::AnswerTooLarge, message))
                } else if self.bytes_read > self.bytes_max.most {
                    let message = format!(
                        "the answer has more than {} bytes{}: ask for fewer columns or rows",
                        self.bytes_max.most,
                        self.bytes_max.by()
                    );
                    Err(Error::new(ErrorKind::AnswerTooLarge, message))
                } else {
                    Ok(batch)
                })
            }
            Ok(other) => other,
        };
        match &next {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                self.ended = true;
                self.engine.stats().failed(error.kind(), self.started.elapsed());
            }
            None => {
                self.ended = true;
                self.engine
                    .stats()
                    .succeeded(self.rows_read as u64, self.started.elapsed());
            }
        }
        next
    }

    /// All rows.
    ///
    /// # Errors
    /// As [`Answer::next`].
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }
}

/// What the rows themselves take. A slice of a large buffer counts for its own part.
fn batch_bytes(batch: &RecordBatch) -> usize {
    let of = |column: &arrow::array::ArrayRef| {
        column
            .to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(of).sum()
}
