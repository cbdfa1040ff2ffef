//! What an OpenSLO document says: every kind of `openslo/v1` as plain data, before references are followed.
//!
//! Guarantees: a value of these types that came out of [`crate::read`] satisfies the rules of the specification that can be seen within
//! one document. Older and newer versions are converted to these types, so nothing behind this module knows that there are versions.
//! Fields stand as the specification names them; <https://github.com/OpenSLO/OpenSLO> is the source of every rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::NaiveDateTime;
use chrono_tz::Tz;

use crate::decimal::{Decimal, Target};
use crate::period::Period;
use crate::place::Places;

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    /// The kind and what it says.
    pub object: Object,
    /// Where everything stands in the file; takes no part in equality.
    pub places: Arc<Places>,
}

impl Document {
    /// How many objectives it has: those of an SLO.
    #[must_use]
    pub fn objectives(&self) -> usize {
        match &self.object {
            Object::Slo(slo) => slo.objectives.len(),
            _ => 0,
        }
    }
}

impl PartialEq for Document {
    /// Two documents are equal if they say the same, wherever they stand.
    fn eq(&self, other: &Self) -> bool {
        self.metadata == other.metadata && self.object == other.object
    }
}

/// The kinds of OpenSLO.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `kind: DataSource`
    DataSource(DataSource),
    /// `kind: Service`
    Service(Service),
    /// `kind: SLO`
    Slo(Box<Slo>),
    /// `kind: SLI`
    Sli(Sli),
    /// `kind: AlertPolicy`
    AlertPolicy(AlertPolicy),
    /// `kind: AlertCondition`
    AlertCondition(AlertCondition),
    /// `kind: AlertNotificationTarget`
    AlertNotificationTarget(AlertNotificationTarget),
}

impl Object {
    /// The word after `kind:`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::DataSource(_) => "DataSource",
            Self::Service(_) => "Service",
            Self::Slo(_) => "SLO",
            Self::Sli(_) => "SLI",
            Self::AlertPolicy(_) => "AlertPolicy",
            Self::AlertCondition(_) => "AlertCondition",
            Self::AlertNotificationTarget(_) => "AlertNotificationTarget",
        }
    }
}

/// `metadata` of a document or of an inline object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// DNS label: lower case letters, digits and `-`, at most 63. Unique per kind.
    pub name: String,
    /// At most 63 characters.
    pub display_name: Option<String>,
    /// Each label has one or more values; a single string is a list of one.
    pub labels: BTreeMap<String, Vec<String>>,
    /// Our extensions and those of others. Ours begin with [`crate::annotation::PREFIX`].
    pub annotations: BTreeMap<String, String>,
}

/// An object with its metadata where it is used, or the name of one that stands elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub enum Inline<T> {
    /// By name.
    Ref(String),
    /// Here.
    Here(Metadata, T),
}

/// `kind: DataSource`.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSource {
    /// At most 1050 characters.
    pub description: Option<String>,
    /// What it is: `tailwater`, `Prometheus`, ...
    pub source_type: String,
    /// Free.
    pub connection_details: Option<Free>,
}

/// `kind: Service`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// At most 1050 characters.
    pub description: Option<String>,
}

/// `kind: SLO`.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// At most 1050 characters.
    pub description: Option<String>,
    /// Name of the service it is about.
    pub service: String,
    /// For all objectives; `None` in a composite, where each objective has its own.
    pub indicator: Option<Inline<Sli>>,
    /// At most one.
    pub time_window: Option<TimeWindow>,
    /// How the budget is counted.
    pub budgeting_method: BudgetingMethod,
    /// At least one.
    pub objectives: Vec<Objective>,
    /// Inline or by name.
    pub alert_policies: Vec<Inline<AlertPolicy>>,
}

impl Slo {
    /// Every objective has an indicator of its own.
    #[must_use]
    pub const fn is_composite(&self) -> bool {
        self.indicator.is_none()
    }
}

/// Over which time an objective is to hold.
#[derive(Clone, Debug, PartialEq)]
pub enum TimeWindow {
    /// The last so much, at any moment.
    Rolling(Period),
    /// One period after the other, the first one beginning at `start` on the clocks of `zone`.
    Calendar {
        /// Length of each.
        period: Period,
        /// Local time of the first.
        start: NaiveDateTime,
        /// IANA zone.
        zone: Tz,
    },
}

impl TimeWindow {
    /// Its length.
    #[must_use]
    pub const fn period(&self) -> Period {
        match self {
            Self::Rolling(period) | Self::Calendar { period, .. } => *period,
        }
    }
}

/// How the budget is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BudgetingMethod {
    /// Good events over all events of the window.
    Occurrences,
    /// Good slices over all slices of the window.
    Timeslices,
    /// The mean over slices of good over all events.
    RatioTimeslices,
}

impl BudgetingMethod {
    /// The word it is written as.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Occurrences => "Occurrences",
            Self::Timeslices => "Timeslices",
            Self::RatioTimeslices => "RatioTimeslices",
        }
    }
}

/// One objective of an SLO.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// What to call it.
    pub display_name: Option<String>,
    /// With a threshold SLI only.
    pub op: Option<Op>,
    /// With a threshold SLI only.
    pub value: Option<Decimal>,
    /// From `target` or `targetPercent`.
    pub target: Target,
    /// With Timeslices: what share of a slice must be good, in `(0, 1]`.
    pub time_slice_target: Option<Decimal>,
    /// With Timeslices and RatioTimeslices.
    pub time_slice_window: Option<Period>,
    /// In a composite.
    pub indicator: Option<Inline<Sli>>,
    /// In a composite, above zero.
    pub composite_weight: Option<Decimal>,
}

/// How a value is compared with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `lte`: at most.
    Lte,
    /// `gte`: at least.
    Gte,
    /// `lt`: below.
    Lt,
    /// `gt`: above.
    Gt,
}

impl Op {
    /// The word it is written as.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Lte => "lte",
            Self::Gte => "gte",
            Self::Lt => "lt",
            Self::Gt => "gt",
        }
    }
}

/// `kind: SLI`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sli {
    /// At most 1050 characters.
    pub description: Option<String>,
    /// What is measured.
    pub metric: Metric,
}

/// What an SLI measures.
#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// `thresholdMetric`: a value that objectives compare.
    Threshold(MetricSource),
    /// `ratioMetric` with `good` or `bad`, and `total`.
    Ratio {
        /// The counts only grow (a counter) instead of being counts per slice.
        counter: bool,
        /// Whether `part` counts the good or the bad.
        part_is: Part,
        /// Good or bad events.
        part: MetricSource,
        /// All events.
        total: MetricSource,
    },
    /// `ratioMetric` with `raw`: a ready ratio.
    Raw {
        /// As above; says little of a ratio, kept as written.
        counter: bool,
        /// Whether it is the share of good or of bad.
        part_is: Part,
        /// The ratio.
        source: MetricSource,
    },
}

/// Which events a count or a ratio is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// `good`, or `rawType: success`.
    Good,
    /// `bad`, or `rawType: failure`.
    Bad,
}

/// `metricSource`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricSource {
    /// Name of a DataSource.
    pub source_ref: Option<String>,
    /// Type of the source; may be left to the DataSource.
    pub source_type: Option<String>,
    /// At least one key. What ours may say is in [`crate::source`].
    pub spec: BTreeMap<String, Free>,
}

/// `kind: AlertPolicy`.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertPolicy {
    /// At most 1050 characters.
    pub description: Option<String>,
    /// Alert when there is no data.
    pub alert_when_no_data: bool,
    /// Tell when it is over.
    pub alert_when_resolved: bool,
    /// Alert when the condition holds.
    pub alert_when_breaching: bool,
    /// Exactly one.
    pub condition: Inline<AlertCondition>,
    /// At least one.
    pub notification_targets: Vec<Inline<AlertNotificationTarget>>,
}

/// `kind: AlertCondition`.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertCondition {
    /// At most 1050 characters.
    pub description: Option<String>,
    /// `page`, `ticket`, ...
    pub severity: String,
    /// How the burn rate is compared.
    pub op: Op,
    /// With what.
    pub threshold: Decimal,
    /// Over which time the burn rate is taken.
    pub lookback_window: Period,
    /// How long it has to hold; `0m` if not given.
    pub alert_after: Option<Period>,
}

/// `kind: AlertNotificationTarget`.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertNotificationTarget {
    /// At most 1050 characters.
    pub description: Option<String>,
    /// Where to: `email`, `slack`, `alertmanager`, ...
    pub target: String,
}

/// Anything that YAML can say: what the specification leaves free.
#[derive(Clone, Debug, PartialEq)]
pub enum Free {
    /// One value. `plain` tells `1` and `null` from `"1"` and `"null"`.
    Scalar {
        /// Without quotes.
        text: String,
        /// A number, a truth value or nothing (null), as opposed to text.
        plain: bool,
    },
    /// A list.
    List(Vec<Free>),
    /// A mapping in the order of the file.
    Map(Vec<(String, Free)>),
}
