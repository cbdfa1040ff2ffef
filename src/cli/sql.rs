//! `tailwater sql`: one query, against a running server or straight on a data directory.

use std::io::Read;

use anyhow::{Context, bail};
use arrow::datatypes::Schema;
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;
use clap::{Args, ValueEnum};
use http::{StatusCode, Uri};
use serde::Deserialize;
use tailwater_config::Config;
use tailwater_query::http::notes;
use tailwater_query::{Engine, EngineConfig, format};
use tailwater_runtime::{Exit, machine, run_dir};
use tailwater_storage::lake::Lake;

use super::client::{ClientArgs, Peer};
use super::exchange::{self, Unreachable};
use super::{Common, print, role, small_runtime, tell};

/// Ask in SQL.
///
/// Asks the running server of the data directory. With --data, and no server named, reads the tables and the outbox of that directory
/// itself, whether something runs on it or not.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 answered; 2 a bad query, a token that is refused, or a failure; 69 nobody to ask, or too busy: ask again \
    later; 78 wrong settings.\n\nExamples:\n  \
    tailwater sql \"select service_name, count(*) from spans group by 1\"\n  \
    tailwater sql --data ./my-data --format csv \"select * from logs limit 10\"\n  \
    echo \"select 1\" | tailwater sql -"
)]
pub struct SqlArgs {
    /// The query; `-` reads it from stdin.
    query: String,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Server to ask, as `http://host:port` or `https://host:port`.
    #[arg(long)]
    endpoint: Option<Uri>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One object with columns and rows.
    Json,
    /// RFC 4180.
    Csv,
}

/// Runs the command.
///
/// # Errors
/// Bad settings, nobody to ask, a query that cannot be run.
pub fn run(args: &SqlArgs, common: &Common) -> anyhow::Result<Exit> {
    let text = match args.query.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("read the query from stdin")?;
            text
        }
        text => text.to_owned(),
    };
    match answer(&text, args.endpoint.as_ref(), &args.client, args.format, common)? {
        Ok(text) => {
            print(&text)?;
            Ok(Exit::Ok)
        }
        Err(exit) => Ok(exit),
    }
}

/// Asks the server of the configuration, or with `--data` the lake. An exit code where there is no answer and why is said.
///
/// # Errors
/// Bad settings, a lake that cannot be read.
pub fn get(text: &str, client: &ClientArgs, format: Format, common: &Common) -> anyhow::Result<Result<String, Exit>> {
    answer(text, None, client, format, common)
}

fn answer(
    text: &str,
    endpoint: Option<&Uri>,
    client: &ClientArgs,
    format: Format,
    common: &Common,
) -> anyhow::Result<Result<String, Exit>> {
    let config = common.load()?;
    let answer = small_runtime()?.block_on(async {
        match (endpoint, &common.data) {
            (Some(endpoint), _) => ask(&client.peer(endpoint)?, text, format).await,
            (None, Some(_)) => Box::pin(read(&config, text, format)).await,
            (None, None) => ask(&server(&config, client)?, text, format).await,
        }
    });
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) => match error.downcast_ref::<Failed>() {
            Some(failed) => {
                tell(failed.show(text));
                Ok(Err(failed.exit()))
            }
            None if error.is::<Unreachable>() => {
                tell(format_args!(
                    "tailwater: {error}\nIs `tailwater run` running? `--data DIR` reads a data directory without a server."
                ));
                Ok(Err(Exit::Unavailable))
            }
            None => Err(error),
        },
    }
}

/// Where the server of this configuration answers: what it says in the data directory, else what the settings say.
///
/// # Errors
/// When `run/query.json` or a certificate cannot be read.
pub fn server(config: &Config, client: &ClientArgs) -> anyhow::Result<Peer> {
    let running = run_dir::read(&config.data, "query")?;
    let address = running
        .and_then(|file| file.reach("query.listen"))
        .unwrap_or(config.query.listen);
    client.local(address, config.tls_of("query.listen").is_some())
}

/// Asks a server.
///
/// # Errors
/// [`Failed`] when the query cannot be run, [`Unreachable`] when nobody answers.
pub async fn ask(peer: &Peer, text: &str, format: Format) -> anyhow::Result<String> {
    let accept = match format {
        // Only Arrow says which columns are numbers, and a table wants to know.
        Format::Table => "application/vnd.apache.arrow.stream",
        Format::Json => "application/json",
        Format::Csv => "text/csv",
    };
    let answer = exchange::post(peer, "/api/v1/sql", text, accept).await?;
    if !answer.status.is_success() {
        return Err(match serde_json::from_slice::<Failed>(&answer.body) {
            Ok(failed) => failed.with(answer.status).into(),
            Err(_) => anyhow::anyhow!(
                "{} answers {}: is it a Tailwater query port?",
                peer.authority,
                answer.status
            ),
        });
    }
    if let Some(notes) = answer.headers.get("tailwater-notes") {
        note(&notes::read(notes));
    }
    match format {
        Format::Table => {
            let reader = StreamReader::try_new(&answer.body[..], None)?;
            let schema = reader.schema();
            Ok(format::table(&schema, &reader.collect::<Result<Vec<_>, _>>()?))
        }
        Format::Json | Format::Csv => Ok(String::from_utf8(answer.body.into())?),
    }
}

/// Reads a data directory, without its locks.
async fn read(config: &Config, text: &str, format: Format) -> anyhow::Result<String> {
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
    })
    .map_err(Failed::of)?;
    let mut answer = engine.query(text).await.map_err(Failed::of)?;
    let mut rows = Vec::new();
    while let Some(batch) = answer.next().await {
        rows.push(batch.map_err(Failed::of)?);
    }
    answer.notes().iter().for_each(|text| note(text));
    Ok(write(answer.schema(), &rows, format))
}

/// What the reader must know of the answer, beside it: the answer itself may go into a file.
pub fn note(text: &str) {
    tell(format_args!("note: {text}"));
}

fn write(schema: &Schema, rows: &[RecordBatch], format: Format) -> String {
    let mut out = String::new();
    match format {
        Format::Table => return format::table(schema, rows),
        Format::Json => {
            let mut written = 0;
            format::json_head(schema, &mut out);
            rows.iter()
                .for_each(|rows| format::json_rows(rows, &mut written, &mut out));
            format::json_tail(written, &mut out);
        }
        Format::Csv => {
            format::csv_head(schema, &mut out);
            rows.iter().for_each(|rows| format::csv_rows(rows, &mut out));
        }
    }
    out
}

/// A query that could not be run, as the server or the engine says it.
#[derive(Debug, Deserialize)]
pub struct Failed {
    error: String,
    kind: String,
    position: Option<Position>,
    /// The HTTP status, which an error of the engine has as well.
    #[serde(skip)]
    status: u16,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Position {
    line: u64,
    column: u64,
}

impl Failed {
    fn of(error: tailwater_query::Error) -> Failed {
        let position = error.position().map(|at| Position {
            line: at.line,
            column: at.column,
        });
        Failed {
            error: error.to_string(),
            kind: error.kind().name().to_owned(),
            position,
            status: error.kind().http_status(),
        }
    }

    fn with(self, status: StatusCode) -> Failed {
        let status = status.as_u16();
        Failed { status, ..self }
    }

    /// Too busy is no fault of the query: asking again later may go better.
    fn exit(&self) -> Exit {
        match exchange::is_for_later(self.status) {
            true => Exit::Unavailable,
            false => Exit::Trouble,
        }
    }

    /// The message, and under it the line of the query with a mark at the place.
    fn show(&self, text: &str) -> String {
        let Some(Position { line, column }) = self.position else {
            return format!("{}: {}", self.kind, self.error);
        };
        let mut shown = format!("{line}:{column}: {}: {}", self.kind, self.error);
        let source = text.lines().nth((line as usize).saturating_sub(1));
        if let Some(source) = source.filter(|source| source.chars().count() < 200) {
            let before: String = source
                .chars()
                .take((column as usize).saturating_sub(1))
                .map(|char| if char == '\t' { '\t' } else { ' ' })
                .collect();
            shown.push_str(&format!("\n  {source}\n  {before}^"));
        }
        shown
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.error)
    }
}

impl std::error::Error for Failed {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn errors_point_at_their_place() {
        let failed = |position| Failed {
            error: "no column `nme`".into(),
            kind: "bad_query".into(),
            position,
            status: 400,
        };
        let text = "select name,\n\tnme\nfrom spans";
        let shown = failed(Some(Position { line: 2, column: 2 })).show(text);
        assert_eq!(shown, "2:2: bad_query: no column `nme`\n  \tnme\n  \t^");
        assert_eq!(failed(None).show(text), "bad_query: no column `nme`");
        let beyond = failed(Some(Position { line: 9, column: 0 })).show(text);
        assert_eq!(beyond, "9:0: bad_query: no column `nme`");
    }

    #[test]
    fn what_may_go_better_later_is_no_bad_query() {
        let exit = |status: u16| {
            let failed: Failed = serde_json::from_str(r#"{"error":"it is","kind":"x"}"#).unwrap();
            failed.with(StatusCode::from_u16(status).unwrap()).exit()
        };
        for status in [400, 401, 403, 413, 422, 500] {
            assert_eq!(exit(status), Exit::Trouble, "{status}");
        }
        for status in [429, 503, 504] {
            assert_eq!(exit(status), Exit::Unavailable, "{status}");
        }
    }
}
