//! Backpressure: how much may be kept while what is behind drains, and when requests are refused.
//!
//! ```text
//!   q    what is queued, less what of it is drained already and shows with the next commit: mu (time since the last one, at most a period)
//!   q* = 4 s of the drain of the last minute
//!   r  = B until q > q*/2, then  mu + (q* - q) / tau  within 1/16 of the drain and B, until nothing is queued          tau = 4 L
//! ```
//!
//! mu, the drain, is bytes over the time between two commits while more waits than one takes; q* is, so to say, 4 s beyond what the commit under way
//! takes, however long that is. mu is fed forward, so the gain does not depend on the load: dq/dt = -dq(t - L) / tau does not ring while
//! L / tau <= 1/e, and is stable up to pi/2: the true L may be six times the assumed one. One commit that comes late says that the sink stood, and
//! changes nothing; the next one that does, that it is slow. A sink that stands does not stop all: the room for batches outlives it, and what
//! matters most still gets in. A first overload piles up about (load / drain - 1) * L seconds of work before it is felt, L then being a whole commit
//! (`docs/decisions/014-drain-in-commits.md`). Where drain cannot be measured, r falls by 0.7 when the queue was never short for a whole
//! interval, and rises slowly otherwise.
//! Leaves out: measuring, and acting on it.

use std::time::Duration;

const SECOND_NS: f64 = 1e9;
/// Work that may lie behind, seconds of drain.
const TARGET_S: f64 = 4.0;
/// Shortest window of mu, seconds; else it is two commits.
const MU_S: f64 = 2.0;
/// Window of the drain that q* is made of, seconds.
const AVERAGE_S: f64 = 60.0;
/// A commit is late when it takes so many times as long as the one before.
const LATE: f64 = 1.5;
/// What may be kept in any case, of the drain.
const LEAST: f64 = 1.0 / 16.0;
/// Interval without measured drain, and the steps.
const BLIND_NS: u64 = 1_000_000_000;
const BLIND_FALL: f64 = 0.7;
const BLIND_RISE: f64 = 0.02;
/// What may be kept in any case while no drain is known, of the budget.
const BLIND_LEAST: f64 = 1.0 / 256.0;

/// What is fixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// B: what the budget allows, stored bytes a second; infinite if there is none. To back off blindly it has to be finite.
    pub budget: f64,
    /// L: from a decision to when the queue shows it.
    pub lag: Duration,
    /// Longest time between two commits of what drains, when nothing is behind.
    pub commit: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drain {
    /// Bytes decided and not yet committed, beyond what waits for a commit in any case.
    pub queued: f64,
    /// Bytes committed since start; `None` if it cannot be measured.
    pub drained: Option<f64>,
    /// In how many commits.
    pub commits: u64,
}

/// A commit, or the start.
#[derive(Debug, Clone, Copy)]
struct Commit {
    at_ns: u64,
    drained: f64,
    number: u64,
}

/// Says how much may be kept.
#[derive(Debug, Clone)]
pub struct Governor {
    settings: Settings,
    last: Option<Commit>,
    /// From one commit to the next, seconds.
    period: f64,
    /// Whether the last commit was late.
    was_late: bool,
    /// Whether there was something beyond the commit under way, ever since the last one.
    is_busy: bool,
    /// As of the last commit; while backlogged.
    mu: Option<f64>,
    /// While busy: what drains.
    average: Option<f64>,
    /// Else: the most that came, and drained.
    fastest: f64,
    rate: f64,
    target: f64,
    /// What drains now, as far as it is known.
    drain: f64,
    /// Without measured drain: since when the queue is watched, and the shortest it was.
    blind: (u64, f64),
}

impl Governor {
    /// Nothing measured yet: all of the budget.
    pub fn new(settings: Settings) -> Governor {
        Governor {
            settings,
            last: None,
            period: settings.commit.as_secs_f64(),
            was_late: false,
            is_busy: true,
            mu: None,
            average: None,
            fastest: 0.0,
            rate: settings.budget,
            target: f64::INFINITY,
            drain: settings.budget,
            blind: (0, f64::INFINITY),
        }
    }

    /// Another B; what was measured stays.
    pub fn set_budget(&mut self, budget: f64) {
        self.settings.budget = budget;
    }

    /// r, stored bytes a second. Call it at every tick.
    pub fn rate(&mut self, now_ns: u64, drain: Drain) -> f64 {
        let rate = match drain.drained {
            Some(drained) => self.measured(now_ns, drain.queued, drained, drain.commits),
            None => self.blind(now_ns, drain.queued),
        };
        self.rate = rate.clamp(0.0, self.settings.budget);
        self.rate
    }

    /// What should be queued now, while it is backlogged, bytes: q* and what the commit under way has drained of it.
    pub fn target(&self) -> f64 {
        self.target
    }

    /// How long what is queued takes to drain, as measured; at most a day.
    pub fn delay(&self, queued: f64) -> Duration {
        Duration::from_secs_f64((queued / self.drain.max(1.0)).clamp(0.0, 86_400.0))
    }

    fn measured(&mut self, now_ns: u64, queued: f64, drained: f64, number: u64) -> f64 {
        let budget = self.settings.budget;
        let commit = Commit {
            at_ns: now_ns,
            drained,
            number,
        };
        let last = *self.last.get_or_insert(commit);
        let mut elapsed = now_ns.saturating_sub(last.at_ns) as f64 / SECOND_NS;
        if number > last.number && elapsed > 0.0 {
            self.committed(elapsed, (drained - last.drained).max(0.0) / elapsed);
            self.last = Some(commit);
            (elapsed, self.is_busy) = (0.0, true);
        }
        self.is_busy &= queued > 0.0;
        let capacity = self.capacity();
        let known = self.average.unwrap_or(self.fastest);
        let mu = self.mu.map(|mu| self.faded(mu, elapsed));
        // What is only expected of the sink has drained nothing yet.
        let drains = mu.filter(|_| self.average.is_some()).unwrap_or(known);
        let hidden = drains * elapsed.min(self.period);
        let (seen, target) = (queued - hidden, TARGET_S * capacity);
        (self.target, self.drain) = (target + hidden, mu.unwrap_or(capacity));
        if queued <= 0.0 || mu.is_none() && seen <= target / 2.0 {
            // What drains now is what came, not what could.
            self.mu = None;
            return budget;
        }
        if self.mu.is_none() {
            self.mu = Some(capacity);
        }
        let tau = 4.0 * self.settings.lag.as_secs_f64().max(0.05);
        let mu = mu.unwrap_or(capacity);
        let least = if known > 0.0 {
            LEAST * known
        } else {
            BLIND_LEAST * budget
        };
        (mu + (target - seen) / tau).max(least)
    }

    /// What drains when there is enough to: measured, or what the budget expects, or at least what has come.
    fn capacity(&self) -> f64 {
        let expected = Some(self.settings.budget).filter(|budget| budget.is_finite());
        let come = Some(self.fastest).filter(|fastest| *fastest > 0.0);
        self.average.or(expected).or(come).unwrap_or(f64::INFINITY)
    }

    /// A commit that is overdue may not come at all.
    fn faded(&self, mu: f64, elapsed: f64) -> f64 {
        mu * (-(elapsed - self.period).max(0.0) / self.window()).exp()
    }

    fn window(&self) -> f64 {
        MU_S.max(2.0 * self.period)
    }

    /// A commit came `elapsed` seconds after the one before.
    fn committed(&mut self, elapsed: f64, speed: f64) {
        let mix = |old: f64, window: f64| old + (speed - old) * (1.0 - (-elapsed / window).exp());
        let is_late = elapsed > LATE * self.period;
        let has_stood = is_late && !self.was_late;
        self.was_late = is_late;
        let mu = self.mu.map(|mu| self.faded(mu, elapsed));
        if !self.is_busy {
            self.fastest = self.fastest.max(speed);
        }
        let measured = match self.average {
            // In a stall q* stays what it was: else the queue would look ever longer and never be let fill again.
            Some(average) if speed > average || self.is_busy && !has_stood => Some(mix(average, AVERAGE_S)),
            None if self.is_busy => Some(speed),
            other => other,
        };
        let is_first = self.average.is_none();
        self.average = measured;
        if !has_stood {
            self.period = match self.is_busy {
                true => elapsed,
                // It took its time because nothing was there.
                false => elapsed.min(self.settings.commit.as_secs_f64()),
            };
        }
        self.mu = mu.map(|mu| match (has_stood, is_late || is_first) {
            (true, _) => self.average.unwrap_or(mu),
            (false, true) => speed,
            (false, false) => mix(mu, self.window()),
        });
    }

    fn blind(&mut self, now_ns: u64, queued: f64) -> f64 {
        let budget = self.settings.budget;
        let (since_ns, shortest) = (self.blind.0, self.blind.1.min(queued));
        if now_ns.saturating_sub(since_ns) < BLIND_NS {
            self.blind.1 = shortest;
            return self.rate;
        }
        self.blind = (now_ns, f64::INFINITY);
        // So much stood there all the time.
        match shortest > TARGET_S / 8.0 * self.rate.max(budget / 64.0) {
            true => (self.rate * BLIND_FALL).max(BLIND_LEAST * budget),
            false => self.rate + BLIND_RISE * budget,
        }
    }
}

/// How far overload has come. Up to [`Rung::Protected`] it shows in T alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Everything gets what it asks for, or shares as the policy says.
    Normal,
    /// The governor has lowered the rate: what is shared gets less.
    Rest,
    /// Strata with a target of their own get less than that: from the last to the first.
    Protected,
    /// Memory is short: new traces are let in by R.
    Admission,
    /// Requests are refused, to be sent again.
    Refuse,
}

impl Rung {
    /// Name in metrics and `status`.
    pub fn name(self) -> &'static str {
        match self {
            Rung::Normal => "normal",
            Rung::Rest => "rest",
            Rung::Protected => "protected",
            Rung::Admission => "admission",
            Rung::Refuse => "refuse",
        }
    }

    fn below(self) -> Rung {
        match self {
            Rung::Refuse => Rung::Admission,
            Rung::Admission => Rung::Protected,
            Rung::Protected => Rung::Rest,
            Rung::Rest | Rung::Normal => Rung::Normal,
        }
    }
}

/// What the ladder looks at; queue, log and memory each as a part of its limit (1: full).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Queue to the writer.
    pub queue: f64,
    /// Space of the intake log.
    pub log: f64,
    /// Memory of waiting traces, as far as the sampler cannot make room itself.
    pub memory: f64,
    /// Whether the governor has lowered the rate.
    pub is_governed: bool,
    /// Whether a stratum with a target of its own got less than that ([`crate::Sampler::squeezed`]).
    pub is_squeezed: bool,
    /// Whether traces are let in by R ([`crate::Sampler::admission`]).
    pub is_admitting: bool,
}

/// The state of overload: up at once, down a rung at a time once it has been quiet.
#[derive(Debug, Clone)]
pub struct Ladder {
    rung: Rung,
    quiet_since_ns: Option<u64>,
}

/// Where requests are refused, and where they are let in again.
const REFUSE_AT: f64 = 1.0;
const RETURN_AT: f64 = 0.7;
/// How long it has to be quiet for a step down.
const QUIET_NS: u64 = 2_000_000_000;

impl Default for Ladder {
    fn default() -> Ladder {
        Ladder {
            rung: Rung::Normal,
            quiet_since_ns: None,
        }
    }
}

impl Ladder {
    /// Where it stands.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Looks again; call it at every tick.
    pub fn step(&mut self, now_ns: u64, pressure: Pressure) -> Rung {
        let fullest = pressure.queue.max(pressure.log).max(pressure.memory);
        let is_held = self.rung == Rung::Refuse && fullest > RETURN_AT;
        let seen = if fullest >= REFUSE_AT || is_held {
            Rung::Refuse
        } else if pressure.is_admitting {
            Rung::Admission
        } else if pressure.is_squeezed {
            Rung::Protected
        } else if pressure.is_governed {
            Rung::Rest
        } else {
            Rung::Normal
        };
        if seen >= self.rung {
            (self.rung, self.quiet_since_ns) = (seen, None);
            return self.rung;
        }
        let since_ns = *self.quiet_since_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(since_ns) >= QUIET_NS {
            self.quiet_since_ns = Some(now_ns);
            self.rung = self.rung.below().max(seen);
        }
        self.rung
    }
}

/// When a refused client should come again: after what is queued has drained, at least a second and at most a minute, spread by half either
/// way so that they do not all come at once. `seed` differs from request to request.
pub fn retry_after(delay: Duration, seed: u64) -> Duration {
    let base = delay.clamp(Duration::from_secs(1), Duration::from_secs(60));
    let spread = xxhash_rust::xxh3::xxh3_64(&seed.to_le_bytes()) as f64 / u64::MAX as f64;
    base.mul_f64(0.5 + spread)
}

#[cfg(test)]
mod tests;
