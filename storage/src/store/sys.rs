//! The one system call no safe crate offers: `sync_file_range`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Starts writing back `len` bytes from `offset`, without waiting. Promises nothing about durability; it only spreads the
/// work, so that the closing fsync is short and an outbox sync beside it is not stuck behind 64 MiB of Parquet.
pub(super) fn start_write_back(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    // SAFETY: the descriptor is open for the length of the call because `file` is borrowed, and the call touches no
    // memory of this process.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
