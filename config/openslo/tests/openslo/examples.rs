//! The published examples of OpenSLO: what they say, which traps they have, and that formatting changes nothing.

use std::path::Path;

use tailwater_openslo::{fmt, lint, read, resolve, write};

use crate::{data, expect_file, files, name};

/// What is found in a file: lints, then problems between its documents (`!`).
fn check(folder: &str, path: &Path) -> String {
    let file = name(path);
    let text = std::fs::read_to_string(path).expect("an example");
    let reading = read(Path::new(&file), &text);
    assert_eq!(reading.problems, [], "{file} reads");
    let mut found = format!("\n==== {folder}/{file}\n");
    for lint in lint(&reading.documents) {
        found += &format!("{}: {}: {}\n", lint.origin, lint.path, lint.name);
    }
    for problem in resolve(&reading.documents).problems {
        found += &format!("! {problem}\n");
    }

    let written = fmt(Path::new(&file), &text).expect("formats");
    let again = read(Path::new(&file), &written);
    assert_eq!(again.documents, reading.documents, "{file}: {written}");
    assert_eq!(
        fmt(Path::new(&file), &written).as_deref(),
        Ok(written.as_str()),
        "{file}: twice is once"
    );
    let comments = |text: &str| text.matches("# ").count();
    assert_eq!(
        comments(&text),
        comments(&written),
        "{file}: no comment is lost\n{written}"
    );
    assert_eq!(
        read(Path::new(&file), &write(&again.documents)).documents,
        reading.documents
    );
    found
}

#[test]
fn traps_of_the_published_examples() {
    let mut found = String::from(
        "# Written by the test of `examples.rs` with UPDATE_EXPECT=1: lints, and problems between documents (!).\n",
    );
    for folder in ["openslo/budgeting", "openslo/examples"] {
        let Some(path) = data(folder) else { return };
        for file in files(&path) {
            found += &check(folder, &file);
        }
    }
    expect_file("examples.txt", &found);
}

/// With the names that the examples take for granted, they resolve. Nothing in them can be evaluated, and nothing is lost.
#[test]
fn together() {
    let Some(folder) = data("openslo/examples") else { return };
    let mut documents = Vec::new();
    for file in files(&folder) {
        let text = std::fs::read_to_string(&file).expect("an example");
        documents.extend(read(Path::new(&name(&file)), &text).documents);
    }
    let missing = "
apiVersion: openslo/v1
kind: DataSource
metadata: {name: my-datadog}
spec: {type: Datadog, connectionDetails: {}}
---
apiVersion: openslo/v1
kind: DataSource
metadata: {name: appdynamics}
spec: {type: AppDynamics, connectionDetails: {}}
---
apiVersion: openslo/v1
kind: DataSource
metadata: {name: my-prometheus}
spec: {type: Prometheus, connectionDetails: {}}
---
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata: {name: on-call-mail-notification}
spec: {target: email}
---
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata: {name: on-call-pd-notification}
spec: {target: pagerduty}
";
    documents.extend(read(Path::new("missing.yaml"), missing).documents);
    let resolved = resolve(&documents);
    let problems: Vec<_> = resolved.problems.iter().map(ToString::to_string).collect();
    // The one mistake that is left is theirs: two services of one name in one file.
    assert_eq!(
        problems,
        [
            "services.yaml:24:5: metadata.name: another Service is named `example-service`, at services.yaml:10:5: choose a name of its own"
        ]
    );
    assert_eq!(resolved.slos.len(), 1);
}
