//! What the three roles start with: checked settings, limits of the machine, logs, listeners that were handed down or are bound here.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use tailwater_config::{Config, Limits, Machine};
use tailwater_runtime::listen::{BindError, Inherited};
use tailwater_runtime::tls::{Speaks, Tls};
use tailwater_runtime::{Access, Metrics, logs, machine};

use super::Common;
use crate::supervise::ROLES;

/// The start of a role.
#[derive(Debug)]
pub struct Start {
    /// Checked settings.
    pub config: Config,
    /// What depends on the machine.
    pub limits: Limits,
    /// The machine.
    pub machine: Machine,
    inherited: Inherited,
}

impl Start {
    /// Reads the configuration and starts the log; nothing is bound yet.
    ///
    /// # Errors
    /// Every problem of the configuration; a supervisor that handed down nonsense.
    pub fn new(role: &'static str, common: &Common) -> anyhow::Result<Start> {
        let config = common.load()?;
        let machine = machine::probe();
        let limits = config.limits(machine)?;
        logs::init(&config.log, role);
        check_guards(&config)?;
        Ok(Start {
            config,
            limits,
            machine,
            inherited: Inherited::from_env()?,
        })
    }

    /// The listener of a setting.
    ///
    /// # Errors
    /// [`BindError`], naming port and key.
    pub fn bind(&mut self, key: &str, address: SocketAddr) -> Result<TcpListener, BindError> {
        self.inherited.bind(key, address)
    }
}

/// Tokens or certificates that cannot be used: a mistake of the configuration, found before anything is bound.
#[derive(Debug)]
pub struct Unguarded(std::io::Error);

impl std::fmt::Display for Unguarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unguarded {}

/// Reads tokens, certificates and keys of every listener once, to see that they can be used.
///
/// # Errors
/// [`Unguarded`], for the first that cannot.
pub fn check_guards(config: &Config) -> Result<(), Unguarded> {
    Access::open(config, &Metrics::new()).map_err(Unguarded)?;
    let keys = ROLES.iter().flat_map(|role| role.keys);
    for files in keys.filter_map(|key| config.tls_of(key)) {
        Tls::open(files, Speaks::Both).map_err(Unguarded)?;
    }
    Ok(())
}

/// Where the tables are.
pub fn lake_dir(config: &Config) -> PathBuf {
    config.data.join("lake")
}

/// Where the outbox is.
pub fn outbox_dir(config: &Config) -> PathBuf {
    config.wal_dir().join("outbox")
}

/// A runtime with a thread for each processor.
///
/// # Errors
/// When threads cannot be started.
pub fn runtime(name: &str) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name(name)
        .enable_all()
        .build()
}
