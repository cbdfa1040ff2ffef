//! Whether the randomness of trace ids is random: a chi-square test on the top bits of R, by the service that began the trace.
//!
//! Thresholds cut at the top of R, so the top bits are what has to be uniform. Ids counted up, made of a clock or of the low half only fail
//! within a few hundred traces. A service that failed stays failed: R of its traces is a hash of the id from then on, and written as `rv`.

use crate::threshold::{Randomness, Threshold};

const BITS: u32 = 8;
const BINS: usize = 1 << BITS;
/// Looked at after so many traces: ten in every bin ...
const FULL: u32 = 10 * BINS as u32;
/// ... or, in 32 coarser bins, after so many, so that a quiet service is caught within a minute too.
const EARLY: u32 = 320;
/// Chi-square beyond which chance is out of the question: p < 1e-10 for 255 and for 31 degrees of freedom.
const FULL_MAX: f64 = 430.0;
const EARLY_MAX: f64 = 113.0;

#[derive(Debug, Default)]
pub(crate) struct Audit {
    counts: Option<Box<[u32; BINS]>>,
    total: u32,
    /// Ids of this service are not random.
    pub failed: bool,
}

impl Audit {
    /// Counts the R of a new trace; true when the service fails by it. What upstream let through above `before` is spread out again.
    pub fn count(&mut self, randomness: Randomness, before: Option<Threshold>) -> bool {
        if self.failed {
            return false;
        }
        let before = before.unwrap_or(Threshold::ALWAYS);
        let bin = match before {
            Threshold::ALWAYS => (randomness.bits() >> (56 - BITS)) as usize,
            before if !before.keeps(randomness) => return false,
            before => {
                let within = (randomness.fraction() - (1.0 - before.probability())) / before.probability();
                ((within * BINS as f64) as usize).min(BINS - 1)
            }
        };
        let counts = self.counts.get_or_insert_with(|| Box::new([0; BINS]));
        counts[bin] += 1;
        self.total += 1;
        self.failed = match self.total {
            EARLY => {
                let coarse = counts.chunks(BINS / 32).map(|bins| bins.iter().sum());
                chi_square(coarse, f64::from(EARLY) / 32.0) > EARLY_MAX
            }
            FULL => {
                let is_bad = chi_square(counts.iter().copied(), f64::from(FULL) / BINS as f64) > FULL_MAX;
                // From the start, so that a change after a restart of the service is seen.
                (*counts, self.total) = (Box::new([0; BINS]), 0);
                is_bad
            }
            _ => false,
        };
        self.failed
    }
}

fn chi_square(counts: impl Iterator<Item = u32>, expected: f64) -> f64 {
    counts
        .map(|count| (f64::from(count) - expected).powi(2) / expected)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Random;

    fn traces_until_failed(mut next: impl FnMut(u64) -> u64, before: Option<Threshold>) -> Option<u64> {
        let mut audit = Audit::default();
        (0..200_000).find(|n| {
            let bits = next(*n) & ((1 << 56) - 1);
            Randomness::from_bits(bits).is_some_and(|randomness| audit.count(randomness, before))
        })
    }

    #[test]
    fn ids_that_are_not_random_fail() {
        for (name, next) in [
            ("counted up", (|n| n) as fn(u64) -> u64),
            ("a clock", |n| (1_700_000_000_000 + n) << 12),
            ("top byte of 64 values", |n| {
                (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0x3f) << 50
            }),
            ("constant", |_| 0x00ab_cdef_0123_4567),
        ] {
            let failed = traces_until_failed(next, None);
            assert!(failed.is_some_and(|at| at <= u64::from(FULL)), "{name}: {failed:?}");
        }
    }

    #[test]
    fn random_ids_pass() {
        let mut random = Random::new(7);
        assert_eq!(traces_until_failed(|_| random.next(), None), None);
        // What a sampler before let through lies in the upper quarter, and is as random there.
        let before = Some(Threshold::of_probability(0.25));
        assert_eq!(
            traces_until_failed(|_| random.next() >> 2 | 0xc0_0000_0000_0000, before),
            None
        );
    }
}
