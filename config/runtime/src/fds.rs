//! Turns file descriptor numbers that the supervisor handed down into owned descriptors. The only `unsafe` of this crate.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use parking_lot::Mutex;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Makes asking whether a number is free to take, and marking it as taken, one step.
static TAKING: Mutex<()> = Mutex::new(());

/// Owns the inherited descriptor `fd` and keeps it from being inherited further.
///
/// # Errors
/// When the number is a standard stream, is not open, or is close-on-exec: then it is not from the supervisor, or was taken before.
pub(crate) fn take(fd: RawFd) -> io::Result<OwnedFd> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("file descriptor {fd} {why}"));
    if fd < 3 {
        return Err(wrong("is not one that a supervisor hands down"));
    }
    let _one_step = TAKING.lock();
    // SAFETY: the borrow lives for this function only, and asks the kernel about the number before anything else is done with it.
    // A number that is not open is answered with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = fcntl_getfd(borrowed).map_err(|_| wrong("is not open"))?;
    // Everything that Rust code opens is close-on-exec, and so is what was taken here. What is not came through exec.
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(wrong("was not handed down by a supervisor, or was taken before"));
    }
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: open (checked above), not a standard stream, and inherited through exec, so that no other owner exists in this process. Taken
    // once only: it is close-on-exec from here on, and the check above and this mark are one step.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn only_what_was_handed_down() {
        assert!(take(2).is_err());
        assert!(take(1_000_000).unwrap_err().to_string().contains("not open"));
        let (mine, _writer) = io::pipe().unwrap();
        assert!(
            take(mine.as_raw_fd())
                .unwrap_err()
                .to_string()
                .contains("not handed down")
        );
        // Without close-on-exec, and owned by nobody: as after exec.
        let inherited = rustix::io::dup(&mine).unwrap().into_raw_fd();
        let owned = take(inherited).unwrap();
        assert!(fcntl_getfd(&owned).unwrap().contains(FdFlags::CLOEXEC));
        assert!(take(inherited).unwrap_err().to_string().contains("taken before"));
    }
}
