//! CSV records after RFC 4180: quoted fields may hold commas, doubled quotes and line breaks. Streams; knows the line of every record.

use std::io::BufRead;

use anyhow::{Context, bail};

/// Longest record in bytes, so that a forgotten quote does not swallow a file into memory twice.
const RECORD_BYTES_MAX: usize = 4 << 20;

/// Reads records.
#[derive(Debug)]
pub struct Records<R> {
    input: R,
    /// Line on which the next record starts, from 1.
    line: u64,
}

impl<R: BufRead> Records<R> {
    /// Records of a text.
    pub fn new(input: R) -> Records<R> {
        Records { input, line: 1 }
    }

    /// The next record and the line it starts on; empty lines are skipped.
    ///
    /// # Errors
    /// When the input cannot be read, is not UTF-8, ends inside quotes, or a record is too long; the line is named.
    pub fn next(&mut self) -> anyhow::Result<Option<(u64, Vec<String>)>> {
        let mut text = String::new();
        let start = self.line;
        loop {
            let before = text.len();
            let read = self
                .input
                .read_line(&mut text)
                .with_context(|| format!("line {}", self.line))?;
            if read == 0 && before == 0 {
                return Ok(None);
            }
            if read == 0 {
                bail!("line {start}: the file ends inside quotes");
            }
            self.line += 1;
            if text.len() > RECORD_BYTES_MAX {
                bail!("line {start}: a record of more than {RECORD_BYTES_MAX} bytes");
            }
            if text.bytes().filter(|byte| *byte == b'"').count() % 2 == 0 {
                break;
            }
        }
        let record = text.trim_end_matches(['\n', '\r']);
        if record.is_empty() {
            return self.next();
        }
        let fields = split(record).with_context(|| format!("line {start}"))?;
        Ok(Some((start, fields)))
    }
}

fn split(record: &str) -> anyhow::Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let after = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (field, after) = unquote(quoted)?;
                fields.push(field);
                after
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                fields.push(rest[..end].to_owned());
                &rest[end..]
            }
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => bail!("text behind a closing quote"),
        }
    }
}

/// The field that starts behind an opening quote, and what follows its closing quote.
fn unquote(text: &str) -> anyhow::Result<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let quote = rest.find('"').context("a quote is not closed")?;
        field.push_str(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(text: &str, expect: &[(u64, &[&str])]) {
        let mut records = Records::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(record) = records.next().unwrap() {
            found.push(record);
        }
        let expect: Vec<(u64, Vec<String>)> = expect
            .iter()
            .map(|(line, fields)| (*line, fields.iter().map(|field| (*field).to_owned()).collect()))
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn records() {
        check("a,b\n1,2\n", &[(1, &["a", "b"]), (2, &["1", "2"])]);
        check("a,,\r\n\r\nx", &[(1, &["a", "", ""]), (3, &["x"])]);
        check("\"a,\"\"b\"\"\n,c\",d\ne", &[(1, &["a,\"b\"\n,c", "d"]), (3, &["e"])]);
        check("", &[]);
    }

    #[test]
    fn bad_records_name_their_line() {
        for (text, word) in [
            ("a\n\"b", "line 2: the file ends"),
            ("\"a\"b,\"\"", "line 1"),
            ("a\n\"b\"c", "line 2"),
        ] {
            let mut records = Records::new(text.as_bytes());
            let error = loop {
                match records.next() {
                    Ok(record) => assert!(record.is_some(), "no error in {text:?}"),
                    Err(error) => break format!("{error:#}"),
                }
            };
            assert!(error.contains(word), "{error}");
        }
    }
}
