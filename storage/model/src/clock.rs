//! A clock for what waits: traces for their decision, calls for their other side, records for a replay.

/// The clock that waiting is measured by: arrivals, but that it goes on where the system's clock is set back. Else nothing would be due until that
/// has caught up. From the same arrivals it comes to the same times.
#[derive(Debug, Default)]
pub struct Clock {
    last_ns: u64,
    /// By how much it is ahead of arrivals.
    pub ahead_ns: u64,
}

/// Records that came at about the same time stand in the log in any order; more than this is a clock that was set back.
const STEP_NS: u64 = 2_000_000_000;

impl Clock {
    /// The time of what came then.
    pub fn read(&mut self, arrival_ns: u64) -> u64 {
        if arrival_ns.saturating_add(STEP_NS) < self.last_ns {
            self.ahead_ns += self.last_ns - arrival_ns;
            self.last_ns = arrival_ns;
        }
        self.last_ns = self.last_ns.max(arrival_ns);
        arrival_ns + self.ahead_ns
    }
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
}
