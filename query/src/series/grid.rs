//! At which moments a counter that is made from deltas gets a sample.
//!
//! The deltas of a slice count at its end. A counter sampled there would lose the first slice of every window: windows are open on the left,
//! and a rate reads the difference of the samples inside. So a counter has a sample 1 ms into each window, with what it had counted before,
//! and one at its end, which makes `increase()` over whole slices the sum of their deltas: exactly where the counter begins with the window, else
//! within 1 ms of extrapolation. Nothing in between is needed for `rate` and `increase` of something that never resets; other functions
//! see a sample per slice.
//!
//! Whatever lies between two of those moments is added up by SQL: into bins that no moment cuts. Where the step of a range query is longer than the range
//! of its `rate` or `increase`, slices between windows are not even read: a month at a step of an hour reads a twelfth of it for `[5m]`. A series that
//! has nothing in any window then is not there, and one that has begins with its first slice in one.

use tailwater_promql::Need;

/// Width of a slice, ms.
pub(super) const SLICE_MS: i64 = (tailwater_model::red::SLICE_NS / 1_000_000) as i64;

/// Moments and bins, ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grid {
    /// A bin is `(anchor + k * bin, anchor + (k + 1) * bin]`.
    pub anchor_ms: i64,
    pub bin_ms: i64,
    /// Rising, all within the need's window.
    pub times: Vec<i64>,
    /// Set where only what lies in windows is ever looked at, and they leave something out.
    pub windows: Option<Windows>,
}

/// Windows that do not touch: `(begin + k * step, begin + k * step + range]`, ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    pub begin_ms: i64,
    pub range_ms: i64,
    pub step_ms: i64,
}

impl Grid {
    /// For what a need is evaluated at.
    pub fn new(need: &Need, lookback_ms: i64) -> Grid {
        let hints = &need.hints;
        let begin = need.from_ms.saturating_sub(1);
        let reads_ends = matches!(hints.function, Some("rate" | "increase"));
        if hints.nested || (hints.range_ms > 0 && !reads_ends) {
            return Grid::slices(begin, need.to_ms, reads_ends);
        }
        let reach = if hints.range_ms > 0 {
            hints.range_ms
        } else {
            lookback_ms
        };
        let mut times = Vec::new();
        let mut moment = begin.saturating_add(reach);
        while moment <= need.to_ms {
            if hints.range_ms > 0 {
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
        let apart = hints.range_ms > 0 && hints.step_ms > hints.range_ms;
        let windows = apart.then_some(Windows {
            begin_ms: begin,
            range_ms: hints.range_ms,
            step_ms: hints.step_ms,
        });
        let bin = gcd(reach, hints.step_ms.max(0));
        if bin < SLICE_MS {
            return Grid {
                times,
                windows,
                ..Grid::slices(begin, begin, false)
            };
        }
        Grid {
            anchor_ms: begin,
            bin_ms: bin,
            times,
            windows,
        }
    }

    fn slices(begin: i64, end: i64, both_ends: bool) -> Grid {
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
        Grid {
            anchor_ms: anchor,
            bin_ms: SLICE_MS,
            times,
            windows: None,
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tailwater_promql::{LOOKBACK_MS, Params, Query};

    use super::*;

    fn grid(text: &str, params: Params) -> Grid {
        let query = Query::parse(text).unwrap();
        Grid::new(&query.plan(params).unwrap().needs()[0], LOOKBACK_MS)
    }

    #[test]
    fn every_window_has_its_ends() {
        let check = |text: &str, params: Params, anchor_ms: i64, bin_ms: i64, times: &[i64]| {
            let found = grid(text, params);
            let expected = Grid {
                anchor_ms,
                bin_ms,
                times: times.to_vec(),
                windows: None,
            };
            assert_eq!(found, expected, "{text}");
        };
        let at = Params::instant(1_000_000);
        check("x", at, 700_000, 300_000, &[1_000_000]);
        check("increase(x[1m])", at, 940_000, 60_000, &[940_001, 1_000_000]);
        check("increase(x[1m] offset 1m)", at, 880_000, 60_000, &[880_001, 940_000]);
        check("increase(x[1m] @ 100)", at, 40_000, 60_000, &[40_001, 100_000]);
        let range = Params::range(1_000_000, 1_060_000, 30_000);
        check("x", range, 700_000, 30_000, &[1_000_000, 1_030_000, 1_060_000]);
        let ends = [940_001, 970_001, 1_000_000, 1_000_001, 1_030_000, 1_060_000];
        check("rate(x[1m])", range, 940_000, 30_000, &ends);
        // A step that cuts slices: bins are slices then.
        let odd = Params::range(1_000_000, 1_007_000, 7_000);
        check(
            "rate(x[10s])",
            odd,
            990_000,
            10_000,
            &[990_001, 997_001, 1_000_000, 1_007_000],
        );
        let apart = grid("rate(x[1m])", Params::range(1_000_000, 2_000_000, 120_000));
        let windows = Windows {
            begin_ms: 940_000,
            range_ms: 60_000,
            step_ms: 120_000,
        };
        assert_eq!(apart.windows, Some(windows));
        assert_eq!(
            grid("changes(x[1m])", Params::range(1_000_000, 2_000_000, 120_000)).windows,
            None
        );
        // What looks at the samples inside sees every slice.
        check("changes(x[25s])", at, 970_000, 10_000, &[980_000, 990_000, 1_000_000]);
        let nested = grid("max_over_time(rate(x[20s])[40s:20s])", at);
        assert_eq!(nested.bin_ms, SLICE_MS);
        assert_eq!(&nested.times[..4], &[940_001, 950_000, 950_001, 960_000]);
    }
}
