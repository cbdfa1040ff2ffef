use super::*;
use std::collections::VecDeque;

const BUDGET: f64 = 20.0e6;
const STEPS: usize = 10;

struct Step {
    /// As of the last tick.
    queue: f64,
    /// Done, whether or not it shows yet.
    work: f64,
    target: f64,
    /// What the target is just before a commit.
    peak: f64,
}

/// When a sink commits.
#[derive(Debug, Clone, Copy)]
enum Commits {
    /// Every so many steps, what is done by then.
    Every(usize),
    /// When all is done of what was there to begin with: at least so many bytes, and at most four times that.
    Of(f64),
}

/// A sink with a queue before it: what is decided shows `lag_s` later, what is drained with its commit. Ten steps a second, a tick every five.
fn simulate(commits: Commits, lag_s: f64, seconds: usize, load: f64, drain: impl Fn(usize) -> f64) -> Vec<Step> {
    let (commit, least) = match commits {
        Commits::Every(steps) => (Duration::from_millis(100 * steps as u64), 0.0),
        Commits::Of(bytes) => (Duration::from_secs(30), bytes),
    };
    let settings = Settings {
        budget: BUDGET,
        lag: Duration::from_secs(1),
        commit,
    };
    let mut governor = Governor::new(settings);
    let (mut queue, mut drained, mut number, dt) = (0.0, 0.0, 0, 1.0 / STEPS as f64);
    let mut pipe = VecDeque::from(vec![0.0; (lag_s * STEPS as f64) as usize]);
    let (mut seen, mut rate, mut shown) = (Vec::new(), BUDGET, 0.0);
    let (mut taken, mut done): (f64, f64) = (0.0, 0.0);
    for step in 0..seconds * STEPS {
        if step % 5 == 0 {
            shown = queue;
            let drain = Drain {
                queued: f64::max(queue - least, 0.0),
                drained: Some(drained),
                commits: number,
            };
            rate = governor.rate(step as u64 * 100_000_000 + 1, drain);
        }
        pipe.push_back(load.min(rate) * dt);
        queue += pipe.pop_front().unwrap_or(0.0);
        match commits {
            Commits::Every(_) => taken = queue,
            Commits::Of(bytes) if taken == 0.0 && queue >= bytes => taken = queue.min(4.0 * bytes),
            Commits::Of(_) => {}
        }
        let work = (drain(step / STEPS) * dt).min(taken - done);
        done += work;
        let is_commit = match commits {
            Commits::Every(steps) => step % steps == 0,
            Commits::Of(_) => done >= taken,
        };
        if is_commit && done > 0.0 {
            (queue, drained, number) = (queue - done, drained + done, number + 1);
            (taken, done) = (0.0, 0.0);
        }
        seen.push(Step {
            queue: shown,
            work: work / dt,
            target: governor.target(),
            peak: governor.capacity() * (TARGET_S + governor.period),
        });
    }
    seen
}

fn mean(part: &[Step], of: fn(&Step) -> f64) -> f64 {
    part.iter().map(of).sum::<f64>() / part.len() as f64
}

/// Seconds from `from_s` until the backlog stays within 20 % of what it should be.
fn settles(seen: &[Step], from_s: usize) -> usize {
    let off = |step: &Step| (step.queue - step.target).abs() / step.peak;
    let last = seen[from_s * STEPS..].iter().rposition(|step| off(step) > 0.2);
    last.map_or(0, |last| last / STEPS + 1)
}

/// How often sinks commit, in steps: with every tick, and every 1, 5 and 30 s.
const EVERY: [usize; 4] = [5, 10, 50, 300];

/// G1: the sink stalls for a minute. What half a minute is to short commits, two commits are to long ones: nothing shows between.
#[test]
fn after_a_stall_the_backlog_settles_and_the_sink_is_used() {
    for (every, lag) in EVERY
        .into_iter()
        .flat_map(|every| [0.5, 1.0, 2.0].map(|lag| (every, lag)))
    {
        for load in [1.2, 3.0, 20.0] {
            let full = BUDGET / 20.0;
            let drain = |at| if (420..480).contains(&at) { 0.0 } else { full };
            let seen = simulate(Commits::Every(every), lag, 900, full * load, drain);
            let (settled, most) = (settles(&seen, 480), usize::max(30, 2 * every / STEPS));
            assert!(
                settled <= most,
                "commits every {every}, lag {lag}, load {load}: {settled} s"
            );
            let used = mean(&seen[4800..5400], |step| step.work) / full;
            assert!(used >= 0.99, "commits every {every}, lag {lag}, load {load}: {used}");
        }
    }
}

/// G1: the sink becomes five times slower. The design's half a minute is held with commits of up to a second; with longer ones it takes ten,
/// for it is commits that say how fast it is.
#[test]
fn with_a_slower_sink_the_backlog_settles_and_the_sink_is_used() {
    for (every, lag) in EVERY
        .into_iter()
        .flat_map(|every| [0.5, 1.0, 2.0].map(|lag| (every, lag)))
    {
        let full = BUDGET / 4.0;
        let drain = |at| if at < 420 { full } else { full / 5.0 };
        let seen = simulate(Commits::Every(every), lag, 900, full * 1.5, drain);
        let (settled, most) = (settles(&seen, 420), usize::max(30, 10 * every / STEPS));
        assert!(settled <= most, "commits every {every}, lag {lag}: {settled} s");
        let used = mean(&seen[4500..5100], |step| step.work) / (full / 5.0);
        assert!(used >= 0.99, "commits every {every}, lag {lag}: {used}");
    }
}

/// A sink that takes what is there, as delivery does: what waits makes its commits longer, and those must not make more wait.
#[test]
fn a_sink_that_takes_what_is_there_is_used_and_its_commits_stay_short() {
    for seconds in [1.0, 5.0, 30.0] {
        for load in [1.2, 3.0, 20.0] {
            let full = BUDGET / 20.0;
            let drain = |at| if (420..480).contains(&at) { 0.0 } else { full };
            let seen = simulate(Commits::Of(seconds * full), 1.0, 900, full * load, drain);
            let used = mean(&seen[4800..9000], |step| step.work) / full;
            assert!(used >= 0.99, "commits of {seconds} s, load {load}: {used}");
            let most = seen[6000..].iter().map(|step| step.queue).fold(0.0, f64::max);
            // What a commit takes, what comes meanwhile, and what should lie beyond.
            let bound = full * (2.0 * seconds + 4.0 * TARGET_S);
            assert!(most <= bound, "commits of {seconds} s, load {load}: {most} of {bound}");
        }
    }
}

/// While the sink stands long after the queue is where it should be, a sixteenth still comes in: what matters most is not thrown away while
/// there is room for it.
#[test]
fn a_sink_that_stands_leaves_the_door_ajar() {
    let full = BUDGET / 20.0;
    let drain = |at| if at >= 420 { 0.0 } else { full };
    let seen = simulate(Commits::Every(50), 1.0, 1200, full * 3.0, drain);
    let came = (seen[11_999].queue - seen[6_000].queue) / 600.0 / full;
    assert!((came - LEAST).abs() < 0.002, "{came}");
}

#[test]
fn without_a_backlog_it_does_nothing() {
    for every in EVERY {
        let seen = simulate(Commits::Every(every), 1.0, 600, BUDGET / 10.0, |_| BUDGET / 4.0);
        let work = mean(&seen[3000..], |step| step.work);
        assert!(work > BUDGET / 10.0 * 0.999, "commits every {every}: {work}");
    }
}

/// Without a budget nothing is expected of the sink: what has drained says what can.
#[test]
fn without_a_budget_the_drain_is_the_limit() {
    let mut governor = Governor::new(Settings {
        budget: f64::INFINITY,
        lag: Duration::from_secs(1),
        commit: Duration::from_secs(30),
    });
    let mut rate = |second: u64, queued, commits: u64| {
        let drained = Some(commits as f64 * 3000.0);
        governor.rate(
            second * 1_000_000_000,
            Drain {
                queued,
                drained,
                commits,
            },
        )
    };
    // A commit every half minute takes all that is there.
    for second in 0..=300 {
        assert_eq!(rate(second, 0.0, second / 30), f64::INFINITY);
    }
    // It stands: what the commit under way would take is no backlog, what is beyond is.
    assert_eq!(rate(329, 3000.0, 10), f64::INFINITY);
    let standing: Vec<f64> = (340..=700)
        .map(|second| rate(second, 50.0 * second as f64 - 10_000.0, 10))
        .collect();
    assert!(standing.windows(2).all(|two| two[1] <= two[0]), "{standing:?}");
    assert_eq!(standing.last(), Some(&(100.0 / 16.0)));
    // All of it goes at last.
    assert_eq!(rate(701, 0.0, 11), f64::INFINITY);
}

/// What a client is told to wait goes by how fast commits come, not by how much comes at once.
#[test]
fn the_delay_is_what_commits_need() {
    for every in [1, 5, 30] {
        let mut governor = Governor::new(Settings {
            budget: BUDGET,
            lag: Duration::from_secs(1),
            commit: Duration::from_secs(30),
        });
        for half in 0..1200u64 {
            let commits = half / 2 / every;
            let drain = Drain {
                queued: 50e6,
                drained: Some((commits * every) as f64 * 1e6),
                commits,
            };
            governor.rate(half * 500_000_000, drain);
        }
        let delay = governor.delay(50e6).as_secs_f64();
        assert!((delay / 50.0 - 1.0).abs() < 0.05, "commits every {every} s: {delay}");
    }
}

#[test]
fn blind_it_backs_off_and_returns() {
    let settings = Settings {
        budget: 100.0,
        lag: Duration::from_secs(1),
        commit: Duration::ZERO,
    };
    let mut governor = Governor::new(settings);
    let mut rate = |second: u64, queued| {
        let drain = Drain {
            queued,
            drained: None,
            commits: 0,
        };
        governor.rate(second * 1_000_000_000, drain)
    };
    let standing = (1..20).map(|second| rate(second, 1000.0)).fold(f64::INFINITY, f64::min);
    assert!(standing < 5.0, "{standing}");
    let free = (20..120).map(|second| rate(second, 0.0)).fold(0.0, f64::max);
    assert_eq!(free, 100.0);
}

#[test]
fn the_ladder_rises_at_once_and_falls_slowly() {
    let mut ladder = Ladder::default();
    let second = 1_000_000_000;
    let quiet = Pressure::default();
    let governed = Pressure {
        is_governed: true,
        ..quiet
    };
    let squeezed = Pressure {
        is_squeezed: true,
        ..governed
    };
    assert_eq!(ladder.step(0, governed), Rung::Rest);
    assert_eq!(ladder.step(second, squeezed), Rung::Protected);
    assert_eq!(ladder.step(second, Pressure { queue: 1.0, ..quiet }), Rung::Refuse);
    let half = Pressure { log: 0.8, ..quiet };
    assert_eq!(
        ladder.step(90 * second, half),
        Rung::Refuse,
        "not below where it returns"
    );
    let steps: Vec<_> = (100..110).map(|at| ladder.step(at * second, quiet)).collect();
    assert_eq!(
        (steps[0], steps[2], steps[8]),
        (Rung::Refuse, Rung::Admission, Rung::Normal)
    );
    let admitting = Pressure {
        is_admitting: true,
        ..quiet
    };
    assert_eq!(ladder.step(200 * second, admitting).name(), "admission");
    assert_eq!(ladder.rung(), Rung::Admission);
}

#[test]
fn clients_come_again_spread_out() {
    let delay = |seed| retry_after(Duration::from_secs(10), seed).as_secs_f64();
    let delays: Vec<_> = (0..1000).map(delay).collect();
    assert!(delays.iter().all(|delay| (5.0..=15.0).contains(delay)));
    let mean = delays.iter().sum::<f64>() / 1000.0;
    assert!((mean - 10.0).abs() < 0.3, "{mean}");
    assert!(retry_after(Duration::ZERO, 1) >= Duration::from_millis(500));
    assert!(retry_after(Duration::MAX, 1) <= Duration::from_secs(90));
}
