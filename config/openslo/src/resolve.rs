//! From documents to SLOs that stand on their own.
//!
//! Guarantees: every reference that leads nowhere and every name that is taken is a problem with its place (of a name: both places),
//! also in documents that no SLO uses; an SLO with a problem is not among the results. Does not read: what is not among the documents
//! does not exist.

use std::collections::HashSet;
use std::time::Duration;

use tailwater_config::{Origin, Problem, nearest};

use crate::annotation::{self, AlertProfile, Extensions};
use crate::decimal::Decimal;
use crate::document::{
    AlertPolicy, BudgetingMethod, Document, Metric, MetricSource, Object, Objective, Op, Part, Sli, Slo, TimeWindow,
};
use crate::index::{Index, Kind, Site, site};
use crate::period::{Period, Unit};
use crate::read::join;
use crate::resolved::{AlertRule, Budgeting, BurnTier, ResolvedObjective, ResolvedSlo};
use crate::source::{self, Indicator, Role, Source};

/// The window of an SLO that gives none.
pub const DEFAULT_WINDOW: TimeWindow = TimeWindow::Rolling(Period::new(30, Unit::Day));

/// What became of the documents.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// Those without problems, in the order of the documents.
    pub slos: Vec<ResolvedSlo>,
    /// Everything wrong, in the order of the documents.
    pub problems: Vec<Problem>,
}

/// Follows every reference.
#[must_use]
pub fn resolve(documents: &[Document]) -> Resolved {
    resolve_beside(documents, &[])
}

/// Follows every reference, where `broken` documents (kind and name, [`crate::Reading::broken`]) could not be read: a reference to one of
/// them is no mistake of its own. What uses them is not among the results.
#[must_use]
pub fn resolve_beside(documents: &[Document], broken: &[(String, String)]) -> Resolved {
    let (index, mut problems) = Index::new(documents, broken);
    let mut slos = Vec::new();
    // Documents come from strangers by the thousand: nothing here looks through all of them for each.
    let mut wrong: HashSet<Origin> = problems.iter().map(|problem| problem.origin.clone()).collect();
    for document in documents {
        let mut own = Vec::new();
        references(document, &index, &mut own);
        if let Some(slo) = site::<Slo>(document) {
            let resolved = resolve_slo(&slo, &index, &mut own);
            let taken = wrong.contains(&document.places.find("metadata.name"));
            if let Some(resolved) = resolved
                && own.is_empty()
                && !taken
            {
                slos.push(resolved);
            }
        }
        wrong.extend(own.iter().map(|problem| problem.origin.clone()));
        problems.extend(own);
    }
    // An SLI that several objectives share has its mistakes once.
    let mut seen = HashSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    Resolved { slos, problems }
}

/// References of one document and of what is inline in it.
fn references(document: &Document, index: &Index<'_>, problems: &mut Vec<Problem>) {
    match &document.object {
        Object::Sli(_) => {
            if let Some(sli) = site::<Sli>(document) {
                metric_sources(&sli, index, problems);
            }
        }
        Object::AlertPolicy(_) => {
            if let Some(policy) = site::<AlertPolicy>(document) {
                policy_references(&policy, index, problems);
            }
        }
        Object::Slo(_) => {
            let Some(slo) = site::<Slo>(document) else { return };
            for (i, objective) in slo.object.objectives.iter().enumerate() {
                match slo.sli(index, i, objective) {
                    Some(Ok(sli)) if std::ptr::eq(sli.document, document) => metric_sources(&sli, index, problems),
                    Some(Err(problem)) => problems.extend(problem.map(|problem| *problem)),
                    _ => {}
                }
            }
            for policy in slo.policies(index) {
                match policy {
                    Ok(policy) if std::ptr::eq(policy.document, document) => {
                        policy_references(&policy, index, problems);
                    }
                    Ok(_) => {}
                    Err(problem) => problems.extend(problem.map(|problem| *problem)),
                }
            }
        }
        _ => {}
    }
}

fn policy_references(policy: &Site<'_, AlertPolicy>, index: &Index<'_>, problems: &mut Vec<Problem>) {
    problems.extend(policy.condition(index).err().flatten().map(|problem| *problem));
    problems.extend(
        policy
            .targets(index)
            .into_iter()
            .filter_map(|target| target.err().flatten().map(|p| *p)),
    );
}

/// Each source of an SLI with its role and the path below `spec`.
pub(crate) fn sources(sli: &Sli) -> Vec<(Role, &'static str, &MetricSource)> {
    match &sli.metric {
        Metric::Threshold(source) => vec![(Role::Threshold, "thresholdMetric.metricSource", source)],
        Metric::Raw { part_is, source, .. } => vec![(Role::Raw(*part_is), "ratioMetric.raw.metricSource", source)],
        Metric::Ratio {
            part_is, part, total, ..
        } => {
            let part = match part_is {
                Part::Good => (Role::Good, "ratioMetric.good.metricSource", part),
                Part::Bad => (Role::Bad, "ratioMetric.bad.metricSource", part),
            };
            vec![part, (Role::Total, "ratioMetric.total.metricSource", total)]
        }
    }
}

/// What only the DataSource of a source can tell.
fn metric_sources(sli: &Site<'_, Sli>, index: &Index<'_>, problems: &mut Vec<Problem>) {
    for (role, path, source) in sources(sli.object) {
        let Some(name) = &source.source_ref else { continue };
        let Some(named) = index.data_source(name) else {
            if index.is_broken(crate::document::DataSource::KIND, name) {
                continue;
            }
            let mut problem = sli.wrong(
                &format!("{path}.metricSourceRef"),
                format!("no DataSource is named `{name}`"),
            );
            problem.nearest = nearest(name, index.names(crate::document::DataSource::KIND)).map(str::to_owned);
            problems.push(problem);
            continue;
        };
        match &source.source_type {
            Some(said) if !said.eq_ignore_ascii_case(&named.source_type) => {
                let message = format!(
                    "`{said}`, but the DataSource `{name}` is of type `{}`: write that, or nothing",
                    named.source_type
                );
                problems.push(sli.wrong(&format!("{path}.type"), message));
            }
            None if named.source_type == source::TYPE => {
                for wrong in source::parse(&source.spec, role).err().unwrap_or_default() {
                    let mut problem = sli.wrong(&join(path, &wrong.path), wrong.message);
                    problem.nearest = wrong.near;
                    problems.push(problem);
                }
            }
            _ => {}
        }
    }
}

fn resolve_slo(slo: &Site<'_, Slo>, index: &Index<'_>, problems: &mut Vec<Problem>) -> Option<ResolvedSlo> {
    let spec = slo.object;
    let window = spec.time_window.clone().unwrap_or(DEFAULT_WINDOW);
    let length = window.period().nominal();
    let mut extensions = Extensions::default();
    let mut objectives: Vec<ResolvedObjective> = Vec::new();
    let mut names: HashSet<String> = HashSet::new();
    for (i, objective) in spec.objectives.iter().enumerate() {
        let Some(Ok(sli)) = slo.sli(index, i, objective) else {
            continue;
        };
        annotation::apply(&mut extensions, sli.metadata);
        let path = Site::<Slo>::objective(i);
        let Some(budgeting) = budgeting(spec.budgeting_method, objective) else {
            continue;
        };
        if let Budgeting::Timeslices { slice, .. } | Budgeting::RatioTimeslices { slice } = budgeting
            && slice > length
        {
            problems.push(slo.wrong(&format!("{path}.timeSliceWindow"), "longer than the window of the SLO"));
        }
        let name = objective
            .display_name
            .clone()
            .unwrap_or_else(|| format!("objective-{}", i + 1));
        let name = match names.contains(&name) {
            true => format!("{name} ({})", i + 1),
            false => name,
        };
        match indicator(&sli, objective, index) {
            Ok(indicator) => {
                names.insert(name.clone());
                objectives.push(ResolvedObjective {
                    name,
                    target: objective.target,
                    budgeting,
                    indicator,
                    weight: objective.composite_weight.unwrap_or(Decimal::ONE),
                });
            }
            Err(Bad::Objective(message)) => problems.push(slo.wrong(&path, message)),
            Err(Bad::Sli(path, message)) => problems.push(sli.wrong(&path, message)),
            Err(Bad::Noted) => {}
        }
    }
    annotation::apply(&mut extensions, slo.metadata);
    let mut alerts = Vec::new();
    let mut complete = true;
    for policy in slo.policies(index) {
        let rule = policy.ok().and_then(|policy| alert_rule(&policy, index, length));
        complete &= rule.is_some();
        alerts.extend(rule);
    }
    alerts.extend(profile(&extensions, length));
    if !complete || objectives.len() != spec.objectives.len() {
        return None;
    }
    let mut resolved = ResolvedSlo {
        name: slo.metadata.name.clone(),
        display_name: slo
            .metadata
            .display_name
            .clone()
            .unwrap_or_else(|| slo.metadata.name.clone()),
        service: spec.service.clone(),
        description: spec.description.clone().unwrap_or_default(),
        labels: slo.metadata.labels.clone(),
        window,
        method: spec.budgeting_method,
        objectives,
        composite: spec.is_composite(),
        alerts,
        extensions,
        hash: crate::resolved::DefinitionHash(0),
        origin: slo.document.places.start(),
    };
    resolved.hash = crate::hash::definition(&resolved);
    Some(resolved)
}

/// The method with what it needs; `None` if a document that was never checked lacks it.
fn budgeting(method: BudgetingMethod, objective: &Objective) -> Option<Budgeting> {
    let slice = || objective.time_slice_window.and_then(Period::fixed);
    Some(match method {
        BudgetingMethod::Occurrences => Budgeting::Occurrences,
        BudgetingMethod::Timeslices => Budgeting::Timeslices {
            slice: slice()?,
            target: objective.time_slice_target?,
        },
        BudgetingMethod::RatioTimeslices => Budgeting::RatioTimeslices { slice: slice()? },
    })
}

/// Why there is no indicator.
pub(crate) enum Bad {
    Objective(String),
    /// Path below the spec of the SLI.
    Sli(String, String),
    /// The problem is already among the others.
    Noted,
}

/// What an objective measures.
pub(crate) fn indicator(sli: &Site<'_, Sli>, objective: &Objective, index: &Index<'_>) -> Result<Indicator, Bad> {
    let read = |source: &MetricSource, role| read_source(source, role, index);
    match &sli.object.metric {
        Metric::Threshold(metric) => {
            let (source, _) = read(metric, Role::Threshold)?;
            match (objective.op, objective.value) {
                (Some(op), Some(limit)) => Ok(Indicator::Threshold { source, op, limit }),
                _ => Err(Bad::Objective(
                    "its SLI is a threshold: write `op: lte` (or gte, lt, gt) and a `value`".into(),
                )),
            }
        }
        Metric::Raw { part_is, source, .. } => match read(source, Role::Raw(*part_is))? {
            (Source::Red(of), Some(good)) => Ok(Indicator::Requests { of, good }),
            (source, _) => Ok(Indicator::Raw {
                part_is: *part_is,
                source,
            }),
        },
        Metric::Ratio {
            counter,
            part_is,
            part,
            total,
        } => {
            let role = if *part_is == Part::Good { Role::Good } else { Role::Bad };
            let (part, good) = read(part, role)?;
            let (total, _) = read(total, Role::Total)?;
            let found = (part, good);
            source::pair_holds(&found, &total)
                .map_err(|wrong| Bad::Sli(format!("ratioMetric.good.{}", wrong.path), wrong.message))?;
            Ok(match found {
                (Source::Red(of), Some(good)) => Indicator::Requests { of, good },
                (part, _) => Indicator::Ratio {
                    part_is: *part_is,
                    part,
                    total,
                    counter: *counter,
                },
            })
        }
    }
}

fn read_source(source: &MetricSource, role: Role, index: &Index<'_>) -> Result<(Source, Option<source::Good>), Bad> {
    let named = source.source_ref.as_ref().map(|name| index.data_source(name));
    let source_type = match (&source.source_type, named) {
        (Some(said), _) => said.as_str(),
        (None, Some(Some(named))) => named.source_type.as_str(),
        (None, Some(None)) => return Err(Bad::Noted),
        (None, None) if source::is_ours(source) => source::TYPE,
        (None, None) => "",
    };
    if source_type == source::TYPE {
        return source::parse(&source.spec, role).map_err(|_| Bad::Noted);
    }
    let foreign = Source::Foreign {
        source_type: source_type.to_owned(),
        spec: source.spec.clone(),
    };
    Ok((foreign, None))
}

fn alert_rule(policy: &Site<'_, AlertPolicy>, index: &Index<'_>, window: Duration) -> Option<AlertRule> {
    let condition = policy.condition(index).ok()?;
    let tiers = match annotation::text(condition.metadata, "burn-tiers") {
        Some(text) => {
            let tiers = annotation::parse_tiers(&text).ok()?;
            tiers.into_iter().map(|tier| tier.resolve(window)).collect()
        }
        None => vec![BurnTier {
            op: condition.object.op,
            threshold: condition.object.threshold,
            long: condition.object.lookback_window.nominal(),
            short: None,
        }],
    };
    let targets = policy
        .targets(index)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .ok()?
        .into_iter();
    Some(AlertRule {
        name: policy.metadata.name.clone(),
        severity: condition.object.severity.clone(),
        tiers,
        after: condition.object.alert_after.map_or(Duration::ZERO, Period::nominal),
        when_breaching: policy.object.alert_when_breaching,
        when_no_data: policy.object.alert_when_no_data,
        when_resolved: policy.object.alert_when_resolved,
        targets: targets
            .map(|target| (target.metadata.name.clone(), target.object.target.clone()))
            .collect(),
        runbook: annotation::text(policy.metadata, "runbook"),
        summary: annotation::text(policy.metadata, "summary"),
    })
}

/// A share of the budget in percent, the long window, the short one: SRE workbook, chapter 5, table 5-8; the ticket at 10 % in one day is
/// from its code. Short is a twelfth of long.
const WORKBOOK_PAGE: [(i64, u64, u64); 2] = [(2, 3600, 300), (5, 6 * 3600, 1800)];
const WORKBOOK_TICKET: [(i64, u64, u64); 2] = [(10, 86_400, 7200), (10, 3 * 86_400, 6 * 3600)];

/// The rules of `alert-profile`.
pub(crate) fn profile(extensions: &Extensions, window: Duration) -> Vec<AlertRule> {
    let whole = |n| Decimal::new(n, 0).unwrap_or_default();
    let workbook = |tiers: &[(i64, u64, u64)]| -> Vec<BurnTier> {
        let each = tiers.iter().map(|(percent, long, short)| {
            let long = Duration::from_secs(*long);
            let rate = annotation::share_to_rate(whole(*percent), window, long);
            BurnTier {
                op: Op::Gt,
                // Below 1 it would fire on a service that meets its SLO.
                threshold: rate.max(Decimal::ONE),
                long,
                short: Some(Duration::from_secs(*short)),
            }
        });
        // A window longer than that of the SLO looks at time that does not count.
        each.filter(|tier| tier.long <= window).collect()
    };
    let seed = |rate, long, short| {
        vec![BurnTier {
            op: Op::Gt,
            threshold: whole(rate),
            long: Duration::from_secs(long),
            short: Some(Duration::from_secs(short)),
        }]
    };
    let (page, ticket) = match extensions.alert_profile {
        AlertProfile::None => return Vec::new(),
        AlertProfile::Workbook => (workbook(&WORKBOOK_PAGE), workbook(&WORKBOOK_TICKET)),
        AlertProfile::Seed => (seed(4, 300, 60), seed(2, 1800, 600)),
        AlertProfile::Default => (workbook(&WORKBOOK_PAGE), seed(2, 1800, 600)),
    };
    let rule = |severity: &str, tiers: Vec<BurnTier>| AlertRule {
        name: format!("profile/{severity}"),
        severity: severity.to_owned(),
        tiers,
        after: Duration::ZERO,
        when_breaching: true,
        when_no_data: false,
        when_resolved: true,
        targets: Vec::new(),
        runbook: extensions.runbook.clone(),
        summary: None,
    };
    let rules = [("page", page), ("ticket", ticket)];
    rules
        .into_iter()
        .filter(|(_, tiers)| !tiers.is_empty())
        .map(|(severity, tiers)| rule(severity, tiers))
        .collect()
}
