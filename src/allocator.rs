//! The allocator of the binary, and how long it keeps memory that is free.

use tailwater_runtime::machine;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Milliseconds after which free memory goes back to the system. mimalloc's own 10 are less than the time between two batches or two
/// commits, and memory that goes and comes again is cleared by the kernel each time. Of 30 s of load at 0.25 M spans/s clearing took a
/// tenth of the collector's work with 1 s, and next to nothing with 10 s; an idle process is small again after that. A variable
/// `MIMALLOC_PURGE_DELAY` in the environment wins.
const PURGE_DELAY_MS: std::ffi::c_long = 10_000;

/// With at most [`SMALL_BYTES`] of memory it goes at once: what is free and kept is what another part needs, and where batches and commits are as small
/// as they are there, it costs nothing. At 100,000 spans/s in 512 MiB the collector's peak is 193-209 MiB, after 500 ms 282-327, in the same CPU time.
const PURGE_DELAY_SMALL_MS: std::ffi::c_long = 0;
const SMALL_BYTES: u64 = 1 << 30;

/// `mi_option_purge_delay` of `mi_option_e` in mimalloc.h, which the crate has no name for.
const PURGE_DELAY_OPTION: libmimalloc_sys::mi_option_t = 15;

/// Sets it for this machine or container, and takes pages of 4 KiB alone. To be called before there are threads.
///
/// Where the first byte of a huge page is touched the kernel clears 2 MiB: of 60,000 spans/s on one core that is a fifth of the collector's work and the
/// slowest answers, and an idle collector is 25 to 50 MiB larger. mimalloc does not ask for them (its feature `no_thp`); some systems give
/// them unasked.
#[allow(unsafe_code)]
pub fn set_up() {
    let delay = match machine::probe().memory_bytes {
        ..=SMALL_BYTES => PURGE_DELAY_SMALL_MS,
        _ => PURGE_DELAY_MS,
    };
    // SAFETY: writes one number of mimalloc's table of options, whose index the library checks.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY_OPTION, delay) }
    let (yes, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: takes numbers only. Where the kernel refuses, pages stay as they are.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, yes, unused, unused, unused) };
}
