//! A clock for what waits: traces for their decision, calls for their other side, records for a replay.

/// The clock that waiting is measured by: arrivals, but that it goes on where the system's clock is set back. Else nothing would be due until that
/// has caught up. From the same arrivals it comes to the same times.
///
/// Beside a steady clock ([`Clock::begin`], [`Clock::read_beside`]) it does not follow where the system's clock is set forward either. Else all that
/// waits would be due at once, and all that is remembered too old. A replay has none: its records' own times hold.
#[derive(Debug, Default)]
pub struct Clock {
    last_ns: u64,
    /// By how much it is ahead of arrivals; behind, where negative.
    ahead_ns: i64,
    /// By how much it was ahead of the steady clock at most: a record is read some time after it has come.
    lead_ns: Option<i64>,
}

/// Records that came at about the same time stand in the log in any order; more than this is a clock that was set.
const STEP_NS: u64 = 2_000_000_000;

impl Clock {
    /// The time of what came then.
    pub fn read(&mut self, arrival_ns: u64) -> u64 {
        if arrival_ns.saturating_add(STEP_NS) < self.last_ns {
            self.ahead_ns = self.ahead_ns.saturating_add_unsigned(self.last_ns - arrival_ns);
            self.last_ns = arrival_ns;
        }
        self.last_ns = self.last_ns.max(arrival_ns);
        arrival_ns.saturating_add_signed(self.ahead_ns)
    }

    /// From now on there is a steady clock: `arrival_ns` is what the system's says now, and `steady_ns` what it says.
    pub fn begin(&mut self, arrival_ns: u64, steady_ns: u64) {
        self.lead_ns = Some(lead_ns(arrival_ns.saturating_add_signed(self.ahead_ns), steady_ns));
    }

    /// [`Clock::read`], but that the time goes on by no more than what has passed by the steady clock, and 2 s.
    pub fn read_beside(&mut self, arrival_ns: u64, steady_ns: u64) -> u64 {
        let ahead_ns = self.ahead_ns;
        let now_ns = self.read(arrival_ns);
        let lead_ns = lead_ns(now_ns, steady_ns);
        let most_ns = match self.lead_ns {
            // Set back just now, it goes on from where it was.
            Some(most_ns) if self.ahead_ns == ahead_ns => most_ns,
            _ => lead_ns,
        };
        let beyond_ns = lead_ns.saturating_sub(most_ns);
        if beyond_ns <= STEP_NS as i64 {
            self.lead_ns = Some(lead_ns.max(most_ns));
            return now_ns;
        }
        self.ahead_ns -= beyond_ns;
        arrival_ns.saturating_add_signed(self.ahead_ns)
    }

    /// The time when the system's clock says `arrival_ns`, without reading it; the steady clock bounds it as in [`Clock::read_beside`].
    pub fn at(&self, arrival_ns: u64, steady_ns: Option<u64>) -> u64 {
        let now_ns = arrival_ns.saturating_add_signed(self.ahead_ns);
        match (self.lead_ns, steady_ns) {
            (Some(lead_ns), Some(steady_ns)) => {
                now_ns.min(steady_ns.saturating_add(STEP_NS).saturating_add_signed(lead_ns))
            }
            _ => now_ns,
        }
    }

    /// What the system's clock says at a time of this one.
    pub fn arrival(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add_signed(-self.ahead_ns)
    }
}

fn lead_ns(now_ns: u64, steady_ns: u64) -> i64 {
    now_ns.wrapping_sub(steady_ns) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_goes_on_when_the_clock_is_set_back() {
        const S: u64 = 1_000_000_000;
        let check = |arrivals: &[u64], expected: &[u64]| {
            let mut clock = Clock::default();
            let read: Vec<u64> = arrivals.iter().map(|arrival| clock.read(arrival * S) / S).collect();
            assert_eq!(read, expected, "{arrivals:?}");
        };
        check(&[100, 101, 102], &[100, 101, 102]);
        // Out of order, as requests are.
        check(&[100, 99, 101], &[100, 99, 101]);
        // An hour back, and an hour back once more.
        check(&[7200, 3600, 3601, 3605, 5, 8], &[7200, 7200, 7201, 7205, 7205, 7208]);
        // What was set back is set right.
        check(&[7200, 3600, 3601, 7205], &[7200, 7200, 7201, 10_805]);
    }

    #[test]
    fn waiting_does_not_jump_when_the_clock_is_set_forward() {
        const S: u64 = 1_000_000_000;
        // Arrivals and the steady clock, of which 1 s is 1000 s at the beginning.
        let check = |read: &[(u64, u64)], expected: &[u64]| {
            let mut clock = Clock::default();
            clock.begin(1000 * S, S);
            let times: Vec<u64> = read
                .iter()
                .map(|(arrival, steady)| {
                    let at = clock.at(arrival * S, Some(steady * S)) / S;
                    let time = clock.read_beside(arrival * S, steady * S) / S;
                    assert!(at <= time + 2, "{at} {time}");
                    assert_eq!(clock.arrival(time * S), arrival * S);
                    time
                })
                .collect();
            assert_eq!(times, expected, "{read:?}");
        };
        check(&[(1000, 1), (1001, 2), (1060, 61)], &[1000, 1001, 1060]);
        // An hour forward, and an hour forward once more.
        check(&[(1000, 1), (4601, 2), (4603, 4), (8205, 6)], &[1000, 1001, 1003, 1005]);
        // One record more that came before.
        check(&[(1000, 1), (4601, 2), (1001, 2), (4602, 3)], &[1000, 1001, 1001, 1002]);
        // What was read late is no step, whatever lies between; neither is what was waited for.
        check(
            &[(1000, 100), (1050, 100), (1098, 100), (1500, 501)],
            &[1000, 1050, 1098, 1500],
        );
        // Less than 2 s is let pass.
        check(&[(1000, 1), (1002, 1)], &[1000, 1002]);
    }

    #[test]
    fn waiting_goes_on_when_the_clock_is_set_back_and_set_right() {
        const S: u64 = 1_000_000_000;
        let mut clock = Clock::default();
        clock.read(7000 * S);
        clock.begin(7200 * S, S);
        let times = [(7200, 1), (3601, 2), (3605, 6), (7207, 8), (7208, 9)]
            .map(|(arrival, steady)| clock.read_beside(arrival * S, steady * S) / S);
        assert_eq!(times, [7200, 7200, 7204, 7206, 7207]);
    }
}
