//! Strings as they came off the wire, made fit to store: valid UTF-8, bounded length.

use std::borrow::Cow;

/// What had to be changed to store the items of a request. Counters, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Strings that were not UTF-8; their bad parts became U+FFFD.
    pub sanitized: u64,
    /// Strings that were cut, and attributes, events, links or exemplars that were left out, because of a cap.
    pub truncated: u64,
    /// Attributes left out because an earlier one has the same key.
    pub duplicate_keys: u64,
    /// Attributes without a key, `key_strindex` or not.
    pub empty_keys: u64,
    /// Values that are an index into strings which only profiles have, and so are none.
    pub strindexes: u64,
    /// Log records with an id that is none: they are stored without the link to a trace or span.
    pub unlinked: u64,
}

impl Tally {
    /// Adds what `tally` has more than `known`.
    pub fn add_difference(&mut self, tally: Tally, known: Tally) {
        self.sanitized += tally.sanitized.saturating_sub(known.sanitized);
        self.truncated += tally.truncated.saturating_sub(known.truncated);
        self.duplicate_keys += tally.duplicate_keys.saturating_sub(known.duplicate_keys);
        self.empty_keys += tally.empty_keys.saturating_sub(known.empty_keys);
        self.strindexes += tally.strindexes.saturating_sub(known.strindexes);
        self.unlinked += tally.unlinked.saturating_sub(known.unlinked);
    }

    /// Adds another tally to this one.
    pub fn add(&mut self, other: Tally) {
        self.sanitized += other.sanitized;
        self.truncated += other.truncated;
        self.duplicate_keys += other.duplicate_keys;
        self.empty_keys += other.empty_keys;
        self.strindexes += other.strindexes;
        self.unlinked += other.unlinked;
    }
}

/// The string with U+FFFD for what is not UTF-8.
pub fn clean<'a>(raw: &'a [u8], tally: &mut Tally) -> Cow<'a, str> {
    match std::str::from_utf8(raw) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            tally.sanitized += 1;
            Cow::Owned(String::from_utf8_lossy(raw).into_owned())
        }
    }
}

/// Appends [`clean`]ed text.
pub fn push_clean(raw: &[u8], out: &mut String, tally: &mut Tally) {
    out.push_str(&clean(raw, tally));
}

/// The longest prefix of at most `cap` bytes that does not cut a character in two.
pub fn cut<'a>(text: &'a str, cap: usize, tally: &mut Tally) -> &'a str {
    if text.len() <= cap {
        return text;
    }
    tally.truncated += 1;
    &text[..text.floor_char_boundary(cap)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_a_character() {
        let check = |text: &str, cap: usize, expect: &str| {
            let mut tally = Tally::default();
            assert_eq!(cut(text, cap, &mut tally), expect);
            assert_eq!(tally.truncated, u64::from(text != expect));
        };
        check("abc", 3, "abc");
        check("abcd", 3, "abc");
        check("aé", 2, "a");
        check("é", 1, "");
        check("", 0, "");
    }

    #[test]
    fn replaces_what_is_not_utf8() {
        let mut tally = Tally::default();
        assert_eq!(clean(b"a\xffb", &mut tally), "a\u{fffd}b");
        assert_eq!(clean("é".as_bytes(), &mut tally), "é");
        assert_eq!(tally.sanitized, 1);
    }
}
