//! What the sketch of durations costs: a value recorded, a sketch written, merged, read.
//!
//! `cargo bench -p tailwater-query --bench sketch` records 10 million values; `cargo test` 20,000. SQL as a whole is measured by `benches/lake`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Instant;

use tailwater_model::exphist::{Sketches, View};

fn measure(values: usize) {
    println!(
        "{:>9} {:>10} {:>10} {:>10} {:>12} {:>8} {:>8}",
        "groups", "record ns", "encode ns", "merge ns", "quantile ns", "bytes", "MiB"
    );
    let mut random = 88_172_645_463_325_252_u64;
    for groups in [1, 100, 10_000] {
        let mut sketches = Sketches::new();
        sketches.resize(groups);
        let started = Instant::now();
        for at in 0..values {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
            sketches.record(at * 7919 % groups, 1e6 * (1.0 - uniform).recip(), 1.0);
        }
        let record = started.elapsed() / values as u32;
        let started = Instant::now();
        let encoded: Vec<Vec<u8>> = (0..groups)
            .map(|group| {
                let mut bytes = Vec::new();
                sketches.encode(group, &mut bytes);
                bytes
            })
            .collect();
        let encode = started.elapsed() / groups as u32;
        let started = Instant::now();
        let mut merged = Sketches::new();
        merged.resize(1);
        encoded
            .iter()
            .for_each(|bytes| merged.merge(0, View::parse(bytes).unwrap()).unwrap());
        let merge = started.elapsed() / groups as u32;
        let started = Instant::now();
        let count: f64 = encoded
            .iter()
            .map(|bytes| View::parse(bytes).unwrap())
            .map(|view| {
                assert!(view.quantile(0.99).unwrap().is_some());
                view.count().unwrap()
            })
            .sum();
        let quantile = started.elapsed() / groups as u32;
        assert_eq!(count as usize, values, "every value is counted once");
        let bytes = encoded.iter().map(Vec::len).sum::<usize>() / groups;
        println!(
            "{groups:>9} {:>10} {:>10} {:>10} {:>12} {bytes:>8} {:>8}",
            record.as_nanos(),
            encode.as_nanos(),
            merge.as_nanos(),
            quantile.as_nanos(),
            sketches.size() >> 20,
        );
    }
}

fn main() {
    let full = std::env::args().any(|argument| argument == "--bench");
    measure(if full { 10_000_000 } else { 20_000 });
}
