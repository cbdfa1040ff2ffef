//! At which moments a counter that is made from deltas gets a sample.
//!
//! The deltas of a slice count at its end. A counter sampled there would lose the first slice of every window: windows are open on the left,
//! and a rate reads the difference of the samples inside. So a counter has a sample 1 ms into each window, with what it had counted before,
//! and one at its end, which makes `increase()` over whole slices the sum of their deltas: exactly where the counter begins with the window, else
//! within 1 ms of extrapolation. Nothing in between is needed for `rate` and `increase` of something that never resets; other functions
//! see a sample per slice.
//!
//! Whatever lies between two of those moments is added up by SQL: into bins that no moment cuts. Windows of a range query cut a step in two at most, where
//! one begins and where one ends: Grafana's `$__rate_interval`, a step and one scrape, has a bin of the scrape and one of what is left of the step. Where
//! the step of a range query is longer than the range of its `rate` or `increase`, slices between windows are not even read: a month at a step of an
//! hour reads a twelfth of it for `[5m]`. A series that has nothing in any window then is not there, and one that has begins with its first slice in one.
//!
//! Bins of whole quarters or hours are read from the tables that have those as slices. Of a single bin, as an instant query has one, the widest table answers what it
//! can, and only what is left at the ends is read from others: a month is some 700 slices a key. Where retention has taken the beginning from those,
//! it is missing.

use tailwater_promql::Need;

use super::Window;

/// Width of a slice, ms.
pub(super) const SLICE_MS: i64 = (tailwater_model::red::SLICE_NS / 1_000_000) as i64;

/// Moments and bins, ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grid {
    /// Bins are numbered from here.
    pub begin_ms: i64,
    /// After so long bins come again.
    pub period_ms: i64,
    /// Where in a period it is cut: bins are then, by turns, so long and as long as what is left. 0 for one bin a period.
    pub cut_ms: i64,
    /// Of a period only the first bin is ever looked at.
    pub apart: bool,
    /// Rising, all within the need's window.
    pub times: Vec<i64>,
}

/// What is to be read of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'t> {
    pub table: &'t str,
    /// Its widest slice, ms.
    pub slice_ms: i64,
    pub windows: Vec<Window>,
}

impl Piece<'_> {
    fn new((table, slice_ms): (&str, i64), windows: Vec<Window>) -> Piece<'_> {
        Piece {
            table,
            slice_ms,
            windows,
        }
    }
}

impl Window {
    /// What lies before a moment, and what behind another.
    fn split(self, before_ms: i64, behind_ms: i64) -> [Window; 2] {
        let before = Window {
            upto_ms: before_ms,
            ..self
        };
        let behind = Window {
            after_ms: behind_ms,
            ..self
        };
        [before, behind]
    }
}

impl Grid {
    /// For what a need is evaluated at; `None` if that is more than `times_max` moments.
    pub fn new(need: &Need, lookback_ms: i64, times_max: usize) -> Option<Grid> {
        let hints = &need.hints;
        let begin = need.from_ms.saturating_sub(1);
        let reads_ends = matches!(hints.function, Some("rate" | "increase"));
        let ranged = hints.range_ms > 0;
        if hints.nested || (ranged && !reads_ends) {
            return Grid::slices(begin, need.to_ms, reads_ends, times_max);
        }
        let reach = if ranged { hints.range_ms } else { lookback_ms };
        let mut times = Vec::new();
        let mut moment = begin.saturating_add(reach);
        while moment <= need.to_ms {
            if times.len() > times_max {
                return None;
            }
            if ranged {
                times.push(moment - reach + 1);
            }
            times.push(moment);
            if hints.step_ms <= 0 {
                break;
            }
            moment += hints.step_ms;
        }
        times.sort_unstable();
        times.dedup();
        let (begin_ms, period_ms, cut_ms) = match hints.step_ms {
            ..=0 => (begin, reach, 0),
            step if ranged => (begin, step, reach % step),
            // Nothing looks at where the look-back begins: bins end with steps.
            step => (begin + reach % step - step, step, 0),
        };
        Some(Grid {
            begin_ms,
            period_ms,
            cut_ms,
            apart: ranged && hints.step_ms > reach,
            times,
        })
    }

    fn slices(begin: i64, end: i64, both_ends: bool, times_max: usize) -> Option<Grid> {
        let most = (end.saturating_sub(begin) / SLICE_MS).saturating_mul(1 + i64::from(both_ends));
        if usize::try_from(most).is_ok_and(|most| most > times_max) {
            return None;
        }
        let anchor = begin.div_euclid(SLICE_MS) * SLICE_MS;
        let mut times = Vec::new();
        let mut moment = anchor;
        while moment <= end {
            times.extend([moment].into_iter().filter(|time| *time > begin));
            times.extend(
                [moment + 1]
                    .into_iter()
                    .filter(|time| both_ends && *time > begin && *time <= end),
            );
            moment += SLICE_MS;
        }
        Some(Grid {
            begin_ms: anchor,
            period_ms: SLICE_MS,
            cut_ms: 0,
            apart: false,
            times,
        })
    }

    /// Which table answers which part of a window: of `coarser`, widest first, and with them how wide their slices are, whatever no bin cuts; of `finest` what
    /// is left at the ends of bins.
    pub fn pieces<'t>(&self, coarser: &[(&'t str, i64)], finest: (&'t str, i64), window: Window) -> Vec<Piece<'t>> {
        if window.upto_ms - self.begin_ms > self.period_ms {
            // Many bins: all of the finest table would be looked through for what is left at the ends of each.
            let begins = |slice_ms: i64| window.after_ms.rem_euclid(slice_ms) == 0;
            let fits = |slice_ms: i64| self.fits(slice_ms) && begins(slice_ms);
            let table = coarser.iter().copied().find(|(_, slice_ms)| fits(*slice_ms));
            return vec![Piece::new(table.unwrap_or(finest), vec![window])];
        }
        let cut_ms = self.begin_ms + self.cut_ms;
        let mut left = vec![window];
        if window.after_ms < cut_ms && cut_ms < window.upto_ms {
            left = window.split(cut_ms, cut_ms).to_vec();
        }
        let mut pieces = Vec::new();
        for table in coarser.iter().copied() {
            let (mut whole, mut rest) = (Vec::new(), Vec::new());
            for window in left {
                let from = window.after_ms + (-window.after_ms).rem_euclid(table.1);
                let to = window.upto_ms - window.upto_ms.rem_euclid(table.1);
                if from < to {
                    whole.push(Window {
                        after_ms: from,
                        upto_ms: to,
                    });
                    rest.extend(window.split(from, to));
                } else {
                    rest.push(window);
                }
            }
            rest.retain(|window| window.after_ms < window.upto_ms);
            pieces.push(Piece::new(table, whole));
            left = rest;
        }
        pieces.push(Piece::new(finest, left));
        pieces.retain(|piece| !piece.windows.is_empty());
        pieces
    }

    /// Whether no bin cuts a slice of this width.
    fn fits(&self, slice_ms: i64) -> bool {
        let cuts = [self.begin_ms, self.period_ms, self.cut_ms];
        cuts.iter().all(|cut| cut.rem_euclid(slice_ms) == 0)
    }

    /// SQL that gives the number of the bin of what counts at `end`, us, after the beginning.
    pub fn bin_sql(&self, end: &str) -> String {
        let (after, period) = (self.after_sql(end), us(self.period_ms));
        match self.cut_ms {
            0 => format!("{after} / {period}"),
            _ if self.apart => format!("{after} / {period} * 2"),
            cut => format!(
                "{after} / {period} * 2 + case when {after} % {period} < {} then 0 else 1 end",
                us(cut)
            ),
        }
    }

    /// SQL that is true of what is ever looked at, if that is not all.
    pub fn read_sql(&self, end: &str) -> Option<String> {
        let (after, period, cut) = (self.after_sql(end), us(self.period_ms), us(self.cut_ms));
        self.apart.then(|| format!("{after} % {period} < {cut}"))
    }

    /// How far into the first bin. Nothing counts before it, so there are no negative remainders.
    fn after_sql(&self, end: &str) -> String {
        format!("({end} - ({}) - 1)", us(self.begin_ms))
    }

    /// When a bin ends, ms; it begins with the end of the one before it, which does not belong to it.
    pub fn end_ms(&self, bin: i64) -> i64 {
        if self.cut_ms == 0 {
            return self.begin_ms + (bin + 1) * self.period_ms;
        }
        let period = self.begin_ms + bin.div_euclid(2) * self.period_ms;
        match bin.rem_euclid(2) {
            0 => period + self.cut_ms,
            _ => period + self.period_ms,
        }
    }
}

/// As times are stored: a division less for each row.
fn us(ms: i64) -> i64 {
    ms.saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tailwater_promql::{LOOKBACK_MS, Params, Query};

    use super::*;

    fn grid(text: &str, params: Params) -> Grid {
        let query = Query::parse(text).unwrap();
        Grid::new(&query.plan(params).unwrap().needs()[0], LOOKBACK_MS, 1000).unwrap()
    }

    #[test]
    fn every_window_has_its_ends() {
        let check = |text: &str, params: Params, (begin_ms, period_ms, cut_ms): (i64, i64, i64), times: &[i64]| {
            let found = grid(text, params);
            let expected = Grid {
                begin_ms,
                period_ms,
                cut_ms,
                apart: false,
                times: times.to_vec(),
            };
            assert_eq!(found, expected, "{text}");
        };
        let at = Params::instant(1_000_000);
        check("x", at, (700_000, 300_000, 0), &[1_000_000]);
        check("increase(x[1m])", at, (940_000, 60_000, 0), &[940_001, 1_000_000]);
        check(
            "increase(x[1m] offset 1m)",
            at,
            (880_000, 60_000, 0),
            &[880_001, 940_000],
        );
        check("increase(x[1m] @ 100)", at, (40_000, 60_000, 0), &[40_001, 100_000]);
        let range = Params::range(1_000_000, 1_060_000, 30_000);
        check("x", range, (670_000, 30_000, 0), &[1_000_000, 1_030_000, 1_060_000]);
        let ends = [940_001, 970_001, 1_000_000, 1_000_001, 1_030_000, 1_060_000];
        check("rate(x[1m])", range, (940_000, 30_000, 0), &ends);
        // A step and one scrape.
        check(
            "rate(x[40s])",
            range,
            (960_000, 30_000, 10_000),
            &[960_001, 990_001, 1_000_000, 1_020_001, 1_030_000, 1_060_000],
        );
        // A step that cuts slices.
        let odd = Params::range(1_000_000, 1_007_000, 7_000);
        check(
            "rate(x[10s])",
            odd,
            (990_000, 7_000, 3_000),
            &[990_001, 997_001, 1_000_000, 1_007_000],
        );
        let apart = |text| grid(text, Params::range(1_000_000, 2_000_000, 120_000)).apart;
        assert!(apart("rate(x[1m])"));
        assert!(!apart("changes(x[1m])") && !apart("x") && !apart("rate(x[2m])"));
        // What looks at the samples inside sees every slice.
        check(
            "changes(x[25s])",
            at,
            (970_000, 10_000, 0),
            &[980_000, 990_000, 1_000_000],
        );
        let nested = grid("max_over_time(rate(x[20s])[40s:20s])", at);
        assert_eq!((nested.period_ms, nested.cut_ms), (SLICE_MS, 0));
        assert_eq!(&nested.times[..4], &[940_001, 950_000, 950_001, 960_000]);
    }

    #[test]
    fn more_moments_than_may_be_are_not_made() {
        let check = |text: &str, params: Params, times_max: usize, fits: bool| {
            let query = Query::parse(text).unwrap();
            let need = query.plan(params).unwrap().needs()[0].clone();
            assert_eq!(Grid::new(&need, LOOKBACK_MS, times_max).is_some(), fits, "{text}");
        };
        let at = Params::instant(4_000_000_000_000);
        check("changes(x[100y])", at, 16 << 20, false);
        check("max_over_time(rate(x[1m])[100y:1m])", at, 16 << 20, false);
        check("increase(x[100y])", at, 16 << 20, true);
        check("changes(x[1h])", at, 360, true);
        check("changes(x[1h])", at, 359, false);
        let range = Params::range(4_000_000_000_000, 4_000_000_100_000, 1000);
        check("rate(x[1m])", range, 1000, true);
        check("rate(x[1m])", range, 100, false);
    }

    #[test]
    fn bins_lie_between_moments() {
        let check = |text: &str, ends: &[i64], bin_sql: &str, read_sql: Option<&str>| {
            let grid = grid(text, Params::range(7_200_000, 14_400_000, 3_600_000));
            let found: Vec<i64> = (-1..3).map(|bin| grid.end_ms(bin)).collect();
            assert_eq!(found, ends, "{text}");
            assert_eq!(grid.bin_sql("e"), bin_sql);
            assert_eq!(grid.read_sql("e").as_deref(), read_sql);
        };
        check(
            "rate(x[1h])",
            &[3_600_000, 7_200_000, 10_800_000, 14_400_000],
            "(e - (3600000000) - 1) / 3600000000",
            None,
        );
        check(
            "rate(x[3610s])",
            &[3_590_000, 3_600_000, 7_190_000, 7_200_000],
            "(e - (3590000000) - 1) / 3600000000 * 2 + case when (e - (3590000000) - 1) % 3600000000 < 10000000 then 0 else 1 end",
            None,
        );
        check(
            "rate(x[15m])",
            &[6_300_000, 7_200_000, 9_900_000, 10_800_000],
            "(e - (6300000000) - 1) / 3600000000 * 2",
            Some("(e - (6300000000) - 1) % 3600000000 < 900000000"),
        );
    }

    #[test]
    fn the_widest_slices_that_no_bin_cuts_are_read() {
        let check = |text: &str, params: Params, expected: &[(&str, &[(i64, i64)])]| {
            let query = Query::parse(text).unwrap();
            let need = query.plan(params).unwrap().needs()[0].clone();
            let all = Window {
                after_ms: need.from_ms - 1,
                upto_ms: need.to_ms,
            };
            let coarser = [("hours", 3_600_000), ("quarters", 900_000)];
            let grid = Grid::new(&need, LOOKBACK_MS, 1 << 20).unwrap();
            let pieces = grid.pieces(&coarser, ("slices", 60_000), all);
            let minutes = |window: &Window| (window.after_ms / 60_000, window.upto_ms / 60_000);
            let pieces = pieces
                .iter()
                .map(|piece| (piece.table, piece.windows.iter().map(minutes).collect::<Vec<_>>()));
            let pieces: Vec<_> = pieces.collect();
            let found: Vec<_> = pieces.iter().map(|(table, windows)| (*table, &windows[..])).collect();
            assert_eq!(found, expected, "{text}");
        };
        let hourly = Params::range(7_200_000, 14_400_000, 3_600_000);
        check("rate(x[1h])", hourly, &[("hours", &[(60, 240)])]);
        check("rate(x[2h])", hourly, &[("hours", &[(0, 240)])]);
        check("rate(x[15m])", hourly, &[("quarters", &[(105, 240)])]);
        check("rate(x[75m])", hourly, &[("quarters", &[(45, 240)])]);
        check("rate(x[5m])", hourly, &[("slices", &[(115, 240)])]);
        check("rate(x[61m])", hourly, &[("slices", &[(59, 240)])]);
        let quarters = Params::range(7_200_000, 14_400_000, 900_000);
        check("rate(x[1h])", quarters, &[("quarters", &[(60, 240)])]);
        // An instant query has no step: all is one bin.
        let at = Params::instant(17_400_000);
        let ends: [(&str, &[(i64, i64)]); 3] = [
            ("hours", &[(60, 240)]),
            ("quarters", &[(240, 285)]),
            ("slices", &[(50, 60), (285, 290)]),
        ];
        check("increase(x[4h])", at, &ends);
        check(
            "increase(x[170m])",
            at,
            &[
                ("hours", &[(120, 240)]),
                ("quarters", &[(240, 285)]),
                ("slices", &[(285, 290)]),
            ],
        );
        check(
            "increase(x[20m])",
            at,
            &[("quarters", &[(270, 285)]), ("slices", &[(285, 290)])],
        );
        check("increase(x[4m])", at, &[("slices", &[(286, 290)])]);
        check("x", at, &[("slices", &[(285, 290)])]);
        // What looks at the samples inside sees every slice.
        check("changes(x[4h])", at, &[("slices", &[(50, 290)])]);
    }
}
