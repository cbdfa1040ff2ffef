//! A road at its limits: a clock that is set, a log without room, a policy that has to wait, decisions that are forgotten.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc::{self, Receiver};

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;
use tailwater_journal::Recovery;
use tailwater_sampling::Memory;
use tailwater_sampling::policy::{self, Policy};
use tailwater_storage::outbox::Head;

use super::process::{self, Calm, span_of, tail_settings};
use super::tests::{NOW, SECOND, journal_settings, parts, request_of};
use super::*;

const POLICY: &str = "trace: {root_settle: 1s, timeout: 10s}\nstrata: [{name: rest, target: all}]\n";

/// A record of one trace has one span, which is no root unless its number is 0.
type Sent = (u64, u8, u8);

/// What lies behind, as the test says it.
#[derive(Clone, Default)]
struct World(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    records: Vec<Sent>,
    steady_ns: u64,
    crowded: Option<std::ops::Range<Lsn>>,
    policy: Option<Policy>,
}

impl process::Log for World {
    fn record(&self, lsn: u64) -> Accepted {
        let (arrival_ns, trace, number) = self.0.lock().records[lsn as usize - 1];
        request_of(lsn, arrival_ns, "web", vec![span_of(trace, number, false, arrival_ns)])
    }
    fn crowded(&self) -> Option<std::ops::Range<Lsn>> {
        self.0.lock().crowded.clone()
    }
    fn steady_ns(&self) -> Option<u64> {
        Some(self.0.lock().steady_ns)
    }
    fn policy(&self) -> Option<Policy> {
        self.0.lock().policy.take()
    }
}

struct Live {
    world: World,
    road: Road,
    tail: Arc<Mutex<Tail>>,
    sealed: Receiver<Sealed>,
}

fn read(text: &str) -> Policy {
    policy::read(Path::new("p.yaml"), text).unwrap_or_else(|problems| panic!("{problems}"))
}

impl Live {
    fn new(policy: &str, memory: Memory, decisions_max: usize) -> Live {
        let settings = tailwater_journal::Settings {
            decisions_max,
            ..journal_settings()
        };
        let journal = Arc::new(Mutex::new(Recovery::new(settings, None).unwrap().finish()));
        let log_id = journal.lock().log_id();
        let world = World::default();
        let settings = tail::Settings {
            memory,
            ..tail_settings(0)
        };
        let behind = Box::new(Calm(world.clone(), None));
        let tail = Tail::new(settings, read(policy), None, log_id, behind, NOW).unwrap();
        let tail = Arc::new(Mutex::new(tail));
        let (outbox, sealed) = mpsc::sync_channel(10_000);
        let road = Road::new(Parts {
            tail: Some(tail.clone()),
            ..parts(journal, None, outbox)
        });
        tail.lock().live(NOW);
        Live {
            world,
            road,
            tail,
            sealed,
        }
    }

    /// A span of this trace comes, when the steady clock says so many seconds, and the system's so many after the beginning.
    fn send(&mut self, steady_s: u64, after_s: u64, trace: u8, number: u8) {
        let lsn = {
            let mut state = self.world.0.lock();
            state.steady_ns = steady_s * SECOND;
            state.records.push((NOW + after_s * SECOND, trace, number));
            state.records.len() as u64
        };
        self.road.walk(process::Log::record(&self.world, lsn)).unwrap();
    }

    fn waiting(&self) -> usize {
        self.tail.lock().waiting().0
    }

    /// Trigger, late and partial of the rows since the last call.
    fn rows(&self) -> Vec<(String, bool, bool)> {
        let mut found = Vec::new();
        for batch in self.sealed.try_iter() {
            let head = Head::decode(batch.encoded.head.clone()).unwrap();
            let spans = head.frames.iter().zip(&batch.rows);
            for (_, rows) in spans.filter(|(frame, _)| frame.table == Table::Spans) {
                let column = |name: &str| rows.column_by_name(name).unwrap();
                let triggers = column("trigger").as_dictionary::<Int32Type>();
                let words = triggers.values().as_string::<i32>();
                for row in 0..rows.num_rows() {
                    found.push((
                        triggers.key(row).map_or("", |key| words.value(key)).to_owned(),
                        column("late").as_boolean().value(row),
                        column("partial").as_boolean().value(row),
                    ));
                }
            }
        }
        found
    }
}

fn row(trigger: &str, is_late: bool, is_partial: bool) -> (String, bool, bool) {
    (trigger.into(), is_late, is_partial)
}

#[test]
fn a_clock_set_forward_makes_nothing_due_and_forgets_nothing() {
    const HOUR: u64 = 3600;
    let memory = Memory {
        age_ns: 300 * SECOND,
        ..Memory::default()
    };
    let mut live = Live::new(POLICY, memory, 1000);
    live.send(0, 0, 1, 0);
    live.send(2, 2, 2, 1);
    assert_eq!(live.rows(), [row("root", false, false)]);
    live.send(3, HOUR + 3, 3, 1);
    live.send(4, HOUR + 4, 4, 1);
    assert_eq!((live.waiting(), live.rows()), (3, vec![]));
    // What was decided is remembered, by both that do.
    live.send(5, HOUR + 5, 1, 1);
    assert_eq!(live.rows(), [row("", true, false)]);
    assert!(live.road.journal.lock().clock_ns() < NOW + 60 * SECOND);
    // Time passes, and the clock is set right.
    live.send(13, HOUR + 13, 5, 1);
    live.send(15, 15, 6, 1);
    assert_eq!((live.waiting(), live.rows().len()), (2, 3));
}

#[test]
fn a_log_without_room_has_its_beginning_decided() {
    let mut live = Live::new(POLICY, Memory::default(), 1000);
    for at in 0..4 {
        live.send(at, at, at as u8 + 1, 1);
    }
    live.world.0.lock().crowded = Some(Lsn(1)..Lsn(3));
    live.send(4, 4, 5, 1);
    assert_eq!(
        live.rows(),
        [row("admission", false, true), row("admission", false, true)]
    );
    // The log begins where it did: nothing more is to be gained.
    live.world.0.lock().crowded = Some(Lsn(1)..Lsn(4));
    live.send(5, 5, 6, 1);
    assert_eq!((live.rows(), live.waiting()), (vec![], 4));
    live.world.0.lock().crowded = Some(Lsn(3)..Lsn(5));
    live.send(6, 6, 7, 1);
    assert_eq!((live.rows().len(), live.waiting()), (2, 3));
}

#[test]
fn a_policy_that_has_to_wait_is_taken_up_later() {
    let asking = |epoch: u64| {
        let tests: Vec<_> = (0..100).map(|n| format!("span.attr[\"{epoch}-{n}\"] exists")).collect();
        let strata = format!(
            "strata: [{{name: met, when: 'any({})', target: all}}, {{name: rest, target: all}}]",
            tests.join(" or ")
        );
        format!("trace: {{root_settle: 1s, timeout: 10s}}\n{strata}")
    };
    let mut live = Live::new(&asking(0), Memory::default(), 1000);
    live.send(0, 0, 1, 1);
    let mut second = read(&asking(1));
    second.epoch = 1;
    live.world.0.lock().policy = Some(second);
    live.send(1, 1, 2, 1);
    assert_eq!(live.tail.lock().epoch(), 0, "200 attributes are too many");
    // Nothing waits at the first of these any more, and the second looks.
    for at in [20, 21] {
        let now_ns = NOW + at * SECOND;
        live.world.0.lock().steady_ns = at * SECOND;
        live.road.tick(now_ns).unwrap();
    }
    assert_eq!(live.tail.lock().epoch(), 1);
}

/// Nothing is remembered by the sampler, and little by the journal.
#[test]
fn what_may_have_been_decided_and_forgotten_is_partial() {
    let memory = Memory {
        kept_max: 0,
        ..Memory::default()
    };
    let mut live = Live::new(POLICY, memory, 1);
    for at in 0..200 {
        live.send(3 * at, 3 * at, at as u8 + 1, 0);
    }
    let rows = live.rows();
    assert!(rows.len() > 190 && rows.iter().all(|found| *found == row("root", false, false)));
    // The first root once more, as it was.
    let mut again = process::Log::record(&live.world, 1);
    (again.lsn, again.entry.arrival_ns) = (Lsn(201), NOW + 600 * SECOND);
    {
        let mut state = live.world.0.lock();
        state.steady_ns = 600 * SECOND;
        let first = state.records[0];
        state.records.push(first);
    }
    live.road.walk(again).unwrap();
    live.send(603, 603, 210, 0);
    live.send(606, 606, 211, 0);
    let rows = live.rows();
    let partial = rows.iter().filter(|found| **found == row("root", false, true)).count();
    assert_eq!((rows.len(), partial), (3, 1), "{rows:?}");
}
