//! What the three roles start with: checked settings, limits of the machine, logs, listeners that were handed down or are bound here.

use std::fmt::Display;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use tailwater_config::{Config, Limits, Machine, Problem, Problems};
use tailwater_runtime::listen::{BindError, Inherited};
use tailwater_runtime::tls::Tls;
use tailwater_runtime::{Access, Metrics, logs, machine};

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
    role: &'static str,
    inherited: Inherited,
    /// Keys of its listeners that `allow_insecure` lets be.
    insecure: Vec<String>,
}

impl Start {
    /// Reads the configuration and starts the log; nothing is bound yet.
    ///
    /// # Errors
    /// Every problem of the configuration; a supervisor that handed down nonsense.
    pub fn new(role: &'static str, common: &Common) -> anyhow::Result<Start> {
        let config = common.load()?;
        logs::init(&config.log, role);
        let inherited = Inherited::from_env()?;
        let machine = match inherited.is_empty() {
            true => machine::probe(),
            false => machine::probe_shared(),
        };
        let limits = check(&config, machine)?;
        Ok(Start {
            config,
            limits,
            machine,
            role,
            inherited,
            insecure: Vec::new(),
        })
    }

    /// The listener of a setting.
    ///
    /// # Errors
    /// [`BindError`], naming port and key.
    pub fn bind(&mut self, key: &str, address: SocketAddr) -> Result<TcpListener, BindError> {
        if self.config.is_insecure(key) {
            self.insecure.push(key.to_owned());
        }
        self.inherited.bind(key, address)
    }

    /// The registry of the role, and a warning if one of its listeners, which are bound by now, is open to other machines.
    pub fn metrics(&self) -> Metrics {
        let metrics = Metrics::for_process(self.role);
        let insecure = metrics.gauge(
            "tailwater_insecure_listeners",
            "listeners of this role that other machines reach without TLS or without tokens, because allow_insecure is set",
        );
        insecure.set(self.insecure.len() as i64);
        if !self.insecure.is_empty() {
            tracing::warn!(
                listeners = self.insecure.join(", "),
                "allow_insecure: other machines reach these listeners without TLS or without tokens"
            );
        }
        metrics
    }
}

/// What depends on the machine, once the files that settings name were read to see that they can be used: mistakes are found before anything is
/// bound.
///
/// # Errors
/// Every problem at once, each with its key.
pub fn check(config: &Config, machine: Machine) -> Result<Limits, Problems> {
    let limits = config.limits(machine);
    let mut problems: Vec<Problem> = limits.as_ref().err().map_or_else(Vec::new, |wrong| wrong.to_vec());
    let mut wrong = |key: String, error: &dyn Display| {
        problems.push(Problem {
            origin: config.origin(&key).clone(),
            key,
            message: error.to_string(),
            nearest: None,
        });
    };
    if config.data.exists() && !config.data.is_dir() {
        let message = format!("{}: not a directory", config.data.display());
        wrong("data".to_owned(), &message);
    }
    if let Err(error) = Access::open(config, &Metrics::new()) {
        wrong("access.tokens".to_owned(), &error);
    }
    for (section, files) in config.tls_sections() {
        for (key, error) in Tls::check(&files) {
            wrong(format!("{section}.{key}"), &error);
        }
    }
    Problems::or(problems, ())?;
    limits
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
