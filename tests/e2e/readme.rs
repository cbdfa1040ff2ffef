//! The README's promises that a test can hold: every command it shows exists, every file it names is there.

use std::path::Path;

use crate::harness::run;

const README: &str = include_str!("../../README.md");

#[test]
fn every_command_of_the_readme_is_known_and_has_an_example() {
    let mut seen = 0;
    for line in README.lines() {
        let Some(rest) = line.trim_start().strip_prefix("tailwater ") else {
            continue;
        };
        let verb = rest.split_whitespace().next().expect("a subcommand");
        let (code, out, err) = run(&[verb, "--help"]);
        assert_eq!(code, 0, "tailwater {verb} --help: {err}");
        assert!(out.contains("Example"), "tailwater {verb} --help has an example");
        seen += 1;
    }
    assert!(seen > 3, "the README shows how to use it");
}

#[test]
fn every_link_of_the_readme_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for link in README.split("](").skip(1) {
        let target = link.split(')').next().expect("a link has an end");
        assert!(root.join(target).exists(), "README links to {target}");
    }
}
