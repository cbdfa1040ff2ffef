//! The comments of a file, and where they belong when the file is written anew.
//!
//! The parser drops comments. What it does tell is where scalars begin and end; a `#` outside of every scalar, at the start of a line or
//! after a blank, begins a comment. A comment on a line of its own belongs to what follows it, one behind a value to that value.
//! Nothing is lost: what has no place in the new form goes to the head of its document.

use std::collections::BTreeMap;

use tailwater_config::yaml::{At, scalars};

use crate::document::Document;

/// Comments by document and path.
#[derive(Debug, Default)]
pub(crate) struct Comments {
    before: BTreeMap<(usize, String), Vec<String>>,
    trailing: BTreeMap<(usize, String), String>,
    /// After the last value.
    tail: Vec<String>,
}

struct Comment {
    at: At,
    alone: bool,
    text: String,
}

impl Comments {
    /// The comments of `text`, which has been read as `documents`.
    pub fn of(text: &str, documents: &[Document]) -> Self {
        // What stands on each line: the first thing takes the comments above, the last one the comment behind.
        let mut by_line: BTreeMap<usize, (At, usize, String, At, String)> = BTreeMap::new();
        for (i, document) in documents.iter().enumerate() {
            for (path, at) in document.places.all() {
                let seat = by_line
                    .entry(at.line)
                    .or_insert_with(|| (at, i, path.to_owned(), at, path.to_owned()));
                if (at, path.len()) < (seat.0, seat.2.len()) {
                    (seat.0, seat.2) = (at, path.to_owned());
                }
                if (at, path.len()) >= (seat.3, seat.4.len()) {
                    (seat.3, seat.4) = (at, path.to_owned());
                }
            }
        }
        let mut comments = Self::default();
        for comment in find(text) {
            if !comment.alone
                && let Some((_, i, _, _, last)) = by_line.get(&comment.at.line)
            {
                comments.trailing.insert((*i, last.clone()), comment.text);
                continue;
            }
            match by_line.range(comment.at.line..).next() {
                Some((_, (_, i, first, _, _))) => {
                    comments
                        .before
                        .entry((*i, first.clone()))
                        .or_default()
                        .push(comment.text);
                }
                None => comments.tail.push(comment.text),
            }
        }
        comments
    }

    pub fn take_before(&mut self, document: usize, path: &str) -> Vec<String> {
        self.before.remove(&(document, path.to_owned())).unwrap_or_default()
    }

    pub fn take_trailing(&mut self, document: usize, path: &str) -> Option<String> {
        self.trailing.remove(&(document, path.to_owned()))
    }

    /// What is left of a document.
    pub fn take_rest(&mut self, document: usize) -> Vec<String> {
        let mut rest = Vec::new();
        self.before.retain(|(i, _), lines| {
            let keep = *i != document;
            if !keep {
                rest.append(lines);
            }
            keep
        });
        self.trailing.retain(|(i, _), line| {
            let keep = *i != document;
            if !keep {
                rest.push(std::mem::take(line));
            }
            keep
        });
        rest
    }

    pub fn take_tail(&mut self) -> Vec<String> {
        std::mem::take(&mut self.tail)
    }
}

fn find(text: &str) -> Vec<Comment> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let scalars = scalars(text);
    let mut next = 0;
    let mut comments = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let mut blank_before = true;
        for (column, (offset, c)) in line.char_indices().enumerate() {
            let at = At {
                line: i + 1,
                column: column + 1,
            };
            while scalars.get(next).is_some_and(|(_, end)| *end <= at) {
                next += 1;
            }
            let inside = scalars.get(next).is_some_and(|(start, _)| *start <= at);
            if c == '#' && blank_before && !inside {
                comments.push(Comment {
                    at,
                    alone: line[..offset].trim().is_empty(),
                    text: line[offset..].trim_end().to_owned(),
                });
                break;
            }
            blank_before = c.is_whitespace();
        }
    }
    comments
}
