//! Recorded telemetry as requests: OTLP-JSON (one request a line, or a pretty-printed one a file) and the CSV files of the Nezha data set.
//!
//! Files may be gzipped; what a file is, its content says. Two passes: the first finds the newest item, the second moves all times so
//! that it is now (unless they are kept) and hands the requests out. Memory: one request for OTLP-JSON lines, one file for the rest.
//! Errors name file and line.

mod csv;
mod files;
mod nezha;
mod shift;

pub use shift::spans;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tailwater_model::signal::Signal;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::client::{Client, headroom};
use super::ledger::Ledger;
use super::run::{Options, Rate, unix_ns};
use super::send::{Parcel, Sender, stopped};
use super::tally::{Report, Tally};

/// A recorded request.
#[derive(Debug, Clone, PartialEq)]
pub enum Recorded {
    /// Spans.
    Traces(ExportTraceServiceRequest),
    /// Points.
    Metrics(ExportMetricsServiceRequest),
    /// Records.
    Logs(ExportLogsServiceRequest),
}

impl Recorded {
    /// Its signal.
    pub fn signal(&self) -> Signal {
        match self {
            Recorded::Traces(_) => Signal::Traces,
            Recorded::Metrics(_) => Signal::Metrics,
            Recorded::Logs(_) => Signal::Logs,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        // A Vec grows as needed: encoding into one cannot fail.
        let encoded = match self {
            Recorded::Traces(request) => request.encode(out),
            Recorded::Metrics(request) => request.encode(out),
            Recorded::Logs(request) => request.encode(out),
        };
        encoded.expect("a Vec has room");
    }
}

/// What was in the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Requests they became.
    pub requests: u64,
    /// Spans.
    pub spans: u64,
    /// Distinct trace ids among the spans.
    pub traces: u64,
    /// Log records.
    pub logs: u64,
    /// Metric points.
    pub points: u64,
}

/// Counts items and distinct traces as they pass.
#[derive(Debug, Default)]
pub struct Census {
    counts: Counts,
    traces: HashSet<Vec<u8>>,
}

impl Census {
    /// Counts a request; returns its items and the first one's id.
    pub fn add(&mut self, request: &Recorded) -> (u64, String) {
        self.counts.requests += 1;
        let mut first_id = None;
        let items = match request {
            Recorded::Traces(request) => {
                let mut spans = 0;
                for span in shift::spans(request) {
                    spans += 1;
                    first_id.get_or_insert_with(|| hex::encode(&span.span_id));
                    if !self.traces.contains(&span.trace_id) {
                        self.traces.insert(span.trace_id.clone());
                    }
                }
                self.counts.spans += spans;
                spans
            }
            Recorded::Logs(request) => {
                let scopes = request.resource_logs.iter().flat_map(|part| &part.scope_logs);
                let logs = scopes.map(|scope| scope.log_records.len() as u64).sum();
                self.counts.logs += logs;
                logs
            }
            Recorded::Metrics(request) => {
                let points = shift::points(request);
                self.counts.points += points;
                points
            }
        };
        (items, first_id.unwrap_or_default())
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        Counts {
            traces: self.traces.len() as u64,
            ..self.counts
        }
    }
}

/// Reads the files, in order, as requests of at most `batch` items (OTLP-JSON requests stay as they are).
///
/// # Errors
/// The first thing that cannot be read, with file and line; or what `each` returns.
pub fn read(
    paths: &[PathBuf],
    batch: usize,
    each: &mut dyn FnMut(Recorded) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    paths.iter().try_for_each(|path| files::read(path, batch, each))
}

/// The newest time in the files, ns since 1970; 0 when there is none.
///
/// # Errors
/// As [`read`].
pub fn newest(paths: &[PathBuf], batch: usize) -> anyhow::Result<u64> {
    let mut newest = 0;
    read(paths, batch, &mut |mut request| {
        shift::times(&mut request, &mut |time| newest = newest.max(*time));
        Ok(())
    })?;
    Ok(newest)
}

/// Which files, and how.
#[derive(Debug, Clone)]
pub struct Replay {
    /// How fast, all signals together.
    pub rate: Rate,
    /// The files.
    pub files: Vec<PathBuf>,
    /// What of them is sent.
    pub signals: Vec<Signal>,
    /// Items a request.
    pub batch: usize,
    /// Leave times as they are.
    pub keep_times: bool,
}

/// Requests read ahead of the sender.
const READ_AHEAD: usize = 8;

/// Sends the files' items of the wanted signals and says which these were and how they were received. Stops early, with what is under way,
/// when `stop` turns true.
///
/// # Errors
/// When a file cannot be read, the endpoint is no address or the ledger cannot be written.
pub async fn run(
    replay: Replay,
    options: Options,
    stop: watch::Receiver<bool>,
    progress: impl Fn(&Report),
) -> anyhow::Result<(Counts, Report)> {
    let ledger = options
        .ledger
        .as_deref()
        .map(|path| Ledger::open(path, options.seed))
        .transpose()?;
    let sender = Arc::new(Sender {
        client: Client::new(options.target.clone())?,
        tally: Tally::default(),
        ledger,
        retry_for: options.retry_for,
        stop: stop.clone(),
    });
    let rate = replay.rate;
    let (requests, mut queue) = mpsc::channel(READ_AHEAD);
    let reader = tokio::task::spawn_blocking(move || read_shifted(&replay, &requests));
    let started = Instant::now();
    let mut stop = stop;
    let mut census = Census::default();
    let turns = Arc::new(Semaphore::new(options.in_flight.max(1)));
    let mut under_way = JoinSet::new();
    let (number, mut sent) = (AtomicU64::new(0), 0_u64);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(250));
    loop {
        let request: Recorded = tokio::select! {
            () = stopped(&mut stop) => break,
            _ = ticks.tick() => {
                progress(&sender.tally.report(options.seed, started.elapsed()));
                continue;
            }
            request = queue.recv() => match request {
                Some(request) => request,
                None => break,
            },
        };
        let due = match rate {
            Rate::Max => None,
            Rate::PerSecond(rate) => Some(started + std::time::Duration::from_secs_f64(sent as f64 / rate.max(1e-6))),
        };
        let ready = async {
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
            turns.clone().acquire_owned().await
        };
        tokio::pin!(ready);
        let turn = loop {
            tokio::select! {
                () = stopped(&mut stop) => break None,
                _ = ticks.tick() => progress(&sender.tally.report(options.seed, started.elapsed())),
                turn = &mut ready => break Some(turn?),
            }
        };
        let Some(turn) = turn else { break };
        let (items, first_id) = census.add(&request);
        let head = headroom(options.target.protocol);
        let mut payload = vec![0; head];
        request.encode(&mut payload);
        let parcel = Parcel {
            number: number.fetch_add(1, Ordering::Relaxed),
            signal: request.signal(),
            items,
            first_id,
            payload_bytes: (payload.len() - head) as u64,
            body: sender.client.envelop(payload)?,
            due: due.unwrap_or_else(Instant::now),
        };
        sent += items;
        let sender = sender.clone();
        under_way.spawn(async move {
            sender.deliver(parcel).await;
            drop(turn);
        });
        while let Some(ended) = under_way.try_join_next() {
            ended.context("a request panicked")?;
        }
    }
    // A reader that waits to hand a request over ends when nobody takes it.
    drop(queue);
    while let Some(ended) = under_way.join_next().await {
        ended.context("a request panicked")?;
    }
    reader.await.context("the reader panicked")??;
    let report = sender.tally.report(options.seed, started.elapsed());
    if let Some(ledger) = Arc::into_inner(sender).context("all senders have ended")?.ledger {
        ledger.close()?;
    }
    Ok((census.counts(), report))
}

/// Reads, moves times, hands over. Ends early, without an error, when nobody takes the requests any more.
fn read_shifted(replay: &Replay, requests: &mpsc::Sender<Recorded>) -> anyhow::Result<()> {
    let by_ns = match replay.keep_times {
        true => 0,
        false => match newest(&replay.files, replay.batch)? {
            0 => 0,
            newest => i128::from(unix_ns()) - i128::from(newest),
        },
    };
    let mut taken = true;
    read(&replay.files, replay.batch, &mut |mut request| {
        if !replay.signals.contains(&request.signal()) {
            return Ok(());
        }
        shift::times(&mut request, &mut |time| *time = shift::moved(*time, by_ns));
        taken = taken && requests.blocking_send(request).is_ok();
        Ok(())
    })
}

#[cfg(test)]
mod tests;
