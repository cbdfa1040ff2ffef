//! Scripts of questions and answers: `tests/scripts/*.slt`. A question is SQL up to `----`, the answer is CSV lines up to an empty
//! line, or `error <kind>`.

use crate::fixtures::{Fixture, shop};

async fn run(text: &str, fixture: &Fixture) {
    for case in text.split("\n\n").map(str::trim).filter(|case| !case.is_empty()) {
        let lines: Vec<&str> = case.lines().filter(|line| !line.starts_with('#')).collect();
        if lines.is_empty() {
            continue;
        }
        let case = lines.join("\n");
        let (sql, expect) = case.split_once("\n----").unwrap_or_else(|| panic!("no answer: {case}"));
        let expect = expect.trim_start_matches('\n');
        let answer = match fixture.ask(sql).await {
            Ok(lines) => lines.join("\n"),
            Err(error) => {
                let short = format!("error {}", error.kind().name());
                // An unexpected error is shown in full.
                if expect == short {
                    short
                } else {
                    format!("{short}: {error}")
                }
            }
        };
        assert_eq!(answer, expect, "{sql}");
    }
}

#[tokio::test]
async fn answers_over_the_shop() {
    let mut fixture = Fixture::new().await;
    let spans = shop();
    for part in spans.chunks(40) {
        fixture.commit(part).await;
    }
    run(include_str!("../scripts/shop.slt"), &fixture).await;
    // The same without the choice of files.
    fixture.engine.set_pruning(false);
    run(include_str!("../scripts/shop.slt"), &fixture).await;
}

#[tokio::test]
async fn answers_of_functions() {
    let fixture = Fixture::new().await;
    run(include_str!("../scripts/functions.slt"), &fixture).await;
}

#[tokio::test]
async fn answers_of_estimators() {
    let fixture = Fixture::new().await;
    run(include_str!("../scripts/estimators.slt"), &fixture).await;
}
