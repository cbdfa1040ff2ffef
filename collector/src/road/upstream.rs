//! Where everything is kept, a span still stands for as many as its senders sampled it from.

use ahash::AHashMap;
use memchr::memmem;
use tailwater_model::ids::TraceId;
use tailwater_model::otlp::columns::{Choice, Sampling};
use tailwater_model::otlp::peek::{self, Keys};
use tailwater_sampling::Threshold;
use tailwater_sampling::tracestate::{Missing, Stamp, Upstream};

/// The statements of a request's spans.
pub(super) struct Weighed {
    verdicts: Vec<Sampling<'static>>,
    of: Vec<u32>,
}

impl Weighed {
    pub fn choice(&self) -> Choice<'_> {
        Choice::Each {
            verdicts: &self.verdicts,
            of: &self.of,
        }
    }
}

/// The statement of each span, where one of them has a `th`; `usual` is that of the others. Nearly no request has any, and to see that is one search
/// through its bytes.
pub(super) fn weighed(payload: &[u8], usual: Sampling<'static>) -> Option<Weighed> {
    memmem::find(payload, b"ot=")?;
    let (mut verdicts, mut of) = (vec![usual], Vec::new());
    let mut known: AHashMap<Stamp, u32> = AHashMap::new();
    let walked = peek::spans(payload, &Keys::default(), |span| {
        let upstream = Upstream::parse(span.head.trace_state);
        let verdict = match upstream.threshold {
            None => 0,
            Some(_) => {
                let trace = TraceId(span.head.trace_id.try_into().unwrap_or_default());
                let stamp = Stamp::of(upstream, trace, Threshold::ALWAYS, false, Missing::default());
                *known.entry(stamp).or_insert_with(|| {
                    verdicts.push(Sampling {
                        sample_weight: stamp.weight(),
                        sample_threshold: stamp.threshold.map(|threshold| threshold.bits() as i64),
                        weight_quality: Some(stamp.quality.name()),
                        ..verdicts[0]
                    });
                    verdicts.len() as u32 - 1
                })
            }
        };
        of.push(verdict);
        true
    });
    // What cannot be walked is said where it is decoded.
    (walked.is_ok() && verdicts.len() > 1).then_some(Weighed { verdicts, of })
}
