//! SLOs that stand on their own: references followed, extensions read, defaults filled in. What the arithmetic, the collector and the
//! report take.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tailwater_config::Origin;

use crate::annotation::Extensions;
use crate::decimal::{Decimal, Target};
use crate::document::{BudgetingMethod, Op, TimeWindow};
use crate::source::Indicator;

/// One SLO with everything that it refers to.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedSlo {
    /// Unique among the SLOs that were resolved together.
    pub name: String,
    /// What to call it; the name if nothing was given.
    pub display_name: String,
    /// Name of the service it is about.
    pub service: String,
    /// May be empty.
    pub description: String,
    /// As written.
    pub labels: BTreeMap<String, Vec<String>>,
    /// The last 30 days if the document has none.
    pub window: TimeWindow,
    /// The method of all objectives.
    pub method: BudgetingMethod,
    /// At least one.
    pub objectives: Vec<ResolvedObjective>,
    /// The objectives are members of one composite SLO, each with its own indicator and weight, instead of several targets for one indicator.
    pub composite: bool,
    /// Of its policies and of its profile.
    pub alerts: Vec<AlertRule>,
    /// Our annotations, read; defaults where there are none.
    pub extensions: Extensions,
    /// Changes exactly when something above changes that a figure depends on: not with labels, names of display, descriptions or place.
    pub hash: DefinitionHash,
    /// Where it stands.
    pub origin: Origin,
}

/// One objective.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedObjective {
    /// What to call it: its display name, else `objective-1`, `objective-2`, ...; unique within the SLO.
    pub name: String,
    /// What share must be good.
    pub target: Target,
    /// How it is counted.
    pub budgeting: Budgeting,
    /// What is measured.
    pub indicator: Indicator,
    /// Its weight in a composite, above zero; one elsewhere.
    pub weight: Decimal,
}

/// How an objective is counted, with what each method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Budgeting {
    /// Good events over all events.
    Occurrences,
    /// Good slices over all slices; a slice is good when at least `target` of it is, or when its value meets the threshold.
    Timeslices {
        /// Length of a slice, in whole minutes.
        slice: Duration,
        /// In `(0, 1]`.
        target: Decimal,
    },
    /// The mean of the slices' ratios.
    RatioTimeslices {
        /// Length of a slice, in whole minutes.
        slice: Duration,
    },
}

/// When to tell whom that budget burns. Fires while any of its tiers does.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertRule {
    /// Name of the policy, or `profile/page`, `profile/ticket`.
    pub name: String,
    /// `page`, `ticket`, or what the condition says.
    pub severity: String,
    /// At least one.
    pub tiers: Vec<BurnTier>,
    /// How long a tier has to hold before it counts. Zero is best: a second window does this better than a timer that every dip
    /// resets (design/slo.md 2b).
    pub after: Duration,
    /// `alertWhenBreaching`: without it the tiers tell nobody.
    pub when_breaching: bool,
    /// `alertWhenNoData`.
    pub when_no_data: bool,
    /// `alertWhenResolved`.
    pub when_resolved: bool,
    /// `(name, target)` of each notification target.
    pub targets: Vec<(String, String)>,
    /// Link to what to do.
    pub runbook: Option<String>,
    /// One line for the message.
    pub summary: Option<String>,
}

/// Burn rates of one or two windows, both of which must be beyond the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BurnTier {
    /// How the burn rate is compared; [`Op::Gt`] unless an OpenSLO condition says otherwise.
    pub op: Op,
    /// The burn rate: 1 spends the budget in exactly the window of the SLO.
    pub threshold: Decimal,
    /// The long window.
    pub long: Duration,
    /// The short window, which ends the alert soon after the trouble ends.
    pub short: Option<Duration>,
}

/// 128 bits of XXH3 over the canonical form of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefinitionHash(pub u128);

impl fmt::Display for DefinitionHash {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
