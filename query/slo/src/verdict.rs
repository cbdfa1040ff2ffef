//! Does an objective hold? Met, missed, undetermined, or no data, and why.
//!
//! "No data" comes first and never reads as met. Then the interval decides: an objective is met when all of it lies at or above the
//! target, missed when all of it lies below, undetermined when it straddles it.

use std::fmt;

use serde::Serialize;

use tailwater_openslo::Decimal;

use crate::interval::Interval;
use crate::time::Time;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The objective is missed.
    Missed,
    /// Too little was measured to say anything.
    NoData,
    /// What was measured leaves it open.
    Undetermined,
    /// The objective is met.
    Met,
}

impl Verdict {
    /// All of them, worst first.
    pub const ALL: [Self; 4] = [Self::Missed, Self::NoData, Self::Undetermined, Self::Met];

    /// In words: `no data`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::NoData => "no data",
            Self::Undetermined => "undetermined",
            Self::Met => "met",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What decides between met and missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The confidence interval of the share: the claim is about the service.
    #[default]
    Interval,
    /// The counts as they are, widened only by what is unknown about them (cut buckets): the claim is about the requests that happened.
    Counts,
}

impl Evidence {
    /// The name that [`Evidence::parse`] reads.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Counts => "counts",
        }
    }

    /// The evidence of this name: `interval` or `counts`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Interval, Self::Counts]
            .into_iter()
            .find(|evidence| evidence.word() == text)
    }
}

/// A verdict with its reason as a sentence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// The answer.
    pub verdict: Verdict,
    /// Why, for people.
    pub because: String,
}

/// What is known of a window when it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// What share must be good.
    pub target: Decimal,
    /// The interval of the share; `None` when nothing was counted.
    pub interval: Option<Interval>,
    /// Whether the counts reach the target; `None` when what is unknown about them leaves it open.
    pub counts_reach: Option<bool>,
    /// Which of the two decides.
    pub evidence: Evidence,
    /// How many were counted.
    pub events: u128,
    /// Of what: `events` or `values`.
    pub counted: &'static str,
    /// Fewest events for a verdict.
    pub min_events: u64,
    /// Share of the expected time that was looked at, and the least it must be.
    pub coverage: f64,
    /// The floor of it.
    pub coverage_floor: Decimal,
    /// Up to when data is complete; `None` when there is none at all.
    pub watermark: Option<Time>,
    /// When it was asked.
    pub at: Time,
    /// Age in seconds of the watermark from which data counts as stale.
    pub stale_after: i64,
    /// Slices whose figures contradict themselves.
    pub impossible: u128,
    /// More events are bad than there are.
    pub is_overfull: bool,
}

/// Judges a window.
#[must_use]
pub fn judge(facts: &Facts) -> Judgement {
    let says = |verdict, because: String| Judgement { verdict, because };
    let Some(watermark) = facts.watermark else {
        return says(Verdict::NoData, "nothing was ever measured".into());
    };
    let age = facts.at.0.saturating_sub(watermark.0);
    if age > facts.stale_after {
        return says(
            Verdict::NoData,
            format!("data ends at {watermark}, {} before the time asked about", seconds(age)),
        );
    }
    let Some(interval) = facts.interval else {
        return says(
            Verdict::NoData,
            format!("not one {} in the window", singular(facts.counted)),
        );
    };
    if facts.coverage < facts.coverage_floor.to_f64() {
        let (coverage, floor) = (facts.coverage * 100.0, facts.coverage_floor.to_f64() * 100.0);
        return says(
            Verdict::NoData,
            format!("only {coverage:.1}% of the time was measured, less than {floor}%"),
        );
    }
    if facts.impossible > 0 {
        let slices = facts.impossible;
        return says(
            Verdict::Undetermined,
            format!("{slices} slices contradict themselves (more good than all, or counted twice)"),
        );
    }
    if facts.is_overfull {
        let events = facts.events;
        return says(
            Verdict::Undetermined,
            format!("more bad events than the {events} there were: they are of events from before the window"),
        );
    }
    if facts.events < facts.min_events.into() {
        return says(
            Verdict::Undetermined,
            format!(
                "{} {}, fewer than the {} asked for",
                facts.events, facts.counted, facts.min_events
            ),
        );
    }
    match facts.evidence {
        Evidence::Interval => {
            let target = facts.target.to_f64();
            if interval.lo >= target {
                says(Verdict::Met, "the whole interval is at or above the target".into())
            } else if interval.hi < target {
                says(Verdict::Missed, "the whole interval is below the target".into())
            } else {
                says(
                    Verdict::Undetermined,
                    "the interval holds the target: too few events, or too close to it".into(),
                )
            }
        }
        Evidence::Counts => match facts.counts_reach {
            Some(true) => says(Verdict::Met, "the counts reach the target".into()),
            Some(false) => says(Verdict::Missed, "the counts miss the target".into()),
            None => says(
                Verdict::Undetermined,
                "a threshold inside a bucket leaves it open".into(),
            ),
        },
    }
}

/// One of what is counted: `event`, `value`.
pub(crate) fn singular(counted: &str) -> &str {
    counted.trim_end_matches('s')
}

/// `3d 4h`, `43m`, `12s`: two units at most, for people.
#[must_use]
pub fn seconds(seconds: i64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let sign = if seconds < 0 { "-" } else { "" };
    let left = seconds.unsigned_abs();
    let Some(first) = UNITS.iter().position(|(_, size)| left >= *size) else {
        return "0s".into();
    };
    let (unit, size) = UNITS[first];
    let text = format!("{sign}{}{unit}", left / size);
    match UNITS.get(first + 1) {
        Some((next, small)) if left % size / small > 0 => format!("{text} {}{next}", left % size / small),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::interval::{Confidence, wilson};

    fn facts(bad: u32, n: u32, target: &str) -> Facts {
        let interval = wilson(bad.into(), n.into(), Confidence::P95).flipped();
        let target = Decimal::parse(target).unwrap();
        Facts {
            target,
            interval: (n > 0).then_some(interval),
            counts_reach: Some(crate::tally::reached(target, (n - bad).into(), n.into())),
            evidence: Evidence::Interval,
            events: n.into(),
            counted: "events",
            min_events: 0,
            coverage: 1.0,
            coverage_floor: Decimal::parse("0.9").unwrap(),
            watermark: Some(Time(1000)),
            at: Time(1000),
            stale_after: 600,
            impossible: 0,
            is_overfull: false,
        }
    }

    #[test]
    fn verdicts() {
        let check = |facts: Facts, verdict: Verdict, word: &str| {
            let judgement = judge(&facts);
            assert_eq!(judgement.verdict, verdict, "{facts:?}");
            assert!(judgement.because.contains(word), "{}", judgement.because);
        };
        // design/slo.md 2c: 1 of 2,000 leaves 99.9 % open, 100 of 200,000 leaves 99.95 % open and 99.9 % met.
        check(facts(1, 2000, "0.999"), Verdict::Undetermined, "holds the target");
        check(facts(100, 200_000, "0.9995"), Verdict::Undetermined, "holds the target");
        check(facts(100, 200_000, "0.999"), Verdict::Met, "at or above");
        check(facts(400, 200_000, "0.999"), Verdict::Missed, "below");
        let counts = |mut facts: Facts| {
            facts.evidence = Evidence::Counts;
            facts
        };
        check(counts(facts(1, 2000, "0.999")), Verdict::Met, "reach");
        check(counts(facts(3, 2000, "0.999")), Verdict::Missed, "miss");
        check(
            Facts {
                counts_reach: None,
                ..counts(facts(3, 2000, "0.999"))
            },
            Verdict::Undetermined,
            "bucket",
        );
        let met = facts(100, 200_000, "0.999");
        check(
            Facts { coverage: 0.89, ..met },
            Verdict::NoData,
            "only 89.0% of the time",
        );
        check(Facts { watermark: None, ..met }, Verdict::NoData, "ever");
        check(
            Facts { at: Time(1601), ..met },
            Verdict::NoData,
            "data ends at 1970-01-01T00:16:40Z, 10m 1s before",
        );
        check(Facts { at: Time(1600), ..met }, Verdict::Met, "");
        check(Facts { impossible: 2, ..met }, Verdict::Undetermined, "2 slices");
        check(
            Facts {
                is_overfull: true,
                ..met
            },
            Verdict::Undetermined,
            "more bad events than the 200000",
        );
        check(
            Facts {
                min_events: 200_001,
                ..met
            },
            Verdict::Undetermined,
            "200000 events, fewer",
        );
        check(
            Facts {
                min_events: 200_001,
                counted: "values",
                ..met
            },
            Verdict::Undetermined,
            "200000 values, fewer",
        );
        check(facts(0, 0, "0"), Verdict::NoData, "not one event");
        // No data wins over everything else, above all over met.
        check(
            Facts {
                coverage: 0.0,
                impossible: 1,
                ..met
            },
            Verdict::NoData,
            "",
        );
    }

    #[test]
    fn spans_of_time_for_people() {
        for (n, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3661, "1h 1m"),
            (90_000, "1d 1h"),
            (86_400, "1d"),
            (-90, "-1m 30s"),
            (86_460, "1d"),
        ] {
            assert_eq!(seconds(n), text);
        }
    }
}
