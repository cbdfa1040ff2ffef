//! The world around the journal: clients, a collector that dies and comes back, a disk. Everything follows from one seed.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tailwater_journal::Error;

use crate::bugs::Bug;
use crate::disk::{Crash, Disk};
use crate::oracle::Oracle;
use crate::process::Process;
use crate::workload::{Request, requests};

/// One life of the world.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub shards: u8,
    pub requests: usize,
    /// Decisions remembered, over all shards.
    pub decisions_max: usize,
    pub decision_age_max: u64,
    /// Die at this write of the first incarnation.
    pub crash_at: Option<u64>,
    /// Die again some writes into every second incarnation.
    pub crash_again: bool,
    pub bug: Option<Bug>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            seed: 0,
            shards: 4,
            requests: 24,
            decisions_max: 1 << 20,
            decision_age_max: u64::MAX,
            crash_at: None,
            crash_again: false,
            bug: None,
        }
    }
}

impl Plan {
    /// Whether a decision may be forgotten, and then taken anew.
    pub fn forgets(&self) -> bool {
        self.decisions_max < 1 << 20 || self.decision_age_max < u64::MAX
    }
}

/// Why an incarnation ended early.
#[derive(Debug)]
pub enum Stop {
    Crash,
    /// A guarantee does not hold.
    Violation(String),
}

impl From<Crash> for Stop {
    fn from(_: Crash) -> Stop {
        Stop::Crash
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Violation(error.to_string())
    }
}

impl From<String> for Stop {
    fn from(violation: String) -> Stop {
        Stop::Violation(violation)
    }
}

/// How often each thing happened that a run must have seen to mean anything.
pub type Coverage = BTreeMap<&'static str, u64>;

pub struct World {
    pub plan: Plan,
    pub disk: Disk,
    pub oracle: Oracle,
    pub coverage: Coverage,
    pub rng: SmallRng,
    /// Unix ns, as far as the journal knows.
    pub now: u64,
    pub incarnation: u64,
    uid: u64,
    /// What clients still want to send, in order.
    pub todo: VecDeque<Rc<Request>>,
}

impl World {
    pub fn new(plan: Plan) -> World {
        let mut rng = SmallRng::seed_from_u64(plan.seed);
        let mut todo: VecDeque<_> = requests(&mut rng, plan.requests).into();
        for _ in 0..todo.len() / 3 {
            // A client that lost the reply sends the same bytes once more.
            let from = rng.random_range(0..todo.len());
            let to = rng.random_range(from..=todo.len());
            todo.insert(to, todo[from].clone());
        }
        let mut disk = Disk::new();
        disk.crash_at = plan.crash_at;
        World {
            plan,
            disk,
            oracle: Oracle::default(),
            coverage: Coverage::new(),
            rng,
            now: 1,
            incarnation: 0,
            uid: 0,
            todo,
        }
    }

    /// Lives through every crash to the quiet end, and checks it.
    pub fn run(&mut self) -> Result<(), String> {
        loop {
            match Process::recover(self).and_then(Process::live) {
                Ok(()) => return self.oracle.check_end(&self.plan, &self.disk),
                Err(Stop::Violation(violation)) => return Err(violation),
                Err(Stop::Crash) => {
                    let power = self.rng.random_bool(0.5);
                    let lost = self.disk.crash(power, &mut self.rng);
                    self.cover(if power { "power loss" } else { "kill" });
                    if lost {
                        self.cover("torn tail");
                    }
                    self.incarnation += 1;
                    if self.plan.crash_again && self.incarnation % 2 == 1 && self.incarnation < 8 {
                        self.disk.crash_at = Some(self.disk.writes + self.rng.random_range(1..80));
                    }
                }
            }
        }
    }

    pub fn cover(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    pub fn uid(&mut self) -> u64 {
        self.uid += 1;
        self.uid
    }

    pub fn broken(&self, bug: Bug) -> bool {
        self.plan.bug == Some(bug)
    }
}
