//! YAML text into a small tree in which every key and value knows its line and column.
//!
//! Guarantees: text size, nesting and the number of nodes after aliases are bounded (a "billion laughs" file is an error, not a
//! stall); a key given twice is an error; tags, more documents than the bounds allow and keys that are not plain scalars are errors.
//! Anchors, aliases and merge keys (`<<`) work. Assumes nothing of the settings: types are the reader's business, scalars stay text.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

/// Largest accepted text, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting.
const DEPTH_MAX: usize = 32;

/// How much of it is read.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Largest text, in bytes.
    pub text_bytes: usize,
    /// Most nodes over all documents, each alias counted as a copy of what it stands for.
    pub nodes: usize,
    /// Most documents.
    pub documents: usize,
}

/// Those of a configuration file.
const ONE_FILE: Bounds = Bounds {
    text_bytes: TEXT_BYTES_MAX,
    nodes: 10_000,
    documents: 1,
};

/// A place in the text, line and column from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// Something wrong with the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub at: At,
    /// What.
    pub message: String,
}

/// One value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it begins.
    pub at: At,
    /// What it is.
    pub value: Value,
}

/// What a value can be.
#[derive(Clone, Debug)]
pub enum Value {
    /// One value. `plain` tells `null` from `"null"`.
    Scalar {
        /// Without quotes.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the text; entries merged by `<<` come last.
    Map(Vec<Entry>),
}

/// A key of a mapping, its place, and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub at: At,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// Nothing was written here, or `null`, or `~`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } => 0,
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|e| e.node.count()).sum(),
        }
    }
}

/// Reads one document. `None` when there is nothing in it, or when it cannot be read; faults say why.
pub(crate) fn parse(text: &str) -> (Option<Node>, Vec<Fault>) {
    let (mut documents, faults) = parse_all(text, ONE_FILE);
    (documents.pop(), faults)
}

/// Reads all documents, leaving out empty ones. After a fault that ends the reading there are none, since a half-read file would look
/// as if the rest of it were not there.
#[must_use]
pub fn parse_all(text: &str, bounds: Bounds) -> (Vec<Node>, Vec<Fault>) {
    let mut tree = Tree {
        bounds,
        documents: Vec::new(),
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        faults: Vec::new(),
    };
    match tree.read(text) {
        Ok(()) => (tree.documents, tree.faults),
        Err(fault) => {
            tree.faults.push(fault);
            (Vec::new(), tree.faults)
        }
    }
}

/// Where the values and keys that are single words or texts begin and end (the end is the first place behind), in the order of the
/// text, up to the first thing that is not YAML. Of a block (`|`, `>`) the line of its head is left out: a comment may stand there.
#[must_use]
pub fn scalars(text: &str) -> Vec<(At, At)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let mut parser = Parser::new_from_str(text);
    while let Some(Ok((event, span))) = parser.next_event() {
        if let Event::Scalar(_, style, ..) = event {
            let mut start = place(&span.start);
            if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                // It begins behind its head, at the text; the blanks in front of that belong to it.
                start.column = 1;
            }
            // The parser takes the blanks and the comment behind a closing quote for a part of it.
            let end = match style {
                ScalarStyle::SingleQuoted => quote_end(&lines, start, '\''),
                ScalarStyle::DoubleQuoted => quote_end(&lines, start, '"'),
                _ => place(&span.end),
            };
            found.push((start, end));
        }
    }
    found
}

/// The place behind the closing quote of what begins at `start`, perhaps with an anchor.
fn quote_end(lines: &[&str], start: At, quote: char) -> At {
    let mut open = false;
    let mut column_from = start.column;
    for (i, line) in lines.iter().enumerate().skip(start.line - 1) {
        let mut chars = line.chars().enumerate().skip(column_from - 1).peekable();
        while let Some((column, c)) = chars.next() {
            if c == '\\' && open && quote == '"' {
                chars.next();
            } else if c == quote && !open {
                open = true;
            } else if c == quote {
                // Two single quotes are one in the text.
                if quote == '\'' && chars.next_if(|(_, next)| *next == quote).is_some() {
                    continue;
                }
                return At {
                    line: i + 1,
                    column: column + 2,
                };
            }
        }
        column_from = 1;
    }
    At {
        line: lines.len() + 1,
        column: 1,
    }
}

/// A list or mapping that is still open.
struct Open {
    at: At,
    anchor: usize,
    body: Body,
}

enum Body {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        seen: HashSet<String>,
        key: Option<(String, At)>,
        merges: Vec<Node>,
    },
}

struct Tree {
    bounds: Bounds,
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    faults: Vec<Fault>,
}

impl Tree {
    fn read(&mut self, text: &str) -> Result<(), Fault> {
        let Bounds { text_bytes, .. } = self.bounds;
        if text.len() > text_bytes {
            return Err(Fault {
                at: At { line: 1, column: 1 },
                message: format!("larger than {text_bytes} bytes"),
            });
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut parser = Parser::new_from_str(text);
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|e| Fault {
                at: place(e.marker()),
                message: format!("not YAML: {}", e.info()),
            })?;
            let at = place(&span.start);
            let fault = |message: &str| Fault {
                at,
                message: message.into(),
            };
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    // A name given in one document means nothing in the next.
                    self.anchors.clear();
                    if documents > self.bounds.documents {
                        return Err(match self.bounds.documents {
                            1 => fault("a second document: one file holds one configuration"),
                            most => fault(&format!("more than {most} documents")),
                        });
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    if tag.is_some() {
                        return Err(fault("tags (`!`) are not used here"));
                    }
                    let plain = style == ScalarStyle::Plain;
                    if self.take_key(&text, plain, at) {
                        continue;
                    }
                    self.place(
                        Node {
                            at,
                            value: Value::Scalar {
                                text: text.into_owned(),
                                plain,
                            },
                        },
                        anchor,
                    )?;
                }
                Event::SequenceStart(anchor, tag) => {
                    if tag.is_some() {
                        return Err(fault("tags (`!`) are not used here"));
                    }
                    self.enter(at, anchor, Body::List(Vec::new()))?;
                }
                Event::MappingStart(anchor, tag) => {
                    if tag.is_some() {
                        return Err(fault("tags (`!`) are not used here"));
                    }
                    self.enter(
                        at,
                        anchor,
                        Body::Map {
                            entries: Vec::new(),
                            seen: HashSet::new(),
                            key: None,
                            merges: Vec::new(),
                        },
                    )?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.leave()?,
                Event::Alias(anchor) => {
                    if self.wants_key() {
                        return Err(fault("an alias cannot be a key"));
                    }
                    // An alias inside its own anchor is not in the table yet: it would be endless.
                    let Some(node) = self.anchors.get(&anchor) else {
                        return Err(fault("an alias to something that is not complete here"));
                    };
                    let copies = node.count();
                    let most = self.bounds.nodes;
                    if self.nodes + copies > most {
                        return Err(fault(&format!("aliases expand to more than {most} values")));
                    }
                    self.nodes += copies - 1;
                    let node = node.clone();
                    self.place(node, 0)?;
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                body: Body::Map { key: None, .. },
                ..
            })
        )
    }

    /// Takes the scalar as the key of the innermost mapping if it waits for one.
    fn take_key(&mut self, text: &str, plain: bool, at: At) -> bool {
        let Some(Open {
            body: Body::Map { seen, key, .. },
            ..
        }) = self.open.last_mut()
        else {
            return false;
        };
        if key.is_some() {
            return false;
        }
        let merge = plain && text == "<<";
        if !merge && !seen.insert(text.to_owned()) {
            self.faults.push(Fault {
                at,
                message: format!("`{text}` is given twice"),
            });
        }
        *key = Some((text.to_owned(), at));
        true
    }

    fn enter(&mut self, at: At, anchor: usize, body: Body) -> Result<(), Fault> {
        if self.wants_key() {
            return Err(Fault {
                at,
                message: "a key must be a plain word".into(),
            });
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(Fault {
                at,
                message: format!("nested deeper than {DEPTH_MAX} levels"),
            });
        }
        self.open.push(Open { at, anchor, body });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Fault> {
        let Some(Open { at, anchor, body }) = self.open.pop() else {
            return Ok(());
        };
        let value = match body {
            Body::List(items) => Value::List(items),
            Body::Map {
                mut entries,
                merges,
                mut seen,
                ..
            } => {
                for merge in merges {
                    merge_into(&mut entries, &mut seen, merge)?;
                }
                Value::Map(entries)
            }
        };
        self.place(Node { at, value }, anchor)
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        self.nodes += 1;
        let most = self.bounds.nodes;
        if self.nodes > most {
            return Err(Fault {
                at: node.at,
                message: format!("more than {most} values"),
            });
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None if node.is_null() => {}
            None => self.documents.push(node),
            Some(Open {
                body: Body::List(items),
                ..
            }) => items.push(node),
            Some(Open {
                body: Body::Map {
                    entries, key, merges, ..
                },
                ..
            }) => match key.take() {
                Some((key, _)) if key == "<<" => merges.push(node),
                Some((key, at)) => entries.push(Entry { key, at, node }),
                None => {
                    return Err(Fault {
                        at: node.at,
                        message: "a key must be a plain word".into(),
                    });
                }
            },
        }
        Ok(())
    }
}

/// Adds what `merge` (a mapping or a list of mappings) has and `entries` has not.
fn merge_into(entries: &mut Vec<Entry>, seen: &mut HashSet<String>, merge: Node) -> Result<(), Fault> {
    match merge.value {
        Value::Map(more) => {
            entries.extend(more.into_iter().filter(|entry| seen.insert(entry.key.clone())));
            Ok(())
        }
        Value::List(maps) if maps.iter().all(|m| matches!(m.value, Value::Map(_))) => {
            maps.into_iter().try_for_each(|map| merge_into(entries, seen, map))
        }
        _ => Err(Fault {
            at: merge.at,
            message: "`<<` takes a section or a list of sections".into(),
        }),
    }
}

fn place(marker: &Marker) -> At {
    At {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The tree on one line: `key@line:column=value`.
    fn show(node: &Node) -> String {
        match &node.value {
            Value::Scalar { text, .. } => format!("{text}@{}:{}", node.at.line, node.at.column),
            Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|e| format!("{}@{}:{}={}", e.key, e.at.line, e.at.column, show(&e.node)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(" "))
            }
        }
    }

    fn check(text: &str, expect: &str) {
        let (node, faults) = parse(text);
        assert_eq!(faults, [], "{text}");
        assert_eq!(node.as_ref().map_or("-".into(), show), expect, "{text}");
    }

    fn check_fault(text: &str, line: usize, column: usize, word: &str) {
        let (_, faults) = parse(text);
        let fault = faults.first().unwrap_or_else(|| panic!("no fault in {text:?}"));
        assert_eq!(
            (fault.at.line, fault.at.column),
            (line, column),
            "{text}: {}",
            fault.message
        );
        assert!(fault.message.contains(word), "{text}: {}", fault.message);
    }

    #[test]
    fn places() {
        check("", "-");
        check("# nothing\n", "-");
        check("a: 1\nb:\n  c: 'x y'\n", "{a@1:1=1@1:4 b@2:1={c@3:3=x y@3:6}}");
        check("\u{feff}a: [1, two]", "{a@1:1=[1@1:5 two@1:8]}");
        check("a:\nb: ~\n", "{a@1:1=@1:2 b@2:1=~@2:4}");
        check("{a: 1, b: 2}", "{a@1:2=1@1:5 b@1:8=2@1:11}");
    }

    #[test]
    fn places_of_scalars() {
        let check = |text: &str, expect: &str| {
            let shown = scalars(text)
                .iter()
                .map(|(a, b)| format!("{}:{}-{}:{}", a.line, a.column, b.line, b.column))
                .collect::<Vec<_>>();
            assert_eq!(shown.join(" "), expect, "{text}");
        };
        check("a: b # c\n", "1:1-1:2 1:4-1:5");
        check("a: 'b # c' # d\n", "1:1-1:2 1:4-1:11");
        check("a: \"b\n  # c\" # d\n", "1:1-1:2 1:4-2:7");
        check("a: | # x\n  b # c\n  d\ne: f\n", "1:1-1:2 2:1-4:1 4:1-4:2 4:4-4:5");
        check("a: 'b'' # c'   # d\n", "1:1-1:2 1:4-1:13");
        check(r#"a: "b\" # c" # d"#, "1:1-1:2 1:4-1:13");
        check("a: &x 'b' # d\nc: *x\n", "1:1-1:2 1:4-1:10 2:1-2:2");
        check("a: |\n  b # c\n", "1:1-1:2 2:1-3:1");
        check("a: b\n  c # d\n", "1:1-1:2 1:4-2:4");
    }

    #[test]
    fn several_documents() {
        let bounds = Bounds {
            text_bytes: 100,
            nodes: 10,
            documents: 3,
        };
        let check = |text: &str, expect: &str| {
            let (documents, faults) = parse_all(text, bounds);
            let shown = match faults.first() {
                Some(fault) => format!("{}: {}", fault.at.line, fault.message),
                None => documents.iter().map(show).collect::<Vec<_>>().join(" "),
            };
            assert_eq!(shown, expect, "{text}");
        };
        check("a: 1\n---\nb: 2\n", "{a@1:1=1@1:4} {b@3:1=2@3:4}");
        check("---\n---\n# nothing\n---\nb: 2\n", "{b@5:1=2@5:4}");
        check("---\n---\n---\n---\n", "4: more than 3 documents");
        check(
            "a: &x 1\n---\nb: *x\n",
            "3: an alias to something that is not complete here",
        );
        check("[1, 2, 3, 4, 5, 6, 7, 8, 9]\n---\n1", "3: more than 10 values");
    }

    #[test]
    fn aliases_and_merges() {
        check(
            "a: &x {p: 1, q: 2}\nb: *x\n",
            "{a@1:1={p@1:8=1@1:11 q@1:14=2@1:17} b@2:1={p@1:8=1@1:11 q@1:14=2@1:17}}",
        );
        check(
            "a: &x {p: 1, q: 2}\nb:\n  q: 3\n  <<: *x\n",
            "{a@1:1={p@1:8=1@1:11 q@1:14=2@1:17} b@2:1={q@3:3=3@3:6 p@1:8=1@1:11}}",
        );
        check(
            "a: &x {p: 1}\nb: &y {p: 2, q: 2}\nc: {<<: [*x, *y]}",
            "{a@1:1={p@1:8=1@1:11} b@2:1={p@2:8=2@2:11 q@2:14=2@2:17} c@3:1={p@1:8=1@1:11 q@2:14=2@2:17}}",
        );
    }

    #[test]
    fn faults() {
        check_fault("a: 1\nb: 2\na: 3\n", 3, 1, "`a` is given twice");
        check_fault("a: !!str 1\n", 1, 4, "tags");
        check_fault("a: 1\n---\nb: 2\n", 2, 1, "second document");
        check_fault("[a]: 1\n", 1, 1, "key must be a plain word");
        check_fault("a: {<<: 1}\n", 1, 9, "`<<` takes");
        check_fault("a: *x\n", 1, 4, "not YAML");
        check_fault("a: &x [*x]\n", 1, 8, "alias");
        check_fault("a: [1,\n", 2, 1, "not YAML");
        check_fault(&"[".repeat(100), 1, 33, "nested deeper");
        check_fault(&"x".repeat(TEXT_BYTES_MAX + 1), 1, 1, "larger than");
    }

    #[test]
    fn billion_laughs_is_a_fault() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let prior = i - 1;
            text.push_str(&format!(
                "a{i}: &a{i} [{}]\n",
                vec![format!("*a{prior}"); 10].join(", ")
            ));
        }
        let (_, faults) = parse(&text);
        assert!(faults[0].message.contains("more than 10000 values"), "{faults:?}");
    }

    #[test]
    fn no_text_panics() {
        use proptest::prelude::*;
        proptest!(|(text in "[-:\\[\\]{}&*<'\"#|>!%@ a-c\n\t0-9]{0,60}")| {
            let _ = parse(&text);
        });
    }
}
