//! One timer for all waiting traces: an entry costs 12 bytes, setting it a push, and moving a deadline later costs nothing.
//!
//! An entry that has become superfluous is not looked for: whoever set it tells, when it fires, whether it still means something.

/// Width of a slot, ns: well below a tick, as due traces wait for one anyway.
const SLOT_NS: u64 = 1 << 27;
/// Slots: 137 s. What lies beyond fires then and is set again.
const SLOTS: u64 = 1024;

/// Names what waits: a place, and which of its successive owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub place: u32,
    pub seq: u32,
}

#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<(Entry, u32)>>,
    /// Slot number of the time that was reached; all before have fired.
    now: u64,
    entries: usize,
}

impl Wheel {
    pub fn new(now_ns: u64) -> Wheel {
        Wheel {
            slots: vec![Vec::new(); SLOTS as usize],
            now: now_ns / SLOT_NS,
            entries: 0,
        }
    }

    /// Fires at the first advance to `at_ns` or later; answers the number it fires with. An entry that is set anew and would fire with the
    /// number `set` that it has already is left as it is: it fires once.
    pub fn set(&mut self, at_ns: u64, entry: Entry, set: Option<u32>) -> u32 {
        let slot = at_ns.div_ceil(SLOT_NS).clamp(self.now + 1, self.now + SLOTS - 1);
        let number = slot as u32;
        if set != Some(number) {
            self.slots[(slot % SLOTS) as usize].push((entry, number));
            self.entries += 1;
        }
        number
    }

    /// Moves on to `now_ns` and appends what fires to `fired`, with the numbers of [`Wheel::set`]. A time before the last does nothing.
    pub fn advance(&mut self, now_ns: u64, fired: &mut Vec<(Entry, u32)>) {
        let to = (now_ns / SLOT_NS).max(self.now);
        let first = if to - self.now > SLOTS { to - SLOTS } else { self.now };
        let before = fired.len();
        for slot in first + 1..=to {
            fired.append(&mut self.slots[(slot % SLOTS) as usize]);
        }
        self.entries -= fired.len() - before;
        self.now = to;
    }

    /// Takes out the entries that mean nothing any more.
    pub fn retain(&mut self, mut is_live: impl FnMut(Entry, u32) -> bool) {
        for slot in &mut self.slots {
            slot.retain(|(entry, number)| is_live(*entry, *number));
        }
        self.entries = self.slots.iter().map(Vec::len).sum();
    }

    pub fn bytes(&self) -> usize {
        self.entries * size_of::<(Entry, u32)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn everything_fires_once_and_never_early(times in prop::collection::vec(0u64..400, 1..50), steps in prop::collection::vec(1u64..200, 1..20)) {
            let second = 1_000_000_000;
            let mut wheel = Wheel::new(0);
            for (place, at) in times.iter().enumerate() {
                let entry = Entry { place: place as u32, seq: 0 };
                let number = wheel.set(at * second, entry, None);
                prop_assert_eq!(wheel.set(at * second, entry, Some(number)), number);
            }
            let (mut now, mut seen) = (0, vec![0; times.len()]);
            for step in steps.iter().chain([&1000, &1000, &1000, &1000]) {
                now += step;
                let mut fired = Vec::new();
                wheel.advance(now * second, &mut fired);
                for (entry, _) in fired {
                    let at = times[entry.place as usize];
                    if at > now {
                        // Beyond the horizon: set again, as a trace table does.
                        wheel.set(at * second, entry, None);
                        continue;
                    }
                    seen[entry.place as usize] += 1;
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1), "{seen:?}");
            prop_assert_eq!(wheel.bytes(), 0);
        }
    }
}
