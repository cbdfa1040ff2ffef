//! What is allowed and yet probably not what was meant.
//!
//! Every lint has a name, says why it is a trap, and what to write. [`LINTS`] is all of them.

use std::time::Duration;

use tailwater_config::Origin;

use crate::annotation::{self, AlertProfile, Extensions};
use crate::decimal::Decimal;
use crate::document::{AlertPolicy, BudgetingMethod, Document, Metric, MetricSource, Object, Op, Sli, Slo, TimeWindow};
use crate::index::{Index, Site, site};
use crate::period::{Period, Unit};
use crate::read::join;
use crate::resolve::{DEFAULT_WINDOW, indicator, profile, sources};
use crate::source::{self, Indicator, RedSelector, Role, Source};

/// The name of a lint and why it is one.
pub const LINTS: &[(&str, &str)] = &[
    (
        "annotation-unused",
        "With this indicator or this method the annotation changes nothing.",
    ),
    (
        "burn-below",
        "The condition fires while the burn rate is low, that is, as long as all is well. The examples of the specification have this mistake.",
    ),
    (
        "burn-below-one",
        "A burn rate below 1 fires on a service that meets its objective.",
    ),
    (
        "burn-unreachable",
        "Even if everything fails, the burn rate is not more than 1 / (1 - target): the alert can never fire.",
    ),
    (
        "errors-unstated",
        "A request that fails at once is fast. Whether it counts as good should be said.",
    ),
    (
        "foreign-source",
        "Only sources of type tailwater are evaluated; this objective will show no data.",
    ),
    (
        "good-is-total",
        "The good events are all events, so the indicator is always 100 %.",
    ),
    (
        "minute-window",
        "`m` is minutes and `M` is months: an objective over a few minutes has no budget worth the name. An example of the specification has this mistake.",
    ),
    (
        "no-time-window",
        "Without `timeWindow` the objective holds over the last 30 days, here; other tools choose otherwise.",
    ),
    (
        "one-window-alert",
        "One window alone fires late or long after the trouble is over; a short window beside it ends the alert (SRE workbook, chapter 5).",
    ),
    (
        "op-on-ratio",
        "`op` and `value` compare a metric with a limit; a ratio has none, and they are ignored. Examples of the specification have this mistake.",
    ),
    ("page-without-runbook", "Whoever is woken should know what to do."),
    (
        "pattern-in-selector",
        "Values are compared whole: a pattern selects nothing but itself.",
    ),
    (
        "ratio-without-counts",
        "A ready ratio hides how many events it is of, so the budget of Occurrences would be a mean of ratios, which weighs a quiet hour like a busy one.",
    ),
    ("selects-everything", "It counts the requests of all services together."),
    (
        "service-unknown",
        "There are Service documents, and none has this name.",
    ),
    (
        "silent-policy",
        "Without `alertWhenBreaching` or `alertWhenNoData` the policy tells nobody anything.",
    ),
    (
        "tiers-differ",
        "`burn-tiers` is what holds here; other tools read `threshold` and `lookbackWindow`, and see another alert.",
    ),
    (
        "unused-slice",
        "Slices are of Timeslices and RatioTimeslices; with this method the key is ignored.",
    ),
];

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// One of [`LINTS`].
    pub name: &'static str,
    /// Where.
    pub origin: Origin,
    /// Path as written.
    pub path: String,
    /// What to write instead.
    pub write: String,
}

impl Lint {
    /// Why it is a trap.
    #[must_use]
    pub fn explanation(&self) -> &'static str {
        LINTS
            .iter()
            .find(|(name, _)| *name == self.name)
            .map_or("", |(_, why)| why)
    }
}

impl std::fmt::Display for Lint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            origin,
            path,
            write,
        } = self;
        write!(f, "{origin}: {path}: {name}: {} {write}", self.explanation())
    }
}

/// Looks for traps, in the order of the documents.
#[must_use]
pub fn lint(documents: &[Document]) -> Vec<Lint> {
    let (index, _) = Index::new(documents, &[]);
    let mut found = Vec::new();
    for document in documents {
        let mut l = Linter { found: &mut found };
        match &document.object {
            Object::Slo(_) => {
                if let Some(slo) = site::<Slo>(document) {
                    l.slo(&slo, &index);
                }
            }
            Object::Sli(_) => {
                if let Some(sli) = site::<Sli>(document) {
                    l.sli(&sli, &index);
                }
            }
            Object::AlertPolicy(_) => {
                if let Some(policy) = site::<AlertPolicy>(document) {
                    l.policy(&policy, &index, None);
                }
            }
            Object::AlertCondition(_) => {
                if let Some(condition) = site(document) {
                    l.condition(&condition);
                }
            }
            _ => {}
        }
    }
    found
}

struct Linter<'l> {
    found: &'l mut Vec<Lint>,
}

impl Linter<'_> {
    fn add<T>(&mut self, name: &'static str, site: &Site<'_, T>, key: &str, write: impl Into<String>) {
        debug_assert!(
            LINTS.iter().any(|(known, _)| *known == name),
            "{name} has an explanation"
        );
        let lint = Lint {
            name,
            origin: site.origin(key),
            path: site.document.places.said(&site.at(key)),
            write: write.into(),
        };
        // Several objectives may share an SLI, and several SLOs a policy.
        if !self.found.contains(&lint) {
            self.found.push(lint);
        }
    }

    fn slo(&mut self, slo: &Site<'_, Slo>, index: &Index<'_>) {
        let spec = slo.object;
        let services: Vec<_> = index.names("Service").collect();
        if !services.is_empty() && !services.contains(&spec.service.as_str()) {
            let near = tailwater_config::nearest(&spec.service, services);
            let write = near.map_or_else(
                || format!("Write a Service named {}.", spec.service),
                |near| format!("Did you mean {near}?"),
            );
            self.add("service-unknown", slo, "service", write);
        }
        match &spec.time_window {
            None => self.add(
                "no-time-window",
                slo,
                "timeWindow",
                "Write `timeWindow: [{duration: 30d, isRolling: true}]`.",
            ),
            Some(window) => {
                let Period { count, unit } = window.period();
                if unit == Unit::Minute && count < 60 {
                    let write = format!("Write {count}M for months, or at least 60m.");
                    self.add("minute-window", slo, "timeWindow[0].duration", write);
                }
            }
        }
        for (i, objective) in spec.objectives.iter().enumerate() {
            let path = Site::<Slo>::objective(i);
            let sli = slo.sli(index, i, objective).and_then(Result::ok);
            if let Some(sli) = &sli {
                let is_ratio = !matches!(sli.object.metric, Metric::Threshold(_));
                for (key, given) in [("op", objective.op.is_some()), ("value", objective.value.is_some())] {
                    if is_ratio && given {
                        self.add("op-on-ratio", slo, &join(&path, key), format!("Remove `{key}`."));
                    }
                }
                if std::ptr::eq(sli.document, slo.document) {
                    self.sli(sli, index);
                }
                self.raw(slo, sli, index);
            }
            let method = spec.budgeting_method;
            let target = objective.time_slice_target.is_some() && method != BudgetingMethod::Timeslices;
            let window = objective.time_slice_window.is_some() && method == BudgetingMethod::Occurrences;
            for (key, unused) in [("timeSliceTarget", target), ("timeSliceWindow", window)] {
                if unused {
                    let write = format!(
                        "Remove it, or write `budgetingMethod: Timeslices` in place of {}.",
                        method.word()
                    );
                    self.add("unused-slice", slo, &join(&path, key), write);
                }
            }
        }
        self.unused(slo, index);
        let mut extensions = Extensions::default();
        annotation::apply(&mut extensions, slo.metadata);
        let pages = matches!(
            extensions.alert_profile,
            AlertProfile::Workbook | AlertProfile::Seed | AlertProfile::Default
        );
        let length = spec.time_window.as_ref().unwrap_or(&DEFAULT_WINDOW).period().nominal();
        let budget = spec.objectives.iter().map(|objective| objective.target.budget()).max();
        for rule in profile(&extensions, length) {
            let Some(rate) = rule.tiers.iter().map(|tier| tier.threshold).min() else {
                continue;
            };
            // One tier that can fire is enough for a profile: its other tiers are there for stricter targets.
            if budget.is_some_and(|budget| reaches_one(rate, budget)) {
                let write = format!(
                    "The {} of this profile begins at a burn rate of {rate}: write `alertPolicies` with lower ones, or a stricter objective.",
                    rule.severity
                );
                let key = format!("annotations.{}alert-profile", annotation::PREFIX);
                self.add_metadata("burn-unreachable", slo, &key, &write);
            }
        }
        if pages && extensions.runbook.is_none() {
            let write = "Add the annotation `tailwater.io/runbook: https://...`.";
            self.add_metadata(
                "page-without-runbook",
                slo,
                &format!("annotations.{}alert-profile", annotation::PREFIX),
                write,
            );
        }
        for (i, policy) in slo.policies(index).into_iter().enumerate() {
            let Ok(policy) = policy else { continue };
            let context = Context {
                slo,
                key: format!("alertPolicies[{i}]"),
                runbook: extensions.runbook.is_some(),
            };
            self.policy(&policy, index, Some(&context));
        }
    }

    /// Of a document's own metadata, which stands beside `spec`.
    fn add_metadata<T>(&mut self, name: &'static str, site: &Site<'_, T>, key: &str, write: &str) {
        let base = site.path.strip_suffix("spec").unwrap_or_default();
        let path = format!("{base}metadata.{key}");
        let lint = Lint {
            name,
            origin: site.document.places.find(&path),
            path,
            write: write.to_owned(),
        };
        if !self.found.contains(&lint) {
            self.found.push(lint);
        }
    }

    /// Annotations of an SLO that change nothing for any of its objectives.
    fn unused(&mut self, slo: &Site<'_, Slo>, index: &Index<'_>) {
        let mut indicators = Vec::new();
        for (i, objective) in slo.object.objectives.iter().enumerate() {
            let Some(sli) = slo.sli(index, i, objective).and_then(Result::ok) else {
                return;
            };
            // Of what is somebody else's or cannot be read something else is said.
            match indicator(&sli, objective, index) {
                Ok(indicator) if !indicator.is_foreign() => indicators.push((sli, indicator)),
                _ => return,
            }
        }
        let is_one_source = |indicator: &Indicator| matches!(indicator, Indicator::Requests { .. });
        let registers = "Remove it, or write one `raw` source over `red` with `good:`: registers are kept for those.";
        for (sli, indicator) in &indicators {
            if !is_one_source(indicator) {
                self.unused_one(sli, "latency-thresholds", registers);
            }
        }
        let none = |has: fn(&Indicator) -> bool| !indicators.iter().any(|(_, indicator)| has(indicator));
        let quiet = annotation::text(slo.metadata, "no-data").is_some_and(|text| text != "gap");
        let occurrences = slo.object.budgeting_method == BudgetingMethod::Occurrences;
        for (key, unused, write) in [
            (
                "group-by",
                none(|indicator| indicator.has_keys()),
                "Remove it, or count all of the indicator in `red`, which has key columns.",
            ),
            ("latency-thresholds", none(is_one_source), registers),
            (
                "no-data",
                quiet && occurrences,
                "Remove it, or write `budgetingMethod: Timeslices`: Occurrences has no slices that could be without events.",
            ),
            (
                "percentiles",
                none(|indicator| indicator.all_requests().is_some()),
                "Remove it, or count all requests in `red`, which has their durations.",
            ),
        ] {
            if unused {
                self.unused_one(slo, key, write);
            }
        }
    }

    /// An annotation that changes nothing, if it is there.
    fn unused_one<T>(&mut self, site: &Site<'_, T>, key: &str, write: &str) {
        if annotation::text(site.metadata, key).is_some() {
            let key = format!("annotations.{}{key}", annotation::PREFIX);
            self.add_metadata("annotation-unused", site, &key, write);
        }
    }

    fn raw(&mut self, slo: &Site<'_, Slo>, sli: &Site<'_, Sli>, index: &Index<'_>) {
        if let Metric::Raw { source, .. } = &sli.object.metric
            && slo.object.budgeting_method == BudgetingMethod::Occurrences
            && !matches!(read(source, Role::Raw(crate::Part::Good), index), Some(Source::Red(_)))
        {
            let write = "Write `good` (or `bad`) and `total` in place of `raw`, or `budgetingMethod: RatioTimeslices`.";
            self.add("ratio-without-counts", sli, "ratioMetric.raw", write);
        }
    }

    fn sli(&mut self, sli: &Site<'_, Sli>, index: &Index<'_>) {
        for (role, path, metric) in sources(sli.object) {
            let red = join(path, "spec.red");
            match read(metric, role, index) {
                Some(Source::Foreign { source_type, .. }) => {
                    let from = if source_type.is_empty() {
                        String::new()
                    } else {
                        format!(" in place of {source_type}")
                    };
                    let write = format!(
                        "Write `type: tailwater` with `spec: {{red: {{service: ...}}}}` or `spec: {{sql: ...}}`{from}."
                    );
                    let key = if metric.source_type.is_some() { "type" } else { "spec" };
                    self.add("foreign-source", sli, &join(path, key), write);
                }
                Some(Source::Red(selector)) => self.selector(sli, &red, &selector),
                _ => {}
            }
            if let Some((Source::Red(_), Some(good))) = source::parse(&metric.spec, role).ok()
                && good.max_duration_ns.is_some()
                && !metric_says_errors(metric)
            {
                let write = "Add `errors: exclude` (a failure is not good) or `errors: include`.";
                self.add("errors-unstated", sli, &join(&red, "good"), write);
            }
        }
        if let Metric::Ratio { part, total, .. } = &sli.object.metric
            && part == total
        {
            let write = "Narrow the selection, or add `good: {errors: exclude}`.";
            self.add("good-is-total", sli, "ratioMetric.total", write);
        }
    }

    fn selector(&mut self, sli: &Site<'_, Sli>, path: &str, selector: &RedSelector) {
        if selector.any_of.is_empty() {
            self.add("selects-everything", sli, path, "Add `service: ...`.");
        }
        for (not, keys) in [("", &selector.any_of), ("not.", &selector.none_of)] {
            for (key, values) in keys {
                let Some(value) = values.iter().find(|value| is_pattern(value)) else {
                    continue;
                };
                let dims = if matches!(key, source::RedKey::Dim(_)) {
                    "dims."
                } else {
                    ""
                };
                let path = format!("{path}.{not}{dims}{}", key.word());
                self.add(
                    "pattern-in-selector",
                    sli,
                    &path,
                    format!("List the values that `{value}` stands for."),
                );
            }
        }
    }

    fn policy(&mut self, policy: &Site<'_, AlertPolicy>, index: &Index<'_>, used: Option<&Context<'_, '_>>) {
        if !policy.object.alert_when_breaching && !policy.object.alert_when_no_data {
            self.add(
                "silent-policy",
                policy,
                "alertWhenBreaching",
                "Write `alertWhenBreaching: true`.",
            );
        }
        let Ok(condition) = policy.condition(index) else {
            return;
        };
        if std::ptr::eq(condition.document, policy.document) {
            self.condition(&condition);
        }
        let Some(used) = used else { return };
        let own = annotation::text(policy.metadata, "runbook").is_some();
        if condition.object.severity == "page" && !own && !used.runbook {
            let write = "Add the annotation `tailwater.io/runbook: https://...` to the policy or to the SLO.";
            self.add("page-without-runbook", used.slo, &used.key, write);
        }
        let window = used.slo.object.time_window.clone().unwrap_or(DEFAULT_WINDOW);
        self.reach(&condition, used, &window);
    }

    /// What can be said of a condition by itself.
    fn condition(&mut self, condition: &Site<'_, crate::document::AlertCondition>) {
        let tiers = annotation::text(condition.metadata, "burn-tiers");
        let burn = condition.object;
        if matches!(burn.op, Op::Lte | Op::Lt) && tiers.is_none() {
            let op = if burn.op == Op::Lte { "gte" } else { "gt" };
            self.add("burn-below", condition, "condition.op", format!("Write `op: {op}`."));
        }
        match tiers.map(|text| annotation::parse_tiers(&text)) {
            None => {
                let write = format!(
                    "Add the annotation `{}burn-tiers: {}@{}/...` with a short window of about a twelfth.",
                    annotation::PREFIX,
                    burn.threshold,
                    burn.lookback_window
                );
                self.add("one-window-alert", condition, "condition.lookbackWindow", write);
            }
            Some(Ok(tiers)) => {
                let differs = tiers
                    .first()
                    .is_some_and(|tier| tier.differs(burn.op, burn.threshold, burn.lookback_window));
                if differs {
                    let write = "Write the burn rate and the long window of the first tier there, with `op: gt`.";
                    self.add("tiers-differ", condition, "condition.threshold", write);
                }
            }
            Some(Err(_)) => {}
        }
    }

    /// What can be said of a condition only together with an SLO: whether its burn rates can be reached, and whether they mean trouble.
    fn reach(
        &mut self,
        condition: &Site<'_, crate::document::AlertCondition>,
        used: &Context<'_, '_>,
        window: &TimeWindow,
    ) {
        let length: Duration = window.period().nominal();
        let burn = condition.object;
        let tiers = match annotation::text(condition.metadata, "burn-tiers") {
            Some(text) => annotation::parse_tiers(&text).unwrap_or_default(),
            None => Vec::new(),
        };
        let mut rates: Vec<Decimal> = tiers.into_iter().map(|tier| tier.resolve(length).threshold).collect();
        if rates.is_empty() && matches!(burn.op, Op::Gt | Op::Gte) {
            rates.push(burn.threshold);
        }
        let spec = used.slo.object;
        let budget = spec.objectives.iter().map(|objective| objective.target.budget()).max();
        for rate in rates {
            // rate * budget >= 1, exactly.
            if let Some(budget) = budget
                && reaches_one(rate, budget)
            {
                let highest = Decimal::ONE.to_f64() / budget.to_f64();
                let write = format!(
                    "{rate} is not below {highest:.6}: write a lower burn rate, or watch a stricter objective."
                );
                self.add("burn-unreachable", used.slo, &used.key, write);
            }
            if rate < Decimal::ONE {
                let write = format!("Write at least 1 in place of {rate}, or a larger share of the budget.");
                self.add("burn-below-one", used.slo, &used.key, write);
            }
        }
    }
}

/// A policy as one SLO uses it.
struct Context<'s, 'd> {
    slo: &'s Site<'d, Slo>,
    key: String,
    runbook: bool,
}

/// `rate * budget >= 1`.
fn reaches_one(rate: Decimal, budget: Decimal) -> bool {
    let ((a, s), (b, t)) = (rate.parts(), budget.parts());
    let product = i128::from(a) * i128::from(b);
    10_i128
        .checked_pow(u32::from(s) + u32::from(t))
        .is_some_and(|one| product >= one)
}

fn is_pattern(value: &str) -> bool {
    value.contains(".*")
        || value.contains(".+")
        || value.ends_with('*')
        || (value.starts_with('^') && value.ends_with('$'))
        || value.contains('|')
}

fn metric_says_errors(metric: &MetricSource) -> bool {
    use crate::document::Free;
    let get = |free: &Free, key: &str| match free {
        Free::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()),
        _ => None,
    };
    let good = metric.spec.get("red").and_then(|red| get(red, "good"));
    good.is_some_and(|good| get(&good, "errors").is_some())
}

/// What a source is, as far as it can be told.
fn read(metric: &MetricSource, role: Role, index: &Index<'_>) -> Option<Source> {
    let named = metric.source_ref.as_ref().map(|name| index.data_source(name));
    let source_type = match (&metric.source_type, named) {
        (Some(said), _) => said.clone(),
        (None, Some(named)) => named.map_or_else(String::new, |named| named.source_type.clone()),
        (None, None) if source::is_ours(metric) => source::TYPE.to_owned(),
        (None, None) => String::new(),
    };
    if source_type == source::TYPE {
        return source::parse(&metric.spec, role).ok().map(|(source, _)| source);
    }
    Some(Source::Foreign {
        source_type,
        spec: metric.spec.clone(),
    })
}
