//! A `tail_sampling` configuration of the OpenTelemetry Collector as a policy of ours.
//!
//! There every policy votes and one keep is enough; here the first stratum that a trace meets decides. So drops come first, then what keeps all,
//! then probabilities from the largest, then what is limited: a trace that several policies would keep gets the most certain of them. What
//! is left over is dropped, as there. What cannot be said is listed, never left out in silence.

use std::fmt;
use std::fmt::Write as _;

use tailwater_config::parse_duration;
use tailwater_config::yaml::{At, Bounds, Entry, Node, Value, parse_all};

use crate::policy::expr::{Cmp, Expr, Field, KINDS, Op, STATUSES, SpanField, Test, TraceField, Value as Operand};
use crate::policy::parse;

const BOUNDS: Bounds = Bounds {
    text_bytes: 1 << 20,
    nodes: 100_000,
    documents: 1,
};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The policy, as [`crate::policy::read`] reads it.
    pub policy: String,
    /// What could not be carried over, or means something slightly different.
    pub notes: Vec<Note>,
}

/// Something that could not be carried over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where it stands.
    pub at: At,
    /// Which policy or key.
    pub what: String,
    /// Why, and what to do.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}: {}",
            self.at.line, self.at.column, self.what, self.message
        )
    }
}

/// A policy: which traces, with what probability, and how many.
struct Rule {
    name: String,
    at: At,
    when: Expr,
    p: f64,
    spans_per_sec: f64,
    bytes_per_sec: f64,
    is_drop: bool,
    /// Of which composite it is a part: what a part leaves out, others of the same one do not get there either.
    composite: Option<usize>,
}

impl Rule {
    fn of(when: Expr) -> Rule {
        Rule {
            name: String::new(),
            at: At { line: 0, column: 0 },
            when,
            p: 1.0,
            spans_per_sec: f64::INFINITY,
            bytes_per_sec: f64::INFINITY,
            is_drop: false,
            composite: None,
        }
    }

    /// It never votes for a trace.
    fn is_never(&self) -> bool {
        self.p <= 0.0
    }

    fn is_limited(&self) -> bool {
        self.spans_per_sec.is_finite() || self.bytes_per_sec.is_finite()
    }

    /// Nothing but a condition.
    fn is_plain(&self) -> bool {
        !self.is_limited() && self.p >= 1.0 && !self.is_drop
    }

    fn order(&self) -> (u8, u64) {
        match (self.is_drop, self.is_limited()) {
            (true, _) => (0, 0),
            (false, false) => (1, ((1.0 - self.p) * 1e12) as u64),
            (false, true) => (2, 0),
        }
    }
}

/// Converts the first `tail_sampling` processor in `text`.
///
/// # Errors
/// A sentence, when there is none or the text is no YAML.
pub fn otelcol(text: &str) -> Result<Imported, String> {
    let (documents, faults) = parse_all(text, BOUNDS);
    if let Some(fault) = faults.first() {
        return Err(format!("{}:{}: {}", fault.at.line, fault.at.column, fault.message));
    }
    let document = documents.first().ok_or("nothing in it")?;
    let processors = get(document, "processors").unwrap_or(document);
    let processor = entries(processors).iter().find(|entry| {
        let name = entry.key.as_str();
        name == "tail_sampling" || name.starts_with("tail_sampling/")
    });
    let processor = &processor.ok_or("no tail_sampling processor in it")?.node;
    let mut import = Import::default();
    let mut out = String::from("# Imported from a tail_sampling processor.\n");
    import.waits(processor, &mut out);
    let policies = get(processor, "policies").ok_or("the tail_sampling processor has no policies")?;
    for item in list(policies) {
        import.policy(item);
    }
    import.rules.sort_by_key(Rule::order);
    import.write(policies.at, &mut out);
    Ok(Imported {
        policy: out,
        notes: import.notes,
    })
}

#[derive(Default)]
struct Import {
    rules: Vec<Rule>,
    composites: usize,
    notes: Vec<Note>,
}

fn entries(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

fn list(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => &[],
    }
}

fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    entries(node)
        .iter()
        .find(|entry| entry.key == key)
        .map(|entry| &entry.node)
}

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    match &get(node, key)?.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

fn number(node: &Node, key: &str) -> Option<f64> {
    text(node, key)?.parse().ok().filter(|number: &f64| number.is_finite())
}

fn is_set(node: &Node, key: &str) -> bool {
    text(node, key) == Some("true")
}

fn texts(node: &Node, key: &str) -> Vec<String> {
    let items = get(node, key).map(list).unwrap_or_default();
    let text = |item: &Node| match &item.value {
        Value::Scalar { text, .. } => Some(text.clone()),
        _ => None,
    };
    items.iter().filter_map(text).collect()
}

fn test(field: Field, op: Op) -> Expr {
    Expr::Test(Test { field, op })
}

fn any(field: SpanField, op: Op) -> Expr {
    Expr::Any(Box::new(test(Field::Span(field), op)))
}

/// Both ends of a range; an end that is not set is not asked.
fn between(field: &Field, low: Option<(Cmp, Operand)>, high: Option<(Cmp, Operand)>) -> Expr {
    let ends = [low, high].into_iter().flatten();
    let parts = ends.map(|(cmp, value)| test(field.clone(), Op::Is(cmp, value)));
    every(parts.collect())
}

fn every(mut parts: Vec<Expr>) -> Expr {
    match parts.len() {
        0 => Expr::Const(true),
        1 => parts.remove(0),
        _ => Expr::And(parts),
    }
}

/// A span's own attribute or its resource's, one as good as the other: a span's does not hide its resource's there.
fn attribute(key: &str, mut asked: impl FnMut(Field) -> Expr) -> Expr {
    let places = [SpanField::Own(key.into()), SpanField::Resource(key.into())];
    Expr::Any(Box::new(Expr::Or(
        places.into_iter().map(|place| asked(Field::Span(place))).collect(),
    )))
}

impl Import {
    fn note(&mut self, at: At, what: &str, message: impl Into<String>) {
        let (what, message) = (what.to_owned(), message.into());
        self.notes.push(Note { at, what, message });
    }

    /// When a trace is due.
    fn waits(&mut self, processor: &Node, out: &mut String) {
        let wait = text(processor, "decision_wait").unwrap_or("30s");
        let settle = text(processor, "decision_wait_after_root_received").unwrap_or(wait);
        let is_short = |text: &str| parse_duration(text).ok().filter(|wait| !wait.is_zero());
        match (is_short(wait), is_short(settle)) {
            (Some(wait), Some(settle)) => {
                let write = |wait| tailwater_config::format_duration(wait);
                let settle = settle.min(wait);
                let _ = writeln!(
                    out,
                    "trace: {{root_settle: {}, idle: {}, timeout: {}}}",
                    write(settle),
                    write(wait),
                    write(wait)
                );
            }
            _ => self.note(
                processor.at,
                "decision_wait",
                "is written in a way that is not read here: set trace.timeout and trace.root_settle",
            ),
        }
        let known = [
            ("num_traces", "memory is limited in bytes: set trace.buffer_bytes"),
            ("expected_new_traces_per_sec", "not needed"),
            (
                "decision_cache",
                "decisions are remembered by time, and across restarts",
            ),
            ("sample_on_first_match", "the first stratum always decides"),
            (
                "block_on_overflow",
                "when memory is short, traces are let in by R, with a weight",
            ),
            ("drop_pending_traces_on_shutdown", "traces that wait survive a restart"),
            ("num_shards", "not needed"),
            ("maximum_trace_size_bytes", "a trace's size is a condition: trace.bytes"),
            ("sampling_strategy", "a trace is decided when it is whole"),
            ("tail_storage", "what waits is in the intake log"),
        ];
        for entry in entries(processor) {
            if let Some((key, message)) = known.iter().find(|(key, _)| *key == entry.key) {
                self.note(entry.at, key, *message);
            } else if !["policies", "decision_wait", "decision_wait_after_root_received"].contains(&entry.key.as_str())
            {
                self.note(entry.at, &entry.key, "is not known here");
            }
        }
    }

    fn policy(&mut self, node: &Node) {
        let name = text(node, "name").unwrap_or("policy").to_owned();
        if text(node, "type") == Some("composite") {
            return self.composite(node, &name);
        }
        match self.rule(node, &name) {
            Ok(rule) if rule.is_never() => {}
            Ok(rule) => self.rules.push(Rule {
                name,
                at: node.at,
                ..rule
            }),
            Err(message) => self.note(node.at, &name, format!("not carried over: {message}")),
        }
    }

    fn rule(&mut self, node: &Node, name: &str) -> Result<Rule, String> {
        let kind = text(node, "type").unwrap_or_default();
        let none = Node {
            at: node.at,
            value: Value::Map(Vec::new()),
        };
        let settings = get(node, kind).unwrap_or(&none);
        let key = || {
            text(settings, "key")
                .map(Box::from)
                .ok_or_else(|| "it has no key".to_owned())
        };
        let inverted = |expr: Expr| {
            if is_set(settings, "invert_match") {
                Expr::Not(Box::new(expr))
            } else {
                expr
            }
        };
        if is_set(settings, "invert_match") {
            self.note(
                node.at,
                name,
                "invert_match is carried over as `not`; Collectors that know inverted decisions let it overrule other policies",
            );
        }
        if let Some(burst) = get(settings, "burst_capacity") {
            self.note(
                burst.at,
                name,
                "burst_capacity is not carried over: budget.burst_sec holds for all strata",
            );
        }
        let of = |count: f64| Operand::Number(count);
        let set = |name: &str| number(settings, name).filter(|number| *number != 0.0);
        Ok(Rule::of(match kind {
            "always_sample" => Expr::Const(true),
            "latency" => {
                // Durations are cut to whole ms there before they are compared.
                let next = |ms: f64| Operand::Duration(((ms + 1.0) * 1e6) as u64);
                let low = number(settings, "threshold_ms").unwrap_or(0.0);
                let high = set("upper_threshold_ms").map(|ms| (Cmp::Lt, next(ms)));
                if high.is_some() {
                    self.note(
                        node.at,
                        name,
                        "the upper bound is one of whole traces; there a part of one may be below it",
                    );
                }
                between(
                    &Field::Trace(TraceField::Duration),
                    (low >= 0.0).then(|| (Cmp::Ge, next(low))),
                    high,
                )
            }
            "numeric_attribute" => {
                let ends = (set("min_value"), set("max_value"));
                if ends == (None, None) {
                    return Err("it has neither min_value nor max_value".into());
                }
                self.note(
                    node.at,
                    name,
                    "numbers with a fraction are compared, too; there they are 0",
                );
                inverted(attribute(&key()?, |field| {
                    let low = ends.0.map(|number| (Cmp::Ge, of(number)));
                    let high = ends.1.map(|number| (Cmp::Le, of(number)));
                    between(&field, low, high)
                }))
            }
            "string_attribute" => {
                let values = texts(settings, "values");
                let ops = match is_set(settings, "enabled_regex_matching") {
                    false => vec![one_of(values)?],
                    true => {
                        if values.iter().any(|value| value.contains('\\')) {
                            self.note(node.at, name, UNICODE);
                        }
                        let patterns = values.iter().map(|value| parse::pattern(value).map(Op::Matches));
                        patterns.collect::<Result<_, String>>()?
                    }
                };
                if ops.is_empty() {
                    return Err("it has no values".into());
                }
                inverted(attribute(&key()?, |field| {
                    some(ops.iter().map(|op| test(field.clone(), op.clone())).collect())
                }))
            }
            "boolean_attribute" => {
                let is_true = is_set(settings, "value");
                if !is_true {
                    self.note(node.at, name, "values of other types are not false, as they are there");
                }
                let value = Operand::Bool(is_true);
                inverted(attribute(&key()?, |field| test(field, Op::Is(Cmp::Eq, value.clone()))))
            }
            "status_code" => {
                let codes = texts(settings, "status_codes").into_iter().map(|code| {
                    let known = STATUSES.iter().position(|known| known.eq_ignore_ascii_case(&code));
                    known
                        .map(|code| Operand::Status(code as i32))
                        .ok_or_else(|| format!("{code} is no status"))
                });
                any(SpanField::Status, Op::In(codes.collect::<Result<_, _>>()?))
            }
            "span_count" => {
                self.note(node.at, name, "a span that comes again counts once");
                let low = set("min_spans").map(|count| (Cmp::Ge, of(count)));
                let high = set("max_spans").map(|count| (Cmp::Le, of(count)));
                between(&Field::Trace(TraceField::Spans), low, high)
            }
            "trace_state" => {
                self.note(
                    node.at,
                    name,
                    "tracestates that W3C calls invalid are read as far as they can be; there they are not",
                );
                any(SpanField::TraceState(key()?), one_of(texts(settings, "values"))?)
            }
            "trace_flags" => any(SpanField::Sampled, Op::Holds),
            "probabilistic" => {
                let p = number(settings, "sampling_percentage").unwrap_or(0.0) / 100.0;
                if text(settings, "hash_salt").is_some() {
                    self.note(
                        node.at,
                        name,
                        "hash_salt has no meaning: R of the trace decides, and the weight is recorded",
                    );
                }
                return Ok(Rule {
                    p: p.clamp(0.0, 1.0),
                    ..Rule::of(Expr::Const(true))
                });
            }
            "rate_limiting" => {
                return Ok(Rule {
                    spans_per_sec: set("spans_per_second").ok_or("it has no spans_per_second")?,
                    ..Rule::of(Expr::Const(true))
                });
            }
            "bytes_limiting" => {
                self.note(
                    node.at,
                    name,
                    "bytes are counted as stored, not as sent: a tenth or less of them",
                );
                return Ok(Rule {
                    bytes_per_sec: set("bytes_per_second").ok_or("it has no bytes_per_second")?,
                    ..Rule::of(Expr::Const(true))
                });
            }
            "ottl_condition" => {
                if !texts(settings, "spanevent").is_empty() {
                    return Err("conditions on span events are not known here".into());
                }
                if texts(settings, "span")
                    .iter()
                    .any(|condition| condition.contains("IsMatch"))
                {
                    self.note(
                        node.at,
                        name,
                        "IsMatch looks at texts alone; there numbers are made texts of",
                    );
                }
                let conditions = texts(settings, "span").into_iter().map(|condition| {
                    parse::ottl(&condition)
                        .map_err(|wrong| format!("character {} of `{condition}`: {}", wrong.column, wrong.message))
                });
                let conditions: Vec<Expr> = conditions.collect::<Result<_, _>>()?;
                if conditions.is_empty() {
                    return Err("it has no conditions".into());
                }
                Expr::Any(Box::new(some(conditions)))
            }
            "and" => return self.and(get(settings, "and_sub_policy").map(list).unwrap_or_default(), name),
            "drop" => {
                let rule = self.and(get(settings, "drop_sub_policy").map(list).unwrap_or_default(), name)?;
                if !rule.is_plain() {
                    return Err("only conditions can drop: a share that is dropped has no weight".into());
                }
                return Ok(Rule { is_drop: true, ..rule });
            }
            "not" => {
                let inner = get(settings, "not_sub_policy").ok_or("it has no not_sub_policy")?;
                let rule = self.rule(inner, name)?;
                if !rule.is_plain() {
                    return Err("only conditions can be turned round: the opposite of a share has no weight".into());
                }
                Expr::Not(Box::new(rule.when))
            }
            kind => return Err(format!("policies of type `{kind}` are not known here")),
        }))
    }

    fn and(&mut self, parts: &[Node], name: &str) -> Result<Rule, String> {
        let mut all = Rule::of(Expr::Const(true));
        let mut when = Vec::new();
        for part in parts {
            let rule = self.rule(part, name)?;
            if rule.is_drop {
                return Err("a drop within it".into());
            }
            all.p = all.p.min(rule.p);
            all.spans_per_sec = all.spans_per_sec.min(rule.spans_per_sec);
            all.bytes_per_sec = all.bytes_per_sec.min(rule.bytes_per_sec);
            if !matches!(rule.when, Expr::Const(true)) {
                when.push(rule.when);
            }
        }
        all.when = every(when);
        Ok(all)
    }

    fn composite(&mut self, node: &Node, name: &str) {
        let none = node.clone();
        let settings = get(node, "composite").unwrap_or(&none);
        let parts = get(settings, "composite_sub_policy").map(list).unwrap_or_default();
        let Some(total) = number(settings, "max_total_spans_per_second") else {
            return self.note(node.at, name, "not carried over: it has no max_total_spans_per_second");
        };
        let names: Vec<&str> = parts.iter().filter_map(|part| text(part, "name")).collect();
        let order = texts(settings, "policy_order");
        if !order.is_empty() && order != names {
            self.note(
                node.at,
                name,
                "policy_order says another order than the parts stand in; the Collector goes by that of the parts, and so does this",
            );
        }
        let allocations = get(settings, "rate_allocation").map(list).unwrap_or_default();
        let share = |part: &Node| {
            let own = allocations
                .iter()
                .find(|allocation| text(allocation, "policy") == text(part, "name"));
            let percent = own
                .and_then(|own| number(own, "percent"))
                .filter(|percent| *percent > 0.0);
            percent.map_or(1.0 / parts.len() as f64, |percent| percent / 100.0)
        };
        let composite = Some(self.composites);
        self.composites += 1;
        for (place, part) in parts.iter().enumerate() {
            let full = format!("{name}.{}", text(part, "name").unwrap_or("part"));
            match self.rule(part, &full) {
                Ok(rule) if rule.is_never() => {}
                Ok(rule) => {
                    if (rule.p < 1.0 || rule.is_limited()) && place + 1 < parts.len() {
                        self.note(part.at, &full, LEFT_OUT);
                    }
                    self.rules.push(Rule {
                        name: full,
                        at: part.at,
                        // Whole spans, as there.
                        spans_per_sec: rule.spans_per_sec.min((total * share(part)).floor().min(total)),
                        composite,
                        ..rule
                    });
                }
                Err(message) => self.note(part.at, &full, format!("not carried over: {message}")),
            }
        }
    }

    fn write(&mut self, at: At, out: &mut String) {
        let mut used: Vec<String> = Vec::new();
        let mut is_closed = false;
        out.push_str("strata:\n");
        let rules = std::mem::take(&mut self.rules);
        for (place, rule) in rules.iter().enumerate() {
            if is_closed {
                self.note(
                    at,
                    &rule.name,
                    "not carried over: a policy before it takes every trace, and the first one decides",
                );
                continue;
            }
            let ok = |c: char| {
                if c.is_ascii_alphanumeric() || "_-.".contains(c) {
                    c
                } else {
                    '_'
                }
            };
            let base: String = rule.name.chars().map(ok).take(48).collect();
            let mut name = if base.is_empty() { "policy".to_owned() } else { base };
            while used.contains(&name) || name == "unmatched" {
                name.push_str("_2");
            }
            used.push(name.clone());
            let _ = writeln!(out, "  - name: {name}");
            is_closed = matches!(rule.when, Expr::Const(true));
            let is_sure = rule.is_drop || rule.p >= 1.0 && !rule.is_limited();
            let others = rules[place + 1..].iter();
            let has_other = others
                .filter(|other| other.is_limited())
                .any(|other| rule.composite.is_none() || other.composite != rule.composite);
            let is_said = |note: &Note| note.what == rule.name && note.message == LEFT_OUT;
            if !is_sure && !is_closed && has_other && !self.notes.iter().any(is_said) {
                self.note(rule.at, &rule.name, LEFT_OUT);
            }
            if !is_closed {
                let _ = writeln!(out, "    when: '{}'", rule.when.to_string().replace('\'', "''"));
            }
            let _ = match (rule.is_drop, rule.p < 1.0) {
                (true, _) => writeln!(out, "    target: drop"),
                (false, true) => writeln!(out, "    target: {}%", rule.p * 100.0),
                (false, false) => writeln!(out, "    target: all"),
            };
            if rule.spans_per_sec.is_finite() {
                let _ = writeln!(out, "    spans_per_sec: {}", rule.spans_per_sec);
            }
            if rule.bytes_per_sec.is_finite() {
                let _ = writeln!(out, "    bytes_per_sec: {}", (rule.bytes_per_sec as u64).max(1));
            }
        }
        if !is_closed {
            out.push_str("  - name: unmatched\n    target: drop\n");
        }
    }
}

fn one_of(mut values: Vec<String>) -> Result<Op, String> {
    // An empty text is never met there.
    values.retain(|value| !value.is_empty());
    if values.is_empty() {
        return Err("it has no values".into());
    }
    Ok(Op::In(
        values.into_iter().map(|value| Operand::Text(value.into())).collect(),
    ))
}

fn some(mut parts: Vec<Expr>) -> Expr {
    match parts.len() {
        1 => parts.remove(0),
        _ => Expr::Or(parts),
    }
}

/// What differs in patterns.
const UNICODE: &str = "\\d, \\w, \\s and \\b are those of Unicode; there they are those of ASCII";

/// What a stratum that does not keep all of its traces says of the others.
const LEFT_OUT: &str = "traces that it leaves out are not offered to those after it, as they are there";

// The names that OTTL's constants are made of.
const _: () = assert!(KINDS.len() == 6 && STATUSES.len() == 3);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    fn check(policies: &str, strata: &str, notes: &[&str]) {
        let text = format!("processors:\n  tail_sampling:\n    decision_wait: 10s\n    policies:\n{policies}");
        let imported = otelcol(&text).unwrap();
        let found = imported.policy.split_once("strata:\n").unwrap().1;
        assert_eq!(found, strata);
        let read = crate::policy::read(Path::new("imported.yaml"), &imported.policy);
        assert!(read.is_ok(), "{}\n{}", imported.policy, read.unwrap_err());
        let said: Vec<String> = imported.notes.iter().map(Note::to_string).collect();
        assert_eq!(said.len(), notes.len(), "{said:#?}");
        for (said, expected) in said.iter().zip(notes) {
            assert!(said.contains(expected), "{said} {expected}");
        }
    }

    #[test]
    fn every_type_of_policy() {
        check(
            r#"
      - {name: p, type: probabilistic, probabilistic: {sampling_percentage: 12.5, hash_salt: x}}
      - {name: slow, type: latency, latency: {threshold_ms: 500, upper_threshold_ms: 10000}}
      - {name: num, type: numeric_attribute, numeric_attribute: {key: n, min_value: 5, max_value: 0}}
      - {name: str, type: string_attribute, string_attribute: {key: s, values: [a, "it's"]}}
      - {name: re, type: string_attribute, string_attribute: {key: s, values: ['^a\d', b], enabled_regex_matching: true}}
      - {name: bool, type: boolean_attribute, boolean_attribute: {key: b, value: true, invert_match: true}}
      - {name: err, type: status_code, status_code: {status_codes: [ERROR, UNSET]}}
      - {name: many, type: span_count, span_count: {min_spans: 2, max_spans: 20}}
      - {name: ts, type: trace_state, trace_state: {key: k, values: [v]}}
      - {name: flags, type: trace_flags}
      - {name: ottl, type: ottl_condition, ottl_condition: {span: ['attributes["a"] == "b"', 'IsMatch(name, "x")']}}
      - {name: none, type: probabilistic, probabilistic: {sampling_percentage: 0}}
      - {name: no, type: not, not: {not_sub_policy: {type: span_count, span_count: {min_spans: 3}}}}
      - name: both
        type: and
        and:
          and_sub_policy:
            - {type: latency, latency: {threshold_ms: 100}}
            - {type: probabilistic, probabilistic: {sampling_percentage: 50}}
            - {type: rate_limiting, rate_limiting: {spans_per_second: 35}}
      - {name: bytes, type: and, and: {and_sub_policy: [{type: trace_flags}, {type: bytes_limiting, bytes_limiting: {bytes_per_second: 1000}}]}}
      - {name: bye, type: drop, drop: {drop_sub_policy: [{type: string_attribute, string_attribute: {key: p, values: [/healthz]}}]}}
"#,
            r#"  - name: bye
    when: 'any(span.own["p"] in ["/healthz"] or span.resource["p"] in ["/healthz"])'
    target: drop
  - name: slow
    when: 'trace.duration >= 501ms and trace.duration < 10001ms'
    target: all
  - name: num
    when: 'any(span.own["n"] >= 5 or span.resource["n"] >= 5)'
    target: all
  - name: str
    when: 'any(span.own["s"] in ["a", "it''s"] or span.resource["s"] in ["a", "it''s"])'
    target: all
  - name: re
    when: 'any((span.own["s"] matches "^a\\d" or span.own["s"] matches "b") or (span.resource["s"] matches "^a\\d" or span.resource["s"] matches "b"))'
    target: all
  - name: bool
    when: 'not any(span.own["b"] == true or span.resource["b"] == true)'
    target: all
  - name: err
    when: 'any(span.status in [error, unset])'
    target: all
  - name: many
    when: 'trace.spans >= 2 and trace.spans <= 20'
    target: all
  - name: ts
    when: 'any(span.trace_state["k"] in ["v"])'
    target: all
  - name: flags
    when: 'any(span.sampled)'
    target: all
  - name: ottl
    when: 'any(span.own["a"] == "b" or span.name matches "x")'
    target: all
  - name: no
    when: 'not (trace.spans >= 3)'
    target: all
  - name: p
    target: 12.5%
"#,
            &[
                "hash_salt",
                "upper bound",
                "fraction",
                "Unicode",
                "invert_match",
                "counts once",
                "W3C",
                "IsMatch",
                "counts once",
                "a tenth",
                "both: not carried over",
                "bytes: not carried over",
            ],
        );
    }

    #[test]
    fn limits_composites_and_what_cannot_be() {
        check(
            r#"
      - name: mix
        type: composite
        composite:
          max_total_spans_per_second: 1000
          policy_order: [b, a]
          composite_sub_policy:
            - {name: b, type: status_code, status_code: {status_codes: [ERROR]}}
            - {name: a, type: always_sample}
          rate_allocation: [{policy: b, percent: 60}, {policy: a, percent: 0}]
      - {name: ext, type: my_extension}
      - {name: ev, type: ottl_condition, ottl_condition: {spanevent: ['name == "x"']}}
      - {name: odd, type: not, not: {not_sub_policy: {type: probabilistic, probabilistic: {sampling_percentage: 5}}}}
      - {name: open, type: numeric_attribute, numeric_attribute: {key: n}}
"#,
            "  - name: mix.b\n    when: 'any(span.status in [error])'\n    target: all\n    spans_per_sec: 600\n  - name: mix.a\n    target: all\n    spans_per_sec: 500\n",
            &["my_extension", "span events", "turned round", "neither"],
        );
        check(
            "      - {name: err, type: status_code, status_code: {status_codes: [ERROR]}}\n",
            "  - name: err\n    when: 'any(span.status in [error])'\n    target: all\n  - name: unmatched\n    target: drop\n",
            &[],
        );
        assert!(otelcol("processors: {batch: {}}").is_err());
        assert!(otelcol("a: [").is_err());
    }

    #[test]
    fn what_the_order_of_strata_changes_is_said() {
        check(
            r#"
      - name: mix
        type: composite
        composite:
          max_total_spans_per_second: 100
          policy_order: [some, errors]
          composite_sub_policy:
            - {name: errors, type: status_code, status_code: {status_codes: [ERROR]}}
            - name: some
              type: and
              and:
                and_sub_policy:
                  - {type: latency}
                  - {type: probabilistic, probabilistic: {sampling_percentage: 10}}
            - {name: many, type: span_count, span_count: {min_spans: 3}}
      - {name: flagged, type: and, and: {and_sub_policy: [{type: trace_flags}, {type: rate_limiting, rate_limiting: {spans_per_second: 9, burst_capacity: 9}}]}}
"#,
            "  - name: mix.errors\n    when: 'any(span.status in [error])'\n    target: all\n    spans_per_sec: 33\n  \
             - name: mix.some\n    when: 'trace.duration >= 1ms'\n    target: 10%\n    spans_per_sec: 33\n  \
             - name: mix.many\n    when: 'trace.spans >= 3'\n    target: all\n    spans_per_sec: 33\n  \
             - name: flagged\n    when: 'any(span.sampled)'\n    target: all\n    spans_per_sec: 9\n  \
             - name: unmatched\n    target: drop\n",
            &[
                "policy_order",
                "mix.some: traces that it leaves out",
                "counts once",
                "burst_capacity",
                "mix.errors: traces that it leaves out",
                "mix.many: traces that it leaves out",
            ],
        );
    }
}
