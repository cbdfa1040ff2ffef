//! Arithmetic of burn rates by themselves: for alert thresholds, and for saying in words what a rate means.
//!
//! A burn rate of 1 spends the budget in exactly the SLO's window. Formulas: SRE workbook, chapter 5. Times are in one unit, whichever.

/// How long a full budget lasts at a burn rate: `window / burn`.
#[must_use]
pub fn time_to_spend(window: f64, burn: f64) -> f64 {
    window / burn
}

/// Share of the budget that a burn rate spends in some time: `burn * over / window`.
#[must_use]
pub fn spent(burn: f64, over: f64, window: f64) -> f64 {
    burn * over / window
}

/// The burn rate that spends a share of the budget in some time.
#[must_use]
pub fn threshold(share: f64, over: f64, window: f64) -> f64 {
    share * window / over
}

/// How long a constant share of bad events takes to lift the mean over a window of length `long`, clean before, above a burn rate.
/// `None` when it never does.
#[must_use]
pub fn detection(long: f64, burn: f64, budget: f64, bad_share: f64) -> Option<f64> {
    let needed = burn * budget;
    (bad_share > 0.0 && bad_share >= needed).then(|| long * needed / bad_share)
}

/// The highest burn rate there can be, when everything is bad: `1 / budget`. A threshold above it never fires.
#[must_use]
pub fn highest(budget: f64) -> f64 {
    1.0 / budget
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(ours: f64, theirs: f64) {
        assert!((ours - theirs).abs() <= 0.005 * theirs.abs(), "{ours}, not {theirs}");
    }

    #[test]
    fn numbers_of_the_workbook() {
        let (hour, day) = (1.0 / 24.0, 1.0);
        let minute = hour / 60.0;
        // Table 5-4: burn rates and when the budget of 30 days at 99.9 % is gone.
        for (burn, days) in [(1.0, 30.0), (2.0, 15.0), (10.0, 3.0), (1000.0, 43.2 * minute)] {
            close(time_to_spend(30.0, burn), days);
        }
        // 1: an alert on the error rate over 10 minutes sees a full outage after 0.6 s; 2: over 36 hours after 2 min 10 s.
        close(detection(600.0, 1.0, 0.001, 1.0).unwrap_or(0.0), 0.6);
        close(detection(36.0 * 3600.0, 1.0, 0.001, 1.0).unwrap_or(0.0), 129.6);
        // 4: 5 % of the budget in an hour is a burn rate of 36; 35 never fires and empties the budget in 20.6 hours.
        close(threshold(0.05, hour, 30.0), 36.0);
        assert_eq!(detection(3600.0, 36.0, 0.001, 0.035), None);
        close(time_to_spend(720.0, 35.0), 20.57);
        // Printed as 140 %: an hour in which everything fails.
        close(spent(highest(0.001), hour, 30.0), 1.389);
        close(spent(highest(0.001), 5.0 * minute, 30.0), 0.1157);
        // At 90 % a full outage spends 1.4 % an hour, so 14.4 is out of reach.
        close(spent(highest(0.1), hour, 30.0), 0.0139);
        assert!(highest(0.1) < threshold(0.02, hour, 30.0));
        // 99.999 % leaves 26 s a month.
        close(30.0 * day * 86_400.0 * 0.00001, 25.9);
    }

    #[test]
    fn thresholds_of_the_tiers() {
        // design/slo.md 2b: window; 2 % in 1 h, 5 % in 6 h, 10 % in 1 d, 10 % in 3 d.
        for (window, tiers) in [
            (7.0, [3.36, 1.4, 0.7, 0.2333]),
            (28.0, [13.44, 5.6, 2.8, 0.9333]),
            (30.0, [14.4, 6.0, 3.0, 1.0]),
            (90.0, [43.2, 18.0, 9.0, 3.0]),
        ] {
            let shares = [(0.02, 1.0 / 24.0), (0.05, 0.25), (0.1, 1.0), (0.1, 3.0)];
            for ((share, over), expected) in shares.into_iter().zip(tiers) {
                close(threshold(share, over, window), expected);
            }
        }
        // Full outage at 99.95 %: workbook and seed tiers.
        for (long, burn, seconds) in [
            (3600.0, 14.4, 25.9),
            (21_600.0, 6.0, 64.8),
            (86_400.0, 3.0, 129.6),
            (259_200.0, 1.0, 129.6),
            (1800.0, 2.0, 1.8),
            (300.0, 4.0, 0.6),
        ] {
            close(detection(long, burn, 0.0005, 1.0).unwrap_or(0.0), seconds);
        }
    }
}
