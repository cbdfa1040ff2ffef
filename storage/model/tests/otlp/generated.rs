//! Properties over generated requests.

use proptest::prelude::*;
use proptest::test_runner::Config;
use prost::Message;
use tailwater_model::otlp::caps::Caps;
use tailwater_model::signal::Signal;

use crate::bend;
use crate::check::{ARRIVAL_NS, check};
use crate::generate;

/// A request as protobuf; shown in hex, as a regression test would have it.
struct Encoded(Vec<u8>);

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn encoded(signal: Signal) -> BoxedStrategy<Encoded> {
    match signal {
        Signal::Traces => generate::traces()
            .prop_map(|request| Encoded(request.encode_to_vec()))
            .boxed(),
        Signal::Metrics => generate::metrics()
            .prop_map(|request| Encoded(request.encode_to_vec()))
            .boxed(),
        Signal::Logs => generate::logs()
            .prop_map(|request| Encoded(request.encode_to_vec()))
            .boxed(),
    }
}

pub fn config() -> Config {
    // 96 unless PROPTEST_CASES says otherwise; found cases become tests of their own instead of files.
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(96);
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

/// Checks a request as it was encoded, three ways bent, and six ways broken.
fn check_around(signal: Signal, bytes: &[u8], seed: u64, caps: &Caps) {
    check(signal, bytes, ARRIVAL_NS, caps);
    for turn in 0..3 {
        check(signal, &bend::bend(signal, bytes, seed + turn), ARRIVAL_NS, caps);
    }
    for turn in 0..6 {
        check(signal, &bend::break_bytes(bytes, seed + turn), ARRIVAL_NS, caps);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn traces_agree(bytes in encoded(Signal::Traces), seed in 0u64..1 << 32) {
        check_around(Signal::Traces, &bytes.0, seed, &Caps::default());
    }

    #[test]
    fn metrics_agree(bytes in encoded(Signal::Metrics), seed in 0u64..1 << 32) {
        check_around(Signal::Metrics, &bytes.0, seed, &Caps::default());
    }

    #[test]
    fn logs_agree(bytes in encoded(Signal::Logs), seed in 0u64..1 << 32) {
        check_around(Signal::Logs, &bytes.0, seed, &Caps::default());
    }

    #[test]
    fn limits_cut_and_reject_alike(bytes in prop_oneof![
        encoded(Signal::Traces).prop_map(|bytes| (Signal::Traces, bytes)),
        encoded(Signal::Metrics).prop_map(|bytes| (Signal::Metrics, bytes)),
        encoded(Signal::Logs).prop_map(|bytes| (Signal::Logs, bytes)),
    ], mut caps in small_caps()) {
        if bytes.0 == Signal::Metrics {
            // Points that differ only in what is cut share a series, whose labels are those of the first: no rule to test.
            (caps.attributes, caps.origin_attributes) = (512, 128);
        }
        // As encoded: a bent request has other lengths than the tree that says what is too long.
        check(bytes.0, &bytes.1.0, ARRIVAL_NS, &caps);
    }
}

/// Limits within reach of the generated requests.
fn small_caps() -> impl Strategy<Value = Caps> {
    let counts = (0usize..4, 0usize..4, 0usize..4, 0usize..3, 0usize..3, 0usize..3);
    // A character, a scalar and `scope.version` always fit.
    let sizes = (12usize..30, 4usize..12, 12usize..30, 13usize..20);
    (counts, sizes, prop_oneof![Just(1usize << 20), 100usize..400], 1usize..4).prop_map(
        |(counts, sizes, item_bytes, depth)| Caps {
            item_bytes,
            depth,
            attributes: counts.0,
            origin_attributes: counts.1,
            nested_attributes: counts.2,
            events: counts.3,
            links: counts.4,
            exemplars: counts.5,
            value_bytes: sizes.0,
            text_bytes: sizes.1,
            body_bytes: sizes.2,
            key_bytes: sizes.3,
            ..Caps::default()
        },
    )
}
