//! Files that cannot be read: left out of a table's upkeep for a while, so that one of them does not end it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tailwater_model::table::Table;
use tracing::warn;

use super::HOUR_MS;
use crate::lake::FileEntry;
use crate::{Error, Result};

/// They are tried again after this.
const SPELL_MS: i64 = HOUR_MS;
/// When so many cannot be read, it is not they that are broken. More than any merge takes.
const FILES_MAX: usize = 1024;

/// The files, since when, and why.
#[derive(Debug, Default)]
pub(super) struct Aside(BTreeMap<Arc<str>, (i64, String)>);

impl Aside {
    /// Takes out those that are to be tried again.
    pub fn take_due(&mut self, now_ms: i64) -> Vec<Arc<str>> {
        let is_due = |since: &i64| !(0..SPELL_MS).contains(&(now_ms - *since));
        let due = self.0.extract_if(.., |_, (since, _)| is_due(since));
        due.map(|(file, _)| file).collect()
    }

    /// Whether the file is to be left alone.
    pub fn has(&self, file: &FileEntry) -> bool {
        self.0.contains_key(&file.path)
    }

    /// The files that are not to be left alone.
    pub fn others(&self, files: &[Arc<FileEntry>]) -> Vec<Arc<FileEntry>> {
        files.iter().filter(|file| !self.has(file)).cloned().collect()
    }

    /// Leaves the files of an error alone from now on.
    ///
    /// # Errors
    /// The error itself, if it is of no file, or there is no place for them.
    pub fn put(&mut self, table: Table, error: Error, now_ms: i64) -> Result<()> {
        let files = error.files().to_vec();
        if files.is_empty() || self.0.len() + files.len() > FILES_MAX {
            return Err(error);
        }
        warn!(table = table.name(), %error, "files are left alone for an hour; the rest of the table is kept");
        let reason = error.to_string();
        self.0
            .extend(files.into_iter().map(|file| (file, (now_ms, reason.clone()))));
        Ok(())
    }

    /// The files and why.
    pub fn told(&self) -> Vec<(Arc<str>, String)> {
        let files = self.0.iter();
        files
            .map(|(file, (_, reason))| (file.clone(), reason.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ErrorKind;

    fn broken(files: &[&str]) -> Error {
        let files: Vec<Arc<str>> = files.iter().map(|file| Arc::from(*file)).collect();
        Error::new(ErrorKind::Damaged, "as asked").of_files(&files)
    }

    fn names(aside: &Aside) -> Vec<String> {
        aside.told().into_iter().map(|(file, _)| file.to_string()).collect()
    }

    #[test]
    fn files_are_tried_again_after_an_hour_or_when_the_clock_was_set_back() {
        let check = |after_ms: i64, expected: &[&str]| {
            let mut aside = Aside::default();
            aside.put(Table::Logs, broken(&["a"]), 0).unwrap();
            aside.put(Table::Logs, broken(&["b"]), 1000).unwrap();
            let due = aside.take_due(after_ms);
            assert_eq!(names(&aside), expected, "after {after_ms} ms");
            assert_eq!(due.len() + expected.len(), 2);
        };
        check(1000, &["a", "b"]);
        check(SPELL_MS - 1, &["a", "b"]);
        check(SPELL_MS, &["b"]);
        check(SPELL_MS + 1000, &[]);
        check(500, &["a"]);
    }

    #[test]
    fn what_is_of_no_file_or_of_too_many_is_told() {
        let mut aside = Aside::default();
        let error = Error::new(ErrorKind::Store, "no space left");
        assert!(aside.put(Table::Logs, error, 0).is_err());
        for file in 0..FILES_MAX {
            aside.put(Table::Logs, broken(&[&file.to_string()]), 0).unwrap();
        }
        assert!(aside.put(Table::Logs, broken(&["one more"]), 0).is_err());
    }
}
