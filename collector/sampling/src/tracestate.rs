//! What a `tracestate` says about sampling: `th` and `rv` of its `ot` member.
//!
//! Borrowed, no allocation. Lenient as W3C Trace Context asks: white space around members is skipped, what cannot be read counts as not
//! said. Leaves out: writing a tracestate back, and multi-tenant members (`tenant@ot`), which the specification gives no meaning.

use tailwater_model::ids::TraceId;

use crate::threshold::{Randomness, Threshold};

/// The sampling facts of a span's tracestate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upstream {
    /// T of the stages before us; `None`: no statement.
    pub threshold: Option<Threshold>,
    /// Explicit R; `None`: R comes from the trace id.
    pub randomness: Option<Randomness>,
}

impl Upstream {
    /// Reads a tracestate header value, or the `trace_state` of an OTLP span.
    pub fn parse(tracestate: &[u8]) -> Upstream {
        // Most spans carry none: the empty case must cost a comparison.
        if tracestate.is_empty() {
            return Upstream::default();
        }
        let members = tracestate.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let Some(ot) = members.filter_map(|member| member.strip_prefix(b"ot=")).next() else {
            return Upstream::default();
        };
        let mut upstream = Upstream::default();
        for field in ot.split(|byte| *byte == b';') {
            if let Some(th) = field.strip_prefix(b"th:") {
                upstream.threshold = Threshold::parse(th);
            } else if let Some(rv) = field.strip_prefix(b"rv:") {
                upstream.randomness = Randomness::parse(rv);
            }
        }
        upstream
    }

    /// R of the span: `rv` if it is there, else from the trace id.
    pub fn randomness(self, trace: TraceId) -> Randomness {
        self.randomness.unwrap_or_else(|| Randomness::of_trace(trace))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(tracestate: &str, th: Option<&str>, rv: Option<&str>) {
        let upstream = Upstream::parse(tracestate.as_bytes());
        assert_eq!(
            upstream.threshold,
            th.map(|th| Threshold::parse(th.as_bytes()).unwrap()),
            "{tracestate}"
        );
        assert_eq!(
            upstream.randomness,
            rv.map(|rv| Randomness::parse(rv.as_bytes()).unwrap()),
            "{tracestate}"
        );
    }

    #[test]
    fn members_are_found_wherever_they_stand() {
        check("", None, None);
        check("ot=th:8", Some("8"), None);
        check("ot=rv:00000000000001;th:fd7", Some("fd7"), Some("00000000000001"));
        check("congo=t61, ot=p:8;th:c \t,rojo=00f067", Some("c"), None);
        check("congo=ot=th:8", None, None);
        check("tenant@ot=th:8", None, None);
        check("ot=th:;rv:1", None, None);
        check("ot=th:xyz", None, None);
        check("ot=ath:8", None, None);
    }

    #[test]
    fn explicit_randomness_wins() {
        let trace = TraceId([9; 16]);
        assert_eq!(Upstream::parse(b"ot=rv:00000000000001").randomness(trace).bits(), 1);
        assert_eq!(
            Upstream::parse(b"ot=th:0").randomness(trace),
            Randomness::of_trace(trace)
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in prop::collection::vec(prop::sample::select(&b"ot=,;:thrv0f \xff"[..]), 0..40)) {
            let _ = Upstream::parse(&bytes);
        }
    }
}
