//! Whether the clock may say what is too old. Pure.
//!
//! A clock that is wrong for a minute, by a month, would cost every row in one commit and every file that is not committed yet. So after a
//! leap it has to stand by what it says for an hour; at a start too, unless the newest file is of about the same day. A table that is quiet
//! for long only waits.

use super::{DAY_MS, HOUR_MS};
use crate::lake::Snapshot;

/// Longest step from one run to the next: the longest pause that can be set, and an hour.
const STEP_MS: i64 = 25 * HOUR_MS;
/// So long a clock has to run on before it is believed.
const HELD_MS: i64 = HOUR_MS;
/// A clock is right about the day if it is this near to the newest file's.
const NEAR_DAYS: i64 = 2;

/// The clock as the runs of a table have seen it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    last_ms: Option<i64>,
    since_ms: i64,
    has_leapt: bool,
}

impl Clock {
    /// A run begins.
    pub fn read(&mut self, now_ms: i64) {
        let goes_on = |last: i64| (-STEP_MS..=STEP_MS).contains(&now_ms.saturating_sub(last));
        if !self.last_ms.is_some_and(goes_on) {
            self.has_leapt = self.last_ms.is_some();
            self.since_ms = now_ms;
        }
        self.last_ms = Some(now_ms);
    }

    /// Whether what it says now is believed of the table.
    pub fn is_believed(&self, table: &Snapshot) -> bool {
        self.believes(table.files().iter().map(|file| file.date).max())
    }

    fn believes(&self, newest: Option<i32>) -> bool {
        let Some(now_ms) = self.last_ms else { return false };
        let is_near = |day: i32| (now_ms.div_euclid(DAY_MS) - i64::from(day)).abs() <= NEAR_DAYS;
        now_ms - self.since_ms >= HELD_MS || !self.has_leapt && newest.is_some_and(is_near)
    }

    /// One that has stood by this time for long.
    #[cfg(test)]
    pub fn held(now_ms: i64) -> Clock {
        Clock {
            last_ms: Some(now_ms),
            since_ms: now_ms - HELD_MS,
            has_leapt: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_has_to_last_for_an_hour() {
        const DAY: i32 = 20_779;
        const MINUTE_MS: i64 = 60_000;
        let day = |days: i64| (i64::from(DAY) + days) * DAY_MS;
        let check = |runs: &[i64], newest: Option<i32>, expected: bool| {
            let mut clock = Clock::default();
            runs.iter().for_each(|now| clock.read(*now));
            assert_eq!(clock.believes(newest), expected, "{runs:?} {newest:?}");
        };
        check(&[day(0)], Some(DAY), true);
        check(&[day(2)], Some(DAY), true);
        // Started with a wrong clock, or in a table that is quiet: wait and see.
        check(&[day(3)], Some(DAY), false);
        check(&[day(3), day(3) + MINUTE_MS], Some(DAY), false);
        check(&[day(3), day(3) + HOUR_MS], Some(DAY), true);
        check(&[day(0)], None, false);
        // Wrong by a month for some minutes; rows that came meanwhile have the wrong day too.
        let month = [day(0), day(0) + MINUTE_MS, day(30), day(30) + 5 * MINUTE_MS];
        check(&month, Some(DAY), false);
        check(&month, Some(DAY + 30), false);
        check(
            &[month.to_vec(), vec![day(0) + 10 * MINUTE_MS]].concat(),
            Some(DAY),
            false,
        );
        check(&[month.to_vec(), vec![day(30) + HOUR_MS]].concat(), Some(DAY), true);
        // A run a day is the least that can be set, and clocks are set back by seconds all the time.
        check(&[day(0), day(1), day(2), day(3)], Some(DAY), true);
        check(&[day(0), day(0) + 2 * HOUR_MS, day(0) + 2 * HOUR_MS - 1000], None, true);
    }
}
