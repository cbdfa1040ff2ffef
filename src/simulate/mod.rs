//! What a sampling policy would make of recorded traffic: how much stays, how well the budget holds, and how far off a service's figures
//! would be if they were read from what stays.
//!
//! ```text
//!   files --load::replay--> requests --one span each, by end--> recording: facts by RED's rules, recent quantiles
//!                                                                  |
//!            seed --> ids of traces --> sampler, in the recording's own time --> what is kept, with weights     (once for each seed)
//!                                                                  |
//!                        true figures of the recording <--- estimates with intervals, over all seeds ---> report
//! ```
//!
//! Guarantees: the sampler, RED's rules, the recent quantiles and the estimators are the product's own; equal seeds give equal reports; no
//! clock is read. A span arrives when it ends. Assumes that the recording is whole: what is true is what was recorded, spans sampled
//! before counted with the weight they carry. Leaves out: the governor (nothing is slow here), crashes, and calibration: a stored byte is expected to take a
//! tenth of a sent one, as in a collector that was just started.

mod recording;
mod report;
mod run;

use std::path::PathBuf;

use tailwater_sampling::policy::Policy;

pub use recording::{Recording, SPANS_MAX};
pub use report::Report;

/// Reads files and runs a policy on them, once for each of `seeds` seeds.
///
/// # Errors
/// A file that cannot be read, with its line; files without spans; a policy that cannot be run.
pub fn simulate(
    policy: &Policy,
    files: &[PathBuf],
    counting: &tailwater_red::Settings,
    seeds: u64,
) -> anyhow::Result<Report> {
    let recording = Recording::read(files, policy, counting)?;
    let runs = (1..=seeds.max(1)).map(|seed| run::run(&recording, policy, seed));
    let runs = runs.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Report::new(&recording, policy, &runs))
}

#[cfg(test)]
mod tests;
