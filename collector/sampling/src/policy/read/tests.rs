#![allow(clippy::unwrap_used)]

use super::*;

/// The example of the design, in YAML's own quoting.
pub(crate) const EXAMPLE: &str = r#"
budget: {stored_bytes_per_sec: 20MiB, stored_bytes_per_day: 1TiB, burst_sec: 2, scope: collector}
upstream: {missing_th: assume_unsampled}
trace: {root_settle: 2s, idle: 5s, timeout: 30s, span_limit: 10000, buffer_bytes: 4GiB}
tenants:
  default: {weight: 1, min_share: 1%}
  gold: {weight: 4}
strata:
  - {name: forced, when: 'any(span.attr["force_sample"])', target: all, cap: 2%}
  - {name: error, when: any(span.status == error), target: all, cap: 50%}
  - {name: slow, when: root.duration >= red.p98(5m), target: all, cap: 25%}
  - {name: rare, first: 5, per: fingerprint, window: 60s, cap: 10%}
  - {name: probe, when: 'root.op in ["/healthz"]', target: 0.1%}
  - {name: rest, share: by(fingerprint), alpha: 0.3, floor: 2/min}
fingerprint: [tenant, root.service, root.op, status_class]
"#;

#[test]
fn the_example_of_the_design() {
    let policy = read(Path::new("p.yaml"), EXAMPLE).unwrap();
    assert_eq!(policy.budget.bytes_per_sec, 20.0 * 1048576.0);
    assert_eq!(
        policy.trace,
        Limits {
            buffer_bytes: 4 << 30,
            ..Limits::default()
        }
    );
    assert_eq!(policy.tenants["gold"].weight, 4.0);
    assert_eq!(policy.tenant, Share { weight: 1.0, min: 0.01 });
    let targets: Vec<_> = policy
        .strata
        .iter()
        .map(|stratum| (&*stratum.name, stratum.target.clone(), stratum.cap))
        .collect();
    assert_eq!(targets[1], ("error", Target::All, Some(0.5)));
    let first = Target::First {
        count: 5,
        window_ns: 60_000_000_000,
    };
    assert_eq!(targets[3], ("rare", first, Some(0.1)));
    assert_eq!(targets[4], ("probe", Target::Probability(0.001), None));
    let rest = Target::Share {
        by: By::Fingerprint,
        alpha: 0.3,
        floor_per_sec: 2.0 / 60.0,
    };
    assert_eq!(targets[5], ("rest", rest, None));
}

#[test]
fn a_stratum_is_written_as_it_is_read() {
    let check = |strata: &str| {
        let policy = read(Path::new("p.yaml"), &format!("strata:\n{strata}")).unwrap();
        let written: Vec<String> = policy.strata.iter().map(|stratum| format!("  - {stratum}\n")).collect();
        let again = read(Path::new("p.yaml"), &format!("strata:\n{}", written.concat())).unwrap();
        assert_eq!(
            format!("{:?}", again.strata),
            format!("{:?}", policy.strata),
            "{written:?}"
        );
        written
    };
    check(
        EXAMPLE
            .split_once("strata:\n")
            .unwrap()
            .1
            .split_once("fingerprint:")
            .unwrap()
            .0,
    );
    let written = check(
        "  - {name: a, when: 'root.name == \"it''s\"', target: 7%, spans_per_sec: 2.5, bytes_per_sec: 1MiB}\n  \
           - {name: b, share: all, alpha: 1, floor: 1/s, sent_bytes_per_sec: 3000}\n",
    );
    assert_eq!(
        written,
        [
            "  - {name: a, when: 'root.name == \"it''s\"', target: 7%, spans_per_sec: 2.5, bytes_per_sec: 1048576}\n",
            "  - {name: b, share: all, alpha: 1, floor: 60/min, sent_bytes_per_sec: 3000}\n",
        ]
    );
}

fn check(text: &str, expected: &str) {
    let problems = read(Path::new("p.yaml"), text).unwrap_err().to_string();
    assert!(problems.contains(expected), "{text}\n{problems}");
}

#[test]
fn everything_wrong_is_said_with_its_place() {
    check("", "no policy");
    check("a: [", "not YAML");
    check("bugdet: {}", "p.yaml:1:1: bugdet: unknown key; did you mean budget?");
    check(
        "budget: {spans_per_sec: 0}",
        "p.yaml:1:25: budget.spans_per_sec: `0` is wrong: expected a number above 0",
    );
    check("budget: {stored_bytes_per_sec: 5 parsecs}", "unit");
    check("budget: {scope: fleet}", "do not share");
    check("trace: {timeout: 1s}", "trace.timeout");
    check("strata: []", "1 to 64");
    check("strata: [{name: a}]", "one of `target`");
    check("strata: [{target: all}]", "has no name");
    check(
        "strata: [{name: a, target: all}, {name: a, target: all}]",
        "the name is taken",
    );
    check(
        "strata: [{name: a, target: all}, {name: b, target: all}]",
        "takes everything",
    );
    check("strata: [{name: a, target: all, when: true}]", "what is left");
    check("strata: [{name: a, target: 0%}]", "more than nothing");
    check(
        "strata: [{name: a, target: alll}]",
        "`alll` is wrong: expected all, drop, or a share from 0% to 100%; did you mean all?",
    );
    check(
        "strata: [{name: a, target: 130%}]",
        "expected all, drop, or a share from 0% to 100%",
    );
    check("strata: [{name: a, target: all, alpha: 0.3}]", "means nothing here");
    check("strata: [{name: 'a b', target: all}]", "letters, digits");
    check(
        "strata: [{name: a, target: all, when: root.op == 5}]",
        "character 12 of",
    );
    check("fingerprint: [shoe_size]", "expected tenant");
    check(
        "tenants: {a: {min_share: 60%}, b: {min_share: 60%}}",
        "more than the whole",
    );
    let both = read(Path::new("p.yaml"), "budget: {spans_per_sec: 0, x: 1}\ndry_run: maybe").unwrap_err();
    assert_eq!(both.len(), 3, "{both}");
}

#[test]
fn an_empty_mapping_keeps_everything() {
    let policy = read(Path::new("p.yaml"), "{}").unwrap();
    assert_eq!(policy.budget, Policy::default().budget);
    assert_eq!(policy.strata.len(), 1);
}
