//! `tailwater collector`: OTLP in, durable, on its way to the tables.

use clap::Args;
use tailwater_collector::Listeners;
use tailwater_runtime::{Exit, Shutdown, admin, descriptors};

use super::Common;
use super::role::{self, Start};

/// Take OTLP in and deliver it to the tables. `run` starts this for you.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailwater collector --data /var/lib/tailwater")]
pub struct CollectorArgs {}

/// Runs the role until it is told to stop.
///
/// # Errors
/// Bad settings, taken ports. What goes wrong later is logged and becomes the exit code.
pub fn run(_: &CollectorArgs, common: &Common) -> anyhow::Result<Exit> {
    let mut start = Start::new("collector", common)?;
    let (intake, admin) = (start.config.intake.clone(), start.config.admin.clone());
    let limit = descriptors::raise();
    // Two listeners take so many each, and the admin endpoints theirs.
    let connections = 2 * u64::from(intake.connections.total) + admin::LIMITS.connections as u64;
    if let Some(missing) = descriptors::missing(limit, connections) {
        tracing::warn!(
            limit,
            missing,
            "the hard limit of open files is too low for intake.connections.total: raise it or lower the setting"
        );
    }
    let listeners = Listeners {
        grpc: start.bind("intake.grpc.listen", intake.grpc.listen)?,
        http: start.bind("intake.http.listen", intake.http.listen)?,
        admin: start.bind("admin.collector", admin.collector)?,
    };
    role::runtime("collector")?.block_on(async {
        let shutdown = Shutdown::install()?;
        let metrics = start.metrics();
        let running = tailwater_collector::run(&start.config, &start.limits, listeners, metrics, shutdown);
        match Box::pin(running).await {
            Ok(()) => Ok(Exit::Ok),
            Err(error) => {
                tracing::error!(%error, "the collector ends");
                Ok(error.exit())
            }
        }
    })
}
