//! The sampling columns. Rows of one decision share one entry.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Float64Type, Int64Type};

use super::build::{self, Batch};
use super::dict::{Dict, NONE};
use crate::otlp::text::Tally;

/// What sampling says of an item; each field is the column of its name, `None` is null.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampling<'a> {
    /// How many items this one stands for.
    pub sample_weight: Option<f64>,
    /// Rejection threshold T, 2^-56.
    pub sample_threshold: Option<i64>,
    /// Which rule kept it.
    pub sample_reason: Option<&'a str>,
    /// How far the weight can be relied on.
    pub weight_quality: Option<&'a str>,
    /// What made the trace due.
    pub trigger: Option<&'a str>,
    /// Decided before the trace was complete.
    pub partial: Option<bool>,
    /// Arrived after the decision.
    pub late: Option<bool>,
    /// Version of the policy.
    pub policy_epoch: Option<i64>,
    /// What a span's tracestate becomes; `None` leaves it as it was sent. Logs have none.
    pub trace_state: Option<&'a [u8]>,
}

impl Sampling<'static> {
    /// Everything is kept: weight 1, T = 0, reason `all`.
    pub const ALL: Sampling<'static> = Sampling {
        sample_weight: Some(1.0),
        sample_threshold: Some(0),
        sample_reason: Some("all"),
        weight_quality: None,
        trigger: None,
        partial: Some(false),
        late: Some(false),
        policy_epoch: Some(0),
        trace_state: None,
    };
}

/// What is said of a span of this id whose senders say so much in its tracestate, which is not empty; `None`: no more than of any.
pub type BySender = fn(usual: Sampling<'static>, trace_id: &[u8], trace_state: &[u8]) -> Option<Sampling<'static>>;

/// Which items of a request become rows, and what sampling says of them.
#[derive(Debug, Clone, Copy)]
pub enum Choice<'a> {
    /// All of them, with one statement.
    All(Sampling<'a>),
    /// All of them, with one statement, but for spans whose tracestate says more. For logs the same as `All`.
    Said(Sampling<'static>, BySender),
    /// The item with ordinal n becomes a row with statement `verdicts[of[n]]`; none if there is no such place or verdict.
    Each {
        /// The statements.
        verdicts: &'a [Sampling<'a>],
        /// For each ordinal an index into `verdicts`, `u32::MAX` for an item that is not kept.
        of: &'a [u32],
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    weight: Option<f64>,
    threshold: Option<i64>,
    reason: i32,
    quality: i32,
    trigger: i32,
    partial: Option<bool>,
    late: Option<bool>,
    epoch: Option<i64>,
}

/// The statements of a batch.
#[derive(Debug, Default)]
pub(super) struct Samplings {
    entries: Vec<Entry>,
    reasons: Dict,
    qualities: Dict,
    triggers: Dict,
}

/// The strings of taken statements, for the tables of one batch.
pub(super) struct SamplingStrings {
    reasons: ArrayRef,
    qualities: ArrayRef,
    triggers: ArrayRef,
}

/// A [`Choice`] whose statements have entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen<'a> {
    each: Option<(&'a [Sampling<'a>], &'a [u32])>,
    first: u32,
    said: Option<(Sampling<'static>, BySender)>,
}

impl<'a> Chosen<'a> {
    /// Entry of an item and what its tracestate becomes; `None` if it is not kept.
    #[inline]
    pub(super) fn entry(&self, ordinal: u32) -> Option<(u32, Option<&'a [u8]>)> {
        let Some((verdicts, of)) = self.each else {
            return Some((self.first, None));
        };
        let index = *of.get(ordinal as usize)?;
        let verdict = verdicts.get(index as usize)?;
        Some((self.first + index, verdict.trace_state))
    }
}

/// Statements of senders that are looked through for one that is there already.
const SAID_RECENT: usize = 8;

impl Samplings {
    pub(super) fn choose<'a>(&mut self, choice: Choice<'a>) -> Chosen<'a> {
        match choice {
            Choice::All(sampling) => self.all(&sampling, None),
            Choice::Said(sampling, by_sender) => self.all(&sampling, Some((sampling, by_sender))),
            Choice::Each { verdicts, of } => {
                let first = self.entries.len() as u32;
                for sampling in verdicts {
                    let entry = self.entry(sampling);
                    self.entries.push(entry);
                }
                Chosen {
                    each: Some((verdicts, of)),
                    first,
                    said: None,
                }
            }
        }
    }

    fn all<'a>(&mut self, sampling: &Sampling<'_>, said: Option<(Sampling<'static>, BySender)>) -> Chosen<'a> {
        Chosen {
            each: None,
            first: self.known(sampling, 1),
            said,
        }
    }

    /// Entry of a span by what its senders say, if that is more than of any.
    #[cold]
    pub(super) fn said(&mut self, chosen: &Chosen<'_>, trace_id: &[u8], trace_state: &[u8]) -> Option<u32> {
        let (usual, by_sender) = chosen.said?;
        let sampling = by_sender(usual, trace_id, trace_state)?;
        Some(self.known(&sampling, SAID_RECENT))
    }

    /// The entry of a statement, which may be among the last few.
    fn known(&mut self, sampling: &Sampling<'_>, few: usize) -> u32 {
        let entry = self.entry(sampling);
        let from = self.entries.len().saturating_sub(few);
        let found = self.entries[from..].iter().position(|known| *known == entry);
        let at = found.map_or(self.entries.len(), |at| from + at);
        if at == self.entries.len() {
            self.entries.push(entry);
        }
        at as u32
    }

    fn entry(&mut self, sampling: &Sampling<'_>) -> Entry {
        let tally = &mut Tally::default();
        let mut word = |dict: &mut Dict, text: Option<&str>| {
            text.map_or(NONE, |text| dict.put(text.as_bytes(), usize::MAX, tally))
        };
        Entry {
            weight: sampling.sample_weight,
            threshold: sampling.sample_threshold,
            reason: word(&mut self.reasons, sampling.sample_reason),
            quality: word(&mut self.qualities, sampling.weight_quality),
            trigger: word(&mut self.triggers, sampling.trigger),
            partial: sampling.partial,
            late: sampling.late,
            epoch: sampling.policy_epoch,
        }
    }

    pub(super) fn take_strings(&mut self) -> SamplingStrings {
        SamplingStrings {
            reasons: self.reasons.take(),
            qualities: self.qualities.take(),
            triggers: self.triggers.take(),
        }
    }

    /// Sets the sampling columns for rows with these entries.
    pub(super) fn set(
        &self,
        batch: &mut Batch,
        strings: &SamplingStrings,
        rows: impl ExactSizeIterator<Item = u32> + Clone,
    ) {
        let entry = |index: u32| &self.entries[index as usize];
        batch.set(
            "sample_weight",
            Arc::new(build::optional::<Float64Type>(
                rows.clone().map(|index| entry(index).weight),
            )),
        );
        batch.set(
            "sample_threshold",
            Arc::new(build::optional::<Int64Type>(
                rows.clone().map(|index| entry(index).threshold),
            )),
        );
        batch.set_words(
            "sample_reason",
            &strings.reasons,
            rows.clone().map(|index| entry(index).reason),
        );
        batch.set_words(
            "weight_quality",
            &strings.qualities,
            rows.clone().map(|index| entry(index).quality),
        );
        batch.set_words(
            "trigger",
            &strings.triggers,
            rows.clone().map(|index| entry(index).trigger),
        );
        batch.set(
            "partial",
            build::optional_booleans(rows.clone().map(|index| entry(index).partial)),
        );
        batch.set(
            "late",
            build::optional_booleans(rows.clone().map(|index| entry(index).late)),
        );
        batch.set(
            "policy_epoch",
            Arc::new(build::optional::<Int64Type>(rows.map(|index| entry(index).epoch))),
        );
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        drop(self.take_strings());
    }
}
