//! `tailwater demo`: everything on this machine, fed by a simulated shop. Its services in a table: as they are, and as the few traces kept
//! say they are; or, with everything kept, as they are.

use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tailwater_config::{Config, parse_duration};
use tailwater_model::signal::Signal;
use tailwater_runtime::{Exit, Shutdown, logs, machine};
use tokio::sync::watch;

use super::client::Peer;
use super::{Common, exchange, load, print, print_on, role, run, tell};
use crate::load::client::{Compression, Protocol, Target};
use crate::load::history::{Settings, World};
use crate::load::run::{Options, Rate, Source};
use crate::load::shop::{Incident, SERVICES};
use crate::load::stamp::Form;
use crate::load::tally::align;
use crate::load::workload::{Fill, Shape, Workload};
use crate::supervise::{Supervisor, Taken};
use tailwater_runtime::tls::Connector;

use compare::Window;
use policy::{Rules, Share};

mod compare;
mod policy;

/// Show Tailwater at work on a simulated shop of eight services.
///
/// Starts everything on this machine, with free ports where the usual ones are taken, and sends the telemetry of a shop in which, after
/// a while, one service gets slow and fails. 2 % of the spans are kept, as whole traces; tables, and one of the whole run at the end, show
/// rate, error share and P99 of each service as they were counted before sampling, beside what the kept ones say of them, with 95 %
/// intervals. Without --data, what is stored is thrown away at the end.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tailwater demo\n  \
    tailwater demo --for 5m --data ./demo-data\n  \
    tailwater demo --budget 0.5%\n  \
    tailwater demo --budget 100% --history 7d")]
pub struct DemoArgs {
    /// Ends by itself after this time; without it, at Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    limit: Option<Duration>,
    /// Time between tables.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    every: Duration,
    /// Spans a second; logs and metrics come with them.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Share of the spans that is kept, 2% if none is said, by a policy written into the data directory; 100% keeps everything. Setting
    /// `sampling.policy` puts another policy in its place.
    #[arg(long, value_name = "SHARE", value_parser = Share::parse)]
    budget: Option<Share>,
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

/// Longest time that the last table looks back on.
const LAST_TABLE: Duration = Duration::from_secs(3600);

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
    let mut common = common.clone();
    let config = common.load()?;
    config.limits(machine::probe_shared())?;
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
    let rules = Rules::settle(args.budget, args.rate, &config)?;
    if let Some(rules) = &rules {
        let path = std::path::absolute(&rules.path)?.display().to_string();
        common.set.push(("sampling.policy".to_owned(), path));
    }
    let shutdown = Shutdown::install().context("watch for signals")?;
    let supervisor = Supervisor::bind(&config, run::launch(&common)?, Taken::Other)?;
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
        print(&greeting(&grpc, &http, &query, data, args, rules.as_ref()))?;
        let (stopper, stop) = watch::channel(false);
        let (seed, wares) = wares();
        let screen = Screen {
            query,
            rules,
            opened_ms: now_ms(),
            colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        };
        let shop = tokio::spawn(sell(args.rate, format!("http://{grpc}"), seed, wares, stop));
        let told = tables(args, &screen, &shutdown).await;
        stopper.send_replace(true);
        shop.await.context("the shop panicked")??;
        let shown = match told {
            Ok(()) if !shutdown.is_immediate() => match screen.last(args.every).await {
                Ok(text) => Ok(print(&text)?),
                Err(error) => Err(error),
            },
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

fn greeting(grpc: &str, http: &str, query: &str, data: &Path, args: &DemoArgs, rules: Option<&Rules>) -> String {
    let until = match args.limit {
        Some(limit) => format!("for {}", tailwater_config::format_duration(limit)),
        None => "until Ctrl-C".to_owned(),
    };
    let (policy, tables) = match rules {
        Some(rules) => (
            format!("policy     {}\n  ", rules.path.display()),
            format!(
                "{}, as whole traces with their weights.\n\
                 Tables show what was counted of all requests before sampling, beside what the kept ones\n\
                 say of them. They end {} s or more ago: by then all is decided.\n",
                match rules.share {
                    Some(share) => format!("{share} of the spans are kept ({} a second)", rules.spans_per_sec),
                    None => "By your policy some spans are kept".to_owned(),
                },
                rules.settling.as_secs()
            ),
        ),
        None => (String::new(), "Everything is kept.\n".to_owned()),
    };
    format!(
        "Tailwater demo: a shop of {SHOP} services, {} spans a second, {until}.\n\n  \
         OTLP/gRPC  http://{grpc}\n  \
         OTLP/HTTP  http://{http}\n  \
         {policy}data       {}\n\n\
         {tables}\n\
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

/// A seed, and what the shop sends, drawn from it.
fn wares() -> (u64, Arc<Source>) {
    let seed = rand::random();
    let calm = Workload {
        shape: Shape::Shop,
        form: Form::Binary,
        services: SHOP,
        // Small requests, as SDKs send them.
        fill: Fill::Traces(2),
        errors: 0.01,
        latency: Default::default(),
        series: 240,
        // As many that a few of them fail.
        templates: 256,
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
    (seed, Arc::new(source))
}

/// The shop's traffic until told to stop.
async fn sell(
    rate: u32,
    endpoint: String,
    seed: u64,
    wares: Arc<Source>,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
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
    crate::load::run::run(options, wares, stop, |_| {}).await.map(|_| ())
}

fn in_trouble(elapsed: Duration) -> bool {
    let (start, length, period) = TROUBLE;
    let phase = Duration::from_millis((elapsed.as_millis() % period.as_millis()) as u64);
    (start..start + length).contains(&phase)
}

/// Prints a table every so often until the time is up or nobody reads them.
async fn tables(args: &DemoArgs, screen: &Screen, shutdown: &Shutdown) -> anyhow::Result<()> {
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
        match screen.table(args.every).await {
            Ok(text) => {
                if !print_on(&text)? {
                    return Ok(());
                }
            }
            // The query role may be restarting: one table less.
            Err(error) => tell(format_args!("tailwater: no table this time: {error:#}")),
        }
        next += args.every;
    }
}

/// What is shown, and how.
#[derive(Debug)]
struct Screen {
    /// Where the query role answers.
    query: String,
    /// By what is sampled, if anything is.
    rules: Option<Rules>,
    /// When the shop opened, unix ms.
    opened_ms: u64,
    colours: bool,
}

impl Screen {
    /// The services over the last `length`, or as much of it as there is.
    async fn table(&self, length: Duration) -> anyhow::Result<String> {
        let Some(rules) = &self.rules else {
            return services(&self.query, length, self.colours).await;
        };
        match Window::of(self.opened_ms, now_ms(), rules.settling, length) {
            Some(window) => compare::table(&self.query, window, rules, self.colours).await,
            None => Ok(format!(
                "Nothing to compare yet: no slice of 10 s is over for {} s.\n\n",
                rules.settling.as_secs()
            )),
        }
    }

    /// A last look: with sampling at the whole run, else at what was sent in the last moments; it is stored.
    async fn last(&self, every: Duration) -> anyhow::Result<String> {
        match &self.rules {
            Some(_) => Ok(format!("All of it:\n\n{}", self.table(LAST_TABLE).await?)),
            None => self.table(every).await,
        }
    }
}

fn now_ms() -> u64 {
    u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap_or_default()
}

/// Asks in SQL.
async fn ask<T: DeserializeOwned>(query: &str, sql: &str) -> anyhow::Result<Vec<T>> {
    #[derive(Deserialize)]
    struct Answer<T> {
        rows: Vec<T>,
    }
    let answer = exchange::post(&Peer::plain(query), "/api/v1/sql", sql, "application/json").await?;
    let body = || String::from_utf8_lossy(&answer.body).into_owned();
    anyhow::ensure!(answer.status.is_success(), "{}", body());
    let answer: Answer<T> = serde_json::from_slice(&answer.body).with_context(body)?;
    Ok(answer.rows)
}

/// The services over the last `window`, from their server spans; all of them are there.
async fn services(query: &str, window: Duration, colours: bool) -> anyhow::Result<String> {
    let seconds = window.as_secs().max(1);
    let from_us = chrono::Utc::now().timestamp_micros() - 1_000_000 * seconds as i64;
    let sql = format!(
        "select service_name, count(*) * 1.0 / {seconds}, avg(case when status_code = 2 then 1.0 else 0.0 end), \
         percentile_cont(0.5) within group (order by duration_ns) / 1e6, \
         percentile_cont(0.99) within group (order by duration_ns) / 1e6 \
         from spans where kind = 2 and ts >= to_timestamp_micros({from_us}) group by 1 order by 1"
    );
    let rows: Vec<Row> = ask(query, &sql).await?;
    Ok(render(
        &rows,
        &chrono::Utc::now().format("%H:%M:%S").to_string(),
        seconds,
        colours,
    ))
}

/// Service, requests a second, share of errors, P50 and P99 in ms.
type Row = (Option<String>, f64, f64, f64, f64);

fn render(rows: &[Row], now: &str, seconds: u64, colours: bool) -> String {
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
    let alarming = rows.iter().map(|(_, _, errors, _, _)| *errors > 0.05);
    text.push_str(&painted(&align(&cells), alarming, colours));
    if rows.is_empty() {
        text.push_str("(nothing yet)\n");
    }
    text.push('\n');
    text
}

/// A table on a terminal: its head bold, what is alarming red.
fn painted(table: &str, alarming: impl Iterator<Item = bool>, colours: bool) -> String {
    let mut text = String::new();
    for (line, alarming) in table.lines().zip(std::iter::once(None).chain(alarming.map(Some))) {
        match (colours, alarming) {
            (true, Some(true)) => text.push_str(&format!("\x1b[31m{line}\x1b[0m\n")),
            (true, None) => text.push_str(&format!("\x1b[1m{line}\x1b[0m\n")),
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    text
}

/// A directory that goes when the demo does.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Scratch> {
        let name = format!("tailwater-demo-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        let mut private = std::fs::DirBuilder::new();
        private
            .mode(0o700)
            .create(&path)
            .with_context(|| path.display().to_string())?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tell(format_args!("tailwater: {} is left behind: {error}", self.0.display()));
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
