//! Alert policies, their conditions, and who is told.

use tailwater_config::yaml::Value;

use super::super::fields::{Field, Reader};
use super::slo::op;
use super::{description, inline};
use crate::annotation;
use crate::decimal::Decimal;
use crate::document::{AlertCondition, AlertNotificationTarget, AlertPolicy};
use crate::period::Period;

pub(super) fn alert_policy(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<AlertPolicy> {
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

pub(super) fn alert_condition(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<AlertCondition> {
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

pub(super) fn notification_target(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<AlertNotificationTarget> {
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
