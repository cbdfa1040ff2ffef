//! A data file written without disturbing the log syncs beside it, and without filling the page cache.
//!
//! Measured for `design/protocol.md` (I/O, priced): an ack waits up to 16 ms behind a 64 MiB Parquet fsync, and 2 ms when
//! write-back is started every 1 MiB. Readers open the file through their own cache policy, so its pages are given back.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{SyncEvent, Syncs, local, sys};

/// Bytes written between two starts of write-back.
const PACE_BYTES: u64 = 1 << 20;

/// A new file, written front to back. Dropped unfinished, it is removed; a crash leaves it to the sweep.
#[derive(Debug)]
pub struct PacedFile {
    file: File,
    path: PathBuf,
    written: u64,
    started: u64,
    finished: bool,
    syncs: Syncs,
}

impl PacedFile {
    /// Creates `path`, which must not exist, and its directories.
    ///
    /// # Errors
    /// Whatever the file system says; `AlreadyExists` for a name in use.
    pub fn create(path: &Path, syncs: &Syncs) -> io::Result<PacedFile> {
        if let Some(parent) = path.parent() {
            local::create_dir(parent, syncs)?;
        }
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(PacedFile {
            file,
            path: path.to_path_buf(),
            written: 0,
            started: 0,
            finished: false,
            syncs: syncs.clone(),
        })
    }

    /// Syncs the bytes and the name, gives the pages back, and returns the length in bytes.
    ///
    /// # Errors
    /// A failed sync: the file must be taken as lost, because the kernel may have dropped its dirty pages.
    pub fn finish(mut self) -> io::Result<u64> {
        self.file.sync_all()?;
        self.syncs.tell(|| SyncEvent::File(self.path.clone()));
        if let Some(parent) = self.path.parent() {
            File::open(parent)?.sync_all()?;
            self.syncs.tell(|| SyncEvent::Directory(parent.to_path_buf()));
        }
        self.finished = true;
        // Advice only: a file system that refuses it costs memory, not data.
        if rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed).is_ok() {
            self.syncs.tell(|| SyncEvent::Forget(self.path.clone()));
        }
        Ok(self.written)
    }
}

impl Drop for PacedFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing names it; on a full disk its room is wanted.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Write for PacedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        let unstarted = self.written - self.started;
        if unstarted >= PACE_BYTES {
            // Pacing is a courtesy; `finish` makes the file durable whether or not it worked.
            if sys::start_write_back(&self.file, self.started, unstarted).is_ok() {
                self.syncs.tell(|| SyncEvent::Range(self.path.clone(), unstarted));
            }
            self.started = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
