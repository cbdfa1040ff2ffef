//! `tailwater lake stats|verify|compact`: looking at, checking and tidying the tables of a data directory.

use std::sync::Arc;

use anyhow::bail;
use chrono::{DateTime, Duration, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tailwater_config::{Config, format_duration};
use tailwater_model::ledger::Account;
use tailwater_model::table::Table;
use tailwater_runtime::{Exit, machine};
use tailwater_storage::lake::Lake;
use tailwater_storage::maintain::{Keeper, Report};
use tailwater_storage::outbox::Outbox;
use tailwater_storage::verify::{self, Depth, Line, Verified};
use tokio::sync::Semaphore;

use super::{Common, maintain as role_maintain, print, role, tell};
use crate::load::tally::align;

/// Look at, check and tidy the tables.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 done, or exact; 1 not exact; 2 there is no lake, a table cannot be read, or it failed; 78 wrong settings.\n\n\
    Example:\n  tailwater lake verify --data ./my-data"
)]
pub struct LakeArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Files, rows, bytes and age of every table.
    #[command(after_help = "Example:\n  tailwater lake stats --data ./my-data --format json")]
    Stats(FormatArgs),
    /// Check that every item received is accounted for and every byte of every table is as it was written.
    #[command(
        after_help = "Exit code: 0 exact; 1 not; 2 there is no lake, or it cannot be read.\n\nExample:\n  tailwater lake verify --data ./my-data && echo exact"
    )]
    Verify(VerifyArgs),
    /// Merge small files now, fold old slices of `red` and derive hours that are over. Refuses while `run` or `maintain` works on the directory: they do the same.
    #[command(
        after_help = "Exit code: 0 done; 2 a file cannot be read, or the disk has no room for a merge beside storage.disk_reserve.\n\nExample:\n  tailwater lake compact --data ./my-data"
    )]
    Compact,
}

#[derive(Debug, Args)]
struct FormatArgs {
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Count only, without reading all bytes: quicker on a large lake, and finds no damaged page.
    #[arg(long)]
    counts: bool,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs the command.
///
/// # Errors
/// Bad settings, a lake that is absent or cannot be read.
pub fn run(args: &LakeArgs, common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let lake_dir = role::lake_dir(&config);
    if !lake_dir.is_dir() {
        bail!("{} holds no lake yet", config.data.display());
    }
    let lake = Lake::open(&lake_dir)?;
    role::runtime("lake")?.block_on(async {
        match &args.what {
            What::Stats(args) => {
                let figures = figures(&lake, &config).await?;
                print(&match args.format {
                    Format::Table => figures_table(&figures),
                    Format::Json => serde_json::to_string_pretty(&figures)? + "\n",
                })?;
                Ok(Exit::Ok)
            }
            What::Verify(args) => Box::pin(verify(&lake, &config, args)).await,
            What::Compact => Box::pin(compact(lake, &config)).await,
        }
    })
}

/// What is known of a table.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Its name.
    pub table: &'static str,
    /// Its version.
    pub version: u64,
    /// Active files.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// First day that has rows.
    pub oldest: Option<String>,
    /// How long rows are kept.
    pub retention: String,
}

/// Figures of every table that exists.
///
/// # Errors
/// When a table's log cannot be read.
pub async fn figures(lake: &Lake, config: &Config) -> tailwater_storage::Result<Vec<Figures>> {
    let mut all = Vec::new();
    for table in Table::ALL {
        let snapshot = match lake.snapshot(table).await {
            Ok(snapshot) => snapshot,
            Err(error) if error.kind() == tailwater_storage::ErrorKind::MissingTable => continue,
            Err(error) => return Err(error),
        };
        let files = snapshot.files();
        all.push(Figures {
            table: table.name(),
            version: snapshot.version,
            files: files.len() as u64,
            rows: files.iter().map(|file| file.rows).sum(),
            bytes: files.iter().map(|file| file.size).sum(),
            oldest: files.iter().map(|file| file.date).min().map(day),
            retention: role_maintain::retention_of(&config.storage.retention, table)
                .map_or_else(|| "for ever".to_owned(), format_duration),
        });
    }
    Ok(all)
}

/// The day so many days after 1970-01-01.
fn day(days: i32) -> String {
    (DateTime::<Utc>::UNIX_EPOCH + Duration::days(days.into()))
        .format("%Y-%m-%d")
        .to_string()
}

/// Figures for people.
pub fn figures_table(figures: &[Figures]) -> String {
    let mut rows = vec![["table", "rows", "files", "MB", "bytes/row", "oldest", "kept", "version"].map(str::to_owned)];
    for of in figures {
        rows.push([
            of.table.to_owned(),
            of.rows.to_string(),
            of.files.to_string(),
            format!("{:.1}", of.bytes as f64 / 1e6),
            if of.rows == 0 {
                "-".to_owned()
            } else {
                format!("{:.1}", of.bytes as f64 / of.rows as f64)
            },
            of.oldest.clone().unwrap_or_else(|| "-".to_owned()),
            of.retention.clone(),
            of.version.to_string(),
        ]);
    }
    align(&rows)
}

/// Compares the ledger with the rows of one cut, and every file with the checksum it was written with.
async fn verify(lake: &Lake, config: &Config, args: &VerifyArgs) -> anyhow::Result<Exit> {
    let outbox = Outbox::open_readonly(&role::outbox_dir(config));
    // Without one, say in a copy of the lake, what counts is what every table has.
    let has_log = outbox.view()?.log_id.is_some();
    let outbox = has_log.then_some(outbox);
    let depth = match args.counts {
        true => Depth::Counts,
        false => Depth::EveryByte,
    };
    let verified = verify::verify(lake, outbox.as_ref(), depth).await?;
    print(&match args.format {
        Format::Table => verified_table(&verified, depth),
        Format::Json => verified_json(&verified)?,
    })?;
    Ok(if verified.is_exact() { Exit::Ok } else { Exit::No })
}

/// The columns of an account, in order: the ledger's, what they leave, and the other side.
fn accounts(line: &Line) -> [(&'static str, i64); 10] {
    let of = |account: Account| {
        let items = line.items.get(&account).copied().unwrap_or(0);
        match account {
            Account::Expired => items + line.expired as i64,
            _ => items,
        }
    };
    let entry = |account: Account| (account.name(), of(account));
    [
        entry(Account::Received),
        entry(Account::Rejected),
        entry(Account::Deduplicated),
        entry(Account::SampledOut),
        entry(Account::Dropped),
        entry(Account::Stored),
        entry(Account::Lost),
        ("in_flight", line.in_flight()),
        entry(Account::Expired),
        ("readable", line.readable as i64),
    ]
}

fn verified_table(verified: &Verified, depth: Depth) -> String {
    let mut rows = Vec::new();
    for line in &verified.lines {
        if rows.is_empty() {
            let names = accounts(line).map(|(name, _)| name.replace('_', " "));
            rows.push(row(["tenant", "signal", "exact"], names));
        }
        let numbers = accounts(line).map(|(_, items)| items.to_string());
        let exact = if line.is_exact() { "yes" } else { "NO" };
        rows.push(row([&line.tenant, line.signal.name(), exact], numbers));
    }
    let mut text = align(&rows);
    for line in &verified.lines {
        let (items, bytes) = (line.in_flight(), line.bytes_in_flight());
        if bytes < 0 || items == 0 && bytes != 0 {
            let (tenant, signal) = (&line.tenant, line.signal.name());
            text.push_str(&format!(
                "UNBALANCED {tenant} {signal}: {bytes} bytes of {items} items in flight\n"
            ));
        }
    }
    for (table, path, reason) in &verified.damaged {
        text.push_str(&format!("DAMAGED {}/{path}: {reason}\n", table.name()));
    }
    for (first, last) in &verified.missing {
        text.push_str(&format!(
            "DAMAGED outbox batches {first} to {last}: their rows may be missing\n"
        ));
    }
    let read = match depth {
        Depth::Counts => "rows of items were counted",
        Depth::EveryByte => "every byte was read",
    };
    text.push_str(&format!(
        "{} files of {:.1} MB: {read}\n",
        verified.files,
        verified.bytes as f64 / 1e6
    ));
    text.push_str(if verified.is_exact() {
        "exact: every item is accounted for, every stored row is readable\n"
    } else {
        "NOT exact\n"
    });
    text
}

fn row([tenant, signal, exact]: [&str; 3], [a, b, c, d, e, f, g, h, i, j]: [String; 10]) -> [String; 13] {
    let [tenant, signal, exact] = [tenant, signal, exact].map(str::to_owned);
    [tenant, signal, a, b, c, d, e, f, g, h, i, j, exact]
}

fn verified_json(verified: &Verified) -> anyhow::Result<String> {
    let balances = verified.lines.iter().map(|line| {
        let mut entry: serde_json::Map<String, serde_json::Value> = accounts(line)
            .into_iter()
            .map(|(name, items)| (name.to_owned(), items.into()))
            .collect();
        entry.insert("in_flight_bytes".to_owned(), line.bytes_in_flight().into());
        entry.insert("tenant".to_owned(), line.tenant.as_str().into());
        entry.insert("signal".to_owned(), line.signal.name().into());
        serde_json::Value::Object(entry)
    });
    let damaged = verified
        .damaged
        .iter()
        .map(|(table, path, reason)| serde_json::json!({ "table": table.name(), "file": &**path, "reason": reason }));
    let told = serde_json::json!({
        "exact": verified.is_exact(),
        "balances": balances.collect::<Vec<_>>(),
        "damaged_files": damaged.collect::<Vec<_>>(),
        "damaged_batches": verified.missing,
        "files": verified.files,
        "bytes": verified.bytes,
    });
    Ok(serde_json::to_string_pretty(&told)? + "\n")
}

async fn compact(lake: Lake, config: &Config) -> anyhow::Result<Exit> {
    let _lock = role_maintain::lock(&config.data)?;
    let limits = config.limits(machine::probe())?;
    let turn = Arc::new(Semaphore::new(1));
    let mut exit = Exit::Ok;
    // Derived tables come after what they derive from.
    for table in Table::ALL {
        let mut policy = role_maintain::policy(config, &limits, table);
        // Now means now: any two files, the last day too, and every hour that is over.
        policy.merge_files_min = 2;
        policy.quiet_ms = 0;
        policy.rest_ms = 0;
        policy.settle_ms = 0;
        // And rewriting only: what is to be forgotten is for `maintain` to say, with the settings it runs with.
        policy.retention_days = None;
        let mut keeper = Keeper::new(lake.clone(), table, policy, turn.clone());
        let mut total = Report::default();
        loop {
            let report = match keeper.run_once(Utc::now().timestamp_millis()).await {
                Ok(report) => report,
                Err(error) if error.kind() == tailwater_storage::ErrorKind::MissingTable => break,
                Err(error) => return Err(error.into()),
            };
            total.merged_files += report.merged_files;
            total.written_files += report.written_files;
            total.folded_rows += report.folded_rows;
            total.folded_into += report.folded_into;
            total.derived_days += report.derived_days;
            if report.postponed_days > 0 && report.derived_days > 0 {
                continue;
            }
            print(&compacted(table, &total, &report))?;
            let reasons = [
                role_maintain::unreadable(&report),
                role_maintain::waiting(config, &report),
            ];
            for reason in reasons.into_iter().flatten() {
                tell(format_args!("tailwater: {}: {reason}", table.name()));
                exit = Exit::Trouble;
            }
            break;
        }
    }
    Ok(exit)
}

/// What was done to a table, and how it is now.
fn compacted(table: Table, total: &Report, now: &Report) -> String {
    let mut done = vec![format!(
        "{} files merged into {}",
        total.merged_files, total.written_files
    )];
    if table.derived_slice_s().is_some() {
        done = vec![format!("{} days derived", total.derived_days)];
    }
    if total.folded_rows > 0 {
        done.push(format!(
            "{} rows of 10 s folded into {} of 1 min",
            total.folded_rows, total.folded_into
        ));
    }
    format!(
        "{}: {}, {} files of {:.1} MB now\n",
        table.name(),
        done.join(", "),
        now.files,
        now.bytes as f64 / 1e6
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn damage_and_missing_rows_are_told_in_both_forms() {
        let items = [(Account::Received, 10), (Account::Rejected, 1), (Account::Stored, 6)];
        let line = Line {
            tenant: "default".to_owned(),
            signal: tailwater_model::signal::Signal::Logs,
            items: items.into(),
            bytes: items.map(|(account, items)| (account, items * 100)).into(),
            expired: 2,
            readable: 4,
        };
        let verified = Verified {
            cut: 1,
            lines: vec![line],
            damaged: Vec::new(),
            missing: Vec::new(),
            files: 1,
            bytes: 1000,
        };
        let text = verified_table(&verified, Depth::EveryByte);
        assert!(
            text.contains("every byte was read") && text.contains("\nexact:"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&verified_json(&verified).unwrap()).unwrap();
        assert_eq!(
            (&json["exact"], &json["balances"][0]["in_flight"]),
            (&true.into(), &3.into())
        );
        assert_eq!(
            (&json["balances"][0]["expired"], &json["balances"][0]["readable"]),
            (&2.into(), &4.into())
        );
        assert_eq!(json["balances"][0]["in_flight_bytes"], 300);

        let mut unbalanced = verified.clone();
        unbalanced.lines[0].bytes.insert(Account::Lost, 301);
        let text = verified_table(&unbalanced, Depth::Counts);
        let line = "UNBALANCED default logs: -1 bytes of 3 items in flight\n";
        assert!(text.contains(line) && text.ends_with("NOT exact\n"), "{text}");

        let damaged = vec![(Table::Logs, Arc::from("date=2026-11-22/a.parquet"), "why".to_owned())];
        let verified = Verified { damaged, ..verified };
        let text = verified_table(&verified, Depth::EveryByte);
        assert!(
            text.contains("DAMAGED logs/date=2026-11-22/a.parquet: why") && text.ends_with("NOT exact\n"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&verified_json(&verified).unwrap()).unwrap();
        assert_eq!(
            (&json["exact"], &json["damaged_files"][0]["table"]),
            (&false.into(), &"logs".into())
        );
    }

    #[test]
    fn days() {
        assert_eq!((day(0).as_str(), day(20_779).as_str()), ("1970-01-01", "2026-11-22"));
    }
}
