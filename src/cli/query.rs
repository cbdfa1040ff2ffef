//! `tailwater query`: SQL over tables and outbox.

use anyhow::Context;
use clap::Args;
use tailwater_query::EngineConfig;
use tailwater_query::role::{self as query_role, Guard, Role};
use tailwater_runtime::{Exit, Shutdown, admin, descriptors, run_dir};
use tailwater_storage::lake::Lake;

use super::Common;
use super::role::{self, Start};

/// Answer SQL over HTTP. `run` starts this for you.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailwater query --data /var/lib/tailwater")]
pub struct QueryArgs {}

/// Runs the role until it is told to stop.
///
/// # Errors
/// Bad settings, taken ports, an engine that cannot be opened.
pub fn run(_: &QueryArgs, common: &Common) -> anyhow::Result<Exit> {
    let mut start = Start::new("query", common)?;
    let (listen, admin) = (start.config.query.listen, start.config.admin.query);
    let limit = descriptors::raise();
    let connections = query_role::connections(start.config.query.timeout).connections + admin::LIMITS.connections;
    if let Some(missing) = descriptors::missing(limit, connections as u64) {
        tracing::warn!(
            limit,
            missing,
            "the hard limit of open files is too low for all connections of the query role: raise it"
        );
    }
    let (query, admin) = (start.bind("query.listen", listen)?, start.bind("admin.query", admin)?);
    let metrics = start.metrics();
    let Start {
        config,
        limits,
        machine,
        ..
    } = start;
    role::runtime("query-http")?.block_on(async {
        let shutdown = Shutdown::install()?;
        // It may be the first role to come.
        run_dir::make_private(&config.data).with_context(|| config.data.display().to_string())?;
        let role = Role {
            guard: Guard::open(&config, &metrics)?,
            engine: EngineConfig {
                lake: Lake::open(&role::lake_dir(&config))?,
                outbox: Some(role::outbox_dir(&config)),
                temp: Some(config.data.join("query-tmp")),
                limits: query_role::limits(&config, limits.query_memory_bytes, machine.cpus),
            },
            slos: config.slo.files.clone(),
            query,
            admin,
            metrics,
            data: Some(config.data.clone()),
        };
        Box::pin(query_role::run(role, shutdown)).await?;
        Ok(Exit::Ok)
    })
}
