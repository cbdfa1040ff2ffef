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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_subcommand_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path}{} ", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let is_shown = path == "tailwater " || help.contains("Example") && help.contains(path.trim_end());
            assert!(is_shown, "{path}--help: {help}");
            command.get_subcommands().for_each(|inner| check(inner, &path));
        }
        check(&Cli::command(), "");
    }

    /// As they were promised, and as documents show them.
    #[test]
    fn command_lines_are_known() {
        for line in [
            "run --data ./my-data",
            "collector",
            "query",
            "maintain",
            "demo --for 60s",
            "demo --history --budget 100%",
            "sql --format csv x",
            "sql --data ./my-data x --format table",
            "status",
            "lake stats",
            "lake verify --data d",
            "lake compact",
            "load --signals traces,logs --rate 10 --duration 1s --services 3 --errors 2% --batch 64 --seed 7 --protocol http",
            "load --replay a.jsonl b.csv --keep-times",
            "load --history 90d --services 20 --operations 1000 --seed 7 --data ./past",
            "config check",
            "config print",
            "config reference",
            "slo validate a.yaml",
            "slo fmt a.yaml",
            "slo import sloth a.yml",
            "slo list",
            "slo template success-rate",
            "slo report --format html --window 30d,90d --at 2026-11-01T00:00:00Z a.yaml -o a.html",
            "slo report a.yaml --format text",
            "slo report a.yaml --format json",
            "slo report a.yaml --format md",
            "slo check a.yaml",
            "sampling check p.yaml",
            "sampling import otelcol.yaml",
            "sampling explain 4bf92f3577b34da6a3ce929d0e0e4736",
            "sampling simulate --policy p.yaml --replay a.jsonl b.jsonl",
            "sampling simulate --policy p.yaml --times 5 --seeds 3",
            "sampling simulate p.yaml --replay a.jsonl",
            "token add a --tenant shop --role ingest,read --file t",
            "token list",
            "token revoke a",
            "token hash",
        ] {
            let words = ["tailwater"].into_iter().chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
        for line in ["sampling simulate", "sampling simulate p.yaml --policy p.yaml"] {
            let words = ["tailwater"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
