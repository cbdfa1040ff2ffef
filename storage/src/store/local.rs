//! The blocking half of [`super::SyncedStore`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::PutPayload;

use super::{SyncEvent, Syncs, sys};

/// These ranges of a file, if all of them can be had without waiting for the disk.
pub(super) fn read_cached(path: &Path, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let read = |range: &Range<u64>| {
        if range.end > end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(|_| io::ErrorKind::InvalidInput)?;
        sys::read_cached(&file, range.start, len).map(Bytes::from)
    };
    ranges.iter().map(read).collect()
}

/// Writes a file in one piece: staged, synced, then linked (`create`) or renamed into place, then its directory synced.
pub(super) fn put(path: &Path, payload: &PutPayload, create: bool, syncs: &Syncs) -> object_store::Result<()> {
    create_parent(path, syncs)?;
    let (mut file, staged) = open_staged(path).map_err(|source| io_error(path, source))?;
    let outcome = (|| -> io::Result<()> {
        for chunk in payload {
            file.write_all(chunk)?;
        }
        file.sync_all()?;
        syncs.tell(|| SyncEvent::File(path.to_path_buf()));
        if create {
            fs::hard_link(&staged, path)?;
        } else {
            fs::rename(&staged, path)?;
        }
        Ok(())
    })();
    if create || outcome.is_err() {
        // A leftover staging file is hidden from listings and swept with the orphans: nothing depends on this succeeding.
        let _ = fs::remove_file(&staged);
    }
    outcome.map_err(|source| io_error(path, source))?;
    sync_parent(path, syncs)
}

/// Opens a new file beside `path`. The `#<digits>` ending is the one `object_store` leaves out of listings.
fn open_staged(path: &Path) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let mut name = path.as_os_str().to_os_string();
        name.push(format!(
            "#{}{:06}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let staged = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((file, staged)),
            // Left by an earlier process with our id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn create_parent(path: &Path, syncs: &Syncs) -> object_store::Result<()> {
    match path.parent() {
        Some(parent) => create_dir(parent, syncs).map_err(|source| io_error(path, source)),
        None => Ok(()),
    }
}

pub(super) fn create_dir(directory: &Path, syncs: &Syncs) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent, syncs)?;
    }
    match fs::create_dir(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
        Err(error) => return Err(error),
    }
    syncs.directory(parent.unwrap_or(Path::new(".")))
}

pub(super) fn sync_file(path: &Path, syncs: &Syncs) -> object_store::Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| io_error(path, source))?;
    syncs.tell(|| SyncEvent::File(path.to_path_buf()));
    Ok(())
}

pub(super) fn sync_directory(directory: &Path, syncs: &Syncs) -> object_store::Result<()> {
    syncs.directory(directory).map_err(|source| io_error(directory, source))
}

fn sync_parent(path: &Path, syncs: &Syncs) -> object_store::Result<()> {
    path.parent().map_or(Ok(()), |parent| sync_directory(parent, syncs))
}

fn io_error(path: &Path, source: io::Error) -> object_store::Error {
    let path_text = path.display().to_string();
    match source.kind() {
        io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
            path: path_text,
            source: source.into(),
        },
        io::ErrorKind::NotFound => object_store::Error::NotFound {
            path: path_text,
            source: source.into(),
        },
        _ => object_store::Error::Generic {
            store: "SyncedStore",
            source: format!("{path_text}: {source}").into(),
        },
    }
}
