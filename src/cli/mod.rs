//! The subcommands, one file each, and what they share: common options, errors to exit codes, output.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use tailwater_config::{Config, Problems, environment};
use tailwater_runtime::Exit;
use tailwater_runtime::listen::BindError;

pub mod client;
pub mod collector;
pub mod config;
pub mod demo;
pub mod exchange;
pub mod lake;
pub mod load;
pub mod maintain;
pub mod query;
pub mod role;
pub mod run;
pub mod sampling;
pub mod slo;
pub mod sql;
pub mod status;
pub mod token;

/// What `tailwater` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine.
    Run(run::RunArgs),
    /// Run the collector role: OTLP in.
    Collector(collector::CollectorArgs),
    /// Run the query role: SQL out.
    Query(query::QueryArgs),
    /// Show it at work on a simulated shop.
    Demo(demo::DemoArgs),
    /// Run the maintain role: compaction, retention, clean-up.
    Maintain(maintain::MaintainArgs),
    /// Ask in SQL.
    Sql(sql::SqlArgs),
    /// Which traces stay: check a policy, bring one from elsewhere, try it, ask why.
    Sampling(sampling::SamplingArgs),
    /// Is my SLO met? Check, convert and report OpenSLO documents.
    Slo(slo::SloArgs),
    /// Say how the roles are doing.
    Status(status::StatusArgs),
    /// Look at, check and tidy the tables.
    Lake(lake::LakeArgs),
    /// Generate or replay OTLP load and say how it was received.
    Load(Box<load::LoadArgs>),
    /// Make, list and revoke tokens.
    Token(token::TokenArgs),
    /// Look at the configuration.
    Config(config::ConfigArgs),
}

/// Options of every subcommand that reads the configuration.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// YAML file with settings.
    #[arg(long, short, global = true, env = "TAILWATER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory (setting `data`).
    #[arg(long, short, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Any setting, above file and environment; may be given again.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
}

impl Common {
    /// The checked configuration: defaults, file, environment, options.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn load(&self) -> Result<Config, Problems> {
        self.load_with([])
    }

    /// As [`Common::load`]; `first` lies below what the user gave as options.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn load_with<const N: usize>(&self, first: [(&str, String); N]) -> Result<Config, Problems> {
        Config::load(self.config.as_deref(), environment(), self.pairs(first))
    }

    /// These options again, for a child process.
    pub fn as_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        if let Some(config) = &self.config {
            args.extend(["--config".into(), config.into()]);
        }
        if let Some(data) = &self.data {
            args.extend(["--data".into(), data.into()]);
        }
        args.extend(
            self.set
                .iter()
                .flat_map(|(key, value)| ["--set".into(), format!("{key}={value}").into()]),
        );
        args
    }

    fn pairs<const N: usize>(&self, first: [(&str, String); N]) -> Vec<(String, String)> {
        let mut pairs: Vec<(String, String)> = first.map(|(key, value)| (key.to_owned(), value)).into();
        let data = self
            .data
            .iter()
            .map(|data| ("data".to_owned(), data.display().to_string()));
        pairs.extend(data.chain(self.set.iter().cloned()));
        pairs
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("want KEY=VALUE, as in intake.grpc.listen=127.0.0.1:5317")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Writes a whole text to stdout. A reader that has closed its end has what it wanted, and the exit code is what it would have been.
///
/// # Errors
/// When stdout cannot be written.
pub fn print(text: &str) -> std::io::Result<()> {
    print_on(text).map(drop)
}

/// As [`print`]; whether somebody still reads.
///
/// # Errors
/// When stdout cannot be written.
pub fn print_on(text: &str) -> std::io::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a line to stderr. It may be closed as well; there is nobody left to tell then.
pub fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says on stderr what went wrong and which exit code that is.
pub fn report(error: &anyhow::Error) -> Exit {
    tell(format_args!("tailwater: {error:#}"));
    exit_of(error)
}

/// The exit code of an error: the first cause that has one decides.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if cause.is::<Problems>() {
            return Exit::Config;
        }
        if cause.is::<BindError>() {
            return Exit::Unavailable;
        }
    }
    Exit::Trouble
}

/// A runtime for a command that mostly waits: one thread.
///
/// # Errors
/// When the operating system gives no event queue.
pub fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn errors_have_exit_codes() {
        let check = |error: anyhow::Error, exit: Exit| assert_eq!(exit_of(&error.context("while testing")), exit);
        check(Config::of(&[("nope", "1")]).unwrap_err().into(), Exit::Config);
        // A socket's, say: what was meant for stdout is not an error.
        check(std::io::Error::from(ErrorKind::BrokenPipe).into(), Exit::Trouble);
        check(std::io::Error::from(ErrorKind::NotFound).into(), Exit::Trouble);
        let taken = BindError::Taken {
            key: "query.listen".into(),
            address: "127.0.0.1:1".parse().unwrap(),
        };
        check(taken.into(), Exit::Unavailable);
    }

    #[test]
    fn options_lie_above_what_the_command_presets() {
        let common = Common {
            config: None,
            data: Some("/x".into()),
            set: vec![key_value("log.level=debug").unwrap()],
        };
        let pairs = common.pairs([("data", "/y".into()), ("log.level", "warn".into())]);
        let config = Config::load(None, [], pairs).unwrap();
        assert_eq!((config.data.to_str(), config.log.level.word()), (Some("/x"), "debug"));
        assert!(key_value("log.level").is_err());
    }
}
