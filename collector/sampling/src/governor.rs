//! Backpressure: how much may be kept while what is behind drains, and when requests are refused.
//!
//! ```text
//!   q* = 4 s of the drain of the last minute
//!   q <= q*/2            r = B
//!   q >  q*/2            r = clamp(mu + (q* - q) / tau, 0, B)        mu: the drain measured while backlogged, tau = 4 L
//! ```
//!
//! mu is fed forward, so the gain does not depend on the load: dq/dt = -dq(t - L) / tau does not ring while L / tau <= 1/e, and is stable
//! up to pi/2: the true L may be six times the assumed one. A first overload piles up about (load / drain - 1) * L seconds of work before it is
//! felt. Where drain cannot be measured, r falls by 0.7 when the queue was never short for a whole interval, and rises slowly otherwise.
//! Leaves out: measuring, and acting on it.

use std::time::Duration;

const SECOND_NS: f64 = 1e9;
/// Work that may lie behind, seconds of drain.
const TARGET_S: f64 = 4.0;
/// Window of mu, seconds.
const MU_S: f64 = 2.0;
/// Window of the drain that q* is made of, seconds.
const AVERAGE_S: f64 = 60.0;
/// Interval without measured drain, and the steps.
const BLIND_NS: u64 = 1_000_000_000;
const BLIND_FALL: f64 = 0.7;
const BLIND_RISE: f64 = 0.02;

/// What is fixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// B: what the budget allows, stored bytes a second; finite.
    pub budget: f64,
    /// L: from a decision to when the queue shows it.
    pub lag: Duration,
    /// Longest time between two commits of what drains; mu is measured over at least two of them.
    pub commit: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drain {
    /// Bytes decided and not yet committed.
    pub queued: f64,
    /// Bytes committed since start; `None` if it cannot be measured.
    pub drained: Option<f64>,
}

/// Says how much may be kept.
#[derive(Debug, Clone)]
pub struct Governor {
    settings: Settings,
    last: Option<(u64, f64)>,
    /// While backlogged.
    mu: Option<f64>,
    average: Option<f64>,
    rate: f64,
    /// Without measured drain: since when the queue is watched, and the shortest it was.
    blind: (u64, f64),
}

impl Governor {
    /// Nothing measured yet: all of the budget.
    pub fn new(settings: Settings) -> Governor {
        Governor {
            settings,
            last: None,
            mu: None,
            average: None,
            rate: settings.budget,
            blind: (0, f64::INFINITY),
        }
    }

    /// r, stored bytes a second. Call it at every tick.
    pub fn rate(&mut self, now_ns: u64, drain: Drain) -> f64 {
        let rate = match drain.drained {
            Some(drained) => self.measured(now_ns, drain.queued, drained),
            None => self.blind(now_ns, drain.queued),
        };
        self.rate = rate.clamp(0.0, self.settings.budget);
        self.rate
    }

    /// q*: what should lie behind while it is backlogged, bytes.
    pub fn target(&self) -> f64 {
        TARGET_S * self.average.unwrap_or(self.settings.budget)
    }

    /// How long what is queued takes to drain, as measured; at most a day.
    pub fn delay(&self, queued: f64) -> Duration {
        let drain = self.mu.or(self.average).unwrap_or(self.settings.budget);
        Duration::from_secs_f64((queued / drain.max(1.0)).clamp(0.0, 86_400.0))
    }

    fn measured(&mut self, now_ns: u64, queued: f64, drained: f64) -> f64 {
        let budget = self.settings.budget;
        let Some((last_ns, before)) = self.last else {
            self.last = Some((now_ns, drained));
            return budget;
        };
        let dt = now_ns.saturating_sub(last_ns) as f64 / SECOND_NS;
        if dt <= 0.0 {
            return self.rate;
        }
        self.last = Some((now_ns, drained));
        let speed = (drained - before).max(0.0) / dt;
        let mix = |old: Option<f64>, window: f64| match old {
            Some(old) => old + (speed - old) * (1.0 - (-dt / window).exp()),
            None => speed,
        };
        // In a stall q* stays what it was: else the queue would look ever longer and never be let fill again.
        if speed > 0.0 {
            self.average = Some(mix(self.average, AVERAGE_S));
        }
        if queued <= self.target() / 2.0 {
            // What drains now is what came, not what could.
            self.mu = None;
            return budget;
        }
        let window = MU_S.max(2.0 * self.settings.commit.as_secs_f64());
        let mu = mix(self.mu.or(self.average), window);
        self.mu = Some(mu);
        let tau = 4.0 * self.settings.lag.as_secs_f64().max(0.05);
        mu + (self.target() - queued) / tau
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
            true => (self.rate * BLIND_FALL).max(budget / 256.0),
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
