//! Rows and lines become the requests they should; the real files, where they are at hand, are counted.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;

use super::super::client::{Compression, Protocol, Target};
use super::*;

const TRACE: &str = "\
TraceID,SpanID,ParentID,PodName,OperationName,StartTimeUnixNano,EndTimeUnixNano,Duration
04c87ec97bae041b1b15b3c7676a43cc,0000000000000001,root,frontend-579b9bff58-t2dbm,hipstershop.Frontend/Recv.,1000,9000,8
04c87ec97bae041b1b15b3c7676a43cc,0000000000000002,0000000000000001,frontend-579b9bff58-t2dbm,hipstershop.CartService/GetCart,2000,8000,6
04c87ec97bae041b1b15b3c7676a43cc,0000000000000003,0000000000000002,cartservice-579f59597d-wc2lz,hipstershop.CartService/GetCart,3000,7000,4
04c87ec97bae041b1b15b3c7676a43cc,0000000000000004,0000000000000003,cartservice-579f59597d-wc2lz,sql.rows,4000,5000,1
04c87ec97bae041b1b15b3c7676a43cd,0000000000000005,00000000000000ff,adservice-5f6585d649-fnmft,hipstershop.AdServiceImpl/getAds,4000,5000,1
04c87ec97bae041b1b15b3c7676a43cd,0000000000000006,0000000000000005,adservice-5f6585d649-fnmft,hipstershop.CartService/GetCart,4000,5000,1
";

fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recorded");
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

fn read_all(content: &[u8], batch: usize) -> anyhow::Result<Vec<Recorded>> {
    let (_dir, path) = file(content);
    let mut requests = Vec::new();
    read(&[path], batch, &mut |request| {
        requests.push(request);
        Ok(())
    })?;
    Ok(requests)
}

fn count(requests: &[Recorded]) -> Counts {
    let mut census = Census::default();
    requests.iter().for_each(|request| drop(census.add(request)));
    census.counts()
}

#[test]
fn nezha_spans_get_service_and_kind() {
    let requests = read_all(TRACE.as_bytes(), 100).unwrap();
    assert_eq!(
        count(&requests),
        Counts {
            requests: 1,
            spans: 6,
            traces: 2,
            logs: 0,
            points: 0
        }
    );
    let Recorded::Traces(request) = &requests[0] else {
        panic!("spans")
    };
    let mut kinds: Vec<(u8, i32)> = shift::spans(request).map(|span| (span.span_id[7], span.kind)).collect();
    kinds.sort_unstable();
    // 1 internal, 2 server, 3 client.
    assert_eq!(kinds, [(1, 2), (2, 3), (3, 2), (4, 3), (5, 1), (6, 3)]);
    let root = shift::spans(request)
        .find(|span| span.parent_span_id.is_empty())
        .unwrap();
    assert_eq!(
        (root.start_time_unix_nano, root.end_time_unix_nano, root.status.as_ref()),
        (1_000, 9_000, None)
    );
    let names: Vec<String> = request
        .resource_spans
        .iter()
        .map(|part| {
            match &part.resource.as_ref().unwrap().attributes[0]
                .value
                .as_ref()
                .unwrap()
                .value
            {
                Some(Value::StringValue(name)) => name.clone(),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert_eq!(names, ["adservice", "cartservice", "frontend"]);
}

#[test]
fn requests_hold_a_batch_and_files_may_be_zipped() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(TRACE.as_bytes()).unwrap();
    let zipped = encoder.finish().unwrap();
    let requests = read_all(&zipped, 4).unwrap();
    assert_eq!(
        count(&requests),
        Counts {
            requests: 2,
            spans: 6,
            traces: 2,
            logs: 0,
            points: 0
        }
    );
}

#[test]
fn nezha_logs_unwrap_the_programs_own_line() {
    let text = r#"Timestamp,TimeUnixNano,Node,PodName,Container,TraceID,SpanID,Log
2022-08-22T05:18:42Z,1661145522908318000,33.33.33.155,cartservice-6cfdd55578-gfj6q,server,04c87ec97bae041b1b15b3c7676a43cc,e4006dce6700e903,"{""log"":""{\""severity\"": \""WARNING\"", \""session\"": \""s1\"", \""message\"": \""Query, done\""}\n"",""stream"":""stdout""}"
2022-08-22T05:18:42Z,1661145522908318001,33.33.33.155,adservice-6cfdd55578-gfj6q,server,04c87ec97bae041b1b15b3c7676a43cc,e4006dce6700e903,"{""log"":""05:20:13.392 INFO  - got a request\n"",""stream"":""stdout""}"
2022-08-22T05:18:42Z,1661145522908318002,33.33.33.155,adservice-6cfdd55578-gfj6q,server,04c87ec97bae041b1b15b3c7676a43cc,e4006dce6700e903,not wrapped
"#;
    let requests = read_all(text.as_bytes(), 100).unwrap();
    assert_eq!(count(&requests).logs, 3);
    let Recorded::Logs(request) = &requests[0] else {
        panic!("logs")
    };
    let of = |pod: usize, record: usize| &request.resource_logs[pod].scope_logs[0].log_records[record];
    let body = |record: &opentelemetry_proto::tonic::logs::v1::LogRecord| format!("{:?}", record.body);
    assert!(body(of(0, 0)).contains("got a request") && of(0, 0).severity_number == 9);
    assert!(body(of(0, 1)).contains("not wrapped") && of(0, 1).severity_number == 0);
    let wrapped = of(1, 0);
    assert!(body(wrapped).contains("\"Query, done\"") && wrapped.severity_number == 13);
    assert_eq!(wrapped.severity_text, "WARNING");
    assert_eq!(wrapped.attributes[1].key, "session");
    assert_eq!((wrapped.trace_id.len(), wrapped.span_id.len()), (16, 8));
}

const LINE: &str =
    r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"5000"},{"timeUnixNano":"7000"}]}]}]}"#;

#[test]
fn otlp_json_comes_in_lines_or_as_one_pretty_text() {
    let lines = format!("{LINE}\n\n{}\n", r#"{"resourceSpans":[],"resourceMetrics":[]}"#);
    let requests = read_all(lines.as_bytes(), 1).unwrap();
    assert_eq!(
        count(&requests),
        Counts {
            requests: 3,
            logs: 2,
            ..Counts::default()
        }
    );
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(LINE).unwrap()).unwrap();
    let whole = read_all(pretty.as_bytes(), 1).unwrap();
    assert_eq!(whole, requests[..1]);
    assert!(read_all(b"", 1).unwrap().is_empty());
}

#[test]
fn errors_name_file_and_line() {
    let check = |content: &str, words: &[&str]| {
        let error = format!("{:#}", read_all(content.as_bytes(), 10).unwrap_err());
        assert!(
            words.iter().chain(&["recorded"]).all(|word| error.contains(word)),
            "{error}"
        );
    };
    check("hello", &["line 1", "neither"]);
    check("Type,Of,Nothing\n", &["line 1", "columns"]);
    check(
        &TRACE.replace(",4000,5000,1\n04", ",4000,soon,1\n04"),
        &["line 5", "EndTimeUnixNano"],
    );
    check(&TRACE.replace("0000000000000006", "xyz"), &["line 7", "SpanID"]);
    check(&format!("{LINE}\n{{\"resourceLogs\":7}}\n"), &["line 2"]);
    check(&format!("{LINE}\n{{\"spans\":[]}}\n"), &["line 2", "no resourceSpans"]);
    check("{\n \"resourceLogs\": [\n  {]\n}", &["line 3"]);
    let missing = read(&["/nonexistent/file".into()], 1, &mut |_| Ok(())).unwrap_err();
    assert!(format!("{missing:#}").contains("/nonexistent/file"));
}

#[test]
fn times_move_together_and_zero_stays() {
    let (_dir, path) = file(TRACE.as_bytes());
    assert_eq!(newest(std::slice::from_ref(&path), 2).unwrap(), 9_000);
    let replay = Replay {
        rate: Rate::Max,
        files: vec![path],
        signals: vec![Signal::Traces],
        batch: 100,
        keep_times: false,
    };
    let (requests, mut queue) = mpsc::channel(1);
    read_shifted(&replay, &requests).unwrap();
    let Recorded::Traces(request) = queue.try_recv().unwrap() else {
        panic!("spans")
    };
    let root = shift::spans(&request)
        .find(|span| span.parent_span_id.is_empty())
        .unwrap();
    assert_eq!(root.end_time_unix_nano - root.start_time_unix_nano, 8_000);
    let age = unix_ns() - root.end_time_unix_nano;
    assert!(age < 600_000_000_000, "the newest item is now, not {age} ns ago");
    let mut zero = Recorded::Traces(ExportTraceServiceRequest::default());
    shift::times(&mut zero, &mut |_| panic!("no time is said"));
    assert_eq!((shift::moved(5, -10), shift::moved(5, 10)), (1, 15));
}

#[test]
fn only_the_wanted_signals_are_sent() {
    let traces = r#"{"resourceSpans":[]}"#;
    let (_dir, path) = file(format!("{LINE}\n{traces}\n{LINE}\n").as_bytes());
    for (signals, expected) in [
        (vec![Signal::Logs], vec![Signal::Logs, Signal::Logs]),
        (vec![Signal::Traces, Signal::Metrics], vec![Signal::Traces]),
        (vec![Signal::Metrics], vec![]),
    ] {
        let replay = Replay {
            rate: Rate::Max,
            files: vec![path.clone()],
            signals,
            batch: 100,
            keep_times: true,
        };
        let (requests, mut queue) = mpsc::channel(3);
        read_shifted(&replay, &requests).unwrap();
        let sent: Vec<Signal> = std::iter::from_fn(|| queue.try_recv().ok())
            .map(|request| request.signal())
            .collect();
        assert_eq!(sent, expected);
    }
}

/// The second of these requests is due after a quarter of an hour: progress goes on meanwhile, and a stop is one.
#[tokio::test]
async fn a_slow_replay_shows_progress_and_stops_when_asked() {
    let (_dir, path) = file(TRACE.as_bytes());
    let replay = Replay {
        rate: Rate::PerSecond(0.001),
        files: vec![path],
        signals: vec![Signal::Traces],
        batch: 1,
        keep_times: true,
    };
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let options = Options {
        target: Target {
            endpoint: endpoint.parse().unwrap(),
            protocol: Protocol::Http,
            compression: Compression::None,
            connections: 1,
            timeout: Duration::from_secs(10),
            connector: tailwater_runtime::tls::Connector::plain(),
            authorization: None,
        },
        signals: Vec::new(),
        duration: None,
        in_flight: 4,
        retry_for: Duration::ZERO,
        seed: 0,
        ledger: None,
    };
    let (stopper, stop) = watch::channel(false);
    // Once the first has ended, while the second waits.
    let show = |report: &Report| {
        if report.signals.values().any(|figures| figures.unanswered > 0) {
            stopper.send_replace(true);
        }
    };
    let running = tokio::time::timeout(Duration::from_secs(60), run(replay, options, stop, show));
    let (counts, _) = running.await.expect("it stops").unwrap();
    assert_eq!((counts.requests, counts.spans), (1, 1));
}

/// The folder with real data, if this machine has it.
fn data() -> Option<PathBuf> {
    let named = std::env::var_os("TAILWATER_TEST_DATA").map(PathBuf::from);
    let found = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    if found.is_dir() {
        return Some(found);
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED: no test data at {}", found.display());
    None
}

#[test]
fn the_real_files_are_read_to_the_last_row() {
    let Some(data) = data() else { return };
    let list = |folder: &str| {
        let mut files: Vec<PathBuf> = std::fs::read_dir(data.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "gz" || extension == "json")
        });
        files.sort();
        files
    };
    // One minute of traces keeps the debug build's test short; the end-to-end tests load all six.
    let mut files = list("nezha/trace");
    files.truncate(1);
    files.extend(list("nezha/log"));
    files.extend(list("otlp-json"));
    let mut census = Census::default();
    read(&files, 512, &mut |request| {
        census.add(&request);
        Ok(())
    })
    .unwrap();
    let counts = census.counts();
    assert_eq!(
        counts.spans,
        6_712 + 1,
        "a row a span, and the example of the OTLP project"
    );
    assert!(
        counts.logs >= 13_134 + 2 && counts.points >= 4 && counts.traces > 100,
        "{counts:?}"
    );
}
