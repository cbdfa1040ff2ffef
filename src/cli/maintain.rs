//! `tailwater maintain`: compaction, retention, checkpoints and clean-up of the tables.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use tailwater_config::settings::Retention;
use tailwater_config::{Config, Limits};
use tailwater_model::table::Table;
use tailwater_runtime::health::{Handle, Parts};
use tailwater_runtime::reload::{self, Part};
use tailwater_runtime::run_dir::{self, RunFile};
use tailwater_runtime::tls::{Speaks, Tls};
use tailwater_runtime::{Access, Admin, Exit, Metrics, Readiness, Shutdown};
use tailwater_storage::lake::Lake;
use tailwater_storage::maintain::{self, Observer, Policy, Report};
use tokio::sync::watch;

use super::Common;
use super::role::{self, Start};

/// Keep the tables small and fast. `run` starts this for you.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailwater maintain --data /var/lib/tailwater")]
pub struct MaintainArgs {}

/// Runs the role until it is told to stop.
///
/// # Errors
/// Bad settings, taken ports, a lake that another process maintains or that cannot be written.
pub fn run(_: &MaintainArgs, common: &Common) -> anyhow::Result<Exit> {
    let mut start = Start::new("maintain", common)?;
    let address = start.config.admin.maintain;
    let listener = start.bind("admin.maintain", address)?;
    let metrics = start.metrics();
    let config = start.config;
    role::runtime("maintain")?.block_on(async {
        let shutdown = Shutdown::install()?;
        run_dir::make_private(&config.data).with_context(|| config.data.display().to_string())?;
        let _lock = lock(&config.data)?;
        let lake = Lake::open(&role::lake_dir(&config))?;
        let readiness = Readiness::new();
        let tables = readiness.condition("tables");
        tables.not_ready("looking at the tables");
        let observer = observer(&metrics, tables.clone());
        let access = Access::open(&config, &metrics)?;
        let lock = config
            .tls_of("admin.maintain")
            .map(|files| Tls::open(files, Speaks::Both))
            .transpose()?;
        let mut parts = vec![Part::Access(access.clone())];
        parts.extend(lock.clone().map(|lock| Part::Tls("admin.maintain", lock)));
        let _reloading = reload::watch(parts, config.access.reload, &metrics)?;
        let admin = Admin::new("maintain", metrics, readiness)
            .guarded(access, lock)
            .spawn(listener)?;
        let _registered = RunFile::new("maintain", [("admin.maintain", admin.address())]).announce(&config.data);

        if !ensure_tables(&lake, &tables, &shutdown).await {
            return Ok(Exit::Ok);
        }
        let (stopper, stop) = watch::channel(false);
        let policies = config.clone();
        let policy = move |table| policy(&policies, &start.limits, table);
        let keeping = maintain::run(lake, policy, config.storage.compact.interval, stop, observer);
        let mut keeping = std::pin::pin!(keeping);
        tokio::select! {
            () = &mut keeping => return Ok(Exit::Trouble),
            () = shutdown.begun() => {}
        }
        stopper.send_replace(true);
        // A run that has begun is finished if it can be; one that is cut leaves files that the next sweep removes.
        shutdown.drain(config.drain_timeout, keeping).await;
        Ok(Exit::Ok)
    })
}

/// Makes the tables, or adds the columns they lack; tries until it works. False when told to stop before.
async fn ensure_tables(lake: &Lake, tables: &Handle, shutdown: &Shutdown) -> bool {
    /// Between two tries: a lake that cannot be written is not written sooner for being asked often.
    const PAUSE: Duration = Duration::from_secs(1);
    while let Err(error) = lake.ensure_tables().await {
        tracing::warn!(%error, "the tables cannot be made, trying again");
        tables.not_ready(error.to_string());
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.begun() => return false,
        }
    }
    tables.ready();
    true
}

/// The maintainer's lock on a data directory; released with the file.
///
/// # Errors
/// When another process holds it.
pub fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join("maintain.lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!("{} is maintained by another process", data.display()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// How long rows of a table are kept; `None` is for ever.
pub fn retention_of(retention: &Retention, table: Table) -> Option<Duration> {
    Some(match table {
        Table::Spans => retention.spans,
        Table::Traces => retention.traces,
        Table::Logs => retention.logs,
        Table::MetricPoints => retention.metric_points,
        Table::MetricDists => retention.metric_dists,
        Table::MetricSeries => retention.metric_series,
        Table::Red => retention.red,
        Table::Edges => retention.edges,
        Table::SamplingTicks => retention.sampling_ticks,
        Table::Red15m => retention.red_15m,
        Table::Red1h => retention.red_1h,
        // Its sums are the left side of `lake verify`.
        Table::Ledger => return None,
    })
}

/// How a table is kept, after the settings.
pub fn policy(config: &Config, limits: &Limits, table: Table) -> Policy {
    const DAY: u64 = 24 * 3600;
    let storage = &config.storage;
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let days = |kept: Duration| u32::try_from(kept.as_secs().div_ceil(DAY)).unwrap_or(u32::MAX);
    let target_bytes = limits.merged_bytes;
    let defaults = Policy::of(table);
    let keep = &storage.retention;
    let longer = [(Table::Red15m, keep.red_15m), (Table::Red1h, keep.red_1h)];
    let longer = longer
        .into_iter()
        .filter(|(_, kept)| table == Table::Red && *kept > keep.red);
    Policy {
        retention_days: retention_of(keep, table).map(days),
        kept_in: longer.map(|(table, kept)| (table, days(kept))).collect(),
        fold_after_ms: match table {
            Table::Red => Some(ms(keep.red_10s)),
            Table::Edges => Some(ms(keep.edges_10s)),
            _ => None,
        },
        target_bytes,
        // A file of half the target or more would only be copied. Both grow with the table.
        large_bytes: target_bytes / 2,
        // Where few fit into memory at once, so many are enough.
        merge_files_min: limits.merge_files_max.min(storage.compact.min_files as usize),
        merge_files_max: limits.merge_files_max,
        checkpoint_commits: storage.checkpoint_every.into(),
        log_retention_ms: ms(storage.log_retention),
        vacuum_after_ms: ms(storage.vacuum_after),
        reserve_bytes: disk_reserve(config),
        ..defaults
    }
}

/// Free bytes of the lake's disk that are left alone.
fn disk_reserve(config: &Config) -> u64 {
    let (all, _) = disk_bytes(config);
    config.disk_reserve_bytes(all)
}

/// Bytes of the lake's disk, and those that are free.
fn disk_bytes(config: &Config) -> (u64, u64) {
    // A directory that does not exist yet has nothing to merge either.
    rustix::fs::statvfs(&config.data).map_or((0, 0), |disk| {
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        (bytes(disk.f_blocks), bytes(disk.f_bavail))
    })
}

/// What a run has to say of merges that the disk has no room for.
pub fn waiting(config: &Config, report: &Report) -> Option<String> {
    let (all, free) = disk_bytes(config);
    (report.postponed > 0).then(|| {
        format!(
            "{} merges wait for room: the disk has {:.1} MB free, of which storage.disk_reserve keeps {:.1} MB",
            report.postponed,
            free as f64 / 1e6,
            config.disk_reserve_bytes(all) as f64 / 1e6
        )
    })
}

/// Counts what every run of every table did.
fn observer(metrics: &Metrics, tables: Handle) -> Observer {
    let files = metrics.gauges("tailwater_table_files", "active files of a table", ["table"]);
    let bytes = metrics.gauges(
        "tailwater_table_bytes",
        "bytes of the active files of a table",
        ["table"],
    );
    let waiting = metrics.gauges(
        "tailwater_merges_waiting",
        "merges that the disk has no room for beside storage.disk_reserve",
        ["table"],
    );
    let merged = metrics.counters("tailwater_merged_files", "files merged away", ["table"]);
    let written = metrics.counters("tailwater_merge_written_bytes", "bytes written by merges", ["table"]);
    let folded = metrics.counters(
        "tailwater_folded_rows",
        "rows of 10 s slices that became slices of a minute",
        ["table"],
    );
    let derived = metrics.counters(
        "tailwater_derived_days",
        "days of a derived table that were made or made anew",
        ["table"],
    );
    let expired = metrics.counters(
        "tailwater_expired_rows",
        "rows that outlived their retention",
        ["table"],
    );
    let unlinked = metrics.counters(
        "tailwater_unlinked_files",
        "data and log files removed from the disk",
        ["table"],
    );
    let tables = Parts::new(tables);
    let failures = metrics.counters("tailwater_maintain_failures", "runs that failed", ["table"]);
    Arc::new(move |table, outcome| {
        let label = [table.name()];
        match outcome {
            Ok(report) => {
                files.with(label).set(report.files as i64);
                bytes.with(label).set(report.bytes as i64);
                waiting.with(label).set(report.postponed as i64);
                merged.with(label).inc_by(report.merged_files);
                written.with(label).inc_by(report.written_bytes);
                expired.with(label).inc_by(report.expired_rows);
                folded.with(label).inc_by(report.folded_rows);
                derived.with(label).inc_by(report.derived_days);
                unlinked
                    .with(label)
                    .inc_by(report.vacuumed + report.orphans + report.log_files_removed);
                match unreadable(report) {
                    None => tables.works(table.name()),
                    Some(reason) => {
                        failures.with(label).inc();
                        tables.fails(table.name(), reason);
                    }
                }
            }
            Err(error) => {
                failures.with(label).inc();
                tables.fails(table.name(), error.to_string());
            }
        }
    })
}

/// What a run has to say of files that cannot be read.
pub fn unreadable(report: &Report) -> Option<String> {
    const TOLD_MAX: usize = 3;
    let reasons: BTreeSet<&str> = report.unreadable.iter().map(|(_, reason)| reason.as_str()).collect();
    let told: Vec<&str> = reasons.iter().copied().take(TOLD_MAX).collect();
    let more = match reasons.len() - told.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let advice = "restore what `tailwater lake verify` names; it is left alone and tried again every hour";
    (!told.is_empty()).then(|| format!("{}{more}; {advice}", told.join("; ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tailwater_config::Machine;
    use tailwater_storage::lake;

    use super::*;

    #[test]
    fn one_maintainer_a_directory() {
        let data = tempfile::tempdir().unwrap();
        let held = lock(data.path()).unwrap();
        assert!(lock(data.path()).unwrap_err().to_string().contains("another process"));
        drop(held);
        lock(data.path()).unwrap();
    }

    /// On a machine with room for all of it.
    fn policy_of(config: &Config, table: Table) -> Policy {
        let machine = Machine {
            memory_bytes: 64 << 30,
            cpus: 2,
            is_shared: false,
        };
        policy(config, &config.limits(machine).unwrap(), table)
    }

    #[test]
    fn settings_decide_the_policy() {
        let config = Config::of(&[
            ("storage.retention.logs", "36h"),
            ("storage.compact.target_file", "10MiB"),
            ("storage.vacuum_after", "30h"),
            ("storage.log_retention", "2h"),
            ("intake.caps.past", "36h"),
        ])
        .unwrap();
        let logs = policy_of(&config, Table::Logs);
        assert_eq!(
            (logs.retention_days, policy_of(&config, Table::Spans).retention_days),
            (Some(2), Some(30))
        );
        assert_eq!((logs.target_bytes, logs.large_bytes), (10 << 20, 5 << 20));
        assert_eq!((logs.vacuum_after_ms, logs.log_retention_ms), (108_000_000, 7_200_000));
    }

    /// What the storage relies on, whatever is set: else rows that were acked could be lost, without a word.
    #[test]
    fn no_setting_takes_files_or_log_entries_from_a_commit_under_way() {
        let range = |key: &str| {
            let setting = tailwater_config::catalogue()
                .into_iter()
                .find(|setting| setting.key == key);
            let (least, most) = setting.and_then(|setting| setting.range).unwrap();
            let as_set = |text: &str| {
                let config = Config::of(&[("storage.vacuum_after", "2d"), (key, text)]).unwrap();
                policy_of(&config, Table::Spans)
            };
            (as_set(least), as_set(most))
        };
        let ms = |duration: Duration| duration.as_millis() as i64;
        let (least, _) = range("storage.log_retention");
        assert!(least.log_retention_ms >= 2 * ms(lake::TAIL_AGE_MAX));
        let (least, most) = range("storage.vacuum_after");
        assert!(least.vacuum_after_ms >= 2 * ms(lake::PENDING_AGE_MAX));
        assert!(most.vacuum_after_ms <= ms(Duration::from_secs(24 * 3600 * lake::REMOVED_KEPT_DAYS)));
        // A query is over before the files it reads go.
        let (_, longest) = tailwater_config::catalogue()
            .into_iter()
            .find(|setting| setting.key == "query.timeout")
            .and_then(|setting| setting.range)
            .unwrap();
        let query = Config::of(&[("query.timeout", longest)]).unwrap().query.timeout;
        assert!(least.vacuum_after_ms > 2 * ms(query));
    }

    #[test]
    fn defaults_are_those_of_the_storage() {
        let config = Config::of(&[]).unwrap();
        for table in Table::ALL {
            let (ours, theirs) = (policy_of(&config, table), Policy::of(table));
            assert_eq!(ours.retention_days, theirs.retention_days, "{}", table.name());
            assert_eq!(ours.fold_after_ms, theirs.fold_after_ms, "{}", table.name());
            assert_eq!(ours.kept_in, theirs.kept_in, "{}", table.name());
        }
    }

    #[test]
    fn red_waits_for_what_is_kept_longer() {
        let config = Config::of(&[("storage.retention.red", "30d"), ("storage.retention.red_1h", "20d")]).unwrap();
        assert_eq!(policy_of(&config, Table::Red).kept_in, [(Table::Red15m, 100)]);
        assert_eq!(policy_of(&config, Table::Red1h).retention_days, Some(20));
    }

    #[test]
    fn files_that_cannot_be_read_are_named_and_counted() {
        let check = |reasons: &[&str], expected: Option<&str>| {
            let unreadable = reasons.iter().enumerate();
            let report = Report {
                unreadable: unreadable
                    .map(|(at, reason)| (at.to_string().into(), (*reason).to_owned()))
                    .collect(),
                ..Report::default()
            };
            let told = super::unreadable(&report);
            let told = told.as_deref().and_then(|told| told.split("; restore").next());
            assert_eq!(told, expected, "{reasons:?}");
        };
        check(&[], None);
        check(&["file a: gone"], Some("file a: gone"));
        check(&["merging gave 3", "merging gave 3"], Some("merging gave 3"));
        check(&["a", "b", "c", "d", "e"], Some("a; b; c; and 2 more"));
    }
}
