//! The example requests of the OTLP specification. They live outside the repository.
use std::io::Write as _;

use std::path::{Path, PathBuf};

/// An example request, or `None`, said loudly, where there are none.
pub fn example(name: &str) -> Option<String> {
    let Some(folder) = folder() else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no OTLP example requests: set TAILWATER_TEST_DATA to the folder that holds otlp-json/{name}"
        );
        return None;
    };
    Some(std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn folder() -> Option<PathBuf> {
    if let Some(data) = std::env::var_os("TAILWATER_TEST_DATA") {
        return Some(Path::new(&data).join("otlp-json"));
    }
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    above
        .map(|folder| folder.join("shared/data/otlp-json"))
        .find(|folder| folder.is_dir())
}
