//! The file layer: the few operations the log needs, so that tests can put a lying disk below it.
//!
//! Two implementations: [`Os`] here, and the simulated disk in `sim` (tests only). Paths are joined by the caller; nothing here
//! knows what a segment is.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation};

use crate::buffer::AlignedBuf;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Must exist; reading only, front to back.
    Read,
    /// Must exist; reading only, whole blocks at any place, past the page cache.
    ReadDirect,
    /// Must exist; writing, past the page cache if `direct`.
    Write {
        /// Use O_DIRECT.
        direct: bool,
    },
    /// Created or emptied; writing.
    Create {
        /// Use O_DIRECT.
        direct: bool,
    },
}

/// A directory's content, non-recursive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// File name.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
}

/// One open file.
pub trait File: Send + Sync {
    /// Reads up to `buf.len()` bytes; 0 at the end.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes some of `buf`.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize>;
    /// Makes the file `len` bytes long with the room really there; what was never written reads as zeros.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// fdatasync.
    fn sync(&self) -> io::Result<()>;
    /// Starts write-back of a range and, if `wait`, waits for it. No durability.
    fn write_back(&self, at: u64, len: u64, wait: bool) -> io::Result<()>;
}

/// A file system.
pub trait Disk: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>>;
    /// The files of a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Makes a directory and its parents.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames over whatever is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A second name for the same bytes.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes an unprivileged process may still use.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Takes the exclusive lock of `path` until the answer is dropped. `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
    /// Why this file system cannot keep an fsync's promise, if so.
    fn volatile(&self, dir: &Path) -> io::Result<Option<&'static str>>;
}

/// The operating system. Keeps the directories it has synced open, so that running out of file handles cannot come between a rename and
/// its sync.
#[derive(Debug, Default)]
pub struct Os {
    dirs: Mutex<BTreeMap<PathBuf, Arc<fs::File>>>,
}

struct OsFile(fs::File);

impl Disk for Os {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let direct = |yes: bool| if yes { libc::O_DIRECT } else { 0 };
        let mut options = OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => &mut options,
            Open::ReadDirect => options.custom_flags(direct(true)),
            Open::Write { direct: d } => options.write(true).custom_flags(direct(d)),
            Open::Create { direct: d } => options.write(true).create(true).truncate(true).custom_flags(direct(d)),
        };
        let file = options.open(path)?;
        if how == Open::Read {
            // Front to back, and cold if written past the page cache: 520-690 MB/s without this hint, 670-1,300 with it.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        }
        Ok(Box::new(OsFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // A file may go between the listing and this line.
            match entry.metadata() {
                Ok(meta) if meta.is_file() => entries.push(Entry { name, len: meta.len() }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        match fs::hard_link(from, to) {
            // Some file systems know no hard links.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists && error.kind() != io::ErrorKind::NotFound => {
                fs::copy(from, to).map(drop)
            }
            other => other,
        }
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let open = {
            let mut dirs = self.dirs.lock();
            match dirs.get(dir) {
                Some(open) => open.clone(),
                None => {
                    let open = Arc::new(fs::File::open(dir)?);
                    dirs.insert(dir.to_owned(), open.clone());
                    open
                }
            }
        };
        open.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // Who has it is for people; a full disk is no reason to refuse.
        let _ = file
            .set_len(0)
            .and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
        Ok(Box::new(file))
    }

    fn volatile(&self, dir: &Path) -> io::Result<Option<&'static str>> {
        volatile(dir)
    }
}

/// The name of the file system that a directory is on, if that cannot keep an fsync's promise.
///
/// # Errors
/// The directory cannot be looked at.
pub fn volatile(dir: &Path) -> io::Result<Option<&'static str>> {
    let stat = rustix::fs::statfs(dir)?;
    // Numbers from linux/magic.h.
    Ok(match stat.f_type {
        0x0102_1994 => Some("tmpfs"),
        0x8584_58f6 => Some("ramfs"),
        0x6969 => Some("nfs"),
        _ => None,
    })
}

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        self.0.write_at(buf, at)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => {
                // Without fallocate only written bytes are sure to have room.
                let zeros = AlignedBuf::new(1 << 20);
                let mut at = 0;
                while at < len {
                    let n = zeros.len().min((len - at) as usize);
                    self.0.write_all_at(&zeros[..n], at)?;
                    at += n as u64;
                }
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write_back(&self, at: u64, len: u64, wait: bool) -> io::Result<()> {
        sync_file_range(&self.0, at, len, wait)
    }
}

#[allow(unsafe_code)]
fn sync_file_range(file: &fs::File, at: u64, len: u64, wait: bool) -> io::Result<()> {
    let flags = match wait {
        true => libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER,
        false => libc::SYNC_FILE_RANGE_WRITE,
    };
    // SAFETY: takes numbers only, touches no memory of ours; the descriptor is open for as long as `file` is borrowed.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), at as libc::off64_t, len as libc::off64_t, flags) };
    match done {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // Not every file system has it, and it is only a hint.
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::ESPIPE | libc::EINVAL)) => Ok(()),
            error => Err(error),
        },
    }
}

/// Writes all of `buf`; a short write is continued, an interrupted one repeated.
pub(crate) fn write_all(file: &dyn File, mut buf: &[u8], mut at: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                at += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `buf` as far as the file goes; answers how far.
pub(crate) fn read_full(file: &dyn File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
