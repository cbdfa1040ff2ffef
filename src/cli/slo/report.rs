//! What needs to know what was measured: `report` and `check`, straight on a data directory or from a running server.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use http::Uri;
use tailwater_config::Config;
use tailwater_openslo::files::{self, Checked};
use tailwater_openslo::{Period, write};
use tailwater_query::http::notes;
use tailwater_query::slo::{self, parse_time};
use tailwater_query::{Engine, EngineConfig};
use tailwater_runtime::{Exit, machine};
use tailwater_slo::interval::IntervalMethod;
use tailwater_slo::plan::windows_asked;
use tailwater_slo::{Settings, Time, Verdict, render, verdict};
use tailwater_storage::lake::Lake;

use super::super::client::{ClientArgs, Peer};
use super::super::exchange::{self, Unreachable};
use super::super::{Common, role, small_runtime, sql, tell};
use super::files::{put, say, skipped};

/// Say whether objectives hold and how fast their budgets burn.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 reported, whatever the verdicts; 2 bad input, a token that is refused, or a failure; 69 nobody to ask, or \
    too busy: ask again later.\n\nExamples:\n  \
    tailwater slo report checkout.yaml\n  \
    tailwater slo report slo/ --window 7d,30d,90d --format html -o slo.html\n  \
    tailwater slo report checkout.yaml --data ./my-data --at 2026-11-22T20:00:00Z --format json"
)]
pub struct ReportArgs {
    #[command(flatten)]
    asked: Asked,
    /// Where to write; stdout if not given.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Say whether objectives hold, in the exit code.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 all objectives hold; 1 one is broken; 2 bad input, a token that is refused, or a failure; 3 none is broken, \
    but one is undetermined or has no data; 69 nobody to ask, or too busy: ask again later. With several windows the first one \
    decides.\n\nExamples:\n  \
    tailwater slo check slo/ && ./deploy.sh\n  \
    tailwater slo check checkout.yaml --window 1h --data ./my-data"
)]
pub struct CheckArgs {
    #[command(flatten)]
    asked: Asked,
    /// Say nothing on stdout.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct Asked {
    /// Files, or folders of *.yaml.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Form of the report.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Rolling windows instead of those of the documents, as in 7d,30d,90d; 8 at most.
    #[arg(long, value_name = "LENGTHS", value_delimiter = ',', value_parser = window)]
    window: Vec<Period>,
    /// How far a counted share may lie from the true one.
    #[arg(long, value_enum, default_value_t = Interval::Wilson)]
    interval: Interval,
    /// What decides between met and missed.
    #[arg(long, value_enum, default_value_t = Evidence::Interval)]
    evidence: Evidence,
    /// The moment to report about, as in 2026-11-22T20:00:00Z; now if not given.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Time>,
    /// Of a data directory, count this tenant's data alone; those of all tenants without it. A server takes the tenant from the token.
    #[arg(long, value_name = "NAME", conflicts_with = "endpoint")]
    tenant: Option<String>,
    /// Server to ask, as `http://host:port`.
    #[arg(long)]
    endpoint: Option<Uri>,
    #[command(flatten)]
    client: ClientArgs,
}

/// An interval of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Interval {
    /// Right on average.
    Wilson,
    /// Exact: never less sure than 95 %, and wider.
    ClopperPearson,
}

impl Interval {
    const fn method(self) -> IntervalMethod {
        match self {
            Self::Wilson => IntervalMethod::Wilson,
            Self::ClopperPearson => IntervalMethod::ClopperPearson,
        }
    }
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Evidence {
    /// The whole interval: the claim is about the service, and few events leave it open.
    Interval,
    /// The counts as they are: the claim is about the requests that happened, as in a contract.
    Counts,
}

impl Evidence {
    const fn decides(self) -> verdict::Evidence {
        match self {
            Self::Interval => verdict::Evidence::Interval,
            Self::Counts => verdict::Evidence::Counts,
        }
    }
}

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal.
    Text,
    /// For programs.
    Json,
    /// Markdown, for an issue or a wiki.
    Md,
    /// One file for a browser.
    Html,
}

impl Format {
    const fn drawn(self) -> tailwater_slo::Format {
        match self {
            Self::Text => tailwater_slo::Format::Text,
            Self::Json => tailwater_slo::Format::Json,
            Self::Md => tailwater_slo::Format::Markdown,
            Self::Html => tailwater_slo::Format::Html,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Md => "md",
            Self::Html => "html",
        }
    }
}

fn window(text: &str) -> Result<Period, String> {
    let period = Period::parse(text.trim())?;
    if period.count == 0 {
        return Err("a window has a length".into());
    }
    Ok(period)
}

/// A drawn report, what it comes to, and what is not in it.
struct Answer {
    text: String,
    worst: Verdict,
    notes: Vec<String>,
}

/// Why there is none.
#[derive(Debug)]
enum Refused {
    /// The documents, the question or the token are wrong, or it failed: asking again changes nothing.
    Trouble(String),
    /// Too busy, or not ready: ask again later.
    Later(String),
    /// No server.
    Unreachable(Unreachable),
}

impl Refused {
    fn of(status: u16, why: String) -> Refused {
        match exchange::is_for_later(status) {
            true => Refused::Later(why),
            false => Refused::Trouble(why),
        }
    }
}

/// `slo report`.
pub fn report(args: &ReportArgs, common: &Common) -> anyhow::Result<Exit> {
    let colour = args.output.is_none() && colour();
    match answer(&args.asked, common, colour)? {
        Ok(answer) => put(args.output.as_deref(), &answer.text).map(|()| Exit::Ok),
        Err(exit) => Ok(exit),
    }
}

/// `slo check`.
pub fn check(args: &CheckArgs, common: &Common) -> anyhow::Result<Exit> {
    match answer(&args.asked, common, !args.quiet && colour())? {
        Ok(answer) => {
            if !args.quiet {
                put(None, &answer.text)?;
            }
            Ok(match answer.worst {
                Verdict::Met => Exit::Ok,
                Verdict::Missed => Exit::No,
                Verdict::NoData | Verdict::Undetermined => Exit::Undetermined,
            })
        }
        Err(exit) => Ok(exit),
    }
}

/// Colour is for people at a terminal who do not object (no-color.org).
fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

/// The answer, or the exit code after its reason was shown.
fn answer(asked: &Asked, common: &Common, colour: bool) -> anyhow::Result<Result<Answer, Exit>> {
    let checked = files::check(&asked.files);
    skipped(&checked);
    if say(&checked.problems) {
        return Ok(Err(Exit::Trouble));
    }
    if checked.slos.is_empty() {
        tell(format_args!("tailwater: there is no SLO in the files"));
        return Ok(Err(Exit::Trouble));
    }
    if asked.tenant.is_some() && common.data.is_none() {
        tell(format_args!(
            "tailwater: --tenant goes with --data: a server takes the tenant from the token"
        ));
        return Ok(Err(Exit::Trouble));
    }
    let windows = match windows_asked(asked.window.iter().copied()) {
        Ok(windows) => windows,
        Err(why) => {
            tell(format_args!("tailwater: --window: {why}"));
            return Ok(Err(Exit::Trouble));
        }
    };
    let config = common.load()?;
    let at = asked.at.unwrap_or_else(|| Time(chrono::Utc::now().timestamp()));
    let got = small_runtime()?.block_on(async {
        match (&asked.endpoint, &common.data) {
            (Some(endpoint), _) => ask(&asked.client.peer(endpoint)?, &checked, asked, &windows, at, colour).await,
            (None, Some(_)) => Box::pin(read(&config, &checked, asked, windows, at, colour)).await,
            (None, None) => {
                ask(
                    &sql::server(&config, &asked.client)?,
                    &checked,
                    asked,
                    &windows,
                    at,
                    colour,
                )
                .await
            }
        }
    })?;
    Ok(match got {
        Ok(answer) => {
            for note in &answer.notes {
                tell(format_args!("note: {note}"));
            }
            Ok(answer)
        }
        Err(Refused::Trouble(why)) => {
            tell(format_args!("tailwater: {why}"));
            Err(Exit::Trouble)
        }
        Err(Refused::Later(why)) => {
            tell(format_args!("tailwater: {why}"));
            Err(Exit::Unavailable)
        }
        Err(Refused::Unreachable(why)) => {
            tell(format_args!(
                "tailwater: {why}\nIs `tailwater run` running? `--data DIR` reads a data directory without a server."
            ));
            Err(Exit::Unavailable)
        }
    })
}

/// Reads a data directory, without its locks.
async fn read(
    config: &Config,
    checked: &Checked,
    asked: &Asked,
    windows: Vec<Period>,
    at: Time,
    colour: bool,
) -> anyhow::Result<Result<Answer, Refused>> {
    let lake = role::lake_dir(config);
    if !lake.is_dir() {
        bail!("{} holds no lake yet", config.data.display());
    }
    let machine = machine::probe();
    let limits = config.limits(machine)?;
    let engine = Engine::open(EngineConfig {
        lake: Lake::open(&lake)?,
        outbox: Some(role::outbox_dir(config)),
        temp: None,
        limits: tailwater_query::role::limits(config, limits.query_memory_bytes, machine.cpus),
    })?;
    let engine = match &asked.tenant {
        Some(tenant) => engine.for_tenant(tenant.as_str().into(), None, false),
        None => engine,
    };
    let settings = Settings {
        windows,
        interval: asked.interval.method(),
        evidence: asked.evidence.decides(),
        ..Settings::default()
    };
    match slo::report(&engine, &checked.slos, &settings, at).await {
        Ok(reported) => Ok(Ok(Answer {
            text: render(&reported.report, asked.format.drawn(), colour),
            worst: reported.worst(),
            notes: reported.skipped,
        })),
        Err(error) => Ok(Err(Refused::of(error.kind().http_status(), error.to_string()))),
    }
}

/// Asks a server.
async fn ask(
    peer: &Peer,
    checked: &Checked,
    asked: &Asked,
    windows: &[Period],
    at: Time,
    colour: bool,
) -> anyhow::Result<Result<Answer, Refused>> {
    let authority = &peer.authority;
    let windows: Vec<String> = windows.iter().map(ToString::to_string).collect();
    let mut path = format!(
        "/api/v1/slo/report?format={}&at={at}&colour={colour}&interval={}&evidence={}",
        asked.format.word(),
        asked.interval.method().word(),
        asked.evidence.decides().word()
    );
    if !windows.is_empty() {
        path.push_str(&format!("&window={}", windows.join(",")));
    }
    let got = match exchange::post(peer, &path, &write(&checked.documents), "*/*").await {
        Ok(got) => got,
        Err(error) => {
            return match error.downcast::<Unreachable>() {
                Ok(unreachable) => Ok(Err(Refused::Unreachable(unreachable))),
                Err(error) => Err(error),
            };
        }
    };
    if !got.status.is_success() {
        return match serde_json::from_slice::<serde_json::Value>(&got.body) {
            Ok(body) if body["error"].is_string() => {
                let why = body["error"].as_str().unwrap_or_default();
                Ok(Err(Refused::of(got.status.as_u16(), why.to_owned())))
            }
            _ => bail!("{authority} answers {}: is it a Tailwater query port?", got.status),
        };
    }
    let header = |name: &str| got.headers.get(name).and_then(|value| value.to_str().ok());
    let worst = match header("tailwater-verdict") {
        Some("met") => Verdict::Met,
        Some("missed") => Verdict::Missed,
        Some("undetermined") => Verdict::Undetermined,
        Some("no_data") => Verdict::NoData,
        other => bail!("{authority} gives the verdict {other:?}: is it as new as this program?"),
    };
    Ok(Ok(Answer {
        worst,
        notes: got
            .headers
            .get("tailwater-notes")
            .map(notes::read)
            .into_iter()
            .collect(),
        text: String::from_utf8(got.body.into())?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_a_length() {
        assert_eq!(window("30d").map(|period| period.to_string()), Ok("30d".into()));
        for wrong in ["", "0d", "30", "1s"] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_may_go_better_later_is_no_bad_input() {
        for status in [400, 401, 403, 413, 422, 500] {
            assert!(
                matches!(Refused::of(status, String::new()), Refused::Trouble(_)),
                "{status}"
            );
        }
        for status in [429, 503, 504] {
            assert!(
                matches!(Refused::of(status, String::new()), Refused::Later(_)),
                "{status}"
            );
        }
    }
}
