//! `tailwater config check|print|reference`.

use clap::{Args, Subcommand};
use tailwater_config::{Auto, Config, Machine, Size};
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
    ///
    /// Reads the files that settings name as well: run it as the user of the server, who may be allowed less than you.
    #[command(after_help = "Example:\n  tailwater config check --config /etc/tailwater.yaml")]
    Check,
    /// Show the settings in effect, where each came from, and what it comes to where that depends on the machine, whose memory the roles share
    /// as under `run`.
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
        What::Print => {
            let config = common.load()?;
            let disk = rustix::fs::statvfs(&config.data);
            let disk_bytes = disk.ok().map(|disk| disk.f_blocks.saturating_mul(disk.f_frsize));
            let settled = settled(&config, machine::probe_shared(), disk_bytes);
            print(&tailwater_config::annotated(&config, &settled))?;
        }
        What::Check => {
            let config = common.load()?;
            role::check(&config, machine::probe_shared())?;
            print("the configuration is good\n")?;
        }
    }
    Ok(Exit::Ok)
}

/// What settings come to here, where they do not say it themselves. A disk that is not there yet has no size.
fn settled(config: &Config, machine: Machine, disk_bytes: Option<u64>) -> Vec<(&'static str, String)> {
    const MIB: u64 = 1 << 20;
    let set = |size: &Auto<Size>| match size {
        Auto::Auto => None,
        Auto::Is(size) => Some(size.bytes()),
    };
    let mut settled = Vec::new();
    let note = |key, bytes: u64, says: Option<u64>| {
        // A share of a memory has odd bytes that nobody reads.
        let size = Size::bytes_of(if bytes < MIB { bytes } else { bytes / MIB * MIB });
        (says != Some(bytes)).then(|| (key, format!("{size} here")))
    };
    // Settings that do not fit this machine may well fit the one that they are for.
    if let Ok(limits) = config.limits(machine) {
        let (intake, storage) = (&config.intake, &config.storage);
        settled.extend(note("intake.memory", limits.intake_memory_bytes, set(&intake.memory)));
        for (key, bytes, says) in [
            ("intake.body", limits.body_bytes, intake.body),
            ("intake.wire_body", limits.wire_body_bytes, intake.wire_body),
            ("query.memory", limits.query_memory_bytes, config.query.memory),
            ("sampling.recent", limits.recent_bytes, config.sampling.recent),
            ("storage.batch.bytes", limits.batch_bytes, storage.batch.bytes),
            ("storage.commit.bytes", limits.commit_bytes, storage.commit.bytes),
            (
                "storage.compact.target_file",
                limits.merged_bytes,
                storage.compact.target_file,
            ),
        ] {
            settled.extend(note(key, bytes, Some(says.bytes())));
        }
        let files = limits.merge_files_max;
        if files != storage.compact.max_files as usize {
            settled.push(("storage.compact.max_files", format!("{files} here")));
        }
    }
    if let Some(disk_bytes) = disk_bytes {
        let reserve = &config.storage.disk_reserve;
        settled.extend(note(
            "storage.disk_reserve",
            config.disk_reserve_bytes(disk_bytes),
            set(reserve),
        ));
    }
    settled
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GIB: u64 = 1 << 30;

    fn notes(memory_bytes: u64, disk_bytes: Option<u64>, settings: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let machine = Machine {
            memory_bytes,
            cpus: 2,
            is_shared: false,
        };
        settled(&Config::of(settings).unwrap(), machine, disk_bytes)
    }

    #[test]
    fn what_depends_on_the_machine_is_told() {
        let told = |key, size: &str| (key, format!("{size} here"));
        let large = notes(64 * GIB + 1, Some(100 * GIB), &[]);
        assert_eq!(
            large,
            [told("intake.memory", "2GiB"), told("storage.disk_reserve", "5GiB")]
        );
        let small = [
            told("intake.memory", "64MiB"),
            told("intake.body", "10MiB"),
            told("intake.wire_body", "10MiB"),
            told("query.memory", "128MiB"),
            told("sampling.recent", "16MiB"),
            told("storage.batch.bytes", "2MiB"),
            told("storage.commit.bytes", "4MiB"),
            told("storage.compact.target_file", "32MiB"),
            told("storage.compact.max_files", "4"),
        ];
        assert_eq!(notes(GIB / 4 + 5, None, &[]), small);
        let settings = [("intake.memory", "512MiB"), ("storage.disk_reserve", "1GiB")];
        assert!(notes(64 * GIB, Some(100 * GIB), &settings).is_empty());
        let config = Config::of(&[]).unwrap();
        let page = tailwater_config::annotated(&config, &large);
        assert!(page.contains("  memory: auto  # 2GiB here\n"), "{page}");
    }
}
