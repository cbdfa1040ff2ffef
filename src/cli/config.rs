//! `tailwater config check|print|reference`.

use clap::{Args, Subcommand};
use tailwater_runtime::{Exit, machine};

use super::{Common, print, role};

/// Look at the configuration.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailwater config check --config /etc/tailwater.yaml")]
pub struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what is wrong with the configuration; exit 78 if anything is.
    #[command(after_help = "Example:\n  tailwater config check --config /etc/tailwater.yaml")]
    Check,
    /// Show the settings in effect and where each came from.
    #[command(after_help = "Example:\n  TAILWATER_LOG_LEVEL=debug tailwater config print | grep level")]
    Print,
    /// Write the reference page of all settings.
    #[command(after_help = "Example:\n  tailwater config reference > docs/configuration.md")]
    Reference,
}

/// Runs the command.
///
/// # Errors
/// The problems of the configuration.
pub fn run(args: &ConfigArgs, common: &Common) -> anyhow::Result<Exit> {
    match args.what {
        What::Reference => print(&tailwater_config::reference())?,
        What::Print => print(&tailwater_config::print(&common.load()?))?,
        What::Check => {
            let config = common.load()?;
            config.limits(machine::probe())?;
            role::check_guards(&config)?;
            print("the configuration is good\n")?;
        }
    }
    Ok(Exit::Ok)
}
