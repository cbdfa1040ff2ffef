//! What to say about a text that is not a query, or not one that is evaluated.

use super::tokens::{Token, TokenKind};
use crate::error::Error;
use crate::notes::line_and_column;

/// Why the parser refused: by name where it is a construct that we know and leave out, else with a place.
pub(super) fn explain(query: &str, tokens: &[Token<'_>], message: String) -> Error {
    if let Some(construct) = unsupported(tokens) {
        return Error::Unsupported(construct.into());
    }
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
        if open.pop().is_none_or(|opened| opened.text != wanted) {
            return at(
                query,
                token.at,
                format!("unexpected {:?}: nothing that it closes is open", token.text),
            );
        }
    }
    if let Some(token) = open.last() {
        return at(query, token.at, format!("{:?} is never closed", token.text));
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

fn at(query: &str, position: usize, message: String) -> Error {
    let (line, column) = line_and_column(query, position);
    Error::Parse { line, column, message }
}

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

/// Experimental syntax of Prometheus 3.14 that `promql-parser` 0.11 does not read.
fn unsupported(tokens: &[Token<'_>]) -> Option<&'static str> {
    let mut brackets = 0_usize;
    for (number, token) in tokens.iter().enumerate() {
        let after = tokens.get(number + 1).map_or("", |token| token.text);
        match (token.kind, token.text) {
            (TokenKind::Sign, "[") => brackets += 1,
            (TokenKind::Sign, "]") => brackets = brackets.saturating_sub(1),
            (TokenKind::Sign, "+" | "-" | "*" | "/" | "%" | "^" | "(") if brackets > 0 => {
                return Some("duration expressions");
            }
            (TokenKind::Word, _) if brackets > 0 => return Some("duration expressions"),
            (TokenKind::Word, word) => match word.to_ascii_lowercase().as_str() {
                "anchored" => return Some("anchored range selectors"),
                "smoothed" => return Some("smoothed selectors"),
                "info" if after == "(" => return Some("info()"),
                "start_timestamp" if after == "(" => return Some("start_timestamp()"),
                "offset" => {
                    let next = tokens[number + 1..]
                        .iter()
                        .find(|token| !matches!(token.text, "+" | "-"));
                    let arithmetic = tokens[number + 1..]
                        .iter()
                        .skip_while(|token| matches!(token.text, "+" | "-"))
                        .nth(1)
                        .is_some_and(|token| matches!(token.text, "+" | "-" | "*" | "/" | "%" | "^"));
                    if next.is_some_and(|token| token.kind == TokenKind::Word || token.text == "(") || arithmetic {
                        return Some("duration expressions");
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
    None
}
