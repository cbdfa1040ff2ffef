//! Notes in the header `tailwater-notes`.
//!
//! A header holds visible ASCII and spaces, names in notes are anything. What a header cannot hold is written as `%C3%BC`, byte by byte of its UTF-8; a
//! `%` that would read as such is `%25`. [`read`] turns that back into the text. Notes longer than [`BYTES_MAX`] are cut, for clients bound their headers.

use axum::http::HeaderValue;

/// Longest value.
pub const BYTES_MAX: usize = 8 << 10;

/// What a longer one ends in.
const MORE: &str = "; and more";

/// The header's value; `None` if there are none.
#[must_use]
pub fn header(notes: &[String]) -> Option<HeaderValue> {
    if notes.is_empty() {
        return None;
    }
    let text = notes.join("; ");
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let mut out = String::with_capacity(bytes.len());
    let mut cut = 0;
    for (at, c) in text.char_indices() {
        if out.len() <= BYTES_MAX - MORE.len() {
            cut = out.len();
        }
        if (c == ' ' || c.is_ascii_graphic()) && !(c == '%' && is_hex(at + 1) && is_hex(at + 2)) {
            out.push(c);
        } else {
            for byte in &bytes[at..at + c.len_utf8()] {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        if out.len() > BYTES_MAX {
            out.truncate(cut);
            out.push_str(MORE);
            break;
        }
    }
    HeaderValue::from_str(&out).ok()
}

/// The text of a value.
#[must_use]
pub fn read(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn any_text_goes_through_a_header() {
        let check = |text: &str, written: &str| {
            let value = header(&[text.to_owned()]).unwrap();
            assert_eq!(value.to_str().unwrap(), written);
            assert_eq!(read(&value), text);
        };
        check("objective `a` of SLO `b`", "objective `a` of SLO `b`");
        check("Prüfung\n", "Pr%C3%BCfung%0A");
        check("99 % of 5% are 4.95", "99 % of 5% are 4.95");
        check("%C3 is no letter", "%25C3 is no letter");
        check("5%ü", "5%%C3%BC");
        check("日本", "%E6%97%A5%E6%9C%AC");
        assert_eq!(header(&[]), None);
        let both = header(&["a".to_owned(), "b".to_owned()]).unwrap();
        assert_eq!(read(&both), "a; b");
    }

    #[test]
    fn long_notes_are_cut() {
        for text in ["x".repeat(BYTES_MAX + 1), "ü".repeat(BYTES_MAX)] {
            let value = header(&[text]).unwrap();
            assert!(
                value.len() <= BYTES_MAX && value.len() > BYTES_MAX - 32,
                "{}",
                value.len()
            );
            assert!(read(&value).ends_with(MORE));
        }
    }
}
