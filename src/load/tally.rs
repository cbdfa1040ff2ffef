//! Counting a run: items and bytes by outcome, ack latencies in a log-linear histogram, the report made of both.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tailwater_model::signal::Signal;

/// Latencies with a relative error below 1/64, in constant memory (about 20 KiB).
#[derive(Debug, Clone)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

/// Linear steps per power of two.
const STEPS: u64 = 64;

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            buckets: vec![0; 2_560],
            count: 0,
            max: Duration::ZERO,
        }
    }
}

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, latency: Duration) {
        let bucket = bucket_of(latency.as_micros() as u64).min(self.buckets.len() - 1);
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max = self.max.max(latency);
    }

    /// The value below which a share `q` of the latencies lies; zero when there are none.
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(upper_of(bucket)).min(self.max);
            }
        }
        Duration::ZERO
    }

    /// The largest.
    pub fn max(&self) -> Duration {
        self.max
    }
}

fn bucket_of(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let shift = us.ilog2() - STEPS.ilog2();
    (u64::from(shift) * STEPS + (us >> shift)) as usize
}

fn upper_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << shift) - 1
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted whole.
    Acked,
    /// Accepted, so many items rejected.
    Partial(u64),
    /// Refused for good, with the server's words.
    Final(String),
    /// Never answered, or still refused when the time for retries was up after an unanswered attempt.
    Unknown(String),
    /// Refused until the time for retries was up; the server said each time that it kept nothing.
    Refused(String),
}

impl Outcome {
    /// Name in the ledger file.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Acked => "acked",
            Outcome::Partial(_) => "partial",
            Outcome::Final(_) => "final",
            Outcome::Unknown(_) => "unknown",
            Outcome::Refused(_) => "refused",
        }
    }
}

/// Figures of one signal.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Requests sent at least once.
    pub requests: u64,
    /// Items in them.
    pub sent: u64,
    /// Items acknowledged.
    pub acked: u64,
    /// Requests acknowledged.
    pub acked_requests: u64,
    /// Attempts beyond the first.
    pub retried: u64,
    /// Attempts answered with a retryable code.
    pub refused: u64,
    /// Items rejected one by one, or in requests refused for good.
    pub rejected: u64,
    /// Items in requests whose end is not known, or that were still refused at the end.
    pub unanswered: u64,
    /// Requests that were due and never sent, because too many were in flight.
    pub unsent_requests: u64,
    /// Payload bytes before compression.
    pub payload_bytes: u64,
    /// Body bytes on the wire, retries included.
    pub wire_bytes: u64,
    /// Ack latency from the moment a request was due, milliseconds.
    pub ack_p50_ms: f64,
    /// 99th percentile of the same.
    pub ack_p99_ms: f64,
    /// Largest of the same.
    pub ack_max_ms: f64,
    /// Refusals and failures by the server's words (or the cause, without an answer).
    pub reasons: BTreeMap<String, u64>,
}

/// Distinct reasons kept per signal; the rest counts as `other`.
const REASONS_MAX: usize = 32;

/// Counters of a run, one set a signal, shared by its senders.
#[derive(Debug, Default)]
pub struct Tally {
    signals: Mutex<BTreeMap<Signal, (Figures, Latencies)>>,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Signal, (Figures, Latencies)>> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the figures of a signal.
    pub fn change(&self, signal: Signal, change: impl FnOnce(&mut Figures)) {
        change(&mut self.lock().entry(signal).or_default().0);
    }

    /// Counts a reason.
    pub fn reason(&self, signal: Signal, reason: &str) {
        self.change(signal, |figures| {
            let known = figures.reasons.len() < REASONS_MAX || figures.reasons.contains_key(reason);
            *figures
                .reasons
                .entry(if known { reason } else { "other" }.to_owned())
                .or_default() += 1;
        });
    }

    /// Counts how a request of `items` items ended, `latency` after it was due.
    pub fn end(&self, signal: Signal, items: u64, outcome: &Outcome, latency: Duration) {
        let mut signals = self.lock();
        let (figures, latencies) = signals.entry(signal).or_default();
        match outcome {
            Outcome::Acked | Outcome::Partial(_) => {
                let rejected = if let Outcome::Partial(rejected) = outcome {
                    (*rejected).min(items)
                } else {
                    0
                };
                figures.rejected += rejected;
                figures.acked += items - rejected;
                figures.acked_requests += 1;
                latencies.add(latency);
            }
            Outcome::Final(_) => figures.rejected += items,
            Outcome::Unknown(_) | Outcome::Refused(_) => figures.unanswered += items,
        }
    }

    /// The figures so far, with their latencies filled in.
    pub fn report(&self, seed: u64, elapsed: Duration) -> Report {
        let signals = self
            .lock()
            .iter()
            .map(|(signal, (figures, latencies))| {
                let ms = |latency: Duration| latency.as_secs_f64() * 1_000.0;
                let figures = Figures {
                    ack_p50_ms: ms(latencies.quantile(0.5)),
                    ack_p99_ms: ms(latencies.quantile(0.99)),
                    ack_max_ms: ms(latencies.max()),
                    ..figures.clone()
                };
                (signal.name(), figures)
            })
            .collect();
        Report {
            seed,
            seconds: elapsed.as_secs_f64(),
            signals,
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Seed of ids and contents.
    pub seed: u64,
    /// How long it took, from the first request being due to the last answer.
    pub seconds: f64,
    /// Figures by signal.
    pub signals: BTreeMap<&'static str, Figures>,
}

impl Report {
    /// Whether every item sent was acknowledged and nothing that was due stayed unsent.
    pub fn complete(&self) -> bool {
        self.signals
            .values()
            .all(|figures| figures.acked == figures.sent && figures.unsent_requests == 0)
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut rows = vec![
            [
                "signal",
                "sent",
                "acked",
                "retried",
                "refused",
                "rejected",
                "unanswered",
                "items/s",
                "MB/s",
                "ack p50",
                "p99",
                "max",
            ]
            .map(str::to_owned),
        ];
        let seconds = self.seconds.max(1e-9);
        for (signal, figures) in &self.signals {
            // What nothing was acknowledged of has no speed.
            let acked = |figure: String| match figures.acked_requests {
                0 => "-".to_owned(),
                _ => figure,
            };
            rows.push([
                (*signal).to_owned(),
                figures.sent.to_string(),
                figures.acked.to_string(),
                figures.retried.to_string(),
                figures.refused.to_string(),
                figures.rejected.to_string(),
                figures.unanswered.to_string(),
                acked(format!("{:.0}", figures.acked as f64 / seconds)),
                acked(format!("{:.1}", figures.payload_bytes as f64 / seconds / 1e6)),
                acked(format!("{:.2} ms", figures.ack_p50_ms)),
                acked(format!("{:.2} ms", figures.ack_p99_ms)),
                acked(format!("{:.2} ms", figures.ack_max_ms)),
            ]);
        }
        let mut text = align(&rows);
        for (signal, figures) in &self.signals {
            for (reason, count) in &figures.reasons {
                text.push_str(&format!("{signal}: {count} x {reason}\n"));
            }
            if figures.unsent_requests > 0 {
                text.push_str(&format!(
                    "{signal}: {} requests were due and not sent: too many in flight, the server or this generator is too slow\n",
                    figures.unsent_requests
                ));
            }
        }
        text.push_str(&format!("seed {}, {:.1} s\n", self.seed, self.seconds));
        text
    }
}

/// Rows as columns: the first left-aligned, the others right-aligned.
pub fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut latencies = Latencies::default();
        (1..=100_000).for_each(|us| latencies.add(Duration::from_micros(us)));
        for q in [0.01, 0.5, 0.9, 0.99] {
            let (want, got) = (100_000.0 * q, latencies.quantile(q).as_micros() as f64);
            assert!((got / want - 1.0).abs() < 0.02, "{q}: {got} for {want}");
        }
        assert_eq!(latencies.quantile(1.0), Duration::from_millis(100));
        assert_eq!(Latencies::default().quantile(0.99), Duration::ZERO);
        latencies.add(Duration::from_secs(86_400 * 400));
    }

    #[test]
    fn every_item_ends_in_one_figure() {
        let tally = Tally::default();
        let ends = [
            Outcome::Acked,
            Outcome::Partial(3),
            Outcome::Final("400".into()),
            Outcome::Unknown("gone".into()),
            Outcome::Refused("503".into()),
        ];
        for outcome in &ends {
            tally.change(Signal::Logs, |figures| figures.sent += 10);
            tally.end(Signal::Logs, 10, outcome, Duration::from_millis(2));
        }
        let report = tally.report(1, Duration::from_secs(2));
        let figures = &report.signals["logs"];
        assert_eq!((figures.acked, figures.rejected, figures.unanswered), (17, 13, 20));
        assert_eq!(figures.acked + figures.rejected + figures.unanswered, figures.sent);
        assert!(!report.complete());
        assert!(
            report
                .table()
                .lines()
                .next()
                .is_some_and(|line| line.starts_with("signal"))
        );
    }

    #[test]
    fn what_was_never_acknowledged_has_no_speed() {
        let tally = Tally::default();
        tally.change(Signal::Logs, |figures| {
            (figures.sent, figures.payload_bytes) = (10, 1 << 20)
        });
        let gone = Outcome::Unknown("gone".into());
        tally.end(Signal::Logs, 10, &gone, Duration::from_millis(2));
        let row = |tally: &Tally| {
            let table = tally.report(1, Duration::from_secs(1)).table();
            let line = table.lines().nth(1).unwrap_or_default().to_owned();
            let cells: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            cells[7..].join(" ")
        };
        assert_eq!(row(&tally), "- - - - -");
        tally.end(Signal::Logs, 10, &Outcome::Acked, Duration::from_millis(2));
        assert_eq!(row(&tally), "10 1.0 2.00 ms 2.00 ms 2.00 ms");
    }

    #[test]
    fn reasons_are_bounded() {
        let tally = Tally::default();
        (0..100).for_each(|n| tally.reason(Signal::Traces, &format!("reason {n}")));
        let reasons = tally.report(0, Duration::ZERO).signals["traces"].reasons.clone();
        assert_eq!(reasons.len(), REASONS_MAX + 1);
        assert_eq!(reasons.values().sum::<u64>(), 100);
    }
}
