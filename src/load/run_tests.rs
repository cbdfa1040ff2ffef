//! The whole loop against a server of the test's own: counts, retries of equal bytes, gRPC framing, the ledger.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io::Read;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::super::client::{Compression, Protocol};
use super::super::stamp::Form;
use super::super::workload::{Fill, Shape, Workload};
use super::*;

/// Bodies received, by path.
type Seen = Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A server that records every request and answers the `n`th with `answer(n)`.
async fn server(answer: fn(usize) -> Answer) -> (http::Uri, Seen) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let seen = Seen::default();
    let log = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let log = log.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let log = log.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let mut log = log.lock().unwrap();
                        log.push((parts.uri.path().to_owned(), parts.headers, body));
                        Ok::<_, Infallible>(answer(log.len()))
                    }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // The client hanging up at the end of the test is no failure.
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (uri, seen)
}

fn http_answer(status: u16) -> Answer {
    Response::builder()
        .status(status)
        .header("retry-after", "0")
        .body(Full::new(Bytes::new()).boxed_unsync())
        .unwrap()
}

fn grpc_answer(_: usize) -> Answer {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let body = Full::new(Bytes::from_static(b"\0\0\0\0\0")).with_trailers(std::future::ready(Some(Ok(trailers))));
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body.boxed_unsync())
        .unwrap()
}

fn options(endpoint: http::Uri, protocol: Protocol, compression: Compression) -> Options {
    Options {
        target: Target {
            endpoint,
            protocol,
            compression,
            connections: 2,
            timeout: Duration::from_secs(10),
            connector: tailwater_runtime::tls::Connector::plain(),
            authorization: None,
        },
        signals: vec![(Signal::Traces, Rate::PerSecond(100_000.0))],
        duration: Some(Duration::from_millis(50)),
        in_flight: 16,
        retry_for: Duration::from_secs(20),
        seed: 3,
        ledger: None,
    }
}

fn source(form: Form) -> Arc<Source> {
    let workload = Workload {
        shape: Shape::Shop,
        form,
        services: 8,
        fill: Fill::Items(100),
        errors: 0.0,
        latency: Default::default(),
        series: 100,
        templates: 2,
        incident: None,
        seed: 3,
    };
    let templates: HashMap<Signal, Arc<Vec<Template>>> = Signal::ALL
        .iter()
        .map(|signal| (*signal, Arc::new(workload.templates(*signal))))
        .collect();
    Arc::new(move |signal, _| templates[&signal].clone())
}

/// 100k items/s in requests of 100 for 50 ms: 50 requests, however long they take to send.
const REQUESTS: u64 = 50;

async fn check(options: Options, form: Form) -> Report {
    let (_keep, stop) = watch::channel(false);
    run(options, source(form), stop, |_| {}).await.unwrap()
}

fn span_ids(body: &[u8]) -> Vec<Vec<u8>> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let spans = request
        .resource_spans
        .into_iter()
        .flat_map(|part| part.scope_spans)
        .flat_map(|scope| scope.spans);
    spans.map(|span| span.span_id).collect()
}

#[tokio::test]
async fn refused_requests_are_repeated_byte_for_byte_until_acked() {
    let (uri, seen) = server(|n| http_answer(if n % 3 == 0 { 503 } else { 200 })).await;
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    let mut options = options(uri, Protocol::Http, Compression::None);
    // All requests become due at once and wait for a turn; none may be lost to the clock.
    options.duration = None;
    options.ledger = Some(ledger.clone());
    let (stopper, stop) = watch::channel(false);
    let source = source(Form::Binary);
    let finish = |report: &Report| {
        if report
            .signals
            .get("traces")
            .is_some_and(|figures| figures.acked_requests >= 20)
        {
            stopper.send_replace(true);
        }
    };
    let report = run(options, source, stop, finish).await.unwrap();
    let figures = &report.signals["traces"];
    assert!(
        figures.acked >= 2_000 && figures.refused > 0 && figures.retried > 0,
        "{figures:?}"
    );
    assert_eq!(figures.reasons["503"], figures.refused);
    assert_eq!(figures.sent, figures.acked + figures.unanswered + figures.rejected);
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter()
            .all(|(path, headers, _)| path == "/v1/traces" && headers["content-type"] == "application/x-protobuf")
    );
    let distinct: HashSet<&Bytes> = seen.iter().map(|(_, _, body)| body).collect();
    assert_eq!(distinct.len() as u64, figures.requests, "equal bytes are one request");
    let ids: HashSet<Vec<u8>> = distinct.iter().flat_map(|body| span_ids(body)).collect();
    assert_eq!(ids.len() as u64, figures.sent, "no two spans share an id");
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(ledger)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let acked: u64 = lines
        .iter()
        .filter(|line| line["outcome"] == "acked")
        .map(|line| line["items"].as_u64().unwrap())
        .sum();
    assert_eq!(acked, figures.acked);
    for line in &lines[1..] {
        assert!(ids.contains(&hex::decode(line["first_id"].as_str().unwrap()).unwrap()));
    }
}

#[tokio::test]
async fn grpc_requests_are_framed_and_compressed() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let (uri, seen) = server(grpc_answer).await;
        let mut options = options(uri, Protocol::Grpc, compression);
        options.in_flight = 1_000;
        let report = check(options, Form::Binary).await;
        let figures = &report.signals["traces"];
        assert_eq!(figures.requests + figures.unsent_requests, REQUESTS, "{figures:?}");
        assert_eq!(
            (figures.acked, figures.retried),
            (figures.requests * 100, 0),
            "{figures:?}"
        );
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len() as u64, figures.requests);
        let mut ids = HashSet::new();
        for (path, headers, body) in seen.iter() {
            assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
            assert_eq!(headers["te"], "trailers");
            assert_eq!(
                u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize,
                body.len() - 5
            );
            let mut plain = Vec::new();
            match compression {
                Compression::None => plain.extend_from_slice(&body[5..]),
                Compression::Gzip => {
                    flate2::read::GzDecoder::new(&body[5..])
                        .read_to_end(&mut plain)
                        .map(|_| ())
                        .unwrap();
                }
                Compression::Zstd => plain = zstd::decode_all(&body[5..]).unwrap(),
            }
            assert_eq!(body[0] == 1, compression != Compression::None);
            ids.extend(span_ids(&plain));
        }
        assert_eq!(ids.len() as u64, figures.sent);
    }
}

#[tokio::test]
async fn final_answers_end_a_request_and_partial_ones_are_counted() {
    let (uri, _) = server(|_| http_answer(400)).await;
    let report = check(options(uri, Protocol::HttpJson, Compression::None), Form::Json).await;
    let figures = &report.signals["traces"];
    assert_eq!((figures.acked, figures.rejected), (0, figures.sent));
    assert_eq!(figures.retried, 0);
    let (uri, seen) = server(|_| {
        let body = Full::new(Bytes::from_static(br#"{"partialSuccess":{"rejectedSpans":"1"}}"#));
        Response::builder()
            .header("content-type", "application/json")
            .body(body.boxed_unsync())
            .unwrap()
    })
    .await;
    let report = check(options(uri, Protocol::HttpJson, Compression::None), Form::Json).await;
    let figures = &report.signals["traces"];
    assert_eq!(
        (figures.rejected, figures.acked),
        (figures.requests, figures.sent - figures.requests)
    );
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .all(|(_, headers, _)| headers["content-type"] == "application/json")
    );
}

#[tokio::test]
async fn nobody_listening_is_a_figure_and_not_an_error() {
    let mut options = options("http://127.0.0.1:1".parse().unwrap(), Protocol::Grpc, Compression::None);
    options.retry_for = Duration::ZERO;
    let report = check(options, Form::Binary).await;
    let figures = &report.signals["traces"];
    assert_eq!((figures.acked, figures.unanswered), (0, figures.sent));
    assert!(!figures.reasons.is_empty() && !report.complete());
}

#[tokio::test]
async fn a_closed_loop_sends_as_fast_as_answers_come() {
    let (uri, seen) = server(grpc_answer).await;
    let mut options = options(uri, Protocol::Grpc, Compression::None);
    options.in_flight = 4;
    options.signals = Signal::ALL.map(|signal| (signal, Rate::Max)).to_vec();
    let report = check(options, Form::Binary).await;
    assert_eq!(report.signals.len(), 3);
    assert!(report.complete(), "{report:?}");
    let requests: u64 = report.signals.values().map(|figures| figures.requests).sum();
    assert_eq!(seen.lock().unwrap().len() as u64, requests);
}
