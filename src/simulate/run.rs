//! One run: the recording through the sampler, with ids of its own.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::anyhow;
use tailwater_model::ids::{Lsn, TraceId};
use tailwater_model::otlp::item::SpanHead;
use tailwater_model::otlp::peek::{self, Keys, SpanPeek};
use tailwater_sampling::policy::Policy;
use tailwater_sampling::sim::Random;
use tailwater_sampling::tracestate::Upstream;
use tailwater_sampling::{Decision, Memory, Offer, Output, Randomness, Sampler, SpanAt, Tick};

use super::recording::{Event, Recording, TENANT};

/// As often as a collector ticks.
const TICK_NS: u64 = 500_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Traces, spans and bytes as sent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Volume {
    pub traces: u64,
    pub spans: u64,
    pub bytes: u64,
}

/// What came out of a run.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// By stratum (or cause): what fell due, what of it is kept. Spans that came after their trace was decided are not in it.
    pub strata: BTreeMap<String, [Volume; 2]>,
    /// Late spans: all, and those kept.
    pub late: [u64; 2],
    /// Spans kept, by place in the recording, with what each stands for; `None`: nobody knows.
    pub kept: Vec<(u32, Option<f64>)>,
    /// Stored bytes expected and spans kept, by the second since the first tick.
    pub spent: Vec<[f64; 2]>,
}

/// Runs the policy on the recording.
///
/// # Errors
/// A policy that cannot be run.
pub(super) fn run(recording: &Recording, policy: &Policy, seed: u64) -> anyhow::Result<Run> {
    let start_ns = recording.events[0].at_ns / TICK_NS * TICK_NS;
    let sampler = Sampler::new(policy.clone(), Memory::default(), start_ns).map_err(anyhow::Error::msg)?;
    let mut running = Running {
        recording,
        ids: ids(recording.traces, seed),
        keys: sampler.keys(),
        sampler,
        out: Output::default(),
        start_ns,
        ticked_ns: start_ns,
        run: Run::default(),
    };
    let tenant = running.sampler.tenant(TENANT);
    let mut recent = recording.recent.iter().peekable();
    for (place, event) in recording.events.iter().enumerate() {
        running.tick_until(event.at_ns);
        while let Some((_, recent)) = recent.next_if(|(at_ns, _)| *at_ns <= event.at_ns) {
            running.sampler.set_recent(recent.clone());
        }
        running.offer(place as u32, event, tenant)?;
    }
    // Nothing more comes: what waits falls due by its own time.
    while running.sampler.waiting() > 0 {
        running.tick();
    }
    Ok(running.run)
}

/// An id for every trace, and with it R.
fn ids(traces: usize, seed: u64) -> Vec<TraceId> {
    let mut random = Random::new(Random::new(seed).next());
    let id = |_| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&random.next().to_be_bytes());
        id[8..].copy_from_slice(&random.next().to_be_bytes());
        TraceId(id)
    };
    (0..traces).map(id).collect()
}

struct Running<'r> {
    recording: &'r Recording,
    ids: Vec<TraceId>,
    /// What the policy asks of spans.
    keys: Keys,
    sampler: Sampler<u32>,
    out: Output<u32>,
    start_ns: u64,
    ticked_ns: u64,
    run: Run,
}

impl Running<'_> {
    /// Ticks up to a moment. While nothing waits nothing is decided: of a long silence the last two ticks do, which fill the budget as all would.
    fn tick_until(&mut self, at_ns: u64) {
        while self.ticked_ns + TICK_NS <= at_ns {
            let silence = (at_ns - self.ticked_ns) / TICK_NS;
            if self.sampler.waiting() == 0 && silence > 2 {
                self.ticked_ns += (silence - 2) * TICK_NS;
            }
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.ticked_ns += TICK_NS;
        let tick = Tick {
            now_ns: self.ticked_ns,
            rate: f64::INFINITY,
        };
        self.sampler.tick(tick, &mut self.out);
        self.settle();
    }

    fn offer(&mut self, place: u32, event: &Event, tenant: u32) -> anyhow::Result<()> {
        let id = self.ids[event.trace as usize];
        let mut offer = Offer::Held;
        let (sampler, out) = (&mut self.sampler, &mut self.out);
        peek::spans(&event.payload, &self.keys, |span| {
            let state = restated(span.head.trace_state, id);
            let span = SpanPeek {
                head: SpanHead {
                    trace_id: &id.0,
                    trace_state: &state,
                    ..span.head
                },
                ..*span
            };
            let at = SpanAt {
                lsn: Lsn(u64::from(place)),
                ordinal: 0,
                len: event.bytes,
            };
            offer = sampler.offer(event.at_ns, tenant, &span, at, || event.trace, out);
            true
        })
        .map_err(|error| anyhow!("a span that was read cannot be read again: {error}"))?;
        match offer {
            // What comes again is stored once, with its trace.
            Offer::Held | Offer::Again | Offer::Refused => {}
            Offer::Dropped => self.run.late[0] += 1,
            Offer::Late(decision) => {
                self.run.late[0] += 1;
                if decision.keeps(id) {
                    self.run.late[1] += 1;
                    self.keep(place, &decision);
                }
            }
        }
        self.settle();
        Ok(())
    }

    /// Books what was decided.
    fn settle(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        for verdict in &out.verdicts {
            let of = match self.run.strata.get_mut(&*verdict.decision.reason) {
                Some(of) => of,
                None => self.run.strata.entry(verdict.decision.reason.to_string()).or_default(),
            };
            let kept = [true, verdict.keep];
            for (volume, _) in of.iter_mut().zip(kept).filter(|(_, counts)| *counts) {
                volume.traces += 1;
                volume.spans += u64::from(verdict.span_count);
                volume.bytes += verdict.bytes;
            }
            for at in &out.spans[verdict.spans.clone()] {
                self.keep(at.lsn.0 as u32, &verdict.decision);
            }
            if verdict.keep {
                self.spend([verdict.cost, f64::from(verdict.span_count)]);
            }
        }
        out.clear();
        self.out = out;
    }

    fn keep(&mut self, place: u32, decision: &Decision) {
        let event = &self.recording.events[place as usize];
        let id = self.ids[event.trace as usize];
        let mut weight = None;
        // It was read once: it can be read again.
        let _ = peek::spans(&event.payload, &Keys::default(), |span| {
            let upstream = Upstream::parse(&restated(span.head.trace_state, id));
            weight = self.sampler.stamp(id, upstream, decision).weight();
            true
        });
        self.run.kept.push((place, weight));
    }

    fn spend(&mut self, cost: [f64; 2]) {
        // A tick decides what became due in the time before it.
        let second = (self.ticked_ns.saturating_sub(self.start_ns + 1) / SECOND_NS) as usize;
        if self.run.spent.len() <= second {
            self.run.spent.resize(second + 1, [0.0; 2]);
        }
        (0..2).for_each(|at| self.run.spent[second][at] += cost[at]);
    }
}

/// The tracestate with the R of another id, where it says one.
fn restated(state: &[u8], id: TraceId) -> Cow<'_, [u8]> {
    let Some(said) = Upstream::parse(state).randomness else {
        return Cow::Borrowed(state);
    };
    let text = |randomness: Randomness| format!("{:014x}", randomness.bits());
    let (said, instead) = (text(said), text(Randomness::of_trace(id)));
    let at = state
        .windows(said.len())
        .position(|part| part.eq_ignore_ascii_case(said.as_bytes()));
    let mut state = state.to_vec();
    if let Some(at) = at {
        state[at..at + instead.len()].copy_from_slice(instead.as_bytes());
    }
    Cow::Owned(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_r_is_that_of_the_new_id() {
        let id = TraceId([7; 16]);
        let check = |state: &str, expected: &str| {
            assert_eq!(String::from_utf8_lossy(&restated(state.as_bytes(), id)), expected);
        };
        check("", "");
        check("ot=th:8,x=1", "ot=th:8,x=1");
        check("a=b,ot=th:8;rv:6E6D1a75832a2f", "a=b,ot=th:8;rv:07070707070707");
    }

    #[test]
    fn seeds_have_their_own_ids_and_equal_ones_the_same() {
        assert_eq!(ids(5, 1), ids(5, 1));
        let (one, two) = (ids(100, 1), ids(100, 2));
        assert!(one.iter().all(|id| !two.contains(id)));
    }
}
