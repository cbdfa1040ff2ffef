#![allow(clippy::unwrap_used)]

use std::sync::mpsc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int32Type};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use tailwater_journal::Reasons;
use tailwater_model::ids::SHARDS;
use tailwater_runtime::Metrics;
use tailwater_storage::outbox::Head;

use super::process::{self, counter, recovered, walk};
use super::*;

/// 2026-01-01T00:00:00Z.
pub(super) const NOW: u64 = 1_767_225_600_000_000_000;
pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const LOG_ID: LogId = LogId([3; 16]);

/// A span: service, kind, id, parent.
type Made = (&'static str, i32, u8, u8);

/// A record with one span.
fn record(lsn: u64, arrival_ns: u64, (service, kind, id, parent): Made) -> Accepted {
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![id; 8],
        parent_span_id: vec![parent; 8],
        name: "op".into(),
        kind,
        start_time_unix_nano: arrival_ns - SECOND,
        end_time_unix_nano: arrival_ns,
        ..Span::default()
    };
    request_of(lsn, arrival_ns, service, vec![span])
}

/// A record with these spans of a service.
pub(super) fn request_of(lsn: u64, arrival_ns: u64, service: &str, spans: Vec<Span>) -> Accepted {
    let items = spans.len() as u64;
    let attributes = vec![KeyValue {
        key: "service.name".into(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(service.into())),
        }),
        ..KeyValue::default()
    }];
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes,
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    let payload = Bytes::from(request.encode_to_vec());
    Accepted {
        lsn: Lsn(lsn),
        entry: Entry {
            arrival_ns,
            tenant: "default".into(),
            signal: Signal::Traces,
            items,
            wire_bytes: payload.len() as u64,
            digest: None,
            duplicate: false,
            rejected: Default::default(),
        },
        payload,
        held: None,
        place: None,
    }
}

pub(super) fn journal_settings() -> tailwater_journal::Settings {
    tailwater_journal::Settings {
        log_id: LOG_ID,
        shards: SHARDS as u8,
        decisions_max: 1000,
        decision_age_max_ns: 1 << 60,
        reasons: Reasons::new([
            LOST_UNDECODABLE,
            LOST_DAMAGED,
            tailwater_sampling::ADMISSION,
            tailwater_sampling::LIVE_TRACES,
            crate::tail::AGAIN,
        ]),
    }
}

/// A road that cuts a batch after every row.
pub(super) fn parts(
    journal: Arc<Mutex<Journal>>,
    red: Option<Arc<Mutex<Aggregator>>>,
    outbox: SyncSender<Sealed>,
) -> Parts {
    Parts {
        settings: Settings {
            delay: Duration::from_secs(3600),
            rows: 1,
            bytes: usize::MAX,
        },
        journal,
        sampler: KeepAll { epoch: 0 },
        tail: None,
        leftover: None,
        red,
        hold_bytes: 1 << 30,
        outbox,
        stats: Stats::new(&Metrics::new()),
        caps: Caps::default(),
        now: || NOW + 3600 * SECOND,
        suspects: Suspects::default(),
    }
}

/// Arrivals and spans.
#[derive(Clone)]
struct Log(Vec<(u64, Made)>);

impl process::Log for Log {
    fn record(&self, lsn: u64) -> Accepted {
        let (arrival_ns, made) = self.0[lsn as usize - 1];
        record(lsn, arrival_ns, made)
    }
}

/// The collector between its two logs: batches settled so far.
#[derive(Default)]
struct Logs {
    settled: Vec<Bytes>,
}

impl Logs {
    /// Starts a process on what was settled, walks what the intake log still gives, then `new` records; ends cleanly. Answers the rows
    /// of `red` and `edges` in the batches that came out, and the first LSN that the next process needs.
    fn run(&mut self, log: &Log, new: std::ops::Range<u64>) -> (Vec<[u64; 2]>, u64) {
        let journal = recovered(&self.settled);
        let (outbox, sealed) = mpsc::sync_channel(100);
        walk(parts(journal.clone(), counter(), outbox), log, new);
        let mut out = Vec::new();
        for batch in sealed.try_iter() {
            self.settled.push(batch.cut.settlement.clone().into());
            let head = Head::decode(batch.encoded.head.clone()).unwrap();
            let rows = |table| {
                let frames = head.frames.iter().filter(|frame| frame.table == table);
                frames.map(|frame| u64::from(frame.rows)).sum::<u64>()
            };
            out.push([rows(Table::Red), rows(Table::Edges)]);
        }
        (out, journal.lock().replay_from().0)
    }
}

#[test]
fn a_restart_counts_nothing_twice_and_finds_what_waited() {
    let client = ("web", 3, 2, 1);
    let log = Log(vec![
        (NOW, client),
        (NOW + SECOND, ("cart", 2, 3, 2)),
        (NOW + 2 * SECOND, ("mail", 2, 4, 9)),
        // Its server came in an earlier process.
        (NOW + 3 * SECOND, ("web", 3, 9, 1)),
        (NOW + 100 * SECOND, ("web", 1, 7, 1)),
        (NOW + 200 * SECOND, ("web", 1, 8, 1)),
    ]);
    let mut logs = Logs::default();
    // One batch a record. The client waits; its server makes a call; the second server waits.
    assert_eq!(logs.run(&log, 1..4), (vec![[1, 0], [1, 1], [1, 0]], 1));
    // Nothing new: nothing is counted again.
    assert_eq!(logs.run(&log, 4..4), (vec![], 1));
    // The other side of what waited; then time passes, and nobody is left who would count alone.
    assert_eq!(logs.run(&log, 4..7), (vec![[1, 1], [1, 0], [1, 0]], 5));
    assert_eq!(logs.run(&log, 7..7), (vec![], 5));
}

#[test]
fn a_replay_that_breaks_off_settles_nothing_behind_it() {
    let record = |lsn: u64| record(lsn, NOW + lsn * SECOND, ("web", 1, lsn as u8, 1));
    let journal = recovered(&[]);
    let (outbox, sealed) = mpsc::sync_channel(100);
    let broken = ReplayError::Head {
        lsn: 2,
        error: tailwater_journal::Error::Checksum { what: "a record" },
    };
    let parts = parts(journal.clone(), None, outbox);
    let ended = process::run(parts, vec![Ok(record(1)), Err(broken)], std::iter::once(record(4)));
    assert!(ended.unwrap().contains("record 2"));
    assert_eq!(sealed.try_iter().count(), 1);
    // The next start reads from there, and what came meanwhile.
    assert_eq!(journal.lock().replay_from(), Lsn(2));
}

#[test]
fn a_record_without_its_payload_is_lost_and_says_to_what() {
    let whole = record(1, NOW, ("web", 1, 1, 1));
    let damaged = Accepted {
        payload: Bytes::new(),
        ..record(2, NOW, ("web", 1, 2, 1))
    };
    let (outbox, sealed) = mpsc::sync_channel(100);
    let parts = parts(recovered(&[]), counter(), outbox);
    assert_eq!(
        process::run(parts, vec![Ok(whole), Ok(damaged)], std::iter::empty()),
        None
    );
    let batches: Vec<Sealed> = sealed.try_iter().collect();
    let ledger = batches.iter().flat_map(|batch| &batch.cut.ledger);
    let mut accounts: Vec<_> = ledger
        .map(|(key, amount)| (key.account, key.reason, amount.items))
        .collect();
    accounts.sort_unstable_by_key(|(account, ..)| account.name());
    let expected = [
        (Account::Lost, LOST_DAMAGED, 1),
        (Account::Received, "", 1),
        (Account::Received, "", 1),
        (Account::Stored, "", 1),
    ];
    assert_eq!(accounts, expected);
}

#[test]
fn what_was_sampled_before_us_stands_for_as_many() {
    let check = |spans: &[(u8, &str)], expected: &[(Option<f64>, Option<&str>)]| {
        let spans = spans.iter().zip(1..).map(|((trace, state), number)| Span {
            trace_id: vec![*trace; 16],
            span_id: vec![number; 8],
            trace_state: (*state).into(),
            start_time_unix_nano: NOW - SECOND,
            end_time_unix_nano: NOW,
            // The table's order.
            name: format!("op {number}"),
            ..Span::default()
        });
        let record = request_of(1, NOW, "web", spans.collect());
        let (outbox, sealed) = mpsc::sync_channel(100);
        let parts = parts(recovered(&[]), counter(), outbox);
        assert_eq!(process::run(parts, vec![Ok(record)], std::iter::empty()), None);
        let batch = sealed.try_iter().next().unwrap();
        let head = Head::decode(batch.encoded.head.clone()).unwrap();
        let at = head
            .frames
            .iter()
            .position(|frame| frame.table == Table::Spans)
            .unwrap();
        let rows = &batch.rows[at];
        let column = |name: &str| rows.column_by_name(name).unwrap();
        let weights = column("sample_weight").as_primitive::<Float64Type>();
        let qualities = column("weight_quality").as_dictionary::<Int32Type>();
        let quality = |row: usize| {
            let key = qualities.key(row)?;
            Some(qualities.values().as_string::<i32>().value(key))
        };
        let found: Vec<_> = (0..rows.num_rows())
            .map(|row| (weights.is_valid(row).then(|| weights.value(row)), quality(row)))
            .collect();
        assert_eq!(found, expected);
    };
    const QUIET: (Option<f64>, Option<&str>) = (Some(1.0), None);
    check(&[(0xff, ""), (0xff, "a=ot=th:c")], &[QUIET, QUIET]);
    check(
        &[(0xff, "ot=th:c"), (0xff, ""), (0xff, "a=1,ot=th:8;rv:ffffffffffffff")],
        &[(Some(4.0), Some("exact")), QUIET, (Some(2.0), Some("exact"))],
    );
    // It should not be here at all.
    check(&[(1, "ot=th:c")], &[(None, Some("unknown"))]);
}
