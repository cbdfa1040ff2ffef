//! What the user wants kept: strata, budgets, limits of a trace, shares of tenants and services.
//!
//! A trace belongs to the first stratum whose condition it meets. Every stratum gives a threshold; none gives a bare keep. What `target: drop`
//! leaves out is left out of every estimate too, and seen in `sampling_ticks`.

pub mod expr;
pub mod parse;

mod program;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tailwater_config::format_duration;

use crate::tracestate::Missing;
use expr::Expr;

pub(crate) use program::{Program, Summary};
pub use read::read;

/// Everything that decides, in one version.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The version, for column `policy_epoch`. The reader leaves it 0; who reloads counts it up.
    pub epoch: u64,
    /// Decide and record as if what is kept were all that is stored, but keep everything.
    pub dry_run: bool,
    /// What may be stored.
    pub budget: Budget,
    /// What a span without `th` means.
    pub missing: Missing,
    /// When a trace is due, and what may wait.
    pub trace: Limits,
    /// Share of a tenant that is not named.
    pub tenant: Share,
    /// Shares of tenants by name.
    pub tenants: BTreeMap<Box<str>, Share>,
    /// Shares of services within a shared stratum.
    pub services: BTreeMap<Box<str>, Share>,
    /// First match wins; the last has no condition.
    pub strata: Vec<Stratum>,
    /// What traces of a kind have in common.
    pub fingerprint: Vec<Part>,
}

/// What may be stored. Without any of them all that strata do not limit is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Bytes a second, as stored; infinite if there is none.
    pub bytes_per_sec: f64,
    /// Spans a second; infinite if there is none.
    pub spans_per_sec: f64,
    /// Bytes a day of UTC, as stored; infinite if there is none.
    pub bytes_per_day: f64,
    /// How much may be saved up in quiet times, ns of the budget.
    pub burst_ns: u64,
    /// Cut every tick's batch at the budget, by the first R excluded; else the budget holds on the average of a few ticks.
    pub hard: bool,
}

/// When a trace is due, and what may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wait after the root has arrived, ns.
    pub root_settle_ns: u64,
    /// Wait after the last span, once a span entered from elsewhere is there, ns.
    pub idle_ns: u64,
    /// Wait after the first span, ns.
    pub timeout_ns: u64,
    /// A trace with that many spans is due; with twice as many, before the next tick, it is decided at once.
    pub span_limit: u32,
    /// Memory of waiting traces, bytes.
    pub buffer_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            root_settle_ns: 2_000_000_000,
            idle_ns: 5_000_000_000,
            timeout_ns: 30_000_000_000,
            span_limit: 10_000,
            buffer_bytes: 1 << 30,
        }
    }
}

/// A part of something shared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Against the others.
    pub weight: f64,
    /// Of the whole, 0 to 1, whatever the weights.
    pub min: f64,
}

impl Default for Share {
    fn default() -> Share {
        Share { weight: 1.0, min: 0.0 }
    }
}

/// Traces that are treated alike.
#[derive(Debug, Clone)]
pub struct Stratum {
    /// Column `sample_reason`.
    pub name: Box<str>,
    /// Which traces; `None`: all that are left.
    pub when: Option<Expr>,
    /// How many of them.
    pub target: Target,
    /// The most of the tenant's budget that it takes, 0 to 1.
    pub cap: Option<f64>,
    /// The most spans a second of the tenant; infinite if there is no limit.
    pub spans_per_sec: f64,
    /// The most bytes a second, as stored, of the tenant; infinite if there is no limit.
    pub bytes_per_sec: f64,
    /// The most bytes a second, as received, of the tenant; infinite if there is no limit.
    pub sent_bytes_per_sec: f64,
}

/// How many traces of a stratum are kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// All, while the caps allow.
    All,
    /// None, by intent: no estimate covers them.
    Drop,
    /// This part, while the caps allow; in (0, 1).
    Probability(f64),
    /// All of the first of a fingerprint in a window, while the caps allow; later ones belong to the strata below.
    First {
        /// How many.
        count: u32,
        /// Of how long, ns.
        window_ns: u64,
    },
    /// What is left of the budget, shared.
    Share {
        /// Between whom.
        by: By,
        /// A key's share is its demand to this power: 0 equal for all, 1 in proportion.
        alpha: f64,
        /// Of each key this many traces a second come first.
        floor_per_sec: f64,
    },
}

/// Between whom a stratum is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Nobody: one probability for all.
    All,
    /// Fingerprints.
    Fingerprint,
    /// Services of the root.
    Service,
}

/// A part of a fingerprint. The tenant is always one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Service of the root.
    Service,
    /// Name of the root.
    Name,
    /// Kind of the root.
    Kind,
    /// Whether a span has failed.
    StatusClass,
    /// An attribute of the root.
    Attr(Box<str>),
}

impl Default for Policy {
    /// Keeps everything; nothing is limited but a trace's wait.
    fn default() -> Policy {
        Policy {
            epoch: 0,
            dry_run: false,
            budget: Budget {
                bytes_per_sec: f64::INFINITY,
                spans_per_sec: f64::INFINITY,
                bytes_per_day: f64::INFINITY,
                burst_ns: 2_000_000_000,
                hard: false,
            },
            missing: Missing::AssumeUnsampled,
            trace: Limits::default(),
            tenant: Share::default(),
            tenants: BTreeMap::new(),
            services: BTreeMap::new(),
            strata: vec![Stratum::rest()],
            fingerprint: vec![Part::Service, Part::Name, Part::StatusClass],
        }
    }
}

impl Stratum {
    /// A stratum of this name and condition that keeps all.
    pub fn all(name: &str, when: Option<Expr>) -> Stratum {
        Stratum {
            name: name.into(),
            when,
            target: Target::All,
            cap: None,
            spans_per_sec: f64::INFINITY,
            bytes_per_sec: f64::INFINITY,
            sent_bytes_per_sec: f64::INFINITY,
        }
    }

    /// What is left, shared by fingerprint.
    pub fn rest() -> Stratum {
        Stratum {
            target: Target::Share {
                by: By::Fingerprint,
                alpha: ALPHA,
                floor_per_sec: 0.0,
            },
            ..Stratum::all("rest", None)
        }
    }
}

/// As a policy has it.
impl fmt::Display for Stratum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What came from a text of few digits goes into one.
        let short = |number: f64| (number * 1e9).round() / 1e9;
        write!(f, "{{name: {}", self.name)?;
        if let Some(when) = &self.when {
            write!(f, ", when: '{}'", when.to_string().replace('\'', "''"))?;
        }
        match &self.target {
            Target::All => f.write_str(", target: all")?,
            Target::Drop => f.write_str(", target: drop")?,
            Target::Probability(p) => write!(f, ", target: {}%", short(p * 100.0))?,
            Target::First { count, window_ns } => {
                let window = format_duration(Duration::from_nanos(*window_ns));
                write!(f, ", first: {count}, per: fingerprint, window: {window}")?;
            }
            Target::Share {
                by,
                alpha,
                floor_per_sec,
            } => {
                let by = match by {
                    By::All => "all",
                    By::Fingerprint => "by(fingerprint)",
                    By::Service => "by(service)",
                };
                write!(f, ", share: {by}, alpha: {alpha}")?;
                if *floor_per_sec > 0.0 {
                    write!(f, ", floor: {}/min", short(floor_per_sec * 60.0))?;
                }
            }
        }
        if let Some(cap) = self.cap {
            write!(f, ", cap: {}%", short(cap * 100.0))?;
        }
        for (key, most) in [
            ("spans_per_sec", self.spans_per_sec),
            ("bytes_per_sec", self.bytes_per_sec),
            ("sent_bytes_per_sec", self.sent_bytes_per_sec),
        ] {
            if most.is_finite() {
                write!(f, ", {key}: {most}")?;
            }
        }
        f.write_str("}")
    }
}

/// Default of [`Target::Share::alpha`].
pub(crate) const ALPHA: f64 = 0.3;
/// Most strata of a policy.
pub(crate) const STRATA_MAX: usize = 64;
