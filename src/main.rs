//! The `tailwater` binary: command line in, exit code out.
//!
//! Exit codes: 0 yes or done, 1 no, 2 trouble, 3 undetermined or no data, 69 something needed is not there, 78 bad configuration. A reader that closes its end of
//! our output has what it wanted, and the code stays what it is.

mod allocator;

use std::process::ExitCode;

use clap::Parser;
use tailwater::cli::{self, Command, Common};

/// OTLP in, an open Delta lake out, SQL over both.
#[derive(Debug, Parser)]
#[command(name = "tailwater", version, disable_help_subcommand = true)]
#[command(after_help = "First steps:\n  \
    tailwater demo                     a simulated shop, its services in a table\n  \
    tailwater run --data ./my-data     everything on this machine\n  \
    tailwater sql \"select count(*) from spans\"")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    allocator::set_up();
    let cli = Cli::parse();
    let exit = match cli.command {
        Command::Run(args) => cli::run::run(&args, &cli.common),
        Command::Collector(args) => cli::collector::run(&args, &cli.common),
        Command::Query(args) => cli::query::run(&args, &cli.common),
        Command::Maintain(args) => cli::maintain::run(&args, &cli.common),
        Command::Demo(args) => cli::demo::run(&args, &cli.common),
        Command::Sql(args) => cli::sql::run(&args, &cli.common),
        Command::Sampling(args) => cli::sampling::run(&args, &cli.common),
        Command::Slo(args) => cli::slo::run(&args, &cli.common),
        Command::Status(args) => cli::status::run(&args, &cli.common),
        Command::Lake(args) => cli::lake::run(&args, &cli.common),
        Command::Config(args) => cli::config::run(&args, &cli.common),
        Command::Token(args) => cli::token::run(&args, &cli.common),
        Command::Load(args) => cli::load::run(args, &cli.common),
    };
    exit.unwrap_or_else(|error| cli::report(&error)).into()
}
