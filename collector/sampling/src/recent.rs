//! Recent quantiles of durations, handed in: what `red.p98(5m)` is compared with.
//!
//! They are those of the window before, so a trace's own duration never moves what it is compared with within its window. An operation that
//! is not known falls back to its service; a service that is not known has none, and its traces are not slow.

use std::collections::HashMap;

use ahash::RandomState;

/// Quantiles by tenant, service and operation. Bounded by who fills it.
#[derive(Debug, Default, Clone)]
pub struct Recent {
    hasher: RandomState,
    ns: HashMap<u64, u64, RandomState>,
}

impl Recent {
    /// Says a quantile: `at` is its place in [`crate::Sampler::quantiles`], `operation: None` stands for the service as a whole.
    pub fn set(&mut self, at: usize, tenant: u32, service: &[u8], operation: Option<&[u8]>, ns: u64) {
        self.ns
            .insert(self.hasher.hash_one((at, tenant, service, operation)), ns);
    }

    pub(crate) fn get(&self, at: usize, tenant: u32, service: &[u8], operation: &[u8]) -> Option<u64> {
        let find = |operation: Option<&[u8]>| self.ns.get(&self.hasher.hash_one((at, tenant, service, operation)));
        find(Some(operation)).or_else(|| find(None)).copied()
    }
}
