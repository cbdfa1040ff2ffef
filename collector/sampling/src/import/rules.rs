//! Policies of a `tail_sampling` processor, one by one: which traces each is about, and how many of them.

use tailwater_config::yaml::{At, Node, Value};

use super::node::{get, is_set, list, number, text, texts};
use super::{Import, LEFT_OUT};
use crate::policy::expr::{Cmp, Expr, Field, KINDS, Op, STATUSES, SpanField, Test, TraceField, Value as Operand};
use crate::policy::parse;

/// A policy: which traces, with what probability, and how many.
pub(super) struct Rule {
    pub name: String,
    pub at: At,
    pub when: Expr,
    pub p: f64,
    pub spans_per_sec: f64,
    /// As sent.
    pub bytes_per_sec: f64,
    pub is_drop: bool,
    /// Of which composite it is a part: what a part leaves out, others of the same one do not get there either.
    pub composite: Option<usize>,
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

    pub fn is_limited(&self) -> bool {
        self.spans_per_sec.is_finite() || self.bytes_per_sec.is_finite()
    }

    /// Nothing but a condition.
    fn is_plain(&self) -> bool {
        !self.is_limited() && self.p >= 1.0 && !self.is_drop
    }

    pub fn order(&self) -> (u8, u64) {
        match (self.is_drop, self.is_limited()) {
            (true, _) => (0, 0),
            (false, false) => (1, ((1.0 - self.p) * 1e12) as u64),
            (false, true) => (2, 0),
        }
    }
}

impl Import {
    /// Takes up a policy, if it can be carried over.
    pub(super) fn policy(&mut self, node: &Node) {
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
            Err(message) => self.lost(node.at, &name, format!("not carried over: {message}")),
        }
    }

    /// Says what `invert_match` may mean beside other policies.
    pub(super) fn inversions(&mut self) {
        let voters = self.rules.iter().filter(|rule| !rule.is_drop).count();
        for (at, name) in std::mem::take(&mut self.inverted) {
            let is_drop = self.rules.iter().any(|rule| rule.name == name && rule.is_drop);
            if is_drop || voters < 2 {
                self.note(at, &name, "invert_match is carried over as `not`");
            } else {
                self.lost(at, &name, OVERRULES);
            }
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
        let is_new = self.inverted.last().is_none_or(|(_, last)| last != name);
        if is_set(settings, "invert_match") && is_new {
            self.inverted.push((node.at, name.to_owned()));
        }
        if let Some(burst) = get(settings, "burst_capacity") {
            self.lost(
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
                match text(settings, "hash_salt") {
                    Some(_) => self.note(node.at, name, SALT),
                    None if p > 0.0 && p < 1.0 => self.note(node.at, name, SHARE),
                    None => {}
                }
                return Ok(Rule {
                    p: p.clamp(0.0, 1.0),
                    ..Rule::of(Expr::Const(true))
                });
            }
            "rate_limiting" => {
                self.note(node.at, name, LIMIT);
                return Ok(Rule {
                    spans_per_sec: set("spans_per_second").ok_or("it has no spans_per_second")?,
                    ..Rule::of(Expr::Const(true))
                });
            }
            "bytes_limiting" => {
                self.note(node.at, name, LIMIT);
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
            return self.lost(node.at, name, "not carried over: it has no max_total_spans_per_second");
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
        self.note(node.at, name, LIMIT);
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
                        self.lost(part.at, &full, LEFT_OUT);
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
                Err(message) => self.lost(part.at, &full, format!("not carried over: {message}")),
            }
        }
    }
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

/// What differs in shares, with a salt or without.
const SHARE: &str =
    "the share is of other traces: R of the trace decides, not a hash of its id, and the weight is recorded";
const SALT: &str = "hash_salt has no meaning: R of the trace decides, and the weight is recorded";

/// What differs in inverted conditions, where there are other policies.
const OVERRULES: &str = "invert_match is carried over as `not`, which it is since v0.156 of the Collector; before, it overrules other policies";

/// What differs in limits.
const LIMIT: &str = "each tenant has the limit to itself, and R decides who is within it; there it is one for all, and whoever fits is kept";

/// What differs in patterns.
const UNICODE: &str = "\\d, \\w, \\s and \\b are those of Unicode; there they are those of ASCII";

// The names that OTTL's constants are made of.
const _: () = assert!(KINDS.len() == 6 && STATUSES.len() == 3);
