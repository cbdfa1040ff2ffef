//! Properties over generated requests.

use prost::Message;
use proptest::prelude::*;
use proptest::test_runner::Config;
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
        Signal::Traces => generate::traces().prop_map(|request| Encoded(request.encode_to_vec())).boxed(),
        Signal::Metrics => generate::metrics().prop_map(|request| Encoded(request.encode_to_vec())).boxed(),
        Signal::Logs => generate::logs().prop_map(|request| Encoded(request.encode_to_vec())).boxed(),
    }
}

pub fn config() -> Config {
    // 96 unless PROPTEST_CASES says otherwise; found cases become tests of their own instead of files.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(96);
    Config { cases, failure_persistence: None, ..Config::default() }
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
}
