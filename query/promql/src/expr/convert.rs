//! From the tree of `promql-parser` to ours, walking the tokens alongside so that every expression knows its place.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use promql_parser::label::MatchOp;
use promql_parser::parser as theirs;
use regex::Regex;

use super::constant::mark_constants;
use super::explain::{INSTEAD_OF_INFO, explain};
use super::operators::{aggregate_op, binary_op, matching};
use super::tokens::{Token, TokenKind, tokens};
use super::{At, BinaryOp, Compare, Expr, Matcher, Node, Selector, Shift};
use crate::error::Error;
use crate::labels::METRIC_NAME;
use crate::notes::line_and_column;
use crate::plan::TIME_MAX;

/// An expression nested deeper than this is refused before it can exhaust a stack.
const DEPTH_MAX: usize = 200;
/// As is a query of more words and signs than this.
const TOKENS_MAX: usize = 16_000;
/// The longest duration, as in Prometheus, whose durations are nanoseconds in 64 bits: 292 years. Sums of as many of
/// them as a query can nest stay far within 64 bits of milliseconds.
const DURATION_MS_MAX: i64 = 292 * 366 * 86_400_000;

/// What parses but is not evaluated: experimental in Prometheus 3.14.
const UNSUPPORTED_FUNCTIONS: &[&str] = &["info", "start_timestamp", "integral"];

/// Reads a query. Returns the tree and how many selectors it has.
pub(crate) fn parse(query: &str) -> Result<(Node, usize), Error> {
    let tokens = tokens(query);
    if tokens.len() > TOKENS_MAX {
        return Err(Error::BadParameter(format!(
            "the query has more than {TOKENS_MAX} words and signs"
        )));
    }
    // The parser builds its tree without recursion, but drops it with one.
    let mut open = 0_usize;
    for token in &tokens {
        match token.text {
            "(" => open += 1,
            ")" => open = open.saturating_sub(1),
            _ => {}
        }
        if open > DEPTH_MAX {
            return Err(too_deep(query, token.at));
        }
    }
    let readable = with_small_durations(without_trims(query, &tokens), &tokens)?;
    let tree = theirs::parse(&readable).map_err(|message| explain(query, &tokens, message))?;
    let mut walk = Walk {
        query,
        tokens: &tokens,
        next: 0,
        lost: false,
        selectors: 0,
    };
    let node = walk.node(&tree, 0)?;
    if let (true, Some(token)) = (walk.lost, tokens.iter().find(|token| is_trim(token))) {
        let error = Error::unsupported("histogram trim operators in a query of this form", "");
        return Err(error.at(query, token.at));
    }
    Ok((mark_constants(node), walk.selectors))
}

fn is_trim(token: &Token<'_>) -> bool {
    token.kind == TokenKind::Sign && matches!(token.text, "</" | ">/")
}

/// `promql-parser` does not know `</` and `>/`. They bind as tightly as `<` and `>`, so it is given those, in the same
/// places; the walk over the tokens finds out which ones were meant.
fn without_trims<'q>(query: &'q str, tokens: &[Token<'_>]) -> Cow<'q, str> {
    let mut text = Cow::Borrowed(query);
    for token in tokens.iter().filter(|token| is_trim(token)) {
        text.to_mut().replace_range(token.at + 1..token.at + 2, " ");
    }
    text
}

/// `promql-parser` panics on a number of seconds that no duration holds, and takes a part of a duration beyond 32 bits for nothing. Refuses the one, and
/// writes the other in days and milliseconds, which are small.
fn with_small_durations<'q>(query: Cow<'q, str>, tokens: &[Token<'_>]) -> Result<Cow<'q, str>, Error> {
    let mut text = query;
    // From the back, so that places before are right.
    for (number, token) in tokens.iter().enumerate().rev() {
        let range = token.at..token.at + token.text.len();
        if let Some(parts) = duration_parts(token.text).filter(|_| token.kind == TokenKind::Number) {
            if parts.iter().all(|(count, _)| *count <= u128::from(u32::MAX)) {
                continue;
            }
            let sum = parts.iter().try_fold(0_u128, |sum, (count, unit_ms)| {
                sum.checked_add(count.checked_mul(*unit_ms)?)
            });
            let most = u128::from(DURATION_MS_MAX.unsigned_abs());
            let ms = sum.filter(|ms| *ms <= most).ok_or_else(out_of_range)?;
            let (days, rest) = (ms / DAY_MS, ms % DAY_MS);
            text.to_mut().replace_range(range, &format!("{days}d{rest}ms"));
        } else if is_duration(tokens, number) {
            let seconds: f64 = token.text.parse().unwrap_or_default();
            if seconds.is_nan() || seconds * 1000.0 > DURATION_MS_MAX as f64 {
                return Err(out_of_range());
            }
        }
    }
    Ok(text)
}

const DAY_MS: u128 = 86_400_000;

/// `1h30m` as counts and units in ms; nothing if it is not written so.
fn duration_parts(text: &str) -> Option<Vec<(u128, u128)>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0)?;
        let count = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [
            ("ms", 1),
            ("s", 1000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", DAY_MS),
            ("w", 7 * DAY_MS),
            ("y", 365 * DAY_MS),
        ];
        let (unit, unit_ms) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        parts.push((count, unit_ms));
        rest = &rest[unit.len()..];
    }
    Some(parts)
}

/// Whether a token stands where a duration does: within brackets, or behind `offset`.
pub(super) fn is_duration(tokens: &[Token<'_>], number: usize) -> bool {
    let is_sign = |token: &&Token<'_>| token.kind == TokenKind::Sign && matches!(token.text, "+" | "-");
    let before = tokens[..number].iter().rev().find(|token| !is_sign(token));
    let bracket = tokens[..number]
        .iter()
        .rfind(|token| token.kind == TokenKind::Sign && matches!(token.text, "[" | "]"));
    let is_within = bracket.is_some_and(|token| token.text == "[");
    is_within || before.is_some_and(|token| token.text.eq_ignore_ascii_case("offset"))
}

fn out_of_range() -> Error {
    Error::BadParameter("a duration in the query is out of range".into())
}

fn too_deep(query: &str, at: usize) -> Error {
    let (line, column) = line_and_column(query, at);
    Error::Parse {
        line,
        column,
        message: format!("the query is nested more than {DEPTH_MAX} deep"),
    }
}

fn ms(duration: Duration) -> Result<i64, Error> {
    i64::try_from(duration.as_millis())
        .ok()
        .filter(|ms| *ms <= DURATION_MS_MAX)
        .ok_or_else(out_of_range)
}

/// The walk over both: the tree decides what comes next, the tokens say where it is.
struct Walk<'a> {
    query: &'a str,
    tokens: &'a [Token<'a>],
    next: usize,
    /// The tokens did not fit the tree: places are unknown from here on, the query is not affected.
    lost: bool,
    selectors: usize,
}

impl Walk<'_> {
    fn peek(&self) -> &str {
        self.tokens.get(self.next).map_or("", |token| token.text)
    }

    fn at(&self) -> usize {
        if self.lost {
            0
        } else {
            self.tokens.get(self.next).map_or(0, |token| token.at)
        }
    }

    fn skip(&mut self, text: &str) {
        if self.peek() == text {
            self.next += 1;
        } else {
            self.lost = true;
        }
    }

    /// Of what begins at a place that the walk found.
    fn unsupported(&self, what: impl Into<String>, instead: &'static str, at: usize) -> Error {
        let error = Error::unsupported(what, instead);
        if self.lost { error } else { error.at(self.query, at) }
    }

    fn is_word(&self, word: &str) -> bool {
        self.peek().eq_ignore_ascii_case(word)
    }

    /// Over `(...)`, `[...]` or `{...}`, if that is what comes.
    fn skip_group(&mut self) {
        if !matches!(self.peek(), "(" | "[" | "{") {
            return;
        }
        let mut open = 0;
        while let Some(token) = self.tokens.get(self.next) {
            self.next += 1;
            match (token.kind, token.text) {
                (TokenKind::Sign, "(" | "[" | "{") => open += 1,
                (TokenKind::Sign, ")" | "]" | "}") => open -= 1,
                _ => {}
            }
            if open == 0 {
                return;
            }
        }
        self.lost = true;
    }

    fn skip_shift(&mut self) {
        loop {
            if self.is_word("offset") || self.peek() == "@" {
                self.next += 1;
                while matches!(self.peek(), "+" | "-") {
                    self.next += 1;
                }
                self.next += 1;
                self.skip_group();
            } else {
                return;
            }
        }
    }

    /// After an operator: `bool`, `on (...)`, `group_left (...)` and the like.
    fn skip_matching(&mut self) {
        loop {
            if self.is_word("bool") {
                self.next += 1;
            } else if [
                "on",
                "ignoring",
                "group_left",
                "group_right",
                "fill",
                "fill_left",
                "fill_right",
            ]
            .iter()
            .any(|word| self.is_word(word))
            {
                self.next += 1;
                self.skip_group();
            } else {
                return;
            }
        }
    }

    fn node(&mut self, tree: &theirs::Expr, depth: usize) -> Result<Node, Error> {
        if depth > DEPTH_MAX {
            return Err(too_deep(self.query, self.at()));
        }
        let deeper = depth + 1;
        let mut at = self.at();
        let expr = match tree {
            theirs::Expr::NumberLiteral(number) => {
                self.skip_plus(true);
                self.next += 1;
                Expr::Number(number.val)
            }
            theirs::Expr::StringLiteral(text) => {
                let token = self
                    .tokens
                    .get(self.next)
                    .filter(|token| token.kind == TokenKind::Text && !self.lost);
                self.next += 1;
                match token.map(|token| (token.text, token.bytes())) {
                    // The parser takes an escaped byte for a character; Prometheus takes it for a byte.
                    Some((written, Some(bytes))) => match String::from_utf8(bytes) {
                        Ok(text) => Expr::Text(text),
                        Err(_) => Expr::BadText(written.to_owned()),
                    },
                    _ => Expr::Text(text.val.clone()),
                }
            }
            theirs::Expr::VectorSelector(selector) => {
                self.skip_plus(false);
                at = self.at();
                Expr::Select(self.selector(selector)?)
            }
            theirs::Expr::MatrixSelector(matrix) => {
                let range_ms = ms(matrix.range)?;
                Expr::Range {
                    selector: self.selector(&matrix.vs)?,
                    range_ms,
                }
            }
            theirs::Expr::Subquery(subquery) => {
                let inner = Box::new(self.node(&subquery.expr, deeper)?);
                self.skip_group();
                self.skip_shift();
                Expr::Subquery {
                    inner,
                    range_ms: ms(subquery.range)?,
                    step_ms: subquery.step.map(ms).transpose()?.filter(|step_ms| *step_ms > 0),
                    shift: shift(subquery.offset.as_ref(), subquery.at.as_ref())?,
                }
            }
            theirs::Expr::Paren(paren) => {
                self.skip_plus(false);
                self.skip("(");
                let inner = Box::new(self.node(&paren.expr, deeper)?);
                self.skip(")");
                Expr::Paren(inner)
            }
            theirs::Expr::Unary(unary) => {
                self.skip_plus(false);
                self.skip("-");
                Expr::Negate(Box::new(self.node(&unary.expr, deeper)?))
            }
            theirs::Expr::Binary(binary) => {
                let mut op = binary_op(binary.op.id())
                    .ok_or_else(|| self.unsupported(format!("operator {}", binary.op), "", at))?;
                let left = Box::new(self.node(&binary.lhs, deeper)?);
                match self.peek() {
                    "</" => op = BinaryOp::TrimUpper,
                    ">/" => op = BinaryOp::TrimLower,
                    _ => {}
                }
                self.next += 1;
                self.skip_matching();
                let right = Box::new(self.node(&binary.rhs, deeper)?);
                let (matching, returns_bool) = matching(binary.modifier.as_ref());
                if returns_bool && op.is_trim() {
                    let (line, column) = line_and_column(self.query, left.at);
                    let message = "bool modifier can only be used on comparison operators".into();
                    return Err(Error::Parse { line, column, message });
                }
                Expr::Binary {
                    op,
                    left,
                    right,
                    matching,
                    returns_bool,
                }
            }
            theirs::Expr::Call(call) => {
                self.skip_plus(false);
                self.next += 1;
                self.skip("(");
                let function = call.func.name;
                if UNSUPPORTED_FUNCTIONS.contains(&function) {
                    let instead = match function {
                        "info" => INSTEAD_OF_INFO,
                        _ => "",
                    };
                    return Err(self.unsupported(format!("{function}()"), instead, at));
                }
                let mut args = Vec::with_capacity(call.args.args.len());
                for (number, arg) in call.args.args.iter().enumerate() {
                    if number > 0 {
                        self.skip(",");
                    }
                    args.push(unwrapped(self.node(arg, deeper)?));
                }
                if self.peek() == "," {
                    self.next += 1;
                }
                self.skip(")");
                Expr::Call { function, args }
            }
            theirs::Expr::Aggregate(aggregate) => {
                self.skip_plus(false);
                self.next += 1;
                let op = aggregate_op(aggregate.op.id()).ok_or_else(|| {
                    let name = aggregate.op.to_string();
                    let instead = match name.as_str() {
                        "limit_ratio" => "write limitk() with a number of series",
                        _ => "",
                    };
                    self.unsupported(format!("{name}()"), instead, at)
                })?;
                self.skip_grouping();
                self.skip("(");
                let mut param = None;
                if let Some(theirs) = &aggregate.param {
                    param = Some(Box::new(unwrapped(self.node(theirs, deeper)?)));
                    self.skip(",");
                }
                let inner = Box::new(unwrapped(self.node(&aggregate.expr, deeper)?));
                self.skip(")");
                self.skip_grouping();
                let (without, labels) = match &aggregate.modifier {
                    Some(theirs::LabelModifier::Include(labels)) => (false, labels.labels.clone()),
                    Some(theirs::LabelModifier::Exclude(labels)) => (true, labels.labels.clone()),
                    None => (false, Vec::new()),
                };
                Expr::Aggregate {
                    op,
                    param,
                    inner,
                    without,
                    labels,
                }
            }
            theirs::Expr::Extension(_) => return Err(Error::unsupported("extensions of the syntax tree", "")),
        };
        // A binary expression begins where its left side does.
        if let Expr::Binary { left, .. } = &expr {
            at = left.at;
        }
        Ok(Node { expr, at })
    }

    /// The parser drops a plus before an expression, and folds signs into numbers.
    fn skip_plus(&mut self, minus_too: bool) {
        while self.peek() == "+" || (minus_too && self.peek() == "-") {
            self.next += 1;
        }
    }

    fn skip_grouping(&mut self) {
        if self.is_word("by") || self.is_word("without") {
            self.next += 1;
            self.skip_group();
        }
    }

    fn selector(&mut self, selector: &theirs::VectorSelector) -> Result<Selector, Error> {
        let at = self.at();
        if self
            .tokens
            .get(self.next)
            .is_some_and(|token| token.kind == TokenKind::Word)
        {
            self.next += 1;
        }
        if self.peek() == "{" {
            let from = self.next;
            self.skip_group();
            let inside = &self.tokens[from..self.next.min(self.tokens.len())];
            if let Some(token) = inside.iter().find(|token| token.bytes().is_some()) {
                let what = "escaped bytes beyond ASCII in a label matcher";
                return Err(Error::unsupported(what, "write the character").at(self.query, token.at));
            }
        }
        if self.peek() == "[" {
            self.skip_group();
        }
        self.skip_shift();
        if !selector.matchers.or_matchers.is_empty() {
            return Err(self.unsupported("`or` between label matchers", "write `a{...} or a{...}`", at));
        }
        let mut matchers = Vec::new();
        for matcher in &selector.matchers.matchers {
            let regex = || {
                // `promql-parser` compiles these without `s`; in Prometheus a dot matches a new line.
                let text = match &matcher.op {
                    MatchOp::Re(regex) | MatchOp::NotRe(regex) => regex.as_str(),
                    _ => "",
                };
                Regex::new(&format!("(?s){text}")).map_err(|error| {
                    Error::BadParameter(format!("bad regular expression {:?}: {error}", matcher.value))
                })
            };
            let compare = match matcher.op {
                MatchOp::Equal => Compare::Equal,
                MatchOp::NotEqual => Compare::NotEqual,
                MatchOp::Re(_) => Compare::Matches(regex()?),
                MatchOp::NotRe(_) => Compare::MatchesNot(regex()?),
            };
            matchers.push(Matcher {
                name: matcher.name.clone(),
                value: matcher.value.clone(),
                compare,
            });
        }
        if let Some(name) = &selector.name
            && !matchers
                .iter()
                .any(|matcher| matcher.name == METRIC_NAME && matcher.value == *name)
        {
            matchers.push(Matcher {
                name: METRIC_NAME.into(),
                value: name.clone(),
                compare: Compare::Equal,
            });
        }
        let id = self.selectors;
        self.selectors += 1;
        Ok(Selector {
            id,
            matchers,
            shift: shift(selector.offset.as_ref(), selector.at.as_ref())?,
        })
    }
}

fn unwrapped(node: Node) -> Node {
    match node.expr {
        Expr::Paren(inner) => unwrapped(*inner),
        _ => node,
    }
}

fn shift(offset: Option<&theirs::Offset>, at: Option<&theirs::AtModifier>) -> Result<Shift, Error> {
    let offset_ms = match offset {
        None => 0,
        Some(theirs::Offset::Pos(duration)) => ms(*duration)?,
        Some(theirs::Offset::Neg(duration)) => -ms(*duration)?,
    };
    let at = match at {
        None => None,
        Some(theirs::AtModifier::Start) => Some(At::Start),
        Some(theirs::AtModifier::End) => Some(At::End),
        Some(theirs::AtModifier::At(time)) => Some(At::Ms(unix_ms(*time)?)),
    };
    Ok(Shift { offset_ms, at })
}

fn unix_ms(time: SystemTime) -> Result<i64, Error> {
    let ms = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).ok(),
        Err(before) => i64::try_from(before.duration().as_millis()).ok().map(|ms| -ms),
    };
    ms.filter(|ms| ms.abs() <= TIME_MAX)
        .ok_or_else(|| Error::BadParameter("timestamp out of bounds for @ modifier".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_expression_knows_where_it_begins() {
        // The place of the first argument, or of the right side.
        let check = |query: &str, expected: usize| {
            let (node, _) = parse(query).unwrap();
            let at = match &node.bare().expr {
                Expr::Call { args, .. } => args[0].at,
                Expr::Aggregate { inner, .. } => inner.at,
                Expr::Binary { right, .. } => right.at,
                other => panic!("{other:?}"),
            };
            assert_eq!(at, expected, "{query}");
        };
        check("rate(x[5m])", 5);
        check("sum by (a, b) ( rate(x[5m]) )", 16);
        check("sum(x) without (a)", 4);
        check("quantile(0.9, (x))", 15);
        check("a{b=\"c)\"} offset -5m == bool on(a) group_left(b) (c)", 49);
        check("+a + +b", 6);
        check("(a + b) * (c)", 10);
        check("x @ start() offset 5m - y", 24);
        check("round(-x, 5)", 6);
        check("# sum\nabs(x)", 10);
    }

    #[test]
    fn durations_have_bounds_and_parts_of_any_size() {
        let refused = [
            "inf",
            "nan",
            "Inf",
            "NaN",
            "1e20",
            "1e300",
            "1e11",
            "99999999999y",
            "400y",
        ];
        for duration in refused {
            for query in [
                format!("x offset {duration}"),
                format!("x offset -{duration}"),
                format!("rate(x[{duration}])"),
                format!("max_over_time(x[5m:{duration}])"),
            ] {
                let error = parse(&query).unwrap_err().to_string();
                let kinds = ["out of range", "parse error", "unsupported"];
                assert!(kinds.iter().any(|kind| error.contains(kind)), "{query}: {error}");
            }
        }
        let check = |range: &str, ms: i64| {
            let (node, _) = parse(&format!("x[{range}]")).unwrap();
            let Expr::Range { range_ms, .. } = node.bare().expr else {
                panic!("{range}");
            };
            assert_eq!(range_ms, ms, "{range}");
        };
        check("5000000000ms", 5_000_000_000);
        check("1d5000000000ms", 5_086_400_000);
        check("4294967296s", 4_294_967_296_000);
        check("90", 90_000);
        check("1m30s", 90_000);
        assert!(parse("x * inf + nan - 1e300").is_ok());
    }

    #[test]
    fn constant_parts_are_marked() {
        let check = |query: &str, marks: usize| {
            let (node, _) = parse(query).unwrap();
            let mut count = 0;
            node.walk(&mut Vec::new(), &mut |node, _| {
                count += usize::from(matches!(node.expr, Expr::Constant(_)))
            });
            assert_eq!(count, marks, "{query}");
        };
        check("x", 0);
        check("x @ 5", 1);
        check("rate(x[5m] @ 5)", 1);
        check("rate(x[5m] @ end()) + rate(x[5m])", 1);
        check("sum(x @ 1) + max(y @ 2)", 1);
        check("predict_linear(x[5m] @ 5, 60)", 0);
        check("timestamp(x @ 5)", 1);
        check("timestamp(abs(x @ 5))", 1);
        check("1 + 2", 1);
    }

    #[test]
    fn a_bad_query_is_told_where_and_what() {
        let check = |query: &str, expected: &str| {
            assert_eq!(parse(query).unwrap_err().to_string(), expected, "{query}");
        };
        check("sum(x", "1:4: parse error: \"(\" is never closed");
        check(
            "sum x)",
            "1:6: parse error: unexpected \")\": nothing that it closes is open",
        );
        check(
            "a b",
            "1:3: parse error: unexpected \"b\": an operator or a comma is missing before it",
        );
        check("a +\n* b", "2:1: parse error: unexpected \"*\" after \"+\"");
        check("x[5m", "1:2: parse error: \"[\" is never closed");
        check("rate(x[5m)", "1:7: parse error: \"[\" is never closed");
        check("rate(x[5m) / rate(y[5m])", "1:7: parse error: \"[\" is never closed");
        check("sum(x{a=\"b\")\n+ y", "1:6: parse error: \"{\" is never closed");
        check(
            "sum(x])",
            "1:6: parse error: unexpected \"]\": nothing that it closes is open",
        );
        let spaced = "a duration has no space: write \"5m\"";
        check("rate(x[5 m])", &format!("1:8: parse error: {spaced}"));
        check("rate(x[1h:5 m])", &format!("1:11: parse error: {spaced}"));
        check("x offset -5 m", &format!("1:11: parse error: {spaced}"));
        check("{a=\"b}", "1:1: parse error: \"{\" is never closed");
        check("", "1:1: parse error: the query is empty");
        check("foo(x)", "1:1: parse error: unknown function with name 'foo'");
        check(
            "rate(x)",
            "1:1: parse error: expected type matrix in call to function 'rate', got vector",
        );
        check(
            "rate(x[5m] anchored)",
            "1:12: unsupported: anchored range selectors; leave the word out",
        );
        check(
            "rate(x[5m] smoothed)",
            "1:12: unsupported: smoothed selectors; leave the word out",
        );
        check(
            "x </ bool 5",
            "1:1: parse error: bool modifier can only be used on comparison operators",
        );
        let plain = "unsupported: duration expressions; write one duration, such as 90s";
        check("rate(x[5m+1m])", &format!("1:10: {plain}"));
        check("rate(x[step()])", &format!("1:8: {plain}"));
        check("rate(x[(5m)])", &format!("1:8: {plain}"));
        check("x offset -step()", &format!("1:11: {plain}"));
        check(
            "1 + info(x)",
            "1:5: unsupported: info(); write `x * on (job, instance) group_left (...) target_info`",
        );
        check("start_timestamp(x)", "1:1: unsupported: start_timestamp()");
        check(
            "limit_ratio(0.5, x)",
            "1:1: unsupported: limit_ratio(); write limitk() with a number of series",
        );
        check(
            "a + b{c=\"\\xe9\"}",
            "1:9: unsupported: escaped bytes beyond ASCII in a label matcher; write the character",
        );
        check(
            "a + b{c=\"d\" or e=\"f\"}",
            "1:5: unsupported: `or` between label matchers; write `a{...} or a{...}`",
        );
        let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
        assert!(parse(&deep).unwrap_err().to_string().contains("nested"));
        let long = vec!["1"; 5000].join("+");
        assert!(parse(&long).unwrap_err().to_string().contains("nested"));
    }
}
