//! Many sketches in flat memory: one per group of an aggregation.
//!
//! A group is a fixed-size record; its buckets are a window of one shared arena. A group of few values keeps pairs of index and
//! count, sorted (sparse, up to 64 of them); beyond, or where it takes no more room, one count for every bucket of its range (dense). Adding a
//! value is then an index computation and one addition; memory is asked for only when a group meets a value that its window has no place for.
//! Windows come in power-of-two sizes and freed ones are used again, so the arena is at most about twice what the groups need.

use super::encoding::{
    EMPTY, FLOAT_COUNTS, INFINITIES, INTEGER_MAX, Malformed, NEGATIVES, VERSION, put_varint, zigzag,
};
use super::index::index;
use super::view::{Buckets, View};
use super::{BUCKETS_MAX, SCALE, SCALE_MIN};

/// Smallest window, in buckets.
const UNIT: usize = 16;
const CLASSES: usize = (BUCKETS_MAX / UNIT).trailing_zeros() as usize + 1;

/// One sketch per group, groups numbered from 0.
#[derive(Debug, Clone, Default)]
pub struct Sketches {
    groups: Vec<Group>,
    arena: Arena,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    zero: f64,
    below_all: f64,
    above_all: f64,
    sum: f64,
    min: f64,
    max: f64,
    positive: Window,
    negative: Window,
    scale: i8,
    any: bool,
}

/// `16 << class` numbers at `start * 16` of the arena.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: u32,
    /// Dense: the bucket of the first count. Sparse: how many pairs there are.
    first: i32,
    class: u8,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// No buckets, no place in the arena.
    Empty,
    /// Pairs of index and count, by ascending index.
    Sparse,
    /// Counts of consecutive buckets.
    Dense,
}

/// Largest window of pairs: 64 of them.
const SPARSE_CLASS_MAX: u8 = 3;

#[derive(Debug, Clone, Default)]
struct Arena {
    counts: Vec<f64>,
    /// Starts of freed windows, by class.
    free: [Vec<u32>; CLASSES],
}

const NEW_WINDOW: Window = Window {
    start: 0,
    first: 0,
    class: 0,
    form: Form::Empty,
};
const NEW_GROUP: Group = Group {
    zero: 0.0,
    below_all: 0.0,
    above_all: 0.0,
    sum: 0.0,
    min: f64::INFINITY,
    max: f64::NEG_INFINITY,
    positive: NEW_WINDOW,
    negative: NEW_WINDOW,
    scale: SCALE,
    any: false,
};

impl Sketches {
    /// No groups yet.
    pub fn new() -> Sketches {
        Sketches::default()
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Makes at least `groups` groups, new ones empty.
    pub fn resize(&mut self, groups: usize) {
        if groups > self.groups.len() {
            self.groups.resize(groups, NEW_GROUP);
        }
    }

    /// Whether the group has counted anything.
    pub fn any(&self, group: usize) -> bool {
        self.groups[group].any
    }

    /// Bytes held, the same whatever the groups hold of them.
    pub fn size(&self) -> usize {
        let free: usize = self
            .arena
            .free
            .iter()
            .map(|starts| starts.capacity() * size_of::<u32>())
            .sum();
        self.groups.capacity() * size_of::<Group>() + self.arena.counts.capacity() * size_of::<f64>() + free
    }

    /// Counts `value` `weight` times in `group`; see the module head of `exphist` for what does not count.
    #[inline]
    pub fn record(&mut self, group: usize, value: f64, weight: f64) {
        if value.is_nan() || !(weight > 0.0 && weight.is_finite()) {
            return;
        }
        let Sketches { groups, arena } = self;
        let group = &mut groups[group];
        group.any = true;
        if value.is_infinite() {
            *(if value > 0.0 {
                &mut group.above_all
            } else {
                &mut group.below_all
            }) += weight;
            return;
        }
        group.sum += value * weight;
        group.min = group.min.min(value);
        group.max = group.max.max(value);
        if value > 0.0 {
            let at = index(value) >> (SCALE - group.scale);
            group.add(arena, Sign::Positive, at, weight);
        } else if value < 0.0 {
            let at = index(-value) >> (SCALE - group.scale);
            group.add(arena, Sign::Negative, at, weight);
        } else {
            group.zero += weight;
        }
    }

    /// Adds an encoded sketch to `group`. On an error a part of it may have been added.
    pub fn merge(&mut self, group: usize, view: View<'_>) -> Result<(), Malformed> {
        let Sketches { groups, arena } = self;
        let group = &mut groups[group];
        if view.scale < group.scale {
            group.downscale(arena, (group.scale - view.scale) as u32);
        }
        let mut negatives = view.negatives()?;
        if let Some(buckets) = &mut negatives {
            group.add_all(arena, Sign::Negative, buckets, view.scale)?;
        }
        let mut positives = view.positives(negatives)?;
        if let Some(buckets) = &mut positives {
            group.add_all(arena, Sign::Positive, buckets, view.scale)?;
            group.zero += view.zero;
            group.below_all += view.below_all;
            group.above_all += view.above_all;
            group.sum += view.sum;
            group.min = group.min.min(view.min);
            group.max = group.max.max(view.max);
            group.any = true;
        }
        Ok(())
    }

    /// Appends the encoded form of `group` to `out`.
    pub fn encode(&self, group: usize, out: &mut Vec<u8>) {
        let group = &self.groups[group];
        if !group.any {
            out.extend_from_slice(&[VERSION, EMPTY, group.scale as u8]);
            return;
        }
        let (positives, negatives) = (self.arena.tally(group.positive), self.arena.tally(group.negative));
        let integers = [group.zero, group.below_all, group.above_all].into_iter().all(is_whole)
            && positives.all_whole
            && negatives.all_whole;
        let infinities = group.below_all > 0.0 || group.above_all > 0.0;
        let has_negatives = negatives.buckets > 0;
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.push(VERSION);
        out.push(flag(!integers, FLOAT_COUNTS) | flag(infinities, INFINITIES) | flag(has_negatives, NEGATIVES));
        out.push(group.scale as u8);
        for value in [group.sum, group.min, group.max] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        put_count(out, group.zero, integers);
        if infinities {
            put_count(out, group.below_all, integers);
            put_count(out, group.above_all, integers);
        }
        if has_negatives {
            self.arena.put(group.negative, negatives.buckets, integers, out);
        }
        self.arena.put(group.positive, positives.buckets, integers, out);
    }

    /// Forgets the first `n` groups; the others move down.
    pub fn drop_first(&mut self, n: usize) {
        if n >= self.groups.len() {
            *self = Sketches::default();
            return;
        }
        for group in self.groups.drain(..n) {
            self.arena.release(group.positive);
            self.arena.release(group.negative);
        }
    }
}

fn put_count(out: &mut Vec<u8>, count: f64, integers: bool) {
    if integers {
        put_varint(out, count as u64);
    } else {
        out.extend_from_slice(&count.to_le_bytes());
    }
}

/// Whether a count can be stored as an integer.
fn is_whole(count: f64) -> bool {
    count < INTEGER_MAX && count as u64 as f64 == count
}

/// What is to be known of a window's buckets before the first is written.
struct Tally {
    buckets: u64,
    all_whole: bool,
}

#[derive(Clone, Copy)]
enum Sign {
    Positive,
    Negative,
}

impl Group {
    fn window(&mut self, sign: Sign) -> &mut Window {
        match sign {
            Sign::Positive => &mut self.positive,
            Sign::Negative => &mut self.negative,
        }
    }

    #[inline]
    fn add(&mut self, arena: &mut Arena, sign: Sign, at: i32, weight: f64) {
        let window = *self.window(sign);
        let slot = at.wrapping_sub(window.first) as u32 as usize;
        if window.form == Form::Dense && slot < UNIT << window.class {
            arena.counts[window.start as usize * UNIT + slot] += weight;
        } else if !arena.add_to_pair(window, at, weight) {
            self.add_outside(arena, sign, at, weight);
        }
    }

    /// Makes room for bucket `at`, by a larger window or, beyond [`BUCKETS_MAX`], by a lower scale.
    #[cold]
    fn add_outside(&mut self, arena: &mut Arena, sign: Sign, at: i32, weight: f64) {
        let window = *self.window(sign);
        let (mut low, mut high) = (at, at);
        if let Some((first, last)) = arena.occupied(window) {
            (low, high) = (low.min(first), high.max(last));
        }
        let mut shift = 0;
        while (high >> shift) - (low >> shift) >= BUCKETS_MAX as i32 {
            shift += 1;
        }
        if shift > 0 {
            self.downscale(arena, shift);
            // The window may have moved; what it holds and `at` now fit together.
            return self.add(arena, sign, at >> shift, weight);
        }
        let dense_fits = ((high - low) as usize) < (UNIT << (window.class + 1));
        let moved = match window.form {
            Form::Empty => arena.sparse(0, [(at, weight)].into_iter()),
            Form::Sparse if (window.first as usize) < pairs_max(window.class) => {
                arena.insert_pair(window, at, weight);
                Window {
                    first: window.first + 1,
                    ..window
                }
            }
            Form::Sparse if window.class < SPARSE_CLASS_MAX && !dense_fits => {
                let larger = arena.larger_sparse(window);
                arena.insert_pair(larger, at, weight);
                Window {
                    first: larger.first + 1,
                    ..larger
                }
            }
            Form::Sparse | Form::Dense => {
                let moved = arena.resize(window, low, high, at);
                arena.counts[moved.start as usize * UNIT + (at - moved.first) as usize] += weight;
                moved
            }
        };
        *self.window(sign) = moved;
    }

    fn add_all(
        &mut self,
        arena: &mut Arena,
        sign: Sign,
        buckets: &mut Buckets<'_>,
        scale: i8,
    ) -> Result<(), Malformed> {
        while let Some((at, count)) = buckets.next()? {
            // The scale of the group may fall on the way.
            self.add(arena, sign, at >> (scale - self.scale), count);
        }
        Ok(())
    }

    fn downscale(&mut self, arena: &mut Arena, shift: u32) {
        self.scale -= shift as i8;
        debug_assert!(self.scale >= SCALE_MIN);
        self.positive = arena.halve(self.positive, shift);
        self.negative = arena.halve(self.negative, shift);
    }
}

/// How many pairs a window of this class holds.
fn pairs_max(class: u8) -> usize {
    (UNIT << class) / 2
}

impl Arena {
    /// The numbers of a window that mean something.
    fn numbers(&self, window: Window) -> &[f64] {
        let start = window.start as usize * UNIT;
        match window.form {
            Form::Empty => &[],
            Form::Sparse => &self.counts[start..start + 2 * window.first as usize],
            Form::Dense => &self.counts[start..start + (UNIT << window.class)],
        }
    }

    /// Hands out the buckets of a window, by ascending index; those of a dense one may have no count.
    #[inline]
    fn each(&self, window: Window, mut each: impl FnMut(i32, f64)) {
        let numbers = self.numbers(window);
        match window.form {
            Form::Dense => {
                let buckets = numbers.iter().zip(window.first..);
                buckets.for_each(|(count, at)| each(at, *count));
            }
            Form::Sparse | Form::Empty => numbers.chunks_exact(2).for_each(|pair| each(pair[0] as i32, pair[1])),
        }
    }

    fn tally(&self, window: Window) -> Tally {
        let (mut buckets, mut all_whole) = (0, true);
        self.each(window, |_, count| {
            buckets += u64::from(count > 0.0);
            all_whole &= is_whole(count);
        });
        Tally { buckets, all_whole }
    }

    /// Appends the buckets that have a count, of which there are so many.
    fn put(&self, window: Window, buckets: u64, integers: bool, out: &mut Vec<u8>) {
        put_varint(out, buckets);
        let mut next = None;
        self.each(window, |at, count| {
            if count > 0.0 {
                put_varint(out, next.map_or_else(|| zigzag(at), |next: i32| (at - next) as u64));
                put_count(out, count, integers);
                next = Some(at + 1);
            }
        });
    }

    /// First and last bucket of a window that have a count.
    fn occupied(&self, window: Window) -> Option<(i32, i32)> {
        let numbers = self.numbers(window);
        if window.form == Form::Sparse {
            return Some((*numbers.first()? as i32, numbers[numbers.len() - 2] as i32));
        }
        let first = numbers.iter().position(|count| *count > 0.0)?;
        let last = numbers.iter().rposition(|count| *count > 0.0)?;
        Some((window.first + first as i32, window.first + last as i32))
    }

    /// Which pair of a sparse window has this index, or would have.
    fn pair(&self, window: Window, at: i32) -> Result<usize, usize> {
        let pairs = self.numbers(window);
        let (mut low, mut high) = (0, pairs.len() / 2);
        while low < high {
            let middle = (low + high) / 2;
            match (pairs[2 * middle] as i32).cmp(&at) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    fn add_to_pair(&mut self, window: Window, at: i32, weight: f64) -> bool {
        if window.form != Form::Sparse {
            return false;
        }
        match self.pair(window, at) {
            Ok(pair) => {
                self.counts[window.start as usize * UNIT + 2 * pair + 1] += weight;
                true
            }
            Err(_) => false,
        }
    }

    /// Puts a pair into a window that has room for it.
    fn insert_pair(&mut self, window: Window, at: i32, weight: f64) {
        let place = self.pair(window, at).unwrap_or_else(|place| place);
        let start = window.start as usize * UNIT;
        let (from, end) = (start + 2 * place, start + 2 * window.first as usize);
        self.counts.copy_within(from..end, from + 2);
        self.counts[from] = f64::from(at);
        self.counts[from + 1] = weight;
    }

    /// A window of these pairs, which ascend.
    fn sparse(&mut self, class: u8, pairs: impl Iterator<Item = (i32, f64)>) -> Window {
        let mut window = Window {
            form: Form::Sparse,
            ..self.allocate(class, 0)
        };
        let start = window.start as usize * UNIT;
        for (at, count) in pairs {
            let pair = start + 2 * window.first as usize;
            self.counts[pair] = f64::from(at);
            self.counts[pair + 1] = count;
            window.first += 1;
        }
        window
    }

    /// The same pairs with twice the room.
    fn larger_sparse(&mut self, old: Window) -> Window {
        let new = self.allocate(old.class + 1, 0);
        let from = old.start as usize * UNIT;
        self.counts
            .copy_within(from..from + 2 * old.first as usize, new.start as usize * UNIT);
        self.release(old);
        Window {
            form: Form::Sparse,
            first: old.first,
            ..new
        }
    }

    /// A dense window of the same counts that reaches from `low` to `high`, with room on the side where `at` came in.
    fn resize(&mut self, old: Window, low: i32, high: i32, at: i32) -> Window {
        let span = (high - low + 1) as usize;
        let class = class_of((span + span / 2).min(BUCKETS_MAX));
        let spare = (UNIT << class) - span;
        let below = if at == low { spare - spare / 4 } else { spare / 4 };
        let new = self.allocate(class, low - below as i32);
        self.add_window(old, new, 0);
        self.release(old);
        new
    }

    /// The same counts `shift` scales lower.
    fn halve(&mut self, old: Window, shift: u32) -> Window {
        let Some((low, high)) = self.occupied(old) else {
            self.release(old);
            return NEW_WINDOW;
        };
        let (low, high) = (low >> shift, high >> shift);
        let new = self.allocate(class_of((high - low + 1) as usize), low);
        self.add_window(old, new, shift);
        self.release(old);
        new
    }

    /// Adds what `old` counts to the dense window `new`.
    fn add_window(&mut self, old: Window, new: Window, shift: u32) {
        let to = new.start as usize * UNIT;
        let from = old.start as usize * UNIT;
        let steps = match old.form {
            Form::Empty => 0,
            Form::Sparse => old.first as usize,
            Form::Dense => UNIT << old.class,
        };
        for step in 0..steps {
            let (at, count) = match old.form {
                Form::Dense => (old.first + step as i32, self.counts[from + step]),
                _ => (self.counts[from + 2 * step] as i32, self.counts[from + 2 * step + 1]),
            };
            if count > 0.0 {
                self.counts[to + ((at >> shift) - new.first) as usize] += count;
            }
        }
    }

    /// A dense window of zeros.
    fn allocate(&mut self, class: u8, first: i32) -> Window {
        let len = UNIT << class;
        let start = match self.free[class as usize].pop() {
            Some(start) => {
                let from = start as usize * UNIT;
                self.counts[from..from + len].fill(0.0);
                start
            }
            None => {
                let start = u32::try_from(self.counts.len() / UNIT).expect("an arena stays below 512 GiB");
                self.counts.resize(self.counts.len() + len, 0.0);
                start
            }
        };
        Window {
            start,
            first,
            class,
            form: Form::Dense,
        }
    }

    fn release(&mut self, window: Window) {
        if window.form != Form::Empty {
            self.free[window.class as usize].push(window.start);
        }
    }
}

/// The smallest class of this many numbers.
fn class_of(numbers: usize) -> u8 {
    numbers.div_ceil(UNIT).next_power_of_two().trailing_zeros() as u8
}
