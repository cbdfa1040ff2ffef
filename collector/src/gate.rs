//! The last rung of the overload ladder: what the tail sees at its ticks, and intake refuses by before it reads a body.
//!
//! Guarantees: a request refused here was not accepted, so nothing is lost; clients come again after what is queued has drained, spread. Without a
//! sampling policy there is no ladder, and requests meet intake's own budgets alone.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tailwater_model::signal::Signal;
use tailwater_runtime::health::Handle;
use tailwater_sampling::governor::{self, Rung};

/// What is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The queue to the writer of the intake log.
    WriterQueue = 1,
    /// The intake log's room on disk.
    IntakeLog,
    /// Memory of waiting traces, down to those that policies protect. Other signals do not take of it.
    TraceMemory,
}

impl Cause {
    const ALL: [Cause; 3] = [Cause::WriterQueue, Cause::IntakeLog, Cause::TraceMemory];

    /// Label of the refusals.
    pub fn name(self) -> &'static str {
        match self {
            Cause::WriterQueue => "writer_queue",
            Cause::IntakeLog => "intake_log",
            Cause::TraceMemory => "trace_memory",
        }
    }
}

/// Open until told otherwise.
#[derive(Debug, Default)]
pub struct Gate {
    /// A [`Cause`]; 0 is open.
    cause: AtomicU8,
    delay_ms: AtomicU64,
    health: Option<Handle>,
}

impl Gate {
    /// A gate that says in `/readyz` where it stands.
    pub fn new(health: Handle) -> Gate {
        health.ready();
        Gate {
            health: Some(health),
            ..Gate::default()
        }
    }

    /// Where the ladder stands, what is fullest, and how long what is queued takes to drain.
    pub fn stand(&self, rung: Rung, fullest: Cause, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.delay_ms.store(millis, Ordering::Relaxed);
        let cause = if rung == Rung::Refuse { fullest as u8 } else { 0 };
        self.cause.store(cause, Ordering::Relaxed);
        let Some(health) = &self.health else { return };
        match rung {
            Rung::Normal => health.ready(),
            Rung::Refuse => health.not_ready(format!("requests are refused: {} is full", fullest.name())),
            _ => health.degraded(format!("less is kept than the policy asks for: {}", rung.name())),
        }
    }

    /// Why a request of this signal is refused, if it is, and when it should come again; `seed` differs from request to request.
    pub fn refuses(&self, signal: Signal, seed: u64) -> Option<(&'static str, Duration)> {
        let cause = self.cause.load(Ordering::Relaxed);
        let cause = Cause::ALL.into_iter().find(|known| *known as u8 == cause)?;
        if cause == Cause::TraceMemory && signal != Signal::Traces {
            return None;
        }
        let delay = Duration::from_millis(self.delay_ms.load(Ordering::Relaxed));
        Some((cause.name(), governor::retry_after(delay, seed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tailwater_runtime::Readiness;

    #[test]
    fn only_the_last_rung_refuses_and_every_rung_is_seen() {
        let readiness = Readiness::new();
        let gate = Gate::new(readiness.condition("overload"));
        let state = || format!("{:?}", readiness.report().state).to_lowercase();
        let second = Duration::from_secs(1);
        for (rung, cause, signal, refused, seen) in [
            (Rung::Normal, Cause::IntakeLog, Signal::Traces, None, "ready"),
            (Rung::Rest, Cause::IntakeLog, Signal::Traces, None, "degraded"),
            (Rung::Protected, Cause::IntakeLog, Signal::Traces, None, "degraded"),
            (Rung::Admission, Cause::TraceMemory, Signal::Traces, None, "degraded"),
            (
                Rung::Refuse,
                Cause::WriterQueue,
                Signal::Metrics,
                Some("writer_queue"),
                "notready",
            ),
            (
                Rung::Refuse,
                Cause::IntakeLog,
                Signal::Logs,
                Some("intake_log"),
                "notready",
            ),
            (
                Rung::Refuse,
                Cause::TraceMemory,
                Signal::Traces,
                Some("trace_memory"),
                "notready",
            ),
            (Rung::Refuse, Cause::TraceMemory, Signal::Logs, None, "notready"),
            (Rung::Admission, Cause::TraceMemory, Signal::Traces, None, "degraded"),
            (Rung::Normal, Cause::TraceMemory, Signal::Traces, None, "ready"),
        ] {
            gate.stand(rung, cause, second);
            assert_eq!(
                gate.refuses(signal, 1).map(|(what, _)| what),
                refused,
                "{rung:?} {cause:?} {signal:?}"
            );
            assert_eq!(state(), seen, "{rung:?}");
        }
    }

    #[test]
    fn who_is_refused_comes_again_when_the_backlog_has_drained_and_not_all_at_once() {
        let gate = Gate::default();
        for (delay_s, least, most) in [(0, 0.5, 1.5), (10, 5.0, 15.0), (3600, 30.0, 90.0)] {
            gate.stand(Rung::Refuse, Cause::IntakeLog, Duration::from_secs(delay_s));
            let waits: Vec<f64> = (0..500)
                .filter_map(|seed| gate.refuses(Signal::Traces, seed))
                .map(|(_, wait)| wait.as_secs_f64())
                .collect();
            assert_eq!(waits.len(), 500);
            assert!(waits.iter().all(|wait| (least..=most).contains(wait)), "{delay_s}");
            let (first, last) = waits
                .iter()
                .fold((f64::MAX, 0.0f64), |(a, b), wait| (a.min(*wait), b.max(*wait)));
            assert!(
                last - first > 0.8 * (most - least),
                "{delay_s}: spread over {first} to {last}"
            );
        }
    }
}
