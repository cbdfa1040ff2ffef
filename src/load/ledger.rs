//! The sender's own account, for crash tests: what was sent, and how it ended, in a file that outlives everybody.
//!
//! One JSON object a line. The first names the seed, so that the ids of every request can be computed again ([`super::ids`]);
//! then a line `sent` before the first byte of a request leaves, and one line with its end. A thread writes and syncs what has
//! gathered, so a line is on disk within one fdatasync of being handed in; senders do not wait for it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context;
use serde::Serialize;

/// A line of the file.
#[derive(Debug, Clone, Serialize)]
pub struct Entry<'a> {
    /// Number of the request in the run.
    pub n: u64,
    /// Signal name.
    pub signal: &'a str,
    /// Id of the first item (metrics: the time of the points in ns).
    pub first_id: &'a str,
    /// Items in the request.
    pub items: u64,
    /// `sent`, `acked`, `partial`, `final`, `refused` or `unknown`.
    pub outcome: &'a str,
    /// Items rejected, for `partial`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<u64>,
    /// The server's words, or the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

/// Lines waiting for the writer; beyond this, senders wait.
const LINES_MAX: usize = 65_536;

/// The open file.
#[derive(Debug)]
pub struct Ledger {
    lines: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<std::io::Result<()>>>,
}

impl Ledger {
    /// Opens (appends to) a ledger file.
    ///
    /// # Errors
    /// When the file cannot be opened or its first line not be written.
    pub fn open(path: &Path, seed: u64) -> anyhow::Result<Ledger> {
        let named = || format!("ledger {}", path.display());
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .with_context(named)?;
        writeln!(file, r#"{{"ledger":1,"seed":{seed}}}"#)
            .and_then(|()| file.sync_all())
            .with_context(named)?;
        let (lines, queue) = sync_channel(LINES_MAX);
        let writer = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || write(file, &queue))?;
        Ok(Ledger {
            lines: Some(lines),
            writer: Some(writer),
        })
    }

    /// Hands a line in.
    ///
    /// # Errors
    /// When the writer has stopped because of an I/O error.
    pub fn add(&self, entry: &Entry<'_>) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let lines = self.lines.as_ref().context("the ledger is closed")?;
        lines.send(line).context("the ledger's writer has stopped")
    }

    /// Waits until every line is on disk.
    ///
    /// # Errors
    /// The I/O error that stopped the writer, if any.
    pub fn close(mut self) -> anyhow::Result<()> {
        drop(self.lines.take());
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.context("write the ledger"),
            Some(Err(_)) => anyhow::bail!("the ledger's writer panicked"),
            None => Ok(()),
        }
    }
}

fn write(mut file: File, queue: &Receiver<Vec<u8>>) -> std::io::Result<()> {
    while let Ok(mut lines) = queue.recv() {
        queue.try_iter().for_each(|line| lines.extend(line));
        file.write_all(&lines)?;
        file.sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_appear_in_order_behind_the_seed_and_runs_append() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        for run in 0..2 {
            let ledger = Ledger::open(&path, run).unwrap();
            for n in 0..3 {
                let entry = Entry {
                    n,
                    signal: "logs",
                    first_id: "ab",
                    items: 4,
                    outcome: "sent",
                    rejected: None,
                    reason: None,
                };
                ledger.add(&entry).unwrap();
            }
            ledger.close().unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 8);
        assert_eq!((&lines[0]["seed"], &lines[4]["seed"]), (&0.into(), &1.into()));
        assert_eq!(lines[3]["n"], 2);
        assert_eq!(lines[3]["outcome"], "sent");
    }
}
