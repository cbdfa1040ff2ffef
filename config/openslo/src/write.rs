//! Documents as canonical YAML: one way to write each, so that a diff shows what changed in meaning.
//!
//! Keys stand in the order of the specification, free keys as they were; two blanks per level, block style, quotes where the text would
//! otherwise be taken for something else, `|` for text of several lines. What is written reads back as the same document, and writing
//! that again gives the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use tailwater_config::{Problem, Problems};

use crate::comments::Comments;
use crate::document::{
    AlertCondition, AlertNotificationTarget, AlertPolicy, Document, Free, Inline, Metadata, Metric, MetricSource,
    Object, Objective, Part, Sli, Slo, TimeWindow,
};
use crate::read::{Reading, V1, join, read};

/// A file in canonical form, with its comments; documents of other versions become v1.
///
/// # Errors
/// Everything that is wrong with the file: what cannot be read is not rewritten.
pub fn fmt(file: &Path, text: &str) -> Result<String, Problems> {
    let Reading {
        documents, problems, ..
    } = read(file, text);
    let problems: Vec<Problem> = problems;
    Problems::or(problems, ())?;
    let mut comments = Comments::of(text, &documents);
    Ok(write_with(&documents, &mut comments))
}

/// Documents in canonical form, separated by `---`.
#[must_use]
pub fn write(documents: &[Document]) -> String {
    write_with(documents, &mut Comments::default())
}

fn write_with(documents: &[Document], comments: &mut Comments) -> String {
    let mut out = String::new();
    for (i, document) in documents.iter().enumerate() {
        if i > 0 {
            out.push_str("---\n");
        }
        let mut lines = comments.take_before(i, "");
        let Free::Map(entries) = tree(document) else {
            continue;
        };
        Writer { document: i, comments }.entries(&entries, "", &mut lines);
        // Comments on what the canonical form writes elsewhere, or not at all, are kept at the head.
        let lost = comments.take_rest(i);
        for line in lost.iter().chain(&lines) {
            out.push_str(line);
            out.push('\n');
        }
    }
    for line in comments.take_tail() {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

struct Writer<'c> {
    document: usize,
    comments: &'c mut Comments,
}

impl Writer<'_> {
    fn entries(&mut self, entries: &[(String, Free)], path: &str, lines: &mut Vec<String>) {
        for (key, value) in entries {
            let path = join(path, key);
            lines.extend(self.comments.take_before(self.document, &path));
            let head = format!("{}:", text(key, false));
            self.value(head, value, &path, lines);
        }
    }

    /// Writes `head value`, the value on the same line if it is a scalar.
    fn value(&mut self, head: String, value: &Free, path: &str, lines: &mut Vec<String>) {
        let trailing = self.comments.take_trailing(self.document, path);
        let with = |line: String| match &trailing {
            Some(comment) => format!("{line} {comment}"),
            None => line,
        };
        match value {
            Free::Scalar { text: scalar, plain } => {
                let shown = if *plain { scalar.clone() } else { text(scalar, true) };
                match shown.split_once('\n') {
                    Some((first, rest)) => {
                        lines.push(with(format!("{head} {first}")));
                        lines.extend(rest.split('\n').map(|line| indent(line, "  ")));
                    }
                    None if shown.is_empty() => lines.push(with(head)),
                    None => lines.push(with(format!("{head} {shown}"))),
                }
            }
            Free::List(items) if items.is_empty() => lines.push(with(format!("{head} []"))),
            Free::Map(entries) if entries.is_empty() => lines.push(with(format!("{head} {{}}"))),
            Free::List(items) => {
                lines.push(with(head));
                self.items(items, path, lines);
            }
            Free::Map(entries) => {
                lines.push(with(head));
                let mut below = Vec::new();
                self.entries(entries, path, &mut below);
                lines.extend(below.iter().map(|line| indent(line, "  ")));
            }
        }
    }

    fn items(&mut self, items: &[Free], path: &str, lines: &mut Vec<String>) {
        for (i, item) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            for comment in self.comments.take_before(self.document, &path) {
                lines.push(indent(&comment, "  "));
            }
            let mut below = Vec::new();
            match item {
                Free::Map(entries) if !entries.is_empty() => self.entries(entries, &path, &mut below),
                Free::List(items) if !items.is_empty() => {
                    // A list in a list begins on a line of its own.
                    below.push(String::new());
                    let mut inner = Vec::new();
                    self.items(items, &path, &mut inner);
                    below.extend(
                        inner
                            .iter()
                            .map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned()),
                    );
                }
                _ => {
                    self.value(String::new(), item, &path, &mut below);
                    if let Some(first) = below.first_mut() {
                        *first = first.trim_start().to_owned();
                    }
                }
            }
            // The dash stands before the first line that is no comment.
            let mut dash = true;
            for line in below {
                if !dash {
                    lines.push(indent(&line, "    "));
                } else if line.starts_with('#') {
                    lines.push(indent(&line, "  "));
                } else {
                    dash = false;
                    lines.push(format!("  - {line}").trim_end().to_owned());
                }
            }
        }
    }
}

fn indent(line: &str, by: &str) -> String {
    if line.is_empty() && by.trim().is_empty() {
        String::new()
    } else {
        format!("{by}{line}")
    }
}

/// A plain scalar with this text would be text in YAML 1.2's core schema, not a number, a truth value or nothing.
pub(crate) fn is_text(text: &str) -> bool {
    let word = matches!(
        text,
        "" | "~" | "null" | "Null" | "NULL" | "true" | "True" | "TRUE" | "false" | "False" | "FALSE"
    );
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let special = matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN");
    let digits = |text: &str, base: fn(&u8) -> bool| !text.is_empty() && text.bytes().all(|b| base(&b));
    let based = text
        .strip_prefix("0x")
        .is_some_and(|hex| digits(hex, u8::is_ascii_hexdigit))
        || text
            .strip_prefix("0o")
            .is_some_and(|octal| digits(octal, |b| matches!(b, b'0'..=b'7')));
    let (body, exponent) = unsigned
        .split_once(['e', 'E'])
        .map_or((unsigned, None), |(b, e)| (b, Some(e)));
    let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
    let number = whole.len() + fraction.len() > 0
        && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
        && exponent.is_none_or(|e| digits(e.strip_prefix(['-', '+']).unwrap_or(e), u8::is_ascii_digit));
    !(word || special || based || number)
}

/// Words that YAML 1.1 (which Go and Python tools still read) takes for truth values.
const OLD_WORDS: [&str; 8] = ["yes", "no", "on", "off", "y", "n", "true", "false"];

/// Text as a YAML scalar. `block`: several lines may be written below.
fn text(text: &str, block: bool) -> String {
    let printable = |c: char| {
        !c.is_control()
            && !matches!(
                c,
                '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
            )
    };
    if block && text.contains('\n') && block_can_hold(text) {
        let body = text.trim_end_matches('\n');
        let chomp = match text.len() - body.len() {
            0 => "|-",
            1 => "|",
            _ => "|+",
        };
        // Every newline but the one that ends the last line of text is a line of its own.
        let lines = text.strip_suffix('\n').unwrap_or(text);
        return format!("{chomp}\n{lines}");
    }
    let first_holds = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(c, '_' | '/' | '$' | '(' | '.' | '^' | '=' | '<' | '+')
            || (!c.is_ascii() && printable(c))
    };
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+'))
        && text.bytes().all(|b| {
            b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-' | b'_' | b':' | b'T' | b'Z' | b' ')
        });
    let plain = text.chars().all(printable)
        && text.starts_with(first_holds)
        && is_text(text)
        && !numeric
        && !OLD_WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        && !text.starts_with("...")
        && text != "="
        && text != "<<"
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([':', ' ']);
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if printable(c) => quoted.push(c),
            c if u32::from(c) < 0x100 => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a block (`|`) says exactly this: no control characters, no line of blanks alone, no blank in front of the first line.
fn block_can_hold(text: &str) -> bool {
    let lines = || text.split('\n');
    !text.starts_with([' ', '\n', '\t'])
        && !text.trim_end_matches('\n').is_empty()
        && text.chars().all(|c| {
            c == '\n'
                || !(c.is_control()
                    || matches!(
                        c,
                        '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
                    ))
        })
        && !lines().any(|line| !line.is_empty() && line.trim().is_empty())
}

fn word(text: impl Into<String>) -> Free {
    Free::Scalar {
        text: text.into(),
        plain: false,
    }
}

fn plain(text: impl ToString) -> Free {
    Free::Scalar {
        text: text.to_string(),
        plain: true,
    }
}

/// Entries in order, those that say nothing left out.
#[derive(Default)]
struct Map(Vec<(String, Free)>);

impl Map {
    fn put(mut self, key: &str, value: Free) -> Self {
        self.0.push((key.to_owned(), value));
        self
    }

    fn put_some(self, key: &str, value: Option<Free>) -> Self {
        match value {
            Some(value) => self.put(key, value),
            None => self,
        }
    }

    fn text(self, key: &str, value: Option<&String>) -> Self {
        self.put_some(key, value.map(word))
    }

    fn done(self) -> Free {
        Free::Map(self.0)
    }
}

fn tree(document: &Document) -> Free {
    let spec = match &document.object {
        Object::DataSource(source) => Map::default()
            .text("description", source.description.as_ref())
            .put("type", word(&source.source_type))
            .put_some("connectionDetails", source.connection_details.clone())
            .done(),
        Object::Service(service) => Map::default().text("description", service.description.as_ref()).done(),
        Object::Slo(found) => slo(found),
        Object::Sli(found) => sli(found),
        Object::AlertPolicy(found) => alert_policy(found),
        Object::AlertCondition(found) => alert_condition(found),
        Object::AlertNotificationTarget(found) => notification_target(found),
    };
    Map::default()
        .put("apiVersion", word(V1))
        .put("kind", word(document.object.kind()))
        .put("metadata", metadata(&document.metadata))
        .put("spec", spec)
        .done()
}

fn metadata(metadata: &Metadata) -> Free {
    let label = |(key, values): (&String, &Vec<String>)| {
        let values = match values.as_slice() {
            [one] => word(one),
            many => Free::List(many.iter().map(word).collect()),
        };
        (key.clone(), values)
    };
    let some = |entries: Vec<(String, Free)>| (!entries.is_empty()).then_some(Free::Map(entries));
    let annotations = metadata
        .annotations
        .iter()
        .map(|(key, value)| (key.clone(), word(value)));
    Map::default()
        .put("name", word(&metadata.name))
        .text("displayName", metadata.display_name.as_ref())
        .put_some("labels", some(metadata.labels.iter().map(label).collect()))
        .put_some("annotations", some(annotations.collect()))
        .done()
}

fn inline<T>(inline: &Inline<T>, kind: Option<&str>, ref_key: &str, spec: fn(&T) -> Free) -> Free {
    match inline {
        Inline::Ref(name) => Map::default().put(ref_key, word(name)).done(),
        Inline::Here(found, object) => Map::default()
            .put_some("kind", kind.map(word))
            .put("metadata", metadata(found))
            .put("spec", spec(object))
            .done(),
    }
}

fn indicator(map: Map, found: Option<&Inline<Sli>>) -> Map {
    match found {
        Some(Inline::Ref(name)) => map.put("indicatorRef", word(name)),
        Some(here) => map.put("indicator", inline(here, None, "indicatorRef", sli)),
        None => map,
    }
}

fn slo(slo: &Slo) -> Free {
    let map = Map::default()
        .text("description", slo.description.as_ref())
        .put("service", word(&slo.service));
    let policies = slo.alert_policies.iter();
    let policies: Vec<_> = policies
        .map(|p| inline(p, Some("AlertPolicy"), "alertPolicyRef", alert_policy))
        .collect();
    indicator(map, slo.indicator.as_ref())
        .put_some(
            "timeWindow",
            slo.time_window
                .as_ref()
                .map(|window| Free::List(vec![time_window(window)])),
        )
        .put("budgetingMethod", word(slo.budgeting_method.word()))
        .put("objectives", Free::List(slo.objectives.iter().map(objective).collect()))
        .put_some("alertPolicies", (!policies.is_empty()).then_some(Free::List(policies)))
        .done()
}

fn time_window(window: &TimeWindow) -> Free {
    let map = Map::default().put("duration", word(window.period().to_string()));
    match window {
        TimeWindow::Rolling(_) => map.put("isRolling", plain(true)).done(),
        TimeWindow::Calendar { start, zone, .. } => {
            // Plain, as every example of the specification has it: readers of YAML 1.1 take it for a time, which it is.
            let calendar = Map::default()
                .put("startTime", plain(start.format("%Y-%m-%d %H:%M:%S")))
                .put("timeZone", word(zone.name()));
            map.put("isRolling", plain(false))
                .put("calendar", calendar.done())
                .done()
        }
    }
}

fn objective(objective: &Objective) -> Free {
    let map = Map::default()
        .text("displayName", objective.display_name.as_ref())
        .put_some("op", objective.op.map(|op| word(op.word())))
        .put_some("value", objective.value.map(plain))
        .put("target", plain(objective.target.fraction()))
        .put_some("timeSliceTarget", objective.time_slice_target.map(plain))
        .put_some(
            "timeSliceWindow",
            objective.time_slice_window.map(|p| word(p.to_string())),
        );
    indicator(map, objective.indicator.as_ref())
        .put_some("compositeWeight", objective.composite_weight.map(plain))
        .done()
}

fn sli(sli: &Sli) -> Free {
    let map = Map::default().text("description", sli.description.as_ref());
    let counter = |counter: bool| counter.then(|| plain(true));
    match &sli.metric {
        Metric::Threshold(source) => map.put("thresholdMetric", metric_source(source)).done(),
        Metric::Ratio {
            counter: counts,
            part_is,
            part,
            total,
        } => {
            let key = match part_is {
                Part::Good => "good",
                Part::Bad => "bad",
            };
            let ratio = Map::default()
                .put_some("counter", counter(*counts))
                .put(key, metric_source(part))
                .put("total", metric_source(total));
            map.put("ratioMetric", ratio.done()).done()
        }
        Metric::Raw {
            counter: counts,
            part_is,
            source,
        } => {
            let kind = match part_is {
                Part::Good => "success",
                Part::Bad => "failure",
            };
            let ratio = Map::default()
                .put_some("counter", counter(*counts))
                .put("rawType", word(kind))
                .put("raw", metric_source(source));
            map.put("ratioMetric", ratio.done()).done()
        }
    }
}

fn metric_source(source: &MetricSource) -> Free {
    let spec: BTreeMap<_, _> = source.spec.clone();
    let source = Map::default()
        .text("metricSourceRef", source.source_ref.as_ref())
        .text("type", source.source_type.as_ref())
        .put("spec", Free::Map(spec.into_iter().collect()));
    Map::default().put("metricSource", source.done()).done()
}

fn alert_policy(policy: &AlertPolicy) -> Free {
    let flag = |set: bool| set.then(|| plain(true));
    let targets = policy.notification_targets.iter();
    let targets = targets.map(|t| inline(t, Some("AlertNotificationTarget"), "targetRef", notification_target));
    Map::default()
        .text("description", policy.description.as_ref())
        .put_some("alertWhenNoData", flag(policy.alert_when_no_data))
        .put_some("alertWhenResolved", flag(policy.alert_when_resolved))
        .put_some("alertWhenBreaching", flag(policy.alert_when_breaching))
        .put(
            "conditions",
            Free::List(vec![inline(
                &policy.condition,
                Some("AlertCondition"),
                "conditionRef",
                alert_condition,
            )]),
        )
        .put("notificationTargets", Free::List(targets.collect()))
        .done()
}

fn alert_condition(condition: &AlertCondition) -> Free {
    let burn = Map::default()
        .put("kind", word("burnrate"))
        .put("op", word(condition.op.word()))
        .put("threshold", plain(condition.threshold))
        .put("lookbackWindow", word(condition.lookback_window.to_string()))
        .put_some("alertAfter", condition.alert_after.map(|p| word(p.to_string())));
    Map::default()
        .text("description", condition.description.as_ref())
        .put("severity", word(&condition.severity))
        .put("condition", burn.done())
        .done()
}

fn notification_target(target: &AlertNotificationTarget) -> Free {
    Map::default()
        .text("description", target.description.as_ref())
        .put("target", word(&target.target))
        .done()
}
