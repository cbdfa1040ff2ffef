//! `tailwater slo`: OpenSLO documents checked, formatted, converted, and reported against what was measured.
//!
//! Exit codes: 0 done, or all objectives hold; 1 one is broken, or a file is not formatted; 2 a document is wrong, a token is refused, or it failed;
//! 3 undetermined or no data; 69 nobody to ask, or too busy.

mod files;
mod report;

use clap::{Args, Subcommand};
use tailwater_runtime::Exit;

use super::Common;

/// Is my SLO met?
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tailwater slo template success-rate > checkout.yaml\n  \
    tailwater slo validate checkout.yaml\n  \
    tailwater slo report checkout.yaml\n  \
    tailwater slo check checkout.yaml && ./deploy.sh")]
pub struct SloArgs {
    #[command(subcommand)]
    command: SloCommand,
}

#[derive(Debug, Subcommand)]
enum SloCommand {
    /// Say everything that is wrong with documents.
    ///
    /// References are followed between all files that are named. What is wrong goes to stderr as
    /// `file:line:column: path: what to write instead`; traps that are no mistakes are warnings.
    Validate(files::ValidateArgs),
    /// Write documents in their canonical form, comments kept.
    Fmt(files::FmtArgs),
    /// Convert from another tool's documents to OpenSLO v1.
    Import(files::ImportArgs),
    /// List the SLOs of documents; without any, the templates.
    List(files::ListArgs),
    /// Print a document to begin from: replace its service, target and link.
    Template(files::TemplateArgs),
    /// Say whether objectives hold and how fast their budgets burn.
    ///
    /// Asks the running server of the data directory. With --data, and no server named, reads the tables and the outbox of that
    /// directory itself, whether something runs on it or not.
    Report(report::ReportArgs),
    /// As `report`, with an exit code: 0 all hold, 1 one is broken, 2 bad input, 3 undetermined or no data.
    ///
    /// Asks whom `report` asks.
    Check(report::CheckArgs),
}

/// Runs the command.
///
/// # Errors
/// Bad settings, files that cannot be written, a lake that cannot be read.
pub fn run(args: &SloArgs, common: &Common) -> anyhow::Result<Exit> {
    match &args.command {
        SloCommand::Validate(args) => files::validate(args),
        SloCommand::Fmt(args) => files::fmt(args),
        SloCommand::Import(args) => files::import(args),
        SloCommand::List(args) => files::list(args),
        SloCommand::Template(args) => files::template(args),
        SloCommand::Report(args) => report::report(args, common),
        SloCommand::Check(args) => report::check(args, common),
    }
}
