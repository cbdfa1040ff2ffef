//! `tailwater lake stats|verify|compact`: looking at, checking and tidying the tables of a data directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::bail;
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use chrono::{DateTime, Duration, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tailwater_config::{Config, format_duration};
use tailwater_model::table::Table;
use tailwater_query::{Engine, EngineConfig};
use tailwater_runtime::{Exit, machine};
use tailwater_storage::lake::{Lake, Snapshot};
use tailwater_storage::maintain::{self, Keeper, Report};
use tokio::sync::Semaphore;

use super::{Common, maintain as role_maintain, print, role};
use crate::load::tally::align;

/// Look at, check and tidy the tables.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailwater lake verify --data ./my-data")]
pub struct LakeArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Files, rows, bytes and age of every table.
    #[command(after_help = "Example:\n  tailwater lake stats --data ./my-data --format json")]
    Stats(FormatArgs),
    /// Check that every item received is accounted for and every stored row can be read; exit 1 if not.
    #[command(after_help = "Example:\n  tailwater lake verify --data ./my-data && echo exact")]
    Verify(FormatArgs),
    /// Merge small files now, fold old slices of `red` and derive hours that are over. Refuses while `run` or `maintain` works on the directory: they do the same.
    #[command(after_help = "Example:\n  tailwater lake compact --data ./my-data")]
    Compact,
}

#[derive(Debug, Args)]
struct FormatArgs {
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
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
            What::Verify(args) => Box::pin(verify(&lake, &config, args.format)).await,
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

/// The account of one tenant's items of one signal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Balance {
    received: i64,
    rejected: i64,
    deduplicated: i64,
    sampled_out: i64,
    dropped: i64,
    stored: i64,
    lost: i64,
    expired: i64,
    readable: i64,
}

impl Balance {
    fn in_flight(&self) -> i64 {
        self.received - self.rejected - self.deduplicated - self.sampled_out - self.dropped - self.stored - self.lost
    }

    fn is_exact(&self) -> bool {
        self.in_flight() >= 0 && self.readable == self.stored - self.expired
    }

    fn add(&mut self, account: &str, items: i64) {
        let place = match account {
            "received" => &mut self.received,
            "rejected" => &mut self.rejected,
            "deduplicated" => &mut self.deduplicated,
            "sampled_out" => &mut self.sampled_out,
            "dropped" => &mut self.dropped,
            "stored" => &mut self.stored,
            "lost" => &mut self.lost,
            "expired" => &mut self.expired,
            _ => &mut self.readable,
        };
        *place += items;
    }
}

type Balances = BTreeMap<(String, String), Balance>;

/// Tables whose rows are items, and of which signal.
const ITEM_TABLES: [(Table, &str); 4] = [
    (Table::Spans, "traces"),
    (Table::Logs, "logs"),
    (Table::MetricPoints, "metrics"),
    (Table::MetricDists, "metrics"),
];

async fn verify(lake: &Lake, config: &Config, format: Format) -> anyhow::Result<Exit> {
    let machine = machine::probe();
    let mut limits = tailwater_query::role::limits(config, config.limits(machine)?.query_memory_bytes, machine.cpus);
    // A check of everything may take longer than a question.
    limits.timeout = std::time::Duration::from_secs(3600);
    let engine = Engine::open(EngineConfig {
        lake: lake.clone(),
        outbox: Some(role::outbox_dir(config)),
        temp: None,
        limits,
    })?;
    // Retention may remove rows between the look at its count and the query; then both are read again.
    let balances = loop {
        let before = versions_and_expired(lake).await?;
        let balances = balances(&engine, &before.1).await?;
        if versions_and_expired(lake).await?.1 == before.1 {
            break balances;
        }
    };
    let exact = balances.values().all(Balance::is_exact);
    print(&match format {
        Format::Table => balances_table(&balances, exact),
        Format::Json => balances_json(&balances, exact)?,
    })?;
    Ok(if exact { Exit::Ok } else { Exit::No })
}

type Expired = BTreeMap<(String, String), i64>;

/// Rows that retention removed, by tenant and signal.
async fn versions_and_expired(lake: &Lake) -> anyhow::Result<(Vec<Arc<Snapshot>>, Expired)> {
    let (mut snapshots, mut expired) = (Vec::new(), Expired::new());
    for (table, signal) in ITEM_TABLES {
        let snapshot = lake.snapshot(table).await?;
        for (tenant, rows) in maintain::expired(&snapshot) {
            *expired.entry((tenant, signal.to_owned())).or_default() += i64::try_from(rows)?;
        }
        snapshots.push(snapshot);
    }
    Ok((snapshots, expired))
}

/// One query, so that ledger and rows are those of one cut.
async fn balances(engine: &Engine, expired: &Expired) -> anyhow::Result<Balances> {
    let mut sql =
        "select tenant, signal, account, cast(sum(items) as bigint) as items from ledger group by 1, 2, 3".to_owned();
    for (table, signal) in ITEM_TABLES {
        sql.push_str(&format!(
            " union all select tenant, '{signal}', 'readable', cast(count(*) as bigint) from {} group by 1",
            table.name()
        ));
    }
    let mut balances = Balances::new();
    for rows in engine.collect(sql).await? {
        let texts =
            [0, 1, 2].map(|column| arrow::compute::cast(rows.column(column), &arrow::datatypes::DataType::Utf8));
        let [tenant, signal, account] = texts;
        let (tenant, signal, account) = (tenant?, signal?, account?);
        let items = rows.column(3).as_primitive::<Int64Type>();
        for row in 0..rows.num_rows() {
            let text = |column: &Arc<dyn Array>| column.as_string::<i32>().value(row).to_owned();
            balances
                .entry((text(&tenant), text(&signal)))
                .or_default()
                .add(&text(&account), items.value(row));
        }
    }
    for (key, rows) in expired {
        balances.entry(key.clone()).or_default().expired += rows;
    }
    Ok(balances)
}

fn balances_table(balances: &Balances, exact: bool) -> String {
    let mut rows = vec![
        [
            "tenant",
            "signal",
            "received",
            "rejected",
            "deduplicated",
            "sampled out",
            "dropped",
            "stored",
            "lost",
            "in flight",
            "expired",
            "readable",
            "exact",
        ]
        .map(str::to_owned),
    ];
    for ((tenant, signal), balance) in balances {
        let numbers = [
            balance.received,
            balance.rejected,
            balance.deduplicated,
            balance.sampled_out,
            balance.dropped,
            balance.stored,
            balance.lost,
            balance.in_flight(),
            balance.expired,
            balance.readable,
        ]
        .map(|number| number.to_string());
        let [a, b, c, d, e, f, g, h, i, j] = numbers;
        let exact = if balance.is_exact() { "yes" } else { "NO" }.to_owned();
        rows.push([tenant.clone(), signal.clone(), a, b, c, d, e, f, g, h, i, j, exact]);
    }
    let verdict = if exact {
        "exact: every item is accounted for, every stored row is readable\n"
    } else {
        "NOT exact\n"
    };
    align(&rows) + verdict
}

fn balances_json(balances: &Balances, exact: bool) -> anyhow::Result<String> {
    let mut entries = Vec::new();
    for ((tenant, signal), balance) in balances {
        let mut entry = serde_json::to_value(balance)?;
        entry["tenant"] = tenant.as_str().into();
        entry["signal"] = signal.as_str().into();
        entry["in_flight"] = balance.in_flight().into();
        entry["exact"] = balance.is_exact().into();
        entries.push(entry);
    }
    Ok(serde_json::to_string_pretty(&serde_json::json!({ "exact": exact, "balances": entries }))? + "\n")
}

async fn compact(lake: Lake, config: &Config) -> anyhow::Result<Exit> {
    let _lock = role_maintain::lock(&config.data)?;
    let turn = Arc::new(Semaphore::new(1));
    // Derived tables come after what they derive from.
    for table in Table::ALL {
        let mut policy = role_maintain::policy(config, table);
        // Now means now: any two files, the last day too, and every hour that is over.
        policy.merge_files_min = 2;
        policy.quiet_ms = 0;
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
            break;
        }
    }
    Ok(Exit::Ok)
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
    use super::*;

    #[test]
    fn a_balance_is_exact_when_both_identities_hold() {
        let balance = |amounts: &[(&str, i64)]| {
            let mut balance = Balance::default();
            amounts.iter().for_each(|(account, items)| balance.add(account, *items));
            balance
        };
        let good = [
            ("received", 10),
            ("rejected", 1),
            ("deduplicated", 2),
            ("stored", 6),
            ("expired", 2),
            ("readable", 4),
        ];
        assert!(balance(&good).is_exact());
        assert_eq!(balance(&good).in_flight(), 1);
        let mut row_missing = good;
        row_missing[5].1 = 3;
        assert!(!balance(&row_missing).is_exact());
        let mut stored_twice = good;
        stored_twice[3].1 = 9;
        stored_twice[5].1 = 7;
        assert!(!balance(&stored_twice).is_exact(), "more ended than came");
    }

    #[test]
    fn days() {
        assert_eq!((day(0).as_str(), day(20_779).as_str()), ("1970-01-01", "2026-11-22"));
    }
}
