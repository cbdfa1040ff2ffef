//! What to say about a text that is not a query, or not one that is evaluated.

use super::convert::is_duration;
use super::tokens::{Token, TokenKind};
use crate::error::Error;
use crate::notes::line_and_column;

/// Why the parser refused, with a place: by name where it is a construct that we know and leave out.
pub(super) fn explain(query: &str, tokens: &[Token<'_>], message: String) -> Error {
    // Brackets first: what is inside of one that is not closed looks like something else.
    let mut open: Vec<&Token<'_>> = Vec::new();
    for token in tokens.iter().filter(|token| token.kind == TokenKind::Sign) {
        let wanted = match token.text {
            "(" | "[" | "{" => {
                open.push(token);
                continue;
            }
            ")" => "(",
            "]" => "[",
            "}" => "{",
            _ => continue,
        };
        match open.pop() {
            Some(opened) if opened.text == wanted => {}
            Some(opened) if open.iter().any(|opened| opened.text == wanted) => return never_closed(query, opened),
            _ => {
                return at(
                    query,
                    token.at,
                    format!("unexpected {:?}: nothing that it closes is open", token.text),
                );
            }
        }
    }
    if let Some(token) = open.last() {
        return never_closed(query, token);
    }
    for (number, pair) in tokens.windows(2).enumerate() {
        let [count, unit] = pair else { continue };
        let is_unit = matches!(unit.text, "ms" | "s" | "m" | "h" | "d" | "w" | "y");
        if count.kind == TokenKind::Number && is_unit && is_duration(tokens, number) {
            let whole = format!("{}{}", count.text, unit.text);
            return at(query, count.at, format!("a duration has no space: write {whole:?}"));
        }
    }
    if let Some((token, what, instead)) = unsupported(tokens) {
        return Error::unsupported(what, instead).at(query, token.at);
    }
    if let Some(token) = tokens.iter().find(|token| {
        token.kind == TokenKind::Text && (token.text.len() < 2 || !token.text.ends_with(&token.text[..1]))
    }) {
        return at(query, token.at, "this text has no closing quote".into());
    }
    // The parser quotes what it does not like; the last place where that stands is the likeliest.
    let quoted = message.split(['\'', '"', '`']).nth(1).unwrap_or("");
    if let Some(token) = tokens.iter().rfind(|token| !quoted.is_empty() && token.text == quoted) {
        return at(query, token.at, message);
    }
    for pair in tokens.windows(2) {
        let operand = |token: &Token<'_>| token.kind != TokenKind::Sign && !is_keyword(token.text);
        let operator = |token: &Token<'_>| {
            matches!(
                token.text,
                "+" | "-" | "*" | "/" | "%" | "^" | "==" | "!=" | ">" | "<" | ">=" | "<=" | ","
            )
        };
        if operand(&pair[0]) && operand(&pair[1]) {
            let text = format!(
                "unexpected {:?}: an operator or a comma is missing before it",
                pair[1].text
            );
            return at(query, pair[1].at, text);
        }
        if operator(&pair[0]) && matches!(pair[1].text, "*" | "/" | "%" | "^" | "==" | ")" | "]" | ",") {
            return at(
                query,
                pair[1].at,
                format!("unexpected {:?} after {:?}", pair[1].text, pair[0].text),
            );
        }
    }
    let end = tokens.last().map_or(0, |token| token.at + token.text.len());
    if tokens.is_empty() {
        return at(query, 0, "the query is empty".into());
    }
    at(query, end, message)
}

fn never_closed(query: &str, token: &Token<'_>) -> Error {
    at(query, token.at, format!("{:?} is never closed", token.text))
}

fn at(query: &str, position: usize, message: String) -> Error {
    let (line, column) = line_and_column(query, position);
    Error::Parse { line, column, message }
}

/// What does as `info()` does.
pub(super) const INSTEAD_OF_INFO: &str = "write `x * on (job, instance) group_left (...) target_info`";

fn is_keyword(word: &str) -> bool {
    [
        "and",
        "or",
        "unless",
        "atan2",
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
        "bool",
        "offset",
        "sum",
        "avg",
        "min",
        "max",
        "count",
        "group",
        "topk",
        "bottomk",
        "quantile",
        "stddev",
        "stdvar",
        "count_values",
        "limitk",
        "limit_ratio",
        "fill",
        "fill_left",
        "fill_right",
    ]
    .iter()
    .any(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// Experimental syntax of Prometheus 3.14 that `promql-parser` 0.11 does not read: where it is, what it is, and what to write instead.
fn unsupported<'t>(tokens: &'t [Token<'t>]) -> Option<(&'t Token<'t>, &'static str, &'static str)> {
    let expression = |token| Some((token, "duration expressions", "write one duration, such as 90s"));
    let word_out = |token, what| Some((token, what, "leave the word out"));
    let mut brackets = 0_usize;
    for (number, token) in tokens.iter().enumerate() {
        let is_call = tokens.get(number + 1).is_some_and(|next| next.text == "(");
        match (token.kind, token.text) {
            (TokenKind::Sign, "[") => brackets += 1,
            (TokenKind::Sign, "]") => brackets = brackets.saturating_sub(1),
            (TokenKind::Sign, "+" | "-" | "*" | "/" | "%" | "^" | "(") if brackets > 0 => return expression(token),
            (TokenKind::Word, _) if brackets > 0 && is_call => return expression(token),
            (TokenKind::Word, word) => match word.to_ascii_lowercase().as_str() {
                "anchored" => return word_out(token, "anchored range selectors"),
                "smoothed" => return word_out(token, "smoothed selectors"),
                "info" if is_call => return Some((token, "info()", INSTEAD_OF_INFO)),
                "start_timestamp" if is_call => return Some((token, "start_timestamp()", "")),
                "offset" => {
                    let behind = tokens[number + 1..].iter();
                    let mut rest = behind.skip_while(|token| matches!(token.text, "+" | "-"));
                    let (first, second) = (rest.next(), rest.next().map(|token| token.text));
                    let Some(first) = first else { continue };
                    let is_call = first.kind == TokenKind::Word && second == Some("(");
                    let arithmetic = matches!(second, Some("+" | "-" | "*" | "/" | "%" | "^"));
                    if first.text == "(" || is_call || arithmetic {
                        return expression(first);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
    None
}
