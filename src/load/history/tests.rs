//! The counts agree with each other and with what happened; the lake holds what was told.
#![allow(clippy::unwrap_used)]
use std::io::Write as _;

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tailwater_config::Config;
use tailwater_model::exphist::{ExpHist, View};
use tailwater_model::otlp::columns::RequestInfo;
use tailwater_model::red::{RedKey, RedRow};
use tailwater_model::table::Table;
use tailwater_red::{Aggregator, Declared, Mode};
use tailwater_storage::lake::Lake;
use tailwater_storage::verify::{Depth, verify};

use super::counts::{Counted, Counter, pieces};
use super::keys::keys;
use super::*;

/// 2026-11-22T20:00:00Z.
const NOW_S: u64 = 1_795_377_600;

/// The bound of the sketch (1.09 %), and a little for the interpolation between two requests.
const QUANTILE_OFF: f64 = 0.011;

fn settings(seed: u64) -> Settings {
    Settings {
        history: Duration::from_secs(4 * 86_400),
        services: 5,
        operations: 15,
        density: Some(0.3),
        rows: Duration::from_secs(600),
        seed,
        now_ns: NOW_S * 1_000_000_000,
    }
}

fn counting(declared: Vec<Declared>) -> Counting {
    let config = Config::of(&[]).unwrap();
    let caps = tailwater_collector::caps(&config);
    let red = tailwater_red::Settings {
        declared,
        ..tailwater_collector::counting(&config, &caps)
    };
    Counting { red, caps }
}

fn counted(world: &World, declared: Vec<Declared>) -> Vec<Counted> {
    let counter = Counter::new(world, keys(world, &counting(declared).red).unwrap());
    pieces(world).into_iter().map(|piece| counter.count(piece)).collect()
}

#[test]
fn equal_seeds_give_equal_pasts() {
    let of = |seed| {
        let world = World::new(&settings(seed));
        let rows: Vec<_> = counted(&world, Vec::new())
            .into_iter()
            .map(|part| (part.red, part.edges))
            .collect();
        let sent = (world.rows_s..world.to_s)
            .step_by(10)
            .map(|at| rows::slice(&world, at).traces);
        (rows, sent.collect::<Vec<_>>())
    };
    let (a, b, other) = (of(1), of(1), of(2));
    assert!(a == b, "the same seed gives the same rows");
    assert!(a.0 != other.0 && a.1 != other.1, "another gives others");
}

#[test]
fn pieces_follow_each_other() {
    for hours in [1, 5, 30, 24 * 10] {
        let world = World::new(&Settings {
            history: Duration::from_secs(hours * 3600),
            ..settings(3)
        });
        let mut at_s = world.from_s;
        for piece in pieces(&world) {
            assert_eq!(piece.from_s, at_s);
            assert_eq!((piece.to_s - piece.from_s) % piece.slice_s, 0);
            assert_eq!(piece.slice_s, if piece.from_s < world.fine_s { 60 } else { 10 });
            // A file is of one day.
            assert_eq!(piece.from_s / 86_400, (piece.to_s - 1) / 86_400);
            at_s = piece.to_s;
        }
        assert_eq!(at_s, world.rows_s);
    }
}

#[test]
fn counts_agree_with_each_other() {
    let world = World::new(&settings(4));
    let declared = Declared {
        service_name: Some("cartservice".into()),
        thresholds_ns: vec![3_000_000, 20_000_000],
        ..Declared::default()
    };
    let (mut servers, mut clients, mut calls) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut registers = 0;
    for part in counted(&world, vec![declared]) {
        let mut spans = 0;
        for row in &part.red {
            let view = View::parse(&row.exphist).unwrap();
            assert_eq!(
                (view.count().unwrap(), view.max()),
                (row.n as f64, Some(row.max_ns as f64))
            );
            assert_eq!(view.sum(), row.sum_ns as f64, "sums below 2^53 are exact");
            for (threshold, count) in &row.registers {
                registers += 1;
                assert!((view.count_le(*threshold as f64).unwrap() - *count as f64).abs() <= row.n as f64 / 4.0 + 1.0);
            }
            assert_eq!(
                row.registers.len(),
                if &*row.key.service_name == "cartservice" { 2 } else { 0 }
            );
            let side = if row.key.kind == 2 { &mut servers } else { &mut clients };
            // A slice's requests of an operation, whoever the caller.
            let place = (row.key.operation.clone(), row.slice_ns, row.key.is_error);
            *side.entry(place).or_insert(0) += row.n;
            spans += row.n;
        }
        assert_eq!(spans, part.spans.iter().sum::<u64>());
        for row in &part.edges {
            let of = |side: usize| match row.exphist[side].is_empty() {
                true => 0.0,
                false => View::parse(&row.exphist[side]).unwrap().count().unwrap(),
            };
            let pair = row.key.unpaired.is_none();
            assert_eq!((of(0), of(1)), (if pair { row.n as f64 } else { 0.0 }, row.n as f64));
            assert!(
                !pair || row.sum_ns[0] > row.sum_ns[1],
                "the caller waits longer than the work takes"
            );
            let count = calls
                .entry((row.slice_ns, row.key.server_service.clone()))
                .or_insert((0, 0));
            *count = (count.0 + row.n, count.1 + row.errors);
        }
    }
    assert!(registers > 0, "thresholds are counted");
    assert!(
        clients.iter().all(|(place, n)| servers.get(place) == Some(n)),
        "both sides count the same calls"
    );
    let sum = |errors: bool| {
        servers
            .iter()
            .filter(|(place, _)| place.2 || !errors)
            .map(|(_, n)| *n)
            .sum::<u64>()
    };
    let of_calls = calls.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!(of_calls, (sum(false), sum(true)), "edges count what servers count");
}

#[test]
fn incidents_are_in_the_counts() {
    let busy = Settings {
        density: Some(0.99),
        operations: 5,
        history: Duration::from_secs(14 * 86_400),
        ..settings(11)
    };
    let world = World::new(&busy);
    assert_eq!(world.incidents.len(), 2);
    let rows: Vec<RedRow> = counted(&world, Vec::new())
        .into_iter()
        .flat_map(|part| part.red)
        .collect();
    for incident in &world.incidents {
        let of = |inside: bool| {
            let (mut n, mut errors, mut durations) = (0, 0, ExpHist::new());
            let of_service = |key: &RedKey| *key.service_name == *incident.service && key.kind == 2;
            for row in rows.iter().filter(|row| of_service(&row.key)) {
                if (incident.from_s..incident.to_s).contains(&(row.slice_ns / 1_000_000_000)) == inside {
                    n += row.n;
                    errors += if row.key.is_error { row.n } else { 0 };
                    durations.merge_encoded(&row.exphist).unwrap();
                }
            }
            (n, errors as f64 / n as f64, durations.quantile(0.5).unwrap())
        };
        let (inside, outside) = (of(true), of(false));
        assert!(inside.0 > 30, "{incident:?} {inside:?}");
        match incident.trouble {
            Trouble::Latency { slower } => {
                let times = inside.2 / outside.2;
                assert!((times / slower - 1.0).abs() < 0.5, "{incident:?}: {times} times");
            }
            Trouble::Errors { share } => {
                let off = 4.0 * (share * (1.0 - share) / inside.0 as f64).sqrt();
                assert!(
                    (inside.1 - share).abs() < off && outside.1 < 0.02,
                    "{incident:?}: {inside:?}"
                );
            }
        }
    }
}

/// Durations by service, of spans and as RED counts them, and how far a quantile of these is from the exact one of those.
fn quantiles_agree<'s>(requests: impl Iterator<Item = (Vec<u8>, u64, Vec<(&'s str, u64)>)>) {
    let mut aggregator = Aggregator::new(counting(Vec::new()).red);
    let mut exact: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (request, arrival_ns, durations) in requests {
        let info = RequestInfo {
            tenant: "default",
            arrival_ns,
            rejected: &[],
        };
        aggregator.push_request(&request, &info, Mode::Count).unwrap();
        for (service, ns) in durations {
            exact.entry(service.to_owned()).or_default().push(ns);
        }
    }
    let mut counted: BTreeMap<String, ExpHist> = BTreeMap::new();
    for row in aggregator.drain().red {
        let sketch = counted.entry(row.key.service_name.to_string()).or_default();
        sketch.merge_encoded(&row.exphist).unwrap();
    }
    assert!(!exact.is_empty() && exact.keys().eq(counted.keys()));
    for (service, durations) in &mut exact {
        durations.sort_unstable();
        for q in [0.5, 0.9, 0.99, 0.999] {
            // `percentile_cont`, as SQL has it.
            let rank = q * (durations.len() - 1) as f64;
            let (low, high) = (durations[rank.floor() as usize], durations[rank.ceil() as usize]);
            let wanted = low as f64 + (high - low) as f64 * rank.fract();
            let found = counted[service].quantile(q).unwrap();
            let off = (found - wanted).abs() / wanted.max(1.0);
            assert!(off <= QUANTILE_OFF, "{service} P{}: {found} for {wanted}", q * 100.0);
        }
    }
}

fn durations<'r>(
    request: &'r opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest,
    names: &'r [String],
) -> Vec<(&'r str, u64)> {
    let service = |part: &opentelemetry_proto::tonic::trace::v1::ResourceSpans| {
        let attributes = &part.resource.as_ref().unwrap().attributes;
        let name = attributes.iter().find(|one| one.key == "service.name").unwrap();
        let Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(name)) =
            name.value.as_ref().unwrap().value.clone()
        else {
            panic!("a name is a text")
        };
        names.iter().find(|one| **one == name).map_or("?", String::as_str)
    };
    let ns = |span: &Span| span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    let parts = request.resource_spans.iter();
    parts
        .flat_map(|part| {
            let name = service(part);
            let spans = part.scope_spans.iter().flat_map(|scope| &scope.spans);
            spans.map(move |span| (name, ns(span))).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn quantiles_of_generated_latencies_are_within_the_bound() {
    let world = World::new(&Settings {
        density: Some(0.9),
        rows: Duration::from_secs(2 * 3600),
        ..settings(5)
    });
    let names: Vec<String> = world.services.iter().map(|service| service.name.clone()).collect();
    let sent: Vec<_> = (world.rows_s..world.to_s)
        .step_by(10)
        .map(|at| (at, rows::slice(&world, at).traces))
        .collect();
    let requests = sent.iter().map(|(at, request)| {
        (
            request.encode_to_vec(),
            (at + 10) * 1_000_000_000,
            durations(request, &names),
        )
    });
    quantiles_agree(requests);
}

#[test]
fn quantiles_of_nezha_are_within_the_bound() {
    let root = std::env::var_os("TAILWATER_TEST_DATA").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        Into::into,
    );
    let Ok(folder) = std::fs::read_dir(root.join("nezha/trace")) else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {}/nezha is not there (set TAILWATER_TEST_DATA)",
            root.display()
        );
        return;
    };
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    // Two minutes keep the debug build's test short.
    files.truncate(2);
    let mut requests = Vec::new();
    super::super::replay::read(&files, 512, &mut |request| {
        if let super::super::replay::Recorded::Traces(request) = request {
            requests.push(request);
        }
        Ok(())
    })
    .unwrap();
    let spans = || requests.iter().flat_map(super::super::replay::spans);
    let newest = spans().map(|span| span.end_time_unix_nano).max().unwrap();
    let mut names: Vec<String> = Vec::new();
    for part in requests.iter().flat_map(|request| &request.resource_spans) {
        let attributes = &part.resource.as_ref().unwrap().attributes;
        if let Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(name)) = attributes
            .iter()
            .find(|one| one.key == "service.name")
            .and_then(|one| one.value.clone()?.value)
        {
            names.push(name);
        }
    }
    quantiles_agree(
        requests
            .iter()
            .map(|request| (request.encode_to_vec(), newest, durations(request, &names))),
    );
}

#[test]
fn a_lake_gets_a_past_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let write = |data: &std::path::Path| {
        let world = World::new(&settings(6));
        runtime.block_on(Box::pin(write(data, world, counting(Vec::new()), |_| {})))
    };
    let told = write(&data).unwrap();
    let rows = |table: Table| {
        told.tables
            .iter()
            .find(|one| one.table == table)
            .map_or(0, |one| one.rows)
    };
    for table in [
        Table::Red,
        Table::Edges,
        Table::Spans,
        Table::Traces,
        Table::Logs,
        Table::Ledger,
    ] {
        assert!(rows(table) > 0, "{table:?}: {told:?}");
    }
    assert!(rows(Table::Logs) as usize >= told.deployments.len());
    let text = told.table();
    assert!(
        text.contains("incident-1") && text.contains("red") && text.contains("seed 6"),
        "{text}"
    );
    let json = serde_json::to_value(&told).unwrap();
    assert!(
        json["incidents"][0]["kind"].is_string() && json["tables"][0]["rows"].is_u64(),
        "{json}"
    );

    let lake = Lake::open(&data.join("lake")).unwrap();
    let verified = runtime.block_on(verify(&lake, None, Depth::EveryByte)).unwrap();
    assert!(verified.is_exact() && verified.lines.len() == 2, "{verified:?}");
    let readable: u64 = verified.lines.iter().map(|line| line.readable).sum();
    assert_eq!(readable, rows(Table::Spans) + rows(Table::Logs), "the cut is all of it");

    let refused = write(&data).unwrap_err().to_string();
    assert!(refused.contains("already holds"), "{refused}");
    let used = directory.path().join("used");
    std::fs::create_dir(&used).unwrap();
    let lock = std::fs::File::create(used.join("collector.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let refused = write(&used).unwrap_err().to_string();
    assert!(refused.contains("in use"), "{refused}");
}
