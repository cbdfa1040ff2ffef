//! From text to documents: every version of OpenSLO, every mistake in one pass.
//!
//! ```text
//!  text --> nodes with places --> v1 -------------------------------> v1::read --> Document
//!                             --> v1alpha, v2alpha --> nodes of v1 ----^
//!                                                  `-> what was reinterpreted
//! ```
//!
//! Guarantees: a converted document is checked by the same rules as any other, and its problems still name the line and the path of
//! the file as it was written. A document with a problem is not among the documents.

mod fields;
mod v1;
mod v1alpha;
mod v2alpha;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tailwater_config::yaml::{At, Bounds, Node, Value, parse_all};
use tailwater_config::{Origin, Problem, nearest};

pub(crate) use fields::{Field, Fields, Reader, join};
pub(crate) use v1::slug;
pub(crate) use v1alpha::{Convert, list, map, quoted, text_of, word};

use crate::document::Document;

/// How much of a file is read.
pub const BOUNDS: Bounds = Bounds {
    text_bytes: 8 << 20,
    nodes: 500_000,
    documents: 20_000,
};

/// What the versions are called in `apiVersion`.
pub const V1: &str = "openslo/v1";
const V1ALPHA: &str = "openslo/v1alpha";
const V2ALPHA: &str = "openslo.com/v2alpha";

/// The kinds of v1.
pub(crate) const KINDS: [&str; 7] = [
    "DataSource",
    "Service",
    "SLO",
    "SLI",
    "AlertPolicy",
    "AlertCondition",
    "AlertNotificationTarget",
];

/// What a file says.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Those without problems, in the order of the file.
    pub documents: Vec<Document>,
    /// What documents of other versions said and what was made of it.
    pub reinterpreted: Vec<Reinterpreted>,
    /// Everything wrong, in the order of the file.
    pub problems: Vec<Problem>,
    /// Kind and name of the documents that are left out because of their problems, as far as they have one.
    pub broken: Vec<(String, String)>,
}

/// Something that v1 says otherwise, or cannot say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reinterpreted {
    /// Where it stands.
    pub origin: Origin,
    /// Path as written.
    pub path: String,
    /// What is written.
    pub said: String,
    /// What it was taken to mean.
    pub meant: String,
}

impl std::fmt::Display for Reinterpreted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            origin,
            path,
            said,
            meant,
        } = self;
        write!(f, "{origin}: {path}: `{said}` is read as {meant}")
    }
}

/// Reads all documents of a text. `file` is how places name it.
///
/// One file may hold several documents, separated by `---` or as the items of one list.
#[must_use]
pub fn read(file: &Path, text: &str) -> Reading {
    let file = Arc::new(file.to_path_buf());
    let (roots, faults) = parse_all(text, BOUNDS);
    let mut reading = Reading::default();
    for fault in faults {
        reading.problems.push(problem(&file, fault.at, "", fault.message, None));
    }
    for root in &roots {
        match &root.value {
            Value::List(items) => items.iter().for_each(|item| read_node(&file, item, &mut reading)),
            _ => read_node(&file, root, &mut reading),
        }
    }
    reading.in_order()
}

impl Reading {
    /// Everything in the order of the file, each once.
    pub(crate) fn in_order(mut self) -> Self {
        let place = |origin: &Origin| match origin {
            Origin::File { line, column, .. } => (*line, *column),
            _ => (0, 0),
        };
        self.problems.sort_by_key(|problem| place(&problem.origin));
        self.reinterpreted.sort_by_key(|note| place(&note.origin));
        self.reinterpreted.dedup();
        self
    }
}

pub(crate) fn problem(file: &Arc<PathBuf>, at: At, path: &str, message: String, nearest: Option<String>) -> Problem {
    Problem {
        origin: Origin::File {
            path: Arc::clone(file),
            line: at.line,
            column: at.column,
        },
        key: path.to_owned(),
        message,
        nearest,
    }
}

fn read_node(file: &Arc<PathBuf>, node: &Node, reading: &mut Reading) {
    let before = reading.documents.len();
    read_document(file, node, reading);
    if reading.documents.len() == before
        && let Some(kind) = text_at(node, &["kind"])
        && let Some(name) = text_at(node, &["metadata", "name"])
    {
        reading.broken.push((kind.to_owned(), name.to_owned()));
    }
}

/// The text below some keys.
fn text_at<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n str> {
    match (&node.value, keys) {
        (Value::Scalar { text, .. }, []) => Some(text),
        (Value::Map(entries), [key, rest @ ..]) => text_at(&entries.iter().find(|e| e.key == *key)?.node, rest),
        _ => None,
    }
}

fn read_document(file: &Arc<PathBuf>, node: &Node, reading: &mut Reading) {
    let Value::Map(entries) = &node.value else {
        let message = "expected an OpenSLO document, which begins with `apiVersion: openslo/v1`".to_owned();
        reading.problems.push(problem(file, node.at, "", message, None));
        return;
    };
    let entry = |key: &str| entries.iter().find(|entry| entry.key == key);
    let version = match entry("apiVersion").map(|entry| (&entry.node.value, entry.node.at)) {
        Some((Value::Scalar { text, .. }, at)) => Some((text.as_str(), at)),
        Some((_, at)) => Some(("", at)),
        None => None,
    };
    match version {
        Some((V1, _)) => read_v1(file, node, None, reading),
        Some((V1ALPHA, _)) => convert(file, node, v1alpha::convert, reading),
        Some((V2ALPHA, _)) => convert(file, node, v2alpha::convert, reading),
        Some((other, at)) => {
            let near = nearest(other, [V1, V1ALPHA, V2ALPHA]);
            let message = match other {
                "openslo/v2alpha" | "openslo/v2alpha1" => format!("expected `{V2ALPHA}`"),
                _ => format!("expected `{V1}` (`{V1ALPHA}` and `{V2ALPHA}` are read too)"),
            };
            let named = other.is_empty() || message.starts_with(&format!("expected `{V2ALPHA}`"));
            let near = near.filter(|_| !named).map(str::to_owned);
            reading.problems.push(problem(file, at, "apiVersion", message, near));
        }
        None => {
            let sloth = entry("version").is_some_and(
                |entry| matches!(&entry.node.value, Value::Scalar { text, .. } if text == crate::sloth::VERSION),
            );
            let message = if sloth {
                "a Sloth specification: convert it first with `tailwater slo import`".to_owned()
            } else {
                match entries
                    .iter()
                    .find_map(|e| nearest(&e.key, ["apiVersion"]).map(|_| e.key.as_str()))
                {
                    Some(key) => format!("missing; `{key}` is perhaps meant to be it. Write `apiVersion: {V1}`"),
                    None => format!("missing: write `apiVersion: {V1}`"),
                }
            };
            reading
                .problems
                .push(problem(file, node.at, "apiVersion", message, None));
        }
    }
}

/// Path as written, by the place it stands at.
pub(crate) type Said = BTreeMap<At, String>;

pub(crate) fn read_v1(file: &Arc<PathBuf>, node: &Node, said: Option<&Said>, reading: &mut Reading) {
    let mut reader = Reader::new(file, said);
    let document = v1::read(node, &mut reader);
    let (places, problems) = reader.finish();
    if let Some((metadata, object)) = document
        && problems.is_empty()
    {
        reading.documents.push(Document {
            metadata,
            object,
            places: Arc::new(places),
        });
    }
    reading.problems.extend(problems);
}

fn convert(file: &Arc<PathBuf>, node: &Node, how: fn(&Node, &mut Convert<'_>) -> Option<Node>, reading: &mut Reading) {
    let mut convert = Convert::new(file);
    let converted = how(node, &mut convert);
    let stuck = !convert.problems.is_empty();
    reading.problems.append(&mut convert.problems);
    reading.reinterpreted.append(&mut convert.reinterpreted);
    let Some(converted) = converted else {
        return;
    };
    let mut said = Said::new();
    collect_said(node, "", &mut said);
    let before = reading.documents.len();
    let (reported, problems) = (reading.problems.clone(), reading.problems.len());
    read_v1(file, &converted, Some(&said), reading);
    // What the conversion left as it was because it is wrong is wrong in v1 too; once is enough.
    let fresh = reading.problems.split_off(problems);
    let fresh = fresh
        .into_iter()
        .filter(|new| !reported.iter().any(|old| old.origin == new.origin));
    reading.problems.extend(fresh);
    if stuck {
        // What could not be converted may have left a document that happens to be valid, and means something else.
        reading.documents.truncate(before);
    }
}

/// The path of every key and value of a file as it was written.
pub(crate) fn collect_said(node: &Node, path: &str, said: &mut Said) {
    said.entry(node.at).or_insert_with(|| path.to_owned());
    match &node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                collect_said(item, &format!("{path}[{i}]"), said);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let path = join(path, &entry.key);
                // The key of the first entry of a mapping stands where the mapping does; the longer path is the better one.
                said.insert(entry.at, path.clone());
                collect_said(&entry.node, &path, said);
            }
        }
    }
}
