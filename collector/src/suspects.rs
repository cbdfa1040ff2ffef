//! Records at which the road panicked. What was accepted is walked again after a restart, so one that brings the road down would do so for ever.
//!
//! Guarantees: the third walk of such a record takes it for damaged: its items are counted as lost, and the road goes on. Assumes that a panic is of the
//! record begun last; one that is not costs that record, after two restarts. Leaves out what ends the process without unwinding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tailwater_model::ids::{LogId, Lsn};
use tracing::{error, warn};

use crate::checkpoint;

/// Panics after which a record is walked no more.
const PANICS_MAX: u32 = 2;

/// What is known of them; by default nothing, and nothing is written down. Dropped by a panicking thread, it writes down the record begun last.
#[derive(Debug, Default)]
pub struct Suspects {
    path: Option<PathBuf>,
    log_id: Option<LogId>,
    panics: BTreeMap<Lsn, u32>,
    begun: Lsn,
}

impl Suspects {
    /// Those of earlier processes from `from` on, for the log with this id. A file that cannot be read has none.
    pub fn open(folder: &Path, log_id: LogId, from: Lsn) -> Suspects {
        let path = folder.join("suspects");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut lines = text.lines();
        let panics = match lines.next() {
            Some(id) if id == log_id.to_string() => lines.filter_map(parse).filter(|(lsn, _)| *lsn >= from).collect(),
            _ => BTreeMap::new(),
        };
        if panics.is_empty() && !text.is_empty() {
            let _ = std::fs::remove_file(&path);
        }
        Suspects {
            path: Some(path),
            log_id: Some(log_id),
            panics,
            begun: Lsn(0),
        }
    }

    /// The walk of a record begins. Answers whether it had better not.
    pub fn begin(&mut self, lsn: Lsn) -> bool {
        self.begun = lsn;
        let is_bad = self.panics.get(&lsn).is_some_and(|panics| *panics >= PANICS_MAX);
        if is_bad {
            error!(
                lsn = lsn.0,
                "the process ended {PANICS_MAX} times at this accepted request: it is lost, and the others go on"
            );
        }
        is_bad
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut panics = self.panics.clone();
        *panics.entry(self.begun).or_default() += 1;
        let lines = panics.iter().map(|(lsn, count)| format!("{} {count}\n", lsn.0));
        let id = self.log_id.map(|id| id.to_string()).unwrap_or_default();
        let text = format!("{id}\n{}", lines.collect::<String>());
        checkpoint::replace(path, text.as_bytes())
    }
}

impl Drop for Suspects {
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        if std::thread::panicking()
            && self.begun.0 > 0
            && let Err(error) = self.write(path)
        {
            warn!(%error, lsn = self.begun.0, "cannot write down the record that the road panicked at");
        }
    }
}

fn parse(line: &str) -> Option<(Lsn, u32)> {
    let (lsn, panics) = line.split_once(' ')?;
    Some((Lsn(lsn.parse().ok()?), panics.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_third_walk_of_a_record_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let id = LogId([7; 16]);
        let walk = |from: u64, last: u64| {
            let mut suspects = Suspects::open(folder.path(), id, Lsn(from));
            let walked = std::thread::spawn(move || {
                for lsn in from..=last {
                    // Record 5 brings the road down.
                    assert!(suspects.begin(Lsn(lsn)) || lsn != 5, "as it would");
                }
            });
            walked.join().is_ok()
        };
        assert!(!walk(3, 8));
        assert!(!walk(2, 8));
        assert!(walk(2, 8), "passed over");
        assert!(walk(2, 8), "and again, while it is in what is walked");
        assert!(walk(6, 8));
        assert!(!folder.path().join("suspects").exists(), "it is behind");
        assert!(!walk(3, 8));
        assert!(!walk(3, 8));
        let mut other = Suspects::open(folder.path(), LogId([8; 16]), Lsn(1));
        assert!(!other.begin(Lsn(5)), "of another log");
    }
}
