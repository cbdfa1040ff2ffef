//! Reading a mapping key by key, so that every mistake in it is found in one pass.

use std::path::PathBuf;
use std::sync::Arc;

use tailwater_config::yaml::{At, Entry, Node, Value};
use tailwater_config::{Problem, nearest};

use super::{Said, problem};
use crate::document::Free;
use crate::place::Places;

/// Collects problems and places of one document.
pub(crate) struct Reader<'f> {
    file: &'f Arc<PathBuf>,
    said: Option<&'f Said>,
    places: Places,
    problems: Vec<Problem>,
}

/// A mapping that is being read.
pub(crate) struct Fields<'n> {
    pub path: String,
    at: At,
    entries: &'n [Entry],
}

/// A value and its path.
pub(crate) struct Field<'n> {
    pub path: String,
    pub node: &'n Node,
    at: At,
}

/// `path.key`, or `key` at the top.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

impl<'f> Reader<'f> {
    pub fn new(file: &'f Arc<PathBuf>, said: Option<&'f Said>) -> Self {
        Self {
            file,
            said,
            places: Places::new(Arc::clone(file)),
            problems: Vec::new(),
        }
    }

    pub fn finish(self) -> (Places, Vec<Problem>) {
        (self.places, self.problems)
    }

    /// Notes a problem.
    pub fn wrong(&mut self, at: At, path: &str, message: impl Into<String>, near: Option<String>) {
        // In a converted document a path is what the file calls it.
        let path = self.said.and_then(|said| said.get(&at)).map_or(path, String::as_str);
        let problem = problem(self.file, at, path, message.into(), near);
        self.problems.push(problem);
    }

    /// Notes a problem with the value of a field.
    pub fn wrong_field(&mut self, field: &Field<'_>, message: impl Into<String>) {
        self.wrong(field.node.at, &field.path, message, None);
    }

    /// Notes a problem at a path that was read before.
    pub fn wrong_path(&mut self, path: &str, message: impl Into<String>, near: Option<String>) {
        let mut problem = problem(
            self.file,
            At { line: 1, column: 1 },
            &self.places.said(path),
            message.into(),
            near,
        );
        problem.origin = self.places.find(path);
        self.problems.push(problem);
    }

    fn place(&mut self, path: &str, at: At) {
        let said = self.said.and_then(|said| said.get(&at)).cloned();
        self.places.set(path, at, said);
    }

    /// Opens a mapping. Keys that are not `known` are problems.
    pub fn fields<'n>(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Option<Fields<'n>> {
        let fields = self.open(node, path)?;
        for entry in fields.entries {
            if known.contains(&entry.key.as_str()) {
                continue;
            }
            let near = nearest(&entry.key, known.iter().copied()).map(str::to_owned);
            let message = match &near {
                Some(_) => "unknown key".to_owned(),
                None => format!("unknown key; expected {}", known.join(", ")),
            };
            self.wrong(entry.at, &join(path, &entry.key), message, near);
        }
        Some(fields)
    }

    /// Opens a mapping whose keys are free.
    pub fn open<'n>(&mut self, node: &'n Node, path: &str) -> Option<Fields<'n>> {
        self.place(path, node.at);
        let Value::Map(entries) = &node.value else {
            let what = match &node.value {
                Value::List(_) => "a list",
                _ if node.is_null() => "nothing",
                _ => "a single value",
            };
            self.wrong(
                node.at,
                path,
                format!("expected a section with keys, found {what}"),
                None,
            );
            return None;
        };
        for entry in entries {
            self.place(&join(path, &entry.key), entry.at);
        }
        Some(Fields {
            path: path.to_owned(),
            at: node.at,
            entries,
        })
    }

    /// The value of a key that must be there.
    pub fn required<'n>(&mut self, fields: &Fields<'n>, key: &str, write: &str) -> Option<Field<'n>> {
        let field = fields.get(key);
        if field.is_none() {
            self.missing(fields, key, write);
        }
        field
    }

    pub fn missing(&mut self, fields: &Fields<'_>, key: &str, write: &str) {
        let path = join(&fields.path, key);
        // A missing key stands nowhere; the section that misses it does. Its path must not be replaced by that of the section.
        let at = fields.entries.iter().find(|e| e.key == key).map_or(fields.at, |e| e.at);
        let problem = problem(self.file, at, &path, format!("missing: write {write}"), None);
        self.problems.push(problem);
    }

    /// A scalar as text.
    pub fn text(&mut self, field: &Field<'_>) -> Option<String> {
        self.place(&field.path, field.at);
        match &field.node.value {
            Value::Scalar { text, .. } => Some(text.clone()),
            _ => {
                self.wrong_field(field, "expected one value, not a section or a list");
                None
            }
        }
    }

    /// A scalar that `parse` understands; its message is the problem.
    pub fn parsed<T>(&mut self, field: &Field<'_>, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(field)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.wrong_field(field, message);
                None
            }
        }
    }

    /// One of some words.
    pub fn word<T: Copy>(&mut self, field: &Field<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(field)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let fold = text.to_lowercase();
            let near = words
                .iter()
                .map(|(word, _)| *word)
                .find(|word| word.to_lowercase() == fold)
                .or_else(|| nearest(&text, all.iter().copied()))
                .map(str::to_owned);
            let message = format!("`{text}`: expected {}", all.join(", "));
            self.wrong(field.node.at, &field.path, message, near);
        }
        found
    }

    /// `true` or `false`.
    pub fn bool(&mut self, field: &Field<'_>) -> Option<bool> {
        self.word(field, &[("true", true), ("false", false)])
    }

    /// The items of a list.
    pub fn items<'n>(&mut self, field: &Field<'n>) -> Vec<Field<'n>> {
        self.place(&field.path, field.at);
        let Value::List(items) = &field.node.value else {
            self.wrong_field(field, "expected a list: begin each item with `- `");
            return Vec::new();
        };
        let items: Vec<_> = items
            .iter()
            .enumerate()
            .map(|(i, node)| Field {
                path: format!("{}[{i}]", field.path),
                node,
                at: node.at,
            })
            .collect();
        for item in &items {
            self.place(&item.path, item.at);
        }
        items
    }

    /// What the specification leaves free.
    pub fn free(&mut self, node: &Node, path: &str) -> Free {
        match &node.value {
            Value::Scalar { text, plain } => Free::Scalar {
                text: text.clone(),
                plain: *plain && !crate::write::is_text(text),
            },
            Value::List(items) => {
                let read = |(i, item): (usize, &Node)| {
                    let path = format!("{path}[{i}]");
                    self.place(&path, item.at);
                    self.free(item, &path)
                };
                Free::List(items.iter().enumerate().map(read).collect())
            }
            Value::Map(entries) => {
                let read = |entry: &Entry| {
                    let path = join(path, &entry.key);
                    self.place(&path, entry.at);
                    (entry.key.clone(), self.free(&entry.node, &path))
                };
                Free::Map(entries.iter().map(read).collect())
            }
        }
    }
}

impl<'n> Fields<'n> {
    /// The value of `key`, unless it is missing or null.
    pub fn get(&self, key: &str) -> Option<Field<'n>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (!entry.node.is_null()).then(|| Field {
            path: join(&self.path, key),
            node: &entry.node,
            at: entry.at,
        })
    }

    /// All of them, also nulls.
    pub fn all(&self) -> impl Iterator<Item = (&'n str, Field<'n>)> + use<'_, 'n> {
        self.entries.iter().map(|entry| {
            let field = Field {
                path: join(&self.path, &entry.key),
                node: &entry.node,
                at: entry.at,
            };
            (entry.key.as_str(), field)
        })
    }

    pub fn at(&self) -> At {
        self.at
    }
}

impl Field<'_> {
    /// Where the key (or the item) stands.
    pub fn key_at(&self) -> At {
        self.at
    }

    /// It is a mapping in which `key` says something.
    pub fn has(&self, key: &str) -> bool {
        matches!(&self.node.value, Value::Map(entries) if entries.iter().any(|e| e.key == key && !e.node.is_null()))
    }
}
