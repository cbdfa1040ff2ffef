//! Levels of `red`: which hours a derived table answers, and which only `red` itself does.
//!
//! `red` has slices of 10 s and, once they are old, of a minute instead: a row lies in one of them, never in both. The derived
//! tables (`red_15m`, `red_1h`) repeat it in wider slices, hour by hour as hours are over. Every file says which version of `red` its hours
//! stand for (tag `tailwater.hours`), and every file of `red` in which version its hours last grew. So two snapshots are enough
//! to know which hours still hold: late rows outdate an hour by being committed.
//!
//! Guarantees: over the ranges of [`uncovered`] read from `red`, and everything else read from the derived table, each row of `red` at its snapshot
//! counts once, whichever of the two snapshots is newer. Of days that retention removed from `red` the derived table keeps what it has.
//! Leaves out: making derived tables (`maintain`), frames of the outbox, which are above `red`'s version and are read beside both.

use std::collections::{BTreeMap, BTreeSet};

use tailwater_model::table::Table;

use crate::lake::{HOUR_US, Hours, Snapshot};

/// More ranges than this are joined, nearest first: a condition with hundreds of them would cost more than reading more of `red`.
const RANGES_MAX: usize = 48;

/// Application id under which `red` tells the first date (days since 1970) that retention has not removed.
pub(crate) fn expired_before_app_id(table: Table) -> String {
    format!("expired-before/{}", table.name())
}

/// The first date that retention has not removed from the table.
pub(crate) fn expired_before(snapshot: &Snapshot) -> i64 {
    snapshot.txn(&expired_before_app_id(snapshot.table)).unwrap_or(i64::MIN)
}

/// What both tables say of a day.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Day {
    /// In which version of `red` each hour last grew.
    pub changed: Hours,
    /// Which version of `red` each hour of the derived table stands for.
    pub covers: Hours,
}

impl Day {
    /// Whether the derived table's rows of this hour are those that `red` has at `version`, or both have none.
    pub fn holds(&self, hour: usize, version: u64) -> bool {
        // Made of a later version, it has rows that are not in this one.
        self.changed.0[hour] <= self.covers.0[hour] && self.covers.0[hour] <= version
    }
}

/// Days that `red` still has; `None` if a file does not say of its hours (another program wrote it), so that nothing can be told.
pub(crate) fn days(red: &Snapshot, derived: &Snapshot) -> Option<BTreeMap<i32, Day>> {
    let first = expired_before(red);
    let mut days: BTreeMap<i32, Day> = BTreeMap::new();
    for file in red.files() {
        days.entry(file.date).or_default().changed.absorb(&file.hours?);
    }
    for file in derived.files() {
        // The files of a day are made and replaced together and say the same.
        days.entry(file.date).or_default().covers.absorb(&file.hours?);
    }
    days.retain(|date, _| i64::from(*date) >= first);
    Some(days)
}

/// Times, as ranges in microseconds since 1970, ascending, which only `red` answers. `None` for all of them.
pub fn uncovered(red: &Snapshot, derived: &Snapshot) -> Option<Vec<(i64, i64)>> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for (date, day) in days(red, derived)? {
        for hour in (0..day.changed.0.len()).filter(|hour| !day.holds(*hour, red.version)) {
            let from = i64::from(date) * 24 * HOUR_US + hour as i64 * HOUR_US;
            match ranges.last_mut() {
                Some(last) if last.1 == from => last.1 += HOUR_US,
                _ => ranges.push((from, from + HOUR_US)),
            }
        }
    }
    Some(joined(ranges))
}

/// Dates on which the derived table lacks something that `red` has.
pub(crate) fn uncovered_dates(red: &Snapshot, derived: &Snapshot) -> Option<BTreeSet<i32>> {
    let days = days(red, derived)?;
    let lacks = |day: &Day| (0..day.changed.0.len()).any(|hour| !day.holds(hour, red.version));
    Some(
        days.iter()
            .filter(|(_, day)| lacks(day))
            .map(|(date, _)| *date)
            .collect(),
    )
}

/// At most [`RANGES_MAX`] ranges, those with the smallest gaps between them made one. `red` has all that lies in the gaps.
fn joined(ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    if ranges.len() <= RANGES_MAX {
        return ranges;
    }
    let mut gaps: Vec<(i64, usize)> = (1..ranges.len())
        .map(|at| (ranges[at].0 - ranges[at - 1].1, at))
        .collect();
    gaps.sort_unstable();
    let closed: BTreeSet<usize> = gaps[..ranges.len() - RANGES_MAX].iter().map(|gap| gap.1).collect();
    let mut out: Vec<(i64, i64)> = Vec::with_capacity(RANGES_MAX);
    for (at, range) in ranges.into_iter().enumerate() {
        match out.last_mut() {
            Some(last) if closed.contains(&at) => last.1 = range.1,
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_holds_for_what_it_was_made_of() {
        let check = |changed: u64, covers: u64, version: u64, expected: bool| {
            let day = Day {
                changed: Hours([changed; 24]),
                covers: Hours([covers; 24]),
            };
            assert_eq!(day.holds(3, version), expected, "{changed} {covers} {version}");
        };
        check(0, 0, 9, true);
        check(4, 0, 9, false);
        check(4, 4, 9, true);
        check(4, 7, 9, true);
        check(8, 7, 9, false);
        // The derived table was looked at later than `red`.
        check(4, 10, 9, false);
        check(0, 10, 9, false);
    }

    #[test]
    fn the_nearest_ranges_are_joined() {
        let many: Vec<(i64, i64)> = (0..RANGES_MAX as i64 + 2).map(|at| (at * 10, at * 10 + 1)).collect();
        let mut near = many.clone();
        near[7].1 = 79;
        near[20].1 = 208;
        let joined = joined(near);
        assert_eq!(joined.len(), RANGES_MAX);
        assert!(joined.contains(&(70, 81)) && joined.contains(&(200, 211)));
        assert_eq!(super::joined(many[..5].to_vec()), many[..5]);
    }
}
