//! Cells, draws and traces in pages, as states have them, and group by group.

use ahash::RandomState;
use datafusion::common::{Result, exec_datafusion_err};
use hashbrown::HashTable;
use tailwater_slo::estimate::{Draw, EFFECTIVE_MIN, NO_TRACE, Part, TraceKey};

use super::input::Row;
use super::{Call, What};

const PAGE: usize = 4096;

/// Traces of a group that are remembered: with so many there is nothing to remark.
const ENOUGH: u8 = EFFECTIVE_MIN as u8;

/// A list that grows by pages.
#[derive(Debug)]
pub(super) struct Pages<T>(pub Vec<Vec<T>>);

impl<T: Copy> Pages<T> {
    pub(super) fn push(&mut self, entry: T) {
        match self.0.last_mut() {
            Some(page) if page.len() < PAGE => page.push(entry),
            _ => {
                // The first grows, for the many groups of a window that hold little.
                let mut page = Vec::with_capacity(if self.0.is_empty() { 4 } else { PAGE });
                page.push(entry);
                self.0.push(page);
            }
        }
    }

    fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * PAGE + last.len())
    }

    pub(super) fn get(&self, at: usize) -> &T {
        &self.0[at / PAGE][at % PAGE]
    }

    fn get_mut(&mut self, at: usize) -> &mut T {
        &mut self.0[at / PAGE][at % PAGE]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(Vec::capacity).sum::<usize>() * size_of::<T>()
    }
}

/// Reads 8 bytes at a time from a state whose length was checked.
pub(super) struct Words<'a>(pub std::slice::ChunksExact<'a, u8>);

impl Words<'_> {
    pub(super) fn next(&mut self) -> u64 {
        let word = self
            .0
            .next()
            .map(|word| u64::from_le_bytes(word.try_into().expect("a chunk of 8")));
        word.expect("the length of a state was checked")
    }

    pub(super) fn float(&mut self) -> f64 {
        f64::from_bits(self.next())
    }

    fn key(&mut self) -> TraceKey {
        [self.next(), self.next()]
    }
}

/// A part and its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub part: Part,
    pub group: u32,
}

/// A draw and its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drawn {
    pub draw: Draw,
    pub group: u32,
}

#[derive(Debug)]
pub(super) struct Cells {
    pub cells: Pages<Cell>,
    /// Numbers of cells, by group, trace and weight. Cells without a trace are not looked for.
    places: HashTable<u32>,
    hasher: RandomState,
}

impl Cells {
    fn new() -> Cells {
        Cells {
            cells: Pages(Vec::new()),
            places: HashTable::new(),
            hasher: RandomState::with_seeds(1, 2, 3, 4),
        }
    }

    pub(super) fn add(&mut self, cell: Cell) -> Result<()> {
        let Cells { cells, places, hasher } = self;
        if cell.part.trace == NO_TRACE {
            cells.push(cell);
            return Ok(());
        }
        let hash = |cell: &Cell| hasher.hash_one((cell.group, cell.part.trace, cell.part.weight.to_bits()));
        let same = |other: &Cell| {
            (other.group, other.part.trace, other.part.weight) == (cell.group, cell.part.trace, cell.part.weight)
        };
        if let Some(place) = places.find(hash(&cell), |place| same(cells.get(*place as usize))) {
            let found = &mut cells.get_mut(*place as usize).part;
            found.num += cell.part.num;
            found.den += cell.part.den;
            return Ok(());
        }
        let place = index(cells.len())?;
        cells.push(cell);
        places.insert_unique(hash(&cell), place, |place| hash(cells.get(*place as usize)));
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        self.cells.bytes() + self.places.allocation_size()
    }
}

/// A trace and its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct First {
    pub trace: TraceKey,
    pub group: u32,
}

/// The first traces of each group, [`ENOUGH`] at most. Rows without a trace count as one each.
#[derive(Debug)]
pub(super) struct Firsts {
    firsts: Pages<First>,
    /// Numbers of firsts, by group and trace.
    places: HashTable<u32>,
    /// How many there are of a group.
    counts: Vec<u8>,
    hasher: RandomState,
}

impl Firsts {
    fn new() -> Firsts {
        Firsts {
            firsts: Pages(Vec::new()),
            places: HashTable::new(),
            counts: Vec::new(),
            hasher: RandomState::with_seeds(1, 2, 3, 4),
        }
    }

    pub(super) fn add(&mut self, group: u32, trace: TraceKey) -> Result<()> {
        let Firsts {
            firsts,
            places,
            counts,
            hasher,
        } = self;
        let at = group as usize;
        if counts.len() <= at {
            counts.resize(at + 1, 0);
        }
        if counts[at] >= ENOUGH {
            return Ok(());
        }
        let place = index(firsts.len())?;
        if trace != NO_TRACE {
            let hash = |first: &First| hasher.hash_one((first.group, first.trace));
            let first = First { trace, group };
            let same = |place: &u32| {
                let other = firsts.get(*place as usize);
                (other.group, other.trace) == (group, trace)
            };
            if places.find(hash(&first), same).is_some() {
                return Ok(());
            }
            firsts.push(first);
            places.insert_unique(hash(&first), place, |place| hash(firsts.get(*place as usize)));
        } else {
            firsts.push(First { trace, group });
        }
        counts[at] += 1;
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &First> {
        self.firsts.iter()
    }

    fn bytes(&self) -> usize {
        self.firsts.bytes() + self.places.allocation_size() + self.counts.capacity()
    }
}

pub(super) fn index(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| exec_datafusion_err!("an estimate of more than 2^32 groups, traces or rows"))
}

#[derive(Debug)]
pub(super) enum Store {
    /// Heads say all.
    Heads,
    Cells(Cells),
    Draws(Pages<Drawn>),
    Firsts(Firsts),
    /// Both lists have one entry for each row.
    Traced(Pages<Drawn>, Pages<TraceKey>),
}

impl Store {
    pub(super) fn of(call: &Call) -> Store {
        match (call.kind.what, call.kind.interval) {
            (What::Ratio, false) if call.traced => Store::Firsts(Firsts::new()),
            (What::Sum | What::Ratio, false) => Store::Heads,
            (What::Sum | What::Ratio, true) => Store::Cells(Cells::new()),
            (What::Quantile, false) => Store::Draws(Pages(Vec::new())),
            (What::Quantile, true) => Store::Traced(Pages(Vec::new()), Pages(Vec::new())),
        }
    }

    /// Words of 8 bytes that an entry takes in a state.
    pub(super) fn entry_words(&self) -> usize {
        match self {
            Store::Heads => 0,
            Store::Cells(_) => 5,
            Store::Draws(_) | Store::Firsts(_) => 2,
            Store::Traced(..) => 4,
        }
    }

    pub(super) fn add(&mut self, group: u32, row: Row, weight: f64) -> Result<()> {
        let draw = Drawn {
            draw: Draw { value: row.num, weight },
            group,
        };
        match self {
            Store::Heads => {}
            Store::Cells(cells) => {
                let part = Part {
                    trace: row.trace,
                    weight,
                    num: row.num,
                    den: row.den,
                };
                cells.add(Cell { part, group })?;
            }
            Store::Firsts(firsts) => firsts.add(group, row.trace)?,
            Store::Draws(draws) => draws.push(draw),
            Store::Traced(draws, traces) => {
                draws.push(draw);
                traces.push(row.trace);
            }
        }
        Ok(())
    }

    fn groups(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Store::Heads => Box::new(std::iter::empty()),
            Store::Cells(cells) => Box::new(cells.cells.iter().map(|cell| cell.group)),
            Store::Firsts(firsts) => Box::new(firsts.iter().map(|first| first.group)),
            Store::Draws(draws) | Store::Traced(draws, _) => Box::new(draws.iter().map(|drawn| drawn.group)),
        }
    }

    pub(super) fn encode(&self, at: usize, out: &mut Vec<u8>) {
        let mut words = |words: &[u64]| words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        match self {
            Store::Heads => {}
            Store::Cells(cells) => {
                let Part {
                    trace,
                    weight,
                    num,
                    den,
                } = cells.cells.get(at).part;
                words(&[trace[0], trace[1], weight.to_bits(), num.to_bits(), den.to_bits()]);
            }
            Store::Firsts(firsts) => words(&firsts.firsts.get(at).trace),
            Store::Draws(draws) => {
                let Draw { value, weight } = draws.get(at).draw;
                words(&[value.to_bits(), weight.to_bits()]);
            }
            Store::Traced(draws, traces) => {
                let (Draw { value, weight }, trace) = (draws.get(at).draw, traces.get(at));
                words(&[value.to_bits(), weight.to_bits(), trace[0], trace[1]]);
            }
        }
    }

    pub(super) fn decode(&mut self, group: u32, words: &mut Words<'_>) -> Result<()> {
        match self {
            Store::Heads => {}
            Store::Cells(cells) => {
                let part = Part {
                    trace: words.key(),
                    weight: words.float(),
                    num: words.float(),
                    den: words.float(),
                };
                cells.add(Cell { part, group })?;
            }
            Store::Firsts(firsts) => firsts.add(group, words.key())?,
            Store::Draws(draws) => draws.push(Drawn {
                draw: draw(words),
                group,
            }),
            Store::Traced(draws, traces) => {
                draws.push(Drawn {
                    draw: draw(words),
                    group,
                });
                traces.push(words.key());
            }
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Store::Heads => 0,
            Store::Cells(cells) => cells.bytes(),
            Store::Firsts(firsts) => firsts.bytes(),
            Store::Draws(draws) => draws.bytes(),
            Store::Traced(draws, traces) => draws.bytes() + traces.bytes(),
        }
    }
}

fn draw(words: &mut Words<'_>) -> Draw {
    Draw {
        value: words.float(),
        weight: words.float(),
    }
}

/// Numbers of entries, group by group.
pub(super) struct ByGroup {
    /// Where the entries of group g begin; one more than groups.
    starts: Vec<usize>,
    pub order: Vec<u32>,
}

impl ByGroup {
    /// Of the first `groups` groups.
    pub(super) fn of(store: &Store, groups: usize) -> Result<ByGroup> {
        let mut starts = vec![0; groups + 1];
        let mut entries = 0;
        for group in store.groups() {
            entries += 1;
            if (group as usize) < groups {
                starts[group as usize + 1] += 1;
            }
        }
        index(entries)?;
        for group in 0..groups {
            starts[group + 1] += starts[group];
        }
        let mut next = starts.clone();
        let mut order = vec![0; starts[groups]];
        for (at, group) in store.groups().enumerate() {
            if let Some(next) = next.get_mut(group as usize).filter(|_| (group as usize) < groups) {
                order[*next] = at as u32;
                *next += 1;
            }
        }
        Ok(ByGroup { starts, order })
    }

    pub(super) fn entries(&self, group: usize) -> impl Iterator<Item = usize> {
        let entries = &self.order[self.starts[group]..self.starts[group + 1]];
        entries.iter().map(|at| *at as usize)
    }
}
