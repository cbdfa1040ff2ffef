//! `openslo/v1`, rule by rule. Sources: README of OpenSLO/OpenSLO and the validation of OpenSLO/go-sdk (`pkg/openslo/v1`).
//!
//! Looser than the SDK in one thing: `op` and `value` on a ratio SLI, which the published examples have, are left to a lint.

use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use chrono_tz::{TZ_VARIANTS, Tz};
use tailwater_config::nearest;
use tailwater_config::yaml::{Node, Value};

use super::KINDS;
use super::fields::{Field, Fields, Reader, join};
use crate::annotation;
use crate::decimal::{Decimal, Target};
use crate::document::{
    AlertCondition, AlertNotificationTarget, AlertPolicy, BudgetingMethod, DataSource, Inline, Metadata, Metric,
    MetricSource, Object, Objective, Op, Part, Service, Sli, Slo, TimeWindow,
};
use crate::period::Period;
use crate::source;

/// Longest description, in characters.
const DESCRIPTION_MAX: usize = 1050;
/// Longest name and display name, in characters.
const NAME_MAX: usize = 63;

/// Reads one document. `None` if it has problems so grave that nothing is left of it.
pub(super) fn read(node: &Node, r: &mut Reader<'_>) -> Option<(Metadata, Object)> {
    let fields = r.fields(node, "", &["apiVersion", "kind", "metadata", "spec"])?;
    let kind = r.required(&fields, "kind", "for example `kind: SLO`")?;
    let kinds: Vec<_> = KINDS.iter().map(|kind| (*kind, *kind)).collect();
    let kind = r.word(&kind, &kinds)?;
    let metadata = metadata(&fields, kind, r);
    let spec = r.required(&fields, "spec", "a `spec:` section");
    let object = spec.and_then(|spec| object(kind, &spec, r));
    Some((metadata?, object?))
}

fn object(kind: &str, spec: &Field<'_>, r: &mut Reader<'_>) -> Option<Object> {
    Some(match kind {
        "DataSource" => Object::DataSource(data_source(spec, r)?),
        "Service" => Object::Service(service(spec, r)?),
        "SLO" => Object::Slo(Box::new(slo(spec, r)?)),
        "SLI" => Object::Sli(sli(spec, r)?),
        "AlertPolicy" => Object::AlertPolicy(alert_policy(spec, r)?),
        "AlertCondition" => Object::AlertCondition(alert_condition(spec, r)?),
        _ => Object::AlertNotificationTarget(notification_target(spec, r)?),
    })
}

fn metadata(fields: &Fields<'_>, kind: &str, r: &mut Reader<'_>) -> Option<Metadata> {
    let field = r.required(fields, "metadata", "a `metadata:` section with a `name`")?;
    let fields = r.fields(
        field.node,
        &field.path,
        &["name", "displayName", "labels", "annotations"],
    )?;
    let name = r.required(&fields, "name", "a name such as `checkout-availability`");
    let name = name.and_then(|name| r.parsed(&name, dns_label));
    let display_name = fields.get("displayName").and_then(|field| {
        r.parsed(&field, |text| match text.chars().count() {
            0..=NAME_MAX => Ok(text.to_owned()),
            n => Err(format!(
                "at most {NAME_MAX} characters, found {n}; a longer text goes into `spec.description`"
            )),
        })
    });
    let labels = fields.get("labels").map(|field| labels(&field, r)).unwrap_or_default();
    let annotations = fields
        .get("annotations")
        .map(|field| annotations(&field, r))
        .unwrap_or_default();
    let metadata = Metadata {
        name: name?,
        display_name,
        labels,
        annotations,
    };
    for (key, message, near) in annotation::mistakes(kind, &metadata) {
        r.wrong_path(&join(&join(&fields.path, "annotations"), &key), message, near);
    }
    Some(metadata)
}

fn labels(field: &Field<'_>, r: &mut Reader<'_>) -> BTreeMap<String, Vec<String>> {
    let Some(fields) = r.open(field.node, &field.path) else {
        return BTreeMap::new();
    };
    let mut labels = BTreeMap::new();
    for (key, field) in fields.all() {
        if !word_of(key, NAME_MAX) {
            let message = format!(
                "a label is of letters, digits, `-`, `_` and `.`, begins and ends with a letter or digit, and has at most {NAME_MAX} characters"
            );
            r.wrong(field.key_at(), &field.path, message, None);
        }
        let values = match &field.node.value {
            Value::List(_) => r.items(&field).iter().filter_map(|item| r.text(item)).collect(),
            Value::Map(_) => {
                r.wrong_field(&field, "expected a string or a list of strings");
                continue;
            }
            Value::Scalar { text, .. } => vec![text.clone()],
        };
        labels.insert(key.to_owned(), values);
    }
    labels
}

fn annotations(field: &Field<'_>, r: &mut Reader<'_>) -> BTreeMap<String, String> {
    let Some(fields) = r.open(field.node, &field.path) else {
        return BTreeMap::new();
    };
    let mut annotations = BTreeMap::new();
    for (key, field) in fields.all() {
        let (prefix, name) = key
            .rsplit_once('/')
            .map_or((None, key), |(prefix, name)| (Some(prefix), name));
        let prefix_holds =
            prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(|part| dns_label(part).is_ok()));
        if !prefix_holds || !word_of(name, NAME_MAX) {
            let message =
                "an annotation is a name such as `runbook`, or a domain and a name such as `example.com/runbook`";
            r.wrong(field.key_at(), &field.path, message, None);
        }
        if let Value::Scalar { text, .. } = &field.node.value {
            annotations.insert(key.to_owned(), text.clone());
        } else {
            r.wrong_field(&field, "the value of an annotation is one string: put it in quotes");
        }
    }
    annotations
}

/// `[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?`
fn word_of(text: &str, most: usize) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= most && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|b| inner(*b))
}

/// A name as RFC 1123 wants it.
pub(crate) fn dns_label(text: &str) -> Result<String, String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let bytes = text.as_bytes();
    let ends_well = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    if text.len() <= NAME_MAX && bytes.iter().all(|b| inner(*b)) && ends_well(bytes.first()) && ends_well(bytes.last())
    {
        return Ok(text.to_owned());
    }
    let instead = slug(text);
    let rule = format!("a name is of lower case letters, digits and `-`, and has 1 to {NAME_MAX} characters");
    Err(if instead.is_empty() {
        rule
    } else {
        format!("{rule}: write {instead}")
    })
}

/// The nearest name that is allowed; empty if nothing of the text can stay.
pub(crate) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    slug.truncate(NAME_MAX);
    slug.trim_end_matches('-').to_owned()
}

fn description(fields: &Fields<'_>, r: &mut Reader<'_>) -> Option<String> {
    let field = fields.get("description")?;
    r.parsed(&field, |text| match text.chars().count() {
        0..=DESCRIPTION_MAX => Ok(text.to_owned()),
        n => Err(format!("at most {DESCRIPTION_MAX} characters, found {n}")),
    })
}

fn data_source(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<DataSource> {
    let fields = r.fields(spec.node, &spec.path, &["description", "type", "connectionDetails"])?;
    let description = description(&fields, r);
    let source_type = r
        .required(&fields, "type", "for example `type: tailwater`")
        .and_then(|f| r.text(&f));
    let details = fields.get("connectionDetails");
    // Ours needs no connection: it is this very lake.
    if details.is_none() && source_type.as_deref().is_some_and(|t| t != source::TYPE) {
        r.missing(&fields, "connectionDetails", "how to reach it, or `{}`");
    }
    Some(DataSource {
        description,
        connection_details: details.map(|field| r.free(field.node, &field.path)),
        source_type: source_type?,
    })
}

fn service(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<Service> {
    let fields = r.fields(spec.node, &spec.path, &["description"])?;
    Some(Service {
        description: description(&fields, r),
    })
}

/// What may be in an objective, in the order of the specification.
pub(crate) const OBJECTIVE_KEYS: [&str; 10] = [
    "displayName",
    "op",
    "value",
    "target",
    "targetPercent",
    "timeSliceTarget",
    "timeSliceWindow",
    "indicator",
    "indicatorRef",
    "compositeWeight",
];

fn slo(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<Slo> {
    let known = [
        "description",
        "service",
        "indicator",
        "indicatorRef",
        "timeWindow",
        "budgetingMethod",
        "objectives",
        "alertPolicies",
    ];
    let fields = r.fields(spec.node, &spec.path, &known)?;
    let description = description(&fields, r);
    let service = r.required(&fields, "service", "the name of the service it is about");
    let service = service.and_then(|field| r.text(&field));
    let indicator = indicator(&fields, r);
    let time_window = fields.get("timeWindow").and_then(|field| one_time_window(&field, r));
    let method = r.required(
        &fields,
        "budgetingMethod",
        "`budgetingMethod: Occurrences` (or Timeslices, RatioTimeslices)",
    );
    let method = method.and_then(|field| {
        use BudgetingMethod::{Occurrences, RatioTimeslices, Timeslices};
        let all = [Occurrences, Timeslices, RatioTimeslices].map(|method| (method.word(), method));
        r.word(&field, &all)
    });
    let list = r.required(&fields, "objectives", "at least one objective with a `target`");
    let items = list.as_ref().map(|field| r.items(field)).unwrap_or_default();
    if let Some(list) = &list
        && items.is_empty()
        && matches!(list.node.value, Value::List(_))
    {
        r.wrong_field(list, "empty: write at least one objective with a `target`");
    }
    let objectives: Vec<_> = items.iter().map(|item| objective(item, method, r)).collect();
    let policies = fields
        .get("alertPolicies")
        .map(|field| r.items(&field))
        .unwrap_or_default();
    let policies: Vec<_> = policies
        .iter()
        .map(|item| inline(item, "alertPolicyRef", "AlertPolicy", r, alert_policy))
        .collect();
    let objectives: Option<Vec<_>> = objectives.into_iter().collect();
    if !items.is_empty() {
        one_level_of_indicators(&fields, &items, indicator.is_some(), r);
    }
    if let Some(objectives) = &objectives {
        let here = indicator.as_ref().and_then(|found| found.as_ref());
        for (objective, item) in objectives.iter().zip(&items) {
            let own = objective.indicator.as_ref();
            if let Some(Inline::Here(_, sli)) = own.or(here) {
                threshold_needs_a_limit(&sli.metric, objective, item, r);
            }
        }
    }
    Some(Slo {
        description,
        service: service?,
        indicator: indicator.flatten(),
        time_window,
        budgeting_method: method?,
        objectives: objectives?,
        alert_policies: policies.into_iter().collect::<Option<_>>()?,
    })
}

/// An SLO has one indicator, or, as a composite, one in every objective.
fn one_level_of_indicators(fields: &Fields<'_>, items: &[Field<'_>], has_own: bool, r: &mut Reader<'_>) {
    let own = |item: &Field<'_>| ["indicator", "indicatorRef"].into_iter().find(|key| item.has(key));
    let with = items.iter().filter(|item| own(item).is_some()).count();
    if !has_own && with == 0 {
        r.missing(
            fields,
            "indicator",
            "`indicator:` or `indicatorRef:` here, or in each objective of a composite",
        );
    }
    for item in items {
        match own(item) {
            Some(key) if has_own => {
                let message =
                    "an indicator both here and in `spec`: keep the one in `spec`, or move it into every objective";
                r.wrong_path(&join(&item.path, key), message, None);
            }
            None if !has_own && with > 0 => {
                let message = "no indicator: in a composite every objective has its own";
                r.wrong_path(&item.path, message, None);
            }
            _ => {}
        }
        if has_own && item.has("compositeWeight") {
            let message = "only in a composite, where each objective has its own indicator";
            r.wrong_path(&join(&item.path, "compositeWeight"), message, None);
        }
    }
}

/// `None`: not given. `Some(None)`: given, and wrong.
fn indicator(fields: &Fields<'_>, r: &mut Reader<'_>) -> Option<Option<Inline<Sli>>> {
    match (fields.get("indicator"), fields.get("indicatorRef")) {
        (Some(_), Some(by_name)) => {
            r.wrong(
                by_name.key_at(),
                &by_name.path,
                "both `indicator` and `indicatorRef`: keep one of them",
                None,
            );
            Some(None)
        }
        (Some(here), None) => {
            let read = |r: &mut Reader<'_>| {
                let fields = r.fields(here.node, &here.path, &["metadata", "spec"])?;
                let metadata = metadata(&fields, "SLI", r);
                let spec = r.required(&fields, "spec", "a `spec:` with `ratioMetric` or `thresholdMetric`");
                let sli = spec.and_then(|spec| sli(&spec, r));
                Some(Inline::Here(metadata?, sli?))
            };
            Some(read(r))
        }
        (None, Some(by_name)) => Some(r.parsed(&by_name, dns_label).map(Inline::Ref)),
        (None, None) => None,
    }
}

fn one_time_window(field: &Field<'_>, r: &mut Reader<'_>) -> Option<TimeWindow> {
    let items = r.items(field);
    match items.as_slice() {
        [] => {
            if matches!(field.node.value, Value::List(_)) {
                r.wrong_field(field, "empty: write exactly one window, or leave the key out");
            }
            None
        }
        [one] => time_window(one, r),
        [one, second, ..] => {
            r.wrong(
                second.key_at(),
                &second.path,
                "exactly one window is allowed: make an SLO for each",
                None,
            );
            time_window(one, r)
        }
    }
}

fn time_window(item: &Field<'_>, r: &mut Reader<'_>) -> Option<TimeWindow> {
    let fields = r.fields(item.node, &item.path, &["duration", "isRolling", "calendar"])?;
    let duration = r.required(&fields, "duration", "for example `duration: 30d`");
    let period = duration.and_then(|field| {
        r.parsed(&field, |text| match Period::parse(text)? {
            Period { count: 0, .. } => Err("a window is longer than nothing".into()),
            period if period.nominal().as_secs() > 10 * 366 * 86_400 => Err("longer than ten years".into()),
            period => Ok(period),
        })
    });
    let rolling = fields.get("isRolling").and_then(|field| r.bool(&field));
    let calendar_field = fields.get("calendar");
    let calendar = calendar_field.as_ref().map(|field| calendar(field, r));
    match (rolling, calendar) {
        (Some(true), None) => Some(TimeWindow::Rolling(period?)),
        (Some(true), Some(_)) => {
            if let Some(field) = calendar_field {
                let message = "a rolling window has no calendar: remove it, or write `isRolling: false`";
                r.wrong(field.key_at(), &field.path, message, None);
            }
            None
        }
        (Some(false) | None, Some(calendar)) => {
            let (start, zone) = calendar?;
            Some(TimeWindow::Calendar {
                period: period?,
                start,
                zone,
            })
        }
        (Some(false), None) => {
            let write = "`startTime` and `timeZone`, or `isRolling: true`";
            r.missing(&fields, "calendar", write);
            None
        }
        (None, None) => {
            if fields.get("isRolling").is_none() {
                r.missing(&fields, "isRolling", "`isRolling: true`, or a `calendar:`");
            }
            None
        }
    }
}

fn calendar(field: &Field<'_>, r: &mut Reader<'_>) -> Option<(NaiveDateTime, Tz)> {
    let fields = r.fields(field.node, &field.path, &["startTime", "timeZone"])?;
    let start = r.required(&fields, "startTime", "for example `startTime: 2026-01-01 00:00:00`");
    let start = start.and_then(|field| r.parsed(&field, start_time));
    let zone = r.required(&fields, "timeZone", "an IANA zone such as `timeZone: Europe/Berlin`");
    let zone = zone.and_then(|field| r.parsed(&field, time_zone));
    Some((start?, zone?))
}

fn start_time(text: &str) -> Result<NaiveDateTime, String> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").map_err(|_| {
        match chrono::DateTime::parse_from_rfc3339(text) {
            Ok(time) => format!(
                "expected local time without a zone (`timeZone` says it): write {}",
                time.naive_local().format("%Y-%m-%d %H:%M:%S")
            ),
            Err(_) => "expected a time such as 2026-01-01 00:00:00".into(),
        }
    })
}

fn time_zone(text: &str) -> Result<Tz, String> {
    text.parse().map_err(|_| {
        let fold = text.to_lowercase();
        let names = || TZ_VARIANTS.iter().map(|zone| zone.name());
        let near = names()
            .find(|name| name.to_lowercase() == fold)
            .or_else(|| names().find(|name| name.rsplit('/').next().is_some_and(|city| city.to_lowercase() == fold)))
            .or_else(|| nearest(text, names()));
        match near {
            Some(near) => format!("`{text}` is no IANA time zone; did you mean {near}?"),
            None => format!("`{text}` is no IANA time zone such as Europe/Berlin or UTC"),
        }
    })
}

const OPS: [(&str, Op); 4] = [("lte", Op::Lte), ("gte", Op::Gte), ("lt", Op::Lt), ("gt", Op::Gt)];

fn op(field: &Field<'_>, r: &mut Reader<'_>) -> Option<Op> {
    if let Value::Scalar { text, .. } = &field.node.value {
        let word = match text.as_str() {
            "<=" | "le" => "lte",
            ">=" | "ge" => "gte",
            "<" => "lt",
            ">" => "gt",
            _ => "",
        };
        if !word.is_empty() {
            r.wrong_field(field, format!("`{text}`: write {word}"));
            return None;
        }
    }
    r.word(field, &OPS)
}

fn objective(item: &Field<'_>, method: Option<BudgetingMethod>, r: &mut Reader<'_>) -> Option<Objective> {
    let fields = r.fields(item.node, &item.path, &OBJECTIVE_KEYS)?;
    let display_name = fields.get("displayName").and_then(|field| r.text(&field));
    let op = fields.get("op").map(|field| op(&field, r));
    let value = fields.get("value").map(|field| r.parsed(&field, Decimal::parse));
    let target = match (fields.get("target"), fields.get("targetPercent")) {
        (Some(field), None) => r.parsed(&field, |text| Target::new(Decimal::parse(text)?)),
        (None, Some(field)) => r.parsed(&field, |text| Target::from_percent(Decimal::parse(text)?)),
        (Some(_), Some(field)) => {
            r.wrong(
                field.key_at(),
                &field.path,
                "both `target` and `targetPercent`: keep one of them",
                None,
            );
            None
        }
        (None, None) => {
            r.missing(&fields, "target", "`target: 0.999` or `targetPercent: 99.9`");
            None
        }
    };
    let time_slice_target = fields.get("timeSliceTarget").map(|field| {
        r.parsed(&field, |text| {
            let target = Decimal::parse(text)?;
            if target.is_positive() && target <= Decimal::ONE && target.scale() <= 9 {
                Ok(target)
            } else {
                Err("a share above 0 and at most 1, with at most 9 digits after the point, such as 0.95".into())
            }
        })
    });
    let time_slice_window = fields.get("timeSliceWindow").map(|field| r.parsed(&field, slice));
    match method {
        Some(BudgetingMethod::Timeslices) if time_slice_target.is_none() => {
            r.missing(
                &fields,
                "timeSliceTarget",
                "what share of a slice must be good, such as 0.95 (Timeslices needs it)",
            );
        }
        _ => {}
    }
    if let Some(method @ (BudgetingMethod::Timeslices | BudgetingMethod::RatioTimeslices)) = method
        && time_slice_window.is_none()
    {
        let write = format!("the length of a slice, such as 1m ({} needs it)", method.word());
        r.missing(&fields, "timeSliceWindow", &write);
    }
    let indicator = indicator(&fields, r);
    let composite_weight = fields.get("compositeWeight").map(|field| {
        r.parsed(&field, |text| {
            let weight = Decimal::parse(text)?;
            if weight.is_positive() && weight.scale() <= 9 {
                Ok(weight)
            } else {
                Err("a weight is above 0 and has at most 9 digits after the point".into())
            }
        })
    });
    Some(Objective {
        display_name,
        op: op.flatten(),
        value: value.flatten(),
        target: target?,
        time_slice_target: time_slice_target.flatten(),
        time_slice_window: time_slice_window.flatten(),
        indicator: indicator.flatten(),
        composite_weight: composite_weight.flatten(),
    })
}

fn slice(text: &str) -> Result<Period, String> {
    let period = Period::parse(text)?;
    match period.fixed() {
        Some(length) if length.is_zero() => Err("a slice is longer than nothing".into()),
        Some(_) => Ok(period),
        None => Err("slices are all of one length: write it in m, h, d or w".into()),
    }
}

fn threshold_needs_a_limit(metric: &Metric, objective: &Objective, item: &Field<'_>, r: &mut Reader<'_>) {
    if !matches!(metric, Metric::Threshold(_)) {
        return;
    }
    let missing = [
        ("op", objective.op.is_none(), "`op: lte`, gte, lt or gt"),
        ("value", objective.value.is_none(), "what the metric is compared with"),
    ];
    for (key, is_missing, write) in missing {
        let path = join(&item.path, key);
        if is_missing && !item.has(key) {
            let message = format!("missing: a threshold SLI needs {write}");
            r.wrong_path(&path, message, None);
        }
    }
}

fn sli(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<Sli> {
    let fields = r.fields(
        spec.node,
        &spec.path,
        &["description", "thresholdMetric", "ratioMetric"],
    )?;
    let description = description(&fields, r);
    let metric = match (fields.get("thresholdMetric"), fields.get("ratioMetric")) {
        (Some(field), None) => metric_source(&field, source::Role::Threshold, r).map(Metric::Threshold),
        (None, Some(field)) => ratio(&field, r),
        (Some(_), Some(field)) => {
            let message = "both `thresholdMetric` and `ratioMetric`: keep one of them";
            r.wrong(field.key_at(), &field.path, message, None);
            None
        }
        (None, None) => {
            r.missing(&fields, "ratioMetric", "`ratioMetric:` or `thresholdMetric:`");
            None
        }
    };
    Some(Sli {
        description,
        metric: metric?,
    })
}

fn ratio(field: &Field<'_>, r: &mut Reader<'_>) -> Option<Metric> {
    let fields = r.fields(
        field.node,
        &field.path,
        &["counter", "good", "bad", "total", "rawType", "raw"],
    )?;
    let counter = fields.get("counter").and_then(|field| r.bool(&field)).unwrap_or(false);
    if let Some(raw) = fields.get("raw") {
        for key in ["good", "bad", "total"] {
            if let Some(other) = fields.get(key) {
                let message = format!("`{key}` beside `raw`: a ready ratio has no counts; keep one of the two forms");
                r.wrong(other.key_at(), &other.path, message, None);
            }
        }
        let kind = r.required(&fields, "rawType", "`rawType: success` or `rawType: failure`");
        let part_is = kind.and_then(|field| r.word(&field, &[("success", Part::Good), ("failure", Part::Bad)]));
        let source = metric_source(&raw, source::Role::Raw(part_is.unwrap_or(Part::Good)), r);
        return Some(Metric::Raw {
            counter,
            part_is: part_is?,
            source: source?,
        });
    }
    if let Some(kind) = fields.get("rawType") {
        r.wrong(kind.key_at(), &kind.path, "only with `raw`: remove it", None);
    }
    let total = r.required(&fields, "total", "`total:` beside `good` or `bad` (or `raw` alone)");
    let total = total.and_then(|field| metric_source(&field, source::Role::Total, r));
    let part = match (fields.get("good"), fields.get("bad")) {
        (Some(field), None) => metric_source(&field, source::Role::Good, r).map(|source| (Part::Good, source)),
        (None, Some(field)) => metric_source(&field, source::Role::Bad, r).map(|source| (Part::Bad, source)),
        (Some(_), Some(field)) => {
            r.wrong(
                field.key_at(),
                &field.path,
                "both `good` and `bad`: keep one of them",
                None,
            );
            None
        }
        (None, None) => {
            r.missing(&fields, "good", "`good:` or `bad:` beside `total`");
            None
        }
    };
    let ((part_is, part), total) = (part?, total?);
    if let Err(wrong) = source::check_pair(&part, &total) {
        r.wrong_path(
            &join(
                &join(&fields.path, if part_is == Part::Good { "good" } else { "bad" }),
                &wrong.path,
            ),
            wrong.message,
            wrong.near,
        );
    }
    Some(Metric::Ratio {
        counter,
        part_is,
        part,
        total,
    })
}

fn metric_source(field: &Field<'_>, role: source::Role, r: &mut Reader<'_>) -> Option<MetricSource> {
    let fields = r.fields(field.node, &field.path, &["metricSource"])?;
    let field = r.required(&fields, "metricSource", "a `metricSource:` with its `spec`")?;
    let fields = r.fields(field.node, &field.path, &["metricSourceRef", "type", "spec"])?;
    let source_ref = fields
        .get("metricSourceRef")
        .and_then(|field| r.parsed(&field, dns_label));
    let source_type = fields.get("type").and_then(|field| r.text(&field));
    let spec_field = r.required(&fields, "spec", "what to measure, such as `red: {service: checkout}`")?;
    let spec_fields = r.open(spec_field.node, &spec_field.path)?;
    let mut spec = BTreeMap::new();
    for (key, field) in spec_fields.all() {
        let value = r.free(field.node, &field.path);
        spec.insert(key.to_owned(), value);
    }
    if spec.is_empty() {
        r.wrong_field(
            &spec_field,
            "empty: write at least one key, such as `red: {service: checkout}`",
        );
        return None;
    }
    let source = MetricSource {
        source_ref,
        source_type,
        spec,
    };
    for wrong in source::check(&source, role) {
        r.wrong_path(&join(&fields.path, &wrong.path), wrong.message, wrong.near);
    }
    Some(source)
}

/// An object here, or the name of one: `{kind, metadata, spec}` or `{<ref_key>: name}`.
fn inline<T>(
    item: &Field<'_>,
    ref_key: &str,
    kind: &str,
    r: &mut Reader<'_>,
    read: fn(&Field<'_>, &mut Reader<'_>) -> Option<T>,
) -> Option<Inline<T>> {
    let fields = r.fields(item.node, &item.path, &[ref_key, "kind", "metadata", "spec"])?;
    if let Some(name) = fields.get(ref_key) {
        for key in ["kind", "metadata", "spec"] {
            if let Some(other) = fields.get(key) {
                let message = format!("beside `{ref_key}`: keep the name, or the object without `{ref_key}`");
                r.wrong(other.key_at(), &other.path, message, None);
            }
        }
        return r.parsed(&name, dns_label).map(Inline::Ref);
    }
    if fields.get("spec").is_none() && fields.get("metadata").is_none() {
        let message = format!("expected `{ref_key}: name`, or `kind: {kind}` with `metadata` and `spec`");
        r.wrong(fields.at(), &item.path, message, None);
        return None;
    }
    let found = r.required(&fields, "kind", &format!("`kind: {kind}`"));
    let found = found.and_then(|field| r.word(&field, &[(kind, ())]));
    let metadata = metadata(&fields, kind, r);
    let spec = r.required(&fields, "spec", "a `spec:` section");
    let object = spec.and_then(|spec| read(&spec, r));
    found?;
    Some(Inline::Here(metadata?, object?))
}

fn alert_policy(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<AlertPolicy> {
    let known = [
        "description",
        "alertWhenNoData",
        "alertWhenResolved",
        "alertWhenBreaching",
        "conditions",
        "notificationTargets",
    ];
    let fields = r.fields(spec.node, &spec.path, &known)?;
    let description = description(&fields, r);
    let mut flag = |key| fields.get(key).and_then(|field| r.bool(&field)).unwrap_or(false);
    let [no_data, resolved, breaching] = ["alertWhenNoData", "alertWhenResolved", "alertWhenBreaching"].map(&mut flag);
    let list = r.required(&fields, "conditions", "exactly one condition");
    let items = list.as_ref().map(|field| r.items(field)).unwrap_or_default();
    if let Some(list) = &list
        && matches!(list.node.value, Value::List(_))
        && items.len() != 1
    {
        let message = format!(
            "exactly one condition is allowed, found {}: two windows of one alert go into the annotation {}burn-tiers, other alerts into policies of their own",
            items.len(),
            annotation::PREFIX
        );
        r.wrong_field(list, message);
    }
    let conditions: Vec<_> = items
        .iter()
        .map(|item| inline(item, "conditionRef", "AlertCondition", r, alert_condition))
        .collect();
    let list = r.required(
        &fields,
        "notificationTargets",
        "at least one target, such as `- targetRef: on-call`",
    );
    let items = list.as_ref().map(|field| r.items(field)).unwrap_or_default();
    if let Some(list) = &list
        && matches!(list.node.value, Value::List(_))
        && items.is_empty()
    {
        r.wrong_field(list, "empty: write at least one target, such as `- targetRef: on-call`");
    }
    let targets: Vec<_> = items
        .iter()
        .map(|item| inline(item, "targetRef", "AlertNotificationTarget", r, notification_target))
        .collect();
    Some(AlertPolicy {
        description,
        alert_when_no_data: no_data,
        alert_when_resolved: resolved,
        alert_when_breaching: breaching,
        condition: conditions.into_iter().next()??,
        notification_targets: targets.into_iter().collect::<Option<_>>()?,
    })
}

fn alert_condition(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<AlertCondition> {
    let fields = r.fields(spec.node, &spec.path, &["description", "severity", "condition"])?;
    let description = description(&fields, r);
    let severity = r
        .required(&fields, "severity", "for example `severity: page`")
        .and_then(|field| r.text(&field));
    let field = r.required(&fields, "condition", "a `condition:` with `kind: burnrate`")?;
    let known = ["kind", "op", "threshold", "lookbackWindow", "alertAfter"];
    let fields = r.fields(field.node, &field.path, &known)?;
    if let Some(kind) = r.required(&fields, "kind", "`kind: burnrate`") {
        r.word(&kind, &[("burnrate", ())]);
    }
    let op = r.required(&fields, "op", "`op: gt`").and_then(|field| op(&field, r));
    let threshold = r.required(&fields, "threshold", "the burn rate, such as 14.4");
    let threshold = threshold.and_then(|field| r.parsed(&field, Decimal::parse));
    let lookback = r.required(&fields, "lookbackWindow", "for example `lookbackWindow: 1h`");
    let lookback = lookback.and_then(|field| {
        r.parsed(&field, |text| match Period::parse(text)? {
            period if period.fixed().is_none() => Err("a window of an alert is in m, h, d or w".into()),
            Period { count: 0, .. } => Err("a window is longer than nothing".into()),
            period => Ok(period),
        })
    });
    let after = fields.get("alertAfter").map(|field| {
        r.parsed(&field, |text| match Period::parse(text)? {
            period if period.fixed().is_none() => Err("write it in m, h, d or w".into()),
            period => Ok(period),
        })
    });
    Some(AlertCondition {
        description,
        severity: severity?,
        op: op?,
        threshold: threshold?,
        lookback_window: lookback?,
        alert_after: after.flatten(),
    })
}

fn notification_target(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<AlertNotificationTarget> {
    let fields = r.fields(spec.node, &spec.path, &["description", "target"])?;
    let description = description(&fields, r);
    let target = r
        .required(&fields, "target", "for example `target: alertmanager`")
        .and_then(|field| r.text(&field));
    Some(AlertNotificationTarget {
        description,
        target: target?,
    })
}
