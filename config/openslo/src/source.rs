//! Where an indicator's numbers come from: `metricSource` with `type: tailwater`, and whatever else there is.
//!
//! ```text
//! red:                        requests of the table `red`, counted before any sampling: exact
//!   service: checkout         any key column; a list means "any of"
//!   statusClass: [2xx, 3xx]
//!   dims: {shop: de}
//!   not: {operation: [GET /healthz, GET /readyz]}
//!   good: {maxDuration: 300ms, errors: exclude}
//! sql: select slice, value from ...
//! ```

mod grammar;

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use grammar::{Role, check, check_pair, is_ours, pair_holds, parse};

use crate::decimal::Decimal;
use crate::document::{Free, Op, Part};

/// The `type` of our own source.
pub const TYPE: &str = "tailwater";

/// A key column of the table `red`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RedKey {
    /// `tenant`
    Tenant,
    /// `service`
    Service,
    /// `namespace`
    Namespace,
    /// `env`
    Env,
    /// `region`
    Region,
    /// `version`
    Version,
    /// `operation`
    Operation,
    /// `route`
    Route,
    /// `kind`
    Kind,
    /// `statusClass`
    StatusClass,
    /// `errorType`
    ErrorType,
    /// One of the configured dimensions, by name.
    Dim(String),
}

impl RedKey {
    /// The columns that are there without configuration, in the order in which they are written.
    pub const FIXED: [Self; 11] = [
        Self::Tenant,
        Self::Service,
        Self::Namespace,
        Self::Env,
        Self::Region,
        Self::Version,
        Self::Operation,
        Self::Route,
        Self::Kind,
        Self::StatusClass,
        Self::ErrorType,
    ];

    /// The word in a document: `statusClass`, `dims.shop`.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Tenant => "tenant",
            Self::Service => "service",
            Self::Namespace => "namespace",
            Self::Env => "env",
            Self::Region => "region",
            Self::Version => "version",
            Self::Operation => "operation",
            Self::Route => "route",
            Self::Kind => "kind",
            Self::StatusClass => "statusClass",
            Self::ErrorType => "errorType",
            Self::Dim(name) => name,
        }
    }
}

/// Which requests of `red` are meant: those that match every key of `any_of` and none of `none_of`.
///
/// A row matches a key when its column is one of the values; a missing value counts as the empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RedSelector {
    /// Sorted, without repetition, never an empty list.
    pub any_of: BTreeMap<RedKey, Vec<String>>,
    /// As `any_of`; a row that matches any one of these keys is left out.
    pub none_of: BTreeMap<RedKey, Vec<String>>,
}

impl RedSelector {
    /// Whether a row is meant. `value` gives what the row has in a key column, `""` for nothing.
    pub fn matches<'a>(&self, value: impl Fn(&RedKey) -> &'a str) -> bool {
        let holds = |(key, values): (&RedKey, &Vec<String>)| {
            let value = value(key);
            values.iter().any(|v| v == value)
        };
        self.any_of.iter().all(holds) && !self.none_of.iter().any(holds)
    }

    /// Whether rows of a tenant can be meant.
    #[must_use]
    pub fn admits(&self, tenant: &str) -> bool {
        let named = |keys: &BTreeMap<RedKey, Vec<String>>| {
            let tenants = keys.get(&RedKey::Tenant)?;
            Some(tenants.iter().any(|name| name == tenant))
        };
        named(&self.any_of).unwrap_or(true) && !named(&self.none_of).unwrap_or(false)
    }
}

impl fmt::Display for RedSelector {
    /// `service=checkout statusClass=2xx|3xx !operation=GET /healthz`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (not, keys) in [("", &self.any_of), ("!", &self.none_of)] {
            for (key, values) in keys {
                let space = if first { "" } else { " " };
                let dim = if matches!(key, RedKey::Dim(_)) { "dims." } else { "" };
                write!(f, "{space}{not}{dim}{}={}", key.word(), values.join("|"))?;
                first = false;
            }
        }
        if first { f.write_str("all requests") } else { Ok(()) }
    }
}

/// Which of the selected requests are good. At least one of the two demands something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Good {
    /// Errors are not good (`errors: exclude`). If false, an error is good like any other request that meets the rest
    /// (`errors: include`).
    pub exclude_errors: bool,
    /// Good took at most this long, in nanoseconds (`maxDuration`). The collector keeps an exact register for it.
    pub max_duration_ns: Option<u64>,
}

/// Where numbers come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The number of these requests, from `red`.
    Red(RedSelector),
    /// A query with the columns `slice` (start of the slice, a timestamp) and `value`.
    Sql(String),
    /// Somebody else's: kept, not evaluated.
    Foreign {
        /// `Prometheus`, `Datadog`, ...; empty if not said.
        source_type: String,
        /// As written.
        spec: BTreeMap<String, Free>,
    },
}

impl Source {
    fn selector_mut(&mut self) -> Option<&mut RedSelector> {
        match self {
            Self::Red(of) => Some(of),
            Self::Sql(_) | Self::Foreign { .. } => None,
        }
    }
}

/// What an objective measures, references followed.
#[derive(Clone, Debug, PartialEq)]
pub enum Indicator {
    /// Good over all requests of `of`, both from one pass over `red`. The usual case.
    Requests {
        /// All of them.
        of: RedSelector,
        /// Which are good.
        good: Good,
    },
    /// `part` over `total`, two counts per slice.
    Ratio {
        /// Whether `part` counts the good or the bad.
        part_is: Part,
        /// Good or bad events.
        part: Source,
        /// All events.
        total: Source,
        /// The counts only grow, so that differences are meant.
        counter: bool,
    },
    /// A ready ratio in `[0, 1]` per slice, without its counts.
    Raw {
        /// Whether it is the share of good or of bad.
        part_is: Part,
        /// The ratio.
        source: Source,
    },
    /// A value per slice, good when `value op limit`.
    Threshold {
        /// The value.
        source: Source,
        /// How it is compared.
        op: Op,
        /// With what.
        limit: Decimal,
    },
}

impl Indicator {
    /// All the requests that it is about, where `red` counts them: there they have durations.
    #[must_use]
    pub const fn all_requests(&self) -> Option<&RedSelector> {
        match self {
            Self::Requests { of, .. }
            | Self::Ratio {
                total: Source::Red(of), ..
            } => Some(of),
            _ => None,
        }
    }

    /// Whether all that it counts is requests of `red`, so that key columns break it down.
    #[must_use]
    pub const fn has_keys(&self) -> bool {
        match self {
            Self::Requests { .. } => true,
            Self::Ratio { part, total, .. } => matches!((part, total), (Source::Red(_), Source::Red(_))),
            Self::Raw { .. } | Self::Threshold { .. } => false,
        }
    }

    /// The selectors of the requests that it counts.
    pub fn selectors_mut(&mut self) -> Vec<&mut RedSelector> {
        match self {
            Self::Requests { of, .. } => vec![of],
            Self::Ratio { part, total, .. } => [part, total].into_iter().filter_map(Source::selector_mut).collect(),
            Self::Raw { source, .. } | Self::Threshold { source, .. } => source.selector_mut().into_iter().collect(),
        }
    }

    /// Whether its numbers are somebody else's.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        let of = |source: &Source| matches!(source, Source::Foreign { .. });
        match self {
            Self::Requests { .. } => false,
            Self::Ratio { part, total, .. } => of(part) || of(total),
            Self::Raw { source, .. } | Self::Threshold { source, .. } => of(source),
        }
    }

    /// Whether it is for a tenant to see: selectors that name tenants are for those alone, everything else for whoever counts by it.
    #[must_use]
    pub fn admits(&self, tenant: &str) -> bool {
        let of = |source: &Source| match source {
            Source::Red(of) => of.admits(tenant),
            Source::Sql(_) | Source::Foreign { .. } => true,
        };
        match self {
            Self::Requests { of, .. } => of.admits(tenant),
            Self::Ratio { part, total, .. } => of(part) && of(total),
            Self::Raw { source, .. } | Self::Threshold { source, .. } => of(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_requests_of_red() {
        let red = || Source::Red(RedSelector::default());
        let sql = || Source::Sql("select slice, value from t".into());
        let foreign = || Source::Foreign {
            source_type: "Datadog".into(),
            spec: BTreeMap::new(),
        };
        let ratio = |part, total| Indicator::Ratio {
            part_is: Part::Bad,
            part,
            total,
            counter: false,
        };
        let raw = |source| Indicator::Raw {
            part_is: Part::Good,
            source,
        };
        let good = Good {
            exclude_errors: true,
            max_duration_ns: None,
        };
        let of = RedSelector::default();
        // Durations, key columns, selectors, foreign.
        let check = |mut indicator: Indicator, expected: (bool, bool, usize, bool)| {
            let (all, foreign) = (indicator.all_requests().is_some(), indicator.is_foreign());
            let found = (all, indicator.has_keys(), indicator.selectors_mut().len(), foreign);
            assert_eq!(found, expected, "{indicator:?}");
        };
        check(Indicator::Requests { of, good }, (true, true, 1, false));
        check(ratio(red(), red()), (true, true, 2, false));
        check(ratio(sql(), red()), (true, false, 1, false));
        check(ratio(red(), sql()), (false, false, 1, false));
        check(ratio(foreign(), red()), (true, false, 1, true));
        check(raw(sql()), (false, false, 0, false));
        check(raw(foreign()), (false, false, 0, true));
    }

    #[test]
    fn who_may_see_an_indicator() {
        let tenants = |names: &[&str]| -> BTreeMap<RedKey, Vec<String>> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let service = (RedKey::Service, vec!["cart".to_owned()]);
            let tenant = (!names.is_empty()).then_some((RedKey::Tenant, names));
            tenant.into_iter().chain([service]).collect()
        };
        let check = |any: &[&str], none: &[&str], expected: [bool; 2]| {
            let (any_of, mut none_of) = (tenants(any), tenants(none));
            none_of.remove(&RedKey::Service);
            let of = RedSelector { any_of, none_of };
            let all = || Source::Red(RedSelector::default());
            let ratio = |part, total| Indicator::Ratio {
                part_is: Part::Bad,
                part,
                total,
                counter: false,
            };
            let good = Good {
                exclude_errors: true,
                max_duration_ns: None,
            };
            for indicator in [
                ratio(Source::Red(of.clone()), all()),
                ratio(all(), Source::Red(of.clone())),
                Indicator::Requests { of, good },
            ] {
                assert_eq!(
                    ["a", "b"].map(|tenant| indicator.admits(tenant)),
                    expected,
                    "{indicator:?}"
                );
            }
        };
        check(&[], &[], [true, true]);
        check(&["a"], &[], [true, false]);
        check(&["a", "b"], &[], [true, true]);
        check(&[], &["a"], [false, true]);
        check(&["a"], &["a"], [false, false]);
    }
}
