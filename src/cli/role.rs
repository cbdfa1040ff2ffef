//! What the three roles start with: checked settings, limits of the machine, logs, listeners that were handed down or are bound here.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use tailwater_config::{Config, Limits, Machine};
use tailwater_runtime::listen::{BindError, Inherited};
use tailwater_runtime::{logs, machine};

use super::Common;

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
