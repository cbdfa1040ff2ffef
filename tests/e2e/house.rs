//! House order: the arrows between crates as `ARCHITECTURE.md` draws them, one version of what must be one, and no setting that nobody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use tailwater_config::catalogue;

/// `crate: may use`. What is not listed is forbidden; the root package may use anything.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wal", &[]),
    ("config", &[]),
    ("openslo", &["config"]),
    ("journal", &["model"]),
    ("sampling", &["model", "config"]),
    ("red", &["sampling", "model", "config"]),
    ("promql", &["model", "config"]),
    ("slo", &["openslo", "model", "config"]),
    ("runtime", &["config"]),
    ("storage", &["model", "wal", "config", "runtime"]),
    (
        "collector",
        &[
            "journal", "red", "sampling", "openslo", "storage", "model", "wal", "runtime", "config",
        ],
    ),
    (
        "query",
        &["promql", "slo", "openslo", "storage", "model", "runtime", "config"],
    ),
];

/// Crates of which a second version would mean a second copy of every array, file format or connection.
const ONE_VERSION: &[&str] = &[
    "arrow",
    "arrow-array",
    "arrow-schema",
    "parquet",
    "datafusion",
    "object_store",
    "tonic",
    "prost",
    "deltalake-core",
];

/// Of this platform: a machine that has built the tests has what that takes, and nothing for others.
fn metadata() -> serde_json::Value {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&rustc.stdout);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .args(["--filter-platform", host.expect("rustc names its host")])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

#[test]
fn crates_use_only_what_the_architecture_draws() {
    let allowed: BTreeMap<String, BTreeSet<String>> = ARROWS
        .iter()
        .map(|(from, to)| {
            (
                format!("tailwater-{from}"),
                to.iter().map(|to| format!("tailwater-{to}")).collect(),
            )
        })
        .collect();
    let metadata = metadata();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        if !name.starts_with("tailwater-") {
            continue;
        }
        seen += 1;
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("{name} is not drawn in the architecture"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            // A dev-dependency builds tests only; it may point anywhere.
            if to.starts_with("tailwater-") && dependency["kind"].is_null() && !may.contains(to) {
                wrong.push(format!("{name} -> {to}"));
            }
        }
    }
    assert!(seen >= 9, "only {seen} crates found");
    assert!(wrong.is_empty(), "forbidden arrows: {wrong:#?}");
}

#[test]
fn what_must_be_one_version_is_one() {
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        if let Some(one) = ONE_VERSION.iter().find(|one| **one == name) {
            versions.entry(one).or_default().insert(package["version"].to_string());
        }
    }
    assert_eq!(
        versions.len(),
        ONE_VERSION.len(),
        "all of them are in the tree: {versions:?}"
    );
    let doubled: Vec<_> = versions.iter().filter(|(_, versions)| versions.len() > 1).collect();
    assert!(doubled.is_empty(), "more than one version of {doubled:?}");
}

/// Files of tokens and keys are given to a group, so the user has a name, and it is made.
#[test]
fn the_unit_runs_as_a_user_that_files_can_be_given_to() {
    let unit = include_str!("../../deploy/tailwater.service");
    let user = include_str!("../../deploy/tailwater.sysusers");
    let readme = include_str!("../../deploy/README.md");
    assert!(unit.contains("\nUser=tailwater\nGroup=tailwater\n") && !unit.contains("DynamicUser"));
    assert!(user.lines().any(|line| line.starts_with("u tailwater - ")));
    for part in [
        "systemd-sysusers",
        "-m 0640 -o root -g tailwater",
        "runuser -u tailwater",
    ] {
        assert!(readme.contains(part), "{part}");
    }
}

/// The kernel ends the query process; systemd's default would then end the unit, the collector with it.
#[test]
fn a_query_that_takes_all_memory_does_not_stop_the_unit() {
    let unit = include_str!("../../deploy/tailwater.service");
    let lines = |key: &str| unit.lines().filter(|line| line.starts_with(key)).collect::<Vec<_>>();
    assert_eq!(lines("MemoryMax=").len(), 1);
    assert_eq!(lines("OOMPolicy="), ["OOMPolicy=continue"]);
}

/// The unit is what systemd takes, whatever the program does.
#[test]
fn systemd_takes_the_unit() {
    let unit = include_str!("../../deploy/tailwater.service");
    let installed = "/usr/local/bin/tailwater";
    assert!(unit.contains(installed));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tailwater.service");
    std::fs::write(&path, unit.replace(installed, env!("CARGO_BIN_EXE_tailwater"))).unwrap();
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(
        verified.status.success() && !said.contains("tailwater.service:"),
        "{said}"
    );
}

/// Settings, by the end of their key, that the config crate itself turns into what others read, and the words by which they read it.
const WORKED_OUT: &[(&str, &str)] = &[
    ("tls.cert", "tls_of("),
    ("tls.key", "tls_of("),
    ("tls.client_ca", "tls_of("),
    ("intake.wire_body", "limits.wire_body_bytes"),
    ("intake.body", "limits.body_bytes"),
    ("intake.tenant_share", "limits.tenant_memory_bytes"),
    ("rate.bytes_per_sec", "Quotas::of("),
    ("rate.burst", "Quotas::of("),
    ("rate.points_per_sec", "Quotas::of("),
    ("rate.points_burst", "Quotas::of("),
    ("rate.series", "Quotas::of("),
    ("rate.live_traces", "Quotas::of("),
    ("storage.wal_dir", "wal_dir()"),
    ("storage.disk_reserve", "disk_reserve_bytes("),
    ("compact.max_files", "limits.merge_files_max"),
    ("compact.target_file", "limits.merged_bytes"),
    ("retention.red_10s", "keep.red_10s"),
    ("retention.edges_10s", "keep.edges_10s"),
    ("query.memory", "query_memory_bytes"),
    ("query.tenant_concurrency", "Quotas::of("),
];

/// It loosens a rule of the config crate, and that is all.
const FOR_CONFIG_ALONE: &str = "allow_insecure";

/// The code of a folder: without tests, comments and texts, and with no space before a dot.
fn code(folder: &Path, out: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !["tests", "target", "benches", "fuzz"].contains(&name) {
            code(&path, out);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
            for line in lines.filter(|line| !line.starts_with("//")) {
                if !line.starts_with('.') {
                    out.push('\n');
                }
                // Every other piece between quotes is a text; one that goes over lines turns this around for its own lines alone.
                out.extend(line.split('"').step_by(2));
            }
        }
    }
}

#[test]
fn every_setting_is_read_outside_of_the_config_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut read = String::new();
    for folder in ["src", "collector", "query", "storage", "config/runtime"] {
        code(&root.join(folder), &mut read);
    }
    let is_read = |words: &str| {
        read.match_indices(words).any(|(at, _)| {
            let part = |c: char| c.is_alphanumeric() || c == '_';
            let begins_before = words.starts_with(part) && read[..at].ends_with(part);
            let ends_behind = words.ends_with(part) && read[at + words.len()..].starts_with(part);
            !begins_before && !ends_behind
        })
    };
    let settings = catalogue();
    let unread: Vec<&str> = settings
        .iter()
        .filter(|setting| setting.default.is_some() && setting.key != FOR_CONFIG_ALONE)
        .map(|setting| setting.key.as_str())
        .filter(|key| {
            // `connections.idle`: a name alone would be found anywhere.
            let last_two = match key.rmatch_indices('.').nth(1) {
                Some((at, _)) => key[at + 1..].to_owned(),
                None if key.contains('.') => (*key).to_owned(),
                None => format!("config.{key}"),
            };
            let worked_out = WORKED_OUT.iter().find(|(end, _)| key.ends_with(*end));
            !is_read(worked_out.map_or(&last_two, |(_, words)| *words))
        })
        .collect();
    assert!(settings.len() > 100, "only {} settings", settings.len());
    assert!(unread.is_empty(), "settings that do nothing: {unread:#?}");
}
