//! What the runs say together: volumes, the budget, and how far off estimates are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;
use tailwater_sampling::policy::Policy;
use tailwater_slo::estimate::{self, Draw, Estimate, Part, Seen, TraceKey, at_rank};
use tailwater_slo::interval::Confidence;

use super::recording::Recording;
use super::run::{Run, Volume};
use crate::load::tally::align;

const SECOND_NS: u64 = 1_000_000_000;

/// What was found. Volumes are means over the runs.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was recorded.
    pub recording: Recorded,
    /// Runs, each with other trace ids.
    pub seeds: u64,
    /// By stratum, those that had traces.
    pub strata: Vec<Stratum>,
    /// Spans that came after their trace was decided, and are in no stratum.
    pub late: Late,
    /// By budget that the policy sets.
    pub budgets: Vec<Budget>,
    /// By service that is entered.
    pub services: Vec<Service>,
}

/// What was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Recorded {
    pub files: usize,
    pub spans: usize,
    pub traces: usize,
    pub services: usize,
    /// From the first end to the last.
    pub milliseconds: u64,
    /// Spans that an intake would not accept; they are nowhere else.
    pub rejected: u64,
}

/// A stratum, or what else decided (`admission`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stratum {
    /// Its name.
    pub stratum: String,
    /// What fell due.
    pub offered: Mean,
    /// What of it is kept.
    pub kept: Mean,
}

/// Traces, spans and bytes as sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Mean {
    pub traces: f64,
    pub spans: f64,
    pub bytes: f64,
}

/// Late spans.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Late {
    pub spans: f64,
    pub kept: f64,
}

/// A budget, and what is used of it: 1 is all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Budget {
    /// Its key in the policy.
    pub budget: &'static str,
    /// What it allows a second.
    pub per_second: f64,
    /// Used on average of the seconds in which spans arrived.
    pub mean: f64,
    /// Used in the worst second of all runs.
    pub worst_second: f64,
}

/// A service: how far off what is kept would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Service {
    pub service: String,
    /// Its requests.
    pub requests: Accuracy,
    /// The share of them that failed.
    pub error_share: Accuracy,
    /// Their P99.
    pub p99_ms: Accuracy,
}

/// A figure, and how well it is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// What it is.
    pub truth: f64,
    /// Root of the mean square of the errors, against the truth (where that is 0, by itself); `None` where no run has an estimate.
    pub rms: Option<f64>,
    /// Share of the intervals of 95 % that hold the truth.
    pub held: Option<f64>,
    /// Runs that have an estimate.
    pub runs: u64,
}

impl Report {
    pub(super) fn new(recording: &Recording, policy: &Policy, runs: &[Run]) -> Report {
        let recorded = Recorded {
            files: recording.files,
            spans: recording.events.len(),
            traces: recording.traces,
            services: recording.services.len(),
            milliseconds: (recording.seconds() * 1e3) as u64,
            rejected: recording.rejected,
        };
        let mean = |of: &dyn Fn(&Run) -> u64| runs.iter().map(|run| of(run) as f64).sum::<f64>() / runs.len() as f64;
        Report {
            recording: recorded,
            seeds: runs.len() as u64,
            strata: strata(policy, runs),
            late: Late {
                spans: mean(&|run| run.late[0]),
                kept: mean(&|run| run.late[1]),
            },
            budgets: budgets(recording, policy, runs),
            services: services(recording, runs),
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let Recorded {
            files,
            spans,
            traces,
            services,
            milliseconds,
            rejected,
        } = self.recording;
        let mut text = format!(
            "Recorded: {spans} spans of {traces} traces and {services} services, {} s, {files} files. Runs with other trace ids: {}.\n",
            milliseconds / 1000,
            self.seeds
        );
        if rejected > 0 {
            let _ = writeln!(text, "{rejected} more spans would not be accepted, and are left out.");
        }
        let mut rows = vec![["stratum", "traces", "kept", "spans", "kept", "sent bytes", "kept"].map(str::to_owned)];
        let all = self.strata.iter().fold((Mean::default(), Mean::default()), |sum, one| {
            (sum.0.and(one.offered), sum.1.and(one.kept))
        });
        let lines = self
            .strata
            .iter()
            .map(|one| (one.stratum.as_str(), one.offered, one.kept));
        for (name, offered, kept) in lines.chain([("all", all.0, all.1)]) {
            let pair = |offered: f64, kept: f64| [format!("{offered:.0}"), percent(kept / offered.max(1.0))];
            let [[a, b], [c, d], [e, f]] = [
                pair(offered.traces, kept.traces),
                pair(offered.spans, kept.spans),
                pair(offered.bytes, kept.bytes),
            ];
            rows.push([name.to_owned(), a, b, c, d, e, f]);
        }
        let _ = writeln!(text, "\n{}", align(&rows));
        if self.late.spans > 0.0 {
            let Late { spans, kept } = self.late;
            let _ = writeln!(
                text,
                "{spans:.0} more spans come after the decision of their trace; {kept:.0} of them are kept.\n"
            );
        }
        if !self.budgets.is_empty() {
            let mut rows = vec![["budget", "a second", "mean use", "worst second"].map(str::to_owned)];
            rows.extend(self.budgets.iter().map(|one| {
                [
                    one.budget.to_owned(),
                    format!("{:.0}", one.per_second),
                    percent(one.mean),
                    percent(one.worst_second),
                ]
            }));
            let _ = writeln!(text, "{}", align(&rows));
        }
        let heads = [
            "service", "requests", "off", "held", "errors", "off", "held", "p99 ms", "off", "held",
        ];
        let mut rows = vec![heads.map(str::to_owned)];
        rows.extend(self.services.iter().map(|one| {
            let cells = |figure: Accuracy, truth: String| {
                let share = |share: Option<f64>| share.map_or("-".to_owned(), percent);
                [truth, share(figure.rms), share(figure.held)]
            };
            let [[a, b, c], [d, e, f], [g, h, i]] = [
                cells(one.requests, format!("{:.0}", one.requests.truth)),
                cells(one.error_share, percent(one.error_share.truth)),
                cells(one.p99_ms, format!("{:.1}", one.p99_ms.truth)),
            ];
            [one.service.clone(), a, b, c, d, e, f, g, h, i]
        }));
        let _ = write!(
            text,
            "{}off: relative error (RMS over runs) of what the kept spans say. held: intervals of 95 % that hold the truth.\n\
             SLIs are not read from these: RED counts before sampling, and has no such error.\n",
            align(&rows)
        );
        text
    }
}

impl Mean {
    fn and(self, other: Mean) -> Mean {
        Mean {
            traces: self.traces + other.traces,
            spans: self.spans + other.spans,
            bytes: self.bytes + other.bytes,
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// In the order of the policy; what is no stratum comes last.
fn strata(policy: &Policy, runs: &[Run]) -> Vec<Stratum> {
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.strata.keys()).collect();
    let place = |name: &str| policy.strata.iter().position(|stratum| *stratum.name == *name);
    let mut names: Vec<&String> = names.into_iter().collect();
    names.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
    let mean = |name: &String, at: usize| {
        let of = |part: fn(&Volume) -> u64| {
            let sum: u64 = runs
                .iter()
                .filter_map(|run| run.strata.get(name))
                .map(|both| part(&both[at]))
                .sum();
            sum as f64 / runs.len() as f64
        };
        Mean {
            traces: of(|volume| volume.traces),
            spans: of(|volume| volume.spans),
            bytes: of(|volume| volume.bytes),
        }
    };
    let stratum = |name: &String| Stratum {
        stratum: name.clone(),
        offered: mean(name, 0),
        kept: mean(name, 1),
    };
    names.into_iter().map(stratum).collect()
}

fn budgets(recording: &Recording, policy: &Policy, runs: &[Run]) -> Vec<Budget> {
    let busy: BTreeSet<u64> = recording.events.iter().map(|event| event.at_ns / SECOND_NS).collect();
    let set = [
        ("stored_bytes_per_sec", policy.budget.bytes_per_sec, 0),
        ("stored_bytes_per_day", policy.budget.bytes_per_day / 86_400.0, 0),
        ("spans_per_sec", policy.budget.spans_per_sec, 1),
    ];
    let use_of = |(budget, per_second, resource): (&'static str, f64, usize)| {
        let spent = |run: &Run| run.spent.iter().map(|second| second[resource]).sum::<f64>();
        let all = runs.iter().map(spent).sum::<f64>() / runs.len() as f64;
        let seconds = runs.iter().flat_map(|run| &run.spent);
        Budget {
            budget,
            per_second,
            mean: all / busy.len() as f64 / per_second,
            worst_second: seconds.map(|second| second[resource]).fold(0.0, f64::max) / per_second,
        }
    };
    set.into_iter()
        .filter(|(_, budget, _)| budget.is_finite())
        .map(use_of)
        .collect()
}

/// Requests of a service as an estimate wants them.
#[derive(Debug, Default)]
struct Requests {
    /// By trace and bits of the weight.
    parts: BTreeMap<(u32, u64), Part>,
    draws: Vec<(Draw, TraceKey)>,
    seen: Seen,
}

impl Requests {
    fn add(&mut self, trace: u32, weight: f64, is_error: bool, duration_ns: u64) {
        let key: TraceKey = [u64::from(trace), 1];
        let part = self.parts.entry((trace, weight.to_bits())).or_insert(Part {
            trace: key,
            weight,
            num: 0.0,
            den: 0.0,
        });
        part.num += f64::from(u8::from(is_error));
        part.den += 1.0;
        self.seen.rows += 1;
        self.seen.positive = true;
        self.seen.sampled |= weight > 1.0;
        let value = duration_ns as f64 / 1e6;
        self.draws.push((Draw { value, weight }, key));
    }

    /// Number, share of errors, P99 in ms.
    fn estimates(mut self) -> [Estimate; 3] {
        let mut failed: Vec<Part> = self.parts.into_values().collect();
        estimate::sort(&mut failed);
        let counted: Vec<Part> = failed.iter().map(|part| Part { num: part.den, ..*part }).collect();
        [
            estimate::total(&counted, self.seen, Confidence::P95),
            estimate::ratio(&failed, self.seen, Confidence::P95),
            estimate::quantile(&mut self.draws, 0.99, self.seen, Confidence::P95),
        ]
    }
}

/// By service, the requests among these spans, each with its weight.
fn requests(recording: &Recording, spans: impl Iterator<Item = (u32, Option<f64>)>) -> Vec<Requests> {
    let mut of: Vec<Requests> = recording.services.iter().map(|_| Requests::default()).collect();
    for (place, weight) in spans {
        let event = &recording.events[place as usize];
        let of = &mut of[event.service as usize];
        match (event.is_entry, weight) {
            (false, _) => {}
            (true, None) => of.seen.unweighted += 1,
            (true, Some(weight)) => of.add(event.trace, weight, event.is_error, event.duration_ns),
        }
    }
    of
}

fn services(recording: &Recording, runs: &[Run]) -> Vec<Service> {
    let all = recording.events.iter().enumerate();
    let truths = requests(recording, all.map(|(place, event)| (place as u32, Some(event.weight))));
    let mut estimates: Vec<Vec<[Estimate; 3]>> = truths.iter().map(|_| Vec::new()).collect();
    for run in runs {
        let found = requests(recording, run.kept.iter().copied());
        estimates
            .iter_mut()
            .zip(found)
            .for_each(|(of, found)| of.push(found.estimates()));
    }
    let service = |((name, truth), estimates): ((&String, Requests), Vec<[Estimate; 3]>)| {
        let count: f64 = truth.parts.values().map(|part| part.weight * part.den).sum();
        let failed: f64 = truth.parts.values().map(|part| part.weight * part.num).sum();
        let mut draws: Vec<Draw> = truth.draws.iter().map(|(draw, _)| *draw).collect();
        let p99_ms = at_rank(&mut draws, 0.99)?;
        // Of nothing kept, nothing is what it says of how many there were.
        let nothing = |mut found: Estimate| {
            let none = found.estimate.is_none();
            found.estimate = Some(found.estimate.unwrap_or(0.0));
            (found.low, found.high) = if none {
                (Some(0.0), Some(0.0))
            } else {
                (found.low, found.high)
            };
            found
        };
        Some(Service {
            service: name.clone(),
            requests: Accuracy::of(count, estimates.iter().map(|[number, ..]| nothing(*number))),
            error_share: Accuracy::of(failed / count, estimates.iter().map(|[_, share, _]| *share)),
            p99_ms: Accuracy::of(p99_ms, estimates.iter().map(|[.., p99]| *p99)),
        })
    };
    let mut services: Vec<Service> = recording
        .services
        .iter()
        .zip(truths)
        .zip(estimates)
        .filter_map(service)
        .collect();
    services.sort_by(|left, right| left.service.cmp(&right.service));
    services
}

impl Accuracy {
    fn of(truth: f64, estimates: impl Iterator<Item = Estimate>) -> Accuracy {
        let (mut runs, mut squares, mut held) = (0_u32, 0.0, 0.0);
        // What one sum rounds one way another may round the other way.
        let (least, most) = (truth * (1.0 - 1e-9), truth * (1.0 + 1e-9));
        for found in estimates {
            let Some(estimate) = found.estimate else { continue };
            let off = if truth > 0.0 {
                (estimate - truth) / truth
            } else {
                estimate
            };
            let holds = found.low.is_none_or(|low| low <= most) && found.high.is_none_or(|high| least <= high);
            runs += 1;
            squares += off * off;
            held += f64::from(u8::from(holds));
        }
        let mean = |sum: f64| (runs > 0).then(|| sum / f64::from(runs));
        Accuracy {
            truth,
            rms: mean(squares).map(f64::sqrt),
            held: mean(held),
            runs: runs.into(),
        }
    }
}
