//! Where everything is kept, a span still stands for as many as its senders sampled it from.

use tailwater_model::ids::TraceId;
use tailwater_model::otlp::columns::Sampling;
use tailwater_sampling::Threshold;
use tailwater_sampling::tracestate::{Missing, Stamp, Upstream};

use crate::tail::stamped;

/// The statement of a span whose tracestate has a `th`.
pub(super) fn by_sender(usual: Sampling<'static>, trace_id: &[u8], trace_state: &[u8]) -> Option<Sampling<'static>> {
    let upstream = Upstream::parse(trace_state);
    upstream.threshold?;
    let trace = TraceId(trace_id.try_into().unwrap_or_default());
    let stamp = Stamp::of(upstream, trace, Threshold::ALWAYS, false, Missing::default());
    Some(stamped(stamp, usual))
}
