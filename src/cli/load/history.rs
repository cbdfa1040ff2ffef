//! `tailwater load --history`: a past for a lake that has none.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use tailwater_config::{Config, parse_duration};
use tailwater_runtime::{Exit, logs};

use super::{LoadArgs, ReportFormat, share};
use crate::cli::{Common, print, role};
use crate::load::history::{self, Counting, Settings, Told, World};

/// What only a past needs.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Sends nothing, but writes so long a past into the lake of the new directory --data: RED and edges all the time, spans, traces and logs at its end.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with_all = [
        "replay", "rate", "duration", "endpoint", "signals", "ledger", "protocol", "compression", "errors",
    ])]
    pub history: Option<Duration>,
    /// With --history: operations of all services together; without it, ten a service.
    #[arg(long, requires = "history", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub operations: Option<u32>,
    /// With --history: share of minutes in which an operation has requests, on average of all; without it, as many as make some 15 million rows.
    #[arg(long, requires = "history", value_name = "SHARE", value_parser = share)]
    pub density: Option<f64>,
    /// With --history: how much of its end has spans, traces and logs; at most two days.
    #[arg(long, requires = "history", value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub rows: Duration,
    /// With --history: when it ends, as in 2026-11-22T20:00:00Z; without it, now.
    #[arg(long, requires = "history", value_name = "TIME", value_parser = moment)]
    pub until: Option<u64>,
}

/// ns since 1970.
fn moment(text: &str) -> Result<u64, String> {
    let time = tailwater_query::slo::parse_time(text)?;
    let seconds = u64::try_from(time.0).map_err(|_| "the past does not end before 1970".to_owned())?;
    seconds
        .checked_mul(1_000_000_000)
        .ok_or_else(|| "too far ahead".to_owned())
}

/// Writes the past and says what is in it.
///
/// # Errors
/// Bad settings; a directory that holds data or is in use.
pub(super) fn run(args: &LoadArgs, history: Duration, common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    logs::init(&config.log, "load");
    let now = u64::try_from(chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default()).unwrap_or_default();
    let past = &args.past;
    let world = World::new(&Settings {
        history,
        services: args.services.into(),
        operations: past.operations.unwrap_or(10 * u32::from(args.services)),
        density: past.density,
        rows: past.rows,
        seed: args.seed.unwrap_or_else(|| rand::random::<u64>() >> 12),
        now_ns: past.until.unwrap_or(now),
    });
    let told = role::runtime("load")?.block_on(write(&config, world))?;
    print(&match args.format {
        ReportFormat::Table => told.table(),
        ReportFormat::Json => serde_json::to_string_pretty(&told)? + "\n",
    })?;
    Ok(Exit::Ok)
}

/// Writes a past, with a bar on a terminal.
///
/// # Errors
/// As [`history::write`].
pub async fn write(config: &Config, world: World) -> anyhow::Result<Told> {
    const STEPS: u64 = 1000;
    let bar = match std::io::stderr().is_terminal() {
        true => indicatif::ProgressBar::new(STEPS),
        false => indicatif::ProgressBar::hidden(),
    };
    bar.set_style(indicatif::ProgressStyle::with_template(
        "{wide_bar} {percent} %, {eta} left",
    )?);
    let caps = tailwater_collector::caps(config);
    let counting = Counting {
        red: tailwater_collector::counting(config, &caps),
        caps,
    };
    let progress = |share: f64| bar.set_position((share * STEPS as f64) as u64);
    let told = Box::pin(history::write(&config.data, world, counting, progress)).await;
    bar.finish_and_clear();
    told
}
