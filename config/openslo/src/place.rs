//! Where things stand: file, line and column of every path of a document.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tailwater_config::Origin;
use tailwater_config::yaml::At;

/// The places of one document, by path (`spec.objectives[0].target`).
#[derive(Clone, Debug, Default)]
pub struct Places {
    file: Arc<PathBuf>,
    at: BTreeMap<String, Seat>,
}

/// A place, and what the path is called in the file itself where the document was converted.
#[derive(Clone, Debug)]
struct Seat {
    at: At,
    said: Option<String>,
}

impl Places {
    pub(crate) fn new(file: Arc<PathBuf>) -> Self {
        Self {
            file,
            at: BTreeMap::new(),
        }
    }

    pub(crate) fn set(&mut self, path: &str, at: At, said: Option<String>) {
        // The key of a section stands before the first thing in it, and is the better place.
        self.at.entry(path.to_owned()).or_insert(Seat { at, said });
    }

    /// The file as it was named.
    #[must_use]
    pub fn file(&self) -> &PathBuf {
        &self.file
    }

    /// Every path and its place.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, At)> {
        self.at.iter().map(|(path, seat)| (path.as_str(), seat.at))
    }

    /// Where the document begins.
    #[must_use]
    pub fn start(&self) -> Origin {
        self.find("")
    }

    /// Where `path` stands; where it was left out, the nearest thing around it.
    #[must_use]
    pub fn find(&self, path: &str) -> Origin {
        let at = self.seat(path).map_or(At { line: 1, column: 1 }, |seat| seat.at);
        Origin::File {
            path: Arc::clone(&self.file),
            line: at.line,
            column: at.column,
        }
    }

    /// What `path` is called in the file: itself, or the older or newer name of a converted document.
    #[must_use]
    pub fn said(&self, path: &str) -> String {
        match self.at.get(path) {
            Some(Seat { said: Some(said), .. }) => said.clone(),
            _ => path.to_owned(),
        }
    }

    fn seat(&self, path: &str) -> Option<&Seat> {
        let mut path = path;
        loop {
            if let Some(seat) = self.at.get(path) {
                return Some(seat);
            }
            if path.is_empty() {
                return None;
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }
}
