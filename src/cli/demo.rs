//! `tailwater demo`: everything on this machine, fed by a simulated shop, and its services in a table.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use tailwater_config::{Config, parse_duration};
use tailwater_model::signal::Signal;
use tailwater_runtime::{Exit, Shutdown, logs, machine};
use tokio::sync::watch;

use super::client::Peer;
use super::{Common, exchange, load, print, role, run};
use crate::load::client::{Compression, Protocol, Target};
use crate::load::history::{Settings, World};
use crate::load::run::{Options, Rate};
use crate::load::shop::{Incident, SERVICES};
use crate::load::stamp::Form;
use crate::load::tally::align;
use crate::load::workload::{Fill, Shape, Workload};
use crate::supervise::{Supervisor, Taken};
use tailwater_runtime::tls::Connector;

/// Show Tailwater at work on a simulated shop of eight services.
///
/// Starts everything on this machine, with free ports where the usual ones are taken, and sends the telemetry of a shop in which, after
/// a while, one service gets slow and fails. Without --data, what is stored is thrown away at the end.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tailwater demo\n  \
    tailwater demo --for 60s --data ./demo-data\n  \
    tailwater demo --history 7d")]
pub struct DemoArgs {
    /// Ends by itself after this time; without it, at Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    limit: Option<Duration>,
    /// Time between tables.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    every: Duration,
    /// Spans a second; logs and metrics come with them.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Begins with a past of so long, 7 days if none is said: counts of the shop's operations, with incidents and deployments. Its directory must be new.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "7d", value_parser = parse_duration)]
    history: Option<Duration>,
}

/// Most spans that a past counts: every one is drawn.
const PAST_SPANS_MAX: f64 = 50e6;

/// The shop's services.
const SHOP: usize = 8;

/// The service in trouble.
const SICK: usize = 3;

/// When the trouble starts, how long it lasts, and when it comes again, counted from the start.
const TROUBLE: (Duration, Duration, Duration) = (
    Duration::from_secs(35),
    Duration::from_secs(30),
    Duration::from_secs(180),
);

/// How long the roles may take to come up.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs the demo.
///
/// # Errors
/// Bad settings, a data directory that cannot be used, roles that do not come up.
pub fn run(args: &DemoArgs, common: &Common) -> anyhow::Result<Exit> {
    let scratch = common.data.is_none().then(Scratch::new).transpose()?;
    let mut common = common.clone();
    if let Some(scratch) = &scratch {
        common.data = Some(scratch.0.clone());
    }
    // The table is what one wants to see; the roles speak up when something is wrong.
    common.set.insert(0, ("log.level".to_owned(), "warn".to_owned()));
    let exit = role::runtime("demo")?.block_on(Box::pin(show(args, &common)));
    drop(scratch);
    exit
}

async fn show(args: &DemoArgs, common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    config.limits(machine::probe())?;
    if config.access.tokens.is_some()
        || [
            config.tls_of("intake.grpc.listen"),
            config.tls_of("query.listen"),
            config.tls_of("admin.query"),
        ]
        .iter()
        .any(Option::is_some)
    {
        bail!(
            "the demo is for a machine of one's own and has neither tokens nor TLS: run it without access.tokens and tls"
        );
    }
    logs::init(&config.log, "demo");
    if let Some(history) = args.history {
        print(&past(args, history, &config).await?)?;
    }
    let shutdown = Shutdown::install().context("watch for signals")?;
    let supervisor = Supervisor::bind(&config, run::launch(common)?, Taken::Other)?;
    let address = |key: &str| supervisor.address(key).map(|address| address.to_string());
    let (grpc, http, query) = (
        address("intake.grpc.listen")?,
        address("intake.http.listen")?,
        address("query.listen")?,
    );
    let admins = [address("admin.collector")?, address("admin.query")?];
    let roles = tokio::spawn(supervisor.run(shutdown.clone()));

    if come_up(&admins, &shutdown).await? {
        let data = common.data.as_deref().unwrap_or(&config.data);
        print(&greeting(&grpc, &http, &query, data, args))?;
        let (stopper, stop) = watch::channel(false);
        let shop = tokio::spawn(sell(args.rate, format!("http://{grpc}"), stop));
        let told = tables(args, &query, &shutdown).await;
        stopper.send_replace(true);
        shop.await.context("the shop panicked")??;
        // What was sent in the last moments is stored; a last look shows it.
        let shown = match told {
            Ok(()) if !shutdown.is_immediate() => {
                table(&query, args.every, colours()).await.and_then(|text| print(&text))
            }
            other => other,
        };
        shutdown.begin("demo over");
        let exit = roles.await.context("the supervisor panicked")??;
        return shown.map(|()| exit);
    }
    shutdown.begin("demo over");
    roles.await.context("the supervisor panicked")?
}

/// Writes what the shop did before, and says what it was.
async fn past(args: &DemoArgs, history: Duration, config: &Config) -> anyhow::Result<String> {
    let settings = Settings {
        history,
        services: SHOP as u32,
        operations: 0,
        density: None,
        // Rows come when the shop opens.
        rows: Duration::ZERO,
        seed: rand::random::<u64>() >> 12,
        now_ns: u64::try_from(chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default()).unwrap_or_default(),
    };
    let spans_per_s = f64::from(args.rate).min(PAST_SPANS_MAX / history.as_secs_f64().max(1.0));
    let told = Box::pin(load::history::write(config, World::shop(&settings, spans_per_s))).await?;
    Ok(format!("The shop's past:\n\n{}\n", told.table()))
}

/// Waits until collector and query are ready; false when told to stop before.
async fn come_up(admins: &[String], shutdown: &Shutdown) -> anyhow::Result<bool> {
    let ready = async {
        for admin in admins {
            while !exchange::get(&Peer::plain(admin), "/readyz")
                .await
                .is_ok_and(|answer| answer.status.is_success())
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::select! {
        () = shutdown.begun() => Ok(false),
        came = tokio::time::timeout(START_LIMIT, ready) => {
            came.with_context(|| format!("the roles are not ready after {START_LIMIT:?}")).map(|()| true)
        }
    }
}

fn greeting(grpc: &str, http: &str, query: &str, data: &Path, args: &DemoArgs) -> String {
    let until = match args.limit {
        Some(limit) => format!("for {}", tailwater_config::format_duration(limit)),
        None => "until Ctrl-C".to_owned(),
    };
    format!(
        "Tailwater demo: a shop of {SHOP} services, {} spans a second, {until}.\n\n  \
         OTLP/gRPC  http://{grpc}\n  \
         OTLP/HTTP  http://{http}\n  \
         data       {}\n\n\
         Ask it anything, from another terminal:\n\n  \
         tailwater sql --endpoint http://{query} \"select service_name, name, count(*) as spans, max(duration_ns)/1e6 as slowest_ms \
         from spans group by 1, 2 order by 4 desc limit 10\"\n\n\
         After {} s, {} gets slow and fails for {} s.\n\n",
        args.rate,
        data.display(),
        TROUBLE.0.as_secs(),
        SERVICES[SICK],
        TROUBLE.1.as_secs(),
    )
}

/// The shop's traffic until told to stop.
async fn sell(rate: u32, endpoint: String, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let seed = rand::random();
    let calm = Workload {
        shape: Shape::Shop,
        form: Form::Binary,
        services: SHOP,
        // Small requests, as SDKs send them.
        fill: Fill::Traces(2),
        errors: 0.005,
        series: 240,
        templates: 96,
        incident: None,
        seed,
    };
    let trouble = Workload {
        incident: Some(Incident {
            service: SICK,
            slower: 25.0,
            errors: 0.2,
        }),
        ..calm
    };
    let drawn = |workload: Workload| Signal::ALL.map(|signal| Arc::new(workload.templates(signal)));
    let (calm, trouble) = (drawn(calm), drawn(trouble));
    let source = move |signal: Signal, elapsed: Duration| {
        let set = if in_trouble(elapsed) { &trouble } else { &calm };
        set[signal as usize - 1].clone()
    };
    let rate = f64::from(rate);
    let options = Options {
        target: Target {
            endpoint: endpoint.parse()?,
            protocol: Protocol::Grpc,
            compression: Compression::None,
            connections: 2,
            timeout: Duration::from_secs(10),
            connector: Connector::plain(),
            authorization: None,
        },
        // A shop's span count a log record is about three; its 240 series report every ten seconds.
        signals: vec![
            (Signal::Traces, Rate::PerSecond(rate)),
            (Signal::Logs, Rate::PerSecond(rate / 3.0)),
            (Signal::Metrics, Rate::PerSecond(24.0)),
        ],
        duration: None,
        in_flight: 32,
        retry_for: Duration::from_secs(10),
        seed,
        ledger: None,
    };
    crate::load::run::run(options, Arc::new(source), stop, |_| {})
        .await
        .map(|_| ())
}

fn in_trouble(elapsed: Duration) -> bool {
    let (start, length, period) = TROUBLE;
    let phase = Duration::from_millis((elapsed.as_millis() % period.as_millis()) as u64);
    (start..start + length).contains(&phase)
}

/// Prints a table every so often until the time is up.
async fn tables(args: &DemoArgs, query: &str, shutdown: &Shutdown) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut next = args.every;
    loop {
        let wake = args.limit.map_or(next, |limit| limit.min(next));
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = tokio::time::sleep_until((started + wake).into()) => {}
        }
        if args.limit.is_some_and(|limit| started.elapsed() >= limit) {
            return Ok(());
        }
        match table(query, args.every, colours()).await {
            Ok(text) => print(&text)?,
            // The query role may be restarting: one table less.
            Err(error) => eprintln!("tailwater: no table this time: {error:#}"),
        }
        next += args.every;
    }
}

fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// The services over the last `window`, from their server spans.
async fn table(query: &str, window: Duration, colours: bool) -> anyhow::Result<String> {
    let seconds = window.as_secs().max(1);
    let from_us = chrono::Utc::now().timestamp_micros() - 1_000_000 * seconds as i64;
    let sql = format!(
        "select service_name, count(*) * 1.0 / {seconds}, avg(case when status_code = 2 then 1.0 else 0.0 end), \
         percentile_cont(0.5) within group (order by duration_ns) / 1e6, \
         percentile_cont(0.99) within group (order by duration_ns) / 1e6 \
         from spans where kind = 2 and ts >= to_timestamp_micros({from_us}) group by 1 order by 1"
    );
    let answer = exchange::post(&Peer::plain(query), "/api/v1/sql", &sql, "application/json").await?;
    let body = || String::from_utf8_lossy(&answer.body).into_owned();
    anyhow::ensure!(answer.status.is_success(), "{}", body());
    let rows: Rows = serde_json::from_slice(&answer.body).with_context(body)?;
    Ok(render(
        &rows.rows,
        &chrono::Utc::now().format("%H:%M:%S").to_string(),
        seconds,
        colours,
    ))
}

#[derive(Debug, Deserialize)]
struct Rows {
    rows: Vec<(Option<String>, f64, f64, f64, f64)>,
}

fn render(rows: &[(Option<String>, f64, f64, f64, f64)], now: &str, seconds: u64, colours: bool) -> String {
    let mut cells = vec![["service", "requests/s", "errors", "p50", "p99"].map(str::to_owned)];
    for (service, rate, errors, p50, p99) in rows {
        cells.push([
            service.clone().unwrap_or_default(),
            format!("{rate:.1}"),
            format!("{:.1} %", errors * 100.0),
            format!("{p50:.1} ms"),
            format!("{p99:.1} ms"),
        ]);
    }
    let mut text = format!("{now} UTC, the last {seconds} s\n");
    for (line, row) in align(&cells)
        .lines()
        .zip(std::iter::once(None).chain(rows.iter().map(Some)))
    {
        let alarming = row.is_some_and(|(_, _, errors, _, _)| *errors > 0.05);
        match (colours, alarming, row.is_none()) {
            (true, true, _) => text.push_str(&format!("\x1b[31m{line}\x1b[0m\n")),
            (true, _, true) => text.push_str(&format!("\x1b[1m{line}\x1b[0m\n")),
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    if rows.is_empty() {
        text.push_str("(nothing yet)\n");
    }
    text.push('\n');
    text
}

/// A directory that goes when the demo does.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Scratch> {
        let name = format!("tailwater-demo-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("tailwater: {} is left behind: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_comes_goes_and_comes_again() {
        let at = |seconds| in_trouble(Duration::from_secs(seconds));
        assert_eq!(
            [0, 34, 35, 64, 65, 179, 180 + 35].map(at),
            [false, false, true, true, false, false, true]
        );
    }

    #[test]
    fn the_table_is_plain_without_colours() {
        let rows = [
            (Some("cart".to_owned()), 12.34, 0.2, 1.0, 250.0),
            (Some("frontend".to_owned()), 3.0, 0.0, 10.0, 20.0),
        ];
        let plain = render(&rows, "12:00:00", 30, false);
        let expect = "12:00:00 UTC, the last 30 s\n\
            service   requests/s  errors      p50       p99\n\
            cart            12.3  20.0 %   1.0 ms  250.0 ms\n\
            frontend         3.0   0.0 %  10.0 ms   20.0 ms\n\n";
        assert_eq!(plain, expect);
        let coloured = render(&rows, "12:00:00", 30, true);
        assert_eq!(
            coloured.matches("\x1b[31m").count(),
            1,
            "only the service in trouble is red"
        );
        assert!(render(&[], "12:00:00", 30, false).contains("nothing yet"));
    }

    #[test]
    fn scratch_goes_away() {
        let Ok(scratch) = Scratch::new() else {
            panic!("the temporary directory is writable")
        };
        let path = scratch.0.clone();
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists());
    }
}
