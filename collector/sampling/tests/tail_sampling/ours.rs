//! Our side: the requests through [`Sampler`], by a clock of their own.

use std::collections::BTreeMap;
use std::path::Path;

use tailwater_model::ids::{Lsn, TraceId};
use tailwater_model::otlp::peek;
use tailwater_sampling::sim::START_NS;
use tailwater_sampling::{Memory, Offer, Output, Sampler, SpanAt, Threshold, Tick, policy};

use crate::recording::{Recording, WAIT_MS};

const TICK_MS: u64 = 500;

/// What became of a trace.
#[derive(Debug, Clone, Copy)]
pub struct Decided {
    pub threshold: Threshold,
    pub kept: bool,
    /// Spans stored of it, late ones too.
    pub stored: u64,
}

/// What a policy makes of the recording.
pub fn decide(policy: &str, recording: &Recording) -> BTreeMap<TraceId, Decided> {
    let policy = policy::read(Path::new("imported.yaml"), policy).expect("what the importer writes can be read");
    let mut sampler: Sampler<()> = Sampler::new(policy, Memory::default(), START_NS).expect("and run");
    let (tenant, keys) = (sampler.tenant("default"), sampler.keys());
    let mut decided = BTreeMap::new();
    let mut out = Output::default();
    let mut ticked_ms = 0;
    let take = |out: &mut Output<()>, decided: &mut BTreeMap<TraceId, Decided>| {
        for verdict in &out.verdicts {
            let before = decided.insert(
                verdict.trace,
                Decided {
                    threshold: verdict.decision.threshold,
                    kept: verdict.keep,
                    stored: verdict.spans.len() as u64,
                },
            );
            assert!(before.is_none(), "a trace is decided once: {before:?} {verdict:?}");
        }
        out.clear();
    };
    let end_ms = recording.requests.last().map_or(0, |(at_ms, _)| *at_ms) + 2 * WAIT_MS;
    let requests = recording.requests.iter().map(|(at_ms, body)| (*at_ms, body.as_slice()));
    for (lsn, (at_ms, body)) in requests.chain([(end_ms, &[][..])]).enumerate() {
        while ticked_ms + TICK_MS <= at_ms {
            ticked_ms += TICK_MS;
            let now_ns = START_NS + ticked_ms * 1_000_000;
            let rate = f64::INFINITY;
            sampler.tick(Tick { now_ns, rate }, &mut out);
            take(&mut out, &mut decided);
        }
        peek::spans(body, &keys, |span| {
            let at = SpanAt {
                lsn: Lsn(lsn as u64 + 1),
                ordinal: span.ordinal,
                len: span.len as u32,
            };
            let trace = TraceId(span.head.trace_id.try_into().expect("16 bytes"));
            match sampler.offer(START_NS + at_ms * 1_000_000, tenant, span, at, || (), &mut out) {
                Offer::Held | Offer::Again | Offer::Dropped => {}
                Offer::Late(_) => decided.get_mut(&trace).expect("late is after the decision").stored += 1,
                Offer::Refused => panic!("memory is not short"),
            }
            true
        })
        .expect("a request");
        take(&mut out, &mut decided);
    }
    assert_eq!(sampler.waiting(), 0);
    decided
}
