//! Files and folders of documents: the one place of this crate that reads.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use tailwater_config::{Origin, Problem};

use crate::document::Document;
use crate::lint::{Lint, lint};
use crate::read::{BOUNDS, Reinterpreted, read};
use crate::resolve::resolve_beside;
use crate::resolved::ResolvedSlo;

/// Most files of one call.
pub const FILES_MAX: usize = 10_000;

/// Everything about a set of files. Trustworthy only when `problems` is empty.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    /// Folders in a folder, which are not looked into.
    pub skipped: Vec<PathBuf>,
    /// All documents.
    pub documents: Vec<Document>,
    /// All SLOs that stand alone.
    pub slos: Vec<ResolvedSlo>,
    /// What documents of other versions said and what was made of it.
    pub reinterpreted: Vec<Reinterpreted>,
    /// Traps.
    pub lints: Vec<Lint>,
    /// Everything wrong, file by file, then what is wrong between them.
    pub problems: Vec<Problem>,
}

/// Reads files and folders, and checks them together: references may lead from one file to another. Of a folder all `*.yaml` and `*.yml`
/// files are read, in the order of their names, without folders in it.
#[must_use]
pub fn check<P: AsRef<Path>>(paths: &[P]) -> Checked {
    let mut checked = Checked::default();
    for path in paths {
        match list(path.as_ref()) {
            Ok((files, skipped)) => {
                checked.files.extend(files);
                checked.skipped.extend(skipped);
            }
            Err(problem) => checked.problems.push(*problem),
        }
    }
    if checked.files.len() > FILES_MAX {
        let message = format!("more than {FILES_MAX} files");
        checked.problems.push(about(&checked.files[FILES_MAX], message));
        checked.files.truncate(FILES_MAX);
    }
    let mut broken = Vec::new();
    for file in &checked.files {
        match text(file) {
            Ok(text) => {
                let mut reading = read(file, &text);
                checked.documents.append(&mut reading.documents);
                checked.reinterpreted.append(&mut reading.reinterpreted);
                checked.problems.append(&mut reading.problems);
                broken.append(&mut reading.broken);
            }
            Err(problem) => checked.problems.push(*problem),
        }
    }
    let mut resolved = resolve_beside(&checked.documents, &broken);
    checked.problems.append(&mut resolved.problems);
    checked.slos = resolved.slos;
    checked.lints = lint(&checked.documents);
    checked
}

/// The files that a path means, and the folders in it that it does not. Hidden folders are somebody else's, as Kubernetes' own in a mounted ConfigMap.
fn list(path: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Box<Problem>> {
    let wrong = |error: std::io::Error| Box::new(about(path, format!("cannot be read: {error}")));
    if !std::fs::metadata(path).map_err(wrong)?.is_dir() {
        return Ok((vec![path.to_path_buf()], Vec::new()));
    }
    let (mut files, mut skipped) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        let yaml = file.extension().is_some_and(|e| e == "yaml" || e == "yml");
        let is_hidden = file
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if yaml && file.is_file() {
            files.push(file);
        } else if !is_hidden && file.is_dir() {
            skipped.push(file);
        }
    }
    files.sort();
    skipped.sort();
    Ok((files, skipped))
}

/// The text of a file.
///
/// # Errors
/// It cannot be read, is too large, or is not UTF-8.
pub fn text(path: &Path) -> Result<String, Box<Problem>> {
    let wrong = |message: String| Box::new(about(path, message));
    let file = std::fs::File::open(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut bytes = Vec::new();
    file.take(BOUNDS.text_bytes as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if bytes.len() > BOUNDS.text_bytes {
        return Err(wrong(format!("larger than {} bytes", BOUNDS.text_bytes)));
    }
    String::from_utf8(bytes).map_err(|_| wrong("not UTF-8".to_owned()))
}

fn about(path: &Path, message: String) -> Problem {
    Problem {
        origin: Origin::File {
            path: std::sync::Arc::new(path.to_path_buf()),
            line: 1,
            column: 1,
        },
        key: String::new(),
        message,
        nearest: None,
    }
}
