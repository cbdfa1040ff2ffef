//! Operators between scalars and vectors (promql/engine.go, VectorBinop and its neighbours).

use std::sync::Arc;

use ahash::AHashMap;

use super::call::owned;
use super::{Evaluator, Held, Steady, Steps, Track, merged};
use crate::error::Error;
use crate::expr::{BinaryOp, Cardinality, Matching, Node};
use crate::histogram::{Added, Histogram, IncompatibleBuckets, Keep, ResetHint};
use crate::labels::Labels;
use crate::notes::{Notes, Operation, Position};
use crate::number::{is_stale, stale};
use crate::value::Point;

/// `a op b`, and whether a comparison holds.
fn floats(op: BinaryOp, a: f64, b: f64) -> (f64, bool) {
    match op {
        BinaryOp::Add => (a + b, true),
        BinaryOp::Sub => (a - b, true),
        BinaryOp::Mul => (a * b, true),
        BinaryOp::Div => (a / b, true),
        BinaryOp::Mod => (a % b, true),
        BinaryOp::Pow => (a.powf(b), true),
        BinaryOp::Atan2 => (a.atan2(b), true),
        BinaryOp::Equal => (a, a == b),
        BinaryOp::NotEqual => (a, a != b),
        BinaryOp::Greater => (a, a > b),
        BinaryOp::Less => (a, a < b),
        BinaryOp::GreaterEqual => (a, a >= b),
        BinaryOp::LessEqual => (a, a <= b),
        // These never come here: set operators look at presence only, floats cannot be trimmed.
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless | BinaryOp::TrimUpper | BinaryOp::TrimLower => (a, false),
    }
}

/// True if the result is no longer what the metric's name says.
fn changes_meaning(op: BinaryOp) -> bool {
    !op.is_comparison() && !op.is_set() && !op.is_trim()
}

fn word(held: Held<'_>) -> &'static str {
    match held {
        Held::Float(_) => "float",
        Held::Histogram(_) => "histogram",
    }
}

/// One element against another: value and whether a comparison holds, or `None` with a note of why there is nothing.
fn element(op: BinaryOp, a: Held<'_>, b: Held<'_>, at: Position, notes: &mut Notes) -> Option<(Point, bool)> {
    let histogram = |histogram: Histogram| Some((Point::Histogram(Arc::new(histogram.compact())), true));
    match (op, a, b) {
        (_, Held::Float(a), Held::Float(b)) if !op.is_trim() => {
            let (value, keep) = floats(op, a, b);
            Some((Point::Float(value), keep))
        }
        (BinaryOp::Mul, Held::Float(factor), Held::Histogram(of))
        | (BinaryOp::Mul, Held::Histogram(of), Held::Float(factor)) => histogram(Histogram::clone(of).times(factor)),
        (BinaryOp::Div, Held::Histogram(of), Held::Float(by)) => histogram(Histogram::clone(of).divided(by)),
        (BinaryOp::TrimUpper, Held::Histogram(of), Held::Float(at)) => Some((
            Point::Histogram(Arc::new(Histogram::clone(of).trimmed(at, Keep::Below))),
            true,
        )),
        (BinaryOp::TrimLower, Held::Histogram(of), Held::Float(at)) => Some((
            Point::Histogram(Arc::new(Histogram::clone(of).trimmed(at, Keep::Above))),
            true,
        )),
        (BinaryOp::Add | BinaryOp::Sub, Held::Histogram(a), Held::Histogram(b)) => {
            let mut result = Histogram::clone(a);
            let (operation, added) = if op == BinaryOp::Add {
                (Operation::Addition, result.add(b))
            } else {
                (Operation::Subtraction, result.subtract(b))
            };
            let Added {
                reset_collision,
                bounds_reconciled,
            } = match added {
                Ok(added) => added,
                Err(IncompatibleBuckets) => {
                    notes.incompatible_layout(op.text(), at);
                    return None;
                }
            };
            if op == BinaryOp::Sub {
                result.reset = ResetHint::Gauge;
            }
            if reset_collision {
                notes.reset_collision(operation, at);
            }
            if bounds_reconciled {
                notes.bounds_reconciled(operation, at);
            }
            histogram(result)
        }
        (BinaryOp::Equal | BinaryOp::NotEqual, Held::Histogram(a), Held::Histogram(b)) => Some((
            Point::Histogram(Arc::clone(a)),
            a.same_data(b) == (op == BinaryOp::Equal),
        )),
        _ => {
            notes.incompatible_types(word(a), op.text(), word(b), at);
            None
        }
    }
}

impl Evaluator<'_> {
    #[allow(clippy::too_many_arguments)] // A binary expression has this many parts.
    pub(super) fn binary(
        &self,
        node: &Node,
        op: BinaryOp,
        left: &Node,
        right: &Node,
        matching: &Matching,
        returns_bool: bool,
        steps: Steps,
    ) -> Result<Steady, Error> {
        let (left, right) = (self.eval(left, steps)?, self.eval(right, steps)?);
        match (left, right) {
            (Steady::Scalar(_), Steady::Scalar(_)) if op.is_trim() || op.is_set() => Err(Error::execution(format!(
                "operator {} is not defined between scalars",
                op.text()
            ))),
            (Steady::Scalar(mut left), Steady::Scalar(right)) => {
                for (a, b) in left.iter_mut().zip(right) {
                    let (value, keep) = floats(op, *a, b);
                    *a = if op.is_comparison() {
                        f64::from(u8::from(keep))
                    } else {
                        value
                    };
                }
                Ok(Steady::Scalar(left))
            }
            (Steady::Vector(tracks), Steady::Scalar(scalar)) => Ok(Steady::Vector(self.with_scalar(
                op,
                tracks,
                &scalar,
                false,
                returns_bool,
                node.at,
            ))),
            (Steady::Scalar(scalar), Steady::Vector(tracks)) => Ok(Steady::Vector(self.with_scalar(
                op,
                tracks,
                &scalar,
                true,
                returns_bool,
                node.at,
            ))),
            (Steady::Vector(left), Steady::Vector(right)) if op.is_set() => {
                set(op, left, right, matching, steps).map(Steady::Vector)
            }
            (Steady::Vector(left), Steady::Vector(right)) => {
                let pairing = Pairing {
                    op,
                    matching,
                    returns_bool,
                    steps,
                    at: node.at,
                };
                self.vectors(&pairing, left, right).map(Steady::Vector)
            }
            _ => Err(Error::execution(
                "binary expression must contain only scalar and instant vector types",
            )),
        }
    }

    fn with_scalar(
        &self,
        op: BinaryOp,
        tracks: Vec<Track>,
        scalar: &[f64],
        scalar_first: bool,
        returns_bool: bool,
        at: Position,
    ) -> Vec<Track> {
        let mut results = Vec::with_capacity(tracks.len());
        for mut track in tracks {
            if changes_meaning(op) || returns_bool {
                track.drop_name = true;
            }
            let histograms = track.histograms.take();
            for (value, scalar) in track
                .values
                .iter_mut()
                .zip(scalar)
                .filter(|(value, _)| !is_stale(**value))
            {
                let own = *value;
                if op.is_trim() {
                    self.notes
                        .borrow_mut()
                        .incompatible_types("float", op.text(), "float", at);
                    *value = stale();
                    continue;
                }
                let (result, keep) = if scalar_first {
                    floats(op, *scalar, own)
                } else {
                    floats(op, own, *scalar)
                };
                *value = if returns_bool {
                    f64::from(u8::from(keep))
                } else if !keep {
                    stale()
                } else if op.is_comparison() {
                    // A comparison keeps the vector's element, on whichever side it stands.
                    own
                } else {
                    result
                };
            }
            for (step, histogram) in histograms.iter().flatten().enumerate() {
                let Some(histogram) = histogram else { continue };
                let (own, other) = (Held::Histogram(histogram), Held::Float(scalar[step]));
                let (a, b) = if scalar_first { (other, own) } else { (own, other) };
                if let Some((point, _)) = element(op, a, b, at, &mut self.notes.borrow_mut()) {
                    track.set(step, point);
                }
            }
            if !track.is_empty() {
                results.push(track);
            }
        }
        results
    }

    fn vectors(&self, pairing: &Pairing<'_>, left: Vec<Track>, right: Vec<Track>) -> Result<Vec<Track>, Error> {
        let Pairing { matching, steps, .. } = *pairing;
        let swapped = matching.cardinality == Cardinality::OneToMany;
        // From here on the right side is the one, the left side may be the many.
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        // Fillings do not change sides with the vectors: what Prometheus' own scripts expect, whatever the words say.
        let (fill_many, fill_one) = (matching.fill_left, matching.fill_right);
        let mut ordinals = Ordinals::default();
        let of_many: Vec<usize> = many.iter().map(|track| ordinals.of(track, matching)).collect();
        let of_one: Vec<usize> = one.iter().map(|track| ordinals.of(track, matching)).collect();
        let mut candidates: Vec<Vec<usize>> = vec![Vec::new(); ordinals.known.len()];
        for (number, ordinal) in of_one.iter().enumerate() {
            candidates[*ordinal].push(number);
        }
        let filled = fill_many.is_some() || fill_one.is_some();
        check_one(pairing, &many, &one, &candidates, filled)?;

        let mut results = Results {
            pairing,
            at: AHashMap::new(),
            tracks: Vec::new(),
            taken: AHashMap::new(),
        };
        // Which samples of the one side found a partner; asked for only when the others are to be filled.
        let mut paired = vec![Vec::new(); if fill_many.is_some() { candidates.len() } else { 0 }];
        for (number, track) in many.iter().enumerate() {
            self.hold(steps.count)?;
            let ordinal = of_many[number];
            for partner in &candidates[ordinal] {
                let partner = &one[*partner];
                results.pair(self, ordinal, track, partner, swapped)?;
                if let Some(paired) = paired.get_mut(ordinal) {
                    paired.resize(steps.count, false);
                    for (step, paired) in paired.iter_mut().enumerate() {
                        *paired |= track.has(step) && partner.has(step);
                    }
                }
            }
            if let Some(fill) = fill_one {
                let missing = |step: usize| !candidates[ordinal].iter().any(|partner| one[*partner].has(step));
                let partner = filling(track, matching, fill, steps, missing);
                results.pair(self, ordinal, track, &partner, swapped)?;
                // A filled pair is a pair too, but its one side is no sample: nothing to remember.
            }
        }
        if let Some(fill) = fill_many {
            for (number, partner) in one.iter().enumerate() {
                self.hold(steps.count)?;
                let ordinal = of_one[number];
                let missing = |step: usize| !paired[ordinal].get(step).copied().unwrap_or(false);
                let track = filling(partner, matching, fill, steps, missing);
                results.pair(self, ordinal, &track, partner, swapped)?;
            }
        }
        let mut tracks = results.tracks;
        tracks.retain(|track| !track.is_empty());
        merged(tracks)
    }
}

/// A binary operation between vectors.
struct Pairing<'a> {
    op: BinaryOp,
    matching: &'a Matching,
    returns_bool: bool,
    steps: Steps,
    at: Position,
}

/// Numbers for the labels that decide about matching.
#[derive(Default)]
struct Ordinals {
    known: AHashMap<Labels, usize>,
}

impl Ordinals {
    fn of(&mut self, track: &Track, matching: &Matching) -> usize {
        let next = self.known.len();
        *self
            .known
            .entry(track.labels.matching(matching.on, &matching.labels))
            .or_insert(next)
    }
}

/// A stand-in for the missing side at the steps where it is missing.
fn filling(present: &Track, matching: &Matching, fill: f64, steps: Steps, missing: impl Fn(usize) -> bool) -> Track {
    let labels = present.labels.matching(matching.on, &matching.labels);
    let mut track = Track::new(labels, false, steps.count);
    for step in 0..steps.count {
        if present.has(step) && missing(step) {
            track.values[step] = fill;
        }
    }
    track
}

/// Two samples of the one side that match the same are an error, at any step that has samples to match.
fn check_one(
    pairing: &Pairing<'_>,
    many: &[Track],
    one: &[Track],
    candidates: &[Vec<usize>],
    filled: bool,
) -> Result<(), Error> {
    if candidates.iter().all(|candidates| candidates.len() < 2) {
        return Ok(());
    }
    let matching = pairing.matching;
    for step in 0..pairing.steps.count {
        if !filled && !many.iter().any(|track| track.has(step)) {
            continue;
        }
        for candidates in candidates.iter().filter(|candidates| candidates.len() > 1) {
            let mut present = candidates
                .iter()
                .map(|number| &one[*number])
                .filter(|track| track.has(step));
            if let (Some(first), Some(second)) = (present.next(), present.next()) {
                let side = if matching.cardinality == Cardinality::OneToMany {
                    "left"
                } else {
                    "right"
                };
                let group = first.labels.matching(matching.on, &matching.labels);
                let (mut first, mut second) = (first.labels.to_string(), second.labels.to_string());
                if first > second {
                    std::mem::swap(&mut first, &mut second);
                }
                return Err(Error::execution(format!(
                    "found duplicate series for the match group {group} on the {side} hand-side of the operation: \
                     [{first}, {second}];many-to-many matching not allowed: matching labels must be unique on one side"
                )));
            }
        }
    }
    Ok(())
}

/// Results by what they are matched by and their labels.
struct Results<'a> {
    pairing: &'a Pairing<'a>,
    at: AHashMap<(usize, Labels), usize>,
    tracks: Vec<Track>,
    /// Steps at which a group (one to one) or a result (many to one) has had its pair.
    taken: AHashMap<usize, Vec<bool>>,
}

impl Results<'_> {
    fn pair(
        &mut self,
        evaluator: &Evaluator<'_>,
        ordinal: usize,
        many: &Track,
        one: &Track,
        swapped: bool,
    ) -> Result<(), Error> {
        let Pairing {
            op,
            matching,
            returns_bool,
            steps,
            at,
        } = *self.pairing;
        let both = |step: usize| many.has(step) && one.has(step);
        if !(0..steps.count).any(both) {
            return Ok(());
        }
        let labels = self.pairing.labels(&many.labels, &one.labels);
        let one_to_one = matching.cardinality == Cardinality::OneToOne;
        let next = self.tracks.len();
        let number = *self.at.entry((ordinal, labels.clone())).or_insert(next);
        if number == next {
            let drop_name = returns_bool || many.drop_name;
            self.tracks.push(Track::new(labels, drop_name, steps.count));
        }
        let taken = self.taken.entry(if one_to_one { ordinal } else { number }).or_default();
        taken.resize(steps.count, false);
        let track = &mut self.tracks[number];
        for (step, taken) in taken.iter_mut().enumerate() {
            let (Some(of_many), Some(of_one)) = (many.get(step), one.get(step)) else {
                continue;
            };
            let (a, b) = if swapped { (of_one, of_many) } else { (of_many, of_one) };
            let result = match (a, b) {
                (Held::Float(a), Held::Float(b)) if !op.is_trim() => {
                    let (value, keep) = floats(op, a, b);
                    Some((Point::Float(value), keep))
                }
                _ => element(op, a, b, at, &mut evaluator.notes.borrow_mut()),
            };
            let Some((point, keep)) = result else { continue };
            if std::mem::replace(taken, true) {
                return Err(Error::execution(if one_to_one {
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
                } else {
                    "multiple matches for labels: grouping labels must ensure unique matches"
                }));
            }
            if returns_bool {
                track.values[step] = f64::from(u8::from(keep));
            } else if keep {
                track.set(step, point);
            }
        }
        Ok(())
    }
}

impl Pairing<'_> {
    /// The labels of a result (resultMetric).
    fn labels(&self, many: &Labels, one: &Labels) -> Labels {
        let mut labels = many.clone();
        if changes_meaning(self.op) {
            labels = labels.without_metadata();
        }
        let names = &self.matching.labels;
        if self.matching.cardinality == Cardinality::OneToOne {
            let on = self.matching.on;
            labels = labels.retain(|name| names.iter().any(|other| other == name) == on);
        }
        for name in &self.matching.include {
            labels = labels.with(name, one.get(name));
        }
        labels
    }
}

/// `and`, `or`, `unless`: presence per step of what matches.
fn set(
    op: BinaryOp,
    left: Vec<Track>,
    right: Vec<Track>,
    matching: &Matching,
    steps: Steps,
) -> Result<Vec<Track>, Error> {
    let mut ordinals = Ordinals::default();
    let of_left: Vec<usize> = left.iter().map(|track| ordinals.of(track, matching)).collect();
    let of_right: Vec<usize> = right.iter().map(|track| ordinals.of(track, matching)).collect();
    // `or` asks what the left has, the other two what the right has.
    let (asked, of_asked) = if op == BinaryOp::Or {
        (&left, &of_left)
    } else {
        (&right, &of_right)
    };
    let mut present: Vec<Vec<bool>> = vec![Vec::new(); ordinals.known.len()];
    for (track, ordinal) in asked.iter().zip(of_asked) {
        let present = &mut present[*ordinal];
        present.resize(steps.count, false);
        for (step, present) in present.iter_mut().enumerate() {
            *present |= track.has(step);
        }
    }
    let filtered = |tracks: Vec<Track>, of: Vec<usize>, wanted: bool| {
        tracks.into_iter().zip(of).filter_map(move |(track, ordinal)| {
            let present = &present[ordinal];
            let keep = |step: usize| present.get(step).copied().unwrap_or(false) == wanted;
            if (0..steps.count).all(keep) {
                return Some(track);
            }
            let mut kept = Track::new(track.labels.clone(), track.drop_name, steps.count);
            for step in (0..steps.count).filter(|step| keep(*step)) {
                if let Some(held) = track.get(step) {
                    kept.set(step, owned(held));
                }
            }
            (!kept.is_empty()).then_some(kept)
        })
    };
    if op == BinaryOp::Or {
        let added = filtered(right, of_right, false);
        return merged(left.into_iter().chain(added).collect());
    }
    Ok(filtered(left, of_left, op == BinaryOp::And).collect())
}
