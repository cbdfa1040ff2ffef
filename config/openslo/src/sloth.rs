//! Sloth's `prometheus/v1` as OpenSLO documents.
//!
//! A specification of one service with its SLOs becomes a Service and one SLO each, with the queries as they are and with Sloth's four
//! tiers of alerts in our annotation `burn-tiers`, since OpenSLO has no word for two windows. Source: slok/sloth
//! `pkg/prometheus/api/v1`; the tiers are those of its default 30 days (`internal/alert`), which are the workbook's.

use std::path::Path;
use std::sync::Arc;

use tailwater_config::yaml::{At, Entry, Node, Value, parse_all};

use crate::annotation::PREFIX;
use crate::decimal::{Decimal, Target};
use crate::read::{
    BOUNDS, Convert, Field, Fields, Reader, Reading, Said, V1, collect_said, list, map, problem, quoted, read_v1, slug,
    text_of, word,
};

/// What `version` says in a file of Sloth.
pub const VERSION: &str = "prometheus/v1";

/// Name, severity, tiers, and the first tier in OpenSLO's own words. 2, 5, 10 and 10 percent of 30 days.
const ALERTS: [(&str, &str, &str, &str, &str); 2] = [
    ("page", "page", "14.4@1h/5m or 6@6h/30m", "14.4", "1h"),
    ("ticket", "ticket", "3@1d/2h or 1@3d/6h", "3", "1d"),
];

/// Reads Sloth specifications. The documents are checked like any other; problems and notes name the places of the Sloth file.
#[must_use]
pub fn import_sloth(file: &Path, text: &str) -> Reading {
    let file = Arc::new(file.to_path_buf());
    let (roots, faults) = parse_all(text, BOUNDS);
    let mut reading = Reading::default();
    for fault in faults {
        reading.problems.push(problem(&file, fault.at, "", fault.message, None));
    }
    for root in &roots {
        let mut convert = Convert::new(&file);
        let mut reader = Reader::new(&file, None);
        let nodes = specification(root, &mut convert, &mut reader).unwrap_or_default();
        let mut problems = reader.finish().1;
        problems.append(&mut convert.problems);
        reading.reinterpreted.append(&mut convert.reinterpreted);
        let stuck = !problems.is_empty();
        reading.problems.extend(problems);
        if stuck {
            continue;
        }
        let mut said = Said::new();
        collect_said(root, "", &mut said);
        for node in nodes {
            read_v1(&file, &node, Some(&said), &mut reading);
        }
    }
    reading.in_order()
}

fn specification(root: &Node, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Option<Vec<Node>> {
    if let Value::Map(entries) = &root.value
        && let Some(kind) = entries.iter().find(|entry| entry.key == "kind")
        && matches!(&kind.node.value, Value::Scalar { text, .. } if text == "PrometheusServiceLevel")
    {
        c.wrong(
            kind.at,
            "kind",
            "a PrometheusServiceLevel of Kubernetes is not read: write its `spec` as a file with `version: prometheus/v1`, where keys have underscores (`error_query`)",
        );
        return None;
    }
    let fields = r.fields(root, "", &["version", "service", "labels", "slos", "slo_plugins"])?;
    let version = r.required(&fields, "version", &format!("`version: {VERSION}`"))?;
    r.word(&version, &[(VERSION, ())])?;
    let service = r.required(&fields, "service", "the name of the service");
    let slos = r.required(&fields, "slos", "at least one SLO");
    if let Some(plugins) = fields.get("slo_plugins") {
        c.note(
            plugins.key_at(),
            &plugins.path,
            "slo_plugins",
            "nothing: they are Go code of Sloth",
        );
    }
    let labels = fields.get("labels");
    let service = service?;
    let name = name_of(&service, c, r)?;
    let mut nodes = Vec::new();
    let metadata = metadata(service.node.at, &name, None, &[labels.as_ref()], Vec::new());
    nodes.push(document(root.at, "Service", metadata, map(root.at, [])));
    let slos = slos?;
    let items = r.items(&slos);
    if items.is_empty() {
        c.wrong(slos.node.at, "slos", "empty: write at least one SLO");
    }
    for item in &items {
        nodes.extend(slo(item, &name, labels.as_ref(), c, r));
    }
    Some(nodes)
}

/// The text of a field as a name that OpenSLO allows.
fn name_of(field: &Field<'_>, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Option<String> {
    let text = r.text(field)?;
    let name = slug(&text);
    if name.is_empty() {
        c.wrong(
            field.node.at,
            &field.path,
            "no letter or digit in it: OpenSLO wants a name such as `checkout`",
        );
        return None;
    }
    if name != text {
        c.note(
            field.node.at,
            &field.path,
            text,
            format!("the name `{name}`, as OpenSLO allows only lower case letters, digits and `-`"),
        );
    }
    Some(name)
}

fn document(at: At, kind: &'static str, metadata: Node, spec: Node) -> Node {
    let entries = [
        ("apiVersion", word(at, V1)),
        ("kind", word(at, kind)),
        ("metadata", metadata),
        ("spec", spec),
    ];
    map(at, entries)
}

fn metadata(at: At, name: &str, display: Option<Node>, labels: &[Option<&Field<'_>>], annotations: Vec<Entry>) -> Node {
    let mut entries = vec![("name", quoted(at, name))];
    entries.extend(display.map(|display| ("displayName", display)));
    let mut all: Vec<Entry> = Vec::new();
    for labels in labels.iter().flatten() {
        if let Value::Map(more) = &labels.node.value {
            // The inner one wins, as in Sloth.
            all.retain(|old| !more.iter().any(|new| new.key == old.key));
            all.extend(more.iter().cloned());
        }
    }
    for (key, found) in [("labels", all), ("annotations", annotations)] {
        if !found.is_empty() {
            let node = Node {
                at,
                value: Value::Map(found),
            };
            entries.push((key, node));
        }
    }
    map(at, entries)
}

fn slo(
    item: &Field<'_>,
    service: &str,
    labels: Option<&Field<'_>>,
    c: &mut Convert<'_>,
    r: &mut Reader<'_>,
) -> Option<Node> {
    let known = [
        "name",
        "description",
        "objective",
        "labels",
        "sli",
        "alerting",
        "plugins",
    ];
    let fields = r.fields(item.node, &item.path, &known)?;
    let name = r
        .required(&fields, "name", "a name")
        .and_then(|field| Some((name_of(&field, c, r)?, field)));
    let target = r.required(&fields, "objective", "the target in percent, such as 99.9");
    let target = target.and_then(|field| {
        let target = r.parsed(&field, |text| Target::from_percent(Decimal::parse(text)?))?;
        Some(word(field.node.at, target.fraction().to_string()))
    });
    let sli = r
        .required(&fields, "sli", "`events:` or `raw:`")
        .and_then(|field| sli(&field, c, r));
    if let Some(plugins) = fields.get("plugins") {
        c.note(
            plugins.key_at(),
            &plugins.path,
            "plugins",
            "nothing: they are Go code of Sloth",
        );
    }
    let alerting = r.required(
        &fields,
        "alerting",
        "`alerting:`, with `page_alert: {disable: true}` if there is to be none",
    );
    let policies = alerting
        .map(|field| alerting_policies(&field, c, r))
        .unwrap_or_default();
    let ((name, field), target, (sli, method)) = (name?, target?, sli?);
    // Sloth names an SLO by its service and itself; in OpenSLO a name stands alone.
    let full = slug(&format!("{service}-{name}"));
    let at = item.node.at;
    c.note(
        field.node.at,
        &field.path,
        text_of(field.node),
        format!("the name `{full}`"),
    );
    if method == "Occurrences" {
        let meant =
            "a budget of events over a rolling 30d; Sloth's own 30 d figure is a mean of 5 m ratios (slok/sloth#332)";
        c.note(at, &item.path, "the default period", meant);
    }
    let indicator = [
        (
            "metadata",
            map(at, [("name", quoted(at, slug(&format!("{name}-sli"))))]),
        ),
        ("spec", sli),
    ];
    let window = map(at, [("duration", word(at, "30d")), ("isRolling", word(at, "true"))]);
    let mut objective = vec![("target", target)];
    if method == "RatioTimeslices" {
        objective.push(("timeSliceWindow", word(at, "5m")));
    }
    let mut spec = Vec::new();
    spec.extend(
        fields
            .get("description")
            .map(|field| ("description", field.node.clone())),
    );
    spec.extend([
        ("service", quoted(at, service)),
        ("indicator", map(at, indicator)),
        ("timeWindow", list(at, vec![window])),
        ("budgetingMethod", word(at, method)),
        ("objectives", list(at, vec![map(at, objective)])),
    ]);
    if !policies.is_empty() {
        spec.push(("alertPolicies", list(at, policies)));
    }
    let own = fields.get("labels");
    let metadata = metadata(at, &full, Some(field.node.clone()), &[labels, own.as_ref()], Vec::new());
    Some(document(at, "SLO", metadata, map(at, spec)))
}

/// The spec of an SLI, and the method that its numbers allow.
fn sli(field: &Field<'_>, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Option<(Node, &'static str)> {
    let fields = r.fields(
        field.node,
        &field.path,
        &["events", "raw", "plugin", "denominator_corrected"],
    )?;
    let at = field.node.at;
    let forms = ["events", "raw", "plugin", "denominator_corrected"];
    let given: Vec<_> = forms.iter().filter_map(|form| fields.get(form)).collect();
    let [form] = given.as_slice() else {
        c.wrong(at, &field.path, "exactly one of `events:` and `raw:` is expected");
        return None;
    };
    let source = |query: &Field<'_>| {
        let at = query.node.at;
        let spec = map(at, [("query", quoted(at, text_of(query.node)))]);
        map(
            at,
            [(
                "metricSource",
                map(at, [("type", word(at, "Prometheus")), ("spec", spec)]),
            )],
        )
    };
    let ratio = |entries: Vec<(&'static str, Node)>| map(at, [("ratioMetric", map(at, entries))]);
    if form.path.ends_with(".events") {
        let fields = r.fields(form.node, &form.path, &["error_query", "total_query"])?;
        let bad = r.required(&fields, "error_query", "a query of the errors");
        let total = r.required(&fields, "total_query", "a query of all events");
        return Some((
            ratio(vec![("bad", source(&bad?)), ("total", source(&total?))]),
            "Occurrences",
        ));
    }
    if form.path.ends_with(".raw") {
        let fields = r.fields(form.node, &form.path, &["error_ratio_query"])?;
        let query = r.required(&fields, "error_ratio_query", "a query of the share of errors")?;
        let meant = "RatioTimeslices of 5m: without counts the budget can only be a mean of ratios, which is also what Sloth computes";
        c.note(form.key_at(), &form.path, "raw", meant);
        return Some((
            ratio(vec![("rawType", word(at, "failure")), ("raw", source(&query))]),
            "RatioTimeslices",
        ));
    }
    let message = "is computed by a plugin, Go code of Sloth: write the queries that it generates as `events:`";
    c.wrong(form.key_at(), &form.path, message);
    None
}

fn alerting_policies(field: &Field<'_>, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Vec<Node> {
    let known = ["name", "labels", "annotations", "page_alert", "ticket_alert"];
    let Some(fields) = r.fields(field.node, &field.path, &known) else {
        return Vec::new();
    };
    let mut policies = Vec::new();
    for (kind, severity, tiers, threshold, lookback) in ALERTS {
        let alert = fields.get(&format!("{kind}_alert"));
        let known = ["disable", "labels", "annotations"];
        let alert = alert.and_then(|alert| r.fields(alert.node, &alert.path, &known));
        let off = alert
            .as_ref()
            .and_then(|alert| alert.get("disable"))
            .and_then(|field| r.bool(&field));
        if off == Some(true) {
            continue;
        }
        policies.push(policy(
            &fields,
            alert.as_ref(),
            (kind, severity, tiers, threshold, lookback),
            c,
            r,
        ));
    }
    policies
}

fn policy(
    fields: &Fields<'_>,
    alert: Option<&Fields<'_>>,
    (kind, severity, tiers, threshold, lookback): (&str, &'static str, &'static str, &'static str, &'static str),
    c: &mut Convert<'_>,
    r: &mut Reader<'_>,
) -> Node {
    let at = alert.map_or(fields.at(), Fields::at);
    let name = fields
        .get("name")
        .map(|field| text_of(field.node).to_owned())
        .unwrap_or_default();
    let name = slug(&if name.is_empty() {
        kind.to_owned()
    } else {
        format!("{}-{kind}", kebab(&name))
    });
    let own = |key: &str| alert.and_then(|alert| alert.get(key));
    let labels = [fields.get("labels"), own("labels")];
    let mut annotations: Vec<Entry> = Vec::new();
    for field in [fields.get("annotations"), own("annotations")].into_iter().flatten() {
        let Some(found) = r.open(field.node, &field.path) else {
            continue;
        };
        for (key, field) in found.all() {
            let to = match key {
                "runbook" | "runbook_url" => format!("{PREFIX}runbook"),
                "summary" => format!("{PREFIX}summary"),
                _ => format!("sloth.dev/{key}"),
            };
            c.note(field.node.at, &field.path, key, format!("the annotation `{to}`"));
            annotations.retain(|old| old.key != to);
            annotations.push(Entry {
                key: to,
                at: field.key_at(),
                node: field.node.clone(),
            });
        }
    }
    let tiers = Entry {
        key: format!("{PREFIX}burn-tiers"),
        at,
        node: quoted(at, tiers),
    };
    let condition = map(
        at,
        [
            ("kind", word(at, "AlertCondition")),
            (
                "metadata",
                metadata(at, &format!("{severity}-burn"), None, &[], vec![tiers]),
            ),
            (
                "spec",
                map(
                    at,
                    [
                        ("severity", word(at, severity)),
                        (
                            "condition",
                            map(
                                at,
                                [
                                    ("kind", word(at, "burnrate")),
                                    ("op", word(at, "gt")),
                                    ("threshold", word(at, threshold)),
                                    ("lookbackWindow", word(at, lookback)),
                                ],
                            ),
                        ),
                    ],
                ),
            ),
        ],
    );
    let target = map(
        at,
        [
            ("kind", word(at, "AlertNotificationTarget")),
            ("metadata", metadata(at, "alertmanager", None, &[], Vec::new())),
            ("spec", map(at, [("target", word(at, "alertmanager"))])),
        ],
    );
    let labels: Vec<_> = labels.iter().map(Option::as_ref).collect();
    let spec = map(
        at,
        [
            ("alertWhenResolved", word(at, "true")),
            ("alertWhenBreaching", word(at, "true")),
            ("conditions", list(at, vec![condition])),
            ("notificationTargets", list(at, vec![target])),
        ],
    );
    map(
        at,
        [
            ("kind", word(at, "AlertPolicy")),
            ("metadata", metadata(at, &name, None, &labels, annotations)),
            ("spec", spec),
        ],
    )
}

/// `MyServiceHighErrorRate` as `my-service-high-error-rate`.
fn kebab(text: &str) -> String {
    let mut out = String::new();
    let mut lower = false;
    for c in text.chars() {
        if c.is_ascii_uppercase() && lower {
            out.push('-');
        }
        lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        out.push(c);
    }
    out
}
