//! Documents in, answers out. One binary; each module asks one question.

mod bad;
mod examples;
mod fmt;
mod meaning;
mod sloth;
mod versions;
use std::io::Write as _;

use std::path::PathBuf;

/// `../shared/data`, or what `$TAILWATER_TEST_DATA` names; says loudly when it is not there.
fn data(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("TAILWATER_TEST_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {} is not there (set TAILWATER_TEST_DATA)",
        path.display()
    );
    None
}

/// `*.yaml` and `*.yml` below a folder, sorted.
fn files(folder: &PathBuf) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// The last part of a path.
fn name(path: &std::path::Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// Compares with a file of this folder; `UPDATE_EXPECT=1` rewrites it, to be read before it is committed.
fn expect_file(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/openslo")
        .join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, found).expect("written");
        return;
    }
    let expected = std::fs::read_to_string(&path).expect("read");
    for (i, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(expected, found, "{name}:{} (UPDATE_EXPECT=1 rewrites it)", i + 1);
    }
    assert_eq!(expected.lines().count(), found.lines().count(), "{name}");
}
