//! What a `tracestate` says about sampling: `th` and `rv` of its `ot` member; and writing what was decided back into it.
//!
//! Borrowed, no allocation. Lenient as W3C Trace Context asks: white space around members is skipped, what cannot be read counts as not
//! said. Leaves out: multi-tenant members (`tenant@ot`), which the specification gives no meaning.

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
        for field in ot.split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
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

/// How far the weight of a row can be relied on: column `weight_quality`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quality {
    /// Every stage said its threshold.
    Exact,
    /// Nobody upstream said anything, which was taken for "not sampled".
    AssumedUpstream,
    /// It stands for so many at most: T of its trace holds what its spans were sampled with upstream, which it was not itself.
    AtMost,
    /// Upstream says something that cannot be, or nothing where that means "unknown": the row has no weight.
    Unknown,
}

impl Quality {
    /// Name in column `weight_quality`.
    pub fn name(self) -> &'static str {
        match self {
            Quality::Exact => "exact",
            Quality::AssumedUpstream => "assumed_upstream",
            Quality::AtMost => "at_most",
            Quality::Unknown => "unknown",
        }
    }
}

/// What a span without `th` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Missing {
    /// Nobody sampled before us.
    #[default]
    AssumeUnsampled,
    /// Somebody may have: no weight is claimed.
    Unknown,
}

/// What a kept span carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// `th`; `None`: erased, no weight.
    pub threshold: Option<Threshold>,
    /// How far that can be relied on.
    pub quality: Quality,
}

impl Stamp {
    /// The statement of a span that stays: th_out = max(th_in, T). Its R lies below its own th_in in a faulty stage upstream only; then
    /// nobody knows its probability. Under a hashed R a th_in was taken against other randomness, so it multiplies instead.
    pub fn of(upstream: Upstream, trace: TraceId, verdict: Threshold, is_hashed: bool, missing: Missing) -> Stamp {
        let Some(before) = upstream.threshold else {
            return match missing {
                Missing::AssumeUnsampled => Stamp {
                    threshold: Some(verdict),
                    quality: Quality::AssumedUpstream,
                },
                Missing::Unknown => Stamp::UNKNOWN,
            };
        };
        if !before.keeps(upstream.randomness(trace)) {
            return Stamp::UNKNOWN;
        }
        let both = if is_hashed && before != Threshold::ALWAYS {
            Threshold::of_probability(before.probability() * verdict.probability())
        } else {
            before.max(verdict)
        };
        Stamp {
            threshold: Some(both),
            quality: Quality::Exact,
        }
    }

    const UNKNOWN: Stamp = Stamp {
        threshold: None,
        quality: Quality::Unknown,
    };

    /// How many spans it stands for.
    pub fn weight(self) -> Option<f64> {
        self.threshold.map(Threshold::weight)
    }
}

/// Most members of a tracestate (W3C Trace Context 3.3.1.1).
const MEMBERS_MAX: usize = 32;

/// Appends `tracestate` with this `th` (none: erased) and, if one is given, this `rv`. Other fields of `ot` and other vendors' members stay
/// in order; `ot` moves to the front, as whatever is changed does.
pub fn write(tracestate: &[u8], th: Option<Threshold>, rv: Option<Randomness>, out: &mut Vec<u8>) {
    let start = out.len();
    let members = || {
        let members = tracestate.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        members.filter(|member| !member.is_empty())
    };
    let field = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(if out.len() == start { b"ot=" } else { b";" });
        out.extend_from_slice(bytes);
    };
    if let Some(th) = th {
        field(out, format!("th:{th}").as_bytes());
    }
    if let Some(rv) = rv {
        field(out, format!("rv:{rv}").as_bytes());
    }
    let ot = members()
        .filter_map(|member| member.strip_prefix(b"ot="))
        .next()
        .unwrap_or_default();
    for kept in ot
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|kept| !kept.is_empty())
    {
        let is_said_anew = kept.starts_with(b"th:") || rv.is_some() && kept.starts_with(b"rv:");
        if !is_said_anew {
            field(out, kept);
        }
    }
    for member in members()
        .filter(|member| !member.starts_with(b"ot="))
        .take(MEMBERS_MAX - 1)
    {
        if out.len() > start {
            out.push(b',');
        }
        out.extend_from_slice(member);
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

    #[test]
    fn what_was_decided_is_written_to_the_front() {
        let check = |tracestate: &str, th: Option<&str>, rv: Option<&str>, expected: &str| {
            let mut out = Vec::new();
            let th = th.map(|th| Threshold::parse(th.as_bytes()).unwrap());
            let rv = rv.map(|rv| Randomness::parse(rv.as_bytes()).unwrap());
            write(tracestate.as_bytes(), th, rv, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{tracestate}");
        };
        check("", Some("8"), None, "ot=th:8");
        check("", None, None, "");
        check("ot=th:c", None, None, "");
        check(
            "a=1, ot=rv:00000000000001;th:4;x:y ,b=2",
            Some("c"),
            None,
            "ot=th:c;rv:00000000000001;x:y,a=1,b=2",
        );
        check(
            "a=1,ot=rv:00000000000001",
            Some("8"),
            Some("00000000000002"),
            "ot=th:8;rv:00000000000002,a=1",
        );
        check("a=1,,b=2", None, None, "a=1,b=2");
    }

    #[test]
    fn a_stage_only_raises_the_threshold() {
        let trace = TraceId([0xc0; 16]);
        let check = |tracestate: &str, verdict: &str, hashed, missing, expected: Option<&str>, quality| {
            let verdict = Threshold::parse(verdict.as_bytes()).unwrap();
            let stamp = Stamp::of(Upstream::parse(tracestate.as_bytes()), trace, verdict, hashed, missing);
            assert_eq!(
                stamp.threshold.map(|th| th.to_string()).as_deref(),
                expected,
                "{tracestate}"
            );
            assert_eq!(stamp.quality, quality, "{tracestate}");
        };
        check("ot=th:8", "4", false, Missing::Unknown, Some("8"), Quality::Exact);
        check("ot=th:4", "8", false, Missing::Unknown, Some("8"), Quality::Exact);
        check("ot=th:0", "8", false, Missing::Unknown, Some("8"), Quality::Exact);
        check(
            "",
            "8",
            false,
            Missing::AssumeUnsampled,
            Some("8"),
            Quality::AssumedUpstream,
        );
        check("", "8", false, Missing::Unknown, None, Quality::Unknown);
        check("ot=th:d", "8", false, Missing::Unknown, None, Quality::Unknown);
        check("ot=th:8", "8", true, Missing::Unknown, Some("c"), Quality::Exact);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes in prop::collection::vec(prop::sample::select(&b"ot=,;:thrv0f a"[..]), 0..60), th in 0u64..1 << 56) {
            let (th, mut out) = (Threshold::from_bits(th), Vec::new());
            write(&bytes, th, None, &mut out);
            prop_assert_eq!(Upstream::parse(&out).threshold, th);
            let mut again = Vec::new();
            write(&out, th, None, &mut again);
            prop_assert_eq!(again, out);
        }

        #[test]
        fn parsing_never_panics(bytes in prop::collection::vec(prop::sample::select(&b"ot=,;:thrv0f \xff"[..]), 0..40)) {
            let _ = Upstream::parse(&bytes);
        }
    }
}
