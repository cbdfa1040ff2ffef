//! Words, numbers and signs of a query with their places: enough to find where an expression begins, and to say what is
//! wrong with a text that the parser refuses.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Word,
    Number,
    Text,
    Sign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub kind: TokenKind,
    pub text: &'a str,
    pub at: usize,
}

impl Token<'_> {
    /// The bytes that a quoted text means, if any of them is written as an escaped byte beyond ASCII (`\xff`, `\377`).
    pub fn bytes(&self) -> Option<Vec<u8>> {
        if self.kind != TokenKind::Text || self.text.starts_with('`') || self.text.len() < 2 {
            return None;
        }
        let mut bytes = Vec::new();
        let mut beyond = false;
        let mut rest = self.text[1..self.text.len() - 1].chars();
        while let Some(c) = rest.next() {
            let mut utf8 = [0; 4];
            if c != '\\' {
                bytes.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
                continue;
            }
            let escape = rest.next()?;
            let (digits, radix) = match escape {
                'x' => (2, 16),
                '0'..='7' => (3, 8),
                'u' => (4, 16),
                'U' => (8, 16),
                _ => {
                    bytes.push(match escape {
                        'a' => 7,
                        'b' => 8,
                        'f' => 12,
                        'n' => b'\n',
                        'r' => b'\r',
                        't' => b'\t',
                        'v' => 11,
                        other => u8::try_from(other).ok()?,
                    });
                    continue;
                }
            };
            let mut number = String::new();
            if radix == 8 {
                number.push(escape);
            }
            number.extend(rest.by_ref().take(digits - number.len()));
            let code = u32::from_str_radix(&number, radix).ok()?;
            if matches!(escape, 'u' | 'U') {
                bytes.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut utf8).as_bytes());
            } else {
                let byte = u8::try_from(code).ok()?;
                beyond |= !byte.is_ascii();
                bytes.push(byte);
            }
        }
        beyond.then_some(bytes)
    }
}

/// Splits a query. A character that no query may have becomes a sign of its own.
pub(super) fn tokens(query: &str) -> Vec<Token<'_>> {
    let bytes = query.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let from = at;
        let word = |byte: u8| byte == b'_' || byte == b':' || byte.is_ascii_alphanumeric();
        let kind = match bytes[at] {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'#' => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            quote @ (b'"' | b'\'' | b'`') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' && quote != b'`' { 2 } else { 1 };
                }
                at = (at + 1).min(bytes.len());
                TokenKind::Text
            }
            byte if byte.is_ascii_digit() || (byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)) => {
                at += 1;
                while at < bytes.len() {
                    let exponent = matches!(bytes[at], b'+' | b'-')
                        && matches!(bytes[at - 1], b'e' | b'E')
                        && bytes[from..at - 1]
                            .iter()
                            .all(|byte| byte.is_ascii_digit() || *byte == b'.' || *byte == b'_');
                    if !(bytes[at].is_ascii_alphanumeric() || matches!(bytes[at], b'_' | b'.') || exponent) {
                        break;
                    }
                    at += 1;
                }
                TokenKind::Number
            }
            // A lone colon divides range and step of a subquery.
            b':' if !bytes
                .get(at + 1)
                .is_some_and(|next| word(*next) && !next.is_ascii_digit()) =>
            {
                at += 1;
                TokenKind::Sign
            }
            byte if word(byte) => {
                while at < bytes.len() && word(bytes[at]) {
                    at += 1;
                }
                TokenKind::Word
            }
            _ => {
                let two = query.get(at..at + 2).unwrap_or("");
                at += if matches!(two, "==" | "!=" | ">=" | "<=" | "=~" | "!~" | "</" | ">/") {
                    2
                } else {
                    query[at..].chars().next().map_or(1, char::len_utf8)
                };
                TokenKind::Sign
            }
        };
        // A cut inside a character can only happen in a text without end: take the rest.
        while at < bytes.len() && !query.is_char_boundary(at) {
            at += 1;
        }
        found.push(Token {
            kind,
            text: &query[from..at],
            at: from,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_in_tokens() {
        let check = |query: &str, expected: &[&str]| {
            let texts: Vec<_> = tokens(query).iter().map(|token| token.text).collect();
            assert_eq!(texts, expected, "{query}");
        };
        check(
            "a:b{c=~\"x\\\"\"}[5m:1m] # end",
            &["a:b", "{", "c", "=~", "\"x\\\"\"", "}", "[", "5m", ":", "1m", "]"],
        );
        check("1e-3-2+0x1f", &["1e-3", "-", "2", "+", "0x1f"]);
        check("-.5 </ x", &["-", ".5", "</", "x"]);
        check("x[5m:]", &["x", "[", "5m", ":", "]"]);
        check("'ä", &["'ä"]);
    }

    #[test]
    fn escaped_bytes() {
        let check = |text: &str, expected: Option<&[u8]>| {
            assert_eq!(tokens(text)[0].bytes().as_deref(), expected, "{text}");
        };
        check(r#""a""#, None);
        check(r#""a\x41\u00e9\n""#, None);
        check(r#""\xc3\xa9b""#, Some("éb".as_bytes()));
        check(r#""a\377""#, Some(b"a\xff"));
        check("`\\xff`", None);
    }
}
