//! The invariants of `design/sampling.md` 5.5 that a sampler can be held to alone, with their acceptance numbers; and that each of the
//! mistakes of [`Fault`] breaks one of them.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use crate::fault::Fault;
use crate::late::Memory;
use crate::policy::{self, Policy};
use crate::sampler::Sampler;
use crate::sim::{SPAN_BYTES, START_NS, STORED_PER_BYTE};

mod budget;
mod classes;
mod complete;
mod early;
mod estimates;
mod limits;
mod time;
mod weights;

const SECOND_NS: u64 = 1_000_000_000;

fn policy(text: &str) -> Policy {
    policy::read(Path::new("test.yaml"), text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A policy with a budget in bytes that stands for this many spans a second.
fn goal(spans_per_sec: f64, strata: &str) -> Policy {
    let bytes = spans_per_sec * f64::from(SPAN_BYTES) * STORED_PER_BYTE;
    policy(&format!("budget: {{stored_bytes_per_sec: {bytes}}}\n{strata}"))
}

const ERRORS_AND_REST: &str = r#"
strata:
  - {name: error, when: any(span.status == error), target: all, cap: 50%}
  - {name: slow, when: root.duration >= 1s, target: all, cap: 25%}
  - {name: rest, share: by(fingerprint), alpha: 0.3}
"#;

fn sampler(policy: Policy, fault: Fault) -> Sampler<()> {
    Sampler::new(policy, Memory::default(), START_NS)
        .unwrap()
        .with_fault(fault)
}
