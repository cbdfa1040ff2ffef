//! `tailwater sampling check|import|simulate|explain`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use tailwater_runtime::Exit;
use tailwater_sampling::policy::{self, Policy};
use tailwater_sampling::sim::{self, SPAN_BYTES, STORED_PER_BYTE, Traffic};
use tailwater_sampling::{import, policy::Budget};

use super::client::ClientArgs;
use super::lake::Format;
use super::{Common, print, sql, tell};

mod explain;

/// Which traces stay: check a policy, bring one from elsewhere, try it, ask why.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailwater sampling check policy.yaml")]
pub struct SamplingArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what is wrong with a policy; exit 78 if anything is.
    #[command(after_help = "Example:\n  tailwater sampling check policy.yaml")]
    Check {
        /// The policy.
        file: PathBuf,
    },
    /// Convert the `tail_sampling` processor of an OpenTelemetry Collector's configuration.
    ///
    /// What could not be carried over goes to stderr as `lost`, what means something slightly different or is not needed as `note`.
    #[command(
        after_help = "Exit code: 0 nothing is lost; 1 something is; 2 the file cannot be read.\n\nExample:\n  tailwater sampling import otelcol.yaml > policy.yaml"
    )]
    Import {
        /// The collector's configuration.
        file: PathBuf,
    },
    /// Run a policy on made up traffic with bursts, beside samplers that others use; or on recorded traffic.
    ///
    /// With --replay it says what would stay of the recording, how well the budget would hold, and how far off each service's requests, error
    /// share and P99 would be if they were read from what stays.
    #[command(after_help = "Examples:\n  \
        tailwater sampling simulate --policy policy.yaml --times 5 --seeds 3\n  \
        tailwater sampling simulate --policy policy.yaml --replay monday.jsonl tuesday.jsonl.gz")]
    Simulate {
        /// The policy, without its option.
        #[arg(value_name = "POLICY", required_unless_present = "policy", conflicts_with = "policy")]
        file: Option<PathBuf>,
        /// The policy; of made up traffic, its budget a second is the goal.
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// Offered spans over the goal, in quiet times.
        #[arg(long, default_value_t = 5.0, conflicts_with = "replay")]
        times: f64,
        /// Recorded traces instead: OTLP-JSON (a request a line, or a whole file) and Nezha CSV, plain or gzipped. A span arrives when it ends.
        #[arg(long, value_name = "FILE", num_args = 1..)]
        replay: Vec<PathBuf>,
        /// How many runs, each with a seed of its own: of recorded traffic 20 if none is said, and 3 of made up traffic.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        seeds: Option<u64>,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Why a trace was kept or not: stratum, threshold, weight, when and what made it due.
    ///
    /// Reads the rows that are stored of it; `decided` is the last tick of its stratum in the batch of its rows, at most a few seconds from the decision. Of a
    /// trace without rows it asks the running collector, which knows those that wait and for some minutes those that were decided (with tokens: role admin).
    #[command(after_help = "Examples:\n  \
        tailwater sampling explain 4bf92f3577b34da6a3ce929d0e0e4736\n  \
        tailwater sampling explain 4bf92f3577b34da6a3ce929d0e0e4736 --data ./my-data --format json")]
    Explain {
        /// Trace id, 32 hex digits.
        trace_id: String,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t = sql::Format::Table)]
        format: sql::Format,
        #[command(flatten)]
        client: Box<ClientArgs>,
    },
}

/// Runs the command.
///
/// # Errors
/// The problems of the policy, a file that cannot be read, nobody to ask.
pub fn run(args: &SamplingArgs, common: &Common) -> anyhow::Result<Exit> {
    match &args.what {
        What::Check { file } => {
            let policy = match read(file) {
                Err(_) if is_collectors(&text(file)?) => {
                    tell(format_args!(
                        "tailwater: {} is a configuration of the OpenTelemetry Collector: `tailwater sampling import` makes a policy of it",
                        file.display()
                    ));
                    return Ok(Exit::Config);
                }
                read => read?,
            };
            let strata: Vec<&str> = policy.strata.iter().map(|stratum| &*stratum.name).collect();
            print(&format!("the policy is good: {}\n", strata.join(", ")))?;
            Ok(Exit::Ok)
        }
        What::Import { file } => {
            let imported =
                import::otelcol(&text(file)?).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
            print(&imported.policy)?;
            for note in &imported.notes {
                tell(format_args!("{}:{note}", file.display()));
            }
            Ok(if imported.is_lossy() { Exit::No } else { Exit::Ok })
        }
        What::Simulate {
            file,
            policy,
            times,
            replay,
            seeds,
            format,
        } => {
            let file = policy.as_ref().or(file.as_ref()).context("no policy is named")?;
            let policy = read(file)?;
            match replay.is_empty() {
                true => simulate(&policy, *times, seeds.unwrap_or(3), *format),
                false => replayed(&policy, replay, seeds.unwrap_or(20), *format, common),
            }
        }
        What::Explain {
            trace_id,
            format,
            client,
        } => explain(trace_id, client, *format, common),
    }
}

/// Whether this is no policy, but what one can be made of.
fn is_collectors(text: &str) -> bool {
    import::otelcol(text).is_ok()
}

fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Policy> {
    Ok(policy::read(path, &text(path)?)?)
}

/// Spans a second that a budget allows, at the sizes of made up traffic.
fn goal(budget: &Budget) -> Option<f64> {
    let bytes = budget.bytes_per_sec.min(budget.bytes_per_day / 86_400.0);
    let spans = (bytes / (f64::from(SPAN_BYTES) * STORED_PER_BYTE)).min(budget.spans_per_sec);
    spans.is_finite().then_some(spans)
}

fn simulate(policy: &Policy, times: f64, seeds: u64, format: Format) -> anyhow::Result<Exit> {
    let goal = goal(&policy.budget).context("the policy has no budget, so there is nothing to hold it to")?;
    let traffic = Traffic {
        spans_per_sec: goal * times,
        ..Traffic::default()
    };
    let seeds: Vec<u64> = (1..=seeds).collect();
    let compared = sim::compare(policy, goal, &traffic, &seeds).map_err(anyhow::Error::msg)?;
    let rows = compared.0.iter().map(|line| {
        let score = line.score;
        json!({
            "sampler": line.name, "burst": format!("{:?}", line.burst), "goal_spans_per_sec": goal, "steady": score.steady,
            "during": score.burst, "worst_second": score.worst, "after": score.after, "estimate_over_true": score.estimate,
            "excess_spans": score.excess,
        })
    });
    print(&match format {
        Format::Table => format!(
            "{compared}\nGoal {goal:.0} spans/s, offered {:.0}, tenfold in the burst; kept over budget, means of {} runs.\n",
            goal * times,
            seeds.len()
        ),
        Format::Json => serde_json::to_string_pretty(&rows.collect::<Vec<_>>())? + "\n",
    })?;
    Ok(Exit::Ok)
}

fn replayed(policy: &Policy, files: &[PathBuf], seeds: u64, format: Format, common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let counting = tailwater_collector::counting(&config, &tailwater_collector::caps(&config));
    let report = crate::simulate::simulate(policy, files, &counting, seeds)?;
    print(&match format {
        Format::Table => report.table(),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    })?;
    Ok(Exit::Ok)
}

fn explain(trace_id: &str, client: &ClientArgs, format: sql::Format, common: &Common) -> anyhow::Result<Exit> {
    let trace_id = trace_id.trim();
    anyhow::ensure!(
        trace_id.len() == 32 && trace_id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{trace_id:?} is no trace id: 32 hex digits are"
    );
    explain::run(&trace_id.to_ascii_lowercase(), client, format, common)
}
