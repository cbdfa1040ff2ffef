//! `openslo/v1alpha` (the version Sloth reads) as nodes of v1. Source: OpenSLO/go-sdk `pkg/openslo/v1alpha`.

use std::path::PathBuf;
use std::sync::Arc;

use tailwater_config::yaml::{At, Entry, Node, Value};
use tailwater_config::{Origin, Problem};

use super::fields::{Fields, Reader};
use super::{Reinterpreted, V1, problem};

/// What a conversion notes on its way.
pub(crate) struct Convert<'f> {
    pub file: &'f Arc<PathBuf>,
    pub problems: Vec<Problem>,
    pub reinterpreted: Vec<Reinterpreted>,
}

impl<'f> Convert<'f> {
    pub fn new(file: &'f Arc<PathBuf>) -> Self {
        Self {
            file,
            problems: Vec::new(),
            reinterpreted: Vec::new(),
        }
    }

    pub fn note(&mut self, at: At, path: &str, said: impl Into<String>, meant: impl Into<String>) {
        self.reinterpreted.push(Reinterpreted {
            origin: Origin::File {
                path: Arc::clone(self.file),
                line: at.line,
                column: at.column,
            },
            path: path.to_owned(),
            said: said.into(),
            meant: meant.into(),
        });
    }

    pub fn wrong(&mut self, at: At, path: &str, message: impl Into<String>) {
        self.problems.push(problem(self.file, at, path, message.into(), None));
    }
}

/// A plain scalar at a place.
pub(crate) fn word(at: At, text: impl Into<String>) -> Node {
    scalar(at, text, true)
}

/// A scalar whose text is text, whatever it looks like.
pub(crate) fn quoted(at: At, text: impl Into<String>) -> Node {
    scalar(at, text, false)
}

fn scalar(at: At, text: impl Into<String>, plain: bool) -> Node {
    Node {
        at,
        value: Value::Scalar {
            text: text.into(),
            plain,
        },
    }
}

/// A mapping at a place.
pub(crate) fn map(at: At, entries: impl IntoIterator<Item = (&'static str, Node)>) -> Node {
    let entries = entries.into_iter().map(|(key, node)| Entry {
        key: key.to_owned(),
        at: node.at,
        node,
    });
    Node {
        at,
        value: Value::Map(entries.collect()),
    }
}

/// A list at a place.
pub(crate) fn list(at: At, items: Vec<Node>) -> Node {
    Node {
        at,
        value: Value::List(items),
    }
}

/// The text of a scalar; empty for anything else.
pub(crate) fn text_of(node: &Node) -> &str {
    match &node.value {
        Value::Scalar { text, .. } => text,
        _ => "",
    }
}

/// Renames and rewrites the entries of a mapping; `None` drops one. What is not a mapping stays as it is.
pub(crate) fn rewrite(node: &Node, mut how: impl FnMut(&Entry) -> Option<(String, Node)>) -> Node {
    let Value::Map(entries) = &node.value else {
        return node.clone();
    };
    let entries = entries.iter().filter_map(|entry| {
        how(entry).map(|(key, node)| Entry {
            key,
            at: entry.at,
            node,
        })
    });
    Node {
        at: node.at,
        value: Value::Map(entries.collect()),
    }
}

/// A v1 document in place of one of v1alpha.
pub(super) fn convert(node: &Node, c: &mut Convert<'_>) -> Option<Node> {
    // Structure is checked by the reader of v1; here only keys that v1alpha has and v1 has not can be wrong.
    let mut r = Reader::new(c.file, None);
    let converted = document(node, c, &mut r);
    c.problems.extend(r.finish().1);
    converted
}

fn document(node: &Node, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Option<Node> {
    let fields = r.open(node, "")?;
    let kind = fields.get("kind");
    if let Some(kind) = &kind {
        r.word(kind, &[("SLO", ()), ("Service", ())])?;
    }
    let is_slo = kind.is_some_and(|kind| text_of(kind.node) == "SLO");
    let name = fields.get("metadata").and_then(|metadata| match &metadata.node.value {
        Value::Map(entries) => entries
            .iter()
            .find(|e| e.key == "name")
            .map(|e| text_of(&e.node).to_owned()),
        _ => None,
    });
    Some(rewrite(node, |entry| {
        let node = match entry.key.as_str() {
            "apiVersion" => word(entry.node.at, V1),
            "spec" if is_slo => slo(&entry.node, name.as_deref().unwrap_or("slo"), c, r),
            _ => entry.node.clone(),
        };
        Some((entry.key.clone(), node))
    }))
}

fn slo(spec: &Node, name: &str, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    let known = [
        "timeWindows",
        "budgetingMethod",
        "description",
        "indicator",
        "service",
        "objectives",
    ];
    let Some(fields) = r.fields(spec, "spec", &known) else {
        return spec.clone();
    };
    let timeslices = fields
        .get("budgetingMethod")
        .is_some_and(|method| text_of(method.node) == "Timeslices");
    if let Some(method) = fields.get("budgetingMethod") {
        r.word(&method, &[("Occurrences", ()), ("Timeslices", ())]);
    }
    let lifted = one_for_all(&fields);
    let mut node = rewrite(spec, |entry| {
        let path = format!("spec.{}", entry.key);
        Some(match entry.key.as_str() {
            "timeWindows" => ("timeWindow".to_owned(), time_windows(&entry.node, &path, c, r)),
            "indicator" => ("indicator".to_owned(), threshold_indicator(&entry.node, name, c, r)),
            "objectives" => {
                let lift = lifted.is_some();
                (
                    "objectives".to_owned(),
                    objectives(&entry.node, name, timeslices, lift, c, r),
                )
            }
            _ => (entry.key.clone(), entry.node.clone()),
        })
    });
    if let (Some(ratio), Value::Map(entries)) = (lifted, &mut node.value) {
        let path = "spec.objectives[0].ratioMetrics";
        c.note(
            ratio.at,
            path,
            "ratioMetrics",
            "`spec.indicator`, one SLI for all objectives",
        );
        let indicator = ratio_indicator(ratio, path, name, c, r);
        entries.push(Entry {
            key: "indicator".into(),
            at: ratio.at,
            node: indicator,
        });
    }
    node
}

/// The ratio that all objectives share, if they do: v1 has it once. Several different ones make a composite.
fn one_for_all<'n>(fields: &Fields<'n>) -> Option<&'n Node> {
    let Value::List(items) = &fields.get("objectives")?.node.value else {
        return None;
    };
    let ratio = |item: &'n Node| match &item.value {
        Value::Map(entries) => entries.iter().find(|e| e.key == "ratioMetrics").map(|e| &e.node),
        _ => None,
    };
    let mut ratios = items.iter().map(ratio);
    let first = ratios.next()??;
    ratios
        .all(|other| other.is_some_and(|other| same(first, other)))
        .then_some(first)
}

/// They say the same, wherever they stand.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Scalar { text: a, .. }, Value::Scalar { text: b, .. }) => a == b,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            let has = |entry: &Entry| {
                b.iter()
                    .any(|other| other.key == entry.key && same(&entry.node, &other.node))
            };
            a.len() == b.len() && a.iter().all(has)
        }
        _ => false,
    }
}

fn time_windows(node: &Node, path: &str, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    let Value::List(items) = &node.value else {
        return node.clone();
    };
    let convert = |(i, item): (usize, &Node)| {
        let path = format!("{path}[{i}]");
        let Some(fields) = r.fields(item, &path, &["unit", "count", "isRolling", "calendar"]) else {
            return item.clone();
        };
        let unit = r.required(&fields, "unit", "`unit: Day`");
        let units = [
            ("Second", 's'),
            ("Day", 'd'),
            ("Week", 'w'),
            ("Month", 'M'),
            ("Quarter", 'Q'),
        ];
        let letter = unit.as_ref().and_then(|unit| r.word(unit, &units));
        let count = r.required(&fields, "count", "`count: 30`");
        let number = count.as_ref().and_then(|field| {
            r.parsed(field, |text| match text.parse::<u32>() {
                Ok(1..) => text.parse().map_err(|_| String::new()),
                _ => Err("expected a whole number above 0".into()),
            })
        });
        let (Some(unit), Some(letter), Some(number)) = (unit, letter, number) else {
            // The problem is noted; a window that holds keeps the rest readable.
            return map(
                item.at,
                [("duration", word(item.at, "1d")), ("isRolling", word(item.at, "true"))],
            );
        };
        let duration = match letter {
            's' if u32::is_multiple_of(number, 60) => format!("{}m", number / 60),
            's' => {
                let message = "seconds that are not whole minutes cannot be said in v1";
                c.wrong(unit.node.at, &unit.path, message);
                "1m".to_owned()
            }
            _ => format!("{number}{letter}"),
        };
        let said = format!("unit: {}, count: {number}", text_of(unit.node));
        c.note(item.at, &path, said, format!("`duration: {duration}`"));
        let mut entries = vec![("duration", word(unit.node.at, duration))];
        for key in ["isRolling", "calendar"] {
            if let Some(field) = fields.get(key) {
                entries.push((key, field.node.clone()));
            }
        }
        map(item.at, entries)
    };
    list(node.at, items.iter().enumerate().map(convert).collect())
}

fn threshold_indicator(node: &Node, name: &str, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    let metric = r
        .fields(node, "spec.indicator", &["thresholdMetric"])
        .and_then(|fields| {
            r.required(
                &fields,
                "thresholdMetric",
                "a `thresholdMetric:` with source, queryType and query",
            )
        });
    let Some(metric) = metric else {
        return node.clone();
    };
    let source = metric_source(metric.node, &metric.path, c, r);
    let spec = map(metric.node.at, [("thresholdMetric", source)]);
    inline_sli(node.at, name, spec)
}

fn inline_sli(at: At, name: &str, spec: Node) -> Node {
    // A name of its own, derived from that of the SLO: v1alpha has none.
    let name = super::v1::slug(&format!("{}-sli", &name[..name.floor_char_boundary(59)]));
    map(at, [("metadata", map(at, [("name", word(at, name))])), ("spec", spec)])
}

fn metric_source(node: &Node, path: &str, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    let Some(fields) = r.fields(node, path, &["source", "queryType", "query", "metadata"]) else {
        return node.clone();
    };
    let source = r.required(&fields, "source", "for example `source: prometheus`");
    let mut spec = Vec::new();
    for (key, write) in [
        ("queryType", Some("for example `queryType: promql`")),
        ("query", Some("the query")),
        ("metadata", None),
    ] {
        let field = match write {
            Some(write) => r.required(&fields, key, write),
            None => fields.get(key),
        };
        if let Some(field) = field {
            spec.push((key, field.node.clone()));
        }
    }
    let mut entries = Vec::new();
    if let Some(source) = source {
        let said = text_of(source.node);
        c.note(
            source.node.at,
            &source.path,
            format!("source: {said}"),
            format!("`metricSource.type: {said}`"),
        );
        entries.push(("type", source.node.clone()));
    }
    if spec.is_empty() {
        spec.push(("query", quoted(node.at, "")));
    }
    entries.push(("spec", map(node.at, spec)));
    map(node.at, [("metricSource", map(node.at, entries))])
}

fn ratio_indicator(node: &Node, path: &str, name: &str, c: &mut Convert<'_>, r: &mut Reader<'_>) -> Node {
    let Some(fields) = r.fields(node, path, &["good", "total", "incremental", "counter"]) else {
        return node.clone();
    };
    let mut entries = Vec::new();
    if let Some(field) = fields.get("incremental").or_else(|| fields.get("counter")) {
        entries.push(("counter", field.node.clone()));
        if field.path.ends_with("incremental") {
            let said = format!("incremental: {}", text_of(field.node));
            c.note(
                field.node.at,
                &field.path,
                said,
                format!("`counter: {}`", text_of(field.node)),
            );
        }
    }
    for key in ["good", "total"] {
        if let Some(field) = r.required(&fields, key, "source, queryType and query") {
            entries.push((key, metric_source(field.node, &field.path, c, r)));
        }
    }
    inline_sli(node.at, name, map(node.at, [("ratioMetric", map(node.at, entries))]))
}

fn objectives(
    node: &Node,
    name: &str,
    timeslices: bool,
    lifted: bool,
    c: &mut Convert<'_>,
    r: &mut Reader<'_>,
) -> Node {
    let Value::List(items) = &node.value else {
        return node.clone();
    };
    let convert = |(i, item): (usize, &Node)| {
        let path = format!("spec.objectives[{i}]");
        let known = [
            "displayName",
            "value",
            "ratioMetrics",
            "target",
            "timeSliceTarget",
            "op",
        ];
        let Some(fields) = r.fields(item, &path, &known) else {
            return item.clone();
        };
        let is_ratio = fields.get("ratioMetrics").is_some();
        let mut node = rewrite(item, |entry| {
            let path = format!("{path}.{}", entry.key);
            match entry.key.as_str() {
                "ratioMetrics" if lifted => None,
                "ratioMetrics" => {
                    c.note(
                        entry.node.at,
                        &path,
                        "ratioMetrics",
                        "the indicator of one member of a composite SLO",
                    );
                    let name = format!("{name}-{}", i + 1);
                    Some(("indicator".to_owned(), ratio_indicator(&entry.node, &path, &name, c, r)))
                }
                "value" if is_ratio => {
                    let said = format!("value: {}", text_of(&entry.node));
                    c.note(
                        entry.node.at,
                        &path,
                        said,
                        "nothing: a ratio is not compared with a value",
                    );
                    None
                }
                _ => Some((entry.key.clone(), entry.node.clone())),
            }
        });
        if timeslices && let Value::Map(entries) = &mut node.value {
            c.note(
                item.at,
                &path,
                "budgetingMethod: Timeslices",
                "slices of one minute, `timeSliceWindow: 1m`",
            );
            entries.push(Entry {
                key: "timeSliceWindow".into(),
                at: item.at,
                node: word(item.at, "1m"),
            });
        }
        node
    };
    list(node.at, items.iter().enumerate().map(convert).collect())
}
