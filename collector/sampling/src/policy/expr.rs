//! Conditions of strata: what they can say.
//!
//! ```text
//! condition  = and { "or" and } ;  and = not { "and" not } ;  not = [ "not" ] ( "(" condition ")" | "true" | "false" | any | test )
//! any        = "any(" condition over span.* ")"                one span of the trace meets all of it
//! test       = field | field "exists" | field cmp value | field ["not"] "in" "[" value, ... "]" | field "matches" text | field "contains" text
//!            | field "starts_with" text
//! field      = span.X or root.X, X: name op service kind status duration sampled attr["key"] own["key"] resource["key"] trace_state["key"]
//!            | trace.X, X: duration spans bytes error tenant has_root
//! value      = "text" | 12.5 | 300ms | true | error ok unset | server client internal producer consumer | red.p98(5m)
//! ```
//!
//! `attr` is the span's own attribute or else its resource's, `own` and `resource` are one of the two alone. A field that is missing meets `!=` and `not in` only; a bare field is met when
//! it is there and not `false`. `root` is the span without parent; in a trace that has none, the earliest span entered from elsewhere (a
//! server or consumer), else the first. Guarantees: a condition reads no R and no trace id, so that no threshold depends on them.

use std::fmt;

use regex::bytes::Regex;
use tailwater_config::format_duration;

/// A condition over a trace.
#[derive(Debug, Clone)]
pub enum Expr {
    /// Always or never.
    Const(bool),
    /// The opposite.
    Not(Box<Expr>),
    /// All of them.
    And(Vec<Expr>),
    /// One of them.
    Or(Vec<Expr>),
    /// One span meets it. Inside are only fields of spans.
    Any(Box<Expr>),
    /// A test of one field.
    Test(Test),
}

/// A test of one field.
#[derive(Debug, Clone)]
pub struct Test {
    /// Which.
    pub field: Field,
    /// What is asked.
    pub op: Op,
}

/// What can be tested.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Field {
    /// Of the span that `any` looks at.
    Span(SpanField),
    /// Of the trace's root.
    Root(SpanField),
    /// Of the trace.
    Trace(TraceField),
}

/// What a span has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SpanField {
    /// Its name.
    Name,
    /// `service.name` of its resource.
    Service,
    /// Its kind.
    Kind,
    /// Its status.
    Status,
    /// End less start.
    Duration,
    /// The sampled flag of W3C Trace Context.
    Sampled,
    /// Its attribute, or else its resource's.
    Attr(Box<str>),
    /// Its attribute.
    Own(Box<str>),
    /// Its resource's attribute.
    Resource(Box<str>),
    /// A member of its tracestate.
    TraceState(Box<str>),
}

impl SpanField {
    /// Whether it is an attribute, of any type.
    pub(crate) fn is_attribute(&self) -> bool {
        matches!(self, SpanField::Attr(_) | SpanField::Own(_) | SpanField::Resource(_))
    }
}

/// What a trace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TraceField {
    /// From the first start to the last end.
    Duration,
    /// How many spans have arrived.
    Spans,
    /// Their protobuf bytes.
    Bytes,
    /// Whether a span's status is error.
    Error,
    /// Whose it is.
    Tenant,
    /// Whether the span without parent has arrived.
    HasRoot,
}

/// What is asked of a field.
#[derive(Debug, Clone)]
pub enum Op {
    /// It is there and not `false`.
    Holds,
    /// It is there.
    Exists,
    /// Compared.
    Is(Cmp, Value),
    /// One of these.
    In(Vec<Value>),
    /// None of these.
    NotIn(Vec<Value>),
    /// The pattern is found in it.
    Matches(Regex),
    /// It has this within.
    Contains(Box<str>),
    /// It begins with this.
    StartsWith(Box<str>),
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cmp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(Box<str>),
    /// A number.
    Number(f64),
    /// A duration, ns.
    Duration(u64),
    /// True or false.
    Bool(bool),
    /// A status by its OTLP number.
    Status(i32),
    /// A kind by its OTLP number.
    Kind(i32),
    /// A quantile of the root's own operation, of the time before.
    Red(Quantile),
}

/// A quantile of recent durations of an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantile {
    /// In (0, 1).
    pub q: f64,
    /// Of how much time, ns.
    pub window_ns: u64,
}

/// Names of statuses by number.
pub(crate) const STATUSES: [&str; 3] = ["unset", "ok", "error"];
/// Names of kinds by number.
pub(crate) const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
/// OTLP's number of the status error.
pub(crate) const STATUS_ERROR: i32 = 2;

impl Expr {
    /// Calls `visit` with every test.
    pub fn tests<'a>(&'a self, visit: &mut impl FnMut(&'a Test)) {
        match self {
            Expr::Const(_) => {}
            Expr::Not(inner) | Expr::Any(inner) => inner.tests(visit),
            Expr::And(parts) | Expr::Or(parts) => parts.iter().for_each(|part| part.tests(visit)),
            Expr::Test(test) => visit(test),
        }
    }
}

impl Cmp {
    /// Whether an ordering of left and right meets it.
    #[inline]
    pub(crate) fn holds(self, order: Option<std::cmp::Ordering>) -> bool {
        match (self, order) {
            (Cmp::Ne, None) => true,
            (_, None) => false,
            (Cmp::Eq, Some(order)) => order.is_eq(),
            (Cmp::Ne, Some(order)) => order.is_ne(),
            (Cmp::Lt, Some(order)) => order.is_lt(),
            (Cmp::Le, Some(order)) => order.is_le(),
            (Cmp::Gt, Some(order)) => order.is_gt(),
            (Cmp::Ge, Some(order)) => order.is_ge(),
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Cmp::Eq => "==",
            Cmp::Ne => "!=",
            Cmp::Lt => "<",
            Cmp::Le => "<=",
            Cmp::Gt => ">",
            Cmp::Ge => ">=",
        }
    }
}

/// Writes text in quotes, so that it reads back.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = |f: &mut fmt::Formatter<'_>, parts: &[Expr], word: &str| {
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    write!(f, " {word} ")?;
                }
                match part {
                    Expr::Or(_) | Expr::And(_) => write!(f, "({part})")?,
                    _ => write!(f, "{part}")?,
                }
            }
            Ok(())
        };
        match self {
            Expr::Const(value) => write!(f, "{value}"),
            Expr::Not(inner) => match **inner {
                Expr::Any(_) | Expr::Const(_) => write!(f, "not {inner}"),
                _ => write!(f, "not ({inner})"),
            },
            Expr::And(all) => parts(f, all, "and"),
            Expr::Or(all) => parts(f, all, "or"),
            Expr::Any(inner) => write!(f, "any({inner})"),
            Expr::Test(test) => write!(f, "{test}"),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, values: &[Value]| {
            f.write_str("[")?;
            for (index, value) in values.iter().enumerate() {
                write!(f, "{}{value}", if index > 0 { ", " } else { "" })?;
            }
            f.write_str("]")
        };
        write!(f, "{}", self.field)?;
        match &self.op {
            Op::Holds => Ok(()),
            Op::Exists => f.write_str(" exists"),
            Op::Is(cmp, value) => write!(f, " {} {value}", cmp.symbol()),
            Op::In(values) => f.write_str(" in ").and_then(|()| list(f, values)),
            Op::NotIn(values) => f.write_str(" not in ").and_then(|()| list(f, values)),
            Op::Matches(pattern) => write!(f, " matches {}", Quoted(pattern.as_str())),
            Op::Contains(text) => write!(f, " contains {}", Quoted(text)),
            Op::StartsWith(text) => write!(f, " starts_with {}", Quoted(text)),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (of, field) = match self {
            Field::Span(field) => ("span", field),
            Field::Root(field) => ("root", field),
            Field::Trace(field) => {
                let name = TRACE_FIELDS.iter().find(|(_, known)| known == field);
                return write!(f, "trace.{}", name.map_or("", |(name, _)| name));
            }
        };
        write!(f, "{of}.")?;
        match field {
            SpanField::Name => f.write_str("name"),
            SpanField::Service => f.write_str("service"),
            SpanField::Kind => f.write_str("kind"),
            SpanField::Status => f.write_str("status"),
            SpanField::Duration => f.write_str("duration"),
            SpanField::Sampled => f.write_str("sampled"),
            SpanField::Attr(key) => write!(f, "attr[{}]", Quoted(key)),
            SpanField::Own(key) => write!(f, "own[{}]", Quoted(key)),
            SpanField::Resource(key) => write!(f, "resource[{}]", Quoted(key)),
            SpanField::TraceState(key) => write!(f, "trace_state[{}]", Quoted(key)),
        }
    }
}

/// Names of [`TraceField`].
pub(crate) const TRACE_FIELDS: [(&str, TraceField); 6] = [
    ("duration", TraceField::Duration),
    ("spans", TraceField::Spans),
    ("bytes", TraceField::Bytes),
    ("error", TraceField::Error),
    ("tenant", TraceField::Tenant),
    ("has_root", TraceField::HasRoot),
];

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = |ns: u64| format_duration(std::time::Duration::from_nanos(ns));
        match self {
            Value::Text(text) => write!(f, "{}", Quoted(text)),
            Value::Number(number) => write!(f, "{number}"),
            Value::Duration(ns) => f.write_str(&duration(*ns)),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Status(number) => f.write_str(STATUSES.get(*number as usize).unwrap_or(&"unset")),
            Value::Kind(number) => f.write_str(KINDS.get(*number as usize).unwrap_or(&"unspecified")),
            Value::Red(quantile) => {
                // 99.9 is not exact in binary; three decimals of a percent are more than any histogram has.
                let percent = (quantile.q * 1e5).round() / 1e3;
                write!(f, "red.p{percent}({})", duration(quantile.window_ns))
            }
        }
    }
}
