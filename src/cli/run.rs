//! `tailwater run`: everything on one machine.

use anyhow::{Context, bail};
use clap::Args;
use tailwater_runtime::run_dir::{self, RunFile};
use tailwater_runtime::{Exit, Shutdown, descriptors, logs, machine};
use tracing::info;

use super::{Common, role, small_runtime};
use crate::supervise::{Launch, Supervisor, Taken};

/// Run collector, query and maintain on this machine, and keep them running.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailwater run --data ./my-data\n  \
    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 my-instrumented-program")]
pub struct RunArgs {}

/// Runs the roles until told to stop.
///
/// # Errors
/// Bad settings, taken ports, a data directory that is in use, a binary that cannot be started again.
pub fn run(_: &RunArgs, common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    logs::init(&config.log, "run");
    role::check(&config, machine::probe_shared())?;
    descriptors::raise();
    small_runtime()?.block_on(async {
        let shutdown = Shutdown::install().context("watch for signals")?;
        if let Some(other) =
            run_dir::read(&config.data, "run").with_context(|| format!("data: {}", config.data.display()))?
        {
            bail!("{} is in use by process {}", config.data.display(), other.pid);
        }
        let supervisor = Supervisor::bind(&config, launch(common)?, Taken::Refuse)?;
        let addresses = supervisor.addresses();
        run_dir::make_private(&config.data).with_context(|| config.data.display().to_string())?;
        let _registered = RunFile::new("run", addresses.clone()).announce(&config.data);
        let at = |key: &str| {
            addresses
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, address)| address.to_string())
        };
        info!(
            otlp_grpc = at("intake.grpc.listen"),
            otlp_http = at("intake.http.listen"),
            query = at("query.listen"),
            data = %config.data.display(),
            "starting"
        );
        supervisor.run(shutdown).await
    })
}

/// This program again, with the same options.
///
/// # Errors
/// When the operating system does not say where it is.
pub fn launch(common: &Common) -> anyhow::Result<Launch> {
    let exe = std::env::current_exe().context("find this program's own file")?;
    Ok(Launch {
        exe,
        before: vec![],
        after: common.as_args(),
        env: vec![],
    })
}
