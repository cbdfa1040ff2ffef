//! The two kinds of memory maps and everything `unsafe` about them.
//!
//! Assumes, and the log keeps to it: a file that a reader may map is never shortened or written in place below what is durable. Somebody
//! truncating files of the data directory by hand kills the reader with SIGBUS; so it does with every database.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions, MmapRaw};

/// Bytes of the control page.
pub(crate) const PAGE_BYTES: usize = 4096;

/// A page of 512 shared words.
pub(crate) struct SharedPage(MmapRaw);

impl SharedPage {
    /// Maps the first page of `file`, for reading only unless `write`.
    pub(crate) fn map(file: &File, write: bool) -> io::Result<SharedPage> {
        if file.metadata()?.len() < PAGE_BYTES as u64 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "control page is shorter than 4096 bytes",
            ));
        }
        let mut options = MmapOptions::new();
        options.len(PAGE_BYTES);
        Ok(SharedPage(if write {
            options.map_raw(file)?
        } else {
            options.map_raw_read_only(file)?
        }))
    }

    /// The words. Storing is only for pages mapped with `write`.
    pub(crate) fn words(&self) -> &[AtomicU64; PAGE_BYTES / 8] {
        // SAFETY: the mapping is 4096 bytes long, page-aligned, and lives as long as `self`; every process touches it through
        // atomics only, so no plain access can race with these.
        unsafe { &*self.0.as_ptr().cast::<[AtomicU64; PAGE_BYTES / 8]>() }
    }
}

/// Maps a whole segment for reading. The bytes live as long as the last slice of them, the file's name notwithstanding.
pub(crate) fn map_file(file: &File) -> io::Result<Bytes> {
    struct Owner(Mmap);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    // SAFETY: segments of a log with a control page are only appended to behind the published end, and readers are never given
    // bytes behind it, so what they see does not change; files are never shortened.
    let map = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(Owner(map)))
}
