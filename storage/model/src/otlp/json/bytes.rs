//! Bytes as JSON writes them: hex for ids, base64 for everything else.

/// Appends the bytes of a hex text of either case; `false` for an odd length or another character (then `out` holds rubbish
/// past its old end).
pub(super) fn push_hex(text: &str, out: &mut Vec<u8>) -> bool {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    for [high, low] in pairs {
        match (hex_digit(*high), hex_digit(*low)) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => return false,
        }
    }
    rest.is_empty()
}

/// Appends the bytes of a base64 text, standard or url-safe alphabet, padded or not; `false` when it is neither. What is left
/// over in the last character's low bits is not looked at, as in the protobuf libraries.
pub(super) fn push_base64(text: &str, out: &mut Vec<u8>) -> bool {
    let bytes = text.as_bytes();
    let padding = bytes.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    if padding > 0 && !bytes.len().is_multiple_of(4) {
        return false;
    }
    let bytes = &bytes[..bytes.len() - padding];
    if bytes.len() % 4 == 1 {
        return false;
    }
    out.reserve(bytes.len() / 4 * 3 + 2);
    for group in bytes.chunks(4) {
        let mut bits = 0u32;
        for byte in group {
            let Some(six) = base64_digit(*byte) else { return false };
            bits = bits << 6 | u32::from(six);
        }
        bits <<= 6 * (4 - group.len());
        let [_, a, b, c] = bits.to_be_bytes();
        out.extend_from_slice(&[a, b, c][..group.len() - 1]);
    }
    true
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn base64_digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(text: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        push_base64(text, &mut out).then_some(out)
    }

    #[test]
    fn base64_in_both_alphabets_with_and_without_padding() {
        let check = |text: &str, expect: Option<&[u8]>| assert_eq!(base64(text).as_deref(), expect, "{text}");
        check("", Some(b""));
        check("Zg==", Some(b"f"));
        check("Zg", Some(b"f"));
        check("Zm8=", Some(b"fo"));
        check("Zm8", Some(b"fo"));
        check("Zm9v", Some(b"foo"));
        check("Zm9vYmFy", Some(b"foobar"));
        check("+/+/", Some(&[0xfb, 0xff, 0xbf]));
        check("-_-_", Some(&[0xfb, 0xff, 0xbf]));
        for bad in [
            "Z", "Zg=", "Zg===", "=", "==", "====", "Zm9v=", "Z=g=", "Zm 9v", "Zm9v\n", "Zm9é",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn hex_of_either_case() {
        let check = |text: &str, expect: Option<&[u8]>| {
            let mut out = Vec::new();
            let good = push_hex(text, &mut out);
            assert_eq!(good.then_some(out).as_deref(), expect, "{text}");
        };
        check("", Some(b""));
        check("00ff", Some(&[0, 255]));
        check("AbCd", Some(&[0xab, 0xcd]));
        for bad in ["0", "abc", "0g", "g0", "0x00", "é"] {
            check(bad, None);
        }
    }
}
