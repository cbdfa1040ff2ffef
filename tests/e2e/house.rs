//! House order: the arrows between crates as `ARCHITECTURE.md` draws them, and one version of what must be one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::Command;

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
