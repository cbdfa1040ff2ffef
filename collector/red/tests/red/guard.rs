//! Beyond the limits: totals stay exact, what is declared stays apart.

use std::collections::BTreeSet;

use tailwater_model::red::{OTHER, RedRow};
use tailwater_red::{Aggregator, Declared, Mode};

use crate::make::{MS, Made, NOW, SECOND, declared, push, settings};

const HOUR: u64 = 3600 * SECOND;

fn named(name: &str) -> Made {
    Made {
        name: name.into(),
        ..Made::default()
    }
}

fn operations(rows: &[RedRow]) -> BTreeSet<&str> {
    rows.iter().map(|row| &*row.key.operation).collect()
}

fn total(rows: &[RedRow]) -> u64 {
    rows.iter().map(|row| row.n).sum()
}

#[test]
fn keys_beyond_the_limit_fold_and_totals_are_exact() {
    let mut settings = settings();
    settings.keys_max = 3;
    let mut red = Aggregator::new(settings);
    let spans: Vec<Made> = (0..200)
        .map(|at| named(&format!("op{}", at % 50)).text("http.route", "/x"))
        .collect();
    push(&mut red, &spans, NOW, Mode::Count);
    let drained = red.drain();
    assert_eq!(operations(&drained.red), ["op0", "op1", "op2", OTHER].into());
    assert_eq!((total(&drained.red), drained.folded), (200, 200 - 12));
    let other = drained.red.iter().find(|row| &*row.key.operation == OTHER).unwrap();
    assert_eq!((&*other.key.service_name, &*other.key.http_route), ("cart", ""));
    // Another service has room of its own, and a drain changes no verdict.
    let elsewhere = Made {
        service: "mail".into(),
        ..named("send")
    };
    push(
        &mut red,
        &[elsewhere, named("op2"), named("op49")],
        NOW + 1,
        Mode::Count,
    );
    assert_eq!(
        operations(&red.drain().red),
        ["send", OTHER].into(),
        "op2 without its route is another key"
    );
}

#[test]
fn a_key_that_is_gone_for_an_hour_makes_room() {
    let mut settings = settings();
    settings.keys_max = 1;
    let mut red = Aggregator::new(settings);
    for (hour, name, counted) in [
        (0, "a", "a"),
        (0, "b", OTHER),
        (1, "b", OTHER),
        (2, "b", "b"),
        (2, "a", OTHER),
        (3, "b", "b"),
    ] {
        push(&mut red, &[named(name)], NOW + hour * HOUR, Mode::Count);
        assert_eq!(operations(&red.drain().red), [counted].into(), "{hour} {name}");
    }
}

#[test]
fn services_beyond_the_limit_fold() {
    let mut settings = settings();
    settings.services_max = 2;
    let mut red = Aggregator::new(settings);
    let spans: Vec<Made> = (0..30)
        .map(|at| Made {
            service: format!("s{}", at % 10),
            ..Made::default()
        })
        .collect();
    push(&mut red, &spans, NOW, Mode::Count);
    let rows = red.drain().red;
    let services: BTreeSet<&str> = rows.iter().map(|row| &*row.key.service_name).collect();
    assert_eq!(services, ["s0", "s1", OTHER].into());
    assert_eq!(total(&rows), 30);
}

#[test]
fn what_is_declared_never_folds() {
    let mut settings = settings();
    (settings.keys_max, settings.services_max) = (1, 1);
    settings.declared = vec![
        declared("checkout", &[100 * MS]),
        Declared {
            service_name: Some("pay".into()),
            deployment_env: Some("prod".into()),
            thresholds_ns: vec![5 * MS],
            ..Declared::default()
        },
    ];
    let mut red = Aggregator::new(settings);
    let pay = |at: u64, env: &str| {
        Made {
            service: "pay".into(),
            ..named(&format!("op{at}"))
        }
        .of("deployment.environment.name", env)
    };
    let mut spans = vec![named("first")];
    // Everything an SLO does not ask about may vary without bounds.
    spans.extend((0..50).map(|at| named("checkout").of("service.version", &format!("v{at}"))));
    spans.extend((0..50).map(|at| pay(at, "prod")));
    spans.extend((0..50).map(|at| pay(at, "test")));
    push(&mut red, &spans, NOW, Mode::Count);
    let rows = red.drain().red;
    let mut found: Vec<_> = rows
        .iter()
        .map(|row| {
            let key = &row.key;
            (
                &*key.service_name,
                &*key.operation,
                &*key.deployment_env,
                row.n,
                row.registers.clone(),
            )
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            (OTHER, OTHER, "", 50, vec![]),
            ("cart", "checkout", "", 50, vec![(100 * MS, 50)]),
            ("cart", "first", "", 1, vec![]),
            ("pay", OTHER, "prod", 50, vec![(5 * MS, 50)]),
        ]
    );
}

#[test]
fn the_guard_survives_a_restart() {
    let settings = || {
        let mut settings = settings();
        settings.keys_max = 2;
        settings
    };
    let mut red = Aggregator::new(settings());
    push(&mut red, &[named("a"), named("b"), named("c")], NOW, Mode::Count);
    red.drain();
    let mut again = Aggregator::new(settings());
    again.restore_guard(&red.guard()).unwrap();
    assert!(again.restore_guard(&[7]).is_err());
    for red in [&mut red, &mut again] {
        push(red, &[named("c"), named("b")], NOW + 1, Mode::Count);
        assert_eq!(operations(&red.drain().red), ["b", OTHER].into());
    }
}
