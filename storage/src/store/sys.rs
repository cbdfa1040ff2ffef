//! The system calls no safe crate offers: `sync_file_range`, and reading what is cached into memory that is not zeroed first.
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

/// `len` bytes from `offset`, if the page cache has them all; an error otherwise, [`io::ErrorKind::WouldBlock`] where the disk would be waited for.
pub(super) fn read_cached(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::<u8>::with_capacity(len);
    while bytes.len() < len {
        let room = bytes.spare_capacity_mut();
        let place = libc::iovec {
            iov_base: room.as_mut_ptr().cast(),
            iov_len: len - bytes.len(),
        };
        let at = i64::try_from(offset + bytes.len() as u64).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the descriptor is open because `file` is borrowed; the one piece of memory that the kernel writes to is the vector's own, which has room for
        // `len` bytes, and nothing else sees it during the call.
        let read = unsafe { libc::preadv2(file.as_raw_fd(), &place, 1, at, libc::RWF_NOWAIT) };
        match usize::try_from(read) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // SAFETY: the kernel has written that many bytes behind those that were there.
            Ok(read) => unsafe { bytes.set_len(bytes.len() + read) },
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(bytes)
}
