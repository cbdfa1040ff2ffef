//! Mistakes that a sampler can make and nobody sees in its output. Tests switch them on to show that the invariants catch them.

/// A deliberate mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Fault {
    /// As it should be.
    None,
    /// The hard cap takes the R of the last trace kept instead of the first one excluded.
    LastKeptR,
    /// A trace's threshold depends on its own R.
    OwnR,
    /// Late spans of a kept trace are remembered as kept with certainty.
    LateWithoutWeight,
    /// Traces that outlive an eviction do not carry its threshold.
    EvictionWithoutWeight,
}
