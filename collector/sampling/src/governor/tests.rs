use super::*;
use std::collections::VecDeque;

const BUDGET: f64 = 20.0e6;
const STEPS: usize = 10;

struct Step {
    queue: f64,
    out: f64,
    target: f64,
}

/// A sink with a queue before it: what is decided shows `lag_s` later. Ten steps a second, a tick every five.
fn simulate(lag_s: f64, seconds: usize, load: f64, drain: impl Fn(usize) -> f64) -> Vec<Step> {
    let settings = Settings {
        budget: BUDGET,
        lag: Duration::from_secs(1),
        commit: Duration::from_millis(500),
    };
    let mut governor = Governor::new(settings);
    let (mut queue, mut drained, dt) = (0.0, 0.0, 1.0 / STEPS as f64);
    let mut pipe = VecDeque::from(vec![0.0; (lag_s * STEPS as f64) as usize]);
    let (mut seen, mut rate) = (Vec::new(), BUDGET);
    for step in 0..seconds * STEPS {
        if step % 5 == 0 {
            let drain = Drain {
                queued: queue,
                drained: Some(drained),
            };
            rate = governor.rate(step as u64 * 100_000_000 + 1, drain);
        }
        pipe.push_back(load.min(rate) * dt);
        queue += pipe.pop_front().unwrap_or(0.0);
        let out = (drain(step / STEPS) * dt).min(queue);
        (queue, drained) = (queue - out, drained + out);
        let target = governor.target();
        seen.push(Step {
            queue,
            out: out / dt,
            target,
        });
    }
    seen
}

fn mean(part: &[Step], of: fn(&Step) -> f64) -> f64 {
    part.iter().map(of).sum::<f64>() / part.len() as f64
}

/// G1: the sink stalls for a minute.
#[test]
fn after_a_stall_the_backlog_settles_and_the_sink_is_used() {
    for lag in [0.5, 1.0, 2.0] {
        for load in [1.2, 3.0, 20.0] {
            let full = BUDGET / 20.0;
            let seen = simulate(
                lag,
                400,
                full * load,
                |at| if (120..180).contains(&at) { 0.0 } else { full },
            );
            let off = seen[2100..]
                .iter()
                .map(|step| (step.queue / step.target - 1.0).abs())
                .fold(0.0, f64::max);
            assert!(off <= 0.2, "lag {lag} load {load}: {off} off q* 30 s after the stall");
            let used = mean(&seen[1800..2400], |step| step.out) / full;
            assert!(used >= 0.99, "lag {lag} load {load}: {used}");
        }
    }
}

/// G1: the sink becomes five times slower.
#[test]
fn with_a_slower_sink_the_backlog_settles_and_the_sink_is_used() {
    for lag in [0.5, 1.0, 2.0] {
        let full = BUDGET / 4.0;
        let seen = simulate(lag, 600, full * 1.5, |at| if at < 120 { full } else { full / 5.0 });
        let used = mean(&seen[1500..2100], |step| step.out) / (full / 5.0);
        assert!(used >= 0.99, "lag {lag}: {used}");
        let off = seen[5000..]
            .iter()
            .map(|step| (step.queue / step.target - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(off <= 0.2, "lag {lag}: {off} off q*");
    }
}

#[test]
fn without_a_backlog_it_does_nothing() {
    let seen = simulate(1.0, 60, BUDGET / 10.0, |_| BUDGET / 4.0);
    assert!(mean(&seen[100..], |step| step.out) > BUDGET / 10.0 * 0.999);
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
        let drain = Drain { queued, drained: None };
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
