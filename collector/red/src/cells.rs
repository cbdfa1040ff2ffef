//! What was counted since the last drain: one cell for each key and slice.

use std::sync::Arc;

use hashbrown::HashMap;
use tailwater_model::exphist::Sketches;
use tailwater_model::red::{Exemplar, RedRow, SLICE_NS};

use crate::keys::{Key, KeyId};

/// Largest number that a column holds; what is beyond becomes a row of its own.
pub(crate) const COLUMN_MAX: u128 = i64::MAX as u128;

/// Slices of a key that are found without a search: spans come in about the order of time, and a slice has an end.
const RECENT: usize = 2;

/// Where the cells of a key are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Recent {
    drains: u64,
    slices: [(u64, u32); RECENT],
    known: u8,
}

/// One span, as it is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    pub slice_ns: u64,
    pub ns: u64,
    pub weight: u64,
    pub exemplar: Exemplar,
}

#[derive(Debug)]
struct Cell {
    key: KeyId,
    slice_ns: u64,
    n: u64,
    sum_ns: u128,
    max_ns: u64,
    weighted: u128,
    /// First of its registers.
    registers: u32,
    exemplar: Exemplar,
}

/// The cells.
#[derive(Debug)]
pub(crate) struct Cells {
    drains: u64,
    cells: Vec<Cell>,
    registers: Vec<u64>,
    sketches: Sketches,
    places: HashMap<(KeyId, u64), u32, ahash::RandomState>,
}

impl Default for Cells {
    fn default() -> Cells {
        Cells {
            // So that a new key's `Recent` is of an earlier drain.
            drains: 1,
            cells: Vec::new(),
            registers: Vec::new(),
            sketches: Sketches::new(),
            places: HashMap::default(),
        }
    }
}

impl Cells {
    /// Counts a span. `id` is that of `key`.
    #[inline]
    pub fn add(&mut self, id: KeyId, key: &mut Key, span: &Counted) {
        let place = match key.recent.find(self.drains, span.slice_ns) {
            Some(place) => place,
            None => self.place(id, key, span),
        };
        let cell = &mut self.cells[place as usize];
        cell.n += 1;
        cell.sum_ns += u128::from(span.ns);
        cell.max_ns = cell.max_ns.max(span.ns);
        cell.weighted += u128::from(span.weight);
        if span.exemplar > cell.exemplar {
            cell.exemplar = span.exemplar;
        }
        let from = cell.registers as usize;
        for (register, threshold) in self.registers[from..].iter_mut().zip(&*key.thresholds) {
            *register += u64::from(span.ns <= *threshold);
        }
        self.sketches.record(place as usize, span.ns as f64, 1.0);
    }

    #[cold]
    fn place(&mut self, id: KeyId, key: &mut Key, span: &Counted) -> u32 {
        let next = self.cells.len() as u32;
        let place = *self.places.entry((id, span.slice_ns)).or_insert(next);
        if place == next {
            self.cells.push(Cell {
                key: id,
                slice_ns: span.slice_ns,
                n: 0,
                sum_ns: 0,
                max_ns: 0,
                weighted: 0,
                registers: self.registers.len() as u32,
                exemplar: span.exemplar,
            });
            self.registers.resize(self.registers.len() + key.thresholds.len(), 0);
            self.sketches.resize(self.cells.len());
        }
        key.recent.remember(self.drains, span.slice_ns, place);
        place
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Spans under keys that stand for others.
    pub fn folded(&self, keys: &[Key]) -> u64 {
        let folded = self.cells.iter().filter(|cell| keys[cell.key.0 as usize].is_folded);
        folded.map(|cell| cell.n).sum()
    }

    /// Hands out what was counted.
    pub fn drain(&mut self, keys: &[Key]) -> Vec<RedRow> {
        self.drains += 1;
        self.places.clear();
        let mut rows = Vec::with_capacity(self.cells.len());
        for (place, cell) in self.cells.drain(..).enumerate() {
            let key = &keys[cell.key.0 as usize];
            let counts = &self.registers[cell.registers as usize..];
            let mut exphist = Vec::new();
            self.sketches.encode(place, &mut exphist);
            let (mut sum, mut weighted) = (cell.sum_ns, cell.weighted);
            rows.push(RedRow {
                key: key.key.clone(),
                slice_ns: cell.slice_ns,
                slice_s: (SLICE_NS / 1_000_000_000) as u32,
                n: cell.n,
                sum_ns: take(&mut sum),
                max_ns: cell.max_ns,
                exphist,
                registers: key.thresholds.iter().copied().zip(counts.iter().copied()).collect(),
                n_weighted: take(&mut weighted),
                exemplar: Some(cell.exemplar),
            });
            while sum > 0 || weighted > 0 {
                rows.push(RedRow {
                    key: key.key.clone(),
                    slice_ns: cell.slice_ns,
                    slice_s: (SLICE_NS / 1_000_000_000) as u32,
                    n: 0,
                    sum_ns: take(&mut sum),
                    max_ns: 0,
                    exphist: Vec::new(),
                    registers: key.thresholds.iter().map(|threshold| (*threshold, 0)).collect(),
                    n_weighted: take(&mut weighted),
                    exemplar: None,
                });
            }
        }
        self.registers.clear();
        self.sketches = Sketches::new();
        rows
    }
}

/// As much as a column holds.
pub(crate) fn take(total: &mut u128) -> u64 {
    let part = (*total).min(COLUMN_MAX);
    *total -= part;
    part as u64
}

impl Recent {
    #[inline]
    fn find(&self, drains: u64, slice_ns: u64) -> Option<u32> {
        if self.drains != drains {
            return None;
        }
        let known = &self.slices[..usize::from(self.known)];
        known
            .iter()
            .find(|(slice, _)| *slice == slice_ns)
            .map(|(_, place)| *place)
    }

    fn remember(&mut self, drains: u64, slice_ns: u64, place: u32) {
        if self.drains != drains {
            *self = Recent {
                drains,
                ..Recent::default()
            };
        }
        self.slices.rotate_right(1);
        self.slices[0] = (slice_ns, place);
        self.known = (self.known + 1).min(RECENT as u8);
    }
}

/// Shared by cells whose key has none.
pub(crate) fn no_thresholds() -> Arc<[u64]> {
    Arc::from([])
}
