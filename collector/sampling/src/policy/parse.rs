//! Conditions from text: ours, and the part of OTTL that means the same.
//!
//! Guarantees: no panic on any text; nesting and length are bounded; an error names the column. The OTTL subset is: `and`, `or`, `not`,
//! parentheses, `== != < <= > >=` between a path and a constant, `IsMatch(path, "pattern")`, constants `STATUS_CODE_*`, `SPAN_KIND_*` and
//! `nil`, and the paths `attributes["k"]`, `resource.attributes["k"]`, `name`, `kind`, `status.code` and `trace_state["k"]`, each also
//! behind `span.`.

use regex::bytes::RegexBuilder;
use tailwater_config::parse_duration;

use super::expr::{Cmp, Expr, Field, KINDS, Op, Quantile, STATUSES, SpanField, TRACE_FIELDS, Test, TraceField, Value};

/// Longest text, bytes.
const TEXT_MAX: usize = 16 << 10;
/// Deepest nesting.
const DEPTH_MAX: usize = 32;
/// Memory of one compiled pattern, bytes: policies run on every span.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// What is wrong, and at which character, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Column in characters, from 1.
    pub column: usize,
    /// A sentence.
    pub message: String,
}

/// Reads a condition over a trace.
///
/// # Errors
/// [`Wrong`], the first thing.
pub fn condition(text: &str) -> Result<Expr, Wrong> {
    Parser::new(text, false)?.whole()
}

/// Reads an OTTL condition over a span; the answer has fields of spans, to be put into [`Expr::Any`].
///
/// # Errors
/// [`Wrong`] for what is outside the subset.
pub fn ottl(text: &str) -> Result<Expr, Wrong> {
    Parser::new(text, true)?.whole()
}

/// A pattern within bounds.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(text: &str) -> Result<regex::bytes::Regex, String> {
    let built = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(bytes) => format!("a pattern of more than {bytes} bytes"),
        error => error
            .to_string()
            .lines()
            .last()
            .unwrap_or("not a pattern")
            .trim()
            .to_owned(),
    })
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(String),
    Mark(&'static str),
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    end: usize,
    depth: usize,
    in_any: bool,
    is_ottl: bool,
}

const MARKS: [&str; 13] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ",", ".", "-"];

fn lex(text: &str) -> Result<Vec<(usize, Token)>, Wrong> {
    let mut tokens = Vec::new();
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    let run = |from: usize, ok: fn(char) -> bool| from + chars[from..].iter().take_while(|c| ok(**c)).count();
    while let Some(first) = chars.get(at).copied() {
        let column = at + 1;
        if first.is_whitespace() {
            at += 1;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = run(at, |c| c.is_ascii_alphanumeric() || c == '_');
            tokens.push((column, Token::Word(chars[at..end].iter().collect())));
            at = end;
        } else if first.is_ascii_digit() {
            let end = run(at, |c| c.is_ascii_alphanumeric() || c == '.' || c == '_');
            tokens.push((column, Token::Number(chars[at..end].iter().collect())));
            at = end;
        } else if first == '"' {
            let mut inside = String::new();
            at += 1;
            loop {
                match chars.get(at) {
                    None => {
                        let message = "the text is not closed with \"".to_owned();
                        return Err(Wrong { column, message });
                    }
                    Some('"') => break,
                    Some('\\') if matches!(chars.get(at + 1), Some('"' | '\\')) => {
                        inside.push(chars[at + 1]);
                        at += 2;
                    }
                    Some(c) => {
                        inside.push(*c);
                        at += 1;
                    }
                }
            }
            at += 1;
            tokens.push((column, Token::Text(inside)));
        } else {
            let rest: String = chars[at..].iter().take(2).collect();
            let Some(mark) = MARKS.into_iter().find(|mark| rest.starts_with(mark)) else {
                let message = format!("`{first}` means nothing here");
                return Err(Wrong { column, message });
            };
            tokens.push((column, Token::Mark(mark)));
            at += mark.len();
        }
    }
    Ok(tokens)
}

type Read<T> = Result<T, Wrong>;

impl Parser {
    fn new(text: &str, is_ottl: bool) -> Read<Parser> {
        if text.len() > TEXT_MAX {
            let message = format!("longer than {TEXT_MAX} bytes");
            return Err(Wrong { column: 1, message });
        }
        Ok(Parser {
            tokens: lex(text)?,
            at: 0,
            end: text.chars().count() + 1,
            depth: 0,
            in_any: is_ottl,
            is_ottl,
        })
    }

    fn whole(mut self) -> Read<Expr> {
        let expr = self.or()?;
        match self.tokens.get(self.at) {
            None => Ok(expr),
            Some(_) => self.wrong("expected `and`, `or` or the end"),
        }
    }

    fn wrong<T>(&self, message: impl Into<String>) -> Read<T> {
        let column = self.tokens.get(self.at).map_or(self.end, |(column, _)| *column);
        let message = message.into();
        Err(Wrong { column, message })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn mark(&mut self, mark: &'static str) -> bool {
        self.take(&Token::Mark(mark))
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(found)) if found == word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: &'static str) -> Read<()> {
        if self.mark(mark) {
            Ok(())
        } else {
            self.wrong(format!("expected `{mark}`"))
        }
    }

    fn text(&mut self) -> Read<Box<str>> {
        match self.peek().cloned() {
            Some(Token::Text(text)) => {
                self.at += 1;
                Ok(text.into())
            }
            _ => self.wrong("expected a text in double quotes"),
        }
    }

    fn pattern(&mut self) -> Read<Op> {
        let text = self.text()?;
        pattern(&text).map(Op::Matches).or_else(|message| {
            self.at -= 1;
            self.wrong(message)
        })
    }

    fn or(&mut self) -> Read<Expr> {
        self.chain("or", Parser::and, Expr::Or)
    }

    fn and(&mut self) -> Read<Expr> {
        self.chain("and", Parser::not, Expr::And)
    }

    fn chain(&mut self, word: &str, part: fn(&mut Parser) -> Read<Expr>, join: fn(Vec<Expr>) -> Expr) -> Read<Expr> {
        let first = part(self)?;
        let mut parts = vec![first];
        while self.word(word) {
            parts.push(part(self)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { join(parts) })
    }

    fn not(&mut self) -> Read<Expr> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.wrong(format!("more than {DEPTH_MAX} levels deep"));
        }
        let expr = if self.word("not") {
            Expr::Not(Box::new(self.not()?))
        } else {
            self.primary()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn primary(&mut self) -> Read<Expr> {
        if self.mark("(") {
            let inner = self.or()?;
            self.expect(")")?;
            return Ok(inner);
        }
        for (word, value) in [("true", true), ("false", false)] {
            if self.word(word) {
                return Ok(Expr::Const(value));
            }
        }
        if self.is_ottl {
            return self.ottl_test();
        }
        if self.word("any") {
            if self.in_any {
                self.at -= 1;
                return self.wrong("`any` does not stand within `any`");
            }
            self.expect("(")?;
            self.in_any = true;
            let inner = self.or()?;
            self.in_any = false;
            self.expect(")")?;
            return Ok(Expr::Any(Box::new(inner)));
        }
        let field = self.field()?;
        let op = self.op(&field)?;
        Ok(Expr::Test(Test { field, op }))
    }

    fn field(&mut self) -> Read<Field> {
        let Some(Token::Word(of)) = self.peek().cloned() else {
            return self.wrong("expected a condition such as root.duration > 1s");
        };
        let fits = match of.as_str() {
            "span" => self.in_any,
            "root" | "trace" => !self.in_any,
            _ => return self.wrong(format!("`{of}` is not known: span, root or trace")),
        };
        if !fits {
            return self.wrong(match self.in_any {
                true => "within `any` only fields of `span` stand",
                false => "fields of `span` stand within `any(...)`",
            });
        }
        self.at += 1;
        self.expect(".")?;
        let Some(Token::Word(name)) = self.peek().cloned() else {
            return self.wrong("expected the name of a field");
        };
        if of == "trace" {
            let Some((_, field)) = TRACE_FIELDS.iter().find(|(known, _)| *known == name) else {
                return self.wrong(format!("a trace has no `{name}`"));
            };
            self.at += 1;
            return Ok(Field::Trace(*field));
        }
        let field = match name.as_str() {
            "name" | "op" => SpanField::Name,
            "service" => SpanField::Service,
            "kind" => SpanField::Kind,
            "status" => SpanField::Status,
            "duration" => SpanField::Duration,
            "sampled" => SpanField::Sampled,
            "attr" | "own" | "resource" | "trace_state" => {
                self.at += 1;
                let key = self.key()?;
                let field = match name.as_str() {
                    "attr" => SpanField::Attr(key),
                    "own" => SpanField::Own(key),
                    "resource" => SpanField::Resource(key),
                    _ => SpanField::TraceState(key),
                };
                return Ok(if of == "span" {
                    Field::Span(field)
                } else {
                    Field::Root(field)
                });
            }
            _ => return self.wrong(format!("a span has no `{name}`")),
        };
        self.at += 1;
        Ok(if of == "span" {
            Field::Span(field)
        } else {
            Field::Root(field)
        })
    }

    fn key(&mut self) -> Read<Box<str>> {
        self.expect("[")?;
        let key = self.text()?;
        self.expect("]")?;
        Ok(key)
    }

    fn cmp(&mut self) -> Option<Cmp> {
        let marks = [
            ("==", Cmp::Eq),
            ("!=", Cmp::Ne),
            ("<=", Cmp::Le),
            (">=", Cmp::Ge),
            ("<", Cmp::Lt),
            (">", Cmp::Gt),
        ];
        marks.into_iter().find_map(|(mark, cmp)| self.mark(mark).then_some(cmp))
    }

    fn op(&mut self, field: &Field) -> Read<Op> {
        let can_be_text = matches!(field, Field::Trace(TraceField::Tenant))
            || matches!(field, Field::Span(of) | Field::Root(of)
                if of.is_attribute() || matches!(of, SpanField::Name | SpanField::Service | SpanField::TraceState(_)));
        if let Some(cmp) = self.cmp() {
            return Ok(Op::Is(cmp, self.value(field)?));
        }
        for (word, is_not) in [("in", false), ("not", true)] {
            if self.word(word) {
                if is_not && !self.word("in") {
                    return self.wrong("expected `in`");
                }
                let values = self.list(field)?;
                return Ok(if is_not { Op::NotIn(values) } else { Op::In(values) });
            }
        }
        if matches!(self.peek(), Some(Token::Word(word)) if ["matches", "contains", "starts_with"].contains(&word.as_str()))
            && !can_be_text
        {
            return self.wrong(format!("{field} is no text"));
        }
        if self.word("matches") {
            self.pattern()
        } else if self.word("exists") {
            Ok(Op::Exists)
        } else if self.word("contains") {
            Ok(Op::Contains(self.text()?))
        } else if self.word("starts_with") {
            Ok(Op::StartsWith(self.text()?))
        } else {
            let is_flag = matches!(field, Field::Trace(TraceField::Error | TraceField::HasRoot))
                || matches!(field, Field::Span(of) | Field::Root(of)
                    if of.is_attribute() || matches!(of, SpanField::Sampled | SpanField::TraceState(_)));
            if is_flag {
                Ok(Op::Holds)
            } else {
                self.wrong(format!("{field} has to be compared with something"))
            }
        }
    }

    fn list(&mut self, field: &Field) -> Read<Vec<Value>> {
        self.expect("[")?;
        let mut values = Vec::new();
        while !self.mark("]") {
            if !values.is_empty() {
                self.expect(",")?;
            }
            values.push(self.value(field)?);
        }
        if values.is_empty() {
            self.wrong("an empty list is met by nothing")
        } else {
            Ok(values)
        }
    }

    fn value(&mut self, field: &Field) -> Read<Value> {
        let start = self.at;
        let value = self.any_value()?;
        let fits = match field {
            Field::Trace(TraceField::Duration) => matches!(value, Value::Duration(_)),
            Field::Trace(TraceField::Spans | TraceField::Bytes) => matches!(value, Value::Number(_)),
            Field::Trace(TraceField::Error | TraceField::HasRoot) => matches!(value, Value::Bool(_)),
            Field::Trace(TraceField::Tenant) => matches!(value, Value::Text(_)),
            Field::Root(SpanField::Duration) => matches!(value, Value::Duration(_) | Value::Red(_)),
            Field::Span(of) | Field::Root(of) => match of {
                SpanField::Name | SpanField::Service | SpanField::TraceState(_) => matches!(value, Value::Text(_)),
                SpanField::Kind => matches!(value, Value::Kind(_)),
                SpanField::Status => matches!(value, Value::Status(_)),
                SpanField::Duration => matches!(value, Value::Duration(_)),
                SpanField::Sampled => matches!(value, Value::Bool(_)),
                SpanField::Attr(_) | SpanField::Own(_) | SpanField::Resource(_) => {
                    matches!(value, Value::Text(_) | Value::Number(_) | Value::Bool(_))
                }
            },
        };
        if fits {
            return Ok(value);
        }
        self.at = start;
        match (field, &value) {
            (
                Field::Trace(TraceField::Duration)
                | Field::Span(SpanField::Duration)
                | Field::Root(SpanField::Duration),
                Value::Number(number),
            ) => self.wrong(format!("{field} needs a unit, as in {number}ms")),
            _ => self.wrong(format!("{field} is not compared with {value}")),
        }
    }

    fn any_value(&mut self) -> Read<Value> {
        let sign = if self.mark("-") { -1.0 } else { 1.0 };
        let value = match self.peek().cloned() {
            Some(Token::Number(text)) => match text.replace('_', "").parse::<f64>() {
                Ok(number) if number.is_finite() => Value::Number(sign * number),
                _ => match parse_duration(&text) {
                    Ok(duration) => Value::Duration(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
                    Err(message) => return self.wrong(message),
                },
            },
            Some(Token::Text(text)) => Value::Text(text.into()),
            Some(Token::Word(word)) => match word.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "red" => return self.red(),
                word => {
                    let place = |names: &[&str]| names.iter().position(|name| *name == word).map(|at| at as i32);
                    match (place(&STATUSES), place(&KINDS)) {
                        (Some(status), _) => Value::Status(status),
                        (None, Some(kind)) => Value::Kind(kind),
                        (None, None) => {
                            return self.wrong(format!("`{word}` is no value; texts stand in double quotes"));
                        }
                    }
                }
            },
            _ => return self.wrong("expected a value"),
        };
        self.at += 1;
        Ok(value)
    }

    /// `red.p98(5m)`, `red.p99.9(5m)`.
    fn red(&mut self) -> Read<Value> {
        self.at += 1;
        self.expect(".")?;
        let Some(Token::Word(word)) = self.peek().cloned() else {
            return self.wrong("expected a quantile such as p98");
        };
        let mut percent = word.strip_prefix('p').unwrap_or_default().to_owned();
        self.at += 1;
        if self.mark(".")
            && let Some(Token::Number(part)) = self.peek().cloned()
        {
            percent = format!("{percent}.{part}");
            self.at += 1;
        }
        let q = percent.parse::<f64>().map_or(0.0, |percent| percent / 100.0);
        if !(q > 0.0 && q < 1.0) {
            self.at -= 1;
            return self.wrong("expected a quantile such as p98");
        }
        self.expect("(")?;
        let Value::Duration(window_ns) = self.any_value()? else {
            return self.wrong("expected a window such as 5m");
        };
        self.expect(")")?;
        Ok(Value::Red(Quantile { q, window_ns }))
    }

    fn ottl_test(&mut self) -> Read<Expr> {
        if self.word("IsMatch") {
            self.expect("(")?;
            let field = self.ottl_path()?;
            self.expect(",")?;
            let op = self.pattern()?;
            self.expect(")")?;
            return Ok(Expr::Test(Test { field, op }));
        }
        let field = self.ottl_path()?;
        let Some(cmp) = self.cmp() else {
            return self.wrong("expected a comparison");
        };
        if self.word("nil") {
            let there = Expr::Test(Test { field, op: Op::Exists });
            return match cmp {
                Cmp::Ne => Ok(there),
                Cmp::Eq => Ok(Expr::Not(Box::new(there))),
                _ => self.wrong("nil is only equal or not"),
            };
        }
        let constant = match self.peek() {
            Some(Token::Word(word)) => {
                let status = word.strip_prefix("STATUS_CODE_").map(str::to_ascii_lowercase);
                let kind = word.strip_prefix("SPAN_KIND_").map(str::to_ascii_lowercase);
                let place = |names: &[&str], name: String| names.iter().position(|known| *known == name);
                status
                    .and_then(|name| Some(Value::Status(place(&STATUSES, name)? as i32)))
                    .or_else(|| Some(Value::Kind(place(&KINDS, kind?)? as i32)))
            }
            _ => None,
        };
        let value = match constant {
            Some(value) => {
                self.at += 1;
                value
            }
            None => self.value(&field)?,
        };
        let op = Op::Is(cmp, value);
        Ok(Expr::Test(Test { field, op }))
    }

    fn ottl_path(&mut self) -> Read<Field> {
        let start = self.at;
        let mut path = Vec::new();
        while let Some(Token::Word(word)) = self.peek().cloned() {
            self.at += 1;
            path.push(word);
            if !self.mark(".") {
                break;
            }
        }
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let path = path.strip_prefix(&["span"]).unwrap_or(&path);
        let field = match path {
            ["attributes"] => SpanField::Own(self.key()?),
            ["resource", "attributes"] => SpanField::Resource(self.key()?),
            ["trace_state"] => SpanField::TraceState(self.key()?),
            ["name"] => SpanField::Name,
            ["kind"] => SpanField::Kind,
            ["status", "code"] => SpanField::Status,
            _ => {
                self.at = start;
                return self.wrong("this is outside the part of OTTL that can be carried over");
            }
        };
        Ok(Field::Span(field))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, printed: &str) {
        let expr = condition(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
        assert_eq!(expr.to_string(), printed);
        assert_eq!(
            condition(printed).unwrap().to_string(),
            printed,
            "what is printed reads back"
        );
    }

    #[test]
    fn conditions_read_and_print() {
        check("true", "true");
        check("any(span.attr[\"force_sample\"])", "any(span.attr[\"force_sample\"])");
        check("any( span.status==error )", "any(span.status == error)");
        check("root.duration >= red.p98(5m)", "root.duration >= red.p98(5m)");
        check("root.duration > red.p99.9(60s)", "root.duration > red.p99.9(1m)");
        check(
            "root.op in [\"/healthz\", \"/ready\"]",
            "root.name in [\"/healthz\", \"/ready\"]",
        );
        check(
            "not any(span.kind == server and not span.name matches \"^a\\\\d\") or trace.spans > 10 and trace.error",
            "not any(span.kind == server and not (span.name matches \"^a\\\\d\")) or (trace.spans > 10 and trace.error)",
        );
        check("trace.tenant not in [\"a\"]", "trace.tenant not in [\"a\"]");
        check(
            "any(span.attr[\"a\\\"b\"] >= -1.5)",
            "any(span.attr[\"a\\\"b\"] >= -1.5)",
        );
        check("any(span.attr[\"a\"] == true)", "any(span.attr[\"a\"] == true)");
        check(
            "any(span.own[\"a\"] contains \"b\" and span.resource[\"a\"])",
            "any(span.own[\"a\"] contains \"b\" and span.resource[\"a\"])",
        );
    }

    #[test]
    fn errors_name_the_place() {
        for (text, column, part) in [
            ("", 1, "expected a condition"),
            ("span.name == \"a\"", 1, "within `any"),
            ("any(root.op == \"a\")", 5, "only fields of `span`"),
            ("any(any(true))", 5, "within `any`"),
            ("root.colour == \"a\"", 6, "no `colour`"),
            ("root.duration > \"a\"", 17, "not compared"),
            ("root.duration", 14, "compared"),
            ("trace.spans > 5 5", 17, "the end"),
            ("any(span.name matches \"(\")", 23, "unclosed"),
            ("any(span.kind matches \"a\")", 15, "no text"),
            ("trace.spans in []", 18, "empty list"),
            ("root.op == a", 12, "double quotes"),
            ("root.op == \"a", 12, "not closed"),
            ("root.duration > red.p0(5m)", 21, "quantile"),
            ("root.duration > 5parsecs", 17, "unit"),
            ("root.duration > 300", 17, "root.duration needs a unit, as in 300ms"),
            ("any(span.duration > 1.5)", 21, "needs a unit, as in 1.5ms"),
            ("a $ b", 3, "means nothing"),
        ] {
            let wrong = condition(text).unwrap_err();
            assert!(wrong.message.contains(part), "{text}: {wrong:?}");
            assert_eq!(wrong.column, column, "{text}: {wrong:?}");
        }
        assert!(condition(&"(".repeat(100)).unwrap_err().message.contains("levels"));
        assert!(
            condition(&" ".repeat(TEXT_MAX + 1))
                .unwrap_err()
                .message
                .contains("longer")
        );
    }

    #[test]
    fn the_part_of_ottl() {
        for (text, printed) in [
            ("attributes[\"a\"] == \"b\"", "span.own[\"a\"] == \"b\""),
            (
                "span.status.code == STATUS_CODE_ERROR and kind != SPAN_KIND_SERVER",
                "span.status == error and span.kind != server",
            ),
            ("IsMatch(name, \"^GET\")", "span.name matches \"^GET\""),
            ("resource.attributes[\"n\"] >= 3", "span.resource[\"n\"] >= 3"),
            ("attributes[\"a\"] != nil", "span.own[\"a\"] exists"),
        ] {
            assert_eq!(ottl(text).unwrap().to_string(), printed);
        }
        for text in [
            "Len(attributes) > 3",
            "start_time > 5",
            "name == foo",
            "parent_span_id == nil",
        ] {
            assert!(ottl(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z.()\\[\\]\"=<>! 0-9,-]{0,60}") {
            let _ = (condition(&text), ottl(&text));
        }
    }
}
