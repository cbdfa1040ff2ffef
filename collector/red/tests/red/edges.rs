//! Calls between services: pairs, sides that stay alone, and what a restart finds again.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tailwater_model::red::{EdgeKind, EdgeRow, WEIGHT_ONE};
use tailwater_red::{Aggregator, Mode};

use crate::make::{MS, Made, NOW, SECOND, WAIT, push, settings, tick};

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

fn span(service: &str, kind: i32, id: u64, parent: u64) -> Made {
    Made {
        service: service.into(),
        kind,
        id,
        parent,
        ..Made::default()
    }
}

/// `client -> server (kind, peer, why)` with calls and errors.
type Calls = BTreeMap<String, (u64, u64)>;

fn calls(rows: &[EdgeRow]) -> Calls {
    let mut calls = Calls::new();
    for row in rows {
        let key = &row.key;
        let why = key.unpaired.map_or("", |why| why.name());
        let name = format!(
            "{} -> {} {} {} {why}",
            key.client_service,
            key.server_service,
            key.kind.name(),
            key.peer
        );
        let (n, errors) = calls.entry(name.trim_end().replace("  ", " ")).or_default();
        *n += row.n;
        *errors += row.errors;
    }
    calls
}

fn check(requests: &[(u64, &[Made])], expect: &[(&str, u64, u64)]) {
    let mut red = Aggregator::new(settings());
    for (at, spans) in requests {
        push(&mut red, spans, NOW + at, Mode::Count);
    }
    tick(&mut red, NOW + 1000 * SECOND, Mode::Count);
    assert_eq!(red.waiting(), 0);
    let expect: Calls = expect
        .iter()
        .map(|(name, n, errors)| (name.to_string(), (*n, *errors)))
        .collect();
    assert_eq!(calls(&red.drain().edges), expect);
}

#[test]
fn sides_are_joined_in_any_order() {
    let client = span("web", CLIENT, 2, 1);
    let server = span("cart", SERVER, 3, 2);
    let both = [("web -> cart request", 1, 0)];
    check(&[(0, &[client.clone(), server.clone()])], &both);
    check(
        &[
            (0, std::slice::from_ref(&server)),
            (WAIT - 1, std::slice::from_ref(&client)),
        ],
        &both,
    );
    check(
        &[
            (0, std::slice::from_ref(&client)),
            (WAIT, std::slice::from_ref(&server)),
        ],
        &both,
    );
    check(
        &[
            (0, std::slice::from_ref(&client)),
            (WAIT + 1, std::slice::from_ref(&server)),
        ],
        &[("web -> request expired", 1, 0), (" -> cart request expired", 1, 0)]
            .map(|(name, n, e)| (name.trim_end(), n, e)),
    );
    // A producer is no server's client, and another trace is another trace.
    check(
        &[(
            0,
            &[
                span("web", PRODUCER, 2, 1),
                server.clone(),
                span("mail", CONSUMER, 4, 2),
            ],
        )],
        &[("web -> mail message", 1, 0), (" -> cart request expired", 1, 0)],
    );
    let elsewhere = Made { trace: 9, ..server };
    check(
        &[(0, &[client, elsewhere])],
        &[("web -> request expired", 1, 0), (" -> cart request expired", 1, 0)],
    );
}

#[test]
fn a_call_sent_to_many_counts_many_and_a_client_sent_twice_once() {
    let client = span("web", CLIENT, 2, 1);
    let servers = [
        span("cart", SERVER, 3, 2),
        span("cart", SERVER, 4, 2),
        span("mail", SERVER, 5, 2),
    ];
    check(
        &[
            (0, &servers[..1]),
            (1, &[client.clone(), client.clone()]),
            (2, &servers[1..]),
        ],
        &[("web -> cart request", 2, 0), ("web -> mail request", 1, 0)],
    );
    check(&[(0, &[client.clone(), client])], &[("web -> request expired", 1, 0)]);
}

#[test]
fn a_client_has_its_whole_time_though_a_server_before_it_had_less() {
    let server = |id| span("cart", SERVER, id, 2);
    check(
        &[
            (0, &[server(3)]),
            (7 * SECOND, &[span("web", CLIENT, 2, 1)]),
            (11 * SECOND, &[]),
            (15 * SECOND, &[server(4)]),
            (17 * SECOND + 1, &[server(5)]),
        ],
        &[("web -> cart request", 2, 0), (" -> cart request expired", 1, 0)],
    );
}

/// A clock an hour ahead that is set right: a side waits as long as ever, not for the hour.
#[test]
fn waiting_goes_on_when_the_clock_is_set_back() {
    let client = |id| span("web", CLIENT, id, 1);
    let hour = 3600 * SECOND;
    check(
        &[
            (hour, &[client(2)]),
            (0, &[client(4)]),
            (SECOND, &[span("cart", SERVER, 3, 2), span("cart", SERVER, 5, 4)]),
            (WAIT + 2 * SECOND, &[span("cart", SERVER, 6, 2)]),
        ],
        &[("web -> cart request", 2, 0), (" -> cart request expired", 1, 0)],
    );
}

#[test]
fn who_stays_alone_says_why() {
    let check_one = |made: Made, expect: &str, errors: u64| check(&[(0, &[made])], &[(expect, 1, errors)]);
    check_one(span("cart", SERVER, 3, 0), " -> cart request root", 0);
    check_one(
        span("web", CLIENT, 3, 1).text("peer.service", "legacy"),
        "web -> request legacy expired",
        0,
    );
    check_one(
        span("web", CLIENT, 3, 1).text("server.address", "x.example"),
        "web -> request x.example expired",
        0,
    );
    let select = span("web", CLIENT, 3, 1)
        .text("db.system", "mysql")
        .text("server.address", "db1");
    check_one(select, "web -> request mysql database", 0);
    let failed = Made {
        status: 2,
        ..span("web", CLIENT, 3, 1)
    };
    check_one(failed, "web -> request expired", 1);
    check(&[(0, &[span("web", INTERNAL, 3, 1)])], &[]);
}

#[test]
fn beyond_the_limit_nobody_waits() {
    let mut settings = settings();
    settings.edges = Some((WAIT, 2));
    let mut red = Aggregator::new(settings);
    let clients: Vec<Made> = (10..15).map(|id| span("web", CLIENT, id, 1)).collect();
    push(&mut red, &clients, NOW, Mode::Count);
    assert_eq!(red.waiting(), 2);
    push(
        &mut red,
        &[span("cart", SERVER, 20, 10), span("cart", SERVER, 21, 14)],
        NOW,
        Mode::Count,
    );
    let expect = [
        ("web -> request full", (3, 0)),
        ("web -> cart request", (1, 0)),
        (" -> cart request full", (1, 0)),
    ];
    let expect: Calls = expect
        .into_iter()
        .map(|(name, calls)| (name.to_owned(), calls))
        .collect();
    assert_eq!(calls(&red.drain().edges), expect);
}

#[test]
fn both_sides_are_measured() {
    let mut red = Aggregator::new(settings());
    let took = |made: Made, ms: u64| Made {
        end: made.start + ms * MS,
        tracestate: "ot=th:8".into(),
        ..made
    };
    let server = Made {
        status: 2,
        ..span("cart", SERVER, 3, 2)
    };
    push(
        &mut red,
        &[took(span("web", CLIENT, 2, 1), 30), took(server, 20)],
        NOW,
        Mode::Count,
    );
    let row = red.drain().edges.remove(0);
    assert_eq!((row.n, row.errors, row.key.kind), (1, 1, EdgeKind::Request));
    assert_eq!((row.sum_ns, row.max_ns), ([30 * MS, 20 * MS], [30 * MS, 20 * MS]));
    assert_eq!((row.n_weighted, row.errors_weighted), (2 * WEIGHT_ONE, 2 * WEIGHT_ONE));
    assert_eq!(row.exemplar.unwrap().ns, 20 * MS);
    assert!(row.exphist.iter().all(|sketch| !sketch.is_empty()));
}

/// A random call tree: every node is a server span, every call to a child a client span below it.
fn tree(shape: &[(usize, u8)]) -> (Vec<Made>, Calls) {
    let name = |service: u8| format!("s{service}");
    let mut spans = vec![span("s0", SERVER, 1, 0)];
    let mut nodes = vec![(1u64, 0u8)];
    let mut expect = Calls::from([(" -> s0 request root".to_owned(), (1, 0))]);
    for (at, (parent, service)) in shape.iter().enumerate() {
        let (parent_id, parent_service) = nodes[parent % nodes.len()];
        let (client, server) = (1000 + at as u64, 2000 + at as u64);
        spans.push(span(&name(parent_service), CLIENT, client, parent_id));
        spans.push(span(&name(*service), SERVER, server, client));
        nodes.push((server, *service));
        let edge = format!("{} -> {} request", name(parent_service), name(*service));
        expect.entry(edge).or_default().0 += 1;
    }
    (spans, expect)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_call_of_a_tree_is_found(
        shape in prop::collection::vec((any::<usize>(), 0u8..5), 1..40),
        seed in any::<u64>(),
        requests in 1usize..10,
    ) {
        let (mut spans, expect) = tree(&shape);
        let mut random = seed;
        for at in (1..spans.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            spans.swap(at, (random >> 33) as usize % (at + 1));
        }
        let mut red = Aggregator::new(settings());
        let mut rows = Vec::new();
        for (at, part) in spans.chunks(spans.len().div_ceil(requests)).enumerate() {
            push(&mut red, part, NOW + at as u64 * SECOND, Mode::Count);
            rows.extend(red.drain().edges);
        }
        tick(&mut red, NOW + 1000 * SECOND, Mode::Count);
        rows.extend(red.drain().edges);
        prop_assert_eq!(calls(&rows), expect);
    }

    /// A crash between any two records: what was drained before it, and what a process counts that walked the last two waits
    /// again, are together what one process counts without a crash.
    #[test]
    fn a_restart_changes_no_call(
        records in prop::collection::vec((0u64..2 * WAIT, prop::collection::vec((0u64..3, any::<bool>(), 0u64..6), 0..4)), 1..40),
        crash in 0usize..40,
    ) {
        let mut at_ns = NOW;
        let mut id = 100;
        let mut walk: Vec<(u64, Vec<Made>)> = Vec::new();
        let mut clients = std::collections::BTreeSet::new();
        for (later, sides) in &records {
            at_ns += later / 4;
            let mut spans = Vec::new();
            for (trace, is_client, call) in sides {
                id += 1;
                let made = match is_client {
                    // Span ids are unique.
                    true if !clients.insert((trace, call)) => continue,
                    true => span("web", CLIENT, 10 + call, 1),
                    false => span("cart", SERVER, id, 10 + call),
                };
                spans.push(Made { trace: *trace, ..made });
            }
            walk.push((at_ns, spans));
        }
        let end = (at_ns + 10 * WAIT, Vec::new());
        let run = |red: &mut Aggregator, walk: &[(u64, Vec<Made>)], mode| {
            for (at_ns, spans) in walk {
                push(red, spans, *at_ns, mode);
            }
            calls(&red.drain().edges)
        };
        let whole = {
            let mut red = Aggregator::new(settings());
            let walk: Vec<_> = walk.iter().cloned().chain([end.clone()]).collect();
            run(&mut red, &walk, Mode::Count)
        };
        let (before, after) = walk.split_at(crash.min(walk.len()));
        let mut first = Aggregator::new(settings());
        let mut found = run(&mut first, before, Mode::Count);
        let mut second = Aggregator::new(settings());
        let from = before.last().map_or(0, |(at_ns, _)| at_ns - second.restore_ns());
        let again: Vec<_> = before.iter().filter(|(at_ns, _)| *at_ns >= from).cloned().collect();
        prop_assert!(run(&mut second, &again, Mode::Restore).is_empty());
        let after: Vec<_> = after.iter().cloned().chain([end]).collect();
        for (name, (n, errors)) in run(&mut second, &after, Mode::Count) {
            let total = found.entry(name).or_default();
            *total = (total.0 + n, total.1 + errors);
        }
        prop_assert_eq!(found, whole);
    }
}
