//! SLOs: windows, objectives, and which indicator belongs to which.

use chrono::NaiveDateTime;
use chrono_tz::{TZ_VARIANTS, Tz};
use tailwater_config::nearest;
use tailwater_config::yaml::Value;

use super::super::fields::{Field, Fields, Reader, join};
use super::alert::alert_policy;
use super::sli::sli;
use super::{description, dns_label, inline, metadata};
use crate::decimal::{Decimal, Target};
use crate::document::{BudgetingMethod, Inline, Metric, Objective, Op, Sli, Slo, TimeWindow};
use crate::period::Period;

/// What may be in an objective, in the order of the specification.
const OBJECTIVE_KEYS: [&str; 10] = [
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

pub(super) fn slo(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<Slo> {
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

pub(super) fn op(field: &Field<'_>, r: &mut Reader<'_>) -> Option<Op> {
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
