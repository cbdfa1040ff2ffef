//! Turns on the processor for the thread that acks wait for.
//!
//! A writer runs for some microseconds and then waits for the disk, several times for each group. Whenever it wakes, it waits again behind
//! threads that compute, each for as long as the scheduler lets it (3 ms by default). A thread may ask for shorter turns, and then goes before the longer turn of another as
//! soon as it wakes (EEVDF, Linux 6.12). It gets no more of the processor, only sooner: nobody starves.
#![allow(unsafe_code)]

use std::io;

/// How long a turn is asked for: the shortest that the kernel grants.
const TURN_NS: u64 = 100_000;

/// Asks for short turns for the calling thread. A thread with a policy other than the usual one is left as it is, and older kernels do as before.
///
/// # Errors
/// What the kernel or a sandbox says. Nothing depends on it.
pub(crate) fn ask_for_short() -> io::Result<()> {
    let mut now = of_this_thread()?;
    if now.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    now.sched_runtime = TURN_NS;
    // SAFETY: the structure is as long as it says and lives through the call, which only reads it.
    told(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const now, 0) })
}

fn of_this_thread() -> io::Result<libc::sched_attr> {
    const SIZE: u32 = size_of::<libc::sched_attr>() as u32;
    let mut found = libc::sched_attr {
        size: SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes no more than the size it is told, and that is the structure's own.
    told(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, SIZE, 0) })?;
    Ok(found)
}

/// What a system call says that answers nothing.
fn told(answer: libc::c_long) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_thread_asks_for_turns_and_nothing_else_changes() {
        let asked = std::thread::spawn(|| {
            let before = of_this_thread().unwrap();
            let asked = ask_for_short();
            (before, asked, of_this_thread().unwrap())
        });
        let (before, asked, after) = asked.join().unwrap();
        let rest = |found: &libc::sched_attr| (found.sched_policy, found.sched_flags, found.sched_nice);
        assert_eq!(rest(&after), rest(&before));
        match (asked, after.sched_runtime) {
            (Ok(()), TURN_NS) => {}
            (Ok(()), found) => eprintln!("SKIPPED: this kernel grants no turns of their own ({found} ns)"),
            (Err(error), _) => eprintln!("SKIPPED: not allowed to ask for turns: {error}"),
        }
    }
}
