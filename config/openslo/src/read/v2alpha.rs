//! `openslo.com/v2alpha` as nodes of v1. Sources: `enhancements/v2alpha.md` of OpenSLO/OpenSLO and `pkg/openslo/v2alpha` of
//! OpenSLO/go-sdk; where the two disagree (`service` or `serviceRef`, `alertAfter` needed or not), both are read.

use tailwater_config::yaml::{Entry, Node, Value};

use super::V1;
use super::fields::Reader;
use super::v1alpha::{Convert, map, rewrite, text_of, word};

/// A v1 document in place of one of v2alpha.
pub(super) fn convert(node: &Node, c: &mut Convert<'_>) -> Option<Node> {
    let Value::Map(entries) = &node.value else {
        return Some(node.clone());
    };
    let kind = entries
        .iter()
        .find(|e| e.key == "kind")
        .map(|e| text_of(&e.node))
        .unwrap_or_default();
    let mut r = Reader::new(c.file, None);
    let converted = rewrite(node, |entry| {
        let node = match (entry.key.as_str(), kind) {
            ("apiVersion", _) => word(entry.node.at, V1),
            ("metadata", _) => metadata(&entry.node, "metadata", c),
            ("spec", "SLO") => slo(&entry.node, c, &mut r),
            ("spec", "SLI") => sli(&entry.node, "spec", c, &mut r),
            ("spec", "AlertPolicy") => alert_policy(&entry.node, "spec", c),
            _ => entry.node.clone(),
        };
        Some((entry.key.clone(), node))
    });
    c.problems.extend(r.finish().1);
    Some(converted)
}

/// v2alpha has no display names and no labels with several values.
fn metadata(node: &Node, path: &str, c: &mut Convert<'_>) -> Node {
    rewrite(node, |entry| {
        let path = format!("{path}.{}", entry.key);
        if entry.key == "displayName" {
            c.wrong(
                entry.at,
                &path,
                "v2alpha has no display names: remove it, or write `apiVersion: openslo/v1`",
            );
        }
        if let ("labels", Value::Map(labels)) = (entry.key.as_str(), &entry.node.value) {
            for label in labels
                .iter()
                .filter(|label| !matches!(label.node.value, Value::Scalar { .. }))
            {
                let message = "in v2alpha a label has one value: write a string, or `apiVersion: openslo/v1`";
                c.wrong(label.node.at, &format!("{path}.{}", label.key), message);
            }
        }
        Some((entry.key.clone(), entry.node.clone()))
    })
}

/// `{metadata, spec}` or `{kind, metadata, spec}` inside of another document.
fn inline(
    node: &Node,
    path: &str,
    c: &mut Convert<'_>,
    spec: &mut dyn FnMut(&Node, &str, &mut Convert<'_>) -> Node,
) -> Node {
    rewrite(node, |entry| {
        let path = format!("{path}.{}", entry.key);
        let node = match entry.key.as_str() {
            "metadata" => metadata(&entry.node, &path, c),
            "spec" => spec(&entry.node, &path, c),
            _ => entry.node.clone(),
        };
        Some((entry.key.clone(), node))
    })
}

/// Names of v1 that v2alpha replaced: they would otherwise pass for v2alpha after the conversion.
fn old_names(entry: &Entry, path: &str, c: &mut Convert<'_>) {
    for (old, new) in [("indicator", "sli"), ("indicatorRef", "sliRef")] {
        if entry.key == old {
            let message = format!("`{old}` is a word of v1: in v2alpha write `{new}`");
            c.wrong(entry.at, &format!("{path}.{old}"), message);
        }
    }
}

fn slo(node: &Node, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    rewrite(node, |entry| {
        let path = format!("spec.{}", entry.key);
        old_names(entry, "spec", c);
        Some(match entry.key.as_str() {
            "serviceRef" => {
                let said = format!("serviceRef: {}", text_of(&entry.node));
                c.note(entry.at, &path, said, "`service`");
                ("service".to_owned(), entry.node.clone())
            }
            "sli" => ("indicator".to_owned(), inline_sli(&entry.node, &path, c, r)),
            "sliRef" => ("indicatorRef".to_owned(), entry.node.clone()),
            "objectives" => (entry.key.clone(), objectives(&entry.node, &path, c, r)),
            "timeWindow" => {
                no_long_units(&entry.node, &path, c);
                (entry.key.clone(), entry.node.clone())
            }
            "alertPolicies" => {
                let each = |node: &Node, path: &str, c: &mut Convert<'_>| inline(node, path, c, &mut alert_policy);
                (entry.key.clone(), items(&entry.node, &path, c, each))
            }
            _ => (entry.key.clone(), entry.node.clone()),
        })
    })
}

fn items(
    node: &Node,
    path: &str,
    c: &mut Convert<'_>,
    mut each: impl FnMut(&Node, &str, &mut Convert<'_>) -> Node,
) -> Node {
    let Value::List(items) = &node.value else {
        return node.clone();
    };
    let items = items
        .iter()
        .enumerate()
        .map(|(i, item)| each(item, &format!("{path}[{i}]"), c));
    Node {
        at: node.at,
        value: Value::List(items.collect()),
    }
}

/// v2alpha has m, h, d and w only.
fn no_long_units(node: &Node, path: &str, c: &mut Convert<'_>) {
    let Value::List(windows) = &node.value else {
        return;
    };
    for (i, window) in windows.iter().enumerate() {
        let Value::Map(entries) = &window.value else {
            continue;
        };
        for entry in entries
            .iter()
            .filter(|e| e.key == "duration" && text_of(&e.node).ends_with(['M', 'Q', 'Y']))
        {
            let message = "v2alpha has no months, quarters or years: write days or weeks, or `apiVersion: openslo/v1`";
            c.wrong(entry.node.at, &format!("{path}[{i}].duration"), message);
        }
    }
}

fn inline_sli(node: &Node, path: &str, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    inline(node, path, c, &mut |spec, path, c| sli(spec, path, c, r))
}

fn objectives(node: &Node, path: &str, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    items(node, path, c, |item, path, c| {
        rewrite(item, |entry| {
            old_names(entry, path, c);
            let path = format!("{path}.{}", entry.key);
            match entry.key.as_str() {
                "sli" => Some(("indicator".to_owned(), inline_sli(&entry.node, &path, c, r))),
                "sliRef" => Some(("indicatorRef".to_owned(), entry.node.clone())),
                "labels" => {
                    c.note(entry.at, &path, "labels", "nothing: in v1 an objective has no labels");
                    None
                }
                _ => Some((entry.key.clone(), entry.node.clone())),
            }
        })
    })
}

fn sli(node: &Node, path: &str, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    rewrite(node, |entry| {
        let path = format!("{path}.{}", entry.key);
        let node = match entry.key.as_str() {
            "thresholdMetric" => metric(&entry.node, &path, c, r),
            "ratioMetric" => rewrite(&entry.node, |entry| {
                let path = format!("{path}.{}", entry.key);
                let node = match entry.key.as_str() {
                    "good" | "bad" | "total" | "raw" => metric(&entry.node, &path, c, r),
                    _ => entry.node.clone(),
                };
                Some((entry.key.clone(), node))
            }),
            _ => entry.node.clone(),
        };
        Some((entry.key.clone(), node))
    })
}

/// `{dataSourceRef | dataSourceSpec, spec}` as `metricSource`.
fn metric(node: &Node, path: &str, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    let Some(fields) = r.fields(node, path, &["dataSourceRef", "dataSourceSpec", "spec"]) else {
        return node.clone();
    };
    let mut entries = Vec::new();
    match (fields.get("dataSourceRef"), fields.get("dataSourceSpec")) {
        (Some(_), Some(inline)) => {
            let message = "both `dataSourceRef` and `dataSourceSpec`: keep one of them";
            c.wrong(inline.key_at(), &inline.path, message);
        }
        (Some(by_name), None) => {
            c.note(
                by_name.key_at(),
                &by_name.path,
                format!("dataSourceRef: {}", text_of(by_name.node)),
                "`metricSource.metricSourceRef`",
            );
            entries.push(("metricSourceRef", by_name.node.clone()));
        }
        (None, Some(inline)) => {
            if let Some(fields) = r.fields(inline.node, &inline.path, &["description", "type", "connectionDetails"]) {
                if let Some(source_type) = r.required(&fields, "type", "for example `type: Prometheus`") {
                    entries.push(("type", source_type.node.clone()));
                }
                if let Some(details) = fields.get("connectionDetails") {
                    let meant = "nothing: v1 keeps connections in a DataSource; write one, and refer to it";
                    c.note(details.key_at(), &details.path, "connectionDetails", meant);
                }
            }
        }
        (None, None) => {}
    }
    if let Some(spec) = fields.get("spec") {
        entries.push(("spec", spec.node.clone()));
    }
    map(node.at, [("metricSource", map(node.at, entries))])
}

fn alert_policy(node: &Node, path: &str, c: &mut Convert<'_>) -> Node {
    rewrite(node, |entry| {
        let path = format!("{path}.{}", entry.key);
        let node = match entry.key.as_str() {
            "conditions" | "notificationTargets" => items(&entry.node, &path, c, |item, path, c| {
                inline(item, path, c, &mut |spec, _, _| spec.clone())
            }),
            _ => entry.node.clone(),
        };
        Some((entry.key.clone(), node))
    })
}
