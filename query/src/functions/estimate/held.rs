//! What an estimator holds while rows come: a head for each group and, in pages, cells, draws or traces.
//!
//! ```text
//!  heads   [g0][g1][g2]...            sums and counts, of all six
//!  cells   [page 4096][page]...       one for (group, trace, weight), found by hash     intervals of sums and ratios
//!  draws   [page 4096][page]...       one for each row                                  quantiles, with their traces for an interval
//!  firsts  [page 4096][page]...       the first 30 traces of each group                 a ratio that is told its traces
//! ```
//!
//! Pages, because a vector that doubles would for a moment hold three times what was accounted. A state is little-endian:
//! the head (56 bytes), then the entries of the group, all of one size.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Builder, LargeBinaryBuilder};
use datafusion::common::{Result, exec_err, internal_datafusion_err};
use datafusion::logical_expr::EmitTo;
use tailwater_slo::estimate::{self, Draw, EFFECTIVE_MIN, Part, Seen, at_rank, kish, quantile};

use super::answer::Answers;
use super::input::{Input, Row};
use super::remarks::Counts;
use super::store::{ByGroup, Cell, Drawn, Store, Words, index};
use super::{Call, What};
use crate::functions::bytes::Bytes;

/// Sums of a group.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    seen: Seen,
    /// Some row that adds something has a weight above 1.
    sampled: bool,
    /// Sums of weight * num, weight * den, and over rows that add something of the weight and its square.
    num: f64,
    den: f64,
    weight: f64,
    squares: f64,
}

const HEAD_BYTES: usize = 56;

impl Head {
    fn add(&mut self, row: Row) {
        let Some(weight) = row.weight else {
            self.seen.unweighted += 1;
            return;
        };
        self.seen.rows += 1;
        self.seen.sampled |= weight > 1.0;
        self.seen.negative |= row.num < 0.0;
        self.seen.positive |= row.num > 0.0;
        self.num += weight * row.num;
        self.den += weight * row.den;
    }

    /// The row is not only zeros, or zeros count as anything else.
    fn add_weight(&mut self, weight: f64) {
        self.sampled |= weight > 1.0;
        self.weight += weight;
        self.squares += weight * weight;
    }

    fn merge(&mut self, other: Head) {
        self.seen.merge(other.seen);
        self.sampled |= other.sampled;
        self.num += other.num;
        self.den += other.den;
        self.weight += other.weight;
        self.squares += other.squares;
    }

    /// As [`estimate::Estimate::is_few`], by rows: those of one trace say less than this, never more. Nor do so many traces, where they are known.
    fn is_few(&self, traces: Option<usize>) -> bool {
        let rows = kish(self.weight, self.squares);
        self.sampled && traces.map_or(rows, |traces| rows.min(traces as f64)) < EFFECTIVE_MIN
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let Seen {
            rows,
            unweighted,
            sampled,
            negative,
            positive,
        } = self.seen;
        let flags = [sampled, negative, positive, self.sampled];
        let flags = flags
            .iter()
            .enumerate()
            .map(|(bit, is)| u64::from(*is) << bit)
            .sum::<u64>();
        for number in [rows, unweighted, flags] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.num, self.den, self.weight, self.squares] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn decode(words: &mut Words<'_>) -> Head {
        let (rows, unweighted, flags) = (words.next(), words.next(), words.next());
        let is = |bit: u32| flags >> bit & 1 == 1;
        Head {
            seen: Seen {
                rows,
                unweighted,
                sampled: is(0),
                negative: is(1),
                positive: is(2),
            },
            sampled: is(3),
            num: words.float(),
            den: words.float(),
            weight: words.float(),
            squares: words.float(),
        }
    }
}

/// The state of one use of an estimator.
#[derive(Debug)]
pub(super) struct Held {
    pub call: Call,
    heads: Vec<Head>,
    store: Store,
}

impl Held {
    pub(super) fn new(call: Call) -> Held {
        Held {
            store: Store::of(&call),
            call,
            heads: Vec::new(),
        }
    }

    pub(super) fn resize(&mut self, groups: usize) {
        self.heads.resize(groups.max(self.heads.len()), Head::default());
    }

    pub(super) fn emitted(&self, emit_to: EmitTo) -> usize {
        match emit_to {
            EmitTo::All => self.heads.len(),
            EmitTo::First(groups) => groups,
        }
    }

    /// Memory. The entries count twice: a group is answered, and a state written, on a copy.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self) + self.heads.capacity() * size_of::<Head>() + 2 * self.store.bytes()
    }

    pub(super) fn update(
        &mut self,
        columns: &[ArrayRef],
        filter: Option<&BooleanArray>,
        group: impl Fn(usize) -> usize,
    ) -> Result<()> {
        let input = Input::of(&self.call, columns)?;
        let counts_zeros = self.call.kind.what == What::Quantile;
        for at in 0..input.rows() {
            if filter.is_some_and(|filter| filter.is_null(at) || !filter.value(at)) {
                continue;
            }
            let Some(row) = input.row(at)? else { continue };
            let group = group(at);
            let head = &mut self.heads[group];
            head.add(row);
            if let Some(weight) = row.weight
                && (counts_zeros || row.num != 0.0 || row.den != 0.0)
            {
                head.add_weight(weight);
                self.store.add(index(group)?, row, weight)?;
            }
        }
        Ok(())
    }

    /// Adds states made by [`Held::states`].
    pub(super) fn merge(&mut self, states: &[ArrayRef], group: impl Fn(usize) -> usize) -> Result<()> {
        let column = Bytes::of(&states[0])?;
        let entry_words = self.store.entry_words();
        for row in 0..states[0].len() {
            let Some(state) = column.get(row) else { continue };
            let entries = state.len().checked_sub(HEAD_BYTES).filter(|rest| match entry_words {
                0 => *rest == 0,
                words => rest % (words * 8) == 0,
            });
            let Some(entries) = entries else {
                return exec_err!("{}: a partial state of {} bytes", self.call.kind.name(), state.len());
            };
            let mut words = Words(state.chunks_exact(8));
            self.heads[group(row)].merge(Head::decode(&mut words));
            for _ in 0..entries / (entry_words * 8).max(1) {
                self.store.decode(index(group(row))?, &mut words)?;
            }
        }
        Ok(())
    }

    /// The first `groups` groups as states.
    pub(super) fn states(&self, groups: usize) -> Result<ArrayRef> {
        let by_group = ByGroup::of(&self.store, groups)?;
        let bytes = groups * HEAD_BYTES + by_group.order.len() * self.store.entry_words() * 8;
        let mut builder = LargeBinaryBuilder::with_capacity(groups, bytes);
        let mut state = Vec::new();
        for group in 0..groups {
            state.clear();
            self.heads[group].encode(&mut state);
            by_group.entries(group).for_each(|at| self.store.encode(at, &mut state));
            builder.append_value(&state);
        }
        Ok(Arc::new(builder.finish()))
    }

    /// The estimates of the first `groups` groups.
    pub(super) fn answers(&self, groups: usize) -> Result<ArrayRef> {
        let by_group = ByGroup::of(&self.store, groups)?;
        let mut counts = Counts {
            answers: groups as u64,
            ..Counts::default()
        };
        let mut points = Float64Builder::with_capacity(groups);
        let mut answers = Answers::default();
        for group in 0..groups {
            let head = &self.heads[group];
            counts.unweighted += head.seen.unweighted;
            if !self.call.kind.interval {
                let traces = match self.store {
                    Store::Firsts(_) => Some(by_group.entries(group).count()),
                    _ => None,
                };
                counts.few += u64::from(head.is_few(traces));
                points.append_option(self.point(head, by_group.entries(group))?);
                continue;
            }
            let found = self.interval(head.seen, by_group.entries(group))?;
            counts.few += u64::from(found.is_few());
            answers.push(&found);
        }
        self.call.remarks.add(self.call.kind.name(), counts);
        Ok(if self.call.kind.interval {
            answers.finish()
        } else {
            Arc::new(points.finish())
        })
    }

    fn point(&self, head: &Head, entries: impl Iterator<Item = usize>) -> Result<Option<f64>> {
        Ok(match (self.call.kind.what, &self.store) {
            (What::Sum, _) => (head.seen.rows > 0).then_some(head.num),
            (What::Ratio, _) => (head.den != 0.0).then(|| head.num / head.den),
            (What::Quantile, Store::Draws(draws)) => {
                let mut draws: Vec<Draw> = entries.map(|at| draws.get(at).draw).collect();
                at_rank(&mut draws, self.call.q)
            }
            (What::Quantile, _) => return Err(internal_datafusion_err!("a quantile is read from draws")),
        })
    }

    fn interval(&self, seen: Seen, entries: impl Iterator<Item = usize>) -> Result<estimate::Estimate> {
        let confidence = self.call.confidence;
        match (&self.store, self.call.kind.what) {
            (Store::Cells(cells), what) => {
                let mut parts: Vec<Part> = entries.map(|at| cells.cells.get(at).part).collect();
                // A trace whose rows cancel out adds nothing, like a row of 0.
                parts.retain(|part| part.num != 0.0 || part.den != 0.0);
                estimate::sort(&mut parts);
                Ok(if what == What::Sum {
                    estimate::total(&parts, seen, confidence)
                } else {
                    estimate::ratio(&parts, seen, confidence)
                })
            }
            (Store::Traced(draws, traces), _) => {
                let mut draws: Vec<_> = entries.map(|at| (draws.get(at).draw, *traces.get(at))).collect();
                Ok(quantile(&mut draws, self.call.q, seen, confidence))
            }
            _ => Err(internal_datafusion_err!(
                "an interval is read from cells or traced draws"
            )),
        }
    }

    /// Forgets the first groups; the others move down.
    pub(super) fn drop_first(&mut self, groups: usize) -> Result<()> {
        if groups >= self.heads.len() {
            self.heads = Vec::new();
            self.store = Store::of(&self.call);
            return Ok(());
        }
        self.heads.drain(..groups);
        let mut store = Store::of(&self.call);
        let moved = |group: u32| group.checked_sub(groups as u32);
        match (&self.store, &mut store) {
            (Store::Cells(old), Store::Cells(new)) => {
                for cell in old.cells.iter() {
                    if let Some(group) = moved(cell.group) {
                        new.add(Cell { group, ..*cell })?;
                    }
                }
            }
            (Store::Firsts(old), Store::Firsts(new)) => {
                for first in old.iter() {
                    if let Some(group) = moved(first.group) {
                        new.add(group, first.trace)?;
                    }
                }
            }
            (Store::Draws(old), Store::Draws(new)) => {
                for drawn in old.iter() {
                    if let Some(group) = moved(drawn.group) {
                        new.push(Drawn { group, ..*drawn });
                    }
                }
            }
            (Store::Traced(old, old_traces), Store::Traced(new, new_traces)) => {
                for (drawn, trace) in old.iter().zip(old_traces.iter()) {
                    if let Some(group) = moved(drawn.group) {
                        new.push(Drawn { group, ..*drawn });
                        new_traces.push(*trace);
                    }
                }
            }
            _ => {}
        }
        self.store = store;
        Ok(())
    }
}
