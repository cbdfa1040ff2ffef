//! `tailwater load`: an open-loop OTLP generator with live progress and a final table; or a past, written straight into a new lake.

pub mod history;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use http::Uri;
use tailwater_config::{format_duration, parse_duration};
use tailwater_model::signal::Signal;
use tailwater_runtime::tls::Speaks;
use tailwater_runtime::{Exit, Shutdown};
use tokio::sync::watch;

use super::client::{ClientArgs, authorization};
use super::exchange::Unreachable;
use super::{Common, print, small_runtime, tell};
use crate::load::client::{Client, Compression, Protocol, Target};
use crate::load::replay::{self, Counts, Replay};
use crate::load::run::{self, Options, Rate};
use crate::load::shop::Latency;
use crate::load::stamp::Form;
use crate::load::tally::Report;
use crate::load::workload::{Fill, Shape, Workload};

/// Generate OTLP and say how it was received.
///
/// Requests become due by the clock, whatever the server does, and no two are alike.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 every item was acknowledged; 1 some were not; 2 it failed; 69 no server.\n\nExamples:\n  \
    tailwater load --rate 10000 --duration 30s\n  \
    tailwater load --signals traces --rate max --shape sspan --format json\n  \
    tailwater load --replay traces.jsonl 05_19_trace.csv.gz\n  \
    tailwater load --history 90d --services 20 --operations 1000 --seed 7 --data ./past"
)]
pub struct LoadArgs {
    #[command(flatten)]
    past: history::HistoryArgs,
    /// What to send, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "traces,metrics,logs", value_parser = signal)]
    signals: Vec<Signal>,
    /// Items a second of each signal, or `max`: as fast as answers come. Without it 1000; `max` for a replay.
    #[arg(long, value_parser = rate)]
    rate: Option<Rate>,
    /// Sends recorded files instead: OTLP-JSON (a request a line, or a whole file) and Nezha CSV, plain or gzipped, moved so that the
    /// newest item is now. Options that shape what is generated do not go with it.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    replay: Vec<PathBuf>,
    /// With --replay: leaves times as they are.
    #[arg(long, requires = "replay")]
    keep_times: bool,
    /// How long requests become due.
    #[arg(long, default_value = "60s", value_parser = parse_duration, conflicts_with = "replay")]
    duration: Duration,
    /// Distinct services.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "replay")]
    services: u16,
    /// Share of traces that fail.
    #[arg(long, default_value = "1%", value_parser = share, conflicts_with = "replay")]
    errors: f64,
    /// Factor on how long operations take.
    #[arg(long, default_value = "1", value_name = "FACTOR", value_parser = factor, conflicts_with = "replay")]
    latency: f64,
    /// Factor on how far the times of one operation lie apart: 0 for always the same, 2 for a long tail.
    #[arg(long, default_value = "1", value_name = "FACTOR", value_parser = factor, conflicts_with = "replay")]
    latency_spread: f64,
    /// Items a request.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Distinct metric series.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), conflicts_with = "replay")]
    series: u32,
    /// What the items look like: the measuring workload, or the simulated shop.
    #[arg(long, value_enum, default_value_t = Shape::Sspan, conflicts_with = "replay")]
    shape: Shape,
    /// Distinct request bodies that the stamps are written into.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "replay")]
    templates: u16,
    /// Decides ids and contents; without it, each run has its own.
    #[arg(long)]
    seed: Option<u64>,
    /// How requests travel.
    #[arg(long, value_enum, default_value_t = Protocol::Grpc)]
    protocol: Protocol,
    /// Encoding of request bodies.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    compression: Compression,
    /// `http://host:port` or `https://host:port`; without it, this machine's default port of the protocol.
    #[arg(long)]
    endpoint: Option<Uri>,
    /// TCP connections. HTTP/1.1 carries one request at a time on each.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Requests under way at once, of each signal, waiting for retries included.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// Longest wait for an answer.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// How long a refused or unanswered request is repeated.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    retry_for: Duration,
    /// Writes what was sent and how it ended to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Form of the final figures.
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    format: ReportFormat,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

fn signal(text: &str) -> Result<Signal, String> {
    let found = Signal::ALL.into_iter().find(|signal| signal.name() == text);
    found.ok_or_else(|| "want traces, metrics or logs".to_owned())
}

fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor| (0.0..=1000.0).contains(factor));
    factor.ok_or_else(|| "want a number from 0 to 1000".to_owned())
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.parse() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(Rate::PerSecond(rate)),
        _ => Err("want items a second, or `max`".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    match number.parse::<f64>() {
        Ok(number) if (0.0..=scale).contains(&number) => Ok(number / scale),
        _ => Err("want a share, as in 1% or 0.01".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// When the endpoint is no address or a file cannot be read or written.
pub fn run(args: Box<LoadArgs>, common: &Common) -> anyhow::Result<Exit> {
    if let Some(history) = args.past.history {
        return history::run(&args, history, common);
    }
    small_runtime()?.block_on(async {
        if let Err(unreachable) = reach(&args).await? {
            tell(format_args!("tailwater: {unreachable}\nIs `tailwater run` running?"));
            return Ok(Exit::Unavailable);
        }
        let (stopper, stop) = watch::channel(false);
        let shutdown = Shutdown::install().context("watch for signals")?;
        tokio::spawn(async move {
            shutdown.begun().await;
            stopper.send_replace(true);
            // The receivers must see it, so the channel stays open until the process ends.
            std::future::pending::<()>().await;
        });
        let progress = Progress::new(args.replay.is_empty().then_some(args.duration));
        let show = |report: &Report| progress.show(report);
        let (counts, report) = match args.replay.is_empty() {
            true => (None, Box::pin(generate(&args, stop, show)).await?),
            false => {
                let replay = Replay {
                    rate: args.rate.unwrap_or(Rate::Max),
                    files: args.replay.clone(),
                    signals: args.signals.clone(),
                    batch: args.batch.into(),
                    keep_times: args.keep_times,
                };
                let options = args.options(args.seed.unwrap_or(0))?;
                let (counts, report) = Box::pin(replay::run(replay, options, stop, show)).await?;
                (Some(counts), report)
            }
        };
        progress.bar.finish_and_clear();
        print(&match args.format {
            ReportFormat::Table => report.table() + &counts.map(in_words).unwrap_or_default(),
            ReportFormat::Json => in_json(&report, counts)?,
        })?;
        Ok(if report.complete() { Exit::Ok } else { Exit::No })
    })
}

/// Connects once: without a server a run would only wait for it, to the end.
async fn reach(args: &LoadArgs) -> anyhow::Result<Result<(), Unreachable>> {
    Ok(Client::new(args.target()?)?.reach().await)
}

async fn generate(args: &LoadArgs, stop: watch::Receiver<bool>, progress: impl Fn(&Report)) -> anyhow::Result<Report> {
    let seed = args.seed.unwrap_or_else(|| rand::random::<u64>() >> 12);
    let workload = Workload {
        shape: args.shape,
        form: if args.protocol == Protocol::HttpJson {
            Form::Json
        } else {
            Form::Binary
        },
        services: args.services.into(),
        fill: Fill::Items(args.batch.into()),
        errors: args.errors,
        latency: Latency {
            factor: args.latency,
            spread: args.latency_spread,
        },
        series: args.series as usize,
        templates: args.templates.into(),
        incident: None,
        seed,
    };
    let templates = Signal::ALL.map(|signal| {
        let wanted = args.signals.contains(&signal);
        Arc::new(if wanted { workload.templates(signal) } else { Vec::new() })
    });
    let source = move |signal: Signal, _: Duration| templates[signal as usize - 1].clone();
    let options = args.options(seed)?;
    run::run(options, Arc::new(source), stop, progress).await
}

/// What a replay's files held, exactly.
fn in_words(counts: Counts) -> String {
    let Counts {
        requests,
        spans,
        traces,
        logs,
        points,
    } = counts;
    format!(
        "replayed {requests} requests: {spans} spans of {traces} distinct traces, {logs} log records, {points} metric points\n"
    )
}

fn in_json(report: &Report, counts: Option<Counts>) -> anyhow::Result<String> {
    let mut value = serde_json::to_value(report)?;
    if let Some(counts) = counts {
        value["replayed"] = serde_json::to_value(counts)?;
    }
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

impl LoadArgs {
    fn options(&self, seed: u64) -> anyhow::Result<Options> {
        let rate = self.rate.unwrap_or(Rate::PerSecond(1_000.0));
        Ok(Options {
            target: self.target()?,
            signals: self.signals.iter().map(|signal| (*signal, rate)).collect(),
            duration: Some(self.duration),
            in_flight: self.in_flight.into(),
            retry_for: self.retry_for,
            seed,
            ledger: self.ledger.clone(),
        })
    }

    fn target(&self) -> anyhow::Result<Target> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self
                .protocol
                .default_endpoint()
                .parse()
                .context("a default endpoint is a URI")?,
        };
        let speaks = if self.protocol == Protocol::Grpc {
            Speaks::Http2
        } else {
            Speaks::Http1
        };
        Ok(Target {
            connector: self.client.connector(&endpoint, speaks)?,
            authorization: authorization(self.client.token().as_ref())?,
            endpoint,
            protocol: self.protocol,
            compression: self.compression,
            connections: self.connections.into(),
            timeout: self.timeout,
        })
    }
}

/// A line that says how far the run is; only on a terminal.
struct Progress {
    bar: indicatif::ProgressBar,
    duration: Option<Duration>,
}

impl Progress {
    fn new(duration: Option<Duration>) -> Progress {
        let bar = match std::io::stderr().is_terminal() {
            true => indicatif::ProgressBar::new_spinner(),
            false => indicatif::ProgressBar::hidden(),
        };
        Progress { bar, duration }
    }

    fn show(&self, report: &Report) {
        let mut text = format!("{:.0} s", report.seconds);
        if let Some(duration) = self.duration {
            text.push_str(&format!(" of {}", format_duration(duration)));
        }
        for (signal, figures) in &report.signals {
            text.push_str(&format!(
                "  {signal}: {} acked ({:.0}/s), {} refused, p99 {}",
                figures.acked,
                figures.acked as f64 / report.seconds.max(0.001),
                figures.refused,
                match figures.acked_requests {
                    0 => "-".to_owned(),
                    _ => format!("{:.1} ms", figures.ack_p99_ms),
                }
            ));
        }
        self.bar.set_message(text);
        self.bar.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_takes_no_option_that_would_mean_nothing() {
        #[derive(Debug, clap::Parser)]
        struct Command {
            #[command(flatten)]
            load: LoadArgs,
        }
        let parse = |more: &[&str]| {
            let args = ["load", "--replay", "x.jsonl"].iter().chain(more);
            <Command as clap::Parser>::try_parse_from(args)
        };
        let sent = parse(&["--signals", "logs", "--rate", "5", "--batch", "7"]).map(|command| command.load.signals);
        assert_eq!(sent.ok(), Some(vec![Signal::Logs]));
        for option in [
            "--duration=1s",
            "--services=3",
            "--errors=5%",
            "--latency=2",
            "--latency-spread=2",
            "--series=9",
            "--shape=shop",
            "--templates=3",
        ] {
            let refused = parse(&[option]).map_err(|error| error.kind());
            assert_eq!(
                refused.err(),
                Some(clap::error::ErrorKind::ArgumentConflict),
                "{option}"
            );
        }
    }

    #[test]
    fn option_values() {
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(rate("2e6"), Ok(Rate::PerSecond(2e6)));
        assert!(rate("-1").is_err() && rate("0").is_err() && rate("fast").is_err());
        assert_eq!((share("1%"), share("0.5"), share("100%")), (Ok(0.01), Ok(0.5), Ok(1.0)));
        assert!(share("101%").is_err() && share("2").is_err());
        assert_eq!(signal("logs"), Ok(Signal::Logs));
        assert!(signal("spans").is_err());
    }
}
