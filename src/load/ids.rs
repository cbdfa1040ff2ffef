//! Identities of generated items, as a pure function of (seed, request, position).
//!
//! Guarantees: within one seed no two (request, position) pairs share a span, log or trace id, because the mixing function is a
//! bijection on 64 bits; every bit of an id looks random, so consistent samplers see a uniform R. A crash test can therefore
//! recompute the ids of any request from the ledger file alone.

/// Positions within one request: item and trace indices stay below this.
pub const POSITIONS_MAX: u64 = 1 << 16;

/// The finaliser of SplitMix64: a bijection on `u64` whose output bits all depend on all input bits.
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const SPANS: u64 = 0x9e37_79b9_7f4a_7c15;
const TRACES: u64 = 0xd1b5_4a32_d192_ed03;
const NOISE: u64 = 0x2545_f491_4f6c_dd1d;

const fn counter(request: u64, position: u64) -> u64 {
    request.wrapping_mul(POSITIONS_MAX).wrapping_add(position)
}

/// Id of item `position` of a request: a span id, or the `log.record.uid` of a log record.
pub fn item_id(seed: u64, request: u64, position: u32) -> [u8; 8] {
    // Zero is no valid id. One counter in 2^64 maps to it; giving that one the id 1 is the cheapest honest repair.
    mix(counter(request, position.into()) ^ mix(seed ^ SPANS))
        .max(1)
        .to_be_bytes()
}

/// Id of trace `position` of a request.
pub fn trace_id(seed: u64, request: u64, position: u32) -> [u8; 16] {
    let low = mix(counter(request, position.into()) ^ mix(seed ^ TRACES)).max(1);
    let high = mix(low ^ seed);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&high.to_be_bytes());
    id[8..].copy_from_slice(&low.to_be_bytes());
    id
}

/// 64 random-looking bits for attribute values; not unique by contract.
pub fn noise(seed: u64, request: u64, salt: u32) -> u64 {
    mix(counter(request, salt.into()).wrapping_mul(NOISE) ^ seed)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_over_requests_and_positions() {
        let mut spans = HashSet::new();
        let mut traces = HashSet::new();
        for request in 0..200 {
            for position in 0..512 {
                assert!(spans.insert(item_id(7, request, position)));
                assert!(traces.insert(trace_id(7, request, position)));
            }
        }
        assert_ne!(item_id(7, 1, 1), item_id(8, 1, 1), "the seed matters");
    }

    #[test]
    fn the_low_56_bits_of_trace_ids_are_uniform_enough_to_sample_by() {
        let half = 1u64 << 55;
        let below = (0..10_000)
            .filter(|n| {
                let id = trace_id(1, *n, 0);
                let r = u64::from_be_bytes([0, id[9], id[10], id[11], id[12], id[13], id[14], id[15]]);
                r < half
            })
            .count();
        // Binomial(10000, 0.5): 5000 +- 5 standard deviations of 50.
        assert!((4750..=5250).contains(&below), "{below}");
    }
}
