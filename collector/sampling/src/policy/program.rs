//! A policy in the form that runs: conditions over spans become bits of a trace, set while its spans go by, so that nothing but bits has to
//! wait with it.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;
use tailwater_model::otlp::peek::{Keys, SpanPeek};
use tailwater_model::otlp::value::{Any, Raw};

use super::expr::{Expr, Field, Op, Quantile, SpanField, TraceField, Value};
use super::{Part, Policy};
use crate::recent::Recent;

/// Most conditions of each kind: a bit each.
const BITS: usize = 64;
/// Most attributes; [`Keys`] takes no more.
const KEYS_MAX: usize = 128;

/// What runs.
#[derive(Debug)]
pub(crate) struct Program {
    /// By place; `None` where nobody needs one.
    keys: Vec<Option<Box<str>>>,
    /// Places of the keys that this one needs itself, a bit each.
    own: u128,
    /// Asked of every span.
    any: Vec<Node>,
    /// Asked of the root.
    root: Vec<Leaf>,
    /// By stratum.
    strata: Vec<Node>,
    /// Asked of [`Recent`].
    quantiles: Vec<Quantile>,
    fingerprint: Vec<Print>,
    by_status: bool,
    /// Not `RandomState::new`: a fingerprint names the same traces in the state of the next process.
    hasher: RandomState,
}

#[derive(Debug)]
enum Node {
    Const(bool),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Any(u8),
    Root(u8),
    Leaf(Leaf),
}

#[derive(Debug)]
struct Leaf {
    of: Of,
    op: Op,
}

#[derive(Debug, Clone)]
enum Of {
    Span(SpanField),
    Attr(usize),
    Own(usize),
    Resource(usize),
    Trace(TraceField),
    /// The root's duration against a quantile.
    Recent(usize),
}

#[derive(Debug)]
enum Print {
    Service,
    Name,
    Kind,
    Attr(usize),
}

/// What is known of a trace when it is decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary<'a> {
    pub any: u64,
    pub root: u64,
    pub duration_ns: u64,
    pub spans: u32,
    pub bytes: u64,
    pub error: bool,
    pub has_root: bool,
    pub tenant: &'a str,
}

/// What is known of its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub bits: u64,
    pub print: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen<'a> {
    Absent,
    Text(&'a [u8]),
    Number(f64),
    Bool(bool),
    Ns(u64),
    Status(i32),
    Kind(i32),
}

impl Program {
    /// Compiles a policy.
    ///
    /// # Errors
    /// A sentence, when it asks for more than there are bits.
    pub fn new(policy: &Policy) -> Result<Program, String> {
        Program::beside(policy, std::iter::empty())
    }

    /// Compiles a policy so that the keys that `others` need keep their places; these were compiled beside each other.
    ///
    /// # Errors
    /// As [`Program::new`], all keys counted.
    pub fn beside<'a>(policy: &Policy, others: impl Iterator<Item = &'a Program>) -> Result<Program, String> {
        let mut keys: Vec<Option<Box<str>>> = Vec::new();
        for other in others {
            keys.resize(keys.len().max(other.keys.len()), None);
            for (place, key) in other.keys.iter().enumerate().filter(|(place, _)| other.needs(*place)) {
                keys[place].clone_from(key);
            }
        }
        let mut program = Program {
            keys,
            own: 0,
            any: Vec::new(),
            root: Vec::new(),
            strata: Vec::new(),
            quantiles: Vec::new(),
            fingerprint: Vec::new(),
            by_status: false,
            hasher: RandomState::with_seeds(0x5461, 0x696c, 0x7761, 0x7465),
        };
        let mut names = (Vec::new(), Vec::new());
        for stratum in &policy.strata {
            let node = match &stratum.when {
                Some(expr) => program.compile(expr, &mut names),
                None => Node::Const(true),
            };
            program.strata.push(node);
        }
        for part in &policy.fingerprint {
            let print = match part {
                Part::Service => Print::Service,
                Part::Name => Print::Name,
                Part::Kind => Print::Kind,
                Part::Attr(key) => Print::Attr(program.key(key)),
                Part::StatusClass => {
                    program.by_status = true;
                    continue;
                }
            };
            program.fingerprint.push(print);
        }
        for (what, count, max) in [
            ("conditions of `any`", program.any.len(), BITS),
            ("tests of the root", program.root.len(), BITS),
            ("attributes", program.keys.iter().flatten().count(), KEYS_MAX),
        ] {
            if count > max {
                return Err(format!("{count} different {what}, at most {max}"));
            }
        }
        Ok(program)
    }

    fn needs(&self, place: usize) -> bool {
        self.own.checked_shr(place as u32).is_some_and(|own| own & 1 != 0)
    }

    fn key(&mut self, key: &str) -> usize {
        let known = self.keys.iter().position(|known| known.as_deref() == Some(key));
        let place = known
            .or_else(|| self.keys.iter().position(Option::is_none))
            .unwrap_or(self.keys.len());
        if known.is_none() {
            self.keys.resize(self.keys.len().max(place + 1), None);
            self.keys[place] = Some(key.into());
        }
        // Beyond these it is refused in the end.
        self.own |= 1u128.checked_shl(place as u32).unwrap_or(0);
        place
    }

    fn compile(&mut self, expr: &Expr, names: &mut (Vec<String>, Vec<String>)) -> Node {
        match expr {
            Expr::Const(value) => Node::Const(*value),
            Expr::Not(inner) => Node::Not(Box::new(self.compile(inner, names))),
            Expr::And(parts) => Node::And(parts.iter().map(|part| self.compile(part, names)).collect()),
            Expr::Or(parts) => Node::Or(parts.iter().map(|part| self.compile(part, names)).collect()),
            Expr::Any(inner) => {
                let name = inner.to_string();
                let known = names.0.iter().position(|known| *known == name);
                let place = known.unwrap_or_else(|| {
                    let node = self.compile(inner, names);
                    self.any.push(node);
                    names.0.push(name);
                    names.0.len() - 1
                });
                Node::Any(place as u8)
            }
            Expr::Test(test) => {
                let of = match &test.field {
                    Field::Trace(field) => Of::Trace(*field),
                    Field::Root(_) if matches!(test.op, Op::Is(_, Value::Red(_))) => {
                        let Op::Is(_, Value::Red(quantile)) = test.op else {
                            unreachable!("matched above")
                        };
                        let known = self.quantiles.iter().position(|known| *known == quantile);
                        Of::Recent(known.unwrap_or_else(|| {
                            self.quantiles.push(quantile);
                            self.quantiles.len() - 1
                        }))
                    }
                    Field::Span(field) | Field::Root(field) => match field {
                        SpanField::Attr(key) => Of::Attr(self.key(key)),
                        SpanField::Own(key) => Of::Own(self.key(key)),
                        SpanField::Resource(key) => Of::Resource(self.key(key)),
                        field => Of::Span(field.clone()),
                    },
                };
                let leaf = Leaf {
                    of,
                    op: test.op.clone(),
                };
                if !matches!(test.field, Field::Root(_)) {
                    return Node::Leaf(leaf);
                }
                let name = test.to_string();
                let known = names.1.iter().position(|known| *known == name);
                let place = known.unwrap_or_else(|| {
                    self.root.push(leaf);
                    names.1.push(name);
                    names.1.len() - 1
                });
                Node::Root(place as u8)
            }
        }
    }

    /// Attributes to look up; [`SpanPeek::values`] has to be in this order.
    pub fn keys(&self) -> Keys {
        // Nobody asks for what stands where no key does.
        Keys::new(self.keys.iter().map(|key| key.as_deref().unwrap_or_default()))
    }

    /// Quantiles that [`Recent`] has to know, in its order.
    pub fn quantiles(&self) -> &[Quantile] {
        &self.quantiles
    }

    /// Bits of the conditions that the span meets; those in `have` are not asked again.
    #[inline]
    pub fn any_bits(&self, span: &SpanPeek<'_, '_>, have: u64) -> u64 {
        let mut bits = 0;
        for (place, node) in self.any.iter().enumerate() {
            if have >> place & 1 == 0 && node.span(span) {
                bits |= 1 << place;
            }
        }
        bits
    }

    /// What the root of a trace says.
    pub fn head(&self, span: &SpanPeek<'_, '_>, tenant: u32, recent: &Recent) -> Head {
        let mut bits = 0;
        for (place, leaf) in self.root.iter().enumerate() {
            let is_met = match leaf.of {
                Of::Recent(at) => {
                    let quantile = recent.get(at, tenant, span.service_name, span.head.name);
                    let Op::Is(cmp, _) = &leaf.op else {
                        unreachable!("compiled from a comparison")
                    };
                    quantile.is_some_and(|ns| cmp.holds(Some(duration(span).cmp(&ns))))
                }
                _ => leaf.met(leaf.of.of_span(span)),
            };
            bits |= u64::from(is_met) << place;
        }
        let mut hasher = self.hasher.build_hasher();
        let mut write = |bytes: &[u8]| {
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        };
        for print in &self.fingerprint {
            match print {
                Print::Service => write(span.service_name),
                Print::Name => write(span.head.name),
                Print::Kind => write(&span.head.kind.to_le_bytes()),
                Print::Attr(at) => match seen(span.values.get(*at).copied().flatten().map(Raw::any)) {
                    Seen::Text(text) => write(text),
                    Seen::Number(number) => write(&number.to_bits().to_le_bytes()),
                    Seen::Bool(value) => write(&[u8::from(value)]),
                    _ => write(b"\xff"),
                },
            }
        }
        Head {
            bits,
            print: hasher.finish(),
        }
    }

    /// The whole fingerprint.
    pub fn fingerprint(&self, print: u64, error: bool) -> u64 {
        print
            ^ if self.by_status && error {
                0x9e37_79b9_7f4a_7c15
            } else {
                0
            }
    }

    /// The strata whose conditions the trace meets, in their order, `First` counted as met.
    #[inline]
    pub fn matching<'a>(&'a self, trace: Summary<'a>) -> impl Iterator<Item = usize> + 'a {
        let strata = self.strata.iter().enumerate();
        strata
            .filter(move |(_, node)| node.trace(&trace))
            .map(|(place, _)| place)
    }
}

impl Node {
    fn span(&self, span: &SpanPeek<'_, '_>) -> bool {
        match self {
            Node::Const(value) => *value,
            Node::Not(inner) => !inner.span(span),
            Node::And(parts) => parts.iter().all(|part| part.span(span)),
            Node::Or(parts) => parts.iter().any(|part| part.span(span)),
            Node::Leaf(leaf) => leaf.met(leaf.of.of_span(span)),
            // The parser lets no field of traces or roots in here.
            Node::Any(_) | Node::Root(_) => false,
        }
    }

    fn trace(&self, trace: &Summary<'_>) -> bool {
        match self {
            Node::Const(value) => *value,
            Node::Not(inner) => !inner.trace(trace),
            Node::And(parts) => parts.iter().all(|part| part.trace(trace)),
            Node::Or(parts) => parts.iter().any(|part| part.trace(trace)),
            Node::Any(place) => trace.any >> place & 1 != 0,
            Node::Root(place) => trace.root >> place & 1 != 0,
            Node::Leaf(leaf) => leaf.met(leaf.of.of_trace(trace)),
        }
    }
}

#[inline]
fn duration(span: &SpanPeek<'_, '_>) -> u64 {
    span.head.end.saturating_sub(span.head.start)
}

fn seen(any: Option<Any<'_>>) -> Seen<'_> {
    match any {
        Some(Any::Str(text)) => Seen::Text(text),
        Some(Any::Int(number)) => Seen::Number(number as f64),
        Some(Any::Double(number)) => Seen::Number(number),
        Some(Any::Bool(value)) => Seen::Bool(value),
        Some(Any::Bytes(_) | Any::Array(_) | Any::Kvlist(_)) => Seen::Text(b""),
        Some(Any::Empty) | None => Seen::Absent,
    }
}

impl Of {
    #[inline]
    fn of_span<'a>(&self, span: &SpanPeek<'a, '_>) -> Seen<'a> {
        match self {
            Of::Attr(at) => seen(span.values.get(*at).copied().flatten().map(Raw::any)),
            Of::Own(at) => seen(span.own_value(*at).map(Raw::any)),
            Of::Resource(at) => seen(span.of_resource.get(*at).copied().flatten().map(Raw::any)),
            Of::Span(field) => match field {
                SpanField::Name => Seen::Text(span.head.name),
                SpanField::Service => Seen::Text(span.service_name),
                SpanField::Kind => Seen::Kind(span.head.kind),
                SpanField::Status => Seen::Status(span.head.status_code),
                SpanField::Duration => Seen::Ns(duration(span)),
                SpanField::Sampled => Seen::Bool(span.head.flags & 1 != 0),
                SpanField::TraceState(key) => member(span.head.trace_state, key).map_or(Seen::Absent, Seen::Text),
                SpanField::Attr(_) | SpanField::Own(_) | SpanField::Resource(_) => {
                    unreachable!("compiled to a place")
                }
            },
            Of::Trace(_) | Of::Recent(_) => Seen::Absent,
        }
    }

    fn of_trace<'a>(&self, trace: &Summary<'a>) -> Seen<'a> {
        match self {
            Of::Trace(TraceField::Duration) => Seen::Ns(trace.duration_ns),
            Of::Trace(TraceField::Spans) => Seen::Number(f64::from(trace.spans)),
            Of::Trace(TraceField::Bytes) => Seen::Number(trace.bytes as f64),
            Of::Trace(TraceField::Error) => Seen::Bool(trace.error),
            Of::Trace(TraceField::HasRoot) => Seen::Bool(trace.has_root),
            Of::Trace(TraceField::Tenant) => Seen::Text(trace.tenant.as_bytes()),
            Of::Span(_) | Of::Attr(_) | Of::Own(_) | Of::Resource(_) | Of::Recent(_) => Seen::Absent,
        }
    }
}

/// The value of a tracestate's member.
fn member<'a>(tracestate: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut members = tracestate.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    members.find_map(|member| member.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
}

impl Leaf {
    #[inline]
    fn met(&self, seen: Seen<'_>) -> bool {
        let text = match seen {
            Seen::Text(text) => Some(text),
            _ => None,
        };
        match &self.op {
            Op::Holds => !matches!(seen, Seen::Absent | Seen::Bool(false)),
            Op::Exists => seen != Seen::Absent,
            Op::Is(cmp, value) => cmp.holds(order(seen, value)),
            Op::In(values) => values
                .iter()
                .any(|value| order(seen, value).is_some_and(|order| order.is_eq())),
            Op::NotIn(values) => !values
                .iter()
                .any(|value| order(seen, value).is_some_and(|order| order.is_eq())),
            Op::Matches(pattern) => text.is_some_and(|text| pattern.is_match(text)),
            Op::Contains(part) => text.is_some_and(|text| find(text, part.as_bytes())),
            Op::StartsWith(part) => text.is_some_and(|text| text.starts_with(part.as_bytes())),
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

/// How what was seen compares; `None` if it cannot be compared with that.
#[inline]
fn order(seen: Seen<'_>, value: &Value) -> Option<std::cmp::Ordering> {
    match (seen, value) {
        (Seen::Text(left), Value::Text(right)) => Some(left.cmp(right.as_bytes())),
        (Seen::Number(left), Value::Number(right)) => left.partial_cmp(right),
        (Seen::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Seen::Ns(left), Value::Duration(right)) => Some(left.cmp(right)),
        (Seen::Status(left), Value::Status(right)) | (Seen::Kind(left), Value::Kind(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::policy::{Stratum, parse};
    use tailwater_model::otlp::item::SpanHead;

    fn program(conditions: &[&str]) -> Program {
        let strata = conditions
            .iter()
            .map(|text| Stratum::all(text, Some(parse::condition(text).unwrap())));
        let strata = strata.collect();
        Program::new(&Policy {
            strata,
            ..Policy::default()
        })
        .unwrap()
    }

    fn check(condition: &str, expected: bool) {
        let program = program(&[condition]);
        let values: Vec<_> = program
            .keys
            .iter()
            .map(|key| match key.as_deref().unwrap_or_default() {
                "text" => Some(Raw(b"\x0a\x03abc")),
                "int" => Some(Raw(&[0x18, 5])),
                "no" => Some(Raw(&[0x10, 0])),
                "mixed" => Some(Raw(b"\x0a\x03own")),
                _ => None,
            })
            .collect();
        let of_resource: Vec<_> = program
            .keys
            .iter()
            .map(|key| match key.as_deref().unwrap_or_default() {
                "text" => Some(Raw(b"\x0a\x03abc")),
                "mixed" => Some(Raw(b"\x0a\x03its")),
                _ => None,
            })
            .collect();
        // "text" is the resource's.
        let own = program
            .keys
            .iter()
            .enumerate()
            .filter(|(_, key)| key.as_deref() != Some("text"));
        let own = own.fold(0, |own, (at, _)| own | 1 << at);
        let span = SpanPeek {
            ordinal: 0,
            offset: 0,
            len: 10,
            head: SpanHead {
                name: b"GET /a",
                kind: 2,
                status_code: 2,
                start: 1_000_000_000,
                end: 1_500_000_000,
                flags: 1,
                trace_state: b"a=1, es=s:1",
                ..SpanHead::default()
            },
            service_name: b"cart",
            service_namespace: b"",
            values: &values,
            of_resource: &of_resource,
            own,
        };
        let mut recent = Recent::default();
        recent.set(0, 7, b"cart", Some(b"GET /a"), 400_000_000);
        let summary = Summary {
            any: program.any_bits(&span, 0),
            root: program.head(&span, 7, &recent).bits,
            duration_ns: 500_000_000,
            spans: 3,
            bytes: 100,
            error: true,
            has_root: true,
            tenant: "acme",
        };
        assert_eq!(program.matching(summary).next().is_some(), expected, "{condition}");
    }

    #[test]
    fn conditions_are_met() {
        for met in [
            "any(span.attr[\"text\"] == \"abc\")",
            "any(span.attr[\"none\"] != \"abc\")",
            "any(span.attr[\"none\"] not in [\"abc\"])",
            "any(span.attr[\"int\"] >= 5 and span.attr[\"int\"] <= 5.0)",
            "any(span.attr[\"text\"] matches \"^ab\" and span.name starts_with \"GET\" and span.name contains \" /\")",
            "any(span.attr[\"no\"] == false and span.attr[\"no\"] exists)",
            "any(span.status == error and span.kind == server and span.sampled)",
            "any(span.trace_state[\"es\"] == \"s:1\")",
            "any(span.duration == 500ms)",
            "root.duration > red.p98(5m)",
            "root.service == \"cart\" and root.op in [\"x\", \"GET /a\"]",
            "trace.duration >= 500ms and trace.spans == 3 and trace.bytes < 101 and trace.error and trace.has_root",
            "trace.tenant == \"acme\" or false",
            "not (false and true)",
            "any(span.attr[\"mixed\"] == \"own\" and span.own[\"mixed\"] == \"own\" and span.resource[\"mixed\"] == \"its\")",
            "any(span.own[\"text\"] != \"abc\" and span.resource[\"text\"] == \"abc\")",
            "root.own[\"int\"] == 5 and root.resource[\"text\"] exists",
        ] {
            check(met, true);
            check(&format!("not ({met})"), false);
        }
        for not in [
            "any(span.attr[\"none\"] == \"abc\")",
            "any(span.attr[\"none\"] exists)",
            "any(span.attr[\"no\"])",
            "any(span.attr[\"int\"] == \"5\")",
            "any(span.status == error and span.kind == client)",
            "root.op == \"GET\"",
            "any(span.own[\"text\"] exists)",
            "any(span.resource[\"int\"] exists)",
        ] {
            check(not, false);
        }
    }

    #[test]
    fn equal_conditions_share_a_bit_and_too_many_are_refused() {
        let same = [
            "any(span.status == error)",
            "any(span.status == error) and root.op == \"a\"",
            "root.op == \"a\"",
        ];
        let program = program(&same);
        assert_eq!((program.any.len(), program.root.len()), (1, 1));
        let many: Vec<_> = (0..65).map(|n| format!("any(span.attr[\"a\"] == {n})")).collect();
        let strata = many
            .iter()
            .map(|text| Stratum::all("x", Some(parse::condition(text).unwrap())))
            .collect();
        let error = Program::new(&Policy {
            strata,
            ..Policy::default()
        })
        .unwrap_err();
        assert!(error.contains("at most 64"), "{error}");
    }

    /// A policy that asks for these attributes.
    fn asking(keys: impl Iterator<Item = String>) -> Policy {
        let tests: Vec<_> = keys.map(|key| format!("span.attr[{key:?}] exists")).collect();
        let condition = parse::condition(&format!("any({})", tests.join(" or "))).unwrap();
        Policy {
            strata: vec![Stratum::all("x", Some(condition))],
            ..Policy::default()
        }
    }

    #[test]
    fn a_key_keeps_its_place_while_it_is_needed_and_no_longer() {
        let names = |program: &Program| -> Vec<String> {
            let keys = program.keys.iter();
            keys.map(|key| key.as_deref().unwrap_or_default().to_owned()).collect()
        };
        let of = |keys: &str| asking(keys.chars().map(String::from));
        let first = Program::new(&of("ab")).unwrap();
        let second = Program::beside(&of("bcd"), [&first].into_iter()).unwrap();
        assert_eq!(names(&second), ["a", "b", "c", "d"]);
        let third = Program::beside(&of("ce"), [&second].into_iter()).unwrap();
        assert_eq!(names(&third), ["e", "b", "c", "d"], "nobody needs `a`");
        let fourth = Program::beside(&of("f"), [&third].into_iter()).unwrap();
        assert_eq!(names(&fourth), ["e", "f", "c", ""]);
        let many = |count: usize| asking((0..count).map(|n| n.to_string()));
        assert!(Program::beside(&many(126), [&first].into_iter()).is_ok());
        let error = Program::beside(&many(127), [&first].into_iter()).unwrap_err();
        assert!(error.contains("129 different attributes"), "{error}");
    }
}
