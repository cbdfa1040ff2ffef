//! C1: no trace is kept by halves, however its spans are shuffled, come late, meet a full memory, another policy, or another
//! owner that takes over from the log and a checkpoint.

use std::collections::{BTreeMap, HashMap};

use super::{ERRORS_AND_REST, SECOND_NS, goal};
use crate::late::Memory;
use crate::sampler::{Offer, Output, Sampler, Tick};
use crate::sim::{Burst, Made, Random, START_NS, Traffic};
use crate::threshold::Threshold;
use crate::verdict::SpanAt;
use tailwater_model::ids::{Lsn, TraceId};

/// What became of a trace's spans.
#[derive(Debug, Default)]
struct Fate {
    sent: u32,
    stored: u32,
    /// Rows that say `partial` or `late`.
    flagged: u32,
    /// By how many different thresholds.
    thresholds: Vec<Threshold>,
}

#[derive(Debug, Default)]
struct Counts {
    traces: usize,
    whole: usize,
    flagged: u32,
    evicted: u32,
    /// Kept by halves.
    halves: usize,
    /// Stored with different weights.
    mixed: usize,
}

const SECONDS: u64 = 60;
/// The latest span of a trace, after its first; nothing is forgotten before, unless a test makes it so.
const LATEST_NS: u64 = 40 * SECOND_NS;

/// Spans of made up traces, two to nine each, in the order of their arrival: shuffled within a second or two, one in ten up to 40 s late.
fn arrivals(random: &mut Random) -> Vec<(u64, Made, u8)> {
    let traffic = Traffic {
        spans_per_sec: 300.0,
        spans_per_trace: 10.0,
        errors: 0.1,
        burst: Burst::None,
        ..Traffic::default()
    };
    let mut spans = Vec::new();
    for second in 0..SECONDS {
        for made in traffic.second(second, random) {
            for number in 0..2 + (random.next() % 8) as u8 {
                let after = match random.next() % 10 {
                    0 => random.next() % LATEST_NS,
                    _ => random.next() % (2 * SECOND_NS),
                };
                spans.push((made.at_ns + after, made.clone(), number));
            }
        }
    }
    spans.sort_by_key(|(at_ns, made, number)| (*at_ns, made.id, *number));
    spans
}

/// One life after another: every `life_s` seconds a new owner restores the checkpoint and takes up what was undecided from the log.
fn counts(memory: Memory, buffer_bytes: u64, life_s: u64, seed: u64) -> Counts {
    let policy = |spans: f64| {
        let mut policy = goal(spans, ERRORS_AND_REST);
        policy.trace.buffer_bytes = buffer_bytes;
        policy
    };
    let begin = |now_ns| Sampler::<()>::new(policy(150.0), memory, now_ns).unwrap();
    let mut random = Random::new(seed);
    let log = arrivals(&mut random);
    let mut fates: BTreeMap<TraceId, Fate> = BTreeMap::new();
    let (mut counts, mut output) = (Counts::default(), Output::default());
    let mut sampler = begin(START_NS);
    // Places in the log of what waits, by trace.
    let mut waits: HashMap<TraceId, Vec<usize>> = HashMap::new();
    let mut settle =
        |output: &mut Output<()>, waits: &mut HashMap<TraceId, Vec<usize>>, fates: &mut BTreeMap<TraceId, Fate>| {
            for verdict in &output.verdicts {
                let fate = fates.get_mut(&verdict.trace).unwrap();
                let waited = waits.remove(&verdict.trace).unwrap();
                assert_eq!(
                    waited.len(),
                    verdict.span_count as usize,
                    "every span that waits is in the verdict"
                );
                counts.evicted += u32::from(*verdict.decision.reason == *crate::ADMISSION);
                let stored = output.spans[verdict.spans.clone()].len() as u32;
                assert_eq!(stored, if verdict.keep { verdict.span_count } else { 0 });
                fate.stored += stored;
                fate.flagged += if verdict.trigger.is_partial() { stored } else { 0 };
                if verdict.keep {
                    fate.thresholds.push(verdict.decision.threshold);
                }
            }
            output.clear();
        };
    let offer = |sampler: &mut Sampler<()>, place: usize, at_ns: u64, output: &mut Output<()>| {
        let (_, made, number) = &log[place];
        let tenant = sampler.tenant("a");
        let (service, name) = (format!("service-{}", made.key % 7), format!("GET /{}", made.key));
        let (mut span, at) = made.span(service.as_bytes(), name.as_bytes());
        let span_id = [*number + 1; 8];
        span.head.span_id = &span_id;
        // The first is the root; the second was called from elsewhere.
        span.head.parent_span_id = if *number == 0 { &[] } else { &[1; 8] };
        span.head.kind = if *number < 2 { 2 } else { 1 };
        let at = SpanAt {
            lsn: Lsn(place as u64),
            ..at
        };
        sampler.offer(at_ns, tenant, &span, at, || (), output)
    };
    let mut ticked = 0;
    for (place, (at_ns, made, _)) in log.iter().enumerate() {
        while START_NS + (ticked + 1) * SECOND_NS / 2 <= *at_ns {
            ticked += 1;
            let now_ns = START_NS + ticked * SECOND_NS / 2;
            let rate = f64::INFINITY;
            sampler.tick(Tick { now_ns, rate }, &mut output);
            settle(&mut output, &mut waits, &mut fates);
            if ticked % (2 * life_s) == life_s {
                sampler
                    .reload(policy(if ticked % (4 * life_s) == life_s { 50.0 } else { 150.0 }))
                    .unwrap();
            }
            if ticked % (2 * life_s) == 0 {
                let checkpoint = sampler.encode(&[]);
                sampler = begin(now_ns);
                sampler.restore(&checkpoint).unwrap();
                let mut again: Vec<usize> = waits.drain().flat_map(|(_, places)| places).collect();
                again.sort_unstable();
                for place in again {
                    let id = log[place].1.id;
                    match offer(&mut sampler, place, now_ns, &mut output) {
                        Offer::Held | Offer::Refused => waits.entry(id).or_default().push(place),
                        // Another's eviction may have decided it meanwhile.
                        Offer::Late(_) | Offer::Dropped => panic!("what waits is not decided"),
                        Offer::Again => panic!("no span comes again"),
                    }
                    settle(&mut output, &mut waits, &mut fates);
                }
            }
        }
        let fate = fates.entry(made.id).or_default();
        fate.sent += 1;
        match offer(&mut sampler, place, *at_ns, &mut output) {
            Offer::Held | Offer::Refused => waits.entry(made.id).or_default().push(place),
            Offer::Late(decision) => {
                counts_late(fate, &decision, made.id);
            }
            Offer::Dropped => {}
            Offer::Again => panic!("no span comes again"),
        }
        settle(&mut output, &mut waits, &mut fates);
    }
    let now_ns = START_NS + (SECONDS + 100) * SECOND_NS;
    let rate = f64::INFINITY;
    sampler.tick(Tick { now_ns, rate }, &mut output);
    settle(&mut output, &mut waits, &mut fates);
    assert!(waits.is_empty(), "everything is decided");
    counts.traces = fates.len();
    for fate in fates.values() {
        let is_half = fate.stored > 0 && fate.stored < fate.sent;
        counts.whole += usize::from(fate.stored == fate.sent);
        counts.halves += usize::from(is_half);
        counts.flagged += fate.flagged;
        let first = fate.thresholds.first();
        counts.mixed += usize::from(fate.thresholds.iter().any(|threshold| Some(threshold) != first));
    }
    counts
}

fn counts_late(fate: &mut Fate, decision: &crate::Decision, id: TraceId) {
    assert!(decision.keeps(id), "a late span of a kept trace is kept");
    fate.stored += 1;
    fate.flagged += 1;
    fate.thresholds.push(decision.threshold);
}

#[test]
fn no_trace_is_kept_by_halves() {
    let (mut flagged, mut evicted, mut whole) = (0, 0, 0);
    for seed in 0..6 {
        for (buffer_bytes, life_s) in [(1 << 30, 1 << 20), (1 << 30, 7), (24_000, 1 << 20), (24_000, 7)] {
            let found = counts(Memory::default(), buffer_bytes, life_s, seed);
            println!("seed {seed}, {buffer_bytes} bytes, a life of {life_s} s: {found:?}");
            assert_eq!((found.halves, found.mixed), (0, 0), "seed {seed}: {found:?}");
            assert!(found.traces > 1000 && found.whole > 50, "{found:?}");
            (flagged, evicted, whole) = (flagged + found.flagged, evicted + found.evicted, whole + found.whole);
        }
    }
    assert!(
        flagged > 1000 && evicted > 100 && whole > 1000,
        "the run is void: {flagged} {evicted} {whole}"
    );
}

/// A sampler that forgets at once keeps halves, and the test above would see it.
#[test]
fn halves_are_seen() {
    let forgetful = Memory {
        age_ns: SECOND_NS,
        ..Memory::default()
    };
    let found = counts(forgetful, 1 << 30, 1 << 20, 1);
    assert!(found.halves > 20 && found.mixed > 20, "{found:?}");
}
